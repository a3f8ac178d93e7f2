//! The loop
//!
//! One turn of the loop, in this order:
//!
//! 1. the clock is updated, and timers that are due fire;
//! 2. deferred functions run;
//! 3. idle hooks, then prepare hooks run;
//! 4. the loop waits, unless something is at hand;
//! 5. what came is handed out, then posted functions and wakers run, then what these deferred;
//! 6. check hooks run;
//! 7. the closing callbacks of closed handles run.
//!
//! A loop is alive, and kolo_loop_run goes on, as long as there is an active handle with its
//! reference (see kolo_unref), a handle that is closing, or a deferred or posted function. One turn
//! is bounded, so that no busy connection keeps the others, or timers, from their turn.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::mem::offset_of;
use std::num::NonZeroU32;
use std::time::Duration;

use super::boundary::{c_bool, checked, guard, needed, pointer, with_loop, Callback, Out};
use super::registry;
use super::sized::{self, first_size, Versioned};
use super::types::{kolo_handle, kolo_loop, kolo_pool};
use super::work::pool;
use crate::error::{Code, Result};
use crate::event_loop::{Loop, RunMode, Task};
use crate::handles::Id;
use crate::options::{LoopOptions, SlowCallback, StuckCallback};
use crate::timer::nanoseconds;

/// How long kolo_loop_run runs.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_run_mode {
    /// Until nothing keeps the loop alive, or kolo_loop_stop.
    KOLO_RUN_DEFAULT = 0,
    /// One turn, which waits until something happens.
    KOLO_RUN_ONCE = 1,
    /// One turn, which does not wait.
    KOLO_RUN_NOWAIT = 2,
}

/// The watchdog's report: a callback of `handle` took `elapsed_ns` nanoseconds. `handle` is 0 for
/// a deferred or posted function. It may be closed already.
pub type kolo_slow_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        handle: kolo_handle,
        elapsed_ns: u64,
        user: *mut c_void,
    ),
>;

/// The watchdog's report while a callback of `handle` is still running, after `elapsed_ns` nanoseconds.
/// `handle` is 0 for a deferred or posted function. Called on a thread of kolo's own, for the loop's is
/// the one that is stuck: so nothing may be done with the loop. It can write a log, or end the process.
pub type kolo_stuck_cb =
    Option<unsafe extern "C" fn(handle: kolo_handle, elapsed_ns: u64, user: *mut c_void)>;

/// How a loop is made. Begin with KOLO_LOOP_OPTIONS_INIT; a member that is zero means its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_loop_options {
    /// sizeof(kolo_loop_options), set by KOLO_LOOP_OPTIONS_INIT.
    pub size: usize,
    /// The driver by name, such as "poller" (the system's own interface: epoll, kqueue...),
    /// "polling" (the portable one) or "uring" (io_uring, Linux 6.12 and later where nothing
    /// forbids it: fewer system calls, which pays with many connections). NULL: what the
    /// environment variable KOLO_DRIVER says, or else the best there is. Read during the call.
    pub driver: *const c_char,
    /// Events handed out in one turn, at most: after so many, timers and closing handles have
    /// their turn. Default 1024.
    pub events_per_turn: u32,
    /// Posted functions that may wait, at most; one more gets KOLO_ENOBUFS. Default 65536.
    pub post_capacity: u32,
    /// The watchdog: callbacks that take longer than this are reported to on_slow. 0: no watchdog.
    pub slow_callback_ns: u64,
    /// Called right after a callback that took longer returned. Needed with slow_callback_ns.
    pub on_slow: kolo_slow_cb,
    /// What on_slow gets as its last argument.
    pub on_slow_user: *mut c_void,
    /// Keep the times in kolo_metrics. Costs two readings of the clock for every callback.
    pub measure_time: c_bool,
    /// The threads for work, files and names: see kolo_pool_open. 0: a pool of the loop's own, made
    /// when it is first needed.
    pub pool: kolo_pool,
    /// The same for a callback that does not return: when one has run for longer than this, on_stuck is
    /// called, once, while it runs. Takes a thread for the loop, which looks four times as often as this
    /// is long; in a forked child there is none. 0: no such watchdog.
    pub stuck_callback_ns: u64,
    /// Needed with stuck_callback_ns.
    pub on_stuck: kolo_stuck_cb,
    /// What on_stuck gets as its last argument.
    pub on_stuck_user: *mut c_void,
}

// SAFETY: numbers, pointers and an optional function, the first of them the size.
unsafe impl Versioned for kolo_loop_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, measure_time) + 1);
}

