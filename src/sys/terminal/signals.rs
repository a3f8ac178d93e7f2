//! Signals that end or stop the process put terminals back first.
//!
//! The handlers are there only while a terminal is in another mode, and only for signals whose
//! disposition is the default one: what the program or kolo handles is left alone.

use std::sync::atomic::{AtomicU64, Ordering};

use super::modes::{apply_again, put_back_all};
use crate::sys::keep_errno;

/// What ends a process by default (signal(7)). Not the real-time signals, which nobody sends to a
/// process that does not know them.
const FATAL: &[libc::c_int] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGSYS,
];

type Handler = extern "C" fn(libc::c_int);

/// Every signal that is handled, and how.
fn handlers() -> impl Iterator<Item = (libc::c_int, Handler)> {
    let fatal = FATAL.iter().map(|number| (*number, ended as Handler));
    fatal.chain([
        (libc::SIGTSTP, stopped as Handler),
        (libc::SIGCONT, continued as Handler),
    ])
}

/// Signals whose handler was set here, bit `number - 1`.
static INSTALLED: AtomicU64 = AtomicU64::new(0);

/// Handles those signals that nobody else does.
pub(super) fn install() {
    for (number, handler) in handlers() {
        if disposition(number) == libc::SIG_DFL {
            set(number, handler as libc::sighandler_t);
            INSTALLED.fetch_or(1 << (number - 1), Ordering::SeqCst);
        }
    }
}

/// Puts the default dispositions back, where nobody else has set one since.
pub(super) fn remove() {
    let installed = INSTALLED.swap(0, Ordering::SeqCst);
    for (number, handler) in handlers() {
        let ours = installed >> (number - 1) & 1 != 0;
        if ours && disposition(number) == handler as libc::sighandler_t {
            set(number, libc::SIG_DFL);
        }
    }
}

/// Async-signal-safe.
fn disposition(number: libc::c_int) -> libc::sighandler_t {
    // SAFETY: a zeroed sigaction is valid; with no new action the call only reads.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &mut action);
        action.sa_sigaction
    }
}

/// Async-signal-safe.
fn set(number: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: a zeroed sigaction is a valid one; the handlers here are async-signal-safe and live
    // as long as the library.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        // On the other stack if there is one: this one may have overflown. System calls of the
        // program's go on after a stop, as they do without a handler.
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(number, &action, std::ptr::null_mut());
    }
}

/// A signal that ends the process: it does so when this returns, since it was raised again with
/// its default disposition, and is blocked until then. Where the program's own instruction was
/// the reason, that meets the same fault again, so that a core dump shows where.
extern "C" fn ended(number: libc::c_int) {
    put_back_all();
    set(number, libc::SIG_DFL);
    // SAFETY: async-signal-safe.
    unsafe { libc::raise(number) };
}

/// The stop of job control: the process stops in here.
extern "C" fn stopped(number: libc::c_int) {
    keep_errno(|| {
        put_back_all();
        set(number, libc::SIG_DFL);
        // SAFETY: async-signal-safe, all of them, with signal sets of this frame.
        unsafe {
            libc::raise(number);
            let mut only: libc::sigset_t = std::mem::zeroed();
            let mut before = only;
            libc::sigemptyset(&mut only);
            libc::sigaddset(&mut only, number);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &only, &mut before);
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        }
        // Continued, or never stopped: there is nobody to continue an orphaned process group. If
        // all terminals were put back meanwhile, the handler does what the default does.
        if disposition(number) == libc::SIG_DFL {
            set(number, stopped as Handler as libc::sighandler_t);
            INSTALLED.fetch_or(1 << (number - 1), Ordering::SeqCst);
        }
        apply_again();
    });
}

/// The process was continued, perhaps in the foreground. (That it is continued needs no handler.)
extern "C" fn continued(_: libc::c_int) {
    keep_errno(apply_again);
}

/// While it lives, this thread gets no signals.
pub(super) struct Blocked(libc::sigset_t);

impl Blocked {
    pub fn all() -> Blocked {
        // SAFETY: signal sets of this frame, filled in before they are used.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before = all;
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Blocked(before)
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the mask as it was.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}
