//! Open files.

use std::fs::Metadata;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bitflags::bitflags;

use super::open_file::OpenFile;
use super::operation::{submit, Call, Operation, Target, Value};
use super::transfer::{self, Direction, Transfer};
use super::{checked_path, SetTime};
use crate::error::{Code, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Id};
use crate::pool::Pool;
use crate::request::Request;
use crate::sys::fs::{open_flag, Memory, Opening, Position};
use crate::sys::Held;

pub(crate) struct FileState {
    /// Until the handle is closed.
    open: Option<Arc<OpenFile>>,
}

impl FileState {
    pub fn describe(&self, line: &mut String) {
        use std::fmt::Write;
        let Some(open) = &self.open else { return };
        #[cfg(unix)]
        {
            use std::os::fd::AsRawFd;
            let _ = write!(line, " descriptor={}", open.file().as_raw_fd());
        }
        let _ = write!(line, " under-way={}", Arc::strong_count(open) - 1);
    }
}

bitflags! {
    /// How a file is opened (open(2)). Without [`OpenFlags::WRITE`] and [`OpenFlags::APPEND`] it is
    /// opened for reading.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// It is read.
        const READ = open_flag::READ;
        /// It is written.
        const WRITE = open_flag::WRITE;
        /// It is written, each time at its end, whatever the offset says.
        const APPEND = open_flag::APPEND;
        /// It is made if it does not exist.
        const CREATE = open_flag::CREATE;
        /// It is made, and must not exist before.
        const EXCLUSIVE = open_flag::EXCLUSIVE;
        /// What stands in it is thrown away.
        const TRUNCATE = open_flag::TRUNCATE;
        /// It must be a directory.
        const DIRECTORY = open_flag::DIRECTORY;
        /// It must not be a symbolic link ([`Code::ELOOP`]).
        const NO_FOLLOW = open_flag::NO_FOLLOW;
        /// Opening does not wait for the other side of a FIFO.
        const NO_WAIT = open_flag::NO_WAIT;
        /// A write is over when it is on the disk, with all that is known of the file.
        const SYNC = open_flag::SYNC;
        /// A write is over when it is on the disk, with what is needed to read it.
        const DATA_SYNC = open_flag::DATA_SYNC;
        /// Neither "..", nor an absolute path, nor a symbolic link leads out of the directory in which
        /// the path begins ([`Code::EXDEV`]); openat2(2). Linux 5.6; elsewhere [`Code::ENOTSUP`].
        const BENEATH = open_flag::BENEATH;
    }
}

/// How a file is opened. `..Default::default()` leaves the rest as it is.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// See [`OpenFlags`].
    pub flags: OpenFlags,
    /// The permissions of a file that is made, less those that the process masks (umask(2)).
    pub mode: u32,
    /// The open directory in which a relative path begins, in place of the process's working directory.
    pub directory: Option<File>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            flags: OpenFlags::empty(),
            mode: 0o666,
            directory: None,
        }
    }
}

impl From<OpenFlags> for OpenOptions {
    fn from(flags: OpenFlags) -> OpenOptions {
        OpenOptions {
            flags,
            ..Default::default()
        }
    }
}

/// What a read or a write has done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Transferred<B> {
    /// Bytes that were read or written; also when an error ended it before all were.
    pub length: usize,
    /// What ended it, if not the end of the memory or of the file: [`Code::ENOSPC`], [`Code::EIO`] and
    /// the like, [`Code::EISDIR`], [`Code::EBADF`] for a file that is not open for this;
    /// [`Code::ECANCELED`].
    pub outcome: Result<()>,
    /// The memory. Empty when the request was cancelled or closed.
    pub buffer: B,
}

/// What [`Stream::send_file`](crate::Stream::send_file) has sent.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SentFile {
    /// Bytes that the system has taken; also when an error came before all were.
    pub length: u64,
    /// Whether that is all, or what came between.
    pub outcome: Result<()>,
}

