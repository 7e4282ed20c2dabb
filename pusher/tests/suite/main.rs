//! A pusher as it runs, on a real Redis, read by a client over the local socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bench;
mod continuation;
mod delivery;
mod direct;
mod ends;
mod outages;
mod resume;
