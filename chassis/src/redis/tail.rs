//! Follows a stream from a position on, without a group: every process sees every entry.

mod ledger;

use std::time::Duration;

use bytes::Bytes;
use gatehouse_proto::ids::StreamId;
use redis::{FromRedisValue as _, Value, aio::ConnectionLike, cmd, pipe};

use super::{Connection, Redis, RedisError, StreamInfo};
use crate::backoff::Backoff;
use ledger::{Ledger, Verdict};

/// How long one read waits for entries. Also how fresh the horizon of an idle stream is.
const BLOCK_MS: u64 = 1000;
/// The longest wait before it connects anew.
const BACKOFF: Duration = Duration::from_secs(2);
/// The most entries a read.
const MAX_COUNT: usize = 1000;
/// Entries of the first read, when nobody knows how large they are, and of those that find fewer than they ask for: among the next may be large ones.
const FIRST_COUNT: usize = 100;
/// What a read is to bring at most, in bytes: entries may hold a megabyte each.
const READ_BYTES: usize = 8 << 20;
/// How far the horizon of a silent stream stays behind the server's clock: ids may go back by so much, when the clock is set or when a replica with
/// another clock takes over, and no entry ever appears behind the horizon.
const CLOCK_SLACK_MS: u64 = 1000;

/// One entry of a stream. Names and values may be any bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub id: StreamId,
    /// In the order they were written.
    pub fields: Vec<(Bytes, Bytes)>,
}

impl Entry {
    /// The fields as slices, as parsers take them.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn size(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// How many entries to ask for next, after `asked` of which these came: as many of their size as make `bytes`, and at most four times as many, for those that
/// come next may be larger.
#[must_use]
pub fn next_count(asked: usize, entries: &[Entry], bytes: usize) -> usize {
    let mean = entries.iter().map(Entry::size).sum::<usize>() / entries.len().max(1);
    (bytes / mean.max(1)).min(asked.saturating_mul(4)).max(1)
}

/// How many to ask for after a read of `asked` that failed: they may have been too many for the time that a command has.
#[must_use]
pub fn fewer(asked: usize) -> usize {
    (asked / 4).max(1)
}

/// What one read brought.
#[derive(Debug)]
pub struct Batch {
    /// New entries, oldest first.
    pub entries: Vec<Entry>,
    /// Every entry up to this id has been handed out, and the server will make no more of them: a point that a cursor can move on to while a
    /// stream is silent. It presumes ids made by the server (`XADD … *`).
    pub horizon: StreamId,
    /// The stream was found emptied, or to have lost its newest entries, since the last batch; reading has begun again from its start.
    pub wiped: bool,
    /// Entries up to this id may have been removed before they were read; `entries` come after.
    pub trimmed: Option<StreamId>,
    /// Nothing more was there to be read.
    pub caught_up: bool,
    /// The value of the watched key after the read, if there is a key and it is there; see [`Tail::watching`].
    pub watched: Option<Bytes>,
}

/// A reader of one stream, on a connection of its own. Reconnects with back-off.
#[derive(Debug)]
pub struct Tail {
    redis: Redis,
    stream: String,
    position: StreamId,
    horizon: StreamId,
    watched_key: Option<String>,
    count: usize,
    ledger: Ledger,
    // Noticed, and not yet told.
    wiped: bool,
    trimmed: Option<StreamId>,
    connection: Option<Connection>,
    backoff: Backoff,
    failed: bool,
}

impl Tail {
    /// Reads what comes after `position`: the id of an entry that was read, or the newest that the stream ever gave out.
    #[must_use]
    pub fn new(redis: &Redis, stream: impl Into<String>, position: StreamId) -> Self {
        Self {
            redis: redis.clone(),
            stream: stream.into(),
            position,
            horizon: position,
            watched_key: None,
            count: FIRST_COUNT,
            ledger: Ledger::default(),
            wiped: false,
            trimmed: None,
            connection: None,
            backoff: Backoff::new(Duration::from_millis(50), BACKOFF),
            failed: false,
        }
    }

