use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::{Child, Command},
    time::Instant,
};

use tokio::{io::AsyncReadExt as _, time::sleep};

use super::*;
use crate::component::SlotId;
use crate::output::{
    Query,
    tests::{Room, texts},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A shell as that component.
fn shell(room: &Room, component: Component, script: &str) -> (Child, Capture) {
    let (stdout, stderr, capture) = Capture::new(room.output.speaker(SlotId { component, instance: 0 })).unwrap();
    let child = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
    (child, capture)
}

async fn end(child: &mut Child) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn hear(room: &Room, component: Component, script: &str) -> Words {
    let (mut child, capture) = shell(room, component, script);
    let said = capture.read().unwrap();
    let words = said.words();
    end(&mut child).await;
    said.all().await;
    words
}

#[tokio::test]
async fn both_outputs_are_heard_to_the_end_and_the_last_lines_kept() {
    let room = Room::new(|_| {});
    let words = hear(
        &room,
        Component::Edge,
        r#"i=0; while [ $i -lt 30 ]; do echo line $i >&2; i=$((i+1)); done; echo '{"level":"ERROR","message":"no key"}' >&2"#,
    )
    .await;
    assert_eq!((words.last().unwrap().as_str(), words.all().len()), ("no key", KEPT));
    assert_eq!((words.all()[0].as_str(), words.all()[KEPT - 1].as_str()), ("line 21", "ERROR no key"));
    let words = hear(&room, Component::Edge, "echo on stdout; printf 'no newline' >&2").await;
    let mut all = words.all();
    all.sort();
    assert_eq!(all, ["no newline", "on stdout"]);
    assert_eq!(room.counted(r#"component_output_lines_total{component="edge",instance="0",stream="stderr"}"#), 32);
}

#[tokio::test]
async fn what_is_chattered_on_stdout_does_not_wash_away_the_complaint_on_stderr() {
    let room = Room::new(|_| {});
    let words = hear(&room, Component::Edge, "echo complaint >&2; i=0; while [ $i -lt 30 ]; do echo chatter $i; i=$((i+1)); done").await;
    assert_eq!((words.last().unwrap().as_str(), words.all().len()), ("complaint", KEPT));
    assert!(words.all().contains(&"complaint".to_owned()) && words.all().contains(&"chatter 29".to_owned()), "{:?}", words.all());
}

#[tokio::test]
async fn one_that_says_nothing_or_closes_both_is_not_waited_for() {
    let room = Room::new(|_| {});
    for script in ["true", "exec >&- 2>&-; sleep 0.1"] {
        assert_eq!(hear(&room, Component::Edge, script).await.last(), None);
    }
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipe_keeps_nobody_from_the_last_words() {
    let room = Room::new(|_| {});
    let (mut child, capture) = shell(&room, Component::Edge, "(sleep 1; echo heir) & echo last");
    let said = capture.read().unwrap();
    let words = said.words();
    end(&mut child).await;
    let begun = Instant::now();
    said.all().await;
    assert!(begun.elapsed() < LAST_WORDS, "an empty pipe had nothing more");
    assert_eq!(words.last().unwrap(), "last");
    // It is heard all the same.
    let begun = Instant::now();
    while words.last().unwrap() != "heir" {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_said_between_two_supervisors_arrives_at_the_second() {
    let room = Room::new(|_| {});
    let script = r"echo before >&2; read go < go || exit 3; i=0; while [ $i -lt 1000 ]; do echo between $i >&2; i=$((i+1)); done; echo done > done; read stay < stay; echo after >&2";
    let fifo = |name: &str| {
        let path = room.dir.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    };
    let (go, done, stay) = (fifo("go"), fifo("done"), fifo("stay"));
    let (stdout, stderr, capture) = Capture::new(room.output.speaker(SlotId { component: Component::Edge, instance: 0 })).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(&room.dir).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let mut child = command.spawn().unwrap();
    drop(command);
    // The first supervisor dies: nobody holds our end any more.
    drop(capture);
    let write = |path| tokio::task::spawn_blocking(move || std::fs::write(path, "\n"));
    write(go).await.unwrap().unwrap();
    tokio::task::spawn_blocking(move || std::fs::read(done)).await.unwrap().unwrap();
    let said =
        Capture::reopen(child.id(), room.output.speaker(SlotId { component: Component::Edge, instance: 0 })).unwrap().read().unwrap();
    write(stay).await.unwrap().unwrap();
    end(&mut child).await;
    said.all().await;
    assert!(child.wait().unwrap().success(), "it was not told that nobody reads");
    let told = room.told(Query { lines: Some(5000), ..Query::default() }).await;
    assert_eq!(told.len(), 1002);
    assert_eq!([0, 1, 1000, 1001].map(|i| texts(&told)[i]), ["before", "between 0", "between 999", "after"]);
}

#[tokio::test]
async fn an_output_that_is_no_pipe_is_left_alone_and_a_process_that_is_gone_is_an_error() {
    let room = Room::new(|_| {});
    let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(Capture::reopen(child.id(), room.output.speaker(SlotId { component: Component::Edge, instance: 0 })).unwrap().ends.len(), 0);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(Capture::reopen(child.id(), room.output.speaker(SlotId { component: Component::Edge, instance: 0 })).is_err());
}

#[tokio::test]
async fn a_flood_holds_up_neither_the_others_nor_itself_and_its_last_words_are_heard() {
    let room = Room::new(|logs| logs.rate = 64 << 10);
    let script = "yes 'a flood of lines, each longer than a word or two' | head -c 40000000 >&2; echo >&2; echo drowned >&2";
    let (mut flood, capture) = shell(&room, Component::Pusher, script);
    let (flooding, begun) = (capture.read().unwrap(), Instant::now());
    // Meanwhile another is heard at once.
    let mut slowest = Duration::ZERO;
    while flood.try_wait().unwrap().is_none() {
        let asked = Instant::now();
        assert_eq!(hear(&room, Component::Edge, "echo here").await.last().unwrap(), "here");
        slowest = slowest.max(asked.elapsed());
        assert!(begun.elapsed() < PATIENCE, "the flood is held up");
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let words = flooding.words();
    flooding.all().await;
    assert_eq!(words.last().unwrap(), "drowned");
    let dropped = room.counted(r#"component_output_dropped_total{component="pusher",instance="0",stream="stderr"}"#);
    let passed = room.counted(r#"component_output_lines_total{component="pusher",instance="0",stream="stderr"}"#);
    assert!(dropped > 700_000 && passed < 50_000, "{passed} passed, {dropped} dropped");
    // The place where lines are missing says so.
    let told = room.told(Query { lines: Some(500), level: Some(crate::output::Level::Warn), ..Query::default() }).await;
    assert!(texts(&told).iter().any(|line| line.contains("lines dropped here: more than 65536 bytes a second")), "{:?}", texts(&told));
}

#[tokio::test]
async fn the_trail_passes_as_it_is_line_by_line_and_waits_for_a_slow_reader() {
    let mut room = Room::with_stdout(256, |_| {});
    let script = r#"i=0; while [ $i -lt 500 ]; do echo "{\"seq\":$i}"; i=$((i+1)); done; echo log >&2"#;
    let (mut child, capture) = shell(&room, Component::Auditor, script);
    let said = capture.read().unwrap();
    end(&mut child).await;
    said.all().await;
    // Nobody has read until now.
    let expected = (0..500).map(|seq| serde_json::json!({ "seq": seq }).to_string() + "\n").collect::<String>();
    let mut passed = vec![0; expected.len()];
    tokio::time::timeout(PATIENCE, room.stdout.read_exact(&mut passed)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(passed).unwrap(), expected);
    assert_eq!(room.counted(r#"component_output_dropped_total{component="auditor",instance="0",stream="stdout"}"#), 0);
    assert_eq!(texts(&room.told(Query { lines: Some(9), ..Query::default() }).await), ["log"]);
}

#[tokio::test]
async fn a_redis_whose_log_nobody_reads_serves_on() {
    let room = Room::new(|_| {});
    let (stdout, stderr, capture) = Capture::new(room.output.speaker(SlotId { component: Component::Redis, instance: 0 })).unwrap();
    let socket = room.dir.path().join("redis.sock");
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--loglevel", "debug", "--unixsocket"]).arg(&socket).current_dir(&room.dir);
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
    drop(command);
    let begun = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        assert!(begun.elapsed() < PATIENCE, "it does not start");
        sleep(Duration::from_millis(5)).await;
    }
    // Each connection is two lines of its log.
    let unread = |capture: &Capture| rustix::io::ioctl_fionread(&capture.ends[0].1).unwrap();
    let mut full = 0;
    while full < 1000 {
        let before = unread(&capture);
        let mut connection = UnixStream::connect(&socket).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(b"PING\r\n").unwrap();
        let mut answer = [0; 7];
        connection.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+PONG\r\n");
        full = if unread(&capture) == before { full + 1 } else { 0 };
    }
    assert!(unread(&capture) > 60_000, "the pipe was not full");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn closing_lets_out_what_was_begun() {
    let mut room = Room::new(|_| {});
    let said = |name: &str| room.dir.path().join(name);
    let script = format!("printf 'half a line' >&2; : > '{}'; exec sleep 60", said("edge").display());
    let (mut edge, edge_capture) = shell(&room, Component::Edge, &script);
    let script = format!(r#"printf '{{"seq":1}}\n{{"se'; : > '{}'; exec sleep 60"#, said("auditor").display());
    let (mut auditor, auditor_capture) = shell(&room, Component::Auditor, &script);
    let _said = [edge_capture.read().unwrap(), auditor_capture.read().unwrap()];
    let is_read = |child: &Child, name: &str| {
        // The pipes, once more.
        let ends = Capture::reopen(child.id(), room.output.speaker(SlotId { component: Component::Edge, instance: 0 })).unwrap().ends;
        said(name).exists() && ends.iter().all(|(_, end)| rustix::io::ioctl_fionread(end).unwrap() == 0)
    };
    let begun = Instant::now();
    while !is_read(&edge, "edge") || !is_read(&auditor, "auditor") {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(2)).await;
    }
    room.output.close().await;
    let mut passed = [0; 14];
    room.stdout.read_exact(&mut passed).await.unwrap();
    assert_eq!(&passed, b"{\"seq\":1}\n{\"se");
    let file = std::fs::read_to_string(room.dir.path().join("logs/edge.log")).unwrap();
    assert!(file.ends_with("Z half a line\n"), "{file}");
    for child in [&mut edge, &mut auditor] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
