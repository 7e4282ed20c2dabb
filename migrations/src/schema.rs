//! Brings an owner's tables up to date, or says that they are not.

use std::io::Write as _;

use anyhow::Context as _;
use gatehouse_chassis::exit::Fatal;
use sqlx::{
    Connection as _,
    migrate::{Migrate, Migration},
};

use crate::{Connection, Database, Step, on};

/// What `--migrate` does: applies what is pending, and prints one line a migration: `audit 0001_create_audit_events applied`. A dry run says `pending`
/// in its place and changes nothing, not even making a file.
pub async fn migrate(database: &Database, dry_run: bool) -> anyhow::Result<()> {
    let steps = if dry_run && database.is_absent() {
        database.plan(&[])?
    } else {
        let mut connection = database.connect().await?;
        let steps = pending(database, &mut connection).await?;
        if !dry_run {
            apply(database, &mut connection, &steps).await?;
        }
        steps
    };
    let done = if dry_run { "pending" } else { "applied" };
    let mut stdout = std::io::stdout().lock();
    for step in &steps {
        writeln!(stdout, "{} {} {}", database.owner().name(), step.name, if step.pending { done } else { "up to date" })?;
    }
    Ok(())
}

/// What `serve` does: a new SQLite file is made with all tables; anything else with migrations pending stops the start, unless they may be applied now.
pub(crate) async fn ensure(database: &Database, connection: &mut Connection, migrate_on_start: bool) -> anyhow::Result<()> {
    let steps = pending(database, connection).await?;
    let waiting: Vec<_> = steps.iter().filter(|step| step.pending).map(|step| step.name.as_str()).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    if migrate_on_start || is_new_file(connection).await? {
        tracing::info!(database = %database, migrations = waiting.join(", "), "migrating");
        return apply(database, connection, &steps).await;
    }
    let waiting = waiting.join(", ");
    let message = format!("{database} has pending migrations ({waiting}): run `gatehouse migrate`, or set migrate_on_start in [database]");
    Err(Fatal::config(message).into())
}

async fn pending(database: &Database, connection: &mut Connection) -> anyhow::Result<Vec<Step>> {
    let table = database.owner().ledger();
    let found = on!(&mut *connection, c => applied(c, table, database.table_exists_sql()).await);
    Ok(database.plan(&found.with_context(|| format!("read the migrations of {database}"))?)?)
}

async fn apply(database: &Database, connection: &mut Connection, steps: &[Step]) -> anyhow::Result<()> {
    let table = database.owner().ledger();
    let all = database.migrations();
    let waiting: Vec<_> =
        all.iter().filter(|migration| steps.iter().any(|step| step.pending && step.version == migration.version)).collect();
    on!(connection, c => run(c, table, &waiting).await).with_context(|| format!("migrate {database}"))
}

/// Versions and checksums that were applied; none before the first.
async fn applied<C>(connection: &mut C, table: &'static str, exists: &'static str) -> anyhow::Result<Vec<(i64, Vec<u8>)>>
where
    C: Migrate + sqlx::Connection,
    for<'c> &'c mut C: sqlx::Executor<'c, Database = C::Database>,
    for<'q> <C::Database as sqlx::Database>::Arguments: sqlx::IntoArguments<C::Database>,
    for<'q> &'q str: sqlx::Encode<'q, C::Database> + sqlx::Type<C::Database>,
    for<'r> i64: sqlx::Decode<'r, C::Database> + sqlx::Type<C::Database>,
    usize: sqlx::ColumnIndex<<C::Database as sqlx::Database>::Row>,
{
    let tables: i64 = sqlx::query_scalar(exists).bind(table).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(Vec::new());
    }
    if let Some(version) = connection.dirty_version(table).await? {
        return Err(Fatal::config(format!("migration {version} was left half-applied")).into());
    }
    let found = connection.list_applied_migrations(table).await?;
    Ok(found.into_iter().map(|migration| (migration.version, migration.checksum.into_owned())).collect())
}

async fn run(connection: &mut impl Migrate, table: &str, waiting: &[&Migration]) -> anyhow::Result<()> {
    connection.lock().await?;
    connection.ensure_migrations_table(table).await?;
    // Another process may have done the work while this one waited for the lock.
    let done = connection.list_applied_migrations(table).await?;
    for migration in waiting.iter().filter(|migration| done.iter().all(|done| done.version != migration.version)) {
        connection.apply(table, migration).await.with_context(|| format!("apply {}", migration.description))?;
    }
    connection.unlock().await?;
    Ok(())
}

/// A SQLite database without a single table: it was made a moment ago, by this process or one that died.
async fn is_new_file(connection: &mut Connection) -> sqlx::Result<bool> {
    match connection {
        Connection::Postgres(_) => Ok(false),
        Connection::Sqlite(c) => {
            let things: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *c).await?;
            c.ping().await?;
            Ok(things == 0)
        }
    }
}
