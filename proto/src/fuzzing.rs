//! What must hold of every parser of outside bytes, whatever the bytes: it does not panic, and what it accepts means one thing.
//!
//! The fuzz targets in `fuzz/` call these functions, and so do the tests below, with fewer bytes and in every run.
#![allow(clippy::missing_panics_doc, reason = "to panic is how these functions say that something is wrong")]

use prost::Message;

use crate::{
    audit::{self, GENESIS},
    gateway::v1::{ExecuteCommandRequest, GatewayEvent, SubscribeEventsRequest},
    ids::StreamId,
    internal::v1::AuditBatch,
    keys::{PublicKey, Signer},
    limits::{MAX_CURSOR_BYTES, MAX_ID_BYTES, MAX_PAYLOAD_BYTES},
    merkle, raw,
    session::SessionSnapshot,
    signing,
    stream::ClientEvent,
};

/// The envelope of a command: decoded, its signing input built, its signature looked at.
pub fn command(bytes: &[u8]) {
    let Some(request) = message::<ExecuteCommandRequest>(bytes) else { return };
    let input = signing::command(&request);
    assert!(input.len() >= signing::PROTOCOL_VERSION.len());
    assert!(!signer().public_key().verifies(&input, &request.signature), "nobody has signed this");
}

/// The envelope of a subscribe.
pub fn subscribe(bytes: &[u8]) {
    let Some(request) = message::<SubscribeEventsRequest>(bytes) else { return };
    assert!(!signing::subscribe(&request).is_empty());
    cursor(request.last_event_id.as_bytes());
}

/// An event as a client and the edge see it: decoded whole, or its id alone.
pub fn event(bytes: &[u8]) {
    let _id = raw::peek_event_id(bytes);
    let Some(event) = message::<GatewayEvent>(bytes) else { return };
    let encoded = event.encode_to_vec();
    if (1..=MAX_CURSOR_BYTES).contains(&event.event_id.len()) {
        assert_eq!(raw::peek_event_id(&encoded), Some(event.event_id.as_str()));
    }
    let path: Vec<merkle::Hash> = event.signature_path.iter().filter_map(|hash| hash[..].try_into().ok()).collect();
    let leaf = merkle::leaf(&signing::event(&event));
    let _root = merkle::implied_root(&leaf, event.signature_index, event.signature_leaves, &path);
}

/// A session as JSON.
pub fn session_json(bytes: &[u8]) {
    if let Ok(snapshot) = SessionSnapshot::from_json(bytes) {
        assert_eq!(SessionSnapshot::from_json(snapshot.to_json().as_bytes()).as_ref(), Ok(&snapshot));
        same_session(&snapshot);
    }
}

/// A session as the fields of a stream entry.
pub fn session_fields(bytes: &[u8]) {
    const NAMES: [&str; 6] = ["device_session_id", "user_id", "public_key", "status", "updated_at_ms", "revoked_at_ms"];
    if let Ok(snapshot) = SessionSnapshot::from_fields(fields(bytes, NAMES)) {
        same_session(&snapshot);
        let _key = PublicKey::from_base64(&snapshot.public_key);
    }
}

