//! Datagrams in the simulated world: lost, doubled, overtaking each other.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::network::{Content, Packet};
use super::sockets::{plain, Body};
use super::trace::Event;
use super::world::{Happening, HostNumber, SocketKey, World};
use crate::error::{Code, Error, Result};
use crate::sys::datagrams::{Batch, Outgoing, Told, BATCH};

struct Message {
    from: SocketAddr,
    to: IpAddr,
    data: Vec<u8>,
}

/// What a kernel counts for a datagram beside its bytes.
const OVERHEAD: usize = 256;

#[derive(Default)]
pub(super) struct Datagrams {
    queue: VecDeque<Message>,
    bytes: usize,
    /// What the network told of datagrams that were sent: where to.
    told: VecDeque<SocketAddr>,
    /// The same for a connected socket that does not ask for more.
    error: Option<Code>,
    reports: bool,
    /// Bytes that were sent and wait for those before them on a link with a bandwidth.
    leaving: usize,
}

impl Datagrams {
    pub fn is_readable(&self) -> bool {
        !self.queue.is_empty() || self.error.is_some()
    }

    /// Whether it takes something again, with so large a send buffer (Linux: when half of it is free).
    pub fn is_writable(&self, send_buffer: usize) -> bool {
        self.leaving <= send_buffer / 2
    }

    pub fn has_told(&self) -> bool {
        !self.told.is_empty()
    }
}

/// What a socket of datagrams has for its handle.
pub(crate) enum Came {
    Messages,
    Failed(Error),
    Nothing,
}

impl World {
    fn datagrams(&mut self, key: SocketKey) -> Result<&mut Datagrams> {
        match &mut self.socket_mut(key)?.body {
            Body::Datagrams(datagrams) => Ok(datagrams),
            _ => Err(Code::ENOTSOCK.into()),
        }
    }

    /// Has the socket told all that the network has against what it sends.
    pub fn report_errors(&mut self, key: SocketKey) {
        if let Ok(datagrams) = self.datagrams(key) {
            datagrams.reports = true;
        }
    }

    /// Connects a socket of datagrams, or undoes that.
    pub fn set_peer(&mut self, key: SocketKey, peer: Option<SocketAddr>) -> Result<()> {
        let socket = self.socket(key)?;
        let peer = peer.map(plain);
        if let (Some(peer), Some(local)) = (peer, socket.local) {
            let (host, mut local) = (socket.host, local);
            if local.ip().is_unspecified() {
                // As a kernel does, so that its address can be asked for.
                local.set_ip(self.source_for(host, peer.ip())?);
            }
            self.socket_mut(key)?.local = Some(local);
        }
        self.socket_mut(key)?.peer = peer;
        Ok(())
    }

