//! What the model believes of the loop: its handles, where in the turn it stands, and what it
//! owes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kolo::{Code, Id, Kind, Loop, Remote, Result};

use super::connections::Connections;
use super::datagrams::{Datagrams, UdpModel};
use super::descriptors::{PollModel, SignalModel};
use super::listeners::{ListenerModel, Place};
use super::processes::ProcessModel;
use super::program::Program;
use super::random::Random;
use super::record::Record;
use super::requests::{FileModel, RequestModel};
use super::simple::{HookModel, Tasks, TimerModel, WakerModel};
use super::streams::StreamModel;
use super::watches::{Folder, WatchModel};

thread_local! {
    static WORLD: RefCell<Option<Box<World>>> = const { RefCell::new(None) };
    /// Closures and handlers that exist: all must be dropped with the loop.
    static TOKENS: Cell<i64> = const { Cell::new(0) };
    /// The driver is a simulation, whose time is not the system's.
    pub static VIRTUAL_TIME: Cell<bool> = const { Cell::new(false) };
    /// The callback that runs is to end in a panic.
    static PANICS: Cell<bool> = const { Cell::new(false) };
    static NESTED: Cell<bool> = const { Cell::new(false) };
}

/// Counts what holds it.
pub struct Token(());

impl Token {
    pub fn new() -> Token {
        TOKENS.set(TOKENS.get() + 1);
        Token(())
    }

    pub fn alive() -> i64 {
        TOKENS.get() + SHARED_TOKENS.load(Ordering::SeqCst)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        TOKENS.set(TOKENS.get() - 1);
    }
}

/// As [`Token`], for what goes to other threads.
pub struct SharedToken(());

static SHARED_TOKENS: AtomicI64 = AtomicI64::new(0);

impl SharedToken {
    pub fn new() -> SharedToken {
        SHARED_TOKENS.fetch_add(1, Ordering::SeqCst);
        SharedToken(())
    }
}

impl Drop for SharedToken {
    fn drop(&mut self) {
        SHARED_TOKENS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The panic that a program asks for.
pub struct OnPurpose;

/// Where in a turn the loop stands, as far as callbacks show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not in `run`.
    Outside,
    /// Timers, deferred functions, idle hooks.
    Before,
    /// From the prepare hooks to the check hooks: what the wait brought.
    Within,
    /// From the check hooks on: closing.
    After,
    /// The loop is being dropped.
    Ending,
}

/// What calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callback {
    Timer,
    Deferred,
    Posted,
    Canceled,
    Idle,
    Prepare,
    Check,
    Waker,
    Signal,
    Poll,
    Accept,
    Open,
    Data,
    Memory,
    Received,
    Datagram,
    End,
    Drain,
    Timeout,
    Error,
    Exit,
    Passed,
    Watch,
    Done,
    HandlerClose,
    UserClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    /// Closed; its last words are due when the closing phase after a check hook is over.
    Closing {
        due: bool,
    },
    /// Nothing is owed any more.
    Gone,
}

pub enum Body {
    Timer(TimerModel),
    Hook(HookModel),
    Waker(WakerModel),
    Signal(SignalModel),
    Poll(PollModel),
    Listener(ListenerModel),
    Stream(Box<StreamModel>),
    Udp(Box<UdpModel>),
    Request(RequestModel),
    File(Box<FileModel>),
    Process(ProcessModel),
    Watch(WatchModel),
}

pub struct Handle {
    pub id: Id,
    pub life: Life,
    pub referenced: bool,
    /// The loop may close it by itself.
    pub may_close: bool,
    /// The test's own: not for random operations.
    pub reserved: bool,
    /// Its handler is owed `on_close`.
    pub handler_owed: bool,
    /// The last callback set with `Loop::on_close`.
    pub callback_owed: Option<u64>,
    pub body: Body,
}

