//! The real supervisor with fake components: scripts named like ours, found by `GATEHOUSE_BIN_DIR`, which execute this very test binary as a component
//! (see `fake`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod adopt;
mod changes;
mod control;
mod disk;
mod drain;
mod edge;
mod fake;
mod hang;
mod held;
mod output;
mod paths;
mod process;
mod redis;
mod refuse;
mod restart;
mod signals;
mod start;
mod store;
mod systemd;
mod takeover;
mod undo;
mod unheard;
mod upgrade;
mod world;
