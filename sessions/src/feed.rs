//! Follows the session stream.

use gatehouse_chassis::{
    Process,
    redis::{Entry, Redis, Tail},
    watchdog,
};
use gatehouse_proto::{ids::StreamId, session::SessionSnapshot};

use tokio::time::Instant;

use crate::{Session, Sessions};

/// Entries a page, while catching up.
const PAGE: usize = 1000;
const LAST: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

/// Catches up with what the stream holds, then follows it in a task.
pub(crate) async fn start(process: &Process, redis: Redis, sessions: Sessions) -> anyhow::Result<()> {
    let stream = redis.config().session_events_stream.clone();
    // The newest entries may have been deleted: nobody will ever read up to the newest id.
    let newest = redis.stream_info(&stream).await?.last_generated;
    let mut position = StreamId::ZERO;
    let begun = Instant::now();
    loop {
        let page = redis.range(&stream, position, LAST, PAGE).await?;
        let Some(last) = page.last() else { break };
        position = last.id;
        take(&sessions, &page).await;
    }
    sessions.heard(begun);
    let mut tail = Tail::new(&redis, stream, position.max(newest));
    let pulse = process.pulse("session-feed", watchdog::USUAL);
    // A draining process still serves those who have not left: a revocation is theirs, too.
    process.shutdown().spawn_companion("session-feed", async move {
        let patience = tail.patience();
        let mut lost = false;
        loop {
            // What it answers was so when it was asked, however long this process stood still since.
            let asked = Instant::now();
            match pulse.during(patience, tail.next()).await {
                Ok(batch) => {
                    if batch.wiped || batch.trimmed.is_some() {
                        tracing::warn!("the session stream lost entries before they were read here; sessions are read again");
                        sessions.forget(batch.wiped);
                    }
                    pulse.during(patience, take(&sessions, &batch.entries)).await;
                    // Until the end is reached, a revocation may be among what is still to be read.
                    if batch.caught_up {
                        sessions.heard(asked);
                    }
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
        let complain = |cause, problem: &dyn std::fmt::Display| sessions.complaints().note("stream", cause, &entry.id, problem);
        match SessionSnapshot::from_fields(entry.fields()).map(Session::read) {
            Ok(Some(session)) => sessions.apply(session).await,
            // Whatever was known before stands.
            Ok(None) => complain("public_key", &"its public key cannot be decoded"),
            Err(error) => complain(error.cause(), &error),
        }
    }
}
