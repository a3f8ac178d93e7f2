//! Files
//!
//! An open file is a handle, made by kolo_file_open. Reads and writes are positional: any number of them
//! can be under way at once, in any order. What the system has in memory, bytes and names, is read, and
//! opened for reading, without another thread; what may have to wait for a disk is done on the loop's
//! pool (KOLO_WORK_FILES), or, with the driver "uring", by the kernel alone, as far as it can. All are
//! told in the same way: what is under way is a request, whose `done` comes exactly once, never before
//! the function returns; `out`, which may be NULL, gets its number for kolo_request_cancel.
//!
//! kolo_close closes a file like every handle: its number is dead at once. Operations under way are
//! still done, and the descriptor is closed after the last of them. kolo_file_close does the same and
//! tells what close(2) says.
//!
//! The functions that end with _sync do it here and now, which may have to wait for a disk. The errors
//! of the operation itself, which the others tell to `done`, they return: those of the system call that
//! is named. Besides, the others return KOLO_EINVAL if `done` is NULL, KOLO_ENOBUFS if as much work waits
//! as may or the loop holds as many handles as it can, KOLO_EAGAIN if the system gives no thread,
//! KOLO_ECANCELED while the loop is being freed; then `done` does not come.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

use super::boundary::{id, needed, number, pointer, slice, status, with_loop, write_optional, Out};
use super::fs::{
    kolo_fs_cb, kolo_stat, kolo_stat_cb, kolo_transfer_cb, owner, stat_of, stating, times,
};
use super::requests::{counting, memory, path, plain, position, tell};
use super::sized::{self, first_size, Place, Versioned};
use super::stream::kolo_buffer;
use super::types::{kolo_file, kolo_loop, kolo_request, kolo_socket, kolo_stream};
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::fs::{Direction, File, OpenFlags, OpenOptions, SentFile, Transfer};
use crate::request::Request;
use crate::stream::Stream;

/// How a file is opened; to be combined with |. Without KOLO_OPEN_WRITE and KOLO_OPEN_APPEND it is opened
/// for reading.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_open_flag {
    /// It is read.
    KOLO_OPEN_READ = 1,
    /// It is written.
    KOLO_OPEN_WRITE = 2,
    /// It is written, each time at its end, whatever the offset says.
    KOLO_OPEN_APPEND = 4,
    /// It is made if it does not exist.
    KOLO_OPEN_CREATE = 8,
    /// It is made, and must not exist before (KOLO_EEXIST).
    KOLO_OPEN_EXCLUSIVE = 16,
    /// What stands in it is thrown away.
    KOLO_OPEN_TRUNCATE = 32,
    /// It must be a directory (KOLO_ENOTDIR): for kolo_open_options.directory, kolo_directory_open_file.
    KOLO_OPEN_DIRECTORY = 64,
    /// It must not be a symbolic link (KOLO_ELOOP).
    KOLO_OPEN_NO_FOLLOW = 128,
    /// Opening does not wait for the other side of a FIFO.
    KOLO_OPEN_NO_WAIT = 256,
    /// A write is over when it is on the disk, with all that is known of the file.
    KOLO_OPEN_SYNC = 512,
    /// A write is over when it is on the disk, with what is needed to read it.
    KOLO_OPEN_DATA_SYNC = 1024,
    /// Neither "..", nor an absolute path, nor a symbolic link leads out of the directory in which the
    /// path begins (KOLO_EXDEV): openat2(2). Linux 5.6; elsewhere KOLO_ENOTSUP.
    KOLO_OPEN_BENEATH = 2048,
}

/// How a file is opened. Begin with KOLO_OPEN_OPTIONS_INIT; a member that is zero means its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_open_options {
    /// sizeof(kolo_open_options), set by KOLO_OPEN_OPTIONS_INIT.
    pub size: usize,
    /// Of kolo_open_flag. Default: to read.
    pub flags: u32,
    /// The permissions of a file that is made, less those that the process masks. Default 0666.
    pub mode: u32,
    /// The open directory in which a relative path begins. Default: the process's working directory.
    pub directory: kolo_file,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_open_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, directory) + size_of::<kolo_file>());
}

/// Where in a file.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_offset {
    /// Where the last operation at the current position ended: for what has no other positions, such as
    /// pipes and terminals (which are better streams: reading them keeps a thread waiting). One
    /// operation at a time: the next one gets KOLO_EBUSY, for there would be no order between them.
    KOLO_OFFSET_CURRENT = -1,
}

