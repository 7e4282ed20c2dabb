use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;
use crate::{component::Component, output::lines::Level};

const PATIENCE: Duration = Duration::from_secs(10);

struct Desk {
    dir: TempDir,
    bounds: Bounds,
    dropped: IntCounter,
    seq: u64,
}

impl Desk {
    fn new(max_bytes: u64, keep: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bounds = Bounds { dir: dir.path().join("logs"), max_bytes, keep };
        Self { dir, bounds, dropped: IntCounter::new("dropped", "Dropped.").unwrap(), seq: 0 }
    }

    fn files(&self) -> Files {
        Files::with_retry(self.bounds.clone(), self.dropped.clone(), Duration::ZERO).unwrap()
    }

    fn line(&mut self, component: Component, instance: u32, text: &str) -> Arc<Line> {
        self.seq += 1;
        let at_ms = 1_700_000_000_000 + i64::try_from(self.seq).unwrap();
        Arc::new(Line { seq: self.seq, at_ms, slot: SlotId { component, instance }, level: Level::of(component, text), text: text.into() })
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.bounds.dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.bounds.dir.join(name)).unwrap_or_default()
    }
}

async fn look(files: &Files) -> Vec<Shelf> {
    tokio::time::timeout(PATIENCE, files.look(Wanted::default())).await.unwrap().unwrap()
}

fn texts(shelf: Shelf) -> Vec<String> {
    let Some(place) = shelf.first_since(0).unwrap() else { return Vec::new() };
    let mut reading = shelf.read(place, None).unwrap();
    std::iter::from_fn(|| reading.next().unwrap()).map(|entry| entry.text).collect()
}

#[tokio::test]
async fn each_slot_has_its_file_and_a_line_its_time() {
    let mut desk = Desk::new(1 << 20, 4);
    let files = desk.files();
    for (component, instance) in [(Component::Edge, 0), (Component::Pusher, 1), (Component::Edge, 0)] {
        files.line(desk.line(component, instance, "hello"));
    }
    let shelves = look(&files).await;
    assert_eq!(desk.names(), ["edge.log", "pusher-1.log"]);
    assert_eq!(desk.read("edge.log"), "2023-11-14T22:13:20.001Z hello\n2023-11-14T22:13:20.003Z hello\n");
    assert_eq!(
        shelves.into_iter().map(|shelf| (shelf.slot.to_string(), texts(shelf).len())).collect::<Vec<_>>(),
        [("pusher/1".to_owned(), 1), ("edge".to_owned(), 2)]
    );
}

#[tokio::test]
async fn files_are_set_aside_by_size_and_forgotten_by_number() {
    let mut desk = Desk::new(1000, 2);
    let files = desk.files();
    for number in 0..200 {
        files.line(desk.line(Component::Edge, 0, &format!("line {number}")));
        look(&files).await;
    }
    assert_eq!(desk.names(), ["edge.log", "edge.log.1", "edge.log.2"]);
    for name in desk.names() {
        assert!(desk.read(&name).len() <= 1000, "{name}");
    }
    // What is left is without a gap, and in order.
    let told = texts(look(&files).await.pop().unwrap());
    assert!(told.len() > 50);
    let expected: Vec<_> = (200 - told.len()..200).map(|number| format!("line {number}")).collect();
    assert_eq!(told, expected);
    // Fewer are kept from now on.
    desk.bounds.keep = 0;
    let files = desk.files();
    for _ in 0..40 {
        files.line(desk.line(Component::Edge, 0, "another line"));
        look(&files).await;
    }
    assert_eq!(desk.names(), ["edge.log"]);
}

#[tokio::test]
async fn a_full_disk_costs_lines_here_alone_and_is_over_when_it_is_over() {
    let mut desk = Desk::new(1 << 20, 4);
    let files = desk.files();
    fs::create_dir(&desk.bounds.dir).unwrap();
    let path = desk.bounds.dir.join("edge.log");
    symlink("/dev/full", &path).unwrap();
    for number in 0..3 {
        files.line(desk.line(Component::Edge, 0, &format!("lost {number}")));
        // Each is a try of its own.
        let shelves = look(&files).await;
        assert_eq!(shelves[0].missing_from, Some(1));
    }
    assert_eq!(desk.dropped.get(), 3);
    fs::remove_file(&path).unwrap();
    files.line(desk.line(Component::Edge, 0, "back"));
    let shelf = look(&files).await.pop().unwrap();
    assert_eq!(shelf.missing_from, None);
    let told = texts(shelf);
    assert!(told.len() == 2 && told[0].contains("3 lines are missing here") && told[0].contains("No space left"), "{told:?}");
    assert_eq!((told[1].as_str(), desk.dropped.get()), ("back", 3));
}

