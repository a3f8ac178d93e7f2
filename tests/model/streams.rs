//! Streams: what the model knows of one, and what its callbacks may say.

use std::collections::VecDeque;
use std::sync::Arc;

use kolo::{Code, Error, Kind, Loop, Stream, StreamHandler, Timeout, WriteId};

use super::world::{
    called, called_then, monotonic, nanoseconds, Body, Callback, Life, Stage, Token, World,
};

/// An owned write whose completion is still to come.
pub struct Owned {
    pub serial: u64,
    pub id: WriteId,
    pub length: usize,
    /// It is sent from a file: it is not among the bytes queued.
    pub file: bool,
    /// Bytes written up to its end.
    pub end: usize,
    pub canceled: bool,
    /// `cancel_write` said that it has ended.
    pub ended: bool,
    /// Its memory, to see that nobody keeps it.
    pub shared: Option<Arc<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// By `fail`.
    Told(Code),
    /// The connection broke, as some call showed.
    Broken,
}

pub struct StreamModel {
    /// What carries it.
    pub kind: Kind,
    pub connection: usize,
    pub side: usize,
    pub connecting: bool,
    /// Not before this may the connect have timed out.
    pub connect_due: Option<u64>,
    pub attached: bool,
    pub generation: u32,
    pub reading: bool,
    pub ended: bool,
    pub failed: Option<Failure>,
    pub failure_told: bool,
    pub shutting: bool,
    pub finishing: bool,
    /// It lingers: not before this does it close because its time is over.
    pub lingers_until: Option<u64>,
    /// It was told of descriptors, and the bytes that they came with follow at once.
    pub bytes_follow: bool,
    /// Its handler was attached while another was asked for memory, or told of descriptors: what comes then is this
    /// one's, and not in its memory.
    pub succeeds: bool,
    /// Shut down under another handle.
    pub end_shut: bool,
    pub owned: VecDeque<Owned>,
    pub ended_writes: Vec<WriteId>,
    pub shutdown_owed: bool,
    /// A write has ended with an error, so that the later ones must too.
    pub writes_failed: bool,
    pub low: usize,
    pub high: usize,
    pub limit: usize,
    /// A write was answered with `Full`, and no `on_drain` came since.
    pub full: bool,
    /// The highest low watermark since then, and all bytes written when the queue was first full.
    pub low_max: usize,
    pub accepted_when_full: usize,
    /// The queue may have stood at the high watermark since the last `on_drain`.
    pub maybe_full: bool,
    pub read_idle: u64,
    /// When it began to be idle, at the earliest and at the latest.
    last_read: u64,
    last_read_late: u64,
    pub write_stall: u64,
    /// Since when the peer may have taken nothing, at the earliest.
    pub stall_since: u64,
    /// The handler that was last asked for memory.
    memory_of: Option<u32>,
}

impl StreamModel {
    pub fn new(kind: Kind, connection: usize, side: usize) -> StreamModel {
        StreamModel {
            kind,
            connection,
            side,
            connecting: false,
            connect_due: None,
            attached: false,
            generation: 0,
            reading: false,
            ended: false,
            failed: None,
            failure_told: false,
            shutting: false,
            finishing: false,
            lingers_until: None,
            bytes_follow: false,
            succeeds: false,
            end_shut: false,
            owned: VecDeque::new(),
            ended_writes: Vec::new(),
            shutdown_owed: false,
            writes_failed: false,
            low: 16 * 1024,
            high: 64 * 1024,
            limit: 16 * 1024 * 1024,
            full: false,
            low_max: 16 * 1024,
            accepted_when_full: 0,
            maybe_full: false,
            read_idle: 0,
            last_read: 0,
            last_read_late: 0,
            write_stall: 0,
            stall_since: 0,
            memory_of: None,
        }
    }

    /// Bytes of files that may still have to be sent.
    pub fn file_bytes(&self) -> usize {
        let files = self
            .owned
            .iter()
            .filter(|owned| owned.file && !owned.canceled);
        files.map(|owned| owned.length).sum()
    }