/// A file is open: `status` is 0 and `file` its handle; or `status` says what went wrong, and `file`
/// is 0.
pub type kolo_file_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        file: kolo_file,
        user: *mut c_void,
    ),
>;

fn file(handle: kolo_file) -> Result<File> {
    Ok(File::from_id(id(handle)?))
}

/// # Safety
///
/// `options` is NULL, or as many bytes as its `size` says can be read there.
unsafe fn open_options(options: *const kolo_open_options) -> Result<OpenOptions> {
    // SAFETY: promised by the caller.
    let given = unsafe { sized::read_or_default(options)? };
    let default = OpenOptions::default();
    Ok(OpenOptions {
        flags: OpenFlags::from_bits(given.flags).ok_or(Code::EINVAL)?,
        mode: match given.mode {
            0 => default.mode,
            mode => mode,
        },
        directory: match given.directory {
            0 => None,
            directory => Some(file(directory)?),
        },
    })
}

/// Opens a file (open(2)). `options` may be NULL: to read.
///
/// Errors at once, besides those of the part's introduction: KOLO_EINVAL if `path` is NULL, for flags
/// that there are not, and for KOLO_OPEN_TRUNCATE of a file that is not written or KOLO_OPEN_DIRECTORY of
/// one that is; KOLO_EBADF for a directory that is closed. To `done`: KOLO_ENOENT, KOLO_EACCES,
/// KOLO_EISDIR, KOLO_EMFILE and so on; KOLO_ENOBUFS if the loop holds as many handles as it can.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_open(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    options: *const kolo_open_options,
    done: kolo_file_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = needed(done)?;
        // SAFETY: the caller's pointers, as the header asks for them.
        let (path, options) = unsafe { (self::path(path)?, open_options(options)?) };
        let done = move |lp: &Loop, request: Request, opened: Result<File>| {
            let (status, file) = match opened {
                Ok(file) => (0, file.id().to_raw()),
                Err(error) => (number(error), 0),
            };
            // SAFETY: the user's function, with what it asked for.
            unsafe { done(pointer(lp), request.id().to_raw(), status, file, user) }
        };
        let made = File::open_as(&lp.inner, &path, options, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_open, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_open_sync(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    options: *const kolo_open_options,
    out: *mut kolo_file,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (path, options, out) =
            unsafe { (self::path(path)?, open_options(options)?, Out::new(out)?) };
        let file = File::open_sync(&lp.inner, path, options)?;
        out.set(file.id().to_raw());
        Ok(())
    })
}

/// Makes a handle for a descriptor that was opened elsewhere, which is kolo's from then on. Whether it
/// blocks is left as it is.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBADF for a descriptor that is not open; KOLO_EEXIST for
/// one that a handle has already (see kolo_socket); KOLO_ENOBUFS if the loop holds as many handles as
/// it can; KOLO_ECANCELED while the loop is being freed. Then the descriptor is still the caller's.
/// Windows: KOLO_ENOTSUP.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_adopt(
    r#loop: *mut kolo_loop,
    descriptor: kolo_socket,
    out: *mut kolo_file,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        #[cfg(unix)]
        {
            use std::os::fd::IntoRawFd;
            let descriptor = super::poll::descriptor(descriptor)?;
            let taken = crate::sys::Held::adopt(crate::sys::fs::take_file(descriptor)?)?;
            let file = File::of(&lp.inner, taken).map_err(|(error, taken)| {
                // It stays the caller's.
                let _ = taken.map(IntoRawFd::into_raw_fd);
                error
            })?;
            out.set(file.id().to_raw());
            Ok(())
        }
        #[cfg(not(unix))]
        {
            let _ = (descriptor, out, lp);
            Err::<(), _>(Code::ENOTSUP.into())
        }
    })
}

/// Takes the descriptor out of kolo: it is the caller's, and the handle is closed.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while operations on the file are under way.
/// Windows: KOLO_ENOTSUP.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_release(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    out: *mut kolo_socket,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let file = self::file(file)?;
        #[cfg(unix)]
        {
            let released = file.release(&lp.inner)?;
            out.set(super::poll::socket(std::os::fd::IntoRawFd::into_raw_fd(
                released,
            )));
            Ok(())
        }
        #[cfg(not(unix))]
        {
            let _ = (file, out, lp);
            Err::<(), _>(Code::ENOTSUP.into())
        }
    })
}

