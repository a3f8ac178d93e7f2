//! Does the operations of a program, and looks whether everything is as the model says.

use std::collections::BTreeSet;

use kolo::{
    Code, Datagram, File, Hook, Id, Interest, Kind, LocalListener, LocalStream, Loop, Pipe, Poll,
    Process, Request, RunMode, Signal, Stream, TcpListener, TcpStream, Timer, Transmit, UdpSocket,
    Waker, Watch,
};

use super::program::{Operation, What};
use super::stream_calls::length;
use super::world::{called, Body, Callback, Handle, Life, Stage, Token, World, VIRTUAL_TIME};

const CODES: [Code; 3] = [Code::EIO, Code::EPROTO, Code::ECONNABORTED];

impl World {
    pub fn operate(&mut self, lp: &Loop, operation: &Operation) {
        self.note(|| format!("{operation:?}"));
        let before = self.handles.len();
        self.operate_one(lp, operation);
        for at in before..self.handles.len() {
            if self.is_open(at) && self.random.percent(50) {
                self.on_close(lp, at);
            }
        }
    }

    fn operate_one(&mut self, lp: &Loop, operation: &Operation) {
        let Operation { what, a, b, c } = *operation;
        match what {
            What::Run => {}
            What::Stop => self.stop(lp),
            What::Observe => self.observe(lp),
            What::UpdateClock => lp.update_now(),
            What::Defer => self.defer(lp),
            What::Post => self.post(),
            What::Wake => {
                let ended = (self.stage == Stage::Ending).then_some(Code::ECANCELED);
                let got = self.remote.wake();
                self.outcome("Remote::wake of the loop", got, ended);
            }
            What::UseStale => self.use_stale(lp, a),
            What::WakerOpen if self.has_room(Kind::Waker, 4) => self.waker_open(lp),
            What::WakerWake => self.waker_wake(a),
            What::SignalOpen if self.has_room(Kind::Signal, 4) => self.signal_open(lp),
            What::SignalRaise => self.signal_raise(a),
            What::PollOpen if self.has_room(Kind::Poll, 4) => self.poll_open(lp, a),
            What::PollFeed => self.poll_feed(a),
            What::PollTake => self.poll_take(a),
            What::TimerOpen if self.has_room(Kind::Timer, 12) => {
                self.timer_open(lp);
            }
            What::TimerAfter if self.has_room(Kind::Timer, 12) => self.timer_after(lp, b),
            What::HookOpen if self.has_room(Kind::Hook, 8) => {
                self.hook_open(lp, b);
            }
            What::Listen if self.has_room(Kind::Listener, 3) => {
                self.listen(lp, b);
            }
            What::Connect if self.has_room(Kind::Tcp, 12) => self.connect(lp, a, b),
            What::ConnectToRaw if self.has_room(Kind::Tcp, 12) => self.connect_to_raw(lp, b),
            What::ConnectRefused if self.has_room(Kind::Tcp, 12) => self.connect_refused(lp, b),
            What::Adopt if self.has_room(Kind::Tcp, 12) => self.adopt(lp, b),
            What::LocalListen if self.has_room(Kind::LocalListener, 2) => self.local_listen(lp, b),
            What::LocalConnect if self.has_room(Kind::Local, 8) => self.local_connect(lp, a, b),
            What::LocalPair if self.has_room(Kind::Local, 8) => self.local_pair(lp, b),
            What::PipePair if self.has_room(Kind::Pipe, 6) => self.pipe_pair(lp, b),
            What::RawConnect if self.has_room(Kind::Tcp, 12) => self.raw_connect(a),
            What::RawAccept => self.raw_accept(),
            What::UdpOpen if self.has_room(Kind::Udp, 6) => self.udp_open(lp, b),
            What::RawUdpOpen => self.raw_udp_open(),
            What::RawUdpSend => self.raw_udp_send(a, b),
            What::RawUdpReceive => self.raw_udp_receive(),
            What::UdpSend
            | What::CancelSend
            | What::UdpConnect
            | What::UdpReceiveStart
            | What::UdpReceiveStop
            | What::UdpWatermarks => {
                let Some(at) = self.choose_kind(a, Kind::Udp) else {
                    return;
                };
                match what {
                    What::UdpSend => self.udp_send(lp, at, b, c),
                    What::CancelSend => self.cancel_send(lp, at, b),
                    What::UdpConnect => self.udp_connect(lp, at, b),
                    What::UdpReceiveStart => self.udp_receive(lp, at, true),
                    What::UdpReceiveStop => self.udp_receive(lp, at, false),
                    _ => self.udp_watermarks(lp, at, b),
                }
            }
            What::Panic => self.panic(),
            What::Work if self.has_room(Kind::Request, 12) => self.work(lp, b),
            What::WatchOpen if self.has_room(Kind::Watch, 4) => self.watch_open(lp, b),
            What::WatchNothing => self.watch_nothing(lp),
            What::TouchFolder => self.touch_folder(b, c),
            What::Resolve if self.has_room(Kind::Request, 12) => self.resolve(lp, b),
            What::Reverse if self.has_room(Kind::Request, 12) => self.reverse(lp, b),
            What::PathStat if self.has_room(Kind::Request, 12) => self.path_stat(lp),
            What::FileOpen if self.has_room(Kind::File, 3) => self.file_open(lp, b),
            What::FileRead | What::FileWrite | What::FileStat | What::FileRelease => {
                let Some(at) = self.choose_kind(a, Kind::File) else {
                    return;
                };
                match what {
                    What::FileRelease => self.file_release(lp, at),
                    _ if !self.has_room(Kind::Request, 12) => {}
                    What::FileRead => self.file_read(lp, at, b),
                    What::FileWrite => self.file_write(lp, at, b),
                    _ => self.file_stat(lp, at),
                }
            }
            What::RequestCancel => {
                if let Some(at) = self.choose_kind(a, Kind::Request) {
                    self.request_cancel(lp, at);
                }
            }
            What::Spawn if self.has_room(Kind::Process, 2) => self.spawn(lp, b),
            What::ProcessKill => {
                if let Some(at) = self.choose_kind(a, Kind::Process) {
                    self.process_kill(lp, at);
                }
            }
            What::RawWrite => self.raw_write(lp, a, length(b)),
            What::RawRead => self.raw_read_some(lp, a, 1 + length(b)),
            What::RawShutdown => self.raw_shutdown(lp, a),
            What::RawClose => self.raw_close(a, false),
            What::RawReset => self.raw_close(a, true),
            What::CloseSelf => {
                let own = |at: &usize| self.is_open(*at) && !self.handles[*at].reserved;
                if let Some(at) = self.current.filter(own) {
                    self.close(lp, at);
                }
            }
            What::Close | What::Unref | What::Reference | What::OnClose => {
                self.operate_any(lp, what, a, b);
            }
            What::TimerStart | What::TimerRepeat | What::TimerStop | What::TimerAgain => {
                let Some(at) = self.choose_kind(a, Kind::Timer) else {
                    return;
                };
                // One that closes itself stays as it was made.
                match what {
                    _ if self.timer(at).once => {}
                    What::TimerStart => self.timer_start(lp, at, b),
                    What::TimerRepeat => self.timer_repeat(lp, at, b, c),
                    What::TimerStop => self.timer_stop(lp, at),
                    _ => self.timer_again(lp, at),
                }
            }
            What::HookStart | What::HookStop => {
                let Some(at) = self.choose_kind(a, Kind::Hook) else {
                    return;
                };
                match what {
                    What::HookStart => self.hook_start(lp, at),
                    _ => self.hook_stop(lp, at),
                }
            }
            What::SignalStart | What::SignalStop => {
                let Some(at) = self.choose_kind(a, Kind::Signal) else {
                    return;
                };
                match what {
                    What::SignalStart => self.signal_start(lp, at, b),
                    _ => self.signal_stop(lp, at),
                }
            }
            What::PollStart | What::PollStop => {
                let Some(at) = self.choose_kind(a, Kind::Poll) else {
                    return;
                };
                match what {
                    What::PollStart => self.poll_start(lp, at, b),
                    _ => self.poll_stop(lp, at),
                }
            }
            What::Pause | What::Resume => {
                let listens = |handle: &Handle| matches!(handle.body, Body::Listener(_));
                if let Some(at) = self.choose(a, listens) {
                    self.pause(lp, at, what == What::Pause);
                }
            }
            _ => self.operate_stream(lp, operation),
        }
    }

