//! What can be done with every handle, whatever its kind.

use super::Loop;
use crate::error::Result;
use crate::handles::{Flags, Id, Kind};

impl Loop {
    /// The handle no longer keeps the loop alive.
    ///
    /// Errors: [`Code::EBADF`](crate::Code::EBADF) for a closed handle.
    pub fn unref(&self, handle: impl Into<Id>) -> Result<()> {
        self.set_referenced(handle.into(), false)
    }

    /// The handle keeps the loop alive while it is active, as every handle does at first.
    ///
    /// Errors: [`Code::EBADF`](crate::Code::EBADF) for a closed handle.
    pub fn reference(&self, handle: impl Into<Id>) -> Result<()> {
        self.set_referenced(handle.into(), true)
    }

    fn set_referenced(&self, id: Id, on: bool) -> Result<()> {
        let mut core = self.core()?;
        core.handles.get_mut(id)?;
        core.set_referenced(id, on);
        Ok(())
    }

    /// Whether the handle keeps the loop alive while it is active.
    ///
    /// Errors: [`Code::EBADF`](crate::Code::EBADF) for a closed handle.
    pub fn is_referenced(&self, handle: impl Into<Id>) -> Result<bool> {
        Ok(self
            .core()?
            .handles
            .get(handle.into())?
            .flags
            .contains(Flags::REFERENCED))
    }

    /// Whether something can still happen on the handle by itself: a timer runs, a stream
    /// connects, reads or has writes queued, a hook is started.
    ///
    /// Errors: [`Code::EBADF`](crate::Code::EBADF) for a closed handle.
    pub fn is_active(&self, handle: impl Into<Id>) -> Result<bool> {
        self.core()?.is_active(handle.into())
    }

    /// What the handle is.
    ///
    /// Errors: [`Code::EBADF`](crate::Code::EBADF) for a closed handle.
    pub fn kind(&self, handle: impl Into<Id>) -> Result<Kind> {
        Ok(self.core()?.handles.get(handle.into())?.kind())
    }

    /// Every open handle, in no particular order.
    pub fn handles(&self) -> Vec<Id> {
        self.core.borrow().handles.ids()
    }

    /// One line about a handle, for a listing in a debugger or a log. The words may change.
    ///
    /// Errors: [`Code::EBADF`](crate::Code::EBADF) for a closed handle.
    pub fn describe(&self, handle: impl Into<Id>) -> Result<String> {
        let id = handle.into();
        let core = self.core()?;
        Ok(crate::metrics::describe(&core, id, core.handles.get(id)?))
    }
}
