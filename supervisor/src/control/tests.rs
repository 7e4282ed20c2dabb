//! The service on a real unix socket, on one thread as in the supervisor.

pub(super) mod house;

use std::{
    collections::BTreeSet,
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all};
use gatehouse_proto::internal::v1::{
    ChangeRequest, ChangesRequest, Member, Members, StatusRequest, Target, Upgrade, VerdictRequest, WatchMembersRequest, change_request,
    supervisor_client::SupervisorClient,
};
use nix::unistd::{Uid, User};
use tonic::{Code, Request, metadata::MetadataValue};

use super::*;
use house::{House, NO_REDIS, done, restart, until};

fn own_name() -> String {
    User::from_uid(Uid::effective()).unwrap().unwrap().name
}

#[tokio::test]
async fn a_change_reaches_the_driver_its_verdict_the_asker_and_both_the_trail() {
    let mut house = House::new(NO_REDIS, &Access::default());
    let mut client = house.client();
    let id = client.change(restart("pusher", Some(1), " it leaks \n")).await.unwrap().into_inner().change_id;
    let order = house.ends().desk.next().await;
    let actor = format!("{} (uid {})", own_name(), Uid::effective());
    assert_eq!(
        (&order.id, &order.actor, order.reason.as_str(), order.change.to_string().as_str()),
        (&id, &actor, "it leaks", "restart pusher/1")
    );

    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.changes.len(), status.changes[0].state.as_str(), status.pid), (1, "queued", std::process::id()));
    let mut asker = house.client();
    let verdict = asker.verdict(VerdictRequest { change_id: id.clone(), wait: true });
    let driver = async {
        house.ends().desk.publish(order.status("running"));
        let now = client.verdict(VerdictRequest { change_id: id.clone(), wait: false }).await.unwrap().into_inner().change.unwrap();
        assert_eq!((now.state.as_str(), now.verdict.as_str()), ("running", ""));
        house.ends().desk.publish(done(&order));
    };
    let (verdict, ()) = tokio::join!(verdict, driver);
    let verdict = verdict.unwrap().into_inner().change.unwrap();
    assert_eq!((verdict.state.as_str(), verdict.verdict.as_str()), ("done", "ready after 210 ms"));
    assert!(client.status(StatusRequest {}).await.unwrap().into_inner().changes.is_empty());
    assert_eq!(client.changes(ChangesRequest { limit: 0 }).await.unwrap().into_inner().changes, [verdict]);

    house.end().await;
    let trail = house.spooled();
    let told: Vec<_> =
        trail.iter().map(|record| (record.action.as_str(), record.status.as_str(), record.user_agent.as_deref().unwrap())).collect();
    let asked = ("component.restart", "success", "restart pusher/1: it leaks");
    assert_eq!(told, [asked, ("component.restart.verdict", "success", "restart pusher/1: ready after 210 ms")]);
    for record in trail {
        assert_eq!(
            (record.action_type.as_str(), record.user_id.as_ref(), record.request_id.as_ref()),
            ("control", Some(&actor), Some(&id))
        );
        assert_eq!((record.resource.as_deref(), record.resource_type.as_deref()), (Some("pusher/1"), Some("component")));
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_it_is_recorded() {
    let house = House::new(NO_REDIS, &Access::default());
    let mut client = house.client();
    let upgrade = Upgrade { directory: "bin".into() };
    let upgrade = ChangeRequest { reason: String::new(), change: Some(change_request::Change::Upgrade(upgrade)) };
    let cases = [
        (restart("egde", None, ""), "egde: unknown component; did you mean `edge`?"),
        (restart("pusher", Some(2), ""), "there is no pusher/2, only pusher/0, pusher/1"),
        (restart("redis", None, ""), "this suite runs no redis: it uses one that others run"),
        (restart("edge", None, &"x".repeat(1025)), "the reason has 1025 bytes; 1024 are the most"),
        (upgrade, "bin is no absolute path"),
    ];
    for (request, why) in cases {
        let refused = client.change(request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, why));
    }
    assert!(!house.process.metrics().text().contains("control_changes_total{"));
    let unknown = client.verdict(VerdictRequest { change_id: "x".into(), wait: true }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn no_change_needs_a_reason() {
    let mut house = House::new(NO_REDIS, &Access::default());
    let stop = change_request::Change::Stop(Target { component: "edge".into(), instance: None });
    house.client().change(ChangeRequest { reason: " ".into(), change: Some(stop) }).await.unwrap();
    let order = house.ends().desk.next().await;
    assert_eq!((order.change.to_string().as_str(), order.reason.as_str()), ("stop edge", ""));
}

#[tokio::test]
async fn an_instance_that_a_queued_scaling_makes_may_be_named_before_it_is_there() {
    let house = House::new(NO_REDIS, &Access::default());
    let mut client = house.client();
    let scale = change_request::Change::Scale(gatehouse_proto::internal::v1::Scale { component: "pusher".into(), instances: 4 });
    client.change(ChangeRequest { reason: String::new(), change: Some(scale) }).await.unwrap();
    client.change(restart("pusher", Some(3), "")).await.unwrap();
}

#[tokio::test]
async fn fifty_at_once_are_all_accepted_and_a_flood_is_refused_not_lost() {
    let mut house = House::new(NO_REDIS, &Access::default());
    let clients: Vec<_> = (0..50).map(|_| house.client()).collect();
    let fifty = join_all(clients.into_iter().map(async |mut client| client.change(restart("edge", None, "")).await)).await;
    let mut accepted: BTreeSet<_> = fifty.into_iter().map(|answer| answer.unwrap().into_inner().change_id).collect();
    assert_eq!(accepted.len(), 50);
    let client = house.client();
    let flood = (0..400).map(|_| client.clone()).map(async |mut client| client.change(restart("edge", None, "")).await);
    let mut refused = 0;
    for answer in join_all(flood).await {
        match answer {
            Ok(answer) => assert!(accepted.insert(answer.into_inner().change_id)),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                refused += 1;
            }
        }
    }
    assert_eq!((accepted.len(), refused), (256, 194));
    for _ in 0..256 {
        let order = house.ends().desk.next().await;
        assert!(accepted.remove(&order.id), "{order:?}");
    }
    let metrics = house.process.metrics().text();
    for sample in ["{change=\"restart\",outcome=\"accepted\"", "{change=\"restart\",outcome=\"busy\""] {
        assert!(metrics.contains(&format!("control_changes_total{sample}")), "{metrics}");
    }
}

#[tokio::test]
async fn status_does_not_wait_for_a_redis_that_hangs_and_neither_does_a_change_for_long() {
    // Connects to it succeed; nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut house = House::new(&silent.local_addr().unwrap().to_string(), &Access::default());
    let (client, begun) = (house.client(), Instant::now());
    let changes = (0..50).map(|_| client.clone()).map(async |mut client| client.change(restart("edge", None, "")).await.unwrap());
    let looks = async {
        let mut took = Vec::new();
        for _ in 0..21 {
            let (mut client, begun) = (house.client(), Instant::now());
            client.status(StatusRequest {}).await.unwrap();
            took.push(begun.elapsed());
        }
        took.sort();
        took[10]
    };
    let (accepted, median) = tokio::join!(join_all(changes), looks);
    assert!(median < Duration::from_millis(50), "with a new connection each: {median:?}");
    assert!(accepted.len() == 50 && begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    house.end().await;
    assert_eq!(house.spooled().len(), 100, "each asked for, each overtaken by the end");
}

#[tokio::test]
async fn a_change_goes_ahead_though_neither_redis_nor_the_disk_takes_its_record() {
    let mut house = House::new(NO_REDIS, &Access::default());
    // In the place of the spool's directory, so that no spool can be opened, by root neither.
    std::fs::write(house.dir.path().join("spool"), "").unwrap();
    house.client().change(restart("edge", None, "it is night")).await.unwrap();
    assert_eq!(house.ends().desk.next().await.reason, "it is night");
    assert!(house.process.metrics().text().contains("control_unrecorded_total{component=\"supervisor\",instance=\"0\"} 1"));
    // With room again, the trail goes on.
    std::fs::remove_file(house.dir.path().join("spool")).unwrap();
    house.client().change(restart("edge", None, "it is day")).await.unwrap();
    assert_eq!(house.spooled()[0].user_agent.as_deref(), Some("restart edge: it is day"));
}

#[tokio::test]
async fn who_waits_when_the_driver_leaves_is_told_and_the_next_one_is_refused() {
    let mut house = House::new(NO_REDIS, &Access::default());
    let mut client = house.client();
    let id = client.change(restart("edge", None, "")).await.unwrap().into_inner().change_id;
    let mut asker = house.client();
    let (verdict, ()) = tokio::join!(asker.verdict(VerdictRequest { change_id: id, wait: true }), house.end());
    let verdict = verdict.unwrap().into_inner().change.unwrap();
    assert_eq!((verdict.state.as_str(), verdict.verdict.as_str()), ("failed", "the suite was stopped before"));
    assert_eq!(client.change(restart("edge", None, "")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn members_are_told_at_once_and_after_every_change() {
    let mut house = House::new(NO_REDIS, &Access::default());
    let members = |count| Members { members: (0..count).map(|instance| Member { component: "pusher".into(), instance }).collect() };
    let mut early = house.client().watch_members(WatchMembersRequest {}).await.unwrap().into_inner();
    house.ends().members.send_replace(members(1));
    assert_eq!(early.next().await.unwrap().unwrap(), members(1), "not that there are none");
    let mut watched = house.client().watch_members(WatchMembersRequest {}).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap(), members(1));
    house.ends().members.send_replace(members(4));
    assert_eq!(watched.next().await.unwrap().unwrap(), members(4));
    house.ends = None;
    assert!(watched.next().await.is_none(), "ends with the suite");
}

/// A process of another user asks: `daemon` is an operator, `nobody` is not, and both may look. Both are let in by the socket's group.
#[tokio::test]
async fn who_is_no_operator_may_look_but_not_touch_and_the_attempt_is_recorded() {
    let (Some(nobody), Some(daemon)) = (User::from_name("nobody").unwrap(), User::from_name("daemon").unwrap()) else {
        return println!("skipped: this system has no users nobody and daemon");
    };
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as other users");
    }
    let access = Access { group: Some(nobody.gid.to_string()), operators: vec!["daemon".parse().unwrap()] };
    let mut house = House::new(NO_REDIS, &access);
    let socket = house.socket();
    let call = async |user: &User, release: &str| {
        let mut command = tokio::process::Command::new(env::current_exe().unwrap());
        command.args(["control::tests::caller", "--exact", "--nocapture"]).env("CONTROL_SOCKET", &socket).env("CONTROL_RELEASE", release);
        let output = command.uid(user.uid.as_raw()).gid(nobody.gid.as_raw()).output().await.unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        output.lines().find_map(|line| line.split_once("answers: ")).map(|(_, answers)| answers.to_owned()).unwrap_or(output)
    };
    assert_eq!(call(&daemon, "").await, "Ok Ok");
    assert_eq!(house.ends().desk.next().await.actor, "daemon (uid 1)");
    let answers = call(&nobody, "").await;
    let actor = format!("nobody (uid {})", nobody.uid);
    assert_eq!(
        answers,
        format!("Ok PermissionDenied {actor}: you are no operator of this suite (see [supervisor] operators); call as one, or as root")
    );
    let trail = house.spooled();
    let denied = trail.iter().find(|record| record.status == "denied").unwrap();
    assert_eq!((denied.user_id.as_deref(), denied.rbac_decision.as_deref()), (Some(actor.as_str()), Some("deny")));
    assert_eq!(denied.user_agent.as_deref(), Some("restart edge: as a test"));

    // An operator with binaries that anybody may have put there.
    assert!(call(&daemon, "/tmp").await.starts_with("Ok FailedPrecondition /tmp can be written by others"));
    let trail = house.spooled();
    let refused = trail.last().unwrap();
    assert_eq!((refused.user_id.as_deref(), refused.status.as_str()), (Some("daemon (uid 1)"), "denied"));
    assert_eq!(
        (refused.user_agent.as_deref(), refused.grpc_code.as_deref()),
        (Some("upgrade from /tmp: as a test"), Some("FAILED_PRECONDITION"))
    );
}

/// As a login that was given its groups by whoever began it, and that no user database knows.
#[tokio::test]
async fn a_supplementary_group_of_the_caller_counts() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as other users");
    }
    let mut house = House::new(NO_REDIS, &Access { group: Some("3999999".into()), operators: Vec::new() });
    let mut call = tokio::process::Command::new("setpriv");
    call.args(["--reuid", "3999998", "--regid", "3999998", "--groups", "3999997,3999999"]).arg(env::current_exe().unwrap());
    call.args(["control::tests::caller", "--exact", "--nocapture"]).env("CONTROL_SOCKET", house.socket()).env("CONTROL_RELEASE", "");
    let output = String::from_utf8(call.output().await.unwrap().stdout).unwrap();
    assert!(output.contains("answers: Ok Ok"), "{output}");
    assert_eq!(house.ends().desk.next().await.actor, "uid 3999998");
}

/// No test but the processes above, when it is one.
#[tokio::test]
async fn caller() {
    let Some(socket) = env::var_os("CONTROL_SOCKET").map(PathBuf::from) else { return };
    let mut client = SupervisorClient::new(gatehouse_chassis::ipc::channel(socket));
    let look = client.status(StatusRequest {}).await.map_or_else(|status| status.code(), |_| Code::Ok);
    let release = env::var("CONTROL_RELEASE").unwrap_or_default();
    let upgrade = || change_request::Change::Upgrade(Upgrade { directory: release.clone() });
    let mut request = Request::new(match release.as_str() {
        "" => restart("edge", None, "as a test"),
        _ => ChangeRequest { reason: "as a test".into(), change: Some(upgrade()) },
    });
    request.metadata_mut().insert(CLAIMED_USER, MetadataValue::from_static("root"));
    let touch = client.change(request).await.map_or_else(|status| format!("{:?} {}", status.code(), status.message()), |_| "Ok".to_owned());
    println!("answers: {look:?} {touch}");
}

#[tokio::test]
async fn a_change_whose_asker_goes_away_is_queued_once_it_was_recorded() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut house = House::new(&silent.local_addr().unwrap().to_string(), &Access::default());
    let mut client = house.client();
    {
        let mut asked = std::pin::pin!(client.change(restart("edge", None, "")));
        let metrics = house.process.metrics().clone();
        let recording = until("the record is under way", || metrics.text().contains("outcome=\"accepted\""));
        tokio::select! {
            _ = asked.as_mut() => panic!("Redis hangs for a second"),
            () = recording => {}
        }
    }
    assert_eq!(house.ends().desk.next().await.change.to_string(), "restart edge");
}
