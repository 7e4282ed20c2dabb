//! Directories for one test process, and the end of everything that was started in them.
//!
//! Every process of a scenario has its working directory below the test process's root, so that it can be found by it, whoever its parent is
//! by now. A small shell, the leash, holds the other end of a pipe: when the test process ends, even by a signal, it ends what is left and
//! removes the root. Statics, which Rust never drops, are covered that way too.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Set to anything, directories are kept for a look at the logs in them.
const KEEP: &str = "GATEHOUSE_TEST_KEEP";

const LEASH: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for round in 1 2 3 4 5; do
    left=0
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/cwd" 2>/dev/null)" in
            "$0" | "$0"/*) kill -9 "${process#/proc/}" 2>/dev/null; left=1 ;;
        esac
    done
    [ "$left" = 0 ] && break
done
[ -n "$GATEHOUSE_TEST_KEEP" ] || rm -rf "$0"
"#;

struct Root {
    dir: PathBuf,
    next: AtomicU32,
    _leash: ChildStdin,
}

#[expect(clippy::zombie_processes, reason = "the leash outlives this process on purpose")]
fn root() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Short: a unix socket's path has 107 bytes.
        let dir = tempfile::Builder::new().prefix("gh-").rand_bytes(5).tempdir_in("/tmp").expect("make a directory in /tmp").keep();
        // PostgreSQL runs as somebody else when the tests run as root.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        let mut leash = Command::new("/bin/sh");
        leash.args(["-c", LEASH]).arg(&dir).current_dir("/").process_group(0);
        let mut leash = leash.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start /bin/sh");
        Root { _leash: leash.stdin.take().unwrap(), dir, next: AtomicU32::new(0) }
    })
}

/// The directory of this test process.
#[must_use]
pub fn root_dir() -> &'static Path {
    &root().dir
}

/// One scenario's directory. Dropping it ends every process that works in it, and removes it.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// A new, empty one.
    #[must_use]
    pub fn new() -> Self {
        let root = root();
        let dir = root.dir.join(root.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// The same for its owner's eyes alone, as private keys must be.
    #[must_use]
    pub fn write_private(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A supervisor may start a child while its siblings are being ended.
        for _round in 0..5 {
            let found = processes_in(&self.dir);
            if found.is_empty() {
                break;
            }
            for pid in found {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if std::env::var_os(KEEP).is_none() {
            // What the leash removes later anyway.
            let _left = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The processes whose working directory is `dir` or below it.
#[must_use]
pub fn processes_in(dir: &Path) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let works_here = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
    numbers.filter(works_here).collect()
}

/// Whether that process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the command's name, which may hold any character.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_scratch_ends_what_works_in_it() {
        let scratch = Scratch::new();
        let mut child = Command::new("sleep").arg("600").current_dir(scratch.path()).spawn().unwrap();
        assert!(is_alive(child.id()));
        let dir = scratch.path().to_owned();
        drop(scratch);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
        assert!(std::env::var_os(KEEP).is_some() || !dir.exists());
    }
}
