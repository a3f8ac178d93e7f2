//! Options of UDP sockets, by interface number and for both families, as no crate has them whole.
//!
//! An IPv6 socket may carry IPv4 too, and has both families' options; on some systems it has only
//! its own. So what is IPv6's must work, and what is IPv4's on such a socket is tried.

use std::io;
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
)))]
use std::net::Ipv4Addr;
use std::net::{IpAddr, SocketAddr};

use socket2::{InterfaceIndexOrAddress, Socket};

/// What a socket does with datagrams that are larger than a link on their way takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Fragmentation {
    /// As the system has it: it learns what fits, and fragments what does not.
    System = 0,
    /// They may be fragmented on the way (IPv4: no DF bit).
    Allow = 1,
    /// They are never fragmented: what does not fit by what the system knows of the path is refused
    /// with [`Code::EMSGSIZE`](crate::Code::EMSGSIZE).
    Forbid = 2,
    /// They are never fragmented, and what the system knows of the path is ignored: for programs
    /// that find out themselves what fits (RFC 8899). As `Forbid` where the system knows no
    /// difference.
    Probe = 3,
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Which families' options a socket has.
fn is_v6(socket: &Socket) -> io::Result<bool> {
    Ok(socket.local_addr()?.is_ipv6())
}

/// Sets an option in the socket's family; in IPv4's too, as far as an IPv6 socket has that.
fn both(
    socket: &Socket,
    v4: impl FnOnce() -> io::Result<()>,
    v6: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    if !is_v6(socket)? {
        return v4();
    }
    v6()?;
    let _ = v4();
    Ok(())
}

pub(crate) fn set_ttl(socket: &Socket, hops: u32) -> io::Result<()> {
    let (v4, v6) = (
        || socket.set_ttl_v4(hops),
        || socket.set_unicast_hops_v6(hops),
    );
    both(socket, v4, v6)
}

pub(crate) fn set_tos(socket: &Socket, tos: u8) -> io::Result<()> {
    let tos = u32::from(tos);
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "macos"
    ))]
    let v6 = || socket.set_tclass_v6(tos);
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "macos"
    )))]
    let v6 = unsupported;
    #[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
    let v4 = || socket.set_tos_v4(tos);
    #[cfg(any(target_os = "solaris", target_os = "illumos"))]
    let v4 = || {
        let _ = tos;
        unsupported()
    };
    both(socket, v4, v6)
}

pub(crate) fn set_multicast_loop(socket: &Socket, on: bool) -> io::Result<()> {
    let v4 = || socket.set_multicast_loop_v4(on);
    both(socket, v4, || socket.set_multicast_loop_v6(on))
}

pub(crate) fn set_multicast_ttl(socket: &Socket, hops: u32) -> io::Result<()> {
    let v4 = || socket.set_multicast_ttl_v4(hops);
    both(socket, v4, || socket.set_multicast_hops_v6(hops))
}

pub(crate) fn set_multicast_interface(socket: &Socket, interface: u32) -> io::Result<()> {
    let v4 = || system::set_multicast_interface_v4(socket, interface);
    both(socket, v4, || socket.set_multicast_if_v6(interface))
}

/// Joins or leaves a group, or one source of it, at an interface; 0: the system's choice.
pub(crate) fn set_membership(
    socket: &Socket,
    join: bool,
    group: IpAddr,
    source: Option<IpAddr>,
    interface: u32,
) -> io::Result<()> {
    match (group, source) {
        (IpAddr::V4(group), None) => {
            #[cfg(any(
                target_os = "linux",
                target_os = "android",
                target_os = "freebsd",
                target_vendor = "apple",
                windows
            ))]
            {
                let at = InterfaceIndexOrAddress::Index(interface);
                match join {
                    true => socket.join_multicast_v4_n(&group, &at),
                    false => socket.leave_multicast_v4_n(&group, &at),
                }
            }
            #[cfg(not(any(
                target_os = "linux",
                target_os = "android",
                target_os = "freebsd",
                target_vendor = "apple",
                windows
            )))]
            match (interface, join) {
                (0, true) => socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED),
                (0, false) => socket.leave_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED),
                _ => unsupported(),
            }
        }
        (IpAddr::V6(group), None) => match join {
            true => socket.join_multicast_v6(&group, interface),
            false => socket.leave_multicast_v6(&group, interface),
        },
        (group, Some(source)) => {
            let (group, source) = (SocketAddr::new(group, 0), SocketAddr::new(source, 0));
            system::set_source_membership(socket, join, group, source, interface)
        }
    }
}

