//! The real suite with real children, real Redis, real PostgreSQL: everything that a scenario starts, and the clients that look at it from
//! outside.
//!
//! Whatever a test process starts lives under one short directory in `/tmp` ([`Scratch`]) and dies with the process, however that ends.
//! Nothing has a fixed port; nothing waits by sleeping: conditions are polled with a deadline ([`wait`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::missing_panics_doc, reason = "every function here fails its test by panicking")]

pub mod audit;
pub mod backend;
pub mod binaries;
pub mod device;
pub mod downstream;
pub mod generations;
pub mod http;
pub mod load;
pub mod metrics;
pub mod output;
pub mod resp;
pub mod scratch;
pub mod servers;
pub mod stream;
pub mod suite;
pub mod traffic;
pub mod wait;
pub mod wire;

pub use audit::Trail;
pub use backend::HttpBackend;
pub use device::Device;
pub use downstream::{Behaviour, Downstream};
pub use gatehouse_testkit::{PostgresServer, RedisServer};
pub use load::Load;
pub use metrics::Samples;
pub use resp::Resp;
pub use scratch::Scratch;
pub use stream::EventStream;
pub use suite::{Builder, Suite};
pub use wire::GatewayKey;
