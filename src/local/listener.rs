//! Listening for Unix-domain connections.

use std::time::Duration;

use socket2::Socket;

use super::name::LocalName;
use super::socket_file::{listen_at, Binding};
use super::stream::{is_local, LocalStream};
use crate::accept::{self, AcceptOptions, AcceptPolicy, Acceptor, BoxedAcceptor};
use crate::driver::Source;
#[allow(unused_imports)] // the documentation names it
use crate::error::Code;
use crate::error::{Error, Result};
use crate::event_loop::Loop;
use crate::handles::{Id, Kind};
use crate::sys::{self, Held};

/// How [`LocalListener::listen_with`] listens. `..Default::default()` leaves the rest as it is.
#[derive(Clone, Debug)]
pub struct LocalListenOptions {
    /// Connections that may wait to be accepted. The system may allow fewer (Linux:
    /// `net.core.somaxconn`).
    pub backlog: u32,
    /// The mode of the socket file, such as `0o600`; who may write to it may connect (on Linux; a
    /// folder that others may not enter keeps them out everywhere). `None`: `0o777` less the
    /// process's umask. It holds before the first can connect. Not for abstract names, to which
    /// everybody in the network namespace may connect.
    pub mode: Option<u32>,
    /// Takes the place of a socket file on which nobody listens, as a process leaves it that did
    /// not end in order. Never of one on which somebody does, nor of a file that is no socket:
    /// that stays [`Code::EADDRINUSE`].
    ///
    /// Whether somebody listens is found out by connecting, so a live listener sees a connection
    /// that ends at once. Two processes that do this at the same time do not disturb each other,
    /// by a lock on the folder (flock(2)), for which this waits up to a tenth of a second. What is
    /// left is a program that does not heed that lock, and whose socket is bound but does not
    /// listen yet at that moment: it loses its file.
    pub replace_stale: bool,
    /// Leaves the socket file when the listener closes. Otherwise it is removed then, if it is
    /// still the listener's own; never by a forked child.
    pub keep_file: bool,
    /// Connections accepted in one turn, at most.
    pub accepts_per_turn: u32,
    /// What to do when descriptors run out. Those whom [`AcceptPolicy::Reject`] turns away see the
    /// connection end.
    pub accept_policy: AcceptPolicy,
    /// The first pause after descriptors ran out.
    pub retry_min: Duration,
    /// The longest pause after descriptors ran out again and again.
    pub retry_max: Duration,
}

impl Default for LocalListenOptions {
    fn default() -> LocalListenOptions {
        LocalListenOptions {
            backlog: 1024,
            mode: None,
            replace_stale: false,
            keep_file: false,
            accepts_per_turn: 64,
            accept_policy: AcceptPolicy::Wait,
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_secs(1),
        }
    }
}

impl LocalListenOptions {
    fn accepting(&self) -> AcceptOptions {
        AcceptOptions {
            per_turn: self.accepts_per_turn,
            policy: self.accept_policy,
            retry_min: self.retry_min,
            retry_max: self.retry_max,
            nodelay: false,
        }
    }
}

/// What a listener does. A closure `FnMut(&Loop, LocalListener, LocalStream)` is a handler that
/// only has `on_accept`.
pub trait LocalListenerHandler: 'static {
    /// A connection came. Attach a [`StreamHandler`](crate::StreamHandler) to it here: a stream
    /// that has none when this returns is closed.
    fn on_accept(&mut self, lp: &Loop, listener: LocalListener, stream: LocalStream);

    /// A connection could not be accepted. The listener lives on, and tries again as its
    /// [`AcceptPolicy`] says.
    fn on_error(&mut self, _lp: &Loop, _listener: LocalListener, _error: Error) {}

    /// The listener has closed: the last that is heard of it.
    fn on_close(&mut self, _lp: &Loop, _listener: LocalListener) {}
}

impl<F: FnMut(&Loop, LocalListener, LocalStream) + 'static> LocalListenerHandler for F {
    fn on_accept(&mut self, lp: &Loop, listener: LocalListener, stream: LocalStream) {
        self(lp, listener, stream)
    }
}

/// A handler as accepting calls it.
struct Handler<H>(H);

impl<H: LocalListenerHandler> Acceptor for Handler<H> {
    fn accepted(&mut self, lp: &Loop, listener: Id, stream: Id) {
        let (listener, stream) = (LocalListener(listener), LocalStream::from_id(stream));
        self.0.on_accept(lp, listener, stream);
    }

    fn failed(&mut self, lp: &Loop, listener: Id, error: Error) {
        self.0.on_error(lp, LocalListener(listener), error);
    }

    fn closed(&mut self, lp: &Loop, listener: Id) {
        self.0.on_close(lp, LocalListener(listener));
    }
}

/// A socket that listens for Unix-domain connections (unix(7)).
///
/// Active, and so keeping the loop alive, until it is paused or closed with [`Loop::close`].
///
/// # Example
///
/// A control socket that only its own user may connect to, whatever a crash has left there.
///
/// ```
/// use kolo::{LocalListenOptions, LocalListener, LocalStream, Loop, Stream};
///
/// # let folder = std::env::temp_dir().join(format!("kolo-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// # let path = folder.join("control.sock");
/// let lp = Loop::new()?;
/// let options = LocalListenOptions {
///     mode: Some(0o600),
///     replace_stale: true,
///     ..Default::default()
/// };
/// let echo = |lp: &Loop, stream: Stream, data: &[u8]| {
///     stream.write(lp, data).unwrap();
/// };
/// let on_accept = move |lp: &Loop, _, stream: LocalStream| {
///     println!("user {} is here", stream.peer_credentials(lp).unwrap().user);
///     stream.attach(lp, echo).unwrap();
/// };
/// let listener = LocalListener::listen_with(&lp, &path, &options, on_accept)?;
/// # lp.close(listener)?;
/// # std::fs::remove_dir(&folder).unwrap();
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalListener(pub(crate) Id);

