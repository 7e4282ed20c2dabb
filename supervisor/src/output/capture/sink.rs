//! What becomes of the bytes of one pipe: lines within the process's budget, or the auditor's trail.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use tokio::time::{sleep, timeout};

use super::Words;
use crate::output::{
    Speaker, Stream,
    budget::Budget,
    lines::{Line, Splitter},
    pause::Turnstile,
    trail::Piece,
};

/// Bytes of one turn, between which the others have theirs.
pub(super) const TURN: usize = 64 << 10;
/// And when they are thrown away.
const FLOOD_TURN: usize = 1 << 20;
/// Between two turns of a flood: it is read in few large pieces. The pipe holds what comes meanwhile, 200 MB/s of it.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a reader of our stdout may take while a supervisor waits to be executed.
const PUT_DOWN: Duration = Duration::from_millis(500);
/// What is kept of a flood, for the last words of who dies of it.
const FLOOD_END: usize = 4 << 10;
/// A longer line of the trail is passed on in pieces.
const MAX_TRAIL_LINE: usize = 1 << 20;

/// See the module's head.
pub(super) enum Sink {
    Lines(LineSink),
    Trail(TrailSink),
}

/// Lines, while the budget lasts.
pub(super) struct LineSink {
    speaker: Speaker,
    stream: Stream,
    words: Words,
    splitter: Splitter,
    budget: Budget,
    /// Lines thrown away and not yet spoken of.
    missing: u64,
    /// The end of what was thrown away.
    flood_end: Vec<u8>,
    lines: IntCounter,
    dropped: IntCounter,
}

/// Whole lines for our stdout.
pub(super) struct TrailSink {
    speaker: Speaker,
    begun: Vec<u8>,
    waiting: Option<Piece>,
    lines: IntCounter,
    dropped: IntCounter,
}

impl Sink {
    /// How much may be taken in one turn.
    pub(super) const fn appetite(&self) -> usize {
        match self {
            Self::Lines(sink) if sink.budget.is_spent() => FLOOD_TURN,
            Self::Lines(_) | Self::Trail(_) => TURN,
        }
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        match self {
            Self::Lines(sink) => sink.take(bytes, Instant::now()),
            Self::Trail(sink) => sink.begun.extend_from_slice(bytes),
        }
    }

    /// After a turn: passes on what must be waited for, or rests from a flood.
    pub(super) async fn settle(&mut self) {
        match self {
            Self::Lines(sink) if sink.budget.is_spent() => sleep(PAUSE).await,
            Self::Lines(_) => {}
            Self::Trail(sink) => sink.pass().await,
        }
    }

    /// The same without the rest.
    pub(super) async fn pass(&mut self) {
        if let Self::Trail(sink) = self {
            sink.pass().await;
        }
    }

    /// Another supervisor reads on from here: nothing is left with us.
    pub(super) async fn put_down(&mut self) {
        match self {
            // Half a line is better than none.
            Self::Lines(sink) => sink.conclude(),
            Self::Trail(sink) => {
                let _late = timeout(PUT_DOWN, sink.pass()).await;
                sink.pass_now();
            }
        }
    }

    /// Where its reader may have to wait.
    pub(super) fn turnstile(&self) -> Turnstile {
        let (Self::Lines(LineSink { speaker, .. }) | Self::Trail(TrailSink { speaker, .. })) = self;
        speaker.output.0.pause.turnstile()
    }

    /// The process has ended, and this was all.
    pub(super) fn conclude(&mut self) {
        if let Self::Lines(sink) = self {
            sink.conclude();
        }
    }
}

impl LineSink {
    pub(super) fn new(speaker: Speaker, stream: Stream, words: Words) -> Self {
        let hub = &speaker.output.0;
        Self {
            budget: Budget::new(hub.rate, Instant::now()),
            lines: speaker.counter(&hub.lines, stream),
            dropped: speaker.counter(&hub.dropped, stream),
            splitter: Splitter::default(),
            missing: 0,
            flood_end: Vec::new(),
            words,
            stream,
            speaker,
        }
    }

    fn take(&mut self, bytes: &[u8], now: Instant) {
        if self.budget.admits(now) {
            self.note_missing();
            self.say(bytes);
            return;
        }
        let lines = self.splitter.discard(bytes);
        self.missing += lines;
        self.dropped.inc_by(lines);
        let end = bytes.get(bytes.len().saturating_sub(FLOOD_END)..).unwrap_or_default();
        self.flood_end.extend_from_slice(end);
        let excess = self.flood_end.len().saturating_sub(FLOOD_END);
        self.flood_end.drain(..excess);
    }

    fn say(&mut self, bytes: &[u8]) {
        let Self { splitter, speaker, stream, words, budget, lines, .. } = self;
        splitter.push(bytes, |text| words.push(*stream, say_line(speaker, budget, lines, text)));
    }

    fn conclude(&mut self) {
        if self.missing > 0 {
            // Its last lines matter most; the first of these may be cut.
            let end = std::mem::take(&mut self.flood_end);
            self.note_missing();
            self.splitter = Splitter::default();
            self.say(&end);
        }
        let Self { splitter, speaker, stream, words, budget, lines, .. } = self;
        splitter.finish(|text| words.push(*stream, say_line(speaker, budget, lines, text)));
    }

    fn note_missing(&mut self) {
        if self.missing > 0 {
            self.words.push(self.stream, self.speaker.note_dropped(self.missing));
            self.missing = 0;
            self.flood_end = Vec::new();
        }
    }
}

fn say_line(speaker: &Speaker, budget: &mut Budget, lines: &IntCounter, text: &str) -> Arc<Line> {
    budget.line(text.len());
    lines.inc();
    speaker.line(text)
}

impl Drop for LineSink {
    fn drop(&mut self) {
        self.conclude();
    }
}

impl TrailSink {
    pub(super) fn new(speaker: Speaker, stream: Stream) -> Self {
        let hub = &speaker.output.0;
        let (lines, dropped) = (speaker.counter(&hub.lines, stream), speaker.counter(&hub.dropped, stream));
        Self { speaker, begun: Vec::new(), waiting: None, lines, dropped }
    }

    /// Whole lines: those of another generation may come between. Whoever stops waiting loses nothing.
    async fn pass(&mut self) {
        while let Some(piece) = self.waiting.take().or_else(|| self.cut()) {
            self.waiting = Some(piece);
            let place = self.speaker.output.0.trail.place().await;
            if let (Some(place), Some(piece)) = (place, self.waiting.take()) {
                place.send(piece);
            }
        }
    }

    fn cut(&mut self) -> Option<Piece> {
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n').map(|newline| newline + 1);
        let whole = whole.or_else(|| (self.begun.len() > MAX_TRAIL_LINE).then_some(self.begun.len()))?;
        let rest = self.begun.split_off(whole);
        let piece = Piece::new(std::mem::replace(&mut self.begun, rest), self.dropped.clone());
        self.lines.inc_by(piece.lines());
        Some(piece)
    }
}

impl Drop for TrailSink {
    fn drop(&mut self) {
        self.pass_now();
    }
}

impl TrailSink {
    /// Half a line, too: whoever reads the pipe next passes on the other half.
    fn pass_now(&mut self) {
        let begun = std::mem::take(&mut self.begun);
        for piece in self.waiting.take().into_iter().chain([Piece::new(begun, self.dropped.clone())]) {
            self.speaker.output.0.trail.pass_now(piece);
        }
    }
}
