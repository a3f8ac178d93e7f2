//! Streams
//!
//! A stream carries bytes in both directions, whatever is below: a TCP connection, a Unix-domain
//! socket; or in one, such as a pipe's end. What it does is given once, by a table of callbacks.
//!
//! Writing never blocks and never takes a part: what the system does not take at once is queued, and
//! small writes that one callback makes are sent together when it returns. The queue has a high
//! watermark, at which writes return 1 (pause), a low one, at which on_drain comes (go on), and a
//! hard bound. A connection that breaks is told once, by on_error.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::rc::Rc;
use std::time::Duration;

use super::boundary::{
    c_bool, checked, guard, id, number, pointer, slice, status, with_loop, write_optional, Out,
};
use super::sized::{self, first_size, Versioned};
use super::tables::Table;
use super::types::{kolo_loop, kolo_stream};
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
use crate::stream::{Payload, Payloads, Stream, StreamHandler, Timeout, WriteCallback, WriteId};

/// A piece of memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_buffer {
    /// Where it begins. May be NULL if `len` is 0.
    pub base: *mut c_void,
    /// How many bytes it has.
    pub len: usize,
}

/// Which of a stream's timeouts ran out.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_timeout {
    /// Nothing was received for so long, while reading.
    KOLO_TIMEOUT_READ = 1,
    /// The peer took nothing for so long, while writes were queued.
    KOLO_TIMEOUT_WRITE = 2,
}

/// What a stream does: a table of callbacks, copied during the call that takes it, so that one table
/// may serve any number of streams. Begin with KOLO_STREAM_HANDLER_INIT; any callback may be NULL.
/// Each may call anything, and also close its own stream.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_stream_handler {
    /// sizeof(kolo_stream_handler), set by KOLO_STREAM_HANDLER_INIT.
    pub size: usize,
    /// The connection is made. Not for streams that were accepted or adopted, which are open.
    pub on_open: Option<
        unsafe extern "C" fn(r#loop: *mut kolo_loop, stream: kolo_stream, user: *mut c_void),
    >,
    /// Bytes came. They are kolo's, and only there during the callback; or they are in the memory
    /// that on_buffer gave. A stream whose table has on_data reads from the start; without, what
    /// comes waits in the system's buffer.
    pub on_data: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            stream: kolo_stream,
            data: *const u8,
            length: usize,
            user: *mut c_void,
        ),
    >,
    /// The peer ended its side (half-close): nothing more will be received. Writing goes on, until
    /// the program closes the stream. NULL: what is queued is still sent, then the stream closes.
    pub on_end: Option<
        unsafe extern "C" fn(r#loop: *mut kolo_loop, stream: kolo_stream, user: *mut c_void),
    >,
    /// The write queue, having stood at the high watermark or above, has fallen to the low one.
    pub on_drain: Option<
        unsafe extern "C" fn(r#loop: *mut kolo_loop, stream: kolo_stream, user: *mut c_void),
    >,
    /// A timeout of kolo_stream_set_timeouts ran out: `which` is a kolo_timeout. It counts anew from
    /// here. NULL: the stream fails with KOLO_ETIMEDOUT.
    pub on_timeout: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            stream: kolo_stream,
            which: c_int,
            user: *mut c_void,
        ),
    >,
    /// The connection could not be made (KOLO_ECONNREFUSED, KOLO_ETIMEDOUT...) or broke
    /// (KOLO_ECONNRESET...). The stream closes when this returns.
    pub on_error: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            stream: kolo_stream,
            error: c_int,
            user: *mut c_void,
        ),
    >,
    /// The stream has closed: the last that is heard of it. What `user` points to may be freed.
    pub on_close: Option<
        unsafe extern "C" fn(r#loop: *mut kolo_loop, stream: kolo_stream, user: *mut c_void),
    >,
    /// Says where the next bytes go: into `out`, which is empty before. Called when there are bytes;
    /// the memory must stay until on_data, which follows at once if bytes came. `suggested` is a size
    /// that serves well. If it is left empty, reading stops as by kolo_stream_read_stop. A handler that
    /// is attached here gets those bytes, in memory of the loop's. NULL: all bytes come so.
    pub on_buffer: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            stream: kolo_stream,
            suggested: usize,
            out: *mut kolo_buffer,
            user: *mut c_void,
        ),
    >,
    /// Descriptors came from the peer, for a Unix-domain stream that takes them: see
    /// kolo_local_receive_descriptors. `waiting`: so many wait to be taken now, with those that came
    /// before. `lost`: some did not come, because this process could hold no more. The bytes they
    /// came with follow at once, also if this stops reading. A handler that is attached here gets those
    /// bytes in memory of the loop's, even if it has on_buffer.
    pub on_descriptors: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            stream: kolo_stream,
            waiting: usize,
            lost: c_bool,
            user: *mut c_void,
        ),
    >,
}

