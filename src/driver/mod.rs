//! The kernel, behind one contract: ask for work, get completions.
//!
//! # The contract
//!
//! A handle owns a [`Source`]: its descriptor and what the driver remembers of it. It asks a
//! [`Driver`] for work on that source, naming itself by its [`Id`], and finds the outcome among
//! the [`Completion`]s. A readiness driver performs the system call itself when the kernel says
//! ready; a completion driver hands the call to the kernel. Nothing above knows which.
//!
//! 1. The loop calls [`Driver::wait`] once a turn, then [`Driver::next`] until it gives `None`.
//!    Before each it may call [`Driver::next_received`], which has a short way for what nearly
//!    all completions are. All that is not yet handed out stays inside the driver, so a panic in
//!    a callback between two calls loses nothing.
//! 2. A completion is only made for a live source: the driver asks [`Sources`] for it by `Id`,
//!    and an `Id` whose handle is closed is not found, whatever the kernel still reports.
//! 3. Receiving and accepting go on until stopped ("multishot"); connecting and sending end
//!    with one completion.
//! 4. `send` takes what it can at once, and keeps no hold on the caller's memory. When it took
//!    less than it was given, a [`Completion::Sent`] follows, after which the caller sends again
//!    what is left. `send_copied` may take all and hand it to the kernel with the next `wait` or
//!    `rest`; what that does not take comes back with a [`Completion::Unsent`] before anything
//!    else in that turn, or by [`Driver::take_unsent`], which is to be asked before a stream is
//!    said to have sent everything. A [`Completion::Sent`] follows that too.
//! 5. Received bytes ([`Received`]) stand in the [`Buffer`] that the caller lends to `next`, until
//!    it asks for more; or in the driver's own memory, until the caller drops them; or, for a
//!    source that receives into its owner's memory, a [`Completion::Readable`] asks for
//!    [`Driver::receive_into`].
//!    For a source that takes descriptors ([`State::CONTROL`]), those that came with the bytes are
//!    asked for with [`Driver::take_passed`] before anything else is asked of the driver.
//! 6. One turn is bounded: at most `events` completions are collected by a wait, at most
//!    [`RECEIVE_BUDGET`] bytes come from one stream before the others have their turn, and at
//!    most the listener's own number of connections are accepted from it.
//! 7. After `close` or `release` no completion comes for that source.
//! 8. A source with [`State::DATAGRAMS`] keeps the boundaries of what is sent and received.
//!    Receiving brings [`Completion::Datagrams`]: a [`Batch`] of at least one datagram in the
//!    driver's own memory, in the order in which they came, which the caller gives back with
//!    [`Driver::recycle_datagrams`]. At most [`DATAGRAM_BUDGET`] messages and about
//!    [`RECEIVE_BUDGET`] bytes come from one source in one turn. Receiving does not end with an
//!    error of one datagram: that is a [`Completion::DatagramFailed`], and more may follow. Only
//!    an error of the socket itself ends it ([`Completion::ReceiveFailed`]).
//! 9. `send_datagrams` takes whole messages in their order, as many as it can at once, and keeps
//!    no hold on the caller's memory. It stops at the first that is refused, and says why; those
//!    after it were not tried. When it took fewer and says nothing, the socket is full, and a
//!    [`Completion::DatagramsSent`] follows, after which the caller sends again what is left.
//! 10. `send_file` sends from a file what the socket takes at once, without bringing it into the
//!     caller's memory. It may wait for a disk where the bytes are not in the kernel's memory: the
//!     caller has looked. After [`FileSent::Full`] a [`Completion::Sent`] follows.
//! 11. `begin_job` has the kernel do a request's work without a thread, where the driver can do that
//!     ([`Driver::takes_jobs`]); elsewhere a pool's thread does it. The job gives the calls
//!     ([`Job::kernel_call`](crate::pool::Job::kernel_call)) and owns their memory, and the driver owns the job from
//!     the first call until the kernel is through with the last one, whatever happens to the request or the loop.
//!     Before the first call its ticket may be taken back. A [`Completion::JobDone`] or a
//!     [`Completion::JobUnable`] follows, also after `abandon_job`; not for those that `end_jobs` gave back.
//! 12. Inside of a turn, from `wait` on, what is asked for may reach the kernel with the next
//!     `wait`; [`Driver::rest`] ends that, and outside of turns everything is done at once.

#![cfg_attr(
    not(feature = "net"),
    allow(dead_code, reason = "the rooms that use it are left out")
)]