    /// Whether completions are still to come.
    pub fn is_owed(&self) -> bool {
        !self.owned.is_empty() || self.shutdown_owed
    }

    /// Something came, or reading began. The library notes the clock of the turn, or reads the system's.
    pub fn read_at(&mut self, now: u64) {
        self.last_read = now;
        self.last_read_late = monotonic(now);
    }

    /// It was asked for memory, and reads after that.
    fn reads_after_this(&mut self, now: u64) {
        self.last_read = now;
        self.last_read_late = u64::MAX;
    }

    /// A phase is over: what it was to read, it has.
    pub fn has_read(&mut self, now: u64) {
        if self.last_read_late == u64::MAX {
            self.last_read_late = monotonic(now);
        }
    }

    fn counts_idle(&self) -> bool {
        self.read_idle > 0 && self.reading && !self.connecting && self.failed.is_none()
    }

    /// Not before this may it time out.
    fn read_deadline(&self) -> Option<u64> {
        let deadline = self.last_read.saturating_add(self.read_idle);
        self.counts_idle().then_some(deadline)
    }

    /// By then it must have timed out, if nothing is on its way to it.
    pub fn read_limit(&self) -> Option<u64> {
        let limit = self.last_read_late.saturating_add(self.read_idle);
        self.counts_idle().then_some(limit)
    }
}

/// What a handler does besides what the program says.
pub struct Handler {
    at: usize,
    generation: u32,
    pub reads: bool,
    memory: Option<Vec<u8>>,
    finishes_at_end: bool,
    fails_at_timeout: bool,
    releases_at_descriptors: bool,
    takes_descriptors: bool,
    _token: Token,
}

impl Handler {
    pub fn new(world: &mut World, at: usize, generation: u32) -> Handler {
        Handler {
            at,
            generation,
            reads: world.random.percent(85),
            memory: world.random.percent(30).then(Vec::new),
            finishes_at_end: world.random.percent(40),
            fails_at_timeout: world.random.percent(20),
            releases_at_descriptors: world.random.percent(15),
            takes_descriptors: world.random.percent(50),
            _token: Token::new(),
        }
    }
}

impl StreamHandler for Handler {
    fn on_open(&mut self, lp: &Loop, _stream: Stream) {
        let (at, generation) = (self.at, self.generation);
        called(lp, Callback::Open, Some(at), |world| {
            world.is_current(at, generation);
            world.stream_opens(lp, at);
        });
    }

    fn on_data(&mut self, lp: &Loop, _stream: Stream, data: &[u8]) {
        let (at, generation) = (self.at, self.generation);
        called(lp, Callback::Data, Some(at), |world| {
            world.is_current(at, generation);
            // Attached in `on_descriptors`, it gets the bytes that came with them, which are there already.
            let stream = world.stream(at);
            let follows = std::mem::take(&mut stream.succeeds) || stream.bytes_follow;
            world.check(self.memory.is_none() || follows, || {
                format!("#{at} gets data beside its memory")
            });
            world.stream_receives(lp, at, data);
        });
    }

    fn on_end(&mut self, lp: &Loop, _stream: Stream) {
        let (at, generation) = (self.at, self.generation);
        called(lp, Callback::End, Some(at), |world| {
            world.is_current(at, generation);
            world.stream_ends(at);
            if self.finishes_at_end && !world.is_over() {
                world.finish(lp, at, None);
            }
        });
    }

    fn on_drain(&mut self, lp: &Loop, _stream: Stream) {
        let (at, generation) = (self.at, self.generation);
        called(lp, Callback::Drain, Some(at), |world| {
            world.is_current(at, generation);
            world.stream_drains(lp, at);
        });
    }

