//! A Redis server of a test's own.

use std::{
    fs::{self, File},
    io::{BufReader, Write as _},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{START, Server, eventually, program};

/// The password of every test server.
const PASSWORD: &str = "test-password";

/// A `redis-server` with an append-only file and a password, on a unix socket.
#[derive(Debug)]
pub struct RedisServer {
    server: Server,
    dir: TempDir,
    /// 0: a unix socket alone.
    port: u16,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(Path::new("/tmp"))
    }

    /// The same in a directory below `parent`, whose path must be short.
    #[must_use]
    pub fn start_in(parent: &Path) -> Self {
        Self::start_on(parent, 0)
    }

    /// The same, listening on a TCP port of the loopback interface too.
    #[must_use]
    pub fn start_tcp_in(parent: &Path) -> Self {
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start_on(parent, port)
    }

    fn start_on(parent: &Path, port: u16) -> Self {
        let dir = tempfile::Builder::new().prefix("gh-redis-").tempdir_in(parent).unwrap();
        let server = spawn(dir.path(), port);
        let mut this = Self { server, dir, port };
        this.wait();
        this
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// The same as `GATEWAY_REDIS_MASTER_ADDR` takes it.
    #[must_use]
    pub fn addr(&self) -> String {
        match self.port {
            0 => format!("unix:{}", self.socket().display()),
            port => format!("127.0.0.1:{port}"),
        }
    }

    /// Its password.
    #[must_use]
    pub const fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.0.id()
    }

    /// SIGKILL: no farewell, connections break.
    pub fn kill9(&mut self) {
        self.server.kill9();
    }

    /// SIGSTOP: it hangs, and its connections stay.
    pub fn pause(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.signal(Signal::SIGCONT);
    }

    /// Starts it again on the same data and the same socket.
    pub fn restart(&mut self) {
        self.server = spawn(self.dir.path(), self.port);
        self.wait();
    }

    /// Runs one command as a foreign client would, with arguments of any bytes. The reply in its textual form: `+OK`, `:1`, the bytes of a bulk string, `$-1` for
    /// none, elements of an array on lines of their own.
    pub fn run<A: AsRef<[u8]>>(&self, arguments: &[A]) -> String {
        self.run_with(PASSWORD, arguments)
    }

    /// The same with another password than it was started with.
    pub fn run_with<A: AsRef<[u8]>>(&self, password: &str, arguments: &[A]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        let mut request = encode(&[b"AUTH".as_slice(), password.as_bytes()]);
        request.extend(encode(arguments));
        stream.write_all(&request).unwrap();
        let mut replies = BufReader::new(stream);
        assert_eq!(reply(&mut replies), "+OK");
        reply(&mut replies)
    }

    fn wait(&mut self) {
        let socket = self.socket();
        let server = &mut self.server;
        eventually("redis-server answers", START, || {
            server.assert_running("redis-server");
            let Ok(mut stream) = UnixStream::connect(&socket) else { return false };
            let asked = stream.write_all(&[encode(&["AUTH", PASSWORD]), encode(&["PING"])].concat());
            let mut replies = BufReader::new(stream);
            asked.is_ok() && reply(&mut replies) == "+OK" && reply(&mut replies) == "+PONG"
        });
    }
}

fn spawn(dir: &Path, port: u16) -> Server {
    let socket = dir.join("redis.sock");
    // A server that was killed leaves its socket file behind.
    let _absent = fs::remove_file(&socket);
    let config = format!(
        "port {port}\nbind 127.0.0.1\nunixsocket {}\ndir {}\nrequirepass {PASSWORD}\nappendonly yes\nappendfsync no\nsave \"\"\nmaxmemory-policy noeviction\n",
        socket.display(),
        dir.display(),
    );
    let path = dir.join("redis.conf");
    fs::write(&path, config).unwrap();
    let log = File::options().create(true).append(true).open(dir.join("redis.log")).unwrap();
    let mut command = Command::new(program("redis-server", "redis-server"));
    Server::start(command.arg(path).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log))
}

fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        request.extend(format!("${}\r\n", argument.len()).bytes());
        request.extend(argument);
        request.extend(b"\r\n");
    }
    request
}

fn reply(from: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let line = line.trim_end();
    let count = |text: &str| text.parse::<i64>().unwrap();
    match line.as_bytes().first() {
        Some(b'$') if line != "$-1" => {
            let mut bytes = vec![0; usize::try_from(count(&line[1..])).unwrap() + 2];
            from.read_exact(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned()
        }
        Some(b'*') => (0..count(&line[1..])).map(|_| reply(from)).collect::<Vec<_>>().join("\n"),
        _ => line.to_owned(),
    }
}
