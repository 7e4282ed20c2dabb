//! `gatehouse client bench`: a load of signed commands, and how the gateway answered it.

mod load;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::{Args, value_parser};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use gatehouse_proto::limits::MAX_PAYLOAD_BYTES;

use super::{Line, Party};
use crate::{command::time::duration, failure::Failure, output::Output};
use load::{Caller, Plan, Tally};

/// Commands under way at once, on all connections.
const MOST_AT_ONCE: u64 = 100_000;

/// A load to be.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    party: Party,
    /// Selects the business service: demo.echo
    #[arg(long = "type", value_name = "TYPE")]
    message_type: String,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Commands under way on each connection; on all together 100000 at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// Send so many a second in all, answered or not, and measure from when each was to be sent [default: each stream sends when it has its answer]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// How long to send
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How large each payload is
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = value_parser!(u32).range(..=MAX_PAYLOAD_BYTES as i64))]
    payload_bytes: u32,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Believe the answers: to verify one costs more than to ask for it
    #[arg(long)]
    no_verify: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| "is no rate from 0.001 to 1000000 a second".to_owned())
}

pub async fn bench(bench: Bench, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let Bench { party, message_type, connections, streams, rate, duration, payload_bytes, timeout, no_verify } = bench;
    let at_once = u64::from(connections) * u64::from(streams);
    if at_once > MOST_AT_ONCE {
        return Err(Failure::Usage(format!("--connections × --streams: {at_once} commands at once; {MOST_AT_ONCE} are the most")));
    }
    let Line { device, gateway, endpoint, trust, keyring, .. } = party.dial(config).await?;
    let mut gateways = vec![gateway];
    for _ in 1..connections {
        gateways.push(super::connect(&endpoint, &trust).await?);
    }
    let payload = Bytes::from(vec![b'x'; payload_bytes as usize]);
    let caller = Arc::new(Caller { device, keyring, message_type, payload, timeout, verifies: !no_verify });
    let (tally, took) = load::put(&caller, &gateways, streams, Plan { rate, duration }).await?;
    let report = Report { connections, streams, rate, took, tally };
    let said = if output.is_json() { output.document(&report.document()) } else { report.print(output) };
    said?;
    if report.tally.answered() == 0 { Err(Failure::Said(1)) } else { Ok(()) }
}

struct Report {
    connections: u32,
    streams: u32,
    rate: Option<f64>,
    took: Duration,
    tally: Tally,
}

impl Report {
    fn per_second(&self) -> f64 {
        Duration::from_secs(self.tally.answered()).div_duration_f64(self.took)
    }

    fn print(&self, output: &mut Output) -> Result<(), Failure> {
        let Self { connections, streams, took, tally, .. } = self;
        let mut sent = format!("{} in {:.1} s, {connections} × {streams} at once", tally.sent, took.as_secs_f64());
        if tally.unsent > 0 {
            sent = format!("{sent}; {} more were due and found no stream free", tally.unsent);
        }
        let mut facts = vec![("sent", sent), ("answered", format!("{}, {:.1} a second", tally.answered(), self.per_second()))];
        if tally.answered() > 0 {
            let in_words = |(name, value)| format!("{name} {value:.2}");
            let from = if self.rate.is_some() { ", from when each was to be sent" } else { "" };
            facts.push(("latency", format!("{} ms{from}", milliseconds(&tally.latency).map(in_words).join("  "))));
        }
        output.facts(&facts)?;
        if !tally.errors.is_empty() {
            output.line("")?;
            let rows = tally.errors.iter().map(|((code, message), count)| [count.to_string(), code.clone(), message.clone()]);
            output.table(["COUNT", "ERROR", "MESSAGE"], rows)?;
        }
        Ok(())
    }

    fn document(&self) -> Value {
        let Self { connections, streams, rate, took, tally } = self;
        let latency: serde_json::Map<_, _> =
            milliseconds(&tally.latency).into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let errors = tally.errors.iter().map(|((code, message), count)| json!({"code": code, "message": message, "count": count}));
        json!({
            "connections": connections,
            "streams": streams,
            "rate": rate,
            "seconds": took.as_secs_f64(),
            "sent": tally.sent,
            "unsent": tally.unsent,
            "answered": tally.answered(),
            "per_second": self.per_second(),
            "latency_ms": if tally.answered() > 0 { Value::Object(latency) } else { Value::Null },
            "errors": errors.collect::<Vec<_>>(),
        })
    }
}

fn milliseconds(latency: &Histogram<u64>) -> [(&'static str, f64); 4] {
    let ms = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1e3;
    let quantile = |share| ms(latency.value_at_quantile(share));
    [("p50", quantile(0.5)), ("p90", quantile(0.9)), ("p99", quantile(0.99)), ("max", ms(latency.max()))]
}
