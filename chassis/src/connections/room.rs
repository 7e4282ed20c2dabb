//! How many may be inside at once, in all and from one address.
//!
//! An address is an IPv4 address or an IPv6 network of 64 bits, for that is what one customer of a provider has to choose from. Every count is held by a
//! [`Place`] and falls when that is dropped, however its connection ends.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What the public listeners of a process have together.
#[derive(Debug)]
pub(super) struct Room {
    in_all: usize,
    of_each: usize,
    taken: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    address: Option<IpAddr>,
}

impl Room {
    pub(super) fn new(in_all: usize, of_each: usize) -> Arc<Self> {
        Arc::new(Self { in_all, of_each, taken: AtomicUsize::default(), by_address: Mutex::default() })
    }

    /// A place, if there is one.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let room_left = |taken| (taken < self.in_all).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, room_left).ok()?;
        Some(Place { room: Arc::clone(self), address: None })
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Says whose it is. Whether that address may have one more.
    pub(super) fn claim(&mut self, address: IpAddr) -> bool {
        let address = customer(address);
        let mut addresses = self.room.addresses();
        let count = addresses.entry(address).or_default();
        if *count >= self.room.of_each {
            return false;
        }
        *count += 1;
        drop(addresses);
        self.release();
        self.address = Some(address);
        true
    }

    fn release(&mut self) {
        let Some(address) = self.address.take() else { return };
        let mut addresses = self.room.addresses();
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.release();
        self.room.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The address by which one is counted; a socket of both families has IPv4 ones inside IPv6.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(room: &Arc<Room>, address: &str) -> Option<Place> {
        let mut place = room.enter()?;
        place.claim(address.parse().unwrap()).then_some(place)
    }

    #[test]
    fn there_are_so_many_places_in_all_and_one_that_is_left_is_free_again() {
        let room = Room::new(2, 2);
        let (first, _second) = (room.enter().unwrap(), room.enter().unwrap());
        assert!(room.enter().is_none());
        drop(first);
        assert!(room.enter().is_some());
    }

    #[test]
    fn one_address_has_its_share_whichever_way_it_is_written_and_another_its_own() {
        let room = Room::new(100, 2);
        let (_first, second) = (at(&room, "192.0.2.1").unwrap(), at(&room, "::ffff:192.0.2.1").unwrap());
        assert!(at(&room, "192.0.2.1").is_none());
        assert!(at(&room, "192.0.2.2").is_some());
        drop(second);
        assert!(at(&room, "192.0.2.1").is_some());
    }

    #[test]
    fn ipv6_is_counted_by_networks_of_64_bits() {
        let room = Room::new(100, 1);
        let _first = at(&room, "2001:db8:0:1::1").unwrap();
        assert!(at(&room, "2001:db8:0:1:ffff::2").is_none());
        assert!(at(&room, "2001:db8:0:2::1").is_some());
    }

    #[test]
    fn nothing_is_remembered_of_those_who_left() {
        let room = Room::new(10, 1);
        for i in 0..1000 {
            assert!(at(&room, &format!("10.0.{}.{}", i / 256, i % 256)).is_some());
        }
        let mut proxied = at(&room, "10.0.0.1").unwrap();
        assert!(proxied.claim("192.0.2.1".parse().unwrap()));
        assert_eq!(room.addresses().len(), 1);
        assert!(at(&room, "192.0.2.1").is_none(), "one that is refused leaves no count");
        drop(proxied);
        assert_eq!((room.addresses().len(), room.taken.load(Ordering::Relaxed)), (0, 0));
    }
}
