//! `[[backend]]`, `[[command]]`, `[[route]]` and `[auth]`: what stands behind the edge, and what goes where.

mod address;
mod backend;
mod overload;
mod pattern;
mod transfer;

use std::{fmt, str::FromStr, time::Duration};

use gatehouse_chassis::{
    config::{Config as Read, Reader},
    connections,
};
use http::uri::PathAndQuery;

pub use address::{Address, InvalidAddress};
pub use backend::{Backend, CircuitBreaker, Ejection, HealthCheck, Protocol, RetryBudget};
use backend::{Backends, TIMEOUT, path, timeout};
pub use overload::{Overload, Priority};
pub use transfer::Transfer;

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
    /// `[auth]`: where `/api/v1/public/auth/*` goes.
    pub auth: Option<Auth>,
    /// `[connections]`, `[tls]`.
    pub connections: connections::Config,
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
    /// `replay`: what a request id gets that was used before; refuse unless given.
    pub replay: Replay,
    /// `idempotent`: it may be carried out twice, so that it is sent again when nobody knows what became of it. Default false.
    pub idempotent: bool,
    /// `path`: where an HTTP backend takes it; the backend's unless given.
    pub path: Option<PathAndQuery>,
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
    /// `timeout`, to the head of the answer; the backend's unless given.
    pub timeout: Duration,
    /// As `[http]` says, unless given.
    pub transfer: Transfer,
}

/// `[auth]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth {
    /// `backend`.
    pub backend: usize,
    /// `timeout`, to the head of the answer; the backend's unless given.
    pub timeout: Duration,
    /// As `[http]` says, unless given.
    pub transfer: Transfer,
}

/// What a command gets whose request id was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It is refused.
    Refuse,
    /// A retry with the same envelope gets the first one's answer, which is kept for it.
    Answer,
}

impl FromStr for Replay {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "answer" => Ok(Self::Answer),
            _ => Err("is neither refuse nor answer"),
        }
    }
}

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// The answer leaves when its record is in Redis or on disk, and not otherwise.
    Required,
    /// The record is handed over and may be lost when the queue is full.
    BestEffort,
    /// As required, and nothing is carried out before another record says that it will be.
    Intent,
}

impl FromStr for Audit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "required" => Ok(Self::Required),
            "best_effort" => Ok(Self::BestEffort),
            "intent" => Ok(Self::Intent),
            _ => Err("is none of required, best_effort, intent"),
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::BestEffort => "best_effort",
            Self::Intent => "intent",
        })
    }
}

impl Read for Config {
    fn read(reader: &mut Reader) -> Option<Self> {
        let connections = connections::Config::read(reader);
        let sessions = gatehouse_sessions::Config::read(reader);
        let backends = Backends::read(reader);
        let commands = commands(reader, &backends);
        let transfer = Transfer::read(reader);
        let routes = routes(reader, &backends, transfer);
        let auth = auth(reader, &backends, transfer);
        let overload = Overload::read(reader);
        let whole = backends.read.into_iter().collect::<Option<Vec<_>>>();
        Some(Self { sessions: sessions?, backends: whole?, commands, routes, overload, auth, connections: connections? })
    }
}

fn commands(reader: &mut Reader, backends: &Backends) -> Vec<Command> {
    let mut seen = Vec::<String>::new();
    reader.each("command", |section| {
        let message_type = section.key("message_type").required::<String>();
        let backend = section.key("backend").required::<String>();
        let backend = backend.and_then(|name| backends.named(section, &name, None));
        let timeout = timeout(section, "timeout", backend.map_or(TIMEOUT, |backend| backends.timeout_of(backend)));
        let audit = section.key("audit").or(Audit::Required);
        let replay = section.key("replay").or(Replay::Refuse);
        let priority = section.key("priority").or(Priority::Normal);
        let idempotent = section.key("idempotent").or(false);
        let path = path(section, "path");
        if path.is_some() && backend.and_then(|backend| backends.protocol_of(backend)) == Some(Protocol::Grpc) {
            section.problem("path", "is for http backends; commands to grpc backends go to CommandHandler.Execute");
        }
        let message_type = message_type?;
        if let Some(problem) = pattern::problem(&message_type) {
            section.problem("message_type", problem);
        }
        if seen.contains(&message_type) {
            section.problem("message_type", format!("`{message_type}` has a route already"));
        }
        seen.push(message_type.clone());
        Some(Command { message_type, backend: backend?, timeout, audit, replay, idempotent, path, priority })
    })
}

fn auth(reader: &mut Reader, backends: &Backends, transfer: Transfer) -> Option<Auth> {
    let mut section = reader.section("auth");
    let backend = section.key("backend").optional::<String>();
    let backend = backend.and_then(|name| backends.named(&mut section, &name, Some(Protocol::Http)));
    let timeout = timeout(&mut section, "timeout", backend.map_or(TIMEOUT, |backend| backends.timeout_of(backend)));
    let transfer = transfer.or_as_in(&mut section);
    section.finish();
    Some(Auth { backend: backend?, timeout, transfer })
}

fn routes(reader: &mut Reader, backends: &Backends, transfer: Transfer) -> Vec<Route> {
    let mut seen = Vec::<String>::new();
    reader.each("route", |section| {
        let prefix = section.key("prefix").required::<String>();
        let backend = section.key("backend").required::<String>();
        let backend = backend.and_then(|name| backends.named(section, &name, Some(Protocol::Http)));
        let strip_prefix = section.key("strip_prefix").or(false);
        let audit = section.key("audit").or(Audit::BestEffort);
        let timeout = timeout(section, "timeout", backend.map_or(TIMEOUT, |backend| backends.timeout_of(backend)));
        let transfer = transfer.or_as_in(section);
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
        Some(Route { prefix, backend: backend?, strip_prefix, audit, priority, timeout, transfer })
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
    } else if prefix.contains(';') {
        Some("has a parameter; what follows a semicolon is part of no route")
    } else if own(prefix.trim_end_matches('/')) {
        Some("is answered by the gateway itself")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
