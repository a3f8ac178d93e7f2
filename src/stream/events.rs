//! What happens to streams: completions, timeouts, and what is told of them.

use std::cell::RefMut;

use super::sending::{defer, drain, fail, flush, sent_otherwise, take_back};
use super::{
    refresh_active, slot, state, Status, Stream, StreamHandler, StreamState, Timeout, Writes,
};
use crate::driver::{Buffer, Driver, Interest, ReceiveInto, Received, State, RECEIVE_BUFFER};
use crate::error::{Error, Result};
use crate::event_loop::{Core, Final, Loop};
use crate::handles::{Body, Handles, Id};
use crate::sys;
use crate::timers::TimerKey;

impl Loop {
    /// Calls a stream's handler.
    pub(crate) fn tell<R>(
        &self,
        id: Id,
        tell: impl FnOnce(&Loop, &mut Box<dyn StreamHandler>) -> R,
    ) -> Option<R> {
        let handler = self.core.borrow_mut().handles.lend(id, slot);
        self.call_lent(id, handler, slot, tell)
    }

    /// Bytes came to the stream that this handler was taken out of. Afterwards the handler is back,
    /// and what it wrote with the kernel.
    ///
    /// It does what [`Loop::call_lent`] does, in the way of every message: one look at the table of
    /// handles serves the handler and what it wrote. When nothing unusual happened, the core, still borrowed.
    #[inline(always)]
    pub(crate) fn tell_bytes(
        &self,
        id: Id,
        handler: Box<dyn StreamHandler>,
        bytes: &[u8],
    ) -> Option<RefMut<'_, Core>> {
        if self.meter.times_callbacks() {
            self.tell_timed(id, handler, bytes);
            return None;
        }
        self.enter_callback(Some(id));
        let ((), handler) = self.run_lent(id, handler, slot, |lp, handler| {
            handler.on_data(lp, Stream(id), bytes);
        })?;
        let mut borrowed = self.after_callback();
        let core = &mut *borrowed;
        let Some(stream) = without_handler(&mut core.handles, id) else {
            self.drop_handler(borrowed, handler);
            return None;
        };
        stream.handler = Some(handler);
        let Some(owner) = core.gathered.owner() else {
            // A child's, which has nothing gathered, ends its run.
            return (!self.is_parents()).then_some(borrowed);
        };
        let bytes = core.gathered.bytes();
        if owner != id || bytes.is_empty() || stream.status.contains(Status::SHUTTING) {
            flush(core, owner);
            return None;
        }
        match core.driver.send_plainly(&stream.source, bytes) {
            Some(Ok(sent)) if sent == bytes.len() => {
                core.gathered.clear();
                Some(borrowed)
            }
            outcome => {
                sent_otherwise(core, id, outcome);
                None
            }
        }
    }

    /// The same where the time of callbacks is of interest.
    #[cold]
    fn tell_timed(&self, id: Id, handler: Box<dyn StreamHandler>, bytes: &[u8]) {
        self.call_lent(id, Some(handler), slot, |lp, handler| {
            handler.on_data(lp, Stream(id), bytes);
        });
    }

    /// After a callback whose handler cannot go back.
    #[cold]
    fn drop_handler(&self, core: RefMut<'_, Core>, handler: Box<dyn StreamHandler>) {
        drop(core);
        drop(self.leave_callback());
        // Its destructor may call the loop.
        drop(handler);
    }

    /// Bytes came, in whatever way.
    pub(crate) fn stream_received(&self, id: Id, received: Received, buffer: &Buffer) {
        #[cfg(all(unix, feature = "local"))]
        if self.takes_descriptors(id) {
            return self.stream_received_passed(id, received, buffer);
        }
        self.stream_bytes(id, received.bytes(buffer));
    }

    /// Whether descriptors may come with the stream's bytes. The handler is told of them first.
    #[cfg(all(unix, feature = "local"))]
    fn takes_descriptors(&self, id: Id) -> bool {
        state(&mut self.core.borrow_mut().handles, id)
            .is_ok_and(|stream| stream.source.state.contains(State::CONTROL))
    }

    /// Tells of bytes that came.
    pub(crate) fn stream_bytes(&self, id: Id, bytes: &[u8]) {
        let handler = {
            let core = &mut *self.core.borrow_mut();
            let Ok(stream) = state(&mut core.handles, id) else {
                return;
            };
            let clear = stream.is_clear();
            let handler = stream.receives(self, core.now);
            if clear && handler.is_some() {
                core.handles.note_clear(id);
            }
            handler
        };
        if let Some(handler) = handler {
            self.tell_bytes(id, handler, bytes);
        }
    }

    /// Bytes can be received into the memory that the handler names.
    pub(crate) fn stream_readable(&self, id: Id) {
        let lingers = state(&mut self.core.borrow_mut().handles, id)
            .is_ok_and(|stream| stream.status.contains(Status::LINGERS));
        if lingers {
            return self.throw_away(id);
        }
        // What came for a handler that took this one's place meanwhile.
        let mut for_successor = None;
        let outcome = self.tell(id, |lp, handler| {
            let memory = handler.memory(lp, Stream(id), RECEIVE_BUFFER);
            let Some(memory) = memory.filter(|memory| !memory.is_empty()) else {
                // Closed meanwhile is as good as paused.
                let _ = Stream(id).read_stop(lp);
                return ReceiveInto::Nothing;
            };
            let (outcome, _passed) = lp.receive_into(id, memory);
            if let ReceiveInto::Bytes(length) = outcome {
                if lp.has_successor(id) {
                    for_successor = Some(memory[..length].to_vec());
                    return outcome;
                }
                #[cfg(all(unix, feature = "local"))]
                if let Some(came) = _passed.then(|| lp.came_with_bytes(id)).flatten() {
                    let bytes = memory[..length].to_vec();
                    lp.tell_passed(id, handler, came);
                    if lp.has_successor(id) {
                        for_successor = Some(bytes);
                        return outcome;
                    }
                    if !lp.hears_bytes(id) {
                        return outcome;
                    }
                }
                handler.on_received(lp, Stream(id), length);
            }
            outcome
        });
        if let Some(bytes) = for_successor {
            #[cfg(all(unix, feature = "local"))]
            self.tell_descriptors(id);
            if self.hears_bytes(id) {
                self.stream_bytes(id, &bytes);
            }
        }
        match outcome {
            Some(ReceiveInto::Ended) => self.stream_ended(id),
            Some(ReceiveInto::Failed(error)) => self.stream_failed(id, error),
            Some(ReceiveInto::Bytes(_) | ReceiveInto::Nothing) | None => {}
        }
    }

    /// Whether another handler was attached while the stream's own is out.
    fn has_successor(&self, id: Id) -> bool {
        let mut core = self.core.borrow_mut();
        state(&mut core.handles, id).is_ok_and(|stream| stream.handler.is_some())
    }

    /// Whether the stream is there and whole: one that was failed in a callback before its bytes, or lingers since,
    /// hears no more bytes.
    pub(crate) fn hears_bytes(&self, id: Id) -> bool {
        let mut core = self.core.borrow_mut();
        state(&mut core.handles, id).is_ok_and(|stream| !stream.has_failed() && !stream.lingers())
    }

    /// Receives what nobody wants any more.
    fn throw_away(&self, id: Id) {
        let mut memory = [0; 4 * 1024];
        match self.receive_into(id, &mut memory).0 {
            ReceiveInto::Ended => self.stream_ended(id),
            ReceiveInto::Failed(error) => self.stream_failed(id, error),
            ReceiveInto::Bytes(_) | ReceiveInto::Nothing => {}
        }
    }

    /// Receives into the handler's memory; and whether the stream takes descriptors.
    fn receive_into(&self, id: Id, memory: &mut [u8]) -> (ReceiveInto, bool) {
        let core = &mut *self.core.borrow_mut();
        let now = core.now;
        match state(&mut core.handles, id) {
            Ok(stream) if stream.status.contains(Status::READING) => {
                stream.has_read(self, now);
                let passed = stream.source.state.contains(State::CONTROL);
                let lingers = stream.status.contains(Status::LINGERS);
                let source = &mut stream.source;
                let outcome = core.driver.receive_into(id, source, memory);
                match outcome {
                    // Also if it does so since it was asked for the memory.
                    ReceiveInto::Bytes(_) if lingers => (ReceiveInto::Nothing, passed),
                    _ => (outcome, passed),
                }
            }
            _ => (ReceiveInto::Nothing, false),
        }
    }

    pub(crate) fn stream_ended(&self, id: Id) {
        {
            let mut core = self.core.borrow_mut();
            let Ok(stream) = state(&mut core.handles, id) else {
                return;
            };
            stream.status.insert(Status::ENDED);
            stream.status.remove(Status::READING);
            if stream.is_finished() {
                let _ = crate::event_loop::close(&mut core, id);
                return;
            }
            let lingers = stream.status.contains(Status::LINGERS);
            refresh_active(&mut core, id);
            if lingers {
                return; // closes as soon as our side has ended, too
            }
        }
        self.tell(id, |lp, handler| handler.on_end(lp, Stream(id)));
    }

    pub(crate) fn stream_failed(&self, id: Id, error: Error) {
        {
            let mut core = self.core.borrow_mut();
            let over = Status::LINGERS | Status::SHUT;
            if state(&mut core.handles, id).is_ok_and(|stream| stream.status.contains(over)) {
                // All had been said, and the peer has ended in its way.
                let _ = crate::event_loop::close(&mut core, id);
                return;
            }
            fail(&mut core, id, error);
        }
        self.stream_events(id);
    }

    pub(crate) fn stream_sent(&self, id: Id, outcome: Result<()>) {
        {
            let mut core = self.core.borrow_mut();
            match outcome {
                Ok(()) => drain(&mut core, id),
                Err(error) => fail(&mut core, id, error),
            }
        }
        self.stream_events(id);
    }

    /// The kernel did not take all of what had been sent.
    pub(crate) fn stream_unsent(&self, id: Id, rest: Vec<u8>) {
        take_back(&mut self.core.borrow_mut(), id, rest);
    }

    pub(crate) fn stream_connected(&self, id: Id, outcome: Result<()>) {
        let connecting = state(&mut self.core.borrow_mut().handles, id)
            .is_ok_and(|stream| stream.is_connecting());
        if !connecting {
            return; // it failed while the driver connected it: its `on_error` is on the way
        }
        if let Err(error) = outcome.and_then(|()| self.begin_open(id)) {
            return self.stream_failed(id, error);
        }
        self.tell(id, |lp, handler| handler.on_open(lp, Stream(id)));
    }

    /// A connected stream does what was asked of it while it was connecting.
    fn begin_open(&self, id: Id) -> Result<()> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let now = self.fresh_clock(core);
        let entry = core.handles.get_mut(id)?;
        if entry.timer != TimerKey::NONE {
            // It was the connect timeout's.
            core.wheel.disarm(entry.timer);
        }
        let stream = state(&mut core.handles, id)?;
        stream.status.remove(Status::CONNECTING);
        stream.last_read = now;
        if let Some(writes) = &mut stream.writes {
            writes.last_progress = 0;
        }
        if stream.status.contains(Status::READING) {
            core.driver.receive_start(id, &mut stream.source)?;
        }
        drain(core, id);
        Ok(())
    }

    /// Tells what the stream has to tell: writes that ended, a drained queue, its failure.
    pub(crate) fn stream_events(&self, id: Id) {
        /// When a callback unwinds, the next run tells the rest.
        struct Rest<'a>(&'a Loop, Id);
        impl Drop for Rest<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    defer(&mut self.0.core.borrow_mut(), self.1);
                }
            }
        }
        if self.closes_without_a_word(id) {
            return;
        }
        let _rest = Rest(self, id);
        #[cfg(feature = "fs")]
        self.begin_fetch(id);
        let finished = {
            let mut core = self.core.borrow_mut();
            let Ok(stream) = state(&mut core.handles, id) else {
                return;
            };
            stream.status.remove(Status::DEFERRED);
            if stream.status.contains(Status::SEND_ON) {
                stream.status.remove(Status::SEND_ON);
                drain(&mut core, id);
            }
            let stream = state(&mut core.handles, id);
            stream.map_or(0, |s| {
                s.writes
                    .as_ref()
                    .map_or(0, |writes| writes.finished_count())
            })
        };
        for _ in 0..finished {
            let next = {
                let mut core = self.core.borrow_mut();
                let Ok(stream) = state(&mut core.handles, id) else {
                    return;
                };
                stream
                    .writes
                    .as_mut()
                    .and_then(|writes| writes.next_finished())
            };
            let Some((done, outcome)) = next else { break };
            self.callback(Some(id), |lp| done(lp, Stream(id), outcome));
        }
        if self.take_status(id, Status::DRAINED) {
            self.tell(id, |lp, handler| handler.on_drain(lp, Stream(id)));
        }
        if self.take_status(id, Status::FAILURE_DUE) {
            self.tell_failure(id);
            return;
        }
        let mut core = self.core.borrow_mut();
        let Ok(stream) = state(&mut core.handles, id) else {
            return;
        };
        let more = stream
            .writes
            .as_ref()
            .is_some_and(|writes| writes.has_finished());
        if more {
            defer(&mut core, id);
        } else if stream.is_finished() {
            let _ = crate::event_loop::close(&mut core, id);
            return;
        } else {
            stream.tidy();
        }
        refresh_active(&mut core, id);
    }

    /// Closes the stream if that is all there is to do: it has sent everything, and nobody waits to hear so. That is
    /// how most streams end that end in order.
    fn closes_without_a_word(&self, id: Id) -> bool {
        const MORE: Status = Status::SEND_ON
            .union(Status::DRAINED)
            .union(Status::FAILURE_DUE);
        let core = &mut *self.core.borrow_mut();
        let over = state(&mut core.handles, id).is_ok_and(|stream| {
            stream.writes.is_none() && !stream.status.intersects(MORE) && stream.is_finished()
        });
        over && crate::event_loop::close(core, id).is_ok()
    }

    fn take_status(&self, id: Id, status: Status) -> bool {
        let mut core = self.core.borrow_mut();
        let Ok(stream) = state(&mut core.handles, id) else {
            return false;
        };
        let had = stream.status.contains(status);
        stream.status.remove(status);
        had
    }

    fn tell_failure(&self, id: Id) {
        /// Closes the stream after its `on_error`, also when that unwinds.
        struct Close<'a>(&'a Loop, Id);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                // Closed already is what is wanted.
                let _ = crate::event_loop::close(&mut self.0.core.borrow_mut(), self.1);
            }
        }
        let error = {
            let mut core = self.core.borrow_mut();
            let Ok(stream) = state(&mut core.handles, id) else {
                return;
            };
            stream.writes.as_ref().and_then(|writes| writes.error)
        };
        let _close = Close(self, id);
        if let Some(error) = error {
            self.tell(id, |lp, handler| handler.on_error(lp, Stream(id), error));
        }
    }

    /// The stream's timer is due: the connect's, or the earlier one of the two timeouts'.
    pub(crate) fn stream_timer(&self, id: Id) {
        let which = {
            let mut borrowed = self.core.borrow_mut();
            let core = &mut *borrowed;
            let now = core.now;
            let Ok(stream) = state(&mut core.handles, id) else {
                return;
            };
            if stream.is_connecting() {
                drop(borrowed);
                #[cfg(feature = "net")]
                if self.connecting_timer(id) {
                    return;
                }
                #[cfg(all(unix, feature = "local"))]
                if self.local_connect_again(id) {
                    return;
                }
                let mut core = self.core.borrow_mut();
                fail(&mut core, id, crate::error::Code::ETIMEDOUT.into());
                drop(core);
                return self.stream_events(id);
            }
            if stream.status.contains(Status::FAILED) {
                return; // its `on_error` is on the way
            }
            let which = stream.ran_out(now);
            if which == Some(Timeout::Read) && stream.status.contains(Status::LINGERS) {
                // The peer's end has not come in its time.
                let _ = crate::event_loop::close(core, id);
                return;
            }
            if let Some(which) = which {
                // Counts anew from here, not from when this turn began.
                let now = core.driver.clock_ns();
                match which {
                    Timeout::Read => stream.last_read = now,
                    Timeout::Write => stream.writes().last_progress = now,
                }
            }
            let overtaken = which.is_some_and(|which| stream.goes_on(which));
            arm_timeouts(core, id);
            which.filter(|_| !overtaken)
        };
        if let Some(which) = which {
            self.tell(id, |lp, handler| handler.on_timeout(lp, Stream(id), which));
        }
    }

    /// Tells one of a closed stream's writes how it ended; the others stay in the queue.
    pub(crate) fn cancel_writes(&self, id: Id, mut writes: Box<Writes>) {
        let Some((done, outcome)) = writes.next_final_callback() else {
            return;
        };
        self.core
            .borrow_mut()
            .finals
            .push_front(Final::Writes(id, writes));
        self.callback(Some(id), |lp| done(lp, Stream(id), outcome));
    }
}

