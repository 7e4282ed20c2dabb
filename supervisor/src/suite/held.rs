//! Which public sockets somebody accepts on, and which nobody will any more.

use std::time::Instant;

use super::{Phase, Suite};

impl Suite {
    /// Tells [`Held`](crate::held::Held) where all stand now.
    pub(super) fn watch_held(&mut self) {
        let draining = matches!(self.phase, Phase::Draining { .. });
        for name in self.parts.held.names() {
            let lent_it = self.slots.iter().filter(|slot| slot.id.component.public_sockets().contains(&name));
            let (mut accepted, mut over) = (false, draining);
            for slot in lent_it {
                accepted |= slot.machine.is_ready();
                over &= slot.machine.is_stopped();
            }
            if over {
                self.parts.held.answer_now(name);
            } else {
                self.parts.held.set(name, accepted, Instant::now());
            }
        }
    }
}
