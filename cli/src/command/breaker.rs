//! `gatehouse breaker`: the circuits of backends.

use std::path::Path;

use clap::{Args, Subcommand};
use gatehouse_proto::internal::v1::{BreakerStatus, BreakersRequest};
use serde_json::json;

use super::{
    change::{self, How, Order},
    supervisor::{BOUND, PEER, connect},
};
use crate::{failure::Failure, local, output::Output};

/// What to do with circuits.
#[derive(Debug, Subcommand)]
pub enum BreakerCommand {
    /// Show how each stands
    List,
    /// Close one: its backend is tried again at once
    Reset(Which),
}

/// One circuit.
#[derive(Debug, Args)]
pub struct Which {
    /// The backend's name
    backend: String,
    #[command(flatten)]
    how: How,
}

/// Does it.
pub async fn run(command: BreakerCommand, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    match command {
        BreakerCommand::List => list(config, output).await,
        BreakerCommand::Reset(Which { backend, how }) => change::run(Order::reset_breaker(backend, how), config, output).await,
    }
}

async fn list(config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let mut supervisor = connect(config).await?;
    let breakers = local::answer(PEER, BOUND, supervisor.breakers(BreakersRequest {})).await?.breakers;
    if output.is_json() {
        let document = |BreakerStatus { backend, state }| json!({ "backend": backend, "state": state });
        let breakers: Vec<_> = breakers.into_iter().map(document).collect();
        return output.document(&json!({ "breakers": breakers }));
    }
    let row = |BreakerStatus { backend, state }| [backend, state];
    output.table(["BACKEND", "STATE"], breakers.into_iter().map(row))
}
