//! What else is on the `grpc` socket, and what strangers send there.

use gatehouse_proto::gateway::v1::{ExecuteCommandResponse, ServerTime};
use http::uri::PathAndQuery;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status, client::Grpc};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::{
    v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request, server_reflection_response,
    },
    v1alpha,
};

use crate::{
    bench::Bench,
    fakes::{echo, routed_to},
};

#[tokio::test(flavor = "multi_thread")]
async fn health_is_served_for_all_and_for_the_gateway() {
    let bench = Bench::start("").await;
    let mut client = HealthClient::new(bench.channel());
    for service in ["", "gateway.v1.Gateway"] {
        let answer = client.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.get_ref().status(), ServingStatus::Serving, "{service:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_watch_does_not_hold_up_the_drain() {
    let mut bench = Bench::start("").await;
    let watch = HealthClient::new(bench.channel()).watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    bench.drain();
    bench.ended().await;
    let mut last = Ok(None);
    while let Some(next) = watch.next().await {
        last = next.map(Some);
    }
    assert_eq!(last.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_in_both_versions() {
    let bench = Bench::start("").await;
    let wanted = ["gateway.v1.Gateway", "grpc.health.v1.Health"];
    let list = server_reflection_request::MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = ServerReflectionClient::new(bench.channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let server_reflection_response::MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    assert!(wanted.iter().all(|wanted| services.service.iter().any(|service| service.name == *wanted)), "{services:?}");

    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(bench.channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decoded_or_is_too_large_or_unknown_is_refused_and_counted() {
    let server = echo();
    let bench = Bench::start(&routed_to(server.address(), "")).await;
    let garbage = async |path: &'static str| -> Status {
        let mut client = Grpc::new(bench.channel());
        client.ready().await.unwrap();
        // A number where the gateway reads a string.
        let request = Request::new(ServerTime { server_time_ms: 5, ..Default::default() });
        let codec = ProstCodec::<ServerTime, ExecuteCommandResponse>::default();
        client.unary(request, PathAndQuery::from_static(path), codec).await.unwrap_err()
    };
    assert_eq!(garbage("/gateway.v1.Gateway/ExecuteCommand").await.code(), Code::Internal);
    assert_eq!(garbage("/gateway.v1.Gateway/Nothing").await.code(), Code::Unimplemented);
    assert_eq!(garbage("/else.Where/Nothing").await.code(), Code::Unimplemented);
    let huge = bench.client().execute_command(bench.command("orders.create", "r-1", &vec![0; 5 << 20])).await.unwrap_err();
    assert_eq!(huge.code(), Code::OutOfRange);
    let large = bench.client().execute_command(bench.command("orders.create", "r-2", &vec![0; 2 << 20])).await.unwrap_err();
    assert_eq!((large.code(), large.message()), (Code::InvalidArgument, "payload_bytes is too long"));
    let counted = |method, code| bench.metric("grpc_requests_total", &[("method", method), ("code", code)]);
    assert_eq!([counted("ExecuteCommand", "INTERNAL"), counted("ExecuteCommand", "OUT_OF_RANGE")], [1, 1]);
    assert_eq!([counted("ExecuteCommand", "INVALID_ARGUMENT"), counted("other", "UNIMPLEMENTED")], [1, 2]);
    let plain = crate::http::raw(bench.grpc, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(plain.status, 415);
    bench.client().execute_command(bench.command("orders.create", "r-3", b"")).await.unwrap();
}
