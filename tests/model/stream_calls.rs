//! What is asked of streams, and what each call must answer.

use std::sync::Arc;
use std::time::Duration;

use kolo::fs::SentFile;
use kolo::{Code, File, Flow, Kind, Loop, Payload, Stream};

use super::connections::{pattern, End, PIECE_MAX};
use super::local::release;
use super::streams::{Failure, Handler, Owned};
use super::world::{called, nanoseconds, Body, Callback, Handle, Token, World};

/// Lengths of writes: around the borders at which the library does something else.
pub fn length(number: u32) -> usize {
    let by = number as usize / 16;
    match number % 16 {
        0 => 0,
        1..=4 => 1 + by % 64,
        5 | 6 => by % 4096,
        7 => 4094 + by % 4,
        8 | 9 => 4096 + by % 16_000,
        10 => 65_534 + by % 4,
        11 | 12 => by * 16 % 100_000,
        13 => PIECE_MAX - by % 1000,
        _ => by % 2000,
    }
}

fn timeout(number: u32) -> Option<Duration> {
    match number % 6 {
        0 => None,
        1 => Some(Duration::ZERO),
        2 => Some(Duration::from_nanos(1 + u64::from(number))),
        3 | 4 => Some(Duration::from_nanos(u64::from(number) * 8)),
        _ => Some(Duration::from_secs(3600)),
    }
}

impl World {
    /// Looks whether a stream is still there, as the model says; how much it has queued.
    pub fn sync(&mut self, lp: &Loop, at: usize) -> Option<usize> {
        let got = self
            .stream_handle(at)
            .queued(lp)
            .map_err(|error| error.code());
        if !self.is_open(at) {
            self.check(got == Err(Code::EBADF), || {
                format!("closed #{at} has {got:?} queued")
            });
            return None;
        }
        let may_close = self.handles[at].may_close;
        let stream = self.stream(at);
        let (connection, side, connecting) = (stream.connection, stream.side, stream.connecting);
        let (failed, of_files) = (stream.failed.is_some(), stream.file_bytes());
        match got {
            Ok(queued) => {
                let most = self.net.all[connection].directions[side].under_way();
                let fits = if connecting && !failed {
                    queued == most - of_files
                } else {
                    queued <= most
                };
                self.check(fits, || {
                    format!("#{at} has {queued} bytes queued, {most} were written")
                });
                Some(queued)
            }
            Err(code) => {
                self.check(code == Code::EBADF && may_close, || {
                    format!("open #{at} says {code:?}")
                });
                self.stream_closed_by_loop(lp, at);
                None
            }
        }
    }

    /// A call that finds a broken connection before the model knows of it.
    pub fn finds_broken<T>(&mut self, lp: &Loop, at: usize, got: &kolo::Result<T>) {
        let says = got
            .as_ref()
            .is_err_and(|error| error.code() == Code::ENOTCONN);
        if says && self.is_breakable(lp, at) && self.stream(at).failed.is_none() {
            self.stream(at).failed = Some(Failure::Broken);
            self.stream(at).reading = false;
        }
    }

    pub fn refuses_writes(&mut self, at: usize, length: usize, queued: usize) -> Option<Code> {
        let stream = self.stream(at);
        if stream.failed.is_some() {
            Some(Code::ENOTCONN)
        } else if stream.shutting {
            Some(Code::EPIPE)
        } else {
            (length > stream.limit.saturating_sub(queued)).then_some(Code::ENOBUFS)
        }
    }

    /// After a write was taken: whether its answer is right.
    pub fn note_flow(&mut self, lp: &Loop, at: usize, flow: Flow, before: usize, exact: bool) {
        let now = nanoseconds(lp);
        let queued = self.sync(lp, at).unwrap_or(0);
        let breakable = self.is_breakable(lp, at);
        let stream = self.stream(at);
        // A file that waits is not among the bytes queued.
        if before == 0 && stream.file_bytes() == 0 {
            stream.stall_since = stream.stall_since.max(now);
        }
        stream.full |= flow == Flow::Full;
        if queued >= stream.high {
            self.is_full(at);
        }
        let stream = self.stream(at);
        let fits = match flow {
            Flow::Full => stream.maybe_full && (queued > stream.low || queued >= stream.high),
            Flow::Ready => !exact || queued < stream.high,
        };
        let marks = (stream.low, stream.high);
        self.check(fits || breakable, || {
            format!("#{at} says {flow:?} with {queued} bytes queued and the marks at {marks:?}")
        });
        if flow == Flow::Full {
            self.count("write queue full");
        }
    }

