//! The loop: its phases, its run modes, what keeps it alive, and how callbacks are called.
//!
//! One turn, in this order:
//!
//! 1. the clock is updated, and timers that are due fire;
//! 2. deferred functions run;
//! 3. idle hooks, then prepare hooks run;
//! 4. the loop waits, unless something is at hand;
//! 5. what the wait brought is handed out, then posted functions and wakers run, then what these
//!    deferred;
//! 6. check hooks run;
//! 7. closed handles hear their last;
//! 8. ([`RunMode::Once`]: timers that came due meanwhile fire.)
//!
//! Whatever is still to be handed out stands in a queue of the loop, never only on the stack, so
//! that a panic in a callback loses nothing: the next run goes on where it was.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use smallbox::space::S2;
use smallbox::SmallBox;

use crate::driver::{AnyDriver, Completion, Driver};
use crate::error::{Code, Result};
use crate::handles::{Body, Flags, Handles, Id, Kind};
use crate::hook::HookKind;
use crate::metrics::Meter;
use crate::net::listener::ListenerHandler;
use crate::options::LoopOptions;
use crate::remote::Mailbox;
use crate::signal::SignalHub;
use crate::stream::{StreamHandler, Writes};
use crate::sys;
use crate::timers::{TimerKey, Wheel};

/// How long [`Loop::run`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum RunMode {
    /// Until nothing keeps the loop alive, or [`Loop::stop`].
    Default = 0,
    /// One turn, waiting for something to happen unless timers were due or functions deferred.
    Once = 1,
    /// One turn without waiting.
    NoWait = 2,
}

/// Work that runs on the loop, or hears that it will not.
///
/// Every `FnOnce(&Loop)` is a task; its `cancel` does nothing but drop it.
pub trait Task: Sized + 'static {
    /// Runs it.
    fn run(self, lp: &Loop);
    /// The loop is being freed before it could run.
    fn cancel(self, _lp: &Loop) {}
}

impl<F: FnOnce(&Loop) + 'static> Task for F {
    fn run(self, lp: &Loop) {
        self(lp)
    }
}

/// A [`Task`] in a queue: of whatever type, and used once.
pub(crate) trait Queued {
    fn run(&mut self, lp: &Loop);
    fn cancel(&mut self, lp: &Loop);
}

impl<T: Task> Queued for Option<T> {
    fn run(&mut self, lp: &Loop) {
        if let Some(task) = self.take() {
            task.run(lp);
        }
    }

    fn cancel(&mut self, lp: &Loop) {
        if let Some(task) = self.take() {
            task.cancel(lp);
        }
    }
}

/// A posted task. Two words of it stand in place: posting a C function takes no memory but the
/// queue's.
pub(crate) type Posted = SmallBox<dyn Queued + Send, S2>;

pub(crate) type CloseCallback = Box<dyn FnOnce(&Loop, Id)>;

/// What waits for the deferred phase.
pub(crate) enum Deferred {
    Task(Box<dyn Queued>),
    /// The stream has something to tell: see `Loop::stream_events`.
    Stream(Id),
    #[cfg_attr(not(unix), allow(dead_code))] // no signals there
    Signal(Id, i32),
    Waker(Id),
}

/// The last words to a closed handle's user, one callback each.
pub(crate) enum Final {
    Writes(Id, Box<Writes>),
    Stream(Id, Box<dyn StreamHandler>),
    Listener(Id, Box<dyn ListenerHandler>),
    Callback(Id, CloseCallback),
    /// Nothing to say; but the user's destructors may call the loop.
    Drop(Body),
}

pub(crate) struct Core {
    pub handles: Handles,
    pub wheel: Wheel<Id>,
    pub driver: AnyDriver,
    pub deferred: VecDeque<Deferred>,
    /// Posted functions that the loop has taken over from its mailbox.
    pub posted: VecDeque<Posted>,
    /// Closed handles, in the order in which they were closed.
    pub closing: VecDeque<Id>,
    pub finals: VecDeque<Final>,
    pub close_callbacks: HashMap<Id, CloseCallback>,
    /// Started hooks by kind.
    pub hooks: [Vec<Id>; 3],
    pub signals: Option<SignalHub>,
    /// Small writes of the running callback, to be sent when it returns.
    pub gathered: crate::stream::Gathered,
    /// The name that the last owned write got; names are not used again.
    pub last_write: u64,
    /// The loop's clock.
    pub now: u64,
    /// The loop is being freed: nothing new may be opened.
    pub ending: bool,
}

