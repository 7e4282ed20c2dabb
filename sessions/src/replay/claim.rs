//! The first of several equal commands, and its retries.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gatehouse_chassis::redis::{Cmd, RedisError, cmd, pipe};
use gatehouse_proto::gateway::v1::ExecuteCommandRequest;
use tokio::time::Instant;

use super::{
    Asked, Reservations,
    entry::{Digest, Entry, Keepsake, digest},
    owner::{Owner, Working},
};
use crate::{Refusal, now_ms};

/// Between two looks at what the first does, at first and at last.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_LAST: Duration = Duration::from_millis(200);
/// Replaces a value that is still the same, and keeps the time it has left.
const REPLACE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') return 1 end return 0";
/// Removes a value that is still the same.
const REMOVE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// Whether a command is the first of its envelope.
#[derive(Debug)]
pub enum Claimed {
    /// It is to be carried out.
    First(Claim),
    /// The first is, or was.
    Again(Retry),
}

/// What became of the first.
#[derive(Debug)]
pub enum Found {
    /// This.
    Kept(Keepsake),
    /// It reached nobody, and this one is to be carried out in its place.
    First(Claim),
    /// It is still being carried out, and whoever asks has no more time.
    Pending,
}

/// The right to carry a command out, once. Dropped before [`Claim::begin`], also while it is being made, it is given back; dropped after that, it is left to
/// nobody: retries are told that the outcome is unknown.
#[derive(Debug)]
pub struct Claim {
    reservations: Reservations,
    key: String,
    digest: Digest,
    pending: Vec<u8>,
    begun: bool,
    _working: Working,
}

/// A command whose like has been seen.
#[derive(Debug)]
pub struct Retry {
    reservations: Reservations,
    request: Arc<Wanted>,
    entry: Entry,
}

/// What a claim is made of.
#[derive(Debug)]
struct Wanted {
    device_session_id: String,
    key: String,
    digest: Digest,
    timestamp_ms: i64,
    limit: Duration,
}

impl Claim {
    /// From here on the command may reach somebody.
    #[must_use]
    pub fn begin(mut self) -> Self {
        self.begun = true;
        self
    }

    /// Keeps what came of it for its retries, in place of the reservation and for as long. A Redis that is away costs them the answer.
    pub async fn keep(self, keepsake: Keepsake) {
        let kept = Entry::Kept(keepsake).encode(&self.digest);
        let replace = cmd("EVAL").arg(REPLACE).arg(1).arg(&self.key).arg(&self.pending).arg(kept).clone();
        if let Err(error) = self.reservations.redis.run::<i64>(&replace).await {
            tracing::warn!(%error, "the answer of a command was not kept for its retries");
        }
    }

    /// Gives it back: the command reached nobody, and a retry is to be carried out.
    pub async fn release(mut self) {
        self.begun = true;
        if let Err(error) = self.reservations.redis.run::<i64>(&self.removal()).await {
            tracing::warn!(%error, "the reservation of a command that reached nobody was not given back");
        }
    }

    fn removal(&self) -> Cmd {
        cmd("EVAL").arg(REMOVE).arg(1).arg(&self.key).arg(&self.pending).clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.begun {
            // It goes the same way as what reserved it, and behind it.
            self.reservations.owner.give_up(self.removal());
        }
    }
}

