//! What a process says to whoever supervises it (`sd_notify(3)`), never waiting long for somebody who does not listen.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

use sd_notify::NotifyState;

/// How long a message may wait for a place in the receiver's queue, which holds few. The kernel hands places out in turn, so that nobody who floods the
/// queue keeps the others out.
const PATIENCE: Duration = Duration::from_millis(200);

/// The way to the supervisor or systemd; clones share it. Without `NOTIFY_SOCKET` it leads nowhere.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Option<Arc<Receiver>>);

#[derive(Debug)]
struct Receiver {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`: a path, or `@` and the name of an abstract socket.
    #[must_use]
    pub fn from_env() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Self(None) };
        match Self::to(&name) {
            Ok(notifier) => notifier,
            Err(error) => {
                tracing::debug!(%error, "NOTIFY_SOCKET is set to nothing usable");
                Self(None)
            }
        }
    }

    /// To the socket of that name.
    pub fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(Some(Arc::new(Receiver { socket, address }))))
    }

    /// One message.
    pub fn send(&self, words: &[NotifyState<'_>]) -> io::Result<()> {
        let Some(Receiver { socket, address }) = self.0.as_deref() else { return Ok(()) };
        let mut message = String::new();
        for word in words {
            // Writing to a string cannot fail.
            let _written = writeln!(message, "{word}");
        }
        socket.send_to_addr(message.as_bytes(), address).map(drop)
    }

    /// The same; a failure is logged.
    pub fn say(&self, words: &[NotifyState<'_>]) {
        if let Err(error) = self.send(words) {
            tracing::warn!(%error, "the supervisor was not notified");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn words_arrive_as_lines_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify.sock");
        let abstract_name = format!("gatehouse-test-{}", std::process::id());
        let sockets = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{abstract_name}").into(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap(),
            ),
        ];
        for (name, socket) in sockets {
            Notifier::to(&name).unwrap().send(&[NotifyState::Ready, NotifyState::Custom("EXIT_STATUS=3")]).unwrap();
            let mut bytes = [0; 64];
            let length = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"READY=1\nEXIT_STATUS=3\n");
        }
    }

    #[test]
    fn a_receiver_that_does_not_read_holds_nobody_up_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify.sock");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(path.as_os_str()).unwrap();
        let full = (0..100_000).find_map(|_| {
            let begun = Instant::now();
            notifier.send(&[NotifyState::Watchdog]).err().map(|error| (error.kind(), begun.elapsed()))
        });
        let (kind, waited) = full.expect("the queue never fills");
        assert_eq!(kind, io::ErrorKind::WouldBlock);
        assert!(waited < Duration::from_secs(10), "{waited:?}");
    }
}
