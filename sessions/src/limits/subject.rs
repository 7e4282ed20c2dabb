//! What a command is counted by.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr},
};

use crate::config::limit::{Limit, Per};

/// The bits of an IPv6 address that tell sites apart; the others a host chooses for itself.
const SITE: u128 = !0 << 64;

/// Whose command, of which type, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) device_session_id: &'a str,
    pub(crate) user_id: &'a str,
    pub(crate) message_type: &'a str,
    /// None on a unix socket, whose peers have none.
    pub(crate) address: Option<IpAddr>,
}

impl<'a> Subject<'a> {
    /// The key under which that limit counts it; `None` when it does not count it.
    pub(super) fn key(&self, limit: &Limit) -> Option<Cow<'a, str>> {
        if limit.message_type.as_ref().is_some_and(|pattern| !pattern.matches(self.message_type)) {
            return None;
        }
        Some(match limit.per {
            Per::Session => Cow::Borrowed(self.device_session_id),
            Per::User => Cow::Borrowed(self.user_id),
            Per::MessageType => Cow::Borrowed(self.message_type),
            Per::Address => Cow::Owned(site(self.address?)),
            Per::All => Cow::Borrowed(""),
        })
    }
}

fn site(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{}/64", Ipv6Addr::from_bits(address.to_bits() & SITE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limit::{Rate, Scope};

    fn limit(per: Per, pattern: Option<&str>) -> Limit {
        let rate = "1".parse::<Rate>().unwrap();
        let message_type = pattern.map(|pattern| pattern.parse().unwrap());
        Limit { name: "l".into(), per, message_type, rate, burst: 1, scope: Scope::Local }
    }

    #[test]
    fn each_is_counted_by_its_own() {
        let address = |text: &str| Some(text.parse().unwrap());
        let subject = |address| Subject { device_session_id: "ds-1", user_id: "u-1", message_type: "orders.create", address };
        let key = |per, from| subject(from).key(&limit(per, None)).map(Cow::into_owned);
        assert_eq!(key(Per::Session, None).as_deref(), Some("ds-1"));
        assert_eq!(key(Per::User, None).as_deref(), Some("u-1"));
        assert_eq!(key(Per::MessageType, None).as_deref(), Some("orders.create"));
        assert_eq!(key(Per::All, None).as_deref(), Some(""));
        assert_eq!(key(Per::Address, None), None);
        assert_eq!(key(Per::Address, address("192.0.2.7")).as_deref(), Some("192.0.2.7"));
        assert_eq!(key(Per::Address, address("::ffff:192.0.2.7")).as_deref(), Some("192.0.2.7"), "the same peer");
        assert_eq!(key(Per::Address, address("2001:db8:1:2:3:4:5:6")).as_deref(), Some("2001:db8:1:2::/64"));
        assert_eq!(key(Per::Address, address("2001:db8:1:2::9")).as_deref(), Some("2001:db8:1:2::/64"));
    }

    #[test]
    fn other_message_types_are_not_counted() {
        let subject = Subject { device_session_id: "ds-1", user_id: "u-1", message_type: "orders.create", address: None };
        assert!(subject.key(&limit(Per::User, Some("orders.*"))).is_some());
        assert!(subject.key(&limit(Per::User, Some("orders.list"))).is_none());
    }
}
