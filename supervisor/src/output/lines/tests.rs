use super::*;

const EDGE: SlotId = SlotId { component: Component::Edge, instance: 0 };

#[test]
fn every_line_names_its_speaker_in_either_format() {
    let json = |line| tagged(Style::Json, EDGE, line);
    assert_eq!(json(r#"{"level":"INFO"}"#), r#"{"component":"edge","instance":0,"level":"INFO"}"#);
    assert_eq!(json("{}"), r#"{"component":"edge","instance":0,"message":"{}"}"#);
    assert_eq!(json("thread 'main' \"panicked\""), r#"{"component":"edge","instance":0,"message":"thread 'main' \"panicked\""}"#);
    assert_eq!(tagged(Style::Text, SlotId { component: Component::Pusher, instance: 1 }, "hello"), "pusher-1 | hello");
    assert_eq!(tagged(Style::Text, EDGE, "hello"), "edge     | hello");
}

#[test]
fn the_level_is_what_the_line_says_in_any_of_the_formats() {
    for (component, line, level) in [
        (Component::Edge, r#"{"timestamp":"2026-11-21T09:52:16Z","level":"WARN","message":"m"}"#, Some(Level::Warn)),
        (Component::Edge, r#"{"message":"no level"}"#, None),
        (Component::Edge, r#"{"level":"LOUD"}"#, None),
        (Component::Edge, "2026-11-21T09:52:16.223Z  INFO gatehouse_edge: ready", Some(Level::Info)),
        (Component::Edge, "2026-11-21T09:52:16.223Z ERROR gatehouse_edge: no", Some(Level::Error)),
        (Component::Edge, "TRACE x", Some(Level::Debug)),
        (Component::Edge, "thread 'main' panicked at INFO", None),
        (Component::Edge, "an error is spoken of", None),
        (Component::Edge, "", None),
        (Component::Redis, "1:M 21 Nov 2026 09:52:16.223 # WARNING overcommit", Some(Level::Warn)),
        (Component::Redis, "1:M 21 Nov 2026 09:52:16.223 # Server initialized", Some(Level::Info)),
        (Component::Redis, "1:M 21 Nov 2026 09:52:16.223 * Ready to accept connections", Some(Level::Debug)),
    ] {
        assert_eq!(Level::of(component, line), level, "{line}");
    }
    assert!(Level::Error > Level::Warn && Level::Info > Level::Debug);
}

#[test]
fn a_line_of_json_reads_as_a_sentence() {
    assert_eq!(plain(r#"{"level":"ERROR","message":"edge ends: no key"}"#), "edge ends: no key");
    assert_eq!(plain("thread panicked"), "thread panicked");
    let line = r#"{"timestamp":"t","level":"WARN","message":"slow","target":"x","stream.lag":3,"why":"disk"}"#;
    assert_eq!(legible(line), "WARN slow stream.lag=3 why=disk");
    for other in ["{", "{}", "[1]", "plain"] {
        assert_eq!(legible(other), other);
    }
}

fn split(pieces: &[&[u8]]) -> Vec<String> {
    let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
    for piece in pieces {
        splitter.push(piece, |line| lines.push(line.to_owned()));
    }
    splitter.finish(|line| lines.push(line.to_owned()));
    lines
}

#[test]
fn lines_are_cut_however_they_arrive() {
    assert_eq!(split(&[b"a\nb\n", b"\n\r\nc", b"d\ne"]), ["a", "b", "cd", "e"]);
    assert_eq!(split(&[b"\xff\n"]), ["\u{fffd}"]);
    let long = vec![b'x'; 3 * MAX_LINE + 5];
    for pieces in [vec![&long[..]], vec![&long[..], b"\n"], long.chunks(1000).collect()] {
        let lines = split(&pieces);
        assert!(lines.iter().all(|line| line.len() <= MAX_LINE + 1000), "{:?}", lines.iter().map(String::len).collect::<Vec<_>>());
        assert_eq!(lines.concat().len(), long.len());
    }
}

#[test]
fn what_is_thrown_away_is_counted_and_the_next_line_is_whole() {
    let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
    splitter.push(b"first\nhal", |line| lines.push(line.to_owned()));
    assert_eq!([&b"f\nsecond\nth"[..], b"i", b""].map(|piece| splitter.discard(piece)), [3, 0, 0]);
    splitter.push(b"rd\nfourth\n", |line| lines.push(line.to_owned()));
    assert_eq!(splitter.discard(b"fifth\n"), 1);
    splitter.push(b"sixth\n", |line| lines.push(line.to_owned()));
    assert_eq!(lines, ["first", "fourth", "sixth"]);
}

#[test]
fn text_is_cut_between_characters() {
    assert_eq!((cut("aä", 2).as_str(), cut("aä", 3).as_str(), cut("a", 9).as_str()), ("a", "aä", "a"));
}
