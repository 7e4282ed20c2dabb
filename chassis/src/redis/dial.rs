//! Opens connections: reaches the server, says who we are, chooses the database. The handshake is our own, because the library's keeps no word of what the
//! server said when it refused, and one that lets nobody in (too many clients) says so before it is asked anything.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::AbortHandle,
};

use super::RedisError;
use crate::config::{RedisAddr, RedisConfig};

/// No answer to AUTH or SELECT is longer.
const MAX_LINE: usize = 512;

/// A connection; clones share it, and it is closed with the last of them. It has no time limit of its own: whoever uses it sets one.
#[derive(Clone)]
pub struct Connection {
    shared: MultiplexedConnection,
    driver: Arc<Driver>,
}

struct Driver {
    task: AbortHandle,
    ended: Arc<AtomicBool>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", if self.is_closed() { "closed" } else { "open" })
    }
}

impl Connection {
    /// Whether the other side is known to have gone.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.ended.load(Ordering::Acquire)
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, RedisError> {
        // Nothing is left to be set up, so that nothing is said here.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let bounds = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let (shared, driver) = MultiplexedConnection::new_with_config(&info, stream, bounds).await?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = End(Arc::clone(&ended));
        #[expect(clippy::disallowed_methods, reason = "it belongs to the connection, and ends with it")]
        let task = tokio::spawn(async move {
            let _end = end;
            driver.await;
        });
        Ok(Self { shared, driver: Arc::new(Driver { task: task.abort_handle(), ended }) })
    }
}

struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.shared.req_packed_command(command)
    }

    fn req_packed_commands<'a>(&'a mut self, commands: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        self.shared.req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.shared.get_db()
    }
}

/// A new connection, ready for use, within the configured time.
pub(super) async fn dial(config: &RedisConfig) -> Result<Connection, RedisError> {
    let bound = config.connect_timeout;
    let connect = async {
        match &config.addr {
            RedisAddr::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                greet(stream, config).await
            }
            RedisAddr::Unix(path) => greet(UnixStream::connect(path).await?, config).await,
        }
    };
    tokio::time::timeout(bound, connect).await.unwrap_or(Err(RedisError::Timeout(bound)))
}

async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, config: &RedisConfig) -> Result<Connection, RedisError> {
    let password = config.password().map_err(|error| RedisError::Password(Arc::new(error)))?;
    let mut greeting = cmd("AUTH").arg(password.expose()).get_packed_command();
    let mut answers = 1;
    if config.db != 0 {
        greeting.extend(cmd("SELECT").arg(config.db).get_packed_command());
        answers += 1;
    }
    // A server that has closed already may have said why.
    let written = stream.write_all(&greeting).await;
    for _ in 0..answers {
        let line = match read_line(&mut stream).await {
            Ok(line) => line,
            Err(error) => return Err(written.err().unwrap_or(error).into()),
        };
        if let Some(words) = line.strip_prefix('-') {
            return Err(RedisError::Refused(words.into()));
        }
    }
    written?;
    Connection::over(stream).await
}

/// One line, without its end. Not a byte more is read: what comes after it belongs to the connection.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte => line.push(byte),
        }
        if line.len() > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no Redis server: it answers AUTH with a long line"));
        }
    }
    Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
}
