//! The way of bytes from a write to the kernel.

use std::io::IoSlice;
use std::net::Shutdown;

use super::{events, refresh_active, state, Flow, OwnedWrite, Status, StreamState};
use crate::driver::{State, SLICES_MAX};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Deferred, Loop};
use crate::handles::Id;

/// Writes from this size on are sent at once instead of being gathered: gathering saves a system
/// call of about a microsecond, and copying more than this costs as much.
const GATHER_BELOW: usize = 4 * 1024;

/// Gathered bytes are sent when they are so many, however long the callback goes on.
const GATHER_MAX: usize = 64 * 1024;

/// Bytes that one stream may send in one go before the others have their turn.
const SEND_BUDGET: usize = 1024 * 1024;

/// A stream that takes writes, with room for so many bytes more.
fn writable(core: &mut Core, id: Id, length: usize) -> Result<&mut StreamState> {
    let gathered = core.gathered.length_of(id);
    let stream = state(&mut core.handles, id)?;
    if stream
        .status
        .intersects(Status::FAILED | Status::ERROR_TOLD)
    {
        return Err(Code::ENOTCONN.into());
    }
    if stream.status.contains(Status::SHUTTING) {
        return Err(Code::EPIPE.into());
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

pub(super) fn write(core: &mut Core, id: Id, data: &[u8], gathers: bool) -> Result<Flow> {
    flush_other(core, id);
    let now = core.now;
    let stream = writable(core, id, data.len())?;
    if data.is_empty() {
        return Ok(stream.flow());
    }
    if stream.must_queue() {
        queue_copy(stream, data, now);
        return Ok(stream.flow());
    }
    if gathers && data.len() < GATHER_BELOW {
        core.gathered.push(id, data);
        if core.gathered.length_of(id) >= GATHER_MAX {
            send_now(core, id, &[]);
        }
    } else {
        send_now(core, id, data);
    }
    Ok(state(&mut core.handles, id)?.flow())
}

pub(super) fn write_owned(
    core: &mut Core,
    id: Id,
    write: OwnedWrite,
    gathers: bool,
) -> Result<Flow> {
    flush_other(core, id);
    let now = core.now;
    let length = write.payloads.length();
    let must_queue = writable(core, id, length)?.must_queue();
    let before = core.gathered.take_of(id);
    let stream = state(&mut core.handles, id)?;
    let writes = stream.writes();
    if !writes.is_waiting() {
        writes.last_progress = now;
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
    Ok(state(&mut core.handles, id)?.flow())
}

fn queue_copy(stream: &mut StreamState, data: &[u8], now: u64) {
    let writes = stream.writes();
    if !writes.is_waiting() {
        writes.last_progress = now;
    }
    writes.push_copy(data);
}

/// Sends what another stream has gathered, before this one gathers.
fn flush_other(core: &mut Core, id: Id) {
    if let Some(owner) = core.gathered.owner() {
        if owner != id {
            flush(core, owner);
        }
    }
}

/// Sends what the stream has gathered.
pub(crate) fn flush(core: &mut Core, id: Id) {
    if core.gathered.length_of(id) > 0 {
        send_now(core, id, &[]);
    } else {
        core.gathered.disown();
        drain(core, id);
    }
}

impl Loop {
    /// A callback has returned: what it wrote goes to the kernel.
    #[inline]
    pub(crate) fn send_gathered(&self) {
        let mut core = self.core.borrow_mut();
        if let Some(owner) = core.gathered.owner() {
            flush(&mut core, owner);
        }
    }
}

/// Sends what is gathered and then `data`, for a stream that has nothing queued; queues what the
/// kernel does not take.
fn send_now(core: &mut Core, id: Id, data: &[u8]) {
    let gathered = core.gathered.take_of(id);
    let now = core.now;
    let Ok(stream) = state(&mut core.handles, id) else {
        return;
    };
    let outcome = match (gathered.is_empty(), data.is_empty()) {
        (true, _) => core
            .driver
            .send(id, &mut stream.source, &[IoSlice::new(data)]),
        (_, true) => core
            .driver
            .send(id, &mut stream.source, &[IoSlice::new(&gathered)]),
        _ => {
            let both = [IoSlice::new(&gathered), IoSlice::new(data)];
            core.driver.send(id, &mut stream.source, &both)
        }
    };
    match outcome {
        Ok(sent) if sent == gathered.len() + data.len() => {
            if stream.status.contains(Status::SHUTTING) {
                settle(core, id);
            }
        }
        Ok(sent) => {
            let of_gathered = sent.min(gathered.len());
            for rest in [&gathered[of_gathered..], &data[sent - of_gathered..]] {
                if !rest.is_empty() {
                    queue_copy(stream, rest, now);
                }
            }
            settle(core, id);
        }
        Err(error) => fail(core, id, error),
    }
    core.gathered.give_back(gathered);
}

/// Sends from the queue until it is empty or the kernel takes no more.
pub(super) fn drain(core: &mut Core, id: Id) {
    let now = core.now;
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
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (count, total) = writes.slices(&mut slices);
        let outcome = match count {
            0 => Ok(0),
            _ => core.driver.send(id, &mut stream.source, &slices[..count]),
        };
        match outcome {
            Ok(sent) => {
                writes.advance(sent);
                writes.last_progress = now;
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
    let empty = !stream.must_queue() && !gathered;
    if empty && stream.status & (Status::SHUTTING | Status::SHUT) == Status::SHUTTING {
        stream.status.insert(Status::SHUT);
        let outcome = stream
            .source
            .socket()
            .and_then(|socket| socket.shutdown(Shutdown::Write).map_err(Error::from));
        if let Some(done) = stream
            .writes
            .as_mut()
            .and_then(|writes| writes.shutdown.take())
        {
            stream.writes().finish(done, outcome);
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
        defer(core, id);
    }
    refresh_active(core, id);
    events::arm_timeouts(core, id);
}

/// The stream has something to tell, in the next deferred phase.
pub(super) fn defer(core: &mut Core, id: Id) {
    let Ok(stream) = state(&mut core.handles, id) else {
        return;
    };
    if !stream.status.contains(Status::DEFERRED) {
        stream.status.insert(Status::DEFERRED);
        core.deferred.push_back(Deferred::Stream(id));
    }
}

/// The connection broke: nothing more is sent or received, and the user is told.
pub(super) fn fail(core: &mut Core, id: Id, error: Error) {
    core.gathered.take_of(id);
    let Ok(stream) = state(&mut core.handles, id) else {
        return;
    };
    if stream.status.contains(Status::FAILED) {
        return;
    }
    stream.status.insert(Status::FAILED);
    stream.status.remove(Status::READING | Status::CONNECTING);
    core.driver.receive_stop(id, &mut stream.source);
    stream.writes().error = Some(error);
    defer(core, id);
    refresh_active(core, id);
}
