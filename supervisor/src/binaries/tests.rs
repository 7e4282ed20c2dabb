use super::*;
use crate::child::forks;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
};

/// A directory in which every component is that program.
fn directory_of(program: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for component in Component::OURS {
        fs::copy(program, dir.path().join(file_name(component))).unwrap();
    }
    dir
}

fn status(binaries: &Binaries, component: Component) -> Option<i32> {
    let mut command = binaries.of(component).unwrap().command(component);
    command.stdin(Stdio::null()).status().unwrap().code()
}

#[test]
fn a_binary_that_is_replaced_is_not_executed_until_it_is_pinned() {
    let _turn = forks::blocking_turn();
    let dir = directory_of("/bin/true");
    let binaries = Binaries::pin(dir.path()).unwrap();
    let new = dir.path().join("new");
    fs::copy("/bin/false", &new).unwrap();
    fs::rename(&new, dir.path().join("gatehouse-edge")).unwrap();
    fs::remove_file(dir.path().join("gatehouse-admin")).unwrap();
    assert_eq!([Component::Edge, Component::Admin].map(|component| status(&binaries, component)), [Some(0); 2]);

    assert!(Binaries::pin(dir.path()).unwrap_err().contains("gatehouse-admin cannot be executed: "));
    fs::copy("/bin/true", dir.path().join("gatehouse-admin")).unwrap();
    let again = Binaries::pin(dir.path()).unwrap();
    assert_eq!([Component::Edge, Component::Admin].map(|component| status(&again, component)), [Some(1), Some(0)]);
    let build = |binaries: &Binaries, component| binaries.of(component).unwrap().build.clone();
    assert_ne!(build(&binaries, Component::Edge), build(&again, Component::Edge));
    assert_eq!(build(&binaries, Component::Pusher), build(&again, Component::Pusher));
}

#[test]
fn an_adopted_process_comes_back_as_the_file_that_it_executes() {
    let _turn = forks::blocking_turn();
    let dir = directory_of("/bin/sleep");
    let mut binaries = Binaries::pin(dir.path()).unwrap();
    let mut running = binaries.of(Component::Edge).unwrap().command(Component::Edge).arg("60").spawn().unwrap();
    for component in Component::OURS {
        let path = dir.path().join(file_name(component));
        fs::remove_file(&path).unwrap();
        fs::copy("/bin/false", &path).unwrap();
    }
    let mut next = Binaries::pin(dir.path()).unwrap();
    next.pin_running(Component::Edge, running.id(), "0.0.9 (old)").unwrap();
    running.kill().unwrap();
    running.wait().unwrap();
    let edge = next.of(Component::Edge).unwrap();
    assert_eq!(edge.build, "0.0.9 (old)");
    assert_eq!(edge.command(Component::Edge).arg("0").status().unwrap().code(), Some(0), "sleep, and not false");
    assert_eq!(status(&next, Component::Pusher), Some(1));
    assert!(binaries.pin_running(Component::Redis, std::process::id(), "").is_err());
}

#[test]
fn what_an_adopted_process_comes_back_as_is_told_by_what_it_executes_and_not_by_the_directory() {
    let _turn = forks::blocking_turn();
    let dir = directory_of("/bin/sleep");
    let path = |component| dir.path().join(file_name(component));
    let script = |component, text: &str| {
        fs::remove_file(path(component)).unwrap();
        fs::write(path(component), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path(component), Permissions::from_mode(0o755)).unwrap();
    };
    script(Component::Admin, "echo in place; read -r end");
    let before = Binaries::pin(dir.path()).unwrap();
    let start = |component| {
        let mut command = before.of(component).unwrap().command(component);
        command.arg("60").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let [mut edge, mut pusher, mut admin] = [Component::Edge, Component::Pusher, Component::Admin].map(start);
    // By then its interpreter is what it executes.
    admin.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
    script(Component::Edge, "exit 7");
    fs::rename(path(Component::Pusher), dir.path().join("pusher.old")).unwrap();
    fs::copy("/bin/true", path(Component::Pusher)).unwrap();
    script(Component::Pusher, "exit 7");
    fs::copy("/bin/false", path(Component::Admin)).unwrap();

    let mut next = Binaries::pin(dir.path()).unwrap();
    for (component, child) in [(Component::Edge, &edge), (Component::Pusher, &pusher), (Component::Admin, &admin)] {
        next.pin_running(component, child.id(), &before.of(component).unwrap().build).unwrap();
    }
    let slept = |component| next.of(component).unwrap().command(component).arg("0").status().unwrap().code();
    assert_eq!([Component::Edge, Component::Pusher].map(slept), [Some(0); 2], "sleep, and not the script in its place");
    assert_eq!(status(&next, Component::Admin), Some(1), "false, and not the shell");
    // Without a name of ours, and told by the process itself, it may be an interpreter.
    let build = build_of(pusher.id());
    next = Binaries::pin(dir.path()).unwrap();
    next.pin_running(Component::Pusher, pusher.id(), &build).unwrap();
    assert_eq!(status(&next, Component::Pusher), Some(7));
    for child in [&mut edge, &mut pusher, &mut admin] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_build_from_before_is_had_from_its_directory_or_from_whoever_still_executes_it() {
    let _turn = forks::blocking_turn();
    let (dir, before) = (directory_of("/bin/sleep"), directory_of("/bin/sleep"));
    let old = Binaries::pin(dir.path()).unwrap();
    let mut running = old.of(Component::Edge).unwrap().command(Component::Edge).arg("60").spawn().unwrap();
    for component in Component::OURS {
        let path = dir.path().join(file_name(component));
        fs::remove_file(&path).unwrap();
        fs::copy("/bin/false", &path).unwrap();
    }
    let pids = |component| if component == Component::Edge { vec![running.id()] } else { Vec::new() };
    let mut next = Binaries::pin(dir.path()).unwrap();
    let new = next.builds();
    next.go_back(&old.builds(), dir.path(), pids);
    for component in Component::OURS {
        let name = component.name();
        let expected = if component == Component::Edge { &old.builds()[name] } else { &new[name] };
        assert_eq!(&next.builds()[name], expected, "nobody else runs, and the directory has another");
    }
    next.go_back(&old.builds(), before.path(), pids);
    assert_eq!(next.builds(), old.builds());
    running.kill().unwrap();
    running.wait().unwrap();
    for component in [Component::Edge, Component::Pusher] {
        assert_eq!(next.of(component).unwrap().command(component).arg("0").status().unwrap().code(), Some(0), "sleep, and not false");
    }
}

#[test]
fn a_process_has_the_name_of_its_component() {
    let _turn = forks::blocking_turn();
    let dir = directory_of("/bin/cat");
    let binaries = Binaries::pin(dir.path()).unwrap();
    let mut command = binaries.of(Component::Pusher).unwrap().command(Component::Pusher);
    let output = command.arg("/proc/self/cmdline").output().unwrap();
    assert_eq!(output.stdout, b"gatehouse-pusher\0/proc/self/cmdline\0");
}

#[test]
fn a_script_is_executed_by_its_path_and_what_is_not_executable_is_a_problem() {
    let _turn = forks::blocking_turn();
    let dir = directory_of("/bin/true");
    let script = dir.path().join("gatehouse-edge");
    fs::write(&script, "#!/bin/sh\nexit 7\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(status(&Binaries::pin(dir.path()).unwrap(), Component::Edge), Some(7));
    fs::set_permissions(&script, Permissions::from_mode(0o644)).unwrap();
    assert!(Binaries::pin(dir.path()).unwrap_err().contains("permission denied"));
}