impl Retry {
    /// Waits for what becomes of the first, at most for so long, and no longer than whoever carries it out lives or may take.
    pub async fn outcome(mut self, patience: Duration) -> Result<Found, Refusal> {
        let (deadline, mut delay) = (Instant::now().checked_add(patience), LOOK_FIRST);
        loop {
            let (owner, until_ms) = match self.entry {
                Entry::Kept(keepsake) => return Ok(Found::Kept(keepsake)),
                Entry::Pending { owner, until_ms, .. } => (owner, until_ms),
            };
            if now_ms() > until_ms {
                return Ok(Found::Kept(Keepsake::Unknown));
            }
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(Found::Pending);
            }
            tokio::time::sleep(delay.min(left)).await;
            delay = (delay * 2).min(LOOK_LAST);

            let redis = &self.reservations.redis;
            let mut look = pipe();
            look.cmd("GET").arg(&self.request.key).add_command(Owner::is_alive(redis, &owner));
            let (value, lives): (Option<Vec<u8>>, bool) = redis.run_all(&look).await.map_err(unavailable)?;
            self.entry = match value {
                Some(value) => Entry::decode(&value.into(), &self.request.digest).ok_or(Refusal::Replay)?,
                None => match self.reservations.take(&self.request).await? {
                    Taken::First(claim) => return Ok(Found::First(claim)),
                    Taken::Again(entry) => entry,
                },
            };
            if matches!(self.entry, Entry::Pending { owner: now, .. } if now == owner) && !lives {
                return Ok(Found::Kept(Keepsake::Unknown));
            }
        }
    }
}

/// Whether it was set now, what is there, and the mark.
type Reserved = (Option<String>, Option<Vec<u8>>, Option<Vec<u8>>);

enum Taken {
    First(Claim),
    Again(Entry),
}

impl Reservations {
    /// Reserves the request id for an answer that is kept. `limit` is how long carrying it out may take at the most.
    pub(crate) async fn claim(&self, request: &ExecuteCommandRequest, limit: Duration) -> Result<Claimed, Refusal> {
        let wanted = Arc::new(Wanted {
            device_session_id: request.device_session_id.clone(),
            key: self.redis.key(&super::key(&request.device_session_id, &request.request_id)),
            digest: digest(request),
            timestamp_ms: request.timestamp_ms,
            limit,
        });
        Ok(match self.take(&wanted).await? {
            Taken::First(claim) => Claimed::First(claim),
            Taken::Again(entry) => Claimed::Again(Retry { reservations: self.clone(), request: wanted, entry }),
        })
    }

    async fn take(&self, wanted: &Wanted) -> Result<Taken, Refusal> {
        self.retention.check().await?;
        let until_ms = now_ms().saturating_add(i64::try_from(wanted.limit.as_millis()).unwrap_or(i64::MAX));
        let pending = Entry::Pending { owner: self.owner.id(), until_ms, attempt: self.owner.attempt() }.encode(&wanted.digest);
        // Before it is made: whoever leaves meanwhile gives it back.
        let mut claim = Claim {
            reservations: self.clone(),
            key: wanted.key.clone(),
            digest: wanted.digest,
            pending,
            begun: false,
            _working: self.owner.begin(),
        };
        let mut reserve = pipe();
        reserve.add_command(self.owner.sign(&self.redis)).ignore();
        reserve.cmd("SET").arg(&claim.key).arg(&claim.pending).arg("NX").arg("PX").arg(self.keep_ms);
        // One that was there has to outlive this timestamp, too.
        reserve.cmd("PEXPIRE").arg(&claim.key).arg(self.keep_ms).ignore();
        reserve.cmd("GET").arg(&claim.key).cmd("GET").arg(self.retention.mark());
        let (set, value, mark): Reserved = self.redis.run_all(&reserve).await.map_err(unavailable)?;
        let asked = Asked { session: &wanted.device_session_id, timestamp_ms: wanted.timestamp_ms, is_command: true };
        let admitted = self.retention.admit(mark.as_deref(), asked).await;
        if set.is_some() {
            return match admitted {
                Ok(()) => Ok(Taken::First(claim)),
                Err(refusal) => {
                    claim.release().await;
                    Err(refusal)
                }
            };
        }
        // Nothing was reserved by this one, and what is given again was carried out before, whenever that was.
        claim.begun = true;
        // Between the two it may have run out: then it is long ago that its timestamp was fresh.
        let value = Bytes::from(value.ok_or(Refusal::Replay)?);
        Entry::decode(&value, &wanted.digest).map(Taken::Again).ok_or(Refusal::Replay)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn unavailable(error: RedisError) -> Refusal {
    tracing::debug!(%error, "request id not reserved");
    Refusal::StoreUnavailable
}
