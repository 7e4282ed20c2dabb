//! One scrape for the whole suite: asks every process for its metrics at once, each within a second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use gatehouse_chassis::{
    Process,
    ipc::{self, Channel},
    metrics::Metrics,
};
use gatehouse_proto::internal::v1::{MetricsRequest, process_client::ProcessClient};
use prometheus::IntCounterVec;
use tokio::time::timeout;

use crate::exposition;

/// How long a process may take. Who is slower is left out; `component_up` comes from the supervisor.
const BOUND: Duration = Duration::from_secs(1);

/// Clones share the connections.
#[derive(Clone, Debug)]
pub struct Scraper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    own: Metrics,
    targets: Vec<Target>,
    failures: IntCounterVec,
}

#[derive(Debug)]
struct Target {
    name: String,
    client: ProcessClient<Channel>,
    silent: AtomicBool,
}

impl Scraper {
    /// Every process of the suite, as configured.
    #[must_use]
    pub fn new(process: &Process) -> Self {
        let shared = process.shared();
        let processes = ["supervisor", "edge", "pusher", "auditor"].into_iter();
        let processes = processes.flat_map(|component| (0..shared.instances(component)).map(move |instance| (component, instance)));
        let target = |(component, instance)| Target {
            name: format!("{component}-{instance}"),
            client: ProcessClient::new(ipc::channel(shared.local_socket(component, instance))),
            silent: AtomicBool::new(false),
        };
        let failures =
            process.metrics().counters("scrape_failures_total", "Processes that did not answer when asked for their metrics.", &["target"]);
        Self { inner: Arc::new(Inner { own: process.metrics().clone(), targets: processes.map(target).collect(), failures }) }
    }

    /// The metrics of all that answer, in the Prometheus text format.
    pub async fn scrape(&self) -> String {
        let asked = self.inner.targets.iter().map(|target| self.ask(target));
        let mut texts: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        texts.push(self.inner.own.text());
        exposition::join(&texts)
    }

    async fn ask(&self, target: &Target) -> Option<String> {
        let mut client = target.client.clone();
        let answer = timeout(BOUND, client.metrics(MetricsRequest {})).await;
        let problem = match answer {
            Ok(Ok(answer)) => {
                target.silent.store(false, Ordering::Relaxed);
                return Some(answer.into_inner().text);
            }
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => format!("no answer within {BOUND:?}"),
        };
        self.inner.failures.with_label_values(&[&target.name]).inc();
        if !target.silent.swap(true, Ordering::Relaxed) {
            tracing::warn!(target.name, problem, "left out of the scrape");
        }
        None
    }
}
