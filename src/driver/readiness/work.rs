//! What ready means: the calls that readiness allows, and what their outcome says of it.

use std::io::{self, IoSlice};

use super::{Current, Readiness, Selector};
use crate::driver::{
    would_block, Buffer, Completion, Interest, Object, Passed, ReceiveInto, Received, Source,
    State, GONE_MAX, RECEIVE_BUFFER, RECEIVE_SOCKET,
};
use crate::error::{Code, Error, Result};
use crate::handles::Id;
use crate::sys;

impl<S: Selector> Readiness<S> {
    /// The next completion of the source, `None` when it is worked off.
    pub(super) fn step(
        &mut self,
        now: &mut Current,
        source: &mut Source,
        buffer: &mut Buffer,
    ) -> Option<Completion> {
        if let Object::Foreign(_) = source.object {
            return foreign_ready(now, source);
        }
        if let Some(found) = now.found.take() {
            return Some(found);
        }
        if now.error
            || now
                .ready
                .intersects(Interest::DISCONNECT | Interest::PRIORITY)
        {
            source.state.insert(State::HANGUP);
        }
        if now.error
            || now
                .ready
                .intersects(Interest::READABLE | Interest::DISCONNECT)
        {
            source.state.insert(State::READABLE);
        }
        let writable = now.error || now.ready.contains(Interest::WRITABLE);
        now.ready = Interest::empty();
        now.error = false;
        if writable && source.state.contains(State::CONNECT) {
            let outcome = connect_outcome(source)?;
            source.state.remove(State::CONNECT);
            self.follow(now.id, source);
            return Some(Completion::Connected(now.id, outcome));
        }
        if writable && source.state.contains(State::SEND) {
            source.state.remove(State::SEND);
            self.follow(now.id, source);
            // Reading comes next, when this source is asked again.
            if source.state.contains(State::DATAGRAMS) {
                return Some(Completion::DatagramsSent(now.id));
            }
            return Some(Completion::Sent(now.id, Ok(())));
        }
        if !source.state.contains(State::READABLE) || source.state.contains(State::CARRIED) {
            // Nothing to read; or it has its turn with those carried over, once.
            return None;
        }
        if source.state.contains(State::DATAGRAMS) {
            return self.receive_datagrams(now, source);
        }
        if source.state.contains(State::ACCEPT) {
            return self.accept(now, source);
        }
        if source.state.contains(State::RECEIVE) {
            return self.receive(now, source, buffer);
        }
        None
    }

    fn accept(&mut self, now: &mut Current, source: &mut Source) -> Option<Completion> {
        let mut gone = 0;
        loop {
            if now.accepted >= self.accept_limit(now.id) {
                self.carry(now.id, source);
                return None;
            }
            match source
                .socket()
                .map_err(io::Error::from)
                .and_then(sys::accept)
            {
                Ok(socket) => {
                    now.accepted += 1;
                    return Some(Completion::Accepted(now.id, socket));
                }
                Err(error) if would_block(&error) => {
                    source.state.remove(State::READABLE | State::HANGUP);
                    return None;
                }
                Err(error) => {
                    let error = Error::from(error);
                    if is_of_one_connection(error.code()) && gone < GONE_MAX {
                        gone += 1;
                        continue;
                    }
                    // Still readable: accepting can be started again for those who wait.
                    source.state.remove(State::ACCEPT);
                    self.follow(now.id, source);
                    return Some(Completion::AcceptFailed(now.id, error));
                }
            }
        }
    }

    fn receive(
        &mut self,
        now: &mut Current,
        source: &mut Source,
        buffer: &mut Buffer,
    ) -> Option<Completion> {
        if now.bytes_left == 0 {
            self.carry(now.id, source);
            return None;
        }
        if source.state.contains(State::OWN_MEMORY) {
            // The size of the owner's memory is not known here; a call counts as a buffer.
            now.bytes_left = now.bytes_left.saturating_sub(RECEIVE_BUFFER);
            return Some(Completion::Readable(now.id));
        }
        let room = room_for(source);
        let outcome = read(source, &mut buffer.memory()[..room], &mut self.passed);
        if let Ok(length) = outcome {
            now.bytes_left = now.bytes_left.saturating_sub(length);
        }
        self.received(now.id, source, outcome)
    }

