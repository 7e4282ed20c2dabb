//! What this process remembers of sessions. It is bounded, and asks nobody.
//!
//! A snapshot may arrive by the stream and by the key in any order, late or twice; whichever is newer wins (CONTRACT.md §2). So that none of them is missed
//! when a lookup fills the cache while the stream says something else, both do so under the cache's lock of that id: the stream notes its news first and
//! looks for a cached session then, the lookup looks for news before it caches. Revocations are noted for good, apart from the cache, from which a session may be
//! evicted and read again from a key that an older writer overwrote; other news for as long as a lookup may take.
//!
//! Everything that is cached belongs to an *epoch*. When entries of the stream are known to have been lost, the next epoch begins, and nothing of earlier
//! ones counts any more, not even what a lookup brings that began before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::{future::Cache, ops::compute::Op, policy::EvictionPolicy};

use crate::Session;

/// Revocations remembered apart from the cache. Some 100 bytes each.
const REVOCATIONS: u64 = 1_000_000;
/// Snapshots from the stream remembered for lookups under way.
const NEWS: u64 = 100_000;
/// Ids that are known to be of no session, and for how long.
const UNKNOWN: u64 = 100_000;
const UNKNOWN_AGE: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Memory {
    sessions: Cache<String, Cached>,
    revocations: Cache<String, i64>,
    news: Cache<String, Arc<Session>>,
    unknown: Cache<String, Asked>,
    epoch: AtomicU64,
}

#[derive(Clone, Debug)]
struct Cached {
    session: Arc<Session>,
    epoch: u64,
}

/// How often an id was asked for that Redis does not know.
#[derive(Clone, Copy, Debug)]
struct Asked {
    again: bool,
    epoch: u64,
}

/// What memory says to an id.
#[derive(Clone, Debug)]
pub(super) enum Recalled {
    Known(Arc<Session>),
    Unknown,
}

/// A lookup that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    epoch: u64,
}

impl Memory {
    /// `news_age` is longer than a lookup may take.
    pub(super) fn new(capacity: u64, news_age: Duration) -> Self {
        let recent = EvictionPolicy::lru;
        Self {
            sessions: Cache::new(capacity),
            revocations: Cache::builder().max_capacity(REVOCATIONS).eviction_policy(recent()).build(),
            news: Cache::builder().max_capacity(NEWS).eviction_policy(recent()).time_to_live(news_age).build(),
            unknown: Cache::builder().max_capacity(UNKNOWN).eviction_policy(recent()).time_to_live(UNKNOWN_AGE).build(),
            epoch: AtomicU64::new(0),
        }
    }

    /// Sessions in the cache, about.
    pub(super) fn len(&self) -> u64 {
        self.sessions.entry_count()
    }

    pub(super) async fn recall(&self, id: &str) -> Option<Recalled> {
        let epoch = self.epoch();
        if let Some(cached) = self.sessions.get(id).await.filter(|cached| cached.epoch == epoch) {
            return Some(Recalled::Known(cached.session));
        }
        // Not after the first time: whoever registers a device and uses it at once may be faster than the stream that says so.
        let asked = self.unknown.get(id).await;
        asked.filter(|asked| asked.again && asked.epoch == epoch).map(|_| Recalled::Unknown)
    }

    /// Before the key is read.
    pub(super) fn begin(&self) -> Lookup {
        Lookup { epoch: self.epoch() }
    }

    /// After the key was read: the newest that is known, if anything is. A key that is not there is believed, but for what the stream has just said.
    pub(super) async fn settle(&self, lookup: Lookup, id: &str, stored: Option<Session>) -> Option<Arc<Session>> {
        let mut settled = None;
        self.sessions
            .entry_by_ref(id)
            .and_compute_with(async |kept| {
                let epoch = self.epoch();
                let kept = kept.map(moka::Entry::into_value).filter(|kept| kept.epoch == epoch && stored.is_some());
                let found = [stored.map(Arc::new), self.news.get(id).await, kept.as_ref().map(|kept| Arc::clone(&kept.session))];
                let newest = found.into_iter().flatten().reduce(newer);
                settled = match newest {
                    Some(session) => Some(self.with_revocation(id, session).await),
                    None => None,
                };
                let Some(session) = &settled else {
                    let again = self.unknown.get(id).await.is_some_and(|asked| asked.epoch == lookup.epoch);
                    self.unknown.insert(id.to_owned(), Asked { again, epoch: lookup.epoch }).await;
                    return Op::Remove;
                };
                self.unknown.invalidate(id).await;
                // Where something of this epoch was, what is newer than that belongs to it, too.
                Op::Put(Cached { session: Arc::clone(session), epoch: if kept.is_some() { epoch } else { lookup.epoch } })
            })
            .await;
        settled
    }

    /// Takes in what the stream says; what is known now.
    pub(super) async fn apply(&self, session: Session) -> Arc<Session> {
        let id = session.device_session_id().to_owned();
        if session.is_revoked() {
            let noted = self.revocations.get(&id).await.unwrap_or(i64::MIN);
            self.revocations.insert(id.clone(), noted.max(session.updated_at_ms())).await;
        }
        let offered = match self.news.get(&id).await {
            Some(noted) => newer(Arc::new(session), noted),
            None => Arc::new(session),
        };
        self.news.insert(id.clone(), Arc::clone(&offered)).await;
        // What was cached may be of a key that an older writer had overwritten.
        let offered = self.with_revocation(&id, offered).await;
        let mut known = Arc::clone(&offered);
        // Only what is cached is kept fresh: the stream names far more sessions than this process ever sees.
        self.sessions
            .entry_by_ref(&id)
            .and_compute_with(async |kept| {
                self.unknown.invalidate(&id).await;
                let Some(kept) = kept.map(moka::Entry::into_value) else { return Op::Nop };
                if kept.epoch != self.epoch() {
                    return Op::Remove;
                }
                known = newer(offered, Arc::clone(&kept.session));
                Op::Put(Cached { session: Arc::clone(&known), epoch: kept.epoch })
            })
            .await;
        known
    }

    /// Entries of the stream are lost: what is cached no longer counts. What was seen of revocations stays known.
    pub(super) fn forget(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.sessions.invalidate_all();
    }

    /// The stream is another one, and with it Redis: what it said before is history.
    pub(super) fn start_over(&self) {
        self.news.invalidate_all();
        self.forget();
    }

    async fn with_revocation(&self, id: &str, session: Arc<Session>) -> Arc<Session> {
        match self.revocations.get(id).await {
            Some(at) if at >= session.updated_at_ms() && !session.is_revoked() => Arc::new(session.revoked(at)),
            _ => session,
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }
}

fn newer(one: Arc<Session>, other: Arc<Session>) -> Arc<Session> {
    if other.supersedes(&one) { other } else { one }
}

#[cfg(test)]
mod tests;
