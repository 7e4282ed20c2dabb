//! What is open until it was answered.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::traffic::Open;

/// The most that is handed on at once: h2 takes a frame before there is room for it, and what it has taken counts as answered.
const MAX_FRAME: usize = 64 << 10;

/// The body of an answer, which is open until its last frame is taken, or it is dropped.
pub(super) struct Answer {
    body: Body,
    /// What is left of a frame that was too large.
    rest: Bytes,
    open: Option<Open>,
}

impl Answer {
    pub(super) fn new(body: Body, open: Open) -> Self {
        Self { body, rest: Bytes::new(), open: Some(open) }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = if self.rest.is_empty() {
            Pin::new(&mut self.body).poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.rest)))))
        };
        if polled.is_pending()
            && let Some(open) = &mut self.open
        {
            open.wait();
        }
        let frame = match ready!(polled) {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(mut data) => {
                    self.rest = data.split_off(data.len().min(MAX_FRAME));
                    Frame::data(data)
                }
                Err(trailers) => trailers,
            })),
            other => other,
        };
        let is_last = frame.as_ref().is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers)) || self.is_end_stream();
        if let Some(open) = &mut self.open {
            if is_last {
                open.complete();
                self.open = None;
            } else {
                open.deliver();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::connections::traffic::Traffic;

    #[tokio::test]
    async fn an_answer_in_one_piece_is_open_until_the_last_of_it_is_taken() {
        let traffic = Traffic::new();
        let whole: Bytes = (0..150_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut answer = Answer::new(Body::from(whole.clone()), traffic.begin(http::Version::HTTP_2));
        let mut taken = Vec::new();
        while taken.len() < whole.len() {
            assert_eq!((traffic.open(), answer.size_hint().exact()), (1, Some((whole.len() - taken.len()) as u64)));
            let piece = answer.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() <= MAX_FRAME);
            taken.extend(piece);
        }
        assert!(taken == whole && answer.is_end_stream());
        assert_eq!(traffic.open(), 0);
    }
}
