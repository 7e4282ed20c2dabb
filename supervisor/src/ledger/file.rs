//! The ledger's file: appended to, and written anew when it has grown to twice what is kept, or is not whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use gatehouse_proto::internal::v1::ExitRecord;

use super::KEPT;

/// Lines at which it is written anew.
const MOST_LINES: usize = 2 * KEPT;

#[derive(Debug)]
pub(super) struct LedgerFile {
    path: PathBuf,
    lines: usize,
    /// Every line in it is a record, and every record is in it.
    whole: bool,
    /// It could not be written, and that was said.
    failed: bool,
}

impl LedgerFile {
    /// Hands over what it holds, oldest first.
    pub(super) fn open(state_dir: &Path, line: impl FnMut(&str)) -> Self {
        let mut file = Self { path: state_dir.join("exits.jsonl"), lines: 0, whole: true, failed: false };
        match file.read(line) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "{} cannot be read to the end; earlier exits are not known", file.path.display());
                file.whole = false;
            }
            _ => {}
        }
        file
    }

    fn read(&mut self, mut line: impl FnMut(&str)) -> io::Result<()> {
        let (mut lines, mut bytes) = (BufReader::new(File::open(&self.path)?), Vec::new());
        while lines.read_until(b'\n', &mut bytes)? > 0 {
            let text = bytes.strip_suffix(b"\n").and_then(|text| str::from_utf8(text).ok());
            match text.filter(|text| serde_json::from_str::<ExitRecord>(text).is_ok()) {
                Some(text) => {
                    line(text);
                    self.lines += 1;
                }
                // Torn, or not ours.
                None => self.whole = false,
            }
            bytes.clear();
        }
        Ok(())
    }

    /// Whether nothing but new lines is to be written.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether it is enough to append so many lines.
    pub(super) const fn appends(&self, lines: usize) -> bool {
        self.whole && self.lines + lines <= MOST_LINES
    }

    /// Writes so many new lines, or all of so many, if that was not enough.
    pub(super) fn write(&mut self, text: &str, new: usize, all: usize) {
        let appends = self.appends(new);
        let written = if appends { self.append(text) } else { self.replace(text) };
        match written {
            Ok(()) => {
                self.lines = if appends { self.lines + new } else { all };
                self.whole = true;
                if std::mem::take(&mut self.failed) {
                    tracing::info!("{} is written again", self.path.display());
                }
            }
            Err(error) => {
                self.whole = false;
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(%error, "{} cannot be written; exits are kept in memory until it can", self.path.display());
                }
            }
        }
    }

    fn append(&self, text: &str) -> io::Result<()> {
        OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?.write_all(text.as_bytes())
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let draft = self.path.with_extension("jsonl.new");
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&draft)?.write_all(text.as_bytes())?;
        fs::rename(draft, &self.path)
    }
}
