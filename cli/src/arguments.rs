//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::command::{
    admin::AdminCommand, breaker::BreakerCommand, change, client::ClientCommand, config::ConfigCommand, events, key::KeyCommand, logs,
    route::RouteCommand, why,
};

/// Runs and asks Gatehouse, which stands in front of a company's services: authenticates devices, forwards commands, pushes events, keeps the audit trail.
#[derive(Debug, Parser)]
#[command(name = "gatehouse", version, propagate_version = true, arg_required_else_help = true)]
pub struct Arguments {
    /// The configuration file [default: /etc/gatehouse/gateway.toml]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Answer with one JSON document; streams with one line an event
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the suite in the foreground, until SIGTERM or SIGINT has drained it
    Run,
    /// Show every process: state, pid, uptime, restarts, last exit
    Status,
    /// Replace a component's processes: the new one starts on the same sockets, then the old one drains
    Restart(change::Whom),
    /// Drain a component and leave it down until it is started
    Stop(change::Whom),
    /// Start what was stopped
    Start(change::Whom),
    /// Run more or fewer pushers
    Scale(change::HowMany),
    /// Replace the supervisor and then each component by newer binaries
    Upgrade(change::FromWhere),
    /// Let the edge read the configuration file again: backends, commands and routes change at once, and what cannot is named
    Reload(change::How),
    /// Show routes, take one out of service, bring it back
    #[command(subcommand)]
    Route(RouteCommand),
    /// Show the circuits of backends, close one
    #[command(subcommand)]
    Breaker(BreakerCommand),
    /// Show past changes, the newest first, or what came of one
    Changes(change::Which),
    /// Show what happened, the newest first: every end of a process, and what operators changed
    Events(events::Which),
    /// Tell why a component is as it is: its state, what led to it, what happens next, what to do
    Why(why::Whom),
    /// Show what components said, the oldest first
    Logs(logs::Wanted),
    /// Bring the database up to date
    Migrate {
        /// Print what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Look after the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Rotate the keys that the gateway signs with
    #[command(subcommand)]
    Key(KeyCommand),
    /// Ask the admin process: audit trail, device sessions
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Be a client: sign, send, and verify what comes back
    #[command(subcommand)]
    Client(ClientCommand),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in [
            "gatehouse --json --config a.toml status",
            "gatehouse status --json --config a.toml",
            "gatehouse admin --json audit --config a.toml verify",
            "gatehouse admin audit verify --config a.toml --json",
        ] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert!(arguments.json && arguments.config == Some("a.toml".into()), "{line}");
        }
    }

    #[test]
    fn what_is_needed_must_be_given_and_what_excludes_each_other_is_refused() {
        let wrong = [
            "gatehouse",
            "gatehouse fly",
            "gatehouse admin session create --user u",
            "gatehouse admin session create --public-key AA==",
            "gatehouse admin session create --user u --public-key AA== --key k.pem",
            "gatehouse admin session show",
            "gatehouse admin audit list --limit 0",
            "gatehouse admin audit list --limit many",
            "gatehouse client exec --key k --session s",
            "gatehouse client exec --key k --type t",
            "gatehouse client exec --key k --session s --type t --payload a --payload-file b",
            "gatehouse client exec --key k --session s --type t --endpoint ftp://host:1",
            "gatehouse client exec --key k --session s --type t --gateway-key AAAA",
            "gatehouse client subscribe --key k --session s --count none",
            "gatehouse client publish --user u",
            "gatehouse client bench --key k --session s",
            "gatehouse client bench --key k --session s --type t --connections 0",
            "gatehouse client bench --key k --session s --type t --rate 0",
            "gatehouse client bench --key k --session s --type t --duration soon",
            "gatehouse restart",
            "gatehouse restart egde",
            "gatehouse restart pusher/64",
            "gatehouse restart edge --wait --no-wait",
            "gatehouse restart edge --timeout soon",
            "gatehouse scale pusher",
            "gatehouse scale pusher 0",
            "gatehouse scale pusher 65",
            "gatehouse scale edge 2",
            "gatehouse reload now",
            "gatehouse route",
            "gatehouse route disable",
            "gatehouse route list orders",
            "gatehouse breaker reset",
            "gatehouse changes --wait",
            "gatehouse events --limit 0",
            "gatehouse events --since soon",
            "gatehouse why",
            "gatehouse why egde",
            "gatehouse key",
            "gatehouse key activate",
            "gatehouse key retire --now 00000000000000cc",
            "gatehouse logs edge --level loud",
            "gatehouse logs edge --lines 0",
            "gatehouse logs edge --since 2026",
        ];
        for line in wrong {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        let right = [
            "gatehouse run",
            "gatehouse migrate --dry-run",
            "gatehouse restart edge",
            "gatehouse restart pusher/1 --reason leaks --timeout 30s",
            "gatehouse stop edge",
            "gatehouse stop pusher/0 --reason leaks --no-wait",
            "gatehouse start pusher/0 --wait",
            "gatehouse scale pusher 4",
            "gatehouse upgrade --from /opt/new",
            "gatehouse reload --reason new",
            "gatehouse route list --json",
            "gatehouse route disable orders.* --reason loops",
            "gatehouse route enable /shop --no-wait",
            "gatehouse breaker list",
            "gatehouse breaker reset orders --timeout 5s",
            "gatehouse changes 0197 --wait",
            "gatehouse events",
            "gatehouse events pusher/1 --since 2h --limit 7",
            "gatehouse why pusher",
            "gatehouse logs",
            "gatehouse logs pusher/1 -f --since 10m --level warn",
            "gatehouse logs edge --since 2026-11-21T09:52:16Z -n 7",
            "gatehouse key list",
            "gatehouse key add --from k.pem --reason yearly",
            "gatehouse key activate 00000000000000cc --now",
            "gatehouse config check",
            "gatehouse admin audit list --limit 3 --action-type command --request-id r",
            "gatehouse admin session create --user u --id s --key k.pem",
            "gatehouse admin session revoke s",
            "gatehouse client keygen",
            "gatehouse client exec --key k --session s --type t --payload a --endpoint 127.0.0.1:9090 --http http://127.0.0.1:8080",
            "gatehouse client subscribe --key k --session s --last-event-id 1-0 --count 3",
            "gatehouse client exec --key k --session s --type t --endpoint https://host:9090 --ca ca.pem",
            "gatehouse client bench --key k --session s --type t --connections 8 --streams 4 --rate 500.5 --duration 1m --payload-bytes 128",
            "gatehouse client publish --user u --type t --payload a --device s",
        ];
        for line in right {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
