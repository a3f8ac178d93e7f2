//! Copying a file: by sharing its blocks where the file system can, inside the kernel where that can,
//! and through memory otherwise.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::Ordering;

use bitflags::bitflags;

use crate::error::{Code, Error, Result};
use crate::pool::Stopper;
use crate::sys;
use crate::sys::fs::{open_flag, Opening};

bitflags! {
    /// How a file is copied.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CopyFlags: u32 {
        /// Fails with [`Code::EEXIST`] if the target exists.
        const EXCLUSIVE = 1;
        /// The copy must share the blocks of the original until either is changed; where the file
        /// system cannot do that, it fails, most often with [`Code::ENOTSUP`], [`Code::EXDEV`] or
        /// [`Code::EINVAL`]. Without this flag they are shared where that can be done.
        const REFLINK = 2;
    }
}

/// What is copied between two looks at whether to go on.
const STEP: usize = 4 * 1024 * 1024;

/// What goes through memory at once.
const PIECE: usize = 128 * 1024;

/// How bytes get from one file to the other. Each way is tried until the system says that it does not
/// serve for these two files.
#[derive(Clone, Copy)]
enum Means {
    CopyRange,
    SendFile,
    Memory,
}

/// Copies a file's bytes and its permissions; how many bytes.
pub(super) fn copy(from: &Path, to: &Path, flags: CopyFlags, stop: &Stopper) -> Result<u64> {
    let read = open_flag::READ | open_flag::NO_WAIT;
    let source = sys::fs::open(
        None,
        from,
        Opening {
            flags: read,
            mode: 0,
        },
    )?;
    let found = source.metadata()?;
    if found.is_dir() {
        return Err(Code::EISDIR.into());
    }
    if !found.is_file() {
        return Err(Code::EINVAL.into());
    }
    let mut how = open_flag::WRITE | open_flag::CREATE | open_flag::NO_WAIT;
    if flags.contains(CopyFlags::EXCLUSIVE) {
        how |= open_flag::EXCLUSIVE;
    }
    let mode = mode_of(&found);
    let target = sys::fs::open(None, to, Opening { flags: how, mode })?;
    let before = target.metadata()?;
    if is_same(&found, &before) {
        return Err(Code::EINVAL.into());
    }
    let outcome = fill(&source, &target, flags, stop).and_then(|length| {
        if before.is_file() {
            target.set_permissions(found.permissions())?;
        }
        Ok(length)
    });
    if outcome.is_err() && before.is_file() {
        take_away(&target, &before, to);
    }
    outcome
}

fn fill(source: &File, target: &File, flags: CopyFlags, stop: &Stopper) -> Result<u64> {
    if target.metadata()?.is_file() {
        target.set_len(0)?;
    }
    match sys::fs::share_blocks(source, target) {
        Ok(()) => return Ok(target.metadata()?.len()),
        Err(error) if flags.contains(CopyFlags::REFLINK) => return Err(error.into()),
        Err(_) => {}
    }
    let (mut length, mut means, mut memory) = (0, Means::CopyRange, Vec::new());
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Code::ECANCELED.into());
        }
        let step = match means {
            Means::CopyRange => sys::fs::copy_range(source, target, length, STEP),
            Means::SendFile => send(source, target, length),
            Means::Memory => through_memory(source, target, length, &mut memory),
        };
        means = match (step.map_err(Error::from), means) {
            (Ok(0), Means::SendFile | Means::Memory) => return Ok(length),
            // Of files that are made up as they are read (/proc) this is said at once, though there is
            // something: only reading finds the end.
            (Ok(0), Means::CopyRange) => Means::Memory,
            (Ok(bytes), means) => {
                length += bytes as u64;
                means
            }
            (Err(error), Means::Memory) => return Err(error),
            (Err(error), _) if is_of_the_disk(error.code()) => return Err(error),
            (Err(_), Means::CopyRange) => Means::SendFile,
            (Err(_), Means::SendFile) => Means::Memory,
        };
    }
}

/// Errors that no other way of copying helps against.
fn is_of_the_disk(code: Code) -> bool {
    matches!(code, Code::ENOSPC | Code::EDQUOT | Code::EIO | Code::EFBIG)
}

#[cfg(unix)]
fn send(source: &File, target: &File, at: u64) -> std::io::Result<usize> {
    use std::io::{Seek, SeekFrom};
    use std::os::fd::AsFd;
    // It writes where the target stands.
    (&mut &*target).seek(SeekFrom::Start(at))?;
    sys::fs::send_file(target.as_fd(), source, at, STEP)
}

#[cfg(not(unix))]
fn send(_: &File, _: &File, _: u64) -> std::io::Result<usize> {
    Err(std::io::ErrorKind::Unsupported.into())
}

fn through_memory(
    source: &File,
    target: &File,
    at: u64,
    memory: &mut Vec<u8>,
) -> std::io::Result<usize> {
    memory.resize(PIECE, 0);
    let length = sys::fs::read_at(source, memory, at)?;
    let mut done = 0;
    while done < length {
        match sys::fs::write_at(target, &memory[done..length], at + done as u64)? {
            0 => return Err(std::io::ErrorKind::WriteZero.into()),
            bytes => done += bytes,
        }
    }
    Ok(length)
}

/// A part of a file under the name of the whole would deceive whoever finds it.
fn take_away(target: &File, opened: &fs::Metadata, path: &Path) {
    // What cannot be taken away stays; the error that is told is that of the copy.
    let _ = target.set_len(0);
    // Not a link that leads to it, nor what somebody else has put there meanwhile.
    if fs::symlink_metadata(path).is_ok_and(|there| is_same(&there, opened)) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(unix)]
fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Two handles on one file cannot be told from two files here: the second one is refused by the system,
/// since the first is not shared for writing.
#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
fn mode_of(found: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o7777
}

#[cfg(not(unix))]
fn mode_of(_: &fs::Metadata) -> u32 {
    0
}
