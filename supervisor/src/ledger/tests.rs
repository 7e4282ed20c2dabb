use std::{
    fs,
    os::unix::fs::{OpenOptionsExt as _, symlink},
    time::{Duration, Instant},
};

use super::*;

fn exit(number: usize) -> ExitRecord {
    ExitRecord {
        at_ms: i64::try_from(number).unwrap(),
        component: if number.is_multiple_of(2) { "edge" } else { "pusher" }.to_owned(),
        generation: u32::try_from(number).unwrap(),
        exit: "signal 9 (SIGKILL)".to_owned(),
        signal: Some(9),
        last_words: vec![format!("words of {number}")],
        ..ExitRecord::default()
    }
}

fn all(ledger: &Ledger) -> Vec<i64> {
    ledger.newest(|_| true, usize::MAX).iter().map(|record| record.at_ms).collect()
}

#[test]
fn the_newest_come_first_whole_and_only_those_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path());
    for number in 0..10 {
        ledger.record(&exit(number));
    }
    assert_eq!(all(&ledger), (0..10).rev().collect::<Vec<_>>());
    assert_eq!(ledger.newest(|record| record.component == "edge", 2), [exit(8), exit(6)]);
}

#[test]
fn the_next_supervisor_knows_them_and_a_torn_last_line_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path());
    ledger.record(&exit(1));
    ledger.record(&exit(2));
    let path = dir.path().join("exits.jsonl");
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(br#"{"at_ms":3,"comp"#);
    fs::write(&path, torn).unwrap();
    let next = Ledger::open(dir.path());
    assert_eq!(next.newest(|_| true, 9), [exit(2), exit(1)]);
    next.record(&exit(4));
    assert_eq!(all(&Ledger::open(dir.path())), [4, 2, 1]);
    // A record of a supervisor that knew less, or more.
    fs::write(&path, "{\"at_ms\":7,\"colour\":\"red\"}\nnonsense\n").unwrap();
    assert_eq!(all(&Ledger::open(dir.path())), [7]);
}

#[test]
fn a_thousand_are_kept_and_the_file_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path());
    for number in 0..2500 {
        ledger.record(&exit(number));
    }
    let expected: Vec<_> = (1500..2500).rev().collect();
    assert_eq!(all(&ledger), expected);
    let lines = fs::read_to_string(dir.path().join("exits.jsonl")).unwrap().lines().count();
    assert!((KEPT..=2 * KEPT).contains(&lines), "{lines}");
    assert_eq!(all(&Ledger::open(dir.path())), expected);
}

#[test]
fn long_last_words_cost_the_oldest_theirs_and_nobody_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path());
    for number in 0..KEPT {
        let last_words = vec!["\u{1}".repeat(400); 10];
        ledger.record(&ExitRecord { last_words, ..exit(number) });
    }
    let records = ledger.newest(|_| true, usize::MAX);
    assert_eq!(records.len(), KEPT);
    assert!(ledger.memory().bytes <= KEPT_BYTES);
    let with_words = records.iter().take_while(|record| !record.last_words.is_empty()).count();
    assert!(with_words > 10, "{with_words}");
    assert!(records[with_words..].iter().all(|record| record.last_words.is_empty()));
}

#[test]
fn a_full_disk_costs_nothing_but_the_file_which_is_whole_again_when_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path());
    ledger.record(&exit(1));
    let (path, draft) = (dir.path().join("exits.jsonl"), dir.path().join("exits.jsonl.new"));
    fs::remove_file(&path).unwrap();
    for path in [&path, &draft] {
        symlink("/dev/full", path).unwrap();
    }
    ledger.record(&exit(2));
    ledger.record(&exit(3));
    assert_eq!(all(&ledger), [3, 2, 1]);
    fs::remove_file(&draft).unwrap();
    ledger.record(&exit(4));
    assert_eq!(all(&Ledger::open(dir.path())), [4, 3, 2, 1]);
}

#[tokio::test]
async fn within_a_runtime_it_is_written_by_another_thread_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path());
    for number in 0..100 {
        ledger.record(&exit(number));
    }
    let begun = Instant::now();
    while all(&Ledger::open(dir.path())).len() < 100 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
    assert_eq!(all(&Ledger::open(dir.path())), (0..100).rev().collect::<Vec<_>>());
}

#[test]
fn a_disk_that_stands_still_holds_up_nobody_who_reads_or_records() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, path) = (Ledger::open(dir.path()), dir.path().join("exits.jsonl"));
    // Opening it waits for a reader.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let writer = {
        let ledger = ledger.clone();
        std::thread::spawn(move || ledger.record(&exit(1)))
    };
    let (begun, mut free) = (Instant::now(), 0);
    while free < 1000 {
        let writing = ledger.0.file.try_lock().is_err() && ledger.0.memory.try_lock().is_ok_and(|memory| memory.unwritten == 0);
        free += usize::from(writing);
        assert!(begun.elapsed() < Duration::from_secs(5), "free {free} times");
        std::thread::yield_now();
    }
    assert_eq!(all(&ledger), [1]);
    assert!(fs::read_to_string(&path).unwrap().contains("words of 1"));
    writer.join().unwrap();
}

#[tokio::test]
async fn a_disk_that_stands_still_costs_two_threads_and_whoever_waits_for_it_no_longer_than_they_will() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, path) = (Ledger::open(dir.path()), dir.path().join("exits.jsonl"));
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    for number in 0..400 {
        ledger.record(&exit(number));
    }
    ledger.flushed(Duration::from_millis(100)).await;
    // Other tests have threads of their own.
    assert!(threads() < before + 200, "{} after {before}", threads());
    assert_eq!(all(&ledger).len(), 400);
    // For the threads, that they end with the test.
    let _reader = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
}
