//! Who goes away in the middle: clients, downstreams, a database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use gatehouse_proto::gateway::v1::gateway_client::GatewayClient;
use gatehouse_testkit::PostgresServer;
use gatehouse_tests::{Behaviour, Device, Downstream, Suite, Trail, audit, scratch::root_dir, wait};
use tonic::Code;

async fn start() -> (Suite, Downstream) {
    let downstream = Downstream::start();
    let suite = Suite::builder().downstream("orders", &downstream, &["demo.echo", "orders.slow", "orders.large"]).start().await;
    (suite, downstream)
}

#[tokio::test]
async fn a_command_whose_client_left_is_in_the_trail_all_the_same() {
    let (suite, downstream) = start().await;
    downstream.on("orders.slow", Behaviour::Delay(Duration::from_millis(300)));
    let device = Device::registered(&mut suite.embedded_redis());
    // Cancelled on a connection that stays, and with its connection.
    for keep in [true, false] {
        let request = device.command("orders.slow", "x");
        let channel = suite.channel();
        let mut client = GatewayClient::new(channel.clone());
        {
            let call = client.execute_command(request.clone());
            let arrived =
                wait::eventually("the downstream has it", async || (!downstream.calls(&request.request_id).is_empty()).then_some(()));
            tokio::select! { answer = call => panic!("too early: {answer:?}"), () = arrived => {} }
        }
        drop(client);
        let kept = keep.then_some(channel);
        let row = Trail::record(&suite, &request.request_id).await;
        assert_eq!(audit::record(&row).action, "orders.slow");
        let again = suite.execute(&request).await.unwrap_err();
        assert_eq!(again.message(), "request replay detected");
        drop(kept);
    }
    Trail::read(&suite).await.check(&suite).await;
}

#[tokio::test]
async fn a_request_id_stays_used_when_the_edge_dies_under_it() {
    let (suite, downstream) = start().await;
    downstream.on("orders.slow", Behaviour::Hang);
    let device = Device::registered(&mut suite.embedded_redis());
    let (done, cut) = (device.command("demo.echo", "x"), device.command("orders.slow", "x"));
    suite.execute(&done).await.unwrap();
    let kill = async {
        wait::eventually("the downstream has it", async || (!downstream.calls(&cut.request_id).is_empty()).then_some(())).await;
        suite.kill9("edge").await;
    };
    let (cut_off, ()) = tokio::join!(suite.execute(&cut), kill);
    cut_off.expect_err("the connection is gone");
    for request in [&done, &cut] {
        let again = suite.execute(request).await.unwrap_err();
        assert_eq!((again.code(), again.message()), (Code::FailedPrecondition, "request replay detected"));
        assert_eq!(downstream.calls(&request.request_id).len(), 1, "carried out once");
    }
}

#[tokio::test]
async fn an_answer_of_any_size_is_passed_on_or_refused() {
    let (suite, downstream) = start().await;
    let device = Device::registered(&mut suite.embedded_redis());
    for (size, fits) in [(1 << 20, true), (16 << 20, false)] {
        downstream.on("orders.large", Behaviour::Answer("ok", vec![7; size]));
        let request = device.command("orders.large", "x");
        let answer = suite.execute(&request).await;
        assert_eq!(answer.is_ok(), fits, "{size}: {:?}", answer.map(|_| ()));
        Trail::record(&suite, &request.request_id).await;
    }
    suite.execute(&device.command("demo.echo", "x")).await.expect("and the next one is served");
}

#[tokio::test]
async fn a_downstream_that_comes_back_is_served_again() {
    let (suite, downstream) = start().await;
    let device = Device::registered(&mut suite.embedded_redis());
    suite.execute(&device.command("demo.echo", "x")).await.unwrap();
    let downstream = downstream.stop().await;
    let status = suite.execute(&device.command("demo.echo", "x")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "downstream is unavailable"));
    let downstream = downstream.start_again();
    wait::eventually("the downstream is served again", async || suite.execute(&device.command("demo.echo", "x")).await.ok()).await;
    drop(downstream);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_served_and_recorded_while_the_database_is_away() {
    let mut server = tokio::task::spawn_blocking(|| PostgresServer::start_in(root_dir())).await.unwrap();
    let downstream = Downstream::start();
    let suite = Suite::builder().database(&server.database()).downstream("orders", &downstream, &["demo.echo"]).start().await;
    let device = Device::registered(&mut suite.embedded_redis());
    let mut ids = Vec::new();
    for round in 0..3 {
        for _ in 0..5 {
            let request = device.command("demo.echo", "x");
            suite.execute(&request).await.expect("the stream holds what the database cannot");
            ids.push(request.request_id);
        }
        match round {
            0 => tokio::task::block_in_place(|| server.kill9()),
            1 => tokio::task::block_in_place(|| server.restart()),
            _ => {}
        }
    }
    suite.ready().await;
    for id in &ids {
        Trail::record(&suite, id).await;
    }
    Trail::read(&suite).await.check(&suite).await;
}
