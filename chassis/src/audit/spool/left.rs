//! What other processes left in their spools, and how it comes into ours.
//!
//! It is moved in parts, each on our disk before it is passed over there, so that a crash leaves a part in both rather than in neither. Before a part is read, the disk
//! is asked for its blocks: a full one costs neither the room that was promised to others nor what stands in our own file.

use std::{fs, io, path::Path};

use rustix::fs::{FallocateFlags, fallocate};

use super::Spool;

/// About so much is moved at once; the last record of it may take as much again.
const PART: u64 = 1 << 20;

impl Spool {
    /// Takes in what stands in the files of any slot of `component` that nobody has. What was handed over before its process died is handed over again.
    ///
    /// `promised` bytes stay free for others, and at most half of what is free besides is filled: whoever believes in Redis is promised places while this goes
    /// on. What does not fit stays where it is until a later look. A file that cannot be taken in holds up no other, and is told once.
    pub(in crate::audit) fn sweep(&mut self, dir: &Path, component: &str, promised: u64) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| belongs_to(name, component)) {
                continue;
            }
            let path = entry.path();
            match self.sweep_one(&path, promised) {
                Ok(()) => drop(self.told.remove(&path)),
                Err(error) => {
                    if self.told.insert(path.clone()) {
                        tracing::warn!(spool = %path.display(), %error, "what was left in an audit spool cannot be taken in now");
                    }
                }
            }
        }
        Ok(())
    }

    fn sweep_one(&mut self, path: &Path, promised: u64) -> io::Result<()> {
        let (length, budget) = (fs::metadata(path)?.len(), self.max.saturating_sub(self.len() + promised) / 2);
        // Our own is locked as well.
        if length == 0 || budget == 0 || path == self.path {
            return Ok(());
        }
        // Before the whole file is read for nothing.
        self.claim(length.min(PART) + promised)?;
        match Self::lock(path, self.max)? {
            Some(mut left) => self.take_in(&mut left, budget, promised),
            None => Ok(()),
        }
    }

    /// Moves records of another file behind its own, at most so many bytes.
    pub(super) fn take_in(&mut self, left: &mut Self, budget: u64, promised: u64) -> io::Result<()> {
        self.lost += std::mem::take(&mut left.lost);
        let mut taken = 0;
        let moved = loop {
            let mut part = left.len().min(PART).min(budget - taken);
            let (records, bytes) = loop {
                let front = left.front(part)?;
                if taken + front.1 <= budget {
                    break front;
                }
                part /= 2;
            };
            if bytes == 0 {
                break Ok(());
            }
            if let Err(error) = self.claim(bytes + promised).and_then(|()| self.append(&records)) {
                break Err(error);
            }
            taken += bytes;
            left.pass(bytes)?;
        };
        self.lost += std::mem::take(&mut left.lost);
        if taken > 0 && !left.is_empty() {
            // Or the same would be read again the next time.
            left.mark()?;
        }
        moved
    }

    /// Has the disk hold blocks for so many bytes more, where the file system knows how.
    fn claim(&mut self, bytes: u64) -> io::Result<()> {
        if self.allocated.is_none_or(|allocated| allocated >= self.end + bytes) {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.end, bytes) {
            Ok(()) => self.allocated = Some(self.end + bytes),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.allocated = None,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// `edge-0.spool`, `edge-0.1.spool`.
pub(super) fn belongs_to(file: &str, component: &str) -> bool {
    let slot = file.strip_suffix(".spool").and_then(|slot| slot.strip_prefix(component)?.strip_prefix('-'));
    slot.is_some_and(|slot| slot.split('.').all(|number| number.parse::<u32>().is_ok()))
}
