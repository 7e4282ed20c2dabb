//! Stderr without waiting. A thread of its own writes, so that a terminal that was stopped, or a reader that no longer reads, holds up nobody who has
//! something to say. Lines that find the queue full are dropped and counted; when it moves again, a line says how many.
//!
//! Under a supervisor stderr is a pipe that outlives its reader: while no supervisor runs it fills, and whoever wrote to it directly would stand still.

use std::{
    io::{self, Write},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;
/// And their bytes.
const QUEUE_BYTES: usize = 4 << 20;
/// What is written with one call.
const BATCH: usize = 64 << 10;
/// Before the next try, when a stderr that somebody else has set to non-blocking is full.
const FULL: Duration = Duration::from_millis(10);

static STDERR: LazyLock<Outlet> = LazyLock::new(|| Outlet::over(io::stderr()));

/// The one queue to stderr.
#[derive(Debug)]
pub struct Outlet {
    queue: SyncSender<Message>,
    load: Arc<Load>,
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

#[derive(Debug, Default)]
struct Load {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Outlet {
    /// This process's; the writer starts with the first call.
    #[must_use]
    pub fn stderr() -> &'static Self {
        &STDERR
    }

    fn over(out: impl Write + Send + 'static) -> Self {
        let (queue, messages) = sync_channel(QUEUE);
        let load = Arc::new(Load::default());
        let written = Arc::clone(&load);
        // Without a thread the queue has no receiver, and lines are written by whoever has them.
        let _started = thread::Builder::new().name("outlet".to_owned()).spawn(move || write(&messages, out, &written));
        Self { queue, load }
    }

    /// Writes a line, given without its end.
    pub fn line(&self, line: String) {
        let length = line.len();
        if self.load.bytes.fetch_add(length, Ordering::Relaxed) > QUEUE_BYTES {
            self.load.drop_line(length);
            return;
        }
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) | Err(TrySendError::Disconnected(Message::Flush(_))) => {}
            Err(TrySendError::Full(_)) => self.load.drop_line(length),
            Err(TrySendError::Disconnected(Message::Line(line))) => {
                self.load.bytes.fetch_sub(length, Ordering::Relaxed);
                // Nobody may be reading; there is nobody to tell.
                let _unread = io::stderr().write_all(format!("{line}\n").as_bytes());
            }
        }
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

impl Load {
    fn drop_line(&self, length: usize) {
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn write(messages: &Receiver<Message>, mut out: impl Write, load: &Load) {
    let (mut batch, mut flushed) = (Vec::new(), Vec::new());
    while let Ok(first) = messages.recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    load.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    batch.extend_from_slice(line.as_bytes());
                    batch.push(b'\n');
                }
                Message::Flush(written) => flushed.push(written),
            }
            next = if batch.len() < BATCH { messages.try_recv().ok() } else { None };
        }
        write_all(&mut out, &batch);
        batch.clear();
        for written in flushed.drain(..) {
            // Whoever asked may have given up.
            let _late = written.try_send(());
        }
        let lines = load.dropped.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(lines, "lines dropped: stderr is not read fast enough");
        }
    }
}

fn write_all(out: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(written) if written > 0 => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(FULL),
            // Nobody is reading; there is nobody to tell.
            Ok(_) | Err(_) => return,
        }
    }
}

impl<'a> MakeWriter<'a> for &'static Outlet {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        Lines(self)
    }
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.line(String::from_utf8_lossy(event).trim_end_matches('\n').to_owned());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, pipe},
        time::Instant,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn whoever_speaks_waits_for_no_reader_and_what_was_dropped_is_counted() {
        let (reader, writer) = pipe().unwrap();
        let outlet = Outlet::over(writer);
        let begun = Instant::now();
        for number in 0..3 * QUEUE {
            outlet.line(format!("{number} {}", ".".repeat(64)));
        }
        outlet.flush(Duration::from_millis(10));
        assert!(begun.elapsed() < PATIENCE);
        let dropped = usize::try_from(outlet.load.dropped.load(Ordering::Relaxed)).unwrap();
        assert!(dropped > 0);
        // Those that were taken arrive, in order and whole.
        let lines: Vec<_> = BufReader::new(reader).lines().take(3 * QUEUE - dropped).map(Result::unwrap).collect();
        assert!(lines.iter().all(|line| line.ends_with(&".".repeat(64))));
        assert!(lines[0].starts_with("0 ") && lines[1].starts_with("1 "));
    }

    #[test]
    fn few_long_lines_fill_the_queue_as_well_as_many_short_ones() {
        let (_never_read, writer) = pipe().unwrap();
        let outlet = Outlet::over(writer);
        for _ in 0..100 {
            outlet.line("x".repeat(1 << 20));
        }
        assert!(outlet.load.dropped.load(Ordering::Relaxed) >= 90);
    }

    #[test]
    fn flush_waits_until_all_is_written() {
        let (mut reader, writer) = pipe().unwrap();
        let outlet = Outlet::over(writer);
        outlet.line("first".to_owned());
        outlet.line("last".to_owned());
        outlet.flush(PATIENCE);
        drop(outlet);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first\nlast\n");
    }
}
