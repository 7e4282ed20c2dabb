//! A wrong configuration is refused at once, with everything that is wrong, where it is, and exit status 78.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use gatehouse_tests::{Builder, Suite, servers};

/// What the supervisor says and exits with.
async fn refused(builder: Builder) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = builder.prepare().run_to_exit().await;
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// Every one of `parts` on one line of stderr, exit status 78.
async fn check(name: &str, builder: Builder, parts: &[&str]) {
    let (code, stderr) = refused(builder).await;
    let found = stderr.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "{name}: no line with {parts:?} in:\n{stderr}");
    assert_eq!(code, Some(78), "{name}:\n{stderr}");
}

fn suite() -> Builder {
    Suite::builder()
}

#[tokio::test]
async fn variables_that_are_no_longer_accepted_stop_the_start() {
    for value in ["true", "false", ""] {
        check("TLS", suite().env("GATEWAY_REDIS_TLS_ENABLED", value), &["GATEWAY_REDIS_TLS_ENABLED", "no longer accepted"]).await;
    }
    check("user name", suite().env("GATEWAY_REDIS_USERNAME", "gateway"), &["GATEWAY_REDIS_USERNAME", "no longer accepted"]).await;
}

#[tokio::test]
async fn an_address_without_a_password_is_refused() {
    let builder = suite().env("GATEWAY_REDIS_MASTER_ADDR", "127.0.0.1:6379");
    check("no password", builder, &["GATEWAY_REDIS_PASSWORD"]).await;
    let builder = suite().set("redis", "master_addr", "127.0.0.1:6379").set("redis", "password_file", "/nonexistent");
    check("no password file", builder, &["/nonexistent", "cannot be read"]).await;
}

