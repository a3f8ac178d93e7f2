//! Windows. Type-checked and linted; what the system lacks, or has so differently that it would only
//! seem the same, answers `ENOTSUP`.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, ReadDir};
use std::io;
use std::os::windows::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{
    open_flag, Abilities, FileType, Found, Memory, Now, Opening, Piece, Position, SetTime, Space,
};

fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn open(folder: Option<&File>, path: &Path, how: Opening) -> io::Result<File> {
    let has = |flag| how.flags & flag != 0;
    let only_elsewhere = open_flag::BENEATH | open_flag::NO_FOLLOW | open_flag::DIRECTORY;
    if folder.is_some() || has(only_elsewhere) {
        return unsupported();
    }
    let create = has(open_flag::CREATE);
    OpenOptions::new()
        .read(has(open_flag::READ))
        .write(has(open_flag::WRITE))
        .append(has(open_flag::APPEND))
        .create(create)
        .create_new(has(open_flag::EXCLUSIVE))
        .truncate(has(open_flag::TRUNCATE))
        .open(path)
}

/// What it may do is not told; reading and writing say so when it may not.
pub(crate) fn abilities(_: &File) -> io::Result<Abilities> {
    Ok(Abilities {
        reads: true,
        writes: true,
        direct: true,
        direct_file: false,
    })
}

pub(crate) fn close(file: File) -> io::Result<()> {
    drop(file);
    Ok(())
}

pub(crate) fn read_now(_: &File, _: &Memory, _: usize, _: Position) -> Now {
    Now::Unknown
}

pub(crate) fn write_now(_: &File, _: &Memory, _: usize, _: Position) -> Now {
    Now::Unknown
}

pub(crate) fn is_cached(_: &File, _: u64) -> Now {
    Now::Unknown
}

/// The first piece behind `done` bytes.
#[allow(clippy::mut_from_ref)] // what is borrowed is the right to it
fn first(memory: &Memory, done: usize) -> Option<&mut [u8]> {
    let mut pieces = [Piece::NONE; super::PIECES_MAX];
    if memory.rest(done, &mut pieces) == 0 {
        return None;
    }
    // SAFETY: memory that `memory` holds for this transfer, and for nothing else meanwhile.
    Some(unsafe { pieces[0].to_slice() })
}

pub(crate) fn read(file: &File, memory: &Memory, done: usize, at: Position) -> io::Result<usize> {
    use std::io::Read;
    match (first(memory, done), at) {
        (None, _) => Ok(0),
        (Some(piece), Position::At(at)) => read_at(file, piece, at),
        (Some(piece), Position::Current) => (&mut &*file).read(piece),
    }
}

pub(crate) fn write(file: &File, memory: &Memory, done: usize, at: Position) -> io::Result<usize> {
    use std::io::Write;
    match (first(memory, done), at) {
        (None, _) => Ok(0),
        (Some(piece), Position::At(at)) => write_at(file, piece, at),
        (Some(piece), Position::Current) => (&mut &*file).write(piece),
    }
}

/// At the end of a file ReadFile fails with ERROR_HANDLE_EOF.
pub(crate) fn read_at(file: &File, memory: &mut [u8], at: u64) -> io::Result<usize> {
    match file.seek_read(memory, at) {
        Err(error) if error.raw_os_error() == Some(38) => Ok(0),
        outcome => outcome,
    }
}

pub(crate) fn write_at(file: &File, memory: &[u8], at: u64) -> io::Result<usize> {
    file.seek_write(memory, at)
}

pub(crate) fn share_blocks(_: &File, _: &File) -> io::Result<()> {
    unsupported()
}

pub(crate) fn copy_range(_: &File, _: &File, _: u64, _: usize) -> io::Result<usize> {
    unsupported()
}

/// Whether it is there, and, if that is asked for, not read-only.
pub(crate) fn access(path: &Path, mode: u32) -> io::Result<()> {
    let found = std::fs::metadata(path)?;
    if mode & 2 != 0 && found.permissions().readonly() && !found.is_dir() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

pub(crate) fn make_temporary_folder(_: &Path) -> io::Result<PathBuf> {
    unsupported()
}

pub(crate) fn truncate(path: &Path, length: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(length)
}

pub(crate) fn set_times(
    path: &Path,
    accessed: SetTime,
    modified: SetTime,
    follow: bool,
) -> io::Result<()> {
    if !follow {
        return unsupported();
    }
    let file = OpenOptions::new().write(true).open(path)?;
    set_file_times(&file, accessed, modified)
}

pub(crate) fn set_file_times(file: &File, accessed: SetTime, modified: SetTime) -> io::Result<()> {
    let time = |time| match time {
        SetTime::Keep => None,
        SetTime::Now => Some(SystemTime::now()),
        SetTime::At(time) => {
            let distance = Duration::from_nanos(time.unsigned_abs());
            match time < 0 {
                true => SystemTime::UNIX_EPOCH.checked_sub(distance),
                false => SystemTime::UNIX_EPOCH.checked_add(distance),
            }
        }
    };
    let mut times = std::fs::FileTimes::new();
    if let Some(accessed) = time(accessed) {
        times = times.set_accessed(accessed);
    }
    if let Some(modified) = time(modified) {
        times = times.set_modified(modified);
    }
    file.set_times(times)
}

pub(crate) fn space(_: &Path) -> io::Result<Space> {
    unsupported()
}

/// An open folder, whose names are read one after the other.
pub(crate) struct Folder(Box<ReadDir>);

impl Folder {
    pub fn open(path: &Path) -> io::Result<Folder> {
        Ok(Folder(Box::new(std::fs::read_dir(path)?)))
    }

    /// The next name, in no particular order; `None` at the end. Not "." and "..".
    pub fn next(&mut self) -> io::Result<Option<Found>> {
        let Some(entry) = self.0.next().transpose()? else {
            return Ok(None);
        };
        let file_type = entry.file_type().map_or(FileType::Unknown, type_of);
        let name = bytes_of_path(entry.file_name().into());
        Ok(Some(Found { name, file_type }))
    }
}

#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) fn type_of(found: std::fs::FileType) -> FileType {
    if found.is_symlink() {
        FileType::Link
    } else if found.is_dir() {
        FileType::Directory
    } else {
        FileType::File
    }
}

/// A path as bytes (UTF-8, or for what has none, WTF-8), and back.
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) fn path_of_bytes(bytes: &[u8]) -> io::Result<PathBuf> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

pub(crate) fn bytes_of_path(path: PathBuf) -> Vec<u8> {
    OsString::into_encoded_bytes(path.into_os_string())
}

pub(crate) fn name_of_bytes(bytes: &[u8]) -> &OsStr {
    match std::str::from_utf8(bytes) {
        Ok(text) => OsStr::new(text),
        Err(_) => OsStr::new("\u{fffd}"),
    }
}
