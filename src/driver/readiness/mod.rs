//! The readiness driver: turns "ready" into completions by doing the call itself.
//!
//! It stands over a [`Selector`], which only knows descriptors and readiness. With an
//! edge-triggered selector a socket is registered once and the driver remembers what the kernel
//! told ([`State::READABLE`]); with a level-triggered one the registered interest follows what
//! is asked for.
//!
//! Why edge-triggered with a stop at the short read: a read that did not fill the buffer has
//! emptied the socket, so the call that would only find that out (`EAGAIN`) is saved; measured,
//! it is the cheapest of the ways. Two things can hide behind a short read, and are asked for so
//! that they show in the event: the peer's end (`EPOLLRDHUP`, otherwise swallowed with the same
//! edge) and urgent data, at whose mark a read stops short. After either, reading goes on until
//! the socket says that it is empty.

mod datagrams;
#[cfg(all(test, feature = "net"))]
mod tests;
pub(super) mod work;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use socket2::SockAddr;

use super::{
    would_block, Buffer, Completion, Driver, Interest, Object, Passed, ReceiveInto, Received,
    Source, Sources, State, Wake, RECEIVE_BUDGET,
};
use crate::error::{Code, Result};
use crate::handles::Id;
use crate::sys::datagrams::{Batch, Outgoing};
use crate::sys::{self, Descriptor, OwnedDescriptor};
use work::{note_outcome, read};

/// How an interest is registered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Each change is told once; only where [`Selector::EDGE`] says so.
    Edge,
    /// Told at each wait, as long as it lasts.
    Level,
}

/// What a selector found.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub id: Id,
    pub interest: Interest,
    /// The connection is broken, or closed in both directions.
    pub error: bool,
}

impl Ready {
    #[inline]
    fn only_readable(self) -> Option<Id> {
        (self.interest == Interest::READABLE && !self.error).then_some(self.id)
    }
}

/// Readiness of descriptors: epoll, or what the `polling` crate has on this system.
pub(crate) trait Selector {
    /// Whether [`Trigger::Edge`] is to be had.
    const EDGE: bool;

    fn add(&mut self, at: Descriptor, id: Id, want: Interest, trigger: Trigger) -> Result<()>;
    fn modify(&mut self, at: Descriptor, id: Id, want: Interest, trigger: Trigger) -> Result<()>;
    fn delete(&mut self, at: Descriptor, id: Id);
    /// Before a descriptor that only kolo holds is closed.
    fn forget(&mut self, at: Descriptor, id: Id);
    /// Collects what is ready; how many. Interrupted waits go on for what is left of the time,
    /// which began at `now_ns`.
    fn wait(&mut self, timeout_ns: Option<u64>, now_ns: u64) -> Result<usize>;
    /// One of those collected; `None` for the selector's own.
    fn ready(&self, at: usize) -> Option<Ready>;
    fn waker(&self) -> Arc<dyn Wake>;
    fn backend_descriptor(&self) -> Option<Descriptor>;
    fn forked(&mut self) -> Result<()>;
}

/// The source whose readiness is being worked off.
struct Current {
    id: Id,
    ready: Interest,
    error: bool,
    bytes_left: usize,
    accepted: u32,
    /// Messages of datagrams that came, and errors.
    datagrams: u32,
    /// What was found already, and is still to be handed out.
    found: Option<Completion>,
}

impl Current {
    fn new(id: Id, ready: Interest, error: bool) -> Current {
        Current {
            id,
            ready,
            error,
            bytes_left: RECEIVE_BUDGET,
            accepted: 0,
            datagrams: 0,
            found: None,
        }
    }
}

pub(crate) struct Readiness<S> {
    name: &'static str,
    selector: S,
    collected: usize,
    handed_out: usize,
    current: Option<Current>,
    /// Sources that used up their share of a turn; they go on in the next one.
    carried: VecDeque<Id>,
    /// How many of `carried` belong to this turn.
    carried_now: usize,
    /// Sources that were accepted in this turn and are to be registered at its end.
    fresh: VecDeque<Id>,
    batches: datagrams::Batches,
    /// What came with the bytes received last.
    passed: Passed,
    /// How many connections each listener may accept a turn: listeners are few.
    accept_limits: Vec<(Id, u32)>,
    /// The process that opened the sources.
    fork_generation: u32,
}

impl<S: Selector> Readiness<S> {
    pub fn new(name: &'static str, selector: S) -> Readiness<S> {
        Readiness {
            name,
            selector,
            collected: 0,
            handed_out: 0,
            current: None,
            carried: VecDeque::new(),
            carried_now: 0,
            fresh: VecDeque::new(),
            batches: Default::default(),
            passed: Passed::default(),
            accept_limits: Vec::new(),
            fork_generation: sys::fork::generation(),
        }
    }

