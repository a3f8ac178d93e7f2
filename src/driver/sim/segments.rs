//! The way of segments between connections and the network.

use std::net::SocketAddr;

use super::connection::{Connection, Phase, Piece};
use super::network::{Content, Packet};
use super::sockets::{Body, Socket};
use super::trace::Event;
use super::world::{Happening, HostNumber, SocketKey, World};
use crate::driver::State;

impl World {
    /// After something was done with a connection: what it wants to send goes, its timer is set, its loop is told, and
    /// what has ended is forgotten.
    pub(super) fn settle(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        let (host, local, peer) = (socket.host, socket.local, socket.peer);
        let Some(connection) = socket.connection() else {
            return;
        };
        let pieces = std::mem::take(&mut connection.out);
        let mut arrives_at = connection.arrives_at;
        let gone = connection.gone;
        if let (Some(local), Some(peer)) = (local, peer) {
            for piece in pieces {
                arrives_at = self.send_piece((host, local, peer), piece, arrives_at);
            }
        }
        if gone {
            return self.forget(key);
        }
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        let Some(connection) = socket.connection() else {
            return;
        };
        connection.arrives_at = arrives_at;
        let deadline = connection.deadline();
        if let Some(at) = deadline {
            if socket.scheduled.is_none_or(|scheduled| scheduled > at) {
                socket.scheduled = Some(at);
                self.schedule(at, Happening::Timer(key));
            }
        }
        self.touch(key);
    }

    /// A connection of which nothing is left, unless a program still holds it or it waits to be accepted.
    fn forget(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        if socket.holder.is_some() {
            // It was reset under its program's hands.
            if let Some(connection) = socket.connection() {
                connection.gone = false;
            }
            return self.touch(key);
        }
        if let Some(listener) = socket.listener {
            let half_open = socket.connection().map(|it| it.phase) == Some(Phase::SynReceived);
            if let Some(Body::Listener(listener)) =
                self.sockets.get_mut(&listener).map(|it| &mut it.body)
            {
                listener.queue.retain(|child| *child != key);
                listener.half_open -= usize::from(half_open && listener.half_open > 0);
            }
        }
        self.remove(key);
    }

    fn send_piece(
        &mut self,
        (host, local, peer): (HostNumber, SocketAddr, SocketAddr),
        piece: Piece,
        after: u64,
    ) -> u64 {
        // Nobody is there: it is on its way for ever.
        let Some(to_host) = self.reached(host, peer.ip()) else {
            return after;
        };
        let resets = self.network.link(host, to_host).reset_ppm;
        if !piece.data.is_empty() && self.random.happens(resets) {
            return self.cut_off((host, local), (to_host, peer), after);
        }
        let packet = Packet {
            from_host: host,
            to_host,
            from: local,
            to: peer,
            content: Content::Segment(piece),
        };
        self.transmit(packet, after)
    }

    /// Something on the way resets a connection: both ends hear of it.
    fn cut_off(
        &mut self,
        (from_host, from): (HostNumber, SocketAddr),
        (to_host, to): (HostNumber, SocketAddr),
        after: u64,
    ) -> u64 {
        self.record(Event {
            from: Some(from),
            to: Some(to),
            ..Event::new("resets")
        });
        let rst = || {
            Content::Segment(Piece {
                rst: true,
                ..Piece::default()
            })
        };
        let back = Packet {
            from_host: to_host,
            to_host: from_host,
            from: to,
            to: from,
            content: rst(),
        };
        self.transmit(back, 0);
        let there = Packet {
            from_host,
            to_host,
            from,
            to,
            content: rst(),
        };
        self.transmit(there, after)
    }

    /// Resets the connections between two hosts; how many.
    pub fn reset_connections(&mut self, a: HostNumber, b: HostNumber) -> usize {
        let mut found = Vec::new();
        for (host, local, peer) in self.connections.keys() {
            let other = self.reached(*host, peer.ip());
            // Each connection once, by the end of the first host; within a host, both.
            if *host == a && other == Some(b) {
                found.push(((*host, *local), (b, *peer)));
            }
        }
        let count = found.len();
        for (from, to) in found {
            self.cut_off(from, to, 0);
        }
        count
    }

