//! What a connection that says nothing costs the edge in memory.

use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use gatehouse_proto::gateway::v1::gateway_client::GatewayClient;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tonic::transport::{Channel, Endpoint};

use crate::{
    commands,
    measure::{pss_mib, rss_mib},
    report::Report,
};

/// How many connect at the same time.
const AT_ONCE: usize = 64;

/// How many.
#[derive(Clone, Copy, Debug, Args)]
pub struct Connections {
    /// Idle connections
    #[arg(long, default_value_t = 10_000)]
    number: usize,
}

/// Measures: each has been answered once, and waits.
pub async fn run(connections: &Connections) -> Report {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let (suite, _downstream) = commands::start().await;
    let device = commands::load::devices(&suite, 1).remove(0);
    let pid = suite.pids().await["edge"];
    let address = format!("http://{}", suite.address("grpc"));
    let open = || async {
        let endpoint = Endpoint::from_shared(address.clone()).unwrap().connect_timeout(Duration::from_secs(10));
        let channel = endpoint.connect().await.expect("connect");
        // Refused for its signature: nothing is kept of it.
        let mut request = device.command(commands::load::MESSAGE_TYPE, []);
        request.message_type.push('x');
        GatewayClient::new(channel.clone()).execute_command(request).await.expect_err("refused");
        channel
    };
    let warm: Vec<Channel> = stream::iter(0..AT_ONCE).map(|_| open()).buffer_unordered(AT_ONCE).collect().await;
    let before = [rss_mib(pid), pss_mib(pid)];
    let idle: Vec<Channel> = stream::iter(0..connections.number).map(|_| open()).buffer_unordered(AT_ONCE).collect().await;
    let after = [rss_mib(pid), pss_mib(pid)];
    let mut report = Report::new(format!("{} idle connections", connections.number), &["RSS KiB each", "PSS KiB each", "RSS MiB"]);
    let each = |i: usize| (after[i] - before[i]) * 1024.0 / connections.number as f64;
    report.row("edge", &[each(0), each(1), after[0]]);
    drop((warm, idle));
    report
}
