//! A PostgreSQL server of a test's own.

use std::{
    fs::{self, File},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::{START, Server, eventually, program};

/// A PostgreSQL cluster on a unix socket, without TCP. PostgreSQL refuses to run as root; started by root, it runs as `postgres`.
#[derive(Debug)]
pub struct PostgresServer {
    server: Server,
    dir: TempDir,
    databases: AtomicU32,
}

impl PostgresServer {
    /// Makes a cluster, starts it and waits until it accepts connections.
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(Path::new("/tmp"))
    }

    /// The same in a directory below `parent`, whose path must be short and open to the user that PostgreSQL runs as.
    #[must_use]
    pub fn start_in(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("gh-pg-").tempdir_in(parent).unwrap();
        if let Some(user) = unprivileged() {
            std::os::unix::fs::chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let data = dir.path().join("data");
        let mut initdb = command(&dir, "initdb");
        initdb.args(["--auth=trust", "--username=gatehouse", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"]).arg(&data);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = spawn(&dir);
        let mut this = Self { server, dir, databases: AtomicU32::new(0) };
        this.wait();
        this
    }

    /// The URL of a new, empty database.
    #[must_use]
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut createdb = command(&self.dir, "createdb");
        let made = createdb.args(["-U", "gatehouse", "-h"]).arg(self.dir.path()).arg(&name).output().unwrap();
        assert!(made.status.success(), "createdb: {}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://gatehouse@localhost/{name}?host={}", self.dir.path().display())
    }

    /// SIGKILL to the server's main process, and wait until its children have noticed and ended.
    pub fn kill9(&mut self) {
        self.server.kill9();
        // Every process of a cluster works in its data directory. While one is left, the next server refuses to start.
        let data = self.dir.path().join("data");
        let works_there = |process: fs::DirEntry| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data);
        eventually("the server's children end", START, || !fs::read_dir("/proc").unwrap().flatten().any(works_there));
    }

    /// Starts it again on the same data; it recovers.
    pub fn restart(&mut self) {
        // Its lock file names a process that is gone.
        let _absent = fs::remove_file(self.dir.path().join("data/postmaster.pid"));
        self.server = spawn(&self.dir);
        self.wait();
    }

    fn wait(&mut self) {
        let socket = self.dir.path().join(".s.PGSQL.5432");
        let server = &mut self.server;
        let ready = program("pg_isready", "postgresql");
        eventually("postgres accepts connections", START, || {
            server.assert_running("postgres");
            let mut asked = Command::new(&ready);
            asked.arg("-q").arg("-h").arg(socket.parent().unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
            UnixStream::connect(&socket).is_ok() && asked.status().is_ok_and(|status| status.success())
        });
    }
}

fn spawn(dir: &TempDir) -> Server {
    let log = File::options().create(true).append(true).open(dir.path().join("postgres.log")).unwrap();
    let mut postgres = command(dir, "postgres");
    postgres.arg("-D").arg(dir.path().join("data")).arg("-k").arg(dir.path());
    postgres.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=50"]);
    Server::start(postgres.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log))
}

fn command(dir: &TempDir, name: &str) -> Command {
    let mut command = Command::new(program(name, "postgresql"));
    command.current_dir(dir.path());
    if let Some(user) = unprivileged() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Whom to become: nobody when this is an ordinary user already.
fn unprivileged() -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let found = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    Some(found.expect("root runs PostgreSQL as postgres or nobody, and neither exists"))
}
