//! One supervisor with directories of its own.

use std::{
    fs,
    io::{Read as _, Write as _, pipe},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::{
    ChangeRequest, ChangeStatus, ExitRecord, ExitsRequest, InstanceStatus, LogLine, LogsRequest, MetricsRequest, StatusRequest,
    StatusResponse, VerdictRequest, change_request, process_client::ProcessClient, supervisor_client::SupervisorClient,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::fake;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub dir: TempDir,
    supervisor: Option<Child>,
    env: Vec<(String, String)>,
    config: String,
    may_trace: bool,
}

impl World {
    /// Nothing runs yet.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = fake::install(dir.path());
        let path = |name: &str| dir.path().join(name).display().to_string();
        let env = [
            ("PATH", std::env::var("PATH").unwrap()),
            ("GATEHOUSE_BIN_DIR", bin.display().to_string()),
            ("GATEWAY_STATE_DIR", path("state")),
            ("GATEWAY_RUNTIME_DIR", path("run")),
            ("GATEWAY_PUBLIC_HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("GATEWAY_AUTHENTICATED_GRPC_ADDR", "127.0.0.1:0".to_owned()),
            // No component here connects to it.
            ("GATEWAY_REDIS_MASTER_ADDR", "127.0.0.1:1".to_owned()),
            ("GATEWAY_REDIS_PASSWORD", "unused".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { dir, supervisor: None, env, config: String::new(), may_trace: true }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn config(mut self, text: &str) -> Self {
        text.clone_into(&mut self.config);
        self
    }

    /// From the next supervisor on. The children of one that might are kept from it, as Yama keeps them from whoever is not root. Root alone can test it.
    pub fn may_not_trace(mut self) -> Self {
        self.may_trace = false;
        self
    }

    /// See `fake`. From the next start of that component on.
    pub fn behave(&self, component: &str, words: &str) {
        fs::write(self.path(&format!("{component}.behaviour")), words).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self) -> Command {
        let config = self.path("gateway.toml");
        fs::write(&config, &self.config).unwrap();
        let supervisor = env!("CARGO_BIN_EXE_gatehouse-supervisor");
        let mut command = Command::new(if self.may_trace { supervisor } else { "setpriv" });
        if !self.may_trace {
            command.args(["--bounding-set=-sys_ptrace,-perfmon,-sys_admin", "--", supervisor]);
        }
        command.arg("--config").arg(config).env_clear().envs(self.env.iter().cloned()).stdin(Stdio::null());
        command
    }

    pub fn start(&mut self) {
        let command = self.command();
        self.start_with(command);
    }

    /// The same, with what a test adds.
    pub fn start_with(&mut self, mut command: Command) {
        let open = |name: &str| fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        command.stdout(open("stdout")).stderr(open("stderr"));
        self.start_as_it_is(command);
    }

    /// Another one; the one before is to be waited for.
    pub fn start_beside(&mut self) -> Child {
        let before = self.supervisor.take().unwrap();
        self.start();
        before
    }

    /// With stdout and stderr as they were set.
    pub fn start_as_it_is(&mut self, mut command: Command) {
        self.supervisor = Some(command.spawn().unwrap());
    }

    /// Starts and waits until all is ready.
    pub async fn ready(&mut self) -> StatusResponse {
        self.start();
        self.until("the suite is ready", |status| status.ready).await
    }

    /// The first status that fits.
    pub async fn until(&mut self, what: &str, fits: impl Fn(&StatusResponse) -> bool) -> StatusResponse {
        let (begun, mut last) = (Instant::now(), None);
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.status().await {
                if fits(&status) {
                    return status;
                }
                last = Some(status);
            }
            assert!(self.supervisor.as_mut().unwrap().try_wait().unwrap().is_none(), "{what}: it ended: {}", self.read("stderr"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {last:#?}\n{}", self.read("stderr"));
    }

    pub async fn status(&self) -> Option<StatusResponse> {
        let channel = ipc::channel(self.path("run/supervisor.sock"));
        Some(SupervisorClient::new(channel).status(StatusRequest {}).await.ok()?.into_inner())
    }

    /// Asks for a change; its id.
    pub async fn begin(&self, change: change_request::Change) -> String {
        let channel = ipc::channel(self.path("run/supervisor.sock"));
        let request = ChangeRequest { reason: "as tested".to_owned(), change: Some(change) };
        SupervisorClient::new(channel).change(request).await.unwrap().into_inner().change_id
    }

    /// The same, and its verdict.
    pub async fn change(&self, change: change_request::Change) -> ChangeStatus {
        let change_id = self.begin(change).await;
        self.verdict(&change_id).await
    }

    /// What comes of a change, even if one supervisor hands it to the next.
    pub async fn verdict(&self, change_id: &str) -> ChangeStatus {
        let begun = Instant::now();
        loop {
            let channel = ipc::channel(self.path("run/supervisor.sock"));
            let request = VerdictRequest { change_id: change_id.to_owned(), wait: true };
            match SupervisorClient::new(channel).verdict(request).await {
                Ok(verdict) => return verdict.into_inner().change.unwrap(),
                Err(status) => assert!(begun.elapsed() < PATIENCE, "{status}: {}", self.read("stderr")),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// On the control socket.
    pub fn client(&self) -> SupervisorClient<ipc::Channel> {
        SupervisorClient::new(ipc::channel(self.path("run/supervisor.sock")))
    }

    /// What the children said, at that level or worse.
    pub async fn logs(&self, component: &str, level: &str) -> Vec<LogLine> {
        let (component, level) = (component.to_owned(), level.to_owned());
        let request = LogsRequest { component, level, lines: 10_000, ..LogsRequest::default() };
        let lines = self.client().logs(request).await.unwrap().into_inner();
        lines.map(Result::unwrap).collect().await
    }

    /// Waits until so many lines of it with these words were read: readiness comes by another way, and may be faster.
    pub async fn heard(&self, component: &str, words: &str, count: usize) -> Vec<LogLine> {
        let begun = Instant::now();
        loop {
            let mut lines = self.logs(component, "").await;
            lines.retain(|line| line.line.contains(words));
            if lines.len() == count {
                return lines;
            }
            assert!(begun.elapsed() < PATIENCE && lines.len() < count, "{words}, {count} times: {lines:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn exits(&self, component: &str) -> Vec<ExitRecord> {
        let request = ExitsRequest { component: component.to_owned(), ..ExitsRequest::default() };
        self.client().exits(request).await.unwrap().into_inner().exits
    }

    pub async fn metrics(&self) -> String {
        let channel = ipc::channel(self.path("run/supervisor.sock"));
        ProcessClient::new(channel).metrics(MetricsRequest {}).await.unwrap().into_inner().text
    }

    pub async fn is_healthy(&self) -> bool {
        ipc::is_serving(&ipc::channel(self.path("run/supervisor.sock")), "", PATIENCE).await
    }

    /// Waits for a line of the events, `term edge-0`.
    pub async fn event(&self, event: &str) {
        let begun = Instant::now();
        while !self.events().iter().any(|found| found == event) {
            assert!(begun.elapsed() < PATIENCE, "no {event} in {:?}\n{}", self.events(), self.read("stderr"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the supervisor's own log has these words.
    pub async fn says(&self, words: &str) {
        let begun = Instant::now();
        while !self.read("stderr").contains(words) {
            assert!(begun.elapsed() < PATIENCE, "no {words} in {}", self.read("stderr"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the components did, without their pids.
    pub fn events(&self) -> Vec<String> {
        self.read("events").lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    }

    pub fn position(&self, event: &str) -> usize {
        self.events().iter().position(|found| found == event).unwrap_or_else(|| panic!("no {event} in {:?}", self.events()))
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The dumps of hung components: names and texts.
    pub fn dumps(&self) -> Vec<(String, String)> {
        let Ok(entries) = fs::read_dir(self.path("state/dumps")) else { return Vec::new() };
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
        };
        entries.map(read).collect()
    }

    /// The supervisor's.
    pub fn pid(&self) -> u32 {
        self.supervisor.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits for the supervisor's end.
    pub async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let mut supervisor = self.supervisor.take().unwrap();
        loop {
            if let Some(status) = supervisor.try_wait().unwrap() {
                return status;
            }
            if begun.elapsed() > PATIENCE {
                send(supervisor.id(), Signal::SIGKILL);
                panic!("it does not end: {}", self.read("stderr"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and its end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Pids of components that still run.
    pub fn alive(&self) -> Vec<u32> {
        let pids = self.read("events").lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect::<Vec<u32>>();
        pids.into_iter().filter(|pid| self.is_ours(*pid)).collect()
    }

    fn is_ours(&self, pid: u32) -> bool {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let marker = format!("FAKE_DIR={}", self.dir.path().display());
        environ.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            send(supervisor.id(), Signal::SIGKILL);
            let _reaped = supervisor.wait();
        }
        for pid in self.alive() {
            send(pid, Signal::SIGKILL);
        }
    }
}

/// A pipe that takes nothing more; its reading end is to be kept.
pub fn stuck() -> (impl Sized, Stdio) {
    let (reader, mut writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer.into())
}

/// What the fake at that address says of itself.
pub fn ask(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub fn send(pid: u32, signal: Signal) {
    let _gone = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// One child in a status.
pub fn instance<'a>(status: &'a StatusResponse, component: &str, instance: u32) -> &'a InstanceStatus {
    status.instances.iter().find(|found| (found.component.as_str(), found.instance) == (component, instance)).unwrap()
}
