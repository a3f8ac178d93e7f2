//! Windows. Type-checked and linted; what the system lacks answers `ENOTSUP` above.

use std::io::{self, IoSlice};
use std::os::windows::io::{AsRawSocket, BorrowedSocket, RawSocket};
#[cfg(feature = "capi")]
use std::os::windows::io::{FromRawSocket, IntoRawSocket};
use std::time::Instant;

use once_cell::sync::Lazy;
use socket2::Socket;

use crate::error::{code_of_kind, Code};

/// What the system calls a socket.
pub(crate) type Descriptor = RawSocket;
#[cfg(target_pointer_width = "64")]
pub(crate) type AtomicDescriptor = std::sync::atomic::AtomicU64;
#[cfg(target_pointer_width = "32")]
pub(crate) type AtomicDescriptor = std::sync::atomic::AtomicU32;

/// One that is closed when it is dropped.
pub(crate) type OwnedDescriptor = std::os::windows::io::OwnedSocket;

pub(crate) fn descriptor_of(socket: &Socket) -> Descriptor {
    socket.as_raw_socket()
}

impl<T: AsRawSocket> super::Numbered for T {
    fn number(&self) -> Descriptor {
        self.as_raw_socket()
    }
}

/// The socket as `polling` adds it.
pub(crate) fn raw_source(descriptor: Descriptor) -> RawSocket {
    descriptor
}

/// The socket as `polling` modifies and deletes it.
pub(crate) fn borrow<'a>(descriptor: Descriptor) -> BorrowedSocket<'a> {
    // SAFETY: not INVALID_SOCKET; the borrow is only handed to the AFD driver, which answers a
    // socket closed meanwhile with an error.
    unsafe { BorrowedSocket::borrow_raw(descriptor) }
}

/// Takes over a socket that the user hands in, who promises that it is open and from now on
/// kolo's.
#[cfg(feature = "capi")]
pub(crate) fn take_socket(descriptor: Descriptor) -> io::Result<Socket> {
    if !is_open(descriptor) {
        return Err(io::Error::from_raw_os_error(10038));
    }
    // SAFETY: an open socket that its owner gave away.
    Ok(unsafe { Socket::from_raw_socket(descriptor) })
}

pub(crate) fn is_open(descriptor: Descriptor) -> bool {
    descriptor != RawSocket::MAX
}

/// Whether the descriptor is ready now. There is no call for it here that a crate wraps: not known.
pub(crate) fn is_ready(_descriptor: Descriptor, _interest: crate::driver::Interest) -> bool {
    false
}

/// Hands a socket out of kolo.
#[cfg(feature = "capi")]
pub(crate) fn give_socket(socket: Socket) -> Descriptor {
    socket.into_raw_socket()
}

/// The monotonic clock in nanoseconds since kolo first asked.
pub(crate) fn monotonic_ns() -> u64 {
    static START: Lazy<Instant> = Lazy::new(Instant::now);
    // One second ahead, so that no time is ever 0.
    START.elapsed().as_nanos() as u64 + 1_000_000_000
}

/// Sends what the socket takes at once.
pub(crate) fn send(socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [one] => socket.send(one),
        many => socket.send_vectored(many),
    }
}

/// There is no such call.
#[cfg(feature = "net")]
pub(crate) fn disconnect(_socket: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What has come to a Unix-domain socket, and whether something else than the buffer's end cut it
/// short.
pub(crate) fn receive_message(socket: &Socket, memory: &mut [u8]) -> io::Result<(usize, bool)> {
    super::receive(socket, memory).map(|length| (length, false))
}

/// Descriptors do not travel here.
pub(crate) fn receive_passing(
    _socket: &Socket,
    _memory: &mut [u8],
    _passed: &mut Vec<OwnedDescriptor>,
) -> io::Result<(usize, bool, bool)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Descriptors do not travel here.
pub(crate) fn send_passing(
    _socket: &Socket,
    _slices: &[IoSlice<'_>],
    _descriptors: &[OwnedDescriptor],
) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn has_heavy_barrier() -> bool {
    false
}

pub(crate) fn heavy_barrier() {}

/// The code of a Windows Sockets or Win32 error number.
pub(crate) fn code_of(system: i32) -> Code {
    match system {
        10004 => Code::EINTR,
        10009 | 6 => Code::EBADF,
        10013 | 5 => Code::EACCES,
        10014 => Code::EFAULT,
        10022 | 87 => Code::EINVAL,
        10024 => Code::EMFILE,
        10035 => Code::EAGAIN,
        10036 => Code::EINPROGRESS,
        10037 => Code::EALREADY,
        10038 => Code::ENOTSOCK,
        10039 => Code::EDESTADDRREQ,
        10040 => Code::EMSGSIZE,
        10041 => Code::EPROTOTYPE,
        10042 => Code::ENOPROTOOPT,
        10043 => Code::EPROTONOSUPPORT,
        10045 | 50 => Code::ENOTSUP,
        10047 => Code::EAFNOSUPPORT,
        10048 => Code::EADDRINUSE,
        10049 => Code::EADDRNOTAVAIL,
        10050 => Code::ENETDOWN,
        10051 | 1231 => Code::ENETUNREACH,
        10052 => Code::ENETRESET,
        10053 | 1236 => Code::ECONNABORTED,
        10054 | 64 => Code::ECONNRESET,
        10055 => Code::ENOBUFS,
        10056 => Code::EISCONN,
        10057 => Code::ENOTCONN,
        10058 => Code::EPIPE,
        10060 | 121 => Code::ETIMEDOUT,
        10061 | 1225 => Code::ECONNREFUSED,
        10064 => Code::EHOSTDOWN,
        10065 | 1232 => Code::EHOSTUNREACH,
        995 => Code::ECANCELED,
        8 | 14 => Code::ENOMEM,
        _ => code_of_kind(io::Error::from_raw_os_error(system).kind()),
    }
}
