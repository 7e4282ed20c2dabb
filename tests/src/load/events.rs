//! Event streams that resume, and count what they were sent.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use gatehouse_proto::gateway::v1::{GatewayEvent, ServerTime, gateway_client::GatewayClient, server_time::Resume};
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Status, Streaming};

use super::{
    Fault, Kind, PATIENCE, Stage,
    line::Line,
    publisher::{EVENT, Number},
    tally::{Op, StreamCounts, Tally},
};
use crate::{Device, GatewayKey, stream::order};

/// Who was not told when to come back comes within this time.
const AGAIN: Duration = Duration::from_millis(300);
/// After the last event was published, a stream that does not get it has lost it.
const LAST: Duration = Duration::from_secs(30);
/// Verified events that are remembered.
const REMEMBERED: usize = 4096;

/// Every event's signature is checked, once for all streams that got the same bytes.
#[derive(Debug)]
pub(super) struct Verified {
    key: GatewayKey,
    seen: Mutex<HashMap<String, GatewayEvent>>,
}

impl Verified {
    pub(super) fn new(key: GatewayKey) -> Self {
        Self { key, seen: Mutex::default() }
    }

    fn check(&self, event: &GatewayEvent) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.get(&event.event_id) == Some(event) {
            return true;
        }
        let holds = catch_unwind(AssertUnwindSafe(|| self.key.check_event(event))).is_ok();
        if holds {
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
            seen.insert(event.event_id.clone(), event.clone());
        }
        holds
    }
}

/// One stream of one device, over however many ends.
#[derive(Debug)]
pub(super) struct Stream {
    line: Line,
    device: Device,
    user: usize,
    /// Straight to a pusher.
    direct: bool,
    verified: Arc<Verified>,
    tally: Arc<Tally>,
    told: watch::Receiver<Stage>,
    cursor: String,
    /// The number that is due.
    next: u64,
    /// A client that hears nothing for so long opens another stream.
    silence: Duration,
}

/// How a stream ended.
enum End {
    /// It has everything there is.
    Complete,
    /// Everything was published, and nothing comes.
    Overdue,
    Status(Status),
    Silent,
}

impl Stream {
    pub(super) fn new(
        line: Line,
        device: Device,
        (user, direct): (usize, bool),
        verified: Arc<Verified>,
        tally: Arc<Tally>,
        told: watch::Receiver<Stage>,
    ) -> Self {
        tally.one_more_stream();
        Self { line, device, user, direct, verified, tally, told, cursor: String::new(), next: 0, silence: PATIENCE }
    }

    /// The connection that it uses.
    pub(super) fn line(&self) -> Line {
        self.line.clone()
    }

    pub(super) async fn run(mut self) {
        let mut away: Option<Op> = None;
        loop {
            let op = self.tally.begin(Kind::Resume);
            let mut streaming = match self.open().await {
                Ok(streaming) => streaming,
                Err((fault, connected)) => {
                    if is_stopping(&fault) {
                        self.count(|streams| streams.turned_away += 1);
                    } else {
                        self.tally.failed(op, fault, connected);
                    }
                    if self.gives_up() {
                        return;
                    }
                    sleep(jitter(AGAIN)).await;
                    continue;
                }
            };
            if let Some(away) = away.take() {
                self.tally.succeeded(away);
            }
            self.tally.stream_opened();
            let end = self.read(&mut streaming).await;
            self.tally.stream_ended();
            match end {
                End::Complete => return,
                End::Overdue => {
                    let missing = self.goal().unwrap_or(self.next) - self.next;
                    self.count(|streams| streams.lost += missing);
                    return;
                }
                End::Status(status) => {
                    away = Some(self.tally.begin(Kind::Resume));
                    sleep(self.ended(&status)).await;
                }
                End::Silent => {
                    away = Some(self.tally.begin(Kind::Resume));
                    self.count(|streams| streams.ended += 1);
                }
            }
        }
    }

    /// How many numbers there are, once that is known.
    fn goal(&self) -> Option<u64> {
        match &*self.told.borrow() {
            Stage::Open | Stage::Run => None,
            Stage::Finish(published) => Some(published[self.user]),
        }
    }

    fn gives_up(&self) -> bool {
        let Some(goal) = self.goal() else { return false };
        let missing = goal.saturating_sub(self.next);
        self.count(|streams| streams.lost += missing);
        true
    }

    fn count(&self, count: impl FnOnce(&mut StreamCounts)) {
        self.tally.count(|phase| count(&mut phase.streams));
    }

