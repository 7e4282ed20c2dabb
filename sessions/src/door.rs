//! The door that clients come to with gRPC, the same on the edge's socket and on the pushers' own: limits, health, reflection, and what is counted.

mod caller;
mod observe;

use std::sync::Arc;

use anyhow::Context as _;
use gatehouse_chassis::Process;
use gatehouse_proto::{
    FILE_DESCRIPTOR_SET,
    gateway::v1::encoded::gateway_server::{Gateway, GatewayServer},
    limits::MAX_MESSAGE_BYTES,
};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_reflection::server::Builder as Reflection;

pub use caller::{Caller, ip};
use observe::{GrpcObserver, observe_grpc};

/// The service's name in `grpc.health.v1`.
const SERVICE: &str = "gateway.v1.Gateway";

/// The router of a socket that clients reach: that gateway, `grpc.health.v1`, which says that it serves until the drain begins, and server reflection.
pub async fn router(process: &Process, gateway: impl Gateway) -> anyhow::Result<axum::Router> {
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
    let routes = Routes::new(GatewayServer::new(gateway).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(health_service)
        .add_service(reflection().build_v1().context("build server reflection")?)
        .add_service(reflection().build_v1alpha().context("build server reflection")?);
    let observer = Arc::new(GrpcObserver::new(process));
    Ok(routes.into_axum_router().layer(axum::middleware::from_fn_with_state(observer, observe_grpc)))
}