    #[cfg(kolo_uring)]
    pub fn selector(&mut self) -> &mut S {
        &mut self.selector
    }

    /// Whether events are collected that were not handed out.
    #[cfg(kolo_uring)]
    pub fn has_events(&self) -> bool {
        self.handed_out < self.collected
    }

    fn accept_limit(&self, id: Id) -> u32 {
        let limit = self
            .accept_limits
            .iter()
            .find(|(listener, _)| *listener == id);
        limit.map_or(0, |(_, limit)| *limit)
    }

    /// The next source to go on with from the last turn.
    fn next_carried(&mut self, sources: &mut impl Sources) -> Option<Current> {
        while self.carried_now > 0 {
            self.carried_now -= 1;
            let id = self.carried.pop_front()?;
            let Some(source) = sources.source(id) else {
                continue;
            };
            source.state.remove(State::CARRIED);
            if source.state.contains(State::READABLE) {
                return Some(Current::new(id, Interest::READABLE, false));
            }
        }
        None
    }

    /// Whether the source may be registered at the end of the turn. Only one that was just accepted, or the like: a
    /// failure comes as one of receiving then, and what cannot be registered at all is to be refused at once.
    fn may_wait(&self, source: &Source) -> bool {
        let accepts = self.current.as_ref().is_some_and(|now| now.accepted > 0);
        let not = State::REGISTERED | State::DATAGRAMS | State::SHARED;
        accepts
            && matches!(source.object, Object::Socket(_) | Object::Local(_))
            && !source.state.intersects(not)
    }

    /// Registers those that were accepted in this turn, all of them together: the kernel's code for the one and for
    /// the other does not fit into the nearest cache at once. (Connections that come 16 at a time, have one echo and
    /// go cost 0.98 of what they cost when each is registered as soon as it is accepted.)
    fn register_fresh(&mut self, sources: &mut impl Sources) -> Option<Completion> {
        while let Some(id) = self.fresh.pop_front() {
            let Some(source) = sources.source(id) else {
                continue;
            };
            if !source.state.contains(State::RECEIVE) {
                continue; // it was stopped, and registers when it starts again
            }
            if let Err(error) = self.sync(id, source) {
                source.state.remove(State::RECEIVE);
                return Some(Completion::ReceiveFailed(id, error));
            }
        }
        None
    }

    fn carry(&mut self, id: Id, source: &mut Source) {
        if !source.state.contains(State::CARRIED) {
            source.state.insert(State::CARRIED);
            self.carried.push_back(id);
        }
    }

    /// Lets a level-triggered registration follow what the source waits for. When that fails the
    /// source would wait for ever, so the failure is given to whoever can report it.
    fn sync(&mut self, id: Id, source: &mut Source) -> Result<()> {
        let Some(at) = source.descriptor() else {
            return Ok(());
        };
        let had = source.state & (State::READ_INTEREST | State::WRITE_INTEREST);
        let writes = source.state.intersects(State::CONNECT | State::SEND);
        let reads = source.state.intersects(State::RECEIVE | State::ACCEPT);
        let mut want = State::empty();
        want.set(State::READ_INTEREST, S::EDGE || reads);
        // Edge-triggered, writable interest once asked for does no harm to a stream, and stays. A
        // datagram socket would wake the loop for each datagram that leaves.
        let stays = S::EDGE && !source.state.contains(State::DATAGRAMS);
        want.set(
            State::WRITE_INTEREST,
            writes || stays && had.contains(State::WRITE_INTEREST),
        );
        let registered = source.state.contains(State::REGISTERED);
        if registered && want == had {
            return Ok(());
        }
        let trigger = if S::EDGE {
            Trigger::Edge
        } else {
            Trigger::Level
        };
        let mut interest = Interest::empty();
        if want.contains(State::READ_INTEREST) {
            interest |= Interest::READABLE | Interest::DISCONNECT | Interest::PRIORITY;
        }
        if want.contains(State::WRITE_INTEREST) {
            interest |= Interest::WRITABLE;
        }
        match (registered, want.is_empty()) {
            (false, true) => return Ok(()),
            (false, false) => self.selector.add(at, id, interest, trigger)?,
            (true, false) => self.selector.modify(at, id, interest, trigger)?,
            (true, true) => self.selector.delete(at, id),
        }
        source
            .state
            .remove(State::READ_INTEREST | State::WRITE_INTEREST);
        source.state.insert(want);
        source.state.set(State::REGISTERED, !want.is_empty());
        Ok(())
    }

    /// As [`Self::sync`] where less is wanted than before. Taking interest away fails only for a
    /// descriptor that somebody closed behind our back, and then nothing is reported for it.
    fn follow(&mut self, id: Id, source: &mut Source) {
        if !S::EDGE || source.state.contains(State::DATAGRAMS) {
            let _ = self.sync(id, source);
        }
    }