pub(crate) mod endpoint;
#[cfg(target_os = "linux")]
pub(crate) mod epoll;
pub(crate) mod polling;
pub(crate) mod readiness;
#[cfg(feature = "sim")]
pub(crate) mod sim;
#[cfg(kolo_uring)]
pub(crate) mod uring;

use std::io::{self, IoSlice};
use std::sync::Arc;

use bitflags::bitflags;
use socket2::{SockAddr, Socket};

use crate::error::{Code, Error, Result};
use crate::handles::Id;
use crate::pool::{Job, Ticket};
use crate::sys::datagrams::{Batch, Outgoing, Told, BATCH};
use crate::sys::{Descriptor, Held, OwnedDescriptor};

/// The size of the buffer that streams share for receiving: what one call can bring.
///
/// 64 KiB: below that streaming costs more calls, above it the buffer no longer stays in the
/// second-level cache.
pub(crate) const RECEIVE_BUFFER: usize = 64 * 1024;

/// What one call brings from a TCP socket at most: what one segment holds on the loopback interface (65483 bytes with
/// IPv4, 65464 with IPv6), in whole cache lines.
///
/// What is received is often sent on, and by 64 KiB at a time each send would make two segments there, of which the
/// second, of some 50 bytes, costs as much as the first: a stream that was echoed by 64 KiB took 1.6 times the
/// processor time.
pub(crate) const RECEIVE_SOCKET: usize = RECEIVE_BUFFER - 128;

/// Bytes that one stream may bring in one turn before the others have theirs.
pub(crate) const RECEIVE_BUDGET: usize = 4 * RECEIVE_BUFFER;

/// Messages that one datagram socket may bring in one turn before the others have theirs: four
/// batches, some hundred microseconds of the kernel's time.
pub(crate) const DATAGRAM_BUDGET: u32 = 4 * BATCH as u32;

/// Events that one wait may collect, whatever is asked for: 64 Ki of them are a megabyte.
pub(crate) const EVENTS_MAX: usize = 64 * 1024;

/// Slices handed to the kernel by one send. 64 small writes fill a segment many times over; more
/// would only make the array on the stack bigger.
pub(crate) const SLICES_MAX: usize = 64;

/// Connections in a row that went away before they were accepted, or that a firewall or a policy of the system kept
/// back: after so many the listener is told. Such a policy may keep back all, and then trying on would be spinning.
pub(crate) const GONE_MAX: u32 = 64;

bitflags! {
    /// What a source waits for, and what is known of it.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct State: u16 {
        /// The selector knows the descriptor.
        const REGISTERED = 1;
        /// Receives until stopped.
        const RECEIVE = 1 << 1;
        /// Receives into its owner's memory.
        const OWN_MEMORY = 1 << 2;
        /// Accepts until stopped.
        const ACCEPT = 1 << 3;
        /// A connect is under way.
        const CONNECT = 1 << 4;
        /// A send found no room and waits for it.
        const SEND = 1 << 5;
        /// The kernel said readable, and it was not read empty since.
        const READABLE = 1 << 6;
        /// Stands in the list of sources to go on with in the next turn.
        const CARRIED = 1 << 7;
        /// Readable interest is registered.
        const READ_INTEREST = 1 << 8;
        /// Writable interest is registered.
        const WRITE_INTEREST = 1 << 9;
        /// The peer is known to have ended or broken the connection: read until that shows.
        const HANGUP = 1 << 10;
        /// A read that came short need not have emptied it, so each is looked at: Unix-domain
        /// sockets (passed descriptors end a read), terminals (a line ends one), pipes (a packet
        /// ends one, and the reading end does not know that its writer made packets).
        const STOPS_SHORT = 1 << 11;
        /// Carries datagrams.
        const DATAGRAMS = 1 << 12;
        /// Datagrams: what the network tells of those sent is asked for, too.
        const ERROR_QUEUE = 1 << 13;
        /// Control messages may come with what is received: with datagrams what was asked for, with
        /// a Unix-domain stream's bytes descriptors.
        const CONTROL = 1 << 14;
        /// Others may hold descriptors of the same open file description: closing ours does not
        /// end it.
        const SHARED = 1 << 15;
    }
}

impl State {
    /// Whether readable can only mean bytes for the shared buffer.
    #[inline]
    fn only_receives(self) -> bool {
        let other = State::OWN_MEMORY
            | State::ACCEPT
            | State::CONNECT
            | State::HANGUP
            | State::CARRIED
            | State::STOPS_SHORT
            | State::DATAGRAMS;
        self & (State::RECEIVE | other) == State::RECEIVE
    }
}

