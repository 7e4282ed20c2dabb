//! The auditor against real servers: the same tests on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod binary;
mod house;
mod losing;
mod migrating;
mod reading;
mod writing;

/// Runs `async fn name(house: &mut House)` once on each database.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&mut crate::house::House::on_sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&mut crate::house::House::on_postgres()).await;
            })*
        }
    };
}
pub(crate) use on_both;
