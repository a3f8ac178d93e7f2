//! Signals
//!
//! A signal handle calls a function on the loop when the process gets a signal, outside of the
//! system's signal handler, so that it may do anything. Any number of handles, in any number of
//! loops and threads, may watch the same signal: each hears of it. When the last one stops, what
//! the signal did before is put back. Not to be had on Windows (KOLO_ENOTSUP).

use std::ffi::{c_int, c_void};

use super::boundary::{id, needed, pointer, with_loop, Out};
use super::types::{kolo_loop, kolo_signal};
use crate::error::Result;
use crate::signal::Signal;

/// The process got signal `number`. Several that come close together may be one callback.
pub type kolo_signal_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        signal: kolo_signal,
        number: c_int,
        user: *mut c_void,
    ),
>;

fn signal(handle: kolo_signal) -> Result<Signal> {
    Ok(Signal::from_id(id(handle)?))
}

/// Makes a signal handle, which watches nothing yet.
///
/// Errors: KOLO_EINVAL if `cb` or `out` is NULL; KOLO_ENOBUFS if the loop holds as many handles as
/// it can; KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_signal_open(
    r#loop: *mut kolo_loop,
    cb: kolo_signal_cb,
    user: *mut c_void,
    out: *mut kolo_signal,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let (cb, out) = (needed(cb)?, unsafe { Out::new(out)? });
        let signal = Signal::open(&lp.inner, move |lp, signal, number| {
            // SAFETY: the user's function, with what it asked for.
            unsafe { cb(pointer(lp), signal.id().to_raw(), number, user) }
        })?;
        out.set(signal.id().to_raw());
        Ok(())
    })
}

/// Watches for a signal (SIGINT, SIGTERM, SIGHUP...), in place of the one that was watched before.
///
/// Errors: KOLO_EINVAL for a number that is no signal, that cannot be caught (SIGKILL, SIGSTOP), or
/// that says that an instruction of the thread failed (SIGSEGV, SIGBUS, SIGFPE, SIGILL);
/// KOLO_ENOBUFS if more than 256 loops watch signals; KOLO_EMFILE if descriptors are short;
/// KOLO_ENOTSUP on a system without signals.
#[no_mangle]
pub unsafe extern "C" fn kolo_signal_start(
    r#loop: *mut kolo_loop,
    signal: kolo_signal,
    number: c_int,
) -> c_int {
    with_loop(r#loop, |lp| self::signal(signal)?.start(&lp.inner, number))
}

/// Watches no more. A signal that came and was not told yet is not told any more. Stopped already:
/// that is no error.
#[no_mangle]
pub unsafe extern "C" fn kolo_signal_stop(r#loop: *mut kolo_loop, signal: kolo_signal) -> c_int {
    with_loop(r#loop, |lp| self::signal(signal)?.stop(&lp.inner))
}
