//! Unix-domain stream sockets: making them, adopting them, who is at the other end.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::name::LocalName;
use crate::driver::{Driver, Interest, Source};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Handles, Id, Kind};
use crate::stream::{open_descriptor, state_of, withdraw, Stream, StreamHandler, StreamState};
use crate::sys::{self, Descriptor, Held};
use crate::timers::TimerKey;

/// How [`LocalStream::connect_with`] connects. `..Default::default()` leaves the rest as it is.
#[derive(Clone, Debug, Default)]
pub struct LocalConnectOptions {
    /// How long the connection may take to be made, until [`Code::ETIMEDOUT`]; `None`: for ever.
    /// It only takes time while the listener's backlog is full.
    pub timeout: Option<Duration>,
}

/// Who is at the other end of a connection: the process that made it, or that listened, as they
/// were then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerCredentials {
    /// The process, where the system tells it (Linux, macOS), and if it is visible from here. It
    /// may have ended since, and its number be another's.
    pub process: Option<i32>,
    /// The effective user.
    pub user: u32,
    /// The effective group.
    pub group: u32,
}

/// A Unix-domain stream connection (unix(7)): a [`Stream`], whose operations it has, and more.
///
/// # Example
///
/// ```
/// use kolo::{LocalStream, Loop, RunMode, Stream};
///
/// let lp = Loop::new()?;
/// let greeted = |lp: &Loop, stream: Stream, data: &[u8]| {
///     assert_eq!(data, b"hello");
///     lp.close(stream).unwrap();
/// };
/// let (one, _other) = LocalStream::pair(&lp, |_: &Loop, _: Stream, _: &[u8]| (), greeted)?;
/// one.write(&lp, b"hello")?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalStream(pub(super) Stream);

impl LocalStream {
    /// The handle's number, whatever its kind.
    pub const fn id(self) -> Id {
        self.0 .0
    }

    /// Names a connection by its number. Whether it is one is seen when it is used: every
    /// operation on a handle of another kind gives [`Code::EBADF`].
    pub const fn from_id(id: Id) -> LocalStream {
        LocalStream(Stream(id))
    }

    /// Connects to `name` with default options: see [`LocalStream::connect_with`].
    ///
    /// Errors: as there.
    pub fn connect(
        lp: &Loop,
        name: impl Into<LocalName>,
        handler: impl StreamHandler,
    ) -> Result<LocalStream> {
        LocalStream::connect_with(lp, name, &LocalConnectOptions::default(), handler)
    }

    /// Connects to who listens at `name`. [`StreamHandler::on_open`] comes when the connection is
    /// made; until then writes are queued. What the system says against it comes to
    /// [`StreamHandler::on_error`]: [`Code::ENOENT`] when there is no such name,
    /// [`Code::ECONNREFUSED`] when nobody listens there, [`Code::EACCES`], [`Code::EPROTOTYPE`] for
    /// a socket of another type.
    ///
    /// While the listener's backlog is full it is tried again, at first after a millisecond, then
    /// after ever longer, up to 64 of them.
    ///
    /// Errors: [`Code::ENAMETOOLONG`] (see [`LocalName`]); [`Code::EINVAL`] for no name, or a path
    /// with a zero byte; [`Code::ENOTSUP`] for an abstract name where there are none;
    /// [`Code::EMFILE`] and [`Code::ENFILE`] when descriptors are short; [`Code::ENOBUFS`] when the
    /// loop holds as many handles as it can.
    pub fn connect_with(
        lp: &Loop,
        name: impl Into<LocalName>,
        options: &LocalConnectOptions,
        handler: impl StreamHandler,
    ) -> Result<LocalStream> {
        LocalStream::connect_boxed(lp, &name.into(), options, Box::new(handler))
    }

    pub(crate) fn connect_boxed(
        lp: &Loop,
        name: &LocalName,
        options: &LocalConnectOptions,
        handler: Box<dyn StreamHandler>,
    ) -> Result<LocalStream> {
        lp.needs_kernel()?;
        let address = name.to_address()?;
        let mut stream = StreamState::new(Source::of_local(sys::local_socket()?), Kind::Local);
        stream.begin_connecting();
        let local = LocalStream::from_id(lp.insert(Body::Stream(stream))?);
        local.attach_boxed(lp, handler)?;
        let mut core = lp.core()?;
        core.handles.set_active(local.id(), true);
        let now = lp.fresh_clock(&mut core);
        let timeout = options.timeout.map(crate::timer::nanoseconds);
        let connecting = Connecting {
            address,
            deadline: timeout.map_or(u64::MAX, |timeout| now.saturating_add(timeout)),
            pause: RETRY_MIN,
        };
        if let Err(error) = try_to_connect(&mut core, local.id(), connecting) {
            drop(core);
            local.fail(lp, error)?;
        }
        Ok(local)
    }

