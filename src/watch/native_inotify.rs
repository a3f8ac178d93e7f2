//! Linux: the hub of inotify, waited for by a handle of the loop's own.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::event::Change;
use super::inotify::Hub;
use super::{schedule, Told};
use crate::driver::{Driver, Interest, Object};
use crate::error::Result;
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Id};
use crate::poll::Poll;
use crate::sys::inotify::Inotify;
use crate::timer::Timer;

/// How long half a rename is held. The other half is made by the same system call a few
/// instructions later; only a thread that is preempted right there makes it late.
const HELD: Duration = Duration::from_millis(5);

/// The loop's instance of inotify, from its first watch until the loop ends. The kernel makes who
/// closes an instance wait until no processor uses its watches any more (a grace period, in
/// fsnotify_destroy_group): milliseconds, on a busy machine tenths of a second. Ending a single
/// watch does not wait.
#[derive(Default)]
pub(super) struct Kept(Option<Rc<Inotify>>);

impl Kept {
    fn instance(&mut self) -> Result<Rc<Inotify>> {
        let inotify = match &self.0 {
            Some(inotify) => inotify.clone(),
            None => Rc::new(Inotify::open()?),
        };
        Ok(self.0.insert(inotify).clone())
    }
}

pub(super) struct Native {
    hub: Hub,
    poll: Poll,
    timer: Timer,
    /// The cookie that the timer runs for; 0: it does not.
    timed: u32,
}

impl Native {
    pub fn open(lp: &Loop) -> Result<Native> {
        let hub = Hub::new(lp.core()?.watching.kept.instance()?);
        let heard = Box::new(|lp: &Loop, _, _| lp.watches_readable());
        let poll = Poll::open_raw(lp, hub.descriptor(), heard)?;
        let timer = Timer::open(lp, |lp, _| lp.watches_held()).inspect_err(|_| {
            let _ = lp.close(poll);
        })?;
        {
            let mut core = lp.core()?;
            for id in [poll.id(), timer.id()] {
                core.handles.hide(id);
                core.set_referenced(id, false);
            }
        }
        if let Err(error) = poll.start(lp, Interest::READABLE) {
            let _ = lp.close(poll);
            let _ = lp.close(timer);
            return Err(error);
        }
        Ok(Native {
            hub,
            poll,
            timer,
            timed: 0,
        })
    }

    /// Those of the loop's own.
    pub fn handles(&self) -> [Id; 2] {
        [self.poll.id(), self.timer.id()]
    }

    pub fn is_empty(&self) -> bool {
        self.hub.is_empty()
    }

    pub fn watch(
        &mut self,
        id: Id,
        path: &Path,
        (recursive, asked): (bool, Change),
        told: &mut Told,
    ) -> Result<()> {
        self.hub.watch(id, path, (recursive, asked), told)
    }

    pub fn unwatch(&mut self, id: Id) {
        self.hub.unwatch(id);
    }

    /// The last watch has gone, and [`Native::handles`] are closed.
    pub fn end(self) {
        self.hub.drain();
    }

    pub fn has_work(&self) -> bool {
        self.hub.has_work()
    }

    pub fn work(&mut self, told: &mut Told) {
        self.hub.work(told);
    }

    pub fn forked(&mut self, core: &mut Core, told: &mut Told) -> Result<()> {
        self.hub.forked(core.watching.kept.instance()?, told);
        let id = self.poll.id();
        if let Body::Poll(state) = &mut core.handles.get_mut(id)?.body {
            core.driver.poll_stop(id, &mut state.source);
            state.source.object = Object::Foreign(self.hub.descriptor());
            core.driver
                .poll_start(id, &mut state.source, Interest::READABLE)?;
        }
        Ok(())
    }
}

/// Has the timer run for as long as half a rename is held.
pub(super) fn set_timer(lp: &Loop) {
    let (timer, held) = {
        let mut core = lp.core.borrow_mut();
        let Some(native) = &mut core.watching.native else {
            return;
        };
        let held = native.hub.held();
        if held == native.timed {
            return;
        }
        native.timed = held;
        (native.timer, held)
    };
    // It is the loop's own, and open as long as there is a hub.
    let _ = match held {
        0 => timer.stop(lp),
        _ => timer.start(lp, HELD),
    };
}

impl Loop {
    fn watches_readable(&self) {
        let core = &mut *self.core.borrow_mut();
        if let Some(native) = &mut core.watching.native {
            native.hub.is_readable();
            schedule(core);
        }
    }

    fn watches_held(&self) {
        let core = &mut *self.core.borrow_mut();
        if let Some(native) = &mut core.watching.native {
            native.timed = 0;
            native.hub.expire();
            schedule(core);
        }
    }
}