    pub fn write(&mut self, lp: &Loop, at: usize, length: usize) {
        let Some(before) = self.sync(lp, at) else {
            return;
        };
        let (start, serial) = (self.net.place(), self.next_serial());
        let got = self
            .stream_handle(at)
            .write(lp, &pattern()[start..start + length]);
        self.finds_broken(lp, at, &got);
        let expected = self.refuses_writes(at, length, before);
        let flow = self.outcome(&format!("#{at} write of {length}"), got, expected);
        if expected == Some(Code::ENOBUFS) {
            self.count("write refused");
        }
        if let Some(flow) = flow {
            let (connection, side) = (self.stream(at).connection, self.stream(at).side);
            self.net.all[connection].directions[side].push(serial, start, length);
            let gathers = self.callback.is_some();
            self.note_flow(lp, at, flow, before, !gathers);
        }
    }

    pub fn write_small(&mut self, lp: &Loop, at: usize, number: u32) {
        for turn in 0..2 + number % 20 {
            if self.is_open(at) && !self.is_over() {
                self.write(lp, at, 1 + (number / 16 + turn * 37) as usize % 300);
            }
        }
    }

    pub fn write_owned(&mut self, lp: &Loop, at: usize, length: usize, form: u32) {
        let Some(before) = self.sync(lp, at) else {
            return;
        };
        let (start, serial, token) = (self.net.place(), self.next_serial(), Token::new());
        let bytes = &pattern()[start..start + length];
        let done = move |lp: &Loop, _: Stream, outcome: kolo::Result<()>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                world.write_done(lp, at, serial, outcome);
            });
        };
        let stream = self.stream_handle(at);
        let mut shared = None;
        let got = match form % 5 {
            0 => stream.write_owned(lp, bytes.to_vec(), done),
            1 => stream.write_owned(lp, bytes, done),
            2 => {
                let memory: Arc<[u8]> = bytes.into();
                shared = Some(memory.clone());
                stream.write_owned(lp, memory, done)
            }
            3 => {
                // SAFETY: the pattern is never freed and never changes.
                let payload = unsafe { Payload::from_raw(bytes.as_ptr(), bytes.len()) };
                stream.write_owned(lp, payload, done)
            }
            _ => {
                let mut rest = bytes;
                let mut payloads = Vec::new();
                let pieces = [0, length / 3, form as usize % 100, length];
                for piece in pieces.iter().chain(&[0; 100][..form as usize % 101]) {
                    let (first, later) = rest.split_at((*piece).min(rest.len()));
                    payloads.push(first.into());
                    rest = later;
                }
                stream.write_owned_vectored(lp, payloads, done)
            }
        };
        self.finds_broken(lp, at, &got);
        let expected = self.refuses_writes(at, length, before);
        let taken = self.outcome(
            &format!("#{at} owned write {serial} of {length}"),
            got,
            expected,
        );
        if let Some((flow, id)) = taken {
            let (connection, side) = (self.stream(at).connection, self.stream(at).side);
            let direction = &mut self.net.all[connection].directions[side];
            direction.push(serial, start, length);
            let end = direction.accepted;
            self.stream(at).owned.push_back(Owned {
                serial,
                id,
                length,
                file: false,
                end,
                canceled: false,
                ended: false,
                shared,
            });
            self.note_flow(lp, at, flow, before, true);
        }
    }

    /// Sends a part of the file that holds the pattern.
    pub fn send_file(&mut self, lp: &Loop, at: usize, number: u32, length: usize) {
        let is_pattern =
            |handle: &Handle| matches!(&handle.body, Body::File(file) if file.is_pattern);
        if self.choose(number, is_pattern).is_none() {
            self.file_open(lp, 1);
        }
        let (Some(before), Some(file)) = (self.sync(lp, at), self.choose(number, is_pattern))
        else {
            return;
        };
        let (start, serial, token) = (self.net.place(), self.next_serial(), Token::new());
        let done = move |lp: &Loop, _: Stream, sent: SentFile| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                let whole = sent.length == length as u64;
                let fits = match sent.outcome {
                    Ok(()) => whole,
                    Err(_) => sent.length <= length as u64,
                };
                world.check(fits, || {
                    format!("of the {length} bytes of {serial} says {sent:?}")
                });
                world.write_done(lp, at, serial, sent.outcome);
            });
        };
        let handle = File::from_id(self.handles[file].id);
        let stream = self.stream_handle(at);
        let got = stream.send_file(lp, handle, start as u64, length as u64, done);
        self.finds_broken(lp, at, &got);
        // It counts for no bytes.
        let expected = self.refuses_writes(at, 0, before);
        let taken = self.outcome(
            &format!("#{at} sends {serial}, {length} of a file"),
            got,
            expected,
        );
        self.file(file).used = true;
        if let Some((flow, id)) = taken {
            let (connection, side) = (self.stream(at).connection, self.stream(at).side);
            let direction = &mut self.net.all[connection].directions[side];
            direction.push(serial, start, length);
            let end = direction.accepted;
            self.stream(at).owned.push_back(Owned {
                serial,
                id,
                length,
                file: true,
                end,
                canceled: false,
                ended: false,
                shared: None,
            });
            self.note_flow(lp, at, flow, before, false);
            self.count("file sent");
        }
    }

    pub fn cancel_write(&mut self, lp: &Loop, at: usize, number: u32) {
        if self.sync(lp, at).is_none() {
            return;
        }
        let handle = self.stream_handle(at);
        let stream = self.stream(at);
        let (connecting, connection, side) = (stream.connecting, stream.connection, stream.side);
        let count = stream.owned.len();
        if number.is_multiple_of(8) || count == 0 {
            let Some(id) = stream.ended_writes.last().copied() else {
                return;
            };
            let got = handle.cancel_write(lp, id);
            self.outcome("cancel_write of one that ended", got, Some(Code::ENOENT));
            return;
        }
        // Rather a late one, which may still be whole.
        let from = if number.is_multiple_of(2) {
            count / 2
        } else {
            0
        };
        let owned = &stream.owned[from + number as usize / 8 % (count - from)];
        let (serial, length, id) = (owned.serial, owned.length, owned.id);
        let (canceled, ended) = (owned.canceled, owned.ended);
        let got = handle.cancel_write(lp, id);
        self.record.steps += 1;
        let code = got.err().map(|error| error.code());
        self.note(|| format!("cancel_write {serial} -> {code:?}"));
        let fits = match code {
            None => !canceled && !ended,
            Some(Code::EBUSY) => !canceled && !ended && !connecting && length > 0,
            Some(Code::ENOENT) => canceled || ended || !connecting,
            _ => false,
        };
        self.check(fits, || {
            format!("cancel_write {serial} of #{at} gave {code:?}")
        });
        let name = match code {
            None => "write canceled",
            Some(Code::EBUSY) => "write too late to cancel",
            _ => "write to cancel had ended",
        };
        self.count(name);
        let found = self
            .stream(at)
            .owned
            .iter_mut()
            .find(|owned| owned.serial == serial);
        if let Some(owned) = found {
            owned.canceled |= code.is_none();
            owned.ended |= code == Some(Code::ENOENT) && !owned.canceled;
        }
        if code.is_none() {
            self.canceled_piece(connection, side, serial, length);
        }
    }

    pub fn shutdown(&mut self, lp: &Loop, at: usize) {
        if self.sync(lp, at).is_none() {
            return;
        }
        let token = Token::new();
        let got = self.stream_handle(at).shutdown(lp, move |lp, _, outcome| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                world.shutdown_done(lp, at, outcome)
            });
        });
        self.finds_broken(lp, at, &got);
        let stream = self.stream(at);
        let expected = if stream.failed.is_some() {
            Some(Code::ENOTCONN)
        } else {
            stream.shutting.then_some(Code::EALREADY)
        };
        if self
            .outcome(&format!("#{at} shutdown"), got, expected)
            .is_some()
        {
            let stream = self.stream(at);
            stream.shutting = true;
            stream.shutdown_owed = true;
            let (connection, side) = (stream.connection, stream.side);
            self.net.all[connection].directions[side].ending = true;
        }
    }

    /// Finishes it; with a number it lingers, for a time that depends on it.
    pub fn finish(&mut self, lp: &Loop, at: usize, lingers: Option<u32>) {
        if self.sync(lp, at).is_none() {
            return;
        }
        let linger = lingers.map(|number| match number % 8 {
            0 => Duration::ZERO,
            1 => Duration::from_secs(3600),
            _ => Duration::from_nanos(u64::from(number) * 10),
        });
        let got = match linger {
            Some(linger) => self.stream_handle(at).finish_lingering(lp, linger),
            None => self.stream_handle(at).finish(lp),
        };
        self.outcome(&format!("#{at} finish, lingers {linger:?}"), got, None);
        self.handles[at].may_close = true;
        let linger = linger.filter(|linger| !linger.is_zero());
        let until = linger.map(|linger| nanoseconds(lp) + linger.as_nanos() as u64);
        let stream = self.stream(at);
        (stream.shutting, stream.finishing) = (true, true);
        let lingered = stream.lingers_until.is_some();
        // An ordinary end cuts it short.
        stream.lingers_until = if lingered { until.or(Some(0)) } else { until };
        let (connection, side) = (stream.connection, stream.side);
        self.net.all[connection].directions[side].ending = true;
        if linger.is_some() {
            self.count("stream lingers");
            let stream = self.stream(at);
            let ends = stream.ended;
            stream.reading = false;
            self.net.all[connection].directions[1 - side].discarded |= !ends;
        }
    }

    pub fn fail(&mut self, lp: &Loop, at: usize, code: Code) {
        let Some(before) = self.sync(lp, at) else {
            return;
        };
        let got = self.stream_handle(at).fail(lp, code.into());
        self.outcome(&format!("#{at} fail with {code:?}"), got, None);
        let stream = self.stream(at);
        if stream.failed.is_none() {
            stream.failed = Some(Failure::Told(code));
        }
        stream.reading = false;
        stream.connecting = false;
        let (connection, side) = (stream.connection, stream.side);
        let of_files = self.stream(at).file_bytes();
        let direction = &mut self.net.all[connection].directions[side];
        direction.lost = direction.lost.max(before + of_files);
    }

    pub fn reset(&mut self, lp: &Loop, at: usize) {
        if self.sync(lp, at).is_some() {
            let got = self.stream_handle(at).reset(lp);
            self.outcome(&format!("#{at} reset"), got, None);
            self.stream_gone(at, usize::MAX);
        }
    }

    pub fn stream_close(&mut self, lp: &Loop, at: usize) {
        if let Some(before) = self.sync(lp, at) {
            let of_files = self.stream(at).file_bytes();
            let got = lp.close(self.handles[at].id);
            self.outcome(&format!("#{at} close"), got, None);
            self.stream_gone(at, before + of_files);
        }
    }

    /// A stream was closed by the user.
    fn stream_gone(&mut self, at: usize, lost: usize) {
        let (connection, side) = (self.stream(at).connection, self.stream(at).side);
        self.closed(at);
        self.end_gone(connection, side, lost);
    }

    pub fn read_stop(&mut self, lp: &Loop, at: usize) {
        if self.sync(lp, at).is_some() {
            let got = self.stream_handle(at).read_stop(lp);
            self.outcome(&format!("#{at} read_stop"), got, None);
            self.stream(at).reading = false;
        }
    }

    pub fn read_start(&mut self, lp: &Loop, at: usize) {
        if self.sync(lp, at).is_none() {
            return;
        }
        let got = self.stream_handle(at).read_start(lp);
        if !self.stream(at).ended && self.stream(at).lingers_until.is_none() {
            self.finds_broken(lp, at, &got);
        }
        let stream = self.stream(at);
        // One that lingers may have seen the end, and tells nobody.
        let lingers = stream.lingers_until.is_some() && got.is_err();
        let refuses = stream.ended || stream.failed.is_some() || lingers;
        let expected = refuses.then_some(Code::ENOTCONN);
        let started = self
            .outcome(&format!("#{at} read_start"), got, expected)
            .is_some();
        let now = nanoseconds(lp);
        let stream = self.stream(at);
        // One that lingers reads by itself, and tells nothing.
        if started && !stream.reading && stream.lingers_until.is_none() {
            stream.reading = true;
            stream.read_at(now);
        }
    }

    pub fn set_timeouts(&mut self, lp: &Loop, at: usize, read: u32, write: u32) {
        if self.sync(lp, at).is_none() {
            return;
        }
        let (read, write) = (timeout(read), timeout(write));
        let got = self.stream_handle(at).set_timeouts(lp, read, write);
        self.outcome(&format!("#{at} set_timeouts {read:?} {write:?}"), got, None);
        let now = nanoseconds(lp);
        let stream = self.stream(at);
        stream.read_idle = read.map_or(0, |limit| limit.as_nanos() as u64);
        stream.write_stall = write.map_or(0, |limit| limit.as_nanos() as u64);
        stream.read_at(now);
        stream.stall_since = now;
    }

    pub fn set_watermarks(&mut self, lp: &Loop, at: usize, number: u32) {
        if self.sync(lp, at).is_none() {
            return;
        }
        let (low, high, limit) = match number % 8 {
            0 => (2, 1, 1000),
            1 => (0, 0, 1000),
            2 => (0, 1, usize::MAX),
            3 => (0, 100, 5000),
            4 => (1000, 1000, 100_000),
            5 => (10_000, 50_000, 200_000),
            6 => (16 * 1024, 64 * 1024, 16 * 1024 * 1024),
            _ => (
                number as usize,
                number as usize * 4 + 1,
                number as usize * 50 + 1,
            ),
        };
        let invalid = low > high || high == 0;
        let got = self.stream_handle(at).set_watermarks(lp, low, high, limit);
        let expected = invalid.then_some(Code::EINVAL);
        self.outcome(&format!("#{at} set_watermarks {low} {high}"), got, expected);
        let queued = self.sync(lp, at).unwrap_or(0);
        if !invalid {
            let stream = self.stream(at);
            (stream.low, stream.high, stream.limit) = (low, high, limit);
            stream.low_max = stream.low_max.max(low);
            if queued >= high {
                self.is_full(at);
            }
        }
    }

    pub fn attach(&mut self, lp: &Loop, at: usize) {
        if self.sync(lp, at).is_none() {
            return;
        }
        let first = !self.stream(at).attached;
        let asks = matches!(self.callback, Some(Callback::Memory | Callback::Passed));
        let succeeds = asks && self.current == Some(at);
        let generation = self.stream(at).generation + 1;
        let handler = Handler::new(self, at, generation);
        let reads = handler.reads;
        let got = self.stream_handle(at).attach(lp, handler);
        self.outcome(&format!("#{at} attach, reads {reads}"), got, None);
        self.handles[at].handler_owed = true;
        let now = nanoseconds(lp);
        let stream = self.stream(at);
        stream.attached = true;
        stream.generation = generation;
        stream.succeeds = succeeds;
        if first && reads && stream.failed.is_none() && !stream.ended && !stream.reading {
            stream.reading = true;
            stream.read_at(now);
        }
    }

    pub fn release(&mut self, lp: &Loop, at: usize, then: u32) {
        if self.sync(lp, at).is_none() {
            return;
        }
        let kind = self.stream(at).kind;
        let got = release(lp, self.handles[at].id, kind);
        self.record.steps += 1;
        let code = got.as_ref().err().map(|error| error.code());
        self.note(|| format!("#{at} release -> {code:?}"));
        let stream = self.stream(at);
        let (connecting, failed) = (stream.connecting, stream.failed.is_some());
        let (connection, side) = (stream.connection, stream.side);
        // The shutdown of a pipe closes it.
        if kind == Kind::Pipe && side == 0 && stream.shutting && code == Some(Code::ENOTCONN) {
            return;
        }
        let Ok(raw) = got else {
            let queued = self.sync(lp, at);
            // The driver "uring" may have received what cannot be put back.
            let may_be_ahead = lp.driver_name() == "uring";
            let sends_files = self.stream(at).owned.iter().any(|owned| owned.file);
            let telling = self.callback == Some(Callback::Passed);
            let busy = connecting || queued != Some(0) || sends_files || may_be_ahead || telling;
            let busy = busy && code == Some(Code::EBUSY);
            self.check(busy, || {
                format!("release of #{at} gave {code:?} with {queued:?} queued")
            });
            return;
        };
        self.check(!connecting, || {
            format!("#{at} was released while it connects")
        });
        self.count("stream released");
        self.closed(at);
        let Some(raw) = raw else {
            return self.end_gone(connection, side, usize::MAX);
        };
        match then % 3 {
            0 => self.end_gone(connection, side, if failed { usize::MAX } else { 0 }),
            // What a failure dropped is missing from what was written.
            _ if failed || self.is_breakable(lp, at) => self.end_gone(connection, side, usize::MAX),
            1 => self.adopt_as(lp, connection, side, raw),
            _ => self.net.all[connection].ends[side] = End::Raw(raw),
        }
    }
}
