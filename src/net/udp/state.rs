//! What the table of handles has of a UDP socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use bitflags::bitflags;

use super::handler::{DatagramError, UdpHandler};
use super::queue::Queue;
use super::Transmit;
use crate::driver::{Source, State};
use crate::error::{Code, Result};
use crate::handles::{Body, Handles, Id};
use crate::sys::datagrams::{Batch, How};

bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct Status: u8 {
        /// The user wants to receive.
        const RECEIVING = 1;
        /// Stands in the deferred queue.
        const DEFERRED = 1 << 1;
        /// `on_drain` is due.
        const DRAINED = 1 << 2;
        /// Sending used up its share of the turn and is to go on in the next.
        const SEND_ON = 1 << 3;
        /// `try_send` found it full: `on_drain` is due when it is not.
        const WANTS_ROOM = 1 << 5;
        /// An IPv6 socket.
        const IPV6 = 1 << 4;
    }
}

pub(crate) struct UdpState {
    pub source: Source,
    pub(super) status: Status,
    /// Datagrams up to this size are put together for the kernel to take apart (`UDP_SEGMENT`).
    /// What it refuses is not asked for again; 0: never.
    pub(super) segment_limit: u16,
    /// Out while it runs.
    pub(super) handler: Option<Box<dyn UdpHandler>>,
    /// The address that it was bound to, before it was connected.
    pub(super) local: SocketAddr,
    /// The address it is connected to.
    pub(super) peer: Option<SocketAddr>,
    /// Datagrams that came and were not handed out, since the user stopped receiving or a
    /// callback unwound. While there are some, the driver does not receive.
    pub(super) parked: Option<Box<Batch>>,
    /// What waits to be sent, or to be told.
    pub(super) queue: Option<Box<Queue>>,
}

/// The state of an open UDP socket.
pub(super) fn state(handles: &mut Handles, id: Id) -> Result<&mut UdpState> {
    match &mut handles.get_mut(id)?.body {
        Body::Udp(udp) => Ok(udp),
        _ => Err(Code::EBADF.into()),
    }
}

pub(super) fn slot(body: &mut Body) -> Option<&mut Option<Box<dyn UdpHandler>>> {
    match body {
        Body::Udp(udp) => Some(&mut udp.handler),
        _ => None,
    }
}

impl UdpState {
    pub fn into_final_callbacks(self) -> (Option<Box<Queue>>, Option<Box<dyn UdpHandler>>) {
        (self.queue, self.handler)
    }

    pub(super) fn queue(&mut self) -> &mut Queue {
        self.queue.get_or_insert_with(Default::default)
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.full)
    }

    /// Whether a datagram must stand in line.
    pub(super) fn must_queue(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.is_waiting())
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes())
    }

    pub(super) fn is_active(&self) -> bool {
        self.status.intersects(Status::RECEIVING | Status::DEFERRED)
            || self.source.state.contains(State::SEND)
            || self.must_queue()
    }

    pub(super) fn note_error(&mut self, error: DatagramError) {
        self.queue().note_error(error);
    }

    /// A queue that was needed for a while is not kept by a socket that is idle.
    pub(super) fn tidy(&mut self) {
        if self.queue.as_ref().is_some_and(|queue| queue.is_spare()) {
            self.queue = None;
        }
    }

    /// Where a datagram goes and how, as the system is to be told.
    pub(super) fn route(&self, transmit: &Transmit) -> Result<(Option<SocketAddr>, How)> {
        let ipv6 = self.status.contains(Status::IPV6);
        let to = match transmit.to {
            Some(to) => Some(in_family(to, ipv6)?),
            None if self.peer.is_none() => return Err(Code::EDESTADDRREQ.into()),
            None => None,
        };
        let ipv4 = match to.or(self.peer) {
            Some(SocketAddr::V6(v6)) => v6.ip().to_ipv4_mapped().is_some(),
            _ => true,
        };
        let source = match transmit.source {
            Some(source) => Some(in_family(SocketAddr::new(source, 0), ipv6)?.ip()),
            None => None,
        };
        let how = How {
            source,
            interface: transmit.interface,
            tos: transmit.tos,
            ipv4,
        };
        Ok((to, how))
    }

    pub fn describe(&self, line: &mut String) {
        use std::fmt::Write;
        let _ = write!(
            line,
            " descriptor={:?} queued={}",
            self.source.descriptor(),
            self.queued()
        );
        if let Some(peer) = &self.peer {
            let _ = write!(line, " peer={peer}");
        }
        if self.status.contains(Status::RECEIVING) {
            line.push_str(" receiving");
        }
    }
}

/// An address as sockets of the family have it: IPv4's inside IPv6's (RFC 4291, 2.5.5.2), or out
/// of it.
pub(super) fn in_family(address: SocketAddr, ipv6: bool) -> Result<SocketAddr> {
    match (address, ipv6) {
        (SocketAddr::V4(v4), true) => {
            let mapped = v4.ip().to_ipv6_mapped();
            Ok(SocketAddrV6::new(mapped, v4.port(), 0, 0).into())
        }
        (SocketAddr::V6(v6), false) => {
            let ip: Option<Ipv4Addr> = v6.ip().to_ipv4_mapped();
            let ip = ip.ok_or(crate::Error::new(Code::EAFNOSUPPORT))?;
            Ok(SocketAddr::new(IpAddr::V4(ip), v6.port()))
        }
        (address, _) => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_the_form_of_the_sockets_family() {
        let [v4, mapped, v6]: [SocketAddr; 3] =
            ["192.0.2.1:5", "[::ffff:192.0.2.1]:5", "[2001:db8::1]:5"].map(|a| a.parse().unwrap());
        assert_eq!(in_family(v4, false), Ok(v4));
        assert_eq!(in_family(v4, true), Ok(mapped));
        assert_eq!(in_family(mapped, false), Ok(v4));
        assert_eq!(in_family(mapped, true), Ok(mapped));
        assert_eq!(in_family(v6, true), Ok(v6));
        assert_eq!(in_family(v6, false), Err(Code::EAFNOSUPPORT.into()));
    }
}
