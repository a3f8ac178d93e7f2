//! inotify(7): the kernel tells of changes to files and folders.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// One instance: a queue of the kernel's, and the folders and files that it tells of.
pub(crate) struct Inotify(OwnedFd);

/// An event as the kernel wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw<'a> {
    /// What it happened to: the number that [`Inotify::add`] gave, or -1 for the queue itself.
    pub watched: i32,
    pub mask: u32,
    /// Joins the two events of a rename.
    pub cookie: u32,
    /// The name in the watched folder; empty for the watched file or folder itself.
    pub name: &'a OsStr,
    /// Bytes that it takes in the buffer.
    pub length: usize,
}

/// The most that one event can take: the header, and a name of 255 bytes with its NUL.
pub(crate) const EVENT_MAX: usize = size_of::<libc::inotify_event>() + 256;

impl Inotify {
    pub fn open() -> io::Result<Inotify> {
        // SAFETY: takes flags only.
        let descriptor = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        Ok(Inotify(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Watches a file or folder for the events in `mask`, beside those that it is watched for
    /// already; gives its number, which is the same as long as it is watched.
    pub fn add(&self, path: &Path, mask: u32) -> io::Result<i32> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mask = mask | libc::IN_MASK_ADD;
        // SAFETY: a NUL-terminated path and numbers.
        match unsafe { libc::inotify_add_watch(self.descriptor(), path.as_ptr(), mask) } {
            -1 => Err(io::Error::last_os_error()),
            number => Ok(number),
        }
    }

    /// Watches no more. That it is gone already is no error worth telling.
    pub fn remove(&self, number: i32) {
        // SAFETY: takes numbers only.
        unsafe { libc::inotify_rm_watch(self.descriptor(), number as _) };
    }

    /// Reads whole events into `memory`, which must have room for [`EVENT_MAX`]; how many bytes.
    pub fn read(&self, memory: &mut [u8]) -> io::Result<usize> {
        loop {
            // SAFETY: as many bytes as `memory` has may be written to it.
            let length =
                unsafe { libc::read(self.descriptor(), memory.as_mut_ptr().cast(), memory.len()) };
            if length >= 0 {
                return Ok(length as usize);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(0),
                _ => return Err(error),
            }
        }
    }
}

/// The event at the beginning of what was read.
pub(crate) fn parse(bytes: &[u8]) -> Option<Raw<'_>> {
    const HEADER: usize = size_of::<libc::inotify_event>();
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let (watched, mask, cookie) = (word(0)? as i32, word(4)?, word(8)?);
    let length = HEADER + word(12)? as usize;
    let padded = bytes.get(HEADER..length)?;
    let name = padded.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Raw {
        watched,
        mask,
        cookie,
        name: OsStr::from_bytes(name),
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_parsed_and_cut_ones_refused() {
        let mut bytes = Vec::new();
        for word in [7, libc::IN_CREATE, 9, 8] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(b"name\0\0\0\0next");
        let event = parse(&bytes).unwrap();
        assert_eq!((event.watched, event.cookie, event.length), (7, 9, 24));
        assert_eq!(
            (event.mask, event.name),
            (libc::IN_CREATE, OsStr::new("name"))
        );
        for short in 0..24 {
            assert_eq!(parse(&bytes[..short]), None);
        }
    }
}
