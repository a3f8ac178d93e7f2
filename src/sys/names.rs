//! The system's resolver: getaddrinfo(3) and getnameinfo(3), which block.

use std::net::SocketAddr;

use dns_lookup::{AddrInfoHints, LookupError};

use crate::error::{Code, Error, Result};
use crate::names::{Named, ResolveOptions, Resolved, ReverseOptions, SocketType};
use crate::net::tcp::Family;

/// Asks the resolver for the addresses of a host; without one, for those of this machine. `service`
/// is a name; the port of a number is the caller's to set.
pub(crate) fn resolve(
    host: Option<&str>,
    service: Option<&str>,
    options: &ResolveOptions,
) -> Result<Resolved> {
    // Without a service and a host there would be nothing to ask for.
    let service = service.or(host.is_none().then_some("0"));
    let hints = AddrInfoHints {
        flags: system::resolve_flags(options),
        address: match options.family {
            None => 0,
            Some(Family::V4) => system::AF_INET,
            Some(Family::V6) => system::AF_INET6,
        },
        socktype: match options.socket_type {
            SocketType::Stream => system::SOCK_STREAM,
            SocketType::Datagram => system::SOCK_DGRAM,
        },
        protocol: 0,
    };
    let found = dns_lookup::getaddrinfo(host, service, Some(hints)).map_err(error)?;
    let mut resolved = Resolved::default();
    // Of families that kolo does not know there is nothing to tell.
    for entry in found.filter_map(std::io::Result::ok) {
        resolved.canonical_name = resolved.canonical_name.or(entry.canonname);
        resolved.addresses.push(entry.sockaddr);
    }
    Ok(resolved)
}

/// Asks the resolver for the names of an address and a port.
pub(crate) fn reverse(address: &SocketAddr, options: &ReverseOptions) -> Result<Named> {
    let flags = system::reverse_flags(options);
    let (host, service) = dns_lookup::getnameinfo(address, flags).map_err(error)?;
    Ok(Named { host, service })
}

fn error(error: LookupError) -> Error {
    match error.error_num() {
        // The crate's own: a text of the system's that is not UTF-8.
        0 => Code::EILSEQ.into(),
        system::EAI_SYSTEM => std::io::Error::from(error).into(),
        number => system::code_of(number).into(),
    }
}

#[cfg(unix)]
mod system {
    use libc::c_int;

    pub use libc::{AF_INET, AF_INET6, EAI_SYSTEM, SOCK_DGRAM, SOCK_STREAM};

    use super::{Code, ResolveOptions, ReverseOptions};

    fn all_of(flags: &[(bool, c_int)]) -> c_int {
        let wanted = flags.iter().filter(|(wanted, _)| *wanted);
        wanted.fold(0, |all, (_, flag)| all | flag)
    }

    pub fn resolve_flags(options: &ResolveOptions) -> c_int {
        // OpenBSD and NetBSD have neither of the two that map addresses.
        #[cfg(not(any(target_os = "openbsd", target_os = "netbsd")))]
        let mapping = all_of(&[
            (options.v4_mapped, libc::AI_V4MAPPED),
            (options.all, libc::AI_ALL),
        ]);
        #[cfg(any(target_os = "openbsd", target_os = "netbsd"))]
        let mapping = 0;
        mapping
            | all_of(&[
                (options.canonical_name, libc::AI_CANONNAME),
                (options.passive, libc::AI_PASSIVE),
                (options.address_config, libc::AI_ADDRCONFIG),
            ])
    }

    pub fn reverse_flags(options: &ReverseOptions) -> c_int {
        all_of(&[
            (options.numeric_host, libc::NI_NUMERICHOST),
            (options.numeric_service, libc::NI_NUMERICSERV),
            (options.name_required, libc::NI_NAMEREQD),
            (options.datagram, libc::NI_DGRAM),
            (options.short_name, libc::NI_NOFQDN),
        ])
    }

    pub fn code_of(number: c_int) -> Code {
        match number {
            libc::EAI_AGAIN => Code::EAI_AGAIN,
            libc::EAI_BADFLAGS => Code::EAI_BADFLAGS,
            libc::EAI_FAIL => Code::EAI_FAIL,
            libc::EAI_FAMILY => Code::EAI_FAMILY,
            libc::EAI_MEMORY => Code::EAI_MEMORY,
            libc::EAI_NONAME => Code::EAI_NONAME,
            libc::EAI_OVERFLOW => Code::EAI_OVERFLOW,
            libc::EAI_SERVICE => Code::EAI_SERVICE,
            libc::EAI_SOCKTYPE => Code::EAI_SOCKTYPE,
            number => rare_code_of(number),
        }
    }

    // What the libc crate has no names for, from <netdb.h> of each system.

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn rare_code_of(number: c_int) -> Code {
        match number {
            -5 => Code::EAI_NODATA,
            -9 => Code::EAI_ADDRFAMILY,
            -103 => Code::EAI_CANCELED,
            _ => Code::EAI_FAIL,
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "openbsd")))]
    fn rare_code_of(number: c_int) -> Code {
        match number {
            1 => Code::EAI_ADDRFAMILY,
            7 => Code::EAI_NODATA,
            12 => Code::EAI_BADHINTS,
            13 => Code::EAI_PROTOCOL,
            _ => Code::EAI_FAIL,
        }
    }

    #[cfg(target_os = "openbsd")]
    fn rare_code_of(number: c_int) -> Code {
        match number {
            -5 => Code::EAI_NODATA,
            -9 => Code::EAI_ADDRFAMILY,
            -12 => Code::EAI_BADHINTS,
            -13 => Code::EAI_PROTOCOL,
            _ => Code::EAI_FAIL,
        }
    }
}

/// Numbers of <ws2def.h>, <ws2tcpip.h> and <winerror.h>.
#[cfg(windows)]
mod system {
    use super::{Code, ResolveOptions, ReverseOptions};

    pub const AF_INET: i32 = 2;
    pub const AF_INET6: i32 = 23;
    pub const SOCK_STREAM: i32 = 1;
    pub const SOCK_DGRAM: i32 = 2;
    /// There is none: every number stands for itself.
    pub const EAI_SYSTEM: i32 = i32::MIN;

    fn all_of(flags: &[(bool, i32)]) -> i32 {
        let wanted = flags.iter().filter(|(wanted, _)| *wanted);
        wanted.fold(0, |all, (_, flag)| all | flag)
    }

    pub fn resolve_flags(options: &ResolveOptions) -> i32 {
        all_of(&[
            (options.passive, 0x1),
            (options.canonical_name, 0x2),
            (options.all, 0x100),
            (options.address_config, 0x400),
            (options.v4_mapped, 0x800),
        ])
    }

    pub fn reverse_flags(options: &ReverseOptions) -> i32 {
        all_of(&[
            (options.short_name, 0x1),
            (options.numeric_host, 0x2),
            (options.name_required, 0x4),
            (options.numeric_service, 0x8),
            (options.datagram, 0x10),
        ])
    }

    pub fn code_of(number: i32) -> Code {
        match number {
            11002 => Code::EAI_AGAIN,
            10022 => Code::EAI_BADFLAGS,
            11003 => Code::EAI_FAIL,
            10047 => Code::EAI_FAMILY,
            8 => Code::EAI_MEMORY,
            11001 => Code::EAI_NONAME,
            11004 => Code::EAI_NODATA,
            10109 => Code::EAI_SERVICE,
            10044 => Code::EAI_SOCKTYPE,
            other => crate::sys::code_of(other),
        }
    }
}
