//! Counts the active sessions in Redis, now and then, in small steps that nobody notices. Between two counts the figure follows this process's own
//! changes.

use std::time::Duration;

use gatehouse_chassis::{
    Shutdown,
    redis::{Redis, RedisError, cmd},
};
use gatehouse_proto::session::{SessionSnapshot, Status};
use prometheus::IntGauge;
use tokio::time::sleep;

/// From one count to the next.
const EVERY: Duration = Duration::from_secs(30);
/// Keys that one step looks at.
const STEP: usize = 500;
/// Between two steps: at most some 25,000 keys a second.
const PAUSE: Duration = Duration::from_millis(20);

/// Counts until the drain.
pub async fn take(shutdown: Shutdown, redis: Redis, active: IntGauge) {
    let counting = async {
        loop {
            match count(&redis).await {
                Ok(found) => active.set(found),
                // The process has other ways to notice; the last figure stands.
                Err(error) => tracing::debug!(%error, "active sessions were not counted"),
            }
            sleep(EVERY).await;
        }
    };
    tokio::select! {
        () = counting => {}
        () = shutdown.draining() => {}
    }
}

/// Active sessions now; of those that change meanwhile, some.
pub async fn count(redis: &Redis) -> Result<i64, RedisError> {
    let pattern = format!("{}*", escaped(&redis.key("session:")));
    let (mut cursor, mut found) = (0_u64, 0);
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP);
        let (next, keys): (u64, Vec<Vec<u8>>) = redis.run(&scan).await?;
        if !keys.is_empty() {
            let stored: Vec<Option<Vec<u8>>> = redis.run(cmd("MGET").arg(keys)).await?;
            let is_active = |json: &Vec<u8>| SessionSnapshot::from_json(json).is_ok_and(|session| session.status == Status::Active);
            found += i64::try_from(stored.iter().flatten().filter(|json| is_active(json)).count()).unwrap_or_default();
        }
        if next == 0 {
            return Ok(found);
        }
        cursor = next;
        sleep(PAUSE).await;
    }
}

/// Keeps what means something in a pattern from meaning it.
fn escaped(key: &str) -> String {
    key.chars().flat_map(|c| ['*', '?', '[', ']', '\\'].contains(&c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_with_stars_matches_itself_alone() {
        assert_eq!(escaped("a*[b]?\\:session:"), "a\\*\\[b\\]\\?\\\\:session:");
    }
}
