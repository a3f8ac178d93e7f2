//! TCP connections: making them, adopting them, their options and addresses.

use std::net::SocketAddr;
use std::ops::{Deref, RangeInclusive};
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive};

use super::connecting;
use crate::driver::endpoint::Endpoint;
use crate::driver::{AnyDriver, Driver, Object, Source};
use crate::error::{Code, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Id, Kind};
#[cfg(feature = "dns")]
use crate::names::{self, ResolveOptions};
use crate::stream::{state_of, Stream, StreamHandler, StreamState};
use crate::sys::{self, Held, RawSocket};

/// How [`TcpStream::connect_with`] connects. `..Default::default()` leaves the rest as it is.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// How long the connection may take to be made, until [`Code::ETIMEDOUT`]; `None`: as long
    /// as the system tries.
    pub timeout: Option<Duration>,
    /// The local address to connect from; port 0: any.
    pub local: Option<SocketAddr>,
    /// Lets the local address be one that a former connection still holds.
    pub reuse_address: bool,
    /// Leaves Nagle's algorithm on (RFC 896): small segments wait for the peer's
    /// acknowledgement. As kolo makes connections it is off (`TCP_NODELAY`).
    pub delay: bool,
    /// The kernel's send buffer in bytes; `None`: the system's choice.
    pub send_buffer: Option<u32>,
    /// The kernel's receive buffer in bytes; `None`: the system's choice.
    pub receive_buffer: Option<u32>,
    /// Only addresses of this family; `None`: of both, or of that of the local address.
    pub family: Option<Family>,
    /// With several addresses: how long the next one waits for the one before it (RFC 8305, 5). From 10 milliseconds to
    /// 2 seconds; `None`: 250 milliseconds.
    pub attempt_delay: Option<Duration>,
}

/// Whether an address is one of IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// That of an address.
    pub const fn of(address: &SocketAddr) -> Family {
        match address {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        }
    }
}

/// What RFC 8305, 8 allows.
const ATTEMPT_DELAYS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(2);

impl ConnectOptions {
    pub(super) fn check(&self) -> Result<()> {
        let fits = |delay| ATTEMPT_DELAYS.contains(&delay);
        let of_local = self.local.as_ref().map(Family::of);
        let families_differ =
            of_local.is_some() && self.family.is_some() && of_local != self.family;
        if !self.attempt_delay.is_none_or(fits) || families_differ {
            return Err(Code::EINVAL.into());
        }
        Ok(())
    }

    /// The family that addresses must have, if it is one.
    pub(super) fn family(&self) -> Option<Family> {
        self.family.or(self.local.as_ref().map(Family::of))
    }

    pub(super) fn allow(&self, address: &SocketAddr) -> bool {
        self.family()
            .is_none_or(|family| family == Family::of(address))
    }
}

/// A TCP connection (RFC 9293): a [`Stream`], whose operations it has, and more.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use kolo::{ConnectOptions, Error, Loop, RunMode, Stream, StreamHandler, TcpStream};
///
/// struct Client;
///
/// impl StreamHandler for Client {
///     fn on_open(&mut self, lp: &Loop, stream: Stream) {
///         stream.write(lp, b"hello").unwrap();
///     }
///     fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
///         println!("{} bytes came", data.len());
///         lp.close(stream).unwrap();
///     }
///     fn on_error(&mut self, _: &Loop, _: Stream, error: Error) {
///         println!("no connection: {error}");
///     }
/// }
///
/// let lp = Loop::new()?;
/// let options = ConnectOptions { timeout: Some(Duration::from_secs(5)), ..Default::default() };
/// let nobody = "127.0.0.1:1".parse().unwrap();
/// TcpStream::connect_with(&lp, nobody, &options, Client)?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpStream(Stream);

impl TcpStream {
    /// The handle's number, whatever its kind.
    pub const fn id(self) -> Id {
        self.0 .0
    }

    /// Names a connection by its number. Whether it is one is seen when it is used: every
    /// operation on a handle of another kind gives [`Code::EBADF`].
    pub const fn from_id(id: Id) -> TcpStream {
        TcpStream(Stream(id))
    }
}

impl From<TcpStream> for Id {
    fn from(tcp: TcpStream) -> Id {
        tcp.id()
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Stream {
        tcp.0
    }
}

impl Deref for TcpStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.0
    }
}