/// What a loop tells of itself: counted since it was made. Begin with KOLO_METRICS_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_metrics {
    /// sizeof(kolo_metrics), set by KOLO_METRICS_INIT.
    pub size: usize,
    /// Turns of the loop.
    pub turns: u64,
    /// Events that the driver delivered.
    pub events: u64,
    /// Callbacks that were called.
    pub callbacks: u64,
    /// Nanoseconds spent waiting. 0 without measure_time.
    pub idle_ns: u64,
    /// Nanoseconds spent in callbacks. 0 without measure_time or a watchdog.
    pub callback_ns: u64,
    /// The longest callback in nanoseconds. 0 without measure_time or a watchdog.
    pub longest_callback_ns: u64,
    /// Handles that exist now, those that are closing included.
    pub handles: u64,
    /// Posted functions that wait now.
    pub posts_waiting: u64,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_metrics {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, posts_waiting) + 8);
}

/// A deferred function. `status` is 0; or KOLO_ECANCELED when the loop is being freed before the
/// function's turn came: then free what `user` points to, and do no more.
pub type kolo_defer_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, status: c_int, user: *mut c_void)>;

/// Gets one handle of a walk and its kolo_kind. Any value but 0 ends the walk.
pub type kolo_walk_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        handle: kolo_handle,
        kind: c_int,
        user: *mut c_void,
    ) -> c_int,
>;

/// Makes a loop, which belongs to the calling thread until kolo_loop_free or
/// kolo_loop_detach_thread. `options` may be NULL for the defaults.
///
/// Errors: KOLO_EINVAL if `out` is NULL, if slow_callback_ns is given without on_slow or
/// stuck_callback_ns without on_stuck, or for options of a wrong size; KOLO_EAGAIN if the system gives
/// no thread for stuck_callback_ns; KOLO_EBADF for a pool that was closed; KOLO_ENOTSUP for a driver
/// that this system does not have; the system's when descriptors or memory are short: KOLO_EMFILE,
/// KOLO_ENFILE, KOLO_ENOMEM. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_new(
    options: *const kolo_loop_options,
    out: *mut *mut kolo_loop,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, options) = unsafe { (Out::new(out)?, sized::read_or_default(options)?) };
        // SAFETY: `driver` is NULL or a C string.
        let options = unsafe { loop_options(&options)? };
        out.set(kolo_loop::create(Loop::with_options(options)?)?);
        Ok(())
    })
}

/// # Safety
///
/// `driver` is NULL or a C string.
pub(super) unsafe fn loop_options(given: &kolo_loop_options) -> Result<LoopOptions> {
    let mut options = LoopOptions::default();
    if !given.driver.is_null() {
        // SAFETY: promised by the caller.
        let name = unsafe { CStr::from_ptr(given.driver) };
        options.driver = Some(name.to_string_lossy().into_owned());
    }
    if let Some(events) = NonZeroU32::new(given.events_per_turn) {
        options.events_per_turn = events;
    }
    if let Some(capacity) = NonZeroU32::new(given.post_capacity) {
        options.post_capacity = capacity;
    }
    if given.slow_callback_ns > 0 {
        let (on_slow, user) = (needed(given.on_slow)?, given.on_slow_user);
        let report: SlowCallback = Box::new(move |lp, id, took| {
            let handle = id.map_or(0, |id| id.to_raw());
            // SAFETY: the user's function, with what it asked for.
            unsafe { on_slow(pointer(lp), handle, nanoseconds(took), user) }
        });
        options.slow_callback = Some((Duration::from_nanos(given.slow_callback_ns), report));
    }
    if given.stuck_callback_ns > 0 {
        let stuck = Stuck(Callback {
            call: needed(given.on_stuck)?,
            user: given.on_stuck_user,
        });
        let report: StuckCallback = Box::new(move |id, ran| stuck.report(id, ran));
        options.stuck_callback = Some((Duration::from_nanos(given.stuck_callback_ns), report));
    }
    options.measure_time = given.measure_time != 0;
    if given.pool != 0 {
        options.pool = Some(pool(given.pool)?);
    }
    Ok(options)
}

/// What the watchdog's thread calls.
struct Stuck(Callback<unsafe extern "C" fn(kolo_handle, u64, *mut c_void)>);

// SAFETY: a function and a pointer, of which the header says that a thread of kolo's uses them.
unsafe impl Send for Stuck {}

impl Stuck {
    fn report(&self, id: Option<Id>, ran: Duration) {
        let handle = id.map_or(0, |id| id.to_raw());
        // SAFETY: the user's function, with what it asked for.
        unsafe { (self.0.call)(handle, nanoseconds(ran), self.0.user) }
    }
}

