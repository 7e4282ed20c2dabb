//! Starts one process: its descriptors, its environment, its own process group.
//!
//! No `PR_SET_PDEATHSIG`: it is about the thread that forks, and a child is not to die because its supervisor did. What a dead supervisor leaves behind
//! is found by [`Roster`](crate::orphans::Roster).

use std::{
    io::{self, IsTerminal as _},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
};

use command_fds::{CommandFdExt as _, FdMapping};
use gatehouse_chassis::{
    Shutdown,
    config::{LogFormat, Shared},
};
use nix::sys::signal::{Signal as NixSignal, killpg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};

use super::{
    Exit,
    output::{Sink, Style, Tail, copy},
};
use crate::{Config, binaries, component::Component, redis::Embedded, sockets::Sockets};

/// `SD_LISTEN_FDS_START`.
const FIRST_FD: i32 = 3;
/// After the exit, how long what was said last may take to arrive. A grandchild may hold the pipe open for ever.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(200);
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
    style: Style,
    readers: Shutdown,
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

impl Launcher {
    /// Starts nothing yet.
    pub(crate) fn new(config: &Config, shared: &Shared, sockets: Sockets, redis: Option<Embedded>, notify: PathBuf) -> Self {
        let text = shared.log.format.map_or_else(|| io::stderr().is_terminal(), |format| format == LogFormat::Text);
        let style = if text { Style::Text } else { Style::Json };
        Self { config: config.path.clone(), sockets, redis, notify, style, readers: Shutdown::default() }
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

    /// Whether people read the log.
    pub(crate) fn is_text(&self) -> bool {
        self.style == Style::Text
    }

    /// Starts a process; the future resolves when it has ended and its last words have arrived.
    pub(crate) fn launch(
        &self,
        component: Component,
        instance: u32,
        tail: &Tail,
    ) -> io::Result<(Launched, impl Future<Output = Exit> + use<>)> {
        let (mut command, input) = match (&self.redis, component) {
            (Some(redis), Component::Redis) => (redis.command(), Some(redis.settings().clone())),
            _ => (self.component(component, instance)?, None),
        };
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() }).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("a process without a pid"))?;
        let pidfd = open(pid).inspect_err(|_| {
            // What cannot be watched must not run beside the one that is started in its place. If it has gone already, all the better.
            let _gone = child.start_kill();
        })?;
        let said = self.listen(&mut child, component, instance, tail);
        let ended = async move {
            if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
                // A process that does not read what it is told says why itself.
                let _unread = stdin.write_all(input.expose().as_bytes()).await;
            }
            let exit = child.wait().await.map_or_else(|error| Exit::NotStarted(error.to_string()), Exit::of);
            let _late = tokio::time::timeout(LAST_WORDS, said).await;
            exit
        };
        Ok((Launched { pid, pidfd }, ended))
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
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            // Their stderr is a pipe; ours decides what is legible.
            .env("LOG_FORMAT", if self.is_text() { "text" } else { "json" });
        let mappings = (FIRST_FD..).zip(lent).map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd }).collect();
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        Ok(command)
    }

    /// Reads what it says; resolves when it has closed both.
    fn listen(&self, child: &mut Child, component: Component, instance: u32, tail: &Tail) -> impl Future<Output = ()> + use<> {
        let style = if component.is_ours() { self.style } else { Style::Logged };
        let sink = Sink { component: component.name(), instance, style, tail: tail.clone() };
        let (heard, said) = tokio::sync::oneshot::channel::<()>();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let read = async move {
            let out = async {
                if let Some(stdout) = stdout {
                    copy(stdout, sink.clone()).await;
                }
            };
            let err = async {
                if let Some(stderr) = stderr {
                    copy(stderr, sink.clone()).await;
                }
            };
            tokio::join!(out, err);
            // Nobody waits for it any more when it comes late.
            let _late = heard.send(());
        };
        self.readers.spawn("output", read);
        async move {
            let _gone = said.await;
        }
    }

    /// No child is left: nothing more is read, and no local socket needed.
    pub(crate) fn close(&mut self) {
        self.readers.abort();
        self.sockets.close();
    }
}

impl Launched {
    /// SIGTERM, to the process alone: what it started, it ends.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
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
