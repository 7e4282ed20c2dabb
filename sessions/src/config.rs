//! `[signer]`, `[sessions]` and `[limits]`: what edge and pusher read alike.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use gatehouse_chassis::config::{Config as Read, Reader};
use gatehouse_proto::keys::Signer;

/// The checked sections.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[signer] private_key_pem_path`, `GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH`: signs responses and events. Loaded.
    pub signer: Arc<Signer>,
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
        let path = section.key("private_key_pem_path").env("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH").required::<PathBuf>();
        let signer = path.and_then(|path| {
            let loaded = fs::read_to_string(&path).map_err(|error| format!("cannot be read: {error}"));
            let loaded = loaded.and_then(|pem| Signer::from_pkcs8_pem(&pem).map_err(|error| error.to_string()));
            loaded.map_err(|why| section.problem("private_key_pem_path", format!("the response signer key {} {why}", path.display()))).ok()
        });
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
        let signer = Arc::new(signer?);
        Some(Self { signer, cache_capacity, freshness_window, max_staleness, commands_per_second, burst })
    }
}
