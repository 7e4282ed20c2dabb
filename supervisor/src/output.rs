//! What children say: read without ever holding one up, told apart, and passed on.
//!
//! ```text
//!  child ── pipe, open for both at its end ──▶ Capture ──▶ lines ──┬─▶ our stderr (the journal, a terminal), each with its speaker
//!            (it never breaks, and outlives us)   │                ├─▶ a ring in memory, and the process's last words
//!                                                 │ a flood:       ├─▶ a file, rotated
//!                                                 ▼ counted, gone  └─▶ whoever follows
//!  auditor's stdout ──────────────────────────▶ Capture ──▶ Trail ───▶ our stdout, as it is
//! ```
//!
//! Nothing here waits: stderr, stdout and the files have a queue and a writer of their own.

mod budget;
mod capture;
mod files;
mod history;
mod lines;
mod live;
mod pause;
mod ring;
mod trail;

use std::{
    io::{self, IsTerminal as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gatehouse_chassis::{
    Shutdown,
    config::{LogFormat, Shared},
    metrics::Metrics,
    outlet::Outlet,
};
use jiff::Timestamp;
use prometheus::{IntCounter, IntCounterVec};
use tokio::{
    io::AsyncWrite,
    sync::{Semaphore, watch},
    time::timeout,
};

use self::{
    files::{Bounds, Files},
    lines::{Line, Style},
    live::Live,
    pause::Pause,
    ring::Rings,
    trail::Trail,
};
use crate::{
    component::{Component, SlotId},
    config::Logs,
};

pub(crate) use capture::{Capture, Said, Words};
pub(crate) use files::Wanted;
pub(crate) use history::Query;
pub(crate) use lines::{Level, plain};

/// Those whose files are read at the same time.
const REPLAYS: usize = 4;
/// How long the disk may take over the last lines.
const LAST_FLUSH: Duration = Duration::from_millis(500);

/// One for the suite; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Output(Arc<Hub>);

#[derive(Debug)]
struct Hub {
    style: Style,
    rate: u64,
    spoken: Mutex<Spoken>,
    /// The number of the last line.
    newest: watch::Sender<u64>,
    files: Option<Files>,
    trail: Trail,
    lines: IntCounterVec,
    dropped: IntCounterVec,
    readers: Shutdown,
    pause: Pause,
    replays: Semaphore,
}

#[derive(Debug, Default)]
struct Spoken {
    seq: u64,
    rings: Rings,
    /// Empty while nobody follows.
    live: Live,
}

/// Which of its two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Who speaks: one for each process.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    output: Output,
    slot: SlotId,
}

impl Output {
    /// Reads nothing yet.
    pub(crate) fn open(logs: &Logs, shared: &Shared, metrics: &Metrics) -> Self {
        Self::over(tokio::io::stdout(), logs, shared, metrics)
    }

    fn over(stdout: impl AsyncWrite + Send + Unpin + 'static, logs: &Logs, shared: &Shared, metrics: &Metrics) -> Self {
        let text = shared.log.format.map_or_else(|| io::stderr().is_terminal(), |format| format == LogFormat::Text);
        let unwritten =
            metrics.counter("log_file_lines_dropped_total", "Lines that were not written to the log files: the disk is full or too slow.");
        let bounds =
            Bounds { dir: logs.dir.clone().unwrap_or_else(|| shared.state_dir.join("logs")), max_bytes: logs.max_bytes, keep: logs.keep };
        let files = logs.files.then(|| Files::open(bounds, unwritten)).and_then(|files| {
            files.inspect_err(|error| tracing::warn!(%error, "no log files are written: their thread did not start")).ok()
        });
        let labels = ["component", "instance", "stream"];
        let lines = metrics.counters("component_output_lines_total", "Lines that the component wrote and we passed on.", &labels);
        let help = "Lines that the component wrote and we dropped: more than [supervisor.logs] rate, or nobody reads our stdout.";
        let dropped = metrics.counters("component_output_dropped_total", help, &labels);
        Self(Arc::new(Hub {
            style: if text { Style::Text } else { Style::Json },
            rate: logs.rate,
            spoken: Mutex::default(),
            newest: watch::Sender::new(0),
            files,
            trail: Trail::open(stdout),
            lines,
            dropped,
            readers: Shutdown::default(),
            pause: Pause::default(),
            replays: Semaphore::new(REPLAYS),
        }))
    }

    /// Whether people read our stderr.
    pub(crate) fn is_text(&self) -> bool {
        self.0.style == Style::Text
    }

    /// A process of that slot.
    pub(crate) fn speaker(&self, slot: SlotId) -> Speaker {
        Speaker { output: self.clone(), slot }
    }

    /// Another supervisor is about to be executed in our place, and goes on with the pipes: everything that was read is written, and nothing more is read.
    pub(crate) async fn hand_over(&self) {
        self.0.pause.begin().await;
        self.flush_files().await;
        self.0.trail.flush().await;
    }

    /// It was not executed; we go on.
    pub(crate) fn take_back(&self) {
        self.0.pause.end();
    }

    /// Reads no more: no child is left. What was read is written, but not waited for for long.
    pub(crate) async fn close(&self) {
        self.0.readers.abort();
        self.0.readers.finished().await;
        self.flush_files().await;
        self.0.trail.close().await;
    }

    async fn flush_files(&self) {
        if let Some(files) = &self.0.files {
            // A disk that stands still holds nobody up.
            let _late = timeout(LAST_FLUSH, files.look(Wanted::default())).await;
        }
    }

    fn spoken(&self) -> MutexGuard<'_, Spoken> {
        self.0.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, slot: SlotId, level: Option<Level>, text: &str) -> Arc<Line> {
        let mut spoken = self.spoken();
        spoken.seq += 1;
        let at_ms = Timestamp::now().as_millisecond();
        let line = Arc::new(Line { seq: spoken.seq, at_ms, slot, level, text: text.into() });
        spoken.rings.push(Arc::clone(&line));
        if let Some(files) = &self.0.files {
            files.line(Arc::clone(&line));
        }
        if self.0.newest.receiver_count() > 0 {
            spoken.live.push(Arc::clone(&line));
        } else {
            spoken.live.clear();
        }
        self.0.newest.send_replace(line.seq);
        line
    }
}

