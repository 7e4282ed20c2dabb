//! `[push]`: how much is remembered, and how far behind a stream may be.

use std::time::Duration;

use gatehouse_chassis::{
    config::{Config as Read, Reader},
    connections,
};

use crate::backlog::Bounds;

/// The checked sections of a pusher.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[push]`.
    pub push: Push,
    /// `[signer]`, `[sessions]`, `[limits]`.
    pub sessions: gatehouse_sessions::Config,
    /// `[connections]`, `[tls]`.
    pub connections: connections::Config,
}

/// `[push]`.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    /// `log_bytes` (64 MiB): the last events kept in memory, for streams that are behind and clients that resume.
    pub log_bytes: usize,
    /// `max_pending_events` (10,000), `max_pending_bytes` (16 MiB), `max_pending_age` (30 s): a stream further behind whose client does not read is closed.
    pub bounds: Bounds,
    /// `bookmark_interval` (15 s): after so long a silence on a stream, a bookmark.
    pub bookmark_interval: Duration,
    /// `retry_after` (500 ms): the least delay that a closed stream's client is asked to wait; up to three times as long, at random.
    pub retry_after: Duration,
}

impl Read for Config {
    fn read(reader: &mut Reader) -> Option<Self> {
        let mut section = reader.section("push");
        let log_bytes = section.key("log_bytes").within(64 << 20, 1 << 20..);
        let events = section.key("max_pending_events").within(10_000, 1..);
        let bytes = section.key("max_pending_bytes").within(16 << 20, 1 << 10..);
        let age = section.key("max_pending_age").duration(Duration::from_secs(30));
        let bookmark_interval = section.key("bookmark_interval").duration(Duration::from_secs(15));
        let retry_after = section.key("retry_after").duration(Duration::from_millis(500));
        for (key, span) in [("max_pending_age", age), ("bookmark_interval", bookmark_interval)] {
            if !(Duration::from_millis(100)..=Duration::from_hours(24)).contains(&span) {
                section.problem(key, "is outside 100ms to 24h");
            }
        }
        section.finish();
        let push = Push { log_bytes, bounds: Bounds { events, bytes, age }, bookmark_interval, retry_after };
        let (connections, sessions) = (connections::Config::read(reader), gatehouse_sessions::Config::read(reader));
        Some(Self { push, sessions: sessions?, connections: connections? })
    }
}

#[cfg(test)]
mod tests {
    use gatehouse_chassis::config::Source;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut reader = Reader::new(Source::of(text, &[]));
        assert!(Config::read(&mut reader).is_none(), "there is no key to sign with");
        reader.into_problems().iter().map(ToString::to_string).filter(|problem| problem.contains("push.")).collect()
    }

    #[test]
    fn values_that_no_pusher_could_serve_with_are_refused() {
        assert_eq!(problems("[push]\nmax_pending_events = 1\nbookmark_interval = '1m'\n"), Vec::<String>::new());
        let found = problems("[push]\nmax_pending_events = 0\nlog_bytes = 5\nbookmark_interval = '0s'\nmax_pending_agee = '1s'\n");
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[1].contains("outside") && found[3].contains("did you mean `max_pending_age`?"), "{found:?}");
    }
}
