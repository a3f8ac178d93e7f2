//! Timers
//!
//! A timer calls a function once, or again and again, when its time has come. It never fires early.
//! Timers that are due fire in the order of their deadlines, and those with the same deadline in
//! the order in which they were started. Starting, stopping and starting anew take constant time,
//! however many timers there are.
//!
//! A delay counts from the call, or at least from a reading of the clock that is no older than the
//! callback in which the call is made. A timer that is started with no delay
//! fires the next time that timers are looked at, never in the phase that is running.

use std::ffi::{c_int, c_void};

use super::boundary::{id, needed, pointer, with_loop, Out};
use super::types::{kolo_loop, kolo_timer};
use crate::error::Result;
use crate::timer::{nanoseconds, Timer};

/// A timer's time has come. It may be stopped, started anew or closed here.
pub type kolo_timer_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, timer: kolo_timer, user: *mut c_void)>;

fn timer(handle: kolo_timer) -> Result<Timer> {
    Ok(Timer::from_id(id(handle)?))
}

/// Makes a timer, which does not run yet. It stays open until kolo_close, however often it fires.
///
/// Errors: KOLO_EINVAL if `cb` or `out` is NULL; KOLO_ENOBUFS if the loop holds as many handles as
/// it can (16 million); KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_timer_open(
    r#loop: *mut kolo_loop,
    cb: kolo_timer_cb,
    user: *mut c_void,
    out: *mut kolo_timer,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let (cb, out) = (needed(cb)?, unsafe { Out::new(out)? });
        let timer = Timer::open(&lp.inner, move |lp, timer| {
            // SAFETY: the user's function, with what it asked for.
            unsafe { cb(pointer(lp), timer.id().to_raw(), user) }
        })?;
        out.set(timer.id().to_raw());
        Ok(())
    })
}

/// Has the timer fire after `delay_ns` nanoseconds and, unless `period_ns` is 0, every `period_ns`
/// nanoseconds after that. A timer that runs is started anew.
///
/// A repeating timer keeps its phase: its deadlines are the first one plus multiples of the period.
/// Periods that pass while the loop is busy are not made up for: the callback comes once, and
/// kolo_timer_overrun tells how many were skipped.
#[no_mangle]
pub unsafe extern "C" fn kolo_timer_start(
    r#loop: *mut kolo_loop,
    timer: kolo_timer,
    delay_ns: u64,
    period_ns: u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::timer(timer)?.start_ns(&lp.inner, delay_ns, period_ns)
    })
}

/// Stops the timer. One that does not run stays as it is, and that is no error.
#[no_mangle]
pub unsafe extern "C" fn kolo_timer_stop(r#loop: *mut kolo_loop, timer: kolo_timer) -> c_int {
    with_loop(r#loop, |lp| self::timer(timer)?.stop(&lp.inner))
}

/// Starts a repeating timer anew, with its period as the delay, whether it runs or not: for an idle
/// timeout that is put off again and again.
///
/// Errors: KOLO_EINVAL if the timer was not started with a period last.
#[no_mangle]
pub unsafe extern "C" fn kolo_timer_again(r#loop: *mut kolo_loop, timer: kolo_timer) -> c_int {
    with_loop(r#loop, |lp| self::timer(timer)?.again(&lp.inner))
}

/// The nanoseconds until the timer fires, by the loop's clock (kolo_loop_now); 0 if it is due.
///
/// Errors: KOLO_EINVAL if `out_ns` is NULL; KOLO_ENOENT if the timer does not run.
#[no_mangle]
pub unsafe extern "C" fn kolo_timer_remaining(
    r#loop: *mut kolo_loop,
    timer: kolo_timer,
    out_ns: *mut u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_ns)? };
        out.set(nanoseconds(self::timer(timer)?.remaining(&lp.inner)?));
        Ok(())
    })
}

/// How many periods of a repeating timer were skipped right before its last callback, because the
/// loop was busy.
///
/// Errors: KOLO_EINVAL if `out_count` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_timer_overrun(
    r#loop: *mut kolo_loop,
    timer: kolo_timer,
    out_count: *mut u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_count)? };
        out.set(self::timer(timer)?.overrun(&lp.inner)?);
        Ok(())
    })
}