/// An open file: a handle of a loop.
///
/// Reads and writes are positional, so that any number of them can be under way at once, in any order.
/// What the kernel has in memory is read without another thread; all that may wait for a disk is done on
/// the loop's [pool](crate::Pool), or, with the driver `"uring"`, by the kernel alone, as far as it can. Closing the
/// handle ([`Loop::close`]) is final at once; operations under way are still done, and the descriptor is closed after
/// the last of them.
///
/// # Example
///
/// ```
/// use kolo::fs::OpenFlags;
/// use kolo::{File, Loop, RunMode};
///
/// let lp = Loop::new()?;
/// let path = std::env::temp_dir().join(format!("kolo-doc-file-{}", std::process::id()));
/// let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
/// File::open(&lp, &path, flags, |lp, file| {
///     let file = file.unwrap();
///     let written = move |lp: &Loop, written: kolo::fs::Transferred<Vec<u8>>| {
///         assert_eq!((written.outcome, written.length), (Ok(()), 5));
///         file.read(lp, 1, Vec::with_capacity(100), move |lp, read| {
///             assert_eq!(read.buffer, b"ello");
///             lp.close(file).unwrap();
///         })
///         .unwrap();
///     };
///     file.write(lp, 0, b"hello".to_vec(), written).unwrap();
/// })?;
/// lp.run(RunMode::Default)?;
/// kolo::fs::unlink(&path).wait()?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct File(pub(crate) Id);

crate::handles::handle_type!(File);

fn state(core: &mut Core, id: Id) -> Result<&mut FileState> {
    match &mut core.handles.get_mut(id)?.body {
        Body::File(file) => Ok(file),
        _ => Err(Code::EBADF.into()),
    }
}

impl File {
    /// Opens a file and calls `done` with its handle: see [`Call::start`]. It is opened on the pool, unless it is opened
    /// for reading alone, by a name that the kernel has in memory (Linux): then at once.
    ///
    /// Errors: [`Code::EINVAL`] for flags that contradict each other and for a path with a NUL in it;
    /// [`Code::EBADF`] for a directory that is closed; as [`Call::start`]. To `done`: those of open(2),
    /// such as [`Code::ENOENT`], [`Code::EACCES`], [`Code::EMFILE`]; [`Code::ENOBUFS`] when the loop holds
    /// as many handles as it can.
    pub fn open(
        lp: &Loop,
        path: impl AsRef<Path>,
        options: impl Into<OpenOptions>,
        done: impl FnOnce(&Loop, Result<File>) + 'static,
    ) -> Result<Request> {
        let done = |lp: &Loop, _: Request, file: Result<File>| done(lp, file);
        File::open_as(lp, path.as_ref(), options.into(), done)
    }

    pub(crate) fn open_as(
        lp: &Loop,
        path: &Path,
        options: OpenOptions,
        done: impl FnOnce(&Loop, Request, Result<File>) + 'static,
    ) -> Result<Request> {
        let operation = opening(lp, path, options)?;
        submit(lp, operation, |lp, request, opened| {
            let file = opened.and_then(|opened| match opened {
                Value::File { file, is_local } => File::of_opened(lp, file, is_local),
                _ => Err(Code::EPANIC.into()),
            });
            done(lp, request, file);
        })
    }

    /// Opens a file here and now, which may have to wait for a disk.
    ///
    /// Errors: those of [`File::open`].
    pub fn open_sync(
        lp: &Loop,
        path: impl AsRef<Path>,
        options: impl Into<OpenOptions>,
    ) -> Result<File> {
        let operation = opening(lp, path.as_ref(), options.into())?;
        lp.can_insert()?;
        match operation.run()? {
            Value::File { file, is_local } => File::of_opened(lp, file, is_local),
            _ => Err(Code::EPANIC.into()),
        }
    }

    /// Makes a handle for a file that was opened elsewhere. It belongs to the loop from now on.
    ///
    /// Errors: [`Code::ENOBUFS`] when the loop holds as many handles as it can; [`Code::ECANCELED`] while
    /// it is being dropped. Then the file is closed. [`Code::EEXIST`] when a handle of kolo's has the
    /// descriptor already: [adopted twice](crate#descriptors-that-are-adopted-twice).
    pub fn adopt(lp: &Loop, file: impl Into<std::fs::File>) -> Result<File> {
        let file: std::fs::File = file.into();
        // (Windows' files have no numbers of sockets.)
        #[cfg(unix)]
        let file = Held::adopt(file)?;
        #[cfg(not(unix))]
        let file = Held::from(file);
        File::of(lp, file).map_err(|(error, _)| error)
    }

    fn of_opened(lp: &Loop, file: std::fs::File, is_local: bool) -> Result<File> {
        let file = File::of(lp, file.into()).map_err(|(error, _)| error)?;
        if is_local && !lp.is_simulated() {
            file.opened(lp)?.is_local();
        }
        Ok(file)
    }

