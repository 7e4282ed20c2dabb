//! The listener as clients see it, from raw bytes.

mod heads;
mod hostile;
mod places;
mod secured;
mod wire;

use std::net::SocketAddr;

use axum::{
    Extension,
    body::{Body, Bytes},
    routing::{get, post},
};
use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::*;
use crate::metrics::Metrics;

const SHORT: Duration = Duration::from_millis(20);
const BUDGET: Duration = Duration::from_secs(5);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// A limit that no test reaches.
const LONG: Duration = Duration::from_mins(10);

/// A listener that answers `pong` to `/ping`, and to `/slow` once it may.
struct Inn {
    address: SocketAddr,
    shutdown: Shutdown,
    may_answer: Arc<Semaphore>,
    counts: ConnectionMetrics,
}

/// Without end.
fn large() -> Body {
    let chunk = Bytes::from(vec![b'x'; 64 << 10]);
    Body::from_stream(futures_util::stream::repeat_with(move || Ok::<_, std::convert::Infallible>(chunk.clone())))
}

/// Who asks, as the service sees them.
async fn who(Extension(Peer(peer)): Extension<Peer>, secured: Option<Extension<Secured>>) -> String {
    let client = secured.map(|Extension(secured)| secured.client.map_or_else(|| "nobody".to_owned(), |client| client.to_string()));
    format!("{} {}", peer.unwrap().ip(), client.unwrap_or_else(|| "plain".to_owned()))
}

impl Inn {
    async fn open() -> Self {
        Self::within(Limits::of_clients(Farewell::within(BUDGET))).await
    }

    async fn within(limits: Limits) -> Self {
        Self::on(limits, |_| Gate::default()).await
    }

