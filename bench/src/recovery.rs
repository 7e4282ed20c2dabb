//! From `kill -9` of a process to serving again.

use std::{ops::RangeInclusive, time::Instant};

use clap::Args;
use gatehouse_proto::internal::v1::ListAuditRequest;
use gatehouse_tests::{Device, EventStream, Suite, suite::publish};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Duration, sleep, timeout};

use crate::{commands, report::Report};

/// How often.
#[derive(Clone, Copy, Debug, Args)]
pub struct Kills {
    /// Kills of each process
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// A probe is tried again so soon.
const STEP: Duration = Duration::from_millis(1);
/// Enough that every pusher has some of them.
const USERS: usize = 16;
const LONGEST: Duration = Duration::from_secs(30);

/// Measures.
pub async fn run(kills: &Kills) -> Report {
    let (suite, _downstream) = commands::start().await;
    let devices = devices(&suite);
    let mut report = Report::new("from kill -9 to serving again, in ms", &["median", "worst"]);
    for component in ["edge", "pusher/0", "pusher/1", "auditor", "admin", "redis"] {
        let mut times = Vec::new();
        for _ in 0..kills.rounds {
            suite.ready().await;
            let streams = streams(&suite, &devices).await;
            times.push(one(&suite, component, &devices, streams).await.1.as_secs_f64() * 1000.0);
        }
        let worst = times.iter().copied().fold(0.0, f64::max);
        report.row(component, &[crate::report::median(times), worst]);
    }
    report
}

/// Those whose events are waited for.
pub(crate) fn devices(suite: &Suite) -> Vec<Device> {
    let mut redis = suite.embedded_redis();
    (0..USERS).map(|_| Device::registered(&mut redis)).collect()
}

/// A stream of each.
pub(crate) async fn streams(suite: &Suite, devices: &[Device]) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for device in devices {
        streams.push(suite.subscribe(device, "").await.expect("subscribe"));
    }
    streams
}

/// When it was killed, and from then to the next request that is served.
pub(crate) async fn one(
    suite: &Suite,
    component: &str,
    devices: &[Device],
    streams: Vec<EventStream>,
) -> (RangeInclusive<Instant>, Duration) {
    let device = &devices[0];
    let pid = suite.instance(component).await.pid.expect("it runs");
    let begun = Instant::now();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    let killed = begun..=Instant::now();
    match component {
        // An event on each stream that was open before.
        "pusher/0" | "pusher/1" => {
            let mut redis = suite.embedded_redis();
            for (device, mut stream) in devices.iter().zip(streams) {
                let id = publish(&mut redis, &device.user, None, "proof", b"");
                while stream.next().await.expect("the stream survives").event_id != id {}
            }
        }
        // A new command's record in the trail.
        "auditor" => {
            let request = device.command("demo.echo", "x");
            suite.execute(&request).await.expect("commands do not need the auditor");
            let list = ListAuditRequest { request_id: request.request_id, ..Default::default() };
            until(async || suite.admin().list_audit(list.clone()).await.is_ok_and(|found| !found.get_ref().records.is_empty())).await;
        }
        "admin" => {
            let newest = ListAuditRequest { limit: 1, ..Default::default() };
            until(async || suite.admin().list_audit(newest.clone()).await.is_ok()).await;
        }
        // A command on a new connection. The session is known: without Redis it is the reservation that fails.
        _ => until(async || suite.execute(&device.command("demo.echo", "x")).await.is_ok()).await,
    }
    (killed, begun.elapsed())
}

async fn until(mut serves: impl AsyncFnMut() -> bool) {
    let probes = async {
        while !serves().await {
            sleep(STEP).await;
        }
    };
    timeout(LONGEST, probes).await.expect("serving again in time");
}
