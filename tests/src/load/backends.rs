//! What stands behind the suite under load: services that answer at once and keep nothing.

use std::net::SocketAddr;

use axum::{Router, routing::any};
use gatehouse_proto::downstream::v1::{
    ExecuteRequest, ExecuteResponse,
    command_handler_server::{CommandHandler, CommandHandlerServer},
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, service::Routes};

use crate::{Builder, downstream::serve};

/// What the callers send.
pub(super) const COMMAND: &str = "demo.echo";
/// What the HTTP callers ask for lies below.
pub(super) const PREFIX: &str = "/load";

/// Both backends, until dropped.
#[derive(Debug)]
pub struct Backends {
    commands: SocketAddr,
    http: SocketAddr,
    _stop: [oneshot::Sender<()>; 2],
}

impl Backends {
    /// Starts them.
    #[must_use]
    pub fn start() -> Self {
        let (commands, stop_commands) = serve(Routes::new(CommandHandlerServer::new(Echo)).into_axum_router());
        let (http, stop_http) = serve(Router::new().fallback(any(async || "here")));
        Self { commands, http, _stop: [stop_commands, stop_http] }
    }

    /// A suite that stands before them.
    #[must_use]
    pub fn behind(&self, suite: Builder) -> Builder {
        let Self { commands, http, .. } = self;
        suite.toml(&format!(
            "[[backend]]\nname = \"load-commands\"\nprotocol = \"grpc\"\naddress = \"{commands}\"\n\
             [[command]]\nmessage_type = \"{COMMAND}\"\nbackend = \"load-commands\"\n\
             [[backend]]\nname = \"load-http\"\nprotocol = \"http\"\naddress = \"{http}\"\n\
             [[route]]\nprefix = \"{PREFIX}\"\nbackend = \"load-http\"\n"
        ))
    }
}

#[derive(Clone, Copy, Debug)]
struct Echo;

#[tonic::async_trait]
impl CommandHandler for Echo {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        Ok(Response::new(ExecuteResponse { result_code: String::new(), payload_bytes: request.into_inner().payload_bytes }))
    }
}
