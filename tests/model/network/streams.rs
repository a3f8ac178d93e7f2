//! Connections between hosts: what streams and listeners may say, and when.

use std::collections::VecDeque;

use kolo::{
    Code, Error, ListenerHandler, Loop, StreamHandler, TcpListener, TcpStream, Timeout, WriteId,
};

use super::operations::HANDLES_MAX;
use super::{called, Body, Connection, End, Life, Network, Token, CONNECT_MAX, SECOND};
use crate::model::connections::Direction;

/// A write whose completion is still to come.
pub struct Owned {
    pub serial: u64,
    pub id: WriteId,
    pub length: usize,
    pub canceled: bool,
    /// `cancel_write` said that it has ended.
    pub ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// By `fail`.
    Told(Code),
    /// The connection broke, as some call showed.
    Broken,
}

/// What a stream is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A listener that was there.
    Listener,
    /// Nobody listens there, or the host is not there.
    Nobody,
    /// Several addresses, of which any may answer.
    Name,
}

pub struct Stream {
    pub connection: usize,
    pub side: usize,
    pub goal: Goal,
    pub connecting: bool,
    pub began: u64,
    /// The timeout of its connect.
    pub timeout: Option<u64>,
    pub attached: bool,
    pub reading: bool,
    pub ended: bool,
    pub failed: Option<Failure>,
    pub shutting: bool,
    pub finishing: bool,
    /// Not before this may it close because it has lingered.
    pub lingers_until: Option<u64>,
    pub owned: VecDeque<Owned>,
    pub shutdown_owed: bool,
    /// A write has ended with an error, so that the later ones must too.
    pub writes_failed: bool,
    pub read_idle: u64,
    pub write_stall: u64,
    /// When something came last, or reading began.
    pub last_read: u64,
    pub stall_since: u64,
    /// When bytes came last, or it opened: then the peer was there.
    pub heard: u64,
    /// When it was last told to read.
    pub reads_since: u64,
    /// It was written to so that it notices that its peer has gone.
    pub probed: bool,
}

impl Stream {
    pub fn new(connection: usize, side: usize, goal: Goal, now: u64) -> Stream {
        Stream {
            connection,
            side,
            goal,
            connecting: false,
            began: now,
            timeout: None,
            attached: false,
            reading: false,
            ended: false,
            failed: None,
            shutting: false,
            finishing: false,
            lingers_until: None,
            owned: VecDeque::new(),
            shutdown_owed: false,
            writes_failed: false,
            read_idle: 0,
            write_stall: 0,
            last_read: now,
            stall_since: now,
            heard: now,
            reads_since: now,
            probed: false,
        }
    }

    pub fn is_owed(&self) -> bool {
        !self.owned.is_empty() || self.shutdown_owed
    }

    /// When it has been connected, or was told that it is not.
    pub fn connects_by(&self) -> Option<u64> {
        // Of several addresses one may be tried after the other.
        let most = if self.goal == Goal::Name {
            3 * CONNECT_MAX
        } else {
            CONNECT_MAX
        };
        let limit = self.timeout.unwrap_or(most).min(most);
        let by = self.began.saturating_add(limit);
        (self.connecting && self.failed.is_none()).then_some(by)
    }
}

pub struct Handler {
    pub at: usize,
    pub reads: bool,
    pub _token: Token,
}

impl StreamHandler for Handler {
    fn on_open(&mut self, lp: &Loop, _stream: kolo::Stream) {
        let at = self.at;
        called(
            lp,
            "on_open",
            at,
            |network| network.stream_opens(lp, at),
            |_| (),
        );
    }

    fn on_data(&mut self, lp: &Loop, _stream: kolo::Stream, data: &[u8]) {
        let at = self.at;
        called(
            lp,
            "on_data",
            at,
            |network| network.stream_receives(at, data),
            |_| (),
        );
    }

    fn on_end(&mut self, lp: &Loop, _stream: kolo::Stream) {
        let at = self.at;
        called(lp, "on_end", at, |network| network.stream_ends(at), |_| ());
    }

    fn on_timeout(&mut self, lp: &Loop, _stream: kolo::Stream, which: Timeout) {
        let at = self.at;
        called(
            lp,
            "on_timeout",
            at,
            |network| network.stream_times_out(at, which),
            |_| (),
        );
    }

