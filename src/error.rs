//! Errors: one table, the same numbers on every system.

use std::fmt;
use std::io;

/// Declares every code once: its name, its number, its text and the system's constant. Those under
/// `linux` have a constant there, and not on every other system.
macro_rules! codes {
    ($($name:ident = $number:literal, $text:literal;)*
     ; linux $($linux:ident = $linux_number:literal, $linux_text:literal;)*
     ; own $($own:ident = $own_number:literal, $own_text:literal;)*) => {
        /// What went wrong.
        ///
        /// The numbers are Linux' errno negated, on every system, so that a program may store
        /// and compare them. Those of looking up names (`EAI_...`) begin at -3000, kolo's own at
        /// -4001. `KOLO_<name>` is the C name.
        #[allow(clippy::upper_case_acronyms, non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $text] $name = -$number,)*
            $(#[doc = $linux_text] $linux = -$linux_number,)*
            $(#[doc = $own_text] $own = -$own_number,)*
        }

        impl Code {
            /// Every code there is, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)* $(Code::$linux,)* $(Code::$own,)*];

            /// The name without prefix: `"ECONNREFUSED"`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($name),)*
                    $(Code::$linux => stringify!($linux),)*
                    $(Code::$own => stringify!($own),)*
                }
            }

            /// A short English text: `"connection refused"`.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                    $(Code::$linux => $linux_text,)*
                    $(Code::$own => $own_text,)*
                }
            }

            /// The code with this (negative) number, if there is one.
            pub const fn from_number(number: i32) -> Option<Code> {
                match number {
                    $(n if n == -$number => Some(Code::$name),)*
                    $(n if n == -$linux_number => Some(Code::$linux),)*
                    $(n if n == -$own_number => Some(Code::$own),)*
                    _ => None,
                }
            }

            #[cfg(unix)]
            fn from_errno(errno: i32) -> Option<Code> {
                // Two names may share a number on some systems, so this is a chain, not a match.
                $(if errno == libc::$name { return Some(Code::$name); })*
                // One number with ENOTSUP on Linux, another one on others.
                if errno == libc::EOPNOTSUPP { return Some(Code::ENOTSUP); }
                #[cfg(any(target_os = "linux", target_os = "android"))]
                {
                    $(if errno == libc::$linux { return Some(Code::$linux); })*
                }
                None
            }
        }
    };
}

