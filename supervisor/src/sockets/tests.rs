//! Binding with real sockets.

use std::{net::TcpListener, os::unix::net::UnixListener};

use super::*;

#[test]
fn a_port_alone_listens_on_both_families() {
    let fd = listen_tcp("[::]:0".parse().unwrap()).unwrap();
    let port = socket2::SockRef::from(&fd).local_addr().unwrap().as_socket().unwrap().port();
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
fn a_socket_that_a_dead_supervisor_left_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.sock");
    drop(UnixListener::bind(&path).unwrap());
    let _bound = bind_unix(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
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
