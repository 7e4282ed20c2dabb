//! What children said, for whoever asks: from the files and, where those miss something, from the rings, merged by time; then, for those who follow, what
//! they say from now on. No line twice, none left out between the two.

use std::{
    collections::VecDeque,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gatehouse_proto::internal::v1::LogLine;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Output,
    files::{Place, Reading, Shelf, Wanted},
    lines::{Level, Line, at_least},
};
use crate::component::SlotId;

/// Lines on their way to one who asked; each may have 16 KiB.
const QUEUE: usize = 16;
/// How long the disk may take before the rings must do.
const DISK: Duration = Duration::from_secs(2);
/// Lines read from files at once, and bytes.
const PIECE: usize = 64;
const PIECE_BYTES: usize = 64 << 10;
/// How long a reader may take over one line: somebody with a pager, who went for a coffee.
const PATIENCE: Duration = Duration::from_mins(15);

/// What somebody asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Query {
    pub(crate) wanted: Wanted,
    /// At least that.
    pub(crate) level: Option<Level>,
    /// Unix time of the first.
    pub(crate) since_ms: Option<i64>,
    /// The last so many.
    pub(crate) lines: Option<usize>,
    /// And what comes from now on.
    pub(crate) follow: bool,
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Told {
    lines: mpsc::Receiver<LogLine>,
    cut: Arc<AtomicBool>,
}

/// How far one came with the files.
enum Replayed {
    All,
    Gone,
    TooSlowly,
}

impl Output {
    /// The answer, oldest first. It ends when it is complete, or with this output.
    pub(crate) fn tell(&self, query: Query) -> Told {
        let (told, answer) = mpsc::channel(QUEUE);
        let cut = Arc::new(AtomicBool::new(false));
        let slow = Arc::clone(&cut);
        // Nothing is said between these: what comes later is live, everything before is in the files or the rings.
        let (seq, newest, kept, look) = {
            let spoken = self.spoken();
            let newest = query.follow.then(|| self.0.newest.subscribe());
            let kept = spoken.rings.lines().filter(|line| query.wants(line)).cloned().collect::<VecDeque<_>>();
            (spoken.seq, newest, kept, self.0.files.as_ref().map(|files| files.look(query.wanted)))
        };
        let output = self.clone();
        self.0.readers.spawn("logs", async move {
            let shelves = match look {
                Some(look) => timeout(DISK, look).await.ok().flatten(),
                None => None,
            };
            match output.replay(sources(shelves, kept), query, &told).await {
                Replayed::All => {}
                Replayed::Gone => return,
                Replayed::TooSlowly => {
                    slow.store(true, Ordering::Release);
                    return;
                }
            }
            if let Some(newest) = newest {
                output.follow(newest, seq + 1, query, &told).await;
            }
        });
        Told { lines: answer, cut }
    }