    pub(super) fn timer_due(&mut self, key: SocketKey, at: u64) {
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        if socket.scheduled == Some(at) {
            socket.scheduled = None;
        }
        let Some(connection) = socket.connection() else {
            return;
        };
        if connection
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            connection.timer(now);
        }
        self.settle(key);
    }

    pub(super) fn segment_arrived(
        &mut self,
        (from_host, host): (HostNumber, HostNumber),
        from: SocketAddr,
        to: SocketAddr,
        piece: Piece,
    ) {
        let found = self.connections.get(&(host, to, from)).copied();
        let Some(key) = found else {
            return self.nobody_for((from_host, host), from, to, piece);
        };
        let now = self.now;
        let begins = piece.syn && piece.ack.is_none();
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        let listener = socket.listener;
        let Some(connection) = socket.connection() else {
            return;
        };
        let over =
            connection.phase == Phase::Closed || begins && connection.phase == Phase::TimeWait;
        if over {
            // A new connection in the place of one that has ended; or the peer does not know yet that it is broken.
            if socket.holder.is_none() {
                self.remove(key);
            } else {
                self.connections.remove(&(host, to, from));
            }
            return self.nobody_for((from_host, host), from, to, piece);
        }
        let half_open = connection.phase == Phase::SynReceived;
        if let (true, Some(listener), Some(_)) = (half_open, listener, piece.ack) {
            // Without room it stays half open, and the answer to its SYN is sent again (Linux).
            if !self.has_room(listener) {
                return;
            }
        }
        let connection = self.sockets.get_mut(&key).and_then(Socket::connection);
        let Some(connection) = connection else { return };
        connection.arrived(&piece, now);
        let opened = half_open && connection.phase == Phase::Connected;
        if let (true, Some(listener)) = (opened, listener) {
            self.wait_for_accept(listener, key);
        }
        self.settle(key);
    }

    fn has_room(&self, listener: SocketKey) -> bool {
        match self.sockets.get(&listener).map(|it| &it.body) {
            Some(Body::Listener(listener)) => listener.queue.len() < listener.backlog,
            _ => true,
        }
    }

    fn wait_for_accept(&mut self, listener: SocketKey, child: SocketKey) {
        if let Some(Body::Listener(it)) = self.sockets.get_mut(&listener).map(|it| &mut it.body) {
            it.half_open = it.half_open.saturating_sub(1);
            it.queue.push_back(child);
        }
        self.touch(listener);
    }

    /// A segment for which there is no connection.
    fn nobody_for(
        &mut self,
        (from_host, host): (HostNumber, HostNumber),
        from: SocketAddr,
        to: SocketAddr,
        piece: Piece,
    ) {
        if piece.rst {
            return;
        }
        if piece.syn && piece.ack.is_none() {
            let refuses = self.network.link(from_host, host).refuse_ppm;
            let refused = self.random.happens(refuses);
            if let Some(listener) = self.listener_for(host, to, from).filter(|_| !refused) {
                return self.half_open(listener, (from_host, host), from, to, &piece);
            }
        }
        let packet = Packet {
            from_host: host,
            to_host: from_host,
            from: to,
            to: from,
            content: Content::Segment(Piece {
                rst: true,
                ..Piece::default()
            }),
        };
        self.transmit(packet, 0);
    }

    /// Who listens there; of several the connection's addresses decide, as a kernel's hash does.
    fn listener_for(
        &self,
        host: HostNumber,
        to: SocketAddr,
        from: SocketAddr,
    ) -> Option<SocketKey> {
        let keys = self.bound.get(&(false, host, to.port()))?;
        let listens = |key: &&SocketKey| {
            self.sockets.get(key).is_some_and(|socket| {
                matches!(socket.body, Body::Listener(_)) && socket.takes(to.ip())
            })
        };
        let exact = |key: &&SocketKey| {
            let socket = self.sockets.get(key);
            socket.is_some_and(|it| it.local.map(|local| local.ip()) == Some(to.ip()))
        };
        let all: Vec<_> = keys.iter().filter(listens).collect();
        let best: Vec<_> = all.iter().copied().filter(exact).collect();
        let best = if best.is_empty() { all } else { best };
        let at = usize::from(from.port()) % best.len().max(1);
        best.get(at).map(|key| **key)
    }

    /// A SYN for a listener: answered, unless its backlog is full.
    fn half_open(
        &mut self,
        listener: SocketKey,
        (from_host, host): (HostNumber, HostNumber),
        from: SocketAddr,
        to: SocketAddr,
        piece: &Piece,
    ) {
        let Some(socket) = self.sockets.get_mut(&listener) else {
            return;
        };
        let Body::Listener(state) = &mut socket.body else {
            return;
        };
        if state.queue.len() + state.half_open >= state.backlog {
            return self.record(Event {
                from: Some(from),
                to: Some(to),
                ..Event::new("finds the backlog full")
            });
        }
        state.half_open += 1;
        let child = Socket {
            host,
            holder: None,
            id: None,
            wants: State::empty(),
            local: Some(to),
            peer: Some(from),
            v6: socket.v6,
            ipv6_only: socket.ipv6_only,
            reuse_address: socket.reuse_address,
            reuse_port: socket.reuse_port,
            send_buffer: socket.send_buffer,
            receive_buffer: socket.receive_buffer,
            resets: false,
            probing: None,
            listener: Some(listener),
            scheduled: None,
            body: Body::Fresh,
        };
        let key = self.add_socket(child);
        let Ok(limits) = self.limits(key, Some(from_host)) else {
            return;
        };
        let connection = Connection::answer(limits, piece.window, self.now);
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.body = Body::Connection(Box::new(connection));
        }
        self.connections.insert((host, to, from), key);
        self.settle(key);
    }
}
