//! `[listen]`, `[supervisor]` and `[limits.<component>]`.

mod limits;
mod logs;

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use gatehouse_chassis::{
    config::{self, DEFAULT_PATH, ListenAddr, Reader},
    connections,
};

pub use limits::Limits;
pub use logs::Logs;

use crate::{child::Policy, component::Component, control::Access};

/// The supervisor's own configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file to pass on to children; `None`: they read the default one, as we did.
    pub path: Option<PathBuf>,
    /// `[listen]`.
    pub listen: Listen,
    /// `[supervisor] start_timeout`: until when every component must be ready after the start of the suite. Default 60 s.
    pub start_timeout: Duration,
    /// `[supervisor] redis_server`: the embedded server's binary, a path or a name looked up in PATH. Default `redis-server`.
    pub redis_server: PathBuf,
    /// `[supervisor] held_answer_after`: how long nobody may accept on a public socket before clients are told so. Default 2 s; `None`, written 0s: never.
    pub held_answer_after: Option<Duration>,
    /// `[supervisor] ready_timeout`, `restart_ceiling`, `stable_after`, `quarantine_after`, `probe_interval`.
    pub restarts: Restarts,
    /// `[supervisor] control_group`, `operators`: who may change the suite.
    pub access: Access,
    /// `[supervisor.logs]`.
    pub logs: Logs,
    /// `[connections]`, `[tls]`: how clients come that nobody serves.
    pub connections: connections::Config,
    /// `[limits.<component>]`, by component.
    pub limits: Vec<(&'static str, Limits)>,
}

/// When a child is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarts {
    /// How long one child may take to say `READY=1` before it is killed. Default 30 s.
    pub ready_timeout: Duration,
    /// The longest wait before a restart. Default 10 s.
    pub ceiling: Duration,
    /// How long a child must have been ready for its earlier exits to be forgotten. Default 60 s.
    pub stable_after: Duration,
    /// After how many exits in a row it is quarantined. Default 10, from 2 to 1000.
    pub quarantine_after: u32,
    /// How often a quarantined child is tried again. Default 60 s.
    pub probe_interval: Duration,
}

/// Where the suite listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `GATEWAY_PUBLIC_HTTP_ADDR`, default `:8080`: the edge's HTTP.
    pub http: ListenAddr,
    /// `GATEWAY_AUTHENTICATED_GRPC_ADDR`, default `:9090`: the edge's gRPC.
    pub grpc: ListenAddr,
    /// `GATEWAY_ADMIN_HTTP_ADDR`: the admin's HTTP; none by default.
    pub admin: Option<ListenAddr>,
    /// `GATEWAY_PUSH_GRPC_ADDR`: the pushers' gRPC; none by default.
    pub push: Option<ListenAddr>,
}

impl Listen {
    /// The configured addresses with the names of their sockets.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, SocketAddr)> {
        let optional = [("admin", self.admin), ("push", self.push)].into_iter().filter_map(|(name, address)| Some((name, address?.0)));
        [("http", self.http.0), ("grpc", self.grpc.0)].into_iter().chain(optional).collect()
    }
}

impl config::Config for Config {
    fn read(reader: &mut Reader) -> Option<Self> {
        let path = (reader.path() != DEFAULT_PATH).then(|| reader.path().to_owned());
        let listen = read_listen(reader);
        let mut section = reader.section("supervisor");
        let start_timeout = section.key("start_timeout").duration(Duration::from_mins(1));
        let redis_server = section.key("redis_server").or(PathBuf::from("redis-server"));
        let held_answer_after = section.key("held_answer_after").duration(Duration::from_secs(2));
        let held_answer_after = Some(held_answer_after).filter(|after| !after.is_zero());
        let restarts = Restarts {
            ready_timeout: section.key("ready_timeout").duration(Duration::from_secs(30)),
            ceiling: section.key("restart_ceiling").duration(Duration::from_secs(10)),
            stable_after: section.key("stable_after").duration(Duration::from_mins(1)),
            quarantine_after: section.key("quarantine_after").within(10, 2..=1000),
            probe_interval: section.key("probe_interval").duration(Duration::from_mins(1)),
        };
        let access = Access::read(&mut section);
        let logs = Logs::read(&mut section);
        section.finish();
        let limits = limits::read(reader);
        let connections = connections::Config::read(reader)?;
        Some(Self { path, listen, start_timeout, redis_server, held_answer_after, restarts, access, logs, connections, limits })
    }
}

impl Config {
    /// What each process of that component may use.
    pub(crate) fn limits_of(&self, component: Component) -> Limits {
        self.limits.iter().find(|(name, _)| *name == component.name()).map(|(_, limits)| *limits).unwrap_or_default()
    }
}

impl Restarts {
    /// The policy of a component with that drain budget.
    pub(crate) fn policy(&self, component: Component, budget: Duration) -> Policy {
        Policy {
            overlaps: component.overlaps(),
            ready_timeout: self.ready_timeout,
            budget,
            stable_after: self.stable_after,
            ceiling: self.ceiling,
            quarantine_after: self.quarantine_after,
            probe_interval: self.probe_interval,
        }
    }
}

