use super::*;
use crate::{
    Config,
    binaries::Binaries,
    child::{Ended, Exit, Launcher, forks},
    component::roll,
    output::Output,
    sockets::Sockets,
};
use command_fds::{CommandFdExt as _, FdMapping};
use gatehouse_chassis::{
    config::{Config as _, Reader, Shared, Source},
    metrics::Metrics,
    sockets::Inherited,
};
use rustix::process::{Signal, kill_process};
use std::{
    io::{BufRead as _, BufReader, pipe},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};
use tokio::time::sleep;

/// Directories of one suite, and what its components are.
struct World(tempfile::TempDir);

impl World {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for component in Component::OURS {
            let path = dir.path().join(binaries::file_name(component));
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(dir)
    }

    fn lanes(&self) -> Lanes {
        Lanes::open(self.0.path(), self.0.path()).unwrap()
    }

    /// A supervisor's, when no other lives.
    fn launcher(&self) -> Launcher {
        let (dir, any) = (self.0.path().display().to_string(), "127.0.0.1:0");
        let env = [
            ("GATEWAY_STATE_DIR", dir.as_str()),
            ("GATEWAY_RUNTIME_DIR", &dir),
            ("GATEWAY_PUBLIC_HTTP_ADDR", any),
            ("GATEWAY_AUTHENTICATED_GRPC_ADDR", any),
            ("GATEWAY_REDIS_MASTER_ADDR", "127.0.0.1:1"),
            ("GATEWAY_REDIS_PASSWORD", "unused"),
        ];
        let mut reader = Reader::new(Source::of("", &env));
        let (shared, config) = (Arc::new(Shared::read(&mut reader).unwrap()), Config::read(&mut reader).unwrap());
        let orphans: Vec<_> = self.found().iter().map(|found| (found.component, found.pid)).collect();
        let sockets = Sockets::open(&config.listen, &shared, &roll(&shared, 2), &mut Inherited::default(), &orphans).unwrap();
        let binaries = Binaries::pin(self.0.path()).unwrap();
        let output = Output::open(&config.logs, &shared, &Metrics::new("supervisor", 0));
        Launcher::new(&config, binaries, self.lanes(), sockets, None, self.0.path().join("notify.sock"), output)
    }

    fn found(&self) -> Vec<Found> {
        find(&self.lanes())
    }
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn runs_on(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| !stat.is_zombie)
}

/// A process that is no child of ours and holds the edge's lane `a`, as after the death of its supervisor: it speaks and leaves when the file `go` is there.
fn stranger(dir: &Path, record: Option<u32>) -> u32 {
    let lanes = Lanes::open(dir, dir).unwrap();
    let claim = lanes.claim(Component::Edge, 0).unwrap().unwrap();
    let script = "setsid sh -c 'echo $$; exec >&-; while [ ! -e go ]; do sleep 0.01; done; echo adopted speaks >&2; exit 3' &";
    let (_supervisor_s, stderr) = pipe().unwrap();
    let mapping = FdMapping { parent_fd: claim.file.try_clone().unwrap().into(), child_fd: 5 };
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(dir).env(GENERATION, "41").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let mut parent = command.fd_mappings(vec![mapping]).unwrap().process_group(0).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut said).unwrap();
    parent.wait().unwrap();
    let pid = said.trim().parse().unwrap();
    if let Some(generation) = record {
        let start_time = Stat::of(pid).unwrap().start_time;
        let boot = boot();
        let record =
            Record { pid, start_time, generation, component: "edge".into(), instance: 0, build: "old".into(), started_ms: 1, boot };
        record.write(&claim.file).unwrap();
    }
    pid
}

