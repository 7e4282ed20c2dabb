//! Starts one process: its descriptors, its environment, its own process group.
//!
//! No `PR_SET_PDEATHSIG`: it is about the thread that forks, and a child is not to die because its supervisor did. What a dead supervisor leaves behind
//! is found by [`Roster`](crate::orphans::Roster).

use std::{io, os::fd::OwnedFd, path::PathBuf, process::Stdio};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::sys::signal::{Signal as NixSignal, killpg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::Exit;
use crate::{
    Config, binaries,
    component::{Component, SlotId},
    output::{Capture, Output, Words},
    redis::Embedded,
    sockets::Sockets,
    watch,
};

/// `SD_LISTEN_FDS_START`.
const FIRST_FD: i32 = 3;
/// What the process above us said to us, not to our children.
pub(crate) const NOT_HANDED_ON: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// All that starting a child takes.
#[derive(Debug)]
pub(crate) struct Launcher {
    config: Option<PathBuf>,
    sockets: Sockets,
    redis: Option<Embedded>,
    notify: PathBuf,
    output: Output,
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: u32,
    /// What it said last.
    pub(crate) words: Words,
    pidfd: OwnedFd,
}

impl Launcher {
    /// Starts nothing yet.
    pub(crate) fn new(config: &Config, sockets: Sockets, redis: Option<Embedded>, notify: PathBuf, output: Output) -> Self {
        Self { config: config.path.clone(), sockets, redis, notify, output }
    }

    /// The sockets that are lent.
    pub(crate) const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// The same, to add and remove.
    pub(crate) const fn sockets_mut(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// The embedded server.
    pub(crate) const fn redis(&self) -> Option<&Embedded> {
        self.redis.as_ref()
    }

    /// What the children say.
    pub(crate) const fn output(&self) -> &Output {
        &self.output
    }

    /// Starts a process; the future resolves when it has ended and its last words have arrived.
    pub(crate) fn launch(&self, slot: SlotId) -> io::Result<(Launched, impl Future<Output = Exit> + use<>)> {
        let SlotId { component, instance } = slot;
        let (mut command, input) = match (&self.redis, component) {
            (Some(redis), Component::Redis) => (redis.command(), Some(redis.settings().clone())),
            _ => (self.component(component, instance)?, None),
        };
        let (stdout, stderr, capture) = Capture::new(self.output.speaker(slot))?;
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        let mut child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("a process without a pid"))?;
        // Our copies of the child's ends: while they are open the pipes have no end.
        drop(command);
        let (pidfd, said) = open(pid).and_then(|pidfd| Ok((pidfd, capture.read()?))).inspect_err(|_| {
            // What cannot be watched must not run beside the one that is started in its place. If it has gone already, all the better.
            let _gone = child.start_kill();
        })?;
        let words = said.words();
        let ended = async move {
            if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
                // A process that does not read what it is told says why itself.
                let _unread = stdin.write_all(input.expose().as_bytes()).await;
            }
            let exit = child.wait().await.map_or_else(|error| Exit::NotStarted(error.to_string()), Exit::of);
            said.all().await;
            exit
        };
        Ok((Launched { pid, words, pidfd }, ended))
    }

    /// One of ours: `--config`, sockets, readiness.
    fn component(&self, component: Component, instance: u32) -> io::Result<Command> {
        let mut command = Command::new(binaries::directory()?.join(binaries::file_name(component)));
        for name in NOT_HANDED_ON {
            command.env_remove(name);
        }
        if let Some(path) = &self.config {
            command.arg("--config").arg(path);
        }
        let lent = self.sockets.lend(component, instance)?;
        let names: Vec<_> = lent.iter().map(|(name, _)| *name).collect();
        command
            .env("GATEWAY_INSTANCE", instance.to_string())
            .env("NOTIFY_SOCKET", &self.notify)
            .env("WATCHDOG_USEC", watch::WINDOW.as_micros().to_string())
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            // Their stderr is a pipe; ours decides what is legible.
            .env("LOG_FORMAT", if self.output.is_text() { "text" } else { "json" });
        let mappings = (FIRST_FD..).zip(lent).map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd }).collect();
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        Ok(command)
    }

    /// No child is left: nothing more is read, and no local socket needed.
    pub(crate) async fn close(&mut self) {
        self.output.close().await;
        self.sockets.close();
    }
}

impl Launched {
    /// SIGTERM, to the process alone: what it started, it ends.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGABRT, to the process alone, and SIGCONT, without which a stopped one would not notice.
    pub(crate) fn abort(&self) {
        self.signal(Signal::ABORT);
        self.signal(Signal::CONT);
    }

    /// SIGKILL, to its whole process group.
    pub(crate) fn kill(&self) {
        // While the pidfd takes a signal the process was not reaped, so its group's number is not another's: nobody reaps between the two calls, for we
        // are the one thread that does.
        if self.signal(Signal::KILL)
            && let Ok(group) = i32::try_from(self.pid)
        {
            // The leader alone was there.
            let _gone = killpg(nix::unistd::Pid::from_raw(group), NixSignal::SIGKILL);
        }
    }

    fn signal(&self, signal: Signal) -> bool {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) => true,
            Err(rustix::io::Errno::SRCH) => false,
            Err(error) => {
                tracing::error!(child.pid = self.pid, %error, "signal not sent");
                false
            }
        }
    }
}

/// A descriptor that means this process and never another.
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no such pid"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
