//! Who comes to a listener.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, sync::Arc};

use nix::{errno::Errno, libc};
use tokio::net::{TcpStream, UnixStream};

use super::{lent::Stream, tls::Secured};
use crate::sockets::Listener;

/// More than most have.
const FEW_GROUPS: usize = 32;

/// Who is at the other end, by what a trusted load balancer says (`[connections] proxy_protocol_from`), else by the socket; an extension of every request. `None`
/// on local sockets.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<SocketAddr>);

/// Who is at the other end of a local socket, as the kernel saw them when they connected (`SO_PEERCRED`, `SO_PEERGROUPS`, unix(7)); an extension of every
/// request that came by one. A process that hands its connection on hands on its name, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process, unless it lives in a pid namespace that we do not see. By now another may have its number.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups; none where the kernel does not tell.
    pub groups: Arc<[u32]>,
}

/// Who is at the other end.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) credentials: Option<Credentials>,
    pub(super) secured: Option<Secured>,
}

/// Where the bytes come from.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Resolves when something can be read.
    pub(super) async fn heard(&self) {
        // An error is told to whoever reads.
        let _readable = match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        };
    }

    pub(super) fn into_stream(self) -> Box<dyn Stream> {
        match self {
            Self::Tcp(stream) => Box::new(stream),
            Self::Unix(stream) => Box::new(stream),
        }
    }
}

/// Waits for the next one.
pub(super) async fn accept(listener: &Listener) -> io::Result<(Socket, Caller)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            // Small answers must not wait for the acknowledgement of the last one.
            stream.set_nodelay(true)?;
            Ok((Socket::Tcp(stream), Caller { peer: Peer(Some(peer)), credentials: None, secured: None }))
        }
        Listener::Unix(listener) => {
            let stream = listener.accept().await?.0;
            // Whoever needs them refuses a peer without.
            let credentials = stream.peer_cred().ok();
            let credentials =
                credentials.map(|peer| Credentials { pid: peer.pid(), uid: peer.uid(), gid: peer.gid(), groups: groups_of(&stream) });
            Ok((Socket::Unix(stream), Caller { peer: Peer(None), credentials, secured: None }))
        }
    }
}

#[expect(unsafe_code, reason = "neither nix nor rustix knows this option")]
fn groups_of(stream: &UnixStream) -> Arc<[u32]> {
    let mut groups = vec![0_u32; FEW_GROUPS];
    loop {
        let Ok(mut length) = libc::socklen_t::try_from(size_of_val(groups.as_slice())) else { return Arc::default() };
        let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
        // SAFETY: the kernel writes at most `length` bytes, which are those of `groups`, and any bytes are numbers.
        let told = unsafe { libc::getsockopt(stream.as_raw_fd(), level, option, groups.as_mut_ptr().cast(), &raw mut length) };
        let count = usize::try_from(length).unwrap_or(usize::MAX) / size_of::<u32>();
        match Errno::result(told) {
            Ok(_) => {
                groups.truncate(count);
                return groups.into();
            }
            // So many are needed; they do not change any more.
            Err(Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(_) => return Arc::default(),
        }
    }
}
