//! Stream entries, decoded. Pure: what is malformed comes back as a cause, not as a failure.

use gatehouse_chassis::{audit::FIELD, redis::Entry};
use gatehouse_proto::{
    audit::bound_foreign,
    ids::StreamId,
    internal::v1::{AuditBatch, AuditRecord},
};
use prost::Message as _;
use uuid::Uuid;

/// Why an entry, or a record of one, was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The entry has no field of records; also when it was deleted while it was pending.
    Field,
    /// The field is no `AuditBatch`.
    Encoding,
    /// A record's id is no UUID: a repeat of it could not be known.
    Id,
}

impl Malformed {
    /// A bounded word for a log field.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Field => "no_records_field",
            Self::Encoding => "not_an_audit_batch",
            Self::Id => "id_is_no_uuid",
        }
    }
}

/// What goes into one transaction, and which entries it came from.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order of the stream, bounded as the trail keeps them.
    pub records: Vec<AuditRecord>,
    /// Every entry of it, malformed ones as well; oldest first.
    pub entries: Vec<StreamId>,
    /// Where and why something was skipped.
    pub malformed: Vec<(StreamId, Malformed)>,
}

impl Batch {
    /// Decodes entries into batches of about `size` records; an entry is never split.
    #[must_use]
    pub fn decode(entries: &[Entry], size: usize) -> Vec<Self> {
        let mut batches = vec![Self::default()];
        for entry in entries {
            if let Some(batch) = batches.last_mut() {
                batch.add(entry);
                if batch.records.len() >= size {
                    batches.push(Self::default());
                }
            }
        }
        batches.retain(|batch| !batch.entries.is_empty());
        batches
    }

    fn add(&mut self, entry: &Entry) {
        self.entries.push(entry.id);
        match records(entry) {
            Ok(records) => {
                for mut record in records {
                    bound_foreign(&mut record);
                    match Uuid::try_parse(&record.id) {
                        // One form for each id, so that a repeat in another form is known as one.
                        Ok(id) => self.records.push(AuditRecord { id: id.to_string(), ..record }),
                        Err(_) => self.malformed.push((entry.id, Malformed::Id)),
                    }
                }
            }
            Err(malformed) => self.malformed.push((entry.id, malformed)),
        }
    }
}

fn records(entry: &Entry) -> Result<Vec<AuditRecord>, Malformed> {
    let (_, encoded) = entry.fields().find(|(name, _)| *name == FIELD.as_bytes()).ok_or(Malformed::Field)?;
    Ok(AuditBatch::decode(encoded).map_err(|_| Malformed::Encoding)?.records)
}

#[cfg(test)]
mod tests {
    use gatehouse_chassis::audit::record;

    use super::*;

    fn entry(ms: u64, fields: &[(&[u8], Vec<u8>)]) -> Entry {
        let fields = fields.iter().map(|(name, value)| (name.to_vec().into(), value.clone().into())).collect();
        Entry { id: StreamId { ms, seq: 0 }, fields }
    }

    fn encoded(records: Vec<AuditRecord>) -> Vec<u8> {
        AuditBatch { records }.encode_to_vec()
    }

    #[test]
    fn malformed_entries_and_records_are_named_and_the_rest_goes_on() {
        let whole = record("admin", "session.create", "success");
        let nameless = AuditRecord { id: "7".into(), ..whole.clone() };
        let shouted = AuditRecord { id: whole.id.to_uppercase(), ..whole.clone() };
        let entries = [
            entry(1, &[]),
            entry(2, &[(b"record", encoded(vec![whole.clone()]))]),
            entry(3, &[(b"records", b"\xff\xff\xff".to_vec())]),
            entry(4, &[(b"producer", b"\xfe".to_vec()), (b"records", encoded(vec![nameless, shouted]))]),
        ];
        let batches = Batch::decode(&entries, 100);
        assert_eq!(batches.len(), 1);
        let causes: Vec<_> = batches[0].malformed.iter().map(|(id, cause)| (id.ms, *cause)).collect();
        assert_eq!(causes, [(1, Malformed::Field), (2, Malformed::Field), (3, Malformed::Encoding), (4, Malformed::Id)]);
        assert_eq!(batches[0].records, [whole]);
        assert_eq!(batches[0].entries.len(), 4);
    }

    #[test]
    fn entries_are_gathered_up_to_the_size_and_never_split() {
        let entries: Vec<_> = [3, 1, 5, 1]
            .iter()
            .zip(1..)
            .map(|(&n, ms)| entry(ms, &[(b"records", encoded(vec![record("http", "a", "success"); n]))]))
            .collect();
        let sizes: Vec<_> = Batch::decode(&entries, 4).iter().map(|batch| batch.records.len()).collect();
        assert_eq!(sizes, [4, 5, 1]);
    }
}
