//! What happens on one connection, as all who watch over it see it: its socket, its requests and their answers.
//!
//! Written by whoever reads, writes and answers, some of them in tasks of their own; read by the [`vigil`](super::vigil), which ends a connection that makes
//! no progress, and by the [`farewell`](super::farewell).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Version;
use tokio::{sync::Notify, time::Instant};

use super::farewell::Notice;

/// A request that its client takes back sooner than this has cost more than it was meant to give.
const PREMATURE: Duration = Duration::from_secs(1);
/// So many of those are borne, and then as many as requests that were not taken back (CVE-2023-44487; Envoy's rule).
const PREMATURE_BORNE: u32 = 200;

/// One connection's.
#[derive(Debug)]
pub(super) struct Traffic {
    notice: Notice,
    clock: fn() -> Instant,
    begun: Instant,
    /// Requests whose answers have not ended.
    open: AtomicUsize,
    /// Of those, answers of which a part was handed over and the next was not asked for.
    delivering: AtomicUsize,
    is_http2: AtomicBool,
    pub(super) changed: Notify,
    /// Since when a request's head is awaited or being read.
    head: Since,
    /// Since when the client takes nothing of what is written.
    blocked: Since,
    /// When the last answer ended.
    quiet: AtomicU64,
    /// When an answer last went on.
    moved: AtomicU64,
    requests: AtomicU32,
    taken_back: AtomicU32,
    /// Parts of answers, for each of which the client may well send a frame of its own.
    parts: AtomicU64,
    hostile: AtomicBool,
}

/// Milliseconds since the connection's begin, and one more; zero if there is nothing to measure.
#[derive(Debug, Default)]
struct Since(AtomicU64);

