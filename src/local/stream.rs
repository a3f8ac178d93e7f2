//! Unix-domain stream sockets.

use std::ops::Deref;

use crate::driver::Interest;
use crate::error::Result;
use crate::event_loop::Loop;
use crate::handles::{Id, Kind};
use crate::stream::{open_descriptor, withdraw, Stream, StreamHandler};
use crate::sys;

/// A connected Unix-domain stream socket (unix(7)): a [`Stream`], whose operations it has, and
/// more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalStream(Stream);

impl LocalStream {
    /// The handle's number, whatever its kind.
    pub const fn id(self) -> Id {
        self.0 .0
    }

    /// Names a connection by its number. Whether it is one is seen when it is used: every
    /// operation on a handle of another kind gives [`Code::EBADF`](crate::Code::EBADF).
    pub const fn from_id(id: Id) -> LocalStream {
        LocalStream(Stream(id))
    }

    /// Two connected streams of this loop (socketpair(2)).
    ///
    /// Errors: [`Code::EMFILE`](crate::Code::EMFILE) and [`Code::ENFILE`](crate::Code::ENFILE)
    /// when descriptors are short, [`Code::ENOBUFS`](crate::Code::ENOBUFS) when the loop holds as
    /// many handles as it can.
    pub fn pair(
        lp: &Loop,
        one: impl StreamHandler,
        other: impl StreamHandler,
    ) -> Result<(LocalStream, LocalStream)> {
        LocalStream::pair_boxed(lp, Box::new(one), Box::new(other))
    }

    pub(crate) fn pair_boxed(
        lp: &Loop,
        one: Box<dyn StreamHandler>,
        other: Box<dyn StreamHandler>,
    ) -> Result<(LocalStream, LocalStream)> {
        let ways = Interest::READABLE | Interest::WRITABLE;
        let [first, second] = sys::socketpair()?;
        let opened = open_descriptor(lp, first.into(), Kind::Local, ways, true, one);
        let first = opened.map_err(|(error, _end)| error)?;
        match open_descriptor(lp, second.into(), Kind::Local, ways, true, other) {
            Ok(second) => Ok((LocalStream(first), LocalStream(second))),
            Err((error, _end)) => {
                withdraw(lp, first.0);
                Err(error)
            }
        }
    }
}

impl From<LocalStream> for Id {
    fn from(local: LocalStream) -> Id {
        local.id()
    }
}

impl From<LocalStream> for Stream {
    fn from(local: LocalStream) -> Stream {
        local.0
    }
}

impl Deref for LocalStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.0
    }
}
