//! One backend: its endpoints, its circuit, its budget of retries. Commands and HTTP requests go through the same one.
//!
//! ```text
//! request ─▶ circuit ─▶ endpoint (healthy, not ejected; the less loaded of two) ─▶ connection ─▶ answer
//!               │                      ▲            │
//!               ▼                      └── again ◀──┘ nobody has processed it; or it is idempotent and the budget allows it
//!            rejected
//! ```
//!
//! When every endpoint is passed over, all are used: that many failures at once are rather a mistake of whoever judges (Envoy calls it panic mode).

mod execute;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use gatehouse_chassis::Shutdown;
use gatehouse_sessions::verdict;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    budget::Budget,
    choice::choose,
    circuit::{
        Ticket, Verdict,
        permit::{Breaker, Permit},
    },
    endpoint::Endpoint,
    fault::Outcome,
    health,
    metrics::Counters,
    outlier,
};
use crate::config;

/// What a failure counts for where it does not lead to an ejection.
const FAILURE: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(super) name: Arc<str>,
    pub(super) config: config::Backend,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) breaker: Arc<Breaker>,
    pub(super) budget: Budget,
    pub(super) counters: Counters,
    shutdown: Shutdown,
    /// Ends what runs on its behalf.
    gone: CancellationToken,
    /// One ejection is decided on at a time, so that no two together are too many.
    ejecting: Mutex<()>,
}

impl Backend {
    pub(super) fn open(config: &config::Backend, counters: Counters, shutdown: &Shutdown) -> Arc<Self> {
        let name: Arc<str> = config.name.as_str().into();
        let breaker = Arc::new(Breaker::new(&name, &config.circuit, counters.circuit.clone(), counters.rejected.clone()));
        let endpoints = config.addresses.iter().map(|address| Arc::new(Endpoint::new(config, address, shutdown))).collect();
        let this = Arc::new(Self {
            name,
            config: config.clone(),
            endpoints,
            breaker,
            budget: Budget::new(&config.retries),
            counters,
            shutdown: shutdown.clone(),
            gone: CancellationToken::new(),
            ejecting: Mutex::default(),
        });
        this.show_endpoints();
        if let Some(check) = &config.health_check {
            for endpoint in &this.endpoints {
                let (gone, checks) = (this.gone.clone(), health::run(Arc::downgrade(&this), Arc::clone(endpoint), check.clone()));
                shutdown.spawn_companion("health-check", async move {
                    gone.run_until_cancelled(checks).await;
                });
            }
        }
        this
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What stands in requests to it until an endpoint is chosen.
    pub(crate) fn authority(&self) -> &str {
        self.config.addresses.first().map_or("localhost", config::Address::authority)
    }

    /// Ends its tasks. Requests on their way end as they began.
    pub(super) fn close(&self) {
        self.gone.cancel();
    }

    /// Gives up on a command, for the process ends. What has become of it is not known here.
    pub(crate) fn abandon(&self) -> Status {
        self.counters.count(Outcome::Abandoned);
        verdict::shutting_down()
    }

    /// Lets a request through, unless the circuit is open.
    pub(crate) fn admit(&self) -> Option<Permit> {
        let permit = self.breaker.admit()?;
        self.budget.deposit();
        Some(permit)
    }

    /// What became of a request that was let through.
    pub(super) fn settle(&self, permit: Permit, verdict: Verdict) {
        if permit.settle(verdict) {
            self.opened();
        }
    }

    /// A request that was settled as a success was none after all.
    pub(super) fn take_back(&self, ticket: Ticket) {
        if self.breaker.take_back(ticket) {
            self.opened();
        }
    }

    /// Half-open is seen when it is, and not when the next request comes.
    fn opened(&self) {
        let (breaker, gone) = (Arc::clone(&self.breaker), self.gone.clone());
        self.shutdown.spawn_companion("circuit", async move {
            let opened = gone.run_until_cancelled(tokio::time::sleep(breaker.open_time())).await;
            opened.map(|()| breaker.state());
        });
    }

    /// Where to try next: not where it was tried before, as long as there is anything else.
    pub(super) fn choose(&self, tried: &[usize]) -> usize {
        let endpoints = &self.endpoints;
        if endpoints.len() == 1 {
            return 0;
        }
        let now = Instant::now();
        let among = |eligible: &dyn Fn(usize) -> bool| {
            choose(endpoints.len(), eligible, |i| endpoints[i].load.now(now), |count| fastrand::usize(..count))
        };
        let is_new = |i| !tried.contains(&i);
        among(&|i| is_new(i) && endpoints[i].is_usable()).or_else(|| among(&is_new)).or_else(|| among(&|_| true)).unwrap_or(0)
    }

    /// Notes how an endpoint did, and passes it over from now on if that was once too often.
    pub(super) fn note(self: &Arc<Self>, endpoint: &Arc<Endpoint>, verdict: Verdict) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Success => endpoint.succeeded(),
            Verdict::Failure => self.suspect(endpoint),
        }
    }

    fn suspect(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        let one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let ejected = self.endpoints.iter().filter(|endpoint| endpoint.is_ejected()).count();
        let may = outlier::has_room(&self.config.ejection, self.endpoints.len(), ejected);
        if !may {
            // It is still chosen, but as one that takes long: to fail is quick, and the quick are preferred.
            endpoint.load.observe(FAILURE, Instant::now());
        }
        let Some(time) = endpoint.failed(&self.config.ejection, may) else { return };
        drop(one_at_a_time);
        self.counters.ejections.inc();
        self.show_endpoints();
        tracing::warn!(backend = &*self.name, endpoint = %endpoint.address, seconds = time.as_secs_f64(), "endpoint ejected");
        let (this, endpoint, gone) = (Arc::downgrade(self), Arc::clone(endpoint), self.gone.clone());
        self.shutdown.spawn_companion("ejection", async move {
            if gone.run_until_cancelled(tokio::time::sleep(time)).await.is_none() {
                return;
            }
            endpoint.readmit();
            if let Some(this) = this.upgrade() {
                this.show_endpoints();
                tracing::info!(backend = &*this.name, endpoint = %endpoint.address, "endpoint is used again");
            }
        });
    }

    /// A check has changed its mind.
    pub(super) fn judged(&self, endpoint: &Endpoint, healthy: bool) {
        endpoint.set_healthy(healthy);
        self.show_endpoints();
        tracing::warn!(backend = &*self.name, endpoint = %endpoint.address, healthy, "health of an endpoint changed");
    }

    fn show_endpoints(&self) {
        let count =
            |is: fn(&Endpoint) -> bool| i64::try_from(self.endpoints.iter().filter(|endpoint| is(endpoint)).count()).unwrap_or(i64::MAX);
        self.counters.healthy.set(count(Endpoint::is_usable));
        self.counters.unhealthy.set(count(|endpoint| !endpoint.is_healthy()));
        self.counters.ejected.set(count(|endpoint| endpoint.is_healthy() && endpoint.is_ejected()));
    }
}
