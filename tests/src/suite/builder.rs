//! What a suite is started with: a `gateway.toml`, an environment, a signer key.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    fs,
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::Duration,
};

use ed25519_dalek::SigningKey;
use nix::unistd::Pid;

use super::Suite;
use crate::{
    Downstream, GatewayKey, HttpBackend, RedisServer, Scratch, binaries,
    device::{random_key, to_pem},
    output::Lines,
    servers, wait,
};

pub(super) const STATE: &str = "state";
pub(super) const RUN: &str = "run";
pub(super) const CONFIG: &str = "gateway.toml";
const SIGNER: &str = "signer.pem";
/// Set to `postgres`, every scenario that does not choose a database itself runs on PostgreSQL.
const DATABASE: &str = "GATEHOUSE_TEST_DATABASE";

/// Settings of a suite. By default: embedded Redis, SQLite, two pushers, free ports on every listener, no backends.
#[derive(Debug)]
pub struct Builder {
    scratch: Scratch,
    signer: SigningKey,
    sections: BTreeMap<String, BTreeMap<String, String>>,
    tail: String,
    env: BTreeMap<String, String>,
    shell: Option<String>,
}

impl Builder {
    pub(super) fn new() -> Self {
        let scratch = Scratch::new();
        let signer = random_key();
        let key = scratch.write_private(SIGNER, to_pem(&signer));
        let dirs = [STATE, RUN].map(|name| scratch.path().join(name));
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        let builder = Self { scratch, signer, sections: BTreeMap::new(), tail: String::new(), env: BTreeMap::new(), shell: None };
        let [state, run] = dirs;
        let mut builder = builder.set("suite", "state_dir", state.display()).set("suite", "runtime_dir", run.display());
        for listener in ["http", "grpc", "admin", "push"] {
            builder = builder.set("listen", listener, "127.0.0.1:0");
        }
        builder.set("signer", "private_key_pem_path", key.display())
    }

    /// Sets one key of one section.
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: impl Display) -> Self {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.to_string());
        self
    }

    /// Leaves one key out.
    #[must_use]
    pub fn unset(mut self, section: &str, key: &str) -> Self {
        self.sections.entry(section.to_owned()).or_default().remove(key);
        self
    }

    /// Appends to the file what [`Builder::set`] cannot say.
    #[must_use]
    pub fn toml(mut self, text: &str) -> Self {
        self.tail.push_str(text);
        self.tail.push('\n');
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Starts the supervisor from a shell script in mount namespace of its own. The script finds the state directory as `$0`, and the supervisor's command, which
    /// it must `exec`, as `$@`.
    #[must_use]
    pub fn behind_shell(mut self, script: &str) -> Self {
        self.shell = Some(script.to_owned());
        self
    }

    /// Uses that Redis instead of an embedded one.
    #[must_use]
    pub fn redis(self, server: &RedisServer) -> Self {
        self.set("redis", "master_addr", server.addr()).set("redis", "password", server.password())
    }

    /// Uses that database, and migrates it at start.
    #[must_use]
    pub fn database(self, url: &str) -> Self {
        self.set("database", "url", url).set("database", "migrate_on_start", true)
    }

    /// Adds a gRPC backend with the commands that go there.
    #[must_use]
    pub fn downstream(self, name: &str, downstream: &Downstream, commands: &[&str]) -> Self {
        self.grpc_backend(name, &downstream.address(), commands)
    }

    /// The same with any address.
    #[must_use]
    pub fn grpc_backend(mut self, name: &str, address: &str, commands: &[&str]) -> Self {
        write!(self.tail, "[[backend]]\nname = {name:?}\nprotocol = \"grpc\"\naddress = {address:?}\ntimeout = \"1s\"\n").unwrap();
        for command in commands {
            write!(self.tail, "[[command]]\nmessage_type = {command:?}\nbackend = {name:?}\n").unwrap();
        }
        self
    }

    /// Adds an HTTP backend with the prefixes that go there.
    #[must_use]
    pub fn http_backend(mut self, name: &str, backend: &HttpBackend, prefixes: &[&str]) -> Self {
        let address = backend.address();
        write!(self.tail, "[[backend]]\nname = {name:?}\nprotocol = \"http\"\naddress = {address:?}\n").unwrap();
        for prefix in prefixes {
            write!(self.tail, "[[route]]\nprefix = {prefix:?}\nbackend = {name:?}\n").unwrap();
        }
        self
    }

    /// Writes the file; starts nothing yet.
    #[must_use]
    pub fn prepare(self) -> Prepared {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            writeln!(text, "[{section}]").unwrap();
            for (key, value) in keys {
                writeln!(text, "{key} = {value:?}").unwrap();
            }
        }
        text.push_str(&self.tail);
        self.scratch.write(CONFIG, text);
        Prepared { scratch: self.scratch, key: GatewayKey::of(&self.signer), env: self.env, shell: self.shell }
    }

    /// Starts the suite and waits until it is ready.
    pub async fn start(self) -> Suite {
        let chosen = self.sections.get("database").is_some_and(|section| section.contains_key("url"));
        let this = if !chosen && std::env::var_os(DATABASE).is_some_and(|kind| kind == "postgres") {
            self.database(&servers::postgres_database().await)
        } else {
            self
        };
        this.prepare().start().await
    }
}

