//! What is asked of hosts and of their network, and what each call must answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use kolo::{Code, ConnectOptions, ListenOptions, Loop, TcpListener, TcpStream, Timer, UdpSocket};

use super::streams::{Accepts, Failure, Goal, Handler, Owned, Stream};
use super::{called, link, Body, End, Life, Listener, Network, Token, LATE};
use crate::model::connections::pattern;
use crate::model::program::{Operation, What};
use crate::model::stream_calls::length;

/// Of each kind, on each host.
pub const HANDLES_MAX: usize = 12;
const QUEUE_MAX: usize = 16 * 1024 * 1024;
/// Nobody listens at this port.
const NOBODY: u16 = 9;
/// No host has this address.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
/// Names, and what they stand for besides the first host: the last one for nothing that answers.
const NAMES: [&str; 3] = ["one", "behind-another", "nobody"];

/// From nanoseconds to minutes.
fn some_time(number: u32) -> Duration {
    match number % 5 {
        0 => Duration::ZERO,
        1 => Duration::from_micros(u64::from(number)),
        2 => Duration::from_millis(u64::from(number % 1000)),
        3 => Duration::from_secs(u64::from(number % 10)),
        _ => Duration::from_secs(u64::from(number % 200)),
    }
}

/// Mostly so long that they do not come all the time.
fn stream_timeout(number: u32) -> Duration {
    match number % 16 {
        0 => some_time(number / 16),
        1..5 => Duration::ZERO,
        _ => Duration::from_millis(500 + u64::from(number)),
    }
}

fn is_stream(body: &Body) -> bool {
    matches!(body, Body::Stream(_))
}

impl Network {
    pub fn operate(&mut self, lp: &Loop, host: usize, operation: &Operation) {
        let Operation { what, a, b, c } = *operation;
        self.record.quiet = self.calm;
        self.record.note(|| format!("host {host}: {operation:?}"));
        match what {
            What::TimerAfter => self.timer_after(lp, host, b),
            What::Listen => self.listen(lp, host, b),
            What::Connect | What::ConnectRefused | What::ConnectToNobody => {
                self.connect(lp, host, what, a, b);
            }
            What::ConnectByName => self.connect_by_name(lp, host, a, b),
            What::UdpOpen => self.socket_open(lp, host),
            What::Close | What::CloseSelf => {
                let chosen = match what {
                    What::Close => self.choose(host, a, |_| true),
                    _ => self.current.filter(|at| self.is_open(*at)),
                };
                if let Some(at) = chosen {
                    self.close(lp, at);
                }
            }
            What::Pause | What::Resume => {
                let listens = |body: &Body| matches!(body, Body::Listener(_));
                if let Some(at) = self.choose(host, a, listens) {
                    self.pause(lp, at, what == What::Pause);
                }
            }
            What::UdpSend | What::CancelSend | What::UdpReceiveStart | What::UdpReceiveStop => {
                let receives = |body: &Body| matches!(body, Body::Socket(_));
                if let Some(at) = self.choose(host, a, receives) {
                    self.operate_socket(lp, at, what, b, c);
                }
            }
            What::Cut | What::Heal | What::ResetAll | What::SetLink | What::LimitDescriptors => {
                if self.hostile {
                    self.harm(lp, host, what, a, b);
                }
            }
            _ => {
                if let Some(at) = self.choose(host, a, is_stream) {
                    if self.sync(at).is_some() {
                        self.operate_stream(lp, at, operation);
                    }
                }
            }
        }
    }

    fn operate_stream(&mut self, lp: &Loop, at: usize, operation: &Operation) {
        let Operation { what, b, c, .. } = *operation;
        match what {
            What::Write => self.write(lp, at, length(b) % 100_000),
            What::WriteOwned => self.write_owned(lp, at, length(b) % 100_000),
            What::CancelWrite => self.cancel_write(lp, at, b),
            What::Shutdown => self.shutdown(lp, at),
            What::Finish => self.finish(lp, at, None),
            What::FinishLingering => self.finish(lp, at, Some(some_time(b))),
            What::Fail => self.fail(lp, at),
            What::Reset => {
                let got = self.stream_handle(at).reset(lp);
                self.outcome(&format!("#{at} reset"), got, None);
                self.stream_gone(at, usize::MAX);
            }
            What::ReadStop => {
                let got = self.stream_handle(at).read_stop(lp);
                self.outcome(&format!("#{at} read_stop"), got, None);
                self.stream(at).reading = false;
            }
            What::ReadStart => self.read_start(lp, at),
            What::SetTimeouts => self.set_timeouts(lp, at, stream_timeout(b), stream_timeout(c)),
            _ => {}
        }
    }

