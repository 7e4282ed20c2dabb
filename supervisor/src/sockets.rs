//! Every socket that the suite accepts on: bound once, held for as long as the supervisor lives, lent to each generation of a child.
//!
//! Nothing else binds, closes or unlinks one. A child that dies leaves its connections in the queue for the next.

mod holder;

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use gatehouse_chassis::{config::Shared, sockets::Inherited};
use gatehouse_proto::internal::v1;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    component::{Component, SlotId, label},
    config::Listen,
};

/// Connections that wait while a child is replaced. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// `sun_path` with its final NUL.
const MAX_UNIX_PATH: usize = 107;

/// The sockets of the suite.
#[derive(Debug)]
pub(crate) struct Sockets {
    public: Vec<Public>,
    local: Vec<Local>,
    directory: PathBuf,
}

#[derive(Debug)]
struct Public {
    name: &'static str,
    address: String,
    fd: OwnedFd,
}

#[derive(Debug)]
struct Local {
    component: Component,
    instance: u32,
    path: PathBuf,
    fd: OwnedFd,
}

impl Sockets {
    /// Binds what was not inherited. Every problem at once.
    pub(crate) fn bind(listen: &Listen, shared: &Shared, slots: &[SlotId], inherited: &mut Inherited) -> Result<Self, String> {
        let (mut public, mut local, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (name, address) in listen.named() {
            match inherited.take_fd(name).map_or_else(|| bind_tcp(name, address), Ok) {
                Ok(fd) => public.push(Public { name, address: address_of(&fd), fd }),
                Err(problem) => problems.push(problem),
            }
        }
        for SlotId { component, instance } in slots.iter().copied().filter(|slot| slot.component.is_ours()) {
            let path = shared.local_socket(component.name(), instance);
            match bind_unix(&path) {
                Ok(fd) => local.push(Local { component, instance, path, fd }),
                Err(problem) => problems.push(problem),
            }
        }
        let directory = shared.runtime_dir.clone();
        if problems.is_empty() { Ok(Self { public, local, directory }) } else { Err(problems.join("; ")) }
    }

    /// Binds the local socket of a new instance.
    pub(crate) fn add_local(&mut self, component: Component, instance: u32) -> Result<(), String> {
        let path = self.directory.join(format!("{}.sock", label(SlotId { component, instance })));
        let fd = bind_unix(&path)?;
        self.local.push(Local { component, instance, path, fd });
        Ok(())
    }

    /// Closes that of an instance that is gone.
    pub(crate) fn remove_local(&mut self, component: Component, instance: u32) {
        self.local.retain(|socket| {
            let gone = (socket.component, socket.instance) == (component, instance);
            if gone {
                let _absent = fs::remove_file(&socket.path);
            }
            !gone
        });
    }

    /// What that child is lent, by name. The descriptors are duplicates for it alone.
    pub(crate) fn lend(&self, component: Component, instance: u32) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        let public =
            self.public.iter().filter(|socket| component.public_sockets().contains(&socket.name)).map(|socket| (socket.name, &socket.fd));
        let local = self.local.iter().filter(|socket| (socket.component, socket.instance) == (component, instance));
        public.chain(local.map(|socket| ("local", &socket.fd))).map(|(name, fd)| Ok((name, fd.try_clone()?))).collect()
    }

    /// For the status.
    pub(crate) fn listed(&self) -> Vec<v1::Listener> {
        let public = self.public.iter().map(|socket| (socket.name.to_owned(), socket.address.clone()));
        // By its file's name, `admin.sock`: the public listener of a component may have the component's.
        let name = |socket: &Local| socket.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let local = self.local.iter().map(|socket| (name(socket), format!("unix:{}", socket.path.display())));
        public.chain(local).map(|(name, address)| v1::Listener { name, address }).collect()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // All who were lent them have ended. Those of systemd stay.
        for socket in &self.local {
            // Somebody was quicker.
            let _absent = fs::remove_file(&socket.path);
        }
    }
}

/// What keeps a path from being a socket's, if something does.
pub(crate) fn path_problem(path: &Path) -> Option<String> {
    let length = path.as_os_str().len();
    let problem = || {
        format!(
            "{}: the path of a unix socket has at most {MAX_UNIX_PATH} bytes, this one {length}; set a shorter GATEWAY_RUNTIME_DIR",
            path.display()
        )
    };
    (length > MAX_UNIX_PATH).then(problem)
}

/// Binds a local socket, 0660. One that a dead supervisor left is replaced.
pub(crate) fn bind_unix(path: &Path) -> Result<OwnedFd, String> {
    if let Some(problem) = path_problem(path) {
        return Err(problem);
    }
    let bind = || {
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::other("something that is no socket is there already")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        socket.listen(BACKLOG)?;
        Ok(OwnedFd::from(socket))
    };
    bind().map_err(|error: io::Error| format!("{} cannot be bound: {error}", path.display()))
}

fn bind_tcp(name: &str, address: SocketAddr) -> Result<OwnedFd, String> {
    let bound = match listen_tcp(address) {
        // No IPv6 on this machine: every address is every IPv4 address.
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            listen_tcp((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    };
    bound.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => {
                holder::of(address).map_or_else(|| "the address is in use".to_owned(), |holder| format!("held by {holder}"))
            }
            io::ErrorKind::PermissionDenied if address.port() < 1024 => {
                format!("{error}; ports below 1024 need CAP_NET_BIND_SERVICE")
            }
            _ => error.to_string(),
        };
        format!("listen.{name}: {address} cannot be bound: {why}")
    })
}

fn listen_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The address as it is, with the port that the kernel chose.
fn address_of(fd: &OwnedFd) -> String {
    let socket = socket2::SockRef::from(fd);
    let address = socket.local_addr().ok();
    let inet = address.as_ref().and_then(SockAddr::as_socket);
    let unix = || address.as_ref().and_then(|address| Some(format!("unix:{}", address.as_pathname()?.display())));
    inet.map(|address| address.to_string()).or_else(unix).unwrap_or_default()
}

#[cfg(test)]
mod tests;
