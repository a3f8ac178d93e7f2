//! Pipes: anonymous ones, named ones, and descriptors from elsewhere that carry bytes.

use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use crate::driver::Interest;
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::handles::{Id, Kind};
use crate::stream::{open_descriptor, state_of, withdraw, Stream, StreamHandler, Unopened};
use crate::sys::{self, Held};

/// One end of a pipe, or another descriptor that is no socket and carries bytes: a [`Stream`].
///
/// Most pipes carry bytes in one direction. Reading an end that only writes is [`Code::ENOTCONN`],
/// as after the peer's end; writing one that only reads is [`Code::EPIPE`], as after
/// [`Stream::shutdown`]. A handler that reads by itself may be given to either: it reads where
/// there is something to read. An end that only writes is active, and so keeps the loop alive,
/// while writes are queued.
///
/// A reader that goes away is an error ([`Code::EPIPE`] to [`StreamHandler::on_error`]) at the next
/// write, and never the signal `SIGPIPE`, whatever the program does with that. [`Stream::shutdown`]
/// of an end that only writes closes its descriptor, which is how the reader hears of the end.
///
/// # Descriptors that others use too
///
/// Whether reading and writing wait is a property of the open file description, not of the
/// descriptor (open(2)): a shell's standard output that one process makes non-blocking is so for
/// all that inherited it. So for such descriptors there is [`Pipe::reopen`], which leaves them
/// alone where it can. Where it cannot, and with [`Pipe::adopt`], the description is changed, and
/// changed back when the handle closes or releases it. A process that is killed does not get to
/// that.
///
/// # Example
///
/// ```
/// use kolo::{Loop, Pipe, RunMode, Stream};
///
/// let lp = Loop::new()?;
/// let print = |lp: &Loop, reader: Stream, data: &[u8]| {
///     assert_eq!(data, b"through the pipe");
///     lp.close(reader).unwrap();
/// };
/// let (_reader, writer) = Pipe::pair(&lp, print, |_: &Loop, _: Stream, _: &[u8]| ())?;
/// writer.write(&lp, b"through the pipe")?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pipe(Stream);

/// Which way a pipe's end carries bytes, seen from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Direction {
    /// To this process: it is read.
    Read = 1,
    /// From this process: it is written.
    Write = 2,
}

impl Pipe {
    /// The handle's number, whatever its kind.
    pub const fn id(self) -> Id {
        self.0 .0
    }

    /// Names a pipe by its number. Whether it is one is seen when it is used: every operation on a
    /// handle of another kind gives [`Code::EBADF`].
    pub const fn from_id(id: Id) -> Pipe {
        Pipe(Stream(id))
    }

    /// A new anonymous pipe (pipe(2)), with both ends in this loop: the reading one, the writing
    /// one.
    ///
    /// Errors: [`Code::EMFILE`] and [`Code::ENFILE`] when descriptors are short,
    /// [`Code::ENOBUFS`] when the loop holds as many handles as it can.
    pub fn pair(
        lp: &Loop,
        reader: impl StreamHandler,
        writer: impl StreamHandler,
    ) -> Result<(Pipe, Pipe)> {
        Pipe::pair_boxed(lp, Box::new(reader), Box::new(writer))
    }

    pub(crate) fn pair_boxed(
        lp: &Loop,
        reader: Box<dyn StreamHandler>,
        writer: Box<dyn StreamHandler>,
    ) -> Result<(Pipe, Pipe)> {
        let [from, to] = sys::pipe()?;
        let opened = open(lp, to, Interest::WRITABLE, true, writer);
        let writer = opened.map_err(|(error, _end)| error)?;
        match open(lp, from, Interest::READABLE, true, reader) {
            Ok(reader) => Ok((reader, writer)),
            Err((error, _end)) => {
                withdraw(lp, writer.id());
                Err(error)
            }
        }
    }

