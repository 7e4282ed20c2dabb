//! Where the suite is, as its configuration says, so that commands need no flags on the same machine.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use gatehouse_chassis::{
    boot,
    config::{Config, ListenAddr, Problem, Reader, Shared, Source},
};
use gatehouse_proto::internal::v1::{StatusRequest, supervisor_client::SupervisorClient};

use crate::{command::supervisor, failure::Failure};

/// The supervisor answers from memory; a command that only wants an address does not wait for one that hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the commands need of the configuration. Everything else in the file may be wrong: during an incident `status` answers all the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    runtime_dir: PathBuf,
    http: ListenAddr,
    grpc: ListenAddr,
}

/// A public listener of the suite.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    /// Plain HTTP.
    Http,
    /// Authenticated gRPC.
    Grpc,
}

impl Place {
    /// From the file and the environment.
    pub fn find(config: Option<&Path>) -> Result<Self, Failure> {
        let source = Source::load(config).map_err(|message| configuration("--config", message))?;
        Self::read(source).map_err(Failure::Configuration)
    }

    fn read(source: Source) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(source);
        if !reader.is_toml() {
            return Err(reader.into_problems());
        }
        let runtime_dir = reader.section("suite").key("runtime_dir").env("GATEWAY_RUNTIME_DIR").or(PathBuf::from("/run/gatehouse"));
        let mut listen = reader.section("listen");
        let http = listen.key("http").env("GATEWAY_PUBLIC_HTTP_ADDR").or(every_address(8080));
        let grpc = listen.key("grpc").env("GATEWAY_AUTHENTICATED_GRPC_ADDR").or(every_address(9090));
        Ok(Self { runtime_dir, http, grpc })
    }

    /// The supervisor's control socket.
    pub fn supervisor(&self) -> PathBuf {
        self.runtime_dir.join("supervisor.sock")
    }

    /// The admin process's local socket.
    pub fn admin(&self) -> PathBuf {
        self.runtime_dir.join("admin.sock")
    }

    /// Where to reach a listener from this machine, `http://host:port`: as the running supervisor says, else as configured. They differ when the
    /// suite was started with other variables than this command, or on port 0.
    pub async fn url(&self, door: Door) -> String {
        let bound = tokio::time::timeout(PATIENCE, self.bound(door)).await.ok().flatten();
        let configured = match door {
            Door::Http => self.http,
            Door::Grpc => self.grpc,
        };
        format!("http://{}", reachable(bound.unwrap_or(configured.0)))
    }

    async fn bound(&self, door: Door) -> Option<SocketAddr> {
        let name = match door {
            Door::Http => "http",
            Door::Grpc => "grpc",
        };
        let channel = supervisor::open(&self.supervisor()).await.ok()?;
        let status = SupervisorClient::new(channel).status(StatusRequest {}).await.ok()?.into_inner();
        status.listeners.into_iter().find(|listener| listener.name == name)?.address.parse().ok()
    }
}

/// The sections that every process reads, each problem of which is one.
pub fn shared(config: Option<&Path>) -> Result<Shared, Failure> {
    struct Nothing;
    impl Config for Nothing {
        fn read(_: &mut Reader) -> Option<Self> {
            Some(Self)
        }
    }
    boot::read::<Nothing>(config).map(|(shared, Nothing)| shared).map_err(Failure::Configuration)
}

/// One thing wrong with the configuration, found by trying it.
pub fn configuration(place: &str, message: String) -> Failure {
    Failure::Configuration(vec![Problem { place: place.to_owned(), message }])
}

const fn every_address(port: u16) -> ListenAddr {
    ListenAddr(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port))
}

/// "Every address" is no address to connect to; this machine's own is one of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()) } else { address }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, env: &[(&str, &str)]) -> Result<Place, Vec<Problem>> {
        Place::read(Source::of(text, env))
    }

    #[test]
    fn without_a_file_the_contract_s_defaults_hold() {
        let place = read("", &[]).unwrap();
        assert_eq!(place.supervisor(), Path::new("/run/gatehouse/supervisor.sock"));
        assert_eq!((place.http, place.grpc), (every_address(8080), every_address(9090)));
    }

    #[test]
    fn the_environment_beats_the_file() {
        let file = "[suite]\nruntime_dir = \"/a\"\n[listen]\nhttp = \"127.0.0.1:1\"\ngrpc = \"127.0.0.1:2\"";
        let place = read(file, &[("GATEWAY_RUNTIME_DIR", "/b"), ("GATEWAY_AUTHENTICATED_GRPC_ADDR", ":3")]).unwrap();
        assert_eq!(place.admin(), Path::new("/b/admin.sock"));
        assert_eq!((place.http.to_string(), place.grpc.to_string()), ("127.0.0.1:1".to_owned(), "[::]:3".to_owned()));
    }

    #[test]
    fn a_file_that_is_wrong_elsewhere_does_not_hide_the_suite() {
        let file = "[suite]\nruntime_dir = \"/a\"\npushers = \"many\"\n[lissten]\nhttp = 1";
        assert_eq!(read(file, &[("GATEWAY_REDIS_TLS_ENABLED", "1")]).unwrap().admin(), Path::new("/a/admin.sock"));
        assert!(read("[suite", &[]).is_err(), "what is not TOML says nothing about where the suite is");
    }

    #[test]
    fn every_address_is_reached_by_the_loopback_one() {
        for (bound, reached) in
            [("[::]:8080", "127.0.0.1:8080"), ("0.0.0.0:80", "127.0.0.1:80"), ("10.0.0.7:80", "10.0.0.7:80"), ("[::1]:80", "[::1]:80")]
        {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), reached);
        }
    }
}
