//! Somebody sweeps the runtime directory while the suite runs.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use gatehouse_proto::internal::v1::{StatusResponse, Target, change_request::Change};

use crate::world::World;

fn access(path: &Path) -> (u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.mode() & 0o7777, found.gid())
}

fn pids(status: &StatusResponse) -> Vec<Option<u32>> {
    status.instances.iter().map(|instance| instance.pid).collect()
}

#[tokio::test]
async fn a_control_socket_that_somebody_removed_is_bound_again_as_it_was() {
    let mut world = World::new();
    let before = world.ready().await;
    let socket = world.path("run/supervisor.sock");
    let was = access(&socket);
    // Twice, by different means: gone, and replaced by one on which nobody listens.
    for replaced in [false, true] {
        fs::remove_file(&socket).unwrap();
        if replaced {
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        }
        let after = world.until("it answers again", |status| status.ready).await;
        assert_eq!((after.pid, pids(&after), access(&socket)), (before.pid, pids(&before), was));
    }
    assert!(world.read("stderr").contains("supervisor.sock had been removed; it is bound again"));
    assert!(world.stop().await.success() && !socket.exists());
}

#[tokio::test]
async fn a_runtime_directory_that_somebody_removed_is_made_again_as_it_was() {
    let mut world = World::new();
    let dir = world.path("run");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2751)).unwrap();
    let before = world.ready().await;
    let was = access(&dir);
    fs::remove_dir_all(&dir).unwrap();
    let after = world.until("it answers again", |status| status.ready).await;
    assert_eq!((after.pid, pids(&after), access(&dir)), (before.pid, pids(&before), was));
    assert!(world.path("run/notify.sock").exists());
    // It is theirs alone, as before.
    let second = world.command().env("GATEWAY_STATE_DIR", world.path("other")).output().unwrap();
    assert_eq!(second.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another supervisor (pid "), "{second:?}");
    // The next process of a component is found under its path, by its peers and by the next supervisor.
    assert!(!world.path("run/edge.sock").exists());
    let edge = Target { component: "edge".to_owned(), instance: None };
    assert_eq!(world.change(Change::Restart(edge)).await.state, "done");
    assert!(world.path("run/edge.sock").exists() && world.path("run/lanes/edge-0.b").exists());
    assert!(world.stop().await.success());
}
