//! What is to be started, and how.

use std::ffi::{c_int, CString, OsStr, OsString};
use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::spawn::{self, text};
use super::{ExitStatus, Process};
use crate::error::{Error, Result};
use crate::event_loop::Loop;
use crate::stream::{Stream, StreamHandler};
use crate::sys::spawn::{Group, SpawnStep};

/// No limit, in [`Command::limit`].
pub const UNLIMITED: u64 = u64::MAX;

/// What one of a program's descriptors is to be.
pub struct Stdio(pub(super) Kind);

pub(super) enum Kind {
    Inherit,
    Null,
    Owned(OwnedFd),
    /// A descriptor of somebody else's, who keeps it open until the program is started.
    #[cfg(feature = "capi")]
    Borrowed(RawFd),
    /// A file, opened when the program is started.
    #[cfg(feature = "capi")]
    File {
        path: CString,
        flags: c_int,
        mode: libc::mode_t,
    },
    Pipe(Ways, Box<dyn StreamHandler>),
}

/// Which way bytes go between a program and the stream to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    ChildReads,
    ChildWrites,
    Both,
}

impl Stdio {
    /// This process' own descriptor of the same number. One of the three standard ones that is
    /// closed here, or is to be closed by `execve` (`FD_CLOEXEC`), is the null device there.
    pub fn inherit() -> Stdio {
        Stdio(Kind::Inherit)
    }

    /// The null device: it reads the end, and writes into nothing.
    pub fn null() -> Stdio {
        Stdio(Kind::Null)
    }

    /// This file, socket or other descriptor, which is closed here when the program is started.
    /// Where it does not block here, it does not block there.
    pub fn descriptor(descriptor: impl Into<OwnedFd>) -> Stdio {
        Stdio(Kind::Owned(descriptor.into()))
    }

    /// A pipe that the program reads from: what is written to the stream. [`Stream::shutdown`]
    /// lets it read the end.
    pub fn child_reads(handler: impl StreamHandler) -> Stdio {
        Stdio::pipe(Ways::ChildReads, Box::new(handler))
    }

    /// A pipe that the program writes to: that is what the stream receives. Its end comes when
    /// the program, and all to whom it passed the descriptor on, have closed it.
    pub fn child_writes(handler: impl StreamHandler) -> Stdio {
        Stdio::pipe(Ways::ChildWrites, Box::new(handler))
    }

    /// A pair of connected sockets, for both directions.
    pub fn both_ways(handler: impl StreamHandler) -> Stdio {
        Stdio::pipe(Ways::Both, Box::new(handler))
    }

    pub(crate) fn pipe(ways: Ways, handler: Box<dyn StreamHandler>) -> Stdio {
        Stdio(Kind::Pipe(ways, handler))
    }

    #[cfg(feature = "capi")]
    pub(crate) fn borrowed(descriptor: RawFd) -> Stdio {
        Stdio(Kind::Borrowed(descriptor))
    }

    #[cfg(feature = "capi")]
    pub(crate) fn file(path: CString, flags: c_int, mode: libc::mode_t) -> Stdio {
        Stdio(Kind::File { path, flags, mode })
    }
}

impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(descriptor: T) -> Stdio {
        Stdio::descriptor(descriptor)
    }
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Inherit => "inherit",
            Kind::Null => "null",
            Kind::Owned(_) => "descriptor",
            #[cfg(feature = "capi")]
            Kind::Borrowed(_) => "descriptor",
            #[cfg(feature = "capi")]
            Kind::File { .. } => "file",
            Kind::Pipe(..) => "pipe",
        })
    }
}

/// A program that was started, and the streams to its descriptors.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Child {
    /// The handle.
    pub process: Process,
    /// The stream to its standard input, if that is a pipe.
    pub stdin: Option<Stream>,
    /// The stream from its standard output, if that is a pipe.
    pub stdout: Option<Stream>,
    /// The stream from its standard error, if that is a pipe.
    pub stderr: Option<Stream>,
    /// The streams of its other descriptors that are pipes, by their numbers.
    pub others: Vec<(RawFd, Stream)>,
}

