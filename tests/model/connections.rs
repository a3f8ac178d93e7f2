//! Connections as the model has them: two ends, and what each has sent to the other.
//!
//! Every write is a piece of a fixed sequence of random bytes, from a place of its own: what is
//! received must be the pieces, whole and in their order.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use socket2::SockRef;

use kolo::{Kind, Loop};

use super::listeners::Place;
use super::passing::Passed;
use super::random::Random;
use super::world::{Body, Handle, World};

pub const PATTERN: usize = 1 << 20;
/// Where the loop of a simulation is.
pub const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// The longest write.
pub const PIECE_MAX: usize = 300_000;

/// The bytes that everything sent is cut from.
pub fn pattern() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut random = Random::new(1);
        (0..PATTERN).map(|_| random.word() as u8).collect()
    })
}

/// What one write sends.
#[derive(Debug)]
pub struct Piece {
    pub write: u64,
    start: usize,
    length: usize,
    received: usize,
}

/// One direction of a connection.
#[derive(Default)]
pub struct Direction {
    pieces: VecDeque<Piece>,
    /// Bytes of all writes, those that were canceled included.
    pub accepted: usize,
    canceled: usize,
    pub received: usize,
    /// The sender has asked for its end, by a shutdown or by closing.
    pub ending: bool,
    /// So many of the last bytes may never have come to the system.
    pub lost: usize,
    /// The system has been told of the end.
    pub shut: bool,
    /// The receiver has seen the end.
    pub ended: bool,
    /// Descriptors that were written with the bytes, and were not taken.
    pub passed: VecDeque<Passed>,
    /// The receiver throws away what comes: which bytes, nobody knows.
    pub discarded: bool,
}

impl Direction {
    /// Bytes that were sent, or will be, and have not come.
    pub fn under_way(&self) -> usize {
        self.accepted - self.canceled - self.received
    }

    pub fn push(&mut self, write: u64, start: usize, length: usize) {
        self.accepted += length;
        if length > 0 {
            self.pieces.push_back(Piece {
                write,
                start,
                length,
                received: 0,
            });
        }
    }

    /// A write was taken back. False if some of it was received.
    pub fn cancel(&mut self, write: u64) -> bool {
        let Some(at) = self.pieces.iter().position(|piece| piece.write == write) else {
            return false;
        };
        let intact = self.pieces[at].received == 0;
        self.canceled += self.pieces.remove(at).map_or(0, |piece| piece.length);
        intact
    }

    /// Whether these bytes are what comes next.
    pub fn receive(&mut self, mut bytes: &[u8]) -> bool {
        if self.discarded {
            return true;
        }
        while !bytes.is_empty() {
            let Some(piece) = self.pieces.front_mut() else {
                return false;
            };
            let length = bytes.len().min(piece.length - piece.received);
            let from = piece.start + piece.received;
            if bytes[..length] != pattern()[from..from + length] {
                return false;
            }
            bytes = &bytes[length..];
            piece.received += length;
            self.received += length;
            if piece.received == piece.length {
                self.pieces.pop_front();
            }
        }
        true
    }
}

/// What the test drives by itself. None of them waits.
pub enum Raw {
    Tcp(TcpStream),
    Local(UnixStream),
    Pipe(File),
}

impl Raw {
    pub fn local(socket: UnixStream) -> Option<Raw> {
        socket.set_nonblocking(true).ok()?;
        Some(Raw::Local(socket))
    }

    pub fn pipe(descriptor: OwnedFd) -> Option<Raw> {
        let at = descriptor.as_raw_fd();
        // SAFETY: it is an open descriptor, and only its status flags are changed.
        let flags = unsafe { libc::fcntl(at, libc::F_GETFL) };
        // SAFETY: as above.
        let set = unsafe { libc::fcntl(at, libc::F_SETFL, flags | libc::O_NONBLOCK) };
        (set == 0).then(|| Raw::Pipe(descriptor.into()))
    }

    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Raw::Tcp(socket) => socket.read(bytes),
            Raw::Local(socket) => socket.read(bytes),
            Raw::Pipe(pipe) => pipe.read(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Raw::Tcp(socket) => socket.write(bytes),
            Raw::Local(socket) => socket.write(bytes),
            Raw::Pipe(pipe) => pipe.write(bytes),
        }
    }

    /// Ends what it sends; false for a pipe, which is closed for that.
    fn shutdown(&mut self) -> std::io::Result<bool> {
        match self {
            Raw::Tcp(socket) => socket.shutdown(Shutdown::Write)?,
            Raw::Local(socket) => socket.shutdown(Shutdown::Write)?,
            Raw::Pipe(_) => return Ok(false),
        }
        Ok(true)
    }
}

