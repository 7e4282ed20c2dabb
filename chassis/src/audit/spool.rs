//! A queue of byte records in one file: what a process could not hand over before it died is there at its next start.
//!
//! Each record is its length and its CRC-32, 4 little-endian bytes each, and its bytes. [`Spool::append`] returns when they are on disk. A record cut short by
//! a crash was never acknowledged; it is cut off at the next start. Records read again after a crash were handed over already: the reader must
//! know how to drop repeats.
//!
//! A file belongs to the one process that has it locked. When a component is replaced, its next generation opens its spool while the last one still drains
//! and writes: it takes a file of its own, and takes in what nobody holds any more. What the last one leaves when it ends later than that, and what a slot that is no
//! more has left, whoever is there of the component takes in when it looks round, [`Spool::sweep`].

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::Context as _;

const HEADER_LEN: usize = 8;
const HEADER: u64 = HEADER_LEN as u64;
/// Processes of one slot that may have a spool at once. Two is common.
const GENERATIONS: u32 = 8;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    front: u64,
    end: u64,
    max: u64,
}

impl Spool {
    /// Opens a file of the slot `name` in `dir` that no other process has, and takes in what stands in those that nobody has.
    pub(super) fn open(dir: &Path, name: &str, max: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut own: Option<Self> = None;
        for generation in 0..GENERATIONS {
            let path = dir.join(if generation == 0 { format!("{name}.spool") } else { format!("{name}.{generation}.spool") });
            if own.is_some() && !path.exists() {
                continue;
            }
            match (&mut own, Self::lock(&path, max).with_context(|| format!("open {}", path.display()))?) {
                (None, spool) => own = spool,
                (Some(own), Some(left)) => own.take_in(&left).with_context(|| format!("take in {}", path.display()))?,
                (Some(_), None) => {}
            }
        }
        own.with_context(|| format!("every spool of {name} in {} belongs to another process", dir.display()))
    }

    /// Takes in what stands in the files of any slot of `component` that nobody has. What was handed over before its process died is handed over again.
    pub(super) fn sweep(&mut self, dir: &Path, component: &str) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| belongs_to(name, component)) || entry.metadata()?.len() == 0 {
                continue;
            }
            // Our own is locked as well.
            if let Some(left) = Self::lock(&entry.path(), self.max)? {
                self.take_in(&left)?;
            }
        }
        Ok(())
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
        let mut spool = Self { file, front: 0, end: length, max };
        let mut whole = 0;
        while let Some(record) = spool.read(whole)? {
            whole += HEADER + record.len() as u64;
        }
        if whole < length {
            tracing::warn!(spool = %path.display(), bytes = length - whole, "cut off a record that a crash left half-written");
            spool.file.set_len(whole)?;
        }
        spool.end = whole;
        Ok(Some(spool))
    }

    /// Moves the records of another file behind its own. What does not fit stays where it is, until a later start.
    fn take_in(&mut self, left: &Self) -> io::Result<()> {
        if left.is_empty() || self.end + left.end > self.max {
            return Ok(());
        }
        let mut chunk = vec![0; 64 << 10];
        let mut copied = 0;
        while copied < left.end {
            let length = left.file.read_at(&mut chunk, copied)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.file.write_all_at(&chunk[..length], self.end + copied)?;
            copied += length as u64;
        }
        self.file.sync_data()?;
        self.end += copied;
        left.file.set_len(0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.front == self.end
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> u64 {
        self.end - self.front
    }

    /// Appends one record and waits for the disk. On an error nothing was appended.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        let end = self.end + HEADER + u64::from(length);
        if end > self.max {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the spool is full"));
        }
        let mut framed = Vec::with_capacity(record.len() + HEADER_LEN);
        framed.extend_from_slice(&length.to_le_bytes());
        framed.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
        framed.extend_from_slice(record);
        let written = self.file.write_all_at(&framed, self.end).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.end = end,
            // What is there of it would look like a record at the next start.
            Err(_) => self.file.set_len(self.end)?,
        }
        written
    }

    /// The oldest record, if any.
    pub(super) fn front(&self) -> io::Result<Option<Vec<u8>>> {
        self.read(self.front)
    }

    /// Passes over the oldest record. It stays in the file until [`Spool::clear`].
    pub(super) fn pop_front(&mut self) -> io::Result<()> {
        if let Some(record) = self.front()? {
            self.front += HEADER + record.len() as u64;
        }
        Ok(())
    }

    /// Empties the file once everything was passed over.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if self.is_empty() && self.end > 0 {
            self.file.set_len(0)?;
            self.file.sync_data()?;
            (self.front, self.end) = (0, 0);
        }
        Ok(())
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

