//! Pushers: replaced, added, removed.

use std::time::{Duration, Instant};

use gatehouse_tests::{
    Device,
    generations::{
        Supervisor,
        load::{Crowd, Load, Seen},
    },
    servers, wait,
};

use crate::house::{House, ROUNDS, summary};

const CROWD: Crowd = Crowd { kept: 2, hasty: 0, channels: 2, plain: 0, streams: 40, direct: 0, admin: 0 };

async fn nobody_noticed(house: &House, seen: &Seen) {
    assert_eq!(seen.failures().len(), 0, "{seen}");
    assert_eq!(seen.of("streams on grpc told to come back"), 0, "{seen}");
    let edge = house.metrics("edge").await;
    let attaches = |outcome| edge.sum("relay_attaches_total", &[("outcome", outcome)]);
    eprintln!("attached {}, moved {}, failed {}", attaches("attached"), attaches("moved"), attaches("failed"));
    // Where a machine does too much at once, Redis may take longer than an attempt has; the next one follows.
    assert!(attaches("moved") > 0.5 && attaches("failed") * 10.0 <= attaches("moved") && attaches("refused") < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_pushers_in_turn_is_noticed_by_direct_clients_alone() {
    let mut house = House::start(&["auditor", "pusher/0", "pusher/1", "edge"], Some(&[0, 1])).await;
    let load = Load::start(&house.premises, Crowd { direct: 10, ..CROWD });
    load.opened().await;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        for pusher in ["pusher/0", "pusher/1"] {
            load.go_on("events", 200).await;
            load.streams_are_back().await;
            took.push(house.replace(pusher).await);
        }
    }
    // Users stay with the pusher that is theirs; the last of them are on their way to it.
    let (first, second) = wait::eventually("all streams are back", async || {
        let streams = (house.streams(0).await, house.streams(1).await);
        (streams.0 + streams.1 == 50).then_some(streams)
    })
    .await;
    let seen = load.stop().await;
    eprintln!("{}\n{seen}\nstreams {first} and {second}", summary("pushers", &mut took));
    nobody_noticed(&house, &seen).await;
    assert!(seen.of("streams on push told to come back") >= 10 * ROUNDS, "{seen}");
    assert!(first > 15 && second > 5, "{first} and {second} of 50");
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_the_only_pusher_is_noticed_by_nobody() {
    let mut house = House::start(&["auditor", "pusher/0", "edge"], Some(&[0])).await;
    let load = Load::start(&house.premises, CROWD);
    load.opened().await;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        load.go_on("events", 200).await;
        took.push(house.replace("pusher/0").await);
    }
    let seen = load.stop().await;
    eprintln!("{}\n{seen}", summary("the only pusher", &mut took));
    nobody_noticed(&house, &seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_supervisor_streams_move_to_the_other_pusher() {
    let mut house = House::start(&["auditor", "pusher/0", "pusher/1", "edge"], None).await;
    let load = Load::start(&house.premises, CROWD);
    load.opened().await;
    for _ in 0..2 {
        for pusher in ["pusher/0", "pusher/1"] {
            load.go_on("events", 200).await;
            // As `systemctl restart` does it: the socket waits meanwhile, and nobody accepts.
            house.remove(pusher).await;
            load.go_on("events", 200).await;
            house.add(pusher).await;
        }
    }
    let seen = load.stop().await;
    nobody_noticed(&house, &seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_from_one_to_four_to_two_ends_no_stream() {
    let mut house = House::start(&["auditor", "pusher/0", "edge"], Some(&[0])).await;
    let load = Load::start(&house.premises, CROWD);
    load.opened().await;
    load.go_on("events", 400).await;
    assert_eq!(house.streams(0).await, 40);
    for pusher in ["pusher/1", "pusher/2", "pusher/3"] {
        house.add(pusher).await;
    }
    house.supervisor.as_ref().unwrap().name(&[0, 1, 2, 3]);
    // New streams go to all four.
    let mut redis = servers::client(&house.premises.redis);
    let mut more = Vec::new();
    wait::eventually("each of the new ones has streams", async || {
        more.push(house.premises.subscribe(&Device::registered(&mut redis), "").await.unwrap());
        for pusher in 1..4 {
            if house.streams(pusher).await < 2 {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert!(house.streams(0).await >= 40, "nobody was moved for it");
    load.go_on("events", 400).await;
    house.supervisor.as_ref().unwrap().name(&[0, 1]);
    let mut took = vec![house.remove("pusher/2").await, house.remove("pusher/3").await];
    wait::eventually("all are with the two that are left", async || {
        (house.streams(0).await + house.streams(1).await == 40 + more.len()).then_some(())
    })
    .await;
    load.go_on("events", 400).await;
    drop(more);
    let seen = load.stop().await;
    eprintln!("{}\n{seen}", summary("removed pushers", &mut took));
    nobody_noticed(&house, &seen).await;
}

/// That it is no member any more may be heard after its streams have ended: its socket is still there then, and nobody answers.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_removed_pusher_do_not_wait_for_it() {
    let mut house = House::start(&["auditor", "pusher/0", "pusher/1", "edge"], Some(&[0, 1])).await;
    let load = Load::start(&house.premises, CROWD);
    load.opened().await;
    load.go_on("events", 200).await;
    assert!(house.streams(1).await > 0);
    house.remove("pusher/1").await;
    house.supervisor.as_ref().unwrap().name(&[0]);
    let begun = Instant::now();
    wait::eventually("all are with the other one", async || (house.streams(0).await == 40).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let seen = load.stop().await;
    nobody_noticed(&house, &seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_supervisor_said_stands_while_it_is_away_and_its_successor_is_heard() {
    let mut house = House::start(&["auditor", "pusher/0", "pusher/1", "edge"], Some(&[1])).await;
    let mut redis = servers::client(&house.premises.redis);
    let mut streams = Vec::new();
    for round in 1..=2 {
        for _ in 0..8 {
            streams.push(house.premises.subscribe(&Device::registered(&mut redis), "").await.unwrap());
        }
        assert_eq!((house.streams(0).await, house.streams(1).await), (0, 8 * round), "none goes to one that is no member");
        house.supervisor = None;
    }
    let successor = Supervisor::start(&house.premises, &[0]);
    wait::eventually("the successor is heard", async || (successor.listeners() > 0).then_some(())).await;
    wait::eventually("what it says counts", async || {
        streams.push(house.premises.subscribe(&Device::registered(&mut redis), "").await.unwrap());
        (house.streams(0).await > 0).then_some(())
    })
    .await;
}
