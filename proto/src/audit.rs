//! The audit chain: each record's hash covers the record, its place and the hash before it (CONTRACT.md §5).
//!
//! Every field is hashed as it is stored: optional ones with a byte for their presence, integers as 8 bytes, each item with its length. Nothing
//! is truncated or rounded between hashing and storing, so that the hash can be computed again from the row.

mod text;

use serde_json::{Map, Value, json};

use crate::{
    internal::v1::{AuditRecord, ChainedAuditRecord},
    keys::{hex, sha256},
    limits::MAX_ID_BYTES,
    signing::Items,
};

const PURPOSE: &str = "gateway.v1.audit";

/// Longest `user_agent` and `resource` that the trail keeps; producers cut longer ones before the record is hashed.
pub const MAX_TEXT_BYTES: usize = 512;

/// The place of the last record of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// 0 before the first record.
    pub seq: i64,
    /// Zeros before the first record.
    pub hash: [u8; 32],
}

/// An empty chain.
pub const GENESIS: Head = Head { seq: 0, hash: [0; 32] };

impl Head {
    /// Chains one record behind this head and moves the head on to it.
    pub fn append(&mut self, record: AuditRecord) -> ChainedAuditRecord {
        let seq = self.seq + 1;
        let hash = link(&self.hash, seq, &record);
        let chained = ChainedAuditRecord { record: Some(record), seq, prev_hash: self.hash.to_vec(), hash: hash.to_vec() };
        *self = Self { seq, hash };
        chained
    }

    /// Checks that `row` follows this head with an intact hash, and moves the head on to it.
    pub fn verify_next(&mut self, row: &ChainedAuditRecord) -> Result<(), Broken> {
        let broken = |reason| Broken { seq: self.seq + 1, reason };
        let record = row.record.as_ref().ok_or(broken("the record is missing"))?;
        if row.seq != self.seq + 1 {
            return Err(broken("a row is missing or stands twice"));
        }
        if row.prev_hash != self.hash {
            return Err(broken("prev_hash is not the hash of the row before"));
        }
        let hash = link(&self.hash, row.seq, record);
        if row.hash != hash {
            return Err(broken("the row does not match its hash"));
        }
        *self = Self { seq: row.seq, hash };
        Ok(())
    }
}

/// Where a chain breaks, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seq {seq}: {reason}")]
pub struct Broken {
    /// The first place whose row is not what was written.
    pub seq: i64,
    /// What is wrong there.
    pub reason: &'static str,
}

fn link(previous: &[u8; 32], seq: i64, record: &AuditRecord) -> [u8; 32] {
    let AuditRecord {
        id,
        ts_us,
        user_id,
        user_email,
        device_session_id,
        api_token_id,
        action_type,
        action,
        resource,
        resource_type,
        status,
        rbac_decision,
        http_status,
        grpc_code,
        latency_ms,
        ip_address,
        user_agent,
        request_id,
        event_count,
    } = record;
    let mut items = Items::new(PURPOSE).bytes(previous).i64(seq).text(id).i64(*ts_us);
    items = optional(items, user_id.as_deref());
    items = optional(items, user_email.as_deref());
    items = optional(items, device_session_id.as_deref());
    items = optional(items, api_token_id.as_deref());
    items = items.text(action_type).text(action);
    items = optional(items, resource.as_deref());
    items = optional(items, resource_type.as_deref());
    items = items.text(status);
    items = optional(items, rbac_decision.as_deref());
    items = optional_i64(items, http_status.map(i64::from));
    items = optional(items, grpc_code.as_deref());
    items = optional_i64(items, *latency_ms);
    items = optional(items, ip_address.as_deref());
    items = optional(items, user_agent.as_deref());
    items = optional(items, request_id.as_deref());
    sha256(&items.i64(i64::from(*event_count)).finish())
}

fn optional(items: Items, value: Option<&str>) -> Items {
    match value {
        Some(value) => items.bytes(&[1]).text(value),
        None => items.bytes(&[0]),
    }
}

