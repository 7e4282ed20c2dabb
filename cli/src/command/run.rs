//! `gatehouse run`: becomes the supervisor, so that whoever started this process watches, and stops, the supervisor itself.

use std::{os::unix::process::CommandExt as _, path::Path};

use anyhow::Context as _;

use crate::{failure::Failure, siblings};

pub fn run(config: Option<&Path>) -> Result<(), Failure> {
    let mut supervisor = siblings::command("supervisor", config)?;
    // Returns only when it failed.
    let error = supervisor.exec();
    Err(error).with_context(|| format!("start {}", supervisor.get_program().display()))?
}
