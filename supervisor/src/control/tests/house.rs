//! A control socket as the supervisor serves it, with the driver's ends in the test's hands.

use std::{
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::PathBuf,
    time::Duration,
};

use gatehouse_chassis::ipc::Channel;
use gatehouse_chassis::{
    Process,
    config::{Config as _, Reader, Shared, Source},
    ipc,
    sockets::Inherited,
};
use gatehouse_proto::internal::v1::{
    AuditBatch, AuditRecord, ChangeRequest, ChangeStatus, InstanceStatus, Target, change_request, supervisor_client::SupervisorClient,
};
use prost::Message as _;
use tempfile::TempDir;

use crate::{
    config::Logs,
    control::{Access, Control, ControlEnds, Records, Snapshot},
    ledger::Ledger,
    output::Output,
};

/// No server is there.
pub const NO_REDIS: &str = "127.0.0.1:1";

pub struct House {
    pub dir: TempDir,
    pub process: Process,
    /// None once the driver has gone.
    pub ends: Option<ControlEnds>,
}

impl House {
    pub fn new(redis: &str, access: &Access) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // For callers of other users; the socket's own mode is what keeps them out.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let text = format!("[suite]\nstate_dir = '{0}'\nruntime_dir = '{0}'\n", dir.path().display());
        let env = [("GATEWAY_REDIS_MASTER_ADDR", redis), ("GATEWAY_REDIS_PASSWORD", "unused")];
        let shared = Shared::read(&mut Reader::new(Source::of(&text, &env))).unwrap();
        let process = Process::new("supervisor", 0, shared, Inherited::default());
        let this = Self { dir, process, ends: None };
        let listener = UnixListener::bind(this.socket()).unwrap().into();
        std::fs::set_permissions(this.socket(), std::fs::Permissions::from_mode(0o660)).unwrap();
        let output = Output::open(&Logs::default(), this.process.shared(), this.process.metrics());
        let records = Records { output, ledger: Ledger::open(this.dir.path()) };
        let (control, ends) = Control::open(&this.process, access, &this.socket(), records).unwrap();
        this.process.inherited(|inherited| inherited.insert("local", listener));
        let keys = control.signer_keys(Some(this.config()));
        this.process.serve_local_to_the_end(|routes| routes.add_service(keys).add_service(control.into_server())).unwrap();
        let instance = |component: &str, instance| InstanceStatus { component: component.into(), instance, ..InstanceStatus::default() };
        let instances = vec![instance("pusher", 0), instance("pusher", 1), instance("edge", 0)];
        ends.snapshot.send_modify(|Snapshot { status, .. }| status.instances = instances);
        Self { ends: Some(ends), ..this }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("supervisor.sock")
    }

    /// The file that a question is answered by.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("gateway.toml")
    }

    pub fn client(&self) -> SupervisorClient<Channel> {
        SupervisorClient::new(ipc::channel(self.socket()))
    }

    pub fn ends(&mut self) -> &mut ControlEnds {
        self.ends.as_mut().unwrap()
    }

    /// The driver leaves, and the trail is written to its end.
    pub async fn end(&mut self) {
        self.ends = None;
        self.process.shutdown().finished().await;
    }

    /// What stands in the spool.
    pub fn spooled(&self) -> Vec<AuditRecord> {
        let mut records = Vec::new();
        let bytes = std::fs::read(self.dir.path().join("spool/supervisor-0.spool")).unwrap();
        let mut rest = bytes.as_slice();
        while let Some((header, more)) = rest.split_first_chunk::<8>() {
            let length = usize::try_from(u32::from_le_bytes(*header.first_chunk().unwrap())).unwrap();
            let (batch, after) = more.split_at(length);
            records.extend(AuditBatch::decode(batch).unwrap().records);
            rest = after;
        }
        records
    }
}

pub fn restart(component: &str, instance: Option<u32>, reason: &str) -> ChangeRequest {
    let change = change_request::Change::Restart(Target { component: component.into(), instance });
    ChangeRequest { reason: reason.into(), change: Some(change) }
}

/// A driver that does nothing and says that it is done.
pub fn done(order: &crate::control::Order) -> ChangeStatus {
    ChangeStatus { verdict: "ready after 210 ms".into(), ..order.status("done") }
}

/// Asks until it is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let asked = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap_or_else(|_| panic!("{what}"));
}
