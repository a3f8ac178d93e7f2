//! One source's part of a turn: what the world has for it becomes completions.

use super::datagrams::Came;
use super::{Simulated, SocketKey};
use crate::driver::{
    Buffer, Completion, ReceiveInto, Received, Source, State, DATAGRAM_BUDGET, RECEIVE_BUDGET,
    RECEIVE_BUFFER,
};
use crate::error::Result;
use crate::handles::Id;
use crate::sys::datagrams::Batch;

/// The source that is being worked off.
pub(super) struct Current {
    pub key: SocketKey,
    pub id: Id,
    bytes_left: usize,
    accepted: u32,
    datagrams: u32,
    /// Was told that it may send, once in this turn.
    sent: bool,
    /// A part of what had come was brought: the rest has its turn later.
    cut_short: bool,
}

impl Current {
    pub fn new(key: SocketKey, id: Id) -> Current {
        Current {
            key,
            id,
            bytes_left: RECEIVE_BUDGET,
            accepted: 0,
            datagrams: 0,
            sent: false,
            cut_short: false,
        }
    }
}

impl Simulated {
    /// The next completion of the source, `None` when it has had its part of the turn.
    pub(super) fn step(
        &mut self,
        now: &mut Current,
        source: &mut Source,
        buffer: &mut Buffer,
    ) -> Option<Completion> {
        let ready = self.world.borrow().ready(now.key);
        if ready.contains(State::CONNECT) {
            let outcome = self.world.borrow_mut().connect_outcome(now.key);
            source.state.remove(State::CONNECT);
            self.sync(now.id, source);
            return Some(Completion::Connected(now.id, outcome));
        }
        if ready.contains(State::SEND) && !now.sent {
            now.sent = true;
            source.state.remove(State::SEND);
            self.sync(now.id, source);
            return Some(match source.state.contains(State::DATAGRAMS) {
                true => Completion::DatagramsSent(now.id),
                false => Completion::Sent(now.id, Ok(())),
            });
        }
        if source.state.contains(State::DATAGRAMS) {
            return self.step_datagrams(now, source, ready);
        }
        if ready.contains(State::ACCEPT) {
            return self.step_accept(now, source);
        }
        if ready.contains(State::RECEIVE) {
            return self.step_receive(now, source, buffer);
        }
        None
    }

    fn step_accept(&mut self, now: &mut Current, source: &mut Source) -> Option<Completion> {
        if now.accepted >= self.accept_limit(now.id) {
            return None;
        }
        now.accepted += 1;
        let accepted = self.world.borrow_mut().accept(now.key, self.number);
        match accepted {
            Ok(Some(child)) => Some(Completion::AcceptedSimulated(now.id, child)),
            Ok(None) => None,
            Err(error) => {
                source.state.remove(State::ACCEPT);
                self.sync(now.id, source);
                Some(Completion::AcceptFailed(now.id, error))
            }
        }
    }

    fn step_receive(
        &mut self,
        now: &mut Current,
        source: &mut Source,
        buffer: &mut Buffer,
    ) -> Option<Completion> {
        if now.bytes_left == 0 || now.cut_short {
            return None;
        }
        if source.state.contains(State::OWN_MEMORY) {
            now.bytes_left = now.bytes_left.saturating_sub(RECEIVE_BUFFER);
            return Some(Completion::Readable(now.id));
        }
        let memory = &mut buffer.memory()[..];
        let outcome = self.world.borrow_mut().receive(now.key, memory);
        match self.received(now.id, source, outcome) {
            ReceiveInto::Bytes(length) => {
                now.bytes_left = now.bytes_left.saturating_sub(length);
                now.cut_short = length < RECEIVE_BUFFER;
                Some(Completion::Received(now.id, Received::Shared(length)))
            }
            ReceiveInto::Nothing => None,
            ReceiveInto::Ended => Some(Completion::Ended(now.id)),
            ReceiveInto::Failed(error) => Some(Completion::ReceiveFailed(now.id, error)),
        }
    }

    /// What the outcome of a receive means for the source.
    pub(super) fn received(
        &mut self,
        id: Id,
        source: &mut Source,
        outcome: Result<Option<usize>>,
    ) -> ReceiveInto {
        match outcome {
            Ok(None) => ReceiveInto::Nothing,
            Ok(Some(0)) => {
                source.state.remove(State::RECEIVE);
                self.sync(id, source);
                ReceiveInto::Ended
            }
            Ok(Some(length)) => ReceiveInto::Bytes(length),
            Err(error) => {
                source.state.remove(State::RECEIVE);
                self.sync(id, source);
                ReceiveInto::Failed(error)
            }
        }
    }

    fn step_datagrams(
        &mut self,
        now: &mut Current,
        source: &mut Source,
        ready: State,
    ) -> Option<Completion> {
        if now.datagrams >= DATAGRAM_BUDGET || now.bytes_left == 0 {
            return None;
        }
        if ready.contains(State::ERROR_QUEUE) {
            let told = self.world.borrow_mut().next_told(now.key);
            if let Some((error, told)) = told {
                now.datagrams += 1;
                return Some(Completion::DatagramFailed(
                    now.id,
                    error,
                    Some(Box::new(told)),
                ));
            }
        }
        if !ready.contains(State::RECEIVE) || !source.state.contains(State::RECEIVE) {
            return None;
        }
        let batch = self.batch.take();
        let mut batch = batch.unwrap_or_else(|| Box::new(Batch::new()));
        let came = self
            .world
            .borrow_mut()
            .receive_messages(now.key, &mut batch);
        match came {
            Came::Messages => {
                now.datagrams += batch.count() as u32;
                now.bytes_left = now.bytes_left.saturating_sub(batch.length());
                Some(Completion::Datagrams(now.id, batch))
            }
            Came::Failed(error) => {
                self.batch = Some(batch);
                now.datagrams += 1;
                Some(Completion::DatagramFailed(now.id, error, None))
            }
            Came::Nothing => {
                self.batch = Some(batch);
                None
            }
        }
    }
}
