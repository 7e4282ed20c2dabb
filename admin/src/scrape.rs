//! One scrape for the whole suite: asks every process for its metrics at once, each within a second.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use gatehouse_chassis::{
    Process,
    config::Shared,
    ipc::{self, Channel},
    members::{Member, Members},
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
    shared: Arc<Shared>,
    members: Members,
    targets: Mutex<BTreeMap<Member, Arc<Target>>>,
    failures: IntCounterVec,
}

#[derive(Debug)]
struct Target {
    name: String,
    client: ProcessClient<Channel>,
    silent: AtomicBool,
}

impl Scraper {
    /// Every process of the suite.
    #[must_use]
    pub fn new(process: &Process, members: Members) -> Self {
        let failures =
            process.metrics().counters("scrape_failures_total", "Processes that did not answer when asked for their metrics.", &["target"]);
        let (own, shared) = (process.metrics().clone(), Arc::clone(process.shared()));
        Self { inner: Arc::new(Inner { own, shared, members, targets: Mutex::default(), failures }) }
    }

    /// Whom to ask now. Each has one connection, so that of two generations one answers.
    fn targets(&self) -> Vec<Arc<Target>> {
        let Inner { shared, members, targets, .. } = &*self.inner;
        let supervisor = Member { component: "supervisor".to_owned(), instance: 0 };
        // This process answers for itself.
        let wanted: Vec<_> = members.all().into_iter().filter(|member| member.component != "admin").chain([supervisor]).collect();
        let mut targets = targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.retain(|member, _| wanted.contains(member));
        let target = |member: Member| {
            let Member { component, instance } = &member;
            let target = || Target {
                name: format!("{component}-{instance}"),
                client: ProcessClient::new(ipc::channel(shared.local_socket(component, *instance))),
                silent: AtomicBool::new(false),
            };
            Arc::clone(targets.entry(member.clone()).or_insert_with(|| Arc::new(target())))
        };
        wanted.into_iter().map(target).collect()
    }

    /// The metrics of all that answer, in the Prometheus text format.
    pub async fn scrape(&self) -> String {
        let targets = self.targets();
        let asked = targets.iter().map(|target| self.ask(target));
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