    fn on_error(&mut self, lp: &Loop, _stream: kolo::Stream, error: Error) {
        let at = self.at;
        called(
            lp,
            "on_error",
            at,
            |network| network.stream_fails(at, error.code()),
            |network| {
                // It closes when this returns, if it was not closed in it.
                if network.is_open(at) {
                    network.stream_closed_by_loop(at);
                }
            },
        );
    }

    fn on_close(&mut self, lp: &Loop, _stream: kolo::Stream) {
        let at = self.at;
        called(
            lp,
            "on_close",
            at,
            |network| {
                if network.is_open(at) && network.handles[at].may_close {
                    network.stream_closed_by_loop(at);
                }
                network.last_heard(at);
            },
            |_| (),
        );
    }

    fn reads(&self) -> bool {
        self.reads
    }
}

pub struct Accepts {
    pub at: usize,
    pub _token: Token,
}

impl ListenerHandler for Accepts {
    fn on_accept(&mut self, lp: &Loop, _listener: TcpListener, tcp: TcpStream) {
        let (at, mut accepted) = (self.at, None);
        called(
            lp,
            "on_accept",
            at,
            |network| accepted = network.accepted(lp, at, tcp),
            |_| (),
        );
        // One that has no handler now is closed.
        if let Some(stream) = accepted {
            super::network(|network| network.accept_ended(stream));
        }
    }

    fn on_error(&mut self, lp: &Loop, _listener: TcpListener, error: Error) {
        let at = self.at;
        let check = |network: &mut Network| {
            let fits =
                error.code() == Code::EMFILE && network.hosts[network.handles[at].host].limited;
            network.check(fits, || format!("listener #{at} failed: {error}"));
        };
        called(lp, "on_error of a listener", at, check, |_| ());
    }

    fn on_close(&mut self, lp: &Loop, _listener: TcpListener) {
        let at = self.at;
        called(lp, "on_close", at, |network| network.last_heard(at), |_| ());
    }
}

impl Network {
    pub fn stream(&mut self, at: usize) -> &mut Stream {
        match &mut self.handles[at].body {
            Body::Stream(stream) => stream,
            _ => unreachable!("#{at} is a stream"),
        }
    }

    pub fn stream_handle(&self, at: usize) -> kolo::Stream {
        kolo::Stream::from_id(self.handles[at].id)
    }

    pub fn connection_new(&mut self, ends: [End; 2], listener: Option<usize>) -> usize {
        self.connections.push(Connection {
            ends,
            directions: Default::default(),
            discards: [false; 2],
            listener,
            unknown: false,
        });
        self.connections.len() - 1
    }

    pub fn direction(&mut self, at: usize) -> &mut Direction {
        let (connection, side) = (self.stream(at).connection, self.stream(at).side);
        &mut self.connections[connection].directions[side]
    }

    /// Looks whether a stream is still there, as the model says; how much it has queued.
    pub fn sync(&mut self, at: usize) -> Option<usize> {
        let lp = self.hosts[self.handles[at].host].lp.clone()?;
        let got = self
            .stream_handle(at)
            .queued(&lp)
            .map_err(|error| error.code());
        if !self.is_open(at) {
            self.check(got == Err(Code::EBADF), || {
                format!("closed #{at} has {got:?} queued")
            });
            return None;
        }
        match got {
            Ok(queued) => {
                let most = self.direction(at).under_way();
                self.check(queued <= most, || {
                    format!("#{at} has {queued} bytes queued, of {most} at most")
                });
                Some(queued)
            }
            Err(code) => {
                let may_close = self.handles[at].may_close;
                self.check(code == Code::EBADF && may_close, || {
                    format!("open #{at} says {code:?}")
                });
                self.stream_closed_by_loop(at);
                None
            }
        }
    }

    pub fn is_stream_breakable(&mut self, at: usize) -> bool {
        let (connection, side) = (self.stream(at).connection, self.stream(at).side);
        let stream = self.stream(at);
        let may_not_connect =
            stream.connecting && (stream.timeout.is_some() || stream.goal != Goal::Listener);
        may_not_connect || self.faults.refusals || self.is_breakable(connection, side)
    }