    /// As [`File::adopt`]; with an error the file comes back.
    pub(crate) fn of(
        lp: &Loop,
        file: Held<std::fs::File>,
    ) -> std::result::Result<File, (crate::Error, Option<std::fs::File>)> {
        let pool = match lp.can_insert().and_then(|()| pool(lp)) {
            Ok(pool) => pool,
            Err(error) => return Err((error, Some(file.into_inner()))),
        };
        let open = OpenFile::new(file, pool).map_err(|(error, file)| (error, Some(file)))?;
        if lp.is_simulated() {
            // Whether a disk must be waited for is not to show in a run that can be repeated.
            open.cannot_read_now();
            open.cannot_write_now();
        }
        let open = Some(Arc::new(open));
        let inserted = lp.insert(Body::File(FileState { open }));
        // It was asked before whether there is room.
        inserted.map(File).map_err(|error| (error, None))
    }

    /// The file, for whoever takes it out of the loop. The handle is closed.
    ///
    /// Errors: [`Code::EBUSY`] while operations on it are under way; [`Code::EBADF`] for a closed handle.
    pub fn release(self, lp: &Loop) -> Result<std::fs::File> {
        let mut core = lp.core()?;
        let open = state(&mut core, self.0)?.open.as_mut();
        // Nobody but this thread makes more of them.
        let file = open.and_then(Arc::get_mut).and_then(OpenFile::hand_out);
        let file = file.ok_or(Code::EBUSY)?;
        crate::event_loop::close(&mut core, self.0)?;
        Ok(file)
    }

    /// Closes the file on the pool, for whoever wants to hear what close(2) says of what was written
    /// ([`Code::EIO`], [`Code::EDQUOT`], [`Code::ENOSPC`] on file systems over a network). The handle is closed
    /// at once. That the bytes are on a disk only [`File::fsync`] tells.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle; as [`Call::start`]. Then the handle is still open.
    pub fn close(
        self,
        lp: &Loop,
        done: impl FnOnce(&Loop, Result<()>) + 'static,
    ) -> Result<Request> {
        self.close_as(lp, |lp, _, outcome| done(lp, outcome))
    }

    pub(crate) fn close_as(
        self,
        lp: &Loop,
        done: impl FnOnce(&Loop, Request, Result<()>) + 'static,
    ) -> Result<Request> {
        self.opened(lp)?;
        let parcel = Arc::new(Mutex::new(None));
        // The thread waits for what it is to close.
        let mut place = parcel
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let operation = Operation::Close(parcel.clone());
        let request = submit(lp, operation, |lp, request, outcome| {
            done(lp, request, outcome.map(drop));
        })?;
        *place = Some(self.take(lp)?);
        drop(place);
        Ok(request)
    }

    /// Closes the file here and now: see [`File::close`].
    ///
    /// Errors: those of close(2); [`Code::EBADF`] for a closed handle. The handle is closed in any case.
    pub fn close_sync(self, lp: &Loop) -> Result<()> {
        let parcel = Arc::new(Mutex::new(Some(self.take(lp)?)));
        Operation::Close(parcel).run().map(drop)
    }

    /// Closes the handle; its descriptor.
    fn take(self, lp: &Loop) -> Result<Arc<OpenFile>> {
        let mut core = lp.core()?;
        let open = state(&mut core, self.0)?.open.take();
        crate::event_loop::close(&mut core, self.0)?;
        open.ok_or(Code::EBADF.into())
    }

    /// The open descriptor, held for an operation.
    pub(crate) fn opened(self, lp: &Loop) -> Result<Arc<OpenFile>> {
        let mut core = lp.core()?;
        let open = state(&mut core, self.0)?.open.clone();
        open.ok_or(Code::EBADF.into())
    }

    /// The file's descriptor. It stays the loop's: do not close it.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    #[cfg(unix)]
    pub fn descriptor(self, lp: &Loop) -> Result<std::os::fd::RawFd> {
        self.opened(lp)?.show().ok_or(Code::EBADF.into())
    }

    /// Reads from `offset` on until `buffer` is full, all that it has room for (its capacity), or the file
    /// ends. `done` gets it back, holding what was read; what stood in it before is gone.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle; as [`Call::start`]. To `done`:
    /// [`Transferred::outcome`].
    pub fn read(
        self,
        lp: &Loop,
        offset: u64,
        buffer: Vec<u8>,
        done: impl FnOnce(&Loop, Transferred<Vec<u8>>) + 'static,
    ) -> Result<Request> {
        let (at, memory) = (Position::At(offset), Memory::to_fill(buffer));
        self.transfer(lp, Direction::Read, at, memory, |lp, _, outcome| {
            done(lp, transferred(outcome, Memory::into_filled));
        })
    }

