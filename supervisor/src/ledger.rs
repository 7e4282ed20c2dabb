//! The last thousand ends of processes, with what they said last: in memory, and as JSON lines in `{state_dir}/exits.jsonl`, so that the next supervisor knows
//! them.
//!
//! Without fsync: what a crash of the machine takes, nobody misses; a crash of ours takes nothing. Lines are appended on a thread for blocking work, not by
//! the suite's task: an append is short, but a disk that stands still must not stop the restarts. While it cannot be written, memory has it, and the
//! file is written anew as soon as it can be.

mod file;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gatehouse_proto::internal::v1::ExitRecord;
use tokio::{runtime::Handle, task::spawn_blocking, time::timeout};

use self::file::LedgerFile;
use crate::component::SlotId;

/// Records kept.
const KEPT: usize = 1000;
/// What they may take in memory, as JSON: the last words of the oldest go first.
const KEPT_BYTES: usize = 1 << 20;

/// One for the suite; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: Mutex<Memory>,
    /// Locked before the memory.
    file: Mutex<LedgerFile>,
    /// A thread is on its way to write all that is in the memory by then.
    called: AtomicBool,
}

#[derive(Debug, Default)]
struct Memory {
    /// Oldest first, as they stand in the file.
    lines: VecDeque<Box<str>>,
    bytes: usize,
    /// So many of the oldest have lost their last words.
    wordless: usize,
    /// So many of the newest are not in the file.
    unwritten: usize,
}

impl Ledger {
    /// With what the last supervisor left. What is no record of ours is passed over.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let mut memory = Memory::default();
        let file = LedgerFile::open(state_dir, |line| memory.push(line.into()));
        Self(Arc::new(Inner { memory: Mutex::new(memory), file: Mutex::new(file), called: AtomicBool::new(false) }))
    }

    /// Remembers an end.
    pub(crate) fn record(&self, record: &ExitRecord) {
        let Some(line) = to_line(record) else { return };
        {
            let mut memory = self.memory();
            memory.unwritten += 1;
            memory.push(line);
        }
        self.flush_soon();
    }

    /// Writes what is not written yet, without waiting for the disk.
    pub(crate) fn flush_soon(&self) {
        match Handle::try_current() {
            // On a disk that stands still, each would be a thread.
            Ok(_) if self.0.called.swap(true, Ordering::AcqRel) => {}
            Ok(runtime) => {
                let this = self.clone();
                drop(runtime.spawn_blocking(move || this.flush()));
            }
            Err(_) => self.flush(),
        }
    }

    /// The same, and waits for it, but no longer than that: whether the disk was ready by then. For the end, and before another binary takes this one's place.
    pub(crate) async fn flushed(&self, bound: Duration) -> bool {
        let this = self.clone();
        timeout(bound, spawn_blocking(move || this.flush())).await.is_ok()
    }

    fn flush(&self) {
        let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.called.store(false, Ordering::Release);
        // Not to be locked while the file is written: the suite's task takes it for each end.
        let (text, unwritten, kept) = {
            let mut memory = self.memory();
            let unwritten = std::mem::take(&mut memory.unwritten).min(memory.lines.len());
            if unwritten == 0 && file.is_whole() {
                return;
            }
            let skip = if file.appends(unwritten) { memory.lines.len() - unwritten } else { 0 };
            let text = memory.lines.iter().skip(skip).fold(String::new(), |text, line| text + line + "\n");
            (text, unwritten, memory.lines.len())
        };
        file.write(&text, unwritten, kept);
    }

    /// The newest, newest first.
    pub(crate) fn newest(&self, fits: impl Fn(&ExitRecord) -> bool, limit: usize) -> Vec<ExitRecord> {
        let memory = self.memory();
        let records = memory.lines.iter().rev().filter_map(|line| serde_json::from_str(line).ok());
        records.filter(fits).take(limit).collect()
    }

    /// The newest of that slot.
    pub(crate) fn last_of(&self, id: SlotId) -> Option<ExitRecord> {
        self.newest(|record| record.component == id.component.name() && record.instance == id.instance, 1).pop()
    }

    /// Whether that end is in it. One that was not started well has no pid there.
    pub(crate) fn has(&self, id: SlotId, generation: u32, pid: u32) -> bool {
        let is_it = |record: &ExitRecord| {
            record.component == id.component.name()
                && (record.instance, record.generation) == (id.instance, generation)
                && [0, pid].contains(&record.pid)
        };
        !self.newest(is_it, 1).is_empty()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn push(&mut self, line: Box<str>) {
        self.bytes += line.len();
        self.lines.push_back(line);
        if self.lines.len() > KEPT {
            self.forget();
        }
        while self.bytes > KEPT_BYTES && self.wordless < self.lines.len() {
            self.silence();
        }
        while self.bytes > KEPT_BYTES {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        self.wordless = self.wordless.saturating_sub(1);
    }

    /// The oldest that still has its last words loses them.
    fn silence(&mut self) {
        let Some(line) = self.lines.get_mut(self.wordless) else { return };
        let shorter = serde_json::from_str(line).ok().and_then(|record| to_line(&ExitRecord { last_words: Vec::new(), ..record }));
        if let Some(shorter) = shorter.filter(|shorter| shorter.len() <= line.len()) {
            self.bytes -= line.len() - shorter.len();
            *line = shorter;
        }
        self.wordless += 1;
    }
}

fn to_line(record: &ExitRecord) -> Option<Box<str>> {
    // A message of strings and numbers; there is nothing in it that JSON could not hold.
    serde_json::to_string(record).ok().map(String::into_boxed_str)
}

#[cfg(test)]
mod tests;
