//! A thread that sees when a callback does not return.
//!
//! The loop's thread notes when a callback begins and that it has ended, in two atomics; the watchdog's
//! looks at them from time to time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::error::Result;
use crate::handles::Id;
use crate::options::StuckCallback;
use crate::sys;

/// Looks in the time that a callback may take: what is reported is late by a quarter of it.
const LOOKS: u32 = 4;

/// More often would be nothing but looking.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// What the two threads share.
#[derive(Default)]
struct Noted {
    /// When the callback that runs began; 0: none runs.
    began: AtomicU64,
    /// Whose it is; 0: no handle's.
    handle: AtomicU64,
    ended: AtomicBool,
}

pub(crate) struct Watchdog {
    noted: Arc<Noted>,
    thread: Option<JoinHandle<()>>,
    fork_generation: u32,
}

impl Watchdog {
    /// Errors: the system's when it gives no thread.
    pub fn start(limit: Duration, on_stuck: StuckCallback) -> Result<Watchdog> {
        let noted = Arc::new(Noted::default());
        let shared = noted.clone();
        let thread = Builder::new()
            .name("kolo-watchdog".to_owned())
            .spawn(move || watch(&shared, limit, &on_stuck))?;
        Ok(Watchdog {
            noted,
            thread: Some(thread),
            fork_generation: sys::fork::generation(),
        })
    }

    pub fn begins(&self, id: Option<Id>, now: u64) {
        let handle = id.map_or(0, |id| id.to_raw());
        self.noted.handle.store(handle, Ordering::Relaxed);
        self.noted.began.store(now, Ordering::Release);
    }

    pub fn ended(&self) {
        self.noted.began.store(0, Ordering::Release);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.noted.ended.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return;
        };
        if self.fork_generation != sys::fork::generation() {
            // The thread is the parent's. Letting go of it would touch what it may hold locked.
            std::mem::forget(thread);
            return;
        }
        thread.thread().unpark();
        // A panic of the user's function was printed already.
        let _ = thread.join();
    }
}

/// What the thread does.
fn watch(noted: &Noted, limit: Duration, on_stuck: &StuckCallback) {
    #[cfg(unix)]
    sys::signals::block_all();
    let pause = (limit / LOOKS).max(PAUSE_MIN);
    let mut reported = 0;
    while !noted.ended.load(Ordering::Acquire) {
        std::thread::park_timeout(pause);
        let began = noted.began.load(Ordering::Acquire);
        if began == 0 || began == reported {
            continue;
        }
        let took = Duration::from_nanos(sys::monotonic_ns().saturating_sub(began));
        let handle = noted.handle.load(Ordering::Acquire);
        // Still the same one, so the handle is its.
        if took > limit && noted.began.load(Ordering::Acquire) == began {
            reported = began;
            on_stuck(Id::from_raw(handle), took);
        }
    }
}
