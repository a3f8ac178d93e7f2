//! Terminals: a description of one's own, the size of the window, and modes that are put back.

mod modes;
mod signals;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub(crate) use modes::{after_fork, apply_again, dispositions_changed, put_back_by_hand, Claim};

use super::Descriptor;

/// `ENOTTY` for what is no terminal.
pub(crate) fn check(descriptor: Descriptor) -> io::Result<()> {
    attributes(descriptor).map(drop)
}

/// tcgetattr(3).
fn attributes(descriptor: Descriptor) -> io::Result<libc::termios> {
    // SAFETY: numbers and an array of them, of which zeros are valid ones.
    let mut attributes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: a struct to fill in; a bad descriptor is answered with an error.
    if unsafe { libc::tcgetattr(descriptor, &mut attributes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(attributes)
}

/// What the descriptor is open for: `O_RDONLY`, `O_WRONLY` or `O_RDWR`.
pub(crate) fn access_mode(descriptor: Descriptor) -> io::Result<libc::c_int> {
    // SAFETY: F_GETFL reads flags; a bad descriptor is answered with an error.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(flags & libc::O_ACCMODE)
}

/// The terminal's number, the same for all its names where the system tells (/dev/tty is one).
fn device(descriptor: Descriptor) -> io::Result<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let mut number: libc::c_uint = 0;
        // SAFETY: TIOCGDEV writes an unsigned int (ioctl_tty(2)).
        if unsafe { libc::ioctl(descriptor, libc::TIOCGDEV, &mut number) } == 0 {
            return Ok(number.into());
        }
    }
    // SAFETY: a zeroed stat is valid memory for the call to fill in.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is valid; a bad descriptor is answered with an error.
    if unsafe { libc::fstat(descriptor, &mut status) } < 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::unnecessary_cast)] // narrower on some systems
    Ok(status.st_rdev as u64)
}

/// The side of a pseudo-terminal that a terminal emulator has. To open its name again would make
/// another one.
fn is_master(descriptor: Descriptor) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let mut number: libc::c_uint = 0;
        // SAFETY: TIOCGPTN writes an unsigned int (ioctl_tty(2)), and fails for the other side.
        unsafe { libc::ioctl(descriptor, libc::TIOCGPTN, &mut number) == 0 }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let name = name(descriptor);
        name.is_none_or(|name| name.as_bytes().ends_with(b"/ptmx"))
    }
}

/// ttyname_r(3).
fn name(descriptor: Descriptor) -> Option<CString> {
    let mut name = [0u8; 256];
    // SAFETY: so much room as it says.
    let error = unsafe { libc::ttyname_r(descriptor, name.as_mut_ptr().cast(), name.len()) };
    if error != 0 {
        return None;
    }
    let text = std::ffi::CStr::from_bytes_until_nul(&name).ok()?;
    Some(text.to_owned())
}

/// The terminal, opened anew: whether calls on it wait is then nobody else's business. (A shell
/// shares its own open file description with every program it starts, and so do those with each
/// other.) `None` where that cannot be: no permission, the terminal is out of sight or for one
/// user only, or this is the emulator's side.
pub(crate) fn reopen(descriptor: Descriptor, access: libc::c_int) -> Option<OwnedFd> {
    if is_master(descriptor) {
        return None;
    }
    // What the descriptor refers to, whatever names lead elsewhere by now (proc_pid_fd(5)).
    let by_number = cfg!(any(target_os = "linux", target_os = "android"))
        .then(|| CString::new(format!("/proc/self/fd/{descriptor}")).ok())
        .flatten();
    let paths = [by_number, name(descriptor)];
    let opened = paths.iter().flatten().find_map(|path| open(path, access))?;
    let same = device(opened.as_raw_fd()).ok()? == device(descriptor).ok()?;
    (same && check(opened.as_raw_fd()).is_ok()).then_some(opened)
}

fn open(path: &CString, access: libc::c_int) -> Option<OwnedFd> {
    // It must neither become this process' terminal nor make the call wait for a modem.
    let flags = access | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: a C string.
    let opened = unsafe { libc::open(path.as_ptr(), flags) };
    // SAFETY: just opened, and nobody else has heard of it.
    (opened >= 0).then(|| unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Another descriptor of the same open file description.
pub(crate) fn duplicate(descriptor: Descriptor) -> io::Result<OwnedFd> {
    // SAFETY: a bad descriptor is answered with an error. 3: the standard streams' places are
    // left to them, should they be closed.
    let copy = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        let error = io::Error::last_os_error();
        // With a limit of 3 or less, 3 is no number to begin at.
        return Err(match error.raw_os_error() {
            Some(libc::EINVAL) => io::Error::from_raw_os_error(libc::EMFILE),
            _ => error,
        });
    }
    // SAFETY: just made, and nobody else has heard of it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Columns, rows, and the size in pixels (ioctl_tty(2), TIOCGWINSZ).
pub(crate) fn window_size(descriptor: Descriptor) -> io::Result<libc::winsize> {
    // SAFETY: numbers, of which zeros are valid ones.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ fills in a winsize.
    if unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(size)
}
