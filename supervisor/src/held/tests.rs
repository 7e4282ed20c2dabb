//! Over real sockets.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
};

use gatehouse_chassis::{
    config::{Config as _, Reader, Source},
    connections,
};
use gatehouse_proto::internal::v1::{MetricsRequest, process_client::ProcessClient};
use tokio::task::spawn_blocking;
use tonic::{Code, transport::Endpoint};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const NEVER: Duration = Duration::from_hours(1);

struct Bench {
    held: Held,
    metrics: Metrics,
    listener: TcpListener,
    address: SocketAddr,
}

impl Bench {
    fn new(name: &'static str, after: Duration) -> Self {
        Self::behind(Gate::default(), name, after)
    }

    fn behind(gate: Gate, name: &'static str, after: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = Metrics::new("supervisor", 0);
        let sockets = vec![(name, listener.try_clone().unwrap().into())];
        let held = Held::new(Some(after), gate, &metrics, &ConnectionMetrics::new(&metrics), sockets);
        Self { held, metrics, address: listener.local_addr().unwrap(), listener }
    }

    /// All that comes for a request, which may fail to be sent whole.
    async fn answer(&self, request: impl Into<Vec<u8>>) -> String {
        let (address, request) = (self.address, request.into());
        let exchange = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            for part in request.chunks(16 << 10) {
                stream.write_all(part).unwrap();
                // Clients are slower than this machine is to itself.
                thread::park_timeout(Duration::from_millis(1));
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        spawn_blocking(exchange).await.unwrap()
    }

    fn answered(&self, name: &str) -> u64 {
        self.held.answers.with_label_values(&[name]).get()
    }
}

#[tokio::test]
async fn http_is_told_in_the_shape_of_every_error_when_to_come_back() {
    let mut bench = Bench::new("http", Duration::from_millis(50));
    let begun = Instant::now();
    bench.held.set("http", false, begun);
    let answer = bench.answer("GET /healthz HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\n\r\n").await;
    assert!(begun.elapsed() >= Duration::from_millis(50), "it is given time first");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    for header in ["connection: close", "content-type: application/json", "x-request-id: mine"] {
        assert!(head.lines().any(|line| line == header), "{header} in {head}");
    }
    let wait: u64 = head.lines().find_map(|line| line.strip_prefix("retry-after: ")?.parse().ok()).unwrap();
    assert!((1..=3).contains(&wait));
    assert_eq!(body, r#"{"error":{"code":"service_unavailable","message":"gateway is temporarily unavailable","request_id":"mine"}}"#);
    // A client that is still sending is read out, or it would see a reset in place of the answer.
    let large = [b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 800000\r\n\r\n".as_slice(), &vec![b'x'; 800_000]].concat();
    assert!(bench.answer(large).await.starts_with("HTTP/1.1 503 "));
    assert_eq!(bench.answered("http"), 2);
    let sample = "held_answers_total{listener=\"http\",component=\"supervisor\",instance=\"0\"} 2";
    assert!(bench.metrics.text().contains(sample), "{}", bench.metrics.text());
}

#[tokio::test]
async fn grpc_is_told_unavailable_with_the_wait() {
    let mut bench = Bench::new("grpc", NEVER);
    bench.held.answer_now("grpc");
    bench.held.answer_now("grpc");
    let channel = Endpoint::from_shared(format!("http://{}", bench.address)).unwrap().connect().await.unwrap();
    let status = ProcessClient::new(channel.clone()).metrics(MetricsRequest {}).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "gateway is temporarily unavailable"));
    for name in ["gateway-retry-after-ms", "grpc-retry-pushback-ms"] {
        let wait: u64 = status.metadata().get(name).unwrap().to_str().unwrap().parse().unwrap();
        assert!((1000..=3000).contains(&wait), "{name} {wait}");
    }
    assert_eq!(bench.answered("grpc"), 1);
    // Its connection is not kept, or it would be told the same when somebody serves again.
    let begun = Instant::now();
    while !bench.metrics.text().contains("connections_open{listener=\"grpc\",component=\"supervisor\",instance=\"0\"} 0") {
        assert!(begun.elapsed() < PATIENCE, "{}", bench.metrics.text());
        tokio::task::yield_now().await;
    }
    drop(channel);
}

#[tokio::test]
async fn who_comes_when_somebody_accepts_again_is_left_to_them() {
    let mut bench = Bench::new("http", NEVER);
    bench.held.answer_now("http");
    assert!(bench.answer(REQUEST).await.contains("service_unavailable"));
    bench.held.set("http", true, Instant::now());
    let serving = bench.listener.try_clone().unwrap();
    serving.set_nonblocking(false).unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        loop {
            let (mut stream, _) = serving.accept().unwrap();
            let _read = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nmine").unwrap();
        }
    });
    // Nobody is left without an answer, and after at most one that was accepted just then all are theirs.
    let mut others = 0;
    for _ in 0..50 {
        let answer = bench.answer(REQUEST).await;
        others += usize::from(!answer.ends_with("mine"));
    }
    assert!(others <= 1, "{others}");
}

#[tokio::test]
async fn a_vacancy_that_ends_in_time_and_one_that_is_never_to_be_answered_are_not() {
    let mut bench = Bench::new("http", NEVER);
    let long_ago = Instant::now().checked_sub(Duration::from_mins(1)).unwrap();
    for now in [long_ago, Instant::now()] {
        bench.held.set("http", false, now);
        bench.held.set("http", true, now);
    }
    bench.held.after = None;
    bench.held.set("http", false, long_ago);
    bench.held.answer_now("http");
    let _waiting = TcpStream::connect(bench.address).unwrap();
    tokio::task::yield_now().await;
    assert!(bench.held.sockets[0].vacancy.is_none());
    bench.listener.accept().unwrap();
}

#[tokio::test]
async fn a_flood_of_silent_clients_holds_up_nobody_for_long() {
    let mut bench = Bench::new("http", NEVER);
    bench.held.answer_now("http");
    let address = bench.address;
    let silent = spawn_blocking(move || (0..300).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()).await.unwrap();
    let begun = Instant::now();
    assert!(bench.answer("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(silent);
}

#[tokio::test]
async fn who_comes_by_a_load_balancer_is_understood_and_operators_come_without() {
    let mut reader = Reader::new(Source::of("[connections]\nproxy_protocol_from = ['127.0.0.1']\n", &[]));
    let config = connections::Config::read(&mut reader).unwrap();
    let gate = || Gate::open(&config, &ConnectionMetrics::new(&Metrics::new("supervisor", 0))).unwrap();
    let mut bench = Bench::behind(gate(), "http", NEVER);
    bench.held.answer_now("http");
    let answer = bench.answer(format!("PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n{REQUEST}")).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let mut bench = Bench::behind(gate(), "admin", NEVER);
    bench.held.answer_now("admin");
    let answer = bench.answer(REQUEST).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}
