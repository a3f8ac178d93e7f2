//! The way of datagrams to the kernel, and what it has against them.

use std::io::IoSlice;
use std::net::SocketAddr;

use super::gathered::GATHER_BELOW;
use super::handler::DatagramError;
use super::queue::{cost, SendCallback, OVERHEAD, SEGMENTS_MAX, WATERMARKS};
use super::state::{state, Status, UdpState};
use super::transmitting::{transmit_all, Refusal};
use super::{SendId, Transmit, UdpSocket};
use crate::driver::State;
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Deferred, Loop};
use crate::handles::Id;
use crate::stream::{Flow, Payloads};
use crate::sys::datagrams::{How, Outgoing};

/// What UDP over IPv4 carries at most, and over IPv6 (RFC 768; RFC 8200, without jumbograms).
const LENGTH_MAX_IPV4: usize = 65_507;
const LENGTH_MAX_IPV6: usize = 65_527;

/// Bytes that one socket may send from its queue in one go before the others have their turn.
const SEND_BUDGET: usize = 1024 * 1024;

/// What is checked before a datagram is taken: where it goes and how, and the size of segments.
fn checked(
    udp: &UdpState,
    length: usize,
    transmit: &Transmit,
) -> Result<(Option<SocketAddr>, How, u16)> {
    let asks = transmit.source.is_some() || transmit.interface != 0 || transmit.tos.is_some();
    if asks && !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err(Code::ENOTSUP.into());
    }
    let (to, how) = udp.route(transmit)?;
    let most = if how.ipv4 {
        LENGTH_MAX_IPV4
    } else {
        LENGTH_MAX_IPV6
    };
    if length > most {
        return Err(Code::EMSGSIZE.into());
    }
    let segment = match transmit.segment_size {
        None => 0,
        Some(0) => return Err(Code::EINVAL.into()),
        Some(size) if length.div_ceil(usize::from(size)) > SEGMENTS_MAX => {
            return Err(Code::EINVAL.into())
        }
        Some(size) if usize::from(size) >= length => 0,
        Some(size) => size,
    };
    Ok((to, how, segment))
}

fn has_room(udp: &UdpState, more: usize) -> Result<()> {
    let (limit, used) = match &udp.queue {
        // Callbacks that are still to come take memory, too.
        Some(queue) => (
            queue.marks.limit,
            queue.bytes() + queue.finished_count() * OVERHEAD,
        ),
        None => (WATERMARKS.limit, 0),
    };
    if more > limit.saturating_sub(used) {
        return Err(Code::ENOBUFS.into());
    }
    Ok(())
}

fn flow(udp: &UdpState) -> Flow {
    if udp.is_full() {
        Flow::Full
    } else {
        Flow::Ready
    }
}

/// Sends what another socket has gathered, or what this one has, so that `id` may go on.
fn make_way(core: &mut Core, id: Id, also_own: bool) {
    if let Some(owner) = core.datagrams.owner() {
        if owner != id || also_own {
            flush(core, owner);
        }
    }
}

