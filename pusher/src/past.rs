//! What a pusher takes into memory before it begins: the recent past, so that the streams which come to it from its predecessor, each with a cursor of its own,
//! need not read the same entries from Redis one after the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gatehouse_chassis::redis::{Redis, RedisError, fewer};
use gatehouse_proto::{ids::StreamId, stream::ClientEvent};

use crate::{
    archive::{FIRST_PAGE, next_page},
    config::Push,
    entry::Entry,
    floor::now_ms,
    log::Log,
};

/// How far back, in intervals of bookmarks: the cursor of a stream that is open is never older than one, and a client that was sent away comes back soon.
const INTERVALS: u32 = 4;
/// How much longer a start may take for it. What was not read by then stays in Redis, where it is found more slowly.
const PATIENCE: Duration = Duration::from_millis(500);

/// The entries up to and including `position`, the newest of the stream, as far back as they are likely to be asked for and fit. None when Redis cannot be asked.
pub async fn recall(redis: &Redis, settings: &Push, position: StreamId) -> Log {
    match read(redis, settings, position).await {
        Ok(Some((after, entries))) => {
            let mut log = Log::new(settings.log_bytes, after);
            entries.into_iter().rev().for_each(|entry| log.append(Arc::new(entry)));
            log
        }
        Ok(None) => Log::new(settings.log_bytes, position),
        Err(error) => {
            tracing::info!(%error, "starting without the recent past in memory");
            Log::new(settings.log_bytes, position)
        }
    }
}

/// The entries, newest first, and the place behind which they are complete. Nothing when the stream did not stay what it was.
async fn read(redis: &Redis, settings: &Push, position: StreamId) -> Result<Option<(StreamId, Vec<Entry>)>, RedisError> {
    let begun = Instant::now();
    let stream = &redis.config().client_events_stream;
    let reach = settings.bookmark_interval * INTERVALS;
    let oldest_wanted = now_ms(redis).await?.saturating_sub(u64::try_from(reach.as_millis()).unwrap_or(u64::MAX));
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let (mut after, mut count) = (position, FIRST_PAGE);
    while after > StreamId::ZERO && after.ms >= oldest_wanted && bytes < settings.log_bytes && begun.elapsed() < PATIENCE {
        let page = match redis.range_back(stream, after, count).await {
            Ok(page) => page,
            // They may have been too many for the time that a command has.
            Err(_) if count > 1 => {
                count = fewer(count);
                continue;
            }
            // What was read is whole as far as it goes.
            Err(_) if !entries.is_empty() => break,
            Err(error) => return Err(error),
        };
        after = page.last().filter(|_| page.len() == count).map_or(StreamId::ZERO, |oldest| oldest.id.previous());
        count = next_page(count, &page);
        for raw in page {
            // One that is malformed was counted and logged by whoever read it live.
            if let Ok(event) = ClientEvent::from_fields(raw.fields()) {
                let entry = Entry::new(raw.id, event);
                bytes += entry.weight();
                entries.push(entry);
            }
        }
    }
    // Trimming and wiping leave marks that stay: what is whole now was whole while it was read.
    let info = redis.stream_info(stream).await?;
    if info.last_generated < position {
        return Ok(None);
    }
    if info.is_trimmed(after) {
        after = info.trimmed_up_to().min(position);
    }
    Ok(Some((after, entries)))
}
