//! One child process: what to do with it ([`Machine`]), how it is started or taken over, what it may use, how it ended.

pub(crate) mod adopt;
mod cgroup;
mod exit;
mod lane;
mod launch;
mod limits;
mod machine;
mod process;

pub(crate) use exit::{Exit, Reason};
pub(crate) use lane::Lanes;
pub(crate) use launch::{Launcher, NOT_HANDED_ON};
pub(crate) use machine::{Action, Event, KILL_GRACE, Machine, Memory, Moment, Other, Policy, Quarantine, State, Then};
pub(crate) use process::{Activity, Ended, Launched, tracer_of};

#[cfg(test)]
pub(crate) mod forks {
    //! A fork holds copies of all descriptors until it executes, those of lanes among them. The supervisor forks from one thread, tests from many.

    use tokio::sync::{Mutex, MutexGuard};

    static TURN: Mutex<()> = Mutex::const_new(());

    /// Whoever forks holds it.
    pub(crate) async fn turn() -> MutexGuard<'static, ()> {
        TURN.lock().await
    }

    /// The same, without a runtime.
    pub(crate) fn blocking_turn() -> MutexGuard<'static, ()> {
        TURN.blocking_lock()
    }
}