/// An owned write, or a shutdown, has ended: the memory is the program's again. `status` is 0 when
/// the system has taken everything; KOLO_ECANCELED when the write was cancelled or the stream was
/// closed first; or the error that broke the connection.
pub type kolo_write_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        stream: kolo_stream,
        status: c_int,
        user: *mut c_void,
    ),
>;

// SAFETY: a number and optional functions, the number being the size.
unsafe impl Versioned for kolo_stream_handler {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, on_buffer) + size_of::<usize>());
}

impl Table for kolo_stream_handler {
    type Key = [usize; 9];

    fn key(&self) -> [usize; 9] {
        [
            self.on_open.map_or(0, |call| call as usize),
            self.on_data.map_or(0, |call| call as usize),
            self.on_end.map_or(0, |call| call as usize),
            self.on_drain.map_or(0, |call| call as usize),
            self.on_timeout.map_or(0, |call| call as usize),
            self.on_error.map_or(0, |call| call as usize),
            self.on_close.map_or(0, |call| call as usize),
            self.on_buffer.map_or(0, |call| call as usize),
            self.on_descriptors.map_or(0, |call| call as usize),
        ]
    }
}

/// What a stream keeps of its handler: as little as can be, for there are many.
struct Adapter {
    table: Rc<kolo_stream_handler>,
    user: *mut c_void,
}

impl Adapter {
    /// The loop and the stream as callbacks get them. For as long as one runs, the handler is out of
    /// its stream, and the loop remembers the user pointer (`kolo_stream_user`).
    #[inline]
    fn tell(&self, lp: &Loop, stream: Stream) -> (*mut kolo_loop, kolo_stream) {
        let (at, stream) = (pointer(lp), stream.id().to_raw());
        // SAFETY: the loop is running this, so it lives.
        unsafe { &*at }.told.set((stream, self.user));
        (at, stream)
    }
}

