//! `kill -9` of each process in turn, under traffic: all is served again, the audit chain verifies, and no answered command is missing from it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use gatehouse_proto::gateway::v1::server_time::Resume;
use gatehouse_tests::{
    Device, Downstream, EventStream, Resp, Suite, Trail, servers,
    suite::publish,
    traffic::{Commands, Events, Seen, events_are_served},
    wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::Code;

struct World {
    suite: Suite,
    _downstream: Downstream,
    redis: Resp,
    devices: [Device; 4],
}

impl World {
    async fn start() -> Self {
        let downstream = Downstream::start();
        let suite =
            Suite::builder().downstream("orders", &downstream, &["demo.echo"]).set("push", "bookmark_interval", "500ms").start().await;
        let mut redis = suite.embedded_redis();
        let devices = [(); 4].map(|()| Device::registered(&mut redis));
        Self { suite, _downstream: downstream, redis, devices }
    }

    fn commands(&self) -> Commands {
        Commands::start(&self.suite, &self.devices, "demo.echo")
    }

    fn events(&self, user: &str) -> Events {
        let (state, run) = (self.suite.state_dir(), self.suite.runtime_dir());
        let connect = move || {
            let password = std::fs::read_to_string(state.join("redis.password"))?;
            Resp::unix(&run.join("redis.sock"), password.trim())
        };
        Events::start(connect, user)
    }

    /// Commands and events work, on new connections and with a new session.
    async fn all_is_served(&mut self) {
        self.suite.ready().await;
        self.redis = wait::eventually("Redis answers", async || self.suite.try_embedded_redis().ok()).await;
        let device = Device::registered(&mut self.redis);
        wait::eventually("a command is served", async || self.suite.execute(&device.command("demo.echo", "x")).await.ok()).await;
        let mut stream = wait::eventually("a stream opens", async || self.suite.subscribe(&device, "").await.ok()).await;
        events_are_served(&mut stream, &mut self.redis, &device.user).await;
    }

    /// Every answered command stands in the trail exactly once, and the chain verifies.
    async fn nothing_is_missing(&self, seen: &Seen) {
        let last = seen.answered.last().expect("some command was answered");
        Trail::record(&self.suite, last).await;
        let mut missing = Vec::new();
        let complete = wait::eventually_or_not(async || {
            let trail = Trail::read(&self.suite).await;
            let counts = trail.by_request();
            let twice: Vec<_> = seen.answered.iter().filter(|id| counts.get(id.as_str()).is_some_and(|&count| count != 1)).collect();
            assert!(twice.is_empty(), "recorded more than once: {twice:?}");
            missing = seen.answered.iter().filter(|id| !counts.contains_key(id.as_str())).collect();
            missing.is_empty().then_some(())
        })
        .await;
        let count = seen.answered.len();
        assert!(complete.is_some(), "{} of {count} answered commands are not in the trail: {missing:?}", missing.len());
        Trail::read(&self.suite).await.check(&self.suite).await;
    }
}

/// Waits until the stream has delivered the numbers up to `end`, each once and in order.
async fn numbers_up_to(stream: &mut EventStream, next: &mut usize, end: usize) {
    while *next < end {
        assert_eq!(stream.payload().await, next.to_string(), "neither gap nor repeat");
        *next += 1;
    }
}

/// The same where Redis was killed: a writer that was not answered writes again, another entry with the same number. How many did.
async fn numbers_with_repeats_up_to(stream: &mut EventStream, next: &mut usize, end: usize) -> usize {
    let mut repeated = 0;
    while *next < end {
        let number: usize = stream.payload().await.parse().unwrap();
        assert!(number == *next || number + 1 == *next, "{number} where {next} was due");
        repeated += usize::from(number != *next);
        *next = number + 1;
    }
    repeated
}

#[tokio::test]
async fn killing_the_embedded_redis_loses_neither_record_nor_event() {
    let mut world = World::start().await;
    let device = world.devices[0].clone();
    let mut stream = world.suite.subscribe(&device, "").await.unwrap();
    let (commands, events) = (world.commands(), world.events(&device.user));
    let (mut next, mut repeated) = (0, 0);
    for round in 1..=2 {
        repeated += numbers_with_repeats_up_to(&mut stream, &mut next, 20 * round).await;
        world.suite.kill9("redis").await;
        world.all_is_served().await;
    }
    let (seen, written) = (commands.stop().await, events.stop().await);
    for (code, message) in seen.refused.keys() {
        assert_eq!((Code::from(*code), message.as_str()), (Code::Unavailable, "session store is unavailable"));
    }
    assert_eq!(seen.silent, 0, "waits for Redis are bounded");
    world.nothing_is_missing(&seen).await;
    repeated += numbers_with_repeats_up_to(&mut stream, &mut next, written).await;
    assert!(repeated <= 2, "one for each kill at most, not {repeated}");
}

/// Nobody is there to take over until one is back.
#[tokio::test]
async fn an_open_stream_survives_the_death_of_both_pushers_at_once_without_gap_or_repeat() {
    let world = World::start().await;
    let device = world.devices[0].clone();
    let mut stream = world.suite.subscribe(&device, "").await.unwrap();
    let events = world.events(&device.user);
    let mut next = 0;
    for round in 1..=2 {
        numbers_up_to(&mut stream, &mut next, 20 * round).await;
        let pids = world.suite.pids().await;
        for pusher in ["pusher/0", "pusher/1"] {
            kill(Pid::from_raw(i32::try_from(pids[pusher]).unwrap()), Signal::SIGKILL).unwrap();
        }
        world.suite.ready().await;
    }
    let written = events.stop().await;
    numbers_up_to(&mut stream, &mut next, written).await;
    assert!(written > 40, "{written}");
}

/// Kills come faster than some of what they hit is back, in an order that is different in each run.
#[tokio::test]
async fn whatever_dies_and_in_whatever_order_nothing_answered_is_lost() {
    let mut world = World::start().await;
    let device = world.devices[0].clone();
    let mut stream = world.suite.subscribe(&device, "").await.unwrap();
    let (commands, events) = (world.commands(), world.events(&device.user));
    let mut next = stream.payload().await.parse::<usize>().unwrap() + 1;
    let cursor = stream.cursor.clone();
    drop(stream);
    let mut seed = [0; 12];
    getrandom::fill(&mut seed).unwrap();
    eprintln!("the order: {seed:?}");
    for byte in seed {
        let victims = ["edge", "pusher/0", "pusher/1", "auditor", "admin", "redis"];
        let victim = victims[usize::from(byte) % victims.len()];
        if let Some(pid) = world.suite.pids().await.get(victim) {
            kill(Pid::from_raw(i32::try_from(*pid).unwrap()), Signal::SIGKILL).unwrap();
        }
        // Traffic may stop for a moment, never for good.
        commands.go_on(10).await;
    }
    world.all_is_served().await;
    let (seen, written) = (commands.stop().await, events.stop().await);
    assert_eq!(seen.silent, 0, "{:?}", seen.refused);
    world.nothing_is_missing(&seen).await;
    // Every event is there for a client that was away all the time.
    let mut stream = world.suite.subscribe(&device, &cursor).await.unwrap();
    assert_eq!(stream.bootstrap.resume(), Resume::Complete);
    numbers_with_repeats_up_to(&mut stream, &mut next, written).await;
}

#[tokio::test]
async fn a_cursor_outlives_every_process() {
    let redis = servers::redis().await;
    let downstream = Downstream::start();
    let start = async || Suite::builder().redis(&redis).downstream("orders", &downstream, &["demo.echo"]).start().await;
    let mut writer = servers::client(&redis);
    let device = Device::registered(&mut writer);
    let suite = start().await;
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    publish(&mut writer, &device.user, None, "t", b"one");
    assert_eq!(stream.payload().await, "one");
    let cursor = stream.cursor.clone();
    // Everything dies at once, the supervisor too.
    drop((stream, suite));
    publish(&mut writer, &device.user, None, "t", b"two");
    let suite = start().await;
    let mut stream = suite.subscribe(&device, &cursor).await.unwrap();
    assert_eq!((stream.bootstrap.resume(), stream.payload().await.as_str()), (Resume::Complete, "two"));
}
