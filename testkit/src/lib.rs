//! Servers that tests start for themselves: real ones, each in a directory of its own, on a unix socket, gone when dropped.
//!
//! Knows nothing of the suite, so that every crate's tests may use it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc, reason = "a test fails by panicking")]

mod postgres;
mod redis;

pub use postgres::PostgresServer;
pub use redis::RedisServer;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

/// How long a server may take to come up, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(30);

/// Asks until it is so; panics with `what` when it does not become so in time.
pub fn eventually(what: &str, bound: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + bound;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {bound:?}: {what}");
        // Between two questions, not instead of one.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A file for its owner's eyes alone, as private keys must be.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The program of that name on the PATH or where Debian keeps PostgreSQL's.
fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    // One version's programs for all that is asked of it.
    dirs.extend(versions.map(|version| version.path().join("bin")).filter(|dir| dir.join("initdb").is_file()).max());
    let found = dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed; `make test` installs it (Debian package {package})"))
}

/// A child that does not outlive the test.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// SIGKILL, and wait until it is gone.
    fn kill9(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    fn assert_running(&mut self, what: &str) {
        if let Some(status) = self.0.try_wait().unwrap() {
            panic!("{what} ended at once: {status}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
