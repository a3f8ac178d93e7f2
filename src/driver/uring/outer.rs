//! The descriptor by which another loop learns that this one has something to do.
//!
//! The ring's own would be readable then, but nobody who sleeps on it is woken by work that the kernel defers, and all
//! of ours is. So it is an event descriptor, to which the kernel writes. It costs a call a turn, and only where somebody
//! has asked for it.

use std::os::fd::{AsRawFd, OwnedFd};

use super::ring::Ring;
use super::Uring;
use crate::driver::epoll::event_descriptor;
use crate::error::Result;
use crate::sys::{self, Descriptor};

/// The descriptor, if somebody has asked for it.
#[derive(Default)]
pub(super) struct Outer(Option<OwnedFd>);

impl Outer {
    /// Whatever was announced is looked at now.
    pub fn begin_turn(&self) {
        if let Some(event) = &self.0 {
            sys::read_event(event.as_raw_fd());
        }
    }

    /// After a turn. The kernel announces what it finds when there was nothing before, and goes on with a few at a
    /// time: there may be more.
    pub fn announce(&self, ring: &Ring) {
        if let Some(event) = &self.0 {
            if ring.has_work() {
                sys::write_event(event.as_raw_fd());
            }
        }
    }

    /// A new ring announces to the same.
    pub fn follow(&self, ring: &Ring) -> Result<()> {
        if let Some(event) = &self.0 {
            ring.announce_to(event.as_raw_fd())?;
            self.announce(ring);
        }
        Ok(())
    }

    /// The parent's is the parent's.
    pub fn forked(&mut self) -> Result<()> {
        if self.0.is_some() {
            self.0 = Some(event_descriptor()?);
        }
        Ok(())
    }
}

impl Uring {
    pub(super) fn announce_to_outer(&mut self) -> Result<Descriptor> {
        if let Some(event) = &self.outer.0 {
            return Ok(event.as_raw_fd());
        }
        let event = event_descriptor()?;
        let raw = event.as_raw_fd();
        self.ring.announce_to(raw)?;
        self.outer.0 = Some(event);
        self.outer.announce(&self.ring);
        Ok(raw)
    }
}
