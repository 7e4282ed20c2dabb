//! Another build of the supervisor takes this one's place: same process, same children, same sockets.
//!
//! ```text
//!  the one that runs                        the new one, executed in place                  the first again, executed in place
//!  new supervisor's --check passes
//!  state file: upgrade to DIR
//!  execute DIR/gatehouse-supervisor ──────▶ adopts everything (suite::adopt)
//!                                           restarts each component with DIR's binaries
//!                                           all ready: "done"
//!                                           one is not: restarts what was replaced with
//!                                           the binaries before, state file: back, and why
//!                                           it cannot start at all: the same ─────────────▶ adopts everything: "failed", and why
//! ```
//!
//! What is handed on goes by name, as `LISTEN_FDS`: the sockets, the locks, and the binaries from before the upgrade, for by then other files may stand under
//! their names. A supervisor that is killed in the middle leaves a note in the state file, and the next one says so.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use gatehouse_chassis::sockets::Inherited;
use prometheus::IntCounter;
use rustix::io::fcntl_dupfd_cloexec;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

use crate::{binaries::Binaries, child::NOT_HANDED_ON, component::Component, output::plain, reexec, state::StateFile};

/// The supervisor's own binary.
pub(crate) const SUPERVISOR: &str = "gatehouse-supervisor";
/// The names of binaries that are handed on: `bin.edge`, `bin.supervisor`.
const PREFIX: &str = "bin.";
const OWN: &str = "bin.supervisor";
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
    /// It has failed, and why: whoever reads this is the one from before.
    pub(crate) back: Option<String>,
}

/// The way back to the one before: its binary, and those of its components.
#[derive(Debug)]
pub(crate) struct Before {
    supervisor: OwnedFd,
    binaries: Vec<(Component, OwnedFd)>,
    /// All that was handed on, to be handed back if we cannot even open it.
    kept: Vec<(String, OwnedFd)>,
}

impl Before {
    /// What a supervisor that executed us handed on; `None`: nobody did. Sockets and locks stay with `inherited`.
    pub(crate) fn take(inherited: &mut Inherited) -> io::Result<Option<Self>> {
        let kept = inherited.duplicates()?;
        let Some(supervisor) = inherited.take_fd(OWN) else { return Ok(None) };
        let binary = |component: Component| Some((component, inherited.take_fd(&name_of(component))?));
        let binaries = Component::OURS.into_iter().filter_map(binary).collect();
        Ok(Some(Self { supervisor, binaries, kept }))
    }

    /// The components' binaries. One that was a script was not handed on; it stands in that directory.
    pub(crate) fn binaries(&self, directory: &Path) -> Result<Binaries, String> {
        let file = |component| self.binaries.iter().find(|(other, _)| *other == component).map(|(_, fd)| fd.try_clone().map(File::from));
        Binaries::pin_or(directory, |component| file(component).transpose())
    }

    /// We are not needed any more for opening what was handed on.
    pub(crate) fn opened(&mut self) {
        self.kept.clear();
    }

    /// Becomes it again. Returns if that cannot be.
    pub(crate) fn execute(&self, mut kept: Vec<(String, OwnedFd)>) -> io::Error {
        let mut hand_on = || {
            kept.retain(|(name, _)| !name.starts_with(PREFIX));
            for (component, fd) in &self.binaries {
                kept.push((name_of(*component), fd.try_clone()?));
            }
            kept.push((OWN.to_owned(), self.supervisor.try_clone()?));
            // Above those that take numbers of their own before it is executed.
            let above = i32::try_from(FIRST_FD + kept.len()).map_err(io::Error::other)?;
            io::Result::Ok(fcntl_dupfd_cloexec(&self.supervisor, above)?)
        };
        match hand_on() {
            Ok(supervisor) => reexec::exec(&reexec::pinned(supervisor.as_fd()), kept),
            Err(error) => error,
        }
    }
}

/// We cannot even open what was handed on: the one before takes over again, and says why. Returns if that cannot be.
pub(crate) fn go_back(mut before: Before, state_dir: &Path, why: anyhow::Error) -> anyhow::Error {
    // Nobody will read it of us.
    let Ok(uncounted) = IntCounter::new("state_failures", "Uncounted.") else { return why };
    let mut state = StateFile::open(state_dir, uncounted);
    let Some(upgrade) = state.upgrade().cloned() else { return why };
    tracing::error!(error = format!("{why:#}"), "the new supervisor cannot start; the one before takes over again");
    let back = Some(format!("the new supervisor could not start: {why:#}"));
    state.note_upgrade(Some(Upgrade { back, ..upgrade }));
    state.write();
    let kept = std::mem::take(&mut before.kept);
    let error = before.execute(kept);
    why.context(format!("the supervisor from before cannot be executed: {error}"))
}

/// The binaries that run now, for the successor's way back.
pub(crate) fn handed_on(binaries: &Binaries) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut handed_on = Vec::new();
    for (component, fd) in binaries.open_files()? {
        handed_on.push((name_of(component), fd));
    }
    handed_on.push((OWN.to_owned(), File::open("/proc/self/exe")?.into()));
    Ok(handed_on)
}

/// Whether a new supervisor would start with this configuration, and so would its components; what stands against it.
pub(crate) async fn check(directory: PathBuf, config: Option<PathBuf>) -> Result<(), String> {
    let path = directory.join(SUPERVISOR);
    let mut command = Command::new(&path);
    command.arg("--check").env("GATEHOUSE_BIN_DIR", &directory).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    for name in NOT_HANDED_ON {
        command.env_remove(name);
    }
    let output = match timeout(CHECK, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{} cannot be executed: {error}", path.display())),
        Err(_) => return Err(format!("{} --check did not end within {CHECK:?}", path.display())),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let problems: Vec<_> = said.lines().map(plain).filter(|line| !line.is_empty()).collect();
    let problems = if problems.is_empty() { output.status.to_string() } else { problems.join("; ") };
    Err(format!("{} --check: {problems}", path.display()))
}

fn name_of(component: Component) -> String {
    format!("{PREFIX}{}", component.name())
}
