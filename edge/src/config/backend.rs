//! `[[backend]]`: a service behind the edge, how it is reached, and when it is left alone.

use std::{fmt, str::FromStr, time::Duration};

use gatehouse_chassis::config::{Reader, Section, unknown_key};
use gatehouse_proto::limits::MAX_ID_BYTES;
use http::uri::PathAndQuery;

use super::Address;

/// How long a backend may take when nothing says otherwise.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One `[[backend]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `name`: how routes, metrics and the audit trail call it.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `address` or `addresses`, at least one: `host:port`, `http://host:port` or `unix:/path`.
    pub addresses: Vec<Address>,
    /// `timeout`: how long it may take, unless the route says less or more. Default 10 s.
    pub timeout: Duration,
    /// `connect_timeout`: how long a connection may take to come about. Default 1 s.
    pub connect_timeout: Duration,
    /// `path`: where an HTTP backend takes commands. Default `/`.
    pub path: PathAndQuery,
    /// `[backend.health_check]`; none unless the section is there.
    pub health_check: Option<HealthCheck>,
    /// `[backend.outlier_ejection]`.
    pub ejection: Ejection,
    /// `[backend.circuit_breaker]`.
    pub circuit: CircuitBreaker,
    /// `[backend.retry_budget]`.
    pub retries: RetryBudget,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `gateway.downstream.v1.CommandHandler`, for commands.
    Grpc,
    /// HTTP/1.1, for routes, and for commands as `POST`.
    Http,
}

/// `[backend.health_check]`: each address is asked how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `interval` between two checks of an address. Default 5 s.
    pub interval: Duration,
    /// `timeout`. Default 1 s.
    pub timeout: Duration,
    /// `healthy_threshold`: good checks in a row that make it healthy again. Default 2.
    pub healthy_threshold: u32,
    /// `unhealthy_threshold`: bad checks in a row that make it unhealthy. Default 3.
    pub unhealthy_threshold: u32,
    /// `service`: what `grpc.health.v1` is asked for. Default the server as a whole, the empty name.
    pub service: String,
    /// `path`: what HTTP backends are asked for. Default `/`.
    pub path: PathAndQuery,
}

/// `[backend.outlier_ejection]`: an address that fails real requests is left alone for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// `consecutive_failures` that eject it. Default 5.
    pub consecutive_failures: u32,
    /// `base_time`: how long the first time; twice as long each time after. Default 10 s.
    pub base_time: Duration,
    /// `max_time`: how long at most. Default 5 min.
    pub max_time: Duration,
    /// `max_percent` of a backend's addresses that may be ejected at once, rounded down. 0: none ever is. Default 50.
    pub max_percent: u32,
}

/// `[backend.circuit_breaker]`: a backend that fails as a whole gets no requests for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// `window` over which requests are counted. Default 10 s.
    pub window: Duration,
    /// `min_requests` in the window; with fewer it stays closed. Default 20.
    pub min_requests: u32,
    /// `failure_percent` of them that opens it. 0: it never opens. Default 50.
    pub failure_percent: u32,
    /// `open_time` until probes are let through. Default 5 s.
    pub open_time: Duration,
    /// `probes`: how many are let through at once, and must succeed for it to close. Default 3.
    pub probes: u32,
}

/// `[backend.retry_budget]`: how many requests may be sent a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// `percent` of the requests. Default 20.
    pub percent: u32,
    /// `min_per_second` that are always allowed. Default 3.
    pub min_per_second: u32,
}

impl FromStr for Protocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http" => Ok(Self::Http),
            _ => Err("is neither grpc nor http"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        })
    }
}

impl Backend {
    /// All that are right.
    #[cfg(test)]
    pub(crate) fn read_all(reader: &mut Reader) -> Vec<Self> {
        Backends::read(reader).read.into_iter().flatten().collect()
    }
}

/// The backends as they were read. One that is wrong keeps its name, so that those who name it are not told that it is unknown.
pub(super) struct Backends {
    names: Vec<String>,
    pub(super) read: Vec<Option<Backend>>,
}

impl Backends {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let mut names = Vec::<String>::new();
        let read = reader.each("backend", |section| {
            let backend = backend(section);
            let (name, backend) = backend?;
            if names.contains(&name) {
                section.problem("name", format!("`{name}` is the name of another backend already"));
            }
            names.push(name);
            Some(backend)
        });
        Self { names, read }
    }

    /// The backend of that name, if it speaks what its user needs.
    pub(super) fn named(&self, section: &mut Section<'_>, name: &str, wanted: Option<Protocol>) -> Option<usize> {
        let Some(found) = self.names.iter().position(|known| known == name) else {
            let known: Vec<_> = self.names.iter().map(String::as_str).collect();
            let message = if known.is_empty() { "there is no [[backend]]".to_owned() } else { unknown_key("backend", name, &known) };
            section.problem("backend", format!("`{name}`: {message}"));
            return None;
        };
        match (&self.read[found], wanted) {
            (Some(backend), Some(wanted)) if backend.protocol != wanted => {
                section.problem("backend", format!("`{name}` speaks {}, and {wanted} is needed here", backend.protocol));
                None
            }
            _ => Some(found),
        }
    }

    pub(super) fn timeout_of(&self, backend: usize) -> Duration {
        self.read[backend].as_ref().map_or(TIMEOUT, |backend| backend.timeout)
    }

    pub(super) fn protocol_of(&self, backend: usize) -> Option<Protocol> {
        self.read[backend].as_ref().map(|backend| backend.protocol)
    }
}

