//! Watching files and folders
//!
//! A watch tells of changes to a file, or to a folder and what is in it. What is watched is a path:
//! when its file is replaced, as editors do it, or removed and made again, the watch goes on with
//! what is there then. A symbolic link is followed; those below a watched folder are not. Events come
//! in the order in which things happened, and nothing is lost in silence: see KOLO_WATCH_OVERFLOW.
//!
//! Linux uses inotify(7): one descriptor for all watches of a loop, no thread. It stays until the
//! loop is freed, since closing it may take tenths of a second. Each watched folder
//! takes one of fs.inotify.max_user_watches, and each loop that watches, or has watched, one of
//! fs.inotify.max_user_instances. The kernel does not tell what is written through memory mappings,
//! nor what another machine does to a shared file system: for that, and for files that the system
//! makes up (/proc, /sys), a watch can look again and again (`poll_ns`). Other systems tell by
//! FSEvents, kqueue or ReadDirectoryChangesW, less exactly: renames may be told as removed and
//! created, and a path that is removed and made again may not be found again.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::boundary::{c_bool, id, needed, number, pointer, with_loop, write_text, Out};
use super::sized::{self, first_size, Versioned};
use super::types::{kolo_loop, kolo_watch};
use crate::error::{Code, Result};
use crate::watch::{Change, FileState, Watch, WatchEvent, WatchOptions};

/// What can happen to what is watched. An event is exactly one of them; several, combined with |,
/// say which are asked for.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_watch_change {
    /// A name has got a file or folder: made, moved here from outside of what is watched, or put in
    /// the place of another. A folder that appears in one that is watched recursively is told with
    /// all that is in it. With an empty path: what is watched is there (again), or another file has
    /// taken its place, as editors save.
    KOLO_WATCH_CREATED = 1,
    /// The contents of a file changed. One event stands for all writes until it is told. It is no
    /// promise that the writer is done.
    KOLO_WATCH_MODIFIED = 2,
    /// Attributes changed: permissions, owner, times.
    KOLO_WATCH_METADATA = 4,
    /// A name is gone: removed, or moved to outside of what is watched, then with all that was in
    /// it. With an empty path: what is watched is gone. The watch goes on, and tells when it is there
    /// again.
    KOLO_WATCH_REMOVED = 8,
    /// A file or folder has got another name inside of what is watched; a file that had the new name
    /// before is gone. Where this is not asked for it is told as removed and created.
    KOLO_WATCH_RENAMED = 16,
    /// Changes were lost: look at everything anew. Told in any case, when everything is watched
    /// again. Also told once after kolo_loop_fork.
    KOLO_WATCH_OVERFLOW = 32,
    /// A file or folder cannot be watched or read: see `error`. The rest goes on. Told in any case.
    KOLO_WATCH_ERROR = 64,
    /// Everything is watched from now on. Told once. What happens below the folders in a watched
    /// folder may be missed before.
    KOLO_WATCH_READY = 128,
}

/// How a path is watched. Begin with KOLO_WATCH_OPTIONS_INIT; a member that is zero means its
/// default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_watch_options {
    /// sizeof(kolo_watch_options), set by KOLO_WATCH_OPTIONS_INIT.
    pub size: usize,
    /// What is told, of kolo_watch_change. What nobody asks for the system is not asked for: without
    /// KOLO_WATCH_MODIFIED a busy log file costs nothing. Default: everything.
    pub changes: u32,
    /// A folder is watched with all folders below it, also those that come later. Default: only what
    /// is in the folder itself.
    pub recursive: c_bool,
    /// The system is not asked: it is looked again and again, on a thread of the loop's pool, with so
    /// much time in between, at least a millisecond. The next look begins only after the last has
    /// ended. Default: the system is asked.
    pub poll_ns: u64,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_watch_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, poll_ns) + size_of::<u64>());
}

/// What a polling watch knows of a file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_watch_state {
    /// Its length in bytes.
    pub bytes: u64,
    /// When its contents were last modified: nanoseconds since 1970, negative before.
    pub modified_ns: i64,
    /// Its number in its file system; 0 on Windows.
    pub inode: u64,
    /// Its type and permissions as stat(2) has them; on Windows 1 if it can be written, or 0.
    pub mode: u32,
}

impl From<FileState> for kolo_watch_state {
    fn from(state: FileState) -> kolo_watch_state {
        kolo_watch_state {
            bytes: state.size,
            modified_ns: state.modified_ns,
            inode: state.inode,
            mode: state.mode,
        }
    }
}

/// An event, there until the callback returns. Later versions may have more at its end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_watch_event {
    /// What this library knows of it, in bytes.
    pub size: usize,
    /// What happened: one of kolo_watch_change.
    pub change: c_int,
    /// KOLO_WATCH_ERROR: why; otherwise 0.
    pub error: c_int,
    /// What it happened to, relative to what is watched, and empty for what is watched itself; with
    /// the new name if it was renamed. Never NULL, ends with a NUL. Bytes as the file system has
    /// them, which need not be UTF-8; on Windows UTF-8.
    pub path: *const c_char,
    /// Its length without the NUL.
    pub path_length: usize,
    /// KOLO_WATCH_RENAMED: the former name, in the same way; otherwise NULL.
    pub from: *const c_char,
    /// Its length without the NUL.
    pub from_length: usize,
    /// What it was, for a watch that polls and if there was something; otherwise NULL.
    pub before: *const kolo_watch_state,
    /// What it is, for a watch that polls and if there is something; otherwise NULL.
    pub after: *const kolo_watch_state,
    /// It happened to a folder. A symbolic link is none, wherever it leads.
    pub is_directory: c_bool,
}

