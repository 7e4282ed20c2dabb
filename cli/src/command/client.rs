//! `gatehouse client`: the reference client at the command line.

mod bench;
mod exec;
mod keygen;
mod publish;
mod subscribe;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use tonic::transport::Channel;

use gatehouse_client::{Device, Keyring, NoKeys, Origin, Trust, key};
use gatehouse_proto::{gateway::v1::gateway_client::GatewayClient, keys::PublicKey};

use crate::{
    failure::Failure,
    output::Output,
    place::{Door, Place},
};

/// How long the gateway may take to accept a connection, and to tell its keys.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to do as a client.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Make a device key
    Keygen(keygen::Destination),
    /// Execute one signed command and verify the answer
    Exec(exec::Exec),
    /// Open the session's event stream and verify every event
    Subscribe(subscribe::Subscription),
    /// Put a load of signed commands on the gateway, and say how it answered
    Bench(bench::Bench),
    /// Publish an event to a user's devices, as a business service does: into the client event stream in Redis
    Publish(publish::Event),
}

/// Who speaks, and to whom.
#[derive(Debug, Args)]
struct Party {
    /// The device's private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The device session
    #[arg(long, value_name = "ID")]
    session: String,
    /// The authenticated gRPC listener [default: of the suite on this machine]
    #[arg(long, value_name = "URL")]
    endpoint: Option<Origin>,
    /// The gateway's public key, base64 of the raw 32 bytes [default: what the public HTTP listener tells]
    #[arg(long, value_name = "BASE64", value_parser = PublicKey::from_base64)]
    gateway_key: Option<PublicKey>,
    /// The public HTTP listener, asked for the gateway's public keys [default: of the suite on this machine]
    #[arg(long, value_name = "URL", conflicts_with = "gateway_key")]
    http: Option<Origin>,
    /// Who may vouch for listeners behind https://, PEM certificates [default: whom this machine trusts]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A device with its way to the gateway.
struct Line {
    device: Device,
    gateway: GatewayClient<Channel>,
    endpoint: Origin,
    trust: Trust,
    keyring: Keyring,
    keys_from: Option<Origin>,
}

impl ClientCommand {
    /// Whether it has more to do than one processor can.
    pub const fn is_load(&self) -> bool {
        matches!(self, Self::Bench(_))
    }
}

pub async fn run(command: ClientCommand, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    match command {
        ClientCommand::Keygen(destination) => keygen::keygen(&destination, output),
        ClientCommand::Exec(exec) => exec::exec(exec, config, output).await,
        ClientCommand::Subscribe(subscription) => subscribe::subscribe(subscription, config, output).await,
        ClientCommand::Bench(bench) => bench::bench(bench, config, output).await,
        ClientCommand::Publish(event) => publish::publish(event, config, output).await,
    }
}

impl Party {
    async fn dial(self, config: Option<&Path>) -> Result<Line, Failure> {
        let device = Device::new(self.session, key::read(&self.key)?);
        let trust = self.ca.map_or(Ok(Trust::System), |file| Trust::of_file(&file)).map_err(anyhow::Error::from)?;
        let endpoint = origin(self.endpoint, config, Door::Grpc).await?;
        let gateway = connect(&endpoint, &trust).await?;
        let (keyring, keys_from) = if let Some(key) = self.gateway_key {
            ([key].into_iter().collect(), None)
        } else {
            let http = origin(self.http, config, Door::Http).await?;
            (fetch_keys(&http, &trust).await?, Some(http))
        };
        Ok(Line { device, gateway, endpoint, trust, keyring, keys_from })
    }
}

async fn connect(endpoint: &Origin, trust: &Trust) -> Result<GatewayClient<Channel>, Failure> {
    let gateway = gatehouse_client::connect(endpoint, trust, PATIENCE).await;
    gateway.map_err(|error| Failure::Unreachable(format!("the gateway is not reachable: {error:#}")))
}

async fn origin(given: Option<Origin>, config: Option<&Path>, door: Door) -> Result<Origin, Failure> {
    match given {
        Some(origin) => Ok(origin),
        None => Place::find(config)?.url(door).await.parse().map_err(|error| Failure::failed(format!("configured address: {error}"))),
    }
}

async fn fetch_keys(http: &Origin, trust: &Trust) -> Result<Keyring, Failure> {
    gatehouse_client::public_keys(http, trust, PATIENCE).await.map_err(|error| match error {
        NoKeys::Unreachable { .. } => Failure::Unreachable(format!("{:#}", anyhow::Error::from(error))),
        NoKeys::Unusable { .. } => Failure::Failed(error.into()),
    })
}

impl Line {
    /// Asks once more for the gateway's keys: it may have changed them since. Nothing changes when they were given by hand.
    async fn refresh_keys(&mut self) -> Result<(), Failure> {
        if let Some(http) = &self.keys_from {
            self.keyring = fetch_keys(http, &self.trust).await?;
        }
        Ok(())
    }
}
