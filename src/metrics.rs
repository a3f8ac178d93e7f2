//! What a loop tells of itself: counters, the watchdog, the listing of handles.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::time::Duration;

use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Entry, Flags, Id};
use crate::options::SlowCallback;
use crate::sys;
use crate::timers::TimerKey;
use crate::watchdog::Watchdog;

/// Counters of a loop since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Turns of the loop.
    pub turns: u64,
    /// Completions that the driver delivered.
    pub events: u64,
    /// Callbacks that were called.
    pub callbacks: u64,
    /// Time spent waiting, with [`LoopOptions::measure_time`](crate::LoopOptions).
    pub idle: Duration,
    /// Time spent in callbacks, with [`LoopOptions::measure_time`](crate::LoopOptions).
    pub in_callbacks: Duration,
    /// The longest callback, with [`LoopOptions::measure_time`](crate::LoopOptions).
    pub longest_callback: Duration,
    /// Handles that exist now, those that are closing included.
    pub handles: u64,
    /// Posted functions that wait now.
    pub posts_waiting: u64,
}

pub(crate) struct Meter {
    turns: Cell<u64>,
    events: Cell<u64>,
    callbacks: Cell<u64>,
    idle_ns: Cell<u64>,
    callbacks_ns: Cell<u64>,
    longest_ns: Cell<u64>,
    measures: bool,
    /// The times are kept, or watched.
    times_callbacks: bool,
    /// `u64::MAX` without a watchdog.
    slow_ns: u64,
    on_slow: RefCell<Option<SlowCallback>>,
    watchdog: Option<Watchdog>,
}

impl Meter {
    pub fn new(
        measures: bool,
        slow: Option<(Duration, SlowCallback)>,
        watchdog: Option<Watchdog>,
    ) -> Meter {
        let (slow_ns, on_slow) = match slow {
            Some((limit, on_slow)) => (crate::timer::nanoseconds(limit), Some(on_slow)),
            None => (u64::MAX, None),
        };
        Meter {
            turns: Cell::new(0),
            events: Cell::new(0),
            callbacks: Cell::new(0),
            idle_ns: Cell::new(0),
            callbacks_ns: Cell::new(0),
            longest_ns: Cell::new(0),
            measures,
            times_callbacks: measures || slow_ns != u64::MAX || watchdog.is_some(),
            slow_ns,
            on_slow: RefCell::new(on_slow),
            watchdog,
        }
    }

    pub fn turn(&self) {
        add(&self.turns, 1);
    }

    pub fn callbacks(&self) -> u64 {
        self.callbacks.get()
    }

    pub fn event(&self) {
        add(&self.events, 1);
    }

    /// Whether the time of callbacks is of interest to anybody.
    #[inline]
    pub fn times_callbacks(&self) -> bool {
        self.times_callbacks
    }

    /// The time, if the callback's end is to be compared with it.
    #[inline]
    pub fn callback_begins(&self, id: Option<Id>) -> Option<u64> {
        add(&self.callbacks, 1);
        self.times_callbacks.then(|| self.note_beginning(id))
    }

    #[cold]
    fn note_beginning(&self, id: Option<Id>) -> u64 {
        let now = sys::monotonic_ns();
        if let Some(watchdog) = &self.watchdog {
            watchdog.begins(id, now);
        }
        now
    }

    /// No callback runs: none that has ended, nor one that has unwound.
    pub fn no_callback_runs(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.ended();
        }
    }

    #[cold]
    pub fn callback_ended(&self, lp: &Loop, id: Option<Id>, started: u64) {
        self.no_callback_runs();
        let took = sys::monotonic_ns().saturating_sub(started);
        add(&self.callbacks_ns, took);
        self.longest_ns.set(self.longest_ns.get().max(took));
        if took > self.slow_ns {
            /// Puts the watchdog's callback back, also when it unwinds.
            struct Lent<'a>(&'a Meter, Option<SlowCallback>);
            impl Drop for Lent<'_> {
                fn drop(&mut self) {
                    *self.0.on_slow.borrow_mut() = self.1.take();
                }
            }
            let mut lent = Lent(self, self.on_slow.borrow_mut().take());
            if let Some(on_slow) = &mut lent.1 {
                on_slow(lp, id, Duration::from_nanos(took));
            }
        }
    }

    pub fn idle_begins(&self, timeout: Option<u64>) -> Option<u64> {
        (self.measures && timeout != Some(0)).then(sys::monotonic_ns)
    }

    pub fn idle_ended(&self, since: Option<u64>, now: u64) {
        if let Some(since) = since {
            add(&self.idle_ns, now.saturating_sub(since));
        }
    }
}

fn add(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get().wrapping_add(by));
}

impl Loop {
    /// Counters since the loop was made.
    pub fn metrics(&self) -> Metrics {
        let meter = &self.meter;
        Metrics {
            turns: meter.turns.get(),
            events: meter.events.get(),
            callbacks: meter.callbacks.get(),
            idle: Duration::from_nanos(meter.idle_ns.get()),
            in_callbacks: Duration::from_nanos(meter.callbacks_ns.get()),
            longest_callback: Duration::from_nanos(meter.longest_ns.get()),
            handles: self.core.borrow().handles.len() as u64,
            posts_waiting: self.mailbox.posts_waiting() as u64,
        }
    }
}

/// One line about a handle: its kind and number, then what is true of it.
pub(crate) fn describe(core: &Core, id: Id, entry: &Entry) -> String {
    let mut line = format!("{:?} {:?}", entry.kind(), id);
    let mut add = |word: &str| {
        line.push(' ');
        line.push_str(word);
    };
    add(if core.is_active(id) == Ok(true) {
        "active"
    } else {
        "inactive"
    });
    if !entry.flags.contains(Flags::REFERENCED) {
        add("unreferenced");
    }
    let armed = entry.timer != TimerKey::NONE;
    if let Some(deadline) = armed.then(|| core.wheel.deadline(entry.timer)).flatten() {
        let _ = write!(
            line,
            " due-in={:?}",
            Duration::from_nanos(deadline.saturating_sub(core.now))
        );
    }
    match &entry.body {
        Body::Hook(hook) => {
            let _ = write!(line, " kind={:?}", hook.kind);
        }
        Body::Signal(signal) => {
            let _ = write!(line, " signal={}", signal.number);
        }
        Body::Poll(poll) => {
            let _ = write!(line, " descriptor={:?}", poll.source.descriptor());
        }
        #[cfg(any(feature = "net", all(unix, feature = "local")))]
        Body::Listener(listener) => {
            let _ = write!(line, " descriptor={:?}", listener.source.descriptor());
        }
        Body::Stream(stream) => {
            stream.describe(&mut line);
            #[cfg(feature = "net")]
            if let Some(connecting) = core.connecting.get(&id) {
                connecting.describe(&mut line);
            }
        }
        #[cfg(feature = "net")]
        Body::Udp(udp) => udp.describe(&mut line),
        #[cfg(all(unix, feature = "process"))]
        Body::Process(process) => crate::process::describe(process, &mut line),
        #[cfg(feature = "fs")]
        Body::File(file) => file.describe(&mut line),
        #[cfg(feature = "fs")]
        Body::Directory(_) => {}
        Body::Request(request) => {
            let _ = write!(line, " {}", request.stage_name());
        }
        #[cfg(feature = "watch")]
        Body::Watch(watch) => watch.describe(&mut line),
        #[cfg(feature = "net")]
        Body::Attempt(_) => {}
        Body::Timer(_) | Body::Waker(_) => {}
    }
    line
}
