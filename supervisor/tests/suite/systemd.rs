//! As much of systemd as a supervisor sees: a notification socket with an fd store behind it, and `LISTEN_FDS` with what is stored for the next start.

use std::{
    collections::BTreeMap,
    io::IoSliceMut,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};

use crate::world::World;

/// The longest that a message may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Systemd(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    messages: Vec<String>,
    store: BTreeMap<String, OwnedFd>,
}

impl Systemd {
    /// Listens on that path from now on.
    pub fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let ours = Arc::clone(&heard);
        // Ends with the test's process.
        thread::spawn(move || {
            loop {
                let (message, fds) = receive(&socket);
                ours.lock().unwrap().hear(message, fds);
            }
        });
        Self(heard)
    }

    /// Every message that has this line.
    pub fn messages(&self, line: &str) -> Vec<String> {
        self.0.lock().unwrap().messages.iter().filter(|message| message.lines().any(|found| found == line)).cloned().collect()
    }

    /// What is in the store.
    pub fn stored(&self) -> Vec<String> {
        self.0.lock().unwrap().store.keys().cloned().collect()
    }

    /// Puts one there, as a supervisor before would have.
    pub fn put(&self, name: &str, fd: OwnedFd) {
        self.0.lock().unwrap().store.insert(name.to_owned(), fd);
    }

    /// The inode of a stored socket.
    pub fn inode(&self, name: &str) -> u64 {
        nix::sys::stat::fstat(&self.0.lock().unwrap().store[name]).unwrap().st_ino
    }

    pub async fn until(&self, what: &str, fits: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !fits(self) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {:?} of {:?}", self.stored(), self.0.lock().unwrap().messages);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A supervisor that is started with what is stored, which stays stored.
    pub fn command(&self, world: &World) -> Command {
        let mut command = world.command();
        let store = &self.0.lock().unwrap().store;
        let names: Vec<_> = store.keys().cloned().collect();
        let mappings = (3..).zip(store.values()).map(|(child_fd, fd)| FdMapping { parent_fd: fd.try_clone().unwrap(), child_fd }).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command.fd_mappings(mappings).unwrap();
        command
    }
}

impl Heard {
    fn hear(&mut self, message: String, fds: Vec<OwnedFd>) {
        let line = |line: &str| message.lines().any(|found| found == line);
        let name = message.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
        if line("FDSTORE=1") {
            self.store.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
        } else if line("FDSTOREREMOVE=1") {
            // It has others to serve.
            thread::park_timeout(Duration::from_millis(50));
            self.store.remove(&name);
        }
        // That of a barrier is closed here, when all before it was heard.
        self.messages.push(message);
    }
}

#[expect(unsafe_code, reason = "a received descriptor is known by its number alone")]
fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut bytes = [0_u8; 4096];
    let mut control = cmsg_space!([i32; 16]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let rights = message.cmsgs().unwrap().filter_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    // SAFETY: the kernel has just opened them for us, and nobody else knows them.
    let fds = rights.flatten().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    let length = message.bytes;
    (String::from_utf8_lossy(&bytes[..length]).into_owned(), fds)
}
