//! Closing: a handle is dead at once, and heard of for the last time in the closing phase.

use std::any::Any;

use super::{Core, Deferred, Loop};
#[cfg(any(feature = "net", all(unix, feature = "local")))]
use crate::accept::BoxedAcceptor;
use crate::driver::Driver;
use crate::error::{Code, Result};
#[cfg(all(unix, feature = "local"))]
use crate::handles::Kind;
use crate::handles::{Body, Flags, Id};
#[cfg(feature = "net")]
use crate::net::udp::{self, UdpHandler};
use crate::request::{self, Request, RequestState};
use crate::stream::{StreamHandler, Writes};
use crate::timers::TimerKey;

pub(super) type CloseCallback = Box<dyn FnOnce(&Loop, Id)>;

/// The final callbacks of closed handles, one each.
pub(crate) enum Final {
    Writes(Id, Box<Writes>),
    Stream(Id, Box<dyn StreamHandler>),
    #[cfg(any(feature = "net", all(unix, feature = "local")))]
    Listener(Id, BoxedAcceptor),
    #[cfg(feature = "net")]
    Datagrams(Id, Box<udp::Queue>),
    #[cfg(feature = "net")]
    Udp(Id, Box<dyn UdpHandler>),
    Request(Id, Box<RequestState>),
    Callback(Id, CloseCallback),
    /// Nothing to say; but the user's destructors may call the loop.
    Drop(Body),
    Any(Box<dyn Any>),
}

impl Loop {
    /// Closes a handle: from now on it is dead, whatever was under way on it.
    ///
    /// Its descriptor is closed at once, its pending writes complete with [`Code::ECANCELED`](crate::Code::ECANCELED) in
    /// the closing phase of this turn, and then its closing callbacks come, once and last. May
    /// be called anywhere, also in the handle's own callback.
    ///
    /// Errors: [`Code::EBADF`](crate::Code::EBADF) for a handle that is closed already.
    pub fn close(&self, handle: impl Into<Id>) -> Result<()> {
        let mut core = self.core()?;
        close(&mut core, handle.into())
    }

    /// Calls `callback` when the handle has closed: after everything else that it had to tell.
    /// The last one set counts.
    ///
    /// Errors: [`Code::EBADF`](crate::Code::EBADF) for a closed handle.
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

    #[inline(always)] // mostly nothing
    pub(super) fn run_closing(&self) {
        let core = self.core.borrow();
        if !core.closing.is_empty() || !core.finals.is_empty() {
            drop(core);
            self.close_what_is_closing();
        }
    }

    fn close_what_is_closing(&self) {
        {
            let mut core = self.core.borrow_mut();
            while let Some(id) = core.closing.pop_front() {
                if let Some(entry) = core.handles.remove(id) {
                    let callback = entry.flags.contains(Flags::CLOSE_CALLBACK);
                    queue_final_callbacks(&mut core, id, entry.body);
                    let callback = callback.then(|| core.close_callbacks.remove(&id)).flatten();
                    if let Some(callback) = callback {
                        core.finals.push_back(Final::Callback(id, callback));
                    }
                }
            }
        }
        loop {
            let next = {
                let mut core = self.core.borrow_mut();
                if self.is_parents() && !core.ending {
                    return;
                }
                core.finals.pop_front()
            };
            match next {
                None => return,
                Some(Final::Writes(id, writes)) => self.cancel_writes(id, writes),
                Some(Final::Stream(id, mut handler)) => {
                    self.callback(Some(id), |lp| handler.on_close(lp, crate::Stream(id)));
                }
                #[cfg(any(feature = "net", all(unix, feature = "local")))]
                Some(Final::Listener(id, mut handler)) => {
                    self.callback(Some(id), |lp| handler.closed(lp, id));
                }
                #[cfg(feature = "net")]
                Some(Final::Datagrams(id, queue)) => self.cancel_datagrams(id, queue),
                #[cfg(feature = "net")]
                Some(Final::Udp(id, mut handler)) => {
                    self.callback(Some(id), |lp| handler.on_close(lp, crate::UdpSocket(id)));
                }
                Some(Final::Request(id, request)) => {
                    let (done, rest) = request.into_final_callbacks();
                    drop(rest);
                    if let Some(done) = done {
                        let canceled = Err(Code::ECANCELED.into());
                        self.callback(Some(id), |lp| done(lp, Request(id), canceled));
                    }
                }
                Some(Final::Drop(body)) => drop(body),
                Some(Final::Any(any)) => drop(any),
                Some(Final::Callback(id, callback)) => {
                    self.callback(Some(id), |lp| callback(lp, id))
                }
            }
        }
    }