codes! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file, handle or request";
    ESRCH = 3, "no such process";
    EINTR = 4, "interrupted system call";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "argument list too long";
    ENOEXEC = 8, "exec format error";
    EBADF = 9, "bad handle or descriptor";
    ECHILD = 10, "no child processes";
    EAGAIN = 11, "resource temporarily unavailable";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address in a system call";
    ENOTBLK = 15, "block device required";
    EBUSY = 16, "resource busy";
    EEXIST = 17, "already exists";
    EXDEV = 18, "cross-device link";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open files in the system";
    EMFILE = 24, "too many open files in the process";
    ENOTTY = 25, "not a terminal";
    ETXTBSY = 26, "text file busy";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left on device";
    ESPIPE = 29, "illegal seek";
    EROFS = 30, "read-only file system";
    EMLINK = 31, "too many links";
    EPIPE = 32, "broken pipe or stream already shut down";
    EDOM = 33, "argument out of domain";
    ERANGE = 34, "result out of range";
    EDEADLK = 35, "resource deadlock avoided";
    ENAMETOOLONG = 36, "name too long";
    ENOLCK = 37, "no locks available";
    ENOSYS = 38, "function not implemented";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many symbolic links";
    ENOMSG = 42, "no message of that type";
    EIDRM = 43, "identifier removed";
    EREMOTE = 66, "object is remote";
    EPROTO = 71, "protocol error";
    EBADMSG = 74, "bad message";
    EOVERFLOW = 75, "value too large";
    EILSEQ = 84, "illegal byte sequence";
    EUSERS = 87, "too many users";
    ENOTSOCK = 88, "not a socket";
    EDESTADDRREQ = 89, "destination address required";
    EMSGSIZE = 90, "message too long";
    EPROTOTYPE = 91, "wrong protocol type for the socket";
    ENOPROTOOPT = 92, "protocol option not available";
    EPROTONOSUPPORT = 93, "protocol not supported";
    ESOCKTNOSUPPORT = 94, "socket type not supported";
    ENOTSUP = 95, "not supported on this system";
    EPFNOSUPPORT = 96, "protocol family not supported";
    EAFNOSUPPORT = 97, "address family not supported";
    EADDRINUSE = 98, "address already in use";
    EADDRNOTAVAIL = 99, "address not available";
    ENETDOWN = 100, "network is down";
    ENETUNREACH = 101, "network is unreachable";
    ENETRESET = 102, "connection dropped by the network";
    ECONNABORTED = 103, "connection aborted";
    ECONNRESET = 104, "connection reset by peer";
    ENOBUFS = 105, "queue or buffer space exhausted";
    EISCONN = 106, "already connected";
    ENOTCONN = 107, "not connected";
    ESHUTDOWN = 108, "endpoint was shut down";
    ETOOMANYREFS = 109, "too many references";
    ETIMEDOUT = 110, "timed out";
    ECONNREFUSED = 111, "connection refused";
    EHOSTDOWN = 112, "host is down";
    EHOSTUNREACH = 113, "host is unreachable";
    EALREADY = 114, "already under way";
    EINPROGRESS = 115, "now in progress";
    ESTALE = 116, "stale file handle";
    EDQUOT = 122, "disk quota exceeded";
    ECANCELED = 125, "canceled";
    ; linux
    EUNATCH = 49, "protocol driver not attached";
    ENODATA = 61, "no data available";
    ETIME = 62, "timer expired";
    ENONET = 64, "machine is not on the network";
    ENOLINK = 67, "link was severed";
    ECOMM = 70, "communication error on send";
    EMULTIHOP = 72, "multihop attempted";
    ENOTUNIQ = 76, "name not unique on the network";
    EBADFD = 77, "descriptor in a bad state";
    EUCLEAN = 117, "structure needs cleaning";
    EREMOTEIO = 121, "remote input/output error";
    ENOMEDIUM = 123, "no medium found";
    EMEDIUMTYPE = 124, "wrong medium type";
    ENOKEY = 126, "required key not available";
    EKEYEXPIRED = 127, "key has expired";
    EKEYREVOKED = 128, "key was revoked";
    EKEYREJECTED = 129, "key was rejected";
    EOWNERDEAD = 130, "owner died";
    ENOTRECOVERABLE = 131, "state not recoverable";
    ERFKILL = 132, "switched off by RF-kill";
    EHWPOISON = 133, "memory page has a hardware error";
    ; own
    EAI_ADDRFAMILY = 3000, "the name has no address of that family";
    EAI_AGAIN = 3001, "name lookup failed for now: try again";
    EAI_BADFLAGS = 3002, "bad flags for a name lookup";
    EAI_CANCELED = 3003, "name lookup canceled";
    EAI_FAIL = 3004, "name lookup failed for good";
    EAI_FAMILY = 3005, "address family not supported by name lookups";
    EAI_MEMORY = 3006, "out of memory in a name lookup";
    EAI_NODATA = 3007, "the name has no address";
    EAI_NONAME = 3008, "no such name or service";
    EAI_OVERFLOW = 3009, "the name does not fit";
    EAI_SERVICE = 3010, "no such service for that socket type";
    EAI_SOCKTYPE = 3011, "socket type not supported by name lookups";
    EAI_BADHINTS = 3013, "bad hints for a name lookup";
    EAI_PROTOCOL = 3014, "protocol of a name lookup unknown";
    EWRONGTHREAD = 4001, "called on a thread that does not own the loop";
    EFORKED = 4002, "the process was forked: call kolo_loop_fork first";
    EPANIC = 4003, "a panic was caught at the boundary";
    EUNKNOWN = 4094, "unknown system error";
}

impl Code {
    /// The negative number that the C ABI returns.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// Why an operation failed: a [`Code`], and the system's own number where one lies behind it.
///
/// Converts to and from [`std::io::Error`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Error {
    code: Code,
    system: i32,
}

