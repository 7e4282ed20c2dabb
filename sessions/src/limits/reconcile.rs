//! Tells the other edges, through Redis, what this one admitted, and learns what they did: ten times a second in one round trip, while decisions go on with what is known.
//!
//! In Redis each key is one number, as here: when its bucket will be full (see [`super::quota`]). A round adds what was taken since the last one and brings the sum
//! back. Nothing that was admitted is forgotten, so that the rate holds over time; at one moment, edges that have not heard of each other may each have admitted
//! what a bucket holds. In any span, all edges together admit at most
//!
//! ```text
//! burst + rate × span + (edges − 1) × (burst + rate × interval)
//! ```
//!
//! The interval is 100 ms and the round trip; ten times as many keys of one limit as a round carries take turns, and have an interval ten times as long.
//!
//! Counts are told once. When a round fails, nobody knows whether they arrived: they are not repeated. From then on until Redis answers, each limit does what it says for
//! that case, and what is told afterwards is how empty each bucket is, not how often something was taken: nobody's absence becomes a burst, or a debt.

use std::{mem, sync::Arc, time::Duration};

use gatehouse_chassis::{
    Process,
    redis::{Pipeline, Redis, RedisError, cmd, pipe},
};
use prometheus::{Gauge, IntGauge};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Inner,
    link::ServerClock,
    table::{Due, Key},
};

const INTERVAL: Duration = Duration::from_millis(100);
/// An edge that says nothing for so long no longer counts.
const EDGE_SILENCE: Duration = Duration::from_secs(3);
/// Keys in one script, which holds Redis up for well below a millisecond, and scripts of one limit in a round.
const KEYS_A_SCRIPT: usize = 250;
const SCRIPTS_A_ROUND: usize = 4;
const SCRIPT: &str = include_str!("reconcile.lua");

/// One for the process, if it has limits that are shared.
#[derive(Debug)]
pub(super) struct Reconciler {
    inner: Arc<Inner>,
    redis: Redis,
    /// This process, for the others.
    pub(super) edge: String,
    clock: ServerClock,
    pub(super) leaves: bool,
    age: Gauge,
    edges: IntGauge,
}

/// What one script is told.
#[derive(Debug)]
struct Batch {
    limit: usize,
    dues: Vec<Due>,
}

impl Reconciler {
    pub(super) fn new(inner: Arc<Inner>, redis: Redis, metrics: &gatehouse_chassis::metrics::Metrics) -> Self {
        let age = metrics.float_gauge(
            "limit_reconciliation_age_seconds",
            "Since shared limits were last reconciled with other edges through Redis; more than a second: they are not.",
        );
        let edges = metrics.gauge("limit_edges", "Edges that reconcile shared limits through this Redis, as last known.");
        Self { inner, redis, edge: uuid::Uuid::new_v4().to_string(), clock: ServerClock::default(), leaves: false, age, edges }
    }

