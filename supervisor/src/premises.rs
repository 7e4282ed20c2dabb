//! The state and runtime directories, and the proof that they are ours alone.

use std::{
    fs::{self, File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use gatehouse_chassis::{config::Shared, exit::Fatal};

use crate::sockets;

/// Held while the supervisor lives. The lock is the kernel's: it goes with the process, however that ends, and no child inherits it.
#[derive(Debug)]
pub(crate) struct Premises {
    _lock: File,
    control: PathBuf,
}

impl Premises {
    /// Makes the directories and locks them, or says whose they are.
    pub(crate) fn open(shared: &Shared) -> anyhow::Result<Self> {
        for (key, dir) in [("state_dir", &shared.state_dir), ("runtime_dir", &shared.runtime_dir)] {
            create(key, dir)?;
        }
        let lock = lock(&shared.state_dir.join("supervisor.lock"))?;
        let control = control_socket(shared);
        // Another state directory, but the same sockets.
        if UnixStream::connect(&control).is_ok() {
            return Err(
                Fatal::config(format!("another supervisor answers on {}; set another GATEWAY_RUNTIME_DIR", control.display())).into()
            );
        }
        Ok(Self { _lock: lock, control })
    }

    /// Binds the control socket.
    pub(crate) fn bind_control(&self) -> Result<OwnedFd, Fatal> {
        sockets::bind_unix(&self.control).map_err(Fatal::config)
    }
}

impl Drop for Premises {
    fn drop(&mut self) {
        // Not there when the start failed early.
        let _absent = fs::remove_file(&self.control);
    }
}

/// Where the operator's command finds us.
pub(crate) fn control_socket(shared: &Shared) -> PathBuf {
    shared.local_socket("supervisor", 0)
}

fn create(key: &str, dir: &Path) -> Result<(), Fatal> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(|error| {
        let variable = format!("GATEWAY_{}", key.to_uppercase());
        Fatal::config(format!("suite.{key} {} cannot be created: {error}; create it for this user, or set {variable}", dir.display()))
    })
}

fn lock(path: &Path) -> Result<File, Fatal> {
    let unusable = |error: std::io::Error| Fatal::config(format!("{} cannot be used: {error}", path.display()));
    let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unusable)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // It only makes the message better.
            let _unknown = file.read_to_string(&mut holder);
            let who = if holder.trim().is_empty() { String::new() } else { format!(" (pid {})", holder.trim()) };
            Err(Fatal::config(format!("another supervisor{who} is running on {}", path.parent().unwrap_or(path).display())))
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_supervisor_is_refused_and_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("supervisor.lock");
        let held = lock(&path).unwrap();
        let refused = lock(&path).unwrap_err().to_string();
        assert_eq!(refused, format!("another supervisor (pid {}) is running on {}", std::process::id(), dir.path().display()));
        drop(held);
        lock(&path).unwrap();
    }
}
