//! A running process: its name, its sockets, its readiness, its tasks.

use std::{
    future::Future,
    io::{self, IsTerminal as _},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    Shutdown,
    config::{LogFormat, Origin, Shared},
    connections::{self, ConnectionMetrics, Farewell},
    exit::Fatal,
    ipc::ProcessService,
    metrics::Metrics,
    notify::Notifier,
    sockets::{Inherited, Listener},
    watchdog::{self, Pulse, Pulses, Watchdog},
};
use gatehouse_proto::internal::v1::process_server::ProcessServer;

/// How long peers may take over their last calls on the local socket.
const LOCAL_DRAIN: Duration = Duration::from_secs(1);

/// What `serve` is given; clones share it.
#[derive(Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    instance: u32,
    shared: Arc<Shared>,
    origin: OnceLock<Origin>,
    shutdown: Shutdown,
    local: Shutdown,
    metrics: Metrics,
    connections: ConnectionMetrics,
    inherited: Mutex<Inherited>,
    health: HealthReporter,
    health_routes: Mutex<Option<Routes>>,
    /// What is served on the local socket, until that is closed: it may feed sinks.
    local_router: Mutex<Option<axum::Router>>,
    notifier: Notifier,
    pulses: Pulses,
    ready: Arc<AtomicBool>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Process({}-{})", self.inner.name, self.inner.instance)
    }
}

