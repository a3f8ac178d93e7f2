//! What the threads at a mailbox meet in: atomics, locks, barriers. Those of the standard library; in the tests that loom
//! runs (`loom_tests.rs`), its models of them.

#[cfg(not(all(loom, test)))]
pub(super) use real::*;
#[cfg(not(all(loom, test)))]
mod real {
    pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
    pub use std::sync::{Condvar, Mutex, MutexGuard, RwLock};

    pub(crate) use crate::sys::{has_heavy_barrier, heavy_barrier};

    /// The cheap half of [`heavy_barrier`], for the other threads: the compiler moves nothing across it.
    #[inline(always)]
    pub fn light_barrier() {
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(all(loom, test))]
pub(super) use model::*;
/// A heavy barrier makes all threads of the process pass a full one. Whatever they were doing, one half of it came before
/// and the other after; so it is as if each had a full barrier at its light one. That is what stands here.
#[cfg(all(loom, test))]
mod model {
    use std::cell::Cell;

    use loom::sync::atomic::{fence, Ordering};
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
    pub use loom::sync::{Condvar, Mutex, MutexGuard, RwLock};

    thread_local! {
        /// Whether the machine that is modelled has a heavy barrier. (All threads of a model run on one of the system's.)
        pub static HEAVY: Cell<bool> = const { Cell::new(true) };
    }

    pub fn has_heavy_barrier() -> bool {
        HEAVY.get()
    }

    pub fn light_barrier() {
        fence(Ordering::SeqCst);
    }

    pub fn heavy_barrier() {
        fence(Ordering::SeqCst);
    }
}
