//! UDP sockets: making them, sending, receiving.

mod gathered;
mod handler;
mod options;
mod queue;
mod receiving;
mod sending;
mod state;
#[cfg(test)]
mod tests;

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::tcp::{ip_address, set_buffers};
use crate::driver::{Driver, Object, Source, State};
use crate::error::{Code, Error, Result};
use crate::event_loop::{self, Core, Loop};
use crate::handles::{Body, Id};
use crate::stream::{Flow, Payload, Payloads};
use crate::sys::{self, udp_options, RawSocket};

pub(crate) use gathered::Gathered;
pub use handler::{Datagram, DatagramError, UdpHandler};
pub(crate) use queue::{Queue, SendCallback};
pub(crate) use sending::flush;
pub(crate) use state::UdpState;
use state::{in_family, state, Status};

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
    /// Asks for [`Datagram::to`] and [`Datagram::interface`]. Costs about 0.1 µs a datagram.
    /// [`Code::ENOTSUP`] where kolo has no way to it (all but Linux).
    pub receive_info: bool,
    /// Asks for [`Datagram::tos`]. As `receive_info`.
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

/// Where a datagram goes, and how. `..Default::default()` leaves the rest to the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transmit {
    /// Where to; `None`: to the peer that the socket is connected to.
    pub to: Option<SocketAddr>,
    /// The local address to send from: [`Datagram::to`] of what is answered, on a machine with
    /// several. [`Code::ENOTSUP`] where kolo has no way to it (all but Linux).
    pub source: Option<IpAddr>,
    /// The number of the interface to send by; 0: as the system routes it. As `source`.
    pub interface: u32,
    /// The traffic class byte; `None`: the socket's. As `source`.
    pub tos: Option<u8>,
    /// Makes several datagrams of the bytes, each of this size but the last, which may be shorter:
    /// at most 64, and 65,507 bytes in all (IPv6: 65,527). Where the system cannot take them
    /// apart, kolo does.
    pub segment_size: Option<u16>,
}

impl Transmit {
    /// To this address.
    pub fn to(address: SocketAddr) -> Transmit {
        Transmit {
            to: Some(address),
            ..Transmit::default()
        }
    }
}

/// A UDP socket (RFC 768).
///
/// # Sending
///
/// [`UdpSocket::send_to`] never blocks: it sends what the system takes at once and queues what it
/// does not. Those of one callback are sent together when it returns, and those that the
/// datagrams of one batch cause when the batch has been handed out. The queue has a low and a high
/// watermark, at which [`UdpHandler::on_drain`] and [`Flow::Full`] tell the producer to go on and
/// to pause, and a hard bound. What the system or the network has against a datagram comes to
/// [`UdpHandler::on_error`], and the socket lives on.
///
/// # Receiving
///
/// A socket whose handler [receives](UdpHandler::receives) does so from the start, and is active
/// and so keeps the loop alive. Received memory belongs to the loop: an idle socket has none.
///
/// # Example
///
/// ```
/// use kolo::{Datagram, Loop, RunMode, UdpSocket};
///
/// let lp = Loop::new()?;
/// let echo = |lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>| {
///     socket.send_to(lp, datagram.data, datagram.from).unwrap();
/// };
/// let server = UdpSocket::bind(&lp, "127.0.0.1:0".parse().unwrap(), echo)?;
///
/// let answered = |lp: &Loop, _, datagram: &Datagram<'_>| {
///     assert_eq!(datagram.data, b"hello");
///     lp.stop();
/// };
/// let client = UdpSocket::connect(&lp, server.local_address(&lp)?, answered)?;
/// client.send(&lp, b"hello")?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpSocket(pub(crate) Id);

