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
//! 7. the closing callbacks of closed handles run;
//! 8. ([`RunMode::Once`]: timers that came due meanwhile fire.)
//!
//! Whatever is still to be handed out stands in a queue of the loop, never only on the stack, so
//! that a panic in a callback loses nothing: the next run goes on where it was.

mod any_handle;
mod calls;
mod closing;
mod task;
mod turn;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use closing::{close, Final};
pub use task::Task;
pub(crate) use task::{Posted, Queued};

use crate::driver::{AnyDriver, Buffer, Driver};
use crate::error::{Code, Result};
use crate::handles::{Body, Flags, Handles, Id};
use crate::metrics::Meter;
#[cfg(feature = "net")]
use crate::net::connecting::{AttemptNews, Connecting};
use crate::options::LoopOptions;
use crate::pool::Pool;
use crate::remote::Mailbox;
use crate::signal::SignalHub;
use crate::sys;
use crate::timers::Wheel;
use crate::watchdog::Watchdog;
use closing::CloseCallback;

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

/// Functions that may wait for the deferred phase, with what handles have to do there: far more than a callback
/// has reason to ask for, so that one that never ends asking is found out before the memory is gone.
const DEFERRED_MAX: usize = 1 << 20;

/// What waits for the deferred phase.
pub(crate) enum Deferred {
    Task(Box<dyn Queued>),
    /// The stream has something to tell: see `Loop::stream_events`.
    Stream(Id),
    #[cfg_attr(not(unix), allow(dead_code))] // no signals there
    Signal(Id, i32),
    Waker(Id),
    /// The UDP socket has something to tell: see `Loop::udp_events`.
    #[cfg(feature = "net")]
    Udp(Id),
    /// The child is to be looked at: it may have ended.
    #[cfg(all(unix, feature = "process"))]
    Process(Id),
    /// The request's outcome is to be told.
    Request(Id),
    /// Watches have something to tell.
    #[cfg(feature = "watch")]
    Watches,
    /// What became of an attempt to connect a stream.
    #[cfg(feature = "net")]
    Attempt(Id, Box<AttemptNews>),
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
    /// Hooks that are still to run in this phase. One that is stopped leaves it, also when it is started again.
    pub hooks_due: VecDeque<Id>,
    #[cfg_attr(not(unix), allow(dead_code))]
    pub signals: Option<SignalHub>,
    #[cfg(all(unix, feature = "local"))]
    pub local: crate::local::LocalCore,
    #[cfg(all(unix, feature = "process"))]
    pub children: crate::process::Children,
    #[cfg(feature = "watch")]
    pub watching: crate::watch::Watching,
    #[cfg(all(unix, feature = "tty"))]
    pub ttys: crate::tty::Ttys,
    /// Made when it is first needed.
    pub pool: Option<Pool>,
    /// What streams are up to that have no socket yet.
    #[cfg(feature = "net")]
    pub connecting: HashMap<Id, Box<Connecting>>,
    /// Closed requests at whose job a thread still is.
    pub lingering: usize,
    /// Small writes of the running callback, to be sent when it returns.
    pub gathered: crate::stream::Gathered,
    /// Datagrams that are to be sent when the running callback returns, or the batch is through.
    #[cfg(feature = "net")]
    pub datagrams: crate::net::udp::Gathered,
    /// The name that the last owned write got; names are not used again.
    pub last_write: u64,
    /// The loop's clock.
    pub now: u64,
    /// The loop is being freed: nothing new may be opened.
    pub ending: bool,
}

impl Core {
    /// Whether the handle keeps the loop alive while it is active.
    pub fn set_referenced(&mut self, id: Id, on: bool) {
        self.handles.set_referenced(id, on);
        self.handles.timers.set_referenced(id, on, &self.wheel);
    }

    /// Whether something can still happen on a live handle by itself.
    pub fn is_active(&self, id: Id) -> Result<bool> {
        let flags = self.handles.get(id)?.flags;
        Ok(flags.contains(Flags::ACTIVE) || self.handles.timers.is_active(id, &self.wheel))
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
    /// What streams share for receiving: borrowed while completions are handed out.
    buffer: RefCell<Buffer>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) meter: Meter,
    /// The clock was last read before the callback that runs now.
    clock_stale: Cell<bool>,
    in_callback: Cell<bool>,
    running: Cell<bool>,
    stopping: Cell<bool>,
    /// A callback unwound, so that the phases after it are still to come for what its turn's wait found: a wake is
    /// told by the driver once.
    cut_short: Cell<bool>,
    fork_generation: Cell<u32>,
    /// What files may still bring in this turn without another thread, in bytes.
    #[cfg(feature = "fs")]
    pub(crate) at_once_left: Cell<usize>,
    #[cfg(feature = "capi")]
    embedder: Cell<*mut ()>,
    /// What runs it, with others, on virtual time.
    #[cfg(feature = "sim")]
    pub(crate) simulation: Option<crate::sim::Member>,
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
    /// Errors: as [`Loop::new`]; [`Code::ENOTSUP`] for a driver that this system lacks;
    /// [`Code::EAGAIN`] when the system gives no thread for
    /// [`LoopOptions::stuck_callback`].
    pub fn with_options(mut options: LoopOptions) -> Result<Loop> {
        sys::fork::notice();
        let driver = options.driver.take();
        let driver = driver.or_else(|| std::env::var("KOLO_DRIVER").ok());
        let driver = AnyDriver::open(driver.as_deref(), options.events_per_turn.get() as usize)?;
        Loop::over(driver, options)
    }

