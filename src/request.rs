//! Requests: work that is done elsewhere, once, and whose outcome is told on the loop.
//!
//! A request is a handle that ends by itself. Its job goes to a thread of the [pool](crate::pool) and back
//! through the loop's mailbox, or to the kernel and back through the driver ([`Driver::begin_job`]); then its `done` is
//! called, once, and the number is dead. What is taken back, or given up, is told in the same way, never inside the
//! call that causes it.

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::driver::Driver;
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Deferred, Final, Loop};
use crate::handles::{Body, Flags, Id};
use crate::pool::{Finished, Job, Pool, Ticket, WorkClass};
use crate::remote::Mailbox;
use crate::timers::TimerKey;

/// What a request's outcome is handed to: the job after it has run.
pub(crate) type Done = Box<dyn FnOnce(&Loop, Request, Result<Box<dyn Any>>)>;

/// Whether a request may end while a thread is still at its job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The job uses memory that was lent for it, or changes what its user must know of: the request lasts until the job
    /// is done.
    UntilDone,
    /// All that the job has is its own: it can be left to itself, and its result is dropped.
    #[cfg_attr(not(feature = "dns"), allow(dead_code))]
    MayAbandon,
}

enum Stage {
    /// At the pool, or with the kernel.
    AtPool(Arc<Ticket>),
    /// `done` is on the way.
    Over(Result<Box<dyn Any>>),
    /// Closed, while a thread or the kernel is at the job.
    Lingering,
}

pub(crate) struct RequestState {
    stage: Stage,
    hold: Hold,
    done: Option<Done>,
}

impl RequestState {
    /// The job if nobody has begun it, and whether the request may end now.
    fn give_up(&mut self) -> (Option<Box<dyn Job>>, bool) {
        let Stage::AtPool(ticket) = &self.stage else {
            return (None, true);
        };
        let job = ticket.take_back();
        let may_end = job.is_some() || self.hold == Hold::MayAbandon;
        (job, may_end)
    }

    pub fn stage_name(&self) -> &'static str {
        match &self.stage {
            Stage::AtPool(ticket) if ticket.waits() => "waiting",
            Stage::AtPool(_) => "running",
            Stage::Over(_) => "over",
            Stage::Lingering => "lingering",
        }
    }

    /// The callback that a closed request still owes, and what is to be dropped outside of the loop's borrow.
    pub fn into_final_callbacks(self) -> (Option<Done>, Box<dyn Any>) {
        (self.done, Box::new(self.stage))
    }
}

/// Work under way: on a pool's thread, with the kernel, or waiting for either.
///
/// Active, and so keeping the loop alive, until its outcome was told; then the number is dead. [`Loop::close`] works as on
/// every handle: the outcome is told as [`Code::ECANCELED`], as soon as nobody is at the work any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request(pub(crate) Id);

crate::handles::handle_type!(Request);

impl Request {
    /// Takes the work back, if nobody has begun it; its callback hears [`Code::ECANCELED`]. A name that is being looked
    /// up is given up also when a thread is at it.
    ///
    /// Work that takes long and goes on in steps (copying a file) is stopped also when it was begun: its callback hears
    /// [`Code::ECANCELED`] soon, unless it was over by then.
    ///
    /// Errors: [`Code::EBUSY`] when it was begun, or is over: the callback tells what came of it; [`Code::EBADF`] when
    /// that was told already.
    pub fn cancel(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        end_with(&mut core, self.0, Code::ECANCELED)
    }

    /// Whether the work was begun, or is over.
    ///
    /// Errors: [`Code::EBADF`] when its outcome was told.
    pub fn has_begun(self, lp: &Loop) -> Result<bool> {
        let mut core = lp.core()?;
        let state = state(&mut core, self.0)?;
        Ok(!matches!(&state.stage, Stage::AtPool(ticket) if ticket.waits()))
    }
}

