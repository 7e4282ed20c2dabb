//! The one place where routes are changed: by a reload of the file, and by switches. One change at a time; requests go on meanwhile with the table there is.
//! While a reload waits for its file, switches are thrown all the same: a disk that hangs is when they are needed.

use std::{path::PathBuf, sync::Arc};

use gatehouse_chassis::{
    boot,
    config::{Origin, Problem, Source, changed_sections, unknown_key},
    metrics::Metrics,
};
use gatehouse_proto::internal::v1::{BreakerStatus, EdgeVerdict, RouteStatus, SwitchRouteRequest};
use prometheus::{IntCounterVec, IntGauge};
use tokio::{sync::Mutex, task::spawn_blocking};

use super::{
    Routing,
    behind::Behind,
    changes::changes,
    switches::{Disabled, Switches},
    table::{Makings, Table},
};
use crate::{
    backends::{Backends, CircuitState},
    config::{AUTH_PREFIX, Config},
};

/// What a running edge takes over. Whatever else is changed in the file waits for a restart.
const AT_RUN_TIME: [&str; 5] = ["backend", "command", "route", "auth", "overload"];
/// Lines that a verdict carries at most.
const MOST: usize = 100;
/// Names that a refusal lists; more are looked up by a command.
const LISTED: usize = 12;

/// What the desk is opened with.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) config: Config,
    pub(crate) makings: Makings,
    pub(crate) backends: Backends,
    pub(crate) state_dir: PathBuf,
    pub(crate) origin: Option<Origin>,
}

/// Owner of everything that a table is made from.
#[derive(Debug)]
pub(crate) struct Desk {
    routing: Arc<Routing>,
    makings: Makings,
    origin: Option<Origin>,
    /// Held by the one reload that reads the file, which may be on a disk that hangs.
    reading: Mutex<()>,
    /// Held for no longer than it takes to change something.
    state: Mutex<State>,
    metrics: DeskMetrics,
}

#[derive(Debug)]
struct State {
    config: Config,
    behind: Behind,
    switches: Switches,
}

#[derive(Debug)]
struct DeskMetrics {
    reloads: IntCounterVec,
    disabled: IntGauge,
    unreadable: IntGauge,
}

impl Desk {
    /// With the first table. Reads the switches.
    pub(crate) fn open(ground: Ground, metrics: &Metrics) -> Self {
        let Ground { config, makings, backends, state_dir, origin } = ground;
        let metrics = DeskMetrics {
            reloads: metrics.counters(
                "config_reloads_total",
                "Reloads of the configuration file: done, or refused for its problems.",
                &["outcome"],
            ),
            disabled: metrics.gauge("routes_disabled", "Routes that operators have taken out of service."),
            unreadable: metrics
                .gauge("route_switches_unreadable", "1: which routes were taken out of service is not known; all of them serve."),
        };
        let behind = Behind::new(backends, &config.backends, makings.admission.clone());
        let (switches, problem) = Switches::load(&state_dir);
        if let Some(problem) = &problem {
            tracing::warn!(problem, "the disabled routes cannot be read; every route is in service");
        }
        metrics.unreadable.set(i64::from(problem.is_some()));
        let routing = Arc::new(Routing::new(Table::new(&config, &behind, &switches, &makings)));
        let state = State { config, behind, switches };
        metrics.count(&state);
        Self { routing, makings, origin, reading: Mutex::default(), state: Mutex::new(state), metrics }
    }

