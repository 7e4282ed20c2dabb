//! One line of a component, for people and for programs.

use std::borrow::Cow;

use gatehouse_chassis::telemetry::Said;
use gatehouse_proto::internal::v1::LogLine;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::command::target::name;

/// For programs: the line as it was written.
pub fn document(line: &LogLine) -> Value {
    let LogLine { at_ms, component, instance, level, line } = line;
    let level = (!level.is_empty()).then_some(level);
    json!({ "at_ms": at_ms, "component": component, "instance": instance, "level": level, "line": line })
}

/// For people: `2026-11-21T09:52:16.223Z  WARN edge: no route for orders.create`.
pub fn legible(line: &LogLine) -> String {
    let at = Timestamp::from_millisecond(line.at_ms).map_or_else(|_| line.at_ms.to_string(), |at| format!("{at:.3}"));
    let speaker = name(&line.component, line.instance);
    format!("{at} {:>5} {speaker}: {}", line.level.to_uppercase(), message(&line.line))
}

/// Without what stands before it anyway.
fn message(line: &str) -> Cow<'_, str> {
    if let Some(Said { message, fields, .. }) = Said::read(line) {
        return format!("{message}{fields}").into();
    }
    // `2026-11-21T09:52:16.223Z  WARN gatehouse_edge: …`
    let said = line.split_once(' ').filter(|(time, _)| time.parse::<Timestamp>().is_ok()).and_then(|(_, rest)| {
        let (level, message) = rest.trim_start().split_once(' ')?;
        ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level).then_some(message)
    });
    said.unwrap_or(line).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(component: &str, level: &str, line: &str) -> String {
        let (component, level, line) = (component.into(), level.into(), line.into());
        legible(&LogLine { at_ms: 1_767_225_600_123, component, instance: 1, level, line })
    }

    #[test]
    fn a_line_is_told_once_whatever_it_was_written_as() {
        let json =
            r#"{"timestamp":"2026-01-01T00:00:00.1Z","level":"WARN","message":"late","by_ms":7,"route":"a.b","target":"gatehouse_edge"}"#;
        assert_eq!(told("edge", "warn", json), "2026-01-01T00:00:00.123Z  WARN edge: late by_ms=7 route=a.b");
        let text = "2026-01-01T00:00:00.1Z  WARN gatehouse_edge: late by_ms=7";
        assert_eq!(told("edge", "warn", text), "2026-01-01T00:00:00.123Z  WARN edge: gatehouse_edge: late by_ms=7");
        assert_eq!(told("pusher", "", "a panic"), "2026-01-01T00:00:00.123Z       pusher/1: a panic");
        assert_eq!(told("edge", "", "{}"), "2026-01-01T00:00:00.123Z       edge: {}");
    }
}