fn optional_i64(items: Items, value: Option<i64>) -> Items {
    match value {
        Some(value) => items.bytes(&[1]).i64(value),
        None => items.bytes(&[0]),
    }
}

/// One line of the trail: the JSON object of CONTRACT.md §5. Absent fields are left out.
#[must_use]
pub fn json(row: &ChainedAuditRecord) -> Value {
    let Some(record) = &row.record else { return Value::Null };
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            line.insert(name.to_owned(), value);
        }
    };
    put("ts", timestamp(record.ts_us).into());
    put("id", json!(record.id));
    put("seq", json!(row.seq));
    put("user_email", json!(record.user_email));
    put("user_id", json!(record.user_id));
    put("device_session_id", json!(record.device_session_id));
    put("api_token_id", json!(record.api_token_id));
    put("action_type", json!(record.action_type));
    put("action", json!(record.action));
    put("resource", json!(record.resource));
    put("resource_type", json!(record.resource_type));
    put("status", json!(record.status));
    put("rbac_decision", json!(record.rbac_decision));
    put("http_status", json!(record.http_status));
    put("grpc_code", json!(record.grpc_code));
    put("latency_ms", json!(record.latency_ms));
    put("ip_address", json!(record.ip_address));
    put("user_agent", json!(record.user_agent));
    put("request_id", json!(record.request_id));
    put("event_count", json!(record.event_count));
    put("prev_hash", json!(hex(&row.prev_hash)));
    put("hash", json!(hex(&row.hash)));
    Value::Object(line)
}

/// RFC 3339 in UTC with microseconds.
#[must_use]
pub fn timestamp(ts_us: i64) -> String {
    jiff::Timestamp::from_microsecond(ts_us).map_or_else(|_| ts_us.to_string(), |at| format!("{at:.6}"))
}

/// Makes every text that a caller may choose what the trail keeps of it: no longer than its column, with NUL, which PostgreSQL cannot store, and other controls written
/// out. Texts that differ stay different. Producers call it once, before the record leaves them.
pub fn bound(record: &mut AuditRecord) {
    for (text, longest) in texts(record) {
        text::bound(text, longest);
    }
}

/// The same for a record of a foreign producer; one that a producer has bounded stays as it is.
pub fn bound_foreign(record: &mut AuditRecord) {
    if !texts(record).all(|(text, longest)| text::is_bound(text, longest)) {
        bound(record);
    }
}

/// How many bytes of a text's beginning the trail keeps whole in a `user_agent` or `resource`. The rest goes into another record.
#[must_use]
pub fn fitting(text: &str) -> usize {
    text::fitting(text, MAX_TEXT_BYTES)
}

