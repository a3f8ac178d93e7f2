//! Timers, hooks, wakers, deferred and posted functions.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kolo::{Code, Hook, HookKind, Loop, Remote, Task, Timer, Waker};

use super::world::{
    called, called_then, nanoseconds, Body, Callback, Life, Stage, Token, World, VIRTUAL_TIME,
};

pub struct TimerModel {
    /// Closes itself when it fires.
    pub once: bool,
    pub arm: Option<Arm>,
    pub period: u64,
}

/// A running timer's start.
#[derive(Clone, Copy, Debug)]
pub struct Arm {
    pub deadline: u64,
    pub order: u64,
    pub epoch: u64,
    /// By a clock that is not the loop's: not before this.
    pub not_before: Instant,
}

pub struct HookModel {
    pub kind: HookKind,
}

pub struct WakerModel {
    pub remote: Remote,
    pub wakes: u64,
    pub calls: u64,
    /// Woken, and not called since.
    pub unheard: bool,
}

#[derive(Default)]
pub struct Tasks {
    /// Serial numbers, and the phase in whose deferred functions it was deferred.
    pub deferred: VecDeque<(u64, Option<u64>)>,
    pub posted: VecDeque<(u64, Option<u64>)>,
}

const HOOKS: [HookKind; 3] = [HookKind::Idle, HookKind::Prepare, HookKind::Check];

/// Delays in nanoseconds: mostly at hand, some not in this program's time.
fn delay(number: u32) -> Duration {
    Duration::from_nanos(match number % 8 {
        0 | 1 => 0,
        2 => u64::from(number) % 1_000,
        3 | 4 => u64::from(number) * 3,
        5 => 150_000,
        6 => u64::from(number) * 10,
        _ => 3_600_000_000_000,
    })
}

impl World {
    pub fn timer(&mut self, at: usize) -> &mut TimerModel {
        match &mut self.handles[at].body {
            Body::Timer(timer) => timer,
            _ => unreachable!("#{at} is a timer"),
        }
    }

    fn timer_handle(&self, at: usize) -> Timer {
        Timer::from_id(self.handles[at].id)
    }

    pub fn timer_open(&mut self, lp: &Loop) -> Option<usize> {
        let (at, token) = (self.handles.len(), Token::new());
        let opened = Timer::open(lp, move |lp, _| {
            let _token = &token;
            called(lp, Callback::Timer, Some(at), |world| {
                world.timer_fires(lp, at)
            });
        });
        let timer = self.opened("Timer::open", opened)?;
        let model = TimerModel {
            once: false,
            arm: None,
            period: 0,
        };
        Some(self.add(timer.id(), Body::Timer(model)))
    }

    pub fn timer_after(&mut self, lp: &Loop, number: u32) {
        let (at, token) = (self.handles.len(), Token::new());
        let (delay, real) = (delay(number), self.oldest_clock());
        let opened = Timer::after(lp, delay, move |lp| {
            let _token = &token;
            called_then(
                lp,
                Callback::Timer,
                Some(at),
                |world| {
                    world.timer_fires(lp, at);
                    world.closed(at);
                },
                |_| (),
            );
        });
        if let Some(timer) = self.opened("Timer::after", opened) {
            let model = TimerModel {
                once: true,
                arm: None,
                period: 0,
            };
            self.add(timer.id(), Body::Timer(model));
            self.timer_armed(lp, at, delay, 0, real);
        }
    }

    fn timer_armed(&mut self, lp: &Loop, at: usize, delay: Duration, period: u64, real: Instant) {
        let arm = Arm {
            deadline: nanoseconds(lp).saturating_add(delay.as_nanos() as u64),
            order: self.next_serial(),
            epoch: self.epoch,
            not_before: real + delay,
        };
        let timer = self.timer(at);
        timer.arm = Some(arm);
        timer.period = period;
    }

    pub fn timer_start(&mut self, lp: &Loop, at: usize, number: u32) {
        self.timer_start_in(lp, at, delay(number));
    }

    pub fn timer_start_in(&mut self, lp: &Loop, at: usize, delay: Duration) {
        let real = self.oldest_clock();
        let got = self.timer_handle(at).start(lp, delay);
        if self.outcome("Timer::start", got, None).is_some() {
            self.timer_armed(lp, at, delay, 0, real);
        }
    }

