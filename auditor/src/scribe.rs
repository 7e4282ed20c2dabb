//! The one task that writes the trail: reads, chains, commits, settles, and begins anew from the database and the stream whenever one of them was away.

use std::time::{Duration, Instant};

use gatehouse_chassis::{
    Process,
    backoff::Backoff,
    connections::Gauged,
    redis::RedisError,
    watchdog::{self, Pulse},
};
use gatehouse_migrations::Database;
use gatehouse_proto::ids::StreamId;

use crate::{
    batch::{Batch, Malformed},
    chain::Chain,
    intake::Intake,
    ledger::{Ledger, LedgerError, Position},
    metrics::AuditorMetrics,
    output::Output,
};

/// How often the database is asked for while there is nothing to write: it may go away in silence.
const CHECK: Duration = Duration::from_secs(2);

/// The longest that a step with the database may take, and a little more: a transaction has the longest bound. An outage fails steps, and is no hang.
const PATIENCE: Duration = Duration::from_secs(40);

/// Everything that the task owns, but for the chain, which comes and goes with its connection.
#[derive(Debug)]
pub struct Scribe {
    /// For its shutdown and its health.
    pub process: Process,
    /// Where the trail is.
    pub database: Database,
    /// Where records come from.
    pub intake: Intake,
    /// Where lines go.
    pub output: Output,
    /// What is counted.
    pub metrics: AuditorMetrics,
    /// Records that one transaction holds.
    pub batch: usize,
}

/// What stopped a turn. Entries that were read and not settled are pending, and are read again.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Ledger(#[from] LedgerError),
}

impl Interrupted {
    const fn what(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Ledger(_) => "database",
        }
    }
}

struct Open<L> {
    chain: Chain<L>,
    idle: Gauged,
}

/// What the task remembers from turn to turn.
struct Course<L> {
    open: Option<Open<L>>,
    away: Option<&'static str>,
    standing_by: bool,
    checked: Instant,
    logged: [Option<Instant>; 3],
    pulse: Pulse,
}

impl Scribe {
    /// Until the drain has begun and everything that the stream held then is written. What comes later is the successor's.
    pub async fn run<L: Ledger>(mut self) {
        let (pulse, patience) = (self.process.pulse("scribe", watchdog::USUAL), PATIENCE + self.intake.patience());
        let mut course: Course<L> =
            Course { open: None, away: None, standing_by: false, checked: Instant::now(), logged: [None; 3], pulse: pulse.clone() };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut until = None;
        loop {
            let draining = self.process.shutdown().is_draining();
            if draining && until.is_none() {
                until = pulse.during(patience, self.intake.newest()).await.ok();
            }
            match pulse.during(patience, self.turn(&mut course, draining)).await {
                Ok(last) if draining && last.is_none_or(|last| Some(last) >= until) => break,
                // Never ours to flush.
                Err(Interrupted::Ledger(LedgerError::Held)) if draining => break,
                Ok(_) => {
                    self.came_back(&mut course).await;
                    backoff.reset();
                }
                Err(Interrupted::Ledger(LedgerError::Held)) => {
                    if !std::mem::replace(&mut course.standing_by, true) {
                        tracing::info!(database = %self.database, "another auditor is writing; standing by");
                    }
                }
                // What is left stays in the stream for the next start.
                Err(Interrupted::Redis(error)) if draining => {
                    tracing::warn!(%error, "the audit stream cannot be read to its end");
                    break;
                }
                Err(error) => {
                    self.went_away(&mut course, &error).await;
                    self.intake.rewind();
                    pulse.during(patience, self.pause(backoff.next_delay())).await;
                }
            }
        }
        // The successor waits for nobody who reads our lines.
        if let Some(Open { chain, .. }) = course.open {
            pulse.during(patience, chain.close()).await;
        }
        pulse.during(patience, self.output.finish()).await;
    }