    pub(crate) fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.routing)
    }

    /// Reads the file again, and takes all of it over that can be, or nothing.
    pub(super) async fn reload(&self) -> EdgeVerdict {
        // The next one reads what is there when this one has been taken over: an older file never comes after a newer one.
        let _reading = self.reading.lock().await;
        let Some(origin) = self.origin.clone() else { return refused("this process does not know its configuration file", Vec::new()) };
        let first = origin.first.clone();
        let read = spawn_blocking(move || read(&origin)).await;
        let (source, config) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(problems)) => {
                self.metrics.reloads.with_label_values(&["refused"]).inc();
                let said = problems.iter().map(ToString::to_string).collect();
                return refused(&format!("nothing was changed: {} in the configuration", counted(problems.len(), "problem")), said);
            }
            Err(error) => return refused(&format!("nothing was changed: {error}"), Vec::new()),
        };
        let mut state = self.state.lock().await;
        let State { config: before, behind, switches } = &mut *state;
        let (changed, others) = (changes(before, &config), changed_sections(&first, &source));
        // From here on nothing waits and nothing can fail.
        self.makings.admission.adjust(&config.overload);
        behind.reload(&config.backends);
        self.routing.replace(Table::new(&config, behind, switches, &self.makings));
        *before = config;
        self.metrics.count(&state);
        self.metrics.reloads.with_label_values(&["done"]).inc();
        let others: Vec<_> = others.into_iter().filter(|(name, _)| !AT_RUN_TIME.contains(&name.as_str())).collect();
        let waits = if others.is_empty() { String::new() } else { format!("; {} for a restart", counted_wait(others.len())) };
        let what = if changed.is_empty() { "no route has changed".to_owned() } else { counted(changed.len(), "change") };
        tracing::info!(changes = changed.len(), wait_for_restart = others.len(), "configuration reloaded");
        let restart = |(name, line): (String, usize)| format!("[{name}]{}: counts from a restart on", at(&source, line));
        done(&format!("{what}{waits}"), changed.into_iter().chain(others.into_iter().map(restart)).collect())
    }

    /// Takes a route out of service, or back.
    pub(super) async fn switch(&self, request: SwitchRouteRequest) -> EdgeVerdict {
        let SwitchRouteRequest { name, enabled, actor, reason, at_ms } = request;
        let mut state = self.state.lock().await;
        let was_disabled = state.switches.of(&name).is_some();
        if !was_disabled && let Some(unknown) = unknown(&state.config, &name) {
            return refused(&unknown, Vec::new());
        }
        if enabled && !was_disabled {
            return done(&format!("{name} is in service already"), Vec::new());
        }
        if enabled {
            state.switches.enable(&name);
        } else {
            state.switches.disable(Disabled { name: name.clone(), actor, reason, at_ms });
        }
        // In force first: a full disk must not keep a route in service that does harm.
        self.routing.replace(Table::new(&state.config, &state.behind, &state.switches, &self.makings));
        self.metrics.count(&state);
        let mut switches = state.switches.clone();
        let saved = spawn_blocking(move || {
            let saved = switches.save();
            (switches, saved)
        });
        let saved = saved.await.map_err(|error| error.to_string()).and_then(|(switches, saved)| {
            state.switches = switches;
            saved.map_err(|error| error.to_string())
        });
        let word = if enabled { "enabled" } else { "disabled" };
        tracing::info!(route = name, "route {word}");
        match saved {
            Ok(()) => {
                self.metrics.unreadable.set(0);
                done(&format!("{name} is {word}"), Vec::new())
            }
            Err(error) => {
                tracing::error!(route = name, error, "the switch of a route cannot be written down");
                done(&format!("{name} is {word}; a restart of the edge forgets it, for it cannot be written down: {error}"), Vec::new())
            }
        }
    }

    /// Every route with its switch; at the end those that are switched off and not configured any more.
    pub(super) async fn routes(&self) -> Vec<RouteStatus> {
        let state = self.state.lock().await;
        let State { config, switches, .. } = &*state;
        let backend = |backend: usize| config.backends.get(backend).map(|backend| backend.name.clone()).unwrap_or_default();
        let route = |name: &str, kind: &str, backend: String, priority: &str| {
            let disabled = switches.of(name).cloned();
            let enabled = disabled.is_none();
            let Disabled { actor, reason, at_ms, .. } = disabled.unwrap_or_else(Disabled::nobody);
            RouteStatus {
                name: name.to_owned(),
                kind: kind.to_owned(),
                backend,
                priority: priority.to_owned(),
                enabled,
                actor,
                reason,
                at_ms,
            }
        };
        let commands = config.commands.iter().map(|c| route(&c.message_type, "command", backend(c.backend), c.priority.name()));
        let routes = config.routes.iter().map(|r| route(&r.prefix, "http", backend(r.backend), r.priority.name()));
        let auth = config.auth.map(|auth| route(AUTH_PREFIX, "http", backend(auth.backend), crate::config::Priority::Normal.name()));
        let gone = switches.all().iter().filter(|disabled| !names(config).contains(&disabled.name.as_str()));
        let gone = gone.map(|disabled| route(&disabled.name, "gone", String::new(), ""));
        commands.chain(routes).chain(auth).chain(gone).collect()
    }
}

