//! The `Admin` service on the local socket: the door of the `gatehouse` command. Who may open the socket is the file system's decision.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gatehouse_proto::{
    internal::v1::{
        CreateSessionRequest, ListAuditRequest, ListAuditResponse, RevokeSessionRequest, Session, ShowSessionRequest, VerifyAuditRequest,
        VerifyAuditResponse, admin_server::Admin,
    },
    session::SessionSnapshot,
};
use tonic::{Request, Response, Status};

use crate::{
    http::request_id,
    operations::{Actor, Operations},
};

/// See the module's head.
#[derive(Debug)]
pub struct Service(pub Operations);

#[tonic::async_trait]
impl Admin for Service {
    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        Ok(Response::new(self.0.list_audit(request.into_inner()).await?))
    }

    async fn verify_audit(&self, _request: Request<VerifyAuditRequest>) -> Result<Response<VerifyAuditResponse>, Status> {
        Ok(Response::new(self.0.verify_audit().await?))
    }

    async fn create_session(&self, request: Request<CreateSessionRequest>) -> Result<Response<Session>, Status> {
        let actor = actor(&request);
        Ok(Response::new(session(self.0.create_session(&actor, request.into_inner()).await?)))
    }

    async fn show_session(&self, request: Request<ShowSessionRequest>) -> Result<Response<Session>, Status> {
        Ok(Response::new(session(self.0.show_session(&request.get_ref().device_session_id).await?)))
    }

    async fn revoke_session(&self, request: Request<RevokeSessionRequest>) -> Result<Response<Session>, Status> {
        let actor = actor(&request);
        Ok(Response::new(session(self.0.revoke_session(&actor, &request.get_ref().device_session_id).await?)))
    }
}

fn actor<T>(request: &Request<T>) -> Actor {
    let header = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
    Actor {
        request_id: request_id::or_new(header(request_id::NAME)),
        user_agent: header("user-agent").map(str::to_owned),
        ..Actor::default()
    }
}

fn session(snapshot: SessionSnapshot) -> Session {
    Session {
        device_session_id: snapshot.device_session_id,
        user_id: snapshot.user_id,
        public_key: STANDARD.decode(&snapshot.public_key).unwrap_or_default(),
        status: snapshot.status.as_str().to_owned(),
        updated_at_ms: snapshot.updated_at_ms,
        revoked_at_ms: snapshot.revoked_at_ms,
    }
}
