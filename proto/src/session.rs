//! Device sessions as Redis holds them: a JSON value under `{prefix}session:{id}`, and full snapshots as flat fields on the session stream
//! (CONTRACT.md §2).

use serde::{Deserialize, Serialize};

use crate::limits::MAX_ID_BYTES;

/// Whether a session may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It may.
    Active,
    /// It may not, and never will again unless a newer snapshot says so.
    Revoked,
}

impl Status {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }
}

/// One full state of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSnapshot {
    /// At most 128 bytes.
    pub device_session_id: String,
    /// At most 128 bytes.
    pub user_id: String,
    /// Padded base64 of the device's raw 32-byte Ed25519 key.
    pub public_key: String,
    /// Whether it may speak.
    pub status: Status,
    /// Milliseconds since the Unix epoch; orders snapshots.
    pub updated_at_ms: i64,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<i64>,
}

/// Why a stored session or a stream entry is no snapshot. The cause is a fixed word: it becomes a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSnapshot {
    /// Not the JSON object of a session.
    #[error("not a session object")]
    Json,
    /// A required field is not there.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field is there and unusable.
    #[error("field {0} is invalid")]
    Invalid(&'static str),
}

impl InvalidSnapshot {
    /// A bounded word for a metric label.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Missing(_) => "missing_field",
            Self::Invalid(_) => "invalid_field",
        }
    }
}

impl SessionSnapshot {
    /// From the JSON value of the session key.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidSnapshot> {
        let snapshot: Self = serde_json::from_slice(json).map_err(|_| InvalidSnapshot::Json)?;
        snapshot.checked()
    }

    /// The JSON value of the session key.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From the flat fields of a stream entry.
    pub fn from_fields<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, InvalidSnapshot> {
        let [mut id, mut user, mut key, mut status, mut updated, mut revoked] = [None; 6];
        for (name, value) in fields {
            match name {
                b"device_session_id" => id = Some(value),
                b"user_id" => user = Some(value),
                b"public_key" => key = Some(value),
                b"status" => status = Some(value),
                b"updated_at_ms" => updated = Some(value),
                b"revoked_at_ms" => revoked = Some(value),
                _ => {}
            }
        }
        let status = match text("status", status)? {
            "active" => Status::Active,
            "revoked" => Status::Revoked,
            _ => return Err(InvalidSnapshot::Invalid("status")),
        };
        let revoked = revoked.filter(|value| !value.is_empty());
        Self {
            device_session_id: text("device_session_id", id)?.into(),
            user_id: text("user_id", user)?.into(),
            public_key: text("public_key", key)?.into(),
            status,
            updated_at_ms: number("updated_at_ms", updated)?,
            revoked_at_ms: revoked.map(|value| number("revoked_at_ms", Some(value))).transpose()?,
        }
        .checked()
    }

    /// The flat fields of a stream entry.
    #[must_use]
    pub fn to_fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("device_session_id", self.device_session_id.clone()),
            ("user_id", self.user_id.clone()),
            ("public_key", self.public_key.clone()),
            ("status", self.status.as_str().to_owned()),
            ("updated_at_ms", self.updated_at_ms.to_string()),
        ];
        fields.extend(self.revoked_at_ms.map(|at| ("revoked_at_ms", at.to_string())));
        fields
    }

    /// Whether this snapshot wins over `other` of the same session: the larger `updated_at_ms` does; at equal times `revoked` does, so that a late,
    /// older `active` never resurrects a revoked session.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        let rank = |snapshot: &Self| (snapshot.updated_at_ms, snapshot.status == Status::Revoked);
        rank(self) > rank(other)
    }

    fn checked(self) -> Result<Self, InvalidSnapshot> {
        for (name, value) in [("device_session_id", &self.device_session_id), ("user_id", &self.user_id)] {
            if value.is_empty() || value.len() > MAX_ID_BYTES {
                return Err(InvalidSnapshot::Invalid(name));
            }
        }
        Ok(self)
    }
}

