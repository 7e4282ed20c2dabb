//! A drain takes as long as there is work, and no longer.

use std::time::Duration;

use gatehouse_tests::generations::load::{Crowd, Load};

use crate::house::House;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_work_drains_at_once() {
    let slots = ["auditor", "pusher/0", "edge", "admin"];
    let mut house = House::start(&slots, Some(&[0])).await;
    // They know each other, and have had something to do.
    let load = Load::start(&house.premises, Crowd { kept: 4, channels: 1, streams: 4, admin: 2, ..Crowd::default() });
    load.opened().await;
    load.go_on("events", 50).await;
    load.go_on("scrapes", 5).await;
    load.stop().await;
    for slot in slots.into_iter().rev() {
        let took = house.replace(slot).await;
        eprintln!("{slot} drained in {took:?}");
        assert!(took < Duration::from_millis(300), "{slot}: {took:?}");
    }
}
