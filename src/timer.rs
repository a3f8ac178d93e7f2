//! Timers: one-shot and repeating, in monotonic nanoseconds.

use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Entry, Id};
use crate::timers::TimerKey;

pub(crate) type TimerCallback = Box<dyn FnMut(&Loop, Timer)>;

/// A timer's part in the table of handles.
pub(crate) struct TimerState {
    /// Out while it runs.
    callback: Option<TimerCallback>,
    /// Nanoseconds; 0: one-shot.
    period: u64,
    overrun: u64,
}

impl TimerState {
    pub fn new(callback: TimerCallback) -> TimerState {
        TimerState {
            callback: Some(callback),
            period: 0,
            overrun: 0,
        }
    }
}

/// Calls a function once, or again and again, when its time has come.
///
/// # What holds
///
/// - A timer never fires early. Several that are due fire in the order of their deadlines, and
///   those with the same deadline in the order in which they were started.
/// - The delay counts from the loop's clock, which is read anew at the first start in each
///   callback, and at every start outside of callbacks: never from a time before the callback.
/// - A repeating timer keeps its phase: its deadlines are the first one plus multiples of the
///   period. Periods that passed while the loop was busy are not made up: the callback runs once
///   and [`Timer::overrun`] tells how many were skipped.
/// - A timer that is started with no delay fires in the next turn, never in the same one.
///
/// Starting, stopping and re-arming take constant time (see the `timers` module). A stopped
/// timer stays open until it is closed with [`Loop::close`].
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use kolo::{Loop, RunMode, Timer};
///
/// let lp = Loop::new()?;
/// let mut left = 3;
/// let timer = Timer::open(&lp, move |lp, timer| {
///     left -= 1;
///     if left == 0 {
///         lp.close(timer).unwrap();
///     }
/// })?;
/// timer.start_repeating(&lp, Duration::from_millis(1), Duration::from_millis(1))?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timer(pub(crate) Id);

crate::handles::handle_type!(Timer);

