//! The end of the suite: stage by stage, each child within its budget, and now when asked twice.

use std::time::Duration;

use anyhow::bail;
use gatehouse_chassis::config::Shared;

use super::{Phase, Suite, report};
use crate::{
    child::{Event, KILL_GRACE},
    component::{Component, DRAIN_STAGES, label, roll},
    systemd,
};

/// What the supervisor itself takes on top of its children.
const OWN: Duration = Duration::from_secs(1);

/// The longest that the drain of this configuration can take: stages follow each other, and within one all run at the same time.
#[must_use]
pub fn drain_budget(shared: &Shared) -> Duration {
    DRAIN_STAGES.iter().map(|stage| stage_budget(shared, stage)).sum::<Duration>() + OWN
}

/// The longest that one stage can take.
fn stage_budget(shared: &Shared, stage: &[Component]) -> Duration {
    let roll = roll(shared, shared.instances(Component::Pusher.name()));
    let present = roll.into_iter().filter(|slot| stage.contains(&slot.component));
    present.map(|slot| shared.budgets.of(slot.component.name()) + KILL_GRACE).max().unwrap_or_default()
}

impl Suite {
    /// Nothing is started any more; the first stage is told. Once.
    pub(super) fn begin_drain(&mut self) {
        if matches!(self.phase, Phase::Draining { .. }) {
            return;
        }
        self.phase = Phase::Draining { stage: 0 };
        for id in self.ids() {
            self.step(id, Event::Retire);
        }
        self.stop_stage(0);
    }

    /// Tells the next stage when this one has ended.
    pub(super) fn advance_drain(&mut self) {
        while let Phase::Draining { stage } = self.phase {
            let Some(components) = DRAIN_STAGES.get(stage) else { return };
            let mut of_stage = self.slots.iter().filter(|slot| components.contains(&slot.id.component));
            if !of_stage.all(|slot| slot.machine.is_stopped()) {
                return;
            }
            self.phase = Phase::Draining { stage: stage + 1 };
            self.stop_stage(stage + 1);
        }
    }

    fn stop_stage(&mut self, stage: usize) {
        let components = DRAIN_STAGES.get(stage).copied().unwrap_or_default();
        systemd::extend(stage_budget(self.parts.process.shared(), components) + OWN);
        for id in self.ids() {
            if components.contains(&id.component) {
                self.step(id, Event::Stop);
            }
        }
    }

    /// The second signal, or the budget of the whole: SIGKILL for all.
    pub(super) fn abort(&mut self) {
        self.aborted = true;
        for id in self.ids() {
            self.step(id, Event::Kill);
        }
    }

    /// The report, and how all this ended.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        report::log(&self.slots, self.parts.launcher.output().is_text());
        let overran =
            self.slots.iter().filter(|slot| slot.stopped.as_ref().is_some_and(|stopped| stopped.outcome == report::Outcome::Killed));
        let overran: Vec<_> = overran.map(|slot| label(slot.id)).collect();
        match self.failure {
            Some(failure) => Err(failure.into()),
            None if self.aborted => bail!("ended before the drain was over; killed: {}", overran.join(", ")),
            None if !overran.is_empty() => bail!("killed, for they did not end within their budgets: {}", overran.join(", ")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_chassis::config::{Config as _, Reader, Source};

    #[test]
    fn the_drain_budget_adds_the_stages_and_takes_the_slowest_of_each() {
        let budget = |text: &str, env: &[(&str, &str)]| {
            let shared = Shared::read(&mut Reader::new(Source::of(text, env))).unwrap();
            drain_budget(&shared).as_secs()
        };
        assert_eq!(budget("", &[]), 4 * (5 + 1) + 1);
        let external = [("GATEWAY_REDIS_MASTER_ADDR", "h:1"), ("GATEWAY_REDIS_PASSWORD", "p")];
        assert_eq!(budget("[shutdown]\nedge = \"20s\"\nauditor = \"10s\"", &external), 21 + 11 + 6 + 1);
    }
}
