//! Watching files and folders for changes.
//!
//! What a watch tells is found out by one of two: the system ([`native`]: inotify on Linux, on
//! other systems what the `notify` crate has), or by looking again and again ([`polling`]). Both
//! give [`WatchEvent`]s, which wait in the [`Queue`](event::Queue) of their watch and are told in
//! the deferred phase, a bounded number a turn. The system is asked for more only when those are
//! told; what it cannot keep meanwhile it reports as lost.

mod event;
#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(kolo_watch_notify)
))]
mod inotify;
#[cfg_attr(
    all(
        any(target_os = "linux", target_os = "android"),
        not(kolo_watch_notify)
    ),
    path = "native_inotify.rs"
)]
#[cfg_attr(
    not(all(
        any(target_os = "linux", target_os = "android"),
        not(kolo_watch_notify)
    )),
    path = "native_notify.rs"
)]
mod native;
mod polling;
mod snapshot;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use event::{Change, FileState, WatchEvent};

use crate::driver::Driver;
use crate::error::{Code, Result};
use crate::event_loop::{Core, Deferred, Loop};
use crate::handles::{Body, Entry, Id};
use crate::timers::TimerKey;
use event::Queue;
use native::{Kept, Native};
use polling::Polling;

pub(crate) type WatchCallback = Box<dyn FnMut(&Loop, Watch, &WatchEvent)>;

/// Events on their way into the queues.
type Told = Vec<(Id, WatchEvent)>;

/// Events that one turn tells before the loop goes on: as many as it takes from the driver.
const TOLD_PER_TURN: usize = 1024;

/// How a path is watched.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WatchOptions {
    /// What is told. [`Change::OVERFLOW`] and [`Change::ERROR`] are told in any case. The system
    /// is not asked for what nobody wants: without [`Change::MODIFIED`] a busy log file costs
    /// nothing. Default: everything.
    pub changes: Change,
    /// A folder is watched with all folders below it, also those that come later. Symbolic links
    /// below it are not followed. Default: only what is in the folder itself.
    pub recursive: bool,
    /// The system is not asked: what is there is looked at, again and again, with so much time in
    /// between; less than a millisecond is taken as one. For file systems that tell nothing of
    /// what other machines do (NFS, SMB, FUSE, shared folders of virtual machines) and for files
    /// that the system makes up (`/proc`, `/sys`). Default: the system is asked.
    pub poll: Option<Duration>,
}

impl Default for WatchOptions {
    fn default() -> WatchOptions {
        WatchOptions {
            changes: Change::all(),
            recursive: false,
            poll: None,
        }
    }
}

pub(crate) struct WatchState {
    path: PathBuf,
    recursive: bool,
    queue: Queue,
    /// Stands in the list of those that have something to tell.
    listed: bool,
    callback: Option<WatchCallback>,
    polling: Option<Polling>,
}

/// The loop's part of all its watches.
#[derive(Default)]
pub(crate) struct Watching {
    /// Watches whose queues are not empty.
    ready: VecDeque<Id>,
    /// The deferred phase will look after them.
    scheduled: bool,
    native: Option<Native>,
    /// What stays when the last watch has gone.
    kept: Kept,
}

/// Tells of changes to a file, or to a folder and what is in it.
///
/// # What holds
///
/// - What is watched is a **path**. When its file is replaced, as editors do it, the watch goes on
///   with the new one ([`Change::CREATED`] with an empty path); when it is removed
///   ([`Change::REMOVED`]) the watch goes on, too, and tells when there is something again. A
///   symbolic link is followed, and when it is turned that is a replacement.
/// - Paths are told relative to what is watched; the empty path is what is watched itself.
/// - Events are told in the order in which they happened. Of a **rename** inside of what is watched both names are told; where only one of
///   them is in it, it is [`Change::REMOVED`] or [`Change::CREATED`].
/// - A folder that appears in one that is watched recursively is told with all that is in it, each
///   once, however quickly it came.
/// - **Nothing is lost in silence**: when the system could not keep all events, the watch first
///   makes sure that it watches everything again, and then tells [`Change::OVERFLOW`].
/// - One [`Change::MODIFIED`] stands for as many writes as happen until it is told. It is no
///   promise that the contents differ, nor that the writer is done.
/// - A file or folder that cannot be watched (no permission, no numbers left) is told with
///   [`Change::ERROR`], the rest goes on.
/// - A watch holds the loop from when it is opened until it is closed; see
///   [`Loop::unref`](crate::Loop::unref).
///
/// # Systems
///
/// On Linux inotify(7) is used, one descriptor for all watches of a loop and no thread. The descriptor
/// stays until the loop is dropped, since closing it may take tenths of a second. Each
/// watched folder takes one of `fs.inotify.max_user_watches` numbers ([`Code::ENOSPC`] when there
/// are none left), each loop that watches, or has watched, one of `fs.inotify.max_user_instances` ([`Code::EMFILE`]).
/// Opening a recursive watch is quick: the folders below are watched a part in every turn, until
/// [`Change::READY`]. What is written through memory mappings, and what another machine does, the
/// kernel does not tell: see [`WatchOptions::poll`].
///
/// On other systems the `notify` crate is used (FSEvents, kqueue, ReadDirectoryChangesW): renames may be told as removed and created there, and
/// a path that is removed and comes again may not be found again.
///
/// # Example
///
/// ```
/// use kolo::{Change, Loop, RunMode, Watch, WatchOptions};
///
/// let lp = Loop::new()?;
/// let folder = std::env::temp_dir().join("kolo-watch-example");
/// std::fs::create_dir_all(&folder)?;
/// # let _ = std::fs::remove_file(folder.join("new"));
/// let file = folder.join("new");
/// Watch::open(&lp, &folder, &WatchOptions::default(), move |lp, watch, event| {
///     if event.change() == Change::READY {
///         std::fs::write(&file, "contents").unwrap();
///     } else if event.change() == Change::CREATED {
///         assert_eq!(event.path().to_str(), Some("new"));
///         lp.close(watch).unwrap();
///     }
/// })?;
/// lp.run(RunMode::Default)?;
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watch(pub(crate) Id);

