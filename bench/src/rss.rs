//! Memory of each process, idle and after load.

use std::{collections::BTreeMap, time::Duration};

use gatehouse_tests::{Device, EventStream, Suite, suite::publish};

use crate::{
    commands::{
        self,
        load::{Callers, devices},
    },
    measure::{pss_mib, rss_mib},
    report::Report,
};

const STREAMS: usize = 200;

/// Measures.
pub async fn run() -> Report {
    let (suite, _downstream) = commands::start().await;
    let title = format!("memory in MiB: idle, with {STREAMS} open streams, and after five seconds of commands on 64 connections");
    let mut report = Report::new(title, &["PSS idle", "PSS streams", "PSS after load", "RSS after load"]);
    let idle = memory(&suite).await;
    let streams = open(&suite).await;
    let with_streams = memory(&suite).await;
    let callers = Callers::new(&devices(&suite, 64), || suite.channel(), 4, 128);
    let seen = callers.saturate(Duration::from_secs(5)).await;
    report.errors = seen.errors;
    let loaded = memory(&suite).await;
    drop(streams);
    for (name, [pss, _]) in &idle {
        let [streams, loaded] = [&with_streams, &loaded].map(|at| at[name]);
        report.row(name, &[*pss, streams[0], loaded[0], loaded[1]]);
    }
    let sum = |at: &BTreeMap<String, [f64; 2]>, i: usize| at.values().map(|figures| figures[i]).sum::<f64>();
    report.row("all", &[sum(&idle, 0), sum(&with_streams, 0), sum(&loaded, 0), sum(&loaded, 1)]);
    report
}

async fn memory(suite: &Suite) -> BTreeMap<String, [f64; 2]> {
    let mut pids = suite.pids().await;
    pids.insert("supervisor".into(), suite.supervisor_pid());
    pids.into_iter().map(|(name, pid)| (name, [pss_mib(pid), rss_mib(pid)])).collect()
}

async fn open(suite: &Suite) -> Vec<EventStream> {
    let mut redis = suite.embedded_redis();
    let mut streams = Vec::new();
    let mut channel = suite.channel();
    for i in 0..STREAMS {
        if i % 10 == 0 {
            channel = suite.channel();
        }
        let device = Device::registered(&mut redis);
        let mut stream = EventStream::open(channel.clone(), &suite.key, &device, "").await.expect("subscribe");
        publish(&mut redis, &device.user, None, "bench", &[b'x'; 256]);
        stream.next().await.expect("an event");
        streams.push(stream);
    }
    streams
}
