//! HTTP: shapes, ids, limits, and what is asked of the other processes.

use axum::{body::Body, http::Request};
use gatehouse_proto::{
    audit::GENESIS,
    internal::v1::{
        InstanceStatus, ListAuditRequest, ListAuditResponse, Listener, StatusRequest, StatusResponse, VerifyAuditRequest,
        VerifyAuditResponse,
        admin_server::Admin as _,
        audit_trail_server::{AuditTrail, AuditTrailServer},
        supervisor_server::{Supervisor, SupervisorServer},
    },
};
use serde_json::json;
use tonic::{Code, Response, Status, service::Routes};

use crate::house::{House, KEY, json, text};

struct Trail;

#[tonic::async_trait]
impl AuditTrail for Trail {
    async fn list(&self, request: tonic::Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let request = request.into_inner();
        if request.limit > 1000 {
            return Err(Status::invalid_argument("limit is at most 1000"));
        }
        let mut head = GENESIS;
        let records = (0..9).map(|_| head.append(gatehouse_chassis::audit::record("admin", "session.create", "success")));
        let before = if request.before_seq == 0 { 10 } else { request.before_seq };
        let mut records: Vec<_> = records.collect::<Vec<_>>().into_iter().rev().filter(|row| row.seq < before).collect();
        records.truncate(request.limit as usize);
        Ok(Response::new(ListAuditResponse { records }))
    }

    async fn verify(&self, _: tonic::Request<VerifyAuditRequest>) -> Result<Response<VerifyAuditResponse>, Status> {
        let verdict = VerifyAuditResponse {
            records: 4,
            head_seq: 9,
            head_hash: vec![0xab; 32],
            first_bad_seq: 5,
            reason: "edited".into(),
            intact: false,
        };
        Ok(Response::new(verdict))
    }
}

struct Overseer;

