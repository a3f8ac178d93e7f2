//! Making the child.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use once_cell::sync::Lazy;

use super::child::{live, Context, Report};
use super::{Failure, Passed, Plan, SpawnStep};

/// A child that runs.
pub(crate) struct Started {
    pub pid: libc::pid_t,
    /// A descriptor that names it, and becomes readable when it ends (pidfd_open(2)).
    pub pidfd: Option<OwnedFd>,
}

/// A switch of the environment, `name=0` to do without what a system has: for tests, and for a
/// sandbox in which it is there but does not work.
fn is_wanted(name: &str) -> bool {
    std::env::var_os(name).is_none_or(|value| value != "0")
}

static WANTS_SHARED: Lazy<bool> = Lazy::new(|| is_wanted("KOLO_VFORK"));

/// Starts the child, and waits until it is the other program or has failed.
pub(crate) fn start(plan: &Plan) -> Result<Started, Failure> {
    if *WANTS_SHARED {
        if let Some(outcome) = shared::start(plan) {
            return outcome;
        }
    }
    forked(plan)
}

fn not_created(error: io::Error) -> Failure {
    Failure {
        step: SpawnStep::Create,
        errno: error.raw_os_error().unwrap_or(libc::EAGAIN),
    }
}

/// All signals are blocked as long as this lives: a handler that ran in the child would run in
/// the parent's memory.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> SignalsBlocked {
        // SAFETY: two sets of ours, the first filled before it is used; this thread's mask.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            SignalsBlocked(before)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the mask as it was.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}

/// A pipe that `execve` closes: what is written to it before is an error, its end is success.
struct ErrorPipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl ErrorPipe {
    fn open() -> Result<ErrorPipe, Failure> {
        let (reader, writer) = io::pipe().map_err(not_created)?;
        Ok(ErrorPipe {
            reader: reader.into(),
            writer: writer.into(),
        })
    }

    /// Waits for the child's word.
    fn outcome(self) -> Result<(), Failure> {
        drop(self.writer);
        let mut words = [0 as c_int; 2];
        loop {
            let (at, size) = (words.as_mut_ptr().cast::<c_void>(), size_of_val(&words));
            // SAFETY: so many bytes of ours can be written to.
            let read = unsafe { libc::read(self.reader.as_raw_fd(), at, size) };
            if read == size as isize {
                return Err(Failure {
                    step: SpawnStep::from_number(words[0]),
                    errno: words[1],
                });
            }
            if read >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                return Ok(());
            }
        }
    }
}

/// The child has failed and ends by itself: nobody else is to hear of it.
fn reap(pid: libc::pid_t) {
    // SAFETY: takes a number, and no place for a status. EINTR is the only error that a second
    // try helps.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0 {
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

fn this_process() -> libc::pid_t {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getpid() }
}

/// By fork(2), where nothing better works: the parent's page table is copied.
fn forked(plan: &Plan) -> Result<Started, Failure> {
    let pipe = ErrorPipe::open()?;
    let report = Report::default();
    let mut moved: Vec<Passed> = plan.descriptors.clone();
    let context = Context {
        plan,
        report: &report,
        moved: moved.as_mut_ptr(),
        pipe: pipe.writer.as_raw_fd(),
        parent: this_process(),
    };
    let pid = {
        let _blocked = SignalsBlocked::new();
        // SAFETY: the child runs nothing but `live`, which makes system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let status = live(ptr::from_ref(&context).cast_mut().cast());
            // SAFETY: takes a number. It has ended already.
            unsafe { libc::_exit(status) };
        }
        pid
    };
    if pid < 0 {
        return Err(not_created(io::Error::last_os_error()));
    }
    if let Err(failure) = pipe.outcome() {
        reap(pid);
        return Err(failure);
    }
    let pidfd = super::super::children::open_pidfd(pid);
    Ok(Started { pid, pidfd })
}

#[cfg(not(target_os = "linux"))]
mod shared {
    use super::*;

    pub fn start(_plan: &Plan) -> Option<Result<Started, Failure>> {
        None
    }
}

#[cfg(target_os = "linux")]
mod shared {
    use std::mem::ManuallyDrop;
    use std::os::fd::FromRawFd;
    use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

    use super::super::super::children;
    use super::*;

    /// Whether the child really shares our memory, so that its report is seen there. Where
    /// another program stands between us and the kernel (valgrind, user-mode emulation) it may
    /// get a copy.
    static SHARES: AtomicU8 = AtomicU8::new(UNKNOWN);
    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;

    #[cfg(target_env = "gnu")]
    extern "C" {
        fn __clone(
            run: extern "C" fn(*mut c_void) -> c_int,
            stack: *mut c_void,
            flags: c_int,
            argument: *mut c_void,
            ...
        ) -> c_int;
    }