fn read_listen(reader: &mut Reader) -> Listen {
    let every = |port| ListenAddr(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    let mut section = reader.section("listen");
    let listen = Listen {
        http: section.key("http").env("GATEWAY_PUBLIC_HTTP_ADDR").or(every(8080)),
        grpc: section.key("grpc").env("GATEWAY_AUTHENTICATED_GRPC_ADDR").or(every(9090)),
        admin: section.key("admin").env("GATEWAY_ADMIN_HTTP_ADDR").optional::<OrNone>().and_then(|OrNone(address)| address),
        push: section.key("push").env("GATEWAY_PUSH_GRPC_ADDR").optional::<OrNone>().and_then(|OrNone(address)| address),
    };
    let named = listen.named();
    for (i, (name, address)) in named.iter().enumerate() {
        let twin = named.iter().take(i).find(|(_, other)| other == address && address.port() != 0);
        if let Some((twin, _)) = twin {
            section.problem(name, format!("{address} is already the address of listen.{twin}"));
        }
    }
    section.finish();
    listen
}

/// An address, or nothing: `admin = ""` says that there is no listener.
struct OrNone(Option<ListenAddr>);

impl std::str::FromStr for OrNone {
    type Err = <ListenAddr as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_chassis::config::{Config as _, Source};

    fn read(text: &str, env: &[(&str, &str)]) -> (Option<Config>, Vec<String>) {
        let mut reader = Reader::new(Source::of(text, env));
        let config = Config::read(&mut reader);
        (config, reader.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let (config, problems) = read("", &[]);
        let config = config.unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let named: Vec<_> = config.listen.named().iter().map(|(name, address)| format!("{name} {address}")).collect();
        assert_eq!(named, ["http [::]:8080", "grpc [::]:9090"]);
        assert_eq!((config.start_timeout, config.restarts.quarantine_after), (Duration::from_mins(1), 10));
        assert_eq!(config.held_answer_after, Some(Duration::from_secs(2)));
    }

    #[test]
    fn every_key_is_read_and_the_environment_beats_the_file() {
        let text = r#"
            [listen]
            http = "127.0.0.1:1"
            grpc = "127.0.0.1:2"
            admin = "127.0.0.1:3"
            push = "127.0.0.1:4"
            [supervisor]
            start_timeout = "5s"
            redis_server = "/opt/redis"
            held_answer_after = "7s"
            ready_timeout = "1s"
            restart_ceiling = "2s"
            stable_after = "3s"
            quarantine_after = 4
            probe_interval = "6s"
            control_group = "daemon"
            operators = ["root", "group:daemon", "3999999"]
        "#;
        let (config, problems) = read(text, &[("GATEWAY_PUSH_GRPC_ADDR", "127.0.0.1:5")]);
        let config = config.unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let ports: Vec<_> = config.listen.named().iter().map(|(_, address)| address.port()).collect();
        assert_eq!(ports, [1, 2, 3, 5]);
        let seconds = Duration::from_secs;
        let restarts = Restarts {
            ready_timeout: seconds(1),
            ceiling: seconds(2),
            stable_after: seconds(3),
            quarantine_after: 4,
            probe_interval: seconds(6),
        };
        assert_eq!((config.start_timeout, config.redis_server, config.restarts), (seconds(5), "/opt/redis".into(), restarts));
        assert_eq!(config.held_answer_after, Some(seconds(7)));
        let (never, _) = read("[supervisor]\nheld_answer_after = \"0s\"", &[]);
        assert_eq!(never.unwrap().held_answer_after, None);
        let operators: Vec<_> = config.access.operators.iter().map(ToString::to_string).collect();
        assert_eq!(
            (config.access.group.as_deref(), operators),
            (Some("daemon"), vec!["root".into(), "group:daemon".into(), "3999999".into()])
        );
    }

    #[test]
    fn operators_whom_nobody_knows_are_known_by_name_and_a_group_must_be() {
        let text =
            "[supervisor]\ncontrol_group = \"no-such\"\noperators = [\"root\", \"nosuchuser\", \"group:no-such\", \"group:7\", \"a b\"]";
        let problems = [
            "gateway.toml:2: supervisor.control_group: there is no group no-such",
            "gateway.toml:3: supervisor.operators: `a b`: names no user; write `alice`, or `group:ops` for a group",
        ];
        assert_eq!(read(text, &[]).1, problems);
        let (config, _) = read("[supervisor]\noperators = [\"root\", \"nosuchuser\", \"group:no-such\", \"group:7\"]", &[]);
        let unknown: Vec<_> = config.unwrap().access.unknown_operators().collect();
        assert_eq!(unknown, ["there is no user nosuchuser", "there is no group no-such"]);
    }

    #[test]
    fn two_listeners_on_one_address_and_unknown_keys_are_refused() {
        let (_, problems) = read("[listen]\nhttp = \":8080\"\ngrpc = \":8080\"\nhtpp = 1\n[supervisor]\nquarantine_after = 1", &[]);
        assert_eq!(
            problems,
            [
                "gateway.toml:3: listen.grpc: [::]:8080 is already the address of listen.http",
                "gateway.toml:4: listen.htpp: unknown key; did you mean `http`?",
                "gateway.toml:6: supervisor.quarantine_after: 1 is outside 2..=1000",
            ]
        );
    }
}
