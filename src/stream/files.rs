//! Files in a stream's write queue: sent by the kernel from its memory, never through ours, where that
//! can be done without waiting for a disk.
//!
//! The queue goes on to the next bytes of a file in one of three ways:
//!
//! - what the kernel has in memory is sent by the driver ([`Driver::send_file`]);
//! - what is short, or cannot be sent that way, is read and then sent like other bytes, together with
//!   those before and behind it;
//! - what would have to be waited for is read by the pool, while the loop does other things.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::sending::{defer, drain, fail, gathered_by, writable};
use super::{refresh_active, state, Flow, Stream, WriteCallback, WriteId};
use crate::driver::{Driver, FileSent};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::fs::{File, OpenFile, SentFile};
use crate::handles::Id;
use crate::pool::{Job, WorkClass};
use crate::request::{Hold, Request};
use crate::sys;
use crate::sys::fs::{Memory, Now, Position};

/// What is sent of a file by one call: so much may have to be read from a disk after all, if it was not
/// all in memory.
const STEP: usize = 256 * 1024;

/// What is read before it is sent, so that it goes together with the bytes around it. Copying this much
/// costs no more than the calls that are saved.
const SHORT: usize = 16 * 1024;

/// What is read by the pool at a time: what a slow peer and a slow disk together cost in memory.
const PIECE: usize = 128 * 1024;

/// Files that one stream may have in its queue. They cost no memory to speak of, but each holds a
/// descriptor.
const FILES_MAX: usize = 256;

/// Whether bytes are being brought from the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fetch {
    No,
    /// To be asked of the pool when the stream's events are told.
    Wanted,
    UnderWay,
}

/// A piece of a file that is to be sent.
pub(crate) struct FileWrite {
    pub id: u64,
    file: Arc<OpenFile>,
    /// The next byte that is neither sent nor read.
    offset: u64,
    /// Bytes from there on.
    left: u64,
    /// To the end, wherever that is.
    to_end: bool,
    /// Bytes that were read and are sent from memory.
    pub memory: Vec<u8>,
    /// The kernel cannot send from this file, or not to this stream.
    only_memory: bool,
    fetch: Fetch,
    /// Bytes that the system has taken; shared with whoever tells it.
    sent: Rc<Cell<u64>>,
    pub done: Option<WriteCallback>,
}

/// What is to be done about a file at the queue's front, whose memory is empty.
enum Next {
    /// There is something in memory now, or the file is at its end.
    Look,
    Send(usize),
    Wait,
}

impl FileWrite {
    /// Whether bytes are left beyond those in memory.
    pub fn has_more(&self) -> bool {
        self.left > 0
    }