/// Tells the file's descriptor, which stays kolo's: it must not be closed.
///
/// Errors: KOLO_EINVAL if `out` is NULL. Windows: KOLO_ENOTSUP.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_descriptor(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    out: *mut kolo_socket,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let file = self::file(file)?;
        #[cfg(unix)]
        {
            out.set(super::poll::socket(file.descriptor(&lp.inner)?));
            Ok(())
        }
        #[cfg(not(unix))]
        {
            let _ = (file, out, lp);
            Err::<(), _>(Code::ENOTSUP.into())
        }
    })
}

/// Closes a file, and tells `done` what close(2) says of what was written: on file systems over a
/// network, KOLO_EIO, KOLO_EDQUOT, KOLO_ENOSPC. The handle is closed at once, and its kolo_on_close comes
/// as after kolo_close. That the bytes are on a disk only kolo_file_fsync tells.
///
/// When this itself fails, the file is still open.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_close(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = plain(done, user)?;
        let made = self::file(file)?.close_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_close, here and now. The handle is closed in any case.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_close_sync(r#loop: *mut kolo_loop, file: kolo_file) -> c_int {
    with_loop(r#loop, |lp| self::file(file)?.close_sync(&lp.inner))
}

/// # Safety
///
/// The memory is lent until the request's end; `out` is NULL or can be written to.
#[allow(clippy::too_many_arguments)] // those of the functions that call it
unsafe fn transfer(
    lp: &kolo_loop,
    file: kolo_file,
    direction: Direction,
    buffers: &[kolo_buffer],
    offset: i64,
    done: kolo_transfer_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> Result<()> {
    let done = counting(done, user)?;
    let (file, at) = (self::file(file)?, position(offset)?);
    // SAFETY: promised by the caller.
    let memory = unsafe { memory(buffers)? };
    let done = |lp: &Loop, request: Request, outcome: Result<Transfer>| match outcome {
        Ok(transfer) => done(lp, request, transfer.outcome, transfer.done as u64),
        Err(error) => done(lp, request, Err(error), 0),
    };
    let made = file.transfer(&lp.inner, direction, at, memory, done);
    // SAFETY: promised by the caller.
    unsafe { tell(out, made) }
}

/// # Safety
///
/// The memory is lent until this returns; `out` can be written to, or is NULL.
unsafe fn transfer_sync(
    lp: &kolo_loop,
    file: kolo_file,
    direction: Direction,
    buffers: &[kolo_buffer],
    offset: i64,
    out: *mut usize,
) -> Result<()> {
    // SAFETY: promised by the caller.
    let (memory, out) = unsafe { (memory(buffers)?, Out::new(out)?) };
    let (file, at) = (self::file(file)?, position(offset)?);
    let transfer = file.transfer_sync(&lp.inner, direction, at, memory)?;
    if transfer.done == 0 {
        transfer.outcome?;
    }
    out.set(transfer.done);
    Ok(())
}

fn buffer(base: *mut c_void, len: usize) -> kolo_buffer {
    kolo_buffer { base, len }
}

/// Reads from `offset` on until `length` bytes of `memory` are full or the file ends: only at its end
/// `done` is told fewer, and 0 at the end itself. (At KOLO_OFFSET_CURRENT, what one read(2) brings.) The
/// memory is kolo's until `done`.
///
/// To `done`: KOLO_EIO, KOLO_EISDIR, KOLO_EBADF for a file that is not open for reading, KOLO_ESPIPE for
/// one that has no positions and so on; KOLO_ECANCELED.
///
/// Errors at once, besides those of the part's introduction: KOLO_EINVAL if `memory` is NULL and `length`
/// is not 0, and for a negative offset that is not KOLO_OFFSET_CURRENT; KOLO_EBUSY at the current position
/// while another operation is under way there.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_read(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    memory: *mut c_void,
    length: usize,
    offset: i64,
    done: kolo_transfer_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let buffers = [buffer(memory, length)];
        // SAFETY: the caller's memory and pointer, as the header asks for them.
        unsafe { transfer(lp, file, Direction::Read, &buffers, offset, done, user, out) }
    })
}

/// As kolo_file_read, into several pieces of memory, one after the other. The array of buffers may
/// go when this returns.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_read_vectored(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    buffers: *const kolo_buffer,
    count: usize,
    offset: i64,
    done: kolo_transfer_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let buffers = unsafe { slice(buffers, count)? };
        // SAFETY: the caller's memory and pointer, as the header asks for them.
        unsafe { transfer(lp, file, Direction::Read, buffers, offset, done, user, out) }
    })
}