    async fn open(&mut self) -> Result<Streaming<GatewayEvent>, (Fault, Option<Instant>)> {
        let origin = self.line.origin();
        let mut client = GatewayClient::with_origin(self.line.clone(), origin);
        let opening = async {
            let mut streaming = client.subscribe_events(self.device.subscribe(&self.cursor)).await?.into_inner();
            let first = streaming.message().await?.ok_or_else(|| Status::ok("ended before the first event"))?;
            Ok::<_, Status>((streaming, first))
        };
        let (streaming, first) = match timeout(PATIENCE, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return Err(Fault::of(&status)),
            Err(_) => return Err((Fault::TimedOut, None)),
        };
        let wrong = |why: &str| (Fault::Wrong(why.to_owned()), None);
        if first.event_type != "gateway.server_time" || !self.verified.check(&first) {
            return Err(wrong("the first event"));
        }
        let bootstrap = ServerTime::decode(first.payload_bytes).map_err(|_| wrong("the first event's payload"))?;
        match (bootstrap.resume(), self.cursor.is_empty()) {
            (Resume::NotRequested, true) | (Resume::Complete, false) => {}
            (Resume::Gap, false) => self.count(|streams| streams.gaps += 1),
            _ => return Err(wrong("what the first event says of the resume")),
        }
        self.cursor = first.event_id;
        self.silence = Duration::from_millis(u64::from(bootstrap.bookmark_interval_ms)) * 2;
        Ok(streaming)
    }

    async fn read(&mut self, streaming: &mut Streaming<GatewayEvent>) -> End {
        loop {
            let goal = self.goal();
            if goal == Some(self.next) {
                return End::Complete;
            }
            let patience = if goal.is_some() { LAST } else { self.silence };
            let mut told = self.told.clone();
            let message = tokio::select! {
                message = timeout(patience, streaming.message()) => message,
                // What is known now decides how long to wait.
                _ = told.changed(), if goal.is_none() => continue,
            };
            match message {
                Ok(Ok(Some(event))) => self.heard(&event),
                Ok(Ok(None)) => return End::Status(Status::ok("")),
                Ok(Err(status)) => return End::Status(status),
                Err(_) if goal.is_some() => return End::Overdue,
                Err(_) => return End::Silent,
            }
        }
    }

    fn heard(&mut self, event: &GatewayEvent) {
        if order(&self.cursor, &event.event_id).is_ge() {
            self.count(|streams| streams.repeated += 1);
        }
        self.cursor.clone_from(&event.event_id);
        if !self.verified.check(event) {
            let op = self.tally.begin(Kind::Event);
            self.tally.failed(op, Fault::Wrong("an event's signature".into()), None);
        }
        if event.event_type != EVENT {
            return;
        }
        let Some(number) = Number::read(&event.payload_bytes) else {
            let op = self.tally.begin(Kind::Event);
            return self.tally.failed(op, Fault::Wrong("an event's payload".into()), None);
        };
        self.tally.record(Kind::Event, number.phase, number.age());
        if number.nth >= self.next {
            let missing = number.nth - self.next;
            self.count(|streams| streams.lost += missing);
            self.next = number.nth + 1;
        } else if number.attempts == 0 {
            self.count(|streams| streams.repeated += 1);
        }
    }

    /// Counts the end of a stream; when to come back.
    fn ended(&self, status: &Status) -> Duration {
        let (fault, connected) = Fault::of(status);
        if fault.is_cut_off() {
            self.count(|streams| {
                streams.cut += 1;
                streams.direct += u64::from(self.direct);
            });
            return jitter(AGAIN);
        }
        let trailer = |name: &str| status.metadata().get(name)?.to_str().ok();
        let retry = trailer("gateway-retry-after-ms").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        match retry {
            Some(retry) if is_stopping(&fault) && trailer("gateway-cursor") == Some(&self.cursor) => {
                self.count(|streams| {
                    streams.moved += 1;
                    streams.direct += u64::from(self.direct);
                });
                retry
            }
            _ => {
                self.count(|streams| streams.ended += 1);
                let op = self.tally.begin(Kind::Resume);
                self.tally.failed(op, fault, connected);
                retry.unwrap_or_else(|| jitter(AGAIN))
            }
        }
    }
}

/// What a process answers that stops (CONTRACT.md §1).
fn is_stopping(fault: &Fault) -> bool {
    matches!(fault, Fault::Grpc(code, message) if *code == Code::Unavailable as i32 && message == "gateway is shutting down")
}

fn jitter(up_to: Duration) -> Duration {
    let mut draw = [0];
    getrandom::fill(&mut draw).unwrap();
    up_to.mul_f64(f64::from(draw[0]) / 255.0)
}
