//! Terminals
//!
//! A terminal is a stream: what reads, writes and closes it is above. Here is what opens one, its
//! modes, and the size of its window. On Windows every function answers KOLO_ENOTSUP.
//!
//! A mode is the terminal's, not the handle's. The one that it was found in is put back when every
//! handle that has set another one is closed, or the loop freed; when the process ends, by exit or
//! by a signal whose disposition is the default one; and while it is stopped by SIGTSTP. It is not
//! put back by SIGKILL or SIGSTOP (after which it is set again when the process goes on), by _exit
//! and exec, nor by real-time signals; a program with a handler of its own for a signal that ends
//! it calls kolo_tty_reset_mode there. A forked child leaves the terminal alone unless it sets a
//! mode itself. From the background nothing is put back: the terminal is somebody else's then.

use std::ffi::{c_int, c_void};

use super::boundary::{with_loop, Out};
use super::stream::kolo_stream_handler;
use super::types::{kolo_loop, kolo_socket, kolo_tty};
use crate::error::Code;

/// What a terminal does with keys and text.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_tty_mode {
    /// As the terminal was found: as a rule it hands out whole lines, which the user can edit, and
    /// shows what is typed.
    KOLO_TTY_NORMAL = 0,
    /// Every byte as it is, both ways (cfmakeraw): keys come at once and are not shown, Ctrl-C is
    /// the byte 3 and no signal, and a new line is written as "\r\n".
    KOLO_TTY_RAW = 1,
    /// Keys come at once and are not shown, but those that make signals make them, and text is
    /// written as ever.
    KOLO_TTY_CBREAK = 2,
    /// Keys as KOLO_TTY_RAW has them, and text written as ever: "\n" is a new line.
    KOLO_TTY_RAW_INPUT = 3,
}

/// The size of a terminal's window. What the terminal does not know is 0. This struct never changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_window_size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
    /// Pixels from left to right.
    pub width_px: u16,
    /// Pixels from top to bottom.
    pub height_px: u16,
}

/// The window has become as large as `size` says.
pub type kolo_tty_resize_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        tty: kolo_tty,
        size: *const kolo_window_size,
        user: *mut c_void,
    ),
>;

/// Opens a terminal as a stream, for what the descriptor is open for: reading, writing or both. It
/// is open at once (on_open does not come), and its mode stays as it is. In the normal mode the end
/// of input (Ctrl-D on an empty line) is on_end.
///
/// The descriptor stays the caller's. kolo opens the terminal anew and works with an open file
/// description of its own: that of a standard stream is shared with the shell and with every
/// program that it has started, and one that no longer waits (O_NONBLOCK) would surprise them.
/// Where it cannot be opened anew (no permission, as after su; a terminal out of sight; the
/// emulator's side of a pseudo-terminal), the description is shared after all, does not wait while
/// the handle is open, and is put back when that closes.
///
/// Errors: KOLO_EINVAL if `handler` or `out` is NULL, and for a handler of a wrong size; KOLO_ENOTTY
/// for what is no terminal; KOLO_EBADF for a descriptor that is not open; KOLO_EMFILE and
/// KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many handles as it can;
/// KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_tty_open(
    r#loop: *mut kolo_loop,
    descriptor: kolo_socket,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_tty,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        #[cfg(unix)]
        {
            // SAFETY: the caller's pointers, as the header asks for them.
            let handler = unsafe { super::stream::adapter(lp, handler, user)? };
            let at = super::poll::descriptor(descriptor)?;
            let tty = crate::tty::Tty::open_boxed(&lp.inner, at, handler)?;
            out.set(tty.id().to_raw());
            Ok(())
        }
        #[cfg(not(unix))]
        {
            let _ = (lp, descriptor, handler, user, out);
            Err::<(), _>(Code::ENOTSUP.into())
        }
    })
}

/// Sets the terminal's mode (of kolo_tty_mode), at once: keys that wait to be read stay.
/// KOLO_TTY_NORMAL puts back the mode that the terminal was found in, whichever handle has set
/// another one. A program in the background that does this is stopped (SIGTTOU), as every program
/// that changes the terminal.
///
/// Errors: KOLO_EINVAL for a mode that there is not; KOLO_EIO for a terminal that was hung up, and
/// in the background where nobody could continue the program; KOLO_ENOBUFS if 64 terminals of the
/// process are in another mode already; KOLO_EMFILE if descriptors are short; KOLO_ENOTSUP on
/// Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_tty_set_mode(
    r#loop: *mut kolo_loop,
    tty: kolo_tty,
    mode: c_int,
) -> c_int {
    with_loop(r#loop, |lp| {
        #[cfg(unix)]
        return unix::tty(tty)?.set_mode(&lp.inner, unix::mode(mode)?);
        #[cfg(not(unix))]
        {
            let _ = (lp, tty, mode);
            Err::<(), _>(Code::ENOTSUP.into())
        }
    })
}

