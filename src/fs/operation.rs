//! Every operation on names and open files that is no transfer of bytes, in one table: what it needs,
//! how it is made, what it gives.
//!
//! A thread of the pool performs them, or the caller's own ([`Call::wait`]).

use std::fs::{self, File, Metadata};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::copy::{self, CopyFlags};
use super::open_file::OpenFile;
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
#[cfg(kolo_uring)]
use crate::pool::{AfterCall, KernelCall};
use crate::pool::{Job, Stopper, WorkClass};
use crate::request::{Hold, Request};
use crate::sys;
use crate::sys::fs::{Folder, Opening, SetTime, Space};

/// What an operation is made on.
pub(crate) enum Target {
    Path(PathBuf),
    /// The symbolic link itself, if it is one.
    Link(PathBuf),
    File(Arc<OpenFile>),
}

pub(crate) enum Operation {
    Open {
        folder: Option<Arc<OpenFile>>,
        path: PathBuf,
        how: Opening,
    },
    /// What was opened without the wait that opening it has.
    #[cfg(target_os = "linux")]
    FinishOpening {
        opened: File,
        folder: Option<Arc<OpenFile>>,
        path: PathBuf,
        how: Opening,
    },
    Close(Parcel),
    OpenFolder(PathBuf),
    /// An open file as a folder to be read.
    #[cfg_attr(not(unix), allow(dead_code))]
    OpenFolderOf(Arc<OpenFile>),
    Stat(Target),
    Access(PathBuf, u32),
    MakeFolder(PathBuf, u32),
    MakeTemporaryFolder(PathBuf),
    RemoveFolder(PathBuf),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, PathBuf),
    ReadLink(PathBuf),
    RealPath(PathBuf),
    Truncate(Target, u64),
    SetMode(Target, u32),
    SetOwner(Target, Option<u32>, Option<u32>),
    SetTimes(Target, SetTime, SetTime),
    Space(PathBuf),
    Sync {
        file: Arc<OpenFile>,
        only_data: bool,
    },
    Copy(PathBuf, PathBuf, CopyFlags, Stopper),
}

/// A file on its way to be closed: put in when the pool has taken the job.
pub(crate) type Parcel = Arc<Mutex<Option<Arc<OpenFile>>>>;

/// What an operation gives.
pub(crate) enum Value {
    Nothing,
    Length(u64),
    Path(PathBuf),
    Metadata(Box<Metadata>),
    Space(Space),
    File {
        file: File,
        /// What is known of its file system: see [`OpenFile::is_local`].
        is_local: bool,
    },
    Folder(Folder),
}

