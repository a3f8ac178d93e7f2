//! Other threads
//!
//! Another thread never touches the loop. It holds a remote, with which it posts functions that run
//! on the loop's thread, and wakes the loop. The functions here that take a kolo_remote, and no
//! others that take anything of a loop's, may be called from any thread.

use std::ffi::{c_int, c_void};

use super::boundary::{guard, id, needed, pointer, with_loop, Callback, Out};
use super::event_loop::Function;
use super::remotes::{self, give};
use super::types::{kolo_loop, kolo_remote, kolo_waker};
use crate::remote::Waker;

/// A posted function, which runs on the loop's thread. `status` is 0; or KOLO_ECANCELED when the
/// loop is being freed before the function's turn came: then free what `user` points to, and do no
/// more.
pub type kolo_post_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, status: c_int, user: *mut c_void)>;

/// A waker was woken, by one kolo_remote_wake or many.
pub type kolo_waker_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, waker: kolo_waker, user: *mut c_void)>;

/// Makes a remote of the loop, to be handed to other threads. The caller holds one reference, and
/// lets it go with kolo_remote_release.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOBUFS if the process holds 65536 remotes.
#[no_mangle]
pub unsafe extern "C" fn kolo_loop_remote(
    r#loop: *mut kolo_loop,
    out: *mut *mut kolo_remote,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(give(lp.inner.remote())?);
        Ok(())
    })
}

/// Adds a reference to a remote. Any thread that holds one.
///
/// Errors: KOLO_EINVAL for NULL; KOLO_EBADF for one that was released; KOLO_EOVERFLOW for more than
/// UINT32_MAX references.
#[no_mangle]
pub unsafe extern "C" fn kolo_remote_retain(remote: *mut kolo_remote) -> c_int {
    guard(|| remotes::retain(remote))
}

/// Lets go of a reference; with the last one the remote is freed, and every call with the pointer
/// returns KOLO_EBADF. Any thread that holds one. May come before or after the loop is freed.
///
/// Errors: KOLO_EINVAL for NULL; KOLO_EBADF for one that was released.
#[no_mangle]
pub unsafe extern "C" fn kolo_remote_release(remote: *mut kolo_remote) -> c_int {
    guard(|| remotes::release(remote))
}

/// Runs a function on the loop's thread, in its next turn, and ends the loop's wait. Functions
/// that one thread posts run in the order in which it posts them; every one runs. What the thread
/// did before is visible to the function. A function that waits keeps the loop alive.
///
/// When the loop is freed first, the function is called from kolo_loop_free with KOLO_ECANCELED. So
/// after a post that returned 0 the function is called exactly once. Any thread.
///
/// Errors: KOLO_EINVAL if `remote` or `cb` is NULL; KOLO_EBADF for a remote that was released;
/// KOLO_ENOBUFS if as many wait as the loop's post_capacity; KOLO_ECANCELED if the loop is gone. Then
/// the function is not called.
#[no_mangle]
pub unsafe extern "C" fn kolo_remote_post(
    remote: *mut kolo_remote,
    cb: kolo_post_cb,
    user: *mut c_void,
) -> c_int {
    guard(|| {
        let (remote, call) = (remotes::remote(remote)?, needed(cb)?);
        remote.post(Function(Callback { call, user }))
    })
}

/// Ends the loop's wait; if the remote is a waker's, its callback runs. Wakes that come before the
/// loop has looked are one: what each of the threads did before is visible to the callback. Costs a
/// few nanoseconds when another wake is on its way already. Any thread.
///
/// Errors: KOLO_EINVAL for NULL; KOLO_EBADF for a remote that was released; KOLO_ECANCELED if the loop
/// is gone or the waker is closed.
#[no_mangle]
pub unsafe extern "C" fn kolo_remote_wake(remote: *mut kolo_remote) -> c_int {
    guard(|| remotes::remote(remote)?.wake())
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
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOBUFS if the process holds 65536 remotes.
#[no_mangle]
pub unsafe extern "C" fn kolo_waker_remote(
    r#loop: *mut kolo_loop,
    waker: kolo_waker,
    out: *mut *mut kolo_remote,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(give(Waker::from_id(id(waker)?).remote(&lp.inner)?)?);
        Ok(())
    })
}
