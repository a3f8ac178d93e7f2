//! Making UDP sockets, taking them over, handing them out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::handler::UdpHandler;
use super::sending::flush;
use super::state::{state, Status, UdpState};
use super::{receiving, UdpSocket};
use crate::driver::endpoint::ip_address;
use crate::driver::{Driver, Object, Source, State};
use crate::error::{Code, Error, Result};
use crate::event_loop::{self, Core, Loop};
use crate::handles::{Body, Id};
use crate::net::tcp::set_buffers;
use crate::sys::{self, udp_options, Held};

/// How [`UdpSocket::bind_with`] and its like make a socket. `..Default::default()` leaves the rest
/// as it is.
#[derive(Clone, Copy, Debug)]
pub struct UdpOptions {
    /// Lets several sockets have the address (`SO_REUSEADDR`; on the BSDs and Darwin multicast
    /// also needs `reuse_port`): each of them gets what is sent to a group, one of them the rest.
    pub reuse_address: bool,
    /// Lets several sockets have the address, among which the system spreads the senders
    /// (`SO_REUSEPORT`, Linux). [`Code::ENOTSUP`] where there is no such option.
    pub reuse_port: bool,
    /// For an IPv6 address: does not carry IPv4, too.
    pub ipv6_only: bool,
    /// Lets datagrams be sent to broadcast addresses; without it the system refuses with
    /// [`Code::EACCES`].
    pub broadcast: bool,
    /// Asks for [`Datagram::to`](crate::Datagram::to) and [`Datagram::interface`](crate::Datagram::interface). Costs about 0.1 µs a datagram.
    /// [`Code::ENOTSUP`] where kolo has no way to it (all but Linux).
    pub receive_info: bool,
    /// Asks for [`Datagram::tos`](crate::Datagram::tos). As `receive_info`.
    pub receive_tos: bool,
    /// Asks the network's errors also of a socket that is not connected, with the address that
    /// each is about (`IP_RECVERR`, ip(7)). They are told while the socket receives.
    /// [`Code::ENOTSUP`] where the system has no such thing (all but Linux).
    pub report_errors: bool,
    /// Lets the system put datagrams of the same sender together while they are on their way in
    /// (`UDP_GRO`, Linux). They are handed out one by one all the same.
    pub receive_offload: bool,
    /// Lets datagrams of the same size to the same destination go to the system as one message,
    /// which it takes apart (`UDP_SEGMENT`, Linux).
    pub send_offload: bool,
    /// The kernel's send buffer in bytes; `None`: the system's choice.
    pub send_buffer: Option<u32>,
    /// The kernel's receive buffer in bytes; `None`: the system's choice. What comes while it is
    /// full is lost.
    pub receive_buffer: Option<u32>,
}

impl Default for UdpOptions {
    fn default() -> UdpOptions {
        UdpOptions {
            reuse_address: false,
            reuse_port: false,
            ipv6_only: false,
            broadcast: false,
            receive_info: false,
            receive_tos: false,
            report_errors: false,
            receive_offload: true,
            send_offload: true,
            send_buffer: None,
            receive_buffer: None,
        }
    }
}

impl UdpSocket {
    /// Makes a socket at `address` with default options: see [`UdpSocket::bind_with`].
    ///
    /// Errors: as there.
    pub fn bind(lp: &Loop, address: SocketAddr, handler: impl UdpHandler) -> Result<UdpSocket> {
        UdpSocket::bind_with(lp, address, &UdpOptions::default(), handler)
    }

    /// Makes a socket at `address`. With port 0 the system chooses one, which
    /// [`UdpSocket::local_address`] tells. The unspecified IPv6 address carries IPv4 too, unless
    /// [`UdpOptions::ipv6_only`]; its peers then appear as `::ffff:192.0.2.1`, and are written to
    /// in either form.
    ///
    /// Errors: [`Code::EADDRINUSE`], [`Code::EADDRNOTAVAIL`] and [`Code::EACCES`] for the
    /// address, [`Code::EAFNOSUPPORT`] for a family that the system lacks, [`Code::ENOTSUP`] for
    /// options that it lacks, [`Code::EMFILE`] and [`Code::ENFILE`] when descriptors are short,
    /// [`Code::ENOBUFS`] when the loop holds as many handles as it can, [`Code::ECANCELED`] while
    /// it is being dropped.
    pub fn bind_with(
        lp: &Loop,
        address: SocketAddr,
        options: &UdpOptions,
        handler: impl UdpHandler,
    ) -> Result<UdpSocket> {
        UdpSocket::bind_boxed(lp, address, options, Box::new(handler))
    }

