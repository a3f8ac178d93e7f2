//! Directories: their names, a batch at a time.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, TryLockError};

use super::checked_path;
use super::file::File;
use super::operation::{submit, Operation, Value};
use crate::error::{Code, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Id};
use crate::pool::{Job, WorkClass};
use crate::request::{Hold, Request};
use crate::sys;
use crate::sys::fs::{FileType, Folder};

/// Names that one reading brings, at most: enough that the way to the pool is a small part of it, and
/// little enough that a folder of millions costs no memory.
const BATCH_MAX: usize = 256;

pub(crate) struct DirectoryState {
    folder: Arc<Mutex<Folder>>,
    /// A reading is under way.
    reading: bool,
}

/// Names of a directory, as many as one reading brought.
#[derive(Debug, Default)]
pub struct Entries {
    /// The names, each with a NUL behind it.
    names: Vec<u8>,
    /// Where each of them ends, and what it names.
    ends: Vec<(usize, FileType)>,
}

/// One name of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The name, without the directory.
    pub name: &'a OsStr,
    /// What it names; of a symbolic link, that it is one.
    pub file_type: FileType,
}

impl Entries {
    /// How many there are. None: the directory has no more.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the directory has no more.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Each of them, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.bytes().map(|(name, file_type)| Entry {
            name: sys::fs::name_of_bytes(&name[..name.len() - 1]),
            file_type,
        })
    }

    /// The names with their NUL.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = (&[u8], FileType)> {
        let mut start = 0;
        self.ends.iter().map(move |(end, file_type)| {
            let name = &self.names[start..*end];
            start = *end;
            (name, *file_type)
        })
    }

    fn push(&mut self, name: &[u8], file_type: FileType) {
        self.names.extend_from_slice(name);
        self.names.push(0);
        self.ends.push((self.names.len(), file_type));
    }
}

/// An open directory: a handle of a loop. Its names come a batch at a time, whenever
/// [`Directory::read`] asks for one, in no particular order, without "." and "..".
///
/// # Example
///
/// ```
/// use kolo::{fs, Directory, Loop, RunMode};
///
/// fn list(lp: &Loop, directory: Directory) {
///     let next = move |lp: &Loop, entries: kolo::Result<fs::Entries>| {
///         let entries = entries.unwrap();
///         for entry in entries.iter() {
///             println!("{:?} {:?}", entry.file_type, entry.name);
///         }
///         match entries.is_empty() {
///             true => lp.close(directory).unwrap(),
///             false => list(lp, directory),
///         }
///     };
///     directory.read(lp, next).unwrap();
/// }
///
/// let lp = Loop::new()?;
/// Directory::open(&lp, ".", |lp, directory| list(lp, directory.unwrap()))?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Directory(pub(crate) Id);

crate::handles::handle_type!(Directory);

fn state(core: &mut Core, id: Id) -> Result<&mut DirectoryState> {
    match &mut core.handles.get_mut(id)?.body {
        Body::Directory(directory) => Ok(directory),
        _ => Err(Code::EBADF.into()),
    }
}

impl Directory {
    /// Opens a directory, on the pool, and calls `done` with its handle.
    ///
    /// Errors: as [`Call::start`](super::Call::start). To `done`: [`Code::ENOENT`], [`Code::ENOTDIR`],
    /// [`Code::EACCES`], [`Code::EMFILE`] and the like; [`Code::ENOBUFS`] when the loop holds as many handles as
    /// it can.
    pub fn open(
        lp: &Loop,
        path: impl AsRef<Path>,
        done: impl FnOnce(&Loop, Result<Directory>) + 'static,
    ) -> Result<Request> {
        let operation = Operation::OpenFolder(checked_path(path.as_ref())?);
        Directory::open_as(lp, operation, |lp, _, directory| done(lp, directory))
    }

    /// As [`Directory::open`], for a directory that is open as a file: so that one that was found
    /// [beneath](super::OpenFlags::BENEATH) another can be listed.
    ///
    /// Errors: as [`Directory::open`]; [`Code::EBADF`] for a closed file. Windows: [`Code::ENOTSUP`].
    pub fn open_file(
        lp: &Loop,
        file: File,
        done: impl FnOnce(&Loop, Result<Directory>) + 'static,
    ) -> Result<Request> {
        let operation = Operation::OpenFolderOf(file.opened(lp)?);
        Directory::open_as(lp, operation, |lp, _, directory| done(lp, directory))
    }

