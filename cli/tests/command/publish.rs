//! `gatehouse client publish`, into a real Redis.

use gatehouse_testkit::RedisServer;

use crate::play::Stage;

#[tokio::test]
async fn an_event_is_written_as_the_contract_says() {
    let redis = RedisServer::start();
    let stage = Stage::new();
    stage.configure(&format!(
        "[redis]\nmaster_addr = \"{}\"\npassword = \"{}\"\nclient_events_stream = \"events\"",
        redis.addr(),
        redis.password()
    ));
    let done = stage
        .call(&[
            "client",
            "publish",
            "--user",
            "ada",
            "--type",
            "order.shipped",
            "--payload",
            "hi",
            "--device",
            "ada-1",
            "--request-id",
            "r-1",
        ])
        .await;
    assert_eq!(done.code, 0, "{done:?}");
    let entries = redis.run(&["XRANGE", "events", "-", "+"]);
    let fields =
        ["user_id", "ada", "event_type", "order.shipped", "payload_bytes", "hi", "device_session_id", "ada-1", "request_id", "r-1"];
    let words: Vec<&str> = entries.split_whitespace().collect();
    assert_eq!(words, [&[done.stdout.trim()], &fields[..]].concat());

    let document = stage.call(&["--json", "client", "publish", "--user", "ada", "--type", "t"]).await.document();
    assert_eq!((&document["user_id"], &document["event_type"]), (&"ada".into(), &"t".into()));
}

#[tokio::test]
async fn what_a_pusher_would_skip_is_refused_here() {
    let stage = Stage::new();
    let long = "u".repeat(129);
    for (user, event_type) in [("", "t"), ("ada", ""), (long.as_str(), "t")] {
        let done = stage.call(&["client", "publish", "--user", user, "--type", event_type]).await;
        assert!(done.code == 2 && done.stderr.contains("1 to 128 bytes"), "{done:?}");
    }
}

#[tokio::test]
async fn no_redis_is_exit_69_and_a_refused_password_exit_78() {
    let stage = Stage::new();
    let away = stage.call(&["client", "publish", "--user", "ada", "--type", "t"]).await;
    assert_eq!(away.code, 69, "{away:?}");
    let redis = RedisServer::start();
    stage.configure(&format!("[redis]\nmaster_addr = \"{}\"\npassword = \"wrong\"", redis.addr()));
    let refused = stage.call(&["client", "publish", "--user", "ada", "--type", "t"]).await;
    assert_eq!(refused.code, 78, "{refused:?}");
}