    /// As [`File::read`], into one buffer after the other.
    ///
    /// Errors: as [`File::read`].
    pub fn read_vectored(
        self,
        lp: &Loop,
        offset: u64,
        buffers: Vec<Vec<u8>>,
        done: impl FnOnce(&Loop, Transferred<Vec<Vec<u8>>>) + 'static,
    ) -> Result<Request> {
        let (at, memory) = (Position::At(offset), Memory::to_fill_each(buffers));
        self.transfer(lp, Direction::Read, at, memory, |lp, _, outcome| {
            done(lp, transferred(outcome, Memory::into_each_filled));
        })
    }

    /// Reads what one call brings from where the last one at the current position ended: for files that
    /// have no other positions, such as pipes and terminals, which are better [streams](crate::Stream),
    /// since reading them keeps a thread waiting.
    ///
    /// Errors: as [`File::read`]; [`Code::EBUSY`] while another operation at the current position is
    /// under way: between two of them there would be no order.
    pub fn read_on(
        self,
        lp: &Loop,
        buffer: Vec<u8>,
        done: impl FnOnce(&Loop, Transferred<Vec<u8>>) + 'static,
    ) -> Result<Request> {
        let (at, memory) = (Position::Current, Memory::to_fill(buffer));
        self.transfer(lp, Direction::Read, at, memory, |lp, _, outcome| {
            done(lp, transferred(outcome, Memory::into_filled));
        })
    }

    /// Writes `buffer` at `offset`, all of it unless an error comes between: then
    /// [`Transferred::length`] says how much was written.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle; as [`Call::start`]. To `done`:
    /// [`Transferred::outcome`].
    pub fn write(
        self,
        lp: &Loop,
        offset: u64,
        buffer: Vec<u8>,
        done: impl FnOnce(&Loop, Transferred<Vec<u8>>) + 'static,
    ) -> Result<Request> {
        let (at, memory) = (Position::At(offset), Memory::of(buffer));
        self.transfer(lp, Direction::Write, at, memory, |lp, _, outcome| {
            done(lp, transferred(outcome, |memory, _| memory.into_vector()));
        })
    }

    /// As [`File::write`], one buffer after the other.
    ///
    /// Errors: as [`File::write`].
    pub fn write_vectored(
        self,
        lp: &Loop,
        offset: u64,
        buffers: Vec<Vec<u8>>,
        done: impl FnOnce(&Loop, Transferred<Vec<Vec<u8>>>) + 'static,
    ) -> Result<Request> {
        let (at, memory) = (Position::At(offset), Memory::of_each(buffers));
        self.transfer(lp, Direction::Write, at, memory, |lp, _, outcome| {
            done(lp, transferred(outcome, |memory, _| memory.into_vectors()));
        })
    }

    /// Writes where the last operation at the current position ended.
    ///
    /// Errors: as [`File::write`] and [`File::read_on`].
    pub fn write_on(
        self,
        lp: &Loop,
        buffer: Vec<u8>,
        done: impl FnOnce(&Loop, Transferred<Vec<u8>>) + 'static,
    ) -> Result<Request> {
        let (at, memory) = (Position::Current, Memory::of(buffer));
        self.transfer(lp, Direction::Write, at, memory, |lp, _, outcome| {
            done(lp, transferred(outcome, |memory, _| memory.into_vector()));
        })
    }

    pub(crate) fn transfer(
        self,
        lp: &Loop,
        direction: Direction,
        at: Position,
        memory: Memory,
        done: impl FnOnce(&Loop, Request, Result<Transfer>) + 'static,
    ) -> Result<Request> {
        let transfer = Transfer::new(self.opened(lp)?, direction, at, memory)?;
        transfer::submit(lp, transfer, done)
    }

    /// A transfer here and now; how many bytes it moved before it ended, and why it did.
    pub(crate) fn transfer_sync(
        self,
        lp: &Loop,
        direction: Direction,
        at: Position,
        memory: Memory,
    ) -> Result<Transfer> {
        let mut transfer = Transfer::new(self.opened(lp)?, direction, at, memory)?;
        transfer.finish();
        Ok(transfer)
    }