#[tokio::test]
async fn what_runs_is_found_and_taken_over_and_nothing_is_started_beside_it() {
    let _turn = forks::turn().await;
    let world = World::new("exec sleep 60");
    let first = world.launcher();
    let (launched, _) = first.launch(SlotId { component: Component::Edge, instance: 0 }, 7).unwrap();
    let (other, other_ended) = first.launch(SlotId { component: Component::Pusher, instance: 1 }, 2).unwrap();
    assert_eq!((launched.lane.as_deref(), other.lane.as_deref()), (Some("edge-0.a"), Some("pusher-1.a")));
    drop(first);

    let next = world.launcher();
    let found = world.found();
    let names: Vec<_> = found.iter().map(|found| (found.component, found.instance, found.generation, found.pid)).collect();
    assert_eq!(names, [(Component::Edge, 0, 7, launched.pid), (Component::Pusher, 1, 2, other.pid)]);
    assert_eq!((&found[0].build, found[0].started.elapsed().unwrap() < Duration::from_secs(10)), (&launched.build, true));
    let refused = next.launch(SlotId { component: Component::Edge, instance: 0 }, 8).err().unwrap().to_string();
    assert!(refused.contains(&format!("held by pid {}", launched.pid)), "{refused}");

    // From now on another binary is executed, for what is started.
    let new = world.0.path().join("new");
    fs::create_dir(&new).unwrap();
    for component in Component::OURS {
        let name = binaries::file_name(component);
        fs::copy("/bin/true", new.join(name)).unwrap();
    }
    let old = next.binaries().replace(Binaries::pin(&new).unwrap());

    // Still a child, as after an exec: what it ends with is known. Beside it there is room for one.
    let (adopted, ended) = next.adopt(&found[0]).unwrap();
    let (successor, successor_ended) = next.launch(SlotId { component: Component::Edge, instance: 0 }, 8).unwrap();
    assert_eq!((adopted.generation, successor.lane.as_deref()), (7, Some("edge-0.b")));
    assert!(found[0].started.elapsed().unwrap().abs_diff(adopted.since.elapsed()) < Duration::from_secs(1));
    assert_ne!(adopted.build, successor.build);
    adopted.terminate();
    assert_eq!(ended.await.exit, Exit::Signal(15));
    assert_eq!(successor_ended.await.exit, Exit::Status(0));
    next.binaries().replace(old);
    let (back, back_ended) = next.launch(SlotId { component: Component::Edge, instance: 0 }, 9).unwrap();
    assert_eq!((&back.build, back.lane.as_deref()), (&adopted.build, Some("edge-0.a")));
    back.kill();
    assert_eq!(back_ended.await.exit, Exit::Signal(9));
    other.kill();
    other_ended.await;
    assert_eq!(world.found(), []);
}

#[tokio::test]
async fn a_stranger_is_taken_over_with_its_voice_and_what_it_says_of_its_end() {
    let _turn = forks::turn().await;
    let world = World::new("exit 0");
    let pid = stranger(world.0.path(), Some(40));
    let found = world.found();
    assert_eq!(found.iter().map(|found| (found.pid, found.generation, found.build.as_str())).collect::<Vec<_>>(), [(pid, 40, "old")]);
    let launcher = world.launcher();
    let (launched, ended) = launcher.adopt(&found[0]).unwrap();
    launched.will_exit_with(3);
    fs::write(world.0.path().join("go"), "").unwrap();
    assert_eq!(ended.await.exit, Exit::Status(3));
    assert_eq!(until("it was heard", || launched.words.last()).await, "adopted speaks");
}

#[tokio::test]
async fn a_stranger_whose_lane_says_nothing_is_found_by_its_descriptor() {
    let _turn = forks::turn().await;
    let world = World::new("exit 0");
    let pid = stranger(world.0.path(), None);
    let found = world.found();
    assert_eq!(found.iter().map(|found| (found.component, found.pid, found.generation)).collect::<Vec<_>>(), [(Component::Edge, pid, 41)]);
    assert!(found[0].build.starts_with('('), "{}", found[0].build);
    let launcher = world.launcher();
    let (_launched, ended) = launcher.adopt(&found[0]).unwrap();
    fs::write(world.0.path().join("go"), "").unwrap();
    assert_eq!(ended.await.exit, Exit::Unknown);
}

#[tokio::test]
async fn a_child_that_ended_when_nobody_listened_is_found_with_its_status() {
    let _turn = forks::turn().await;
    let world = World::new("read go; exit 7");
    let first = world.launcher();
    let (launched, _) = first.launch(SlotId { component: Component::Edge, instance: 0 }, 5).unwrap();
    drop(first);
    until("it has ended", || Stat::of(launched.pid).filter(|stat| stat.is_zombie)).await;
    let found = world.found();
    let next = world.launcher();
    let (adopted, ended) = next.adopt(&found[0]).unwrap();
    assert_eq!((adopted.pid, adopted.generation, ended.await.exit), (launched.pid, 5, Exit::Status(7)));
    assert!(next.adopt(&found[0]).is_err(), "it was reaped");
    assert_eq!(world.found(), []);
}

