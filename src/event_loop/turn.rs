//! One turn: the phases, in their order.

use super::{Core, Deferred, Loop, RunMode};
#[cfg(any(feature = "net", all(unix, feature = "local")))]
use crate::driver::Object;
use crate::driver::{Buffer, Completion, Driver};
use crate::error::{Error, Result};
use crate::handles::{Id, Kind};
use crate::hook::HookKind;
use crate::pool::Finished;
use crate::timer::Fired;

impl Core {
    #[inline]
    pub(crate) fn has_hooks(&self, kind: HookKind) -> bool {
        !self.hooks[kind as usize - 1].is_empty()
    }

    /// Has the processor fetch the entries of the next timers that are due, all at once: with a
    /// million timers each is a cache miss, and one after the other they are most of the cost.
    /// How many.
    fn fetch_due(&self) -> usize {
        const AT_ONCE: usize = 16;
        let next = self.wheel.upcoming().take(AT_ONCE);
        next.map(|id| self.handles.touch(id)).count()
    }
}

impl Loop {
    pub(super) fn turn(&self, mode: RunMode) -> Result<()> {
        self.meter.turn();
        #[cfg(feature = "fs")]
        self.at_once_left.set(crate::fs::AT_ONCE_PER_TURN);
        let callbacks = self.meter.callbacks();
        if self.needs_clock() {
            self.refresh_clock();
            self.run_timers();
            self.run_deferred();
        }
        // Whoever asked for one turn must hear of what happened before the next wait.
        let waits = match mode {
            RunMode::Default => true,
            RunMode::Once => self.meter.callbacks() == callbacks,
            RunMode::NoWait => false,
        };
        self.run_hooks(HookKind::Idle);
        self.run_hooks(HookKind::Prepare);
        // A callback may have forked, and this be the child: the phases end early then.
        drop(self.core()?);
        self.wait(waits)?;
        self.run_completions();
        self.run_posted();
        self.run_deferred();
        self.run_hooks(HookKind::Check);
        self.run_closing();
        drop(self.core()?);
        if mode == RunMode::Once {
            self.refresh_clock();
            self.run_timers();
            drop(self.core()?);
        }
        Ok(())
    }

    /// Whether anything happens before the wait that goes by the clock. It is read after the wait in any case.
    #[inline]
    fn needs_clock(&self) -> bool {
        let core = &*self.core.borrow();
        let hooks = [HookKind::Idle, HookKind::Prepare];
        core.wheel.len() > 0
            || !core.deferred.is_empty()
            || hooks.into_iter().any(|kind| core.has_hooks(kind))
    }

    fn refresh_clock(&self) {
        if self.clock_stale.get() {
            self.update_now();
        }
    }

    fn run_timers(&self) {
        {
            let mut core = self.core.borrow_mut();
            if core.wheel.len() == 0 {
                return;
            }
            let now = core.now;
            core.wheel.begin_expiry(now);
        }
        let mut fetched = 0;
        while !self.is_parents() {
            let (id, fired) = {
                let core = &mut *self.core.borrow_mut();
                if fetched == 0 {
                    fetched = core.fetch_due();
                }
                fetched = fetched.saturating_sub(1);
                let Some(due) = core.wheel.pop_expired() else {
                    return;
                };
                (due.payload, crate::timer::fire(core, due))
            };
            match fired {
                Fired::Timer(callback) => self.call_timer(crate::Timer(id), callback),
                #[cfg(any(feature = "net", all(unix, feature = "local")))]
                Fired::Other(Kind::Listener | Kind::LocalListener) => self.listener_retry(id),
                Fired::Other(Kind::Request) => self.request_expired(id),
                #[cfg(feature = "watch")]
                Fired::Other(Kind::Watch) => self.watch_look(id),
                // A stream, whatever carries it.
                Fired::Other(_) => self.stream_timer(id),
                Fired::Nothing => {}
            }
        }
    }

    /// What was deferred before this phase began.
    #[inline(always)] // mostly nothing
    fn run_deferred(&self) {
        let deferred = self.core.borrow().deferred.len();
        if deferred > 0 {
            self.run_so_many_deferred(deferred);
        }
    }

    fn run_so_many_deferred(&self, mut left: usize) {
        while left > 0 && !self.is_parents() {
            left -= 1;
            let next = self.core.borrow_mut().deferred.pop_front();
            match next {
                Some(Deferred::Task(mut task)) => self.callback(None, |lp| task.run(lp)),
                Some(Deferred::Stream(id)) => self.stream_events(id),
                Some(Deferred::Signal(id, number)) => self.signal_came(id, number),
                Some(Deferred::Waker(id)) => self.waker_woken(id),
                #[cfg(feature = "net")]
                Some(Deferred::Udp(id)) => self.udp_events(id),
                #[cfg(all(unix, feature = "process"))]
                Some(Deferred::Process(id)) => self.process_changed(id),
                Some(Deferred::Request(id)) => self.request_over(id),
                #[cfg(feature = "watch")]
                Some(Deferred::Watches) => self.tell_watches(),
                #[cfg(feature = "net")]
                Some(Deferred::Attempt(id, news)) => self.stream_attempt(id, *news),
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
                core.now = core.driver.clock_ns();
            }
            self.timeout(core)
        };
        let idle_since = self.meter.idle_begins(timeout);
        let outcome = core.driver.wait(timeout, core.now);
        if outcome.is_ok() {
            self.cut_short.set(false);
        }
        core.now = core.driver.clock_ns();
        self.clock_stale.set(false);
        self.meter.idle_ended(idle_since, core.now);
        outcome
    }

