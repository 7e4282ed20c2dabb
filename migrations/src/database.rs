//! One owner's database: where it is, and how to get a connection whose waits are bounded and whose commits are durable.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use anyhow::Context as _;
use gatehouse_chassis::{
    config::{DatabaseUrl, Shared},
    exit::{self, Fatal},
};
use sqlx::{
    ConnectOptions as _, PgConnection, SqliteConnection,
    migrate::Migration,
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{Mismatch, Owner, Step, owner::Dialect, plan, schema};

/// Bounds an attempt to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a statement waits for a lock that another connection holds.
const LOCK: Duration = Duration::from_secs(5);
/// Bounds one statement on PostgreSQL.
const STATEMENT: Duration = Duration::from_secs(10);
/// Before it, two connections that write and checkpoint at once could lose committed transactions (sqlite.org/wal.html, "the WAL-reset bug").
const SAFE_SQLITE: [u32; 3] = [3, 51, 3];

/// A connection of either kind. It is owned, not pooled: whoever gives up on a call drops it with everything that was under way.
#[derive(Debug)]
pub enum Connection {
    /// PostgreSQL.
    Postgres(PgConnection),
    /// SQLite.
    Sqlite(SqliteConnection),
}

/// Where an owner's tables are.
#[derive(Clone)]
pub struct Database {
    owner: Owner,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Postgres(Box<PgConnectOptions>),
    Sqlite(PathBuf),
}

impl Database {
    /// From `[database]`. A URL that cannot be read is a configuration error.
    pub fn of(shared: &Shared, owner: Owner) -> anyhow::Result<Self> {
        let place = match &shared.database {
            DatabaseUrl::Sqlite { dir } => Place::Sqlite(dir.join(owner.file())),
            DatabaseUrl::Postgres(url) => Place::Postgres(Box::new(postgres(url.expose(), owner)?)),
        };
        Ok(Self { owner, place })
    }

    /// Whose tables these are.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    /// The SQLite file, if that is what it is.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::Postgres(_) => None,
            Place::Sqlite(path) => Some(path),
        }
    }

    /// For the start of a process: reachable, and with every table that this binary needs. See [`schema::ensure`].
    pub async fn ready(&self, migrate_on_start: bool) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        schema::ensure(self, &mut connection, migrate_on_start).await?;
        connection.close().await;
        Ok(())
    }

    /// A connection for reading and writing. A SQLite file that does not exist is made.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let connect = async {
            match &self.place {
                Place::Postgres(options) => Ok(Connection::Postgres(options.connect().await?)),
                Place::Sqlite(path) => {
                    make_file(path)?;
                    sqlite(path).connect().await.map(Connection::Sqlite)
                }
            }
        };
        self.bounded(connect).await
    }

    /// A connection that cannot write.
    pub async fn connect_to_read(&self) -> anyhow::Result<Connection> {
        let connect = async {
            match &self.place {
                Place::Postgres(options) => {
                    let options = options.as_ref().clone().options([("default_transaction_read_only", "on")]);
                    Ok(Connection::Postgres(options.connect().await?))
                }
                Place::Sqlite(path) => sqlite(path).pragma("query_only", "on").connect().await.map(Connection::Sqlite),
            }
        };
        self.bounded(connect).await
    }

    /// An attempt that is given up is dropped whole: there is no connection yet that somebody else could be lent.
    async fn bounded(&self, connect: impl Future<Output = sqlx::Result<Connection>>) -> anyhow::Result<Connection> {
        let connected = tokio::time::timeout(CONNECT, connect).await;
        let connected = connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        let mut connection = connected.with_context(|| format!("connect to {self}"))?;
        if let Connection::Sqlite(c) = &mut connection {
            let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(c).await?;
            if !is_safe_sqlite(&version) {
                let message = format!("SQLite {version} can lose committed transactions; this binary must be built with 3.51.3 or newer");
                return Err(Fatal { code: exit::BUG, message }.into());
            }
        }
        Ok(connection)
    }

    /// A SQLite file that is not there yet.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(&self.place, Place::Sqlite(path) if !path.exists())
    }

    pub(crate) fn migrations(&self) -> Vec<Migration> {
        self.owner.migrations(match self.place {
            Place::Postgres(_) => Dialect::Postgres,
            Place::Sqlite(_) => Dialect::Sqlite,
        })
    }

    /// The state of every migration. A database that does not fit this binary is a configuration error.
    pub(crate) fn plan(&self, applied: &[(i64, Vec<u8>)]) -> Result<Vec<Step>, Fatal> {
        let known = self.migrations();
        let known = known.iter().map(|migration| (migration.version, &*migration.description, &*migration.checksum));
        plan(known, applied).map_err(|mismatch: Mismatch| Fatal::config(format!("{self}: {mismatch}")))
    }

    /// Counts the tables of a name.
    pub(crate) const fn table_exists_sql(&self) -> &'static str {
        match self.place {
            Place::Postgres(_) => "SELECT count(*) FROM pg_catalog.pg_class WHERE oid = to_regclass($1)",
            Place::Sqlite(_) => "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = $1",
        }
    }
}

