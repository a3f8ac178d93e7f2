//! The buffers that all streams of a loop receive into, in a ring that the kernel takes them from.
//!
//! The ring is one whose buffers the kernel consumes piece by piece (`IOU_PBUF_RING_INC`, Linux 6.12): a receive takes
//! as much of the buffer at hand as there are bytes, and the next one goes on behind it. So the same few large
//! buffers serve both loads: a thousand small messages stand side by side in one of them, and stay in the cache; a
//! stream gets 64 KiB with each receive. Rings of whole buffers must be sized for one or for the other: measured,
//! 64 of 64 KiB cost 0.64 of libuv's processor time in streaming where 4096 of 16 KiB cost 1.23, and it is the other
//! way round for a thousand connections.

use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::driver::RECEIVE_BUFFER;

/// Half a megabyte in all, which stays in the second-level cache. It is also what one turn brings at most. A power
/// of two, as the kernel wants it.
const COUNT: u16 = 8;

/// The kernel asks for a ring that begins a page.
const PAGE: usize = 4096;

/// `IOU_PBUF_RING_INC`: the kernel consumes a buffer piece by piece.
pub(super) const INCREMENTAL: u16 = 2;

/// How far a buffer is used.
#[derive(Clone, Copy, Default)]
struct Use {
    /// Bytes that the kernel has filled.
    filled: u32,
    /// Pieces that are still looked at.
    pieces: u32,
    /// The kernel is done with it.
    full: bool,
}

/// The buffers, and the ring in which the kernel finds them. The kernel writes to both until the ring is
/// unregistered, so they live at least as long as [`super::ring::Ring`], which holds one reference.
pub(super) struct Buffers {
    ring: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    uses: [Cell<Use>; COUNT as usize],
    tail: Cell<u16>,
}

/// Some bytes that were received. When it goes, the kernel may have its memory again.
pub(crate) struct Piece {
    buffers: Rc<Buffers>,
    /// The buffers that it lies in, the first and the last.
    first: u16,
    last: u16,
    /// Where it begins in the first.
    at: u32,
    length: u32,
    /// It counts as one of its buffers' pieces.
    counts: bool,
}

fn ring_layout() -> Layout {
    // A page has room for 256 entries.
    const { assert!(COUNT as usize * size_of::<BufRingEntry>() <= PAGE) };
    const { Layout::from_size_align(PAGE, PAGE) }.unwrap_or(Layout::new::<u64>())
}

