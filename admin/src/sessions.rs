//! Device sessions in Redis: the key, and the stream that tells edge and pushers (CONTRACT.md §2).
//!
//! What a change makes of the stored state is decided by pure functions; it is written only if that state is still what was read, key and stream
//! entry in one step. So of two writers at once neither undoes the other, and a snapshot that is written supersedes the one it replaces.

use gatehouse_chassis::redis::{Redis, RedisError, cmd};
use gatehouse_proto::session::{SessionSnapshot, Status};
use prometheus::IntGauge;

use crate::Refusal;

/// Writes key and stream entry if the key still holds what was read (`ARGV[1]`; empty: nothing).
const SWAP: &str = "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2]) \
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3)) \
    return 1";
/// How often a change is decided anew because somebody else was faster.
const ATTEMPTS: u32 = 16;

/// The sessions of the suite.
#[derive(Clone, Debug)]
pub struct Sessions {
    redis: Redis,
    active: IntGauge,
}

/// A session that is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Checked: 1 to 128 bytes.
    pub device_session_id: String,
    /// Checked: 1 to 128 bytes.
    pub user_id: String,
    /// Checked: padded base64 of a usable key.
    pub public_key: String,
}

impl Sessions {
    /// `active` is moved along with each change, until the next census.
    #[must_use]
    pub const fn new(redis: Redis, active: IntGauge) -> Self {
        Self { redis, active }
    }

    /// The session of that id.
    pub async fn show(&self, id: &str) -> Result<SessionSnapshot, Refusal> {
        let (_, current) = self.read(id).await?;
        current.ok_or(Refusal::NotFound)
    }

    /// Makes a session, or makes a revoked one anew.
    pub async fn create(&self, wanted: &Wanted) -> Result<SessionSnapshot, Refusal> {
        let (session, _) = self.change(&wanted.device_session_id, |current, now| created(current, wanted, now)).await?;
        self.active.inc();
        Ok(session)
    }

    /// Revokes a session; one that is revoked already stays as it is.
    pub async fn revoke(&self, id: &str) -> Result<SessionSnapshot, Refusal> {
        let (session, changed) = self.change(id, revoked).await?;
        if changed {
            self.active.dec();
        }
        Ok(session)
    }

    /// Reads, decides, writes; again while others are faster. The state that stands now, and whether it was changed.
    async fn change(
        &self,
        id: &str,
        decide: impl Fn(Option<&SessionSnapshot>, i64) -> Result<SessionSnapshot, Refusal>,
    ) -> Result<(SessionSnapshot, bool), Refusal> {
        for _ in 0..ATTEMPTS {
            let (stored, current) = self.read(id).await?;
            let next = decide(current.as_ref(), jiff::Timestamp::now().as_millisecond())?;
            if current.as_ref() == Some(&next) {
                return Ok((next, false));
            }
            if self.swap(id, &stored, &next).await? {
                return Ok((next, true));
            }
        }
        Err(Refusal::Contended)
    }

    async fn read(&self, id: &str) -> Result<(Vec<u8>, Option<SessionSnapshot>), Refusal> {
        let stored: Option<Vec<u8>> = self.redis.run(cmd("GET").arg(self.key(id))).await?;
        let Some(stored) = stored else { return Ok((Vec::new(), None)) };
        match SessionSnapshot::from_json(&stored) {
            Ok(snapshot) => Ok((stored, Some(snapshot))),
            Err(error) => {
                tracing::warn!(session.id = id, %error, "the stored session is malformed");
                Err(Refusal::Unreadable)
            }
        }
    }

    async fn swap(&self, id: &str, expected: &[u8], next: &SessionSnapshot) -> Result<bool, RedisError> {
        let mut swap = cmd("EVAL");
        swap.arg(SWAP).arg(2).arg(self.key(id)).arg(&self.redis.config().session_events_stream);
        swap.arg(expected).arg(next.to_json());
        for (name, value) in next.to_fields() {
            swap.arg(name).arg(value);
        }
        self.redis.run(&swap).await
    }

    fn key(&self, id: &str) -> String {
        self.redis.key(&format!("session:{id}"))
    }
}

/// After the state it replaces, whatever the clocks say.
fn later(current: Option<&SessionSnapshot>, now: i64) -> i64 {
    current.map_or(now, |current| now.max(current.updated_at_ms.saturating_add(1)))
}

fn created(current: Option<&SessionSnapshot>, wanted: &Wanted, now: i64) -> Result<SessionSnapshot, Refusal> {
    if current.is_some_and(|current| current.status == Status::Active) {
        return Err(Refusal::Exists);
    }
    let Wanted { device_session_id, user_id, public_key } = wanted.clone();
    let updated_at_ms = later(current, now);
    Ok(SessionSnapshot { device_session_id, user_id, public_key, status: Status::Active, updated_at_ms, revoked_at_ms: None })
}

fn revoked(current: Option<&SessionSnapshot>, now: i64) -> Result<SessionSnapshot, Refusal> {
    let current = current.ok_or(Refusal::NotFound)?;
    if current.status == Status::Revoked {
        return Ok(current.clone());
    }
    let at = later(Some(current), now);
    Ok(SessionSnapshot { status: Status::Revoked, updated_at_ms: at, revoked_at_ms: Some(at), ..current.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(status: Status, updated_at_ms: i64) -> SessionSnapshot {
        let wanted = Wanted { device_session_id: "ds-1".into(), user_id: "u-1".into(), public_key: "key".into() };
        SessionSnapshot { status, ..created(None, &wanted, updated_at_ms).unwrap() }
    }

    #[test]
    fn every_change_supersedes_what_it_replaces_even_when_clocks_lag() {
        let wanted = Wanted { device_session_id: "ds-1".into(), user_id: "u-2".into(), public_key: "key".into() };
        for (at, now) in [(1000, 2000), (1000, 1000), (5000, 1000)] {
            let active = stored(Status::Active, at);
            let gone = revoked(Some(&active), now).unwrap();
            assert!(gone.supersedes(&active) && gone.revoked_at_ms == Some(gone.updated_at_ms));
            let again = created(Some(&gone), &wanted, now).unwrap();
            assert!(again.supersedes(&gone) && again.user_id == "u-2" && again.revoked_at_ms.is_none());
        }
    }

    #[test]
    fn an_active_session_is_not_made_twice_and_a_revoked_one_not_revoked_twice() {
        let wanted = Wanted { device_session_id: "ds-1".into(), user_id: "u-1".into(), public_key: "key".into() };
        assert!(matches!(created(Some(&stored(Status::Active, 1)), &wanted, 2), Err(Refusal::Exists)));
        let gone = stored(Status::Revoked, 1);
        assert_eq!(revoked(Some(&gone), 2).unwrap(), gone);
        assert!(matches!(revoked(None, 2), Err(Refusal::NotFound)));
    }
}
