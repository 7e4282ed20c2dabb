//! The admin process against real servers, through both of its doors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod binary;
mod doors;
mod house;
mod metrics;
mod sessions;
mod tokens;
