//! One client's event stream, as tonic polls it: a cursor into the log, not a queue and not a task.
//!
//! ```text
//! greeting ─▶ pages, from memory or from Redis ─▶ live: wait, page, wait, bookmark, … ─▶ verdict
//! ```
//!
//! Nothing is fetched before there is room to send it: a client that does not read costs what its seat counts. When the stream ends, what was not sent is
//! dropped, so that the verdict can get out.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use futures_util::Stream;
use gatehouse_chassis::{backoff::spread, connections::Notice};
use gatehouse_proto::ids::StreamId;
use gatehouse_sessions::now_ms;
use tonic::Status;

use crate::{
    announce,
    archive::{Archive, FIRST_PAGE, Lost, Page},
    entry::Entry,
    hub::{Place, Refill},
    seat::{Ending, Taken},
};

type Fetch = Pin<Box<dyn Future<Output = Result<Page, Lost>> + Send>>;

/// See the module's head.
pub struct EventStream {
    place: Place,
    archive: Arc<Archive>,
    greeting: Option<(StreamId, Bytes)>,
    page: VecDeque<Arc<Entry>>,
    fetch: Option<Fetch>,
    count: usize,
    over: bool,
    notice: Option<Notice>,
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("seat", self.place.seat()).field("over", &self.over).finish_non_exhaustive()
    }
}

impl EventStream {
    /// Greets first, then goes on from where the seat stands.
    #[must_use]
    pub fn new(place: Place, archive: Arc<Archive>, greeting: Option<(StreamId, Bytes)>) -> Self {
        Self { place, archive, greeting, page: VecDeque::new(), fetch: None, count: FIRST_PAGE, over: false, notice: None }
    }

    /// Has a client's connection of its own, which is of no more use to it once the process stops.
    #[must_use]
    pub fn on(mut self, connection: Notice) -> Self {
        self.notice = Some(connection);
        self
    }

    fn end(&mut self, ending: Ending) -> Poll<Option<Result<Bytes, Status>>> {
        self.over = true;
        self.page.clear();
        self.fetch = None;
        if let Some(notice) = self.notice.take_if(|_| ending == Ending::ShuttingDown) {
            notice.give();
        }
        let retry_after = spread(self.place.hub().settings().retry_after);
        Poll::Ready(Some(Err(ending.status(self.place.seat().cursor(), retry_after))))
    }

    fn take(&self, entry: &Entry) -> Option<Bytes> {
        let hub = self.place.hub();
        let taken = self.place.seat().take(entry, Instant::now());
        if taken == Taken::Known {
            return None;
        }
        let wire = entry.wire(hub.keys());
        hub.metrics().delivered.inc();
        if taken == Taken::Live {
            let age = u64::try_from(now_ms()).unwrap_or_default().saturating_sub(entry.id.ms);
            hub.metrics().delivery_seconds.observe(std::time::Duration::from_millis(age).as_secs_f64());
        }
        Some(wire)
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        // Whoever publishes after this look wakes us.
        if let Some(ending) = this.place.seat().listen(cx.waker()) {
            return this.end(ending);
        }
        if let Some((id, greeting)) = this.greeting.take() {
            this.place.seat().greeted(id, Instant::now());
            return Poll::Ready(Some(Ok(greeting)));
        }
        loop {
            while let Some(entry) = this.page.pop_front() {
                if let Some(wire) = this.take(&entry) {
                    return Poll::Ready(Some(Ok(wire)));
                }
            }
            if let Some(fetch) = &mut this.fetch {
                let fetched = ready!(fetch.as_mut().poll(cx));
                this.fetch = None;
                let Ok(page) = fetched else { return this.end(Ending::MustResume) };
                this.place.seat().skip_to(page.until);
                (this.page, this.count) = (page.entries, page.count);
                continue;
            }
            let hub = this.place.hub();
            match hub.refill(this.place.seat(), Instant::now()) {
                Refill::Page(page) => this.page = page,
                Refill::Archive { after, until } => {
                    let seat = Arc::clone(this.place.seat());
                    this.fetch = Some(Box::pin(Arc::clone(&this.archive).page(seat, after, until, this.count)));
                }
                Refill::Bookmark(id) => {
                    let interval = hub.settings().bookmark_interval;
                    let bookmark = announce::bookmark(id, &this.place.seat().user_id, interval, &hub.keys().signer());
                    return Poll::Ready(Some(Ok(bookmark)));
                }
                Refill::Idle => return Poll::Pending,
            }
        }
    }
}