/// A result of kolo.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of kolo's own, with no system error behind it.
    pub const fn new(code: Code) -> Error {
        Error { code, system: 0 }
    }

    /// The error for a number that the operating system gave (`errno`, `WSAGetLastError`).
    pub fn from_system(system: i32) -> Error {
        #[cfg(unix)]
        let code = Code::from_errno(system).unwrap_or(Code::EUNKNOWN);
        #[cfg(not(unix))]
        let code = crate::sys::code_of(system);
        Error { code, system }
    }

    /// The error that the last failed system call of this thread left.
    #[cfg(unix)]
    pub(crate) fn last() -> Error {
        Error::from_system(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    /// The code.
    pub const fn code(self) -> Code {
        self.code
    }

    /// The system's own number, or 0 where the error is kolo's.
    pub const fn system(self) -> i32 {
        self.system
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({}", self.code.name())?;
        if self.system != 0 {
            write!(f, ", system {}", self.system)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.system) {
            (Code::EUNKNOWN, system) if system != 0 => {
                write!(f, "{}", io::Error::from_raw_os_error(system))
            }
            _ => write!(f, "{} ({})", self.code.text(), self.code.name()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Code> for Error {
    fn from(code: Code) -> Error {
        Error::new(code)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        if let Some(system) = error.raw_os_error() {
            return Error::from_system(system);
        }
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
        inner
            .copied()
            .unwrap_or_else(|| Error::new(code_of_kind(error.kind())))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        if error.system != 0 {
            return io::Error::from_raw_os_error(error.system);
        }
        io::Error::new(kind_of_code(error.code), error)
    }
}

/// The kinds that stand for exactly one code, both ways.
const KINDS: &[(io::ErrorKind, Code)] = &[
    (io::ErrorKind::NotFound, Code::ENOENT),
    (io::ErrorKind::PermissionDenied, Code::EACCES),
    (io::ErrorKind::ConnectionRefused, Code::ECONNREFUSED),
    (io::ErrorKind::ConnectionReset, Code::ECONNRESET),
    (io::ErrorKind::ConnectionAborted, Code::ECONNABORTED),
    (io::ErrorKind::HostUnreachable, Code::EHOSTUNREACH),
    (io::ErrorKind::NetworkUnreachable, Code::ENETUNREACH),
    (io::ErrorKind::NetworkDown, Code::ENETDOWN),
    (io::ErrorKind::NotConnected, Code::ENOTCONN),
    (io::ErrorKind::AddrInUse, Code::EADDRINUSE),
    (io::ErrorKind::AddrNotAvailable, Code::EADDRNOTAVAIL),
    (io::ErrorKind::BrokenPipe, Code::EPIPE),
    (io::ErrorKind::AlreadyExists, Code::EEXIST),
    (io::ErrorKind::WouldBlock, Code::EAGAIN),
    (io::ErrorKind::InvalidInput, Code::EINVAL),
    (io::ErrorKind::TimedOut, Code::ETIMEDOUT),
    (io::ErrorKind::Interrupted, Code::EINTR),
    (io::ErrorKind::Unsupported, Code::ENOTSUP),
    (io::ErrorKind::OutOfMemory, Code::ENOMEM),
    (io::ErrorKind::ResourceBusy, Code::EBUSY),
    (io::ErrorKind::StorageFull, Code::ENOSPC),
];

pub(crate) fn code_of_kind(kind: io::ErrorKind) -> Code {
    let found = KINDS.iter().find(|(k, _)| *k == kind);
    found.map_or(Code::EUNKNOWN, |(_, code)| *code)
}

fn kind_of_code(code: Code) -> io::ErrorKind {
    let found = KINDS.iter().find(|(_, c)| *c == code);
    found.map_or(io::ErrorKind::Other, |(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_number_and_is_found_by_it() {
        for (at, code) in Code::ALL.iter().enumerate() {
            assert!(code.number() < 0);
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert!(Code::ALL[..at]
                .iter()
                .all(|other| other.number() != code.number()));
        }
        assert_eq!(Code::from_number(-4093), None);
        assert_eq!(Code::from_number(0), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn numbers_are_errno_negated_on_linux() {
        for code in Code::ALL.iter().filter(|code| code.number() > -1000) {
            assert_eq!(Error::from_system(-code.number()).code(), *code);
        }
    }

    #[test]
    fn converts_to_io_error_and_back() {
        for code in Code::ALL {
            let io: io::Error = Error::new(*code).into();
            assert_eq!(Error::from(io), Error::new(*code));
        }
        #[cfg(unix)]
        {
            let refused = Error::from(io::Error::from_raw_os_error(libc::ECONNREFUSED));
            assert_eq!(
                (refused.code(), refused.system()),
                (Code::ECONNREFUSED, libc::ECONNREFUSED)
            );
            assert_eq!(
                io::Error::from(refused).kind(),
                io::ErrorKind::ConnectionRefused
            );
        }
    }

    #[test]
    fn an_unknown_system_error_keeps_its_number() {
        let error = Error::from_system(99_999);
        assert_eq!((error.code(), error.system()), (Code::EUNKNOWN, 99_999));
    }
}
