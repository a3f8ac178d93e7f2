//! System calls that no crate wraps as kolo needs them: small, safe, one file per system.

#![cfg_attr(
    not(feature = "net"),
    allow(dead_code, reason = "the rooms that use it are left out")
)]

pub(crate) mod fork;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;
#[cfg(unix)]
pub(crate) mod signals;

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

/// The descriptor of a socket as the system has it: `RawFd`, or `RawSocket` on Windows.
pub type RawSocket = Descriptor;

/// A new TCP socket that neither blocks nor is inherited by programs the process starts.
pub(crate) fn tcp_socket(domain: Domain) -> io::Result<Socket> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// One waiting connection of a listener, as [`tcp_socket`] makes them.
pub(crate) fn accept(listener: &Socket) -> io::Result<Socket> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        listener.accept4(flags).map(|(socket, _)| socket)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let (socket, _) = listener.accept()?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}
