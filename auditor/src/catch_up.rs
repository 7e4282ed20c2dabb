//! Read your writes: a listing holds whatever stood in the stream when it was asked for.
//!
//! An entry leaves the stream once its records are rows, so the trail has caught up with a moment when nothing is left of what was there then. That holds whoever
//! writes: this process, one that it is to replace, or the one that replaces it.

use std::time::Duration;

use gatehouse_chassis::redis::{Redis, RedisError, StreamInfo};
use gatehouse_proto::ids::StreamId;
use tokio::time::{sleep, timeout};

/// The longest that a listing waits. After that it shows what there is: the trail is behind, or its database away, and `audit_lag_seconds` says so.
const BOUND: Duration = Duration::from_secs(2);
/// Between two looks at the stream, at first and at most. Writing a batch takes some milliseconds.
const EVERY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The stream that the trail is written from.
#[derive(Clone, Debug)]
pub struct CatchUp {
    redis: Redis,
    stream: String,
}

impl CatchUp {
    /// Asks that Redis.
    #[must_use]
    pub const fn new(redis: Redis, stream: String) -> Self {
        Self { redis, stream }
    }

    /// Waits until what stands in the stream now is in the trail; whether it is, within the bound.
    pub async fn wait(&self) -> bool {
        match timeout(BOUND, self.written()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::debug!(%error, "the stream cannot be asked what a listing should wait for"),
            Err(_) => tracing::debug!("a listing does not wait any longer for records that are not in the trail yet"),
        }
        false
    }

    async fn written(&self) -> Result<(), RedisError> {
        let info = self.redis.stream_info(&self.stream).await?;
        let (until, mut pause) = (info.last_generated, EVERY.0);
        let mut waiting = holds(&info, until);
        while waiting {
            sleep(pause).await;
            pause = (pause * 2).min(EVERY.1);
            waiting = holds(&self.redis.stream_info(&self.stream).await?, until);
        }
        Ok(())
    }
}

/// Whether an entry up to that one is left.
fn holds(info: &StreamInfo, until: StreamId) -> bool {
    info.first.is_some_and(|first| first <= until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_the_question_is_not_waited_for() {
        let at = |ms| StreamId { ms, seq: 0 };
        for (first, waits) in [(None, false), (Some(at(3)), true), (Some(at(7)), true), (Some(at(8)), false)] {
            assert_eq!(holds(&StreamInfo { first, ..StreamInfo::default() }, at(7)), waits, "{first:?}");
        }
    }
}