crate::handles::handle_type!(Watch);

impl Watch {
    /// Watches what is at `path` from now on; a relative one counts from the current folder as it
    /// is now.
    ///
    /// What happens to the file or folder itself, and to what is in the folder, is told from this call on
    /// (a polling watch of a folder: from [`Change::READY`] on); what happens further below from
    /// [`Change::READY`] on.
    ///
    /// Errors: [`Code::ENOENT`], [`Code::EACCES`], [`Code::ENOTDIR`], [`Code::ELOOP`] and the
    /// like if nothing can be found there or it must not be read; [`Code::EINVAL`] for an empty
    /// path or no changes to tell; [`Code::ENOSPC`] and [`Code::EMFILE`] when the system allows no more (see
    /// above); [`Code::ENOBUFS`] when the loop holds as many handles as it can, or the pool has no room for a watch that
    /// polls;
    /// [`Code::ECANCELED`] while the loop is being freed.
    pub fn open(
        lp: &Loop,
        path: impl AsRef<Path>,
        options: &WatchOptions,
        callback: impl FnMut(&Loop, Watch, &WatchEvent) + 'static,
    ) -> Result<Watch> {
        lp.needs_kernel()?;
        let path = std::path::absolute(path)?;
        if options.changes.is_empty() {
            return Err(Code::EINVAL.into());
        }
        let state = WatchState {
            path: path.clone(),
            recursive: options.recursive,
            queue: Queue::new(options.changes),
            listed: false,
            callback: Some(Box::new(callback)),
            polling: None,
        };
        let watch = Watch(lp.insert(Body::Watch(Box::new(state)))?);
        let outcome = match options.poll {
            Some(interval) => polling::start(lp, watch.0, interval),
            None => start(lp, watch.0, &path, options),
        };
        if let Err(error) = outcome {
            let mut core = lp.core()?;
            unwatch(&mut core, watch.0);
            let entry = core.handles.remove(watch.0);
            if let Some(entry) = entry.as_ref().filter(|entry| entry.timer != TimerKey::NONE) {
                core.wheel.remove(entry.timer);
            }
            drop(core);
            // The callback's destructor may call the loop.
            drop(entry);
            return Err(error);
        }
        lp.core()?.handles.set_active(watch.0, true);
        Ok(watch)
    }

    /// The path that is watched, as it was given to [`Watch::open`], made absolute.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn path(self, lp: &Loop) -> Result<PathBuf> {
        let mut core = lp.core()?;
        Ok(state(core.handles.get_mut(self.0)?)?.path.clone())
    }
}

/// Has the system watch.
fn start(lp: &Loop, id: Id, path: &Path, options: &WatchOptions) -> Result<()> {
    let has_native = lp.core()?.watching.native.is_some();
    if !has_native {
        let native = Native::open(lp)?;
        lp.core()?.watching.native = Some(native);
    }
    let mut core = lp.core()?;
    let core = &mut *core;
    let Some(native) = &mut core.watching.native else {
        return Err(Code::ENOTSUP.into());
    };
    let mut told = Told::new();
    let how = (options.recursive, options.changes);
    let outcome = native.watch(id, path, how, &mut told);
    // Of the others, what the system had to say until now was read.
    let others = !native.is_empty() && native.has_work() || !told.is_empty();
    distribute(core, &mut told);
    if outcome.is_ok() || others {
        schedule(core);
    }
    outcome
}

/// A watch is closed: the system is asked no more for it, and for nothing if it was the last.
pub(crate) fn unwatch(core: &mut Core, id: Id) {
    polling::stop(core, id);
    let Some(native) = &mut core.watching.native else {
        return;
    };
    native.unwatch(id);
    if !native.is_empty() {
        return;
    }
    if let Some(native) = core.watching.native.take() {
        for handle in native.handles() {
            discard(core, handle);
        }
        native.end();
    }
}