/// Something happened.
pub type kolo_watch_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        watch: kolo_watch,
        event: *const kolo_watch_event,
        user: *mut c_void,
    ),
>;

fn watch(handle: kolo_watch) -> Result<Watch> {
    Ok(Watch::from_id(id(handle)?))
}

/// A path of the caller's.
///
/// # Safety
///
/// `at` is NULL or a C string.
unsafe fn path(at: *const c_char) -> Result<PathBuf> {
    if at.is_null() {
        return Err(Code::EINVAL.into());
    }
    // SAFETY: promised by the caller.
    let text = unsafe { CStr::from_ptr(at) };
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(std::ffi::OsStr::from_bytes(text.to_bytes()).into())
    }
    #[cfg(not(unix))]
    {
        Ok(text.to_str().map_err(|_| Code::EINVAL)?.into())
    }
}

/// Both paths of an event with a NUL after each.
fn write_paths(event: &WatchEvent, text: &mut Vec<u8>) {
    text.clear();
    for path in [event.path(), event.from().unwrap_or(Path::new(""))] {
        text.extend_from_slice(path.as_os_str().as_encoded_bytes());
        text.push(0);
    }
}

/// Watches what is at `path` from now on; a relative one counts from the current folder as it is
/// now. What happens to it, and to the names in it if it is a folder, is told from this call on (by a
/// watch that polls a folder: from KOLO_WATCH_READY on). The folders below are watched in the turns
/// that follow, so that opening is quick, however many they are. `options` may be NULL for the
/// defaults. The watch holds the loop until it is closed: see kolo_unref.
///
/// Errors: KOLO_EINVAL if `path`, `cb` or `out` is NULL, for an empty path, unknown changes, and
/// options of a wrong size; KOLO_ENOENT, KOLO_EACCES, KOLO_ENOTDIR, KOLO_ELOOP and the like if there
/// is nothing at the path or it must not be read; KOLO_ENOSPC if fs.inotify.max_user_watches is
/// reached, KOLO_EMFILE if fs.inotify.max_user_instances is, or descriptors are short; KOLO_EAGAIN
/// and KOLO_ENOBUFS if the pool has no thread or no room for a watch that polls; KOLO_ENOBUFS if the
/// loop holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_watch_open(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    options: *const kolo_watch_options,
    cb: kolo_watch_cb,
    user: *mut c_void,
    out: *mut kolo_watch,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (path, given, out) = unsafe {
            let given = sized::read_or_default(options)?;
            (self::path(path)?, given, Out::new(out)?)
        };
        let cb = needed(cb)?;
        let mut text = Vec::new();
        let callback = move |lp: &crate::Loop, watch: Watch, event: &WatchEvent| {
            write_paths(event, &mut text);
            let path_length = event.path().as_os_str().len();
            let from = event.from().map(|_| &text[path_length + 1..]);
            let before = event.before().map(kolo_watch_state::from);
            let after = event.after().map(kolo_watch_state::from);
            let at = |state: &Option<kolo_watch_state>| {
                state.as_ref().map_or(std::ptr::null(), std::ptr::from_ref)
            };
            let event = kolo_watch_event {
                size: size_of::<kolo_watch_event>(),
                change: event.change().bits() as c_int,
                error: event.error().map_or(0, number),
                path: text.as_ptr().cast(),
                path_length,
                from: from.map_or(std::ptr::null(), |from| from.as_ptr().cast()),
                from_length: from.map_or(0, |from| from.len() - 1),
                before: at(&before),
                after: at(&after),
                is_directory: event.is_directory().into(),
            };
            // SAFETY: the user's function, with what it asked for.
            unsafe { cb(pointer(lp), watch.id().to_raw(), &event, user) }
        };
        let watch = Watch::open(&lp.inner, path, &rust_options(given)?, callback)?;
        out.set(watch.id().to_raw());
        Ok(())
    })
}

fn rust_options(given: kolo_watch_options) -> Result<WatchOptions> {
    let changes = match given.changes {
        0 => Change::all(),
        bits => Change::from_bits(bits).ok_or(Code::EINVAL)?,
    };
    Ok(WatchOptions {
        changes,
        recursive: given.recursive != 0,
        poll: (given.poll_ns > 0).then(|| Duration::from_nanos(given.poll_ns)),
    })
}

/// Writes the path that is watched, made absolute, and a NUL into `path`, which has room for
/// `capacity` bytes; returns its length.
///
/// Errors: KOLO_EINVAL if `path` is NULL; KOLO_ENOBUFS if it does not fit.
#[no_mangle]
pub unsafe extern "C" fn kolo_watch_path(
    r#loop: *mut kolo_loop,
    watch: kolo_watch,
    path: *mut c_char,
    capacity: usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        let watched = self::watch(watch)?.path(&lp.inner)?;
        let bytes = watched.as_os_str().as_encoded_bytes();
        // SAFETY: the caller's memory, as the header asks for it.
        unsafe { write_text(bytes, path, capacity) }
    })
}
