//! One line of a child: where it is cut out of what was read, how bad it is, and how it reads with its speaker's name.

use std::borrow::Cow;

use gatehouse_chassis::telemetry::Said;
use memchr::{memchr, memchr_iter};

use crate::component::{Component, SlotId, label};

/// A longer line is broken up.
pub(crate) const MAX_LINE: usize = 16 << 10;
/// A level stands near the beginning of a line, or it is part of what was said.
const HEAD: usize = 256;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// One line as it arrived.
#[derive(Debug)]
pub(crate) struct Line {
    /// In the order of the arrival, since this supervisor started.
    pub(crate) seq: u64,
    /// Unix time of the arrival.
    pub(crate) at_ms: i64,
    pub(crate) slot: SlotId,
    /// `None`: it does not say.
    pub(crate) level: Option<Level>,
    pub(crate) text: Box<str>,
}

/// How lines are told apart on our own stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `edge | line`.
    Text,
    /// The speaker's name as fields of the JSON object that the line is, or is put into.
    Json,
}

impl Level {
    /// As it stands in requests and answers.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// `warn`, `WARN`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let levels = [("trace", Self::Debug), ("debug", Self::Debug), ("info", Self::Info), ("warn", Self::Warn), ("error", Self::Error)];
        levels.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, level)| *level)
    }

    /// What a line says of itself: JSON of ours, text of ours, or a line of `redis-server`.
    pub(crate) fn of(component: Component, line: &str) -> Option<Self> {
        if component == Component::Redis {
            return Some(redis(line).0);
        }
        let head = line.get(..line.floor_char_boundary(HEAD)).unwrap_or_default();
        if line.starts_with('{') {
            let (_, rest) = head.split_once(r#""level":""#)?;
            return Self::named(rest.split_once('"')?.0);
        }
        // `2026-11-21T09:52:16.223Z  WARN gatehouse_edge: …`
        head.split_ascii_whitespace().take(2).find_map(|word| if word.starts_with(char::is_uppercase) { Self::named(word) } else { None })
    }
}

/// Whether a line is wanted. One that does not say how bad it is may be the worst: a panic of another runtime, a message of the loader.
pub(crate) fn at_least(level: Option<Level>, wanted: Option<Level>) -> bool {
    wanted.is_none_or(|wanted| level.is_none_or(|level| level >= wanted))
}

/// A line of `redis-server`, `1234:M 21 Nov 2026 09:52:16.223 * Ready to accept connections`: how bad it is, and its message. What it marks with `#` is for
/// operators, though by far not always a warning.
pub(crate) fn redis(line: &str) -> (Level, &str) {
    if let Some((_, message)) = line.split_once(" # ") {
        let bad = ["WARNING", "rror", "ailed", "Can't"].iter().any(|word| message.contains(word));
        return (if bad { Level::Warn } else { Level::Info }, message);
    }
    (Level::Debug, line.split_once(" * ").map_or(line, |(_, message)| message))
}

/// A line with its speaker.
pub(crate) fn tagged(style: Style, slot: SlotId, line: &str) -> String {
    let (name, instance) = (slot.component.name(), slot.instance);
    match (style, line.strip_prefix('{')) {
        (Style::Json, Some(fields)) if line.ends_with('}') && fields.len() > 1 => {
            format!(r#"{{"component":"{name}","instance":{instance},{fields}"#)
        }
        (Style::Json, _) => serde_json::json!({ "component": name, "instance": instance, "message": line }).to_string(),
        (Style::Text, _) => format!("{:8} | {line}", label(slot)),
    }
}

/// The message of a line of JSON, or the line.
pub(crate) fn plain(line: &str) -> String {
    Said::read(line).map_or_else(|| line.to_owned(), |said| said.message)
}

/// A line of JSON as a person reads it, with its level and fields; any other as it is.
pub(crate) fn legible(line: &str) -> Cow<'_, str> {
    let Some(Said { level, message, fields }) = Said::read(line) else { return line.into() };
    let level = level.map(|level| format!("{level} ")).unwrap_or_default();
    format!("{level}{message}{fields}").into()
}

/// Text of at most so many bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> String {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default().to_owned()
}

/// Cuts lines out of what is read piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    begun: Vec<u8>,
    /// The rest of a line whose beginning was thrown away.
    skipping: bool,
}

impl Splitter {
    /// Hands over every line that is complete now; empty ones are left out.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (head, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.begun.is_empty() {
                hand_over(head, &mut line);
            } else {
                self.begun.extend_from_slice(head);
                hand_over(&self.begun, &mut line);
                self.begun.clear();
            }
        }
        if self.skipping {
            return;
        }
        self.begun.extend_from_slice(bytes);
        if self.begun.len() >= MAX_LINE {
            self.finish(line);
        }
    }

    /// Throws it away: of how many lines it held a part that was not counted before. What follows is handed over from the next beginning of a line on.
    pub(crate) fn discard(&mut self, bytes: &[u8]) -> u64 {
        let Some(last) = bytes.last() else { return 0 };
        let (counted, cut) = (u64::from(self.skipping), *last != b'\n');
        let ends = memchr_iter(b'\n', bytes).count() as u64;
        self.begun = Vec::new();
        self.skipping = cut;
        ends + u64::from(cut) - counted
    }

    /// Nothing follows.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&str)) {
        hand_over(&self.begun, &mut line);
        // A long line is rare; its buffer is not kept.
        self.begun = Vec::new();
    }
}

fn hand_over(bytes: &[u8], line: &mut impl FnMut(&str)) {
    for piece in bytes.chunks(MAX_LINE) {
        let text = String::from_utf8_lossy(piece);
        let text = text.trim_end();
        if !text.is_empty() {
            line(text);
        }
    }
}

#[cfg(test)]
mod tests;
