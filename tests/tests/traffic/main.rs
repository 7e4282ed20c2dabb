//! The suite under constant traffic while everything is done to it that operators and accidents do: what clients notice, and what they do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod full_disk;
mod hung;
mod kills;
mod own_death;
mod restarts;
mod scaling;
mod world;
