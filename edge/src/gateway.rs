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
use tonic::{Code, Request, Response, Status};

use crate::{
    commands::Commands,
    relay::Relay,
    requests::{Asked, End, Requests, certificate},
};

/// What the authenticated listener serves.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) commands: Arc<Commands>,
    pub(crate) relay: Relay,
    pub(crate) requests: Arc<Requests>,
}

#[tonic::async_trait]
impl Gateway for Door {
    async fn execute_command(&self, request: Request<ExecuteCommandRequest>) -> Result<Response<ExecuteCommandResponse>, Status> {
        let (metadata, extensions, mut command) = request.into_parts();
        let headers = metadata.into_headers();
        let mut caller = Caller::of(&extensions, &headers);
        let trace = self.requests.trace(&command.traceparent, &headers);
        let asked = Asked {
            kind: "command",
            route: &command.message_type,
            request_id: &command.request_id,
            session: Some(&command.device_session_id),
            ip: caller.ip(),
            certificate: certificate(&extensions),
        };
        let running = self.requests.begin(trace.clone(), "gateway.v1.Gateway/ExecuteCommand", asked);
        // One that is too long is left for the verdict on it.
        if command.traceparent.len() <= MAX_TRACEPARENT_BYTES
            && let Some(traceparent) = trace.outgoing()
        {
            command.traceparent = traceparent;
        }
        caller.trace = trace;
        let answer = self.commands.execute(command, caller, deadline::of(&headers)).await;
        running.end(End::Grpc(answer.as_ref().map_or_else(Status::code, |_| Code::Ok)));
        answer.map(Response::new)
    }

    type SubscribeEventsStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

    async fn subscribe_events(&self, request: Request<SubscribeEventsRequest>) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        let (metadata, extensions, subscribe) = request.into_parts();
        let headers = metadata.into_headers();
        let mut caller = Caller::of(&extensions, &headers);
        let notice = extensions.get::<Notice>().cloned().unwrap_or_default();
        let trace = self.requests.trace(&subscribe.traceparent, &headers);
        let asked = Asked {
            kind: "subscribe",
            route: "subscribe",
            request_id: &subscribe.request_id,
            session: Some(&subscribe.device_session_id),
            ip: caller.ip(),
            certificate: certificate(&extensions),
        };
        // Of a stream, its opening is told.
        let running = self.requests.begin(trace.clone(), "gateway.v1.Gateway/SubscribeEvents", asked);
        caller.trace = trace;
        let events = self.relay.subscribe(subscribe, caller, notice).await;
        running.end(End::Grpc(events.as_ref().map_or_else(Status::code, |_| Code::Ok)));
        events.map(|events| Response::new(Box::pin(events) as Self::SubscribeEventsStream))
    }
}
