//! The first token: made once, known by its hash, good for ever.

use std::{fs, os::unix::fs::PermissionsExt as _};

use axum::{body::Body, http::Request};
use gatehouse_admin::tokens::FILE;
use gatehouse_chassis::metrics::Metrics;
use gatehouse_migrations::on;
use gatehouse_proto::keys::sha256;
use sqlx::query_scalar;

use crate::house::{House, json, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_once_and_outlives_its_file() {
    for house in [House::new(), House::on_postgres()] {
        let path = house.state.path().join(FILE);
        let admin = house.admin().await;
        let token = admin.token.clone();
        assert_eq!(token.len(), 43, "32 bytes in base64url");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut connection = house.database().connect().await.unwrap();
        let hash: Vec<u8> = on!(&mut connection, c => query_scalar("SELECT sha256 FROM api_tokens").fetch_one(c).await).unwrap();
        assert_eq!(hash, sha256(token.as_bytes()), "the hash alone is kept");
        let second = house.admin().await;
        assert_eq!(second.token, token);
        fs::remove_file(&path).unwrap();
        let mut third = house.admin().await;
        assert!(!path.exists(), "a token is not made twice");
        third.token.clone_from(&token);
        assert_eq!(third.call("GET", "/api/v1/sessions/none", "").await.0, 404, "it is still good");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_from_an_earlier_database_goes_on_being_good() {
    let house = House::new();
    let token = house.admin().await.token.clone();
    for file in ["admin.db", "admin.db-wal", "admin.db-shm"] {
        let _absent = fs::remove_file(house.state.path().join(file));
    }
    let admin = house.admin().await;
    assert_eq!(admin.token, token);
    assert_eq!(admin.call("GET", "/api/v1/sessions/none", "").await.0, 404);
    drop(admin);
    fs::remove_file(house.state.path().join("admin.db")).unwrap();
    fs::write(house.state.path().join(FILE), "password\n").unwrap();
    assert_eq!(house.admin().await.token.len(), 43, "what is no token of ours is replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_token_opens_the_api() {
    let house = House::new();
    let admin = house.admin().await;
    let token = admin.token.clone();
    let ask = async |authorization: Option<String>| {
        let mut request = Request::builder().uri("/api/v1/sessions/none");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        admin.send(request.body(Body::empty()).unwrap()).await
    };
    for wrong in
        [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic abc"), Some(&*format!("Bearer {}", &token[1..])), Some(&*token)]
    {
        let refused = ask(wrong.map(str::to_owned)).await;
        assert_eq!(refused.status(), 401, "{wrong:?}");
        assert_eq!(refused.headers()["www-authenticate"], "Bearer realm=\"gatehouse\"");
        let id = refused.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body = json(refused).await;
        assert_eq!((&body["error"]["code"], &body["error"]["request_id"]), (&"unauthorized".into(), &id.into()));
    }
    assert_eq!(ask(Some(format!("bearer {token}"))).await.status(), 404);
    let metrics = text(admin.send(Request::builder().uri("/metrics").body(Body::empty()).unwrap()).await).await;
    assert!(metrics.contains("api_token_requests_total{token=\"admin\",component=\"admin\",instance=\"0\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_first_starts_at_once_make_one_token() {
    let house = House::on_postgres();
    house.database().ready(true).await.unwrap();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (database, metrics) = (house.database(), [Metrics::new("admin", 0), Metrics::new("admin", 1)]);
    let open = |dir: &tempfile::TempDir, metrics: &Metrics| {
        let (database, dir, metrics) = (database.clone(), dir.path().to_owned(), metrics.clone());
        async move { gatehouse_admin::tokens::Tokens::open(&database, &dir, &metrics).await.unwrap() }
    };
    tokio::join!(open(&first, &metrics[0]), open(&second, &metrics[1]));
    let mut connection = house.database().connect().await.unwrap();
    let count: i64 = on!(&mut connection, c => query_scalar("SELECT count(*) FROM api_tokens").fetch_one(c).await).unwrap();
    assert_eq!(count, 1);
}
