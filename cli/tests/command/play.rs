//! The parts that the tests play: a directory with a configuration, servers on its sockets, and the command itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UnixListener},
    process::Command,
    task::JoinSet,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{service::Routes, transport::Server};

/// A suite that is not there until its parts are played. Ends with its servers when dropped.
pub struct Stage {
    pub dir: TempDir,
    servers: JoinSet<()>,
}

/// What the command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Stage {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stage = Self { dir, servers: JoinSet::new() };
        stage.configure("");
        stage
    }

    /// Writes the configuration: the directories, and what the test adds.
    pub fn configure(&self, more: &str) {
        let dir = self.dir.path().display();
        fs::write(self.config(), format!("{more}\n[suite]\nruntime_dir = \"{dir}\"\nstate_dir = \"{dir}\"\n")).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("gateway.toml")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Serves on a local socket of the suite.
    pub fn serve_local(&mut self, socket: &str, routes: Routes) {
        self.serve(Server::builder(), socket, routes);
    }

    /// The same by a server that leaves who does not answer it.
    pub fn serve_impatiently(&mut self, socket: &str, routes: Routes) {
        let server = Server::builder().http2_keepalive_interval(Some(Duration::from_millis(200)));
        self.serve(server.http2_keepalive_timeout(Some(Duration::from_millis(500))), socket, routes);
    }

    fn serve(&mut self, mut server: Server, socket: &str, routes: Routes) {
        let listener = UnixListener::bind(self.path(socket)).unwrap();
        self.servers.spawn(async move {
            server.add_routes(routes).serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
    }

    /// Serves on a port of the kernel's choice; its URL.
    pub async fn serve_tcp(&mut self, routes: Routes) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        self.servers.spawn(async move {
            Server::builder().accept_http1(true).add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        url
    }

    /// Calls the command with this stage's configuration.
    pub async fn call(&self, arguments: &[&str]) -> Done {
        done(self.command(arguments).output().await.unwrap())
    }

    /// The same, and reads nothing of what it says for so long.
    pub async fn call_and_wait(&self, arguments: &[&str], pause: Duration) -> Done {
        let child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        tokio::time::sleep(pause).await;
        done(child.wait_with_output().await.unwrap())
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let config = self.config();
        let arguments: Vec<&str> = ["--config", config.to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
        command(assert_cmd::cargo::cargo_bin!("gatehouse"), &arguments)
    }
}

/// A program in an environment without variables of ours.
fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Calls a program in an environment without variables of ours.
pub async fn call(program: &Path, arguments: &[&str]) -> Done {
    done(command(program, arguments).output().await.unwrap())
}

fn done(output: Output) -> Done {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Done {
    /// The one document on standard output.
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error document on standard error.
    pub fn error(&self) -> Value {
        serde_json::from_str::<Value>(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"))["error"].clone()
    }
}
