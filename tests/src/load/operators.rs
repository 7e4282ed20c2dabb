//! What operators look at while clients are served: metrics, readiness, the trail. Restarts of admin and auditor are seen here or nowhere.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::{ListAuditRequest, admin_client::AdminClient};
use tokio::{sync::watch, time::timeout};

use super::{Fault, Kind, PATIENCE, Pace, Stage, begins, goes_on, tally::Tally, web::Caller};
use crate::Suite;

/// A few of them.
#[derive(Debug)]
pub(super) struct Operators {
    admin: SocketAddr,
    http: SocketAddr,
    socket: PathBuf,
    pace: Pace,
    tally: Arc<Tally>,
    told: watch::Receiver<Stage>,
}

impl Operators {
    pub(super) fn new(suite: &Suite, pace: Pace, tally: Arc<Tally>, told: watch::Receiver<Stage>) -> Self {
        let socket = suite.runtime_dir().join("admin.sock");
        Self { admin: suite.address("admin"), http: suite.address("http"), socket, pace, tally, told }
    }

    /// Those who ask over HTTP, each time on a new connection.
    pub(super) fn web(&self, tally: &Arc<Tally>, told: &watch::Receiver<Stage>) -> Vec<Caller> {
        let asked = [(self.admin, "/metrics", Kind::Metrics), (self.http, "/health/ready", Kind::Readiness)];
        asked.map(|(address, path, kind)| Caller::new(address, path, kind, self.pace, tally, told)).into()
    }

    /// Asks for the newest records as the command `gatehouse` does.
    pub(super) async fn read_the_trail(mut self) {
        begins(&mut self.told).await;
        let mut ticks = self.pace.ticks();
        while goes_on(&self.told) {
            ticks.tick().await;
            let op = self.tally.begin(Kind::Trail);
            let mut admin = AdminClient::new(ipc::channel(self.socket.clone()));
            let newest = ListAuditRequest { limit: 10, ..ListAuditRequest::default() };
            match timeout(PATIENCE, admin.list_audit(newest)).await {
                Ok(Ok(_)) => self.tally.succeeded(op),
                Ok(Err(status)) => self.tally.failed(op, Fault::of(&status).0, None),
                Err(_) => self.tally.failed(op, Fault::TimedOut, None),
            }
        }
    }
}