impl Operation {
    pub(super) fn run(self) -> Result<Value> {
        use Operation::*;
        let nothing = |outcome: std::io::Result<()>| {
            outcome?;
            Ok(Value::Nothing)
        };
        match self {
            Open { folder, path, how } => {
                let folder = folder.as_ref().map(|folder| folder.file());
                let file = sys::fs::open(folder, &path, how)?;
                let is_local = is_local_folder(&file, how);
                Ok(Value::File { file, is_local })
            }
            #[cfg(target_os = "linux")]
            FinishOpening {
                opened,
                folder,
                path,
                how,
            } => {
                let folder = folder.as_ref().map(|folder| folder.file());
                let file = sys::fs::finish_opening(opened, folder, &path, how)?;
                let is_local = false;
                Ok(Value::File { file, is_local })
            }
            Close(parcel) => nothing(close(&parcel)),
            OpenFolder(path) => Ok(Value::Folder(Folder::open(&path)?)),
            #[cfg(unix)]
            OpenFolderOf(file) => {
                // A descriptor of its own, and a position of its own.
                let how = Opening {
                    flags: sys::fs::open_flag::READ | sys::fs::open_flag::DIRECTORY,
                    mode: 0,
                };
                let again = sys::fs::open(Some(file.file()), Path::new("."), how)?;
                Ok(Value::Folder(Folder::of(again.into())?))
            }
            #[cfg(not(unix))]
            OpenFolderOf(_) => Err(Code::ENOTSUP.into()),
            Stat(target) => {
                let found = match target {
                    Target::Path(path) => fs::metadata(path),
                    Target::Link(path) => fs::symlink_metadata(path),
                    Target::File(file) => file.file().metadata(),
                };
                Ok(Value::Metadata(Box::new(found?)))
            }
            Access(path, mode) => nothing(sys::fs::access(&path, mode)),
            MakeFolder(path, mode) => nothing(make_folder(&path, mode)),
            MakeTemporaryFolder(path) => Ok(Value::Path(sys::fs::make_temporary_folder(&path)?)),
            RemoveFolder(path) => nothing(fs::remove_dir(path)),
            Unlink(path) => nothing(fs::remove_file(path)),
            Rename(from, to) => nothing(fs::rename(from, to)),
            Link(from, to) => nothing(fs::hard_link(from, to)),
            Symlink(target, path) => nothing(symlink(&target, &path)),
            ReadLink(path) => Ok(Value::Path(fs::read_link(path)?)),
            RealPath(path) => Ok(Value::Path(fs::canonicalize(path)?)),
            Truncate(target, length) => nothing(match target {
                Target::Path(path) | Target::Link(path) => sys::fs::truncate(&path, length),
                Target::File(file) => match i64::try_from(length) {
                    Ok(_) => file.file().set_len(length),
                    Err(_) => Err(Error::from(Code::EINVAL).into()),
                },
            }),
            SetMode(target, mode) => set_mode(&target, mode),
            SetOwner(target, user, group) => set_owner(&target, user, group),
            SetTimes(target, accessed, modified) => nothing(match target {
                Target::Path(path) => sys::fs::set_times(&path, accessed, modified, true),
                Target::Link(path) => sys::fs::set_times(&path, accessed, modified, false),
                Target::File(file) => sys::fs::set_file_times(file.file(), accessed, modified),
            }),
            Space(path) => Ok(Value::Space(sys::fs::space(&path)?)),
            Sync { file, only_data } => nothing(match only_data {
                true => file.file().sync_data(),
                false => file.file().sync_all(),
            }),
            Copy(from, to, flags, stop) => Ok(Value::Length(copy::copy(&from, &to, flags, &stop)?)),
        }
    }
}

/// Whether what is in an open folder can later be opened without waiting. This is the time to ask, since it may wait.
fn is_local_folder(file: &File, how: Opening) -> bool {
    #[cfg(target_os = "linux")]
    {
        sys::fs::look_at_root();
        how.flags & sys::fs::open_flag::DIRECTORY != 0 && sys::fs::is_local(file)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, how);
        false
    }
}

/// close(2) for its error. Where other operations are under way on the descriptor, they close it;
/// what it has to say of what was written before, it says here.
fn close(parcel: &Parcel) -> std::io::Result<()> {
    let file = parcel
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .take();
    let Some(file) = file else { return Ok(()) };
    match Arc::try_unwrap(file) {
        Ok(mut last) => last.hand_out().map_or(Ok(()), sys::fs::close),
        // The errors of close(2) come with each descriptor of a file that is closed.
        Err(shared) => sys::fs::close(shared.file().try_clone()?),
    }
}

fn make_folder(path: &Path, mode: u32) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode & 0o7777);
    #[cfg(not(unix))]
    let _ = mode;
    builder.recursive(false).create(path)
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn symlink(target: &Path, path: &Path) -> std::io::Result<()> {
    // What it leads to is told apart there.
    let seen_from = path.parent().map(|folder| folder.join(target));
    match fs::metadata(seen_from.as_deref().unwrap_or(target)) {
        Ok(found) if found.is_dir() => std::os::windows::fs::symlink_dir(target, path),
        _ => std::os::windows::fs::symlink_file(target, path),
    }
}

