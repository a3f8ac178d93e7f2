//! The way of bytes from a write to the kernel.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use super::writes::WATERMARKS;
use super::{events, refresh_active, state, Flow, OwnedWrite, Status, StreamState};
use crate::driver::{AnyDriver, Driver, Object, State, SLICES_MAX};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Deferred};
use crate::handles::{Handles, Id};

/// Writes from this size on are sent at once instead of being gathered: gathering saves a system
/// call of about a microsecond, and copying more than this costs as much.
const GATHER_BELOW: usize = 4 * 1024;

/// Bytes that one stream may send in one go before the others have their turn.
const SEND_BUDGET: usize = 1024 * 1024;

/// A stream that takes writes, with room for so many bytes more beside those gathered.
#[inline]
pub(super) fn writable(
    handles: &mut Handles,
    id: Id,
    length: usize,
    gathered: usize,
) -> Result<&mut StreamState> {
    let stream = state(handles, id)?;
    if stream.status.intersects(Status::FAILED | Status::SHUTTING) {
        let shut = !stream.status.contains(Status::FAILED);
        return Err(if shut { Code::EPIPE } else { Code::ENOTCONN }.into());
    }
    if length
        > stream
            .marks()
            .limit
            .saturating_sub(stream.queued() + gathered)
    {
        return Err(Code::ENOBUFS.into());
    }
    Ok(stream)
}

#[inline]
pub(super) fn write(core: &mut Core, id: Id, data: &[u8], gathers: bool) -> Result<Flow> {
    // Far from every bound. What was noted holds only in the stream's own callback, so it is gathered: for no
    // other stream yet, which would have been looked up.
    let small = (1..GATHER_BELOW).contains(&data.len());
    if small && core.handles.is_clear(id) && core.gathered.push_into(id, data) {
        return Ok(Flow::Ready);
    }
    let large = (GATHER_BELOW..=WATERMARKS.limit).contains(&data.len());
    if large && core.handles.is_clear(id) && core.gathered.owner().is_none() {
        return write_large(core, id, data);
    }
    write_to(core, id, data, gathers)
}

/// A large write to a stream that stands clear: sent at once.
#[inline(never)] // the way of small ones stays short
fn write_large(core: &mut Core, id: Id, data: &[u8]) -> Result<Flow> {
    let Core {
        handles, driver, ..
    } = core;
    let stream = state(handles, id)?;
    match driver.send_plainly(&stream.source, data) {
        Some(Ok(sent)) if sent == data.len() => {
            handles.note_clear(id); // nothing of it has changed
            Ok(Flow::Ready)
        }
        outcome => write_large_otherwise(core, id, data, outcome),
    }
}

/// After [`AnyDriver::send_plainly`], if that was not all.
#[inline(never)] // the other way stays short
fn write_large_otherwise(
    core: &mut Core,
    id: Id,
    data: &[u8],
    outcome: Option<io::Result<usize>>,
) -> Result<Flow> {
    let Core {
        handles, driver, ..
    } = core;
    let source = &mut state(handles, id)?.source;
    let outcome = match outcome {
        Some(outcome) => driver.sent_plainly(id, source, data.len(), outcome),
        None => driver.send_copied(id, source, &[IoSlice::new(data)]),
    };
    sent_now(core, id, data, outcome);
    Ok(state(&mut core.handles, id)?.flow())
}

/// A write to a stream that must be looked up first.
#[inline(never)] // the other way stays short
fn write_to(core: &mut Core, id: Id, data: &[u8], gathers: bool) -> Result<Flow> {
    let small = (1..GATHER_BELOW).contains(&data.len());
    let alone = core.gathered.owner().is_none_or(|owner| owner == id);
    let gathers_it = gathers && small && alone && state(&mut core.handles, id)?.is_clear();
    if gathers_it && core.gathered.push_into(id, data) {
        return Ok(Flow::Ready);
    }
    write_otherwise(core, id, data, gathers)
}

