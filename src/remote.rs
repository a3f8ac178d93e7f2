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

use threads::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, RwLock};

/// A flag that many threads raise and the loop's thread lowers.
struct Flag {
    raised: AtomicBool,
    /// The loop's thread makes the barrier, so that raisers need none.
    heavy: bool,
}

impl Flag {
    fn new() -> Flag {
        Flag {
            raised: AtomicBool::new(false),
            heavy: threads::has_heavy_barrier(),
        }
    }

    /// Raises it; `true` if it was down.
    #[inline]
    fn raise(&self) -> bool {
        if self.heavy {
            threads::light_barrier();
            if self.raised.load(Ordering::Relaxed) {
                return false;
            }
        }
        !self.raised.swap(true, Ordering::AcqRel)
    }

    /// Whether it is up. By the loop's thread.
    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Lowers it. By the loop's thread, which must pass [`Flag::barrier`] before it looks for
    /// what the flag announced.
    fn lower(&self) {
        self.raised.swap(false, Ordering::AcqRel);
    }

    fn barrier(&self) {
        if self.heavy {
            threads::heavy_barrier();
        }
    }
}

/// The loop's part that other threads reach.
pub(crate) struct Mailbox {
    flag: Flag,
    /// The loop is gone, or going.
    ended: AtomicBool,
    posts: Mutex<Posts>,
    /// A job is done: for a loop that is being dropped and waits for nothing else.
    job_done: Condvar,
    /// Posts in the queue, to be read without the lock.
    waiting: AtomicUsize,
    /// Posts that the loop has taken over and not run yet. Only its thread writes it.
    taken: AtomicUsize,
    waker: RwLock<Arc<dyn Wake>>,
    capacity: usize,
}

