//! Why a command has no answer.

use std::{io, sync::Arc, time::Duration};

use redis::ErrorKind;

/// Why a command has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisError {
    /// None came in time. Whether the command was carried out is unknown.
    #[error("Redis did not answer within {0:?}")]
    Timeout(Duration),
    /// The server closed the connection, or cannot be reached.
    #[error("Redis: {0}")]
    Lost(#[source] Arc<io::Error>),
    /// The connection is lost, or the server answered with an error.
    #[error("Redis: {0}")]
    Failed(#[source] redis::RedisError),
    /// The server refused commands of a pipeline or a transaction.
    #[error("Redis: {error}")]
    Several {
        /// The code of the first that was refused.
        code: Arc<str>,
        /// All of it.
        #[source]
        error: redis::RedisError,
    },
    /// The server lets nobody in, or not with these credentials or this database: its words.
    #[error("Redis refuses the connection: {0}")]
    Refused(Arc<str>),
    /// The embedded server's password cannot be read.
    #[error("the Redis password cannot be read: {0}")]
    Password(#[source] Arc<io::Error>),
    /// An answer of a shape that this command never has.
    #[error("Redis answered {0} with something else")]
    Unexpected(&'static str),
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        // What one command was answered says its code itself.
        let first = |error: &redis::RedisError| Some(Arc::from(error.clone().into_server_errors()?.first()?.1.code()));
        match first(&error) {
            Some(code) if error.code() != Some(&code) => Self::Several { code, error },
            _ => Self::Failed(error),
        }
    }
}

impl From<io::Error> for RedisError {
    fn from(error: io::Error) -> Self {
        Self::Lost(Arc::new(error))
    }
}

impl RedisError {
    /// Whether the server itself said no, as opposed to being away.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Failed(error) => matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension),
            Self::Refused(_) | Self::Several { .. } => true,
            _ => false,
        }
    }

    /// The error's code on the wire: `NOGROUP`, `OOM`. Of several commands in one round trip, the first one's that was refused: a transaction that was
    /// given up because of it would tell no more than that.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Failed(error) => error.code(),
            Self::Several { code, .. } => Some(code),
            Self::Refused(words) => words.split(' ').next(),
            _ => None,
        }
    }

    /// Whether the server was reached and will not let us in until somebody changes its configuration or ours.
    pub(super) fn is_misconfigured(&self) -> bool {
        match self {
            Self::Refused(words) => {
                !(words.contains("max number of clients") || matches!(self.code(), Some("LOADING" | "BUSY" | "MASTERDOWN")))
            }
            _ => false,
        }
    }

    /// Whether the connection may still be good: the server answered on it, if with something else than was wanted. On what is no answer at all a
    /// connection ends by itself.
    pub(super) fn is_heard(&self) -> bool {
        let is_another = |kind| matches!(kind, ErrorKind::Parse | ErrorKind::UnexpectedReturnType);
        matches!(self, Self::Unexpected(_)) || matches!(self, Self::Failed(error) if is_another(error.kind())) || self.is_answer()
    }

    /// Whether the server will say the same to everything on this connection (or to every write), and perhaps not on another: a master that became a
    /// replica, behind a name or an address that has moved on; credentials that no longer count.
    pub(super) fn is_worth_another_connection(&self) -> bool {
        matches!(self.code(), Some("READONLY" | "NOAUTH" | "WRONGPASS" | "UNBLOCKED"))
    }
}
