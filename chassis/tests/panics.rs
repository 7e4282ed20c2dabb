//! A panic is a line of the log like any other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{env, process::Command, thread};

use gatehouse_chassis::{
    config::{Config as _, Reader, Shared, Source},
    telemetry,
};

#[test]
fn a_panic_is_an_error_line_in_the_format_of_the_log() {
    let output = Command::new(env::current_exe().unwrap())
        .args(["whoever_panics", "--exact", "--nocapture", "--quiet"])
        .env("PANIC_FOR_REAL", "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let line = stderr.lines().find(|line| line.contains("panicked")).unwrap_or_else(|| panic!("{stderr}"));
    for part in [r#""level":"ERROR""#, r#""message":"panicked: as tested""#, r#""panic.thread":"unlucky""#, "panics.rs:"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

/// The process of the test above.
#[test]
fn whoever_panics() {
    if env::var_os("PANIC_FOR_REAL").is_none() {
        return;
    }
    let shared = Shared::read(&mut Reader::new(Source::default())).unwrap();
    let telemetry = telemetry::init("edge", 0, shared.log, &shared.sentry);
    let panicked = thread::Builder::new().name("unlucky".to_owned()).spawn(|| panic!("as tested")).unwrap().join();
    assert!(panicked.is_err());
    drop(telemetry);
}