impl Stream {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl Speaker {
    /// It said a line.
    fn line(&self, text: &str) -> Arc<Line> {
        let level = Level::of(self.slot.component, text);
        if self.slot.component == Component::Redis {
            // It knows nothing of our format, so its lines are logged as ours.
            log_redis(text);
        } else {
            Outlet::stderr().line(lines::tagged(self.output.0.style, self.slot, text));
        }
        self.output.publish(self.slot, level, text)
    }

    /// Lines of it are missing here.
    fn note_dropped(&self, lines: u64) -> Arc<Line> {
        let (component, instance, rate) = (self.slot.component.name(), self.slot.instance, self.output.0.rate);
        tracing::warn!(component, instance, lines, "lines dropped: more than {rate} bytes a second");
        let message = format!("{lines} lines dropped here: more than {rate} bytes a second");
        let text = match self.output.0.style {
            Style::Text => format!("WARN {message}"),
            Style::Json => serde_json::json!({ "level": "WARN", "message": message }).to_string(),
        };
        self.output.publish(self.slot, Some(Level::Warn), &text)
    }

    fn counter(&self, counters: &IntCounterVec, stream: Stream) -> IntCounter {
        counters.with_label_values(&[self.slot.component.name(), &self.slot.instance.to_string(), stream.as_str()])
    }
}

fn log_redis(line: &str) {
    let component = Component::Redis.name();
    match lines::redis(line) {
        (Level::Warn, message) => tracing::warn!(component, "{component}: {message}"),
        (Level::Info, message) => tracing::info!(component, "{component}: {message}"),
        (_, message) => tracing::debug!(component, "{component}: {message}"),
    }
}

#[cfg(test)]
mod tests;