/// Circuits are the backends': here is what they are asked.
impl Desk {
    /// How each stands.
    pub(super) async fn breakers(&self) -> Vec<BreakerStatus> {
        let circuits = self.state.lock().await.behind.backends.circuits();
        circuits.into_iter().map(|CircuitState { backend, state }| BreakerStatus { backend, state: state.name().to_owned() }).collect()
    }

    /// Closes one.
    pub(super) async fn reset_breaker(&self, backend: &str) -> EdgeVerdict {
        let state = self.state.lock().await;
        if state.behind.backends.reset_circuit(backend) {
            return done(&format!("the circuit of {backend} is closed"), Vec::new());
        }
        let names: Vec<_> = state.config.backends.iter().map(|backend| backend.name.as_str()).collect();
        refused(&format!("{backend}: {}", unknown_key("backend", backend, &names)), Vec::new())
    }
}

impl DeskMetrics {
    fn count(&self, state: &State) {
        let names = names(&state.config);
        let disabled = state.switches.all().iter().filter(|disabled| names.contains(&disabled.name.as_str())).count();
        self.disabled.set(i64::try_from(disabled).unwrap_or(i64::MAX));
    }
}

fn read(origin: &Origin) -> Result<(Source, Config), Vec<Problem>> {
    let source = origin.again().map_err(|message| vec![Problem { place: "--config".to_owned(), message }])?;
    let (_, config) = boot::read_from::<Config>(source.clone())?;
    Ok((source, config))
}

/// What can be switched.
fn names(config: &Config) -> Vec<&str> {
    let commands = config.commands.iter().map(|command| command.message_type.as_str());
    let routes = config.routes.iter().map(|route| route.prefix.as_str());
    commands.chain(routes).chain(config.auth.map(|_| AUTH_PREFIX)).collect()
}

fn unknown(config: &Config, name: &str) -> Option<String> {
    let names = names(config);
    if names.contains(&name) {
        return None;
    }
    let said = unknown_key("route", name, &names);
    Some(match names.len() {
        0 => format!("{name}: no routes are configured"),
        LISTED.. if said.contains("known:") => format!("{name}: unknown route; see `gatehouse route list`"),
        _ => format!("{name}: {said}"),
    })
}

fn done(verdict: &str, details: Vec<String>) -> EdgeVerdict {
    EdgeVerdict { done: true, verdict: verdict.to_owned(), details: bounded(details) }
}

fn refused(verdict: &str, details: Vec<String>) -> EdgeVerdict {
    EdgeVerdict { done: false, verdict: verdict.to_owned(), details: bounded(details) }
}

fn bounded(mut details: Vec<String>) -> Vec<String> {
    let more = details.len().saturating_sub(MOST);
    details.truncate(MOST);
    details.extend((more > 0).then(|| format!("and {more} more")));
    details
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn counted_wait(n: usize) -> String {
    if n == 1 { "1 section waits".to_owned() } else { format!("{n} sections wait") }
}

fn at(source: &Source, line: usize) -> String {
    if line == 0 { String::new() } else { format!(" ({}:{line})", source.path.display()) }
}
