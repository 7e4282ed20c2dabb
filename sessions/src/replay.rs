//! Reserves request ids, so that each is carried out once.
//!
//! A reservation is made in one atomic step and outlives every moment at which the request's timestamp could still be fresh. Nothing may take it away before:
//! a Redis that evicts is not used ([`retention`]), and one that was wiped is noticed ([`eras`]). Where a route keeps answers, its answer lies under the
//! reservation's key ([`claim`]).

mod claim;
mod entry;
mod eras;
mod mark;
mod owner;
mod retention;

use std::time::Duration;

use gatehouse_chassis::{
    Process,
    redis::{Redis, pipe},
};

use crate::Refusal;
pub use claim::{Claim, Claimed, Found, Retry};
pub use entry::Keepsake;
pub(crate) use eras::Asked;
use owner::Owner;
pub(crate) use retention::Retention;

/// Clocks of several gateways differ by less.
const SKEW: Duration = Duration::from_secs(10);

/// The reservations in Redis; clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Reservations {
    redis: Redis,
    retention: Retention,
    owner: Owner,
    keep_ms: u64,
}

impl Reservations {
    pub(crate) fn new(process: &Process, redis: Redis, retention: Retention, window: Duration) -> Self {
        // The window on both sides: a timestamp may be of the future.
        let keep = window * 2 + SKEW;
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        Self { owner: Owner::new(process, &redis), redis, retention, keep_ms }
    }

    /// Reserves the request id of a session; refused when it is taken.
    pub(crate) async fn reserve(&self, request_id: &str, asked: Asked<'_>) -> Result<(), Refusal> {
        self.retention.check().await?;
        let mut reserve = pipe();
        reserve.cmd("SET").arg(self.redis.key(&key(asked.session, request_id))).arg("1").arg("NX").arg("PX").arg(self.keep_ms);
        // After it: a mark that is there was there when the id was reserved.
        reserve.cmd("GET").arg(self.retention.mark());
        let (set, mark): (Option<String>, Option<Vec<u8>>) = self.redis.run_all(&reserve).await.map_err(|error| {
            tracing::debug!(%error, "request id not reserved");
            Refusal::StoreUnavailable
        })?;
        set.ok_or(Refusal::Replay)?;
        self.retention.admit(mark.as_deref(), asked).await
    }
}

/// `replay:{session}:{request}`. A colon in the session's id is escaped, so that session `a:b` with request `c` and session `a` with request `b:c` do
/// not share a key: nobody burns another's request id.
fn key(device_session_id: &str, request_id: &str) -> String {
    let session = device_session_id.replace('%', "%25").replace(':', "%3A");
    format!("replay:{session}:{request_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_key_is_the_contract_s() {
        assert_eq!(key("ds-1", "req-1"), "replay:ds-1:req-1");
    }

    #[test]
    fn no_two_pairs_share_a_key() {
        let pairs = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a", "b%3Ac"), ("a:", "c"), ("a", ":c")];
        let keys: std::collections::BTreeSet<_> = pairs.iter().map(|(session, request)| key(session, request)).collect();
        assert_eq!(keys.len(), pairs.len(), "{keys:?}");
    }
}
