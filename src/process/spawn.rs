//! Starting what a [`Command`] describes.

use std::ffi::{c_int, CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::command::{Kind, Stdio, Ways};
use super::{reaping, Child, Command, ExitCallback, Process, ProcessState, SpawnError};
use crate::driver::{Interest, Object, Source};
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
use crate::handles::{self, Body, Id};
use crate::stream::{open_descriptor, withdraw, Stream, StreamHandler};
use crate::sys::spawn::{
    self, Failure, Group, Limit, Passed, Plan, SpawnStep, Texts, DESCRIPTORS_MAX,
};
use crate::sys::{self, children};

/// Where programs are when the environment does not say.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A text for the system: without a NUL inside.
pub(super) fn text(text: OsString) -> Result<CString> {
    CString::new(text.into_vec()).map_err(|_| Code::EINVAL.into())
}

fn failed(step: SpawnStep) -> impl Fn(Error) -> SpawnError {
    move |error| SpawnError { step, error }
}

pub(super) fn spawn(
    mut command: Command,
    lp: &Loop,
    on_exit: Option<ExitCallback>,
) -> std::result::Result<Child, SpawnError> {
    reaping::sweep();
    lp.needs_kernel().and_then(|()| lp.can_insert())?;
    if !children::has_pidfd() && lp.core()?.handles.room() < reaping::HANDLES {
        return Err(Error::from(Code::ENOBUFS).into());
    }
    let mut descriptors = Descriptors::new(lp);
    descriptors.open(std::mem::take(&mut command.stdio))?;
    let plan = plan(command.prepare()?, &mut descriptors)?;
    let entry = Entry::new(lp, &command, on_exit)?;
    let started = spawn::start(&plan).map_err(|Failure { step, errno }| SpawnError {
        step,
        error: Error::from_system(errno),
    })?;
    let process = entry.fill(started);
    Ok(descriptors.keep(process))
}

/// A plan without its descriptors.
impl Command {
    fn prepare(&mut self) -> std::result::Result<Plan, SpawnError> {
        let of_program = failed(SpawnStep::Program);
        let variables = self.variables().map_err(&of_program)?;
        let program = std::mem::take(&mut self.program);
        let name = self.name.take().unwrap_or_else(|| program.clone());
        let arguments = [name].into_iter().chain(self.arguments.drain(..));
        let arguments: Result<Vec<CString>> = arguments.map(text).collect();
        let directory = self
            .directory
            .take()
            .map(|path| text(path.into_os_string()));
        Ok(Plan {
            programs: programs(&program, &variables).map_err(&of_program)?,
            arguments: Texts::new(arguments.map_err(&of_program)?),
            environment: Texts::new(variables),
            directory: directory
                .transpose()
                .map_err(failed(SpawnStep::Directory))?,
            descriptors: Vec::new(),
            keep_descriptors: self.keep_descriptors,
            group: self.group,
            terminal: self.terminal,
            user: self.user,
            group_id: self.group_id,
            groups: self.supplementary_groups(),
            limits: self.limits().map_err(failed(SpawnStep::Limits))?,
            umask: self.umask.map(|mask| mask as libc::mode_t),
            nice: niceness(self.nice),
            death_signal: death_signal(self.death_signal).map_err(failed(SpawnStep::Limits))?,
        })
    }

    /// Who becomes another user must not keep the groups of the first. Only root can leave them.
    fn supplementary_groups(&mut self) -> Option<Vec<libc::gid_t>> {
        // SAFETY: takes nothing and cannot fail.
        let is_root = || unsafe { libc::geteuid() } == 0;
        let none = || (self.user.is_some() && is_root()).then(Vec::new);
        self.groups.take().or_else(none)
    }

    fn limits(&self) -> Result<Vec<Limit>> {
        let value = |value: u64| match value {
            super::UNLIMITED => Ok(libc::RLIM_INFINITY),
            value => libc::rlim_t::try_from(value).map_err(|_| Error::from(Code::EINVAL)),
        };
        let limit = |&(resource, soft, hard): &(c_int, u64, u64)| {
            let value = libc::rlimit {
                rlim_cur: value(soft)?,
                rlim_max: value(hard)?,
            };
            Ok(Limit { resource, value })
        };
        self.limits.iter().map(limit).collect()
    }
}

fn niceness(more: i32) -> Option<c_int> {
    // SAFETY: takes numbers only; -1 is an answer, and this process itself no error.
    let now = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    (more != 0).then(|| now().saturating_add(more).clamp(-20, 19))
}

fn death_signal(signal: i32) -> Result<c_int> {
    if signal != 0 && !cfg!(target_os = "linux") {
        return Err(Code::ENOTSUP.into());
    }
    Ok(signal)
}

/// The files that may be the program, in the order in which they are tried.
fn programs(program: &OsStr, variables: &[CString]) -> Result<Vec<CString>> {
    if program.is_empty() {
        return Ok(Vec::new());
    }
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![text(program.to_owned())?]);
    }
    let path = variables
        .iter()
        .find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
    let path = path.unwrap_or(DEFAULT_PATH.as_bytes());
    // An empty one is the current folder.
    let folders = path.split(|byte| *byte == b':');
    let candidate = |folder: &[u8]| {
        let folder = if folder.is_empty() { b"." } else { folder };
        text(Path::new(OsStr::from_bytes(folder)).join(program).into())
    };
    folders.map(candidate).collect()
}

