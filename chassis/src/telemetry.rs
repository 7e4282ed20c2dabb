//! Logs on stderr, one event a line, as JSON or as text; errors and panics to Sentry when a DSN is set.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use sentry::{ClientInitGuard, integrations::tracing::ErrorLayer};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::{time::SystemTime, writer::BoxMakeWriter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    config::{LogConfig, LogFormat, SentryConfig},
    outlet::Outlet,
};

/// How long the reader of the last lines may take.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Flushes on drop.
#[must_use]
pub struct Telemetry {
    _sentry: Option<ClientInitGuard>,
    outlet: Option<&'static Outlet>,
}

/// Installs the process's subscriber. Call it once, before the runtime starts. Lines go through `outlet`; without one, whoever has something to
/// say writes it, and waits when stderr does.
pub fn init(component: &'static str, instance: u32, log: LogConfig, sentry: &SentryConfig, outlet: Option<&'static Outlet>) -> Telemetry {
    // Libraries speak up from warnings on; their debug output would bury ours.
    let levels = Targets::new().with_default(tracing::Level::WARN.min(log.level)).with_target("gatehouse", log.level);
    let format = log.format.unwrap_or(if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let writer = outlet.map_or_else(|| BoxMakeWriter::new(io::stderr), BoxMakeWriter::new);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_timer(SystemTime);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    let guard = sentry.dsn.as_ref().map(|dsn| {
        // The provider must be there before the transport builds its TLS client.
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
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
    let reports = guard.is_some().then(|| ErrorLayer::new().with_filter(LevelFilter::ERROR));
    let installed = tracing_subscriber::registry().with(lines.with_filter(levels)).with(reports).try_init();
    if installed.is_err() {
        tracing::debug!("a subscriber is installed already");
    }
    Telemetry { _sentry: guard, outlet }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(outlet) = self.outlet {
            outlet.flush(LAST_LINES);
        }
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}
