//! A pool of threads for work that would block a loop.
//!
//! A pool has three [classes](WorkClass), each with threads and a queue of its own, so that names that are slow to
//! resolve never keep files waiting, nor files a computation. A thread is started when work waits and none is idle, and
//! ends when it was idle for a while: a class that is not used costs nothing.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::error::{Code, Error};
use crate::handles::Id;
use crate::remote::Mailbox;
use crate::sys;

/// What kind of work it is: each class has threads of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum WorkClass {
    /// Keeps a processor busy. As made: as many threads as processors are to be had.
    #[default]
    Compute = 0,
    /// Waits for disks. kolo's own files are here. As made: 4 threads.
    Files = 1,
    /// Waits for who knows how long, such as for another machine. kolo's own names are here. As made: 4 threads.
    Slow = 2,
}

impl WorkClass {
    /// Every class.
    pub const ALL: [WorkClass; 3] = [WorkClass::Compute, WorkClass::Files, WorkClass::Slow];

    const fn thread_name(self) -> &'static str {
        match self {
            WorkClass::Compute => "kolo-compute",
            WorkClass::Files => "kolo-files",
            WorkClass::Slow => "kolo-slow",
        }
    }
}

/// How a [`Pool`] is made. `..Default::default()` leaves the rest as it is.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Threads of [`WorkClass::Compute`], at most; `None`: as many as processors are to be had.
    pub compute_threads: Option<NonZeroU32>,
    /// Threads of [`WorkClass::Files`], at most.
    pub file_threads: NonZeroU32,
    /// Threads of [`WorkClass::Slow`], at most.
    pub slow_threads: NonZeroU32,
    /// Pieces of work of one class that may wait, at most; one more gives [`Code::ENOBUFS`].
    pub queue_capacity: NonZeroU32,
    /// How long a thread waits for work before it ends.
    pub idle: Duration,
    /// The size of each thread's stack in bytes; `None`: Rust's choice, 2 MiB.
    pub stack_size: Option<usize>,
}

/// Disks and resolvers answer some requests at a time, not very many.
const WAITING_THREADS: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// Enough for a burst, and a bound on what a pool that does not keep up costs.
const QUEUE_CAPACITY: NonZeroU32 = NonZeroU32::new(65_536).unwrap();

impl Default for PoolOptions {
    fn default() -> PoolOptions {
        PoolOptions {
            compute_threads: None,
            file_threads: WAITING_THREADS,
            slow_threads: WAITING_THREADS,
            queue_capacity: QUEUE_CAPACITY,
            // Longer than the pauses of a program that is at work, shorter than anybody looks at a process list.
            idle: Duration::from_secs(10),
            stack_size: None,
        }
    }
}

impl PoolOptions {
    fn threads(&self, class: WorkClass) -> usize {
        let threads = match class {
            WorkClass::Compute => self.compute_threads,
            WorkClass::Files => Some(self.file_threads),
            WorkClass::Slow => Some(self.slow_threads),
        };
        let processors = || std::thread::available_parallelism().map_or(1, |count| count.get());
        threads.map_or_else(processors, |threads| threads.get() as usize)
    }
}

/// A pool of threads, which loops share: [`LoopOptions::pool`](crate::LoopOptions::pool). Without it each loop has a pool
/// of its own, made when it is first needed.
///
/// A clone is another hold on the same pool. When the last one goes, loops' holds included, the threads end; that waits
/// for the work that they have begun, except for names being looked up: a resolver may take half a minute, and what it
/// uses is its own, so its thread ends by itself when it is done. May be used from any thread. In a forked child a parent's pool takes no work
/// ([`Code::EFORKED`]): its threads are not there.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    options: PoolOptions,
    lanes: [Arc<Lane>; WorkClass::ALL.len()],
    fork_generation: u32,
}

impl Pool {
    /// Makes a pool. No thread is started yet.
    pub fn new(options: PoolOptions) -> Pool {
        sys::fork::notice();
        let lanes = WorkClass::ALL.map(|class| Arc::new(Lane::new(class, &options)));
        Pool(Arc::new(Inner {
            options,
            lanes,
            fork_generation: sys::fork::generation(),
        }))
    }

    /// Pieces of work of one class that may wait.
    #[cfg_attr(not(feature = "fs"), allow(dead_code))]
    pub(crate) fn queue_capacity(&self) -> usize {
        self.0.options.queue_capacity.get() as usize
    }

    /// Whether work of this class is done one after the other, in its order.
    #[cfg_attr(not(feature = "fs"), allow(dead_code))]
    pub(crate) fn is_ordered(&self, class: WorkClass) -> bool {
        self.0.options.threads(class) == 1
    }