fn same_session(snapshot: &SessionSnapshot) {
    let fields = snapshot.to_fields();
    let again = SessionSnapshot::from_fields(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    assert_eq!(again.as_ref(), Ok(snapshot));
    assert!(!snapshot.supersedes(snapshot));
}

/// A client event as the fields of a stream entry.
pub fn client_event(bytes: &[u8]) {
    const NAMES: [&str; 6] = ["user_id", "device_session_id", "event_type", "payload_bytes", "request_id", "traceparent"];
    let Ok(event) = ClientEvent::from_fields(fields(bytes, NAMES)) else { return };
    assert!((1..=MAX_ID_BYTES).contains(&event.user_id.len()) && event.payload.len() <= MAX_PAYLOAD_BYTES);
    let sealed = event.seal(StreamId { ms: 1, seq: 2 }, &signer());
    assert!(signer().public_key().verifies(&signing::event(&sealed), &sealed.signature));
}

/// A cursor: whatever is one is written in one way.
pub fn cursor(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(id) = text.parse::<StreamId>() {
        assert_eq!(id.to_string(), text);
        assert!(id.previous() <= id && id <= id.next());
    }
}

/// An entry of the audit stream, up to its rows.
pub fn audit_batch(bytes: &[u8]) {
    let Some(batch) = message::<AuditBatch>(bytes) else { return };
    let (mut written, mut verified) = (GENESIS, GENESIS);
    for mut record in batch.records {
        audit::bound(&mut record);
        let row = written.append(record);
        assert_eq!(verified.verify_next(&row), Ok(()));
        assert!(audit::json(&row).is_object());
    }
}

/// Keys and signatures.
pub fn key(bytes: &[u8]) {
    if let Some((raw, rest)) = bytes.split_at_checked(32)
        && let Ok(key) = PublicKey::from_bytes(raw)
    {
        assert_eq!(PublicKey::from_base64(&key.to_base64()).as_ref(), Ok(&key));
        let (signature, message) = rest.split_at(rest.len().min(64));
        let _verified = key.verifies(message, signature);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let _key = PublicKey::from_base64(text);
        if let Ok(signer) = Signer::from_pkcs8_pem(text) {
            assert!(signer.public_key().verifies(b"m", &signer.sign(b"m")));
        }
    }
}

/// What can be decoded is the same when it was encoded again.
fn message<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    assert!(M::decode(message.encode_to_vec().as_slice()).is_ok_and(|again| again == message));
    Some(message)
}

/// Fields that are divided by the byte `0xfe`; the first byte of each chooses its name.
fn fields<'a>(bytes: &'a [u8], names: [&'static str; 6]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    bytes.split(|byte| *byte == 0xfe).filter_map(move |field| {
        let (first, value) = field.split_first()?;
        Some((names.get(usize::from(*first % 8)).copied().unwrap_or("other").as_bytes(), value))
    })
}

fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::Value;

    use super::*;

    const ALL: [fn(&[u8]); 9] = [command, subscribe, event, session_json, session_fields, client_event, cursor, audit_batch, key];

    /// What the contract's examples hold: envelopes, keys, signatures and texts.
    fn seeds() -> Vec<Vec<u8>> {
        fn texts(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::String(text) => found.push(text.clone()),
                Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
                Value::Object(values) => values.values().for_each(|value| texts(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        texts(&serde_json::from_str(include_str!("../tests/vectors.json")).unwrap(), &mut found);
        let unhex = |text: &String| -> Option<Vec<u8>> {
            let digits = text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
            digits.collect()
        };
        let mut seeds: Vec<_> = found.iter().filter_map(unhex).collect();
        let command = ExecuteCommandRequest { protocol_version: "v1".into(), device_session_id: "ds-1".into(), ..Default::default() };
        let record = crate::internal::v1::AuditRecord { action: "a".into(), event_count: 1, ..Default::default() };
        seeds.push(command.encode_to_vec());
        seeds.push(AuditBatch { records: vec![record.clone(), record] }.encode_to_vec());
        seeds.push(b"\x00ds-1\xfe\x01u-1\xfe\x02AA==\xfe\x03active\xfe\x04-5".to_vec());
        seeds.push(b"\x00u-1\xfe\x02t\xfe\x03\x00\xff".to_vec());
        seeds.push(
            br#"{"device_session_id":"a","user_id":"b","public_key":"","status":"revoked","updated_at_ms":1,"revoked_at_ms":2}"#.to_vec(),
        );
        seeds.extend(found.into_iter().map(String::into_bytes));
        seeds
    }

    #[test]
    fn the_examples_and_everything_near_them_is_parsed_or_refused() {
        for seed in seeds() {
            for parse in ALL {
                parse(&seed);
                for cut in 0..seed.len() {
                    parse(&seed[..cut]);
                    let mut turned = seed.clone();
                    turned[cut] ^= 1 << (cut % 8);
                    parse(&turned);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in vec(any::<u8>(), 0..300), text in "[0-9a-zA-Z{}\",:=+/ -]{0,80}") {
            for parse in ALL {
                parse(&bytes);
                parse(text.as_bytes());
            }
        }
    }
}
