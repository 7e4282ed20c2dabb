//! Who a session is: from memory, else from Redis.
//!
//! What is remembered is trusted as long as the session stream says what changes. When it has been silent for longer than `max_staleness` (it says
//! something each second), Redis is asked each time, and what was remembered only keeps a revocation from being undone.

mod flights;
mod memory;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gatehouse_chassis::{
    Process,
    redis::{Redis, cmd},
};
use gatehouse_proto::session::SessionSnapshot;
use prometheus::{IntCounterVec, IntGauge};
use tokio::time::Instant;

use crate::{Config, Refusal, Session, complaints::Complaints, feed, replay::Retention};
use flights::Flights;
use memory::{Memory, Recalled};

/// How long a snapshot from the stream is remembered at the least for lookups that are under way, and how far behind the stream its key may be written.
const NEWS_AGE: Duration = Duration::from_secs(10);

/// The sessions of the suite; clones share one memory.
#[derive(Clone, Debug)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    redis: Redis,
    memory: Memory,
    flights: Flights<Result<Arc<Session>, Refusal>>,
    heard: Heard,
    max_staleness: Duration,
    on_revoked: Box<dyn Fn(&str) + Send + Sync>,
    complaints: Complaints,
    retention: Retention,
    cached: IntGauge,
    lookups: IntCounterVec,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cached", self.memory.len())
    }
}

impl Sessions {
    /// Reads the session stream from its start, so that every revocation it still holds is known, and follows it from there on. `on_revoked` is called, in
    /// order, with the id of each session that a snapshot from the stream revokes; it must not block. Refused when Redis may drop what it is given.
    pub async fn open(
        process: &Process,
        redis: Redis,
        config: &Config,
        on_revoked: impl Fn(&str) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let metrics = process.metrics();
        let inner = Inner {
            memory: Memory::new(config.cache_capacity, NEWS_AGE.max(redis.config().command_timeout * 4)),
            flights: Flights::new(),
            heard: Heard::default(),
            max_staleness: config.max_staleness,
            on_revoked: Box::new(on_revoked),
            complaints: Complaints::new(metrics),
            retention: Retention::open(process, redis.clone(), config.freshness_window).await?,
            cached: metrics.gauge("session_cache_entries", "Sessions in the local cache."),
            lookups: metrics.counters(
                "session_lookups_total",
                "Sessions asked for, by where the answer was: memory, unknown (remembered to be of no session), redis.",
                &["from"],
            ),
            redis: redis.clone(),
        };
        let this = Self { inner: Arc::new(inner) };
        feed::start(process, redis, this.clone()).await?;
        Ok(this)
    }

    /// The session, active or revoked; refused when there is none or when that cannot be said.
    pub async fn resolve(&self, id: &str) -> Result<Arc<Session>, Refusal> {
        let inner = &self.inner;
        let count = |from| inner.lookups.with_label_values(&[from]).inc();
        if inner.heard.age() <= inner.max_staleness {
            match inner.memory.recall(id).await {
                Some(Recalled::Known(session)) => {
                    count("memory");
                    return Ok(session);
                }
                Some(Recalled::Unknown) => {
                    count("unknown");
                    return Err(Refusal::UnknownSession);
                }
                None => {}
            }
        }
        count("redis");
        let begin = || {
            let (this, id) = (self.clone(), id.to_owned());
            async move { this.look_up(&id).await }
        };
        inner.flights.join(id, begin).await
    }

    /// Takes in a snapshot from the stream.
    pub(crate) async fn apply(&self, session: Session) {
        let (id, revokes) = (session.device_session_id().to_owned(), session.is_revoked());
        if self.inner.memory.apply(session).await.is_revoked() && revokes {
            (self.inner.on_revoked)(&id);
        }
    }

    /// Drops what is cached: a revocation may have passed unseen. Those that were seen stay known. `wiped`: the stream is another one.
    pub(crate) fn forget(&self, wiped: bool) {
        if wiped { self.inner.memory.start_over() } else { self.inner.memory.forget() }
    }

    /// Everything that the stream said up to that moment was taken in.
    pub(crate) fn heard(&self, at: Instant) {
        self.inner.heard.set(at);
        self.inner.cached.set(i64::try_from(self.inner.memory.len()).unwrap_or(i64::MAX));
    }

    pub(crate) fn complaints(&self) -> &Complaints {
        &self.inner.complaints
    }

    pub(crate) fn retention(&self) -> &Retention {
        &self.inner.retention
    }

    async fn look_up(&self, id: &str) -> Result<Arc<Session>, Refusal> {
        let memory = &self.inner.memory;
        let lookup = memory.begin();
        let key = self.inner.redis.key(&format!("session:{id}"));
        let stored: Option<Vec<u8>> = self.inner.redis.run(cmd("GET").arg(&key)).await.map_err(|error| {
            tracing::debug!(%error, "session not loaded");
            Refusal::StoreUnavailable
        })?;
        let stored = stored.and_then(|stored| self.read(id, &stored));
        memory.settle(lookup, id, stored).await.ok_or(Refusal::UnknownSession)
    }

    fn read(&self, id: &str, stored: &[u8]) -> Option<Session> {
        let complain = |cause, problem: &dyn std::fmt::Display| self.inner.complaints.note("key", cause, &id, problem);
        match SessionSnapshot::from_json(stored) {
            Ok(snapshot) if snapshot.device_session_id != id => {
                complain("other_id", &"it is of another session");
                None
            }
            Ok(snapshot) => {
                let session = Session::read(snapshot);
                if session.is_none() {
                    complain("public_key", &"its public key cannot be decoded");
                }
                session
            }
            Err(error) => {
                complain(error.cause(), &error);
                None
            }
        }
    }
}

/// When the stream was heard last.
#[derive(Debug)]
struct Heard {
    since: Instant,
    after_us: AtomicU64,
}

impl Default for Heard {
    fn default() -> Self {
        Self { since: Instant::now(), after_us: AtomicU64::new(0) }
    }
}

impl Heard {
    fn set(&self, at: Instant) {
        let after = at.saturating_duration_since(self.since);
        self.after_us.fetch_max(u64::try_from(after.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_micros(self.after_us.load(Ordering::Relaxed)))
    }
}
