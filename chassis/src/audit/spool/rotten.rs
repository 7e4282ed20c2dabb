//! Records that the disk did not keep as they were given to it.
//!
//! A crash leaves a record half-written at the end of a file, which nobody was told of: it is cut off. What is bad and has whole records behind it was acknowledged
//! once. As long as lengths lead from it to a whole record, it alone is passed over, and those behind it go their way. Where they do not, nobody can tell where the next
//! one begins, and searching for it would take for a record what somebody wrote into the text of one: all of the rest is set aside. In each case the bytes are
//! kept, in a file beside the spool that ends in `.corrupt`, for a person to look at.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use super::{HEADER, HEADER_LEN, Spool};

/// No record is longer: a group of as many audit records as it holds at most, each as long as it may be, is a quarter of it.
const LARGEST: u64 = 4 << 20;

impl Spool {
    /// Where to go on behind the bad record at `at`. It is told, counted and kept when it is met first.
    pub(super) fn pass_over(&mut self, at: u64) -> io::Result<u64> {
        if let Some(next) = self.whole_behind(at)? {
            if at >= self.rotten {
                // The disk may have no room for it. The others must not wait for that.
                if let Err(error) = self.keep(at..next) {
                    tracing::error!(%error, "a corrupt part of the audit spool cannot be kept");
                }
                self.rotten = next;
            }
            return Ok(next);
        }
        self.set_aside(at)?;
        Ok(self.end)
    }

    /// Where lengths lead from a bad record: to a whole one, or to the end. `None` when they lead nowhere.
    pub(super) fn whole_behind(&self, at: u64) -> io::Result<Option<u64>> {
        let mut next = at;
        loop {
            if next + HEADER > self.end {
                return Ok(None);
            }
            let mut length = [0; 4];
            self.file.read_exact_at(&mut length, next)?;
            next += HEADER + u64::from(u32::from_le_bytes(length));
            if next >= self.end {
                return Ok((next == self.end).then_some(next));
            }
            // Eight zeros look like an empty one.
            if self.read(next)?.is_some_and(|record| !record.is_empty()) {
                return Ok(Some(next));
            }
        }
    }

    /// Whether what begins there may be what a crash left of an append, and holds no whole record.
    pub(super) fn is_torn(&self, at: u64) -> io::Result<bool> {
        let length = self.end - at;
        if length > HEADER + LARGEST {
            return Ok(false);
        }
        let mut rest = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut rest, at)?;
        Ok(!(1..rest.len()).any(|begin| is_whole(&rest[begin..])))
    }

    /// Keeps what stands there up to the end in another file, and cuts it off.
    pub(super) fn set_aside(&mut self, at: u64) -> io::Result<()> {
        self.keep(at..self.end)?;
        self.end = at;
        self.cut_behind_the_end()
    }

    /// Appends those bytes to the file for what is corrupt.
    fn keep(&mut self, part: Range<u64>) -> io::Result<()> {
        let (bytes, kept_in) = (part.end - part.start, corrupt(&self.path));
        tracing::error!(
            spool = %self.path.display(), at = part.start, bytes, kept_in = %kept_in.display(),
            "a part of the audit spool is corrupt: acknowledged records in it are lost to the trail"
        );
        // Of how many records it was, nobody knows.
        self.lost += 1;
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(kept_in)?;
        let mut chunk = vec![0; 64 << 10];
        let mut at = part.start;
        while at < part.end {
            let wanted = usize::try_from(part.end - at).unwrap_or(usize::MAX).min(chunk.len());
            self.file.read_exact_at(&mut chunk[..wanted], at)?;
            file.write_all(&chunk[..wanted])?;
            at += wanted as u64;
        }
        file.sync_all()
    }
}

/// `edge-0.spool.corrupt`: no spool by its name.
pub(super) fn corrupt(path: &std::path::Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".corrupt");
    name.into()
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return false };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    length > 0 && rest.get(..length).is_some_and(|record| crc32fast::hash(record) == u32::from_le_bytes([c0, c1, c2, c3]))
}
