//! The file system
//!
//! Operations on names. Each comes twice. kolo_fs_stat has it done on a thread of the loop's pool
//! (KOLO_WORK_FILES), and then calls `done` on the loop; kolo_fs_stat_sync does it here and now, needs
//! no loop, and may be called from any thread.
//!
//! What is under way is a request, as with kolo_work_submit: `done` comes exactly once, never before
//! the function returns, and `out`, which may be NULL, gets its number for kolo_request_cancel. Paths
//! are texts that end with a NUL, of any bytes (Windows: UTF-8), and are copied.
//!
//! The errors of the operation itself, which the first form tells to `done` and the second one
//! returns, are those of the system call that is named: KOLO_ENOENT, KOLO_EACCES, KOLO_ENOTDIR,
//! KOLO_ELOOP, KOLO_ENAMETOOLONG, KOLO_EROFS, KOLO_EXDEV and so on; kolo_system_error tells the
//! system's own number. Besides, the first form returns KOLO_EINVAL if a path or `done` is NULL,
//! KOLO_ENOBUFS if as much work waits as may or the loop holds as many handles as it can, KOLO_EAGAIN
//! if the system gives no thread, KOLO_ECANCELED while the loop is being freed; then `done` does not
//! come.
//!
//! Windows: kolo_fs_mkdtemp, kolo_fs_chown, kolo_fs_lchown, kolo_fs_lutimes and kolo_fs_statfs answer
//! KOLO_ENOTSUP; of permissions there is only whether a file may be written to.

use std::ffi::{c_char, c_int, c_void};
use std::fs::Metadata;
use std::mem::offset_of;
use std::path::PathBuf;
use std::time::SystemTime;

use super::boundary::{guard, needed, number, pointer, with_loop, write_text, Out};
use super::requests::{counting, path, plain, tell};
use super::sized::{first_size, Place, Versioned};
use super::types::{kolo_loop, kolo_request};
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::fs::{self, CopyFlags, SetTime, Space};
use crate::request::Request;
use crate::sys;

/// What a name stands for.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_file_type {
    /// Something else, or not told.
    KOLO_FILE_TYPE_UNKNOWN = 0,
    /// A regular file.
    KOLO_FILE_TYPE_REGULAR = 1,
    /// A directory.
    KOLO_FILE_TYPE_DIRECTORY = 2,
    /// A symbolic link.
    KOLO_FILE_TYPE_LINK = 3,
    /// A FIFO (named pipe).
    KOLO_FILE_TYPE_FIFO = 4,
    /// A Unix-domain socket.
    KOLO_FILE_TYPE_SOCKET = 5,
    /// A character device.
    KOLO_FILE_TYPE_CHARACTER_DEVICE = 6,
    /// A block device.
    KOLO_FILE_TYPE_BLOCK_DEVICE = 7,
}

/// What is known of a file (stat(2)). Times are nanoseconds since 1970, or before it if negative.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_stat {
    /// sizeof(kolo_stat), set by KOLO_STAT_INIT.
    pub size: usize,
    /// A kolo_file_type.
    pub r#type: u32,
    /// Permissions: the lowest twelve bits of st_mode.
    pub mode: u32,
    /// The file system that it is in.
    pub device: u64,
    /// Its number there: with `device`, what tells one file from another.
    pub inode: u64,
    /// Names that it has.
    pub links: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What it takes on the disk, in bytes.
    pub allocated: u64,
    /// The device that it stands for, if it is one.
    pub special_device: u64,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// A size that reading and writing serve well with.
    pub block_size: u64,
    /// When it was last read.
    pub accessed_ns: i64,
    /// When its bytes were last changed.
    pub modified_ns: i64,
    /// When anything about it was last changed.
    pub changed_ns: i64,
    /// When it was made; 0 where that is not known.
    pub created_ns: i64,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_stat {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, created_ns) + size_of::<i64>());
}

