//! `gatehouse admin`.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tonic::{Request, Response, Status, service::Routes};

use gatehouse_proto::{
    audit::GENESIS,
    internal::v1::{
        AuditRecord, ChainedAuditRecord, CreateSessionRequest, ListAuditRequest, ListAuditResponse, RevokeSessionRequest, Session,
        ShowSessionRequest, VerifyAuditRequest, VerifyAuditResponse,
        admin_server::{Admin, AdminServer},
    },
};

use crate::play::Stage;

/// A trail of some length, and one session.
#[derive(Clone, Default)]
struct Play {
    trail: Vec<ChainedAuditRecord>,
    verdict: VerifyAuditResponse,
    asked: Arc<Mutex<Vec<ListAuditRequest>>>,
}

fn trail(length: usize) -> Vec<ChainedAuditRecord> {
    let mut head = GENESIS;
    let record = |i: usize| AuditRecord {
        id: format!("id-{i}"),
        user_id: Some("ada".into()),
        device_session_id: Some("ada-1".into()),
        action_type: "command".into(),
        action: "demo.echo".into(),
        status: "success".into(),
        grpc_code: Some("OK".into()),
        latency_ms: Some(3),
        request_id: Some(format!("r-{i}")),
        ..AuditRecord::default()
    };
    (1..=length).map(|i| head.append(record(i))).collect()
}

fn session(id: &str, user: &str, key: &[u8], revoked_at_ms: Option<i64>) -> Session {
    Session {
        device_session_id: id.into(),
        user_id: user.into(),
        public_key: key.to_vec(),
        status: if revoked_at_ms.is_some() { "revoked" } else { "active" }.into(),
        updated_at_ms: 1_767_225_600_000,
        revoked_at_ms,
    }
}

#[tonic::async_trait]
impl Admin for Play {
    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let request = request.into_inner();
        let before = if request.before_seq == 0 { i64::MAX } else { request.before_seq };
        let records = self.trail.iter().rev().filter(|row| row.seq < before).take(request.limit as usize).cloned().collect();
        self.asked.lock().unwrap().push(request);
        Ok(Response::new(ListAuditResponse { records }))
    }

    async fn verify_audit(&self, _request: Request<VerifyAuditRequest>) -> Result<Response<VerifyAuditResponse>, Status> {
        Ok(Response::new(self.verdict.clone()))
    }

    async fn create_session(&self, request: Request<CreateSessionRequest>) -> Result<Response<Session>, Status> {
        let request = request.into_inner();
        Ok(Response::new(session(&request.device_session_id, &request.user_id, &request.public_key, None)))
    }

    async fn show_session(&self, _request: Request<ShowSessionRequest>) -> Result<Response<Session>, Status> {
        Err(Status::not_found("unknown device session"))
    }

    async fn revoke_session(&self, request: Request<RevokeSessionRequest>) -> Result<Response<Session>, Status> {
        let id = request.into_inner().device_session_id;
        Ok(Response::new(session(&id, "ada", &[7; 32], Some(1_767_225_600_000))))
    }
}

fn stage(play: Play) -> Stage {
    let mut stage = Stage::new();
    stage.serve_local("admin.sock", Routes::new(AdminServer::new(play)));
    stage
}

#[tokio::test]
async fn the_newest_records_come_as_a_table_or_as_the_contract_s_objects() {
    let play = Play { trail: trail(3), ..Play::default() };
    let asked = play.asked.clone();
    let stage = stage(play);
    let table = stage.call(&["admin", "audit", "list", "--limit", "2", "--action-type", "command", "--request-id", "r"]).await;
    assert_eq!(table.code, 0, "{table:?}");
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("SEQ") && lines[1].starts_with('3') && lines[2].starts_with('2'), "{lines:?}");
    assert!(["ada-1", "demo.echo", "success", "OK", "3 ms", "r-3"].iter().all(|cell| lines[1].contains(cell)), "{lines:?}");
    let request = asked.lock().unwrap().pop().unwrap();
    assert_eq!(request, ListAuditRequest { limit: 2, before_seq: 0, action_type: "command".into(), request_id: "r".into() });

    let records = stage.call(&["admin", "audit", "list", "--json"]).await.document()["records"].clone();
    assert_eq!(records.as_array().unwrap().len(), 3);
    assert_eq!((&records[0]["seq"], &records[0]["action"]), (&json!(3), &json!("demo.echo")));
    assert_eq!(asked.lock().unwrap().pop().unwrap().limit, 50, "the contract's default");
}

