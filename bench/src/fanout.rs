//! Events to many streams at a fixed rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use gatehouse_proto::gateway::v1::gateway_client::GatewayClient;
use gatehouse_tests::{Device, Suite, wait};
use hdrhistogram::Histogram;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tonic::transport::Channel;

use crate::{Rounds, measure::cpu_of, report::Report};

/// What is published, and to whom.
#[derive(Clone, Copy, Debug, Args)]
pub struct Load {
    /// Streams
    #[arg(long, default_value_t = 200)]
    subscribers: usize,
    /// Streams on each connection
    #[arg(long, default_value_t = 10)]
    streams: usize,
    /// Users that the streams belong to in equal parts; an event goes to all streams of one user
    #[arg(long, default_value_t = 10)]
    users: usize,
    /// Events a second
    #[arg(long, default_value_t = 200)]
    events: u32,
    /// Bytes of an event's payload, of which it needs 8 for the time
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Straight to the pushers, without the hop through the edge
    #[arg(long)]
    direct: bool,
    #[command(flatten)]
    rounds: Rounds,
}

struct Seen {
    delivered: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

/// Measures.
pub async fn run(load: &Load) -> Report {
    let suite = Suite::builder().env("LOG_LEVEL", "warn").start().await;
    let seen = Arc::new(Seen { delivered: AtomicU64::new(0), latency: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3).unwrap()) });
    let (users, _streams) = subscribe(&suite, load, &seen).await;
    let columns = ["deliveries/CPU-s", "µs CPU each", "edge µs CPU each", "deliveries/s", "p50 ms", "p99 ms"];
    let way = if load.direct { "direct" } else { "through the edge" };
    let title =
        format!("fan-out {way}: {} streams, {} users, {} events/s, {} bytes", load.subscribers, load.users, load.events, load.payload);
    let mut report = Report::new(title, &columns);
    let mut rounds = Vec::new();
    for round in 0..=load.rounds.rounds {
        let (pusher, edge, begun) = (cpu_of(&suite, "pusher").await, cpu_of(&suite, "edge").await, Instant::now());
        let before = seen.delivered.load(Ordering::Relaxed);
        seen.latency.lock().await.reset();
        let expected = publish(&suite, load, &users).await;
        let delivered = || seen.delivered.load(Ordering::Relaxed) - before;
        wait::eventually("every stream has every event", async || (delivered() >= expected).then_some(())).await;
        let (pusher, edge) = (cpu_of(&suite, "pusher").await - pusher, cpu_of(&suite, "edge").await - edge);
        let (count, wall) = (delivered() as f64, begun.elapsed().as_secs_f64());
        report.errors += delivered() - expected;
        let latency = seen.latency.lock().await;
        let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
        if round > 0 {
            rounds.push(vec![count / pusher, pusher / count * 1e6, edge / count * 1e6, count / wall, ms(0.5), ms(0.99)]);
        }
    }
    report.medians("pushers", &rounds);
    report
}

async fn subscribe(suite: &Suite, load: &Load, seen: &Arc<Seen>) -> (Vec<String>, JoinSet<()>) {
    let users: Vec<_> = (0..load.users).map(|_| Device::new().user).collect();
    let listener = if load.direct { "push" } else { "grpc" };
    let (mut redis, mut streams) = (suite.embedded_redis(), JoinSet::new());
    let mut channel = suite.channel_to(listener);
    for i in 0..load.subscribers {
        if i % load.streams == 0 {
            channel = suite.channel_to(listener);
        }
        let device = Device::of(&users[i % users.len()]);
        device.register(&mut redis);
        stream(channel.clone(), &device, Arc::clone(seen), &mut streams).await;
    }
    (users, streams)
}

/// Opens one stream; counts what it delivers. Signatures are not checked here: the load generator shares the machine with what it measures.
async fn stream(channel: Channel, device: &Device, seen: Arc<Seen>, streams: &mut JoinSet<()>) {
    let mut client = GatewayClient::new(channel);
    let mut events = client.subscribe_events(device.subscribe("")).await.expect("subscribe").into_inner();
    events.message().await.expect("a first event");
    streams.spawn(async move {
        while let Ok(Some(event)) = events.message().await {
            if event.event_type != "bench" {
                continue;
            }
            let sent = u64::from_be_bytes(event.payload_bytes[..8].try_into().unwrap());
            seen.latency.lock().await.saturating_record(now_micros().saturating_sub(sent).max(1));
            seen.delivered.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Publishes at the rate for one round; how many deliveries that makes.
async fn publish(suite: &Suite, load: &Load, users: &[String]) -> u64 {
    let mut redis = suite.embedded_redis();
    let count = u64::from(load.events) * load.rounds.length().as_secs();
    let mut pace = interval(Duration::from_secs(1) / load.events);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut payload = vec![b'x'; load.payload.max(8)];
    let mut expected = 0;
    for i in 0..usize::try_from(count).unwrap() {
        // The time at which it should leave; a writer that lags behind shows in the latency.
        pace.tick().await;
        payload[..8].copy_from_slice(&now_micros().to_be_bytes());
        let user = i % users.len();
        tokio::task::block_in_place(|| gatehouse_tests::suite::publish(&mut redis, &users[user], None, "bench", &payload));
        expected += (load.subscribers / users.len() + usize::from(user < load.subscribers % users.len())) as u64;
    }
    expected
}

fn now_micros() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}
