//! Child processes
//!
//! A process handle stands for a program that this process started, and is there as long as that
//! program runs. When it ends, its function is called, once, with its exit status; then the handle
//! closes by itself, and its on_close (kolo_on_close) is the last that is heard of it. So nothing
//! needs to be closed or waited for, and no zombie stays.
//!
//! What keeps a program from being started is an error of kolo_process_spawn: no process, no
//! descriptor and no stream is left of it then, and kolo_process_failed_step says what failed.
//!
//! kolo waits for its own children only, each by name (on Linux by a descriptor, elsewhere woken by
//! SIGCHLD): those of other code are left to it. On Windows every call returns KOLO_ENOTSUP.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

use super::boundary::{c_bool, guard, with_loop, Out};
use super::sized::{self, first_size, Place, Versioned};
use super::spawn;
use super::stream::kolo_stream_handler;
use super::types::{kolo_loop, kolo_process, kolo_socket, kolo_stream};
use crate::error::Result;

/// What one of a program's descriptors is to be.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_stdio_type {
    /// This process' own descriptor of the same number. One of 0, 1 and 2 that is closed here, or
    /// has FD_CLOEXEC, is the null device there; another one that is closed is KOLO_EBADF.
    KOLO_STDIO_INHERIT = 0,
    /// The null device: reads the end, writes into nothing.
    KOLO_STDIO_NULL = 1,
    /// `descriptor`, which stays the caller's. It is the same open file: where it does not block
    /// here, it does not block there.
    KOLO_STDIO_DESCRIPTOR = 2,
    /// The file `path`, opened with `open_flags` and `mode` during the call. (A FIFO is opened when
    /// its other end is, unless O_NONBLOCK is among the flags.)
    KOLO_STDIO_FILE = 3,
    /// A pipe that the program reads: what is written to `out_stream`.
    KOLO_STDIO_CHILD_READS = 4,
    /// A pipe that the program writes: what `out_stream` receives.
    KOLO_STDIO_CHILD_WRITES = 5,
    /// A pair of connected sockets, for both directions.
    KOLO_STDIO_BOTH_WAYS = 6,
    /// Not open there. Not for 0, 1 and 2.
    KOLO_STDIO_NONE = 7,
}

/// One of a program's descriptors. Begin with KOLO_STDIO_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_stdio {
    /// sizeof(kolo_stdio), set by KOLO_STDIO_INIT.
    pub size: usize,
    /// A kolo_stdio_type.
    pub r#type: c_int,
    /// For KOLO_STDIO_FILE: the permissions of a file that is made (see open(2)).
    pub mode: u32,
    /// For KOLO_STDIO_DESCRIPTOR.
    pub descriptor: kolo_socket,
    /// For KOLO_STDIO_FILE.
    pub path: *const c_char,
    /// For KOLO_STDIO_FILE: the system's O_RDONLY, O_WRONLY | O_CREAT | O_TRUNC and the like.
    pub open_flags: c_int,
    /// For pipes: the stream's handler, which must be there, and the user pointer that it gets.
    pub handler: *const kolo_stream_handler,
    /// The last argument of the handler's callbacks.
    pub user: *mut c_void,
    /// For pipes: gets the stream. It is a stream like any other, and outlives the program: close
    /// it, or let its end close it.
    pub out_stream: *mut kolo_stream,
}

/// A limit on a resource (setrlimit(2)).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_resource_limit {
    /// The system's number for it: RLIMIT_NOFILE, RLIMIT_CPU...
    pub resource: c_int,
    /// The limit. UINT64_MAX: none.
    pub soft: u64,
    /// Up to where the program may raise the limit. UINT64_MAX: none.
    pub hard: u64,
}

