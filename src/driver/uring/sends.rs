//! Sending: small writes go with the turn's call, everything else at once.
//!
//! A send through the ring costs a little less than the system call, but its bytes must be copied, since the callback
//! that wrote them has returned when it is made. Up to a few KiB that pays, and where several go together: for one
//! alone the system call is the cheaper one, by two per cent of all that a message costs.
//!
//! It is tried once, like the system call. If the kernel does not take all, the rest goes back to the stream
//! ([`Completion::Unsent`]), which queues it in front of what it wrote since. Until then nothing more of that stream
//! is taken, so the order of bytes cannot change; for the same reason no batch has two sends of one stream, of which
//! the second might find room that the first did not.

use std::io::IoSlice;

use super::lines::Status;
use super::token::{Operation, Token};
use super::{Event, Uring};
#[cfg(feature = "fs")]
use crate::driver::{readiness::work::send_file, FileSent};
use crate::driver::{would_block, Completion, Source, Sources, State};
use crate::error::{Error, Result};
use crate::handles::Id;
use crate::sys;

/// The largest write that is copied.
const COPIED_MAX: usize = 4 * 1024;

/// In a turn that brought fewer completions, sends are made at once.
pub(super) const COMPLETIONS_MIN: usize = 3;

impl Uring {
    #[inline]
    pub(super) fn send_with_turn(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
    ) -> Result<usize> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total > COPIED_MAX || !self.is_busy {
            return self.send_at_once(id, source, slices);
        }
        if !self.may_send(id, source)? {
            return Ok(0);
        }
        if !self.ring.has_room(total) {
            self.flush()?;
        }
        let batch = self.batch;
        let line = self.open(id, source)?;
        line.batch = batch;
        let at = line.at;
        self.ring
            .send(Token::new(Operation::Send, id), at, slices)?;
        Ok(total)
    }

    pub(super) fn send_at_once(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
    ) -> Result<usize> {
        if !self.may_send(id, source)? {
            return Ok(0);
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let sent = match sys::send(source.socket()?, slices) {
            Ok(sent) => sent,
            Err(error) if would_block(&error) => 0,
            Err(error) => return Err(self.cause(id).unwrap_or(error.into())),
        };
        if sent < total {
            source.state.insert(State::SEND);
            self.want_writable(id, source)?;
            self.settle()?;
        }
        Ok(sent)
    }

    #[cfg(feature = "fs")]
    pub(super) fn send_file_at_once(
        &mut self,
        id: Id,
        source: &mut Source,
        file: &std::fs::File,
        offset: u64,
        length: usize,
    ) -> Result<FileSent> {
        if !self.may_send(id, source)? {
            return Ok(FileSent::Full);
        }
        let sent = match send_file(source, file, offset, length) {
            Ok(sent) => sent,
            Err(error) => return Err(self.cause(id).unwrap_or(error)),
        };
        if matches!(sent, FileSent::Full) {
            source.state.insert(State::SEND);
            self.want_writable(id, source)?;
            self.settle()?;
        }
        Ok(sent)
    }

    /// What was sent before is with the kernel. If that did not take all, the next bytes must wait for theirs.
    #[inline]
    fn may_send(&mut self, id: Id, source: &mut Source) -> Result<bool> {
        let Some(line) = self.lines.get(id) else {
            return Ok(true);
        };
        if line.batch == self.batch {
            self.flush()?;
        }
        let unsent = self
            .lines
            .get(id)
            .is_some_and(|line| line.status.contains(Status::UNSENT));
        if unsent {
            source.state.insert(State::SEND);
        }
        Ok(!source.state.contains(State::SEND))
    }

    /// A send completed, which says that it did not send all.
    pub(super) fn sent(&mut self, token: Token, result: i32) {
        let Some(id) = token.id(self.tag) else { return };
        let Some(line) = self.lines.of(token) else {
            return;
        };
        let waits = [-libc::EAGAIN, -libc::EINTR].contains(&result);
        if result < 0 && !waits {
            let error = std::io::Error::from_raw_os_error(-result).into();
            line.status.insert(Status::SEND_FAILED);
            self.ready.push_back(Event::SendFailed(id, error));
            return;
        }
        let Some(rest) = self.ring.take_rest(token, result.max(0) as usize) else {
            return;
        };
        if !rest.is_empty() {
            line.status.insert(Status::UNSENT | Status::WRITES);
            self.unsent.push_back((id, rest));
            self.arm_later(id);
        }
    }

    /// Why a connection broke, if its receive was told. The kernel tells a reset once; a send after that only hears
    /// that there is no connection.
    pub(super) fn cause(&self, id: Id) -> Option<Error> {
        let came = self.ready.iter().find_map(|event| match event {
            Event::Failed(of, error) if *of == id => Some(*error),
            _ => None,
        });
        came.or_else(|| self.kept.get(&id)?.failure())
    }

    /// Gives what was not sent back to its stream.
    pub(super) fn return_unsent<S: Sources>(&mut self, sources: &mut S) -> Option<Completion> {
        let (id, rest) = self.unsent.pop_front()?;
        self.lines.get(id)?.status.remove(Status::UNSENT);
        sources.source(id)?.state.insert(State::SEND);
        Some(Completion::Unsent(id, rest))
    }

    pub(super) fn unsent_of(&mut self, id: Id, source: &mut Source) -> Result<Option<Vec<u8>>> {
        let may_send = self.may_send(id, source)?;
        let failed = |event: &Event| matches!(event, Event::SendFailed(of, _) if *of == id);
        let line = self.lines.get(id);
        let at = match line.is_some_and(|line| line.status.contains(Status::SEND_FAILED)) {
            true => self.ready.iter().position(failed),
            false => None,
        };
        if let Some(at) = at {
            if let Some(Event::SendFailed(_, error)) = self.ready.remove(at) {
                return Err(self.cause(id).unwrap_or(error));
            }
        }
        if may_send {
            return Ok(None);
        }
        let at = self.unsent.iter().position(|(of, _)| *of == id);
        let rest = at.and_then(|at| self.unsent.remove(at));
        if let (Some(_), Some(line)) = (&rest, self.lines.get(id)) {
            line.status.remove(Status::UNSENT);
        }
        Ok(rest.map(|(_, rest)| rest))
    }
}