crate::handles::handle_type!(LocalListener);

impl LocalListener {
    /// Listens at `name` with default options: see [`LocalListener::listen_with`].
    ///
    /// Errors: as there.
    pub fn listen(
        lp: &Loop,
        name: impl Into<LocalName>,
        handler: impl LocalListenerHandler,
    ) -> Result<LocalListener> {
        LocalListener::listen_with(lp, name, &LocalListenOptions::default(), handler)
    }

    /// Listens at `name`: a path, which must not exist, or an abstract name.
    ///
    /// Errors: [`Code::EADDRINUSE`] when there is something at the path, or somebody listens at
    /// the name; [`Code::ENAMETOOLONG`] (see [`LocalName`]); [`Code::EINVAL`] for no name, or a
    /// path with a zero byte; [`Code::ENOTSUP`] for an abstract name where there are none;
    /// [`Code::EACCES`], [`Code::ENOENT`], [`Code::ENOTDIR`], [`Code::EROFS`] and their like for the
    /// path's folder; [`Code::EAGAIN`] when another process keeps the folder locked, with
    /// [`LocalListenOptions::replace_stale`]; [`Code::EMFILE`] and [`Code::ENFILE`] when
    /// descriptors are short; [`Code::ENOBUFS`] when the loop holds as many handles as it can.
    pub fn listen_with(
        lp: &Loop,
        name: impl Into<LocalName>,
        options: &LocalListenOptions,
        handler: impl LocalListenerHandler,
    ) -> Result<LocalListener> {
        LocalListener::listen_boxed(lp, &name.into(), options, Box::new(Handler(handler)))
    }

    pub(crate) fn listen_boxed(
        lp: &Loop,
        name: &LocalName,
        options: &LocalListenOptions,
        handler: BoxedAcceptor,
    ) -> Result<LocalListener> {
        lp.needs_kernel()?;
        lp.can_insert()?;
        let socket = sys::local_socket()?;
        let binding = Binding {
            backlog: i32::try_from(options.backlog).unwrap_or(i32::MAX),
            mode: options.mode,
            replace_stale: options.replace_stale,
            keep_file: options.keep_file,
        };
        let file = listen_at(&socket, name, &binding)?;
        let opened = open(lp, Source::of_local(socket), options, handler);
        let listener = opened.map_err(|(error, _socket)| error)?;
        let mut core = lp.core()?;
        accept::state_of(&mut core.handles, listener.0, Kind::LocalListener)?.file = file;
        Ok(listener)
    }

    /// Takes over a listening socket from elsewhere. From success on it is kolo's to close; its
    /// file stays.
    ///
    /// Errors: [`Code::EBADF`] for a descriptor that is not open, [`Code::ENOTSOCK`] for one that
    /// is no socket, [`Code::EAFNOSUPPORT`] for one that is not of the Unix domain,
    /// [`Code::EINVAL`] for a socket that does not listen, [`Code::EEXIST`] when a handle of kolo's has
    /// the descriptor already: [adopted twice](crate#descriptors-that-are-adopted-twice).
    pub fn adopt(
        lp: &Loop,
        socket: impl Into<Socket>,
        options: &LocalListenOptions,
        handler: impl LocalListenerHandler,
    ) -> Result<LocalListener> {
        let handler = Box::new(Handler(handler));
        let socket = Held::adopt(socket.into())?;
        let adopted = LocalListener::adopt_boxed(lp, socket, options, handler);
        adopted.map_err(|(error, _socket)| error)
    }

    /// As [`LocalListener::adopt`]; the socket comes back with an error.
    pub(crate) fn adopt_boxed(
        lp: &Loop,
        socket: Held<Socket>,
        options: &LocalListenOptions,
        handler: BoxedAcceptor,
    ) -> std::result::Result<LocalListener, (Error, Option<Socket>)> {
        let fits = is_local(&socket)
            .and_then(|()| accept::listens(&socket))
            .and_then(|()| Ok(socket.set_nonblocking(true)?));
        match fits {
            Ok(()) => open(lp, Source::of_local(socket).shared(), options, handler),
            Err(error) => Err((error, Some(socket.into_inner()))),
        }
    }

    /// The name at which it listens.
    ///
    /// Errors: [`Code::EBADF`] for a closed listener.
    pub fn name(self, lp: &Loop) -> Result<LocalName> {
        let mut core = lp.core()?;
        let listener = accept::state_of(&mut core.handles, self.0, Kind::LocalListener)?;
        Ok(LocalName::of_address(
            &listener.source.socket()?.local_addr()?,
        ))
    }

    /// Accepts no more until [`LocalListener::resume`]; connections wait in the backlog. Paused
    /// already: nothing happens.
    ///
    /// Errors: [`Code::EBADF`] for a closed listener.
    pub fn pause(self, lp: &Loop) -> Result<()> {
        accept::pause(lp, self.0)
    }

    /// Accepts again.
    ///
    /// Errors: [`Code::EBADF`] for a closed listener.
    pub fn resume(self, lp: &Loop) -> Result<()> {
        accept::resume(lp, self.0)
    }
}

fn open(
    lp: &Loop,
    source: Source,
    options: &LocalListenOptions,
    handler: BoxedAcceptor,
) -> std::result::Result<LocalListener, (Error, Option<Socket>)> {
    let kind = Kind::LocalListener;
    accept::open(lp, source, kind, options.accepting(), handler).map(LocalListener)
}
