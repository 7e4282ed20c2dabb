//! Who says nothing, or not enough of it; who is idle; who does not read.

use super::{
    wire::{CONTINUATION, END_STREAM, GOAWAY, HEADERS, begin, frame, get, head},
    *,
};

const BRIEF: Duration = Duration::from_millis(300);

fn limits() -> Limits {
    Limits { head: LONG, idle: Some(LONG), stall: Some(LONG), ..Limits::of_clients(Farewell::within(BUDGET)) }
}

#[tokio::test]
async fn a_connection_without_a_whole_head_is_closed_however_it_begins() {
    let inn = Inn::within(Limits { head: BRIEF, ..limits() }).await;
    let half = head("GET", "/ping");
    let beginnings = [
        ("nothing", Vec::new()),
        ("half a preface", b"PRI * HTTP/2.0\r\n".to_vec()),
        ("a preface alone", begin(&[])),
        ("headers without their end", [begin(&[]), frame(HEADERS, END_STREAM, 1, &half[..4])].concat()),
        ("half a frame of headers", [begin(&[]), get(1, "/ping")[..12].to_vec()].concat()),
        ("half a continuation", [begin(&[]), frame(HEADERS, END_STREAM, 1, &half[..4]), frame(CONTINUATION, 0, 1, &half[4..6])].concat()),
        ("half a head", b"GET /ping HTTP/1.1\r\nhost: i".to_vec()),
    ];
    for (i, (name, bytes)) in beginnings.iter().enumerate() {
        let begun = Instant::now();
        let mut guest = inn.guest().await;
        guest.write(bytes).await;
        guest.rest().await;
        assert!(begun.elapsed() >= BRIEF, "{name}: closed before it was due");
        inn.refuses("head", u64::try_from(i).unwrap() + 1).await;
    }
}

#[tokio::test]
async fn bytes_that_drip_do_not_put_the_deadline_off() {
    let inn = Inn::within(Limits { head: BRIEF, ..limits() }).await;
    let (mut reader, mut writer) = inn.guest().await.0.into_split();
    let dripping = async {
        writer.write_all(b"GET /ping HTTP/1.1\r\nx: ").await.unwrap();
        // Until it is closed.
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let reading = async {
        let _ended = reader.read_to_end(&mut Vec::new()).await;
    };
    timeout(PATIENCE, async { tokio::join!(dripping, reading) }).await.expect("an end");
    inn.refuses("head", 1).await;
}

#[tokio::test]
async fn a_client_that_is_slow_and_complete_is_served() {
    let inn = Inn::within(limits()).await;
    let http1 = b"GET /ping HTTP/1.1\r\nhost: inn\r\n\r\n".to_vec();
    let http2 = [begin(&[]), get(1, "/ping")].concat();
    for bytes in [http1, http2] {
        let mut guest = inn.guest().await;
        for byte in bytes {
            guest.write(&[byte]).await;
            sleep(Duration::from_millis(5)).await;
        }
        let mut heard = Vec::new();
        while !heard.ends_with(b"pong") {
            assert_ne!(guest.0.read_buf(&mut heard).await.unwrap(), 0, "{}", String::from_utf8_lossy(&heard));
        }
    }
    assert_eq!(inn.refused("head"), 0);
}

/// Asks twice, the second time when more time has passed than a head may take, and then begins a third head. An error when one of the two was not answered.
async fn ask_late(inn: &Inn, head: Duration) -> std::io::Result<()> {
    let mut guest = inn.guest().await;
    for wait in [Duration::ZERO, head * 3 / 2] {
        sleep(wait).await;
        guest.0.write_all(b"GET /ping HTTP/1.1\r\nhost: inn\r\n\r\n").await?;
        let mut heard = Vec::new();
        while !heard.ends_with(b"pong") {
            if guest.0.read_buf(&mut heard).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    let before = inn.refused("head");
    guest.0.write_all(b"GET /ping HTTP/1.1\r\n").await?;
    guest.rest().await;
    inn.refuses("head", before + 1).await;
    Ok(())
}

#[tokio::test]
async fn on_http1_each_head_has_its_time_from_its_first_byte_on() {
    // A machine that stands still for longer than a head may take is given longer.
    for seconds in [1, 2, 4, 8, 16] {
        let head = Duration::from_secs(seconds);
        if ask_late(&Inn::within(Limits { head, ..limits() }).await, head).await.is_ok() {
            return;
        }
    }
    panic!("the second head is never in time");
}

#[tokio::test]
async fn an_idle_connection_is_asked_to_leave_in_good_order() {
    let inn = Inn::within(Limits { idle: Some(BRIEF), ..limits() }).await;
    let mut guest = inn.guest().await;
    guest.ask("/ping").await;
    guest.answer("pong").await;
    timeout(PATIENCE, guest.end()).await.expect("an end");
    let mut guest = inn.guest().await;
    guest.write(&[begin(&[]), get(1, "/ping")].concat()).await;
    let heard = wire::frames(&guest.rest().await);
    assert!(heard.iter().any(|frame| frame.kind == GOAWAY && frame.code() == Some(0)), "{heard:?}");
    inn.refuses("idle", 2).await;
}

#[tokio::test]
async fn an_open_request_is_no_idleness() {
    let inn = Inn::within(Limits { idle: Some(BRIEF), stall: Some(BRIEF), ..limits() }).await;
    let (mut http1, mut http2) = (inn.guest().await, inn.guest().await);
    http1.ask("/slow").await;
    http2.write(&[begin(&[]), get(1, "/slow")].concat()).await;
    sleep(4 * BRIEF).await;
    inn.may_answer.add_permits(2);
    http1.answer("late").await;
    let mut heard = Vec::new();
    while !heard.windows(4).any(|part| part == b"late") {
        assert_ne!(http2.0.read_buf(&mut heard).await.unwrap(), 0);
    }
    assert_eq!(inn.refused("stalled"), 0);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let inn = Inn::within(Limits { stall: Some(BRIEF), ..limits() }).await;
    let mut http1 = inn.guest().await;
    http1.ask("/large").await;
    inn.refuses("stalled", 1).await;
    http1.rest().await;
    // On HTTP/2 by its window, with a socket that takes everything: 0 bytes of each answer.
    let mut http2 = inn.guest().await;
    http2.write(&[begin(&[0, 4, 0, 0, 0, 0]), get(1, "/ping"), get(3, "/large")].concat()).await;
    http2.rest().await;
    inn.refuses("stalled", 2).await;
    inn.serves().await;
}
