//! One way to be a process: arguments → configuration → telemetry → runtime → signals → `serve` → drain within the budget → exit code.

mod signals;

use std::{
    env,
    ffi::CString,
    future::Future,
    io::Write as _,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};

use crate::{
    Process,
    config::{Config, Origin, Problem, Reader, Shared, Source},
    exit,
    notify::Notifier,
    sockets::{self, Inherited},
    telemetry,
};

/// After aborting, how long `serve` may take to notice before the process ends without it.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// The command line of every component.
#[derive(Debug, Parser)]
struct Arguments {
    /// The configuration file [default: /etc/gatehouse/gateway.toml]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Check the configuration, print every problem, and exit: 0 or 78
    #[arg(long)]
    check: bool,
    /// Bring the tables that this component owns up to date, and exit
    #[arg(long)]
    migrate: bool,
    /// With --migrate: print what would be done
    #[arg(long, requires = "migrate")]
    dry_run: bool,
}

type Migrate<C> = fn(Arc<Shared>, C, bool) -> Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

type Preflight<C> = fn(Option<&Path>, Option<(&Shared, &C)>, bool) -> Vec<String>;

/// Boots one component.
#[derive(Clone, Copy, Debug)]
pub struct Boot<C> {
    name: &'static str,
    single_threaded: bool,
    ends_with_terminal: bool,
    migrate: Option<Migrate<C>>,
    preflight: Option<Preflight<C>>,
    budget: Option<fn(&Shared) -> Duration>,
}

