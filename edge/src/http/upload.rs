//! A request's body on its way to a backend: counted, held to its limits, and watched, so that a wait that takes too long is laid to whom it is due to.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
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
    taken: u64,
    timer: Option<Pin<Box<Sleep>>>,
    watch: Watch,
}

impl Upload {
    pub(super) fn new(body: Body, limits: Transfer) -> (Self, Watch) {
        let turn = if http_body::Body::is_end_stream(&body) { Turn::Over } else { Turn::Backend };
        let watch = Watch { progress: Progress::new(turn), fault: Arc::default() };
        (Self { body, limits, taken: 0, timer: None, watch: watch.clone() }, watch)
    }

    /// Whether a client that was asked at `since` has been silent for too long.
    fn is_overdue(&mut self, since: Instant, cx: &mut Context<'_>) -> bool {
        let due = since + self.limits.body_timeout;
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
