//! Locks that are whole in a forked child.
//!
//! A thread may fork while another one holds a lock, which then would never be let go in the child. So a fork takes the
//! library's own locks, and both sides let them go.

use std::sync::{Mutex, MutexGuard};

/// A lock of a static's that survives forks. No other of these may be taken while one is held.
pub(crate) struct ForkLock<T: 'static> {
    inner: Mutex<T>,
    #[cfg(unix)]
    part: unix::Part<T>,
}

impl<T: Send> ForkLock<T> {
    pub const fn new(value: T) -> ForkLock<T> {
        ForkLock {
            inner: Mutex::new(value),
            #[cfg(unix)]
            part: unix::Part::new(),
        }
    }

    pub fn lock(&'static self) -> MutexGuard<'static, T> {
        #[cfg(unix)]
        self.part.survive(self);
        self.now()
    }

    fn now(&'static self) -> MutexGuard<'static, T> {
        self.inner
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(unix)]
mod unix {
    use std::cell::UnsafeCell;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, MutexGuard};

    use super::super::at_fork;
    use super::ForkLock;

    /// What a lock needs for its forks.
    pub(super) struct Part<T: 'static> {
        /// In the list. (Not a `Once`, for which a child would wait for ever that was forked in the middle of it.)
        known: AtomicBool,
        held: UnsafeCell<Option<MutexGuard<'static, T>>>,
    }

    // SAFETY: `held` is only touched by a thread that is forking and holds the lock of the list of all of them.
    unsafe impl<T: Send> Sync for Part<T> {}

    impl<T: Send> Part<T> {
        pub const fn new() -> Part<T> {
            Part {
                known: AtomicBool::new(false),
                held: UnsafeCell::new(None),
            }
        }

        /// From now on forks take this lock too.
        pub fn survive(&self, lock: &'static ForkLock<T>) {
            if self.known.load(Ordering::Acquire) {
                return;
            }
            static NOTICED: AtomicBool = AtomicBool::new(false);
            at_fork(&NOTICED, Some(prepare), Some(release), Some(release));
            let mut list = list();
            if !self.known.load(Ordering::Relaxed) {
                list.push(lock);
                self.known.store(true, Ordering::Release);
            }
        }
    }

    trait Survives: Sync {
        fn take(&'static self);
        fn let_go(&'static self);
    }

    impl<T: Send> Survives for ForkLock<T> {
        fn take(&'static self) {
            let guard = self.now();
            // SAFETY: this thread forks, and holds the list's lock: see `Part`.
            unsafe { *self.part.held.get() = Some(guard) };
        }

        fn let_go(&'static self) {
            // SAFETY: as in `take`.
            drop(unsafe { (*self.part.held.get()).take() });
        }
    }

    type List = Vec<&'static dyn Survives>;

    static LIST: Mutex<List> = Mutex::new(Vec::new());

    fn list() -> MutexGuard<'static, List> {
        LIST.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    struct Held(UnsafeCell<Option<MutexGuard<'static, List>>>);

    // SAFETY: only who holds the list's lock touches it.
    unsafe impl Sync for Held {}

    static HELD: Held = Held(UnsafeCell::new(None));

    extern "C" fn prepare() {
        let list = list();
        list.iter().for_each(|lock| lock.take());
        // SAFETY: this thread holds the list's lock now.
        unsafe { *HELD.0.get() = Some(list) };
    }

    /// In the parent and in the child, by the thread that forked.
    extern "C" fn release() {
        // SAFETY: this thread has held the list's lock since `prepare`.
        if let Some(list) = unsafe { (*HELD.0.get()).take() } {
            list.iter().for_each(|lock| lock.let_go());
        }
    }
}
