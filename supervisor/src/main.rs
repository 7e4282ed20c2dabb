//! The `gatehouse-supervisor` binary.

use std::process::ExitCode;

use gatehouse_chassis::Boot;

fn main() -> ExitCode {
    if let Some(code) = gatehouse_supervisor::run_helper() {
        return code;
    }
    Boot::new("supervisor")
        // Children are forked from the main thread, which lives as long as the process.
        .single_threaded()
        .ends_with_terminal()
        .preflight(gatehouse_supervisor::preflight)
        .budget(gatehouse_supervisor::drain_budget)
        .run(gatehouse_supervisor::serve)
}