    fn has_room(&self, host: usize, same: impl Fn(&Body) -> bool) -> bool {
        let open = self.handles.iter().filter(|handle| {
            handle.host == host && handle.life == Life::Open && same(&handle.body)
        });
        open.count() < HANDLES_MAX
    }

    fn timer_after(&mut self, lp: &Loop, host: usize, number: u32) {
        if !self.has_room(host, |body| matches!(body, Body::Timer { .. })) {
            return;
        }
        let (at, delay, token) = (self.handles.len(), some_time(number), Token::new());
        let due = self.now() + delay.as_nanos() as u64;
        let opened = Timer::after(lp, delay, move |lp| {
            let _token = &token;
            let fires = |network: &mut Network| {
                let now = network.now();
                network.closed(at);
                network.check((due..due + LATE).contains(&now), || {
                    format!("timer #{at} fires at {now}, due {due}")
                });
            };
            called(lp, "timer callback", at, fires, |_| ());
        });
        if let Some(timer) = self.outcome("Timer::after", opened, None) {
            self.add(host, timer.id(), false, Body::Timer { due });
        }
    }

    fn listen(&mut self, lp: &Loop, host: usize, number: u32) {
        if !self.has_room(host, |body| matches!(body, Body::Listener(_))) {
            return;
        }
        let options = ListenOptions {
            backlog: [1, 5, 1024, 1024][number as usize % 4],
            accepts_per_turn: if number.is_multiple_of(5) { 1 } else { 64 },
            ..Default::default()
        };
        // The port that names are looked up for is everybody's first.
        let first = SocketAddr::new(self.hosts[host].address, 80);
        let port = if self.listener_at(first).is_some() {
            0
        } else {
            80
        };
        let (at, address) = (self.handles.len(), SocketAddr::new(first.ip(), port));
        let handler = Accepts {
            at,
            _token: Token::new(),
        };
        let opened = TcpListener::listen_with(lp, address, &options, handler);
        let Some(listener) = self.opened(host, "TcpListener::listen_with", opened) else {
            return;
        };
        let address = self
            .outcome("address", listener.address(lp), None)
            .unwrap_or(address);
        let body = Body::Listener(Listener {
            address,
            paused: false,
            backlog: options.backlog as usize,
        });
        self.add(host, listener.id(), true, body);
    }

    pub fn pause(&mut self, lp: &Loop, at: usize, pauses: bool) {
        let listener = TcpListener::from_id(self.handles[at].id);
        let got = if pauses {
            listener.pause(lp)
        } else {
            listener.resume(lp)
        };
        self.outcome(if pauses { "pause" } else { "resume" }, got, None);
        if let Body::Listener(listener) = &mut self.handles[at].body {
            listener.paused = pauses;
        }
    }

    fn connect_options(number: u32) -> ConnectOptions {
        ConnectOptions {
            timeout: number
                .is_multiple_of(3)
                .then(|| some_time(number / 3).max(Duration::from_nanos(1))),
            ..Default::default()
        }
    }

    fn connecting(&mut self, goal: Goal, options: &ConnectOptions, reads: bool) -> Stream {
        let now = self.now();
        let mut stream = Stream::new(0, 0, goal, now);
        stream.timeout = options.timeout.map(|timeout| timeout.as_nanos() as u64);
        (stream.connecting, stream.attached, stream.reading) = (true, true, reads);
        stream
    }

