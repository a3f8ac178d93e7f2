//! Unix-domain sockets, as far as they differ from others: descriptors that travel beside bytes,
//! the peer's credentials, the mode of the socket file.

use std::io::{self, IoSlice};
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use socket2::{Domain, Socket, Type};

/// Descriptors that one message may carry (unix(7), `SCM_MAX_FD`).
pub(crate) const DESCRIPTORS_MAX: usize = 253;

/// Room for the control messages of one call: that many descriptors, and what a socket that was
/// adopted may be set up to tell besides.
struct Control([u64; CONTROL_WORDS]);

const CONTROL_WORDS: usize = 160;

/// A new Unix-domain stream socket that neither blocks nor is inherited by programs the process
/// starts.
pub(crate) fn local_socket() -> io::Result<Socket> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// Two connected Unix-domain stream sockets, as [`local_socket`] makes them.
pub(crate) fn socketpair() -> io::Result<[Socket; 2]> {
    let (one, other) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok([one, other])
}

/// What has come to a Unix-domain socket, and whether something else than the buffer's end may have
/// cut it short: the kernel ends a read behind the bytes that descriptors came with, also for a
/// reader that does not take them, and then says so (`MSG_CTRUNC`; recvmsg(2)). They are not
/// installed.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn receive_message(socket: &Socket, memory: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut piece = piece(memory);
    let mut message = message(&mut piece);
    let length = receive_into(socket, &mut message, 0)?;
    Ok((length, message.msg_flags & libc::MSG_CTRUNC != 0))
}

/// What has come to a Unix-domain socket, and whether something else than the buffer's end may have
/// cut it short: not told here, where readiness is level-triggered and nothing is missed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn receive_message(socket: &Socket, memory: &mut [u8]) -> io::Result<(usize, bool)> {
    super::receive(socket, memory).map(|length| (length, false))
}

/// As [`receive_message`], with the descriptors that came along, which are added to `passed`; and
/// whether some did not come whole.
pub(crate) fn receive_passing(
    socket: &Socket,
    memory: &mut [u8],
    passed: &mut Vec<OwnedFd>,
) -> io::Result<(usize, bool, bool)> {
    #[cfg(not(target_vendor = "apple"))]
    const FLAGS: libc::c_int = libc::MSG_CMSG_CLOEXEC;
    #[cfg(target_vendor = "apple")]
    const FLAGS: libc::c_int = 0;

    let mut control = Control([0; CONTROL_WORDS]);
    let mut piece = piece(memory);
    let mut message = message(&mut piece);
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control.0) as _;
    let length = receive_into(socket, &mut message, FLAGS)?;
    let before = passed.len();
    take_descriptors(&message, passed);
    let lost = message.msg_flags & libc::MSG_CTRUNC != 0;
    Ok((length, lost || passed.len() > before, lost))
}

/// Sends what the socket takes at once, and with its first byte the descriptors. A peer that is
/// gone is an error, never `SIGPIPE`.
pub(crate) fn send_passing(
    socket: &Socket,
    slices: &[IoSlice<'_>],
    descriptors: &[OwnedFd],
) -> io::Result<usize> {
    #[cfg(not(target_vendor = "apple"))]
    const FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    const FLAGS: libc::c_int = 0;

    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let bytes = size_of_val(&numbers[..]) as libc::c_uint;
    let mut control = Control([0; CONTROL_WORDS]);
    // SAFETY: a msghdr of zeros is valid: no address, no buffers, no control message.
    let mut message: libc::msghdr = unsafe { zeroed() };
    // `IoSlice` has the layout of `iovec`; sending only reads it.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: the macro only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
    // SAFETY: the buffer is aligned for a header and has room for it and `DESCRIPTORS_MAX`
    // descriptors, of which there are no more.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
        let place = libc::CMSG_DATA(header);
        place.copy_from_nonoverlapping(numbers.as_ptr().cast(), bytes as usize);
    }
    loop {
        // SAFETY: `message` names memory that lives through the call.
        let length = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, FLAGS) };
        if length >= 0 {
            return Ok(length as usize);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

fn piece(memory: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: memory.as_mut_ptr().cast(),
        iov_len: memory.len(),
    }
}