impl Since {
    fn begin(&self, now: u64) {
        if self.0.load(Ordering::Relaxed) == 0 {
            self.0.store(now + 1, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// How a connection is; times in milliseconds since its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Since when a head is awaited: the first since the connection was accepted, a later one of HTTP/1 since its first byte.
    pub(super) head: Option<u64>,
    /// Since when no request is open and none begun.
    pub(super) idle: Option<u64>,
    /// Since when the client takes nothing, although there is something for it.
    pub(super) stalled: Option<u64>,
}

impl Traffic {
    /// Of a connection that was accepted just now.
    pub(super) fn new() -> Arc<Self> {
        Self::by(Instant::now)
    }

    fn by(clock: fn() -> Instant) -> Arc<Self> {
        Arc::new(Self {
            notice: Notice::default(),
            clock,
            begun: clock(),
            open: AtomicUsize::default(),
            delivering: AtomicUsize::default(),
            is_http2: AtomicBool::default(),
            changed: Notify::default(),
            head: Since(AtomicU64::new(1)),
            blocked: Since::default(),
            quiet: AtomicU64::default(),
            moved: AtomicU64::default(),
            requests: AtomicU32::default(),
            taken_back: AtomicU32::default(),
            parts: AtomicU64::default(),
            hostile: AtomicBool::default(),
        })
    }

    pub(super) const fn notice(&self) -> &Notice {
        &self.notice
    }

    pub(super) const fn begun(&self) -> Instant {
        self.begun
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn now(&self) -> u64 {
        u64::try_from((self.clock)().duration_since(self.begun).as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Bytes came.
    pub(super) fn heard(&self) {
        if !self.is_http2() && self.open.load(Ordering::Relaxed) == 0 && self.head.get().is_none() {
            self.head.begin(self.now());
        }
    }

    /// Whether what was to be written was taken.
    pub(super) fn wrote(&self, taken: bool) {
        if taken {
            self.blocked.end();
        } else {
            self.blocked.begin(self.now());
        }
    }

    /// How many requests there were, and parts of answers that were handed over.
    pub(super) fn parts(&self) -> u64 {
        u64::from(self.requests.load(Ordering::Relaxed)) + self.parts.load(Ordering::Relaxed)
    }

    /// It does what no client needs to do; nothing more is read from it.
    pub(super) fn condemn(&self) {
        self.hostile.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_hostile(&self) -> bool {
        self.hostile.load(Ordering::Relaxed)
    }

    /// How it is.
    pub(super) fn look(&self) -> Look {
        let (open, head) = (self.open.load(Ordering::SeqCst), self.head.get());
        let idle = (open == 0 && head.is_none()).then(|| self.quiet.load(Ordering::Relaxed));
        // One answer that goes on, or that its service still works at, is enough.
        let undelivered = open > 0 && self.delivering.load(Ordering::Relaxed) >= open;
        let stalled = self.blocked.get().or_else(|| undelivered.then(|| self.moved.load(Ordering::Relaxed)));
        Look { head, idle, stalled }
    }

    /// One more request, until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Open {
        self.head.end();
        self.open.fetch_add(1, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.is_http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        self.tell();
        Open { traffic: Arc::clone(self), begun: self.now(), delivering: false, whole: false }
    }

    fn tell(&self) {
        if self.notice.is_given() {
            self.changed.notify_one();
        }
    }

    fn take_back(&self) {
        let taken_back = self.taken_back.fetch_add(1, Ordering::Relaxed) + 1;
        if taken_back > PREMATURE_BORNE && taken_back > self.requests.load(Ordering::Relaxed) / 2 {
            self.condemn();
        }
    }
}

/// An open request.
#[derive(Debug)]
pub(super) struct Open {
    traffic: Arc<Traffic>,
    begun: u64,
    delivering: bool,
    whole: bool,
}

impl Open {
    /// Whether its answer is the connection's last.
    pub(super) fn is_last(&self, version: Version) -> bool {
        version < Version::HTTP_2 && self.traffic.notice.is_given()
    }

    /// A part of its answer was handed over.
    pub(super) fn deliver(&mut self) {
        self.traffic.moved.store(self.traffic.now(), Ordering::Relaxed);
        self.traffic.parts.fetch_add(1, Ordering::Relaxed);
        if !self.delivering {
            self.delivering = true;
            self.traffic.delivering.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The next part was asked for and is not there yet: the client has the last one, or room for it.
    pub(super) fn wait(&mut self) {
        if self.delivering {
            self.delivering = false;
            self.traffic.delivering.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Its answer is there as a whole.
    pub(super) const fn complete(&mut self) {
        self.whole = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.wait();
        let (traffic, now) = (&self.traffic, self.traffic.now());
        if !self.whole && traffic.is_http2() && u128::from(now - self.begun) < PREMATURE.as_millis() {
            traffic.take_back();
        }
        traffic.quiet.store(now, Ordering::Relaxed);
        if traffic.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            traffic.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, thread_local};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    thread_local! {
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    fn now() -> Instant {
        let now = NOW.get().unwrap_or_else(Instant::now);
        NOW.set(Some(now));
        now
    }

    fn advance(by: Duration) {
        NOW.set(Some(now() + by));
    }

    #[test]
    fn the_first_head_is_awaited_from_the_beginning_and_a_later_one_from_its_first_byte() {
        let traffic = Traffic::by(now);
        advance(SECOND);
        traffic.heard();
        assert_eq!(traffic.look(), Look { head: Some(0), idle: None, stalled: None });
        let open = traffic.begin(Version::HTTP_11);
        traffic.heard();
        assert_eq!(traffic.look(), Look { head: None, idle: None, stalled: None }, "that was its body");
        drop(open);
        assert_eq!(traffic.look(), Look { head: None, idle: Some(1000), stalled: None });
        advance(SECOND);
        traffic.heard();
        advance(SECOND);
        traffic.heard();
        assert_eq!(traffic.look(), Look { head: Some(2000), idle: None, stalled: None });
    }

    #[test]
    fn frames_of_http2_are_no_requests() {
        let traffic = Traffic::by(now);
        advance(SECOND);
        drop(traffic.begin(Version::HTTP_2));
        advance(SECOND);
        traffic.heard();
        assert_eq!(traffic.look(), Look { head: None, idle: Some(1000), stalled: None });
    }

    #[test]
    fn it_is_stalled_when_no_open_answer_goes_on_or_the_socket_takes_nothing() {
        let traffic = Traffic::by(now);
        let (mut file, mut events) = (traffic.begin(Version::HTTP_2), traffic.begin(Version::HTTP_2));
        advance(SECOND);
        file.deliver();
        assert_eq!(traffic.look().stalled, None, "the other is being worked at");
        advance(SECOND);
        events.deliver();
        assert_eq!(traffic.look().stalled, Some(2000));
        events.wait();
        assert_eq!(traffic.look().stalled, None);
        drop(events);
        assert_eq!(traffic.look().stalled, Some(2000));
        drop(file);
        assert_eq!(traffic.look().stalled, None);
        advance(SECOND);
        traffic.wrote(false);
        advance(SECOND);
        traffic.wrote(false);
        assert_eq!(traffic.look().stalled, Some(3000));
        traffic.wrote(true);
        assert_eq!(traffic.look().stalled, None);
    }

    #[test]
    fn requests_taken_back_at_once_are_borne_up_to_a_number_and_then_to_a_share() {
        let take_back = |traffic: &Arc<Traffic>| drop(traffic.begin(Version::HTTP_2));
        let answer = |traffic: &Arc<Traffic>| traffic.begin(Version::HTTP_2).complete();
        let (rapid, mixed, slow) = (Traffic::by(now), Traffic::by(now), Traffic::by(now));
        for i in 0..1000 {
            assert_eq!(rapid.is_hostile(), i > PREMATURE_BORNE, "{i}");
            take_back(&rapid);
            answer(&mixed);
            take_back(&mixed);
        }
        assert!(!mixed.is_hostile());
        for _ in 0..300 {
            let open = slow.begin(Version::HTTP_2);
            advance(PREMATURE);
            drop(open);
        }
        assert!(!slow.is_hostile(), "streams end that way");
    }
}
