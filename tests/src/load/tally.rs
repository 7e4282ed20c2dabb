//! What everybody saw, by phase and kind.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use uuid::Uuid;

use super::Fault;

/// The phase in which nothing is done to the suite.
pub const CALM: &str = "calm";
/// Until every stream is open; left out of every comparison.
const OPENING: &str = "opening";
/// Failures kept with their times; all are counted.
const KEPT: usize = 10_000;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A request on a kept connection, through the edge to a backend.
    Http,
    /// The same on a connection of its own.
    HttpAnew,
    /// A signed command; its answer's signature is checked.
    Command,
    /// An event, from its publication to the client.
    Event,
    /// From the end of a stream until it is open again.
    Resume,
    /// A scrape of the whole suite.
    Metrics,
    /// `/health/ready`.
    Readiness,
    /// The newest records of the trail, by the operators' socket.
    Trail,
    /// No operation: how late the load's own thread was. What is no longer than this says nothing of the suite.
    Lag,
}

impl Kind {
    /// Whether it is clients who do it, and not operators.
    #[must_use]
    pub const fn is_of_clients(self) -> bool {
        matches!(self, Self::Http | Self::HttpAnew | Self::Command | Self::Event | Self::Resume)
    }

    /// As a table names it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "HTTP kept",
            Self::HttpAnew => "HTTP anew",
            Self::Command => "commands",
            Self::Event => "events",
            Self::Resume => "resumes",
            Self::Metrics => "metrics",
            Self::Readiness => "readiness",
            Self::Trail => "trail",
            Self::Lag => "own lag",
        }
    }
}

/// Times of one kind in one phase.
#[derive(Clone, Debug)]
pub struct Latency {
    micros: Histogram<u64>,
    /// How often each fault came instead.
    pub faults: BTreeMap<Fault, u64>,
}

impl Latency {
    fn new() -> Self {
        // Microseconds up to a minute, three digits.
        Self { micros: Histogram::new_with_bounds(1, 60_000_000, 3).unwrap(), faults: BTreeMap::new() }
    }

    /// Operations that succeeded.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.micros.len()
    }

    /// Operations that did not.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Of those that succeeded.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.micros.value_at_quantile(quantile))
    }

    /// Of those that succeeded.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.micros.max())
    }
}

/// What happened to event streams and connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Ended as CONTRACT.md §1 has it for a process that stops, with the cursor of the last event delivered: they resume.
    pub moved: u64,
    /// Ended with their connection.
    pub cut: u64,
    /// Of those that moved or were cut, the ones that went straight to a pusher.
    pub direct: u64,
    /// Asked for and not opened, because the process that was asked stops: to be asked for again.
    pub turned_away: u64,
    /// Ended in any other way, or said nothing for twice the bookmark interval.
    pub ended: u64,
    /// Resumes that were told of a gap.
    pub gaps: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Numbers that came again, or event ids out of order.
    pub repeated: u64,
}

/// One phase.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// How long it lasted, all times together.
    pub took: Duration,
    /// What was done in it.
    pub kinds: BTreeMap<Kind, Latency>,
    /// Its event streams.
    pub streams: StreamCounts,
    /// Connects that were refused.
    pub refused: u64,
    /// Connections of clients that the other side reset, idle ones included.
    pub resets: u64,
    /// Requests that never left, because their connection had ended in good order: sent again on another, as every client library does.
    pub unsent: u64,
    /// Events that Redis did not take at the first try.
    pub unpublished: u64,
}

/// One operation that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In this phase.
    pub phase: String,
    /// Of this kind.
    pub kind: Kind,
    /// How.
    pub fault: Fault,
    /// When it began.
    pub begun: Instant,
    /// When it failed.
    pub ended: Instant,
    /// Since when its connection had been open; `None`: it had none.
    pub connected: Option<Instant>,
}

/// Shared by all tasks.
#[derive(Debug)]
pub(super) struct Tally {
    now: Mutex<Now>,
    /// Open streams, and how many there are.
    open: AtomicUsize,
    all: AtomicUsize,
}

#[derive(Debug)]
struct Now {
    current: usize,
    since: Instant,
    phases: Vec<Phase>,
    failures: Vec<Failure>,
    answered: Vec<Uuid>,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    kind: Kind,
    begun: Instant,
    phase: usize,
}

