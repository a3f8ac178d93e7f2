//! Forks, noticed by pthread_atfork(3).
//!
//! A forked child shares the parent's kernel objects: an epoll set changed by the child is
//! changed for the parent. So a loop that finds itself in a child answers `EFORKED` until it was
//! given kernel objects of its own.

mod lock;

#[cfg(target_os = "linux")]
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
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: the handlers only touch atomics, which is allowed in a fork handler, and
            // live as long as the program. Out of memory is the only error; then forks go
            // unnoticed, as in other libraries.
            unsafe { libc::pthread_atfork(Some(prepare), None, Some(child)) };
        });
    }
}
