//! What the edge is asked for an operator: one question at a time, and only while one edge alone serves, so that no generation misses what the other was told.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, future::LocalBoxFuture};
use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::{EdgeVerdict, ReloadRequest, ResetBreakerRequest, Step, SwitchRouteRequest, edge_client::EdgeClient};
use tokio::time::timeout;

use super::{
    Suite,
    jobs::{Current, Job},
};
use crate::control::{Ask, Change, Order};

/// It reads a few files.
const BOUND: Duration = Duration::from_secs(15);

/// With the edge.
#[derive(Default)]
pub(super) struct Conversation {
    asked: Option<LocalBoxFuture<'static, Told>>,
    told: Option<Told>,
}

/// What it said, or why it said nothing.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) done: bool,
    pub(super) verdict: String,
    details: Vec<String>,
}

impl Conversation {
    /// Resolves when it has answered; until then never. Nothing is lost when the future is dropped.
    pub(super) async fn heard(&mut self) {
        let Some(asked) = &mut self.asked else { return std::future::pending().await };
        let told = asked.await;
        self.asked = None;
        self.told = Some(told);
    }
}

impl Told {
    fn nothing(why: impl Into<String>) -> Self {
        Self { done: false, verdict: why.into(), details: Vec::new() }
    }

    /// A line for everything that it added.
    pub(super) fn steps(&self, current: &Current) -> Vec<Step> {
        let step = |message: &String| Step {
            component: current.slot.component.name().to_owned(),
            instance: current.slot.instance,
            from_generation: current.from,
            to_generation: current.from,
            succeeded: self.done,
            message: message.clone(),
        };
        self.details.iter().map(step).collect()
    }
}

impl Suite {
    /// What came of it, once that can be told.
    pub(super) fn ask_edge(&mut self, job: &Job, current: &mut Current) -> Option<Told> {
        let Some(slot) = self.slot(current.slot) else { return Some(Told::nothing("it is not there any more")) };
        let late = (current.until <= Instant::now()).then(|| Told::nothing(format!("given up: the edge is {}", slot.machine.label())));
        if current.to.is_some() {
            return self.conversation.told.take().or(late);
        }
        let machine = &slot.machine;
        if machine.quarantine().is_some() || machine.is_stopped() {
            return Some(Told::nothing(format!("the edge does not run: {}", machine.label())));
        }
        if !machine.is_ready() || machine.other().is_some() {
            return late;
        }
        (current.from, current.to) = (machine.lead(), Some(machine.lead()));
        let order = job.orders.first()?;
        let client = EdgeClient::new(ipc::channel(self.parts.process.shared().local_socket("edge", 0)));
        self.conversation = Conversation { asked: Some(ask(client, order.clone()).boxed_local()), told: None };
        None
    }
}

async fn ask(mut edge: EdgeClient<ipc::Channel>, order: Order) -> Told {
    let at_ms = order.status("running").queued_ms;
    let Order { actor, reason, change, .. } = order;
    let Change::Edge(ask) = change else { return Told::nothing("that is not the edge's to do") };
    let switch = |name: String, enabled: bool| SwitchRouteRequest { name, enabled, actor, reason, at_ms };
    let call = async {
        match ask {
            Ask::Reload => edge.reload(ReloadRequest {}).await,
            Ask::Disable(name) => edge.switch_route(switch(name, false)).await,
            Ask::Enable(name) => edge.switch_route(switch(name, true)).await,
            Ask::ResetBreaker(backend) => edge.reset_breaker(ResetBreakerRequest { backend }).await,
        }
    };
    match timeout(BOUND, call).await {
        Ok(Ok(answer)) => {
            let EdgeVerdict { done, verdict, details } = answer.into_inner();
            Told { done, verdict, details }
        }
        Ok(Err(status)) => Told::nothing(format!("the edge did not answer, and may have done it or not: {}", status.message())),
        Err(_) => Told::nothing(format!("the edge did not answer within {BOUND:?}, and may have done it or not")),
    }
}
