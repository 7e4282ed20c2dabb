//! `gatehouse migrate`: the owners of tables bring them up to date, one after the other.

use std::{path::Path, process::Stdio};

use anyhow::Context as _;
use gatehouse_chassis::exit;
use serde::Serialize;

use crate::{failure::Failure, output::Output, siblings};

/// Who owns tables.
const OWNERS: [&str; 2] = ["auditor", "admin"];

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    components: Vec<Outcome>,
}

#[derive(Serialize)]
struct Outcome {
    component: &'static str,
    done: bool,
    output: Vec<String>,
}

pub fn migrate(config: Option<&Path>, dry_run: bool, output: &mut Output) -> Result<(), Failure> {
    let mut components = Vec::new();
    let mut failed = None;
    for component in OWNERS {
        let (outcome, code) = migrate_one(component, config, dry_run, output)?;
        components.push(outcome);
        failed = worst(failed, code);
    }
    if output.is_json() {
        output.document(&Report { dry_run, components })?;
    }
    failed.map_or(Ok(()), |code| Err(Failure::Said(code)))
}

/// What a child prints is shown as it comes; for programs its standard output is kept for the one document.
fn migrate_one(component: &'static str, config: Option<&Path>, dry_run: bool, output: &Output) -> Result<(Outcome, Option<i32>), Failure> {
    let mut command = siblings::command(component, config)?;
    command.arg("--migrate").args(dry_run.then_some("--dry-run")).stdin(Stdio::null());
    let context = || format!("run gatehouse-{component} --migrate");
    let (status, lines) = if output.is_json() {
        let ended = command.stderr(Stdio::inherit()).output().with_context(context)?;
        (ended.status, String::from_utf8_lossy(&ended.stdout).lines().map(str::to_owned).collect())
    } else {
        (command.status().with_context(context)?, Vec::new())
    };
    Ok((Outcome { component, done: status.success(), output: lines }, status.code()))
}

/// Wrong configuration is told apart from everything else that failed, and outweighs it, for it is what must be mended first.
fn worst(so_far: Option<u8>, code: Option<i32>) -> Option<u8> {
    match code {
        Some(0) => so_far,
        Some(code) if code == i32::from(exit::CONFIG) => Some(exit::CONFIG),
        _ => Some(so_far.unwrap_or(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_s_exit_codes_become_this_command_s() {
        let table: [(&[Option<i32>], Option<u8>); 6] = [
            (&[Some(0), Some(0)], None),
            (&[Some(75), Some(0)], Some(1)),
            (&[Some(0), Some(70)], Some(1)),
            (&[None, Some(0)], Some(1)),
            (&[Some(78), Some(75)], Some(78)),
            (&[Some(75), Some(78)], Some(78)),
        ];
        for (codes, expected) in table {
            assert_eq!(codes.iter().fold(None, |so_far, code| worst(so_far, *code)), expected, "{codes:?}");
        }
    }
}