    /// What the outcome of a send call says: how much was taken; what was not is waited for.
    pub(super) fn sent(
        &mut self,
        id: Id,
        source: &mut Source,
        total: usize,
        outcome: std::io::Result<usize>,
    ) -> Result<usize> {
        let sent = match outcome {
            Ok(sent) => sent,
            Err(error) if would_block(&error) => 0,
            Err(error) => return Err(error.into()),
        };
        if sent < total {
            source.state.insert(State::SEND);
            self.sync(id, source)?;
        }
        Ok(sent)
    }

    fn leave(&mut self, id: Id, source: &mut Source, still_open: bool) {
        if let (Some(at), true) = (
            source.descriptor(),
            source.state.contains(State::REGISTERED),
        ) {
            if still_open || source.state.contains(State::SHARED) {
                self.selector.delete(at, id);
            } else {
                self.selector.forget(at, id);
            }
        }
        if source.state.contains(State::CARRIED) {
            // Rare; what stands in the list is skipped by its generation.
            source.state.remove(State::CARRIED);
        }
        self.accept_limits.retain(|(listener, _)| *listener != id);
        source.state &= State::DATAGRAMS;
    }
}

impl<S: Selector> Driver for Readiness<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn wait(&mut self, timeout_ns: Option<u64>, now_ns: u64) -> Result<()> {
        if self.handed_out < self.collected || self.current.is_some() {
            // A callback unwound in the middle of the last turn: its rest comes first.
            return Ok(());
        }
        let at_hand = !self.carried.is_empty() || !self.fresh.is_empty();
        let timeout_ns = if at_hand { Some(0) } else { timeout_ns };
        (self.collected, self.handed_out) = (0, 0);
        self.collected = self.selector.wait(timeout_ns, now_ns)?;
        self.carried_now = self.carried.len();
        Ok(())
    }

    fn next<T: Sources>(&mut self, sources: &mut T, buffer: &mut Buffer) -> Option<Completion> {
        loop {
            let mut now = if let Some(current) = self.current.take() {
                current
            } else if self.handed_out < self.collected {
                let ready = self.selector.ready(self.handed_out);
                self.handed_out += 1;
                let Some(ready) = ready else { continue };
                Current::new(ready.id, ready.interest, ready.error)
            } else if let Some(carried) = self.next_carried(sources) {
                carried
            } else {
                return self.register_fresh(sources);
            };
            let Some(source) = sources.source(now.id) else {
                continue;
            };
            let completion = self.step(&mut now, source, buffer);
            if completion.is_some() {
                self.current = Some(now);
                return completion;
            }
        }
    }

    #[inline(always)] // into the one place that asks
    fn next_received<'s, 'b, T: Sources>(
        &mut self,
        sources: &'s mut T,
        buffer: &'b mut Buffer,
    ) -> Option<(Id, &'s mut T::Stream, &'b [u8])> {
        if self.current.is_some() || self.handed_out >= self.collected {
            return None;
        }
        let id = self.selector.ready(self.handed_out)?.only_readable()?;
        let stream = sources.stream(id)?;
        let bytes = self.receive_first(id, stream.as_mut(), buffer)?;
        Some((id, stream, bytes))
    }

    #[inline]
    fn is_through(&self) -> bool {
        self.handed_out >= self.collected
            && self.current.is_none()
            && self.carried_now == 0
            && self.fresh.is_empty()
    }

    #[inline]
    fn has_more(&self) -> bool {
        !self.carried.is_empty()
            || !self.fresh.is_empty()
            || self.handed_out < self.collected
            || self.current.is_some()
    }

    fn receive_start(&mut self, id: Id, source: &mut Source) -> Result<()> {
        source.state.insert(State::RECEIVE);
        if self.may_wait(source) {
            self.fresh.push_back(id);
            return Ok(());
        }
        if let Err(error) = self.sync(id, source) {
            source.state.remove(State::RECEIVE);
            return Err(error);
        }
        if source.state.contains(State::READABLE) {
            self.carry(id, source);
        }
        Ok(())
    }

    fn receive_stop(&mut self, id: Id, source: &mut Source) {
        source.state.remove(State::RECEIVE);
        self.follow(id, source);
    }

    fn receive_into(&mut self, id: Id, source: &mut Source, memory: &mut [u8]) -> ReceiveInto {
        let outcome = read(source, memory, &mut self.passed);
        let outcome = note_outcome(source, memory.len(), outcome);
        if matches!(outcome, ReceiveInto::Ended | ReceiveInto::Failed(_)) {
            self.follow(id, source);
        }
        outcome
    }

    fn give_back(&mut self, id: Id, received: Received) {
        // What was given back is what was handed out last, so it is the current source's.
        let current = self.current.take().filter(|current| current.id == id);
        let mut now = current.unwrap_or_else(|| Current::new(id, Interest::empty(), false));
        now.found = Some(Completion::Received(id, received));
        self.current = Some(now);
    }

    fn take_passed(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    #[inline(always)]
    fn send(&mut self, id: Id, source: &mut Source, slices: &[IoSlice<'_>]) -> Result<usize> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        match work::write(source, slices) {
            Ok(sent) if sent == total => Ok(sent),
            outcome => self.sent(id, source, total, outcome),
        }
    }

    #[inline(always)]
    fn send_copied(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
    ) -> Result<usize> {
        self.send(id, source, slices)
    }

    fn send_passing(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
        descriptors: &[OwnedDescriptor],
    ) -> Result<usize> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let outcome = sys::send_passing(source.socket()?, slices, descriptors);
        self.sent(id, source, total, outcome)
    }

    #[cfg(feature = "fs")]
    fn send_file(
        &mut self,
        id: Id,
        source: &mut Source,
        file: &std::fs::File,
        offset: u64,
        length: usize,
    ) -> Result<crate::driver::FileSent> {
        let sent = work::send_file(source, file, offset, length)?;
        if matches!(sent, crate::driver::FileSent::Full) {
            source.state.insert(State::SEND);
            self.sync(id, source)?;
        }
        Ok(sent)
    }

    fn send_datagrams(
        &mut self,
        id: Id,
        source: &mut Source,
        messages: &[Outgoing<'_>],
    ) -> (usize, Result<()>) {
        self.send_messages(id, source, messages)
    }

    fn recycle_datagrams(&mut self, batch: Box<Batch>) {
        self.batches.recycle(batch);
    }

    fn connect(&mut self, id: Id, source: &mut Source, to: &SockAddr) -> Result<()> {
        if let Err(error) = sys::connect(source.socket()?, to) {
            let goes_on = match source.object {
                Object::Local(_) => error.code() == Code::EINPROGRESS,
                _ => matches!(error.code(), Code::EINPROGRESS | Code::EAGAIN),
            };
            if !goes_on {
                return Err(error);
            }
        }
        source.state.insert(State::CONNECT);
        self.sync(id, source)
    }

    fn accept_start(&mut self, id: Id, source: &mut Source, per_turn: u32) -> Result<()> {
        source.state.insert(State::ACCEPT);
        self.accept_limits.retain(|(listener, _)| *listener != id);
        self.accept_limits.push((id, per_turn.max(1)));
        self.sync(id, source)?;
        if source.state.contains(State::READABLE) {
            self.carry(id, source);
        }
        Ok(())
    }

    fn accept_stop(&mut self, id: Id, source: &mut Source) {
        source.state.remove(State::ACCEPT);
        self.follow(id, source);
    }

    fn poll_start(&mut self, id: Id, source: &mut Source, interest: Interest) -> Result<()> {
        let Some(at) = source.descriptor() else {
            return Err(Code::EBADF.into());
        };
        if source.state.contains(State::REGISTERED) {
            self.selector.modify(at, id, interest, Trigger::Level)?;
        } else {
            self.selector.add(at, id, interest, Trigger::Level)?;
        }
        source.state.insert(State::REGISTERED);
        source.interest = interest;
        Ok(())
    }

    fn poll_stop(&mut self, id: Id, source: &mut Source) {
        if let (Some(at), true) = (
            source.descriptor(),
            source.state.contains(State::REGISTERED),
        ) {
            self.selector.delete(at, id);
        }
        source.state.remove(State::REGISTERED);
        source.interest = Interest::empty();
    }

    fn close(&mut self, id: Id, source: &mut Source) {
        let foreign = matches!(source.object, Object::Foreign(_));
        self.leave(id, source, foreign);
        if self.fork_generation != sys::fork::generation() {
            source.object.leave_to_parent();
        }
        source.object = Object::None;
    }

    fn release(&mut self, id: Id, source: &mut Source) -> Object {
        self.leave(id, source, true);
        std::mem::replace(&mut source.object, Object::None)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.selector.waker()
    }

    fn backend_descriptor(&mut self) -> Result<Option<Descriptor>> {
        Ok(self.selector.backend_descriptor())
    }

    fn forked(&mut self) -> Result<()> {
        (self.collected, self.handed_out, self.current) = (0, 0, None);
        self.selector.forked()?;
        self.fork_generation = sys::fork::generation();
        Ok(())
    }

    fn restore(&mut self, id: Id, source: &mut Source) -> Result<()> {
        let registered = source.state.contains(State::REGISTERED);
        source
            .state
            .remove(State::REGISTERED | State::READ_INTEREST | State::WRITE_INTEREST);
        source.object.leave_to_parent();
        match source.object {
            Object::Foreign(_) if registered => self.poll_start(id, source, source.interest),
            Object::None => Ok(()),
            _ if registered => self.sync(id, source),
            _ => Ok(()),
        }
    }
}
