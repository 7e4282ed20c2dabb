use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_bench::run()
}
