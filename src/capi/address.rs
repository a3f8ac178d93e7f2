//! Addresses
//!
//! An internet address with a port. The functions here take no loop, and may be called from any
//! thread.

use std::cmp::Ordering;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use socket2::{SockAddr, SockAddrStorage};

use super::boundary::{guard, read, slice, write_text, Out};
use crate::address;
use crate::error::{Code, Error, Result};

/// The family of an address.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_family {
    /// No address.
    KOLO_FAMILY_NONE = 0,
    /// IPv4.
    KOLO_FAMILY_IPV4 = 4,
    /// IPv6.
    KOLO_FAMILY_IPV6 = 6,
}

/// Limits of texts.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_limit {
    /// Bytes that hold every address as kolo_address_format writes it, with its NUL.
    KOLO_ADDRESS_TEXT_MAX = 80,
    /// Bytes that hold every error as kolo_error_format writes it, with its NUL.
    KOLO_ERROR_TEXT_MAX = 256,
}

/// An address and a port. This struct never changes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct kolo_address {
    /// A kolo_family.
    pub family: u16,
    /// In the processor's own byte order: 80 is 80.
    pub port: u16,
    /// IPv6: the flow information, as the system has it in sin6_flowinfo. Else 0.
    pub flow: u32,
    /// IPv6: the number of the interface, for addresses that only mean something on one link
    /// (fe80::...). Else 0.
    pub scope: u32,
    /// In network byte order, as it is read. IPv4: the first 4; the others are 0.
    pub ip: [u8; 16],
}

impl From<SocketAddr> for kolo_address {
    fn from(address: SocketAddr) -> kolo_address {
        let mut ip = [0; 16];
        let (family, flow, scope) = match address {
            SocketAddr::V4(v4) => {
                ip[..4].copy_from_slice(&v4.ip().octets());
                (kolo_family::KOLO_FAMILY_IPV4, 0, 0)
            }
            SocketAddr::V6(v6) => {
                ip = v6.ip().octets();
                (kolo_family::KOLO_FAMILY_IPV6, v6.flowinfo(), v6.scope_id())
            }
        };
        kolo_address {
            family: family as u16,
            port: address.port(),
            flow,
            scope,
            ip,
        }
    }
}

impl TryFrom<kolo_address> for SocketAddr {
    type Error = Error;

    fn try_from(address: kolo_address) -> Result<SocketAddr> {
        const IPV4: u16 = kolo_family::KOLO_FAMILY_IPV4 as u16;
        const IPV6: u16 = kolo_family::KOLO_FAMILY_IPV6 as u16;
        match address.family {
            IPV4 => {
                let [a, b, c, d, ..] = address.ip;
                Ok(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), address.port).into())
            }
            IPV6 => {
                let ip = Ipv6Addr::from(address.ip);
                Ok(SocketAddrV6::new(ip, address.port, address.flow, address.scope).into())
            }
            _ => Err(Code::EINVAL.into()),
        }
    }
}

/// The address behind a pointer of C's.
///
/// # Safety
///
/// `at` is NULL or readable.
pub(super) unsafe fn socket_address(at: *const kolo_address) -> Result<SocketAddr> {
    // SAFETY: promised by the caller.
    unsafe { read(at)? }.try_into()
}

/// The text behind a pointer of C's.
///
/// # Safety
///
/// `at` is NULL or a C string that lives as long as the result is used.
pub(super) unsafe fn text<'a>(at: *const c_char) -> Result<&'a str> {
    if at.is_null() {
        return Err(Code::EINVAL.into());
    }
    // SAFETY: promised by the caller.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_str().map_err(|_| Code::EINVAL.into())
}

/// Reads a numeric address: "127.0.0.1", "::1", "fe80::1%eth0" or "fe80::1%2". Names of hosts are
/// not looked up.
///
/// Errors: KOLO_EINVAL for anything else, and if `host` or `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_parse(
    host: *const c_char,
    port: u16,
    out: *mut kolo_address,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let out = unsafe { Out::new(out)? };
        // SAFETY: the caller's C string.
        let host = unsafe { text(host)? };
        out.set(address::parse(host, port).ok_or(Code::EINVAL)?.into());
        Ok(())
    })
}

