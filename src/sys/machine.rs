//! What the system says of itself (Unix).

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::error::{Error, Result};

/// The longest host name anywhere: POSIX asks for no more than 255.
const HOST_NAME_MAX: usize = 256;

/// gethostname(2).
pub(crate) fn hostname() -> Result<Vec<u8>> {
    let mut name = [0u8; HOST_NAME_MAX + 1];
    // SAFETY: one byte less than there is, so that a name that fills it still ends with a NUL.
    if unsafe { libc::gethostname(name.as_mut_ptr().cast(), HOST_NAME_MAX) } < 0 {
        return Err(Error::last());
    }
    let end = name.iter().position(|byte| *byte == 0);
    Ok(name[..end.unwrap_or(HOST_NAME_MAX)].to_vec())
}

/// The texts of uname(2): the system's name, its release, its version, the processor's kind.
pub(crate) fn uname() -> Result<[Vec<u8>; 4]> {
    // SAFETY: arrays of characters, of which zeros are valid ones.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: a struct to fill in.
    if unsafe { libc::uname(&mut names) } < 0 {
        return Err(Error::last());
    }
    let text = |field: &[libc::c_char]| {
        // SAFETY: uname ends each text with a NUL inside its array.
        unsafe { CStr::from_ptr(field.as_ptr()) }
            .to_bytes()
            .to_vec()
    };
    Ok([
        text(&names.sysname),
        text(&names.release),
        text(&names.version),
        text(&names.machine),
    ])
}

/// How long the system has been up, sleep included where the system counts it.
pub(crate) fn uptime_ns() -> Result<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
    #[cfg(target_os = "freebsd")]
    const CLOCK: libc::clockid_t = libc::CLOCK_UPTIME;
    // Elsewhere the monotonic clock counts from the boot.
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a struct to fill in.
    if unsafe { libc::clock_gettime(CLOCK, &mut time) } < 0 {
        return Err(Error::last());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// getloadavg(3).
pub(crate) fn load_average() -> Result<[f64; 3]> {
    let mut averages = [0.0; 3];
    // SAFETY: room for three.
    if unsafe { libc::getloadavg(averages.as_mut_ptr(), 3) } < 3 {
        return Err(crate::error::Code::ENOTSUP.into());
    }
    Ok(averages)
}

/// The memory of the machine, in bytes.
pub(crate) fn physical_memory() -> Result<u64> {
    let pages = configured(libc::_SC_PHYS_PAGES)?;
    Ok(pages.saturating_mul(configured(libc::_SC_PAGESIZE)?))
}

/// sysconf(3).
pub(crate) fn configured(name: libc::c_int) -> Result<u64> {
    // SAFETY: takes a number and gives one.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).map_err(|_| crate::error::Code::ENOTSUP.into())
}

/// What kind of file an open descriptor refers to: its `S_IFMT` bits (fstat(2)).
pub(crate) fn file_type(descriptor: super::Descriptor) -> Result<libc::mode_t> {
    // SAFETY: a zeroed stat is valid memory for the call to fill in.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is valid; a bad descriptor is answered with an error.
    if unsafe { libc::fstat(descriptor, &mut status) } < 0 {
        return Err(Error::last());
    }
    Ok(status.st_mode & libc::S_IFMT)
}

pub(crate) fn is_terminal(descriptor: super::Descriptor) -> bool {
    // SAFETY: a bad descriptor is answered with 0.
    unsafe { libc::isatty(descriptor) == 1 }
}

/// Whether a socket listens for connections (socket(7), `SO_ACCEPTCONN`).
pub(crate) fn listens(socket: super::Descriptor) -> bool {
    let mut on: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: an int to fill in, and its size.
    let outcome = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut on).cast(),
            &mut length,
        )
    };
    outcome == 0 && on != 0
}

/// One line of getifaddrs(3).
pub(crate) struct InterfaceLine {
    pub name: Vec<u8>,
    pub flags: u32,
    pub about: InterfaceAbout,
}

pub(crate) enum InterfaceAbout {
    /// An address and its mask.
    Address(SocketAddr, Option<IpAddr>),
    /// The address of the hardware.
    Hardware([u8; 6]),
    Nothing,
}