impl Core {
    /// Has the processor fetch the entries of the next timers that are due, all at once: with a
    /// million timers each is a cache miss, and one after the other they are most of the cost.
    /// How many.
    fn fetch_due(&self) -> usize {
        const AT_ONCE: usize = 16;
        let next = self.wheel.upcoming().take(AT_ONCE);
        next.map(|id| self.handles.touch(id)).count()
    }

    /// How many of the handles are the user's: all but the one that signals need.
    pub fn user_handles(&self) -> usize {
        self.handles.len() - usize::from(self.signals.is_some())
    }
}

/// An event loop.
///
/// A loop belongs to the thread that made it. It is used through a shared reference, also by the
/// callbacks, which are handed one; other threads hold a [`Remote`](crate::Remote). Dropping a
/// loop closes every handle that is still open, and runs their closing callbacks.
///
/// Any number of loops may live in a process and in a thread.
pub struct Loop {
    pub(crate) core: RefCell<Core>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) meter: Meter,
    /// The clock was last read before the callback that runs now.
    clock_stale: Cell<bool>,
    in_callback: Cell<bool>,
    running: Cell<bool>,
    stopping: Cell<bool>,
    fork_generation: Cell<u32>,
    #[cfg(feature = "capi")]
    embedder: Cell<*mut ()>,
}

impl Loop {
    /// Makes a loop with default options.
    ///
    /// Errors: those of the system when descriptors or memory are short, such as
    /// [`Code::EMFILE`].
    pub fn new() -> Result<Loop> {
        Loop::with_options(LoopOptions::default())
    }

    /// Makes a loop.
    ///
    /// Errors: as [`Loop::new`]; [`Code::ENOTSUP`] for a driver that this system lacks.
    pub fn with_options(options: LoopOptions) -> Result<Loop> {
        sys::fork::notice();
        let driver = options.driver.or_else(|| std::env::var("KOLO_DRIVER").ok());
        let driver = AnyDriver::open(driver.as_deref(), options.events_per_turn.get() as usize)?;
        let now = sys::monotonic_ns();
        let mailbox = Mailbox::new(driver.waker(), options.post_capacity.get() as usize);
        Ok(Loop {
            core: RefCell::new(Core {
                handles: Handles::new(),
                wheel: Wheel::new(now),
                driver,
                deferred: VecDeque::new(),
                posted: VecDeque::new(),
                closing: VecDeque::new(),
                finals: VecDeque::new(),
                close_callbacks: HashMap::new(),
                hooks: Default::default(),
                signals: None,
                gathered: Default::default(),
                last_write: 0,
                now,
                ending: false,
            }),
            mailbox: Arc::new(mailbox),
            meter: Meter::new(options.measure_time, options.slow_callback),
            clock_stale: Cell::new(true),
            in_callback: Cell::new(false),
            running: Cell::new(false),
            stopping: Cell::new(false),
            fork_generation: Cell::new(sys::fork::generation()),
            #[cfg(feature = "capi")]
            embedder: Cell::new(std::ptr::null_mut()),
        })
    }

    /// Runs callbacks as `mode` says. `true`: something still keeps the loop alive.
    ///
    /// A panic in a callback unwinds out of `run`; the loop stays whole and can be run again.
    ///
    /// Errors: [`Code::EBUSY`] inside a callback of this loop; [`Code::EFORKED`] in a forked
    /// child before [`Loop::forked`]; those of the system's wait call.
    pub fn run(&self, mode: RunMode) -> Result<bool> {
        drop(self.core()?);
        if self.running.replace(true) {
            return Err(Code::EBUSY.into());
        }
        let _running = Reset(&self.running);
        let mut alive = self.is_alive();
        if !alive {
            self.update_now();
        }
        while alive && !self.stopping.get() {
            self.turn(mode)?;
            alive = self.is_alive();
            if mode != RunMode::Default {
                break;
            }
        }
        self.stopping.set(false);
        Ok(alive)
    }

