//! The `grpc` socket: `gateway.v1.Gateway`, health and reflection.

mod deadline;

use std::{pin::Pin, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::Stream;
use gatehouse_chassis::Process;
use gatehouse_proto::{
    FILE_DESCRIPTOR_SET,
    gateway::v1::{
        ExecuteCommandRequest, ExecuteCommandResponse, SubscribeEventsRequest,
        encoded::gateway_server::{Gateway, GatewayServer},
    },
    limits::{MAX_MESSAGE_BYTES, MAX_TRACEPARENT_BYTES},
};
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::ServingStatus;
use tonic_reflection::server::Builder as Reflection;

use crate::{
    commands::Commands,
    metrics::{GrpcMetrics, GrpcObserver, observe_grpc},
    relay::Relay,
    trail::Caller,
};

/// The service's name in `grpc.health.v1`.
const SERVICE: &str = "gateway.v1.Gateway";

/// What the authenticated listener serves.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) commands: Arc<Commands>,
    pub(crate) relay: Relay,
}

/// The router of the `grpc` socket. Health says that it serves until the drain begins.
pub(crate) async fn router(process: &Process, door: Door) -> anyhow::Result<axum::Router> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status(SERVICE, ServingStatus::Serving).await;
    let shutdown = process.shutdown().clone();
    process.spawn("grpc-health", async move {
        shutdown.draining().await;
        for service in ["", SERVICE] {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
    });
    let reflection = || {
        let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
        Reflection::configure().register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET).register_encoded_file_descriptor_set(health)
    };
    let routes = Routes::new(GatewayServer::new(door).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(health_service)
        .add_service(reflection().build_v1().context("build server reflection")?)
        .add_service(reflection().build_v1alpha().context("build server reflection")?);
    let observer = GrpcObserver { metrics: GrpcMetrics::new(process.metrics()), shutdown: process.shutdown().clone() };
    Ok(routes.into_axum_router().layer(axum::middleware::from_fn_with_state(Arc::new(observer), observe_grpc)))
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
        let events = self.relay.subscribe(subscribe, caller).await?;
        Ok(Response::new(Box::pin(events)))
    }
}
