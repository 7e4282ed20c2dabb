use tokio::time::Duration;

use super::*;
use crate::component::Component;
use crate::output::tests::{Room, collect, open, texts};

fn say(room: &Room, component: Component, instance: u32, lines: std::ops::Range<u32>) {
    for number in lines {
        let level = if number % 2 == 0 { "INFO" } else { "WARN" };
        room.output.speaker(SlotId { component, instance }).line(&format!("{level} {} {number}", component.name()));
    }
}

fn last(lines: usize) -> Query {
    Query { lines: Some(lines), ..Query::default() }
}

#[tokio::test]
async fn with_files_and_without_the_last_lines_of_all_come_in_the_order_of_their_arrival() {
    for files in [true, false] {
        let room = Room::new(|logs| logs.files = files);
        say(&room, Component::Edge, 0, 0..3);
        say(&room, Component::Pusher, 1, 0..3);
        say(&room, Component::Edge, 0, 3..5);
        let told = room.told(last(100)).await;
        assert_eq!(told.len(), 8, "files: {files}");
        assert!(told.is_sorted_by_key(|line| line.at_ms));
        let edge: Vec<_> = told.iter().filter(|line| line.component == "edge").map(|line| line.line.as_str()).collect();
        assert_eq!(edge, ["INFO edge 0", "WARN edge 1", "INFO edge 2", "WARN edge 3", "INFO edge 4"]);
        let wanted = Wanted { component: Some(Component::Pusher), instance: Some(1) };
        assert_eq!(texts(&room.told(Query { wanted, ..last(2) }).await), ["WARN pusher 1", "INFO pusher 2"]);
        let told = room.told(Query { wanted, level: Some(Level::Warn), ..last(9) }).await;
        assert_eq!((texts(&told), told[0].level.as_str(), told[0].instance), (vec!["WARN pusher 1"], "warn", 1));
        assert_eq!(room.told(Query { wanted: Wanted { instance: Some(2), ..wanted }, ..last(9) }).await, []);
    }
}

#[tokio::test]
async fn since_is_a_time_of_arrival() {
    let room = Room::new(|_| {});
    say(&room, Component::Edge, 0, 0..3);
    let first = room.told(last(10)).await[2].at_ms;
    while jiff::Timestamp::now().as_millisecond() <= first {
        tokio::task::yield_now().await;
    }
    say(&room, Component::Edge, 0, 3..20);
    let since = Query { since_ms: Some(first + 1), ..Query::default() };
    assert_eq!(room.told(since).await.len(), 17);
    assert_eq!(texts(&room.told(Query { lines: Some(2), ..since }).await), ["INFO edge 18", "WARN edge 19"]);
}

#[tokio::test]
async fn what_one_supervisor_heard_the_next_can_tell() {
    let room = Room::new(|_| {});
    say(&room, Component::Edge, 0, 0..3);
    room.output.close().await;
    let (stdout, _reader) = tokio::io::duplex(1);
    let next = open(&room.dir, stdout, &gatehouse_chassis::metrics::Metrics::new("supervisor", 0), |_| {});
    assert_eq!(texts(&collect(&next, last(2)).await), ["WARN edge 1", "INFO edge 2"]);
}

#[tokio::test]
async fn who_follows_hears_every_line_once() {
    let room = Room::new(|_| {});
    say(&room, Component::Edge, 0, 0..50);
    let mut answer = room.output.tell(Query { follow: true, ..last(1000) });
    // Said before the files are even looked at.
    say(&room, Component::Edge, 0, 50..100);
    let mut told = Vec::new();
    for _ in 0..100 {
        told.push(timeout(Duration::from_secs(10), answer.recv()).await.unwrap().unwrap());
    }
    say(&room, Component::Edge, 0, 100..101);
    told.push(answer.recv().await.unwrap());
    let expected: Vec<_> = (0..101).map(|number| format!("edge {number}")).collect();
    assert!(told.iter().zip(&expected).all(|(line, expected)| line.line.ends_with(expected.as_str())), "{:?}", texts(&told));
    room.output.close().await;
    assert!(answer.recv().await.is_none(), "it ends with the output");
}

#[tokio::test]
async fn who_follows_too_slowly_is_told_what_is_missing() {
    let room = Room::new(|_| {});
    let mut answer = room.output.tell(Query { follow: true, ..last(1) });
    say(&room, Component::Edge, 0, 0..1);
    answer.recv().await.unwrap();
    say(&room, Component::Edge, 0, 1..20_000);
    let mut told: Vec<LogLine> = Vec::new();
    while !told.last().is_some_and(|line| line.line.ends_with("edge 19999")) {
        told.push(timeout(Duration::from_secs(10), answer.recv()).await.unwrap().unwrap());
    }
    let notice = told.iter().find(|line| line.component == "supervisor").unwrap();
    assert!(notice.line.contains("lines are missing here") && notice.level == "warn", "{notice:?}");
}

#[tokio::test]
async fn those_who_do_not_read_on_keep_nobody_else_from_reading() {
    let room = Room::new(|_| {});
    say(&room, Component::Edge, 0, 0..1000);
    let mut pagers: Vec<_> = (0..super::super::REPLAYS * 2).map(|_| room.output.tell(last(1000))).collect();
    for pager in &mut pagers {
        assert_eq!(pager.recv().await.unwrap().line, "INFO edge 0");
    }
    let told = timeout(Duration::from_secs(10), room.told(last(1000))).await.unwrap();
    assert!(told.len() == 1000 && told[999].line == "WARN edge 999");
    let mut pager = pagers.pop().unwrap();
    let mut rest = 0;
    while pager.recv().await.is_some() {
        rest += 1;
    }
    assert!(rest == 999 && !pager.was_cut(), "{rest}");
}

#[tokio::test]
async fn what_a_full_disk_swallowed_is_told_from_memory() {
    let room = Room::new(|_| {});
    std::fs::create_dir(room.dir.path().join("logs")).unwrap();
    std::os::unix::fs::symlink("/dev/full", room.dir.path().join("logs/edge.log")).unwrap();
    say(&room, Component::Edge, 0, 0..5);
    say(&room, Component::Admin, 0, 0..2);
    assert_eq!(room.told(last(100)).await.len(), 7);
    assert_eq!(room.told(last(3)).await.len(), 3);
}
