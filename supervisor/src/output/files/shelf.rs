//! What the files of one slot hold at one moment, to be read by whoever asked: descriptors, so that no file is set aside under the reader's hands.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

use super::Bounds;
use crate::{
    component::{Component, SlotId, label},
    output::lines::{Level, at_least},
};

/// Read backwards by so much.
const BLOCK: u64 = 64 << 10;

/// Which slots; `None`: of all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) component: Option<Component>,
    pub(crate) instance: Option<u32>,
}

impl Wanted {
    /// Whether it is one of those.
    pub(crate) fn holds(self, slot: SlotId) -> bool {
        self.component.is_none_or(|wanted| wanted == slot.component) && self.instance.is_none_or(|wanted| wanted == slot.instance)
    }
}

/// One slot's files, oldest first, each with the length that counts.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) slot: SlotId,
    /// From that line on the files miss some.
    pub(crate) missing_from: Option<u64>,
    files: Vec<(File, u64)>,
}

/// One line as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at_ms: i64,
    pub(crate) level: Option<Level>,
    pub(crate) text: String,
}

/// Where a line begins: which file, at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    file: usize,
    offset: u64,
}

/// Opens all that is wanted, of the slots that were written to (each with the line from which on some are missing), and of those that are gone, which are
/// found by their files.
pub(super) fn open(bounds: &Bounds, wanted: Wanted, written: impl Iterator<Item = (SlotId, Option<u64>)>) -> Vec<Shelf> {
    let mut slots: BTreeMap<SlotId, Option<u64>> = BTreeMap::new();
    let names = fs::read_dir(&bounds.dir).ok();
    let found = names.into_iter().flatten().filter_map(|name| slot_of(name.ok()?.file_name().to_str()?));
    for (slot, missing_from) in found.map(|slot| (slot, None)).chain(written) {
        if wanted.holds(slot) {
            let known = slots.entry(slot).or_default();
            *known = known.iter().copied().chain(missing_from).min();
        }
    }
    let shelf = |(slot, missing_from)| {
        let path = bounds.dir.join(format!("{}.log", label(slot)));
        let aside = (1..=bounds.keep).rev().map(|number| path.with_extension(format!("log.{number}")));
        let files = aside.chain([path.clone()]).filter_map(|path| opened(&path)).collect();
        Shelf { slot, missing_from, files }
    };
    slots.into_iter().map(shelf).collect()
}

fn opened(path: &Path) -> Option<(File, u64)> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some((file, metadata.len()))
}

/// `pusher-1.log` is that of pusher 1.
fn slot_of(name: &str) -> Option<SlotId> {
    let stem = name.strip_suffix(".log")?;
    let (component, instance) = match stem.split_once('-') {
        Some((component, instance)) => (component, instance.parse().ok()?),
        None => (stem, 0),
    };
    Some(SlotId { component: Component::named(component)?, instance })
}

impl Shelf {
    /// Where the last so many lines begin that fit; those before `since_ms` do not count. `None`: there is no such line.
    pub(crate) fn find(&self, level: Option<Level>, since_ms: Option<i64>, lines: usize) -> io::Result<VecDeque<(i64, Place)>> {
        let mut found = VecDeque::new();
        for (number, (file, length)) in self.files.iter().enumerate().rev() {
            let mut backwards = Backwards { file, end: *length, held: Vec::new() };
            while let Some((offset, line)) = backwards.next()? {
                let Some(entry) = parse(self.slot.component, &line) else { continue };
                if since_ms.is_some_and(|since| entry.at_ms < since) {
                    return Ok(found);
                }
                if fits(&entry, level) {
                    found.push_front((entry.at_ms, Place { file: number, offset }));
                    if found.len() == lines {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The first line that arrived at that time or later.
    pub(crate) fn first_since(&self, since_ms: i64) -> io::Result<Option<Place>> {
        let mut first = None;
        for (number, (file, length)) in self.files.iter().enumerate().rev() {
            let mut backwards = Backwards { file, end: *length, held: Vec::new() };
            while let Some((offset, line)) = backwards.next()? {
                match parse(self.slot.component, &line) {
                    Some(entry) if entry.at_ms < since_ms => return Ok(first),
                    Some(_) => first = Some(Place { file: number, offset }),
                    None => {}
                }
            }
        }
        Ok(first)
    }

    /// The lines that fit, from that place to the end.
    pub(crate) fn read(self, from: Place, level: Option<Level>) -> io::Result<Reading> {
        let Self { slot, files, .. } = self;
        let mut files: VecDeque<_> = files.into_iter().skip(from.file).collect();
        if let Some((file, _)) = files.front_mut() {
            file.seek(SeekFrom::Start(from.offset))?;
        }
        let mut reading = Reading { component: slot.component, level, files: VecDeque::new() };
        for (place, (file, length)) in files.into_iter().enumerate() {
            let begin = if place == 0 { from.offset } else { 0 };
            reading.files.push_back(BufReader::new(file.take(length.saturating_sub(begin))));
        }
        Ok(reading)
    }
}

/// Lines of one slot, oldest first.
#[derive(Debug)]
pub(crate) struct Reading {
    component: Component,
    level: Option<Level>,
    files: VecDeque<BufReader<io::Take<File>>>,
}

impl Reading {
    /// The next that fits.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut line = Vec::new();
        while let Some(file) = self.files.front_mut() {
            line.clear();
            if file.read_until(b'\n', &mut line)? == 0 {
                self.files.pop_front();
                continue;
            }
            let entry = parse(self.component, line.strip_suffix(b"\n").unwrap_or(&line));
            if let Some(entry) = entry.filter(|entry| fits(entry, self.level)) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

fn fits(entry: &Entry, wanted: Option<Level>) -> bool {
    at_least(entry.level, wanted)
}

/// `None`: not a line of ours.
fn parse(component: Component, line: &[u8]) -> Option<Entry> {
    let line = String::from_utf8_lossy(line);
    let (at, text) = line.split_once(' ')?;
    let at_ms = at.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    Some(Entry { at_ms, level: Level::of(component, text), text: text.to_owned() })
}

/// The lines of a file, the last one first, each with its offset.
struct Backwards<'a> {
    file: &'a File,
    /// Everything from here on was read.
    end: u64,
    /// What was read and not yet handed over: the bytes from `end` on.
    held: Vec<u8>,
}

impl Backwards<'_> {
    fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            // Its own end is not the end of the line before.
            let body = self.held.strip_suffix(b"\n").unwrap_or(&self.held);
            if let Some(newline) = body.iter().rposition(|byte| *byte == b'\n') {
                let line = body.get(newline + 1..).unwrap_or_default().to_vec();
                self.held.truncate(newline + 1);
                return Ok(Some((self.end + newline as u64 + 1, line)));
            }
            if self.end == 0 {
                let line = body.to_vec();
                self.held.clear();
                return Ok((!line.is_empty()).then_some((0, line)));
            }
            let length = self.end.min(BLOCK);
            self.end -= length;
            let mut block = vec![0; usize::try_from(length).unwrap_or_default()];
            self.file.read_exact_at(&mut block, self.end)?;
            block.append(&mut self.held);
            self.held = block;
        }
    }
}
