//! Sessions as they stand in Redis after each operation, whoever else writes them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gatehouse_admin::{Refusal, sessions::Wanted};
use gatehouse_proto::{
    internal::v1::{CreateSessionRequest, RevokeSessionRequest, ShowSessionRequest, admin_server::Admin as _},
    session::{SessionSnapshot, Status},
};
use tonic::{Code, Request};

use crate::house::{Admin, House, KEY};

fn wanted(id: &str) -> Wanted {
    Wanted { device_session_id: id.into(), user_id: "u-1".into(), public_key: KEY.into() }
}

fn request(id: &str) -> CreateSessionRequest {
    CreateSessionRequest { device_session_id: id.into(), user_id: "u-1".into(), public_key: STANDARD.decode(KEY).unwrap() }
}

fn stored(house: &House, id: &str) -> SessionSnapshot {
    SessionSnapshot::from_json(house.redis.run(&["GET", &format!("gateway:session:{id}")]).as_bytes()).unwrap()
}

async fn announced(admin: &Admin) -> Vec<SessionSnapshot> {
    let entries = admin.entries("gateway:session_events").await;
    entries.iter().map(|entry| SessionSnapshot::from_fields(entry.fields()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_key_and_in_the_stream_and_recorded() {
    let house = House::new();
    let admin = house.admin().await;
    let mut create = Request::new(request("ds-1"));
    create.metadata_mut().insert("x-request-id", "r-1".parse().unwrap());
    let made = admin.service.create_session(create).await.unwrap().into_inner();
    assert_eq!((made.status.as_str(), made.public_key), ("active", STANDARD.decode(KEY).unwrap()));
    let again = admin.service.create_session(Request::new(request("ds-1"))).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let revoke = async || admin.service.revoke_session(Request::new(RevokeSessionRequest { device_session_id: "ds-1".into() })).await;
    let gone = revoke().await.unwrap().into_inner();
    assert_eq!(gone.revoked_at_ms, Some(gone.updated_at_ms));
    assert!(gone.updated_at_ms > made.updated_at_ms);
    assert_eq!(revoke().await.unwrap().into_inner(), gone, "once revoked, it stays as it is");
    let shown = admin.service.show_session(Request::new(ShowSessionRequest { device_session_id: "ds-1".into() })).await.unwrap();
    assert_eq!(shown.into_inner(), gone);
    let announced = announced(&admin).await;
    assert_eq!(announced.iter().map(|snapshot| snapshot.status).collect::<Vec<_>>(), [Status::Active, Status::Revoked]);
    assert_eq!(stored(&house, "ds-1"), announced[1]);
    let recorded: Vec<_> = admin.recorded().await.into_iter().map(|record| (record.action, record.status, record.grpc_code)).collect();
    let record = |action: &str, status: &str, code: &str| (action.to_owned(), status.to_owned(), Some(code.to_owned()));
    assert_eq!(
        recorded,
        [
            record("session.create", "success", "OK"),
            record("session.create", "error", "ALREADY_EXISTS"),
            record("session.revoke", "success", "OK"),
            record("session.revoke", "success", "OK"),
        ]
    );
    let first = &admin.recorded().await[0];
    assert_eq!((first.request_id.as_deref(), first.resource.as_deref()), (Some("r-1"), Some("ds-1")));
    assert_eq!((first.action_type.as_str(), first.resource_type.as_deref()), ("admin", Some("device_session")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_a_clock_ahead_of_ours_is_superseded_all_the_same() {
    let house = House::new();
    let admin = house.admin().await;
    let ahead = jiff::Timestamp::now().as_millisecond() + 3_600_000;
    let foreign = SessionSnapshot {
        device_session_id: "ds-1".into(),
        user_id: "u-1".into(),
        public_key: KEY.into(),
        status: Status::Active,
        updated_at_ms: ahead,
        revoked_at_ms: None,
    };
    house.redis.run(&["SET", "gateway:session:ds-1", &foreign.to_json()]);
    let gone = admin.sessions.revoke("ds-1").await.unwrap();
    assert_eq!(gone.updated_at_ms, ahead + 1);
    assert!(gone.supersedes(&foreign));
    let again = admin.sessions.create(&wanted("ds-1")).await.unwrap();
    assert!(again.updated_at_ms == ahead + 2 && again.supersedes(&gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_at_once_one_creates_and_every_snapshot_supersedes_the_last() {
    let house = House::new();
    let admin = house.admin().await;
    let wanted = wanted("ds-1");
    let made = futures_util::future::join_all((0..24).map(|_| admin.sessions.create(&wanted))).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    assert!(made.iter().all(|made| matches!(made, Ok(_) | Err(Refusal::Exists))), "{made:?}");
    let mixed = futures_util::future::join_all(
        (0..12).map(async |n| if n % 2 == 0 { admin.sessions.revoke("ds-1").await } else { admin.sessions.create(&wanted).await }),
    );
    let _each_as_it_came = mixed.await;
    let announced = announced(&admin).await;
    assert!(announced.len() >= 2 && announced.windows(2).all(|pair| pair[1].supersedes(&pair[0])), "{announced:?}");
    assert_eq!(announced.last(), Some(&stored(&house, "ds-1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_by_naming_it() {
    let house = House::new();
    let admin = house.admin().await;
    let long = "x".repeat(129);
    let key = STANDARD.decode(KEY).unwrap();
    for (id, user, key, message) in [
        ("", "", key.as_slice(), "user_id is missing"),
        (long.as_str(), "u", &key, "device_session_id is longer than 128 bytes"),
        ("", long.as_str(), &key, "user_id is longer than 128 bytes"),
        ("", "u", &key[..31], "public_key: a raw Ed25519 public key has 32 bytes, not 31"),
        ("", "u", &[0; 32], "public_key: not a usable Ed25519 public key"),
    ] {
        let request = CreateSessionRequest { device_session_id: id.into(), user_id: user.into(), public_key: key.into() };
        let refused = admin.service.create_session(Request::new(request)).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, message));
    }
    assert_eq!(admin.sessions.show("nobody").await.unwrap_err().codes().0, Code::NotFound);
    assert_eq!(admin.sessions.revoke("nobody").await.unwrap_err().codes().0, Code::NotFound);
    house.redis.run(&["SET", "gateway:session:odd", "{}"]);
    assert_eq!(admin.sessions.show("odd").await.unwrap_err().codes().0, Code::DataLoss);
    let new = admin.service.create_session(Request::new(request(""))).await.unwrap();
    assert_eq!(new.get_ref().device_session_id.len(), 36, "a new UUID");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_sessions_are_unavailable() {
    let mut house = House::new();
    let admin = house.admin().await;
    house.redis.kill9();
    let refused = admin.service.create_session(Request::new(request("ds-1"))).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "session store is unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_recorded_is_not_answered_with_success() {
    let house = House::new();
    let admin = house.admin().await;
    // Whoever replaces the stream by something else leaves the recorder its spool, and a full disk would take that too.
    house.redis.run(&["SET", "gateway:audit", "not a stream"]);
    let spool = house.state.path().join("spool/admin-0.spool");
    assert!(spool.exists());
    admin.service.create_session(Request::new(request("ds-1"))).await.unwrap();
    assert!(std::fs::metadata(&spool).unwrap().len() > 0, "the record is on disk");
    admin.process.shutdown().abort();
    admin.process.shutdown().sinks_finished().await;
    let refused = admin.service.create_session(Request::new(request("ds-2"))).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the change could not be recorded in the audit trail"));
}
