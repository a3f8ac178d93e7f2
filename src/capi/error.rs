//! Errors and the version
//!
//! Every function that can fail returns an int: 0 or a positive value on success, a negative
//! kolo_error otherwise. The numbers are Linux' errno negated, and are the same on every system, so
//! that programs may store and compare them.

use std::ffi::{c_char, c_int, CString};

use once_cell::sync::Lazy;

use super::boundary::last_system_error;
use crate::error::Code;

/// What went wrong. The functions return int; this is the list of the names. Codes may be added,
/// so treat those that you do not know as you treat KOLO_EUNKNOWN.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_error {
    /// Success.
    KOLO_OK = 0,
    /// Operation not permitted.
    KOLO_EPERM = -1,
    /// No such file, handle or request.
    KOLO_ENOENT = -2,
    /// No such process.
    KOLO_ESRCH = -3,
    /// Interrupted system call.
    KOLO_EINTR = -4,
    /// Input/output error.
    KOLO_EIO = -5,
    /// No such device or address.
    KOLO_ENXIO = -6,
    /// Argument list too long.
    KOLO_E2BIG = -7,
    /// Exec format error.
    KOLO_ENOEXEC = -8,
    /// Bad handle or descriptor.
    KOLO_EBADF = -9,
    /// No child processes.
    KOLO_ECHILD = -10,
    /// Resource temporarily unavailable.
    KOLO_EAGAIN = -11,
    /// Out of memory.
    KOLO_ENOMEM = -12,
    /// Permission denied.
    KOLO_EACCES = -13,
    /// Bad address in a system call.
    KOLO_EFAULT = -14,
    /// Resource busy.
    KOLO_EBUSY = -16,
    /// Already exists.
    KOLO_EEXIST = -17,
    /// Cross-device link.
    KOLO_EXDEV = -18,
    /// No such device.
    KOLO_ENODEV = -19,
    /// Not a directory.
    KOLO_ENOTDIR = -20,
    /// Is a directory.
    KOLO_EISDIR = -21,
    /// Invalid argument.
    KOLO_EINVAL = -22,
    /// Too many open files in the system.
    KOLO_ENFILE = -23,
    /// Too many open files in the process.
    KOLO_EMFILE = -24,
    /// Not a terminal.
    KOLO_ENOTTY = -25,
    /// Text file busy.
    KOLO_ETXTBSY = -26,
    /// File too large.
    KOLO_EFBIG = -27,
    /// No space left on device.
    KOLO_ENOSPC = -28,
    /// Illegal seek.
    KOLO_ESPIPE = -29,
    /// Read-only file system.
    KOLO_EROFS = -30,
    /// Too many links.
    KOLO_EMLINK = -31,
    /// Broken pipe or stream already shut down.
    KOLO_EPIPE = -32,
    /// Result out of range.
    KOLO_ERANGE = -34,
    /// Resource deadlock avoided.
    KOLO_EDEADLK = -35,
    /// Name too long.
    KOLO_ENAMETOOLONG = -36,
    /// Function not implemented.
    KOLO_ENOSYS = -38,
    /// Directory not empty.
    KOLO_ENOTEMPTY = -39,
    /// Too many symbolic links.
    KOLO_ELOOP = -40,
    /// Protocol error.
    KOLO_EPROTO = -71,
    /// Value too large.
    KOLO_EOVERFLOW = -75,
    /// Illegal byte sequence.
    KOLO_EILSEQ = -84,
    /// Not a socket.
    KOLO_ENOTSOCK = -88,
    /// Destination address required.
    KOLO_EDESTADDRREQ = -89,
    /// Message too long.
    KOLO_EMSGSIZE = -90,
    /// Wrong protocol type for the socket.
    KOLO_EPROTOTYPE = -91,
    /// Protocol option not available.
    KOLO_ENOPROTOOPT = -92,
    /// Protocol not supported.
    KOLO_EPROTONOSUPPORT = -93,
    /// Not supported on this system.
    KOLO_ENOTSUP = -95,
    /// Address family not supported.
    KOLO_EAFNOSUPPORT = -97,
    /// Address already in use.
    KOLO_EADDRINUSE = -98,
    /// Address not available.
    KOLO_EADDRNOTAVAIL = -99,
    /// Network is down.
    KOLO_ENETDOWN = -100,
    /// Network is unreachable.
    KOLO_ENETUNREACH = -101,
    /// Connection dropped by the network.
    KOLO_ENETRESET = -102,
    /// Connection aborted.
    KOLO_ECONNABORTED = -103,
    /// Connection reset by peer.
    KOLO_ECONNRESET = -104,
    /// Queue or buffer space exhausted.
    KOLO_ENOBUFS = -105,
    /// Already connected.
    KOLO_EISCONN = -106,
    /// Not connected.
    KOLO_ENOTCONN = -107,
    /// Timed out.
    KOLO_ETIMEDOUT = -110,
    /// Connection refused.
    KOLO_ECONNREFUSED = -111,
    /// Host is down.
    KOLO_EHOSTDOWN = -112,
    /// Host is unreachable.
    KOLO_EHOSTUNREACH = -113,
    /// Already under way.
    KOLO_EALREADY = -114,
    /// Now in progress.
    KOLO_EINPROGRESS = -115,
    /// Disk quota exceeded.
    KOLO_EDQUOT = -122,
    /// Canceled.
    KOLO_ECANCELED = -125,
    /// Called on a thread that does not own the loop.
    KOLO_EWRONGTHREAD = -4001,
    /// In a forked child, before kolo_loop_fork.
    KOLO_EFORKED = -4002,
    /// A bug inside kolo was caught where it would have left the library.
    KOLO_EPANIC = -4003,
    /// A system error without a name here: see kolo_system_error.
    KOLO_EUNKNOWN = -4094,
}