    pub(crate) fn bind_boxed(
        lp: &Loop,
        address: SocketAddr,
        options: &UdpOptions,
        handler: Box<dyn UdpHandler>,
    ) -> Result<UdpSocket> {
        #[cfg(feature = "sim")]
        if lp.is_simulated() {
            return open_simulated(lp, address, options, handler);
        }
        let socket = sys::udp_socket(Domain::for_address(address))?;
        if address.is_ipv6() {
            socket.set_only_v6(options.ipv6_only)?;
        }
        socket.set_reuse_address(options.reuse_address)?;
        if options.reuse_port {
            #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
            socket.set_reuse_port(true)?;
            #[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
            return Err(Code::ENOTSUP.into());
        }
        socket.set_broadcast(options.broadcast)?;
        set_buffers(&socket, options.send_buffer, options.receive_buffer)?;
        socket.bind(&address.into())?;
        open(lp, socket.into(), options, handler).map_err(|(error, _socket)| error)
    }

    /// Makes a socket at any local address and connects it to `peer`, with default options: see
    /// [`UdpSocket::connect_to`].
    ///
    /// Errors: as there, and of [`UdpSocket::bind_with`].
    pub fn connect(lp: &Loop, peer: SocketAddr, handler: impl UdpHandler) -> Result<UdpSocket> {
        let any: IpAddr = match peer {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(lp, SocketAddr::new(any, 0), handler)?;
        match socket.connect_to(lp, peer) {
            Ok(()) => Ok(socket),
            Err(error) => {
                // Nothing was told of it, and nothing will be.
                discard(lp, socket.0);
                Err(error)
            }
        }
    }

    /// Takes over a UDP socket from elsewhere, bound or connected or not. From success on it is
    /// kolo's to close. Of the options those count that concern receiving and sending, not those
    /// for the address.
    ///
    /// Errors: [`Code::EBADF`] for a descriptor that is not open, [`Code::ENOTSOCK`] for one that
    /// is no socket, [`Code::EPROTOTYPE`] for a socket of another type,
    /// [`Code::EAFNOSUPPORT`] for one of another family than IPv4 and IPv6. It is dropped then:
    /// pass a duplicate to keep it. [`Code::EEXIST`] when a handle of kolo's has the descriptor
    /// already: [adopted twice](crate#descriptors-that-are-adopted-twice).
    pub fn adopt(
        lp: &Loop,
        socket: impl Into<Socket>,
        options: &UdpOptions,
        handler: impl UdpHandler,
    ) -> Result<UdpSocket> {
        let socket = Held::adopt(socket.into())?;
        let adopted = UdpSocket::adopt_boxed(lp, socket, options, Box::new(handler));
        adopted.map_err(|(error, _socket)| error)
    }

    /// As [`UdpSocket::adopt`]; the socket comes back with an error.
    pub(crate) fn adopt_boxed(
        lp: &Loop,
        socket: Held<Socket>,
        options: &UdpOptions,
        handler: Box<dyn UdpHandler>,
    ) -> std::result::Result<UdpSocket, (Error, Option<Socket>)> {
        let checked = (|| {
            lp.needs_kernel()?;
            if socket.r#type()? != Type::DGRAM {
                return Err(Error::new(Code::EPROTOTYPE));
            }
            ip_address(socket.local_addr()?)?;
            set_buffers(&socket, options.send_buffer, options.receive_buffer)?;
            Ok(socket.set_nonblocking(true)?)
        })();
        match checked {
            Ok(()) => open(lp, socket, options, handler),
            Err(error) => Err((error, Some(socket.into_inner()))),
        }
    }

    /// Hands the socket out and closes the handle, whose `on_close` comes as ever. The socket does
    /// not block. Datagrams that kolo has received and not handed out yet are lost; those that are
    /// still in the socket may have been put together by the system already, unless it was made
    /// without [`UdpOptions::receive_offload`].
    ///
    /// Errors: [`Code::EBUSY`] while datagrams are queued, [`Code::EBADF`] for a closed socket.
    pub fn release(self, lp: &Loop) -> Result<Socket> {
        lp.needs_kernel()?;
        let mut core = lp.core()?;
        flush(&mut core, self.0);
        let core = &mut *core;
        let udp = state(&mut core.handles, self.0)?;
        if udp.must_queue() {
            return Err(Code::EBUSY.into());
        }
        if udp.source.state.contains(State::CONTROL) {
            // Off for the next owner. Where it could be switched on, it can be switched off.
            let _ = udp_options::set_coalescing(udp.source.socket()?, false);
        }
        let socket = core.driver.release(self.0, &mut udp.source);
        event_loop::close(core, self.0)?;
        socket.into_socket().ok_or(Code::ENOTCONN.into())
    }
}