/// A write that is not small, or not to a stream that only has to send it.
fn write_otherwise(core: &mut Core, id: Id, data: &[u8], gathers: bool) -> Result<Flow> {
    let gathered = gathered_by(core, id);
    let stream = writable(&mut core.handles, id, data.len(), gathered)?;
    if stream.must_queue() || data.is_empty() {
        if !data.is_empty() {
            queue_copy(stream, data)?;
        }
        return Ok(stream.flow());
    }
    let flow = stream.flow();
    if gathers && data.len() < GATHER_BELOW && core.gathered.push(id, data) {
        return Ok(flow);
    }
    send_now(core, id, data);
    Ok(state(&mut core.handles, id)?.flow())
}

pub(super) fn write_owned(
    core: &mut Core,
    id: Id,
    write: OwnedWrite,
    gathers: bool,
) -> Result<Flow> {
    let gathered = gathered_by(core, id);
    let length = write.payloads.length();
    let must_queue = writable(&mut core.handles, id, length, gathered)?.must_queue();
    // Without gathered bytes the stream may still be the one that is sent for when the callback
    // returns, because of an owned write before this one.
    let before = match gathered {
        0 => Vec::new(),
        _ => core.gathered.take_of(id),
    };
    let stream = state(&mut core.handles, id)?;
    let writes = stream.writes();
    if !writes.is_waiting() {
        writes.last_progress = 0;
    }
    let alone = before.is_empty();
    if !alone {
        writes.push_vec(before);
    }
    writes.push_owned(write);
    if !must_queue {
        if gathers && alone && length < GATHER_BELOW {
            core.gathered.own(id);
        } else {
            drain(core, id);
        }
    }
    refresh_active(core, id);
    let stream = state(&mut core.handles, id)?;
    if let Some(writes) = &mut stream.writes {
        writes.note_level();
    }
    Ok(stream.flow())
}

fn queue_copy(stream: &mut StreamState, data: &[u8]) -> Result<()> {
    let writes = stream.writes();
    if !writes.is_waiting() {
        writes.last_progress = 0;
    }
    writes.push_copy(data)
}

/// Bytes that this stream has gathered. What another one has is sent, before this one gathers.
#[inline]
pub(super) fn gathered_by(core: &mut Core, id: Id) -> usize {
    match core.gathered.owner() {
        None => 0,
        Some(owner) if owner == id => core.gathered.bytes().len(),
        Some(owner) => {
            flush(core, owner);
            0
        }
    }
}

/// Sends what the stream has gathered.
pub(crate) fn flush(core: &mut Core, id: Id) {
    if core.gathered.length_of(id) > 0 {
        send_gathered(core, id);
    } else {
        core.gathered.disown();
        #[cfg(feature = "net")]
        crate::net::udp::flush(core, id);
        drain(core, id);
    }
}

/// Sends what is gathered, for a stream that has nothing queued.
fn send_gathered(core: &mut Core, id: Id) {
    sent_otherwise(core, id, None);
}

/// What a stream has gathered was not sent whole by [`AnyDriver::send_plainly`]: this is the outcome, or it could not be
/// tried.
#[inline(never)] // the other way stays short
pub(super) fn sent_otherwise(core: &mut Core, id: Id, outcome: Option<io::Result<usize>>) {
    let Core {
        handles,
        driver,
        gathered,
        ..
    } = core;
    let Ok(stream) = state(handles, id) else {
        return gathered.clear();
    };
    let bytes = gathered.bytes();
    let outcome = match outcome {
        Some(outcome) => driver.sent_plainly(id, &mut stream.source, bytes.len(), outcome),
        None => driver.send_copied(id, &mut stream.source, &[IoSlice::new(bytes)]),
    };
    match outcome {
        Ok(sent) if sent == bytes.len() && !stream.status.contains(Status::SHUTTING) => {
            gathered.clear();
        }
        outcome => sent_now(core, id, &[], outcome),
    }
}

/// Sends what is gathered and then `data`, for a stream that has nothing queued.
fn send_now(core: &mut Core, id: Id, data: &[u8]) {
    let Core {
        handles,
        driver,
        gathered,
        ..
    } = core;
    let Ok(stream) = state(handles, id) else {
        return gathered.clear();
    };
    let before = gathered.bytes_of(id);
    let outcome = if before.is_empty() {
        driver.send_copied(id, &mut stream.source, &[IoSlice::new(data)])
    } else {
        let both = [IoSlice::new(before), IoSlice::new(data)];
        driver.send_copied(id, &mut stream.source, &both)
    };
    sent_now(core, id, data, outcome);
}

