//! The binary as the supervisor sees it.

use std::{
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    process::{Command, Stdio},
    time::Duration,
};

use gatehouse_admin::tokens::FILE;
use gatehouse_testkit::eventually;

use crate::house::House;

fn admin(house: &House) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatehouse-admin"));
    command.env_clear().envs(house.env()).env("LOG_FORMAT", "text").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn migrate_prints_a_line_for_each_migration() {
    for house in [House::new(), House::on_postgres()] {
        for (arguments, state) in
            [(&["--migrate", "--dry-run"][..], "pending"), (&["--migrate"], "applied"), (&["--migrate"], "up to date")]
        {
            let output = admin(&house).args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("admin 0002_create_api_tokens {state}\n"));
        }
    }
}

#[test]
fn it_starts_says_so_leaves_the_token_and_ends_when_asked() {
    let house = House::new();
    let notify = house.state.path().join("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut child = admin(&house).env("NOTIFY_SOCKET", &notify).stderr(Stdio::null()).spawn().unwrap();
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    assert!(buffer[..length].starts_with(b"READY=1"));
    let token = house.state.path().join(FILE);
    assert_eq!(token.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_lent_listener_answers_over_real_http() {
    let house = House::new();
    let path = house.state.path().join("http.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // Descriptor 3 is where the protocol begins; a shell puts ours there.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec \"$0\" 3<&0 0</dev/null"]).arg(env!("CARGO_BIN_EXE_gatehouse-admin"));
    shell.env_clear().envs(house.env()).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "admin");
    shell.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener))).stderr(Stdio::null()).process_group(0);
    let mut child = shell.spawn().unwrap();
    let ask = |request: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(format!("{request}\r\nhost: admin\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("GET /readyz HTTP/1.1").starts_with("HTTP/1.1 200"), "connections wait in the queue until it is up");
    assert!(ask("GET /api/v1/status HTTP/1.1").starts_with("HTTP/1.1 401"));
    assert!(ask("GET /metrics HTTP/1.1").contains("sessions_active"));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    eventually("it ends", Duration::from_secs(10), || child.try_wait().unwrap().is_some_and(|status| status.success()));
}
