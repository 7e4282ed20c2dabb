//! Whether the suite is ready: everything that a request may need is asked, at once, each for a bounded time.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use gatehouse_chassis::{
    ipc::{self, Channel},
    members::Members,
    redis::{Redis, Standing},
};
use serde_json::{Value, json};

use crate::{relay::Pushers, trail::Trail};

/// How long each may take to answer.
const BOUND: Duration = Duration::from_secs(1);
/// What the auditor calls its database in `grpc.health.v1`.
const DATABASE: &str = "database";

/// What the suite stands on.
#[derive(Clone, Debug)]
pub(crate) struct Dependencies {
    pub(crate) redis: Redis,
    pub(crate) auditor: Channel,
    pub(crate) pushers: Arc<Pushers>,
    pub(crate) members: Members,
    pub(crate) trail: Trail,
    /// Which edge this is.
    pub(crate) instance: u32,
}

impl Dependencies {
    /// Whether everything is there, and the answer that says so or what is missing. A process that drains for its successor does not speak of itself: whoever
    /// asks wants to know about the suite, and his next connection is the successor's.
    pub(crate) async fn report(&self, draining: bool) -> (bool, Value) {
        let serving = !draining || self.members.stays("edge", self.instance);
        let (redis, database, pusher) = tokio::join!(self.redis(), ipc::is_serving(&self.auditor, DATABASE, BOUND), self.any_pusher());
        Found { serving, redis, database, pusher, trail: self.trail.takes_records() }.report()
    }

    async fn redis(&self) -> Standing {
        tokio::time::timeout(BOUND, self.redis.standing()).await.unwrap_or(Standing::Disconnected)
    }

    /// One that serves is enough: streams move to it.
    async fn any_pusher(&self) -> bool {
        let channels = self.pushers.channels();
        let asked: FuturesUnordered<_> = channels.iter().map(|channel| ipc::is_serving(channel, "", BOUND)).collect();
        asked.any(std::future::ready).await
    }
}

#[expect(clippy::struct_excessive_bools, reason = "each is a thing of its own that is there or not")]
struct Found {
    serving: bool,
    redis: Standing,
    database: bool,
    pusher: bool,
    trail: bool,
}

impl Found {
    fn report(&self) -> (bool, Value) {
        let Self { serving, redis, database, pusher, trail } = *self;
        let ready = serving && redis == Standing::Connected && database && pusher && trail;
        let connected = |up| if up { "connected" } else { "disconnected" };
        let is_ready = |up| if up { "ready" } else { "not_ready" };
        let mut report =
            json!({"status": is_ready(ready), "database": connected(database), "redis": redis.to_string(), "pusher": is_ready(pusher)});
        // Told when it is so alone: the contract's answer has no such field.
        if !trail {
            report["audit"] = "takes no records".into();
        }
        (ready, report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(serving: bool, redis: Standing, database: bool, pusher: bool) -> (bool, Value) {
        Found { serving, redis, database, pusher, trail: true }.report()
    }

    #[test]
    fn what_is_missing_is_named() {
        let all = json!({"status": "ready", "database": "connected", "redis": "connected", "pusher": "ready"});
        assert_eq!(found(true, Standing::Connected, true, true), (true, all));
        assert_eq!(
            found(true, Standing::Disconnected, false, false),
            (false, json!({"status": "not_ready", "database": "disconnected", "redis": "disconnected", "pusher": "not_ready"}))
        );
        let full = Found { serving: true, redis: Standing::Connected, database: true, pusher: true, trail: false }.report();
        assert_eq!((full.0, &full.1["status"], &full.1["audit"]), (false, &json!("not_ready"), &json!("takes no records")));
        assert!(!found(false, Standing::Connected, true, true).0, "a draining edge is not ready");
        for (standing, told) in [
            (Standing::EvictsKeys, "evicts keys"),
            (Standing::ReadOnly, "read-only"),
            (Standing::OutOfMemory, "out of memory"),
            (Standing::Refuses("WRONGPASS"), "refuses the connection: WRONGPASS"),
        ] {
            let (ready, report) = found(true, standing, true, true);
            assert_eq!((ready, report["status"].as_str(), report["redis"].as_str()), (false, Some("not_ready"), Some(told)));
        }
    }
}
