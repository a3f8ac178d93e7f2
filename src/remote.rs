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

mod flag;
mod forks;
#[cfg(all(loom, test))]
mod loom_tests;
mod mailbox;
mod threads;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use crate::error::{Code, Result};
use crate::event_loop::{Loop, Posted, Task};
use crate::handles::{Body, Id};

use flag::{Flag, Raised};
use mailbox::Left;
pub(crate) use mailbox::Mailbox;

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
        self.mailbox.post(|| Ok(task))
    }

    /// As [`Remote::post`], with a task that is made only when it will be taken: one that takes
    /// something away from its owner. `make` must not post to the same loop.
    #[cfg(feature = "net")]
    pub(crate) fn post_made<T: Task + Send>(&self, make: impl FnOnce() -> Result<T>) -> Result<()> {
        self.mailbox.post(make)
    }

    /// As [`Remote::post`], whatever the capacity: for the few posts of the library's own.
    #[cfg(feature = "net")]
    pub(crate) fn post_anyway(&self, task: impl Task + Send) -> Result<()> {
        self.mailbox.post_within(usize::MAX, || Ok(task))
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
            Some(waker) => self.mailbox.waker_is_due(waker.id.get().copied()),
            None => self.mailbox.ring(),
        }
        Ok(())
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = self.mailbox.has_ended();
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
