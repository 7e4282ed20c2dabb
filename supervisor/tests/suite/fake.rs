//! A component that does as it is told by files: what a child of the supervisor can do, and nothing else.
//!
//! `{dir}/{component}.behaviour` holds words: `exit=CODE` before it is ready, `silent` never ready, `flood` both outputs once ready, `deaf` to SIGTERM,
//! `hardy` against SIGABRT, `code=CODE` after SIGTERM, `serve` answers on `http` with its name and pid, `talks` as an edge on its local socket, `fork` starts a process in a session of its own. It
//! beats as the chassis does; on SIGUSR1 it says that it stalls. `count` writes numbered lines to stdout, each in two pieces, and says at its end how many.
//! `{dir}/{component}.check` holds what `--check` prints before it exits 78. What happens is appended to `{dir}/events`.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::pin,
    process,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use gatehouse_chassis::sockets::{Inherited, Listener};
use sd_notify::NotifyState;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

use crate::edge;

/// Puts the scripts in place.
pub fn install(dir: &Path) -> PathBuf {
    install_release(dir, "bin", "")
}

/// The same in another directory; what `{dir}/{component}{release}.behaviour` and `.check` say is for these.
pub fn install_release(dir: &Path, name: &str, release: &str) -> PathBuf {
    let bin = dir.join(name);
    fs::create_dir(&bin).unwrap();
    let test = env::current_exe().unwrap();
    for component in ["edge", "pusher", "auditor", "admin"] {
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --check ]; then\n  if [ -f '{dir}/{component}{release}.check' ]; then cat '{dir}/{component}{release}.check' >&2; exit 78; fi\n  exit 0\nfi\n\
             export FAKE_COMPONENT={component} FAKE_DIR='{dir}' FAKE_RELEASE='{release}'\nexec '{test}' fake::component --exact --nocapture --quiet\n",
            dir = dir.display(),
            test = test.display(),
        );
        let path = bin.join(format!("gatehouse-{component}"));
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    bin
}

/// A quarter of what is expected.
fn beat_interval() -> Duration {
    sd_notify::watchdog_enabled().unwrap() / 4
}

/// No test but the child, when it is one.
#[tokio::test]
async fn component() {
    let (Ok(component), Ok(dir)) = (env::var("FAKE_COMPONENT"), env::var("FAKE_DIR")) else { return };
    let dir = PathBuf::from(dir);
    let instance = env::var("GATEWAY_INSTANCE").unwrap();
    let say_of = |what: &str, pid: u32| {
        let mut events = fs::OpenOptions::new().create(true).append(true).open(dir.join("events")).unwrap();
        // One write: many processes append.
        events.write_all(format!("{what} {component}-{instance} {pid}\n").as_bytes()).unwrap();
    };
    let say = |what: &str| say_of(what, process::id());
    let release = env::var("FAKE_RELEASE").unwrap();
    let behaviour = fs::read_to_string(dir.join(format!("{component}{release}.behaviour"))).unwrap_or_default();
    let told = |word: &str| behaviour.split_whitespace().find_map(|told| told.strip_prefix(word)).map(ToOwned::to_owned);
    let mut term = signal(SignalKind::terminate()).unwrap();
    say(&format!("start{release}"));
    say(&format!("lent={}", env::var("LISTEN_FDNAMES").unwrap()));
    eprintln!(r#"{{"level":"INFO","message":"{component} speaks"}}"#);
    println!(r#"{{"trail":"{component}"}}"#);
    if let Some(code) = told("exit=") {
        eprintln!(r#"{{"level":"ERROR","message":"{component} cannot go on"}}"#);
        process::exit(code.parse().unwrap());
    }
    if told("fork").is_some() {
        let fork = tokio::process::Command::new("setsid").args(["sleep", "600"]).stdin(process::Stdio::null()).spawn().unwrap();
        say_of("fork", fork.id().unwrap());
    }
    let idle = Semaphore::new(1);
    let serving = async {
        let mut lent = Inherited::from_env().unwrap();
        if told("talks").is_some() {
            edge::talk(lent.take("local").unwrap().unwrap(), dir.clone());
        }
        match lent.take("http").unwrap() {
            Some(Listener::Tcp(listener)) if told("serve").is_some() => {
                serve(&listener, &format!("{component} {}", process::id()), &idle).await;
            }
            _ => std::future::pending().await,
        }
    };
    if told("silent").is_none() {
        say("ready");
        sd_notify::notify(&[NotifyState::Ready]).unwrap();
    }
    if told("flood").is_some() {
        flood();
    }
    let counted = Arc::new(Mutex::new(0));
    if told("count").is_some() {
        count(Arc::clone(&counted));
    }
    let _ignored = told("hardy").map(|_| signal(SignalKind::from_raw(nix::libc::SIGABRT)).unwrap());
    let mut stall = signal(SignalKind::user_defined1()).unwrap();
    let mut beats = tokio::time::interval(beat_interval());
    let beating = async {
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    if told("silent").is_none() {
                        // Nobody listens while there is no supervisor.
                        let _unheard = sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Ready]);
                    }
                }
                _ = stall.recv() => {
                    sd_notify::notify(&[NotifyState::Status("stalled: reader, 1.8 s"), NotifyState::WatchdogTrigger]).unwrap();
                }
            }
        }
    };
    let stopping = async {
        loop {
            term.recv().await;
            say("term");
            if told("deaf").is_none() {
                break;
            }
        }
    };
    let mut serving = pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        () = beating => {}
        () = stopping => {}
    }
    // Whoever was accepted is answered.
    tokio::select! {
        () = serving => {}
        _all = idle.acquire() => {}
    }
    // Never in the middle of a line.
    let counted = counted.lock().unwrap();
    if *counted > 0 {
        say(&format!("counted={counted}"));
    }
    say("end");
    let code = told("code=").map_or(0, |code| code.parse().unwrap());
    let _unheard = sd_notify::notify(&[NotifyState::Custom(&format!("EXIT_STATUS={code}"))]);
    process::exit(code);
}

/// On both outputs, for ever.
fn flood() {
    let piece = format!("{}\n", r#"{"level":"INFO","message":"a flood"}"#).repeat(1000);
    for mut out in [Box::new(io::stdout()) as Box<dyn io::Write + Send>, Box::new(io::stderr())] {
        let piece = piece.clone();
        thread::spawn(move || while out.write_all(piece.as_bytes()).is_ok() {});
    }
}

/// Numbered lines, for ever; most of the time one is half written. Whoever has the lock has the number of those that are whole.
fn count(counted: Arc<Mutex<u32>>) {
    thread::spawn(move || {
        let (mut out, pid) = (io::stdout(), process::id());
        loop {
            let mut count = counted.lock().unwrap();
            out.write_all(format!("{{\"pid\":{pid},\"filler\":\"{}\",\"seq\"", "x".repeat(100)).as_bytes()).unwrap();
            out.flush().unwrap();
            thread::park_timeout(Duration::from_micros(500));
            out.write_all(format!(":{count}}}\n").as_bytes()).unwrap();
            out.flush().unwrap();
            *count += 1;
        }
    });
}

/// One request a connection.
async fn serve(listener: &TcpListener, body: &str, idle: &Semaphore) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _busy = idle.acquire().await.unwrap();
        let mut head = [0; 4096];
        // A client may be gone at any point.
        let _read = stream.read(&mut head).await;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let _written = stream.write_all(answer.as_bytes()).await;
    }
}
