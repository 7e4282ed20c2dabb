//! What is routed where, and how that changes while the edge runs.
//!
//! ```text
//!  gatehouse reload, route, breaker ─▶ supervisor ─▶ service ─▶ desk ─┬─ reads the file again, or a switch is thrown
//!                                                                     ├─ behind: backends, kept where they stay the same
//!                                                                     └─▶ a new table, in the place of the old one
//!  a request ─▶ now(): the table it begins with is the one it ends with
//! ```

mod behind;
mod changes;
mod desk;
mod patterns;
mod service;
mod switches;
mod table;

use std::sync::Arc;

use arc_swap::ArcSwap;

pub(crate) use behind::End;
pub(crate) use desk::{Desk, Ground};
pub(crate) use service::Service;
pub(crate) use table::{Makings, Table};

/// Where the table is found.
#[derive(Debug)]
pub(crate) struct Routing(ArcSwap<Table>);

impl Routing {
    fn new(table: Table) -> Self {
        Self(ArcSwap::from_pointee(table))
    }

    /// The table as it is now, for one request from its beginning to its end.
    pub(crate) fn now(&self) -> Arc<Table> {
        self.0.load_full()
    }

    fn replace(&self, table: Table) {
        self.0.store(Arc::new(table));
    }
}
