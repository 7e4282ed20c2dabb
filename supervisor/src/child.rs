//! One child process: what to do with it ([`Machine`]), how it is started, how it ended, what it said.

mod exit;
mod launch;
mod machine;
mod output;

pub(crate) use exit::{Exit, Reason};
pub(crate) use launch::{Launched, Launcher, NOT_HANDED_ON, open};
pub(crate) use machine::{Action, Event, KILL_GRACE, Machine, Memory, Other, Policy, Quarantine, State, Then};
pub(crate) use output::{Tail, plain};