pub enum End {
    /// Not accepted yet.
    Pending,
    /// A stream of the loop: the handle.
    Kolo(usize),
    /// One that the test drives.
    Raw(Raw),
    /// On its way to the loop, as a posted function.
    Moving,
    /// On its way beside the bytes of another connection, if it was not dropped there.
    Passed,
    Gone,
}

pub struct Connection {
    pub ends: [End; 2],
    /// What each end sends.
    pub directions: [Direction; 2],
    /// The end may find the connection broken: the other one is gone.
    pub breakable: [bool; 2],
    /// A pipe: only the first end sends.
    pub one_way: bool,
    /// Where it was accepted, or will be.
    pub listener: Option<usize>,
    /// Which it is cannot be told: it was reset before it was accepted.
    pub unknown: bool,
}

impl Connection {
    /// Whether anything may be on its way to this end: bytes, or the end, or that it is broken.
    pub fn may_come(&self, side: usize) -> bool {
        let direction = &self.directions[1 - side];
        let passed = matches!(self.ends[1 - side], End::Passed);
        direction.under_way() > 0 || direction.ending || self.breakable[side] || passed
    }
}

#[derive(Default)]
pub struct Connections {
    pub all: Vec<Connection>,
    /// By the listener's port and the connecting end's.
    pub by_ports: HashMap<(u16, u16), usize>,
    /// Accepts what streams of the loop connect to.
    pub outer: Option<TcpListener>,
    /// Hold ports at which nobody listens.
    pub refusing: Vec<socket2::Socket>,
    next_piece: usize,
}

impl Connections {
    pub fn add(&mut self, ends: [End; 2], listener: Option<usize>) -> usize {
        self.all.push(Connection {
            ends,
            directions: Default::default(),
            breakable: [false; 2],
            one_way: false,
            listener,
            unknown: false,
        });
        self.all.len() - 1
    }

    pub fn add_one_way(&mut self, ends: [End; 2]) -> usize {
        let at = self.add(ends, None);
        let connection = &mut self.all[at];
        connection.one_way = true;
        let unused = &mut connection.directions[1];
        (unused.ending, unused.shut, unused.ended) = (true, true, true);
        at
    }

    /// Where in the pattern the next piece is cut.
    pub fn place(&mut self) -> usize {
        self.next_piece += 1;
        self.next_piece * 7919 % (PATTERN - PIECE_MAX)
    }

    pub fn outer_address(&mut self, loopback: SocketAddr) -> Option<SocketAddr> {
        if self.outer.is_none() {
            let listener = TcpListener::bind(loopback).ok()?;
            listener.set_nonblocking(true).ok()?;
            self.outer = Some(listener);
        }
        self.outer.as_ref()?.local_addr().ok()
    }
}

impl World {
    /// Where sockets of this sequence are bound. On Linux each sequence has an address of its own: the ports of one
    /// address are used up sooner than the system forgets the connections of thousands of sequences.
    pub fn loopback(&self) -> SocketAddr {
        if self.program.driver == "sim" {
            return SocketAddr::new(HOST, 0);
        }
        let by = self.program.seed;
        let (second, third, fourth) = (by / 62_500 % 250 + 1, by / 250 % 250 + 1, by % 250 + 1);
        let ip = match cfg!(target_os = "linux") {
            true => Ipv4Addr::new(127, second as u8, third as u8, fourth as u8),
            false => Ipv4Addr::LOCALHOST,
        };
        SocketAddr::new(ip.into(), 0)
    }

    /// An end is no more; of what it wrote so many bytes may be lost.
    pub fn end_gone(&mut self, connection: usize, side: usize, lost: usize) {
        let connection = &mut self.net.all[connection];
        connection.ends[side] = End::Gone;
        connection.breakable[1 - side] = true;
        let direction = &mut connection.directions[side];
        direction.ending = true;
        direction.shut = true;
        direction.lost = direction.lost.max(lost);
    }

