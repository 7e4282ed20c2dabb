//! The commands that start the binaries beside the command; scripts play them.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::play::{Done, call};

/// A release directory: the real command, and scripts beside it.
struct Release(TempDir);

impl Release {
    fn with(scripts: &[(&str, &str)]) -> Self {
        let release = Self(tempfile::tempdir().unwrap());
        let command = assert_cmd::cargo::cargo_bin!("gatehouse");
        shell("cp \"$0\" \"$1\"", &[command, &release.path("gatehouse")]);
        for (component, script) in scripts {
            let write = format!("cat > \"$0\" <<'END'\n#!/bin/sh\n{script}\nEND\nchmod 755 \"$0\"");
            shell(&write, &[&release.path(&format!("gatehouse-{component}"))]);
        }
        release
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn call(&self, arguments: &[&str]) -> Done {
        call(&self.path("gatehouse"), arguments).await
    }
}

/// Executables are written by a child: a descriptor open for writing here would be inherited by whatever another test forks just then, and
/// the kernel refuses to execute a file that anybody may still write.
fn shell(script: &str, arguments: &[&Path]) {
    assert!(Command::new("sh").arg("-c").arg(script).args(arguments).status().unwrap().success());
}

#[tokio::test]
async fn run_becomes_the_supervisor_beside_it_even_when_called_by_a_link() {
    let release = Release::with(&[("supervisor", "echo $$ \"$@\"; exit 75")]);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("gatehouse");
    symlink(release.path("gatehouse"), &link).unwrap();
    let child = Command::new(&link).args(["run", "--config", "a b.toml"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{pid} --config a b.toml\n"));
    assert_eq!(output.status.code(), Some(75), "its exit code is the supervisor's");
}

#[tokio::test]
async fn a_missing_part_is_named() {
    let release = Release::with(&[]);
    for arguments in [&["run"][..], &["migrate"], &["config", "check"]] {
        let done = release.call(arguments).await;
        assert!(done.code == 1 && done.stderr.contains("is missing; it belongs beside"), "{done:?}");
    }
}

#[tokio::test]
async fn every_owner_of_tables_migrates_and_the_worst_end_is_the_command_s() {
    let auditor = "echo \"auditor $*\"";
    let release = Release::with(&[("auditor", auditor), ("admin", "echo \"admin $*\"")]);
    let done = release.call(&["--config", "x.toml", "migrate", "--dry-run"]).await;
    let expected = "auditor --config x.toml --migrate --dry-run\nadmin --config x.toml --migrate --dry-run\n";
    assert_eq!((done.code, done.stdout.as_str()), (0, expected));

    let done = release.call(&["migrate", "--json"]).await;
    let components = json!([
        {"component": "auditor", "done": true, "output": ["auditor --migrate"]},
        {"component": "admin", "done": true, "output": ["admin --migrate"]},
    ]);
    assert_eq!((done.code, done.document()), (0, json!({"dry_run": false, "components": components})));

    for (ends, code) in [("75", 1), ("70", 1), ("78", 78)] {
        let release = Release::with(&[("auditor", &format!("exit {ends}")), ("admin", "echo admin")]);
        let done = release.call(&["migrate"]).await;
        assert_eq!((done.code, done.stdout.as_str()), (code, "admin\n"), "the other owner migrates all the same");
    }
}

#[tokio::test]
async fn config_check_shows_what_every_component_found() {
    let good = Release::with(&[("supervisor", "test \"$*\" = '--config x.toml --check'")]);
    let done = good.call(&["config", "check", "--config", "x.toml"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (0, "configuration is valid\n"));
    assert_eq!(good.call(&["config", "check", "--config", "x.toml", "--json"]).await.document(), json!({"valid": true, "problems": []}));

    let bad = Release::with(&[("supervisor", "printf 'a: wrong\\nb: wrong too\\n' >&2; exit 78")]);
    let done = bad.call(&["config", "check"]).await;
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (78, "", "a: wrong\nb: wrong too\n"));
    let done = bad.call(&["--json", "config", "check"]).await;
    assert_eq!((done.code, done.document()), (78, json!({"valid": false, "problems": ["a: wrong", "b: wrong too"]})));

    let broken = Release::with(&[("supervisor", "echo out of luck >&2; exit 70")]);
    let done = broken.call(&["config", "check"]).await;
    assert!(done.code == 1 && done.stderr.contains("out of luck"), "{done:?}");
}
