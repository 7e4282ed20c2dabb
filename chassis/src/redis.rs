//! Redis with bounded waits: one multiplexed connection for commands, which reconnects by itself, and connections of their own for blocking reads.

mod tail;

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisConnectionInfo,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
pub use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection, cmd, pipe};

use crate::{
    config::{RedisAddr, RedisConfig},
    exit::Fatal,
};
use gatehouse_proto::ids::StreamId;
pub use tail::{Batch, Entry, Tail, entries, read_entries};

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// None came in time. Whether the command was carried out is unknown.
    #[error("Redis did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection is lost or was refused, or the server answered with an error.
    #[error("Redis: {0}")]
    Failed(#[from] redis::RedisError),
    /// The embedded server's password cannot be read.
    #[error("the Redis password cannot be read: {0}")]
    Password(#[source] std::io::Error),
    /// An answer of a shape that this command never has.
    #[error("Redis answered {0} with something else")]
    Unexpected(&'static str),
}

impl RedisError {
    /// Whether the server itself said no, as opposed to being away.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Failed(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension))
    }

    /// The error's code on the wire: `NOGROUP`, `OOM`.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Failed(error) => error.code(),
            _ => None,
        }
    }
}

/// A handle on the master; clones share one connection.
#[derive(Clone)]
pub struct Redis {
    commands: ConnectionManager,
    config: Arc<RedisConfig>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({})", self.config.addr)
    }
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// The newest id it ever gave out.
    pub last_generated: StreamId,
    /// The oldest entry that is still there.
    pub first: Option<StreamId>,
    /// Entries that are there.
    pub length: u64,
    /// Entries that ever were.
    pub entries_added: u64,
}

impl StreamInfo {
    /// Whether entries after `position` may have been removed.
    #[must_use]
    pub fn is_trimmed(&self, position: StreamId) -> bool {
        // Redis before 7 counts no additions: there, what is not known to be whole is taken for trimmed.
        self.entries_added != self.length && position < self.trimmed_up_to()
    }

    /// The largest id that entries which are gone may have had.
    #[must_use]
    pub fn trimmed_up_to(&self) -> StreamId {
        self.first.map_or(self.last_generated, StreamId::previous)
    }
}

impl Redis {
    /// Connects with the first command, and again with a later one when that failed: for the supervisor, whose own child the server may be, and whom an
    /// operator asks for help while it is away. Fails when the password cannot be read.
    pub fn lazy(config: &RedisConfig) -> Result<Self, RedisError> {
        let commands = ConnectionManager::new_lazy_with_config(client(config)?, manager(config))?;
        Ok(Self { commands, config: Arc::new(config.clone()) })
    }

    /// Connects and waits for one bounded PING. A refused password is a configuration error; silence may pass.
    pub async fn connect(config: &RedisConfig) -> anyhow::Result<Self> {
        let config = Arc::new(config.clone());
        let probe = ping(&config).await;
        if let Err(error) = probe {
            let message = format!("redis at {} does not answer PING: {error}", config.addr);
            return Err(match &error {
                RedisError::Failed(cause) if cause.kind() == ErrorKind::AuthenticationFailed => Fatal::config(message).into(),
                _ => anyhow::anyhow!(message),
            });
        }
        let commands = ConnectionManager::new_with_config(client(&config)?, manager(&config)).await?;
        Ok(Self { commands, config })
    }

    /// The settings it was made with.
    #[must_use]
    pub fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// A key under the configured prefix.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.config.key_prefix)
    }

    /// Runs one command. Never blocking ones: they would hold up everybody on this connection.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = self.commands.clone();
        self.bounded(command.query_async(&mut connection)).await
    }

    /// Runs several commands in one round trip.
    pub async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisError> {
        let mut connection = self.commands.clone();
        self.bounded(commands.query_async(&mut connection)).await
    }

    /// Whether the server answers now.
    pub async fn is_connected(&self) -> bool {
        self.run::<String>(&cmd("PING")).await.is_ok()
    }

    /// Makes the shared connection anew if it is broken. That is seen only by a command, which fails of it; better one of ours than a client's.
    async fn revive(&self) {
        if !self.is_connected().await {
            self.is_connected().await;
        }
    }

    /// Where a stream stands; one that does not exist stands at zero.
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, RedisError> {
        let mut connection = self.commands.clone();
        self.bounded_answer(tail::stream_info(&mut connection, stream)).await
    }

    /// Reads stream entries after `after` up to and including `until`, at most `count` of them.
    pub async fn range(&self, stream: &str, after: StreamId, until: StreamId, count: usize) -> Result<Vec<Entry>, RedisError> {
        let range = format!("({after}");
        let value: Value = self.run(cmd("XRANGE").arg(stream).arg(range).arg(until.to_string()).arg("COUNT").arg(count)).await?;
        entries(value).ok_or(RedisError::Unexpected("XRANGE"))
    }

    /// A connection of its own, for blocking reads: no time-out of its own, so that the caller sets the deadline.
    pub async fn dedicated(&self) -> Result<MultiplexedConnection, RedisError> {
        dedicated(&self.config).await
    }

    async fn bounded<T>(&self, answer: impl Future<Output = redis::RedisResult<T>>) -> Result<T, RedisError> {
        self.bounded_answer(async { Ok(answer.await?) }).await
    }

    /// The manager reconnects inside a command; the bound covers both.
    async fn bounded_answer<T>(&self, answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
        let bound = self.config.command_timeout;
        tokio::time::timeout(bound, answer).await.unwrap_or(Err(RedisError::Timeout(bound)))
    }
}

fn manager(config: &RedisConfig) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(500))
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(config.command_timeout))
}

fn client(config: &RedisConfig) -> Result<Client, RedisError> {
    let addr = match &config.addr {
        RedisAddr::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
        RedisAddr::Unix(path) => ConnectionAddr::Unix(path.clone()),
    };
    let password = config.password().map_err(RedisError::Password)?;
    let settings = RedisConnectionInfo::default().set_db(i64::from(config.db)).set_password(password.expose());
    let info = addr.into_connection_info()?.set_redis_settings(settings);
    Ok(Client::open(info)?)
}

async fn dedicated(config: &RedisConfig) -> Result<MultiplexedConnection, RedisError> {
    let bounds = AsyncConnectionConfig::new().set_connection_timeout(Some(config.connect_timeout)).set_response_timeout(None);
    let connect = async { Ok(client(config)?.get_multiplexed_async_connection_with_config(&bounds).await?) };
    tokio::time::timeout(config.connect_timeout, connect).await.unwrap_or(Err(RedisError::Timeout(config.connect_timeout)))
}

async fn ping(config: &RedisConfig) -> Result<(), RedisError> {
    let mut connection = dedicated(config).await?;
    let ping = cmd("PING");
    let answer = ping.query_async::<String>(&mut connection);
    let bound = config.connect_timeout;
    tokio::time::timeout(bound, answer).await.map_err(|_| RedisError::Timeout(bound))??;
    Ok(())
}
