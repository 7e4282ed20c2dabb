//! The real supervisor with fake components: scripts named like ours, found by `GATEHOUSE_BIN_DIR`, which execute this very test binary as a component
//! (see `fake`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod changes;
mod control;
mod drain;
mod fake;
mod redis;
mod refuse;
mod restart;
mod start;
mod store;
mod systemd;
mod world;
