//! The load itself: streams that send in turn, and what came of it.
//!
//! At a fixed rate each command has a moment at which it is to be sent, and its latency counts from there: what waits because the gateway is slow is the gateway's
//! latency, not a pause of ours. Without a rate each stream sends when it has its answer.

use std::{
    collections::BTreeMap,
    error::Error as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use jiff::Timestamp;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::transport::Channel;

use gatehouse_client::{Device, Keyring, Unverified};
use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, gateway_client::GatewayClient},
    status::code_name,
};

use crate::failure::Failure;

/// So many different errors are told apart.
const MAX_ERRORS: usize = 20;
/// The longest latency that is told from a longer one: an hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// After a connection that broke, so that its being made again is not a load of its own.
const PAUSE: Duration = Duration::from_millis(100);

/// Who sends what.
pub struct Caller {
    pub device: Device,
    pub keyring: Keyring,
    pub message_type: String,
    pub payload: Bytes,
    pub timeout: Duration,
    pub verifies: bool,
}

/// When.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rate: Option<f64>,
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Tally {
    pub sent: u64,
    /// Were due and were not sent before the end.
    pub unsent: u64,
    /// Of answers, in microseconds.
    pub latency: Histogram<u64>,
    pub errors: BTreeMap<(String, String), u64>,
}

/// Whose turn it is.
struct Turns {
    plan: Plan,
    begun: Instant,
    next: AtomicU64,
}

/// Sends until the plan is over and every answer is there or given up. How long that took.
pub async fn put(
    caller: &Arc<Caller>,
    gateways: &[GatewayClient<Channel>],
    streams: u32,
    plan: Plan,
) -> Result<(Tally, Duration), Failure> {
    let turns = Arc::new(Turns { plan, begun: Instant::now(), next: AtomicU64::new(0) });
    let mut running = JoinSet::new();
    let mut tallies = Vec::new();
    for gateway in gateways {
        // One for all streams of a connection: a histogram is large, and they hardly meet at it.
        let tally = Arc::new(Mutex::new(Tally::new()?));
        for _ in 0..streams {
            running.spawn(stream(Arc::clone(caller), gateway.clone(), Arc::clone(&turns), Arc::clone(&tally)));
        }
        tallies.push(tally);
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(anyhow::Error::from)?;
    }
    let mut whole = Tally::new()?;
    for tally in tallies {
        whole.add(&lock(&tally))?;
    }
    whole.unsent = plan.planned().map_or(0, |planned| planned.saturating_sub(whole.sent));
    Ok((whole, turns.begun.elapsed()))
}

async fn stream(caller: Arc<Caller>, mut gateway: GatewayClient<Channel>, turns: Arc<Turns>, tally: Arc<Mutex<Tally>>) {
    let mut has_sent = false;
    while let Some(due) = turns.take(has_sent).await {
        let request = caller.device.command(&caller.message_type, &Device::new_request_id(), caller.payload.clone(), Timestamp::now());
        let since = due.unwrap_or_else(Instant::now);
        has_sent = true;
        lock(&tally).sent += 1;
        let answer = timeout(caller.timeout, gateway.execute_command(request.clone())).await;
        let took = since.elapsed();
        match answer {
            Ok(Ok(answer)) => match caller.judge(&request, answer.get_ref()) {
                Ok(()) => lock(&tally).succeed(took),
                Err(error) => lock(&tally).fail("UNVERIFIED", &error.to_string()),
            },
            Ok(Err(status)) => {
                lock(&tally).fail(code_name(status.code()), status.message());
                if status.source().is_some() {
                    sleep(PAUSE).await;
                }
            }
            Err(_) => lock(&tally).fail("UNANSWERED", &format!("no answer within {:?}", caller.timeout)),
        }
    }
}

/// Whoever panicked over it has left it whole.
fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Caller {
    /// Whether the answer is the gateway's, if that matters: to find out costs more than all the rest.
    fn judge(&self, request: &ExecuteCommandRequest, response: &ExecuteCommandResponse) -> Result<(), Unverified> {
        if self.verifies { self.keyring.verify_response(request, response) } else { Ok(()) }
    }
}

impl Plan {
    /// When that one is to be sent, after the beginning; `None` when the plan is over before.
    fn due(self, index: u64) -> Option<Duration> {
        let interval = self.interval()?;
        let due = interval.saturating_mul(u32::try_from(index).unwrap_or(u32::MAX));
        (due < self.duration).then_some(due)
    }

    /// How many in all, if that is set.
    fn planned(self) -> Option<u64> {
        let interval = self.interval()?;
        u64::try_from(self.duration.as_nanos().div_ceil(interval.as_nanos().max(1))).ok()
    }

    fn interval(self) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(1.0 / rate))
    }
}

impl Turns {
    /// Waits for the next turn: the moment at which it was due, if there is a rate. `None` at the end. However late it is, something is sent: without a rate once by
    /// each stream, with one the first.
    async fn take(&self, has_sent: bool) -> Option<Option<Instant>> {
        let is_over = || self.begun.elapsed() >= self.plan.duration;
        if self.plan.rate.is_none() {
            return (!has_sent || !is_over()).then_some(None);
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.begun + self.plan.due(index)?;
        sleep_until(due).await;
        (index == 0 || !is_over()).then_some(Some(due))
    }
}

impl Tally {
    fn new() -> Result<Self, Failure> {
        let latency = Histogram::new_with_max(LONGEST_US, 3).map_err(anyhow::Error::from)?;
        Ok(Self { sent: 0, unsent: 0, latency, errors: BTreeMap::new() })
    }

    pub fn answered(&self) -> u64 {
        self.latency.len()
    }

    fn succeed(&mut self, took: Duration) {
        self.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn fail(&mut self, code: &str, message: &str) {
        self.count((code.to_owned(), message.to_owned()), 1);
    }

    fn count(&mut self, error: (String, String), times: u64) {
        let is_new = self.errors.len() >= MAX_ERRORS && !self.errors.contains_key(&error);
        let error = if is_new { ("OTHERS".to_owned(), String::new()) } else { error };
        *self.errors.entry(error).or_default() += times;
    }

    fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.sent += other.sent;
        self.latency.add(&other.latency).map_err(anyhow::Error::from)?;
        other.errors.iter().for_each(|(error, times)| self.count(error.clone(), *times));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_a_rate_each_command_has_its_moment() {
        let plan = Plan { rate: Some(4.0), duration: Duration::from_secs(1) };
        let due: Vec<_> = (0..5).map(|index| plan.due(index).map(|due| due.as_millis())).collect();
        assert_eq!(due, [Some(0), Some(250), Some(500), Some(750), None]);
        assert_eq!(plan.planned(), Some(4));
        assert_eq!(Plan { rate: None, ..plan }.planned(), None);
    }

    #[test]
    fn many_kinds_of_errors_are_counted_together() {
        let mut tally = Tally::new().unwrap();
        for i in 0..100 {
            tally.fail("INTERNAL", &format!("number {}", i % 50));
        }
        assert_eq!((tally.errors.len(), tally.errors.values().sum::<u64>()), (MAX_ERRORS + 1, 100));
        let mut whole = Tally::new().unwrap();
        tally.succeed(Duration::from_millis(3));
        whole.add(&tally).unwrap();
        assert_eq!((whole.errors.values().sum::<u64>(), whole.answered()), (100, 1));
    }
}
