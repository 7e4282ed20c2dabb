//! The `gatehouse-admin` binary.

use std::process::ExitCode;

use gatehouse_chassis::Boot;
use gatehouse_migrations::{Database, Owner, migrate, preflight};

fn main() -> ExitCode {
    Boot::new("admin")
        .migrations(|shared, _: gatehouse_admin::Config, dry_run| {
            Box::pin(async move { migrate(&Database::of(&shared, Owner::Admin)?, dry_run).await })
        })
        .preflight(|_, read, _| read.map(|(shared, _)| preflight(shared)).unwrap_or_default())
        .run(gatehouse_admin::serve)
}