    /// Goes on during the drain: whoever still speaks is limited.
    pub(super) fn start(mut self, process: &Process) {
        let shutdown = process.shutdown().clone();
        process.shutdown().spawn_companion("limits-reconcile", async move {
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.leaves = shutdown.is_draining();
                self.round_and_say().await;
            }
        });
    }

    pub(super) async fn round_and_say(&mut self) {
        let was_lost = self.inner.link.has_failed();
        match self.round().await {
            Ok(()) if was_lost => tracing::info!("limits are shared with other edges again"),
            Ok(()) => {}
            Err(error) if was_lost => tracing::debug!(%error, "limits are still not reconciled"),
            Err(error) => {
                let limits = self.inner.shared().map(|(_, limit, away)| format!("{}: {away}", limit.name)).collect::<Vec<_>>().join(", ");
                tracing::warn!(%error, limits, "limits are no longer shared with other edges; each does what its when_redis_is_away says");
            }
        }
        self.age.set(self.inner.link.age(self.inner.now()).as_secs_f64());
        self.edges.set(i64::from(self.inner.link.edges()));
    }

    /// One round. The first, and those while Redis is away, ask for nothing but the time.
    pub(super) async fn round(&mut self) -> Result<(), RedisError> {
        let asks = !self.inner.link.has_failed() && self.clock.there(0).is_some();
        let mut told = Told {
            inner: Arc::clone(&self.inner),
            batches: if asks { self.batches() } else { vec![Batch { limit: 0, dues: Vec::new() }] },
        };
        let mut scripts = pipe();
        for batch in &told.batches {
            self.add(&mut scripts, batch);
        }
        let asked = self.inner.now();
        let answers: Result<Vec<Vec<i64>>, _> = self.redis.run_all(&scripts).await;
        let answers =
            answers.and_then(|answers| if fit(&answers, &told.batches) { Ok(answers) } else { Err(RedisError::Unexpected("EVAL")) });
        let answers = answers.inspect_err(|_| self.inner.link.lost())?;
        let answered = self.inner.now();
        for (batch, answer) in mem::take(&mut told.batches).into_iter().zip(answers) {
            let [server_us, edges, full_at @ ..] = &answer[..] else { continue };
            self.clock.heard(asked, answered, *server_us);
            self.inner.link.heard(answered, u32::try_from(*edges).unwrap_or(u32::MAX));
            let bound = &self.inner.limits[batch.limit];
            let mut table = bound.table();
            for (due, full_at) in batch.dues.iter().zip(full_at) {
                table.learn(&due.key, self.clock.here(*full_at), |tokens| bound.quota.tokens(tokens));
            }
        }
        Ok(())
    }

    /// What there is to be told; at least that this edge lives.
    fn batches(&self) -> Vec<Batch> {
        let mut batches = Vec::new();
        for (limit, ..) in self.inner.shared() {
            let dues = self.inner.limits[limit].table().take_due(KEYS_A_SCRIPT * SCRIPTS_A_ROUND);
            let mut dues = dues.into_iter();
            loop {
                let dues: Vec<_> = dues.by_ref().take(KEYS_A_SCRIPT).collect();
                if dues.is_empty() {
                    break;
                }
                batches.push(Batch { limit, dues });
            }
        }
        if batches.is_empty() {
            batches.push(Batch { limit: 0, dues: Vec::new() });
        }
        batches
    }

    fn add(&self, scripts: &mut Pipeline, batch: &Batch) {
        let bound = &self.inner.limits[batch.limit];
        let mut script = cmd("EVAL");
        script.arg(SCRIPT).arg(batch.dues.len() + 1).arg(self.redis.key("limit-edges"));
        for due in &batch.dues {
            script.arg(self.redis.key(&name(&bound.limit.name, &due.key)));
        }
        let whole = bound.quota.whole();
        script.arg(&self.edge).arg(micros(EDGE_SILENCE)).arg(u8::from(self.leaves)).arg(whole / 1000);
        let now = self.inner.now();
        for due in &batch.dues {
            let taken = bound.quota.tokens(u64::from(due.tokens));
            // An empty bucket at the most: what is beyond, Redis knows.
            let full_at = due.full_at.min(now.saturating_add(whole));
            let full_at = self.clock.there(full_at).unwrap_or(0);
            script.arg(format!("{}.{:03}", taken / 1000, taken % 1000)).arg(full_at);
        }
        scripts.add_command(script);
    }
}

/// What is under way: when no answer comes, not even the end of the waiting, the keys are due again.
#[derive(Debug)]
struct Told {
    inner: Arc<Inner>,
    batches: Vec<Batch>,
}

impl Drop for Told {
    fn drop(&mut self) {
        for Batch { limit, dues } in self.batches.drain(..).rev() {
            self.inner.limits[limit].table().untold(dues);
        }
    }
}

fn fit(answers: &[Vec<i64>], batches: &[Batch]) -> bool {
    answers.len() == batches.len() && answers.iter().zip(batches).all(|(answer, batch)| answer.len() == batch.dues.len() + 2)
}

/// `limit:{limit}:{key}`; that of the rest has no second colon.
fn name(limit: &str, key: &Key) -> String {
    match key {
        Some(key) => format!("limit:{limit}:{key}"),
        None => format!("limit:{limit}"),
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
