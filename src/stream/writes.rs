//! The write queue of a stream, and the small writes that are gathered before they are sent.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

#[cfg(feature = "fs")]
use super::files::FileWrite;
use super::Stream;
use crate::driver::SLICES_MAX;
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
use crate::handles::Id;
use crate::sys::OwnedDescriptor;

/// Called when an owned write, or a shutdown, has ended.
pub(crate) type WriteCallback = Box<dyn FnOnce(&Loop, Stream, Result<()>)>;

/// Copied bytes that follow each other share pieces of up to this size.
const PIECE: usize = 64 * 1024;

/// How much a stream queues: see [`Stream::set_watermarks`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watermarks {
    pub low: usize,
    pub high: usize,
    pub limit: usize,
}

/// 64 KiB is about what a socket's send buffer holds besides: a producer that heeds `high` has
/// as much in hand as the network takes while it is away for one turn. The limit is what one
/// slow peer may cost at most.
pub(crate) const WATERMARKS: Watermarks = Watermarks {
    low: 16 * 1024,
    high: 64 * 1024,
    limit: 16 * 1024 * 1024,
};

/// Memory for [`Stream::write_owned`]: it is not copied, and not touched by anybody else until
/// the write has ended.
#[derive(Debug)]
pub struct Payload(Memory);

