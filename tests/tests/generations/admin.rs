//! The admin process.

use gatehouse_tests::{
    generations::load::{Crowd, Load},
    http,
};

use crate::house::{House, ROUNDS, summary};

#[tokio::test(flavor = "multi_thread")]
async fn replacing_anybody_fails_no_scrape_and_doubles_no_series() {
    let mut house = House::start(&["auditor", "pusher/0", "pusher/1", "edge", "admin"], Some(&[0, 1])).await;
    let load = Load::start(&house.premises, Crowd { kept: 2, channels: 1, streams: 10, admin: 6, ..Crowd::default() });
    load.opened().await;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        load.go_on("scrapes", 10).await;
        took.push(house.replace("admin").await);
        let other = ["edge", "pusher/1", "auditor"][round % 3];
        house.replace(other).await;
    }
    let seen = load.stop().await;
    eprintln!("{}\n{seen}", summary("admin", &mut took));
    assert_eq!(seen.failures().len(), 0, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_asks_exactly_the_members() {
    let house = House::start(&["auditor", "pusher/0", "pusher/1", "edge", "admin"], Some(&[1])).await;
    let instances = async || {
        let text = http::get(house.premises.address("admin"), "/metrics").await.body;
        let samples = gatehouse_tests::Samples::parse(&text);
        let of = |component: &str| {
            let found = samples.0.iter().filter(|sample| sample.name == "process_open_fds" && sample.labels["component"] == component);
            let mut instances: Vec<_> = found.map(|sample| sample.labels["instance"].clone()).collect();
            instances.sort();
            instances
        };
        (of("pusher"), of("edge"), of("auditor"), of("admin"))
    };
    let one = |name: &str| vec![name.to_owned()];
    assert_eq!(instances().await, (one("1"), one("0"), one("0"), one("0")));
    house.supervisor.as_ref().unwrap().name(&[0, 1]);
    gatehouse_tests::wait::eventually("the new one is scraped", async || (instances().await.0 == ["0", "1"]).then_some(())).await;
}
