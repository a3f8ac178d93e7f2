//! Unix.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use super::{
    open_flag, Abilities, FileType, Found, Memory, Opening, Piece, Position, SetTime, Space,
};

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A call that answers -1 for an error, and that a signal may interrupt.
fn checked(mut call: impl FnMut() -> libc::c_int) -> io::Result<libc::c_int> {
    loop {
        let outcome = call();
        if outcome >= 0 {
            return Ok(outcome);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

pub(super) fn open_flags(how: Opening) -> libc::c_int {
    let has = |flag| how.flags & flag != 0;
    let reads = has(open_flag::READ);
    let mut flags = match has(open_flag::WRITE) || has(open_flag::APPEND) {
        true if reads => libc::O_RDWR,
        true => libc::O_WRONLY,
        false => libc::O_RDONLY,
    };
    for (flag, system) in [
        (open_flag::APPEND, libc::O_APPEND),
        (open_flag::CREATE, libc::O_CREAT),
        (open_flag::EXCLUSIVE, libc::O_CREAT | libc::O_EXCL),
        (open_flag::TRUNCATE, libc::O_TRUNC),
        (open_flag::DIRECTORY, libc::O_DIRECTORY),
        (open_flag::NO_FOLLOW, libc::O_NOFOLLOW),
        (open_flag::NO_WAIT, libc::O_NONBLOCK),
        (open_flag::SYNC, libc::O_SYNC),
        #[cfg(not(target_os = "dragonfly"))]
        (open_flag::DATA_SYNC, libc::O_DSYNC),
        #[cfg(target_os = "dragonfly")]
        (open_flag::DATA_SYNC, libc::O_SYNC),
    ] {
        if has(flag) {
            flags |= system;
        }
    }
    // Opening a terminal must not make it the process's own.
    flags | libc::O_CLOEXEC | libc::O_NOCTTY
}

/// Opens a file; a relative path is taken from `folder` on, if there is one.
pub(crate) fn open(folder: Option<&File>, path: &Path, how: Opening) -> io::Result<File> {
    let path = c_path(path)?;
    let folder = folder.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    if how.flags & open_flag::BENEATH != 0 {
        #[cfg(target_os = "linux")]
        return super::linux::open_beneath(folder, &path, how);
        #[cfg(not(target_os = "linux"))]
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mode = libc::c_uint::from(how.mode as u16 & 0o7777);
    // SAFETY: a C string; with O_CREAT there is a mode.
    let descriptor =
        checked(|| unsafe { libc::openat(folder, path.as_ptr(), open_flags(how), mode) })?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// What an open descriptor may do.
pub(crate) fn abilities(file: &File) -> io::Result<Abilities> {
    // SAFETY: F_GETFL reads flags; a bad descriptor is answered with an error.
    let flags = checked(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    #[cfg(target_os = "linux")]
    let direct = flags & libc::O_DIRECT != 0;
    #[cfg(not(target_os = "linux"))]
    let direct = false;
    let mode = flags & libc::O_ACCMODE;
    Ok(Abilities {
        reads: mode != libc::O_WRONLY,
        writes: mode != libc::O_RDONLY,
        direct,
        direct_file: direct && has_positions(file),
    })
}

/// Whether it is a regular file or a block device.
fn has_positions(file: &File) -> bool {
    use std::os::unix::fs::FileTypeExt;
    file.metadata().is_ok_and(|found| {
        let kind = found.file_type();
        kind.is_file() || kind.is_block_device()
    })
}

/// Whether a file of so many bytes is within what this process may make (RLIMIT_FSIZE). One that goes beyond it gets
/// `SIGXFSZ`, which a pool's threads do not take, and which ends the process elsewhere.
pub(crate) fn may_be_so_long(length: u64) -> bool {
    // SAFETY: numbers, of which zeros are valid.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: a struct of this function's own is filled in.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } == 0;
    known && length <= limit.rlim_cur as u64
}

/// Closes a file, and says what close(2) says. The descriptor is closed in any case.
pub(crate) fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is given away for this.
    if unsafe { libc::close(file.into_raw_fd()) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Closed nevertheless, on every system but HP-UX; trying again could hit another file.
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

#[derive(Clone, Copy)]
pub(super) enum Way {
    Read,
    Write,
}

/// The first piece behind `done` bytes, by pread(2), pwrite(2), read(2) or write(2).
pub(super) fn transfer_singly(
    file: &File,
    memory: &Memory,
    done: usize,
    at: Position,
    way: Way,
) -> io::Result<usize> {
    let mut pieces = [Piece::NONE; super::PIECES_MAX];
    if memory.rest(done, &mut pieces) == 0 {
        return Ok(0);
    }
    let piece = pieces[0].to_iovec();
    let (file, base, length) = (file.as_raw_fd(), piece.iov_base, piece.iov_len);
    let offset = match at {
        Position::At(at) => libc::off_t::try_from(at)
            .map(Some)
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        Position::Current => None,
    };
    loop {
        // SAFETY: a piece of the memory that `memory` holds for this.
        let bytes = unsafe {
            match (way, offset) {
                (Way::Read, Some(offset)) => libc::pread(file, base, length, offset),
                (Way::Read, None) => libc::read(file, base, length),
                (Way::Write, Some(offset)) => libc::pwrite(file, base, length, offset),
                (Way::Write, None) => libc::write(file, base, length),
            }
        };
        if bytes >= 0 {
            return Ok(bytes as usize);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// What only Linux can do.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::os::fd::BorrowedFd;

    use super::*;
    use crate::sys::fs::Now;

    pub(crate) fn read_now(_: &File, _: &Memory, _: usize, _: Position) -> Now {
        Now::Unknown
    }

    pub(crate) fn write_now(_: &File, _: &Memory, _: usize, _: Position) -> Now {
        Now::Unknown
    }

    pub(crate) fn is_cached(_: &File, _: u64) -> Now {
        Now::Unknown
    }

    pub(crate) fn read(
        file: &File,
        memory: &Memory,
        done: usize,
        at: Position,
    ) -> io::Result<usize> {
        transfer_singly(file, memory, done, at, Way::Read)
    }

    pub(crate) fn write(
        file: &File,
        memory: &Memory,
        done: usize,
        at: Position,
    ) -> io::Result<usize> {
        transfer_singly(file, memory, done, at, Way::Write)
    }

    pub(crate) fn share_blocks(_: &File, _: &File) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn copy_range(_: &File, _: &File, _: u64, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn send_file(_: BorrowedFd<'_>, _: &File, _: u64, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::*;

/// Reads into plain memory; 0: the end of the file.
pub(crate) fn read_at(file: &File, memory: &mut [u8], at: u64) -> io::Result<usize> {
    uninterrupted(|| file.read_at(memory, at))
}

pub(crate) fn write_at(file: &File, memory: &[u8], at: u64) -> io::Result<usize> {
    uninterrupted(|| file.write_at(memory, at))
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// access(2): `mode` is a combination of 4 (read), 2 (write) and 1 (execute); 0: it is there.
pub(crate) fn access(path: &Path, mode: u32) -> io::Result<()> {
    let path = c_path(path)?;
    let wanted = [(4, libc::R_OK), (2, libc::W_OK), (1, libc::X_OK)];
    let wanted = wanted.iter().filter(|(bit, _)| mode & bit != 0);
    let mode = wanted.fold(libc::F_OK, |mode, (_, system)| mode | system);
    // SAFETY: a C string.
    checked(|| unsafe { libc::access(path.as_ptr(), mode) }).map(drop)
}

/// Makes a folder with a new name: `path` and six characters (mkdtemp(3)).
pub(crate) fn make_temporary_folder(path: &Path) -> io::Result<PathBuf> {
    let mut template = path.as_os_str().as_bytes().to_vec();
    template.extend(b"XXXXXX");
    let template = CString::new(template)
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?
        .into_raw();
    // SAFETY: a C string that may be written to; the characters that are replaced are there.
    let made = unsafe { libc::mkdtemp(template) };
    let error = io::Error::last_os_error();
    // SAFETY: the string from above, of the same length.
    let template = unsafe { CString::from_raw(template) };
    if made.is_null() {
        return Err(error);
    }
    Ok(OsString::from_vec(template.into_bytes()).into())
}

pub(crate) fn truncate(path: &Path, length: u64) -> io::Result<()> {
    let path = c_path(path)?;
    let length =
        libc::off_t::try_from(length).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: a C string.
    checked(|| unsafe { libc::truncate(path.as_ptr(), length) }).map(drop)
}

fn times(accessed: SetTime, modified: SetTime) -> [libc::timespec; 2] {
    const SECOND: i64 = 1_000_000_000;
    [accessed, modified].map(|time| {
        // SAFETY: numbers, of which zeros are valid.
        let mut out: libc::timespec = unsafe { std::mem::zeroed() };
        match time {
            SetTime::Keep => out.tv_nsec = libc::UTIME_OMIT,
            SetTime::Now => out.tv_nsec = libc::UTIME_NOW,
            SetTime::At(time) => {
                out.tv_sec = time.div_euclid(SECOND) as libc::time_t;
                out.tv_nsec = time.rem_euclid(SECOND) as libc::c_long;
            }
        }
        out
    })
}

/// utimensat(2).
pub(crate) fn set_times(
    path: &Path,
    accessed: SetTime,
    modified: SetTime,
    follow: bool,
) -> io::Result<()> {
    let path = c_path(path)?;
    let times = times(accessed, modified);
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    // SAFETY: a C string and two times.
    checked(|| unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), flags) })
        .map(drop)
}

/// futimens(2).
pub(crate) fn set_file_times(file: &File, accessed: SetTime, modified: SetTime) -> io::Result<()> {
    let times = times(accessed, modified);
    // SAFETY: two times.
    checked(|| unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) }).map(drop)
}

/// How much the file system at `path` holds.
#[allow(clippy::unnecessary_cast)] // the types differ from system to system
pub(crate) fn space(path: &Path) -> io::Result<Space> {
    let path = c_path(path)?;
    // SAFETY: numbers, of which zeros are valid.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a struct to fill in.
    checked(|| unsafe { libc::statvfs(path.as_ptr(), &mut found) })?;
    Ok(Space {
        kind: kind_of_file_system(&path)?,
        block_size: found.f_frsize as u64,
        blocks: found.f_blocks as u64,
        blocks_free: found.f_bfree as u64,
        blocks_available: found.f_bavail as u64,
        files: found.f_files as u64,
        files_free: found.f_ffree as u64,
    })
}

#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast)]
pub(super) fn kind_of_file_system(path: &CStr) -> io::Result<u64> {
    // SAFETY: numbers, of which zeros are valid.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a struct to fill in.
    checked(|| unsafe { libc::statfs(path.as_ptr(), &mut found) })?;
    Ok(found.f_type as u64 & 0xffff_ffff)
}

#[cfg(not(target_os = "linux"))]
fn kind_of_file_system(_: &CStr) -> io::Result<u64> {
    Ok(0)
}

/// An open folder, whose names are read one after the other.
pub(crate) struct Folder(NonNull<libc::DIR>);

// SAFETY: a folder is used by one thread at a time, and readdir(3) keeps nothing of the thread's.
unsafe impl Send for Folder {}

impl Folder {
    pub fn open(path: &Path) -> io::Result<Folder> {
        let how = Opening {
            flags: open_flag::READ | open_flag::DIRECTORY,
            mode: 0,
        };
        Folder::of(open(None, path, how)?.into())
    }

    /// Takes an open folder over.
    pub fn of(descriptor: OwnedFd) -> io::Result<Folder> {
        // SAFETY: an open descriptor.
        let folder = unsafe { libc::fdopendir(descriptor.as_raw_fd()) };
        match NonNull::new(folder) {
            Some(folder) => {
                // It is the folder's now.
                let _ = descriptor.into_raw_fd();
                Ok(Folder(folder))
            }
            None => Err(io::Error::last_os_error()),
        }
    }

    /// The next name, in no particular order; `None` at the end. Not "." and "..".
    pub fn next(&mut self) -> io::Result<Option<Found>> {
        loop {
            clear_errno();
            // SAFETY: an open folder, that nobody else reads at the same time.
            let entry = unsafe { readdir(self.0.as_ptr()) };
            if entry.is_null() {
                return match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(0) => Ok(None),
                    error => Err(error),
                };
            }
            // SAFETY: the entry stays until the next call; its name ends with a NUL. (A reference to
            // all of it would not do: it may be shorter than its type.)
            let (name, kind) = unsafe {
                let name = (&raw const (*entry).d_name).cast();
                (CStr::from_ptr(name), entry_type(entry))
            };
            if name == c"." || name == c".." {
                continue;
            }
            let file_type = match kind {
                // Not every file system tells.
                FileType::Unknown => self.look(name),
                told => told,
            };
            let name = name.to_bytes().to_vec();
            return Ok(Some(Found { name, file_type }));
        }
    }

    fn look(&self, name: &CStr) -> FileType {
        // SAFETY: numbers, of which zeros are valid.
        let mut found: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: an open folder, a C string, a struct to fill in.
        let outcome = unsafe {
            let folder = libc::dirfd(self.0.as_ptr());
            libc::fstatat(folder, name.as_ptr(), &mut found, libc::AT_SYMLINK_NOFOLLOW)
        };
        if outcome == 0 {
            type_of_mode(found.st_mode as u32)
        } else {
            FileType::Unknown // gone already
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // SAFETY: opened by `of`, and used no more.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

#[cfg(not(target_os = "linux"))]
use libc::{dirent, readdir};
#[cfg(target_os = "linux")]
use libc::{dirent64 as dirent, readdir64 as readdir};

#[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
unsafe fn entry_type(entry: *const dirent) -> FileType {
    // SAFETY: promised by the caller: an entry of readdir(3).
    match unsafe { (*entry).d_type } {
        libc::DT_REG => FileType::File,
        libc::DT_DIR => FileType::Directory,
        libc::DT_LNK => FileType::Link,
        libc::DT_FIFO => FileType::Fifo,
        libc::DT_SOCK => FileType::Socket,
        libc::DT_CHR => FileType::CharacterDevice,
        libc::DT_BLK => FileType::BlockDevice,
        _ => FileType::Unknown,
    }
}

#[cfg(any(target_os = "solaris", target_os = "illumos"))]
unsafe fn entry_type(_: *const dirent) -> FileType {
    FileType::Unknown
}

/// The type in the mode of stat(2).
pub(crate) fn type_of_mode(mode: u32) -> FileType {
    match mode as libc::mode_t & libc::S_IFMT {
        libc::S_IFREG => FileType::File,
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Link,
        libc::S_IFIFO => FileType::Fifo,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharacterDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::Unknown,
    }
}

/// readdir(3) tells an error from the end only by errno.
fn clear_errno() {
    crate::sys::set_errno(0);
}

/// Takes over a descriptor that the user hands in, and whose owner gives it away.
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) fn take_file(descriptor: RawFd) -> io::Result<File> {
    if descriptor < 0 || !crate::sys::is_open(descriptor) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: an open descriptor that its owner gave away.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// A path as bytes, and back.
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) fn path_of_bytes(bytes: &[u8]) -> io::Result<PathBuf> {
    Ok(OsStr::from_bytes(bytes).to_owned().into())
}

#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) fn bytes_of_path(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

pub(crate) fn name_of_bytes(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
