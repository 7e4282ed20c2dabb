//! Every socket that the suite accepts on: made once, held for as long as the supervisor lives, lent to each generation of a child.
//!
//! Each has one name, in systemd's fd store, from one supervisor to the next, and in the status: `http`, `grpc`, `admin`, `push` are public,
//! `local.edge-0`, `local.pusher-1` are the children's own, `control` is ours. A supervisor that starts takes each from the first of these that has it:
//!
//! ```text
//!   LISTEN_FDS (a socket unit, the fd store, or the supervisor that executed us) ─▶ a living child of a dead supervisor ─▶ a new one, bound
//! ```
//!
//! When the kernel keeps us from taking one from a living child, its local socket is bound anew at once, and the child replaced while it serves. A public
//! address cannot be bound twice: of those that nobody hands on, the children that hold them end first, and only these.
//!
//! Nothing else binds, closes or unlinks one. A child that dies leaves its connections in the queue for the next, and so does a supervisor.

mod bound;
mod holder;
mod place;
mod store;
mod takeover;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::OwnedFd,
    sync::Arc,
};

use gatehouse_chassis::{
    config::Shared,
    exit::{self, Fatal},
    sockets::Inherited,
};
use gatehouse_proto::internal::v1;

use crate::{
    component::{Component, SlotId},
    config::Listen,
    premises::control_socket,
};
use bound::Bound;
pub(crate) use place::path_problem;
use place::{Place, address_of};
use store::Store;
pub(crate) use takeover::Held;
use takeover::Refused;

/// The socket of the operator's command.
const CONTROL: &str = "control";
/// Every public name, configured or not.
const PUBLIC: [&str; 4] = ["http", "grpc", "admin", "push"];

/// The sockets of the suite.
#[derive(Debug)]
pub(crate) struct Sockets {
    all: Vec<Socket>,
    bound: Bound,
    store: Store,
    shared: Arc<Shared>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Living children hold some of them, and the kernel keeps them from us. Nothing was bound or closed: when those children have ended, the same call
    /// binds anew.
    #[error(transparent)]
    Held(#[from] Held),
    /// Addresses that cannot be had; every problem.
    #[error("{0}")]
    Unusable(String),
}

/// One that the configuration asks for.
#[derive(Clone, Debug)]
struct Wanted {
    name: String,
    place: Place,
    child: Option<(Component, u32)>,
}

#[derive(Debug)]
struct Socket {
    wanted: Wanted,
    fd: OwnedFd,
    /// Bound by this supervisor: a child that was there before does not accept on it.
    is_new: bool,
}

impl Sockets {
    /// All that the configuration and `roll` ask for. `orphans` are the children that a dead supervisor has left and that go on serving, by their pids.
    pub(crate) fn open(
        listen: &Listen,
        shared: &Arc<Shared>,
        roll: &[SlotId],
        inherited: &mut Inherited,
        orphans: &[(Component, u32)],
    ) -> Result<Self, OpenError> {
        let wanted = wanted(listen, shared, roll);
        let (mut bound, mut store) = (Bound::open(&shared.runtime_dir), Store::default());
        let mut have = take_inherited(&wanted, inherited, &mut bound, &mut store);
        let missing: Vec<_> = wanted.iter().filter(|wanted| !have.contains_key(&wanted.name)).collect();
        let (found, refused) = takeover::find(&missing, orphans);
        for (name, fd) in found {
            if missing.iter().any(|wanted| wanted.name == name && wanted.is_reached(&bound, &fd)) {
                tracing::info!(socket = name, "taken over from a child of the last supervisor");
                have.insert(name, fd);
            }
        }
        let mut this = Self { all: Vec::new(), bound, store, shared: Arc::clone(shared) };
        let (mut problems, mut held, mut kept_from_us) = (Vec::new(), Vec::new(), Vec::new());
        for wanted in wanted {
            let had = have.remove(&wanted.name);
            if had.is_none() && refused.is_some() && this.is_lent_already(&wanted) {
                kept_from_us.push(wanted);
                continue;
            }
            let holders = if refused.is_some() { this.holders(&wanted, orphans) } else { BTreeSet::new() };
            match this.add(wanted.clone(), had) {
                Err(_) if !holders.is_empty() => held.push((wanted, holders)),
                added => problems.extend(added.err()),
            }
        }
        let error = match (problems.is_empty(), refused) {
            (true, Some(refused)) if !held.is_empty() => held_by(held, refused).into(),
            (true, refused) => match this.bind_anew(kept_from_us, refused) {
                Ok(()) => {
                    this.note_public();
                    this.store.check();
                    return Ok(this);
                }
                Err(problem) => OpenError::Unusable(problem),
            },
            (false, _) => OpenError::Unusable(problems.join("; ")),
        };
        // As if we had not been here.
        for socket in this.all.drain(..) {
            if socket.is_new {
                this.store.forget(&socket.wanted.name);
                socket.unlink(&mut this.bound);
            } else {
                inherited.insert(&socket.wanted.name, socket.fd);
            }
        }
        Err(error)
    }