    fn on_timeout(&mut self, lp: &Loop, _stream: Stream, which: Timeout) {
        let (at, generation) = (self.at, self.generation);
        called(lp, Callback::Timeout, Some(at), |world| {
            world.is_current(at, generation);
            world.stream_times_out(lp, at, which);
            if self.fails_at_timeout && !world.is_over() {
                world.fail(lp, at, Code::ETIMEDOUT);
            }
        });
    }

    fn on_error(&mut self, lp: &Loop, _stream: Stream, error: Error) {
        let (at, generation) = (self.at, self.generation);
        called_then(
            lp,
            Callback::Error,
            Some(at),
            |world| {
                world.is_current(at, generation);
                world.stream_fails(lp, at, error);
            },
            |world| {
                // It closes when this returns, if it was not closed in it.
                if world.is_open(at) {
                    world.stream_closed_by_loop(lp, at);
                }
            },
        );
    }

    fn on_descriptors(&mut self, lp: &Loop, _stream: Stream, waiting: usize, lost: bool) {
        let (at, generation) = (self.at, self.generation);
        called(lp, Callback::Passed, Some(at), |world| {
            // The one that gave the memory hears of all that came into it, whoever is attached since.
            if world.stream(at).memory_of != Some(generation) {
                world.is_current(at, generation);
            }
            world.descriptors_came(lp, at, waiting, lost);
            for number in 0..waiting as u32 {
                if self.takes_descriptors && !world.is_over() {
                    world.take_descriptors(lp, at, 1 + 2 * number);
                }
            }
            if self.releases_at_descriptors && !world.is_over() {
                world.release(lp, at, 2);
            }
        });
    }

    fn on_close(&mut self, lp: &Loop, _stream: Stream) {
        let (at, generation) = (self.at, self.generation);
        called(lp, Callback::HandlerClose, Some(at), |world| {
            world.is_current(at, generation);
            world.handler_closed(lp, at);
        });
    }

    fn reads(&self) -> bool {
        self.reads
    }

    fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    fn memory(&mut self, lp: &Loop, _stream: Stream, suggested: usize) -> Option<&mut [u8]> {
        let (at, generation) = (self.at, self.generation);
        let room = called_then(
            lp,
            Callback::Memory,
            Some(at),
            |world| {
                world.is_current(at, generation);
                world.stream_may_read(at);
            },
            |world| world.memory_given(lp, at, generation, suggested),
        );
        let memory = self.memory.as_mut()?;
        memory.resize(room, 0);
        (room > 0).then_some(memory.as_mut_slice())
    }

    fn on_received(&mut self, lp: &Loop, _stream: Stream, length: usize) {
        let (at, generation) = (self.at, self.generation);
        called(lp, Callback::Received, Some(at), |world| {
            let asked = world.stream(at).memory_of.take();
            world.check(asked == Some(generation), || {
                format!("#{at} has received into memory that it did not give")
            });
            let memory = self.memory.as_deref().unwrap_or_default();
            world.check(length <= memory.len(), || {
                format!("#{at} received {length} bytes")
            });
            world.stream_receives(lp, at, &memory[..length.min(memory.len())]);
        });
    }
}

impl World {
    pub fn stream(&mut self, at: usize) -> &mut StreamModel {
        match &mut self.handles[at].body {
            Body::Stream(stream) => stream,
            _ => unreachable!("#{at} is a stream"),
        }
    }

    pub fn stream_handle(&self, at: usize) -> Stream {
        Stream::from_id(self.handles[at].id)
    }

    /// The stream may find itself broken: its peer is gone, or its connect has timed out, which
    /// it may tell later than what it has to tell besides.
    pub fn is_breakable(&mut self, lp: &Loop, at: usize) -> bool {
        let now = nanoseconds(lp);
        let stream = self.stream(at);
        let timed_out = stream.connecting && stream.connect_due.is_some_and(|due| due <= now);
        let (connection, side, end_shut) = (stream.connection, stream.side, stream.end_shut);
        timed_out || end_shut || self.is_end_breakable(lp, connection, side)
    }