pub struct World {
    pub program: Arc<Program>,
    next_script: usize,
    /// Decides what no operation of the program does.
    pub random: Random,
    pub record: Record,
    pub stage: Stage,
    pub once: bool,
    /// The handle whose callback runs.
    pub current: Option<usize>,
    pub callback: Option<Callback>,
    /// When the callback began that runs.
    began: Instant,
    pub handles: Vec<Handle>,
    /// Everything is to come to rest: callbacks do nothing of their own.
    pub calm: bool,
    pub serial: u64,
    /// `Loop::stop` was called; and no turn may begin any more.
    pub stopping: bool,
    must_return: bool,
    /// Goes up between two timer phases, never within one.
    pub epoch: u64,
    in_timer_phase: bool,
    /// Counts prepare and check phases.
    pub phases: u64,
    /// As `phases` stood when a panic had ended a run.
    pub unwound: u64,
    /// The clock and the serial number when the present turn had not begun.
    pub turn_start: (u64, u64),
    pub started_hooks: [Vec<usize>; 3],
    pub due_hooks: [VecDeque<usize>; 3],
    pub idle_ran: bool,
    pub tasks: Tasks,
    pub remote: Remote,
    pub post_capacity: usize,
    pub net: Connections,
    pub datagrams: Datagrams,
    pub pairs: Vec<super::descriptors::Pair>,
    /// The pool takes little work at a time.
    pub small_pool: bool,
    /// What is watched.
    pub folder: Option<Folder>,
}

impl World {
    pub fn new(program: Arc<Program>, lp: &Loop, post_capacity: usize, tracing: bool) -> World {
        World {
            next_script: 0,
            random: Random::new(program.seed ^ 0x6b6f_6c6f),
            program,
            record: Record::new(tracing),
            stage: Stage::Outside,
            once: false,
            current: None,
            callback: None,
            began: Instant::now(),
            handles: Vec::new(),
            calm: false,
            serial: 0,
            stopping: false,
            must_return: false,
            epoch: 0,
            in_timer_phase: false,
            phases: 4,
            unwound: 0,
            turn_start: (0, 0),
            started_hooks: Default::default(),
            due_hooks: Default::default(),
            idle_ran: false,
            tasks: Tasks::default(),
            remote: lp.remote(),
            post_capacity,
            net: Connections::default(),
            datagrams: Datagrams::default(),
            pairs: Vec::new(),
            small_pool: false,
            folder: None,
        }
    }

    /// Makes it the world that callbacks of this thread see.
    pub fn install(self) {
        NESTED.set(false);
        PANICS.set(false);
        WORLD.with(|slot| *slot.borrow_mut() = Some(Box::new(self)));
    }

    pub fn take() -> Option<Box<World>> {
        WORLD.with(|slot| slot.borrow_mut().take())
    }

    pub fn is_over(&self) -> bool {
        self.record.is_over()
    }