/// How much a file system holds (statfs(2)).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_statfs {
    /// sizeof(kolo_statfs), set by KOLO_STATFS_INIT.
    pub size: usize,
    /// What kind it is, as Linux numbers them (f_type); elsewhere 0.
    pub kind: u64,
    /// The size of a block in bytes: the unit of the next three.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks that a program without privileges can have.
    pub blocks_available: u64,
    /// Files in all that there can be.
    pub files: u64,
    /// Files that there can still be.
    pub files_free: u64,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_statfs {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, files_free) + size_of::<u64>());
}

/// What is asked of kolo_fs_access; to be combined with |.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_access {
    /// It is there.
    KOLO_ACCESS_EXISTS = 0,
    /// It may be executed; a directory, gone through.
    KOLO_ACCESS_EXECUTE = 1,
    /// It may be written to.
    KOLO_ACCESS_WRITE = 2,
    /// It may be read.
    KOLO_ACCESS_READ = 4,
}

/// How kolo_fs_copy copies; to be combined with |.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_copy_flag {
    /// Fails with KOLO_EEXIST if the target exists.
    KOLO_COPY_EXCLUSIVE = 1,
    /// The copy must share the blocks of the original until one of them is changed; where the file
    /// system cannot do that it fails, most often with KOLO_ENOTSUP, KOLO_EXDEV or KOLO_EINVAL.
    /// Without this flag they are shared where that can be done.
    KOLO_COPY_REFLINK = 2,
}

/// For the times that kolo_fs_utimes does not take from its arguments; to be combined with |.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_utimes_flag {
    /// The file was read now.
    KOLO_UTIMES_ACCESSED_NOW = 1,
    /// When it was read stays as it is.
    KOLO_UTIMES_ACCESSED_KEEP = 2,
    /// The file was changed now.
    KOLO_UTIMES_MODIFIED_NOW = 4,
    /// When it was changed stays as it is.
    KOLO_UTIMES_MODIFIED_KEEP = 8,
}

/// An operation is done: `status` is 0, or what went wrong; KOLO_ECANCELED when it was taken back, or
/// the request closed.
pub type kolo_fs_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        user: *mut c_void,
    ),
>;

/// As kolo_fs_cb, with the bytes that were read, written or copied: also if `status` says that an error
/// came before all were.
pub type kolo_transfer_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        length: u64,
        user: *mut c_void,
    ),
>;

/// As kolo_fs_cb, with what is known of the file; NULL if `status` is not 0.
pub type kolo_stat_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        stat: *const kolo_stat,
        user: *mut c_void,
    ),
>;

/// As kolo_fs_cb, with a path of so many bytes and a NUL; NULL if `status` is not 0.
pub type kolo_path_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        path: *const c_char,
        length: usize,
        user: *mut c_void,
    ),
>;

/// As kolo_fs_cb, with what the file system holds; NULL if `status` is not 0.
pub type kolo_statfs_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        statfs: *const kolo_statfs,
        user: *mut c_void,
    ),
>;

pub(super) fn stat_of(found: &Metadata) -> kolo_stat {
    let size = size_of::<kolo_stat>();
    let ns = |time: SystemTime| match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    };
    let created_ns = found.created().map_or(0, ns);
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        kolo_stat {
            size,
            r#type: sys::fs::type_of_mode(found.mode()) as u32,
            mode: found.mode() & 0o7777,
            device: found.dev(),
            inode: found.ino(),
            links: found.nlink(),
            length: found.len(),
            allocated: found.blocks().saturating_mul(512), // stat(2): whatever the block size is
            special_device: found.rdev(),
            uid: found.uid(),
            gid: found.gid(),
            block_size: found.blksize(),
            accessed_ns: ns(found.atime(), found.atime_nsec()),
            modified_ns: ns(found.mtime(), found.mtime_nsec()),
            changed_ns: ns(found.ctime(), found.ctime_nsec()),
            created_ns,
        }
    }
    #[cfg(not(unix))]
    kolo_stat {
        size,
        r#type: sys::fs::type_of(found.file_type()) as u32,
        mode: if found.permissions().readonly() {
            0o444
        } else {
            0o666
        },
        device: 0,
        inode: 0,
        links: 1,
        length: found.len(),
        allocated: found.len(),
        special_device: 0,
        uid: 0,
        gid: 0,
        block_size: 4096,
        accessed_ns: found.accessed().map_or(0, ns),
        modified_ns: found.modified().map_or(0, ns),
        changed_ns: found.modified().map_or(0, ns),
        created_ns,
    }
}

