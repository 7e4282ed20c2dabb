//! Changes by operators, asked of the real supervisor.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use gatehouse_chassis::ipc;
use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::internal::v1::{
    AuditBatch, ChangeRequest, StatusRequest, Target, VerdictRequest, change_request, supervisor_client::SupervisorClient,
};
use nix::{sys::signal::Signal, unistd::Uid};
use prost::Message as _;

use crate::world::{World, instance};

fn client(world: &World) -> SupervisorClient<Channel> {
    SupervisorClient::new(ipc::channel(world.path("run/supervisor.sock")))
}

fn restart(component: &str) -> ChangeRequest {
    let change = change_request::Change::Restart(Target { component: component.into(), instance: None });
    ChangeRequest { reason: "as a test".into(), change: Some(change) }
}

/// The actions of the trail that waits in the spool.
fn spooled(spool: &Path) -> Vec<(String, String)> {
    let (bytes, mut records) = (std::fs::read(spool).unwrap(), Vec::new());
    let mut rest = bytes.as_slice();
    while let Some((header, more)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_le_bytes(*header.first_chunk().unwrap())).unwrap();
        let (batch, after) = more.split_at(length);
        records.extend(AuditBatch::decode(batch).unwrap().records.into_iter().map(|record| (record.action, record.request_id.unwrap())));
        rest = after;
    }
    records
}

#[tokio::test]
async fn without_redis_changes_are_accepted_and_what_came_of_them_is_on_disk_when_the_supervisor_has_ended() {
    let mut world = World::new();
    world.ready().await;
    let id = client(&world).change(restart("edge")).await.unwrap().into_inner().change_id;
    let known = client(&world).verdict(VerdictRequest { change_id: id.clone(), wait: false }).await.unwrap().into_inner().change.unwrap();
    assert_eq!((known.what.as_str(), known.reason.as_str()), ("restart edge", "as a test"));
    assert!(known.actor.ends_with(&format!("(uid {})", Uid::effective())), "{}", known.actor);
    assert!(world.stop().await.success());
    let spooled = spooled(&world.path("state/spool/supervisor-0.spool"));
    let told: Vec<_> = spooled.iter().map(|(action, change)| (action.as_str(), change == &id)).collect();
    assert_eq!(told, [("component.restart", true), ("component.restart.verdict", true)]);
}

/// The contract's figure, with Redis away and with a new connection each time, as the command makes one.
#[tokio::test]
async fn status_answers_within_50_ms_while_fifty_changes_come_in() {
    let mut world = World::new();
    world.ready().await;
    let changes = client(&world);
    let changes = (0..50).map(|_| changes.clone()).map(async |mut client| client.change(restart("edge")).await.unwrap());
    let looks = async {
        let mut took = Vec::new();
        for _ in 0..41 {
            let (mut client, begun) = (client(&world), Instant::now());
            client.status(StatusRequest {}).await.unwrap();
            took.push(begun.elapsed());
        }
        took.sort();
        took[took.len() / 2]
    };
    let (accepted, median) = tokio::join!(futures_util::future::join_all(changes), looks);
    assert_eq!(accepted.len(), 50);
    assert!(median < Duration::from_millis(50), "{median:?}");
}

#[tokio::test]
async fn a_group_that_does_not_exist_is_wrong_configuration() {
    let mut world = World::new().config("[supervisor]\ncontrol_group = \"no-such-group\"\n");
    world.start();
    assert_eq!(world.ended().await.code(), Some(78));
    assert!(world.read("stderr").contains("supervisor.control_group: there is no group no-such-group"), "{}", world.read("stderr"));
}

/// Whom the group lets in, and nobody else, can speak to a supervisor that was started by hand, and to the one that takes over from it.
#[tokio::test]
async fn the_control_group_reaches_the_socket_also_of_the_next_supervisor() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can give files away and act as others");
    }
    let mut world = World::new().config("[supervisor]\ncontrol_group = \"3999999\"\n");
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let reach = |world: &World, groups: &str| {
        // `test -w` is access(2), which needs the way to it, too.
        let mut member = Command::new("setpriv");
        member.args(["--reuid", "3999998", "--regid", "3999998", "--groups", groups, "test", "-w"]).arg(world.path("run/supervisor.sock"));
        member.status().unwrap().success()
    };
    let before = world.ready().await;
    assert_eq!((reach(&world, "3999999"), reach(&world, "3999997")), (true, false));
    world.signal(Signal::SIGKILL);
    world.ended().await;
    // As systemd does with a runtime directory that it keeps.
    chown(world.path("run"), None, Some(0)).unwrap();
    let after = world.ready().await;
    assert_eq!(instance(&after, "edge", 0).pid, instance(&before, "edge", 0).pid);
    assert_eq!((reach(&world, "3999999"), reach(&world, "3999997")), (true, false));
}
