//! What the threads of another process are doing, for whoever asks in the morning why it was replaced at night.
//!
//! Reading another process's stacks means `ptrace`, symbol tables and waiting for threads that may not answer. None of that happens in the supervisor:
//! it starts itself once more as `gatehouse-supervisor --dump-threads PID FILE WHY`, which writes what `/proc` tells first, the stacks after it, and is killed
//! when it takes too long. What it had written by then stays.
//!
//! ```text
//! supervisor ──▶ helper ── 1. /proc/PID/task/*: state, where in the kernel, processor time ──▶ file
//!                          2. seize, registers, a copy of each stack, let go (some ms)
//!                          3. unwind by .eh_frame, name by the symbol tables ────────────────▶ file
//! ```

mod helper;
mod modules;
mod stacks;
mod threads;
mod writing;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

pub use helper::run as run_helper;

/// The argument that makes a supervisor the helper.
const FLAG: &str = "--dump-threads";
/// How long the helper may take.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Dumps that are kept; the oldest go.
const KEPT: usize = 20;
/// This very binary, even when its file was replaced meanwhile.
const SELF: &str = "/proc/self/exe";

/// Dumps all threads of a process into a new file in `dir`, whose name holds the time and `subject`. Takes 1.5 s at most and never fails
/// for the process: one that cannot be traced, or is gone, makes a poorer file. To be awaited or dropped; dropped, it ends its helper.
pub(crate) fn threads(pid: u32, subject: &str, why: &str, dir: &Path) -> impl Future<Output = io::Result<PathBuf>> + use<> {
    let name = format!("{}-{subject}.txt", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ"));
    let (path, why) = (dir.join(name), why.to_owned());
    async move {
        let mut command = Command::new(SELF);
        command.arg(FLAG).arg(pid.to_string()).arg(&path).arg(why).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut helper = command.spawn()?;
        match timeout(PATIENCE, helper.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(path),
            Ok(Ok(status)) => Err(io::Error::other(format!("the dump failed: {status}"))),
            Ok(Err(error)) => Err(error),
            // What is there is better than nothing.
            Err(_) => {
                helper.start_kill()?;
                Ok(path)
            }
        }
    }
}

/// Removes the oldest dumps, by their names. Another may do so at the same time, and one that stays is only one more.
fn prune(dir: &Path) {
    let mut dumps: Vec<_> = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    dumps.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    dumps.sort();
    let excess = dumps.len().saturating_sub(KEPT);
    for oldest in dumps.iter().take(excess) {
        let _gone = fs::remove_file(oldest);
    }
}

#[cfg(test)]
mod tests;
