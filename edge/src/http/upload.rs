//! A request's body on its way to a backend: counted, held to its limits, and watched, so that a wait that takes too long is laid to whom it is due to.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{errors::Problem, forwarded::strip_hop};
use crate::config::Transfer;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The client was asked for more, and has not sent it.
    Client,
    /// The backend has not asked for what is there.
    Backend,
    /// Nobody's: all of it was taken, or it is not wanted any more.
    Over,
}

/// How an upload gets on; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    turn: Turn,
    since: Instant,
    fault: Option<Problem>,
}

impl Progress {
    fn new(turn: Turn) -> Self {
        Self(Arc::new(Mutex::new(State { turn, since: Instant::now(), fault: None })))
    }

    /// Whose turn it is, and since when.
    pub(super) fn turn(&self) -> (Turn, Instant) {
        let state = self.state();
        (state.turn, state.since)
    }

    /// What the client did wrong, if that is what ended it.
    pub(super) fn fault(&self) -> Option<Problem> {
        self.state().fault
    }

    fn pass_to(&self, turn: Turn) -> Instant {
        let mut state = self.state();
        // Each part that was taken begins a new wait; to ask the client once more does not.
        if state.turn != turn || turn == Turn::Backend {
            (state.turn, state.since) = (turn, Instant::now());
        }
        state.since
    }

    fn fail(&self, fault: Problem) -> axum::Error {
        let mut state = self.state();
        (state.turn, state.since, state.fault) = (Turn::Over, Instant::now(), Some(fault));
        axum::Error::new(Unfinished(fault))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    progress: Progress,
}

impl Upload {
    pub(super) fn new(body: Body, limits: Transfer) -> (Self, Progress) {
        let turn = if http_body::Body::is_end_stream(&body) { Turn::Over } else { Turn::Backend };
        let progress = Progress::new(turn);
        (Self { body, limits, taken: 0, timer: None, progress: progress.clone() }, progress)
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
                return Err(self.progress.fail(Problem::BodyTooLarge));
            }
        }
        if let Some(trailers) = frame.trailers_mut() {
            strip_hop(trailers);
        }
        let last = frame.is_trailers() || http_body::Body::is_end_stream(&self.body);
        self.progress.pass_to(if last { Turn::Over } else { Turn::Backend });
        Ok(frame)
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
            let since = self.progress.pass_to(Turn::Client);
            if self.is_overdue(since, cx) {
                return Poll::Ready(Some(Err(self.progress.fail(Problem::RequestTimeout))));
            }
            return Poll::Pending;
        };
        Poll::Ready(match polled {
            Some(Ok(frame)) => Some(self.pass(frame)),
            Some(Err(error)) => {
                tracing::debug!(%error, "a request's body cannot be read");
                Some(Err(self.progress.fail(Problem::BadRequest("the request's body is malformed or incomplete"))))
            }
            None => {
                self.progress.pass_to(Turn::Over);
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
        self.progress.pass_to(Turn::Over);
    }
}
