//! One turn: what is handed over, what came, what is handed out.

use std::io;

use super::lines::Status;
use super::ring::Completed;
use super::sends::COMPLETIONS_MIN;
use super::token::Operation;
use super::{Event, Uring};
use crate::driver::readiness::work::connect_outcome;
use crate::driver::{Buffer, Completion, Driver, Sources, State};
use crate::error::Result;
use crate::handles::Id;
use crate::sys;

impl Uring {
    pub(super) fn begin_turn(&mut self, timeout_ns: Option<u64>, now_ns: u64) -> Result<()> {
        self.in_turn = true;
        self.outer.begin_turn();
        self.left = self.events;
        self.carried_now = self.carried.len();
        self.arm_all()?;
        // Something may be left over: a callback unwound, or there was more than a turn may bring. It comes first, and
        // new bytes only as far as there are buffers, so that a turn stays bounded.
        let at_hand = self.has_more();
        let timeout_ns = if at_hand { Some(0) } else { timeout_ns };
        let deadline = timeout_ns.map(|ns| now_ns.saturating_add(ns));
        let mut left = timeout_ns;
        loop {
            let wait = if left == Some(0) { None } else { Some(left) };
            self.cancels = false;
            let outcome = self.ring.enter(true, wait);
            self.collect();
            match outcome {
                Ok(()) => {}
                Err(error) if passes(&error) => {}
                Err(error) => return Err(error.into()),
            }
            if self.has_news() || left == Some(0) {
                break;
            }
            // Interrupted, or only what is nobody's business came: on with the rest of the time.
            left = deadline.map(|deadline| deadline.saturating_sub(sys::monotonic_ns()));
            if left == Some(0) {
                break;
            }
            self.arm_all()?;
        }
        self.is_busy = self.ready.len() >= COMPLETIONS_MIN;
        self.woken = false;
        self.jobs.begin_turn();
        if self.inner_is_ready || self.inner.has_more() {
            self.inner.wait(Some(0), now_ns)?;
            // A callback may have unwound: what is left of its turn comes before what is told now.
            self.inner_is_ready = self.inner.selector().has_told();
        }
        Ok(())
    }

    fn has_news(&self) -> bool {
        self.woken
            || self.inner_is_ready
            || !self.ready.is_empty()
            || !self.unsent.is_empty()
            || self.jobs.has_ended()
    }

