//! A cgroup for each process, where cgroup v2 was delegated to us (`Delegate=yes`):
//!
//! ```text
//! gatehouse.service/        ours: systemd made it and keeps its hands off it
//! ├── supervisor/           ourselves, for a cgroup with processes of its own cannot share out memory or CPU
//! ├── edge-0.7/             the edge of generation 7: memory.max, cpu.weight, memory.peak, memory.events, cgroup.kill
//! └── pusher-1.3/
//! ```
//!
//! One for each generation, so that what it says is about one process, and so that one of them out of memory ends alone. Without delegation there is none,
//! and [`limits`](super::limits) does what can be done.

mod leaf;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;
use procfs::process::Process;
use rustix::fs::{Access, access, getxattr};

pub(super) use leaf::Leaf;

use crate::config::Limits;

/// Where the supervisor itself sits.
const OWN: &str = "supervisor";
/// What can be shared out.
const CONTROLLERS: [&str; 2] = ["memory", "cpu"];

/// The cgroup that was delegated to us.
#[derive(Debug)]
pub(crate) struct Cgroups {
    base: PathBuf,
}

impl Cgroups {
    /// Moves ourselves into a leaf; or says why there are none.
    pub(crate) fn open() -> Result<Self, String> {
        let own = own().ok_or("no cgroup v2 is mounted")?;
        // A supervisor that executed another has moved already.
        let base = own.parent().filter(|_| own.file_name().is_some_and(|name| name == OWN)).unwrap_or(&own);
        if !is_delegated(base) {
            return Err(format!("{} is not delegated to us (Delegate=yes)", base.display()));
        }
        Self::under(base).map_err(|error| format!("{} cannot be used: {error}", base.display()))
    }

    /// The same, of a cgroup that is known to be ours.
    fn under(base: &Path) -> io::Result<Self> {
        let own = base.join(OWN);
        make(&own)?;
        fs::write(own.join("cgroup.procs"), std::process::id().to_string())?;
        let this = Self { base: base.to_owned() };
        this.sweep();
        Ok(this)
    }

    /// A cgroup for the process to come, with its limits.
    pub(super) fn leaf(&self, name: &str, limits: &Limits) -> io::Result<Leaf> {
        self.sweep();
        let dir = self.base.join(name);
        make(&dir)?;
        let enabled = self.enable();
        Ok(Leaf::new(dir, limits, &enabled))
    }

    /// The cgroup that the process is in, if it is one of ours, with the limits of now.
    pub(super) fn of(&self, pid: u32, limits: &Limits) -> Option<Leaf> {
        let cgroups = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.cgroups()).ok()?;
        let path = cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0)?.pathname;
        let name = Path::new(&path).file_name()?.to_str().filter(|name| is_leaf(name))?;
        let dir = self.base.join(name);
        dir.is_dir().then(|| Leaf::new(dir, limits, &self.enable()))
    }

    /// Turns on what is there to be shared out. Not once and for all: an earlier try fails while a process that we are to adopt sits in the base.
    fn enable(&self) -> Vec<&'static str> {
        let control = self.base.join("cgroup.subtree_control");
        for controller in CONTROLLERS {
            if let Err(error) = fs::write(&control, format!("+{controller}")) {
                tracing::debug!(controller, %error, "not to be shared out");
            }
        }
        let enabled = fs::read_to_string(&control).unwrap_or_default();
        CONTROLLERS.into_iter().filter(|controller| enabled.split_whitespace().any(|name| name == *controller)).collect()
    }

    /// Removes the cgroups whose processes have ended. The kernel refuses it for the others.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(is_leaf) {
                let _populated = fs::remove_dir(entry.path());
            }
        }
    }
}

/// `edge-0.7`.
fn is_leaf(name: &str) -> bool {
    let slot = name.rsplit_once('.').filter(|(_, generation)| generation.parse::<u32>().is_ok()).map(|(slot, _)| slot);
    slot.and_then(|slot| slot.rsplit_once('-')).is_some_and(|(_, instance)| instance.parse::<u32>().is_ok())
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The directory of our own cgroup.
fn own() -> Option<PathBuf> {
    let process = Process::myself().ok()?;
    let path = process.cgroups().ok()?.into_iter().find(|cgroup| cgroup.hierarchy == 0)?.pathname;
    let mount = process.mountinfo().ok()?.into_iter().find(|mount| mount.fs_type == "cgroup2")?;
    // In a container the mount may show only a part of the tree.
    let below = Path::new(&path).strip_prefix(&mount.root).ok()?;
    Some(mount.mount_point.join(below))
}

/// systemd says so in an attribute. Whoever is not root can write there only if it was made theirs.
fn is_delegated(dir: &Path) -> bool {
    let is_marked = |name: &str| {
        let mut value = [0_u8; 8];
        getxattr(dir, name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    };
    let is_given = || {
        let files = ["", "cgroup.procs", "cgroup.subtree_control"].map(|file| dir.join(file));
        !Uid::effective().is_root() && files.iter().all(|file| access(file, Access::WRITE_OK).is_ok())
    };
    is_marked("user.delegate") || is_marked("trusted.delegate") || is_given()
}

#[cfg(test)]
mod tests;
