//! The network between hosts: delays, losses, links that are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::connection::Piece;
use super::options::LinkOptions;
use super::trace::Event;
use super::world::{nanoseconds, Happening, HostNumber, World};

/// What a packet carries.
pub(super) enum Content {
    Segment(Piece),
    Datagram(Vec<u8>),
    /// Nobody receives datagrams there (ICMP, port unreachable): told to who sent one.
    Unreachable,
}

pub(super) struct Packet {
    pub from_host: HostNumber,
    pub to_host: HostNumber,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub content: Content,
}

/// One direction between two hosts.
#[derive(Default)]
struct Way {
    /// When the last packet has left.
    free_at: u64,
}

pub(super) struct Network {
    usual: LinkOptions,
    links: BTreeMap<(HostNumber, HostNumber), LinkOptions>,
    ways: BTreeMap<(HostNumber, HostNumber), Way>,
    /// Pairs, the smaller number first, between which nothing passes.
    cut: BTreeSet<(HostNumber, HostNumber)>,
    /// Within a host nothing is lost, and it is fast.
    inside: LinkOptions,
}

fn pair(a: HostNumber, b: HostNumber) -> (HostNumber, HostNumber) {
    (a.min(b), a.max(b))
}

impl Network {
    pub fn new(usual: LinkOptions) -> Network {
        let inside = LinkOptions {
            latency_min: std::time::Duration::from_micros(5),
            latency_max: std::time::Duration::from_micros(20),
            packet_max: 65_483,
            ..LinkOptions::default()
        };
        Network {
            usual,
            links: BTreeMap::new(),
            ways: BTreeMap::new(),
            cut: BTreeSet::new(),
            inside,
        }
    }

    pub fn link(&self, a: HostNumber, b: HostNumber) -> &LinkOptions {
        if a == b {
            return &self.inside;
        }
        self.links.get(&pair(a, b)).unwrap_or(&self.usual)
    }

    fn passes(&self, a: HostNumber, b: HostNumber) -> bool {
        !self.cut.contains(&pair(a, b))
    }
}

impl World {
    /// Between these two the network is as `options` say; `None`: as between all.
    pub fn set_link(&mut self, a: HostNumber, b: HostNumber, options: Option<LinkOptions>) {
        let links = &mut self.network.links;
        match options {
            Some(options) => links.insert(pair(a, b), options),
            None => links.remove(&pair(a, b)),
        };
    }

    /// Lets nothing pass between these two, or everything again. What is under way is lost.
    pub fn set_cut(&mut self, a: HostNumber, b: HostNumber, cut: bool) {
        let (a_address, b_address) = (self.hosts[a].addresses[0], self.hosts[b].addresses[0]);
        self.record(Event {
            from: Some(SocketAddr::new(a_address, 0)),
            to: Some(SocketAddr::new(b_address, 0)),
            ..Event::new(if cut {
                "is cut between"
            } else {
                "heals between"
            })
        });
        match cut {
            true => self.network.cut.insert(pair(a, b)),
            false => self.network.cut.remove(&pair(a, b)),
        };
    }

    /// Everything passes everywhere again.
    pub fn heal_all(&mut self) {
        self.record(Event::new("heals everywhere"));
        self.network.cut.clear();
    }

    /// When the last packet leaves on its way from one host to another, if it has to wait for those before it.
    pub(super) fn leaves_at(&self, from: HostNumber, to: HostNumber) -> Option<u64> {
        self.network.link(from, to).bandwidth?;
        let way = self.network.ways.get(&(from, to))?;
        Some(way.free_at).filter(|at| *at > self.now)
    }

    /// Puts a packet on its way, not to arrive before `after`; when it arrives, or would.
    pub(super) fn transmit(&mut self, packet: Packet, after: u64) -> u64 {
        let (from, to) = (packet.from_host, packet.to_host);
        let link = self.network.link(from, to);
        let (least, most) = (nanoseconds(link.latency_min), nanoseconds(link.latency_max));
        let (loss, bandwidth, packet_max) = (link.loss_ppm, link.bandwidth, link.packet_max);
        let length = match &packet.content {
            Content::Segment(piece) => piece.data.len(),
            Content::Datagram(data) => data.len(),
            Content::Unreachable => 0,
        };
        let mut leaves = self.now;
        if let Some(bandwidth) = bandwidth.filter(|_| length > 0) {
            let takes = length as u128 * 1_000_000_000 / u128::from(bandwidth.max(1));
            let way = self.network.ways.entry((from, to)).or_default();
            way.free_at = way.free_at.max(self.now).saturating_add(takes as u64);
            leaves = way.free_at;
        }
        let takes = self.random.between(least, most);
        let arrives = leaves.saturating_add(takes).max(after);
        let parts = match &packet.content {
            Content::Datagram(data) => data.len().div_ceil(packet_max as usize).max(1),
            _ => 1,
        };
        let lost = (0..parts).any(|_| self.random.happens(loss));
        if lost || !self.network.passes(from, to) {
            self.record_packet("loses", &packet);
        } else {
            self.schedule(arrives, Happening::Arrival(Box::new(packet)));
        }
        arrives
    }

    pub(super) fn record_packet(&mut self, what: &'static str, packet: &Packet) {
        let (number, data): (u64, &[u8]) = match &packet.content {
            Content::Segment(piece) => (piece.seq, &piece.data),
            Content::Datagram(data) => (0, data),
            Content::Unreachable => (0, &[]),
        };
        let kind = match (&packet.content, what) {
            (Content::Segment(Piece { syn: true, .. }), "loses") => "loses SYN",
            (Content::Segment(Piece { rst: true, .. }), "loses") => "loses RST",
            (Content::Segment(Piece { fin: true, .. }), "loses") => "loses FIN",
            (Content::Segment(Piece { syn: true, .. }), _) => "brings SYN",
            (Content::Segment(Piece { rst: true, .. }), _) => "brings RST",
            (Content::Segment(Piece { fin: true, .. }), _) => "brings FIN",
            (Content::Segment(piece), "brings") if piece.data.is_empty() => "brings ACK",
            _ => what,
        };
        self.record(Event {
            from: Some(packet.from),
            to: Some(packet.to),
            number,
            data,
            ..Event::new(kind)
        });
    }

    pub(super) fn packet_arrived(&mut self, packet: Packet) {
        if !self.network.passes(packet.from_host, packet.to_host) {
            return self.record_packet("loses", &packet);
        }
        self.record_packet("brings", &packet);
        let Packet {
            from_host,
            to_host,
            from,
            to,
            content,
        } = packet;
        match content {
            Content::Segment(piece) => self.segment_arrived((from_host, to_host), from, to, piece),
            Content::Datagram(data) => self.datagram_arrived((from_host, to_host), from, to, data),
            Content::Unreachable => self.unreachable_told(to_host, from, to),
        }
    }
}
