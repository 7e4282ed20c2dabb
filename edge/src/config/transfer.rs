//! `[http]`: how much of a request's body is carried, and how long who has gone silent is waited for. A `[[route]]` and `[auth]` may each say otherwise by the
//! same keys.

use std::time::Duration;

use gatehouse_chassis::config::{Bytes, Reader, Section};

/// No limit: longer than any connection lives, and short enough to be added to any clock.
const NEVER: Duration = Duration::from_hours(24 * 365 * 100);

/// What a forwarded request is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// `max_body_bytes`: a longer body is refused with 413, whether its length is told or not. Default 16 MiB.
    pub max_body_bytes: u64,
    /// `body_timeout`: how long a client may send nothing of a body that is waited for. Default 30 s.
    pub body_timeout: Duration,
    /// `read_timeout`: how long a backend may send nothing of an answer that it has begun. Default 1 min.
    pub read_timeout: Duration,
    /// `write_timeout`: how long a backend may take nothing of a body that has come. Default 1 min.
    pub write_timeout: Duration,
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            body_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_mins(1),
            write_timeout: Duration::from_mins(1),
        }
    }
}

impl Transfer {
    /// `[http]`.
    pub(super) fn read(reader: &mut Reader) -> Self {
        let mut section = reader.section("http");
        let transfer = Self::default().or_as_in(&mut section);
        section.finish();
        transfer
    }

    /// These, but for what the section says.
    pub(super) fn or_as_in(self, section: &mut Section<'_>) -> Self {
        let mut timeout = |key, default| match section.key(key).duration(default) {
            Duration::ZERO => NEVER,
            given => given.min(NEVER),
        };
        let body_timeout = timeout("body_timeout", self.body_timeout);
        let read_timeout = timeout("read_timeout", self.read_timeout);
        let write_timeout = timeout("write_timeout", self.write_timeout);
        let max_body_bytes = section.key("max_body_bytes").or(Bytes(self.max_body_bytes)).0;
        Self { max_body_bytes, body_timeout, read_timeout, write_timeout }
    }
}
