//! Foreign descriptors
//!
//! A poll handle watches a descriptor that somebody else reads and writes, such as another library's
//! (libcurl, libpq, c-ares). It is level-triggered: the callback comes in every turn for as long as
//! the descriptor is ready. On Windows only sockets can be watched.

use std::ffi::{c_int, c_void};

use super::boundary::{id, needed, number, pointer, with_loop, Out};
use super::types::{kolo_loop, kolo_poll, kolo_socket};
use crate::driver::Interest;
use crate::error::{Code, Result};
use crate::poll::Poll;
use crate::sys::Descriptor;

/// What a descriptor is watched for, and found to be; to be combined with |.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_poll_event {
    /// Reading would not block: there is something, or the end, or an error.
    KOLO_POLL_READABLE = 1,
    /// Writing would not block: there is room, or an error.
    KOLO_POLL_WRITABLE = 2,
    /// The peer closed its writing side, or the connection broke. A hint: not every system and not
    /// every kind of descriptor tells.
    KOLO_POLL_DISCONNECT = 4,
    /// Urgent data can be read (TCP's out-of-band byte).
    KOLO_POLL_PRIORITY = 8,
}

/// The descriptor is ready for `events` (of kolo_poll_event), and `status` is 0; or watching failed
/// with the error `status`, and `events` is 0. It may come without reason now and then, so what is
/// called on the descriptor must not block.
pub type kolo_poll_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        poll: kolo_poll,
        status: c_int,
        events: u32,
        user: *mut c_void,
    ),
>;

fn poll(handle: kolo_poll) -> Result<Poll> {
    Ok(Poll::from_id(id(handle)?))
}

/// A descriptor as Rust has it.
pub(super) fn descriptor(socket: kolo_socket) -> Result<Descriptor> {
    #[cfg(unix)]
    return Descriptor::try_from(socket).map_err(|_| Code::EBADF.into());
    // A SOCKET is a pointer's width of bits, and INVALID_SOCKET is all of them.
    #[cfg(not(unix))]
    return match socket {
        -1 => Err(Code::EBADF.into()),
        socket => Ok(socket as usize as Descriptor),
    };
}

/// A descriptor as C has it.
#[cfg_attr(not(feature = "net"), allow(dead_code))]
pub(super) fn socket(descriptor: Descriptor) -> kolo_socket {
    descriptor as kolo_socket
}

/// Makes a handle for a descriptor, which is not watched yet. The descriptor stays the caller's:
/// kolo never reads, writes or closes it. Stop or close the handle before the descriptor is closed.
///
/// Any number of handles may name one descriptor, of which one in each loop can be started. A descriptor
/// that another handle of kolo's has (see kolo_socket) cannot be watched beside it, but a duplicate of
/// it can. Nor should what is being watched be adopted before the poll is closed: the drivers "poller"
/// and "polling" refuse the second registration, with KOLO_EEXIST.
///
/// Errors: KOLO_EINVAL if `cb` or `out` is NULL; KOLO_EBADF for a descriptor that is not open;
/// KOLO_EEXIST for one that another handle of kolo's has, of whatever loop; KOLO_ENOBUFS if the loop
/// holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_poll_open(
    r#loop: *mut kolo_loop,
    descriptor: kolo_socket,
    cb: kolo_poll_cb,
    user: *mut c_void,
    out: *mut kolo_poll,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let (cb, out) = (needed(cb)?, unsafe { Out::new(out)? });
        let descriptor = self::descriptor(descriptor)?;
        let poll = Poll::open(&lp.inner, descriptor, move |lp, poll, outcome| {
            let (status, events) = match outcome {
                Ok(events) => (0, u32::from(events.bits())),
                Err(error) => (number(error), 0),
            };
            // SAFETY: the user's function, with what it asked for.
            unsafe { cb(pointer(lp), poll.id().to_raw(), status, events, user) }
        })?;
        out.set(poll.id().to_raw());
        Ok(())
    })
}

/// Watches for `events` (of kolo_poll_event), in place of those that were watched for before.
///
/// Errors: KOLO_EINVAL for no events and for unknown ones; KOLO_EEXIST if another started handle of
/// this loop watches the same descriptor; KOLO_EPERM for a kind of descriptor that cannot be
/// watched, such as a regular file's; KOLO_EBADF also for a descriptor that is closed.
#[no_mangle]
pub unsafe extern "C" fn kolo_poll_start(
    r#loop: *mut kolo_loop,
    poll: kolo_poll,
    events: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        let poll = self::poll(poll)?;
        let known = u8::try_from(events).ok().and_then(Interest::from_bits);
        poll.start(&lp.inner, known.ok_or(Code::EINVAL)?)
    })
}

/// Watches no more: what this turn found already is not told either. Stopped already: that is no
/// error.
#[no_mangle]
pub unsafe extern "C" fn kolo_poll_stop(r#loop: *mut kolo_loop, poll: kolo_poll) -> c_int {
    with_loop(r#loop, |lp| self::poll(poll)?.stop(&lp.inner))
}
