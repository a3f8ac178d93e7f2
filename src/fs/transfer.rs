//! Reading and writing: at once where that need not wait; otherwise by the kernel, if the loop's driver can have it do
//! that without a thread, or on the pool.
//!
//! What the kernel has in memory is read on the loop's thread, with a call that would rather do nothing
//! than wait for a disk (preadv2(2) with RWF_NOWAIT): half a microsecond, where the way to a thread and
//! back takes ten. Its outcome is told in the next deferred phase, like every other.

use std::sync::Arc;

use super::open_file::OpenFile;
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
#[cfg(kolo_uring)]
use crate::pool::{AfterCall, Bytes, KernelCall, Vectors};
use crate::pool::{Job, WorkClass};
use crate::request::{Hold, Request};
use crate::sys;
use crate::sys::fs::{Memory, Now, Position};

/// What one transfer may bring without the pool. More is better copied on another thread.
const AT_ONCE_MAX: usize = 64 * 1024;

/// What all transfers together may bring in one turn without the pool: about a millisecond.
pub(crate) const AT_ONCE_PER_TURN: usize = 4 * 1024 * 1024;

/// What a transfer counts at least: the call itself takes as long as copying this much.
const AT_ONCE_MIN: usize = 2 * 1024;

/// What one transfer around the kernel's memory (O_DIRECT) may be to begin it on the loop's thread, which makes the
/// memory ready for the disk, page by page: some 25 µs for so much.
const DIRECT_MAX: usize = 1024 * 1024;

/// How far a transfer has come without waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Over,
    /// It waits for a disk, and for nothing else.
    WaitsForDisk,
    /// It may take however long.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

#[cfg(unix)]
use crate::sys::fs::may_be_so_long;

#[cfg(not(unix))]
fn may_be_so_long(_: u64) -> bool {
    true
}

/// A read or a write, and what came of it.
pub(crate) struct Transfer {
    /// Until it is over.
    file: Option<Arc<OpenFile>>,
    direction: Direction,
    at: Position,
    memory: Memory,
    /// Bytes that were read or written.
    pub done: usize,
    /// Why no more.
    pub outcome: Result<()>,
}

impl Transfer {
    /// Errors: [`Code::EBUSY`] at the current position, while another operation is under way there.
    pub fn new(
        file: Arc<OpenFile>,
        direction: Direction,
        at: Position,
        memory: Memory,
    ) -> Result<Transfer> {
        if at == Position::Current && !file.begin_at_position() {
            return Err(Code::EBUSY.into());
        }
        Ok(Transfer {
            file: Some(file),
            direction,
            at,
            memory,
            done: 0,
            outcome: Ok(()),
        })
    }

    /// As far as it goes without waiting.
    fn at_once(&mut self, lp: &Loop) -> Progress {
        let Some(file) = &self.file else {
            return Progress::Over;
        };
        let length = self.memory.length();
        if file.is_direct() {
            return match self.at {
                Position::At(_) if length <= DIRECT_MAX => Progress::WaitsForDisk,
                _ => Progress::Unknown,
            };
        }
        let left = lp.at_once_left.get();
        let cost = length.max(AT_ONCE_MIN);
        if self.at == Position::Current || length > AT_ONCE_MAX || cost > left {
            return Progress::Unknown;
        }
        let reads = self.direction == Direction::Read;
        let can = if reads {
            file.can_read_now()
        } else {
            file.can_write_now()
        };
        if !can {
            return Progress::Unknown;
        }
        lp.at_once_left.set(left - cost);
        while self.done < length {
            let at = self.at.after(self.done);
            let now = if reads {
                sys::fs::read_now(file.file(), &self.memory, self.done, at)
            } else {
                sys::fs::write_now(file.file(), &self.memory, self.done, at)
            };
            match now {
                Now::Bytes(0) if reads => break,
                // What waits for a server, or for other writers, is not the kernel's alone.
                Now::Waits if reads => return Progress::WaitsForDisk,
                Now::Bytes(0) | Now::Waits => return Progress::Unknown,
                Now::Bytes(bytes) => self.done += bytes,
                Now::Unknown if reads => {
                    file.cannot_read_now();
                    return Progress::Unknown;
                }
                Now::Unknown => {
                    file.cannot_write_now();
                    return Progress::Unknown;
                }
                Now::Failed(error) => {
                    self.outcome = Err(error.into());
                    break;
                }
            }
        }
        if reads {
            file.has_read_now();
        }
        Progress::Over
    }

