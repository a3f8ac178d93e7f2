//! Unix.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
#[cfg(feature = "capi")]
use std::os::fd::{FromRawFd, IntoRawFd};

use socket2::Socket;

/// What the system calls an open file or socket.
pub(crate) type Descriptor = RawFd;
pub(crate) type AtomicDescriptor = std::sync::atomic::AtomicI32;

/// One that is closed when it is dropped.
pub(crate) type OwnedDescriptor = std::os::fd::OwnedFd;

pub(crate) fn descriptor_of(socket: &Socket) -> Descriptor {
    socket.as_raw_fd()
}

impl<T: AsRawFd> super::Numbered for T {
    fn number(&self) -> Descriptor {
        self.as_raw_fd()
    }
}

/// The descriptor as `polling` adds it.
pub(crate) fn raw_source(descriptor: Descriptor) -> RawFd {
    descriptor
}

/// The descriptor as `polling` modifies and deletes it.
pub(crate) fn borrow<'a>(descriptor: Descriptor) -> BorrowedFd<'a> {
    // SAFETY: not -1 (sources hold none below 0); the borrow is only handed to epoll_ctl, kevent
    // or poll, which answer a descriptor closed meanwhile with an error.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

/// Takes over a socket that the user hands in.
///
/// The user's promise, given by calling the API that leads here, is that the descriptor is open
/// and from now on kolo's.
#[cfg(feature = "capi")]
pub(crate) fn take_socket(descriptor: Descriptor) -> io::Result<Socket> {
    if descriptor < 0 || !is_open(descriptor) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: an open descriptor that its owner gave away.
    Ok(unsafe { Socket::from_raw_fd(descriptor) })
}

pub(crate) fn is_open(descriptor: Descriptor) -> bool {
    // SAFETY: F_GETFD reads a flag; a bad descriptor is answered with an error.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) >= 0 }
}

/// Whether the descriptor is ready now (poll(2)); also when it is broken.
pub(crate) fn is_ready(descriptor: Descriptor, interest: crate::driver::Interest) -> bool {
    let mut asked = libc::pollfd {
        fd: descriptor,
        events: 0,
        revents: 0,
    };
    if interest.contains(crate::driver::Interest::READABLE) {
        asked.events |= libc::POLLIN;
    }
    if interest.contains(crate::driver::Interest::WRITABLE) {
        asked.events |= libc::POLLOUT;
    }
    // SAFETY: one struct, as it says, and no waiting.
    let ready = unsafe { libc::poll(&mut asked, 1, 0) };
    ready > 0
}

/// Hands a socket out of kolo.
#[cfg(feature = "capi")]
pub(crate) fn give_socket(socket: Socket) -> Descriptor {
    socket.into_raw_fd()
}

/// The monotonic clock in nanoseconds (`CLOCK_MONOTONIC`, clock_gettime(2)).
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec; this clock exists on every system supported, so the
    // call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

/// Sends what the socket takes at once. A peer that is gone is an error, never `SIGPIPE`.
#[inline]
pub(crate) fn send(socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // Darwin has no such flag; there socket2 sets SO_NOSIGPIPE on the socket.
    #[cfg(not(target_vendor = "apple"))]
    const FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    const FLAGS: libc::c_int = 0;
    loop {
        let outcome = match slices {
            [one] => {
                // The call itself, as socket2 makes it: it is in the way of every message.
                let (at, bytes) = (socket.as_raw_fd(), one.as_ptr().cast());
                // SAFETY: `one` is that many readable bytes for the duration of the call.
                let sent = unsafe { libc::send(at, bytes, one.len(), FLAGS) };
                usize::try_from(sent).map_err(|_| io::Error::last_os_error())
            }
            many => socket.send_vectored_with_flags(many, FLAGS),
        };
        match outcome {
            Ok(sent) => return Ok(sent),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Undoes the connecting of a datagram socket (connect(2), `AF_UNSPEC`).
#[cfg(feature = "net")]
pub(crate) fn disconnect(socket: &Socket) -> io::Result<()> {
    // SAFETY: a struct of numbers.
    let mut nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `nobody` lives through the call and is as long as it says.
    if unsafe { libc::connect(socket.as_raw_fd(), &nobody, length) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // What the BSDs and Darwin say after they have done it.
        error if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        error => Err(error),
    }
}

#[cfg(any(target_os = "solaris", target_os = "illumos"))]
use libc::___errno as errno_location;
#[cfg(target_os = "android")]
use libc::__errno as errno_location;
#[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
use libc::__errno as errno_location;
#[cfg(any(target_os = "linux", target_os = "l4re"))]
use libc::__errno_location as errno_location;
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly"
))]
use libc::__error as errno_location;

/// Sets this thread's errno, for the calls that tell an error by nothing else.
#[cfg_attr(not(feature = "fs"), allow(dead_code))]
pub(crate) fn set_errno(errno: i32) {
    // SAFETY: this thread's own.
    unsafe { *errno_location() = errno };
}

/// Runs what a signal handler does, and leaves errno to those whom it interrupted.
pub(crate) fn keep_errno(run: impl FnOnce()) {
    // SAFETY: the errno that is put back is this thread's.
    unsafe {
        let errno = errno_location();
        let before = *errno;
        run();
        *errno = before;
    }
}

/// Writes eight bytes to an event descriptor or a pipe, to wake whoever waits for it; a full one
/// wakes already. Async-signal-safe, and errno is left as it was.
pub(crate) fn write_event(descriptor: Descriptor) {
    let one = 1u64.to_ne_bytes();
    keep_errno(|| loop {
        // SAFETY: eight bytes of our own are handed to write(2), which is async-signal-safe.
        let written = unsafe { libc::write(descriptor, one.as_ptr().cast(), one.len()) };
        // SAFETY: this thread's own. An interrupted write has woken nobody.
        if written >= 0 || unsafe { *errno_location() } != libc::EINTR {
            break;
        }
    });
}

/// Whether [`heavy_barrier`] stands on every thread of the process.
#[cfg(target_os = "linux")]
pub(crate) fn has_heavy_barrier() -> bool {
    use std::sync::atomic::{AtomicU8, Ordering};
    const UNKNOWN: u8 = 0;
    const NO: u8 = 1;
    const YES: u8 = 2;
    // Two threads may both register, which does no harm; one that waited for another would wait for ever in a child that
    // was forked meanwhile.
    static REGISTERED: AtomicU8 = AtomicU8::new(UNKNOWN);
    let known = REGISTERED.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known == YES;
    }
    let command = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
    // SAFETY: membarrier takes numbers only.
    let registered = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 };
    REGISTERED.store(if registered { YES } else { NO }, Ordering::Relaxed);
    registered
}

/// A full memory barrier on every running thread of the process (membarrier(2)): it pairs with
/// nothing but a compiler barrier on the other side. Only where [`has_heavy_barrier`].
#[cfg(target_os = "linux")]
pub(crate) fn heavy_barrier() {
    // SAFETY: membarrier takes numbers only.
    unsafe {
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED,
            0,
            0,
        );
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn has_heavy_barrier() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn heavy_barrier() {}
