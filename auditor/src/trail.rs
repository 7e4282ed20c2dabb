//! The `AuditTrail` service: what the trail holds, and whether it is whole. On connections of its own, which cannot write. What had been recorded when it was
//! asked is in its answer.

use std::{sync::Arc, time::Duration};

use gatehouse_chassis::connections::Gauged;
use gatehouse_migrations::{Connection, Database};
use gatehouse_proto::internal::v1::{ListAuditRequest, ListAuditResponse, VerifyAuditRequest, VerifyAuditResponse, audit_trail_server};
use tokio::{sync::Mutex, time::timeout};
use tonic::{Request, Response, Status};

use crate::{catch_up::CatchUp, metrics::AuditorMetrics, reading};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 1000;
/// Bounds one listing.
const LIST: Duration = Duration::from_secs(10);

/// Clones share the connections.
#[derive(Clone, Debug)]
pub struct Trail {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    metrics: AuditorMetrics,
    stream: CatchUp,
    /// Kept from one listing to the next; taken out while in use, so that one that was given up is not used again.
    reader: Mutex<Option<(Connection, Gauged)>>,
    /// One verification at a time: it reads everything.
    verifying: Mutex<()>,
}

impl Trail {
    /// Connects when first asked.
    #[must_use]
    pub fn new(database: Database, stream: CatchUp, metrics: AuditorMetrics) -> Self {
        Self { inner: Arc::new(Inner { database, metrics, stream, reader: Mutex::default(), verifying: Mutex::default() }) }
    }

    async fn rows(&self, request: &ListAuditRequest) -> anyhow::Result<ListAuditResponse> {
        let mut reader = self.inner.reader.lock().await;
        let kept = reader.take();
        let was_kept = kept.is_some();
        let in_use = Gauged::new(&self.inner.metrics.in_use);
        let mut connection = match kept {
            Some((connection, idle)) => {
                drop(idle);
                connection
            }
            None => self.inner.database.connect_to_read().await?,
        };
        let records = match reading::list(&mut connection, request).await {
            // The database may have been restarted since the last listing.
            Err(_) if was_kept => {
                connection = self.inner.database.connect_to_read().await?;
                reading::list(&mut connection, request).await?
            }
            listed => listed?,
        };
        drop(in_use);
        *reader = Some((connection, Gauged::new(&self.inner.metrics.idle)));
        Ok(ListAuditResponse { records })
    }
}

#[tonic::async_trait]
impl audit_trail_server::AuditTrail for Trail {
    async fn list(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let mut request = request.into_inner();
        if request.limit > MAX_LIMIT {
            return Err(Status::invalid_argument(format!("limit is at most {MAX_LIMIT}")));
        }
        if request.limit == 0 {
            request.limit = DEFAULT_LIMIT;
        }
        // Pages behind the first are of what is long written.
        if request.before_seq == 0 {
            self.inner.stream.wait().await;
        }
        match timeout(LIST, self.rows(&request)).await {
            Ok(listed) => listed.map(Response::new).map_err(|error| unavailable(&error)),
            Err(_) => Err(Status::deadline_exceeded("the audit database did not answer in time")),
        }
    }

    async fn verify(&self, _request: Request<VerifyAuditRequest>) -> Result<Response<VerifyAuditResponse>, Status> {
        self.inner.stream.wait().await;
        let _one = self.inner.verifying.lock().await;
        let _in_use = Gauged::new(&self.inner.metrics.in_use);
        let verify = async {
            let mut connection = self.inner.database.connect_to_read().await?;
            let verdict = reading::verify(&mut connection).await?;
            connection.close().await;
            anyhow::Ok(verdict)
        };
        let verdict = verify.await.map_err(|error| unavailable(&error))?;
        if verdict.intact {
            tracing::info!(audit.seq = verdict.head_seq, "the trail verifies");
        } else {
            tracing::error!(audit.seq = verdict.first_bad_seq, reason = verdict.reason, "the trail was changed");
        }
        Ok(Response::new(verdict))
    }
}

fn unavailable(error: &anyhow::Error) -> Status {
    tracing::warn!("the audit database cannot be read: {error:#}");
    Status::unavailable("the audit database is unavailable")
}