    /// Closes everything, and tells those concerned. All of the user's code that runs because a
    /// loop goes runs in here, through a shared reference: it may call the loop.
    pub(crate) fn end(&self) {
        let posted = {
            let mut core = self.core.borrow_mut();
            core.ending = true;
            if self.is_parents() {
                // A child that drops its parent's loop: nobody is at the requests.
                request::forked(&mut core);
            }
            for id in core.handles.all_ids() {
                // Those that are closing already answer EBADF, and are on their way.
                let _ = close(&mut core, id);
            }
            let mut posted = std::mem::take(&mut core.posted);
            posted.extend(self.mailbox.end());
            posted
        };
        self.await_lingering();
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
                #[cfg(all(unix, feature = "process"))]
                Some(Deferred::Process(_)) => {}
                Some(
                    Deferred::Stream(_)
                    | Deferred::Signal(..)
                    | Deferred::Waker(_)
                    | Deferred::Request(_),
                ) => {}
                #[cfg(feature = "net")]
                Some(Deferred::Attempt(..)) => {}
                #[cfg(feature = "net")]
                Some(Deferred::Udp(_)) => {}
                #[cfg(feature = "watch")]
                Some(Deferred::Watches) => {}
            }
        }
    }
}

impl Loop {
    /// Waits for the kernel and the threads that are at work for requests that are closed already.
    fn await_lingering(&self) {
        request::end_jobs(&mut self.core.borrow_mut());
        while self.core.borrow().lingering > 0 {
            for finished in self.mailbox.await_finished() {
                request::job_done(&mut self.core.borrow_mut(), finished);
            }
        }
        // Jobs that were given up may still end: nobody waits for what they bring.
        drop(self.mailbox.close_to_finished());
    }
}

/// Everything that ends at once when a handle is closed.
pub(crate) fn close(core: &mut Core, id: Id) -> Result<()> {
    if core.gathered.owner() == Some(id) {
        // What was written before `close` goes to the kernel as far as it takes it.
        crate::stream::flush(core, id);
    }
    #[cfg(feature = "net")]
    udp::flush(core, id);
    let entry = core.handles.begin_closing(id)?;
    let timer = std::mem::replace(&mut entry.timer, TimerKey::NONE);
    let mut lingers = false;
    match &mut entry.body {
        Body::Timer(_) => core.handles.timers.remove(id, &core.wheel),
        Body::Hook(hook) => {
            let kind = hook.kind;
            core.hooks[kind as usize - 1].retain(|hook| *hook != id);
            core.hooks_due.retain(|hook| *hook != id);
        }
        Body::Waker(waker) => waker.close(),
        Body::Signal(signal) => {
            let number = signal.number;
            crate::signal::unwatch(core, id, number);
        }
        Body::Poll(poll) => core.driver.close(id, &mut poll.source),
        #[cfg(any(feature = "net", all(unix, feature = "local")))]
        Body::Listener(listener) => {
            // First the name, so that nobody meets one behind which nobody listens.
            #[cfg(all(unix, feature = "local"))]
            drop(listener.file.take());
            core.driver.close(id, &mut listener.source);
        }
        Body::Stream(stream) => {
            core.driver.close(id, &mut stream.source);
            #[cfg(all(unix, feature = "local"))]
            if stream.kind() == Kind::Local {
                core.local.forget(id);
            }
            #[cfg(feature = "net")]
            if stream.is_connecting() {
                crate::net::connecting::abandon(core, id);
            }
        }
        #[cfg(feature = "net")]
        Body::Udp(udp) => core.driver.close(id, &mut udp.source),
        #[cfg(all(unix, feature = "process"))]
        Body::Process(_) => crate::process::close(core, id),
        #[cfg(feature = "net")]
        Body::Attempt(attempt) => core.driver.close(id, &mut attempt.source),
        Body::Request(request) => lingers = !request::close(request),
        #[cfg(feature = "watch")]
        Body::Watch(_) => crate::watch::unwatch(core, id),
        // Descriptors go with the last operation on them.
        #[cfg(feature = "fs")]
        Body::File(_) | Body::Directory(_) => {}
    }
    if timer != TimerKey::NONE {
        core.wheel.remove(timer);
    }
    if lingers {
        core.driver.abandon_job(id);
        // The loop goes on until it has closed.
        core.lingering += 1;
        core.set_referenced(id, true);
        core.handles.set_active(id, true);
        return Ok(());
    }
    #[cfg(all(unix, feature = "tty"))]
    crate::tty::close(core, id);
    core.handles.set_active(id, false);
    core.closing.push_back(id);
    Ok(())
}

/// Queues the callbacks that a closed handle still owes.
fn queue_final_callbacks(core: &mut Core, id: Id, body: Body) {
    match body {
        Body::Stream(stream) => {
            let (writes, handler) = stream.into_final_callbacks();
            if let Some(writes) = writes {
                core.finals.push_back(Final::Writes(id, writes));
            }
            if let Some(handler) = handler {
                core.finals.push_back(Final::Stream(id, handler));
            }
        }
        #[cfg(any(feature = "net", all(unix, feature = "local")))]
        Body::Listener(listener) => {
            let handler = listener.into_handler();
            core.finals
                .extend(handler.map(|handler| Final::Listener(id, handler)));
        }
        #[cfg(feature = "net")]
        Body::Udp(udp) => {
            let (queue, handler) = udp.into_final_callbacks();
            core.finals
                .extend(queue.map(|queue| Final::Datagrams(id, queue)));
            core.finals
                .extend(handler.map(|handler| Final::Udp(id, handler)));
        }
        #[cfg(all(unix, feature = "process"))]
        Body::Process(process) => crate::process::leave(core, id, process),
        Body::Request(request) => core.finals.push_back(Final::Request(id, request)),
        other => core.finals.push_back(Final::Drop(other)),
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.end();
    }
}
