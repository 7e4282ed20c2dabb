//! Why an operation was not done, and how both doors say so.

use gatehouse_chassis::redis::RedisError;
use http::StatusCode;
use tonic::{Code, Status};

/// See the module's head. A failure is logged where it becomes one of these.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Something in the request cannot be.
    #[error("{0}")]
    Invalid(String),
    /// An active session of that id is there.
    #[error("an active device session of that id exists")]
    Exists,
    /// There is no session of that id.
    #[error("no such device session")]
    NotFound,
    /// What Redis holds under that id is no session.
    #[error("the stored device session cannot be read")]
    Unreadable,
    /// Others changed the session all the while.
    #[error("the device session is being changed by somebody else")]
    Contended,
    /// Redis does not answer.
    #[error("session store is unavailable")]
    Store(#[source] RedisError),
    /// The change was made, and nobody would know.
    #[error("the change could not be recorded in the audit trail")]
    NotRecorded,
    /// The auditor said no, or nothing.
    #[error("{}", peer("auditor", .0))]
    Auditor(Status),
    /// The supervisor said no, or nothing.
    #[error("{}", peer("supervisor", .0))]
    Supervisor(Status),
}

impl Refusal {
    /// For gRPC, for HTTP, and the words of both: the code's name on the audit record, and `code` in the body.
    #[must_use]
    pub fn codes(&self) -> (Code, &'static str, StatusCode, &'static str) {
        match self {
            Self::Invalid(_) => (Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::BAD_REQUEST, "invalid_argument"),
            Self::Auditor(status) | Self::Supervisor(status) if status.code() == Code::InvalidArgument => {
                (Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::BAD_REQUEST, "invalid_argument")
            }
            Self::Exists => (Code::AlreadyExists, "ALREADY_EXISTS", StatusCode::CONFLICT, "already_exists"),
            Self::NotFound => (Code::NotFound, "NOT_FOUND", StatusCode::NOT_FOUND, "not_found"),
            Self::Unreadable => (Code::DataLoss, "DATA_LOSS", StatusCode::INTERNAL_SERVER_ERROR, "data_loss"),
            Self::Contended => (Code::Aborted, "ABORTED", StatusCode::CONFLICT, "aborted"),
            Self::Store(_) | Self::NotRecorded | Self::Auditor(_) | Self::Supervisor(_) => {
                (Code::Unavailable, "UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE, "service_unavailable")
            }
        }
    }
}

impl From<RedisError> for Refusal {
    fn from(error: RedisError) -> Self {
        tracing::warn!(%error, "Redis did not do what an operation needs");
        Self::Store(error)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.codes().0, refusal.to_string())
    }
}

/// A peer's own words when it had any to say; a transport's are of no use to the caller.
fn peer(name: &str, status: &Status) -> String {
    match status.code() {
        Code::InvalidArgument => status.message().to_owned(),
        Code::DeadlineExceeded => format!("the {name} did not answer in time"),
        _ if std::error::Error::source(status).is_none() && !status.message().is_empty() => format!("{name}: {}", status.message()),
        _ => format!("the {name} is unavailable"),
    }
}
