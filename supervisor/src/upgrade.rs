//! Another build of the supervisor takes this one's place: same process, same children, same sockets.
//!
//! ```text
//!  the one that runs                        the new one, executed in place                  the first again, executed in place
//!  open what lies in DIR
//!  new supervisor's --check passes
//!  state file: upgrade to DIR
//!  execute what was checked ──────────────▶ adopts everything (suite::adopt)
//!                                           restarts each component with DIR's binaries
//!                                           all ready: "done"
//!                                           one is not: restarts what runs the new build
//!                                           with the binaries before, and hands back why
//!                                           it cannot open what it was handed: the same ──▶ adopts everything: "failed", and why
//! ```
//!
//! What is handed on goes by name, as `LISTEN_FDS`: the sockets, the locks, the binaries that were opened before the check, so that nothing else is executed than
//! what passed it, and those from before the upgrade, for by then other files may stand under their names; on the way back also why, for the disk may be full. A supervisor that dies in the middle leaves a note in the state file, and nothing is handed
//! on: the next one, whatever it is, rolls back those who run another build than before, with binaries that it has to find.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use gatehouse_chassis::sockets::Inherited;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::fcntl_dupfd_cloexec,
};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::{
    binaries::{Binaries, Pinned},
    component::Component,
    preflight::problems,
    reexec,
};

/// The supervisor's own binary.
pub(crate) const SUPERVISOR: &str = "gatehouse-supervisor";
/// The names of binaries that are handed on: `bin.edge`, `bin.supervisor`.
const PREFIX: &str = "bin.";
const OWN: &str = "bin.supervisor";
/// The names of binaries to go on with: `next.edge`.
const NEXT: &str = "next.";
/// The name of what says why it goes back.
const BACK: &str = "back";
/// The most of it that is read.
const MAX_BACK: u64 = 4096;
/// The most that is told of what is wrong with a new one.
const MAX_VERDICT: usize = 4096;
/// The first descriptor of a program that is executed with others (`SD_LISTEN_FDS_START`).
const FIRST_FD: usize = 3;
/// It asks every component, and they have twenty seconds.
const CHECK: Duration = Duration::from_secs(30);

/// One that is under way: what the next supervisor must know of it. Part of the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upgrade {
    /// Where the new binaries lie.
    pub(crate) directory: PathBuf,
    /// Where those before did.
    pub(crate) before: PathBuf,
    /// What ran before, by the components' names, and `supervisor`.
    #[serde(default)]
    pub(crate) builds: BTreeMap<String, String>,
    /// It has failed, and why.
    pub(crate) back: Option<String>,
}

/// The way back to the one before: its binary, and those of its components.
#[derive(Debug)]
pub(crate) struct Before {
    supervisor: OwnedFd,
    binaries: Vec<(Component, OwnedFd)>,
    /// What the components are to run now.
    next: Vec<(Component, OwnedFd)>,
    /// We are the one before, executed again, and why.
    back: Option<String>,
    /// All that was handed on, to be handed back if we cannot even open it.
    kept: Vec<(String, OwnedFd)>,
}

impl Before {
    /// What a supervisor that executed us handed on; `None`: nobody did. Sockets and locks stay with `inherited`.
    pub(crate) fn take(inherited: &mut Inherited) -> io::Result<Option<Self>> {
        let kept = inherited.duplicates()?;
        let Some(supervisor) = inherited.take_fd(OWN) else { return Ok(None) };
        let mut binaries = |prefix| {
            let binary = |component: Component| Some((component, inherited.take_fd(&name_of(prefix, component))?));
            Component::OURS.into_iter().filter_map(binary).collect()
        };
        let (next, binaries) = (binaries(NEXT), binaries(PREFIX));
        let back = inherited.take_fd(BACK).map(|why| read(File::from(why))).transpose()?;
        Ok(Some(Self { supervisor, binaries, next, back, kept }))
    }

    /// Why we were executed again, if we are the one before.
    pub(crate) fn back(&self) -> Option<&str> {
        self.back.as_deref()
    }

    /// The components' binaries. One that was a script was not handed on; it stands in that directory.
    pub(crate) fn binaries(&self, directory: &Path) -> Result<Binaries, String> {
        pin(&self.binaries, directory)
    }

    /// The same, of those to go on with.
    pub(crate) fn next(&self, directory: &Path) -> Result<Binaries, String> {
        pin(&self.next, directory)
    }

    /// We are not needed any more for opening what was handed on.
    pub(crate) fn opened(&mut self) {
        self.kept.clear();
        self.next.clear();
    }

