//! Streams: one set of operations, whatever carries the bytes.

#![cfg_attr(
    not(feature = "net"),
    allow(dead_code, reason = "nothing carries streams")
)]

mod events;
#[cfg(feature = "fs")]
mod files;
mod handler;
#[cfg(all(unix, any(feature = "local", feature = "tty")))]
mod open;
mod sending;
mod state;
mod writes;

use std::time::Duration;

use crate::driver::{Driver, Object, State};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Handles, Id, Kind};

pub use handler::{Flow, StreamHandler, Timeout};
#[cfg(all(unix, any(feature = "local", feature = "tty")))]
#[cfg_attr(not(feature = "local"), allow(unused_imports))]
pub(crate) use open::{open_descriptor, withdraw, Unopened};
#[cfg(feature = "net")]
pub(crate) use sending::fail;
pub(crate) use sending::flush;
use state::Status;
pub(crate) use state::StreamState;
pub use writes::Payload;
pub(crate) use writes::{Gathered, Payloads, WriteCallback, Writes};
use writes::{OwnedWrite, Passengers, Watermarks};

/// A byte stream in both directions: what TCP connections are, and whatever else carries bytes.
///
/// # Writing
///
/// [`Stream::write`] never blocks and never takes a part: it sends what the system takes and
/// queues the rest. Small writes of one callback are sent together when the callback returns.
/// The queue has a low and a high watermark, at which [`StreamHandler::on_drain`] and
/// [`Flow::Full`] tell the producer to go on and to pause, and a hard bound. A connection that
/// breaks is told once, by [`StreamHandler::on_error`], never by the result of a write.
///
/// # Reading
///
/// A stream whose handler [reads](StreamHandler::reads) does so from the start.
/// [`Stream::read_stop`] leaves what comes then to the system's buffer, which makes the peer
/// wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub(crate) Id);

crate::handles::handle_type!(Stream);

/// The state of an open stream.
fn state(handles: &mut Handles, id: Id) -> Result<&mut StreamState> {
    match &mut handles.get_mut(id)?.body {
        Body::Stream(stream) => Ok(stream),
        _ => Err(Code::EBADF.into()),
    }
}