    fn is_current(&mut self, at: usize, generation: u32) {
        let current = self.stream(at).generation;
        self.check(current == generation, || {
            format!("handler {generation} of #{at} is called, and {current} is attached")
        });
    }

    fn stream_opens(&mut self, lp: &Loop, at: usize) {
        let now = nanoseconds(lp);
        let stream = self.stream(at);
        let fits = stream.connecting && stream.failed.is_none();
        stream.connecting = false;
        stream.read_at(now);
        stream.stall_since = now;
        self.check(fits, || format!("#{at} opens and was not connecting"));
    }

    fn stream_may_read(&mut self, at: usize) {
        let stream = self.stream(at);
        let follows = std::mem::take(&mut stream.bytes_follow) && stream.failed.is_none();
        let fits = stream.reading
            && !stream.connecting
            && !stream.ended
            && stream.failed.is_none()
            && stream.attached;
        let (reading, ended, failed) = (stream.reading, stream.ended, stream.failed);
        self.check(fits || follows, || {
            format!("#{at} receives: reading {reading}, ended {ended}, failed {failed:?}")
        });
    }

    fn stream_receives(&mut self, lp: &Loop, at: usize, bytes: &[u8]) {
        self.stream_may_read(at);
        let now = nanoseconds(lp);
        let stream = self.stream(at);
        stream.read_at(now);
        let (connection, side) = (stream.connection, stream.side);
        self.note(|| format!("{} bytes", bytes.len()));
        self.check(!bytes.is_empty(), || format!("#{at} receives nothing"));
        self.receive(connection, side, bytes);
    }

    /// How much memory the handler gives; none stops reading.
    fn memory_given(&mut self, lp: &Loop, at: usize, generation: u32, suggested: usize) -> usize {
        let now = nanoseconds(lp);
        let kind = self.random.below(if self.calm { 9 } else { 10 });
        let room = match kind {
            0 | 1 => 1 + self.random.below(16) as usize,
            2 | 3 => 4096,
            4 | 5 => 100_000,
            6..9 => suggested,
            _ => 0,
        };
        let is_open = self.is_open(at);
        let stream = self.stream(at);
        stream.memory_of = Some(generation);
        if is_open {
            stream.reads_after_this(now);
            stream.reading &= room > 0;
        }
        room
    }

    fn stream_ends(&mut self, at: usize) {
        self.stream_may_read(at);
        let stream = self.stream(at);
        stream.ended = true;
        stream.reading = false;
        let (connection, side) = (stream.connection, stream.side);
        self.receive_end(connection, side);
    }

    /// The queue stands at the high watermark, or may.
    pub fn is_full(&mut self, at: usize) {
        let stream = self.stream(at);
        let (connection, side) = (stream.connection, stream.side);
        let accepted = self.net.all[connection].directions[side].accepted;
        let stream = self.stream(at);
        if !std::mem::replace(&mut stream.maybe_full, true) {
            (stream.accepted_when_full, stream.low_max) = (accepted, stream.low);
        }
    }

    fn stream_drains(&mut self, lp: &Loop, at: usize) {
        let queued = self.sync(lp, at).unwrap_or(0);
        let stream = self.stream(at);
        let (connection, side) = (stream.connection, stream.side);
        let (low, then) = (stream.low_max, stream.accepted_when_full);
        stream.low_max = stream.low;
        let since = self.net.all[connection].directions[side].accepted - then;
        // The driver "uring" may give back what had counted as sent.
        let low_once = queued <= low + since || lp.driver_name() == "uring";
        self.check(low_once, || {
            format!(
                "#{at} drains with {queued} queued, {since} written since it was full, low {low}"
            )
        });
        let stream = self.stream(at);
        let was_full = stream.maybe_full;
        stream.full = false;
        // While this was on its way the queue may have filled again.
        stream.maybe_full = false;
        if queued > stream.low {
            self.is_full(at);
        }
        self.check(was_full, || format!("#{at} drains and was not full"));
    }