    /// One read and what comes of it; the last entry of it, if it brought any.
    async fn turn<L: Ledger>(&mut self, course: &mut Course<L>, draining: bool) -> Result<Option<StreamId>, Interrupted> {
        if course.open.is_none() {
            let chain = self.become_writer(course.standing_by && !draining).await?;
            self.metrics.head.set(chain.head().seq);
            tracing::info!(database = %self.database, audit.seq = chain.head().seq, "writing the trail");
            course.standing_by = false;
            course.open = Some(Open { chain, idle: Gauged::new(&self.metrics.idle) });
            course.pulse.beat();
        }
        let shutdown = self.process.shutdown().clone();
        let entries = self.intake.read(!draining, shutdown.draining()).await?;
        course.pulse.beat();
        if entries.is_empty() && course.checked.elapsed() >= CHECK {
            self.check(course).await?;
        }
        for batch in Batch::decode(&entries, self.batch) {
            self.write(course, batch).await?;
            course.pulse.beat();
        }
        Ok(entries.last().map(|entry| entry.id))
    }

    /// Whoever stands by takes over the moment that the writer lets go, but not in its own drain.
    async fn become_writer<L: Ledger>(&self, standing_by: bool) -> Result<Chain<L>, LedgerError> {
        if !standing_by {
            return Chain::open(&self.database).await;
        }
        tokio::select! {
            chain = Chain::stand_by(&self.database) => chain,
            () = self.process.shutdown().draining() => Err(LedgerError::Held),
        }
    }

    async fn write<L: Ledger>(&mut self, course: &mut Course<L>, batch: Batch) -> Result<(), Interrupted> {
        let (Some(Open { chain, idle }), Some(&last)) = (course.open.take(), batch.entries.last()) else { return Ok(()) };
        drop(idle);
        let in_use = Gauged::new(&self.metrics.in_use);
        let timer = self.metrics.write_seconds.start_timer();
        let position = Position { stream: self.intake.stream(), entry: last };
        let (chain, appended) = chain.append(batch.records, position).await?;
        timer.observe_duration();
        drop(in_use);
        self.metrics.head.set(chain.head().seq);
        course.open = Some(Open { chain, idle: Gauged::new(&self.metrics.idle) });
        course.checked = Instant::now();
        self.note_malformed(&batch.malformed, &mut course.logged);
        let events = &self.metrics.events;
        events.with_label_values(&["written"]).inc_by(appended.rows.len() as u64);
        events.with_label_values(&["duplicate"]).inc_by(appended.duplicates as u64);
        #[expect(clippy::cast_precision_loss, reason = "a batch is far smaller than 2^52")]
        self.metrics.batch_records.observe(appended.rows.len() as f64);
        self.output.write(appended.rows).await;
        self.intake.settle(&batch.entries).await?;
        Ok(())
    }

    async fn check<L: Ledger>(&self, course: &mut Course<L>) -> Result<(), LedgerError> {
        let Some(Open { chain, idle }) = course.open.take() else { return Ok(()) };
        let chain = chain.check().await?;
        course.open = Some(Open { chain, idle });
        course.checked = Instant::now();
        Ok(())
    }

    /// Each is counted; each cause is logged once a second.
    fn note_malformed(&self, malformed: &[(StreamId, Malformed)], logged: &mut [Option<Instant>; 3]) {
        for &(entry, cause) in malformed {
            self.metrics.events.with_label_values(&["malformed"]).inc();
            let last = &mut logged[cause as usize];
            if last.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                *last = Some(Instant::now());
                tracing::warn!(stream.entry = %entry, cause = cause.cause(), "audit entry skipped");
            }
        }
    }

    async fn went_away<L>(&self, course: &mut Course<L>, error: &Interrupted) {
        let what = error.what();
        if course.away.replace(what) != Some(what) {
            tracing::error!(%error, away = what, "the trail is not being written; the stream keeps the records");
            self.process.dependency(what, false).await;
        }
    }

    async fn came_back<L>(&self, course: &mut Course<L>) {
        if course.away.take().is_some() {
            tracing::info!("the trail is being written again");
            for what in ["database", "redis"] {
                self.process.dependency(what, true).await;
            }
        }
    }

    /// Waits, but not into the drain.
    async fn pause(&self, delay: Duration) {
        let shutdown = self.process.shutdown();
        let already = shutdown.is_draining();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shutdown.draining(), if !already => {}
        }
    }
}
