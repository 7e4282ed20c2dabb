//! The `gatehouse` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_cli::main()
}
