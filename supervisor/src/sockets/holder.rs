//! Who holds a port or a path: `/proc/net` knows the socket's inode, `/proc/*/fd` who has it open.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use nix::unistd::{Uid, User};
use procfs::{
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, Process},
};

/// The holder of whatever keeps us from listening there, as well as it can be known.
pub(crate) fn of(address: SocketAddr) -> Option<String> {
    let entry = colliding(address).next()?;
    Some(process(entry.inode).unwrap_or_else(|| format!("a process of {}", user(entry.uid))))
}

/// The sockets that keep us from listening there.
pub(crate) fn inodes(address: SocketAddr) -> Vec<u64> {
    colliding(address).map(|entry| entry.inode).collect()
}

fn colliding(address: SocketAddr) -> impl Iterator<Item = TcpNetEntry> {
    let entries = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().flatten().flatten();
    entries.filter(move |entry| entry.state == TcpState::Listen && collide(entry.local_address, address))
}

/// The holder of a socket that is bound to that path.
pub(crate) fn of_path(path: &Path) -> Option<String> {
    let entries = procfs::net::unix().ok()?;
    entries.into_iter().filter(|entry| entry.path.as_deref() == Some(path)).find_map(|entry| process(entry.inode))
}

/// Whether one keeps the other from being bound.
fn collide(held: SocketAddr, wanted: SocketAddr) -> bool {
    let [held_ip, wanted_ip] = [held, wanted].map(|address| address.ip().to_canonical());
    let any = |ip: IpAddr| ip.is_unspecified();
    held.port() == wanted.port() && (held_ip == wanted_ip || any(held_ip) || any(wanted_ip))
}

/// The oldest process that has it open: of a server with workers, the one that an operator knows.
fn process(inode: u64) -> Option<String> {
    let holds = |process: &Process| {
        let fds = process.fd().into_iter().flatten().flatten();
        fds.into_iter().any(|fd| matches!(fd.target, FDTarget::Socket(open) if open == inode))
    };
    let processes = procfs::process::all_processes().ok()?.flatten();
    let stat = processes.filter(holds).filter_map(|process| process.stat().ok()).min_by_key(|stat| (stat.starttime, stat.pid))?;
    Some(format!("{} (pid {})", stat.comm, stat.pid))
}

fn user(uid: u32) -> String {
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    name.map_or_else(|| format!("uid {uid}"), |name| format!("user {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let pid = std::process::id();
        for wanted in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
            let holder = of(wanted.parse().unwrap()).unwrap();
            assert!(holder.ends_with(&format!("(pid {pid})")), "{wanted}: {holder}");
        }
        drop(held);
        assert_eq!(of(SocketAddr::from(([127, 0, 0, 1], port))), None);
    }

    #[test]
    fn one_address_does_not_hold_another() {
        let collides = |held: &str, wanted: &str| collide(held.parse().unwrap(), wanted.parse().unwrap());
        assert!(
            collides("127.0.0.1:1", "127.0.0.1:1") && collides("[::]:1", "127.0.0.1:1") && collides("[::ffff:127.0.0.1]:1", "127.0.0.1:1")
        );
        assert!(!collides("127.0.0.1:1", "127.0.0.2:1") && !collides("127.0.0.1:1", "127.0.0.1:2"));
    }
}