impl StreamHandler for Adapter {
    fn on_open(&mut self, lp: &Loop, stream: Stream) {
        if let Some(call) = self.table.on_open {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, self.user) }
        }
    }

    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        if let Some(call) = self.table.on_data {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, data.as_ptr(), data.len(), self.user) }
        }
    }

    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        if let Some(call) = self.table.on_end {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, self.user) }
        } else {
            // Only a stream that was closed meanwhile says no, and that is what is wanted.
            let _ = stream.finish(lp);
        }
    }

    fn on_drain(&mut self, lp: &Loop, stream: Stream) {
        if let Some(call) = self.table.on_drain {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, self.user) }
        }
    }

    fn on_timeout(&mut self, lp: &Loop, stream: Stream, which: Timeout) {
        if let Some(call) = self.table.on_timeout {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, which as c_int, self.user) }
        } else {
            // Closed already is as good.
            let _ = stream.fail(lp, Code::ETIMEDOUT.into());
        }
    }

    fn on_error(&mut self, lp: &Loop, stream: Stream, error: Error) {
        if let Some(call) = self.table.on_error {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, number(error), self.user) }
        }
    }

    fn on_descriptors(&mut self, lp: &Loop, stream: Stream, waiting: usize, lost: bool) {
        if let Some(call) = self.table.on_descriptors {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, waiting, c_bool::from(lost), self.user) }
        }
    }

    fn on_close(&mut self, lp: &Loop, stream: Stream) {
        if let Some(call) = self.table.on_close {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, self.user) }
        }
    }

    fn reads(&self) -> bool {
        self.table.on_data.is_some()
    }

    fn has_memory(&self) -> bool {
        self.table.on_buffer.is_some()
    }

    fn memory(&mut self, lp: &Loop, stream: Stream, suggested: usize) -> Option<&mut [u8]> {
        let call = self.table.on_buffer?;
        let (lp, stream) = self.tell(lp, stream);
        let mut out = kolo_buffer {
            base: std::ptr::null_mut(),
            len: 0,
        };
        // SAFETY: the user's function, with what it asked for.
        unsafe { call(lp, stream, suggested, &mut out, self.user) };
        let base = out.base.cast::<u8>();
        if base.is_null() || out.len == 0 {
            return None;
        }
        // SAFETY: the loop is running this, so it lives.
        unsafe { &*lp }.given.set(base);
        let length = out.len.min(isize::MAX as usize);
        // SAFETY: the user lends this memory until `on_received`, and touches it no sooner. What
        // stands in it is nobody's concern: it is only written to.
        Some(unsafe { std::slice::from_raw_parts_mut(base, length) })
    }

    fn on_received(&mut self, lp: &Loop, stream: Stream, length: usize) {
        if let Some(call) = self.table.on_data {
            let (lp, stream) = self.tell(lp, stream);
            // SAFETY: the loop is running this, so it lives.
            let base = unsafe { &*lp }.given.get();
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, stream, base, length, self.user) }
        }
    }

    fn embedder(&self) -> *mut () {
        self.user.cast()
    }
}

/// # Safety
///
/// `handler` is NULL, or as many bytes as its `size` says can be read there.
pub(super) unsafe fn adapter(
    lp: &kolo_loop,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
) -> Result<Box<dyn StreamHandler>> {
    // SAFETY: promised by the caller.
    let table = lp.streams.share(unsafe { sized::read(handler)? });
    Ok(Box::new(Adapter { table, user }))
}

fn stream(handle: kolo_stream) -> Result<Stream> {
    Ok(Stream::from_id(id(handle)?))
}

pub(super) fn completion(done: kolo_write_cb, user: *mut c_void) -> Option<WriteCallback> {
    let done = done?;
    Some(Box::new(move |lp, stream, outcome| {
        // SAFETY: the user's function, with what it asked for.
        unsafe { done(pointer(lp), stream.id().to_raw(), status(outcome), user) }
    }))
}

/// Gives a stream its handler: an accepted stream in on_accept, or any stream another one in place
/// of the first, of which nothing more is heard. `user` is the last argument of its callbacks.
///
/// Errors: KOLO_EINVAL if `handler` is NULL or its size is wrong; the system's if reading cannot
/// begin. In on_accept these come to on_error instead.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_attach(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let handler = unsafe { adapter(lp, handler, user)? };
        self::stream(stream)?.attach_boxed(&lp.inner, handler)
    })
}

/// The user pointer that was given with the stream's handler; NULL for a stream that has none.
///
/// Errors: KOLO_EINVAL if `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_user(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    out: *mut *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let in_place = self::stream(stream)?.embedder(&lp.inner)?;
        out.set(lp.user_of(stream, in_place));
        Ok(())
    })
}

