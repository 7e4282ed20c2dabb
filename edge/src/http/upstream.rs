//! An HTTP backend as the routes see it.

use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response};

use super::errors::Problem;
use crate::backends::{Answer, Backend, Clock, Unanswered};

/// A backend that speaks HTTP/1.1.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    /// What requests to it are about; whichever of its endpoints one goes to puts its own there.
    pub(crate) authority: Arc<str>,
    backend: Arc<Backend>,
}

impl Upstream {
    pub(crate) fn new(backend: Arc<Backend>) -> Self {
        Self { name: backend.name().into(), authority: backend.authority().into(), backend }
    }

    /// The backend's answer, whose body is still to come.
    pub(crate) async fn request(&self, request: Request<Body>, clock: &Clock) -> Result<Response<Answer>, Problem> {
        self.backend.forward(request, clock).await.map_err(|unanswered| match unanswered {
            Unanswered::Unavailable => Problem::BadGateway,
            Unanswered::TimedOut => Problem::GatewayTimeout,
            Unanswered::ClientStalled => Problem::RequestTimeout,
        })
    }
}
