//! The sockets of the simulated world, as programs use them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::connection::{Connection, Limits, Probing};
use super::datagrams::Datagrams;
use super::trace::Event;
use super::world::{nanoseconds, HostNumber, SocketKey, World};
use crate::driver::State;
use crate::error::{Code, Result};
use crate::handles::Id;

pub(super) struct Listener {
    pub backlog: usize,
    /// Connections that wait to be accepted.
    pub queue: VecDeque<SocketKey>,
    /// Connections whose SYN was answered.
    pub half_open: usize,
}

pub(super) enum Body {
    /// For connections, and not used yet.
    Fresh,
    Listener(Listener),
    Connection(Box<Connection>),
    Datagrams(Box<Datagrams>),
}

pub(super) struct Socket {
    pub host: HostNumber,
    /// The loop that holds it; `None`: it is in a backlog, or was closed and still sends.
    pub holder: Option<u32>,
    pub id: Option<Id>,
    /// What its handle waits for.
    pub wants: State,
    /// IPv4's addresses are never in IPv6's form here.
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    /// An IPv6 socket, which shows addresses of IPv4 in IPv6's form.
    pub v6: bool,
    pub ipv6_only: bool,
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub send_buffer: usize,
    pub receive_buffer: usize,
    /// Closing resets the connection.
    pub resets: bool,
    pub probing: Option<Probing>,
    /// The listener it came to, until it is accepted.
    pub listener: Option<SocketKey>,
    /// For when a timer's happening is on the agenda.
    pub scheduled: Option<u64>,
    pub body: Body,
}