    fn connect(&mut self, lp: &Loop, host: usize, what: What, number: u32, how: u32) {
        let listeners: Vec<usize> = (0..self.handles.len())
            .filter(|at| self.is_open(*at) && matches!(self.handles[*at].body, Body::Listener(_)))
            .collect();
        let chosen = listeners.get(number as usize % listeners.len().max(1));
        let other = self.hosts[number as usize % self.hosts.len()].address;
        let (address, goal) = match (what, chosen.map(|at| &self.handles[*at].body)) {
            (What::Connect, Some(Body::Listener(listener))) => (listener.address, Goal::Listener),
            (What::ConnectToNobody, _) => (SocketAddr::new(NOWHERE, NOBODY), Goal::Nobody),
            (What::ConnectRefused, _) => (SocketAddr::new(other, NOBODY), Goal::Nobody),
            _ => return,
        };
        let listener = chosen.copied().filter(|_| goal == Goal::Listener);
        if !self.has_room(host, is_stream) {
            return;
        }
        let (at, options) = (self.handles.len(), Network::connect_options(how));
        let reads = self.random.percent(85);
        let handler = Handler {
            at,
            reads,
            _token: Token::new(),
        };
        let opened = TcpStream::connect_with(lp, address, &options, handler);
        let Some(tcp) = self.opened(host, "TcpStream::connect_with", opened) else {
            return;
        };
        let mut stream = self.connecting(goal, &options, reads);
        stream.connection = self.connection_new([End::Held(at), End::Pending], listener);
        let connection = stream.connection;
        self.add(host, tcp.id(), true, Body::Stream(Box::new(stream)));
        self.record
            .note(|| format!("#{at} is connection {connection}.0, to {address}"));
        if listener.is_none() {
            self.end_gone(connection, 1, usize::MAX);
        }
        if let Some(local) = self.outcome("local_address", tcp.local_address(lp), None) {
            self.by_addresses.insert((address, local), connection);
        }
    }

    pub fn name_hosts(&mut self) {
        let hosts: Vec<IpAddr> = self.hosts.iter().map(|host| host.address).collect();
        self.simulation.set_name(NAMES[0], &hosts);
        self.simulation.set_name(NAMES[1], &[NOWHERE, hosts[0]]);
        self.simulation.set_name(NAMES[2], &[NOWHERE]);
    }

    fn connect_by_name(&mut self, lp: &Loop, host: usize, number: u32, how: u32) {
        if !self.has_room(host, is_stream) {
            return;
        }
        let (at, options) = (self.handles.len(), Network::connect_options(how));
        let (name, reads) = (
            NAMES[number as usize % NAMES.len()],
            self.random.percent(85),
        );
        let handler = Handler {
            at,
            reads,
            _token: Token::new(),
        };
        let opened = TcpStream::connect_name_with(lp, name, 80, &options, handler);
        let call = format!("connect_name_with {name}");
        let Some(tcp) = self.outcome(&call, opened, None) else {
            return;
        };
        let mut stream = self.connecting(Goal::Name, &options, reads);
        stream.connection = self.connection_new([End::Held(at), End::Pending], None);
        self.add(host, tcp.id(), true, Body::Stream(Box::new(stream)));
    }

    pub fn close(&mut self, lp: &Loop, at: usize) {
        let before = match &self.handles[at].body {
            Body::Stream(_) => self.sync(at),
            _ => Some(0),
        };
        let Some(before) = before else { return };
        let got = lp.close(self.handles[at].id);
        self.outcome(&format!("close of #{at}"), got, None);
        match &self.handles[at].body {
            Body::Stream(_) => self.stream_gone(at, before),
            _ => self.closed(at),
        }
    }

    /// A stream was closed by the user.
    fn stream_gone(&mut self, at: usize, lost: usize) {
        let (connection, side) = (self.stream(at).connection, self.stream(at).side);
        self.closed(at);
        self.end_gone(connection, side, lost);
    }

    /// A call that finds a broken connection before the model knows of it.
    fn finds_broken<T>(&mut self, at: usize, got: &kolo::Result<T>) {
        let says = got
            .as_ref()
            .is_err_and(|error| error.code() == Code::ENOTCONN);
        if says && self.stream(at).failed.is_none() && self.is_stream_breakable(at) {
            self.stream(at).failed = Some(Failure::Broken);
            self.stream(at).reading = false;
        }
    }

    fn refuses_writes(&mut self, at: usize, length: usize, queued: usize) -> Option<Code> {
        let stream = self.stream(at);
        match stream.failed {
            Some(_) => Some(Code::ENOTCONN),
            None if stream.shutting => Some(Code::EPIPE),
            None => (length > QUEUE_MAX.saturating_sub(queued)).then_some(Code::ENOBUFS),
        }
    }

    /// How much it has queued.
    fn queued(&mut self, at: usize) -> usize {
        self.sync(at).unwrap_or(0)
    }

    /// The peer may take nothing from now on.
    fn stall_begins(&mut self, at: usize, before: usize) {
        let now = self.now();
        if before == 0 {
            self.stream(at).stall_since = now;
        }
    }