bitflags! {
    /// What a foreign descriptor is watched for, or found to be.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interest: u8 {
        /// Reading would not block (also at end of file and on errors).
        const READABLE = 1;
        /// Writing would not block (also on errors).
        const WRITABLE = 2;
        /// The peer closed its writing end, or the connection broke. A hint: not every system
        /// and not every kind of descriptor tells.
        const DISCONNECT = 4;
        /// Urgent data can be read (TCP's out-of-band byte, a terminal's state change).
        const PRIORITY = 8;
    }
}

/// The descriptor behind a source, and who closes it.
#[derive(Debug)]
pub(crate) enum Object {
    /// Released or not yet there.
    None,
    /// kolo's own socket. A read that came short has emptied it.
    Socket(Held<Socket>),
    /// kolo's own Unix-domain socket.
    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code))]
    Local(Held<Socket>),
    /// kolo's own pipe, terminal or the like: read(2) and write(2).
    #[cfg(unix)]
    #[cfg_attr(not(any(feature = "local", feature = "tty")), allow(dead_code))]
    File(Held<crate::sys::File>),
    /// The user's: watched, never closed.
    Foreign(Descriptor),
    /// A socket of a simulation: only its driver closes it.
    #[cfg(feature = "sim")]
    Simulated(sim::SocketKey),
}

/// A handle's part in the driver.
pub(crate) struct Source {
    pub object: Object,
    pub state: State,
    /// For foreign descriptors: what is asked for.
    pub interest: Interest,
}

impl Object {
    /// The socket, if it is one of kolo's, for whoever takes it out of kolo.
    pub fn into_socket(self) -> Option<Socket> {
        self.into_held_socket().map(Held::into_inner)
    }

    /// The socket, if it is one of kolo's, which it stays.
    pub fn into_held_socket(self) -> Option<Held<Socket>> {
        match self {
            Object::Socket(socket) | Object::Local(socket) => Some(socket),
            _ => None,
        }
    }

    /// In a forked child, whose descriptors are the parent's too: closing them changes nothing
    /// there.
    pub fn leave_to_parent(&mut self) {
        #[cfg(unix)]
        if let Object::File(file) = self {
            file.keep_flags();
        }
    }

    /// Whether it belongs to a simulation.
    pub fn is_simulated(&self) -> bool {
        #[cfg(feature = "sim")]
        return matches!(self, Object::Simulated(_));
        #[cfg(not(feature = "sim"))]
        false
    }

    /// The descriptor, for whoever takes it out of kolo.
    #[cfg(unix)]
    #[cfg_attr(not(any(feature = "local", feature = "tty")), allow(dead_code))]
    pub fn into_descriptor(self) -> Option<std::os::fd::OwnedFd> {
        match self {
            Object::Socket(socket) | Object::Local(socket) => Some(socket.into_inner().into()),
            Object::File(file) => file.into_inner().into_owned(),
            Object::None | Object::Foreign(_) => None,
            #[cfg(feature = "sim")]
            Object::Simulated(_) => None,
        }
    }
}

impl Source {
    pub fn of_socket(socket: Socket) -> Source {
        Source::new(Object::Socket(socket.into()))
    }

    /// For what came from elsewhere: others may hold descriptors of it too.
    pub fn shared(mut self) -> Source {
        self.state.insert(State::SHARED);
        self
    }

    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code))]
    pub fn of_local(socket: impl Into<Held<Socket>>) -> Source {
        let mut source = Source::new(Object::Local(socket.into()));
        source.state = State::STOPS_SHORT;
        source
    }

    #[cfg(unix)]
    #[cfg_attr(not(any(feature = "local", feature = "tty")), allow(dead_code))]
    pub fn of_file(file: Held<crate::sys::File>) -> Source {
        let mut source = Source::new(Object::File(file));
        source.state = State::STOPS_SHORT;
        source
    }

    pub fn new(object: Object) -> Source {
        Source {
            object,
            state: State::empty(),
            interest: Interest::empty(),
        }
    }

    pub fn socket(&self) -> Result<&Socket> {
        match &self.object {
            Object::Socket(socket) | Object::Local(socket) => Ok(socket),
            _ => Err(Code::ENOTCONN.into()),
        }
    }

    /// The descriptor, for the user, who may hand it back by mistake: see [`Held`].
    ///
    /// Errors: [`Code::ENOTCONN`] without one, [`Code::ENOTSUP`] in a simulation.
    pub fn show(&self) -> Result<Descriptor> {
        match &self.object {
            Object::Socket(socket) | Object::Local(socket) => Ok(socket.show()),
            #[cfg(unix)]
            Object::File(file) => Ok(file.show()),
            Object::None | Object::Foreign(_) => Err(Code::ENOTCONN.into()),
            #[cfg(feature = "sim")]
            Object::Simulated(_) => Err(Code::ENOTSUP.into()),
        }
    }

    pub fn descriptor(&self) -> Option<Descriptor> {
        match &self.object {
            Object::None => None,
            Object::Socket(socket) | Object::Local(socket) => {
                Some(crate::sys::descriptor_of(socket))
            }
            #[cfg(unix)]
            Object::File(file) => Some(file.descriptor()),
            Object::Foreign(descriptor) => Some(*descriptor),
            #[cfg(feature = "sim")]
            Object::Simulated(_) => None,
        }
    }
}

