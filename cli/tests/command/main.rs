//! The real binary, against servers that play the suite's parts: what it asks, what it prints, how it exits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admin;
mod bench;
mod change;
mod exec;
mod history;
mod key;
mod play;
mod publish;
mod route;
mod siblings;
mod status;
mod subscribe;
mod tls;
mod usage;