    pub fn took(&mut self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    pub fn has_begun(&self) -> bool {
        self.sent.get() > 0
    }

    pub fn is_fetching(&self) -> bool {
        self.fetch != Fetch::No
    }

    fn next(&mut self) -> Result<Next> {
        if self.is_fetching() {
            return Ok(Next::Wait);
        }
        if !self.file.can_read_now() {
            self.fetch = Fetch::Wanted;
            return Ok(Next::Wait);
        }
        let length = usize::try_from(self.left).unwrap_or(STEP).min(STEP);
        if self.only_memory || length <= SHORT {
            return self.read_now(length.min(PIECE));
        }
        // What is between the two is nearly always there when they are.
        for at in [self.offset, self.offset + length as u64 - 1] {
            match sys::fs::is_cached(self.file.file(), at) {
                Now::Bytes(1..) => self.file.has_read_now(),
                // Shorter than that; so it is read, and the end found.
                Now::Bytes(0) => return self.read_now(PIECE.min(length)),
                now => return self.cannot(now),
            }
        }
        Ok(Next::Send(length))
    }

    /// Has a short piece at hand, if that can be, so that it goes together with what was gathered before.
    fn load_short(&mut self) {
        let short = usize::try_from(self.left).is_ok_and(|left| (1..=SHORT).contains(&left));
        // Whatever else comes of it is met, and told, when it is its turn.
        if short && self.file.can_read_now() {
            let memory = Memory::to_fill(exactly(self.left as usize));
            let at = Position::At(self.offset);
            if let Now::Bytes(bytes @ 1..) = sys::fs::read_now(self.file.file(), &memory, 0, at) {
                self.file.has_read_now();
                self.went_on(bytes);
                self.memory = memory.into_filled(bytes);
            }
        }
    }

    /// Reads what can be read without waiting.
    fn read_now(&mut self, length: usize) -> Result<Next> {
        let memory = Memory::to_fill(exactly(length));
        match sys::fs::read_now(self.file.file(), &memory, 0, Position::At(self.offset)) {
            Now::Bytes(bytes) => {
                self.file.has_read_now();
                self.found(memory.into_filled(bytes))?;
                Ok(Next::Look)
            }
            now => self.cannot(now),
        }
    }

    fn cannot(&mut self, now: Now) -> Result<Next> {
        match now {
            Now::Failed(error) => return Err(error.into()),
            Now::Unknown => self.file.cannot_read_now(),
            Now::Waits | Now::Bytes(_) => {}
        }
        self.fetch = Fetch::Wanted;
        Ok(Next::Wait)
    }

    /// These are the next bytes: none at the end of the file.
    fn found(&mut self, bytes: Vec<u8>) -> Result<()> {
        if bytes.is_empty() {
            return self.ended();
        }
        self.went_on(bytes.len());
        self.memory = bytes;
        Ok(())
    }

    fn went_on(&mut self, bytes: usize) {
        self.offset += bytes as u64;
        self.left = self.left.saturating_sub(bytes as u64);
    }

    /// The file is at its end.
    fn ended(&mut self) -> Result<()> {
        if !self.to_end && self.left > 0 {
            return Err(Code::ENODATA.into());
        }
        self.left = 0;
        Ok(())
    }
}

fn exactly(length: usize) -> Vec<u8> {
    let mut memory = Vec::new();
    memory.reserve_exact(length);
    memory
}

/// Sends from the file at the front of the queue; how many bytes, or `None` when it has to wait.
///
/// An error is the file's, or the stream's: either way no more can be sent that means anything.
pub(super) fn send(core: &mut Core, id: Id) -> Result<Option<usize>> {
    let stream = state(&mut core.handles, id)?;
    let Some(writes) = &mut stream.writes else {
        return Ok(None);
    };
    let Some(write) = writes.next_file() else {
        return Ok(None);
    };
    let length = match write.next() {
        Ok(Next::Look) => return Ok(Some(0)),
        Ok(Next::Send(length)) => length,
        Ok(Next::Wait) => {
            if write.fetch == Fetch::Wanted {
                defer(core, id);
            }
            return Ok(None);
        }
        Err(error) => return Err(cut_off(core, id, error)),
    };
    let (file, offset) = (write.file.clone(), write.offset);
    let sent = core
        .driver
        .send_file(id, &mut stream.source, file.file(), offset, length);
    match sent {
        Ok(FileSent::Bytes(bytes)) => {
            write.went_on(bytes);
            write.took(bytes);
            writes.last_progress = 0;
            Ok(Some(bytes))
        }
        Ok(FileSent::Full) => Ok(None),
        Ok(FileSent::Unable) => {
            write.only_memory = true;
            Ok(Some(0))
        }
        Ok(FileSent::End) => match write.ended() {
            Ok(()) => Ok(Some(0)),
            Err(error) => Err(cut_off(core, id, error)),
        },
        Err(error) => Err(cut_off(core, id, error)),
    }
}

/// A file could not be sent whole: the peer must see that, and not an orderly end.
fn cut_off(core: &mut Core, id: Id, error: Error) -> Error {
    if let Ok(stream) = state(&mut core.handles, id) {
        if let Ok(endpoint) = core.driver.endpoint(&stream.source) {
            // As `Stream::reset`. Where there is no such thing, closing is all that can be done.
            let _ = endpoint.set_reset_on_close(true);
        }
    }
    error
}

fn queue(core: &mut Core, id: Id, mut write: FileWrite) -> Result<Flow> {
    let gathered = gathered_by(core, id);
    let stream = writable(&mut core.handles, id, 0, gathered)?;
    let must_queue = stream.must_queue();
    let files = stream.writes.as_ref().map_or(0, |writes| writes.files());
    if files >= FILES_MAX {
        return Err(Code::ENOBUFS.into());
    }
    if !must_queue {
        write.load_short();
    }
    // Without gathered bytes the stream may still be the one that is sent for when the callback
    // returns, because of an owned write before the file.
    let before = match gathered {
        0 => Vec::new(),
        _ => core.gathered.take_of(id),
    };
    let writes = state(&mut core.handles, id)?.writes();
    if !writes.is_waiting() {
        writes.last_progress = 0;
    }
    if !before.is_empty() {
        writes.push_vec(before);
    }
    writes.push_file(write);
    if !must_queue {
        drain(core, id);
    }
    refresh_active(core, id);
    Ok(state(&mut core.handles, id)?.flow())
}

impl Stream {
    /// Sends `length` bytes of a file from `offset` on, in the order of the writes, and calls `done` when the
    /// system has taken them. `u64::MAX` bytes: to its end.
    ///
    /// What the kernel has in memory does not pass through the program (sendfile(2)); what has to come from
    /// a disk is read by the loop's [pool](crate::Pool), so that the loop does not wait. The bytes count for
    /// neither [`Stream::queued`] nor the watermarks: they cost no memory but for at most 128 KiB of what was
    /// read ahead. A peer that does not take them is what the write-stall timeout is for, which rests while
    /// a disk is waited for.
    ///
    /// The file may be closed at once; what is under way is still sent. [`Stream::cancel_write`] takes it
    /// back as long as nothing of it is sent.
    ///
    /// When the file becomes shorter, or cannot be read, before all is sent, the stream fails: `done` hears
    /// [`Code::ENODATA`], or why it cannot be read, and how many bytes were sent; and so does
    /// [`StreamHandler::on_error`](super::StreamHandler::on_error). The connection is then reset, where there is such a thing, so that a part
    /// never looks like the whole.
    ///
    /// Errors: as [`Stream::write`]; [`Code::EBADF`] for a closed file, or one that is not open for reading;
    /// [`Code::EINVAL`] for a range that no file has; [`Code::ENOBUFS`] when 256 files are queued. Then `done` is not
    /// called.
    pub fn send_file(
        self,
        lp: &Loop,
        file: File,
        offset: u64,
        length: u64,
        done: impl FnOnce(&Loop, Stream, SentFile) + 'static,
    ) -> Result<(Flow, WriteId)> {
        let opened = file.opened(lp)?;
        if !opened.can_be_read() {
            return Err(Code::EBADF.into());
        }
        let to_end = length == u64::MAX;
        let left = match to_end {
            true => (i64::MAX as u64).saturating_sub(offset),
            false => length,
        };
        let end = offset.checked_add(left);
        if offset > i64::MAX as u64 || end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(Code::EINVAL.into());
        }
        let sent = Rc::new(Cell::new(0));
        let told = sent.clone();
        let done: WriteCallback = Box::new(move |lp, stream, outcome| {
            done(
                lp,
                stream,
                SentFile {
                    length: told.get(),
                    outcome,
                },
            );
        });
        let mut core = lp.core()?;
        let id = core.last_write + 1;
        let write = FileWrite {
            id,
            file: opened,
            offset,
            left,
            to_end,
            memory: Vec::new(),
            only_memory: false,
            fetch: Fetch::No,
            sent,
            done: Some(done),
        };
        let flow = queue(&mut core, self.0, write)?;
        core.last_write = id;
        Ok((flow, WriteId(id)))
    }
}

