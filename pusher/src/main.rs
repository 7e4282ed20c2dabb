//! The `gatehouse-pusher` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_chassis::Boot::new("pusher").run(gatehouse_pusher::serve)
}
