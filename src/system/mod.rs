//! The system: clocks, random bytes, names, memory, processors, interfaces to networks.
//!
//! Nothing here needs a loop, and every function may be called from any thread.

mod descriptors;
mod interfaces;
mod memory;
mod processors;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use descriptors::{descriptor_kind, DescriptorKind};
pub use interfaces::{interfaces, Interface, InterfaceFlags};
pub use memory::{available_memory, memory_limit, resident_memory, total_memory};
pub use processors::{processors, Processor};

use crate::error::{Code, Error, Result};

/// The monotonic clock in nanoseconds, read now: the clock of [`Loop::now`](crate::Loop::now) and of
/// timers.
///
/// It never goes back and does not jump when somebody sets the time of day. Its numbers mean
/// nothing outside this boot of the machine.
pub fn clock_monotonic() -> u64 {
    crate::sys::monotonic_ns()
}

/// The time of day: nanoseconds since 1970-01-01 00:00 UTC, negative before it.
///
/// It jumps when somebody sets it. As in POSIX every day has 86400 seconds: a leap second repeats
/// the second before it, or the system stretches the seconds around it, as it is set up. The
/// numbers reach to the year 2262.
pub fn clock_wall() -> i64 {
    let bounded = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => bounded(since),
        Err(before) => -bounded(before.duration()),
    }
}

/// Fills `memory` with random bytes of the system's generator, fit for keys (getrandom(2), and its
/// like on other systems): all of it, or none.
///
/// A forked child gets other bytes than its parent. Soon after the boot of the machine it may wait until the
/// system has gathered enough chance.
///
/// Errors: those of a system that has no generator, or hides it ([`Code::ENOSYS`],
/// [`Code::ENOENT`], [`Code::EPERM`]).
pub fn random(memory: &mut [u8]) -> Result<()> {
    getrandom::fill(memory).map_err(random_error)
}

/// As [`random`].
#[cfg(feature = "capi")]
pub(crate) fn random_into(memory: &mut [std::mem::MaybeUninit<u8>]) -> Result<()> {
    getrandom::fill_uninit(memory).map_err(random_error)?;
    Ok(())
}

fn random_error(error: getrandom::Error) -> Error {
    let system = error.raw_os_error();
    system.map_or(Code::EIO.into(), Error::from_system)
}

/// The name of this machine, as it calls itself (gethostname(2)).
///
/// Errors: those of the system.
pub fn hostname() -> Result<String> {
    #[cfg(unix)]
    return Ok(String::from_utf8_lossy(&crate::sys::machine::hostname()?).into_owned());
    #[cfg(not(unix))]
    return std::env::var("COMPUTERNAME").map_err(|_| Code::ENOTSUP.into());
}

/// What the operating system is, as uname(2) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatingSystem {
    /// "Linux".
    pub name: String,
    /// "6.1.0-18-amd64".
    pub release: String,
    /// "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1".
    pub version: String,
    /// The kind of processor: "x86_64".
    pub machine: String,
}

/// What the operating system is.
///
/// Errors: [`Code::ENOTSUP`] on Windows.
pub fn operating_system() -> Result<OperatingSystem> {
    #[cfg(unix)]
    {
        let texts = crate::sys::machine::uname()?;
        let [name, release, version, machine] =
            texts.map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(OperatingSystem {
            name,
            release,
            version,
            machine,
        })
    }
    #[cfg(not(unix))]
    Err(Code::ENOTSUP.into())
}

/// How long the machine has been up; time asleep counts where the system counts it (on Linux).
///
/// Errors: [`Code::ENOTSUP`] on Windows.
pub fn uptime() -> Result<Duration> {
    #[cfg(unix)]
    return crate::sys::machine::uptime_ns().map(Duration::from_nanos);
    #[cfg(not(unix))]
    return Err(Code::ENOTSUP.into());
}

/// How many threads wanted to run on average, over the last minute, five minutes and a quarter of
/// an hour (getloadavg(3)).
///
/// Errors: [`Code::ENOTSUP`] where the system does not count that, as on Windows.
pub fn load_average() -> Result<[f64; 3]> {
    #[cfg(unix)]
    return crate::sys::machine::load_average();
    #[cfg(not(unix))]
    return Err(Code::ENOTSUP.into());
}

/// How many threads this process can have running at once, at least 1: the processors that it may
/// use (sched_setaffinity(2)) within the share of them that its control group gives
/// (cgroups(7)). What a pool of threads is made as large as.
pub fn available_parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The user's home: `$HOME` (`%USERPROFILE%` on Windows), or what the system has on file for the user.
///
/// Errors: [`Code::ENOENT`] where there is none.
pub fn home_directory() -> Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    home.ok_or(Code::ENOENT.into())
}

/// Where files go that nobody will miss: `$TMPDIR`, or `/tmp` (`%TMP%`, `%TEMP%` and more on
/// Windows). It need not exist, and everybody may write there: make files in it under names that
/// nobody can guess.
pub fn temporary_directory() -> PathBuf {
    // Without the slash at the end.
    std::env::temp_dir().components().collect()
}

/// The path of the program that is running.
///
/// On Linux, " (deleted)" follows when the file is gone (proc_pid_exe(5)).
///
/// Errors: those of the system: on Linux [`Code::ENOENT`] where /proc is not mounted.
pub fn executable_path() -> Result<PathBuf> {
    Ok(std::env::current_exe()?)
}