    fn turn(&self, mode: RunMode) -> Result<()> {
        self.meter.turn();
        let callbacks = self.meter.callbacks();
        self.refresh_clock();
        self.run_timers();
        self.run_deferred();
        // Whoever asked for one turn must hear of what happened before the next wait.
        let waits = match mode {
            RunMode::Default => true,
            RunMode::Once => self.meter.callbacks() == callbacks,
            RunMode::NoWait => false,
        };
        self.run_hooks(HookKind::Idle);
        self.run_hooks(HookKind::Prepare);
        self.wait(waits)?;
        self.run_completions();
        self.run_posted();
        self.run_deferred();
        self.run_hooks(HookKind::Check);
        self.run_closing();
        if mode == RunMode::Once {
            self.refresh_clock();
            self.run_timers();
        }
        Ok(())
    }

    /// Makes [`Loop::run`] return after the turn that is running; before a run, that run returns
    /// at once.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// Whether something keeps the loop alive: an active and referenced handle, a handle that is
    /// closing, a deferred or posted function.
    pub fn is_alive(&self) -> bool {
        let core = self.core.borrow();
        core.handles.hold()
            || !core.closing.is_empty()
            || !core.finals.is_empty()
            || !core.deferred.is_empty()
            || self.mailbox.has_posts()
    }

    /// Whether a callback of this loop is running: whether the caller stands inside [`Loop::run`].
    pub fn is_running(&self) -> bool {
        self.running.get()
    }