/// Where a driver finds the source of a live handle.
pub(crate) trait Sources {
    /// A stream, of which the driver knows nothing but its source.
    type Stream: AsMut<Source>;

    fn source(&mut self, id: Id) -> Option<&mut Source>;
    fn stream(&mut self, id: Id) -> Option<&mut Self::Stream>;
}

/// Bytes that the driver received.
pub(crate) enum Received {
    /// So many, in the buffer that streams share.
    Shared(usize),
    /// In a buffer that the kernel chose.
    #[cfg(kolo_uring)]
    Ring(uring::Piece),
    /// Kept while the stream did not receive.
    #[cfg(kolo_uring)]
    Kept(Vec<u8>),
}

/// The buffer that streams share for receiving. It has no memory before something is received.
#[derive(Default)]
pub(crate) struct Buffer(Option<Box<[u8; RECEIVE_BUFFER]>>);

impl Buffer {
    #[inline]
    pub fn memory(&mut self) -> &mut [u8; RECEIVE_BUFFER] {
        #[cold]
        fn new() -> Box<[u8; RECEIVE_BUFFER]> {
            Box::new([0; RECEIVE_BUFFER])
        }
        self.0.get_or_insert_with(new)
    }
}

impl Received {
    /// The bytes, with the buffer that was lent for them.
    #[inline]
    pub fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        match self {
            Received::Shared(length) => buffer.0.as_ref().map_or(&[], |it| &it[..*length]),
            #[cfg(kolo_uring)]
            Received::Ring(piece) => piece.bytes(),
            #[cfg(kolo_uring)]
            Received::Kept(bytes) => bytes,
        }
    }
}

/// Descriptors that came along with bytes.
#[derive(Default)]
pub(crate) struct Passed {
    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code))]
    pub descriptors: Vec<OwnedDescriptor>,
    /// Some did not come whole: this process could take no more.
    pub lost: bool,
}

/// What became of the work a handle asked for.
pub(crate) enum Completion {
    /// Bytes came.
    Received(Id, Received),
    /// Bytes are there, for a source that receives into its owner's memory.
    Readable(Id),
    /// The peer ended its side; receiving has stopped.
    Ended(Id),
    /// Receiving failed and has stopped.
    ReceiveFailed(Id, Error),
    /// A send that took less than it was given may be continued, or has failed.
    Sent(Id, Result<()>),
    /// The kernel did not take these bytes of what `send_copied` had taken.
    #[cfg_attr(not(kolo_uring), allow(dead_code))]
    Unsent(Id, Vec<u8>),
    /// A connect has ended.
    Connected(Id, Result<()>),
    /// A connection came.
    Accepted(Id, Socket),
    /// A connection came to a listener of a simulation.
    #[cfg(feature = "sim")]
    AcceptedSimulated(Id, sim::SocketKey),
    /// Accepting failed and has stopped.
    AcceptFailed(Id, Error),
    /// Datagrams came.
    Datagrams(Id, Box<Batch>),
    /// A datagram that was sent, or one that came, met an error. Receiving goes on.
    DatagramFailed(Id, Error, Option<Box<Told>>),
    /// The socket that was full of datagrams has room again.
    DatagramsSent(Id),
    /// A foreign descriptor is ready, or could not be watched any more.
    Polled(Id, Result<Interest>),
    /// The kernel has done a request's work.
    #[cfg_attr(not(kolo_uring), allow(dead_code))]
    JobDone(Id, Box<dyn Job>),
    /// The kernel cannot do the rest of it: a thread has to.
    #[cfg_attr(not(kolo_uring), allow(dead_code))]
    JobUnable(Id, Box<dyn Job>),
    /// The time has come for a request's work, which has no threads in a simulation.
    #[cfg(feature = "sim")]
    WorkDue(Id),
}

