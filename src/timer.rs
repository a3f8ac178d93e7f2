//! Timers: one-shot and repeating, in monotonic nanoseconds.

mod table;

use std::time::Duration;

use smallbox::space::S2;
use smallbox::{smallbox, SmallBox};

use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Flags, Handles, Id, Kind};
use crate::timers::Expired;

pub(crate) use table::TimerTable;

/// Two words of it stand in place: a C callback and its pointer need no memory of their own, and
/// a million timers that fire find theirs without another cache miss.
pub(crate) type TimerCallback = SmallBox<dyn FnMut(&Loop, Timer), S2>;

/// A timer's part in the table of handles. What starting it takes is in [`TimerTable`].
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
/// - A timer that is started with no delay fires when timers have their next turn, never in the
///   phase of timers that is running.
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
        // First, so that a callback that is refused is dropped while nothing is borrowed.
        lp.can_insert()?;
        let body = Body::Timer(TimerState::new(smallbox!(callback)));
        let core = &mut *lp.core()?;
        let timer = core.handles.insert(body)?;
        // Its place in the wheel, so that starting it takes no memory.
        let key = core.wheel.add(timer);
        core.handles.get_mut(timer)?.timer = key;
        core.handles.timers.add(timer, key);
        Ok(Timer(timer))
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
    #[inline(always)] // with all that it calls: programs start more timers than they do anything else with them
    pub(crate) fn start_ns(self, lp: &Loop, delay: u64, period: u64) -> Result<()> {
        let mut core = lp.core()?;
        let now = lp.fresh_clock(&mut core);
        let Core { handles, wheel, .. } = &mut *core;
        let mark = handles.timers.find(self.0, wheel)?;
        if mark.repeats() || period != 0 {
            set_period(handles, self, period);
        }
        let armed = wheel.arm_inline(mark.key(), now.saturating_add(delay));
        handles.timers.count(!armed && mark.is_referenced(), true);
        Ok(())
    }

    /// Stops the timer; one that does not run stays as it is.
    ///
    /// Errors: [`Code::EBADF`] for a closed timer.
    #[inline]
    pub fn stop(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        let Core { handles, wheel, .. } = &mut *core;
        let mark = handles.timers.find(self.0, wheel)?;
        let counts = mark.is_referenced() && wheel.is_armed(mark.key());
        handles.timers.count(counts, false);
        wheel.disarm(mark.key());
        Ok(())
    }

    /// Starts a repeating timer anew, its period being the delay too.
    ///
    /// Errors: [`Code::EINVAL`] if it was never started with a period, [`Code::EBADF`] for a
    /// closed timer.
    pub fn again(self, lp: &Loop) -> Result<()> {
        let period = {
            let mut core = lp.core()?;
            state(&mut core.handles, self)?.period
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
        let core = &mut *lp.core()?;
        let mark = core.handles.timers.find(self.0, &core.wheel)?;
        let deadline = core.wheel.deadline(mark.key());
        let deadline = deadline.ok_or(Error::new(Code::ENOENT))?;
        Ok(Duration::from_nanos(deadline.saturating_sub(core.now)))
    }

    /// How many periods were skipped just before the last callback.
    ///
    /// Errors: [`Code::EBADF`] for a closed timer.
    pub fn overrun(self, lp: &Loop) -> Result<u64> {
        let mut core = lp.core()?;
        Ok(state(&mut core.handles, self)?.overrun)
    }
}

/// What the table of handles has of an open timer.
fn state(handles: &mut Handles, timer: Timer) -> Result<&mut TimerState> {
    match &mut handles.get_mut(timer.0)?.body {
        Body::Timer(state) => Ok(state),
        _ => Err(Code::EBADF.into()),
    }
}

#[inline(never)]
fn set_period(handles: &mut Handles, timer: Timer, period: u64) {
    // Of an open timer, as its caller has found.
    if let Ok(state) = state(handles, timer) {
        state.period = period;
        state.overrun = 0;
        handles.timers.set_repeats(timer.0, period != 0);
    }
}

/// Whose deadline has come, and what is to be done.
pub(crate) enum Fired {
    /// A timer's: to be called, unless it runs already.
    Timer(Option<TimerCallback>),
    /// Another handle's.
    Other(Kind),
    Nothing,
}

/// The wheel says that this handle is due; it is disarmed.
#[inline]
pub(crate) fn fire(core: &mut Core, due: Expired<Id>) -> Fired {
    let Expired { payload, deadline } = due;
    let Ok(entry) = core.handles.get_mut(payload) else {
        return Fired::Nothing;
    };
    let key = entry.timer;
    let referenced = entry.flags.contains(Flags::REFERENCED);
    let Body::Timer(state) = &mut entry.body else {
        return Fired::Other(entry.kind());
    };
    let callback = state.callback.take();
    match state.period {
        0 => core.handles.timers.count(referenced, false),
        period => {
            // The first deadline of its phase that is not over yet.
            let overrun = core.now.saturating_sub(deadline) / period;
            state.overrun = overrun;
            let periods = period.saturating_mul(overrun + 1);
            core.wheel.arm(key, deadline.saturating_add(periods));
        }
    }
    Fired::Timer(callback)
}

impl Loop {
    pub(crate) fn call_timer(&self, timer: Timer, callback: Option<TimerCallback>) {
        self.call_lent(timer.0, callback, slot, |lp, callback| callback(lp, timer));
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<TimerCallback>> {
    match body {
        Body::Timer(state) => Some(&mut state.callback),
        _ => None,
    }
}
