//! `gatehouse client bench`, against a gateway that says what each test wants.

use serde_json::json;
use tonic::{Code, Status};

use crate::{
    exec::{Scene, signer},
    play::Done,
};

async fn bench(scene: &Scene, more: &[&str]) -> Done {
    let gateway_key = signer().public_key().to_base64();
    let own = ["client", "bench", "--key", &scene.key, "--session", "ds-1", "--type", "demo.echo", "--gateway-key", &gateway_key];
    scene.stage.call(&[&own[..], &["--endpoint", &scene.endpoint], more].concat()).await
}

#[tokio::test]
async fn every_stream_sends_when_it_has_its_answer() {
    let scene = Scene::new(|_| {}, None).await;
    let done = bench(&scene, &["--duration", "300ms", "--connections", "2", "--streams", "2", "--timeout", "1m", "--json"]).await;
    let report = done.document();
    let count = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((done.code, &report["errors"], &report["rate"], count("unsent")), (0, &json!([]), &json!(null), 0), "{report}");
    assert!(count("answered") >= 4 && count("answered") == count("sent"), "{report}");
    let ms = |name: &str| report["latency_ms"][name].as_f64().unwrap();
    assert!(ms("p50") > 0.0 && ms("p50") <= ms("p90") && ms("p90") <= ms("p99") && ms("p99") <= ms("max") * 1.01, "{report}");
    // Each stream waits for answers and does little else.
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let waited = ms("max") * count("answered") as f64;
    assert!(waited >= 30.0, "{report}");
    assert!(report["per_second"].as_f64().unwrap() > 0.0 && report["seconds"].as_f64().unwrap() >= 0.3);
}

#[tokio::test]
async fn at_a_rate_every_command_of_the_plan_is_accounted_for() {
    let scene = Scene::new(|_| {}, None).await;
    let done = bench(&scene, &["--duration", "1s", "--rate", "50", "--timeout", "1m", "--json"]).await;
    let report = done.document();
    let count = |name: &str| report[name].as_u64().unwrap();
    // A machine that stands still for a second sends fewer, and says so.
    assert_eq!((done.code, count("sent") + count("unsent"), count("answered")), (0, 50, count("sent")), "{report}");
}

#[tokio::test]
async fn refusals_are_counted_by_status_and_with_nothing_else_it_is_exit_1() {
    let scene = Scene::new(|_| {}, Some(Status::new(Code::ResourceExhausted, "rate limit exceeded"))).await;
    let short = ["--duration", "200ms", "--connections", "1", "--streams", "1", "--timeout", "1m"];
    let done = bench(&scene, &[&short[..], &["--json"]].concat()).await;
    let report = done.document();
    let refused = json!([{"code": "RESOURCE_EXHAUSTED", "message": "rate limit exceeded", "count": report["sent"]}]);
    assert_eq!((done.code, &report["errors"], &report["latency_ms"]), (1, &refused, &json!(null)), "{report}");
    let done = bench(&scene, &short).await;
    assert!(done.code == 1 && done.stdout.contains("COUNT") && done.stdout.contains("RESOURCE_EXHAUSTED"), "{done:?}");
}

#[tokio::test]
async fn an_answer_that_does_not_verify_is_an_error_unless_it_is_believed() {
    let scene = Scene::new(|response| response.result_code = "paid".into(), None).await;
    let short = ["--duration", "200ms", "--streams", "1", "--timeout", "1m", "--json"];
    let report = bench(&scene, &short).await.document();
    assert_eq!((&report["answered"], &report["errors"][0]["code"]), (&json!(0), &json!("UNVERIFIED")), "{report}");
    let done = bench(&scene, &[&short[..], &["--no-verify"]].concat()).await;
    assert_eq!((done.code, &done.document()["errors"]), (0, &json!([])));
}

#[tokio::test]
async fn a_report_for_people_says_what_was_asked_and_what_came() {
    let scene = Scene::new(|_| {}, None).await;
    let done = bench(&scene, &["--duration", "200ms", "--connections", "3", "--streams", "2", "--rate", "100", "--timeout", "1m"]).await;
    let lines: Vec<_> = done.stdout.lines().collect();
    assert!(done.code == 0 && lines.len() == 3 && lines[0].contains("3 × 2 at once"), "{done:?}");
    assert!(lines[1].contains(" a second") && lines[2].contains("p99 ") && lines[2].ends_with("from when each was to be sent"), "{done:?}");
}

#[tokio::test]
async fn more_at_once_than_a_machine_can_have_under_way_is_a_usage_error() {
    let scene = Scene::new(|_| {}, None).await;
    let done = bench(&scene, &["--connections", "101", "--streams", "1000", "--duration", "1ms"]).await;
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("--connections × --streams: 101000 commands at once; 100000 are the most"), "{done:?}");
}
