//! The stream of client events as Redis retains it, for streams that memory cannot serve.
//!
//! Read a page at a time, when a client has room for more, and by a few streams at once. A page counts only when the stream was still whole after
//! it was read: then it was whole before, for trimming and wiping leave marks that stay.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use gatehouse_chassis::{
    backoff::Backoff,
    redis::{Entry as Raw, Redis, RedisError, StreamInfo, fewer, next_count},
};
use gatehouse_proto::{ids::StreamId, stream::ClientEvent};
use tokio::sync::Semaphore;

use crate::{
    entry::Entry,
    floor::{Floor, now_ms},
    hub::Hub,
    seat::Seat,
};

/// Streams that read from Redis at once: a storm of them must not starve the live ones of CPU, nor fill the memory.
const READERS: usize = 8;
/// What one page is to take in memory, and how many entries it has at most.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ENTRIES: usize = 1000;
/// Entries of a stream's first page, when nobody knows how large they are.
pub const FIRST_PAGE: usize = 32;

/// See the module's head.
#[derive(Debug)]
pub struct Archive {
    redis: Redis,
    floor: Arc<Floor>,
    hub: Arc<Hub>,
    readers: Semaphore,
}

/// Where Redis stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The smallest cursor that is worth anything.
    pub floor: StreamId,
    /// The stream.
    pub info: StreamInfo,
    /// Redis's clock.
    pub now_ms: u64,
}

/// A part of the stream, for one device.
#[derive(Debug)]
pub struct Page {
    /// What is in it for that device.
    pub entries: VecDeque<Arc<Entry>>,
    /// Everything up to here is in it.
    pub until: StreamId,
    /// How many entries to ask for next.
    pub count: usize,
}

/// What comes next is no longer whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl Archive {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(redis: Redis, floor: Arc<Floor>, hub: Arc<Hub>) -> Self {
        Self { redis, floor, hub, readers: Semaphore::new(READERS) }
    }

    /// Where Redis stands now. A wipe that nobody has noticed yet is noticed here.
    pub async fn standing(&self) -> Result<Standing, RedisError> {
        let (read, horizon) = self.hub.position();
        let stream = &self.redis.config().client_events_stream;
        let mark = async { self.redis.run::<Option<Vec<u8>>>(gatehouse_chassis::redis::cmd("GET").arg(self.floor.key())).await };
        let (now_ms, mark, info) = tokio::try_join!(now_ms(&self.redis), mark, self.redis.stream_info(stream))?;
        let (lost, known) = (info.last_generated < read, self.floor.known());
        let same = known.as_ref().is_some_and(|known| mark.as_deref() == Some(known.to_string().as_bytes()));
        if lost || !same {
            self.floor.doubt(horizon, lost);
        }
        let floor = match known {
            Some(known) if !self.floor.is_doubted() => known.floor,
            _ => self.floor.settle().await?.floor,
        };
        Ok(Standing { floor, info, now_ms })
    }

    /// The smallest cursor that was worth anything when Redis could last be asked.
    #[must_use]
    pub fn known_floor(&self) -> StreamId {
        self.floor.known().map(|mark| mark.floor).unwrap_or_default()
    }

    /// The next part of the stream that has anything for that device, from after `after` up to `until`. Waits as long as Redis is away.
    pub async fn page(self: Arc<Self>, seat: Arc<Seat>, mut after: StreamId, until: StreamId, mut count: usize) -> Result<Page, Lost> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match self.read(after, until, count).await {
                Ok(None) => return Err(Lost),
                Ok(Some(raw)) => {
                    backoff.reset();
                    let whole = raw.len() < count;
                    after = raw.last().filter(|_| !whole).map_or(until, |last| last.id);
                    count = next_page(count, &raw);
                    let entries: VecDeque<_> = raw.iter().filter_map(|raw| wanted(raw, &seat)).collect();
                    if !entries.is_empty() || after >= until {
                        return Ok(Page { entries, until: after, count });
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a replay waits for Redis");
                    count = fewer(count);
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn read(&self, after: StreamId, until: StreamId, count: usize) -> Result<Option<Vec<Raw>>, RedisError> {
        let Ok(_permit) = self.readers.acquire().await else { return Ok(None) };
        self.hub.metrics().replay_pages.inc();
        let stream = &self.redis.config().client_events_stream;
        let raw = self.redis.range(stream, after, until, count).await?;
        let standing = self.standing().await?;
        let whole = after >= standing.floor && !standing.info.is_trimmed(after);
        Ok(whole.then_some(raw))
    }
}

fn wanted(raw: &Raw, seat: &Seat) -> Option<Arc<Entry>> {
    // Most entries are other users'; they need not be read in full.
    raw.fields().find(|(name, value)| *name == b"user_id" && *value == seat.user_id.as_bytes())?;
    // A malformed entry was counted when it was published.
    let event = ClientEvent::from_fields(raw.fields()).ok()?;
    let entry = Entry::new(raw.id, event);
    (entry.event.user_id == seat.user_id && seat.wants(&entry)).then(|| Arc::new(entry))
}

/// How many entries to ask for next, after `asked` of which these came.
pub(crate) fn next_page(asked: usize, raw: &[Raw]) -> usize {
    next_count(asked, raw, PAGE_BYTES).min(PAGE_ENTRIES)
}
