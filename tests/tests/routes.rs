//! Routes that change under a suite that serves: by the file and by operators' switches, without a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, time::Duration};

use gatehouse_proto::internal::v1::{AuditRecord, ListAuditRequest};
use gatehouse_tests::{Behaviour, Device, Downstream, Suite, wait};
use serde_json::Value;
use tonic::Code;

/// Exit code and answer of a command.
async fn json(suite: &Suite, arguments: &[&str]) -> (Option<i32>, Value) {
    let arguments = [arguments, &["--json"]].concat();
    let output = wait::bounded("the command ends", suite.gatehouse(&arguments).output()).await.unwrap();
    let answer = serde_json::from_slice(&output.stdout);
    (output.status.code(), answer.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stderr))))
}

/// The same, which must succeed.
async fn done(suite: &Suite, arguments: &[&str]) -> Value {
    let (code, change) = json(suite, arguments).await;
    assert_eq!(code, Some(0), "{change}");
    change
}

fn messages(change: &Value) -> Vec<&str> {
    change["steps"].as_array().unwrap().iter().map(|step| step["message"].as_str().unwrap()).collect()
}

/// How a command of that type is answered.
async fn answered(suite: &Suite, device: &Device, message_type: &str) -> Result<(), (Code, String)> {
    let answer = suite.execute(&device.command(message_type, "{}")).await;
    answer.map(|_| ()).map_err(|status| (status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn routes_are_added_refused_disabled_and_enabled_under_a_command_in_flight() {
    let downstream = Downstream::start();
    let backend =
        format!("[[backend]]\nname = \"orders\"\nprotocol = \"grpc\"\naddress = \"{}\"\ntimeout = \"60s\"\n", downstream.address());
    let route = |message_type: &str| format!("[[command]]\nmessage_type = \"{message_type}\"\nbackend = \"orders\"\n");
    let suite = Suite::builder().toml(&format!("{backend}{}", route("orders.create"))).start().await;
    let device = Device::registered(&mut suite.embedded_redis());
    let pid = suite.instance("edge").await.pid;
    downstream.on("orders.create", Behaviour::Delay(Duration::from_secs(4)));
    let slow = device.command("orders.create", "{}");
    let operating = async {
        wait::eventually("the command is on its way", async || (!downstream.calls(&slow.request_id).is_empty()).then_some(())).await;
        let file = fs::read_to_string(suite.config()).unwrap();
        let better = format!("{file}{}", route("orders.*"));
        fs::write(suite.config(), &better).unwrap();
        let change = done(&suite, &["reload", "--reason", "a new service"]).await;
        assert_eq!((change["what"].as_str(), change["verdict"].as_str()), (Some("reload"), Some("1 change")), "{change}");
        assert!(messages(&change)[0].starts_with("command orders.*: new, to orders"), "{change}");
        assert_eq!(answered(&suite, &device, "orders.new").await, Ok(()));

        fs::write(suite.config(), format!("{file}[[command]]\nmessage_type = \"a\"\nbackend = \"odrers\"\n[lisen]\n")).unwrap();
        let (code, change) = json(&suite, &["reload"]).await;
        assert_eq!((code, change["state"].as_str()), (Some(1), Some("failed")), "{change}");
        assert_eq!(change["verdict"], "nothing was changed: 2 problems in the configuration");
        let line = |at: usize| format!("gateway.toml:{}: ", file.lines().count() + at);
        let told = |place: &str, what: &str| messages(&change).iter().any(|said| said.contains(place) && said.ends_with(what));
        assert!(told(&line(3), "`odrers`: unknown backend; did you mean `orders`?"), "{change}");
        assert!(told(&line(4), "lisen: unknown section; did you mean `listen`?"), "{change}");
        assert_eq!(answered(&suite, &device, "orders.new").await, Ok(()));
        fs::write(suite.config(), better).unwrap();

        let change = done(&suite, &["route", "disable", "orders.*", "--reason", "it loops"]).await;
        assert_eq!(answered(&suite, &device, "orders.new").await, Err((Code::Unavailable, "route is disabled".into())));
        let listed = done(&suite, &["route", "list"]).await;
        let disabled = &listed["routes"][1];
        assert_eq!((disabled["name"].as_str(), disabled["enabled"].as_bool()), (Some("orders.*"), Some(false)), "{listed}");
        assert_eq!((&disabled["disabled"]["actor"], disabled["disabled"]["reason"].as_str()), (&change["actor"], Some("it loops")));
        change["change_id"].as_str().unwrap().to_owned()
    };
    let (answer, change) = tokio::join!(suite.execute(&slow), operating);
    answer.expect("what is in flight ends as it began");
    assert_eq!(suite.instance("edge").await.pid, pid, "all of it without a restart");

    let asked: AuditRecord = wait::eventually("it is in the trail", async || {
        let request = ListAuditRequest { request_id: change.clone(), ..ListAuditRequest::default() };
        let rows = suite.admin().list_audit(request).await.ok()?.into_inner().records;
        rows.into_iter().filter_map(|row| row.record).find(|record| record.action == "route.disable")
    })
    .await;
    assert_eq!(
        (asked.action_type.as_str(), asked.resource.as_deref(), asked.resource_type.as_deref()),
        ("control", Some("orders.*"), Some("route"))
    );
    assert_eq!(asked.user_agent.as_deref(), Some("route disable orders.*: it loops"));

    suite.kill9("edge").await;
    assert_eq!(
        answered(&suite, &device, "orders.new").await,
        Err((Code::Unavailable, "route is disabled".into())),
        "nor does it come back by a crash"
    );
    let (code, change) = json(&suite, &["route", "enable", "orders.#"]).await;
    assert_eq!((code, change["verdict"].as_str()), (Some(1), Some("orders.#: unknown route; did you mean `orders.*`?")));
    done(&suite, &["route", "enable", "orders.*"]).await;
    assert_eq!(answered(&suite, &device, "orders.new").await, Ok(()));
    let breakers = done(&suite, &["breaker", "list"]).await;
    assert_eq!(breakers["breakers"][0], serde_json::json!({"backend": "orders", "state": "closed"}));
    assert_eq!(done(&suite, &["breaker", "reset", "orders"]).await["verdict"], "the circuit of orders is closed");
}
