//! systemd's fd store (`FDSTORE=1`, `sd_notify(3)`): holds our sockets while no supervisor lives, and hands them to the next by `LISTEN_FDS`.
//!
//! It keeps what the unit allows (`FileDescriptorStoreMax=`); where nobody listens on `NOTIFY_SOCKET`, or it is no systemd, nothing comes of it.

use std::{
    collections::BTreeSet,
    env,
    io::{self, PipeReader},
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

/// How long systemd may take to say that it has done what we asked.
const BARRIER: Duration = Duration::from_secs(2);

/// What it holds of ours.
#[derive(Debug, Default)]
pub(crate) struct Store {
    names: BTreeSet<String>,
}

impl Store {
    /// It came with this one: systemd has it already.
    pub(crate) fn has(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }

    /// Gives it that socket. Once for each name.
    pub(crate) fn keep(&mut self, name: &str, socket: &OwnedFd) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        // A listening socket never hangs up, and one that did would be ours to judge.
        let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        if let Err(error) = sd_notify::notify_with_fds(&state, &[socket.as_fd()]) {
            tracing::warn!(socket = name, %error, "not given to systemd's fd store");
        }
    }

    /// Takes that name out of it.
    pub(crate) fn forget(&mut self, name: &str) {
        self.names.remove(name);
        if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
            tracing::warn!(socket = name, %error, "not removed from systemd's fd store");
        }
    }

    /// Waits until it has heard all that was said, so that an address which it held is free. Not for long.
    pub(crate) fn settle() {
        let Ok((reader, writer)) = io::pipe() else { return };
        if env::var_os("NOTIFY_SOCKET").is_some()
            && sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()]).is_ok()
        {
            drop(writer);
            wait(&reader);
        }
    }

    /// Says so when it cannot hold all of them. `FDSTORE` is what the unit allows; systemd before 254 does not tell.
    pub(crate) fn check(&self) {
        let allowed = env::var("FDSTORE").ok().and_then(|allowed| allowed.parse::<usize>().ok());
        if let Some(allowed) = allowed.filter(|allowed| *allowed < self.names.len()) {
            let sockets = self.names.len();
            tracing::warn!(allowed, sockets, "the unit's FileDescriptorStoreMax= is too small: not every socket outlives the supervisor");
        }
    }
}

/// Until the other end is closed.
fn wait(reader: &PipeReader) {
    let bound = Timespec::try_from(BARRIER).ok();
    // Late or interrupted: a bind that fails says why.
    let _late = poll(&mut [PollFd::new(reader, PollFlags::HUP)], bound.as_ref());
}
