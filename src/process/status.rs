//! How a program ended, and what it used.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::sys::children::{self, How, Waited};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitStatus {
    /// By itself, with this code (0 to 255); 0 means that all went well.
    Code(i32),
    /// By a signal.
    Signal {
        /// Its number.
        number: i32,
        /// It left an image of its memory (core(5)).
        core_dumped: bool,
    },
    /// Somebody else took the status: other code of this process that waits for any child, or
    /// that ignores `SIGCHLD`. Or the process was forked since, and this is the child.
    Unknown,
}

impl ExitStatus {
    /// Whether it ended by itself with the code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }

    /// The code, of one that ended by itself.
    pub fn code(self) -> Option<i32> {
        match self {
            ExitStatus::Code(code) => Some(code),
            _ => None,
        }
    }

    /// The signal that ended it.
    pub fn signal(self) -> Option<i32> {
        match self {
            ExitStatus::Signal { number, .. } => Some(number),
            _ => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal {
                number,
                core_dumped,
            } => {
                let dumped = if *core_dumped { " (core dumped)" } else { "" };
                write!(f, "signal {number}{dumped}")
            }
            ExitStatus::Unknown => f.write_str("unknown end"),
        }
    }
}

/// What a program, and those children of its own that it waited for, used (getrusage(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Processor time in its own code.
    pub user: Duration,
    /// Processor time in the system, on its behalf.
    pub system: Duration,
    /// The most memory that it had resident at once, in bytes.
    pub resident_max: u64,
    /// Page faults that needed no reading.
    pub minor_faults: u64,
    /// Page faults that read from a disk.
    pub major_faults: u64,
    /// Times that a file system read for it.
    pub block_reads: u64,
    /// Times that a file system wrote for it.
    pub block_writes: u64,
    /// Times that it gave the processor up, to wait.
    pub voluntary_switches: u64,
    /// Times that the processor was taken from it.
    pub involuntary_switches: u64,
}

impl Usage {
    fn from_system(usage: &libc::rusage) -> Usage {
        fn time(time: libc::timeval) -> Duration {
            Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
        }
        // Apple counts bytes here, the others kilobytes.
        const UNIT: u64 = if cfg!(target_vendor = "apple") {
            1
        } else {
            1024
        };
        Usage {
            user: time(usage.ru_utime),
            system: time(usage.ru_stime),
            resident_max: usage.ru_maxrss as u64 * UNIT,
            minor_faults: usage.ru_minflt as u64,
            major_faults: usage.ru_majflt as u64,
            block_reads: usage.ru_inblock as u64,
            block_writes: usage.ru_oublock as u64,
            voluntary_switches: usage.ru_nvcsw as u64,
            involuntary_switches: usage.ru_nivcsw as u64,
        }
    }
}

/// How the child ended; `None` while it runs.
pub(super) fn exit_of(
    pid: libc::pid_t,
    pidfd: Option<&OwnedFd>,
) -> Option<(ExitStatus, Option<Usage>)> {
    match children::observe(pid, pidfd) {
        Waited::Running => None,
        Waited::Unknown => Some((ExitStatus::Unknown, None)),
        Waited::Ended(ended) => {
            let status = match ended.how {
                How::Exited(code) => ExitStatus::Code(code),
                How::Killed { signal, dumped } => ExitStatus::Signal {
                    number: signal,
                    core_dumped: dumped,
                },
            };
            Some((status, Some(Usage::from_system(&ended.usage))))
        }
    }
}
