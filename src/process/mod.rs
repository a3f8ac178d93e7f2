//! Child processes: starting programs, and hearing how they end.

mod command;
mod reaping;
mod spawn;
mod status;

use std::ffi::c_int;
use std::os::fd::OwnedFd;

pub use crate::sys::spawn::SpawnStep;
#[cfg(feature = "capi")]
pub(crate) use command::Ways;
pub use command::{Child, Command, SpawnError, Stdio, UNLIMITED};
pub(crate) use reaping::{close, leave, Children};
pub use status::{ExitStatus, Usage};

use crate::driver::{Driver, Source};
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::handles::{Body, Entry, Id};
use crate::sys::{self, children};

pub(crate) type ExitCallback = Box<dyn FnOnce(&Loop, Process, ExitStatus)>;

pub(crate) struct ProcessState {
    /// The child's descriptor, watched; none where the system has no such thing.
    pub source: Source,
    pidfd: Option<OwnedFd>,
    pid: libc::pid_t,
    /// How it ended, once that is known.
    exit: Option<(ExitStatus, Option<Usage>)>,
    callback: Option<ExitCallback>,
    /// It was started as the leader of a process group.
    leads: bool,
    kill_on_close: bool,
    /// The process whose child it is: in a fork of that one it is nobody's.
    fork_generation: u32,
}

impl ProcessState {
    /// Whether it is a child of this process that was not yet seen to have ended.
    fn runs(&self) -> bool {
        self.exit.is_none() && self.fork_generation == sys::fork::generation()
    }

    fn kill(&self, signal: c_int) -> Result<()> {
        if self.exit.is_some() {
            return Err(Code::ESRCH.into());
        }
        Ok(children::kill_named(self.pid, self.pidfd.as_ref(), signal)?)
    }
}

/// A running program that this process started ([`Command::spawn`]).
///
/// The handle is there as long as the program runs. When it ends, the `on_exit` given to
/// [`Command::spawn`] is called, once, with its status; then the handle closes by itself, and its
/// closing callback is the last that is heard of it. So nothing needs to be closed or waited for,
/// and no zombie stays.
///
/// [`Loop::close`] on a program that still runs lets go of it: it runs on, nothing more is heard
/// of it, and it no longer keeps the loop alive, but in the turns that the loop makes it still
/// waits for its end. With [`Command::kill_on_close`] it is killed.
/// When the loop is freed, all this happens to the programs that run: those that run on are
/// waited for when kolo starts the next program or frees the next loop, in whatever thread.
///
/// Other code of the process may have children of its own: kolo waits for its own only, each by
/// name. If other code waits for kolo's (by `waitpid(-1)`), or ignores `SIGCHLD`, the end is still
/// told, with [`ExitStatus::Unknown`].
///
/// # How ends are noticed
///
/// On Linux from 5.3 on by a descriptor for each child (pidfd_open(2)), elsewhere by `SIGCHLD`,
/// through the same handler as [`Signal`](crate::Signal), and by a look once a second in case
/// other code took that signal away. `KOLO_PIDFD=0` in the environment chooses the second way.
///
/// Not to be had on Windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process(pub(crate) Id);

crate::handles::handle_type!(Process);

