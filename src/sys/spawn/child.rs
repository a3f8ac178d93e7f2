//! What the child does between its birth and `execve`.
//!
//! It shares the parent's memory (or has a copy of a process that may have had other threads), so
//! here nothing is allocated, locked or unwound: system calls only, on what the parent prepared.
//! Functions of the C library are used where they are plain system calls; those that do more
//! (`setuid` tells the other threads, which are the parent's) are called by their number.

use std::convert::Infallible;
use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use super::{Failure, Group, Passed, Plan, SpawnStep};

/// How the child tells its parent what became of it.
#[derive(Default)]
pub(super) struct Report {
    /// 1 once the child ran. If the parent does not see it, the memory is not shared.
    pub started: AtomicI32,
    pub step: AtomicI32,
    pub errno: AtomicI32,
}

/// What the child is handed.
pub(super) struct Context<'a> {
    pub plan: &'a Plan,
    pub report: &'a Report,
    /// Room for the descriptors' places while they are moved about: as long as the plan's list.
    pub moved: *mut Passed,
    /// Where a failure is written to as well, where memory is not shared; -1: nowhere.
    pub pipe: RawFd,
    /// The process that starts this one.
    pub parent: libc::pid_t,
}

/// The child's life. `context` is a [`Context`].
pub(super) extern "C" fn live(context: *mut c_void) -> c_int {
    // SAFETY: the parent hands a context, which lives until this process is another program's or
    // has ended: the parent waits for that, or this is a copy of its memory.
    let context = unsafe { &*context.cast::<Context<'_>>() };
    let report = context.report;
    report.started.store(1, Ordering::SeqCst);
    let mut pipe = context.pipe;
    let Err(failure) = become_program(context, &mut pipe);
    report.step.store(failure.step as c_int, Ordering::SeqCst);
    report.errno.store(failure.errno, Ordering::SeqCst);
    if pipe >= 0 {
        let words = [failure.step as c_int, failure.errno];
        // SAFETY: two numbers of our own are written to a descriptor of our own; eight bytes go
        // into a pipe whole.
        unsafe { libc::write(pipe, words.as_ptr().cast(), size_of_val(&words)) };
    }
    end_process();
    STATUS
}

/// What a child ends with that could not become the program; its parent knows the reason.
const STATUS: c_int = 127;

/// Ends this process, and runs nothing of the parent's: by the system call itself, since what
/// stands for `_exit` in a program that is checked by a sanitizer may do more. (Nor does the
/// compiler know that it does not return: sanitizers prepare for that, on the wrong stack.)
#[cfg(target_os = "linux")]
fn end_process() {
    // SAFETY: takes a number.
    unsafe { libc::syscall(libc::SYS_exit_group, STATUS) };
}

#[cfg(not(target_os = "linux"))]
fn end_process() {
    // SAFETY: takes a number.
    unsafe { libc::_exit(STATUS) }
}

/// An error of the call that was just made.
fn failed(step: SpawnStep) -> Failure {
    Failure {
        step,
        errno: errno(),
    }
}

fn errno() -> c_int {
    // Without the detour over `io::Error` this would be one function per system.
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn check(outcome: c_int, step: SpawnStep) -> Result<c_int, Failure> {
    if outcome < 0 {
        return Err(failed(step));
    }
    Ok(outcome)
}

fn become_program(context: &Context<'_>, pipe: &mut RawFd) -> Result<Infallible, Failure> {
    let plan = context.plan;
    reset_handlers();
    join_group(plan)?;
    place_descriptors(context, pipe)?;
    if plan.terminal {
        // SAFETY: takes numbers only.
        let outcome = unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) };
        check(outcome, SpawnStep::Terminal)?;
    }
    limit(plan)?;
    change_credentials(plan)?;
    if let Some(mask) = plan.umask {
        // SAFETY: takes a number, and cannot fail.
        unsafe { libc::umask(mask) };
    }
    if let Some(directory) = &plan.directory {
        // SAFETY: a text that ends with NUL.
        let outcome = unsafe { libc::chdir(directory.as_ptr()) };
        check(outcome, SpawnStep::Directory)?;
    }
    // After the change of user, which would undo it (prctl(2)).
    die_with_parent(plan, context.parent)?;
    if !plan.keep_descriptors {
        keep_only(plan);
    }
    unblock_signals();
    Err(execute(plan))
}

/// Handlers are functions of the parent's, and would run in its memory as soon as a signal is let
/// through. What is ignored stays so, but for SIGPIPE, which programs expect to end them.
fn reset_handlers() {
    // The highest number of a signal on the systems there are.
    const LAST: c_int = 64;
    for number in 1..=LAST {
        let Some(handler) = handler_of(number) else {
            continue;
        };
        let ignored = handler == libc::SIG_IGN && number != libc::SIGPIPE;
        if handler != libc::SIG_DFL && !ignored {
            reset_handler(number);
        }
    }
}

