//! Callers that send signed commands, each on a connection of its own.

use std::{sync::Arc, time::Duration};

use gatehouse_proto::gateway::v1::{ExecuteCommandRequest, gateway_client::GatewayClient};
use gatehouse_tests::{Device, Suite, wire::hex};
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tonic::transport::Channel;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is called; the downstream echoes.
pub(crate) const MESSAGE_TYPE: &str = "demo.echo";

/// What one round brought.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) answered: u64,
    pub(crate) errors: u64,
    latency: Histogram<u64>,
}

impl Round {
    fn empty() -> Self {
        // Microseconds up to a minute, three digits.
        Self { answered: 0, errors: 0, latency: Histogram::new_with_bounds(1, 60_000_000, 3).unwrap() }
    }

    /// A quantile of the latency, in milliseconds.
    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }

    fn record(&mut self, since: Instant) {
        self.answered += 1;
        self.latency.saturating_record(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
    }

    fn of_all(rounds: Vec<Self>) -> Self {
        rounds.into_iter().fold(Self::empty(), |mut all, one| {
            all.answered += one.answered;
            all.errors += one.errors;
            all.latency.add(one.latency).unwrap();
            all
        })
    }
}

/// Devices with sessions. Their ids are their public keys, so that a server without Redis can verify them, too.
pub(crate) fn devices(suite: &Suite, number: usize) -> Vec<Arc<Device>> {
    let mut redis = suite.embedded_redis();
    let mut device = || {
        let mut device = Device::new();
        device.session = hex(&device.public_key());
        device.register(&mut redis);
        Arc::new(device)
    };
    (0..number).map(|_| device()).collect()
}

/// A connection for each device, and what is sent on it.
#[derive(Debug)]
pub(crate) struct Callers {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    client: GatewayClient<Channel>,
    device: Arc<Device>,
    payload: Arc<[u8]>,
}

impl Callers {
    pub(crate) fn new(devices: &[Arc<Device>], connect: impl Fn() -> Channel, in_flight: usize, payload: usize) -> Self {
        let payload: Arc<[u8]> = vec![b'x'; payload].into();
        let slots = devices.iter().flat_map(|device| {
            let slot = Slot { client: GatewayClient::new(connect()), device: Arc::clone(device), payload: Arc::clone(&payload) };
            std::iter::repeat_n(slot, in_flight)
        });
        Self { slots: slots.collect() }
    }

    /// Every slot sends its next command as soon as the last is answered.
    pub(crate) async fn saturate(&self, length: Duration) -> Round {
        let until = Instant::now() + length;
        let mut slots = JoinSet::new();
        for mut slot in self.slots.iter().cloned() {
            slots.spawn(async move {
                let mut seen = Round::empty();
                while Instant::now() < until {
                    let request = slot.command();
                    let since = Instant::now();
                    if slot.send(request).await {
                        seen.record(since);
                    } else {
                        seen.errors += 1;
                    }
                }
                seen
            });
        }
        Round::of_all(slots.join_all().await)
    }

    /// So many a second from all slots together, evenly; latency counts from when a command should have left.
    pub(crate) async fn pace(&self, per_second: f64, length: Duration) -> Round {
        let begun = Instant::now();
        let apart = Duration::from_secs_f64(self.slots.len() as f64 / per_second);
        let mut slots = JoinSet::new();
        for (place, mut slot) in self.slots.iter().cloned().enumerate() {
            let mut due = begun + apart.mul_f64(place as f64 / self.slots.len() as f64);
            slots.spawn(async move {
                let mut seen = Round::empty();
                while due < begun + length {
                    sleep_until(due).await;
                    let request = slot.command();
                    if slot.send(request).await {
                        seen.record(due);
                    } else {
                        seen.errors += 1;
                    }
                    due += apart;
                }
                seen
            });
        }
        Round::of_all(slots.join_all().await)
    }
}

impl Slot {
    fn command(&self) -> ExecuteCommandRequest {
        self.device.command(MESSAGE_TYPE, &self.payload[..])
    }

    async fn send(&mut self, request: ExecuteCommandRequest) -> bool {
        matches!(timeout(PATIENCE, self.client.execute_command(request)).await, Ok(Ok(_)))
    }
}
