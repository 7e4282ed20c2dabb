//! Signed commands through the edge to a downstream that echoes.

use std::{sync::Arc, time::Duration};

use clap::Args;
use gatehouse_proto::gateway::v1::gateway_client::GatewayClient;
use gatehouse_tests::{Device, Downstream, Suite};
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tonic::transport::Channel;

use crate::{Rounds, measure::cpu_of, report::Report};

/// What is sent.
#[derive(Clone, Copy, Debug, Args)]
pub struct Load {
    /// Connections
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Commands under way on each connection
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Bytes of a command's payload
    #[arg(long, default_value_t = 128)]
    payload: usize,
    #[command(flatten)]
    rounds: Rounds,
}

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
}

pub(crate) async fn start() -> (Suite, Downstream) {
    let downstream = Downstream::start();
    let suite = Suite::builder().downstream("bench", &downstream, &["demo.echo"]).env("LOG_LEVEL", "warn").start().await;
    (suite, downstream)
}

/// Measures.
pub async fn run(load: &Load) -> Report {
    let (suite, _downstream) = start().await;
    let columns = ["commands/CPU-s", "µs CPU each", "commands/s", "p50 ms", "p99 ms"];
    let title = format!("commands, edge: {} connections × {} in flight, {} bytes", load.connections, load.in_flight, load.payload);
    let mut report = Report::new(title, &columns);
    let mut rounds = Vec::new();
    for round in 0..=load.rounds.rounds {
        let (before, begun) = (cpu_of(&suite, "edge").await, Instant::now());
        let seen = send(&suite, load.connections, load.in_flight, load.payload, load.rounds.length()).await;
        let (cpu, wall) = (cpu_of(&suite, "edge").await - before, begun.elapsed().as_secs_f64());
        report.errors += seen.errors;
        let answered = seen.answered as f64;
        let ms = |quantile| seen.latency.value_at_quantile(quantile) as f64 / 1000.0;
        // The first warms up.
        if round > 0 {
            rounds.push(vec![answered / cpu, cpu / answered * 1e6, answered / wall, ms(0.5), ms(0.99)]);
        }
    }
    report.medians("edge", &rounds);
    report
}

/// Sends for that long, every slot its next command as soon as the last is answered.
pub(crate) async fn send(suite: &Suite, connections: usize, in_flight: usize, payload: usize, length: Duration) -> Round {
    let mut redis = suite.embedded_redis();
    let until = Instant::now() + length;
    let payload: Arc<[u8]> = vec![b'x'; payload].into();
    let mut slots = JoinSet::new();
    for _ in 0..connections {
        let device = Arc::new(Device::registered(&mut redis));
        let channel = suite.channel();
        for _ in 0..in_flight {
            slots.spawn(slot(channel.clone(), Arc::clone(&device), Arc::clone(&payload), until));
        }
    }
    slots.join_all().await.into_iter().fold(Round::empty(), |mut all, one| {
        all.answered += one.answered;
        all.errors += one.errors;
        all.latency.add(one.latency).unwrap();
        all
    })
}

async fn slot(channel: Channel, device: Arc<Device>, payload: Arc<[u8]>, until: Instant) -> Round {
    let mut client = GatewayClient::new(channel);
    let mut seen = Round::empty();
    while Instant::now() < until {
        let request = device.command("demo.echo", &payload[..]);
        let begun = Instant::now();
        match timeout_at(until + Duration::from_secs(10), client.execute_command(request)).await {
            Ok(Ok(_)) => {
                seen.answered += 1;
                let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                seen.latency.saturating_record(micros);
            }
            Ok(Err(_)) | Err(_) => seen.errors += 1,
        }
    }
    seen
}
