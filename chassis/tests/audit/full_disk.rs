//! A disk that is full. The test starts itself again with a small file system of its own in the place of the state directory.

use std::{env, fs, io::Write as _, path::PathBuf, process::Command};

use super::*;

/// The state directory of the one within.
const STATE: &str = "GATEHOUSE_TEST_FULL_DISK";
/// A file system that vanishes with the last of its processes.
const ON_TMPFS: &str = r#"mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@""#;

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_nothing_is_promised_that_cannot_be_kept_and_with_room_again_it_goes_on() {
    if let Some(state) = env::var_os(STATE) {
        return on_a_small_disk(PathBuf::from(state)).await;
    }
    let allowed = Command::new("unshare").args(["-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a file system of its own takes root, unshare and mount");
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let mut within = Command::new("unshare");
    within.args(["-m", "sh", "-c", ON_TMPFS]).arg(state.path()).arg(env::current_exe().unwrap());
    within.args(["--exact", "full_disk::on_a_full_disk_nothing_is_promised_that_cannot_be_kept_and_with_room_again_it_goes_on"]);
    let run = tokio::task::spawn_blocking(move || within.arg("--nocapture").env(STATE, state.path()).output()).await.unwrap().unwrap();
    let said = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).join("\n");
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

async fn on_a_small_disk(state: PathBuf) {
    let mut server = RedisServer::start();
    let process = process(&server, &state, 64 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    leave(&state.join("spool"));
    let filler = fill(&state);
    let recorder = audit::Recorder::open(&process, redis.clone()).expect("what cannot be taken in now is no reason not to start");
    recorder.write(audit::record("command", "at the start", "success")).await.unwrap();
    fs::remove_file(filler).unwrap();
    assert_eq!(until_recorded(&redis, 2).await, ["at the start", "left"], "taken in as soon as there is room");
    until("the spool is empty", async || (sample(&process, "audit_spool_bytes") == 0).then_some(())).await;
    recorder.write(audit::record("command", "before", "success")).await.unwrap();
    let filler = fill(&state);
    recorder.write(audit::record("command", "with Redis there", "success")).await.unwrap();
    server.kill9();
    // There is the room that was taken in advance.
    let mut kept = ["at the start", "left", "before", "with Redis there"].map(str::to_owned).to_vec();
    let long = "x".repeat(512);
    loop {
        let Ok(place) = recorder.reserve() else { break };
        let action = format!("n.{}", kept.len());
        let mut record = audit::record("command", &action, "success");
        (record.resource, record.user_agent) = (Some(long.clone()), Some(long.clone()));
        recorder.write(record).await.expect("whoever has a place has its record kept");
        kept.push(action);
        drop(place);
        assert!(kept.len() < 5000, "a full disk takes no end");
    }
    assert!(kept.len() > 50, "{} records in what was taken in advance", kept.len());
    assert_eq!((recorder.takes_records(), sample(&process, "audit_trail_open")), (false, 0));
    assert_eq!(sample(&process, "audit_records_total{outcome=\"lost\""), 0);
    // Who did not ask finds out afterwards.
    let mut refused = 0;
    while recorder.write(audit::record("command", "unasked", "success")).await.is_ok() {
        kept.push("unasked".to_owned());
        refused += 1;
        assert!(refused < 5000);
    }
    fs::remove_file(filler).unwrap();
    drop(until("there are places again", async || recorder.reserve().ok()).await);
    recorder.write(audit::record("command", "room again", "success")).await.unwrap();
    kept.push("room again".to_owned());
    server.restart();
    assert_eq!(until_recorded(&redis, kept.len()).await, kept, "in order, nothing between");
}

/// What another generation would have left: a record, in the form of the spool.
fn leave(spools: &Path) {
    let mut left = audit::record("command", "left", "success");
    left.resource = Some("x".repeat(300 << 10));
    let batch = AuditBatch { records: vec![left] }.encode_to_vec();
    let header = [u32::try_from(batch.len()).unwrap(), crc32fast::hash(&batch)].map(u32::to_le_bytes).concat();
    fs::create_dir(spools).unwrap();
    fs::write(spools.join("test-0.spool"), "").unwrap();
    fs::write(spools.join("test-0.1.spool"), [header, batch].concat()).unwrap();
}

/// Takes all the space there is.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}
