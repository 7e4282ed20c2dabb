//! Executes another binary in place of this process: same pid, same children, same arguments and environment, and the descriptors that are to be kept, by name, as
//! `LISTEN_FDS` and `LISTEN_FDNAMES` (`sd_listen_fds(3)`): the successor gets them the way it would get them from systemd.
//!
//! `LISTEN_FDS` wants descriptor 3 and those after it, and here they are in use. They are put there in a copy of the descriptor table that one thread has for
//! itself (`unshare(CLONE_FILES)`), and that thread executes: the kernel ends all others and gives it their pid. If the kernel refuses, the thread ends with its
//! copy, and this process goes on as if nothing had been.

use std::{
    env, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use gatehouse_chassis::outlet::Outlet;
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal},
};

/// `SD_LISTEN_FDS_START`.
const FIRST_FD: i32 = 3;
/// Every signal that we handle.
const HELD_BACK: [Signal; 6] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM];
/// How long the last lines may take: the thread that writes them ends with us.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A binary that is held open, as something to execute, whatever stands under its name by now. Valid while the descriptor is open.
pub(crate) fn pinned(binary: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", binary.as_raw_fd()).into()
}

/// Becomes that program. Returns if it cannot, with everything as it was. Whatever is not among `kept` closes itself.
///
/// Call it from the thread that has the children, when nothing is on its way that the end of all other threads must not cut.
pub(crate) fn exec(program: &Path, kept: &[(String, OwnedFd)]) -> io::Error {
    Outlet::stderr().flush(LAST_LINES);
    thread::scope(|scope| {
        let executed = thread::Builder::new().name("reexec".to_owned()).spawn_scoped(scope, || become_it(program, kept));
        match executed.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(error)) | Err(error) => error,
            Ok(Err(_)) => io::Error::other("the thread that executes panicked"),
        }
    })
}

