//! Listening for TCP connections, and what happens when descriptors run out.

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket};

use super::tcp::{ip_address, set_buffers, TcpStream};
use crate::driver::{Driver, Object, Source};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Handles, Id, Kind};
use crate::stream::StreamState;
use crate::sys;
use crate::timers::TimerKey;

/// What a listener does when a connection cannot be accepted because descriptors or memory are
/// short. In both cases [`ListenerHandler::on_error`] is told, accepting pauses, and is tried
/// again after [`ListenOptions::retry_min`], then twice that, up to
/// [`ListenOptions::retry_max`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum AcceptPolicy {
    /// Those who wait stay in the backlog: they are served when descriptors are free again.
    #[default]
    Wait = 0,
    /// Those who wait are reset at once, by a descriptor held in reserve: they can go elsewhere.
    Reject = 1,
}

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

pub(crate) struct ListenerState {
    pub source: Source,
    handler: Option<Box<dyn ListenerHandler>>,
    options: ListenOptions,
    paused: bool,
    /// The next pause, while descriptors are short.
    retry: Duration,
    /// Accepting has failed since the last connection: told already.
    short: bool,
    /// The descriptor in reserve.
    spare: Option<File>,
}

impl ListenerState {
    pub fn into_handler(self) -> Option<Box<dyn ListenerHandler>> {
        self.handler
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
        TcpListener::listen_boxed(lp, address, options, Box::new(handler))
    }

    pub(crate) fn listen_boxed(
        lp: &Loop,
        address: SocketAddr,
        options: &ListenOptions,
        handler: Box<dyn ListenerHandler>,
    ) -> Result<TcpListener> {
        let socket = socket_at(&address, options)?;
        open(lp, socket, options, handler).map_err(|(error, _socket)| error)
    }

    /// Takes over a listening socket from elsewhere. From success on it is kolo's to close.
    ///
    /// Errors: [`Code::EBADF`] for a descriptor that is not open, [`Code::ENOTSOCK`] for one that
    /// is no socket, [`Code::EINVAL`] for a socket that does not listen.
    pub fn adopt(
        lp: &Loop,
        socket: impl Into<Socket>,
        options: &ListenOptions,
        handler: impl ListenerHandler,
    ) -> Result<TcpListener> {
        let adopted = TcpListener::adopt_boxed(lp, socket.into(), options, Box::new(handler));
        adopted.map_err(|(error, _socket)| error)
    }

    /// As [`TcpListener::adopt`]; the socket comes back with an error.
    pub(crate) fn adopt_boxed(
        lp: &Loop,
        socket: Socket,
        options: &ListenOptions,
        handler: Box<dyn ListenerHandler>,
    ) -> std::result::Result<TcpListener, (Error, Option<Socket>)> {
        match listens(&socket).and_then(|()| Ok(socket.set_nonblocking(true)?)) {
            Ok(()) => open(lp, socket, options, handler),
            Err(error) => Err((error, Some(socket))),
        }
    }

    /// The address at which it listens.
    ///
    /// Errors: [`Code::EBADF`] for a closed listener.
    pub fn address(self, lp: &Loop) -> Result<SocketAddr> {
        let mut core = lp.core()?;
        ip_address(
            state(&mut core.handles, self.0)?
                .source
                .socket()?
                .local_addr()?,
        )
    }

    /// Accepts no more until [`TcpListener::resume`]; connections wait in the backlog. Paused
    /// already: nothing happens.
    ///
    /// Errors: [`Code::EBADF`] for a closed listener.
    pub fn pause(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        let core = &mut *core;
        let listener = state(&mut core.handles, self.0)?;
        listener.paused = true;
        core.driver.accept_stop(self.0, &mut listener.source);
        let timer = core.handles.get_mut(self.0)?.timer;
        if timer != TimerKey::NONE {
            core.wheel.disarm(timer);
        }
        core.handles.set_active(self.0, false);
        Ok(())
    }

    /// Accepts again.
    ///
    /// Errors: [`Code::EBADF`] for a closed listener.
    pub fn resume(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        state(&mut core.handles, self.0)?.paused = false;
        accept_on(&mut core, self.0)
    }
}