#[tokio::test]
async fn more_records_than_one_call_returns_are_fetched_by_pages() {
    let stage = stage(Play { trail: trail(2500), ..Play::default() });
    let records = stage.call(&["admin", "audit", "list", "--json", "--limit", "2100"]).await.document()["records"].clone();
    let seqs: Vec<i64> = records.as_array().unwrap().iter().map(|record| record["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (401..=2500).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn an_intact_trail_is_exit_0_and_a_broken_one_exit_1_with_its_place() {
    let intact = VerifyAuditResponse { intact: true, records: 3, head_seq: 3, head_hash: vec![0xab; 32], ..VerifyAuditResponse::default() };
    let done = stage(Play { verdict: intact, ..Play::default() }).call(&["admin", "audit", "verify"]).await;
    assert!(done.code == 0 && done.stdout.contains("intact: 3 records"), "{done:?}");

    let broken = VerifyAuditResponse {
        records: 2,
        first_bad_seq: 2,
        reason: "the row does not match its hash".into(),
        ..VerifyAuditResponse::default()
    };
    let stage = stage(Play { verdict: broken, ..Play::default() });
    let done = stage.call(&["admin", "audit", "verify"]).await;
    assert!(done.code == 1 && done.stdout.contains("BROKEN at seq 2: the row does not match its hash"), "{done:?}");
    let done = stage.call(&["--json", "admin", "audit", "verify"]).await;
    let document = done.document();
    assert_eq!((done.code, &document["intact"], &document["first_bad_seq"]), (1, &json!(false), &json!(2)));
}

#[tokio::test]
async fn a_session_is_created_for_a_public_key_or_for_the_public_half_of_a_private_one() {
    let stage = stage(Play::default());
    let file = stage.path("device.pem");
    let key = stage.call(&["client", "keygen", "--out", file.to_str().unwrap()]).await.stdout.trim().to_owned();
    for given in [["--key", file.to_str().unwrap()], ["--public-key", &key]] {
        let done = stage.call(&[&["--json", "admin", "session", "create", "--user", "ada", "--id", "ada-1"], &given[..]].concat()).await;
        let expected = json!({
            "device_session_id": "ada-1", "user_id": "ada", "public_key": key, "status": "active", "updated_at_ms": 1_767_225_600_000_i64,
        });
        assert_eq!((done.code, done.document()), (0, expected));
    }
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_before_anybody_is_asked() {
    let stage = Stage::new();
    let weak = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (key, code) in [("--public-key=AAAA", 2), (&*format!("--public-key={weak}"), 2), ("--key=/does/not/exist", 1)] {
        let done = stage.call(&["admin", "session", "create", "--user", "ada", key]).await;
        assert!(done.code == code && !done.stderr.contains("reachable"), "{key}: {done:?}");
    }
}

#[tokio::test]
async fn what_the_admin_process_refuses_is_exit_1_with_its_word() {
    let stage = stage(Play::default());
    let done = stage.call(&["admin", "session", "show", "nobody"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (1, "gatehouse: NOT_FOUND: unknown device session\n"));
    let done = stage.call(&["--json", "admin", "session", "show", "nobody"]).await;
    assert_eq!(done.error(), json!({"code": "not_found", "message": "unknown device session", "trailers": {}}));
}

#[tokio::test]
async fn a_revoked_session_says_when() {
    let done = stage(Play::default()).call(&["admin", "session", "revoke", "ada-1"]).await;
    assert!(done.code == 0 && done.stdout.contains("status      revoked"), "{done:?}");
    assert!(done.stdout.contains("revoked     2026-01-01T00:00:00.000Z"), "{done:?}");
}
