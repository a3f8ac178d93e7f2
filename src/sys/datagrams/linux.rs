//! Linux: batches, segmentation, control messages, the error queue.

use std::io;
use std::mem::{size_of, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use libc::{c_int, c_uint, c_void};
use socket2::Socket;

use super::control::{self, messages, Writer};
use super::{Batch, How, Item, Outgoing, Told, BATCH, DATAGRAM_MAX, MESSAGES_MAX, STRIDE};

/// An internet address as the system has it.
#[repr(C)]
#[derive(Clone, Copy)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

const NAME_SIZE: libc::socklen_t = size_of::<Name>() as libc::socklen_t;

const NO_NAME: Name = Name {
    // SAFETY: a struct of numbers.
    v6: unsafe { MaybeUninit::zeroed().assume_init() },
};

impl Name {
    fn of(address: &SocketAddr) -> (Name, libc::socklen_t) {
        match address {
            SocketAddr::V4(v4) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: in_addr(*v4.ip()),
                    sin_zero: [0; 8],
                };
                (Name { v4 }, size_of::<libc::sockaddr_in>() as _)
            }
            SocketAddr::V6(v6) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: in6_addr(*v6.ip()),
                    sin6_scope_id: v6.scope_id(),
                };
                (Name { v6 }, size_of::<libc::sockaddr_in6>() as _)
            }
        }
    }

    /// `None` for another family. Every byte of the name has been written at some time.
    fn address(&self) -> Option<SocketAddr> {
        // SAFETY: numbers, of which any bytes are valid.
        unsafe {
            match c_int::from(self.family) {
                libc::AF_INET => {
                    let ip = ipv4(self.v4.sin_addr);
                    let port = u16::from_be(self.v4.sin_port);
                    Some(SocketAddrV4::new(ip, port).into())
                }
                libc::AF_INET6 => {
                    let v6 = &self.v6;
                    let (ip, port) = (ipv6(v6.sin6_addr), u16::from_be(v6.sin6_port));
                    Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
                }
                _ => None,
            }
        }
    }
}

fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(ip.octets()),
    }
}

fn in6_addr(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: ip.octets(),
    }
}

fn ipv4(address: libc::in_addr) -> Ipv4Addr {
    Ipv4Addr::from(address.s_addr.to_ne_bytes())
}

fn ipv6(address: libc::in6_addr) -> Ipv6Addr {
    Ipv6Addr::from(address.s6_addr)
}

fn no_message() -> libc::mmsghdr {
    // SAFETY: a struct of numbers and pointers; on some C libraries with padding members.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Receives up to `most` messages into an empty batch; `control`: the socket may have asked for
/// control messages. How many, which is less than asked for when no more was there.
pub(crate) fn receive(
    socket: &Socket,
    batch: &mut Batch,
    most: usize,
    control: bool,
) -> io::Result<usize> {
    assert!(batch.is_whole());
    batch.clear();
    let most = most.clamp(1, BATCH);
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
    let mut names = [NO_NAME; BATCH];
    let mut controls = [const { MaybeUninit::<control::Memory>::uninit() }; BATCH];
    let memory = batch.memory.as_mut_ptr();
    for at in 0..most {
        let piece = pieces[at].write(libc::iovec {
            // SAFETY: a whole batch has `BATCH` times `STRIDE` bytes.
            iov_base: unsafe { memory.add(at * STRIDE) }.cast(),
            iov_len: DATAGRAM_MAX,
        });
        let mut header = no_message();
        header.msg_hdr.msg_name = std::ptr::from_mut(&mut names[at]).cast();
        header.msg_hdr.msg_namelen = NAME_SIZE;
        header.msg_hdr.msg_iov = piece;
        header.msg_hdr.msg_iovlen = 1;
        if control {
            header.msg_hdr.msg_control = controls[at].as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<control::Memory>() as _;
        }
        headers[at].write(header);
    }
    let count = retried(|| {
        // SAFETY: `most` headers, each of which names memory that lives through the call, of the
        // lengths it says; no time limit.
        unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                most as c_uint,
                0,
                std::ptr::null_mut(),
            ) as isize
        }
    })?;
    for at in 0..count.min(most) {
        // SAFETY: written above.
        let header = unsafe { headers[at].assume_init_ref() };
        let length = (header.msg_len as usize).min(DATAGRAM_MAX);
        let from = names[at].address().unwrap_or(NOWHERE);
        let mut item = Item::new(at * STRIDE, length, from);
        item.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        if header.msg_hdr.msg_controllen > 0 {
            // SAFETY: the call above filled it in, and `controls` is still there.
            unsafe { note_control(&header.msg_hdr, &mut item) };
        }
        batch.items.push(item);
    }
    Ok(count)
}

/// Only a socket that is none of the internet's has names that are none.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// # Safety
///
/// As of [`messages`].
unsafe fn note_control(header: &libc::msghdr, item: &mut Item) {
    // SAFETY: promised by the caller.
    for message in unsafe { messages(header) } {
        match (message.level, message.kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let segment = message.value::<c_int>().and_then(|n| u16::try_from(n).ok());
                item.segment = segment.unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let Some(info) = message.value::<libc::in_pktinfo>() {
                    item.to = Some(ipv4(info.ipi_addr).into());
                    item.interface = info.ipi_ifindex as u32;
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some(info) = message.value::<libc::in6_pktinfo>() {
                    item.to = Some(ipv6(info.ipi6_addr).into());
                    item.interface = info.ipi6_ifindex as _;
                }
            }
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                item.tos = message.traffic_class();
            }
            _ => {}
        }
    }
}

