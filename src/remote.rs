//! Other threads: posting work to a loop, and waking it.
//!
//! # Why a coalesced wake is nearly free, and loses nothing
//!
//! `wake` first looks at a flag with a plain load: if it is set, the loop has not begun to look
//! yet, and nothing is to be done. On its own that would be wrong: the processor may do the load
//! before an earlier store of the caller's has become visible, so that the loop clears the flag,
//! looks, does not see what was stored, and sleeps. The usual cure is an atomic exchange at each
//! wake. Here the loop pays instead: after it cleared the flag it has every thread of the process
//! pass a full barrier (membarrier(2), Linux) before it looks. Where the system has no such call
//! the exchange is made each time.
//!
//! # Why posts do not use that flag
//!
//! The barrier interrupts every thread of the process that runs. A post has the lock of the queue
//! anyway, and under the lock it sees for itself whether anybody must wake the loop: only if no
//! post waits yet, and the loop is not about to look by itself, which it does after the posts
//! that it has taken over. So a flood of posts neither makes barriers nor wakes a loop that is
//! awake. Nor does a poster look at what the loop writes with each post that it runs, as long as
//! the queue is far from full: two processors that write and read the same line of the cache in
//! turn wait for each other.
//!
//! All of it that other threads take part in is in [`Mailbox`], [`Flag`] and [`Remote`], and
//! `loom_tests.rs` has it meet in every order.

mod forks;
#[cfg(all(loom, test))]
mod loom_tests;
mod threads;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use smallbox::smallbox;

use crate::driver::Wake;
use crate::error::{Code, Result};
use crate::event_loop::{Loop, Posted, Task};
use crate::handles::{Body, Handles, Id};
use crate::pool::Finished;

use threads::{AtomicBool, AtomicU8, AtomicUsize, Condvar, Mutex, MutexGuard, RwLock};

/// A flag that many threads raise and the loop's thread lowers, until it is struck for good.
struct Flag {
    /// Bits of [`flag`].
    state: AtomicU8,
    /// What raising sets.
    raises: u8,
}

/// What a [`Flag`] is, all in one byte, so that finding it raised is one comparison.
mod flag {
    /// Raised. Where there is no heavy barrier, always together with [`EXCHANGE`].
    pub const RAISED: u8 = 1;
    /// There is no heavy barrier: who finds it raised must make an exchange nevertheless.
    pub const EXCHANGE: u8 = 2;
    /// Nobody waits for it any more.
    pub const STRUCK: u8 = 4;
}

/// What raising a flag has come upon.
#[derive(PartialEq, Eq)]
enum Raised {
    /// It was down: the loop is to be told.
    Anew,
    Before,
    /// Nobody waits for it any more.
    Never,
}

impl Flag {
    fn new() -> Flag {
        Flag {
            state: AtomicU8::new(0),
            raises: match threads::has_heavy_barrier() {
                true => flag::RAISED,
                false => flag::RAISED | flag::EXCHANGE,
            },
        }
    }

    /// Whether it is up, and nothing is to be done: the loop's thread makes the barrier. What
    /// raisers ask first.
    #[inline]
    fn is_up(&self) -> bool {
        threads::light_barrier();
        self.state.load(Ordering::Relaxed) == flag::RAISED
    }

    /// Raises it, by an exchange.
    fn raise(&self) -> Raised {
        let former = self.state.fetch_or(self.raises, Ordering::AcqRel);
        match former {
            _ if former & flag::STRUCK != 0 => Raised::Never,
            _ if former & flag::RAISED != 0 => Raised::Before,
            _ => Raised::Anew,
        }
    }

    /// Whether it is up. By the loop's thread.
    fn is_raised(&self) -> bool {
        self.state.load(Ordering::Relaxed) & flag::RAISED != 0
    }

    /// Lowers it. By the loop's thread, which must pass [`Flag::barrier`] before it looks for
    /// what the flag announced.
    fn lower(&self) {
        self.state.fetch_and(flag::STRUCK, Ordering::AcqRel);
    }

    /// From now on raising it does nothing, and says so.
    fn strike(&self) {
        self.state.fetch_or(flag::STRUCK, Ordering::AcqRel);
    }

    fn barrier(&self) {
        if self.raises & flag::EXCHANGE == 0 {
            threads::heavy_barrier();
        }
    }
}

/// What stands in lines of the processor's cache of its own: who writes it does not slow down who
/// reads what stands beside it.
#[repr(align(128))]
struct Apart<T>(T);

