//! A TCP connection that remembers how it ended, which HTTP libraries tell in many words or not at all.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Known {
    /// Since when it is open, at the latest: the connect began. Its end is heard of when this thread has time.
    pub(super) connected: Instant,
    reset: AtomicBool,
    closed: AtomicBool,
}

impl Known {
    /// The other side reset it.
    pub(super) fn was_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// The other side closed it.
    pub(super) fn was_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn note<T>(&self, result: &io::Result<T>) {
        if let Err(error) = result
            && is_reset(error)
        {
            self.reset.store(true, Ordering::Relaxed);
        }
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Tap {
    stream: TcpStream,
    pub(super) known: Arc<Known>,
}

impl Tap {
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let begun = Instant::now();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let known = Known { connected: begun, reset: AtomicBool::new(false), closed: AtomicBool::new(false) };
        Ok(Self { stream, known: Arc::new(known) })
    }

    /// What an idle connection has been told meanwhile.
    pub(super) fn look(&self) -> Idle {
        let looked = self.stream.try_read(&mut [0]);
        self.known.note(&looked);
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Idle::Open,
            Err(_) => Idle::Reset,
            Ok(0) => Idle::Closed,
            Ok(_) => Idle::Speaks,
        }
    }
}

/// How an idle connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    Open,
    Closed,
    Reset,
    /// An answer that nobody asked for.
    Speaks,
}

/// Whether the other side has thrown the connection away.
pub(super) fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted)
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.known.note(&read);
        if read.is_ok() && buffer.filled().len() == before && buffer.remaining() > 0 {
            self.known.closed.store(true, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.known.note(&written);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, buffers));
        self.known.note(&written);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
