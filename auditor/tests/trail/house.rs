//! What every test stands in: a Redis, a database, and an auditor that can be started and killed.

use std::time::Duration;

use gatehouse_auditor::{
    intake::Intake,
    ledger::{PostgresLedger, SqliteLedger},
    metrics::AuditorMetrics,
    output::Output,
    reading,
    scribe::Scribe,
};
use gatehouse_chassis::{
    Process, audit,
    config::{Config as _, Reader, Shared, Source},
    redis::Redis,
    sockets::Inherited,
};
use gatehouse_migrations::{Connection, Database, Owner};
use gatehouse_proto::internal::v1::{AuditBatch, AuditRecord, ChainedAuditRecord, ListAuditRequest, VerifyAuditResponse};
use gatehouse_testkit::{PostgresServer, RedisServer};
use prost::Message as _;
use tempfile::TempDir;

pub const STREAM: &str = "gateway:audit";

pub struct House {
    pub redis: RedisServer,
    pub postgres: Option<PostgresServer>,
    pub state: TempDir,
    url: Option<String>,
}

/// An auditor in this process. Dropping it is its sudden death.
pub struct Running {
    pub process: Process,
    pub metrics: AuditorMetrics,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.shutdown().abort();
    }
}

impl Running {
    /// SIGTERM, and wait until everything is done.
    pub async fn drain(self) {
        self.process.shutdown().drain();
        tokio::time::timeout(Duration::from_secs(20), self.process.shutdown().finished()).await.expect("the drain ends");
    }
}

impl House {
    pub fn on_sqlite() -> Self {
        Self { redis: RedisServer::start(), postgres: None, state: tempfile::tempdir().unwrap(), url: None }
    }

    pub fn on_postgres() -> Self {
        let postgres = PostgresServer::start();
        let url = Some(postgres.database());
        Self { postgres: Some(postgres), url, ..Self::on_sqlite() }
    }

    /// The environment of a process in this house.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("GATEWAY_REDIS_MASTER_ADDR", self.redis.addr()),
            ("GATEWAY_REDIS_PASSWORD", self.redis.password().to_owned()),
            ("GATEWAY_STATE_DIR", self.state.path().display().to_string()),
            ("GATEWAY_RUNTIME_DIR", self.state.path().display().to_string()),
        ];
        env.extend(self.url.as_ref().map(|url| ("GATEWAY_DATABASE_URL", url.clone())));
        env
    }

    pub fn shared(&self) -> Shared {
        let env = self.env();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Shared::read(&mut Reader::new(Source::of("", &env))).unwrap()
    }

    pub fn database(&self) -> Database {
        Database::of(&self.shared(), Owner::Audit).unwrap()
    }

    pub async fn redis(&self) -> Redis {
        Redis::connect(&self.shared().redis).await.unwrap()
    }

    /// The part of the auditor that writes, with its lines going nowhere. Makes the tables when there are none.
    pub async fn auditor(&self) -> Running {
        let process = Process::new("auditor", 0, self.shared(), Inherited::default());
        let database = self.database();
        database.ready(true).await.unwrap();
        let metrics = AuditorMetrics::new(process.metrics());
        let output = Output::open(&process, tokio::io::sink(), metrics.lines_skipped.clone());
        let intake = Intake::new(self.redis().await, STREAM.to_owned());
        let scribe = Scribe { process: process.clone(), database, intake, output, metrics: metrics.clone(), batch: 100 };
        if self.postgres.is_some() {
            process.spawn("scribe", scribe.run::<PostgresLedger>());
        } else {
            process.spawn("scribe", scribe.run::<SqliteLedger>());
        }
        Running { process, metrics }
    }

    /// One entry of the stream, as a producer appends it.
    pub fn append(&self, records: Vec<AuditRecord>) {
        self.append_raw(&[("records", AuditBatch { records }.encode_to_vec())]);
    }

    pub fn append_raw(&self, fields: &[(&str, Vec<u8>)]) {
        let mut command = vec![b"XADD".to_vec(), STREAM.into(), b"*".to_vec()];
        for (name, value) in fields {
            command.extend([name.as_bytes().to_vec(), value.clone()]);
        }
        let answer = self.redis.run(&command);
        assert!(!answer.starts_with('-'), "{answer}");
    }

    /// Entries that are not written yet.
    pub fn waiting(&self) -> String {
        self.redis.run(&["XLEN", STREAM])
    }

    pub async fn connection(&self) -> Connection {
        self.database().connect().await.unwrap()
    }

    /// The newest rows, newest first.
    pub async fn rows(&self) -> Vec<ChainedAuditRecord> {
        let request = ListAuditRequest { limit: 10_000, ..ListAuditRequest::default() };
        reading::list(&mut self.connection().await, &request).await.unwrap()
    }

    pub async fn verify(&self) -> VerifyAuditResponse {
        reading::verify(&mut self.connection().await).await.unwrap()
    }

    /// Waits until the trail has that many rows and the stream is empty.
    pub async fn written(&self, rows: usize) {
        eventually(&format!("{rows} rows are written"), async || {
            let found = self.rows().await.len();
            assert!(found <= rows, "{found} rows where {rows} were to be");
            found == rows && self.waiting() == ":0"
        })
        .await;
    }
}

/// Asks until it is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), poll).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Records whose actions are numbered.
pub fn numbered(numbers: std::ops::Range<usize>) -> Vec<AuditRecord> {
    numbers.map(|n| audit::record("command", &format!("n.{n}"), "success")).collect()
}

/// The actions of rows, in the order they were written.
pub fn actions(rows: &[ChainedAuditRecord]) -> Vec<String> {
    rows.iter().rev().map(|row| row.record.as_ref().unwrap().action.clone()).collect()
}
