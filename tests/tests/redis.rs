//! What stands in Redis (CONTRACT.md §2), and what happens when it is somewhere else, trimmed, wiped or written by others in their own way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use gatehouse_proto::gateway::v1::server_time::Resume;
use gatehouse_tests::{Device, Downstream, EventStream, Resp, Suite, Trail, resp::Answer, servers, suite::publish, wait};

async fn start() -> (Suite, Downstream) {
    let downstream = Downstream::start();
    let suite = Suite::builder().downstream("orders", &downstream, &["demo.echo"]).set("push", "bookmark_interval", "200ms");
    (suite.start().await, downstream)
}

fn number(redis: &mut Resp, words: &[&str]) -> i64 {
    match redis.command(words).unwrap() {
        Answer::Number(number) => number,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[tokio::test]
async fn a_reservation_lives_as_long_as_its_request_could_be_fresh() {
    let (suite, _downstream) = start().await;
    let mut redis = suite.embedded_redis();
    let device = Device::registered(&mut redis);
    let request = device.command("demo.echo", "x");
    suite.execute(&request).await.unwrap();
    let key = format!("gateway:replay:{}:{}", device.session, request.request_id);
    let left = number(&mut redis, &["PTTL", &key]);
    // A timestamp five minutes ahead stays fresh for ten, and ten seconds longer on a clock that is so far behind.
    assert!((595_000..=610_000).contains(&left), "{left} ms");
    let refused = device.command("nobody.knows", "x");
    suite.execute(&refused).await.unwrap_err();
    let mut forged = device.command("demo.echo", "x");
    forged.request_id.push('!');
    suite.execute(&forged).await.unwrap_err();
    assert_eq!(number(&mut redis, &["EXISTS", &format!("gateway:replay:{}:{}", device.session, forged.request_id)]), 0);
}

#[tokio::test]
async fn another_database_prefix_and_streams_are_used_throughout() {
    let server = servers::redis().await;
    let downstream = Downstream::start();
    let suite = Suite::builder()
        .redis(&server)
        .env("GATEWAY_REDIS_DB", 3)
        .env("GATEWAY_REDIS_KEY_PREFIX", "other:")
        .env("GATEWAY_SESSION_EVENTS_REDIS_STREAM", "sessions-of-others")
        .env("GATEWAY_CLIENT_EVENTS_REDIS_STREAM", "events-of-others")
        .downstream("orders", &downstream, &["demo.echo"])
        .start()
        .await;
    let mut redis = servers::client(&server);
    redis.command(&["SELECT", "3"]).unwrap();
    let device = Device::new();
    device.write_snapshot_under(&mut redis, "other:", "sessions-of-others", "active", gatehouse_tests::device::now_ms());
    let request = device.command("demo.echo", "x");
    suite.execute(&request).await.unwrap();
    Trail::record(&suite, &request.request_id).await;
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    redis.xadd("events-of-others", &[(b"user_id", device.user.as_bytes()), (b"event_type", b"t"), (b"payload_bytes", b"here")]).unwrap();
    assert_eq!(stream.payload().await, "here");
    device.write_snapshot_under(&mut redis, "other:", "sessions-of-others", "revoked", gatehouse_tests::device::now_ms() + 1);
    assert_eq!(stream.end().await.1.message(), "device session is revoked");
    assert_eq!(number(&mut redis, &["EXISTS", "other:audit"]), 1);
    for database in ["0", "3"] {
        redis.command(&["SELECT", database]).unwrap();
        let Answer::List(strays) = redis.command(&["KEYS", "gateway:*"]).unwrap() else { panic!("KEYS answers a list") };
        assert_eq!(strays, [], "nothing under the default prefix in database {database}");
    }
}

#[tokio::test]
async fn a_wiped_redis_is_audited_and_pushed_from_again() {
    let (suite, _downstream) = start().await;
    let mut redis = suite.embedded_redis();
    let device = Device::registered(&mut redis);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    let first = device.command("demo.echo", "x");
    suite.execute(&first).await.unwrap();
    Trail::record(&suite, &first.request_id).await;
    publish(&mut redis, &device.user, None, "t", b"before");
    assert_eq!(stream.payload().await, "before");
    for round in 0..2 {
        // Streams, groups, sessions, reservations: all gone.
        redis.command(&["FLUSHALL"]).unwrap();
        device.register(&mut redis);
        let text = format!("after {round}");
        publish(&mut redis, &device.user, None, "t", text.as_bytes());
        assert_eq!(stream.payload().await, text, "an open stream goes on");
        let request = device.command("demo.echo", "x");
        wait::eventually("commands are served", async || suite.execute(&request).await.ok()).await;
        Trail::record(&suite, &request.request_id).await;
    }
    Trail::read(&suite).await.check(&suite).await;
}

#[tokio::test]
async fn a_cursor_before_what_was_trimmed_is_a_gap() {
    let (suite, _downstream) = start().await;
    let mut redis = suite.embedded_redis();
    let device = Device::registered(&mut redis);
    let ids: Vec<_> = (0..20).map(|i| publish(&mut redis, &device.user, None, "t", format!("{i}").as_bytes())).collect();
    redis.command(&["XTRIM", "gateway:client_events", "MAXLEN", "5"]).unwrap();
    // What a pusher still holds in memory it may deliver; then it must be all of it.
    let mut stream = suite.subscribe(&device, &ids[0]).await.unwrap();
    if stream.bootstrap.resume() == Resume::Complete {
        for i in 1..20 {
            assert_eq!(stream.payload().await, i.to_string());
        }
    }
    drop(stream);
    for pusher in ["pusher/0", "pusher/1"] {
        suite.kill9(pusher).await;
    }
    for (cursor, resume) in [(&ids[0], Resume::Gap), (&ids[13], Resume::Gap), (&ids[15], Resume::Complete), (&ids[19], Resume::Complete)] {
        let stream = suite.subscribe(&device, cursor).await.unwrap();
        assert_eq!(stream.bootstrap.resume(), resume, "after {cursor} of {ids:?}");
    }
    let mut stream = suite.subscribe(&device, &ids[16]).await.unwrap();
    assert_eq!([stream.payload().await, stream.payload().await, stream.payload().await], ["17", "18", "19"]);
}

#[tokio::test]
async fn what_was_wiped_is_a_gap_even_when_no_pusher_saw_it_happen() {
    let (suite, _downstream) = start().await;
    let mut redis = suite.embedded_redis();
    let device = Device::registered(&mut redis);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    let id = publish(&mut redis, &device.user, None, "t", b"seen");
    assert_eq!(stream.payload().await, "seen");
    publish(&mut redis, &device.user, None, "t", b"gone");
    assert_eq!(stream.payload().await, "gone");
    // Readers may be a second behind the clock; after that, no cursor of before can be one of after.
    let ms = |id: &str| id.split_once('-').unwrap().0.parse::<u64>().unwrap();
    while ms(&stream.bookmark().await.event_id) < ms(&id) + 1500 {}
    redis.command(&["FLUSHALL"]).unwrap();
    for pusher in ["pusher/0", "pusher/1"] {
        suite.kill9(pusher).await;
    }
    device.register(&mut redis);
    let stream = suite.subscribe(&device, &id).await.unwrap();
    assert_eq!(stream.bootstrap.resume(), Resume::Gap);
}

#[tokio::test]
async fn a_stream_that_was_deleted_under_the_pushers_is_delivered_from_memory_or_a_gap() {
    let (suite, _downstream) = start().await;
    let mut redis = suite.embedded_redis();
    let device = Device::registered(&mut redis);
    let mut live = suite.subscribe(&device, "").await.unwrap();
    let id = publish(&mut redis, &device.user, None, "t", b"seen");
    publish(&mut redis, &device.user, None, "t", b"gone");
    assert_eq!([live.payload().await, live.payload().await], ["seen", "gone"]);
    redis.command(&["DEL", "gateway:client_events"]).unwrap();
    let mut stream = suite.subscribe(&device, &id).await.unwrap();
    if stream.bootstrap.resume() == Resume::Complete {
        assert_eq!(stream.payload().await, "gone");
    }
    publish(&mut redis, &device.user, None, "t", b"anew");
    for stream in [&mut live, &mut stream] {
        assert_eq!(stream.payload().await, "anew");
    }
}

/// A writer whose clock is ahead, and who makes the ids itself: the stream goes on from there, and so must every cursor.
#[tokio::test]
async fn ids_of_a_writer_whose_clock_is_ahead_move_every_cursor_with_them() {
    let (suite, _downstream) = start().await;
    let mut redis = suite.embedded_redis();
    let device = Device::registered(&mut redis);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    let ahead = format!("{}-0", gatehouse_tests::device::now_ms() + 60_000);
    let user = device.user.clone();
    let entry = ["XADD", "gateway:client_events", &ahead, "user_id", &user, "event_type", "t", "payload_bytes", "ahead"];
    redis.command(&entry).unwrap();
    assert_eq!(stream.payload().await, "ahead");
    // Five intervals; a bookmark, where one comes, has an id of its own.
    let silence = tokio::time::timeout(std::time::Duration::from_secs(1), stream.next_without_bound()).await;
    assert!(silence.is_err(), "{silence:?}");
    publish(&mut redis, &device.user, None, "t", b"after");
    assert_eq!(stream.payload().await, "after");
    let mut resumed = suite.subscribe(&device, &ahead).await.unwrap();
    assert_eq!((resumed.bootstrap.resume(), resumed.payload().await.as_str()), (Resume::Complete, "after"));
}

#[tokio::test]
async fn streams_stay_open_while_redis_is_silent_and_go_on_afterwards() {
    let server = servers::redis().await;
    let suite = Suite::builder().redis(&server).set("push", "bookmark_interval", "200ms").start().await;
    let mut redis = servers::client(&server);
    let device = Device::registered(&mut redis);
    let mut through: EventStream = suite.subscribe(&device, "").await.unwrap();
    servers::freeze(&server, true);
    let silence = tokio::time::timeout(std::time::Duration::from_secs(3), through.next_without_bound()).await;
    assert!(silence.is_err(), "neither an event nor an end: {silence:?}");
    servers::freeze(&server, false);
    publish(&mut redis, &device.user, None, "t", b"after");
    assert_eq!(through.payload().await, "after");
}