    /// Reads that key's value (a string) after the entries, each time. A stream that was emptied and filled again between two reads looks as if nothing had
    /// happened; a key that went with it does not.
    #[must_use]
    pub fn watching(mut self, key: impl Into<String>) -> Self {
        self.watched_key = Some(key.into());
        self
    }

    /// The longest that [`Tail::next`] may take: every wait in it has a bound, and this is their sum, rounded up.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let config = &self.redis.config;
        BACKOFF + config.connect_timeout + Duration::from_millis(BLOCK_MS) + config.command_timeout * 4
    }

    /// The next entries, or an empty batch after about a second of silence; on a new connection at once. After an error, the next call waits
    /// and connects anew; nothing is skipped. Dropping the future loses nothing either.
    pub async fn next(&mut self) -> Result<Batch, RedisError> {
        if std::mem::replace(&mut self.failed, true) {
            self.connection = None;
            self.count = fewer(self.count);
            tokio::time::sleep(self.backoff.next_delay()).await;
        }
        let batch = self.read().await?;
        self.failed = false;
        self.backoff.reset();
        Ok(batch)
    }

    async fn read(&mut self) -> Result<Batch, RedisError> {
        let mut block = self.connection.is_some();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.redis.dedicated().await?,
        };
        if !block {
            // The shared connection is made anew, if it must be, by a command of ours rather than by a client's.
            self.redis.is_connected().await;
        }
        let (read, verdict) = loop {
            let read = self.ask(&mut connection, block).await?;
            let after = read.entries.last().map_or(self.position, |last| last.id);
            match self.ledger.judge(self.position, read.entries.len(), after, &read.info) {
                // What came of it may not be all of it.
                Verdict::Replaced => (self.wiped, self.position, self.ledger, block) = (true, StreamId::ZERO, Ledger::default(), false),
                verdict => break (read, verdict),
            }
        };
        // From here on nothing waits or fails: what is told is told whole.
        let Read { entries, info, time_ms, watched } = read;
        if verdict == Verdict::Lost {
            self.trimmed = Some(entries.first().map_or(info.trimmed_up_to().max(self.position), |first| first.id.previous()));
            self.position = self.position.max(info.trimmed_up_to());
        }
        // Whatever had an id of an earlier millisecond than TIME was there to be read, unless the read was full.
        let full = entries.len() >= self.count;
        let known = if full { StreamId::ZERO } else { StreamId::just_before(time_ms.saturating_sub(CLOCK_SLACK_MS)) };
        if let Some(last) = entries.last() {
            self.position = last.id;
            self.count = next_count(self.count, &entries, READ_BYTES).min(if full { MAX_COUNT } else { FIRST_COUNT });
        }
        self.horizon = self.horizon.max(known).max(self.position);
        self.connection = Some(connection);
        let watched = if self.watched_key.is_some() { bulk(watched) } else { None };
        let (wiped, trimmed) = (std::mem::take(&mut self.wiped), self.trimmed.take());
        Ok(Batch { entries, horizon: self.horizon, wiped, trimmed, caught_up: !full, watched })
    }

    /// Reads, and asks in the same round trip how the stream stands after that.
    async fn ask(&self, connection: &mut Connection, block: bool) -> Result<Read, RedisError> {
        let mut read = pipe();
        read.cmd("TIME").cmd("XREAD").arg("COUNT").arg(self.count);
        if block {
            read.arg("BLOCK").arg(BLOCK_MS);
        }
        read.arg("STREAMS").arg(&self.stream).arg(self.position.to_string());
        read.cmd("XINFO").arg("STREAM").arg(&self.stream);
        match &self.watched_key {
            Some(key) => read.cmd("GET").arg(key),
            None => read.cmd("ECHO").arg(""),
        };
        let bound = Duration::from_millis(BLOCK_MS) + self.redis.config.command_timeout;
        // One by one, for a stream that does not exist is no reason to fail.
        let answers = connection.req_packed_commands(&read, 0, 4);
        let answers = tokio::time::timeout(bound, answers).await.map_err(|_| RedisError::Timeout(bound))??;
        let [time, streams, info, watched] = <[Value; 4]>::try_from(answers).map_err(|_| RedisError::Unexpected("XREAD"))?;
        Ok(Read {
            entries: read_entries(streams.extract_error()?).ok_or(RedisError::Unexpected("XREAD"))?,
            info: info_of(info.extract_error())?,
            time_ms: milliseconds(&time.extract_error()?)?,
            watched: watched.extract_error()?,
        })
    }
}

