//! Options of a UDP socket that can be changed while it is open.

use std::net::IpAddr;

use super::UdpSocket;
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::sys::udp_options::{self, Fragmentation};

impl UdpSocket {
    /// Joins a multicast group at the interface with this number (0: the system's choice; see
    /// [`Datagram::interface`](crate::Datagram::interface)), or with a `source` only what that one
    /// sends to the group (RFC 4607). It can be joined at several interfaces, and for several
    /// sources.
    ///
    /// A socket that is bound to the unspecified address also gets what is sent to groups that
    /// others on this machine joined; bind to the group's address to get only that.
    ///
    /// Errors: [`Code::EINVAL`] for an address that is no group, for a source of another family
    /// and for a group of a family that the socket has not; [`Code::ENODEV`] for an interface that
    /// there is not, or without a route; [`Code::EADDRINUSE`] for what is joined already;
    /// [`Code::ENOBUFS`] for more groups than the system allows; [`Code::ENOTSUP`] for what the
    /// system lacks; [`Code::EBADF`] for a closed socket.
    pub fn join(
        self,
        lp: &Loop,
        group: IpAddr,
        source: Option<IpAddr>,
        interface: u32,
    ) -> Result<()> {
        self.set_membership(lp, true, group, source, interface)
    }

    /// Leaves what was joined with the same group, source and interface.
    ///
    /// Errors: as [`UdpSocket::join`]; [`Code::EADDRNOTAVAIL`] for what was not joined.
    pub fn leave(
        self,
        lp: &Loop,
        group: IpAddr,
        source: Option<IpAddr>,
        interface: u32,
    ) -> Result<()> {
        self.set_membership(lp, false, group, source, interface)
    }

    fn set_membership(
        self,
        lp: &Loop,
        join: bool,
        group: IpAddr,
        source: Option<IpAddr>,
        interface: u32,
    ) -> Result<()> {
        let same_family = source.is_none_or(|source| source.is_ipv4() == group.is_ipv4());
        if !group.is_multicast() || !same_family {
            return Err(Code::EINVAL.into());
        }
        self.with_socket(lp, |socket| {
            let outcome = udp_options::set_membership(socket, join, group, source, interface);
            outcome.map_err(|error| match crate::Error::from(error) {
                // What Linux calls an option of the other family.
                error if error.code() == Code::ENOPROTOOPT => Code::EINVAL.into(),
                error => error,
            })
        })
    }

    /// Whether this machine, too, gets what the socket sends to groups it has joined. As made: yes.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn set_multicast_loop(self, lp: &Loop, on: bool) -> Result<()> {
        self.with_socket(lp, |socket| {
            Ok(udp_options::set_multicast_loop(socket, on)?)
        })
    }

    /// How many routers what is sent to groups may pass: 0 stays on this machine, 1, as made, on
    /// the link.
    ///
    /// Errors: [`Code::EINVAL`] above 255, [`Code::EBADF`] for a closed socket.
    pub fn set_multicast_ttl(self, lp: &Loop, hops: u32) -> Result<()> {
        if hops > 255 {
            return Err(Code::EINVAL.into());
        }
        self.with_socket(lp, |socket| {
            Ok(udp_options::set_multicast_ttl(socket, hops)?)
        })
    }

    /// The number of the interface by which what is sent to groups leaves; 0, as made: as the
    /// system routes it.
    ///
    /// Errors: [`Code::ENODEV`] and [`Code::EADDRNOTAVAIL`] for an interface that there is not,
    /// [`Code::EBADF`] for a closed socket.
    pub fn set_multicast_interface(self, lp: &Loop, interface: u32) -> Result<()> {
        self.with_socket(lp, |socket| {
            Ok(udp_options::set_multicast_interface(socket, interface)?)
        })
    }

    /// Lets datagrams be sent to broadcast addresses, or not.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn set_broadcast(self, lp: &Loop, on: bool) -> Result<()> {
        self.with_socket(lp, |socket| Ok(socket.set_broadcast(on)?))
    }

    /// How many routers a datagram may pass (the hop limit of IPv6).
    ///
    /// Errors: [`Code::EINVAL`] for 0 and above 255, [`Code::EBADF`] for a closed socket.
    pub fn set_ttl(self, lp: &Loop, hops: u32) -> Result<()> {
        if !(1..=255).contains(&hops) {
            return Err(Code::EINVAL.into());
        }
        self.with_socket(lp, |socket| Ok(udp_options::set_ttl(socket, hops)?))
    }

    /// The traffic class byte of what is sent: see [`Datagram::tos`](crate::Datagram::tos).
    ///
    /// Errors: [`Code::EPERM`] for what takes privileges, [`Code::EBADF`] for a closed socket.
    pub fn set_tos(self, lp: &Loop, tos: u8) -> Result<()> {
        self.with_socket(lp, |socket| Ok(udp_options::set_tos(socket, tos)?))
    }

    /// What becomes of datagrams that are larger than a link on their way takes.
    ///
    /// Errors: [`Code::ENOTSUP`] where kolo has no way to it (all but Linux, FreeBSD and Darwin),
    /// [`Code::EBADF`] for a closed socket.
    pub fn set_fragmentation(self, lp: &Loop, how: Fragmentation) -> Result<()> {
        self.with_socket(lp, |socket| {
            Ok(udp_options::set_fragmentation(socket, how)?)
        })
    }

    /// The sizes of the kernel's buffers in bytes; `None` leaves one as it is. The system may
    /// give more or less.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn set_buffers(self, lp: &Loop, send: Option<u32>, receive: Option<u32>) -> Result<()> {
        self.with_endpoint(lp, |endpoint| endpoint.set_buffers(send, receive))
    }

    /// The sizes of the kernel's send and receive buffers in bytes, as the system counts them.
    ///
    /// Errors: [`Code::EBADF`] for a closed socket.
    pub fn buffers(self, lp: &Loop) -> Result<(usize, usize)> {
        self.with_endpoint(lp, |endpoint| endpoint.buffers())
    }
}
