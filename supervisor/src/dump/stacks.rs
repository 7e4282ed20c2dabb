//! The stacks of all threads in user space, by `ptrace(2)`: stop each, copy its registers and its stack, let it go, and only then unwind.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant},
};

use framehop::{CacheNative, UnwindRegsNative, Unwinder as _};
use nix::{
    errno::Errno,
    libc::user_regs_struct,
    sys::{
        ptrace,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    modules::{Frames, Modules, Place},
    threads::Thread,
};

/// How long all threads together may take to stop. One that is in the kernel for good never does.
const STOP: Duration = Duration::from_millis(300);
/// Between two looks whether one has.
const LOOK: Duration = Duration::from_micros(500);
/// What is copied of one stack at most, from its top on. Whoever is deeper down than this is cut off.
const COPIED: u64 = 512 << 10;
/// Frames of one thread at most.
const MAX_FRAMES: usize = 128;

/// One thread's stack, or why there is none.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    pub(super) thread: i32,
    pub(super) name: String,
    pub(super) frames: Result<Vec<(u64, Place)>, String>,
}

struct Copy {
    pc: u64,
    registers: UnwindRegsNative,
    begin: u64,
    bytes: Vec<u8>,
}

/// The stacks of these threads; an error when the kernel does not let us at the first.
pub(super) fn read(pid: i32, threads: &[Thread]) -> io::Result<Vec<Stack>> {
    let mut unwinder = Frames::new();
    let modules = Modules::read(pid, &mut unwinder);
    let copies = copy(pid, threads, &modules)?;
    // From here on the process goes its way, or is killed: it concerns us no more.
    let mut cache = CacheNative::new();
    let walked: Vec<_> = copies.into_iter().map(|copy| copy.map(|copy| walk(&copy, &unwinder, &mut cache))).collect();
    let places = modules.places(walked.iter().flatten().flatten().copied());
    let place = |address: u64| (address, places.get(&address).cloned().unwrap_or(Place { function: None, module: None }));
    let stack = |(thread, walked): (&Thread, Result<Vec<u64>, String>)| Stack {
        thread: thread.id,
        name: thread.name.clone(),
        frames: walked.map(|frames| frames.into_iter().map(place).collect()),
    };
    Ok(threads.iter().zip(walked).map(stack).collect())
}

/// Copies registers and stacks. Every thread that was stopped here is let go here; should this process end before, the kernel does that.
fn copy(pid: i32, threads: &[Thread], modules: &Modules) -> io::Result<Vec<Result<Copy, String>>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let ids: Vec<_> = threads.iter().map(|thread| Pid::from_raw(thread.id)).collect();
    let mut held: Vec<Result<(), Errno>> = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        let seized = ptrace::seize(*id, ptrace::Options::empty()).and_then(|()| ptrace::interrupt(*id));
        // Refused once, refused always.
        if let (0, Err(errno)) = (i, seized) {
            return Err(errno.into());
        }
        held.push(seized);
    }
    let until = Instant::now() + STOP;
    let mut copies = Vec::new();
    for (id, held) in ids.iter().zip(held) {
        let copied = held.map_err(|errno| errno.to_string()).and_then(|()| {
            stopped(*id, until)?;
            let registers = ptrace::getregs(*id).map_err(|errno| errno.to_string())?;
            Ok(copy_stack(&registers, &memory, modules))
        });
        copies.push(copied);
    }
    for id in ids {
        // It may have ended, or never have stopped.
        let _gone = ptrace::detach(id, None);
    }
    Ok(copies)
}

/// Waits until a thread that was interrupted has stopped.
fn stopped(id: Pid, until: Instant) -> Result<(), String> {
    loop {
        match waitpid(id, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < until => {
                #[expect(clippy::disallowed_methods, reason = "this process has one thread and no runtime")]
                thread::sleep(LOOK);
            }
            Ok(WaitStatus::StillAlive) => return Err("it does not leave the kernel".to_owned()),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return Err("it has ended".to_owned()),
            // Whatever stopped it.
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.to_string()),
        }
    }
}

fn copy_stack(registers: &user_regs_struct, memory: &File, modules: &Modules) -> Copy {
    let (pc, begin, registers) = unwindable(registers);
    let end = modules.end_of_mapping(begin).map_or(begin, |end| end.min(begin + COPIED));
    let mut bytes = vec![0; usize::try_from(end - begin).unwrap_or_default()];
    let length = memory.read_at(&mut bytes, begin).unwrap_or_default();
    bytes.truncate(length);
    Copy { pc, registers, begin, bytes }
}

#[cfg(target_arch = "x86_64")]
fn unwindable(registers: &user_regs_struct) -> (u64, u64, UnwindRegsNative) {
    let user_regs_struct { rip, rsp, rbp, .. } = *registers;
    (rip, rsp, UnwindRegsNative::new(rip, rsp, rbp))
}

#[cfg(target_arch = "aarch64")]
fn unwindable(registers: &user_regs_struct) -> (u64, u64, UnwindRegsNative) {
    use framehop::aarch64::PtrAuthMask;
    let user_regs_struct { regs, sp, pc, .. } = *registers;
    // User space has 48 bits of address; what is above may sign a return address.
    let mask = PtrAuthMask(u64::MAX >> 16);
    (pc, sp, UnwindRegsNative::new_with_ptr_auth_mask(mask, regs[30], sp, regs[29]))
}

/// Addresses within the calls, innermost first.
fn walk(copy: &Copy, unwinder: &Frames, cache: &mut CacheNative<framehop::MayAllocateDuringUnwind>) -> Vec<u64> {
    let mut read = |address: u64| {
        let offset = usize::try_from(address.checked_sub(copy.begin).ok_or(())?).map_err(|_| ())?;
        let bytes = copy.bytes.get(offset..).and_then(|bytes| bytes.first_chunk::<8>()).ok_or(())?;
        Ok(u64::from_le_bytes(*bytes))
    };
    let mut frames = unwinder.iter_frames(copy.pc, copy.registers, cache, &mut read);
    let mut addresses = Vec::new();
    while let (Ok(Some(frame)), true) = (frames.next(), addresses.len() < MAX_FRAMES) {
        // The byte before a return address belongs to the call, which may be the last thing in its function.
        addresses.push(frame.address_for_lookup());
    }
    addresses
}
