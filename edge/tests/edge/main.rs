//! The edge in-process, with a real Redis, real sockets, and pushers and backends whose every move the test makes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bench;
mod circuit;
mod collector;
mod commands;
mod fakes;
mod forward;
mod http;
mod kept;
mod keys;
mod limits;
mod lines;
mod overload;
mod posted;
mod readiness;
mod relay;
mod reloads;
mod stalls;
mod surface;
mod traces;
mod trail;
mod wire;