impl Child {
    /// The stream of its descriptor of this number, if that is a pipe.
    pub fn stream(&self, number: RawFd) -> Option<Stream> {
        match number {
            libc::STDIN_FILENO => self.stdin,
            libc::STDOUT_FILENO => self.stdout,
            libc::STDERR_FILENO => self.stderr,
            _ => {
                let found = self.others.iter().find(|(known, _)| *known == number);
                found.map(|(_, stream)| *stream)
            }
        }
    }
}

/// Why a program could not be started, and what failed: a missing folder and a missing program
/// have the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnError {
    /// What failed.
    pub step: SpawnStep,
    /// Why.
    pub error: Error,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            SpawnStep::Create => "starting a process",
            SpawnStep::Group => "joining its process group",
            SpawnStep::Descriptors => "passing its descriptors on",
            SpawnStep::Terminal => "taking its terminal",
            SpawnStep::Limits => "setting its limits",
            SpawnStep::Credentials => "changing its user and groups",
            SpawnStep::Directory => "changing to its directory",
            SpawnStep::Program => "running the program",
        };
        write!(f, "{step}: {}", self.error)
    }
}

impl std::error::Error for SpawnError {}

impl From<SpawnError> for Error {
    fn from(failed: SpawnError) -> Error {
        failed.error
    }
}

impl From<Error> for SpawnError {
    fn from(error: Error) -> SpawnError {
        SpawnError {
            step: SpawnStep::Create,
            error,
        }
    }
}

/// A program to be started: which one, with what arguments and surroundings.
///
/// A program begins with this process' environment, directory, user and limits, with its three
/// standard descriptors, and in its process group, unless it is said otherwise here. Signals that
/// are handled here do to it what they do by default, `SIGPIPE` also if it is ignored here; others
/// that are ignored stay so; none is blocked. Of the other descriptors it gets none, also not
/// those that other code opened without `FD_CLOEXEC`, unless there is
/// [`Command::keep_descriptors`].
///
/// # Example
///
/// ```
/// use kolo::{Command, Loop, RunMode, Stdio, Stream};
///
/// let lp = Loop::new()?;
/// let print = |_: &Loop, _: Stream, data: &[u8]| {
///     assert_eq!(data, b"hello\n");
/// };
/// Command::new("echo")
///     .arg("hello")
///     .stdout(Stdio::child_writes(print))
///     .spawn(&lp, |_, _, status| assert!(status.success()))?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is started before `spawn`"]
pub struct Command {
    pub(super) program: OsString,
    pub(super) name: Option<OsString>,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Environment,
    pub(super) directory: Option<PathBuf>,
    pub(super) stdio: Vec<(RawFd, Stdio)>,
    pub(super) keep_descriptors: bool,
    pub(super) group: Group,
    pub(super) terminal: bool,
    pub(super) user: Option<u32>,
    pub(super) group_id: Option<u32>,
    pub(super) groups: Option<Vec<u32>>,
    pub(super) limits: Vec<(c_int, u64, u64)>,
    pub(super) umask: Option<u32>,
    pub(super) nice: i32,
    pub(super) death_signal: i32,
    pub(super) kill_on_close: bool,
}

#[derive(Debug, Default)]
pub(super) struct Environment {
    pub clear: bool,
    /// Later ones win; `None` takes a variable away.
    pub changes: Vec<(OsString, Option<OsString>)>,
    /// In place of all that: each text as it is.
    pub exact: Option<Vec<CString>>,
}