/// Frees a loop. Everything that is still open is closed first: pending writes and functions hear
/// KOLO_ECANCELED, and all on_close callbacks run, during this call. They may use the loop, except
/// that nothing new can be opened or deferred (KOLO_ECANCELED). Afterwards every call with this
/// pointer returns KOLO_EBADF, as long as no new loop was made at the same address. Remotes of the
/// loop stay valid and answer KOLO_ECANCELED.
///
/// Errors: KOLO_EBUSY inside a callback of this loop, and for a loop of a group.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_free(r#loop: *mut kolo_loop) -> c_int {
    guard(|| {
        {
            let lp = checked(r#loop)?;
            lp.inner.check_fork()?;
            lp.check_idle()?;
            lp.end();
        }
        registry::remove(r#loop);
        // SAFETY: made by `Box::into_raw`, borrowed by nobody, and nobody can ask for it any more.
        drop(unsafe { Box::from_raw(r#loop) });
        Ok(())
    })
}

/// Runs the loop: makes turns, in which callbacks run, as `mode` (a kolo_run_mode) says.
///
/// Returns 1 if something still keeps the loop alive, as after kolo_loop_stop, and 0 if nothing
/// does.
///
/// Errors: KOLO_EINVAL for a mode that there is not; KOLO_EBUSY inside a callback of this loop;
/// the system's, if waiting fails.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_run(r#loop: *mut kolo_loop, mode: c_int) -> c_int {
    with_loop(r#loop, |lp| {
        let mode = match mode {
            0 => RunMode::Default,
            1 => RunMode::Once,
            2 => RunMode::NoWait,
            _ => return Err(Code::EINVAL.into()),
        };
        lp.check_idle()?;
        lp.inner.run(mode)
    })
}

/// Makes kolo_loop_run return after the turn that is running; if none is, the next run returns at
/// once. To stop a loop from another thread, post a function that calls this.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_stop(r#loop: *mut kolo_loop) -> c_int {
    with_loop(r#loop, |lp| {
        lp.inner.stop();
        Ok(())
    })
}

/// Returns 1 if something keeps the loop alive, else 0.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_alive(r#loop: *mut kolo_loop) -> c_int {
    with_loop(r#loop, |lp| Ok(lp.inner.is_alive()))
}

/// The loop's clock: monotonic nanoseconds since an arbitrary point in the past. It is read once a
/// turn and where timers need it, so in a callback that has run for long it is behind: see
/// kolo_loop_update_now.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_now(r#loop: *mut kolo_loop, out_ns: *mut u64) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_ns)? };
        out.set(nanoseconds(lp.inner.now()));
        Ok(())
    })
}

/// Reads the loop's clock anew.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_update_now(r#loop: *mut kolo_loop) -> c_int {
    with_loop(r#loop, |lp| {
        lp.inner.update_now();
        Ok(())
    })
}

/// For a program that has another loop already: returns a descriptor that becomes readable when
/// this loop has something to do. Then, and after kolo_loop_backend_timeout at the latest, call
/// kolo_loop_run with KOLO_RUN_NOWAIT. The descriptor is kolo's: only wait for it.
///
/// Errors: KOLO_ENOTSUP where the system has no such descriptor.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_backend_fd(r#loop: *mut kolo_loop) -> c_int {
    with_loop(r#loop, |lp| backend(&lp.inner))
}

#[cfg(unix)]
fn backend(lp: &Loop) -> Result<c_int> {
    lp.backend_descriptor()
}

#[cfg(not(unix))]
fn backend(_lp: &Loop) -> Result<c_int> {
    Err(Code::ENOTSUP.into())
}

/// How many nanoseconds another loop may wait before it must run this one; -1 for no limit but
/// the descriptor's.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_backend_timeout(
    r#loop: *mut kolo_loop,
    out_ns: *mut i64,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_ns)? };
        let timeout = lp.inner.backend_timeout().map(nanoseconds);
        out.set(timeout.map_or(-1, |ns| i64::try_from(ns).unwrap_or(i64::MAX)));
        Ok(())
    })
}

/// Makes the loop usable in the child of a fork, where every other call returns KOLO_EFORKED
/// before this one. The parent is not disturbed. Handles stay as they are, and share their
/// sockets with the parent: close in the child what it does not serve. Fork on the loop's thread
/// and outside of its callbacks: when one that has forked returns in the child, nothing more is
/// called back there, and kolo_loop_run returns KOLO_EFORKED. A child that only calls exec needs
/// nothing of this. In a process that has not forked since it made the loop, nothing happens.
///
/// Errors: KOLO_EBUSY inside a callback of this loop; the system's when descriptors are short, and
/// then it may be tried again.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_fork(r#loop: *mut kolo_loop) -> c_int {
    guard(|| {
        let lp = checked(r#loop)?;
        lp.check_idle()?;
        lp.inner.forked()
    })
}

