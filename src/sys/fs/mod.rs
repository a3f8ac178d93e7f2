//! Files: what `std::fs` does not have, or not as kolo needs it.

#[cfg(target_os = "linux")]
mod linux;
mod memory;
#[cfg(target_os = "linux")]
mod opening;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
pub(crate) use memory::{Memory, Piece, PIECES_MAX};
#[cfg(target_os = "linux")]
pub(crate) use opening::*;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

use std::io;

/// Where in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// So many bytes from its start.
    At(u64),
    /// Where the last operation of this kind ended.
    Current,
}

impl Position {
    pub fn after(self, bytes: usize) -> Position {
        match self {
            Position::At(offset) => Position::At(offset.saturating_add(bytes as u64)),
            Position::Current => Position::Current,
        }
    }
}

/// What came of a transfer that must not wait.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))] // elsewhere nothing can be asked for that
pub(crate) enum Now {
    Bytes(usize),
    /// It would have to wait.
    Waits,
    /// It cannot be said for this file whether it would.
    Unknown,
    Failed(io::Error),
}

/// What is found in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum FileType {
    /// Something else, or not told.
    Unknown = 0,
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Link = 3,
    /// A FIFO (named pipe).
    Fifo = 4,
    /// A Unix-domain socket.
    Socket = 5,
    /// A character device.
    CharacterDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

/// One name in a folder.
pub(crate) struct Found {
    pub name: Vec<u8>,
    pub file_type: FileType,
}

/// How much a file system holds (statfs(2)).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Space {
    /// The kind of file system, as the system numbers it; 0 where it does not.
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

/// A time of a file's, as it is to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Left as it is.
    Keep,
    /// The time at which it is set.
    Now,
    /// Nanoseconds since 1970, before or after.
    At(i64),
}

/// What an open descriptor may do.
pub(crate) struct Abilities {
    pub reads: bool,
    pub writes: bool,
    /// It goes around the kernel's memory (O_DIRECT), so that every transfer waits.
    pub direct: bool,
    /// Such a file, and not a pipe that keeps packets apart, which that flag says too.
    pub direct_file: bool,
}

/// How a file is opened, as the system call takes it.
#[derive(Clone, Copy)]
#[cfg_attr(windows, allow(dead_code))] // no permissions there
pub(crate) struct Opening {
    pub flags: u32,
    pub mode: u32,
}

/// The flags of [`Opening`], the same on every system.
pub(crate) mod open_flag {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 1 << 1;
    pub const APPEND: u32 = 1 << 2;
    pub const CREATE: u32 = 1 << 3;
    pub const EXCLUSIVE: u32 = 1 << 4;
    pub const TRUNCATE: u32 = 1 << 5;
    pub const DIRECTORY: u32 = 1 << 6;
    pub const NO_FOLLOW: u32 = 1 << 7;
    pub const NO_WAIT: u32 = 1 << 8;
    pub const SYNC: u32 = 1 << 9;
    pub const DATA_SYNC: u32 = 1 << 10;
    pub const BENEATH: u32 = 1 << 11;
}
