//! The `gatehouse-admin` binary.

use std::process::ExitCode;

use gatehouse_chassis::Boot;
use gatehouse_migrations::{Database, Owner, migrate};

fn main() -> ExitCode {
    Boot::new("admin")
        .migrations(|shared, _: gatehouse_admin::Config, dry_run| {
            Box::pin(async move { migrate(&Database::of(&shared, Owner::Admin)?, dry_run).await })
        })
        .run(gatehouse_admin::serve)
}
