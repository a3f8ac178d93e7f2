//! Every other system: the `polling` crate (kqueue, IOCP/AFD, event ports, poll).
//!
//! Level-triggered, since that is what all of them have. On Linux it can be chosen by name
//! (`KOLO_DRIVER=polling`), so that the tests run the portable way too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use polling::{Event, Events, PollMode, Poller};

use super::readiness::{Ready, Selector, Trigger};
use super::{Interest, Wake};
use crate::error::{Code, Result};
use crate::handles::Id;
use crate::sys::{self, Descriptor};

pub(crate) struct Portable {
    poller: Arc<Poller>,
    events: Events,
    collected: Vec<Ready>,
    /// The handle behind each key. A key is a slot's index, since a key has 32 bits on some
    /// systems.
    ids: Vec<Option<Id>>,
    wake: Arc<Notify>,
    /// The process that made the poller: in a forked child it is the parent's, and changing it
    /// would change it there.
    fork_generation: u32,
}

/// The poller may be another one after a fork.
struct Notify(Mutex<Arc<Poller>>);

impl Wake for Notify {
    fn wake(&self) {
        let poller = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // Fails only when the kernel object is gone, and then nobody waits.
        let _ = poller.notify();
    }
}

impl Portable {
    pub fn new(events: usize) -> Result<Portable> {
        let poller = Arc::new(Poller::new()?);
        if !poller.supports_level() {
            return Err(Code::ENOTSUP.into());
        }
        let capacity = std::num::NonZeroUsize::new(events).unwrap_or(std::num::NonZeroUsize::MIN);
        Ok(Portable {
            wake: Arc::new(Notify(Mutex::new(poller.clone()))),
            poller,
            events: Events::with_capacity(capacity),
            collected: Vec::new(),
            ids: Vec::new(),
            fork_generation: sys::fork::generation(),
        })
    }

    /// In a forked child: the parent's poller must not be dropped, since that would take its
    /// notifier out of the kernel object that both share. It stays open, unused.
    fn leave_to_parent(&self) {
        if self.fork_generation != sys::fork::generation() {
            std::mem::forget(self.poller.clone());
        }
    }

    fn event(&mut self, id: Id, want: Interest) -> Event {
        let key = id.index() as usize;
        if self.ids.len() <= key {
            self.ids.resize(key + 1, None);
        }
        self.ids[key] = Some(id);
        let mut event = Event::new(
            key,
            want.contains(Interest::READABLE),
            want.contains(Interest::WRITABLE),
        );
        // Not by way of "readable": unread bytes would end every wait of one who does not ask for them.
        if want.contains(Interest::PRIORITY) {
            event.set_priority(true);
        }
        if want.contains(Interest::DISCONNECT) {
            event.set_interrupt(true);
        }
        event
    }
}

impl Drop for Portable {
    fn drop(&mut self) {
        self.leave_to_parent();
    }
}

impl Selector for Portable {
    const EDGE: bool = false;

    fn add(&mut self, at: Descriptor, id: Id, want: Interest, _trigger: Trigger) -> Result<()> {
        let event = self.event(id, want);
        // SAFETY: the readiness driver deletes every descriptor it added before it closes it
        // (`forget` below), and a user's descriptor when its handle is stopped or closed, which
        // the user promised to do first.
        unsafe {
            self.poller
                .add_with_mode(sys::raw_source(at), event, PollMode::Level)?
        };
        Ok(())
    }

    fn modify(&mut self, at: Descriptor, id: Id, want: Interest, _trigger: Trigger) -> Result<()> {
        let event = self.event(id, want);
        self.poller
            .modify_with_mode(sys::borrow(at), event, PollMode::Level)?;
        Ok(())
    }

    fn delete(&mut self, at: Descriptor, id: Id) {
        if self.fork_generation == sys::fork::generation() {
            // Fails only for a descriptor that is already gone, which ended the registration.
            let _ = self.poller.delete(sys::borrow(at));
        }
        if let Some(slot) = self.ids.get_mut(id.index() as usize) {
            *slot = None;
        }
    }

    fn forget(&mut self, at: Descriptor, id: Id) {
        self.delete(at, id);
    }

    fn wait(&mut self, timeout_ns: Option<u64>, _now_ns: u64) -> Result<usize> {
        self.collected.clear();
        self.events.clear();
        // It goes on by itself when it is interrupted.
        self.poller
            .wait(&mut self.events, timeout_ns.map(Duration::from_nanos))?;
        for event in self.events.iter() {
            let Some(Some(id)) = self.ids.get(event.key).copied() else {
                continue;
            };
            let mut interest = Interest::empty();
            interest.set(Interest::READABLE, event.readable);
            interest.set(Interest::WRITABLE, event.writable);
            interest.set(Interest::PRIORITY, event.is_priority());
            interest.set(Interest::DISCONNECT, event.is_interrupt());
            let error = event.is_err().unwrap_or(false) || event.is_interrupt();
            self.collected.push(Ready {
                id,
                interest,
                error,
            });
        }
        Ok(self.collected.len())
    }

    fn ready(&self, at: usize) -> Option<Ready> {
        self.collected.get(at).copied()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.wake.clone()
    }

    #[cfg(unix)]
    fn backend_descriptor(&self) -> Option<Descriptor> {
        // Neither epoll's nor kqueue's `wait` needs anything beside this descriptor.
        #[cfg(any(target_os = "linux", target_vendor = "apple", target_os = "freebsd"))]
        {
            use std::os::fd::{AsFd, AsRawFd};
            Some(self.poller.as_fd().as_raw_fd())
        }
        #[cfg(not(any(target_os = "linux", target_vendor = "apple", target_os = "freebsd")))]
        None
    }

    #[cfg(not(unix))]
    fn backend_descriptor(&self) -> Option<Descriptor> {
        None
    }

    fn forked(&mut self) -> Result<()> {
        let poller = Arc::new(Poller::new()?);
        self.leave_to_parent();
        self.poller = poller;
        self.fork_generation = sys::fork::generation();
        *self
            .wake
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = self.poller.clone();
        self.collected.clear();
        self.ids.clear();
        Ok(())
    }
}