fn plan(mut plan: Plan, descriptors: &mut Descriptors) -> Result<Plan> {
    plan.descriptors = std::mem::take(&mut descriptors.passed);
    plan.descriptors.sort_by_key(|passed| passed.target);
    if descriptors.shared || plan.keep_descriptors {
        // What is closed here may stay open there, and registered with the selector.
        sys::fork::descriptors_are_shared();
    }
    Ok(plan)
}

/// The child's descriptors on their way to it. If they do not get there, nothing of them stays.
struct Descriptors<'a> {
    lp: &'a Loop,
    passed: Vec<Passed>,
    /// The child's ends, and what else is closed here once it has them.
    held: Vec<OwnedFd>,
    streams: Vec<(RawFd, Stream)>,
    /// Some that are open here go to the child.
    shared: bool,
    null: Option<RawFd>,
}

impl Drop for Descriptors<'_> {
    fn drop(&mut self) {
        for (_, stream) in self.streams.drain(..) {
            withdraw(self.lp, stream.0);
        }
    }
}

impl<'a> Descriptors<'a> {
    fn new(lp: &'a Loop) -> Descriptors<'a> {
        Descriptors {
            lp,
            passed: Vec::new(),
            held: Vec::new(),
            streams: Vec::new(),
            shared: false,
            null: None,
        }
    }

    fn open(&mut self, mut stdio: Vec<(RawFd, Stdio)>) -> std::result::Result<(), SpawnError> {
        for standard in libc::STDIN_FILENO..=libc::STDERR_FILENO {
            if stdio.iter().all(|(target, _)| *target != standard) {
                stdio.push((standard, Stdio::inherit()));
            }
        }
        for (target, stdio) in stdio {
            let source = self
                .source(target, stdio.0)
                .map_err(failed(SpawnStep::Descriptors))?;
            self.passed.push(Passed { target, source });
        }
        Ok(())
    }

    /// The descriptor that the child is to see as `target`.
    fn source(&mut self, target: RawFd, kind: Kind) -> Result<RawFd> {
        if !(0..DESCRIPTORS_MAX as RawFd).contains(&target) {
            return Err(Code::EINVAL.into());
        }
        match kind {
            Kind::Inherit if target > libc::STDERR_FILENO => self.lent(target),
            Kind::Inherit if is_inherited(target) => {
                self.shared = true;
                Ok(target)
            }
            Kind::Inherit | Kind::Null => self.null(),
            Kind::Owned(descriptor) => {
                self.shared = true;
                Ok(self.hold(descriptor))
            }
            #[cfg(feature = "capi")]
            Kind::Borrowed(descriptor) => self.lent(descriptor),
            #[cfg(feature = "capi")]
            Kind::File { path, flags, mode } => Ok(self.hold(open(&path, flags, mode)?)),
            Kind::Pipe(ways, handler) => self.pipe(target, ways, handler),
        }
    }

    /// One that stays open here.
    fn lent(&mut self, descriptor: RawFd) -> Result<RawFd> {
        if !sys::is_open(descriptor) {
            return Err(Code::EBADF.into());
        }
        self.shared = true;
        Ok(descriptor)
    }

    fn hold(&mut self, descriptor: OwnedFd) -> RawFd {
        let raw = descriptor.as_raw_fd();
        self.held.push(descriptor);
        raw
    }

    fn null(&mut self) -> Result<RawFd> {
        if let Some(null) = self.null {
            return Ok(null);
        }
        let null = self.hold(open(c"/dev/null", libc::O_RDWR, 0)?);
        self.null = Some(null);
        Ok(null)
    }

    fn pipe(
        &mut self,
        target: RawFd,
        ways: Ways,
        handler: Box<dyn StreamHandler>,
    ) -> Result<RawFd> {
        let (kind, interest, ours, theirs) = match ways {
            Ways::ChildReads => {
                let [reader, writer] = sys::pipe()?;
                (handles::Kind::Pipe, Interest::WRITABLE, writer, reader)
            }
            Ways::ChildWrites => {
                let [reader, writer] = sys::pipe()?;
                (handles::Kind::Pipe, Interest::READABLE, reader, writer)
            }
            Ways::Both => {
                let (domain, kind) = (socket2::Domain::UNIX, socket2::Type::STREAM);
                let (ours, theirs) = socket2::Socket::pair(domain, kind, None)?;
                let both = Interest::READABLE | Interest::WRITABLE;
                (handles::Kind::Local, both, ours.into(), theirs.into())
            }
        };
        let stream = open_descriptor(self.lp, ours, kind, interest, true, handler)
            .map_err(|(error, _end)| error)?;
        self.streams.push((target, stream));
        Ok(self.hold(theirs))
    }

    /// The child has them.
    fn keep(mut self, process: Process) -> Child {
        let mut others = std::mem::take(&mut self.streams);
        others.sort_by_key(|(target, _)| *target);
        let mut take = |number: RawFd| {
            let at = others.iter().position(|(target, _)| *target == number)?;
            Some(others.remove(at).1)
        };
        Child {
            process,
            stdin: take(libc::STDIN_FILENO),
            stdout: take(libc::STDOUT_FILENO),
            stderr: take(libc::STDERR_FILENO),
            others,
        }
    }
}

/// Whether a standard descriptor is there to be inherited. In a process that was started without
/// it, any file may have got its number, but hardly without FD_CLOEXEC.
fn is_inherited(descriptor: RawFd) -> bool {
    // SAFETY: F_GETFD reads flags; a bad descriptor is answered with an error.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

fn open(path: &CStr, flags: c_int, mode: libc::mode_t) -> Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY;
    loop {
        // SAFETY: a text that ends with NUL, and numbers.
        let raw = unsafe { libc::open(path.as_ptr(), flags, mode as libc::c_uint) };
        if raw >= 0 {
            // SAFETY: the call just made it for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(raw) });
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error.into()),
        }
    }
}