/// `edge-0.spool`, `edge-0.1.spool`.
fn belongs_to(file: &str, component: &str) -> bool {
    let slot = file.strip_suffix(".spool").and_then(|slot| slot.strip_prefix(component)?.strip_prefix('-'));
    slot.is_some_and(|slot| slot.split('.').all(|number| number.parse::<u32>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(spool: &mut Spool) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while let Some(record) = spool.front().unwrap() {
            records.push(record);
            spool.pop_front().unwrap();
        }
        records
    }

    #[test]
    fn records_survive_a_restart_in_order_until_they_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
        let mut spool = open();
        spool.append(b"one").unwrap();
        spool.append(b"").unwrap();
        spool.append(b"three").unwrap();
        spool.pop_front().unwrap();
        drop(spool);
        let mut spool = open();
        assert_eq!(drain(&mut spool), [&b"one"[..], b"", b"three"], "passed over is not cleared");
        spool.clear().unwrap();
        spool.append(b"four").unwrap();
        drop(spool);
        assert_eq!(drain(&mut open()), [b"four"]);
    }

    #[test]
    fn a_record_that_a_crash_cut_short_anywhere_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge-0.spool");
        let mut spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
        spool.append(b"whole").unwrap();
        let kept = spool.len();
        spool.append(b"torn").unwrap();
        drop(spool);
        let whole = fs::read(&path).unwrap();
        for cut in kept..whole.len() as u64 {
            fs::write(&path, &whole[..usize::try_from(cut).unwrap()]).unwrap();
            let mut spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
            spool.append(b"next").unwrap();
            assert_eq!(drain(&mut spool), [&b"whole"[..], b"next"], "cut at {cut}");
        }
    }

    #[test]
    fn a_full_spool_refuses_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), "s", 20).unwrap();
        spool.append(b"12345").unwrap();
        assert_eq!(spool.append(b"too much").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(drain(&mut spool), [b"12345"]);
    }

    #[test]
    fn a_generation_that_drains_and_the_next_one_do_not_share_a_file_and_the_one_after_has_the_records_of_both() {
        let dir = tempfile::tempdir().unwrap();
        let open = |max| Spool::open(dir.path(), "edge-0", max).unwrap();
        let (mut old, mut new) = (open(1 << 20), open(1 << 20));
        old.append(b"old").unwrap();
        new.append(b"new").unwrap();
        old.append(b"old, too").unwrap();
        drop(old);
        drop(new);
        assert_eq!(drain(&mut open(30)), [&b"old"[..], b"old, too"], "what does not fit stays where it is");
        assert_eq!(drain(&mut open(1 << 20)), [&b"old"[..], b"old, too", b"new"]);
        assert_eq!(drain(&mut open(1 << 20)).len(), 3, "moved, not copied");
    }

    #[test]
    fn what_others_of_the_component_left_is_taken_in_once_and_what_somebody_has_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let spool = |name: &str, record: &[u8]| {
            let mut spool = Spool::open(dir.path(), name, 1 << 20).unwrap();
            spool.append(record).unwrap();
            spool
        };
        let mut own = spool("pusher-0", b"own");
        let held = spool("pusher-1", b"held");
        drop((spool("pusher-2", b"left"), spool("edge-0", b"edge")));
        for _ in 0..2 {
            own.sweep(dir.path(), "pusher").unwrap();
        }
        assert_eq!(drain(&mut own), [&b"own"[..], b"left"]);
        drop(held);
        own.sweep(dir.path(), "pusher").unwrap();
        assert_eq!(drain(&mut own), [b"held"]);
        assert_eq!(drain(&mut Spool::open(dir.path(), "edge-0", 1 << 20).unwrap()), [b"edge"]);
        assert!(belongs_to("pusher-1.7.spool", "pusher") && !belongs_to("pusher-x.spool", "pusher") && !belongs_to("pusher-1", "pusher"));
    }
}
