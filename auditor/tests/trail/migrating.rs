//! Tables come into being, and a process that misses some refuses to start.

use gatehouse_chassis::exit;
use gatehouse_migrations::{Database, Owner, migrate, on};
use sqlx::raw_sql;

use crate::{house::House, on_both};

on_both!(pending_migrations_stop_the_start_until_they_are_applied, both_owners_share_a_database, a_database_that_does_not_fit_is_refused);

async fn pending_migrations_stop_the_start_until_they_are_applied(house: &mut House) {
    let database = house.database();
    migrate(&database, true).await.unwrap();
    assert!(!house.state.path().join("audit.db").exists(), "a dry run makes no file");
    if house.postgres.is_some() {
        let refused = database.ready(false).await.unwrap_err();
        assert_eq!(exit::code_of(&refused), exit::CONFIG);
        assert!(refused.to_string().contains("0001_create_audit_events") && refused.to_string().contains("gatehouse migrate"), "{refused}");
        migrate(&database, false).await.unwrap();
    } else {
        database.ready(false).await.unwrap();
    }
    migrate(&database, false).await.unwrap();
    database.ready(false).await.unwrap();
    assert!(house.verify().await.intact);
}

async fn both_owners_share_a_database(house: &mut House) {
    let admin = Database::of(&house.shared(), Owner::Admin).unwrap();
    admin.ready(true).await.unwrap();
    house.database().ready(true).await.unwrap();
    admin.ready(false).await.unwrap();
    assert_eq!(house.rows().await, []);
}

async fn a_database_that_does_not_fit_is_refused(house: &mut House) {
    house.database().ready(true).await.unwrap();
    let change = async |sql: &'static str| {
        let mut connection = house.connection().await;
        on!(&mut connection, c => raw_sql(sql).execute(c).await.map(|_| ())).unwrap();
        let refused = house.database().ready(true).await.unwrap_err();
        assert_eq!(exit::code_of(&refused), exit::CONFIG);
        format!("{refused:#}")
    };
    let newer = change(
        "INSERT INTO audit_migrations (version, description, success, checksum, execution_time) SELECT 999, 'later', success, checksum, 0 FROM audit_migrations",
    );
    assert!(newer.await.contains("newer than this binary"));
    let undone = "UPDATE audit_migrations SET success = false WHERE version = 1";
    assert!(change(undone).await.contains("half-applied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_sqlite_file_is_not_migrated_unasked() {
    let house = House::on_sqlite();
    let mut connection = house.connection().await;
    on!(&mut connection, c => raw_sql("CREATE TABLE something (a INTEGER)").execute(c).await.map(|_| ())).unwrap();
    let refused = house.database().ready(false).await.unwrap_err();
    assert_eq!(exit::code_of(&refused), exit::CONFIG);
    assert!(refused.to_string().contains("gatehouse migrate"), "{refused}");
    house.database().ready(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_migrate_at_once_do_it_once() {
    let house = House::on_postgres();
    let (first, second) = (house.database(), house.database());
    let (first, second) = tokio::join!(first.ready(true), second.ready(true));
    first.unwrap();
    second.unwrap();
}
