//! A queue of byte records in one file: what a process could not hand over before it died is there at its next start.
//!
//! Each record is its length and its CRC-32, 4 little-endian bytes each, and its bytes. [`Spool::append`] returns when all that it was given is on disk. Records
//! that a crash cut short were never acknowledged; they are cut off at the next start. Records read again after a crash were handed over already: the reader must
//! know how to drop repeats.
//!
//! What was passed over gives its blocks back now and then, so that a long queue which is read and appended to at once has no more than its bound on the disk. From
//! then on the file begins with a mark, in the place of a record, that says where the first one is.
//!
//! Some room ahead of the last record is taken from the disk in advance, as far as the file system knows how: [`Spool::room`] is a promise also when the disk fills up.
//!
//! What the disk did not keep costs what it held, and never what stands behind it: see [`rotten`].
//!
//! A file belongs to the one process that has it locked. When a component is replaced, its next generation opens its spool while the last one still drains
//! and writes: it takes a file of its own, and takes in what nobody holds any more. What the last one leaves when it ends later than that, and what a slot that is no
//! more has left, whoever is there of the component takes in when it looks round, [`Spool::sweep`].

mod left;
mod rotten;

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::fs::{FallocateFlags, fallocate};

const HEADER_LEN: usize = 8;
const HEADER: u64 = HEADER_LEN as u64;
/// A length that no record has: what follows is where the first record is, 8 little-endian bytes.
const MARK: u32 = u32::MAX;
const MARK_LEN: usize = HEADER_LEN + 8;
/// What a probe writes.
const PROBE: usize = 4096;
/// Bytes passed over before their blocks are given back.
const RECLAIM: u64 = 1 << 20;
/// Bytes taken from the disk ahead of the last record, while there is none and while there are some: then records come here, as many as are in flight.
const AHEAD: [u64; 2] = [256 << 10, 16 << 20];
/// Holes begin behind the block that holds the mark.
const BLOCK: u64 = 4096;
/// Processes of one slot that may have a spool at once. Two is common.
const GENERATIONS: u32 = 8;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    path: PathBuf,
    front: u64,
    end: u64,
    max: u64,
    /// Up to where blocks were given back.
    reclaimed: u64,
    /// Up to where the disk holds blocks for us; `None` where the file system does not know how.
    allocated: Option<u64>,
    /// The last write failed, and none has succeeded since.
    failing: bool,
    /// Up to where what is corrupt has been told.
    rotten: u64,
    /// Parts that were found corrupt, until [`Spool::take_lost`].
    lost: u64,
    /// Files of others that could not be taken in.
    told: HashSet<PathBuf>,
}

