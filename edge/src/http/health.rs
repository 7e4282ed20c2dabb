//! Whether the suite is ready: everything that a request may need is asked, at once, each for a bounded time.
//!
//! Whoever reaches the public listener may ask, as often as he likes. What that costs Redis and the suite does not grow with it: one round of questions at a time,
//! whose answers hold for a moment.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use gatehouse_chassis::{
    Shutdown,
    ipc::{self, Channel},
    members::Members,
    redis::{Redis, Standing},
};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use crate::{commands::to_the_end, relay::Pushers, trail::Trail};

/// How long each may take to answer.
const BOUND: Duration = Duration::from_secs(1);
/// How long their answers hold.
const HOLD: Duration = Duration::from_millis(500);
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

/// What they said, and when.
#[derive(Clone, Copy, Debug)]
struct Answers {
    at: Instant,
    redis: Standing,
    database: bool,
    pusher: bool,
}

impl Dependencies {
    async fn ask(&self) -> Answers {
        let (redis, database, pusher) = tokio::join!(self.redis(), ipc::is_serving(&self.auditor, DATABASE, BOUND), self.any_pusher());
        Answers { at: Instant::now(), redis, database, pusher }
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

/// Who asks them.
#[derive(Debug)]
pub(crate) struct Readiness {
    dependencies: Dependencies,
    latest: Arc<Mutex<Option<Answers>>>,
}

impl Readiness {
    pub(crate) fn new(dependencies: Dependencies) -> Self {
        Self { dependencies, latest: Arc::default() }
    }

    /// Whether everything is there, and the answer that says so or what is missing. A process that drains for its successor does not speak of itself: whoever
    /// asks wants to know about the suite, and his next connection is the successor's.
    pub(crate) async fn report(&self, shutdown: &Shutdown) -> (bool, Value) {
        let Answers { redis, database, pusher, .. } = self.answers(shutdown).await;
        let Dependencies { members, trail, instance, .. } = &self.dependencies;
        // What is known here costs nobody anything, and is told as it is now.
        let serving = !shutdown.is_draining() || members.stays("edge", *instance);
        Found { serving, redis, database, pusher, trail: trail.takes_records() }.report()
    }

    async fn answers(&self, shutdown: &Shutdown) -> Answers {
        // Who comes meanwhile waits here, and takes what was answered.
        let mut latest = Arc::clone(&self.latest).lock_owned().await;
        if let Some(answers) = latest.filter(|answers| answers.at.elapsed() < HOLD) {
            return answers;
        }
        let dependencies = self.dependencies.clone();
        // A client that hangs up at once does not make room for the next round.
        let asked = to_the_end(shutdown, "readiness", async move {
            let answers = dependencies.ask().await;
            *latest = Some(answers);
            answers
        });
        asked.await
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
