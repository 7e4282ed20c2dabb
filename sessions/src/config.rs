//! `[signer]`, `[sessions]`, `[limits]` and `[[limit]]`: what edge and pusher read alike.

pub mod limit;

use std::{fs, io, str::FromStr, sync::Arc, time::Duration};

use gatehouse_chassis::config::{Config as Read, Reader};
use gatehouse_proto::keys::{KeyError, Signer};

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
    /// `[limits]` and `[[limit]]`.
    pub limits: limit::Limits,
}

impl Read for Config {
    fn read(reader: &mut Reader) -> Option<Self> {
        let mut section = reader.section("signer");
        let key = section.key("private_key_pem_path").env("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH");
        let signer = key.required::<SignerFile>().map(|file| Arc::new(file.0));
        section.finish();
        let mut section = reader.section("sessions");
        let cache_capacity = section.key("cache_capacity").within(100_000, 1..=100_000_000);
        let freshness_window = section.key("freshness_window").duration(Duration::from_mins(5));
        let max_staleness = section.key("max_staleness").duration(Duration::from_secs(5));
        section.finish();
        let limits = limit::Limits::read(reader);
        Some(Self { signer: signer?, cache_capacity, freshness_window, max_staleness, limits })
    }
}

/// A key that is loaded where its path is read, so that what is wrong with it is reported at the variable or the line that named it.
struct SignerFile(Signer);

#[derive(Debug, thiserror::Error)]
enum SignerProblem {
    #[error("the response signer key cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the response signer key is {0}")]
    Key(#[from] KeyError),
}

impl FromStr for SignerFile {
    type Err = SignerProblem;

    fn from_str(path: &str) -> Result<Self, SignerProblem> {
        Ok(Self(Signer::from_pkcs8_pem(&fs::read_to_string(path)?)?))
    }
}