/// A handle for a socket that is bound, or that somebody else made.
fn open(
    lp: &Loop,
    socket: Held<Socket>,
    options: &UdpOptions,
    handler: Box<dyn UdpHandler>,
) -> std::result::Result<UdpSocket, (Error, Option<Socket>)> {
    let state = match lp.can_insert().and_then(|()| prepare(&socket, options)) {
        Ok(state) => state,
        Err(error) => return Err((error, Some(socket.into_inner()))),
    };
    let source = Source {
        state: state.0,
        ..Source::new(Object::Socket(socket))
    };
    begin(lp, source, state.1, handler)
}

/// A handle for a socket that is ready to be used.
fn begin(
    lp: &Loop,
    source: Source,
    state: UdpState,
    handler: Box<dyn UdpHandler>,
) -> std::result::Result<UdpSocket, (Error, Option<Socket>)> {
    // Asked first: the user's code may call the loop.
    let receives = handler.receives();
    let state = UdpState {
        source,
        handler: Some(handler),
        ..state
    };
    let id = lp.insert(Body::Udp(Box::new(state)));
    let id = id.map_err(|error| (error, None))?;
    let begun = match receives {
        true => lp
            .core()
            .and_then(|mut core| receiving::start(&mut core, id)),
        false => Ok(()),
    };
    match begun {
        Ok(()) => Ok(UdpSocket(id)),
        Err(error) => Err((error, discard(lp, id))),
    }
}

/// A handle for a socket of a simulation.
#[cfg(feature = "sim")]
fn open_simulated(
    lp: &Loop,
    address: SocketAddr,
    options: &UdpOptions,
    handler: Box<dyn UdpHandler>,
) -> Result<UdpSocket> {
    lp.can_insert()?;
    let (source, local) = {
        let core = lp.core()?;
        let simulated = core.driver.simulated().ok_or(Code::ENOTSUP)?;
        let source = simulated.open_for_datagrams(
            address,
            (options.reuse_address, options.reuse_port, options.ipv6_only),
            (options.send_buffer, options.receive_buffer),
            options.report_errors,
        )?;
        let local = core.driver.endpoint(&source)?.local_address()?;
        (source, local)
    };
    let mut status = Status::empty();
    status.set(Status::IPV6, local.is_ipv6());
    let state = UdpState {
        source: Source::new(Object::None),
        status,
        segment_limit: u16::MAX,
        handler: None,
        local,
        peer: None,
        parked: None,
        queue: None,
    };
    begin(lp, source, state, handler).map_err(|(error, _)| error)
}

/// Sets what concerns receiving and sending, and says what is known of the socket then.
fn prepare(socket: &Socket, options: &UdpOptions) -> Result<(State, UdpState)> {
    let local = ip_address(socket.local_addr()?)?;
    // Whether others hold it too is known of adopted ones only, and closing one is rare enough.
    let mut state = State::DATAGRAMS | State::SHARED;
    if options.receive_info {
        udp_options::set_receive_info(socket, true)?;
    }
    if options.receive_tos {
        udp_options::set_receive_tos(socket, true)?;
    }
    if options.report_errors {
        udp_options::set_receive_errors(socket, true)?;
        state |= State::ERROR_QUEUE;
    }
    // Older kernels lack it, and nothing is lost then.
    let coalesces = options.receive_offload && udp_options::set_coalescing(socket, true).is_ok();
    state.set(
        State::CONTROL,
        coalesces || options.receive_info || options.receive_tos,
    );
    let mut status = Status::empty();
    status.set(Status::IPV6, local.is_ipv6());
    let segments = options.send_offload && cfg!(any(target_os = "linux", target_os = "android"));
    let udp = UdpState {
        source: Source::new(Object::None),
        status,
        segment_limit: if segments { u16::MAX } else { 0 },
        handler: None,
        local,
        peer: socket.peer_addr().ok().and_then(|peer| peer.as_socket()),
        parked: None,
        queue: None,
    };
    Ok((state, udp))
}

/// Takes a socket out of the loop that nobody has heard of yet.
fn discard(lp: &Loop, id: Id) -> Option<Socket> {
    let mut core = lp.core.borrow_mut();
    let Core {
        handles, driver, ..
    } = &mut *core;
    let udp = state(handles, id).ok();
    let object = udp.map(|udp| driver.release(id, &mut udp.source));
    let socket = object.and_then(Object::into_socket);
    let entry = handles.remove(id);
    drop(core);
    // Its handler's destructor may call the loop.
    drop(entry);
    socket
}