    /// A pool like this one, for a forked child.
    pub(crate) fn anew(&self) -> Pool {
        Pool::new(self.0.options.clone())
    }

    /// Queues the work of a request. It comes back with an error.
    ///
    /// Errors: [`Code::ENOBUFS`] when as many wait as may; [`Code::EAGAIN`] when the system gives no thread and there is
    /// none yet; [`Code::EFORKED`] in a forked child.
    pub(crate) fn submit(
        &self,
        class: WorkClass,
        job: Box<dyn Job>,
        home: Weak<Mailbox>,
        id: Id,
        may_abandon: bool,
    ) -> std::result::Result<Arc<Ticket>, (Error, Box<dyn Job>)> {
        self.queue(class, job, Some((home, id)), may_abandon)
    }

    /// Queues work whose outcome nobody waits for. It comes back when the pool does not take it.
    #[cfg_attr(not(feature = "fs"), allow(dead_code))]
    pub(crate) fn submit_detached(
        &self,
        class: WorkClass,
        job: Box<dyn Job>,
    ) -> std::result::Result<(), Box<dyn Job>> {
        let queued = self.queue(class, job, None, false);
        queued.map(drop).map_err(|(_, job)| job)
    }

    fn queue(
        &self,
        class: WorkClass,
        job: Box<dyn Job>,
        home: Option<(Weak<Mailbox>, Id)>,
        may_abandon: bool,
    ) -> std::result::Result<Arc<Ticket>, (Error, Box<dyn Job>)> {
        if self.0.fork_generation != sys::fork::generation() {
            return Err((Code::EFORKED.into(), job));
        }
        let lane = &self.0.lanes[class as usize];
        let ticket = Arc::new(Ticket {
            stopper: job.stopper(),
            job: Mutex::new(Some(job)),
            lane: Some(lane.clone()),
            home,
            may_abandon,
        });
        match lane.push(ticket.clone(), self.0.options.stack_size) {
            Ok(()) => Ok(ticket),
            // Not queued, or taken out of the queue: it is there.
            Err((error, Some(job))) => Err((error, job)),
            Err((_, None)) => Ok(ticket),
        }
    }
}

/// Whether the calling thread is one of a pool's: whether it may wait for disks.
#[cfg_attr(not(feature = "fs"), allow(dead_code))]
pub(crate) fn is_pool_thread() -> bool {
    WORKER.try_with(Cell::get).is_ok_and(|number| number > 0)
}

impl Default for Pool {
    /// A pool with default options.
    fn default() -> Pool {
        Pool::new(PoolOptions::default())
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.options.fmt(f)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.fork_generation != sys::fork::generation() {
            // The threads are the parent's, and what they held locked stays locked here: nothing may be touched.
            for lane in &self.lanes {
                leave_to_parent(lane.clone());
            }
            return;
        }
        let threads: Vec<_> = self.lanes.iter().flat_map(|lane| lane.end()).collect();
        let own = WORKER.try_with(Cell::get).unwrap_or(0);
        for (_, thread) in threads.into_iter().filter(|(number, _)| *number != own) {
            // They catch what unwinds, so there is no panic to hand on.
            let _ = thread.join();
        }
    }
}

/// In a forked child: keeps what threads of the parent's may have held locked or half changed, for ever and untouched.
pub(crate) fn leave_to_parent(what: Arc<dyn Any + Send + Sync>) {
    static LEFT: sys::fork::ForkLock<Vec<Arc<dyn Any + Send + Sync>>> =
        sys::fork::ForkLock::new(Vec::new());
    LEFT.lock().push(what);
}

thread_local! {
    /// The number of this thread among all pools' threads, from 1 on; 0 for another thread. (What `std::thread::current`
    /// tells costs memory on threads that are not Rust's.)
    static WORKER: Cell<u64> = const { Cell::new(0) };
}

/// Work for a pool's thread. It goes back to its loop when it has run.
pub(crate) trait Job: Any + Send {
    fn run(&mut self);

    /// For work that takes long and can be stopped while it runs: what to set for that.
    fn stopper(&self) -> Option<Stopper> {
        None
    }

    /// The pool does not take it. `true`: a part was done before, which is to be told with this error.
    fn refused(&mut self, _error: Error) -> bool {
        false
    }

    /// For work that a driver may have the kernel do without a thread ([`Driver::begin_job`]): the call to be made
    /// next. The job owns all that the call points to, and leaves it alone until [`Job::called`].
    ///
    /// [`Driver::begin_job`]: crate::driver::Driver::begin_job
    #[cfg_attr(not(kolo_uring), allow(dead_code))]
    fn kernel_call(&mut self) -> Option<KernelCall> {
        None
    }