fn state(core: &mut Core, id: Id) -> Result<&mut RequestState> {
    match &mut core.handles.get_mut(id)?.body {
        Body::Request(request) => Ok(request),
        _ => Err(Code::EBADF.into()),
    }
}

/// Ends a request, if it can be, before its job is done.
fn end_with(core: &mut Core, id: Id, code: Code) -> Result<()> {
    let request = state(core, id)?;
    if !matches!(request.stage, Stage::AtPool(_)) {
        return Err(Code::EBUSY.into());
    }
    let (job, may_end) = request.give_up();
    if !may_end {
        // What can be stopped ends soon; its outcome tells whether it was over before.
        let stops = matches!(&request.stage, Stage::AtPool(ticket) if ticket.stop());
        return if stops {
            Ok(())
        } else {
            Err(Code::EBUSY.into())
        };
    }
    request.stage = Stage::Over(Err(code.into()));
    over(core, id);
    // What is in it is the user's, whose destructor may call the loop.
    core.finals.extend(job.map(|job| Final::Any(job)));
    Ok(())
}

/// The outcome is known: it is told in the next deferred phase.
fn over(core: &mut Core, id: Id) {
    let Ok(entry) = core.handles.get_mut(id) else {
        return;
    };
    if entry.timer != TimerKey::NONE {
        core.wheel.disarm(entry.timer);
    }
    core.deferred.push_back(Deferred::Request(id));
}

/// A job is done, and back on the loop.
pub(crate) fn job_done(core: &mut Core, finished: Finished) {
    let Finished { id, outcome } = finished;
    let (outcome, spoilt): (Result<Box<dyn Any>>, _) = match outcome {
        Ok(job) => (Ok(job), None),
        Err((code, job)) => (Err(code.into()), Some(job)),
    };
    core.finals.extend(spoilt.map(|job| Final::Any(job)));
    let request = match core.handles.any_mut(id).map(|entry| &mut entry.body) {
        Some(Body::Request(request)) => request,
        // Given up, and told.
        _ => return core.finals.extend(outcome.ok().map(Final::Any)),
    };
    match &request.stage {
        Stage::AtPool(_) => {
            request.stage = Stage::Over(outcome);
            over(core, id);
        }
        Stage::Lingering => {
            request.stage = Stage::Over(outcome);
            core.lingering -= 1;
            core.handles.set_active(id, false);
            core.closing.push_back(id);
        }
        Stage::Over(_) => core.finals.extend(outcome.ok().map(Final::Any)),
    }
}

/// The kernel, which a driver had do a job, cannot go on with it: a thread does.
pub(crate) fn job_unable(core: &mut Core, id: Id, job: Box<dyn Job>, home: Weak<Mailbox>) {
    let lives = matches!(state(core, id).map(|it| &it.stage), Ok(Stage::AtPool(_)));
    if !lives {
        return job_done(
            core,
            Finished {
                id,
                outcome: Ok(job),
            },
        );
    }
    let pool = core.pool.get_or_insert_with(Pool::default).clone();
    let stage = match pool.submit(WorkClass::Files, job, home, id, false) {
        Ok(ticket) => Stage::AtPool(ticket),
        Err((error, mut job)) => match job.refused(error) {
            true => Stage::Over(Ok(job)),
            false => {
                core.finals.push_back(Final::Any(job));
                Stage::Over(Err(error))
            }
        },
    };
    let is_over = matches!(stage, Stage::Over(_));
    if let Ok(request) = state(core, id) {
        request.stage = stage;
    }
    if is_over {
        over(core, id);
    }
}

/// Waits for the jobs that the kernel has, and ends them.
pub(crate) fn end_jobs(core: &mut Core) {
    for (id, job) in core.driver.end_jobs() {
        // What the kernel did not give back is told as closed, too; nobody else has its memory.
        let job = job.unwrap_or_else(|| Box::new(Lost));
        job_done(
            core,
            Finished {
                id,
                outcome: Ok(job),
            },
        );
    }
}

