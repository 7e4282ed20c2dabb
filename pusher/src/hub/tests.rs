use std::task::Waker;

use gatehouse_chassis::{
    Process,
    config::{Config as _, Reader, Shared, Source},
    sockets::Inherited,
};
use gatehouse_proto::keys::Signer;
use proptest::{collection::vec, prelude::*};
use std::time::Duration;

use super::*;
use crate::{backlog::Bounds, entry::tests::event, seat::Taken};

const DEVICES: [(&str, &str); 4] = [("a", "a1"), ("a", "a2"), ("a", "a2"), ("b", "b1")];

#[derive(Clone, Debug)]
enum Step {
    Publish { user: usize, device: Option<usize>, payload: usize },
    Advance(u64),
    Join(usize),
    Leave(usize),
    Read(usize, usize),
    Sweep,
    Revoke(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = || 0..DEVICES.len();
    let step = prop_oneof![
        8 => (client(), prop::option::weighted(0.3, client()), 0_usize..3000)
            .prop_map(|(user, device, payload)| Step::Publish { user, device, payload }),
        2 => (1_u64..5).prop_map(Step::Advance),
        3 => client().prop_map(Step::Join),
        1 => client().prop_map(Step::Leave),
        4 => (client(), 1_usize..8).prop_map(|(client, count)| Step::Read(client, count)),
        1 => Just(Step::Sweep),
        1 => client().prop_map(Step::Revoke),
    ];
    vec(step, 1..120)
}

fn hub(log_bytes: usize) -> Arc<Hub> {
    let mut reader = Reader::new(Source::of("", &[]));
    let process = Process::new("pusher", 0, Shared::read(&mut reader).unwrap(), Inherited::default());
    let bounds = Bounds { events: 5, bytes: 6000, age: Duration::from_secs(30) };
    let settings = Push { log_bytes, bounds, bookmark_interval: Duration::ZERO, retry_after: Duration::ZERO };
    Arc::new(Hub::new(
        settings,
        Keys::single(Signer::from_seed(&[1; 32])),
        PushMetrics::new(&process),
        Log::new(log_bytes, at(10)),
        at(10),
        at(10),
    ))
}

const fn at(ms: u64) -> StreamId {
    StreamId { ms, seq: 0 }
}

/// A client that resumes from where it was, and what it got.
#[derive(Default)]
struct Client {
    place: Option<Place>,
    page: VecDeque<Arc<Entry>>,
    begin: Option<StreamId>,
    cursor: Option<StreamId>,
    got: Vec<StreamId>,
}

impl Client {
    fn join(&mut self, hub: &Arc<Hub>, (user, device): (&str, &str)) {
        self.leave();
        let place = hub.join(user, device, self.cursor).unwrap();
        self.begin.get_or_insert(place.seat().cursor());
        self.cursor.get_or_insert(place.seat().cursor());
        self.place = Some(place);
    }

    fn leave(&mut self) {
        self.place = None;
        self.page.clear();
    }

