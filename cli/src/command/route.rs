//! `gatehouse route`: what goes where, and what operators have taken out of service.

use std::path::Path;

use clap::{Args, Subcommand};
use gatehouse_proto::internal::v1::{RouteStatus, RoutesRequest};
use serde_json::{Value, json};

use super::{
    change::{self, How, Order},
    supervisor::{BOUND, PEER, connect},
    time::moment,
};
use crate::{failure::Failure, local, output::Output};

/// What to do with routes.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Show every route: where it goes, its priority, and who took it out of service, when and why
    List,
    /// Take a route out of service, until it is enabled again: its requests are refused, and everything else goes on
    Disable(Which),
    /// Bring it back
    Enable(Which),
}

/// One route.
#[derive(Debug, Args)]
pub struct Which {
    /// As it is configured: a command's `message_type`, also one with an asterisk, or an HTTP prefix
    name: String,
    #[command(flatten)]
    how: How,
}

/// Does it.
pub async fn run(command: RouteCommand, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    match command {
        RouteCommand::List => list(config, output).await,
        RouteCommand::Disable(Which { name, how }) => change::run(Order::switch_route(name, false, how), config, output).await,
        RouteCommand::Enable(Which { name, how }) => change::run(Order::switch_route(name, true, how), config, output).await,
    }
}

async fn list(config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let mut supervisor = connect(config).await?;
    let routes = local::answer(PEER, BOUND, supervisor.routes(RoutesRequest {})).await?.routes;
    if output.is_json() {
        let routes: Vec<_> = routes.iter().map(document).collect();
        return output.document(&json!({ "routes": routes }));
    }
    output.table(["ROUTE", "KIND", "BACKEND", "PRIORITY", "STATE", "SINCE", "WHO", "WHY"], routes.into_iter().map(row))
}

fn document(route: &RouteStatus) -> Value {
    let RouteStatus { name, kind, backend, priority, enabled, actor, reason, at_ms } = route;
    let disabled = (!enabled).then(|| json!({ "actor": actor, "reason": reason, "at_ms": at_ms }));
    let present = |text: &String| (!text.is_empty()).then(|| text.clone());
    json!({
        "name": name, "kind": kind, "backend": present(backend), "priority": present(priority), "enabled": enabled, "disabled": disabled,
    })
}

fn row(route: RouteStatus) -> [String; 8] {
    let RouteStatus { name, kind, backend, priority, enabled, actor, reason, at_ms } = route;
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let state = if enabled { "enabled" } else { "disabled" };
    let since = if enabled { String::new() } else { moment(at_ms) };
    [name, kind, dash(backend), dash(priority), state.to_owned(), dash(since), dash(actor), dash(reason)]
}
