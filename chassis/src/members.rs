//! Who belongs to the suite, as the supervisor says it: which instances take new work.
//!
//! The supervisor may go away and come back; what it said last stands meanwhile. A process that was started without one, directly under systemd, goes by the
//! configuration.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use gatehouse_proto::internal::v1::{self, WatchMembersRequest, supervisor_client::SupervisorClient};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::{Process, backoff::Backoff, config::Shared, ipc};

/// How long a start waits for the supervisor's first word.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// Between attempts to hear it.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One process of the suite.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// `edge`, `pusher`, …
    pub component: String,
    /// Which of several.
    pub instance: u32,
}

/// Follows the set; clones share what is known.
#[derive(Clone, Debug)]
pub struct Members {
    known: watch::Receiver<Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    members: BTreeSet<Member>,
    /// By the supervisor, and not by the configuration.
    told: bool,
    /// The first attempt to hear is over.
    tried: bool,
}

impl Members {
    /// Follows the supervisor for as long as the process lives. Waits for its first word if there is one to be heard, but not for long.
    pub async fn follow(process: &Process) -> Self {
        let shared = process.shared();
        let (publish, known) = watch::channel(Known { members: configured(shared), ..Known::default() });
        process.shutdown().spawn_companion("members", listen(shared.local_socket("supervisor", 0), publish));
        // Nothing to be heard: the configuration stands.
        let mut first = known.clone();
        let _late = tokio::time::timeout(FIRST_WORD, first.wait_for(|known| known.tried)).await;
        Self { known }
    }

    /// The instances of one component, ascending.
    #[must_use]
    pub fn instances(&self, component: &str) -> Vec<u32> {
        let known = self.known.borrow();
        known.members.iter().filter(|member| member.component == component).map(|member| member.instance).collect()
    }

    /// Everybody.
    #[must_use]
    pub fn all(&self) -> BTreeSet<Member> {
        self.known.borrow().members.clone()
    }

    /// Whether a supervisor said so: then whoever drains has a successor, or is no member any more.
    #[must_use]
    pub fn are_told(&self) -> bool {
        self.known.borrow().told
    }

    /// Whether the supervisor goes on counting on that instance: when the process drains, another one serves in its place.
    #[must_use]
    pub fn stays(&self, component: &str, instance: u32) -> bool {
        let known = self.known.borrow();
        known.told && known.members.iter().any(|member| member.instance == instance && member.component == component)
    }

    /// Waits until a component has an instance.
    pub async fn any(&self, component: &str) {
        self.until(|known| known.members.iter().any(|member| member.component == component)).await;
    }

    /// Waits until that is no member any more.
    pub async fn gone(&self, component: &str, instance: u32) {
        self.until(|known| !known.members.iter().any(|member| member.instance == instance && member.component == component)).await;
    }

    async fn until(&self, holds: impl FnMut(&Known) -> bool) {
        if self.known.clone().wait_for(holds).await.is_err() {
            // The process ends, and nothing more is heard.
            std::future::pending::<()>().await;
        }
    }
}

fn configured(shared: &Shared) -> BTreeSet<Member> {
    let components = ["edge", "pusher", "auditor", "admin"].into_iter();
    let instances = components.flat_map(|component| (0..shared.instances(component)).map(move |instance| (component, instance)));
    instances.map(|(component, instance)| Member { component: component.to_owned(), instance }).collect()
}

async fn listen(socket: PathBuf, publish: watch::Sender<Known>) {
    let mut supervisor = SupervisorClient::new(ipc::channel(socket.clone()));
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut away = None;
    loop {
        // Without a socket there is nobody to be heard, and nothing to be said about it.
        if socket.exists() {
            let begun = Instant::now();
            let ended = hear(&mut supervisor, &publish, &mut away).await;
            if begun.elapsed() > LONGEST_PAUSE {
                backoff.reset();
            }
            if away.replace(()).is_none() {
                log(&ended, publish.borrow().told);
            }
        }
        publish.send_if_modified(|known| !std::mem::replace(&mut known.tried, true));
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Takes in what the supervisor says until it ends; how it did.
async fn hear(supervisor: &mut SupervisorClient<ipc::Channel>, publish: &watch::Sender<Known>, away: &mut Option<()>) -> Status {
    let mut said = match supervisor.watch_members(WatchMembersRequest {}).await {
        Ok(said) => said.into_inner(),
        Err(status) => return status,
    };
    loop {
        match said.message().await {
            Ok(Some(v1::Members { members })) => {
                if away.take().is_some() {
                    tracing::info!("the supervisor is back");
                }
                let members: BTreeSet<_> =
                    members.into_iter().map(|v1::Member { component, instance }| Member { component, instance }).collect();
                publish.send_if_modified(|known| {
                    let news = known.members != members || !known.told;
                    if news {
                        tracing::debug!(?members, "members");
                    }
                    *known = Known { members, told: true, tried: true };
                    news
                });
            }
            Ok(None) => return Status::unavailable("the supervisor ended it"),
            Err(status) => return status,
        }
    }
}

fn log(ended: &Status, told: bool) {
    if ended.code() == Code::Unimplemented {
        tracing::info!("the supervisor does not tell of members; the configuration stands");
    } else if told {
        tracing::warn!(%ended, "the supervisor is away; the members that it named last stand");
    } else {
        tracing::warn!(%ended, "the supervisor does not answer; the configuration stands");
    }
}