fn statfs_of(space: &Space) -> kolo_statfs {
    kolo_statfs {
        size: size_of::<kolo_statfs>(),
        kind: space.kind,
        block_size: space.block_size,
        blocks: space.blocks,
        blocks_free: space.blocks_free,
        blocks_available: space.blocks_available,
        files: space.files,
        files_free: space.files_free,
    }
}

/// A callback that gets what is known of a file.
pub(super) fn stating(
    done: kolo_stat_cb,
    user: *mut c_void,
) -> Result<impl FnOnce(&Loop, Request, Result<Metadata>) + 'static> {
    let done = needed(done)?;
    Ok(
        move |lp: &Loop, request: Request, outcome: Result<Metadata>| {
            let (lp, request) = (pointer(lp), request.id().to_raw());
            match outcome.map(|found| stat_of(&found)) {
                // SAFETY: the user's function, with what it asked for.
                Ok(found) => unsafe { done(lp, request, 0, &found, user) },
                // SAFETY: as above.
                Err(error) => unsafe { done(lp, request, number(error), std::ptr::null(), user) },
            }
        },
    )
}

/// A callback that gets a path.
fn pathing(
    done: kolo_path_cb,
    user: *mut c_void,
) -> Result<impl FnOnce(&Loop, Request, Result<PathBuf>) + 'static> {
    let done = needed(done)?;
    Ok(
        move |lp: &Loop, request: Request, outcome: Result<PathBuf>| {
            let (lp, request) = (pointer(lp), request.id().to_raw());
            match outcome {
                Ok(path) => {
                    let mut text = sys::fs::bytes_of_path(path);
                    let length = text.len();
                    text.push(0);
                    // SAFETY: the user's function, with what it asked for.
                    unsafe { done(lp, request, 0, text.as_ptr().cast(), length, user) }
                }
                // SAFETY: as above.
                Err(error) => unsafe {
                    done(lp, request, number(error), std::ptr::null(), 0, user)
                },
            }
        },
    )
}

/// A callback that gets what a file system holds.
fn spacing(
    done: kolo_statfs_cb,
    user: *mut c_void,
) -> Result<impl FnOnce(&Loop, Request, Result<Space>) + 'static> {
    let done = needed(done)?;
    Ok(move |lp: &Loop, request: Request, outcome: Result<Space>| {
        let (lp, request) = (pointer(lp), request.id().to_raw());
        match outcome.map(|space| statfs_of(&space)) {
            // SAFETY: the user's function, with what it asked for.
            Ok(space) => unsafe { done(lp, request, 0, &space, user) },
            // SAFETY: as above.
            Err(error) => unsafe { done(lp, request, number(error), std::ptr::null(), user) },
        }
    })
}

/// An owner or a group; all bits set: unchanged.
pub(super) fn owner(number: u32) -> Option<u32> {
    (number != u32::MAX).then_some(number)
}

fn access_mode(mode: u32) -> Result<u32> {
    if mode > 7 {
        return Err(Code::EINVAL.into());
    }
    Ok(mode)
}

fn copy_flags(flags: u32) -> Result<CopyFlags> {
    CopyFlags::from_bits(flags).ok_or(Code::EINVAL.into())
}