fn memory_layout() -> Layout {
    const { Layout::from_size_align(COUNT as usize * RECEIVE_BUFFER, PAGE) }
        .unwrap_or(Layout::new::<u64>())
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: both layouts have a size.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Buffers {
    /// Buffers that are all the kernel's, as soon as the ring is registered.
    pub fn new() -> Rc<Buffers> {
        let buffers = Buffers {
            ring: allocate(ring_layout()).cast(),
            memory: allocate(memory_layout()),
            uses: Default::default(),
            tail: Cell::new(0),
        };
        for buffer in 0..COUNT {
            buffers.provide(buffer);
        }
        Rc::new(buffers)
    }

    /// Where the ring is, for registering it.
    pub fn address(&self) -> u64 {
        self.ring.as_ptr().expose_provenance() as u64
    }

    pub fn count(&self) -> u16 {
        COUNT
    }

    /// Hands a buffer to the kernel.
    fn provide(&self, buffer: u16) {
        self.uses[usize::from(buffer)].set(Use::default());
        let tail = self.tail.get();
        let address =
            self.memory.as_ptr().expose_provenance() + usize::from(buffer) * RECEIVE_BUFFER;
        // SAFETY: the entry lies in the ring's page. The kernel does not look at it before the tail has passed it:
        // there are as many entries as buffers, and this buffer is not in the ring now.
        let entry = unsafe { self.ring.add(usize::from(tail % COUNT)).as_mut() };
        entry.set_addr(address as u64);
        entry.set_len(RECEIVE_BUFFER as u32);
        entry.set_bid(buffer);
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the tail stands in the ring's first entry, aligned; only this thread writes it, the kernel reads it.
        let shared = unsafe { &*BufRingEntry::tail(self.ring.as_ptr()).cast::<AtomicU16>() };
        shared.store(tail, Ordering::Release);
    }

    /// What a receive filled: the next `length` bytes of a buffer, of which there is `more` or not. `None` for a
    /// buffer that there is not.
    pub fn take(self: &Rc<Buffers>, buffer: u16, length: u32, more: bool) -> Option<Piece> {
        let cell = self.uses.get(usize::from(buffer))?;
        let mut used = cell.get();
        let at = used.filled;
        let filled = at.checked_add(length)?;
        if filled as usize > RECEIVE_BUFFER {
            return None;
        }
        used.filled = filled;
        used.pieces += 1;
        used.full |= !more;
        cell.set(used);
        Some(Piece {
            buffers: self.clone(),
            first: buffer,
            last: buffer,
            at,
            length,
            counts: true,
        })
    }

    /// A piece that lies in this buffer is gone.
    fn let_go(&self, buffer: u16) {
        let cell = &self.uses[usize::from(buffer)];
        let mut used = cell.get();
        used.pieces -= 1;
        cell.set(used);
        if used.full && used.pieces == 0 {
            self.provide(buffer);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layouts; the ring that knew them is gone (see there), and so is every
        // piece, since each holds a reference.
        unsafe {
            dealloc(self.ring.as_ptr().cast(), ring_layout());
            dealloc(self.memory.as_ptr(), memory_layout());
        }
    }
}

impl Piece {
    /// Where it begins in the memory of all buffers.
    fn start(&self) -> usize {
        usize::from(self.first) * RECEIVE_BUFFER + self.at as usize
    }

    /// Takes what came next for the same stream into this piece, if it stands right behind it: a message that met a
    /// buffer's end came in two parts, which are better told as one. No more than a whole buffer.
    pub fn join(&mut self, mut next: Piece) -> Result<(), Piece> {
        let follows = self.start() + self.length as usize == next.start();
        let fits = (self.length + next.length) as usize <= RECEIVE_BUFFER;
        if !follows || !fits || !Rc::ptr_eq(&self.buffers, &next.buffers) {
            return Err(next);
        }
        next.counts = false;
        if next.first == self.last {
            self.buffers.let_go(next.first); // counted twice
        }
        self.last = next.last;
        self.length += next.length;
        Ok(())
    }

    pub fn bytes(&self) -> &[u8] {
        let start = self.start();
        // SAFETY: `take` saw to it that it lies in its buffer, and `join` that it lies in buffers that follow each
        // other. The kernel wrote these bytes before it told of them, and does not write there again before the buffer
        // is provided anew, which this piece prevents.
        unsafe {
            std::slice::from_raw_parts(
                self.buffers.memory.as_ptr().add(start),
                self.length as usize,
            )
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.counts {
            for buffer in self.first..=self.last {
                self.buffers.let_go(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_provided(buffers: &Buffers, buffer: u16) -> bool {
        let used = buffers.uses[usize::from(buffer)].get();
        !used.full && used.filled == 0
    }

    #[test]
    fn a_buffer_goes_back_when_it_is_full_and_nobody_looks_at_it() {
        let buffers = Buffers::new();
        let first = buffers.take(3, 100, true).unwrap();
        let second = buffers.take(3, 50, false).unwrap();
        assert_eq!((first.bytes().len(), second.bytes().len()), (100, 50));
        assert_eq!(second.at, 100);
        let tail = buffers.tail.get();
        drop(second);
        assert!(!is_provided(&buffers, 3));
        drop(first);
        assert!(is_provided(&buffers, 3));
        assert_eq!(buffers.tail.get(), tail + 1);
    }

    #[test]
    fn a_buffer_that_is_not_full_stays_the_kernels() {
        let buffers = Buffers::new();
        let tail = buffers.tail.get();
        drop(buffers.take(0, 10, true).unwrap());
        assert_eq!(buffers.tail.get(), tail);
        assert_eq!(buffers.take(0, 1, true).unwrap().at, 10);
    }

    #[test]
    fn parts_that_follow_each_other_are_one_piece() {
        let buffers = Buffers::new();
        let mut piece = buffers.take(0, 60_000, true).unwrap();
        assert!(piece.join(buffers.take(0, 1000, true).unwrap()).is_ok());
        let end = buffers.take(0, RECEIVE_BUFFER as u32 - 61_000, false);
        drop(piece);
        let mut piece = end.unwrap();
        assert!(piece.join(buffers.take(1, 100, true).unwrap()).is_ok());
        assert_eq!(piece.bytes().len(), RECEIVE_BUFFER - 61_000 + 100);
        // Not what stands elsewhere, nor more than a buffer.
        piece = match piece.join(buffers.take(2, 1, true).unwrap()) {
            Err(other) => {
                drop(other);
                piece
            }
            Ok(()) => panic!("they are apart"),
        };
        assert!(piece.join(buffers.take(1, 65_000, true).unwrap()).is_err());
        let tail = buffers.tail.get();
        assert!(!is_provided(&buffers, 0));
        drop(piece);
        assert!(is_provided(&buffers, 0));
        assert_eq!(buffers.tail.get(), tail + 1);
        assert_eq!(buffers.uses[1].get().pieces, 0);
    }

    #[test]
    fn what_cannot_be_is_no_piece() {
        let buffers = Buffers::new();
        assert!(buffers.take(COUNT, 1, true).is_none());
        assert!(buffers.take(0, RECEIVE_BUFFER as u32 + 1, true).is_none());
        assert!(buffers.take(0, u32::MAX, true).is_none());
    }

    #[test]
    fn pieces_outlive_whoever_made_them() {
        let buffers = Buffers::new();
        let piece = buffers.take(1, 7, false).unwrap();
        drop(buffers);
        assert_eq!(piece.bytes(), [0; 7]);
    }
}
