//! What a machine hears, and what it wants done.

/// What happened. The number is a generation's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Event {
    /// Everything it needs is ready.
    NeedsMet,
    /// It said `READY=1`.
    Ready(u32),
    /// It said `STOPPING=1` without being asked.
    Leaving {
        /// Which.
        generation: u32,
        /// In `0.0..1.0`: the jitter.
        draw: f64,
    },
    /// It proves no progress any more.
    Hung {
        /// Which.
        generation: u32,
        /// In `0.0..1.0`: the jitter.
        draw: f64,
    },
    /// It ended, or could not be started.
    Exited {
        /// Which.
        generation: u32,
        /// Trying again cannot help.
        is_final: bool,
        /// In `0.0..1.0`: the jitter.
        draw: f64,
    },
    /// An operator wants a new process.
    Restart,
    /// An operator wants it to run.
    Start,
    /// Stop it: an operator wants so, or it is its turn in the suite's drain.
    Stop,
    /// The suite drains: start nothing any more.
    Retire,
    /// End it now.
    Kill,
    /// [`Machine::deadline`] may have passed.
    Tick,
}

/// What to do about it. The number is a generation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process.
    Spawn(u32),
    /// Send SIGTERM.
    Terminate(u32),
    /// Dump its threads, then send SIGABRT.
    Abort(u32),
    /// Send SIGKILL.
    Kill(u32),
}