/// Writes `length` bytes at `offset`: all of them, unless an error comes between. Then `done` gets the
/// error, and how many bytes were written before. The memory must stay as it is until `done`.
///
/// To `done`: KOLO_ENOSPC, KOLO_EDQUOT, KOLO_EFBIG, KOLO_EIO, KOLO_EBADF for a file that is not open for
/// writing and so on; KOLO_ECANCELED.
///
/// Errors at once: as kolo_file_read.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_write(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    memory: *const c_void,
    length: usize,
    offset: i64,
    done: kolo_transfer_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let buffers = [buffer(memory.cast_mut(), length)];
        // SAFETY: the caller's memory and pointer, as the header asks for them.
        unsafe {
            transfer(
                lp,
                file,
                Direction::Write,
                &buffers,
                offset,
                done,
                user,
                out,
            )
        }
    })
}

/// As kolo_file_write, from several pieces of memory, one after the other. The array of buffers may
/// go when this returns.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_write_vectored(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    buffers: *const kolo_buffer,
    count: usize,
    offset: i64,
    done: kolo_transfer_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let buffers = unsafe { slice(buffers, count)? };
        // SAFETY: the caller's memory and pointer, as the header asks for them.
        unsafe { transfer(lp, file, Direction::Write, buffers, offset, done, user, out) }
    })
}

/// As kolo_file_read, here and now: `out` gets the bytes read. An error that comes after some were read
/// is told by the next call.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_read_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    memory: *mut c_void,
    length: usize,
    offset: i64,
    out: *mut usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        let buffers = [buffer(memory, length)];
        // SAFETY: the caller's memory and pointer, as the header asks for them.
        unsafe { transfer_sync(lp, file, Direction::Read, &buffers, offset, out) }
    })
}

/// As kolo_file_read_sync, into several pieces of memory, one after the other.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_read_vectored_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    buffers: *const kolo_buffer,
    count: usize,
    offset: i64,
    out: *mut usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let buffers = unsafe { slice(buffers, count)? };
        // SAFETY: the caller's memory and pointer, as the header asks for them.
        unsafe { transfer_sync(lp, file, Direction::Read, buffers, offset, out) }
    })
}

/// As kolo_file_write, here and now: `out` gets the bytes written. If that is fewer than `length`, the next
/// call tells why.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_write_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    memory: *const c_void,
    length: usize,
    offset: i64,
    out: *mut usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        let buffers = [buffer(memory.cast_mut(), length)];
        // SAFETY: the caller's memory and pointer, as the header asks for them.
        unsafe { transfer_sync(lp, file, Direction::Write, &buffers, offset, out) }
    })
}

/// As kolo_file_write_sync, from several pieces of memory, one after the other.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_write_vectored_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    buffers: *const kolo_buffer,
    count: usize,
    offset: i64,
    out: *mut usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let buffers = unsafe { slice(buffers, count)? };
        // SAFETY: the caller's memory and pointer, as the header asks for them.
        unsafe { transfer_sync(lp, file, Direction::Write, buffers, offset, out) }
    })
}

/// Tells what is known of the file (fstat(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_file_stat(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    done: kolo_stat_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = stating(done, user)?;
        let call = self::file(file)?.stat(&lp.inner);
        let made = call.start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_stat, here and now. `out` begins with its `size`.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_stat_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    out: *mut kolo_stat,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let place = unsafe { Place::new(out)? };
        let found = self::file(file)?.stat(&lp.inner).wait()?;
        place.fill(&stat_of(&found));
        Ok(())
    })
}

/// Has what was written put on the disk, with all that is known of the file (fsync(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_file_fsync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = plain(done, user)?;
        let call = self::file(file)?.fsync(&lp.inner);
        let made = call.start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_fsync, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_fsync_sync(r#loop: *mut kolo_loop, file: kolo_file) -> c_int {
    with_loop(r#loop, |lp| self::file(file)?.fsync(&lp.inner).wait())
}

/// Has what was written put on the disk, with what is needed to read it (fdatasync(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_file_fdatasync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = plain(done, user)?;
        let call = self::file(file)?.fdatasync(&lp.inner);
        let made = call.start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_fdatasync, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_fdatasync_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
) -> c_int {
    with_loop(r#loop, |lp| self::file(file)?.fdatasync(&lp.inner).wait())
}

/// Makes the file shorter, or longer by zeros (ftruncate(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_file_truncate(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    length: u64,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = plain(done, user)?;
        let call = self::file(file)?.truncate(&lp.inner, length);
        let made = call.start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_truncate, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_truncate_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    length: u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::file(file)?.truncate(&lp.inner, length).wait()
    })
}