    /// What is said from that number on, until nobody wants it any more.
    async fn follow(&self, mut newest: watch::Receiver<u64>, mut next: u64, query: Query, told: &mpsc::Sender<LogLine>) {
        let mut gone = pin!(told.closed());
        loop {
            tokio::select! {
                Ok(_said) = newest.wait_for(|newest| *newest >= next) => {}
                () = &mut gone => return,
            }
            let (missed, lines) = self.spoken().live.from(next);
            if missed > 0 && told.send(missed_lines(missed)).await.is_err() {
                return;
            }
            for line in lines {
                next = line.seq + 1;
                if query.wants(&line) && told.send(log_line(&line)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Reads the files piece by piece. A reader's own pace costs nobody else a turn or a thread.
    async fn replay(&self, sources: Vec<Source>, query: Query, told: &mpsc::Sender<LogLine>) -> Replayed {
        let mut replay = Replay { sources, query, tracks: None, heads: Vec::new() };
        loop {
            let read = {
                // A few at a time: each has a thread.
                let Ok(_turn) = self.0.replays.acquire().await else { return Replayed::Gone };
                spawn_blocking(move || replay.piece().map(|piece| (replay, piece))).await
            };
            let piece = match read {
                Ok(Ok((next, piece))) => {
                    replay = next;
                    piece
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "log files cannot be read");
                    return Replayed::All;
                }
                Err(_panicked) => return Replayed::All,
            };
            if piece.is_empty() {
                return Replayed::All;
            }
            for line in piece {
                match timeout(PATIENCE, told.send(line)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Replayed::Gone,
                    Err(_) => return Replayed::TooSlowly,
                }
            }
        }
    }
}

impl Told {
    /// The next line; none when the answer is complete, or was cut.
    pub(crate) async fn recv(&mut self) -> Option<LogLine> {
        self.lines.recv().await
    }

    /// Whether it ended before it was complete, for its reader took too long over a line. Once.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut.swap(false, Ordering::Acquire)
    }
}

impl Query {
    fn wants(&self, line: &Line) -> bool {
        self.wanted.holds(line.slot) && at_least(line.level, self.level) && self.since_ms.is_none_or(|since| line.at_ms >= since)
    }
}

/// One slot: what its files hold, and then what they miss.
struct Source {
    slot: SlotId,
    shelf: Option<Shelf>,
    kept: VecDeque<Arc<Line>>,
}

/// Without files, what the rings kept is all.
fn sources(shelves: Option<Vec<Shelf>>, mut kept: VecDeque<Arc<Line>>) -> Vec<Source> {
    let mut sources = Vec::new();
    for shelf in shelves.iter().flatten() {
        sources.push(Source { slot: shelf.slot, shelf: None, kept: VecDeque::new() });
    }
    let has_files = shelves.is_some();
    while let Some(line) = kept.pop_front() {
        let known = sources.iter().position(|source| source.slot == line.slot);
        let missing = known.and_then(|known| shelves.as_ref()?.get(known)?.missing_from);
        match (known.and_then(|known| sources.get_mut(known)), missing) {
            (Some(source), None) if !has_files => source.kept.push_back(line),
            (Some(source), Some(from)) if line.seq >= from => source.kept.push_back(line),
            (None, _) if !has_files => {
                sources.push(Source { slot: line.slot, shelf: None, kept: VecDeque::from([line]) });
            }
            _ => {}
        }
    }
    for (source, shelf) in sources.iter_mut().zip(shelves.into_iter().flatten()) {
        source.shelf = Some(shelf);
    }
    sources
}

/// All of them, merged by time.
struct Replay {
    /// Until they are read.
    sources: Vec<Source>,
    query: Query,
    tracks: Option<Vec<Track>>,
    heads: Vec<Option<LogLine>>,
}

impl Replay {
    /// The next lines; none at the end.
    fn piece(&mut self) -> io::Result<Vec<LogLine>> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while piece.len() < PIECE
            && bytes < PIECE_BYTES
            && let Some(line) = self.next()?
        {
            bytes += line.line.len();
            piece.push(line);
        }
        Ok(piece)
    }

    fn next(&mut self) -> io::Result<Option<LogLine>> {
        let Self { sources, query, tracks, heads } = self;
        let tracks = match tracks {
            Some(tracks) => tracks,
            none => {
                let tracks = none.insert(begin(std::mem::take(sources), query)?);
                *heads = tracks.iter_mut().map(Track::next).collect::<io::Result<_>>()?;
                tracks
            }
        };
        let first = heads.iter().enumerate().filter_map(|(i, head)| Some((head.as_ref()?.at_ms, i))).min();
        let Some((_, i)) = first else { return Ok(None) };
        let (Some(head), Some(track)) = (heads.get_mut(i), tracks.get_mut(i)) else { return Ok(None) };
        Ok(std::mem::replace(head, track.next()?))
    }
}

/// One slot's lines from its first that is wanted on.
struct Track {
    slot: SlotId,
    reading: Option<Reading>,
    kept: VecDeque<Arc<Line>>,
}

impl Track {
    fn next(&mut self) -> io::Result<Option<LogLine>> {
        if let Some(reading) = &mut self.reading {
            if let Some(entry) = reading.next()? {
                let level = entry.level.map_or("", Level::as_str);
                return Ok(Some(told(entry.at_ms, self.slot, level, entry.text)));
            }
            self.reading = None;
        }
        Ok(self.kept.pop_front().map(|line| log_line(&line)))
    }
}

/// Finds where each begins.
fn begin(sources: Vec<Source>, query: &Query) -> io::Result<Vec<Track>> {
    let track = |source: Source, place: Option<Place>, skip: usize| {
        let Source { slot, shelf, mut kept } = source;
        kept.drain(..skip.min(kept.len()));
        let reading = match (shelf, place) {
            (Some(shelf), Some(place)) => Some(shelf.read(place, query.level)?),
            _ => None,
        };
        Ok(Track { slot, reading, kept })
    };
    let Some(lines) = query.lines else {
        let since = query.since_ms.unwrap_or(i64::MIN);
        let begin = |source: Source| {
            let place = source.shelf.as_ref().map(|shelf| shelf.first_since(since)).transpose()?.flatten();
            track(source, place, 0)
        };
        return sources.into_iter().map(begin).collect();
    };
    let mut places = Vec::new();
    let mut times = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let found = match &source.shelf {
            Some(shelf) => shelf.find(query.level, query.since_ms, lines)?,
            None => VecDeque::new(),
        };
        times.extend(found.iter().map(|(at_ms, _)| *at_ms).chain(source.kept.iter().map(|line| line.at_ms)).map(|at_ms| (at_ms, number)));
        places.push(found);
    }
    // The last of all, whose they may be.
    times.sort_unstable();
    let last = times.get(times.len().saturating_sub(lines)..).unwrap_or_default();
    let begin = |(number, (source, places)): (usize, (Source, VecDeque<(i64, Place)>))| {
        let take = last.iter().filter(|(_, of)| *of == number).count();
        let from_files = take.saturating_sub(source.kept.len());
        let place = (from_files > 0).then(|| places.get(places.len().saturating_sub(from_files))).flatten().map(|(_, place)| *place);
        let skip = source.kept.len().saturating_sub(take);
        track(source, place, skip)
    };
    sources.into_iter().zip(places).enumerate().map(begin).collect()
}

fn log_line(line: &Line) -> LogLine {
    told(line.at_ms, line.slot, line.level.map_or("", Level::as_str), line.text.to_string())
}

fn told(at_ms: i64, slot: SlotId, level: &str, line: String) -> LogLine {
    let SlotId { component, instance } = slot;
    LogLine { at_ms, component: component.name().to_owned(), instance, level: level.to_owned(), line }
}

/// For one who reads too slowly.
fn missed_lines(missed: u64) -> LogLine {
    LogLine {
        at_ms: jiff::Timestamp::now().as_millisecond(),
        component: "supervisor".to_owned(),
        instance: 0,
        level: Level::Warn.as_str().to_owned(),
        line: format!("{missed} lines are missing here: they came faster than they were read"),
    }
}

#[cfg(test)]
mod tests;
