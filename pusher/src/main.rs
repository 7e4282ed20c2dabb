//! The `gatehouse-pusher` binary.

fn main() {}
