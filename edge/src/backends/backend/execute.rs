//! A command, from the circuit to its answer, over as many attempts as are allowed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use gatehouse_proto::downstream::v1::ExecuteResponse;
use http::{HeaderMap, HeaderValue};
use prost::Message as _;

use super::Backend;
use crate::backends::{
    call::{Call, Deadline, encode, grpc_timeout},
    circuit::Verdict,
    endpoint::{Endpoint, Transport},
    fault::{Failure, Fault, Outcome},
    grpc::unary,
    posted::post,
};

/// Attempts at one command, if there are not more endpoints than that which nobody answers at.
const ATTEMPTS: usize = 4;

impl Backend {
    /// The backend's answer, or why there is none. All attempts have the one deadline.
    pub(crate) async fn execute(self: &Arc<Self>, call: &Call<'_>, deadline: Deadline) -> Result<ExecuteResponse, Failure> {
        let Some(permit) = self.admit() else { return Err(Failure::not_tried()) };
        let result = self.attempts(call, deadline).await;
        let (verdict, outcome) = match &result {
            Ok(_) => (Verdict::Success, Outcome::Answered),
            Err((fault, _)) => (judge(fault, deadline), fault.outcome()),
        };
        self.settle(permit, verdict);
        self.counters.count(outcome);
        result.map_err(|(fault, touched)| Failure::of(fault, touched))
    }

    /// The answer; or the last fault, and whether anybody may have carried it out.
    async fn attempts(self: &Arc<Self>, call: &Call<'_>, deadline: Deadline) -> Result<ExecuteResponse, (Fault, bool)> {
        let message = match self.endpoints.first().map(|endpoint| &endpoint.transport) {
            Some(Transport::Grpc { .. }) => encode(call),
            _ => Bytes::new(),
        };
        let (mut tried, mut touched) = (Vec::new(), false);
        loop {
            let i = self.choose(&tried);
            let endpoint = &self.endpoints[i];
            let sent = AtomicBool::new(false);
            let fault = match self.attempt(endpoint, call, &message, deadline, &sent).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            touched |= sent.load(Ordering::Relaxed) && !fault.is_untouched();
            tried.push(i);
            if !self.again(&fault, call.idempotent, &tried) {
                return Err((fault, touched));
            }
            tracing::debug!(backend = &*self.name, endpoint = %endpoint.address, ?fault, "command is sent again");
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        call: &Call<'_>,
        message: &Bytes,
        deadline: Deadline,
        sent: &AtomicBool,
    ) -> Result<ExecuteResponse, Fault> {
        let begun = Instant::now();
        let _in_flight = endpoint.load.begin();
        let left = deadline.left();
        let answer = async {
            match &endpoint.transport {
                Transport::Grpc { pool, execute } => {
                    let headers = headers(call, &grpc_timeout(left));
                    let message = unary(pool, execute, headers, message.clone(), sent).await?;
                    ExecuteResponse::decode(message).map_err(|_| Fault::Garbage)
                }
                Transport::Http(client) => {
                    let uri = endpoint.uri(call.path.unwrap_or(&self.config.path));
                    post(client, uri, call, left, sent).await
                }
            }
        };
        let answer = tokio::time::timeout_at(deadline.at().into(), answer).await;
        let late = || if sent.load(Ordering::Relaxed) { Fault::TimedOut } else { Fault::Expired };
        let answer = answer.unwrap_or_else(|_| Err(late()));
        let verdict = match &answer {
            // It says that it takes nothing more, as it should before it goes.
            Err(Fault::Unprocessed) => Verdict::Nothing,
            Err(fault) => judge(fault, deadline),
            Ok(_) => Verdict::Success,
        };
        // What fails fast is not fast.
        let tells = verdict == Verdict::Success || matches!(answer, Err(Fault::TimedOut | Fault::Expired));
        if tells && self.endpoints.len() > 1 {
            let now = Instant::now();
            endpoint.load.observe(now - begun, now);
        }
        self.note(endpoint, verdict);
        answer
    }

    /// Whether there is another attempt after this one.
    fn again(&self, fault: &Fault, idempotent: bool, tried: &[usize]) -> bool {
        let is_anybody_left = self.endpoints.len() > tried.len();
        match fault {
            // Where nobody answers, nobody answers a moment later.
            Fault::Unreached if is_anybody_left => self.counters.untouched.inc(),
            Fault::Unprocessed if tried.len() < ATTEMPTS => self.counters.untouched.inc(),
            Fault::Broken | Fault::Unavailable if idempotent && tried.len() < ATTEMPTS => {
                if !self.budget.withdraw() {
                    self.counters.over_budget.inc();
                    return false;
                }
                self.counters.idempotent.inc();
            }
            _ => return false,
        }
        true
    }
}

/// That a client gave less time than there is says nothing of the backend.
fn judge(fault: &Fault, deadline: Deadline) -> Verdict {
    match fault {
        Fault::TimedOut | Fault::Expired if deadline.is_of_client() => Verdict::Nothing,
        fault => fault.verdict(),
    }
}

fn headers(call: &Call<'_>, timeout: &str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    for (name, text) in
        [("grpc-timeout", timeout), ("traceparent", &call.command.traceparent), ("tracestate", call.tracestate.unwrap_or_default())]
    {
        if let Ok(value) = HeaderValue::from_str(text)
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    }
    headers
}
