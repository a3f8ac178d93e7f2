//! Files and directories, without blocking the loop.
//!
//! An operation on a name is made in two steps: a function of this module says what is to be done, and
//! [`Call::start`] has it done on a thread of the loop's [pool](crate::Pool), or [`Call::wait`] here and now,
//! on any thread, with no loop at all:
//!
//! ```
//! use kolo::{fs, Loop, RunMode};
//!
//! let length = fs::stat("Cargo.toml").wait()?.len();
//!
//! let lp = Loop::new()?;
//! fs::stat("Cargo.toml").start(&lp, move |_, found| assert_eq!(found.unwrap().len(), length))?;
//! lp.run(RunMode::Default)?;
//! # Ok::<(), kolo::Error>(())
//! ```
//!
//! Open files and directories are handles: [`File`], [`Directory`]. What is under way is a
//! [`Request`](crate::Request): [`Request::cancel`](crate::Request::cancel) takes back what was not begun.
//!
//! Errors are the system's own: a missing name is [`Code::ENOENT`], and so on.
//!
//! Windows: [`mkdtemp`], [`chown`], [`lchown`], [`lutimes`] and [`statfs`] answer [`Code::ENOTSUP`]; of
//! permissions there is only whether a file can be written to.

mod copy;
mod directory;
mod file;
mod open_file;
mod operation;
mod transfer;

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use copy::CopyFlags;
pub(crate) use directory::DirectoryState;
pub use directory::{Directory, Entries, Entry};
pub(crate) use file::FileState;
pub use file::{File, OpenFlags, OpenOptions, SentFile, Transferred};
pub(crate) use open_file::OpenFile;
pub use operation::Call;
#[cfg(feature = "capi")]
pub(crate) use operation::Operation;
use operation::{Operation as Op, Target};
pub(crate) use transfer::AT_ONCE_PER_TURN;
#[cfg(feature = "capi")]
pub(crate) use transfer::{Direction, Transfer};

use crate::error::{Code, Result};
pub use crate::sys::fs::{FileType, SetTime, Space};

/// A path that the system can take.
pub(crate) fn checked_path(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Code::EINVAL.into());
    }
    Ok(path.to_owned())
}

/// A call on one path.
fn on<T>(path: impl AsRef<Path>, operation: impl FnOnce(PathBuf) -> Op) -> Call<T> {
    Call::new(checked_path(path.as_ref()).map(operation))
}

/// A call on two paths.
fn on_two<T>(
    one: impl AsRef<Path>,
    other: impl AsRef<Path>,
    operation: impl FnOnce(PathBuf, PathBuf) -> Op,
) -> Call<T> {
    let paths = checked_path(one.as_ref()).and_then(|one| Ok((one, checked_path(other.as_ref())?)));
    Call::new(paths.map(|(one, other)| operation(one, other)))
}

/// What is known of a file (stat(2)), of what a symbolic link leads to.
pub fn stat(path: impl AsRef<Path>) -> Call<Metadata> {
    on(path, |path| Op::Stat(Target::Path(path)))
}

/// What is known of a file, of a symbolic link itself (lstat(2)).
pub fn lstat(path: impl AsRef<Path>) -> Call<Metadata> {
    on(path, |path| Op::Stat(Target::Link(path)))
}

/// Whether the process may use a file: `mode` is a sum of 4 (read), 2 (write) and 1 (execute), or 0 for
/// whether it is there (access(2)). By the time the answer comes it may be different.
pub fn access(path: impl AsRef<Path>, mode: u32) -> Call<()> {
    on(path, |path| Op::Access(path, mode))
}

/// Makes a directory with these permissions, less those that the process masks (mkdir(2)).
pub fn mkdir(path: impl AsRef<Path>, mode: u32) -> Call<()> {
    on(path, |path| Op::MakeFolder(path, mode))
}