fn state(handles: &mut Handles, id: Id) -> Result<&mut ListenerState> {
    match &mut handles.get_mut(id)?.body {
        Body::Listener(listener) => Ok(listener),
        _ => Err(Code::EBADF.into()),
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<Box<dyn ListenerHandler>>> {
    match body {
        Body::Listener(listener) => Some(&mut listener.handler),
        _ => None,
    }
}

fn socket_at(address: &SocketAddr, options: &ListenOptions) -> Result<Socket> {
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

/// An error unless the socket listens.
fn listens(socket: &Socket) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if !socket.is_listener()? {
        return Err(Code::EINVAL.into());
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    socket.local_addr()?;
    Ok(())
}

fn open(
    lp: &Loop,
    socket: Socket,
    options: &ListenOptions,
    handler: Box<dyn ListenerHandler>,
) -> std::result::Result<TcpListener, (Error, Option<Socket>)> {
    if let Err(error) = lp.can_insert() {
        return Err((error, Some(socket)));
    }
    let spare = match options.accept_policy {
        AcceptPolicy::Wait => None,
        AcceptPolicy::Reject => match reserve() {
            Ok(spare) => Some(spare),
            Err(error) => return Err((error, Some(socket))),
        },
    };
    let state = ListenerState {
        source: Source::of_socket(socket),
        handler: Some(handler),
        options: options.clone(),
        paused: false,
        retry: options.retry_min,
        short: false,
        spare,
    };
    let id = lp
        .insert(Body::Listener(Box::new(state)))
        .map_err(|error| (error, None))?;
    let begun = lp.core().and_then(|mut core| accept_on(&mut core, id));
    match begun {
        Ok(()) => Ok(TcpListener(id)),
        Err(error) => {
            let mut core = lp.core.borrow_mut();
            let Core {
                handles, driver, ..
            } = &mut *core;
            let listener = self::state(handles, id).ok();
            let object = listener.map(|listener| driver.release(id, &mut listener.source));
            let socket = object.and_then(Object::into_socket);
            let entry = handles.remove(id);
            drop(core);
            drop(entry);
            Err((error, socket))
        }
    }
}

/// Something that holds a descriptor and can be had everywhere.
fn reserve() -> Result<File> {
    let name = if cfg!(windows) { "NUL" } else { "/dev/null" };
    Ok(File::open(name)?)
}

fn accept_on(core: &mut Core, id: Id) -> Result<()> {
    let listener = state(&mut core.handles, id)?;
    let per_turn = listener.options.accepts_per_turn;
    core.driver
        .accept_start(id, &mut listener.source, per_turn)?;
    core.handles.set_active(id, true);
    Ok(())
}

impl Loop {
    pub(crate) fn listener_accepted(&self, id: Id, socket: Socket) {
        let handler = {
            let mut core = self.core.borrow_mut();
            let Ok(listener) = state(&mut core.handles, id) else {
                return;
            };
            listener.short = false;
            listener.retry = listener.options.retry_min;
            // Where accepted sockets do not inherit it (Linux and the BSDs do).
            #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
            if !listener.options.delay {
                // Only a connection that is broken already refuses; reading will tell.
                let _ = socket.set_tcp_nodelay(true);
            }
            listener.handler.take()
        };
        let stream = StreamState::new(Source::of_socket(socket), Kind::Tcp);
        let stream = self.insert(Body::Stream(stream));
        match stream {
            Ok(stream) => {
                let unclaimed = Unclaimed(self, stream);
                self.call_lent(id, handler, slot, |lp, handler| {
                    handler.on_accept(lp, TcpListener(id), TcpStream::from_id(stream));
                });
                drop(unclaimed);
            }
            // As many handles as a loop can have: this connection is closed, and it is told.
            Err(error) => {
                self.call_lent(id, handler, slot, |lp, handler| {
                    handler.on_error(lp, TcpListener(id), error);
                });
            }
        }
    }

    /// Accepting failed; the driver has stopped it.
    pub(crate) fn listener_failed(&self, id: Id, error: Error) {
        let tells = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let Ok(listener) = state(&mut core.handles, id) else {
                return;
            };
            let tells = !std::mem::replace(&mut listener.short, true);
            let pause = listener.retry;
            listener.retry = (pause * 2).min(listener.options.retry_max);
            if listener.spare.is_some() {
                reject_waiting(listener);
            }
            retry_after(core, id, pause);
            tells
        };
        if tells {
            let handler = self.core.borrow_mut().handles.lend(id, slot);
            self.call_lent(id, handler, slot, |lp, handler| {
                handler.on_error(lp, TcpListener(id), error);
            });
        }
    }

    /// The pause after a failure is over.
    pub(crate) fn listener_retry(&self, id: Id) {
        let mut core = self.core.borrow_mut();
        let Ok(listener) = state(&mut core.handles, id) else {
            return;
        };
        if listener.paused {
            return;
        }
        if listener.options.accept_policy == AcceptPolicy::Reject && listener.spare.is_none() {
            listener.spare = reserve().ok();
        }
        let pause = listener.retry;
        if accept_on(&mut core, id).is_err() {
            // The selector is short of memory: as before, but later.
            retry_after(&mut core, id, pause);
        }
    }
}

fn retry_after(core: &mut Core, id: Id, pause: Duration) {
    let now = core.now;
    let Ok(entry) = core.handles.get_mut(id) else {
        return;
    };
    if entry.timer == TimerKey::NONE {
        entry.timer = core.wheel.add(id);
    }
    core.wheel.arm(
        entry.timer,
        now.saturating_add(crate::timer::nanoseconds(pause)),
    );
}

/// Accepts with the reserve descriptor, and resets, as many as one turn may accept.
fn reject_waiting(listener: &mut ListenerState) {
    for _ in 0..listener.options.accepts_per_turn {
        listener.spare = None;
        let accepted = listener.source.socket().map(sys::accept);
        let Ok(Ok(socket)) = accepted else { break };
        // A reset says more than an end: that the request was not served.
        let _ = socket.set_linger(Some(Duration::ZERO));
    }
    listener.spare = reserve().ok();
}

/// Closes an accepted stream that got no handler, also when `on_accept` unwinds.
struct Unclaimed<'a>(&'a Loop, Id);

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        let mut core = self.0.core.borrow_mut();
        let unclaimed = match core.handles.get_mut(self.1).map(|entry| &entry.body) {
            Ok(Body::Stream(stream)) => !stream.is_attached(),
            _ => false,
        };
        if unclaimed {
            // It exists: that was just seen.
            let _ = crate::event_loop::close(&mut core, self.1);
        }
    }
}