    /// What a stream does when it is polled, up to `count` events. False when there is nothing to read.
    fn read(&mut self, hub: &Hub, archive: &[Arc<Entry>], count: usize) -> bool {
        let now = Instant::now();
        let (mut left, mut turns) = (count, 0);
        while left > 0 {
            turns += 1;
            assert!(turns < 10_000, "a stream that gets nowhere");
            let Some(place) = &self.place else { return false };
            let seat = place.seat();
            if seat.listen(Waker::noop()).is_some() {
                assert_eq!(Some(seat.cursor()), self.cursor, "the verdict says what the client holds");
                self.leave();
                return false;
            }
            if let Some(entry) = self.page.pop_front() {
                if seat.take(&entry, now) != Taken::Known {
                    assert!(Some(entry.id) > self.cursor, "ids ascend");
                    (self.cursor, left) = (Some(entry.id), left - 1);
                    self.got.push(entry.id);
                }
                continue;
            }
            match hub.refill(seat, now) {
                Refill::Page(page) => self.page = page,
                Refill::Archive { after, until } => {
                    let mut rest = archive.iter().filter(|entry| entry.id > after && entry.id <= until);
                    let raw: Vec<_> = rest.by_ref().take(3).collect();
                    let last = if rest.next().is_some() { raw.last().map_or(until, |entry| entry.id) } else { until };
                    let mine = raw.into_iter().filter(|entry| entry.event.user_id == seat.user_id && seat.wants(entry));
                    self.page = mine.map(|entry| Arc::new(Entry::new(entry.id, entry.event.clone()))).collect();
                    seat.skip_to(last);
                }
                Refill::Bookmark(id) => {
                    assert!(Some(id) > self.cursor, "ids ascend");
                    self.cursor = Some(id);
                }
                Refill::Idle => return false,
            }
        }
        true
    }
}

proptest! {
    #[test]
    fn whatever_happens_every_client_gets_its_events_once_and_in_order(steps in steps(), log_bytes in 1_usize..60_000) {
        let hub = hub(log_bytes);
        let (mut published, mut now) = (Vec::<Arc<Entry>>::new(), 10);
        let mut clients: Vec<Client> = DEVICES.iter().map(|_| Client::default()).collect();
        for step in steps {
            match step {
                Step::Publish { user, device, payload } => {
                    now += 1;
                    let event = event(DEVICES[user].0, device.map(|device| DEVICES[device].1), payload);
                    published.push(Arc::new(Entry::new(at(now), event.clone())));
                    hub.publish(Entry::new(at(now), event), Instant::now());
                }
                Step::Advance(by) => {
                    now += by;
                    hub.advance(at(now));
                }
                Step::Join(client) => clients[client].join(&hub, DEVICES[client]),
                Step::Leave(client) => clients[client].leave(),
                Step::Read(client, count) => {
                    clients[client].read(&hub, &published, count);
                }
                Step::Sweep => hub.sweep(Instant::now()),
                Step::Revoke(client) => hub.revoke(DEVICES[client].1),
            }
        }
        for (client, device) in clients.iter_mut().zip(DEVICES) {
            while client.read(&hub, &published, 100) {}
            client.join(&hub, device);
            while client.read(&hub, &published, 100) {}
            let wanted = published.iter().filter(|entry| {
                Some(entry.id) > client.begin && entry.event.user_id == device.0 && entry.event.is_for_device(device.1)
            });
            prop_assert_eq!(&client.got, &wanted.map(|entry| entry.id).collect::<Vec<_>>());
        }
        drop(clients);
        prop_assert!(hub.state().users.is_empty() && hub.state().devices.is_empty());
        prop_assert_eq!(*hub.open.borrow(), 0);
    }
}

#[test]
fn an_event_behind_the_horizon_still_reaches_streams_that_have_not_passed_it() {
    let hub = hub(60_000);
    let place = hub.join("a", "a1", Some(at(10))).unwrap();
    hub.advance(at(20));
    hub.publish(Entry::new(at(15), event("a", None, 1)), Instant::now());
    assert!(matches!(hub.refill(place.seat(), Instant::now()), Refill::Page(page) if page[0].id == at(15)));
    assert_eq!(hub.metrics.late.get(), 1);
    hub.publish(Entry::new(at(15), event("a", None, 1)), Instant::now());
    assert_eq!(hub.metrics.stale.get(), 1, "an id that was passed is nobody's event");
}

#[tokio::test]
async fn a_hub_that_closes_ends_many_streams_lot_by_lot_and_serves_the_others_until_it_is_their_turn() {
    let hub = hub(60_000);
    let places: Vec<_> = (0..1000).map(|i| hub.join(&i.to_string(), &i.to_string(), None).unwrap()).collect();
    let ended = || places.iter().filter(|place| place.seat().listen(Waker::noop()).is_some()).count();
    let closing = hub.close(Duration::from_millis(50));
    let watching = async {
        let mut seen = vec![0];
        while seen.last() < Some(&1000) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let now = ended();
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        seen
    };
    // However long this thread does not run: it looks before it ends the next lot.
    let (seen, ()) = tokio::join!(biased; watching, closing);
    assert!(seen.windows(2).all(|step| step[1] - step[0] <= 200), "{seen:?}");
    assert_eq!(hub.join("late", "late", None).err(), Some(Closed));
}

#[tokio::test]
async fn a_closed_hub_takes_nobody_and_is_empty_when_the_last_has_left() {
    let hub = hub(60_000);
    let place = hub.join("a", "a1", None).unwrap();
    hub.close(Duration::ZERO).await;
    assert_eq!(place.seat().listen(Waker::noop()), Some(Ending::ShuttingDown));
    assert_eq!(hub.join("a", "a1", None).err(), Some(Closed));
    assert_eq!(*hub.open.borrow(), 1);
    drop(place);
    assert_eq!(*hub.open.borrow(), 0);
}

#[test]
fn an_idle_stream_is_not_sent_to_redis_for_what_memory_forgot_meanwhile() {
    let hub = hub(3000);
    let place = hub.join("a", "a1", None).unwrap();
    for ms in 11..40 {
        hub.publish(Entry::new(at(ms), event("b", None, 100)), Instant::now());
    }
    assert!(!hub.remembers(at(10)));
    hub.publish(Entry::new(at(40), event("a", None, 1)), Instant::now());
    assert!(matches!(hub.refill(place.seat(), Instant::now()), Refill::Page(page) if page.len() == 1));
}
