//! How callbacks are called.

use std::cell::RefMut;

use super::{Core, Loop};
use crate::handles::{Body, Id};

impl Loop {
    /// Calls the user, for a handle or for none. Afterwards what it wrote goes to the kernel.
    #[inline]
    pub(crate) fn callback<R>(&self, id: Option<Id>, run: impl FnOnce(&Loop) -> R) -> R {
        struct Leave<'a>(&'a Loop);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.leave_callback();
            }
        }
        let started = self.enter_callback(id);
        let result = {
            let _leave = Leave(self);
            run(self)
        };
        if let Some(started) = started {
            self.meter.callback_ended(self, id, started);
        }
        result
    }

    /// Calls a callback that was taken out of its handle, and puts it back, also when it
    /// unwinds. If the handle is gone, or has got another one meanwhile, it is dropped.
    #[inline]
    pub(crate) fn call_lent<T, R>(
        &self,
        id: Id,
        lent: Option<T>,
        slot: impl Fn(&mut Body) -> Option<&mut Option<T>> + Copy,
        run: impl FnOnce(&Loop, &mut T) -> R,
    ) -> Option<R> {
        let what = lent?;
        let started = self.enter_callback(Some(id));
        let (result, what) = self.run_lent(id, what, slot, run)?;
        self.give_back(id, what, slot);
        if let Some(started) = started {
            self.meter.callback_ended(self, Some(id), started);
        }
        Some(result)
    }

    /// Runs a callback that was taken out of its handle. The caller puts it back; when it
    /// unwinds, that is done here.
    #[inline(always)]
    pub(crate) fn run_lent<T, R>(
        &self,
        id: Id,
        what: T,
        slot: impl Fn(&mut Body) -> Option<&mut Option<T>> + Copy,
        run: impl FnOnce(&Loop, &mut T) -> R,
    ) -> Option<(R, T)> {
        struct Unwinding<'a, T, S: Fn(&mut Body) -> Option<&mut Option<T>> + Copy> {
            lp: &'a Loop,
            id: Id,
            what: Option<T>,
            slot: S,
        }
        impl<T, S: Fn(&mut Body) -> Option<&mut Option<T>> + Copy> Drop for Unwinding<'_, T, S> {
            #[cold]
            fn drop(&mut self) {
                if let Some(what) = self.what.take() {
                    self.lp.give_back(self.id, what, self.slot);
                }
            }
        }
        let mut unwinding = Unwinding {
            lp: self,
            id,
            what: Some(what),
            slot,
        };
        let result = unwinding.what.as_mut().map(|what| run(self, what))?;
        let what = unwinding.what.take()?;
        std::mem::forget(unwinding);
        Some((result, what))
    }

    /// After a callback that was taken out of its handle.
    #[inline]
    fn give_back<T>(&self, id: Id, what: T, slot: impl Fn(&mut Body) -> Option<&mut Option<T>>) {
        let mut what = Some(what);
        let mut core = self.leave_callback();
        if let Some(entry) = core.handles.any_mut(id) {
            if let Some(home @ None) = slot(&mut entry.body) {
                *home = what.take();
            }
        }
        // What is left is dropped after the borrow has ended: the user's destructor may call the
        // loop.
        drop(core);
        drop(what);
    }

    /// Before a callback: the time, if it is to be measured.
    #[inline]
    pub(crate) fn enter_callback(&self, id: Option<Id>) -> Option<u64> {
        self.clock_stale.set(true);
        self.in_callback.set(true);
        self.meter.callback_begins(id)
    }

    /// After a callback: what it wrote goes to the kernel.
    #[inline]
    pub(crate) fn leave_callback(&self) -> RefMut<'_, Core> {
        let mut core = self.after_callback();
        if let Some(owner) = core.gathered.owner() {
            crate::stream::flush(&mut core, owner);
        }
        core
    }

    /// After a callback. What it wrote is still to go to the kernel.
    #[inline]
    pub(crate) fn after_callback(&self) -> RefMut<'_, Core> {
        self.in_callback.set(false);
        self.clock_stale.set(true);
        let mut core = self.core.borrow_mut();
        if self.is_parents() {
            drop_gathered(&mut core);
        }
        core
    }
}

/// The callback has forked, and this is the child: what it wrote is sent by the parent, which shares the connections.
#[cold]
fn drop_gathered(core: &mut Core) {
    core.gathered.clear();
    #[cfg(feature = "net")]
    core.datagrams.clear();
}
