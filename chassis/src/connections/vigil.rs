//! Ends connections that make no progress.
//!
//! ```text
//! accepted ─▶ head ─▶ busy ─▶ idle ─▶ asked to leave
//!              │  ▲     │      │
//!              │  └─────┼──────┘ HTTP/1: the first byte of the next head
//!              ▼        ▼
//!             cut      cut, when nothing is taken of what is written
//! ```
//!
//! One deadline runs from accept to the first complete head, through the PROXY header, the TLS handshake, the choice of the version and everything that HTTP/2
//! says before its first request. hyper's own timers begin later, each with a part of that, and leave gaps between them in which a connection stays for ever.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Limits,
    traffic::{Look, Traffic},
};

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No complete head in time.
    Head,
    /// No request for too long.
    Idle,
    /// Nothing was taken of what was written for too long.
    Stalled,
    /// It does what no client needs to do.
    Hostile,
}

impl Verdict {
    /// As the metric has it.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Hostile => "hostile",
        }
    }
}

/// Watches over one connection. The timer is touched only when something is due earlier than it was, or it fired.
pub(super) struct Vigil {
    limits: Limits,
    due: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Vigil {
    pub(super) fn new(limits: &Limits, traffic: &Traffic) -> Self {
        let due = traffic.begun() + limits.head;
        Self { limits: *limits, due, sleep: Box::pin(sleep_until(due)) }
    }

    /// Why it is to end now, if it is. Poll it whenever the connection was polled. After [`Verdict::Idle`] was told it is told no more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, traffic: &Traffic) -> Poll<Verdict> {
        if traffic.is_hostile() {
            return Poll::Ready(Verdict::Hostile);
        }
        loop {
            let (due, verdict) = next(&self.limits, &traffic.look(), traffic.notice().is_given());
            let due = due.map(|due| traffic.begun() + due);
            let is_new = due.is_some_and(|due| due < self.due);
            if is_new && let Some(due) = due {
                self.arm(due);
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            match due {
                Some(due) if due <= now => {
                    self.arm(now + self.shortest());
                    return Poll::Ready(verdict);
                }
                Some(due) => self.arm(due),
                None => self.arm(now + self.shortest()),
            }
        }
    }

    fn arm(&mut self, due: Instant) {
        self.due = due;
        self.sleep.as_mut().reset(due);
    }

    /// Whatever begins to be measured from now on is not due earlier, but for heads, and those begin where they are seen.
    fn shortest(&self) -> Duration {
        [self.limits.idle, self.limits.stall].into_iter().flatten().fold(Duration::from_hours(24), Duration::min)
    }
}

/// What is due first, after which time since the connection's begin.
fn next(limits: &Limits, look: &Look, leaving: bool) -> (Option<Duration>, Verdict) {
    let after = |since: Option<u64>, limit: Option<Duration>| Some(Duration::from_millis(since?) + limit?);
    let idle = if leaving { None } else { after(look.idle, limits.idle) };
    let candidates = [
        (after(look.head, Some(limits.head)), Verdict::Head),
        (idle, Verdict::Idle),
        (after(look.stalled, limits.stall), Verdict::Stalled),
    ];
    let due = candidates.into_iter().filter(|(due, _)| due.is_some()).min_by_key(|(due, _)| *due);
    due.unwrap_or((None, Verdict::Idle))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::Version;

    use super::*;
    use crate::connections::Farewell;

    const SECOND: Duration = Duration::from_secs(1);
    const SHORT: Duration = Duration::from_millis(30);
    const NOTHING: Look = Look { head: None, idle: None, stalled: None };

    fn limits() -> Limits {
        let limits = Limits::of_clients(Farewell::within(SECOND));
        Limits { head: 10 * SECOND, idle: Some(60 * SECOND), stall: Some(30 * SECOND), ..limits }
    }

    #[test]
    fn what_is_due_first_is_told() {
        let cases = [
            (NOTHING, None, None),
            (Look { head: Some(4000), ..NOTHING }, Some(14), Some(Verdict::Head)),
            (Look { idle: Some(4000), ..NOTHING }, Some(64), Some(Verdict::Idle)),
            (Look { stalled: Some(4000), ..NOTHING }, Some(34), Some(Verdict::Stalled)),
            (Look { idle: Some(0), stalled: Some(40_000), ..NOTHING }, Some(60), Some(Verdict::Idle)),
            (Look { idle: Some(0), stalled: Some(20_000), ..NOTHING }, Some(50), Some(Verdict::Stalled)),
        ];
        for (look, due, verdict) in cases {
            let (told, because) = next(&limits(), &look, false);
            assert_eq!((told, told.map(|_| because)), (due.map(Duration::from_secs), verdict), "{look:?}");
        }
        assert_eq!(next(&limits(), &Look { idle: Some(0), ..NOTHING }, true).0, None, "it was told already");
        let among_us = limits().among_us();
        assert_eq!(next(&among_us, &Look { idle: Some(0), stalled: Some(0), ..NOTHING }, false).0, None);
    }

    async fn verdict(limits: Limits, traffic: &Traffic) -> (Verdict, Duration) {
        let mut vigil = Vigil::new(&limits, traffic);
        let verdict = poll_fn(|cx| vigil.poll(cx, traffic)).await;
        (verdict, traffic.begun().elapsed())
    }

    #[tokio::test]
    async fn each_is_told_when_it_is_due_and_not_before() {
        let traffic = Traffic::new();
        traffic.heard();
        let (told, after) = verdict(Limits { head: SHORT, ..limits() }, &traffic).await;
        assert!(told == Verdict::Head && after >= SHORT, "{told:?} {after:?}");

        let traffic = Traffic::new();
        tokio::time::sleep(SHORT).await;
        drop(traffic.begin(Version::HTTP_2));
        // The timer was set for the head, which is there by now.
        let (told, after) = verdict(Limits { head: SHORT, idle: Some(SHORT), ..limits() }, &traffic).await;
        assert!(told == Verdict::Idle && after >= 2 * SHORT, "{told:?} {after:?}");

        let traffic = Traffic::new();
        let mut open = traffic.begin(Version::HTTP_2);
        tokio::time::sleep(SHORT).await;
        open.deliver();
        let (told, after) = verdict(Limits { stall: Some(SHORT), ..limits() }, &traffic).await;
        assert!(told == Verdict::Stalled && after >= 2 * SHORT, "{told:?} {after:?}");

        traffic.condemn();
        assert_eq!(verdict(limits(), &traffic).await.0, Verdict::Hostile);
    }
}