    /// Whether an end may find the connection broken: the other end is gone, or has been closed
    /// by the loop, which nobody has noticed yet.
    pub fn is_end_breakable(&mut self, lp: &Loop, connection: usize, side: usize) -> bool {
        if let End::Kolo(peer) = self.net.all[connection].ends[1 - side] {
            if self.is_open(peer) && self.handles[peer].may_close {
                self.sync(lp, peer);
            }
        }
        let connection = &self.net.all[connection];
        connection.breakable[side] || matches!(connection.ends[1 - side], End::Passed)
    }

    pub fn receive(&mut self, connection: usize, side: usize, bytes: &[u8]) {
        if self.net.all[connection].unknown {
            return;
        }
        let direction = &mut self.net.all[connection].directions[1 - side];
        let ended = direction.ended;
        let at = direction.received;
        let fits = direction.receive(bytes);
        let next = direction.pieces.front();
        let next = format!("{next:?}");
        self.check(fits && !ended, || {
            format!("connection {connection}.{side} receives {} bytes at {at} that are not what was sent; next is {next}, ended {ended}", bytes.len())
        });
    }

    pub fn receive_end(&mut self, connection: usize, side: usize) {
        // Dropped on its way, perhaps.
        let passed = matches!(self.net.all[connection].ends[1 - side], End::Passed);
        let direction = &mut self.net.all[connection].directions[1 - side];
        direction.ended = true;
        let (ending, missing) = (direction.ending || passed, direction.under_way());
        let excused = direction.discarded || passed;
        let lost = if excused { usize::MAX } else { direction.lost };
        self.check(ending, || {
            format!("connection {connection}.{side} receives an end that nobody sent")
        });
        self.check(missing <= lost, || {
            format!("connection {connection}.{side} ends {missing} bytes short, {lost} excused")
        });
    }

    pub fn canceled_piece(&mut self, connection: usize, side: usize, write: u64, length: usize) {
        let intact = length == 0 || self.net.all[connection].directions[side].cancel(write);
        self.check(intact, || {
            format!("a canceled write was received by {connection}.{}", 1 - side)
        });
    }

    /// A socket that the test drives, as all of them are.
    fn adopt_raw(&mut self, socket: &TcpStream) {
        let prepared = socket
            .set_nonblocking(true)
            .and_then(|()| socket.set_nodelay(true));
        // A connection that is reset already refuses, and then says so when it is used.
        let _ = prepared;
    }

    /// Accepts all that streams of the loop have connected to.
    pub fn raw_accept(&mut self) {
        while let Some(Ok((socket, from))) = self.net.outer.as_ref().map(TcpListener::accept) {
            self.adopt_raw(&socket);
            let loopback = self.loopback();
            let outer = self.net.outer_address(loopback);
            let port = outer.map_or(0, |address| address.port());
            let Some(connection) = self.net.by_ports.get(&(port, from.port())).copied() else {
                self.check(false, || {
                    format!("a connection from {from} that nobody made")
                });
                return;
            };
            self.note(|| format!("raw end of connection {connection} accepted"));
            if matches!(self.net.all[connection].ends[1], End::Pending) {
                self.net.all[connection].ends[1] = End::Raw(Raw::Tcp(socket));
            }
        }
    }