/// Those that are there, with how long each may be.
fn texts(record: &mut AuditRecord) -> impl Iterator<Item = (&mut String, usize)> {
    let required = [&mut record.id, &mut record.action_type, &mut record.action, &mut record.status];
    let optional = [
        (&mut record.user_id, MAX_ID_BYTES),
        (&mut record.user_email, MAX_ID_BYTES * 2),
        (&mut record.device_session_id, MAX_ID_BYTES),
        (&mut record.api_token_id, MAX_ID_BYTES),
        (&mut record.resource, MAX_TEXT_BYTES),
        (&mut record.resource_type, MAX_ID_BYTES),
        (&mut record.rbac_decision, MAX_ID_BYTES),
        (&mut record.grpc_code, MAX_ID_BYTES),
        (&mut record.ip_address, MAX_ID_BYTES),
        (&mut record.user_agent, MAX_TEXT_BYTES),
        (&mut record.request_id, MAX_ID_BYTES),
    ];
    let optional = optional.into_iter().filter_map(|(text, longest)| text.as_mut().map(|text| (text, longest)));
    required.into_iter().map(|text| (text, MAX_ID_BYTES)).chain(optional)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(action: &str) -> AuditRecord {
        AuditRecord {
            id: "0199d3a0-0000-7000-8000-000000000001".into(),
            ts_us: 1_767_225_600_123_456,
            user_id: Some("u-1".into()),
            action_type: "command".into(),
            action: action.into(),
            status: "success".into(),
            grpc_code: Some("OK".into()),
            latency_ms: Some(3),
            event_count: 1,
            ..AuditRecord::default()
        }
    }

    fn chain(length: usize) -> Vec<ChainedAuditRecord> {
        let mut head = GENESIS;
        (0..length).map(|i| head.append(record(&format!("a.{i}")))).collect()
    }

    fn verify(rows: &[ChainedAuditRecord]) -> Result<(), Broken> {
        let mut head = GENESIS;
        rows.iter().try_for_each(|row| head.verify_next(row))
    }

    #[test]
    fn an_untouched_chain_verifies() {
        assert_eq!(verify(&chain(5)), Ok(()));
    }

    #[test]
    fn every_kind_of_tampering_is_found_at_its_place() {
        type Tamper = fn(&mut Vec<ChainedAuditRecord>);
        let cases: [(&str, i64, Tamper); 6] = [
            ("changed", 3, |rows| rows[2].record.as_mut().unwrap().status = "denied".into()),
            ("presence", 3, |rows| rows[2].record.as_mut().unwrap().resource = Some(String::new())),
            ("removed", 3, |rows| drop(rows.remove(2))),
            ("doubled", 4, |rows| rows.insert(3, rows[2].clone())),
            ("swapped", 2, |rows| rows.swap(1, 2)),
            ("rehashed alone", 4, |rows| {
                let mut head = Head { seq: 2, hash: rows[1].hash.clone().try_into().unwrap() };
                rows[2] = head.append(record("other"));
            }),
        ];
        for (name, seq, tamper) in cases {
            let mut rows = chain(5);
            tamper(&mut rows);
            assert_eq!(verify(&rows).unwrap_err().seq, seq, "{name}");
        }
    }

    #[test]
    fn the_json_line_has_the_contract_s_names_and_leaves_out_what_is_absent() {
        let line = json(&chain(1)[0]);
        assert_eq!(line["ts"], "2026-01-01T00:00:00.123456Z");
        assert_eq!((&line["seq"], &line["user_id"], &line["event_count"]), (&json!(1), &json!("u-1"), &json!(1)));
        assert_eq!(line["prev_hash"], "0".repeat(64));
        assert_eq!(line["hash"].as_str().map(str::len), Some(64));
        assert_eq!(line.get("user_email"), None);
    }

    #[test]
    fn texts_are_bounded_once_by_their_producer_and_those_of_foreign_ones_by_the_auditor() {
        let mut own =
            AuditRecord { user_agent: Some(format!("a\0\\{}", "é".repeat(600))), request_id: Some("r\\1".into()), ..record("a") };
        bound(&mut own);
        let kept = own.user_agent.clone().unwrap();
        assert!(kept.len() <= MAX_TEXT_BYTES && kept.starts_with("a\\u{0}\\\\é"), "{kept}");
        let once = own.clone();
        bound_foreign(&mut own);
        assert_eq!(own, once);
        let mut foreign = AuditRecord { action: "a\u{1b}".into(), ..record("a") };
        bound_foreign(&mut foreign);
        assert_eq!(foreign.action, "a\\u{1b}");
    }

    proptest! {
        #[test]
        fn records_that_differ_in_two_neighbouring_texts_differ_in_their_hash(a in any::<(Option<String>, Option<String>)>(), b in any::<(Option<String>, Option<String>)>()) {
            let hash = |(user, email): &(Option<String>, Option<String>)| link(&[0; 32], 1, &AuditRecord { user_id: user.clone(), user_email: email.clone(), ..record("a") });
            prop_assert_eq!(hash(&a) == hash(&b), a == b);
        }
    }
}