/// Takes a handle of the loop's own out of the table at once: no closing phase is to come for it,
/// which would keep the loop alive.
fn discard(core: &mut Core, id: Id) {
    // When the loop is freed they may be closed already.
    let Ok(entry) = core.handles.get_mut(id) else {
        return;
    };
    let timer = std::mem::replace(&mut entry.timer, TimerKey::NONE);
    match &mut entry.body {
        Body::Poll(poll) => core.driver.close(id, &mut poll.source),
        Body::Waker(waker) => waker.close(),
        Body::Timer(_) => core.handles.timers.remove(id, &core.wheel),
        _ => {}
    }
    if timer != TimerKey::NONE {
        core.wheel.remove(timer);
    }
    core.handles.remove(id);
}

/// In a forked child: what the parent's kernel objects told is the parent's.
pub(crate) fn forked(core: &mut Core) -> Result<()> {
    let mut told = Told::new();
    core.watching.kept = Kept::default();
    if let Some(mut native) = core.watching.native.take() {
        let outcome = native.forked(core, &mut told);
        core.watching.native = Some(native);
        outcome?;
    }
    distribute(core, &mut told);
    schedule(core);
    Ok(())
}

/// Has the deferred phase look after the watches.
fn schedule(core: &mut Core) {
    if !std::mem::replace(&mut core.watching.scheduled, true) {
        core.deferred.push_back(Deferred::Watches);
    }
}

/// Puts events into the queues of their watches.
fn distribute(core: &mut Core, told: &mut Told) {
    for (id, event) in told.drain(..) {
        let Ok(state) = core.handles.get_mut(id).and_then(state) else {
            continue;
        };
        state.queue.push(event);
        if !state.listed && !state.queue.is_empty() {
            state.listed = true;
            core.watching.ready.push_back(id);
        }
    }
}

fn state(entry: &mut Entry) -> Result<&mut WatchState> {
    match &mut entry.body {
        Body::Watch(state) => Ok(state),
        _ => Err(Code::EBADF.into()),
    }
}

impl Core {
    /// The next event to be told, of the watches in turn.
    fn next_told(&mut self) -> Option<(Id, WatchEvent, Option<WatchCallback>)> {
        while let Some(id) = self.watching.ready.pop_front() {
            let Ok(state) = self.handles.get_mut(id).and_then(state) else {
                continue;
            };
            let event = state.queue.pop();
            state.listed = !state.queue.is_empty();
            if state.listed {
                self.watching.ready.push_back(id);
            }
            if let Some(event) = event {
                return Some((id, event, state.callback.take()));
            }
        }
        None
    }

    /// Asks the system for more once all is told.
    fn ask_native(&mut self) {
        if !self.watching.ready.is_empty() {
            return;
        }
        let mut told = Told::new();
        if let Some(native) = &mut self.watching.native {
            native.work(&mut told);
        }
        distribute(self, &mut told);
    }
}

impl Loop {
    /// The part of a turn that is the watches'.
    pub(crate) fn tell_watches(&self) {
        /// What is left goes on in the next deferred phase, also when a callback unwinds.
        struct Rest<'a>(&'a Loop);
        impl Drop for Rest<'_> {
            fn drop(&mut self) {
                let mut core = self.0.core.borrow_mut();
                let watching = &core.watching;
                let native = watching.native.as_ref();
                let has_work = native.is_some_and(|native| native.has_work());
                if !watching.ready.is_empty() || has_work {
                    schedule(&mut core);
                }
            }
        }
        {
            let core = &mut *self.core.borrow_mut();
            core.watching.scheduled = false;
            core.ask_native();
        }
        native::set_timer(self);
        let _rest = Rest(self);
        for _ in 0..TOLD_PER_TURN {
            let next = self.core.borrow_mut().next_told();
            let Some((id, event, callback)) = next else {
                return;
            };
            self.call_lent(id, callback, slot, |lp, callback| {
                callback(lp, Watch(id), &event)
            });
        }
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<WatchCallback>> {
    match body {
        Body::Watch(state) => Some(&mut state.callback),
        _ => None,
    }
}

impl WatchState {
    /// What is true of it, for a listing.
    pub(crate) fn describe(&self, line: &mut String) {
        use std::fmt::Write;
        let _ = write!(line, " path={:?}", self.path);
        if self.recursive {
            line.push_str(" recursive");
        }
        if self.polling.is_some() {
            line.push_str(" polling");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_cannot_be_opened_leaves_nothing_behind() {
        let lp = Loop::new().unwrap();
        for poll in [None, Some(Duration::from_secs(1))] {
            let options = WatchOptions {
                poll,
                ..Default::default()
            };
            for path in ["/no/such/path", ""] {
                assert!(Watch::open(&lp, path, &options, |_, _, _| ()).is_err());
            }
        }
        let core = lp.core.borrow();
        assert_eq!((core.handles.len(), core.wheel.count()), (0, 0));
    }
}
