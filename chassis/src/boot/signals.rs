//! What signals do to a process of ours.
//!
//! The first SIGTERM or SIGINT drains, the second aborts. SIGHUP, SIGUSR1, SIGUSR2 and SIGALRM, which log rotation, other servers' habits and stray timers
//! send, would end a process that says nothing of them; here they do nothing: `gatehouse reload` answers with a verdict. Where a terminal stands for somebody who
//! watches, SIGHUP says that they are gone, and drains; never more than that, for a terminal that closes may say it twice.
//!
//! They are handled rather than ignored: what is ignored stays so in whatever a process executes.

use std::{
    fs::{self, File},
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{self, SignalKind, signal};

use crate::Process;

/// Those that end no process of ours.
const HARMLESS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM];

/// Holds them back until [`watch`] has its handlers in place. Before there are threads, which inherit it.
pub(super) fn hold_back() -> io::Result<()> {
    HARMLESS.into_iter().collect::<SigSet>().thread_block().map_err(io::Error::from)
}

/// Watches for all of them, and lets through what was held back, also by a process that executed us.
pub(super) fn watch(process: &Process, ends_with_terminal: bool) -> io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut harmless = Harmless::open()?;
    SigSet::all().thread_unblock()?;
    let has_terminal = ends_with_terminal && File::open("/dev/tty").is_ok();
    let shutdown = process.shutdown().clone();
    let watch = async move {
        loop {
            let name = tokio::select! {
                _ = term.recv() => Signal::SIGTERM.as_str(),
                _ = int.recv() => Signal::SIGINT.as_str(),
                (signal, is_first) = harmless.next() => {
                    let name = signal.as_str();
                    if signal == Signal::SIGHUP && has_terminal {
                        if !shutdown.is_draining() {
                            tracing::info!(signal = name, "the terminal is gone; draining");
                            shutdown.drain();
                        }
                    } else if is_first {
                        tracing::info!(signal = name, "signal; ignored: `gatehouse reload` reads the configuration again");
                    }
                    continue;
                }
            };
            if shutdown.is_draining() {
                tracing::warn!(signal = name, "second signal; aborting");
                shutdown.abort();
            } else {
                tracing::info!(signal = name, "signal; draining");
                shutdown.drain();
            }
        }
    };
    // Not a tracked task: the drain would wait for a signal that never comes.
    #[expect(clippy::disallowed_methods, reason = "lives as long as the process")]
    drop(tokio::spawn(watch));
    Ok(())
}

struct Harmless {
    listened: Vec<(Signal, unix::Signal)>,
    heard: Vec<Signal>,
}

impl Harmless {
    /// SIGHUP that is ignored already stays so: nohup(1).
    fn open() -> io::Result<Self> {
        let wanted = HARMLESS.into_iter().filter(|wanted| *wanted != Signal::SIGHUP || !is_ignored(*wanted));
        let listened = wanted.map(|wanted| Ok((wanted, signal(SignalKind::from_raw(wanted as i32))?))).collect::<io::Result<_>>()?;
        Ok(Self { listened, heard: Vec::new() })
    }

    /// The next one, and whether it came for the first time.
    async fn next(&mut self) -> (Signal, bool) {
        let signal = poll_fn(|context| self.poll(context)).await;
        let is_first = !self.heard.contains(&signal);
        if is_first {
            self.heard.push(signal);
        }
        (signal, is_first)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Signal> {
        let came = self.listened.iter_mut().find_map(|(name, signal)| signal.poll_recv(context).is_ready().then_some(*name));
        came.map_or(Poll::Pending, Poll::Ready)
    }
}

/// As whoever executed us left it.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}