#[derive(Debug)]
enum Memory {
    Vec(Vec<u8>),
    Static(&'static [u8]),
    Shared(Arc<[u8]>),
    Raw(*const u8, usize),
}

impl Payload {
    /// Memory of somebody else's.
    ///
    /// # Safety
    ///
    /// `length` bytes at `base` must stay valid and unchanged until the write's completion
    /// callback, or if there is none, until the stream has closed.
    pub unsafe fn from_raw(base: *const u8, length: usize) -> Payload {
        if length == 0 {
            return Payload(Memory::Static(&[]));
        }
        Payload(Memory::Raw(base, length))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Vec(bytes) => bytes,
            Memory::Static(bytes) => bytes,
            Memory::Shared(bytes) => bytes,
            // SAFETY: whoever made the payload promised this memory (`from_raw`), for as long as
            // the payload is in a queue; and it is not kept longer than its completion.
            Memory::Raw(base, length) => unsafe { std::slice::from_raw_parts(*base, *length) },
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload(Memory::Vec(bytes))
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Payload {
        Payload(Memory::Vec(text.into_bytes()))
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Payload {
        Payload(Memory::Static(bytes))
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Payload {
        Payload(Memory::Static(text.as_bytes()))
    }
}

impl From<Arc<[u8]>> for Payload {
    fn from(bytes: Arc<[u8]>) -> Payload {
        Payload(Memory::Shared(bytes))
    }
}

/// One or several pieces of memory that are written as one.
pub(crate) enum Payloads {
    One(Payload),
    Many(Vec<Payload>),
}

impl Payloads {
    pub fn as_slice(&self) -> &[Payload] {
        match self {
            Payloads::One(payload) => std::slice::from_ref(payload),
            Payloads::Many(payloads) => payloads,
        }
    }

    pub fn length(&self) -> usize {
        self.as_slice()
            .iter()
            .map(|payload| payload.bytes().len())
            .sum()
    }
}

pub(crate) struct OwnedWrite {
    pub id: u64,
    pub payloads: Payloads,
    pub done: Option<WriteCallback>,
    /// What travels with the first byte, until that is sent.
    pub descriptors: Passengers,
}

/// Descriptors that travel with a write.
pub(crate) type Passengers = Option<Box<[OwnedDescriptor]>>;

enum Segment {
    Copied(Vec<u8>),
    Owned(OwnedWrite),
    /// Of a file, what is in memory is like other bytes; what is not is the matter of `files.rs`.
    #[cfg(feature = "fs")]
    File(Box<FileWrite>),
}

impl Segment {
    /// Bytes that are there to be sent.
    fn length(&self) -> usize {
        match self {
            Segment::Copied(bytes) => bytes.len(),
            Segment::Owned(write) => write.payloads.length(),
            #[cfg(feature = "fs")]
            Segment::File(write) => write.memory.len(),
        }
    }

    /// Bytes of those that count as queued.
    fn counted(&self) -> usize {
        match self {
            #[cfg(feature = "fs")]
            Segment::File(_) => 0,
            other => other.length(),
        }
    }

    /// Whether nothing goes together with it, behind it.
    fn is_last(&self) -> bool {
        match self {
            Segment::Copied(_) => false,
            Segment::Owned(write) => write.descriptors.is_some(),
            // More of it is to come first.
            #[cfg(feature = "fs")]
            Segment::File(write) => write.has_more(),
        }
    }

    fn id(&self) -> Option<u64> {
        match self {
            Segment::Copied(_) => None,
            Segment::Owned(write) => Some(write.id),
            #[cfg(feature = "fs")]
            Segment::File(write) => Some(write.id),
        }
    }

    fn into_done(self) -> Option<WriteCallback> {
        match self {
            Segment::Copied(_) => None,
            Segment::Owned(write) => write.done,
            #[cfg(feature = "fs")]
            Segment::File(write) => write.done,
        }
    }
}

/// What a stream has to send, and to tell of what it sent. Only streams that need it have one.
pub(crate) struct Writes {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that are sent already.
    sent_of_first: usize,
    /// Bytes that are not sent yet.
    queued: usize,
    pub marks: Watermarks,
    /// The queue stood at the high watermark, and has not fallen to the low one since.
    pub full: bool,
    /// When the kernel last took something, or what waits began to; 0: not noted yet.
    pub last_progress: u64,
    /// Writes that ended, in their order, and the shutdown after them.
    finished: VecDeque<(WriteCallback, Result<()>)>,
    pub shutdown: Option<WriteCallback>,
    /// Why the stream failed, until that is told.
    pub error: Option<Error>,
}

impl Writes {
    pub fn new() -> Writes {
        Writes {
            segments: VecDeque::new(),
            sent_of_first: 0,
            queued: 0,
            marks: WATERMARKS,
            full: false,
            last_progress: 0,
            finished: VecDeque::new(),
            shutdown: None,
            error: None,
        }
    }

    /// Nothing in it that a new one would not have.
    pub fn is_spare(&self) -> bool {
        self.segments.is_empty()
            && self.finished.is_empty()
            && self.shutdown.is_none()
            && self.error.is_none()
            && self.marks == WATERMARKS
            && !self.full
    }

    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Whether something waits to be sent. (A write of no bytes waits too: for its turn.)
    pub fn is_waiting(&self) -> bool {
        !self.segments.is_empty()
    }

    pub fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Queues a copy. Errors: [`Code::ENOMEM`], and nothing is queued.
    pub fn push_copy(&mut self, bytes: &[u8]) -> Result<()> {
        // The first segment may be in the kernel's hands, so only a later one is added to.
        let is_later = self.segments.len() > 1;
        let last = match self.segments.back_mut() {
            Some(Segment::Copied(last)) if is_later => Some(last),
            _ => None,
        };
        let room = last.as_ref().map_or(0, |it| PIECE.saturating_sub(it.len()));
        let (added, own) = bytes.split_at(room.min(bytes.len()));
        // How much it is, the caller says: it may be more than there is memory for.
        let mut segment = Vec::new();
        let mut outcome = segment.try_reserve_exact(own.len());
        if let Some(last) = last {
            outcome = outcome.and_then(|()| last.try_reserve(added.len()));
            if outcome.is_ok() {
                last.extend_from_slice(added);
            }
        }
        outcome.map_err(|_| Code::ENOMEM)?;
        if !own.is_empty() {
            segment.extend_from_slice(own);
            self.segments.push_back(Segment::Copied(segment));
        }
        self.queued += bytes.len();
        self.note_level();
        Ok(())
    }

    /// Bytes that were gathered: queued without another copy.
    pub fn push_vec(&mut self, bytes: Vec<u8>) {
        self.queued += bytes.len();
        self.segments.push_back(Segment::Copied(bytes));
    }

    /// Bytes that come before all others, of which nothing is sent yet.
    pub fn push_front(&mut self, bytes: Vec<u8>) {
        debug_assert_eq!(self.sent_of_first, 0);
        self.queued += bytes.len();
        self.segments.push_front(Segment::Copied(bytes));
    }

    pub fn push_owned(&mut self, write: OwnedWrite) {
        self.queued += write.payloads.length();
        self.segments.push_back(Segment::Owned(write));
    }

    /// After pushing, once it has been seen what the kernel takes at once: that never was queued.
    pub fn note_level(&mut self) {
        self.full |= self.queued >= self.marks.high;
    }

    /// The watermarks changed: what holds by the new ones.
    pub fn set_marks(&mut self, marks: Watermarks) {
        self.marks = marks;
        self.note_level();
    }

    /// Whether the queue has now fallen to the low watermark after it was full; once.
    pub fn falls_to_low(&mut self) -> bool {
        self.full && self.queued <= self.marks.low && {
            self.full = false;
            true
        }
    }

    /// The descriptors that travel with the next bytes: see [`Writes::slices`].
    #[inline]
    pub fn descriptors(&self) -> Option<&[OwnedDescriptor]> {
        match self.segments.front() {
            Some(Segment::Owned(write)) => write.descriptors.as_deref(),
            _ => None,
        }
    }

    /// The next bytes to send, as many slices as fit in `slices`; how many slices and bytes. A
    /// write that descriptors travel with goes by itself, so that they come with its own bytes.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> (usize, usize) {
        let (mut count, mut total, mut skip) = (0, 0, self.sent_of_first);
        for segment in &self.segments {
            let travels = matches!(segment, Segment::Owned(write) if write.descriptors.is_some());
            if travels && count > 0 {
                break;
            }
            let copied;
            let pieces: &mut dyn Iterator<Item = &'a [u8]> = match segment {
                Segment::Copied(bytes) => {
                    copied = bytes.as_slice();
                    &mut std::iter::once(copied)
                }
                Segment::Owned(write) => &mut write.payloads.as_slice().iter().map(Payload::bytes),
                #[cfg(feature = "fs")]
                Segment::File(write) => {
                    copied = write.memory.as_slice();
                    &mut std::iter::once(copied)
                }
            };
            for piece in pieces {
                let skipped = skip.min(piece.len());
                skip -= skipped;
                let piece = &piece[skipped..];
                if piece.is_empty() {
                    continue;
                }
                if count == SLICES_MAX {
                    return (count, total);
                }
                slices[count] = IoSlice::new(piece);
                count += 1;
                total += piece.len();
            }
            if segment.is_last() {
                break;
            }
        }
        (count, total)
    }

    /// The kernel took so many bytes more.
    pub fn advance(&mut self, mut sent: usize) {
        if sent > 0 {
            if let Some(Segment::Owned(first)) = self.segments.front_mut() {
                first.descriptors = None;
            }
        }
        while let Some(first) = self.segments.front_mut() {
            let left = first.length() - self.sent_of_first;
            let taken = sent.min(left);
            match first {
                #[cfg(feature = "fs")]
                Segment::File(write) => write.took(taken),
                _ => self.queued -= taken,
            }
            if sent < left {
                self.sent_of_first += sent;
                return;
            }
            sent -= left;
            self.sent_of_first = 0;
            #[cfg(feature = "fs")]
            if let Segment::File(write) = first {
                if write.has_more() {
                    write.memory = Vec::new();
                    return;
                }
            }
            let done = self.segments.pop_front().and_then(Segment::into_done);
            self.finished.extend(done.map(|done| (done, Ok(()))));
        }
    }

    #[cfg(feature = "fs")]
    pub fn push_file(&mut self, write: FileWrite) {
        self.segments.push_back(Segment::File(Box::new(write)));
    }

    /// Files in the queue.
    #[cfg(feature = "fs")]
    pub fn files(&self) -> usize {
        let is_file = |segment: &&Segment| matches!(segment, Segment::File(_));
        self.segments.iter().filter(is_file).count()
    }

    /// The file that is next, if nothing of it is in memory and there is more of it.
    #[cfg(feature = "fs")]
    pub fn next_file(&mut self) -> Option<&mut FileWrite> {
        match self.segments.front_mut() {
            Some(Segment::File(write)) if write.memory.is_empty() && write.has_more() => {
                Some(write)
            }
            _ => None,
        }
    }

    /// Whether a disk is waited for, and not the peer.
    pub fn waits_for_disk(&self) -> bool {
        #[cfg(feature = "fs")]
        if let Some(Segment::File(write)) = self.segments.front() {
            return write.is_fetching();
        }
        false
    }

    pub fn finish(&mut self, done: WriteCallback, outcome: Result<()>) {
        self.finished.push_back((done, outcome));
    }

    pub fn next_finished(&mut self) -> Option<(WriteCallback, Result<()>)> {
        self.finished.pop_front()
    }

    pub fn finished_count(&self) -> usize {
        self.finished.len()
    }

    /// Takes an owned write that has not begun out of the queue; its callback hears `ECANCELED`.
    pub fn cancel(&mut self, id: u64) -> Result<()> {
        let mut segments = self.segments.iter();
        let at = segments.position(|segment| segment.id() == Some(id));
        let at = at.ok_or(Error::new(Code::ENOENT))?;
        let begun = match &self.segments[at] {
            #[cfg(feature = "fs")]
            Segment::File(write) => write.has_begun(),
            _ => at == 0 && self.sent_of_first > 0,
        };
        if begun {
            return Err(Code::EBUSY.into());
        }
        let Some(removed) = self.segments.remove(at) else {
            return Ok(());
        };
        self.queued -= removed.counted();
        let canceled = Err(Code::ECANCELED.into());
        self.finished
            .extend(removed.into_done().map(|done| (done, canceled)));
        Ok(())
    }

    /// For a stream that is closed: one callback after the other, first those that ended, then
    /// those that never will.
    pub fn next_final_callback(&mut self) -> Option<(WriteCallback, Result<()>)> {
        if let Some(finished) = self.finished.pop_front() {
            return Some(finished);
        }
        let outcome = Err(self.error.unwrap_or(Code::ECANCELED.into()));
        while let Some(segment) = self.segments.pop_front() {
            if let Some(done) = segment.into_done() {
                return Some((done, outcome));
            }
        }
        self.shutdown.take().map(|done| (done, outcome))
    }
}

/// Gathered bytes are sent when they would be more, however long the callback goes on.
const GATHER_MAX: usize = 64 * 1024;

/// Small writes of the callback that is running: one stream's at a time.
#[derive(Default)]
pub(crate) struct Gathered {
    owner: Option<Id>,
    /// Empty before it is first needed.
    memory: Box<[u8]>,
    /// So much of it is gathered.
    length: usize,
}

impl Gathered {
    /// The stream that must be sent for before anything else happens to it.
    pub fn owner(&self) -> Option<Id> {
        self.owner
    }