/// After what was gathered and then `data` were handed to the kernel: queues what it did not take.
#[cold]
pub(super) fn sent_now(core: &mut Core, id: Id, data: &[u8], outcome: Result<usize>) {
    let Core {
        handles, gathered, ..
    } = core;
    let Ok(stream) = state(handles, id) else {
        return gathered.clear();
    };
    let before = gathered.bytes_of(id);
    match outcome {
        Ok(sent) => {
            let of_gathered = sent.min(before.len());
            let rest = [&before[of_gathered..], &data[sent - of_gathered..]];
            let queued = rest
                .into_iter()
                .filter(|rest| !rest.is_empty())
                .try_for_each(|rest| queue_copy(stream, rest));
            gathered.clear();
            if let Err(error) = queued {
                // A part is with the kernel: without the rest the stream is broken.
                fail(core, id, error);
            } else if stream.must_queue() || stream.status.contains(Status::SHUTTING) {
                settle(core, id);
            }
        }
        Err(error) => fail(core, id, error),
    }
}

/// Sends from the queue until it is empty or the kernel takes no more.
pub(super) fn drain(core: &mut Core, id: Id) {
    let mut left = SEND_BUDGET;
    loop {
        let Ok(stream) = state(&mut core.handles, id) else {
            return;
        };
        if stream.is_connecting() || stream.source.state.contains(State::SEND) {
            break;
        }
        let Some(writes) = &mut stream.writes else {
            break;
        };
        if !writes.is_waiting() || stream.status.contains(Status::FAILED) {
            break;
        }
        if left == 0 {
            stream.status.insert(Status::SEND_ON);
            break;
        }
        #[cfg(feature = "fs")]
        if writes.next_file().is_some() {
            match super::files::send(core, id) {
                Ok(Some(sent)) => left = left.saturating_sub(sent),
                Ok(None) => break,
                Err(error) => return fail(core, id, error),
            }
            continue;
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (count, total) = writes.slices(&mut slices);
        let outcome = match count {
            0 => Ok(0),
            _ => {
                let (driver, source) = (&mut core.driver, &mut stream.source);
                match writes.descriptors() {
                    None => driver.send(id, source, &slices[..count]),
                    Some(these) => driver.send_passing(id, source, &slices[..count], these),
                }
            }
        };
        match outcome {
            Ok(sent) => {
                writes.advance(sent);
                if sent > 0 {
                    writes.last_progress = 0;
                }
                left = left.saturating_sub(sent);
                if sent < total {
                    break;
                }
            }
            Err(error) => {
                fail(core, id, error);
                return;
            }
        }
    }
    settle(core, id);
}

/// After the queue changed: what follows from its being empty, or low, or not.
pub(super) fn settle(core: &mut Core, id: Id) {
    let gathered = core.gathered.owner() == Some(id);
    let Ok(stream) = state(&mut core.handles, id) else {
        return;
    };
    let mut tells = stream.status.contains(Status::SEND_ON);
    let whole = !stream.status.contains(Status::FAILED);
    let empty = !stream.must_queue() && !gathered;
    let mut ends = whole && empty;
    ends &= stream.status & (Status::SHUTTING | Status::SHUT) == Status::SHUTTING;
    if ends {
        match core.driver.take_unsent(id, &mut stream.source) {
            Ok(None) => {}
            Ok(Some(rest)) => {
                stream.take_back(rest);
                ends = false;
            }
            Err(error) => return fail(core, id, error),
        }
    }
    if ends {
        stream.status.insert(Status::SHUT);
        if stream.status.contains(Status::LINGERS) {
            stream.last_read = core.driver.clock_ns();
        }
        // A stream that is finishing is closed right after, which ends it as well. Not if its socket
        // is released before: who asked for the half-close itself has it then.
        let half_close = Status::FINISHING | Status::HALF_CLOSE;
        let outcome = if stream.status & half_close == Status::FINISHING {
            Ok(())
        } else {
            shut(&mut core.driver, id, stream)
        };
        if let Some(done) = stream
            .writes
            .as_mut()
            .and_then(|writes| writes.shutdown.take())
        {
            stream.writes().finish(done, outcome);
        }
        if let Err(error) = outcome {
            // There is no connection any more, whatever ended it.
            return fail(core, id, error);
        }
    }
    tells |= stream.status.contains(Status::FINISHING | Status::SHUT);
    if let Some(writes) = &mut stream.writes {
        if writes.falls_to_low() {
            stream.status.insert(Status::DRAINED);
            tells = true;
        }
        tells |= writes.has_finished();
    }
    stream.tidy();
    if tells {
        defer_stream(stream, id, &mut core.deferred);
    }
    let (active, has_timeouts) = (stream.is_active(), stream.has_timeouts());
    core.handles.set_active(id, active);
    if has_timeouts {
        events::arm_timeouts(core, id);
    }
}

/// What was sent was not taken after all, and is queued again.
pub(super) fn take_back(core: &mut Core, id: Id, rest: Vec<u8>) {
    if let Ok(stream) = state(&mut core.handles, id) {
        stream.take_back(rest);
        settle(core, id);
    }
}

/// Whether bytes of the stream are with the driver: some that the kernel has not taken, which are queued again then,
/// or some that came and were not told yet. Not of one that is broken.
pub(super) fn is_underway(core: &mut Core, id: Id) -> bool {
    let Ok(stream) = state(&mut core.handles, id) else {
        return false;
    };
    match core.driver.take_unsent(id, &mut stream.source) {
        Ok(None) => !stream.status.contains(Status::FAILED) && core.driver.untold(id),
        Ok(Some(rest)) => {
            take_back(core, id, rest);
            true
        }
        Err(error) => {
            fail(core, id, error);
            false
        }
    }
}

/// Ends our side.
#[cfg_attr(not(unix), allow(unused_variables))]
fn shut(driver: &mut AnyDriver, id: Id, stream: &mut StreamState) -> Result<()> {
    match &stream.source.object {
        Object::Socket(_) | Object::Local(_) => driver.endpoint(&stream.source)?.shutdown_write(),
        #[cfg(feature = "sim")]
        Object::Simulated(_) => driver.endpoint(&stream.source)?.shutdown_write(),
        #[cfg(unix)]
        Object::File(_) => {
            // Closing the writing end is how a pipe's reader learns of the end. What reads and
            // writes by one descriptor, such as a terminal, has no end to tell of.
            if stream.status.contains(Status::ONE_WAY) {
                driver.close(id, &mut stream.source);
            }
            Ok(())
        }
        Object::None | Object::Foreign(_) => Err(Code::ENOTCONN.into()),
    }
}

/// The stream has something to tell, in the next deferred phase.
pub(super) fn defer(core: &mut Core, id: Id) {
    if let Ok(stream) = state(&mut core.handles, id) {
        defer_stream(stream, id, &mut core.deferred);
    }
}

#[inline]
fn defer_stream(stream: &mut StreamState, id: Id, deferred: &mut VecDeque<Deferred>) {
    if !stream.status.contains(Status::DEFERRED) {
        stream.status.insert(Status::DEFERRED);
        deferred.push_back(Deferred::Stream(id));
    }
}

/// The connection broke: nothing more is sent or received, and the user is told.
pub(crate) fn fail(core: &mut Core, id: Id, error: Error) {
    core.gathered.take_of(id);
    let Ok(stream) = state(&mut core.handles, id) else {
        return;
    };
    if stream.status.contains(Status::FAILED) {
        return;
    }
    #[cfg(feature = "net")]
    let connecting = stream.is_connecting();
    stream.status.insert(Status::FAILED | Status::FAILURE_DUE);
    stream.status.remove(Status::READING | Status::CONNECTING);
    core.driver.receive_stop(id, &mut stream.source);
    stream.writes().error = Some(error);
    #[cfg(feature = "net")]
    if connecting {
        crate::net::connecting::abandon(core, id);
    }
    defer(core, id);
    refresh_active(core, id);
}
