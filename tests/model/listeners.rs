//! Listeners, and the ways in which streams of the loop come to be.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use kolo::{
    ConnectOptions, Error, Id, Kind, ListenOptions, ListenerHandler, LocalListener, LocalStream,
    Loop, Pipe, TcpListener, TcpStream,
};
use socket2::{Domain, Socket, Type};

use super::connections::{End, Raw};
use super::local::refuses_broken;
use super::streams::{Handler, StreamModel};
use super::world::{called, called_then, nanoseconds, Body, Callback, Life, Token, World};

pub enum Place {
    Tcp(SocketAddr),
    /// A socket file.
    Local(PathBuf),
}

pub struct ListenerModel {
    pub place: Place,
    pub paused: bool,
    /// Of a Unix-domain listener, whose connections have no names: those that are to be accepted,
    /// in their order.
    pub waiting: VecDeque<usize>,
}

struct Accepts {
    at: usize,
    _token: Token,
}

impl ListenerHandler for Accepts {
    fn on_accept(&mut self, lp: &Loop, _listener: TcpListener, tcp: TcpStream) {
        let mut accepted = Accepted::default();
        called_then(
            lp,
            Callback::Accept,
            Some(self.at),
            |world| accepted.0 = world.accepted(lp, self.at, tcp),
            |_| (),
        );
    }

    fn on_error(&mut self, lp: &Loop, _listener: TcpListener, error: Error) {
        called(lp, Callback::Accept, Some(self.at), |world| {
            world.check(false, || format!("a listener failed: {error}"));
        });
    }

    fn on_close(&mut self, lp: &Loop, _listener: TcpListener) {
        let at = self.at;
        called(lp, Callback::HandlerClose, Some(at), |world| {
            world.handler_closed(lp, at)
        });
    }
}

/// The stream that `on_accept` is called with. Dropped when that has returned, or panicked.
#[derive(Default)]
pub struct Accepted(pub Option<usize>);

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some(stream) = self.0 {
            super::world::outside(|world| world.accept_ended(stream));
        }
    }
}

fn buffers(number: u32) -> (Option<u32>, Option<u32>) {
    let send = [None, Some(4096), Some(4096), Some(65_536)];
    let receive = [None, Some(16_384), Some(65_536)];
    (send[number as usize % 4], receive[number as usize / 4 % 3])
}

impl World {
    pub fn listen(&mut self, lp: &Loop, number: u32) -> Option<usize> {
        let (send_buffer, receive_buffer) = buffers(number);
        let options = ListenOptions {
            accepts_per_turn: if number.is_multiple_of(5) { 1 } else { 64 },
            send_buffer,
            receive_buffer,
            ..Default::default()
        };
        let at = self.handles.len();
        let handler = Accepts {
            at,
            _token: Token::new(),
        };
        let opened = TcpListener::listen_with(lp, self.loopback(), &options, handler);
        let listener = self.opened("TcpListener::listen_with", opened)?;
        let address = self.outcome("TcpListener::address", listener.address(lp), None)?;
        let model = ListenerModel {
            place: Place::Tcp(address),
            paused: false,
            waiting: VecDeque::new(),
        };
        self.add(listener.id(), Body::Listener(model));
        self.handles[at].handler_owed = true;
        Some(at)
    }

    pub fn listener(&mut self, at: usize) -> &mut ListenerModel {
        match &mut self.handles[at].body {
            Body::Listener(listener) => listener,
            _ => unreachable!("#{at} is a listener"),
        }
    }

    pub fn pause(&mut self, lp: &Loop, at: usize, paused: bool) {
        let (id, local) = (
            self.handles[at].id,
            self.handles[at].kind() == Kind::LocalListener,
        );
        let (tcp_listener, local_listener) = (TcpListener::from_id(id), LocalListener::from_id(id));
        let got = match (paused, local) {
            (true, false) => tcp_listener.pause(lp),
            (false, false) => tcp_listener.resume(lp),
            (true, true) => local_listener.pause(lp),
            (false, true) => local_listener.resume(lp),
        };
        self.outcome(if paused { "pause" } else { "resume" }, got, None);
        self.listener(at).paused = paused;
    }