pub(crate) use system::{
    set_coalescing, set_fragmentation, set_receive_errors, set_receive_info, set_receive_tos,
};

/// Options that have no wrapper.
#[cfg(unix)]
fn set<T>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let at = std::ptr::from_ref(&value).cast();
    // SAFETY: `value` lives through the call, which reads so many bytes of it.
    let outcome =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, at, size_of::<T>() as _) };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One source of a group, by the calls that take both families (RFC 3678, 5.1).
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
))]
fn set_group_source(
    socket: &Socket,
    join: bool,
    group: SocketAddr,
    source: SocketAddr,
    interface: u32,
) -> io::Result<()> {
    fn storage(address: SocketAddr) -> libc::sockaddr_storage {
        let address = socket2::SockAddr::from(address);
        // SAFETY: the whole storage of an address can be read, and is the system's struct.
        unsafe { address.as_ptr().cast::<libc::sockaddr_storage>().read() }
    }
    // SAFETY: a struct of numbers; its padding is zero, too.
    let mut request: libc::group_source_req = unsafe { std::mem::zeroed() };
    request.gsr_interface = interface;
    request.gsr_group = storage(group);
    request.gsr_source = storage(source);
    let level = match group {
        SocketAddr::V4(_) => libc::IPPROTO_IP,
        SocketAddr::V6(_) => libc::IPPROTO_IPV6,
    };
    let name = match join {
        true => libc::MCAST_JOIN_SOURCE_GROUP,
        false => libc::MCAST_LEAVE_SOURCE_GROUP,
    };
    set(socket, level, name, request)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use super::*;
    use libc::{c_int, IPPROTO_IP, IPPROTO_IPV6};

    pub(super) use super::set_group_source as set_source_membership;

    fn switch(socket: &Socket, v4: c_int, v6: c_int, on: bool) -> io::Result<()> {
        let on = c_int::from(on);
        both(
            socket,
            || set(socket, IPPROTO_IP, v4, on),
            || set(socket, IPPROTO_IPV6, v6, on),
        )
    }

    pub(crate) fn set_receive_info(socket: &Socket, on: bool) -> io::Result<()> {
        switch(socket, libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO, on)
    }

    pub(crate) fn set_receive_tos(socket: &Socket, on: bool) -> io::Result<()> {
        switch(socket, libc::IP_RECVTOS, libc::IPV6_RECVTCLASS, on)
    }

    pub(crate) fn set_receive_errors(socket: &Socket, on: bool) -> io::Result<()> {
        switch(socket, libc::IP_RECVERR, libc::IPV6_RECVERR, on)
    }

    /// Lets datagrams of one sender come together (`UDP_GRO`, Linux 5.0).
    pub(crate) fn set_coalescing(socket: &Socket, on: bool) -> io::Result<()> {
        set(socket, libc::SOL_UDP, libc::UDP_GRO, c_int::from(on))
    }

    pub(crate) fn set_fragmentation(socket: &Socket, how: Fragmentation) -> io::Result<()> {
        let (v4, v6) = match how {
            Fragmentation::System => (libc::IP_PMTUDISC_WANT, libc::IPV6_PMTUDISC_WANT),
            Fragmentation::Allow => (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT),
            Fragmentation::Forbid => (libc::IP_PMTUDISC_DO, libc::IPV6_PMTUDISC_DO),
            Fragmentation::Probe => (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
        };
        both(
            socket,
            || set(socket, IPPROTO_IP, libc::IP_MTU_DISCOVER, v4),
            || set(socket, IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6),
        )
    }

    pub(super) fn set_multicast_interface_v4(socket: &Socket, interface: u32) -> io::Result<()> {
        set(
            socket,
            IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            by_number(interface)?,
        )
    }

    fn by_number(interface: u32) -> io::Result<libc::ip_mreqn> {
        let nobody = libc::in_addr { s_addr: 0 };
        Ok(libc::ip_mreqn {
            imr_multiaddr: nobody,
            imr_address: nobody,
            imr_ifindex: c_int::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?,
        })
    }
}

#[cfg(any(target_os = "freebsd", target_vendor = "apple"))]
mod system {
    use super::*;
    use libc::{c_int, IPPROTO_IP, IPPROTO_IPV6};

    pub(super) use super::set_group_source as set_source_membership;
    pub(crate) use super::without::{
        set_coalescing, set_receive_errors, set_receive_info, set_receive_tos,
    };

    pub(crate) fn set_fragmentation(socket: &Socket, how: Fragmentation) -> io::Result<()> {
        let forbid = matches!(how, Fragmentation::Forbid | Fragmentation::Probe);
        let forbid = c_int::from(forbid);
        both(
            socket,
            || set(socket, IPPROTO_IP, libc::IP_DONTFRAG, forbid),
            || set(socket, IPPROTO_IPV6, libc::IPV6_DONTFRAG, forbid),
        )
    }

    pub(super) fn set_multicast_interface_v4(socket: &Socket, interface: u32) -> io::Result<()> {
        let nobody = libc::in_addr { s_addr: 0 };
        let request = libc::ip_mreqn {
            imr_multiaddr: nobody,
            imr_address: nobody,
            imr_ifindex: c_int::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?,
        };
        set(socket, IPPROTO_IP, libc::IP_MULTICAST_IF, request)
    }
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
)))]
mod system {
    use super::*;