    fn operate_any(&mut self, lp: &Loop, what: What, a: u32, b: u32) {
        // Every kind alike: streams are many.
        let kinds = [
            Kind::Timer,
            Kind::Hook,
            Kind::Waker,
            Kind::Signal,
            Kind::Poll,
            Kind::Listener,
            Kind::Tcp,
            Kind::Tcp,
            Kind::Local,
            Kind::LocalListener,
            Kind::Pipe,
            Kind::Udp,
            Kind::Request,
            Kind::File,
            Kind::Process,
            Kind::Watch,
        ];
        let chosen = self.choose_kind(a, kinds[b as usize % kinds.len()]);
        let Some(at) = chosen else { return };
        match what {
            What::Close => self.close(lp, at),
            What::OnClose => self.on_close(lp, at),
            _ => {
                if !self.is_there(lp, at) {
                    return;
                }
                let (id, on) = (self.handles[at].id, what == What::Reference);
                let got = if on { lp.reference(id) } else { lp.unref(id) };
                self.outcome(if on { "reference" } else { "unref" }, got, None);
                self.handles[at].referenced = on;
            }
        }
    }

    fn operate_stream(&mut self, lp: &Loop, operation: &Operation) {
        let Operation { what, a, b, c } = *operation;
        let carries = |handle: &Handle| matches!(handle.body, Body::Stream(_));
        let Some(at) = self.choose(a, carries) else {
            return;
        };
        match what {
            What::Write => self.write(lp, at, length(b)),
            What::WriteSmall => self.write_small(lp, at, b),
            What::WriteOwned => self.write_owned(lp, at, length(b), c),
            What::SendFile => self.send_file(lp, at, b, length(c)),
            What::MoveTo => self.move_to(lp, at),
            What::PassDescriptors => self.pass_descriptors(lp, at, b),
            What::PassHandle => self.pass_handle(lp, at, b),
            What::TakeDescriptors => self.take_descriptors(lp, at, b),
            What::CancelWrite => self.cancel_write(lp, at, b),
            What::Shutdown => self.shutdown(lp, at),
            What::Finish => self.finish(lp, at, None),
            What::FinishLingering => self.finish(lp, at, Some(b)),
            What::Fail => self.fail(lp, at, CODES[b as usize % CODES.len()]),
            What::Reset => self.reset(lp, at),
            What::ReadStop => self.read_stop(lp, at),
            What::ReadStart => self.read_start(lp, at),
            What::SetTimeouts => self.set_timeouts(lp, at, b, c),
            What::SetWatermarks => self.set_watermarks(lp, at, b),
            What::Attach => self.attach(lp, at),
            What::Release => self.release(lp, at, b),
            // What there are enough of.
            _ => {}
        }
    }

