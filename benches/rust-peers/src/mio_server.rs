//! A server on mio: edge-triggered, registered once. A read that came back short ends the reading without a further
//! call, except when the peer's end was announced.

use crate::common::*;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

const LISTENER: Token = Token(usize::MAX);
const STDIN: Token = Token(usize::MAX - 1);
const EVENTS_PER_WAIT: usize = 1024;
const READS_PER_EVENT: usize = 16;
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// What a server says to what it hears on one connection.
pub trait Conversation: Default {
    /// One of it for all connections.
    type Shared;

    /// Bytes came. What is to be sent.
    fn answer<'a>(&mut self, bytes: &'a [u8], shared: &'a mut Self::Shared) -> &'a [u8];

    /// Whether the server's side ends when everything is sent.
    fn is_over(&self) -> bool {
        false
    }
}

struct Connection<C> {
    stream: TcpStream,
    conversation: C,
    /// What the kernel would not take yet.
    held: Vec<u8>,
    hung_up: bool,
    ended: bool,
}

/// One of each for all connections.
struct Buffers<S> {
    read: Vec<u8>,
    shared: S,
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

impl<C: Conversation> Connection<C> {
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

    fn read_and_answer(&mut self, buffers: &mut Buffers<C::Shared>) -> io::Result<Fate> {
        for _ in 0..READS_PER_EVENT {
            let count = match self.stream.read(&mut buffers.read) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Fate::Open),
                result => result?,
            };
            if count == 0 {
                return Ok(Fate::Closed);
            }
            // What comes after the end of our side is read and forgotten.
            if !self.ended {
                let heard = &buffers.read[..count];
                let answer = self.conversation.answer(heard, &mut buffers.shared);
                let written = match answer {
                    [] => 0,
                    answer => write_some(&mut self.stream, answer)?,
                };
                if written < answer.len() {
                    self.held.extend_from_slice(&answer[written..]);
                    return Ok(Fate::Open);
                }
                self.end_if_over()?;
            }
            if count < buffers.read.len() && !self.hung_up {
                return Ok(Fate::Open);
            }
        }
        Ok(Fate::Again)
    }

    fn end_if_over(&mut self) -> io::Result<()> {
        if self.conversation.is_over() && !self.ended {
            self.ended = true;
            return self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn on_event(&mut self, event: &Event, buffers: &mut Buffers<C::Shared>) -> io::Result<Fate> {
        self.hung_up |= event.is_read_closed() || event.is_error();
        if !self.held.is_empty() {
            self.write_held()?;
            if !self.held.is_empty() {
                return Ok(Fate::Open);
            }
            self.end_if_over()?;
        } else if !event.is_readable() && !self.hung_up {
            return Ok(Fate::Open);
        }
        self.read_and_answer(buffers)
    }
}

fn accept_all<C: Conversation>(
    registry: &Registry,
    listener: &TcpListener,
    connections: &mut Slab<Connection<C>>,
) {
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
            conversation: C::default(),
            held: Vec::new(),
            hung_up: false,
            ended: false,
        });
    }
}

fn on_connection<C: Conversation>(
    registry: &Registry,
    event: &Event,
    connections: &mut Slab<Connection<C>>,
    buffers: &mut Buffers<C::Shared>,
) {
    // An event of a connection that was closed since may meet the next one of the same number, which does no harm.
    let Some(connection) = connections.get_mut(event.token().0) else {
        return;
    };
    match connection.on_event(event, buffers) {
        Ok(Fate::Open) => {}
        Ok(Fate::Again) => check(
            registry.reregister(&mut connection.stream, event.token(), BOTH),
            "reregister",
        ),
        Ok(Fate::Closed) | Err(_) => drop(connections.remove(event.token().0)),
    }
}

/// Serves until the standard input ends.
pub fn serve<C: Conversation>(shared: C::Shared) {
    let mut poll = check(Poll::new(), "mio::Poll");
    let mut events = Events::with_capacity(EVENTS_PER_WAIT);
    let mut listener = check(TcpListener::bind(any_port()), "bind");
    let mut connections = Slab::<Connection<C>>::new();
    let read = vec![0; READ_BUFFER_BYTES];
    let mut buffers = Buffers { read, shared };
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
                _ => on_connection(poll.registry(), event, &mut connections, &mut buffers),
            }
        }
    }
}
