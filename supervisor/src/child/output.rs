//! What children say on stderr: copied line by line to ours, each line with its speaker, and the last lines kept for whoever asks why.
//!
//! A child is never blocked: its pipe is always read, and what it said goes through the [`Outlet`], so that neither the supervisor nor a child waits
//! for a slow terminal.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use gatehouse_chassis::outlet::Outlet;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Lines kept of each child.
const KEPT: usize = 20;
/// A longer line is broken up.
const MAX_LINE: usize = 16 << 10;

/// How lines are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `edge | line`.
    Text,
    /// The speaker's name as fields of the JSON object that the line is, or is put into.
    Json,
    /// Not copied, but logged as ours: for a child that knows nothing of our format.
    Logged,
}

/// The last lines of one child; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// The last of them, in plain words.
    pub(crate) fn last_words(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).back().map(|line| plain(line))
    }
}

/// Where one child's lines go.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    pub(crate) component: &'static str,
    pub(crate) instance: u32,
    pub(crate) style: Style,
    pub(crate) tail: Tail,
}

impl Sink {
    fn line(&self, bytes: &[u8]) {
        let line = String::from_utf8_lossy(bytes);
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        self.tail.push(line);
        match self.style {
            Style::Logged => log(self.component, line),
            style => Outlet::stderr().line(tagged(style, self.component, self.instance, line)),
        }
    }
}

/// Reads to the end.
pub(crate) async fn copy(mut from: impl AsyncRead + Unpin, sink: Sink) {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let mut begin = 0;
        while let Some(length) = buffer[begin..].iter().position(|byte| *byte == b'\n') {
            sink.line(&buffer[begin..begin + length]);
            begin += length + 1;
        }
        if buffer.len() - begin >= MAX_LINE {
            sink.line(&buffer[begin..]);
            begin = buffer.len();
        }
        buffer.drain(..begin);
    }
    sink.line(&buffer);
}

/// A line with its speaker.
fn tagged(style: Style, component: &str, instance: u32, line: &str) -> String {
    match (style, line.strip_prefix('{')) {
        (Style::Json, Some(fields)) if line.ends_with('}') && fields.len() > 1 => {
            format!(r#"{{"component":"{component}","instance":{instance},{fields}"#)
        }
        (Style::Json, _) => serde_json::json!({ "component": component, "instance": instance, "message": line }).to_string(),
        _ if component == "pusher" => format!("{component}-{instance} | {line}"),
        _ => format!("{component:8} | {line}"),
    }
}

/// The message of a line of JSON, or the line.
pub(crate) fn plain(line: &str) -> String {
    let message = serde_json::from_str::<serde_json::Value>(line).ok();
    let message = message.as_ref().and_then(|value| value.get("message")).and_then(serde_json::Value::as_str);
    message.unwrap_or(line).to_owned()
}

/// A line of `redis-server`: `1234:M 21 Nov 2026 09:52:16.223 * Ready to accept connections`. What it marks with `#` is for operators, though by
/// far not always a warning.
fn log(component: &'static str, line: &str) {
    match line.split_once(" # ") {
        Some((_, message)) if ["WARNING", "rror", "ailed", "Can't"].iter().any(|word| message.contains(word)) => {
            tracing::warn!(component, "{component}: {message}");
        }
        Some((_, message)) => tracing::info!(component, "{component}: {message}"),
        None => {
            let message = line.split_once(" * ").map_or(line, |(_, message)| message);
            tracing::debug!(component, "{component}: {message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_names_its_speaker_in_either_format() {
        let json = |line| tagged(Style::Json, "edge", 0, line);
        assert_eq!(json(r#"{"level":"INFO"}"#), r#"{"component":"edge","instance":0,"level":"INFO"}"#);
        assert_eq!(json("{}"), r#"{"component":"edge","instance":0,"message":"{}"}"#);
        assert_eq!(json("thread 'main' \"panicked\""), r#"{"component":"edge","instance":0,"message":"thread 'main' \"panicked\""}"#);
        assert_eq!(tagged(Style::Text, "pusher", 1, "hello"), "pusher-1 | hello");
        assert_eq!(tagged(Style::Text, "edge", 0, "hello"), "edge     | hello");
    }

    #[tokio::test]
    async fn lines_are_cut_and_the_last_are_kept() {
        let sink = Sink { component: "edge", instance: 0, style: Style::Logged, tail: Tail::default() };
        let text = (0..30).fold(String::new(), |text, i| format!("{text}line {i}\n"));
        let long = "x".repeat(MAX_LINE * 3);
        copy((text + "no newline \u{fffd}").as_bytes(), sink.clone()).await;
        assert_eq!(sink.tail.last_words().unwrap(), "no newline \u{fffd}");
        assert_eq!(sink.tail.0.lock().unwrap().len(), KEPT);
        assert_eq!(sink.tail.0.lock().unwrap()[0], "line 11");
        copy(long.as_bytes(), sink.clone()).await;
        assert!(sink.tail.last_words().unwrap().len() <= MAX_LINE * 2);
    }

    #[test]
    fn last_words_are_the_message_of_a_json_line() {
        assert_eq!(plain(r#"{"level":"ERROR","message":"edge ends: no key"}"#), "edge ends: no key");
        assert_eq!(plain("thread panicked"), "thread panicked");
    }
}