fn set_mode(target: &Target, mode: u32) -> Result<Value> {
    #[cfg(unix)]
    {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777);
        match target {
            Target::Path(path) | Target::Link(path) => fs::set_permissions(path, permissions)?,
            Target::File(file) => file.file().set_permissions(permissions)?,
        }
    }
    #[cfg(not(unix))]
    {
        let change = |found: Metadata| {
            let mut permissions = found.permissions();
            permissions.set_readonly(mode & 0o200 == 0);
            permissions
        };
        match target {
            Target::Path(path) | Target::Link(path) => {
                fs::set_permissions(path, change(fs::metadata(path)?))?;
            }
            Target::File(file) => {
                let permissions = change(file.file().metadata()?);
                file.file().set_permissions(permissions)?;
            }
        }
    }
    Ok(Value::Nothing)
}

#[cfg(unix)]
fn set_owner(target: &Target, user: Option<u32>, group: Option<u32>) -> Result<Value> {
    use std::os::unix::fs as unix;
    match target {
        Target::Path(path) => unix::chown(path, user, group)?,
        Target::Link(path) => unix::lchown(path, user, group)?,
        Target::File(file) => unix::fchown(file.file(), user, group)?,
    }
    Ok(Value::Nothing)
}

#[cfg(not(unix))]
fn set_owner(_: &Target, _: Option<u32>, _: Option<u32>) -> Result<Value> {
    Err(Code::ENOTSUP.into())
}

/// An operation that was not made yet. [`Call::start`] makes it on a thread of the loop's pool, and
/// [`Call::wait`] here and now.
#[must_use = "nothing happens before `start` or `wait`"]
pub struct Call<T> {
    /// Or why there can be none.
    operation: Result<Operation>,
    gives: PhantomData<fn() -> T>,
}

/// What a [`Call`] may give.
pub(crate) trait Outcome: Sized + 'static {
    fn of(value: Value) -> Option<Self>;
}

impl<T> Call<T> {
    pub(crate) fn new(operation: Result<Operation>) -> Call<T> {
        let gives = PhantomData;
        Call { operation, gives }
    }
}

#[allow(private_bounds)] // what can be given is kolo's choice
impl<T: Outcome> Call<T> {
    /// Makes it on a thread of the loop's pool, in [`WorkClass::Files`], and then calls `done` on the
    /// loop with what came of it: exactly once, never inside this call. [`Request::cancel`] takes it
    /// back as long as it was not begun.
    ///
    /// Errors: [`Code::EINVAL`] for a path with a NUL in it; [`Code::EBADF`] when it was to be made on
    /// a file that is closed; as [`Loop::work`]. Then `done` is not called, and nothing was done.
    pub fn start(
        self,
        lp: &Loop,
        done: impl FnOnce(&Loop, Result<T>) + 'static,
    ) -> Result<Request> {
        self.start_as(lp, |lp, _, outcome| done(lp, outcome))
    }

    /// As [`Call::start`]; `done` is told which request it was, too.
    pub(crate) fn start_as(
        self,
        lp: &Loop,
        done: impl FnOnce(&Loop, Request, Result<T>) + 'static,
    ) -> Result<Request> {
        submit(lp, self.operation?, |lp, request, outcome| {
            done(lp, request, outcome.and_then(typed))
        })
    }

    /// Makes it on this thread, which may have to wait for a disk. No loop is needed.
    ///
    /// Errors: those of [`Call::start`] that are not the loop's, and those of the operation.
    pub fn wait(self) -> Result<T> {
        typed(self.operation?.run()?)
    }
}

fn typed<T: Outcome>(value: Value) -> Result<T> {
    // The functions that make calls know what each operation gives.
    T::of(value).ok_or(Code::EPANIC.into())
}

/// What a call of open(2) counts of what a turn may do without the pool.
#[cfg(target_os = "linux")]
const OPENING_COST: usize = 4 * 1024;

