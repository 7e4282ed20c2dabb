//! Stderr without waiting. A thread of its own writes, so that a terminal that was stopped, or a reader that no longer reads, holds up nobody who has
//! something to say. Lines that find the queue full are dropped and counted.

use std::{
    io::{self, Write as _},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;

static STDERR: LazyLock<Outlet> = LazyLock::new(Outlet::open);

/// The one queue to stderr.
#[derive(Debug)]
pub struct Outlet {
    queue: SyncSender<Message>,
    dropped: AtomicU64,
}

/// The queue as `tracing` writes to it: each write is one event.
#[derive(Debug)]
pub struct Lines(&'static Outlet);

#[derive(Debug)]
enum Message {
    Line(String),
    /// Answered when everything before it was written.
    Flush(SyncSender<()>),
}

impl Outlet {
    /// This process's; the writer starts with the first call.
    #[must_use]
    pub fn stderr() -> &'static Self {
        &STDERR
    }

    fn open() -> Self {
        let (queue, messages) = sync_channel(QUEUE);
        // Without a thread the queue has no receiver, and lines are written by whoever has them.
        let _started = thread::Builder::new().name("outlet".to_owned()).spawn(move || write(&messages));
        Self { queue, dropped: AtomicU64::new(0) }
    }

    /// Writes a line, given without its end.
    pub fn line(&self, line: String) {
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) | Err(TrySendError::Disconnected(Message::Flush(_))) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(Message::Line(line))) => write_line(&line),
        }
    }

    /// How many lines found the queue full since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// Waits until everything is written, but not for longer than `bound`.
    pub fn flush(&self, bound: Duration) {
        let (written, all) = sync_channel(1);
        if self.queue.try_send(Message::Flush(written)).is_ok() {
            // Out of time: nobody is reading.
            let _late = all.recv_timeout(bound);
        }
    }
}

fn write(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Line(line) => write_line(&line),
            Message::Flush(written) => {
                // Whoever asked may have given up.
                let _late = written.try_send(());
            }
        }
    }
}

fn write_line(line: &str) {
    // Nobody may be reading; there is nobody to tell.
    let _unread = writeln!(io::stderr(), "{line}");
}

impl<'a> MakeWriter<'a> for &'static Outlet {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        Lines(self)
    }
}

impl io::Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.line(String::from_utf8_lossy(event).trim_end_matches('\n').to_owned());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
