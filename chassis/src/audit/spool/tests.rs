use proptest::prelude::*;

use super::{left::belongs_to, rotten::corrupt, *};

/// What waits.
fn held(spool: &mut Spool) -> Vec<Vec<u8>> {
    spool.front(u64::MAX).unwrap().0
}

/// Hands over everything.
fn drain(spool: &mut Spool) -> Vec<Vec<u8>> {
    let (records, bytes) = spool.front(u64::MAX).unwrap();
    spool.pass(bytes).unwrap();
    records
}

fn records<const N: usize>(records: [&[u8]; N]) -> Vec<Vec<u8>> {
    records.map(<[u8]>::to_vec).to_vec()
}

fn blocks(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512
}

#[test]
fn records_survive_a_restart_in_order_until_all_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
    let mut spool = open();
    spool.append(&records([b"one", b""])).unwrap();
    spool.append(&records([b"three"])).unwrap();
    let (first, bytes) = spool.front(1).unwrap();
    assert_eq!(first, [b"one"]);
    spool.pass(bytes).unwrap();
    assert_eq!(held(&mut spool), [&b""[..], b"three"]);
    drop(spool);
    let mut spool = open();
    assert_eq!(drain(&mut spool), [&b"one"[..], b"", b"three"], "what was passed over may come again");
    spool.append(&records([b"four"])).unwrap();
    drop(spool);
    assert_eq!(held(&mut open()), [b"four"]);
}

#[test]
fn a_record_that_a_crash_cut_short_anywhere_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge-0.spool");
    let mut spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
    spool.append(&records([b"whole"])).unwrap();
    let kept = spool.len();
    spool.append(&records([b"torn"])).unwrap();
    drop(spool);
    let whole = fs::read(&path).unwrap();
    for cut in kept..whole.len() as u64 {
        fs::write(&path, &whole[..usize::try_from(cut).unwrap()]).unwrap();
        let mut spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
        spool.append(&records([b"next"])).unwrap();
        assert_eq!(held(&mut spool), [&b"whole"[..], b"next"], "cut at {cut}");
    }
}

#[test]
fn a_full_spool_refuses_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), "s", 20).unwrap();
    spool.append(&records([b"12345"])).unwrap();
    assert_eq!(spool.append(&records([b"too much"])).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(drain(&mut spool), [b"12345"]);
}

#[test]
fn a_generation_that_drains_and_the_next_one_do_not_share_a_file_and_the_one_after_has_the_records_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let open = |max| Spool::open(dir.path(), "edge-0", max).unwrap();
    let (mut old, mut new) = (open(1 << 20), open(1 << 20));
    old.append(&records([b"old"])).unwrap();
    new.append(&records([b"new"])).unwrap();
    old.append(&records([b"old, too"])).unwrap();
    drop(old);
    drop(new);
    assert_eq!(held(&mut open(30)), [&b"old"[..], b"old, too"], "what does not fit stays where it is");
    assert_eq!(held(&mut open(1 << 20)), [&b"old"[..], b"old, too", b"new"]);
    assert_eq!(held(&mut open(1 << 20)).len(), 3, "moved, not copied");
}

#[test]
fn what_others_of_the_component_left_is_taken_in_once_and_what_somebody_has_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let spool = |name: &str, record: &[u8]| {
        let mut spool = Spool::open(dir.path(), name, 1 << 20).unwrap();
        spool.append(&records([record])).unwrap();
        spool
    };
    let mut own = spool("pusher-0", b"own");
    let theirs = spool("pusher-1", b"held");
    drop((spool("pusher-2", b"left"), spool("edge-0", b"edge")));
    for _ in 0..2 {
        own.sweep(dir.path(), "pusher", 0).unwrap();
    }
    assert_eq!(drain(&mut own), [&b"own"[..], b"left"]);
    drop(theirs);
    own.sweep(dir.path(), "pusher", 0).unwrap();
    assert_eq!(drain(&mut own), [b"held"]);
    assert_eq!(held(&mut Spool::open(dir.path(), "edge-0", 1 << 20).unwrap()), [b"edge"]);
    assert!(belongs_to("pusher-1.7.spool", "pusher") && !belongs_to("pusher-x.spool", "pusher") && !belongs_to("pusher-1", "pusher"));
}