    async fn on(limits: Limits, gate: impl FnOnce(&ConnectionMetrics) -> Gate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::default());
        let may_answer = Arc::new(Semaphore::new(0));
        let bell = Arc::clone(&may_answer);
        let slow = async move || {
            bell.acquire().await.unwrap().forget();
            "late"
        };
        let router = Router::new()
            .route("/ping", get(async || "pong"))
            .route("/slow", get(slow))
            .route("/large", get(async || large()))
            .route("/who", get(who))
            .route("/unread", post(async || "no"))
            .route("/read", post(async |body: Bytes| body.len().to_string()));
        let counts = ConnectionMetrics::new(&Metrics::new("test", 0));
        let terms = Terms { limits, gate: gate(&counts) };
        shutdown
            .spawn("inn", serve_within(terms, "inn", Listener::Tcp(listener), router, counts.clone(), shutdown.clone(), Pulse::default()));
        Self { address, shutdown, may_answer, counts }
    }

    fn refused(&self, reason: &str) -> u64 {
        self.counts.refused.with_label_values(&["inn", reason]).get()
    }

    /// Waits until so many were refused for that reason.
    async fn refuses(&self, reason: &str, count: u64) {
        let counted = async {
            while self.refused(reason) < count {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{reason}: {} of {count}", self.refused(reason)));
    }

    /// Whoever comes next is served.
    async fn serves(&self) {
        let mut guest = self.guest().await;
        guest.ask("/ping").await;
        guest.answer("pong").await;
    }

    async fn guest(&self) -> Guest {
        Guest(TcpStream::connect(self.address).await.unwrap())
    }

    /// How long the drain takes from now on.
    async fn ended(&self) -> Duration {
        let begun = Instant::now();
        timeout(PATIENCE, self.shutdown.finished()).await.expect("the drain ends");
        begun.elapsed()
    }
}

/// A client that reads and writes bytes.
struct Guest(TcpStream);

impl Guest {
    async fn ask(&mut self, path: &str) {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: inn\r\n\r\n").as_bytes()).await.unwrap();
    }

    /// An answer whose body is that text.
    async fn answer(&mut self, body: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(format!("\r\n\r\n{body}").as_bytes()) {
            let mut byte = [0];
            let length = self.0.read(&mut byte).await.unwrap();
            assert!(length == 1, "closed after {:?}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
        String::from_utf8(read).unwrap()
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Everything until the connection ends, in whichever way.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ended = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("an end");
        rest
    }

    async fn end(&mut self) {
        assert_eq!(self.0.read(&mut [0]).await.expect("an end, not a reset"), 0);
    }
}

#[tokio::test]
async fn an_inn_without_guests_closes_at_once() {
    let inn = Inn::within(Limits::of_clients(Farewell::within(BUDGET).patient(LONG, LONG))).await;
    inn.shutdown.drain();
    // Whatever it waited for would take longer than a test may.
    inn.ended().await;
}

#[tokio::test]
async fn a_request_on_an_idle_connection_is_answered_after_the_drain_began_and_told_that_it_was_the_last() {
    let inn = Inn::within(Limits::of_clients(Farewell::within(BUDGET).patient(LONG, LONG))).await;
    let mut guests = [inn.guest().await, inn.guest().await, inn.guest().await];
    for guest in &mut guests[..2] {
        guest.ask("/ping").await;
        assert!(!guest.answer("pong").await.contains("close"));
    }
    inn.shutdown.drain();
    // One asks as the drain begins, one later, one never asked anything before.
    sleep(Duration::from_millis(50)).await;
    for guest in &mut guests {
        guest.ask("/ping").await;
        assert!(guest.answer("pong").await.contains("connection: close"));
        guest.end().await;
        sleep(Duration::from_millis(150)).await;
    }
    drop(guests);
    // Nothing is waited for when nobody is left: that would take longer than a test may.
    inn.ended().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_grace_and_a_request_that_crosses_is_not_answered_by_a_reset() {
    let grace = Duration::from_secs(1);
    let inn = Inn::within(Limits::of_clients(Farewell::within(BUDGET).patient(grace, LONG))).await;
    let mut guest = inn.guest().await;
    guest.ask("/ping").await;
    guest.answer("pong").await;
    let begun = Instant::now();
    inn.shutdown.drain();
    timeout(PATIENCE, guest.end()).await.expect("an end");
    assert!(begun.elapsed() >= grace, "{:?}", begun.elapsed());
    guest.ask("/ping").await;
    guest.end().await;
    guest.end().await;
    drop(guest);
    inn.ended().await;
}

#[tokio::test]
async fn a_request_under_way_is_finished_whatever_the_grace() {
    let inn = Inn::open().await;
    let mut guest = inn.guest().await;
    guest.ask("/slow").await;
    sleep(SHORT).await;
    inn.shutdown.drain();
    sleep(Duration::from_millis(1500)).await;
    inn.may_answer.add_permits(1);
    assert!(guest.answer("late").await.contains("connection: close"));
    guest.end().await;
    drop(guest);
    inn.ended().await;
}

#[tokio::test]
async fn an_answer_to_a_body_that_nobody_read_is_not_lost_to_a_reset() {
    let inn = Inn::open().await;
    let mut guest = inn.guest().await;
    let body = vec![b'x'; 4 << 20];
    guest.0.write_all(format!("POST /unread HTTP/1.1\r\nhost: inn\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).await.unwrap();
    let (mut reader, mut writer) = guest.0.into_split();
    let mut answer = Vec::new();
    let (written, read) = tokio::join!(writer.write_all(&body), reader.read_to_end(&mut answer));
    read.expect("an end, not a reset");
    written.expect("what is sent is taken");
    assert!(answer.ends_with(b"no"), "{}", String::from_utf8_lossy(&answer));
    inn.shutdown.drain();
    drop(writer);
    inn.ended().await;
}

/// The frames of an HTTP/2 connection, as pairs of type and flags.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        frames.push((*kind, *flags));
        bytes = rest.get(length..).unwrap_or_default();
    }
    frames
}

/// A client that heard of it later might have begun its next request, and its library give that up.
#[tokio::test]
async fn an_http2_client_hears_that_it_is_to_leave_no_later_than_its_last_answer() {
    const DATA: u8 = 0;
    const GOAWAY: u8 = 7;
    const END_STREAM: u8 = 1;
    let inn = Inn::open().await;
    let (near, far) = tokio::io::duplex(1 << 16);
    let (mut from_inn, mut to_inn) = TcpStream::connect(inn.address).await.unwrap().into_split();
    let (mut from_client, mut to_client) = tokio::io::split(far);
    let recording = async {
        let mut heard = Vec::new();
        loop {
            let begin = heard.len();
            if from_inn.read_buf(&mut heard).await.unwrap() == 0 {
                return heard;
            }
            // The client may have left.
            let _gone = to_client.write_all(&heard[begin..]).await;
        }
    };
    let sending = async {
        tokio::io::copy(&mut from_client, &mut to_inn).await.unwrap();
        to_inn.shutdown().await.unwrap();
    };
    let client = async {
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        let asking = async {
            let request = || Request::get("http://inn/slow").body(()).unwrap();
            let (answer, _) = sender.send_request(request(), true).unwrap();
            sleep(SHORT).await;
            inn.shutdown.drain();
            sleep(SHORT).await;
            inn.may_answer.add_permits(1);
            let mut body = answer.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "late");
            drop((body, sender));
        };
        let (ended, ()) = tokio::join!(connection, asking);
        ended.unwrap();
    };
    let (heard, (), ()) = tokio::join!(recording, sending, client);
    let frames = frames(&heard);
    let place = |kind, flag| frames.iter().position(|frame| frame.0 == kind && frame.1 & flag == flag).expect("it came");
    assert!(place(GOAWAY, 0) < place(DATA, END_STREAM), "{frames:?}");
    inn.ended().await;
}

/// As h2 does whose application begins a request when the GOAWAY comes.
#[tokio::test]
async fn a_request_that_an_http2_client_writes_behind_its_acknowledgement_is_answered() {
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const HEADERS: u8 = 1;
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // RFC 7541: three names and values of the static table, and two names with a value of our own.
    let request = |stream| frame(HEADERS, 5, stream, &[&[0x82, 0x86, 0x04, 5][..], b"/ping", &[0x01, 3], b"inn"].concat());
    let mut farewell = Farewell::within(BUDGET);
    farewell.settling = BUDGET;
    let inn = Inn::within(Limits::of_clients(farewell)).await;
    let mut client = TcpStream::connect(inn.address).await.unwrap();
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..], &request(1)].concat();
    client.write_all(&begin).await.unwrap();
    let mut heard = Vec::new();
    let mut drained = false;
    let acknowledged = loop {
        assert_ne!(client.read_buf(&mut heard).await.unwrap(), 0);
        let frames = frames(&heard);
        if !drained && frames.iter().any(|(kind, _)| *kind == HEADERS) {
            inn.shutdown.drain();
            drained = true;
        }
        if frames.iter().any(|(kind, flags)| (*kind, *flags) == (PING, 0)) {
            break frames.len();
        }
    };
    assert!(frames(&heard).iter().any(|(kind, _)| *kind == GOAWAY));
    let payload = heard[heard.len() - 8..].to_vec();
    client.write_all(&frame(PING, 1, 0, &payload)).await.unwrap();
    sleep(SHORT).await;
    client.write_all(&request(3)).await.unwrap();
    client.read_to_end(&mut heard).await.unwrap();
    let later = &frames(&heard)[acknowledged..];
    assert!(later.iter().any(|(kind, _)| *kind == HEADERS) && later.iter().any(|(kind, _)| *kind == GOAWAY), "{later:?}");
    drop(client);
    inn.ended().await;
}
