use super::*;
use crate::child::forks;
use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

/// A shell that leads a group, and the pids that it says.
#[expect(clippy::zombie_processes, reason = "reaped by what is tested")]
fn shell(script: &str, pids: usize) -> (u32, Vec<u32>) {
    let mut child = Command::new("sh").args(["-c", script]).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines().take(pids);
    (child.id(), said.map(|line| line.unwrap().parse().unwrap()).collect())
}

/// A process that is no child of ours: its parent has ended. It leads its group, and has another member in it if asked to.
fn stranger(with_member: bool) -> Vec<u32> {
    let member = if with_member { "sleep 60 & echo $!;" } else { "" };
    let script = format!("setsid sh -c 'echo $$; {member} exec sleep 60' &");
    let (parent, pids) = shell(&script, 1 + usize::from(with_member));
    rustix::process::waitid(WaitId::Pid(number(parent).unwrap()), WaitIdOptions::EXITED).unwrap();
    pids
}

fn watched(pid: u32) -> (Launched, impl Future<Output = Ended>) {
    Launched::new(Handle::open(pid).unwrap(), None, 1, String::new(), SystemTime::now()).unwrap()
}

fn send(pid: u32, signal: Signal) {
    rustix::process::kill_process(number(pid).unwrap(), signal).unwrap();
}

async fn until_gone(pid: u32) {
    let begun = Instant::now();
    while Stat::of(pid).is_some_and(|stat| !stat.is_zombie) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{pid} still runs");
        sleep(LOOK_INTERVAL).await;
    }
}

#[tokio::test]
async fn a_child_ends_with_its_status_or_its_signal() {
    let _turn = forks::turn().await;
    let (pid, _) = shell("exit 7", 0);
    assert_eq!(watched(pid).1.await.exit, Exit::Status(7));
    let (pid, _) = shell("kill -ABRT $$", 0);
    assert_eq!(watched(pid).1.await.exit, Exit::Signal(6));
    let (pid, _) = shell("exec sleep 60", 0);
    let (launched, ended) = watched(pid);
    launched.abort();
    assert_eq!(ended.await.exit, Exit::Signal(6));
}

#[tokio::test]
async fn the_end_of_a_child_is_the_end_of_its_group() {
    let _turn = forks::turn().await;
    let (pid, forks) = shell("trap '' TERM; sleep 60 & echo $!; (sleep 60 & echo $!); exec sleep 60", 2);
    let (launched, ended) = watched(pid);
    assert!(launched.sample() > 0);
    send(pid, Signal::KILL);
    let ended = ended.await;
    assert_eq!(ended.exit, Exit::Signal(9));
    assert!(ended.peak_rss_bytes > 0);
    for fork in forks {
        until_gone(fork).await;
    }
}

#[tokio::test]
async fn what_a_stranger_said_is_its_status_and_silence_is_unknown() {
    let _turn = forks::turn().await;
    let pids = [stranger(false), stranger(false), stranger(false)].map(|pids| pids[0]);
    let [(silent, silent_ended), (speaker, speaker_ended), (killed, killed_ended)] = pids.map(watched);
    assert!(!silent.handle.is_child);
    send(silent.pid, Signal::KILL);
    assert_eq!(silent_ended.await.exit, Exit::Unknown);
    speaker.will_exit_with(3);
    send(speaker.pid, Signal::KILL);
    assert_eq!(speaker_ended.await.exit, Exit::Status(3));
    killed.kill();
    assert_eq!(killed_ended.await.exit, Exit::Signal(9));
}

#[tokio::test]
async fn a_stranger_s_word_counts_when_it_is_heard_after_its_end() {
    let _turn = forks::turn().await;
    let (launched, ended) = watched(stranger(false)[0]);
    send(launched.pid, Signal::KILL);
    until_gone(launched.pid).await;
    let (ended, ()) = tokio::join!(ended, async { launched.will_exit_with(4) });
    assert_eq!(ended.exit, Exit::Status(4));
}

#[tokio::test]
async fn the_group_of_a_stranger_ends_with_it_and_no_other() {
    let _turn = forks::turn().await;
    let (pids, others) = (stranger(true), stranger(true));
    let (_launched, ended) = watched(pids[0]);
    send(pids[0], Signal::KILL);
    ended.await;
    until_gone(pids[1]).await;
    for other in others {
        assert!(Stat::of(other).is_some_and(|stat| !stat.is_zombie));
        send(other, Signal::KILL);
    }
}

#[test]
fn a_number_that_was_passed_on_is_neither_killed_nor_its_group() {
    let _turn = forks::blocking_turn();
    let (pid, _) = shell("exec sleep 60", 0);
    let stat = Stat::of(pid).unwrap();
    kill_exactly(pid, stat.start_time - 1);
    group::kill_rest(pid, stat.start_time - 1);
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    assert_eq!(waitid(WaitId::Pid(number(pid).unwrap()), look).unwrap().map(|status| status.terminating_signal()), None);
    kill_exactly(pid, stat.start_time);
    let status = waitid(WaitId::Pid(number(pid).unwrap()), WaitIdOptions::EXITED).unwrap().unwrap();
    assert_eq!(status.terminating_signal(), Some(9));
}

#[test]
fn the_start_of_a_process_is_known_as_a_time_of_day() {
    let _turn = forks::blocking_turn();
    let (before, (pid, _)) = (SystemTime::now(), shell("exec sleep 60", 0));
    let started = Stat::of(pid).unwrap().started();
    kill_exactly(pid, Stat::of(pid).unwrap().start_time);
    let away = started.duration_since(before).unwrap_or_else(|early| early.duration());
    assert!(away < Duration::from_secs(2), "{away:?}");
}

#[test]
fn the_high_water_mark_is_in_bytes() {
    assert_eq!(high_water("VmPeak:\t 99 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n"), 1234 * 1024);
    assert_eq!(high_water("Name:\tzombie\n"), 0);
}
