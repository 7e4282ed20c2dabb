//! What is there while something is away, and after it.

use gatehouse_migrations::Connection;

use crate::{
    house::{House, actions, eventually, numbered},
    on_both,
};

on_both!(redis_that_dies_and_comes_back_loses_nothing, a_dead_auditor_is_followed_by_another);

async fn redis_that_dies_and_comes_back_loses_nothing(house: &mut House) {
    let _auditor = house.auditor().await;
    house.append(numbered(0..10));
    house.written(10).await;
    house.redis.kill9();
    house.redis.restart();
    house.append(numbered(10..20));
    house.written(20).await;
    assert!(house.verify().await.intact);
}

async fn a_dead_auditor_is_followed_by_another(house: &mut House) {
    // Each one dies wherever it happens to be.
    for round in 0..8 {
        let auditor = house.auditor().await;
        for n in round * 20..(round + 1) * 20 {
            house.append(numbered(n * 10..n * 10 + 10));
        }
        eventually("something is being written", async || auditor.metrics.events.with_label_values(&["written"]).get() > 0).await;
        drop(auditor);
    }
    let _auditor = house.auditor().await;
    house.written(1600).await;
    assert_eq!(actions(&house.rows().await), (0..1600).map(|n| format!("n.{n}")).collect::<Vec<_>>());
    assert!(house.verify().await.intact);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_dies_is_waited_for_and_the_stream_keeps_the_records() {
    let mut house = House::on_postgres();
    let auditor = house.auditor().await;
    house.append(numbered(0..10));
    house.written(10).await;
    house.postgres.as_mut().unwrap().kill9();
    house.append(numbered(10..20));
    eventually("the loss is noticed", async || auditor.metrics.idle.get() + auditor.metrics.in_use.get() == 0).await;
    assert_eq!(house.waiting(), ":1");
    house.postgres.as_mut().unwrap().restart();
    house.written(20).await;
    assert_eq!(auditor.metrics.events.with_label_values(&["written"]).get(), 20);
    assert!(house.verify().await.intact);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_dies_in_silence_is_noticed_without_a_record_to_write() {
    let mut house = House::on_postgres();
    let auditor = house.auditor().await;
    eventually("it is connected", async || auditor.metrics.idle.get() == 1).await;
    house.postgres.as_mut().unwrap().kill9();
    eventually("the loss is noticed", async || auditor.metrics.idle.get() == 0).await;
    house.postgres.as_mut().unwrap().restart();
    eventually("it is connected again", async || auditor.metrics.idle.get() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_postgresql_ends_is_opened_anew() {
    let house = House::on_postgres();
    let _auditor = house.auditor().await;
    for round in 0..5 {
        house.append(numbered(round * 10..round * 10 + 10));
        let Connection::Postgres(mut connection) = house.connection().await else { panic!("not PostgreSQL") };
        let end =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gatehouse-audit' AND pid <> pg_backend_pid()";
        sqlx::query(end).execute(&mut connection).await.unwrap();
    }
    house.written(50).await;
    assert!(house.verify().await.intact);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_somebody_locks_is_waited_for() {
    let house = House::on_sqlite();
    let auditor = house.auditor().await;
    house.append(numbered(0..1));
    house.written(1).await;
    let Connection::Sqlite(mut other) = house.connection().await else { panic!("not SQLite") };
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    house.append(numbered(1..2));
    eventually("the loss is noticed", async || auditor.metrics.idle.get() + auditor.metrics.in_use.get() == 0).await;
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    house.written(2).await;
    assert!(house.verify().await.intact);
}