/// An address as the world has it.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Socket {
    /// Whether both cannot have a port: one of them has all addresses, or it is the same address.
    pub fn overlaps(&self, other: SocketAddr, other_only_v6: bool) -> bool {
        let Some(local) = self.local else {
            return false;
        };
        let dual = |address: IpAddr, only: bool| address.is_ipv6() && !only;
        let (a, b) = (local.ip(), other.ip());
        if a == b {
            return true;
        }
        let same_family = a.is_ipv4() == b.is_ipv4();
        let all = |ip: IpAddr, only, other: IpAddr| {
            ip.is_unspecified() && (same_family || dual(ip, only) && other.is_ipv4())
        };
        all(a, self.ipv6_only, b) || all(b, other_only_v6, a)
    }

    /// Whether what is sent to this address of its host and port comes to it.
    pub fn takes(&self, to: IpAddr) -> bool {
        self.local
            .is_some_and(|local| match (local.ip(), to.is_ipv4()) {
                (IpAddr::V4(ip), true) if ip.is_unspecified() => true,
                (IpAddr::V6(ip), true) if ip.is_unspecified() => !self.ipv6_only,
                (IpAddr::V6(ip), false) if ip.is_unspecified() => true,
                (ip, _) => ip == to,
            })
    }

    /// An address in the form that the socket's family has.
    pub fn shown(&self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V4(v4) if self.v6 => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            other => other,
        }
    }

    pub fn connection(&mut self) -> Option<&mut Connection> {
        match &mut self.body {
            Body::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    /// What its handle would be told, of that which it waits for.
    pub fn ready(&self) -> State {
        let mut ready = State::empty();
        match &self.body {
            Body::Fresh => {}
            Body::Listener(listener) => ready.set(State::ACCEPT, !listener.queue.is_empty()),
            Body::Connection(connection) => {
                ready.set(State::CONNECT, !connection.is_connecting());
                ready.set(State::RECEIVE, connection.is_readable());
                ready.set(State::SEND, connection.is_writable());
            }
            Body::Datagrams(datagrams) => {
                ready.set(State::RECEIVE, datagrams.is_readable());
                ready.set(State::ERROR_QUEUE, datagrams.has_told());
                ready.set(State::SEND, datagrams.is_writable(self.send_buffer));
            }
        }
        ready & self.wants
    }
}

impl World {
    fn new_socket(&mut self, number: u32, v6: bool, body: Body) -> Result<SocketKey> {
        let host = self.loops.get(&number).ok_or(Code::EBADF)?.host;
        let family = |address: &IpAddr| address.is_ipv6() == v6;
        // As a kernel that was made without the family.
        let has_family = self.hosts[host].addresses.iter().any(family);
        if v6 && !has_family {
            return Err(Code::EAFNOSUPPORT.into());
        }
        self.take_descriptor(number)?;
        let (send, receive) = (self.options.send_buffer, self.options.receive_buffer);
        Ok(self.add_socket(Socket {
            host,
            holder: Some(number),
            id: None,
            wants: State::empty(),
            local: None,
            peer: None,
            v6,
            ipv6_only: false,
            reuse_address: false,
            reuse_port: false,
            send_buffer: send as usize,
            receive_buffer: receive as usize,
            resets: false,
            probing: None,
            listener: None,
            scheduled: None,
            body,
        }))
    }

    /// A socket for a connection, or to listen.
    pub fn open_stream(&mut self, number: u32, v6: bool) -> Result<SocketKey> {
        self.new_socket(number, v6, Body::Fresh)
    }

    /// A socket for datagrams.
    pub fn open_datagrams(&mut self, number: u32, v6: bool) -> Result<SocketKey> {
        self.new_socket(number, v6, Body::Datagrams(Box::default()))
    }

    pub fn set_reuse(&mut self, key: SocketKey, address: bool, port: bool, ipv6_only: bool) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            (socket.reuse_address, socket.reuse_port) = (address, port);
            socket.ipv6_only = ipv6_only;
        }
    }

    /// The sizes of its buffers, at least what a kernel gives.
    pub fn set_buffers(&mut self, key: SocketKey, send: Option<u32>, receive: Option<u32>) {
        const LEAST: usize = 2048;
        if let Some(socket) = self.sockets.get_mut(&key) {
            let size = |bytes: u32| (bytes as usize).max(LEAST);
            socket.send_buffer = send.map_or(socket.send_buffer, size);
            socket.receive_buffer = receive.map_or(socket.receive_buffer, size);
            let (send, receive) = (socket.send_buffer, socket.receive_buffer);
            if let Some(connection) = socket.connection() {
                connection.limits.send = send;
                // What the peer was promised stays.
                connection.limits.receive = connection.limits.receive.max(receive);
            }
        }
    }

    pub fn buffers(&self, key: SocketKey) -> Result<(usize, usize)> {
        let socket = self.socket(key)?;
        Ok((socket.send_buffer, socket.receive_buffer))
    }

    pub fn set_reset_on_close(&mut self, key: SocketKey, on: bool) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.resets = on;
        }
    }

    pub fn set_probing(&mut self, key: SocketKey, probing: Option<Probing>) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.probing = probing;
            if let Some(connection) = socket.connection() {
                connection.probe_silence(probing);
            }
            self.settle(key);
        }
    }

    pub fn local_address(&self, key: SocketKey) -> Result<SocketAddr> {
        let socket = self.socket(key)?;
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Ok(socket.shown(socket.local.unwrap_or(any)))
    }

    pub fn peer_address(&self, key: SocketKey) -> Result<SocketAddr> {
        let socket = self.socket(key)?;
        let connected = match &socket.body {
            Body::Connection(it) => it.phase == super::connection::Phase::Connected,
            _ => true,
        };
        let peer = socket.peer.filter(|_| connected).ok_or(Code::ENOTCONN)?;
        Ok(socket.shown(peer))
    }

    pub fn bind(&mut self, key: SocketKey, address: SocketAddr) -> Result<()> {
        let address = plain(address);
        let socket = self.socket(key)?;
        let (host, datagrams) = (socket.host, matches!(socket.body, Body::Datagrams(_)));
        if !self.is_local(host, address.ip()) {
            return Err(Code::EADDRNOTAVAIL.into());
        }
        let mut address = address;
        if address.port() == 0 {
            let port = self.free_port(host, |world, port| {
                let at = SocketAddr::new(address.ip(), port);
                let socket = world.socket(key);
                socket.is_ok_and(|socket| world.may_bind(host, datagrams, at, socket))
                    && (datagrams || !world.bound.contains_key(&(datagrams, host, port)))
            })?;
            address.set_port(port);
        } else {
            let free = self.may_bind(host, datagrams, address, self.socket(key)?);
            let held = |other: &Socket| other.host == host && other.local == Some(address);
            // Connections that were accepted there, and ended ones.
            let reuses = self.socket(key)?.reuse_address || datagrams;
            if !free
                || !reuses
                    && self
                        .connections
                        .values()
                        .any(|it| self.socket(*it).is_ok_and(held))
            {
                return Err(Code::EADDRINUSE.into());
            }
        }
        self.socket_mut(key)?.local = Some(address);
        let place = (datagrams, host, address.port());
        self.bound.entry(place).or_default().push(key);
        Ok(())
    }

    pub(super) fn unbind(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get(&key) else {
            return;
        };
        let datagrams = matches!(socket.body, Body::Datagrams(_));
        let Some(local) = socket.local else { return };
        let place = (datagrams, socket.host, local.port());
        if let Some(keys) = self.bound.get_mut(&place) {
            keys.retain(|it| *it != key);
            if keys.is_empty() {
                self.bound.remove(&place);
            }
        }
    }

    pub fn listen(&mut self, key: SocketKey, backlog: u32) -> Result<()> {
        let socket = self.socket_mut(key)?;
        socket.body = Body::Listener(Listener {
            backlog: (backlog as usize).max(1),
            queue: VecDeque::new(),
            half_open: 0,
        });
        let (by, from) = (socket.holder, socket.local);
        self.record(Event {
            by,
            from,
            ..Event::new("listens at")
        });
        Ok(())
    }

    /// What a connection between two hosts keeps to.
    pub(super) fn limits(&self, key: SocketKey, to_host: Option<HostNumber>) -> Result<Limits> {
        let socket = self.socket(key)?;
        // Towards an address that nobody has any link will do.
        let link = self
            .network
            .link(socket.host, to_host.unwrap_or(usize::MAX));
        Ok(Limits {
            send: socket.send_buffer,
            receive: socket.receive_buffer,
            segment: u64::from(link.packet_max.max(64)),
            round_trip: nanoseconds(link.latency_max).saturating_mul(2),
            give_up: nanoseconds(self.options.give_up),
        })
    }

    /// Sends a SYN.
    pub fn connect(&mut self, key: SocketKey, to: SocketAddr) -> Result<()> {
        let to = plain(to);
        let socket = self.socket(key)?;
        let (host, bound) = (socket.host, socket.local);
        if to.port() == 0 {
            return Err(Code::ECONNREFUSED.into());
        }
        // The unspecified address stands for this host (Linux).
        let to = match to.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => {
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port())
            }
            IpAddr::V6(ip) if ip.is_unspecified() => {
                SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), to.port())
            }
            _ => to,
        };
        let ip = match bound.filter(|bound| !bound.ip().is_unspecified()) {
            Some(bound) => bound.ip(),
            None => self.source_for(host, to.ip())?,
        };
        let port = match bound.map_or(0, |bound| bound.port()) {
            0 => self
                .free_port(host, |world, port| {
                    let local = SocketAddr::new(ip, port);
                    !world.connections.contains_key(&(host, local, to))
                        && !world.bound.contains_key(&(false, host, port))
                })
                .map_err(|_| Code::EADDRNOTAVAIL)?,
            port => port,
        };
        let local = SocketAddr::new(ip, port);
        if self.connections.contains_key(&(host, local, to)) {
            return Err(Code::EADDRINUSE.into());
        }
        let to_host = self.reached(host, to.ip());
        let (limits, now) = (self.limits(key, to_host)?, self.now);
        let socket = self.socket_mut(key)?;
        (socket.local, socket.peer) = (Some(local), Some(to));
        let mut connection = Connection::connect(limits, now);
        connection.probe_silence(socket.probing);
        socket.body = Body::Connection(Box::new(connection));
        let by = socket.holder;
        if bound.is_none() {
            let place = (false, host, port);
            self.bound.entry(place).or_default().push(key);
        }
        self.connections.insert((host, local, to), key);
        self.record(Event {
            by,
            from: Some(local),
            to: Some(to),
            ..Event::new("connects")
        });
        self.settle(key);
        Ok(())
    }

    /// What became of a connect that is not under way any more.
    pub fn connect_outcome(&mut self, key: SocketKey) -> Result<()> {
        let socket = self.socket_mut(key)?;
        let connection = socket.connection().ok_or(Code::ENOTCONN)?;
        match connection.take_error() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// A connection that waits at a listener, for this loop.
    pub fn accept(&mut self, key: SocketKey, number: u32) -> Result<Option<SocketKey>> {
        if !matches!(&self.socket(key)?.body, Body::Listener(_)) {
            return Err(Code::EINVAL.into());
        }
        let Some(child) = self.first_waiting(key) else {
            return Ok(None);
        };
        self.take_descriptor(number)?;
        self.next_waiting(key);
        let socket = self.socket_mut(child)?;
        (socket.holder, socket.listener) = (Some(number), None);
        let (from, to) = (socket.peer, socket.local);
        self.record(Event {
            by: Some(number),
            from,
            to,
            ..Event::new("accepts")
        });
        Ok(Some(child))
    }

    /// Leaves out those that were reset since, and are gone.
    fn first_waiting(&mut self, key: SocketKey) -> Option<SocketKey> {
        loop {
            let first = match &self.sockets.get(&key)?.body {
                Body::Listener(listener) => *listener.queue.front()?,
                _ => return None,
            };
            if self.sockets.contains_key(&first) {
                return Some(first);
            }
            self.next_waiting(key);
        }
    }

    fn next_waiting(&mut self, key: SocketKey) -> Option<SocketKey> {
        match &mut self.sockets.get_mut(&key)?.body {
            Body::Listener(listener) => listener.queue.pop_front(),
            _ => None,
        }
    }

    /// Resets connections that wait at a listener, at most so many.
    pub fn reject(&mut self, key: SocketKey, most: u32) {
        for _ in 0..most {
            let Some(child) = self.next_waiting(key) else {
                return;
            };
            self.break_off(child);
        }
    }

    /// Resets a connection.
    pub(super) fn break_off(&mut self, key: SocketKey) {
        if let Some(connection) = self.sockets.get_mut(&key).and_then(Socket::connection) {
            connection.reset();
            self.settle(key);
        }
    }

    /// Takes what there is room for; how much.
    pub fn send(&mut self, key: SocketKey, data: &[u8]) -> Result<usize> {
        let (now, partial) = (self.now, self.options.partial_write_ppm);
        let socket = self.sockets.get_mut(&key).ok_or(Code::EBADF)?;
        let (by, from, to) = (socket.holder, socket.local, socket.peer);
        let connection = socket.connection().ok_or(Code::ENOTCONN)?;
        let mut length = connection.room()?.min(data.len());
        if length > 1 && self.random.happens(partial) {
            length = self.random.between(1, length as u64) as usize;
        }
        if length == 0 {
            return Ok(0);
        }
        connection.write(&data[..length], now);
        self.record(Event {
            by,
            from,
            to,
            data: &data[..length],
            ..Event::new("sends")
        });
        self.settle(key);
        Ok(length)
    }

    /// Bytes that have come: how many; `None` when there are none yet, 0 at their end.
    pub fn receive(&mut self, key: SocketKey, memory: &mut [u8]) -> Result<Option<usize>> {
        let (now, partial) = (self.now, self.options.partial_read_ppm);
        let socket = self.sockets.get_mut(&key).ok_or(Code::EBADF)?;
        let (by, from, to) = (socket.holder, socket.peer, socket.local);
        let connection = socket.connection().ok_or(Code::ENOTCONN)?;
        let mut most = connection.readable().min(memory.len());
        if most > 1 && self.random.happens(partial) {
            most = self.random.between(1, most as u64) as usize;
        }
        let outcome = match most {
            0 => connection.read(memory, now),
            _ => connection.read(&mut memory[..most], now),
        };
        let (what, data): (_, &[u8]) = match outcome {
            Ok(None) => return Ok(None),
            Ok(Some(0)) => ("hears the end of", &[]),
            Ok(Some(length)) => ("receives", &memory[..length]),
            Err(_) => ("hears of an error of", &[]),
        };
        self.record(Event {
            by,
            from,
            to,
            data,
            ..Event::new(what)
        });
        self.settle(key);
        Ok(outcome?)
    }

    /// Ends our side after what was sent.
    pub fn shutdown(&mut self, key: SocketKey) -> Result<()> {
        let now = self.now;
        let socket = self.sockets.get_mut(&key).ok_or(Code::EBADF)?;
        let (by, from, to) = (socket.holder, socket.local, socket.peer);
        let connection = socket.connection().ok_or(Code::ENOTCONN)?;
        connection.shut(now)?;
        self.record(Event {
            by,
            from,
            to,
            ..Event::new("ends")
        });
        self.settle(key);
        Ok(())
    }

    /// Its program closes a socket. It does not exist for it any more.
    pub fn close(&mut self, key: SocketKey) {
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        let holder = socket.holder.take();
        (socket.id, socket.wants) = (None, State::empty());
        let (from, to, resets) = (socket.local, socket.peer, socket.resets);
        if let Some(number) = holder {
            self.give_descriptor(number);
            if let Some(state) = self.loops.get_mut(&number) {
                state.touched.remove(&key);
            }
        }
        self.record(Event {
            by: holder,
            from,
            to,
            ..Event::new("closes")
        });
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        match &mut socket.body {
            Body::Connection(connection) => {
                connection.close(resets, now);
                self.settle(key);
            }
            Body::Listener(listener) => {
                let waiting = std::mem::take(&mut listener.queue);
                self.remove(key);
                for child in waiting {
                    self.break_off(child);
                }
                self.reset_half_open(key);
            }
            Body::Fresh | Body::Datagrams(_) => self.remove(key),
        }
    }

    fn reset_half_open(&mut self, listener: SocketKey) {
        let its = |socket: &Socket| socket.listener == Some(listener);
        let its = self.sockets.iter().filter(|(_, socket)| its(socket));
        let its: Vec<_> = its.map(|(key, _)| *key).collect();
        for child in its {
            self.break_off(child);
        }
    }

    /// Forgets a socket.
    pub(super) fn remove(&mut self, key: SocketKey) {
        self.unbind(key);
        let Some(socket) = self.sockets.remove(&key) else {
            return;
        };
        if let (Some(local), Some(peer), Body::Connection(_)) =
            (socket.local, socket.peer, &socket.body)
        {
            let place = (socket.host, local, peer);
            if self.connections.get(&place) == Some(&key) {
                self.connections.remove(&place);
            }
        }
        if let Some(number) = socket.holder {
            self.give_descriptor(number);
            if let Some(state) = self.loops.get_mut(&number) {
                state.touched.remove(&key);
            }
        }
    }
}