    fn stream_times_out(&mut self, lp: &Loop, at: usize, which: Timeout) {
        let now = nanoseconds(lp);
        let queued = self.sync(lp, at).unwrap_or(0);
        let stream = self.stream(at);
        let failed = stream.failed.is_some();
        let due = match which {
            Timeout::Read => stream.read_deadline(),
            Timeout::Write => {
                let waits = stream.write_stall > 0 && (queued > 0 || !stream.owned.is_empty());
                waits.then(|| stream.stall_since + stream.write_stall)
            }
        };
        match which {
            Timeout::Read => stream.read_at(now),
            Timeout::Write => stream.stall_since = now,
        }
        let is_due = due.is_some_and(|due| due <= now);
        self.check(is_due && !failed, || {
            format!("#{at} has a {which:?} timeout at {now}, due {due:?}")
        });
    }

    fn stream_fails(&mut self, lp: &Loop, at: usize, error: Error) {
        let breakable = self.is_breakable(lp, at);
        let stream = self.stream(at);
        let code = error.code();
        let fits = match stream.failed {
            Some(Failure::Told(told)) => code == told || breakable,
            Some(Failure::Broken) => true,
            None => breakable,
        };
        let again = std::mem::replace(&mut stream.failure_told, true);
        let failed = stream.failed;
        if failed.is_none() || breakable {
            stream.failed = Some(Failure::Told(code));
        }
        stream.reading = false;
        stream.connecting = false;
        let (connection, side) = (stream.connection, stream.side);
        self.note(|| format!("{error}"));
        self.check(fits, || {
            format!("#{at} fails with {error:?}, and the model has {failed:?}")
        });
        self.check(!again, || format!("#{at} hears of its failure twice"));
        if failed.is_none() || breakable {
            self.net.all[connection].directions[side].lost = usize::MAX;
        }
    }

    /// A stream that was finished, or that failed, is closed by the loop.
    pub fn stream_closed_by_loop(&mut self, lp: &Loop, at: usize) {
        let stream = self.stream(at);
        let (connection, side, until) = (stream.connection, stream.side, stream.lingers_until);
        let failed = stream.failed.is_some();
        self.closed_by_loop(at);
        let broken = self.is_breakable(lp, at);
        let peer_ended = self.net.all[connection].directions[1 - side].ending;
        let now = nanoseconds(lp);
        let fits = until.is_none_or(|until| until <= now || peer_ended || broken || failed);
        self.check(fits, || {
            format!("#{at} closes at {now}, lingers until {until:?}, and its peer has not ended")
        });
        self.end_gone(connection, side, if broken { usize::MAX } else { 0 });
    }

    pub fn write_done(&mut self, lp: &Loop, at: usize, serial: u64, outcome: kolo::Result<()>) {
        let queued = self.sync(lp, at);
        let (open, breakable) = (queued.is_some(), self.is_breakable(lp, at));
        let stream = self.stream(at);
        let found = stream.owned.iter().position(|owned| owned.serial == serial);
        let earlier = stream.owned.iter().find(|owned| !owned.canceled);
        let in_order = earlier.is_none_or(|owned| owned.serial == serial);
        let Some(owned) = found.and_then(|found| stream.owned.remove(found)) else {
            self.check(false, || format!("write {serial} of #{at} ends twice"));
            return;
        };
        stream.ended_writes.push(owned.id);
        let code = outcome.err().map(|error| error.code());
        let (failed, writes_failed) = (stream.failed, stream.writes_failed);
        stream.writes_failed |= !owned.canceled && code.is_some();
        let (connection, side) = (stream.connection, stream.side);
        self.note(|| format!("write {serial} -> {code:?}"));
        let fits = match code {
            _ if owned.canceled => code == Some(Code::ECANCELED),
            None => !writes_failed,
            Some(_) if open || owned.ended => false,
            Some(Code::ECANCELED) => failed.is_none() || breakable,
            Some(code) => breakable || failed == Some(Failure::Told(code)),
        };
        self.check(fits, || {
            format!("write {serial} of #{at} ends with {code:?}: canceled {}, ended {}, open {open}, failed {failed:?}", owned.canceled, owned.ended)
        });
        self.check(owned.canceled || in_order, || {
            format!("write {serial} of #{at} ends before an earlier one")
        });
        if let (None, false, Some(queued)) = (code, owned.canceled, queued) {
            let later = self.net.all[connection].directions[side].accepted - owned.end;
            self.check(queued <= later, || {
                format!("write {serial} of #{at} ended, {queued} bytes wait, {later} came after it")
            });
        }
        let kept = owned
            .shared
            .as_ref()
            .is_some_and(|bytes| Arc::strong_count(bytes) > 1);
        self.check(!kept, || {
            format!("write {serial} of #{at} ended, its memory is kept")
        });
        self.settle_closing(at);
    }