    /// A new anonymous pipe with one end in this loop, which is read or written as `direction`
    /// says. The other end is the caller's, for a process or a thread: it waits in reading and
    /// writing, as programs expect it, and is not inherited until that is asked for (a child's
    /// standard stream, say).
    ///
    /// Errors: as [`Pipe::pair`].
    pub fn half(
        lp: &Loop,
        direction: Direction,
        handler: impl StreamHandler,
    ) -> Result<(Pipe, OwnedFd)> {
        Pipe::half_boxed(lp, direction, Box::new(handler))
    }

    pub(crate) fn half_boxed(
        lp: &Loop,
        direction: Direction,
        handler: Box<dyn StreamHandler>,
    ) -> Result<(Pipe, OwnedFd)> {
        let [from, to] = sys::pipe()?;
        let (ours, theirs, ways) = match direction {
            Direction::Read => (from, to, Interest::READABLE),
            Direction::Write => (to, from, Interest::WRITABLE),
        };
        let opened = open(lp, ours, ways, true, handler);
        Ok((opened.map_err(|(error, _end)| error)?, theirs))
    }

    /// Opens a named pipe (fifo(7)), which must exist.
    ///
    /// Reading, it opens at once, also before there is a writer; its end ([`StreamHandler::on_end`])
    /// comes when the last writer has gone. To serve writers that come and go, keep a writing end
    /// open too.
    ///
    /// Errors: [`Code::ENXIO`] for writing while there is no reader; [`Code::EINVAL`] for what is
    /// no named pipe; [`Code::ENOENT`], [`Code::EACCES`] and their like for the path;
    /// [`Code::EMFILE`] and [`Code::ENFILE`] when descriptors are short; [`Code::ENOBUFS`] when the
    /// loop holds as many handles as it can.
    pub fn open(
        lp: &Loop,
        path: impl AsRef<Path>,
        direction: Direction,
        handler: impl StreamHandler,
    ) -> Result<Pipe> {
        Pipe::open_boxed(lp, path.as_ref(), direction, Box::new(handler))
    }

    pub(crate) fn open_boxed(
        lp: &Loop,
        path: &Path,
        direction: Direction,
        handler: Box<dyn StreamHandler>,
    ) -> Result<Pipe> {
        let ways = match direction {
            Direction::Read => Interest::READABLE,
            Direction::Write => Interest::WRITABLE,
        };
        lp.can_insert()?;
        let end = sys::open_fifo(path, direction == Direction::Write)?;
        open(lp, end, ways, true, handler).map_err(|(error, _end)| error)
    }

    /// Takes over a descriptor from elsewhere: a pipe's end, a terminal, a stream socket. Which
    /// way it carries bytes is what it was opened for. From success on it is kolo's to close.
    ///
    /// The open file description does not block from then on, for whoever shares it, until the
    /// handle closes or releases it: see above. (A socket stays so.)
    ///
    /// Errors: [`Code::EPERM`] for what cannot be waited for, because it is always ready: regular
    /// files, folders, disks, and, if it is to be read, devices such as `/dev/null`;
    /// [`Code::EPROTOTYPE`] for a socket that keeps messages apart; [`Code::EBADF`] for a
    /// descriptor that is not open. It is dropped then: pass a duplicate to keep it.
    /// [`Code::EEXIST`] when a handle of kolo's has the descriptor already:
    /// [adopted twice](crate#descriptors-that-are-adopted-twice).
    pub fn adopt(
        lp: &Loop,
        descriptor: impl Into<OwnedFd>,
        handler: impl StreamHandler,
    ) -> Result<Pipe> {
        let descriptor = Held::adopt(descriptor.into())?;
        let adopted = Pipe::adopt_boxed(lp, descriptor, Box::new(handler));
        adopted.map_err(|(error, _descriptor)| error)
    }