fn become_it(program: &Path, kept: &[(String, OwnedFd)]) -> io::Error {
    // Of the mask and of handlers, an image inherits the mask. These wait for the new handlers: before that they would end it.
    let held_back: SigSet = HELD_BACK.into_iter().collect();
    if let Err(error) = unshare(CloneFlags::CLONE_FILES).and_then(|()| held_back.thread_set_mask()) {
        return error.into();
    }
    // Copies in our own table: the others are closed by whoever called, in theirs.
    let fds = match kept.iter().map(|(_, fd)| fd.try_clone()).collect::<io::Result<Vec<_>>>() {
        Ok(fds) => fds,
        Err(error) => return error,
    };
    let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(own) = arguments.next() {
        command.arg0(own);
    }
    command
        .args(arguments)
        .env("LISTEN_PID", process::id().to_string())
        .env("LISTEN_FDS", names.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"));
    let mappings = (FIRST_FD..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
    match command.fd_mappings(mappings) {
        Ok(command) => command.exec(),
        Err(error) => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{Read as _, Seek as _, Write as _},
        net::{TcpListener, TcpStream},
        os::{fd::AsFd as _, unix::net::UnixDatagram},
        process::Stdio,
    };

    use super::*;
    use gatehouse_chassis::sockets::Inherited;

    /// No test but the program, when it is one: binds, executes itself, and looks what it has.
    #[test]
    fn image() {
        match env::var("REEXEC_IMAGE").as_deref() {
            Ok("first") if env::var("LISTEN_PID").is_err() => first(),
            Ok("first") => second(),
            _ => {}
        }
    }

    /// What an image begins with, from whoever called the test.
    fn open() -> Vec<i32> {
        let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let inherited = |fd: &i32| {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            u32::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000 == 0
        };
        let mut open: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(inherited).collect();
        open.sort_unstable();
        open
    }

    fn first() {
        let foreign: Vec<_> = open().into_iter().filter(|fd| *fd > 2).collect();
        // As the supervisor does: a runtime with its own descriptors and threads, blocked signals, a child.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        SigSet::from(Signal::SIGWINCH).thread_block().unwrap();
        #[expect(clippy::zombie_processes, reason = "the second image waits for it")]
        let child = Command::new("sleep").arg("600").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut note = tempfile::tempfile().unwrap();
        write!(note, "{} {} {} {foreign:?}", process::id(), child.id(), http.local_addr().unwrap()).unwrap();
        let kept = vec![
            ("note".to_owned(), note.into()),
            ("http".to_owned(), http.into()),
            ("notify".to_owned(), UnixDatagram::unbound().unwrap().into()),
            ("bin.edge".to_owned(), File::open("/proc/self/exe").unwrap().into()),
        ];
        let own = File::open("/proc/self/exe").unwrap();
        panic!("{}", exec(&pinned(own.as_fd()), &kept));
    }

    fn second() {
        let open = open();
        let mut inherited = Inherited::from_env().unwrap();
        let mut note = File::from(inherited.take_fd("note").unwrap());
        let mut text = String::new();
        note.rewind().unwrap();
        note.read_to_string(&mut text).unwrap();
        let [own, child, address, foreign] = text.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(own.parse(), Ok(process::id()));
        let http = TcpListener::from(inherited.take_fd("http").unwrap());
        assert_eq!(http.local_addr().unwrap().to_string(), address);
        drop(TcpStream::connect(address).unwrap());
        http.accept().unwrap();
        assert_eq!(inherited.names().collect::<Vec<_>>(), ["bin.edge", "notify"]);
        // Nothing else was left open but the standard ones, the four that were kept, and what the first image did not open.
        let foreign: Vec<i32> = serde_json::from_str(foreign).unwrap();
        let expected: std::collections::BTreeSet<i32> = (0..7).chain(foreign).collect();
        assert_eq!(open, expected.into_iter().collect::<Vec<_>>());
        let mask = SigSet::thread_get_mask().unwrap();
        assert!(!mask.contains(Signal::SIGWINCH) && HELD_BACK.into_iter().all(|held| mask.contains(held)));
        // It is still our child: nobody else may wait for it.
        let child = nix::unistd::Pid::from_raw(child.parse().unwrap());
        nix::sys::signal::kill(child, Signal::SIGKILL).unwrap();
        let ended = nix::sys::wait::waitpid(child, None).unwrap();
        assert_eq!(ended, nix::sys::wait::WaitStatus::Signaled(child, Signal::SIGKILL, false));
        println!("found all of it as {:?}", env::args().collect::<Vec<_>>());
    }

    #[test]
    fn a_successor_finds_its_descriptors_by_name_and_nothing_else() {
        let name = "reexec::tests::image";
        let output = Command::new(env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env("REEXEC_IMAGE", "first")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("found all of it as"), "{said}");
        assert!(said.contains(&format!("{name:?}, \"--exact\", \"--nocapture\"]")), "{said}");
    }

    #[test]
    fn what_cannot_be_executed_changes_nothing() {
        let sockets: Vec<_> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let open = || {
            let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let mut open: Vec<_> = entries.filter_map(|entry| Some((entry.file_name(), fs::read_link(entry.path()).ok()?))).collect();
            open.retain(|(_, target)| target.to_string_lossy().starts_with("socket:"));
            open
        };
        let ours: Vec<_> = sockets.iter().map(|socket| (socket.as_raw_fd().to_string().into(), link(socket.as_raw_fd()))).collect();
        let kept: Vec<_> = sockets.iter().rev().map(|socket| ("x".to_owned(), socket.try_clone().unwrap().into())).collect();
        let of_kept: Vec<_> = kept.iter().map(|(_, fd): &(String, OwnedFd)| link(fd.as_raw_fd())).collect();
        let error = exec(Path::new("/nonexistent/supervisor"), &kept);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        drop(kept);
        let mut after = open();
        assert!(ours.iter().all(|one| after.contains(one)), "{ours:?} {after:?}");
        // Other tests have sockets of their own.
        after.retain(|(_, target)| of_kept.contains(target));
        assert_eq!(after.len(), sockets.len(), "no copy stays behind");
    }

    fn link(number: i32) -> PathBuf {
        fs::read_link(format!("/proc/self/fd/{number}")).unwrap()
    }
}
