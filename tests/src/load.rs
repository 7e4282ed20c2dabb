//! Constant traffic, and everything that must not be noticed in it.
//!
//! ```text
//!  load thread: HTTP callers ── keep-alive and anew ──▶ http  ┐           ┌─▶ HTTP backend
//!               callers ── signed commands, few lines ▶ grpc  ├─ suite ───┤                   (a thread of their own)
//!               streams ── resume by their cursor ────▶ grpc, │           └─▶ command backend
//!                                                       push  │
//!               operators ── metrics, trail, readiness ▶ …    ┘
//!  publisher thread: numbered events ──▶ Redis
//! ```
//!
//! Every operation is timed and, when it fails, classified by what a client can tell ([`Fault`]). [`Load::mark`] begins a phase, so that the tail during a restart
//! is compared with the tail beside it, in one run. Nothing retries a request that may have been executed; a stream resumes by the last event that it saw, as
//! CONTRACT.md §1 says, and every number published to its user must arrive once and in order.
//!
//! It shares the machine with what it measures, so it is paced, and everything costs little: own connections instead of a client library's, one verification for
//! an event however many streams get the same bytes.

mod backends;
mod commands;
mod events;
mod fault;
mod line;
mod operators;
mod publisher;
mod report;
mod tally;
mod tap;
mod web;

use std::{
    fmt, io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    runtime::Builder,
    sync::watch,
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval_at, sleep_until},
};

use crate::{Device, Resp, Suite, wait};
pub use backends::Backends;
pub use fault::Fault;
pub use report::Report;
pub use tally::{CALM, Failure, Kind, Latency, Phase, StreamCounts};

use line::Line;
use publisher::Publisher;
use tally::Tally;

/// An operation that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at the clock.
const CLOCK: Duration = Duration::from_millis(20);

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// HTTP connections that are kept alive.
    pub http: usize,
    /// HTTP callers that connect anew for each request.
    pub http_anew: usize,
    /// Callers that send signed commands.
    pub callers: usize,
    /// HTTP/2 connections that they share.
    pub lines: usize,
    /// Event streams through the edge.
    pub streams: usize,
    /// Event streams straight to the pushers.
    pub direct: usize,
    /// Streams on each HTTP/2 connection.
    pub streams_a_line: usize,
    /// Users whom the streams belong to.
    pub users: usize,
    /// Each caller's operations in a second.
    pub pace: u32,
    /// Events in a second, to one user after the other.
    pub events: u32,
    /// Each operator's questions in a second.
    pub operators: u32,
}

impl Sizes {
    /// For the tests, which run unoptimised and beside each other.
    pub const SMALL: Self = Self {
        http: 16,
        http_anew: 2,
        callers: 16,
        lines: 4,
        streams: 80,
        direct: 20,
        streams_a_line: 20,
        users: 10,
        pace: 5,
        events: 20,
        operators: 4,
    };
    /// The claim: 64 HTTP connections, 64 gRPC callers, 1,000 event streams.
    pub const FULL: Self = Self {
        http: 64,
        http_anew: 4,
        callers: 64,
        lines: 8,
        streams: 900,
        direct: 100,
        streams_a_line: 50,
        users: 40,
        pace: 10,
        events: 20,
        operators: 4,
    };
}

/// Opens connections to the Redis that the suite stands on, as a foreign writer.
#[derive(Clone)]
pub struct RedisDoor(Arc<dyn Fn() -> io::Result<Resp> + Send + Sync>);

impl RedisDoor {
    /// By that function.
    #[must_use]
    pub fn new(open: impl Fn() -> io::Result<Resp> + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    /// The embedded one of a suite, whichever process it is just now.
    #[must_use]
    pub fn embedded(suite: &Suite) -> Self {
        let (password, socket) = (suite.state_dir().join("redis.password"), suite.runtime_dir().join("redis.sock"));
        Self::new(move || Resp::unix(&socket, std::fs::read_to_string(&password)?.trim()))
    }

    fn open(&self) -> io::Result<Resp> {
        (self.0)()
    }
}

impl fmt::Debug for RedisDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisDoor")
    }
}