/// The loop's part that other threads reach.
pub(crate) struct Mailbox {
    /// Raised by a wake; struck when the loop is gone, or going.
    flag: Flag,
    capacity: usize,
    waker: RwLock<Arc<dyn Wake>>,
    /// A job is done: for a loop that is being dropped and waits for nothing else.
    job_done: Condvar,
    incoming: Apart<Incoming>,
    own: Apart<Own>,
}

/// What only the loop's thread writes.
struct Own {
    /// Posts that it has taken over and not run yet.
    taken: AtomicUsize,
    /// When it looked last, there were more posts: it need not look whether there are, which would
    /// take the line from the posters.
    more: AtomicBool,
}

/// What posters write: in this order, all of it that a post needs is one line of the cache.
#[repr(C)]
struct Incoming {
    /// Posts in the queue, to be read without the lock.
    waiting: AtomicUsize,
    /// There are jobs that are done, to be read without the lock.
    has_finished: AtomicBool,
    posts: Mutex<Posts>,
}

#[repr(C)]
struct Posts {
    /// The loop is gone, or going.
    ended: bool,
    /// Somebody has woken the loop for what is in the queue; or it is awake, and will look.
    announced: bool,
    /// No fewer than [`Own::taken`], which need not be looked at as long as this is few enough.
    taken_max: usize,
    queue: Vec<Posted>,
    /// Wakers whose callback is due.
    woken: Vec<Id>,
    /// Jobs that are done.
    finished: Vec<Finished>,
    /// Nobody waits for such any more.
    closed_to_finished: bool,
}

/// What other threads left for the loop, beside the posts.
struct Left {
    woken: Vec<Id>,
    finished: Vec<Finished>,
}

impl Mailbox {
    pub fn new(waker: Arc<dyn Wake>, capacity: usize) -> Arc<Mailbox> {
        let mailbox = Arc::new(Mailbox {
            flag: Flag::new(),
            capacity,
            waker: RwLock::new(waker),
            job_done: Condvar::new(),
            incoming: Apart(Incoming {
                posts: Mutex::new(Posts {
                    queue: Vec::new(),
                    taken_max: 0,
                    announced: false,
                    ended: false,
                    woken: Vec::new(),
                    finished: Vec::new(),
                    closed_to_finished: false,
                }),
                waiting: AtomicUsize::new(0),
                has_finished: AtomicBool::new(false),
            }),
            own: Apart(Own {
                taken: AtomicUsize::new(0),
                more: AtomicBool::new(false),
            }),
        });
        forks::survive(&mailbox);
        mailbox
    }

    fn posts(&self) -> MutexGuard<'_, Posts> {
        self.incoming
            .0
            .posts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Has the loop look, unless it is about to.
    fn wake(&self) {
        if !self.flag.is_up() && self.flag.raise() == Raised::Anew {
            self.ring();
        }
    }

    /// Ends the loop's wait, or the next one.
    #[cold]
    fn ring(&self) {
        self.waker
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .wake();
    }

    /// Whether posts wait. By the loop's thread.
    pub fn has_posts(&self) -> bool {
        let own = &self.own.0;
        own.more.load(Ordering::Relaxed)
            || own.taken.load(Ordering::Relaxed) > 0
            || self.incoming.0.waiting.load(Ordering::Relaxed) > 0
    }

    pub fn posts_waiting(&self) -> usize {
        let waiting = self.incoming.0.waiting.load(Ordering::Relaxed);
        waiting + self.own.0.taken.load(Ordering::Relaxed)
    }

    /// The loop is not run any more: whoever runs it as a part of another loop, and waits for its
    /// descriptor, must see there what was posted since the loop looked last.
    pub fn run_ended(&self) {
        if self.has_posts() {
            self.ring();
        }
    }

