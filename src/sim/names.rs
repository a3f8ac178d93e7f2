//! Names in a simulated world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::driver::sim::Simulated;
use crate::error::{Code, Result};
use crate::names::{Named, ResolveOptions, Resolved, ReverseOptions};
use crate::net::tcp::Family;

/// The addresses of a name, or without one those to listen at or of the loopback.
pub(crate) fn resolve(
    simulated: &Simulated,
    host: Option<&str>,
    port: u16,
    options: &ResolveOptions,
) -> Result<Resolved> {
    let world = simulated.world.borrow();
    let addresses = match host {
        Some(host) => world
            .addresses_of(simulated.host, host)
            .ok_or(Code::EAI_NONAME)?,
        None if options.passive => vec![
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ],
        None => vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ],
    };
    let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, port));
    let allowed = |it: &SocketAddr| options.family.is_none_or(|family| family == Family::of(it));
    let addresses: Vec<_> = addresses.filter(allowed).collect();
    if addresses.is_empty() {
        return Err(Code::EAI_ADDRFAMILY.into());
    }
    let canonical_name = options
        .canonical_name
        .then(|| host.unwrap_or_default().to_owned());
    Ok(Resolved {
        addresses,
        canonical_name,
    })
}

/// The name of an address, and the number of its port.
pub(crate) fn named(
    simulated: &Simulated,
    address: &SocketAddr,
    options: &ReverseOptions,
) -> Result<Named> {
    let known = simulated.world.borrow().name_of(address.ip());
    let known = known.filter(|_| !options.numeric_host);
    if known.is_none() && options.name_required {
        return Err(Code::EAI_NONAME.into());
    }
    Ok(Named {
        host: known.unwrap_or_else(|| address.ip().to_string()),
        service: address.port().to_string(),
    })
}
