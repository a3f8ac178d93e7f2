//! What the driver knows of each handle, by the slot of its number.

use bitflags::bitflags;

use super::ring::How;
use super::token::{generation_of, Token};
use crate::handles::Id;
use crate::sys::Descriptor;

bitflags! {
    /// What a handle wants, and what the kernel has of it.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct Status: u32 {
        // What it wants.
        /// To receive.
        const RECEIVES = 1;
        /// To receive into its owner's memory.
        const OWN_MEMORY = 1 << 1;
        /// To accept.
        const ACCEPTS = 1 << 2;
        /// To know when it is writable.
        const WRITES = 1 << 3;
        // What is under way.
        /// A receive.
        const RECEIVING = 1 << 4;
        /// The receive is being cancelled.
        const CANCELLED = 1 << 5;
        /// Waiting until it is readable.
        const READ_POLL = 1 << 6;
        /// Waiting until it is writable.
        const WRITE_POLL = 1 << 7;
        // What is known of it.
        /// Its first bytes came: from now on it receives until stopped.
        const GREETED = 1 << 8;
        /// It brought bytes in this turn.
        const FED = 1 << 9;
        /// Stands in the list of those to be armed.
        const ARMING = 1 << 10;
        /// Bytes that the kernel did not take are to be given back.
        const UNSENT = 1 << 11;
        /// Bytes, or the end, came while it did not receive.
        const KEPT = 1 << 12;
        /// Stands in the list of those to go on with in the next turn.
        const CARRIED = 1 << 13;
        /// It brings much at a time: see `bulk.rs`.
        const BULK = 1 << 14;
        /// Last time it did not.
        const SLACK = 1 << 15;
        /// The receive that brought its last bytes left none in the socket.
        const EMPTIED = 1 << 16;
        /// A send through the ring failed.
        const SEND_FAILED = 1 << 17;

        const UNDER_WAY = Self::RECEIVING.bits() | Self::READ_POLL.bits() | Self::WRITE_POLL.bits();
    }
}

impl Status {
    /// The receive that it is to begin. (A second receive that looks into an emptied socket before it waits makes
    /// a short connection two hundredths dearer.)
    pub fn how_to_receive(self) -> How {
        let mut how = How::empty();
        how.set(How::GOES_ON, self.contains(Status::GREETED));
        how.set(How::WAITS_FIRST, self.contains(Status::EMPTIED));
        how
    }
}

#[derive(Clone, Copy)]
pub(super) struct Line {
    /// Of the handle that it is about; 0: of none.
    generation: u32,
    pub at: Descriptor,
    /// The batch of submissions in which it last sent.
    pub batch: u32,
    pub status: Status,
}

const EMPTY: Line = Line {
    generation: 0,
    at: -1,
    batch: 0,
    status: Status::empty(),
};

#[derive(Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// The line of a live handle, which is made if there is none yet.
    #[inline]
    pub fn open(&mut self, id: Id, at: Descriptor) -> &mut Line {
        let slot = id.index() as usize;
        if self.0.len() <= slot {
            self.0.resize(slot + 1, EMPTY);
        }
        let line = &mut self.0[slot];
        if line.generation != generation_of(id) {
            *line = Line {
                generation: generation_of(id),
                at,
                ..EMPTY
            };
        }
        line
    }

    #[inline]
    pub fn get(&mut self, id: Id) -> Option<&mut Line> {
        let line = self.0.get_mut(id.index() as usize)?;
        (line.generation == generation_of(id)).then_some(line)
    }

    /// The line of a completion's handle, if that is not closed.
    #[inline]
    pub fn of(&mut self, token: Token) -> Option<&mut Line> {
        let line = self.0.get_mut(token.index())?;
        (line.generation == token.generation()).then_some(line)
    }

    pub fn close(&mut self, id: Id) {
        if let Some(line) = self.get(id) {
            *line = EMPTY;
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(feature = "capi")]
    /// Every handle that has one: its slot, its generation, the line.
    pub fn all(&mut self) -> impl Iterator<Item = (usize, u32, &mut Line)> {
        let open = self.0.iter_mut().enumerate();
        open.filter(|(_, line)| line.generation != 0)
            .map(|(slot, line)| (slot, line.generation, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_receive_is_for_once_and_only_one_after_an_emptied_socket_waits_first() {
        let after = |status: Status| status.how_to_receive();
        assert_eq!(after(Status::RECEIVES), How::empty());
        assert_eq!(after(Status::RECEIVES | Status::GREETED), How::GOES_ON);
        let emptied = Status::GREETED | Status::EMPTIED;
        assert_eq!(after(emptied), How::GOES_ON | How::WAITS_FIRST);
    }
}