struct Posts {
    queue: VecDeque<Posted>,
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
            ended: AtomicBool::new(false),
            posts: Mutex::new(Posts {
                queue: VecDeque::new(),
                woken: Vec::new(),
                finished: Vec::new(),
                closed_to_finished: false,
            }),
            job_done: Condvar::new(),
            waiting: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            waker: RwLock::new(waker),
            capacity,
        });
        forks::survive(&mailbox);
        mailbox
    }

    fn posts(&self) -> MutexGuard<'_, Posts> {
        self.posts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[inline]
    fn wake(&self) {
        if self.flag.raise() {
            self.waker
                .read()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .wake();
        }
    }

    pub fn has_posts(&self) -> bool {
        self.posts_waiting() > 0
    }

    pub fn posts_waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) + self.taken.load(Ordering::Relaxed)
    }

    /// The loop's side of a wake: takes over what the others left, if the flag or the posts say
    /// that there may be something. What they did before they raised a flag is visible to whoever
    /// runs after this; what they do from now on raises it anew. `flag_of` finds a waker's flag.
    fn look<'a>(
        &self,
        posted: &mut VecDeque<Posted>,
        mut flag_of: impl FnMut(Id) -> Option<&'a WakerShared>,
    ) -> Option<Left> {
        if !self.flag.is_raised() && !self.has_posts() {
            return None;
        }
        self.flag.lower();
        let left = self.take_over(posted);
        for waker in left.woken.iter().filter_map(|id| flag_of(*id)) {
            waker.flag.lower();
        }
        // One barrier for the loop's flag and all the wakers'.
        self.flag.barrier();
        Some(left)
    }

    /// The next of the posts that were taken over.
    fn next(&self, posted: &mut VecDeque<Posted>) -> Option<Posted> {
        let next = posted.pop_front();
        self.taken.store(posted.len(), Ordering::Relaxed);
        next
    }

    /// Moves what was posted to the loop's own queue, with one lock for all of it.
    fn take_over(&self, posted: &mut VecDeque<Posted>) -> Left {
        let mut posts = self.posts();
        if posted.is_empty() {
            // The memory changes sides: neither queue grows anew.
            std::mem::swap(posted, &mut posts.queue);
        } else {
            posted.append(&mut posts.queue);
        }
        self.taken.store(posted.len(), Ordering::Relaxed);
        self.waiting.store(0, Ordering::Relaxed);
        Left {
            woken: std::mem::take(&mut posts.woken),
            finished: std::mem::take(&mut posts.finished),
        }
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
        drop(posts);
        self.job_done.notify_one();
        self.wake();
    }

    /// The jobs that are done, waiting for at least one.
    pub fn await_finished(&self) -> Vec<Finished> {
        let mut posts = self.posts();
        while posts.finished.is_empty() {
            let waited = self.job_done.wait(posts);
            posts = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        std::mem::take(&mut posts.finished)
    }

    /// From now on a job that is done is dropped by its thread. Those that were done before.
    pub fn close_to_finished(&self) -> Vec<Finished> {
        let mut posts = self.posts();
        posts.closed_to_finished = true;
        std::mem::take(&mut posts.finished)
    }

    /// The loop is going: nothing more is taken; what had been taken.
    pub fn end(&self) -> VecDeque<Posted> {
        let mut posts = self.posts();
        self.ended.store(true, Ordering::SeqCst);
        self.waiting.store(0, Ordering::Relaxed);
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
    flag: Flag,
    closed: AtomicBool,
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
        self.shared.closed.store(true, Ordering::SeqCst);
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

    fn post_within<T: Task + Send>(
        &self,
        capacity: usize,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<()> {
        {
            let mut posts = self.mailbox.posts();
            if self.mailbox.ended.load(Ordering::Relaxed) {
                return Err(Code::ECANCELED.into());
            }
            let taken = self.mailbox.taken.load(Ordering::Relaxed);
            if posts.queue.len() + taken >= capacity {
                return Err(Code::ENOBUFS.into());
            }
            posts.queue.push_back(smallbox!(Some(make()?)));
            self.mailbox
                .waiting
                .store(posts.queue.len(), Ordering::Relaxed);
        }
        self.mailbox.wake();
        Ok(())
    }

    /// Ends the loop's wait; and if this is a [`Waker`]'s remote, its callback runs. From any
    /// thread. Wakes that come before the loop has looked are one: what the calling thread did
    /// before any of them is visible to the callback.
    ///
    /// Errors: [`Code::ECANCELED`] when the loop is gone or the waker is closed.
    #[inline]
    pub fn wake(&self) -> Result<()> {
        if self.mailbox.ended.load(Ordering::Relaxed) {
            return Err(Code::ECANCELED.into());
        }
        let Some(waker) = &self.waker else {
            self.mailbox.wake();
            return Ok(());
        };
        if waker.closed.load(Ordering::Relaxed) {
            return Err(Code::ECANCELED.into());
        }
        if waker.flag.raise() {
            self.announce(waker);
        }
        Ok(())
    }

    #[cold]
    fn announce(&self, waker: &WakerShared) {
        self.mailbox.posts().woken.extend(waker.id.get());
        self.mailbox.wake();
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = self.mailbox.ended.load(Ordering::Relaxed);
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
            closed: AtomicBool::new(false),
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
        let mailbox = &*self.mailbox;
        let left = {
            let core = &mut *self.core.borrow_mut();
            mailbox.look(&mut core.posted, |id| {
                match &core.handles.get(id).ok()?.body {
                    Body::Waker(state) => Some(&state.shared),
                    _ => None,
                }
            })
        };
        let Some(Left { woken, finished }) = left else {
            return;
        };
        {
            // A callback may unwind: those not yet called stand in the loop's queue.
            let mut core = self.core.borrow_mut();
            let events = woken.into_iter().map(crate::event_loop::Deferred::Waker);
            core.deferred.extend(events);
            for finished in finished {
                crate::request::job_done(&mut core, finished);
            }
        }
        loop {
            let next = mailbox.next(&mut self.core.borrow_mut().posted);
            let Some(mut task) = next else { return };
            self.callback(None, |lp| task.run(lp));
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
