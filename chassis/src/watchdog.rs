//! Proof of progress. A process is alive when its runtime ticks and its work moves, not when its pid exists.
//!
//! ```text
//!   thread of its own, several times a second          runtime
//!   ┌───────────────────────────────┐  wakes   ┌──────────────────┐
//!   │ read the beats                │ ───────▶ │ ticker: one task │ beats when woken: a worker is free
//!   │ judge: what has not moved?    │ ◀─ beats │                  │ beats on a timer: timers and sockets are served
//!   │ WATCHDOG=1, or say what hangs │          ├──────────────────┤
//!   └───────────────────────────────┘ ◀─ beats │ loops with a     │ beat in every turn, idle ones included
//!                                              │ Pulse of theirs  │
//!                                              └──────────────────┘
//! ```
//!
//! The thread says `WATCHDOG=1` only while everything moves. What has not moved for longer than its limit is named once, on stderr and as `STATUS=`, together
//! with `WATCHDOG=trigger`; whoever supervises dumps, ends and replaces the process.
//!
//! **What is claimed.** With `WATCHDOG_USEC` of 2 s, a runtime whose workers are all blocked, a loop that is blocked, dead-locked or never polled again, and a
//! wait that is longer than its own bound are noticed within 2 s. One blocked worker of several is not a hang as long as the others take over its tasks.
//! An outage of Redis or of the database is not one either: loops beat while they wait with a bound ([`Pulse::during`]).
//!
//! **What is not claimed.** Time counts only while the thread itself was run, so that a suspended machine, SIGSTOP followed by SIGCONT, or a starved
//! machine is no hang; and while a thread of ours is runnable and the kernel does not run it, judgement is put off, four times at most. A stopped process
//! says nothing at all: its supervisor's deadline is for that.

mod judge;
mod starvation;
mod ticker;

use std::{
    env, fmt,
    future::{Future, pending},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::sleep;

use crate::{Shutdown, config::LogFormat, metrics::Metrics, notify::Notifier, outlet::Outlet};
use judge::{Judge, Reading, Stall};
use starvation::Sample;
use ticker::Ticker;

/// The limit of most loops: with it, a hang is noticed within 2 s.
pub const USUAL: Duration = Duration::from_millis(1500);
/// How often a loop that waits beats, at the least; more often in a short window.
const LONGEST_IDLE_BEAT: Duration = Duration::from_secs(1);
/// How often judgement is put off for a starved process.
const EXTENSIONS: u32 = 4;

/// The beat of one loop; clones share it. When the last is dropped, the loop has ended and is watched no more. The default is watched by nobody.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    beats: Arc<Beats>,
    /// How often a loop that waits beats.
    idle_beat: Option<Duration>,
}

#[derive(Debug, Default)]
struct Beats {
    /// Of the loop, working or waiting.
    moved: AtomicU64,
    /// Of the loop at work.
    worked: AtomicU64,
}

impl Pulse {
    /// The loop is in a new turn, or has made a step within one.
    pub fn beat(&self) {
        self.beats.worked.fetch_add(1, Ordering::Relaxed);
        self.beats.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Never resolves, and beats as long as it is polled: a branch of the `select!` in which a loop waits for its next event, however long. Polled
    /// across turns, it is pinned outside the loop.
    pub async fn idle<T>(&self) -> T {
        let Some(idle_beat) = self.idle_beat else { return pending().await };
        loop {
            self.beats.moved.fetch_add(1, Ordering::Relaxed);
            sleep(idle_beat).await;
        }
    }

    /// Waits for something that has a bound of its own: beats meanwhile, but only for `patience` after the last [`Pulse::beat`].
    pub async fn during<T>(&self, patience: Duration, work: impl Future<Output = T>) -> T {
        let Some(idle_beat) = self.idle_beat else { return work.await };
        self.beat();
        let patient = async {
            let (mut worked, mut since) = (self.worked(), Instant::now());
            while since.elapsed() < patience {
                sleep(idle_beat).await;
                self.beats.moved.fetch_add(1, Ordering::Relaxed);
                if worked != self.worked() {
                    (worked, since) = (self.worked(), Instant::now());
                }
            }
            pending().await
        };
        let done = tokio::select! {
            biased;
            done = work => done,
            never = patient => never,
        };
        self.beat();
        done
    }

    fn worked(&self) -> u64 {
        self.beats.worked.load(Ordering::Relaxed)
    }
}

/// Every pulse of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulses {
    window: Option<Duration>,
    watched: Arc<Mutex<Vec<Watched>>>,
}

#[derive(Debug)]
struct Watched {
    name: &'static str,
    limit: Duration,
    beats: Weak<Beats>,
}

impl Pulses {
    /// As a [`Watchdog`] with that window watches them; without one, they are free of cost.
    pub(crate) fn new(window: Option<Duration>) -> Self {
        Self { window, watched: Arc::default() }
    }

    /// A new one, which begins to count now.
    pub(crate) fn add(&self, name: &'static str, limit: Duration) -> Pulse {
        let idle_beat = self.window.map(|window| (window / 8).min(LONGEST_IDLE_BEAT));
        let pulse = Pulse { beats: Arc::default(), idle_beat };
        if idle_beat.is_some() {
            let watched = Watched { name, limit, beats: Arc::downgrade(&pulse.beats) };
            self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
        }
        pulse
    }

    fn read(&self) -> Vec<Reading> {
        let mut readings = Vec::new();
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).retain(|watched| {
            let Some(beats) = watched.beats.upgrade() else { return false };
            // What is watched keeps its allocation, so that no other can have its address.
            let id = watched.beats.as_ptr().addr();
            readings.push(Reading { id, name: watched.name, limit: watched.limit, beats: beats.moved.load(Ordering::Relaxed) });
            true
        });
        readings
    }
}

