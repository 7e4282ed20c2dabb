//! What children say on `NOTIFY_SOCKET` (`sd_notify(3)`): one datagram socket for all, each sender known by the pid that the kernel attests.

use std::{
    fs, io,
    io::IoSliceMut,
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred},
};
use tokio::{io::Interest, net::UnixDatagram};

/// One word of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// `READY=1`.
    Ready,
    /// `STOPPING=1`.
    Stopping,
}

/// The socket.
#[derive(Debug)]
pub(crate) struct Notifications {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notifications {
    /// Binds `notify.sock`.
    pub(crate) fn bind(runtime_dir: &Path) -> anyhow::Result<Self> {
        let path = runtime_dir.join("notify.sock");
        // The lock on the state directory and the silence of supervisor.sock say that whose it was is dead.
        let _absent = fs::remove_file(&path);
        let bind = || {
            let socket = UnixDatagram::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            setsockopt(&socket, PassCred, &true)?;
            io::Result::Ok(socket)
        };
        let socket = bind().with_context(|| format!("bind {}", path.display()))?;
        Ok(Self { socket, path })
    }

    /// For `NOTIFY_SOCKET`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next message: who, and what it said. Cancel-safe.
    pub(crate) async fn next(&self) -> io::Result<(u32, Vec<Word>)> {
        self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        // Somebody was quicker.
        let _absent = fs::remove_file(&self.path);
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<(u32, Vec<Word>)> {
    let mut bytes = [0_u8; 4096];
    let mut control = cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let length = message.bytes;
    let sender = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmCredentials(credentials) => u32::try_from(credentials.pid()).ok(),
        _ => None,
    });
    Ok((sender.unwrap_or(0), parse(&bytes[..length])))
}

/// The lines that concern us; `STATUS=` and the rest are heard and left.
fn parse(message: &[u8]) -> Vec<Word> {
    let word = |line: &[u8]| match line {
        b"READY=1" => Some(Word::Ready),
        b"STOPPING=1" => Some(Word::Stopping),
        _ => None,
    };
    message.split(|byte| *byte == b'\n').filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_comes_with_the_pid_of_its_sender() {
        let dir = tempfile::tempdir().unwrap();
        let notifications = Notifications::bind(dir.path()).unwrap();
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.send_to(b"STATUS=half way\nREADY=1\nSTOPPING=1\nREADY=0", notifications.path()).unwrap();
        let heard = notifications.next().await.unwrap();
        assert_eq!(heard, (std::process::id(), vec![Word::Ready, Word::Stopping]));
    }
}