    /// A stream that was finished, or that failed, is closed by the loop.
    pub fn stream_closed_by_loop(&mut self, at: usize) {
        self.record.note(|| format!("#{at} was closed by the loop"));
        let now = self.now();
        let stream = self.stream(at);
        let (connection, side, until) = (stream.connection, stream.side, stream.lingers_until);
        let failed = stream.failed.is_some();
        self.closed(at);
        self.end_gone(connection, side, 0);
        let broken = self.is_breakable(connection, side) || failed;
        let peer_ended = self.connections[connection].directions[1 - side].ending;
        let fits = until.is_none_or(|until| until <= now || peer_ended || broken);
        self.check(fits, || {
            format!("#{at} closes at {now}, lingers until {until:?}, and its peer has not ended")
        });
        if broken {
            self.end_gone(connection, side, usize::MAX);
        }
    }

    fn stream_opens(&mut self, lp: &Loop, at: usize) {
        let now = self.now();
        let stream = self.stream(at);
        let fits = stream.connecting && stream.failed.is_none() && stream.goal != Goal::Nobody;
        stream.connecting = false;
        (stream.last_read, stream.stall_since, stream.heard) = (now, now, now);
        let named = stream.goal == Goal::Name;
        self.check(fits, || format!("#{at} opens and was not connecting"));
        if named {
            self.name_answered(lp, at);
        }
    }

    /// Which of several addresses it was: another end may have been accepted there.
    fn name_answered(&mut self, lp: &Loop, at: usize) {
        let tcp = TcpStream::from_id(self.handles[at].id);
        let (Ok(to), Ok(from)) = (tcp.peer_address(lp), tcp.local_address(lp)) else {
            return;
        };
        let own = self.stream(at).connection;
        let Some(accepted) = self.by_addresses.insert((to, from), own) else {
            self.connections[own].listener = self.listener_at(to);
            if self.connections[own].listener.is_none() {
                // It has answered, and gone.
                self.end_gone(own, 1, usize::MAX);
            }
            return;
        };
        self.connections[own].ends[1] = self.connections[accepted].ends[1];
        let theirs = std::mem::take(&mut self.connections[accepted].directions[1]);
        self.connections[own].directions[1] = theirs;
        self.connections[own].discards = self.connections[accepted].discards;
        self.connections[accepted].ends[1] = End::Gone;
        for handle in &mut self.handles {
            if let Body::Stream(stream) = &mut handle.body {
                if stream.connection == accepted {
                    stream.connection = own;
                }
            }
        }
    }

    pub fn listener_at(&self, address: std::net::SocketAddr) -> Option<usize> {
        self.handles.iter().position(|handle| {
            let Body::Listener(listener) = &handle.body else {
                return false;
            };
            handle.life == Life::Open && listener.address == address
        })
    }

    fn may_read(&mut self, at: usize) {
        let stream = self.stream(at);
        let fits = stream.reading
            && stream.attached
            && !stream.connecting
            && !stream.ended
            && stream.failed.is_none();
        let (reading, ended, failed) = (stream.reading, stream.ended, stream.failed);
        self.check(fits, || {
            format!("#{at} receives: reading {reading}, ended {ended}, failed {failed:?}")
        });
    }

    fn stream_receives(&mut self, at: usize, bytes: &[u8]) {
        self.may_read(at);
        let now = self.now();
        let stream = self.stream(at);
        stream.last_read = now;
        if now > stream.reads_since + SECOND {
            stream.heard = now; // it did not wait to be read
        }
        let (connection, side) = (stream.connection, stream.side);
        self.record.note(|| format!("{} bytes", bytes.len()));
        if self.connections[connection].unknown {
            return;
        }
        let direction = &mut self.connections[connection].directions[1 - side];
        let (place, ended) = (direction.received, direction.ended);
        let fits = direction.receive(bytes) && !ended && !bytes.is_empty();
        self.check(fits, || {
            let length = bytes.len();
            format!("#{at} receives {length} bytes at {place} that are not what was sent; ended {ended}")
        });
    }

    fn stream_ends(&mut self, at: usize) {
        self.may_read(at);
        let stream = self.stream(at);
        (stream.ended, stream.reading) = (true, false);
        let (connection, side) = (stream.connection, stream.side);
        if self.connections[connection].unknown {
            return;
        }
        let direction = &mut self.connections[connection].directions[1 - side];
        direction.ended = true;
        let (ending, missing, lost) = (direction.ending, direction.under_way(), direction.lost);
        self.check(ending && missing <= lost, || {
            format!(
                "#{at} ends {missing} bytes short, {lost} excused; its peer has ended: {ending}"
            )
        });
    }

