//! The signer's keys: `gatehouse key`. They belong to the suite's user, who is this process's; edge and pushers follow the directory by themselves.
//!
//! Which directory, and what a change goes by, is read from the file at each question: whoever has just moved from one key in a file to a directory needs
//! no other supervisor for it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use gatehouse_chassis::{
    Process,
    config::{Reader, Source},
    connections::Credentials,
    keys::{self, Change, ChangeError, Directory, Entry, Refused, Register, Rotation, State},
};
use gatehouse_proto::{
    control::{CLAIMED_USER, MAX_REASON_BYTES},
    internal::v1::{
        AddKey, ChangeKeyRequest, ChangeKeyResponse, ListKeysRequest, ListKeysResponse, SignerKey, change_key_request,
        signer_keys_server::{SignerKeys, SignerKeysServer},
    },
    keys::Signer,
};
use jiff::Timestamp;
use tokio::sync::oneshot;
use tonic::{Code, Request, Response, Status};
use zeroize::Zeroizing;

use super::{Control, operators::Operators};
use crate::audit::{Deed, Trail};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct KeyDesk {
    process: Process,
    operators: Arc<Operators>,
    trail: Arc<Trail>,
    config: Option<PathBuf>,
}

/// A change that is not bound to a directory yet.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Wish {
    Add(Signer),
    Activate { key_id: String, now: bool },
    Retire { key_id: String },
}

impl Control {
    /// The service for the same socket, by the same rules. `config`: the file, if it is not the default one.
    pub(crate) fn signer_keys(&self, config: Option<PathBuf>) -> SignerKeysServer<KeyDesk> {
        let (operators, trail) = (Arc::clone(&self.operators), Arc::clone(&self.trail));
        SignerKeysServer::new(KeyDesk { process: self.process.clone(), operators, trail, config })
    }
}

impl Wish {
    fn read(change: Option<change_key_request::Change>) -> Result<Self, Status> {
        match change {
            None => Err(Status::invalid_argument("names no change")),
            Some(change_key_request::Change::Add(AddKey { private_key_pem })) if private_key_pem.is_empty() => {
                keys::generate().map(Self::Add).map_err(|error| Status::internal(error.to_string()))
            }
            Some(change_key_request::Change::Add(AddKey { private_key_pem })) => {
                let pem = Zeroizing::new(private_key_pem);
                Signer::from_pkcs8_pem(&pem).map(Self::Add).map_err(|error| Status::invalid_argument(error.to_string()))
            }
            Some(change_key_request::Change::Activate(activate)) => {
                Ok(Self::Activate { key_id: check_id(activate.key_id)?, now: activate.now })
            }
            Some(change_key_request::Change::Retire(retire)) => Ok(Self::Retire { key_id: check_id(retire.key_id)? }),
        }
    }

    const fn action(&self) -> &'static str {
        match self {
            Self::Add(_) => "key.add",
            Self::Activate { .. } => "key.activate",
            Self::Retire { .. } => "key.retire",
        }
    }

    fn key_id(&self) -> &str {
        match self {
            Self::Add(signer) => signer.key_id(),
            Self::Activate { key_id, .. } | Self::Retire { key_id } => key_id,
        }
    }

    fn change(self, rotation: &Rotation) -> Change {
        match self {
            Self::Add(signer) => Change::Add(signer),
            Self::Activate { key_id, now } => {
                Change::Activate { key_id, delay: if now { std::time::Duration::ZERO } else { rotation.publication_delay } }
            }
            Self::Retire { key_id } => Change::Retire { key_id, overlap: rotation.overlap },
        }
    }
}

impl KeyDesk {
    /// Done whole, whether or not its asker is still there.
    async fn make(&self, wish: Wish, deed: Deed) -> Result<SignerKey, Status> {
        let (made, answer) = oneshot::channel();
        let (trail, config) = (Arc::clone(&self.trail), self.config.clone());
        self.process.spawn("signer-key-change", async move {
            trail.begin(&deed, Code::Ok).await;
            let began = Instant::now();
            let result = on_disk(move || change(config.as_deref(), wish)).await;
            trail.end(&deed, result.as_ref().map(|_| ()), began.elapsed()).await;
            let Deed { id, actor, reason, action, resource, .. } = deed;
            match &result {
                Ok(_) => tracing::info!(change = action, signer.key_id = resource, actor, reason, change.id = id, "signer keys changed"),
                Err(why) => {
                    let why = why.message();
                    tracing::warn!(
                        change = action,
                        signer.key_id = resource,
                        actor,
                        reason,
                        change.id = id,
                        why,
                        "signer keys not changed"
                    );
                }
            }
            // The asker may have gone; what was done is done.
            let _gone = made.send(result);
        });
        answer.await.map_err(|_| Status::unavailable("the suite is ending"))?
    }
}