/// Makes a directory whose name is `prefix` and six characters that no other has, for this user alone
/// (mkdtemp(3)). Gives its path.
pub fn mkdtemp(prefix: impl AsRef<Path>) -> Call<PathBuf> {
    on(prefix, Op::MakeTemporaryFolder)
}

/// Removes a directory, which must be empty (rmdir(2)).
pub fn rmdir(path: impl AsRef<Path>) -> Call<()> {
    on(path, Op::RemoveFolder)
}

/// Removes a name, and the file with its last one (unlink(2)).
pub fn unlink(path: impl AsRef<Path>) -> Call<()> {
    on(path, Op::Unlink)
}

/// Gives a file another name, in place of what had that name (rename(2)).
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Call<()> {
    on_two(from, to, Op::Rename)
}

/// Gives a file a second name (link(2)).
pub fn link(existing: impl AsRef<Path>, path: impl AsRef<Path>) -> Call<()> {
    on_two(existing, path, Op::Link)
}

/// Makes a symbolic link that leads to `target` (symlink(2)).
pub fn symlink(target: impl AsRef<Path>, path: impl AsRef<Path>) -> Call<()> {
    on_two(target, path, Op::Symlink)
}

/// Where a symbolic link leads (readlink(2)).
pub fn readlink(path: impl AsRef<Path>) -> Call<PathBuf> {
    on(path, Op::ReadLink)
}

/// The absolute path without links, "." and ".." (realpath(3)).
pub fn realpath(path: impl AsRef<Path>) -> Call<PathBuf> {
    on(path, Op::RealPath)
}

/// Makes a file shorter, or longer by zeros (truncate(2)).
pub fn truncate(path: impl AsRef<Path>, length: u64) -> Call<()> {
    on(path, |path| Op::Truncate(Target::Path(path), length))
}

/// Sets a file's permissions (chmod(2)).
pub fn chmod(path: impl AsRef<Path>, mode: u32) -> Call<()> {
    on(path, |path| Op::SetMode(Target::Path(path), mode))
}

/// Sets a file's owner and group, those that are given (chown(2)).
pub fn chown(path: impl AsRef<Path>, user: Option<u32>, group: Option<u32>) -> Call<()> {
    on(path, |path| Op::SetOwner(Target::Path(path), user, group))
}

/// As [`chown`], of a symbolic link itself.
pub fn lchown(path: impl AsRef<Path>, user: Option<u32>, group: Option<u32>) -> Call<()> {
    on(path, |path| Op::SetOwner(Target::Link(path), user, group))
}

/// Sets when a file was last read and last changed (utimensat(2)).
pub fn utimes(path: impl AsRef<Path>, accessed: SetTime, modified: SetTime) -> Call<()> {
    on(path, |path| {
        Op::SetTimes(Target::Path(path), accessed, modified)
    })
}

/// As [`utimes`], of a symbolic link itself.
pub fn lutimes(path: impl AsRef<Path>, accessed: SetTime, modified: SetTime) -> Call<()> {
    on(path, |path| {
        Op::SetTimes(Target::Link(path), accessed, modified)
    })
}

/// How much the file system at `path` holds (statfs(2)).
pub fn statfs(path: impl AsRef<Path>) -> Call<Space> {
    on(path, Op::Space)
}

/// Copies a regular file: its bytes and its permissions, in place of what stood in `to`. Gives the bytes
/// copied.
///
/// Where the file system can share blocks (btrfs, XFS), that is all it does; otherwise the kernel copies
/// where it can. It can be [cancelled](crate::Request::cancel) while it runs. When it fails, there is no
/// target any more, unless it failed before that was changed: [`Code::EEXIST`], [`Code::EISDIR`],
/// [`Code::ENOENT`] and the like; [`Code::EINVAL`] when both are the same file or the source is not a
/// regular one.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>, flags: CopyFlags) -> Call<u64> {
    on_two(from, to, |from, to| {
        Op::Copy(from, to, flags, Arc::default())
    })
}
