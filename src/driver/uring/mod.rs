//! Linux: io_uring. TCP is handed to the kernel; everything else goes through a readiness driver beneath.
//!
//! One call a turn hands over what the turn's callbacks wanted, waits, and brings what has come. A receive is asked
//! for once and goes on ("multishot") into buffers that all streams share (`buffers.rs`); streams that bring much at a
//! time are received from at once, when the ring says that there is something (`bulk.rs`). Small sends are copied and
//! go with that call too (`sends.rs`); they are tried once, like a send of the readiness driver's, and what the
//! kernel does not take goes back to the stream's queue. So nothing of the caller's, nor a socket's bytes, stands in
//! the kernel's hands from one turn to the next, and closing, releasing and forking find nothing to wait for.
//!
//! What is not done, and why:
//!
//! - Accepting is not a multishot accept. The kernel waits for that exclusively, so that one connection wakes one of
//!   those who wait: a forked parent that shares the listener but does not run its loop would swallow it. And it
//!   accepts ahead, which neither pausing nor the bound per turn allow. A multishot poll and accept4(2) it is.
//! - A stream's first receive is not multishot: its handler may hand the socket on when it has seen the first bytes
//!   ([`Driver::release`]), and bytes that were received ahead could not be put back.
//! - Descriptors that are no TCP sockets are watched by the readiness driver, in whose epoll set the ring waits
//!   (`arming.rs`): a poll of each by the ring is dearer when several are ready. Datagrams go 64 with one call already.
//! - No zero-copy sends: over loopback and veth the kernel copies after all, and it costs 1.1 to 1.4 times as much.
//! - Files: only what waits for a disk is handed to the kernel (`jobs.rs`); what the kernel has in memory, bytes or
//!   names, is as cheap without the ring, or cheaper. The figures are in benches/README.md.
//!
//! Needs Linux 6.12, since nothing older was tried. [`Uring::new`] fails on an older kernel, where io_uring is disabled
//! (kernel.io_uring_disabled) and where a filter forbids it (containers).

mod accepts;
mod arming;
mod buffers;
mod bulk;
mod jobs;
mod lines;
mod outer;
mod receives;
mod registered;
mod ring;
mod sends;
#[cfg(feature = "capi")]
mod threads;
mod token;
mod turn;

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use socket2::SockAddr;

use super::epoll::Epoll;
use super::readiness::Readiness;
use super::{
    Buffer, Completion, Driver, Interest, Object, Passed, ReceiveInto, Received, Source, Sources,
    State, Wake,
};
use crate::error::{Code, Error, Result};
use crate::handles::Id;
use crate::pool::{Job, Ticket};
use crate::sys::datagrams::{Batch, Outgoing};
use crate::sys::{Descriptor, OwnedDescriptor};
use accepts::Accepting;
pub(crate) use buffers::Piece;
use bulk::Reading;
use jobs::Jobs;
use lines::{Lines, Status};
use outer::Outer;
use receives::Kept;
use ring::Ring;
use token::{Operation, Token};

pub(crate) struct Uring {
    /// Goes before what the kernel may write to by its operations.
    ring: Ring,
    /// For all that is no TCP socket.
    inner: Readiness<Epoll>,
    lines: Lines,
    /// The tag of the loop's handles, as soon as one is known.
    tag: u64,
    /// What came and is not handed out yet.
    ready: VecDeque<Event>,
    /// Completions that may still be handed out in this turn, and in a whole one.
    left: usize,
    events: usize,
    /// Handles for which something is to be submitted before the next wait.
    arming: Vec<Id>,
    /// Counts the calls that handed over everything: a send of this batch is not made yet.
    batch: u32,
    /// Bytes that were to be sent, and that the kernel did not take.
    unsent: VecDeque<(Id, Vec<u8>)>,
    /// What came for streams that did not receive just then.
    kept: HashMap<Id, Kept>,
    /// Handles to go on with in the next turn, and how many of them belong to this one.
    carried: VecDeque<Id>,
    carried_now: usize,
    accepting: Option<Accepting>,
    reading: Option<Reading>,
    /// How many connections each listener may accept a turn: listeners are few.
    accept_limits: Vec<(Id, u32)>,
    /// The next wait hands over what is pushed: it need not be done at once.
    in_turn: bool,
    /// The turn brought so much that sends are to go together.
    is_busy: bool,
    woken: bool,
    /// Whether the ring watches for what the other threads do, and for what the readiness driver has.
    watches_wake: bool,
    watches_inner: bool,
    inner_is_ready: bool,
    /// The kernel has an operation that waits in an epoll set.
    can_wait_in_inner: bool,
    outer: Outer,
    /// Goes after the ring, since the kernel may be at its memory.
    jobs: Jobs,
    /// A cancellation was pushed, which ends its operation only when the kernel runs it.
    cancels: bool,
}