fn message(piece: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a msghdr of zeros is valid: no address, no buffers, no control message.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = piece;
    message.msg_iovlen = 1;
    message
}

fn receive_into(
    socket: &Socket,
    message: &mut libc::msghdr,
    flags: libc::c_int,
) -> io::Result<usize> {
    let room = message.msg_controllen;
    loop {
        message.msg_controllen = room;
        // SAFETY: `message` names memory that the callers here own for the duration of the call.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), message, flags) };
        if length >= 0 {
            return Ok(length as usize);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// The descriptors in a received message's control messages.
fn take_descriptors(message: &libc::msghdr, passed: &mut Vec<OwnedFd>) {
    // SAFETY: `message` was filled in by recvmsg, and its control buffer is still there. Each
    // descriptor in it is new and ours alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let (level, kind) = ((*header).cmsg_level, (*header).cmsg_type);
            if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header);
                let before = data.offset_from(header.cast::<u8>()) as usize;
                let bytes = ((*header).cmsg_len as usize).saturating_sub(before);
                for at in 0..bytes / size_of::<RawFd>() {
                    let number = data.cast::<RawFd>().add(at).read_unaligned();
                    #[cfg(target_vendor = "apple")]
                    libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
                    passed.push(OwnedFd::from_raw_fd(number));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}

/// Who is behind the other end: process (where the system tells), user, group.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn peer_credentials(socket: &Socket) -> io::Result<(Option<i32>, u32, u32)> {
    // SAFETY: a zeroed ucred is valid memory for the call to fill in.
    let mut peer: libc::ucred = unsafe { zeroed() };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` has `length` bytes.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut peer).cast(),
            &mut length,
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    // A socket without a peer has nobody's.
    if peer.pid == 0 && peer.uid == u32::MAX {
        return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
    }
    Ok(((peer.pid > 0).then_some(peer.pid), peer.uid, peer.gid))
}

/// Who is behind the other end: process (where the system tells), user, group.
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
    target_os = "netbsd"
))]
pub(crate) fn peer_credentials(socket: &Socket) -> io::Result<(Option<i32>, u32, u32)> {
    let (mut user, mut group) = (0, 0);
    // SAFETY: both are valid places.
    if unsafe { libc::getpeereid(socket.as_raw_fd(), &mut user, &mut group) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((peer_process(socket), user, group))
}

#[cfg(target_vendor = "apple")]
fn peer_process(socket: &Socket) -> Option<i32> {
    let mut process: libc::pid_t = 0;
    let mut length = size_of::<libc::pid_t>() as libc::socklen_t;
    // SAFETY: `process` has `length` bytes.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_LOCAL,
            libc::LOCAL_PEERPID,
            std::ptr::from_mut(&mut process).cast(),
            &mut length,
        )
    };
    (outcome == 0 && process > 0).then_some(process)
}

#[cfg(any(
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
    target_os = "netbsd"
))]
fn peer_process(_socket: &Socket) -> Option<i32> {
    None
}

/// Who is behind the other end: not told here.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
    target_os = "netbsd"
)))]
pub(crate) fn peer_credentials(_socket: &Socket) -> io::Result<(Option<i32>, u32, u32)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Has the file that binding the socket will make get no more than this mode (Linux gives it the
/// socket's own, less the umask). Where sockets have none, nothing happens.
pub(crate) fn set_mode_before_binding(socket: &Socket, mode: u32) {
    // SAFETY: fchmod takes numbers. What it did not do is done after binding.
    unsafe { libc::fchmod(socket.as_raw_fd(), mode as libc::mode_t) };
}

/// Takes the lock on an open file that processes heed who ask for it, if it is free (flock(2)).
#[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
pub(crate) fn try_lock(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: flock takes numbers.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// There is no such lock here.
#[cfg(any(target_os = "solaris", target_os = "illumos"))]
pub(crate) fn try_lock(_file: &std::fs::File) -> io::Result<()> {
    Ok(())
}
