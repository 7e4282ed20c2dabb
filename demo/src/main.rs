//! The `gatehouse-demo-backend` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_demo::main()
}