    /// What came of that call: a count, or the system's error number.
    #[cfg_attr(not(kolo_uring), allow(dead_code))]
    fn called(&mut self, _outcome: std::result::Result<u32, i32>) -> AfterCall {
        AfterCall::Elsewhere
    }
}

/// A system call that a driver makes for a job.
#[derive(Clone, Copy)]
#[cfg_attr(not(all(kolo_uring, feature = "fs")), allow(dead_code))]
pub(crate) enum KernelCall {
    /// pread(2) and pwrite(2).
    Read(Bytes),
    Write(Bytes),
    /// preadv(2) and pwritev(2).
    ReadEach(Vectors),
    WriteEach(Vectors),
    /// fsync(2), or fdatasync(2).
    Sync {
        file: sys::Descriptor,
        only_data: bool,
    },
}

/// One piece of memory, and the place in a file.
#[derive(Clone, Copy)]
#[cfg_attr(not(all(kolo_uring, feature = "fs")), allow(dead_code))]
pub(crate) struct Bytes {
    pub file: sys::Descriptor,
    pub base: *mut u8,
    pub length: usize,
    pub offset: u64,
}

/// Several pieces of memory (`struct iovec`), and the place in a file.
#[derive(Clone, Copy)]
#[cfg_attr(not(all(kolo_uring, feature = "fs")), allow(dead_code))]
pub(crate) struct Vectors {
    pub file: sys::Descriptor,
    pub first: *const std::ffi::c_void,
    pub count: usize,
    pub offset: u64,
}

/// How it goes on with a job whose call was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(all(kolo_uring, feature = "fs")), allow(dead_code))]
pub(crate) enum AfterCall {
    /// It is done, or has failed.
    Over,
    /// There is another call to be made.
    Again,
    /// The kernel cannot do it that way: a thread has to, with [`Job::run`].
    Elsewhere,
}

/// Set by the loop when a job that is running is to stop.
pub(crate) type Stopper = Arc<AtomicBool>;

/// A job's place in the queue.
pub(crate) struct Ticket {
    /// Gone when a thread has begun it, or its loop took it back; both under the lane's lock.
    job: Mutex<Option<Box<dyn Job>>>,
    stopper: Option<Stopper>,
    /// Where it is queued. `None`: it is not, and no thread comes to it.
    lane: Option<Arc<Lane>>,
    /// Who waits for it. Not a hold on it: a loop need not wait for a job that it has given up, nor be kept by it.
    home: Option<(Weak<Mailbox>, Id)>,
    /// All that the job has is its own: nobody need wait for it.
    may_abandon: bool,
}

impl Ticket {
    /// For work that no thread comes to: that of a simulated loop, which [`Ticket::perform`] does, and that of the
    /// kernel.
    #[cfg_attr(not(any(feature = "sim", feature = "fs")), allow(dead_code))]
    pub fn unqueued(job: Box<dyn Job>, home: Weak<Mailbox>, id: Id) -> Arc<Ticket> {
        Arc::new(Ticket {
            stopper: job.stopper(),
            job: Mutex::new(Some(job)),
            lane: None,
            home: Some((home, id)),
            may_abandon: false,
        })
    }

    /// The job, for whoever begins it.
    pub fn take(&self) -> Option<Box<dyn Job>> {
        self.job
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take()
    }

    /// Whether no thread has begun it.
    pub fn waits(&self) -> bool {
        self.job
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .is_some()
    }

    /// Takes the job back; `None` when a thread has begun it.
    pub fn take_back(&self) -> Option<Box<dyn Job>> {
        let Some(lane) = &self.lane else {
            return self.take();
        };
        // Threads take jobs under the same lock, so the ticket is still in the queue.
        let mut state = lane.state();
        let job = self.take()?;
        state.empty += 1;
        if state.empty * 2 > state.queue.len() {
            state.queue.retain(|ticket| ticket.waits());
            state.empty = 0;
        }
        Some(job)
    }

    /// Has a job that was begun stop soon, if it can be stopped.
    pub fn stop(&self) -> bool {
        if let Some(stopper) = &self.stopper {
            stopper.store(true, Ordering::Relaxed);
        }
        self.stopper.is_some()
    }

    /// Does the work here and now.
    #[cfg(feature = "sim")]
    pub fn perform(&self) {
        /// For as long as the work runs, which may ask whether it may wait for disks.
        struct Worker(u64);
        impl Drop for Worker {
            fn drop(&mut self) {
                WORKER.set(self.0);
            }
        }
        let _worker = Worker(WORKER.replace(u64::MAX));
        if let Some(job) = self.take() {
            self.run(job, u64::MAX);
        }
    }