/// Opens at once what can be opened without waiting; otherwise the operation that is left.
#[cfg(target_os = "linux")]
fn open_at_once(lp: &Loop, operation: Operation) -> std::result::Result<Result<Value>, Operation> {
    use sys::fs::OpenedNow;
    let Operation::Open { folder, path, how } = operation else {
        return Err(operation);
    };
    let left = lp.at_once_left.get();
    let may = left >= OPENING_COST && folder.as_ref().is_none_or(|folder| folder.opens_now());
    let opened = match may && !lp.is_simulated() && !lp.keeps_order(WorkClass::Files) {
        true => sys::fs::open_now(folder.as_ref().map(|it| it.file()), &path, how),
        false => OpenedNow::Unknown,
    };
    if may {
        lp.at_once_left.set(left - OPENING_COST);
    }
    match opened {
        OpenedNow::File(file) => Ok(Ok(Value::File {
            file,
            is_local: true,
        })),
        OpenedNow::WithoutWaiting(file) => Ok(Ok(Value::File {
            file,
            is_local: false,
        })),
        OpenedNow::Failed(error) => Ok(Err(error.into())),
        OpenedNow::Unfinished(opened) => Err(Operation::FinishOpening {
            opened,
            folder,
            path,
            how,
        }),
        OpenedNow::Unknown => Err(Operation::Open { folder, path, how }),
    }
}

/// Has an operation made, on the pool if it may wait.
pub(super) fn submit(
    lp: &Loop,
    operation: Operation,
    done: impl FnOnce(&Loop, Request, Result<Value>) + 'static,
) -> Result<Request> {
    lp.can_insert()?;
    #[cfg(target_os = "linux")]
    let operation = match open_at_once(lp, operation) {
        Ok(outcome) => return lp.submit_done(outcome, done),
        Err(operation) => operation,
    };
    let stopper = match &operation {
        Operation::Copy(_, _, _, stop) => Some(stop.clone()),
        _ => None,
    };
    // The kernel has threads of its own for it, and the way to them is the shorter one.
    let suits_kernel = matches!(operation, Operation::Sync { .. });
    let performance = Performance {
        operation: Some(operation),
        stopper,
        outcome: Err(Code::EPANIC.into()),
    };
    let done = |lp: &Loop, request: Request, outcome: Result<Box<Performance>>| {
        done(lp, request, outcome.and_then(|performed| performed.outcome))
    };
    if suits_kernel {
        return lp.submit_to_kernel(performance, Hold::UntilDone, done);
    }
    lp.submit(WorkClass::Files, performance, Hold::UntilDone, done)
}

/// An operation as a job for the pool.
struct Performance {
    operation: Option<Operation>,
    stopper: Option<Stopper>,
    outcome: Result<Value>,
}

impl Job for Performance {
    fn run(&mut self) {
        // With it go the descriptors that it holds: closing them may have to wait, too.
        if let Some(operation) = self.operation.take() {
            self.outcome = operation.run();
        }
    }

    fn stopper(&self) -> Option<Stopper> {
        self.stopper.clone()
    }

    #[cfg(kolo_uring)]
    fn kernel_call(&mut self) -> Option<KernelCall> {
        use std::os::fd::AsRawFd;
        match &self.operation {
            Some(Operation::Sync { file, only_data }) => Some(KernelCall::Sync {
                file: file.file().as_raw_fd(),
                only_data: *only_data,
            }),
            _ => None,
        }
    }

    #[cfg(kolo_uring)]
    fn called(&mut self, outcome: std::result::Result<u32, i32>) -> AfterCall {
        self.outcome = match outcome {
            Ok(_) => Ok(Value::Nothing),
            Err(number) => Err(std::io::Error::from_raw_os_error(number).into()),
        };
        self.operation = None;
        AfterCall::Over
    }
}

macro_rules! outcomes {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {
        $(impl Outcome for $type {
            fn of(value: Value) -> Option<Self> {
                match value {
                    $pattern => Some($value),
                    _ => None,
                }
            }
        })*
    };
}

outcomes! {
    (): Value::Nothing => ();
    u64: Value::Length(length) => length;
    PathBuf: Value::Path(path) => path;
    Metadata: Value::Metadata(found) => *found;
    Space: Value::Space(space) => space;
}
