//! An answer's body that is watched for its status, and that a drain may end.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use gatehouse_chassis::Shutdown;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::GrpcRequest;
use crate::verdict;

/// See the module's head.
pub(super) struct Observed {
    body: Body,
    running: Option<GrpcRequest>,
    until: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Observed {
    /// `until` ends the body with the shutdown verdict when the drain begins.
    pub(super) fn new(body: Body, running: GrpcRequest, until: Option<Shutdown>) -> Self {
        let until = until.map(|shutdown| Box::pin(async move { shutdown.draining().await }) as Pin<Box<dyn Future<Output = ()> + Send>>);
        Self { body, running: Some(running), until }
    }

    fn see(&mut self, trailers: &HeaderMap) {
        if let Some(mut running) = self.running.take() {
            running.see(trailers);
        }
    }
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(trailers) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::trailers_ref) {
                let trailers = trailers.clone();
                self.see(&trailers);
            }
            return Poll::Ready(frame);
        }
        let Some(until) = &mut self.until else { return Poll::Pending };
        ready!(until.as_mut().poll(cx));
        let mut trailers = HeaderMap::new();
        if verdict::shutting_down().add_header(&mut trailers).is_err() {
            return Poll::Ready(None);
        }
        self.see(&trailers);
        (self.until, self.body) = (None, Body::empty());
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
