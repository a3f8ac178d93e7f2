//! Looking again and again, on a thread of the pool.

use std::sync::Arc;
use std::time::Duration;

use super::event::{Change, WatchEvent};
use super::snapshot::Snapshot;
use super::{distribute, schedule, state, Told};
use crate::error::Result;
use crate::event_loop::{close, Core, Loop};
use crate::handles::Id;
use crate::pool::{Job, WorkClass};
use crate::request::Hold;
use crate::timer::nanoseconds;

/// More often would be nothing but looking.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

pub(super) struct Polling {
    interval: u64,
    /// What was there when it was looked last.
    before: Option<Arc<Snapshot>>,
    /// The look that is under way; its handle is the loop's own.
    look: Option<Id>,
}

/// One look at everything.
struct Look {
    path: std::path::PathBuf,
    recursive: bool,
    before: Option<Arc<Snapshot>>,
    /// What was found, and what is different.
    found: Option<(Snapshot, Vec<WatchEvent>)>,
}

impl Job for Look {
    fn run(&mut self) {
        let before = self.before.take();
        let now = Snapshot::take(&self.path, self.recursive, before.as_deref());
        let changes = match &before {
            Some(before) => now.changes_since(before),
            None => now.failures(),
        };
        self.found = Some((now, changes));
    }
}

pub(super) fn start(lp: &Loop, id: Id, interval: Duration) -> Result<()> {
    let is_directory = {
        let mut core = lp.core()?;
        let core = &mut *core;
        let state = state(core.handles.get_mut(id)?)?;
        let (itself, is_directory) = Snapshot::of_itself(&state.path)?;
        state.polling = Some(Polling {
            interval: nanoseconds(interval.max(INTERVAL_MIN)),
            before: (!is_directory).then(|| Arc::new(itself)),
            look: None,
        });
        // The watch closes with it; `Watch::open` sees to that if this fails from here on.
        core.handles.get_mut(id)?.timer = core.wheel.add(id);
        is_directory
    };
    if is_directory {
        return look(lp, id);
    }
    let mut core = lp.core()?;
    let ready = WatchEvent::general(Change::READY);
    distribute(&mut core, &mut vec![(id, ready)]);
    schedule(&mut core);
    drop(core);
    look_later(lp, id)
}

/// A polling watch is closed: nobody waits for the look that is under way.
pub(super) fn stop(core: &mut Core, id: Id) {
    let state = core.handles.any_mut(id).and_then(|entry| state(entry).ok());
    let polling = state.and_then(|state| state.polling.as_mut());
    let look = polling.and_then(|polling| polling.look.take());
    if let Some(look) = look {
        // When the loop is freed it may be closed already.
        let _ = close(core, look);
    }
}

fn look(lp: &Loop, id: Id) -> Result<()> {
    let job = {
        let mut core = lp.core()?;
        let state = state(core.handles.get_mut(id)?)?;
        let before = state.polling.as_ref().and_then(|p| p.before.clone());
        Look {
            path: state.path.clone(),
            recursive: state.recursive,
            before,
            found: None,
        }
    };
    // Polling is for file systems of which nobody knows when they answer.
    let look = lp.submit(WorkClass::Slow, job, Hold::MayAbandon, move |lp, _, job| {
        lp.watch_looked(id, job)
    })?;
    let mut core = lp.core()?;
    core.handles.hide(look.id());
    core.set_referenced(look.id(), false);
    if let Some(polling) = &mut state(core.handles.get_mut(id)?)?.polling {
        polling.look = Some(look.id());
    }
    Ok(())
}

fn look_later(lp: &Loop, id: Id) -> Result<()> {
    let mut core = lp.core()?;
    let now = lp.fresh_clock(&mut core);
    let core = &mut *core;
    let entry = core.handles.get_mut(id)?;
    let timer = entry.timer;
    let interval = state(entry)?.polling.as_ref().map_or(0, |p| p.interval);
    core.wheel.arm(timer, now.saturating_add(interval));
    Ok(())
}

impl Loop {
    /// The time between two looks is over.
    pub(crate) fn watch_look(&self, id: Id) {
        if look(self, id).is_err() {
            // No room in the pool, or no thread: a later look finds the same.
            let _ = look_later(self, id);
        }
    }

    fn watch_looked(&self, id: Id, look: Result<Box<Look>>) {
        {
            let core = &mut *self.core.borrow_mut();
            let Ok(state) = core.handles.get_mut(id).and_then(state) else {
                return; // closed meanwhile
            };
            let Some(polling) = &mut state.polling else {
                return;
            };
            polling.look = None;
            // Without an outcome (in a forked child, where the thread is not) it is looked again.
            if let Some((now, changes)) = look.ok().and_then(|look| look.found) {
                let first = polling.before.replace(Arc::new(now)).is_none();
                let mut told: Told = changes.into_iter().map(|event| (id, event)).collect();
                if first {
                    told.push((id, WatchEvent::general(Change::READY)));
                }
                distribute(core, &mut told);
                schedule(core);
            }
        }
        // It was found open just now.
        let _ = look_later(self, id);
    }
}