    /// A loop over this driver.
    ///
    /// Errors: [`Code::EAGAIN`] when the system gives no thread for the watchdog.
    pub(crate) fn over(driver: AnyDriver, options: LoopOptions) -> Result<Loop> {
        let watchdog = options.stuck_callback;
        let watchdog = watchdog.map(|(limit, on_stuck)| Watchdog::start(limit, on_stuck));
        let watchdog = watchdog.transpose()?;
        let now = driver.clock_ns();
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
                hooks_due: VecDeque::new(),
                signals: None,
                #[cfg(all(unix, feature = "local"))]
                local: Default::default(),
                #[cfg(all(unix, feature = "process"))]
                children: Default::default(),
                #[cfg(feature = "watch")]
                watching: Default::default(),
                #[cfg(all(unix, feature = "tty"))]
                ttys: Default::default(),
                pool: options.pool,
                #[cfg(feature = "net")]
                connecting: HashMap::new(),
                lingering: 0,
                gathered: Default::default(),
                #[cfg(feature = "net")]
                datagrams: Default::default(),
                last_write: 0,
                now,
                ending: false,
            }),
            buffer: RefCell::default(),
            mailbox,
            meter: Meter::new(options.measure_time, options.slow_callback, watchdog),
            clock_stale: Cell::new(true),
            in_callback: Cell::new(false),
            running: Cell::new(false),
            stopping: Cell::new(false),
            cut_short: Cell::new(false),
            fork_generation: Cell::new(sys::fork::generation()),
            #[cfg(feature = "fs")]
            at_once_left: Cell::new(crate::fs::AT_ONCE_PER_TURN),
            #[cfg(feature = "capi")]
            embedder: Cell::new(std::ptr::null_mut()),
            #[cfg(feature = "sim")]
            simulation: None,
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
        #[cfg(feature = "sim")]
        if let Some(member) = &self.simulation {
            return member.run(self, mode);
        }
        if self.running.replace(true) {
            return Err(Code::EBUSY.into());
        }
        let _running = Running(self);
        // However long ago the last run was.
        self.clock_stale.set(true);
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

    /// One turn of a loop that is run by its simulation. Whether it asked to be stopped.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated_turn(&self) -> Result<bool> {
        drop(self.core()?);
        if self.running.replace(true) {
            return Err(Code::EBUSY.into());
        }
        let _running = Running(self);
        // Time passes between turns, and not while one waits.
        self.update_now();
        self.turn(RunMode::NoWait)?;
        Ok(self.stopping.replace(false))
    }

    /// Whether it was asked to stop before it ran; it is not any more.
    #[cfg(feature = "sim")]
    pub(crate) fn take_stop(&self) -> bool {
        self.stopping.replace(false)
    }

    /// When the loop has something to do, by its clock; `None`: never by itself.
    #[cfg(feature = "sim")]
    pub(crate) fn due(&self) -> Option<u64> {
        let mut core = self.core.borrow_mut();
        if core.ending {
            return None;
        }
        let at_hand = self.has_at_hand(&core);
        match at_hand {
            true => Some(0),
            false => core.wheel.next_deadline(),
        }
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
        let core = &mut *self.core.borrow_mut();
        core.now = core.driver.clock_ns();
        self.clock_stale.set(false);
    }

    /// The name of the driver: `"poller"`, or `"polling"` or `"uring"` where that was asked for; `"sim"` in a simulation.
    pub fn driver_name(&self) -> &'static str {
        self.core.borrow().driver.name()
    }

    /// Runs a task in the next deferred phase: after the callbacks of this phase, before the loop
    /// waits again. It keeps the loop alive until then. Tasks run in the order in which they were
    /// deferred; those deferred in a deferred phase wait for the one after it.
    ///
    /// Errors: [`Code::ECANCELED`] while the loop is being dropped; [`Code::ENOBUFS`] when 1,048,576
    /// wait already.
    pub fn defer(&self, task: impl Task) -> Result<()> {
        let mut core = self.core()?;
        if core.ending {
            return Err(Code::ECANCELED.into());
        }
        if core.deferred.len() >= DEFERRED_MAX {
            return Err(Code::ENOBUFS.into());
        }
        core.deferred
            .push_back(Deferred::Task(Box::new(Some(task))));
        Ok(())
    }

    /// A descriptor that becomes readable when the loop has something to do, to wait for it in
    /// another loop: then call [`Loop::run`] with [`RunMode::NoWait`]. Timers do not show there;
    /// see [`Loop::backend_timeout`].
    ///
    /// Errors: [`Code::ENOTSUP`] where the system has none.
    pub fn backend_descriptor(&self) -> Result<crate::RawSocket> {
        self.core()?
            .driver
            .backend_descriptor()?
            .ok_or(Code::ENOTSUP.into())
    }

    /// How long another loop may wait before it must run this one; `None`: until the backend
    /// descriptor is readable.
    pub fn backend_timeout(&self) -> Option<Duration> {
        let mut core = self.core.borrow_mut();
        core.now = core.driver.clock_ns();
        self.timeout(&mut core).map(Duration::from_nanos)
    }

    /// Makes the loop usable in the child of a fork, which must call this before anything else
    /// with it. Handles stay as they were; descriptors are shared with the parent, so close what
    /// the child does not serve. The parent is not disturbed. Threads of the parent, and what
    /// they would have posted, are not in the child: requests at which they were complete with
    /// [`Code::ECANCELED`].
    ///
    /// In a process that has not forked, and for a loop that has its own objects already, nothing
    /// happens. After an error it may be tried again.
    ///
    /// Errors: [`Code::EBUSY`] inside a callback that the parent was running when it forked, if
    /// the loop is to be run there; those of the system when descriptors are short.
    pub fn forked(&self) -> Result<()> {
        if !self.is_parents() {
            // What is under way is this process's own: threads are at the memory of its requests.
            return Ok(());
        }
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        core.driver.forked()?;
        for (id, source) in core.handles.sources() {
            core.driver.restore(id, source)?;
        }
        self.mailbox.forked(core.driver.waker(), &mut core.handles);
        crate::request::forked(core);
        crate::signal::forked(core)?;
        #[cfg(feature = "watch")]
        crate::watch::forked(core)?;
        self.fork_generation.set(sys::fork::generation());
        Ok(())
    }

    /// The calling thread gives the loop up.
    #[cfg(feature = "capi")]
    pub(crate) fn detach(&self) -> Result<()> {
        self.core()?.driver.detach()
    }

    /// The calling thread has taken the loop.
    #[cfg(feature = "capi")]
    pub(crate) fn attach(&self) -> Result<()> {
        if self.is_parents() {
            return Ok(()); // `forked` is still to come
        }
        self.core.borrow_mut().driver.attach()
    }

    // What follows is for the handles' files.

    /// Whether this process is a fork in which the loop is not its own yet: see [`Loop::forked`].
    #[inline]
    pub(crate) fn is_parents(&self) -> bool {
        self.fork_generation.get() != sys::fork::generation()
    }

    /// The loop's inside; not while a callback runs, which would find it borrowed.
    #[inline]
    pub(crate) fn core(&self) -> Result<RefMut<'_, Core>> {
        if self.is_parents() {
            return Err(Code::EFORKED.into());
        }
        Ok(self.core.borrow_mut())
    }

    /// An error in a forked child before [`Loop::forked`].
    #[cfg(feature = "capi")]
    #[inline]
    pub(crate) fn check_fork(&self) -> Result<()> {
        if self.is_parents() {
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
        let mut core = self.core()?;
        if core.ending {
            return Err(Code::ECANCELED.into());
        }
        #[cfg(feature = "sim")]
        if core.driver.simulated().is_some() && body.needs_kernel() {
            return Err(Code::ENOTSUP.into());
        }
        core.handles.insert(body)
    }

    /// Whether the loop belongs to a simulation.
    #[cfg_attr(not(any(feature = "net", feature = "fs")), allow(dead_code))]
    pub(crate) fn is_simulated(&self) -> bool {
        #[cfg(feature = "sim")]
        return self.simulation.is_some();
        #[cfg(not(feature = "sim"))]
        false
    }

    /// To be asked before something is begun that only the kernel has: an error in a simulation.
    pub(crate) fn needs_kernel(&self) -> Result<()> {
        #[cfg(feature = "sim")]
        if self.is_simulated() {
            return Err(Code::ENOTSUP.into());
        }
        Ok(())
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
            self.read_clock(core);
        }
        core.now
    }

    #[inline(never)]
    fn read_clock(&self, core: &mut Core) {
        core.now = core.driver.clock_ns();
        self.clock_stale.set(false);
    }

    /// Whether callbacks have run since the clock was read, in which time may have passed.
    #[inline]
    pub(crate) fn clock_is_stale(&self) -> bool {
        self.clock_stale.get() && !self.is_simulated()
    }

    /// Whether small writes may be gathered: somebody will send them when the callback returns.
    #[inline]
    pub(crate) fn gathers(&self) -> bool {
        self.in_callback.get()
    }
}

/// While the loop runs. When that ends, also by a panic, everything that was asked for reaches the kernel.
struct Running<'a>(&'a Loop);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        if std::thread::panicking() {
            self.0.cut_short.set(true);
        }
        self.0.meter.no_callback_runs();
        if let Ok(mut core) = self.0.core.try_borrow_mut() {
            core.driver.rest();
        }
        // Of a callback that forked this is the child, too, and the descriptor to write to is the parent's.
        if !self.0.is_parents() {
            self.0.mailbox.run_ended();
        }
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
