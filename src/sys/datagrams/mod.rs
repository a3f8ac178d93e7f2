//! Datagrams: many of them in one system call, with what the kernel knows of each.
//!
//! Linux has calls for batches (`recvmmsg`, `sendmmsg`), segmentation by the kernel or the card
//! (`UDP_SEGMENT`, `UDP_GRO`) and control messages; elsewhere (`portable.rs`) each datagram is a
//! call of its own. FreeBSD's `recvmmsg` is no exception: its C library makes the loop.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod control;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
mod portable;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};

use socket2::Socket;

#[cfg(any(target_os = "linux", target_os = "android"))]
use linux as system;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use portable as system;

pub(crate) use system::{next_error, receive};

/// Sends messages, at most [`MESSAGES_MAX`] of them: how many the system took, and what it has
/// against the next one. Fewer than there are and no error: the socket is full.
pub(crate) fn send(socket: &Socket, messages: &[Outgoing<'_>]) -> (usize, io::Result<()>) {
    #[cfg(all(test, target_os = "linux"))]
    return fault::send(socket, messages);
    #[cfg(not(all(test, target_os = "linux")))]
    system::send(socket, messages)
}

/// Datagrams that one call brings at most. 32 share what the call itself costs so well (5 ns
/// each) that more would only take more memory.
pub(crate) const BATCH: usize = 32;

/// Messages that one call sends at most.
pub(crate) const MESSAGES_MAX: usize = 64;

/// What the largest datagram carries, and the largest that the kernel puts together from several
/// (`UDP_GRO`).
pub(crate) const DATAGRAM_MAX: usize = 65_535;

/// Where the next datagram's room begins: not at a multiple of 4 KiB, since then the beginnings
/// of all would share a few lines of the processor's caches.
const STRIDE: usize = 64 * 1024 + 21 * 64;

/// One message of a batch: a datagram, or several of the same sender that came together.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    /// Where its bytes are in the batch's memory.
    pub at: u32,
    pub length: u32,
    /// The size of each datagram in it but the last; 0: it is one.
    pub segment: u16,
    /// The traffic class byte, if the socket asks for it.
    pub tos: Option<u8>,
    /// It was longer than the room for it.
    pub truncated: bool,
    /// The interface it came by; 0: not known.
    pub interface: u32,
    pub from: SocketAddr,
    /// The address it was sent to, if the socket asks for it.
    pub to: Option<IpAddr>,
}

impl Item {
    fn new(at: usize, length: usize, from: SocketAddr) -> Item {
        Item {
            at: at as u32,
            length: length as u32,
            segment: 0,
            tos: None,
            truncated: false,
            interface: 0,
            from,
            to: None,
        }
    }

    /// The length of each datagram in it but the last, which may be shorter. Never 0.
    pub fn step(&self) -> usize {
        match self.segment {
            0 => (self.length as usize).max(1),
            segment => usize::from(segment),
        }
    }
}

/// Received datagrams, and how far they were handed out.
pub(crate) struct Batch {
    memory: Box<[u8]>,
    items: Vec<Item>,
    /// The item that is to be handed out next, and how many bytes of it are already.
    next: usize,
    done: usize,
}

impl Batch {
    /// Room for [`BATCH`] datagrams of any size. The system gives memory to what is used of it.
    pub fn new() -> Batch {
        Batch {
            memory: vec![0; STRIDE * BATCH].into_boxed_slice(),
            items: Vec::with_capacity(BATCH),
            next: 0,
            done: 0,
        }
    }

    /// Whether it has the room that [`receive`] needs.
    pub fn is_whole(&self) -> bool {
        self.memory.len() == STRIDE * BATCH
    }

    /// Takes the next datagram out: the message it came in, and where its bytes are.
    #[inline]
    pub fn advance(&mut self) -> Option<(Item, std::ops::Range<usize>)> {
        let item = *self.items.get(self.next)?;
        let (start, end) = (
            self.done,
            (self.done + item.step()).min(item.length as usize),
        );
        if end >= item.length as usize {
            self.next += 1;
            self.done = 0;
        } else {
            self.done = end;
        }
        let at = item.at as usize;
        Some((item, at + start..at + end))
    }

    #[inline]
    pub fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.memory[range]
    }

    pub fn is_empty(&self) -> bool {
        self.next >= self.items.len()
    }

    /// Bytes of all messages.
    pub fn length(&self) -> usize {
        self.items.iter().map(|item| item.length as usize).sum()
    }

    pub fn count(&self) -> usize {
        self.items.len()
    }

    pub fn clear(&mut self) {
        self.items.clear();
        (self.next, self.done) = (0, 0);
    }

    /// Adds a datagram to one that has room, of at most [`DATAGRAM_MAX`] bytes.
    #[cfg(feature = "sim")]
    pub fn put(&mut self, data: &[u8], from: SocketAddr, to: IpAddr) {
        let at = self.items.len() * STRIDE;
        let Some(room) = self.memory.get_mut(at..at + data.len()) else {
            return;
        };
        room.copy_from_slice(data);
        let mut item = Item::new(at, data.len(), from);
        item.to = Some(to);
        self.items.push(item);
    }

    /// What is left of it, in no more memory than that takes.
    pub fn compact(&self) -> Batch {
        let mut items = self.items[self.next.min(self.items.len())..].to_vec();
        if let Some(first) = items.first_mut() {
            first.at += self.done as u32;
            first.length -= self.done as u32;
        }
        let mut memory = Vec::with_capacity(items.iter().map(|item| item.length as usize).sum());
        for item in &mut items {
            let at = item.at as usize;
            item.at = memory.len() as u32;
            memory.extend_from_slice(&self.memory[at..at + item.length as usize]);
        }
        Batch {
            memory: memory.into_boxed_slice(),
            items,
            next: 0,
            done: 0,
        }
    }
}

