//! The `gatehouse-auditor` binary.

use std::process::ExitCode;

use gatehouse_chassis::Boot;
use gatehouse_migrations::{Database, Owner, migrate, preflight};

fn main() -> ExitCode {
    Boot::new("auditor")
        .migrations(|shared, _: gatehouse_auditor::Config, dry_run| {
            Box::pin(async move { migrate(&Database::of(&shared, Owner::Audit)?, dry_run).await })
        })
        .preflight(|_, read, _| read.map(|(shared, _)| preflight(shared)).unwrap_or_default())
        .run(gatehouse_auditor::serve)
}
