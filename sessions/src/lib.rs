//! Device sessions as edge and pusher both need them: who may speak, and whether this request is theirs.
//!
//! [`Sessions`] answers who a session is, from a local cache that the session stream keeps fresh, or from Redis. [`Verifier`] decides on one request, in
//! the contract's order. [`verdict`] holds what a client is told, [`door`] the socket it comes to.

mod complaints;
pub mod config;
pub mod door;
mod feed;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod limits;
mod replay;
mod session;
mod shape;
mod store;
pub mod verdict;
mod verify;

pub use config::Config;
pub use limits::Limits;
pub use replay::{Claim, Claimed, Found, Keepsake, Retry};
pub use session::Session;
pub use store::Sessions;
pub use verdict::Refusal;
pub use verify::{Rejected, Verifier};

use std::time::{SystemTime, UNIX_EPOCH};

/// The gateway's clock: milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
