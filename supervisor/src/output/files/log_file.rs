//! One slot's log file, and those set aside: `edge.log`, `edge.log.1` (the newest of them), … Own code: the crates for this panic when a directory cannot be
//! made, or lose what follows a failed write.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Bounds, Gap, create};
use crate::{
    component::{SlotId, label},
    output::lines::{Level, Line},
};

/// The most that can be kept; see the configuration.
const MOST_KEPT: u32 = 100;
/// What waits before it is written.
const PENDING: usize = 16 << 10;

/// See the module's head.
pub(super) struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: Option<Open>,
    pending: Vec<u8>,
    pending_lines: u64,
    pending_from: u64,
    /// Lines that were refused before those, and are told of with them.
    pending_gap: u64,
    sick: Option<Sick>,
}

struct Open {
    file: File,
    size: u64,
}

/// It cannot be written.
struct Sick {
    /// From that line on, lines are missing.
    from: u64,
    lost: u64,
    why: String,
    retry_at: Instant,
}

/// What came of writing.
pub(super) enum Change {
    None,
    /// From now on lines are lost; so many now.
    Failed {
        error: io::Error,
        lost: u64,
    },
    /// It works again; so many were lost.
    Resumed {
        lost: u64,
    },
}

impl LogFile {
    pub(super) fn new(bounds: &Bounds, slot: SlotId) -> Self {
        let path = bounds.dir.join(format!("{}.log", label(slot)));
        Self {
            path,
            max_bytes: bounds.max_bytes,
            keep: bounds.keep,
            open: None,
            pending: Vec::new(),
            pending_lines: 0,
            pending_from: 0,
            pending_gap: 0,
            sick: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From that line on lines are missing, still.
    pub(super) fn missing_from(&self) -> Option<u64> {
        self.sick.as_ref().map(|sick| sick.from)
    }

    /// Takes a line, which so many refused ones stand before; `false`: it is lost.
    pub(super) fn append(&mut self, line: &Line, gap: Option<Gap>, now: Instant) -> bool {
        let refused = gap.map_or(0, |gap| gap.lines);
        match &mut self.sick {
            Some(sick) if now < sick.retry_at => {
                sick.lost += refused + 1;
                return false;
            }
            Some(sick) if self.pending.is_empty() => {
                sick.lost += refused;
                let Sick { lost, why, .. } = sick;
                let message = format!("{lost} lines are missing here, for this file could not be written: {why}");
                write_notice(&mut self.pending, line.at_ms, &message);
            }
            _ if refused > 0 => {
                self.pending_gap += refused;
                let message = format!("{refused} lines are missing here: they came faster than the disk took them");
                write_notice(&mut self.pending, line.at_ms, &message);
            }
            _ => {}
        }
        if self.pending_lines == 0 {
            self.pending_from = gap.map_or(line.seq, |gap| gap.from);
        }
        write_line(&mut self.pending, line.at_ms, &line.text);
        self.pending_lines += 1;
        true
    }

    /// Writes what was taken.
    pub(super) fn flush(&mut self, now: Instant, retry: Duration) -> Change {
        if self.pending.is_empty() {
            return Change::None;
        }
        let written = self.write();
        let (lines, refused) = (std::mem::take(&mut self.pending_lines), std::mem::take(&mut self.pending_gap));
        self.pending.clear();
        self.pending.shrink_to(PENDING);
        match (written, self.sick.take()) {
            (Ok(()), None) => Change::None,
            (Ok(()), Some(sick)) => Change::Resumed { lost: sick.lost },
            (Err(error), sick) => {
                self.open = None;
                let (from, before) = sick.map_or((self.pending_from, 0), |sick| (sick.from, sick.lost));
                self.sick = Some(Sick { from, lost: before + refused + lines, why: error.to_string(), retry_at: now + retry });
                Change::Failed { error, lost: lines }
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let length = self.pending.len() as u64;
        if self.open.as_ref().is_some_and(|open| open.size > 0 && open.size + length > self.max_bytes) {
            self.open = None;
            self.set_aside()?;
        }
        // Somebody may have removed it to make room.
        if self.open.as_ref().is_some_and(|open| !open.is_at(&self.path)) {
            self.open = None;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::at(&self.path)?),
        };
        open.file.write_all(&self.pending).inspect_err(|_| {
            // Half a line at its end would be read as the beginning of the next. If this fails, too, the next to open it ends the line.
            let _torn = open.file.set_len(open.size);
        })?;
        open.size += length;
        Ok(())
    }

    fn set_aside(&self) -> io::Result<()> {
        let aside = |number: u32| self.path.with_extension(format!("log.{number}"));
        // Fewer may be kept than before.
        let _none = (self.keep + 1..=MOST_KEPT).find(|number| fs::remove_file(aside(*number)).is_err());
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            match fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, aside(1))
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let open = || OpenOptions::new().append(true).read(true).create(true).mode(0o640).open(path);
        let mut file = match (open(), path.parent()) {
            (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
                create(dir)?;
                open()?
            }
            (opened, _) => opened?,
        };
        let mut size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 && file.read_at(&mut last, size - 1).is_ok() && last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok(Self { file, size })
    }

    fn is_at(&self, path: &Path) -> bool {
        let (here, there) = (self.file.metadata(), fs::metadata(path));
        matches!((here, there), (Ok(here), Ok(there)) if (here.dev(), here.ino()) == (there.dev(), there.ino()))
    }
}

/// A line of ours among theirs.
fn write_notice(to: &mut Vec<u8>, at_ms: i64, message: &str) {
    let level = Level::Warn.as_str().to_uppercase();
    write_line(to, at_ms, &serde_json::json!({ "level": level, "message": message }).to_string());
}

/// `2026-11-21T09:52:16.223Z line`.
fn write_line(to: &mut Vec<u8>, at_ms: i64, text: &str) {
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
    // Writing to memory cannot fail.
    let _written = writeln!(to, "{at:.3} {text}");
}