    /// Whether a call for it on the loop's thread does what one on a pool's thread does.
    fn suits_kernel(&self) -> bool {
        let Position::At(offset) = self.at else {
            return false;
        };
        // An offset beyond what the kernel has is its error to tell.
        let end = offset.checked_add(self.memory.length() as u64);
        let end = end.filter(|end| i64::try_from(*end).is_ok());
        end.is_some_and(|end| self.direction == Direction::Read || may_be_so_long(end))
    }

    /// The rest of it, however long that takes. At a position: all of it, or until the file ends. Where
    /// the position is the file's own, what one call brings: that may be a pipe.
    pub fn finish(&mut self) {
        if self.done < self.memory.length() {
            loop {
                let Some(file) = &self.file else { return };
                let at = self.at.after(self.done);
                let moved = match self.direction {
                    Direction::Read => sys::fs::read(file.file(), &self.memory, self.done, at),
                    Direction::Write => sys::fs::write(file.file(), &self.memory, self.done, at),
                };
                if !self.moved(moved) {
                    break;
                }
            }
        }
        self.let_go();
    }

    /// Takes note of what one call has moved; whether there is more to be moved.
    fn moved(&mut self, moved: std::io::Result<usize>) -> bool {
        match (moved, self.direction) {
            (Ok(0), Direction::Read) => return false,
            (Ok(0), Direction::Write) => self.outcome = Err(Code::EIO.into()),
            (Ok(bytes), direction) => {
                self.done += bytes;
                let is_pipe = self.at == Position::Current;
                return self.done < self.memory.length()
                    && !(is_pipe && direction == Direction::Read);
            }
            (Err(error), _) => self.outcome = Err(error.into()),
        }
        false
    }

    pub fn into_memory(mut self) -> Memory {
        std::mem::replace(&mut self.memory, Memory::of(Vec::new()))
    }

    /// The descriptor may be closed; the current position is free for others.
    fn let_go(&mut self) {
        if let Some(file) = self.file.take() {
            if self.at == Position::Current {
                file.end_at_position();
            }
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Job for Transfer {
    fn run(&mut self) {
        self.finish();
    }

    fn refused(&mut self, error: Error) -> bool {
        self.outcome = Err(error);
        self.done > 0
    }

    #[cfg(kolo_uring)]
    fn kernel_call(&mut self) -> Option<KernelCall> {
        use std::os::fd::AsRawFd;
        let file = self.file.as_ref()?.file().as_raw_fd();
        let Position::At(offset) = self.at.after(self.done) else {
            return None;
        };
        let reads = self.direction == Direction::Read;
        if let Some(piece) = self.memory.only(self.done) {
            let piece = piece.to_iovec();
            let bytes = Bytes {
                file,
                base: piece.iov_base.cast(),
                length: piece.iov_len,
                offset,
            };
            return Some(match reads {
                true => KernelCall::Read(bytes),
                false => KernelCall::Write(bytes),
            });
        }
        let vectors = self.memory.vectors(self.done);
        let vectors = Vectors {
            file,
            first: vectors.as_ptr().cast(),
            count: vectors.len(),
            offset,
        };
        Some(match reads {
            true => KernelCall::ReadEach(vectors),
            false => KernelCall::WriteEach(vectors),
        })
    }

    #[cfg(kolo_uring)]
    fn called(&mut self, outcome: std::result::Result<u32, i32>) -> AfterCall {
        let moved = match outcome {
            Ok(bytes) => Ok(bytes as usize),
            // It asks for a thread that can wait.
            Err(libc::EAGAIN | libc::EOPNOTSUPP) => return AfterCall::Elsewhere,
            Err(number) => Err(std::io::Error::from_raw_os_error(number)),
        };
        if self.moved(moved) {
            return AfterCall::Again;
        }
        self.let_go();
        AfterCall::Over
    }
}

/// Makes a transfer, wherever it is best made.
pub(crate) fn submit(
    lp: &Loop,
    mut transfer: Transfer,
    done: impl FnOnce(&Loop, Request, Result<Transfer>) + 'static,
) -> Result<Request> {
    lp.can_insert()?;
    let progress = transfer.at_once(lp);
    if progress == Progress::Over {
        transfer.let_go();
        return lp.submit_done(Ok(transfer), done);
    }
    let done = |lp: &Loop, request: Request, outcome: Result<Box<Transfer>>| {
        done(lp, request, outcome.map(|transfer| *transfer));
    };
    if progress == Progress::WaitsForDisk && transfer.suits_kernel() {
        return lp.submit_to_kernel(transfer, Hold::UntilDone, done);
    }
    lp.submit(WorkClass::Files, transfer, Hold::UntilDone, done)
}