/// Reads a numeric address with its port: "127.0.0.1:80", "[::1]:80", "[fe80::1%eth0]:80". Where
/// the port is missing ("127.0.0.1", "::1", "[::1]") it is `default_port`. Names are not looked up,
/// neither of hosts nor of services.
///
/// Errors: KOLO_EINVAL for anything else, and if `endpoint` or `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_parse_endpoint(
    endpoint: *const c_char,
    default_port: u16,
    out: *mut kolo_address,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, endpoint) = unsafe { (Out::new(out)?, text(endpoint)?) };
        let address = address::parse_endpoint(endpoint, default_port);
        out.set(address.ok_or(Code::EINVAL)?.into());
        Ok(())
    })
}

/// Writes an address with its port: "127.0.0.1:80", "[::1]:80", "[fe80::1%2]:80".
/// KOLO_ADDRESS_TEXT_MAX bytes are enough for any.
///
/// Returns the length of the text without its NUL.
///
/// Errors: KOLO_EINVAL if `address` or `text` is NULL, or if the family is none; KOLO_ENOBUFS if
/// text and NUL do not fit into `capacity` bytes: then nothing is written.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_format(
    address: *const kolo_address,
    text: *mut c_char,
    capacity: usize,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let line = unsafe { socket_address(address)? }.to_string();
        // SAFETY: as above.
        unsafe { write_text(line.as_bytes(), text, capacity) }
    })
}

/// Writes an address without its port: "127.0.0.1", "::1", "fe80::1%2". KOLO_ADDRESS_TEXT_MAX bytes
/// are enough for any.
///
/// Returns the length of the text without its NUL.
///
/// Errors: as kolo_address_format.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_format_ip(
    address: *const kolo_address,
    text: *mut c_char,
    capacity: usize,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        unsafe {
            let line = address::ip_text(socket_address(address)?);
            write_text(line.as_bytes(), text, capacity)
        }
    })
}

/// Whether two addresses are the same: family, address, port and scope. The flow information does
/// not count, nor is an IPv4-mapped address the same as the IPv4 address it stands for (see
/// kolo_address_unmap).
///
/// Returns 1 if they are, 0 if not.
///
/// Errors: KOLO_EINVAL if a pointer is NULL or a family is none.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_equal(
    one: *const kolo_address,
    other: *const kolo_address,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (one, other) = unsafe { (socket_address(one)?, socket_address(other)?) };
        Ok(address::compare(one, other) == Ordering::Equal)
    })
}

/// Puts two addresses in an order, for sorting and for maps: IPv4 before IPv6, then by the bytes of
/// the address, the scope, the port. `out` gets -1 if the first comes first, 1 if the second does, 0
/// if they are equal as kolo_address_equal has it.
///
/// Errors: KOLO_EINVAL if a pointer is NULL or a family is none.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_compare(
    one: *const kolo_address,
    other: *const kolo_address,
    out: *mut c_int,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (one, other, out) =
            unsafe { (socket_address(one)?, socket_address(other)?, Out::new(out)?) };
        out.set(address::compare(one, other) as c_int);
        Ok(())
    })
}

/// A question about an address. A mapped one is asked for what it stands for.
///
/// # Safety
///
/// `address` is NULL or readable.
unsafe fn ask(address: *const kolo_address, question: impl FnOnce(IpAddr) -> bool) -> c_int {
    guard(|| {
        // SAFETY: promised by the caller.
        let address = unsafe { socket_address(address)? };
        Ok(question(address.ip().to_canonical()))
    })
}

/// Whether this machine itself is meant: 127.0.0.0/8 or ::1, or the former mapped (::ffff:127.0.0.1).
///
/// Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_is_loopback(address: *const kolo_address) -> c_int {
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { ask(address, |ip| ip.is_loopback()) }
}

/// Whether it is 0.0.0.0 or :: (to listen on: every address of the machine), or the former mapped.
///
/// Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_is_unspecified(address: *const kolo_address) -> c_int {
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { ask(address, |ip| ip.is_unspecified()) }
}

