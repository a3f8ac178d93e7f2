//! What a UDP socket has to send, and to tell of what it sent. Only sockets that need it have one.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;

use super::handler::DatagramError;
use super::{UdpSocket, SLICES_MAX};
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
use crate::stream::Payloads;
use crate::sys::datagrams::{How, Outgoing, MESSAGES_MAX};

/// Called when an owned datagram was sent, or never will be.
pub(crate) type SendCallback = Box<dyn FnOnce(&Loop, UdpSocket, Result<()>)>;

/// What a datagram counts for beside its bytes: about what the queue spends on one, so that empty
/// ones are bounded, too.
pub(super) const OVERHEAD: usize = 64;

/// Datagrams that the kernel takes apart from one message at most (Linux: `UDP_MAX_SEGMENTS`).
pub(super) const SEGMENTS_MAX: usize = 64;

/// Bytes in such a message at most: what fits into an IP packet, with room for options.
pub(super) const SEGMENTED_MAX: usize = 65_000;

/// Errors that wait to be told at most. Further ones are as many of the same, and are dropped.
pub(super) const ERRORS_MAX: usize = 64;

/// How much a socket queues: see [`UdpSocket::set_watermarks`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Watermarks {
    pub low: usize,
    pub high: usize,
    pub limit: usize,
}

/// A datagram that waits gets old, so there is less of it than of a stream's bytes: the limit is
/// a few times what a socket's send buffer holds.
pub(super) const WATERMARKS: Watermarks = Watermarks {
    low: 64 * 1024,
    high: 256 * 1024,
    limit: 1024 * 1024,
};

enum Memory {
    Copied(Vec<u8>),
    Owned(Payloads),
}

/// A message in the queue: a datagram, or several of the same size to one destination.
struct Entry {
    /// The name of an owned one; 0: copied.
    id: u64,
    to: Option<SocketAddr>,
    how: How,
    segment: u16,
    /// No more can be added to it.
    closed: bool,
    cost: usize,
    memory: Memory,
    done: Option<SendCallback>,
    /// A part of it was refused.
    failed: Option<Error>,
}

pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    /// Bytes of the first message that are dealt with already: whole datagrams of a run.
    done_of_first: usize,
    bytes: usize,
    pub(super) marks: Watermarks,
    /// It stood at the high watermark, and has not fallen to the low one since.
    pub(super) full: bool,
    finished: VecDeque<(SendCallback, Result<()>)>,
    errors: VecDeque<DatagramError>,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            entries: VecDeque::new(),
            done_of_first: 0,
            bytes: 0,
            marks: WATERMARKS,
            full: false,
            finished: VecDeque::new(),
            errors: VecDeque::new(),
        }
    }
}

