//! The command line itself.

use std::{
    io::Read as _,
    process::{Command, Stdio},
};

use crate::play::{Done, Stage, call};

async fn gatehouse(arguments: &[&str]) -> Done {
    call(assert_cmd::cargo::cargo_bin!("gatehouse"), arguments).await
}

#[tokio::test]
async fn version_and_help_are_answers() {
    let version = gatehouse(&["--version"]).await;
    assert_eq!((version.code, version.stdout.as_str()), (0, concat!("gatehouse ", env!("CARGO_PKG_VERSION"), "\n")));
    let help = gatehouse(&["client", "exec", "--help"]).await;
    assert!(help.code == 0 && help.stdout.contains("--gateway-key <BASE64>"), "{help:?}");
}

#[tokio::test]
async fn a_wrong_command_line_is_exit_2_in_the_form_that_was_asked_for() {
    for arguments in [&[][..], &["fly"], &["status", "--loud"], &["client", "exec"]] {
        let done = gatehouse(arguments).await;
        assert!(done.code == 2 && done.stdout.is_empty() && !done.stderr.is_empty(), "{done:?}");
    }
    let done = gatehouse(&["--json", "fly"]).await;
    assert_eq!((done.code, &done.error()["code"]), (2, &"usage".into()));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_is_exit_78() {
    let done = gatehouse(&["--config", "/does/not/exist.toml", "status"]).await;
    assert!(done.code == 78 && done.stderr.contains("/does/not/exist.toml"), "{done:?}");
    let stage = Stage::new();
    stage.configure("[broken");
    let done = stage.call(&["--json", "status"]).await;
    assert_eq!((done.code, &done.error()["code"]), (78, &"configuration".into()));
    assert_eq!(done.error()["problems"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn keygen_prints_the_public_half_and_never_overwrites() {
    let stage = Stage::new();
    let file = stage.path("device.pem");
    let made = stage.call(&["client", "keygen", "--out", file.to_str().unwrap()]).await;
    assert!(made.code == 0 && made.stdout.len() == 45 && made.stdout.ends_with("=\n"), "{made:?}");
    let again = stage.call(&["--json", "client", "keygen", "--out", file.to_str().unwrap()]).await;
    assert!(again.code == 1 && again.error()["message"].as_str().unwrap().contains("never overwritten"), "{again:?}");
    let printed = stage.call(&["--json", "client", "keygen"]).await.document();
    assert!(printed["private_key_pem"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("gatehouse"));
    let mut child = child.args(["client", "keygen"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!((child.wait().unwrap().code(), complaint.as_str()), (Some(0), ""));
}
