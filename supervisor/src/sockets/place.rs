//! Where a socket is wanted: how it is bound there, and whether one that comes from elsewhere is there already.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::holder;

/// Connections that wait while a child is replaced. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// `sun_path` with its final NUL.
const MAX_UNIX_PATH: usize = 107;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Port 0 is whichever port the kernel chose.
    Tcp(SocketAddr),
    /// A path.
    Unix(PathBuf),
}

impl Place {
    /// Whether that descriptor is a socket that listens here; if not, what it is instead.
    pub(crate) fn check(&self, fd: &OwnedFd) -> Result<(), String> {
        let socket = SockRef::from(fd);
        if !(socket.is_listener().unwrap_or(false) && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)) {
            return Err("is no listening socket".to_owned());
        }
        let address = socket.local_addr().map_err(|error| format!("has no address: {error}"))?;
        let fits = match self {
            Self::Tcp(wanted) => address.as_socket().is_some_and(|bound| same(bound, *wanted)),
            Self::Unix(wanted) => address.as_pathname() == Some(wanted),
        };
        if fits { Ok(()) } else { Err(format!("listens on {}, not on {self}", address_of(fd))) }
    }

    /// Binds it and listens. `name` is the socket's.
    pub(crate) fn bind(&self, name: &str) -> Result<OwnedFd, String> {
        match self {
            Self::Tcp(address) => bind_tcp(name, *address),
            Self::Unix(path) => bind_unix(path),
        }
    }

    /// Whether the address alone tells it from every other.
    pub(crate) const fn is_exact(&self) -> bool {
        !matches!(self, Self::Tcp(address) if address.port() == 0)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn same(bound: SocketAddr, wanted: SocketAddr) -> bool {
    let every = |ip: IpAddr| ip.is_unspecified() && ip.is_ipv4();
    let port = wanted.port() == 0 || bound.port() == wanted.port();
    let fallback = || every(bound.ip()) && wanted.ip().is_unspecified() && !has_ipv6();
    port && (bound.ip().to_canonical() == wanted.ip().to_canonical() || fallback())
}

fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
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

/// Binds a local socket, 0660. One on which nobody listens any more is replaced; one that somebody holds is not.
fn bind_unix(path: &Path) -> Result<OwnedFd, String> {
    if let Some(problem) = path_problem(path) {
        return Err(problem);
    }
    let bind = || {
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if is_answered(path) {
                    let who = holder::of_path(path).unwrap_or_else(|| "another process".to_owned());
                    return Err(io::Error::other(format!("held by {who}")));
                }
                fs::remove_file(path)?;
            }
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

/// Whether a socket listens behind that path. Never waits, even when its queue is full.
fn is_answered(path: &Path) -> bool {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connect() {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
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
pub(crate) fn address_of(fd: &OwnedFd) -> String {
    let address = SockRef::from(fd).local_addr().ok();
    let inet = address.as_ref().and_then(SockAddr::as_socket);
    let unix = || address.as_ref().and_then(|address| Some(format!("unix:{}", address.as_pathname()?.display())));
    inet.map(|address| address.to_string()).or_else(unix).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn a_port_alone_listens_on_both_families() {
        let fd = listen_tcp("[::]:0".parse().unwrap()).unwrap();
        let port = SockRef::from(&fd).local_addr().unwrap().as_socket().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::net::TcpStream::connect(("::1", port)).unwrap();
    }

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let problem = bind_tcp("http", address).unwrap_err();
        assert!(problem.starts_with(&format!("listen.http: {address} cannot be bound: held by ")), "{problem}");
        assert!(problem.ends_with(&format!("(pid {})", std::process::id())), "{problem}");
    }

    #[test]
    fn a_socket_of_the_dead_is_replaced_one_of_the_living_and_a_file_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.sock");
        drop(UnixListener::bind(&path).unwrap());
        let _bound = bind_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let problem = bind_unix(&path).unwrap_err();
        assert!(problem.contains("cannot be bound: held by ") && problem.ends_with(&format!("(pid {})", std::process::id())), "{problem}");
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(bind_unix(&file).unwrap_err().contains("no socket"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_in_words() {
        let long = Path::new("/tmp").join("x".repeat(120)).join("edge.sock");
        let problem = bind_unix(&long).unwrap_err();
        assert!(problem.contains("at most 107 bytes") && problem.contains("GATEWAY_RUNTIME_DIR"), "{problem}");
    }

    #[test]
    fn a_socket_fits_where_it_listens_and_nowhere_else() {
        let tcp = |address: &str| Place::Tcp(address.parse().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, fd) = (listener.local_addr().unwrap(), OwnedFd::from(listener));
        assert_eq!(Place::Tcp(address).check(&fd), Ok(()));
        assert_eq!(tcp("127.0.0.1:0").check(&fd), Ok(()), "any port will do");
        assert_eq!(tcp("127.0.0.1:1").check(&fd), Err(format!("listens on {address}, not on 127.0.0.1:1")));
        assert!(tcp("127.0.0.2:0").check(&fd).is_err() && Place::Unix("/x".into()).check(&fd).is_err());
        let connected = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(tcp("127.0.0.1:0").check(&connected.into()), Err("is no listening socket".to_owned()));
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert_eq!(tcp("127.0.0.1:0").check(&file), Err("is no listening socket".to_owned()));
    }

    #[test]
    fn every_address_is_that_of_both_families_unless_there_is_but_one() {
        let same = |bound: &str, wanted: &str| same(bound.parse().unwrap(), wanted.parse().unwrap());
        assert!(same("[::]:80", "[::]:80") && same("[::ffff:10.0.0.1]:80", "10.0.0.1:80"));
        assert_eq!(same("0.0.0.0:80", "[::]:80"), !has_ipv6());
        assert!(!same("[::]:80", "0.0.0.0:80") && !same("127.0.0.1:80", "[::]:80") && !same("[::]:81", "[::]:80"));
    }
}
