//! Linux: opening without waiting.
//!
//! A name that the kernel has in memory is found without a disk (openat2(2) with RESOLVE_CACHED, Linux 5.12). But the
//! file system behind it may still wait when the file is opened, for a server or for another program (FUSE). So the way
//! must not leave the file system in which it begins (RESOLVE_NO_XDEV), and that must be one of those which do not.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use super::linux::retry;
use super::{open_flag, Opening};

/// What came of opening without waiting.
pub(crate) enum OpenedNow {
    /// A regular file or a folder.
    File(File),
    /// A FIFO, a device or the like, as it was asked for: without waiting.
    WithoutWaiting(File),
    /// The same, for which [`finish_opening`] is still to do what waiting would have done.
    Unfinished(File),
    /// It cannot be said.
    Unknown,
    Failed(io::Error),
}

/// Whether names that begin with a slash do so in a file system that does not wait.
static ROOT: AtomicU8 = AtomicU8::new(NOT_ASKED);
const NOT_ASKED: u8 = 0;
const IS_LOCAL: u8 = 1;
const IS_NOT: u8 = 2;
/// The system has no such call.
const NO_CALL: u8 = 3;

/// File systems that open what they have in memory without waiting for anybody.
const LOCAL: [u64; 10] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // F2FS
    0x794c_7630, // overlayfs: where it is only read
    0x7371_7368, // SquashFS
    0xe0f5_e1e2, // EROFS
    0x2fc1_2fc1, // ZFS
];

/// Finds out where names begin, if that is not known. This may wait.
pub(crate) fn look_at_root() {
    if ROOT.load(Ordering::Relaxed) == NOT_ASKED {
        let is_local = super::kind_of_file_system(c"/").is_ok_and(|kind| LOCAL.contains(&kind));
        let found = if is_local { IS_LOCAL } else { IS_NOT };
        // What is known against the call stays.
        let _ = ROOT.compare_exchange(NOT_ASKED, found, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Whether an open file is of a file system that does not wait. To find out may wait.
pub(crate) fn is_local(file: &File) -> bool {
    // SAFETY: numbers, of which zeros are valid.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor and a struct to fill in.
    let outcome = retry(|| unsafe { libc::fstatfs(file.as_raw_fd(), &mut found) });
    #[allow(clippy::unnecessary_cast)] // the types differ from processor to processor
    let kind = found.f_type as u64 & 0xffff_ffff;
    outcome.is_ok() && LOCAL.contains(&kind)
}

/// Opens for reading what can be opened without waiting. `folder` is one that [`is_local`].
pub(crate) fn open_now(folder: Option<&File>, path: &Path, how: Opening) -> OpenedNow {
    const CHANGES: u32 = open_flag::WRITE
        | open_flag::APPEND
        | open_flag::CREATE
        | open_flag::EXCLUSIVE
        | open_flag::TRUNCATE;
    let begins_at_root = path.as_os_str().as_bytes().first() == Some(&b'/');
    let root = ROOT.load(Ordering::Relaxed);
    // A relative path begins in the working directory, which may be anywhere.
    let is_known = match begins_at_root {
        true => root == IS_LOCAL,
        false => folder.is_some() && root != NO_CALL,
    };
    if how.flags & CHANGES != 0 || !is_known {
        return OpenedNow::Unknown;
    }
    let Ok(path) = super::c_path(path) else {
        return OpenedNow::Unknown;
    };
    let folder = folder.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    let file = match open(folder, &path, how) {
        Ok(file) => file,
        Err(error) => return why_not(error),
    };
    let waits = how.flags & open_flag::NO_WAIT == 0;
    // It asks nobody either, as its file system is.
    let is_plain = file.metadata().is_ok_and(|it| it.is_file() || it.is_dir());
    match is_plain {
        true if waits => match go_on_waiting(&file) {
            Ok(()) => OpenedNow::File(file),
            Err(error) => OpenedNow::Failed(error),
        },
        true => OpenedNow::File(file),
        false if waits => OpenedNow::Unfinished(file),
        false => OpenedNow::WithoutWaiting(file),
    }
}

fn open(folder: RawFd, path: &CStr, how: Opening) -> io::Result<File> {
    // SAFETY: numbers, of which zeros are valid.
    let mut arguments: libc::open_how = unsafe { std::mem::zeroed() };
    let flags = super::open_flags(how) | libc::O_NONBLOCK | libc::O_LARGEFILE;
    arguments.flags = flags as u64;
    arguments.resolve = libc::RESOLVE_CACHED | libc::RESOLVE_NO_XDEV;
    if how.flags & open_flag::BENEATH != 0 {
        arguments.resolve |= libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    }
    // SAFETY: a C string and a struct of the size that is told.
    let descriptor = retry(|| unsafe {
        let size = size_of::<libc::open_how>();
        libc::syscall(libc::SYS_openat2, folder, path.as_ptr(), &arguments, size)
    })?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { File::from_raw_fd(descriptor as RawFd) })
}

fn why_not(error: io::Error) -> OpenedNow {
    match error.raw_os_error() {
        // It would wait; it leads elsewhere; it is a FIFO or a socket without its other side; an older kernel, which
        // does not know the flags.
        Some(libc::EAGAIN | libc::EXDEV | libc::ENXIO | libc::EINVAL | libc::ELOOP) => {
            OpenedNow::Unknown
        }
        Some(libc::ENOSYS | libc::EPERM) => {
            // An older kernel, or a sandbox forbids it.
            ROOT.store(NO_CALL, Ordering::Relaxed);
            OpenedNow::Unknown
        }
        _ => OpenedNow::Failed(error),
    }
}

/// Takes back that nothing waits on it: only its opening was not to.
fn go_on_waiting(file: &File) -> io::Result<()> {
    // SAFETY: flags of an open descriptor are read.
    let flags = retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: flags of an open descriptor are set.
    retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) })?;
    Ok(())
}