    pub fn timer_repeat(&mut self, lp: &Loop, at: usize, first: u32, period: u32) {
        let period = match period % 8 {
            0 => 0,
            n => u64::from(period) * u64::from(n) * 5,
        };
        let (delay, real) = (delay(first), self.oldest_clock());
        let expected = (period == 0).then_some(Code::EINVAL);
        let got = self
            .timer_handle(at)
            .start_repeating(lp, delay, Duration::from_nanos(period));
        if self
            .outcome("Timer::start_repeating", got, expected)
            .is_some()
        {
            self.timer_armed(lp, at, delay, period, real);
        }
    }

    pub fn timer_again(&mut self, lp: &Loop, at: usize) {
        let (period, real) = (self.timer(at).period, self.oldest_clock());
        let expected = (period == 0).then_some(Code::EINVAL);
        let got = self.timer_handle(at).again(lp);
        if self.outcome("Timer::again", got, expected).is_some() {
            self.timer_armed(lp, at, Duration::from_nanos(period), period, real);
        }
    }

    pub fn timer_stop(&mut self, lp: &Loop, at: usize) {
        let got = self.timer_handle(at).stop(lp);
        self.outcome("Timer::stop", got, None);
        self.timer(at).arm = None;
    }

    pub fn timer_observe(&mut self, lp: &Loop, at: usize) {
        let (arm, handle) = (self.timer(at).arm, self.timer_handle(at));
        let expected = arm.map(|arm| arm.deadline.saturating_sub(nanoseconds(lp)));
        let got = handle.remaining(lp).ok().map(|left| left.as_nanos() as u64);
        self.check(got == expected, || {
            format!("timer #{at} has {got:?} ns left, not {expected:?}")
        });
    }

    fn timer_fires(&mut self, lp: &Loop, at: usize) {
        let (now, epoch, order) = (nanoseconds(lp), self.epoch, self.next_serial());
        let (handle, once) = (self.timer_handle(at), self.timer(at).once);
        let Some(arm) = self.timer(at).arm.take() else {
            self.check(false, || format!("timer #{at} fires and does not run"));
            return;
        };
        self.check(arm.deadline <= now, || {
            format!("timer #{at} fires {} ns early", arm.deadline - now)
        });
        let by_system = VIRTUAL_TIME.get() || Instant::now() >= arm.not_before;
        self.check(by_system, || {
            format!("timer #{at} fires early, by the system's clock")
        });
        self.check(arm.epoch != epoch, || {
            format!("timer #{at} fires in the phase in which it was started")
        });
        // Those started in this phase wait for the next, also with earlier deadlines.
        let passed_over = (0..self.handles.len()).find(|other| {
            matches!(&self.handles[*other].body, Body::Timer(TimerModel { arm: Some(other), .. })
                if other.epoch != epoch
                    && (other.deadline, other.order) < (arm.deadline, arm.order))
        });
        self.check(passed_over.is_none(), || {
            format!("timer #{at} fires before #{passed_over:?}, which is due earlier")
        });
        if self.handles[at].reserved {
            // The test's own, so that no wait is endless.
            self.stop(lp);
        }
        let period = self.timer(at).period;
        if let Some(overrun) = (now - arm.deadline.min(now)).checked_div(period) {
            let periods = period.saturating_mul(overrun + 1);
            self.timer(at).arm = Some(Arm {
                deadline: arm.deadline.saturating_add(periods),
                order,
                epoch,
                not_before: arm.not_before + Duration::from_nanos(periods),
            });
            let got = handle.overrun(lp);
            let got = self.outcome("Timer::overrun", got, None);
            self.check(got == Some(overrun), || {
                format!("timer #{at} skipped {overrun} periods and says {got:?}")
            });
        } else if !once {
            let active = lp.is_active(handle);
            self.check(active == Ok(false), || {
                format!("timer #{at} fired and is {active:?}")
            });
        }
    }

