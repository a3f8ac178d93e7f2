//! The descriptor behind a file's handle, shared with the operations that are under way on it.

use std::fs::File;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::Error;
use crate::pool::{is_pool_thread, Job, Pool, WorkClass};
use crate::sys::{self, Held};

/// An open descriptor. The handle holds it, and each operation under way does: so closing the handle
/// never pulls it away under a thread, and its number comes to mean no other file meanwhile.
pub(crate) struct OpenFile {
    /// `None`: handed out.
    file: Option<Held<File>>,
    /// Where it is closed when that may have to wait.
    pool: Pool,
    known: AtomicU8,
}

/// It may be read.
const READS: u8 = 1 << 5;
/// It may be written to.
const WRITES: u8 = 1;
/// Whether reading would wait cannot be asked.
const NO_READ_NOW: u8 = 1 << 1;
/// Whether writing would wait cannot be asked.
const NO_WRITE_NOW: u8 = 1 << 2;
/// A read has answered without waiting: so its file system is one of this machine's.
const IS_LOCAL: u8 = 1 << 3;
/// Every transfer waits for a disk (O_DIRECT).
const IS_DIRECT: u8 = 1 << 6;
/// An operation at the current position is under way.
const AT_POSITION: u8 = 1 << 4;

impl OpenFile {
    /// The file comes back with an error.
    pub fn new(file: Held<File>, pool: Pool) -> Result<OpenFile, (Error, File)> {
        let abilities = match sys::fs::abilities(&file) {
            Ok(abilities) => abilities,
            Err(error) => return Err((error.into(), file.into_inner())),
        };
        let mut known = 0;
        if abilities.reads {
            known |= READS;
        }
        if abilities.writes {
            known |= WRITES;
        }
        if abilities.direct {
            known |= NO_READ_NOW | NO_WRITE_NOW;
        }
        if abilities.direct_file {
            known |= IS_DIRECT;
        }
        Ok(OpenFile {
            file: Some(file),
            pool,
            known: AtomicU8::new(known),
        })
    }

    /// The descriptor, for the user, who may hand it back by mistake: see [`Held`].
    #[cfg(unix)]
    pub fn show(&self) -> Option<sys::Descriptor> {
        self.file.as_ref().map(Held::show)
    }

    pub fn file(&self) -> &File {
        // It is handed out only by what consumes this.
        self.file.as_ref().expect("a file that was not handed out")
    }

    /// The descriptor, for whoever takes it out of kolo.
    pub fn hand_out(&mut self) -> Option<File> {
        self.file.take().map(Held::into_inner)
    }

    fn knows(&self, what: u8) -> bool {
        self.known.load(Ordering::Relaxed) & what != 0
    }

    fn learn(&self, what: u8) {
        if !self.knows(what) {
            self.known.fetch_or(what, Ordering::Relaxed);
        }
    }

    #[cfg_attr(not(any(feature = "net", feature = "local")), allow(dead_code))]
    pub fn can_be_read(&self) -> bool {
        self.knows(READS)
    }

    pub fn is_direct(&self) -> bool {
        self.knows(IS_DIRECT)
    }

    pub fn can_read_now(&self) -> bool {
        !self.knows(NO_READ_NOW)
    }

    pub fn can_write_now(&self) -> bool {
        !self.knows(NO_WRITE_NOW)
    }

    pub fn cannot_read_now(&self) {
        self.learn(NO_READ_NOW);
    }

    pub fn cannot_write_now(&self) {
        self.learn(NO_WRITE_NOW);
    }

    /// Its file system opens, reads and closes without waiting for anybody.
    pub fn is_local(&self) {
        self.learn(IS_LOCAL);
    }

    /// As a folder: whether what is in it can be opened without waiting, if it is in memory.
    #[cfg(target_os = "linux")]
    pub fn opens_now(&self) -> bool {
        self.knows(IS_LOCAL)
    }

    pub fn has_read_now(&self) {
        self.learn(IS_LOCAL);
    }

    /// Begins an operation at the current position; `false` while another one is under way.
    pub fn begin_at_position(&self) -> bool {
        self.known.fetch_or(AT_POSITION, Ordering::AcqRel) & AT_POSITION == 0
    }

    pub fn end_at_position(&self) {
        self.known.fetch_and(!AT_POSITION, Ordering::AcqRel);
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else {
            return;
        };
        // Closing what was written may wait for a server, and closing anything for a file system
        // that a program provides (close(2) on NFS, FUSE). Not so what was only read, of a local one.
        if is_pool_thread() || self.knows(IS_LOCAL) && !self.knows(WRITES) {
            return drop(file);
        }
        // Where the pool does not take it, it is closed here.
        let _ = self
            .pool
            .submit_detached(WorkClass::Files, Box::new(Closing(Some(file))));
    }
}

/// A descriptor on its way to be closed.
struct Closing(Option<Held<File>>);

impl Job for Closing {
    fn run(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_operation_at_a_time_is_at_the_current_position() {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let open = OpenFile::new(file.into(), Pool::default()).map_err(|(error, _)| error);
        let open = open.unwrap();
        assert!(open.begin_at_position());
        assert!(!open.begin_at_position());
        open.end_at_position();
        assert!(open.begin_at_position());
    }
}
