//! One JSON line a record on stdout, after the record is a row. A slow reader slows the writer down a little; one that has stopped reading holds nothing
//! up: lines are then skipped and counted, for the trail itself is in the database.

use std::{io, time::Duration};

use gatehouse_chassis::Process;
use gatehouse_proto::{audit, internal::v1::ChainedAuditRecord};
use prometheus::IntCounter;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Batches that wait for a reader.
const QUEUE: usize = 64;
/// How long the writer waits for a reader that is behind, before it counts as one that has stopped.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a reader may take over what is left at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// The writer's end.
#[derive(Debug)]
pub struct Output {
    queue: mpsc::Sender<Vec<ChainedAuditRecord>>,
    skipped: IntCounter,
    stuck: bool,
    done: oneshot::Receiver<()>,
    /// Dropped with this: the task ends, whatever is left.
    stop: oneshot::Sender<()>,
}

impl Output {
    /// Starts the task that writes.
    #[must_use]
    pub fn open(process: &Process, out: impl AsyncWrite + Send + Unpin + 'static, skipped: IntCounter) -> Self {
        let (queue, batches) = mpsc::channel(QUEUE);
        let (finished, done) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let lines = write_lines(batches, out, skipped.clone());
        process.spawn("output", async move {
            tokio::select! {
                () = lines => {}
                _ = stopped => {}
            }
            // Nobody waits for it after an abort.
            let _gone = finished.send(());
        });
        Self { queue, skipped, stuck: false, done, stop }
    }

    /// Hands a batch over, or skips it when the reader has stopped.
    pub async fn write(&mut self, rows: Vec<ChainedAuditRecord>) {
        let patience = if self.stuck { Duration::ZERO } else { PATIENCE };
        let records = rows.len() as u64;
        let taken = self.queue.send_timeout(rows, patience).await.is_ok();
        if !taken {
            self.skipped.inc_by(records);
            if !self.stuck {
                tracing::warn!("nobody reads stdout; audit lines are left out until somebody does");
            }
        }
        self.stuck = !taken;
    }

    /// Waits, for a moment, until everything handed over is written.
    pub async fn finish(self) {
        let Self { queue, done, stop, .. } = self;
        drop(queue);
        if timeout(FLUSH, done).await.is_err() {
            tracing::warn!("nobody reads stdout; the last audit lines are left out");
        }
        drop(stop);
    }
}

async fn write_lines(mut batches: mpsc::Receiver<Vec<ChainedAuditRecord>>, mut out: impl AsyncWrite + Unpin, skipped: IntCounter) {
    let mut closed = false;
    while let Some(rows) = batches.recv().await {
        if !closed {
            match write(&mut out, &rows).await {
                Ok(()) => continue,
                Err(error) => {
                    tracing::warn!(%error, "stdout is closed; audit lines are left out from here on");
                    closed = true;
                }
            }
        }
        skipped.inc_by(rows.len() as u64);
    }
}

async fn write(out: &mut (impl AsyncWrite + Unpin), rows: &[ChainedAuditRecord]) -> io::Result<()> {
    let lines: Vec<_> = rows.iter().map(|row| audit::json(row).to_string() + "\n").collect();
    out.write_all(lines.concat().as_bytes()).await?;
    out.flush().await
}

#[cfg(test)]
mod tests {
    use gatehouse_chassis::{
        audit::record,
        config::{Config as _, Reader, Shared, Source},
        sockets::Inherited,
    };
    use gatehouse_proto::audit::GENESIS;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn process() -> Process {
        Process::new("auditor", 0, Shared::read(&mut Reader::new(Source::default())).unwrap(), Inherited::default())
    }

    fn rows(count: usize) -> Vec<ChainedAuditRecord> {
        let mut head = GENESIS;
        (0..count).map(|_| head.append(record("admin", "session.create", "success"))).collect()
    }

    #[tokio::test]
    async fn a_record_is_one_line_of_json() {
        let (out, mut read) = tokio::io::duplex(1 << 16);
        let skipped = IntCounter::new("skipped", "Skipped.").unwrap();
        let mut output = Output::open(&process(), out, skipped.clone());
        output.write(rows(2)).await;
        output.finish().await;
        let mut text = String::new();
        read.read_to_string(&mut text).await.unwrap();
        let seqs: Vec<_> = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].clone()).collect();
        assert_eq!(seqs, [1, 2]);
        assert_eq!(skipped.get(), 0);
    }

    #[tokio::test]
    async fn a_reader_that_never_reads_or_goes_away_holds_nothing_up() {
        let skipped = IntCounter::new("skipped", "Skipped.").unwrap();
        let (out, gone) = tokio::io::duplex(16);
        drop(gone);
        let mut output = Output::open(&process(), out, skipped.clone());
        output.write(rows(3)).await;
        output.finish().await;
        assert_eq!(skipped.get(), 3);
        let (out, _never_read) = tokio::io::duplex(16);
        let mut output = Output::open(&process(), out, skipped.clone());
        for _ in 0..=2 * QUEUE {
            output.write(rows(1)).await;
        }
        assert!(skipped.get() > 3);
        output.finish().await;
    }
}
