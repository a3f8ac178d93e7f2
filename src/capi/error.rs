//! Errors, the version, the features
//!
//! Every function that can fail returns an int: 0 or a positive value on success, a negative
//! kolo_error otherwise. The numbers are Linux' errno negated, and are the same on every system, so
//! that programs may store and compare them. Those of looking up names are numbered from -3000 on,
//! kolo's own from -4001 on.

use std::ffi::{c_char, c_int, CString};

use once_cell::sync::Lazy;

use super::address::kolo_limit;
use super::boundary::{guard, last_system_error, write_text};
use crate::error::{Code, Error};

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
    /// Block device required.
    KOLO_ENOTBLK = -15,
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
    /// Argument out of domain.
    KOLO_EDOM = -33,
    /// Result out of range.
    KOLO_ERANGE = -34,
    /// Resource deadlock avoided.
    KOLO_EDEADLK = -35,
    /// Name too long.
    KOLO_ENAMETOOLONG = -36,
    /// No locks available.
    KOLO_ENOLCK = -37,
    /// Function not implemented.
    KOLO_ENOSYS = -38,
    /// Directory not empty.
    KOLO_ENOTEMPTY = -39,
    /// Too many symbolic links.
    KOLO_ELOOP = -40,
    /// No message of that type.
    KOLO_ENOMSG = -42,
    /// Identifier removed.
    KOLO_EIDRM = -43,
    /// Protocol driver not attached.
    KOLO_EUNATCH = -49,
    /// No data available.
    KOLO_ENODATA = -61,
    /// Timer expired.
    KOLO_ETIME = -62,
    /// Machine is not on the network.
    KOLO_ENONET = -64,
    /// Object is remote.
    KOLO_EREMOTE = -66,
    /// Link was severed.
    KOLO_ENOLINK = -67,
    /// Communication error on send.
    KOLO_ECOMM = -70,
    /// Protocol error.
    KOLO_EPROTO = -71,
    /// Multihop attempted.
    KOLO_EMULTIHOP = -72,
    /// Bad message.
    KOLO_EBADMSG = -74,
    /// Value too large.
    KOLO_EOVERFLOW = -75,
    /// Name not unique on the network.
    KOLO_ENOTUNIQ = -76,
    /// Descriptor in a bad state.
    KOLO_EBADFD = -77,
    /// Illegal byte sequence.
    KOLO_EILSEQ = -84,
    /// Too many users.
    KOLO_EUSERS = -87,
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
    /// Socket type not supported.
    KOLO_ESOCKTNOSUPPORT = -94,
    /// Not supported on this system.
    KOLO_ENOTSUP = -95,
    /// Protocol family not supported.
    KOLO_EPFNOSUPPORT = -96,
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
    /// Endpoint was shut down.
    KOLO_ESHUTDOWN = -108,
    /// Too many references.
    KOLO_ETOOMANYREFS = -109,
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
    /// Stale file handle.
    KOLO_ESTALE = -116,
    /// Structure needs cleaning.
    KOLO_EUCLEAN = -117,
    /// Remote input/output error.
    KOLO_EREMOTEIO = -121,
    /// Disk quota exceeded.
    KOLO_EDQUOT = -122,
    /// No medium found.
    KOLO_ENOMEDIUM = -123,
    /// Wrong medium type.
    KOLO_EMEDIUMTYPE = -124,
    /// Canceled.
    KOLO_ECANCELED = -125,
    /// Required key not available.
    KOLO_ENOKEY = -126,
    /// Key has expired.
    KOLO_EKEYEXPIRED = -127,
    /// Key was revoked.
    KOLO_EKEYREVOKED = -128,
    /// Key was rejected.
    KOLO_EKEYREJECTED = -129,
    /// Owner died.
    KOLO_EOWNERDEAD = -130,
    /// State not recoverable.
    KOLO_ENOTRECOVERABLE = -131,
    /// Switched off by RF-kill.
    KOLO_ERFKILL = -132,
    /// Memory page has a hardware error.
    KOLO_EHWPOISON = -133,
    /// The name has no address of that family.
    KOLO_EAI_ADDRFAMILY = -3000,
    /// Name lookup failed for now: try again.
    KOLO_EAI_AGAIN = -3001,
    /// Bad flags for a name lookup.
    KOLO_EAI_BADFLAGS = -3002,
    /// Name lookup canceled.
    KOLO_EAI_CANCELED = -3003,
    /// Name lookup failed for good.
    KOLO_EAI_FAIL = -3004,
    /// Address family not supported by name lookups.
    KOLO_EAI_FAMILY = -3005,
    /// Out of memory in a name lookup.
    KOLO_EAI_MEMORY = -3006,
    /// The name has no address.
    KOLO_EAI_NODATA = -3007,
    /// No such name or service.
    KOLO_EAI_NONAME = -3008,
    /// The name does not fit.
    KOLO_EAI_OVERFLOW = -3009,
    /// No such service for that socket type.
    KOLO_EAI_SERVICE = -3010,
    /// Socket type not supported by name lookups.
    KOLO_EAI_SOCKTYPE = -3011,
    /// Bad hints for a name lookup.
    KOLO_EAI_BADHINTS = -3013,
    /// Protocol of a name lookup unknown.
    KOLO_EAI_PROTOCOL = -3014,
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