    /// Two connected streams of this loop (socketpair(2)).
    ///
    /// Errors: [`Code::EMFILE`] and [`Code::ENFILE`] when descriptors are short,
    /// [`Code::ENOBUFS`] when the loop holds as many handles as it can.
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
        let opened = open_descriptor(lp, OwnedFd::from(first), Kind::Local, ways, true, one);
        let first = opened.map_err(|(error, _end)| error)?;
        match open_descriptor(lp, OwnedFd::from(second), Kind::Local, ways, true, other) {
            Ok(second) => Ok((LocalStream(first), LocalStream(second))),
            Err((error, _end)) => {
                withdraw(lp, first.0);
                Err(error)
            }
        }
    }

    /// Takes over a connected socket from elsewhere. From success on it is kolo's to close.
    ///
    /// Errors: [`Code::EBADF`] for a descriptor that is not open, [`Code::ENOTSOCK`] for one that
    /// is no socket, [`Code::EAFNOSUPPORT`] for one that is not of the Unix domain,
    /// [`Code::EPROTOTYPE`] for one that keeps messages apart, [`Code::ENOTCONN`] for one that is
    /// not connected. It is dropped then: pass a duplicate to keep it. [`Code::EEXIST`] when a handle
    /// of kolo's has the descriptor already: [adopted twice](crate#descriptors-that-are-adopted-twice).
    pub fn adopt(
        lp: &Loop,
        socket: impl Into<Socket>,
        handler: impl StreamHandler,
    ) -> Result<LocalStream> {
        let socket = Held::adopt(socket.into())?;
        let adopted = LocalStream::adopt_boxed(lp, socket, Box::new(handler));
        adopted.map_err(|(error, _socket)| error)
    }

    /// As [`LocalStream::adopt`]; the socket comes back with an error.
    pub(crate) fn adopt_boxed(
        lp: &Loop,
        socket: Held<Socket>,
        handler: Box<dyn StreamHandler>,
    ) -> std::result::Result<LocalStream, (Error, Option<Socket>)> {
        if let Err(error) = is_local(&socket).and_then(|()| Ok(socket.peer_addr()?)) {
            return Err((error, Some(socket.into_inner())));
        }
        let ways = Interest::READABLE | Interest::WRITABLE;
        let socket = socket.map(OwnedFd::from);
        match open_descriptor(lp, socket, Kind::Local, ways, false, handler) {
            Ok(stream) => Ok(LocalStream(stream)),
            Err((error, socket)) => Err((error, socket.map(Socket::from))),
        }
    }

    /// Hands the socket out and closes the handle, whose `on_close` comes as ever. The socket
    /// does not block; bytes that were not read yet are still in it. Received descriptors that were
    /// not taken are closed.
    ///
    /// Errors: [`Code::EBUSY`] while writes are queued or the connection is being made, and in
    /// [`StreamHandler::on_descriptors`], since the bytes that the descriptors came with are still to
    /// be told; [`Code::EBADF`] for a closed stream.
    pub fn release(self, lp: &Loop) -> Result<Socket> {
        let object = self.0.release_object(lp, Kind::Local)?;
        object.into_socket().ok_or(Code::ENOTCONN.into())
    }

    /// Who is at the other end. With a pair: who made it.
    ///
    /// Errors: [`Code::ENOTCONN`] while the connection is being made; [`Code::ENOTSUP`] where the
    /// system does not tell; [`Code::EBADF`] for a closed stream.
    pub fn peer_credentials(self, lp: &Loop) -> Result<PeerCredentials> {
        self.with_socket(lp, |socket| {
            let (process, user, group) = sys::peer_credentials(socket)?;
            Ok(PeerCredentials {
                process,
                user,
                group,
            })
        })
    }

    /// The name of this end: the listener's, for an accepted stream; for others usually none.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn name(self, lp: &Loop) -> Result<LocalName> {
        self.with_socket(lp, |socket| {
            Ok(LocalName::of_address(&socket.local_addr()?))
        })
    }

    /// The name of the other end: the listener's, for a stream that connected; for others usually
    /// none.
    ///
    /// Errors: [`Code::ENOTCONN`] while the connection is being made, [`Code::EBADF`] for a closed
    /// stream.
    pub fn peer_name(self, lp: &Loop) -> Result<LocalName> {
        self.with_socket(lp, |socket| Ok(LocalName::of_address(&socket.peer_addr()?)))
    }

    /// The sizes of the kernel's buffers in bytes; `None` leaves one as it is. The system may
    /// give more or less. (On Linux what one end may have under way to the other is its send
    /// buffer.)
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn set_buffers(self, lp: &Loop, send: Option<u32>, receive: Option<u32>) -> Result<()> {
        self.with_socket(lp, |socket| {
            if let Some(bytes) = send {
                socket.set_send_buffer_size(bytes as usize)?;
            }
            if let Some(bytes) = receive {
                socket.set_recv_buffer_size(bytes as usize)?;
            }
            Ok(())
        })
    }

    /// The socket's descriptor, to look at or to set options that kolo has not. It stays kolo's:
    /// do not close it, nor change whether it blocks.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn raw_socket(self, lp: &Loop) -> Result<Descriptor> {
        state(&mut lp.core()?.handles, self)?.source.show()
    }

    fn with_socket<R>(self, lp: &Loop, run: impl FnOnce(&Socket) -> Result<R>) -> Result<R> {
        let mut core = lp.core()?;
        run(state(&mut core.handles, self)?.source.socket()?)
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

pub(super) fn state(handles: &mut Handles, local: LocalStream) -> Result<&mut StreamState> {
    state_of(handles, local.id(), Kind::Local)
}

/// An error unless it is a Unix-domain stream socket.
pub(super) fn is_local(socket: &Socket) -> Result<()> {
    let of_type = socket.r#type()?;
    let family = socket.local_addr()?.family();
    if Domain::from(i32::from(family)) != Domain::UNIX {
        return Err(Code::EAFNOSUPPORT.into());
    }
    if of_type != Type::STREAM {
        return Err(Code::EPROTOTYPE.into());
    }
    Ok(())
}

/// The first pause before a full backlog is tried again; then twice that, up to [`RETRY_MAX`].
const RETRY_MIN: u64 = 1_000_000;
/// Long enough that thousands who wait cost nothing, short enough that nobody notices.
const RETRY_MAX: u64 = 64_000_000;

/// A connect that goes on.
pub(crate) struct Connecting {
    address: SockAddr,
    deadline: u64,
    /// Nanoseconds until the next attempt.
    pause: u64,
}

/// Connects; when the backlog is full (of which no event will tell), it is to be tried again.
fn try_to_connect(core: &mut Core, id: Id, mut connecting: Connecting) -> Result<()> {
    let Ok(Body::Stream(stream)) = core.handles.get_mut(id).map(|entry| &mut entry.body) else {
        return Err(Code::EBADF.into());
    };
    let outcome = core
        .driver
        .connect(id, &mut stream.source, &connecting.address);
    let next = match outcome {
        Ok(()) => connecting.deadline,
        Err(error) if error.code() == Code::EAGAIN => {
            let next = core.now.saturating_add(connecting.pause);
            let next = next.min(connecting.deadline);
            connecting.pause = (connecting.pause * 2).min(RETRY_MAX);
            core.local.connecting.insert(id, connecting);
            next
        }
        Err(error) => return Err(error),
    };
    if next < u64::MAX {
        let entry = core.handles.get_mut(id)?;
        if entry.timer == TimerKey::NONE {
            entry.timer = core.wheel.add(id);
        }
        core.wheel.arm(entry.timer, next);
    }
    Ok(())
}

impl Loop {
    /// The timer of a connecting stream is due: whether another attempt was what it was for.
    pub(crate) fn local_connect_again(&self, id: Id) -> bool {
        let outcome = {
            let mut core = self.core.borrow_mut();
            let Some(connecting) = core.local.connecting.remove(&id) else {
                return false;
            };
            if connecting.deadline <= core.now {
                return false;
            }
            try_to_connect(&mut core, id, connecting)
        };
        if let Err(error) = outcome {
            self.stream_failed(id, error);
        }
        true
    }
}