    /// After [`World::set_peer`] has undone a connection: at the address where it was bound.
    pub fn bind_again(&mut self, key: SocketKey, local: SocketAddr) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            let port = socket.local.map_or(0, |local| local.port());
            socket.local = Some(SocketAddr::new(plain(local).ip(), port));
        }
    }

    /// Sends messages: how many were taken, and what there is against the next, unless the socket is full.
    pub fn send_messages(
        &mut self,
        key: SocketKey,
        messages: &[Outgoing<'_>],
    ) -> (usize, Result<()>) {
        for (count, message) in messages.iter().enumerate() {
            match self.send_message(key, message) {
                Ok(true) => {}
                Ok(false) => return (count, Ok(())),
                Err(error) => return (count, Err(error)),
            }
        }
        (messages.len(), Ok(()))
    }

    /// Sends one; `false`: the socket is full.
    fn send_message(&mut self, key: SocketKey, message: &Outgoing<'_>) -> Result<bool> {
        let socket = self.socket(key)?;
        let (host, local) = (socket.host, socket.local.ok_or(Code::EINVAL)?);
        let room = socket.send_buffer;
        let to = message.to.map(plain).or(socket.peer);
        let to = to.ok_or(Code::EDESTADDRREQ)?;
        if let Some(error) = self.datagrams(key)?.error.take() {
            return Err(error.into());
        }
        if to.ip().is_multicast() || to.ip() == IpAddr::from([255; 4]) {
            return Err(Code::ENETUNREACH.into());
        }
        // As Linux: one more, as long as there is any room.
        if self.datagrams(key)?.leaving >= room {
            return Ok(false);
        }
        let mut from = local;
        if let Some(source) = message.how.source {
            from.set_ip(source.to_canonical());
            if !self.is_local(host, from.ip()) {
                return Err(Code::EINVAL.into());
            }
        }
        if from.ip().is_unspecified() {
            from.set_ip(self.source_for(host, to.ip())?);
        }
        let data = super::joined(message.slices);
        let step = match message.segment {
            0 => data.len().max(1),
            segment => usize::from(segment),
        };
        let mut parts: Vec<&[u8]> = data.chunks(step).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for part in parts {
            self.send_datagram(key, host, from, to, part);
        }
        Ok(true)
    }

    fn send_datagram(
        &mut self,
        key: SocketKey,
        host: HostNumber,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
    ) {
        let by = self.sockets.get(&key).and_then(|socket| socket.holder);
        self.record(Event {
            by,
            from: Some(from),
            to: Some(to),
            data,
            ..Event::new("sends")
        });
        // Where there is no host it is lost without a word.
        let Some(to_host) = self.reached(host, to.ip()) else {
            return;
        };
        let doubles = self.network.link(host, to_host).duplicate_ppm;
        let count = 1 + usize::from(self.random.happens(doubles));
        for _ in 0..count {
            let packet = Packet {
                from_host: host,
                to_host,
                from,
                to,
                content: Content::Datagram(data.to_vec()),
            };
            self.transmit(packet, 0);
        }
        if let (Some(at), Ok(datagrams)) = (self.leaves_at(host, to_host), self.datagrams(key)) {
            datagrams.leaving += data.len();
            self.schedule(at, Happening::Departure(key, data.len()));
        }
    }

    /// Bytes of a socket have left: there is room for others.
    pub(super) fn datagram_left(&mut self, key: SocketKey, length: usize) {
        if let Ok(datagrams) = self.datagrams(key) {
            datagrams.leaving = datagrams.leaving.saturating_sub(length);
            self.touch(key);
        }
    }

    pub(super) fn datagram_arrived(
        &mut self,
        (from_host, host): (HostNumber, HostNumber),
        from: SocketAddr,
        to: SocketAddr,
        data: Vec<u8>,
    ) {
        let Some(key) = self.receiver_for(host, to, from) else {
            let packet = Packet {
                from_host: host,
                to_host: from_host,
                from: to,
                to: from,
                content: Content::Unreachable,
            };
            self.transmit(packet, 0);
            return;
        };
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        let room = socket.receive_buffer;
        let Body::Datagrams(datagrams) = &mut socket.body else {
            return;
        };
        let takes = data.len() + OVERHEAD;
        // As Linux: one more, as long as there is any room.
        if datagrams.bytes >= room {
            return self.record(Event {
                from: Some(from),
                to: Some(to),
                data: &data,
                ..Event::new("finds no room for")
            });
        }
        datagrams.bytes += takes;
        let to = to.ip();
        datagrams.queue.push_back(Message { from, to, data });
        self.touch(key);
    }

    /// Whose the datagram is: a connected socket's first, then one's at just that address.
    fn receiver_for(
        &self,
        host: HostNumber,
        to: SocketAddr,
        from: SocketAddr,
    ) -> Option<SocketKey> {
        let keys = self.bound.get(&(true, host, to.port()))?;
        let rank = |key: &SocketKey| {
            let socket = self.sockets.get(key)?;
            if !socket.takes(to.ip()) || socket.peer.is_some_and(|peer| peer != from) {
                return None;
            }
            let exact = socket.local.map(|local| local.ip()) == Some(to.ip());
            Some((socket.peer.is_some(), exact))
        };
        let best = keys.iter().filter_map(rank).max()?;
        let best: Vec<_> = keys.iter().filter(|key| rank(key) == Some(best)).collect();
        let at = usize::from(from.port()) % best.len().max(1);
        best.get(at).map(|key| **key)
    }

    /// The network tells a sender that nobody receives there.
    pub(super) fn unreachable_told(&mut self, host: HostNumber, by: SocketAddr, to: SocketAddr) {
        let keys = self.bound.get(&(true, host, to.port())).cloned();
        for key in keys.unwrap_or_default() {
            let Some(socket) = self.sockets.get_mut(&key) else {
                continue;
            };
            let connected = socket.peer == Some(by);
            if !socket.takes(to.ip()) || socket.peer.is_some() && !connected {
                continue;
            }
            let Body::Datagrams(datagrams) = &mut socket.body else {
                continue;
            };
            if datagrams.reports {
                datagrams.told.push_back(by);
            } else if connected {
                datagrams.error = Some(Code::ECONNREFUSED);
            }
            self.touch(key);
        }
    }

    /// What the network told of something that was sent before.
    pub fn next_told(&mut self, key: SocketKey) -> Option<(Error, Told)> {
        let to = self.datagrams(key).ok()?.told.pop_front()?;
        let to = self.socket(key).ok()?.shown(to);
        let error = Error::new(Code::ECONNREFUSED);
        let told = Told {
            errno: error.system(),
            to: Some(to),
            by: Some(to.ip()),
            mtu: None,
        };
        Some((error, told))
    }

    /// Puts what has come into a batch.
    pub fn receive_messages(&mut self, key: SocketKey, batch: &mut Batch) -> Came {
        batch.clear();
        if let Ok(Some(error)) = self.datagrams(key).map(|it| it.error.take()) {
            return Came::Failed(error.into());
        }
        for _ in 0..BATCH {
            let Ok(datagrams) = self.datagrams(key) else {
                return Came::Nothing;
            };
            let Some(message) = datagrams.queue.pop_front() else {
                break;
            };
            datagrams.bytes -= message.data.len() + OVERHEAD;
            let Ok(socket) = self.socket(key) else {
                return Came::Nothing;
            };
            let (by, to) = (socket.holder, socket.local);
            let from = socket.shown(message.from);
            let shown_to = socket.shown(SocketAddr::new(message.to, 0)).ip();
            batch.put(&message.data, from, shown_to);
            self.record(Event {
                by,
                from: Some(message.from),
                to,
                data: &message.data,
                ..Event::new("receives")
            });
        }
        match batch.is_empty() {
            true => Came::Nothing,
            false => Came::Messages,
        }
    }
}
