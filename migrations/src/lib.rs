//! The tables of the suite: their SQL, and how their owners open and migrate a database.
//!
//! Each table has one owner, which alone reads and writes it: the auditor the trail, the admin process its tokens. On PostgreSQL both share one
//! database and keep their migrations apart by the name of the table that remembers them; on SQLite each has a file of its own. What both must get
//! right alike stands here once: bounds on every wait, durable commits, no password in a message, a SQLite without the WAL bug.

mod database;
mod owner;
mod plan;
mod schema;

pub use database::{Connection, Database, preflight};
pub use owner::Owner;
pub use plan::{Mismatch, Step, plan};
pub use schema::migrate;

/// Evaluates one expression for whichever driver is behind a [`Connection`]: `on!(connection, c => query(SQL).execute(c).await)`.
#[macro_export]
macro_rules! on {
    ($connection:expr, $c:ident => $body:expr) => {
        match $connection {
            $crate::Connection::Postgres($c) => $body,
            $crate::Connection::Sqlite($c) => $body,
        }
    };
}