impl Queue {
    /// Nothing in it that a new one would not have.
    pub(super) fn is_spare(&self) -> bool {
        self.entries.is_empty()
            && self.finished.is_empty()
            && self.errors.is_empty()
            && self.marks == WATERMARKS
            && !self.full
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues a copy of a message, from `skip` bytes of it on. Datagrams of one size to one
    /// destination that follow each other become one message.
    pub(super) fn push_copy(&mut self, message: &Outgoing<'_>, skip: usize, segment_limit: u16) {
        let length: usize = message
            .slices
            .iter()
            .map(|slice| slice.len())
            .sum::<usize>()
            - skip;
        let cost = cost(length, message.segment);
        self.bytes += cost;
        if message.segment == 0 {
            if let Some(last) = self.entries.back_mut() {
                if last.joins(message, length, segment_limit) {
                    last.cost += cost;
                    return self.note_level();
                }
            }
        }
        let mut bytes = Vec::with_capacity(length);
        copy(message.slices, skip, &mut bytes);
        let segment = if usize::from(message.segment) < length {
            message.segment
        } else {
            0
        };
        self.entries.push_back(Entry {
            id: 0,
            to: message.to,
            how: message.how,
            segment,
            closed: message.segment != 0 || length == 0 || length > usize::from(segment_limit),
            cost,
            memory: Memory::Copied(bytes),
            done: None,
            failed: None,
        });
        self.note_level();
    }

    /// Queues memory that its owner keeps until `done`.
    pub(super) fn push_owned(
        &mut self,
        id: u64,
        to: Option<SocketAddr>,
        how: How,
        segment: u16,
        payloads: Payloads,
        done: Option<SendCallback>,
    ) {
        let cost = cost(payloads.length(), segment);
        self.bytes += cost;
        let memory = if payloads.as_slice().len() > SLICES_MAX {
            let mut bytes = Vec::with_capacity(payloads.length());
            for payload in payloads.as_slice() {
                bytes.extend_from_slice(payload.bytes());
            }
            Memory::Copied(bytes)
        } else {
            Memory::Owned(payloads)
        };
        self.entries.push_back(Entry {
            id,
            to,
            how,
            segment,
            closed: true,
            cost,
            memory,
            done,
            failed: None,
        });
    }

    pub(super) fn note_level(&mut self) {
        self.full |= self.bytes >= self.marks.high;
    }

    pub(super) fn set_marks(&mut self, marks: Watermarks) {
        self.marks = marks;
        self.note_level();
    }

    /// Whether the queue has now fallen to the low watermark after it was full; once.
    pub(super) fn falls_to_low(&mut self) -> bool {
        self.full && self.bytes <= self.marks.low && {
            self.full = false;
            true
        }
    }

    /// Hands the next messages to `run`, as many as one call sends.
    pub(super) fn with_messages<R>(&self, run: impl FnOnce(&[Outgoing<'_>]) -> R) -> R {
        const SLICES: usize = MESSAGES_MAX + SLICES_MAX;
        let mut slices = [IoSlice::new(&[]); SLICES];
        // For each message where its slices end, and its entry.
        let mut ends = [0; MESSAGES_MAX];
        let (mut count, mut used, mut skip) = (0, 0, self.done_of_first);
        for entry in self.entries.iter().take(MESSAGES_MAX) {
            let pieces = entry.pieces();
            if used + pieces.len() > SLICES {
                break;
            }
            for piece in pieces {
                let skipped = skip.min(piece.len());
                skip -= skipped;
                slices[used] = IoSlice::new(&piece[skipped..]);
                used += 1;
            }
            ends[count] = used;
            count += 1;
        }
        let nothing = Outgoing {
            to: None,
            slices: &[],
            segment: 0,
            how: How::default(),
        };
        let mut messages = [nothing; MESSAGES_MAX];
        let mut start = 0;
        for (at, entry) in self.entries.iter().take(count).enumerate() {
            messages[at] = Outgoing {
                to: entry.to,
                slices: &slices[start..ends[at]],
                segment: entry.segment,
                how: entry.how,
            };
            start = ends[at];
        }
        run(&messages[..count])
    }

    /// Where the message at `at` goes, and whether somebody waits for its outcome.
    pub(super) fn has_callback(&self, at: usize) -> bool {
        self.entries
            .get(at)
            .is_some_and(|entry| entry.done.is_some())
    }

    /// A part of the message at `at` was refused.
    pub(super) fn refuse(&mut self, at: usize, error: Error) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.failed.get_or_insert(error);
        }
    }

    /// So many messages are dealt with, and so many bytes of the next.
    pub(super) fn advance(&mut self, messages: usize, bytes: usize) {
        for _ in 0..messages {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= entry.cost;
            self.done_of_first = 0;
            if let Some(done) = entry.done {
                self.finished
                    .push_back((done, entry.failed.map_or(Ok(()), Err)));
            }
        }
        self.done_of_first += bytes;
    }

    /// Takes back an owned message of which nothing is sent.
    pub(super) fn cancel(&mut self, id: u64) -> Result<()> {
        let mut entries = self.entries.iter();
        let at = entries.position(|entry| entry.id == id && id != 0);
        let at = at.ok_or(Error::new(Code::ENOENT))?;
        if at == 0 && self.done_of_first > 0 {
            return Err(Code::EBUSY.into());
        }
        let Some(removed) = self.entries.remove(at) else {
            return Ok(());
        };
        self.bytes -= removed.cost;
        let canceled = Err(Code::ECANCELED.into());
        self.finished
            .extend(removed.done.map(|done| (done, canceled)));
        Ok(())
    }

    pub(super) fn next_finished(&mut self) -> Option<(SendCallback, Result<()>)> {
        self.finished.pop_front()
    }

    pub(super) fn finished_count(&self) -> usize {
        self.finished.len()
    }

    /// Notes an error until it is told; the same one again makes it count for more datagrams.
    pub(super) fn note_error(&mut self, error: DatagramError) {
        if let Some(last) = self.errors.back_mut() {
            let same = DatagramError {
                count: last.count,
                ..error
            };
            if *last == same {
                last.count = last.count.saturating_add(error.count);
                return;
            }
        }
        if self.errors.len() < ERRORS_MAX {
            self.errors.push_back(error);
        }
    }

    pub(super) fn next_error(&mut self) -> Option<DatagramError> {
        self.errors.pop_front()
    }

    pub(super) fn errors_count(&self) -> usize {
        self.errors.len()
    }

    pub(super) fn has_to_tell(&self) -> bool {
        !self.finished.is_empty() || !self.errors.is_empty()
    }

    /// For a socket that is closed: one callback after the other, first those that ended, then
    /// those that never will.
    pub(crate) fn next_final_callback(&mut self) -> Option<(SendCallback, Result<()>)> {
        if let Some(finished) = self.finished.pop_front() {
            return Some(finished);
        }
        while let Some(entry) = self.entries.pop_front() {
            if let Some(done) = entry.done {
                return Some((done, Err(Code::ECANCELED.into())));
            }
        }
        None
    }
}

impl Entry {
    fn pieces(&self) -> Pieces<'_> {
        match &self.memory {
            Memory::Copied(bytes) => Pieces::One(Some(bytes)),
            Memory::Owned(payloads) => Pieces::Many(payloads.as_slice().iter()),
        }
    }

