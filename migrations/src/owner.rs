//! Who owns which tables, and the SQL that makes them.

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType},
};

/// A component that owns tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The auditor: the trail.
    Audit,
    /// The admin process: API tokens.
    Admin,
}

/// Version, name, SQL for PostgreSQL, SQL for SQLite.
type Sql = (i64, &'static str, &'static str, &'static str);

macro_rules! migration {
    ($version:literal, $file:literal) => {
        ($version, $file, include_str!(concat!("../postgres/", $file, ".sql")), include_str!(concat!("../sqlite/", $file, ".sql")))
    };
}

const AUDIT: [Sql; 1] = [migration!(1, "0001_create_audit_events")];
const ADMIN: [Sql; 1] = [migration!(2, "0002_create_api_tokens")];

/// The SQL dialect of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Postgres,
    Sqlite,
}

impl Owner {
    /// As it stands in messages and before each migration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Admin => "admin",
        }
    }

    /// The SQLite file in the state directory.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::Audit => "audit.db",
            Self::Admin => "admin.db",
        }
    }

    /// The table that remembers which migrations were applied.
    pub(crate) const fn ledger(self) -> &'static str {
        match self {
            Self::Audit => "audit_migrations",
            Self::Admin => "admin_migrations",
        }
    }

    /// Its migrations, oldest first.
    pub(crate) fn migrations(self, dialect: Dialect) -> Vec<Migration> {
        let all: &[Sql] = match self {
            Self::Audit => &AUDIT,
            Self::Admin => &ADMIN,
        };
        let migration = |&(version, name, postgres, sqlite): &Sql| {
            let sql = if dialect == Dialect::Postgres { postgres } else { sqlite };
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        all.iter().map(migration).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_names_its_owner_and_its_number_first() {
        for (owner, word) in [(Owner::Audit, "-- Owner: auditor."), (Owner::Admin, "-- Owner: admin.")] {
            for dialect in [Dialect::Postgres, Dialect::Sqlite] {
                let migrations = owner.migrations(dialect);
                assert!(migrations.is_sorted_by_key(|migration| migration.version));
                for migration in migrations {
                    assert!(migration.sql.as_str().starts_with(word), "{}", migration.description);
                    assert!(migration.description.starts_with(&format!("{:04}_", migration.version)), "{}", migration.description);
                }
            }
        }
    }
}
