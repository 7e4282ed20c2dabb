//! Sockets that the children of a dead supervisor still hold, taken from them (`pidfd_getfd(2)`) while they go on using them.
//!
//! The kernel allows it to whoever may trace the child: the same user, unless `kernel.yama.ptrace_scope` says otherwise, or one with `CAP_SYS_PTRACE`.
//! The tracer that components declare (`PR_SET_PTRACER`) is the supervisor that started them, for dumps. It cannot be the next one, whose pid is not known in
//! advance, and to allow every process of the user would open the signer's key to all of them. Where it is refused there is systemd's fd store, or a start
//! that drains the left-over processes first.

use std::{collections::BTreeMap, fs, io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::Wanted;

/// The first descriptor that a child was lent.
const FIRST_FD: i32 = 3;

/// The kernel keeps us from looking.
#[derive(Debug, thiserror::Error)]
#[error(
    "the sockets of {process}, which a supervisor that died has left behind, cannot be taken over: {cause}{scope}. Two ways out: run under systemd with \
     FileDescriptorStoreMax= in the unit, which keeps the sockets; or stop the left-over processes, so that the sockets can be bound anew"
)]
pub(crate) struct Refused {
    process: String,
    scope: String,
    #[source]
    cause: io::Error,
}

/// What of `wanted` these processes hold, by name. The refusal of one is told only if something is found with nobody.
pub(crate) fn find(wanted: &[&Wanted], orphans: &[u32]) -> (BTreeMap<String, OwnedFd>, Option<Refused>) {
    let (mut found, mut refused) = (BTreeMap::new(), None);
    for &pid in orphans {
        if found.len() == wanted.len() {
            return (found, None);
        }
        match search(pid, wanted, &mut found) {
            Err(cause) if matches!(cause.kind(), io::ErrorKind::PermissionDenied) => refused = Some(Refused::of(pid, cause)),
            Err(error) => tracing::debug!(child.pid = pid, %error, "its sockets cannot be looked for; it has ended"),
            Ok(()) => {}
        }
    }
    let refused = refused.filter(|_| found.len() < wanted.len());
    (found, refused)
}

fn search(pid: u32, wanted: &[&Wanted], found: &mut BTreeMap<String, OwnedFd>) -> io::Result<()> {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no such pid"))?;
    let pidfd = pidfd_open(known, PidfdFlags::empty())?;
    let lent = lent_names(pid)?;
    for number in open_sockets(pid)? {
        if found.len() == wanted.len() {
            break;
        }
        let fd = match pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => fd,
            // Closed meanwhile.
            Err(rustix::io::Errno::BADF) => continue,
            Err(error) => return Err(error.into()),
        };
        let name = usize::try_from(number - FIRST_FD).ok().and_then(|i| lent.get(i));
        // One of several sockets whose ports the kernel chose is known by the name under which it was lent.
        let is = |wanted: &&&Wanted| {
            let known = wanted.place.is_exact() || name.is_some_and(|name| wanted.lent_as() == name);
            known && !found.contains_key(&wanted.name) && wanted.place.check(&fd).is_ok()
        };
        if let Some(name) = wanted.iter().find(is).map(|wanted| wanted.name.clone()) {
            found.insert(name, fd);
        }
    }
    Ok(())
}

/// Numbers of the sockets that it has open, those that it was lent first.
fn open_sockets(pid: u32) -> io::Result<Vec<i32>> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let sockets = open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:")));
    let mut numbers: Vec<i32> = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Its `LISTEN_FDNAMES`.
fn lent_names(pid: u32) -> io::Result<Vec<String>> {
    let environ = fs::read(format!("/proc/{pid}/environ"))?;
    let names = environ.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"LISTEN_FDNAMES="));
    Ok(names.map(|names| String::from_utf8_lossy(names).split(':').map(ToOwned::to_owned).collect()).unwrap_or_default())
}

impl Refused {
    fn of(pid: u32, cause: io::Error) -> Self {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        let scope = Some(scope.trim()).filter(|scope| !matches!(*scope, "" | "0"));
        Self {
            process: format!("{} (pid {pid})", name.trim()),
            scope: scope.map(|scope| format!(" (kernel.yama.ptrace_scope is {scope})")).unwrap_or_default(),
            cause,
        }
    }
}
