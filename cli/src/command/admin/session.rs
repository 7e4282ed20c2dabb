//! `gatehouse admin session`: who may speak.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use gatehouse_chassis::ipc::Channel;
use gatehouse_client::key;
use gatehouse_proto::{
    internal::v1::{CreateSessionRequest, RevokeSessionRequest, Session, ShowSessionRequest, admin_client::AdminClient},
    keys::PublicKey,
};

use super::{BOUND, PEER};
use crate::{failure::Failure, local, output::Output};

/// What to do with a session.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum SessionCommand {
    /// Let a device speak for a user
    Create(NewSession),
    /// Show one session
    Show {
        /// Its id
        id: String,
    },
    /// End one session for good; its streams end at once
    Revoke {
        /// Its id
        id: String,
    },
}

/// A session to be.
#[derive(Debug, Args)]
pub struct NewSession {
    /// Whose device it is
    #[arg(long)]
    user: String,
    /// The session's id [default: a new UUID]
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    #[command(flatten)]
    key: DeviceKey,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct DeviceKey {
    /// The device's public key: base64 of the raw 32 bytes
    #[arg(long, value_name = "BASE64", value_parser = PublicKey::from_base64)]
    public_key: Option<PublicKey>,
    /// The device's private key, of which the public half is used
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// A request whose parts have been read and checked.
#[derive(Debug)]
pub enum Question {
    Create(CreateSessionRequest),
    Show(ShowSessionRequest),
    Revoke(RevokeSessionRequest),
}

impl Question {
    /// Reads what the arguments name.
    pub fn new(command: SessionCommand) -> Result<Self, Failure> {
        Ok(match command {
            SessionCommand::Create(NewSession { user, id, key }) => {
                Self::Create(CreateSessionRequest { device_session_id: id, user_id: user, public_key: key.read()?.as_bytes().to_vec() })
            }
            SessionCommand::Show { id } => Self::Show(ShowSessionRequest { device_session_id: id }),
            SessionCommand::Revoke { id } => Self::Revoke(RevokeSessionRequest { device_session_id: id }),
        })
    }
}

impl DeviceKey {
    fn read(self) -> Result<PublicKey, Failure> {
        match (self.public_key, self.key) {
            (Some(key), _) => Ok(key),
            (None, Some(file)) => Ok(key::read(&file)?.public_key()),
            (None, None) => Err(Failure::Usage("give --public-key or --key".to_owned())),
        }
    }
}

pub async fn run(question: Question, admin: &mut AdminClient<Channel>, output: &mut Output) -> Result<(), Failure> {
    let session = match question {
        Question::Create(request) => local::answer(PEER, BOUND, admin.create_session(request)).await?,
        Question::Show(request) => local::answer(PEER, BOUND, admin.show_session(request)).await?,
        Question::Revoke(request) => local::answer(PEER, BOUND, admin.revoke_session(request)).await?,
    };
    print(&session, output)
}

fn print(session: &Session, output: &mut Output) -> Result<(), Failure> {
    let public_key = STANDARD.encode(&session.public_key);
    if output.is_json() {
        let mut document = json!({
            "device_session_id": session.device_session_id,
            "user_id": session.user_id,
            "public_key": public_key,
            "status": session.status,
            "updated_at_ms": session.updated_at_ms,
        });
        if let Some(at) = session.revoked_at_ms {
            document["revoked_at_ms"] = json!(at);
        }
        return output.document(&document);
    }
    let mut facts = vec![
        ("session", session.device_session_id.clone()),
        ("user", session.user_id.clone()),
        ("public key", public_key),
        ("status", session.status.clone()),
        ("updated", instant(session.updated_at_ms)),
    ];
    facts.extend(session.revoked_at_ms.map(|at| ("revoked", instant(at))));
    output.facts(&facts)
}

fn instant(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| format!("{at:.3}"))
}
