//! Structs that carry their own size, so that they can grow while old programs go on working.
//!
//! The caller says how much of the struct it knows. If that is less than this library knows, the
//! rest is taken as zero, which always means the default. If it is more, the rest must be zero: a
//! program that asks for something this library does not know is told so.

use std::mem::MaybeUninit;

use crate::error::{Code, Result};

/// A struct whose first member `size` is what the caller takes for its size.
///
/// A member that is added later must begin after the end of the struct as it was, never in its
/// last padding, whose bytes old programs leave to chance.
///
/// # Safety
///
/// `#[repr(C)]`, with a first member of type `usize`, and any bytes must be a valid value: whole
/// numbers, raw pointers and optional functions are.
pub(super) unsafe trait Versioned: Copy {
    /// Its size in the version that introduced it.
    const FIRST: usize;
}

/// The size of a struct that ends with a member at `end`.
pub(super) const fn first_size<T>(end: usize) -> usize {
    end.next_multiple_of(align_of::<T>())
}

/// Far beyond what any of these structs will grow to: a size above is none.
const SIZE_MAX: usize = 1024;

/// # Safety
///
/// The `size` member can be read, and so many bytes as it says, if it is a size.
unsafe fn size_of_given<T: Versioned>(at: *const T) -> Result<usize> {
    if at.is_null() {
        return Err(Code::EINVAL.into());
    }
    // SAFETY: promised by the caller; that it is aligned is not asked for.
    let size = unsafe { at.cast::<usize>().read_unaligned() };
    if size < T::FIRST || size > SIZE_MAX || size % align_of::<T>() != 0 {
        return Err(Code::EINVAL.into());
    }
    Ok(size)
}

/// A struct of the caller's, as this library knows it.
///
/// # Safety
///
/// `at` is NULL, or as many bytes as its `size` says can be read there.
pub(super) unsafe fn read<T: Versioned>(at: *const T) -> Result<T> {
    // SAFETY: promised by the caller.
    let size = unsafe { size_of_given(at)? };
    let known = size_of::<T>();
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `size` bytes can be read, and `value` holds `known`; any bytes are a valid `T`.
    let value = unsafe {
        let bytes = at.cast::<u8>();
        bytes.copy_to_nonoverlapping(value.as_mut_ptr().cast(), size.min(known));
        for at in known..size {
            if bytes.add(at).read() != 0 {
                return Err(Code::EINVAL.into());
            }
        }
        value.assume_init()
    };
    Ok(value)
}

/// As [`read`], where NULL stands for a struct of zeros.
///
/// # Safety
///
/// As [`read`].
pub(super) unsafe fn read_or_default<T: Versioned>(at: *const T) -> Result<T> {
    if at.is_null() {
        // SAFETY: any bytes are a valid `T`.
        return Ok(unsafe { MaybeUninit::zeroed().assume_init() });
    }
    // SAFETY: promised by the caller.
    unsafe { read(at) }
}

/// Where a struct is to be filled in for the caller.
pub(super) struct Place<T> {
    at: *mut T,
    size: usize,
}

impl<T: Versioned> Place<T> {
    /// # Safety
    ///
    /// `at` is NULL, or as many bytes as its `size` says can be read and written there until the
    /// entry point returns.
    pub unsafe fn new(at: *mut T) -> Result<Place<T>> {
        // SAFETY: promised by the caller.
        let size = unsafe { size_of_given(at)? };
        Ok(Place { at, size })
    }

    /// Fills in what the caller has room for; what it knows beyond becomes zero. Its `size` stays.
    pub fn fill(self, value: &T) {
        let from = size_of::<usize>();
        let until = self.size.min(size_of::<T>());
        // SAFETY: `size` bytes can be written, and `until` of them be read from `value`.
        unsafe {
            let bytes = self.at.cast::<u8>();
            let known = std::ptr::from_ref(value).cast::<u8>();
            bytes
                .add(from)
                .copy_from_nonoverlapping(known.add(from), until - from);
            bytes.add(until).write_bytes(0, self.size - until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// As it is now: `late` came in a second version.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        size: usize,
        early: u64,
        late: u64,
    }

    // SAFETY: whole numbers, the first of them the size.
    unsafe impl Versioned for Grown {
        const FIRST: usize = first_size::<Grown>(offset_of!(Grown, early) + size_of::<u64>());
    }

    /// As a program of a later version has it.
    #[repr(C)]
    struct Later {
        known: Grown,
        unknown: u64,
    }

    fn grown(size: usize) -> Grown {
        Grown {
            size,
            early: 7,
            late: 8,
        }
    }

    fn read_it(value: &Grown) -> Result<Grown> {
        // SAFETY: the sizes that are not refused are no greater than the memory behind them.
        unsafe { read(value) }
    }

    #[test]
    fn a_member_that_the_caller_does_not_know_is_zero() {
        let value = grown(Grown::FIRST);
        let read = read_it(&value).unwrap();
        assert_eq!((read.early, read.late), (7, 0));
        assert_eq!(read_it(&grown(size_of::<Grown>())).unwrap().late, 8);
    }

    #[test]
    fn a_member_that_the_library_does_not_know_must_be_zero() {
        let mut value = Later {
            known: grown(size_of::<Later>()),
            unknown: 0,
        };
        let at = std::ptr::from_ref(&value).cast::<Grown>();
        // SAFETY: as large as it says.
        assert_eq!(unsafe { read(at) }.unwrap().late, 8);
        value.unknown = 1 << 40;
        let at = std::ptr::from_ref(&value).cast::<Grown>();
        // SAFETY: as large as it says.
        assert_eq!(unsafe { read(at) }, Err(Code::EINVAL.into()));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for size in [0, 1, 7, 8, Grown::FIRST - 8, Grown::FIRST + 1, SIZE_MAX + 8] {
            assert_eq!(read_it(&grown(size)), Err(Code::EINVAL.into()), "{size}");
        }
        assert!(read_it(&grown(usize::MAX)).is_err());
        // SAFETY: NULL is allowed.
        unsafe {
            assert!(read::<Grown>(std::ptr::null()).is_err());
            assert_eq!(read_or_default::<Grown>(std::ptr::null()).unwrap().early, 0);
            assert!(Place::<Grown>::new(std::ptr::null_mut()).is_err());
        }
    }

    #[test]
    fn only_what_the_caller_has_room_for_is_filled_in() {
        let mut old = grown(Grown::FIRST);
        let new = Grown {
            size: 99,
            early: 1,
            late: 2,
        };
        // SAFETY: larger than it says.
        unsafe { Place::new(&mut old) }.unwrap().fill(&new);
        assert_eq!((old.size, old.early, old.late), (Grown::FIRST, 1, 8));

        let mut later = Later {
            known: grown(size_of::<Later>()),
            unknown: 5,
        };
        let at = std::ptr::from_mut(&mut later).cast::<Grown>();
        // SAFETY: as large as it says.
        unsafe { Place::new(at) }.unwrap().fill(&new);
        assert_eq!((later.known.early, later.known.late), (1, 2));
        assert_eq!(later.unknown, 0);
    }
}