/// Ends another thread's `wait`. Kept by whoever may call; outlives the driver.
pub(crate) trait Wake: Send + Sync {
    fn wake(&self);
}

/// The contract: see the head of this module.
pub(crate) trait Driver {
    fn name(&self) -> &'static str;

    /// Collects completions, waiting at most `timeout_ns` from `now_ns` on for the first (`None`:
    /// without limit).
    fn wait(&mut self, timeout_ns: Option<u64>, now_ns: u64) -> Result<()>;
    /// The next completion of this turn.
    fn next<S: Sources>(&mut self, sources: &mut S, buffer: &mut Buffer) -> Option<Completion>;
    /// The next completion if it is bytes in `buffer`, for a stream that is given together with
    /// them, so that it need not be looked for again. `None` says nothing about what there is.
    fn next_received<'s, 'b, S: Sources>(
        &mut self,
        _sources: &'s mut S,
        _buffer: &'b mut Buffer,
    ) -> Option<(Id, &'s mut S::Stream, &'b [u8])> {
        None
    }
    /// Whether completions are at hand, so that the next wait must not block.
    fn has_more(&self) -> bool;
    /// Whether it is known that [`Driver::next`] has nothing more in this turn.
    #[inline]
    fn is_through(&self) -> bool {
        false
    }
    /// No `wait` follows for now: all that was asked for reaches the kernel.
    fn rest(&mut self) {}

    fn receive_start(&mut self, id: Id, source: &mut Source) -> Result<()>;
    fn receive_stop(&mut self, id: Id, source: &mut Source);
    /// Receives into the owner's memory, after a [`Completion::Readable`].
    fn receive_into(&mut self, id: Id, source: &mut Source, memory: &mut [u8]) -> ReceiveInto;
    /// Whether bytes of the source, or its end, have come and are still to be handed out.
    fn untold(&mut self, _id: Id) -> bool {
        false
    }

