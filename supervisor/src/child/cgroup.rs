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
//!
//! A cgroup says how its process ended for as long as it is there. So one is removed by whoever has heard of that end, and of the others, which are removed
//! when a process is started, only what nobody will ask for.

mod leaf;

use std::{
    cell::{Cell, RefCell},
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
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
    /// Those whose processes are known.
    known: Known,
    /// Whether what others left has been removed.
    swept: Cell<bool>,
}

/// As often as each is.
type Known = Rc<RefCell<Vec<PathBuf>>>;

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
        Ok(Self::at(base.to_owned()))
    }

    fn at(base: PathBuf) -> Self {
        Self { base, known: Known::default(), swept: Cell::new(false) }
    }

    /// A cgroup for a process, with its limits.
    pub(super) fn leaf(&self, name: &str, limits: &Limits) -> io::Result<Leaf> {
        let dir = self.base.join(name);
        make(&dir)?;
        let enabled = self.enable();
        Ok(Leaf::new(dir, limits, &enabled, &self.known))
    }

    /// What is left of one whose process has ended.
    pub(super) fn left(&self, name: &str) -> Option<Leaf> {
        let dir = self.base.join(name);
        dir.is_dir().then(|| Leaf::new(dir, &Limits::default(), &[], &self.known))
    }

    /// The cgroup that the process is in, if it is one of ours, with the limits of now.
    pub(super) fn of(&self, pid: u32, limits: &Limits) -> Option<Leaf> {
        let cgroups = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.cgroups()).ok()?;
        let path = cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0)?.pathname;
        let name = Path::new(&path).file_name()?.to_str().filter(|name| is_leaf(name))?;
        let dir = self.base.join(name);
        dir.is_dir().then(|| Leaf::new(dir, limits, &self.enable(), &self.known))
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

    /// Removes the cgroups whose processes have ended, and nobody is about to hear of it. The kernel refuses it for those with processes. Once all that a
    /// supervisor before has left is known.
    pub(super) fn sweep(&self) {
        let is_first = !self.swept.replace(true);
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if !name.to_str().is_some_and(is_leaf) || self.known.borrow().contains(&path) {
                continue;
            }
            let starved = leaf::has_killed_for_memory(&path);
            if fs::remove_dir(&path).is_ok() && is_first && starved {
                tracing::warn!(cgroup = %name.display(), "out of memory while nobody supervised it");
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