    /// `None`: such a child cannot be made here.
    pub fn start(plan: &Plan) -> Option<Result<Started, Failure>> {
        // Without shared memory its error comes by a pipe. The first child has both.
        let pipe = match SHARES.load(Ordering::Relaxed) {
            YES => None,
            // A copy on a stack of its own has nothing for it.
            NO => return None,
            _ => match ErrorPipe::open() {
                Ok(pipe) => Some(pipe),
                Err(failure) => return Some(Err(failure)),
            },
        };
        let stack = match Stack::take() {
            Ok(stack) => stack,
            Err(failure) => return Some(Err(failure)),
        };
        let report = Report::default();
        let mut moved: Vec<Passed> = plan.descriptors.clone();
        let context = Context {
            plan,
            report: &report,
            moved: moved.as_mut_ptr(),
            pipe: pipe.as_ref().map_or(-1, |pipe| pipe.writer.as_raw_fd()),
            parent: this_process(),
        };
        let cloned = clone(&stack, &context);
        stack.give_back();
        let (pid, pidfd) = match cloned {
            Ok(child) => child,
            Err(libc::EINVAL | libc::ENOSYS | libc::EPERM) => return None,
            Err(errno) => {
                return Some(Err(Failure {
                    step: SpawnStep::Create,
                    errno,
                }));
            }
        };
        let outcome = if report.started.load(Ordering::SeqCst) == 1 {
            SHARES.store(YES, Ordering::Relaxed);
            reported(&report)
        } else {
            SHARES.store(NO, Ordering::Relaxed);
            pipe.map_or(Ok(()), ErrorPipe::outcome)
        };
        Some(match outcome {
            Ok(()) => {
                let pidfd = pidfd.or_else(|| children::open_pidfd(pid));
                Ok(Started { pid, pidfd })
            }
            Err(failure) => {
                reap(pid);
                Err(failure)
            }
        })
    }

    /// What the child left in our memory, which it has left itself.
    fn reported(report: &Report) -> Result<(), Failure> {
        match report.step.load(Ordering::SeqCst) {
            0 => Ok(()),
            step => Err(Failure {
                step: SpawnStep::from_number(step),
                errno: report.errno.load(Ordering::SeqCst),
            }),
        }
    }

    /// The child, which runs `live` on a stack of its own in our memory; this thread goes on when
    /// it has left it.
    fn clone(
        stack: &Stack,
        context: &Context<'_>,
    ) -> Result<(libc::pid_t, Option<OwnedFd>), c_int> {
        let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        if children::has_pidfd() {
            flags |= libc::CLONE_PIDFD;
        }
        let mut pidfd: c_int = -1;
        let context = ptr::from_ref(context).cast_mut().cast::<c_void>();
        let _blocked = SignalsBlocked::new();
        // The thread sanitizer stands before `clone` and takes every child for one with a memory of
        // its own; glibc's other name for the same function it leaves alone.
        #[cfg(target_env = "gnu")]
        use __clone as clone;
        #[cfg(not(target_env = "gnu"))]
        use libc::clone;
        // SAFETY: the stack is as large as the child needs and nobody else's; the context lives
        // until this returns, and CLONE_VFORK keeps it from returning while the child runs in this
        // memory. `live` makes system calls only, and with signals blocked nothing else runs
        // there. The descriptor's place is ours.
        let pid = unsafe { clone(live, stack.top(), flags, context, &mut pidfd) };
        if pid < 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        // SAFETY: the system call just made it for us.
        let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
        Ok((pid, pidfd))
    }

    /// Memory for the child to stand on, with a page below that must not be touched.
    struct Stack {
        base: *mut c_void,
    }

    /// What the child's few calls need is a tenth of it, also in a build without optimisation.
    const STACK: usize = 64 * 1024;
    /// As large as pages are anywhere.
    const GUARD: usize = 64 * 1024;

    /// The one that was used last: taken out while it is used. (Not behind a lock, which a fork
    /// might find held.)
    static SPARE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

    impl Stack {
        fn take() -> Result<Stack, Failure> {
            let spare = SPARE.swap(ptr::null_mut(), Ordering::AcqRel);
            if !spare.is_null() {
                return Ok(Stack { base: spare });
            }
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
            let (nowhere, length) = (ptr::null_mut(), GUARD + STACK);
            // SAFETY: new memory, at a place that the system picks.
            let base = unsafe { libc::mmap(nowhere, length, libc::PROT_NONE, flags, -1, 0) };
            if base == libc::MAP_FAILED {
                return Err(not_created(io::Error::last_os_error()));
            }
            let stack = Stack { base };
            let usable = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: the upper part of what was just mapped.
            if unsafe { libc::mprotect(base.byte_add(GUARD), STACK, usable) } < 0 {
                return Err(not_created(io::Error::last_os_error()));
            }
            Ok(stack)
        }

        /// Stacks grow downwards, everywhere that Linux is.
        fn top(&self) -> *mut c_void {
            // SAFETY: the end of the mapped memory.
            unsafe { self.base.byte_add(GUARD + STACK) }
        }

        fn give_back(self) {
            let stack = ManuallyDrop::new(self);
            let former = SPARE.swap(stack.base, Ordering::AcqRel);
            if !former.is_null() {
                drop(Stack { base: former });
            }
        }
    }

    impl Drop for Stack {
        fn drop(&mut self) {
            // SAFETY: mapped by `take`, with this length, and used by nobody.
            unsafe { libc::munmap(self.base, GUARD + STACK) };
        }
    }
}