impl Loop {
    /// Asks the pool for what the queue waits for, if it does.
    pub(super) fn begin_fetch(&self, id: Id) {
        let fetching = {
            let core = &mut *self.core.borrow_mut();
            let Ok(stream) = state(&mut core.handles, id) else {
                return;
            };
            let front = stream.writes.as_mut();
            let Some(write) = front.and_then(|writes| writes.next_file()) else {
                return;
            };
            if write.fetch != Fetch::Wanted {
                return;
            }
            write.fetch = Fetch::UnderWay;
            let length = usize::try_from(write.left).unwrap_or(PIECE).min(PIECE);
            Fetching {
                write: write.id,
                file: Some(write.file.clone()),
                offset: write.offset,
                outcome: Ok(exactly(length)),
            }
        };
        let again = fetching.again();
        let write = fetching.write;
        let done = move |lp: &Loop, _: Request, outcome: Result<Box<Fetching>>| {
            lp.fetched(id, write, outcome.and_then(|fetching| fetching.outcome));
        };
        match self.submit(WorkClass::Files, fetching, Hold::MayAbandon, done) {
            Ok(request) => {
                let mut core = self.core.borrow_mut();
                core.handles.hide(request.0);
                // What keeps the loop alive is the stream.
                core.set_referenced(request.0, false);
            }
            // Rather slow than not at all.
            Err(_) => {
                let mut fetching = again;
                fetching.run();
                self.fetched(id, write, fetching.outcome);
            }
        }
    }