    /// The timer phase is over: whatever was due before it has fired.
    pub fn timers_ended(&mut self, _lp: &Loop) {
        let (now, serial) = self.turn_start;
        let late = (0..self.handles.len()).find(|at| {
            matches!(&self.handles[*at].body, Body::Timer(TimerModel { arm: Some(arm), .. })
                if arm.deadline <= now && arm.order <= serial)
        });
        self.check(late.is_none(), || {
            format!("timer #{late:?} was due and did not fire")
        });
        let idle = (0..self.handles.len()).find(|at| {
            let Body::Stream(stream) = &self.handles[*at].body else {
                return false;
            };
            self.handles[*at].life == Life::Open
                && stream.read_limit().is_some_and(|limit| limit <= now)
                // What is there already, and only waits for the loop, counts.
                && !self.net.all[stream.connection].may_come(stream.side)
        });
        self.check(idle.is_none(), || {
            format!("stream #{idle:?} was idle and heard no timeout")
        });
    }

    pub fn hook_open(&mut self, lp: &Loop, number: u32) -> Option<usize> {
        self.hook_open_kind(lp, HOOKS[number as usize % 3], false)
    }

    /// `marks`: the test's own, which says where the loop stands.
    pub fn hook_open_kind(&mut self, lp: &Loop, kind: HookKind, marks: bool) -> Option<usize> {
        let (at, token) = (self.handles.len(), Token::new());
        let callback = match kind {
            HookKind::Idle => Callback::Idle,
            HookKind::Prepare => Callback::Prepare,
            HookKind::Check => Callback::Check,
        };
        let opened = Hook::open(lp, kind, move |lp, _| {
            let _token = &token;
            if marks {
                super::world::outside(|world| world.phase_begins(lp, kind));
            } else {
                called(lp, callback, Some(at), |world| world.hook_runs(at, kind));
            }
        });
        let hook = self.opened("Hook::open", opened)?;
        Some(self.add(hook.id(), Body::Hook(HookModel { kind })))
    }

    fn hook_handle(&self, at: usize) -> (Hook, usize) {
        let Body::Hook(hook) = &self.handles[at].body else {
            unreachable!("#{at} is a hook");
        };
        (Hook::from_id(self.handles[at].id), hook.kind as usize - 1)
    }

    pub fn hook_start(&mut self, lp: &Loop, at: usize) {
        let (hook, kind) = self.hook_handle(at);
        let got = hook.start(lp);
        self.outcome("Hook::start", got, None);
        if !self.started_hooks[kind].contains(&at) {
            self.started_hooks[kind].push(at);
        }
    }

    pub fn hook_stop(&mut self, lp: &Loop, at: usize) {
        let (hook, kind) = self.hook_handle(at);
        let got = hook.stop(lp);
        self.outcome("Hook::stop", got, None);
        self.started_hooks[kind].retain(|other| *other != at);
    }

    pub fn is_started(&self, at: usize) -> bool {
        let (_, kind) = self.hook_handle(at);
        self.started_hooks[kind].contains(&at)
    }

    /// A phase of hooks begins: those that are started now have their turn.
    pub fn hooks_begin(&mut self, kind: HookKind) {
        let kind = kind as usize - 1;
        let started = self.started_hooks[kind].iter().copied();
        self.due_hooks[kind] = started.filter(|at| !self.handles[*at].reserved).collect();
    }

    fn hook_runs(&mut self, at: usize, kind: HookKind) {
        if kind == HookKind::Idle && !std::mem::replace(&mut self.idle_ran, true) {
            self.hooks_begin(kind);
        }
        let index = kind as usize - 1;
        let expected = loop {
            match self.due_hooks[index].pop_front() {
                Some(next) if !self.started_hooks[index].contains(&next) => {}
                next => break next,
            }
        };
        self.check(expected == Some(at), || {
            format!("hook #{at} runs, not {expected:?}")
        });
    }

    /// A phase of hooks is over: each that was started has run.
    pub fn hooks_ended(&mut self, kind: HookKind) {
        if kind == HookKind::Idle && !std::mem::take(&mut self.idle_ran) {
            self.hooks_begin(kind);
        }
        let index = kind as usize - 1;
        let due = std::mem::take(&mut self.due_hooks[index]);
        let left = due
            .into_iter()
            .find(|at| self.started_hooks[index].contains(at));
        self.check(left.is_none(), || {
            format!("{kind:?} hook #{left:?} did not run")
        });
    }

