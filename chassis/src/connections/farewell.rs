//! How a connection is asked to leave, so that nobody on the other side loses a request by it.
//!
//! ```text
//! drain begins ─▶ its turn comes ─▶ notice given ─▶ quiet ─▶ closed ─▶ lingers until the client has closed, too
//!                 (spread)          │               │ HTTP/2: the last open request was just answered, or the grace is over; then GOAWAY, twice, as RFC 9113
//!                                   │               │ §6.8 has it
//!                                   │               └ HTTP/1: no request came for as long as the grace
//!                                   ├ HTTP/1: each answer says `Connection: close`, and the connection ends with it
//!                                   └ streams of events end
//! ```
//!
//! A request that is on its way when an idle HTTP/1 connection is closed fails, and its sender cannot know whether it was carried out (RFC 9112 §9.6). That is why
//! an idle connection is still read for a while (nginx: `keepalive_min_timeout`, `HAProxy`: `option idle-close-on-response`), and why a closed one is read until
//! the client has seen it (nginx: `lingering_close`): bytes that nobody reads are answered with a reset, which takes the last answer with it.
//! On HTTP/2 nothing is lost that way, but many a client library gives up a request that it had queued when the GOAWAY came, although the server never saw it: the
//! best moment is right after an answer, when the client is least likely to have the next request on its way; or rather right before its end, so that the GOAWAY
//! is not the later of the two. And what it wrote behind its acknowledgement is waited for ([`pong`](super::pong)).
//! The turns are spread so that ten thousand clients do not come back in the same instant (`HAProxy`: `close-spread-time`).

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::traffic::Traffic;
use crate::backoff::random_unit;

/// A new connection with its verified subscription costs about so much; no more are sent away at once.
const EACH: Duration = Duration::from_micros(250);

/// How long all this may take.
#[derive(Clone, Copy, Debug)]
pub struct Farewell {
    /// Over how long turns are spread at most.
    spread: Duration,
    /// How long a connection is left open in the hope of a better moment.
    grace: Duration,
    /// How long one on which nothing was said yet is left open: what is on its way to it must not fall into a hole.
    pub(super) silence: Duration,
    /// How long after a client of HTTP/2 has heard that it is to leave the last of its requests may come; see [`pong`](super::pong).
    pub(super) settling: Duration,
    /// How long one that was closed is still read.
    pub(super) linger: Duration,
    /// What comes after the drain began is refused unprocessed: the other side is ours, and sends it again to whoever accepts now.
    pub(super) refuses: bool,
}

impl Farewell {
    /// For clients, whose process has that budget for its drain.
    #[must_use]
    pub fn within(budget: Duration) -> Self {
        let grace = Duration::from_secs(1).min(budget / 5);
        let linger = Duration::from_secs(1).min(budget / 10);
        Self { spread: budget / 2, grace, silence: grace, settling: grace / 4, linger, refuses: false }
    }

    /// For the suite's own processes on a local socket ([`ipc::Channel`](crate::ipc::Channel)).
    #[must_use]
    pub const fn at_once() -> Self {
        let (silence, linger) = (Duration::from_millis(200), Duration::from_millis(100));
        Self { spread: Duration::ZERO, grace: Duration::ZERO, silence, settling: Duration::ZERO, linger, refuses: true }
    }

    /// After how long the turn of one of `open` connections comes.
    pub(super) fn turn(&self, open: i64) -> Duration {
        let open = u32::try_from(open).unwrap_or_default();
        (EACH * open).min(self.spread).mul_f64(random_unit())
    }
}

/// Whether a request's connection was asked to leave; an extension of every request. Answers that have no end of their own end with it.
#[derive(Clone, Debug, Default)]
pub struct Notice(CancellationToken);

impl Notice {
    /// Resolves when it is asked to.
    pub async fn given(&self) {
        self.0.cancelled().await;
    }

    /// Asks it now, for a client that was just told that the process stops: on this connection it would be told so again.
    pub fn give(&self) {
        self.0.cancel();
    }

