//! One client's event stream, whichever pushers serve it in turn.
//!
//! ```text
//!            pusher lost                    none for PATIENCE
//! Attached ───────────────▶ Moving ─────────────────────────────▶ Ended: UNAVAILABLE, cursor
//!    │   ◀───────────────     │  a pusher takes it on
//!    ├── a verdict on it ─────┴───────────────────────────────▶ Ended: the pusher's verdict
//!    └── the edge drains, and the connection's turn comes ─────▶ Ended: `gateway is shutting down`, cursor
//!        (from either)
//! ```
//!
//! A pusher that drains alone says `gateway is shutting down`, too: here that is a loss, and the client notices nothing.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use gatehouse_chassis::{backoff::Backoff, connections::Notice};
use gatehouse_proto::{ids::StreamId, internal::v1::AttachRequest, raw::peek_event_id};
use gatehouse_sessions::verdict;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    attach::{Attached, Lost, Pushers, is_loss},
    ended,
};

/// How long a stream without a pusher is kept before its client is sent away. A pusher's restart takes about a second.
const PATIENCE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

type Moving = Pin<Box<dyn Future<Output = Result<Attached, Status>> + Send>>;

#[expect(clippy::large_enum_variant, reason = "the large one is the one that a stream is in")]
enum Phase {
    Attached(Attached),
    Moving(Moving),
    Ended,
}

/// See the module's head.
pub(super) struct Relayed {
    pushers: Arc<Pushers>,
    request: AttachRequest,
    /// The last event that was passed on, or that the client came with.
    cursor: Option<StreamId>,
    phase: Phase,
    leaving: Pin<Box<dyn Future<Output = ()> + Send>>,
    losses: Losses,
    attached_at: Instant,
    backoff: Backoff,
}

/// When the stream lost its pusher; until something has been delivered again, so that a pusher which takes streams and drops them does not hold the client
/// for ever.
#[derive(Debug, Default)]
struct Losses {
    since: Option<Instant>,
}

impl Losses {
    /// The pusher that the stream had since `attached_at` is lost: whether that is so again, and until when another is looked for.
    fn one_more(&mut self, drained: bool, attached_at: Instant, now: Instant) -> (bool, Instant) {
        // One that drains served well until then, and has a successor which is there already, however soon that one drains, too. A stream that was silent
        // for so long was served well, whatever ended it.
        let served = drained || now.duration_since(attached_at) >= PATIENCE;
        self.since = self.since.filter(|_| !served);
        (self.since.is_some(), *self.since.get_or_insert(now) + PATIENCE)
    }
}

