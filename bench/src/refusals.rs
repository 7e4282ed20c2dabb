//! What it costs to say no: to a bad signature, to a session that does not exist, to a message that is too large.

use std::{sync::Arc, time::Duration};

use clap::Args;
use gatehouse_proto::gateway::v1::{ExecuteCommandRequest, gateway_client::GatewayClient};
use gatehouse_tests::{Device, Resp, Suite};
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;

use crate::{
    Rounds,
    commands::{self, Callers, load::MESSAGE_TYPE},
    measure::cpu_of,
    report::Report,
};

/// Commands of Redis that write.
const WRITES: [&str; 6] = ["set", "xadd", "evalsha", "eval", "fcall", "del"];

/// A command that is refused.
type Make = fn(&Device) -> ExecuteCommandRequest;

/// How many at once.
#[derive(Clone, Copy, Debug, Args)]
pub struct Refusals {
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[command(flatten)]
    rounds: Rounds,
}

/// Measures, by turns with commands that are carried out.
pub async fn run(refusals: &Refusals) -> Report {
    let (suite, _downstream) = commands::start().await;
    let devices = commands::load::devices(&suite, refusals.connections);
    let callers = Callers::new(&devices, || suite.channel(), 1, 128);
    let mut report = Report::new(format!("refusals: {} connections", refusals.connections), &["µs CPU each", "Redis writes each"]);
    let kinds: [(&str, Code, Make); 3] = [
        ("bad signature", Code::Unauthenticated, forged),
        ("unknown session", Code::Unauthenticated, of_nobody),
        ("message of 5 MiB", Code::OutOfRange, oversized),
    ];
    let mut redis = suite.embedded_redis();
    let mut rounds: [Vec<Vec<f64>>; 4] = Default::default();
    for round in 0..=refusals.rounds.rounds {
        for (place, rounds) in rounds.iter_mut().enumerate() {
            let (cpu, written) = (cpu_of(&suite, "edge").await, writes(&mut redis));
            let (answered, errors) = if let Some((_, code, make)) = kinds.get(place) {
                refused(&suite, &devices, *make, *code, refusals.rounds.length()).await
            } else {
                let seen = callers.saturate(refusals.rounds.length()).await;
                (seen.answered, seen.errors)
            };
            report.errors += errors;
            let answered = answered as f64;
            // The first warms up.
            if round > 0 {
                let (cpu, written) = (cpu_of(&suite, "edge").await - cpu, writes(&mut redis) - written);
                rounds.push(vec![cpu / answered * 1e6, written / answered]);
            }
        }
    }
    let names = kinds.iter().map(|(name, ..)| *name).chain(["carried out"]);
    for (name, rounds) in names.zip(&rounds) {
        report.medians(name, rounds);
    }
    report
}

fn forged(device: &Device) -> ExecuteCommandRequest {
    let mut request = device.command(MESSAGE_TYPE, [b'x'; 128]);
    request.message_type.push('x');
    request
}

fn of_nobody(device: &Device) -> ExecuteCommandRequest {
    let mut request = device.command(MESSAGE_TYPE, [b'x'; 128]);
    request.device_session_id = format!("nobody-{}", request.request_id);
    request
}

fn oversized(device: &Device) -> ExecuteCommandRequest {
    // Nobody hashes it: it is refused by its length.
    let mut request = device.command(MESSAGE_TYPE, []);
    request.payload_bytes = vec![b'x'; 5 << 20].into();
    request
}

async fn refused(suite: &Suite, devices: &[Arc<Device>], make: Make, code: Code, length: Duration) -> (u64, u64) {
    let until = Instant::now() + length;
    let mut slots = JoinSet::new();
    for device in devices {
        let device = Arc::clone(device);
        let mut client = GatewayClient::new(suite.channel()).max_encoding_message_size(64 << 20);
        slots.spawn(async move {
            let (mut as_expected, mut otherwise) = (0, 0);
            while Instant::now() < until {
                match client.execute_command(make(&device)).await {
                    Err(status) if status.code() == code => as_expected += 1,
                    // An upload that is cut short may be seen before the verdict.
                    Err(status) if code == Code::OutOfRange && status.code() != Code::Ok => as_expected += 1,
                    _ => otherwise += 1,
                }
            }
            (as_expected, otherwise)
        });
    }
    slots.join_all().await.into_iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

/// How many writes the server has carried out.
fn writes(redis: &mut Resp) -> f64 {
    let stats = redis.command(&["INFO", "commandstats"]).unwrap().text();
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")))?;
        line.split(',').next()?.parse::<f64>().ok()
    };
    WRITES.into_iter().filter_map(calls).sum()
}
