//! `gateway.internal.v1.Edge` on the local socket. Who asks was admitted by the supervisor, and is on record there.

use std::sync::{Arc, Weak};

use gatehouse_chassis::Shutdown;
use gatehouse_proto::internal::v1::{
    BreakersRequest, BreakersResponse, EdgeVerdict, ReloadRequest, ResetBreakerRequest, RoutesRequest, RoutesResponse, SwitchRouteRequest,
    edge_server::{Edge, EdgeServer},
};
use tonic::{Request, Response, Status};

use super::desk::Desk;
use crate::commands::to_the_end;

/// Answers for the desk, which it does not hold: the local socket outlives what is routed, and with it the trail that ends when nobody writes to it any more.
#[derive(Debug)]
pub(crate) struct Service {
    desk: Weak<Desk>,
    shutdown: Shutdown,
}

impl Service {
    pub(crate) fn new(desk: &Arc<Desk>, shutdown: Shutdown) -> Self {
        Self { desk: Arc::downgrade(desk), shutdown }
    }

    fn desk(&self) -> Result<Arc<Desk>, Status> {
        self.desk.upgrade().ok_or_else(|| Status::unavailable("this edge is draining"))
    }

    /// For the local socket.
    pub(crate) fn into_server(self) -> EdgeServer<Self> {
        EdgeServer::new(self)
    }
}

#[tonic::async_trait]
impl Edge for Service {
    async fn reload(&self, _request: Request<ReloadRequest>) -> Result<Response<EdgeVerdict>, Status> {
        let desk = self.desk()?;
        Ok(Response::new(to_the_end(&self.shutdown, "reload", async move { desk.reload().await }).await))
    }

    async fn switch_route(&self, request: Request<SwitchRouteRequest>) -> Result<Response<EdgeVerdict>, Status> {
        let (desk, request) = (self.desk()?, request.into_inner());
        Ok(Response::new(to_the_end(&self.shutdown, "switch-route", async move { desk.switch(request).await }).await))
    }

    async fn reset_breaker(&self, request: Request<ResetBreakerRequest>) -> Result<Response<EdgeVerdict>, Status> {
        Ok(Response::new(self.desk()?.reset_breaker(&request.into_inner().backend).await))
    }

    async fn routes(&self, _request: Request<RoutesRequest>) -> Result<Response<RoutesResponse>, Status> {
        Ok(Response::new(RoutesResponse { routes: self.desk()?.routes().await }))
    }

    async fn breakers(&self, _request: Request<BreakersRequest>) -> Result<Response<BreakersResponse>, Status> {
        Ok(Response::new(BreakersResponse { breakers: self.desk()?.breakers().await }))
    }
}