/// Traffic that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Tally>,
    stop: watch::Sender<Stage>,
    publisher: Publisher,
    thread: JoinHandle<()>,
}

/// What the tasks are told.
#[derive(Clone, Debug)]
enum Stage {
    /// Only streams are opened.
    Open,
    Run,
    /// Callers end after their operation; streams when they have all that was published to their user.
    Finish(Arc<[u64]>),
}

impl Load {
    /// Starts, on a suite with [`Backends::behind`] and the embedded Redis; returns when every stream is open.
    pub async fn start(suite: &Suite, sizes: Sizes) -> Self {
        Self::start_with(suite, sizes, RedisDoor::embedded(suite)).await
    }

    /// The same on another Redis.
    pub async fn start_with(suite: &Suite, sizes: Sizes, redis: RedisDoor) -> Self {
        let tally = Arc::new(Tally::new());
        let (stop, told) = watch::channel(Stage::Open);
        let plan = Plan::new(suite, sizes, &redis, &tally, &told);
        let users = plan.users.clone();
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(plan.run());
        });
        let thread = thread.unwrap();
        let wanted = sizes.streams + sizes.direct;
        wait::within(PATIENCE * 6, "every stream is open", async || (tally.open_streams() == wanted).then_some(())).await;
        // Whoever is open now sees number 0 first.
        let publisher = Publisher::start(redis, users, sizes.events, Arc::clone(&tally));
        tally.mark(CALM);
        stop.send_replace(Stage::Run);
        Self { tally, stop, publisher, thread }
    }

    /// What happens from now on belongs to the phase of that name, which may have been there before.
    pub fn mark(&self, phase: &str) {
        self.tally.mark(phase);
    }

    /// Nothing is done to the suite from now on: back to [`CALM`].
    pub fn calm(&self) {
        self.tally.mark(CALM);
    }

    /// Waits until so many more commands have been answered.
    pub async fn go_on(&self, more: u64) {
        let goal = self.tally.answered() + more;
        wait::eventually("commands are answered", async || (self.tally.answered() >= goal).then_some(())).await;
    }

    /// Waits until every stream is attached, as after a restart that moved some.
    pub async fn streams_are_back(&self) {
        wait::eventually("every stream is open again", async || self.tally.all_streams_open().then_some(())).await;
    }

    /// Lets every operation end and every stream catch up; what all of them saw.
    pub async fn stop(self) -> Report {
        let Self { tally, stop, publisher, thread } = self;
        // Blocks for one write at most.
        let published = tokio::task::spawn_blocking(|| publisher.stop()).await.unwrap();
        stop.send_replace(Stage::Finish(published.into()));
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap().expect("no task of the load panics");
        Report::new(&tally)
    }
}

/// What runs on the load's thread.
struct Plan {
    users: Vec<String>,
    web: Vec<web::Caller>,
    commands: Vec<commands::Caller>,
    streams: Vec<events::Stream>,
    operators: operators::Operators,
    tally: Arc<Tally>,
    told: watch::Receiver<Stage>,
}

