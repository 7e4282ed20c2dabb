//! Planned replacement and scaling of each component under constant traffic, by hand, as the supervisor does it: nobody outside can tell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admin;
mod auditor;
mod edge;
mod house;
mod idle;
mod pushers;