/// The calling thread, to which the loop belongs, gives it up. Until a thread takes it with
/// kolo_loop_attach_thread, every call with it returns KOLO_EWRONGTHREAD. A thread that ends gives
/// up nothing by itself: detach first, or free.
///
/// Errors: KOLO_EBUSY inside a callback of this loop.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_detach_thread(r#loop: *mut kolo_loop) -> c_int {
    with_loop(r#loop, |lp| {
        lp.check_idle()?;
        lp.inner.detach()?;
        registry::detach(r#loop);
        Ok(())
    })
}

/// The calling thread takes a loop that belongs to none. What the former thread did before
/// kolo_loop_detach_thread is visible to it.
///
/// Errors: KOLO_EBUSY if the loop belongs to a thread, also if that is the calling one; with the
/// driver "uring" the system's when descriptors are short, such as KOLO_EMFILE: then the loop
/// still belongs to nobody.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_attach_thread(r#loop: *mut kolo_loop) -> c_int {
    guard(|| {
        registry::attach(r#loop)?;
        let attached = checked(r#loop)?.inner.attach();
        if attached.is_err() {
            registry::detach(r#loop);
        }
        attached
    })
}

/// Keeps a pointer with the loop, for the program's own use. NULL at first.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_set_user(r#loop: *mut kolo_loop, user: *mut c_void) -> c_int {
    with_loop(r#loop, |lp| {
        lp.user.set(user);
        Ok(())
    })
}

/// The pointer that kolo_loop_set_user set last.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_user(r#loop: *mut kolo_loop, out: *mut *mut c_void) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { Out::new(out)? }.set(lp.user.get());
        Ok(())
    })
}

/// The name of the loop's driver: "poller", "polling", "uring". NULL for NULL and for what is not a loop.
/// The text is static. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_driver_name(r#loop: *mut kolo_loop) -> *const c_char {
    registry::driver(r#loop).map_or(std::ptr::null(), CStr::as_ptr)
}

/// Fills `out` in with the loop's counters, as far as its `size` says that there is room.
///
/// Errors: KOLO_EINVAL if `out` is NULL or its size is wrong.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_metrics(
    r#loop: *mut kolo_loop,
    out: *mut kolo_metrics,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let place = unsafe { sized::Place::new(out)? };
        let metrics = lp.inner.metrics();
        place.fill(&kolo_metrics {
            size: 0,
            turns: metrics.turns,
            events: metrics.events,
            callbacks: metrics.callbacks,
            idle_ns: nanoseconds(metrics.idle),
            callback_ns: nanoseconds(metrics.in_callbacks),
            longest_callback_ns: nanoseconds(metrics.longest_callback),
            handles: metrics.handles,
            posts_waiting: metrics.posts_waiting,
        });
        Ok(())
    })
}

/// Runs a function when this callback has returned, in the next phase of the turn that runs deferred
/// functions (2 or 5 above): those deferred by a deferred function wait for the phase after. They
/// run in order, and keep the loop alive until they ran.
///
/// Errors: KOLO_EINVAL if `cb` is NULL; KOLO_ECANCELED while the loop is being freed; KOLO_ENOBUFS when
/// 1048576 wait already.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_defer(
    r#loop: *mut kolo_loop,
    cb: kolo_defer_cb,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        let call = needed(cb)?;
        lp.inner.defer(Function(Callback { call, user }))
    })
}

/// A deferred or posted function.
pub(super) struct Function(pub Callback<unsafe extern "C" fn(*mut kolo_loop, c_int, *mut c_void)>);

// SAFETY: a function and a pointer; whether what it points to may be used on the loop's thread is
// for the user to see to, who posts it there.
unsafe impl Send for Function {}

impl Function {
    fn call(&self, lp: &Loop, status: c_int) {
        let Callback { call, user } = self.0;
        // SAFETY: the user's function, with what it asked for.
        unsafe { call(pointer(lp), status, user) }
    }
}

impl Task for Function {
    fn run(self, lp: &Loop) {
        self.call(lp, 0);
    }

    fn cancel(self, lp: &Loop) {
        self.call(lp, super::boundary::number(Code::ECANCELED.into()));
    }
}

/// Calls `cb` for every open handle, in no particular order, during this call. It may close and
/// open handles: those closed meanwhile are left out, and those opened do not show up.
///
/// Returns 0, or 1 if `cb` ended the walk.
///
/// Errors: KOLO_EINVAL if `cb` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_walk(
    r#loop: *mut kolo_loop,
    cb: kolo_walk_cb,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        let cb = needed(cb)?;
        let ended = lp.while_walking(|| {
            lp.inner.handles().into_iter().any(|id| {
                let Ok(kind) = lp.inner.kind(id) else {
                    return false;
                };
                // SAFETY: the user's function, with what it asked for.
                unsafe { cb(r#loop, id.to_raw(), kind as c_int, user) != 0 }
            })
        });
        Ok(ended)
    })
}