    pub fn own(&mut self, id: Id) {
        self.owner = Some(id);
    }

    /// Adds bytes if there is room for all of them.
    pub fn push(&mut self, id: Id, bytes: &[u8]) -> bool {
        if self.memory.is_empty() {
            self.memory = vec![0; GATHER_MAX].into_boxed_slice();
        }
        self.push_into(id, bytes)
    }

    /// Adds bytes if there is memory already, with room for all of them.
    #[inline(always)] // into the way of every message
    pub fn push_into(&mut self, id: Id, bytes: &[u8]) -> bool {
        let end = self.length + bytes.len();
        let Some(room) = self.memory.get_mut(self.length..end) else {
            return false;
        };
        room.copy_from_slice(bytes);
        self.owner = Some(id);
        self.length = end;
        true
    }

    /// Bytes gathered for this stream.
    pub fn bytes_of(&self, id: Id) -> &[u8] {
        if self.owner == Some(id) {
            self.bytes()
        } else {
            &[]
        }
    }

    pub fn length_of(&self, id: Id) -> usize {
        self.bytes_of(id).len()
    }

    pub fn disown(&mut self) {
        self.owner = None;
    }

    /// Ends the gathering if it is this stream's: its bytes.
    pub fn take_of(&mut self, id: Id) -> Vec<u8> {
        let bytes = self.bytes_of(id).to_vec();
        if self.owner == Some(id) {
            self.clear();
        }
        bytes
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.length]
    }

    /// Ends the gathering; the memory is kept for the next callback.
    #[inline]
    pub fn clear(&mut self) {
        self.owner = None;
        self.length = 0;
    }
}
