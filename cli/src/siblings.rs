//! The suite's other binaries, which lie beside this one: a release is one directory, and a `gatehouse` never starts another release's parts.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::failure::Failure;

/// A command line that starts `gatehouse-{component}` with the configuration that was named here.
pub fn command(component: &str, config: Option<&Path>) -> Result<Command, Failure> {
    let mut command = Command::new(find(component)?);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    Ok(command)
}

fn find(component: &str) -> Result<PathBuf, Failure> {
    let this = env::current_exe().context("find this executable")?;
    let path = this.with_file_name(format!("gatehouse-{component}"));
    if path.is_file() {
        Ok(path)
    } else {
        Err(Failure::failed(format!("{} is missing; it belongs beside {}", path.display(), this.display())))
    }
}
