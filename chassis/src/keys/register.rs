//! `keys.json`: which keys there are, which one is active, and since when. Transitions are pure.
//!
//! ```text
//!  add ─▶ published ─ activate ─▶ active ─ (another is activated) ─▶ published ─ retire ─▶ retired ─ (overlap) ─▶ forgotten
//! ```
//!
//! A key is published before it signs, so that clients know it when they meet it, and after it has signed, so that they can verify what it signed. It may be activated again until
//! it is retired; a retired one has lost its private half.

use std::time::Duration;

use gatehouse_proto::keys::PublicKey;
use serde::{Deserialize, Serialize};

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The id of the one that signs.
    pub active: String,
    /// The oldest first.
    pub keys: Vec<Entry>,
}

/// One key. Times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// As in `signer_key_id`.
    pub key_id: String,
    /// Padded base64 of the raw key.
    pub public_key: String,
    /// Since when it is published.
    pub added_at_ms: i64,
    /// When it last became active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated_at_ms: Option<i64>,
    /// When its private half was destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at_ms: Option<i64>,
    /// Until when it is published after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_until_ms: Option<i64>,
}

/// How a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It signs.
    Active,
    /// It may be activated.
    Published,
    /// It is still published, and never signs again.
    Retired,
}

/// Why a transition is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was never added, or is forgotten.
    #[error("there is no key {0}")]
    Unknown(String),
    /// It is there.
    #[error("the key {0} is there already")]
    Known(String),
    /// It is active.
    #[error("the key {0} is active already")]
    Active(String),
    /// Nobody would sign.
    #[error("the key {0} is active: activate another one first")]
    InUse(String),
    /// It has no private half any more.
    #[error("the key {0} is retired")]
    Retired(String),
    /// Clients that asked for the keys before it was added may not have asked again.
    #[error("the key {0} is published for {1} s; {2} s are the least before it signs (`--now` activates it all the same)")]
    TooYoung(String, u64, u64),
}

impl Entry {
    /// A key that is added now.
    #[must_use]
    pub fn new(key: &PublicKey, now_ms: i64) -> Self {
        Self {
            key_id: key.key_id(),
            public_key: key.to_base64(),
            added_at_ms: now_ms,
            activated_at_ms: None,
            retired_at_ms: None,
            published_until_ms: None,
        }
    }
}

impl Register {
    /// With one key, which is active: nobody has signed with another.
    #[must_use]
    pub fn with(key: &PublicKey, now_ms: i64) -> Self {
        let first = Entry { activated_at_ms: Some(now_ms), ..Entry::new(key, now_ms) };
        Self { active: first.key_id.clone(), keys: vec![first] }
    }

    /// What was written, if it makes sense.
    pub fn parse(text: &str) -> Result<Self, String> {
        let this: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for (place, entry) in this.keys.iter().enumerate() {
            let key =
                PublicKey::from_base64(&entry.public_key).map_err(|error| format!("the public key of {} is {error}", entry.key_id))?;
            if key.key_id() != entry.key_id {
                return Err(format!("the public key of {} has the id {}", entry.key_id, key.key_id()));
            }
            if this.keys[..place].iter().any(|other| other.key_id == entry.key_id) {
                return Err(format!("{} stands there twice", entry.key_id));
            }
        }
        match this.find(&this.active) {
            None => Err(format!("the active key {} is not among the keys", this.active)),
            Some(active) if active.retired_at_ms.is_some() => Err(format!("the active key {} is retired", this.active)),
            Some(_) => Ok(this),
        }
    }

    /// As it is written.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The key of that id.
    #[must_use]
    pub fn find(&self, key_id: &str) -> Option<&Entry> {
        self.keys.iter().find(|entry| entry.key_id == key_id)
    }

    /// How that key stands.
    #[must_use]
    pub fn state(&self, entry: &Entry) -> State {
        match entry {
            entry if entry.key_id == self.active => State::Active,
            entry if entry.retired_at_ms.is_some() => State::Retired,
            _ => State::Published,
        }
    }

    /// Which keys clients may need at that time.
    pub fn published(&self, now_ms: i64) -> impl Iterator<Item = &Entry> {
        self.keys.iter().filter(move |entry| entry.published_until_ms.is_none_or(|until| now_ms < until))
    }

    /// Forgets retired keys whose overlap is over.
    pub fn prune(&mut self, now_ms: i64) {
        self.keys.retain(|entry| entry.published_until_ms.is_none_or(|until| now_ms < until));
    }

    /// Publishes a key. One that was retired and is still published is another one's business: its id would stand there twice.
    pub fn add(&mut self, key: &PublicKey, now_ms: i64) -> Result<(), Refused> {
        let entry = Entry::new(key, now_ms);
        match self.find(&entry.key_id) {
            None => self.keys.push(entry),
            Some(known) if known.retired_at_ms.is_some() => return Err(Refused::Retired(entry.key_id)),
            Some(_) => return Err(Refused::Known(entry.key_id)),
        }
        Ok(())
    }

    /// Lets that key sign. `delay`: how long it must have been published; zero lets every one.
    pub fn activate(&mut self, key_id: &str, delay: Duration, now_ms: i64) -> Result<(), Refused> {
        let id = || key_id.to_owned();
        let active = self.active == key_id;
        let entry = self.keys.iter_mut().find(|entry| entry.key_id == key_id).ok_or_else(|| Refused::Unknown(id()))?;
        // A clock that was set back makes no key old.
        let age = Duration::from_millis(now_ms.saturating_sub(entry.added_at_ms).try_into().unwrap_or(0));
        match () {
            () if entry.retired_at_ms.is_some() => Err(Refused::Retired(id())),
            () if active => Err(Refused::Active(id())),
            // One that has signed before is known.
            () if entry.activated_at_ms.is_none() && age < delay => Err(Refused::TooYoung(id(), age.as_secs(), delay.as_secs())),
            () => {
                entry.activated_at_ms = Some(now_ms);
                self.active = id();
                Ok(())
            }
        }
    }

    /// Lets that key never sign again, and be published for the overlap.
    pub fn retire(&mut self, key_id: &str, overlap: Duration, now_ms: i64) -> Result<(), Refused> {
        let id = || key_id.to_owned();
        if self.active == key_id {
            return Err(Refused::InUse(id()));
        }
        let entry = self.keys.iter_mut().find(|entry| entry.key_id == key_id).ok_or_else(|| Refused::Unknown(id()))?;
        if entry.retired_at_ms.is_some() {
            return Err(Refused::Retired(id()));
        }
        let overlap = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
        entry.retired_at_ms = Some(now_ms);
        entry.published_until_ms = Some(now_ms.saturating_add(overlap));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
