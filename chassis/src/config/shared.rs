//! The sections that every process reads.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{Config, Reader, RedisAddr, Secret, TracingConfig};

/// What every process knows of the suite.
#[derive(Clone, Debug)]
pub struct Shared {
    /// `[suite] state_dir`, `GATEWAY_STATE_DIR`: what survives a reboot.
    pub state_dir: PathBuf,
    /// `[suite] runtime_dir`, `GATEWAY_RUNTIME_DIR`: local sockets.
    pub runtime_dir: PathBuf,
    /// `[suite] pushers`: how many pushers run.
    pub pushers: u32,
    /// `[redis]`.
    pub redis: RedisConfig,
    /// `[database] url`, `GATEWAY_DATABASE_URL`.
    pub database: DatabaseUrl,
    /// `[database] migrate_on_start`: owners of tables migrate them at start instead of refusing to start.
    pub migrate_on_start: bool,
    /// `[shutdown]`.
    pub budgets: Budgets,
    /// `[spool] max_bytes`: how much of the audit trail each process keeps on disk while Redis is away.
    pub spool_max_bytes: u64,
    /// `[log]`.
    pub log: LogConfig,
    /// `[sentry]`.
    pub sentry: SentryConfig,
    /// `[tracing]`.
    pub tracing: TracingConfig,
}

impl Config for Shared {
    fn read(reader: &mut Reader) -> Option<Self> {
        let mut suite = reader.section("suite");
        let state_dir = suite.key("state_dir").env("GATEWAY_STATE_DIR").or(PathBuf::from("/var/lib/gatehouse"));
        let runtime_dir = suite.key("runtime_dir").env("GATEWAY_RUNTIME_DIR").or(PathBuf::from("/run/gatehouse"));
        let pushers = suite.key("pushers").within(2, 1..=64);
        suite.finish();
        let redis = RedisConfig::read(reader, &state_dir, &runtime_dir);
        let mut section = reader.section("database");
        let url = section.key("url").env("GATEWAY_DATABASE_URL").secret("url_file", "database-url");
        let migrate_on_start = section.key("migrate_on_start").or(false);
        let database = match url.map(|url| DatabaseUrl::parse(&url)) {
            None => Some(DatabaseUrl::Sqlite { dir: state_dir.clone() }),
            Some(Ok(url)) => Some(url),
            Some(Err(message)) => {
                section.problem("url", message);
                None
            }
        };
        section.finish();
        let budgets = Budgets::read(reader);
        let mut spool = reader.section("spool");
        let spool_max_bytes = spool.key("max_bytes").within(256 << 20, 1 << 20..);
        spool.finish();
        let log = LogConfig::read(reader);
        let sentry = SentryConfig::read(reader);
        let tracing = TracingConfig::read(reader);
        let (redis, database) = (redis?, database?);
        Some(Self { state_dir, runtime_dir, pushers, redis, database, migrate_on_start, budgets, spool_max_bytes, log, sentry, tracing })
    }
}

impl Shared {
    /// The local gRPC socket of one process: `edge.sock`, `pusher-0.sock`.
    #[must_use]
    pub fn local_socket(&self, component: &str, instance: u32) -> PathBuf {
        let name = if component == "pusher" { format!("{component}-{instance}.sock") } else { format!("{component}.sock") };
        self.runtime_dir.join(name)
    }

    /// How many instances of a component run.
    #[must_use]
    pub fn instances(&self, component: &str) -> u32 {
        if component == "pusher" { self.pushers } else { 1 }
    }
}

/// `[redis]`: one master, with a password, without TLS.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it listens; the supervisor's own child when none was configured.
    pub addr: RedisAddr,
    /// No address was configured: the supervisor runs it.
    pub embedded: bool,
    password: Password,
    /// Accepted, reserved for read routing.
    pub replica_addrs: Vec<RedisAddr>,
    /// The database number.
    pub db: u16,
    /// Stands before every key but the two streams' names.
    pub key_prefix: String,
    /// In full, not prefixed.
    pub session_events_stream: String,
    /// In full, not prefixed.
    pub client_events_stream: String,
    /// Bounds a connection attempt with its AUTH and SELECT.
    pub connect_timeout: Duration,
    /// Bounds every other command.
    pub command_timeout: Duration,
}

