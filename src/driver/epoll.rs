//! Linux: epoll, one system call a wait.
//!
//! `Poller::wait` of the `polling` crate makes five system calls where one will do, and its
//! interests cannot name `EPOLLRDHUP`, without which edge-triggered reading cannot stop at a
//! short read. So Linux has its own selector; `polling` serves the other systems.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use super::readiness::{Ready, Selector, Trigger};
use super::{Interest, Wake};
use crate::error::{Code, Error, Result};
use crate::handles::Id;
use crate::sys::{self, Descriptor};

/// The event data of the wake-up descriptor; no [`Id`] is 0.
const WAKE: u64 = 0;

/// Timeouts below this wait with `epoll_pwait2`, whose nanoseconds cost 0.1 µs more than
/// `epoll_wait`'s milliseconds; longer ones wait whole milliseconds first and the rest precisely.
const PRECISE_BELOW_NS: u64 = 16_000_000;

const NS_PER_MS: u64 = 1_000_000;

pub(crate) struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
    collected: usize,
    wake: Arc<EventFd>,
    /// Somebody else watches the wake-up descriptor, and this epoll set.
    is_beneath: bool,
    /// The kernel has leave to write to `events`, by an operation of a ring's.
    #[cfg(kolo_uring)]
    is_lent: bool,
    /// What it wrote, and nobody has asked for yet.
    #[cfg(kolo_uring)]
    told: Option<usize>,
    /// The process that made the epoll set: in a forked child it is the parent's, and changing
    /// it would change it there.
    fork_generation: u32,
}

/// An event descriptor, registered edge-triggered: a write always wakes, and nobody reads it.
struct EventFd {
    owned: Mutex<Option<OwnedFd>>,
    /// The same descriptor, for a `wake` without a lock. It changes only in a forked child.
    raw: AtomicI32,
}

impl EventFd {
    fn open(&self) -> Result<()> {
        let owned = event_descriptor()?;
        self.raw.store(owned.as_raw_fd(), Ordering::Release);
        *self
            .owned
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(owned);
        Ok(())
    }

    fn raw(&self) -> Descriptor {
        self.raw.load(Ordering::Acquire)
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        sys::write_event(self.raw());
    }
}

