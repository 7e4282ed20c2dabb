//! Reserves request ids, so that each is carried out once.

use std::time::Duration;

use gatehouse_chassis::redis::{Redis, cmd};

use crate::Refusal;

/// Reserves the request id of a session, in one atomic step; refused when it is taken. The reservation outlives every moment at which the
/// request's timestamp could still be fresh: the window on both sides.
pub(crate) async fn reserve(redis: &Redis, device_session_id: &str, request_id: &str, window: Duration) -> Result<(), Refusal> {
    let key = redis.key(&key(device_session_id, request_id));
    // A second more, for clocks of several gateways that differ.
    let keep = window * 2 + Duration::from_secs(1);
    let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
    let set: Result<Option<String>, _> = redis.run(cmd("SET").arg(key).arg("1").arg("NX").arg("PX").arg(keep_ms)).await;
    match set {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Refusal::Replay),
        Err(error) => {
            tracing::debug!(%error, "request id not reserved");
            Err(Refusal::StoreUnavailable)
        }
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