    /// As [`Pipe::adopt`]; the descriptor comes back with an error.
    pub(crate) fn adopt_boxed(
        lp: &Loop,
        descriptor: Held<OwnedFd>,
        handler: Box<dyn StreamHandler>,
    ) -> std::result::Result<Pipe, Unopened> {
        match ways(descriptor.as_raw_fd()) {
            Ok(ways) => open(lp, descriptor, ways, false, handler),
            Err(error) => Err((error, Some(descriptor.into_inner()))),
        }
    }

    /// Opens what a descriptor of somebody else's refers to, such as the standard input or output,
    /// once more for kolo. The descriptor stays its owner's.
    ///
    /// On Linux an anonymous pipe or a terminal gets an open file description of kolo's own
    /// (through `/proc/self/fd`), and nobody is disturbed. Otherwise, also where `/proc` is not
    /// mounted or the permission is lacking, it is a duplicate, and what is said of [`Pipe::adopt`]
    /// holds.
    ///
    /// Errors: as [`Pipe::adopt`] but [`Code::EEXIST`]; [`Code::EMFILE`] when descriptors are short.
    pub fn reopen(lp: &Loop, descriptor: &impl AsFd, handler: impl StreamHandler) -> Result<Pipe> {
        let at = descriptor.as_fd();
        let reopened = Pipe::reopen_boxed(lp, at, Box::new(handler));
        reopened.map_err(|(error, _twin)| error)
    }

    pub(crate) fn reopen_boxed(
        lp: &Loop,
        descriptor: std::os::fd::BorrowedFd<'_>,
        handler: Box<dyn StreamHandler>,
    ) -> std::result::Result<Pipe, Unopened> {
        let ways = ways(descriptor.as_raw_fd()).map_err(|error| (error, None))?;
        if let Some(own) = sys::reopen(descriptor.as_raw_fd()) {
            return open(lp, own, ways, true, handler);
        }
        match descriptor.try_clone_to_owned() {
            Ok(twin) => open(lp, twin, ways, false, handler),
            Err(error) => Err((error.into(), None)),
        }
    }

    /// Hands the descriptor out and closes the handle, whose `on_close` comes as ever. Bytes that
    /// were not read yet are still in it. It blocks if it did when it came.
    ///
    /// Errors: [`Code::EBUSY`] while writes are queued; [`Code::ENOTCONN`] after a shutdown that
    /// closed it; [`Code::EBADF`] for a closed pipe.
    pub fn release(self, lp: &Loop) -> Result<OwnedFd> {
        let object = self.0.release_object(lp, Kind::Pipe)?;
        object.into_descriptor().ok_or(Code::ENOTCONN.into())
    }

    /// The descriptor, to look at or to set options that kolo has not. It stays kolo's: do not
    /// close it, nor change whether it blocks.
    ///
    /// Errors: [`Code::ENOTCONN`] after a shutdown that closed it, [`Code::EBADF`] for a closed
    /// pipe.
    pub fn raw_descriptor(self, lp: &Loop) -> Result<sys::Descriptor> {
        let mut core = lp.core()?;
        state_of(&mut core.handles, self.id(), Kind::Pipe)?
            .source
            .show()
    }
}

/// What a descriptor was opened for.
pub(super) fn ways(descriptor: sys::Descriptor) -> Result<Interest> {
    let (reads, writes) = sys::access(descriptor)?;
    let mut ways = Interest::empty();
    ways.set(Interest::READABLE, reads);
    ways.set(Interest::WRITABLE, writes);
    Ok(ways)
}

fn open(
    lp: &Loop,
    descriptor: impl Into<Held<OwnedFd>>,
    ways: Interest,
    sole: bool,
    handler: Box<dyn StreamHandler>,
) -> std::result::Result<Pipe, Unopened> {
    open_descriptor(lp, descriptor, Kind::Pipe, ways, sole, handler).map(Pipe)
}

impl From<Pipe> for Id {
    fn from(pipe: Pipe) -> Id {
        pipe.id()
    }
}

impl From<Pipe> for Stream {
    fn from(pipe: Pipe) -> Stream {
        pipe.0
    }
}

impl Deref for Pipe {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.0
    }
}
