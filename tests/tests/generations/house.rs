//! What every scenario stands in.

use std::time::Duration;

use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::{MetricsRequest, process_client::ProcessClient};
use gatehouse_tests::{
    Builder, Downstream, HttpBackend, Samples,
    generations::{Generation, Premises, Supervisor},
};

/// Replacements of each kind.
pub const ROUNDS: usize = 10;

/// Processes with what stands behind them.
pub struct House {
    pub premises: Premises,
    pub supervisor: Option<Supervisor>,
    pub processes: Vec<Generation>,
    _behind: (Downstream, HttpBackend),
}

impl House {
    /// Starts these one after the other. Without `pushers` there is no supervisor either, as directly under systemd.
    pub async fn start(slots: &[&str], pushers: Option<&[u32]>) -> Self {
        Self::start_with(slots, pushers, |builder| builder).await
    }

    pub async fn start_with(slots: &[&str], pushers: Option<&[u32]>, settings: impl FnOnce(Builder) -> Builder) -> Self {
        let (downstream, backend) = (Downstream::start(), HttpBackend::start());
        let premises = Premises::open(|builder| {
            let builder = builder.downstream("orders", &downstream, &["demo.echo"]).http_backend("shop", &backend, &["/shop"]);
            settings(builder.set("push", "bookmark_interval", "500ms"))
        })
        .await;
        let supervisor = pushers.map(|pushers| Supervisor::start(&premises, pushers));
        let mut house = Self { premises, supervisor, processes: Vec::new(), _behind: (downstream, backend) };
        for slot in slots {
            house.add(slot).await;
        }
        house
    }

    /// Starts one more and waits until it is ready.
    pub async fn add(&mut self, slot: &str) {
        self.processes.push(self.premises.start_ready(slot).await);
    }

    /// Drains one that gets no successor; how long that took.
    pub async fn remove(&mut self, slot: &str) -> Duration {
        let place = self.processes.iter().position(|process| process.slot == slot).unwrap();
        self.processes.remove(place).drain().await
    }

    /// Replaces one; how long the old one's drain took.
    pub async fn replace(&mut self, slot: &str) -> Duration {
        let process = self.processes.iter_mut().find(|process| process.slot == slot).unwrap();
        self.premises.replace(process).await
    }

    /// The metrics of whoever answers on that local socket.
    pub async fn metrics(&self, socket: &str) -> Samples {
        let channel = ipc::channel(self.premises.runtime_dir().join(format!("{socket}.sock")));
        Samples::parse(&ProcessClient::new(channel).metrics(MetricsRequest {}).await.unwrap().into_inner().text)
    }

    /// How many streams a pusher has.
    pub async fn streams(&self, pusher: u32) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let streams = self.metrics(&format!("pusher-{pusher}")).await.sum("push_streams", &[]) as usize;
        streams
    }
}

/// The figures of several drains.
pub fn summary(what: &str, took: &mut [Duration]) -> String {
    took.sort_unstable();
    format!("{what}: {} drains, median {:?}, longest {:?}", took.len(), took[took.len() / 2], took[took.len() - 1])
}
