//! Any handle
//!
//! What all handles have in common, whatever their kind.

use std::ffi::{c_char, c_int, c_void};

use super::boundary::{id, pointer, with_loop};
use super::types::{kolo_handle, kolo_loop};
use crate::error::Code;

/// What a handle is.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_kind {
    /// A kolo_timer.
    KOLO_KIND_TIMER = 1,
    /// A kolo_hook.
    KOLO_KIND_HOOK = 2,
    /// A kolo_waker.
    KOLO_KIND_WAKER = 3,
    /// A kolo_signal.
    KOLO_KIND_SIGNAL = 4,
    /// A kolo_poll.
    KOLO_KIND_POLL = 5,
    /// A kolo_listener.
    KOLO_KIND_LISTENER = 6,
    /// A kolo_tcp.
    KOLO_KIND_TCP = 7,
    /// A kolo_udp.
    KOLO_KIND_UDP = 8,
    /// A kolo_local.
    KOLO_KIND_LOCAL = 9,
    /// A kolo_listener of the Unix domain.
    KOLO_KIND_LOCAL_LISTENER = 10,
    /// A kolo_pipe.
    KOLO_KIND_PIPE = 11,
    /// A kolo_process.
    KOLO_KIND_PROCESS = 12,
    /// A kolo_request.
    KOLO_KIND_REQUEST = 13,
    /// A kolo_file.
    KOLO_KIND_FILE = 14,
    /// A kolo_watch.
    KOLO_KIND_WATCH = 15,
    /// A kolo_tty.
    KOLO_KIND_TTY = 16,
    /// A kolo_directory.
    KOLO_KIND_DIRECTORY = 17,
}

/// The handle has closed: nothing more will be heard of it, and what `user` points to may be freed.
pub type kolo_close_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, handle: kolo_handle, user: *mut c_void)>;

/// Closes a handle of any kind. It is dead at once: its number is refused from now on, its callback
/// does not come any more, and a descriptor of kolo's is closed. Writes that are still queued are
/// dropped, and complete with KOLO_ECANCELED in the closing phase of this turn (to have them sent
/// first, use kolo_stream_shutdown). Last, in the same phase, its on_close comes, exactly once.
///
/// May be called anywhere on the loop's thread, also in the handle's own callback.
///
/// Errors: KOLO_EBADF for a handle that is closed already.
#[no_mangle]
pub unsafe extern "C" fn kolo_close(r#loop: *mut kolo_loop, handle: kolo_handle) -> c_int {
    with_loop(r#loop, |lp| lp.inner.close(id(handle)?))
}

/// Sets the function that is called when the handle has closed, in place of the one that was set
/// before; NULL for none. For streams, listeners and UDP sockets it comes after the on_close of their
/// handler table.
#[no_mangle]
pub unsafe extern "C" fn kolo_on_close(
    r#loop: *mut kolo_loop,
    handle: kolo_handle,
    cb: kolo_close_cb,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| match cb {
        None => lp.inner.on_close(id(handle)?, |_, _| {}),
        Some(cb) => lp.inner.on_close(id(handle)?, move |lp, id| {
            // SAFETY: the user's function, with what it asked for.
            unsafe { cb(pointer(lp), id.to_raw(), user) }
        }),
    })
}

/// The handle keeps the loop alive while it is active: as every handle does at first. A switch,
/// not a count.
#[no_mangle]
pub unsafe extern "C" fn kolo_ref(r#loop: *mut kolo_loop, handle: kolo_handle) -> c_int {
    with_loop(r#loop, |lp| lp.inner.reference(id(handle)?))
}

/// The handle works on, but no longer keeps the loop alive: for a signal or a timer of
/// housekeeping that should not keep the program from ending.
#[no_mangle]
pub unsafe extern "C" fn kolo_unref(r#loop: *mut kolo_loop, handle: kolo_handle) -> c_int {
    with_loop(r#loop, |lp| lp.inner.unref(id(handle)?))
}

/// Returns 1 if the handle keeps the loop alive while it is active, else 0.
#[no_mangle]
pub unsafe extern "C" fn kolo_has_ref(r#loop: *mut kolo_loop, handle: kolo_handle) -> c_int {
    with_loop(r#loop, |lp| lp.inner.is_referenced(id(handle)?))
}

/// Returns 1 if something can still happen on the handle by itself, else 0: a timer, a hook, a
/// signal or a poll is started, a waker is open, a listener is not paused, a stream connects,
/// reads or has writes queued, a UDP socket receives or has datagrams queued.
#[no_mangle]
pub unsafe extern "C" fn kolo_is_active(r#loop: *mut kolo_loop, handle: kolo_handle) -> c_int {
    with_loop(r#loop, |lp| lp.inner.is_active(id(handle)?))
}

/// Returns what the handle is: a kolo_kind.
#[no_mangle]
pub unsafe extern "C" fn kolo_kind_of(r#loop: *mut kolo_loop, handle: kolo_handle) -> c_int {
    with_loop(r#loop, |lp| Ok(lp.inner.kind(id(handle)?)? as c_int))
}

/// Writes one line about the handle, for a person to read in a log or a debugger: its kind, its
/// state, its descriptor. The words may change from version to version. The text is cut to fit
/// into `capacity` bytes, and ends with a NUL if `capacity` is not 0.
///
/// Returns the length of the whole line without its NUL: if that is `capacity` or more, it was cut.
///
/// Errors: KOLO_EINVAL if `text` is NULL and `capacity` is not 0.
#[no_mangle]
pub unsafe extern "C" fn kolo_describe(
    r#loop: *mut kolo_loop,
    handle: kolo_handle,
    text: *mut c_char,
    capacity: usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        if text.is_null() && capacity > 0 {
            return Err(Code::EINVAL.into());
        }
        let line = lp.inner.describe(id(handle)?)?;
        if capacity > 0 {
            let length = line.len().min(capacity - 1);
            // SAFETY: the caller's `capacity` bytes, of which `length` and one more are written.
            unsafe {
                text.cast::<u8>()
                    .copy_from_nonoverlapping(line.as_ptr(), length);
                text.add(length).write(0);
            }
        }
        Ok(c_int::try_from(line.len()).unwrap_or(c_int::MAX))
    })
}