    fn fetched(&self, id: Id, which: u64, outcome: Result<Vec<u8>>) {
        let core = &mut *self.core.borrow_mut();
        let Ok(stream) = state(&mut core.handles, id) else {
            return;
        };
        let Some(writes) = &mut stream.writes else {
            return;
        };
        let Some(write) = writes.next_file() else {
            return; // taken back
        };
        if write.id != which || write.fetch != Fetch::UnderWay {
            return;
        }
        write.fetch = Fetch::No;
        let outcome = match outcome {
            Ok(bytes) => write.found(bytes),
            // In a forked child: the thread is the parent's.
            Err(error) if error.code() == Code::ECANCELED => Ok(()),
            Err(error) => Err(error),
        };
        writes.last_progress = 0;
        match outcome {
            Ok(()) => drain(core, id),
            Err(error) => {
                let error = cut_off(core, id, error);
                fail(core, id, error);
            }
        }
    }
}

/// Bytes of a file on their way from the disk.
struct Fetching {
    write: u64,
    file: Option<Arc<OpenFile>>,
    offset: u64,
    /// Before it runs: room for as much as is wanted.
    outcome: Result<Vec<u8>>,
}

impl Fetching {
    fn again(&self) -> Fetching {
        let room = self.outcome.as_ref().map_or(0, Vec::capacity);
        Fetching {
            write: self.write,
            file: self.file.clone(),
            offset: self.offset,
            outcome: Ok(exactly(room)),
        }
    }
}

impl Job for Fetching {
    fn run(&mut self) {
        let (Some(file), Ok(room)) = (self.file.take(), &mut self.outcome) else {
            return;
        };
        let memory = Memory::to_fill(std::mem::take(room));
        let mut done = 0;
        self.outcome = loop {
            let at = Position::At(self.offset).after(done);
            match sys::fs::read(file.file(), &memory, done, at) {
                Ok(0) => break Ok(memory.into_filled(done)),
                Ok(bytes) => done += bytes,
                // What was read before it is sent, and then it is met again.
                Err(_) if done > 0 => break Ok(memory.into_filled(done)),
                Err(error) => break Err(error.into()),
            }
            if done == memory.length() {
                break Ok(memory.into_filled(done));
            }
        };
    }
}