/// The child's place in the table of handles. Without a child it goes again, unheard of.
struct Entry<'a> {
    lp: &'a Loop,
    id: Option<Id>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let entry = self.lp.core.borrow_mut().handles.remove(id);
            // Its callback's destructor may call the loop.
            drop(entry);
        }
    }
}

impl<'a> Entry<'a> {
    fn new(lp: &'a Loop, command: &Command, callback: Option<ExitCallback>) -> Result<Entry<'a>> {
        let state = ProcessState {
            source: Source::new(Object::None),
            pidfd: None,
            pid: 0,
            exit: None,
            callback,
            leads: matches!(command.group, Group::Join(0) | Group::NewSession),
            kill_on_close: command.kill_on_close,
            fork_generation: sys::fork::generation(),
        };
        let id = lp.insert(Body::Process(Box::new(state)))?;
        Ok(Entry { lp, id: Some(id) })
    }

    fn fill(mut self, started: spawn::Started) -> Process {
        let mut core = self.lp.core.borrow_mut();
        // Nothing of the user's ran since it was made.
        let id = self.id.take().expect("it is there until now");
        if let Some(Body::Process(state)) = core.handles.any_mut(id).map(|entry| &mut entry.body) {
            state.pid = started.pid;
            if let Some(pidfd) = started.pidfd {
                state.source.object = Object::Foreign(pidfd.as_raw_fd());
                state.pidfd = Some(pidfd);
            }
        }
        core.handles.set_active(id, true);
        reaping::watch(&mut core, id);
        Process(id)
    }
}
