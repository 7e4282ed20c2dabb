//! How a process ended.

use std::{fmt, os::unix::process::ExitStatusExt as _, process::ExitStatus};

use gatehouse_chassis::exit;
use nix::sys::signal::Signal;
use rustix::process::WaitIdStatus;

/// The end of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It left with that status.
    Status(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was never one: the binary could not be executed.
    NotStarted(String),
    /// It had not said `READY=1` in time, and was killed for it.
    StartTimeout,
    /// The kernel killed it for its memory.
    OutOfMemory,
    /// It made no progress any more, and was ended for it.
    Hung,
    /// It was adopted, no child of ours, and did not say with which status it leaves.
    Unknown,
    /// No supervisor ran when it ended.
    Unseen,
}

/// The same, for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It left by itself.
    Exit,
    /// A signal ended it.
    Signal,
    /// It could not be executed.
    NotStarted,
    /// It was not ready in time.
    StartTimeout,
    /// The kernel killed it for its memory.
    OutOfMemory,
    /// It proved no progress.
    Hung,
    /// Nobody knows.
    Unknown,
    /// It had not ended: an operator wanted another one.
    Operator,
}

impl Exit {
    /// What `waitpid` said.
    pub(crate) fn of(status: ExitStatus) -> Self {
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or(0)), Self::Status)
    }

    /// What `waitid` said.
    pub(crate) fn of_wait(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Status(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }

    /// Whether trying again cannot help.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Status(code) if [exit::CONFIG, exit::USAGE].map(i32::from).contains(code))
    }

    /// The exit code that the suite passes on when its start fails by this.
    pub(crate) fn code(&self) -> u8 {
        match self {
            _ if self.is_final() => exit::CONFIG,
            Self::NotStarted(_) => exit::CONFIG,
            _ => exit::TRY_AGAIN,
        }
    }

    /// For `component_restarts_total`.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Status(_) => Reason::Exit,
            Self::Signal(_) => Reason::Signal,
            Self::NotStarted(_) => Reason::NotStarted,
            Self::StartTimeout => Reason::StartTimeout,
            Self::OutOfMemory => Reason::OutOfMemory,
            Self::Hung => Reason::Hung,
            Self::Unknown | Self::Unseen => Reason::Unknown,
        }
    }
}

impl Reason {
    /// All of them.
    pub(crate) const ALL: [Self; 8] =
        [Self::Exit, Self::Signal, Self::NotStarted, Self::StartTimeout, Self::OutOfMemory, Self::Hung, Self::Unknown, Self::Operator];

    /// The label's value.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::NotStarted => "not_started",
            Self::StartTimeout => "start_timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::Hung => "hung",
            Self::Unknown => "unknown",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "status {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
            Self::NotStarted(why) => write!(f, "not started: {why}"),
            Self::StartTimeout => f.write_str("not ready in time"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Hung => f.write_str("hung"),
            Self::Unknown => f.write_str("status not known (an earlier supervisor started it)"),
            Self::Unseen => f.write_str("status not known (no supervisor ran)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_reads_as_operators_know_it() {
        assert_eq!(Exit::of(ExitStatus::from_raw(75 << 8)).to_string(), "status 75");
        assert_eq!(Exit::of(ExitStatus::from_raw(9)).to_string(), "signal 9 (SIGKILL)");
        assert_eq!(Exit::of(ExitStatus::from_raw(40)).to_string(), "signal 40");
        assert_eq!(
            [Exit::OutOfMemory, Exit::Hung, Exit::Unknown].map(|exit| exit.to_string()),
            ["out of memory", "hung", "status not known (an earlier supervisor started it)"]
        );
        assert!(Exit::Status(78).is_final() && Exit::Status(64).is_final() && !Exit::Status(75).is_final());
    }
}