    /// The loop's cached clock: `CLOCK_MONOTONIC` since an arbitrary point in the past. It is
    /// read once a turn, and again where timers need it.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core.borrow().now)
    }

    /// Reads the clock anew, for a callback that ran long.
    pub fn update_now(&self) {
        self.core.borrow_mut().now = sys::monotonic_ns();
        self.clock_stale.set(false);
    }

    /// The name of the driver: `"poller"`, or `"polling"` where that was asked for.
    pub fn driver_name(&self) -> &'static str {
        self.core.borrow().driver.name()
    }

    /// Runs a task in the next deferred phase: after the callbacks of this phase, before the loop
    /// waits again. It keeps the loop alive until then. Tasks run in the order in which they were
    /// deferred; those deferred in a deferred phase wait for the one after it.
    ///
    /// Errors: [`Code::ECANCELED`] while the loop is being dropped.
    pub fn defer(&self, task: impl Task) -> Result<()> {
        let mut core = self.core()?;
        if core.ending {
            return Err(Code::ECANCELED.into());
        }
        core.deferred
            .push_back(Deferred::Task(Box::new(Some(task))));
        Ok(())
    }

    /// Closes a handle: from now on it is dead, whatever was under way on it.
    ///
    /// Its descriptor is closed at once, its pending writes complete with [`Code::ECANCELED`] in
    /// the closing phase of this turn, and then its closing callbacks come, once and last. May
    /// be called anywhere, also in the handle's own callback.
    ///
    /// Errors: [`Code::EBADF`] for a handle that is closed already.
    pub fn close(&self, handle: impl Into<Id>) -> Result<()> {
        let mut core = self.core()?;
        close(&mut core, handle.into())
    }

    /// Calls `callback` when the handle has closed: after everything else that it had to tell.
    /// The last one set counts.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn on_close(
        &self,
        handle: impl Into<Id>,
        callback: impl FnOnce(&Loop, Id) + 'static,
    ) -> Result<()> {
        let id = handle.into();
        let mut core = self.core()?;
        core.handles
            .get_mut(id)?
            .flags
            .insert(Flags::CLOSE_CALLBACK);
        let former = core.close_callbacks.insert(id, Box::new(callback));
        drop(core);
        drop(former);
        Ok(())
    }

    /// The handle no longer keeps the loop alive.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn unref(&self, handle: impl Into<Id>) -> Result<()> {
        self.set_referenced(handle.into(), false)
    }

    /// The handle keeps the loop alive while it is active, as every handle does at first.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn reference(&self, handle: impl Into<Id>) -> Result<()> {
        self.set_referenced(handle.into(), true)
    }

    fn set_referenced(&self, id: Id, on: bool) -> Result<()> {
        let mut core = self.core()?;
        core.handles.get_mut(id)?;
        core.handles.set_referenced(id, on);
        Ok(())
    }

    /// Whether the handle keeps the loop alive while it is active.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn is_referenced(&self, handle: impl Into<Id>) -> Result<bool> {
        Ok(self
            .core()?
            .handles
            .get(handle.into())?
            .flags
            .contains(Flags::REFERENCED))
    }

    /// Whether something can still happen on the handle by itself: a timer runs, a stream
    /// connects, reads or has writes queued, a hook is started.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn is_active(&self, handle: impl Into<Id>) -> Result<bool> {
        Ok(self
            .core()?
            .handles
            .get(handle.into())?
            .flags
            .contains(Flags::ACTIVE))
    }

    /// What the handle is.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn kind(&self, handle: impl Into<Id>) -> Result<Kind> {
        Ok(self.core()?.handles.get(handle.into())?.kind())
    }

    /// Every open handle, in no particular order.
    pub fn handles(&self) -> Vec<Id> {
        self.core.borrow().handles.ids()
    }

    /// One line about a handle, for a listing in a debugger or a log. The words may change.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn describe(&self, handle: impl Into<Id>) -> Result<String> {
        let id = handle.into();
        let core = self.core()?;
        Ok(crate::metrics::describe(&core, id, core.handles.get(id)?))
    }

    /// A descriptor that becomes readable when the loop has something to do, to wait for it in
    /// another loop: then call [`Loop::run`] with [`RunMode::NoWait`]. Timers do not show there;
    /// see [`Loop::backend_timeout`].
    ///
    /// Errors: [`Code::ENOTSUP`] where the system has none.
    pub fn backend_descriptor(&self) -> Result<crate::RawSocket> {
        self.core()?
            .driver
            .backend_descriptor()
            .ok_or(Code::ENOTSUP.into())
    }

    /// How long another loop may wait before it must run this one; `None`: until the backend
    /// descriptor is readable.
    pub fn backend_timeout(&self) -> Option<Duration> {
        let mut core = self.core.borrow_mut();
        core.now = sys::monotonic_ns();
        self.timeout(&mut core).map(Duration::from_nanos)
    }

    /// Makes the loop usable in the child of a fork, which must call this before anything else
    /// with it. Handles stay as they were; descriptors are shared with the parent, so close what
    /// the child does not serve. The parent is not disturbed. Threads of the parent, and what
    /// they would have posted, are not in the child.
    ///
    /// Errors: [`Code::EBUSY`] inside a callback that the parent was running when it forked, if
    /// the loop is to be run there; those of the system when descriptors are short.
    pub fn forked(&self) -> Result<()> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        core.driver.forked()?;
        for (id, source) in core.handles.sources() {
            core.driver.restore(id, source)?;
        }
        self.fork_generation.set(sys::fork::generation());
        self.mailbox.forked(core.driver.waker());
        crate::signal::forked(core)?;
        Ok(())
    }

    // What follows is for the handles' files.

    /// The loop's inside; not while a callback runs, which would find it borrowed.
    #[inline]
    pub(crate) fn core(&self) -> Result<RefMut<'_, Core>> {
        if self.fork_generation.get() != sys::fork::generation() {
            return Err(Code::EFORKED.into());
        }
        Ok(self.core.borrow_mut())
    }

    /// An error in a forked child before [`Loop::forked`].
    #[cfg(feature = "capi")]
    #[inline]
    pub(crate) fn check_fork(&self) -> Result<()> {
        if self.fork_generation.get() != sys::fork::generation() {
            return Err(Code::EFORKED.into());
        }
        Ok(())
    }

    /// A word that whoever embeds the loop in something of its own keeps in it, to find that
    /// from the `&Loop` that callbacks get.
    #[cfg(feature = "capi")]
    #[inline]
    pub(crate) fn embedder(&self) -> *mut () {
        self.embedder.get()
    }

    #[cfg(feature = "capi")]
    pub(crate) fn set_embedder(&self, word: *mut ()) {
        self.embedder.set(word);
    }

    /// A new handle.
    pub(crate) fn insert(&self, body: Body) -> Result<Id> {
        self.can_insert()?;
        self.core()?.handles.insert(body)
    }

    /// Whether [`Loop::insert`] would take a handle: to be asked before something of the user's
    /// is put into one.
    pub(crate) fn can_insert(&self) -> Result<()> {
        let core = self.core()?;
        if core.ending {
            return Err(Code::ECANCELED.into());
        }
        if core.handles.is_full() {
            return Err(Code::ENOBUFS.into());
        }
        Ok(())
    }

    /// The clock as a timer that is started now needs it: no older than the running callback.
    #[inline]
    pub(crate) fn fresh_clock(&self, core: &mut Core) -> u64 {
        if self.clock_stale.get() || !self.in_callback.get() {
            core.now = sys::monotonic_ns();
            self.clock_stale.set(false);
        }
        core.now
    }

    /// Whether small writes may be gathered: somebody will send them when the callback returns.
    #[inline]
    pub(crate) fn gathers(&self) -> bool {
        self.in_callback.get()
    }

    /// Calls the user, for a handle or for none. Afterwards what it wrote goes to the kernel.
    #[inline]
    pub(crate) fn callback<R>(&self, id: Option<Id>, run: impl FnOnce(&Loop) -> R) -> R {
        struct Leave<'a>(&'a Loop);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.leave_callback();
            }
        }
        let started = self.enter_callback();
        let result = {
            let _leave = Leave(self);
            run(self)
        };
        if let Some(started) = started {
            self.meter.callback_ended(self, id, started);
        }
        result
    }

    /// Calls a callback that was taken out of its handle, and puts it back, also when it
    /// unwinds. If the handle is gone, or has got another one meanwhile, it is dropped.
    #[inline]
    pub(crate) fn call_lent<T, R>(
        &self,
        id: Id,
        lent: Option<T>,
        slot: impl Fn(&mut Body) -> Option<&mut Option<T>>,
        run: impl FnOnce(&Loop, &mut T) -> R,
    ) -> Option<R> {
        struct Lent<'a, T, S: Fn(&mut Body) -> Option<&mut Option<T>>> {
            lp: &'a Loop,
            id: Id,
            what: Option<T>,
            slot: S,
        }
        impl<T, S: Fn(&mut Body) -> Option<&mut Option<T>>> Drop for Lent<'_, T, S> {
            #[inline]
            fn drop(&mut self) {
                let mut core = self.lp.leave_callback();
                if let Some(entry) = core.handles.any_mut(self.id) {
                    if let Some(home @ None) = (self.slot)(&mut entry.body) {
                        *home = self.what.take();
                    }
                }
                // What is left is dropped after the borrow has ended: the user's destructor may
                // call the loop.
            }
        }
        let what = lent?;
        let started = self.enter_callback();
        let mut lent = Lent {
            lp: self,
            id,
            what: Some(what),
            slot,
        };
        let result = lent.what.as_mut().map(|what| run(self, what));
        drop(lent);
        if let Some(started) = started {
            self.meter.callback_ended(self, Some(id), started);
        }
        result
    }

    /// Before a callback: the time, if it is to be measured.
    #[inline]
    fn enter_callback(&self) -> Option<u64> {
        self.clock_stale.set(true);
        self.in_callback.set(true);
        self.meter.callback_begins()
    }

    /// After a callback: what it wrote goes to the kernel.
    #[inline]
    fn leave_callback(&self) -> RefMut<'_, Core> {
        self.in_callback.set(false);
        self.clock_stale.set(true);
        let mut core = self.core.borrow_mut();
        if let Some(owner) = core.gathered.owner() {
            crate::stream::flush(&mut core, owner);
        }
        core
    }

    fn refresh_clock(&self) {
        if self.clock_stale.get() {
            self.update_now();
        }
    }

    fn run_timers(&self) {
        {
            let mut core = self.core.borrow_mut();
            let now = core.now;
            core.wheel.begin_expiry(now);
        }
        let mut fetched = 0;
        loop {
            let due = {
                let core = &mut *self.core.borrow_mut();
                if fetched == 0 {
                    fetched = core.fetch_due();
                }
                fetched = fetched.saturating_sub(1);
                core.wheel.pop_expired()
            };
            let Some(due) = due else { return };
            let kind = self
                .core
                .borrow()
                .handles
                .get(due.payload)
                .map(|entry| entry.kind());
            match kind {
                Ok(Kind::Timer) => {
                    self.timer_fired(crate::Timer(due.payload), due.deadline);
                }
                Ok(Kind::Tcp) => self.stream_timer(due.payload),
                Ok(Kind::Listener) => self.listener_retry(due.payload),
                _ => {}
            }
        }
    }

    /// What was deferred before this phase began.
    fn run_deferred(&self) {
        let mut left = self.core.borrow().deferred.len();
        while left > 0 {
            left -= 1;
            let next = self.core.borrow_mut().deferred.pop_front();
            match next {
                Some(Deferred::Task(mut task)) => self.callback(None, |lp| task.run(lp)),
                Some(Deferred::Stream(id)) => self.stream_events(id),
                Some(Deferred::Signal(id, number)) => self.signal_came(id, number),
                Some(Deferred::Waker(id)) => self.waker_woken(id),
                None => return,
            }
        }
    }

    fn wait(&self, waits: bool) -> Result<()> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let timeout = if !waits || self.stopping.get() {
            Some(0)
        } else {
            if self.clock_stale.get() && core.wheel.len() > 0 {
                core.now = sys::monotonic_ns();
            }
            self.timeout(core)
        };
        let idle_since = self.meter.idle_begins(timeout);
        let outcome = core.driver.wait(timeout, core.now);
        core.now = sys::monotonic_ns();
        self.clock_stale.set(false);
        self.meter.idle_ended(idle_since, core.now);
        outcome
    }

    /// How long the driver may wait, by the clock as it stands.
    fn timeout(&self, core: &mut Core) -> Option<u64> {
        let at_hand = core.driver.has_more()
            || !core.deferred.is_empty()
            || !core.closing.is_empty()
            || !core.finals.is_empty()
            || !core.hooks[HookKind::Idle as usize - 1].is_empty()
            || self.mailbox.has_posts()
            || !core.handles.hold();
        if at_hand {
            return Some(0);
        }
        core.wheel
            .next_deadline()
            .map(|deadline| deadline.saturating_sub(core.now))
    }

    fn run_completions(&self) {
        loop {
            let next = {
                let core = &mut *self.core.borrow_mut();
                core.driver.next(&mut core.handles)
            };
            let Some(completion) = next else { return };
            self.meter.event();
            match completion {
                Completion::Received(id, received) => self.stream_received(id, received),
                Completion::Readable(id) => self.stream_readable(id),
                Completion::Ended(id) => self.stream_ended(id),
                Completion::ReceiveFailed(id, error) => self.stream_failed(id, error),
                Completion::Sent(id, outcome) => self.stream_sent(id, outcome),
                Completion::Connected(id, outcome) => self.stream_connected(id, outcome),
                Completion::Accepted(id, socket) => self.listener_accepted(id, socket),
                Completion::AcceptFailed(id, error) => self.listener_failed(id, error),
                Completion::Polled(id, outcome) => self.polled(id, outcome),
            }
        }
    }

    fn run_closing(&self) {
        {
            let mut core = self.core.borrow_mut();
            while let Some(id) = core.closing.pop_front() {
                if let Some(entry) = core.handles.remove(id) {
                    let callback = entry.flags.contains(Flags::CLOSE_CALLBACK);
                    last_words(&mut core, id, entry.body);
                    let callback = callback.then(|| core.close_callbacks.remove(&id)).flatten();
                    core.finals
                        .extend(callback.map(|callback| Final::Callback(id, callback)));
                }
            }
        }
        loop {
            let next = self.core.borrow_mut().finals.pop_front();
            match next {
                None => return,
                Some(Final::Writes(id, writes)) => self.cancel_writes(id, writes),
                Some(Final::Stream(id, mut handler)) => {
                    self.callback(Some(id), |lp| handler.on_close(lp, crate::Stream(id)));
                }
                Some(Final::Listener(id, mut handler)) => {
                    self.callback(Some(id), |lp| handler.on_close(lp, crate::TcpListener(id)));
                }
                Some(Final::Drop(body)) => drop(body),
                Some(Final::Callback(id, callback)) => {
                    self.callback(Some(id), |lp| callback(lp, id))
                }
            }
        }
    }
}

