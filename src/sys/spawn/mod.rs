//! Starting a program: everything is prepared in the parent ([`Plan`]), then the child makes
//! nothing but system calls (`child.rs`) until it is the other program.
//!
//! On Linux the child shares the parent's memory and the parent's thread waits until the child
//! has called `execve` or has failed (`CLONE_VM | CLONE_VFORK`): no page table is copied, so a
//! parent with gigabytes starts a program as fast as a small one. See `start.rs`.

mod child;
mod start;

use std::ffi::{c_char, c_int, CString};
use std::os::fd::RawFd;
use std::ptr;

pub(crate) use start::{start, Started};

/// Descriptors that a child can be given: far more than anybody passes, and a bound on what the
/// child walks over.
pub(crate) const DESCRIPTORS_MAX: usize = 1024;

/// Supplementary groups that a child can be in: as many as Linux allows (`NGROUPS_MAX`, since 2.6.4; other systems allow
/// fewer, and say so themselves).
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) const GROUPS_MAX: usize = 65_536;

/// Resource limits that a child can be given: four times as many as there are kinds of them (16 on Linux).
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) const LIMITS_MAX: usize = 64;

/// What a failed spawn was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum SpawnStep {
    /// Making the new process, and what is needed for it: its pipes, its place in the loop.
    Create = 1,
    /// Putting it into its session or process group.
    Group = 2,
    /// Giving it its descriptors.
    Descriptors = 3,
    /// Making the terminal its controlling one.
    Terminal = 4,
    /// Setting its resource limits, or its niceness.
    Limits = 5,
    /// Changing its user, group or groups.
    Credentials = 6,
    /// Changing to its directory.
    Directory = 7,
    /// Starting the program.
    Program = 8,
}

impl SpawnStep {
    fn from_number(number: c_int) -> SpawnStep {
        match number {
            2 => SpawnStep::Group,
            3 => SpawnStep::Descriptors,
            4 => SpawnStep::Terminal,
            5 => SpawnStep::Limits,
            6 => SpawnStep::Credentials,
            7 => SpawnStep::Directory,
            8 => SpawnStep::Program,
            _ => SpawnStep::Create,
        }
    }
}

/// Why a child could not be started: `errno`, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub step: SpawnStep,
    pub errno: c_int,
}

/// Texts as `execve` takes them: pointers to each, and a null one.
pub(crate) struct Texts {
    pointers: Vec<*const c_char>,
    // What the pointers point to: on the heap, so that it stays where it is.
    _texts: Vec<CString>,
}

impl Texts {
    pub fn new(texts: Vec<CString>) -> Texts {
        let pointers = texts.iter().map(|text| text.as_ptr());
        Texts {
            pointers: pointers.chain([ptr::null()]).collect(),
            _texts: texts,
        }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// The child's place among sessions and process groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// The parent's.
    Same,
    /// This group of the parent's session; 0: a new one, which it leads.
    Join(libc::pid_t),
    /// A new session, and in it a new group, both of which it leads.
    NewSession,
}

/// The child's descriptor `target` is to be the parent's `source`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub target: RawFd,
    pub source: RawFd,
}

/// A resource limit (setrlimit(2)).
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub resource: c_int,
    pub value: libc::rlimit,
}

/// Everything that the child will need, prepared before it exists.
pub(crate) struct Plan {
    /// The files to try, one after the other (`execvp`).
    pub programs: Vec<CString>,
    pub arguments: Texts,
    pub environment: Texts,
    pub directory: Option<CString>,
    /// In ascending order of their targets, each target once.
    pub descriptors: Vec<Passed>,
    /// Leave those open that are not named here and have no `FD_CLOEXEC`.
    pub keep_descriptors: bool,
    pub group: Group,
    /// Take the terminal on the standard input as the controlling one.
    pub terminal: bool,
    pub user: Option<libc::uid_t>,
    pub group_id: Option<libc::gid_t>,
    /// Supplementary groups.
    pub groups: Option<Vec<libc::gid_t>>,
    pub limits: Vec<Limit>,
    pub umask: Option<libc::mode_t>,
    /// Its niceness, as `setpriority` takes it.
    pub nice: Option<c_int>,
    /// The signal that it gets when the thread that starts it ends; 0: none. Linux only.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub death_signal: c_int,
}

impl Plan {
    /// The first descriptor above all that are passed on.
    fn above(&self) -> RawFd {
        let last = self.descriptors.last().map_or(-1, |passed| passed.target);
        last.max(libc::STDERR_FILENO).saturating_add(1)
    }
}