/// By the system call itself: what stands for sigaction(2) in a program that is checked by a
/// sanitizer keeps a table, which would be the parent's.
#[cfg(all(
    target_os = "linux",
    not(any(target_arch = "mips", target_arch = "mips64"))
))]
mod handlers {
    use super::*;

    /// More than the kernel's `sigaction`, which begins with the handler.
    type Action = [libc::sighandler_t; 8];
    /// The size of its set of signals.
    const SET: usize = 8;

    pub fn handler_of(number: c_int) -> Option<libc::sighandler_t> {
        let mut now: Action = [0; 8];
        let none = ptr::null::<Action>();
        // SAFETY: there is room for what the kernel writes; a number that is none is an error.
        let outcome = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, none, &mut now, SET) };
        (outcome == 0).then_some(now[0])
    }

    pub fn reset_handler(number: c_int) {
        // The default, no flags, an empty mask.
        let default: Action = [0; 8];
        let none = ptr::null_mut::<Action>();
        // SAFETY: zeros are a valid action.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, &default, none, SET) };
    }
}

#[cfg(not(all(
    target_os = "linux",
    not(any(target_arch = "mips", target_arch = "mips64"))
)))]
mod handlers {
    use super::*;

    pub fn handler_of(number: c_int) -> Option<libc::sighandler_t> {
        // SAFETY: a zeroed sigaction is a valid one.
        let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: there is room for it; a number that is no signal is an error.
        let outcome = unsafe { libc::sigaction(number, ptr::null(), &mut now) };
        (outcome == 0).then_some(now.sa_sigaction)
    }

    pub fn reset_handler(number: c_int) {
        // SAFETY: a zeroed sigaction is a valid one: the default, no flags, an empty mask.
        let default: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        unsafe { libc::sigaction(number, &default, ptr::null_mut()) };
    }
}

use handlers::{handler_of, reset_handler};

fn join_group(plan: &Plan) -> Result<(), Failure> {
    let outcome = match plan.group {
        Group::Same => 0,
        // SAFETY: takes numbers only.
        Group::Join(group) => unsafe { libc::setpgid(0, group) },
        // SAFETY: takes nothing.
        Group::NewSession => unsafe { libc::setsid() },
    };
    check(outcome, SpawnStep::Group).map(|_| ())
}

/// Puts every descriptor at its place. A source that stands where another one must go, or that is
/// to be seen twice, first gets a duplicate above all places: so none is overwritten before it is
/// copied, in whatever circle they change their places.
fn place_descriptors(context: &Context<'_>, pipe: &mut RawFd) -> Result<(), Failure> {
    const STEP: SpawnStep = SpawnStep::Descriptors;
    let above = context.plan.above();
    let count = context.plan.descriptors.len();
    // SAFETY: the parent made room for as many, and nobody else uses it meanwhile.
    let moved = unsafe { std::slice::from_raw_parts_mut(context.moved, count) };
    if *pipe >= 0 && *pipe < above {
        *pipe = check(duplicate_above(*pipe, above), STEP)?;
    }
    for passed in moved.iter_mut() {
        if passed.source != passed.target && passed.source < above {
            passed.source = check(duplicate_above(passed.source, above), STEP)?;
        }
    }
    for passed in moved.iter() {
        // SAFETY: these take numbers only. dup2 leaves the new one without FD_CLOEXEC; where
        // nothing is to be copied, the flag goes.
        let outcome = || unsafe {
            if passed.source == passed.target {
                libc::fcntl(passed.target, libc::F_SETFD, 0)
            } else {
                libc::dup2(passed.source, passed.target)
            }
        };
        while outcome() < 0 {
            // Where there was a descriptor before, dup2 closes it, and that may be interrupted.
            let failure = failed(STEP);
            if failure.errno != libc::EINTR {
                return Err(failure);
            }
        }
    }
    Ok(())
}

fn duplicate_above(descriptor: RawFd, above: RawFd) -> RawFd {
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, above) }
}

/// Limits come after the descriptors, which a low limit would keep from being moved, and before
/// the change of user, who may not raise them.
fn limit(plan: &Plan) -> Result<(), Failure> {
    if let Some(nice) = plan.nice {
        // SAFETY: takes numbers only.
        let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
        check(outcome, SpawnStep::Limits)?;
    }
    for limit in &plan.limits {
        // SAFETY: a valid rlimit; a resource that is none is an error.
        let outcome = unsafe { libc::setrlimit(limit.resource as _, &limit.value) };
        check(outcome, SpawnStep::Limits)?;
    }
    Ok(())
}

