use std::{
    os::unix::net::UnixDatagram as Sender,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn say(notifications: &Notifications, message: &[u8]) {
    Sender::unbound().unwrap().send_to(message, notifications.path()).unwrap();
}

#[test]
fn words_are_those_of_sd_notify_and_bounded() {
    let alive = || vec![Word::Alive];
    for (message, words) in [
        ("READY=1", vec![Word::Ready]),
        ("WATCHDOG=1\nREADY=1\n", vec![Word::Alive, Word::Ready]),
        ("WATCHDOG=1\nSTOPPING=1", vec![Word::Alive, Word::Stopping]),
        ("STATUS=half way\nREADY=0\nMAINPID=1\nREADY", vec![]),
        ("STATUS=stalled: reader, 1.8 s\nWATCHDOG=trigger\n", vec![Word::Stalled("stalled: reader, 1.8 s".into())]),
        ("WATCHDOG=trigger\nSTATUS=a\u{1b}[31mb", vec![Word::Stalled("a [31mb".into())]),
        ("WATCHDOG=trigger", vec![Word::Stalled(String::new())]),
        ("EXIT_STATUS=75", vec![Word::ExitStatus(75)]),
        ("EXIT_STATUS=256\nEXIT_STATUS=-1\nEXIT_STATUS=x\nWATCHDOG=1", alive()),
        ("EXTEND_TIMEOUT_USEC=1500000", vec![Word::Extend(Duration::from_millis(1500))]),
        ("EXTEND_TIMEOUT_USEC=18446744073709551615", vec![Word::Extend(MAX_EXTENSION)]),
        ("EXTEND_TIMEOUT_USEC=18446744073709551616\nWATCHDOG=1", alive()),
        ("", vec![]),
    ] {
        assert_eq!(parse(message.as_bytes()), words, "{message:?}");
    }
    assert_eq!(parse(b"\xff\xfe=1\nWATCHDOG=1"), alive());
    assert_eq!(parse("READY=1\n".repeat(500).as_bytes()).len(), MAX_WORDS);
    let long = format!("WATCHDOG=trigger\nSTATUS={}", "\u{e4}".repeat(1000));
    assert_eq!(parse(long.as_bytes()), [Word::Stalled("\u{e4}".repeat(MAX_STATUS))]);
}

#[tokio::test]
async fn a_message_comes_with_the_pid_of_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let notifications = Notifications::bind(dir.path()).unwrap();
    say(&notifications, b"STATUS=half way\nREADY=1\nSTOPPING=1\nREADY=0");
    let heard = notifications.next().await.unwrap();
    assert_eq!(heard, (std::process::id(), vec![Word::Ready, Word::Stopping]));
    assert_eq!(notifications.try_next(), None);
    // Longer than what is read of it, and no text at all.
    say(&notifications, &[b"WATCHDOG=1\n".as_slice(), &[0xff; MAX_MESSAGE * 2]].concat());
    assert_eq!(notifications.next().await.unwrap().1, [Word::Alive]);
}

#[tokio::test]
async fn a_socket_that_somebody_removed_is_bound_again_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut notifications = Notifications::bind(dir.path()).unwrap();
    assert!(!notifications.are_unheard());
    std::fs::remove_file(notifications.path()).unwrap();
    assert!(notifications.are_unheard());
    notifications.restore().unwrap();
    assert!(!notifications.are_unheard());
    say(&notifications, b"WATCHDOG=1");
    assert_eq!(notifications.next().await.unwrap().1, [Word::Alive]);
}

#[tokio::test]
async fn a_flood_does_not_keep_the_words_of_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let notifications = Notifications::bind(dir.path()).unwrap();
    let flooding = Arc::new(AtomicBool::new(true));
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let (flooding, path) = (Arc::clone(&flooding), notifications.path().to_owned());
            thread::spawn(move || {
                let sender = Sender::unbound().unwrap();
                sender.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
                while flooding.load(Ordering::Relaxed) {
                    let _full = sender.send_to(&[b'x'; MAX_MESSAGE], &path);
                }
            })
        })
        .collect();
    // As the chassis does it: a bounded wait for a place.
    let path = notifications.path().to_owned();
    let quiet = thread::spawn(move || {
        let sender = Sender::unbound().unwrap();
        sender.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        (0..50).filter(|_| sender.send_to(b"WATCHDOG=1", &path).is_ok()).count()
    });
    let (mut heard, mut flood) = (0, 0_u32);
    let listen = async {
        while heard < 50 {
            match notifications.next().await.unwrap().1.as_slice() {
                [Word::Alive] => heard += 1,
                [] => flood += 1,
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, listen).await.expect("crowded out");
    flooding.store(false, Ordering::Relaxed);
    while notifications.try_next().is_some() {}
    for flood in floods {
        flood.join().unwrap();
    }
    assert_eq!((quiet.join().unwrap(), heard), (50, 50));
    assert!(flood > 50, "{flood}");
}