#[tonic::async_trait]
impl SignerKeys for KeyDesk {
    async fn list(&self, _request: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        let config = self.config.clone();
        let register =
            on_disk(move || open(config.as_deref())?.1.register().map_err(ChangeError::from).map_err(|error| refusal(&error))).await?;
        let keys = register.map(|register| register.published(now_ms()).map(|entry| told(&register, entry)).collect());
        Ok(Response::new(ListKeysResponse { keys: keys.unwrap_or_default() }))
    }

    async fn change(&self, request: Request<ChangeKeyRequest>) -> Result<Response<ChangeKeyResponse>, Status> {
        if self.process.shutdown().is_draining() {
            return Err(Status::unavailable("the suite is ending"));
        }
        let credentials = request.extensions().get::<Credentials>().cloned();
        let claimed = request.metadata().get(CLAIMED_USER).and_then(|claimed| claimed.to_str().ok()).map(ToOwned::to_owned);
        let ChangeKeyRequest { reason, change } = request.into_inner();
        let reason = reason.trim().to_owned();
        if reason.len() > MAX_REASON_BYTES {
            return Err(Status::invalid_argument(format!("the reason has {} bytes; {MAX_REASON_BYTES} are the most", reason.len())));
        }
        let wish = Wish::read(change)?;
        let asker = self.operators.admit(credentials, claimed.as_deref()).await;
        let deed = Deed {
            id: uuid::Uuid::now_v7().to_string(),
            actor: asker.actor,
            reason,
            action: wish.action(),
            resource: Some(wish.key_id().to_owned()),
            resource_type: "signer_key",
        };
        if let Err(why) = asker.permitted {
            tracing::warn!(actor = deed.actor, change.id = deed.id, change = deed.action, "change denied");
            self.trail.begin(&deed, Code::PermissionDenied).await;
            return Err(Status::permission_denied(format!("{}: {why}", deed.actor)));
        }
        let change_id = deed.id.clone();
        let key = self.make(wish, deed).await?;
        Ok(Response::new(ChangeKeyResponse { change_id, key: Some(key) }))
    }
}

/// What may wait for a disk.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

fn open(config: Option<&Path>) -> Result<(Rotation, Directory), Status> {
    let wrong = |why: String| Status::failed_precondition(why);
    let mut reader = Reader::new(Source::load(config).map_err(wrong)?);
    let is_toml = reader.is_toml();
    let rotation = Rotation::read(&mut reader.section("signer"));
    // What is wrong elsewhere in the file is others' business.
    let problems = reader.into_problems().into_iter().filter(|problem| !is_toml || problem.place.contains("signer."));
    let problems: Vec<_> = problems.map(|problem| problem.to_string()).collect();
    if !problems.is_empty() {
        return Err(wrong(problems.join("; ")));
    }
    let none =
        "[signer] directory is not set: there is one key, in a file, and it cannot be rotated (README, \"Rotating the signer's key\")";
    let directory = rotation.directory.as_deref().map(Directory::new).ok_or_else(|| wrong(none.to_owned()))?;
    Ok((rotation, directory))
}

fn change(config: Option<&Path>, wish: Wish) -> Result<SignerKey, Status> {
    let (rotation, directory) = open(config)?;
    let key_id = wish.key_id().to_owned();
    let register = directory.change(wish.change(&rotation), now_ms()).map_err(|error| refusal(&error))?;
    register.find(&key_id).map(|entry| told(&register, entry)).ok_or_else(|| Status::internal("the change left no such key"))
}

fn refusal(error: &ChangeError) -> Status {
    let code = match error {
        ChangeError::Refused(Refused::Unknown(_)) => Code::NotFound,
        ChangeError::Refused(_) | ChangeError::Broken(_) => Code::FailedPrecondition,
        ChangeError::Busy => Code::Aborted,
        ChangeError::Write(..) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

fn told(register: &Register, entry: &Entry) -> SignerKey {
    let state = match register.state(entry) {
        State::Active => "active",
        State::Published => "published",
        State::Retired => "retired",
    };
    SignerKey {
        key_id: entry.key_id.clone(),
        public_key: entry.public_key.clone(),
        state: state.to_owned(),
        added_at_ms: entry.added_at_ms,
        activated_at_ms: entry.activated_at_ms,
        retired_at_ms: entry.retired_at_ms,
        published_until_ms: entry.published_until_ms,
    }
}

fn check_id(key_id: String) -> Result<String, Status> {
    let is_id = key_id.len() == 16 && key_id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if is_id { Ok(key_id) } else { Err(Status::invalid_argument("a key's id is 16 lower-case hex digits")) }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
