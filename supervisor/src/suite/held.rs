//! Which public sockets somebody accepts on, and which nobody will any more.

use std::time::Instant;

use super::{Phase, Suite};
use crate::child::State;

impl Suite {
    /// Tells [`Held`](crate::held::Held) where all stand now.
    pub(super) fn watch_held(&mut self) {
        let draining = matches!(self.phase, Phase::Draining { .. });
        for name in self.held.names() {
            let lent_it = self.slots.iter().filter(|slot| slot.component.public_sockets().contains(&name)).map(|slot| slot.machine.state());
            let (mut accepted, mut over) = (false, draining);
            for state in lent_it {
                accepted |= matches!(state, State::Ready { .. });
                over &= state == State::Stopped;
            }
            if over {
                self.held.answer_now(name);
            } else {
                self.held.set(name, accepted, Instant::now());
            }
        }
    }
}