/// A program to be started, and how. Begin with KOLO_PROCESS_OPTIONS_INIT; all but `program` may
/// stay zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_process_options {
    /// sizeof(kolo_process_options), set by KOLO_PROCESS_OPTIONS_INIT.
    pub size: usize,
    /// The program. A name without a slash is looked for in the folders of the variable PATH of the
    /// environment that it gets (/bin and /usr/bin without one); one with a slash, unless it begins
    /// with it, from the directory that it starts in.
    pub program: *const c_char,
    /// Its arguments, a NULL after the last; the first is what it finds as its own name. No shell
    /// sees them. NULL: only the name.
    pub arguments: *const *const c_char,
    /// Its environment, each "NAME=value", a NULL after the last. NULL: this process'.
    pub environment: *const *const c_char,
    /// The directory that it starts in. NULL: this process'.
    pub directory: *const c_char,
    /// Its descriptors: the first one is its descriptor 0, and so on. Those of 0, 1 and 2 that are
    /// not among them are inherited; no others are passed on.
    pub stdio: *const kolo_stdio,
    /// How many, at most 1024.
    pub stdio_count: usize,
    /// Its resource limits, where they differ from this process'.
    pub limits: *const kolo_resource_limit,
    /// How many, at most 64.
    pub limit_count: usize,
    /// Its supplementary groups (setgroups(2)), if not NULL.
    pub groups: *const u32,
    /// How many, at most 65536 (and what the system takes).
    pub group_count: usize,
    /// The user that it runs as (setuid(2)), if `set_user`. If this process is root, it is in no
    /// supplementary group then but those of `groups`.
    pub user: u32,
    /// The group that it runs as (setgid(2)), if `set_group`.
    pub group: u32,
    /// The permissions that files made by it do not get (umask(2)), if `set_umask`.
    pub umask: u32,
    /// The process group of this session that it joins; 0: this process', unless `new_group`.
    pub process_group: c_int,
    /// So much nicer than this process (nice(2)).
    pub nice: c_int,
    /// The signal that it gets when the thread that starts it ends (prctl(2)); 0: none. Linux only,
    /// elsewhere KOLO_ENOTSUP.
    pub parent_death_signal: c_int,
    /// `user` counts.
    pub set_user: c_bool,
    /// `group` counts.
    pub set_group: c_bool,
    /// `umask` counts.
    pub set_umask: c_bool,
    /// It leads a new process group (setpgid(2)): see kolo_process_kill_group.
    pub new_group: c_bool,
    /// It leads a new session without a terminal, and in it a new group (setsid(2)).
    pub new_session: c_bool,
    /// It leads a new session, whose terminal is its descriptor 0 (TIOCSCTTY).
    pub controlling_terminal: c_bool,
    /// Leaves it every descriptor that is open here without FD_CLOEXEC. Otherwise it gets none but
    /// those of `stdio`.
    pub keep_descriptors: c_bool,
    /// It is killed (SIGKILL) when its handle is closed while it runs, also by kolo_loop_free, which
    /// waits until all that it has killed are gone: for a moment, or a second at most if the system
    /// cannot end them.
    pub kill_on_close: c_bool,
}

/// What a spawn that failed was doing.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_spawn_step {
    /// Making the new process, and what is needed for it: its place in the loop, memory.
    KOLO_SPAWN_CREATE = 1,
    /// Putting it into its session or process group.
    KOLO_SPAWN_GROUP = 2,
    /// Giving it its descriptors.
    KOLO_SPAWN_DESCRIPTORS = 3,
    /// Making the terminal its controlling one.
    KOLO_SPAWN_TERMINAL = 4,
    /// Setting its resource limits, niceness or parent-death signal.
    KOLO_SPAWN_LIMITS = 5,
    /// Changing its user, group or groups.
    KOLO_SPAWN_CREDENTIALS = 6,
    /// Changing to its directory.
    KOLO_SPAWN_DIRECTORY = 7,
    /// Starting the program.
    KOLO_SPAWN_PROGRAM = 8,
}

/// What a program, and those children of its own that it waited for, used (getrusage(2)). Begin with
/// KOLO_RESOURCE_USAGE_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_resource_usage {
    /// sizeof(kolo_resource_usage), set by KOLO_RESOURCE_USAGE_INIT.
    pub size: usize,
    /// Processor time in its own code.
    pub user_ns: u64,
    /// Processor time in the system, on its behalf.
    pub system_ns: u64,
    /// The most memory that it had resident at once.
    pub resident_max_bytes: u64,
    /// Page faults that needed no reading.
    pub minor_faults: u64,
    /// Page faults that read from a disk.
    pub major_faults: u64,
    /// Times that a file system read for it.
    pub block_reads: u64,
    /// Times that a file system wrote for it.
    pub block_writes: u64,
    /// Times that it gave the processor up, to wait.
    pub voluntary_switches: u64,
    /// Times that the processor was taken from it.
    pub involuntary_switches: u64,
}

/// A program has ended: by itself, with the exit code `status` (0 to 255; 0 means that all went
/// well), and `signal` is 0; or by the signal `signal`, and `status` is 128 + `signal`. `status` is
/// KOLO_ECHILD if that cannot be known: other code of this process waited for it, or ignores
/// SIGCHLD; or this is a fork of the process that started it.
///
/// The handle closes when this returns. Bytes that the program wrote may still come to a stream, and
/// the end of the stream does.
pub type kolo_exit_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        process: kolo_process,
        status: c_int,
        signal: c_int,
        user: *mut c_void,
    ),
>;

// SAFETY: whole numbers and pointers, the first number being the size.
unsafe impl Versioned for kolo_stdio {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, out_stream) + size_of::<usize>());
}

// SAFETY: whole numbers, bytes and pointers, the first number being the size.
unsafe impl Versioned for kolo_process_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, kill_on_close) + 1);
}

// SAFETY: whole numbers, the first being the size.
unsafe impl Versioned for kolo_resource_usage {
    const FIRST: usize =
        first_size::<Self>(offset_of!(Self, involuntary_switches) + size_of::<u64>());
}

thread_local! {
    /// What the last spawn that failed on this thread was doing.
    static FAILED_STEP: Cell<c_int> = const { Cell::new(0) };
}

fn set_failed_step(step: c_int) {
    // A thread that is coming to its end may have no such variable any more.
    let _ = FAILED_STEP.try_with(|failed| failed.set(step));
}

