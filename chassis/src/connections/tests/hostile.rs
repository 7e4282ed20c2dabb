//! Floods, each of which must end its own connection and nothing else; and what any server of HTTP/2 must refuse (as h2spec tries it).

use super::{
    wire::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, begin, frame,
        frames, get, head,
    },
    *,
};

/// So many that nobody needs them.
const MANY: u32 = 400_000;

impl Inn {
    /// Writes on and on, and reads what comes; whether the connection was ended before all was written.
    async fn floods(&self, first: Vec<u8>, mut next: impl FnMut(u32) -> Vec<u8>) -> bool {
        let (mut reader, mut writer) = self.guest().await.0.into_split();
        let writing = async {
            if writer.write_all(&first).await.is_err() {
                return true;
            }
            for batch in 0..MANY / 100 {
                let bytes: Vec<u8> = (0..100).flat_map(|i| next(batch * 100 + i)).collect();
                if writer.write_all(&bytes).await.is_err() {
                    return true;
                }
            }
            false
        };
        let mut reading = Box::pin(async {
            let _ended = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        });
        let ended = async {
            tokio::select! {
                ended = writing => ended,
                () = &mut reading => true,
            }
        };
        timeout(2 * PATIENCE, ended).await.expect("an end")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_connection_and_nothing_else() {
    let inn = Inn::open().await;
    let mut other = inn.guest().await;
    other.ask("/ping").await;
    other.answer("pong").await;

    let rapid = |i: u32| [get(2 * i + 1, "/slow"), frame(RST_STREAM, 0, 2 * i + 1, &8_u32.to_be_bytes())].concat();
    assert!(inn.floods(begin(&[]), rapid).await, "rapid reset");
    inn.serves().await;

    let open = [begin(&[]), frame(HEADERS, END_STREAM, 1, &head("GET", "/ping"))].concat();
    assert!(inn.floods(open, |_| frame(CONTINUATION, 0, 1, &[0x10, 1, b'x', 1, b'x'])).await, "CONTINUATION");
    inn.serves().await;
    let open = [begin(&[]), frame(HEADERS, END_STREAM, 1, &head("GET", "/ping"))].concat();
    assert!(inn.floods(open, |_| frame(CONTINUATION, 0, 1, &[])).await, "empty CONTINUATION");
    inn.serves().await;

    let before = inn.refused("hostile");
    assert!(inn.floods([begin(&[]), get(1, "/slow")].concat(), |_| frame(PING, 0, 0, &[0; 8])).await, "PING");
    inn.refuses("hostile", before + 1).await;
    assert!(inn.floods([begin(&[]), get(1, "/slow")].concat(), |_| frame(SETTINGS, 0, 0, &[])).await, "SETTINGS");
    inn.refuses("hostile", before + 2).await;
    let post = [begin(&[]), frame(HEADERS, END_HEADERS, 1, &head("POST", "/read"))].concat();
    assert!(inn.floods(post.clone(), |_| frame(2, 0, 1, &[0, 0, 0, 0, 1])).await, "PRIORITY");
    inn.refuses("hostile", before + 3).await;
    // By us, or by h2, which has a budget of its own for these.
    assert!(inn.floods(post, |_| frame(DATA, 0, 1, &[])).await, "empty DATA");
    inn.serves().await;

    other.ask("/ping").await;
    other.answer("pong").await;
}

/// What comes until the connection ends, or until a stream was reset.
async fn verdict(inn: &Inn, bytes: &[u8]) -> Option<Frame> {
    let mut guest = inn.guest().await;
    guest.write(bytes).await;
    let mut heard = Vec::new();
    let reading = async {
        loop {
            let read = guest.0.read_buf(&mut heard).await;
            let told = frames(&heard).into_iter().find(|frame| frame.code().is_some());
            if told.is_some() || !read.is_ok_and(|read| read > 0) {
                return told;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("a verdict")
}

#[tokio::test]
async fn what_http2_forbids_is_refused_with_its_code() {
    const PROTOCOL_ERROR: u32 = 1;
    const FLOW_CONTROL_ERROR: u32 = 3;
    const STREAM_CLOSED: u32 = 5;
    const FRAME_SIZE_ERROR: u32 = 6;
    const COMPRESSION_ERROR: u32 = 9;
    let inn = Inn::open().await;
    let upper = [&head("GET", "/ping")[..], &[0x00, 1, b'X', 1, b'x']].concat();
    // h2 knows one code for most of these.
    let wrong_size = [FRAME_SIZE_ERROR, PROTOCOL_ERROR];
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let cases: [(&str, Vec<u8>, u8, &[u32]); 17] = [
        ("HEADERS on stream 0", frame(HEADERS, END_HEADERS | END_STREAM, 0, &head("GET", "/ping")), GOAWAY, &[PROTOCOL_ERROR]),
        ("a stream of the server's", get(2, "/ping"), GOAWAY, &[PROTOCOL_ERROR]),
        ("a stream before the last", [get(5, "/ping"), get(3, "/ping")].concat(), GOAWAY, &[PROTOCOL_ERROR, STREAM_CLOSED]),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), GOAWAY, &[PROTOCOL_ERROR]),
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), GOAWAY, &[PROTOCOL_ERROR]),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &[]), GOAWAY, &[PROTOCOL_ERROR]),
        (
            "a frame inside of headers",
            [frame(HEADERS, END_STREAM, 1, &head("GET", "/ping")), frame(PING, 0, 0, &[0; 8])].concat(),
            GOAWAY,
            &[PROTOCOL_ERROR],
        ),
        ("SETTINGS of no whole length", frame(SETTINGS, 0, 0, &[0; 5]), GOAWAY, &wrong_size),
        ("SETTINGS acknowledged with content", frame(SETTINGS, 1, 0, &[0; 6]), GOAWAY, &wrong_size),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), GOAWAY, &[PROTOCOL_ERROR]),
        ("a PING of no length", frame(PING, 0, 0, &[0; 7]), GOAWAY, &wrong_size),
        ("a PING on a stream", frame(PING, 0, 1, &[0; 8]), GOAWAY, &[PROTOCOL_ERROR]),
        ("a window that does not grow", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), GOAWAY, &[PROTOCOL_ERROR]),
        (
            "a window beyond all bounds",
            [frame(WINDOW_UPDATE, 0, 0, &most), frame(WINDOW_UPDATE, 0, 0, &most)].concat(),
            GOAWAY,
            &[FLOW_CONTROL_ERROR],
        ),
        ("a frame that is too long", frame(DATA, 0, 1, &vec![0; 20_000]), GOAWAY, &wrong_size),
        (
            "no header compression",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            GOAWAY,
            &[COMPRESSION_ERROR, PROTOCOL_ERROR],
        ),
        ("a capital letter", frame(HEADERS, END_HEADERS | END_STREAM, 1, &upper), GOAWAY, &[PROTOCOL_ERROR]),
    ];
    for (name, bytes, kind, codes) in cases {
        let told = verdict(&inn, &[begin(&[]), bytes].concat()).await;
        let is_right = told.as_ref().is_some_and(|frame| frame.kind == kind && codes.contains(&frame.code().unwrap()));
        assert!(is_right, "{name}: {told:?}");
    }
    inn.serves().await;
}

