//! `gatehouse admin`: what the admin process answers on its local socket.

mod audit;
mod session;

use std::{path::Path, time::Duration};

use clap::Subcommand;
use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::internal::v1::admin_client::AdminClient;

use crate::{failure::Failure, local, output::Output, place::Place};

const PEER: &str = "the admin process";
/// What follows from a socket that is there and on which nobody listens: the supervisor holds it, too.
const DEAD: &str = "neither it nor the supervisor is running";
const BOUND: Duration = Duration::from_secs(10);

/// What to ask.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum AdminCommand {
    /// The audit trail
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Device sessions
    #[command(subcommand)]
    Session(session::SessionCommand),
}

pub async fn run(command: AdminCommand, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    // What is wrong with the arguments is said before anybody is asked.
    let command = match command {
        AdminCommand::Session(command) => Question::Session(session::Question::new(command)?),
        AdminCommand::Audit(command) => Question::Audit(command),
    };
    let channel = local::open(PEER, DEAD, &Place::find(config)?.admin()).await?;
    let mut admin: AdminClient<Channel> = AdminClient::new(channel);
    match command {
        Question::Audit(command) => audit::run(command, &mut admin, output).await,
        Question::Session(question) => session::run(question, &mut admin, output).await,
    }
}

enum Question {
    Audit(audit::AuditCommand),
    Session(session::Question),
}
