//! Processes of a scenario's own without a supervisor: started, replaced and stopped by hand on sockets that the scenario bound and lends to each generation,
//! which is what `gatehouse restart` does.

mod doors;
pub mod load;
mod supervisor;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener},
    },
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt as _, FdMapping};
use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::admin_client::AdminClient;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::transport::Channel;

use crate::{Builder, EventStream, GatewayKey, RedisServer, Suite, output::Lines, servers, suite::Prepared, wait};
pub use doors::Doors;
pub use supervisor::Supervisor;

/// `SD_LISTEN_FDS_START`.
const FIRST_FD: i32 = 3;

/// The sockets, the files and the Redis that all generations share.
#[derive(Debug)]
pub struct Premises {
    prepared: Prepared,
    sockets: BTreeMap<String, OwnedFd>,
    /// The Redis.
    pub redis: RedisServer,
}

/// One process.
#[derive(Debug)]
pub struct Generation {
    child: Child,
    /// `edge`, `pusher/1`.
    pub slot: String,
    notified: UnixDatagram,
    /// What it printed to stdout.
    pub stdout: Lines,
    /// What it logged.
    pub stderr: Lines,
}

impl Premises {
    /// Binds every socket. `settings` adds backends and the like.
    pub async fn open(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let redis = servers::redis().await;
        let prepared = settings(Suite::builder().redis(&redis)).prepare();
        let mut sockets = BTreeMap::new();
        for public in ["http", "grpc", "admin", "push"] {
            sockets.insert(public.to_owned(), OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()));
        }
        let run = prepared.scratch.path().join("run");
        for local in ["edge", "pusher-0", "pusher-1", "pusher-2", "pusher-3", "auditor", "admin"] {
            let path = run.join(format!("{local}.sock"));
            sockets.insert(format!("local.{local}"), OwnedFd::from(UnixListener::bind(path).unwrap()));
        }
        Self { prepared, sockets, redis }
    }

    /// Where a public socket listens.
    #[must_use]
    pub fn address(&self, socket: &str) -> SocketAddr {
        TcpListener::from(self.sockets[socket].try_clone().unwrap()).local_addr().unwrap()
    }

    /// The key that everybody signs with.
    #[must_use]
    pub const fn key(&self) -> &GatewayKey {
        &self.prepared.key
    }

    /// `runtime_dir`.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.prepared.scratch.path().join("run")
    }

    /// `state_dir`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.prepared.scratch.path().join("state")
    }

    /// A channel to a public socket that speaks gRPC.
    #[must_use]
    pub fn channel(&self, socket: &str) -> Channel {
        Doors::channel(self.address(socket))
    }

    /// A client of the operators' local socket.
    #[must_use]
    pub fn admin(&self) -> AdminClient<ipc::Channel> {
        AdminClient::new(ipc::channel(self.runtime_dir().join("admin.sock")))
    }

    /// Opens an event stream through the edge.
    pub async fn subscribe(&self, device: &crate::Device, cursor: &str) -> Result<EventStream, tonic::Status> {
        EventStream::open(self.channel("grpc"), self.key(), device, cursor).await
    }

    /// Starts one more process of a slot, beside those that run.
    #[must_use]
    pub fn start(&self, slot: &str) -> Generation {
        let (component, instance) = slot.split_once('/').unwrap_or((slot, "0"));
        let local = if component == "pusher" { format!("local.{component}-{instance}") } else { format!("local.{component}") };
        let public: &[&str] = match component {
            "edge" => &["http", "grpc"],
            // Clients come to the first one directly.
            "pusher" if instance == "0" => &["push"],
            "admin" => &["admin"],
            _ => &[],
        };
        let mut command = self.prepared.command(&format!("gatehouse-{component}"), &[]);
        let mut names = vec!["local"];
        names.extend(public);
        let lent = names.iter().map(|name| if *name == "local" { local.as_str() } else { name });
        let mappings =
            lent.zip(FIRST_FD..).map(|(name, child_fd)| FdMapping { parent_fd: self.sockets[name].try_clone().unwrap(), child_fd });
        let mappings = mappings.collect();
        let notify = self.prepared.scratch.path().join(format!("notify-{}", uuid::Uuid::new_v4().simple()));
        let notified = UnixDatagram::bind(&notify).unwrap();
        notified.set_nonblocking(true).unwrap();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command.env("GATEWAY_INSTANCE", instance).env("NOTIFY_SOCKET", notify).env("LOG_FORMAT", "text");
        command.fd_mappings(mappings).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start a component");
        let (stdout, stderr) = (Lines::collect(child.stdout.take().unwrap()), Lines::collect(child.stderr.take().unwrap()));
        Generation { child, slot: slot.to_owned(), notified, stdout, stderr }
    }

    /// The same, and waits until it says that it is ready.
    pub async fn start_ready(&self, slot: &str) -> Generation {
        let mut generation = self.start(slot);
        generation.ready().await;
        generation
    }

    /// A planned replacement: the successor is ready before the old one is asked to drain. How long the drain took.
    pub async fn replace(&self, generation: &mut Generation) -> Duration {
        let successor = self.start_ready(&generation.slot).await;
        std::mem::replace(generation, successor).drain().await
    }
}

impl Generation {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for `READY=1`.
    pub async fn ready(&mut self) {
        let slot = self.slot.clone();
        wait::eventually(&format!("{slot} is ready"), async || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{slot} ended with {ended:?}: {}", self.stderr.text());
            let mut said = [0; 4096];
            let length = self.notified.recv(&mut said).ok()?;
            std::str::from_utf8(&said[..length]).unwrap().lines().any(|line| line == "READY=1").then_some(())
        })
        .await;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// SIGTERM, and waits for its end; how long that took.
    pub async fn drain(mut self) -> Duration {
        let begun = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert_eq!(status, Some(0), "{} drains in good order: {}", self.slot, self.stderr.text());
        begun.elapsed()
    }

    /// Waits for its end; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        // More often than a scenario needs to look, for the time is what is measured.
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < wait::PATIENCE, "{} does not end: {}", self.slot, self.stderr.text());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.stderr.all();
            eprintln!("the last lines of {}:\n{}", self.slot, lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        // It may have ended.
        let _gone = (self.child.kill(), self.child.wait());
    }
}
