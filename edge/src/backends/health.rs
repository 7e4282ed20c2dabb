//! Asks an endpoint now and then how it is, and says so when enough answers in a row say otherwise than before.
//!
//! A gRPC backend is asked by `grpc.health.v1`; one that does not know that service is healthy by having answered. An HTTP backend is healthy when it answers 2xx.

use std::sync::{Arc, Weak, atomic::AtomicBool};

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Limited};
use prost::Message as _;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{
    backend::Backend,
    call::grpc_timeout,
    endpoint::{Endpoint, Transport},
    fault::Fault,
    grpc::unary,
};
use crate::config::HealthCheck;

/// What is read of the answer to a check.
const MAX_BODY: usize = 64 << 10;
const CHECK: http::uri::PathAndQuery = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");

/// Checks for as long as the backend is there.
pub(super) async fn run(backend: Weak<Backend>, endpoint: Arc<Endpoint>, setting: HealthCheck) {
    let mut opinion = Opinion::default();
    loop {
        let good = tokio::time::timeout(setting.timeout, is_healthy(&endpoint, &setting)).await.unwrap_or(false);
        let Some(backend) = backend.upgrade() else { return };
        if let Some(healthy) = opinion.hear(good, endpoint.is_healthy(), &setting) {
            backend.judged(&endpoint, healthy);
        }
        drop(backend);
        // Not all endpoints of all gateways at the same moment.
        tokio::time::sleep(setting.interval.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
    }
}

/// How many checks in a row say the other thing.
#[derive(Debug, Default)]
struct Opinion(u32);

impl Opinion {
    /// The new opinion, if it changes.
    fn hear(&mut self, good: bool, healthy: bool, setting: &HealthCheck) -> Option<bool> {
        self.0 = if good == healthy { 0 } else { self.0 + 1 };
        let enough = if healthy { setting.unhealthy_threshold } else { setting.healthy_threshold };
        let changes = self.0 >= enough;
        if changes {
            self.0 = 0;
        }
        changes.then_some(good)
    }
}

async fn is_healthy(endpoint: &Endpoint, setting: &HealthCheck) -> bool {
    match &endpoint.transport {
        Transport::Grpc { pool, .. } => {
            let message = HealthCheckRequest { service: setting.service.clone() };
            let mut headers = HeaderMap::new();
            if let Ok(timeout) = grpc_timeout(setting.timeout).parse() {
                headers.insert("grpc-timeout", timeout);
            }
            match unary(pool, &endpoint.uri(&CHECK), headers, prefixed(&message), &AtomicBool::new(false)).await {
                Ok(answer) => HealthCheckResponse::decode(answer).is_ok_and(|answer| answer.status() == ServingStatus::Serving),
                Err(Fault::Said(status)) => status.code() == Code::Unimplemented,
                Err(_) => false,
            }
        }
        Transport::Http(client) => {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = endpoint.uri(&setting.path);
            let agent = http::HeaderValue::from_static(concat!("gatehouse/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().insert(header::USER_AGENT, agent);
            let Ok(answer) = client.request(request).await else { return false };
            let (head, body) = answer.into_parts();
            // Read, so that the next check finds the connection. What is too long to be read costs it that.
            let _read = Limited::new(body, MAX_BODY).collect().await;
            head.status.is_success()
        }
    }
}

fn prefixed(message: &HealthCheckRequest) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_opinion_changes_after_enough_checks_in_a_row() {
        let path = http::uri::PathAndQuery::from_static("/");
        let (interval, timeout, service) = (Duration::from_secs(5), Duration::from_secs(1), String::new());
        let setting = HealthCheck { interval, timeout, healthy_threshold: 2, unhealthy_threshold: 3, service, path };
        let (mut opinion, mut healthy, mut history) = (Opinion::default(), true, String::new());
        let checks = ".xx.xxx.x..x.xxx";
        for check in checks.chars() {
            if let Some(changed) = opinion.hear(check == '.', healthy, &setting) {
                healthy = changed;
            }
            history.push(if healthy { '.' } else { 'x' });
        }
        assert_eq!((checks, history.as_str()), (".xx.xxx.x..x.xxx", "......xxxx.....x"));
    }
}