    /// Adds a datagram to the run, if it may stand in it: as large as those before, or the
    /// smaller last.
    fn joins(&mut self, message: &Outgoing<'_>, length: usize, segment_limit: u16) -> bool {
        let Memory::Copied(bytes) = &mut self.memory else {
            return false;
        };
        if self.closed || self.to != message.to || self.how != message.how {
            return false;
        }
        let size = match self.segment {
            0 => bytes.len(),
            segment => usize::from(segment),
        };
        let fits = length > 0
            && length <= size
            && size <= usize::from(segment_limit)
            && bytes.len() + length <= SEGMENTED_MAX
            && bytes.len() / size < SEGMENTS_MAX;
        if fits {
            self.segment = size as u16;
            self.closed = length < size;
            copy(message.slices, 0, bytes);
        }
        fits
    }
}

/// The memory of a message.
enum Pieces<'a> {
    One(Option<&'a [u8]>),
    Many(std::slice::Iter<'a, crate::stream::Payload>),
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Pieces::One(bytes) => bytes.take(),
            Pieces::Many(payloads) => payloads.next().map(|payload| payload.bytes()),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match self {
            Pieces::One(bytes) => usize::from(bytes.is_some()),
            Pieces::Many(payloads) => payloads.len(),
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Pieces<'_> {}

/// What a message counts for.
pub(super) fn cost(length: usize, segment: u16) -> usize {
    let datagrams = match segment {
        0 => 1,
        segment => length.div_ceil(usize::from(segment)).max(1),
    };
    length + datagrams * OVERHEAD
}

/// Appends the bytes of the slices from `skip` on.
fn copy(slices: &[IoSlice<'_>], mut skip: usize, to: &mut Vec<u8>) {
    for slice in slices {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        to.extend_from_slice(&slice[skipped..]);
    }
}