/// Two times as they are to be set.
pub(super) fn times(accessed: i64, modified: i64, flags: u32) -> Result<[SetTime; 2]> {
    if flags > 15 || flags & 3 == 3 || flags & 12 == 12 {
        return Err(Code::EINVAL.into());
    }
    let time = |at, flags| match flags {
        0 => SetTime::At(at),
        1 => SetTime::Now,
        _ => SetTime::Keep,
    };
    Ok([time(accessed, flags & 3), time(modified, flags >> 2)])
}

/// Tells what is known of a file, of what a symbolic link leads to (stat(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_stat(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    done: kolo_stat_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = stating(done, user)?;
        let made = fs::stat(path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_stat, here and now. Any thread. `out` begins with its `size`.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_stat_sync(path: *const c_char, out: *mut kolo_stat) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        // SAFETY: the caller's pointer, as the header asks for it.
        let place = unsafe { Place::new(out)? };
        let found = fs::stat(path).wait()?;
        place.fill(&stat_of(&found));
        Ok(())
    })
}

/// Tells what is known of a file, of a symbolic link itself (lstat(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_lstat(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    done: kolo_stat_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = stating(done, user)?;
        let made = fs::lstat(path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_lstat, here and now. Any thread. `out` begins with its `size`.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_lstat_sync(path: *const c_char, out: *mut kolo_stat) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        // SAFETY: the caller's pointer, as the header asks for it.
        let place = unsafe { Place::new(out)? };
        let found = fs::lstat(path).wait()?;
        place.fill(&stat_of(&found));
        Ok(())
    })
}

/// Asks whether the process may use a file: `mode` is of kolo_access (access(2)). By the time the
/// answer comes it may be different.
///
/// Errors at once: KOLO_EINVAL for a mode that there is not.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_access(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    mode: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let mode = access_mode(mode)?;
        let made = fs::access(path, mode).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_access, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_access_sync(path: *const c_char, mode: u32) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let mode = access_mode(mode)?;
        fs::access(path, mode).wait()
    })
}

/// Makes a directory with the permissions `mode`, less those that the process masks (mkdir(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_mkdir(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    mode: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let made = fs::mkdir(path, mode).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_mkdir, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_mkdir_sync(path: *const c_char, mode: u32) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        fs::mkdir(path, mode).wait()
    })
}

/// Makes a directory whose name is `prefix` and six characters that no other has, for this user alone
/// (mkdtemp(3)), and tells its path.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_mkdtemp(
    r#loop: *mut kolo_loop,
    prefix: *const c_char,
    done: kolo_path_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let prefix = unsafe { path(prefix)? };
        let done = pathing(done, user)?;
        let made = fs::mkdtemp(prefix).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_mkdtemp, here and now. Any thread. The path and a NUL are written to
/// `text`, if `capacity` bytes hold them, else it returns KOLO_ENOBUFS. Returns the path's length.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_mkdtemp_sync(
    prefix: *const c_char,
    text: *mut c_char,
    capacity: usize,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let prefix = unsafe { path(prefix)? };
        if text.is_null() {
            return Err(Code::EINVAL.into());
        }
        // Rather no directory than one whose name cannot be told: its path has six bytes more, and a NUL.
        if prefix.as_os_str().len().saturating_add(7) > capacity {
            return Err(Code::ENOBUFS.into());
        }
        let found = sys::fs::bytes_of_path(fs::mkdtemp(prefix).wait()?);
        // SAFETY: the caller's `capacity` bytes.
        unsafe { write_text(&found, text, capacity) }
    })
}

/// Removes a directory, which must be empty (rmdir(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_rmdir(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let made = fs::rmdir(path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_rmdir, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_rmdir_sync(path: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        fs::rmdir(path).wait()
    })
}

/// Removes a name, and the file with its last one (unlink(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_unlink(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let made = fs::unlink(path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_unlink, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_unlink_sync(path: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        fs::unlink(path).wait()
    })
}

