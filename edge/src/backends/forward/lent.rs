//! A client's body, lent to one attempt after the other for as long as none has taken anything of it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Who has the body.
#[derive(Clone, Debug)]
pub(super) struct Lender(Arc<Mutex<Shared>>);

#[derive(Debug)]
struct Shared {
    body: Body,
    taken: bool,
    failed: bool,
}

impl Lender {
    pub(super) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Shared { body, taken: false, failed: false })))
    }

    /// For one attempt.
    pub(super) fn lend(&self) -> Lent {
        Lent(self.clone())
    }

    /// Whether something of it is gone.
    pub(super) fn is_taken(&self) -> bool {
        self.lock().taken
    }

    /// Whether the client broke it off, or sent more than it may.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body as an attempt sends it.
#[derive(Debug)]
pub(super) struct Lent(Lender);

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut shared = self.0.lock();
        let polled = Pin::new(&mut shared.body).poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            shared.taken = true;
            shared.failed = matches!(frame, Some(Err(_)));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}