#[tokio::test]
async fn requests_beyond_the_number_of_streams_are_refused_unprocessed_and_those_within_are_answered() {
    const REFUSED_STREAM: u32 = 7;
    let inn = Inn::within(Limits { streams: 2, ..Limits::of_clients(Farewell::within(BUDGET)) }).await;
    let mut guest = inn.guest().await;
    guest.write(&[begin(&[]), frame(SETTINGS, 1, 0, &[]), get(1, "/slow"), get(3, "/slow"), get(5, "/slow")].concat()).await;
    let mut heard = Vec::new();
    let mut wait_for = async |guest: &mut Guest, wanted: &dyn Fn(&Frame) -> bool| {
        while !frames(&heard).iter().any(wanted) {
            assert_ne!(guest.0.read_buf(&mut heard).await.unwrap(), 0, "{:?}", frames(&heard));
        }
    };
    wait_for(&mut guest, &|frame| frame.stream == 5 && frame.code() == Some(REFUSED_STREAM)).await;
    inn.may_answer.add_permits(2);
    for stream in [1, 3] {
        wait_for(&mut guest, &|frame| frame.stream == stream && frame.payload == b"late").await;
    }
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused_on_both_versions() {
    let inn = Inn::within(Limits { header_bytes: 8 << 10, ..Limits::of_clients(Farewell::within(BUDGET)) }).await;
    let mut http1 = inn.guest().await;
    http1.write(format!("GET /ping HTTP/1.1\r\nhost: inn\r\nx: {}\r\n\r\n", "x".repeat(9 << 10)).as_bytes()).await;
    let answer = String::from_utf8(http1.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // Sixty names of 120 bytes with values of 120.
    let text = [b'x'; 120];
    let block: Vec<u8> = (0..60).flat_map(|_| [&[0x00, 120][..], &text, &[120], &text].concat()).collect();
    let mut guest = inn.guest().await;
    guest.write(&[begin(&[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &[head("GET", "/ping"), block].concat())].concat()).await;
    let mut heard = Vec::new();
    let refused = async {
        // 431, or a reset of the stream.
        while !frames(&heard).iter().any(|frame| frame.stream == 1 && (frame.kind == HEADERS || frame.code().is_some())) {
            assert_ne!(guest.0.read_buf(&mut heard).await.unwrap(), 0, "{:?}", frames(&heard));
        }
        assert!(!heard.ends_with(b"pong"));
    };
    timeout(PATIENCE, refused).await.expect("a verdict");
}