    pub(crate) fn open_as(
        lp: &Loop,
        operation: Operation,
        done: impl FnOnce(&Loop, Request, Result<Directory>) + 'static,
    ) -> Result<Request> {
        submit(lp, operation, |lp, request, opened| {
            done(lp, request, opened.and_then(|opened| of(lp, opened)));
        })
    }

    /// Opens a directory here and now, which may have to wait for a disk.
    ///
    /// Errors: those of [`Directory::open`].
    pub fn open_sync(lp: &Loop, path: impl AsRef<Path>) -> Result<Directory> {
        Directory::open_sync_as(lp, Operation::OpenFolder(checked_path(path.as_ref())?))
    }

    pub(crate) fn open_sync_as(lp: &Loop, operation: Operation) -> Result<Directory> {
        lp.can_insert()?;
        of(lp, operation.run()?)
    }

    /// Reads the next names, on the pool, and calls `done` with them: none when there are no more.
    ///
    /// Errors: [`Code::EBUSY`] while another reading is under way; [`Code::EBADF`] for a closed
    /// directory; as [`Call::start`](super::Call::start). To `done`: those of readdir(3), such as [`Code::EIO`].
    pub fn read(
        self,
        lp: &Loop,
        done: impl FnOnce(&Loop, Result<Entries>) + 'static,
    ) -> Result<Request> {
        self.read_as(lp, |lp, _, entries| done(lp, entries))
    }

    pub(crate) fn read_as(
        self,
        lp: &Loop,
        done: impl FnOnce(&Loop, Request, Result<Entries>) + 'static,
    ) -> Result<Request> {
        let reading = self.reading(lp)?;
        let done = move |lp: &Loop, request: Request, outcome: Result<Box<Reading>>| {
            self.set_reading(lp, false);
            done(lp, request, outcome.and_then(|reading| reading.outcome));
        };
        let request = lp.submit(WorkClass::Files, reading, Hold::UntilDone, done)?;
        self.set_reading(lp, true);
        Ok(request)
    }

    /// Reads the next names here and now, which may have to wait for a disk.
    ///
    /// Errors: those of [`Directory::read`].
    pub fn read_sync(self, lp: &Loop) -> Result<Entries> {
        let mut reading = self.reading(lp)?;
        reading.run();
        reading.outcome
    }

    fn reading(self, lp: &Loop) -> Result<Reading> {
        let mut core = lp.core()?;
        let state = state(&mut core, self.0)?;
        if state.reading {
            return Err(Code::EBUSY.into());
        }
        Ok(Reading {
            folder: Some(state.folder.clone()),
            outcome: Err(Code::EPANIC.into()),
        })
    }

    fn set_reading(self, lp: &Loop, reading: bool) {
        // It may have been closed meanwhile.
        if let Ok(state) = state(&mut lp.core.borrow_mut(), self.0) {
            state.reading = reading;
        }
    }
}

fn of(lp: &Loop, opened: Value) -> Result<Directory> {
    let Value::Folder(folder) = opened else {
        return Err(Code::EPANIC.into());
    };
    let state = DirectoryState {
        folder: Arc::new(Mutex::new(folder)),
        reading: false,
    };
    Ok(Directory(lp.insert(Body::Directory(state))?))
}

/// A batch on its way.
struct Reading {
    folder: Option<Arc<Mutex<Folder>>>,
    outcome: Result<Entries>,
}

impl Job for Reading {
    fn run(&mut self) {
        // It goes with this: closing it may have to wait, too.
        let Some(folder) = self.folder.take() else {
            return;
        };
        // One reading is under way at a time, so it is free; but in a forked child, where it may be held for
        // ever by a thread of the parent's.
        let mut folder = match folder.try_lock() {
            Ok(folder) => folder,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.outcome = Err(Code::EBUSY.into());
                return;
            }
        };
        let mut entries = Entries::default();
        self.outcome = loop {
            if entries.len() == BATCH_MAX {
                break Ok(entries);
            }
            match folder.next() {
                Ok(Some(found)) => entries.push(&found.name, found.file_type),
                Ok(None) => break Ok(entries),
                Err(error) if entries.is_empty() => break Err(error.into()),
                // Those that came first are told first; the next reading meets the error again.
                Err(_) => break Ok(entries),
            }
        };
    }
}
