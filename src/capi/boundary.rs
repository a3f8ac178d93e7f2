//! The boundary: every entry point passes through [`guard`] or [`with_loop`], which turn panics
//! and errors into numbers; pointers from C are only looked at by the helpers here.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::registry;
use super::types::kolo_loop;
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
use crate::handles::Id;
use crate::stream::Flow;

/// C's `bool`, as a type in which every byte is valid: what is not 0 is true.
pub(super) type c_bool = u8;

thread_local! {
    /// The system's number behind the last error that was returned or reported on this thread.
    static LAST_SYSTEM: Cell<i32> = const { Cell::new(0) };
}

pub(super) fn last_system_error() -> c_int {
    LAST_SYSTEM.try_with(Cell::get).unwrap_or(0)
}

/// An error's number, on its way to C.
#[cold]
#[inline(never)] // calls that succeed stay short
pub(super) fn number(error: Error) -> c_int {
    // A thread that is coming to its end may have no such variable any more.
    let _ = LAST_SYSTEM.try_with(|last| last.set(error.system()));
    error.code().number()
}

/// The status that a completion callback gets.
pub(super) fn status(outcome: Result<()>) -> c_int {
    outcome.map_or_else(number, |()| 0)
}

/// What an entry point returns when all went well.
pub(super) trait Answer {
    fn answer(self) -> c_int;
}

impl Answer for () {
    fn answer(self) -> c_int {
        0
    }
}

impl Answer for bool {
    fn answer(self) -> c_int {
        c_int::from(self)
    }
}

impl Answer for c_int {
    fn answer(self) -> c_int {
        self
    }
}

impl Answer for Flow {
    fn answer(self) -> c_int {
        c_int::from(self == Flow::Full)
    }
}

/// Runs an entry point that takes no loop.
#[inline]
pub(super) fn guard<A: Answer>(call: impl FnOnce() -> Result<A>) -> c_int {
    // Unwind safety: the core keeps its invariants when it unwinds (see `event_loop`).
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(answer)) => answer.answer(),
        Ok(Err(error)) => number(error),
        Err(payload) => {
            // Its destructor might panic too.
            std::mem::forget(payload);
            number(Code::EPANIC.into())
        }
    }
}

/// Runs an entry point that takes a loop, which is checked first.
#[inline]
pub(super) fn with_loop<A: Answer>(
    at: *mut kolo_loop,
    call: impl FnOnce(&kolo_loop) -> Result<A>,
) -> c_int {
    guard(|| {
        let lp = checked(at)?;
        lp.inner.check_fork()?;
        call(lp)
    })
}

/// The loop at this address, if one lives there that the calling thread owns.
///
/// The caller must not keep it longer than its own call. That is long enough: a loop is not freed
/// while one of its functions is running, `kolo_loop_free` sees to that.
#[inline]
pub(super) fn checked<'a>(at: *mut kolo_loop) -> Result<&'a kolo_loop> {
    registry::check(at)?;
    // SAFETY: the registry knows the pointer as that of a live loop, made by `Box::into_raw`, and
    // this thread as its owner. It is never borrowed mutably.
    Ok(unsafe { &*at })
}

/// The pointer that callbacks get, for the loop that the core hands them.
#[inline]
pub(super) fn pointer(lp: &Loop) -> *mut kolo_loop {
    lp.embedder().cast()
}

/// The handle with this number.
#[inline]
pub(super) fn id(handle: u64) -> Result<Id> {
    Id::from_raw(handle).ok_or(Code::EBADF.into())
}

/// A callback that must be there.
#[inline]
pub(super) fn needed<T>(callback: Option<T>) -> Result<T> {
    callback.ok_or(Code::EINVAL.into())
}

/// A place for a result: checked before anything happens, written when all went well.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    ///
    /// `place` is NULL or can hold a `T` until the entry point returns.
    #[inline]
    pub unsafe fn new(place: *mut T) -> Result<Out<T>> {
        if place.is_null() {
            return Err(Code::EINVAL.into());
        }
        Ok(Out(place))
    }

    #[inline]
    pub fn set(self, value: T) {
        // SAFETY: promised to `new`. Whatever stood there before needs no drop: it is C's.
        unsafe { self.0.write(value) }
    }
}

