//! Hooks
//!
//! A hook is a function that runs once in every turn while it is started. Hooks of a kind run in
//! the order in which they were started; one that is started by a hook of its kind runs from the
//! next turn on.

use std::ffi::{c_int, c_void};

use super::boundary::{id, needed, pointer, with_loop, Out};
use super::types::{kolo_hook, kolo_loop};
use crate::error::{Code, Result};
use crate::hook::{Hook, HookKind};

/// Where in the turn a hook runs.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_hook_kind {
    /// Before the prepare hooks. While one is started the loop does not wait, so that it can do a
    /// piece of work in each turn.
    KOLO_HOOK_IDLE = 1,
    /// Right before the loop waits.
    KOLO_HOOK_PREPARE = 2,
    /// After the wait and all that it brought.
    KOLO_HOOK_CHECK = 3,
}

/// A hook's place in the turn has come.
pub type kolo_hook_cb =
    Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, hook: kolo_hook, user: *mut c_void)>;

fn hook(handle: kolo_hook) -> Result<Hook> {
    Ok(Hook::from_id(id(handle)?))
}

/// Makes a hook of a kind (a kolo_hook_kind), which is not started yet.
///
/// Errors: KOLO_EINVAL if `cb` or `out` is NULL, or for a kind that there is not; KOLO_ENOBUFS if
/// the loop holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_hook_open(
    r#loop: *mut kolo_loop,
    kind: c_int,
    cb: kolo_hook_cb,
    user: *mut c_void,
    out: *mut kolo_hook,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let (cb, out) = (needed(cb)?, unsafe { Out::new(out)? });
        let kind = match kind {
            1 => HookKind::Idle,
            2 => HookKind::Prepare,
            3 => HookKind::Check,
            _ => return Err(Code::EINVAL.into()),
        };
        let hook = Hook::open(&lp.inner, kind, move |lp, hook| {
            // SAFETY: the user's function, with what it asked for.
            unsafe { cb(pointer(lp), hook.id().to_raw(), user) }
        })?;
        out.set(hook.id().to_raw());
        Ok(())
    })
}

/// Starts the hook; one that is started keeps its place.
#[no_mangle]
pub unsafe extern "C" fn kolo_hook_start(r#loop: *mut kolo_loop, hook: kolo_hook) -> c_int {
    with_loop(r#loop, |lp| self::hook(hook)?.start(&lp.inner))
}

/// Stops the hook, also if its turn in this phase was still to come.
#[no_mangle]
pub unsafe extern "C" fn kolo_hook_stop(r#loop: *mut kolo_loop, hook: kolo_hook) -> c_int {
    with_loop(r#loop, |lp| self::hook(hook)?.stop(&lp.inner))
}