impl Command {
    /// The program of this name. One without a slash is looked for in the folders of the variable
    /// `PATH` of the environment that it gets (`/bin` and `/usr/bin` without one), as execvp(3)
    /// does; one with a slash, unless it begins with it, from the directory that it starts in.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            program: program.as_ref().to_owned(),
            name: None,
            arguments: Vec::new(),
            environment: Environment::default(),
            directory: None,
            stdio: Vec::new(),
            keep_descriptors: false,
            group: Group::Same,
            terminal: false,
            user: None,
            group_id: None,
            groups: None,
            limits: Vec::new(),
            umask: None,
            nice: 0,
            death_signal: 0,
            kill_on_close: false,
        }
    }

    /// One more argument. No shell sees it.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Command {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let arguments = arguments.into_iter();
        self.arguments
            .extend(arguments.map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// What it finds as its own name (`argv[0]`), in place of the program's.
    pub fn name(mut self, name: impl AsRef<OsStr>) -> Command {
        self.name = Some(name.as_ref().to_owned());
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, variable: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Command {
        let change = (
            variable.as_ref().to_owned(),
            Some(value.as_ref().to_owned()),
        );
        self.environment.changes.push(change);
        self
    }

    /// Takes a variable out of its environment.
    pub fn env_remove(mut self, variable: impl AsRef<OsStr>) -> Command {
        let change = (variable.as_ref().to_owned(), None);
        self.environment.changes.push(change);
        self
    }

    /// Begins with an empty environment instead of this process'.
    pub fn env_clear(mut self) -> Command {
        self.environment = Environment {
            clear: true,
            ..Environment::default()
        };
        self
    }

    /// The directory that it starts in.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Command {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Its standard input.
    pub fn stdin(self, stdio: impl Into<Stdio>) -> Command {
        self.with_descriptor(libc::STDIN_FILENO, stdio)
    }

    /// Its standard output.
    pub fn stdout(self, stdio: impl Into<Stdio>) -> Command {
        self.with_descriptor(libc::STDOUT_FILENO, stdio)
    }

    /// Its standard error.
    pub fn stderr(self, stdio: impl Into<Stdio>) -> Command {
        self.with_descriptor(libc::STDERR_FILENO, stdio)
    }

    /// Its descriptor of this number, from 0 to 1023; the last one given for a number counts.
    pub fn with_descriptor(mut self, number: RawFd, stdio: impl Into<Stdio>) -> Command {
        self.stdio.retain(|(known, _)| *known != number);
        self.stdio.push((number, stdio.into()));
        self
    }

    /// Leaves it all descriptors that are open here without `FD_CLOEXEC`.
    pub fn keep_descriptors(mut self, keep: bool) -> Command {
        self.keep_descriptors = keep;
        self
    }

    /// It leads a new process group (setpgid(2)): see [`Process::kill_group`].
    pub fn new_group(mut self) -> Command {
        self.group = Group::Join(0);
        self
    }

    /// It joins this process group of the same session.
    pub fn join_group(mut self, group: i32) -> Command {
        self.group = Group::Join(group);
        self
    }

    /// It leads a new session without a terminal, and in it a new process group (setsid(2)): what
    /// a terminal or a shell does to their jobs does not reach it.
    pub fn new_session(mut self) -> Command {
        self.group = Group::NewSession;
        self
    }

    /// It leads a new session, whose terminal is its standard input (`TIOCSCTTY`, tty(4)).
    pub fn controlling_terminal(mut self) -> Command {
        self.group = Group::NewSession;
        self.terminal = true;
        self
    }

    /// The user that it runs as (setuid(2)). Unless [`Command::groups`] says otherwise, and if
    /// this process may, it is in none of this process' supplementary groups.
    pub fn user(mut self, user: u32) -> Command {
        self.user = Some(user);
        self
    }

    /// The group that it runs as (setgid(2)).
    pub fn group(mut self, group: u32) -> Command {
        self.group_id = Some(group);
        self
    }

    /// Its supplementary groups (setgroups(2)): at most as many as the system allows, 65536 on Linux.
    pub fn groups(mut self, groups: &[u32]) -> Command {
        self.groups = Some(groups.to_owned());
        self
    }

    /// A limit on a resource (setrlimit(2)): the system's number for it (`libc::RLIMIT_...`), the
    /// limit itself, and the one up to which it may raise that. [`UNLIMITED`] for none.
    pub fn limit(mut self, resource: i32, soft: u64, hard: u64) -> Command {
        self.limits.push((resource, soft, hard));
        self
    }

    /// The permissions that files made by it do not get (umask(2)).
    pub fn umask(mut self, mask: u32) -> Command {
        self.umask = Some(mask);
        self
    }

    /// So much nicer than this process (nice(2)): with less of the processor.
    pub fn nice(mut self, more: i32) -> Command {
        self.nice = more;
        self
    }

    /// The signal that it gets when the *thread* that starts it ends (`PR_SET_PDEATHSIG`,
    /// prctl(2)). Linux only.
    pub fn parent_death_signal(mut self, signal: i32) -> Command {
        self.death_signal = signal;
        self
    }

    /// It is killed (`SIGKILL`) when its handle is closed while it runs, also by the end of the
    /// loop.
    pub fn kill_on_close(mut self, kill: bool) -> Command {
        self.kill_on_close = kill;
        self
    }

    #[cfg(feature = "capi")]
    pub(crate) fn exact_environment(mut self, variables: Vec<CString>) -> Command {
        self.environment.exact = Some(variables);
        self
    }

    /// Starts the program. When it has ended, `on_exit` is called: see [`Process`].
    ///
    /// What fails before the program runs is an error here, with nothing left of it, no process
    /// and no open descriptor, and `on_exit` is never called. Bytes that the program has written
    /// may come to a stream after `on_exit`, and its end always does by itself.
    ///
    /// It takes this thread as long as the system needs to have the program loaded, some tenths
    /// of a millisecond, however much memory this process has.
    ///
    /// Errors, each with [what failed](SpawnError::step): [`Code::ENOENT`](crate::Code::ENOENT)
    /// for a program or a directory that is not there; [`Code::EACCES`](crate::Code::EACCES) for
    /// one that may not be used; [`Code::ENOTDIR`](crate::Code::ENOTDIR);
    /// [`Code::ENOEXEC`](crate::Code::ENOEXEC) for a file that is no program (also a script
    /// without `#!`); [`Code::E2BIG`](crate::Code::E2BIG) for arguments and environment that are
    /// too long; [`Code::EPERM`](crate::Code::EPERM) for what this process may not change;
    /// [`Code::EMFILE`](crate::Code::EMFILE), [`Code::EAGAIN`](crate::Code::EAGAIN),
    /// [`Code::ENOMEM`](crate::Code::ENOMEM) when descriptors, processes or memory are short;
    /// [`Code::EBADF`](crate::Code::EBADF) for a descriptor to be passed on that is not open;
    /// [`Code::EINVAL`](crate::Code::EINVAL) for a text with a NUL inside, a descriptor number
    /// or a limit that cannot be;
    /// [`Code::ENOTSUP`](crate::Code::ENOTSUP) for a parent-death signal where there is none;
    /// [`Code::ENOBUFS`](crate::Code::ENOBUFS) when the loop holds as many handles as it can.
    pub fn spawn(
        self,
        lp: &Loop,
        on_exit: impl FnOnce(&Loop, Process, ExitStatus) + 'static,
    ) -> std::result::Result<Child, SpawnError> {
        spawn::spawn(self, lp, Some(Box::new(on_exit)))
    }

    /// As [`Command::spawn`], for a program whose end is of no interest.
    ///
    /// Errors: as [`Command::spawn`].
    pub fn spawn_and_forget(self, lp: &Loop) -> std::result::Result<Child, SpawnError> {
        spawn::spawn(self, lp, None)
    }

    /// The environment, in the order of `execve`.
    pub(super) fn variables(&mut self) -> Result<Vec<CString>> {
        if let Some(exact) = self.environment.exact.take() {
            return Ok(exact);
        }
        let mut variables: Vec<(OsString, OsString)> = Vec::new();
        if !self.environment.clear {
            variables.extend(std::env::vars_os());
        }
        for (variable, value) in self.environment.changes.drain(..) {
            variables.retain(|(known, _)| *known != variable);
            variables.extend(value.map(|value| (variable, value)));
        }
        let join = |(mut variable, value): (OsString, OsString)| {
            variable.push("=");
            variable.push(value);
            text(variable)
        };
        variables.into_iter().map(join).collect()
    }
}
