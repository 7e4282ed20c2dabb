//! The start of the suite: in dependency order, and failing fast with the words of whoever failed.

use std::time::Instant;

use gatehouse_chassis::{boot::describe_exit, exit, exit::Fatal};

use super::{Phase, Suite};
use crate::{
    child::{Event, Exit, State},
    component::{Component, SlotId, label},
};

impl Suite {
    /// Starts those who wait and whose needs are met.
    pub(super) fn start_what_can(&mut self) {
        for id in self.ids() {
            let waits = self.slot(id).is_some_and(|slot| slot.machine.state() == State::Waiting);
            if waits && self.needs_are_met(id.component) {
                self.step(id, Event::NeedsMet);
            }
        }
    }

    /// Once the suite has served, a loss of what it needs keeps a component from nothing: it waits for it by itself. Redis is needed in any case.
    fn needs_are_met(&self, component: Component) -> bool {
        let serving = self.phase == Phase::Serving;
        let needs = component.needs();
        let mut needed = self.slots.iter().filter(|slot| needs.contains(&slot.id.component));
        needed.all(|slot| slot.machine.is_ready() || slot.machine.is_stopped_by_operator() || (serving && slot.id.component.is_ours()))
    }

    /// Whether everything serves that nobody has stopped.
    pub(super) fn has_started(&self) -> bool {
        self.slots.iter().all(|slot| slot.machine.is_ready() || slot.machine.is_stopped_by_operator())
    }

    /// A child that ends before it was ever ready fails the start of the suite, and so does one whose configuration is wrong.
    pub(super) fn check_start(&mut self, id: SlotId, exit: &Exit) {
        let Some(slot) = self.slot(id) else { return };
        if !matches!(self.phase, Phase::Starting { .. }) || (slot.ready_once && !exit.is_final()) {
            return;
        }
        let how = match exit {
            Exit::Status(code) => describe_exit(*code),
            Exit::StartTimeout => format!("not ready within {:?}", self.parts.config.restarts.ready_timeout),
            other => other.to_string(),
        };
        let message = format!("{} did not start: {how}{}", label(id), slot.quoted_words());
        self.fail_start(Fatal { code: exit.code(), message });
    }

    /// The start as a whole has a time, too.
    pub(super) fn check_start_timeout(&mut self) {
        if matches!(self.phase, Phase::Starting { until } if until <= Instant::now()) {
            let late = self.slots.iter().filter(|slot| !slot.machine.is_ready());
            let late: Vec<_> = late.map(|slot| format!("{} {}", label(slot.id), slot.machine.label())).collect();
            let message = format!("the suite is not ready within {:?}: {}", self.parts.config.start_timeout, late.join(", "));
            self.fail_start(Fatal { code: exit::TRY_AGAIN, message });
        }
    }

    fn fail_start(&mut self, failure: Fatal) {
        self.failure.get_or_insert(failure);
        self.parts.process.shutdown().drain();
        self.begin_drain();
    }
}