/// Reads again, after kolo_stream_read_stop. (A stream whose handler has on_data reads from the
/// start.) Reading already: that is no error. Before the connection is made: reads from then on.
///
/// Errors: KOLO_ENOTCONN if the peer has ended its side or the connection broke.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_read_start(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
) -> c_int {
    with_loop(r#loop, |lp| self::stream(stream)?.read_start(&lp.inner))
}

/// Reads no more: no on_data and no on_end comes after this returns, until kolo_stream_read_start.
/// Nothing is lost: what the peer sends waits in the system's buffers, and when they are full the
/// peer waits. The read timeout rests. Stopped already: that is no error.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_read_stop(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
) -> c_int {
    with_loop(r#loop, |lp| self::stream(stream)?.read_stop(&lp.inner))
}

/// Writes bytes: all or none. What the system does not take at once is copied, so the memory may be
/// used again when this returns. Before the connection is made, writes are queued.
///
/// Returns 0 when the queue is below the high watermark, and 1 when it is at it or above: the bytes
/// are taken, but better wait for on_drain before writing more.
///
/// Errors: KOLO_EINVAL if `data` is NULL and `length` is not 0; KOLO_ENOBUFS if the queue would pass
/// its bound; KOLO_ENOMEM if there is no memory for the copy (a stream that had nothing queued breaks
/// instead, with that error: the system may have a part already); KOLO_EPIPE after
/// kolo_stream_shutdown; KOLO_ENOTCONN if the connection broke (on_error tells why). Then nothing is
/// taken.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_write(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    data: *const c_void,
    length: usize,
) -> c_int {
    // Whether this is a forked child, the write asks itself.
    guard(|| {
        let lp = checked(r#loop)?;
        // SAFETY: the caller's memory, as the header asks for it.
        let data = unsafe { slice(data.cast::<u8>(), length)? };
        self::stream(stream)?.write(&lp.inner, data)
    })
}

/// Writes several pieces of memory, one after the other, without copying them. The memory must stay
/// as it is until `done`; without `done`, until the stream has closed. The array of buffers may go
/// when this returns. Writes of a stream, copied or owned, are sent in their order.
///
/// `done` may be NULL; else it is called exactly once if this succeeds, never before it returns.
/// `out_write` may be NULL; else it gets a name for the write, which kolo_stream_write_cancel takes.
///
/// Returns 0 or 1 as kolo_stream_write does.
///
/// Errors: KOLO_EINVAL if `buffers` is NULL and `count` is not 0, and for a buffer with a length and
/// no base; the others as for kolo_stream_write. Then nothing is taken, and `done` is not called.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_write_owned(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    buffers: *const kolo_buffer,
    count: usize,
    done: kolo_write_cb,
    user: *mut c_void,
    out_write: *mut u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let payloads = payloads(unsafe { slice(buffers, count)? })?;
        let stream = self::stream(stream)?;
        let (flow, write) = stream.write_payloads(&lp.inner, payloads, completion(done, user))?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out_write, write.0) };
        Ok(flow)
    })
}

pub(super) fn payloads(buffers: &[kolo_buffer]) -> Result<Payloads> {
    let mut total = 0_usize;
    for buffer in buffers {
        total = total.checked_add(buffer.len).ok_or(Code::EINVAL)?;
        if total > isize::MAX as usize || (buffer.base.is_null() && buffer.len > 0) {
            return Err(Code::EINVAL.into());
        }
    }
    // SAFETY: the caller lends the memory until the write's completion, as the header asks.
    let payload =
        |buffer: &kolo_buffer| unsafe { Payload::from_raw(buffer.base.cast::<u8>(), buffer.len) };
    Ok(match buffers {
        [one] => Payloads::One(payload(one)),
        many => Payloads::Many(many.iter().map(payload).collect()),
    })
}

/// Takes an owned write back: nothing of it is sent, and its `done` comes with KOLO_ECANCELED.
///
/// Errors: KOLO_EBUSY if a part of it is sent already; KOLO_ENOENT if it has ended or never was.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_write_cancel(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    write: u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::stream(stream)?.cancel_write(&lp.inner, WriteId(write))
    })
}

