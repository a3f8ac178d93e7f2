//! The interfaces of the machine to its networks.

use std::net::{IpAddr, SocketAddr};

use bitflags::bitflags;

use crate::error::Result;

bitflags! {
    /// What an interface is, and whether it works.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InterfaceFlags: u32 {
        /// Switched on.
        const UP = 1;
        /// Ready to carry packets: what it is plugged into works, too.
        const RUNNING = 2;
        /// Leads back to this machine.
        const LOOPBACK = 4;
        /// Reaches all of its network at once.
        const BROADCAST = 8;
        /// Reaches groups.
        const MULTICAST = 16;
        /// Leads to one other machine, as tunnels do.
        const POINT_TO_POINT = 32;
    }
}

/// One address of an interface, or an interface that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// "eth0".
    pub name: String,
    /// The number that scopes of addresses refer to.
    pub index: u32,
    /// What it is.
    pub flags: InterfaceFlags,
    /// The address; its port is 0.
    pub address: Option<SocketAddr>,
    /// The mask of the address' network.
    pub netmask: Option<IpAddr>,
    /// How many bits of the address are its network's: 24 for 255.255.255.0.
    pub prefix_length: u32,
    /// The hardware's address; zeros where it has none of six bytes.
    pub mac: [u8; 6],
}

/// The interfaces, in the system's order, each once for every address it has, and once without
/// one if it has none.
///
/// Errors: those of the system; [`Code::ENOTSUP`](crate::Code::ENOTSUP) on Windows.
pub fn interfaces() -> Result<Vec<Interface>> {
    #[cfg(unix)]
    return Ok(unix::gather(crate::sys::machine::interface_lines()?));
    #[cfg(not(unix))]
    return Err(crate::error::Code::ENOTSUP.into());
}

#[cfg(unix)]
mod unix {
    use super::*;
    use crate::sys::machine::{interface_index, InterfaceAbout, InterfaceLine};

    /// Brings the lines of each interface together.
    pub(super) fn gather(lines: Vec<InterfaceLine>) -> Vec<Interface> {
        let mut names: Vec<&[u8]> = Vec::new();
        for line in &lines {
            if !names.contains(&line.name.as_slice()) {
                names.push(&line.name);
            }
        }
        let mut found = Vec::new();
        for name in names {
            let of_it = || lines.iter().filter(|line| line.name == name);
            let mut plain = Interface {
                name: String::from_utf8_lossy(name).into_owned(),
                index: interface_index(name),
                flags: of_it()
                    .map(|line| flags(line.flags))
                    .next()
                    .unwrap_or(InterfaceFlags::empty()),
                address: None,
                netmask: None,
                prefix_length: 0,
                mac: [0; 6],
            };
            let mut addresses = Vec::new();
            for line in of_it() {
                match line.about {
                    InterfaceAbout::Hardware(mac) => plain.mac = mac,
                    InterfaceAbout::Address(address, mask) => addresses.push((address, mask)),
                    InterfaceAbout::Nothing => {}
                }
            }
            if addresses.is_empty() {
                found.push(plain);
                continue;
            }
            found.extend(addresses.into_iter().map(|(address, mask)| Interface {
                address: Some(address),
                netmask: mask,
                prefix_length: mask.map_or(0, ones),
                ..plain.clone()
            }));
        }
        found
    }

    fn ones(mask: IpAddr) -> u32 {
        match mask {
            IpAddr::V4(mask) => mask.to_bits().leading_ones(),
            IpAddr::V6(mask) => mask.to_bits().leading_ones(),
        }
    }

    fn flags(system: u32) -> InterfaceFlags {
        let pairs = [
            (libc::IFF_UP, InterfaceFlags::UP),
            (libc::IFF_RUNNING, InterfaceFlags::RUNNING),
            (libc::IFF_LOOPBACK, InterfaceFlags::LOOPBACK),
            (libc::IFF_BROADCAST, InterfaceFlags::BROADCAST),
            (libc::IFF_MULTICAST, InterfaceFlags::MULTICAST),
            (libc::IFF_POINTOPOINT, InterfaceFlags::POINT_TO_POINT),
        ];
        let set = pairs.iter().filter(|(bit, _)| system & *bit as u32 != 0);
        set.map(|(_, flag)| *flag).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn line(name: &str, about: InterfaceAbout) -> InterfaceLine {
            InterfaceLine {
                name: name.into(),
                flags: (libc::IFF_UP | libc::IFF_LOOPBACK) as u32,
                about,
            }
        }

        #[test]
        fn an_interface_comes_once_for_each_address() {
            let address = |text: &str| format!("{text}:0").parse().unwrap();
            let mask = |text: &str| Some(text.parse().unwrap());
            let found = gather(vec![
                line("a", InterfaceAbout::Hardware([1, 2, 3, 4, 5, 6])),
                line("b", InterfaceAbout::Nothing),
                line(
                    "a",
                    InterfaceAbout::Address(address("10.1.2.3"), mask("255.255.240.0")),
                ),
                line(
                    "a",
                    InterfaceAbout::Address(address("[fd00::1]"), mask("ffff:ffff::")),
                ),
            ]);
            let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(names, ["a", "a", "b"]);
            assert_eq!(found[0].prefix_length, 20);
            assert_eq!(found[1].prefix_length, 32);
            assert_eq!(found[1].mac, [1, 2, 3, 4, 5, 6]);
            assert_eq!(found[2].address, None);
            assert_eq!(found[2].mac, [0; 6]);
            assert_eq!(
                found[0].flags,
                InterfaceFlags::UP | InterfaceFlags::LOOPBACK
            );
        }
    }
}
