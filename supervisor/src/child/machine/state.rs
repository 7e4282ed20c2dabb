//! Where a slot's processes stand.

use std::time::Instant;

/// Where the lead stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// What it needs is not ready yet.
    Waiting,
    /// It runs and has not said `READY=1`.
    Starting {
        /// When it is killed for that; `None`: it was.
        deadline: Option<Instant>,
    },
    /// It serves.
    Ready {
        /// Since then.
        since: Instant,
    },
    /// It runs, was asked to stop, and has no process beside it that takes its place.
    Draining {
        /// When it is killed; `None`: it was.
        deadline: Option<Instant>,
        /// What comes after.
        then: Then,
    },
    /// It exited and is started again.
    BackingOff {
        /// Then.
        until: Instant,
    },
    /// It exited and is not started again, but for a slow probe.
    Quarantined {
        /// The next probe; `None`: there is none.
        probe_at: Option<Instant>,
    },
    /// It was stopped, and nothing but an operator starts it.
    Stopped,
}

/// What follows the end of a lead that drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// What the restart policy says.
    Policy,
    /// An operator wanted a new one: at once.
    Again,
    /// Nothing.
    Stop,
}

/// The second process of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// It starts while the lead serves.
    Successor {
        /// Which.
        generation: u32,
        /// When it is killed for not being ready; `None`: it was.
        deadline: Option<Instant>,
    },
    /// It was the lead, or is not to become it, and ends.
    Outgoing {
        /// Which.
        generation: u32,
        /// When it is killed; `None`: it was.
        deadline: Option<Instant>,
    },
}

/// Why a child is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Quarantine {
    /// Trying again cannot help.
    Configuration,
    /// So many exits in a row.
    CrashLoop(u32),
}

impl Other {
    /// Which.
    pub(crate) const fn generation(self) -> u32 {
        match self {
            Self::Successor { generation, .. } | Self::Outgoing { generation, .. } => generation,
        }
    }

    pub(super) const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Successor { deadline, .. } | Self::Outgoing { deadline, .. } => deadline,
        }
    }
}
