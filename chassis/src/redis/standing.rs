//! How the server is, in words that can be counted: read from `INFO`, for which no right to `CONFIG` is needed.

use std::fmt;

use redis::{cmd, pipe};

use super::{Redis, RedisError};

/// What the server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Drawn by the server when it starts (`run_id`): another one is another process, with whatever data it was given.
    pub run_id: String,
    /// `maxmemory-policy`; empty when it does not say.
    pub eviction_policy: String,
    /// It is a replica that takes no writes.
    pub read_only: bool,
    /// It is over its `maxmemory`, and refuses writes or evicts.
    pub full: bool,
}

impl Survey {
    /// Whether it never drops a key that has not expired. Its policy alone counts: without a `maxmemory` nothing is dropped under any, but
    /// that is set in a moment, and nobody thinks of the policy then.
    #[must_use]
    pub fn keeps_keys(&self) -> bool {
        self.eviction_policy == "noeviction"
    }

    fn parse(info: &str) -> Self {
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim();
        let number = |name: &str| field(name).parse::<u64>().unwrap_or_default();
        let (limit, used) = (number("maxmemory"), number("used_memory").saturating_sub(number("mem_not_counted_for_evict")));
        Self {
            run_id: field("run_id").to_owned(),
            eviction_policy: field("maxmemory_policy").to_owned(),
            read_only: field("role") == "slave" && field("slave_read_only") != "0",
            full: limit > 0 && used > limit,
        }
    }
}

/// How the server is, as far as requests need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers, takes writes, and keeps what it is given.
    Connected,
    /// It does not answer.
    Disconnected,
    /// It says no: the code, one of a few.
    Refuses(&'static str),
    /// It is a replica.
    ReadOnly,
    /// It may drop keys that have not expired.
    EvictsKeys,
    /// It takes no writes until there is room.
    OutOfMemory,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Disconnected => f.write_str("disconnected"),
            Self::Refuses(code) => write!(f, "refuses the connection: {code}"),
            Self::ReadOnly => f.write_str("read-only"),
            Self::EvictsKeys => f.write_str("evicts keys"),
            Self::OutOfMemory => f.write_str("out of memory"),
        }
    }
}

impl From<&Survey> for Standing {
    fn from(survey: &Survey) -> Self {
        if survey.read_only {
            Self::ReadOnly
        } else if !survey.keeps_keys() {
            Self::EvictsKeys
        } else if survey.full {
            Self::OutOfMemory
        } else {
            Self::Connected
        }
    }
}

impl From<&RedisError> for Standing {
    fn from(error: &RedisError) -> Self {
        const KNOWN: [&str; 8] = ["WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "BUSY", "MASTERDOWN", "MISCONF", "DENIED"];
        if !error.is_answer() {
            return Self::Disconnected;
        }
        if matches!(error, RedisError::Refused(words) if words.contains("max number of clients")) {
            return Self::Refuses("too many clients");
        }
        let code = error.code().unwrap_or_default();
        Self::Refuses(KNOWN.into_iter().find(|known| *known == code).unwrap_or("ERR"))
    }
}

impl Redis {
    /// What the server says of itself, now.
    pub async fn survey(&self) -> Result<Survey, RedisError> {
        let mut asked = pipe();
        // One that loads its data answers INFO, and nothing else.
        asked.add_command(cmd("PING")).ignore();
        asked.cmd("INFO").arg("server").cmd("INFO").arg("memory").cmd("INFO").arg("replication");
        let sections: [String; 3] = self.run_all(&asked).await?;
        Ok(Survey::parse(&sections.join("\n")))
    }

    /// How it is, now.
    pub async fn standing(&self) -> Standing {
        match self.survey().await {
            Ok(survey) => Standing::from(&survey),
            Err(error) => Standing::from(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "# Memory\r\nused_memory:2000\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\nmem_not_counted_for_evict:500\r\n# Replication\r\nrole:master\r\n";

    #[test]
    fn what_the_server_says_is_read_line_by_line() {
        for (from, to, standing) in [
            ("", "", Standing::Connected),
            ("noeviction", "allkeys-lru", Standing::EvictsKeys),
            ("maxmemory_policy", "other", Standing::EvictsKeys),
            ("maxmemory:0", "maxmemory:1499", Standing::OutOfMemory),
            ("maxmemory:0", "maxmemory:1500", Standing::Connected),
            ("role:master", "role:slave\r\nslave_read_only:1", Standing::ReadOnly),
            ("role:master", "role:slave\r\nslave_read_only:0", Standing::Connected),
        ] {
            assert_eq!(Standing::from(&Survey::parse(&MASTER.replacen(from, to, 1))), standing, "{from} → {to}");
        }
    }

    #[test]
    fn a_refusal_is_named_by_one_of_a_few_words() {
        for (words, told) in [
            ("WRONGPASS invalid username-password pair", "refuses the connection: WRONGPASS"),
            ("ERR max number of clients reached", "refuses the connection: too many clients"),
            ("WHATEVER they think of next", "refuses the connection: ERR"),
        ] {
            assert_eq!(Standing::from(&RedisError::Refused(words.into())).to_string(), told);
        }
        let away = RedisError::Timeout(std::time::Duration::ZERO);
        assert_eq!(Standing::from(&away).to_string(), "disconnected");
    }
}