impl Relayed {
    pub(super) fn new(pushers: Arc<Pushers>, request: AttachRequest, attached: Attached, notice: Notice) -> Self {
        Self {
            pushers,
            cursor: request.cursor.parse().ok(),
            request,
            phase: Phase::Attached(attached),
            leaving: Box::pin(async move { notice.given().await }),
            losses: Losses::default(),
            attached_at: Instant::now(),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    /// What to do with an event: pass it on, unless the client has it. Its place is strictly behind the last one's, whoever sends it.
    fn take(&mut self, event: Bytes) -> Option<Bytes> {
        if let Some(id) = peek_event_id(&event).and_then(|id| id.parse::<StreamId>().ok()) {
            // The first event of a stream may stand where the client's cursor does.
            if self.request.continuation && self.cursor.is_some_and(|cursor| id <= cursor) {
                return None;
            }
            self.cursor = Some(id);
        }
        self.request.continuation = true;
        self.losses = Losses::default();
        self.backoff.reset();
        Some(event)
    }

    /// The pusher's stream has ended: the client's does too, or moves.
    fn lose(&mut self, instance: u32, status: Option<Status>) -> Option<Status> {
        let drained = status.as_ref().is_some_and(verdict::is_shutting_down);
        match status {
            Some(status) if verdict::ends_stream(&status) => return Some(self.verdict(status)),
            Some(status) => tracing::debug!(pusher = instance, %status, "stream lost its pusher"),
            None => tracing::debug!(pusher = instance, "the pusher ended the stream without a verdict"),
        }
        let (again, until) = self.losses.one_more(drained, self.attached_at, Instant::now());
        // The first attempt is made at once; a stream that is lost again before it brought anything waits.
        let pause = again.then(|| self.backoff.next_delay());
        if self.request.continuation {
            self.request.cursor = self.cursor.map_or_else(String::new, |cursor| cursor.to_string());
        }
        let lost = Lost { instance, drained };
        self.phase =
            Phase::Moving(Box::pin(moving(Arc::clone(&self.pushers), self.request.clone(), lost, until, pause, self.backoff.clone())));
        None
    }

    /// A verdict of a pusher's, completed with what the client needs to resume.
    fn verdict(&self, status: Status) -> Status {
        if status.metadata().contains_key("gateway-cursor") { status } else { ended(status, self.cursor) }
    }

    /// Why no pusher took the stream on. Whatever else a pusher had against it (a gap, most likely), the client learns when it resumes.
    fn not_moved(&self, status: Status) -> Status {
        let told = is_loss(&status) || (verdict::ends_stream(&status) && status.code() != Code::InvalidArgument);
        if told || !self.request.continuation {
            return self.verdict(status);
        }
        tracing::debug!(%status, "no pusher goes on with the stream");
        ended(verdict::must_resume(), self.cursor)
    }
}

impl Stream for Relayed {
    type Item = Result<Bytes, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !matches!(this.phase, Phase::Ended) && this.leaving.as_mut().poll(cx).is_ready() {
            this.phase = Phase::Ended;
            return Poll::Ready(Some(Err(ended(verdict::shutting_down(), this.cursor))));
        }
        loop {
            let end = match &mut this.phase {
                Phase::Ended => return Poll::Ready(None),
                Phase::Moving(moving) => match ready!(moving.as_mut().poll(cx)) {
                    Ok(attached) => {
                        this.attached_at = Instant::now();
                        this.phase = Phase::Attached(attached);
                        None
                    }
                    Err(status) => Some(this.not_moved(status)),
                },
                Phase::Attached(attached) => match ready!(Pin::new(&mut attached.events).poll_next(cx)) {
                    Some(Ok(event)) => match this.take(event) {
                        Some(event) => return Poll::Ready(Some(Ok(event))),
                        None => None,
                    },
                    ended => {
                        let instance = attached.instance;
                        this.lose(instance, ended.and_then(Result::err))
                    }
                },
            };
            if let Some(status) = end {
                this.phase = Phase::Ended;
                return Poll::Ready(Some(Err(status)));
            }
        }
    }
}

/// Tries all pushers, again and again, until one takes the stream or has something against it.
async fn moving(
    pushers: Arc<Pushers>,
    request: AttachRequest,
    lost: Lost,
    until: Instant,
    mut pause: Option<Duration>,
    mut backoff: Backoff,
) -> Result<Attached, Status> {
    loop {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        match tokio::time::timeout_at(until, pushers.attach(&request, Some(lost))).await {
            Ok(Err(status)) if is_loss(&status) && Instant::now() < until => pause = Some(backoff.next_delay()),
            Ok(outcome) => return outcome,
            Err(_) => return Err(Status::unavailable("push is unavailable")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stream_that_is_taken_and_dropped_is_given_up_at_last() {
        let (mut losses, begun) = (Losses::default(), Instant::now());
        assert_eq!(losses.one_more(false, begun, begun + SECOND), (false, begun + SECOND + PATIENCE));
        assert_eq!(losses.one_more(false, begun + 2 * SECOND, begun + 3 * SECOND), (true, begun + SECOND + PATIENCE));
        // Silent for a long time, it was served.
        let later = begun + 3 * SECOND + PATIENCE;
        assert_eq!(losses.one_more(false, begun + 3 * SECOND, later), (false, later + PATIENCE));
    }

    #[test]
    fn a_silent_stream_outlives_any_number_of_planned_restarts() {
        let (mut losses, mut now) = (Losses::default(), Instant::now());
        for _ in 0..100 {
            let attached_at = now;
            now += SECOND;
            assert_eq!(losses.one_more(true, attached_at, now), (false, now + PATIENCE));
        }
    }
}