#[test]
fn a_long_queue_that_is_read_and_appended_to_gives_back_what_was_passed_over_and_remembers_where_it_is() {
    const LENGTH: usize = 100 << 10;
    let (dir, max) = (tempfile::tempdir().unwrap(), 4 << 20);
    let path = dir.path().join("edge-0.spool");
    let mut spool = Spool::open(dir.path(), "edge-0", max).unwrap();
    let numbered = |n: u64| [n.to_le_bytes().as_slice(), &vec![7; LENGTH]].concat();
    let mut appended = 0;
    for passed in 0..300 {
        while spool.append(&[numbered(appended)]).is_ok() {
            appended += 1;
        }
        let (front, bytes) = spool.front(1).unwrap();
        assert_eq!(front, [numbered(passed)], "in order");
        spool.pass(bytes).unwrap();
    }
    assert!(appended * LENGTH as u64 > 6 * max, "many times its bound went through it");
    assert!(spool.end > 6 * max && spool.len() <= max);
    let taken = blocks(&path);
    assert!(taken < max + 2 * RECLAIM + AHEAD[1], "{taken} bytes on the disk");
    let waiting = held(&mut spool);
    drop(spool);
    let left = held(&mut Spool::open(dir.path(), "edge-0", max).unwrap());
    assert_eq!(left[left.len() - waiting.len()..], waiting, "all that waits is there");
    assert!(((left.len() - waiting.len()) * LENGTH) as u64 <= RECLAIM, "and little of what was passed over");
    // Another generation takes in what waits, and no more.
    let mut next = Spool::open(dir.path(), "edge-1", 4 * max).unwrap();
    next.sweep(dir.path(), "edge", 0).unwrap();
    assert_eq!(held(&mut next), left);
    drop(next);
    assert_eq!(held(&mut Spool::open(dir.path(), "edge-1", 4 * max).unwrap()), left);
}

#[test]
fn room_is_taken_from_the_disk_ahead_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge-0.spool");
    let mut spool = Spool::open(dir.path(), "edge-0", 64 << 20).unwrap();
    if spool.allocated.is_none() {
        assert_eq!(spool.room(), 64 << 20, "where the file system cannot, the bound alone counts");
        return;
    }
    assert_eq!(spool.room(), AHEAD[0]);
    spool.append(&records([b"away"])).unwrap();
    assert_eq!(spool.room(), AHEAD[1], "records come here now");
    assert!(blocks(&path) >= AHEAD[1]);
    assert_eq!(fs::metadata(&path).unwrap().len(), spool.len(), "what is ahead is not part of the file");
    drain(&mut spool);
    assert_eq!(spool.room(), AHEAD[0]);
    drop(spool);
    assert_eq!(blocks(&path), 0);
    assert_eq!(Spool::open(dir.path(), "small", 100).unwrap().room(), 0, "less than a block is not worth asking for");
}

#[test]
fn while_writes_fail_there_is_no_room_and_a_probe_finds_out_when_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge-0.spool");
    let mut spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
    spool.append(&records([b"kept"])).unwrap();
    // The same file without the right to write stands for a disk that fails.
    let writable = std::mem::replace(&mut spool.file, File::open(&path).unwrap());
    assert!(spool.append(&records([b"lost"])).is_err());
    assert_eq!(spool.room(), 0);
    spool.probe();
    assert_eq!(spool.room(), 0);
    spool.file = writable;
    spool.probe();
    assert!(spool.room() > 0);
    spool.append(&records([b"next"])).unwrap();
    assert_eq!(drain(&mut spool), [b"kept", b"next"]);
}

/// Changes the byte at that place.
fn spoil(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn a_record_that_rots_costs_itself_alone_while_the_spool_is_in_use_and_at_the_next_start() {
    for bad in [&[1][..], &[0], &[1, 2]] {
        for restarted in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("edge-0.spool");
            let mut spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
            spool.append(&records([b"zero.", b"one..", b"two..", b"three"])).unwrap();
            for n in bad {
                spoil(&path, n * 13 + 10);
            }
            if restarted {
                drop(spool);
                spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
            }
            let all = records([b"zero.", b"one..", b"two..", b"three"]);
            let left: Vec<_> = (0..).zip(all).filter(|(n, _)| !bad.contains(n)).map(|(_, record)| record).collect();
            assert_eq!(held(&mut spool), left, "{bad:?}, restarted: {restarted}");
            assert_eq!((spool.take_lost() > 0, fs::metadata(corrupt(&path)).unwrap().len()), (true, 13 * bad.len() as u64));
            assert_eq!((drain(&mut spool), spool.take_lost()), (left, 0), "it is told once");
            spool.append(&records([b"next"])).unwrap();
            assert_eq!(held(&mut spool), [b"next"]);
        }
    }
}