/// Sets the file's permissions (fchmod(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_file_chmod(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    mode: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = plain(done, user)?;
        let call = self::file(file)?.chmod(&lp.inner, mode);
        let made = call.start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_chmod, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_chmod_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    mode: u32,
) -> c_int {
    with_loop(r#loop, |lp| self::file(file)?.chmod(&lp.inner, mode).wait())
}

/// Sets the file's owner and group; UINT32_MAX leaves one as it is (fchown(2)). Windows: KOLO_ENOTSUP.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_chown(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    uid: u32,
    gid: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = plain(done, user)?;
        let call = self::file(file)?.chown(&lp.inner, owner(uid), owner(gid));
        let made = call.start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_chown, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_chown_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    uid: u32,
    gid: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::file(file)?
            .chown(&lp.inner, owner(uid), owner(gid))
            .wait()
    })
}

/// Sets when the file was last read and last changed, as kolo_fs_utimes does (futimens(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_file_utimes(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    accessed_ns: i64,
    modified_ns: i64,
    flags: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = plain(done, user)?;
        let [accessed, modified] = times(accessed_ns, modified_ns, flags)?;
        let call = self::file(file)?.utimes(&lp.inner, accessed, modified);
        let made = call.start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_file_utimes, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_file_utimes_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    accessed_ns: i64,
    modified_ns: i64,
    flags: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        let [accessed, modified] = times(accessed_ns, modified_ns, flags)?;
        self::file(file)?
            .utimes(&lp.inner, accessed, modified)
            .wait()
    })
}

/// A file was sent: `status` is 0 and `sent` the bytes that the system has taken; or `status` says what
/// came between, and `sent` how many bytes were taken before.
pub type kolo_send_file_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        stream: kolo_stream,
        status: c_int,
        sent: u64,
        user: *mut c_void,
    ),
>;

/// Sends `length` bytes of a file from `offset` on over a stream, in the order of its writes, and tells
/// `done`, which may be NULL, when the system has taken them. UINT64_MAX bytes: to the file's end.
///
/// What the system has in memory does not pass through the program (sendfile(2)); what has to come from a
/// disk is read by the loop's pool, so that the loop does not wait. The bytes count for neither
/// kolo_stream_queued nor the watermarks: they cost no memory but for at most 128 KiB of what was read
/// ahead. A peer that does not take them is what the write timeout is for, which rests while a disk is
/// waited for.
///
/// The file may be closed at once: what is under way is still sent. `out`, which may be NULL, gets the
/// write's name for kolo_stream_write_cancel, which takes it back as long as nothing of it is sent.
///
/// When the file becomes shorter, or cannot be read, before all is sent, the stream fails: `done` gets
/// KOLO_ENODATA, or why it cannot be read, and so does on_error. The connection is then reset, where there
/// is such a thing, so that a part never looks like the whole.
///
/// Returns 0 or 1, as kolo_stream_write does.
///
/// Errors: as kolo_stream_write; KOLO_EBADF for a closed file, and one that is not open for reading;
/// KOLO_EINVAL for a range that no file has; KOLO_ENOBUFS if 256 files are queued. Then `done` does not
/// come.
#[no_mangle]
pub unsafe extern "C" fn kolo_stream_send_file(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    file: kolo_file,
    offset: u64,
    length: u64,
    done: kolo_send_file_cb,
    user: *mut c_void,
    out: *mut u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        let (stream, file) = (Stream::from_id(id(stream)?), self::file(file)?);
        let done = move |lp: &Loop, stream: Stream, sent: SentFile| {
            let Some(done) = done else { return };
            let (status, bytes) = (status(sent.outcome), sent.length);
            // SAFETY: the user's function, with what it asked for.
            unsafe { done(pointer(lp), stream.id().to_raw(), status, bytes, user) }
        };
        let (flow, write) = stream.send_file(&lp.inner, file, offset, length, done)?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out, write.0) };
        Ok(flow)
    })
}