/// Sends or queues one message, of slices that follow each other.
pub(super) fn send(
    core: &mut Core,
    id: Id,
    slices: &[IoSlice<'_>],
    transmit: &Transmit,
    gathers: bool,
) -> Result<Flow> {
    let length = slices.iter().map(|slice| slice.len()).sum();
    let gathered = core.datagrams.cost_of(id);
    let udp = state(&mut core.handles, id)?;
    let (to, how, segment) = checked(udp, length, transmit)?;
    has_room(udp, gathered + cost(length, segment))?;
    let message = Outgoing {
        to,
        slices,
        segment,
        how,
    };
    if udp.must_queue() {
        let limit = udp.segment_limit;
        udp.queue().push_copy(&message, 0, limit);
        return Ok(flow(udp));
    }
    if gathers && length < GATHER_BELOW && segment == 0 {
        if let [one] = slices {
            let (limit, flow) = (udp.segment_limit, flow(udp));
            gather(core, id, to, how, one, limit);
            return Ok(flow);
        }
    }
    make_way(core, id, true);
    send_or_queue(core, id, &[message]);
    Ok(flow(state(&mut core.handles, id)?))
}

fn gather(
    core: &mut Core,
    id: Id,
    to: Option<SocketAddr>,
    how: How,
    data: &[u8],
    segment_limit: u16,
) {
    let full = !core.datagrams.has_room(data.len());
    make_way(core, id, full);
    if state(&mut core.handles, id).is_ok_and(|udp| udp.must_queue()) {
        let slices = [IoSlice::new(data)];
        let message = Outgoing {
            to,
            slices: &slices,
            segment: 0,
            how,
        };
        return queue_rest(core, id, &[message], 0);
    }
    core.datagrams.push(id, to, how, data, segment_limit);
    if !core.datagrams.held && core.gathered.owner() != Some(id) {
        // Whoever sees to what streams have gathered sees to this, too.
        if let Some(owner) = core.gathered.owner() {
            crate::stream::flush(core, owner);
        }
        core.gathered.own(id);
    }
}

/// Sends what the socket has gathered.
pub(crate) fn flush(core: &mut Core, id: Id) {
    if core.gathered.owner() == Some(id) {
        core.gathered.disown();
    }
    if !core.datagrams.is_owner(id) {
        return;
    }
    let mut gathered = std::mem::take(&mut core.datagrams);
    let held = std::mem::take(&mut gathered.held);
    gathered.with_messages(|messages| send_or_queue(core, id, messages));
    gathered.clear();
    // The memory is kept for the next.
    gathered.held = held;
    core.datagrams = gathered;
}

/// Sends messages of a socket that has nothing queued; queues what the kernel does not take.
fn send_or_queue(core: &mut Core, id: Id, messages: &[Outgoing<'_>]) {
    let Core {
        handles, driver, ..
    } = core;
    let Ok(udp) = state(handles, id) else {
        return;
    };
    if udp.must_queue() {
        // What was sent just before has filled the socket.
        return queue_rest(core, id, messages, 0);
    }
    let progress = transmit_all(driver, id, udp, messages);
    for refusal in &progress.refused {
        note(udp, messages[refusal.message].to, refusal);
    }
    if progress.messages < messages.len() {
        queue_rest(core, id, &messages[progress.messages..], progress.bytes);
        settle(core, id);
    } else if udp.queue.as_ref().is_some_and(|queue| queue.has_to_tell()) {
        settle(core, id);
    }
}

fn note(udp: &mut UdpState, to: Option<SocketAddr>, refusal: &Refusal) {
    let to = to.or(udp.peer);
    udp.note_error(DatagramError {
        error: refusal.error,
        to,
        by: None,
        mtu: None,
        count: refusal.count,
    });
}

fn queue_rest(core: &mut Core, id: Id, messages: &[Outgoing<'_>], mut skip: usize) {
    if let Ok(udp) = state(&mut core.handles, id) {
        let limit = udp.segment_limit;
        for message in messages {
            udp.queue().push_copy(message, skip, limit);
            skip = 0;
        }
    }
}

/// Sends a message, or says that the socket is full; nothing is queued.
pub(super) fn try_send(
    core: &mut Core,
    id: Id,
    slices: &[IoSlice<'_>],
    transmit: &Transmit,
) -> Result<()> {
    let length = slices.iter().map(|slice| slice.len()).sum();
    checked(state(&mut core.handles, id)?, length, transmit)?;
    make_way(core, id, true);
    let Core {
        handles, driver, ..
    } = &mut *core;
    let udp = state(handles, id)?;
    let (to, how, segment) = checked(udp, length, transmit)?;
    let message = Outgoing {
        to,
        slices,
        segment,
        how,
    };
    let outcome = if udp.must_queue() {
        Err(Error::new(Code::EAGAIN))
    } else {
        let progress = transmit_all(driver, id, udp, &[message]);
        let datagrams = |bytes: usize| match usize::from(segment) {
            0 => 1,
            segment => bytes.div_ceil(segment),
        };
        let whole = progress.messages == 1;
        let dealt_with = match progress.bytes {
            _ if whole => datagrams(length),
            bytes => datagrams(bytes) * usize::from(bytes > 0),
        };
        let refused = progress.refused.iter();
        let refused: usize = refused.map(|refusal| refusal.count as usize).sum();
        match progress.refused.first() {
            // A part of a run has gone: it counts as sent. What was refused of it is told, and the
            // rest waits its turn.
            _ if dealt_with > refused => {
                for refusal in &progress.refused {
                    note(udp, to, refusal);
                }
                if !whole {
                    let limit = udp.segment_limit;
                    udp.queue().push_copy(&message, progress.bytes, limit);
                }
                Ok(())
            }
            Some(refusal) => Err(refusal.error),
            None => Err(Error::new(Code::EAGAIN)),
        }
    };
    if outcome.is_err_and(|error| error.code() == Code::EAGAIN) {
        // So that `on_drain` says when there is room.
        udp.status.insert(Status::WANTS_ROOM);
    }
    settle(core, id);
    outcome
}

pub(super) fn send_owned(
    core: &mut Core,
    id: Id,
    payloads: Payloads,
    transmit: &Transmit,
    done: Option<SendCallback>,
) -> Result<(Flow, SendId)> {
    let length = payloads.length();
    let gathered = core.datagrams.cost_of(id);
    let udp = state(&mut core.handles, id)?;
    let (to, how, segment) = checked(udp, length, transmit)?;
    has_room(udp, gathered + cost(length, segment))?;
    make_way(core, id, true);
    core.last_write += 1;
    let name = core.last_write;
    let udp = state(&mut core.handles, id)?;
    let queue = udp.queue();
    queue.push_owned(name, to, how, segment, payloads, done);
    drain(core, id);
    let udp = state(&mut core.handles, id)?;
    if let Some(queue) = &mut udp.queue {
        // Only now it is known what the kernel took at once: that never was queued.
        queue.note_level();
    }
    Ok((flow(udp), SendId(name)))
}

pub(super) fn cancel(core: &mut Core, id: Id, send: SendId) -> Result<()> {
    let udp = state(&mut core.handles, id)?;
    let queue = udp.queue.as_mut().ok_or(Error::new(Code::ENOENT))?;
    queue.cancel(send.0)?;
    settle(core, id);
    Ok(())
}

/// Sends from the queue until it is empty or the kernel takes no more.
pub(super) fn drain(core: &mut Core, id: Id) {
    let mut left = SEND_BUDGET;
    loop {
        let Core {
            handles, driver, ..
        } = &mut *core;
        let Ok(udp) = state(handles, id) else {
            return;
        };
        if udp.source.state.contains(State::SEND) || !udp.must_queue() {
            break;
        }
        if left == 0 {
            udp.status.insert(Status::SEND_ON);
            break;
        }
        let Some(queue) = udp.queue.take() else {
            break;
        };
        let before = queue.bytes();
        let mut refused = Vec::new();
        let full = queue.with_messages(|messages| {
            let progress = transmit_all(driver, id, udp, messages);
            for refusal in progress.refused {
                refused.push((messages[refusal.message].to, refusal));
            }
            let full = progress.messages < messages.len();
            (progress.messages, progress.bytes, full)
        });
        let (messages, bytes, full) = full;
        // Errors that were noted meanwhile (see `stale`) stand in a queue of their own.
        let noted = udp.queue.replace(queue);
        let queue = udp.queue();
        if let Some(mut noted) = noted {
            while let Some(error) = noted.next_error() {
                queue.note_error(error);
            }
        }
        for (to, refusal) in refused {
            if udp.queue().has_callback(refusal.message) {
                udp.queue().refuse(refusal.message, refusal.error);
            } else {
                note(udp, to, &refusal);
            }
        }
        let queue = udp.queue();
        queue.advance(messages, bytes);
        left = left.saturating_sub(before - queue.bytes());
        if full {
            break;
        }
    }
    settle(core, id);
}

/// After the queue changed: what follows from its being low, or from what is to be told.
pub(super) fn settle(core: &mut Core, id: Id) {
    let Ok(udp) = state(&mut core.handles, id) else {
        return;
    };
    let mut tells = udp.status.contains(Status::SEND_ON);
    if let Some(queue) = &mut udp.queue {
        if queue.falls_to_low() {
            udp.status.insert(Status::DRAINED);
        }
        tells |= queue.has_to_tell();
    }
    let has_room = !udp.source.state.contains(State::SEND) && !udp.must_queue();
    if has_room && udp.status.contains(Status::WANTS_ROOM) {
        udp.status.remove(Status::WANTS_ROOM);
        udp.status.insert(Status::DRAINED);
    }
    tells |= udp.status.contains(Status::DRAINED);
    udp.tidy();
    if tells {
        defer(core, id);
    }
    refresh_active(core, id);
}

/// The socket has something to tell, in the next deferred phase.
pub(super) fn defer(core: &mut Core, id: Id) {
    if let Ok(udp) = state(&mut core.handles, id) {
        if !udp.status.contains(Status::DEFERRED) {
            udp.status.insert(Status::DEFERRED);
            core.deferred.push_back(Deferred::Udp(id));
        }
    }
}

pub(super) fn refresh_active(core: &mut Core, id: Id) {
    let active = state(&mut core.handles, id).is_ok_and(|udp| udp.is_active());
    core.handles.set_active(id, active);
}

impl Loop {
    /// The socket that was full has room again.
    pub(crate) fn udp_sent(&self, id: Id) {
        drain(&mut self.core.borrow_mut(), id);
        self.udp_events(id);
    }

    /// Tells one of a closed socket's sends how it ended; the others stay in the queue.
    pub(crate) fn cancel_datagrams(&self, id: Id, mut queue: Box<super::queue::Queue>) {
        let Some((done, outcome)) = queue.next_final_callback() else {
            return;
        };
        let rest = crate::event_loop::Final::Datagrams(id, queue);
        self.core.borrow_mut().finals.push_front(rest);
        self.callback(Some(id), |lp| done(lp, UdpSocket(id), outcome));
    }
}