#[derive(Clone, Debug)]
enum Password {
    Given(Secret),
    File(PathBuf),
}

impl RedisConfig {
    fn read(reader: &mut Reader, state_dir: &Path, runtime_dir: &Path) -> Option<Self> {
        let mut section = reader.section("redis");
        let addr = section.key("master_addr").env("GATEWAY_REDIS_MASTER_ADDR").optional::<String>();
        let addr = addr.filter(|text| !text.is_empty());
        let embedded = addr.is_none();
        let parsed = match addr.as_deref().map(str::parse::<RedisAddr>) {
            None => Some(RedisAddr::Unix(runtime_dir.join("redis.sock"))),
            Some(Ok(addr)) => Some(addr),
            Some(Err(error)) => {
                section.problem("master_addr", format!("GATEWAY_REDIS_MASTER_ADDR `{}`: {error}", addr.unwrap_or_default()));
                None
            }
        };
        let given = section.key("password").env("GATEWAY_REDIS_PASSWORD").secret("password_file", "redis-password");
        let password = match given {
            Some(secret) if !embedded => Some(Password::Given(secret)),
            _ if embedded => Some(Password::File(embedded_password_path(state_dir))),
            _ => {
                section.problem("password", "GATEWAY_REDIS_PASSWORD is required with an address");
                None
            }
        };
        let replica_addrs = section.key("replica_addrs").env("GATEWAY_REDIS_REPLICA_ADDRS").list();
        let db = section.key("db").env("GATEWAY_REDIS_DB").or(0);
        let key_prefix = section.key("key_prefix").env("GATEWAY_REDIS_KEY_PREFIX").or("gateway:".to_owned());
        let session_events_stream =
            section.key("session_events_stream").env("GATEWAY_SESSION_EVENTS_REDIS_STREAM").or("gateway:session_events".to_owned());
        let client_events_stream =
            section.key("client_events_stream").env("GATEWAY_CLIENT_EVENTS_REDIS_STREAM").or("gateway:client_events".to_owned());
        let connect_timeout = section.key("connect_timeout").duration(Duration::from_secs(2));
        let command_timeout = section.key("command_timeout").duration(Duration::from_secs(1));
        section.finish();
        Some(Self {
            addr: parsed?,
            embedded,
            password: password?,
            replica_addrs,
            db,
            key_prefix,
            session_events_stream,
            client_events_stream,
            connect_timeout,
            command_timeout,
        })
    }

    /// The password; of the embedded server, read from the file that the supervisor made.
    pub fn password(&self) -> io::Result<Secret> {
        match &self.password {
            Password::Given(secret) => Ok(secret.clone()),
            Password::File(path) => fs::read_to_string(path).map(|text| Secret::new(text.trim_end().to_owned())),
        }
    }
}

/// Where the supervisor keeps the password of the embedded server.
#[must_use]
pub fn embedded_password_path(state_dir: &Path) -> PathBuf {
    state_dir.join("redis.password")
}

/// `[database] url`.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// A file for each owner in this directory: `audit.db`, `admin.db`.
    Sqlite {
        /// The state directory.
        dir: PathBuf,
    },
    /// One database for all owners.
    Postgres(Secret),
}

impl DatabaseUrl {
    fn parse(url: &Secret) -> Result<Self, &'static str> {
        let text = url.expose();
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Ok(Self::Postgres(url.clone()))
        } else {
            Err("GATEWAY_DATABASE_URL is not a postgres:// URL; leave it out for SQLite in the state directory")
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { dir } => write!(f, "sqlite in {}", dir.display()),
            Self::Postgres(_) => f.write_str("postgres://…"),
        }
    }
}

