//! The file of a listening socket: its mode, those that were left behind, its removal.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use socket2::Socket;

use super::name::LocalName;
use crate::driver::would_block;
use crate::error::{Code, Error, Result};
use crate::sys;

/// How a listener comes to its file.
pub(super) struct Binding {
    pub backlog: i32,
    pub mode: Option<u32>,
    pub replace_stale: bool,
    pub keep_file: bool,
}

/// A socket's file. Removed when dropped, unless it is another one by then, or another process's.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    fork_generation: u32,
    keep: bool,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let parents = self.fork_generation != sys::fork::generation();
        if self.keep || parents {
            return;
        }
        let ours = |file: &Metadata| identity(file) == self.identity;
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours) {
            // Gone meanwhile is what is wanted.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Binds the socket to its name and has it listen. What it left in the file system, if that is to
/// go with the listener.
pub(super) fn listen_at(
    socket: &Socket,
    name: &LocalName,
    how: &Binding,
) -> Result<Option<SocketFile>> {
    let address = name.to_address()?;
    let Some(path) = name.as_path() else {
        socket.bind(&address)?;
        socket.listen(how.backlog)?;
        return Ok(None);
    };
    // Held until the socket listens: for others who look, it is not stale then.
    let _lock = how.replace_stale.then(|| lock_folder(path)).transpose()?;
    if let Some(mode) = how.mode {
        sys::set_mode_before_binding(socket, mode);
    }
    match socket.bind(&address).map_err(Error::from) {
        Err(error) if error.code() == Code::EADDRINUSE && how.replace_stale => {
            remove_stale(path, &address)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let made = fs::symlink_metadata(path)?;
    // The current folder may be another one when it is removed.
    let mut file = SocketFile {
        path: std::path::absolute(path)?,
        identity: identity(&made),
        fork_generation: sys::fork::generation(),
        keep: false,
    };
    // Nobody can connect before the socket listens, so nobody gets in before this.
    if let Some(mode) = how.mode.filter(|mode| made.mode() & 0o7777 != *mode) {
        if !made.file_type().is_socket() {
            return Err(Code::EEXIST.into());
        }
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(how.backlog)?;
    file.keep = how.keep_file;
    Ok(Some(file))
}

/// How often, a millisecond apart, the folder's lock is asked for. Whoever holds it needs it for
/// some system calls.
const LOCK_ATTEMPTS: u32 = 100;

/// The lock that keeps two who replace a stale file in one folder from doing so at once. It lies
/// on the folder itself, so that nothing is left behind.
fn lock_folder(path: &Path) -> Result<File> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let folder = File::open(parent.unwrap_or(Path::new(".")))?;
    for attempt in 1.. {
        match sys::try_lock(&folder) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if would_block(&error) && attempt < LOCK_ATTEMPTS => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(folder)
}

/// Removes a socket file on which nobody listens.
///
/// Errors: `EADDRINUSE` if somebody does, or if it is no socket.
fn remove_stale(path: &Path, address: &socket2::SockAddr) -> Result<()> {
    let in_use = Err(Code::EADDRINUSE.into());
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !found.file_type().is_socket() {
        return in_use;
    }
    // Only "refused" says that nobody listens. A full backlog, a socket of another type, a file
    // that may not be connected to: all of them may be somebody's.
    match sys::local_socket()?.connect(address).map_err(Error::from) {
        Err(error) if error.code() == Code::ECONNREFUSED => {}
        Err(error) if error.code() == Code::ENOENT => return Ok(()),
        _ => return in_use,
    }
    let again = fs::symlink_metadata(path);
    match again {
        Ok(again) if identity(&again) == identity(&found) => Ok(fs::remove_file(path)?),
        Ok(_) => in_use,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