    /// Whether it was.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Traffic {
    /// Resolves when there is no better moment to close the connection. Call it after the notice was given.
    pub(super) async fn quiet(&self, farewell: &Farewell) {
        let since = Instant::now();
        let mut stirred = false;
        loop {
            let open = self.open();
            // A request that comes after this look leaves its mark for `notified`.
            if self.is_http2() {
                if open == 0 && stirred || tokio::time::timeout_at(since + farewell.grace, self.changed.notified()).await.is_err() {
                    return;
                }
                stirred = true;
            } else if open > 0 {
                // Its answer ends the connection.
                self.changed.notified().await;
            } else if tokio::time::timeout(farewell.grace, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    const BUDGET: Duration = Duration::from_secs(5);

    impl Farewell {
        /// For tests in real time: a machine that stands still for a while is no reason to part.
        pub(in crate::connections) const fn patient(mut self, grace: Duration, linger: Duration) -> Self {
            (self.grace, self.silence, self.linger) = (grace, grace, linger);
            self
        }
    }

    #[test]
    fn a_few_connections_leave_at_once_and_many_are_spread_over_half_the_budget() {
        let farewell = Farewell::within(BUDGET);
        let latest = |open| (0..200).map(|_| farewell.turn(open)).max().unwrap();
        assert!(latest(1) <= EACH && latest(0).is_zero());
        assert!((Duration::from_millis(12)..=Duration::from_millis(16)).contains(&latest(64)), "{:?}", latest(64));
        assert!((Duration::from_secs(2)..=BUDGET / 2).contains(&latest(1_000_000)));
        assert!(Farewell::at_once().turn(1_000_000).is_zero());
    }

    #[test]
    fn the_whole_farewell_fits_into_the_budget() {
        for budget in [Duration::from_millis(200), BUDGET, Duration::from_mins(5)] {
            let Farewell { spread, grace, settling, linger, .. } = Farewell::within(budget);
            assert!(spread + grace + settling + linger < budget, "{budget:?}");
        }
    }

    /// Longer than a test may take.
    const NEVER: Duration = Duration::from_mins(10);
    const BRIEF: Duration = Duration::from_millis(200);
    /// How long anything may take on a busy machine.
    const PATIENCE: Duration = Duration::from_mins(1);

    fn with_grace(grace: Duration) -> Farewell {
        Farewell::within(BUDGET).patient(grace, BRIEF)
    }

    #[tokio::test]
    async fn an_idle_http1_connection_is_quiet_only_after_the_grace_and_each_request_begins_it_anew() {
        let (farewell, traffic) = (with_grace(BRIEF), Traffic::new());
        traffic.notice().give();
        let begun = Instant::now();
        traffic.quiet(&farewell).await;
        assert!(begun.elapsed() >= BRIEF, "{:?}", begun.elapsed());
        let asks_again = async {
            // Right after `quiet` has begun to wait.
            let open = traffic.begin(Version::HTTP_11);
            assert!(open.is_last(Version::HTTP_11));
            tokio::time::sleep(BRIEF * 2).await;
            drop(open);
            Instant::now()
        };
        let ((), answered) = tokio::join!(traffic.quiet(&farewell), asks_again);
        assert!(answered.elapsed() >= BRIEF, "{:?}", answered.elapsed());
    }

    #[tokio::test]
    async fn an_http2_connection_is_quiet_when_no_request_is_open_and_at_the_latest_after_the_grace() {
        let (farewell, traffic) = (with_grace(NEVER), Traffic::new());
        traffic.notice().give();
        let (first, second) = (traffic.begin(Version::HTTP_2), traffic.begin(Version::HTTP_2));
        let answers = async {
            drop(first);
            tokio::time::sleep(BRIEF).await;
            drop(second);
            Instant::now()
        };
        let quiet = async { (traffic.quiet(&farewell).await, Instant::now()).1 };
        let (quiet, answered) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(quiet, answers) }).await.expect("before the grace is over");
        assert!(quiet >= answered, "not while one is open");
        let _busy = traffic.begin(Version::HTTP_2);
        let begun = Instant::now();
        traffic.quiet(&with_grace(BRIEF)).await;
        assert!(begun.elapsed() >= BRIEF);
    }

    #[tokio::test]
    async fn an_idle_http2_connection_is_quiet_right_after_its_next_request() {
        let (farewell, traffic) = (with_grace(NEVER), Traffic::new());
        drop(traffic.begin(Version::HTTP_2));
        traffic.notice().give();
        let asks_again = async {
            tokio::time::sleep(BRIEF).await;
            let open = traffic.begin(Version::HTTP_2);
            tokio::time::sleep(BRIEF).await;
            drop(open);
            Instant::now()
        };
        let quiet = async { (traffic.quiet(&farewell).await, Instant::now()).1 };
        let (quiet, answered) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(quiet, asks_again) }).await.expect("before the grace is over");
        assert!(quiet >= answered);
        let begun = Instant::now();
        traffic.quiet(&with_grace(BRIEF)).await;
        assert!(begun.elapsed() >= BRIEF, "nothing is asked");
    }
}
