//! What the table of handles has of a stream.

use bitflags::bitflags;

use super::handler::{Flow, StreamHandler};
use super::writes::{Watermarks, Writes, WATERMARKS};
use crate::driver::Source;
use crate::handles::Kind;

bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct Status: u16 {
        /// The connect is under way.
        const CONNECTING = 1;
        /// The user wants to read.
        const READING = 1 << 1;
        /// The peer ended its side.
        const ENDED = 1 << 2;
        /// `shutdown` was asked for: no more writes are taken.
        const SHUTTING = 1 << 3;
        /// Our side is shut down.
        const SHUT = 1 << 4;
        /// Broken: nothing but closing comes after its `on_error`.
        const FAILED = 1 << 5;
        /// Closes as soon as everything is sent.
        const FINISHING = 1 << 6;
        /// Stands in the deferred queue.
        const DEFERRED = 1 << 7;
        /// `on_drain` is due.
        const DRAINED = 1 << 8;
        /// Sending used up its share of the turn and is to go on in the next.
        const SEND_ON = 1 << 9;
        /// The handler says where received bytes go.
        const HAS_MEMORY = 1 << 10;
        /// `on_error` is still to come.
        const FAILURE_DUE = 1 << 11;
        /// A handler was attached once.
        const ATTACHED = 1 << 12;
        /// `shutdown` itself was asked for, not only the end that `finish` brings.
        const HALF_CLOSE = 1 << 13;
        /// Carries bytes in one direction only: the other one has ended from the start.
        const ONE_WAY = 1 << 14;
        /// Finishing, and then waits for the peer's end: what comes is thrown away.
        const LINGERS = 1 << 15;
    }
}

pub(crate) struct StreamState {
    pub source: Source,
    pub(super) status: Status,
    kind: Kind,
    /// Out while it runs.
    pub(super) handler: Option<Box<dyn StreamHandler>>,
    pub(super) writes: Option<Box<Writes>>,
    /// Nanoseconds; 0: none.
    pub(super) read_idle: u64,
    pub(super) write_stall: u64,
    /// When something was last received.
    pub(super) last_read: u64,
}

impl AsMut<Source> for StreamState {
    #[inline]
    fn as_mut(&mut self) -> &mut Source {
        &mut self.source
    }
}

impl StreamState {
    /// `kind`: what carries it.
    pub fn new(source: Source, kind: Kind) -> StreamState {
        StreamState {
            source,
            status: Status::empty(),
            kind,
            handler: None,
            writes: None,
            read_idle: 0,
            write_stall: 0,
            last_read: 0,
        }
    }

    /// A stream that only reads or only writes: what it cannot do has ended already.
    #[cfg_attr(
        not(all(unix, any(feature = "local", feature = "tty"))),
        allow(dead_code)
    )]
    pub fn limit_to(&mut self, reads: bool, writes: bool) {
        if !reads {
            self.status.insert(Status::ENDED | Status::ONE_WAY);
        }
        if !writes {
            let over = Status::SHUTTING | Status::SHUT;
            self.status.insert(over | Status::ONE_WAY);
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn is_attached(&self) -> bool {
        self.status.contains(Status::ATTACHED)
    }

    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code))]
    pub fn has_failed(&self) -> bool {
        self.status.contains(Status::FAILED)
    }

    /// Whether it throws away what comes.
    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code))]
    pub fn lingers(&self) -> bool {
        self.status.contains(Status::LINGERS)
    }

    pub fn is_connecting(&self) -> bool {
        self.status.contains(Status::CONNECTING)
    }

    pub fn begin_connecting(&mut self) {
        self.status.insert(Status::CONNECTING);
    }

    pub fn into_final_callbacks(self) -> (Option<Box<Writes>>, Option<Box<dyn StreamHandler>>) {
        (self.writes, self.handler)
    }

    /// Whether everything is sent that is to be, and the peer's end not awaited.
    pub(super) fn is_finished(&self) -> bool {
        self.status.contains(Status::FINISHING | Status::SHUT)
            && self.status & (Status::LINGERS | Status::ENDED) != Status::LINGERS
    }

    pub(super) fn writes(&mut self) -> &mut Writes {
        self.writes.get_or_insert_with(|| Box::new(Writes::new()))
    }

    pub(super) fn marks(&self) -> Watermarks {
        self.writes
            .as_ref()
            .map_or(WATERMARKS, |writes| writes.marks)
    }

    pub fn queued(&self) -> usize {
        self.writes.as_ref().map_or(0, |writes| writes.queued())
    }

    /// Whether files wait to be sent, whose bytes are not among those queued.
    pub(super) fn sends_files(&self) -> bool {
        #[cfg(feature = "fs")]
        return self.writes.as_ref().is_some_and(|it| it.files() > 0);
        #[cfg(not(feature = "fs"))]
        false
    }

    /// What was sent was not taken after all: it comes before everything that is queued.
    pub(super) fn take_back(&mut self, rest: Vec<u8>) {
        let writes = self.writes();
        if !writes.is_waiting() {
            writes.last_progress = 0;
        }
        writes.push_front(rest);
        writes.note_level();
    }

    /// Whether nothing stands between a write and the kernel: nothing queued, no bounds but those that all
    /// streams have at first.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        let obstacles = Status::CONNECTING | Status::FAILED | Status::SHUTTING;
        self.writes.is_none() && !self.status.intersects(obstacles)
    }

    /// Whether a write must stand in line.
    pub(super) fn must_queue(&self) -> bool {
        self.is_connecting()
            || self
                .writes
                .as_ref()
                .is_some_and(|writes| writes.is_waiting())
    }

    pub(super) fn flow(&self) -> Flow {
        match &self.writes {
            Some(writes) if writes.full => Flow::Full,
            _ => Flow::Ready,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.status
            .intersects(Status::CONNECTING | Status::READING | Status::DEFERRED)
            || self
                .writes
                .as_ref()
                .is_some_and(|writes| writes.is_waiting())
    }

    /// A queue that was needed for a while is not kept by a stream that is idle.
    pub(super) fn tidy(&mut self) {
        if self.writes.as_ref().is_some_and(|writes| writes.is_spare()) {
            self.writes = None;
        }
    }

    pub fn describe(&self, line: &mut String) {
        use std::fmt::Write;
        let _ = write!(
            line,
            " descriptor={:?} queued={}",
            self.source.descriptor(),
            self.queued()
        );
        for (flag, word) in [
            (Status::CONNECTING, " connecting"),
            (Status::ONE_WAY, " one-way"),
            (Status::READING, " reading"),
            (Status::ENDED, " ended"),
            (Status::SHUTTING, " shutting-down"),
            (Status::FAILED, " failed"),
        ] {
            if self.status.contains(flag) {
                line.push_str(word);
            }
        }
    }
}