    /// Connects to a listener of the loop.
    pub fn raw_connect(&mut self, number: u32) {
        let listens = |handle: &Handle| matches!(handle.body, Body::Listener(_));
        let Some(listener) = self.choose(number & !1, listens) else {
            return;
        };
        if self.handles[listener].kind() == Kind::LocalListener {
            return self.local_raw_connect(listener);
        }
        let Place::Tcp(address) = self.listener(listener).place else {
            return;
        };
        let port = address.port();
        // The backlog has room for it, so that this needs no turn of the loop.
        let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_secs(10)) else {
            return;
        };
        self.adopt_raw(&socket);
        let Ok(local) = socket.local_addr() else {
            return;
        };
        let connection = self
            .net
            .add([End::Raw(Raw::Tcp(socket)), End::Pending], Some(listener));
        self.note(|| format!("raw end of connection {connection} connects to #{listener}"));
        self.net.by_ports.insert((port, local.port()), connection);
    }

    fn choose_raw(&self, number: u32) -> Option<(usize, usize)> {
        let all: Vec<_> = (0..self.net.all.len())
            .flat_map(|at| [(at, 0), (at, 1)])
            .filter(|(at, side)| matches!(self.net.all[*at].ends[*side], End::Raw(_)))
            .collect();
        let count = all.len().max(1);
        all.get(number as usize % count).copied()
    }

    fn raw(&mut self, at: usize, side: usize) -> Option<&mut Raw> {
        match &mut self.net.all[at].ends[side] {
            End::Raw(socket) => Some(socket),
            _ => None,
        }
    }

    pub fn raw_write(&mut self, lp: &Loop, number: u32, length: usize) {
        let Some((at, side)) = self.choose_raw(number) else {
            return;
        };
        if self.net.all[at].directions[side].ending {
            return;
        }
        let (start, write) = (self.net.place(), self.next_serial());
        let Some(socket) = self.raw(at, side) else {
            return;
        };
        match socket.write(&pattern()[start..start + length]) {
            Ok(sent) => {
                self.note(|| format!("raw {at}.{side} writes {sent} of {length}"));
                self.net.all[at].directions[side].push(write, start, sent);
            }
            Err(error) => self.raw_failed(lp, at, side, &error),
        }
    }

    fn raw_failed(&mut self, lp: &Loop, at: usize, side: usize, error: &std::io::Error) {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            return;
        }
        let breakable = self.is_end_breakable(lp, at, side);
        self.check(breakable, || {
            format!("raw {at}.{side} is broken without reason: {error}")
        });
        self.note(|| format!("raw {at}.{side} fails: {error}"));
        // What the system says after an error is no longer of the connection.
        self.end_gone(at, side, usize::MAX);
    }

    /// Reads at most so much; whether there was anything.
    pub fn raw_read(&mut self, lp: &Loop, at: usize, side: usize, most: usize) -> bool {
        if side == 0 && self.net.all[at].one_way {
            return false;
        }
        let mut bytes = vec![0; most.max(1)];
        let Some(socket) = self.raw(at, side) else {
            return false;
        };
        match socket.read(&mut bytes) {
            Ok(0) => {
                if !self.net.all[at].directions[1 - side].ended {
                    self.note(|| format!("raw {at}.{side} reads the end"));
                    self.receive_end(at, side);
                }
                false
            }
            Ok(length) => {
                self.note(|| format!("raw {at}.{side} reads {length}"));
                self.receive(at, side, &bytes[..length]);
                true
            }
            Err(error) => {
                self.raw_failed(lp, at, side, &error);
                false
            }
        }
    }

    pub fn raw_read_some(&mut self, lp: &Loop, number: u32, most: usize) {
        if let Some((at, side)) = self.choose_raw(number) {
            self.raw_read(lp, at, side, most);
        }
    }

    /// Every socket that the test drives reads all there is.
    pub fn raw_read_all(&mut self, lp: &Loop) {
        for at in 0..self.net.all.len() {
            for side in 0..2 {
                while !self.is_over() && self.raw_read(lp, at, side, 1 << 18) {}
            }
        }
    }

    pub fn raw_shutdown(&mut self, lp: &Loop, number: u32) {
        let Some((at, side)) = self.choose_raw(number) else {
            return;
        };
        if self.net.all[at].directions[side].ending {
            return;
        }
        self.note(|| format!("raw {at}.{side} shuts down"));
        let Some(socket) = self.raw(at, side) else {
            return;
        };
        match socket.shutdown() {
            Ok(false) => self.end_gone(at, side, 0),
            Ok(true) => {
                self.net.all[at].directions[side].ending = true;
                self.net.all[at].directions[side].shut = true;
            }
            Err(error) => self.raw_failed(lp, at, side, &error),
        }
    }

    pub fn raw_close(&mut self, number: u32, resets: bool) {
        let Some((at, side)) = self.choose_raw(number) else {
            return;
        };
        self.note(|| format!("raw {at}.{side} closes, resets {resets}"));
        if let (true, Some(Raw::Tcp(socket))) = (resets, self.raw(at, side)) {
            // It works on every socket; if not, it is closed the other way.
            let _ = SockRef::from(&*socket).set_linger(Some(Duration::ZERO));
        }
        let lost = if resets { usize::MAX } else { 0 };
        self.end_gone(at, side, lost);
    }
}