fn own(raw: Descriptor) -> Result<OwnedFd> {
    if raw < 0 {
        return Err(Error::last());
    }
    // SAFETY: a system call just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A new event descriptor (eventfd(2)).
pub(super) fn event_descriptor() -> Result<OwnedFd> {
    // SAFETY: eventfd takes two numbers and gives a new descriptor or -1.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

fn new_epoll() -> Result<OwnedFd> {
    // SAFETY: epoll_create1 takes a number and gives a new descriptor or -1.
    own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

impl Epoll {
    pub fn new(events: usize) -> Result<Epoll> {
        let mut epoll = Epoll::beneath(events)?;
        epoll.is_beneath = false;
        epoll.watch_wake()?;
        Ok(epoll)
    }

    /// For a driver that watches the epoll set and the wake-up descriptor itself.
    pub fn beneath(events: usize) -> Result<Epoll> {
        let wake = EventFd {
            owned: Mutex::new(None),
            raw: AtomicI32::new(-1),
        };
        wake.open()?;
        let empty = libc::epoll_event { events: 0, u64: 0 };
        Ok(Epoll {
            descriptor: new_epoll()?,
            events: vec![empty; events.max(1)],
            collected: 0,
            wake: Arc::new(wake),
            is_beneath: true,
            #[cfg(kolo_uring)]
            is_lent: false,
            #[cfg(kolo_uring)]
            told: None,
            fork_generation: sys::fork::generation(),
        })
    }

    #[cfg(kolo_uring)]
    pub fn descriptor(&self) -> Descriptor {
        self.descriptor.as_raw_fd()
    }

    /// Where an operation of a ring's may write what is ready, and how much. Until [`Epoll::told`] says that it is
    /// over, `wait` finds nothing. Only while all that was collected is handed out.
    #[cfg(kolo_uring)]
    pub fn lend(&mut self) -> (*mut libc::epoll_event, u32) {
        self.is_lent = true;
        (self.events.as_mut_ptr(), self.events.len() as u32)
    }

    /// The operation is over, and wrote so many: the next `wait` finds them.
    #[cfg(kolo_uring)]
    pub fn told(&mut self, count: usize) {
        self.is_lent = false;
        self.told = (count > 0).then_some(count.min(self.events.len()));
    }

    #[cfg(kolo_uring)]
    pub fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// Whether events are told and not asked for.
    #[cfg(kolo_uring)]
    pub fn has_told(&self) -> bool {
        self.told.is_some()
    }

    #[cfg(kolo_uring)]
    pub fn wake_descriptor(&self) -> Descriptor {
        self.wake.raw()
    }

    /// Has this set tell of each change to another one, and of its wake-ups. What is told is nobody's in particular.
    #[cfg(kolo_uring)]
    pub fn watch(&mut self, other: &Epoll) -> Result<()> {
        let flags = (libc::EPOLLIN | libc::EPOLLET) as u32;
        for at in [other.descriptor(), other.wake_descriptor()] {
            self.control(libc::EPOLL_CTL_ADD, at, flags, WAKE)?;
        }
        Ok(())
    }

    fn watch_wake(&mut self) -> Result<()> {
        let flags = libc::EPOLLIN | libc::EPOLLET;
        self.control(libc::EPOLL_CTL_ADD, self.wake.raw(), flags as u32, WAKE)
    }

    fn control(&self, operation: i32, at: Descriptor, events: u32, data: u64) -> Result<()> {
        if self.fork_generation != sys::fork::generation() {
            return Err(Code::EFORKED.into());
        }
        let mut event = libc::epoll_event { events, u64: data };
        let epoll = self.descriptor.as_raw_fd();
        // SAFETY: `event` is a valid epoll_event for the duration of the call; a bad descriptor
        // is answered with an error.
        let outcome = unsafe { libc::epoll_ctl(epoll, operation, at, &mut event) };
        if outcome < 0 {
            return Err(Error::last());
        }
        Ok(())
    }

    /// One wait; `None` if a signal handler interrupted it.
    fn wait_once(&mut self, timeout: Timeout) -> Result<Option<usize>> {
        let (epoll, room) = (self.descriptor.as_raw_fd(), self.events.len() as i32);
        let events = self.events.as_mut_ptr();
        let outcome = match timeout {
            // SAFETY: `events` points to `room` events that only this call writes to.
            Timeout::Milliseconds(ms) => unsafe { libc::epoll_wait(epoll, events, room, ms) },
            Timeout::Precise(ns) => {
                let limit = libc::timespec {
                    tv_sec: (ns / 1_000_000_000) as libc::time_t,
                    tv_nsec: (ns % 1_000_000_000) as libc::c_long,
                };
                // SAFETY: as above; `limit` lives through the call, a null mask means none. The
                // raw system call is used since older C libraries lack the wrapper.
                unsafe {
                    let number = libc::SYS_epoll_pwait2;
                    let mask = std::ptr::null::<libc::sigset_t>();
                    libc::syscall(number, epoll, events, room, &limit, mask, 8usize) as i32
                }
            }
        };
        if outcome >= 0 {
            return Ok(Some(outcome as usize));
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error.into()),
        }
    }
}

enum Timeout {
    /// -1: without limit.
    Milliseconds(i32),
    Precise(u64),
}

/// Whether the kernel has `epoll_pwait2` (Linux 5.11) and nothing forbids it.
static HAS_PWAIT2: AtomicBool = AtomicBool::new(true);

/// The next wait towards a deadline that is `left` nanoseconds away.
fn timeout_towards(left: u64) -> Timeout {
    if left == 0 {
        return Timeout::Milliseconds(0);
    }
    if left >= PRECISE_BELOW_NS {
        // Rounded down, so that the precise wait can follow.
        return Timeout::Milliseconds((left / NS_PER_MS).min(i32::MAX as u64) as i32);
    }
    if HAS_PWAIT2.load(Ordering::Relaxed) {
        return Timeout::Precise(left);
    }
    Timeout::Milliseconds(left.div_ceil(NS_PER_MS) as i32)
}

fn flags(want: Interest, trigger: Trigger) -> u32 {
    let mut flags = 0;
    for (interest, flag) in [
        (Interest::READABLE, libc::EPOLLIN),
        (Interest::WRITABLE, libc::EPOLLOUT),
        (Interest::DISCONNECT, libc::EPOLLRDHUP),
        (Interest::PRIORITY, libc::EPOLLPRI),
    ] {
        if want.contains(interest) {
            flags |= flag;
        }
    }
    if trigger == Trigger::Edge {
        flags |= libc::EPOLLET;
    }
    flags as u32
}

impl Selector for Epoll {
    const EDGE: bool = true;

    fn add(&mut self, at: Descriptor, id: Id, want: Interest, trigger: Trigger) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, at, flags(want, trigger), id.to_raw())
    }

    fn modify(&mut self, at: Descriptor, id: Id, want: Interest, trigger: Trigger) -> Result<()> {
        self.control(libc::EPOLL_CTL_MOD, at, flags(want, trigger), id.to_raw())
    }

    fn delete(&mut self, at: Descriptor, _id: Id) {
        if self.fork_generation != sys::fork::generation() {
            return;
        }
        // Fails only for a descriptor that is already closed, which ended the registration.
        let _ = self.control(libc::EPOLL_CTL_DEL, at, 0, 0);
    }

    fn forget(&mut self, at: Descriptor, id: Id) {
        // Closing the last descriptor of a file ends its registration, which saves this call;
        // but a forked child may hold another.
        if sys::fork::ever_forked() {
            self.delete(at, id);
        }
    }

    fn wait(&mut self, timeout_ns: Option<u64>, now_ns: u64) -> Result<usize> {
        self.collected = 0;
        #[cfg(kolo_uring)]
        if self.told.is_some() || self.is_lent {
            self.collected = self.told.take().unwrap_or(0);
            return Ok(self.collected);
        }
        let Some(timeout_ns) = timeout_ns else {
            loop {
                if let Some(found) = self.wait_once(Timeout::Milliseconds(-1))? {
                    self.collected = found;
                    return Ok(found);
                }
            }
        };
        let deadline = now_ns.saturating_add(timeout_ns);
        let mut left = timeout_ns;
        loop {
            let found = match self.wait_once(timeout_towards(left)) {
                Err(error) if error.system() == libc::ENOSYS || error.system() == libc::EPERM => {
                    if !HAS_PWAIT2.swap(false, Ordering::Relaxed) {
                        return Err(error);
                    }
                    continue;
                }
                found => found?,
            };
            self.collected = found.unwrap_or(0);
            if self.collected > 0 || left == 0 || found.is_some() && left < PRECISE_BELOW_NS {
                return Ok(self.collected);
            }
            // Interrupted, or the whole milliseconds of a long wait are over: on with the rest.
            left = deadline.saturating_sub(sys::monotonic_ns());
            if left == 0 {
                return Ok(0);
            }
        }
    }

    #[inline]
    fn ready(&self, at: usize) -> Option<Ready> {
        let event = self.events.get(at)?;
        let (bits, data) = (event.events as i32, event.u64);
        let id = Id::from_raw(data)?;
        if bits == libc::EPOLLIN {
            let interest = Interest::READABLE;
            return Some(Ready {
                id,
                interest,
                error: false,
            });
        }
        let mut interest = Interest::empty();
        interest.set(Interest::READABLE, bits & libc::EPOLLIN != 0);
        interest.set(Interest::WRITABLE, bits & libc::EPOLLOUT != 0);
        interest.set(Interest::DISCONNECT, bits & libc::EPOLLRDHUP != 0);
        interest.set(Interest::PRIORITY, bits & libc::EPOLLPRI != 0);
        Some(Ready {
            id,
            interest,
            error: bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0,
        })
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.wake.clone()
    }

    fn backend_descriptor(&self) -> Option<Descriptor> {
        Some(self.descriptor.as_raw_fd())
    }

    fn forked(&mut self) -> Result<()> {
        self.descriptor = new_epoll()?;
        self.fork_generation = sys::fork::generation();
        self.wake.open()?;
        self.collected = 0;
        #[cfg(kolo_uring)]
        {
            (self.is_lent, self.told) = (false, None);
        }
        if self.is_beneath {
            return Ok(());
        }
        self.watch_wake()
    }
}
