//! The buffers that all streams of a loop receive into, in a ring that the kernel takes them from.
//!
//! They are few and large, and each receive takes one. A turn brings up to 20 messages, since the kernel goes on with
//! no more at a time, and twice as many where it also takes sends: those that find no buffer must ask anew. Measured
//! with 50 connections that echo 16 KiB, in the processor time of plain epoll: 64 or 32 buffers 1.00, 16 of them 1.03,
//! 8 of them 1.11; 256 of them, more than the second-level cache holds, 1.02. Small messages touch only the first
//! lines of each, so there may as well be room for large ones behind, if those lines do not all fall to the same
//! few places in the cache: see [`STRIDE`].
//!
//! Buffers that the kernel consumes piece by piece (`IOU_PBUF_RING_INC`) were tried, since small messages stand side by
//! side in them. They are no better for those, and a message that meets a buffer's end comes in two parts, each a
//! receive of its own: 1.06 to 1.18.

use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::driver::RECEIVE_SOCKET;

/// How many there are: what one turn brings at most. A power of two, as the kernel wants it.
const COUNT: u16 = 64;

/// From the beginning of one buffer to that of the next: a cache line more than what is used. Were it a power of two,
/// all buffers' first lines would stand in the same few places of the cache and drive each other out.
const STRIDE: usize = RECEIVE_SOCKET + 64;

/// The kernel asks for a ring that begins a page.
const PAGE: usize = 4096;

/// The buffers, and the ring in which the kernel finds them. The kernel writes to both until the ring is
/// unregistered, so they live at least as long as [`super::ring::Ring`], which holds one reference.
pub(super) struct Buffers {
    ring: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    tail: Cell<u16>,
}

/// Some bytes that were received. When it goes, the kernel may have its buffer again.
pub(crate) struct Piece {
    buffers: Rc<Buffers>,
    buffer: u16,
    length: u32,
}

fn ring_layout() -> Layout {
    // A page has room for 256 entries.
    const { assert!(COUNT as usize * size_of::<BufRingEntry>() <= PAGE) };
    const { Layout::from_size_align(PAGE, PAGE) }.unwrap_or(Layout::new::<u64>())
}

fn memory_layout() -> Layout {
    const { Layout::from_size_align(COUNT as usize * STRIDE, PAGE) }.unwrap_or(Layout::new::<u64>())
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
    #[inline]
    fn provide(&self, buffer: u16) {
        let tail = self.tail.get();
        let address = self.memory.as_ptr().expose_provenance() + usize::from(buffer) * STRIDE;
        // SAFETY: the entry lies in the ring's page. The kernel does not look at it before the tail has passed it:
        // there are as many entries as buffers, and this buffer is not in the ring now.
        let entry = unsafe { self.ring.add(usize::from(tail % COUNT)).as_mut() };
        entry.set_addr(address as u64);
        entry.set_len(RECEIVE_SOCKET as u32);
        entry.set_bid(buffer);
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the tail stands in the ring's first entry, aligned; only this thread writes it, the kernel reads it.
        let shared = unsafe { &*BufRingEntry::tail(self.ring.as_ptr()).cast::<AtomicU16>() };
        shared.store(tail, Ordering::Release);
    }

    /// What a receive put into a buffer. `None` for what no buffer can hold, or a buffer that there is not.
    #[inline]
    pub fn take(self: &Rc<Buffers>, buffer: u16, length: u32) -> Option<Piece> {
        let holds = buffer < COUNT && length as usize <= RECEIVE_SOCKET;
        holds.then(|| Piece {
            buffers: self.clone(),
            buffer,
            length,
        })
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
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let start = usize::from(self.buffer) * STRIDE;
        // SAFETY: `take` saw to it that it lies in its buffer. The kernel wrote these bytes before it told of them, and
        // does not write there again before the buffer is provided anew, which this piece prevents: a buffer has one.
        unsafe {
            std::slice::from_raw_parts(
                self.buffers.memory.as_ptr().add(start),
                self.length as usize,
            )
        }
    }
}

impl Drop for Piece {
    #[inline]
    fn drop(&mut self) {
        self.buffers.provide(self.buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_back_when_nobody_looks_at_it_any_more() {
        let buffers = Buffers::new();
        let tail = buffers.tail.get();
        let piece = buffers.take(3, 100).unwrap();
        assert_eq!(piece.bytes().len(), 100);
        assert_eq!(buffers.tail.get(), tail);
        drop(piece);
        assert_eq!(buffers.tail.get(), tail.wrapping_add(1));
    }

    #[test]
    fn what_cannot_be_is_no_piece() {
        let buffers = Buffers::new();
        let tail = buffers.tail.get();
        assert!(buffers.take(COUNT, 1).is_none());
        assert!(buffers.take(0, RECEIVE_SOCKET as u32 + 1).is_none());
        assert!(buffers.take(0, u32::MAX).is_none());
        assert_eq!(buffers.tail.get(), tail);
    }

    #[test]
    fn buffers_do_not_overlap() {
        let buffers = Buffers::new();
        let full = |buffer| buffers.take(buffer, RECEIVE_SOCKET as u32).unwrap();
        let (first, second, last) = (full(0), full(1), full(COUNT - 1));
        assert!(first.bytes().as_ptr_range().end <= second.bytes().as_ptr());
        let end = memory_layout().size();
        let past = last.bytes().as_ptr_range().end as usize - first.bytes().as_ptr() as usize;
        assert!(past <= end);
    }

    #[test]
    fn pieces_outlive_whoever_made_them() {
        let buffers = Buffers::new();
        let piece = buffers.take(1, 7).unwrap();
        drop(buffers);
        assert_eq!(piece.bytes(), [0; 7]);
    }
}