    /// The loop's side of a wake: takes over what the others left, if the flag or the posts say
    /// that there may be something. What they did before they raised a flag is visible to whoever
    /// runs after this; what they do from now on raises it anew. `flag_of` finds a waker's flag.
    ///
    /// If there is something, [`Mailbox::settle`] must follow before the loop waits.
    fn look<'a>(
        &self,
        posted: &mut VecDeque<Posted>,
        mut flag_of: impl FnMut(Id) -> Option<&'a WakerShared>,
    ) -> Option<Left> {
        let raised = self.flag.is_raised();
        if !raised && !self.has_posts() && !self.incoming.0.has_finished.load(Ordering::Relaxed) {
            return None;
        }
        if raised {
            self.flag.lower();
        }
        let left = self.take_over(posted);
        for waker in left.woken.iter().filter_map(|id| flag_of(*id)) {
            waker.flag.lower();
        }
        // One barrier for the loop's flag and all the wakers'. Posts and jobs need none.
        if raised || !left.woken.is_empty() {
            self.flag.barrier();
        }
        Some(left)
    }

    /// The next of the posts that were taken over.
    #[inline]
    fn next(&self, posted: &mut VecDeque<Posted>) -> Option<Posted> {
        let next = posted.pop_front()?;
        self.own.0.taken.store(posted.len(), Ordering::Relaxed);
        Some(next)
    }

    /// After the posts that were taken over: if no others wait by now, a post must wake the loop
    /// from now on. If some do, [`Mailbox::has_posts`] says so, and the loop looks by itself.
    fn settle(&self) {
        let mut more = self.has_posts();
        if !more {
            let mut posts = self.posts();
            more = !posts.queue.is_empty();
            posts.announced = more;
        }
        self.own.0.more.store(more, Ordering::Relaxed);
    }

    /// Moves what was posted to the loop's own queue, with one lock for all of it.
    fn take_over(&self, posted: &mut VecDeque<Posted>) -> Left {
        let incoming = &self.incoming.0;
        let mut posts = self.posts();
        if posted.is_empty() {
            // The memory changes sides: neither queue grows anew.
            let empty = std::mem::take(posted).into();
            *posted = std::mem::replace(&mut posts.queue, empty).into();
        } else {
            posted.extend(posts.queue.drain(..));
        }
        posts.announced = true;
        posts.taken_max = posted.len();
        self.own.0.taken.store(posted.len(), Ordering::Relaxed);
        self.own.0.more.store(false, Ordering::Relaxed);
        incoming.waiting.store(0, Ordering::Relaxed);
        Left {
            woken: std::mem::take(&mut posts.woken),
            finished: self.take_finished(&mut posts),
        }
    }

    fn take_finished(&self, posts: &mut Posts) -> Vec<Finished> {
        let has_finished = &self.incoming.0.has_finished;
        has_finished.store(false, Ordering::Relaxed);
        std::mem::take(&mut posts.finished)
    }

    /// Brings a job home. By a pool's thread. Not a post, which may be refused: there are no more
    /// of these than the loop has requests.
    pub fn finished(&self, finished: Finished) {
        let mut posts = self.posts();
        if posts.closed_to_finished {
            drop(posts);
            drop(finished);
            return;
        }
        posts.finished.push(finished);
        let has_finished = &self.incoming.0.has_finished;
        // Only under the lock, so that this needs no exchange.
        let first = !has_finished.load(Ordering::Relaxed);
        has_finished.store(true, Ordering::Relaxed);
        drop(posts);
        self.job_done.notify_one();
        if first {
            self.ring();
        }
    }

    /// The jobs that are done, waiting for at least one.
    pub fn await_finished(&self) -> Vec<Finished> {
        let mut posts = self.posts();
        while posts.finished.is_empty() {
            let waited = self.job_done.wait(posts);
            posts = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.take_finished(&mut posts)
    }

    /// From now on a job that is done is dropped by its thread. Those that were done before.
    pub fn close_to_finished(&self) -> Vec<Finished> {
        let mut posts = self.posts();
        posts.closed_to_finished = true;
        self.take_finished(&mut posts)
    }

    /// The loop is going: nothing more is taken; what had been taken.
    pub fn end(&self) -> Vec<Posted> {
        let mut posts = self.posts();
        posts.ended = true;
        self.flag.strike();
        self.incoming.0.waiting.store(0, Ordering::Relaxed);
        std::mem::take(&mut posts.queue)
    }

    /// In a forked child, which has only the loop's thread.
    pub fn forked(&self, waker: Arc<dyn Wake>, handles: &mut Handles) {
        *self
            .waker
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = waker;
        // A thread of the parent's may have raised a waker's flag and not come to announce it.
        let mut posts = self.posts();
        for id in handles.ids() {
            if let Ok(Body::Waker(state)) = handles.get_mut(id).map(|entry| &mut entry.body) {
                if state.shared.flag.is_raised() && !posts.woken.contains(&id) {
                    posts.woken.push(id);
                }
            }
        }
        drop(posts);
        // Whatever was announced to the parent's descriptor is looked for at once.
        self.flag.lower();
        self.wake();
    }
}