impl Plan {
    fn new(suite: &Suite, sizes: Sizes, redis: &RedisDoor, tally: &Arc<Tally>, told: &watch::Receiver<Stage>) -> Self {
        let mut writer = redis.open().expect("connect to Redis");
        let users: Vec<_> = (0..sizes.users).map(|_| Device::new().user).collect();
        let grpc = suite.address("grpc");
        let lines: Vec<_> = (0..sizes.lines).map(|_| Line::new(grpc, Arc::clone(tally))).collect();
        let caller = |i: usize, device| {
            let pace = Pace::new(sizes.pace, i, sizes.callers);
            commands::Caller::new(lines[i % lines.len()].clone(), suite.key.clone(), device, pace, Arc::clone(tally), told.clone())
        };
        let commands = (0..sizes.callers).map(|i| caller(i, Device::registered(&mut writer))).collect();
        let http = |i: usize, anew| {
            let pace = Pace::new(sizes.pace, i, sizes.http);
            web::Caller::new(suite.address("http"), web::LOAD, if anew { Kind::HttpAnew } else { Kind::Http }, pace, tally, told)
        };
        let mut web: Vec<_> = (0..sizes.http + sizes.http_anew).map(|i| http(i, i >= sizes.http)).collect();
        let operators = operators::Operators::new(suite, Pace::new(sizes.operators, 0, 1), Arc::clone(tally), told.clone());
        web.extend(operators.web(tally, told));
        let verified = Arc::new(events::Verified::new(suite.key.clone()));
        let mut streams = Vec::new();
        // Each connection to the pushers is one pusher's: some more of them, so that every pusher has some.
        for (count, listener, on_a_line) in
            [(sizes.streams, "grpc", sizes.streams_a_line), (sizes.direct, "push", sizes.streams_a_line / 10)]
        {
            let address = suite.address(listener);
            for i in 0..count {
                let line = match streams.last() {
                    Some(last) if i % on_a_line.max(1) != 0 => events::Stream::line(last),
                    _ => Line::new(address, Arc::clone(tally)),
                };
                let user = streams.len() % users.len();
                let device = Device::of(&users[user]);
                device.register(&mut writer);
                streams.push(events::Stream::new(
                    line,
                    device,
                    (user, listener == "push"),
                    Arc::clone(&verified),
                    Arc::clone(tally),
                    told.clone(),
                ));
            }
        }
        Self { users, web, commands, streams, operators, tally: Arc::clone(tally), told: told.clone() }
    }

    async fn run(self) {
        let mut tasks = JoinSet::new();
        for caller in self.web {
            tasks.spawn(caller.run());
        }
        for caller in self.commands {
            tasks.spawn(caller.run());
        }
        for stream in self.streams {
            tasks.spawn(stream.run());
        }
        tasks.spawn(self.operators.read_the_trail());
        tasks.spawn(watch_the_clock(self.tally, self.told));
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no task of the load panics");
        }
    }
}

/// Times that are measured on a thread with too much to do are its own.
async fn watch_the_clock(tally: Arc<Tally>, mut told: watch::Receiver<Stage>) {
    begins(&mut told).await;
    while goes_on(&told) {
        let (phase, due) = (tally.phase(), tokio::time::Instant::now() + CLOCK);
        sleep_until(due).await;
        tally.record(Kind::Lag, phase, due.elapsed());
    }
}

/// When a caller's next operation is due: all callers of a kind are spread evenly over a period.
#[derive(Clone, Copy, Debug)]
struct Pace {
    period: Duration,
    begin: Duration,
}

impl Pace {
    fn new(per_second: u32, i: usize, of: usize) -> Self {
        let period = Duration::from_secs(1) / per_second;
        let (i, of) = (u32::try_from(i % of.max(1)).unwrap(), u32::try_from(of.max(1)).unwrap());
        Self { period, begin: period * i / of }
    }

    fn ticks(self) -> Interval {
        let mut ticks = interval_at(tokio::time::Instant::now() + self.begin, self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}

/// Callers begin when all streams are open: what that costs says nothing of the suite.
async fn begins(told: &mut watch::Receiver<Stage>) {
    // It is told as long as the load lives.
    let _told = told.wait_for(|stage| !matches!(stage, Stage::Open)).await;
}

fn goes_on(told: &watch::Receiver<Stage>) -> bool {
    matches!(*told.borrow(), Stage::Run)
}

/// Tells a thread to end by being dropped.
type Stop = mpsc::Sender<()>;