/// Ends our side of the stream once everything queued is sent (half-close). Reading goes on. `done`
/// may be NULL; else it is called when our side has ended: with 0, or with the error of a connection
/// that broke before, of which on_error tells too.
///
/// Errors: KOLO_EALREADY the second time; KOLO_ENOTCONN if the connection broke.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_shutdown(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    done: kolo_write_cb,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::stream(stream)?.shutdown_with(&lp.inner, completion(done, user))
    })
}

/// Closes the stream when everything queued is sent: the orderly end of a conversation. No more writes
/// are taken; a write timeout bounds how long it may take.
///
/// A TCP connection that closes while the peer still sends is reset, and what the peer has not read by
/// then may be lost to it. With `linger_ns` only our side ends when everything is sent (half-close).
/// What still comes is thrown away, until the peer ends its side or that time is over, which counts
/// from the end of ours. Then the stream closes. 0: it closes at once.
///
/// From the call on, with `linger_ns`, neither on_data nor on_end comes, nor a read timeout; and a
/// connection that breaks after everything was sent is no error. on_close comes as ever. What the last
/// call says counts.
///
/// Errors: the system's if reading cannot begin.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_finish(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    linger_ns: u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        let linger = Duration::from_nanos(linger_ns);
        self::stream(stream)?.finish_lingering(&lp.inner, linger)
    })
}

/// Sets the timeouts, in nanoseconds; 0 for none, as at first. `read_idle_ns`: how long nothing may
/// be received while the stream reads. `write_stall_ns`: how long the peer may take nothing while
/// writes are queued. Both count anew from this call. When one runs out, on_timeout comes. They cost
/// nothing per byte. While callbacks keep the loop busy, what the peer does counts all the same: when
/// the descriptor is ready as a timeout runs out, that counts anew, too.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_set_timeouts(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    read_idle_ns: u64,
    write_stall_ns: u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::stream(stream)?.set_timeouts_ns(&lp.inner, read_idle_ns, write_stall_ns)
    })
}

/// Sets, in bytes, where the write queue counts as drained (`low`) and as full (`high`), and what it
/// holds at most (`limit`; SIZE_MAX for no bound). At first: 16 KiB, 64 KiB, 16 MiB.
///
/// Errors: KOLO_EINVAL unless low <= high <= limit and high > 0.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_set_watermarks(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    low: usize,
    high: usize,
    limit: usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::stream(stream)?.set_watermarks(&lp.inner, low, high, limit)
    })
}

/// How many bytes were written and not yet taken by the system.
///
/// Errors: KOLO_EINVAL if `out_bytes` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_queued(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    out_bytes: *mut usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_bytes)? };
        out.set(self::stream(stream)?.queued(&lp.inner)?);
        Ok(())
    })
}

/// Closes the stream as kolo_close does, and has the peer know that it was cut off: with TCP, by a
/// reset (RST). What is carried otherwise has no such thing, and only closes.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_reset(r#loop: *mut kolo_loop, stream: kolo_stream) -> c_int {
    with_loop(r#loop, |lp| self::stream(stream)?.reset(&lp.inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_two_pointers() {
        assert_eq!(size_of::<Adapter>(), 2 * size_of::<usize>());
    }

    #[test]
    fn buffers_that_cannot_be() {
        let hollow = kolo_buffer {
            base: std::ptr::null_mut(),
            len: 1,
        };
        let empty = kolo_buffer { len: 0, ..hollow };
        let huge = kolo_buffer {
            base: std::ptr::NonNull::dangling().as_ptr(),
            len: isize::MAX as usize,
        };
        assert!(payloads(&[hollow]).is_err());
        assert!(payloads(&[empty, hollow]).is_err());
        assert!(payloads(&[huge, huge]).is_err());
        assert!(payloads(&[huge, huge, huge]).is_err());
        assert_eq!(payloads(&[empty, empty]).unwrap().length(), 0);
        assert_eq!(payloads(&[]).unwrap().length(), 0);
    }
}
