//! What a UDP socket does: its handler.

use std::net::{IpAddr, SocketAddr};

use super::UdpSocket;
use crate::error::Error;
use crate::event_loop::Loop;

/// A datagram that came. Its bytes are there only during the callback.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// What it carries; may be empty.
    pub data: &'a [u8],
    /// Who sent it.
    pub from: SocketAddr,
    /// The address it was sent to, if [`UdpOptions::receive_info`](crate::UdpOptions::receive_info)
    /// asks for it: one of this system's, or a group.
    pub to: Option<IpAddr>,
    /// The number of the interface by which it came, if `receive_info` asks for it; else 0.
    pub interface: u32,
    /// Its traffic class byte, if [`UdpOptions::receive_tos`](crate::UdpOptions::receive_tos) asks
    /// for it: the differentiated services code point (RFC 2474) in the upper six bits, explicit
    /// congestion notification (RFC 3168) in the lower two.
    pub tos: Option<u8>,
    /// It was longer than kolo's room for it, and the rest is lost.
    pub truncated: bool,
}

impl Datagram<'_> {
    /// Explicit congestion notification (RFC 3168, 5): 0 not capable, 1 ECT(1), 2 ECT(0), 3
    /// congestion experienced; `None` if `receive_tos` is off.
    pub fn ecn(&self) -> Option<u8> {
        self.tos.map(|tos| tos & 3)
    }
}

/// A datagram that met an error: one that was sent, or one that should have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramError {
    /// What went wrong.
    pub error: Error,
    /// Where the datagram was to go, where that is known: always for what the system refuses to
    /// send; for what the network tells later, with a connected socket or
    /// [`UdpOptions::report_errors`](crate::UdpOptions::report_errors).
    pub to: Option<SocketAddr>,
    /// Who told, if the network did and `report_errors` is on: a router on the way, or the host.
    pub by: Option<IpAddr>,
    /// For [`Code::EMSGSIZE`](crate::Code::EMSGSIZE) from the network: the largest packet that
    /// would have passed, headers included.
    pub mtu: Option<u32>,
    /// How many datagrams it stands for: those of a run that were refused for the same reason.
    pub count: u32,
}

/// What a UDP socket does: its behaviour, given once.
///
/// The callbacks run on the loop's thread, inside [`Loop::run`], one at a time, never inside the
/// call that causes them. Each may call anything, also close its own socket. A closure
/// `FnMut(&Loop, UdpSocket, &Datagram)` is a handler that only has `on_datagram`.
pub trait UdpHandler: 'static {
    /// A datagram came.
    ///
    /// What is sent here goes to the system, all together, when the datagrams that came with this
    /// one have been handed out, which is before anything else happens: those that one system call
    /// has brought, 32 messages at most.
    fn on_datagram(&mut self, lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>);

    /// The queue of datagrams to send, having stood at the high watermark, has fallen to the low
    /// one.
    fn on_drain(&mut self, _lp: &Loop, _socket: UdpSocket) {}

    /// A datagram met an error: the system refused to send it
    /// ([`Code::EMSGSIZE`](crate::Code::EMSGSIZE), [`Code::ENETUNREACH`](crate::Code::ENETUNREACH),
    /// [`Code::EPERM`](crate::Code::EPERM) from a firewall), or the network said that it did not
    /// arrive ([`Code::ECONNREFUSED`](crate::Code::ECONNREFUSED),
    /// [`Code::EHOSTUNREACH`](crate::Code::EHOSTUNREACH)). The socket lives on.
    fn on_error(&mut self, _lp: &Loop, _socket: UdpSocket, _error: &DatagramError) {}

    /// The socket has closed: the last that is heard of it.
    fn on_close(&mut self, _lp: &Loop, _socket: UdpSocket) {}

    /// Whether the socket receives from the start, without [`UdpSocket::receive_start`].
    fn receives(&self) -> bool {
        true
    }

    /// A word that the C ABI keeps with its handlers.
    #[doc(hidden)]
    fn embedder(&self) -> *mut () {
        std::ptr::null_mut()
    }
}

impl<F: FnMut(&Loop, UdpSocket, &Datagram<'_>) + 'static> UdpHandler for F {
    fn on_datagram(&mut self, lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>) {
        self(lp, socket, datagram)
    }
}
