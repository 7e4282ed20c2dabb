//! Dumps of this test binary, executed once more as a victim.

use std::{
    env,
    hint::black_box,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[inline(never)]
fn wants_the_ledger(ledger: &Mutex<u32>) {
    drop(black_box(ledger.lock()));
}

#[inline(never)]
fn spins_for_ever() {
    loop {
        black_box(0);
    }
}

/// No test but the victim, when it is one.
#[test]
fn victim() {
    if env::var_os("DUMP_VICTIM").is_none() {
        return;
    }
    let ledger = Mutex::new(0);
    let _held = ledger.lock().unwrap();
    thread::scope(|scope| {
        thread::Builder::new().name("stuck".into()).spawn_scoped(scope, || wants_the_ledger(&ledger)).unwrap();
        thread::Builder::new().name("spinner".into()).spawn_scoped(scope, spins_for_ever).unwrap();
        println!("\nin place");
    });
}

struct Victim(Child);

impl Victim {
    fn start() -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["dump::tests::victim", "--exact", "--nocapture"]).env("DUMP_VICTIM", "1").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(said.any(|line| line.unwrap() == "in place"));
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Dumps until its threads are where they are to end up. One that was let go after the dump before, or has only just begun, may be ready to run and wait for a
    /// processor; and what `/proc` says of it was asked before its stack was copied. So all that is expected of a dump is to be asked here, at once.
    fn dumped(&self, fits: impl Fn(&str) -> bool) -> String {
        let dir = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        for number in 0.. {
            let path = dir.path().join(format!("{number}.txt"));
            helper::dump(self.pid(), &path, "a test").unwrap();
            let text = fs::read_to_string(path).unwrap();
            if fits(&text) {
                return text;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}");
        }
        unreachable!()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The lines of one thread's stack.
fn stack<'a>(dump: &'a str, name: &str) -> Vec<&'a str> {
    let head = |line: &str| line.starts_with("stack of ") && line.ends_with(name);
    dump.lines().skip_while(|line| !head(line)).skip(1).take_while(|line| !line.is_empty()).collect()
}

fn shows(dump: &str, thread: &str, function: &str) -> bool {
    stack(dump, thread).iter().any(|line| line.contains(function))
}

fn are_in_place(dump: &str) -> bool {
    shows(dump, "stuck", "wants_the_ledger") && shows(dump, "spinner", "spins_for_ever")
}

#[test]
fn a_thread_blocked_in_a_mutex_and_one_that_spins_are_shown_with_the_names_of_their_functions() {
    let victim = Victim::start();
    let says =
        |dump: &str, name: &str, words: &str| dump.lines().any(|line| line.split_whitespace().nth(1) == Some(name) && line.contains(words));
    // To the very bottom.
    let is_whole = |dump: &str, thread: &str| stack(dump, thread).last().is_some_and(|line| line.contains("libc.so"));
    let dump = victim.dumped(|dump| {
        are_in_place(dump)
            && is_whole(dump, "stuck")
            && is_whole(dump, "spinner")
            && says(dump, "stuck", "S (sleeping), system call futex")
            && says(dump, "spinner", "R (running)")
    });
    assert!(dump.contains("why:     a test\n") && dump.contains(&format!("process: {}\n", victim.pid())), "{dump}");
    // It was let go.
    let ran = |dump: &str| dump.lines().find(|line| line.contains("  spinner ")).unwrap().to_owned();
    victim.dumped(|later| ran(later) != ran(&dump));
}

#[test]
fn a_stopped_process_is_dumped_and_stays_stopped() {
    let victim = Victim::start();
    victim.dumped(are_in_place);
    kill(Pid::from_raw(victim.pid()), Signal::SIGSTOP).unwrap();
    victim.dumped(|dump| dump.contains("T (stopped)") && are_in_place(dump));
    victim.dumped(|dump| dump.contains("T (stopped)"));
}

#[test]
fn a_process_that_is_gone_or_not_ours_makes_a_poorer_dump_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody traces himself.
    let own = i32::try_from(std::process::id()).unwrap();
    for (pid, says) in [(i32::MAX, "0 threads"), (own, "dump::tests")] {
        let path = dir.path().join(format!("{pid}.txt"));
        helper::dump(pid, &path, "a test").unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("no stacks: ") && text.contains(says), "{text}");
    }
}

#[test]
fn the_newest_dumps_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..KEPT + 3 {
        fs::write(dir.path().join(format!("20261121T1200{number:02}000Z-edge-0.g1.txt")), "").unwrap();
    }
    fs::write(dir.path().join("0000-notes"), "an operator's").unwrap();
    prune(dir.path());
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left.len(), KEPT + 1);
    assert_eq!((left[0].as_str(), left[1].as_str()), ("0000-notes", "20261121T120003000Z-edge-0.g1.txt"));
}
