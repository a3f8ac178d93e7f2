//! Echo on mio: edge-triggered, registered once. A read that came back short ends the reading without a further call,
//! except when the peer's end was announced.

use crate::common::*;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;
use std::io::{self, ErrorKind, Read, Write};

const LISTENER: Token = Token(usize::MAX);
const STDIN: Token = Token(usize::MAX - 1);
const EVENTS_PER_WAIT: usize = 1024;
const READS_PER_EVENT: usize = 16;

struct Connection {
    stream: TcpStream,
    /// The part of an echo that the kernel would not take yet.
    held: Vec<u8>,
    hung_up: bool,
}

enum Fate {
    Open,
    Closed,
    /// There is more to read, but it was others' turn.
    Again,
}

/// What the kernel takes of the bytes.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            result => return result,
        }
    }
}

impl Connection {
    fn write_held(&mut self) -> io::Result<()> {
        while !self.held.is_empty() {
            let written = write_some(&mut self.stream, &self.held)?;
            if written == 0 {
                return Ok(());
            }
            self.held.drain(..written);
        }
        self.held = Vec::new();
        Ok(())
    }

    fn read_and_echo(&mut self, buffer: &mut [u8]) -> io::Result<Fate> {
        for _ in 0..READS_PER_EVENT {
            let count = match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Fate::Open),
                result => result?,
            };
            if count == 0 {
                return Ok(Fate::Closed);
            }
            let written = write_some(&mut self.stream, &buffer[..count])?;
            if written < count {
                self.held.extend_from_slice(&buffer[written..count]);
                return Ok(Fate::Open);
            }
            if count < buffer.len() && !self.hung_up {
                return Ok(Fate::Open);
            }
        }
        Ok(Fate::Again)
    }

    fn on_event(&mut self, event: &Event, buffer: &mut [u8]) -> io::Result<Fate> {
        self.hung_up |= event.is_read_closed() || event.is_error();
        if !self.held.is_empty() {
            self.write_held()?;
            if !self.held.is_empty() {
                return Ok(Fate::Open);
            }
        } else if !event.is_readable() && !self.hung_up {
            return Ok(Fate::Open);
        }
        self.read_and_echo(buffer)
    }
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

fn accept_all(registry: &Registry, listener: &TcpListener, connections: &mut Slab<Connection>) {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) if accept_error_passes(&error) => continue,
            Err(error) => die(format_args!("accept: {error}")),
        };
        check(stream.set_nodelay(true), "TCP_NODELAY");
        let entry = connections.vacant_entry();
        check(
            registry.register(&mut stream, Token(entry.key()), BOTH),
            "register",
        );
        entry.insert(Connection {
            stream,
            held: Vec::new(),
            hung_up: false,
        });
    }
}

fn on_connection(
    registry: &Registry,
    event: &Event,
    connections: &mut Slab<Connection>,
    buffer: &mut [u8],
) {
    // An event of a connection that was closed since may meet the next one of the same number, which does no harm.
    let Some(connection) = connections.get_mut(event.token().0) else {
        return;
    };
    match connection.on_event(event, buffer) {
        Ok(Fate::Open) => {}
        Ok(Fate::Again) => check(
            registry.reregister(&mut connection.stream, event.token(), BOTH),
            "reregister",
        ),
        Ok(Fate::Closed) | Err(_) => drop(connections.remove(event.token().0)),
    }
}

pub fn main() {
    flags(&[]);
    let mut poll = check(Poll::new(), "mio::Poll");
    let mut events = Events::with_capacity(EVENTS_PER_WAIT);
    let mut listener = check(TcpListener::bind(any_port()), "bind");
    let mut connections = Slab::new();
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    check(
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE),
        "register",
    );
    check(
        poll.registry()
            .register(&mut SourceFd(&0), STDIN, Interest::READABLE),
        "register",
    );
    announce_port(check(listener.local_addr(), "local_addr"));
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => check(result, "poll"),
        }
        for event in &events {
            match event.token() {
                LISTENER => accept_all(poll.registry(), &listener, &mut connections),
                STDIN if stdin_ended() => return,
                STDIN => {}
                _ => on_connection(poll.registry(), event, &mut connections, &mut buffer),
            }
        }
    }
}