/// The code for an error number of the operating system's: errno, or on Windows that of
/// WSAGetLastError and GetLastError. KOLO_OK for 0, KOLO_EUNKNOWN for one that has no name here.
/// Never fails otherwise, and leaves kolo_system_error as it is. Any thread.
#[no_mangle]
pub extern "C" fn kolo_error_from_system(system: c_int) -> c_int {
    match system {
        0 => kolo_error::KOLO_OK as c_int,
        system => Error::from_system(system).code().number(),
    }
}

/// Writes an error as a text for people, with its name: "timed out (KOLO_ETIMEDOUT)". `system` is
/// the operating system's number behind it (kolo_system_error), or 0: with KOLO_EUNKNOWN, that
/// number and the system's text for it are written as well. Any `error` is allowed; of one that is
/// no kolo_error the number is written. KOLO_ERROR_TEXT_MAX bytes are enough for any. Any thread.
///
/// Returns the length of the text without its NUL.
///
/// Errors: KOLO_EINVAL if `text` is NULL; KOLO_ENOBUFS if text and NUL do not fit into `capacity`
/// bytes: then nothing is written.
#[no_mangle]
pub unsafe extern "C" fn kolo_error_format(
    error: c_int,
    system: c_int,
    text: *mut c_char,
    capacity: usize,
) -> c_int {
    guard(|| {
        let line = describe(error, system);
        // SAFETY: the caller's memory, as the header asks for it.
        unsafe { write_text(line.as_bytes(), text, capacity) }
    })
}

/// An error for people, in less than KOLO_ERROR_TEXT_MAX bytes.
fn describe(error: c_int, system: c_int) -> String {
    const UNKNOWN: c_int = kolo_error::KOLO_EUNKNOWN as c_int;
    let mut line = match (error, Code::from_number(error)) {
        (0, _) => "success (KOLO_OK)".to_owned(),
        (UNKNOWN, _) if system != 0 => {
            // Rust adds the number.
            let of_system = std::io::Error::from_raw_os_error(system);
            format!("{of_system} (KOLO_EUNKNOWN)")
        }
        (_, Some(code)) => format!("{} (KOLO_{})", code.text(), code.name()),
        (_, None) => format!("not an error code of kolo ({error})"),
    };
    // The system's texts, in whatever language, are not ours to bound.
    while line.len() >= kolo_limit::KOLO_ERROR_TEXT_MAX as usize {
        line.pop();
    }
    line
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

/// What a library can be built without; see kolo_features.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_feature {
    /// TCP and UDP.
    KOLO_FEATURE_NET = 1,
    /// Unix-domain sockets, pipes, descriptors passed between processes.
    KOLO_FEATURE_LOCAL = 2,
    /// Child processes.
    KOLO_FEATURE_PROCESS = 4,
    /// Files and folders.
    KOLO_FEATURE_FS = 8,
    /// Names to addresses and back.
    KOLO_FEATURE_DNS = 16,
    /// Watching files and folders for changes.
    KOLO_FEATURE_WATCH = 32,
    /// Terminals.
    KOLO_FEATURE_TTY = 64,
    /// Simulations.
    KOLO_FEATURE_SIM = 128,
}

/// What the library that the program runs with was built with: kolo_feature combined with |. The
/// functions of a feature that it lacks are not in it, so a program that can do without one looks
/// them up at run time (dlsym). Any thread.
#[no_mangle]
pub extern "C" fn kolo_features() -> u32 {
    use kolo_feature::*;
    let all = [
        (cfg!(feature = "net"), KOLO_FEATURE_NET),
        (cfg!(feature = "local"), KOLO_FEATURE_LOCAL),
        (cfg!(feature = "process"), KOLO_FEATURE_PROCESS),
        (cfg!(feature = "fs"), KOLO_FEATURE_FS),
        (cfg!(feature = "dns"), KOLO_FEATURE_DNS),
        (cfg!(feature = "watch"), KOLO_FEATURE_WATCH),
        (cfg!(feature = "tty"), KOLO_FEATURE_TTY),
        (cfg!(feature = "sim"), KOLO_FEATURE_SIM),
    ];
    let there = all.iter().filter(|(there, _)| *there);
    there.fold(0, |bits, (_, feature)| bits | *feature as u32)
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
