//! `gateway.v1.Gateway` on the `grpc` socket: reads what a caller brings, and hands it to commands and relay.

pub(crate) mod deadline;

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use gatehouse_chassis::connections::Notice;
use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, SubscribeEventsRequest, encoded::gateway_server::Gateway},
    limits::MAX_TRACEPARENT_BYTES,
};
use gatehouse_sessions::door::Caller;
use tonic::{Request, Response, Status};

use crate::{commands::Commands, relay::Relay};

/// What the authenticated listener serves.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) commands: Arc<Commands>,
    pub(crate) relay: Relay,
}

#[tonic::async_trait]
impl Gateway for Door {
    async fn execute_command(&self, request: Request<ExecuteCommandRequest>) -> Result<Response<ExecuteCommandResponse>, Status> {
        let (metadata, extensions, mut command) = request.into_parts();
        let headers = metadata.into_headers();
        let caller = Caller::of(&extensions, &headers);
        if command.traceparent.is_empty()
            && let Some(traceparent) = headers.get("traceparent").and_then(|value| value.to_str().ok())
            && traceparent.len() <= MAX_TRACEPARENT_BYTES
        {
            traceparent.clone_into(&mut command.traceparent);
        }
        self.commands.execute(command, caller, deadline::of(&headers)).await.map(Response::new)
    }

    type SubscribeEventsStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

    async fn subscribe_events(&self, request: Request<SubscribeEventsRequest>) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        let (metadata, extensions, subscribe) = request.into_parts();
        let caller = Caller::of(&extensions, &metadata.into_headers());
        let notice = extensions.get::<Notice>().cloned().unwrap_or_default();
        let events = self.relay.subscribe(subscribe, caller, notice).await?;
        Ok(Response::new(Box::pin(events)))
    }
}