    fn stream_times_out(&mut self, at: usize, which: Timeout) {
        let now = self.now();
        let queued = self.sync(at).unwrap_or(0);
        let stream = self.stream(at);
        let due = match which {
            Timeout::Read if stream.read_idle > 0 && stream.reading && !stream.connecting => {
                Some(stream.last_read + stream.read_idle)
            }
            Timeout::Write if stream.write_stall > 0 && (queued > 0 || stream.is_owed()) => {
                Some(stream.stall_since + stream.write_stall)
            }
            _ => None,
        };
        match which {
            Timeout::Read => stream.last_read = now,
            Timeout::Write => stream.stall_since = now,
        }
        let fits = due.is_some_and(|due| due <= now) && stream.failed.is_none();
        self.check(fits, || {
            format!("#{at} has a {which:?} timeout at {now}, due {due:?}")
        });
    }

    /// Whether there is a reason for the error that a stream hears.
    fn has_reason(&mut self, at: usize, code: Code) -> bool {
        let (now, give_up, there_and_back) = (self.now(), self.give_up, 2 * self.latency_max);
        let stream = self.stream(at);
        let (connecting, goal) = (stream.connecting, stream.goal);
        let (connection, side) = (stream.connection, stream.side);
        let waited = now - stream.began;
        let timed_out = stream.timeout.is_some_and(|timeout| timeout <= waited);
        let unheard = now + there_and_back >= stream.heard + give_up;
        let peer_gone = self.is_breakable(connection, side);
        // Those for whom there is no room wait unheard.
        let crowded = self.connections[connection].listener.is_some_and(|at| {
            matches!(&self.handles[at].body, Body::Listener(listener) if listener.backlog < HANDLES_MAX)
        });
        match code {
            Code::ETIMEDOUT if connecting => {
                let systems = goal != Goal::Listener || self.faults.losses || crowded;
                timed_out || systems && waited >= CONNECT_MAX
            }
            Code::ETIMEDOUT => unheard && self.faults.losses,
            Code::ECONNREFUSED => {
                connecting && (goal != Goal::Listener || self.faults.refusals || peer_gone)
            }
            // Also when it was connected, and it was not told yet.
            Code::ECONNRESET | Code::EPIPE => peer_gone,
            Code::EMFILE => connecting && goal == Goal::Name,
            _ => false,
        }
    }

    fn stream_fails(&mut self, at: usize, code: Code) {
        self.record.note(|| format!("{code:?}"));
        let has_reason = self.has_reason(at, code);
        let stream = self.stream(at);
        let failed = stream.failed;
        let fits = match failed {
            Some(Failure::Told(told)) => code == told || has_reason,
            _ => has_reason,
        };
        stream.failed = Some(Failure::Told(code));
        (stream.reading, stream.connecting) = (false, false);
        self.check(fits, || {
            format!("#{at} fails with {code:?}, and the model has {failed:?}")
        });
        self.direction(at).lost = usize::MAX;
    }

    pub fn write_done(&mut self, at: usize, serial: u64, outcome: kolo::Result<()>) {
        let open = self.sync(at).is_some();
        let breakable = self.is_stream_breakable(at);
        let stream = self.stream(at);
        let found = stream.owned.iter().position(|owned| owned.serial == serial);
        let earlier = stream.owned.iter().find(|owned| !owned.canceled);
        let in_order = earlier.is_none_or(|owned| owned.serial == serial);
        let Some(owned) = found.and_then(|found| stream.owned.remove(found)) else {
            self.check(false, || format!("write {serial} of #{at} ends twice"));
            return;
        };
        let code = outcome.err().map(|error| error.code());
        let (failed, writes_failed) = (stream.failed, stream.writes_failed);
        stream.writes_failed |= !owned.canceled && code.is_some();
        self.record.note(|| format!("write {serial} -> {code:?}"));
        let fits = match code {
            _ if owned.canceled => code == Some(Code::ECANCELED),
            None => !writes_failed,
            Some(_) if open || owned.ended => false,
            Some(Code::ECANCELED) => failed.is_none() || breakable,
            Some(code) => breakable || failed == Some(Failure::Told(code)),
        };
        self.check(fits && (owned.canceled || in_order), || {
            let Owned { canceled, ended, .. } = owned;
            format!("write {serial} of #{at} ends with {code:?}: in order {in_order}, canceled {canceled}, ended {ended}, open {open}, failed {failed:?}")
        });
        self.settle(at);
    }

