//! Starts one process, or takes one over: its descriptors, its environment, its own process group, its lane, its limits.
//!
//! No `PR_SET_PDEATHSIG`: it is about the thread that forks, and a child is not to die because its supervisor did. What a dead supervisor leaves behind
//! is found by [`adopt`](super::adopt).

use std::{
    cell::RefCell,
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use command_fds::{CommandFdExt as _, FdMapping};
use gatehouse_chassis::sockets::LANE_FD;

use super::{
    Ended, Exit, Lanes, Launched,
    adopt::Found,
    cgroup::{Cgroups, Leaf},
    lane::{Claim, Record, boot},
    limits,
    process::Handle,
};
use crate::{
    Config,
    binaries::{Binaries, build_of},
    component::{Component, SlotId},
    config::Limits,
    control::millis,
    output::{Capture, Output, Said},
    redis::Embedded,
    sockets::Sockets,
    watch,
};

/// `SD_LISTEN_FDS_START`.
const FIRST_FD: i32 = 3;
/// Tells a process which generation it is: for the supervisor that finds it when its lane cannot say.
pub(super) const GENERATION: &str = "GATEHOUSE_GENERATION";
/// What the process above us said to us, not to our children.
pub(crate) const NOT_HANDED_ON: [&str; 8] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", LANE_FD, GENERATION];

/// All that starting a child takes.
#[derive(Debug)]
pub(crate) struct Launcher {
    config: Option<PathBuf>,
    limits: Vec<(Component, Limits)>,
    binaries: RefCell<Binaries>,
    lanes: Lanes,
    cgroups: Option<Cgroups>,
    sockets: Sockets,
    redis: Option<Embedded>,
    notify: PathBuf,
    output: Output,
}

/// Which process of a slot.
#[derive(Clone, Copy, Debug)]
struct Which {
    component: Component,
    instance: u32,
    generation: u32,
}

impl Which {
    /// The name of its cgroup.
    fn leaf(self) -> String {
        format!("{}-{}.{}", self.component.name(), self.instance, self.generation)
    }
}

impl Launcher {
    /// Starts nothing yet. Moves ourselves into a cgroup of our own, where that may be.
    pub(crate) fn new(
        config: &Config,
        binaries: Binaries,
        lanes: Lanes,
        sockets: Sockets,
        redis: Option<Embedded>,
        notify: PathBuf,
        output: Output,
    ) -> Self {
        let cgroups = Cgroups::open()
            .inspect_err(|why| tracing::info!(why, "components have no cgroups; limits are kept as far as they go without"))
            .ok();
        Self {
            config: config.path.clone(),
            limits: Component::ALL.map(|component| (component, config.limits_of(component))).into(),
            binaries: RefCell::new(binaries),
            lanes,
            cgroups,
            sockets,
            redis,
            notify,
            output,
        }
    }

    /// The sockets that are lent.
    pub(crate) const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// The same, to add and remove.
    pub(crate) const fn sockets_mut(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// Who may run.
    pub(crate) const fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The embedded server.
    pub(crate) const fn redis(&self) -> Option<&Embedded> {
        self.redis.as_ref()
    }

    /// What is executed from the next start on.
    pub(crate) const fn binaries(&self) -> &RefCell<Binaries> {
        &self.binaries
    }

    /// What the children say.
    pub(crate) const fn output(&self) -> &Output {
        &self.output
    }

    /// Starts a process; the future resolves when it has ended, nothing of it is left, and its last words have arrived.
    pub(crate) fn launch(&self, slot: SlotId, generation: u32) -> io::Result<(Launched, impl Future<Output = Ended> + use<>)> {
        let SlotId { component, instance } = slot;
        let which = Which { component, instance, generation };
        let claim = self.lanes.claim(component, instance)?;
        let (mut command, build) = match (&self.redis, component) {
            (Some(redis), Component::Redis) => (redis.command()?, String::new()),
            _ => self.command(which)?,
        };
        self.lend(&mut command, which, claim.as_ref())?;
        if let Some(cgroups) = &self.cgroups {
            cgroups.sweep();
        }
        let leaf = self.leaf(which);
        if let Some(Err(error)) = leaf.as_ref().map(|leaf| leaf.enter_first(&mut command)) {
            tracing::warn!(component = component.name(), instance, %error, "not in its cgroup from the first");
        }
        let (stdout, stderr, capture) = Capture::new(self.output.speaker(slot))?;
        let mut child = command.stdout(stdout).stderr(stderr).process_group(0).spawn()?;
        // With it our descriptor of the lane is closed, and so are our copies of the child's ends: while they are open the pipes have no end.
        drop(command);
        let followed = self.follow(which, child.id(), build, claim, leaf).and_then(|followed| Ok((followed, capture.read()?)));
        let ((launched, ended), said) = followed.inspect_err(|_| {
            // What cannot be watched must not run beside the one that is started in its place. If it has gone already, all the better.
            let _gone = child.kill();
            let _reaped = child.wait();
        })?;
        Ok((Launched { words: said.words(), ..launched }, last_words(ended, said)))
    }

    /// Takes over a process that another supervisor started; else the same as [`Launcher::launch`]. An error: it has gone.
    pub(crate) fn adopt(&self, found: &Found) -> io::Result<(Launched, impl Future<Output = Ended> + use<>)> {
        let which = Which { component: found.component, instance: found.instance, generation: found.generation };
        let (launched, ended) = found.watch(&self.lanes, &|| {
            let limits = self.limits_of(found.component);
            let Some(leaf) = self.cgroups.as_ref().and_then(|cgroups| cgroups.of(found.pid, &limits)) else {
                return self.confine(found.component, found.pid, self.leaf(which));
            };
            // It sits there, or did: one that has ended cannot be put anywhere.
            limits::apply(&limits, found.pid, Some(&leaf));
            Some(leaf)
        })?;
        let speaker = self.output.speaker(found.slot());
        let capture = Capture::reopen(found.pid, speaker.clone()).unwrap_or_else(|error| {
            // It may have ended already.
            tracing::info!(child.pid = found.pid, %error, "what it says cannot be read");
            Capture::nothing(speaker)
        });
        let said = capture.read()?;
        Ok((Launched { words: said.words(), ..launched }, last_words(ended, said)))
    }

    /// The end of a process that has gone before it was taken over: what its cgroup knows of it.
    pub(crate) fn gone(&self, found: &Found) -> Ended {
        let which = Which { component: found.component, instance: found.instance, generation: found.generation };
        let Some(leaf) = self.cgroups.as_ref().and_then(|cgroups| cgroups.left(&which.leaf())) else {
            return Ended { exit: Exit::Unknown, peak_rss_bytes: 0 };
        };
        let exit = if leaf.has_killed_for_memory() { Exit::OutOfMemory } else { Exit::Unknown };
        let peak_rss_bytes = leaf.peak().unwrap_or(0);
        leaf.remove();
        Ended { exit, peak_rss_bytes }
    }

    /// One of ours: `--config`, and where readiness is told.
    fn command(&self, which: Which) -> io::Result<(Command, String)> {
        let pinned = self.binaries.borrow().of(which.component)?;
        let mut command = pinned.command(which.component);
        for name in NOT_HANDED_ON {
            command.env_remove(name);
        }
        if let Some(path) = &self.config {
            command.arg("--config").arg(path);
        }
        command
            .env("GATEWAY_INSTANCE", which.instance.to_string())
            .env("NOTIFY_SOCKET", &self.notify)
            .env("WATCHDOG_USEC", watch::WINDOW.as_micros().to_string())
            // Their stderr is a pipe; ours decides what is legible.
            .env("LOG_FORMAT", if self.output.is_text() { "text" } else { "json" })
            .stdin(Stdio::null());
        Ok((command, pinned.build.clone()))
    }

    /// Its sockets, and after them its lane.
    fn lend(&self, command: &mut Command, which: Which, claim: Option<&Claim>) -> io::Result<()> {
        let lent = self.sockets.lend(which.component, which.instance)?;
        let (names, mut fds): (Vec<_>, Vec<_>) = lent.into_iter().unzip();
        if which.component.is_ours() {
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        if let Some(claim) = claim {
            let number = (FIRST_FD..).nth(fds.len()).unwrap_or(FIRST_FD);
            command.env(LANE_FD, number.to_string());
            fds.push(claim.file.try_clone()?.into());
        }
        command.env(GENERATION, which.generation.to_string());
        let mappings = (FIRST_FD..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        Ok(())
    }

    fn limits_of(&self, component: Component) -> Limits {
        self.limits.iter().find(|(limited, _)| *limited == component).map(|(_, limits)| *limits).unwrap_or_default()
    }

    fn leaf(&self, which: Which) -> Option<Leaf> {
        let name = which.leaf();
        let leaf = self.cgroups.as_ref()?.leaf(&name, &self.limits_of(which.component));
        leaf.inspect_err(|error| tracing::warn!(name, %error, "no cgroup for this process")).ok()
    }

    /// Puts it into its cgroup and within its limits.
    fn confine(&self, component: Component, pid: u32, leaf: Option<Leaf>) -> Option<Leaf> {
        let leaf = leaf.filter(|leaf| {
            let entered = leaf.enter(pid);
            if let Err(error) = &entered {
                tracing::warn!(child.pid = pid, %error, "not in its cgroup");
                leaf.remove();
            }
            entered.is_ok()
        });
        limits::apply(&self.limits_of(component), pid, leaf.as_ref());
        leaf
    }

    /// Watches a process that was just started, within its limits, and says in its lane that it is there.
    fn follow(
        &self,
        which: Which,
        pid: u32,
        build: String,
        claim: Option<Claim>,
        leaf: Option<Leaf>,
    ) -> io::Result<(Launched, impl Future<Output = Ended> + use<>)> {
        let started = SystemTime::now();
        let (file, taken) = claim.map(|claim| (claim.file, claim.taken)).unzip();
        let handle = Handle::open(pid)?.within(self.confine(which.component, pid, leaf));
        let build = if build.is_empty() { build_of(pid) } else { build };
        if let Some(file) = file {
            let record = Record {
                pid,
                start_time: handle.start_time(),
                generation: which.generation,
                component: which.component.name().to_owned(),
                instance: which.instance,
                build: build.clone(),
                started_ms: started.duration_since(UNIX_EPOCH).map_or(0, millis),
                boot: boot(),
            };
            if let Err(error) = record.write(&file) {
                tracing::warn!(child.pid = pid, %error, "its lane does not say who holds it; whoever looks finds out by its descriptors");
            }
        }
        Launched::new(handle, taken, which.generation, build, started)
    }

    /// No child is left: nothing more is read, and no local socket needed.
    pub(crate) async fn close(&mut self) {
        self.output.close().await;
        self.sockets.close();
    }
}

async fn last_words(ended: impl Future<Output = Ended>, said: Said) -> Ended {
    let ended = ended.await;
    said.all().await;
    ended
}
