//! Why a command did not succeed, and what that means for whoever called it.

use std::{error::Error as _, io, time::Duration};

use gatehouse_chassis::{config::Problem, exit};
use gatehouse_proto::status::code_name;
use tonic::{Code, Status, metadata::KeyAndValueRef};

/// Wrong command line, as clap has it; components use 64.
pub const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// Trailers of a verdict that tell a client what to do next (CONTRACT.md §1), and one beside them: when to come again after a refusal by rate.
const TRAILERS: &str = "gateway-";
const RETRY_AFTER: &str = "retry-after-ms";

/// Every way a command can end but well.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something went wrong here.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    /// Somebody who was reached said no.
    #[error("{}: {message}", code_name(*code))]
    Refused {
        /// Which no.
        code: Code,
        /// In words.
        message: String,
        /// The verdict's trailers.
        trailers: Vec<(String, String)>,
    },
    /// Nobody is there.
    #[error("{0}")]
    Unreachable(String),
    /// The configuration is wrong.
    #[error("{}", lines(.0))]
    Configuration(Vec<Problem>),
    /// The command line is wrong in a way that its grammar cannot say.
    #[error("{0}")]
    Usage(String),
    /// All has been said already, by a child or in the answer itself.
    #[error("exit code {0}")]
    Said(u8),
    /// The reader of our output has gone. That is no failure.
    #[error("nobody reads the output")]
    NobodyReads,
}

impl Failure {
    /// For one sentence.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(anyhow::Error::msg(message.into()))
    }

    /// From the answer to a call on `peer`. A status that the transport made up means that nobody is there.
    pub fn of_status(peer: &str, status: &Status) -> Self {
        if let Some(source) = status.source() {
            let mut message = format!("{peer} is not reachable: {source}");
            let mut cause = source.source();
            while let Some(deeper) = cause {
                message = format!("{message}: {deeper}");
                cause = deeper.source();
            }
            return Self::Unreachable(message);
        }
        let trailers = status.metadata().iter().filter_map(|entry| match entry {
            KeyAndValueRef::Ascii(key, value) if key.as_str().starts_with(TRAILERS) || key.as_str() == RETRY_AFTER => {
                Some((key.to_string(), value.to_str().ok()?.to_owned()))
            }
            _ => None,
        });
        Self::Refused { code: status.code(), message: status.message().to_owned(), trailers: trailers.collect() }
    }

    /// When `peer` was reached but kept silent.
    pub fn silent(peer: &str, waited: Duration) -> Self {
        Self::Unreachable(format!("{peer} did not answer within {waited:?}"))
    }

    /// From writing an answer.
    pub fn of_output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::NobodyReads } else { anyhow::Error::new(error).context("write output").into() }
    }

    /// What the process ends with.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Refused { .. } => FAILED,
            Self::Unreachable(_) => exit::UNAVAILABLE,
            Self::Configuration(_) => exit::CONFIG,
            Self::Usage(_) => USAGE,
            Self::Said(code) => *code,
            Self::NobodyReads => exit::OK,
        }
    }

    /// A stable word for programs.
    pub fn code(&self) -> String {
        match self {
            Self::Failed(_) | Self::Said(_) | Self::NobodyReads => "failed".to_owned(),
            Self::Refused { code, .. } => code_name(*code).to_lowercase(),
            Self::Unreachable(_) => "unreachable".to_owned(),
            Self::Configuration(_) => "configuration".to_owned(),
            Self::Usage(_) => "usage".to_owned(),
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;

    use super::*;

    #[test]
    fn each_kind_of_failure_has_the_contract_s_exit_code() {
        let refused = Failure::of_status("the gateway", &Status::failed_precondition("request replay detected"));
        let cases = [
            (Failure::failed("no"), 1, "failed"),
            (refused, 1, "failed_precondition"),
            (Failure::Unreachable(String::new()), 69, "unreachable"),
            (Failure::Configuration(Vec::new()), 78, "configuration"),
            (Failure::Usage(String::new()), 2, "usage"),
            (Failure::NobodyReads, 0, "failed"),
        ];
        for (failure, exit, code) in cases {
            assert_eq!((failure.exit_code(), failure.code().as_str()), (exit, code), "{failure:?}");
        }
    }

    #[test]
    fn a_verdict_keeps_the_gateway_s_trailers_and_leaves_out_the_transport_s() {
        let mut trailers = MetadataMap::new();
        trailers.insert("gateway-server-time-ms", "17".parse().unwrap());
        trailers.insert("retry-after-ms", "18".parse().unwrap());
        trailers.insert("date", "today".parse().unwrap());
        let status = Status::with_metadata(Code::FailedPrecondition, "request timestamp is outside the freshness window", trailers);
        match Failure::of_status("the gateway", &status) {
            Failure::Refused { mut trailers, .. } => {
                trailers.sort();
                let expected = [("gateway-server-time-ms", "17"), ("retry-after-ms", "18")];
                assert_eq!(trailers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_status_that_the_transport_made_up_means_that_nobody_is_there() {
        let status = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert_eq!(Failure::of_status("the gateway", &status).exit_code(), 69);
    }
}