/// The state of an open stream of this kind.
pub(crate) fn state_of(handles: &mut Handles, id: Id, kind: Kind) -> Result<&mut StreamState> {
    let stream = state(handles, id)?;
    match stream.kind() == kind {
        true => Ok(stream),
        false => Err(Code::EBADF.into()),
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<Box<dyn StreamHandler>>> {
    match body {
        Body::Stream(stream) => Some(&mut stream.handler),
        _ => None,
    }
}

fn refresh_active(core: &mut Core, id: Id) {
    let active = state(&mut core.handles, id).is_ok_and(|stream| stream.is_active());
    core.handles.set_active(id, active);
}

impl Stream {
    /// Gives the stream a handler, or another one in place of the first, which is dropped.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream; those of the system when reading cannot
    /// begin. While connections are being accepted, these come to
    /// [`StreamHandler::on_error`] instead.
    pub fn attach(self, lp: &Loop, handler: impl StreamHandler) -> Result<()> {
        self.attach_boxed(lp, Box::new(handler))
    }

    pub(crate) fn attach_boxed(self, lp: &Loop, handler: Box<dyn StreamHandler>) -> Result<()> {
        let former;
        // Asked first: the user's code may call the loop.
        let (reads, has_memory) = (handler.reads(), handler.has_memory());
        {
            let mut core = lp.core()?;
            let stream = state(&mut core.handles, self.0)?;
            let first = !stream.is_attached();
            stream.status.insert(Status::ATTACHED);
            stream.status.set(Status::HAS_MEMORY, has_memory);
            stream.source.state.set(State::OWN_MEMORY, has_memory);
            former = stream.handler.replace(handler);
            // One that only writes has nothing to read, and that is no mistake of the handler's.
            if first && reads && !stream.status.contains(Status::ENDED) {
                start_reading(&mut core, self.0)?;
            }
        }
        // Its destructor may call the loop.
        drop(former);
        Ok(())
    }

    /// The word that the handler in place keeps; `None` without one, and while it runs.
    #[cfg(feature = "capi")]
    pub(crate) fn embedder(self, lp: &Loop) -> Result<Option<*mut ()>> {
        let mut core = lp.core()?;
        let stream = state(&mut core.handles, self.0)?;
        Ok(stream.handler.as_ref().map(|handler| handler.embedder()))
    }

    /// Reads, after a [`Stream::read_stop`]; or from the start, for a handler that does not by
    /// itself. Reading already: nothing happens. Before the connection is made: reads from then.
    ///
    /// Errors: [`Code::ENOTCONN`] when the peer has ended its side or the connection broke,
    /// [`Code::EBADF`] for a closed stream.
    pub fn read_start(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        if state(&mut core.handles, self.0)?
            .status
            .intersects(Status::ENDED | Status::FAILED)
        {
            return Err(Code::ENOTCONN.into());
        }
        // The read-idle timeout counts from here.
        lp.fresh_clock(&mut core);
        start_reading(&mut core, self.0)
    }

    /// Reads no more, from now on: no `on_data` comes until [`Stream::read_start`], and nothing
    /// is lost. The read-idle timeout rests.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn read_stop(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        let core = &mut *core;
        let stream = state(&mut core.handles, self.0)?;
        stream.status.remove(Status::READING);
        core.driver.receive_stop(self.0, &mut stream.source);
        refresh_active(core, self.0);
        Ok(())
    }

    /// Writes bytes: all or none. What the system does not take at once is copied and queued.
    ///
    /// Errors: [`Code::ENOBUFS`] when the queue would exceed its bound, and nothing is taken;
    /// [`Code::ENOMEM`] when there is no memory for the copy, and nothing is taken (a stream that had
    /// nothing queued breaks with that error, since the system may have a part already);
    /// [`Code::EPIPE`] after [`Stream::shutdown`]; [`Code::ENOTCONN`] when the connection
    /// broke; [`Code::EBADF`] for a closed stream.
    pub fn write(self, lp: &Loop, data: &[u8]) -> Result<Flow> {
        let mut core = lp.core()?;
        sending::write(&mut core, self.0, data, lp.gathers())
    }

    /// Writes memory without copying it, and calls `done` when the system has taken it all.
    ///
    /// Writes of a stream, owned or not, are sent in their order. The result also names the
    /// write, for [`Stream::cancel_write`]. When the stream closes first, `done` hears
    /// [`Code::ECANCELED`], or the error that broke the connection.
    ///
    /// Errors: as [`Stream::write`]; then `done` is not called.
    pub fn write_owned(
        self,
        lp: &Loop,
        payload: impl Into<Payload>,
        done: impl FnOnce(&Loop, Stream, Result<()>) + 'static,
    ) -> Result<(Flow, WriteId)> {
        self.write_payloads(lp, Payloads::One(payload.into()), Some(Box::new(done)))
    }

    /// As [`Stream::write_owned`], for several pieces of memory that follow each other.
    ///
    /// Errors: as [`Stream::write`]; then `done` is not called.
    pub fn write_owned_vectored(
        self,
        lp: &Loop,
        payloads: Vec<Payload>,
        done: impl FnOnce(&Loop, Stream, Result<()>) + 'static,
    ) -> Result<(Flow, WriteId)> {
        self.write_payloads(lp, Payloads::Many(payloads), Some(Box::new(done)))
    }

    pub(crate) fn write_payloads(
        self,
        lp: &Loop,
        payloads: Payloads,
        done: Option<WriteCallback>,
    ) -> Result<(Flow, WriteId)> {
        self.write_all(lp, payloads, None, done)
    }

    pub(crate) fn write_all(
        self,
        lp: &Loop,
        payloads: Payloads,
        descriptors: Passengers,
        done: Option<WriteCallback>,
    ) -> Result<(Flow, WriteId)> {
        let mut core = lp.core()?;
        core.last_write += 1;
        let id = core.last_write;
        let write = OwnedWrite {
            id,
            payloads,
            done,
            descriptors,
        };
        let flow = sending::write_owned(&mut core, self.0, write, lp.gathers())?;
        Ok((flow, WriteId(id)))
    }

    /// Takes an owned write back that has not begun to be sent; its `done` hears
    /// [`Code::ECANCELED`].
    ///
    /// Errors: [`Code::EBUSY`] when a part of it is sent already, [`Code::ENOENT`] when it has
    /// ended, [`Code::EBADF`] for a closed stream.
    pub fn cancel_write(self, lp: &Loop, write: WriteId) -> Result<()> {
        let mut core = lp.core()?;
        let stream = state(&mut core.handles, self.0)?;
        let writes = stream.writes.as_mut().ok_or(Error::new(Code::ENOENT))?;
        let waited = writes.waits_for_disk();
        writes.cancel(write.0)?;
        if waited {
            // What stood behind a file that had to be waited for.
            sending::drain(&mut core, self.0);
        } else {
            sending::settle(&mut core, self.0);
        }
        Ok(())
    }

    /// Ends our side of the stream once everything queued is sent (half-close). Reading goes on.
    /// `done` is called when the system knows, or with the error of a connection that broke before.
    ///
    /// Errors: [`Code::EALREADY`] the second time, [`Code::ENOTCONN`] when the connection broke,
    /// [`Code::EBADF`] for a closed stream.
    pub fn shutdown(
        self,
        lp: &Loop,
        done: impl FnOnce(&Loop, Stream, Result<()>) + 'static,
    ) -> Result<()> {
        self.shutdown_with(lp, Some(Box::new(done)))
    }

    pub(crate) fn shutdown_with(self, lp: &Loop, done: Option<WriteCallback>) -> Result<()> {
        let mut core = lp.core()?;
        let stream = state(&mut core.handles, self.0)?;
        if stream.status.contains(Status::FAILED) {
            return Err(Code::ENOTCONN.into());
        }
        if stream.status.contains(Status::SHUTTING) {
            return Err(Code::EALREADY.into());
        }
        stream.status.insert(Status::SHUTTING | Status::HALF_CLOSE);
        if done.is_some() {
            stream.writes().shutdown = done;
        }
        sending::settle(&mut core, self.0);
        Ok(())
    }

    /// Closes the stream when everything queued is sent: the orderly end of a conversation.
    /// No more writes are taken. A write-stall timeout bounds how long it may take.
    ///
    /// A TCP connection that closes while the peer still sends is reset, and what the peer has not
    /// read by then may be lost to it: where that can be, see [`Stream::finish_lingering`].
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn finish(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        let stream = state(&mut core.handles, self.0)?;
        stream.status.insert(Status::FINISHING | Status::SHUTTING);
        if stream.status.contains(Status::LINGERS) {
            // Bytes were thrown away: those after them must not be handed out. So it lingers, but not long.
            stream.read_idle = 1;
            events::arm_timeouts(&mut core, self.0);
        }
        sending::settle(&mut core, self.0);
        Ok(())
    }

    /// As [`Stream::finish`], but when everything is sent only this side ends (half-close). What still
    /// comes is thrown away, until the peer ends its side or `linger` is over, which counts from the end
    /// of ours. Then the stream closes. So a peer that sends more than it is asked for gets the last
    /// reply whole.
    ///
    /// From the call on neither `on_data` nor `on_end` comes, nor a read timeout. A connection that
    /// breaks after everything was sent is no error: the stream just closes. What the last call of
    /// this or of [`Stream::finish`] says counts.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream; those of the system when reading cannot begin.
    pub fn finish_lingering(self, lp: &Loop, linger: Duration) -> Result<()> {
        let linger = crate::timer::nanoseconds(linger);
        if linger == 0 {
            return self.finish(lp);
        }
        let mut core = lp.core()?;
        let now = lp.fresh_clock(&mut core);
        let stream = state(&mut core.handles, self.0)?;
        let ended = stream
            .status
            .intersects(Status::ENDED | Status::FAILED | Status::LINGERS);
        if !ended {
            start_reading(&mut core, self.0)?;
        }
        let stream = state(&mut core.handles, self.0)?;
        stream
            .status
            .insert(Status::FINISHING | Status::SHUTTING | Status::HALF_CLOSE | Status::LINGERS);
        stream.source.state.remove(State::CONTROL);
        // What counts is the time from the end of our side on.
        (stream.read_idle, stream.last_read) = (linger, now);
        sending::settle(&mut core, self.0);
        Ok(())
    }

    /// Breaks the stream off with an error: `on_error` comes, then it closes.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn fail(self, lp: &Loop, error: Error) -> Result<()> {
        let mut core = lp.core()?;
        state(&mut core.handles, self.0)?;
        sending::fail(&mut core, self.0, error);
        Ok(())
    }

    /// Closes the stream and has the peer know that it was cut off: with TCP, by a reset (RST).
    /// With what has no such thing, as [`Loop::close`], without sending what is gathered.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn reset(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        let core = &mut *core;
        let stream = state(&mut core.handles, self.0)?;
        let source = &stream.source;
        if let Ok(endpoint) = core.driver.endpoint(source) {
            endpoint.set_reset_on_close(true)?;
        }
        core.gathered.take_of(self.0);
        crate::event_loop::close(core, self.0)
    }

    /// How long nothing may be received while reading, and how long the peer may take nothing
    /// while writes are queued, before [`StreamHandler::on_timeout`]. `None`: for ever.
    ///
    /// Both count anew from this call. They cost nothing per byte: receiving only notes the time.
    /// While callbacks keep the loop busy, what the peer does counts all the same: when the
    /// descriptor is ready as a timeout runs out, that counts anew, too.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn set_timeouts(
        self,
        lp: &Loop,
        read_idle: Option<Duration>,
        write_stall: Option<Duration>,
    ) -> Result<()> {
        let nanoseconds = |limit: Option<Duration>| limit.map_or(0, crate::timer::nanoseconds);
        self.set_timeouts_ns(lp, nanoseconds(read_idle), nanoseconds(write_stall))
    }

    pub(crate) fn set_timeouts_ns(self, lp: &Loop, read: u64, write: u64) -> Result<()> {
        let mut core = lp.core()?;
        let now = lp.fresh_clock(&mut core);
        let stream = state(&mut core.handles, self.0)?;
        stream.write_stall = write;
        if !stream.status.contains(Status::LINGERS) {
            (stream.read_idle, stream.last_read) = (read, now);
        }
        if let Some(writes) = &mut stream.writes {
            writes.last_progress = now;
        }
        events::arm_timeouts(&mut core, self.0);
        Ok(())
    }

    /// Where the write queue is full and where it has drained, in bytes, and what it holds at
    /// most. `usize::MAX`: no bound. As made: 16 KiB, 64 KiB, 16 MiB.
    ///
    /// Errors: [`Code::EINVAL`] unless `low <= high <= limit` and `high > 0`, [`Code::EBADF`]
    /// for a closed stream.
    pub fn set_watermarks(self, lp: &Loop, low: usize, high: usize, limit: usize) -> Result<()> {
        if low > high || high > limit || high == 0 {
            return Err(Code::EINVAL.into());
        }
        let mut core = lp.core()?;
        let stream = state(&mut core.handles, self.0)?;
        stream.writes().set_marks(Watermarks { low, high, limit });
        stream.tidy();
        sending::settle(&mut core, self.0);
        Ok(())
    }

    /// Hands out what carries the stream and closes the handle.
    ///
    /// Errors: [`Code::EBUSY`] while writes are queued, the connection is being made, or bytes have
    /// been received that are still to be told; [`Code::ENOTCONN`] when nothing carries it any more;
    /// [`Code::EBADF`] for a closed stream and for one of another kind.
    pub(crate) fn release_object(self, lp: &Loop, kind: Kind) -> Result<Object> {
        {
            let mut core = lp.core()?;
            if core.gathered.owner() == Some(self.0) {
                flush(&mut core, self.0);
            }
            let stream = state_of(&mut core.handles, self.0, kind)?;
            if stream.queued() > 0 || stream.sends_files() || stream.is_connecting() {
                return Err(Code::EBUSY.into());
            }
            if matches!(stream.source.object, Object::None) {
                return Err(Code::ENOTCONN.into()); // its shutdown has closed it
            }
            if sending::is_underway(&mut core, self.0) {
                return Err(Code::EBUSY.into());
            }
            #[cfg(all(unix, feature = "local"))]
            if core.local.is_telling(self.0) {
                return Err(Code::EBUSY.into());
            }
        }
        self.take_object(lp, kind)
    }

    /// As [`Stream::release_object`], whatever is under way.
    pub(crate) fn take_object(self, lp: &Loop, kind: Kind) -> Result<Object> {
        let mut core = lp.core()?;
        let core = &mut *core;
        let stream = state_of(&mut core.handles, self.0, kind)?;
        let object = core.driver.release(self.0, &mut stream.source);
        crate::event_loop::close(core, self.0)?;
        Ok(object)
    }

    /// What moves with the stream to another loop.
    ///
    /// Errors: [`Code::EPIPE`] when no more writes are taken, [`Code::ENOTCONN`] when the connection
    /// broke, [`Code::EBADF`] for a closed stream.
    #[cfg(feature = "net")]
    pub(crate) fn settings(self, lp: &Loop) -> Result<StreamSettings> {
        let mut core = lp.core()?;
        let stream = state(&mut core.handles, self.0)?;
        if stream.status.contains(Status::FAILED) {
            return Err(Code::ENOTCONN.into());
        }
        if stream.status.contains(Status::SHUTTING) {
            return Err(Code::EPIPE.into());
        }
        Ok(StreamSettings {
            read_idle: stream.read_idle,
            write_stall: stream.write_stall,
            marks: stream.marks(),
            shared: stream.source.state.contains(State::SHARED),
        })
    }

    #[cfg(feature = "net")]
    pub(crate) fn set_settings(self, lp: &Loop, settings: StreamSettings) -> Result<()> {
        let StreamSettings {
            read_idle,
            write_stall,
            marks: Watermarks { low, high, limit },
            shared,
        } = settings;
        if shared {
            let mut core = lp.core()?;
            let source = &mut state(&mut core.handles, self.0)?.source;
            source.state.insert(State::SHARED);
        }
        self.set_watermarks(lp, low, high, limit)?;
        self.set_timeouts_ns(lp, read_idle, write_stall)
    }

    /// Bytes that were written and not yet taken by the system.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn queued(self, lp: &Loop) -> Result<usize> {
        let mut core = lp.core()?;
        let gathered = core.gathered.length_of(self.0);
        Ok(state(&mut core.handles, self.0)?.queued() + gathered)
    }
}

/// What was set for a stream, and moves with it.
#[cfg(feature = "net")]
#[derive(Clone, Copy)]
pub(crate) struct StreamSettings {
    read_idle: u64,
    write_stall: u64,
    marks: Watermarks,
    /// Others may hold descriptors of it, too.
    shared: bool,
}

/// Names an owned write of a stream: see [`Stream::write_owned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriteId(pub(crate) u64);

/// Reads, as soon as the stream is connected.
fn start_reading(core: &mut Core, id: Id) -> Result<()> {
    let stream = state(&mut core.handles, id)?;
    let was_reading = stream.status.contains(Status::READING);
    stream.status.insert(Status::READING);
    if !was_reading && stream.read_idle > 0 {
        // The loop's clock may be as old as this turn.
        stream.last_read = core.driver.clock_ns();
    }
    if !stream.is_connecting() && !stream.source.state.contains(State::RECEIVE) {
        if let Err(error) = core.driver.receive_start(id, &mut stream.source) {
            stream.status.remove(Status::READING);
            return Err(error);
        }
    }
    let has_timeouts = stream.has_timeouts();
    core.handles.set_active(id, true);
    if has_timeouts {
        events::arm_timeouts(core, id);
    }
    Ok(())
}
