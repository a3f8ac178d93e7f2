//! Forks, noticed by pthread_atfork(3).
//!
//! A forked child shares the parent's kernel objects: an epoll set changed by the child is
//! changed for the parent. So a loop that finds itself in a child answers `EFORKED` until it was
//! given kernel objects of its own.

mod lock;

#[cfg(unix)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use lock::ForkLock;

static GENERATION: AtomicU32 = AtomicU32::new(0);
#[cfg(target_os = "linux")]
static EVER: AtomicBool = AtomicBool::new(false);

/// How many forks lie between this process and the first that used kolo.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Whether this process has forked, or is a fork, or has passed descriptors on to a program.
#[cfg(target_os = "linux")]
pub(crate) fn ever_forked() -> bool {
    EVER.load(Ordering::Relaxed)
}

/// Programs that this process starts are given descriptors that it has itself, so that closing
/// one may not end its registration with the selector.
#[cfg(all(unix, feature = "process"))]
pub(crate) fn descriptors_are_shared() {
    #[cfg(target_os = "linux")]
    EVER.store(true, Ordering::Relaxed);
}

/// Begins to notice. Called when a loop is made.
pub(crate) fn notice() {
    #[cfg(unix)]
    {
        extern "C" fn prepare() {
            #[cfg(target_os = "linux")]
            EVER.store(true, Ordering::Relaxed);
        }
        extern "C" fn child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
            super::signals::after_fork();
            #[cfg(feature = "tty")]
            super::terminal::after_fork();
        }
        static NOTICED: AtomicBool = AtomicBool::new(false);
        // They only touch atomics.
        at_fork(&NOTICED, Some(prepare), None, Some(child));
    }
}

#[cfg(unix)]
type AtFork = Option<unsafe extern "C" fn()>;

/// Has forks call these functions, which must do what is allowed there only, from now on; once for
/// each `noticed`. (Not by a `Once`, for which a child would wait for ever that another thread
/// forked in the middle of it.)
#[cfg(unix)]
pub(crate) fn at_fork(
    noticed: &'static AtomicBool,
    prepare: AtFork,
    parent: AtFork,
    child: AtFork,
) {
    if !noticed.swap(true, Ordering::AcqRel) {
        // SAFETY: functions live as long as the program. Out of memory is the only error; then
        // forks go unnoticed, as in other libraries.
        unsafe { libc::pthread_atfork(prepare, parent, child) };
    }
}
