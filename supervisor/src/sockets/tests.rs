//! Where each socket comes from.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    process::{Child, Command},
    thread,
    time::SystemTime,
};

use command_fds::{CommandFdExt as _, FdMapping};
use gatehouse_chassis::config::{Config as _, ListenAddr, Reader, Source};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use tempfile::TempDir;

use super::*;
use crate::component::roll;

struct House {
    dir: TempDir,
    shared: Arc<Shared>,
    listen: Listen,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let env = [("GATEWAY_STATE_DIR", path), ("GATEWAY_RUNTIME_DIR", path), ("GATEWAY_REDIS_MASTER_ADDR", "h:1")];
        let env = [&env[..], &[("GATEWAY_REDIS_PASSWORD", "p")]].concat();
        let shared = Arc::new(Shared::read(&mut Reader::new(Source::of("", &env))).unwrap());
        let any = ListenAddr("127.0.0.1:0".parse().unwrap());
        Self { dir, shared, listen: Listen { http: any, grpc: any, admin: None, push: None } }
    }

    fn open(&self, inherited: &mut Inherited, orphans: &[(Component, u32)]) -> Result<Sockets, OpenError> {
        Sockets::open(&self.listen, &self.shared, &roll(&self.shared, 2), inherited, orphans)
    }

    /// The number alone would pass on to the next.
    fn inode(&self, name: &str) -> (u64, SystemTime) {
        let found = fs::metadata(self.dir.path().join(name)).unwrap();
        (found.ino(), found.created().unwrap())
    }
}

/// A process that holds what a component is lent, and nothing else of ours.
struct Holder(Child);

impl Holder {
    fn of(sockets: &Sockets, component: Component) -> Self {
        let lent = sockets.lend(component, 0).unwrap();
        let names: Vec<_> = lent.iter().map(|(name, _)| *name).collect();
        let mut command = Command::new("sleep");
        command.arg("600").env("LISTEN_FDNAMES", names.join(":"));
        let mappings = (3..).zip(lent).map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd }).collect();
        Self(command.fd_mappings(mappings).unwrap().spawn().unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn address(sockets: &Sockets, name: &str) -> String {
    sockets.listed().into_iter().find(|listener| listener.name == name).unwrap().address
}

#[test]
fn living_children_of_a_dead_supervisor_give_their_sockets_and_keep_them() {
    let house = House::new();
    let first = house.open(&mut Inherited::default(), &[]).unwrap();
    assert!(first.is_new(Component::Edge, 0));
    let (edge, admin) = (Holder::of(&first, Component::Edge), Holder::of(&first, Component::Admin));
    let (http, grpc) = (address(&first, "http"), address(&first, "grpc"));
    let (edge_sock, pusher_sock) = (house.inode("edge.sock"), house.inode("pusher-0.sock"));
    drop(first);
    // Comes while there is no supervisor.
    let _queued = TcpStream::connect(&http).unwrap();

    // One that has gone meanwhile is passed over.
    let next = house
        .open(
            &mut Inherited::default(),
            &[(Component::Edge, u32::MAX >> 1), (Component::Admin, admin.0.id()), (Component::Edge, edge.0.id())],
        )
        .unwrap();
    assert_eq!((address(&next, "http"), address(&next, "grpc")), (http.clone(), grpc));
    assert_eq!(house.inode("edge.sock"), edge_sock, "the edge still listens there");
    assert_ne!(house.inode("pusher-0.sock"), pusher_sock, "nobody did");
    assert!(!next.is_new(Component::Edge, 0) && !next.is_new(Component::Admin, 0) && next.is_new(Component::Pusher, 0));
    let (_, http_fd) = next.public().unwrap().remove(0);
    TcpListener::from(http_fd).accept().unwrap();
    UnixStream::connect(house.dir.path().join("edge.sock")).unwrap();
}

#[test]
fn a_child_whose_path_is_gone_is_told_apart_for_nobody_reaches_it() {
    let house = House::new();
    let first = house.open(&mut Inherited::default(), &[]).unwrap();
    let edge = Holder::of(&first, Component::Edge);
    drop(first);
    fs::remove_file(house.dir.path().join("edge.sock")).unwrap();
    let next = house.open(&mut Inherited::default(), &[(Component::Edge, edge.0.id())]).unwrap();
    assert!(next.is_new(Component::Edge, 0));
    UnixStream::connect(house.dir.path().join("edge.sock")).unwrap();
}

#[test]
fn what_the_kernel_refuses_is_bound_anew_but_for_an_address_that_its_holder_keeps() {
    let mut house = House::new();
    let first = house.open(&mut Inherited::default(), &[]).unwrap();
    let edge = Holder::of(&first, Component::Edge);
    let handed_on = |name| first.handed_on().unwrap().into_iter().find(|(found, _)| found == name).unwrap().1;
    let (http, grpc, inode) = (address(&first, "http"), address(&first, "grpc"), house.inode("edge.sock"));
    let mut inherited = Inherited::of([("http", handed_on("http"))]);
    drop(first);
    // Whoever has no privileges may not look into a process that has some; without any (not root) nothing of pid 1 may be seen.
    let other = if nix::unistd::geteuid().is_root() { edge.0.id() } else { 1 };
    let mut open = |house: &House| {
        let open = || {
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, none).unwrap();
            house.open(&mut inherited, &[(Component::Auditor, other), (Component::Edge, other)])
        };
        thread::scope(|scope| scope.spawn(open).join().unwrap())
    };
    house.listen.grpc = ListenAddr(grpc.parse().unwrap());
    let OpenError::Held(held) = open(&house).unwrap_err() else { panic!("the edge has it") };
    let words = held.to_string();
    for part in ["cannot be taken over", "FileDescriptorStoreMax=", &format!("listen.grpc: {grpc} cannot be bound beside them")] {
        assert!(words.contains(part), "{part} in {words}");
    }
    assert_eq!(held.components, BTreeSet::from([Component::Edge]));
    assert_eq!(house.inode("edge.sock"), inode, "nothing is touched");

    // What a stranger has is no reason to end anybody.
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    house.listen.grpc = ListenAddr(stranger.local_addr().unwrap());
    let error = open(&house).unwrap_err();
    assert!(matches!(&error, OpenError::Unusable(why) if why.starts_with("listen.grpc: ")), "{error}");
    assert_eq!(house.inode("edge.sock"), inode, "nothing is touched");

    // One that can be bound beside the old one.
    house.listen.grpc = ListenAddr("127.0.0.1:0".parse().unwrap());
    let next = open(&house).unwrap();
    assert_eq!(address(&next, "http"), http, "it was handed on");
    assert_ne!(house.inode("edge.sock"), inode);
    assert!(next.is_new(Component::Edge, 0));
    drop(edge);
}

