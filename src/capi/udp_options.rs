//! UDP options
//!
//! What can be changed of a UDP socket while it is open: its groups, how far and by which interface its
//! datagrams go, how large they may be on their way.

use std::ffi::c_int;
use std::net::IpAddr;

use super::address::{kolo_address, socket_address};
use super::boundary::{c_bool, with_loop, Out};
use super::listener::bytes;
use super::types::{kolo_loop, kolo_udp};
use super::udp::udp as socket;
use crate::error::{Code, Error, Result};
use crate::sys::udp_options::Fragmentation;

/// What becomes of datagrams that are larger than a link on their way takes.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_fragmentation {
    /// As the system has it: it learns what fits, and fragments what does not.
    KOLO_FRAGMENTATION_SYSTEM = 0,
    /// They may be fragmented on the way (IPv4: no DF bit).
    KOLO_FRAGMENTATION_ALLOW = 1,
    /// They are never fragmented: what does not fit by what the system knows of the path is refused
    /// with KOLO_EMSGSIZE.
    KOLO_FRAGMENTATION_FORBID = 2,
    /// They are never fragmented, and what the system knows of the path is ignored: for programs that
    /// find out themselves what fits (RFC 8899).
    KOLO_FRAGMENTATION_PROBE = 3,
}

/// # Safety
///
/// `group` and `source` are NULL or readable.
unsafe fn membership(
    group: *const kolo_address,
    source: *const kolo_address,
) -> Result<(IpAddr, Option<IpAddr>)> {
    // SAFETY: promised by the caller.
    let group = unsafe { socket_address(group)? }.ip();
    let source = match source.is_null() {
        true => None,
        // SAFETY: promised by the caller.
        false => Some(unsafe { socket_address(source)? }.ip()),
    };
    Ok((group, source))
}

/// Joins a multicast group, whose port does not matter, at the interface with this number (0: the
/// system's choice), or with a `source` that is not NULL only what that one sends to the group
/// (RFC 4607). It can be joined at several interfaces, and for several sources. Closing leaves all.
///
/// A socket that is bound to the unspecified address also gets what is sent to groups that others on
/// this machine joined; bind to the group's address to get only that.
///
/// Errors: KOLO_EINVAL if `group` is NULL, for an address that is no group, for a source of another
/// family and for a group of a family that the socket has not; KOLO_ENODEV for an interface that
/// there is not, or without a route; KOLO_EADDRINUSE for what is joined already; KOLO_ENOBUFS for
/// more groups than the system allows; KOLO_ENOTSUP for what it lacks.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_join(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    group: *const kolo_address,
    source: *const kolo_address,
    interface: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (group, source) = unsafe { membership(group, source)? };
        socket(udp)?.join(&lp.inner, group, source, interface)
    })
}

/// Leaves what was joined with the same group, source and interface.
///
/// Errors: as kolo_udp_join; KOLO_EADDRNOTAVAIL for what was not joined.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_leave(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    group: *const kolo_address,
    source: *const kolo_address,
    interface: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (group, source) = unsafe { membership(group, source)? };
        socket(udp)?.leave(&lp.inner, group, source, interface)
    })
}

/// Whether this machine, too, gets what the socket sends to groups that it has joined. At first: yes.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_multicast_loop(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    on: c_bool,
) -> c_int {
    with_loop(r#loop, |lp| {
        socket(udp)?.set_multicast_loop(&lp.inner, on != 0)
    })
}

/// How many routers what is sent to groups may pass: 0 stays on this machine, 1, as at first, on the
/// link.
///
/// Errors: KOLO_EINVAL above 255.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_multicast_ttl(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    hops: u32,
) -> c_int {
    with_loop(r#loop, |lp| socket(udp)?.set_multicast_ttl(&lp.inner, hops))
}

/// The number of the interface by which what is sent to groups leaves. 0, as at first: as the system
/// routes it.
///
/// Errors: KOLO_ENODEV and KOLO_EADDRNOTAVAIL for an interface that there is not.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_multicast_interface(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    interface: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        socket(udp)?.set_multicast_interface(&lp.inner, interface)
    })
}

/// Lets datagrams be sent to broadcast addresses, or not.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_broadcast(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    on: c_bool,
) -> c_int {
    with_loop(r#loop, |lp| socket(udp)?.set_broadcast(&lp.inner, on != 0))
}

/// How many routers a datagram may pass (the hop limit of IPv6).
///
/// Errors: KOLO_EINVAL for 0 and above 255.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_ttl(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    hops: u32,
) -> c_int {
    with_loop(r#loop, |lp| socket(udp)?.set_ttl(&lp.inner, hops))
}

/// The traffic class byte of what is sent: see kolo_datagram.
///
/// Errors: KOLO_EPERM for what takes privileges.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_tos(r#loop: *mut kolo_loop, udp: kolo_udp, tos: u8) -> c_int {
    with_loop(r#loop, |lp| socket(udp)?.set_tos(&lp.inner, tos))
}

/// What becomes of datagrams that are larger than a link on their way takes: a kolo_fragmentation.
///
/// Errors: KOLO_EINVAL for a value that there is not; KOLO_ENOTSUP on other systems than Linux,
/// FreeBSD and Darwin.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_fragmentation(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    how: c_int,
) -> c_int {
    with_loop(r#loop, |lp| {
        let how = match how {
            0 => Fragmentation::System,
            1 => Fragmentation::Allow,
            2 => Fragmentation::Forbid,
            3 => Fragmentation::Probe,
            _ => return Err(Error::new(Code::EINVAL)),
        };
        socket(udp)?.set_fragmentation(&lp.inner, how)
    })
}

/// Sets the sizes of the kernel's buffers in bytes; 0 leaves one as it is. The system may give more or
/// less.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_buffers(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    send_bytes: u32,
    receive_bytes: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        socket(udp)?.set_buffers(&lp.inner, bytes(send_bytes), bytes(receive_bytes))
    })
}

/// The sizes of the kernel's buffers in bytes, as the system counts them.
///
/// Errors: KOLO_EINVAL if either pointer is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_buffers(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    send_bytes: *mut u32,
    receive_bytes: *mut u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (send, receive) = unsafe { (Out::new(send_bytes)?, Out::new(receive_bytes)?) };
        let sizes = socket(udp)?.buffers(&lp.inner)?;
        send.set(u32::try_from(sizes.0).unwrap_or(u32::MAX));
        receive.set(u32::try_from(sizes.1).unwrap_or(u32::MAX));
        Ok(())
    })
}
