//! Redis and PostgreSQL of a scenario's own, below this test process's directory.

use std::net::TcpListener;

use gatehouse_testkit::{PostgresServer, RedisServer};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{sync::OnceCell, task::spawn_blocking};

use crate::{Resp, scratch::root_dir};

/// A Redis server on a unix socket.
pub async fn redis() -> RedisServer {
    spawn_blocking(|| RedisServer::start_in(root_dir())).await.unwrap()
}

/// A Redis server on TCP.
pub async fn redis_on_tcp() -> RedisServer {
    spawn_blocking(|| RedisServer::start_tcp_in(root_dir())).await.unwrap()
}

/// A foreign client of it.
#[must_use]
pub fn client(server: &RedisServer) -> Resp {
    Resp::unix(&server.socket(), server.password()).expect("connect to Redis")
}

/// Stops or continues it: frozen, it is there and answers nothing.
pub fn freeze(server: &RedisServer, frozen: bool) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    kill(pid, if frozen { Signal::SIGSTOP } else { Signal::SIGCONT }).unwrap();
}

/// The URL of a new, empty database on this test process's PostgreSQL server, which the first who asks starts.
pub async fn postgres_database() -> String {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    let start = async || spawn_blocking(|| PostgresServer::start_in(root_dir())).await.unwrap();
    let server = SERVER.get_or_init(start).await;
    spawn_blocking(|| server.database()).await.unwrap()
}

/// A TCP port that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::publish;

    #[tokio::test]
    async fn a_foreign_client_writes_any_bytes_over_unix_and_tcp() {
        for server in [redis().await, redis_on_tcp().await] {
            let mut client = client(&server);
            let id = publish(&mut client, "u", None, "t", b"\x00\r\n\xff");
            let entries = client.command(&["XRANGE", "gateway:client_events", "-", "+"]).unwrap();
            assert!(format!("{entries:?}").contains(&format!("{:?}", b"\x00\r\n\xff".to_vec())), "{entries:?}");
            assert!(id.contains('-'));
            assert!(client.command(&["NOSUCH"]).is_err());
        }
    }

    #[tokio::test]
    async fn every_database_is_another_one() {
        assert_ne!(postgres_database().await, postgres_database().await);
    }
}
