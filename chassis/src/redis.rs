//! Redis with bounded waits: one shared connection for commands, which is replaced when it is of no more use, and connections of their own for blocking reads.

mod dial;
mod error;
mod link;
mod standing;
mod tail;

use std::sync::Arc;

use redis::FromRedisValue;
pub use redis::{Cmd, Pipeline, Value, cmd, pipe};

use crate::{config::RedisConfig, exit::Fatal};
pub use dial::Connection;
pub use error::RedisError;
use gatehouse_proto::ids::StreamId;
use link::Link;
pub use standing::{Standing, Survey};
pub use tail::{Batch, Entry, Tail, entries, fewer, next_count, read_entries};

/// A handle on the master; clones share one connection.
#[derive(Clone)]
pub struct Redis {
    link: Arc<Link>,
    config: Arc<RedisConfig>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({}, {})", self.config.addr, if self.link.is_open() { "open" } else { "closed" })
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
        config.password().map_err(|error| RedisError::Password(Arc::new(error)))?;
        let config = Arc::new(config.clone());
        Ok(Self { link: Link::new(Arc::clone(&config)), config })
    }

    /// Connects and waits for one bounded PING. A refused password or database is a configuration error; silence may pass.
    pub async fn connect(config: &RedisConfig) -> anyhow::Result<Self> {
        let config = Arc::new(config.clone());
        let connection = match ping(&config).await {
            Ok(connection) => connection,
            Err(error) => {
                let message = format!("redis at {} does not answer PING: {error}", config.addr);
                return Err(if error.is_misconfigured() { Fatal::config(message).into() } else { anyhow::anyhow!(message) });
            }
        };
        let link = Link::new(Arc::clone(&config));
        link.adopt(connection);
        Ok(Self { link, config })
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
        let run = |mut connection: Connection| async move { Ok(command.query_async(&mut connection).await?) };
        self.link.run(true, run).await
    }

    /// Runs several commands in one round trip.
    pub async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisError> {
        let run = |mut connection: Connection| async move { Ok(commands.query_async(&mut connection).await?) };
        // Some may have been carried out before the first that was refused.
        self.link.run(false, run).await
    }

    /// Which of its connections, one after another, commands are sent on: another number, and there may be another server at the other end, or the same
    /// with other settings.
    #[must_use]
    pub fn connection_number(&self) -> u64 {
        self.link.number()
    }

    /// Whether the server answers now.
    pub async fn is_connected(&self) -> bool {
        self.run::<String>(&cmd("PING")).await.is_ok()
    }

    /// Where a stream stands; one that does not exist stands at zero.
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, RedisError> {
        self.link.run(true, |mut connection: Connection| async move { tail::stream_info(&mut connection, stream).await }).await
    }

    /// Reads stream entries after `after` up to and including `until`, at most `count` of them.
    pub async fn range(&self, stream: &str, after: StreamId, until: StreamId, count: usize) -> Result<Vec<Entry>, RedisError> {
        let range = format!("({after}");
        let value: Value = self.run(cmd("XRANGE").arg(stream).arg(range).arg(until.to_string()).arg("COUNT").arg(count)).await?;
        entries(value).ok_or(RedisError::Unexpected("XRANGE"))
    }

    /// Reads stream entries up to and including `until`, newest first, at most `count` of them.
    pub async fn range_back(&self, stream: &str, until: StreamId, count: usize) -> Result<Vec<Entry>, RedisError> {
        let value: Value = self.run(cmd("XREVRANGE").arg(stream).arg(until.to_string()).arg("-").arg("COUNT").arg(count)).await?;
        entries(value).ok_or(RedisError::Unexpected("XREVRANGE"))
    }

    /// A connection of its own, for blocking reads: the caller sets the deadline.
    pub async fn dedicated(&self) -> Result<Connection, RedisError> {
        dial::dial(&self.config).await
    }
}

async fn ping(config: &RedisConfig) -> Result<Connection, RedisError> {
    let mut connection = dial::dial(config).await?;
    let (ping, bound) = (cmd("PING"), config.connect_timeout);
    let answer = ping.query_async::<String>(&mut connection);
    tokio::time::timeout(bound, answer).await.map_err(|_| RedisError::Timeout(bound))??;
    Ok(connection)
}
