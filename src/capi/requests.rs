//! What the parts about files share: paths, and how the outcome of a request is told.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::path::PathBuf;

use super::boundary::{self, needed, pointer, status};
use super::fs::{kolo_fs_cb, kolo_transfer_cb};
use super::stream::kolo_buffer;
use super::types::kolo_request;
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::fs::checked_path;
use crate::request::Request;
use crate::sys;
use crate::sys::fs::{Memory, Position};

/// A path of the caller's.
///
/// # Safety
///
/// `text` is NULL or ends with a NUL.
pub(super) unsafe fn path(text: *const c_char) -> Result<PathBuf> {
    if text.is_null() {
        return Err(Code::EINVAL.into());
    }
    // SAFETY: promised by the caller.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    checked_path(&sys::fs::path_of_bytes(bytes)?)
}

/// Tells the caller what request was made, if that is asked for.
///
/// # Safety
///
/// `out` is NULL or can be written to.
pub(super) unsafe fn tell(out: *mut kolo_request, made: Result<Request>) -> Result<()> {
    let request = made?.id().to_raw();
    // SAFETY: promised by the caller.
    unsafe { boundary::write_optional(out, request) };
    Ok(())
}

/// A callback that gets a status and nothing else.
pub(super) fn plain(
    done: kolo_fs_cb,
    user: *mut c_void,
) -> Result<impl FnOnce(&Loop, Request, Result<()>) + 'static> {
    let done = needed(done)?;
    Ok(move |lp: &Loop, request: Request, outcome| {
        // SAFETY: the user's function, with what it asked for.
        unsafe { done(pointer(lp), request.id().to_raw(), status(outcome), user) }
    })
}

/// A callback that gets a status and a number of bytes.
pub(super) fn counting(
    done: kolo_transfer_cb,
    user: *mut c_void,
) -> Result<impl FnOnce(&Loop, Request, Result<()>, u64) + 'static> {
    let done = needed(done)?;
    Ok(move |lp: &Loop, request: Request, outcome, length| {
        let (request, status) = (request.id().to_raw(), status(outcome));
        // SAFETY: the user's function, with what it asked for.
        unsafe { done(pointer(lp), request, status, length, user) }
    })
}

/// Where in a file: KOLO_OFFSET_CURRENT or a number of bytes.
pub(super) fn position(offset: i64) -> Result<Position> {
    match u64::try_from(offset) {
        Ok(offset) => Ok(Position::At(offset)),
        Err(_) if offset == -1 => Ok(Position::Current),
        Err(_) => Err(Code::EINVAL.into()),
    }
}

/// Memory of the caller's.
///
/// # Safety
///
/// As [`Memory::lent`] asks for it.
pub(super) unsafe fn memory(buffers: &[kolo_buffer]) -> Result<Memory> {
    let mut total = 0usize;
    for buffer in buffers {
        total = total.saturating_add(buffer.len);
        if buffer.base.is_null() && buffer.len > 0 || total > isize::MAX as usize {
            return Err(Code::EINVAL.into());
        }
    }
    let pieces = buffers.iter().map(|it| (it.base.cast::<u8>(), it.len));
    // SAFETY: promised by the caller.
    Ok(unsafe { Memory::lent(pieces) })
}

/// A length that fits an answer.
pub(super) fn answer(length: usize) -> c_int {
    c_int::try_from(length).unwrap_or(c_int::MAX)
}
