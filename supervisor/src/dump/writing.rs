//! The text of a dump.

use std::{fmt::Write as _, fs, io};

use super::{modules::Place, stacks::Stack, threads::Thread};

/// Who, when and why.
pub(super) fn head(pid: i32, why: &str) -> String {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).map_or_else(|error| error.to_string(), |exe| exe.display().to_string());
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let memory: Vec<_> = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")).collect();
    let memory = memory.join(", ").replace('\t', " ");
    let now = jiff::Timestamp::now();
    format!("time:    {now:.3}\nwhy:     {why}\nprocess: {pid}\nbinary:  {exe}\ncommand: {}\nmemory:  {memory}\n", line.trim_end())
}

/// What `/proc` said.
pub(super) fn threads(threads: &[Thread]) -> String {
    let mut text = format!("\n{} threads\n", threads.len());
    for thread in threads {
        let (user, system) = (thread.user.as_secs_f64(), thread.system.as_secs_f64());
        let syscall = thread.syscall.as_deref().unwrap_or("?");
        let waits_in = thread.waits_in.as_deref().map(|wchan| format!(", waits in {wchan}")).unwrap_or_default();
        write(
            &mut text,
            format_args!(
                "{:>8}  {:<16} {}, system call {syscall}{waits_in}, ran {user:.2} s and {system:.2} s in the kernel\n",
                thread.id, thread.name, thread.state
            ),
        );
    }
    for thread in threads.iter().filter(|thread| !thread.kernel_stack.is_empty()) {
        write(&mut text, format_args!("\nkernel stack of {} {}\n", thread.id, thread.name));
        for line in &thread.kernel_stack {
            write(&mut text, format_args!("    {line}\n"));
        }
    }
    text
}

/// The stacks, innermost call first.
pub(super) fn stacks(stacks: &[Stack]) -> String {
    let mut text = String::new();
    for Stack { thread, name, frames } in stacks {
        write(&mut text, format_args!("\nstack of {thread} {name}\n"));
        match frames {
            Ok(frames) => {
                for (i, (address, place)) in frames.iter().enumerate() {
                    write(&mut text, format_args!("  {i:>3}  {}\n", described(*address, place)));
                }
            }
            Err(why) => write(&mut text, format_args!("  none: {why}\n")),
        }
    }
    text
}

/// Why there are none.
pub(super) fn no_stacks(refused: &io::Error) -> String {
    let hint = if refused.kind() == io::ErrorKind::PermissionDenied {
        "; the kernel lets nobody trace it (kernel.yama.ptrace_scope, or a filter of system calls)"
    } else {
        ""
    };
    format!("\nno stacks: {refused}{hint}\n")
}

fn described(address: u64, place: &Place) -> String {
    let module = place.module.as_ref().map_or_else(|| format!("{address:#x}"), |(name, at)| format!("{name} {at:#x}"));
    match &place.function {
        Some((function, offset)) => format!("{function} +{offset:#x} ({module})"),
        None => format!("? ({module})"),
    }
}

fn write(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = text.write_fmt(what);
}
