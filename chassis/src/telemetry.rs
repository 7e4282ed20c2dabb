//! Logs on stderr, one event a line, as JSON or as text; errors and panics to Sentry when a DSN is set.

pub mod rate;
mod said;
pub mod trace;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _},
    panic::{self, PanicHookInfo},
    thread,
    time::Duration,
};

use sentry::{ClientInitGuard, integrations::tracing::ErrorLayer};
use tracing_subscriber::{
    Layer as _,
    filter::{Targets, filter_fn},
    fmt::time::SystemTime,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use said::Said;

use crate::{
    config::{LogConfig, LogFormat, SentryConfig},
    outlet::Outlet,
};

/// How long the reader of the last lines may take.
const LAST_LINES: Duration = Duration::from_millis(200);
/// The target of the line that says a panic.
const PANIC: &str = "gatehouse::panic";

/// Flushes on drop.
#[must_use]
pub struct Telemetry {
    _sentry: Option<ClientInitGuard>,
}

/// The one provider of cryptography for TLS, before anything needs it. Idempotent.
pub(crate) fn install_crypto() {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Installs the process's subscriber, and says panics through it. Call it once, before the runtime starts. Nobody who has something to say waits for
/// stderr: lines go through the [`Outlet`].
pub fn init(component: &'static str, instance: u32, log: LogConfig, sentry: &SentryConfig) -> Telemetry {
    // Libraries speak up from warnings on; their debug output would bury ours.
    let levels = Targets::new().with_default(tracing::Level::WARN.min(log.level)).with_target("gatehouse", log.level);
    let format = log.format.unwrap_or(if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let lines = tracing_subscriber::fmt::layer().with_writer(Outlet::stderr()).with_timer(SystemTime);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    // Before Sentry's, which calls the hook that it finds.
    panic::set_hook(Box::new(say_panic));
    let guard = sentry.dsn.as_ref().map(|dsn| {
        // The transport builds its TLS client with it.
        install_crypto();
        let options = sentry::ClientOptions::new()
            .dsn(dsn.expose())
            .release(env!("CARGO_PKG_VERSION"))
            .server_name(format!("{component}-{instance}"));
        let options = match &sentry.environment {
            Some(environment) => options.environment(environment.clone()),
            None => options,
        };
        sentry::init(options)
    });
    // Panics reach Sentry by its own hook.
    let reported = filter_fn(|event| *event.level() == tracing::Level::ERROR && event.target() != PANIC);
    let reports = guard.is_some().then(|| ErrorLayer::new().with_filter(reported));
    let installed = tracing_subscriber::registry().with(lines.with_filter(levels)).with(reports).try_init();
    if installed.is_err() {
        tracing::debug!("a subscriber is installed already");
    }
    Telemetry { _sentry: guard }
}

/// The default hook writes to stderr itself, and would stand still where nobody reads.
fn say_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let thread = thread.name().unwrap_or_default();
    tracing::error!(target: PANIC, { panic.place = place, panic.thread = thread, backtrace }, "panicked: {message}");
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        Outlet::stderr().flush(LAST_LINES);
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}
