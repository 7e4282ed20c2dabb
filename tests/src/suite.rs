//! The real suite: a `gatehouse-supervisor` of a scenario's own with everything that it starts.

mod builder;
pub mod control;
mod remains;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::Mutex,
    time::Duration,
};

use gatehouse_chassis::ipc;
use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, gateway_client::GatewayClient},
    internal::v1::{InstanceStatus, StatusRequest, StatusResponse, admin_client::AdminClient, supervisor_client::SupervisorClient},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{Device, EventStream, GatewayKey, RedisServer, Resp, Samples, Scratch, http, output::Lines, wait};
pub use builder::{Builder, Prepared};

/// A running suite.
#[derive(Debug)]
pub struct Suite {
    child: Mutex<Child>,
    supervisor: Pid,
    /// What the supervisor and its children print to stdout: the audit trail.
    pub stdout: Lines,
    /// And to stderr: logs and the report of a shutdown.
    pub stderr: Lines,
    /// The key that it signs with.
    pub key: GatewayKey,
    listeners: BTreeMap<String, String>,
    scratch: Scratch,
    env: BTreeMap<String, String>,
    shell: Option<String>,
}

impl Suite {
    /// What to start.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// `state_dir`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join(builder::STATE)
    }

    /// `runtime_dir`.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir().join(builder::RUN)
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir().join(builder::CONFIG)
    }

    /// Where a public listener is bound: `http`, `grpc`, `admin`, `push`.
    #[must_use]
    pub fn address(&self, listener: &str) -> SocketAddr {
        let address = self.listeners.get(listener).unwrap_or_else(|| panic!("no listener {listener} in {:?}", self.listeners));
        address.parse().unwrap_or_else(|_| panic!("{listener} at {address}"))
    }

    /// The supervisor's process id.
    #[must_use]
    pub fn supervisor_pid(&self) -> u32 {
        self.supervisor.as_raw().unsigned_abs()
    }

    /// What the supervisor says of its children.
    pub async fn status(&self) -> StatusResponse {
        self.try_status().await.expect("ask the supervisor for its status")
    }

    async fn try_status(&self) -> Result<StatusResponse, Status> {
        let channel = ipc::channel(self.runtime_dir().join("supervisor.sock"));
        Ok(SupervisorClient::new(channel).status(StatusRequest {}).await?.into_inner())
    }

    /// One child's status: `edge`, `pusher/1`.
    pub async fn instance(&self, name: &str) -> InstanceStatus {
        let status = self.status().await;
        let (component, number) = split(name);
        let of_it = |instance: &&InstanceStatus| instance.component == component && instance.instance == number;
        // During a restart it has two: the one that drains is not what anybody asks for.
        let lead = status.instances.iter().filter(of_it).find(|instance| instance.state != "draining");
        let found = lead.or_else(|| status.instances.iter().find(of_it));
        found.unwrap_or_else(|| panic!("no {name} in {status:?}")).clone()
    }

    /// Process ids of all children that run and do not drain, by name: `edge`, `pusher/0`, `pusher/1`, …
    pub async fn pids(&self) -> BTreeMap<String, u32> {
        let instances = self.status().await.instances.into_iter().filter(|instance| instance.state != "draining");
        instances.filter_map(|instance| Some((name(&instance), instance.pid?))).collect()
    }

    /// Waits until every component is ready.
    pub async fn ready(&self) {
        wait::eventually("the suite is ready", async || self.try_status().await.ok()?.ready.then_some(())).await;
    }

    /// Ends one child as a crash does and waits until another is ready in its place.
    pub async fn kill9(&self, name: &str) {
        let pid = self.send(name, Signal::SIGKILL).await;
        self.replaced(name, pid).await;
    }

    /// Sends one child a signal; its pid.
    pub async fn send(&self, name: &str, signal: Signal) -> u32 {
        let instance = self.instance(name).await;
        let pid = instance.pid.unwrap_or_else(|| panic!("{name} does not run: {instance:?}"));
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
        pid
    }

    /// Waits until another process than that is ready in its place.
    pub async fn replaced(&self, name: &str, pid: u32) {
        wait::eventually(&format!("{name} runs again"), async || {
            let now = self.instance(name).await;
            (now.state == "ready" && now.pid.is_some_and(|now| now != pid)).then_some(())
        })
        .await;
    }

    /// Whether the supervisor has not ended yet.
    #[must_use]
    pub fn child_runs(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_none()
    }

    /// Starts the suite again on the same files, after it has ended.
    pub async fn start_again(mut self) -> Self {
        assert!(!self.child_runs(), "it still runs");
        let scratch = std::mem::take(&mut self.scratch);
        Prepared { scratch, key: self.key.clone(), env: self.env.clone(), shell: self.shell.clone() }.start().await
    }

    /// Kills the supervisor, and starts the next, which takes over what runs.
    pub async fn killed_and_followed(self) -> Self {
        self.signal(Signal::SIGKILL);
        self.wait_exit(Duration::from_secs(5)).await;
        self.start_again().await
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.supervisor, signal).unwrap();
    }

    /// Waits until the supervisor has ended.
    pub async fn wait_exit(&self, within: Duration) -> ExitStatus {
        wait::within(within, "the supervisor ends", async || self.child.lock().unwrap().try_wait().unwrap()).await
    }

    /// A channel to the authenticated gRPC listener.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel_to("grpc")
    }

    /// A channel to another listener that speaks gRPC.
    #[must_use]
    pub fn channel_to(&self, listener: &str) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address(listener))).unwrap().connect_timeout(Duration::from_secs(5)).connect_lazy()
    }

    /// A client of the gateway.
    #[must_use]
    pub fn client(&self) -> GatewayClient<Channel> {
        GatewayClient::new(self.channel()).max_decoding_message_size(8 << 20).max_encoding_message_size(64 << 20)
    }

    /// Executes a command on a connection of its own and checks its answer's signature.
    pub async fn execute(&self, request: &ExecuteCommandRequest) -> Result<ExecuteCommandResponse, Status> {
        let response = wait::bounded("ExecuteCommand is answered", self.client().execute_command(request.clone())).await?.into_inner();
        self.key.check_response(request, &response);
        Ok(response)
    }

    /// Opens an event stream through the edge.
    pub async fn subscribe(&self, device: &Device, cursor: &str) -> Result<EventStream, Status> {
        EventStream::open(self.channel(), &self.key, device, cursor).await
    }

    /// A client of the operators' local socket.
    #[must_use]
    pub fn admin(&self) -> AdminClient<ipc::Channel> {
        AdminClient::new(ipc::channel(self.runtime_dir().join("admin.sock")))
    }

    /// The bearer token that the first start made.
    #[must_use]
    pub fn admin_token(&self) -> String {
        let path = self.state_dir().join("admin.token");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    /// One scrape of the whole suite, over the admin listener.
    pub async fn metrics(&self) -> Samples {
        let answer = http::get_with_token(self.address("admin"), "/metrics", &self.admin_token()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Samples::parse(&answer.body)
    }

    /// Waits until a counter has grown beyond its value of an earlier scrape.
    pub async fn counted(&self, before: &Samples, name: &str, labels: &[(&str, &str)]) {
        let was = before.sum(name, labels);
        wait::eventually(&format!("{name}{labels:?} grows beyond {was}"), async || {
            (self.metrics().await.sum(name, labels) > was).then_some(())
        })
        .await;
    }

    /// `gatehouse …` against this suite, in its directory.
    #[must_use]
    pub fn gatehouse(&self, arguments: &[&str]) -> tokio::process::Command {
        self.program("gatehouse", arguments)
    }

    /// One of our binaries with this suite's configuration and environment, in its directory.
    #[must_use]
    pub fn program(&self, binary: &str, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::from(builder::command(&self.scratch, &self.env, binary, arguments));
        command.kill_on_drop(true);
        command
    }

    /// A foreign client of the embedded Redis.
    #[must_use]
    pub fn embedded_redis(&self) -> Resp {
        self.try_embedded_redis().expect("connect to the embedded Redis")
    }

    /// The same, when it may be away.
    pub fn try_embedded_redis(&self) -> std::io::Result<Resp> {
        let password = std::fs::read_to_string(self.state_dir().join("redis.password"))?;
        Resp::unix(&self.runtime_dir().join("redis.sock"), password.trim())
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.stderr.all();
            let last = lines[lines.len().saturating_sub(80)..].join("\n");
            eprintln!("the suite's last lines on stderr:\n{last}");
        }
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // What it leaves behind goes with the directory, whatever its working directory is by now.
        let _gone = (child.kill(), child.wait());
        remains::end(&self.runtime_dir(), &self.state_dir());
    }
}

/// `edge`, `pusher/1`.
#[must_use]
pub fn name(instance: &InstanceStatus) -> String {
    if instance.component == "pusher" { format!("pusher/{}", instance.instance) } else { instance.component.clone() }
}

fn split(name: &str) -> (&str, u32) {
    name.split_once('/').map_or((name, 0), |(component, number)| (component, number.parse().unwrap()))
}

/// Publishes an event as a foreign writer does; its id.
pub fn publish(redis: &mut Resp, user: &str, device: Option<&str>, event_type: &str, payload: &[u8]) -> String {
    let mut fields: Vec<(&[u8], &[u8])> =
        vec![(b"user_id", user.as_bytes()), (b"event_type", event_type.as_bytes()), (b"payload_bytes", payload)];
    if let Some(device) = device {
        fields.push((b"device_session_id", device.as_bytes()));
    }
    redis.xadd("gateway:client_events", &fields).expect("XADD")
}

/// What a scenario needs beside the suite, kept as long as the suite.
#[derive(Debug)]
pub struct With<T> {
    /// The suite, dropped first.
    pub suite: Suite,
    /// The rest.
    pub with: T,
}

/// A suite on a Redis of the scenario's own.
pub type OnRedis = With<RedisServer>;