/// Does for what [`open_now`] opened what opening would have waited for. `path` is opened again where that is the way.
pub(crate) fn finish_opening(
    opened: File,
    folder: Option<&File>,
    path: &Path,
    how: Opening,
) -> io::Result<File> {
    use std::os::unix::fs::FileTypeExt;
    if opened.metadata()?.file_type().is_fifo() {
        await_writer(&opened)?;
        go_on_waiting(&opened)?;
        return Ok(opened);
    }
    // A device: it is kept open meanwhile, so that it does not see the last one leave.
    match super::open(folder, path, how) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            // It takes one at a time.
            drop(opened);
            super::open(folder, path, how)
        }
        outcome => outcome,
    }
}

/// Waits until somebody has opened a FIFO for writing, as opening it does. Not by opening it again: who came meanwhile
/// and has left would not count.
fn await_writer(fifo: &File) -> io::Result<()> {
    // A writer that is there and has written nothing is not announced.
    const LOOKED_AFTER_MS: libc::c_int = 5;
    let (_reader, scratch) = io::pipe()?;
    loop {
        let mut asked = libc::pollfd {
            fd: fifo.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // Bytes, or that a writer has left.
        // SAFETY: `asked` is one valid entry.
        if retry(|| unsafe { libc::poll(&mut asked, 1, LOOKED_AFTER_MS) })? > 0 {
            return Ok(());
        }
        // Takes nothing away; what it finds to wait for is a writer.
        // SAFETY: takes two descriptors.
        let found = retry(|| unsafe {
            let (from, to) = (fifo.as_raw_fd(), scratch.as_raw_fd());
            libc::tee(from, to, 1, libc::SPLICE_F_NONBLOCK)
        });
        match found {
            Ok(0) => {}
            Err(error) if error.raw_os_error() != Some(libc::EAGAIN) => return Err(error),
            _ => return Ok(()),
        }
    }
}