/// Every line of getifaddrs(3), in the system's order.
pub(crate) fn interface_lines() -> Result<Vec<InterfaceLine>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: a pointer to fill in.
    if unsafe { libc::getifaddrs(&mut first) } < 0 {
        return Err(Error::last());
    }
    let mut lines = Vec::new();
    let mut at = first;
    while !at.is_null() {
        // SAFETY: a link of the list, which lives until freeifaddrs.
        let link = unsafe { &*at };
        lines.push(InterfaceLine {
            // SAFETY: a C string of the list's.
            name: unsafe { CStr::from_ptr(link.ifa_name) }.to_bytes().to_vec(),
            flags: link.ifa_flags as u32,
            // SAFETY: addresses of the list's.
            about: unsafe { about(link.ifa_addr, link.ifa_netmask) },
        });
        at = link.ifa_next;
    }
    // SAFETY: the list that getifaddrs made; nothing of it is kept.
    unsafe { libc::freeifaddrs(first) };
    Ok(lines)
}

/// # Safety
///
/// Each is NULL or an address of getifaddrs.
unsafe fn about(address: *const libc::sockaddr, mask: *const libc::sockaddr) -> InterfaceAbout {
    if address.is_null() {
        return InterfaceAbout::Nothing;
    }
    // SAFETY: promised by the caller; the mask is of the family of its address, even where the
    // system leaves its family out.
    unsafe {
        let family = i32::from((*address).sa_family);
        if let Some(found) = socket_address(address, family) {
            let mask = socket_address(mask, family).map(|mask| mask.ip());
            return InterfaceAbout::Address(found, mask);
        }
        hardware(address, family).map_or(InterfaceAbout::Nothing, InterfaceAbout::Hardware)
    }
}

/// # Safety
///
/// `at` is NULL or an address of this family.
unsafe fn socket_address(at: *const libc::sockaddr, family: libc::c_int) -> Option<SocketAddr> {
    if at.is_null() {
        return None;
    }
    match family {
        libc::AF_INET => {
            // SAFETY: promised by the caller.
            let v4 = unsafe { copy::<libc::sockaddr_in>(at) };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), 0))
        }
        libc::AF_INET6 => {
            // SAFETY: promised by the caller.
            let v6 = unsafe { copy::<libc::sockaddr_in6>(at) };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, 0, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// A copy of an address. The BSDs leave trailing zeros out of masks, and say how long one is.
///
/// # Safety
///
/// `at` is an address of the family that `T` is for, and `T` may be all zeros.
unsafe fn copy<T>(at: *const libc::sockaddr) -> T {
    #[cfg(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd",
        target_os = "openbsd"
    ))]
    // SAFETY: promised by the caller.
    let length = usize::from(unsafe { (*at).sa_len }).min(size_of::<T>());
    #[cfg(not(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd",
        target_os = "openbsd"
    )))]
    let length = size_of::<T>();
    // SAFETY: so many bytes are there, and zeros for the others are promised to be valid.
    unsafe {
        let mut copy = std::mem::MaybeUninit::<T>::zeroed();
        std::ptr::copy_nonoverlapping(at.cast::<u8>(), copy.as_mut_ptr().cast(), length);
        copy.assume_init()
    }
}

/// # Safety
///
/// `at` is an address of this family.
#[cfg(any(target_os = "linux", target_os = "android"))]
unsafe fn hardware(at: *const libc::sockaddr, family: libc::c_int) -> Option<[u8; 6]> {
    if family != libc::AF_PACKET {
        return None;
    }
    // SAFETY: promised by the caller.
    let link = unsafe { copy::<libc::sockaddr_ll>(at) };
    let bytes = link.sll_addr.get(..usize::from(link.sll_halen))?;
    bytes.try_into().ok()
}

/// # Safety
///
/// `at` is an address of this family.
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
))]
unsafe fn hardware(at: *const libc::sockaddr, family: libc::c_int) -> Option<[u8; 6]> {
    if family != libc::AF_LINK {
        return None;
    }
    // SAFETY: promised by the caller.
    let link = unsafe { copy::<libc::sockaddr_dl>(at) };
    // The interface's name stands before its address.
    let from = usize::from(link.sdl_nlen);
    let bytes = link.sdl_data.get(from..from + usize::from(link.sdl_alen))?;
    let mut address = [0; 6];
    if bytes.len() != address.len() {
        return None;
    }
    for (to, byte) in address.iter_mut().zip(bytes) {
        *to = *byte as u8;
    }
    Some(address)
}

/// # Safety
///
/// None.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
unsafe fn hardware(_at: *const libc::sockaddr, _family: libc::c_int) -> Option<[u8; 6]> {
    None
}

/// if_nametoindex(3); 0: no such interface.
pub(crate) fn interface_index(name: &[u8]) -> u32 {
    let Ok(name) = std::ffi::CString::new(name) else {
        return 0;
    };
    // SAFETY: a C string.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}
