//! `[limits]` and `[[limit]]`: how often what may be asked.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use gatehouse_chassis::config::{Reader, Section};
use gatehouse_proto::limits::MAX_ID_BYTES;

/// The limit that `[limits]` itself sets; no other may have its name.
pub(crate) const SESSIONS: &str = "commands_per_second";
/// Each is asked at each command.
const MAX_LIMITS: usize = 32;
const MAX_NAME_BYTES: usize = 64;
const KEYS: u64 = 100_000;
/// A bucket that fills more slowly is a quota, which no process keeps in memory.
const LONGEST_FILL: Duration = Duration::from_hours(24);

/// What `[limits]` and every `[[limit]]` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `[limits] max_keys`: so many sessions, users, … each limit tells apart.
    pub max_keys: usize,
    /// In the order in which they are asked; that of `[limits]` first.
    pub each: Vec<Limit>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `name`: how metrics call it.
    pub name: String,
    /// `per`: who has a bucket of their own.
    pub per: Per,
    /// `message_type`: the commands it counts; all of them unless given.
    pub message_type: Option<Pattern>,
    /// `rate`.
    pub rate: Rate,
    /// `burst`: how many may come at once.
    pub burst: u32,
    /// `scope` and `when_redis_is_away`.
    pub scope: Scope,
}

/// Who has a bucket of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each device session.
    Session,
    /// Each user, over all their devices.
    User,
    /// Each message type.
    MessageType,
    /// Each peer's address; of IPv6 each /64.
    Address,
    /// Nobody: one for all.
    All,
}

/// Over what the rate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each edge by itself.
    Local,
    /// All edges of one Redis together; without Redis as said.
    Shared(WhenAway),
}

/// What a shared limit does while the other edges cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAway {
    /// Each edge goes by its part of the rate: divided by the edges there were.
    Share,
    /// Everything is admitted.
    Open,
    /// Nothing is.
    Closed,
}

/// A message type, or the beginning of some: `orders.create`, `orders.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    is_prefix: bool,
}

/// How often, kept as the time between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Duration);

impl Rate {
    /// That many in each second.
    #[must_use]
    pub fn per_second(count: NonZeroU32) -> Self {
        Self::of(1.0 / f64::from(count.get()))
    }

    /// The time from one to the next when they come evenly; rounded up, so that the rate is never exceeded.
    #[must_use]
    pub const fn interval(self) -> Duration {
        self.0
    }

    fn of(seconds: f64) -> Self {
        let nearest = Duration::from_secs_f64(seconds);
        let short = nearest.as_secs_f64() < seconds;
        Self(nearest + Duration::from_nanos(u64::from(short)))
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "is no rate; write 10 or 2.5 (a second), or \"100/m\", \"1000/h\"";
        let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
        let unit = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(FORM),
        };
        let count = count.parse::<f64>().map_err(|_| FORM)?;
        let seconds = unit / count;
        if count > 0.0 && (1e-6..=86_400.0).contains(&seconds) {
            Ok(Self::of(seconds))
        } else {
            Err("is outside one a day to 1000000 a second")
        }
    }
}

impl Pattern {
    /// Whether a message type is meant.
    #[must_use]
    pub fn matches(&self, message_type: &str) -> bool {
        if self.is_prefix { message_type.starts_with(&self.text) } else { message_type == self.text }
    }
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (text, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        if text.contains('*') {
            Err("has a * elsewhere than at its end")
        } else if text.len() > MAX_ID_BYTES || (text.is_empty() && !is_prefix) {
            Err("is empty or longer than 128 bytes")
        } else {
            Ok(Self { text: text.to_owned(), is_prefix })
        }
    }
}

impl FromStr for Per {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "session" => Ok(Self::Session),
            "user" => Ok(Self::User),
            "message_type" => Ok(Self::MessageType),
            "address" => Ok(Self::Address),
            "all" => Ok(Self::All),
            _ => Err("is none of session, user, message_type, address, all"),
        }
    }
}

/// `scope` as it is written.
enum Reach {
    Local,
    Shared,
}

impl FromStr for Reach {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "local" => Ok(Self::Local),
            "shared" => Ok(Self::Shared),
            _ => Err("is neither local nor shared"),
        }
    }
}

impl FromStr for WhenAway {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "share" => Ok(Self::Share),
            "open" => Ok(Self::Open),
            "closed" => Ok(Self::Closed),
            _ => Err("is none of share, open, closed"),
        }
    }
}

impl fmt::Display for WhenAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Share => "share",
            Self::Open => "open",
            Self::Closed => "closed",
        })
    }
}

impl Limits {
    /// Reads both.
    pub(super) fn read(reader: &mut Reader) -> Self {
        let mut section = reader.section("limits");
        let commands_per_second = section.key("commands_per_second").or(0);
        let burst = section.key("burst").within(commands_per_second.max(1), 1..);
        let max_keys = section.key("max_keys").within(KEYS, 1..=10_000_000);
        section.finish();
        let sessions = NonZeroU32::new(commands_per_second).map(|count| Limit {
            name: SESSIONS.to_owned(),
            per: Per::Session,
            message_type: None,
            rate: Rate::per_second(count),
            burst,
            scope: Scope::Local,
        });
        let mut seen = vec![SESSIONS.to_owned()];
        let mut named = reader.each("limit", |section| limit(section, &mut seen));
        let mut each: Vec<_> = sessions.into_iter().collect();
        each.append(&mut named);
        Self { max_keys: usize::try_from(max_keys).unwrap_or(usize::MAX), each }
    }
}

fn limit(section: &mut Section<'_>, seen: &mut Vec<String>) -> Option<Limit> {
    let name = section.key("name").required::<String>();
    let per = section.key("per").required();
    let message_type = section.key("message_type").optional();
    let rate = section.key("rate").required::<Rate>();
    let burst = section.key("burst").within(rate.map_or(1, a_second_of), 1..=1_000_000);
    let reach = section.key("scope").or(Reach::Local);
    let away = section.key("when_redis_is_away").optional();
    let (name, rate) = (name?, rate?);
    if !is_plain(&name) {
        section.problem("name", format!("`{name}` is not of lower-case letters, digits, - and _, 64 bytes at most"));
    }
    if seen.contains(&name) {
        section.problem("name", format!("`{name}` is the name of another limit already"));
    }
    seen.push(name.clone());
    if seen.len() == MAX_LIMITS + 2 {
        section.problem("name", format!("there are more than {MAX_LIMITS} limits"));
    }
    if rate.interval().saturating_mul(burst) > LONGEST_FILL {
        section.problem("burst", format!("{burst} takes longer than a day to come back at this rate"));
    }
    let scope = match (reach, away) {
        (Reach::Shared, away) => Scope::Shared(away.unwrap_or(WhenAway::Share)),
        (Reach::Local, None) => Scope::Local,
        (Reach::Local, Some(_)) => {
            section.problem("when_redis_is_away", "is for limits with scope = \"shared\"; a local one does not ask Redis");
            Scope::Local
        }
    };
    Some(Limit { name, per: per?, message_type, rate, burst, scope })
}

/// What comes in a second, at least one.
fn a_second_of(rate: Rate) -> u32 {
    let count = Duration::from_secs(1).as_nanos().div_ceil(rate.interval().as_nanos());
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(plain)
}

#[cfg(test)]
mod tests;