    pub fn shutdown_done(&mut self, at: usize, outcome: kolo::Result<()>) {
        let queued = self.sync(at);
        let breakable = self.is_stream_breakable(at);
        let stream = self.stream(at);
        let owed = std::mem::replace(&mut stream.shutdown_owed, false);
        let (in_order, failed) = (stream.owned.is_empty(), stream.failed);
        let writes_failed = stream.writes_failed;
        let code = outcome.err().map(|error| error.code());
        self.record.note(|| format!("shutdown -> {code:?}"));
        let fits = match code {
            None => queued.unwrap_or(0) == 0 && !writes_failed,
            Some(Code::ECANCELED) => queued.is_none() && (failed.is_none() || breakable),
            Some(code) => breakable || failed == Some(Failure::Told(code)),
        };
        if code.is_some() && queued.is_some() && failed.is_none() {
            self.stream(at).failed = Some(Failure::Broken);
        }
        self.check(owed && in_order && fits, || {
            format!("shutdown of #{at} ends with {code:?}: owed {owed}, last {in_order}, queued {queued:?}, failed {failed:?}")
        });
        if code.is_none() {
            self.direction(at).shut = true;
        }
        self.settle(at);
    }

    fn accepted(&mut self, lp: &Loop, listener: usize, tcp: TcpStream) -> Option<usize> {
        let host = self.handles[listener].host;
        let Body::Listener(there) = &self.handles[listener].body else {
            return None;
        };
        let (paused, address, now) = (there.paused, there.address, self.now());
        self.check(!paused, || {
            format!("listener #{listener} accepts while it is paused")
        });
        // Unknown if it is reset already.
        let from = tcp.peer_address(lp).ok();
        let known = from.and_then(|from| self.by_addresses.get(&(address, from)).copied());
        let connection = known.unwrap_or_else(|| {
            let connection = self.connection_new([End::Gone, End::Pending], Some(listener));
            if let Some(from) = from {
                self.by_addresses.insert((address, from), connection);
            }
            let there = &mut self.connections[connection];
            there.unknown = true;
            (there.directions[0].ending, there.directions[0].lost) = (true, usize::MAX);
            connection
        });
        let expected = known.is_some() || from.is_none() || self.names_used();
        self.check(expected, || {
            format!("a connection from {from:?} that nobody made")
        });
        let twice = self.connections[connection].ends[1];
        self.check(!matches!(twice, End::Held(_)), || {
            format!("connection {connection} is accepted again, and is {twice:?}")
        });
        // Its SYN may have come to a later listener at the same address.
        let there = &mut self.connections[connection];
        there.listener = Some(listener);
        let sends = &mut there.directions[1];
        (sends.ending, sends.shut, sends.lost) = (false, false, 0);
        let stream = Stream::new(connection, 1, Goal::Listener, now);
        let at = self.add(host, tcp.id(), false, Body::Stream(Box::new(stream)));
        self.record
            .note(|| format!("#{at} is connection {connection}.1"));
        self.connections[connection].ends[1] = End::Held(at);
        self.current = Some(at);
        if self.random.percent(90) {
            let reads = self.random.percent(85);
            let handler = Handler {
                at,
                reads,
                _token: Token::new(),
            };
            let got = tcp.attach(lp, handler);
            self.outcome("attach", got, None);
            self.handles[at].owed = true;
            let stream = self.stream(at);
            (stream.attached, stream.reading) = (true, reads);
        }
        Some(at)
    }

    fn names_used(&self) -> bool {
        let named = |body: &Body| matches!(body, Body::Stream(stream) if stream.goal == Goal::Name);
        self.handles.iter().any(|handle| named(&handle.body))
    }

    fn accept_ended(&mut self, at: usize) {
        if self.is_open(at) && !self.stream(at).attached {
            let (connection, side) = (self.stream(at).connection, self.stream(at).side);
            self.closed(at);
            self.end_gone(connection, side, usize::MAX);
        }
    }
}
