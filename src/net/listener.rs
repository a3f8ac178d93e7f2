//! Listening for TCP connections.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket};

use super::tcp::{set_buffers, TcpStream};
use crate::accept::{self, AcceptOptions, AcceptPolicy, Acceptor, BoxedAcceptor};
use crate::driver::{AnyDriver, Object, Source};
#[allow(unused_imports)] // the documentation names it
use crate::error::Code;
use crate::error::{Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Id, Kind};
use crate::sys::{self, Held};

/// How [`TcpListener::listen_with`] listens. `..Default::default()` leaves the rest as it is.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted. The system may allow fewer (Linux:
    /// `net.core.somaxconn`).
    pub backlog: u32,
    /// Lets the address be one that former connections still hold (`SO_REUSEADDR`, not on
    /// Windows, where that would let another program take the port).
    pub reuse_address: bool,
    /// Lets several sockets listen at the same address, among which the system spreads
    /// connections (`SO_REUSEPORT`). [`Code::ENOTSUP`] where there is no such option.
    pub reuse_port: bool,
    /// For an IPv6 address: does not take IPv4 connections too.
    pub ipv6_only: bool,
    /// Leaves Nagle's algorithm on for accepted connections: see
    /// [`ConnectOptions::delay`](crate::ConnectOptions::delay).
    pub delay: bool,
    /// Connections accepted in one turn, at most.
    pub accepts_per_turn: u32,
    /// What to do when descriptors run out.
    pub accept_policy: AcceptPolicy,
    /// The first pause after descriptors ran out.
    pub retry_min: Duration,
    /// The longest pause after descriptors ran out again and again.
    pub retry_max: Duration,
    /// The kernel's send buffer of accepted connections in bytes; `None`: the system's choice.
    pub send_buffer: Option<u32>,
    /// The kernel's receive buffer of accepted connections in bytes; `None`: the system's choice.
    pub receive_buffer: Option<u32>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 1024,
            reuse_address: true,
            reuse_port: false,
            ipv6_only: false,
            delay: false,
            accepts_per_turn: 64,
            accept_policy: AcceptPolicy::Wait,
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_secs(1),
            send_buffer: None,
            receive_buffer: None,
        }
    }
}

impl ListenOptions {
    fn accepting(&self) -> AcceptOptions {
        AcceptOptions {
            per_turn: self.accepts_per_turn,
            policy: self.accept_policy,
            retry_min: self.retry_min,
            retry_max: self.retry_max,
            nodelay: !self.delay,
        }
    }
}

/// What a listener does. A closure `FnMut(&Loop, TcpListener, TcpStream)` is a handler that only
/// has `on_accept`.
pub trait ListenerHandler: 'static {
    /// A connection came. Attach a [`StreamHandler`](crate::StreamHandler) to it here: a stream
    /// that has none when this returns is closed.
    fn on_accept(&mut self, lp: &Loop, listener: TcpListener, stream: TcpStream);

    /// A connection could not be accepted. The listener lives on, and tries again as its
    /// [`AcceptPolicy`] says.
    fn on_error(&mut self, _lp: &Loop, _listener: TcpListener, _error: Error) {}

    /// The listener has closed: the last that is heard of it.
    fn on_close(&mut self, _lp: &Loop, _listener: TcpListener) {}
}

impl<F: FnMut(&Loop, TcpListener, TcpStream) + 'static> ListenerHandler for F {
    fn on_accept(&mut self, lp: &Loop, listener: TcpListener, stream: TcpStream) {
        self(lp, listener, stream)
    }
}

/// A handler as accepting calls it.
pub(crate) struct Handler<H>(pub H);

impl<H: ListenerHandler> Acceptor for Handler<H> {
    fn accepted(&mut self, lp: &Loop, listener: Id, stream: Id) {
        self.0
            .on_accept(lp, TcpListener(listener), TcpStream::from_id(stream));
    }

    fn failed(&mut self, lp: &Loop, listener: Id, error: Error) {
        self.0.on_error(lp, TcpListener(listener), error);
    }

    fn closed(&mut self, lp: &Loop, listener: Id) {
        self.0.on_close(lp, TcpListener(listener));
    }
}

/// A socket that listens for TCP connections.
///
/// Active, and so keeping the loop alive, until it is paused or closed with [`Loop::close`].
///
/// # Example
///
/// ```
/// use kolo::{AcceptPolicy, ListenOptions, Loop, Stream, TcpListener, TcpStream};
///
/// let lp = Loop::new()?;
/// // Those who cannot be served are told so at once.
/// let options = ListenOptions { accept_policy: AcceptPolicy::Reject, ..Default::default() };
/// let discard = |_: &Loop, _: Stream, _: &[u8]| ();
/// let listener = TcpListener::listen_with(
///     &lp,
///     "127.0.0.1:0".parse().unwrap(),
///     &options,
///     move |lp: &Loop, _, tcp: TcpStream| tcp.attach(lp, discard).unwrap(),
/// )?;
/// assert_ne!(listener.address(&lp)?.port(), 0);
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpListener(pub(crate) Id);

crate::handles::handle_type!(TcpListener);

