//! Linux: transfers that do not wait, copies inside the kernel, sending from a file.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};

use super::{Memory, Now, Opening, Piece, Position, PIECES_MAX};

/// A call that a signal may interrupt.
pub(super) fn retry<T: PartialOrd + From<i8>>(mut call: impl FnMut() -> T) -> io::Result<T> {
    loop {
        let outcome = call();
        if outcome >= T::from(0) {
            return Ok(outcome);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

/// One preadv2(2) or pwritev2(2) of what is behind the first `done` bytes of the memory.
fn transfer(
    direction: Direction,
    file: RawFd,
    memory: &Memory,
    done: usize,
    at: Position,
    flags: libc::c_int,
) -> io::Result<usize> {
    // Nearly always it is one, for which no array is made ready.
    if let Some(piece) = memory.only(done) {
        return transfer_pieces(direction, file, &[piece.to_iovec()], at, flags);
    }
    let mut pieces = [Piece::NONE; PIECES_MAX];
    let count = memory.rest(done, &mut pieces);
    let mut vectors = [Piece::NONE.to_iovec(); PIECES_MAX];
    for (to, piece) in vectors.iter_mut().zip(&pieces[..count]) {
        *to = piece.to_iovec();
    }
    transfer_pieces(direction, file, &vectors[..count], at, flags)
}

fn transfer_pieces(
    direction: Direction,
    file: RawFd,
    vectors: &[libc::iovec],
    at: Position,
    flags: libc::c_int,
) -> io::Result<usize> {
    let (low, high) = match at {
        // The two halves of the offset; where a register holds all of it, the kernel takes the first.
        Position::At(offset) => {
            let offset =
                i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            (offset as libc::c_long, (offset >> 32) as libc::c_long)
        }
        Position::Current => (-1, -1),
    };
    let call = match direction {
        Direction::Read => libc::SYS_preadv2,
        Direction::Write => libc::SYS_pwritev2,
    };
    // As wide as the registers: a narrower number in a list of any arguments has no upper half.
    let (file, flags) = (libc::c_long::from(file), libc::c_long::from(flags));
    let count = vectors.len();
    // SAFETY: the pieces are those of a `Memory`, which holds them for this. The raw system call is used since
    // not every C library has the wrapper.
    let bytes =
        retry(|| unsafe { libc::syscall(call, file, vectors.as_ptr(), count, low, high, flags) })?;
    Ok(bytes as usize)
}

/// One call that does not wait for a disk.
fn at_once(direction: Direction, file: &File, memory: &Memory, done: usize, at: Position) -> Now {
    match transfer(
        direction,
        file.as_raw_fd(),
        memory,
        done,
        at,
        libc::RWF_NOWAIT,
    ) {
        Ok(bytes) => Now::Bytes(bytes),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Now::Waits,
            // The file system, or the kernel, or a sandbox does not know the flag, or the call.
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EPERM | libc::ESPIPE) => {
                Now::Unknown
            }
            _ => Now::Failed(error),
        },
    }
}

/// Reads what the kernel has in memory (RWF_NOWAIT).
pub(crate) fn read_now(file: &File, memory: &Memory, done: usize, at: Position) -> Now {
    at_once(Direction::Read, file, memory, done, at)
}

/// Writes where that need not wait (RWF_NOWAIT).
pub(crate) fn write_now(file: &File, memory: &Memory, done: usize, at: Position) -> Now {
    at_once(Direction::Write, file, memory, done, at)
}

/// Whether the byte at `offset` is in memory: one byte, or none at the end of the file.
pub(crate) fn is_cached(file: &File, offset: u64) -> Now {
    let mut byte = 0u8;
    // SAFETY: a byte of this frame, which goes after the memory.
    let memory = unsafe { Memory::lent(std::iter::once((&raw mut byte, 1))) };
    read_now(file, &memory, 0, Position::At(offset))
}

/// Reads; 0: the end of the file.
pub(crate) fn read(file: &File, memory: &Memory, done: usize, at: Position) -> io::Result<usize> {
    match transfer(Direction::Read, file.as_raw_fd(), memory, done, at, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            super::transfer_singly(file, memory, done, at, super::Way::Read)
        }
        outcome => outcome,
    }
}

/// Writes.
pub(crate) fn write(file: &File, memory: &Memory, done: usize, at: Position) -> io::Result<usize> {
    match transfer(Direction::Write, file.as_raw_fd(), memory, done, at, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            super::transfer_singly(file, memory, done, at, super::Way::Write)
        }
        outcome => outcome,
    }
}

/// Opens what must lie beneath `folder` (openat2(2), Linux 5.6).
pub(super) fn open_beneath(folder: RawFd, path: &CStr, how: Opening) -> io::Result<File> {
    // Something was renamed on the way: the kernel asks to try again.
    const TRIES: usize = 16;
    // SAFETY: numbers, of which zeros are valid.
    let mut arguments: libc::open_how = unsafe { std::mem::zeroed() };
    arguments.flags = super::open_flags(how) as u64;
    arguments.mode = if arguments.flags & libc::O_CREAT as u64 != 0 {
        u64::from(how.mode & 0o7777)
    } else {
        0
    };
    arguments.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    let mut left = TRIES;
    loop {
        left -= 1;
        // SAFETY: a C string and a struct of the size that is told.
        let opened = retry(|| unsafe {
            let size = size_of::<libc::open_how>();
            libc::syscall(libc::SYS_openat2, folder, path.as_ptr(), &arguments, size)
        });
        match opened {
            // SAFETY: a new descriptor that nobody else has.
            Ok(descriptor) => return Ok(unsafe { File::from_raw_fd(descriptor as RawFd) }),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && left > 0 => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Has `to` share the blocks of `from` (FICLONE, ioctl_ficlone(2)).
pub(crate) fn share_blocks(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: takes two descriptors.
    retry(|| unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE as _, from.as_raw_fd()) })?;
    Ok(())
}

/// Copies inside the kernel (copy_file_range(2)).
pub(crate) fn copy_range(from: &File, to: &File, at: u64, length: usize) -> io::Result<usize> {
    let mut from_at = offset(at)?;
    let mut to_at = from_at;
    // SAFETY: the offsets are ours. The raw system call is used since not every C library has the
    // wrapper.
    let bytes = retry(|| unsafe {
        libc::syscall(
            libc::SYS_copy_file_range,
            from.as_raw_fd(),
            &mut from_at as *mut libc::loff_t,
            to.as_raw_fd(),
            &mut to_at as *mut libc::loff_t,
            length,
            0 as libc::c_long,
        )
    })?;
    Ok(bytes as usize)
}

fn offset(at: u64) -> io::Result<libc::loff_t> {
    libc::loff_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Sends from a file (sendfile(2)) what `to` takes at once. A peer that is gone is an error, never
/// `SIGPIPE`.
pub(crate) fn send_file(
    to: BorrowedFd<'_>,
    file: &File,
    at: u64,
    length: usize,
) -> io::Result<usize> {
    let mut at = offset(at)?;
    // It has no flag that leaves the signal out.
    crate::sys::without_sigpipe(|| {
        #[cfg(not(target_env = "gnu"))]
        use libc::sendfile;
        #[cfg(target_env = "gnu")]
        use libc::sendfile64 as sendfile;
        // SAFETY: the offset is ours.
        let bytes =
            retry(|| unsafe { sendfile(to.as_raw_fd(), file.as_raw_fd(), &mut at, length) })?;
        Ok(bytes as usize)
    })
}
