//! Whether Redis keeps what it is given: looked at at the start, a while after, and before anything is reserved on a new connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use gatehouse_chassis::{
    Process,
    exit::Fatal,
    redis::{Redis, RedisError, cmd},
};
use tokio::sync::Mutex;

use super::{
    eras::{Asked, Eras},
    mark::Mark,
};
use crate::{Refusal, now_ms};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Between two times of forgetting what is no longer needed, in looks.
const LOOKS_A_PRUNE: u32 = 20;
/// How long after its last sign another edge may have gone on: it gives one every few looks' time, and its look and ours come when they come.
const OTHERS_MS: i64 = 2 * 3000;

/// Clones share what was seen.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    redis: Redis,
    evicts: AtomicBool,
    /// On which connection it was looked at last.
    looked_on: AtomicU64,
    looking: Mutex<Seen>,
    eras: Eras,
    mark: String,
    /// Who this process is in the mark, and whether it has carried out commands since it last said so.
    writer: String,
    carried_out: AtomicBool,
}

/// What the last look saw.
#[derive(Debug)]
struct Seen {
    run_id: String,
    mark: Vec<u8>,
}

impl Retention {
    /// Refused when Redis may evict, or does not say whether it does.
    pub(crate) async fn open(process: &Process, redis: Redis, window: Duration) -> anyhow::Result<Self> {
        let number = redis.connection_number();
        let survey = redis.survey().await.map_err(|error| match error.code() {
            Some("NOPERM") => Fatal::config(format!(
                "redis at {} does not let us run INFO, by which we see that it evicts nothing: {error}",
                redis.config().addr
            ))
            .into(),
            _ => anyhow::Error::from(error).context("ask Redis whether it evicts keys"),
        })?;
        if !survey.keeps_keys() {
            let policy = if survey.eviction_policy.is_empty() { "one that it does not name" } else { &survey.eviction_policy };
            return Err(Fatal::config(format!(
                "redis at {} evicts keys: its maxmemory-policy is {policy}; set it to noeviction, for a reservation that is evicted lets a command be replayed",
                redis.config().addr
            ))
            .into());
        }
        let writer = uuid::Uuid::new_v4().simple().to_string();
        let mark = Mark::draw(now_ms()).agree(&redis).await.context("mark the replay reservations")?;
        let eras = Eras::new(mark.era.clone(), now_ms(), i64::try_from(window.as_millis()).unwrap_or(i64::MAX));
        if mark.is_of_another(&writer) {
            eras.others(mark.at_ms.saturating_add(OTHERS_MS));
        }
        let inner = Inner {
            evicts: AtomicBool::new(false),
            looked_on: AtomicU64::new(number),
            looking: Mutex::new(Seen { run_id: survey.run_id, mark: mark.to_string().into() }),
            eras,
            mark: Mark::key(&redis),
            writer,
            carried_out: AtomicBool::new(false),
            redis,
        };
        let this = Self { inner: Arc::new(inner) };
        let watching = this.clone();
        process.shutdown().spawn_companion("redis-retention", async move { watching.watch().await });
        Ok(this)
    }

    /// The mark's key: read beside every reservation.
    pub(super) fn mark(&self) -> &str {
        &self.inner.mark
    }

    /// Whether anything may be reserved now. Asks Redis only on a connection on which nobody has looked yet; who waits for that, waits no longer than for a command.
    pub(super) async fn check(&self) -> Result<(), Refusal> {
        let inner = &self.inner;
        if inner.looked_on.load(Ordering::Acquire) != inner.redis.connection_number() {
            let looked = async {
                let mut seen = inner.looking.lock().await;
                if inner.looked_on.load(Ordering::Acquire) != inner.redis.connection_number() {
                    self.look(&mut seen).await.map_err(unavailable)?;
                }
                Ok(())
            };
            tokio::time::timeout(inner.redis.config().command_timeout, looked).await.map_err(|_| Refusal::StoreUnavailable)??;
        }
        if inner.evicts.load(Ordering::Acquire) { Err(Refusal::StoreUnavailable) } else { Ok(()) }
    }