impl Process {
    /// `boot` makes one; tests make their own.
    #[must_use]
    pub fn new(name: &'static str, instance: u32, shared: Shared, inherited: Inherited) -> Self {
        let metrics = Metrics::new(name, instance);
        let (health, health_service) = tonic_health::server::health_reporter();
        let routes = Routes::new(health_service).add_service(ProcessServer::new(ProcessService(metrics.clone())));
        let connections = ConnectionMetrics::new(&metrics);
        let inner = Inner {
            name,
            instance,
            shared: Arc::new(shared),
            origin: OnceLock::new(),
            shutdown: Shutdown::default(),
            local: Shutdown::default(),
            metrics,
            connections,
            inherited: Mutex::new(inherited),
            health,
            health_routes: Mutex::new(Some(routes)),
            local_router: Mutex::default(),
            notifier: Notifier::from_env(),
            pulses: Pulses::new(watchdog::expected()),
            ready: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Remembers where its configuration is from. Once.
    #[must_use]
    pub fn with_origin(self, origin: Origin) -> Self {
        // The first one stays.
        let _set_before = self.inner.origin.set(origin);
        self
    }

    /// Where its configuration can be read again.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.inner.origin.get()
    }

    /// `edge`, `pusher`, …
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Which of several of that name, from 0.
    #[must_use]
    pub fn instance(&self) -> u32 {
        self.inner.instance
    }

    /// The sections that every process reads.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// The two stages of the end.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// Where metrics are registered.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What all listeners of this process count.
    #[must_use]
    pub fn connections(&self) -> &ConnectionMetrics {
        &self.inner.connections
    }

    /// The socket of that name, if one was lent. Each is taken once.
    pub fn listener(&self, name: &str) -> anyhow::Result<Option<Listener>> {
        self.inherited(|inherited| inherited.take(name)).with_context(|| format!("take socket {name}"))
    }

    /// The socket of that name; without it the process cannot run.
    pub fn required_listener(&self, name: &str) -> anyhow::Result<Listener> {
        let missing = || Fatal::config(format!("no socket named {name} was lent (LISTEN_FDNAMES); the supervisor or systemd must do so"));
        Ok(self.listener(name)?.ok_or_else(missing)?)
    }

    /// The sockets that were lent and not yet taken. For the supervisor, which lends them on and binds those that are missing.
    pub fn inherited<T>(&self, with: impl FnOnce(&mut Inherited) -> T) -> T {
        with(&mut self.inner.inherited.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves a router on a listener until the drain is over.
    pub fn serve(&self, name: &'static str, listener: Listener, router: axum::Router) {
        let farewell = Farewell::within(self.inner.shared.budgets.of(self.inner.name));
        let (connections, pulse) = (self.inner.connections.clone(), self.pulse(name, watchdog::USUAL));
        self.spawn(name, connections::serve(name, listener, router, connections, farewell, self.inner.shutdown.clone(), pulse));
    }

    /// Serves health, metrics and what `extend` adds on the local socket, until the drain begins: from then on its callers are the next generation's, which
    /// accepts on the same socket. Calls under way are finished; later ones are refused unprocessed. Nothing without the socket, as in tests.
    pub fn serve_local_until_drain(&self, extend: impl FnOnce(Routes) -> Routes) -> anyhow::Result<()> {
        self.serve_local(self.inner.shutdown.clone(), extend)
    }

    /// The same for a process that has no other generation beside it: until everything else is done.
    pub fn serve_local_to_the_end(&self, extend: impl FnOnce(Routes) -> Routes) -> anyhow::Result<()> {
        self.serve_local(self.inner.local.clone(), extend)
    }

    fn serve_local(&self, until: Shutdown, extend: impl FnOnce(Routes) -> Routes) -> anyhow::Result<()> {
        let Some(listener) = self.listener("local")? else { return Ok(()) };
        let routes = self.inner.health_routes.lock().unwrap_or_else(PoisonError::into_inner).take();
        let router = extend(routes.context("the local socket is served twice")?).into_axum_router();
        *self.local_router() = Some(router.clone());
        self.accept_local(listener, router, until);
        Ok(())
    }

    /// To the end, on another socket as well, for nobody comes by the first any more: its path was removed. Whoever came before is served on.
    pub fn serve_local_again(&self, listener: Listener) -> anyhow::Result<()> {
        let router = self.local_router().clone().context("no local socket is served")?;
        self.accept_local(listener, router, self.inner.local.clone());
        Ok(())
    }

    fn accept_local(&self, listener: Listener, router: axum::Router, until: Shutdown) {
        let (connections, pulse) = (self.inner.connections.clone(), self.pulse("local", watchdog::USUAL));
        self.inner.local.spawn("local", connections::serve("local", listener, router, connections, Farewell::at_once(), until, pulse));
    }

    fn local_router(&self) -> MutexGuard<'_, Option<axum::Router>> {
        self.inner.local_router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is left on the local socket, last of all.
    pub(crate) async fn close_local(&self) {
        self.local_router().take();
        let local = &self.inner.local;
        local.drain();
        tokio::select! {
            () = local.finished() => {}
            () = self.inner.shutdown.aborting() => local.abort(),
            () = tokio::time::sleep(LOCAL_DRAIN) => local.abort(),
        }
    }

    /// Spawns a named, tracked task. A panic in it ends the process with the exit code of a bug: half a process is worse than none.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.shutdown.spawn(name, task);
    }

    /// The beat of a loop that this process cannot do without. Once the process is ready, standing still for longer than `limit` is a hang, for which it
    /// is ended and replaced; see [`watchdog`]. The loop is watched until its pulse is dropped.
    #[must_use]
    pub fn pulse(&self, name: &'static str, limit: Duration) -> Pulse {
        self.inner.pulses.add(name, limit)
    }

    /// The way to whoever supervises this process.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.inner.notifier
    }

    /// Begins to prove progress, when somebody expects it. On the runtime that is to be watched.
    pub(crate) fn watch(&self) -> Option<Watchdog> {
        let inner = &self.inner;
        let default = || if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
        let setting = watchdog::Setting {
            pulses: inner.pulses.clone(),
            ready: Arc::clone(&inner.ready),
            shutdown: inner.shutdown.clone(),
            notifier: inner.notifier.clone(),
            metrics: inner.metrics.clone(),
            format: inner.shared.log.format.unwrap_or_else(default),
        };
        match Watchdog::start(setting) {
            Ok(watchdog) => watchdog,
            Err(error) => {
                tracing::error!(%error, "no thread for the watchdog");
                None
            }
        }
    }

    /// Says how a dependency is, under its name in `grpc.health.v1`.
    pub async fn dependency(&self, name: &str, serving: bool) {
        self.inner.health.set_service_status(name, status(serving)).await;
    }

    /// Says that everything is up: `READY=1` and health. Until the drain begins.
    pub async fn ready(&self) {
        if self.inner.shutdown.is_draining() {
            return;
        }
        self.inner.health.set_service_status("", ServingStatus::Serving).await;
        self.inner.notifier.say(&[NotifyState::Ready]);
        // From here on the watchdog repeats it.
        self.inner.ready.store(true, Ordering::Relaxed);
        tracing::info!("ready");
        let this = self.clone();
        self.spawn("readiness", async move {
            this.inner.shutdown.draining().await;
            this.inner.health.set_service_status("", ServingStatus::NotServing).await;
            this.inner.notifier.say(&[NotifyState::Stopping]);
            tracing::info!("draining");
        });
    }

    /// Waits for the drain to begin. What `serve` still holds when it returns is dropped before the tasks are waited for.
    pub async fn until_drain(&self) {
        self.inner.shutdown.draining().await;
    }

    /// Not serving until [`Process::ready`].
    pub(crate) async fn starting(&self) {
        self.inner.health.set_service_status("", ServingStatus::NotServing).await;
    }
}

const fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}