struct Text {
    number: c_int,
    name: CString,
    text: CString,
}

impl Text {
    fn new(number: c_int, name: &str, text: &str) -> Text {
        Text {
            number,
            // No text of ours has a NUL inside.
            name: CString::new(format!("KOLO_{name}")).unwrap_or_default(),
            text: CString::new(text).unwrap_or_default(),
        }
    }
}

/// Every code, as C has it.
static TEXTS: Lazy<Vec<Text>> = Lazy::new(|| {
    let codes = Code::ALL.iter();
    std::iter::once(Text::new(0, "OK", "success"))
        .chain(codes.map(|code| Text::new(code.number(), code.name(), code.text())))
        .collect()
});

fn find(number: c_int) -> Option<&'static Text> {
    TEXTS.iter().find(|text| text.number == number)
}

/// A short English text for an error: "connection refused" for KOLO_ECONNREFUSED. Any number is
/// allowed; for one that is no kolo_error the text says so.
///
/// The text is static: it must not be freed or changed. Never NULL. Any thread.
#[no_mangle]
pub extern "C" fn kolo_strerror(error: c_int) -> *const c_char {
    find(error).map_or(c"not an error code of kolo".as_ptr(), |text| {
        text.text.as_ptr()
    })
}

/// The name of an error: "KOLO_ECONNREFUSED", or "unknown" for a number that is no kolo_error.
///
/// The text is static: it must not be freed or changed. Never NULL. Any thread.
#[no_mangle]
pub extern "C" fn kolo_error_name(error: c_int) -> *const c_char {
    find(error).map_or(c"unknown".as_ptr(), |text| text.name.as_ptr())
}

/// The operating system's own number (errno, WSAGetLastError) behind the last error that kolo
/// returned or handed to a callback on this thread; 0 if it was kolo's own error, such as
/// KOLO_EBADF for a closed handle. A call that succeeds leaves it as it is.
#[no_mangle]
pub extern "C" fn kolo_system_error() -> c_int {
    last_system_error()
}

/// The version of the library that the program runs with: major << 16 | minor << 8 | patch. To be
/// compared with KOLO_VERSION, the version of the header that it was compiled with: within one
/// major version, a library that is not older serves. Any thread.
#[no_mangle]
pub extern "C" fn kolo_version() -> u32 {
    const VERSION: u32 = part(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | part(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | part(env!("CARGO_PKG_VERSION_PATCH"));
    VERSION
}

/// The same as a text: "1.2.3". Static, never NULL. Any thread.
#[no_mangle]
pub extern "C" fn kolo_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

const fn part(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(part) if part < 256 => part,
        _ => panic!("a part of the version does not fit"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn name(number: c_int) -> &'static str {
        // SAFETY: static, NUL-terminated text.
        unsafe { CStr::from_ptr(kolo_error_name(number)) }
            .to_str()
            .unwrap()
    }

    fn text(number: c_int) -> &'static str {
        // SAFETY: static, NUL-terminated text.
        unsafe { CStr::from_ptr(kolo_strerror(number)) }
            .to_str()
            .unwrap()
    }

    #[test]
    fn names_and_texts() {
        for code in Code::ALL {
            assert_eq!(name(code.number()), format!("KOLO_{}", code.name()));
            assert_eq!(text(code.number()), code.text());
        }
        assert_eq!((name(0), text(0)), ("KOLO_OK", "success"));
        for number in [1, -4000, c_int::MIN, c_int::MAX] {
            assert_eq!(name(number), "unknown");
            assert_eq!(text(number), "not an error code of kolo");
        }
    }

    #[test]
    fn the_version_is_the_packages() {
        let version = kolo_version();
        let text = format!("{}.{}.{}", version >> 16, version >> 8 & 255, version & 255);
        assert_eq!(text, env!("CARGO_PKG_VERSION"));
        // SAFETY: static, NUL-terminated text.
        let string = unsafe { CStr::from_ptr(kolo_version_string()) };
        assert_eq!(string.to_str().unwrap(), text);
    }
}
