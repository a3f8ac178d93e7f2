//! Unix-domain streams and their listeners, and pipes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use kolo::{
    Code, Direction, Error, Id, Kind, LocalConnectOptions, LocalListenOptions, LocalListener,
    LocalListenerHandler, LocalStream, Loop, Pipe,
};

use super::connections::{End, Raw};
use super::listeners::{Accepted, ListenerModel, Place};
use super::streams::{Failure, Handler};
use super::world::{called, called_then, nanoseconds, Body, Callback, Token, World};

struct Accepts {
    at: usize,
    _token: Token,
}

impl LocalListenerHandler for Accepts {
    fn on_accept(&mut self, lp: &Loop, _listener: LocalListener, local: LocalStream) {
        let mut accepted = Accepted::default();
        let at = self.at;
        let run = |world: &mut World| accepted.0 = world.local_accepted(lp, at, local);
        called_then(lp, Callback::Accept, Some(at), run, |_| ());
    }

    fn on_error(&mut self, lp: &Loop, _listener: LocalListener, error: Error) {
        called(lp, Callback::Accept, Some(self.at), |world| {
            world.check(false, || format!("a listener failed: {error}"));
        });
    }

    fn on_close(&mut self, lp: &Loop, _listener: LocalListener) {
        let at = self.at;
        called(lp, Callback::HandlerClose, Some(at), |world| {
            world.handler_closed(lp, at)
        });
    }
}

/// Where the socket file of a listener is.
fn path_of(seed: u64, at: usize) -> PathBuf {
    std::env::temp_dir().join(format!("kolo-model-{}-{seed}-{at}", std::process::id()))
}

impl World {
    pub fn local_listen(&mut self, lp: &Loop, number: u32) {
        let at = self.handles.len();
        let options = LocalListenOptions {
            accepts_per_turn: if number.is_multiple_of(5) { 1 } else { 64 },
            replace_stale: number.is_multiple_of(7),
            ..Default::default()
        };
        let path = path_of(self.program.seed, at);
        let handler = Accepts {
            at,
            _token: Token::new(),
        };
        let opened = LocalListener::listen_with(lp, &path, &options, handler);
        let Some(listener) = self.opened("LocalListener::listen_with", opened) else {
            return;
        };
        let name = self.outcome("LocalListener::name", listener.name(lp), None);
        let same = name.is_some_and(|name| name.as_path() == Some(&path));
        self.check(same, || format!("listener #{at} is not at {path:?}"));
        let model = ListenerModel {
            place: Place::Local(path),
            paused: false,
            waiting: Default::default(),
        };
        self.add(listener.id(), Body::Listener(model));
        self.handles[at].handler_owed = true;
    }

    /// A listener that is closed leaves no socket file.
    pub fn check_socket_file(&mut self, at: usize) {
        let Place::Local(path) = &self.listener(at).place else {
            return;
        };
        let left = path.exists();
        self.check(!left, || format!("listener #{at} left its socket file"));
    }

    /// Connections are accepted in the order in which they were made.
    fn local_accepted(&mut self, lp: &Loop, listener: usize, local: LocalStream) -> Option<usize> {
        let paused = self.listener(listener).paused;
        self.check(!paused, || {
            format!("listener #{listener} accepts while it is paused")
        });
        let Some(connection) = self.listener(listener).waiting.pop_front() else {
            self.check(false, || {
                format!("listener #{listener} accepts what nobody made")
            });
            return None;
        };
        Some(self.accepted_as(lp, local.id(), Kind::Local, connection))
    }

    pub fn local_connect(&mut self, lp: &Loop, number: u32, how: u32) {
        let listener = self.choose_kind(number & !1, Kind::LocalListener);
        let path = match listener {
            Some(listener) => match &self.listener(listener).place {
                Place::Local(path) => path.clone(),
                Place::Tcp(_) => return,
            },
            // Where there is nothing.
            None => path_of(self.program.seed, usize::MAX),
        };
        let timeout = match how % 7 {
            0 => Some(Duration::from_nanos(u64::from(how) * 2)),
            1 => Some(Duration::from_secs(3600)),
            _ => None,
        };
        let (at, started) = (self.handles.len(), nanoseconds(lp));
        let handler = Handler::new(self, at, 0);
        let reads = handler.reads;
        let options = LocalConnectOptions { timeout };
        let opened = LocalStream::connect_with(lp, &path, &options, handler);
        let Some(local) = self.opened("LocalStream::connect_with", opened) else {
            return;
        };
        let connection = self.net.add([End::Gone, End::Pending], listener);
        self.stream_made(lp, local.id(), Kind::Local, connection, 0, reads);
        let stream = self.stream(at);
        stream.connecting = true;
        stream.connect_due = timeout.map(|limit| started + limit.as_nanos() as u64);
        match listener {
            Some(listener) => self.listener(listener).waiting.push_back(connection),
            // It has failed already, and will hear of it.
            None => {
                let stream = self.stream(at);
                stream.connecting = false;
                stream.reading = false;
                stream.failed = Some(Failure::Told(Code::ENOENT));
                self.end_gone(connection, 1, usize::MAX);
            }
        }
    }

