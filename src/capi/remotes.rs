//! The remotes that C holds: a table that is never freed, and pointers that are numbers.
//!
//! A `kolo_remote *` points to nothing. It has a place in the table and the generation of what
//! stands there, so that one that was released, or that never was one, is found out by comparing
//! two numbers. That is done before anything else is looked at, and takes one load.
//!
//! What cannot be found out is a remote that one thread releases, for the last time, while another
//! is inside of a call with it that holds no reference.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{fence, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::types::kolo_remote;
use crate::error::{Code, Result};
use crate::remote::Remote;
use crate::sys::fork::ForkLock;

/// Remotes that a process holds at most: memory that is only used as far as it is needed.
const PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 16;

/// A pointer's lowest bit: no address of anything larger than a byte looks like that.
const MARK: usize = 1;

struct Place {
    /// The pointer by which the remote that stands here is known, as a number; 0 for none. It says
    /// no more than `state`, but to find a remote is to compare it.
    number: AtomicUsize,
    /// The generation in the upper half: odd while a remote stands here. Its references in the
    /// lower half.
    state: AtomicU64,
    remote: UnsafeCell<MaybeUninit<Remote>>,
}

// SAFETY: a remote may be used from any thread. It is written before its generation is, and taken
// out by whoever let go of the last reference, when nobody may use it any more.
unsafe impl Sync for Place {}

static TABLE: [Place; PLACES] = [const {
    Place {
        number: AtomicUsize::new(0),
        state: AtomicU64::new(0),
        remote: UnsafeCell::new(MaybeUninit::uninit()),
    }
}; PLACES];

/// Places that were given back.
static FREE: ForkLock<Vec<usize>> = ForkLock::new(Vec::new());

/// Places that were ever used.
static USED: AtomicU32 = AtomicU32::new(0);

fn generation(state: u64) -> u32 {
    (state >> 32) as u32
}

fn references(state: u64) -> u32 {
    state as u32
}

fn state(generation: u32, references: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(references)
}

/// The part of a generation that a pointer has room for: all of it where pointers have 64 bits.
fn shown(generation: u32) -> usize {
    (generation as usize) << (PLACE_BITS + 1)
}

/// A place that is free.
fn take_place() -> Result<usize> {
    if let Some(place) = FREE.lock().pop() {
        return Ok(place);
    }
    let next = |used: u32| ((used as usize) < PLACES).then_some(used + 1);
    let used = USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    used.map(|used| used as usize)
        .map_err(|_| Code::ENOBUFS.into())
}

/// A pointer for C to a remote, with one reference.
pub(super) fn give(remote: Remote) -> Result<*mut kolo_remote> {
    let index = take_place()?;
    let place = &TABLE[index];
    let generation = generation(place.state.load(Ordering::Relaxed)).wrapping_add(1);
    // SAFETY: the place is free, so nobody looks at what stands there.
    unsafe { (*place.remote.get()).write(remote) };
    place.state.store(state(generation, 1), Ordering::Release);
    let number = shown(generation) | index << 1 | MARK;
    place.number.store(number, Ordering::Release);
    Ok(std::ptr::without_provenance_mut(number))
}

/// The place that a pointer names, and its state, if a remote stands there that is meant by it.
fn find(at: *mut kolo_remote) -> Result<(usize, u64)> {
    let number = at.addr();
    let index = (number >> 1) % PLACES;
    let now = TABLE[index].state.load(Ordering::Acquire);
    let expected = shown(generation(now)) | index << 1 | MARK;
    if number != expected || generation(now) & 1 == 0 {
        return Err(missing(at));
    }
    Ok((index, now))
}

#[cold]
fn missing(at: *mut kolo_remote) -> crate::Error {
    if at.is_null() {
        return Code::EINVAL.into();
    }
    Code::EBADF.into()
}

/// The remote behind a pointer of C's, which holds a reference during the call.
#[inline]
pub(super) fn remote<'a>(at: *mut kolo_remote) -> Result<&'a Remote> {
    let number = at.addr();
    let place = &TABLE[(number >> 1) % PLACES];
    if place.number.load(Ordering::Acquire) != number || number == 0 {
        return Err(missing(at));
    }
    // SAFETY: a remote stands there; the caller's reference keeps it there.
    Ok(unsafe { (*place.remote.get()).assume_init_ref() })
}

/// One more reference.
pub(super) fn retain(at: *mut kolo_remote) -> Result<()> {
    change(at, |references| {
        references.checked_add(1).ok_or(Code::EOVERFLOW)
    })
    .map(drop)
}

/// One reference less; with the last the remote goes.
pub(super) fn release(at: *mut kolo_remote) -> Result<()> {
    let (index, last) = change(at, |references| Ok(references - 1))?;
    if last {
        TABLE[index].number.store(0, Ordering::Relaxed);
        // What other threads did with it before they let it go happens before it goes.
        fence(Ordering::Acquire);
        // SAFETY: it stood there until now, and its generation is over: nobody else finds it.
        drop(unsafe { (*TABLE[index].remote.get()).assume_init_read() });
        FREE.lock().push(index);
    }
    Ok(())
}

/// Changes the number of references, all at once with the check that there are some. The place, and
/// whether none is left: then its generation is over.
fn change(
    at: *mut kolo_remote,
    by: impl Fn(u32) -> std::result::Result<u32, Code>,
) -> Result<(usize, bool)> {
    loop {
        let (index, now) = find(at)?;
        let left = by(references(now))?;
        let next = match left {
            0 => state(generation(now).wrapping_add(1), 0),
            left => state(generation(now), left),
        };
        let changed = TABLE[index].state.compare_exchange_weak(
            now,
            next,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if changed.is_ok() {
            return Ok((index, left == 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Loop;

    fn code<T>(outcome: Result<T>) -> Option<Code> {
        outcome.err().map(|error| error.code())
    }

    #[test]
    fn a_pointer_is_good_until_its_last_reference_is_released() {
        let lp = Loop::new().unwrap();
        let first = give(lp.remote()).unwrap();
        retain(first).unwrap();
        release(first).unwrap();
        assert!(remote(first).is_ok());
        release(first).unwrap();
        assert_eq!(code(remote(first)), Some(Code::EBADF));
        assert_eq!(code(retain(first)), Some(Code::EBADF));
        assert_eq!(code(release(first)), Some(Code::EBADF));
    }

    #[test]
    fn a_place_that_is_used_again_has_another_pointer() {
        let lp = Loop::new().unwrap();
        let former = give(lp.remote()).unwrap();
        release(former).unwrap();
        let others: Vec<_> = (0..100).map(|_| give(lp.remote()).unwrap()).collect();
        assert_eq!(code(remote(former)), Some(Code::EBADF));
        for other in others {
            assert_ne!(other, former);
            release(other).unwrap();
        }
    }

    #[test]
    fn what_is_no_remote_is_refused() {
        let word = 0_u64;
        let address = std::ptr::from_ref(&word).cast_mut().cast();
        assert_eq!(code(remote(address)), Some(Code::EBADF));
        assert_eq!(code(remote(std::ptr::null_mut())), Some(Code::EINVAL));
        for number in [1, 3, usize::MAX, 1 << 17, PLACES * 2 - 1] {
            let at = std::ptr::without_provenance_mut(number);
            assert_eq!(code(release(at)), Some(Code::EBADF), "{number}");
        }
    }
}
