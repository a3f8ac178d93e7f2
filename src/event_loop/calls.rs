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
        let started = self.enter_callback();
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
        slot: impl Fn(&mut Body) -> Option<&mut Option<T>>,
        run: impl FnOnce(&Loop, &mut T) -> R,
    ) -> Option<R> {
        struct Lent<'a, T, S: Fn(&mut Body) -> Option<&mut Option<T>>> {
            lp: &'a Loop,
            id: Id,
            what: Option<T>,
            slot: S,
        }
        impl<T, S: Fn(&mut Body) -> Option<&mut Option<T>>> Drop for Lent<'_, T, S> {
            #[inline]
            fn drop(&mut self) {
                let mut core = self.lp.leave_callback();
                if let Some(entry) = core.handles.any_mut(self.id) {
                    if let Some(home @ None) = (self.slot)(&mut entry.body) {
                        *home = self.what.take();
                    }
                }
                // What is left is dropped after the borrow has ended: the user's destructor may
                // call the loop.
            }
        }
        let what = lent?;
        let started = self.enter_callback();
        let mut lent = Lent {
            lp: self,
            id,
            what: Some(what),
            slot,
        };
        let result = lent.what.as_mut().map(|what| run(self, what));
        drop(lent);
        if let Some(started) = started {
            self.meter.callback_ended(self, Some(id), started);
        }
        result
    }

    /// Before a callback: the time, if it is to be measured.
    #[inline]
    pub(crate) fn enter_callback(&self) -> Option<u64> {
        self.clock_stale.set(true);
        self.in_callback.set(true);
        self.meter.callback_begins()
    }

    /// After a callback: what it wrote goes to the kernel.
    #[inline]
    pub(crate) fn leave_callback(&self) -> RefMut<'_, Core> {
        self.in_callback.set(false);
        self.clock_stale.set(true);
        let mut core = self.core.borrow_mut();
        if let Some(owner) = core.gathered.owner() {
            crate::stream::flush(&mut core, owner);
        }
        core
    }
}
