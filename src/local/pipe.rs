//! Pipes: anonymous ones, and descriptors from elsewhere that carry bytes.

use std::ops::Deref;
use std::os::fd::OwnedFd;

use crate::driver::Interest;
use crate::error::Result;
use crate::event_loop::Loop;
use crate::handles::{Id, Kind};
use crate::stream::{open_descriptor, Stream, StreamHandler, Unopened};
use crate::sys;

/// One end of a pipe, or another descriptor that is no socket and carries bytes: a [`Stream`].
///
/// Most pipes carry bytes in one direction. Reading an end that only writes is
/// [`Code::ENOTCONN`](crate::Code::ENOTCONN), as after the peer's end; writing one that only reads
/// is [`Code::EPIPE`](crate::Code::EPIPE), as after [`Stream::shutdown`]. A handler that reads by
/// itself may be given to either: it reads where there is something to read.
///
/// A reader that goes away is an error ([`Code::EPIPE`](crate::Code::EPIPE) to
/// [`StreamHandler::on_error`]) at the next write, and never the signal `SIGPIPE`, whatever the
/// program does with that. [`Stream::shutdown`] of an end that only writes closes its descriptor,
/// which is how the reader hears of the end.
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

impl Pipe {
    /// The handle's number, whatever its kind.
    pub const fn id(self) -> Id {
        self.0 .0
    }

    /// Names a pipe by its number. Whether it is one is seen when it is used: every operation on a
    /// handle of another kind gives [`Code::EBADF`](crate::Code::EBADF).
    pub const fn from_id(id: Id) -> Pipe {
        Pipe(Stream(id))
    }

    /// A new anonymous pipe (pipe(2)), with both ends in this loop: the reading one, the writing
    /// one.
    ///
    /// Errors: [`Code::EMFILE`](crate::Code::EMFILE) and [`Code::ENFILE`](crate::Code::ENFILE)
    /// when descriptors are short, [`Code::ENOBUFS`](crate::Code::ENOBUFS) when the loop holds as
    /// many handles as it can.
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
        let opened = Pipe::open(lp, to, Interest::WRITABLE, true, writer);
        let writer = opened.map_err(|(error, _end)| error)?;
        match Pipe::open(lp, from, Interest::READABLE, true, reader) {
            Ok(reader) => Ok((reader, writer)),
            Err((error, _end)) => {
                crate::stream::withdraw(lp, writer.id());
                Err(error)
            }
        }
    }

    pub(crate) fn open(
        lp: &Loop,
        descriptor: OwnedFd,
        ways: Interest,
        sole: bool,
        handler: Box<dyn StreamHandler>,
    ) -> std::result::Result<Pipe, Unopened> {
        open_descriptor(lp, descriptor, Kind::Pipe, ways, sole, handler).map(Pipe)
    }
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