/// Sets a flag back when it goes out of scope, also when that is by a panic.
struct Reset<'a>(&'a Cell<bool>);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Everything that ends at once when a handle is closed.
pub(crate) fn close(core: &mut Core, id: Id) -> Result<()> {
    if core.gathered.owner() == Some(id) {
        // What was written before `close` goes to the kernel as far as it takes it.
        crate::stream::flush(core, id);
    }
    let entry = core.handles.get_mut(id)?;
    entry.flags.insert(Flags::CLOSING);
    let timer = std::mem::replace(&mut entry.timer, TimerKey::NONE);
    match &mut entry.body {
        Body::Timer(_) => {}
        Body::Hook(hook) => {
            let kind = hook.kind;
            core.hooks[kind as usize - 1].retain(|hook| *hook != id);
        }
        Body::Waker(waker) => waker.close(),
        Body::Signal(signal) => {
            let number = signal.number;
            crate::signal::unwatch(core, id, number);
        }
        Body::Poll(poll) => core.driver.close(id, &mut poll.source),
        Body::Listener(listener) => core.driver.close(id, &mut listener.source),
        Body::Stream(stream) => core.driver.close(id, &mut stream.source),
    }
    if timer != TimerKey::NONE {
        core.wheel.remove(timer);
    }
    core.handles.set_active(id, false);
    core.closing.push_back(id);
    Ok(())
}

