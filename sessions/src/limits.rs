//! The rate limit of each session.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use gatehouse_chassis::Process;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

use crate::Config;

/// How often sessions that used nothing of their rate are forgotten.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// A token bucket for each session; none when no limit is set.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Option<Arc<DefaultKeyedRateLimiter<String>>>);

impl Limits {
    pub(crate) fn new(process: &Process, config: &Config) -> Self {
        let Some(rate) = NonZeroU32::new(config.commands_per_second) else { return Self(None) };
        let burst = NonZeroU32::new(config.burst).unwrap_or(rate);
        let buckets = Arc::new(RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)));
        let (kept, shutdown) = (Arc::clone(&buckets), process.shutdown().clone());
        process.spawn("limits-forget", async move {
            while tokio::time::timeout(FORGET_EVERY, shutdown.draining()).await.is_err() {
                kept.retain_recent();
            }
        });
        Self(Some(buckets))
    }

    /// Takes one token of the session's; without one, how long until there is.
    pub(crate) fn take(&self, device_session_id: &str) -> Result<(), Duration> {
        let Some(buckets) = &self.0 else { return Ok(()) };
        let taken = buckets.check_key(&device_session_id.to_owned());
        taken.map_err(|until| until.wait_time_from(buckets.clock().now()))
    }
}