/// What came for a handle.
enum Event {
    Data(Id, Piece),
    Ended(Id),
    Failed(Id, Error),
    Readable(Id),
    Writable(Id, Result<()>),
    SendFailed(Id, Error),
}

/// Whether it goes through the ring.
#[inline]
fn is_native(source: &Source) -> bool {
    matches!(source.object, Object::Socket(_)) && !source.state.contains(State::DATAGRAMS)
}

impl Uring {
    /// Errors: see [`Ring::new`].
    pub fn new(events: usize) -> Result<Uring> {
        let ring = Ring::new()?;
        let inner = Readiness::new("uring", Epoll::beneath(events)?);
        let mut uring = Uring {
            ring,
            inner,
            lines: Lines::default(),
            tag: 0,
            ready: VecDeque::new(),
            left: 0,
            events,
            arming: Vec::new(),
            batch: 1,
            unsent: VecDeque::new(),
            kept: HashMap::new(),
            carried: VecDeque::new(),
            carried_now: 0,
            accepting: None,
            reading: None,
            accept_limits: Vec::new(),
            in_turn: false,
            is_busy: false,
            woken: false,
            watches_wake: false,
            watches_inner: false,
            inner_is_ready: false,
            can_wait_in_inner: true,
            outer: Outer::default(),
            jobs: Jobs::default(),
            cancels: false,
        };
        // A filter that lets the ring be made may still forbid to use it.
        uring.arm_all()?;
        uring.flush()?;
        Ok(uring)
    }

    fn open(&mut self, id: Id, source: &Source) -> Result<&mut lines::Line> {
        let at = source.descriptor().ok_or(Error::new(Code::EBADF))?;
        self.tag = token::tag_of(id);
        Ok(self.lines.open(id, at))
    }

    /// Outside of a turn nobody will hand over what was pushed, so that is done now.
    fn settle(&mut self) -> Result<()> {
        if self.in_turn {
            return Ok(());
        }
        self.arm_all()?;
        if self.cancels {
            return self.run_now();
        }
        self.flush()
    }

