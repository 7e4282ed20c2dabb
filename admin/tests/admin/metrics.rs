//! One scrape sees whoever answers.

use axum::{body::Body, http::Request};
use gatehouse_chassis::metrics::Metrics;
use gatehouse_proto::internal::v1::{
    MetricsRequest, MetricsResponse,
    process_server::{Process, ProcessServer},
};
use tonic::{Response, Status, service::Routes};

use crate::house::{Admin, House, text};

struct Other(Option<Metrics>);

#[tonic::async_trait]
impl Process for Other {
    async fn metrics(&self, _: tonic::Request<MetricsRequest>) -> Result<Response<MetricsResponse>, Status> {
        match &self.0 {
            Some(metrics) => Ok(Response::new(MetricsResponse { text: metrics.text() })),
            None => std::future::pending().await,
        }
    }
}

fn routes(process: Option<Metrics>) -> axum::Router {
    Routes::new(ProcessServer::new(Other(process))).into_axum_router()
}

async fn scrape(admin: &Admin) -> String {
    let answer = admin.send(Request::builder().uri("/metrics").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    text(answer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_is_in_the_scrape_and_who_hangs_or_is_away_is_left_out_and_counted() {
    let house = House::new();
    for (component, instance) in [("edge", 0), ("pusher", 0), ("supervisor", 0)] {
        house.serve(component, instance, routes(Some(Metrics::new(component, instance))));
    }
    house.serve("auditor", 0, routes(None));
    let admin = house.admin().await;
    scrape(&admin).await;
    let text = scrape(&admin).await;
    for (component, instance) in [("edge", 0), ("pusher", 0), ("supervisor", 0), ("admin", 0)] {
        let labels = [format!("component=\"{component}\""), format!("instance=\"{instance}\"")];
        let is_its = |line: &&str| line.starts_with("process_open_fds{") && labels.iter().all(|label| line.contains(label));
        assert_eq!(text.lines().filter(is_its).count(), 1, "{component} in {text}");
    }
    assert_eq!(text.matches("# TYPE process_open_fds gauge").count(), 1);
    for target in ["auditor-0", "pusher-1"] {
        assert!(text.contains(&format!("scrape_failures_total{{target=\"{target}\",component=\"admin\",instance=\"0\"}} 2")), "{text}");
    }
    assert!(
        text.contains("http_requests_total{method=\"GET\",route=\"/metrics\",status=\"200\",component=\"admin\",instance=\"0\"} 1"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_come_from_templates_and_never_from_paths() {
    let house = House::new();
    let admin = house.admin().await;
    for path in ["/api/v1/sessions/secret-1", "/api/v1/sessions/secret-2/revoke", "/secret-3"] {
        admin.call("GET", path, "").await;
    }
    let odd = Request::builder().method("SECRET").uri("/healthz").body(Body::empty()).unwrap();
    admin.send(odd).await;
    let text = scrape(&admin).await;
    assert!(!text.to_lowercase().contains("secret"), "{text}");
    assert!(text.contains("method=\"GET\",route=\"/api/v1/sessions/{id}\",status=\"404\""), "{text}");
    assert!(text.contains("method=\"GET\",route=\"none\",status=\"404\""), "{text}");
    assert!(text.contains("method=\"other\",route=\"/healthz\",status=\"405\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn active_sessions_are_counted_and_nothing_else() {
    let house = House::new();
    let admin = house.admin().await;
    for (id, status) in [("a", "active"), ("b", "active"), ("c", "revoked")] {
        let json = format!(
            "{{\"device_session_id\":\"{id}\",\"user_id\":\"u\",\"public_key\":\"k\",\"status\":\"{status}\",\"updated_at_ms\":1}}"
        );
        house.redis.run(&["SET", &format!("gateway:session:{id}"), &json]);
    }
    house.redis.run(&["SET", "gateway:session:malformed", "{"]);
    house.redis.run(&["SET", "gateway:sessions", "other"]);
    assert_eq!(gatehouse_admin::census::count(&admin.redis).await.unwrap(), 2);
}
