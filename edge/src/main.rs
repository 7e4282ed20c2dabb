//! The `gatehouse-edge` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_chassis::Boot::new("edge").run(gatehouse_edge::serve)
}