    /// What the thread with this number does.
    fn run(&self, mut job: Box<dyn Job>, number: u64) {
        let outcome = match catch_unwind(AssertUnwindSafe(|| job.run())) {
            Ok(()) => Ok(job),
            Err(payload) => {
                // Its destructor might panic too.
                std::mem::forget(payload);
                Err((Code::EPANIC, job))
            }
        };
        if let Some(lane) = self.lane.as_ref().filter(|_| self.may_abandon) {
            // From here on it does not take long.
            lane.state().left_alone.retain(|it| *it != number);
        }
        let Some((home, id)) = &self.home else { return };
        if let Some(home) = home.upgrade() {
            home.finished(Finished { id: *id, outcome });
        }
    }
}

/// A job on its way back to its loop; with an error if it panicked.
pub(crate) struct Finished {
    pub id: Id,
    pub outcome: std::result::Result<Box<dyn Job>, (Code, Box<dyn Job>)>,
}

/// The threads and the queue of one class.
struct Lane {
    class: WorkClass,
    threads_max: usize,
    capacity: usize,
    idle: Duration,
    state: Mutex<LaneState>,
    /// Something was queued, or the lane has ended.
    changed: Condvar,
}

struct LaneState {
    queue: VecDeque<Arc<Ticket>>,
    /// Tickets in the queue whose jobs were taken back. They go when they are half of it.
    empty: usize,
    threads: usize,
    idle: usize,
    ended: bool,
    /// Those that were started, by their numbers.
    handles: Vec<(u64, JoinHandle<()>)>,
    /// Those at jobs for which nobody need wait.
    left_alone: Vec<u64>,
}

impl Lane {
    fn new(class: WorkClass, options: &PoolOptions) -> Lane {
        Lane {
            class,
            threads_max: options.threads(class),
            capacity: options.queue_capacity.get() as usize,
            idle: options.idle,
            state: Mutex::new(LaneState {
                queue: VecDeque::new(),
                empty: 0,
                threads: 0,
                idle: 0,
                ended: false,
                handles: Vec::new(),
                left_alone: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Queues a ticket. With an error comes the job, unless a thread has it after all.
    fn push(
        self: &Arc<Lane>,
        ticket: Arc<Ticket>,
        stack_size: Option<usize>,
    ) -> std::result::Result<(), (Error, Option<Box<dyn Job>>)> {
        let mut state = self.state();
        if state.queue.len() - state.empty >= self.capacity {
            return Err((Code::ENOBUFS.into(), ticket.take()));
        }
        state.queue.push_back(ticket.clone());
        // Those who were notified and have not woken yet count as idle: each has a ticket of its own.
        if state.queue.len() <= state.idle {
            self.changed.notify_one();
            return Ok(());
        }
        if state.threads >= self.threads_max {
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let lane = self.clone();
        let mut thread = Builder::new().name(self.class.thread_name().to_owned());
        if let Some(size) = stack_size {
            thread = thread.stack_size(size);
        }
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let started = thread.spawn(move || {
            WORKER.set(number);
            lane.work(number);
        });
        let mut state = self.state();
        match started {
            Ok(handle) => {
                state.handles.retain(|(_, handle)| !handle.is_finished());
                state.handles.push((number, handle));
                Ok(())
            }
            Err(error) => {
                state.threads -= 1;
                if state.threads > 0 {
                    return Ok(()); // those that there are will come to it
                }
                drop(state);
                Err((error.into(), ticket.take_back()))
            }
        }
    }

    /// What a thread does.
    fn work(&self, number: u64) {
        #[cfg(unix)]
        sys::signals::block_all();
        let mut state = self.state();
        loop {
            if let Some(ticket) = state.queue.pop_front() {
                let Some(job) = ticket.take() else {
                    state.empty -= 1;
                    continue;
                };
                if ticket.may_abandon {
                    state.left_alone.push(number);
                }
                drop(state);
                ticket.run(job, number);
                drop(ticket);
                state = self.state();
                continue;
            }
            if state.ended {
                break;
            }
            state.idle += 1;
            let outcome = self.changed.wait_timeout(state, self.idle);
            let (again, timeout) = outcome.unwrap_or_else(|poisoned| poisoned.into_inner());
            state = again;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }

    /// Has the threads end when the queue is empty. Those that are to be waited for: the others end by themselves.
    fn end(&self) -> Vec<(u64, JoinHandle<()>)> {
        let mut state = self.state();
        state.ended = true;
        self.changed.notify_all();
        let LaneState {
            handles,
            left_alone,
            ..
        } = &mut *state;
        handles.retain(|(number, _)| !left_alone.contains(number));
        std::mem::take(handles)
    }
}