    pub fn write(&mut self, lp: &Loop, at: usize, length: usize) {
        let (start, serial, before) = (self.place(), self.next_serial(), self.queued(at));
        let bytes = &pattern()[start..start + length];
        let got = self.stream_handle(at).write(lp, bytes);
        self.finds_broken(at, &got);
        let expected = self.refuses_writes(at, length, before);
        if self
            .outcome(&format!("#{at} write of {length}"), got, expected)
            .is_some()
        {
            self.direction(at).push(serial, start, length);
            self.stall_begins(at, before);
        }
    }

    fn write_owned(&mut self, lp: &Loop, at: usize, length: usize) {
        let (start, serial, before) = (self.place(), self.next_serial(), self.queued(at));
        let token = Token::new();
        let done = move |lp: &Loop, _: kolo::Stream, outcome: kolo::Result<()>| {
            let _token = &token;
            let ends = |network: &mut Network| network.write_done(at, serial, outcome);
            called(lp, "done", at, ends, |_| ());
        };
        let bytes = &pattern()[start..start + length];
        let got = self.stream_handle(at).write_owned(lp, bytes, done);
        self.finds_broken(at, &got);
        let expected = self.refuses_writes(at, length, before);
        let call = format!("#{at} owned write {serial} of {length}");
        if let Some((_, id)) = self.outcome(&call, got, expected) {
            self.direction(at).push(serial, start, length);
            self.stall_begins(at, before);
            self.stream(at).owned.push_back(Owned {
                serial,
                id,
                length,
                canceled: false,
                ended: false,
            });
        }
    }

    fn cancel_write(&mut self, lp: &Loop, at: usize, number: u32) {
        let stream = self.stream(at);
        let count = stream.owned.len();
        let Some(owned) = stream.owned.get(number as usize % count.max(1)) else {
            return;
        };
        let Owned {
            serial,
            id,
            length,
            canceled,
            ended,
        } = *owned;
        let connecting = stream.connecting;
        let got = self.stream_handle(at).cancel_write(lp, id);
        self.record.steps += 1;
        let code = got.err().map(|error| error.code());
        self.record
            .note(|| format!("cancel_write {serial} -> {code:?}"));
        let fits = match code {
            None => !canceled && !ended,
            Some(Code::EBUSY) => !canceled && !ended && !connecting && length > 0,
            Some(Code::ENOENT) => canceled || ended || !connecting,
            _ => false,
        };
        let mut owned = self.stream(at).owned.iter_mut();
        if let Some(owned) = owned.find(|owned| owned.serial == serial) {
            owned.canceled |= code.is_none();
            owned.ended |= code == Some(Code::ENOENT) && !owned.canceled;
        }
        let intact = code.is_some() || length == 0 || self.direction(at).cancel(serial);
        self.check(fits && intact, || {
            format!("cancel_write {serial} of #{at} gave {code:?}; nothing of it was received: {intact}")
        });
        self.record.count(if code.is_none() {
            "write canceled"
        } else {
            "write not canceled"
        });
    }

    fn shutdown(&mut self, lp: &Loop, at: usize) {
        let token = Token::new();
        let got = self.stream_handle(at).shutdown(lp, move |lp, _, outcome| {
            let _token = &token;
            called(
                lp,
                "done",
                at,
                |network| network.shutdown_done(at, outcome),
                |_| (),
            );
        });
        self.finds_broken(at, &got);
        let stream = self.stream(at);
        let expected = match stream.failed {
            Some(_) => Some(Code::ENOTCONN),
            None => stream.shutting.then_some(Code::EALREADY),
        };
        if self
            .outcome(&format!("#{at} shutdown"), got, expected)
            .is_some()
        {
            let stream = self.stream(at);
            (stream.shutting, stream.shutdown_owed) = (true, true);
            self.direction(at).ending = true;
        }
    }

    pub fn finish(&mut self, lp: &Loop, at: usize, linger: Option<Duration>) {
        let linger = linger.filter(|linger| !linger.is_zero());
        let got = match linger {
            Some(linger) => self.stream_handle(at).finish_lingering(lp, linger),
            None => self.stream_handle(at).finish(lp),
        };
        self.outcome(&format!("#{at} finish, lingers {linger:?}"), got, None);
        self.handles[at].may_close = true;
        let until = linger.map(|linger| self.now() + linger.as_nanos() as u64);
        let stream = self.stream(at);
        (stream.shutting, stream.finishing, stream.lingers_until) = (true, true, until);
        let (connection, side) = (stream.connection, stream.side);
        if linger.is_some() {
            // What still comes is thrown away, and nothing is said of it.
            stream.reading = false;
            self.connections[connection].discards[side] = true;
        }
        self.direction(at).ending = true;
        self.record.count(if linger.is_some() {
            "finish, lingering"
        } else {
            "finish"
        });
    }

