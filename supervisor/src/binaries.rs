//! Where the components' binaries are: beside our own.
//!
//! `GATEHOUSE_BIN_DIR` names another directory. It is a seam for tests, which put programs of their own there; nothing else sets it.

use std::{env, io, path::PathBuf};

use crate::component::Component;

/// The directory of the components' binaries.
pub(crate) fn directory() -> io::Result<PathBuf> {
    if let Some(dir) = env::var_os("GATEHOUSE_BIN_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let own = env::current_exe()?;
    own.parent().map(ToOwned::to_owned).ok_or_else(|| io::Error::other("the supervisor's own path has no directory"))
}

/// `gatehouse-edge`.
pub(crate) fn file_name(component: Component) -> String {
    format!("gatehouse-{}", component.name())
}

/// A program by path or, without a slash, in PATH.
pub(crate) fn find(program: &std::path::Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
