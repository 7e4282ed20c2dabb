//! Rate limits from outside.

use tonic::{Code, Status};

use crate::bench::{Bench, until};

const TEXT: &str = r#"
[[limit]]
name = "by-address"
per = "address"
message_type = "orders.*"
rate = "1/h"
burst = 2
scope = "shared"
"#;

async fn refused(bench: &Bench, message_type: &str, request_id: &str) -> Status {
    bench.client().execute_command(bench.command(message_type, request_id, b"{}")).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_its_rate_a_client_is_told_when_to_come_again_and_other_edges_learn_of_it() {
    let bench = Bench::start(TEXT).await;
    for id in ["r-1", "r-2"] {
        let status = refused(&bench, "orders.create", id).await;
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unimplemented, "message_type is not routed"),
            "the rate comes before the route"
        );
    }
    let status = refused(&bench, "orders.list", "r-3").await;
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "rate limit exceeded"));
    let retry: u64 = status.metadata().get("retry-after-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert!((1..=3_600_100).contains(&retry), "{retry}");
    assert_eq!(refused(&bench, "echo", "r-4").await.code(), Code::Unimplemented, "another type is not counted");
    assert_eq!(bench.record_soon("r-3").await.status, "denied");
    assert_eq!(bench.metric("limit_decisions_total", &[("limit", "by-address"), ("outcome", "admitted")]), 2);
    assert_eq!(bench.metric("limit_decisions_total", &[("limit", "by-address"), ("outcome", "refused")]), 1);
    let told = async || (bench.redis.run(&["EXISTS", "gateway:limit:by-address:127.0.0.1"]) == ":1").then_some(());
    until("other edges can know of it", told).await;
}