    /// Reads here and now, which may have to wait for a disk: as [`File::read`].
    pub fn read_sync(
        self,
        lp: &Loop,
        offset: u64,
        buffer: Vec<u8>,
    ) -> Result<Transferred<Vec<u8>>> {
        let (at, memory) = (Position::At(offset), Memory::to_fill(buffer));
        let transfer = self.transfer_sync(lp, Direction::Read, at, memory)?;
        Ok(transferred(Ok(transfer), Memory::into_filled))
    }

    /// Writes here and now, which may have to wait for a disk: as [`File::write`].
    pub fn write_sync(
        self,
        lp: &Loop,
        offset: u64,
        buffer: Vec<u8>,
    ) -> Result<Transferred<Vec<u8>>> {
        let (at, memory) = (Position::At(offset), Memory::of(buffer));
        let transfer = self.transfer_sync(lp, Direction::Write, at, memory)?;
        Ok(transferred(Ok(transfer), |memory, _| memory.into_vector()))
    }

    fn call<T>(self, lp: &Loop, operation: impl FnOnce(Arc<OpenFile>) -> Operation) -> Call<T> {
        Call::new(self.opened(lp).map(operation))
    }

    /// What is known of the file (fstat(2)).
    pub fn stat(self, lp: &Loop) -> Call<Metadata> {
        self.call(lp, |file| Operation::Stat(Target::File(file)))
    }

    /// Has what was written put on the disk, with all that is known of the file (fsync(2)).
    pub fn fsync(self, lp: &Loop) -> Call<()> {
        let only_data = false;
        self.call(lp, |file| Operation::Sync { file, only_data })
    }

    /// Has what was written put on the disk, with what is needed to read it (fdatasync(2)).
    pub fn fdatasync(self, lp: &Loop) -> Call<()> {
        let only_data = true;
        self.call(lp, |file| Operation::Sync { file, only_data })
    }

    /// Makes the file shorter, or longer by zeros (ftruncate(2)).
    pub fn truncate(self, lp: &Loop, length: u64) -> Call<()> {
        self.call(lp, |file| Operation::Truncate(Target::File(file), length))
    }

    /// Sets the file's permissions (fchmod(2)).
    pub fn chmod(self, lp: &Loop, mode: u32) -> Call<()> {
        self.call(lp, |file| Operation::SetMode(Target::File(file), mode))
    }

    /// Sets the file's owner and group, those that are given (fchown(2)).
    pub fn chown(self, lp: &Loop, user: Option<u32>, group: Option<u32>) -> Call<()> {
        self.call(lp, |file| {
            Operation::SetOwner(Target::File(file), user, group)
        })
    }

    /// Sets when the file was last read and last changed (futimens(2)).
    pub fn utimes(self, lp: &Loop, accessed: SetTime, modified: SetTime) -> Call<()> {
        self.call(lp, |file| {
            Operation::SetTimes(Target::File(file), accessed, modified)
        })
    }
}

/// The loop's pool.
pub(super) fn pool(lp: &Loop) -> Result<Pool> {
    Ok(lp.core()?.pool.get_or_insert_with(Pool::default).clone())
}

fn transferred<B: Default>(
    outcome: Result<Transfer>,
    buffer: impl FnOnce(Memory, usize) -> B,
) -> Transferred<B> {
    match outcome {
        Ok(transfer) => {
            let (length, outcome) = (transfer.done, transfer.outcome);
            Transferred {
                length,
                outcome,
                buffer: buffer(transfer.into_memory(), length),
            }
        }
        Err(error) => Transferred {
            length: 0,
            outcome: Err(error),
            buffer: B::default(),
        },
    }
}

fn opening(lp: &Loop, path: &Path, options: OpenOptions) -> Result<Operation> {
    let mut flags = options.flags;
    if flags.bits() & !OpenFlags::all().bits() != 0 {
        return Err(Code::EINVAL.into());
    }
    let writes = flags.intersects(OpenFlags::WRITE | OpenFlags::APPEND);
    if !writes {
        flags |= OpenFlags::READ;
    }
    // Linux would do what nobody can want, and throw away what may only be read.
    let contradicts = flags.contains(OpenFlags::TRUNCATE) && !writes
        || flags.contains(OpenFlags::DIRECTORY)
            && (writes || flags.intersects(OpenFlags::CREATE | OpenFlags::EXCLUSIVE));
    if contradicts {
        return Err(Code::EINVAL.into());
    }
    let folder = options.directory.map(|file| file.opened(lp)).transpose()?;
    let how = Opening {
        flags: flags.bits(),
        mode: options.mode,
    };
    let path = checked_path(path)?;
    Ok(Operation::Open { folder, path, how })
}
