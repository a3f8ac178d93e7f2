//! Connections that move, here from a loop to itself, and descriptors that travel beside bytes.

use std::os::fd::AsFd;

use kolo::{Code, Kind, LocalStream, Loop, Stream, TcpStream};

use super::connections::{pattern, End};
use super::listeners::Accepted;
use super::requests::pattern_file;
use super::streams::{Owned, StreamModel};
use super::world::{called, called_then, nanoseconds, Callback, Stage, Token, World};

/// What moves with a stream.
#[derive(Clone, Copy)]
struct Settings {
    marks: (usize, usize, usize),
    read_idle: u64,
    write_stall: u64,
}

impl World {
    pub fn move_to(&mut self, lp: &Loop, at: usize) {
        if self.stream(at).kind != Kind::Tcp || self.sync(lp, at).is_none() {
            return;
        }
        let stream = self.stream(at);
        let (connection, side) = (stream.connection, stream.side);
        let settings = Settings {
            marks: (stream.low, stream.high, stream.limit),
            read_idle: stream.read_idle,
            write_stall: stream.write_stall,
        };
        let (connecting, failed, shutting) =
            (stream.connecting, stream.failed.is_some(), stream.shutting);
        let sends_files = stream.owned.iter().any(|owned| owned.file);
        let (serial, token) = (self.next_serial(), Token::new());
        let tcp = TcpStream::from_id(self.handles[at].id);
        let got = tcp.move_to(lp, &self.remote, move |lp, arrived| {
            let _token = &token;
            arrive(lp, connection, side, settings, serial, arrived);
        });
        let code = got.as_ref().err().map(|error| error.code());
        self.note(|| format!("#{at} moves -> {code:?}"));
        self.record.steps += 1;
        let queued = if code.is_some() {
            self.sync(lp, at)
        } else {
            None
        };
        let full = self.tasks.posted.len() >= self.post_capacity;
        // The driver "uring" may have received what cannot be put back.
        let may_be_ahead = lp.driver_name() == "uring";
        let breakable = self.is_breakable(lp, at);
        let fits = match code {
            None => !connecting && !failed && !shutting && !full,
            Some(Code::ENOBUFS) => full,
            Some(Code::ECANCELED) => self.stage == Stage::Ending,
            Some(Code::ENOTCONN) => failed || breakable,
            Some(Code::EPIPE) => shutting,
            Some(Code::EBUSY) => connecting || queued != Some(0) || sends_files || may_be_ahead,
            _ => false,
        };
        self.check(fits, || format!("#{at} moves with {code:?}"));
        if code.is_none() {
            self.count("stream moved");
            let during = self.callback == Some(Callback::Posted);
            let phase = during.then_some(self.phases);
            self.tasks.posted.push_back((serial, phase));
            self.closed(at);
            self.net.all[connection].ends[side] = End::Moving;
        }
    }

    fn arrived(
        &mut self,
        lp: &Loop,
        connection: usize,
        side: usize,
        settings: Settings,
        tcp: TcpStream,
    ) -> usize {
        let at = self.add_stream(tcp.id(), Kind::Tcp, connection, side);
        self.note(|| format!("#{at} is connection {connection}.{side}"));
        let connection = &mut self.net.all[connection];
        connection.ends[side] = End::Kolo(at);
        // An end that was told is told again.
        connection.directions[1 - side].ended = false;
        // Shut down under another handle: writing finds it broken.
        let end_shut = connection.directions[side].ending;
        let now = nanoseconds(lp);
        let stream: &mut StreamModel = self.stream(at);
        stream.end_shut = end_shut;
        (stream.low, stream.high, stream.limit) = settings.marks;
        (stream.read_idle, stream.write_stall) = (settings.read_idle, settings.write_stall);
        stream.read_at(now);
        stream.stall_since = now;
        self.current = Some(at);
        if self.random.percent(85) {
            self.attach(lp, at);
        }
        at
    }