    /// The first bytes of an event, for a stream that only receives. Nearly always they are all
    /// there are, and then nothing is to be remembered; other outcomes are left for `next`.
    #[inline(always)]
    pub(super) fn receive_first<'b>(
        &mut self,
        id: Id,
        source: &mut Source,
        buffer: &'b mut Buffer,
    ) -> Option<&'b [u8]> {
        if !source.state.only_receives() {
            return None;
        }
        let Object::Socket(socket) = &source.object else {
            return None;
        };
        self.handed_out += 1;
        let memory = buffer.memory();
        let outcome = sys::receive(socket, &mut memory[..RECEIVE_SOCKET]);
        if let Ok(length @ 1..RECEIVE_SOCKET) = outcome {
            source.state.remove(State::READABLE);
            return Some(&memory[..length]);
        }
        self.received_first(id, source, outcome);
        None
    }

    /// The first read of an event filled the buffer, or brought nothing.
    #[cold]
    fn received_first(&mut self, id: Id, source: &mut Source, outcome: io::Result<usize>) {
        source.state.insert(State::READABLE);
        let mut now = Current::new(id, Interest::empty(), false);
        now.bytes_left -= RECEIVE_BUFFER;
        now.found = self.received(id, source, outcome);
        if now.found.is_some() {
            self.current = Some(now);
        }
    }

    fn received(
        &mut self,
        id: Id,
        source: &mut Source,
        outcome: io::Result<usize>,
    ) -> Option<Completion> {
        let completion = match note_outcome(source, room_for(source), outcome) {
            ReceiveInto::Bytes(length) => {
                return Some(Completion::Received(id, Received::Shared(length)));
            }
            ReceiveInto::Nothing => return None,
            ReceiveInto::Ended => Completion::Ended(id),
            ReceiveInto::Failed(error) => Completion::ReceiveFailed(id, error),
        };
        self.follow(id, source);
        Some(completion)
    }
}

/// How much one call may bring.
#[inline]
fn room_for(source: &Source) -> usize {
    match source.object {
        Object::Socket(_) => RECEIVE_SOCKET,
        _ => RECEIVE_BUFFER,
    }
}

/// One receive call.
#[inline]
pub(in crate::driver) fn read(
    source: &mut Source,
    memory: &mut [u8],
    passed: &mut Passed,
) -> io::Result<usize> {
    if let Object::Socket(socket) = &source.object {
        return sys::receive(socket, memory);
    }
    read_what_stops_short(source, memory, passed)
}

/// One receive call for what has [`State::STOPS_SHORT`].
fn read_what_stops_short(
    source: &mut Source,
    memory: &mut [u8],
    passed: &mut Passed,
) -> io::Result<usize> {
    match &source.object {
        Object::Local(socket) => {
            let (length, cut) = if source.state.contains(State::CONTROL) {
                let came = &mut passed.descriptors;
                let (length, cut, lost) = sys::receive_passing(socket, memory, came)?;
                passed.lost |= lost;
                (length, cut)
            } else {
                sys::receive_message(socket, memory)?
            };
            // More may stand behind what ended this read.
            if cut {
                source.state.insert(State::HANGUP);
            }
            Ok(length)
        }
        #[cfg(unix)]
        Object::File(file) => {
            // Until it says that it is empty.
            source.state.insert(State::HANGUP);
            file.read(memory)
        }
        _ => Err(io::ErrorKind::NotConnected.into()),
    }
}

/// One send call.
#[inline(always)] // into the way of every message
pub(super) fn write(source: &Source, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    if let Object::Socket(socket) = &source.object {
        return sys::send(socket, slices);
    }
    write_otherwise(source, slices)
}