    pub fn local_raw_connect(&mut self, listener: usize) {
        let Place::Local(path) = &self.listener(listener).place else {
            return;
        };
        // The backlog has room for it.
        let Ok(socket) = UnixStream::connect(path) else {
            return self.check_failed(|| format!("nobody can connect to #{listener}"));
        };
        let Some(raw) = Raw::local(socket) else {
            return;
        };
        let connection = self.net.add([End::Raw(raw), End::Pending], Some(listener));
        self.note(|| format!("raw end of connection {connection} connects to #{listener}"));
        self.listener(listener).waiting.push_back(connection);
    }

    /// Two connected ends, both of the loop or one of them the test's.
    pub fn local_pair(&mut self, lp: &Loop, number: u32) {
        let at = self.handles.len();
        if number.is_multiple_of(2) {
            let (one, other) = (Handler::new(self, at, 0), Handler::new(self, at + 1, 0));
            let reads = [one.reads, other.reads];
            let opened = LocalStream::pair(lp, one, other);
            if let Some((one, other)) = self.opened("LocalStream::pair", opened) {
                let connection = self.net.add([End::Gone, End::Gone], None);
                self.stream_made(lp, one.id(), Kind::Local, connection, 0, reads[0]);
                self.stream_made(lp, other.id(), Kind::Local, connection, 1, reads[1]);
            }
            return;
        }
        let Ok((one, other)) = UnixStream::pair() else {
            return;
        };
        let (Some(one), Some(other)) = (Raw::local(one), Raw::local(other)) else {
            return;
        };
        let connection = self.net.add([End::Gone, End::Raw(other)], None);
        self.adopt_as(lp, connection, 0, one);
    }

    /// A pipe, with both ends of the loop or one of them the test's. The first end writes.
    pub fn pipe_pair(&mut self, lp: &Loop, number: u32) {
        let at = self.handles.len();
        let handler = Handler::new(self, at, 0);
        let reads = handler.reads;
        if number.is_multiple_of(2) {
            let writer = Handler::new(self, at + 1, 0);
            let opened = Pipe::pair(lp, handler, writer);
            if let Some((reader, writer)) = self.opened("Pipe::pair", opened) {
                let connection = self.net.add_one_way([End::Gone, End::Gone]);
                self.stream_made(lp, reader.id(), Kind::Pipe, connection, 1, reads);
                self.stream_made(lp, writer.id(), Kind::Pipe, connection, 0, false);
            }
            return;
        }
        let (direction, side) = match number % 4 {
            1 => (Direction::Read, 1),
            _ => (Direction::Write, 0),
        };
        let opened = Pipe::half(lp, direction, handler);
        if let Some((pipe, other)) = self.opened("Pipe::half", opened) {
            let connection = self.net.add_one_way([End::Gone, End::Gone]);
            self.stream_made(lp, pipe.id(), Kind::Pipe, connection, side, reads);
            if let Some(raw) = Raw::pipe(other) {
                self.net.all[connection].ends[1 - side] = End::Raw(raw);
            }
        }
    }

    /// A stream that is connected from the start.
    pub fn stream_made(
        &mut self,
        lp: &Loop,
        id: Id,
        kind: Kind,
        connection: usize,
        side: usize,
        reads: bool,
    ) {
        let at = self.add_stream(id, kind, connection, side);
        self.note(|| format!("#{at} is connection {connection}.{side}, a {kind:?}"));
        self.net.all[connection].ends[side] = End::Kolo(at);
        self.handles[at].handler_owed = true;
        let now = nanoseconds(lp);
        let stream = self.stream(at);
        stream.attached = true;
        stream.reading = reads && !stream.ended;
        stream.read_at(now);
        if kind == Kind::Local && self.random.percent(60) {
            let got = LocalStream::from_id(id).receive_descriptors(lp, true);
            self.outcome("receive_descriptors", got, None);
        }
    }
}

/// What a stream was made of, taken out of the loop.
pub fn release(lp: &Loop, id: Id, kind: Kind) -> kolo::Result<Option<Raw>> {
    match kind {
        Kind::Local => {
            let socket = LocalStream::from_id(id).release(lp)?;
            Ok(Raw::local(OwnedFd::from(socket).into()))
        }
        Kind::Pipe => Ok(Raw::pipe(Pipe::from_id(id).release(lp)?)),
        _ => Ok(Some(Raw::Tcp(
            kolo::TcpStream::from_id(id).release(lp)?.into(),
        ))),
    }
}

/// The codes with which a broken socket may refuse to be adopted.
pub fn refuses_broken(code: Code) -> bool {
    matches!(code, Code::ENOTCONN | Code::EINVAL)
}
