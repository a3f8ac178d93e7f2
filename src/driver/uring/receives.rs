//! Receiving: what came is handed out, or kept for a stream that has stopped in the meantime.

use super::buffers::Piece;
use super::lines::Status;
use super::ring::Completed;
use super::token::{Operation, Token};
use super::{Event, Uring};
use crate::driver::{would_block, Completion, ReceiveInto, Received, Source, State};
use crate::error::{Code, Error, Result};
use crate::handles::Id;
use crate::sys;

/// What came for a stream that did not receive. No more than what one turn brings: its receive is cancelled before
/// the next one.
#[derive(Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// Bytes that its owner had already.
    taken: usize,
    end: Option<End>,
}

enum End {
    Ended,
    Failed(Error),
}

impl Kept {
    fn left(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub fn failure(&self) -> Option<Error> {
        match &self.end {
            Some(End::Failed(error)) => Some(*error),
            _ => None,
        }
    }
}

impl Uring {
    pub(super) fn start_receiving(&mut self, id: Id, source: &mut Source) -> Result<()> {
        let own_memory = source.state.contains(State::OWN_MEMORY);
        let line = self.open(id, source)?;
        line.status.insert(Status::RECEIVES);
        line.status.set(Status::OWN_MEMORY, own_memory);
        if line.status.contains(Status::KEPT) {
            self.carry(id);
        } else {
            self.arm_later(id);
        }
        self.settle()?;
        source.state.insert(State::RECEIVE);
        Ok(())
    }

    pub(super) fn stop_receiving(&mut self, id: Id, source: &mut Source) {
        source.state.remove(State::RECEIVE);
        let Some(line) = self.lines.get(id) else {
            return;
        };
        line.status.remove(Status::RECEIVES);
        if line.status & (Status::RECEIVING | Status::CANCELLED) != Status::RECEIVING {
            return;
        }
        line.status.insert(Status::CANCELLED);
        let cancelled = self.cancel(Token::new(Operation::Receive, id));
        if cancelled.and_then(|()| self.settle()).is_err() {
            // It goes on: what comes is kept, and asks again.
            if let Some(line) = self.lines.get(id) {
                line.status.remove(Status::CANCELLED);
            }
        }
    }

    /// A receive brought something, or ended.
    pub(super) fn received(&mut self, completed: Completed) {
        let Completed {
            token,
            result,
            more,
            piece,
            left_some,
        } = completed;
        let Some(line) = self.lines.of(token) else {
            if more {
                // Of a handle that is closed: the cancellation passed it by.
                let _ = self.cancel(token);
            }
            return;
        };
        let Some(id) = token.id(self.tag) else { return };
        if !more {
            line.status.remove(Status::RECEIVING | Status::CANCELLED);
        }
        let event = match (result, piece) {
            (1.., Some(piece)) => {
                line.status.insert(Status::GREETED | Status::FED);
                line.status.set(Status::EMPTIED, !left_some);
                if more && !line.status.contains(Status::RECEIVES) {
                    line.status.insert(Status::CANCELLED);
                    let _ = self.cancel(token);
                }
                Event::Data(id, piece)
            }
            (0, _) => Event::Ended(id),
            // No buffer is free, or somebody ended it: once more, if it is still wanted.
            (_, _) if is_passing(result) => {
                line.status.remove(Status::EMPTIED);
                return self.arm_later(id);
            }
            (1.., None) => Event::Failed(id, Code::EIO.into()), // no buffer of ours
            _ => Event::Failed(id, std::io::Error::from_raw_os_error(-result).into()),
        };
        if let Event::Data(_, piece) = &event {
            self.note_size(id, piece.bytes().len());
            if !more {
                self.arm_later(id);
            }
        }
        self.ready.push_back(event);
    }

    #[inline]
    pub(super) fn hand_out(
        &mut self,
        id: Id,
        piece: Piece,
        source: &mut Source,
    ) -> Option<Completion> {
        let wanted = source.state & (State::RECEIVE | State::OWN_MEMORY) == State::RECEIVE;
        if wanted && (self.kept.is_empty() || !self.kept.contains_key(&id)) {
            return Some(Completion::Received(id, Received::Ring(piece)));
        }
        self.keep(id, piece.bytes());
        self.hand_out_kept_of_own_memory(id, source)
    }

    pub(super) fn hand_out_end(
        &mut self,
        id: Id,
        error: Option<Error>,
        source: &mut Source,
    ) -> Option<Completion> {
        if !source.state.contains(State::RECEIVE) || self.kept.contains_key(&id) {
            self.keep_end(id, error);
            return None;
        }
        self.stop_receiving(id, source);
        Some(match error {
            None => Completion::Ended(id),
            Some(error) => Completion::ReceiveFailed(id, error),
        })
    }

    pub(super) fn keep(&mut self, id: Id, bytes: &[u8]) {
        let kept = self.kept.entry(id).or_default();
        kept.bytes.extend_from_slice(bytes);
        self.note_kept(id, true);
    }