/// What came of one question.
struct Read {
    entries: Vec<Entry>,
    info: StreamInfo,
    time_ms: u64,
    watched: Value,
}

fn milliseconds(time: &Value) -> Result<u64, RedisError> {
    let (seconds, micros) = <(u64, u64)>::from_redis_value_ref(time).map_err(|_| RedisError::Unexpected("TIME"))?;
    Ok(seconds * 1000 + micros / 1000)
}

/// The entries of an answer of XREAD or XREADGROUP for one stream: nothing, or `[[name, entries]]`. `None` when it is something else.
#[must_use]
pub fn read_entries(value: Value) -> Option<Vec<Entry>> {
    match value {
        Value::Nil => Some(Vec::new()),
        Value::Array(mut streams) if streams.len() == 1 => match streams.pop()? {
            Value::Array(mut stream) if stream.len() == 2 => entries(stream.pop()?),
            _ => None,
        },
        _ => None,
    }
}

/// A list of entries, as XRANGE and XREADGROUP answer it. `None` when it is something else.
#[must_use]
pub fn entries(value: Value) -> Option<Vec<Entry>> {
    let Value::Array(list) = value else { return None };
    list.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let Value::Array(parts) = value else { return None };
    let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
    let id = std::str::from_utf8(&bulk(id)?).ok()?.parse().ok()?;
    let mut values = match fields {
        Value::Array(values) => values.into_iter(),
        // An entry that was deleted while it was pending.
        Value::Nil => Vec::new().into_iter(),
        _ => return None,
    };
    let mut fields = Vec::with_capacity(values.len() / 2);
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        fields.push((bulk(name)?, bulk(value)?));
    }
    Some(Entry { id, fields })
}

fn bulk(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

pub(super) async fn stream_info(connection: &mut (impl ConnectionLike + Send), stream: &str) -> Result<StreamInfo, RedisError> {
    info_of(cmd("XINFO").arg("STREAM").arg(stream).query_async(connection).await)
}

fn info_of(answer: redis::RedisResult<Value>) -> Result<StreamInfo, RedisError> {
    let fields = match answer {
        Ok(Value::Array(fields)) => fields,
        Ok(_) => return Err(RedisError::Unexpected("XINFO")),
        // "ERR no such key"
        Err(error) if error.detail().is_some_and(|detail| detail.contains("no such key")) => return Ok(StreamInfo::default()),
        Err(error) => return Err(error.into()),
    };
    let mut info = StreamInfo::default();
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let number = |value: &Value| if let Value::Int(number) = value { u64::try_from(*number).unwrap_or_default() } else { 0 };
        match bulk(name).as_deref() {
            Some(b"last-generated-id") => {
                info.last_generated = bulk(value).and_then(|id| std::str::from_utf8(&id).ok()?.parse().ok()).unwrap_or_default();
            }
            Some(b"length") => info.length = number(&value),
            Some(b"entries-added") => info.entries_added = number(&value),
            Some(b"first-entry") => info.first = entry(value).map(|entry| entry.id),
            _ => {}
        }
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_grow_at_most_fourfold_and_shrink_to_what_fits_and_after_a_failure() {
        let of = |size: usize| vec![Entry { id: StreamId::ZERO, fields: vec![(Bytes::new(), vec![0; size].into())] }; 3];
        assert_eq!(next_count(32, &of(1), 1 << 20), 128);
        assert_eq!(next_count(1000, &of(1 << 18), 1 << 20), 4);
        assert_eq!(next_count(1000, &of(1 << 21), 1 << 20), 1);
        assert_eq!(next_count(100, &[], 1 << 20), 400);
        assert_eq!([1000, 100, 4, 3, 1].map(fewer), [250, 25, 1, 1, 1]);
    }
}