/// Keep-alive probes (RFC 9293, 3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds, at least one.
    pub idle: Duration,
    /// Time between probes; `None`: the system's.
    pub interval: Option<Duration>,
    /// Probes that may go unanswered; `None`: the system's.
    pub count: Option<u32>,
}

#[cfg(feature = "sim")]
impl Keepalive {
    /// As a simulation has it, which takes Linux' times for the system's.
    fn probing(self) -> Result<crate::driver::sim::Probing> {
        let idle = crate::timer::nanoseconds(self.idle);
        let interval = self.interval.unwrap_or(Duration::from_secs(75));
        let (interval, count) = (crate::timer::nanoseconds(interval), self.count.unwrap_or(9));
        if idle < 1_000_000_000 || interval < 1_000_000_000 || count == 0 {
            return Err(Code::EINVAL.into());
        }
        Ok(crate::driver::sim::Probing {
            idle,
            interval,
            count,
        })
    }
}

impl TcpStream {
    /// Connects to `address` with default options: see [`TcpStream::connect_with`].
    ///
    /// Errors: as there.
    pub fn connect(
        lp: &Loop,
        address: SocketAddr,
        handler: impl StreamHandler,
    ) -> Result<TcpStream> {
        TcpStream::connect_with(lp, address, &ConnectOptions::default(), handler)
    }

    /// Connects to `address`. [`StreamHandler::on_open`] comes when the connection is made;
    /// until then writes are queued. What the network says against it comes to
    /// [`StreamHandler::on_error`], also when it says so at once: [`Code::ECONNREFUSED`],
    /// [`Code::ETIMEDOUT`], [`Code::ENETUNREACH`], [`Code::EHOSTUNREACH`] and their like.
    ///
    /// Errors: what the local side says: [`Code::EMFILE`] and [`Code::ENFILE`] when descriptors
    /// are short, [`Code::EADDRINUSE`] and [`Code::EADDRNOTAVAIL`] for the local address,
    /// [`Code::EINVAL`] when it, or [`family`](field@ConnectOptions::family), is of another family than `address`,
    /// [`Code::EAFNOSUPPORT`] for a family that the system lacks.
    pub fn connect_with(
        lp: &Loop,
        address: SocketAddr,
        options: &ConnectOptions,
        handler: impl StreamHandler,
    ) -> Result<TcpStream> {
        TcpStream::connect_boxed(lp, address, options, Box::new(handler))
    }

    pub(crate) fn connect_boxed(
        lp: &Loop,
        address: SocketAddr,
        options: &ConnectOptions,
        handler: Box<dyn StreamHandler>,
    ) -> Result<TcpStream> {
        options.check()?;
        if !options.allow(&address) {
            return Err(Code::EINVAL.into());
        }
        lp.can_insert()?;
        let source = source_for(&lp.core()?.driver, &address, options)?;
        let mut stream = StreamState::new(source, Kind::Tcp);
        stream.begin_connecting();
        let tcp = TcpStream::from_id(lp.insert(Body::Stream(stream))?);
        tcp.attach_boxed(lp, handler)?;
        let mut core = lp.core()?;
        core.handles.set_active(tcp.id(), true);
        let begun = {
            let Core {
                handles, driver, ..
            } = &mut *core;
            let source = &mut state(handles, tcp)?.source;
            driver.connect(tcp.id(), source, &address.into())
        };
        match (begun, options.timeout) {
            (Err(error), _) => {
                drop(core);
                tcp.fail(lp, error)?;
            }
            (Ok(()), Some(timeout)) => {
                let now = lp.fresh_clock(&mut core);
                let timer = core.wheel.add(tcp.id());
                core.wheel.arm(
                    timer,
                    now.saturating_add(crate::timer::nanoseconds(timeout)),
                );
                core.handles.get_mut(tcp.id())?.timer = timer;
            }
            (Ok(()), None) => {}
        }
        Ok(tcp)
    }

    /// Connects to whichever of several addresses answers first, with default options: see
    /// [`TcpStream::connect_any_with`].
    ///
    /// Errors: as there.
    pub fn connect_any(
        lp: &Loop,
        addresses: &[SocketAddr],
        handler: impl StreamHandler,
    ) -> Result<TcpStream> {
        TcpStream::connect_any_with(lp, addresses, &ConnectOptions::default(), handler)
    }

