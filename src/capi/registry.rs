//! Which loops live, and which thread each belongs to.
//!
//! A loop's pointer is checked before it is looked behind: a freed loop, garbage, or a loop of
//! another thread is found out by comparison. On the way that is always taken, it is one: each
//! thread remembers the loop that it used last.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::num::NonZeroU64;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::MutexGuard;

use super::types::kolo_loop;
use crate::error::{Code, Result};
use crate::sys::fork::ForkLock;

thread_local! {
    /// A loop that lives, and that this thread owns; or NULL. Only this thread frees it or gives
    /// it up, and then forgets it here.
    static CURRENT: Cell<*const kolo_loop> = const { Cell::new(ptr::null()) };
    /// The thread's number; 0 until it is asked for.
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// A thread's name for ownership. Unlike the system's it is never used again; unlike
/// `std::thread::current` it can be had from the destructors of thread-local variables.
pub(super) fn this_thread() -> Option<NonZeroU64> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = THREAD.try_with(|number| {
        if number.get() == 0 {
            number.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        number.get()
    });
    NonZeroU64::new(number.unwrap_or(0))
}

fn set_current(at: *const kolo_loop) {
    // Without the variable, at a thread's very end, every check takes the long way.
    let _ = CURRENT.try_with(|current| current.set(at));
}

struct Entry {
    /// `None`: nobody's, between detaching and attaching.
    owner: Option<NonZeroU64>,
    driver: &'static CStr,
}

struct Loops {
    /// By address.
    live: BTreeMap<usize, Entry>,
    /// The names of drivers as C strings, each once.
    drivers: Vec<&'static CStr>,
}

static LOOPS: ForkLock<Loops> = ForkLock::new(Loops {
    live: BTreeMap::new(),
    drivers: Vec::new(),
});

fn loops() -> MutexGuard<'static, Loops> {
    LOOPS.lock()
}

impl Loops {
    fn driver(&mut self, name: &str) -> &'static CStr {
        if let Some(known) = self
            .drivers
            .iter()
            .find(|c| c.to_bytes() == name.as_bytes())
        {
            return known;
        }
        let name = CString::new(name).unwrap_or_default();
        let name: &'static CStr = Box::leak(name.into_boxed_c_str());
        self.drivers.push(name);
        name
    }
}

/// An error unless a loop lives at this address and belongs to the calling thread.
#[inline]
pub(super) fn check(at: *const kolo_loop) -> Result<()> {
    let known = CURRENT.try_with(Cell::get).is_ok_and(|it| it == at);
    if known && !at.is_null() {
        return Ok(());
    }
    check_in_registry(at)
}

#[cold]
fn check_in_registry(at: *const kolo_loop) -> Result<()> {
    if at.is_null() {
        return Err(Code::EINVAL.into());
    }
    let owner = match loops().live.get(&at.addr()) {
        Some(entry) => entry.owner,
        None => return Err(Code::EBADF.into()),
    };
    if owner.is_none() || owner != this_thread() {
        return Err(Code::EWRONGTHREAD.into());
    }
    set_current(at);
    Ok(())
}

/// A new loop, which belongs to the calling thread.
pub(super) fn add(at: *const kolo_loop, driver: &str) -> Result<()> {
    let owner = this_thread();
    if owner.is_none() {
        return Err(Code::EWRONGTHREAD.into());
    }
    let mut loops = loops();
    let driver = loops.driver(driver);
    loops.live.insert(at.addr(), Entry { owner, driver });
    set_current(at);
    Ok(())
}

/// A loop that is about to be freed by its owner.
pub(super) fn remove(at: *const kolo_loop) {
    loops().live.remove(&at.addr());
    set_current(ptr::null());
}

/// The calling thread, which owns the loop, gives it up.
pub(super) fn detach(at: *const kolo_loop) {
    if let Some(entry) = loops().live.get_mut(&at.addr()) {
        entry.owner = None;
    }
    set_current(ptr::null());
}

/// The calling thread takes a loop that is nobody's.
pub(super) fn attach(at: *const kolo_loop) -> Result<()> {
    if at.is_null() {
        return Err(Code::EINVAL.into());
    }
    let thread = this_thread().ok_or(Code::EWRONGTHREAD)?;
    let mut loops = loops();
    let entry = loops.live.get_mut(&at.addr()).ok_or(Code::EBADF)?;
    if entry.owner.is_some() {
        return Err(Code::EBUSY.into());
    }
    entry.owner = Some(thread);
    set_current(at);
    Ok(())
}

/// The name of a loop's driver, on any thread.
pub(super) fn driver(at: *const kolo_loop) -> Option<&'static CStr> {
    loops().live.get(&at.addr()).map(|entry| entry.driver)
}
