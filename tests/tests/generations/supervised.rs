//! The same under the real supervisor: operators ask on its control socket, and constant traffic goes through what they change.

use gatehouse_tests::{
    Device, Downstream, HttpBackend, Suite, Trail,
    generations::{
        Doors, change,
        load::{Crowd, Load, Seen},
        restart, scale,
    },
    wait,
};

const ROUNDS: usize = 5;
const CROWD: Crowd = Crowd { kept: 16, hasty: 2, channels: 4, plain: 4, streams: 40, direct: 10, admin: 4 };

/// A suite with what stands behind it.
struct House {
    suite: Suite,
    _behind: (Downstream, HttpBackend),
}

impl House {
    async fn start(pushers: u32) -> Self {
        let (downstream, backend) = (Downstream::start(), HttpBackend::start());
        let builder = Suite::builder().downstream("orders", &downstream, &["demo.echo"]).http_backend("shop", &backend, &["/shop"]);
        let suite = builder.set("suite", "pushers", pushers).set("push", "bookmark_interval", "500ms").start().await;
        Self { suite, _behind: (downstream, backend) }
    }

    async fn load(&self, crowd: Crowd) -> Load {
        let load = Load::start(Doors::of(&self.suite), crowd);
        load.opened().await;
        load
    }

    /// How many streams each pusher has.
    async fn streams(&self, pushers: u32) -> Vec<usize> {
        let metrics = self.suite.metrics().await;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let of = |instance: u32| metrics.sum("push_streams", &[("component", "pusher"), ("instance", &instance.to_string())]) as usize;
        (0..pushers).map(of).collect()
    }

    /// Every command that was answered stands in the trail once, the chain is whole, and each row was printed once.
    async fn trail_is_whole(&self, seen: &Seen) {
        let answered = seen.of("commands") + seen.of("commands of plain clients");
        let trail = wait::eventually("every command is in the trail", async || {
            let trail = Trail::read(&self.suite).await;
            (commands(&trail).len() >= answered).then_some(trail)
        })
        .await;
        let mut ids = commands(&trail);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), commands(&trail).len()), (answered, answered), "distinct commands and their rows in the trail");
        trail.check(&self.suite).await;
        // What is recorded meanwhile, is printed, too: only what was read is looked for.
        let rows = i64::try_from(trail.0.len()).unwrap();
        wait::eventually("each row is a line", async || (self.printed(rows).len() >= trail.0.len()).then_some(())).await;
        assert_eq!(self.printed(rows), (1..=rows).collect::<Vec<_>>(), "each row is a line once");
    }

    /// The numbers of the rows up to that one, as printed.
    fn printed(&self, rows: i64) -> Vec<i64> {
        let printed = self.suite.stdout.all();
        let lines = printed.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut seqs: Vec<_> = lines.filter_map(|line| line["seq"].as_i64()).filter(|&seq| seq <= rows).collect();
        seqs.sort_unstable();
        seqs
    }
}

/// The request ids of the commands that succeeded.
fn commands(trail: &Trail) -> Vec<&str> {
    let records = trail.0.iter().filter_map(|row| row.record.as_ref());
    records
        .filter(|record| record.action_type == "command" && record.status == "success")
        .filter_map(|record| record.request_id.as_deref())
        .collect()
}

/// Restarts that component again and again under everything that clients do.
async fn restarting_is_not_noticed(component: &str) -> (House, std::sync::Arc<Seen>) {
    let house = House::start(2).await;
    let load = house.load(CROWD).await;
    let mut verdicts = Vec::new();
    for _ in 0..ROUNDS {
        for what in ["requests", "commands", "events"] {
            load.go_on(what, 50).await;
        }
        load.streams_are_back().await;
        verdicts.push(change(&house.suite, restart(component)).await);
    }
    let seen = load.stop().await;
    for verdict in verdicts {
        let steps: Vec<_> = verdict.steps.iter().map(|step| step.message.as_str()).collect();
        eprintln!("{} in {} ms: {}", verdict.what, verdict.took_ms, steps.join("; "));
    }
    eprintln!("{seen}");
    assert_eq!(seen.failures().len(), 0, "{seen}");
    house.trail_is_whole(&seen).await;
    (house, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_the_edge_costs_no_request_no_command_and_no_event() {
    let (_house, seen) = restarting_is_not_noticed("edge").await;
    assert!(seen.of("commands that a plain client never sent") <= ROUNDS * CROWD.plain / 10, "{seen}");
    assert!(seen.of("streams on grpc told to come back") >= CROWD.streams * ROUNDS, "{seen}");
    assert_eq!(seen.of("streams on push told to come back"), 0, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_the_pushers_is_noticed_by_direct_clients_alone() {
    let (_house, seen) = restarting_is_not_noticed("pusher").await;
    assert_eq!(seen.of("streams on grpc told to come back"), 0, "{seen}");
    assert!(seen.of("streams on push told to come back") >= CROWD.direct * ROUNDS, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_the_auditor_or_the_admin_process_is_noticed_by_nobody() {
    for component in ["auditor", "admin"] {
        let (_house, seen) = restarting_is_not_noticed(component).await;
        let told = seen.of("streams on grpc told to come back") + seen.of("streams on push told to come back");
        assert_eq!(told, 0, "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_from_two_to_four_to_one_ends_no_stream() {
    let house = House::start(2).await;
    let load = house.load(Crowd { direct: 0, ..CROWD }).await;
    load.go_on("events", 400).await;
    change(&house.suite, scale(4)).await;
    // Edges know of them already: of so many new streams each pusher gets some.
    let (mut redis, mut more) = (house.suite.embedded_redis(), Vec::new());
    for _ in 0..60 {
        more.push(house.suite.subscribe(&Device::registered(&mut redis), "").await.unwrap());
    }
    let streams = house.streams(4).await;
    assert!(streams.iter().sum::<usize>() == 100 && streams[2..].iter().all(|&streams| streams > 0), "{streams:?}");
    load.go_on("events", 400).await;
    let verdict = change(&house.suite, scale(1)).await;
    assert_eq!(verdict.steps.len(), 3, "{verdict:?}");
    wait::eventually("all are with the one that is left", async || (house.streams(4).await == [100, 0, 0, 0]).then_some(())).await;
    load.go_on("events", 400).await;
    let metrics = house.suite.metrics().await;
    let attaches = |outcome| metrics.sum("relay_attaches_total", &[("outcome", outcome)]);
    assert!(
        attaches("moved") > 0.5 && attaches("failed") * 10.0 <= attaches("moved") && attaches("refused") < 0.5,
        "{:?}",
        ["moved", "failed", "refused"].map(attaches)
    );
    drop(more);
    let seen = load.stop().await;
    eprintln!("{seen}");
    assert_eq!((seen.failures().len(), seen.of("streams on grpc told to come back")), (0, 0), "{seen}");
    house.trail_is_whole(&seen).await;
}
