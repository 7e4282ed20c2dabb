//! `[overload]` and `priority`: how much the edge takes on at once, and who is refused first when that is too much.

use std::{fmt, str::FromStr, time::Duration};

use gatehouse_chassis::config::Reader;

/// `[overload]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overload {
    /// `min_in_flight`: the limit never falls below: so many cannot make the wait long by themselves. Default 256.
    pub floor: usize,
    /// `max_in_flight`: nor does it rise above. Default 4096.
    pub ceiling: usize,
    /// `target_delay`: how long what is ready to run may have to wait for a processor. Default 10 ms.
    pub target: Duration,
    /// `backend_in_flight`: what one backend may have to do at once. Default 1024.
    pub per_backend: usize,
}

/// Who is refused first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// First.
    Low,
    /// Unless said otherwise.
    Normal,
    /// Last.
    Critical,
}

impl Overload {
    /// Reads the section.
    pub(super) fn read(reader: &mut Reader) -> Self {
        let mut section = reader.section("overload");
        let floor = section.key("min_in_flight").within(256, 4..=1_000_000);
        let ceiling = section.key("max_in_flight").within(floor.max(4096), 4..=1_000_000);
        if ceiling < floor {
            section.problem("max_in_flight", format!("is {ceiling}, and min_in_flight is {floor}"));
        }
        let target = section.key("target_delay").duration(Duration::from_millis(10));
        if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&target) {
            section.problem("target_delay", "is not between 1ms and 1s");
        }
        let per_backend = section.key("backend_in_flight").within(1024, 4..=1_000_000);
        section.finish();
        Self { floor, ceiling, target, per_backend }
    }
}

impl Priority {
    /// All, the first to be refused first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::Critical];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::Critical => "critical",
        }
    }
}

impl FromStr for Priority {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        Self::ALL.into_iter().find(|priority| priority.name() == text).ok_or("is neither critical, normal nor low")
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use gatehouse_chassis::config::Source;

    use super::*;

    fn read(text: &str) -> (Overload, Vec<String>) {
        let mut reader = Reader::new(Source::of(&format!("[overload]\n{text}"), &[]));
        let overload = Overload::read(&mut reader);
        (overload, reader.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn bounds_are_read_and_nonsense_is_refused_at_its_place() {
        let (defaults, problems) = read("");
        assert_eq!(problems, [""; 0]);
        assert_eq!(defaults, Overload { floor: 256, ceiling: 4096, target: Duration::from_millis(10), per_backend: 1024 });
        assert_eq!(read("min_in_flight = 5000").0.ceiling, 5000, "the default makes room");
        for (text, place) in [
            ("min_in_flight = 3", "gateway.toml:2: overload.min_in_flight: "),
            ("max_in_flight = 0", "gateway.toml:2: overload.max_in_flight: "),
            ("min_in_flight = 100\nmax_in_flight = 99", "gateway.toml:3: overload.max_in_flight: is 99, and min_in_flight is 100"),
            ("target_delay = \"0ms\"", "gateway.toml:2: overload.target_delay: is not between 1ms and 1s"),
            ("target_delay = \"2s\"", "gateway.toml:2: overload.target_delay: is not between 1ms and 1s"),
            ("backend_in_flight = 1", "gateway.toml:2: overload.backend_in_flight: "),
            ("min_inflight = 9", "gateway.toml:2: overload.min_inflight: unknown key; did you mean `min_in_flight`?"),
        ] {
            let (_, problems) = read(text);
            assert!(problems.iter().any(|problem| problem.starts_with(place)), "{text}: {problems:?}");
        }
    }

    #[test]
    fn a_priority_reads_as_it_is_written() {
        for priority in Priority::ALL {
            assert_eq!(priority.to_string().parse(), Ok(priority));
        }
        assert!("urgent".parse::<Priority>().is_err());
    }
}