/// Stands for a job that the kernel did not give back.
struct Lost;

impl Job for Lost {
    fn run(&mut self) {}
}

/// Closing: `false` when somebody is still at the job, after which the request closes.
pub(crate) fn close(request: &mut RequestState) -> bool {
    let (job, may_end) = request.give_up();
    if let (Stage::AtPool(ticket), false) = (&request.stage, may_end) {
        ticket.stop();
    }
    request.stage = match job {
        // Dropped with the rest of it in the closing phase.
        Some(job) => Stage::Over(Ok(job)),
        None if may_end => match std::mem::replace(&mut request.stage, Stage::Lingering) {
            Stage::AtPool(_) => Stage::Over(Err(Code::ECANCELED.into())),
            over => over,
        },
        None => Stage::Lingering,
    };
    may_end
}

/// In a forked child: the threads, and what they had, are the parent's.
pub(crate) fn forked(core: &mut Core) {
    core.pool = core.pool.take().map(|pool| pool.anew());
    for id in core.handles.every_id() {
        let Some(Body::Request(request)) = core.handles.any_mut(id).map(|entry| &mut entry.body)
        else {
            continue;
        };
        let canceled = Stage::Over(Err(Code::ECANCELED.into()));
        match std::mem::replace(&mut request.stage, canceled) {
            // Its locks may be held by a thread that is not here.
            Stage::AtPool(ticket) => {
                crate::pool::leave_to_parent(ticket);
                over(core, id);
            }
            Stage::Lingering => {
                core.lingering -= 1;
                core.handles.set_active(id, false);
                core.closing.push_back(id);
            }
            told => request.stage = told,
        }
    }
}

