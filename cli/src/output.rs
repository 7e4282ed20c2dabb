//! Answers on standard output, failures on standard error; a document for programs, tables and lines for people.

use std::io::{self, Write};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use crate::failure::Failure;

/// What a stream may hold back before it is passed on.
const ENOUGH: usize = 64 << 10;

/// Where answers go. Nothing is written before [`Output::flush`] or, of a stream, [`Output::pass_on`].
#[derive(Debug)]
pub struct Output {
    json: bool,
    held: Vec<u8>,
}

impl Output {
    /// On this process's standard output.
    pub const fn new(json: bool) -> Self {
        Self { json, held: Vec::new() }
    }

    /// Whether a program reads.
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// One JSON document, on one line.
    pub fn document(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.held, document).map_err(|error| Failure::of_output(error.into()))?;
        self.line("")
    }

    /// One line, as it is.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.held, "{line}").map_err(Failure::of_output)
    }

    /// One line that holds words from elsewhere.
    pub fn sentence(&mut self, sentence: &str) -> Result<(), Failure> {
        self.line(&one_line(sentence))
    }

    /// A table with a heading. On a terminal it keeps to the terminal's width.
    pub fn table<const N: usize>(&mut self, heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(heading);
        table.add_rows(rows.into_iter().map(|row| row.map(|cell| one_line(&cell))));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
    }

    /// What belongs to one thing, a line each.
    pub fn facts(&mut self, facts: &[(&str, String)]) -> Result<(), Failure> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        facts.iter().try_for_each(|(name, value)| self.line(&format!("{name:width$}  {}", harmless(value))))
    }

    /// Lets the reader see what was said. For the end: it waits for the reader.
    pub fn flush(&mut self) -> Result<(), Failure> {
        write(&std::mem::take(&mut self.held)).map_err(Failure::of_output)
    }

    /// The same in a stream: a reader who stands still, such as a pager, does not keep our one thread from answering those who send it.
    pub async fn pass_on(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let written = spawn_blocking(move || write(&held)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(Failure::of_output)
    }

    /// Whether there is enough to be passed on.
    pub const fn is_full(&self) -> bool {
        self.held.len() >= ENOUGH
    }

    /// Says on standard error what went wrong.
    pub fn failure(&mut self, failure: &Failure) {
        // What was answered before stands before it; whoever does not read that does not read this either.
        let _unread = self.flush();
        match failure {
            Failure::Said(_) | Failure::NobodyReads => {}
            failure if self.json => self.complain(&error_document(failure).to_string()),
            Failure::Configuration(_) => self.complain(&failure.to_string()),
            failure => {
                self.complain(&format!("gatehouse: {}", harmless(&failure.to_string())));
                let trailers = if let Failure::Refused { trailers, .. } = failure { trailers.as_slice() } else { &[] };
                for (name, value) in trailers {
                    self.complain(&format!("  {name}: {value}"));
                }
            }
        }
    }

    /// One line on standard error.
    #[expect(clippy::unused_self, reason = "answers and complaints have one owner")]
    pub fn complain(&self, line: &str) {
        // Nobody may be reading; the exit code says it too.
        let _unread = writeln!(io::stderr(), "{line}");
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn error_document(failure: &Failure) -> Value {
    let mut error = Map::from_iter([("code".to_owned(), json!(failure.code())), ("message".to_owned(), json!(failure.to_string()))]);
    match failure {
        Failure::Refused { message, trailers, .. } => {
            error.insert("message".to_owned(), json!(message));
            let trailers: Map<_, _> = trailers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            error.insert("trailers".to_owned(), Value::Object(trailers));
        }
        Failure::Configuration(problems) => {
            let problems: Vec<_> = problems.iter().map(|problem| json!({"place": problem.place, "message": problem.message})).collect();
            error.insert("problems".to_owned(), json!(problems));
        }
        _ => {}
    }
    json!({ "error": error })
}

/// Bytes as a person may read them: text, or base64 when they are none or would command the terminal.
pub fn readable(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(commands_terminal) => text.to_owned(),
        _ => format!("base64:{}", STANDARD.encode(bytes)),
    }
}

/// Text from elsewhere must not command the terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if commands_terminal(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Nor stand as a line of ours.
fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "\u{2424}")
}

/// Controls, and what shows a line in another order than it has, or as two.
fn commands_terminal(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_command_the_terminal_is_never_printed_raw() {
        assert_eq!(harmless("a\x1b[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(harmless("a\u{202e}b\u{2066}c\nd"), "a\u{fffd}b\u{fffd}c\nd");
        assert_eq!(one_line("late\n2026-01-01T12:00:00Z ERROR edge: forged"), "late\u{2424}2026-01-01T12:00:00Z ERROR edge: forged");
        assert_eq!(readable(b"plain\ttext"), "plain\ttext");
        assert_eq!(readable(b"\x1b[2J"), "base64:G1sySg==");
        assert_eq!(readable(b"\xff"), "base64:/w==");
    }

    #[test]
    fn errors_for_programs_have_a_code_and_a_message() {
        let status = tonic::Status::failed_precondition("device session is revoked");
        let document = error_document(&Failure::of_status("the gateway", &status));
        assert_eq!(document, json!({"error": {"code": "failed_precondition", "message": "device session is revoked", "trailers": {}}}));
        let document = error_document(&Failure::Unreachable("nobody".to_owned()));
        assert_eq!(document, json!({"error": {"code": "unreachable", "message": "nobody"}}));
    }
}