    /// Ends what is under way for a handle, of which nothing more is to be heard. Returns when the kernel has let
    /// go of its socket; in a turn, unless `now`, the next wait sees to that.
    fn leave(&mut self, id: Id, now: bool) -> Result<()> {
        let batch = self.batch;
        if self.lines.get(id).is_some_and(|line| line.batch == batch) {
            self.flush()?;
        }
        let status = self.lines.get(id).map_or(Status::empty(), |l| l.status);
        for (under_way, operation) in [
            (Status::RECEIVING, Operation::Receive),
            (Status::READ_POLL, Operation::Read),
            (Status::WRITE_POLL, Operation::Write),
        ] {
            if status.contains(under_way) {
                self.cancel(Token::new(operation, id))?;
            }
        }
        if status.intersects(Status::UNDER_WAY) && (now || !self.in_turn) {
            if let Some(line) = self.lines.get(id) {
                line.status &= Status::UNDER_WAY;
            }
            // The kernel goes on with a few at a time, so there may be others before it.
            for _ in 0..self.events.max(1024) {
                self.run_now()?;
                let line = self.lines.get(id);
                if !line.is_some_and(|line| line.status.intersects(Status::UNDER_WAY)) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, id: Id) {
        self.lines.close(id);
        self.accept_limits.retain(|(listener, _)| *listener != id);
        if !self.unsent.is_empty() {
            self.unsent.retain(|(of, _)| *of != id);
        }
        if !self.kept.is_empty() {
            self.kept.remove(&id);
        }
    }

    /// What came and was not handed out yet is kept, so that it does not depend on the ring.
    fn keep_all(&mut self) {
        for event in std::mem::take(&mut self.ready) {
            match event {
                Event::Data(id, piece) => self.keep(id, piece.bytes()),
                Event::Ended(id) => self.keep_end(id, None),
                Event::Failed(id, error) => self.keep_end(id, Some(error)),
                event @ Event::SendFailed(..) => self.ready.push_back(event),
                // Asked for anew.
                Event::Readable(_) | Event::Writable(..) => {}
            }
        }
    }

    fn new_ring(&mut self) -> Result<()> {
        self.ring = Ring::new()?;
        self.batch = self.batch.wrapping_add(1);
        if std::mem::take(&mut self.watches_inner) {
            self.inner.selector().told(0);
        }
        (self.watches_wake, self.cancels) = (false, false);
        self.outer.follow(&self.ring)
    }
}

impl Driver for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn wait(&mut self, timeout_ns: Option<u64>, now_ns: u64) -> Result<()> {
        self.begin_turn(timeout_ns, now_ns)
    }

    #[inline]
    fn next<S: Sources>(&mut self, sources: &mut S, buffer: &mut Buffer) -> Option<Completion> {
        self.next_completion(sources, buffer)
    }

    fn has_more(&self) -> bool {
        self.woken
            || !self.ready.is_empty()
            || !self.carried.is_empty()
            || !self.unsent.is_empty()
            || self.accepting.is_some()
            || self.reading.is_some()
            || self.jobs.has_ended()
            || self.inner_is_ready
            || self.inner.has_more()
    }

    fn rest(&mut self) {
        if self.ring.is_foreign() {
            return;
        }
        (self.in_turn, self.is_busy) = (false, false);
        // What fails here fails again in the next wait, which reports it.
        let _ = self.settle();
        self.outer.announce(&self.ring);
    }

    fn receive_start(&mut self, id: Id, source: &mut Source) -> Result<()> {
        if !is_native(source) {
            return self.inner.receive_start(id, source);
        }
        self.start_receiving(id, source)
    }

    fn receive_stop(&mut self, id: Id, source: &mut Source) {
        if !is_native(source) {
            return self.inner.receive_stop(id, source);
        }
        self.stop_receiving(id, source);
    }

    fn receive_into(&mut self, id: Id, source: &mut Source, memory: &mut [u8]) -> ReceiveInto {
        if !is_native(source) {
            return self.inner.receive_into(id, source, memory);
        }
        self.receive_into_owners(id, source, memory)
    }

    fn give_back(&mut self, id: Id, received: Received) {
        match received {
            Received::Shared(_) => self.inner.give_back(id, received),
            // Only what the readiness driver received is ever given back.
            Received::Ring(piece) => self.keep(id, piece.bytes()),
            Received::Kept(bytes) => self.keep(id, &bytes),
        }
    }

    fn take_passed(&mut self) -> Passed {
        self.inner.take_passed()
    }

    fn untold(&mut self, id: Id) -> bool {
        self.kept.contains_key(&id)
            || self.ready.iter().any(|event| {
                matches!(event, Event::Data(of, _) | Event::Ended(of) | Event::Failed(of, _) if *of == id)
            })
    }

    #[inline]
    fn send(&mut self, id: Id, source: &mut Source, slices: &[IoSlice<'_>]) -> Result<usize> {
        if !is_native(source) {
            return self.inner.send(id, source, slices);
        }
        self.send_at_once(id, source, slices)
    }

    fn send_datagrams(
        &mut self,
        id: Id,
        source: &mut Source,
        messages: &[Outgoing<'_>],
    ) -> (usize, Result<()>) {
        self.inner.send_datagrams(id, source, messages)
    }

    fn recycle_datagrams(&mut self, batch: Box<Batch>) {
        self.inner.recycle_datagrams(batch);
    }

    fn send_passing(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
        descriptors: &[OwnedDescriptor],
    ) -> Result<usize> {
        self.inner.send_passing(id, source, slices, descriptors)
    }

    #[cfg(feature = "fs")]
    fn send_file(
        &mut self,
        id: Id,
        source: &mut Source,
        file: &std::fs::File,
        offset: u64,
        length: usize,
    ) -> Result<super::FileSent> {
        if !is_native(source) {
            return self.inner.send_file(id, source, file, offset, length);
        }
        self.send_file_at_once(id, source, file, offset, length)
    }

    #[inline]
    fn send_copied(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
    ) -> Result<usize> {
        if !is_native(source) {
            return self.send(id, source, slices);
        }
        self.send_with_turn(id, source, slices)
    }

    fn take_unsent(&mut self, id: Id, source: &mut Source) -> Result<Option<Vec<u8>>> {
        self.unsent_of(id, source)
    }

    fn connect(&mut self, id: Id, source: &mut Source, to: &SockAddr) -> Result<()> {
        if !is_native(source) {
            return self.inner.connect(id, source, to);
        }
        if let Err(error) = crate::sys::connect(source.socket()?, to) {
            if !matches!(error.code(), Code::EINPROGRESS | Code::EAGAIN) {
                return Err(error);
            }
        }
        source.state.insert(State::CONNECT);
        self.want_writable(id, source)?;
        self.settle()
    }

    fn accept_start(&mut self, id: Id, source: &mut Source, per_turn: u32) -> Result<()> {
        if !is_native(source) {
            return self.inner.accept_start(id, source, per_turn);
        }
        self.start_accepting(id, source, per_turn)
    }

    fn accept_stop(&mut self, id: Id, source: &mut Source) {
        if !is_native(source) {
            return self.inner.accept_stop(id, source);
        }
        source.state.remove(State::ACCEPT);
        if let Some(line) = self.lines.get(id) {
            line.status.remove(Status::ACCEPTS);
        }
    }

    fn poll_start(&mut self, id: Id, source: &mut Source, interest: Interest) -> Result<()> {
        self.inner.poll_start(id, source, interest)
    }

    fn poll_stop(&mut self, id: Id, source: &mut Source) {
        self.inner.poll_stop(id, source);
    }

    fn close(&mut self, id: Id, source: &mut Source) {
        if !is_native(source) {
            return self.inner.close(id, source);
        }
        if !self.ring.is_foreign() {
            // An address must be free again at once.
            let listens = source.state.contains(State::ACCEPT)
                || self.accept_limits.iter().any(|(of, _)| *of == id);
            // What fails here leaves the socket to the ring's end; there is nobody to tell.
            let _ = self.leave(id, listens);
        }
        self.forget(id);
        source.state = State::empty();
        source.object = Object::None;
    }

    fn release(&mut self, id: Id, source: &mut Source) -> Object {
        if !is_native(source) {
            return self.inner.release(id, source);
        }
        let _ = self.leave(id, true);
        self.forget(id);
        source.state = State::empty();
        std::mem::replace(&mut source.object, Object::None)
    }

    fn takes_jobs(&self) -> bool {
        true
    }

    fn begin_job(&mut self, id: Id, ticket: Arc<Ticket>, waiting_max: usize) -> Result<()> {
        self.jobs.add(id, ticket, waiting_max)?;
        // What fails here fails again in the next wait, which reports it.
        let _ = self.settle();
        Ok(())
    }

    fn abandon_job(&mut self, id: Id) {
        self.give_up_job(id);
    }

    fn end_jobs(&mut self) -> Vec<(Id, Option<Box<dyn Job>>)> {
        self.end_every_job()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn backend_descriptor(&mut self) -> Result<Option<Descriptor>> {
        self.announce_to_outer().map(Some)
    }

    fn forked(&mut self) -> Result<()> {
        self.keep_all();
        self.inner.forked()?;
        self.outer.forked(self.inner.selector())?;
        self.new_ring()?;
        self.lines.clear();
        self.jobs.leave_to_parent();
        self.arming.clear();
        self.carried.clear();
        self.accepting = None;
        (self.in_turn, self.is_busy) = (false, false);
        (self.carried_now, self.inner_is_ready) = (0, false);
        self.settle()
    }

    fn restore(&mut self, id: Id, source: &mut Source) -> Result<()> {
        if !is_native(source) {
            return self.inner.restore(id, source);
        }
        self.restore_native(id, source)
    }

    #[cfg(feature = "capi")]
    fn detach(&mut self) -> Result<()> {
        self.interrupt_jobs()?;
        self.end_all()
    }

    #[cfg(feature = "capi")]
    fn attach(&mut self) -> Result<()> {
        self.new_ring()?;
        self.begin_all()
    }
}
