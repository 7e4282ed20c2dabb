//! The `gatehouse-auditor` binary.

use std::process::ExitCode;

use gatehouse_chassis::Boot;
use gatehouse_migrations::{Database, Owner, migrate};

fn main() -> ExitCode {
    Boot::new("auditor")
        .migrations(|shared, _: gatehouse_auditor::Config, dry_run| {
            Box::pin(async move { migrate(&Database::of(&shared, Owner::Audit)?, dry_run).await })
        })
        .run(gatehouse_auditor::serve)
}
