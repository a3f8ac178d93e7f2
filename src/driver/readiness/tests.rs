//! When accepted sockets are registered, seen by a selector that writes it down.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;

use super::{Readiness, Ready, Selector, Trigger};
use crate::driver::{Buffer, Completion, Driver, Interest, Source, Sources, State, Wake};
use crate::error::{Code, Result};
use crate::handles::Id;
use crate::sys::Descriptor;

const LISTENER: u32 = 1;

fn id(number: u32) -> Id {
    Id::in_slot(u64::from(number), 0)
}

#[derive(Default)]
struct Recorder {
    added: Vec<Id>,
    found: Option<Id>,
    is_short_of_memory: bool,
    /// The limit of the last wait.
    limit_ns: Option<u64>,
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

impl Selector for Recorder {
    const EDGE: bool = true;

    fn add(&mut self, _: Descriptor, id: Id, _: Interest, _: Trigger) -> Result<()> {
        if self.is_short_of_memory {
            return Err(Code::ENOMEM.into());
        }
        self.added.push(id);
        Ok(())
    }

    fn modify(&mut self, _: Descriptor, _: Id, _: Interest, _: Trigger) -> Result<()> {
        Ok(())
    }

    fn delete(&mut self, _: Descriptor, _: Id) {}

    fn forget(&mut self, _: Descriptor, _: Id) {}

    fn wait(&mut self, limit_ns: Option<u64>, _: u64) -> Result<usize> {
        self.limit_ns = limit_ns;
        Ok(usize::from(self.found.is_some()))
    }

    fn ready(&self, _: usize) -> Option<Ready> {
        Some(Ready {
            id: self.found?,
            interest: Interest::READABLE,
            error: false,
        })
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }

    fn backend_descriptor(&self) -> Option<Descriptor> {
        None
    }

    fn forked(&mut self) -> Result<()> {
        Ok(())
    }
}

struct Stream(Source);

impl AsMut<Source> for Stream {
    fn as_mut(&mut self) -> &mut Source {
        &mut self.0
    }
}

#[derive(Default)]
struct Table(HashMap<Id, Stream>);

impl Sources for Table {
    type Stream = Stream;

    fn source(&mut self, id: Id) -> Option<&mut Source> {
        self.stream(id).map(|stream| &mut stream.0)
    }

    fn stream(&mut self, id: Id) -> Option<&mut Stream> {
        self.0.get_mut(&id)
    }
}

struct Turn {
    driver: Readiness<Recorder>,
    table: Table,
    buffer: Buffer,
    clients: Vec<TcpStream>,
}

impl Turn {
    /// A turn that finds a listener with so many connections.
    fn with_connections(count: usize) -> Turn {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut driver = Readiness::new("recorder", Recorder::default());
        let mut source = Source::of_socket(listener.into());
        driver.accept_start(id(LISTENER), &mut source, 64).unwrap();
        driver.selector.found = Some(id(LISTENER));
        let mut table = Table::default();
        table.0.insert(id(LISTENER), Stream(source));
        let clients = (0..count).map(|_| TcpStream::connect(address).unwrap());
        let clients = clients.collect();
        driver.wait(None, 0).unwrap();
        Turn {
            driver,
            table,
            buffer: Buffer::default(),
            clients,
        }
    }

    fn next(&mut self) -> Option<Completion> {
        self.driver.next(&mut self.table, &mut self.buffer)
    }

    /// Accepts the next one, which receives from then on.
    fn accept(&mut self) -> Id {
        let Some(Completion::Accepted(_, socket)) = self.next() else {
            panic!("no connection");
        };
        let accepted = id(LISTENER + self.table.0.len() as u32);
        let mut source = Source::of_socket(socket);
        self.driver.receive_start(accepted, &mut source).unwrap();
        self.table.0.insert(accepted, Stream(source));
        accepted
    }
}

#[test]
fn accepted_sockets_are_registered_together_when_the_turn_has_brought_all() {
    let mut turn = Turn::with_connections(3);
    let accepted: Vec<Id> = (0..3).map(|_| turn.accept()).collect();
    assert_eq!(turn.driver.selector.added, [id(LISTENER)]);
    assert!(turn.next().is_none());
    assert_eq!(turn.driver.selector.added[1..], accepted);
    assert!(!turn.driver.has_more());
    assert_eq!(turn.clients.len(), 3);
}

#[test]
fn sockets_still_to_be_registered_keep_the_next_wait_from_blocking() {
    let mut turn = Turn::with_connections(1);
    turn.accept();
    // A callback has unwound here, and what the turn had besides is done.
    (turn.driver.current, turn.driver.handed_out) = (None, turn.driver.collected);
    assert!(turn.driver.has_more());
    turn.driver.selector.found = None;
    turn.driver.wait(None, 0).unwrap();
    assert_eq!(turn.driver.selector.limit_ns, Some(0));
}

#[test]
fn a_registration_that_fails_is_a_receive_that_failed() {
    let mut turn = Turn::with_connections(2);
    let first = turn.accept();
    turn.driver.selector.is_short_of_memory = true;
    let Some(Completion::Accepted(_, second)) = turn.next() else {
        panic!("no connection");
    };
    drop(second);
    let Some(Completion::ReceiveFailed(failed, error)) = turn.next() else {
        panic!("nothing failed");
    };
    assert_eq!((failed, error.code()), (first, Code::ENOMEM));
    let state = turn.table.source(first).unwrap().state;
    assert!(!state.intersects(State::RECEIVE | State::REGISTERED));
    assert!(turn.next().is_none());
}

#[test]
fn what_is_closed_or_stopped_meanwhile_is_not_registered_and_may_start_again() {
    let mut turn = Turn::with_connections(2);
    let (closed, stopped) = (turn.accept(), turn.accept());
    let source = &mut turn.table.0.get_mut(&closed).unwrap().0;
    turn.driver.close(closed, source);
    turn.table.0.remove(&closed);
    let source = &mut turn.table.0.get_mut(&stopped).unwrap().0;
    turn.driver.receive_stop(stopped, source);
    assert!(turn.next().is_none());
    assert_eq!(turn.driver.selector.added, [id(LISTENER)]);
    let source = &mut turn.table.0.get_mut(&stopped).unwrap().0;
    turn.driver.receive_start(stopped, source).unwrap();
    assert_eq!(turn.driver.selector.added, [id(LISTENER), stopped]);
}

#[test]
fn what_was_not_accepted_is_registered_at_once() {
    let mut turn = Turn::with_connections(1);
    let Some(Completion::Accepted(..)) = turn.next() else {
        panic!("no connection");
    };
    let of_another = TcpStream::connect(turn.clients[0].peer_addr().unwrap()).unwrap();
    let mut source = Source::of_socket(of_another.into()).shared();
    turn.driver.receive_start(id(9), &mut source).unwrap();
    assert_eq!(turn.driver.selector.added, [id(LISTENER), id(9)]);
}
