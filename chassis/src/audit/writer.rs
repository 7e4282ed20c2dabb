//! The task behind a [`Recorder`](super::Recorder): one owner of spool and stream, so that a record never overtakes another of its producer.
//!
//! ```text
//!             ┌──────────── Redis takes it, nothing waits ─────────────┐
//! queue ──▶ group ──▶ XADD ──────────────────────────────────────────▶ acknowledged
//!             │         └─ fails ─▶ spool, fdatasync ─────────────────▶ acknowledged
//!             └─ the spool holds records ─▶ spool ─────────────────────▶ acknowledged
//!                                            │ step: the oldest MiB in one MULTI
//!                                            ▼   while groups go on being appended
//!                                           XADD…, until what is left fits into one step: that one is waited for
//! ```

use std::{
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gatehouse_proto::internal::v1::{AuditBatch, AuditRecord};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    FIELD, NotRecorded, STREAM,
    gate::{Gate, PLACE},
    metrics::SpoolMetrics,
    spool::Spool,
};
use crate::{
    backoff::Backoff,
    redis::{Cmd, Redis, RedisError, cmd, pipe},
};

/// Records that one entry of the stream holds at most.
const GROUP: usize = 256;
/// Records that one wait for the disk covers at most.
pub(super) const QUEUE: usize = 4096;
/// Bytes of the spool that go to Redis in one round trip.
const STEP: u64 = 1 << 20;
/// Between two looks for what others of the component left.
const SWEEP: Duration = Duration::from_secs(5);
/// Between two tries while Redis is away or the disk is full. Who is refused meanwhile waits no longer than that for the end of it.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// One record, and who waits for it.
pub(super) struct Pending {
    pub(super) record: AuditRecord,
    pub(super) done: Option<oneshot::Sender<Result<(), NotRecorded>>>,
}

/// The spool, where a slow disk holds up nobody but the writer: the supervisor's one thread has children to look after meanwhile. The writer waits for each
/// call, so that order and durability are the spool's own.
#[derive(Clone)]
pub(super) struct Shelf(Arc<Mutex<Spool>>);