/// `[shutdown]`: how long each component may drain.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// The edge's.
    pub edge: Duration,
    /// Each pusher's.
    pub pusher: Duration,
    /// The auditor's.
    pub auditor: Duration,
    /// The admin's.
    pub admin: Duration,
    /// The embedded Redis server's.
    pub redis: Duration,
}

impl Budgets {
    fn read(reader: &mut Reader) -> Self {
        let mut section = reader.section("shutdown");
        let timeout = section.key("timeout").env("GATEWAY_SHUTDOWN_TIMEOUT").duration(Duration::from_secs(5));
        let [edge, pusher, auditor, admin, redis] =
            ["edge", "pusher", "auditor", "admin", "redis"].map(|component| section.key(component).duration(timeout));
        section.finish();
        Self { edge, pusher, auditor, admin, redis }
    }

    /// The budget of the component of that name.
    #[must_use]
    pub fn of(&self, component: &str) -> Duration {
        match component {
            "edge" => self.edge,
            "pusher" => self.pusher,
            "auditor" => self.auditor,
            "redis" => self.redis,
            _ => self.admin,
        }
    }
}

/// `[log]`.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// `LOG_LEVEL`: debug, info, warn, error.
    pub level: tracing::Level,
    /// `LOG_FORMAT`: json or text; by default json unless stderr is a terminal.
    pub format: Option<LogFormat>,
    /// `slow_request`: what takes as long is told at info, as what failed is. `None`: nothing is slow.
    pub slow_request: Option<Duration>,
    /// `request_lines_per_second`: how many slow and failed requests are told at info in a second.
    pub request_lines_per_second: u32,
}

impl LogConfig {
    fn read(reader: &mut Reader) -> Self {
        let mut section = reader.section("log");
        let level = section.key("level").env("LOG_LEVEL").or(Level(tracing::Level::INFO)).0;
        let format = section.key("format").env("LOG_FORMAT").optional();
        let slow_request = Some(section.key("slow_request").duration(Duration::from_secs(1))).filter(|slow| !slow.is_zero());
        let request_lines_per_second = section.key("request_lines_per_second").or(10);
        section.finish();
        Self { level, format, slow_request, request_lines_per_second }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err("is neither json nor text"),
        }
    }
}

struct Level(tracing::Level);

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "debug" => Ok(Self(tracing::Level::DEBUG)),
            "info" => Ok(Self(tracing::Level::INFO)),
            "warn" => Ok(Self(tracing::Level::WARN)),
            "error" => Ok(Self(tracing::Level::ERROR)),
            _ => Err("is none of debug, info, warn, error"),
        }
    }
}

/// `[sentry]`.
#[derive(Clone, Debug)]
pub struct SentryConfig {
    /// `SENTRY_DSN`: where errors and panics are reported; none: nowhere.
    pub dsn: Option<Secret>,
    /// `SENTRY_ENVIRONMENT`.
    pub environment: Option<String>,
    /// `SENTRY_JS_DSN`: handed to the operator's browser by the admin UI.
    pub js_dsn: Option<Secret>,
}

impl SentryConfig {
    fn read(reader: &mut Reader) -> Self {
        let mut section = reader.section("sentry");
        let dsn = section.key("dsn").env("SENTRY_DSN").secret("dsn_file", "sentry-dsn");
        let environment = section.key("environment").env("SENTRY_ENVIRONMENT").optional();
        let js_dsn = section.key("js_dsn").env("SENTRY_JS_DSN").secret("js_dsn_file", "sentry-js-dsn");
        for (key, value) in [("dsn", &dsn), ("js_dsn", &js_dsn)] {
            if value.as_ref().is_some_and(|dsn| dsn.expose().parse::<sentry::types::Dsn>().is_err()) {
                section.problem(key, "is not a Sentry DSN");
            }
        }
        section.finish();
        Self { dsn, environment, js_dsn }
    }
}
