//! The runtime's own beat: one task, woken from outside and by a timer.
//!
//! The two are different claims. Woken from outside, it needs one worker that is free. By its timer, it needs a worker that serves timers and sockets; a
//! worker that blocks right after it took that duty over stops both for everybody, though others are free. (Waking the task from outside also
//! ends such a state, for the worker that is woken takes the duty over when it has nothing else to do.)

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::Histogram;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};

use super::judge::Reading;
use crate::metrics::Metrics;

/// Ends its task when dropped.
#[derive(Debug)]
pub(super) struct Ticker {
    beats: Arc<Beats>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Beats {
    begun: Instant,
    call: Notify,
    /// Of the last call, in nanoseconds after `begun`.
    called: AtomicU64,
    woken: AtomicU64,
    timed: AtomicU64,
}

impl Ticker {
    /// On the runtime that this is called on.
    pub(super) fn start(period: Duration, metrics: &Metrics) -> Self {
        let begun = Instant::now();
        let zero = AtomicU64::default;
        let beats = Arc::new(Beats { begun, call: Notify::new(), called: zero(), woken: zero(), timed: zero() });
        let lag = metrics.histograms("watchdog_lag_seconds", "How late the runtime served a timer, or a task that was woken.", &["clock"]);
        let ticking = tick(Arc::clone(&beats), period, lag.with_label_values(&["task"]), lag.with_label_values(&["timer"]));
        // Not a tracked task: the drain would wait for it.
        #[expect(clippy::disallowed_methods, reason = "lives as long as the runtime is watched")]
        let task = tokio::spawn(ticking).abort_handle();
        Self { beats, task }
    }

    /// From the watching thread.
    pub(super) fn wake(&self) {
        self.beats.called.store(nanos(self.beats.begun.elapsed()), Ordering::Relaxed);
        self.beats.call.notify_one();
    }

    /// Both beats.
    pub(super) fn readings(&self, limit: Duration) -> [Reading; 2] {
        let reading =
            |name, beats: &AtomicU64| Reading { id: std::ptr::from_ref(beats).addr(), name, limit, beats: beats.load(Ordering::Relaxed) };
        [reading("runtime", &self.beats.woken), reading("timers", &self.beats.timed)]
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tick(beats: Arc<Beats>, period: Duration, task_lag: Histogram, timer_lag: Histogram) {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            due = timer.tick() => {
                beats.timed.fetch_add(1, Ordering::Relaxed);
                timer_lag.observe(due.elapsed().as_secs_f64());
            }
            () = beats.call.notified() => {
                beats.woken.fetch_add(1, Ordering::Relaxed);
                let called = Duration::from_nanos(beats.called.load(Ordering::Relaxed));
                task_lag.observe(beats.begun.elapsed().saturating_sub(called).as_secs_f64());
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
