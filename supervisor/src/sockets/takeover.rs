//! Sockets that the children of a dead supervisor still hold, taken from them (`pidfd_getfd(2)`) while they go on using them.
//!
//! The kernel allows it to whoever may trace the child: the same user, unless `kernel.yama.ptrace_scope` says otherwise, or one with `CAP_SYS_PTRACE`.
//! The tracer that components declare (`PR_SET_PTRACER`) is the supervisor that started them, for dumps. It cannot be the next one, whose pid is not known in
//! advance, and to allow every process of the user would open the signer's key to all of them. Where it is refused there is systemd's fd store. Without it, local
//! sockets are bound anew and their components replaced while they serve; only who holds an address that cannot be bound twice has to end first ([`Held`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::OwnedFd,
};

use nix::libc;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::Wanted;
use crate::component::Component;

/// The first descriptor that a child was lent.
const FIRST_FD: i32 = 3;

/// The kernel keeps us from looking.
#[derive(Debug, thiserror::Error)]
#[error(
    "the sockets of {process}, which a supervisor that died has left behind, cannot be taken over: {cause}{scope}; under systemd, FileDescriptorStoreMax= \
     in the unit would have kept them"
)]
pub(crate) struct Refused {
    process: String,
    scope: String,
    #[source]
    cause: io::Error,
}

/// Addresses that living children hold, and nobody can listen on beside them.
#[derive(Debug, thiserror::Error)]
#[error("{refused}. {} cannot be bound beside them", addresses.join(", "))]
pub(crate) struct Held {
    /// `listen.http: 127.0.0.1:8080`.
    pub(super) addresses: Vec<String>,
    /// Whose processes have to end.
    pub(crate) components: BTreeSet<Component>,
    #[source]
    pub(super) refused: Refused,
}

/// What of `wanted` these processes hold, by name. The refusal of one is told only if something is found with nobody.
pub(crate) fn find(wanted: &[&Wanted], orphans: &[(Component, u32)]) -> (BTreeMap<String, OwnedFd>, Option<Refused>) {
    let (mut found, mut refused) = (BTreeMap::new(), None);
    for &(_, pid) in orphans {
        if found.len() == wanted.len() {
            return (found, None);
        }
        match search(pid, wanted, &mut found) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {
                tracing::debug!(child.pid = pid, %error, "its sockets cannot be looked for; it has ended");
            }
            // Also by a kernel, or a filter of system calls, that does not know the call.
            Err(cause) => refused = Some(Refused::of(pid, cause)),
            Ok(()) => {}
        }
    }
    let refused = refused.filter(|_| found.len() < wanted.len());
    (found, refused)
}

fn search(pid: u32, wanted: &[&Wanted], found: &mut BTreeMap<String, OwnedFd>) -> io::Result<()> {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no such pid"))?;
    let pidfd = pidfd_open(known, PidfdFlags::empty())?;
    let (sockets, lent) = (open_sockets(pid)?, lent_names(pid)?);
    for number in sockets {
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
    let mut numbers = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        match fs::read_link(entry.path()) {
            Ok(target) if target.to_string_lossy().starts_with("socket:") => {
                numbers.extend(entry.file_name().to_str().and_then(|number| number.parse::<i32>().ok()));
            }
            // Its descriptors may be listed for us, and yet not be looked at.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // Another kind, or closed meanwhile.
            _ => {}
        }
    }
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
