//! The `gatehouse-admin` binary.

fn main() {}
