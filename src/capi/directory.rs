//! Directories
//!
//! An open directory is a handle. Its names come in batches, one whenever kolo_directory_read asks for
//! it, in no particular order and without "." and "..": a directory of millions takes no memory, and who
//! is busy asks later. kolo_close closes it. Requests and errors are as with files.

use std::ffi::{c_char, c_int, c_void};

use super::boundary::{id, needed, number, pointer, with_loop, Out};
use super::requests::{answer, path, tell};
use super::types::{kolo_directory, kolo_file, kolo_loop, kolo_request};
use crate::error::Result;
use crate::event_loop::Loop;
use crate::fs::{Directory, Entries, File, Operation};
use crate::request::Request;

/// One name of a directory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_directory_entry {
    /// The name, without the directory, ended by a NUL.
    pub name: *const c_char,
    /// Its length, without the NUL.
    pub length: usize,
    /// What it names, a kolo_file_type; of a symbolic link, that it is one.
    pub r#type: u32,
}

/// A directory is open: `status` is 0 and `directory` its handle; or `status` says what went wrong, and
/// `directory` is 0.
pub type kolo_directory_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        directory: kolo_directory,
        user: *mut c_void,
    ),
>;

/// The next names of a directory, which are there until this returns: none (`count` is 0) when it has no
/// more; or `status` says what went wrong.
pub type kolo_entries_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        entries: *const kolo_directory_entry,
        count: usize,
        user: *mut c_void,
    ),
>;

fn directory(handle: kolo_directory) -> Result<Directory> {
    Ok(Directory::from_id(id(handle)?))
}

fn opening(
    done: kolo_directory_cb,
    user: *mut c_void,
) -> Result<impl FnOnce(&Loop, Request, Result<Directory>) + 'static> {
    let done = needed(done)?;
    Ok(
        move |lp: &Loop, request: Request, opened: Result<Directory>| {
            let (status, directory) = match opened {
                Ok(directory) => (0, directory.id().to_raw()),
                Err(error) => (number(error), 0),
            };
            let request = request.id().to_raw();
            // SAFETY: the user's function, with what it asked for.
            unsafe { done(pointer(lp), request, status, directory, user) }
        },
    )
}

/// Opens a directory (opendir(3)).
///
/// Errors at once: KOLO_EINVAL if `path` is NULL; as kolo_file_open. To `done`: KOLO_ENOENT, KOLO_ENOTDIR,
/// KOLO_EACCES, KOLO_EMFILE and so on; KOLO_ENOBUFS if the loop holds as many handles as it can.
#[no_mangle]
pub unsafe extern "C" fn kolo_directory_open(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    done: kolo_directory_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = opening(done, user)?;
        // SAFETY: the caller's text, as the header asks for it.
        let operation = Operation::OpenFolder(unsafe { self::path(path)? });
        let made = Directory::open_as(&lp.inner, operation, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_directory_open, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_directory_open_sync(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    out: *mut kolo_directory,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (path, out) = unsafe { (self::path(path)?, Out::new(out)?) };
        let directory = Directory::open_sync(&lp.inner, path)?;
        out.set(directory.id().to_raw());
        Ok(())
    })
}

/// As kolo_directory_open, for a directory that is open as a file: so that one that was found beneath
/// another (KOLO_OPEN_BENEATH) can be listed. The file stays open. Windows: KOLO_ENOTSUP.
#[no_mangle]
pub unsafe extern "C" fn kolo_directory_open_file(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    done: kolo_directory_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = opening(done, user)?;
        let file = File::from_id(id(file)?).opened(&lp.inner)?;
        let made = Directory::open_as(&lp.inner, Operation::OpenFolderOf(file), done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// As kolo_directory_open_file, here and now.
#[no_mangle]
pub unsafe extern "C" fn kolo_directory_open_file_sync(
    r#loop: *mut kolo_loop,
    file: kolo_file,
    out: *mut kolo_directory,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let file = File::from_id(id(file)?).opened(&lp.inner)?;
        let directory = Directory::open_sync_as(&lp.inner, Operation::OpenFolderOf(file))?;
        out.set(directory.id().to_raw());
        Ok(())
    })
}

/// The names as C has them. They are there for as long as `entries`.
fn entries_of(entries: &Entries) -> Vec<kolo_directory_entry> {
    let entry = |(name, file_type): (&[u8], crate::fs::FileType)| kolo_directory_entry {
        name: name.as_ptr().cast(),
        length: name.len() - 1,
        r#type: file_type as u32,
    };
    entries.bytes().map(entry).collect()
}

/// Reads the next names (readdir(3)).
///
/// Errors at once, besides those of files: KOLO_EBUSY while another reading of this directory is under
/// way. To `done`: KOLO_EIO, KOLO_ENOENT for a directory that was removed, and so on; KOLO_ECANCELED.
#[no_mangle]
pub unsafe extern "C" fn kolo_directory_read(
    r#loop: *mut kolo_loop,
    directory: kolo_directory,
    done: kolo_entries_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let done = needed(done)?;
        let done = move |lp: &Loop, request: Request, outcome: Result<Entries>| {
            let (lp, request) = (pointer(lp), request.id().to_raw());
            match &outcome {
                Ok(names) => {
                    let entries = entries_of(names);
                    // SAFETY: the user's function, with what it asked for.
                    unsafe { done(lp, request, 0, entries.as_ptr(), entries.len(), user) }
                }
                Err(error) => {
                    let (status, none) = (number(*error), std::ptr::null());
                    // SAFETY: as above.
                    unsafe { done(lp, request, status, none, 0, user) }
                }
            }
        };
        let made = self::directory(directory)?.read_as(&lp.inner, done);
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { tell(out, made) }
    })
}

/// A name found: see kolo_directory_read_sync. It is there until this returns.
pub type kolo_entry_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        directory: kolo_directory,
        entry: *const kolo_directory_entry,
        user: *mut c_void,
    ),
>;

/// Reads the next names here and now, and calls `each` with them, one after the other, before it
/// returns. It must not free or run the loop (KOLO_EBUSY). Returns how many names there were: 0 when
/// the directory has no more.
///
/// Errors: KOLO_EINVAL if `each` is NULL; KOLO_EBUSY while a reading of this directory is under way;
/// those of readdir(3).
#[no_mangle]
pub unsafe extern "C" fn kolo_directory_read_sync(
    r#loop: *mut kolo_loop,
    directory: kolo_directory,
    each: kolo_entry_cb,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        let each = needed(each)?;
        let names = self::directory(directory)?.read_sync(&lp.inner)?;
        lp.while_walking(|| {
            for entry in &entries_of(&names) {
                // SAFETY: the user's function, with what it asked for.
                unsafe { each(r#loop, directory, entry, user) }
            }
        });
        Ok(answer(names.len()))
    })
}
