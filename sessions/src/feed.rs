//! Follows the session stream.

use gatehouse_chassis::{
    Process,
    redis::{Entry, Redis, Tail},
    watchdog,
};
use gatehouse_proto::{ids::StreamId, session::SessionSnapshot};

use crate::Sessions;

/// Entries a page, while catching up.
const PAGE: usize = 1000;
const LAST: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

/// Catches up with what the stream holds, then follows it in a task.
pub(crate) async fn start(process: &Process, redis: Redis, sessions: Sessions) -> anyhow::Result<()> {
    let stream = redis.config().session_events_stream.clone();
    // The newest entries may have been deleted: nobody will ever read up to the newest id.
    let newest = redis.stream_info(&stream).await?.last_generated;
    let mut position = StreamId::ZERO;
    loop {
        let page = redis.range(&stream, position, LAST, PAGE).await?;
        let Some(last) = page.last() else { break };
        position = last.id;
        take(&sessions, &page).await;
    }
    sessions.heard();
    let mut tail = Tail::new(&redis, stream, position.max(newest));
    let pulse = process.pulse("session-feed", watchdog::USUAL);
    // A draining process still serves those who have not left: a revocation is theirs, too.
    process.shutdown().spawn_companion("session-feed", async move {
        let patience = tail.patience();
        let mut lost = false;
        loop {
            match pulse.during(patience, tail.next()).await {
                Ok(batch) => {
                    if batch.wiped || batch.trimmed.is_some() {
                        tracing::warn!("the session stream lost entries before they were read here; sessions are read again");
                        sessions.forget();
                    }
                    pulse.during(patience, take(&sessions, &batch.entries)).await;
                    sessions.heard();
                    if std::mem::take(&mut lost) {
                        tracing::info!("the session stream is back");
                    }
                }
                Err(error) if !std::mem::replace(&mut lost, true) => tracing::warn!(%error, "the session stream is lost"),
                Err(_) => {}
            }
        }
    });
    Ok(())
}

async fn take(sessions: &Sessions, entries: &[Entry]) {
    for entry in entries {
        match SessionSnapshot::from_fields(entry.fields()) {
            Ok(snapshot) => sessions.apply(snapshot).await,
            Err(error) => {
                sessions.count_malformed("stream", error.cause());
                tracing::debug!(entry = %entry.id, %error, "session event skipped");
            }
        }
    }
}
