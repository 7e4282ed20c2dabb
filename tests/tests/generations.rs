//! Planned replacement and scaling of each component under constant traffic: nobody outside can tell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use gatehouse_tests::{
    Downstream, HttpBackend,
    generations::{
        Generation, Premises, Supervisor,
        load::{Crowd, Load},
    },
};

/// Replacements of each kind.
const ROUNDS: usize = 10;

struct House {
    premises: Premises,
    supervisor: Option<Supervisor>,
    processes: Vec<Generation>,
    _behind: (Downstream, HttpBackend),
}

impl House {
    async fn start(slots: &[&str], pushers: Option<&[u32]>) -> Self {
        let (downstream, backend) = (Downstream::start(), HttpBackend::start());
        let settings = |builder: gatehouse_tests::Builder| {
            let builder = builder.downstream("orders", &downstream, &["demo.echo"]).http_backend("shop", &backend, &["/shop"]);
            builder.set("push", "bookmark_interval", "500ms")
        };
        let premises = Premises::open(settings).await;
        let supervisor = pushers.map(|pushers| Supervisor::start(&premises, pushers));
        let mut processes = Vec::new();
        for slot in slots {
            processes.push(premises.start_ready(slot).await);
        }
        Self { premises, supervisor, processes, _behind: (downstream, backend) }
    }

    async fn replace(&mut self, slot: &str) -> Duration {
        let process = self.processes.iter_mut().find(|process| process.slot == slot).unwrap();
        self.premises.replace(process).await
    }
}

fn summary(what: &str, took: &mut [Duration]) -> String {
    took.sort_unstable();
    format!("{what}: {} drains, median {:?}, longest {:?}", took.len(), took[took.len() / 2], took[took.len() - 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_the_edge_costs_no_request_no_command_and_no_event() {
    let mut house = House::start(&["auditor", "pusher/0", "pusher/1", "edge"], Some(&[0, 1])).await;
    let load = Load::start(&house.premises, Crowd { kept: 16, hasty: 2, channels: 4, plain: 4, streams: 40, direct: 0 });
    load.opened().await;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        load.go_on("requests", 100).await;
        load.go_on("commands", 100).await;
        took.push(house.replace("edge").await);
    }
    let seen = load.stop().await;
    eprintln!("{}\n{seen}", summary("edge", &mut took));
    assert_eq!(seen.failures().len(), 0, "{seen}");
    assert!(seen.of("streams on grpc told to come back") >= 40 * ROUNDS, "{seen}");
}