    /// Hands over what is pushed, and nothing else. Sends are over when it returns.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.hand_over(false)
    }

    /// Hands over what is pushed, and has the kernel go on with what has become possible.
    pub(super) fn run_now(&mut self) -> Result<()> {
        self.hand_over(true)
    }

    /// Hands over what is pushed, and waits until something has completed.
    pub(super) fn wait_for_one(&mut self) -> Result<()> {
        let outcome = self.ring.enter(true, Some(None));
        self.collect();
        match outcome {
            Err(error) if !passes(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn hand_over(&mut self, mut runs: bool) -> Result<()> {
        while runs || self.ring.pending() > 0 {
            let before = self.ring.pending();
            self.cancels &= !runs;
            let outcome = self.ring.enter(runs, None);
            self.collect();
            runs = false;
            match outcome {
                Ok(()) => {}
                Err(error) if passes(&error) && self.ring.pending() < before => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes what the kernel has told. Everything, so that a forked child finds it in its own memory.
    fn collect(&mut self) {
        while let Some(completed) = self.ring.next() {
            self.came(completed);
        }
        if self.ring.pending() == 0 {
            self.ring.sends_are_over();
            self.batch = self.batch.wrapping_add(1);
        }
    }

    fn came(&mut self, completed: Completed) {
        let token = completed.token;
        match token.operation() {
            Some(Operation::Receive) => self.received(completed),
            Some(Operation::Read | Operation::Write) => {
                self.poll_came(token, completed.more, completed.result);
            }
            Some(Operation::Send) => self.sent(token, completed.result),
            Some(Operation::Wake) => {
                self.woken = true;
                self.watches_wake = completed.more;
            }
            Some(Operation::Inner) => {
                self.inner_came(completed.result);
            }
            Some(Operation::Job) => self.jobs.came(token, completed.result),
            Some(Operation::Cancel) | None => {}
        }
    }

    pub(super) fn carry(&mut self, id: Id) {
        if let Some(line) = self.lines.get(id) {
            if !line.status.contains(Status::CARRIED) {
                line.status.insert(Status::CARRIED);
                self.carried.push_back(id);
            }
        }
    }

    #[inline]
    pub(super) fn next_completion<S: Sources>(
        &mut self,
        sources: &mut S,
        buffer: &mut Buffer,
    ) -> Option<Completion> {
        loop {
            if !self.unsent.is_empty() {
                if let Some(unsent) = self.return_unsent(sources) {
                    return Some(unsent);
                }
            }
            if let Some(accepting) = self.accepting.take() {
                if let Some(accepted) = self.accept_next(accepting, sources) {
                    return Some(accepted);
                }
                continue;
            }
            if let Some(reading) = self.reading.take() {
                if let Some(received) = self.read_next(reading, sources, buffer) {
                    return Some(received);
                }
                continue;
            }
            let completion = if self.left > 0 && !self.ready.is_empty() {
                self.left -= 1;
                self.next_event(sources)
            } else if self.carried_now > 0 {
                self.carried_now -= 1;
                self.next_carried(sources)
            } else if let Some(ended) = self.jobs.next_ended() {
                Some(ended)
            } else {
                return self.inner.next(sources, buffer);
            };
            if completion.is_some() {
                return completion;
            }
        }
    }

    #[inline]
    fn next_event<S: Sources>(&mut self, sources: &mut S) -> Option<Completion> {
        match self.ready.pop_front()? {
            Event::Data(id, piece) => self.hand_out(id, piece, sources.source(id)?),
            Event::Ended(id) => self.hand_out_end(id, None, sources.source(id)?),
            Event::Failed(id, error) => self.hand_out_end(id, Some(error), sources.source(id)?),
            Event::Readable(id) => self.readable(id, sources.source(id)?),
            Event::SendFailed(id, error) => {
                sources.source(id)?;
                Some(Completion::Sent(id, Err(self.cause(id).unwrap_or(error))))
            }
            Event::Writable(id, outcome) => {
                let source = sources.source(id)?;
                if source.state.contains(State::CONNECT) {
                    let Some(connected) = connect_outcome(source) else {
                        self.arm_later(id);
                        return None;
                    };
                    source.state.remove(State::CONNECT);
                    self.no_more_writable(id);
                    return Some(Completion::Connected(id, outcome.and(connected)));
                }
                self.no_more_writable(id);
                let waited = source.state.contains(State::SEND);
                source.state.remove(State::SEND);
                let outcome = self.cause(id).map_or(outcome, Err);
                waited.then_some(Completion::Sent(id, outcome))
            }
        }
    }

    fn no_more_writable(&mut self, id: Id) {
        if let Some(line) = self.lines.get(id) {
            line.status.remove(Status::WRITES);
        }
    }

    fn next_carried<S: Sources>(&mut self, sources: &mut S) -> Option<Completion> {
        let id = self.carried.pop_front()?;
        self.lines.get(id)?.status.remove(Status::CARRIED);
        let source = sources.source(id)?;
        if source.state.contains(State::ACCEPT) {
            self.begin_accepting(id);
            return None;
        }
        self.hand_out_kept(id, source)
    }
}

/// Errors of the call that say nothing about what was handed over: the time is over, a signal came, or there are
/// completions to be taken first.
fn passes(error: &io::Error) -> bool {
    let passing = [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN];
    error
        .raw_os_error()
        .is_some_and(|number| passing.contains(&number))
}
