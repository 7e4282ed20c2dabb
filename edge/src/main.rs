//! The `gatehouse-edge` binary.

fn main() {}
