//! The operator's one command. It owns nothing: it asks the supervisor and the admin process over their local sockets, starts the binaries that
//! lie beside it, and is a client through the reference client (`gatehouse-client`), which signs, sends and verifies what comes back.
//!
//! Standard output carries answers alone, as a table for people or, with `--json`, as one document (one line an event for streams). What went
//! wrong stands on standard error, and the exit code says which kind it was:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed, refused, or not as it should be |
//! | 2 | wrong command line |
//! | 69 | the suite is not reachable |
//! | 78 | wrong configuration |

use std::{env, process::ExitCode};

use clap::Parser as _;
use gatehouse_chassis::exit;

mod arguments;
mod command;
mod failure;
mod local;
mod output;
mod place;
mod siblings;

use arguments::Arguments;
use failure::Failure;
use output::Output;

/// Runs the command line that this process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let mut output = Output::new(arguments.json);
    let done = command::run(arguments, &mut output).and_then(|()| output.flush());
    match done {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help and version are answers; everything else is a wrong command line, said in the form that was asked for, as far as that can be told.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && env::args_os().any(|argument| argument == "--json") {
        let message = error.to_string();
        let failure = Failure::Usage(message.trim_start_matches("error: ").trim_end().to_owned());
        Output::new(true).failure(&failure);
        return ExitCode::from(failure.exit_code());
    }
    // Nobody may be reading; there is nothing to do about it.
    let _unread = error.print();
    ExitCode::from(if error.use_stderr() { failure::USAGE } else { exit::OK })
}