    /// Connections that it had not accepted are reset by the system.
    pub fn listener_gone(&mut self, at: usize) {
        for connection in 0..self.net.all.len() {
            let waits = self.net.all[connection].listener == Some(at)
                && matches!(self.net.all[connection].ends[1], End::Pending);
            if waits {
                self.end_gone(connection, 1, usize::MAX);
            }
        }
    }

    fn accepted(&mut self, lp: &Loop, listener: usize, tcp: TcpStream) -> Option<usize> {
        let paused = self.listener(listener).paused;
        let Place::Tcp(SocketAddr::V4(at)) = &self.listener(listener).place else {
            return None;
        };
        let port = at.port();
        self.check(!paused, || {
            format!("listener #{listener} accepts while it is paused")
        });
        // Unknown if it is reset already.
        let from = tcp.peer_address(lp).ok().map(|address| address.port());
        let known = from.and_then(|from| self.net.by_ports.get(&(port, from)).copied());
        let connection = known.unwrap_or_else(|| {
            let connection = self.net.add([End::Gone, End::Pending], Some(listener));
            self.net.all[connection].breakable = [true; 2];
            self.net.all[connection].unknown = true;
            self.net.all[connection].directions[0].ending = true;
            self.net.all[connection].directions[0].lost = usize::MAX;
            connection
        });
        if let (None, Some(from)) = (known, from) {
            self.check(false, || {
                format!("a connection from port {from} that nobody made")
            });
        }
        Some(self.accepted_as(lp, tcp.id(), Kind::Tcp, connection))
    }

    pub fn accepted_as(&mut self, lp: &Loop, id: Id, kind: Kind, connection: usize) -> usize {
        let stream = self.add_stream(id, kind, connection, 1);
        self.note(|| format!("#{stream} is connection {connection}.1"));
        self.net.all[connection].ends[1] = End::Kolo(stream);
        self.current = Some(stream);
        if self.random.percent(85) {
            self.attach(lp, stream);
        }
        stream
    }

    /// A stream that has no handler when `on_accept` returns is closed.
    fn accept_ended(&mut self, stream: usize) {
        if self.is_open(stream) && !self.stream(stream).attached {
            let (connection, side) = (self.stream(stream).connection, self.stream(stream).side);
            self.closed_by_loop(stream);
            self.end_gone(connection, side, usize::MAX);
        }
    }

    pub fn add_stream(&mut self, id: Id, kind: Kind, connection: usize, side: usize) -> usize {
        let mut model = StreamModel::new(kind, connection, side);
        if self.net.all[connection].one_way {
            // What it cannot do has ended already.
            (model.ended, model.shutting) = (side == 0, side == 1);
        }
        self.add(id, Body::Stream(Box::new(model)))
    }

    fn connect_options(number: u32) -> ConnectOptions {
        let (send_buffer, receive_buffer) = buffers(number);
        let timeout = match number % 7 {
            0 => Some(Duration::from_nanos(u64::from(number) * 2)),
            1 => Some(Duration::from_secs(3600)),
            _ => None,
        };
        ConnectOptions {
            timeout,
            send_buffer,
            receive_buffer,
            ..Default::default()
        }
    }

    fn connect_to(
        &mut self,
        lp: &Loop,
        address: SocketAddr,
        number: u32,
        ends: Option<usize>,
        refused: bool,
    ) {
        let options = World::connect_options(number);
        let (at, started) = (self.handles.len(), nanoseconds(lp));
        let handler = Handler::new(self, at, 0);
        let reads = handler.reads;
        let opened = TcpStream::connect_with(lp, address, &options, handler);
        let Some(tcp) = self.opened("TcpStream::connect_with", opened) else {
            return;
        };
        let connection = self.net.add([End::Gone, End::Pending], ends);
        self.stream_made(lp, tcp.id(), Kind::Tcp, connection, 0, reads);
        let stream = self.stream(at);
        stream.connecting = true;
        stream.connect_due = options
            .timeout
            .map(|limit| started + limit.as_nanos() as u64);
        if refused {
            self.end_gone(connection, 1, usize::MAX);
        } else if let Some(local) = self.outcome("local_address", tcp.local_address(lp), None) {
            self.net
                .by_ports
                .insert((address.port(), local.port()), connection);
        }
    }

    pub fn connect(&mut self, lp: &Loop, number: u32, how: u32) {
        if let Some(listener) = self.choose_kind(number & !1, Kind::Listener) {
            let Place::Tcp(address) = self.listener(listener).place else {
                return;
            };
            self.connect_to(lp, address, how, Some(listener), false);
        }
    }

