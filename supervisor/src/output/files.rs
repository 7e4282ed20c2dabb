//! Lines in files, `{dir}/edge.log`, written by a thread of its own, for a disk may stand still. What cannot be written is dropped and counted, here alone:
//! stderr and the rings have it.

mod log_file;
mod shelf;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use tokio::sync::oneshot;

use self::log_file::{Change, LogFile};
use super::lines::Line;
use crate::component::SlotId;

pub(crate) use shelf::{Place, Reading, Shelf, Wanted};

/// Lines that may wait for the disk.
const QUEUE: usize = 4096;
/// And their bytes.
const QUEUE_BYTES: usize = 1 << 20;
/// Lines written with one look at the queue, before files are flushed.
const BATCH: usize = 256;
/// Between two tries on a full disk.
const RETRY: Duration = Duration::from_secs(5);

/// Where the files are and how many.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) dir: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) keep: u32,
}

/// The queue to the writer.
#[derive(Debug)]
pub(crate) struct Files {
    queue: SyncSender<Message>,
    /// Slots whose last lines were refused. The next line of such a slot takes its gap along.
    gaps: Mutex<Vec<(SlotId, Gap)>>,
    load: Arc<Load>,
}

/// Lines that the queue had no room for.
#[derive(Clone, Copy, Debug)]
struct Gap {
    /// The first of them.
    from: u64,
    lines: u64,
}

#[derive(Debug)]
struct Load {
    bytes: AtomicUsize,
    /// Found the queue full since the writer last looked.
    refused: AtomicU64,
    dropped: IntCounter,
}

enum Message {
    /// With what is missing before it.
    Line(Arc<Line>, Option<Gap>),
    /// Everything before it is in the files that are answered, but for what is missing at the end of some.
    Look(Wanted, Vec<(SlotId, Gap)>, oneshot::Sender<Vec<Shelf>>),
}

impl Files {
    /// Starts the writer; nothing is opened before the first line.
    pub(crate) fn open(bounds: Bounds, dropped: IntCounter) -> io::Result<Self> {
        Self::with_retry(bounds, dropped, RETRY)
    }

    fn with_retry(bounds: Bounds, dropped: IntCounter, retry: Duration) -> io::Result<Self> {
        let (files, mut writer, messages) = Self::parts(bounds, dropped, retry);
        thread::Builder::new().name("logs".to_owned()).spawn(move || writer.run(&messages))?;
        Ok(files)
    }

    fn parts(bounds: Bounds, dropped: IntCounter, retry: Duration) -> (Self, Writer, Receiver<Message>) {
        let (queue, messages) = sync_channel(QUEUE);
        let load = Arc::new(Load { bytes: AtomicUsize::new(0), refused: AtomicU64::new(0), dropped });
        let writer = Writer { bounds, retry, files: Vec::new(), load: Arc::clone(&load) };
        (Self { queue, gaps: Mutex::default(), load }, writer, messages)
    }

    /// Hands a line over, or drops it.
    pub(crate) fn line(&self, line: Arc<Line>) {
        let (bytes, slot, seq) = (line.text.len(), line.slot, line.seq);
        let mut gaps = self.gaps();
        let place = gaps.iter().position(|(known, _)| *known == slot);
        let gap = place.and_then(|place| gaps.get(place)).map(|(_, gap)| *gap);
        let waiting = self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting <= QUEUE_BYTES && self.queue.try_send(Message::Line(line, gap)).is_ok() {
            place.map(|place| gaps.swap_remove(place));
            return;
        }
        self.load.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.load.refused.fetch_add(1, Ordering::Relaxed);
        self.load.dropped.inc();
        match place.and_then(|place| gaps.get_mut(place)) {
            Some((_, gap)) => gap.lines += 1,
            None => gaps.push((slot, Gap { from: seq, lines: 1 })),
        }
    }

    fn gaps(&self) -> MutexGuard<'_, Vec<(SlotId, Gap)>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of those slots, with everything that was handed over before. `None`: the disk stands still.
    pub(crate) fn look(&self, wanted: Wanted) -> impl Future<Output = Option<Vec<Shelf>>> + use<> {
        let (answer, shelves) = oneshot::channel();
        let asked = self.queue.try_send(Message::Look(wanted, self.gaps().clone(), answer)).is_ok();
        async move { if asked { shelves.await.ok() } else { None } }
    }
}

struct Writer {
    bounds: Bounds,
    retry: Duration,
    files: Vec<(SlotId, LogFile)>,
    load: Arc<Load>,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let (mut next, mut looks, mut lines) = (Some(first), Vec::new(), 0);
            while let Some(message) = next {
                match message {
                    Message::Line(line, gap) => self.append(&line, gap),
                    Message::Look(wanted, gaps, answer) => looks.push((wanted, gaps, answer)),
                }
                lines += 1;
                // What comes after a look must not be in its answer.
                next = if lines < BATCH && looks.is_empty() { messages.try_recv().ok() } else { None };
            }
            self.flush();
            for (wanted, gaps, answer) in looks {
                let written = self.files.iter().map(|(slot, file)| (*slot, file.missing_from()));
                let refused = gaps.iter().map(|(slot, gap)| (*slot, Some(gap.from)));
                // Whoever asked may have given up.
                let _gone = answer.send(shelf::open(&self.bounds, wanted, written.chain(refused)));
            }
            let refused = self.load.refused.swap(0, Ordering::Relaxed);
            if refused > 0 {
                tracing::warn!(lines = refused, "lines are missing in the log files: the disk is too slow");
            }
        }
    }

    fn append(&mut self, line: &Line, gap: Option<Gap>) {
        self.load.bytes.fetch_sub(line.text.len(), Ordering::Relaxed);
        let place = self.files.iter().position(|(known, _)| *known == line.slot).unwrap_or_else(|| {
            self.files.push((line.slot, LogFile::new(&self.bounds, line.slot)));
            self.files.len() - 1
        });
        if let Some((_, file)) = self.files.get_mut(place)
            && !file.append(line, gap, Instant::now())
        {
            self.load.dropped.inc();
        }
    }

    fn flush(&mut self) {
        for place in 0..self.files.len() {
            let sick = self.files.iter().filter(|(_, file)| file.missing_from().is_some()).count();
            let Some((_, file)) = self.files.get_mut(place) else { continue };
            match file.flush(Instant::now(), self.retry) {
                Change::None => {}
                Change::Failed { error, lost } => {
                    self.load.dropped.inc_by(lost);
                    // A full disk is full for all; it is said once.
                    if sick == 0 {
                        tracing::warn!(%error, "log files are not written until {} can be written again", file.path().display());
                    }
                }
                Change::Resumed { lost } => tracing::info!(lines = lost, "{} is written again; lines are missing", file.path().display()),
            }
        }
    }
}

/// The directory, for this user alone and its group.
fn create(dir: &std::path::Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)
}

#[cfg(test)]
mod tests;
