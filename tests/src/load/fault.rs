//! How an operation failed, as its client can tell.

use std::{fmt, io};

use tonic::Status;

use super::line::Broken;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connect was refused.
    Refused,
    /// The connect failed otherwise.
    NotConnected(String),
    /// The connection was reset before a byte of the answer.
    Reset,
    /// The connection was closed before a byte of the answer.
    Closed,
    /// The connection or the HTTP/2 stream ended in the middle of the answer.
    Cut,
    /// Another failure of the transport.
    Transport(String),
    /// An HTTP status other than 2xx, and its body.
    Http(u16, String),
    /// A gRPC status other than OK.
    Grpc(i32, String),
    /// No answer within the load's patience.
    TimedOut,
    /// An answer that is not the contract's: its signature, its form.
    Wrong(String),
}

impl Fault {
    /// Of a connect.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::NotConnected(error.to_string()),
        }
    }

    /// Of a status: the server's own, or what a line made of the transport's end. With the time since when the line was open.
    pub(super) fn of(status: &Status) -> (Self, Option<std::time::Instant>) {
        let mut source = std::error::Error::source(status);
        while let Some(error) = source {
            if let Some(broken) = error.downcast_ref::<Broken>() {
                return (broken.fault.clone(), broken.connected);
            }
            source = error.source();
        }
        (Self::Grpc(status.code() as i32, status.message().to_owned()), None)
    }

    /// Whether its connection was cut off: what a request sees whose process dies.
    #[must_use]
    pub const fn is_cut_off(&self) -> bool {
        matches!(self, Self::Reset | Self::Closed | Self::Cut | Self::Transport(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connect refused"),
            Self::NotConnected(why) => write!(f, "not connected: {why}"),
            Self::Reset => f.write_str("reset without an answer"),
            Self::Closed => f.write_str("closed without an answer"),
            Self::Cut => f.write_str("cut in the answer"),
            Self::Transport(why) => write!(f, "transport: {why}"),
            Self::Http(status, body) => write!(f, "HTTP {status}: {body}"),
            Self::Grpc(code, message) => write!(f, "{:?}: {message}", tonic::Code::from(*code)),
            Self::TimedOut => f.write_str("timed out"),
            Self::Wrong(why) => write!(f, "wrong: {why}"),
        }
    }
}
