//! What others find in the runtime directory: the control socket, by which operators and the edge come, and `notify.sock`. Somebody may sweep it while we run; then
//! both are bound again, in a directory that is made again if need be.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use gatehouse_chassis::{config::Shared, sockets::Listener};

use super::Suite;
use crate::premises::control_socket;

/// Between two looks, each of which is a few calls of `stat`.
const LOOK: Duration = Duration::from_secs(5);

/// How it was, and when to look again.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) due: Instant,
    directory: Option<Access>,
    control: Option<Access>,
    /// It has been said that they cannot be restored.
    failed: bool,
}

/// Who may come to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    mode: u32,
    group: u32,
}

impl Paths {
    /// As they are now.
    pub(super) fn note(shared: &Shared) -> Self {
        let (directory, control) = (Access::of(&shared.runtime_dir), Access::of(&control_socket(shared)));
        Self { due: Instant::now() + LOOK, directory, control, failed: false }
    }
}

impl Access {
    fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|found| Self { mode: found.mode() & 0o7777, group: found.gid() })
    }

    fn give(self, path: &Path) -> io::Result<()> {
        if fs::metadata(path)?.gid() != self.group {
            chown(path, None, Some(self.group))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode))
    }
}

impl Suite {
    /// Looks, and restores what is gone. Whether children could not be heard: then all have their time once more, and nobody is ended for it.
    pub(super) fn restore_paths(&mut self) -> bool {
        self.paths.due = Instant::now() + LOOK;
        let unheard = self.parts.notifications.are_unheard();
        match self.restored(unheard) {
            Ok(()) => self.paths.failed = false,
            // The next look tries again.
            Err(error) if !self.paths.failed => {
                self.paths.failed = true;
                tracing::error!("sockets in the runtime directory are gone and cannot be bound again: {error:#}");
            }
            Err(_) => {}
        }
        if unheard {
            let now = self.attention.now();
            for slot in self.slots.iter_mut().filter(|slot| slot.watch().is_some()) {
                slot.alive(slot.machine.lead(), now);
            }
        }
        unheard
    }

    fn restored(&mut self, unheard: bool) -> anyhow::Result<()> {
        let unreached = self.parts.launcher.sockets().control_is_unreached();
        if !unheard && !unreached {
            return Ok(());
        }
        let shared = self.parts.process.shared();
        if self.parts.premises.restore(shared)? {
            if let Some(access) = self.paths.directory {
                access.give(&shared.runtime_dir).with_context(|| format!("open {} to who may come", shared.runtime_dir.display()))?;
            }
            self.parts.launcher.lanes().restore().context("make the directory of the lanes")?;
            let dir = shared.runtime_dir.display();
            tracing::error!(
                "{dir} had been removed; it is made again. What components had there comes back as each is restarted, Redis first"
            );
        }
        if unheard {
            self.parts.notifications.restore().context("bind notify.sock")?;
            tracing::error!("notify.sock had been removed; it is bound again");
        }
        if unreached {
            let path = control_socket(shared);
            let socket = self.parts.launcher.sockets_mut().bind_control_again().map_err(anyhow::Error::msg)?;
            self.parts.process.serve_local_again(Listener::from_fd(socket)?)?;
            if let Some(access) = self.paths.control {
                access.give(&path).with_context(|| format!("open {} to who may come", path.display()))?;
            }
        }
        Ok(())
    }
}
