//! The `gatehouse-demo-backend` binary.

fn main() {}