#[test]
fn what_was_handed_over_and_does_not_fit_is_closed_and_bound_anew() {
    let house = House::new();
    let first = house.open(&mut Inherited::default(), &[]).unwrap();
    let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
    let (stale, http) = (elsewhere.local_addr().unwrap(), address(&first, "http"));
    let mut kept: BTreeMap<_, _> = first.handed_on().unwrap().into_iter().collect();
    drop(first);
    let mut inherited = Inherited::of([("grpc", OwnedFd::from(elsewhere)), ("http", kept.remove("http").unwrap())]);
    for name in ["control", "local.edge-0", "local.pusher-1"] {
        inherited.insert(name, kept.remove(name).unwrap());
    }
    drop(kept);
    let unknown = TcpListener::bind("127.0.0.1:0").unwrap();
    inherited.insert("push", unknown.try_clone().unwrap().into());
    inherited.insert("bin.edge", tempfile::tempfile().unwrap().into());
    let (edge, control) = (house.inode("edge.sock"), house.inode("supervisor.sock"));
    fs::remove_file(house.dir.path().join("pusher-1.sock")).unwrap();

    let next = house.open(&mut inherited, &[]).unwrap();
    assert_eq!(address(&next, "http"), http);
    assert!(address(&next, "grpc").starts_with("127.0.0.1:"));
    assert!(TcpStream::connect(stale).is_err(), "nobody would ever accept there");
    assert_eq!((house.inode("edge.sock"), house.inode("supervisor.sock")), (edge, control));
    UnixStream::connect(house.dir.path().join("pusher-1.sock")).unwrap();
    // What is no socket of ours is left to whoever asks for it.
    assert_eq!(inherited.names().collect::<Vec<_>>(), ["bin.edge"]);
}

#[test]
fn an_instance_more_and_one_less_touch_no_other() {
    let house = House::new();
    let mut sockets = house.open(&mut Inherited::default(), &[]).unwrap();
    let before = house.inode("pusher-1.sock");
    sockets.add_local(Component::Pusher, 2).unwrap();
    sockets.add_local(Component::Pusher, 1).unwrap();
    assert_eq!(house.inode("pusher-1.sock"), before, "it was there");
    let names =
        |sockets: &Sockets, instance| sockets.lend(Component::Pusher, instance).unwrap().into_iter().map(|lent| lent.0).collect::<Vec<_>>();
    assert_eq!(names(&sockets, 2), ["local"]);
    UnixStream::connect(house.dir.path().join("pusher-2.sock")).unwrap();
    sockets.remove_local(Component::Pusher, 2);
    assert!(names(&sockets, 2).is_empty() && !house.dir.path().join("pusher-2.sock").exists());
    sockets.close();
    assert!(!house.dir.path().join("pusher-1.sock").exists() && !house.dir.path().join("supervisor.sock").exists());
}

#[test]
fn a_start_that_fails_leaves_what_it_found() {
    let mut house = House::new();
    let first = house.open(&mut Inherited::default(), &[]).unwrap();
    let mut inherited = Inherited::default();
    for (name, fd) in first.handed_on().unwrap().into_iter().filter(|(name, _)| name != "http" && name != "local.admin-0") {
        inherited.insert(&name, fd);
    }
    drop(first);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    house.listen.http = ListenAddr(taken.local_addr().unwrap());
    let (given, edge) = (inherited.names().count(), house.inode("edge.sock"));
    let error = house.open(&mut inherited, &[]).unwrap_err();
    assert!(error.to_string().starts_with("listen.http: "), "{error}");
    assert_eq!((inherited.names().count(), house.inode("edge.sock")), (given, edge));
    assert!(!house.dir.path().join("admin.sock").exists(), "it was bound for nothing");
}