impl Spool {
    /// Opens a file of the slot `name` in `dir` that no other process has, and takes in what stands in those that nobody has.
    pub(super) fn open(dir: &Path, name: &str, max: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let (mut own, mut trouble): (Option<Self>, Option<io::Error>) = (None, None);
        for generation in 0..GENERATIONS {
            let path = dir.join(if generation == 0 { format!("{name}.spool") } else { format!("{name}.{generation}.spool") });
            if own.is_some() && !path.exists() {
                continue;
            }
            // A disk that is full, or a file that cannot be read, is no reason not to start: the sweep tries again.
            let taken = Self::lock(&path, max).and_then(|left| match (&mut own, left) {
                (None, spool) => {
                    own = spool;
                    Ok(())
                }
                (Some(own), Some(mut left)) => own.take_in(&mut left, max.saturating_sub(own.len()), 0),
                (Some(_), None) => Ok(()),
            });
            if let Err(error) = taken {
                tracing::error!(spool = %path.display(), %error, "an audit spool cannot be taken over now; what is in it stays there");
                trouble = Some(error);
            }
        }
        let none = || match trouble {
            Some(error) => anyhow::Error::new(error).context(format!("open a spool of {name} in {}", dir.display())),
            None => anyhow::anyhow!("every spool of {name} in {} belongs to another process", dir.display()),
        };
        let mut own = own.ok_or_else(none)?;
        // The file's name must survive a power cut as what is in it does.
        File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("sync {}", dir.display()))?;
        own.allocate();
        Ok(own)
    }

    /// Opens or makes the file, unless another process has it, and cuts off what a crash left half-written.
    fn lock(path: &Path, max: u64) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let length = file.metadata()?.len();
        let mut spool = Self {
            file,
            path: path.to_owned(),
            front: 0,
            end: length,
            max,
            reclaimed: 0,
            allocated: Some(length),
            failing: false,
            rotten: 0,
            lost: 0,
            told: HashSet::new(),
        };
        spool.front = spool.marked()?;
        spool.reclaimed = spool.front;
        let mut whole = spool.front;
        while whole < length {
            whole = match spool.read(whole)? {
                Some(record) => whole + Self::framed(record.len()),
                None => match spool.whole_behind(whole)? {
                    Some(next) if next < length => next,
                    _ => break,
                },
            };
        }
        if whole < length && spool.is_torn(whole)? {
            tracing::warn!(spool = %path.display(), bytes = length - whole, "cut off a record that a crash left half-written");
            spool.file.set_len(whole)?;
            (spool.end, spool.allocated) = (whole, Some(whole));
        } else if whole < length {
            spool.set_aside(whole)?;
        }
        Ok(Some(spool))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.front == self.end
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> u64 {
        self.end - self.front
    }

    /// Bytes that can be appended for certain, frames included; none while writes fail.
    pub(super) fn room(&self) -> u64 {
        let bound = self.max.saturating_sub(self.len());
        let on_disk = self.allocated.map_or(u64::MAX, |allocated| allocated.saturating_sub(self.end));
        if self.failing { 0 } else { bound.min(on_disk) }
    }

    /// What a record of that length takes.
    pub(super) const fn framed(length: usize) -> u64 {
        HEADER + length as u64
    }

    /// Appends records and waits for the disk, once for all of them. On an error none was appended.
    pub(super) fn append(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        let mut framed = Vec::with_capacity(records.iter().map(|record| record.len() + HEADER_LEN).sum());
        for record in records {
            let length = u32::try_from(record.len()).map_err(io::Error::other)?;
            framed.extend_from_slice(&length.to_le_bytes());
            framed.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
            framed.extend_from_slice(record);
        }
        if self.len() + framed.len() as u64 > self.max {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the spool is full"));
        }
        self.write(&framed)?;
        self.end += framed.len() as u64;
        self.allocate();
        Ok(())
    }

    /// Finds out whether what failed works again: whether the disk has room, and takes a write. [`Spool::room`] says so.
    pub(super) fn probe(&mut self) {
        // What nobody takes for a record, should we die here.
        if self.failing
            && let Err(error) = self.write(&[0xff; PROBE]).and_then(|()| self.cut_behind_the_end())
        {
            tracing::debug!(%error, "the disk takes no audit records");
        }
        self.allocate();
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(bytes, self.end).and_then(|()| self.file.sync_data());
        self.failing = written.is_err();
        if self.failing {
            // What is there of it would look like a record at the next start.
            self.cut_behind_the_end()?;
        }
        written
    }

    fn cut_behind_the_end(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.allocated = self.allocated.map(|_| self.end);
        self.allocate();
        Ok(())
    }

    /// Takes blocks from the disk for the next records, or as many as there are. [`Spool::room`] says how many.
    fn allocate(&mut self) {
        let Some(allocated) = self.allocated else { return };
        let wanted = AHEAD[usize::from(!self.is_empty())].min(self.max.saturating_sub(self.len()));
        let mut ahead = wanted;
        while ahead >= BLOCK && allocated < self.end + ahead.div_ceil(2) {
            match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.end, ahead) {
                Ok(()) => return self.allocated = Some(self.end + ahead),
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return self.allocated = None,
                Err(_) => ahead /= 2,
            }
        }
        if ahead < wanted {
            tracing::debug!(bytes = wanted, "the disk has no such room for the audit spool");
        }
    }

    /// The oldest records, of about `bytes` together, at least one if there is any, and what they take. What is corrupt between them is taken, too, and is none.
    pub(super) fn front(&mut self, bytes: u64) -> io::Result<(Vec<Vec<u8>>, u64)> {
        let (mut records, mut at) = (Vec::new(), self.front);
        while at < self.end && at - self.front < bytes {
            match self.read(at)? {
                Some(record) => {
                    at += Self::framed(record.len());
                    records.push(record);
                }
                None => at = self.pass_over(at)?,
            }
        }
        Ok((records, at - self.front))
    }

    /// Passes over so many bytes of the oldest records, as [`Spool::front`] told them; empties the file when those were all.
    pub(super) fn pass(&mut self, bytes: u64) -> io::Result<()> {
        self.front = (self.front + bytes).min(self.end);
        if !self.is_empty() {
            return self.reclaim();
        }
        if self.end > 0 {
            self.file.set_len(0)?;
            self.file.sync_data()?;
            (self.front, self.end, self.reclaimed, self.rotten) = (0, 0, 0, 0);
            self.allocated = self.allocated.map(|_| 0);
            self.allocate();
        }
        Ok(())
    }

    /// Parts that were found corrupt since this was asked last.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn reclaim(&mut self) -> io::Result<()> {
        if self.front - self.reclaimed < RECLAIM { Ok(()) } else { self.mark() }
    }

    /// Writes down where the first record is, and gives the blocks before it back.
    fn mark(&mut self) -> io::Result<()> {
        if self.front < MARK_LEN as u64 {
            return Ok(());
        }
        let front = self.front.to_le_bytes();
        let mut mark = [0; MARK_LEN];
        mark[..4].copy_from_slice(&MARK.to_le_bytes());
        mark[4..HEADER_LEN].copy_from_slice(&crc32fast::hash(&front).to_le_bytes());
        mark[HEADER_LEN..].copy_from_slice(&front);
        self.file.write_all_at(&mark, 0)?;
        self.file.sync_data()?;
        // One that keeps its blocks is larger than need be, and whole.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if self.front > BLOCK
            && let Err(error) = fallocate(&self.file, hole, BLOCK, self.front - BLOCK)
        {
            tracing::debug!(%error, "the audit spool keeps the blocks of what was handed over");
        }
        self.reclaimed = self.front;
        Ok(())
    }

    /// Where the mark says that the first record is; the beginning without one.
    fn marked(&self) -> io::Result<u64> {
        if self.end < MARK_LEN as u64 {
            return Ok(0);
        }
        let (mut head, mut front) = ([0; HEADER_LEN], [0; 8]);
        self.file.read_exact_at(&mut head, 0)?;
        self.file.read_exact_at(&mut front, HEADER)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let is_mark = u32::from_le_bytes([l0, l1, l2, l3]) == MARK && u32::from_le_bytes([c0, c1, c2, c3]) == crc32fast::hash(&front);
        Ok(if is_mark { u64::from_le_bytes(front).min(self.end) } else { 0 })
    }

    fn read(&self, at: u64) -> io::Result<Option<Vec<u8>>> {
        if at + HEADER > self.end {
            return Ok(None);
        }
        let mut header = [0; HEADER_LEN];
        self.file.read_exact_at(&mut header, at)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
        let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        if at + HEADER + length > self.end {
            return Ok(None);
        }
        let mut record = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut record, at + HEADER)?;
        Ok((crc32fast::hash(&record) == u32::from_le_bytes([c0, c1, c2, c3])).then_some(record))
    }
}

impl Drop for Spool {
    /// Gives the room ahead back.
    fn drop(&mut self) {
        if self.allocated.is_some_and(|allocated| allocated > self.end) {
            // Its blocks are lost to nobody: whoever opens the file next has them.
            let _kept = self.file.set_len(self.end);
        }
    }
}

#[cfg(test)]
mod tests;