crate::handles::handle_type!(UdpSocket);

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
        open(lp, socket, options, handler).map_err(|(error, _socket)| error)
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
    /// pass a duplicate to keep it.
    pub fn adopt(
        lp: &Loop,
        socket: impl Into<Socket>,
        options: &UdpOptions,
        handler: impl UdpHandler,
    ) -> Result<UdpSocket> {
        let adopted = UdpSocket::adopt_boxed(lp, socket.into(), options, Box::new(handler));
        adopted.map_err(|(error, _socket)| error)
    }

    /// As [`UdpSocket::adopt`]; the socket comes back with an error.
    pub(crate) fn adopt_boxed(
        lp: &Loop,
        socket: Socket,
        options: &UdpOptions,
        handler: Box<dyn UdpHandler>,
    ) -> std::result::Result<UdpSocket, (Error, Option<Socket>)> {
        let checked = (|| {
            if socket.r#type()? != Type::DGRAM {
                return Err(Error::new(Code::EPROTOTYPE));
            }
            ip_address(socket.local_addr()?)?;
            set_buffers(&socket, options.send_buffer, options.receive_buffer)?;
            Ok(socket.set_nonblocking(true)?)
        })();
        match checked {
            Ok(()) => open(lp, socket, options, handler),
            Err(error) => Err((error, Some(socket))),
        }
    }

    /// Hands the socket out and closes the handle, whose `on_close` comes as ever. The socket does
    /// not block. Datagrams that kolo has received and not handed out yet are lost; those that are
    /// still in the socket may have been put together by the system already, unless it was made
    /// without [`UdpOptions::receive_offload`].
    ///
    /// Errors: [`Code::EBUSY`] while datagrams are queued, [`Code::EBADF`] for a closed socket.
    pub fn release(self, lp: &Loop) -> Result<Socket> {
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

    /// Gives the socket another handler; the former one is dropped.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn attach(self, lp: &Loop, handler: impl UdpHandler) -> Result<()> {
        self.attach_boxed(lp, Box::new(handler))
    }

    pub(crate) fn attach_boxed(self, lp: &Loop, handler: Box<dyn UdpHandler>) -> Result<()> {
        let mut core = lp.core()?;
        let former = state(&mut core.handles, self.0)?.handler.replace(handler);
        // Its destructor may call the loop.
        drop(core);
        drop(former);
        Ok(())
    }

    /// Connects the socket to `peer`, or to another one: [`UdpSocket::send`] sends there, only
    /// what comes from there is received, and the network's errors are told. Nothing is sent for
    /// it, so it says nothing about whether there is a peer.
    ///
    /// Errors: [`Code::EBUSY`] while datagrams are queued, [`Code::EAFNOSUPPORT`] for an address
    /// of a family that the socket has not, [`Code::ENETUNREACH`] without a route,
    /// [`Code::EACCES`] for a broadcast address that was not asked for; [`Code::EBADF`] for a
    /// closed socket.
    pub fn connect_to(self, lp: &Loop, peer: SocketAddr) -> Result<()> {
        self.set_peer(lp, Some(peer))
    }

    /// Undoes [`UdpSocket::connect_to`]. Not connected: nothing happens.
    ///
    /// Errors: [`Code::EBUSY`] while datagrams are queued, [`Code::EADDRINUSE`] if somebody took
    /// the port meanwhile (Linux gives up one that the system chose, and kolo takes it again),
    /// [`Code::ENOTSUP`] where the system has no such thing; [`Code::EBADF`] for a closed socket.
    pub fn disconnect(self, lp: &Loop) -> Result<()> {
        self.set_peer(lp, None)
    }

    fn set_peer(self, lp: &Loop, peer: Option<SocketAddr>) -> Result<()> {
        let mut core = lp.core()?;
        flush(&mut core, self.0);
        let udp = state(&mut core.handles, self.0)?;
        if udp.must_queue() {
            return Err(Code::EBUSY.into());
        }
        let socket = udp.source.socket()?;
        match peer {
            Some(peer) => {
                let peer = in_family(peer, udp.status.contains(Status::IPV6))?;
                socket.connect(&peer.into())?;
                udp.peer = Some(peer);
            }
            None if udp.peer.is_some() => {
                sys::disconnect(socket)?;
                udp.peer = None;
                if ip_address(socket.local_addr()?)?.port() == 0 {
                    socket.bind(&udp.local.into())?;
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Receives, after a [`UdpSocket::receive_stop`]; or from the start, for a handler that does
    /// not by itself. Receiving already: nothing happens.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket; those of the system when receiving cannot
    /// begin.
    pub fn receive_start(self, lp: &Loop) -> Result<()> {
        receiving::start(&mut *lp.core()?, self.0)
    }

    /// Receives no more, from now on: no `on_datagram` comes until [`UdpSocket::receive_start`].
    /// What kolo had received is kept until then; beyond that the system's buffer fills, and what
    /// comes then is lost.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn receive_stop(self, lp: &Loop) -> Result<()> {
        receiving::stop(&mut *lp.core()?, self.0)
    }

    /// Sends a datagram to the peer of a connected socket. What the system does not take at once
    /// is copied and queued.
    ///
    /// Errors: [`Code::ENOBUFS`] when the queue would exceed its bound, [`Code::EMSGSIZE`] for
    /// more than a datagram can hold, [`Code::EDESTADDRREQ`] for a socket that is not connected,
    /// [`Code::EBADF`] for a closed socket. Then nothing is taken. What the system says goes to
    /// [`UdpHandler::on_error`].
    pub fn send(self, lp: &Loop, data: &[u8]) -> Result<Flow> {
        self.send_with(lp, data, &Transmit::default())
    }

    /// Sends a datagram to `to`.
    ///
    /// Errors: as [`UdpSocket::send`]; [`Code::EAFNOSUPPORT`] for an address of a family that the
    /// socket has not.
    pub fn send_to(self, lp: &Loop, data: &[u8], to: SocketAddr) -> Result<Flow> {
        self.send_with(lp, data, &Transmit::to(to))
    }

    /// Sends a datagram, or several (see [`Transmit::segment_size`]), as `transmit` says.
    ///
    /// Errors: as [`UdpSocket::send_to`]; [`Code::EINVAL`] for a segment size of 0 and for more
    /// than 64 segments; [`Code::ENOTSUP`] for what the system lacks.
    pub fn send_with(self, lp: &Loop, data: &[u8], transmit: &Transmit) -> Result<Flow> {
        self.send_vectored(lp, &[IoSlice::new(data)], transmit)
    }

    /// As [`UdpSocket::send_with`], for bytes in several pieces.
    ///
    /// Errors: as there.
    pub fn send_vectored(
        self,
        lp: &Loop,
        slices: &[IoSlice<'_>],
        transmit: &Transmit,
    ) -> Result<Flow> {
        let gathers = lp.gathers();
        let mut core = lp.core()?;
        with_few(slices, |slices| {
            sending::send(&mut core, self.0, slices, transmit, gathers)
        })
    }

    /// Sends memory without copying it, and calls `done` when the system has taken it, or with its
    /// error: then [`UdpHandler::on_error`] is not told. When the socket closes first, `done` hears
    /// [`Code::ECANCELED`]. A callback that is still to come counts for 64 bytes in the queue.
    ///
    /// Errors: as [`UdpSocket::send_with`]; then `done` is not called.
    pub fn send_owned(
        self,
        lp: &Loop,
        payload: impl Into<Payload>,
        transmit: &Transmit,
        done: impl FnOnce(&Loop, UdpSocket, Result<()>) + 'static,
    ) -> Result<Flow> {
        let payloads = Payloads::One(payload.into());
        self.send_payloads(lp, payloads, transmit, Some(Box::new(done)))
    }

    /// As [`UdpSocket::send_owned`], for bytes in several pieces.
    ///
    /// Errors: as there.
    pub fn send_owned_vectored(
        self,
        lp: &Loop,
        payloads: Vec<Payload>,
        transmit: &Transmit,
        done: impl FnOnce(&Loop, UdpSocket, Result<()>) + 'static,
    ) -> Result<Flow> {
        self.send_payloads(lp, Payloads::Many(payloads), transmit, Some(Box::new(done)))
    }

    pub(crate) fn send_payloads(
        self,
        lp: &Loop,
        payloads: Payloads,
        transmit: &Transmit,
        done: Option<SendCallback>,
    ) -> Result<Flow> {
        sending::send_owned(&mut *lp.core()?, self.0, payloads, transmit, done)
    }

    /// Sends now or not at all: nothing is queued, and the system's error is the result.
    ///
    /// Errors: [`Code::EAGAIN`] when the socket is full or datagrams are queued; then
    /// [`UdpHandler::on_drain`] comes when there is room. Else as [`UdpSocket::send_with`], and
    /// what the system says.
    pub fn try_send(self, lp: &Loop, data: &[u8], transmit: &Transmit) -> Result<()> {
        self.try_send_vectored(lp, &[IoSlice::new(data)], transmit)
    }

    /// As [`UdpSocket::try_send`], for bytes in several pieces.
    ///
    /// Errors: as there.
    pub fn try_send_vectored(
        self,
        lp: &Loop,
        slices: &[IoSlice<'_>],
        transmit: &Transmit,
    ) -> Result<()> {
        let mut core = lp.core()?;
        with_few(slices, |slices| {
            sending::try_send(&mut core, self.0, slices, transmit)
        })
    }

    /// Where the queue of datagrams to send is full and where it has drained, in bytes, and what
    /// it holds at most. A datagram counts for its bytes and 64 more. As made: 64 KiB, 256 KiB,
    /// 1 MiB.
    ///
    /// Errors: [`Code::EINVAL`] unless `low <= high <= limit` and `high > 0`, [`Code::EBADF`]
    /// for a closed socket.
    pub fn set_watermarks(self, lp: &Loop, low: usize, high: usize, limit: usize) -> Result<()> {
        if low > high || high > limit || high == 0 {
            return Err(Code::EINVAL.into());
        }
        let mut core = lp.core()?;
        let udp = state(&mut core.handles, self.0)?;
        udp.queue()
            .set_marks(queue::Watermarks { low, high, limit });
        sending::settle(&mut core, self.0);
        Ok(())
    }

    /// Bytes of datagrams that were sent and not yet taken by the system, each with 64 more.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn queued(self, lp: &Loop) -> Result<usize> {
        let mut core = lp.core()?;
        let gathered = core.datagrams.cost_of(self.0);
        Ok(state(&mut core.handles, self.0)?.queued() + gathered)
    }

    /// The address of this end.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn local_address(self, lp: &Loop) -> Result<SocketAddr> {
        self.with_socket(lp, |socket| ip_address(socket.local_addr()?))
    }

    /// The address that it is connected to.
    ///
    /// Errors: [`Code::ENOTCONN`] for a socket that is not connected, [`Code::EBADF`] for a closed
    /// one.
    pub fn peer_address(self, lp: &Loop) -> Result<SocketAddr> {
        let mut core = lp.core()?;
        let peer = state(&mut core.handles, self.0)?.peer;
        peer.ok_or(Code::ENOTCONN.into())
    }

    /// The socket's descriptor, to look at or to set options that kolo has not. It stays kolo's:
    /// do not close it, nor change whether it blocks, nor connect it.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn raw_socket(self, lp: &Loop) -> Result<RawSocket> {
        self.with_socket(lp, |socket| Ok(sys::descriptor_of(socket)))
    }

    fn with_socket<R>(self, lp: &Loop, run: impl FnOnce(&Socket) -> Result<R>) -> Result<R> {
        let mut core = lp.core()?;
        run(state(&mut core.handles, self.0)?.source.socket()?)
    }
}

/// Pieces that the system takes as they are (Linux takes 1024, POSIX promises 16).
const SLICES_MAX: usize = 16;

/// Hands the pieces on, put together if there are too many.
fn with_few<R>(
    slices: &[IoSlice<'_>],
    send: impl FnOnce(&[IoSlice<'_>]) -> Result<R>,
) -> Result<R> {
    if slices.len() <= SLICES_MAX {
        return send(slices);
    }
    let mut whole = Vec::new();
    for slice in slices {
        if slice.len() > sys::datagrams::DATAGRAM_MAX - whole.len() {
            return Err(Code::EMSGSIZE.into());
        }
        whole.extend_from_slice(slice);
    }
    send(&[IoSlice::new(&whole)])
}

/// A handle for a socket that is bound, or that somebody else made.
fn open(
    lp: &Loop,
    socket: Socket,
    options: &UdpOptions,
    handler: Box<dyn UdpHandler>,
) -> std::result::Result<UdpSocket, (Error, Option<Socket>)> {
    // Asked first: the user's code may call the loop.
    let receives = handler.receives();
    let state = match lp.can_insert().and_then(|()| prepare(&socket, options)) {
        Ok(state) => state,
        Err(error) => return Err((error, Some(socket))),
    };
    let state = UdpState {
        source: Source {
            state: state.0,
            ..Source::of_socket(socket)
        },
        handler: Some(handler),
        ..state.1
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