    pub fn waker_open(&mut self, lp: &Loop) {
        let (at, token) = (self.handles.len(), Token::new());
        let opened = Waker::open(lp, move |lp, _| {
            let _token = &token;
            called(lp, Callback::Waker, Some(at), |world| {
                world.waker_called(at)
            });
        });
        let Some(waker) = self.opened("Waker::open", opened) else {
            return;
        };
        let remote = waker.remote(lp);
        if let Some(remote) = self.outcome("Waker::remote", remote, None) {
            let model = WakerModel {
                remote,
                wakes: 0,
                calls: 0,
                unheard: false,
            };
            self.add(waker.id(), Body::Waker(model));
        }
    }

    fn waker(&mut self, at: usize) -> &mut WakerModel {
        match &mut self.handles[at].body {
            Body::Waker(waker) => waker,
            _ => unreachable!("#{at} is a waker"),
        }
    }

    /// Wakes one, open or closed.
    pub fn waker_wake(&mut self, number: u32) {
        let wakers: Vec<usize> = (0..self.handles.len())
            .filter(|at| matches!(self.handles[*at].body, Body::Waker(_)))
            .collect();
        let count = wakers.len().max(1);
        let Some(at) = wakers.get(number as usize % count).copied() else {
            return;
        };
        let gone = self.stage == Stage::Ending || !self.is_open(at);
        let got = self.waker(at).remote.wake();
        if self
            .outcome("Remote::wake", got, gone.then_some(Code::ECANCELED))
            .is_some()
        {
            let waker = self.waker(at);
            waker.wakes += 1;
            waker.unheard = true;
        }
    }

    fn waker_called(&mut self, at: usize) {
        let waker = self.waker(at);
        waker.calls += 1;
        waker.unheard = false;
        let (calls, wakes) = (waker.calls, waker.wakes);
        self.check(calls <= wakes, || {
            format!("waker #{at} called {calls} times for {wakes} wakes")
        });
    }

    pub fn defer(&mut self, lp: &Loop) {
        let serial = self.next_serial();
        let got = lp.defer(Job::new(serial, Callback::Deferred));
        if self.opened("Loop::defer", got).is_some() {
            let during = self.callback == Some(Callback::Deferred);
            let phase = during.then_some(self.phases);
            self.tasks.deferred.push_back((serial, phase));
        }
    }

    pub fn post(&mut self) {
        let serial = self.next_serial();
        let got = self.remote.post(Job::new(serial, Callback::Posted));
        let full = self.tasks.posted.len() >= self.post_capacity;
        let expected = match self.stage {
            Stage::Ending => Some(Code::ECANCELED),
            _ => full.then_some(Code::ENOBUFS),
        };
        if self.outcome("Remote::post", got, expected).is_some() {
            let during = self.callback == Some(Callback::Posted);
            let phase = during.then_some(self.phases);
            self.tasks.posted.push_back((serial, phase));
        } else if full {
            self.count("post refused");
        }
    }

    pub fn job(&mut self, serial: u64, callback: Callback, runs: bool) {
        let queue = match callback {
            Callback::Deferred => &mut self.tasks.deferred,
            _ => &mut self.tasks.posted,
        };
        let next = queue.pop_front();
        self.check(next.map(|(serial, _)| serial) == Some(serial), || {
            format!("{callback:?} function {serial} comes, not {next:?}")
        });
        let phases = self.phases;
        self.check(
            !runs || next.is_none_or(|(_, phase)| phase != Some(phases)),
            || format!("{callback:?} function {serial} runs in the phase in which it was queued"),
        );
    }
}

/// A deferred or posted function.
struct Job {
    serial: u64,
    callback: Callback,
    _token: Token,
}

impl Job {
    fn new(serial: u64, callback: Callback) -> Job {
        Job {
            serial,
            callback,
            _token: Token::new(),
        }
    }
}

impl Task for Job {
    fn run(self, lp: &Loop) {
        called(lp, self.callback, None, |world| {
            world.job(self.serial, self.callback, true)
        });
    }

    fn cancel(self, lp: &Loop) {
        called(lp, Callback::Canceled, None, |world| {
            world.job(self.serial, self.callback, false);
        });
    }
}