impl Shelf {
    pub(super) fn new(spool: Spool) -> Self {
        Self(Arc::new(Mutex::new(spool)))
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
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

/// Records of the spool on their way to Redis; or none, which asks whether it takes any.
struct Step {
    outcome: Pin<Box<dyn Future<Output = Result<(), RedisError>> + Send>>,
    bytes: u64,
    records: u64,
}

pub(super) struct Writer {
    pub(super) redis: Redis,
    pub(super) spool: Shelf,
    pub(super) dir: PathBuf,
    pub(super) component: String,
    pub(super) producer: String,
    pub(super) gate: Gate,
    pub(super) metrics: SpoolMetrics,
    /// Redis took the last write.
    pub(super) taking: bool,
    /// When the oldest record of the spool happened, if it is known, in microseconds since 1970.
    pub(super) oldest: Option<i64>,
}

impl Writer {
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Pending>) {
        let mut group = Vec::with_capacity(GROUP);
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut retry_at = Instant::now();
        let mut sweep_at = retry_at + SWEEP;
        let (mut step, mut last): (Option<Step>, bool) = (None, false);
        self.tell().await;
        loop {
            tokio::select! {
                biased;
                outcome = outcome(&mut step) => match self.end_step(step.take(), outcome).await {
                    Ok(()) => {
                        backoff.reset();
                        // Records that come while the last step is under way wait for it, or there might be a last one for ever.
                        last = (1..=STEP).contains(&self.spool.lock().len());
                        retry_at = Instant::now();
                    }
                    Err(error) => {
                        tracing::debug!(error = &*error, "the audit spool waits for Redis");
                        last = false;
                        retry_at = Instant::now() + backoff.next_delay();
                    }
                },
                () = sleep_until(retry_at), if step.is_none() && !self.gate.is_direct() => match self.begin_step().await {
                    Ok(begun) => step = Some(begun),
                    Err(error) => {
                        tracing::error!(%error, "the audit spool cannot be read");
                        last = false;
                        retry_at = Instant::now() + backoff.next_delay();
                    }
                },
                () = sleep_until(sweep_at), if step.is_none() => {
                    self.sweep().await;
                    sweep_at = Instant::now() + SWEEP;
                }
                received = queue.recv_many(&mut group, QUEUE), if !(last && step.is_some()) => {
                    if received == 0 {
                        break;
                    }
                    let was_direct = self.gate.is_direct();
                    self.write(&mut group).await;
                    if was_direct && !self.gate.is_direct() {
                        retry_at = Instant::now() + backoff.next_delay();
                    }
                }
            }
        }
        self.finish(step).await;
    }

    /// Hands over what it can before the process ends.
    async fn finish(&mut self, mut step: Option<Step>) {
        loop {
            let ended = match step.take() {
                Some(mut under_way) => {
                    let outcome = under_way.outcome.as_mut().await;
                    self.end_step(Some(under_way), outcome).await
                }
                None => Ok(()),
            };
            if self.spool.is_empty() {
                return;
            }
            match ended {
                Ok(()) => match self.begin_step().await {
                    Ok(begun) => step = Some(begun),
                    Err(error) => return tracing::error!(%error, "the audit spool cannot be read"),
                },
                Err(error) => {
                    let bytes = self.spool.lock().len();
                    return tracing::warn!(error = &*error, bytes, "audit records stay in the spool until the next start");
                }
            }
        }
    }

    async fn write(&mut self, group: &mut Vec<Pending>) {
        if !self.gate.is_direct() {
            self.make_way(group);
        }
        let count = group.len() as u64;
        let (mut batches, mut waiting) = (Vec::new(), Vec::with_capacity(group.len()));
        let mut pending = group.drain(..).peekable();
        while pending.peek().is_some() {
            let mut records = Vec::with_capacity(GROUP.min(pending.len()));
            for Pending { record, done } in pending.by_ref().take(GROUP) {
                waiting.extend(done);
                records.push(record);
            }
            batches.push(AuditBatch { records }.encode_to_vec());
        }
        let outcome = self.append(batches).await;
        self.metrics.count(outcome.unwrap_or("lost"), count);
        for done in waiting {
            // A producer that no longer waits has no answer to hold back.
            let _gone = done.send(outcome.map(|_| ()).map_err(|()| NotRecorded));
        }
    }

    /// While the spool is all there is, what nobody waits for leaves the room that others were promised.
    fn make_way(&self, group: &mut Vec<Pending>) {
        let promised = self.gate.promised();
        let mut left = self.spool.lock().room().saturating_sub(promised) / PLACE;
        let before = group.len();
        group.retain(|pending| {
            let stays = pending.done.is_some() || left > 0;
            left = left.saturating_sub(1);
            stays
        });
        self.metrics.count("dropped", (before - group.len()) as u64);
    }

    async fn append(&mut self, batches: Vec<Vec<u8>>) -> Result<&'static str, ()> {
        if batches.is_empty() {
            return Ok("written");
        }
        if self.gate.is_direct() {
            match add(&self.redis, &self.producer, &batches).await {
                Ok(()) => return Ok("written"),
                Err(error) => self.went_away(&error),
            }
        }
        let batches = Arc::new(batches);
        let shared = Arc::clone(&batches);
        let mut spooled = self.spool.with(move |spool| spool.append(&shared)).await.map(|()| "spooled");
        // Before they are lost, Redis may have changed its mind, unless others of ours wait to go first.
        if spooled.is_err() && self.spool.is_empty() && add(&self.redis, &self.producer, &batches).await.is_ok() {
            self.taking = true;
            spooled = Ok("written");
        }
        self.tell().await;
        spooled.map_err(|error| tracing::error!(%error, "audit records can be written neither to Redis nor to the spool"))
    }

