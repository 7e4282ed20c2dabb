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
    redis::{Redis, RedisError, cmd, pipe},
};
use tokio::sync::Mutex;

use super::eras::Eras;
use crate::{Refusal, now_ms};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Between two times of forgetting what is no longer needed, in looks.
const LOOKS_A_PRUNE: u32 = 20;
/// Lies beside the reservations, and goes when they do.
const MARK: &str = "replay-mark";

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
    looking: Mutex<()>,
    eras: Eras,
    mark: String,
    window_ms: i64,
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
        let mark = redis.key(MARK);
        let found = agree(&redis, &mark).await.context("mark the replay reservations")?;
        let inner = Inner {
            evicts: AtomicBool::new(false),
            looked_on: AtomicU64::new(number),
            looking: Mutex::default(),
            eras: Eras::new(found, now_ms()),
            window_ms: i64::try_from(window.as_millis()).unwrap_or(i64::MAX),
            mark,
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
                let _one_at_a_time = inner.looking.lock().await;
                if inner.looked_on.load(Ordering::Acquire) != inner.redis.connection_number() {
                    self.look().await.map_err(unavailable)?;
                }
                Ok(())
            };
            tokio::time::timeout(inner.redis.config().command_timeout, looked).await.map_err(|_| Refusal::StoreUnavailable)??;
        }
        if inner.evicts.load(Ordering::Acquire) { Err(Refusal::StoreUnavailable) } else { Ok(()) }
    }

    /// Judges a reservation that was made for that session and timestamp, with the mark that was read after it.
    pub(super) async fn admit(&self, mark: Option<&[u8]>, session: &str, timestamp_ms: i64) -> Result<(), Refusal> {
        let (inner, mut mark) = (&self.inner, mark.map(<[u8]>::to_vec));
        if !inner.eras.is_now(mark.as_deref()) {
            let found = agree(&inner.redis, &inner.mark).await.map_err(unavailable)?;
            tracing::warn!("Redis has lost its replay reservations; commands that it may have seen before are refused");
            inner.eras.turn(found.clone(), now_ms(), inner.window_ms);
            // Beside none, it was reserved after the wipe. Beside another, before it: it stays of that era.
            mark.get_or_insert(found);
        }
        if inner.eras.admit(mark.as_deref(), session, timestamp_ms, now_ms()) { Ok(()) } else { Err(Refusal::StoreUnavailable) }
    }

    async fn watch(&self) {
        for looks in 1_u32.. {
            tokio::time::sleep(LOOK_EVERY).await;
            // Without an answer, what was seen last stands; nothing is reserved either.
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "Redis did not say whether it evicts keys");
            }
            if looks % LOOKS_A_PRUNE == 0 {
                self.inner.eras.prune(now_ms(), self.inner.window_ms);
            }
        }
    }

    async fn look(&self) -> Result<(), RedisError> {
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
        inner.looked_on.store(number, Ordering::Release);
        Ok(())
    }
}

/// The mark that is there, or a new one.
async fn agree(redis: &Redis, key: &str) -> Result<Vec<u8>, RedisError> {
    let mut asked = pipe();
    asked.add_command(cmd("SET").arg(key).arg(uuid::Uuid::new_v4().simple().to_string()).arg("NX").clone()).ignore();
    asked.cmd("GET").arg(key);
    let (mark,): (Vec<u8>,) = redis.run_all(&asked).await?;
    Ok(mark)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn unavailable(error: RedisError) -> Refusal {
    tracing::debug!(%error, "Redis was not looked at");
    Refusal::StoreUnavailable
}