    pub fn connect_to_raw(&mut self, lp: &Loop, how: u32) {
        let loopback = self.loopback();
        if let Some(address) = self.net.outer_address(loopback) {
            self.connect_to(lp, address, how, None, false);
        }
    }

    /// To a port that is taken and where nobody listens.
    pub fn connect_refused(&mut self, lp: &Loop, how: u32) {
        if self.program.driver == "sim" {
            // Nobody has it: ports are given out from 32768 on.
            let address = SocketAddr::new(self.loopback().ip(), 1);
            return self.connect_to(lp, address, how, None, true);
        }
        let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None) else {
            return;
        };
        if socket.bind(&self.loopback().into()).is_err() {
            return;
        }
        if let Some(address) = socket
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket())
        {
            self.connect_to(lp, address, how, None, true);
        }
        // Until the connect has ended: it does so within the call, or a turn later.
        self.net.refusing.push(socket);
    }

    /// Two connected sockets, of which one or both become streams of the loop.
    pub fn adopt(&mut self, lp: &Loop, number: u32) {
        let address = self.loopback();
        let pair = || -> std::io::Result<(StdStream, StdStream)> {
            let listener = StdListener::bind(address)?;
            let one = StdStream::connect(listener.local_addr()?)?;
            let (other, _) = listener.accept()?;
            for end in [&one, &other] {
                let (send, receive) = buffers(number / 2);
                kolo_buffers(end, send, receive)?;
                end.set_nonblocking(true)?;
                end.set_nodelay(true)?;
            }
            Ok((one, other))
        };
        let Ok((one, other)) = pair() else { return };
        let connection = self.net.add([End::Gone, End::Gone], None);
        self.adopt_as(lp, connection, 0, Raw::Tcp(one));
        if number.is_multiple_of(2) {
            self.adopt_as(lp, connection, 1, Raw::Tcp(other));
        } else {
            self.net.all[connection].ends[1] = End::Raw(Raw::Tcp(other));
        }
    }

    pub fn adopt_as(&mut self, lp: &Loop, connection: usize, side: usize, raw: Raw) {
        let at = self.handles.len();
        let handler = Handler::new(self, at, 0);
        let reads = handler.reads;
        // Once both ends are shut down it is no connection any more.
        let broken = self.is_end_breakable(lp, connection, side)
            || self.net.all[connection]
                .directions
                .iter()
                .all(|direction| direction.ending);
        let (adopted, kind) = match raw {
            Raw::Tcp(socket) => (
                TcpStream::adopt(lp, socket, handler).map(TcpStream::id),
                Kind::Tcp,
            ),
            Raw::Local(socket) => (
                LocalStream::adopt(lp, OwnedFd::from(socket), handler).map(LocalStream::id),
                Kind::Local,
            ),
            Raw::Pipe(pipe) => (Pipe::adopt(lp, pipe, handler).map(Pipe::id), Kind::Pipe),
        };
        if let (true, Err(error)) = (broken, &adopted) {
            if refuses_broken(error.code()) {
                return self.end_gone(connection, side, usize::MAX);
            }
        }
        let Some(id) = self.opened("adopt", adopted) else {
            return self.end_gone(connection, side, usize::MAX);
        };
        self.stream_made(lp, id, kind, connection, side, reads);
        if kind == Kind::Pipe {
            return;
        }
        let ending = self.net.all[connection].directions[side].ending;
        self.net.all[connection].directions[1 - side].ended = false;
        if ending {
            self.net.all[connection].directions[side].lost = usize::MAX;
        }
        let stream = self.stream(at);
        // Its system's end was shut down under another handle: writing finds it broken.
        stream.end_shut = ending;
    }

    /// The loop has closed it by itself.
    pub fn closed_by_loop(&mut self, at: usize) {
        self.note(|| format!("#{at} was closed by the loop"));
        if self.handles[at].life == Life::Open {
            self.closed(at);
        }
    }
}

fn kolo_buffers(
    socket: &StdStream,
    send: Option<u32>,
    receive: Option<u32>,
) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    if let Some(send) = send {
        socket.set_send_buffer_size(send as usize)?;
    }
    if let Some(receive) = receive {
        socket.set_recv_buffer_size(receive as usize)?;
    }
    Ok(())
}