impl TcpListener {
    /// Listens at `address` with default options: see [`TcpListener::listen_with`].
    ///
    /// Errors: as there.
    pub fn listen(
        lp: &Loop,
        address: SocketAddr,
        handler: impl ListenerHandler,
    ) -> Result<TcpListener> {
        TcpListener::listen_with(lp, address, &ListenOptions::default(), handler)
    }

    /// Listens at `address`. With port 0 the system chooses one, which [`TcpListener::address`]
    /// tells. The unspecified IPv6 address takes IPv4 connections too, unless
    /// [`ListenOptions::ipv6_only`].
    ///
    /// Errors: [`Code::EADDRINUSE`], [`Code::EADDRNOTAVAIL`] and [`Code::EACCES`] for the
    /// address, [`Code::EAFNOSUPPORT`] for a family that the system lacks, [`Code::EMFILE`] and
    /// [`Code::ENFILE`] when descriptors are short.
    pub fn listen_with(
        lp: &Loop,
        address: SocketAddr,
        options: &ListenOptions,
        handler: impl ListenerHandler,
    ) -> Result<TcpListener> {
        TcpListener::listen_boxed(lp, address, options, Box::new(Handler(handler)))
    }

    pub(crate) fn listen_boxed(
        lp: &Loop,
        address: SocketAddr,
        options: &ListenOptions,
        handler: BoxedAcceptor,
    ) -> Result<TcpListener> {
        lp.can_insert()?;
        let source = source_at(&lp.core()?.driver, &address, options)?;
        let opened = open(lp, source, options, handler);
        opened.map_err(|(error, _socket)| error)
    }

    /// Takes over a listening socket from elsewhere. From success on it is kolo's to close.
    ///
    /// Errors: [`Code::EBADF`] for a descriptor that is not open, [`Code::ENOTSOCK`] for one that
    /// is no socket, [`Code::EINVAL`] for a socket that does not listen, [`Code::EEXIST`] when a handle
    /// of kolo's has the descriptor already: [adopted twice](crate#descriptors-that-are-adopted-twice).
    pub fn adopt(
        lp: &Loop,
        socket: impl Into<Socket>,
        options: &ListenOptions,
        handler: impl ListenerHandler,
    ) -> Result<TcpListener> {
        let socket = Held::adopt(socket.into())?;
        let adopted = TcpListener::adopt_boxed(lp, socket, options, Box::new(Handler(handler)));
        adopted.map_err(|(error, _socket)| error)
    }

    /// As [`TcpListener::adopt`]; the socket comes back with an error.
    pub(crate) fn adopt_boxed(
        lp: &Loop,
        socket: Held<Socket>,
        options: &ListenOptions,
        handler: BoxedAcceptor,
    ) -> std::result::Result<TcpListener, (Error, Option<Socket>)> {
        let checked = lp.needs_kernel().and_then(|()| accept::listens(&socket));
        match checked.and_then(|()| Ok(socket.set_nonblocking(true)?)) {
            Ok(()) => open(
                lp,
                Source::new(Object::Socket(socket)).shared(),
                options,
                handler,
            ),
            Err(error) => Err((error, Some(socket.into_inner()))),
        }
    }

    /// The address at which it listens.
    ///
    /// Errors: [`Code::EBADF`] for a closed listener.
    pub fn address(self, lp: &Loop) -> Result<SocketAddr> {
        let mut core = lp.core()?;
        let Core {
            handles, driver, ..
        } = &mut *core;
        let listener = accept::state_of(handles, self.0, Kind::Listener)?;
        driver.endpoint(&listener.source)?.local_address()
    }

    /// Accepts no more until [`TcpListener::resume`]; connections wait in the backlog. Paused
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

pub(crate) fn open(
    lp: &Loop,
    source: Source,
    options: &ListenOptions,
    handler: BoxedAcceptor,
) -> std::result::Result<TcpListener, (Error, Option<Socket>)> {
    accept::open(lp, source, Kind::Listener, options.accepting(), handler).map(TcpListener)
}

/// A socket that listens.
fn source_at(driver: &AnyDriver, address: &SocketAddr, options: &ListenOptions) -> Result<Source> {
    #[cfg(feature = "sim")]
    if let Some(simulated) = driver.simulated() {
        return simulated.open_to_listen(
            *address,
            options.backlog,
            (options.reuse_address, options.reuse_port, options.ipv6_only),
            (options.send_buffer, options.receive_buffer),
        );
    }
    let _ = driver;
    Ok(Source::of_socket(socket_at(address, options)?))
}

pub(crate) fn socket_at(address: &SocketAddr, options: &ListenOptions) -> Result<Socket> {
    let socket = sys::tcp_socket(Domain::for_address(*address))?;
    if address.is_ipv6() {
        socket.set_only_v6(options.ipv6_only)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(options.reuse_address)?;
    if options.reuse_port {
        #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
        socket.set_reuse_port(true)?;
        #[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
        return Err(Code::ENOTSUP.into());
    }
    // Options of a listener are inherited by what it accepts, which saves a call each.
    if !options.delay {
        socket.set_tcp_nodelay(true)?;
    }
    set_buffers(&socket, options.send_buffer, options.receive_buffer)?;
    socket.bind(&(*address).into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}