    pub fn close(&mut self, lp: &Loop, at: usize) {
        if let Body::Stream(_) = self.handles[at].body {
            return self.stream_close(lp, at);
        }
        let got = lp.close(self.handles[at].id);
        self.outcome(&format!("close of #{at}"), got, None);
        self.closed(at);
    }

    fn on_close(&mut self, lp: &Loop, at: usize) {
        if !self.is_there(lp, at) {
            return;
        }
        let (which, token) = (self.next_serial(), Token::new());
        let got = lp.on_close(self.handles[at].id, move |lp, _| {
            let _token = &token;
            called(lp, Callback::UserClose, Some(at), |world| {
                world.close_called(at, which)
            });
        });
        self.outcome("on_close", got, None);
        self.handles[at].callback_owed = Some(which);
    }

    /// Whether it is open, for streams also by the loop's own word.
    fn is_there(&mut self, lp: &Loop, at: usize) -> bool {
        match self.handles[at].body {
            Body::Stream(_) => self.sync(lp, at).is_some(),
            _ => self.is_open(at),
        }
    }

    /// Every call on a closed handle gives `EBADF`.
    fn use_stale(&mut self, lp: &Loop, number: u32) {
        let closed: Vec<usize> = (0..self.handles.len())
            .filter(|at| !self.is_open(*at))
            .collect();
        let late = closed.len().saturating_sub(8);
        let count = (closed.len() - late).max(1);
        if let Some(at) = closed[late..].get(number as usize % count).copied() {
            self.count("closed handle used");
            self.use_closed(lp, at);
        }
    }

