//! `[[backend]]`, `[[command]]`, `[[route]]` and `[auth]`: what stands behind the edge, and what goes where.

mod address;
mod overload;
mod pattern;

use std::{fmt, str::FromStr, time::Duration};

use gatehouse_chassis::config::{Config as Read, Reader, Section, unknown_key};
use gatehouse_proto::limits::MAX_ID_BYTES;

pub use address::{Address, InvalidAddress};
pub use overload::{Overload, Priority};

/// How long a backend may take when nothing says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Paths that the edge answers itself, whatever the routes say.
pub(crate) const OWN_PATHS: [&str; 7] =
    ["/healthz", "/health", "/api/v1/health", "/readyz", "/health/ready", "/api/v1/health/ready", "/api/v1/public/keys"];
/// What belongs to `[auth]`.
pub(crate) const AUTH_PREFIX: &str = "/api/v1/public/auth";

/// The checked configuration of the edge.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[signer]`, `[sessions]`, `[limits]`.
    pub sessions: gatehouse_sessions::Config,
    /// `[[backend]]`; the routes name them by their places here.
    pub backends: Vec<Backend>,
    /// `[[command]]`.
    pub commands: Vec<Command>,
    /// `[[route]]`.
    pub routes: Vec<Route>,
    /// `[overload]`.
    pub overload: Overload,
    /// `[auth] backend`: where `/api/v1/public/auth/*` goes.
    pub auth: Option<usize>,
}

/// One `[[backend]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `name`: how routes, metrics and the audit trail call it.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `address`: `host:port`, `http://host:port` or `unix:/path`.
    pub address: Address,
    /// `timeout`: how long it may take, unless the route says less or more. Default 10 s.
    pub timeout: Duration,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `gateway.downstream.v1.CommandHandler`, for commands.
    Grpc,
    /// HTTP/1.1, for routes.
    Http,
}

/// One `[[command]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// `message_type`, matched exactly, or as a prefix when it ends with an asterisk: `orders.*`.
    pub message_type: String,
    /// `backend`.
    pub backend: usize,
    /// `timeout`; the backend's unless given.
    pub timeout: Duration,
    /// `audit`; required unless given.
    pub audit: Audit,
    /// `priority`; normal unless given.
    pub priority: Priority,
}

/// One `[[route]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `prefix`, of whole path segments, without a slash at its end.
    pub prefix: String,
    /// `backend`.
    pub backend: usize,
    /// `strip_prefix`: the backend sees the path without it.
    pub strip_prefix: bool,
    /// `audit`; best effort unless given.
    pub audit: Audit,
    /// `priority`; normal unless given.
    pub priority: Priority,
}

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// The answer leaves when its record is in Redis or on disk, and not otherwise.
    Required,
    /// The record is handed over and may be lost when the queue is full.
    BestEffort,
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

impl FromStr for Audit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "required" => Ok(Self::Required),
            "best_effort" => Ok(Self::BestEffort),
            _ => Err("is neither required nor best_effort"),
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::BestEffort => "best_effort",
        })
    }
}

impl Read for Config {
    fn read(reader: &mut Reader) -> Option<Self> {
        let sessions = gatehouse_sessions::Config::read(reader);
        let backends = Backends::read(reader);
        let commands = commands(reader, &backends);
        let routes = routes(reader, &backends);
        let mut section = reader.section("auth");
        let auth = section.key("backend").optional::<String>();
        let auth = auth.and_then(|name| backends.named(&mut section, &name, Protocol::Http));
        section.finish();
        let overload = Overload::read(reader);
        let whole = backends.read.into_iter().collect::<Option<Vec<_>>>();
        Some(Self { sessions: sessions?, backends: whole?, commands, routes, overload, auth })
    }
}

/// The backends as they were read. One that is wrong keeps its name, so that those who name it are not told that it is unknown.
struct Backends {
    names: Vec<String>,
    read: Vec<Option<Backend>>,
}

impl Backends {
    fn read(reader: &mut Reader) -> Self {
        let mut names = Vec::<String>::new();
        let read = reader.each("backend", |section| {
            let name = section.key("name").required::<String>();
            let protocol = section.key("protocol").required();
            let address = section.key("address").required();
            let timeout = timeout(section, TIMEOUT);
            let name = name?;
            if name.is_empty() || name.len() > MAX_ID_BYTES {
                section.problem("name", "is empty or longer than 128 bytes");
            }
            if names.contains(&name) {
                section.problem("name", format!("`{name}` is the name of another backend already"));
            }
            names.push(name.clone());
            let whole = || Some(Backend { name, protocol: protocol?, address: address?, timeout });
            Some(whole())
        });
        Self { names, read }
    }