/// A suite that could start.
#[derive(Debug)]
pub struct Prepared {
    /// Its directory.
    pub scratch: Scratch,
    /// What it signs with.
    pub key: GatewayKey,
    pub(super) env: BTreeMap<String, String>,
    pub(super) shell: Option<String>,
}

impl Prepared {
    /// One of our binaries with this suite's configuration and environment, and with nothing of ours.
    #[must_use]
    pub fn command(&self, binary: &str, arguments: &[&str]) -> Command {
        command(&self.scratch, &self.env, binary, arguments)
    }

    /// Runs the supervisor until it ends by itself, as it does on a wrong configuration.
    pub async fn run_to_exit(&self) -> Output {
        let mut command = tokio::process::Command::from(self.command("gatehouse-supervisor", &[]));
        wait::bounded("the supervisor ends", command.kill_on_drop(true).output()).await.unwrap()
    }

    /// Starts the suite and waits until it is ready.
    pub async fn start(self) -> Suite {
        let mut suite = self.start_without_waiting();
        let deadline = Duration::from_mins(1);
        let listeners = wait::within(deadline, "the suite is ready", async || {
            if let Some(status) = suite.child.lock().unwrap().try_wait().unwrap() {
                panic!("the supervisor ended instead of starting: {status}");
            }
            let status = suite.try_status().await.ok()?;
            status.ready.then_some(status.listeners)
        })
        .await;
        suite.listeners = listeners.into_iter().map(|listener| (listener.name, listener.address)).collect();
        suite
    }

    /// Starts the supervisor and does not wait for anything.
    #[must_use]
    pub fn start_without_waiting(self) -> Suite {
        let mut command = self.command("gatehouse-supervisor", &[]);
        if let Some(script) = &self.shell {
            command = self.behind(script, &command);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start gatehouse-supervisor");
        let stdout = Lines::collect(child.stdout.take().unwrap());
        let stderr = Lines::collect(child.stderr.take().unwrap());
        let supervisor = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let Self { scratch, key, env, shell } = self;
        Suite { child: Mutex::new(child), supervisor, stdout, stderr, key, listeners: BTreeMap::new(), scratch, env, shell }
    }

    fn behind(&self, script: &str, inner: &Command) -> Command {
        let mut outer = Command::new("unshare");
        outer.args(["--mount", "sh", "-c", script]).arg(self.scratch.path().join(STATE));
        outer.arg(inner.get_program()).args(inner.get_args()).env_clear();
        outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer.current_dir(self.scratch.path()).stdin(Stdio::null());
        outer
    }
}

pub(super) fn command(scratch: &Scratch, env: &BTreeMap<String, String>, binary: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binaries::ours(binary));
    command.args(arguments).arg("--config").arg(scratch.path().join(CONFIG));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(env);
    // Coverage of children is worth having.
    command.envs(std::env::vars_os().filter(|(name, _)| name == "LLVM_PROFILE_FILE"));
    command.current_dir(scratch.path()).stdin(Stdio::null());
    command
}
