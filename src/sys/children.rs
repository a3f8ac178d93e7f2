//! Children that run: how they end, and signals to them.

use std::ffi::c_int;
use std::io;
use std::os::fd::OwnedFd;

/// What waiting for a child found.
pub(crate) enum Waited {
    Running,
    Ended(Ended),
    /// It is no child of this process (any more): somebody else waited for it, or SIGCHLD is
    /// ignored, or the process was forked since.
    Unknown,
}

pub(crate) struct Ended {
    pub how: How,
    pub usage: libc::rusage,
}

#[derive(Clone, Copy)]
pub(crate) enum How {
    Exited(c_int),
    Killed { signal: c_int, dumped: bool },
}

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::*;

/// Waits for the child no more: it is let go, if it has ended.
pub(crate) fn reap(pid: libc::pid_t) -> bool {
    loop {
        // SAFETY: takes numbers, and no place for a status.
        let outcome = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
        if outcome < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) {
            continue;
        }
        return outcome != 0;
    }
}

/// kill(2).
pub(crate) fn kill(pid: libc::pid_t, signal: c_int) -> io::Result<()> {
    // SAFETY: takes numbers only.
    if unsafe { libc::kill(pid, signal) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsRawFd, FromRawFd};

    use once_cell::sync::Lazy;

    use super::*;

    /// Whether children are named by descriptors (Linux 5.3), and nothing forbids it.
    /// `KOLO_PIDFD=0` in the environment says not to.
    pub(crate) fn has_pidfd() -> bool {
        static HAS: Lazy<bool> = Lazy::new(|| {
            let unwanted = std::env::var_os("KOLO_PIDFD").is_some_and(|value| value == "0");
            // SAFETY: takes nothing and cannot fail.
            !unwanted && open(unsafe { libc::getpid() }).is_some()
        });
        *HAS
    }

    pub(crate) fn open_pidfd(pid: libc::pid_t) -> Option<OwnedFd> {
        has_pidfd().then(|| open(pid)).flatten()
    }

    fn open(pid: libc::pid_t) -> Option<OwnedFd> {
        // SAFETY: takes numbers only.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as c_int;
        // SAFETY: the system call just made it for us.
        (raw >= 0).then(|| unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// How the child ended, if it did. It stays a zombie, so that its number is not used again
    /// until [`super::reap`].
    pub(crate) fn observe(pid: libc::pid_t, pidfd: Option<&OwnedFd>) -> Waited {
        const P_PIDFD: c_int = 3;
        let by_number = (libc::P_PID as c_int, pid);
        let name = pidfd.map_or(by_number, |pidfd| (P_PIDFD, pidfd.as_raw_fd()));
        match wait(name) {
            // Linux 5.3 has the descriptor, 5.4 waits by it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                wait(by_number).unwrap_or(Waited::Unknown)
            }
            outcome => outcome.unwrap_or(Waited::Unknown),
        }
    }

    /// waitid(2), as the kernel has it: with the resource usage.
    fn wait((kind, name): (c_int, c_int)) -> io::Result<Waited> {
        // SAFETY: both are plain memory, for which zeros are valid.
        let (mut info, mut usage): (libc::siginfo_t, libc::rusage) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: the places are ours.
        let outcome =
            unsafe { libc::syscall(libc::SYS_waitid, kind, name, &mut info, options, &mut usage) };
        if outcome < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EINTR) => Ok(Waited::Running),
                Some(libc::ECHILD) => Ok(Waited::Unknown),
                _ => Err(error),
            };
        }
        // SAFETY: waitid filled it in, or left the zeros.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(Waited::Running);
        }
        let how = match info.si_code {
            libc::CLD_EXITED => How::Exited(status),
            code => How::Killed {
                signal: status,
                dumped: code == libc::CLD_DUMPED,
            },
        };
        Ok(Waited::Ended(Ended { how, usage }))
    }

    /// Sends a signal to the child that the descriptor names, never to a later process that got
    /// its number.
    pub(crate) fn kill_named(
        pid: libc::pid_t,
        pidfd: Option<&OwnedFd>,
        signal: c_int,
    ) -> io::Result<()> {
        let Some(pidfd) = pidfd else {
            return kill(pid, signal);
        };
        let no_info = std::ptr::null::<libc::siginfo_t>();
        let (number, at) = (libc::SYS_pidfd_send_signal, pidfd.as_raw_fd());
        // SAFETY: takes numbers, and no further information.
        if unsafe { libc::syscall(number, at, signal, no_info, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::*;

    pub(crate) fn has_pidfd() -> bool {
        false
    }

    pub(crate) fn open_pidfd(_pid: libc::pid_t) -> Option<OwnedFd> {
        None
    }

    /// How the child ended, if it did.
    pub(crate) fn observe(pid: libc::pid_t, _pidfd: Option<&OwnedFd>) -> Waited {
        let mut status = 0;
        // SAFETY: plain memory, for which zeros are valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the places are ours.
        match unsafe { libc::wait4(pid, &mut status, libc::WNOHANG, &mut usage) } {
            0 => Waited::Running,
            found if found == pid => {
                let how = if libc::WIFSIGNALED(status) {
                    How::Killed {
                        signal: libc::WTERMSIG(status),
                        dumped: libc::WCOREDUMP(status),
                    }
                } else {
                    How::Exited(libc::WEXITSTATUS(status))
                };
                Waited::Ended(Ended { how, usage })
            }
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => Waited::Running,
            _ => Waited::Unknown,
        }
    }

    pub(crate) fn kill_named(
        pid: libc::pid_t,
        _pidfd: Option<&OwnedFd>,
        signal: c_int,
    ) -> io::Result<()> {
        kill(pid, signal)
    }
}
