//! `[signer]`, `[sessions]`, `[limits]` and `[[limit]]`: what edge and pusher read alike.

pub mod limit;

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
    /// `[limits]` and `[[limit]]`.
    pub limits: limit::Limits,
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
        let limits = limit::Limits::read(reader);
        Some(Self { keys: keys?, cache_capacity, freshness_window, max_staleness, limits })
    }
}
