//! Other threads
//!
//! Another thread never touches the loop. It holds a remote, with which it posts functions that run
//! on the loop's thread, and wakes the loop. The functions here that take a kolo_remote, and no
//! others that take anything of a loop's, may be called from any thread.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{fence, AtomicUsize, Ordering};

use super::boundary::{guard, id, needed, pointer, with_loop, Callback, Out};
use super::event_loop::Function;
use super::types::{kolo_loop, kolo_remote, kolo_waker};
use crate::error::{Code, Result};
use crate::remote::{Remote, Waker};

/// A posted function, which runs on the loop's thread. `status` is 0; or KOLO_ECANCELED when the
/// loop is being freed before the function's turn came: then free what `user` points to, and do no
/// more.
pub type kolo_post_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, status: c_int, user: *mut c_void)>;

/// A waker was woken, by one kolo_remote_wake or many.
pub type kolo_waker_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, waker: kolo_waker, user: *mut c_void)>;

/// A remote with one reference, which is C's. Counted by hand and not by an `Arc`, whose pointers
/// refer into their block of memory: leak checkers would have doubts about those that C holds.
pub(super) fn give(inner: Remote) -> *mut kolo_remote {
    let references = AtomicUsize::new(1);
    Box::into_raw(Box::new(kolo_remote { inner, references }))
}

/// The remote behind a pointer of C's, which holds a reference during the call.
pub(super) fn remote<'a>(at: *mut kolo_remote) -> Result<&'a kolo_remote> {
    // SAFETY: NULL, or a pointer that `give` made and that the caller holds a reference to.
    unsafe { at.as_ref() }.ok_or(Code::EINVAL.into())
}

/// Makes a remote of the loop, to be handed to other threads. The caller holds one reference, and
/// lets it go with kolo_remote_release.
///
/// Errors: KOLO_EINVAL if `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_remote(
    r#loop: *mut kolo_loop,
    out: *mut *mut kolo_remote,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { Out::new(out)? }.set(give(lp.inner.remote()));
        Ok(())
    })
}

/// Adds a reference to a remote. Any thread that holds one.
///
/// Errors: KOLO_EINVAL for NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_remote_retain(remote: *mut kolo_remote) -> c_int {
    guard(|| {
        // Who has a reference may make another; nothing else is to be ordered (as in `Arc`).
        let before = self::remote(remote)?
            .references
            .fetch_add(1, Ordering::Relaxed);
        assert!(before < usize::MAX / 2, "references of a kolo_remote");
        Ok(())
    })
}

/// Lets go of a reference; with the last one the remote is freed. Any thread that holds one. May
/// come before or after the loop is freed.
///
/// Errors: KOLO_EINVAL for NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_remote_release(remote: *mut kolo_remote) -> c_int {
    guard(|| {
        if self::remote(remote)?
            .references
            .fetch_sub(1, Ordering::Release)
            == 1
        {
            // What other threads did with it before they let it go happens before it goes.
            fence(Ordering::Acquire);
            // SAFETY: made by `give`, and this was the last reference.
            drop(unsafe { Box::from_raw(remote) });
        }
        Ok(())
    })
}

/// Runs a function on the loop's thread, in its next turn, and ends the loop's wait. Functions
/// that one thread posts run in the order in which it posts them; every one runs. What the thread
/// did before is visible to the function. A function that waits keeps the loop alive.
///
/// When the loop is freed first, the function is called from kolo_loop_free with KOLO_ECANCELED. So
/// after a post that returned 0 the function is called exactly once. Any thread.
///
/// Errors: KOLO_EINVAL if `remote` or `cb` is NULL; KOLO_ENOBUFS if as many wait as the loop's
/// post_capacity; KOLO_ECANCELED if the loop is gone. Then the function is not called.
#[no_mangle]
pub unsafe extern "C" fn kolo_remote_post(
    remote: *mut kolo_remote,
    cb: kolo_post_cb,
    user: *mut c_void,
) -> c_int {
    guard(|| {
        let (remote, call) = (self::remote(remote)?, needed(cb)?);
        remote.inner.post(Function(Callback { call, user }))
    })
}

/// Ends the loop's wait; if the remote is a waker's, its callback runs. Wakes that come before the
/// loop has looked are one: what each of the threads did before is visible to the callback. Costs a
/// few nanoseconds when another wake is on its way already. Any thread.
///
/// Errors: KOLO_EINVAL for NULL; KOLO_ECANCELED if the loop is gone or the waker is closed.
#[no_mangle]
pub unsafe extern "C" fn kolo_remote_wake(remote: *mut kolo_remote) -> c_int {
    guard(|| self::remote(remote)?.inner.wake())
}

/// Makes a waker: a callback that other threads trigger. It is active until it is closed: to have
/// it not keep the loop alive, use kolo_unref.
///
/// Errors: KOLO_EINVAL if `cb` or `out` is NULL; KOLO_ENOBUFS if the loop holds as many handles as
/// it can; KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_waker_open(
    r#loop: *mut kolo_loop,
    cb: kolo_waker_cb,
    user: *mut c_void,
    out: *mut kolo_waker,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let (cb, out) = (needed(cb)?, unsafe { Out::new(out)? });
        let waker = Waker::open(&lp.inner, move |lp, waker| {
            // SAFETY: the user's function, with what it asked for.
            unsafe { cb(pointer(lp), waker.id().to_raw(), user) }
        })?;
        out.set(waker.id().to_raw());
        Ok(())
    })
}

/// Makes a remote whose kolo_remote_wake triggers the waker; functions are posted to the loop as
/// with any remote. The caller holds one reference, and lets it go with kolo_remote_release.
///
/// Errors: KOLO_EINVAL if `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_waker_remote(
    r#loop: *mut kolo_loop,
    waker: kolo_waker,
    out: *mut *mut kolo_remote,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(give(Waker::from_id(id(waker)?).remote(&lp.inner)?));
        Ok(())
    })
}
