//! The bound that [`reconcile`](super::super::reconcile) promises, against a model of Redis, with any number of edges, any pauses between their rounds, and any traffic.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::config::limit::{Per, Rate};

/// Milliseconds between the rounds of an edge, at most; each waits its own time.
const ROUND: u64 = 100;
const MS: u64 = 1_000_000;

struct Edge {
    table: Table,
    next_round: u64,
}

impl Edge {
    fn take(&mut self, quota: Quota, now: u64) -> bool {
        let place = self.table.find("x", now);
        let taken = quota.take(self.table.full_at(place), now, 1);
        let is_taken = taken.is_ok();
        if let Ok(full_at) = taken {
            self.table.admit(place, full_at, Some(1));
        }
        is_taken
    }

    /// What the script does, in Rust.
    fn round(&mut self, quota: Quota, redis: &mut u64, now: u64) {
        for due in self.table.take_due(10) {
            let least = due.full_at.min(now + quota.whole());
            *redis = (*redis + quota.tokens(due.tokens.into())).max(least);
            self.table.learn(&due.key, *redis, |tokens| quota.tokens(tokens));
        }
        self.table.forget(now, 10);
    }
}

#[derive(Clone, Debug)]
struct Step {
    pause: u64,
    edge: usize,
    commands: u32,
    next_round: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..60_u64, 0..8_usize, 1..20_u32, 1..=ROUND);
    let step = step.prop_map(|(pause, edge, commands, next_round)| Step { pause, edge, commands, next_round });
    prop::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn in_no_span_do_all_edges_together_admit_more_than_is_promised(
        steps in steps(), edges in 1..8_usize, rate in 1..200_u32, burst in 1..30_u32,
    ) {
        let rate_of_it = Rate::per_second(NonZeroU32::new(rate).unwrap());
        let quota = Quota::of(&Limit { name: "x".into(), per: Per::All, message_type: None, rate: rate_of_it, burst, scope: Scope::Local });
        let mut all: Vec<_> = (0..edges).map(|_| Edge { table: Table::new(1), next_round: 0 }).collect();
        // When, and how many at that moment.
        let (mut now, mut redis, mut admitted) = (SECOND, 0, Vec::<(u64, u64)>::new());
        for step in steps {
            // Time passes in milliseconds; rounds come when they are due.
            for _ in 0..step.pause {
                now += MS;
                for edge in all.iter_mut().filter(|edge| edge.next_round <= now) {
                    edge.round(quota, &mut redis, now);
                    edge.next_round = now + step.next_round * MS;
                }
            }
            let edge = &mut all[step.edge % edges];
            admitted.push((now, (0..step.commands).filter(|_| edge.take(quota, now)).count() as u64));
        }
        let (others, burst, rate) = (edges as u64 - 1, u64::from(burst), u64::from(rate));
        let most = |span: u64| burst + span * rate / SECOND + others * (burst + ROUND * rate / 1000 + 1);
        for (i, (from, _)) in admitted.iter().enumerate() {
            let mut count = 0;
            for (until, more) in &admitted[i..] {
                count += more;
                prop_assert!(count <= most(until - from), "{count} in {} ms; promised {}", (until - from) / MS, most(until - from));
            }
        }
    }
}
