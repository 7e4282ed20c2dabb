//! A request's body on its way to a backend: counted, held to its limits, and watched, so that a wait that takes too long is laid to whom it is due to.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{errors::Problem, forwarded::strip};
use crate::{
    backends::{Progress, Turn},
    config::Transfer,
};

/// A body may be waited for so many times `body_timeout` in all, and once more for each so many bytes: whoever sends one byte after the other would have a backend's place for as long as
/// it likes.
const PATIENCE: u32 = 4;
const PART: u64 = 64 << 10;

/// How an upload gets on, and what ended it.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) progress: Progress,
    fault: Arc<OnceLock<Problem>>,
}

impl Watch {
    /// What the client did wrong, if that is what ended it.
    pub(super) fn fault(&self) -> Option<Problem> {
        self.fault.get().copied()
    }

    fn fail(&self, fault: Problem) -> axum::Error {
        let _first = self.fault.set(fault);
        self.progress.pass_to(Turn::Over);
        axum::Error::new(Unfinished(fault))
    }
}

/// What the connection to the backend is told; the client is told of the fault itself.
#[derive(Debug, thiserror::Error)]
#[error("the request's body ended before its end: {0:?}")]
struct Unfinished(Problem);

/// The body.
#[derive(Debug)]
pub(super) struct Upload {
    body: Body,
    limits: Transfer,
    /// Since when the client is waited for, if it is; how long it was before.
    asked: Option<Instant>,
    waited: Duration,
    taken: u64,
    timer: Option<Pin<Box<Sleep>>>,
    watch: Watch,
}

impl Upload {
    pub(super) fn new(body: Body, limits: Transfer) -> (Self, Watch) {
        let turn = if http_body::Body::is_end_stream(&body) { Turn::Over } else { Turn::Backend };
        let watch = Watch { progress: Progress::new(turn), fault: Arc::default() };
        (Self { body, limits, asked: None, waited: Duration::ZERO, taken: 0, timer: None, watch: watch.clone() }, watch)
    }

    /// Whether a client that was asked at `since` has been silent for too long, or is slower than anybody is.
    fn is_overdue(&mut self, since: Instant, cx: &mut Context<'_>) -> bool {
        self.asked = Some(since);
        let (each, parts) = (self.limits.body_timeout, u32::try_from(self.taken / PART).unwrap_or(u32::MAX));
        let whole = each.saturating_mul(parts.saturating_add(PATIENCE));
        let due = since + whole.saturating_sub(self.waited).min(each);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx).is_ready()
    }

    fn pass(&mut self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, axum::Error> {
        if let Some(data) = frame.data_ref() {
            self.taken = self.taken.saturating_add(data.len() as u64);
            if self.taken > self.limits.max_body_bytes {
                return Err(self.watch.fail(Problem::BodyTooLarge));
            }
        }
        if let Some(trailers) = frame.trailers_mut() {
            strip(trailers);
        }
        let last = frame.is_trailers() || http_body::Body::is_end_stream(&self.body);
        self.watch.progress.pass_to(if last { Turn::Over } else { Turn::Backend });
        Ok(frame)
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
            let since = self.watch.progress.pass_to(Turn::Client);
            if self.is_overdue(since, cx) {
                return Poll::Ready(Some(Err(self.watch.fail(Problem::RequestTimeout))));
            }
            return Poll::Pending;
        };
        if let Some(asked) = self.asked.take() {
            self.waited += asked.elapsed();
        }
        Poll::Ready(match polled {
            Some(Ok(frame)) => Some(self.pass(frame)),
            Some(Err(error)) => {
                tracing::debug!(%error, "a request's body cannot be read");
                Some(Err(self.watch.fail(Problem::BadRequest("the request's body is malformed or incomplete"))))
            }
            None => {
                self.watch.progress.pass_to(Turn::Over);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.watch.progress.pass_to(Turn::Over);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What comes of a body of so many pieces of that size, one every `pause`, where a client may be silent for ten seconds.
    async fn sent(pieces: usize, size: usize, pause: Duration) -> Option<Problem> {
        let piece = move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; size])))
        };
        let body = Body::new(StreamBody::new(stream::iter(0..pieces).then(piece)));
        let limits = Transfer { body_timeout: 10 * SECOND, max_body_bytes: u64::MAX, ..Transfer::default() };
        let (upload, watch) = Upload::new(body, limits);
        let whole = upload.collect().await;
        assert_eq!(whole.is_err(), watch.fault().is_some());
        watch.fault()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_be_slow_and_not_silent_nor_slower_than_anybody_is() {
        assert_eq!(sent(4, 1, 9 * SECOND).await, None, "slow and steady");
        assert_eq!(sent(1, 1, 11 * SECOND).await, Some(Problem::RequestTimeout), "silent");
        assert_eq!(sent(1000, 1, SECOND).await, Some(Problem::RequestTimeout), "a byte after the other");
        assert_eq!(sent(1000, 8 << 10, SECOND).await, None, "8 KiB a second, for as long as it takes");
    }
}