/// Groups first: who has given up being root may not change them any more.
fn change_credentials(plan: &Plan) -> Result<(), Failure> {
    const STEP: SpawnStep = SpawnStep::Credentials;
    if let Some(groups) = &plan.groups {
        check(set_groups(groups), STEP)?;
    }
    if let Some(group) = plan.group_id {
        check(set_group(group), STEP)?;
    }
    if let Some(user) = plan.user {
        check(set_user(user), STEP)?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
mod credentials {
    use std::ffi::{c_int, c_long};

    #[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
    use libc::{SYS_setgid, SYS_setgroups, SYS_setuid};
    // Where the first calls had identifiers of 16 bits.
    #[cfg(any(target_arch = "x86", target_arch = "arm"))]
    use libc::{
        SYS_setgid32 as SYS_setgid, SYS_setgroups32 as SYS_setgroups, SYS_setuid32 as SYS_setuid,
    };

    pub fn set_groups(groups: &[libc::gid_t]) -> c_int {
        // SAFETY: so many identifiers can be read there.
        unsafe { libc::syscall(SYS_setgroups, groups.len() as c_long, groups.as_ptr()) as c_int }
    }

    pub fn set_group(group: libc::gid_t) -> c_int {
        // SAFETY: takes a number only.
        unsafe { libc::syscall(SYS_setgid, group) as c_int }
    }

    pub fn set_user(user: libc::uid_t) -> c_int {
        // SAFETY: takes a number only.
        unsafe { libc::syscall(SYS_setuid, user) as c_int }
    }
}

#[cfg(not(target_os = "linux"))]
mod credentials {
    use std::ffi::c_int;

    pub fn set_groups(groups: &[libc::gid_t]) -> c_int {
        // SAFETY: so many identifiers can be read there.
        unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) }
    }

    pub fn set_group(group: libc::gid_t) -> c_int {
        // SAFETY: takes a number only.
        unsafe { libc::setgid(group) }
    }

    pub fn set_user(user: libc::uid_t) -> c_int {
        // SAFETY: takes a number only.
        unsafe { libc::setuid(user) }
    }
}

use credentials::{set_group, set_groups, set_user};

#[cfg(target_os = "linux")]
fn die_with_parent(plan: &Plan, parent: libc::pid_t) -> Result<(), Failure> {
    if plan.death_signal == 0 {
        return Ok(());
    }
    // SAFETY: these take numbers only.
    unsafe {
        let signal = plan.death_signal as libc::c_ulong;
        let outcome = libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0);
        check(outcome, SpawnStep::Limits)?;
        if libc::getppid() != parent {
            // It ended before, and will not end again.
            libc::kill(libc::getpid(), plan.death_signal);
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_plan: &Plan, _parent: libc::pid_t) -> Result<(), Failure> {
    Ok(())
}

/// Has `execve` close every descriptor that is not passed on: those that other code of the
/// process opened without FD_CLOEXEC are not the child's.
fn keep_only(plan: &Plan) {
    let mut next = libc::STDERR_FILENO + 1;
    for passed in &plan.descriptors {
        if passed.target > next {
            close_at_exec(next, passed.target - 1);
        }
        next = next.max(passed.target.saturating_add(1));
    }
    close_at_exec(next, RawFd::MAX);
}

fn close_at_exec(first: RawFd, last: RawFd) {
    #[cfg(target_os = "linux")]
    {
        // Linux 5.11; an older one says EINVAL or ENOSYS.
        const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
        // SAFETY: takes numbers only, and changes this process' descriptors.
        let outcome = unsafe {
            let (first, last) = (first as libc::c_uint, last as libc::c_uint);
            libc::syscall(libc::SYS_close_range, first, last, CLOSE_RANGE_CLOEXEC)
        };
        if outcome == 0 {
            return;
        }
    }
    // One by one. Above this number, a bound on the time it takes, descriptors are seldom.
    const MOST: RawFd = 64 * 1024;
    // SAFETY: takes a number only.
    let table = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
    let end = if table > 0 && table < MOST as libc::c_long {
        table as RawFd
    } else {
        MOST
    };
    for descriptor in first..last.min(end) {
        // SAFETY: takes numbers only; one that is not open is an error.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    if last < end {
        // SAFETY: as above.
        unsafe { libc::fcntl(last, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// The parent's thread had them all blocked for this; and whatever it blocked before, a program
/// expects to begin with none.
fn unblock_signals() {
    // SAFETY: a zeroed set, then made an empty one; only this thread's mask changes.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

/// Tries the programs as execvp(3) does: on, past those that are not there; and if one was found
/// that may not be run, that is the error.
fn execute(plan: &Plan) -> Failure {
    let (arguments, environment) = (plan.arguments.as_ptr(), plan.environment.as_ptr());
    let mut found = libc::ENOENT;
    for program in &plan.programs {
        // SAFETY: a text, and two lists of texts that end with a null pointer.
        unsafe { libc::execve(program.as_ptr(), arguments, environment) };
        match errno() {
            libc::EACCES => found = libc::EACCES,
            // Of a search: on to the next folder.
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT
                if plan.programs.len() > 1 => {}
            errno => {
                found = errno;
                break;
            }
        }
    }
    Failure {
        step: SpawnStep::Program,
        errno: found,
    }
}