    /// Hands bytes back that nobody could be told of: they come again, with the next completion.
    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code))]
    fn give_back(&mut self, id: Id, received: Received);
    /// The descriptors that came with the bytes received last.
    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code))]
    fn take_passed(&mut self) -> Passed;

    fn send(&mut self, id: Id, source: &mut Source, slices: &[IoSlice<'_>]) -> Result<usize>;
    /// How many messages were taken, and what there is against the next one.
    #[cfg(feature = "fs")]
    fn send_file(
        &mut self,
        id: Id,
        source: &mut Source,
        file: &std::fs::File,
        offset: u64,
        length: usize,
    ) -> Result<FileSent>;

    fn send_datagrams(
        &mut self,
        id: Id,
        source: &mut Source,
        messages: &[Outgoing<'_>],
    ) -> (usize, Result<()>);
    fn recycle_datagrams(&mut self, batch: Box<Batch>);
    /// As `send`, with descriptors that travel with the first byte: taken when anything is.
    fn send_passing(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
        descriptors: &[OwnedDescriptor],
    ) -> Result<usize>;
    /// As [`Driver::send`], but what it takes may be copied, and reach the kernel later.
    fn send_copied(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
    ) -> Result<usize> {
        self.send(id, source, slices)
    }
    /// Has everything reach the kernel that `send_copied` took; what it does not take. Then a
    /// [`Completion::Sent`] follows, as after a send.
    fn take_unsent(&mut self, _id: Id, _source: &mut Source) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    /// `EAGAIN` from a Unix-domain socket: the backlog is full, and nothing is under way.
    fn connect(&mut self, id: Id, source: &mut Source, to: &SockAddr) -> Result<()>;
    /// Accepts until stopped, at most `per_turn` connections a turn.
    fn accept_start(&mut self, id: Id, source: &mut Source, per_turn: u32) -> Result<()>;
    fn accept_stop(&mut self, id: Id, source: &mut Source);

    /// Watches a foreign descriptor, level-triggered; again with another set to change it.
    fn poll_start(&mut self, id: Id, source: &mut Source, interest: Interest) -> Result<()>;
    fn poll_stop(&mut self, id: Id, source: &mut Source);

    /// Ends all work on the source; its descriptor is closed if it is kolo's own.
    fn close(&mut self, id: Id, source: &mut Source);
    /// Ends all work on the source and hands out what is behind it. Not while it has something
    /// [`Driver::untold`], which would be lost.
    fn release(&mut self, id: Id, source: &mut Source) -> Object;

    /// Whether there is [`Driver::begin_job`].
    fn takes_jobs(&self) -> bool {
        false
    }
    /// Has the kernel do a request's job. [`Code::ENOBUFS`] when `waiting_max` wait already to be begun.
    fn begin_job(&mut self, _id: Id, _ticket: Arc<Ticket>, _waiting_max: usize) -> Result<()> {
        Err(Code::ENOTSUP.into())
    }
    /// Nobody waits for a job that was begun any more: it may end early.
    fn abandon_job(&mut self, _id: Id) {}
    /// Ends all jobs that were begun, and waits until the kernel is through with them. `None` in the place of one that
    /// it would not let go of, whose memory then stays where it is for ever.
    fn end_jobs(&mut self) -> Vec<(Id, Option<Box<dyn Job>>)> {
        Vec::new()
    }

    fn waker(&self) -> Arc<dyn Wake>;
    /// A descriptor that is readable when completions are at hand, for embedding.
    fn backend_descriptor(&mut self) -> Result<Option<Descriptor>>;
    /// In the child of a fork: takes new kernel objects, forgets what the old ones reported.
    /// Each source must be registered again by [`Driver::restore`].
    fn forked(&mut self) -> Result<()>;
    fn restore(&mut self, id: Id, source: &mut Source) -> Result<()>;
    /// The calling thread gives the loop up; another one, or the same, goes on after `attach`.
    #[cfg(feature = "capi")]
    fn detach(&mut self) -> Result<()> {
        Ok(())
    }
    #[cfg(feature = "capi")]
    fn attach(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The outcome of [`Driver::send_file`].
#[cfg(feature = "fs")]
pub(crate) enum FileSent {
    Bytes(usize),
    /// No room for now.
    Full,
    /// The file is at its end.
    End,
    /// The system cannot send from this file to this source.
    Unable,
}

/// The outcome of [`Driver::receive_into`].
pub(crate) enum ReceiveInto {
    Bytes(usize),
    Nothing,
    Ended,
    Failed(Error),
}

/// The driver of a loop: one of those that this system has, chosen when the loop is made. An
/// enumeration and not a trait object, so that the way of each message has no indirect call.
#[repr(u8)] // a plain number to tell them apart by
#[allow(
    clippy::large_enum_variant,
    reason = "one for each loop, and the large one is the one in use"
)]
pub(crate) enum AnyDriver {
    #[cfg(target_os = "linux")]
    Epoll(readiness::Readiness<epoll::Epoll>),
    Portable(readiness::Readiness<polling::Portable>),
    #[cfg(kolo_uring)]
    Uring(Box<uring::Uring>),
    #[cfg(feature = "sim")]
    Simulated(Box<sim::Simulated>),
}

/// The same call on whichever driver it is.
macro_rules! either {
    ($self:expr, $driver:ident => $call:expr) => {
        match $self {
            #[cfg(target_os = "linux")]
            AnyDriver::Epoll($driver) => $call,
            AnyDriver::Portable($driver) => $call,
            #[cfg(kolo_uring)]
            AnyDriver::Uring($driver) => $call,
            #[cfg(feature = "sim")]
            AnyDriver::Simulated($driver) => $call,
        }
    };
}

impl AnyDriver {
    /// The driver with this name; without one, the best there is.
    pub fn open(name: Option<&str>, events: usize) -> Result<AnyDriver> {
        let events = events.clamp(1, EVENTS_MAX);
        let portable = |name| {
            let selector = polling::Portable::new(events)?;
            Ok(AnyDriver::Portable(readiness::Readiness::new(
                name, selector,
            )))
        };
        match name.unwrap_or("poller") {
            #[cfg(target_os = "linux")]
            "" | "poller" => {
                let selector = epoll::Epoll::new(events)?;
                Ok(AnyDriver::Epoll(readiness::Readiness::new(
                    "poller", selector,
                )))
            }
            #[cfg(not(target_os = "linux"))]
            "" | "poller" => portable("poller"),
            "polling" => portable("polling"),
            #[cfg(kolo_uring)]
            "uring" => match uring::Uring::new(events) {
                Ok(uring) => Ok(AnyDriver::Uring(Box::new(uring))),
                Err(error) if is_shortage(error.code()) => Err(error),
                Err(_) => Err(Code::ENOTSUP.into()),
            },
            _ => Err(Code::ENOTSUP.into()),
        }
    }

    /// The time by the clock that the driver's loop goes by.
    #[inline]
    pub fn clock_ns(&self) -> u64 {
        #[cfg(feature = "sim")]
        if let AnyDriver::Simulated(driver) = self {
            return driver.now();
        }
        crate::sys::monotonic_ns()
    }

    /// Closes what no handle has.
    pub fn discard(&self, object: Object) {
        #[cfg(feature = "sim")]
        if let (Object::Simulated(key), Some(driver)) = (&object, self.simulated()) {
            driver.world.borrow_mut().close(*key);
        }
        drop(object);
    }

    /// The driver, if it is that of a simulation.
    #[cfg(feature = "sim")]
    #[inline]
    pub fn simulated(&self) -> Option<&sim::Simulated> {
        match self {
            AnyDriver::Simulated(driver) => Some(driver),
            _ => None,
        }
    }
}

impl AnyDriver {
    /// Sends by one call, where that is all there is to it: for a socket, and the driver that loops have when they
    /// ask for none. All that is not a whole send is a matter of [`AnyDriver::sent_plainly`].
    #[inline(always)] // into the way of every message
    pub fn send_plainly(&self, source: &Source, bytes: &[u8]) -> Option<io::Result<usize>> {
        match (self, &source.object) {
            #[cfg(target_os = "linux")]
            (AnyDriver::Epoll(_), Object::Socket(socket)) => {
                Some(crate::sys::send(socket, &[IoSlice::new(bytes)]))
            }
            #[cfg(not(target_os = "linux"))]
            (AnyDriver::Portable(_), Object::Socket(socket)) => {
                Some(crate::sys::send(socket, &[IoSlice::new(bytes)]))
            }
            _ => None,
        }
    }

    #[inline(never)]
    fn has_more_otherwise(&self) -> bool {
        either!(self, driver => driver.has_more())
    }

    /// After [`AnyDriver::send_plainly`] of so many bytes: as [`Driver::send`] says it.
    pub fn sent_plainly(
        &mut self,
        id: Id,
        source: &mut Source,
        total: usize,
        outcome: io::Result<usize>,
    ) -> Result<usize> {
        match self {
            #[cfg(target_os = "linux")]
            AnyDriver::Epoll(driver) => driver.sent(id, source, total, outcome),
            AnyDriver::Portable(driver) => driver.sent(id, source, total, outcome),
            #[allow(unreachable_patterns)] // these do not send plainly
            _ => outcome.map_err(Error::from),
        }
    }
}

/// Errors that say nothing about what the system has.
#[cfg(kolo_uring)]
fn is_shortage(code: Code) -> bool {
    matches!(code, Code::EMFILE | Code::ENFILE | Code::ENOMEM)
}

impl Driver for AnyDriver {
    fn name(&self) -> &'static str {
        either!(self, driver => driver.name())
    }

    fn wait(&mut self, timeout_ns: Option<u64>, now_ns: u64) -> Result<()> {
        either!(self, driver => driver.wait(timeout_ns, now_ns))
    }

    fn next<S: Sources>(&mut self, sources: &mut S, buffer: &mut Buffer) -> Option<Completion> {
        either!(self, driver => driver.next(sources, buffer))
    }

    #[inline(always)]
    fn next_received<'s, 'b, S: Sources>(
        &mut self,
        sources: &'s mut S,
        buffer: &'b mut Buffer,
    ) -> Option<(Id, &'s mut S::Stream, &'b [u8])> {
        match self {
            #[cfg(target_os = "linux")]
            AnyDriver::Epoll(driver) => driver.next_received(sources, buffer),
            #[cfg(not(target_os = "linux"))]
            AnyDriver::Portable(driver) => driver.next_received(sources, buffer),
            // Only for the driver that loops have when they ask for none: one way stays short.
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    #[inline(always)]
    fn has_more(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            AnyDriver::Epoll(driver) => driver.has_more(),
            // Every turn asks: the usual way stays short.
            _ => self.has_more_otherwise(),
        }
    }

    #[inline(always)]
    fn is_through(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            AnyDriver::Epoll(driver) => driver.is_through(),
            AnyDriver::Portable(driver) => driver.is_through(),
            #[allow(unreachable_patterns)] // these are asked by `next`
            _ => false,
        }
    }

    fn rest(&mut self) {
        either!(self, driver => driver.rest())
    }

    fn receive_start(&mut self, id: Id, source: &mut Source) -> Result<()> {
        either!(self, driver => driver.receive_start(id, source))
    }

    fn receive_stop(&mut self, id: Id, source: &mut Source) {
        either!(self, driver => driver.receive_stop(id, source))
    }

    fn receive_into(&mut self, id: Id, source: &mut Source, memory: &mut [u8]) -> ReceiveInto {
        either!(self, driver => driver.receive_into(id, source, memory))
    }

    fn untold(&mut self, id: Id) -> bool {
        either!(self, driver => driver.untold(id))
    }

    #[inline(always)]
    fn send_copied(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
    ) -> Result<usize> {
        either!(self, driver => driver.send_copied(id, source, slices))
    }

    fn take_unsent(&mut self, id: Id, source: &mut Source) -> Result<Option<Vec<u8>>> {
        either!(self, driver => driver.take_unsent(id, source))
    }

    #[inline]
    fn send(&mut self, id: Id, source: &mut Source, slices: &[IoSlice<'_>]) -> Result<usize> {
        either!(self, driver => driver.send(id, source, slices))
    }

    #[cfg(feature = "fs")]
    fn send_file(
        &mut self,
        id: Id,
        source: &mut Source,
        file: &std::fs::File,
        offset: u64,
        length: usize,
    ) -> Result<FileSent> {
        either!(self, driver => driver.send_file(id, source, file, offset, length))
    }

    fn send_datagrams(
        &mut self,
        id: Id,
        source: &mut Source,
        messages: &[Outgoing<'_>],
    ) -> (usize, Result<()>) {
        either!(self, driver => driver.send_datagrams(id, source, messages))
    }

    fn recycle_datagrams(&mut self, batch: Box<Batch>) {
        either!(self, driver => driver.recycle_datagrams(batch))
    }

    fn give_back(&mut self, id: Id, received: Received) {
        either!(self, driver => driver.give_back(id, received))
    }

    fn take_passed(&mut self) -> Passed {
        either!(self, driver => driver.take_passed())
    }

    fn send_passing(
        &mut self,
        id: Id,
        source: &mut Source,
        slices: &[IoSlice<'_>],
        descriptors: &[OwnedDescriptor],
    ) -> Result<usize> {
        either!(self, driver => driver.send_passing(id, source, slices, descriptors))
    }

    fn connect(&mut self, id: Id, source: &mut Source, to: &SockAddr) -> Result<()> {
        either!(self, driver => driver.connect(id, source, to))
    }

    fn accept_start(&mut self, id: Id, source: &mut Source, per_turn: u32) -> Result<()> {
        either!(self, driver => driver.accept_start(id, source, per_turn))
    }

    fn accept_stop(&mut self, id: Id, source: &mut Source) {
        either!(self, driver => driver.accept_stop(id, source))
    }

    fn poll_start(&mut self, id: Id, source: &mut Source, interest: Interest) -> Result<()> {
        either!(self, driver => driver.poll_start(id, source, interest))
    }

    fn poll_stop(&mut self, id: Id, source: &mut Source) {
        either!(self, driver => driver.poll_stop(id, source))
    }

    fn close(&mut self, id: Id, source: &mut Source) {
        either!(self, driver => driver.close(id, source))
    }

    fn release(&mut self, id: Id, source: &mut Source) -> Object {
        either!(self, driver => driver.release(id, source))
    }

    fn takes_jobs(&self) -> bool {
        either!(self, driver => driver.takes_jobs())
    }

    fn begin_job(&mut self, id: Id, ticket: Arc<Ticket>, waiting_max: usize) -> Result<()> {
        either!(self, driver => driver.begin_job(id, ticket, waiting_max))
    }

    fn abandon_job(&mut self, id: Id) {
        either!(self, driver => driver.abandon_job(id))
    }

    fn end_jobs(&mut self) -> Vec<(Id, Option<Box<dyn Job>>)> {
        either!(self, driver => driver.end_jobs())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        either!(self, driver => driver.waker())
    }

    fn backend_descriptor(&mut self) -> Result<Option<Descriptor>> {
        either!(self, driver => driver.backend_descriptor())
    }

    fn forked(&mut self) -> Result<()> {
        either!(self, driver => driver.forked())
    }

    fn restore(&mut self, id: Id, source: &mut Source) -> Result<()> {
        either!(self, driver => driver.restore(id, source))
    }

    #[cfg(feature = "capi")]
    fn detach(&mut self) -> Result<()> {
        either!(self, driver => driver.detach())
    }

    #[cfg(feature = "capi")]
    fn attach(&mut self) -> Result<()> {
        either!(self, driver => driver.attach())
    }
}

/// Whether a call only found nothing to do yet.
pub(crate) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