    /// Whether a supervisor before has bound its path. Whoever listens there is a child of it.
    fn is_lent_already(&self, wanted: &Wanted) -> bool {
        matches!(&wanted.place, Place::Unix(path) if self.bound.is_ours(path))
    }

    /// Which of these children keep us from that address.
    fn holders(&self, wanted: &Wanted, orphans: &[(Component, u32)]) -> BTreeSet<Component> {
        let Place::Tcp(address) = wanted.place else { return BTreeSet::new() };
        let Some(name) = self.bound.name_of(&holder::inodes(address)) else { return BTreeSet::new() };
        orphans.iter().map(|(component, _)| *component).filter(|component| component.public_sockets().contains(&name)).collect()
    }

    /// Paths that lead to sockets of living children, which the kernel keeps from us: from now on they lead to new ones.
    fn bind_anew(&mut self, kept_from_us: Vec<Wanted>, refused: Option<Refused>) -> Result<(), String> {
        if let Some(refused) = refused {
            tracing::warn!("{refused}. Local sockets are bound anew, and who listens on others is replaced while it serves");
        }
        for wanted in kept_from_us {
            if let Place::Unix(path) = &wanted.place {
                // Bound over in any case; one that is still there says so.
                let _absent = fs::remove_file(path);
            }
            self.add(wanted, None)?;
        }
        Ok(())
    }

    fn note_public(&mut self) {
        for socket in self.all.iter().filter(|socket| socket.is_new && matches!(socket.wanted.place, Place::Tcp(_))) {
            self.bound.note_public(&socket.wanted.name, &socket.fd);
        }
    }

    fn add(&mut self, wanted: Wanted, had: Option<OwnedFd>) -> Result<(), String> {
        let is_new = had.is_none();
        let fd = had.map_or_else(|| wanted.place.bind(&wanted.name), Ok)?;
        if let (Place::Unix(path), true) = (&wanted.place, is_new) {
            self.bound.note(path, &fd);
        }
        self.store.keep(&wanted.name, &fd);
        self.all.push(Socket { wanted, fd, is_new });
        Ok(())
    }

    /// Makes the socket of one more instance.
    pub(crate) fn add_local(&mut self, component: Component, instance: u32) -> Result<(), String> {
        let wanted = Wanted::local(&self.shared, component, instance);
        if self.all.iter().any(|socket| socket.wanted.name == wanted.name) {
            return Ok(());
        }
        self.add(wanted, None)?;
        self.store.check();
        Ok(())
    }

    /// Ends the socket of an instance that has ended and comes no more.
    pub(crate) fn remove_local(&mut self, component: Component, instance: u32) {
        let gone: Vec<_> = self.all.extract_if(.., |socket| socket.wanted.child == Some((component, instance))).collect();
        for socket in gone {
            self.store.forget(&socket.wanted.name);
            socket.unlink(&mut self.bound);
        }
    }