/// What is wrong with `[database]`, as `--check` prints it.
#[must_use]
pub fn preflight(shared: &Shared) -> Vec<String> {
    let database = Database::of(shared, Owner::Audit);
    database.err().map(|error| format!("database.url: {error}")).into_iter().collect()
}

/// As operators know it, without the password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Sqlite(path) => write!(f, "SQLite {}", path.display()),
            Place::Postgres(options) => {
                let host = options.get_socket().map_or_else(|| options.get_host().to_owned(), |dir| dir.display().to_string());
                let name = options.get_database().unwrap_or_else(|| options.get_username());
                write!(f, "PostgreSQL {host}:{}/{name}", options.get_port())
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({}, {self})", self.owner.name())
    }
}

impl Connection {
    /// Ends it in good order; what cannot be ended is dropped.
    pub async fn close(self) {
        use sqlx::Connection as _;
        let close = async {
            match self {
                Self::Postgres(connection) => connection.close().await,
                Self::Sqlite(connection) => connection.close().await,
            }
        };
        if let Ok(Err(error)) = tokio::time::timeout(CONNECT, close).await {
            tracing::debug!(%error, "database connection not closed in good order");
        }
    }
}

fn postgres(url: &str, owner: Owner) -> Result<PgConnectOptions, Fatal> {
    // The parser's message may quote the URL, and with it the password.
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| Fatal::config("GATEWAY_DATABASE_URL is not a URL that PostgreSQL's client can read"))?;
    let milliseconds = |bound: Duration| bound.as_millis().to_string();
    let bounds = [
        ("statement_timeout", milliseconds(STATEMENT)),
        ("lock_timeout", milliseconds(LOCK)),
        ("idle_in_transaction_session_timeout", milliseconds(STATEMENT)),
        ("tcp_keepalives_idle", "15".to_owned()),
        ("tcp_keepalives_interval", "5".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
    ];
    let application = format!("gatehouse-{}", owner.name());
    Ok(options.application_name(&application).options(bounds).disable_statement_logging())
}

fn sqlite(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(LOCK)
        .disable_statement_logging()
}

/// For the owner's eyes alone; SQLite gives its companion files the same mode.
fn make_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn is_safe_sqlite(version: &str) -> bool {
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    parts.as_slice() >= SAFE_SQLITE.as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_before_the_wal_fix_is_refused() {
        for (version, safe) in [("3.40.1", false), ("3.51.2", false), ("3.51.3", true), ("3.52.0", true), ("4.0.0", true), ("", false)] {
            assert_eq!(is_safe_sqlite(version), safe, "{version}");
        }
    }

    #[test]
    fn a_database_is_named_without_its_password() {
        let options = postgres("postgres://gate:hunter2@db.example:5433/house", Owner::Audit).unwrap();
        let database = Database { owner: Owner::Audit, place: Place::Postgres(Box::new(options)) };
        assert_eq!(database.to_string(), "PostgreSQL db.example:5433/house");
        assert!(!format!("{database:?}").contains("hunter2"));
        let refused = postgres("postgres://gate:hunter2@db.example:port/", Owner::Audit).unwrap_err();
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
}