fn write_otherwise(source: &Source, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match &source.object {
        Object::Socket(socket) | Object::Local(socket) => sys::send(socket, slices),
        #[cfg(unix)]
        Object::File(file) => file.write(slices),
        _ => Err(io::ErrorKind::NotConnected.into()),
    }
}

/// What the outcome of a receive call says of the socket's readiness.
pub(super) fn note_outcome(
    source: &mut Source,
    room: usize,
    outcome: io::Result<usize>,
) -> ReceiveInto {
    match outcome {
        Ok(0) if room > 0 => {
            source.state.remove(State::RECEIVE | State::READABLE);
            ReceiveInto::Ended
        }
        Ok(length) => {
            if length < room && !source.state.contains(State::HANGUP) {
                source.state.remove(State::READABLE);
            }
            ReceiveInto::Bytes(length)
        }
        Err(error) if would_block(&error) => {
            source.state.remove(State::READABLE | State::HANGUP);
            ReceiveInto::Nothing
        }
        Err(error) => {
            source.state.remove(State::RECEIVE | State::READABLE);
            ReceiveInto::Failed(error.into())
        }
    }
}

/// Sends from a file what the source takes at once.
#[cfg(feature = "fs")]
pub(in crate::driver) fn send_file(
    source: &Source,
    file: &std::fs::File,
    offset: u64,
    length: usize,
) -> Result<crate::driver::FileSent> {
    use crate::driver::FileSent;
    #[cfg(unix)]
    let outcome = match source.descriptor() {
        Some(to) => sys::fs::send_file(sys::borrow(to), file, offset, length),
        None => return Err(Code::ENOTCONN.into()),
    };
    #[cfg(not(unix))]
    let outcome: std::io::Result<usize> = {
        let _ = (source, file, offset, length);
        Err(std::io::ErrorKind::Unsupported.into())
    };
    match outcome {
        Ok(0) => Ok(FileSent::End),
        Ok(bytes) => Ok(FileSent::Bytes(bytes)),
        Err(error) if would_block(&error) => Ok(FileSent::Full),
        Err(error) => match Error::from(error) {
            error if matches!(error.code(), Code::EINVAL | Code::ENOSYS | Code::ENOTSUP) => {
                Ok(FileSent::Unable)
            }
            error => Err(error),
        },
    }
}

fn foreign_ready(now: &mut Current, source: &Source) -> Option<Completion> {
    if now.ready.is_empty() && !now.error {
        return None;
    }
    let mut found = now.ready & source.interest;
    if now.error {
        // A broken descriptor is ready for everything: the user's own call then meets the error.
        found |= source.interest & (Interest::READABLE | Interest::WRITABLE | Interest::DISCONNECT);
        if found.is_empty() {
            found = source.interest;
        }
    }
    now.ready = Interest::empty();
    now.error = false;
    (!found.is_empty()).then_some(Completion::Polled(now.id, Ok(found)))
}

/// The outcome of a connect whose socket became writable; `None` if it was a false alarm.
pub(in crate::driver) fn connect_outcome(source: &Source) -> Option<Result<()>> {
    let socket = match source.socket() {
        Ok(socket) => socket,
        Err(error) => return Some(Err(error)),
    };
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => return Some(Err(error.into())),
        Ok(None) => {}
    }
    match socket.peer_addr() {
        Ok(_) => Some(Ok(())),
        Err(error) => match Error::from(error) {
            error if error.code() == Code::ENOTCONN => None,
            // Darwin: the peer is already gone again.
            error if error.code() == Code::EINVAL => Some(Err(Code::ECONNRESET.into())),
            error => Some(Err(error)),
        },
    }
}

/// Errors of `accept` that belong to one connection which is gone, not to the listener: the next
/// may be tried at once (accept(2), "Error handling").
pub(in crate::driver) fn is_of_one_connection(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        ECONNABORTED
            | ECONNRESET
            | EPROTO
            | ENETDOWN
            | ENOPROTOOPT
            | EHOSTDOWN
            | EHOSTUNREACH
            | ENETUNREACH
            | EPERM
            | ETIMEDOUT
    )
}