    /// The backend of that name, if it speaks what its user needs.
    fn named(&self, section: &mut Section<'_>, name: &str, wanted: Protocol) -> Option<usize> {
        let Some(found) = self.names.iter().position(|known| known == name) else {
            let known: Vec<_> = self.names.iter().map(String::as_str).collect();
            let message = if known.is_empty() { "there is no [[backend]]".to_owned() } else { unknown_key("backend", name, &known) };
            section.problem("backend", format!("`{name}`: {message}"));
            return None;
        };
        match &self.read[found] {
            Some(backend) if backend.protocol != wanted => {
                section.problem("backend", format!("`{name}` speaks {}, and {wanted} is needed here", backend.protocol));
                None
            }
            _ => Some(found),
        }
    }

    fn timeout_of(&self, backend: usize) -> Duration {
        self.read[backend].as_ref().map_or(TIMEOUT, |backend| backend.timeout)
    }
}

fn commands(reader: &mut Reader, backends: &Backends) -> Vec<Command> {
    let mut seen = Vec::<String>::new();
    reader.each("command", |section| {
        let message_type = section.key("message_type").required::<String>();
        let backend = section.key("backend").required::<String>();
        let backend = backend.and_then(|name| backends.named(section, &name, Protocol::Grpc));
        let timeout = timeout(section, backend.map_or(TIMEOUT, |backend| backends.timeout_of(backend)));
        let audit = section.key("audit").or(Audit::Required);
        let priority = section.key("priority").or(Priority::Normal);
        let message_type = message_type?;
        if let Some(problem) = pattern::problem(&message_type) {
            section.problem("message_type", problem);
        }
        if seen.contains(&message_type) {
            section.problem("message_type", format!("`{message_type}` has a route already"));
        }
        seen.push(message_type.clone());
        Some(Command { message_type, backend: backend?, timeout, audit, priority })
    })
}

fn routes(reader: &mut Reader, backends: &Backends) -> Vec<Route> {
    let mut seen = Vec::<String>::new();
    reader.each("route", |section| {
        let prefix = section.key("prefix").required::<String>();
        let backend = section.key("backend").required::<String>();
        let backend = backend.and_then(|name| backends.named(section, &name, Protocol::Http));
        let strip_prefix = section.key("strip_prefix").or(false);
        let audit = section.key("audit").or(Audit::BestEffort);
        let priority = section.key("priority").or(Priority::Normal);
        let prefix = prefix?;
        if let Some(problem) = prefix_problem(&prefix) {
            section.problem("prefix", format!("`{prefix}` {problem}"));
        }
        let prefix = if prefix.len() > 1 { prefix.trim_end_matches('/').to_owned() } else { prefix };
        if seen.contains(&prefix) {
            section.problem("prefix", format!("`{prefix}` has a route already"));
        }
        seen.push(prefix.clone());
        Some(Route { prefix, backend: backend?, strip_prefix, audit, priority })
    })
}

fn prefix_problem(prefix: &str) -> Option<&'static str> {
    let own = |path: &str| OWN_PATHS.contains(&path) || path == AUTH_PREFIX || path.starts_with("/api/v1/public/auth/");
    if !prefix.starts_with('/') {
        Some("does not begin with a slash")
    } else if prefix.len() > 256 || !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)) {
        Some("is not a plain path: letters, digits and the signs that need no escape, at most 256 bytes")
    } else if prefix.split('/').any(|segment| segment == "." || segment == "..") || prefix.contains("//") {
        Some("has an empty or a dot segment")
    } else if own(prefix.trim_end_matches('/')) {
        Some("is answered by the gateway itself")
    } else {
        None
    }
}

fn timeout(section: &mut Section<'_>, default: Duration) -> Duration {
    let timeout = section.key("timeout").duration(default);
    if timeout.is_zero() {
        section.problem("timeout", "is zero, so that nothing would ever be answered");
    }
    timeout
}

#[cfg(test)]
mod tests;