#[tokio::test]
async fn who_ended_unheard_is_known_by_its_lane_but_not_from_another_boot_nor_while_it_runs() {
    let _turn = forks::turn().await;
    let world = World::new("exit 0");
    let pid = stranger(world.0.path(), Some(40));
    let found = world.found();
    let unheard = |found: &[Found]| unheard(&world.lanes(), found);
    assert_eq!((unheard(&found), unheard(&[])), (vec![], vec![]), "it runs");
    fs::write(world.0.path().join("go"), "").unwrap();
    until("it has ended", || (!runs_on(pid)).then_some(())).await;
    assert_eq!(unheard(&found), [], "whoever takes it over will hear of it");
    assert_eq!((unheard(&[]), world.found()), (found.clone(), vec![]));
    let path = world.0.path().join("lanes/edge-0.a");
    let text = fs::read_to_string(&path).unwrap();
    for other in [text.replace(&boot(), "another"), text.replace("\"boot\":", "\"mood\":")] {
        assert_ne!(other, text);
        fs::write(&path, other).unwrap();
        assert_eq!(unheard(&[]), []);
    }
    fs::write(&path, text).unwrap();
    world.lanes().heard(found[0].slot(), pid);
    assert_eq!(unheard(&[]), []);
}

#[tokio::test]
async fn a_fork_that_left_the_group_ends_with_the_process_whose_lane_it_holds() {
    let _turn = forks::turn().await;
    let world =
        World::new("cd \"${0%/*}\"; setsid sh -c 'echo $$ > fork; exec sleep 60' & while [ ! -s fork ]; do sleep 0.01; done; exit 3");
    let launcher = world.launcher();
    let (_launched, ended) = launcher.launch(SlotId { component: Component::Edge, instance: 0 }, 1).unwrap();
    assert_eq!(ended.await.exit, Exit::Status(3));
    let fork = fs::read_to_string(world.0.path().join("fork")).unwrap().trim().parse().unwrap();
    until("the fork is gone", || (!runs_on(fork)).then_some(())).await;
    let (next, ended) = launcher.launch(SlotId { component: Component::Edge, instance: 0 }, 2).unwrap();
    assert_eq!(next.lane.as_deref(), Some("edge-0.a"));
    next.kill();
    ended.await;
}

#[tokio::test]
async fn what_a_dead_process_forked_is_not_taken_for_it() {
    let _turn = forks::turn().await;
    let world = World::new("sleep 60 & exit 0");
    let first = world.launcher();
    let (launched, _) = first.launch(SlotId { component: Component::Edge, instance: 0 }, 1).unwrap();
    until("it has ended", || Stat::of(launched.pid).filter(|stat| stat.is_zombie)).await;
    // Reaped by another, as when init does it.
    let pid = crate::child::process::number(launched.pid).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    assert_eq!(world.found(), []);
    until("the fork is gone", || world.lanes().all().iter().all(|met| !met.is_locked).then_some(())).await;
}

#[tokio::test]
async fn who_is_not_wanted_any_more_is_asked_and_then_killed() {
    let _turn = forks::turn().await;
    let world = World::new("trap '' TERM; : > \"${0%/*}/deaf\"; while :; do sleep 60; done");
    let first = world.launcher();
    let (launched, _) = first.launch(SlotId { component: Component::Edge, instance: 0 }, 1).unwrap();
    until("it is deaf", || fs::exists(world.0.path().join("deaf")).unwrap().then_some(())).await;
    let found = world.found().remove(0);
    let begun = Instant::now();
    end(&world.lanes(), &found, Duration::from_millis(50)).await;
    assert!(begun.elapsed() >= KILL_GRACE);
    assert!(Stat::of(launched.pid).is_none_or(|stat| stat.start_time != found.start_time));
    end(&world.lanes(), &found, Duration::from_mins(1)).await;
}

#[tokio::test]
async fn an_end_is_known_even_if_it_was_before_the_watch() {
    let _turn = forks::turn().await;
    let world = World::new("exit 0");
    let launcher = world.launcher();
    let (launched, ended) = launcher.launch(SlotId { component: Component::Admin, instance: 0 }, 1).unwrap();
    until("it has ended", || Stat::of(launched.pid).filter(|stat| stat.is_zombie)).await;
    // Nobody is there to take it.
    launched.terminate();
    launched.kill();
    assert_eq!(ended.await, Ended { exit: Exit::Status(0), peak_rss_bytes: 0 });
    assert!(kill_process(crate::child::process::number(launched.pid).unwrap(), Signal::TERM).is_err());
}
