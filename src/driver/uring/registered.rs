//! The ring in its thread's table of rings, which saves each call the look at the process's table of descriptors: with
//! one connection 0.6 % of a message.
//!
//! The table is the thread's, and a place in it keeps the ring alive: it is given back before the ring goes, and before
//! its loop goes to another thread, where the number may be another ring's. A forked child has a table of its own,
//! that is empty.

use io_uring::EnterFlags;

use crate::sys::Descriptor;

/// `IORING_REGISTER_RING_FDS` and `IORING_UNREGISTER_RING_FDS`, io_uring_register(2).
const REGISTER: libc::c_uint = 20;
const UNREGISTER: libc::c_uint = 21;

/// Any place that is free.
const ANYWHERE: u32 = u32::MAX;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Place {
    offset: u32,
    reserved: u32,
    descriptor: u64,
}

/// Where the ring stands in the table of the thread that made it, if it found a place there: there are 16.
pub(super) struct Registered(Option<u32>);

impl Registered {
    pub fn new(ring: Descriptor) -> Registered {
        let mut place = Place {
            offset: ANYWHERE,
            reserved: 0,
            descriptor: ring as u64,
        };
        let registered = change(ring, REGISTER, &mut place);
        Registered(registered.then_some(place.offset))
    }

    #[cfg(test)]
    pub fn is_in_table(&self) -> bool {
        self.0.is_some()
    }

    /// How a call names the ring.
    #[inline]
    pub fn name(&self, ring: Descriptor, flags: &mut EnterFlags) -> libc::c_int {
        match self.0 {
            Some(place) => {
                *flags |= EnterFlags::REGISTERED_RING;
                place as libc::c_int
            }
            None => ring,
        }
    }

    /// Gives the place back. By the thread that took it.
    pub fn end(&mut self, ring: Descriptor) {
        if let Some(offset) = self.0.take() {
            let mut place = Place {
                offset,
                reserved: 0,
                descriptor: 0,
            };
            change(ring, UNREGISTER, &mut place);
        }
    }
}

/// Whether the one change was made.
fn change(ring: Descriptor, how: libc::c_uint, place: &mut Place) -> bool {
    // SAFETY: `place` is the one entry that is named, and is only used during the call.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring, how, place, 1) == 1 }
}

#[cfg(test)]
mod tests {
    use super::super::ring::Ring;
    use super::*;

    #[test]
    fn a_ring_that_goes_gives_its_place_back() {
        // More than there are places.
        for _ in 0..40 {
            let Ok(ring) = Ring::new() else { return };
            assert!(ring.is_registered());
        }
    }

    #[cfg(feature = "capi")]
    #[test]
    fn a_loop_that_leaves_its_thread_keeps_no_place_there() {
        let Ok(mut uring) = super::super::Uring::new(64) else {
            return;
        };
        uring.end_all().unwrap();
        assert!(!uring.ring.is_registered());
        uring.new_ring().unwrap();
        assert!(uring.ring.is_registered());
        uring.begin_all().unwrap();
    }

    #[test]
    fn a_ring_that_finds_no_place_is_named_by_its_descriptor() {
        let none = Registered(None);
        let mut flags = EnterFlags::empty();
        assert_eq!(none.name(7, &mut flags), 7);
        assert_eq!(flags.bits(), 0);
        assert_eq!(Registered(Some(0)).name(7, &mut flags), 0);
        assert_eq!(flags.bits(), EnterFlags::REGISTERED_RING.bits());
    }
}