/// Writes a result that need not be asked for: NULL is allowed.
///
/// # Safety
///
/// `place` is NULL or can hold a `T`.
#[inline]
pub(super) unsafe fn write_optional<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: promised by the caller. Whatever stood there before needs no drop: it is C's.
        unsafe { place.write(value) }
    }
}

/// What a pointer refers to; NULL is `EINVAL`.
///
/// # Safety
///
/// `at` is NULL or readable.
#[inline]
pub(super) unsafe fn read<T: Copy>(at: *const T) -> Result<T> {
    if at.is_null() {
        return Err(Code::EINVAL.into());
    }
    // SAFETY: promised by the caller.
    Ok(unsafe { at.read() })
}

/// Memory of the caller's; NULL is allowed for none.
///
/// # Safety
///
/// `count` values at `base` can be read for as long as the slice is used.
#[inline]
pub(super) unsafe fn slice<'a, T>(base: *const T, count: usize) -> Result<&'a [T]> {
    let longest = isize::MAX as usize / size_of::<T>().max(1);
    // One comparison for both, in the way of every write.
    if count.wrapping_sub(1) >= longest {
        return match count {
            0 => Ok(&[]),
            _ => Err(Code::EINVAL.into()),
        };
    }
    if base.is_null() {
        return Err(Code::EINVAL.into());
    }
    // SAFETY: not NULL, no longer than memory can be, and readable as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(base, count) })
}

/// Writes a text and its NUL where the caller has room for `capacity` bytes, and answers its
/// length; nothing is written if it does not fit (`ENOBUFS`).
///
/// # Safety
///
/// `text` is NULL, or `capacity` bytes can be written there.
pub(super) unsafe fn write_text(line: &[u8], text: *mut c_char, capacity: usize) -> Result<c_int> {
    if text.is_null() {
        return Err(Code::EINVAL.into());
    }
    if line.len() >= capacity {
        return Err(Code::ENOBUFS.into());
    }
    let length = c_int::try_from(line.len()).map_err(|_| Code::EOVERFLOW)?;
    // SAFETY: the caller's `capacity` bytes hold the line and one more.
    unsafe {
        text.cast::<u8>()
            .copy_from_nonoverlapping(line.as_ptr(), line.len());
        text.add(line.len()).write(0);
    }
    Ok(length)
}

/// A function of the user's and the pointer it gets: what a C closure is.
#[derive(Clone, Copy)]
pub(super) struct Callback<F> {
    pub call: F,
    pub user: *mut c_void,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_number() {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let answer = guard(|| -> Result<()> { panic!("on purpose") });
        std::panic::set_hook(former);
        assert_eq!(answer, Code::EPANIC.number());
    }

    #[test]
    fn the_systems_number_is_that_of_the_last_error() {
        #[cfg(unix)]
        {
            let failed = guard(|| Err::<(), _>(Error::from_system(libc::EMFILE)));
            assert_eq!(failed, Code::EMFILE.number());
            assert_eq!(last_system_error(), libc::EMFILE);
        }
        assert_eq!(guard(|| Ok(7)), 7);
        assert_eq!(guard(|| Err::<(), _>(Code::EINVAL.into())), -22);
        assert_eq!(last_system_error(), 0);
    }

    #[test]
    fn slices_from_c() {
        // SAFETY: of the lengths that are not refused, that many bytes are there.
        unsafe {
            assert!(slice::<u64>(std::ptr::null(), 0).unwrap().is_empty());
            assert!(slice::<u8>(std::ptr::null(), 1).is_err());
            assert!(slice(
                std::ptr::NonNull::<u64>::dangling().as_ptr(),
                usize::MAX / 8
            )
            .is_err());
            assert_eq!(slice(b"abc".as_ptr(), 2).unwrap(), b"ab");
        }
    }
}
