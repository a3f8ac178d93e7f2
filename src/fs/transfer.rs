//! Reading and writing: at once where that need not wait, on the pool otherwise.
//!
//! What the kernel has in memory is read on the loop's thread, with a call that would rather do nothing
//! than wait for a disk (preadv2(2) with RWF_NOWAIT): half a microsecond, where the way to a thread and
//! back takes ten. Its outcome is told in the next deferred phase, like every other.

use std::sync::Arc;

use super::open_file::OpenFile;
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
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

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
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

    /// As far as it goes without waiting; whether it is over.
    fn at_once(&mut self, lp: &Loop) -> bool {
        let Some(file) = &self.file else { return true };
        let length = self.memory.length();
        let left = lp.at_once_left.get();
        let cost = length.max(AT_ONCE_MIN);
        if self.at == Position::Current || length > AT_ONCE_MAX || cost > left {
            return false;
        }
        let reads = self.direction == Direction::Read;
        let can = if reads {
            file.can_read_now()
        } else {
            file.can_write_now()
        };
        if !can {
            return false;
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
                Now::Bytes(0) | Now::Waits => return false,
                Now::Bytes(bytes) => self.done += bytes,
                Now::Unknown if reads => {
                    file.cannot_read_now();
                    return false;
                }
                Now::Unknown => {
                    file.cannot_write_now();
                    return false;
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
        true
    }

    /// The rest of it, however long that takes. At a position: all of it, or until the file ends. Where
    /// the position is the file's own, what one call brings: that may be a pipe.
    pub fn finish(&mut self) {
        let Some(file) = &self.file else { return };
        while self.done < self.memory.length() {
            let at = self.at.after(self.done);
            let moved = match self.direction {
                Direction::Read => sys::fs::read(file.file(), &self.memory, self.done, at),
                Direction::Write => sys::fs::write(file.file(), &self.memory, self.done, at),
            };
            match (moved, self.direction) {
                (Ok(0), Direction::Read) => break,
                (Ok(0), Direction::Write) => {
                    self.outcome = Err(Code::EIO.into());
                    break;
                }
                (Ok(bytes), direction) => {
                    self.done += bytes;
                    if direction == Direction::Read && self.at == Position::Current {
                        break;
                    }
                }
                (Err(error), _) => {
                    self.outcome = Err(error.into());
                    break;
                }
            }
        }
        self.let_go();
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
}

/// Makes a transfer, wherever it is best made.
pub(crate) fn submit(
    lp: &Loop,
    mut transfer: Transfer,
    done: impl FnOnce(&Loop, Request, Result<Transfer>) + 'static,
) -> Result<Request> {
    lp.can_insert()?;
    if transfer.at_once(lp) {
        transfer.let_go();
        return lp.submit_done(Ok(transfer), done);
    }
    let done = |lp: &Loop, request: Request, outcome: Result<Box<Transfer>>| {
        done(lp, request, outcome.map(|transfer| *transfer));
    };
    lp.submit(WorkClass::Files, transfer, Hold::UntilDone, done)
}