    /// See [`Record::check`].
    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) -> bool {
        self.record.check(holds, what)
    }

    /// See [`Record::note`].
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        self.recorded().note(line);
    }

    fn recorded(&mut self) -> &mut Record {
        self.record.inside = self.callback.is_some();
        self.record.quiet = self.calm && self.callback.is_none();
        &mut self.record
    }

    pub fn count(&mut self, what: &'static str) {
        self.record.count(what);
    }

    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// See [`Record::outcome`].
    pub fn outcome<T>(&mut self, call: &str, got: Result<T>, expected: Option<Code>) -> Option<T> {
        self.recorded().outcome(call, got, expected)
    }

    /// A call that makes a handle: while the loop ends there are no new ones.
    pub fn opened<T>(&mut self, call: &str, got: Result<T>) -> Option<T> {
        self.outcome(call, got, self.expected_of_opening())
    }

    pub fn expected_of_opening(&self) -> Option<Code> {
        (self.stage == Stage::Ending).then_some(Code::ECANCELED)
    }

    pub fn add(&mut self, id: Id, body: Body) -> usize {
        self.handles.push(Handle {
            id,
            life: Life::Open,
            referenced: true,
            may_close: false,
            reserved: false,
            handler_owed: false,
            callback_owed: None,
            body,
        });
        self.handles.len() - 1
    }

    pub fn is_open(&self, at: usize) -> bool {
        self.handles[at].life == Life::Open
    }

    /// One of the open handles that `fits`: in a callback often that callback's.
    pub fn choose(&self, number: u32, fits: impl Fn(&Handle) -> bool) -> Option<usize> {
        let fits = |at: &usize| {
            let handle = &self.handles[*at];
            handle.life == Life::Open && !handle.reserved && fits(handle)
        };
        if let Some(current) = self
            .current
            .filter(|at| number.is_multiple_of(2) && fits(at))
        {
            return Some(current);
        }
        let all: Vec<usize> = (0..self.handles.len()).filter(fits).collect();
        let count = all.len().max(1);
        all.get(number as usize / 2 % count).copied()
    }

    pub fn choose_kind(&self, number: u32, kind: Kind) -> Option<usize> {
        self.choose(number, |handle| handle.kind() == kind)
    }

    pub fn is_stream(&self, at: usize) -> bool {
        matches!(self.handles[at].body, Body::Stream(_))
    }

    pub fn check_failed(&mut self, what: impl FnOnce() -> String) {
        self.check(false, what);
    }

    /// So that no program has more handles than it can make use of.
    pub fn has_room(&self, kind: Kind, most: usize) -> bool {
        let open = self
            .handles
            .iter()
            .filter(|handle| handle.life == Life::Open);
        open.filter(|handle| handle.kind() == kind).count() < most
    }

    /// The handle is closed: what it is owed comes in the closing phase.
    pub fn closed(&mut self, at: usize) {
        if self.handles[at].life != Life::Open {
            return;
        }
        self.handles[at].life = Life::Closing { due: false };
        match &mut self.handles[at].body {
            Body::Timer(timer) => timer.arm = None,
            Body::Hook(hook) => {
                let kind = hook.kind as usize - 1;
                self.started_hooks[kind].retain(|other| *other != at);
            }
            Body::Listener(_) => {
                self.listener_gone(at);
                // While the loop is dropped it is closed later.
                if self.stage != Stage::Ending {
                    self.check_socket_file(at);
                }
            }
            Body::Poll(poll) => poll.interest = None,
            Body::Udp(_) => self.udp_gone(at),
            Body::Signal(_)
            | Body::Waker(_)
            | Body::Stream(_)
            | Body::Request(_)
            | Body::File(_)
            | Body::Process(_)
            | Body::Watch(_) => {}
        }
        self.settle_closing(at);
    }

    /// A closed handle that is owed nothing is gone.
    pub fn settle_closing(&mut self, at: usize) {
        let handle = &self.handles[at];
        let owed =
            handle.handler_owed || handle.callback_owed.is_some() || self.owes_completions(at);
        let handle = &mut self.handles[at];
        if matches!(handle.life, Life::Closing { .. }) && !owed {
            handle.life = Life::Gone;
        }
    }

    /// Whether things that were asked of it are still to be told.
    pub fn owes_completions(&self, at: usize) -> bool {
        match &self.handles[at].body {
            Body::Stream(stream) => stream.is_owed(),
            Body::Udp(_) => self.udp_is_owed(at),
            Body::Request(request) => !request.told,
            _ => false,
        }
    }

    /// A check phase begins: whatever is closed by now hears its last in this turn.
    fn closing_is_due(&mut self) {
        for handle in &mut self.handles {
            if let Life::Closing { due } = &mut handle.life {
                *due = true;
            }
        }
    }

    /// A turn is over.
    pub fn turn_ended(&mut self) {
        // A closed request hears its last when no thread is at it any more.
        let late = (0..self.handles.len()).find(|at| {
            let handle = &self.handles[*at];
            let lingers = matches!(&handle.body, Body::Request(request) if !request.told);
            handle.life == Life::Closing { due: true } && !lingers
        });
        if let Some(at) = late {
            self.check(false, || {
                format!("closed handle #{at} did not hear its last in the closing phase")
            });
        }
        self.hooks_ended(kolo::HookKind::Check);
    }

    /// Says where the loop stands by what it calls.
    fn enter_stage(&mut self, callback: Callback, at: Option<usize>) {
        use Callback::*;
        use Stage::*;
        let stage = self.stage;
        if stage == Ending {
            let owed = matches!(callback, Canceled | Done | HandlerClose | UserClose);
            self.check(owed, || format!("{callback:?} while the loop is dropped"));
            return;
        }
        let is_open = at.is_some_and(|at| self.handles[at].life == Open_);
        let may_close = at.is_some_and(|at| self.handles[at].may_close);
        let next = match (stage, callback) {
            (Outside | Ending, _) | (_, Canceled) => None,
            (Within, Prepare) => Some(Within),
            (Before | After, Timer | Idle | Timeout) => Some(Before),
            // Datagrams that were kept while it did not receive are handed out like deferred functions.
            (Before | After, Deferred | Drain | Error | Waker | Signal | Datagram | Watch) => {
                Some(Before)
            }
            (Within, Deferred | Drain | Error | Waker | Signal | Watch) => Some(Within),
            (Before | Within, Done) => is_open.then_some(stage),
            // One that closes by itself may have done so in this turn.
            (After, Done) => Some(if is_open && !may_close { Before } else { After }),
            (Within, Accept | Open | Data | Memory | Received | Datagram | End | Poll) => {
                Some(Within)
            }
            (Within, Posted | Passed | Exit) => Some(Within),
            (Before | After, Exit) => Some(Before),
            (After, Check | HandlerClose | UserClose) => Some(After),
            _ => None,
        };
        if !self.check(next.is_some(), || {
            format!("{callback:?} comes in stage {stage:?}")
        }) {
            return;
        }
        let timers = matches!(callback, Timer | Timeout | Error | Done | Drain);
        if timers && !self.in_timer_phase {
            self.epoch += 1;
        }
        if callback == Timer || callback == Timeout {
            self.in_timer_phase = true;
        } else if !timers {
            self.in_timer_phase = false;
        }
        if stage == After && matches!(next, Some(Before | Within)) {
            self.turn_ended();
        }
        self.stage = next.unwrap_or(stage);
    }

    /// The test's own first hook of a phase.
    pub fn phase_begins(&mut self, lp: &Loop, kind: kolo::HookKind) {
        for handle in &mut self.handles {
            if let Body::Stream(stream) = &mut handle.body {
                stream.has_read(nanoseconds(lp));
            }
        }
        self.phases += 1;
        self.epoch += 1;
        self.in_timer_phase = false;
        if kind == kolo::HookKind::Prepare {
            if self.stage == Stage::After {
                self.turn_ended();
            }
            self.stage = Stage::Within;
            let must_return = self.must_return;
            self.check(!must_return, || "a turn begins after stop".into());
            self.timers_ended(lp);
            self.hooks_ended(kolo::HookKind::Idle);
        } else {
            self.hooks_ended(kolo::HookKind::Prepare);
            self.stage = Stage::After;
            self.must_return |= self.stopping;
            self.closing_is_due();
            self.turn_start = (nanoseconds(lp), self.serial);
        }
        self.hooks_begin(kind);
    }

    /// `run` is about to be called.
    pub fn run_begins(&mut self, lp: &Loop, once: bool) {
        self.stage = Stage::Before;
        self.once = once;
        self.epoch += 1;
        self.in_timer_phase = false;
        self.turn_start = (nanoseconds(lp), self.serial);
    }

    /// A callback has panicked, and `run` has unwound: the rest of the turn does not come.
    pub fn run_unwound(&mut self) {
        self.count("run unwound");
        for handle in &mut self.handles {
            if let Life::Closing { due } = &mut handle.life {
                *due = false;
            }
        }
        self.due_hooks.iter_mut().for_each(VecDeque::clear);
        self.idle_ran = false;
        self.phases += 1;
        self.unwound = self.phases;
        self.stage = Stage::Outside;
        self.run_ended();
    }

    /// The callback that runs is to end in a panic.
    pub fn panic(&mut self) {
        // While the loop is dropped a panic would be two.
        let may = !matches!(
            self.callback,
            None | Some(Callback::Memory | Callback::Received)
        );
        if may && self.stage != Stage::Ending {
            PANICS.set(true);
        }
    }

    pub fn run_ended(&mut self) {
        if self.stage == Stage::After {
            self.turn_ended();
        }
        self.stage = Stage::Outside;
        (self.stopping, self.must_return) = (false, false);
        self.epoch += 1;
        self.in_timer_phase = false;
    }

    /// The oldest that the clock may be from which a timer counts that is started now.
    pub fn oldest_clock(&self) -> Instant {
        match self.callback {
            Some(_) => self.began,
            None => Instant::now(),
        }
    }

    pub fn stop(&mut self, lp: &Loop) {
        lp.stop();
        self.stopping = true;
        self.must_return |= matches!(self.stage, Stage::After | Stage::Outside);
    }

    /// What the program has for this callback.
    fn run_script(&mut self, lp: &Loop) {
        let program = self.program.clone();
        let number = self.next_script;
        self.next_script += 1;
        if self.calm {
            return;
        }
        if let Some(script) = program.inside.get(number) {
            for operation in script {
                if !self.is_over() {
                    self.operate(lp, operation);
                }
            }
        }
    }
}