    /// Judges a reservation that was made, with the mark that was read after it.
    pub(super) async fn admit(&self, mark: Option<&[u8]>, asked: Asked<'_>) -> Result<(), Refusal> {
        // It may have been made on a new connection: what is there at the other end is known first.
        self.check().await?;
        let inner = &self.inner;
        let mut era = mark.and_then(Mark::parse).map(|mark| mark.era);
        if !inner.eras.is_now(era.as_deref()) {
            let found = Mark::draw(now_ms()).agree(&inner.redis).await.map_err(unavailable)?;
            tracing::warn!("Redis has lost its replay reservations; commands that it may have seen before are refused");
            inner.eras.turn(found.era.clone(), now_ms());
            // Beside none, it was reserved after the wipe. Beside another, before it: it stays of that era.
            era.get_or_insert(found.era);
        }
        if asked.is_command {
            inner.carried_out.store(true, Ordering::Release);
        }
        if inner.eras.admit(era.as_deref(), asked, now_ms()) { Ok(()) } else { Err(Refusal::StoreUnavailable) }
    }

    async fn watch(&self) {
        for looks in 1_u32.. {
            tokio::time::sleep(LOOK_EVERY).await;
            // Without an answer, what was seen last stands; nothing is reserved either.
            let mut seen = self.inner.looking.lock().await;
            if let Err(error) = self.look(&mut seen).await {
                tracing::debug!(%error, "Redis did not say whether it evicts keys");
            }
            if looks % LOOKS_A_PRUNE == 0 {
                self.inner.eras.prune(now_ms());
            }
        }
    }

    async fn look(&self, seen: &mut Seen) -> Result<(), RedisError> {
        let inner = &self.inner;
        // What is looked at is this connection or a later one; if a later, the next reservation looks again.
        let number = inner.redis.connection_number();
        let survey = inner.redis.survey().await?;
        let evicts = !survey.keeps_keys();
        if inner.evicts.swap(evicts, Ordering::AcqRel) != evicts {
            if evicts {
                tracing::error!(
                    redis.policy = survey.eviction_policy,
                    "Redis evicts keys: commands are refused until maxmemory-policy is noeviction again"
                );
            } else {
                tracing::info!("Redis no longer evicts keys");
            }
        }
        if seen.run_id != survey.run_id {
            // From a snapshot, or a replica that was behind: the mark may be there and what was reserved last may not.
            tracing::info!("another Redis server answers; commands that the one before may have seen are refused");
            inner.eras.doubt(now_ms());
            seen.run_id = survey.run_id;
        }
        inner.looked_on.store(number, Ordering::Release);
        self.sign(seen).await
    }

    /// Looks for signs of other edges, and gives ours.
    async fn sign(&self, seen: &mut Seen) -> Result<(), RedisError> {
        let inner = &self.inner;
        let value: Option<Vec<u8>> = inner.redis.run(cmd("GET").arg(&inner.mark)).await?;
        let Some(value) = value else { return Ok(()) };
        if value != seen.mark {
            if Mark::parse(&value).is_some_and(|mark| mark.is_of_another(&inner.writer)) {
                inner.eras.others(now_ms().saturating_add(OTHERS_MS));
            }
            seen.mark.clone_from(&value);
        }
        // A mark of another era is for the next reservation to find.
        let ours = Mark::parse(&value).filter(|mark| inner.eras.is_now(Some(&mark.era)));
        if let Some(mark) = ours.filter(|_| inner.carried_out.swap(false, Ordering::AcqRel)) {
            let mark = Mark { writer: inner.writer.clone(), at_ms: now_ms(), ..mark };
            inner.redis.run::<i64>(&mark.replacing(&inner.redis, &value)).await?;
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn unavailable(error: RedisError) -> Refusal {
    tracing::debug!(%error, "Redis was not looked at");
    Refusal::StoreUnavailable
}