/// Queues what a closed handle's user is still to hear.
fn last_words(core: &mut Core, id: Id, body: Body) {
    match body {
        Body::Stream(stream) => {
            let (writes, handler) = stream.into_last_words();
            core.finals
                .extend(writes.map(|writes| Final::Writes(id, writes)));
            core.finals
                .extend(handler.map(|handler| Final::Stream(id, handler)));
        }
        Body::Listener(listener) => {
            let handler = listener.into_handler();
            core.finals
                .extend(handler.map(|handler| Final::Listener(id, handler)));
        }
        other => core.finals.push_back(Final::Drop(other)),
    }
}

impl Loop {
    /// Closes everything, and tells those concerned. All of the user's code that runs because a
    /// loop goes runs in here, through a shared reference: it may call the loop.
    pub(crate) fn end(&self) {
        let posted = {
            let mut core = self.core.borrow_mut();
            core.ending = true;
            for id in core.handles.all_ids() {
                // Those that are closing already answer EBADF, and are on their way.
                let _ = close(&mut core, id);
            }
            let mut posted = std::mem::take(&mut core.posted);
            posted.extend(self.mailbox.end());
            posted
        };
        for mut task in posted {
            self.callback(None, |lp| task.cancel(lp));
        }
        loop {
            self.run_closing();
            let next = self.core.borrow_mut().deferred.pop_front();
            match next {
                None => break,
                Some(Deferred::Task(mut task)) => self.callback(None, |lp| task.cancel(lp)),
                // Their handles are closed.
                Some(Deferred::Stream(_) | Deferred::Signal(..) | Deferred::Waker(_)) => {}
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loop")
            .field("alive", &self.is_alive())
            .field("running", &self.running.get())
            .finish_non_exhaustive()
    }
}
