//! What other threads reach of a loop: the queue of posts, and what else they leave for it. How it fits together, and
//! why nothing is lost: see the head of `remote.rs`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use smallbox::smallbox;

use super::flag::{Flag, Raised};
use super::forks;
use super::threads::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, RwLock};
use super::WakerShared;
use crate::driver::Wake;
use crate::error::{Code, Result};
use crate::event_loop::{Posted, Task};
use crate::handles::{Body, Handles, Id};
use crate::pool::Finished;

/// What stands in lines of the processor's cache of its own: who writes it does not slow down who
/// reads what stands beside it.
#[repr(align(128))]
struct Apart<T>(T);

/// The loop's part that other threads reach.
pub(crate) struct Mailbox {
    /// Raised by a wake; struck when the loop is gone, or going.
    pub(super) flag: Flag,
    capacity: usize,
    pub(super) waker: RwLock<Arc<dyn Wake>>,
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
pub(super) struct Posts {
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
pub(super) struct Left {
    pub woken: Vec<Id>,
    pub finished: Vec<Finished>,
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

    #[inline]
    pub(super) fn posts(&self) -> MutexGuard<'_, Posts> {
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
    pub(super) fn ring(&self) {
        self.waker
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .wake();
    }

    /// Whether posts wait. By the loop's thread.
    #[inline]
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
    pub(super) fn look<'a>(
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
    pub(super) fn next(&self, posted: &mut VecDeque<Posted>) -> Option<Posted> {
        let next = posted.pop_front()?;
        self.own.0.taken.store(posted.len(), Ordering::Relaxed);
        Some(next)
    }

    /// After the posts that were taken over: if no others wait by now, a post must wake the loop
    /// from now on. If some do, [`Mailbox::has_posts`] says so, and the loop looks by itself.
    pub(super) fn settle(&self) {
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

    /// Queues a task, and wakes the loop for it unless somebody has.
    #[inline]
    pub(super) fn post<T: Task + Send>(&self, make: impl FnOnce() -> Result<T>) -> Result<()> {
        self.post_within(self.capacity, make)
    }

    /// The same with another bound.
    #[inline]
    pub(super) fn post_within<T: Task + Send>(
        &self,
        capacity: usize,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<()> {
        let incoming = &self.incoming.0;
        let announced = {
            let mut posts = self.posts();
            if posts.ended {
                return Err(Code::ECANCELED.into());
            }
            if posts.queue.len().saturating_add(posts.taken_max) >= capacity {
                posts.taken_max = self.own.0.taken.load(Ordering::Relaxed);
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
            self.ring();
        }
        Ok(())
    }

    /// A waker's callback is due.
    pub(super) fn waker_is_due(&self, id: Option<Id>) {
        self.posts().woken.extend(id);
        self.wake();
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

    /// Whether the loop is gone, or going.
    pub(super) fn has_ended(&self) -> bool {
        self.posts().ended
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
