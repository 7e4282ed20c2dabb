//! What a component hears from a supervisor, said by the test.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use gatehouse_chassis::{
    Shutdown,
    connections::{ConnectionMetrics, Farewell, serve},
    metrics::Metrics,
    sockets::Listener,
    watchdog::Pulse,
};
use gatehouse_proto::internal::v1::{
    self, Member, WatchMembersRequest,
    supervisor_server::{self, SupervisorServer},
};
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::{StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Response, Status, service::Routes};

use super::Premises;

/// A supervisor that tells of members and does nothing else. Dropped, it is gone as after a `kill -9`.
#[derive(Debug)]
pub struct Supervisor {
    pushers: Arc<watch::Sender<Vec<u32>>>,
    shutdown: Shutdown,
}

impl Supervisor {
    /// Names these pushers from the start.
    #[must_use]
    pub fn start(premises: &Premises, pushers: &[u32]) -> Self {
        let path = premises.runtime_dir().join("supervisor.sock");
        // A dead one leaves its socket behind.
        let _absent = std::fs::remove_file(&path);
        let listener = Listener::Unix(UnixListener::bind(path).unwrap());
        let (pushers, shutdown) = (Arc::new(watch::Sender::new(pushers.to_vec())), Shutdown::default());
        let router = Routes::new(SupervisorServer::new(Service(Arc::clone(&pushers)))).into_axum_router();
        let metrics = ConnectionMetrics::new(&Metrics::new("supervisor", 0));
        shutdown.spawn("supervisor", serve("local", listener, router, metrics, Farewell::at_once(), shutdown.clone(), Pulse::default()));
        Self { pushers, shutdown }
    }

    /// Names others from now on.
    pub fn name(&self, pushers: &[u32]) {
        self.pushers.send_replace(pushers.to_vec());
    }

    /// How many processes listen to it.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.pushers.receiver_count()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.shutdown.abort();
    }
}

#[derive(Debug)]
struct Service(Arc<watch::Sender<Vec<u32>>>);

#[tonic::async_trait]
impl supervisor_server::Supervisor for Service {
    async fn watch_members(
        &self,
        _: Request<WatchMembersRequest>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<v1::Members, Status>> + Send>>>, Status> {
        let said = WatchStream::new(self.0.subscribe()).map(|pushers| {
            let member = |component: &str, instance| Member { component: component.to_owned(), instance };
            let others = ["edge", "auditor", "admin"].map(|component| member(component, 0));
            let pushers = pushers.into_iter().map(|instance| member("pusher", instance));
            Ok(v1::Members { members: others.into_iter().chain(pushers).collect() })
        });
        Ok(Response::new(Box::pin(said)))
    }
}