use Life::Open as Open_;

impl Handle {
    pub fn kind(&self) -> Kind {
        match &self.body {
            Body::Timer(_) => Kind::Timer,
            Body::Hook(_) => Kind::Hook,
            Body::Waker(_) => Kind::Waker,
            Body::Signal(_) => Kind::Signal,
            Body::Poll(_) => Kind::Poll,
            Body::Listener(listener) => match listener.place {
                Place::Tcp(_) => Kind::Listener,
                Place::Local(_) => Kind::LocalListener,
            },
            Body::Stream(stream) => stream.kind,
            Body::Udp(_) => Kind::Udp,
            Body::Request(_) => Kind::Request,
            Body::File(_) => Kind::File,
            Body::Process(_) => Kind::Process,
            Body::Watch(_) => Kind::Watch,
        }
    }
}

/// The clock as the loop would read it: of the system, or of the simulation, where it stands still within a turn.
pub fn monotonic(now: u64) -> u64 {
    if VIRTUAL_TIME.get() {
        return now;
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes the one struct that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_nanos() as u64
}

pub fn nanoseconds(lp: &Loop) -> u64 {
    lp.now().as_nanos() as u64
}

/// With the world, outside of callbacks.
pub fn outside<R>(run: impl FnOnce(&mut World) -> R) -> Option<R> {
    WORLD.with(|slot| slot.borrow_mut().as_mut().map(|world| run(world)))
}

/// In a callback: what the model says of it, and then what the program has for it.
pub fn called(lp: &Loop, callback: Callback, at: Option<usize>, run: impl FnOnce(&mut World)) {
    called_then(lp, callback, at, run, |_| ())
}

/// As [`called`]; and what holds when it returns.
pub fn called_then<R: Default>(
    lp: &Loop,
    callback: Callback,
    at: Option<usize>,
    run: impl FnOnce(&mut World),
    then: impl FnOnce(&mut World) -> R,
) -> R {
    let result = WORLD.with(|slot| {
        let Ok(mut slot) = slot.try_borrow_mut() else {
            // The world is in use: a call of the library has called back.
            NESTED.set(true);
            return R::default();
        };
        let Some(world) = slot.as_mut() else {
            return R::default();
        };
        if world.is_over() {
            lp.stop();
            return R::default();
        }
        let name = callback.name();
        world.record.callbacks += 1;
        world.count(name);
        world.current = at;
        world.callback = None;
        world.note(|| match at {
            Some(at) => format!("{name} of #{at}"),
            None => name.to_string(),
        });
        world.callback = Some(callback);
        if callback != Callback::Received {
            // That one is a part of the callback that gave the memory.
            world.began = Instant::now();
        }
        world.check(!NESTED.get(), || "a callback came inside a call".into());
        world.enter_stage(callback, at);
        if let Some(at) = at {
            use Callback::*;
            if !matches!(callback, Done | HandlerClose | UserClose) {
                let life = world.handles[at].life;
                world.check(life == Life::Open, || {
                    format!("{name} of #{at}, which is {life:?}")
                });
            }
        }
        if !world.is_over() {
            run(world);
        }
        if !world.is_over() {
            world.run_script(lp);
        }
        let result = then(world);
        world.current = None;
        world.callback = None;
        if world.is_over() {
            lp.stop();
        }
        result
    });
    if PANICS.take() {
        // Not by `panic!`, which would say so.
        std::panic::resume_unwind(Box::new(OnPurpose));
    }
    result
}

impl Callback {
    fn name(self) -> &'static str {
        use Callback::*;
        match self {
            Timer => "timer callback",
            Deferred => "deferred function",
            Posted => "posted function",
            Canceled => "canceled function",
            Idle => "idle hook",
            Prepare => "prepare hook",
            Check => "check hook",
            Waker => "waker callback",
            Signal => "signal callback",
            Poll => "poll callback",
            Accept => "on_accept",
            Open => "on_open",
            Data => "on_data",
            Memory => "memory",
            Received => "on_received",
            Datagram => "on_datagram",
            End => "on_end",
            Drain => "on_drain",
            Timeout => "on_timeout",
            Error => "on_error",
            Exit => "on_exit",
            Passed => "on_descriptors",
            Watch => "watch callback",
            Done => "done",
            HandlerClose => "on_close of a handler",
            UserClose => "on_close callback",
        }
    }
}