    /// What that child is lent, by name. The descriptors are duplicates for it alone.
    pub(crate) fn lend(&self, component: Component, instance: u32) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        let public = component.public_sockets().iter().filter_map(|name| Some((*name, self.named(name)?)));
        let local = self.all.iter().filter(|socket| socket.wanted.child == Some((component, instance)));
        public.chain(local.map(|socket| ("local", socket))).map(|(name, socket)| Ok((name, socket.fd.try_clone()?))).collect()
    }

    /// Whether that child, were it older than this supervisor, would accept on sockets that are no longer these.
    pub(crate) fn is_new(&self, component: Component, instance: u32) -> bool {
        let public = component.public_sockets().iter().filter_map(|name| self.named(name));
        let local = self.all.iter().filter(|socket| socket.wanted.child == Some((component, instance)));
        public.chain(local).any(|socket| socket.is_new)
    }

    /// Those that clients connect to, to answer when no child does.
    pub(crate) fn public(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        PUBLIC.iter().filter_map(|name| Some((*name, self.named(name)?))).map(|(name, socket)| Ok((name, socket.fd.try_clone()?))).collect()
    }

    /// Our own, to be served.
    pub(crate) fn control(&self) -> io::Result<OwnedFd> {
        self.named(CONTROL).ok_or_else(|| io::Error::other("no control socket"))?.fd.try_clone()
    }

    /// Whether nobody who connects to its path comes to us.
    pub(crate) fn control_is_unreached(&self) -> bool {
        self.named(CONTROL).is_some_and(|socket| self.is_unreached(socket))
    }

    /// Binds it again where it was. Who is connected stays so.
    pub(crate) fn bind_control_again(&mut self) -> Result<OwnedFd, String> {
        let lost = self.all.iter().position(|socket| socket.wanted.name == CONTROL).ok_or("there was none")?;
        self.bind_again(lost)?;
        self.control().map_err(|error| error.to_string())
    }

    /// Binds that of an instance again, if its path was removed. For the next process of it; one that runs already accepts on the old one.
    pub(crate) fn restore_local(&mut self, component: Component, instance: u32) -> Result<(), String> {
        let lost = self.all.iter().position(|socket| socket.wanted.child == Some((component, instance)) && self.is_unreached(socket));
        lost.map_or(Ok(()), |lost| self.bind_again(lost))
    }

    fn is_unreached(&self, socket: &Socket) -> bool {
        matches!(&socket.wanted.place, Place::Unix(path) if !self.bound.leads_to(path, &socket.fd))
    }

    fn bind_again(&mut self, lost: usize) -> Result<(), String> {
        let wanted = self.all[lost].wanted.clone();
        // The old one stays if this fails.
        let fd = wanted.place.bind(&wanted.name)?;
        if let Place::Unix(path) = &wanted.place {
            self.bound.note(path, &fd);
        }
        self.store.forget(&wanted.name);
        self.store.keep(&wanted.name, &fd);
        tracing::error!(socket = wanted.name, "{} had been removed; it is bound again", wanted.place);
        self.all[lost] = Socket { wanted, fd, is_new: true };
        Ok(())
    }

    /// All of them with their names, for the supervisor that is executed in our place.
    pub(crate) fn handed_on(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        self.all.iter().map(|socket| Ok((socket.wanted.name.clone(), socket.fd.try_clone()?))).collect()
    }

    /// For the status.
    pub(crate) fn listed(&self) -> Vec<v1::Listener> {
        self.all.iter().map(|socket| v1::Listener { name: socket.wanted.name.clone(), address: address_of(&socket.fd) }).collect()
    }

    /// The suite has ended, and everybody who was lent one: no path stays, but for those that systemd bound. Clients may wait in the public ones while
    /// systemd starts the next suite.
    pub(crate) fn close(&mut self) {
        for socket in self.all.iter().filter(|socket| matches!(socket.wanted.place, Place::Unix(_))) {
            self.store.forget(&socket.wanted.name);
            socket.unlink(&mut self.bound);
        }
    }