/// Starts a program. When it has ended, `on_exit` is called, exactly once; NULL if that is of no
/// interest.
///
/// The program begins with this process' environment, directory, user, limits, process group and
/// standard descriptors, unless the options say otherwise. Signals that are handled here do to it
/// what they do by default, SIGPIPE also if it is ignored here; others that are ignored stay so; none
/// is blocked. It takes this thread as long as the system needs to have the program loaded, some
/// tenths of a millisecond, however much memory this process has.
///
/// Errors, after which nothing is left of it and nothing is called back, not even the on_close of its
/// streams: KOLO_ENOENT for a program or a directory that is not there; KOLO_EACCES for one that may
/// not be used; KOLO_ENOTDIR; KOLO_ENOEXEC for a file that is no program (also a script without #!);
/// KOLO_E2BIG for arguments and environment that are too long; KOLO_EPERM for what this process may not
/// change; KOLO_EMFILE, KOLO_ENFILE, KOLO_EAGAIN, KOLO_ENOMEM if descriptors, processes or memory are
/// short; KOLO_EBADF for a descriptor to be passed on that is not open; KOLO_EINVAL if `options`, the
/// program or `out` is NULL, for an unknown type, a pipe without handler or `out_stream`, `arguments`
/// without a name, more than one of `process_group`, `new_group` and `new_session`, too many groups or
/// limits, or a limit that cannot be; KOLO_ENOBUFS if the loop holds as many handles as it can;
/// KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_process_spawn(
    r#loop: *mut kolo_loop,
    options: *const kolo_process_options,
    on_exit: kolo_exit_cb,
    user: *mut c_void,
    out: *mut kolo_process,
) -> c_int {
    set_failed_step(0);
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (options, out) = unsafe { (sized::read(options)?, Out::new(out)?) };
        // SAFETY: as above: what the options point to.
        let spawned = unsafe { spawn::spawn(lp, &options, on_exit, user, set_failed_step) };
        out.set(spawned?);
        Ok(())
    })
}

/// What the last kolo_process_spawn on this thread failed at, a kolo_spawn_step: a missing directory
/// and a missing program are both KOLO_ENOENT. 0 if it did not fail, or for a wrong argument.
#[no_mangle]
pub extern "C" fn kolo_process_failed_step() -> c_int {
    FAILED_STEP.try_with(Cell::get).unwrap_or(0)
}

/// The number that the system gave the program (its pid): always positive. While on_exit runs it is
/// not used again.
#[no_mangle]
pub unsafe extern "C" fn kolo_process_id(r#loop: *mut kolo_loop, process: kolo_process) -> c_int {
    with_loop(r#loop, |lp| spawn::pid(lp, process))
}

/// Sends a signal to the program (kill(2)): SIGTERM asks it to end, SIGKILL ends it, 0 only asks
/// whether that would be allowed. It never hits another process that got its number.
///
/// Errors: KOLO_ESRCH if it has ended (in its on_exit; after that the handle is closed); KOLO_EPERM
/// for one that changed its user; KOLO_EINVAL for a number that is no signal.
#[no_mangle]
pub unsafe extern "C" fn kolo_process_kill(
    r#loop: *mut kolo_loop,
    process: kolo_process,
    signal: c_int,
) -> c_int {
    with_loop(r#loop, |lp| spawn::kill_process(lp, process, signal))
}

/// Sends a signal to the process group that the program was started as the leader of (`new_group`,
/// `new_session`): to it and to those that it started, unless they left the group. On Linux also in
/// its on_exit, for those that it leaves behind.
///
/// Errors: KOLO_EINVAL for one that was not started as a leader; KOLO_ESRCH if nobody is left; the
/// others as for kolo_process_kill.
#[no_mangle]
pub unsafe extern "C" fn kolo_process_kill_group(
    r#loop: *mut kolo_loop,
    process: kolo_process,
    signal: c_int,
) -> c_int {
    with_loop(r#loop, |lp| spawn::kill_group(lp, process, signal))
}

/// What the program has used of the machine, in its on_exit.
///
/// Errors: KOLO_EBUSY while it runs; KOLO_ECHILD if its status is not known either; KOLO_EINVAL if
/// `out` is NULL or its size is wrong.
#[no_mangle]
pub unsafe extern "C" fn kolo_process_usage(
    r#loop: *mut kolo_loop,
    process: kolo_process,
    out: *mut kolo_resource_usage,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Place::new(out)? };
        out.fill(&spawn::usage(lp, process)?);
        Ok(())
    })
}

/// Sends a signal to any process, or with a negative number to a process group (kill(2)). For a
/// program that kolo started kolo_process_kill is better: it never hits another one. Any thread.
///
/// As with kill(2), a `pid` of 0 is every process of the caller's group, the caller too; -1 is every
/// process that the caller may signal, which for root is nearly all of the system (on Linux all but the
/// first one and the caller). So check a number before it comes here: one that was never set is 0, and one
/// that failed to be found is often -1.
///
/// Errors: KOLO_ESRCH if there is none; KOLO_EPERM if it may not be; KOLO_EINVAL for a number that
/// is no signal.
#[no_mangle]
pub extern "C" fn kolo_kill(pid: c_int, signal: c_int) -> c_int {
    guard(|| -> Result<()> { spawn::kill_any(pid, signal) })
}