/// What a [`Waker`]'s remotes share with it.
struct WakerShared {
    /// Struck when the waker is closed.
    flag: Flag,
    /// Set before anybody shares it.
    id: OnceLock<Id>,
}

pub(crate) type WakerCallback = Box<dyn FnMut(&Loop, Waker)>;

pub(crate) struct WakerState {
    shared: Arc<WakerShared>,
    callback: Option<WakerCallback>,
}

impl WakerState {
    pub fn close(&mut self) {
        self.shared.flag.strike();
    }
}

/// Another thread's hold on a loop: posts functions to it and wakes it.
///
/// A remote may outlive its loop; then it answers [`Code::ECANCELED`]. Cloning is cheap.
///
/// # Example
///
/// ```
/// use kolo::{Loop, RunMode, Waker};
///
/// let lp = Loop::new()?;
/// // Keeps the loop alive until the answer is there.
/// let waiting = Waker::open(&lp, |_, _| ())?;
/// let remote = lp.remote();
/// let worker = std::thread::spawn(move || {
///     let answer = 6 * 7;
///     remote.post(move |lp: &Loop| {
///         println!("the answer is {answer}");
///         lp.close(waiting).unwrap();
///     })
/// });
/// lp.run(RunMode::Default)?;
/// worker.join().unwrap()?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone)]
pub struct Remote {
    mailbox: Arc<Mailbox>,
    waker: Option<Arc<WakerShared>>,
}

impl Remote {
    /// Runs a task on the loop's thread, in its next turn. From any thread; tasks of one thread
    /// run in the order in which they were posted. A posted task keeps the loop alive until it
    /// ran. When the loop is dropped first, [`Task::cancel`] is called there.
    ///
    /// Errors: [`Code::ENOBUFS`] when as many wait as the loop's
    /// [`post_capacity`](crate::LoopOptions::post_capacity); [`Code::ECANCELED`] when the loop
    /// is gone.
    pub fn post(&self, task: impl Task + Send) -> Result<()> {
        self.post_within(self.mailbox.capacity, || Ok(task))
    }

    /// As [`Remote::post`], with a task that is made only when it will be taken: one that takes
    /// something away from its owner. `make` must not post to the same loop.
    #[cfg(feature = "net")]
    pub(crate) fn post_made<T: Task + Send>(&self, make: impl FnOnce() -> Result<T>) -> Result<()> {
        self.post_within(self.mailbox.capacity, make)
    }

    /// As [`Remote::post`], whatever the capacity: for the few posts of the library's own.
    #[cfg(feature = "net")]
    pub(crate) fn post_anyway(&self, task: impl Task + Send) -> Result<()> {
        self.post_within(usize::MAX, || Ok(task))
    }