#[tokio::test]
async fn a_line_that_a_crash_cut_short_does_not_spoil_the_next() {
    let mut desk = Desk::new(1 << 20, 4);
    fs::create_dir(&desk.bounds.dir).unwrap();
    fs::write(desk.bounds.dir.join("edge.log"), "2023-11-14T22:13:20.001Z whole\n2023-11-14T22:1").unwrap();
    let files = desk.files();
    files.line(desk.line(Component::Edge, 0, "next"));
    assert_eq!(texts(look(&files).await.pop().unwrap()), ["whole", "next"]);
}

#[tokio::test]
async fn a_file_or_directory_that_was_removed_is_made_again() {
    let mut desk = Desk::new(1 << 20, 4);
    let files = desk.files();
    files.line(desk.line(Component::Edge, 0, "first"));
    look(&files).await;
    fs::remove_dir_all(&desk.bounds.dir).unwrap();
    files.line(desk.line(Component::Edge, 0, "second"));
    assert_eq!(texts(look(&files).await.pop().unwrap()), ["second"]);
    assert!(desk.dir.path().exists());
}

#[tokio::test]
async fn the_last_lines_are_found_from_the_end_in_whichever_file_they_are() {
    let mut desk = Desk::new(100_000, 4);
    let files = desk.files();
    for number in 0..3000 {
        let level = if number % 10 == 0 { "WARN" } else { "INFO" };
        files.line(desk.line(Component::Edge, 0, &format!("{level} {number} {}", "x".repeat(number % 90))));
        if number % 200 == 0 {
            look(&files).await;
        }
    }
    assert!(desk.names().len() > 1 || look(&files).await.len() == 1);
    for (level, since_ms, lines, first, count) in [
        (None, None, 5, 2995, 5),
        (Some(Level::Warn), None, 5, 2950, 5),
        (Some(Level::Error), None, 5, 0, 0),
        (None, Some(1_700_000_000_000 + 2991), 100, 2990, 10),
        (None, None, 2500, 500, 2500),
    ] {
        let shelf = look(&files).await.pop().unwrap();
        let found = shelf.find(level, since_ms, lines).unwrap();
        assert_eq!(found.len(), count, "{level:?} {since_ms:?} {lines}");
        let Some((_, place)) = found.front() else { continue };
        let mut reading = shelf.read(*place, level).unwrap();
        let told: Vec<_> = std::iter::from_fn(|| reading.next().unwrap()).collect();
        assert_eq!(told.len(), count);
        assert!(told[0].text.contains(&format!(" {first} ")), "{:?}", told[0]);
    }
}

#[tokio::test]
async fn lines_that_came_faster_than_the_disk_took_them_are_told_of_and_known_to_be_missing() {
    let mut desk = Desk::new(1 << 20, 4);
    let (files, mut writer, messages) = Files::parts(desk.bounds.clone(), desk.dropped.clone(), Duration::ZERO);
    // The disk stands still.
    let accepted = u64::try_from(QUEUE).unwrap();
    for number in 0..accepted + 3 {
        files.line(desk.line(Component::Edge, 0, &format!("line {number}")));
    }
    files.line(desk.line(Component::Admin, 0, "admin"));
    assert_eq!(desk.dropped.get(), 4);
    let full = files.look(Wanted::default());
    assert!(full.await.is_none(), "the rings must do");
    let written = thread::spawn(move || writer.run(&messages));
    let missing = |shelves: Vec<Shelf>| shelves.into_iter().map(|shelf| (shelf.slot.to_string(), shelf.missing_from)).collect::<Vec<_>>();
    let begun = Instant::now();
    let shelves = loop {
        if let Some(shelves) = files.look(Wanted::default()).await {
            break shelves;
        }
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    };
    assert_eq!(missing(shelves), [("edge".to_owned(), Some(accepted + 1)), ("admin".to_owned(), Some(accepted + 4))]);
    files.line(desk.line(Component::Edge, 0, "next"));
    files.line(desk.line(Component::Admin, 0, "next"));
    let shelves = look(&files).await;
    let told: Vec<_> = shelves.into_iter().flat_map(|shelf| (assert_eq!(shelf.missing_from, None), texts(shelf)).1).collect();
    let notices: Vec<_> = told.iter().filter(|line| line.contains("missing here")).collect();
    assert!(notices[0].contains("3 lines are missing here") && notices[1].contains("1 lines are missing here"), "{notices:?}");
    assert_eq!(told.len(), QUEUE + 4, "all but those four, and two notices");
    drop(files);
    written.join().unwrap();
}