    /// Connects to whichever of several addresses answers first ("happy eyeballs", RFC 8305).
    ///
    /// The addresses stand in the order of preference. They are tried in that order, but the families take turns; the next
    /// one when the last has failed, or has not answered within [`ConnectOptions::attempt_delay`]. The first that connects
    /// is the stream's, and the others are closed: [`TcpStream::peer_address`] says which it was. An address that stands
    /// there twice is tried once.
    ///
    /// [`StreamHandler::on_open`] comes when one is connected; until then writes are queued, and calls that need the socket
    /// get [`Code::ENOTCONN`]. [`StreamHandler::on_error`] comes when all have failed, with the error of the one that came
    /// furthest, the first of equals: a peer that refused before one that was silent, before a network that could not
    /// reach it, before one that is not there. With [`Code::ETIMEDOUT`] after [`ConnectOptions::timeout`], which counts
    /// from this call and for the whole. Descriptors that run out ([`Code::EMFILE`], [`Code::ENFILE`]), and a local port
    /// that another attempt has, keep attempts from being begun: they wait for those under way, and if there are none, the
    /// stream fails with that.
    ///
    /// Errors: [`Code::EINVAL`] if there is no address, or none of the family of [`family`](field@ConnectOptions::family) and of the local
    /// address, or these two differ, and for a delay out of its range; [`Code::ENOBUFS`] when the loop holds as many handles
    /// as it can; [`Code::ECANCELED`] while the loop is being dropped. Everything else comes to `on_error`.
    pub fn connect_any_with(
        lp: &Loop,
        addresses: &[SocketAddr],
        options: &ConnectOptions,
        handler: impl StreamHandler,
    ) -> Result<TcpStream> {
        TcpStream::connect_any_boxed(lp, addresses, options, Box::new(handler))
    }

    pub(crate) fn connect_any_boxed(
        lp: &Loop,
        addresses: &[SocketAddr],
        options: &ConnectOptions,
        handler: Box<dyn StreamHandler>,
    ) -> Result<TcpStream> {
        if !addresses.iter().any(|address| options.allow(address)) {
            return Err(Code::EINVAL.into());
        }
        let tcp = connecting::begin(lp, options, handler)?;
        connecting::race(lp, tcp, addresses);
        Ok(tcp)
    }

    /// Connects to a host by its name, with default options: see [`TcpStream::connect_name_with`].
    ///
    /// Errors: as there.
    #[cfg(feature = "dns")]
    pub fn connect_name(
        lp: &Loop,
        host: &str,
        port: u16,
        handler: impl StreamHandler,
    ) -> Result<TcpStream> {
        TcpStream::connect_name_with(lp, host, port, &ConnectOptions::default(), handler)
    }

    /// Connects to a host by its name: looks its addresses up as [`Loop::resolve_with`] does, and connects to them as
    /// [`TcpStream::connect_any_with`] does.
    ///
    /// The resolver is asked once, for both families, as the system is configured to: so the hosts file and the system's
    /// order of preference hold (RFC 6724). A numeric host is asked of nobody. The stream is there from this call on, and
    /// may be written to, closed, and limited in time ([`ConnectOptions::timeout`], which counts the resolving too).
    ///
    /// [`StreamHandler::on_error`] hears what the resolver says against the name, [`Code::EAI_NONAME`] and its like, and
    /// otherwise as there.
    ///
    /// Errors: those of [`Loop::resolve_with`]; [`Code::EINVAL`] if [`family`](field@ConnectOptions::family) and that of the local address
    /// differ, and for a delay out of its range.
    ///
    /// # Example
    ///
    /// ```
    /// use kolo::{Loop, RunMode, Stream, TcpStream};
    ///
    /// let lp = Loop::new()?;
    /// let print = |_: &Loop, _: Stream, data: &[u8]| println!("{} bytes came", data.len());
    /// let tcp = TcpStream::connect_name(&lp, "localhost", 7000, print)?;
    /// tcp.write(&lp, b"sent as soon as it is connected")?;
    /// lp.run(RunMode::NoWait)?;
    /// # Ok::<(), kolo::Error>(())
    /// ```
    #[cfg(feature = "dns")]
    pub fn connect_name_with(
        lp: &Loop,
        host: &str,
        port: u16,
        options: &ConnectOptions,
        handler: impl StreamHandler,
    ) -> Result<TcpStream> {
        TcpStream::connect_name_boxed(lp, host, port, options, Box::new(handler))
    }