impl<C: Config> Boot<C> {
    /// `name` is the component's: `edge`, and its binary `gatehouse-edge`.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, single_threaded: false, ends_with_terminal: false, migrate: None, preflight: None, budget: None }
    }

    /// Runs everything on the main thread, which then lives as long as the process.
    #[must_use]
    pub const fn single_threaded(mut self) -> Self {
        self.single_threaded = true;
        self
    }

    /// In a terminal, a SIGHUP drains: nobody watches any more.
    #[must_use]
    pub const fn ends_with_terminal(mut self) -> Self {
        self.ends_with_terminal = true;
        self
    }

    /// What `--migrate` does; the flag is refused without. The last argument is `--dry-run`.
    #[must_use]
    pub const fn migrations(mut self, migrate: Migrate<C>) -> Self {
        self.migrate = Some(migrate);
        self
    }

    /// What else must hold before the start: problems beyond this process's own configuration, one a line. It is given `--config` and, when all of
    /// the own configuration was right, what was read; and whether that is all, for `--check`. Its lines are printed together with the own problems, each once.
    #[must_use]
    pub const fn preflight(mut self, preflight: Preflight<C>) -> Self {
        self.preflight = Some(preflight);
        self
    }

    /// How long the drain may take, when that is not the component's own line in `[shutdown]`.
    #[must_use]
    pub const fn budget(mut self, budget: fn(&Shared) -> Duration) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Runs to the end. `main` returns what this returns.
    pub fn run<F>(self, serve: impl FnOnce(Process, C) -> F) -> ExitCode
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        self.take_name();
        telemetry::install_crypto();
        let arguments = match self.arguments() {
            Ok(arguments) => arguments,
            Err(code) => return code,
        };
        if !(arguments.check || arguments.migrate)
            && let Err(error) = signals::hold_back()
        {
            eprintln!("gatehouse-{}: signals cannot be held back: {error}", self.name);
        }
        // Nothing else has opened a descriptor yet.
        sockets::keep_lane();
        let inherited = match Inherited::from_env() {
            Ok(inherited) => inherited,
            Err(error) => {
                eprintln!("gatehouse-{}: {error}", self.name);
                return ExitCode::from(exit::CONFIG);
            }
        };
        let source = Source::load(arguments.config.as_deref());
        let (shared, config) = match self.checked(arguments.config.as_deref(), source.clone(), arguments.check) {
            Ok(read) => read,
            Err(problems) => {
                print_lines(&problems);
                return ExitCode::from(exit::CONFIG);
            }
        };
        if arguments.check {
            return ExitCode::from(exit::OK);
        }
        let instance = env::var("GATEWAY_INSTANCE").ok().and_then(|number| number.parse().ok()).unwrap_or(0);
        let telemetry = telemetry::init(self.name, instance, shared.log, &shared.sentry);
        let code = match self.runtime() {
            Ok(runtime) => {
                let code = runtime.block_on(async {
                    match self.migrate {
                        Some(migrate) if arguments.migrate => self.report(migrate(Arc::new(shared), config, arguments.dry_run).await),
                        _ => {
                            let mut process = Process::new(self.name, instance, shared, inherited);
                            if let Ok(first) = source {
                                process = process.with_origin(Origin { path: arguments.config, first });
                            }
                            self.live(process, config, serve).await
                        }
                    }
                });
                // A task that blocks its thread must not hold up the end.
                runtime.shutdown_timeout(LAST_GRACE);
                code
            }
            Err(error) => self.report(Err(error.into())),
        };
        drop(telemetry);
        // For a supervisor that is not our parent, because the one that was is gone. Nobody may be there.
        let _unheard = Notifier::from_env().send(&[NotifyState::Custom(&format!("EXIT_STATUS={code}"))]);
        ExitCode::from(code)
    }

    /// As `ps` and `/proc` show it. A binary that is executed by its descriptor would be called by that descriptor's number.
    fn take_name(&self) {
        if let Ok(name) = CString::new(format!("gatehouse-{}", self.name)) {
            // It works as well without.
            let _unnamed = nix::sys::prctl::set_name(&name);
        }
    }

    fn arguments(&self) -> Result<Arguments, ExitCode> {
        let command = Arguments::command()
            .name(format!("gatehouse-{}", self.name))
            .version(env!("CARGO_PKG_VERSION"))
            .about(format!("The {} of Gatehouse. The supervisor starts it; see `gatehouse --help`.", self.name))
            .mut_arg("migrate", |arg| arg.hide(self.migrate.is_none()))
            .mut_arg("dry_run", |arg| arg.hide(self.migrate.is_none()));
        let parsed = command.try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
        let print = |error: clap::Error| {
            let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
            // Nobody may be reading; there is nothing to do about it.
            let _unread = error.print();
            ExitCode::from(code)
        };
        let arguments = parsed.map_err(print)?;
        if arguments.migrate && self.migrate.is_none() {
            eprintln!("gatehouse-{}: owns no tables, so there is nothing to migrate", self.name);
            return Err(ExitCode::from(exit::USAGE));
        }
        Ok(arguments)
    }

    /// Own configuration and preflight; everything that is wrong with either, each line once.
    fn checked(&self, path: Option<&Path>, source: Result<Source, String>, only: bool) -> Result<(Shared, C), Vec<String>> {
        let read = source.map_err(unreadable).and_then(read_from::<C>);
        let mut lines: Vec<String> = read.as_ref().err().into_iter().flatten().map(ToString::to_string).collect();
        if let Some(preflight) = self.preflight {
            for line in preflight(path, read.as_ref().ok().map(|(shared, config)| (shared, config)), only) {
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        match read {
            Ok(read) if lines.is_empty() => Ok(read),
            _ => Err(lines),
        }
    }

    fn runtime(&self) -> std::io::Result<Runtime> {
        let mut builder = if self.single_threaded { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        builder.enable_all().build()
    }

    async fn live<F>(&self, process: Process, config: C, serve: impl FnOnce(Process, C) -> F) -> u8
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let shutdown = process.shutdown().clone();
        if let Err(error) = signals::watch(&process, self.ends_with_terminal) {
            return self.report(Err(error.into()));
        }
        let budget = self.budget.map_or_else(|| process.shared().budgets.of(self.name), |budget| budget(process.shared()));
        let limit = shutdown.limit(budget);
        process.starting().await;
        let _watchdog = process.watch();
        let whole = async {
            let served = serve(process.clone(), config).await;
            shutdown.drain();
            shutdown.finished().await;
            process.close_local().await;
            shutdown.sinks_finished().await;
            served
        };
        let overrun = async {
            limit.await;
            tokio::time::sleep(LAST_GRACE).await;
        };
        let served = tokio::select! {
            served = whole => served,
            () = overrun => Err(anyhow::anyhow!("the drain did not end; left after {budget:?}")),
        };
        let code = self.report(served);
        if shutdown.has_panicked() { exit::BUG } else { code }
    }

    fn report(&self, result: anyhow::Result<()>) -> u8 {
        match result {
            Ok(()) => {
                tracing::debug!("ended");
                exit::OK
            }
            Err(error) => {
                let code = exit::code_of(&error);
                tracing::error!(exit.code = code, "{} ends: {error:#}", self.name);
                code
            }
        }
    }
}

/// Reads the shared sections and a component's own; every problem of both.
pub fn read<C: Config>(path: Option<&Path>) -> Result<(Shared, C), Vec<Problem>> {
    read_from(Source::load(path).map_err(unreadable)?)
}

/// The same from what has been read already.
pub fn read_from<C: Config>(source: Source) -> Result<(Shared, C), Vec<Problem>> {
    let mut reader = Reader::new(source);
    let (shared, config) = (Shared::read(&mut reader), C::read(&mut reader));
    let problems = reader.into_problems();
    match (shared, config) {
        (Some(shared), Some(config)) if problems.is_empty() => Ok((shared, config)),
        _ => Err(problems),
    }
}

fn unreadable(message: String) -> Vec<Problem> {
    vec![Problem { place: "--config".into(), message }]
}

fn print_lines(lines: &[String]) {
    let mut stderr = std::io::stderr().lock();
    for line in lines {
        // Nobody may be reading; the exit code says it too.
        let _unread = writeln!(stderr, "{line}");
    }
}

/// The exit code that a process of ours left with, in words.
#[must_use]
pub fn describe_exit(code: i32) -> String {
    let known = [
        (exit::OK, "stopped"),
        (exit::USAGE, "wrong command line"),
        (exit::BUG, "a bug"),
        (exit::TRY_AGAIN, "something it needs is missing"),
        (exit::CONFIG, "wrong configuration"),
    ];
    let meaning = known.iter().find(|(known, _)| i32::from(*known) == code).map(|(_, meaning)| meaning);
    meaning.map_or_else(|| format!("status {code}"), |meaning| format!("status {code} ({meaning})"))
}