/// Gives a file another name, in place of what had that name (rename(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_rename(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    new_path: *const c_char,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's texts, as the header asks for them.
        let (path, new_path) = unsafe { (self::path(path)?, self::path(new_path)?) };
        let done = plain(done, user)?;
        let made = fs::rename(path, new_path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_rename, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_rename_sync(
    path: *const c_char,
    new_path: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's texts, as the header asks for them.
        let (path, new_path) = unsafe { (self::path(path)?, self::path(new_path)?) };
        fs::rename(path, new_path).wait()
    })
}

/// Gives a file a second name (link(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_link(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    new_path: *const c_char,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's texts, as the header asks for them.
        let (path, new_path) = unsafe { (self::path(path)?, self::path(new_path)?) };
        let done = plain(done, user)?;
        let made = fs::link(path, new_path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_link, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_link_sync(path: *const c_char, new_path: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's texts, as the header asks for them.
        let (path, new_path) = unsafe { (self::path(path)?, self::path(new_path)?) };
        fs::link(path, new_path).wait()
    })
}

/// Makes a symbolic link at `path` that leads to `target` (symlink(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_symlink(
    r#loop: *mut kolo_loop,
    target: *const c_char,
    path: *const c_char,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's texts, as the header asks for them.
        let (target, path) = unsafe { (self::path(target)?, self::path(path)?) };
        let done = plain(done, user)?;
        let made = fs::symlink(target, path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_symlink, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_symlink_sync(target: *const c_char, path: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's texts, as the header asks for them.
        let (target, path) = unsafe { (self::path(target)?, self::path(path)?) };
        fs::symlink(target, path).wait()
    })
}

/// Tells where a symbolic link leads (readlink(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_readlink(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    done: kolo_path_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = pathing(done, user)?;
        let made = fs::readlink(path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_readlink, here and now. Any thread. The path and a NUL are written to
/// `text`, if `capacity` bytes hold them, else it returns KOLO_ENOBUFS. Returns the path's length.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_readlink_sync(
    path: *const c_char,
    text: *mut c_char,
    capacity: usize,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        if text.is_null() {
            return Err(Code::EINVAL.into());
        }
        let found = sys::fs::bytes_of_path(fs::readlink(path).wait()?);
        // SAFETY: the caller's `capacity` bytes.
        unsafe { write_text(&found, text, capacity) }
    })
}

/// Tells the absolute path without links, "." and ".." (realpath(3)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_realpath(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    done: kolo_path_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = pathing(done, user)?;
        let made = fs::realpath(path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_realpath, here and now. Any thread. The path and a NUL are written to
/// `text`, if `capacity` bytes hold them, else it returns KOLO_ENOBUFS. Returns the path's length.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_realpath_sync(
    path: *const c_char,
    text: *mut c_char,
    capacity: usize,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        if text.is_null() {
            return Err(Code::EINVAL.into());
        }
        let found = sys::fs::bytes_of_path(fs::realpath(path).wait()?);
        // SAFETY: the caller's `capacity` bytes.
        unsafe { write_text(&found, text, capacity) }
    })
}

/// Makes a file shorter, or longer by zeros (truncate(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_truncate(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    length: u64,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let made = fs::truncate(path, length).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_truncate, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_truncate_sync(path: *const c_char, length: u64) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        fs::truncate(path, length).wait()
    })
}

/// Sets a file's permissions (chmod(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_chmod(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    mode: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let made = fs::chmod(path, mode).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_chmod, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_chmod_sync(path: *const c_char, mode: u32) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        fs::chmod(path, mode).wait()
    })
}

/// Sets a file's owner and group; UINT32_MAX leaves one as it is (chown(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_chown(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    uid: u32,
    gid: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let made = fs::chown(path, owner(uid), owner(gid)).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_chown, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_chown_sync(path: *const c_char, uid: u32, gid: u32) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        fs::chown(path, owner(uid), owner(gid)).wait()
    })
}

/// As kolo_fs_chown, of a symbolic link itself (lchown(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_lchown(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    uid: u32,
    gid: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let made = fs::lchown(path, owner(uid), owner(gid)).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_lchown, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_lchown_sync(path: *const c_char, uid: u32, gid: u32) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        fs::lchown(path, owner(uid), owner(gid)).wait()
    })
}

