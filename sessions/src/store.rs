//! Who a session is: from the cache, else from Redis.
//!
//! Revocation is sticky. A snapshot may arrive by the stream and by the key in any order, late or twice; whichever is newer wins (CONTRACT.md §2). Revocations
//! are also remembered apart from the cache: a cache entry may be evicted and filled again from a key that an older writer overwrote.
//!
//! Two tasks may meet here: a lookup that fills the cache from the key, and the feed. The feed notes the snapshot first and the cache entry second; the
//! lookup fills the cache first and looks for a noted snapshot second. So one of them sees the other. Revocations are noted for good, active
//! snapshots for as long as a lookup may take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use gatehouse_chassis::{
    Process,
    redis::{Redis, cmd},
};
use gatehouse_proto::{
    keys::PublicKey,
    session::{SessionSnapshot, Status},
};
use moka::{future::Cache, ops::compute::Op};
use prometheus::{IntCounterVec, IntGauge};

use crate::{Config, Refusal, feed, now_ms};

/// Revocations remembered apart from the cache. Some 100 bytes each.
const REVOCATIONS: u64 = 1_000_000;
/// How long an active snapshot from the stream is remembered for lookups that are under way, and how far behind the stream its key may be written.
const NEWS_AGE: Duration = Duration::from_secs(10);
const NEWS: u64 = 100_000;

/// One session with its public key decoded.
#[derive(Clone, Debug)]
pub struct Session {
    snapshot: SessionSnapshot,
    key: Option<PublicKey>,
}

impl Session {
    /// From a snapshot. A public key that cannot be decoded verifies nothing.
    #[must_use]
    pub fn new(snapshot: SessionSnapshot) -> Self {
        let key = PublicKey::from_base64(&snapshot.public_key).ok();
        Self { snapshot, key }
    }

    /// The session's id.
    #[must_use]
    pub fn device_session_id(&self) -> &str {
        &self.snapshot.device_session_id
    }

    /// Whose device it is.
    #[must_use]
    pub fn user_id(&self) -> &str {
        &self.snapshot.user_id
    }

    /// Whether it may not speak.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.snapshot.status == Status::Revoked
    }

    /// Whether the device signed this.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.as_ref().is_some_and(|key| key.verifies(message, signature))
    }
}

/// The sessions of the suite; clones share one cache.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    redis: Redis,
    cache: Cache<String, Arc<Session>>,
    revocations: Cache<String, i64>,
    news: Cache<String, SessionSnapshot>,
    /// When the feed last heard from Redis, on the gateway's clock.
    heard_at_ms: AtomicI64,
    max_staleness: Duration,
    on_revoked: Box<dyn Fn(&str) + Send + Sync>,
    cached: IntGauge,
    malformed: IntCounterVec,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sessions({} cached)", self.inner.cache.entry_count())
    }
}

impl Sessions {
    /// Reads the session stream from its start, so that every revocation it still holds is known, and follows it from there on. `on_revoked` is called, in
    /// order, with the id of each session that a snapshot from the stream revokes; it must not block.
    pub async fn open(
        process: &Process,
        redis: Redis,
        config: &Config,
        on_revoked: impl Fn(&str) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let metrics = process.metrics();
        let inner = Inner {
            redis: redis.clone(),
            cache: Cache::new(config.cache_capacity),
            revocations: Cache::new(REVOCATIONS),
            news: Cache::builder().max_capacity(NEWS).time_to_live(NEWS_AGE).build(),
            heard_at_ms: AtomicI64::new(now_ms()),
            max_staleness: config.max_staleness,
            on_revoked: Box::new(on_revoked),
            cached: metrics.gauge("session_cache_entries", "Sessions in the local cache."),
            malformed: metrics.counters(
                "session_entries_malformed_total",
                "Sessions in Redis and entries of the session stream that could not be read.",
                &["source", "cause"],
            ),
        };
        let this = Self { inner: Arc::new(inner) };
        feed::start(process, redis, this.clone()).await?;
        Ok(this)
    }

