//! The edge.

use gatehouse_proto::gateway::v1::gateway_client::GatewayClient;
use gatehouse_tests::{
    Device,
    generations::load::{Crowd, Load},
    http::Fresh,
    servers, wait,
};
use nix::sys::signal::Signal;

use crate::house::{House, ROUNDS, summary};

#[tokio::test(flavor = "multi_thread")]
async fn replacing_the_edge_costs_no_request_no_command_and_no_event() {
    let mut house = House::start(&["auditor", "pusher/0", "pusher/1", "edge"], Some(&[0, 1])).await;
    let crowd = Crowd { kept: 16, hasty: 2, channels: 4, plain: 4, streams: 40, ..Crowd::default() };
    let load = Load::start(&house.premises, crowd);
    load.opened().await;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        load.go_on("requests", 100).await;
        load.go_on("commands", 100).await;
        load.streams_are_back().await;
        took.push(house.replace("edge").await);
    }
    let seen = load.stop().await;
    eprintln!("{}\n{seen}", summary("edge", &mut took));
    assert_eq!(seen.failures().len(), 0, "{seen}");
    assert!(seen.of("commands that a plain client never sent") <= ROUNDS * crowd.plain / 10, "{seen}");
    assert!(seen.of("streams on grpc told to come back") >= 40 * ROUNDS, "{seen}");
    assert!(seen.of("connections told to close") > seen.of("idle connections closed"), "{seen}");
}

/// A session that is revoked while an edge drains is revoked there, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_drains_still_hears_of_revocations() {
    let mut house = House::start(&["auditor", "pusher/0", "edge"], Some(&[0])).await;
    let mut redis = servers::client(&house.premises.redis);
    let device = Device::registered(&mut redis);
    let (commands, mut streams) = (house.premises.channel("grpc"), Vec::new());
    let mut client = GatewayClient::new(commands);
    client.execute_command(device.command("demo.echo", "x")).await.unwrap();
    // So many that their turns to leave take a while.
    for _ in 0..200 {
        let device = Device::registered(&mut redis);
        streams.push(house.premises.subscribe(&device, "").await.unwrap());
    }
    let old = house.processes.pop().unwrap();
    house.add("edge").await;
    old.signal(Signal::SIGTERM);
    device.revoke(&mut redis);
    wait::eventually("the revocation is known, wherever the command goes", async || {
        let status = client.execute_command(device.command("demo.echo", "x")).await.err()?;
        (status.message() == "device session is revoked").then_some(())
    })
    .await;
}

/// A connection that came just before the drain asks it still.
#[tokio::test]
async fn the_suite_is_ready_while_an_edge_drains_for_its_successor_and_not_when_it_has_none() {
    for (pushers, while_it_drains) in [(Some(&[0][..]), 200), (None, 503)] {
        let house = House::start(&["auditor", "pusher/0", "edge"], pushers).await;
        let address = house.premises.address("http");
        let mut guests = Vec::new();
        // One to hear that the drain has begun, in one of these questions.
        for _ in 0..500 {
            guests.push(Fresh::connect(address).await.unwrap());
        }
        let mut ask = async |path| guests.pop().expect("the drain has begun by now").get(path).await.unwrap();
        assert_eq!((ask("/readyz").await, ask("/health/ready").await), (200, 200));
        house.processes.last().unwrap().signal(Signal::SIGTERM);
        while ask("/readyz").await == 200 {}
        assert_eq!(ask("/health/ready").await, while_it_drains);
    }
}