    #[inline]
    fn post_within<T: Task + Send>(
        &self,
        capacity: usize,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<()> {
        let mailbox = &*self.mailbox;
        let incoming = &mailbox.incoming.0;
        let announced = {
            let mut posts = mailbox.posts();
            if posts.ended {
                return Err(Code::ECANCELED.into());
            }
            if posts.queue.len().saturating_add(posts.taken_max) >= capacity {
                posts.taken_max = mailbox.own.0.taken.load(Ordering::Relaxed);
                if posts.queue.len() + posts.taken_max >= capacity {
                    return Err(Code::ENOBUFS.into());
                }
            }
            posts.queue.push(smallbox!(Some(make()?)));
            let waiting = posts.queue.len();
            incoming.waiting.store(waiting, Ordering::Relaxed);
            std::mem::replace(&mut posts.announced, true)
        };
        if !announced {
            mailbox.ring();
        }
        Ok(())
    }

    /// Ends the loop's wait; and if this is a [`Waker`]'s remote, its callback runs. From any
    /// thread. Wakes that come before the loop has looked are one: what the calling thread did
    /// before any of them is visible to the callback.
    ///
    /// Errors: [`Code::ECANCELED`] when the loop is gone or the waker is closed.
    #[inline]
    pub fn wake(&self) -> Result<()> {
        let flag = match &self.waker {
            Some(waker) => &waker.flag,
            None => &self.mailbox.flag,
        };
        match flag.is_up() {
            true => Ok(()),
            false => self.wake_anew(),
        }
    }

    #[cold]
    #[inline(never)]
    fn wake_anew(&self) -> Result<()> {
        let flag = self.waker.as_ref().map(|waker| &waker.flag);
        match flag.unwrap_or(&self.mailbox.flag).raise() {
            Raised::Before => return Ok(()),
            Raised::Never => return Err(Code::ECANCELED.into()),
            Raised::Anew => {}
        }
        match &self.waker {
            Some(waker) => {
                self.mailbox.posts().woken.extend(waker.id.get());
                self.mailbox.wake();
            }
            None => self.mailbox.ring(),
        }
        Ok(())
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = self.mailbox.posts().ended;
        f.debug_struct("Remote")
            .field("loop_is_gone", &ended)
            .finish_non_exhaustive()
    }
}

/// A callback that other threads trigger: any number of [`Remote::wake`] before it runs are one.
///
/// Active, and so keeping the loop alive, until it is closed with [`Loop::close`] or
/// unreferenced with [`Loop::unref`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waker(pub(crate) Id);

crate::handles::handle_type!(Waker);

impl Waker {
    /// Makes a waker.
    ///
    /// Errors: [`Code::ENOBUFS`] when the loop holds as many handles as it can.
    pub fn open(lp: &Loop, callback: impl FnMut(&Loop, Waker) + 'static) -> Result<Waker> {
        let shared = Arc::new(WakerShared {
            flag: Flag::new(),
            id: OnceLock::new(),
        });
        let state = WakerState {
            shared: shared.clone(),
            callback: Some(Box::new(callback)),
        };
        let id = lp.insert(Body::Waker(state))?;
        shared.id.get_or_init(|| id);
        lp.core()?.handles.set_active(id, true);
        Ok(Waker(id))
    }

    /// What other threads use to trigger it.
    ///
    /// Errors: [`Code::EBADF`] for a closed waker.
    pub fn remote(self, lp: &Loop) -> Result<Remote> {
        match &lp.core()?.handles.get(self.0)?.body {
            Body::Waker(state) => Ok(Remote {
                mailbox: lp.mailbox.clone(),
                waker: Some(state.shared.clone()),
            }),
            _ => Err(Code::EBADF.into()),
        }
    }
}

/// The posts that run in this turn.
struct Batch<'a> {
    lp: &'a Loop,
    posts: VecDeque<Posted>,
}

impl Drop for Batch<'_> {
    /// Their memory goes back to the loop; after one that unwound with those that are left.
    fn drop(&mut self) {
        self.lp.core.borrow_mut().posted = std::mem::take(&mut self.posts);
        self.lp.mailbox.settle();
    }
}

impl Loop {
    /// What other threads use to reach this loop.
    pub fn remote(&self) -> Remote {
        Remote {
            mailbox: self.mailbox.clone(),
            waker: None,
        }
    }

    /// Posted functions and wakers: those that were there when the phase began. What is posted
    /// meanwhile raises the flag again, and has its turn in the next.
    pub(crate) fn run_posted(&self) {
        if self.is_parents() {
            return;
        }
        let mailbox = &*self.mailbox;
        let looked = {
            let core = &mut *self.core.borrow_mut();
            let left = mailbox.look(&mut core.posted, |id| {
                match &core.handles.get(id).ok()?.body {
                    Body::Waker(state) => Some(&state.shared),
                    _ => None,
                }
            });
            left.map(|left| (left, std::mem::take(&mut core.posted)))
        };
        let Some((Left { woken, finished }, posts)) = looked else {
            return;
        };
        let mut batch = Batch { lp: self, posts };
        {
            // A callback may unwind: those not yet called stand in the loop's queue.
            let mut core = self.core.borrow_mut();
            let events = woken.into_iter().map(crate::event_loop::Deferred::Waker);
            core.deferred.extend(events);
            for finished in finished {
                crate::request::job_done(&mut core, finished);
            }
        }
        while let Some(mut task) = mailbox.next(&mut batch.posts) {
            self.callback(None, |lp| task.run(lp));
            if self.is_parents() {
                return;
            }
        }
    }

    pub(crate) fn waker_woken(&self, id: Id) {
        let callback = self.core.borrow_mut().handles.lend(id, slot);
        self.call_lent(id, callback, slot, |lp, callback| callback(lp, Waker(id)));
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<WakerCallback>> {
    match body {
        Body::Waker(state) => Some(&mut state.callback),
        _ => None,
    }
}