impl Process {
    /// The number that the system gave it (its pid). While `on_exit` runs it is not used again.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn pid(self, lp: &Loop) -> Result<i32> {
        Ok(state_of(lp.core()?.handles.get(self.0)?)?.pid)
    }

    /// Sends it a signal (kill(2)): `SIGTERM` asks it to end, `SIGKILL` ends it, 0 only asks
    /// whether that would be allowed. Never hits another process that got its number.
    ///
    /// Errors: [`Code::ESRCH`] when it has ended, [`Code::EPERM`] for a process that changed its
    /// user, [`Code::EINVAL`] for a number that is no signal, [`Code::EBADF`] for a closed handle.
    pub fn kill(self, lp: &Loop, signal: i32) -> Result<()> {
        state_of(lp.core()?.handles.get(self.0)?)?.kill(signal)
    }

    /// Sends a signal to the process group that it was started as the leader of
    /// ([`Command::new_group`], [`Command::new_session`]): to it and to those that it has started,
    /// unless they left the group. Also in its `on_exit`, for those that it leaves behind (on
    /// Linux).
    ///
    /// Errors: [`Code::EINVAL`] for a process that was not started as a leader; [`Code::ESRCH`]
    /// when nobody is left; the others as [`Process::kill`].
    pub fn kill_group(self, lp: &Loop, signal: i32) -> Result<()> {
        let core = lp.core()?;
        let state = state_of(core.handles.get(self.0)?)?;
        if !state.leads {
            return Err(Code::EINVAL.into());
        }
        let gone = matches!(state.exit, Some((ExitStatus::Unknown, _)));
        if gone || state.exit.is_some() && cfg!(not(target_os = "linux")) {
            return Err(Code::ESRCH.into());
        }
        Ok(children::kill(-state.pid, signal)?)
    }

    /// What it has used of the machine: in its `on_exit`.
    ///
    /// Errors: [`Code::EBUSY`] while it runs, [`Code::ECHILD`] when its end is
    /// [unknown](ExitStatus::Unknown), [`Code::EBADF`] for a closed handle.
    pub fn usage(self, lp: &Loop) -> Result<Usage> {
        match &state_of(lp.core()?.handles.get(self.0)?)?.exit {
            Some((_, Some(usage))) => Ok(*usage),
            Some((_, None)) => Err(Code::ECHILD.into()),
            None => Err(Code::EBUSY.into()),
        }
    }
}

fn state_of(entry: &Entry) -> Result<&ProcessState> {
    match &entry.body {
        Body::Process(state) => Ok(state),
        _ => Err(Code::EBADF.into()),
    }
}

/// Sends a signal to any process (kill(2)), or with a negative number to a process group.
///
/// For a program that kolo started, [`Process::kill`] is better: it never hits another one.
///
/// As with kill(2), a `pid` of 0 is every process of the caller's group, the caller too; -1 is every process that the
/// caller may signal, which for root is nearly all of the system (on Linux all but the first one and the caller).
///
/// Errors: [`Code::ESRCH`] when there is none, [`Code::EPERM`] when it may not be, and
/// [`Code::EINVAL`] for a number that is no signal.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    Ok(children::kill(pid, signal)?)
}

/// Closes the handle of a program that has ended, when its `on_exit` has returned or unwound.
struct CloseAfter<'a>(&'a Loop, Id);

impl Drop for CloseAfter<'_> {
    fn drop(&mut self) {
        // Closed by its callback: that is as good.
        let _ = self.0.close(self.1);
    }
}

impl Loop {
    /// The child may have ended.
    pub(crate) fn process_changed(&self, id: Id) {
        let (callback, status) = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let Ok(entry) = core.handles.get_mut(id) else {
                return;
            };
            let Body::Process(state) = &mut entry.body else {
                return;
            };
            if state.exit.is_some() {
                return;
            }
            let Some(exit) = status::exit_of(state.pid, state.pidfd.as_ref()) else {
                return;
            };
            let status = exit.0;
            state.exit = Some(exit);
            core.driver.poll_stop(id, &mut state.source);
            let callback = state.callback.take();
            core.handles.set_active(id, false);
            (callback, status)
        };
        let _close = CloseAfter(self, id);
        if let Some(callback) = callback {
            self.callback(Some(id), |lp| callback(lp, Process(id), status));
        }
    }
}

/// What `describe` says of it.
pub(crate) fn describe(state: &ProcessState, line: &mut String) {
    use std::fmt::Write;
    let _ = write!(line, " pid={}", state.pid);
    if let Some((status, _)) = &state.exit {
        let _ = write!(line, " {status}");
    }
}
