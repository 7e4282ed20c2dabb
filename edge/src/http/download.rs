//! An answer's body on its way to the client. A backend that breaks it off, or goes silent in the middle of it, breaks it off for the client, too: an end that
//! looks whole would be a lie.

use std::{
    fmt::Display,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use gatehouse_chassis::metrics::Metrics;
use http_body::{Body, Frame, SizeHint};
use prometheus::{IntCounter, IntCounterVec};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{forwarded::strip_hop, upload::Watch};
use crate::{
    admission::Seat,
    backends::{Ending, Turn},
    config::Transfer,
};

/// `http_answers_cut_total{backend,reason}`.
#[derive(Clone, Debug)]
pub(crate) struct Cuts(IntCounterVec);

impl Cuts {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let help = "Answers whose head had been passed on when their backend broke them off (broken_off) or went silent (stalled).";
        Self(metrics.counters("http_answers_cut_total", help, &["backend", "reason"]))
    }

    pub(super) fn of(&self, backend: &str) -> CutsOf {
        let of = |reason| self.0.with_label_values(&[backend, reason]);
        CutsOf { broken_off: of("broken_off"), stalled: of("stalled") }
    }
}

/// Those of one backend.
#[derive(Clone, Debug)]
pub(super) struct CutsOf {
    broken_off: IntCounter,
    stalled: IntCounter,
}

/// The body.
#[derive(Debug)]
pub(super) struct Download<B> {
    body: B,
    limits: Transfer,
    /// Since when the client has waited for more.
    waiting: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    upload: Watch,
    cuts: CutsOf,
    /// Until it is over.
    held: Option<Held>,
}

/// What an answer holds of its backend.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) ending: Ending,
    pub(super) seat: Seat,
}

impl<B> Download<B> {
    pub(super) fn new(body: B, limits: Transfer, upload: Watch, cuts: CutsOf, held: Held) -> Self {
        Self { body, limits, waiting: None, timer: None, upload, cuts, held: Some(held) }
    }

    /// The backend has failed in the middle of it.
    fn fail(&mut self) {
        if let Some(Held { ending, seat }) = self.held.take() {
            ending.failed();
            drop(seat);
        }
    }

    /// Whether the backend has been silent for too long. It has a reason as long as the client, who still sends, is waited for; that wait has its own end.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        let waiting = *self.waiting.get_or_insert(now);
        loop {
            let (turn, since) = self.upload.progress.turn();
            let silent_since = if turn == Turn::Client { now } else { waiting.max(since) };
            let due = silent_since + self.limits.read_timeout;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            // A timer that comes too early looks again, which is cheaper than to move it with each frame.
            if timer.deadline() > due || timer.is_elapsed() {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            if due <= Instant::now() {
                return true;
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Body for Download<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
            if self.is_overdue(cx) {
                self.cuts.stalled.inc();
                self.fail();
                return Poll::Ready(Some(Err(Broken)));
            }
            return Poll::Pending;
        };
        self.waiting = None;
        Poll::Ready(match polled {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_hop(trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                // One that ends because its client sent nonsense is not the backend's doing.
                if self.upload.fault().is_none() {
                    self.cuts.broken_off.inc();
                    self.fail();
                }
                self.held = None;
                tracing::debug!(%error, "an answer was broken off");
                Some(Err(Broken))
            }
            None => {
                self.held = None;
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

/// The answer does not go on.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the backend broke its answer off")]
pub(super) struct Broken;
