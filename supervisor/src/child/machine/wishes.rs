//! What an operator wants, or the end of the suite, from each state.

use std::time::Instant;

use super::{Action, Machine, Other, State, Then};

impl Machine {
    pub(super) fn restart(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.retired {
            return;
        }
        self.stopped_by_operator = false;
        match self.state {
            State::Ready { .. } if self.policy.overlaps => {
                if self.other.is_none() {
                    let generation = self.next_generation();
                    self.other = Some(Other::Successor { generation, deadline: Some(now + self.policy.ready_timeout) });
                    actions.push(Action::Spawn(generation));
                }
                return;
            }
            State::Starting { deadline: Some(_) } | State::Ready { .. } => {
                actions.push(Action::Terminate(self.lead));
                self.state = State::Draining { deadline: Some(self.drained_by(now)), then: Then::Again };
            }
            State::Starting { deadline: None } => self.state = State::Draining { deadline: None, then: Then::Again },
            State::Draining { deadline, .. } => self.state = State::Draining { deadline, then: Then::Again },
            State::Waiting => {}
            State::BackingOff { .. } | State::Quarantined { .. } | State::Stopped => self.spawn(now, actions),
        }
        self.forget();
    }

    pub(super) fn start(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.state {
            State::Starting { .. } | State::Ready { .. } => {}
            _ => self.restart(now, actions),
        }
    }

    pub(super) fn stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.stopped_by_operator |= !self.retired;
        self.dismiss_successor(now, actions);
        self.state = match self.state {
            State::Starting { deadline: Some(_) } | State::Ready { .. } => {
                actions.push(Action::Terminate(self.lead));
                State::Draining { deadline: Some(self.drained_by(now)), then: Then::Stop }
            }
            // Killed already: there is nobody left to ask.
            State::Starting { deadline: None } => State::Draining { deadline: None, then: Then::Stop },
            // It may be leaving by itself; to be asked as well does no harm but the second signal's, which aborts. Its clock runs.
            State::Draining { deadline, .. } => State::Draining { deadline, then: Then::Stop },
            State::Waiting | State::BackingOff { .. } | State::Quarantined { .. } | State::Stopped => State::Stopped,
        };
    }

    pub(super) fn retire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.retired = true;
        self.dismiss_successor(now, actions);
        self.state = match self.state {
            State::Draining { deadline, .. } => State::Draining { deadline, then: Then::Stop },
            running @ (State::Starting { .. } | State::Ready { .. }) => running,
            State::Waiting | State::BackingOff { .. } | State::Quarantined { .. } | State::Stopped => State::Stopped,
        };
    }

    fn dismiss_successor(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Some(Other::Successor { generation, deadline }) = self.other {
            // One that was killed for its slowness keeps what is left of no time.
            let deadline = deadline.map(|_| self.drained_by(now));
            if deadline.is_some() {
                actions.push(Action::Terminate(generation));
            }
            self.other = Some(Other::Outgoing { generation, deadline });
        }
    }

    pub(super) fn kill(&mut self, actions: &mut Vec<Action>) {
        if let Some(other) = self.other {
            actions.push(Action::Kill(other.generation()));
            self.other = Some(Other::Outgoing { generation: other.generation(), deadline: None });
        }
        self.state = match self.state {
            State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => {
                actions.push(Action::Kill(self.lead));
                State::Draining { deadline: None, then: Then::Stop }
            }
            State::Waiting | State::BackingOff { .. } | State::Quarantined { .. } | State::Stopped => State::Stopped,
        };
    }
}