    fn fail(&mut self, lp: &Loop, at: usize) {
        let before = self.queued(at);
        let got = self.stream_handle(at).fail(lp, Code::EPROTO.into());
        self.outcome(&format!("#{at} fail"), got, None);
        let stream = self.stream(at);
        stream.failed.get_or_insert(Failure::Told(Code::EPROTO));
        (stream.reading, stream.connecting) = (false, false);
        let direction = self.direction(at);
        direction.lost = direction.lost.max(before);
    }

    pub fn read_start(&mut self, lp: &Loop, at: usize) {
        let got = self.stream_handle(at).read_start(lp);
        if !self.stream(at).ended && self.stream(at).lingers_until.is_none() {
            self.finds_broken(at, &got);
        }
        let now = self.now();
        let stream = self.stream(at);
        let lingers = stream.lingers_until.is_some();
        // One that lingers may have seen the end, and tells nobody.
        let ended = stream.ended || lingers && got.is_err();
        let expected = (ended || stream.failed.is_some()).then_some(Code::ENOTCONN);
        let started = self.outcome(&format!("#{at} read_start"), got, expected);
        let stream = self.stream(at);
        if started.is_some() && !stream.reading && !lingers {
            (stream.reading, stream.last_read, stream.reads_since) = (true, now, now);
        }
    }

    pub fn set_timeouts(&mut self, lp: &Loop, at: usize, read: Duration, write: Duration) {
        let some = |time: Duration| (!time.is_zero()).then_some(time);
        let got = self
            .stream_handle(at)
            .set_timeouts(lp, some(read), some(write));
        self.outcome(&format!("#{at} set_timeouts {read:?} {write:?}"), got, None);
        let now = self.now();
        let stream = self.stream(at);
        (stream.read_idle, stream.write_stall) = (read.as_nanos() as u64, write.as_nanos() as u64);
        (stream.last_read, stream.stall_since) = (now, now);
    }

    /// What is done to the network.
    fn harm(&mut self, lp: &Loop, host: usize, what: What, a: u32, b: u32) {
        let count = self.hosts.len();
        let other = (host + 1 + a as usize % (count - 1)) % count;
        let (here, there) = (self.hosts[host].address, self.hosts[other].address);
        let pair = (host.min(other), host.max(other));
        let simulation = self.simulation.clone();
        match what {
            What::Cut => {
                self.faults.losses = true;
                self.cuts.push(pair);
                self.outcome("partition", simulation.partition(here, there), None);
            }
            What::Heal => {
                self.cuts.retain(|cut| *cut != pair);
                self.outcome("heal", simulation.heal(here, there), None);
            }
            What::ResetAll => {
                self.faults.resets = true;
                // One that is being connected is refused.
                self.faults.refusals = true;
                self.outcome(
                    "reset_connections",
                    simulation.reset_connections(here, there),
                    None,
                );
            }
            What::SetLink => {
                let options = (!b.is_multiple_of(4)).then(|| link(&mut self.random));
                if let Some(options) = &options {
                    self.link_is(options);
                }
                self.outcome("set_link", simulation.set_link(here, there, options), None);
            }
            _ => {
                let most = (!b.is_multiple_of(3)).then_some(b / 8 % 8);
                self.hosts[host].limited |= most.is_some();
                self.outcome(
                    "set_descriptors",
                    simulation.set_descriptors(lp, most),
                    None,
                );
            }
        }
    }

    /// The network does no more harm; cuts stay if it does not heal.
    pub fn calm_down(&mut self, heals: bool) {
        let simulation = self.simulation.clone();
        self.calm = true;
        if heals {
            simulation.heal_all();
            self.cuts.clear();
        }
        for one in 0..self.hosts.len() {
            for other in 0..one {
                let (one, other) = (self.hosts[one].address, self.hosts[other].address);
                let got = simulation.set_link(one, other, Some(Default::default()));
                self.outcome("set_link", got, None);
            }
            if let Some(lp) = self.hosts[one].lp.clone() {
                let got = simulation.set_descriptors(&lp, None);
                self.outcome("set_descriptors", got, None);
            }
        }
    }

    pub fn udp(&self, at: usize) -> UdpSocket {
        UdpSocket::from_id(self.handles[at].id)
    }
}
