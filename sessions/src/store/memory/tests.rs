//! Memory against a model: writers, a stream that reorders, repeats and loses, lookups under way, evictions.

use gatehouse_proto::{
    keys::Signer,
    session::{SessionSnapshot, Status},
};
use proptest::prelude::*;

use super::*;

const ID: &str = "ds-1";

/// How snapshots are ordered: when, and at equal times a revocation last.
type Rank = (i64, bool);

fn session((updated_at_ms, revoked): Rank) -> Session {
    let snapshot = SessionSnapshot {
        device_session_id: ID.into(),
        user_id: "u-1".into(),
        public_key: Signer::from_seed(&[7; 32]).public_key().to_base64(),
        status: if revoked { Status::Revoked } else { Status::Active },
        updated_at_ms,
        revoked_at_ms: None,
    };
    Session::read(snapshot).unwrap()
}

fn rank(session: &Session) -> Rank {
    (session.updated_at_ms(), session.is_revoked())
}

fn memory() -> Memory {
    Memory::new(100, Duration::from_mins(10))
}

#[derive(Clone, Debug)]
enum Step {
    /// Somebody writes a snapshot: to the key, to the stream, or to both, old or new.
    Write {
        rank: Rank,
        key: bool,
        stream: bool,
    },
    DeleteKey,
    /// An entry of the stream arrives, whichever; and stays to arrive once more.
    Deliver {
        which: prop::sample::Index,
        again: bool,
    },
    /// An entry never arrives, and that is noticed.
    Lose {
        which: prop::sample::Index,
        wiped: bool,
    },
    Begin,
    Settle {
        which: prop::sample::Index,
    },
    Evict,
    Recall,
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    let rank = || (0_i64..6, any::<bool>());
    prop_oneof![
        4 => (rank(), any::<bool>(), any::<bool>()).prop_map(|(rank, key, stream)| Step::Write { rank, key, stream }),
        1 => Just(Step::DeleteKey),
        5 => (which(), any::<bool>()).prop_map(|(which, again)| Step::Deliver { which, again }),
        1 => (which(), any::<bool>()).prop_map(|(which, wiped)| Step::Lose { which, wiped }),
        4 => Just(Step::Begin),
        4 => which().prop_map(|which| Step::Settle { which }),
        1 => Just(Step::Evict),
        3 => Just(Step::Recall),
    ]
}

/// What the world holds, and what memory was told.
#[derive(Default)]
struct Model {
    key: Option<Rank>,
    stream: Vec<Rank>,
    under_way: Vec<(Lookup, u32, Option<Rank>)>,
    epoch: u32,
    /// The newest revocation that arrived, ever.
    revoked: Option<i64>,
    /// The newest that arrived since the stream was begun, and in this epoch.
    told: Option<Rank>,
    told_now: Option<Rank>,
    /// The newest that a lookup of this epoch brought.
    found_now: Option<Rank>,
    /// How often in a row a lookup of this epoch brought nothing, without news.
    nothing: u32,
}

impl Model {
    fn check_sticky(&self, found: Rank) -> Result<(), TestCaseError> {
        let (at, revoked) = found;
        prop_assert!(revoked || self.revoked.is_none_or(|revoked_at| at > revoked_at), "{found:?} was revoked at {:?}", self.revoked);
        Ok(())
    }

