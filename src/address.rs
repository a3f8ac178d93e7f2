//! Numeric internet addresses as texts, and what is asked of them.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// "::1", "127.0.0.1", "fe80::1%eth0", "fe80::1%2".
pub(crate) fn parse(host: &str, port: u16) -> Option<SocketAddr> {
    let Some((ip, scope)) = host.split_once('%') else {
        return Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, port));
    };
    let ip: Ipv6Addr = ip.parse().ok()?;
    let number = match scope.parse::<u32>() {
        // "+2" would do for Rust.
        Ok(number) if scope.bytes().all(|byte| byte.is_ascii_digit()) => Some(number),
        _ => interface(scope),
    };
    Some(SocketAddrV6::new(ip, port, 0, number?).into())
}

#[cfg(unix)]
fn interface(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        number => Some(number),
    }
}

#[cfg(not(unix))]
fn interface(_name: &str) -> Option<u32> {
    None
}

/// "127.0.0.1:80", "[::1]:80"; without a port, the default: "127.0.0.1", "::1", "[::1]".
pub(crate) fn parse_endpoint(text: &str, default_port: u16) -> Option<SocketAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let port = match after {
            "" => default_port,
            _ => port(after.strip_prefix(':')?)?,
        };
        return parse(host, port).filter(SocketAddr::is_ipv6);
    }
    match text.split_once(':') {
        Some((host, after)) if !after.contains(':') => {
            parse(host, port(after)?).filter(SocketAddr::is_ipv4)
        }
        _ => parse(text, default_port),
    }
}

/// Digits only: "+80" would do for Rust.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Without the port, as [`parse`] reads it.
pub(crate) fn ip_text(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => address.ip().to_string(),
    }
}

/// By all that tells two addresses apart: not by the flow information.
pub(crate) fn compare(one: SocketAddr, other: SocketAddr) -> Ordering {
    let scope = |address| match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let key = |address: SocketAddr| (address.ip(), scope(address), address.port());
    key(one).cmp(&key(other))
}

pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// An IPv4-mapped address as the IPv4 address it stands for (RFC 4291, 2.5.5.2).
pub(crate) fn unmap(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_numeric_addresses() {
        let v4: SocketAddr = "192.0.2.7:80".parse().unwrap();
        assert_eq!(parse("192.0.2.7", 80), Some(v4));
        let v6: SocketAddr = "[fe80::1%7]:443".parse().unwrap();
        assert_eq!(parse("fe80::1%7", 443), Some(v6));
        for wrong in [
            "",
            "%",
            "::1%",
            "127.0.0.1%1",
            "[::1]",
            "fe80::1%+7",
            "localhost",
        ] {
            assert_eq!(parse(wrong, 1), None, "{wrong}");
        }
    }

    #[test]
    fn parses_endpoints() {
        for (text, expected) in [
            ("192.0.2.7:80", "192.0.2.7:80"),
            ("192.0.2.7", "192.0.2.7:9"),
            ("[::1]:65535", "[::1]:65535"),
            ("[::1]", "[::1]:9"),
            ("::1", "[::1]:9"),
            ("1::2", "[1::2]:9"),
            ("[fe80::1%7]:0", "[fe80::1%7]:0"),
            ("fe80::1%7", "[fe80::1%7]:9"),
        ] {
            let expected: SocketAddr = expected.parse().unwrap();
            assert_eq!(parse_endpoint(text, 9), Some(expected), "{text}");
        }
        for wrong in [
            "",
            ":",
            ":80",
            "[]:80",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]:",
            "[127.0.0.1]:80",
            "127.0.0.1:",
            "127.0.0.1:+8",
            "127.0.0.1:65536",
            "127.0.0.1:80:80",
            "localhost:80",
        ] {
            assert_eq!(parse_endpoint(wrong, 9), None, "{wrong}");
        }
    }

    #[test]
    fn a_text_without_port_is_read_again() {
        for text in ["192.0.2.7", "2001:db8::1", "fe80::1%7"] {
            let address = parse(text, 80).unwrap();
            assert_eq!(ip_text(address), text);
        }
    }

    #[test]
    fn orders_by_what_tells_addresses_apart() {
        let ordered = [
            "9.0.0.1:9",
            "10.0.0.1:1",
            "10.0.0.1:2",
            "[::1]:1",
            "[::1%3]:0",
            "[::2]:0",
        ];
        for (at, one) in ordered.iter().enumerate() {
            for (other_at, other) in ordered.iter().enumerate() {
                let found = compare(one.parse().unwrap(), other.parse().unwrap());
                assert_eq!(found, at.cmp(&other_at), "{one} {other}");
            }
        }
    }

    #[test]
    fn unmaps_only_what_is_mapped() {
        let unmapped = |text: &str| unmap(text.parse().unwrap()).to_string();
        assert_eq!(unmapped("[::ffff:192.0.2.1]:80"), "192.0.2.1:80");
        assert_eq!(unmapped("[::192.0.2.1]:80"), "[::c000:201]:80");
        assert_eq!(unmapped("[fe80::1%7]:80"), "[fe80::1%7]:80");
    }
}