    pub(super) fn keep_end(&mut self, id: Id, error: Option<Error>) {
        let kept = self.kept.entry(id).or_default();
        kept.end = Some(error.map_or(End::Ended, End::Failed));
        self.note_kept(id, true);
    }

    /// A handle that has something kept receives nothing more before that is handed out.
    fn note_kept(&mut self, id: Id, has: bool) {
        let Some(line) = self.lines.get(id) else {
            self.kept.remove(&id);
            return;
        };
        line.status.set(Status::KEPT, has);
        if has && line.status.contains(Status::RECEIVES) {
            self.carry(id);
        }
    }

    /// A stream that receives into its owner's memory asks for that.
    fn hand_out_kept_of_own_memory(&mut self, id: Id, source: &Source) -> Option<Completion> {
        let own = State::RECEIVE | State::OWN_MEMORY;
        if !source.state.contains(own) {
            return None;
        }
        if let Some(line) = self.lines.get(id) {
            // Another handler: from now on it receives in the other way.
            line.status.insert(Status::OWN_MEMORY);
            if line.status & (Status::RECEIVING | Status::CANCELLED) == Status::RECEIVING {
                line.status.insert(Status::CANCELLED);
                let _ = self.cancel(Token::new(Operation::Receive, id));
            }
        }
        Some(Completion::Readable(id))
    }

    /// What was kept, in the turn after that in which it is wanted again.
    pub(super) fn hand_out_kept(&mut self, id: Id, source: &mut Source) -> Option<Completion> {
        if !source.state.contains(State::RECEIVE) {
            return None;
        }
        let kept = self.kept.get_mut(&id)?;
        if !kept.left().is_empty() {
            if source.state.contains(State::OWN_MEMORY) {
                return self.hand_out_kept_of_own_memory(id, source);
            }
            let mut bytes = std::mem::take(&mut kept.bytes);
            bytes.drain(..std::mem::take(&mut kept.taken));
            self.kept_was_taken(id);
            return Some(Completion::Received(id, Received::Kept(bytes)));
        }
        match kept.end.take()? {
            End::Ended => {
                self.kept.remove(&id);
                self.note_kept(id, false);
                self.hand_out_end(id, None, source)
            }
            End::Failed(error) => {
                self.kept.remove(&id);
                self.note_kept(id, false);
                self.hand_out_end(id, Some(error), source)
            }
        }
    }

    /// The bytes that were kept are told: the end is next, or what comes now.
    fn kept_was_taken(&mut self, id: Id) {
        if self.kept.get(&id).is_some_and(|kept| kept.end.is_some()) {
            self.carry(id);
        } else {
            self.kept.remove(&id);
            self.note_kept(id, false);
            self.arm_later(id);
        }
    }

    /// A socket became readable whose bytes go to its owner's memory, or a listener.
    pub(super) fn readable(&mut self, id: Id, source: &mut Source) -> Option<Completion> {
        if source.state.contains(State::ACCEPT) {
            self.begin_accepting(id);
            return None;
        }
        if !source.state.contains(State::RECEIVE) {
            return None;
        }
        // Told once; what is left over is found when it is asked for again.
        if source.state.contains(State::OWN_MEMORY) {
            self.arm_later(id);
            return Some(Completion::Readable(id));
        }
        if let Some(line) = self.lines.get(id) {
            line.status.remove(Status::OWN_MEMORY);
            if line.status.contains(Status::BULK) {
                self.begin_reading(id);
                return None;
            }
        }
        self.arm_later(id);
        None
    }

    pub(super) fn receive_into_owners(
        &mut self,
        id: Id,
        source: &mut Source,
        memory: &mut [u8],
    ) -> ReceiveInto {
        if let Some(kept) = self.kept.get_mut(&id) {
            let length = kept.left().len().min(memory.len());
            memory[..length].copy_from_slice(&kept.left()[..length]);
            kept.taken += length;
            if kept.left().is_empty() {
                kept.bytes.clear();
                kept.taken = 0;
                self.kept_was_taken(id);
            } else {
                self.carry(id);
            }
            return ReceiveInto::Bytes(length);
        }
        let received = source.socket().map_err(std::io::Error::from);
        match received.and_then(|socket| sys::receive(socket, memory)) {
            Ok(0) if !memory.is_empty() => {
                self.stop_receiving(id, source);
                ReceiveInto::Ended
            }
            Ok(length) => ReceiveInto::Bytes(length),
            Err(error) if would_block(&error) => ReceiveInto::Nothing,
            Err(error) => {
                self.stop_receiving(id, source);
                ReceiveInto::Failed(error.into())
            }
        }
    }
}

/// Outcomes of a receive that say nothing about the connection.
fn is_passing(result: i32) -> bool {
    let passing = [libc::ENOBUFS, libc::ECANCELED, libc::EAGAIN, libc::EINTR];
    passing.contains(&-result)
}