fn text<'a>(name: &'static str, value: Option<&'a [u8]>) -> Result<&'a str, InvalidSnapshot> {
    let value = value.ok_or(InvalidSnapshot::Missing(name))?;
    std::str::from_utf8(value).map_err(|_| InvalidSnapshot::Invalid(name))
}

fn number(name: &'static str, value: Option<&[u8]>) -> Result<i64, InvalidSnapshot> {
    text(name, value)?.parse().map_err(|_| InvalidSnapshot::Invalid(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(status: Status, updated_at_ms: i64) -> SessionSnapshot {
        let revoked_at_ms = (status == Status::Revoked).then_some(updated_at_ms);
        SessionSnapshot {
            device_session_id: "ds-1".into(),
            user_id: "u-1".into(),
            public_key: "E651ePrT4LOwZyG+CktKa38IFuDtxKoYBfXsMvOxiFE=".into(),
            status,
            updated_at_ms,
            revoked_at_ms,
        }
    }

    fn fields(snapshot: &SessionSnapshot) -> Vec<(&'static str, String)> {
        snapshot.to_fields()
    }

    fn parse(fields: &[(&'static str, String)]) -> Result<SessionSnapshot, InvalidSnapshot> {
        SessionSnapshot::from_fields(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn json_and_fields_round_trip() {
        for snapshot in [snapshot(Status::Active, 5), snapshot(Status::Revoked, 9)] {
            assert_eq!(SessionSnapshot::from_json(snapshot.to_json().as_bytes()), Ok(snapshot.clone()));
            assert_eq!(parse(&fields(&snapshot)), Ok(snapshot));
        }
    }

    #[test]
    fn each_malformed_entry_names_its_field() {
        let whole = fields(&snapshot(Status::Active, 5));
        for (i, (name, _)) in whole.iter().enumerate() {
            let mut without = whole.clone();
            without.remove(i);
            assert_eq!(parse(&without), Err(InvalidSnapshot::Missing(name)));
        }
        for (i, value) in [(0, ""), (3, "paused"), (4, "soon")] {
            let mut wrong = whole.clone();
            wrong[i].1 = value.into();
            assert_eq!(parse(&wrong), Err(InvalidSnapshot::Invalid(whole[i].0)));
        }
        let bytes: &[(&[u8], &[u8])] = &[(b"status", b"\xff\xfe")];
        assert_eq!(SessionSnapshot::from_fields(bytes.iter().copied()), Err(InvalidSnapshot::Invalid("status")));
        assert_eq!(SessionSnapshot::from_json(b"[]"), Err(InvalidSnapshot::Json));
    }

    #[test]
    fn the_newer_wins_and_at_equal_times_revoked_wins() {
        use Status::{Active, Revoked};
        for (a, b, wins) in [
            ((Active, 2), (Active, 1), true),
            ((Active, 1), (Active, 1), false),
            ((Revoked, 1), (Active, 1), true),
            ((Active, 1), (Revoked, 1), false),
            ((Active, 1), (Revoked, 2), false),
            ((Active, 2), (Revoked, 1), true),
        ] {
            assert_eq!(snapshot(a.0, a.1).supersedes(&snapshot(b.0, b.1)), wins, "{a:?} over {b:?}");
        }
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_settles_on_the_same_snapshot(mut seen in prop::collection::vec((any::<bool>(), 0_i64..4), 1..8), seed: prop::sample::Index) {
            let settle = |seen: &[(bool, i64)]| {
                seen.iter().map(|&(revoked, at)| snapshot(if revoked { Status::Revoked } else { Status::Active }, at))
                    .reduce(|kept, next| if next.supersedes(&kept) { next } else { kept })
            };
            let forward = settle(&seen);
            let turn = seed.index(seen.len());
            seen.rotate_left(turn);
            prop_assert_eq!(forward.clone(), settle(&seen));
            seen.reverse();
            prop_assert_eq!(forward, settle(&seen));
        }
    }
}