    pub fn shutdown_done(&mut self, lp: &Loop, at: usize, outcome: kolo::Result<()>) {
        let queued = self.sync(lp, at);
        let breakable = self.is_breakable(lp, at);
        let stream = self.stream(at);
        let owed = std::mem::replace(&mut stream.shutdown_owed, false);
        let (in_order, failed) = (stream.owned.is_empty(), stream.failed);
        let writes_failed = stream.writes_failed;
        let (connection, side) = (stream.connection, stream.side);
        let code = outcome.err().map(|error| error.code());
        self.note(|| format!("shutdown -> {code:?}"));
        let fits = match code {
            None => queued.unwrap_or(0) == 0 && !writes_failed,
            Some(_) if queued.is_some() => breakable,
            Some(Code::ECANCELED) => failed.is_none() || breakable,
            Some(code) => breakable || failed == Some(Failure::Told(code)),
        };
        if code.is_some() && queued.is_some() && self.stream(at).failed.is_none() {
            self.stream(at).failed = Some(Failure::Broken);
        }
        self.check(owed && in_order && fits, || {
            format!("shutdown of #{at} ends with {code:?}: owed {owed}, last {in_order}, queued {queued:?}, failed {failed:?}")
        });
        if code.is_none() {
            self.net.all[connection].directions[side].shut = true;
        }
        self.settle_closing(at);
    }

    /// `on_close` of a handler.
    pub fn handler_closed(&mut self, lp: &Loop, at: usize) {
        if self.is_open(at) {
            let may = self.handles[at].may_close;
            self.check(may, || format!("#{at} closes and was not closed"));
            if may {
                self.stream_closed_by_loop(lp, at);
            }
        }
        let owed = std::mem::replace(&mut self.handles[at].handler_owed, false);
        let writes = self.owes_completions(at);
        self.check(owed && !writes, || {
            format!("on_close of #{at}: owed {owed}, completions still to come {writes}")
        });
        self.settle_closing(at);
    }

    /// The callback set with `Loop::on_close`.
    pub fn close_called(&mut self, at: usize, which: u64) {
        let completions = self.owes_completions(at);
        let handle = &mut self.handles[at];
        let owed = handle.callback_owed.take();
        let last = handle.life != Life::Open && !handle.handler_owed && !completions;
        self.check(owed == Some(which) && last, || {
            format!("on_close callback {which} of #{at}: owed {owed:?}, last {last}")
        });
        self.settle_closing(at);
    }

    /// Everything is closed: the loop is about to be dropped.
    pub fn loop_ends(&mut self) {
        self.stage = Stage::Ending;
        for at in 0..self.handles.len() {
            if self.is_open(at) {
                if let Body::Stream(stream) = &self.handles[at].body {
                    let (connection, side) = (stream.connection, stream.side);
                    self.end_gone(connection, side, usize::MAX);
                }
                self.closed(at);
            }
        }
    }
}
