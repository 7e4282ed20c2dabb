//! `gatehouse config`: the supervisor lets every component check its own sections; this shows what they found.

use std::{path::Path, process::Stdio};

use anyhow::Context as _;
use clap::Subcommand;
use gatehouse_chassis::exit;
use serde_json::json;

use crate::{failure::Failure, output::Output, siblings};

/// What to do with the configuration.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every problem of the file and the environment; exit 78 when there is one
    Check,
}

pub fn check(config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let mut supervisor = siblings::command("supervisor", config)?;
    let checked = supervisor.arg("--check").stdin(Stdio::null()).output().context("run gatehouse-supervisor --check")?;
    let said = String::from_utf8_lossy(&checked.stderr);
    let problems: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    match checked.status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(exit::OK) if output.is_json() => output.document(&json!({"valid": true, "problems": []})),
        Some(exit::OK) => output.line("configuration is valid"),
        Some(exit::CONFIG) => {
            if output.is_json() {
                output.document(&json!({"valid": false, "problems": problems}))?;
            } else {
                output.complain(&problems.join("\n"));
            }
            Err(Failure::Said(exit::CONFIG))
        }
        _ => Err(Failure::failed(format!("gatehouse-supervisor --check ended with {}: {}", checked.status, said.trim()))),
    }
}
