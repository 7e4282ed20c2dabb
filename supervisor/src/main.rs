//! The `gatehouse-supervisor` binary.

fn main() {}
