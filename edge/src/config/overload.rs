//! `[overload]` and `priority`: how much the edge takes on at once, and who is refused first when that is too much.

use std::{fmt, str::FromStr, time::Duration};

use gatehouse_chassis::config::Reader;

/// `[overload]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overload {
    /// `min_in_flight`: the limit never falls below. Default 64.
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
        let floor = section.key("min_in_flight").within(64, 4..=1_000_000);
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
