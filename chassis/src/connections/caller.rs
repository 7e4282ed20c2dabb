//! Who comes to a listener.

use std::{io, net::SocketAddr};

use super::lent::Stream;
use crate::sockets::Listener;

/// Who is at the other end; an extension of every request. `None` on local sockets.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<SocketAddr>);

/// Who is at the other end of a local socket, as the kernel saw them when they connected (`SO_PEERCRED`, unix(7)); an extension of every request that came
/// by one. A process that hands its connection on hands on its name, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process, unless it lives in a pid namespace that we do not see. By now another may have its number.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group; supplementary ones are not told.
    pub gid: u32,
}

/// Who is at the other end.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) credentials: Option<Credentials>,
}

/// Waits for the next one.
pub(super) async fn accept(listener: &Listener) -> io::Result<(Box<dyn Stream>, Caller)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            // Small answers must not wait for the acknowledgement of the last one.
            stream.set_nodelay(true)?;
            Ok((Box::new(stream), Caller { peer: Peer(Some(peer)), credentials: None }))
        }
        Listener::Unix(listener) => {
            let stream = listener.accept().await?.0;
            // Whoever needs them refuses a peer without.
            let credentials = stream.peer_cred().ok().map(|peer| Credentials { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() });
            Ok((Box::new(stream), Caller { peer: Peer(None), credentials }))
        }
    }
}
