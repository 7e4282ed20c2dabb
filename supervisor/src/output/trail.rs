//! The auditor's stdout, passed on to ours as it is: one JSON object a line, a copy of the audit trail (CONTRACT.md §5).
//!
//! The queue is short, and when it is full the auditor's pipe is not read: the auditor itself knows what to do then. It waits for a moment, skips lines,
//! counts them and says so. So a reader who is slow for a while loses nothing.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use gatehouse_chassis::Shutdown;
use memchr::memchr_iter;
use prometheus::IntCounter;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Pieces that may wait for a reader.
const QUEUE: usize = 16;
/// How long a reader may take over what is left at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Whole lines, counted as lost when they are dropped before they were written.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Vec<u8>,
    lines: u64,
    /// None of a mark, which holds no lines.
    dropped: Option<IntCounter>,
    /// Told when it was written.
    written: Option<oneshot::Sender<()>>,
}

/// The queue to stdout.
#[derive(Debug)]
pub(crate) struct Trail {
    /// `None`: closed.
    queue: Mutex<Option<mpsc::Sender<Piece>>>,
    writer: Shutdown,
}

impl Trail {
    /// Starts the writer.
    pub(crate) fn open(out: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        let (queue, pieces) = mpsc::channel(QUEUE);
        let writer = Shutdown::default();
        writer.spawn("trail", write(pieces, out));
        Self { queue: Mutex::new(Some(queue)), writer }
    }

    /// Waits for a place in the queue. `None`: closed.
    pub(crate) async fn place(&self) -> Option<mpsc::OwnedPermit<Piece>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        queue?.reserve_owned().await.ok()
    }

    /// For whoever ends now and cannot wait.
    pub(crate) fn pass_now(&self, piece: Piece) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = &*queue {
            // Full or closed: it is lost, and counted.
            let _lost = queue.try_send(piece);
        }
    }

    /// Waits, for a moment, until everything that was passed on is written.
    pub(crate) async fn flush(&self) {
        let (written, all) = oneshot::channel();
        let flushed = async {
            if let Some(place) = self.place().await {
                place.send(Piece::mark(written));
                // Our stdout is closed.
                let _closed = all.await;
            }
        };
        let _late = timeout(LAST_LINES, flushed).await;
    }

    /// Waits, for a moment, until everything is written.
    pub(crate) async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if timeout(LAST_LINES, self.writer.finished()).await.is_err() {
            tracing::warn!("nobody reads our stdout; the last audit lines are left out");
            self.writer.abort();
            self.writer.finished().await;
        }
    }
}

impl Piece {
    /// Whole lines; what is lost of them is counted there.
    pub(crate) fn new(bytes: Vec<u8>, dropped: IntCounter) -> Self {
        let lines = memchr_iter(b'\n', &bytes).count() as u64;
        Self { bytes, lines, dropped: Some(dropped), written: None }
    }

    /// Nothing, but told when all before it was written.
    const fn mark(written: oneshot::Sender<()>) -> Self {
        Self { bytes: Vec::new(), lines: 0, dropped: None, written: Some(written) }
    }

    /// How many lines.
    pub(crate) const fn lines(&self) -> u64 {
        self.lines
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.inc_by(self.lines);
        }
    }
}

async fn write(mut pieces: mpsc::Receiver<Piece>, mut out: impl AsyncWrite + Unpin) {
    let mut closed = false;
    while let Some(mut piece) = pieces.recv().await {
        if closed {
            continue;
        }
        match pass_on(&mut out, &piece.bytes).await {
            Ok(()) => {
                piece.lines = 0;
                // Whoever asked may have given up.
                let _late = piece.written.take().map(|written| written.send(()));
            }
            Err(error) => {
                tracing::warn!(%error, "our stdout is closed; audit lines are left out from here on");
                closed = true;
            }
        }
    }
}

async fn pass_on(out: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes).await?;
    out.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn piece(number: u64, dropped: &IntCounter) -> Piece {
        Piece::new(format!("{number}\n").into_bytes(), dropped.clone())
    }

    #[tokio::test]
    async fn a_reader_who_is_slow_for_a_while_loses_nothing() {
        let dropped = IntCounter::new("dropped", "Dropped.").unwrap();
        let (out, mut reader) = tokio::io::duplex(16);
        let trail = std::sync::Arc::new(Trail::open(out));
        let (sender, counter) = (trail.clone(), dropped.clone());
        let tasks = Shutdown::default();
        tasks.spawn("sender", async move {
            for number in 0..200 {
                sender.place().await.unwrap().send(piece(number, &counter));
            }
            sender.close().await;
        });
        // Everybody waits until somebody reads.
        tokio::task::yield_now().await;
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        let expected = (0..200).map(|number| number.to_string() + "\n").collect::<String>();
        assert_eq!((text, dropped.get()), (expected, 0));
        tasks.finished().await;
    }

    #[tokio::test]
    async fn lines_for_a_reader_who_has_gone_are_counted() {
        let dropped = IntCounter::new("dropped", "Dropped.").unwrap();
        let (out, reader) = tokio::io::duplex(16);
        drop(reader);
        let trail = Trail::open(out);
        for number in 0..5 {
            trail.place().await.unwrap().send(piece(number, &dropped));
        }
        trail.close().await;
        assert!(trail.place().await.is_none());
        trail.pass_now(piece(5, &dropped));
        assert_eq!(dropped.get(), 6);
    }

    #[tokio::test]
    async fn a_reader_who_never_reads_does_not_hold_up_the_end() {
        let dropped = IntCounter::new("dropped", "Dropped.").unwrap();
        let (out, _never_read) = tokio::io::duplex(1);
        let trail = Trail::open(out);
        for number in 0..5 {
            trail.place().await.unwrap().send(piece(number, &dropped));
        }
        trail.close().await;
        assert_eq!(dropped.get(), 5);
    }
}
