//! An error that is logged reaches the Sentry server that `SENTRY_DSN` names.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
    thread,
    time::Duration,
};

use gatehouse_chassis::{
    config::{Config as _, Reader, Shared, Source},
    telemetry,
};

#[test]
fn errors_are_reported_with_environment_and_server_name() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            while !String::from_utf8_lossy(&request).contains("as tested") {
                let read = stream.read(&mut chunk).unwrap();
                assert_ne!(read, 0, "the report ended early");
                request.extend_from_slice(&chunk[..read]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
            sender.send(String::from_utf8_lossy(&request).into_owned()).unwrap();
        }
    });
    let dsn = format!("http://abc@127.0.0.1:{port}/1");
    let env = [("SENTRY_DSN", dsn.as_str()), ("SENTRY_ENVIRONMENT", "staging")];
    let shared = Shared::read(&mut Reader::new(Source::of("", &env))).unwrap();
    let telemetry = telemetry::init("edge", 0, shared.log, &shared.sentry);
    tracing::error!("broken, as tested");
    let report = received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(report.contains("staging") && report.contains("edge-0"), "{report}");
    drop(telemetry);
}
