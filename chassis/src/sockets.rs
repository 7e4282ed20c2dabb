//! Sockets that were bound elsewhere and lent to this process by the systemd protocol (`sd_listen_fds(3)`): `LISTEN_FDS` of them from descriptor 3 on,
//! named by `LISTEN_FDNAMES`.
//!
//! Under our supervisor, under systemd, or in a test, a process gets them the same way. It never binds, closes or unlinks one, so that no
//! generation can take another's socket away.

use std::{
    collections::BTreeMap,
    env, io,
    os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd},
    process,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname},
};
use std::os::fd::AsRawFd as _;
use tokio::net::{TcpListener, UnixListener};

/// The first inherited descriptor (`SD_LISTEN_FDS_START`).
const FIRST_FD: i32 = 3;

/// The sockets that were lent, by name, until they are taken.
#[derive(Debug, Default)]
pub struct Inherited(BTreeMap<String, Vec<OwnedFd>>);

/// A socket to accept on.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A local socket.
    Unix(UnixListener),
}

impl Inherited {
    /// Takes what the environment describes. Call it once, before any other descriptor is opened.
    pub fn from_env() -> io::Result<Self> {
        let Some(count) = env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<i32>().ok()) else { return Ok(Self::default()) };
        // A parent that cannot know our pid before the fork leaves LISTEN_PID out; one that is there must be ours.
        if env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() != Ok(process::id())) {
            return Ok(Self::default());
        }
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut sockets = BTreeMap::<String, Vec<OwnedFd>>::new();
        for number in FIRST_FD..FIRST_FD + count {
            let fd = adopt(number)?;
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
            sockets.entry(name.to_owned()).or_default().push(fd);
        }
        Ok(Self(sockets))
    }

    /// Sockets that the caller bound, by name: how a test lends them.
    #[must_use]
    pub fn of(sockets: impl IntoIterator<Item = (&'static str, OwnedFd)>) -> Self {
        let mut lent = BTreeMap::<String, Vec<OwnedFd>>::new();
        for (name, fd) in sockets {
            lent.entry(name.to_owned()).or_default().push(fd);
        }
        Self(lent)
    }

    /// Takes the socket of that name, if one was lent. Needs a runtime.
    pub fn take(&mut self, name: &str) -> io::Result<Option<Listener>> {
        self.take_fd(name).map(Listener::from_fd).transpose()
    }

    /// Takes it as it is, to lend it on. Of several of that name the first: nobody would accept on the others, so they are closed.
    pub fn take_fd(&mut self, name: &str) -> Option<OwnedFd> {
        let mut lent = self.0.remove(name)?.into_iter();
        let first = lent.next();
        let others = lent.count();
        if others > 0 {
            tracing::warn!(socket = name, others, "several descriptors of one name were lent; all but the first are closed");
        }
        first
    }

    /// Another descriptor of each that was not taken yet, with its name.
    pub fn duplicates(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let each = self.0.iter().flat_map(|(name, lent)| lent.iter().map(move |fd| Ok((name.clone(), fd.try_clone()?))));
        each.collect()
    }

    /// The names of those that were not taken yet.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds a socket that this process has bound itself.
    pub fn insert(&mut self, name: &str, socket: OwnedFd) {
        self.0.entry(name.to_owned()).or_default().push(socket);
    }
}

#[expect(unsafe_code, reason = "an inherited descriptor is known by its number alone")]
fn adopt(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the environment says that this descriptor was handed to us; it is checked to be open below, and nothing else in the
    // process owns it, for this runs once, before any other descriptor is opened.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(error) => {
            // Not open: dropping it would close a number that somebody else may get.
            std::mem::forget(fd);
            Err(io::Error::other(format!("LISTEN_FDS names descriptor {number}, which is not open: {error}")))
        }
    }
}

/// The variable that names the descriptor of the lane: a locked file that says for as long as this process runs that it does.
pub const LANE_FD: &str = "GATEHOUSE_LANE_FD";

/// Keeps the lane to this process alone: what it executes must not hold the lock on. Under no supervisor there is none.
pub(crate) fn keep_lane() {
    let number = env::var(LANE_FD).ok().and_then(|number| number.parse().ok()).filter(|number| *number >= FIRST_FD);
    // One that is not open was meant for another process, which handed its environment on.
    if let Some(Ok(lane)) = number.map(adopt) {
        // Closed by the end of the process and nothing before.
        let _number = lane.into_raw_fd();
    }
}

impl Listener {
    /// From a bound and listening socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        if address.family() == Some(AddressFamily::Unix) {
            let socket = std::os::unix::net::UnixListener::from(fd);
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket).map(Self::Unix)
        } else {
            let socket = std::net::TcpListener::from(fd);
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket).map(Self::Tcp)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_sockets_of_one_name_the_first_is_taken_and_the_others_are_closed() {
        let sockets = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [first, second, other] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let names = ["http", "http", "grpc"];
        let mut inherited = Inherited::of(names.into_iter().zip(sockets.map(OwnedFd::from)));
        assert_eq!(inherited.names().collect::<Vec<_>>(), ["grpc", "http"]);
        let taken = std::net::TcpListener::from(inherited.take_fd("http").unwrap());
        assert_eq!(taken.local_addr().unwrap(), first);
        assert!(std::net::TcpStream::connect(second).is_err());
        assert!(inherited.take_fd("http").is_none());
        std::net::TcpStream::connect(other).unwrap();
    }
}
