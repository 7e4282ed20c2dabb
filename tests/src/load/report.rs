//! What the load saw, to be judged and to be read.

use std::{
    collections::HashMap,
    fmt,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use gatehouse_proto::internal::v1::ListAuditRequest;
use uuid::Uuid;

use super::{
    CALM, Failure, Kind, Phase,
    tally::{Tally, phase},
};
use crate::{Suite, wait};

/// Everything that was seen from start to stop.
#[derive(Clone, Debug)]
pub struct Report {
    /// By phase, in the order in which they began.
    pub phases: Vec<Phase>,
    /// The failures one by one, the first ten thousand.
    pub failures: Vec<Failure>,
    /// The request ids of all answered commands.
    pub answered: Vec<Uuid>,
}

impl Report {
    pub(super) fn new(tally: &Tally) -> Self {
        let (phases, failures, answered) = tally.seen();
        Self { phases, failures, answered }
    }

    /// All phases as one.
    #[must_use]
    pub fn sum(&self) -> Phase {
        self.phases.iter().fold(phase("all"), |mut sum, one| {
            sum.add(one);
            sum
        })
    }

    /// One phase; empty if it never began.
    #[must_use]
    pub fn phase(&self, name: &str) -> Phase {
        self.phases.iter().find(|phase| phase.name == name).cloned().unwrap_or_else(|| phase(name))
    }

    /// Nothing refused, reset, failed, lost or repeated, and no stream ended but by moving. Streams of a process that stops do move: their clients are told so
    /// and miss nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let sum = self.sum();
        self.failures.is_empty() && sum.refused + sum.resets == 0 && self.lost_nothing() && sum.streams.cut + sum.streams.ended == 0
    }

    /// Not even a stream moved: nobody outside could tell that anything happened.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.is_clean() && self.sum().streams.moved + self.sum().streams.turned_away == 0
    }

    /// Every stream saw every number once and in order.
    #[must_use]
    pub fn lost_nothing(&self) -> bool {
        let streams = self.sum().streams;
        streams.lost + streams.repeated + streams.gaps == 0
    }

    /// Fails the test unless [`Report::is_clean`].
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "the traffic noticed something:\n{self}");
        self.assert_busy();
    }

    /// Fails the test unless [`Report::is_untouched`].
    pub fn assert_untouched(&self) {
        assert!(self.is_untouched(), "the traffic noticed something:\n{self}");
        self.assert_busy();
    }

    /// Fails the test unless [`Report::lost_nothing`].
    pub fn assert_nothing_lost(&self) {
        assert!(self.lost_nothing(), "events were lost or repeated:\n{self}");
        self.assert_busy();
    }

    /// A load that did nothing has noticed nothing.
    fn assert_busy(&self) {
        let sum = self.sum();
        for kind in [Kind::Http, Kind::HttpAnew, Kind::Command, Kind::Event] {
            assert!(sum.kind(kind).succeeded() > 0, "no {} at all:\n{self}", kind.label());
        }
    }

    /// The failures that clients saw, operators left out.
    #[must_use]
    pub fn of_clients(&self) -> Vec<&Failure> {
        self.failures.iter().filter(|failure| failure.kind.is_of_clients()).collect()
    }

    /// The clients' failures that are not those of requests inside a process killed within one of those times: on a connection that was open by then, ended after it.
    /// Operators speak to the processes themselves, and may find one away.
    #[must_use]
    pub fn outside(&self, kills: &[RangeInclusive<Instant>]) -> Vec<&Failure> {
        let inside = |failure: &Failure| {
            let open = |kill: &RangeInclusive<Instant>| {
                failure.connected.is_some_and(|connected| connected <= *kill.end()) && *kill.start() <= failure.ended
            };
            failure.fault.is_cut_off() && kills.iter().any(open)
        };
        self.of_clients().into_iter().filter(|failure| !inside(failure)).collect()
    }

    /// Fails the test unless every answered command stands in the trail exactly once, and `gatehouse admin audit verify` finds the chain intact.
    pub async fn assert_audited(&self, suite: &Suite) {
        let (mut missing, mut twice) = (0, 0);
        let complete = wait::eventually_or_not(async || {
            let trail = requests(suite).await?;
            let counts = self.answered.iter().map(|id| trail.get(id).copied().unwrap_or(0));
            (missing, twice) = counts.fold((0, 0), |(none, many), count| (none + usize::from(count == 0), many + usize::from(count > 1)));
            (missing == 0).then_some(())
        })
        .await;
        let all = self.answered.len();
        assert!(
            all > 0 && complete.is_some() && twice == 0,
            "of {all} answered commands {missing} are not in the trail, {twice} more than once"
        );
        let verified =
            wait::bounded("the trail is verified", suite.gatehouse(&["admin", "audit", "verify", "--json"]).output()).await.unwrap();
        let text = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success() && text.contains("\"intact\":true"), "{text}{}", String::from_utf8_lossy(&verified.stderr));
    }
}

/// How often each request id stands in the trail; `None` while it cannot be read.
async fn requests(suite: &Suite) -> Option<HashMap<Uuid, u32>> {
    let mut counts = HashMap::new();
    let (mut admin, mut before_seq) = (suite.admin(), 0);
    loop {
        let request = ListAuditRequest { limit: 1000, before_seq, ..ListAuditRequest::default() };
        let page = admin.list_audit(request).await.ok()?.into_inner().records;
        let Some(oldest) = page.last() else { return Some(counts) };
        before_seq = oldest.seq;
        for id in page.into_iter().filter_map(|row| row.record?.request_id?.parse().ok()) {
            *counts.entry(id).or_default() += 1;
        }
        if before_seq <= 1 {
            return Some(counts);
        }
    }
}

const SHOWN: usize = 20;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in &self.phases {
            phase.fmt(f)?;
        }
        for failure in self.failures.iter().take(SHOWN) {
            let age = failure.connected.map(|connected| failure.ended.duration_since(connected));
            let took = failure.ended.duration_since(failure.begun);
            writeln!(
                f,
                "  {} in {:?}: {}, after {took:.1?}, connection open for {age:.1?}",
                failure.kind.label(),
                failure.phase,
                failure.fault
            )?;
        }
        if self.failures.len() > SHOWN {
            writeln!(f, "  and {} more failures", self.failures.len() - SHOWN)?;
        }
        Ok(())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name == CALM { "(calm)" } else { &self.name };
        let super::StreamCounts { moved, cut, direct, turned_away, ended, gaps, lost, repeated } = self.streams;
        writeln!(f, "{name}, {:.1?}: refused {}, reset {}, unsent {}", self.took, self.refused, self.resets, self.unsent)?;
        writeln!(f, "  streams: moved {moved}, cut {cut} ({direct} direct), turned away {turned_away}, ended {ended}")?;
        writeln!(f, "  events: lost {lost}, repeated {repeated}, gaps {gaps}")?;
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        for (kind, latency) in &self.kinds {
            let [half, most, nearly, longest] =
                [latency.quantile(0.5), latency.quantile(0.99), latency.quantile(0.999), latency.longest()].map(ms);
            write!(f, "  {:<10} {:>8} ok, {:>5} failed", kind.label(), latency.succeeded(), latency.failed())?;
            writeln!(f, "; ms: p50 {half:.1}, p99 {most:.1}, p99.9 {nearly:.1}, max {longest:.1}")?;
            for (fault, count) in &latency.faults {
                writeln!(f, "    {count} × {fault}")?;
            }
        }
        Ok(())
    }
}