    #[cfg(feature = "dns")]
    pub(crate) fn connect_name_boxed(
        lp: &Loop,
        host: &str,
        port: u16,
        options: &ConnectOptions,
        handler: Box<dyn StreamHandler>,
    ) -> Result<TcpStream> {
        names::check_host(host)?;
        let tcp = connecting::begin(lp, options, handler)?;
        let asked = ResolveOptions {
            family: options.family(),
            ..Default::default()
        };
        let resolved = move |lp: &Loop, outcome: Result<names::Resolved>| match outcome {
            Ok(resolved) => connecting::race(lp, tcp, &resolved.addresses),
            Err(error) => connecting::fail(lp, tcp, error),
        };
        if let Some(outcome) = names::at_once(host, port, &asked) {
            resolved(lp, outcome);
            return Ok(tcp);
        }
        if let Err(error) = connecting::look_up(lp, tcp, host, port, asked, resolved) {
            connecting::withdraw(lp, tcp);
            return Err(error);
        }
        Ok(tcp)
    }

    /// Takes over a connected socket from elsewhere. From success on it is kolo's to close.
    ///
    /// Errors: [`Code::EBADF`] for a descriptor that is not open, [`Code::ENOTSOCK`] for one
    /// that is no socket, [`Code::ENOTCONN`] for a socket that is not connected. It is dropped then:
    /// pass a duplicate to keep it. [`Code::EEXIST`] when a handle of kolo's has the descriptor
    /// already: [adopted twice](crate#descriptors-that-are-adopted-twice).
    pub fn adopt(
        lp: &Loop,
        socket: impl Into<Socket>,
        handler: impl StreamHandler,
    ) -> Result<TcpStream> {
        let socket = Held::adopt(socket.into())?;
        let adopted = TcpStream::adopt_boxed(lp, socket, Box::new(handler));
        adopted.map_err(|(error, _socket)| error)
    }

    /// As [`TcpStream::adopt`]; the socket comes back with an error.
    pub(crate) fn adopt_boxed(
        lp: &Loop,
        socket: Held<Socket>,
        handler: Box<dyn StreamHandler>,
    ) -> std::result::Result<TcpStream, (crate::Error, Option<Socket>)> {
        let checked = lp.can_insert().and_then(|()| {
            lp.needs_kernel()?;
            socket.peer_addr()?;
            Ok(socket.set_nonblocking(true)?)
        });
        if let Err(error) = checked {
            return Err((error, Some(socket.into_inner())));
        }
        let state = StreamState::new(Source::new(Object::Socket(socket)).shared(), Kind::Tcp);
        let tcp = TcpStream::from_id(
            lp.insert(Body::Stream(state))
                .map_err(|error| (error, None))?,
        );
        match tcp.attach_boxed(lp, handler) {
            Ok(()) => Ok(tcp),
            Err(error) => {
                let socket = tcp.0.take_object(lp, Kind::Tcp).ok();
                Err((error, socket.and_then(Object::into_socket)))
            }
        }
    }

    /// Hands the socket out and closes the handle, whose `on_close` comes as ever. The socket
    /// does not block; bytes that were not read yet are still in it.
    ///
    /// Errors: [`Code::EBUSY`] while writes are queued or the connection is being made, and while bytes have been
    /// received that `on_data` has still to hear of, which cannot be put back into the socket (only the driver
    /// `"uring"` receives ahead, and not before the first `on_data` has returned): try again in the next `on_data`.
    /// [`Code::EBADF`] for a closed stream.
    pub fn release(self, lp: &Loop) -> Result<Socket> {
        lp.needs_kernel()?;
        let object = self.0.release_object(lp, Kind::Tcp)?;
        object.into_socket().ok_or(Code::ENOTCONN.into())
    }

    /// Sends small segments at once (`true`, as connections are made) or lets Nagle's algorithm
    /// (RFC 896) hold them back.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream; [`Code::EINVAL`] on some systems once the
    /// peer is gone.
    pub fn set_nodelay(self, lp: &Loop, on: bool) -> Result<()> {
        self.with_endpoint(lp, |endpoint| endpoint.set_nodelay(on))
    }