/// Whether it is a group's address: 224.0.0.0/4 or ff00::/8, or the former mapped.
///
/// Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_is_multicast(address: *const kolo_address) -> c_int {
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { ask(address, |ip| ip.is_multicast()) }
}

/// Whether it only means something on one link: 169.254.0.0/16 or fe80::/10, or the former mapped.
/// Of such an IPv6 address the scope says on which.
///
/// Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_is_link_local(address: *const kolo_address) -> c_int {
    // SAFETY: the caller's pointer, as the header asks for it.
    unsafe { ask(address, address::is_link_local) }
}

/// Whether it is an IPv4-mapped IPv6 address (::ffff:192.0.2.1, RFC 4291 2.5.5.2): what a listener
/// for both families sees of an IPv4 client.
///
/// Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_is_v4_mapped(address: *const kolo_address) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let ip = unsafe { socket_address(address)? }.ip();
        Ok(ip.to_canonical() != ip)
    })
}

/// Turns an IPv4-mapped address into the IPv4 address it stands for, with the same port; any other
/// into itself. `out` may be `address`.
///
/// Errors: KOLO_EINVAL if a pointer is NULL or the family is none.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_unmap(
    address: *const kolo_address,
    out: *mut kolo_address,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (address, out) = unsafe { (socket_address(address)?, Out::new(out)?) };
        out.set(address::unmap(address).into());
        Ok(())
    })
}

/// Takes an address from the system's struct sockaddr_in or sockaddr_in6 of `length` bytes, which
/// need not be aligned.
///
/// Errors: KOLO_EINVAL if `sockaddr` or `out` is NULL, or if `length` is too small for the family;
/// KOLO_EAFNOSUPPORT for another family.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_from_sockaddr(
    sockaddr: *const c_void,
    length: usize,
    out: *mut kolo_address,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (bytes, out) = unsafe { (slice(sockaddr.cast::<u8>(), length)?, Out::new(out)?) };
        // The family stands in the first two bytes, on every system.
        if bytes.len() < 2 {
            return Err(Code::EINVAL.into());
        }
        let address = from_bytes(bytes).as_socket().ok_or(Code::EAFNOSUPPORT)?;
        if length < SockAddr::from(address).len() as usize {
            return Err(Code::EINVAL.into());
        }
        out.set(address.into());
        Ok(())
    })
}

/// What is missing is zero, what is too much is left out.
fn from_bytes(bytes: &[u8]) -> SockAddr {
    let length = bytes.len().min(size_of::<SockAddrStorage>());
    let mut storage = MaybeUninit::<SockAddrStorage>::zeroed();
    // SAFETY: `length` bytes fit, and any bytes are a valid `sockaddr_storage`.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), storage.as_mut_ptr().cast(), length);
        SockAddr::new(storage.assume_init(), length as _)
    }
}

/// Writes an address as the system's struct sockaddr_in or sockaddr_in6, which need not be aligned.
/// The system's struct sockaddr_storage has room for every address.
///
/// Returns how many bytes were written.
///
/// Errors: KOLO_EINVAL if `address` or `sockaddr` is NULL, or if the family is none; KOLO_ENOBUFS
/// if it does not fit into `capacity` bytes.
#[no_mangle]
pub unsafe extern "C" fn kolo_address_to_sockaddr(
    address: *const kolo_address,
    sockaddr: *mut c_void,
    capacity: usize,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let address = SockAddr::from(unsafe { socket_address(address)? });
        let length = address.len() as usize;
        if sockaddr.is_null() {
            return Err(Code::EINVAL.into());
        }
        if length > capacity {
            return Err(Code::ENOBUFS.into());
        }
        // SAFETY: the caller's `capacity` bytes; the address has `length`.
        unsafe {
            sockaddr
                .cast::<u8>()
                .copy_from_nonoverlapping(address.as_ptr().cast(), length);
        }
        Ok(length as c_int)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["192.0.2.7:80", "[2001:db8::1]:443", "[fe80::1%7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut c = kolo_address::from(address);
            assert_eq!(SocketAddr::try_from(c).unwrap(), address);
            c.family = 5;
            assert!(SocketAddr::try_from(c).is_err());
        }
    }
}