/// A stream, also one that is closing, whose handler is still out.
#[inline(always)]
fn without_handler(handles: &mut Handles, id: Id) -> Option<&mut StreamState> {
    match &mut handles.any_mut(id)?.body {
        Body::Stream(stream) if stream.handler.is_none() => Some(stream),
        _ => None,
    }
}

impl StreamState {
    /// Something came: the handler, to be told of it.
    #[inline]
    pub(crate) fn receives(&mut self, lp: &Loop, turn: u64) -> Option<Box<dyn StreamHandler>> {
        if self.status.contains(Status::LINGERS) {
            return None; // nobody wants them any more
        }
        self.has_read(lp, turn);
        self.handler.take()
    }

    /// Something came. The turn's clock may be older by what the callbacks before have taken, which must
    /// not count as idle: where that matters it is read anew.
    #[inline]
    fn has_read(&mut self, lp: &Loop, turn: u64) {
        if self.read_idle > 0 {
            self.last_read = match lp.clock_is_stale() {
                true => sys::monotonic_ns(),
                false => turn,
            };
        }
    }

    /// Whether either may ever run out.
    #[inline]
    pub(super) fn has_timeouts(&self) -> bool {
        self.read_idle > 0 || self.write_stall > 0
    }

    /// The timeout that has run out.
    fn ran_out(&self, now: u64) -> Option<Timeout> {
        let due = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.read_deadline()) {
            return Some(Timeout::Read);
        }
        due(self.write_deadline()).then_some(Timeout::Write)
    }

    /// Whether the descriptor is ready all the same: then the peer has done its part while the loop was
    /// busy elsewhere, and this turn will tell.
    fn goes_on(&self, which: Timeout) -> bool {
        let interest = match which {
            Timeout::Read => Interest::READABLE,
            Timeout::Write => Interest::WRITABLE,
        };
        let descriptor = self.source.descriptor();
        descriptor.is_some_and(|at| sys::is_ready(at, interest))
    }

    /// When reading will have been idle for too long.
    fn read_deadline(&self) -> Option<u64> {
        let counts = match self.status.contains(Status::LINGERS) {
            true => self.status.contains(Status::SHUT), // from then on
            false => self.status.contains(Status::READING),
        };
        (counts && self.read_idle > 0).then(|| self.last_read.saturating_add(self.read_idle))
    }

    /// When the peer will have taken nothing for too long.
    fn write_deadline(&self) -> Option<u64> {
        let writes = self.writes.as_ref().filter(|writes| writes.is_waiting())?;
        let counts = self.write_stall > 0 && !writes.waits_for_disk();
        counts.then(|| writes.last_progress.saturating_add(self.write_stall))
    }
}

/// Sees to it that the stream's timer is due no later than its timeouts. It may be due earlier,
/// and is then set anew: receiving and sending only note the time.
pub(super) fn arm_timeouts(core: &mut Core, id: Id) {
    let Ok(entry) = core.handles.get_mut(id) else {
        return;
    };
    let Body::Stream(stream) = &mut entry.body else {
        return;
    };
    if stream.is_connecting() {
        return;
    }
    if stream.write_stall > 0 {
        if let Some(writes) = &mut stream.writes {
            // The loop's clock may be older than what just happened. Read it only here, where
            // something waits: the peer is slow, and the reading costs little beside that.
            if writes.is_waiting() && writes.last_progress == 0 {
                writes.last_progress = core.driver.clock_ns();
            }
        }
    }
    let deadlines = [stream.read_deadline(), stream.write_deadline()];
    let Some(deadline) = deadlines.into_iter().flatten().min() else {
        return;
    };
    if entry.timer == TimerKey::NONE {
        entry.timer = core.wheel.add(id);
    }
    if core
        .wheel
        .deadline(entry.timer)
        .is_none_or(|armed| armed > deadline)
    {
        core.wheel.arm(entry.timer, deadline);
    }
}