impl Tally {
    pub(super) fn new() -> Self {
        let now = Now { current: 0, since: Instant::now(), phases: vec![phase(CALM)], failures: Vec::new(), answered: Vec::new() };
        let tally = Self { now: Mutex::new(now), open: AtomicUsize::new(0), all: AtomicUsize::new(0) };
        tally.mark(OPENING);
        tally
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mark(&self, name: &str) {
        self.now().enter(name);
    }

    pub(super) fn begin(&self, kind: Kind) -> Op {
        Op { kind, begun: Instant::now(), phase: self.now().current }
    }

    pub(super) fn succeeded(&self, op: Op) {
        let mut now = self.now();
        let took = op.begun.elapsed();
        now.of(op.phase).record(op.kind, took);
    }

    pub(super) fn failed(&self, op: Op, fault: Fault, connected: Option<Instant>) {
        let mut now = self.now();
        let phase = now.of(op.phase);
        *phase.kinds.entry(op.kind).or_insert_with(Latency::new).faults.entry(fault.clone()).or_default() += 1;
        let failure = Failure { phase: phase.name.clone(), kind: op.kind, fault, begun: op.begun, ended: Instant::now(), connected };
        if now.failures.len() < KEPT {
            now.failures.push(failure);
        }
    }

    /// A time that was measured elsewhere, of an operation that began in that phase.
    pub(super) fn record(&self, kind: Kind, phase: usize, took: Duration) {
        self.now().of(phase).record(kind, took);
    }

    pub(super) fn phase(&self) -> usize {
        self.now().current
    }

    pub(super) fn command_answered(&self, op: Op, request_id: &str) {
        self.succeeded(op);
        self.now().answered.push(request_id.parse().expect("request ids of the load are UUIDs"));
    }

    pub(super) fn answered(&self) -> u64 {
        self.now().answered.len() as u64
    }

    /// Counts something of the present phase.
    pub(super) fn count(&self, count: impl FnOnce(&mut Phase)) {
        let mut now = self.now();
        let current = now.current;
        count(&mut now.phases[current]);
    }

    pub(super) fn one_more_stream(&self) {
        self.all.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream_opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream_ended(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn open_streams(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn all_streams_open(&self) -> bool {
        self.open_streams() == self.all.load(Ordering::Relaxed)
    }

    /// Everything so far: phases, failures, answered request ids.
    pub(super) fn seen(&self) -> (Vec<Phase>, Vec<Failure>, Vec<Uuid>) {
        let mut now = self.now();
        let name = now.phases[now.current].name.clone();
        now.enter(&name);
        let phases = now.phases.iter().filter(|phase| phase.name != OPENING || phase.is_disturbed()).cloned().collect();
        (phases, now.failures.clone(), now.answered.clone())
    }
}

impl Now {
    fn enter(&mut self, name: &str) {
        self.phases[self.current].took += self.since.elapsed();
        self.since = Instant::now();
        self.current = self.phases.iter().position(|known| known.name == name).unwrap_or_else(|| {
            self.phases.push(phase(name));
            self.phases.len() - 1
        });
    }

    /// The phase of an operation that began in `begun`: the one that is not calm, if it saw two.
    fn of(&mut self, begun: usize) -> &mut Phase {
        let phase = if begun == 0 { self.current } else { begun };
        &mut self.phases[phase]
    }
}

impl Phase {
    fn record(&mut self, kind: Kind, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.kinds.entry(kind).or_insert_with(Latency::new).micros.saturating_record(micros.max(1));
    }

    fn is_disturbed(&self) -> bool {
        self.refused + self.resets > 0 || self.streams != StreamCounts::default() || self.kinds.values().any(|kind| kind.failed() > 0)
    }

    /// Times of one kind, which may have none.
    #[must_use]
    pub fn kind(&self, kind: Kind) -> Latency {
        self.kinds.get(&kind).cloned().unwrap_or_else(Latency::new)
    }

    /// Adds another up to this one.
    pub fn add(&mut self, other: &Self) {
        self.took += other.took;
        for (kind, theirs) in &other.kinds {
            let ours = self.kinds.entry(*kind).or_insert_with(Latency::new);
            ours.micros.add(&theirs.micros).expect("all have the same bounds");
            for (fault, count) in &theirs.faults {
                *ours.faults.entry(fault.clone()).or_default() += count;
            }
        }
        let (sum, more) = (&mut self.streams, other.streams);
        sum.moved += more.moved;
        sum.cut += more.cut;
        sum.direct += more.direct;
        sum.turned_away += more.turned_away;
        sum.ended += more.ended;
        sum.gaps += more.gaps;
        sum.lost += more.lost;
        sum.repeated += more.repeated;
        self.refused += other.refused;
        self.resets += other.resets;
        self.unsent += other.unsent;
        self.unpublished += other.unpublished;
    }
}

pub(super) fn phase(name: &str) -> Phase {
    Phase {
        name: name.to_owned(),
        took: Duration::ZERO,
        kinds: BTreeMap::new(),
        streams: StreamCounts::default(),
        refused: 0,
        resets: 0,
        unsent: 0,
        unpublished: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_a_phase_that_is_not_calm_belongs_to_it() {
        let tally = Tally::new();
        tally.mark(CALM);
        let calm = tally.begin(Kind::Http);
        let before = tally.begin(Kind::Http);
        tally.succeeded(calm);
        tally.mark("restart");
        tally.succeeded(before);
        let during = tally.begin(Kind::Http);
        tally.mark(CALM);
        tally.failed(during, Fault::Reset, None);
        let (phases, failures, _) = tally.seen();
        let counts: Vec<_> = phases.iter().map(|phase| (phase.name.as_str(), phase.kind(Kind::Http))).collect();
        let counts: Vec<_> = counts.iter().map(|(name, http)| (*name, http.succeeded(), http.failed())).collect();
        assert_eq!(counts, [(CALM, 1, 0), ("restart", 1, 1)]);
        assert_eq!((failures.len(), failures[0].phase.as_str()), (1, "restart"));
    }

    #[test]
    fn a_phase_of_the_same_name_goes_on() {
        let tally = Tally::new();
        for _ in 0..3 {
            tally.mark("restart");
            tally.count(|phase| phase.resets += 1);
            tally.mark(CALM);
        }
        let (phases, ..) = tally.seen();
        let mut sum = phase("all");
        for phase in &phases {
            sum.add(phase);
        }
        assert_eq!((phases.len(), sum.resets), (2, 3));
    }
}
