//! Recording audit events: whoever does something appends a record to the audit stream, and has it on disk somewhere before the answer leaves.
//!
//! Records that arrive while a write is under way go into the next one together: one entry, one round trip (group commit). While Redis is away
//! they go to a [`Spool`] on disk and from there to the stream later, in order. A write whose outcome is unknown is written again; every
//! record has an id, and the auditor keeps each id once.

mod spool;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gatehouse_proto::{
    audit,
    internal::v1::{AuditBatch, AuditRecord},
};
use prometheus::{IntCounterVec, IntGauge};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    Process,
    backoff::Backoff,
    redis::{Redis, RedisError, cmd},
};
use spool::Spool;

/// Records that one entry of the stream holds at most.
const GROUP: usize = 256;
/// Records that wait for a write before producers wait too.
const QUEUE: usize = 4096;

/// Between two looks for what others of the component left.
const SWEEP: Duration = Duration::from_secs(5);

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

struct Pending {
    record: AuditRecord,
    done: Option<oneshot::Sender<Result<(), NotRecorded>>>,
}

/// Appends records. Clones share one writer, which ends, with everything written, when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Pending>,
    outcomes: IntCounterVec,
}

impl Recorder {
    /// Opens the spool of this process and starts the writer. It may be tried again after an error.
    pub fn open(process: &Process, redis: Redis) -> anyhow::Result<Self> {
        let producer = format!("{}-{}", process.name(), process.instance());
        let (dir, component) = (process.shared().state_dir.join("spool"), process.name().to_owned());
        let spool = Spool::open(&dir, &producer, process.shared().spool_max_bytes)?;
        let metrics = process.metrics();
        let outcomes = metrics.counters(
            "audit_records_total",
            "Audit records of this process: written to the stream, spooled to disk, replayed from there, dropped (best effort), lost.",
            &["outcome"],
        );
        let spooled = metrics.gauge("audit_spool_bytes", "Audit records on disk that wait for Redis.");
        let (queue, receiver) = mpsc::channel(QUEUE);
        spooled.set(i64::try_from(spool.len()).unwrap_or(i64::MAX));
        let writer = Writer { redis, spool: Shelf::new(spool), dir, component, producer, outcomes: outcomes.clone(), spooled, away: false };
        process.shutdown().spawn_sink("audit-writer", writer.run(receiver));
        Ok(Self { queue, outcomes })
    }

    /// Resolves when the record is in Redis or on disk.
    pub async fn write(&self, record: AuditRecord) -> Result<(), NotRecorded> {
        let (done, outcome) = oneshot::channel();
        self.queue.send(Pending { record, done: Some(done) }).await.map_err(|_| NotRecorded)?;
        outcome.await.unwrap_or(Err(NotRecorded))
    }

    /// Hands the record over without waiting; drops and counts it when the queue is full.
    pub fn try_write(&self, record: AuditRecord) {
        if self.queue.try_send(Pending { record, done: None }).is_err() {
            self.outcomes.with_label_values(&["dropped"]).inc();
        }
    }
}

/// The spool, where a slow disk holds up nobody but the writer: the supervisor's one thread has children to look after meanwhile. The writer waits for each
/// call, so that order and durability are the spool's own.
#[derive(Clone)]
struct Shelf(Arc<Mutex<Spool>>);