    /// Becomes it again, and tells it why. Returns if that cannot be.
    pub(crate) fn execute(&self, mut kept: Vec<(String, OwnedFd)>, why: &str) -> io::Error {
        let mut hand_on = || {
            kept.retain(|(name, _)| ![PREFIX, NEXT].iter().any(|prefix| name.starts_with(prefix)));
            kept.push((BACK.to_owned(), written(why)?));
            for (component, fd) in &self.binaries {
                kept.push((name_of(PREFIX, *component), fd.try_clone()?));
            }
            kept.push((OWN.to_owned(), self.supervisor.try_clone()?));
            // Above those that take numbers of their own before it is executed.
            let above = i32::try_from(FIRST_FD + kept.len()).map_err(io::Error::other)?;
            io::Result::Ok(fcntl_dupfd_cloexec(&self.supervisor, above)?)
        };
        match hand_on() {
            Ok(supervisor) => reexec::exec(&reexec::pinned(supervisor.as_fd()), &kept),
            Err(error) => error,
        }
    }
}

/// We cannot even open what was handed on: the one before takes over again, and says why. Returns if that cannot be, or if we are the one before.
pub(crate) fn go_back(mut before: Before, why: anyhow::Error) -> anyhow::Error {
    if before.back.is_some() {
        return why;
    }
    tracing::error!(error = format!("{why:#}"), "the new supervisor cannot start; the one before takes over again");
    let kept = std::mem::take(&mut before.kept);
    let error = before.execute(kept, &format!("the new supervisor could not start: {why:#}"));
    why.context(format!("the supervisor from before cannot be executed: {error}"))
}

/// Whether a supervisor has executed this process, for an upgrade.
pub(crate) fn is_under_way() -> bool {
    env::var("LISTEN_FDNAMES").is_ok_and(|names| names.split(':').any(|name| name == OWN))
}

/// The binaries that run now, for the successor's way back.
pub(crate) fn handed_on(binaries: &Binaries) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut handed_on = named(PREFIX, binaries)?;
    handed_on.push((OWN.to_owned(), File::open("/proc/self/exe")?.into()));
    Ok(handed_on)
}

/// What an upgrade is to: the binaries of a directory as they were when they were opened.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) directory: PathBuf,
    supervisor: Pinned,
    binaries: Binaries,
}

impl Release {
    /// Every problem at once.
    pub(crate) fn open(directory: PathBuf) -> Result<Self, String> {
        let path = directory.join(SUPERVISOR);
        let supervisor = Pinned::open(&path).map_err(|error| format!("{} cannot be executed: {error}", path.display()))?;
        Ok(Self { supervisor, binaries: Binaries::pin(&directory)?, directory })
    }

    /// Whether this supervisor would start with this configuration, and so would its components; what stands against it.
    pub(crate) async fn check(&self, config: Option<PathBuf>) -> Result<(), String> {
        let mut command = Command::new(self.supervisor.program());
        command.arg0(SUPERVISOR).env("GATEHOUSE_BIN_DIR", &self.directory);
        let problems = problems(&self.directory.join(SUPERVISOR), command, config.as_deref(), CHECK).await;
        if !problems.is_empty() {
            return Err(verdict(&problems));
        }
        // It asked the components by their names.
        let (opened, asked) = (self.binaries.builds(), Binaries::pin(&self.directory)?.builds());
        let replaced: Vec<_> = opened.into_iter().filter(|(name, build)| asked.get(name) != Some(build)).map(|(name, _)| name).collect();
        if replaced.is_empty() { Ok(()) } else { Err(format!("replaced while it was checked: {}", replaced.join(", "))) }
    }

    /// Becomes it. Returns if that cannot be.
    pub(crate) fn execute(&self, mut kept: Vec<(String, OwnedFd)>) -> io::Error {
        let program = named(NEXT, &self.binaries).and_then(|next| {
            kept.extend(next);
            self.supervisor.above(FIRST_FD, kept.len())
        });
        program.map_or_else(|error| error, |program| reexec::exec(&program.program(), &kept))
    }
}

/// It is kept, and shown in one line.
fn verdict(problems: &[String]) -> String {
    let mut text = problems.join("; ");
    if text.len() > MAX_VERDICT {
        text.truncate(text.floor_char_boundary(MAX_VERDICT));
        text.push_str(" … and more; `gatehouse-supervisor --check` of that release says all of it");
    }
    text
}

fn pin(files: &[(Component, OwnedFd)], directory: &Path) -> Result<Binaries, String> {
    let file = |component| files.iter().find(|(other, _)| *other == component).map(|(_, fd)| fd.try_clone().map(File::from));
    Binaries::pin_or(directory, |component| file(component).transpose())
}

fn named(prefix: &str, binaries: &Binaries) -> io::Result<Vec<(String, OwnedFd)>> {
    Ok(binaries.open_files()?.into_iter().map(|(component, fd)| (name_of(prefix, component), fd)).collect())
}

fn name_of(prefix: &str, component: Component) -> String {
    format!("{prefix}{}", component.name())
}

fn written(text: &str) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(BACK, MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

fn read(file: File) -> io::Result<String> {
    let mut text = Vec::new();
    file.take(MAX_BACK).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
