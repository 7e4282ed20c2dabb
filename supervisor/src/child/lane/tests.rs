use super::*;
use crate::child::forks;
use crate::child::process::kill_exactly;
use command_fds::{CommandFdExt as _, FdMapping};
use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

/// A process that inherits the lane, and is known to nobody.
fn holder(claim: &Claim) -> Child {
    let mapping = FdMapping { parent_fd: claim.file.try_clone().unwrap().into(), child_fd: 3 };
    let mut command = Command::new("sleep");
    command.arg("60").stdin(Stdio::null()).process_group(0).fd_mappings(vec![mapping]).unwrap();
    command.spawn().unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn record(pid: u32, generation: u32) -> Record {
    Record {
        pid,
        start_time: 1,
        generation,
        component: "edge".into(),
        instance: 0,
        build: "0.1.0 (1a2b3c4d)".into(),
        started_ms: 5,
        boot: boot(),
    }
}

fn lanes() -> (tempfile::TempDir, Lanes) {
    let dir = tempfile::tempdir().unwrap();
    let lanes = Lanes::open(dir.path(), dir.path()).unwrap();
    (dir, lanes)
}

/// The edge's first lane, as it is found.
fn met(lanes: &Lanes) -> Met {
    lanes.all().into_iter().find(|met| met.path.ends_with("edge-0.a")).unwrap()
}

#[test]
fn a_slot_has_two_processes_at_most_and_a_lane_is_free_when_its_process_has_ended() {
    let _turn = forks::blocking_turn();
    let (_dir, lanes) = lanes();
    let claim = || lanes.claim(Component::Edge, 0).map(Option::unwrap);
    let (first, second) = (claim().unwrap(), claim().unwrap());
    assert_eq!([first.taken.name(), second.taken.name()], ["edge-0.a", "edge-0.b"]);
    assert!(claim().unwrap_err().to_string().contains("edge-0 has two processes already"));
    assert_eq!(lanes.claim(Component::Edge, 1).unwrap().unwrap().taken.name(), "edge-1.a", "another slot is another matter");
    let (one, two) = (holder(&first), holder(&second));
    drop((first, second));
    end(one);
    assert!(claim().unwrap_err().to_string().contains("held by pid"), "the other is not known to us");
    end(two);
    assert_eq!(claim().unwrap().taken.name(), "edge-0.a");
}

#[tokio::test]
async fn nothing_is_started_beside_a_process_that_is_not_known() {
    let _turn = forks::turn().await;
    let (dir, lanes) = lanes();
    let claim = lanes.claim(Component::Edge, 0).unwrap().unwrap();
    let child = holder(&claim);
    drop(claim);
    let next = Lanes::open(dir.path(), dir.path()).unwrap();
    let refused = next.claim(Component::Edge, 0).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
    assert!(refused.to_string().ends_with(&format!("edge-0.a is held by pid {}, which is not ours; not started beside it", child.id())));
    // Known, it is one of two.
    let taken = next.take(dir.path().join("lanes/edge-0.a"));
    assert_eq!(next.claim(Component::Edge, 0).unwrap().unwrap().taken.name(), "edge-0.b");
    assert_eq!(taken.held_on().await.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [child.id()]);
    end(child);
    assert_eq!(taken.held_on().await, []);
}

#[test]
fn a_lane_says_who_holds_it_and_a_torn_word_is_none() {
    let _turn = forks::blocking_turn();
    let (_dir, lanes) = lanes();
    let claim = lanes.claim(Component::Edge, 0).unwrap().unwrap();
    record(1, 123_456_789).write(&claim.file).unwrap();
    record(2, 7).write(&claim.file).unwrap();
    let read = || met(&lanes);
    let met = read();
    assert!(met.is_locked && (met.component, met.instance) == (Component::Edge, 0));
    assert_eq!(met.record, Some(record(2, 7)));
    claim.file.set_len(20).unwrap();
    assert_eq!(read().record, None);
    Record { instance: 1, ..record(2, 7) }.write(&claim.file).unwrap();
    assert_eq!(read().record, None, "it speaks of another slot");
    drop(claim);
    assert!(!read().is_locked);
}

#[test]
fn a_record_is_crossed_out_when_its_end_is_heard_of_and_no_other_is() {
    let _turn = forks::blocking_turn();
    let (_dir, lanes) = lanes();
    let claim = lanes.claim(Component::Edge, 0).unwrap().unwrap();
    let edge = SlotId { component: Component::Edge, instance: 0 };
    record(2, 7).write(&claim.file).unwrap();
    lanes.heard(edge, 3);
    lanes.heard(SlotId { instance: 1, ..edge }, 2);
    assert_eq!(met(&lanes).record, Some(record(2, 7)));
    let length = claim.file.metadata().unwrap().len();
    lanes.heard(edge, 2);
    assert_eq!(
        (met(&lanes).record, claim.file.metadata().unwrap().len()),
        (None, length),
        "what is full has room for the next one all the same"
    );
    record(3, 8).write(&claim.file).unwrap();
    assert_eq!(met(&lanes).record, Some(record(3, 8)));
}

#[test]
fn a_full_disk_hides_the_record_but_neither_the_lock_nor_its_holder() {
    let _turn = forks::blocking_turn();
    let (dir, lanes) = lanes();
    // It is open and lockable like a file, and every write finds the disk full.
    std::os::unix::fs::symlink("/dev/full", dir.path().join("lanes/edge-0.a")).unwrap();
    let claim = lanes.claim(Component::Edge, 0).unwrap().unwrap();
    let child = holder(&claim);
    assert_eq!(record(child.id(), 1).write(&claim.file).unwrap_err().kind(), io::ErrorKind::StorageFull);
    drop(claim);
    let met = met(&lanes);
    assert!(met.is_locked && met.record.is_none());
    let found = holders(&met.file.metadata().unwrap());
    assert_eq!(found.iter().map(|holder| (holder.pid, holder.leads)).collect::<Vec<_>>(), [(child.id(), true)]);
    kill_exactly(found[0].pid, found[0].start_time);
    end(child);
}

#[test]
fn without_any_file_a_process_is_started_without_a_lane() {
    let (dir, lanes) = lanes();
    fs::remove_dir(dir.path().join("lanes")).unwrap();
    assert!(lanes.claim(Component::Edge, 0).unwrap().is_none());
}

#[test]
fn no_second_redis_is_started_on_its_data_whatever_becomes_of_the_runtime_directory() {
    let _turn = forks::blocking_turn();
    let (runtime, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let claim = || Lanes::open(runtime.path(), state.path()).unwrap().claim(Component::Redis, 0);
    assert!(claim().unwrap_err().to_string().starts_with("its data cannot be locked: redis-0 in "), "not without a lane");
    fs::create_dir(state.path().join("redis")).unwrap();
    let first = claim().unwrap().unwrap();
    let child = holder(&first);
    drop(first);
    fs::remove_dir_all(runtime.path().join("lanes")).unwrap();
    let refused = claim().unwrap_err();
    assert!(refused.to_string().ends_with(&format!("redis-0.a is held by pid {}, which is not ours; not started beside it", child.id())));
    end(child);
    claim().unwrap().unwrap();
}

#[test]
fn who_merely_reads_a_lane_does_not_hold_it() {
    let _turn = forks::blocking_turn();
    let (dir, lanes) = lanes();
    let claim = lanes.claim(Component::Edge, 0).unwrap().unwrap();
    let child = holder(&claim);
    let file = File::open(dir.path().join("lanes/edge-0.a")).unwrap();
    let mut reader = Command::new("sleep").arg("60").stdin(file).spawn().unwrap();
    assert_eq!(holders(&claim.file.metadata().unwrap()).iter().map(|holder| holder.pid).collect::<Vec<_>>(), [child.id()]);
    reader.kill().unwrap();
    reader.wait().unwrap();
    end(child);
}

#[test]
fn files_of_others_are_no_lanes() {
    assert_eq!(slot_of("pusher-12.a"), Some((Component::Pusher, 12)));
    for other in ["pusher.a", "pusher-1", "nobody-1.a", "edge-x.b", ""] {
        assert_eq!(slot_of(other), None, "{other}");
    }
}
