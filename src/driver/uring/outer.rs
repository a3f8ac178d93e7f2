//! The descriptor by which another loop learns that this one has something to do.
//!
//! The ring's own would be readable then, but nobody who sleeps on it is woken by work that the kernel defers, and all
//! of ours is. So there is an event descriptor, to which the kernel writes. That alone is not enough: while another
//! event descriptor is being written to, the kernel only writes to it later, and then (seen with Linux 6.18) once and
//! never again. What may be such a descriptor, or have one in it, is therefore watched for itself: the wake-up
//! descriptor and the epoll set beneath. All three stand in one epoll set, at each change. It costs a call a turn, and
//! only where somebody has asked for it.

use super::ring::Ring;
use super::Uring;
use crate::driver::epoll::Epoll;
use crate::driver::readiness::Selector;
use crate::error::Result;
use crate::sys::Descriptor;

/// What stands in the set.
const DESCRIPTORS: usize = 3;

/// The epoll set, if somebody has asked for it. Its own wake-up descriptor is the one that the kernel writes to.
#[derive(Default)]
pub(super) struct Outer(Option<Epoll>);

impl Outer {
    /// Whatever was announced is looked at now.
    pub fn begin_turn(&mut self) {
        if let Some(set) = &mut self.0 {
            // If it fails, the set stays readable, and there is one turn more.
            let _ = set.wait(Some(0), 0);
        }
    }

    /// After a turn. The kernel announces what it finds when there was nothing before, and goes on with a few at a
    /// time: there may be more.
    pub fn announce(&self, ring: &Ring) {
        if let Some(set) = &self.0 {
            if ring.has_work() {
                set.waker().wake();
            }
        }
    }

    /// A new ring announces to the same.
    pub fn follow(&self, ring: &Ring) -> Result<()> {
        if let Some(set) = &self.0 {
            ring.announce_to(set.wake_descriptor())?;
            self.announce(ring);
        }
        Ok(())
    }

    /// The parent's is the parent's.
    pub fn forked(&mut self, inner: &Epoll) -> Result<()> {
        if let Some(set) = &mut self.0 {
            set.forked()?;
            set.watch(inner)?;
        }
        Ok(())
    }
}

impl Uring {
    pub(super) fn announce_to_outer(&mut self) -> Result<Descriptor> {
        if let Some(set) = &self.outer.0 {
            return Ok(set.descriptor());
        }
        let mut set = Epoll::new(DESCRIPTORS)?;
        set.watch(self.inner.selector())?;
        self.ring.announce_to(set.wake_descriptor())?;
        let raw = set.descriptor();
        self.outer.0 = Some(set);
        self.outer.announce(&self.ring);
        Ok(raw)
    }
}