    /// The oldest records of the spool, sent. Nothing else is read from it until they are passed over.
    async fn begin_step(&mut self) -> io::Result<Step> {
        let read = |spool: &mut Spool| {
            spool.probe();
            spool.front(STEP)
        };
        let (batches, bytes) = self.spool.with(read).await?;
        self.tell().await;
        let records = batches.iter().map(|batch| AuditBatch::decode(batch.as_slice()).map_or(0, |batch| batch.records.len() as u64)).sum();
        // A batch of no records is one that the auditor passes over.
        let batches = if batches.is_empty() { vec![Vec::new()] } else { batches };
        let (redis, producer) = (self.redis.clone(), self.producer.clone());
        Ok(Step { outcome: Box::pin(async move { add(&redis, &producer, &batches).await }), bytes, records })
    }

    async fn end_step(
        &mut self,
        step: Option<Step>,
        outcome: Result<(), RedisError>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Err(error) = outcome {
            self.went_away(&error);
            self.tell().await;
            return Err(error.into());
        }
        self.taking = true;
        if let Some(Step { bytes, records, .. }) = step.filter(|step| step.bytes > 0) {
            self.oldest = None;
            self.spool.with(move |spool| spool.pass(bytes)).await?;
            self.metrics.count("replayed", records);
        }
        self.tell().await;
        if self.gate.is_direct() {
            tracing::info!("Redis takes audit records again; the spool is empty");
        }
        Ok(())
    }

    /// Takes in what a process of the component that ended after our start could not hand over: nobody else would before the next start. Only while Redis takes
    /// what comes: otherwise it could go nowhere from here, and would take the room that places are promised on.
    async fn sweep(&mut self) {
        if !self.gate.is_direct() {
            return;
        }
        let (dir, component, promised) = (self.dir.clone(), self.component.clone(), self.gate.promised());
        if let Err(error) = self.spool.with(move |spool| spool.sweep(&dir, &component, promised)).await {
            tracing::debug!(%error, "what others left in their audit spools cannot be taken in now");
        }
        self.tell().await;
    }

    /// Tells everybody how things stand.
    async fn tell(&mut self) {
        let (empty, bytes, room, lost) = {
            let mut spool = self.spool.lock();
            (spool.is_empty(), spool.len(), spool.room(), spool.take_lost())
        };
        self.metrics.count("lost", lost);
        self.gate.learn(self.taking && empty, room);
        if empty {
            self.oldest = None;
        } else if self.oldest.is_none() {
            self.oldest = self.oldest().await;
        }
        self.metrics.spooled(bytes, self.oldest);
    }

    /// When the oldest record of the spool happened.
    async fn oldest(&self) -> Option<i64> {
        let (front, _) = self.spool.with(|spool| spool.front(1)).await.ok()?;
        let batch = AuditBatch::decode(front.first()?.as_slice()).ok()?;
        batch.records.first().map(|record| record.ts_us)
    }

    fn went_away(&mut self, error: &RedisError) {
        if std::mem::replace(&mut self.taking, false) {
            tracing::warn!(%error, "audit records go to the spool");
        }
    }
}

async fn outcome(step: &mut Option<Step>) -> Result<(), RedisError> {
    match step {
        Some(step) => step.outcome.as_mut().await,
        None => std::future::pending().await,
    }
}

/// All of them or none, in order. Whether those of a failed call are there is not known: each record's id tells repeats.
async fn add(redis: &Redis, producer: &str, batches: &[Vec<u8>]) -> Result<(), RedisError> {
    let stream = redis.key(STREAM);
    let entry = |batch: &Vec<u8>| -> Cmd {
        let mut entry = cmd("XADD");
        entry.arg(&stream).arg("*").arg(FIELD).arg(batch).arg("producer").arg(producer);
        entry
    };
    if let [batch] = batches {
        return redis.run::<String>(&entry(batch)).await.map(|_| ());
    }
    let mut all = pipe();
    all.atomic();
    for batch in batches {
        all.add_command(entry(batch)).ignore();
    }
    redis.run_all(&all).await
}
