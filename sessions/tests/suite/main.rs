//! Sessions and reservations against a real Redis.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bench;
mod cache;
mod replay;