    pub fn pass_descriptors(&mut self, lp: &Loop, at: usize, number: u32) {
        if self.stream(at).kind != Kind::Local {
            return;
        }
        let Some(before) = self.sync(lp, at) else {
            return;
        };
        let (start, serial, token) = (self.net.place(), self.next_serial(), Token::new());
        let (length, count) = (number as usize / 8 % 2000, number as usize % 4);
        let done = move |lp: &Loop, _: Stream, outcome: kolo::Result<()>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                world.write_done(lp, at, serial, outcome);
            });
        };
        let descriptors = vec![pattern_file().as_fd(); count];
        let local = LocalStream::from_id(self.handles[at].id);
        let bytes = &pattern()[start..start + length];
        let got = local.write_with_descriptors(lp, bytes, &descriptors, done);
        self.finds_broken(lp, at, &got);
        let expected = match length == 0 || count == 0 {
            true => Some(Code::EINVAL),
            false => self.refuses_writes(at, length, before),
        };
        let call = format!("#{at} owned write {serial} of {length} with {count} descriptors");
        let Some((flow, id)) = self.outcome(&call, got, expected) else {
            return;
        };
        let (connection, side) = (self.stream(at).connection, self.stream(at).side);
        let direction = &mut self.net.all[connection].directions[side];
        direction.push(serial, start, length);
        direction.passed += count;
        let end = direction.accepted;
        self.stream(at).owned.push_back(Owned {
            serial,
            id,
            length,
            file: false,
            end,
            canceled: false,
            ended: false,
            shared: None,
        });
        self.note_flow(lp, at, flow, before, true);
    }

    /// Descriptors that were passed to it and that it may still have.
    fn descriptors_at_most(&mut self, at: usize) -> usize {
        let stream = self.stream(at);
        let (connection, side, taken) = (stream.connection, stream.side, stream.taken);
        let passed = self.net.all[connection].directions[1 - side].passed;
        passed.saturating_sub(taken)
    }

    pub fn descriptors_came(&mut self, lp: &Loop, at: usize, waiting: usize, lost: bool) {
        let most = self.descriptors_at_most(at);
        self.stream(at).bytes_follow = true;
        let local = LocalStream::from_id(self.handles[at].id);
        let got = self.outcome("descriptors_waiting", local.descriptors_waiting(lp), None);
        self.check(got == Some(waiting) && waiting > 0 && !lost, || {
            format!("#{at} is told of {waiting} descriptors, lost {lost}, and has {got:?}")
        });
        self.check(waiting <= most, || {
            format!("#{at} has {waiting} descriptors, of {most} at most")
        });
    }

    pub fn take_descriptors(&mut self, lp: &Loop, at: usize, number: u32) {
        if self.stream(at).kind != Kind::Local || self.sync(lp, at).is_none() {
            return;
        }
        let local = LocalStream::from_id(self.handles[at].id);
        if number.is_multiple_of(2) {
            let got = local.receive_descriptors(lp, !number.is_multiple_of(8));
            self.outcome("receive_descriptors", got, None);
            return;
        }
        let most = self.descriptors_at_most(at);
        let waiting = self.outcome("descriptors_waiting", local.descriptors_waiting(lp), None);
        let Some(waiting) = waiting else { return };
        self.check(waiting <= most, || {
            format!("#{at} has {waiting} descriptors, of {most} at most")
        });
        let expected = (waiting == 0).then_some(Code::ENOENT);
        let kind = self.outcome("next_kind", local.next_kind(lp), expected);
        self.check(kind.flatten().is_none(), || format!("a file is a {kind:?}"));
        let got = local.take_descriptor(lp);
        if self.outcome("take_descriptor", got, expected).is_some() {
            self.stream(at).taken += 1;
        }
    }
}

/// A connection arrives on the loop, or never will.
fn arrive(
    lp: &Loop,
    connection: usize,
    side: usize,
    settings: Settings,
    serial: u64,
    arrived: kolo::Result<TcpStream>,
) {
    let callback = match arrived {
        Ok(_) => Callback::Posted,
        Err(_) => Callback::Canceled,
    };
    let mut stream = Accepted::default();
    let run = |world: &mut World| {
        world.job(serial, Callback::Posted, arrived.is_ok());
        match arrived {
            Ok(tcp) => stream.0 = Some(world.arrived(lp, connection, side, settings, tcp)),
            Err(error) => {
                let ends = world.stage == Stage::Ending && error.code() == Code::ECANCELED;
                world.check(ends, || format!("a stream does not arrive: {error}"));
                world.end_gone(connection, side, usize::MAX);
            }
        }
    };
    called_then(lp, callback, None, run, |_| ());
}
