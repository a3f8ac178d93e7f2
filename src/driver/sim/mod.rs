//! The simulation driver: a world of hosts in memory in place of the kernel, with virtual time, seeded faults, and
//! nothing that depends on anything but the seed and the programs in it.
//!
//! All loops of a simulation share one [`World`]; each has a [`Simulated`] driver over it. The driver never waits: whoever
//! runs the simulation gives a loop its turn when [`Driver::has_more`] or its timers say that it has something to do, and
//! lets time pass when none has. Readiness is level-triggered: the world knows the sockets that changed
//! ("touched"), and asks each what its handle would be told.
//!
//! ```text
//! world        hosts, loops, ports, the agenda of what is to happen, the clock
//! network      packets between hosts: delay, loss, links that are cut
//! sockets      what programs do with sockets
//! segments     between connections and the network
//! connection   one end of a TCP connection: a state machine that knows of neither
//! datagrams    UDP
//! trace        what happened: a digest, and lines to read
//! ```

mod connection;
mod datagrams;
mod network;
mod opening;
mod options;
mod random;
mod segments;
mod sockets;
mod trace;
mod work;
mod world;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use socket2::SockAddr;

use super::{
    Buffer, Completion, Driver, Interest, Object, Passed, ReceiveInto, Received, Source, Sources,
    State, Wake,
};
use crate::error::{Code, Result};
use crate::handles::Id;
use crate::sys::datagrams::{Batch, Outgoing};
use crate::sys::{Descriptor, OwnedDescriptor};
pub(crate) use connection::Probing;
pub use options::{LinkOptions, SimulationOptions};
pub(crate) use trace::Event as TraceEvent;
use work::Current;
pub(crate) use world::{HostNumber, SocketKey, World, BEGINNING};