/// Sets when a file was last read and last changed: to these times, or what `flags` (of
/// kolo_utimes_flag) say instead (utimensat(2)).
///
/// Errors at once: KOLO_EINVAL for flags that there are not, or that contradict each other.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_utimes(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    accessed_ns: i64,
    modified_ns: i64,
    flags: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let [accessed, modified] = times(accessed_ns, modified_ns, flags)?;
        let made = fs::utimes(path, accessed, modified).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_utimes, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_utimes_sync(
    path: *const c_char,
    accessed_ns: i64,
    modified_ns: i64,
    flags: u32,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let [accessed, modified] = times(accessed_ns, modified_ns, flags)?;
        fs::utimes(path, accessed, modified).wait()
    })
}

/// As kolo_fs_utimes, of a symbolic link itself.
///
/// Errors at once: KOLO_EINVAL as there.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_lutimes(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    accessed_ns: i64,
    modified_ns: i64,
    flags: u32,
    done: kolo_fs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = plain(done, user)?;
        let [accessed, modified] = times(accessed_ns, modified_ns, flags)?;
        let made = fs::lutimes(path, accessed, modified).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_lutimes, here and now. Any thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_lutimes_sync(
    path: *const c_char,
    accessed_ns: i64,
    modified_ns: i64,
    flags: u32,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let [accessed, modified] = times(accessed_ns, modified_ns, flags)?;
        fs::lutimes(path, accessed, modified).wait()
    })
}

/// Tells how much the file system at `path` holds (statfs(2)).
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_statfs(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    done: kolo_statfs_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        let done = spacing(done, user)?;
        let made = fs::statfs(path).start_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_statfs, here and now. Any thread. `out` begins with its `size`.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_statfs_sync(path: *const c_char, out: *mut kolo_statfs) -> c_int {
    guard(|| {
        // SAFETY: the caller's text, as the header asks for it.
        let path = unsafe { self::path(path)? };
        // SAFETY: the caller's pointer, as the header asks for it.
        let place = unsafe { Place::new(out)? };
        let space = fs::statfs(path).wait()?;
        place.fill(&statfs_of(&space));
        Ok(())
    })
}

/// Copies a regular file: its bytes and its permissions, in place of what stood in `new_path`; `flags`
/// are of kolo_copy_flag. Where the file system can share blocks (btrfs, XFS), that is all it does;
/// otherwise the kernel copies where it can. kolo_request_cancel stops it also while it runs.
///
/// When it fails there is no target any more, unless it failed before that was changed.
///
/// Errors of its own: KOLO_EINVAL if both are the same file, or the source is no regular one;
/// KOLO_EISDIR if it is a directory.
///
/// Errors at once: KOLO_EINVAL for flags that there are not.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_copy(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    new_path: *const c_char,
    flags: u32,
    done: kolo_transfer_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's texts, as the header asks for them.
        let (path, new_path) = unsafe { (self::path(path)?, self::path(new_path)?) };
        let done = counting(done, user)?;
        let flags = copy_flags(flags)?;
        let made = fs::copy(path, new_path, flags).start_as(&lp.inner, |lp, request, outcome| {
            done(lp, request, outcome.map(drop), outcome.unwrap_or(0));
        });
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_fs_copy, here and now. Any thread. `out`, which may be NULL, gets the
/// bytes copied.
#[no_mangle]
pub unsafe extern "C" fn kolo_fs_copy_sync(
    path: *const c_char,
    new_path: *const c_char,
    flags: u32,
    out: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's texts, as the header asks for them.
        let (path, new_path) = unsafe { (self::path(path)?, self::path(new_path)?) };
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out) }.ok();
        let flags = copy_flags(flags)?;
        let length = fs::copy(path, new_path, flags).wait()?;
        if let Some(out) = out {
            out.set(length);
        }
        Ok(())
    })
}
