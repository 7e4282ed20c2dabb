//! A suite under constant traffic, and the tables of what the traffic noticed.

use std::time::Duration;

use clap::Args;
use gatehouse_tests::{
    Builder, Load, Suite,
    load::{Backends, Kind, Phase, Sizes},
};

use crate::report::{Report, median};

/// A component must have been ready for so long that its next end counts as its first: it is the restart that is measured, not the back-off.
const STABLE: Duration = Duration::from_millis(100);

/// The traffic.
#[derive(Clone, Copy, Debug, Args)]
pub struct Traffic {
    /// HTTP connections that are kept alive
    #[arg(long, default_value_t = Sizes::FULL.http)]
    http: usize,
    /// Callers that send signed commands
    #[arg(long, default_value_t = Sizes::FULL.callers)]
    callers: usize,
    /// Event streams, every tenth of them straight to a pusher
    #[arg(long, default_value_t = Sizes::FULL.streams + Sizes::FULL.direct)]
    streams: usize,
    /// Operations of each connection and caller in a second
    #[arg(long, default_value_t = Sizes::FULL.pace)]
    pace: u32,
    /// Events in a second
    #[arg(long, default_value_t = Sizes::FULL.events)]
    events: u32,
    /// Scrapes, looks at the readiness and at the trail in a second
    #[arg(long, default_value_t = Sizes::FULL.operators)]
    operators: u32,
}

/// A suite and its load.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) suite: Suite,
    pub(crate) load: Load,
    backends: Backends,
}

impl Traffic {
    pub(crate) fn sizes(&self) -> Sizes {
        let direct = self.streams / 10;
        let Self { http, callers, pace, events, operators, .. } = *self;
        Sizes { http, callers, streams: self.streams - direct, direct, pace, events, operators, ..Sizes::FULL }
    }

    /// The same streams, all of them through the edge.
    pub(crate) fn through_the_edge(&self) -> Sizes {
        Sizes { streams: self.streams, direct: 0, ..self.sizes() }
    }

    pub(crate) fn title(&self) -> String {
        let Self { http, callers, streams, pace, events, .. } = self;
        format!("{http} HTTP connections and {callers} callers at {pace}/s each, {streams} event streams, {events} events/s")
    }
}

impl World {
    pub(crate) async fn start(sizes: Sizes, with: impl FnOnce(Builder) -> Builder) -> Self {
        let backends = Backends::start();
        let builder = backends.behind(Suite::builder()).env("LOG_LEVEL", "warn");
        let suite = with(builder.set("supervisor", "stable_after", format!("{}ms", STABLE.as_millis()))).start().await;
        let load = Load::start(&suite, sizes).await;
        Self { suite, load, backends }
    }

    /// Ends the load; the suite is there still, and what stands behind it.
    pub(crate) async fn stop(self) -> (Suite, gatehouse_tests::load::Report, Backends) {
        let seen = self.load.stop().await;
        (self.suite, seen, self.backends)
    }

    /// Traffic of some seconds with nothing done to the suite, to compare with.
    pub(crate) async fn calm(&self) {
        self.load.calm();
        tokio::time::sleep(STABLE * 3).await;
        self.load.streams_are_back().await;
    }
}

/// How long something took, each time.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<(String, Vec<f64>)>);

impl Times {
    pub(crate) fn add(&mut self, phase: &str, took: Duration) {
        let ms = took.as_secs_f64() * 1000.0;
        match self.0.iter_mut().find(|(name, _)| name == phase) {
            Some((_, times)) => times.push(ms),
            None => self.0.push((phase.to_owned(), vec![ms])),
        }
    }

    fn of(&self, phase: &str) -> [f64; 3] {
        let times = self.0.iter().find(|(name, _)| name == phase).map_or(&[][..], |(_, times)| times);
        [times.len() as f64, median(times.to_vec()), times.iter().copied().fold(f64::NAN, f64::max)]
    }
}

/// What was noticed, phase by phase; `took` says what its two times are.
pub(crate) fn noticed(title: String, seen: &gatehouse_tests::load::Report, times: &Times, took: [&'static str; 2]) -> Report {
    let columns = [
        "times",
        took[0],
        took[1],
        "refused",
        "reset",
        "failed HTTP",
        "failed commands",
        "failed resumes",
        "lost",
        "repeated",
        "moved",
        "turned away",
        "cut",
        "ended",
    ];
    let mut report = Report::new(title, &columns);
    for phase in seen.phases.iter().chain([&seen.sum()]) {
        let failed = |kinds: &[Kind]| kinds.iter().map(|kind| phase.kind(*kind).failed()).sum::<u64>();
        let [count, half, worst] = times.of(&phase.name);
        let streams = phase.streams;
        let counts = [
            phase.refused,
            phase.resets,
            failed(&[Kind::Http, Kind::HttpAnew, Kind::Readiness, Kind::Metrics]),
            failed(&[Kind::Command]),
            failed(&[Kind::Resume]),
            streams.lost,
            streams.repeated + streams.gaps,
            streams.moved,
            streams.turned_away,
            streams.cut,
            streams.ended,
        ];
        let figures: Vec<_> = [count, half, worst].into_iter().chain(counts.map(|count| count as f64)).collect();
        report.row(&phase.name, &figures);
    }
    report
}

/// The tail of each phase beside that of calm.
pub(crate) fn tails(seen: &gatehouse_tests::load::Report) -> Report {
    let mut report = Report::new("latencies in ms, side by side", &["operations", "p50", "p99", "p99.9", "max"]);
    for kind in [Kind::Http, Kind::HttpAnew, Kind::Command, Kind::Event, Kind::Resume, Kind::Trail, Kind::Lag] {
        for phase in &seen.phases {
            tail(&mut report, kind, phase);
        }
    }
    report
}

fn tail(report: &mut Report, kind: Kind, phase: &Phase) {
    let latency = phase.kind(kind);
    if latency.succeeded() == 0 {
        return;
    }
    let quantiles = [0.5, 0.99, 0.999].map(|quantile| latency.quantile(quantile)).into_iter().chain([latency.longest()]);
    let ms = quantiles.map(|time| time.as_secs_f64() * 1000.0);
    let figures: Vec<_> = [latency.succeeded() as f64].into_iter().chain(ms).collect();
    report.row(format!("{}, {}", kind.label(), phase.name), &figures);
}
