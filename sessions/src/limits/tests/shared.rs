//! Several edges on a real Redis. Rounds are made by hand, clocks stand still, and rates are so low that nothing comes back by itself while a test runs.

use gatehouse_chassis::config::Shared;
use gatehouse_testkit::RedisServer;

use super::*;

const PATIENCE: Duration = Duration::from_mins(1);

/// One edge.
struct Edge {
    limits: Limits,
    reconciler: Reconciler,
    metrics: Metrics,
}

impl Edge {
    async fn start(server: &RedisServer, text: &str) -> Self {
        let (limits, metrics) = limits(text);
        let redis = connect(server).await;
        let reconciler = Reconciler::new(Arc::clone(&limits.inner), redis, &metrics);
        Self { limits, reconciler, metrics }
    }

    fn admitted(&self, of: u32, id: &str) -> u32 {
        self.limits.admitted(of, of_session(id))
    }

    async fn round(&mut self) {
        self.reconciler.round().await.unwrap();
    }

    /// Rounds until one is answered: after a restart the first command finds the old connection broken.
    async fn heard(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.reconciler.round().await.is_err() {
            assert!(Instant::now() < deadline, "Redis does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn wait(&self, span: Duration) {
        self.limits.wait(span);
    }
}

async fn connect(server: &RedisServer) -> Redis {
    let addr = server.addr();
    let env = [("GATEWAY_REDIS_MASTER_ADDR", addr.as_str()), ("GATEWAY_REDIS_PASSWORD", server.password())];
    let shared = Shared::read(&mut Reader::new(Source::of("[redis]\ncommand_timeout = \"10s\"\n", &env))).unwrap();
    Redis::connect(&shared.redis).await.unwrap()
}

/// Ten sessions' worth, one an hour.
fn text(away: &str) -> String {
    format!("[[limit]]\nname = \"s\"\nper = \"session\"\nrate = \"1/h\"\nburst = 10\nscope = \"shared\"\nwhen_redis_is_away = \"{away}\"\n")
}

/// So many edges that know of each other.
async fn edges<const N: usize>(server: &RedisServer, text: &str) -> [Edge; N] {
    let mut edges = Vec::new();
    for _ in 0..N {
        edges.push(Edge::start(server, text).await);
    }
    meet(&mut edges, N).await;
    edges.try_into().ok().unwrap()
}

/// Rounds until each knows of so many: on a machine that stands still for seconds they forget each other.
async fn meet(edges: &mut [Edge], count: usize) {
    let deadline = Instant::now() + PATIENCE;
    // The first round asks for the time alone.
    let mut rounds = 0;
    while rounds < 2 || edges.iter().any(|edge| edge.limits.inner.link.edges() as usize != count) {
        assert!(Instant::now() < deadline, "edges do not know of each other");
        for edge in edges.iter_mut() {
            edge.round().await;
        }
        rounds += 1;
    }
}

#[tokio::test]
async fn what_one_edge_admitted_the_others_know_a_round_later() {
    let server = RedisServer::start();
    let [mut a, mut b] = edges(&server, &text("share")).await;
    assert_eq!(a.admitted(6, "x"), 6);
    a.round().await;
    assert_eq!(b.admitted(1, "x"), 1, "b has not asked for x yet");
    b.round().await;
    assert_eq!(b.admitted(10, "x"), 3, "ten in all");
    b.round().await;
    assert_eq!(a.admitted(10, "x"), 4, "what a knew, which is its part of the overshoot");
    a.round().await;
    assert_eq!((a.admitted(10, "x"), b.admitted(10, "x")), (0, 0));
    assert_eq!((a.admitted(10, "y"), b.admitted(1, "z")), (10, 1), "other keys are not touched");
}

#[tokio::test]
async fn all_that_is_admitted_beyond_the_rate_is_paid_back() {
    let server = RedisServer::start();
    let [mut a, mut b] = edges(&server, &text("share")).await;
    assert_eq!((a.admitted(20, "x"), b.admitted(20, "x")), (10, 10), "at the same moment");
    a.round().await;
    b.round().await;
    let wait = b.limits.take(&of_session("x")).unwrap_err();
    assert!(wait > Duration::from_hours(10), "ten too many, and one: {wait:?}");
    a.wait(Duration::from_hours(5));
    b.wait(Duration::from_hours(5));
    a.round().await;
    b.round().await;
    assert_eq!(b.admitted(10, "x"), 0);
}

#[tokio::test]
async fn who_is_alone_and_waits_as_told_is_admitted_however_many_rounds_go_by() {
    let server = RedisServer::start();
    let [mut edge] = edges(&server, &text("share").replace("1/h", "1000/s").replace("= 10", "= 1000")).await;
    // A second's worth; the edge's clock stands still while Redis's goes on.
    assert_eq!(edge.admitted(1000, "x"), 1000);
    let wait = edge.limits.take(&of_session("x")).unwrap_err();
    for _ in 0..5 {
        edge.round().await;
    }
    edge.wait(wait);
    assert_eq!(edge.limits.take(&of_session("x")), Ok(()));
}

#[tokio::test]
async fn away_with_its_share_each_edge_admits_its_part() {
    let mut server = RedisServer::start();
    let [mut a, mut b] = edges(&server, &text("share")).await;
    server.kill9();
    assert!(a.reconciler.round().await.is_err() && b.reconciler.round().await.is_err());
    assert_eq!((a.admitted(20, "x"), b.admitted(20, "x")), (5, 5), "ten in all");
    a.wait(Duration::from_hours(2));
    assert_eq!(a.admitted(20, "x"), 1, "half of the rate");
    server.restart();
    a.heard().await;
    b.heard().await;
    assert!(!a.limits.inner.link.is_away(a.limits.inner.now()));
    assert_eq!((a.admitted(20, "x"), b.admitted(20, "x")), (0, 0), "no burst when it is back");
    a.round().await;
    b.round().await;
    let mut c = Edge::start(&server, &text("share")).await;
    c.round().await;
    assert_eq!(c.admitted(1, "x"), 1);
    c.round().await;
    assert_eq!(c.admitted(20, "x"), 0, "who was not there learns of it");
}

#[tokio::test]
async fn away_and_open_everything_is_admitted_and_what_was_too_much_is_forgiven() {
    let mut server = RedisServer::start();
    let [mut a] = edges(&server, &text("open")).await;
    server.kill9();
    assert!(a.reconciler.round().await.is_err());
    assert_eq!(a.admitted(500, "x"), 500);
    server.restart();
    a.heard().await;
    let wait = a.limits.take(&of_session("x")).unwrap_err();
    assert!(wait <= Duration::from_hours(1) + Duration::from_secs(1), "an empty bucket, and no debt: {wait:?}");
    a.round().await;
    let wait = a.limits.take(&of_session("x")).unwrap_err();
    assert!(wait <= Duration::from_hours(1) + Duration::from_mins(1), "{wait:?}");
}

#[tokio::test]
async fn away_and_closed_nothing_is_admitted_until_it_is_back() {
    let mut server = RedisServer::start();
    let [mut a] = edges(&server, &text("closed")).await;
    assert_eq!(a.admitted(3, "x"), 3);
    server.kill9();
    assert!(a.reconciler.round().await.is_err());
    assert_eq!(a.limits.take(&of_session("x")), Err(CLOSED));
    assert_eq!(a.admitted(5, "y"), 0);
    server.restart();
    a.heard().await;
    assert_eq!((a.admitted(20, "x"), a.admitted(20, "y")), (7, 10));
}

#[tokio::test]
async fn a_silence_counts_as_absence_even_if_no_round_has_failed() {
    let server = RedisServer::start();
    let [mut a] = edges(&server, &text("closed")).await;
    a.wait(Duration::from_millis(1001));
    assert_eq!(a.limits.take(&of_session("x")), Err(CLOSED));
    a.reconciler.round_and_say().await;
    assert_eq!(a.limits.take(&of_session("x")), Ok(()));
    assert!(sample(&a.metrics, "limit_reconciliation_age_seconds", &[]) < 0.1);
}

#[tokio::test]
async fn edges_are_counted_while_they_live() {
    let server = RedisServer::start();
    let mut edges: [Edge; 2] = edges(&server, &text("share")).await;
    // One that died said its last word four seconds ago; one has a word from a clock that has since been set back.
    let time = server.run(&["TIME"]);
    let now: i64 = time.lines().next().unwrap().parse().unwrap();
    for (edge, at) in [("dead", now - 4), ("ahead", now + 3600)] {
        server.run(&["ZADD", "gateway:limit-edges", &format!("{at}000000"), edge]);
    }
    edges[0].round().await;
    for edge in ["dead", "ahead"] {
        assert_eq!(server.run(&["ZSCORE", "gateway:limit-edges", edge]), "$-1", "{edge}");
    }
    meet(&mut edges, 2).await;
    let [a, mut b] = edges;
    b.reconciler.leaves = true;
    b.round().await;
    assert_eq!(server.run(&["ZSCORE", "gateway:limit-edges", &b.reconciler.edge]), "$-1");
    let mut alone = [a];
    meet(&mut alone, 1).await;
    alone[0].reconciler.round_and_say().await;
    assert!((sample(&alone[0].metrics, "limit_edges", &[]) - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn a_wiped_redis_is_told_what_this_edge_knows() {
    let server = RedisServer::start();
    let [mut a, mut b] = edges(&server, &text("share")).await;
    assert_eq!(a.admitted(9, "x"), 9);
    a.round().await;
    server.run(&["FLUSHALL"]);
    assert_eq!(a.admitted(9, "x"), 1);
    a.round().await;
    assert_eq!(b.admitted(1, "x"), 1);
    b.round().await;
    assert_eq!(b.admitted(9, "x"), 0);
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_close_a_limit_for_long() {
    let server = RedisServer::start();
    let [mut a] = edges(&server, &text("share")).await;
    let far = 32_503_680_000_000_000_i64.to_string();
    server.run(&["SET", "gateway:limit:s:x", &far]);
    assert_eq!(a.admitted(1, "x"), 1);
    a.round().await;
    let wait = a.limits.take(&of_session("x")).unwrap_err();
    assert!(wait <= Duration::from_hours(2), "what one edge could have used, and not a thousand years: {wait:?}");
}

#[tokio::test]
async fn many_keys_take_turns_and_each_comes_to_its_own() {
    let server = RedisServer::start();
    let [mut a] = edges(&server, &text("share")).await;
    for i in 0..2500 {
        assert_eq!(a.admitted(2, &i.to_string()), 2);
    }
    for _ in 0..3 {
        // One that is always busy waits its turn like the others.
        a.admitted(1, "0");
        a.round().await;
    }
    let known = |i: u32| server.run(&["EXISTS", &format!("gateway:limit:s:{i}")]) == ":1";
    assert!([0, 999, 1000, 2000, 2499].into_iter().all(known));
    assert_eq!(server.run(&["KEYS", "gateway:limit:s:*"]).lines().count(), 2500);
}

#[tokio::test]
async fn keys_beyond_the_cap_are_shared_as_one() {
    let server = RedisServer::start();
    let text = format!("[limits]\nmax_keys = 1\n{}", text("share"));
    let [mut a, mut b] = edges(&server, &text).await;
    for edge in [&a, &b] {
        assert_eq!(edge.admitted(1, "own"), 1);
    }
    assert_eq!(a.admitted(10, "x"), 10);
    a.round().await;
    assert_eq!(b.admitted(1, "y"), 1);
    b.round().await;
    assert_eq!(b.admitted(5, "z"), 0);
}

#[tokio::test]
async fn a_round_that_is_dropped_tells_the_next_one() {
    let server = RedisServer::start();
    let [mut a] = edges(&server, &text("share")).await;
    assert_eq!(a.admitted(4, "x"), 4);
    {
        let mut round = Box::pin(a.reconciler.round());
        // Polled once, so that it is under way, and dropped.
        let _pending = futures_util::FutureExt::now_or_never(&mut round);
    }
    a.round().await;
    assert_eq!(server.run(&["EXISTS", "gateway:limit:s:x"]), ":1");
}
