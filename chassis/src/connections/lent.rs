//! A socket that is lent to the HTTP implementation and comes back when that is done with it, so that it can be closed as a client needs it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::oneshot,
    time::timeout,
};

use super::{pong::Pong, traffic::Traffic};

/// A socket of either family, or what is encrypted on one.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Dropped, it goes back to who lent it.
pub(super) struct Lent {
    stream: Option<Box<dyn Stream>>,
    back: Option<oneshot::Sender<Box<dyn Stream>>>,
    pong: Pong,
    traffic: Arc<Traffic>,
}

impl Lent {
    pub(super) fn new(stream: Box<dyn Stream>, pong: Pong, traffic: &Arc<Traffic>) -> (Self, oneshot::Receiver<Box<dyn Stream>>) {
        let (back, returned) = oneshot::channel();
        (Self { stream: Some(stream), back: Some(back), pong, traffic: Arc::clone(traffic) }, returned)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut dyn Stream>> {
        self.stream.as_deref_mut().map(|stream| Pin::new(stream) as Pin<&mut dyn Stream>).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Who lent it is gone: so is the connection.
            let _closed = back.send(stream);
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pong.is_begun() {
            return self.pong.poll_due(cx, buf).map(Ok);
        }
        let before = buf.filled().len();
        let read = self.stream()?.poll_read(cx, buf)?;
        let this = &mut *self;
        if buf.filled().len() > before {
            this.traffic.heard();
            this.pong.pass(&mut buf.filled_mut()[before..], &this.traffic);
        }
        if this.traffic.is_hostile() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if read.is_pending() { self.pong.poll_due(cx, buf).map(Ok) } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write(cx, buf);
        self.traffic.wrote(written.is_ready());
        written
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write_vectored(cx, bufs);
        self.traffic.wrote(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_deref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream()?.poll_flush(cx);
        self.traffic.wrote(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

/// Says that nothing more comes, and reads until the client has said so, too, or `bound` is over.
pub(super) async fn linger(mut stream: Box<dyn Stream>, bound: Duration) {
    let read = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // It is closed whatever comes of it.
    let _late = timeout(bound, read).await;
}