/// The driver of one loop of a simulation.
pub(crate) struct Simulated {
    pub world: Rc<RefCell<World>>,
    #[cfg_attr(not(feature = "dns"), allow(dead_code))]
    pub host: HostNumber,
    /// The loop's number in its world.
    pub number: u32,
    events: usize,
    /// What this turn is to look at.
    ready: VecDeque<(SocketKey, Id)>,
    current: Option<Current>,
    batch: Option<Box<Batch>>,
    accept_limits: Vec<(Id, u32)>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Simulated {
    /// A driver for a new loop on a host.
    pub fn new(world: &Rc<RefCell<World>>, host: HostNumber, events: usize) -> Simulated {
        Simulated {
            world: world.clone(),
            host,
            number: world.borrow_mut().add_loop(host),
            events,
            ready: VecDeque::new(),
            current: None,
            batch: None,
            accept_limits: Vec::new(),
            woken: Arc::default(),
        }
    }

    pub fn now(&self) -> u64 {
        self.world.borrow().now
    }

    fn accept_limit(&self, id: Id) -> u32 {
        let mut limits = self.accept_limits.iter();
        limits
            .find(|(listener, _)| *listener == id)
            .map_or(0, |(_, limit)| *limit)
    }

    /// Has the world know what the source waits for.
    fn sync(&mut self, id: Id, source: &Source) {
        if let Object::Simulated(key) = source.object {
            self.world.borrow_mut().set_wants(key, id, source.state);
        }
    }

    fn key(source: &Source) -> Result<SocketKey> {
        match source.object {
            Object::Simulated(key) => Ok(key),
            Object::None => Err(Code::ENOTCONN.into()),
            // Of the kernel's, which is not there.
            _ => Err(Code::ENOTSUP.into()),
        }
    }

    fn leave(&mut self, id: Id, source: &mut Source) {
        self.accept_limits.retain(|(listener, _)| *listener != id);
        source.state &= State::DATAGRAMS | State::ERROR_QUEUE;
    }

    fn sent(&mut self, id: Id, source: &mut Source, total: usize, sent: usize) {
        if sent < total {
            source.state.insert(State::SEND);
            self.sync(id, source);
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // Nobody is inside of the world: a loop is not dropped while it is asked for something.
        if let Ok(mut world) = self.world.try_borrow_mut() {
            world.remove_loop(self.number);
        }
    }
}

impl Driver for Simulated {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn wait(&mut self, _timeout_ns: Option<u64>, _now_ns: u64) -> Result<()> {
        self.woken.0.store(false, Ordering::Relaxed);
        if !self.ready.is_empty() || self.current.is_some() {
            // A callback unwound in the middle of the last turn: its rest comes first.
            return Ok(());
        }
        let found = self.world.borrow_mut().take_ready(self.number, self.events);
        self.ready.extend(found);
        Ok(())
    }

    fn next<S: Sources>(&mut self, sources: &mut S, buffer: &mut Buffer) -> Option<Completion> {
        if let Some(id) = self.world.borrow_mut().take_done(self.number) {
            return Some(Completion::WorkDue(id));
        }
        loop {
            let mut now = match self.current.take() {
                Some(now) => now,
                None => {
                    let (key, id) = self.ready.pop_front()?;
                    Current::new(key, id)
                }
            };
            let Some(source) = sources.source(now.id) else {
                continue;
            };
            if !matches!(source.object, Object::Simulated(key) if key == now.key) {
                continue;
            }
            let completion = self.step(&mut now, source, buffer);
            if completion.is_some() {
                self.current = Some(now);
                return completion;
            }
        }
    }

    fn has_more(&self) -> bool {
        !self.ready.is_empty()
            || self.current.is_some()
            || self.woken.0.load(Ordering::Acquire)
            || self.world.borrow_mut().has_ready(self.number)
    }

    fn receive_start(&mut self, id: Id, source: &mut Source) -> Result<()> {
        Simulated::key(source)?;
        source.state.insert(State::RECEIVE);
        self.sync(id, source);
        Ok(())
    }

    fn receive_stop(&mut self, id: Id, source: &mut Source) {
        source.state.remove(State::RECEIVE);
        self.sync(id, source);
    }

    fn receive_into(&mut self, id: Id, source: &mut Source, memory: &mut [u8]) -> ReceiveInto {
        let outcome =
            Simulated::key(source).and_then(|key| self.world.borrow_mut().receive(key, memory));
        self.received(id, source, outcome)
    }

    fn give_back(&mut self, _id: Id, _received: Received) {
        // Only for streams of the Unix domain, which are none of the world's.
    }

    fn take_passed(&mut self) -> Passed {
        Passed::default()
    }

    fn send(&mut self, id: Id, source: &mut Source, slices: &[IoSlice<'_>]) -> Result<usize> {
        let key = Simulated::key(source)?;
        let length = slices.iter().map(|slice| slice.len()).sum();
        let sent = match slices {
            [one] => self.world.borrow_mut().send(key, one)?,
            _ => self.world.borrow_mut().send(key, &joined(slices))?,
        };
        self.sent(id, source, length, sent);
        Ok(sent)
    }

    #[cfg(feature = "fs")]
    fn send_file(
        &mut self,
        _id: Id,
        _source: &mut Source,
        _file: &std::fs::File,
        _offset: u64,
        _length: usize,
    ) -> Result<super::FileSent> {
        // The stream reads the file then, and sends what it read.
        Ok(super::FileSent::Unable)
    }

    fn send_datagrams(
        &mut self,
        id: Id,
        source: &mut Source,
        messages: &[Outgoing<'_>],
    ) -> (usize, Result<()>) {
        let key = match Simulated::key(source) {
            Ok(key) => key,
            Err(error) => return (0, Err(error)),
        };
        self.sync(id, source);
        let (taken, outcome) = self.world.borrow_mut().send_messages(key, messages);
        if taken < messages.len() && outcome.is_ok() {
            source.state.insert(State::SEND);
            self.sync(id, source);
        }
        (taken, outcome)
    }

    fn recycle_datagrams(&mut self, batch: Box<Batch>) {
        if batch.is_whole() {
            self.batch = Some(batch);
        }
    }

    fn send_passing(
        &mut self,
        _id: Id,
        _source: &mut Source,
        _slices: &[IoSlice<'_>],
        _descriptors: &[OwnedDescriptor],
    ) -> Result<usize> {
        Err(Code::ENOTSUP.into())
    }

    fn connect(&mut self, id: Id, source: &mut Source, to: &SockAddr) -> Result<()> {
        let key = Simulated::key(source)?;
        let to = to.as_socket().ok_or(Code::EAFNOSUPPORT)?;
        self.world.borrow_mut().connect(key, to)?;
        source.state.insert(State::CONNECT);
        self.sync(id, source);
        Ok(())
    }

    fn accept_start(&mut self, id: Id, source: &mut Source, per_turn: u32) -> Result<()> {
        Simulated::key(source)?;
        source.state.insert(State::ACCEPT);
        self.accept_limits.retain(|(listener, _)| *listener != id);
        self.accept_limits.push((id, per_turn.max(1)));
        self.sync(id, source);
        Ok(())
    }

    fn accept_stop(&mut self, id: Id, source: &mut Source) {
        source.state.remove(State::ACCEPT);
        self.sync(id, source);
    }

    fn poll_start(&mut self, _id: Id, _source: &mut Source, _interest: Interest) -> Result<()> {
        Err(Code::ENOTSUP.into())
    }

    fn poll_stop(&mut self, _id: Id, _source: &mut Source) {}

    fn close(&mut self, id: Id, source: &mut Source) {
        self.leave(id, source);
        if let Object::Simulated(key) = std::mem::replace(&mut source.object, Object::None) {
            self.world.borrow_mut().close(key);
        }
    }

    fn release(&mut self, id: Id, source: &mut Source) -> Object {
        self.leave(id, source);
        self.sync(id, source);
        std::mem::replace(&mut source.object, Object::None)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.woken.clone()
    }

    fn backend_descriptor(&mut self) -> Result<Option<Descriptor>> {
        Ok(None)
    }

    fn forked(&mut self) -> Result<()> {
        // The world was copied with everything else, and is the child's own.
        Ok(())
    }

    fn restore(&mut self, _id: Id, _source: &mut Source) -> Result<()> {
        Ok(())
    }

    #[cfg(feature = "capi")]
    fn detach(&mut self) -> Result<()> {
        // A simulation belongs to one thread, with all its loops.
        Err(Code::ENOTSUP.into())
    }
}

/// The bytes of all of them.
fn joined(slices: &[IoSlice<'_>]) -> Vec<u8> {
    let mut all = Vec::new();
    for slice in slices {
        all.extend_from_slice(slice);
    }
    all
}
