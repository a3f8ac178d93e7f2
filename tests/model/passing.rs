//! Descriptors that travel beside the bytes of a local stream: of a file, and of whole connections.
//!
//! They come in the order in which they were sent, and some may be missing: the system drops them when the receiver takes
//! none. Which one it is tells its number in the system (inode).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use kolo::{Code, Id, Kind, LocalStream, Loop, Pipe, Stream, TcpStream, WriteId};

use super::connections::{pattern, End, Raw};
use super::local::refuses_broken;
use super::requests::pattern_file;
use super::streams::{Handler, Owned};
use super::world::{called, Body, Callback, Handle, Token, World};

/// What was sent beside bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    inode: u64,
    /// The end of a connection, or the file that holds the pattern.
    end: Option<(usize, usize)>,
}

impl World {
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
        let file = Passed {
            inode: 0,
            end: None,
        };
        self.passing(at, (serial, id), (start, length), vec![file; count]);
        self.note_flow(lp, at, flow, before, true);
    }

    /// A write that passes something was taken.
    fn passing(
        &mut self,
        at: usize,
        (serial, id): (u64, WriteId),
        (start, length): (usize, usize),
        passed: Vec<Passed>,
    ) {
        let (connection, side) = (self.stream(at).connection, self.stream(at).side);
        let direction = &mut self.net.all[connection].directions[side];
        direction.push(serial, start, length);
        direction.passed.extend(passed);
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
    }

    /// Passes a whole connection, and closes the handle that had it here.
    pub fn pass_handle(&mut self, lp: &Loop, at: usize, number: u32) {
        // Local ones could be passed through themselves.
        let passes = |handle: &Handle| match &handle.body {
            Body::Stream(stream) => {
                let whole = !stream.connecting && stream.failed.is_none() && !stream.shutting;
                let reads = stream.kind == Kind::Pipe && stream.side == 1;
                stream.kind != Kind::Local && (whole || reads && stream.failed.is_none())
            }
            _ => false,
        };
        let chosen = self.choose(number | 1, passes);
        let (Some(other), Kind::Local) = (chosen, self.stream(at).kind) else {
            return;
        };
        let (Some(before), Some(_)) = (self.sync(lp, at), self.sync(lp, other)) else {
            return;
        };
        let broken = self.is_breakable(lp, other);
        let handle = self.handles[other].id;
        let Some(inode) = inode_of(lp, handle, self.stream(other).kind) else {
            return;
        };
        let (start, serial, token) = (self.net.place(), self.next_serial(), Token::new());
        let length = 1 + number as usize / 8 % 2000;
        let done = move |lp: &Loop, _: Stream, outcome: kolo::Result<()>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                world.write_done(lp, at, serial, outcome);
            });
        };
        let local = LocalStream::from_id(self.handles[at].id);
        let bytes = &pattern()[start..start + length];
        let got = local.send_handle(lp, handle, bytes, done);
        self.finds_broken(lp, at, &got);
        let queued = self.sync(lp, other);
        let stream = self.stream(other);
        let waits = queued != Some(0) || stream.is_owed();
        let code = got.as_ref().err().map(|error| error.code());
        let expected = match code {
            Some(Code::EBUSY) if waits => code,
            Some(Code::EINVAL | Code::ENOTCONN) if broken => code,
            _ => self.refuses_writes(at, length, before),
        };
        let call = format!("#{at} owned write {serial} of {length} passes #{other}");
        let Some((flow, id)) = self.outcome(&call, got, expected) else {
            return;
        };
        let (connection, side) = (self.stream(other).connection, self.stream(other).side);
        let end = Some((connection, side));
        self.passing(
            at,
            (serial, id),
            (start, length),
            vec![Passed { inode, end }],
        );
        self.note_flow(lp, at, flow, before, true);
        if self.is_open(other) {
            let got = lp.close(handle);
            self.outcome(&format!("close of #{other}, which was passed"), got, None);
            self.closed(other);
        }
        self.net.all[connection].ends[side] = End::Passed;
        // The driver "uring" may have received what nobody was told of.
        let ahead = lp.driver_name() == "uring";
        self.net.all[connection].directions[1 - side].discarded |= ahead;
        self.count("handle passed");
    }

    /// Descriptors that were passed to it and that it may still have.
    fn descriptors_at_most(&mut self, at: usize) -> usize {
        let (connection, side) = (self.stream(at).connection, self.stream(at).side);
        self.net.all[connection].directions[1 - side].passed.len()
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
        match kind.flatten() {
            Some(_) if number % 4 == 1 || number.is_multiple_of(3) => self.take_stream(lp, at),
            kind => {
                let got = local.take_descriptor(lp);
                if let Some(taken) = self.outcome("take_descriptor", got, expected) {
                    self.descriptor_taken(at, kind, taken);
                }
            }
        }
    }

    fn descriptor_taken(&mut self, at: usize, kind: Option<Kind>, taken: OwnedFd) {
        let inode = kind.and_then(|_| inode(taken.as_fd())).unwrap_or(0);
        let Some(Passed { end, .. }) = self.came(at, inode) else {
            return;
        };
        let raw = match kind {
            Some(Kind::Tcp) => Some(Raw::Tcp(taken.into())),
            Some(Kind::Pipe) => Raw::pipe(taken),
            _ => None,
        };
        self.check(raw.is_some() == end.is_some(), || {
            format!("what is {end:?} came as a {kind:?}")
        });
        if let (Some((connection, side)), Some(raw)) = (end, raw) {
            self.net.all[connection].ends[side] = End::Raw(raw);
            self.end_is_told_again(connection, side);
        }
    }

    /// Opens what waits first as the stream that it is.
    fn take_stream(&mut self, lp: &Loop, at: usize) {
        let new = self.handles.len();
        let handler = Handler::new(self, new, 0);
        let reads = handler.reads;
        let got = LocalStream::from_id(self.handles[at].id).take_stream(lp, handler);
        let code = got.as_ref().err().map(|error| error.code());
        // It is broken, and still waits. Which one it is, nobody can tell.
        let expected = match code {
            Some(code) if refuses_broken(code) => Some(code),
            _ => self.expected_of_opening(),
        };
        let Some(stream) = self.outcome("take_stream", got, expected) else {
            return;
        };
        let kind = lp.kind(stream.id()).unwrap_or(Kind::Local);
        let inode = inode_of(lp, stream.id(), kind).unwrap_or(0);
        let end = self.came(at, inode).and_then(|passed| passed.end);
        let Some((connection, side)) = end else {
            self.check(false, || format!("a file came as a {kind:?}"));
            return;
        };
        self.end_is_told_again(connection, side);
        self.stream_made(lp, stream.id(), kind, connection, side, reads);
        self.count("handle taken");
    }

    fn end_is_told_again(&mut self, connection: usize, side: usize) {
        let connection = &mut self.net.all[connection];
        if !connection.one_way {
            connection.directions[1 - side].ended = false;
        }
    }

    /// What has come must have been sent, after what came before it.
    fn came(&mut self, at: usize, inode: u64) -> Option<Passed> {
        let (connection, side) = (self.stream(at).connection, self.stream(at).side);
        let passed = &mut self.net.all[connection].directions[1 - side].passed;
        let found = passed.iter().position(|passed| passed.inode == inode);
        let came = found.and_then(|found| passed.drain(..=found).next_back());
        self.check(came.is_some(), || {
            format!("#{at} takes descriptor {inode}, which was not passed to it, or earlier")
        });
        came
    }
}

fn inode(descriptor: BorrowedFd<'_>) -> Option<u64> {
    let file = File::from(descriptor.try_clone_to_owned().ok()?);
    Some(file.metadata().ok()?.ino())
}

/// The number that the system has for what carries a stream.
fn inode_of(lp: &Loop, id: Id, kind: Kind) -> Option<u64> {
    let raw: RawFd = match kind {
        Kind::Pipe => Pipe::from_id(id).raw_descriptor(lp).ok()?,
        _ => TcpStream::from_id(id).raw_socket(lp).ok()?,
    };
    // SAFETY: the stream is open, and nothing is done with it meanwhile.
    inode(unsafe { BorrowedFd::borrow_raw(raw) })
}