/// The name, if there is one at all, and the backend, if it is right.
fn backend(section: &mut Section<'_>) -> Option<(String, Option<Backend>)> {
    let name = section.key("name").required::<String>();
    let protocol = section.key("protocol").required();
    let addresses = addresses(section);
    let timeout = timeout(section, "timeout", TIMEOUT);
    let connect_timeout = self::timeout(section, "connect_timeout", CONNECT_TIMEOUT);
    let path = path(section, "path");
    if path.is_some() && protocol == Some(Protocol::Grpc) {
        section.problem("path", "is for http backends; commands to grpc backends go to CommandHandler.Execute");
    }
    let (health_check, ejection) = (health_check(section), ejection(section));
    let (circuit, retries) = (circuit(section), retries(section));
    let name = name?;
    if name.is_empty() || name.len() > MAX_ID_BYTES {
        section.problem("name", "is empty or longer than 128 bytes");
    }
    let path = path.unwrap_or_else(root);
    let backend = |name| {
        let (protocol, addresses) = (protocol?, addresses?);
        Some(Backend { name, protocol, addresses, timeout, connect_timeout, path, health_check, ejection, circuit, retries })
    };
    Some((name.clone(), backend(name)))
}

fn addresses(section: &mut Section<'_>) -> Option<Vec<Address>> {
    let single = section.key("address").optional::<String>();
    let several = section.key("addresses").list::<String>();
    let key = match (&single, several.is_empty()) {
        (Some(_), false) => {
            section.problem("addresses", "stands beside address; write one or the other");
            return None;
        }
        (Some(_), true) => "address",
        (None, false) => "addresses",
        (None, true) => {
            section.problem("address", "is required, or addresses with several");
            return None;
        }
    };
    let mut addresses = Vec::new();
    for text in single.into_iter().chain(several) {
        match text.parse::<Address>() {
            Ok(address) if addresses.contains(&address) => section.problem(key, format!("`{text}` stands there twice")),
            Ok(address) => addresses.push(address),
            Err(error) => {
                section.problem(key, format!("`{text}`: {error}"));
                return None;
            }
        }
    }
    Some(addresses)
}

fn health_check(outer: &mut Section<'_>) -> Option<HealthCheck> {
    let mut section = outer.section("health_check");
    let is_present = section.is_present();
    let interval = timeout(&mut section, "interval", Duration::from_secs(5));
    let timeout = timeout(&mut section, "timeout", Duration::from_secs(1));
    let healthy_threshold = section.key("healthy_threshold").within(2, 1..=100);
    let unhealthy_threshold = section.key("unhealthy_threshold").within(3, 1..=100);
    let service = section.key("service").or(String::new());
    let path = path(&mut section, "path").unwrap_or_else(root);
    section.finish();
    is_present.then_some(HealthCheck { interval, timeout, healthy_threshold, unhealthy_threshold, service, path })
}

fn ejection(outer: &mut Section<'_>) -> Ejection {
    let mut section = outer.section("outlier_ejection");
    let consecutive_failures = section.key("consecutive_failures").within(5, 1..=1000);
    let base_time = timeout(&mut section, "base_time", Duration::from_secs(10));
    let max_time = timeout(&mut section, "max_time", Duration::from_mins(5));
    if max_time < base_time {
        section.problem("max_time", "is shorter than base_time");
    }
    let max_percent = section.key("max_percent").within(50, 0..=100);
    section.finish();
    Ejection { consecutive_failures, base_time, max_time, max_percent }
}

fn circuit(outer: &mut Section<'_>) -> CircuitBreaker {
    let mut section = outer.section("circuit_breaker");
    let window = timeout(&mut section, "window", Duration::from_secs(10));
    let min_requests = section.key("min_requests").within(20, 1..=1_000_000);
    let failure_percent = section.key("failure_percent").within(50, 0..=100);
    let open_time = timeout(&mut section, "open_time", Duration::from_secs(5));
    let probes = section.key("probes").within(3, 1..=1000);
    section.finish();
    CircuitBreaker { window, min_requests, failure_percent, open_time, probes }
}

fn retries(outer: &mut Section<'_>) -> RetryBudget {
    let mut section = outer.section("retry_budget");
    let percent = section.key("percent").within(20, 0..=100);
    let min_per_second = section.key("min_per_second").within(3, 0..=10_000);
    section.finish();
    RetryBudget { percent, min_per_second }
}

fn root() -> PathAndQuery {
    PathAndQuery::from_static("/")
}

/// A path that can be asked for as it is.
pub(super) fn path(section: &mut Section<'_>, key: &'static str) -> Option<PathAndQuery> {
    let text = section.key(key).optional::<String>()?;
    match text.parse::<PathAndQuery>() {
        Ok(path) if text.starts_with('/') => Some(path),
        _ => {
            section.problem(key, format!("`{text}` is no path; write /path"));
            None
        }
    }
}

/// A length of time that is not zero.
pub(super) fn timeout(section: &mut Section<'_>, key: &'static str, default: Duration) -> Duration {
    let timeout = section.key(key).duration(default);
    if timeout.is_zero() {
        let why = if key == "timeout" { "is zero, so that nothing would ever be answered" } else { "is zero" };
        section.problem(key, why);
    }
    timeout
}