    pub fn use_closed(&mut self, lp: &Loop, at: usize) {
        let id = self.handles[at].id;
        // What only a kernel has is not asked about the handle in a simulation.
        let bad = |got: kolo::Result<()>| {
            let code = got.err().map(|error| error.code());
            code == Some(Code::EBADF) || VIRTUAL_TIME.get() && code == Some(Code::ENOTSUP)
        };
        let mut answers = vec![
            bad(lp.close(id)),
            bad(lp.unref(id)),
            bad(lp.reference(id)),
            bad(lp.is_active(id).map(drop)),
            bad(lp.is_referenced(id).map(drop)),
            bad(lp.kind(id).map(drop)),
            bad(lp.describe(id).map(drop)),
            bad(lp.on_close(id, |_, _| ())),
        ];
        let second = std::time::Duration::from_secs(1);
        match self.handles[at].kind() {
            Kind::Timer => {
                let timer = Timer::from_id(id);
                answers.extend([
                    bad(timer.start(lp, second)),
                    bad(timer.start_repeating(lp, second, second)),
                    bad(timer.stop(lp)),
                    bad(timer.again(lp)),
                    bad(timer.remaining(lp).map(drop)),
                    bad(timer.overrun(lp).map(drop)),
                ]);
            }
            Kind::Hook => {
                let hook = Hook::from_id(id);
                answers.extend([bad(hook.start(lp)), bad(hook.stop(lp))]);
            }
            Kind::Waker => answers.push(bad(Waker::from_id(id).remote(lp).map(drop))),
            Kind::Signal => {
                let signal = Signal::from_id(id);
                answers.extend([bad(signal.start(lp, libc::SIGUSR1)), bad(signal.stop(lp))]);
            }
            Kind::Poll => {
                let poll = Poll::from_id(id);
                answers.extend([bad(poll.start(lp, Interest::READABLE)), bad(poll.stop(lp))]);
            }
            Kind::Listener => {
                let listener = TcpListener::from_id(id);
                answers.extend([
                    bad(listener.address(lp).map(drop)),
                    bad(listener.pause(lp)),
                    bad(listener.resume(lp)),
                ]);
            }
            Kind::Request => {
                let request = Request::from_id(id);
                answers.extend([
                    bad(request.cancel(lp)),
                    bad(request.has_begun(lp).map(drop)),
                ]);
            }
            Kind::File => {
                let file = File::from_id(id);
                answers.extend([
                    bad(file.read(lp, 0, Vec::new(), |_, _| ()).map(drop)),
                    bad(file.write(lp, 0, Vec::new(), |_, _| ()).map(drop)),
                    bad(file.stat(lp).start(lp, |_, _| ()).map(drop)),
                    bad(file.close(lp, |_, _| ()).map(drop)),
                    bad(file.close_sync(lp)),
                    bad(file.descriptor(lp).map(drop)),
                    bad(file.release(lp).map(drop)),
                ]);
            }
            Kind::Process => {
                let process = Process::from_id(id);
                answers.extend([
                    bad(process.pid(lp).map(drop)),
                    bad(process.kill(lp, 0)),
                    bad(process.kill_group(lp, 0)),
                ]);
            }
            Kind::Watch => answers.push(bad(Watch::from_id(id).path(lp).map(drop))),
            Kind::Udp => {
                let udp = UdpSocket::from_id(id);
                let nobody = Transmit::default();
                answers.extend([
                    bad(udp.send(lp, b"x").map(drop)),
                    bad(udp.try_send(lp, b"x", &nobody)),
                    bad(udp.send_owned(lp, "x", &nobody, |_, _, _| ()).map(drop)),
                    bad(udp.receive_start(lp)),
                    bad(udp.receive_stop(lp)),
                    bad(udp.disconnect(lp)),
                    bad(udp.connect_to(lp, self.loopback())),
                    bad(udp.set_watermarks(lp, 0, 1, 1)),
                    bad(udp.queued(lp).map(drop)),
                    bad(udp.local_address(lp).map(drop)),
                    bad(udp.peer_address(lp).map(drop)),
                    bad(udp.attach(lp, |_: &Loop, _: UdpSocket, _: &Datagram<'_>| ())),
                    bad(udp.set_broadcast(lp, true)),
                    bad(udp.release(lp).map(drop)),
                ]);
            }
            Kind::LocalListener => {
                let listener = LocalListener::from_id(id);
                answers.extend([
                    bad(listener.name(lp).map(drop)),
                    bad(listener.pause(lp)),
                    bad(listener.resume(lp)),
                ]);
            }
            _ => {
                let (local, pipe) = (LocalStream::from_id(id), Pipe::from_id(id));
                answers.extend([
                    bad(local.release(lp).map(drop)),
                    bad(local.peer_credentials(lp).map(drop)),
                    bad(local.name(lp).map(drop)),
                    bad(local.receive_descriptors(lp, true)),
                    bad(local.descriptors_waiting(lp).map(drop)),
                    bad(local.take_descriptor(lp).map(drop)),
                    bad(pipe.release(lp).map(drop)),
                    bad(pipe.raw_descriptor(lp).map(drop)),
                ]);
                let (stream, tcp) = (Stream::from_id(id), TcpStream::from_id(id));
                answers.extend([
                    bad(stream.write(lp, b"x").map(drop)),
                    bad(stream.write(lp, b"").map(drop)),
                    bad(stream.write_owned(lp, "x", |_, _, _| ()).map(drop)),
                    bad(stream.shutdown(lp, |_, _, _| ())),
                    bad(stream.finish(lp)),
                    bad(stream.fail(lp, Code::EIO.into())),
                    bad(stream.reset(lp)),
                    bad(stream.read_start(lp)),
                    bad(stream.read_stop(lp)),
                    bad(stream.set_timeouts(lp, None, None)),
                    bad(stream.set_watermarks(lp, 0, 1, 1)),
                    bad(stream.queued(lp).map(drop)),
                    bad(stream.attach(lp, |_: &Loop, _: Stream, _: &[u8]| ())),
                    bad(tcp.release(lp).map(drop)),
                    bad(tcp.set_nodelay(lp, true)),
                    bad(tcp.local_address(lp).map(drop)),
                    bad(tcp.peer_address(lp).map(drop)),
                ]);
            }
        }
        let wrong = answers.iter().position(|bad| !bad);
        self.check(wrong.is_none(), || {
            format!("call {wrong:?} on the closed #{at} gave no EBADF")
        });
    }

    /// Whether all that can be asked is as the model says.
    pub fn observe(&mut self, lp: &Loop) {
        self.count("everything compared");
        for at in 0..self.handles.len() {
            if self.is_open(at) {
                self.observe_one(lp, at);
            }
        }
        let listed: BTreeSet<Id> = lp.handles().into_iter().collect();
        let open = self
            .handles
            .iter()
            .filter(|handle| handle.life == Life::Open);
        let open: BTreeSet<Id> = open.map(|handle| handle.id).collect();
        self.check(listed == open, || {
            format!("the loop lists {listed:?} and the model has {open:?}")
        });
        let (posts, waiting) = (self.tasks.posted.len() as u64, lp.metrics().posts_waiting);
        self.check(posts == waiting || self.stage == Stage::Ending, || {
            format!("{posts} posts wait, the loop says {waiting}")
        });
        let alive = lp.is_alive() || !self.must_be_alive(lp);
        self.check(alive, || "the loop is not alive".into());
        let inside = self.callback.is_some() && self.stage != Stage::Ending;
        self.check(lp.is_running() == inside, || {
            format!("is_running is not {inside}")
        });
        if inside {
            let again = lp.run(RunMode::NoWait).map(drop);
            self.outcome("run inside run", again, Some(Code::EBUSY));
        }
    }

    fn must_be_alive(&mut self, lp: &Loop) -> bool {
        if self.stage == Stage::Ending {
            return false;
        }
        let closing = self.stage != Stage::After
            && self
                .handles
                .iter()
                .any(|handle| matches!(handle.life, Life::Closing { .. }));
        let holds = (0..self.handles.len()).any(|at| {
            self.is_open(at) && self.handles[at].referenced && self.activity(lp, at, 0).0
        });
        closing || holds || !self.tasks.deferred.is_empty() || !self.tasks.posted.is_empty()
    }

    /// Whether the handle must be active, and whether it may be.
    fn activity(&mut self, lp: &Loop, at: usize, queued: usize) -> (bool, bool) {
        let exactly = |active| (active, active);
        match &self.handles[at].body {
            Body::Timer(timer) => exactly(timer.arm.is_some()),
            Body::Hook(_) => exactly(self.is_started(at)),
            Body::Waker(_) | Body::Watch(_) => exactly(true),
            Body::Signal(signal) => exactly(signal.number.is_some()),
            Body::Poll(poll) => exactly(poll.interest.is_some()),
            Body::Listener(listener) => exactly(!listener.paused),
            Body::Request(_) => exactly(true),
            // Not any more when its end is about to be told.
            Body::Process(_) => (false, true),
            Body::File(_) => exactly(false),
            // While it is told of what happened it counts as active.
            Body::Udp(udp) => (udp.receiving, true),
            Body::Stream(stream) => {
                let must = stream.failed.is_none() && (stream.connecting || stream.reading);
                // While it is told of what happened it counts as active.
                let something_due = self.current == Some(at)
                    || stream.is_owed()
                    || stream.maybe_full
                    || stream.finishing
                    || stream.failed.is_some()
                    || queued > 0;
                // After a panic it is looked once more whether there is more to tell.
                let looks_again = self.phases < self.unwound + 4;
                (
                    must,
                    must || something_due || looks_again || self.is_breakable(lp, at),
                )
            }
        }
    }

    fn observe_one(&mut self, lp: &Loop, at: usize) {
        let mut queued = 0;
        if let Body::Stream(_) = self.handles[at].body {
            match self.sync(lp, at) {
                Some(bytes) => queued = bytes,
                None => return,
            }
        }
        let (id, kind) = (self.handles[at].id, self.handles[at].kind());
        let told = (lp.kind(id), lp.is_referenced(id));
        let expected = (Ok(kind), Ok(self.handles[at].referenced));
        self.check(told == expected, || {
            format!("#{at} is {told:?}, not {expected:?}")
        });
        let (must, may) = self.activity(lp, at, queued);
        let active = lp.is_active(id);
        let stage = self.stage;
        self.check(
            active.is_ok_and(|active| if active { may } else { !must }),
            || {
                format!(
                    "#{at} is active: {active:?}; must {must}, may {may}: {:?}, in {stage:?}",
                    lp.describe(id)
                )
            },
        );
        let described = lp.describe(id).is_ok_and(|line| !line.is_empty());
        self.check(described, || format!("#{at} has no description"));
        if kind == Kind::Timer {
            self.timer_observe(lp, at);
        }
    }
}