impl Shelf {
    fn new(spool: Spool) -> Self {
        Self(Arc::new(Mutex::new(spool)))
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn len(&self) -> u64 {
        self.lock().len()
    }

    /// Never waits: the writer has no second call under way.
    fn lock(&self) -> MutexGuard<'_, Spool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On a thread that may wait for the disk.
    async fn with<T: Send + 'static>(&self, act: impl FnOnce(&mut Spool) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || act(&mut this.lock())).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

struct Writer {
    redis: Redis,
    spool: Shelf,
    dir: PathBuf,
    component: String,
    producer: String,
    outcomes: IntCounterVec,
    spooled: IntGauge,
    away: bool,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Pending>) {
        let mut group = Vec::with_capacity(GROUP);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut retry_at = Instant::now();
        let mut sweep_at = retry_at + SWEEP;
        loop {
            tokio::select! {
                // Spooled records go first: a record never overtakes another of its producer.
                () = sleep_until(retry_at), if !self.spool.is_empty() => {
                    match self.replay().await {
                        Ok(()) => backoff.reset(),
                        Err(error) => tracing::debug!(%error, "the audit spool waits for Redis"),
                    }
                    retry_at = Instant::now() + backoff.next_delay();
                }
                () = sleep_until(sweep_at) => {
                    self.sweep().await;
                    sweep_at = Instant::now() + SWEEP;
                }
                received = queue.recv_many(&mut group, GROUP) => {
                    if received == 0 {
                        break;
                    }
                    self.write(&mut group).await;
                }
            }
        }
        if !self.spool.is_empty() && self.replay().await.is_err() {
            tracing::warn!(bytes = self.spool.len(), "audit records stay in the spool until the next start");
        }
    }

    async fn write(&mut self, group: &mut Vec<Pending>) {
        let (mut records, mut waiting) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for Pending { mut record, done } in group.drain(..) {
            audit::bound(&mut record);
            records.push(record);
            waiting.extend(done);
        }
        let count = records.len() as u64;
        let batch = AuditBatch { records }.encode_to_vec();
        let outcome = self.append(batch).await;
        self.outcomes.with_label_values(&[outcome.unwrap_or("lost")]).inc_by(count);
        for done in waiting {
            // A producer that no longer waits has no answer to hold back.
            let _gone = done.send(outcome.map(|_| ()).map_err(|()| NotRecorded));
        }
    }

    async fn append(&mut self, batch: Vec<u8>) -> Result<&'static str, ()> {
        if self.spool.is_empty() {
            match self.add(&batch).await {
                Ok(()) => return Ok("written"),
                Err(error) => self.went_away(&error),
            }
        }
        let spooled = self.spool.with(move |spool| spool.append(&batch)).await;
        self.spooled.set(i64::try_from(self.spool.len()).unwrap_or(i64::MAX));
        spooled
            .map(|()| "spooled")
            .map_err(|error| tracing::error!(%error, "audit records can be written neither to Redis nor to the spool"))
    }

    /// Takes in what a process of the component that ended after our start could not hand over: nobody else would before the next start.
    async fn sweep(&self) {
        let (dir, component) = (self.dir.clone(), self.component.clone());
        if let Err(error) = self.spool.with(move |spool| spool.sweep(&dir, &component)).await {
            tracing::debug!(%error, "what others left in their audit spools cannot be taken in now");
        }
        self.spooled.set(i64::try_from(self.spool.len()).unwrap_or(i64::MAX));
    }

    async fn replay(&mut self) -> Result<(), anyhow::Error> {
        while let Some(batch) = self.spool.with(|spool| spool.front()).await? {
            self.add(&batch).await?;
            self.spool.with(Spool::pop_front).await?;
            let records = AuditBatch::decode(batch.as_slice()).map_or(0, |batch| batch.records.len());
            self.outcomes.with_label_values(&["replayed"]).inc_by(records as u64);
        }
        self.spool.with(Spool::clear).await?;
        self.spooled.set(0);
        if std::mem::take(&mut self.away) {
            tracing::info!("Redis is back; the audit spool is empty");
        }
        Ok(())
    }

    async fn add(&self, batch: &[u8]) -> Result<(), RedisError> {
        let stream = self.redis.key(STREAM);
        let added: Result<String, _> =
            self.redis.run(cmd("XADD").arg(stream).arg("*").arg(FIELD).arg(batch).arg("producer").arg(&self.producer)).await;
        added.map(|_| ())
    }

    fn went_away(&mut self, error: &RedisError) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(%error, "audit records go to the spool");
        }
    }
}
