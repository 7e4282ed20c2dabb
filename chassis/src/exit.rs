//! Exit codes are an interface: the supervisor and systemd decide by them what happens next (sysexits.h).

/// Asked to stop, and stopped.
pub const OK: u8 = 0;
/// Wrong command line (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// The suite is not reachable (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;
/// A bug: a panic, a broken invariant (`EX_SOFTWARE`).
pub const BUG: u8 = 70;
/// Something outside is missing for now; try again (`EX_TEMPFAIL`).
pub const TRY_AGAIN: u8 = 75;
/// The configuration is wrong; trying again will not help (`EX_CONFIG`).
pub const CONFIG: u8 = 78;

/// An error that knows its exit code. Without one, the end of a process is [`TRY_AGAIN`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fatal {
    /// One of the codes above.
    pub code: u8,
    /// What the operator reads.
    pub message: String,
}

impl Fatal {
    /// Wrong configuration, found by trying it: a key that cannot be loaded, a password that is refused.
    pub fn config(message: impl Into<String>) -> Self {
        Self { code: CONFIG, message: message.into() }
    }
}

/// The exit code of a failed `serve`.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(|cause| cause.downcast_ref::<Fatal>()).map_or(TRY_AGAIN, |fatal| fatal.code)
}
