//! What the embedded Redis answers: it cannot notify, so it is asked.

use std::future::pending;

use tokio::sync::mpsc;

use super::{SlotId, Suite};

/// Of one process. Dropped with it, for nobody else may answer in its place.
#[derive(Debug)]
pub(super) struct Answers {
    id: SlotId,
    generation: u32,
    heard: mpsc::Receiver<()>,
}

impl Answers {
    /// The next. Never, once nobody asks any more; nothing is lost when the future is dropped.
    pub(super) async fn next(answers: &mut Option<Self>) -> (SlotId, u32) {
        let Some(Self { id, generation, heard }) = answers else { return pending().await };
        match heard.recv().await {
            Some(()) => (*id, *generation),
            None => pending().await,
        }
    }

    /// The next that is there already.
    pub(super) fn try_next(&mut self) -> Option<(SlotId, u32)> {
        self.heard.try_recv().ok().map(|()| (self.id, self.generation))
    }
}

impl Suite {
    /// That process is asked from now on, if it is the embedded server's.
    pub(super) fn ask(&mut self, id: SlotId, generation: u32) {
        if let Some(redis) = self.parts.launcher.redis().filter(|_| !id.component.is_ours()) {
            let heard = redis.answers(self.parts.process.shutdown());
            self.answers = Some(Answers { id, generation, heard });
        }
    }
}
