//! Hooks: functions called once in every turn, at one of three places.

use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::handles::{Body, Id};

/// Where in the turn a [`Hook`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum HookKind {
    /// Before the prepare hooks; while one is started the loop does not wait, so that it can do
    /// a piece of work each turn.
    Idle = 1,
    /// Right before the loop waits.
    Prepare = 2,
    /// After the wait and all that it brought.
    Check = 3,
}

pub(crate) type HookCallback = Box<dyn FnMut(&Loop, Hook)>;

pub(crate) struct HookState {
    pub kind: HookKind,
    callback: Option<HookCallback>,
}

/// A function that runs once in every turn: idle, prepare or check.
///
/// A started hook keeps the loop alive (see [`Loop::unref`]). Hooks of a kind run in the order
/// in which they were started; one that is started in a hook of its kind runs from the next turn
/// on. Close it with [`Loop::close`].
///
/// # Example
///
/// ```
/// use kolo::{Hook, HookKind, Loop, RunMode};
///
/// let lp = Loop::new()?;
/// let mut pieces = 3;
/// // A piece of work in each turn, for as long as there is some.
/// let work = Hook::open(&lp, HookKind::Idle, move |lp, hook| {
///     pieces -= 1;
///     if pieces == 0 {
///         lp.close(hook).unwrap();
///     }
/// })?;
/// work.start(&lp)?;
/// lp.run(RunMode::Default)?;
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook(pub(crate) Id);

crate::handles::handle_type!(Hook);

impl Hook {
    /// Makes a hook that is not started yet.
    ///
    /// Errors: [`Code::ENOBUFS`] when the loop holds as many handles as it can.
    pub fn open(
        lp: &Loop,
        kind: HookKind,
        callback: impl FnMut(&Loop, Hook) + 'static,
    ) -> Result<Hook> {
        let state = HookState {
            kind,
            callback: Some(Box::new(callback)),
        };
        Ok(Hook(lp.insert(Body::Hook(state))?))
    }

    fn kind(self, lp: &Loop) -> Result<HookKind> {
        match &lp.core()?.handles.get(self.0)?.body {
            Body::Hook(state) => Ok(state.kind),
            _ => Err(Code::EBADF.into()),
        }
    }

    /// Starts it; a started one keeps its place.
    ///
    /// Errors: [`Code::EBADF`] for a closed hook.
    pub fn start(self, lp: &Loop) -> Result<()> {
        let kind = self.kind(lp)?;
        let mut core = lp.core()?;
        let started = &mut core.hooks[kind as usize - 1];
        if !started.contains(&self.0) {
            started.push(self.0);
            core.handles.set_active(self.0, true);
        }
        Ok(())
    }

    /// Stops it, from now on: also when its turn in this phase was still to come.
    ///
    /// Errors: [`Code::EBADF`] for a closed hook.
    pub fn stop(self, lp: &Loop) -> Result<()> {
        let kind = self.kind(lp)?;
        let mut core = lp.core()?;
        core.hooks[kind as usize - 1].retain(|id| *id != self.0);
        core.hooks_due.retain(|id| *id != self.0);
        core.handles.set_active(self.0, false);
        Ok(())
    }
}

impl Loop {
    /// One phase of hooks.
    #[inline(always)] // mostly there are none
    pub(crate) fn run_hooks(&self, kind: HookKind) {
        if self.core.borrow().has_hooks(kind) {
            self.run_hooks_of(kind);
        }
    }

    fn run_hooks_of(&self, kind: HookKind) {
        if self.is_parents() {
            return;
        }
        {
            let core = &mut *self.core.borrow_mut();
            // What a panic left is of another phase.
            core.hooks_due.clear();
            core.hooks_due.extend(&core.hooks[kind as usize - 1]);
        }
        loop {
            let (hook, callback) = {
                let core = &mut *self.core.borrow_mut();
                if self.is_parents() {
                    return;
                }
                let Some(id) = core.hooks_due.pop_front() else {
                    return;
                };
                (Hook(id), core.handles.lend(id, slot))
            };
            self.call_lent(hook.0, callback, slot, |lp, callback| callback(lp, hook));
        }
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<HookCallback>> {
    match body {
        Body::Hook(state) => Some(&mut state.callback),
        _ => None,
    }
}