    /// The session, active or revoked; refused when there is none or when that cannot be said.
    pub async fn resolve(&self, id: &str) -> Result<Arc<Session>, Refusal> {
        if self.is_fresh()
            && let Some(session) = self.inner.cache.get(id).await
        {
            return Ok(session);
        }
        let snapshot = self.load(id).await?;
        let mut session = self.keep_newer(snapshot).await;
        if let Some(news) = self.inner.news.get(id).await
            && news.supersedes(&session.snapshot)
        {
            session = self.keep_newer(news).await;
        }
        match self.inner.revocations.get(id).await {
            Some(revoked_at) if revoked_at >= session.snapshot.updated_at_ms && !session.is_revoked() => {
                let snapshot = SessionSnapshot { status: Status::Revoked, updated_at_ms: revoked_at, ..session.snapshot.clone() };
                Ok(self.keep_newer(snapshot).await)
            }
            _ => Ok(session),
        }
    }

    /// Takes in a snapshot from the stream.
    pub(crate) async fn apply(&self, snapshot: SessionSnapshot) {
        let id = snapshot.device_session_id.clone();
        if snapshot.status == Status::Active {
            // Only what is cached is kept fresh: the stream names far more sessions than this process ever sees. Lookups that have read an
            // older key and not yet cached it find this one here.
            if self.inner.news.get(&id).await.is_none_or(|noted| snapshot.supersedes(&noted)) {
                self.inner.news.insert(id.clone(), snapshot.clone()).await;
            }
            if self.inner.cache.contains_key(&id) {
                self.keep_newer(snapshot).await;
            }
            return;
        }
        let noted = self.inner.revocations.get(&id).await.unwrap_or(i64::MIN);
        self.inner.revocations.insert(id.clone(), noted.max(snapshot.updated_at_ms)).await;
        if self.keep_newer(snapshot).await.is_revoked() {
            (self.inner.on_revoked)(&id);
        }
    }

    /// Drops what is cached: a revocation may have passed unseen. Those that were seen stay known.
    pub(crate) fn forget(&self) {
        self.inner.cache.invalidate_all();
    }

    pub(crate) fn heard(&self) {
        self.inner.heard_at_ms.store(now_ms(), Ordering::Relaxed);
        self.inner.cached.set(i64::try_from(self.inner.cache.entry_count()).unwrap_or(i64::MAX));
    }

    pub(crate) fn count_malformed(&self, source: &str, cause: &str) {
        self.inner.malformed.with_label_values(&[source, cause]).inc();
    }

    fn is_fresh(&self) -> bool {
        let silent_ms = now_ms().saturating_sub(self.inner.heard_at_ms.load(Ordering::Relaxed));
        i128::from(silent_ms) <= i128::try_from(self.inner.max_staleness.as_millis()).unwrap_or(i128::MAX)
    }

    async fn load(&self, id: &str) -> Result<SessionSnapshot, Refusal> {
        let key = self.inner.redis.key(&format!("session:{id}"));
        let stored: Option<Vec<u8>> = self.inner.redis.run(cmd("GET").arg(key)).await.map_err(|error| {
            tracing::debug!(%error, "session not loaded");
            Refusal::StoreUnavailable
        })?;
        let stored = stored.ok_or(Refusal::UnknownSession)?;
        match SessionSnapshot::from_json(&stored) {
            Ok(snapshot) if snapshot.device_session_id == id => Ok(snapshot),
            Ok(_) => {
                self.count_malformed("key", "other_id");
                Err(Refusal::UnknownSession)
            }
            Err(error) => {
                self.count_malformed("key", error.cause());
                tracing::warn!(device_session_id = id, %error, "the stored session cannot be read");
                Err(Refusal::UnknownSession)
            }
        }
    }

    /// Puts the snapshot into the cache unless what is there is newer; what is there afterwards.
    async fn keep_newer(&self, snapshot: SessionSnapshot) -> Arc<Session> {
        let id = snapshot.device_session_id.clone();
        let offered = Arc::new(Session::new(snapshot));
        let fallback = Arc::clone(&offered);
        let outcome = self.inner.cache.entry(id).and_compute_with(|kept| {
            let op = match kept {
                Some(kept) if !offered.snapshot.supersedes(&kept.value().snapshot) => Op::Nop,
                _ => Op::Put(offered),
            };
            std::future::ready(op)
        });
        outcome.await.into_entry().map_or(fallback, moka::Entry::into_value)
    }
}