#[test]
fn what_stands_behind_a_rotten_length_is_set_aside_and_not_deleted() {
    for restarted in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge-0.spool");
        let mut spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
        spool.append(&records([b"zero.", b"one..", b"two..", b"three"])).unwrap();
        let rest = fs::read(&path).unwrap()[13 + 8..].to_vec();
        spoil(&path, 13 + 2);
        if restarted {
            drop(spool);
            spool = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
        }
        assert_eq!(held(&mut spool), [b"zero."]);
        assert_eq!(fs::read(corrupt(&path)).unwrap()[8..], rest, "restarted: {restarted}");
        assert_eq!(spool.take_lost(), 1);
        spool.append(&records([b"next"])).unwrap();
        drop(spool);
        assert_eq!(held(&mut Spool::open(dir.path(), "edge-0", 1 << 20).unwrap()), [&b"zero."[..], b"next"]);
    }
}

#[test]
fn what_is_taken_in_leaves_the_room_that_was_promised_and_comes_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let group: Vec<_> = (0..32_u8).map(|n| vec![n; 100 << 10]).collect();
    Spool::open(dir.path(), "edge-1", 4 << 20).unwrap().append(&group).unwrap();
    let mut own = Spool::open(dir.path(), "edge-0", 4 << 20).unwrap();
    own.sweep(dir.path(), "edge", 4 << 20).unwrap();
    assert!(own.is_empty(), "all of it is promised");
    let mut moved = Vec::new();
    while moved.len() < group.len() {
        own.sweep(dir.path(), "edge", 2 << 20).unwrap();
        assert!(!own.is_empty() && own.len() <= 1 << 20, "half of what is free and not promised: {}", own.len());
        moved.extend(drain(&mut own));
    }
    assert_eq!(moved, group, "in order, and each once");
    own.sweep(dir.path(), "edge", 0).unwrap();
    assert!(own.is_empty());
}

#[test]
fn a_file_that_cannot_be_taken_in_holds_up_no_other_and_no_start() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["edge-1", "edge-3"] {
        Spool::open(dir.path(), name, 1 << 20).unwrap().append(&records([name.as_bytes()])).unwrap();
    }
    // Neither can be opened for writing, whoever asks.
    for name in ["edge-2.spool", "edge-0.1.spool", "edge-0.spool"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let mut own = Spool::open(dir.path(), "edge-0", 1 << 20).unwrap();
    own.sweep(dir.path(), "edge", 0).unwrap();
    own.sweep(dir.path(), "edge", 0).unwrap();
    let mut taken = drain(&mut own);
    taken.sort();
    assert_eq!(taken, [b"edge-1", b"edge-3"]);
    // Of what is locked, the one that fails is told, and once. A directory has a length.
    assert!(own.told.len() <= 3 && own.told.contains(&dir.path().join("edge-2.spool")), "{:?}", own.told);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Whatever is appended, passed over, cut off by a crash and opened again: what was acknowledged and not passed over is there, in order.
    #[test]
    fn it_is_a_queue(acts in prop::collection::vec((0..4_u8, 1..5_u8, 0..400_000_usize), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let open = || Spool::open(dir.path(), "edge-0", 8 << 20).unwrap();
        let (mut spool, mut model) = (open(), std::collections::VecDeque::new());
        for (i, (act, count, length)) in (0_u8..).zip(acts) {
            match act {
                0 | 1 => {
                    let group: Vec<_> = (0..count).map(|n| [&[i, n], vec![0; length / usize::from(count)].as_slice()].concat()).collect();
                    if spool.append(&group).is_ok() {
                        model.extend(group);
                    }
                }
                2 => {
                    let (front, bytes) = spool.front(length as u64).unwrap();
                    spool.pass(bytes).unwrap();
                    prop_assert!(model.drain(..front.len()).eq(front));
                }
                _ => {
                    // Killed: what is ahead stays, and half a record.
                    let path = dir.path().join("edge-0.spool");
                    let end = spool.end;
                    drop(spool);
                    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[1, 0, 0, 0, 9, 9], end).unwrap();
                    spool = open();
                    let all = held(&mut spool);
                    prop_assert!(all.len() >= model.len() && all[all.len() - model.len()..].iter().eq(&model));
                    model = all.into();
                }
            }
        }
        prop_assert!(held(&mut spool).iter().eq(&model));
    }
}
