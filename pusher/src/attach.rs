//! Opens event streams: for the edge, over the local socket, and for clients that were verified here.
//!
//! The order matters. A stream joins the hub first, so that nothing published from then on is missed, and no revocation either; then its session is asked for:
//! a revocation between the caller's check and the join is seen here, a later one ends the stream. The past comes last.

use std::sync::Arc;

use gatehouse_chassis::{
    backoff::spread,
    redis::{RedisError, StreamInfo},
};
use gatehouse_proto::{
    gateway::v1::server_time,
    ids::StreamId,
    internal::v1::{AttachRequest, push_server},
};
use gatehouse_sessions::{Refusal, Sessions, now_ms, verdict};
use tonic::{Request, Response, Status};

use crate::{
    announce,
    archive::Archive,
    hub::{Hub, Place},
    resume::{Resume, judge},
    seat::{Ending, Wakers},
    stream::EventStream,
};

/// What a client is told whose cursor was never given out here.
const FOREIGN: Refusal = Refusal::Field("last_event_id", "is not a cursor of this gateway");

/// Opens streams; clones share everything.
#[derive(Clone, Debug)]
pub struct Attach {
    hub: Arc<Hub>,
    archive: Arc<Archive>,
    sessions: Sessions,
}

/// Which stream is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Whose events.
    pub user_id: &'a str,
    /// On which device.
    pub device_session_id: &'a str,
    /// From after there; none: from now on.
    pub cursor: Option<StreamId>,
    /// The client's stream is open already, with another pusher until now: it is not greeted again.
    pub continuation: bool,
}

impl Attach {
    /// Opens nothing yet.
    #[must_use]
    pub const fn new(hub: Arc<Hub>, archive: Arc<Archive>, sessions: Sessions) -> Self {
        Self { hub, archive, sessions }
    }

    /// Opens a stream, or says why not.
    pub async fn open(&self, wanted: Wanted<'_>) -> Result<EventStream, Status> {
        let Ok(place) = self.hub.join(wanted.user_id, wanted.device_session_id, wanted.cursor) else {
            let (_, horizon) = self.hub.position();
            return Err(self.ended(verdict::shutting_down(), wanted.cursor.unwrap_or(horizon)));
        };
        let begin = place.seat().cursor();
        let session = self.sessions.resolve(wanted.device_session_id).await.map_err(|refusal| self.ended(refusal.status(), begin))?;
        if session.is_revoked() {
            return Err(self.ended(verdict::revoked(), begin));
        }
        if session.user_id() != wanted.user_id {
            return Err(Status::invalid_argument("user_id is not the device session's"));
        }
        let (begin, resume) = match wanted.cursor {
            None => (begin, server_time::Resume::NotRequested),
            Some(cursor) => match self.judge(cursor).await.map_err(|error| self.undecided(&error, cursor))? {
                Resume::Foreign => return Err(FOREIGN.status()),
                Resume::Complete => (cursor, server_time::Resume::Complete),
                Resume::Gap(from) => {
                    place.seat().skip_to(from);
                    (from, server_time::Resume::Gap)
                }
            },
        };
        Ok(self.begin(place, wanted, begin, resume))
    }

    fn begin(&self, place: Place, wanted: Wanted<'_>, begin: StreamId, resume: server_time::Resume) -> EventStream {
        let continues = wanted.continuation && wanted.cursor.is_some();
        if continues && resume == server_time::Resume::Gap {
            // The client would take what follows for everything. It resumes by itself, and is told.
            place.seat().end(Ending::MustResume, &mut Wakers::default());
        }
        let interval = self.hub.settings().bookmark_interval;
        let greeting =
            (!continues).then(|| (begin, announce::server_time(begin, wanted.user_id, resume, interval, &self.hub.keys().signer())));
        EventStream::new(place, Arc::clone(&self.archive), greeting)
    }

    /// What a cursor is worth. Memory may hold everything after it, but only Redis can say that it is still the one that gave it out; while Redis is
    /// away, memory decides.
    async fn judge(&self, cursor: StreamId) -> Result<Resume, RedisError> {
        let standing = self.archive.standing().await;
        let remembered = self.hub.remembers(cursor);
        match standing {
            Ok(standing) => Ok(judge(cursor, remembered, standing.floor, &standing.info, standing.now_ms)),
            Err(_) if remembered => {
                let now_ms = u64::try_from(now_ms()).unwrap_or_default();
                Ok(judge(cursor, true, self.archive.known_floor(), &StreamInfo::default(), now_ms))
            }
            Err(error) => Err(error),
        }
    }

    fn undecided(&self, error: &RedisError, cursor: StreamId) -> Status {
        tracing::debug!(%error, "a cursor cannot be judged");
        self.ended(Refusal::StoreUnavailable.status(), cursor)
    }

    fn ended(&self, status: Status, cursor: StreamId) -> Status {
        verdict::with_cursor(status, cursor, spread(self.hub.settings().retry_after))
    }
}

#[tonic::async_trait]
impl push_server::Push for Attach {
    type AttachStream = EventStream;

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<EventStream>, Status> {
        let AttachRequest { user_id, device_session_id, cursor, continuation } = request.into_inner();
        let cursor = match cursor.as_str() {
            "" => None,
            cursor => Some(cursor.parse().map_err(|_| FOREIGN.status())?),
        };
        let wanted = Wanted { user_id: &user_id, device_session_id: &device_session_id, cursor, continuation };
        Ok(Response::new(self.open(wanted).await?))
    }
}
