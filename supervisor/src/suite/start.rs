//! The start of the suite: in dependency order, and failing fast with the words of whoever failed.

use std::time::Instant;

use gatehouse_chassis::{boot::describe_exit, exit, exit::Fatal};

use super::{Phase, Suite};
use crate::{
    child::{Event, Exit, State},
    component::label,
};

impl Suite {
    /// Starts those who wait and whose needs are met.
    pub(super) fn start_what_can(&mut self) {
        for i in 0..self.slots.len() {
            let slot = &self.slots[i];
            if slot.machine.state() == State::Waiting && self.needs_are_met(i) {
                self.step(i, Event::NeedsMet);
            }
        }
    }

    fn needs_are_met(&self, i: usize) -> bool {
        let needs = self.slots[i].component.needs();
        let mut needed = self.slots.iter().filter(|slot| needs.contains(&slot.component));
        needed.all(|slot| matches!(slot.machine.state(), State::Ready { .. }))
    }

    /// A child that ends before it was ever ready fails the start of the suite, and so does one whose configuration is wrong.
    pub(super) fn check_start(&mut self, i: usize, exit: &Exit) {
        let slot = &self.slots[i];
        if !matches!(self.phase, Phase::Starting { .. }) || (slot.ready_once && !exit.is_final()) {
            return;
        }
        let how = match exit {
            Exit::Status(code) => describe_exit(*code),
            Exit::StartTimeout => format!("not ready within {:?}", self.config.restarts.ready_timeout),
            other => other.to_string(),
        };
        let message = format!("{} did not start: {how}{}", label(slot.component, slot.instance), slot.quoted_words());
        self.fail_start(Fatal { code: exit.code(), message });
    }

    /// The start as a whole has a time, too.
    pub(super) fn check_start_timeout(&mut self) {
        if matches!(self.phase, Phase::Starting { until } if until <= Instant::now()) {
            let late = self.slots.iter().filter(|slot| !matches!(slot.machine.state(), State::Ready { .. }));
            let late: Vec<_> = late.map(|slot| format!("{} {}", label(slot.component, slot.instance), slot.machine.label())).collect();
            let message = format!("the suite is not ready within {:?}: {}", self.config.start_timeout, late.join(", "));
            self.fail_start(Fatal { code: exit::TRY_AGAIN, message });
        }
    }

    fn fail_start(&mut self, failure: Fatal) {
        self.failure.get_or_insert(failure);
        self.process.shutdown().drain();
        self.begin_drain();
    }
}