    fn named(&self, name: &str) -> Option<&Socket> {
        self.all.iter().find(|socket| socket.wanted.name == name)
    }
}

impl Socket {
    fn unlink(&self, bound: &mut Bound) {
        if let Place::Unix(path) = &self.wanted.place {
            bound.unlink(path, &self.fd);
        }
    }
}

impl Wanted {
    fn local(shared: &Shared, component: Component, instance: u32) -> Self {
        let name = format!("local.{}-{instance}", component.name());
        Self { name, place: Place::Unix(shared.local_socket(component.name(), instance)), child: Some((component, instance)) }
    }

    /// Its name among those that a child is lent.
    fn lent_as(&self) -> &str {
        if self.child.is_some() { "local" } else { &self.name }
    }

    /// Whether who connects comes to that socket.
    fn is_reached(&self, bound: &Bound, fd: &OwnedFd) -> bool {
        match &self.place {
            Place::Unix(path) if !bound.leads_to(path, fd) => {
                tracing::warn!(socket = self.name, "its path {} is gone or leads to another; it is bound anew", path.display());
                false
            }
            _ => true,
        }
    }
}

fn wanted(listen: &Listen, shared: &Shared, roll: &[SlotId]) -> Vec<Wanted> {
    let public =
        listen.named().into_iter().map(|(name, address)| Wanted { name: name.to_owned(), place: Place::Tcp(address), child: None });
    let ours = roll.iter().filter(|slot| slot.component.is_ours());
    let local = ours.map(|slot| Wanted::local(shared, slot.component, slot.instance));
    let control = Wanted { name: CONTROL.to_owned(), place: Place::Unix(control_socket(shared)), child: None };
    public.chain(local).chain([control]).collect()
}

/// Those of the wanted that came with us and listen where they should. The others of our names are closed: nobody would ever accept on them.
fn take_inherited(wanted: &[Wanted], inherited: &mut Inherited, bound: &mut Bound, store: &mut Store) -> BTreeMap<String, OwnedFd> {
    let mut have = BTreeMap::new();
    let names: Vec<_> = inherited.names().filter(|name| is_ours(name)).map(ToOwned::to_owned).collect();
    let mut closed = false;
    for name in names {
        let Some(fd) = inherited.take_fd(&name) else { continue };
        let wanted = wanted.iter().find(|wanted| wanted.name == name);
        let fits = wanted.map_or_else(|| Err("is not in the configuration".to_owned()), |wanted| wanted.place.check(&fd));
        match fits {
            Ok(()) if wanted.is_some_and(|wanted| wanted.is_reached(bound, &fd)) => {
                store.has(&name);
                have.insert(name, fd);
                continue;
            }
            Ok(()) => {}
            Err(why) => tracing::warn!(socket = name, "the socket that was handed over {why}; it is closed"),
        }
        if let Some(path) = socket2::SockRef::from(&fd).local_addr().ok().and_then(|address| Some(address.as_pathname()?.to_owned())) {
            bound.unlink(&path, &fd);
        }
        store.forget(&name);
        closed = true;
    }
    if closed {
        // Its address may be needed at once.
        Store::settle();
    }
    have
}

fn held_by(held: Vec<(Wanted, BTreeSet<Component>)>, refused: Refused) -> Held {
    let addresses = held.iter().map(|(wanted, _)| format!("listen.{}: {}", wanted.name, wanted.place)).collect();
    Held { addresses, components: held.into_iter().flat_map(|(_, components)| components).collect(), refused }
}

fn is_ours(name: &str) -> bool {
    PUBLIC.contains(&name) || name == CONTROL || name.starts_with("local.")
}

impl From<OpenError> for Fatal {
    fn from(error: OpenError) -> Self {
        let code = if matches!(error, OpenError::Held(_)) { exit::TRY_AGAIN } else { exit::CONFIG };
        Self { code, message: error.to_string() }
    }
}

#[cfg(test)]
mod tests;