    /// Whether there is something to do for which nothing need happen first.
    pub(super) fn has_at_hand(&self, core: &Core) -> bool {
        self.cut_short.get()
            || core.driver.has_more()
            || !core.deferred.is_empty()
            || !core.closing.is_empty()
            || !core.finals.is_empty()
            || core.has_hooks(HookKind::Idle)
            || self.mailbox.has_posts()
    }

    /// How long the driver may wait, by the clock as it stands.
    pub(super) fn timeout(&self, core: &mut Core) -> Option<u64> {
        let at_hand = self.has_at_hand(core) || !core.handles.hold();
        if at_hand {
            return Some(0);
        }
        if core.wheel.len() == 0 {
            return None;
        }
        core.wheel
            .next_deadline()
            .map(|deadline| deadline.saturating_sub(core.now))
    }

    fn run_completions(&self) {
        // Stays borrowed: callbacks see bytes in it. A loop does not run inside its own callbacks.
        let mut buffer = self.buffer.borrow_mut();
        loop {
            self.run_received(&mut buffer);
            let next = {
                let core = &mut *self.core.borrow_mut();
                if self.is_parents() || core.driver.is_through() {
                    return;
                }
                core.driver.next(&mut core.handles, &mut buffer)
            };
            let Some(completion) = next else { return };
            self.meter.event();
            self.completed(completion, &buffer);
        }
    }

    /// Hands out what nearly all completions are, until there is something else, or nothing, or something unusual
    /// came of one.
    #[inline(never)] // so that what is needed for each message stays in registers
    fn run_received(&self, buffer: &mut Buffer) {
        if self.is_parents() {
            return;
        }
        let mut borrowed = self.core.borrow_mut();
        loop {
            let core = &mut *borrowed;
            let received = core.driver.next_received(&mut core.handles, buffer);
            let Some((id, stream, bytes)) = received else {
                return;
            };
            self.meter.event();
            let clear = stream.is_clear();
            let Some(handler) = stream.receives(self, core.now) else {
                continue;
            };
            if clear {
                core.handles.note_clear(id);
            }
            drop(borrowed);
            match self.tell_bytes(id, handler, bytes) {
                Some(core) => borrowed = core,
                None => return,
            }
        }
    }

    #[inline(never)] // what it needs of the stack is not for every turn
    fn completed(&self, completion: Completion, buffer: &Buffer) {
        match completion {
            Completion::Received(id, received) => self.stream_received(id, received, buffer),
            Completion::Readable(id) => self.stream_readable(id),
            Completion::Ended(id) => self.stream_ended(id),
            Completion::ReceiveFailed(id, error) => self.receive_failed(id, error),
            Completion::Sent(id, outcome) => self.stream_sent(id, outcome),
            Completion::Unsent(id, rest) => self.stream_unsent(id, rest),
            #[cfg(feature = "net")]
            Completion::Connected(id, outcome) => self.connected(id, outcome),
            #[cfg(not(feature = "net"))]
            Completion::Connected(id, outcome) => self.stream_connected(id, outcome),
            #[cfg(any(feature = "net", all(unix, feature = "local")))]
            Completion::Accepted(id, socket) => {
                self.listener_accepted(id, Object::Socket(socket.into()));
            }
            #[cfg(any(feature = "net", all(unix, feature = "local")))]
            Completion::AcceptFailed(id, error) => self.listener_failed(id, error),
            #[cfg(not(any(feature = "net", all(unix, feature = "local"))))]
            Completion::Accepted(..) | Completion::AcceptFailed(..) => {} // nobody asks for it
            #[cfg(feature = "net")]
            Completion::Datagrams(id, batch) => self.udp_received(id, batch),
            #[cfg(feature = "net")]
            Completion::DatagramFailed(id, error, told) => self.udp_failed(id, error, told),
            #[cfg(feature = "net")]
            Completion::DatagramsSent(id) => self.udp_sent(id),
            #[cfg(not(feature = "net"))]
            Completion::Datagrams(..)
            | Completion::DatagramFailed(..)
            | Completion::DatagramsSent(_) => {}
            Completion::Polled(id, outcome) => self.polled(id, outcome),
            Completion::JobDone(id, job) => {
                let finished = Finished {
                    id,
                    outcome: Ok(job),
                };
                crate::request::job_done(&mut self.core.borrow_mut(), finished);
            }
            Completion::JobUnable(id, job) => {
                let home = std::sync::Arc::downgrade(&self.mailbox);
                crate::request::job_unable(&mut self.core.borrow_mut(), id, job, home);
            }
            #[cfg(feature = "sim")]
            Completion::AcceptedSimulated(id, socket) => {
                self.listener_accepted(id, Object::Simulated(socket));
            }
            #[cfg(feature = "sim")]
            Completion::WorkDue(id) => self.work_due(id),
        }
    }

    fn receive_failed(&self, id: Id, error: Error) {
        #[cfg(feature = "net")]
        if self.kind(id) == Ok(Kind::Udp) {
            return self.udp_receive_failed(id, error);
        }
        self.stream_failed(id, error);
    }
}
