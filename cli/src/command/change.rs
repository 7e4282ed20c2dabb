//! `gatehouse restart`, `stop`, `start`, `scale`, `upgrade`, `reload`, and what is done to routes and circuits: asks the supervisor for one change and, unless told otherwise, waits for what comes of it.

mod follow;
mod verdict;

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, value_parser};
use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::{
    control::{CLAIMED_USER, MAX_INSTANCES, MAX_REASON_BYTES},
    internal::v1::{
        BreakerReset, ChangeRequest, ChangesRequest, Reload, RouteSwitch, Scale, Upgrade, VerdictRequest, change_request,
        supervisor_client::SupervisorClient,
    },
};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tonic::{Code, Request};

use super::{
    supervisor::{PEER, connect},
    target::{Scalable, Target},
    time::duration,
};
use crate::{failure::Failure, local, output::Output};
use follow::{Progress, follow};
pub use verdict::{document, sentence};

/// It may have to record the change first, on a disk that is slow.
const BOUND: Duration = Duration::from_secs(15);
/// How long to ask again while one supervisor hands over to the next.
const HANDOVER: Duration = Duration::from_secs(10);

/// One component, or one instance of it.
#[derive(Debug, Args)]
pub struct Whom {
    /// edge, pusher, pusher/1, auditor, admin, redis
    #[arg(value_name = "COMPONENT[/N]")]
    target: Target,
    #[command(flatten)]
    how: How,
}

/// How many.
#[derive(Debug, Args)]
pub struct HowMany {
    /// pusher
    component: Scalable,
    /// How many shall run
    #[arg(value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(MAX_INSTANCES)))]
    instances: u32,
    #[command(flatten)]
    how: How,
}

/// From where.
#[derive(Debug, Args)]
pub struct FromWhere {
    /// The directory of the new binaries [default: where the supervisor's own lies]
    #[arg(long = "from", value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// How a change is asked for.
#[derive(Debug, Args)]
pub struct How {
    /// Why, for the audit trail and whoever asks `gatehouse why`
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Return when it is over, with what came of it; the default
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Return as soon as it is queued, with its id; see `gatehouse changes`
    #[arg(long)]
    no_wait: bool,
    /// How long to wait; the change goes on after that
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    timeout: Duration,
}

/// Past changes.
#[derive(Debug, Args)]
pub struct Which {
    /// Only this one, with what it did to each instance
    id: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with = "id")]
    limit: u32,
    /// Return when it is over
    #[arg(long, requires = "id")]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    timeout: Duration,
}

/// A change with how it is asked for.
#[derive(Debug)]
pub struct Order {
    what: String,
    change: change_request::Change,
    how: How,
}

impl Order {
    /// A new generation of each, then the old one drains.
    pub fn restart(Whom { target, how }: Whom) -> Self {
        Self { what: format!("restart {target}"), change: change_request::Change::Restart(target.into()), how }
    }

    /// Until it is started.
    pub fn stop(Whom { target, how }: Whom) -> Self {
        Self { what: format!("stop {target}"), change: change_request::Change::Stop(target.into()), how }
    }

    /// What was stopped.
    pub fn start(Whom { target, how }: Whom) -> Self {
        Self { what: format!("start {target}"), change: change_request::Change::Start(target.into()), how }
    }

    /// So many of them.
    pub fn scale(HowMany { component: Scalable(component), instances, how }: HowMany) -> Self {
        let what = format!("scale {component} {instances}");
        Self { what, change: change_request::Change::Scale(Scale { component, instances }), how }
    }

    /// New binaries.
    pub fn upgrade(FromWhere { directory, how }: FromWhere) -> Result<Self, Failure> {
        let directory = directory.map(|directory| read_path(&directory)).transpose()?.unwrap_or_default();
        Ok(Self { what: "upgrade".to_owned(), change: change_request::Change::Upgrade(Upgrade { directory }), how })
    }

    /// The configuration file, read again.
    pub fn reload(how: How) -> Self {
        Self { what: "reload".to_owned(), change: change_request::Change::Reload(Reload {}), how }
    }

    /// A route out of service, or back.
    pub fn switch_route(name: String, enabled: bool, how: How) -> Self {
        let what = format!("route {} {name}", if enabled { "enable" } else { "disable" });
        Self { what, change: change_request::Change::SwitchRoute(RouteSwitch { name, enabled }), how }
    }

    /// A circuit closed.
    pub fn reset_breaker(backend: String, how: How) -> Self {
        Self { what: format!("breaker reset {backend}"), change: change_request::Change::ResetBreaker(BreakerReset { backend }), how }
    }
}

/// Asks for it, and waits as it says.
pub async fn run(order: Order, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let Order { what, change, how } = order;
    if how.reason.len() > MAX_REASON_BYTES {
        return Err(Failure::Usage(format!("--reason has {} bytes; {MAX_REASON_BYTES} are the most", how.reason.len())));
    }
    let deadline = Instant::now() + how.timeout;
    let mut supervisor = connect(config).await?;
    let request = ChangeRequest { reason: how.reason, change: Some(change) };
    let id = ask(&mut supervisor, &request).await?;
    if how.no_wait {
        return if output.is_json() { output.document(&json!({ "change_id": id })) } else { output.line(&id) };
    }
    let mut progress = Progress::new(output);
    progress.say(&format!("{what}: queued as {id}"));
    let change = follow(supervisor, &id, deadline, &mut progress).await?;
    verdict::print(&change, output)
}

/// The id of the queued change.
async fn ask(supervisor: &mut SupervisorClient<Channel>, request: &ChangeRequest) -> Result<String, Failure> {
    let patience = Instant::now() + HANDOVER;
    loop {
        let mut asked = Request::new(request.clone());
        if let Some(claimed) = env::var("SUDO_USER").ok().and_then(|user| user.parse().ok()) {
            asked.metadata_mut().insert(CLAIMED_USER, claimed);
        }
        match local::answer(PEER, BOUND, supervisor.change(asked)).await {
            Ok(answer) => return Ok(answer.change_id),
            Err(Failure::Refused { code: Code::Aborted, .. }) if Instant::now() < patience => sleep(follow::PAUSE).await,
            // It was there a moment ago, and may have queued the change before it went away.
            Err(Failure::Unreachable(why)) => {
                return Err(Failure::Unreachable(format!("{why}; whether the change was queued is not known: see `gatehouse changes`")));
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// `gatehouse changes`.
pub async fn list(which: Which, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let mut supervisor = connect(config).await?;
    match which {
        Which { id: None, limit, .. } => {
            let changes = local::answer(PEER, BOUND, supervisor.changes(ChangesRequest { limit })).await?.changes;
            verdict::table(&changes, output)
        }
        Which { id: Some(id), wait: true, timeout, .. } => {
            let change = follow(supervisor, &id, Instant::now() + timeout, &mut Progress::new(output)).await?;
            verdict::print(&change, output)
        }
        Which { id: Some(change_id), wait: false, .. } => {
            let answer = local::answer(PEER, BOUND, supervisor.verdict(VerdictRequest { change_id, wait: false })).await?;
            verdict::print(&answer.change.unwrap_or_default(), output)
        }
    }
}

/// As the supervisor finds it, whose working directory is another.
fn read_path(directory: &Path) -> Result<String, Failure> {
    let found = directory.canonicalize().with_context(|| format!("find {}", directory.display()))?;
    if !found.is_dir() {
        return Err(Failure::Usage(format!("--from {}: is no directory", directory.display())));
    }
    found.into_os_string().into_string().map_err(|path| Failure::Usage(format!("--from {}: is not UTF-8", path.display())))
}