pub(super) fn send(socket: &Socket, messages: &[Outgoing<'_>]) -> (usize, io::Result<()>) {
    let messages = &messages[..messages.len().min(MESSAGES_MAX)];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES_MAX];
    let mut names = [const { MaybeUninit::<Name>::uninit() }; MESSAGES_MAX];
    let mut controls = [const { MaybeUninit::<control::Memory>::uninit() }; MESSAGES_MAX];
    for (at, message) in messages.iter().enumerate() {
        let mut header = no_message();
        if let Some(to) = &message.to {
            let (name, length) = Name::of(to);
            header.msg_hdr.msg_name = std::ptr::from_mut(names[at].write(name)).cast();
            header.msg_hdr.msg_namelen = length;
        }
        header.msg_hdr.msg_iov = message.slices.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_iovlen = message.slices.len() as _;
        if message.segment > 0 || message.how.needs_control() {
            let (control, length) = write_control(controls[at].write(control::MEMORY), message);
            header.msg_hdr.msg_control = control;
            header.msg_hdr.msg_controllen = length as _;
        }
        headers[at].write(header);
    }
    send_headers(socket, &mut headers[..messages.len()])
}

fn send_headers(
    socket: &Socket,
    headers: &mut [MaybeUninit<libc::mmsghdr>],
) -> (usize, io::Result<()>) {
    let mut taken = 0;
    while taken < headers.len() {
        let left = &mut headers[taken..];
        let outcome = retried(|| {
            let first = left.as_mut_ptr().cast::<libc::mmsghdr>();
            // SAFETY: every header was written by `send` and names memory that lives through the
            // call, which only reads it. (`IoSlice` is an `iovec` by its documentation.)
            unsafe {
                // One is most common, and the plain call is the cheaper one.
                if left.len() == 1 {
                    let header = std::ptr::from_ref(&(*first).msg_hdr);
                    let sent = libc::sendmsg(socket.as_raw_fd(), header, libc::MSG_NOSIGNAL);
                    return if sent < 0 { sent } else { 1 };
                }
                let count = left.len() as c_uint;
                let flags = libc::MSG_NOSIGNAL;
                libc::sendmmsg(socket.as_raw_fd(), first, count, flags as _) as isize
            }
        });
        match outcome {
            Ok(0) => break,
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Ok(()))
}

impl How {
    fn needs_control(&self) -> bool {
        self.source.is_some() || self.interface != 0 || self.tos.is_some()
    }
}

fn write_control(memory: &mut control::Memory, message: &Outgoing<'_>) -> (*mut c_void, usize) {
    let mut writer = Writer::new(memory);
    let how = &message.how;
    if message.segment > 0 {
        writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, message.segment);
    }
    let source = match (how.source, how.ipv4) {
        (Some(source), _) => Some(source),
        (None, _) if how.interface == 0 => None,
        (None, true) => Some(Ipv4Addr::UNSPECIFIED.into()),
        (None, false) => Some(Ipv6Addr::UNSPECIFIED.into()),
    };
    match source {
        Some(IpAddr::V4(source)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: how.interface as c_int,
                ipi_spec_dst: in_addr(source),
                ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
            };
            writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(source)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: in6_addr(source),
                ipi6_ifindex: how.interface as _,
            };
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    match how.tos {
        Some(tos) if how.ipv4 => writer.push(libc::IPPROTO_IP, libc::IP_TOS, c_int::from(tos)),
        Some(tos) => writer.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, c_int::from(tos)),
        None => {}
    }
    writer.finish()
}

/// What the network told of datagrams sent before, for a socket that asks for it (`IP_RECVERR`,
/// ip(7)): the next of the queue. What the system itself said, the sending call has told already.
pub(crate) fn next_error(socket: &Socket) -> Option<Told> {
    loop {
        let mut name = NO_NAME;
        let mut control = MaybeUninit::<control::Memory>::uninit();
        let mut header = no_message().msg_hdr;
        header.msg_name = std::ptr::from_mut(&mut name).cast();
        header.msg_namelen = NAME_SIZE;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of::<control::Memory>() as _;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: the header names memory that lives through the call, of the lengths it says.
        retried(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) }).ok()?;
        // SAFETY: the call above filled it in, and `control` is still there.
        if let Some(told) = unsafe { told(&header, name.address()) } {
            return Some(told);
        }
    }
}

/// # Safety
///
/// As of [`messages`].
unsafe fn told(header: &libc::msghdr, to: Option<SocketAddr>) -> Option<Told> {
    // SAFETY: promised by the caller.
    let mut found = unsafe { messages(header) }.filter(|message| {
        let kind = (message.level, message.kind);
        kind == (libc::IPPROTO_IP, libc::IP_RECVERR)
            || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    });
    let message = found.next()?;
    let error = message.value::<libc::sock_extended_err>()?;
    let by_network = [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6];
    if !by_network.contains(&error.ee_origin) {
        return None;
    }
    let mut by = NO_NAME;
    let offender = message.after::<libc::sock_extended_err>();
    let length = offender.len().min(size_of::<Name>());
    // SAFETY: so many bytes are there, and fit.
    unsafe {
        let place = std::ptr::from_mut(&mut by).cast::<u8>();
        place.copy_from_nonoverlapping(offender.as_ptr(), length);
    }
    let too_large = error.ee_errno as c_int == libc::EMSGSIZE;
    Some(Told {
        errno: error.ee_errno as i32,
        to,
        by: by.address().map(|address| address.ip()),
        mtu: too_large.then_some(error.ee_info),
    })
}

/// A system call, again as long as signals interrupt it.
fn retried(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}
