//! What Unix-domain sockets are called.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::SockAddr;

use crate::error::{Code, Result};

/// The name of a Unix-domain socket (unix(7)): a path in the file system, or, on Linux, an abstract
/// name, which begins with a zero byte, is in no file system, has no permissions, and goes with
/// its socket.
///
/// A name is short: a path may have 107 bytes on Linux and 103 on macOS and the BSDs. A deeper
/// place is reached by a relative path, or on Linux through a descriptor of the folder that was
/// opened before: `/proc/self/fd/N/name`.
///
/// ```
/// use kolo::LocalName;
///
/// let path = LocalName::from("/run/service.sock");
/// let hidden = LocalName::from(&b"\0service"[..]);
/// assert_eq!(path.as_path().unwrap().to_str(), Some("/run/service.sock"));
/// assert!(hidden.is_abstract());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct LocalName(Vec<u8>);

/// Bytes that `sun_path` holds on this system.
const ROOM: usize = {
    // SAFETY: a zeroed address is a valid one; only the size of its member is asked for.
    let address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    std::mem::size_of_val(&address.sun_path)
};

impl LocalName {
    /// Whether there is none: a socket of a pair, or one that was connected without being bound.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is an abstract name.
    pub fn is_abstract(&self) -> bool {
        self.0.first() == Some(&0)
    }

    /// The path, unless the name is abstract or there is none.
    pub fn as_path(&self) -> Option<&Path> {
        let path = !self.is_unnamed() && !self.is_abstract();
        path.then(|| Path::new(OsStr::from_bytes(&self.0)))
    }

    /// The bytes: of the path without a final zero, or of the abstract name with its leading zero.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the system calls take it.
    ///
    /// Errors: `ENAMETOOLONG`; `EINVAL` for no name, and for a path with a zero byte in it;
    /// `ENOTSUP` for an abstract name where there are none.
    pub(crate) fn to_address(&self) -> Result<SockAddr> {
        if self.is_abstract() {
            if !cfg!(any(target_os = "linux", target_os = "android")) {
                return Err(Code::ENOTSUP.into());
            }
            if self.0.len() > ROOM {
                return Err(Code::ENAMETOOLONG.into());
            }
        } else {
            if self.0.is_empty() || self.0.contains(&0) {
                return Err(Code::EINVAL.into());
            }
            // The final zero needs its place.
            if self.0.len() >= ROOM {
                return Err(Code::ENAMETOOLONG.into());
            }
        }
        Ok(SockAddr::unix(OsStr::from_bytes(&self.0))?)
    }

    /// As the system calls give it.
    pub(crate) fn of_address(address: &SockAddr) -> LocalName {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(name) = address.as_abstract_namespace() {
            let mut bytes = vec![0];
            bytes.extend_from_slice(name);
            return LocalName(bytes);
        }
        let path = address.as_pathname();
        LocalName(path.map_or(Vec::new(), |path| path.as_os_str().as_bytes().to_vec()))
    }
}

impl From<&[u8]> for LocalName {
    fn from(bytes: &[u8]) -> LocalName {
        LocalName(bytes.to_vec())
    }
}

impl From<&str> for LocalName {
    fn from(text: &str) -> LocalName {
        LocalName(text.as_bytes().to_vec())
    }
}

impl From<&Path> for LocalName {
    fn from(path: &Path) -> LocalName {
        LocalName(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<&PathBuf> for LocalName {
    fn from(path: &PathBuf) -> LocalName {
        path.as_path().into()
    }
}

impl From<PathBuf> for LocalName {
    fn from(path: PathBuf) -> LocalName {
        path.as_path().into()
    }
}

impl fmt::Debug for LocalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for LocalName {
    /// A path as it is; an abstract name with `@` in place of its zero, as other tools show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_first() {
            Some((0, rest)) => write!(f, "@{}", rest.escape_ascii()),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &[u8]) -> Option<Code> {
        LocalName::from(bytes).to_address().err().map(|e| e.code())
    }

    #[test]
    fn names_that_cannot_be() {
        assert_eq!(code(b""), Some(Code::EINVAL));
        assert_eq!(code(b"a\0b"), Some(Code::EINVAL));
        assert_eq!(code(&[b'a'; ROOM - 1]), None);
        assert_eq!(code(&[b'a'; ROOM]), Some(Code::ENAMETOOLONG));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_names_are_kept_whole() {
        assert_eq!(code(&[0; ROOM]), None);
        assert_eq!(code(&[0; ROOM + 1]), Some(Code::ENAMETOOLONG));
        for bytes in [&b"\0a"[..], b"\0a\0b\0", b"\0"] {
            let name = LocalName::from(bytes);
            let address = name.to_address().unwrap();
            if bytes.len() > 1 {
                assert_eq!(LocalName::of_address(&address), name);
            }
        }
        assert_eq!(LocalName::from(&b"\0ab"[..]).to_string(), "@ab");
    }
}
