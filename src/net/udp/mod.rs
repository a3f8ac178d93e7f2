//! UDP sockets: making them, sending, receiving.

mod gathered;
mod handler;
mod opening;
mod options;
mod queue;
mod receiving;
mod sending;
mod state;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod transmitting;

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use socket2::Socket;

use crate::driver::endpoint::{ip_address, Endpoint};
use crate::error::{Code, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::Id;
use crate::stream::{Flow, Payload, Payloads};
use crate::sys::{self, RawSocket};

pub(crate) use gathered::Gathered;
pub use handler::{Datagram, DatagramError, UdpHandler};
pub use opening::UdpOptions;
pub(crate) use queue::{Queue, SendCallback};
pub(crate) use sending::flush;
pub(crate) use state::UdpState;
use state::{in_family, state, Status};

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

/// Names an owned send of a UDP socket: see [`UdpSocket::send_owned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SendId(pub(crate) u64);

impl UdpSocket {
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

    /// The word that the handler in place keeps; `None` without one, and while it runs.
    #[cfg(feature = "capi")]
    pub(crate) fn embedder(self, lp: &Loop) -> Result<Option<*mut ()>> {
        let mut core = lp.core()?;
        let udp = state(&mut core.handles, self.0)?;
        Ok(udp.handler.as_ref().map(|handler| handler.embedder()))
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
        let Core {
            handles, driver, ..
        } = &mut *core;
        let udp = state(handles, self.0)?;
        if udp.must_queue() {
            return Err(Code::EBUSY.into());
        }
        let endpoint = driver.endpoint(&udp.source)?;
        #[cfg(feature = "sim")]
        if let Endpoint::Simulated(world, key) = endpoint {
            let ipv6 = udp.status.contains(Status::IPV6);
            let peer = peer.map(|peer| in_family(peer, ipv6)).transpose()?;
            let mut world = world.borrow_mut();
            world.set_peer(key, peer)?;
            if peer.is_none() && udp.peer.is_some() {
                world.bind_again(key, udp.local);
            }
            udp.peer = peer;
            return Ok(());
        }
        let socket = endpoint.kernel()?;
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
    /// error: then [`UdpHandler::on_error`] is not told. When the socket closes first, or the send is
    /// taken back ([`UdpSocket::cancel_send`]), `done` hears [`Code::ECANCELED`]. A callback that is
    /// still to come counts for 64 bytes in the queue.
    ///
    /// Errors: as [`UdpSocket::send_with`]; then `done` is not called.
    pub fn send_owned(
        self,
        lp: &Loop,
        payload: impl Into<Payload>,
        transmit: &Transmit,
        done: impl FnOnce(&Loop, UdpSocket, Result<()>) + 'static,
    ) -> Result<(Flow, SendId)> {
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
    ) -> Result<(Flow, SendId)> {
        self.send_payloads(lp, Payloads::Many(payloads), transmit, Some(Box::new(done)))
    }

    pub(crate) fn send_payloads(
        self,
        lp: &Loop,
        payloads: Payloads,
        transmit: &Transmit,
        done: Option<SendCallback>,
    ) -> Result<(Flow, SendId)> {
        sending::send_owned(&mut *lp.core()?, self.0, payloads, transmit, done)
    }

    /// Takes an owned send back that waits in the queue: nothing of it goes, and its `done` hears
    /// [`Code::ECANCELED`].
    ///
    /// Errors: [`Code::EBUSY`] when some of its segments are sent already, [`Code::ENOENT`] when it
    /// has ended, [`Code::EBADF`] for a closed socket.
    pub fn cancel_send(self, lp: &Loop, send: SendId) -> Result<()> {
        sending::cancel(&mut *lp.core()?, self.0, send)
    }

    /// Sends now or not at all: nothing is queued, and the system's error is the result. (Of several
    /// datagrams, see [`Transmit::segment_size`], some may go and others not: that is success. What
    /// was refused is told to [`UdpHandler::on_error`], and what found no room is queued.)
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
        self.with_endpoint(lp, |endpoint| endpoint.local_address())
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
        state(&mut lp.core()?.handles, self.0)?.source.show()
    }

    fn with_endpoint<R>(self, lp: &Loop, run: impl FnOnce(Endpoint<'_>) -> Result<R>) -> Result<R> {
        let mut core = lp.core()?;
        let Core {
            handles, driver, ..
        } = &mut *core;
        run(driver.endpoint(&state(handles, self.0)?.source)?)
    }

    /// For what only the kernel's sockets have: [`Code::ENOTSUP`] in a simulation.
    fn with_socket<R>(self, lp: &Loop, run: impl FnOnce(&Socket) -> Result<R>) -> Result<R> {
        self.with_endpoint(lp, |endpoint| run(endpoint.kernel()?))
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
