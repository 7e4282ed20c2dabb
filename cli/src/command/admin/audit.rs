//! `gatehouse admin audit`: the newest records, and whether the chain still holds.

use std::time::Duration;

use clap::{Args, Subcommand, value_parser};
use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::{
    audit,
    internal::v1::{ChainedAuditRecord, ListAuditRequest, VerifyAuditRequest, VerifyAuditResponse, admin_client::AdminClient},
    keys::hex,
};
use serde_json::{Value, json};

use super::{BOUND, PEER};
use crate::{failure::Failure, local, output::Output};

/// The most that one call returns.
const PAGE: u32 = 1000;
/// Recomputing every hash of a large trail takes its time.
const VERIFY_BOUND: Duration = Duration::from_hours(1);

/// What to ask of the trail.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Show the newest records, the newest first
    List(Filter),
    /// Recompute every hash of the chain; exit 1 when it is broken
    Verify,
}

/// Which records.
#[derive(Debug, Args)]
pub struct Filter {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Only these: command, http, push, admin, control
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    action_type: String,
    /// Only those of this request
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

pub async fn run(command: AuditCommand, admin: &mut AdminClient<Channel>, output: &mut Output) -> Result<(), Failure> {
    match command {
        AuditCommand::List(filter) => list(filter, admin, output).await,
        AuditCommand::Verify => verify(admin, output).await,
    }
}

async fn list(filter: Filter, admin: &mut AdminClient<Channel>, output: &mut Output) -> Result<(), Failure> {
    let records = newest(filter, admin).await?;
    if output.is_json() {
        let records: Vec<Value> = records.iter().map(audit::json).collect();
        return output.document(&json!({ "records": records }));
    }
    let heading = ["SEQ", "TIME", "WHO", "SESSION", "TYPE", "ACTION", "RESOURCE", "STATUS", "CODE", "LATENCY", "REQUEST"];
    output.table(heading, records.into_iter().map(row))
}

async fn newest(filter: Filter, admin: &mut AdminClient<Channel>) -> Result<Vec<ChainedAuditRecord>, Failure> {
    let Filter { limit: mut left, action_type, request_id } = filter;
    let mut records: Vec<ChainedAuditRecord> = Vec::new();
    loop {
        let limit = left.min(PAGE);
        let before_seq = records.last().map_or(0, |last| last.seq);
        let request = ListAuditRequest { limit, before_seq, action_type: action_type.clone(), request_id: request_id.clone() };
        let page = local::answer(PEER, BOUND, admin.list_audit(request)).await?.records;
        let count = u32::try_from(page.len()).unwrap_or(u32::MAX);
        left = left.saturating_sub(count);
        records.extend(page);
        if count < limit || left == 0 {
            return Ok(records);
        }
    }
}

fn row(chained: ChainedAuditRecord) -> [String; 11] {
    let record = chained.record.unwrap_or_default();
    let who = record.user_email.or(record.user_id).or(record.api_token_id);
    let code = record.grpc_code.or(record.http_status.map(|status| status.to_string()));
    [
        chained.seq.to_string(),
        audit::timestamp(record.ts_us),
        who.unwrap_or_default(),
        record.device_session_id.unwrap_or_default(),
        record.action_type,
        record.action,
        record.resource.unwrap_or_default(),
        record.status,
        code.unwrap_or_default(),
        record.latency_ms.map(|ms| format!("{ms} ms")).unwrap_or_default(),
        record.request_id.unwrap_or_default(),
    ]
}

async fn verify(admin: &mut AdminClient<Channel>, output: &mut Output) -> Result<(), Failure> {
    let verdict = local::answer(PEER, VERIFY_BOUND, admin.verify_audit(VerifyAuditRequest {})).await?;
    if output.is_json() {
        output.document(&document(&verdict))?;
    } else {
        output.line(&sentence(&verdict))?;
    }
    if verdict.intact { Ok(()) } else { Err(Failure::Said(1)) }
}

fn sentence(verdict: &VerifyAuditResponse) -> String {
    let VerifyAuditResponse { intact, records, head_seq, head_hash, first_bad_seq, reason } = verdict;
    if *intact {
        format!("The audit trail is intact: {records} records, the last of them seq {head_seq} with hash {}.", hex(head_hash))
    } else {
        format!("The audit trail is BROKEN at seq {first_bad_seq}: {reason}.")
    }
}

fn document(verdict: &VerifyAuditResponse) -> Value {
    let mut document = json!({
        "intact": verdict.intact,
        "records": verdict.records,
        "head_seq": verdict.head_seq,
        "head_hash": hex(&verdict.head_hash),
    });
    if !verdict.intact {
        document["first_bad_seq"] = json!(verdict.first_bad_seq);
        document["reason"] = json!(verdict.reason);
    }
    document
}