    async fn take(&mut self, memory: &Memory, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write { rank, key, stream } => {
                self.key = if key { Some(rank) } else { self.key };
                self.stream.extend(stream.then_some(rank));
            }
            Step::DeleteKey => self.key = None,
            Step::Deliver { which, again } if !self.stream.is_empty() => {
                let i = which.index(self.stream.len());
                let arrived = if again { self.stream[i] } else { self.stream.remove(i) };
                let known = rank(&*memory.apply(session(arrived)).await);
                prop_assert!(known >= arrived);
                self.revoked = self.revoked.max(arrived.1.then_some(arrived.0));
                (self.told, self.told_now) = (self.told.max(Some(arrived)), self.told_now.max(Some(arrived)));
                self.nothing = 0;
            }
            Step::Lose { which, wiped } if !self.stream.is_empty() => {
                self.stream.remove(which.index(self.stream.len()));
                if wiped {
                    memory.start_over();
                    self.told = None;
                } else {
                    memory.forget();
                }
                self.epoch += 1;
                (self.told_now, self.found_now, self.nothing) = (None, None, 0);
            }
            Step::Begin => self.under_way.push((memory.begin(), self.epoch, self.key)),
            Step::Settle { which } if !self.under_way.is_empty() => {
                let (lookup, epoch, key) = self.under_way.remove(which.index(self.under_way.len()));
                let found = memory.settle(lookup, ID, key.map(session)).await.map(|session| rank(&session));
                prop_assert!(found >= key.max(self.told), "{found:?}, though {key:?} was read and {:?} had arrived", self.told);
                prop_assert_eq!(found.is_none(), key.is_none() && self.told.is_none());
                if let Some(found) = found {
                    self.check_sticky(found)?;
                    self.nothing = 0;
                }
                if epoch == self.epoch {
                    self.found_now = if found.is_none() { None } else { self.found_now.max(found) };
                    self.nothing += u32::from(found.is_none());
                }
            }
            Step::Evict => memory.sessions.invalidate(ID).await,
            Step::Recall => match memory.recall(ID).await {
                Some(Recalled::Known(session)) => {
                    let found = rank(&session);
                    self.check_sticky(found)?;
                    prop_assert!(self.found_now.is_some(), "of an epoch that is over");
                    prop_assert!(Some(found) >= self.told_now);
                }
                Some(Recalled::Unknown) => prop_assert!(self.nothing >= 2),
                None => {}
            },
            Step::Deliver { .. } | Step::Lose { .. } | Step::Settle { .. } => {}
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_undoes_a_revocation_or_trusts_what_may_be_stale(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (memory, mut model) = (memory(), Model::default());
            for step in steps {
                model.take(&memory, step).await?;
            }
            Ok::<_, TestCaseError>(())
        })?;
    }
}

#[tokio::test]
async fn a_revocation_stays_known_over_a_wipe_whatever_key_and_stream_say_then() {
    let memory = memory();
    memory.apply(session((5, true))).await;
    memory.start_over();
    memory.settle(memory.begin(), ID, Some(session((0, true)))).await;
    memory.apply(session((1, false))).await;
    let Some(Recalled::Known(known)) = memory.recall(ID).await else { panic!("it was looked up") };
    assert!(known.is_revoked(), "{known:?}");
}

#[tokio::test]
async fn lookups_and_the_stream_at_once_leave_the_newest_behind() {
    // Two threads, no order between them: whatever happens, a revocation that has arrived is seen by everybody who asks after that.
    for _ in 0..200 {
        let memory = Arc::new(memory());
        let (looking, telling) = (Arc::clone(&memory), Arc::clone(&memory));
        let looks = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let lookup = looking.begin();
                looking.settle(lookup, ID, Some(session((1, false)))).await;
            });
        });
        memory.settle(memory.begin(), "other", None).await;
        telling.apply(session((2, true))).await;
        looks.join().unwrap();
        match memory.recall(ID).await {
            Some(Recalled::Known(session)) => assert!(session.is_revoked()),
            other => assert!(other.is_none(), "{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_unknown_id_is_remembered_from_the_second_time_on_until_the_stream_names_it() {
    let memory = memory();
    for remembered in [false, true] {
        assert!(memory.settle(memory.begin(), ID, None).await.is_none());
        assert_eq!(matches!(memory.recall(ID).await, Some(Recalled::Unknown)), remembered);
    }
    memory.apply(session((1, false))).await;
    assert!(memory.recall(ID).await.is_none(), "Redis is asked again");
    assert_eq!(
        memory.settle(memory.begin(), ID, None).await.map(|session| rank(&session)),
        Some((1, false)),
        "the stream was faster than the key"
    );
}

#[test]
fn a_key_that_cannot_be_decoded_is_no_session_unless_it_is_revoked() {
    for (status, readable) in [(Status::Active, false), (Status::Revoked, true)] {
        let snapshot = SessionSnapshot {
            device_session_id: ID.into(),
            user_id: "u-1".into(),
            public_key: "AAAA".into(),
            status,
            updated_at_ms: 1,
            revoked_at_ms: None,
        };
        assert_eq!(Session::read(snapshot).is_some(), readable);
    }
}