/// A `Duration` as the nanoseconds of the loop's clock; what does not fit is 584 years away.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Timer {
    /// Makes a timer that does not run yet.
    ///
    /// Errors: [`Code::ENOBUFS`] when the loop holds as many handles as it can.
    pub fn open(lp: &Loop, callback: impl FnMut(&Loop, Timer) + 'static) -> Result<Timer> {
        let body = Body::Timer(TimerState::new(Box::new(callback)));
        Ok(Timer(lp.insert(body)?))
    }

    /// Calls `callback` once after `delay`, and closes the timer by itself.
    ///
    /// Errors: as [`Timer::open`].
    pub fn after(
        lp: &Loop,
        delay: Duration,
        callback: impl FnOnce(&Loop) + 'static,
    ) -> Result<Timer> {
        let mut callback = Some(callback);
        let timer = Timer::open(lp, move |lp, timer| {
            // Closing first lets the callback panic without leaving the timer behind.
            let _ = lp.close(timer);
            if let Some(callback) = callback.take() {
                callback(lp);
            }
        })?;
        timer.start(lp, delay)?;
        Ok(timer)
    }

    /// Fires once after `delay`. A running timer is started anew.
    ///
    /// Errors: [`Code::EBADF`] for a closed timer.
    pub fn start(self, lp: &Loop, delay: Duration) -> Result<()> {
        self.start_ns(lp, nanoseconds(delay), 0)
    }

    /// Fires after `delay` and then every `period`. A running timer is started anew.
    ///
    /// Errors: [`Code::EINVAL`] for a zero period, [`Code::EBADF`] for a closed timer.
    pub fn start_repeating(self, lp: &Loop, delay: Duration, period: Duration) -> Result<()> {
        if period.is_zero() {
            return Err(Code::EINVAL.into());
        }
        self.start_ns(lp, nanoseconds(delay), nanoseconds(period))
    }

    /// Nanoseconds throughout; a period of 0 fires once.
    pub(crate) fn start_ns(self, lp: &Loop, delay: u64, period: u64) -> Result<()> {
        let mut core = lp.core()?;
        let now = lp.fresh_clock(&mut core);
        let (entry, _) = state(&mut core, self)?;
        let was_active = entry.flags.contains(crate::handles::Flags::ACTIVE);
        if let Body::Timer(timer) = &mut entry.body {
            timer.period = period;
            timer.overrun = 0;
        }
        let had = entry.timer;
        let key = if had == TimerKey::NONE {
            core.wheel.add(self.0)
        } else {
            had
        };
        core.wheel.arm(key, now.saturating_add(delay));
        if had == TimerKey::NONE {
            core.handles.get_mut(self.0)?.timer = key;
        }
        if !was_active {
            core.handles.set_active(self.0, true);
        }
        Ok(())
    }

    /// Stops the timer; one that does not run stays as it is.
    ///
    /// Errors: [`Code::EBADF`] for a closed timer.
    pub fn stop(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        let key = state(&mut core, self)?.0.timer;
        if key != TimerKey::NONE {
            core.wheel.disarm(key);
        }
        core.handles.set_active(self.0, false);
        Ok(())
    }

    /// Starts a repeating timer anew, its period being the delay too.
    ///
    /// Errors: [`Code::EINVAL`] if it was never started with a period, [`Code::EBADF`] for a
    /// closed timer.
    pub fn again(self, lp: &Loop) -> Result<()> {
        let period = {
            let mut core = lp.core()?;
            state(&mut core, self)?.1
        };
        if period == 0 {
            return Err(Code::EINVAL.into());
        }
        self.start_ns(lp, period, period)
    }

    /// Time until the timer fires, by the loop's cached clock; zero when it is due.
    ///
    /// Errors: [`Code::ENOENT`] if it does not run, [`Code::EBADF`] for a closed timer.
    pub fn remaining(self, lp: &Loop) -> Result<Duration> {
        let mut core = lp.core()?;
        let key = state(&mut core, self)?.0.timer;
        let deadline = if key == TimerKey::NONE {
            None
        } else {
            core.wheel.deadline(key)
        };
        let deadline = deadline.ok_or(Error::new(Code::ENOENT))?;
        Ok(Duration::from_nanos(deadline.saturating_sub(core.now)))
    }

    /// How many periods were skipped just before the last callback.
    ///
    /// Errors: [`Code::EBADF`] for a closed timer.
    pub fn overrun(self, lp: &Loop) -> Result<u64> {
        let core = lp.core()?;
        match &core.handles.get(self.0)?.body {
            Body::Timer(timer) => Ok(timer.overrun),
            _ => Err(Code::EBADF.into()),
        }
    }
}

/// The entry of an open timer, and its period.
fn state(core: &mut Core, timer: Timer) -> Result<(&mut Entry, u64)> {
    let entry = core.handles.get_mut(timer.0)?;
    match &entry.body {
        Body::Timer(state) => {
            let period = state.period;
            Ok((entry, period))
        }
        _ => Err(Code::EBADF.into()),
    }
}

impl Loop {
    /// The wheel says that this timer is due; it is disarmed.
    pub(crate) fn timer_fired(&self, timer: Timer, deadline: u64) {
        let callback = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let now = core.now;
            let Ok(entry) = core.handles.get_mut(timer.0) else {
                return;
            };
            let key = entry.timer;
            let Body::Timer(state) = &mut entry.body else {
                return;
            };
            let callback = state.callback.take();
            match now.saturating_sub(deadline).checked_div(state.period) {
                None => core.handles.set_active(timer.0, false),
                Some(overrun) => {
                    // The first deadline of its phase that is not over yet.
                    state.overrun = overrun;
                    let periods = state.period.saturating_mul(overrun + 1);
                    core.wheel.arm(key, deadline.saturating_add(periods));
                }
            }
            callback
        };
        self.call_lent(timer.0, callback, slot, |lp, callback| callback(lp, timer));
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<TimerCallback>> {
    match body {
        Body::Timer(state) => Some(&mut state.callback),
        _ => None,
    }
}
