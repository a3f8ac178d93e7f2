//! Streams that bring much: the ring says when there is something, and it is received at once, into the one buffer that
//! all streams share.
//!
//! What a turn brings by multishot receives is all in memory before the first of it is looked at: with many streams
//! of 64 KiB a time that is a megabyte, which has left the nearest cache when its turn comes, and the buffers are used
//! up besides. One buffer stays where it is: a hundred streams that are echoed cost 0.9 of what they cost otherwise.
//! Nor would a turn be bounded: the kernel takes all that is there from one stream before it looks at the next.

use super::lines::Status;
use super::token::{Operation, Token};
use super::Uring;
use crate::driver::{
    would_block, Buffer, Completion, Received, Source, Sources, State, RECEIVE_BUDGET,
    RECEIVE_SOCKET,
};
use crate::handles::Id;
use crate::sys;

/// A receive that brings so much makes its stream one of those.
const MUCH: usize = 32 * 1024;

/// Two times in a row no more than this, and it is one no longer.
const LITTLE: usize = 8 * 1024;

/// The stream that is received from.
pub(super) struct Reading {
    id: Id,
    left: usize,
}

impl Uring {
    /// A receive brought so many bytes.
    pub(super) fn note_size(&mut self, id: Id, length: usize) {
        let Some(line) = self.lines.get(id).filter(|_| length >= MUCH) else {
            return;
        };
        line.status.insert(Status::BULK);
        line.status.remove(Status::SLACK);
        if line.status & (Status::RECEIVING | Status::CANCELLED) == Status::RECEIVING {
            line.status.insert(Status::CANCELLED);
            // If it cannot be cancelled it goes on for now, and the next bytes ask again.
            if self.cancel(Token::new(Operation::Receive, id)).is_err() {
                if let Some(line) = self.lines.get(id) {
                    line.status.remove(Status::BULK | Status::CANCELLED);
                }
            }
        }
    }

    pub(super) fn begin_reading(&mut self, id: Id) {
        self.reading = Some(Reading {
            id,
            left: RECEIVE_BUDGET,
        });
    }

    pub(super) fn read_next<S: Sources>(
        &mut self,
        mut now: Reading,
        sources: &mut S,
        buffer: &mut Buffer,
    ) -> Option<Completion> {
        let id = now.id;
        let source = sources.source(id)?;
        let wanted = source.state & (State::RECEIVE | State::OWN_MEMORY) == State::RECEIVE;
        if !wanted || self.kept.contains_key(&id) {
            return None;
        }
        let memory = buffer.memory();
        let received = source.socket().map_err(std::io::Error::from);
        let length =
            match received.and_then(|socket| sys::receive(socket, &mut memory[..RECEIVE_SOCKET])) {
                Ok(length @ 1..) => length,
                outcome => return self.read_nothing(id, source, outcome),
            };
        self.note_fill(id, length, now.left == RECEIVE_BUDGET);
        now.left = now.left.saturating_sub(length);
        if length == RECEIVE_SOCKET && now.left > 0 {
            self.reading = Some(now);
        } else {
            // If there is more the ring says so at once, and the others have their turn before.
            self.arm_later(id);
        }
        Some(Completion::Received(id, Received::Shared(length)))
    }

    /// The end, a failure, or just nothing.
    fn read_nothing(
        &mut self,
        id: Id,
        source: &mut Source,
        outcome: std::io::Result<usize>,
    ) -> Option<Completion> {
        match outcome {
            Err(error) if would_block(&error) => {
                self.arm_later(id);
                None
            }
            Err(error) => self.hand_out_end(id, Some(error.into()), source),
            Ok(_) => self.hand_out_end(id, None, source),
        }
    }

    fn note_fill(&mut self, id: Id, length: usize, is_first: bool) {
        let Some(line) = self.lines.get(id) else {
            return;
        };
        if length > LITTLE {
            line.status.remove(Status::SLACK);
        } else if is_first && line.status.contains(Status::SLACK) {
            line.status.remove(Status::BULK | Status::SLACK);
        } else if is_first {
            line.status.insert(Status::SLACK);
        }
    }
}