/// Watches until it is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Watchdog {
    _running: SyncSender<()>,
}

/// What the thread needs.
pub(crate) struct Setting {
    pub(crate) pulses: Pulses,
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) shutdown: Shutdown,
    pub(crate) notifier: Notifier,
    pub(crate) metrics: Metrics,
    pub(crate) format: LogFormat,
}

/// The period in which `WATCHDOG=1` is expected of this process: `WATCHDOG_USEC`, unless `WATCHDOG_PID` is another's.
pub(crate) fn expected() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|window| !window.is_zero())
}

impl Watchdog {
    /// Begins to watch; it is called on the runtime that is watched. Nothing is said or judged before the process is ready.
    pub(crate) fn start(setting: Setting) -> std::io::Result<Option<Self>> {
        let Some(window) = setting.pulses.window else { return Ok(None) };
        allow_dumps();
        let period = (window / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let ticker = Ticker::start(period, &setting.metrics);
        let (running, ended) = sync_channel(0);
        let watch = Watch { window, period, setting, ticker, judge: Judge::new(period), starved: Starved::default(), stalled: false };
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch.run(&ended))?;
        Ok(Some(Self { _running: running }))
    }
}

struct Watch {
    window: Duration,
    period: Duration,
    setting: Setting,
    ticker: Ticker,
    judge: Judge,
    starved: Starved,
    stalled: bool,
}

impl Watch {
    fn run(mut self, ended: &Receiver<()>) {
        let mut said: Option<Instant> = None;
        while ended.recv_timeout(self.period) == Err(RecvTimeoutError::Timeout) {
            self.ticker.wake();
            if !self.setting.ready.load(Ordering::Relaxed) {
                self.judge.begin(Instant::now());
                continue;
            }
            let now = Instant::now();
            let stalls = self.look(now);
            if !stalls.is_empty() {
                self.report(&stalls);
                continue;
            }
            if std::mem::take(&mut self.stalled) {
                self.line("INFO", "everything moves again");
            }
            // Often enough that one that is lost is no loss.
            if said.is_none_or(|said| now.duration_since(said) + self.period / 2 >= self.window * 3 / 8) {
                said = Some(now);
                self.say_alive();
            }
        }
    }

    fn look(&mut self, now: Instant) -> Vec<Stall> {
        let lenient = self.window * 3 / 4;
        let mut readings = self.setting.pulses.read();
        readings.extend(self.ticker.readings(lenient));
        for reading in &mut readings {
            // Whoever set a longer time wants to be disturbed later.
            reading.limit = reading.limit.max(lenient);
        }
        let look = self.judge.look(now, &readings);
        if self.starved.excuses(look.suspect, !look.stalls.is_empty(), now) {
            self.judge.put_off();
            return Vec::new();
        }
        look.stalls
    }

    /// Readiness is repeated, for a supervisor that was not there when it was first said.
    fn say_alive(&self) {
        let standing = if self.setting.shutdown.is_draining() { NotifyState::Stopping } else { NotifyState::Ready };
        // Whoever does not hear this acts on it; a dead supervisor will have a successor.
        let _unheard = self.setting.notifier.send(&[NotifyState::Watchdog, standing]);
    }

    fn report(&mut self, stalls: &[Stall]) {
        if std::mem::replace(&mut self.stalled, true) {
            return;
        }
        let named: Vec<_> = stalls.iter().map(ToString::to_string).collect();
        let status = format!("stalled: {}", named.join("; "));
        self.line("ERROR", &status);
        let _unheard = self.setting.notifier.send(&[NotifyState::Status(&status), NotifyState::WatchdogTrigger]);
    }

    /// Not through `tracing`, whose locks may be what hangs.
    fn line(&self, level: &str, message: &str) {
        let now = jiff::Timestamp::now();
        let target = module_path!();
        Outlet::stderr().line(match self.setting.format {
            LogFormat::Json => format!(r#"{{"timestamp":"{now:.6}","level":"{level}","message":"{message}","target":"{target}"}}"#),
            LogFormat::Text => format!("{now:.6} {level:>5} {target}: {message}"),
        });
    }
}

/// Whether judgement must wait because the kernel does not run us.
#[derive(Debug, Default)]
struct Starved {
    since: Option<(Instant, Sample)>,
    extensions: u32,
}

impl Starved {
    fn excuses(&mut self, suspect: bool, stalled: bool, now: Instant) -> bool {
        if !suspect {
            *self = Self::default();
            return false;
        }
        let Some((since, before)) = &self.since else {
            self.since = Some((now, Sample::take()));
            return false;
        };
        if !stalled || self.extensions >= EXTENSIONS {
            return false;
        }
        let after = Sample::take();
        let excused = before.is_starved(&after, now.duration_since(*since));
        self.extensions += u32::from(excused);
        self.since = Some((now, after));
        excused
    }
}

/// Where Yama restricts `ptrace` to descendants, lets the supervisor and what it starts take a dump of us.
fn allow_dumps() {
    let parent = rustix::process::getppid().filter(|parent| !parent.is_init() && env::var_os("GATEWAY_INSTANCE").is_some());
    if let Some(parent) = parent {
        // Without Yama there is nothing to allow.
        let _no_yama = rustix::process::set_ptracer(rustix::process::PTracer::ProcessID(parent));
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Setting")
    }
}

#[cfg(test)]
mod tests;
