//! System calls that no crate wraps as kolo needs them: small, safe, one file per system.

#![cfg_attr(
    not(feature = "net"),
    allow(dead_code, reason = "the rooms that use it are left out")
)]

#[cfg(all(unix, feature = "process"))]
pub(crate) mod children;
pub(crate) mod datagrams;
#[cfg(unix)]
#[cfg_attr(not(feature = "local"), allow(dead_code))]
mod file;
pub(crate) mod fork;
#[cfg(feature = "fs")]
pub(crate) mod fs;
mod held;
#[cfg(unix)]
#[cfg_attr(not(feature = "local"), allow(dead_code))]
mod local;
#[cfg(feature = "dns")]
pub(crate) mod names;
#[cfg(feature = "net")]
pub(crate) mod udp_options;
#[cfg(unix)]
#[cfg_attr(all(loom, test), allow(dead_code))] // barriers are modelled then
mod unix;
#[cfg(windows)]
mod windows;
#[cfg(unix)]
#[cfg_attr(not(any(feature = "local", feature = "tty")), allow(unused_imports))]
pub(crate) use file::*;
#[cfg(unix)]
#[cfg_attr(not(feature = "local"), allow(unused_imports))]
pub(crate) use local::*;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;
#[cfg(all(
    feature = "watch",
    any(target_os = "linux", target_os = "android"),
    not(kolo_watch_notify)
))]
pub(crate) mod inotify;
#[cfg(unix)]
pub(crate) mod machine;
#[cfg(unix)]
pub(crate) mod signals;
#[cfg(all(unix, feature = "process"))]
pub(crate) mod spawn;
#[cfg(all(unix, feature = "tty"))]
pub(crate) mod terminal;

pub(crate) use held::{is_held, Held, Numbered};

use std::io::{self, Read};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::{Code, Error, Result};

/// The descriptor of a socket as the system has it: `RawFd`, or `RawSocket` on Windows.
pub type RawSocket = Descriptor;

/// A new UDP socket that neither blocks nor is inherited by programs the process starts.
#[cfg(feature = "net")]
pub(crate) fn udp_socket(domain: Domain) -> io::Result<Socket> {
    new_socket(domain, Type::DGRAM, Protocol::UDP)
}

/// A new TCP socket that neither blocks nor is inherited by programs the process starts.
pub(crate) fn tcp_socket(domain: Domain) -> io::Result<Socket> {
    new_socket(domain, Type::STREAM, Protocol::TCP)
}

fn new_socket(domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        Socket::new(domain, kind.nonblocking(), Some(protocol))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let socket = Socket::new(domain, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// What has come, without waiting.
#[inline]
pub(crate) fn receive(socket: &Socket, memory: &mut [u8]) -> io::Result<usize> {
    loop {
        match (&mut &*socket).read(memory) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Begins to connect. A call that a signal interrupted has begun too (connect(2)): asked again, the system says how
/// far it is.
pub(crate) fn connect(socket: &Socket, to: &SockAddr) -> Result<()> {
    let mut begun = false;
    loop {
        match socket.connect(to).map_err(Error::from) {
            Err(error) if error.code() == Code::EINTR => begun = true,
            Err(error) if begun && matches!(error.code(), Code::EALREADY | Code::EISCONN) => {
                return Ok(());
            }
            outcome => return outcome,
        }
    }
}

/// One waiting connection of a listener, as [`tcp_socket`] makes them.
pub(crate) fn accept(listener: &Socket) -> io::Result<Socket> {
    loop {
        match accept_once(listener) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

fn accept_once(listener: &Socket) -> io::Result<Socket> {
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