#[tonic::async_trait]
impl Supervisor for Overseer {
    async fn status(&self, _: tonic::Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let instance = InstanceStatus { component: "edge".into(), state: "ready".into(), pid: Some(7), ..InstanceStatus::default() };
        let listener = Listener { name: "http".into(), address: "[::]:8080".into() };
        Ok(Response::new(StatusResponse {
            ready: true,
            draining: false,
            instances: vec![instance],
            listeners: vec![listener],
            ..StatusResponse::default()
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_and_the_status_are_asked_of_their_owners() {
    let house = House::new();
    house.serve("auditor", 0, Routes::new(AuditTrailServer::new(Trail)).into_axum_router());
    house.serve("supervisor", 0, Routes::new(SupervisorServer::new(Overseer)).into_axum_router());
    let admin = house.admin().await;
    let (status, page) = admin.call("GET", "/api/v1/audit?limit=2", "").await;
    assert_eq!((status, &page["next_before_seq"]), (200, &json!(8)));
    assert_eq!((&page["records"][0]["seq"], &page["records"][1]["action"]), (&json!(9), &json!("session.create")));
    let (_, last) = admin.call("GET", "/api/v1/audit?limit=2&before_seq=2", "").await;
    assert_eq!((last["records"].as_array().unwrap().len(), last.get("next_before_seq")), (1, None));
    let (status, refused) = admin.call("GET", "/api/v1/audit?limit=5000", "").await;
    assert_eq!((status, &refused["error"]["message"]), (400, &json!("limit is at most 1000")));
    for query in ["limit=x", "lmit=3", "limit=-1"] {
        let (status, refused) = admin.call("GET", &format!("/api/v1/audit?{query}"), "").await;
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("invalid_argument")), "{query}");
    }
    let (status, verdict) = admin.call("POST", "/api/v1/audit/verify", "").await;
    assert_eq!(status, 200);
    assert_eq!(
        verdict,
        json!({"intact": false, "records": 4, "head_seq": 9, "head_hash": "ab".repeat(32), "first_bad_seq": 5, "reason": "edited"})
    );
    let (status, suite) = admin.call("GET", "/api/v1/status", "").await;
    assert_eq!((status, &suite["ready"], &suite["instances"][0]["pid"]), (200, &json!(true), &json!(7)));
    let listed = admin.service.list_audit(tonic::Request::new(ListAuditRequest { limit: 3, ..ListAuditRequest::default() })).await.unwrap();
    assert_eq!(listed.get_ref().records.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_away_are_named() {
    let house = House::new();
    let admin = house.admin().await;
    let (status, refused) = admin.call("GET", "/api/v1/audit", "").await;
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("service_unavailable")));
    assert_eq!(refused["error"]["message"], "the auditor is unavailable");
    let (status, refused) = admin.call("GET", "/api/v1/status", "").await;
    assert_eq!((status, &refused["error"]["message"]), (503, &json!("the supervisor is unavailable")));
    let refused = admin.service.verify_audit(tonic::Request::new(VerifyAuditRequest {})).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the auditor is unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_made_shown_and_revoked_and_recorded_with_the_token() {
    let house = House::new();
    let admin = house.admin().await;
    let body = json!({"device_session_id": "ds/1 ü", "user_id": "u-1", "public_key": KEY}).to_string();
    let (status, made) = admin.call("POST", "/api/v1/sessions", &body).await;
    assert_eq!((status, &made["status"], made.get("revoked_at_ms")), (201, &json!("active"), None));
    let (status, refused) = admin.call("POST", "/api/v1/sessions", &body).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("already_exists")));
    let (status, shown) = admin.call("GET", "/api/v1/sessions/ds%2F1%20%C3%BC", "").await;
    assert_eq!((status, &shown), (200, &made));
    let (status, gone) = admin.call("POST", "/api/v1/sessions/ds%2F1%20%C3%BC/revoke", "").await;
    assert_eq!((status, &gone["status"]), (200, &json!("revoked")));
    let recorded = admin.recorded().await;
    let kept: Vec<_> = recorded.iter().map(|record| (record.action.as_str(), record.http_status, record.grpc_code.as_deref())).collect();
    assert_eq!(kept, [("session.create", Some(200), None), ("session.create", Some(409), None), ("session.revoke", Some(200), None)]);
    assert!(recorded.iter().all(|record| record.api_token_id.as_ref().is_some_and(|id| id.len() == 36)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_has_the_same_shape_and_every_answer_an_id() {
    let house = House::new();
    let admin = house.admin().await;
    let big = "x".repeat(70_000);
    for (method, path, body, status, code) in [
        ("GET", "/nowhere", "", 404, "not_found"),
        ("GET", "/api/v1/nowhere", "", 404, "not_found"),
        ("POST", "/healthz", "", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/sessions", "", 405, "method_not_allowed"),
        ("POST", "/api/v1/sessions", "", 400, "invalid_argument"),
        ("POST", "/api/v1/sessions", "{", 400, "invalid_argument"),
        ("POST", "/api/v1/sessions", "{\"user\": 1}", 422, "invalid_argument"),
        ("POST", "/api/v1/sessions", "{\"user_id\":\"u\",\"public_key\":\"!\"}", 400, "invalid_argument"),
        ("POST", "/api/v1/sessions", &big, 413, "payload_too_large"),
        ("GET", "/api/v1/sessions/%ff", "", 400, "invalid_argument"),
    ] {
        let (found, answer) = admin.call(method, path, body).await;
        assert_eq!((found, &answer["error"]["code"]), (status, &json!(code)), "{method} {path} {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert_eq!(answer["error"].as_object().unwrap().len(), 3);
    }
    for (given, kept) in [("abc-1", true), ("two words", false), ("", false)] {
        let request = Request::builder().uri("/healthz").header("x-request-id", given).body(Body::empty()).unwrap();
        let answer = admin.send(request).await;
        assert_eq!(answer.headers()["x-request-id"] == given, kept, "{given}");
    }
    let text_body = Request::builder().method("POST").uri("/api/v1/sessions").header("authorization", format!("Bearer {}", admin.token));
    let refused = admin.send(text_body.body(Body::from("{}")).unwrap()).await;
    assert_eq!(refused.status(), 415);
    assert_eq!(json(refused).await["error"]["code"], "unsupported_media_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_drain_and_the_description_needs_no_token() {
    let house = House::new();
    let admin = house.admin().await;
    let get = async |path: &str| admin.send(Request::builder().uri(path).body(Body::empty()).unwrap()).await;
    assert_eq!(text(get("/healthz").await).await, "{\"status\":\"ok\"}");
    assert_eq!(get("/readyz").await.status(), 200);
    let document = json(get("/api/v1/openapi.json").await).await;
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        paths,
        [
            "/api/v1/audit",
            "/api/v1/audit/verify",
            "/api/v1/sessions",
            "/api/v1/sessions/{id}",
            "/api/v1/sessions/{id}/revoke",
            "/api/v1/status"
        ]
    );
    admin.process.shutdown().drain();
    assert_eq!(get("/healthz").await.status(), 200);
    assert_eq!(get("/readyz").await.status(), 503);
}
