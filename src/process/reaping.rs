//! No zombie stays: children without a descriptor, children whose handle was closed, children
//! whose loop is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{ExitCallback, ExitStatus, ProcessState};
use crate::driver::{Driver, Interest, Object};
use crate::error::Result;
use crate::event_loop::{Core, Deferred, Final, Loop};
use crate::handles::{Body, Id};
use crate::signal::Signal;
use crate::sys::fork::ForkLock;
use crate::sys::{self, children};
use crate::timer::Timer;

/// A loop's children that have no descriptor, and what watches them.
#[derive(Default)]
pub(crate) struct Children {
    ids: Vec<Id>,
    /// Handles of the loop's own.
    signal: Option<Signal>,
    timer: Option<Timer>,
    /// Until when the loop that goes waits for those that it has killed.
    killed_until: Option<Instant>,
}

/// How often children without a descriptor are looked at although no SIGCHLD came: other code may
/// have taken the signal away, or ignore it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Handles of its own that a loop may need for children without a descriptor.
pub(super) const HANDLES: usize = 3;

/// Has the loop hear of children that have no descriptor.
fn listen(lp: &Loop) -> Result<()> {
    {
        let core = lp.core()?;
        if core.children.timer.is_some() || core.children.ids.is_empty() {
            return Ok(());
        }
    }
    let timer = Timer::open(lp, |lp, _| lp.look_at_children())?;
    lp.core()?.children.timer = Some(timer);
    lp.core()?.handles.hide(timer.into());
    lp.unref(timer)?;
    timer.start_repeating(lp, LOOK_EVERY, LOOK_EVERY)?;
    let signal = Signal::open(lp, |lp, _, _| lp.look_at_children())?;
    lp.core()?.children.signal = Some(signal);
    lp.core()?.handles.hide(signal.into());
    lp.unref(signal)?;
    // Without it (256 loops watch signals already, or no descriptor is left) there is the timer.
    let _ = signal.start(lp, libc::SIGCHLD);
    Ok(())
}

/// Watches a child whose entry is in the table: by its descriptor, or else by SIGCHLD.
pub(super) fn watch(core: &mut Core, id: Id) {
    let Ok(entry) = core.handles.get_mut(id) else {
        return;
    };
    let Body::Process(state) = &mut entry.body else {
        return;
    };
    if let Object::Foreign(_) = state.source.object {
        let readable = Interest::READABLE;
        if core
            .driver
            .poll_start(id, &mut state.source, readable)
            .is_ok()
        {
            return;
        }
        // The system watches as many as it can.
        state.source.object = Object::None;
    }
    core.children.ids.push(id);
    if core.children.timer.is_none() {
        // There was room for its handles when the child was started.
        let task = |lp: &Loop| {
            let _ = listen(lp);
        };
        core.deferred
            .push_back(Deferred::Task(Box::new(Some(task))));
    }
    // It may have ended before anybody watched.
    core.deferred.push_back(Deferred::Process(id));
}

impl Loop {
    /// A child ended, or it is time to look. Each is looked at for itself: what its callback does,
    /// also a panic, takes nothing from the others.
    fn look_at_children(&self) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let look = core.children.ids.iter().map(|id| Deferred::Process(*id));
        core.deferred.extend(look);
    }
}

/// What happens at once when a child's handle is closed.
pub(crate) fn close(core: &mut Core, id: Id) {
    let Some(entry) = core.handles.any_mut(id) else {
        return;
    };
    let Body::Process(state) = &mut entry.body else {
        return;
    };
    if state.runs() {
        if state.kill_on_close {
            // It may just have ended.
            let _ = state.kill(libc::SIGKILL);
        }
        // It is watched again when it has got another handle (`leave`).
        core.driver.poll_stop(id, &mut state.source);
        return;
    }
    core.driver.close(id, &mut state.source);
    state.pidfd = None;
    // If somebody else has waited for it, its number may be that of another child by now.
    let is_zombie = !matches!(state.exit, Some((ExitStatus::Unknown, _)));
    if is_zombie && state.fork_generation == sys::fork::generation() {
        children::reap(state.pid);
    }
    forget(core, id);
}

/// The child is no longer one of those without a descriptor.
fn forget(core: &mut Core, id: Id) {
    core.children.ids.retain(|child| *child != id);
    if core.children.ids.is_empty() {
        // What SIGCHLD did before is put back.
        if let Some(signal) = core.children.signal.take() {
            let _ = crate::event_loop::close(core, signal.into());
        }
        if let Some(timer) = core.children.timer.take() {
            let _ = crate::event_loop::close(core, timer.into());
        }
    }
}

/// A closed handle leaves the table. Its child, if it runs, gets one of the loop's own, which only
/// waits for its end; or is left to whoever comes, if the loop goes.
pub(crate) fn leave(core: &mut Core, id: Id, mut state: Box<ProcessState>) {
    let callback: Option<ExitCallback> = state.callback.take();
    core.finals
        .extend(callback.map(|callback| Final::Any(Box::new(callback))));
    if !state.runs() {
        return;
    }
    if core.ending {
        core.driver.close(id, &mut state.source);
        forget(core, id);
        abandon(
            state.pid,
            state.kill_on_close,
            &mut core.children.killed_until,
        );
        return;
    }
    let by_signal = core.children.ids.iter().position(|child| *child == id);
    // It has a place: that of the handle which has just left.
    if let Ok(orphan) = core.handles.insert(Body::Process(state)) {
        core.handles.hide(orphan);
        core.set_referenced(orphan, false);
        core.handles.set_active(orphan, true);
        match by_signal {
            Some(at) => core.children.ids[at] = orphan,
            None => watch(core, orphan),
        }
    }
}

/// A child whose loop is gone. (By its number: a descriptor would be one that nobody can close.)
struct Abandoned {
    pid: libc::pid_t,
    fork_generation: u32,
}

static ABANDONED: ForkLock<Vec<Abandoned>> = ForkLock::new(Vec::new());
static ANY_ABANDONED: AtomicBool = AtomicBool::new(false);

/// How long the ends of all children that were killed are waited for, together, when their loop
/// goes. Longer only takes one that the kernel holds, on a disk that does not answer.
const KILLED_WAIT: Duration = Duration::from_secs(1);

/// The loop goes, the child may run on. One that was killed is waited for until `deadline`.
fn abandon(pid: libc::pid_t, killed: bool, deadline: &mut Option<Instant>) {
    if children::reap(pid) {
        return;
    }
    if killed {
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + KILLED_WAIT);
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            if children::reap(pid) {
                return;
            }
        }
    }
    ABANDONED.lock().push(Abandoned {
        pid,
        fork_generation: sys::fork::generation(),
    });
    ANY_ABANDONED.store(true, Ordering::Release);
}

/// Lets go of the abandoned children that have ended meanwhile.
pub(super) fn sweep() {
    if !ANY_ABANDONED.load(Ordering::Acquire) {
        return;
    }
    let mut list = ABANDONED.lock();
    let now = sys::fork::generation();
    list.retain(|child| child.fork_generation == now && !children::reap(child.pid));
    ANY_ABANDONED.store(!list.is_empty(), Ordering::Release);
}