impl Loop {
    /// Runs `work` on a thread of the loop's pool, in [`WorkClass::Compute`], and then `done` on the loop, with what
    /// `work` returned.
    ///
    /// `done` is called exactly once, never inside this call: with [`Code::ECANCELED`] when the work was taken back
    /// ([`Request::cancel`]) or the request closed, and with [`Code::EPANIC`] when `work` panicked. Dropping the loop
    /// takes back what has not begun, and waits for what has.
    ///
    /// Errors: [`Code::ENOBUFS`] when as much work waits as may ([`PoolOptions::queue_capacity`](crate::PoolOptions::queue_capacity)), or
    /// the loop holds as many handles as it can; [`Code::EAGAIN`] when the system gives no thread; [`Code::ECANCELED`]
    /// while the loop is being dropped. Then neither function is called.
    ///
    /// # Example
    ///
    /// ```
    /// use kolo::{Loop, RunMode};
    ///
    /// let lp = Loop::new()?;
    /// let sum = || (1..=1000_u64).sum::<u64>();
    /// lp.work(sum, |_, sum| assert_eq!(sum, Ok(500_500)))?;
    /// lp.run(RunMode::Default)?;
    /// # Ok::<(), kolo::Error>(())
    /// ```
    pub fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(&Loop, Result<T>) + 'static,
    ) -> Result<Request> {
        self.work_in(WorkClass::Compute, work, done)
    }

    /// As [`Loop::work`], in another class of the pool.
    ///
    /// Errors: as there.
    pub fn work_in<T: Send + 'static>(
        &self,
        class: WorkClass,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(&Loop, Result<T>) + 'static,
    ) -> Result<Request> {
        let call = Call {
            work: Some(work),
            result: None,
        };
        self.submit(class, call, Hold::UntilDone, |lp, _, outcome| {
            // A call that did not panic has its result.
            let result = outcome.and_then(|call| call.result.ok_or(Code::EPANIC.into()));
            done(lp, result)
        })
    }

    /// Sends a job to the pool. `done` gets it back when it has run.
    pub(crate) fn submit<J: Job>(
        &self,
        class: WorkClass,
        job: J,
        hold: Hold,
        done: impl FnOnce(&Loop, Request, Result<Box<J>>) + 'static,
    ) -> Result<Request> {
        let id = self.insert_request(Stage::Lingering, hold, done)?;
        let home = Arc::downgrade(&self.mailbox);
        #[cfg(feature = "sim")]
        if self.is_simulated() {
            let ticket = Ticket::unqueued(Box::new(job), home, id);
            let mut core = self.core()?;
            state(&mut core, id)?.stage = Stage::AtPool(ticket);
            core.handles.set_active(id, true);
            if let Some(simulated) = core.driver.simulated() {
                simulated
                    .world
                    .borrow_mut()
                    .begin_work(simulated.number, id);
            }
            return Ok(Request(id));
        }
        let pool = self.core()?.pool.get_or_insert_with(Pool::default).clone();
        let may_abandon = hold == Hold::MayAbandon;
        // Not while the loop is borrowed: a job that is refused is dropped, and what is in it is the user's.
        match pool.submit(class, Box::new(job), home, id, may_abandon) {
            Ok(ticket) => {
                let mut core = self.core()?;
                state(&mut core, id)?.stage = Stage::AtPool(ticket);
                core.handles.set_active(id, true);
                Ok(Request(id))
            }
            Err((error, job)) => self.refused(id, error, job),
        }
    }

    /// Nobody takes a request's job.
    fn refused(&self, id: Id, error: Error, mut job: Box<dyn Job>) -> Result<Request> {
        if job.refused(error) {
            let mut core = self.core()?;
            state(&mut core, id)?.stage = Stage::Over(Ok(job));
            core.handles.set_active(id, true);
            over(&mut core, id);
            return Ok(Request(id));
        }
        let entry = self.core()?.handles.remove(id);
        drop((entry, job));
        Err(error)
    }

    /// As [`Loop::submit`], for work on files; where the loop's driver can have the kernel do the job without a thread,
    /// it does. Not where such jobs are to be done one after the other: the kernel keeps no order.
    #[cfg_attr(not(feature = "fs"), allow(dead_code))]
    pub(crate) fn submit_to_kernel<J: Job>(
        &self,
        job: J,
        hold: Hold,
        done: impl FnOnce(&Loop, Request, Result<Box<J>>) + 'static,
    ) -> Result<Request> {
        let pool = {
            let mut core = self.core()?;
            let takes_jobs = core.driver.takes_jobs();
            let pool = core.pool.get_or_insert_with(Pool::default);
            (takes_jobs && !pool.is_ordered(WorkClass::Files)).then(|| pool.queue_capacity())
        };
        let Some(waiting_max) = pool else {
            return self.submit(WorkClass::Files, job, hold, done);
        };
        let id = self.insert_request(Stage::Lingering, hold, done)?;
        let ticket = Ticket::unqueued(Box::new(job), Weak::new(), id);
        let mut core = self.core()?;
        if let Err(error) = core.driver.begin_job(id, ticket.clone(), waiting_max) {
            drop(core);
            let job = ticket.take().unwrap_or_else(|| Box::new(Lost));
            return self.refused(id, error, job);
        }
        state(&mut core, id)?.stage = Stage::AtPool(ticket);
        core.handles.set_active(id, true);
        Ok(Request(id))
    }

    /// Whether jobs of the class are done one after the other, in their order.
    #[cfg_attr(not(all(target_os = "linux", feature = "fs")), allow(dead_code))]
    pub(crate) fn keeps_order(&self, class: WorkClass) -> bool {
        let core = self.core();
        core.is_ok_and(|core| {
            core.pool
                .as_ref()
                .is_some_and(|pool| pool.is_ordered(class))
        })
    }

    /// A request whose outcome is known already: it is told in the next deferred phase.
    #[cfg_attr(not(any(feature = "fs", feature = "dns")), allow(dead_code))]
    pub(crate) fn submit_done<T: 'static>(
        &self,
        outcome: Result<T>,
        done: impl FnOnce(&Loop, Request, Result<T>) + 'static,
    ) -> Result<Request> {
        // The outcome stands beside the function, in the same memory; there is no job.
        let home: Result<Box<dyn Any>> = Ok(Box::new(()));
        let done = move |lp: &Loop, request: Request, home: Result<Box<()>>| {
            done(lp, request, home.and(outcome));
        };
        let id = self.insert_request(Stage::Over(home), Hold::UntilDone, done)?;
        let mut core = self.core()?;
        core.handles.set_active(id, true);
        over(&mut core, id);
        Ok(Request(id))
    }

    /// In a simulation: the time has come that the work was to take.
    #[cfg(feature = "sim")]
    pub(crate) fn work_due(&self, id: Id) {
        let ticket = match state(&mut self.core.borrow_mut(), id).map(|it| &it.stage) {
            Ok(Stage::AtPool(ticket)) => ticket.clone(),
            _ => return, // taken back
        };
        // What it brings comes home through the mailbox, in this turn.
        ticket.perform();
    }

    fn insert_request<J: Any>(
        &self,
        stage: Stage,
        hold: Hold,
        done: impl FnOnce(&Loop, Request, Result<Box<J>>) + 'static,
    ) -> Result<Id> {
        let done: Done = Box::new(move |lp, request, outcome| {
            // It is the type that was submitted: jobs go back to their own request.
            let typed = outcome.and_then(|job| job.downcast().map_err(|_| Code::EPANIC.into()));
            done(lp, request, typed)
        });
        let done = Some(done);
        self.insert(Body::Request(Box::new(RequestState { stage, hold, done })))
    }

    /// Ends the request with [`Code::ETIMEDOUT`] after `limit`, where it can be ended.
    #[cfg_attr(not(feature = "dns"), allow(dead_code))]
    pub(crate) fn limit_request(&self, request: Request, limit: Duration) -> Result<()> {
        let mut core = self.core()?;
        let now = self.fresh_clock(&mut core);
        let deadline = now.saturating_add(crate::timer::nanoseconds(limit));
        let core = &mut *core;
        let entry = core.handles.get_mut(request.0)?;
        if entry.timer == TimerKey::NONE {
            entry.timer = core.wheel.add(request.0);
        }
        core.wheel.arm(entry.timer, deadline);
        Ok(())
    }

    pub(crate) fn request_expired(&self, id: Id) {
        // What cannot be ended, or is over, is told all the same.
        let _ = end_with(&mut self.core.borrow_mut(), id, Code::ETIMEDOUT);
    }

    /// The outcome of a request is told, and the request is no more.
    pub(crate) fn request_over(&self, id: Id) {
        let (request, on_close) = {
            let core = &mut *self.core.borrow_mut();
            if state(core, id).is_err() {
                return; // closed meanwhile: its final callback tells
            }
            let Some(entry) = core.handles.remove(id) else {
                return;
            };
            if entry.timer != TimerKey::NONE {
                core.wheel.remove(entry.timer);
            }
            let on_close = entry.flags.contains(Flags::CLOSE_CALLBACK);
            let on_close = on_close.then(|| core.close_callbacks.remove(&id)).flatten();
            (entry.body, on_close)
        };
        // First in the queue, so that it comes also when `done` unwinds.
        let on_close = on_close.map(|callback| Final::Callback(id, callback));
        self.core.borrow_mut().finals.extend(on_close);
        let Body::Request(mut request) = request else {
            return;
        };
        if let (Stage::Over(outcome), Some(done)) = (request.stage, request.done.take()) {
            self.callback(Some(id), |lp| done(lp, Request(id), outcome));
        }
    }
}

/// A function of the user's as a job.
struct Call<W, T> {
    work: Option<W>,
    result: Option<T>,
}

impl<W, T> Job for Call<W, T>
where
    W: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    fn run(&mut self) {
        self.result = self.work.take().map(|work| work());
    }
}
