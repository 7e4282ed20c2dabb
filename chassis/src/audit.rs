//! Recording audit events: whoever does something appends a record to the audit stream, and has it on disk somewhere before the answer leaves.
//!
//! Records that arrive while a write is under way go into the next one together: one entry, one round trip (group commit). While Redis is away, or takes no
//! writes, they go to a spool on disk, one wait for the disk for all that wait, and from there to the stream later, in order. A write whose outcome is unknown is
//! written again; every record has an id, and the auditor keeps each id once.
//!
//! Who must not act without a record asks first, [`Recorder::reserve`]. Who refuses somebody says so to [`Denied`], which makes few records of many refusals.

mod denied;
mod gate;
mod metrics;
mod spool;
mod writer;

use gatehouse_proto::{audit, internal::v1::AuditRecord};
use tokio::sync::{mpsc, oneshot};

use crate::{Process, redis::Redis};
pub use denied::{Denied, Who};
use gate::Gate;
pub use gate::Place;
use metrics::SpoolMetrics;
use spool::Spool;
use writer::{Pending, QUEUE, Shelf, Writer};

/// The stream's key under the configured prefix.
pub const STREAM: &str = "audit";
/// The field that holds the encoded `AuditBatch`.
pub const FIELD: &str = "records";

/// Why a record is nowhere: neither in Redis nor on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit record could not be written")]
pub struct NotRecorded;

/// A new record of one event, happening now, with an id of its own.
#[must_use]
pub fn record(action_type: &str, action: &str, status: &str) -> AuditRecord {
    AuditRecord {
        id: uuid::Uuid::now_v7().to_string(),
        ts_us: jiff::Timestamp::now().as_microsecond(),
        action_type: action_type.to_owned(),
        action: action.to_owned(),
        status: status.to_owned(),
        event_count: 1,
        ..AuditRecord::default()
    }
}

/// Appends records. Clones share one writer, which ends, with everything written, when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Pending>,
    gate: Gate,
    metrics: SpoolMetrics,
}

impl Recorder {
    /// Opens the spool of this process and starts the writer. It may be tried again after an error.
    pub fn open(process: &Process, redis: Redis) -> anyhow::Result<Self> {
        let producer = format!("{}-{}", process.name(), process.instance());
        let (dir, component) = (process.shared().state_dir.join("spool"), process.name().to_owned());
        let capacity = process.shared().spool_max_bytes;
        let spool = Spool::open(&dir, &producer, capacity)?;
        let metrics = SpoolMetrics::new(process.metrics(), capacity);
        let gate = Gate::new(spool.room(), metrics.open.clone());
        gate.learn(spool.is_empty(), spool.room());
        metrics.spooled(spool.len(), None);
        let (queue, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            redis,
            spool: Shelf::new(spool),
            dir,
            component,
            producer,
            gate: gate.clone(),
            metrics: metrics.clone(),
            taking: true,
            oldest: None,
        };
        process.shutdown().spawn_sink("audit-writer", writer.run(receiver));
        Ok(Self { queue, gate, metrics })
    }

    /// A place for a record that will be written when something has been done, so that nothing is done whose record would be lost: the caller holds it
    /// until that write has returned. None when the trail can take no record now, or no more than it has promised already. It costs two atomic operations.
    ///
    /// What it goes by is what the writer found out last, and that is asked again all the time while the answer is no.
    pub fn reserve(&self) -> Result<Place, NotRecorded> {
        self.gate.reserve()
    }

    /// Whether the trail can take a record now, in Redis or on disk.
    #[must_use]
    pub fn takes_records(&self) -> bool {
        self.gate.is_open()
    }

    /// Resolves when the record is in Redis or on disk.
    pub async fn write(&self, mut record: AuditRecord) -> Result<(), NotRecorded> {
        audit::bound(&mut record);
        self.write_bounded(record).await
    }

    /// The same for a record whose texts have been bounded already, which must happen once.
    async fn write_bounded(&self, record: AuditRecord) -> Result<(), NotRecorded> {
        let (done, outcome) = oneshot::channel();
        self.queue.send(Pending { record, done: Some(done) }).await.map_err(|_| NotRecorded)?;
        outcome.await.unwrap_or(Err(NotRecorded))
    }

    /// Hands the record over without waiting; drops and counts it when the queue is full, or when what room there is was promised to others.
    pub fn try_write(&self, mut record: AuditRecord) {
        audit::bound(&mut record);
        if self.queue.try_send(Pending { record, done: None }).is_err() {
            self.metrics.count("dropped", 1);
        }
    }
}
