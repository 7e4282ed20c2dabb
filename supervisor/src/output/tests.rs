use gatehouse_chassis::config::{Config as _, Reader, Source};
use gatehouse_proto::internal::v1::LogLine;
use tempfile::TempDir;
use tokio::io::DuplexStream;

use super::*;

/// An output with files of its own.
pub(super) struct Room {
    pub(super) output: Output,
    pub(super) dir: TempDir,
    pub(super) metrics: Metrics,
    /// Our stdout.
    pub(super) stdout: DuplexStream,
}

impl Room {
    pub(super) fn new(change: impl FnOnce(&mut Logs)) -> Self {
        Self::with_stdout(1 << 20, change)
    }

    /// With a stdout that holds so many bytes which nobody reads.
    pub(super) fn with_stdout(bytes: usize, change: impl FnOnce(&mut Logs)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, stdout) = tokio::io::duplex(bytes);
        let metrics = Metrics::new("supervisor", 0);
        let output = open(&dir, theirs, &metrics, change);
        Self { output, dir, metrics, stdout }
    }

    /// What is asked for, all of it.
    pub(super) async fn told(&self, query: Query) -> Vec<LogLine> {
        collect(&self.output, query).await
    }

    pub(super) fn counted(&self, sample: &str) -> i64 {
        let text = self.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)).unwrap_or_else(|| panic!("{sample} in {text}"));
        line.trim().parse().unwrap()
    }
}

pub(super) fn open(dir: &TempDir, stdout: DuplexStream, metrics: &Metrics, change: impl FnOnce(&mut Logs)) -> Output {
    let env = [("GATEWAY_STATE_DIR", dir.path().to_str().unwrap()), ("LOG_FORMAT", "json")];
    let shared = Shared::read(&mut Reader::new(Source::of("", &env))).unwrap();
    let mut logs = Logs::default();
    change(&mut logs);
    Output::over(stdout, &logs, &shared, metrics)
}

pub(super) async fn collect(output: &Output, query: Query) -> Vec<LogLine> {
    let (mut answer, mut lines) = (output.tell(query), Vec::new());
    while let Some(line) = answer.recv().await {
        lines.push(line);
    }
    lines
}

pub(super) fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.line.as_str()).collect()
}