    /// Probes a silent peer, or does not (`None`).
    ///
    /// Errors: [`Code::EINVAL`] for times or counts that the system refuses, [`Code::EBADF`] for
    /// a closed stream.
    pub fn set_keepalive(self, lp: &Loop, keepalive: Option<Keepalive>) -> Result<()> {
        self.with_endpoint(lp, |endpoint| {
            #[cfg(feature = "sim")]
            if let Endpoint::Simulated(world, key) = endpoint {
                let probing = keepalive.map(Keepalive::probing).transpose()?;
                world.borrow_mut().set_probing(key, probing);
                return Ok(());
            }
            let socket = endpoint.kernel()?;
            let Some(keepalive) = keepalive else {
                return Ok(socket.set_keepalive(false)?);
            };
            let mut parameters = TcpKeepalive::new().with_time(keepalive.idle);
            if let Some(interval) = keepalive.interval {
                parameters = parameters.with_interval(interval);
            }
            if let Some(count) = keepalive.count {
                parameters = parameters.with_retries(count);
            }
            Ok(socket.set_tcp_keepalive(&parameters)?)
        })
    }

    /// Whether closing resets the connection, also when it is kolo that closes it: what the peer has not
    /// acknowledged is thrown away, and it hears of a reset. Off, as connections are made, the system sends the rest
    /// in the background. It is SO_LINGER with no time (socket(7)). There is no longer time to be had: close(2) would
    /// wait for it, on Linux also where the socket does not block, and the loop with it. Who wants the peer heard out
    /// uses [`Stream::finish_lingering`]; who wants to break off now, [`Stream::reset`].
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn set_reset_on_close(self, lp: &Loop, on: bool) -> Result<()> {
        self.with_endpoint(lp, |endpoint| endpoint.set_reset_on_close(on))
    }

    /// The sizes of the kernel's buffers in bytes; `None` leaves one as it is. The system may
    /// give more or less.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn set_buffers(self, lp: &Loop, send: Option<u32>, receive: Option<u32>) -> Result<()> {
        self.with_endpoint(lp, |endpoint| endpoint.set_buffers(send, receive))
    }

    /// The sizes of the kernel's send and receive buffers in bytes, as the system counts them.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn buffers(self, lp: &Loop) -> Result<(usize, usize)> {
        self.with_endpoint(lp, |endpoint| endpoint.buffers())
    }

    /// The address of this end.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn local_address(self, lp: &Loop) -> Result<SocketAddr> {
        self.with_endpoint(lp, |endpoint| endpoint.local_address())
    }

    /// The address of the other end.
    ///
    /// Errors: [`Code::ENOTCONN`] while the connection is being made, or once it is broken;
    /// [`Code::EBADF`] for a closed stream.
    pub fn peer_address(self, lp: &Loop) -> Result<SocketAddr> {
        self.with_endpoint(lp, |endpoint| endpoint.peer_address())
    }

    /// The socket's descriptor, to look at or to set options that kolo has not. It stays kolo's:
    /// do not close it, nor change whether it blocks.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn raw_socket(self, lp: &Loop) -> Result<RawSocket> {
        state(&mut lp.core()?.handles, self)?.source.show()
    }

    fn with_endpoint<R>(self, lp: &Loop, run: impl FnOnce(Endpoint<'_>) -> Result<R>) -> Result<R> {
        let mut core = lp.core()?;
        let Core {
            handles, driver, ..
        } = &mut *core;
        run(driver.endpoint(&state(handles, self)?.source)?)
    }
}

fn state(handles: &mut crate::handles::Handles, tcp: TcpStream) -> Result<&mut StreamState> {
    state_of(handles, tcp.id(), Kind::Tcp)
}

/// A socket to connect from.
pub(super) fn source_for(
    driver: &AnyDriver,
    address: &SocketAddr,
    options: &ConnectOptions,
) -> Result<Source> {
    #[cfg(feature = "sim")]
    if let Some(simulated) = driver.simulated() {
        return simulated.open_to_connect(
            address.is_ipv6(),
            options.local,
            options.reuse_address,
            (options.send_buffer, options.receive_buffer),
        );
    }
    let _ = driver;
    Ok(Source::of_socket(socket_for(address, options)?))
}

fn socket_for(address: &SocketAddr, options: &ConnectOptions) -> Result<Socket> {
    let socket = sys::tcp_socket(Domain::for_address(*address))?;
    if !options.delay {
        socket.set_tcp_nodelay(true)?;
    }
    set_buffers(&socket, options.send_buffer, options.receive_buffer)?;
    if let Some(local) = &options.local {
        socket.set_reuse_address(options.reuse_address)?;
        socket.bind(&(*local).into())?;
    }
    Ok(socket)
}

pub(crate) fn set_buffers(socket: &Socket, send: Option<u32>, receive: Option<u32>) -> Result<()> {
    if let Some(bytes) = send {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = receive {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    Ok(())
}
