//! Datagrams: batches, and errors that end nothing.

use super::{Current, Readiness, Selector};
use crate::driver::{would_block, Completion, Source, State, DATAGRAM_BUDGET, RECEIVE_BUDGET};
use crate::error::{Code, Error, Result};
use crate::handles::Id;
use crate::sys::datagrams::{self, Batch, Outgoing, BATCH};

/// Memory for receiving, which all sockets of the loop share, and how much to ask for at once.
pub(super) struct Batches {
    spare: Option<Box<Batch>>,
    /// Messages that the next call asks for.
    most: usize,
}

impl Default for Batches {
    fn default() -> Batches {
        Batches {
            spare: None,
            most: BATCH,
        }
    }
}

impl Batches {
    pub fn recycle(&mut self, batch: Box<Batch>) {
        if batch.is_whole() {
            self.spare = Some(batch);
        }
    }

    /// Messages may be one datagram or 64 KiB of them put together. So that a batch stays near the
    /// budget of a turn, fewer are asked for while they are large.
    fn note(&mut self, batch: &Batch) {
        if batch.length() > RECEIVE_BUDGET {
            self.most = (self.most / 2).max(1);
        } else if batch.count() >= self.most && batch.length() <= RECEIVE_BUDGET / 2 {
            self.most = (self.most * 2).min(BATCH);
        }
    }
}

impl<S: Selector> Readiness<S> {
    pub(super) fn receive_datagrams(
        &mut self,
        now: &mut Current,
        source: &mut Source,
    ) -> Option<Completion> {
        let id = now.id;
        let asks = source.state.contains(State::ERROR_QUEUE);
        if !source.state.contains(State::RECEIVE) && !asks {
            return None;
        }
        if now.bytes_left == 0 || now.datagrams >= DATAGRAM_BUDGET {
            self.carry(id, source);
            return None;
        }
        if asks {
            // First, since whoever receives or sends is told the bare error otherwise.
            let told = source.socket().ok().and_then(datagrams::next_error);
            if let Some(told) = told {
                now.datagrams += 1;
                let error = Error::from_system(told.errno);
                return Some(Completion::DatagramFailed(id, error, Some(Box::new(told))));
            }
            if !source.state.contains(State::RECEIVE) {
                // What is readable stays so for whoever starts to receive.
                return None;
            }
        }
        let mut batch = self
            .batches
            .spare
            .take()
            .unwrap_or_else(|| Box::new(Batch::new()));
        let asked = self.batches.most;
        let control = source.state.contains(State::CONTROL);
        let outcome = source.socket().map_err(Into::into);
        let outcome =
            outcome.and_then(|socket| datagrams::receive(socket, &mut batch, asked, control));
        match outcome {
            Ok(count) => {
                if count < asked && !source.state.contains(State::HANGUP) {
                    source.state.remove(State::READABLE);
                }
                self.batches.note(&batch);
                now.datagrams += count as u32;
                now.bytes_left = now.bytes_left.saturating_sub(batch.length());
                Some(Completion::Datagrams(id, batch))
            }
            Err(error) if would_block(&error) => {
                self.batches.recycle(batch);
                source.state.remove(State::READABLE | State::HANGUP);
                None
            }
            Err(error) => {
                self.batches.recycle(batch);
                let error = Error::from(error);
                now.datagrams += 1;
                if is_of_the_socket(error.code()) {
                    source.state.remove(State::RECEIVE | State::READABLE);
                    self.follow(id, source);
                    return Some(Completion::ReceiveFailed(id, error));
                }
                Some(Completion::DatagramFailed(id, error, None))
            }
        }
    }

    pub(super) fn send_messages(
        &mut self,
        id: Id,
        source: &mut Source,
        messages: &[Outgoing<'_>],
    ) -> (usize, Result<()>) {
        let (taken, outcome) = match source.socket() {
            Ok(socket) => datagrams::send(socket, messages),
            Err(error) => return (0, Err(error)),
        };
        if let Err(error) = outcome {
            return (taken, Err(error.into()));
        }
        if taken < messages.len() {
            source.state.insert(State::SEND);
            if let Err(error) = self.sync(id, source) {
                source.state.remove(State::SEND);
                return (taken, Err(error));
            }
        }
        (taken, Ok(()))
    }
}

/// Errors that a receive call would only give again: the socket is not one, or not kolo's to use
/// any more.
fn is_of_the_socket(code: Code) -> bool {
    matches!(
        code,
        Code::EBADF | Code::ENOTSOCK | Code::EINVAL | Code::EFAULT | Code::ENOTCONN
    )
}