#[tokio::test]
async fn the_signer_key_must_be_there_and_be_one() {
    let variable = "GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH";
    check("not set", suite().unset("signer", "private_key_pem_path"), &[variable]).await;
    check("missing", suite().env(variable, "/nonexistent/key.pem"), &[variable, "/nonexistent/key.pem"]).await;
    let scratch = gatehouse_tests::Scratch::new();
    let open = scratch.write("open.pem", "not a key");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    check("others may read it", suite().env(variable, open.display()), &[variable, "open.pem has mode 06", "chmod 600"]).await;
    let garbage = scratch.write_private("garbage.pem", "not a key");
    check("garbage", suite().env(variable, garbage.display()), &[variable, "garbage.pem", "Ed25519"]).await;
    // An EC key is PKCS#8 too.
    let ec = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2\n\
              OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r\n1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G\n\
              -----END PRIVATE KEY-----\n";
    let ec = scratch.write_private("ec.pem", ec);
    check("another kind of key", suite().env(variable, ec.display()), &[variable, "ec.pem", "Ed25519"]).await;
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_the_nearest_name() {
    let builder = suite().set("redis", "master_adr", "127.0.0.1:6379");
    check("key", builder, &["gateway.toml:", "master_adr", "master_addr"]).await;
    let builder = suite().set("pushh", "log_bytes", 1);
    check("section", builder, &["gateway.toml:", "pushh", "push"]).await;
    let builder = suite().toml("[[backend]]\nname = \"a\"\nprotocol = \"grpc\"\naddres = \"127.0.0.1:1\"");
    check("list of sections", builder, &["backend[1]", "addres", "address"]).await;
}

#[tokio::test]
async fn a_value_of_the_wrong_kind_is_refused_where_it_stands() {
    check("duration in a variable", suite().env("GATEWAY_SHUTDOWN_TIMEOUT", "soon"), &["GATEWAY_SHUTDOWN_TIMEOUT", "soon"]).await;
    check("duration in the file", suite().set("shutdown", "edge", "-1s"), &["gateway.toml:", "shutdown.edge", "-1s"]).await;
    check("number", suite().env("GATEWAY_REDIS_DB", "zero"), &["GATEWAY_REDIS_DB", "zero"]).await;
    check("bounds", suite().set("suite", "pushers", 0), &["suite.pushers"]).await;
    check("address", suite().env("GATEWAY_PUBLIC_HTTP_ADDR", "8080"), &["GATEWAY_PUBLIC_HTTP_ADDR", "8080"]).await;
    check("level", suite().env("LOG_LEVEL", "loud"), &["LOG_LEVEL", "loud"]).await;
    check("database", suite().env("GATEWAY_DATABASE_URL", "mysql://root:hunter2@db/x"), &["GATEWAY_DATABASE_URL", "postgres://"]).await;
    check("backend of a command", suite().toml("[[command]]\nmessage_type = \"a.b\"\nbackend = \"nobody\""), &["nobody"]).await;
}

#[tokio::test]
async fn what_is_no_toml_is_refused_with_its_line() {
    check("syntax", suite().toml("[push\n"), &["gateway.toml:"]).await;
}

#[tokio::test]
async fn every_problem_is_printed_at_once() {
    let builder = suite()
        .set("push", "max_pending_event", 1)
        .set("auditor", "no_such_key", 1)
        .set("shutdown", "timeout", "never")
        .env("GATEWAY_REDIS_USERNAME", "me")
        .env("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH", "/nonexistent.pem");
    let (code, stderr) = refused(builder).await;
    assert_eq!(code, Some(78), "{stderr}");
    for part in ["max_pending_events", "auditor.no_such_key", "`never`", "GATEWAY_REDIS_USERNAME", "/nonexistent.pem"] {
        assert_eq!(stderr.matches(part).count(), 1, "{part}, once, in:\n{stderr}");
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_holder() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let me = std::process::id().to_string();
    for (listener, variable) in [("grpc", "GATEWAY_AUTHENTICATED_GRPC_ADDR"), ("http", "GATEWAY_PUBLIC_HTTP_ADDR")] {
        let (code, stderr) = refused(suite().unset("listen", listener).env(variable, &address)).await;
        assert!(stderr.lines().any(|line| line.contains(&address) && line.contains(&me)), "{address} is held by {me}:\n{stderr}");
        assert_eq!(code, Some(78), "{stderr}");
    }
}

#[tokio::test]
async fn secrets_are_never_printed() {
    let password = "hunter2-hunter2";
    let builder = suite().env("GATEWAY_REDIS_MASTER_ADDR", "127.0.0.1:1").env("GATEWAY_REDIS_PASSWORD", password);
    let builder = builder.env("GATEWAY_DATABASE_URL", format!("postgres://gatehouse:{password}@127.0.0.1:1/x")).env("LOG_LEVEL", "debug");
    let (code, stderr) = refused(builder).await;
    assert_ne!(code, Some(0));
    assert!(!stderr.contains(password), "{stderr}");
}

#[tokio::test]
async fn a_redis_that_does_not_answer_stops_the_start_and_is_named() {
    let address = format!("127.0.0.1:{}", servers::free_port());
    let builder = suite().env("GATEWAY_REDIS_MASTER_ADDR", &address).env("GATEWAY_REDIS_PASSWORD", "x");
    let (code, stderr) = refused(builder).await;
    assert!(stderr.contains(&address), "{stderr}");
    assert!(matches!(code, Some(75 | 78)), "{code:?}: {stderr}");

    // One that accepts and is silent: the PING is bounded.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let builder = suite().env("GATEWAY_REDIS_MASTER_ADDR", &address).env("GATEWAY_REDIS_PASSWORD", "x");
    let (code, stderr) = refused(builder).await;
    assert!(stderr.contains(&address), "{stderr}");
    assert!(matches!(code, Some(75 | 78)), "{code:?}: {stderr}");
}

#[tokio::test]
async fn a_wrong_redis_password_is_a_wrong_configuration() {
    let redis = servers::redis().await;
    check("password", suite().redis(&redis).set("redis", "password", "wrong"), &[&redis.addr()]).await;
}

#[tokio::test]
async fn pending_migrations_stop_the_start_and_name_the_command() {
    let url = servers::postgres_database().await;
    check("PostgreSQL", suite().set("database", "url", &url), &["migrat", "gatehouse migrate"]).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_stops_the_start() {
    let url = format!("postgres://gatehouse@127.0.0.1:{}/x", servers::free_port());
    let (code, stderr) = refused(suite().env("GATEWAY_DATABASE_URL", &url)).await;
    assert!(matches!(code, Some(75 | 78)), "{code:?}: {stderr}");
    assert!(stderr.to_lowercase().contains("database"), "{stderr}");
}

#[tokio::test]
async fn the_environment_beats_the_file() {
    let redis = servers::redis().await;
    let suite = Suite::builder().set("redis", "master_addr", "127.0.0.1:1").set("redis", "password", "wrong");
    let suite = suite.env("GATEWAY_REDIS_MASTER_ADDR", redis.addr()).env("GATEWAY_REDIS_PASSWORD", redis.password()).start().await;
    assert!(suite.status().await.ready);
}

#[tokio::test]
async fn secrets_come_as_files_and_as_credentials() {
    let redis = servers::redis().await;
    let scratch = gatehouse_tests::Scratch::new();
    let file = scratch.write("credentials/redis-password", format!("{}\n", redis.password()));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let on_redis = || Suite::builder().set("redis", "master_addr", redis.addr());
    drop(on_redis().env("GATEWAY_REDIS_PASSWORD_FILE", file.display()).start().await);
    drop(on_redis().env("CREDENTIALS_DIRECTORY", file.parent().unwrap().display()).start().await);
}

fn in_repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The sample file as it is, and with every key uncommented: `# key = value` and `#key = value` alike.
fn samples() -> Vec<(&'static str, String)> {
    let sample = std::fs::read_to_string(in_repository("systemd/gateway.toml")).expect("a sample configuration stands in systemd/");
    let uncommented: Vec<_> = sample.lines().map(|line| uncomment(line).unwrap_or(line)).collect();
    vec![("as it is", sample.clone()), ("with every key uncommented", uncommented.join("\n"))]
}

fn uncomment(line: &str) -> Option<&str> {
    let text = line.strip_prefix('#')?.trim_start();
    let is_section = text.starts_with('[') && text.trim_end().ends_with(']');
    let key = text.split_once(" = ").map(|(key, _)| key);
    let is_key = key.is_some_and(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    (is_section || is_key).then_some(text)
}

#[test]
fn the_sample_configuration_is_accepted_as_it_is_and_with_every_key_uncommented() {
    for (name, text) in samples() {
        let prepared = Suite::builder().prepare();
        // Files, users and groups that the sample names are not here; the keys are what is checked.
        let text = text.replace("\ncontrol_group = \"gatehouse\"", "\ncontrol_group = \"root\"");
        let text = text.replace("\noperators = [\"alice\", \"group:ops\"]", "\noperators = [\"root\", \"group:root\"]");
        let scratch = prepared.scratch.path();
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        prepared.scratch.write("tls.pem", pair.cert.pem());
        prepared.scratch.write("tls.key", pair.signing_key.serialize_pem());
        std::fs::set_permissions(scratch.join("tls.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        // Anybody's certificate will do for the CA: none is verified here.
        let tls = [("certificate", "tls.pem"), ("private_key", "tls.key"), ("client_ca", "tls.pem")];
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            if let Some((key, file)) = tls.iter().find(|(key, _)| line.split_once(" = ").is_some_and(|(given, _)| given == *key)) {
                lines.push(format!("{key} = \"{}/{file}\"", scratch.display()));
                continue;
            }
            let path = line
                .split_once(" = ")
                .map(|(key, _)| key)
                .filter(|key| key.ends_with("_file") || key.ends_with("_pem_path") || *key == "directory");
            match path {
                // In place of the path of one key, never beside it.
                Some("directory") => {}
                Some("private_key_pem_path") => lines.push(format!("private_key_pem_path = \"{}/signer.pem\"", scratch.display())),
                Some("url_file") => {
                    prepared.scratch.write("url", "postgres://gatehouse@localhost/gatehouse");
                    lines.push(format!("url_file = \"{}/url\"", scratch.display()));
                }
                Some("dsn_file" | "js_dsn_file") => {
                    prepared.scratch.write("dsn", "https://key@sentry.example/1");
                    lines.push(line.replace(line.split_once(" = ").unwrap().1, &format!("\"{}/dsn\"", scratch.display())));
                }
                Some(_) => {
                    prepared.scratch.write("secret", "secret");
                    lines.push(line.replace(line.split_once(" = ").unwrap().1, &format!("\"{}/secret\"", scratch.display())));
                }
                None => lines.push(line.to_owned()),
            }
        }
        prepared.scratch.write("gateway.toml", lines.join("\n"));
        let mut check = prepared.command("gatehouse", &["config", "check"]);
        // The sample leaves the signer to the environment where it is commented out.
        check.env("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH", scratch.join("signer.pem"));
        let output = check.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{name}:\n{text}");
    }
}

#[test]
fn the_operator_s_check_finds_what_the_start_would_find() {
    let prepared = Suite::builder().set("push", "no_such_key", 1).env("GATEWAY_REDIS_USERNAME", "me").prepare();
    let output = prepared.command("gatehouse", &["config", "check"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("no_such_key") && text.contains("GATEWAY_REDIS_USERNAME"), "{text}");
}
