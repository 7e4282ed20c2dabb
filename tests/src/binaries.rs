//! Where the programs are.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Takes our binaries from there instead; a benchmark compares builds so.
pub fn use_directory(path: PathBuf) {
    CHOSEN.set(path).expect("the directory is chosen once, at the start");
}

/// The directory of the built binaries: `target/<profile>`, found from the running test or benchmark.
#[must_use]
pub fn directory() -> PathBuf {
    if let Some(chosen) = CHOSEN.get() {
        return chosen.clone();
    }
    let exe = env::current_exe().expect("know the running program");
    let dir = exe.parent().unwrap();
    if dir.ends_with("deps") { dir.parent().unwrap().to_owned() } else { dir.to_owned() }
}

/// One of our binaries.
#[must_use]
pub fn ours(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(path.exists(), "{} is not built: run `make test`, or `cargo build --workspace` before `cargo test`", path.display());
    path
}

/// A program of another's, from `PATH` or from one of `elsewhere`.
#[must_use]
pub fn foreign(name: &str, elsewhere: &[&str]) -> PathBuf {
    find(name, elsewhere).unwrap_or_else(|| panic!("{name} is not installed: `make test` installs what is missing"))
}

/// The same, when it may be missing.
#[must_use]
pub fn find(name: &str, elsewhere: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(elsewhere.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|path| Path::is_file(path))
}
