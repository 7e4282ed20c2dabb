//! What children say on `NOTIFY_SOCKET` (`sd_notify(3)`): one datagram socket for all, each sender known by the pid that the kernel attests.
//!
//! The socket's queue holds few messages (`net.unix.max_dgram_qlen`), and senders wait for a place in turn; a child that floods it delays the others, and
//! costs us no memory.

use std::{
    fs, io,
    io::IoSliceMut,
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, net::UnixDatagram},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A longer message is cut.
const MAX_MESSAGE: usize = 4096;
/// Words of one message; what comes after is not heard.
const MAX_WORDS: usize = 16;
/// Characters of a status; the rest is cut.
const MAX_STATUS: usize = 200;
/// The most that a child is given at once.
const MAX_EXTENSION: Duration = Duration::from_hours(1);

/// One word of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// `READY=1`. Repeated with each [`Word::Alive`], for a supervisor that was not there when it was first said.
    Ready,
    /// `STOPPING=1`. Repeated likewise.
    Stopping,
    /// `WATCHDOG=1`: it makes progress.
    Alive,
    /// `WATCHDOG=trigger`: it makes none. With the `STATUS=` of the same message, which says what stands still.
    Stalled(String),
    /// `EXIT_STATUS=N`: it is about to exit with that.
    ExitStatus(i32),
    /// `EXTEND_TIMEOUT_USEC=N`: it will be silent for so long from now on, and is not to be taken for hung. Heard of one that
    /// serves; the times of a start and of a drain are the operator's, and it moves neither.
    Extend(Duration),
}

/// Who said what. Never both at once are ours to choose: the pid is the kernel's.
pub(crate) type Message = (u32, Vec<Word>);

/// The socket.
#[derive(Debug)]
pub(crate) struct Notifications {
    /// For reading alone: each datagram that is read makes room for another, and we would be woken for that.
    socket: AsyncFd<UnixDatagram>,
    path: PathBuf,
}

impl Notifications {
    /// Binds `notify.sock`.
    pub(crate) fn bind(runtime_dir: &Path) -> anyhow::Result<Self> {
        let path = runtime_dir.join("notify.sock");
        let bound = bind(&path).with_context(|| format!("bind {}", path.display()))?;
        Ok(Self { socket: bound, path })
    }

    /// Whether somebody has removed it: children cannot be heard, and are not to be judged by it.
    pub(crate) fn are_unheard(&self) -> bool {
        !self.path.exists()
    }

    /// Binds it again.
    pub(crate) fn restore(&mut self) -> io::Result<()> {
        self.socket = bind(&self.path)?;
        Ok(())
    }

    /// For `NOTIFY_SOCKET`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next message. Cancel-safe.
    pub(crate) async fn next(&self) -> io::Result<Message> {
        self.socket.async_io(Interest::READABLE, receive).await
    }

    /// The next message that is there already.
    pub(crate) fn try_next(&self) -> Option<Message> {
        receive(self.socket.get_ref()).ok()
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        // Somebody was quicker.
        let _absent = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<AsyncFd<UnixDatagram>> {
    // The lock on the state directory and the silence of supervisor.sock say that whose it was is dead.
    let _absent = fs::remove_file(path);
    let socket = UnixDatagram::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, PassCred, &true)?;
    #[expect(deprecated, reason = "unsound for borrowed descriptors; this one is owned, and the function in its place is unsafe")]
    AsyncFd::with_interest(socket, Interest::READABLE)
}

fn receive(socket: &UnixDatagram) -> io::Result<Message> {
    let mut bytes = [0_u8; MAX_MESSAGE];
    // Descriptors that a child sends along find no place here, and the kernel closes them.
    let mut control = cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let length = message.bytes;
    let sender = message.cmsgs().ok().into_iter().flatten().find_map(|message| match message {
        ControlMessageOwned::ScmCredentials(credentials) => u32::try_from(credentials.pid()).ok(),
        _ => None,
    });
    Ok((sender.unwrap_or(0), parse(&bytes[..length])))
}

/// The lines that concern us; the rest is heard and left.
fn parse(message: &[u8]) -> Vec<Word> {
    let message = String::from_utf8_lossy(message);
    let status = message.lines().find_map(|line| line.strip_prefix("STATUS="));
    let word = |line: &str| match line.split_once('=')? {
        ("READY", "1") => Some(Word::Ready),
        ("STOPPING", "1") => Some(Word::Stopping),
        ("WATCHDOG", "1") => Some(Word::Alive),
        ("WATCHDOG", "trigger") => Some(Word::Stalled(status.map(printable).unwrap_or_default())),
        ("EXIT_STATUS", code) => code.parse::<u8>().ok().map(|code| Word::ExitStatus(i32::from(code))),
        ("EXTEND_TIMEOUT_USEC", micros) => micros.parse().ok().map(|micros| Word::Extend(Duration::from_micros(micros).min(MAX_EXTENSION))),
        _ => None,
    };
    message.lines().filter_map(word).take(MAX_WORDS).collect()
}

/// It goes into logs and the status.
fn printable(status: &str) -> String {
    status.chars().take(MAX_STATUS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
