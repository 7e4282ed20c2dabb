//! The embedded Redis server: a child like the others, whose readiness and whose progress is an answered PING.

use std::{
    fs::{self, File},
    io::{self, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use gatehouse_chassis::{
    Shutdown,
    config::{RedisAddr, RedisConfig, Secret, Shared, embedded_password_path},
    exit::Fatal,
    redis::{Redis, cmd},
};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::{sync::mpsc, time::sleep};

use crate::child::NOT_HANDED_ON;

/// Between two tries while it does not answer.
const PING_INTERVAL: Duration = Duration::from_millis(20);
/// Between an answer and the next question: less than the silence that is not usual any more.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// How it is started.
#[derive(Clone, Debug)]
pub(crate) struct Embedded {
    binary: PathBuf,
    settings: Secret,
    config: RedisConfig,
}

impl Embedded {
    /// Makes its directory and, once, its password.
    pub(crate) fn open(shared: &Shared, binary: &Path) -> anyhow::Result<Self> {
        let data = data(&shared.state_dir);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&data);
        made.map_err(|error| Fatal::config(format!("{} cannot be created: {error}", data.display())))?;
        let path = embedded_password_path(&shared.state_dir);
        let password = password(&path).map_err(|error| Fatal::config(format!("{} cannot be made: {error}", path.display())))?;
        let config = shared.redis.clone();
        let RedisAddr::Unix(socket) = &config.addr else {
            return Err(Fatal::config("the embedded Redis server listens on a unix socket").into());
        };
        let settings = settings(socket, &data, &password, config.db);
        Ok(Self { binary: binary.to_owned(), settings, config })
    }

    /// `redis-server -`: its settings come on stdin, so that no password stands on a command line. By a file in memory: nobody has to write them while it
    /// reads. By its path, for it is no binary of ours: after an upgrade of its package it comes back as what was installed.
    pub(crate) fn command(&self) -> io::Result<Command> {
        let mut settings = File::from(memfd_create("redis-settings", MemfdFlags::CLOEXEC)?);
        settings.write_all(self.settings.expose().as_bytes())?;
        settings.rewind()?;
        let mut command = Command::new(&self.binary);
        command.arg("-").stdin(settings);
        for name in NOT_HANDED_ON {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Whether whoever connects finds one. Its path may be gone while it runs.
    pub(crate) fn has_socket(&self) -> bool {
        matches!(&self.config.addr, RedisAddr::Unix(path) if path.exists())
    }

    /// Asks whoever listens on its socket, by an authenticated PING, until the answers are not wanted any more: as often as it takes until the first, about
    /// once a second from then on.
    pub(crate) fn answers(&self, shutdown: &Shutdown) -> mpsc::Receiver<()> {
        let (answered, answers) = mpsc::channel(1);
        let config = self.config.clone();
        shutdown.spawn_companion("redis-ping", async move {
            tokio::select! {
                () = ask(&config, &answered) => {}
                () = answered.closed() => {}
            }
        });
        answers
    }
}

/// Silence is judged by whoever waits for the answers.
async fn ask(config: &RedisConfig, answered: &mpsc::Sender<()>) {
    let redis = loop {
        match Redis::connect(config).await {
            Ok(redis) => break redis,
            Err(_) => sleep(PING_INTERVAL).await,
        }
    };
    while answered.send(()).await.is_ok() {
        sleep(ASK_INTERVAL).await;
        // Who says no, as one that loads (`-LOADING`) or runs a script (`-BUSY`), lives.
        while redis.run::<String>(&cmd("PING")).await.is_err_and(|error| !error.is_answer()) {
            sleep(PING_INTERVAL).await;
        }
    }
}

/// Where its files are.
pub(crate) fn data(state_dir: &Path) -> PathBuf {
    state_dir.join("redis")
}

fn settings(socket: &Path, data: &Path, password: &Secret, db: u16) -> Secret {
    let databases = u32::from(db).max(15) + 1;
    let (socket, data) = (quoted(&socket.to_string_lossy()), quoted(&data.to_string_lossy()));
    let password = quoted(password.expose());
    Secret::new(format!(
        "port 0\nunixsocket {socket}\nunixsocketperm 700\ndir {data}\ndaemonize no\nlogfile \"\"\nsave \"\"\nappendonly yes\nappendfsync always\n\
         maxmemory-policy noeviction\ndatabases {databases}\nrequirepass {password}\n"
    ))
}

/// As `sdssplitargs` reads it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The password, made when there is none yet.
fn password(path: &Path) -> io::Result<Secret> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim().to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // None, or one that a crash left empty.
        _ => {}
    }
    let password = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let draft = path.with_extension("password.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    writeln!(file, "{password}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(Secret::new(password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_password_is_made_once_and_readable_by_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("redis.password");
        let first = password(&path).unwrap();
        assert_eq!((first.expose(), 64), (password(&path).unwrap().expose(), first.expose().len()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn settings_quote_what_an_operator_may_have_in_a_path() {
        let settings = settings(Path::new("/run/a b/redis.sock"), Path::new("/var/\"x\"\\y"), &Secret::new("p".into()), 20);
        for line in
            ["unixsocket \"/run/a b/redis.sock\"", r#"dir "/var/\"x\"\\y""#, "databases 21", "port 0", "appendfsync always", "save \"\""]
        {
            assert!(settings.expose().lines().any(|found| found == line), "{line} in {}", settings.expose());
        }
    }
}