    pub(crate) use super::without::{
        set_coalescing, set_receive_errors, set_receive_info, set_receive_tos,
    };

    pub(crate) fn set_fragmentation(_: &Socket, how: Fragmentation) -> io::Result<()> {
        match how {
            Fragmentation::System => Ok(()),
            _ => unsupported(),
        }
    }

    pub(super) fn set_multicast_interface_v4(socket: &Socket, interface: u32) -> io::Result<()> {
        // On Windows an address of 0.0.0.0/8 stands for the number of an interface.
        match interface {
            0 => socket.set_multicast_if_v4(&Ipv4Addr::UNSPECIFIED),
            number if cfg!(windows) && number < 1 << 24 => {
                socket.set_multicast_if_v4(&Ipv4Addr::from(number))
            }
            _ => unsupported(),
        }
    }

    pub(super) fn set_source_membership(
        socket: &Socket,
        join: bool,
        group: SocketAddr,
        source: SocketAddr,
        interface: u32,
    ) -> io::Result<()> {
        #[cfg(any(windows, target_os = "solaris", target_os = "illumos"))]
        if let (IpAddr::V4(group), IpAddr::V4(source), 0) = (group.ip(), source.ip(), interface) {
            return match join {
                true => socket.join_ssm_v4(&source, &group, &Ipv4Addr::UNSPECIFIED),
                false => socket.leave_ssm_v4(&source, &group, &Ipv4Addr::UNSPECIFIED),
            };
        }
        let _ = (socket, join, group, source, interface);
        unsupported()
    }
}

/// What a system without control messages says.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod without {
    use super::*;

    fn refused(on: bool) -> io::Result<()> {
        match on {
            false => Ok(()),
            true => unsupported(),
        }
    }

    pub(crate) fn set_receive_info(_: &Socket, on: bool) -> io::Result<()> {
        refused(on)
    }

    pub(crate) fn set_receive_tos(_: &Socket, on: bool) -> io::Result<()> {
        refused(on)
    }

    pub(crate) fn set_receive_errors(_: &Socket, on: bool) -> io::Result<()> {
        refused(on)
    }

    pub(crate) fn set_coalescing(_: &Socket, on: bool) -> io::Result<()> {
        refused(on)
    }
}