/// One message to send.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    /// `None`: to the peer that the socket is connected to.
    pub to: Option<SocketAddr>,
    pub slices: &'a [IoSlice<'a>],
    /// The system makes datagrams of this size of it; 0: it is one datagram.
    pub segment: u16,
    pub how: How,
}

/// How a datagram is sent, beside where to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct How {
    /// The local address to send from.
    pub source: Option<IpAddr>,
    /// The interface to send by; 0: as the system routes it.
    pub interface: u32,
    /// The traffic class byte.
    pub tos: Option<u8>,
    /// It goes as IPv4, be the socket IPv6: that decides which control message has the traffic
    /// class.
    pub ipv4: bool,
}

/// What a network told of a datagram that was sent before.
pub(crate) struct Told {
    /// The system's number of the error.
    pub errno: i32,
    /// Where that datagram was sent.
    pub to: Option<SocketAddr>,
    /// Who told: a router on the way, or the destination.
    pub by: Option<IpAddr>,
    /// For a datagram that was too large: what fits.
    pub mtu: Option<u32>,
}

/// A system that is slower and poorer than this one: on the loopback no socket is ever full.
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod fault {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// How many messages are still taken before the socket is full.
        pub(crate) static ROOM: Cell<usize> = const { Cell::new(usize::MAX) };
        /// Why segmented messages are refused.
        pub(crate) static REFUSES_SEGMENTS: Cell<Option<i32>> = const { Cell::new(None) };
        /// Datagrams that begin with this byte are refused, and why.
        pub(crate) static REFUSES: Cell<Option<(u8, i32)>> = const { Cell::new(None) };
        /// How many calls there were.
        pub(crate) static CALLS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn send(socket: &Socket, messages: &[Outgoing<'_>]) -> (usize, io::Result<()>) {
        CALLS.set(CALLS.get() + 1);
        let segmented = REFUSES_SEGMENTS.get().and_then(|errno| {
            let at = messages.iter().position(|message| message.segment > 0)?;
            Some((at, errno))
        });
        let refused = REFUSES.get().and_then(|(byte, errno)| {
            let begins = |message: &Outgoing<'_>| {
                let first = message.slices.first().and_then(|slice| slice.first());
                message.segment == 0 && first == Some(&byte)
            };
            Some((messages.iter().position(begins)?, errno))
        });
        let refused = segmented.into_iter().chain(refused).min();
        let until = refused.map_or(messages.len(), |(at, _)| at);
        let room = ROOM.get().min(until);
        let (taken, outcome) = system::send(socket, &messages[..room]);
        if ROOM.get() != usize::MAX {
            ROOM.set(ROOM.get() - taken);
        }
        match refused {
            Some((at, errno)) if taken == at => (taken, Err(io::Error::from_raw_os_error(errno))),
            _ => (taken, outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(items: &[(usize, u16)]) -> Batch {
        let from: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let mut batch = Batch::new();
        for (number, (length, segment)) in items.iter().enumerate() {
            let at = number * STRIDE;
            for byte in 0..*length {
                batch.memory[at + byte] = (number * 100 + byte) as u8;
            }
            let mut item = Item::new(at, *length, from);
            item.segment = *segment;
            batch.items.push(item);
        }
        batch
    }

    fn all(batch: &mut Batch) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while let Some((_, range)) = batch.advance() {
            found.push(batch.bytes(range).to_vec());
        }
        found
    }

    #[test]
    fn datagrams_that_came_together_are_taken_apart() {
        let mut batch = batch(&[(3, 0), (5, 2), (0, 0), (4, 2)]);
        assert_eq!((batch.count(), batch.length()), (4, 12));
        let lengths: Vec<_> = all(&mut batch).iter().map(Vec::len).collect();
        assert_eq!(lengths, [3, 2, 2, 1, 0, 2, 2]);
        assert!(batch.is_empty());
    }

    #[test]
    fn what_is_left_of_a_batch_is_the_same_in_less_memory() {
        for taken in 0..8 {
            let mut whole = batch(&[(3, 0), (5, 2), (0, 0), (4, 2)]);
            for _ in 0..taken {
                whole.advance();
            }
            let mut rest = whole.compact();
            assert!(!rest.is_whole());
            assert_eq!(all(&mut rest), all(&mut whole), "{taken}");
        }
    }
}
