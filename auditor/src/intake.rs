//! Reads the audit stream in a consumer group, and takes entries out of it once they are rows.
//!
//! A group read that is given up may still have been carried out: its entries are then pending, and no later read brings them. So a read that did
//! not end well costs the connection, and whoever begins anew reads its own pending entries first. An entry stays in the stream until
//! [`Intake::settle`], so nothing depends on this process living on.

use std::{pin::pin, time::Duration};

use futures_util::{FutureExt as _, future::FusedFuture};
use gatehouse_chassis::redis::{Connection, Entry, Redis, RedisError, Value, cmd, fewer, next_count, pipe, read_entries};
use gatehouse_proto::ids::StreamId;
use tokio::time::{Instant, timeout};

/// The consumer group.
pub const GROUP: &str = "auditor";
/// The one consumer in it: a successor finds what its predecessor left pending.
pub const CONSUMER: &str = "auditor-0";
/// Entries a read, at most. Each holds one producer's group commit, up to a few hundred records, a megabyte at worst.
const COUNT: usize = 200;
/// What a read is to bring at most, in bytes.
const READ_BYTES: usize = 8 << 20;
/// How long a read waits for entries.
const BLOCK_MS: u64 = 500;
/// Between attempts to end one early: it may not have arrived yet.
const AGAIN: Duration = Duration::from_millis(5);
/// How often pending entries are looked for while reads go well: one may have been delivered to a connection that was lost with the answer under way.
const RECHECK: Duration = Duration::from_secs(15);

/// A connection and what the server calls it, unless it does not say.
#[derive(Debug)]
struct Reading {
    connection: Connection,
    id: Option<i64>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Intake {
    redis: Redis,
    stream: String,
    connection: Option<Reading>,
    /// Pending entries are read after this one; `None` once there are no more.
    pending: Option<StreamId>,
    recheck_at: Instant,
    /// Entries of the next read.
    count: usize,
}

impl Intake {
    /// Connects when first read.
    #[must_use]
    pub fn new(redis: Redis, stream: String) -> Self {
        Self { redis, stream, connection: None, pending: Some(StreamId::ZERO), recheck_at: Instant::now() + RECHECK, count: COUNT }
    }

    /// The stream's key.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Reads everything that is pending again: something read was not written.
    pub fn rewind(&mut self) {
        self.pending = Some(StreamId::ZERO);
    }

    /// The next entries, oldest first: pending ones, then new ones. Empty when there are none; with `wait`, after half a second of silence, or once `enough`
    /// resolves.
    pub async fn read(&mut self, wait: bool, enough: impl Future<Output = ()>) -> Result<Vec<Entry>, RedisError> {
        let mut enough = pin!(enough.fuse());
        if self.pending.is_none() && Instant::now() >= self.recheck_at {
            self.rewind();
        }
        loop {
            let mut reading = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let read = self.read_on(&mut reading, wait, enough.as_mut()).await;
            match read {
                Ok(entries) => {
                    self.connection = Some(reading);
                    self.count = next_count(self.count, &entries, READ_BYTES).min(COUNT);
                    match (&mut self.pending, entries.last()) {
                        (None, _) => return Ok(entries),
                        (Some(after), Some(last)) => {
                            *after = last.id;
                            return Ok(entries);
                        }
                        (pending, None) => {
                            *pending = None;
                            self.recheck_at = Instant::now() + RECHECK;
                        }
                    }
                }
                // Redis was wiped. The group is made anew on the next connection.
                Err(error) if error.code() == Some("NOGROUP") => {
                    tracing::warn!(stream = self.stream, "the consumer group is gone, for Redis was emptied; making it anew");
                }
                Err(error) => {
                    self.count = fewer(self.count);
                    return Err(error);
                }
            }
        }
    }

    async fn read_on(
        &self,
        reading: &mut Reading,
        wait: bool,
        enough: impl FusedFuture<Output = ()> + Unpin,
    ) -> Result<Vec<Entry>, RedisError> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(CONSUMER).arg("COUNT").arg(self.count);
        if wait && self.pending.is_none() {
            read.arg("BLOCK").arg(BLOCK_MS);
        }
        let from = self.pending.map_or_else(|| ">".to_owned(), |after| after.to_string());
        read.arg("STREAMS").arg(&self.stream).arg(from);
        let bound = Duration::from_millis(BLOCK_MS) + self.redis.config().command_timeout;
        let mut answer = pin!(timeout(bound, read.query_async::<Value>(&mut reading.connection)));
        let answer = tokio::select! {
            biased;
            answer = answer.as_mut() => answer,
            // Given up, it might take entries with it; ended by the server, it takes none.
            () = self.end_when(reading.id, enough) => answer.await,
        };
        let answer = answer.map_err(|_| RedisError::Timeout(bound))??;
        read_entries(answer).ok_or(RedisError::Unexpected("XREADGROUP"))
    }

    /// Waits for `enough`, then ends that connection's blocking read. Resolves when there was one.
    async fn end_when(&self, id: Option<i64>, enough: impl FusedFuture<Output = ()> + Unpin) {
        let Some(id) = id.filter(|_| !enough.is_terminated()) else { return std::future::pending().await };
        enough.await;
        while !matches!(self.redis.run::<i64>(cmd("CLIENT").arg("UNBLOCK").arg(id)).await, Ok(1)) {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The longest that any call here may take: every wait has a bound, and this is their sum, rounded up.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let config = self.redis.config();
        config.connect_timeout + Duration::from_millis(BLOCK_MS) + config.command_timeout * 4
    }

    /// The newest entry that the stream ever had.
    pub async fn newest(&self) -> Result<StreamId, RedisError> {
        Ok(self.redis.stream_info(&self.stream).await?.last_generated)
    }

    /// Takes entries out of the group and out of the stream, which so holds what is not written yet and nothing else. Not by trimming: an older
    /// entry may be pending that this process has never seen.
    pub async fn settle(&self, entries: &[StreamId]) -> Result<(), RedisError> {
        let ids: Vec<_> = entries.iter().map(StreamId::to_string).collect();
        let mut settle = pipe();
        settle.atomic();
        settle.cmd("XACK").arg(&self.stream).arg(GROUP).arg(&ids).ignore();
        settle.cmd("XDEL").arg(&self.stream).arg(&ids).ignore();
        self.redis.run_all(&settle).await
    }

    async fn connect(&mut self) -> Result<Reading, RedisError> {
        let mut connection = self.redis.dedicated().await?;
        let bound = self.redis.config().command_timeout;
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(GROUP).arg("0").arg("MKSTREAM");
        let created = timeout(bound, create.query_async::<()>(&mut connection)).await.map_err(|_| RedisError::Timeout(bound))?;
        match created.map_err(RedisError::from) {
            Err(error) if error.code() != Some("BUSYGROUP") => return Err(error),
            _ => {}
        }
        let mut ask = cmd("CLIENT");
        let asked = timeout(bound, ask.arg("ID").query_async::<i64>(&mut connection)).await.map_err(|_| RedisError::Timeout(bound))?;
        self.rewind();
        Ok(Reading { connection, id: asked.ok() })
    }
}
