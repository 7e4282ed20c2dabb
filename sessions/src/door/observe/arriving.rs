//! A request's message that has to come: tonic waits for the whole of it before anybody of ours is asked, so that half of one, from whomever, would be kept for ever.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

/// How long a message may take, and how much more for each of its bytes: 16 KiB/s are enough.
const PATIENCE: Duration = Duration::from_secs(30);
const PER_BYTE: Duration = Duration::from_nanos(1_000_000_000 / (16 << 10));
/// What all messages that are on their way may hold together.
const MAX_BYTES: usize = 256 << 20;

/// The bytes of all messages that are on their way; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<AtomicUsize>);

/// One message on its way.
#[derive(Debug)]
pub(super) struct Arriving {
    body: Body,
    begun: Instant,
    bytes: usize,
    held: Held,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    pub(super) fn new(body: Body, held: Held) -> Self {
        Self { body, begun: Instant::now(), bytes: 0, held, timer: None }
    }

    fn deadline(&self) -> Instant {
        self.begun + PATIENCE + PER_BYTE.saturating_mul(u32::try_from(self.bytes).unwrap_or(u32::MAX))
    }

    /// Whether there is room for so many more.
    fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.held.0.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BYTES
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.deadline();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let refused = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if self.take(bytes) {
                    return Poll::Ready(Some(Ok(frame)));
                }
                Status::resource_exhausted("too many messages are on their way")
            }
            Poll::Pending if self.is_late(cx) => Status::deadline_exceeded("the request's message did not come in time"),
            other => return other,
        };
        Poll::Ready(Some(Err(axum::Error::new(refused))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A message of so many pieces of that size, one every `pause`.
    fn pieces(count: usize, size: usize, pause: Duration) -> Body {
        let piece = move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; size])))
        };
        Body::new(StreamBody::new(stream::iter(0..count).then(piece)))
    }

    async fn came(body: Body) -> Result<usize, String> {
        let whole = Arriving::new(body, Held::default()).collect().await;
        whole.map(|whole| whole.to_bytes().len()).map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_has_time_by_its_size() {
        assert_eq!(came(pieces(29, 1, SECOND)).await, Ok(29));
        assert!(came(pieces(31, 1, SECOND)).await.unwrap_err().contains("did not come in time"));
        assert_eq!(came(pieces(256, 16 << 10, SECOND)).await, Ok(4 << 20), "a slow link");
        assert!(came(pieces(1, 1, SECOND * 3600)).await.is_err());
    }

    #[tokio::test]
    async fn all_together_hold_no_more_than_there_is_room_for() {
        let held = Held::default();
        let mut open = Vec::new();
        let refused = loop {
            let mut message = Arriving::new(pieces(1, 4 << 20, Duration::ZERO), held.clone());
            match message.frame().await.unwrap() {
                Ok(_) => open.push(message),
                Err(error) => break error.to_string(),
            }
        };
        assert!(refused.contains("too many messages") && open.len() == 64, "{refused} after {}", open.len());
        drop(open);
        assert_eq!(held.0.load(Ordering::Relaxed), 0);
    }
}
