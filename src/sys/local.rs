//! Unix-domain sockets, as far as they differ from others.

use std::io;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::AsRawFd;

use socket2::Socket;

/// What has come to a Unix-domain socket, and whether something else than the buffer's end cut it
/// short: the kernel ends a read behind the bytes that descriptors came with, also for a reader
/// that does not take them, and then says so (`MSG_CTRUNC`; recvmsg(2)). They are not installed.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn receive_message(socket: &Socket, memory: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut piece = libc::iovec {
        iov_base: memory.as_mut_ptr().cast(),
        iov_len: memory.len(),
    };
    // SAFETY: a msghdr of zeros is valid: no address, no buffers, no control message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut piece;
    message.msg_iovlen = 1;
    loop {
        // SAFETY: `message` names one buffer, which is ours for the duration of the call.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) };
        if length >= 0 {
            let cut = message.msg_flags & libc::MSG_CTRUNC != 0;
            return Ok((length as usize, cut));
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// What has come to a Unix-domain socket, and whether something else than the buffer's end cut it
/// short: not told here, where readiness is level-triggered and nothing is missed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn receive_message(socket: &Socket, memory: &mut [u8]) -> io::Result<(usize, bool)> {
    super::receive(socket, memory).map(|length| (length, false))
}

/// Two connected Unix-domain stream sockets that neither block nor are inherited by programs the
/// process starts.
pub(crate) fn socketpair() -> io::Result<[Socket; 2]> {
    let (one, other) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok([one, other])
}
