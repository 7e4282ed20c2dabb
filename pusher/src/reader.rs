//! Reads the stream of client events and publishes it to the hub. One task; every pusher sees every entry.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use gatehouse_chassis::{
    Process,
    redis::{Batch, Redis, RedisError, Tail},
    watchdog,
};
use gatehouse_proto::{
    ids::StreamId,
    stream::{ClientEvent, InvalidEvent},
};
use gatehouse_sessions::now_ms;
use tokio::sync::oneshot;

use crate::{
    entry::Entry,
    floor::{Floor, Mark},
    hub::Hub,
};

/// At most one line about malformed entries of one cause in so long.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Follows the stream.
#[derive(Debug)]
pub struct Reader {
    process: Process,
    tail: Tail,
    hub: Arc<Hub>,
    floor: Arc<Floor>,
    /// Of what was read so far.
    epoch: Option<String>,
    last_heard: Instant,
    lost: bool,
    /// By cause: when one was logged last, and how many were not since.
    complaints: HashMap<&'static str, (Option<Instant>, u64)>,
}

impl Reader {
    /// Reads what comes after `position`.
    #[must_use]
    pub fn new(process: &Process, redis: &Redis, hub: Arc<Hub>, floor: Arc<Floor>, position: StreamId) -> Self {
        let stream = redis.config().client_events_stream.clone();
        let epoch = floor.known().map(|mark| mark.epoch);
        let tail = Tail::new(redis, stream, position).watching(floor.key());
        let process = process.clone();
        Self { process, tail, hub, floor, epoch, last_heard: Instant::now(), lost: false, complaints: HashMap::new() }
    }

    /// Reads for as long as the process lives. Says on `caught_up` when the first read has come: it began where the stream ended.
    pub async fn run(mut self, caught_up: oneshot::Sender<()>) {
        let mut caught_up = Some(caught_up);
        let (pulse, patience) = (self.process.pulse("reader", watchdog::USUAL), self.tail.patience());
        loop {
            match pulse.during(patience, self.tail.next()).await {
                Ok(batch) => {
                    // It may have to agree on a new floor, with a Redis that is slow or away.
                    pulse.during(patience, self.take(batch)).await;
                    if let Some(caught_up) = caught_up.take() {
                        // Whoever waited may have given up; then the process is ending.
                        let _ended = caught_up.send(());
                    }
                }
                Err(error) => self.away(&error).await,
            }
        }
    }

    async fn take(&mut self, batch: Batch) {
        self.back().await;
        self.notice_wipe(&batch).await;
        if let Some(until) = batch.trimmed {
            tracing::warn!(stream.trimmed = %until, "client events were trimmed before they were read here; open streams must resume");
            self.hub.lost(until);
        }
        let lag = batch.entries.last().map_or(0, |last| u64::try_from(now_ms()).unwrap_or_default().saturating_sub(last.id.ms));
        self.hub.metrics().lag_seconds.set(Duration::from_millis(lag).as_secs_f64());
        let now = Instant::now();
        for raw in &batch.entries {
            match ClientEvent::from_fields(raw.fields()) {
                Ok(event) => self.hub.publish(Entry::new(raw.id, event), now),
                Err(error) => self.complain(raw.id, error, now),
            }
        }
        self.hub.advance(batch.horizon);
    }

    /// A stream that was emptied, or a mark that went or is another: what was handed out before belongs to a Redis that is gone.
    async fn notice_wipe(&mut self, batch: &Batch) {
        let mark = batch.watched.as_deref().and_then(Mark::parse);
        let wiped = batch.wiped || mark.as_ref().map(|mark| &mark.epoch) != self.epoch.as_ref();
        if !wiped && !self.floor.is_doubted() {
            if mark != self.floor.known() && self.floor.settle().await.is_ok() {
                // Another pusher raised the floor: no cursor below it is to be handed out any more.
                self.hub.advance(self.floor.known().map(|mark| mark.floor).unwrap_or_default());
            }
            return;
        }
        let (_, handed_out) = self.hub.position();
        if wiped {
            self.floor.doubt(handed_out, batch.wiped);
        }
        match self.floor.settle().await {
            Ok(mark) => {
                self.hub.wiped(mark.floor);
                self.epoch = Some(mark.epoch);
            }
            Err(error) => {
                // Until the floor is raised, memory must not answer for a Redis that is gone.
                self.hub.wiped(handed_out);
                tracing::warn!(%error, "the floor of cursors could not be raised; trying again");
            }
        }
    }

    async fn away(&mut self, error: &RedisError) {
        self.hub.metrics().lag_seconds.set(self.last_heard.elapsed().as_secs_f64());
        if !std::mem::replace(&mut self.lost, true) {
            tracing::warn!(%error, "the stream of client events is lost");
            self.process.dependency("redis", false).await;
        }
    }

    async fn back(&mut self) {
        self.last_heard = Instant::now();
        if std::mem::take(&mut self.lost) {
            tracing::info!("the stream of client events is back");
            self.process.dependency("redis", true).await;
        }
    }

    fn complain(&mut self, id: StreamId, error: InvalidEvent, now: Instant) {
        self.hub.metrics().malformed();
        let (last, silenced) = self.complaints.entry(error.cause()).or_default();
        if last.is_some_and(|last| now.saturating_duration_since(last) < LOG_EVERY) {
            *silenced += 1;
            return;
        }
        tracing::warn!(entry = %id, cause = error.cause(), skipped = *silenced + 1, "malformed client event skipped: {error}");
        (*last, *silenced) = (Some(now), 0);
    }
}
