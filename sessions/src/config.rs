//! `[signer]`, `[sessions]` and `[limits]`: what edge and pusher read alike.

use std::time::Duration;

use gatehouse_chassis::{
    config::{Config as Read, Reader},
    keys::Keys,
};

/// The checked sections.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[signer]`: sign responses and events. Loaded.
    pub keys: Keys,
    /// `[sessions] cache_capacity`: sessions kept in memory; beyond it the least used is asked of Redis again.
    pub cache_capacity: u64,
    /// `[sessions] freshness_window`: how far a request's timestamp may be from the gateway's clock, either way.
    pub freshness_window: Duration,
    /// `[sessions] max_staleness`: after so long without news from the session stream, the cache is not trusted and Redis is asked each time.
    pub max_staleness: Duration,
    /// `[limits] commands_per_second` for each session; 0 is no limit.
    pub commands_per_second: u32,
    /// `[limits] burst`: how many may come at once before the rate counts.
    pub burst: u32,
}

impl Read for Config {
    fn read(reader: &mut Reader) -> Option<Self> {
        let mut section = reader.section("signer");
        let keys = Keys::read(&mut section);
        section.finish();
        let mut section = reader.section("sessions");
        let cache_capacity = section.key("cache_capacity").within(100_000, 1..=100_000_000);
        let freshness_window = section.key("freshness_window").duration(Duration::from_mins(5));
        let max_staleness = section.key("max_staleness").duration(Duration::from_secs(5));
        section.finish();
        let mut section = reader.section("limits");
        let commands_per_second = section.key("commands_per_second").or(0);
        let burst = section.key("burst").within(commands_per_second.max(1), 1..);
        section.finish();
        Some(Self { keys: keys?, cache_capacity, freshness_window, max_staleness, commands_per_second, burst })
    }
}
