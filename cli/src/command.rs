//! One module a command: its arguments, what it asks, how it shows the answer.

pub mod admin;
pub mod breaker;
pub mod change;
pub mod client;
pub mod config;
pub mod events;
mod exits;
pub mod key;
pub mod logs;
mod migrate;
pub mod route;
mod run;
mod status;
pub mod supervisor;
mod target;
mod time;
pub mod why;

use std::path::Path;

use anyhow::Context as _;
use tokio::runtime::Builder;

use self::{change::Order, config::ConfigCommand};
use crate::{
    arguments::{Arguments, Command},
    failure::Failure,
    output::Output,
};

/// Does what was asked.
pub fn run(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let config = arguments.config.as_deref();
    match arguments.command {
        // These become or start other processes and need no runtime.
        Command::Run => run::run(config),
        Command::Migrate { dry_run } => migrate::migrate(config, dry_run, output),
        Command::Config(ConfigCommand::Check) => config::check(config, output),
        command => {
            let is_load = matches!(&command, Command::Client(command) if command.is_load());
            let mut runtime = if is_load { Builder::new_multi_thread() } else { Builder::new_current_thread() };
            let runtime = runtime.enable_all().build().context("start the runtime")?;
            runtime.block_on(ask(command, config, output))
        }
    }
}

async fn ask(command: Command, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Status => status::status(config, output).await,
        Command::Restart(whom) => change::run(Order::restart(whom), config, output).await,
        Command::Stop(whom) => change::run(Order::stop(whom), config, output).await,
        Command::Start(whom) => change::run(Order::start(whom), config, output).await,
        Command::Scale(how_many) => change::run(Order::scale(how_many), config, output).await,
        Command::Upgrade(from_where) => change::run(Order::upgrade(from_where)?, config, output).await,
        Command::Reload(how) => change::run(Order::reload(how), config, output).await,
        Command::Route(command) => route::run(command, config, output).await,
        Command::Breaker(command) => breaker::run(command, config, output).await,
        Command::Changes(which) => change::list(which, config, output).await,
        Command::Events(which) => events::list(which, config, output).await,
        Command::Why(whom) => why::tell(&whom, config, output).await,
        Command::Logs(wanted) => logs::print(&wanted, config, output).await,
        Command::Key(command) => key::run(command, config, output).await,
        Command::Admin(command) => admin::run(command, config, output).await,
        Command::Client(command) => client::run(command, config, output).await,
        Command::Run | Command::Migrate { .. } | Command::Config(_) => Ok(()),
    }
}