/// Puts every terminal of the process back into the mode it was found in, at once, until a mode is
/// set again: for a handler of a signal that ends the process, and before exec. In a forked child it
/// does nothing: the terminal is its parent's.
///
/// Async-signal-safe: it may be called in a signal handler. Any thread. It leaves kolo_system_error
/// as it is.
///
/// Errors: those of the system for the first that cannot be put back, such as KOLO_EIO for one that
/// was hung up; KOLO_EBUSY in a handler for a fault inside kolo's own change of a mode. On Windows
/// there is nothing to put back.
#[no_mangle]
pub extern "C" fn kolo_tty_reset_mode() -> c_int {
    // Neither `guard` nor `number`: a variable of the thread's is nothing for a signal handler.
    #[cfg(unix)]
    return match crate::tty::Tty::reset_modes() {
        Ok(()) => 0,
        Err(error) => error.code().number(),
    };
    #[cfg(not(unix))]
    return 0;
}

/// The size of the terminal's window, as it is now.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_EIO for a terminal that was hung up; KOLO_ENOTSUP on
/// Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_tty_window_size(
    r#loop: *mut kolo_loop,
    tty: kolo_tty,
    out: *mut kolo_window_size,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        #[cfg(unix)]
        {
            out.set(unix::tty(tty)?.window_size(&lp.inner)?.into());
            Ok(())
        }
        #[cfg(not(unix))]
        {
            let _ = (lp, tty, out);
            Err::<(), _>(Code::ENOTSUP.into())
        }
    })
}

/// Calls `cb` when the size of the window has become another one, in place of the one it called
/// before; NULL: calls none. The system tells by SIGWINCH, so only the process' own terminal
/// (tty(4)) is heard of, and only in the foreground; what changed meanwhile is told when the
/// process goes on in it. Several changes may be one callback. This does not keep the loop alive.
///
/// Errors: KOLO_ENOBUFS if more than 256 loops watch signals; KOLO_EMFILE and KOLO_ENFILE if
/// descriptors are short; KOLO_EIO for a terminal that was hung up; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_tty_on_resize(
    r#loop: *mut kolo_loop,
    tty: kolo_tty,
    cb: kolo_tty_resize_cb,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        #[cfg(unix)]
        {
            let tty = unix::tty(tty)?;
            let Some(cb) = cb else {
                return tty.stop_resize(&lp.inner);
            };
            tty.on_resize(&lp.inner, move |lp, tty, size| {
                let size = size.into();
                // SAFETY: the user's function, with what it asked for.
                unsafe { cb(super::boundary::pointer(lp), tty.id().to_raw(), &size, user) }
            })
        }
        #[cfg(not(unix))]
        {
            let _ = (lp, tty, cb, user);
            Err::<(), _>(Code::ENOTSUP.into())
        }
    })
}

#[cfg(unix)]
mod unix {
    use super::*;
    use crate::capi::boundary::id;
    use crate::error::Result;
    use crate::tty::{Tty, TtyMode, WindowSize};

    pub(super) fn tty(handle: kolo_tty) -> Result<Tty> {
        Ok(Tty::from_id(id(handle)?))
    }

    pub(super) fn mode(number: c_int) -> Result<TtyMode> {
        const NORMAL: c_int = kolo_tty_mode::KOLO_TTY_NORMAL as c_int;
        const RAW: c_int = kolo_tty_mode::KOLO_TTY_RAW as c_int;
        const CBREAK: c_int = kolo_tty_mode::KOLO_TTY_CBREAK as c_int;
        const RAW_INPUT: c_int = kolo_tty_mode::KOLO_TTY_RAW_INPUT as c_int;
        match number {
            NORMAL => Ok(TtyMode::Normal),
            RAW => Ok(TtyMode::Raw),
            CBREAK => Ok(TtyMode::Cbreak),
            RAW_INPUT => Ok(TtyMode::RawInput),
            _ => Err(Code::EINVAL.into()),
        }
    }

    impl From<WindowSize> for kolo_window_size {
        fn from(size: WindowSize) -> kolo_window_size {
            kolo_window_size {
                columns: size.columns,
                rows: size.rows,
                width_px: size.width_px,
                height_px: size.height_px,
            }
        }
    }
}
