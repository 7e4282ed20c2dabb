//! Answers on public sockets that are held and that nobody accepts on.
//!
//! A connection that waits for a second while the edge is replaced is served by the next edge, which is better than any answer. One that would wait for minutes,
//! because the edge is quarantined, was stopped, or the whole suite drains, is told so: 503 with `Retry-After`, in gRPC UNAVAILABLE. Each socket is answered on
//! from a duplicate, by a thread of its own with a runtime of its own and low priority, which exists no longer than it is needed: the supervisor's one task
//! never waits for a client, however many come.

mod answer;

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use gatehouse_chassis::{
    Shutdown,
    connections::{ConnectionMetrics, Farewell, Gate, Limits, Terms, serve_within},
    metrics::Metrics,
    sockets::Listener,
    watchdog::Pulse,
};
use prometheus::{IntCounter, IntCounterVec};
use rustix::process::setpriority_process;
use tokio::{runtime::Builder, time::sleep_until};

/// When somebody accepts again, how long those who are being answered may take.
const GRACE: Duration = Duration::from_secs(1);
/// The supervisor goes first.
const NICENESS: i32 = 10;

/// Who is answered keeps neither memory nor a descriptor for long: at once, for each of these.
fn limits() -> Limits {
    let second = Duration::from_secs(1);
    Limits { connections: Some(256), head: second, lifetime: Some(second), ..Limits::of_clients(Farewell::within(GRACE)) }
}

/// Operators come to it, by whom neither certificates nor load balancers are configured.
const ADMIN: &str = "admin";

/// The public sockets, and who of them is answered on.
#[derive(Debug)]
pub(crate) struct Held {
    after: Option<Duration>,
    gate: Gate,
    connections: ConnectionMetrics,
    answers: IntCounterVec,
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Socket {
    name: &'static str,
    fd: OwnedFd,
    vacancy: Option<Vacancy>,
}

/// Since when nobody accepts; dropped when somebody does.
#[derive(Debug)]
struct Vacancy {
    /// The wait, on the supervisor's runtime.
    wait: Shutdown,
    /// The answering, on its thread.
    answering: Shutdown,
    begun: Arc<AtomicBool>,
}

impl Held {
    /// Duplicates of the public sockets; `after` is `[supervisor] held_answer_after`. Clients come by the same `gate` as to those who should accept.
    pub(crate) fn new(
        after: Option<Duration>,
        gate: Gate,
        metrics: &Metrics,
        connections: &ConnectionMetrics,
        sockets: Vec<(&'static str, OwnedFd)>,
    ) -> Self {
        let answers = metrics.counters("held_answers_total", "Requests that were told that nobody serves.", &["listener"]);
        for (name, _) in &sockets {
            let _zero = answers.with_label_values(&[name]);
        }
        let sockets = sockets.into_iter().map(|(name, fd)| Socket { name, fd, vacancy: None }).collect();
        Self { after, gate, connections: connections.clone(), answers, sockets }
    }

    /// The names of the sockets.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.sockets.iter().map(|socket| socket.name).collect()
    }

    /// Whether some process accepts there from `now` on. As often as one likes: only a change counts. Needs a runtime.
    pub(crate) fn set(&mut self, name: &str, accepted: bool, now: Instant) {
        let Some(after) = self.after else { return };
        let Some(i) = self.sockets.iter().position(|socket| socket.name == name) else { return };
        if accepted {
            self.sockets[i].vacancy = None;
        } else if self.sockets[i].vacancy.is_none() {
            let vacancy = Vacancy { wait: Shutdown::default(), answering: Shutdown::default(), begun: Arc::default() };
            let begin = self.answering(i, &vacancy);
            vacancy.wait.spawn("held", async move {
                sleep_until((now + after).into()).await;
                begin();
            });
            self.sockets[i].vacancy = Some(vacancy);
        }
    }

    /// Nobody will accept there any more: answers without waiting.
    pub(crate) fn answer_now(&mut self, name: &str) {
        self.set(name, false, Instant::now());
        let Some(i) = self.sockets.iter().position(|socket| socket.name == name) else { return };
        if let Some(vacancy) = &self.sockets[i].vacancy {
            self.answering(i, vacancy)();
        }
    }

    /// What starts to answer once it is called, and does nothing when another has.
    fn answering(&self, i: usize, vacancy: &Vacancy) -> impl FnOnce() + Send + use<> {
        let Socket { name, fd, .. } = &self.sockets[i];
        let (name, fd, shutdown) = (*name, fd.try_clone(), vacancy.answering.clone());
        let (connections, answers) = (self.connections.clone(), self.answers.with_label_values(&[name]));
        let gate = if name == ADMIN { Gate::default() } else { self.gate.clone() };
        let (begun, terms) = (Arc::clone(&vacancy.begun), Terms { limits: limits(), gate });
        move || {
            if begun.swap(true, Ordering::Relaxed) {
                return;
            }
            let started = fd.and_then(|fd| {
                let named = thread::Builder::new().name(format!("held-{name}"));
                named.spawn(move || run(name, fd, terms, connections, answers, &shutdown))
            });
            match started {
                Ok(_) => tracing::info!(listener = name, "nobody accepts; clients are told to come back"),
                Err(error) => tracing::error!(listener = name, %error, "nobody accepts, and clients cannot be told"),
            }
        }
    }
}

impl Drop for Vacancy {
    fn drop(&mut self) {
        self.wait.abort();
        self.answering.drain();
    }
}

/// The thread: until `shutdown` drains.
fn run(name: &'static str, fd: OwnedFd, terms: Terms, connections: ConnectionMetrics, answers: IntCounter, shutdown: &Shutdown) {
    // It works as well without.
    let _refused = setpriority_process(None, NICENESS);
    let served = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            let listener = Listener::from_fd(fd)?;
            let router = answer::router(name, answers);
            let overrun = async {
                shutdown.draining().await;
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                () = serve_within(terms, name, listener, router, connections, shutdown.clone(), Pulse::default()) => {}
                () = overrun => {}
            }
            Ok(())
        })
    });
    if let Err(error) = served {
        tracing::error!(listener = name, %error, "clients cannot be told that nobody accepts");
    }
}

#[cfg(test)]
mod tests;
