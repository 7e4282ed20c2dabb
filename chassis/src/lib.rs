//! The process: what every part of the suite does the same way. Knows no domain word.
//!
//! A `main` is one call: [`Boot`] reads arguments and configuration, sets up telemetry, the runtime, signals and the local gRPC socket, hands
//! a [`Process`] to `serve`, and turns its end into an exit code.

pub mod audit;
pub mod backoff;
pub mod boot;
pub mod config;
pub mod connections;
pub mod exit;
pub mod ipc;
pub mod keys;
pub mod members;
pub mod metrics;
pub mod notify;
pub mod outlet;
pub mod process;
pub mod redis;
pub mod shutdown;
pub mod sockets;
pub mod telemetry;
pub mod watchdog;

pub use boot::Boot;
pub use process::Process;
pub use shutdown::Shutdown;
