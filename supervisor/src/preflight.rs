//! What must hold before anything is started: every component's configuration, asked of its own binary, and that there are binaries at all.

use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::future::{OptionFuture, join_all};
use gatehouse_chassis::{config::Shared, exit};
use tokio::{io::AsyncReadExt as _, process::Command, runtime::Builder, time::timeout};

use crate::{
    Config, binaries,
    child::{Exit, NOT_HANDED_ON},
    component::{Component, roll},
    output::plain,
    premises,
    sockets::path_problem,
    suite::drain_budget,
    systemd, upgrade,
};

/// What is kept of what a check says: more than anybody reads, and twice as much in between.
const MOST_SAID: usize = 64 << 10;
/// A check reads a file and a key; one that takes longer hangs.
const BOUND: Duration = Duration::from_secs(20);

/// Every problem, one a line. `read` is our own configuration, when it was right. `only`: nothing is started afterwards.
#[must_use]
pub fn preflight(config: Option<&Path>, read: Option<(&Shared, &Config)>, only: bool) -> Vec<String> {
    // Whoever executed us has asked us before, and nobody would listen now: what is wrong after all is told to the one before.
    if upgrade::is_under_way() {
        return Vec::new();
    }
    let mut problems = read.map(|(shared, config)| own(shared, config)).unwrap_or_default();
    // At a start it is only logged: an operator whose account was deleted must not keep a supervisor from those who serve.
    if let Some((_, config)) = read.filter(|_| only) {
        problems.extend(config.access.unknown_operators().map(|problem| format!("supervisor.operators: {problem}")));
    }
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let checks = join_all(Component::OURS.map(|component| check(component, config)));
            let patience = OptionFuture::from(read.map(|(shared, _)| systemd::stop_timeout_problem(drain_budget(shared), config)));
            let (found, impatience) = runtime.block_on(async { tokio::join!(checks, patience) });
            problems.extend(found.into_iter().flatten().chain(impatience.flatten()));
        }
        Err(error) => problems.push(format!("no runtime: {error}")),
    }
    problems
}

/// What the supervisor alone can know.
fn own(shared: &Shared, config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    if shared.redis.embedded && binaries::find(&config.redis_server).is_none() {
        problems.push(format!(
            "GATEWAY_REDIS_MASTER_ADDR: none is set, so the supervisor runs Redis itself, but {} is not installed; install the package \
             redis-server, or name a server",
            config.redis_server.display()
        ));
    }
    let slots = roll(shared, shared.instances(Component::Pusher.name())).into_iter();
    let local = slots.map(|slot| shared.local_socket(slot.component.name(), slot.instance));
    let longest = local.chain([premises::control_socket(shared)]).max_by_key(|path| path.as_os_str().len());
    problems.extend(longest.and_then(|path| path_problem(&path)));
    problems
}

/// `gatehouse-edge --check`.
async fn check(component: Component, config: Option<&Path>) -> Vec<String> {
    let name = binaries::file_name(component);
    match binaries::directory() {
        Ok(dir) => {
            let path = dir.join(&name);
            problems(&path, Command::new(&path), config, BOUND).await
        }
        Err(error) => vec![format!("{name}: {error}")],
    }
}

/// What a binary of ours says to `--check`, one problem a line. It is told under the name at `path`, however the command executes it.
pub(crate) async fn problems(path: &Path, mut command: Command, config: Option<&Path>, bound: Duration) -> Vec<String> {
    let name = path.file_name().unwrap_or_default().display();
    command.arg("--check").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    for name in NOT_HANDED_ON {
        command.env_remove(name);
    }
    let (status, said) = match timeout(bound, output(command)).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return vec![format!("{} cannot be executed: {error}", path.display())],
        Err(_) => return vec![format!("{name} --check did not end within {bound:?}")],
    };
    let said = String::from_utf8_lossy(&said);
    let mut lines = said.lines().map(str::trim_end).filter(|line| !line.is_empty());
    match Exit::of(status) {
        Exit::Status(code) if code == i32::from(exit::OK) => Vec::new(),
        Exit::Status(code) if code == i32::from(exit::CONFIG) => lines.map(ToOwned::to_owned).collect(),
        exit => vec![format!("{name} --check ended with {exit}: {}", lines.next_back().map(plain).unwrap_or_default())],
    }
}

/// How it ended, and the end of what it said. It may be anybody's program, and say anything.
async fn output(mut command: Command) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut child = command.spawn()?;
    let mut stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (mut said, mut is_cut) = (Vec::new(), false);
    while stderr.read_buf(&mut said).await? > 0 {
        if said.len() > 2 * MOST_SAID {
            said.drain(..said.len() - MOST_SAID);
            is_cut = true;
        }
    }
    if is_cut {
        // Not half a line.
        let whole = said.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        said.splice(..whole, *b"it said more than this before:\n");
    }
    Ok((child.wait().await?, said))
}
