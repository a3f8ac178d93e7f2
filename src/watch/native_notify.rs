//! Other systems than Linux: the `notify` crate, one of its watchers for each watch.
//!
//! Its threads put what the system tells into an [`Inbox`] of the watch, which has a bound, and
//! wake the loop once for all that waits there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use notify::event::{CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Config, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::event::{Change, WatchEvent, QUEUE_MAX};
use super::{schedule, Told};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::Id;
use crate::remote::{Remote, Waker};

/// Nothing is kept when the last watch has gone.
pub(super) type Kept = ();

pub(super) struct Native {
    waker: Waker,
    remote: Remote,
    watches: HashMap<Id, Watched>,
    /// Something may be in the inboxes.
    woken: bool,
}

struct Watched {
    // Before the inbox, since its thread writes there.
    _watcher: RecommendedWatcher,
    inbox: Arc<Mutex<Inbox>>,
    path: PathBuf,
    recursive: bool,
}

impl Native {
    pub fn open(lp: &Loop) -> Result<Native> {
        let waker = Waker::open(lp, |lp, _| lp.watches_woken())?;
        let remote = waker.remote(lp)?;
        let mut core = lp.core()?;
        core.handles.hide(waker.id());
        core.set_referenced(waker.id(), false);
        Ok(Native {
            waker,
            remote,
            watches: HashMap::new(),
            woken: false,
        })
    }

    /// Those of the loop's own.
    pub fn handles(&self) -> [Id; 1] {
        [self.waker.id()]
    }

    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    pub fn watch(
        &mut self,
        id: Id,
        path: &Path,
        (recursive, _asked): (bool, Change),
        _told: &mut Told,
    ) -> Result<()> {
        self.add(id, path, recursive, Change::READY)
    }

    fn add(&mut self, id: Id, path: &Path, recursive: bool, first: Change) -> Result<()> {
        // Some systems tell paths without symbolic links.
        let real = path.canonicalize()?;
        let inbox = Arc::new(Mutex::new(Inbox::new(real.clone(), recursive)));
        let (told, remote) = (inbox.clone(), self.remote.clone());
        let handler = move |event: notify::Result<notify::Event>| {
            lock(&told).take(event);
            // A loop that is gone needs no waking.
            let _ = remote.wake();
        };
        let config = Config::default().with_follow_symlinks(false);
        let mut watcher = RecommendedWatcher::new(handler, config).map_err(error_of)?;
        let mode = match recursive {
            true => RecursiveMode::Recursive,
            false => RecursiveMode::NonRecursive,
        };
        watcher.watch(&real, mode).map_err(error_of)?;
        lock(&inbox).push(WatchEvent::general(first));
        let watched = Watched {
            _watcher: watcher,
            inbox,
            path: path.to_owned(),
            recursive,
        };
        self.woken = true;
        self.watches.insert(id, watched);
        Ok(())
    }

    pub fn unwatch(&mut self, id: Id) {
        self.watches.remove(&id);
    }

    /// The last watch has gone, and [`Native::handles`] are closed.
    pub fn end(self) {}

    pub fn has_work(&self) -> bool {
        self.woken
    }

    pub fn work(&mut self, told: &mut Told) {
        if !std::mem::take(&mut self.woken) {
            return;
        }
        for (id, watched) in &self.watches {
            let events = lock(&watched.inbox).drain();
            told.extend(events.map(|event| (*id, event)));
        }
    }

    /// In a forked child, where the watchers' threads are not.
    pub fn forked(&mut self, _core: &mut Core, told: &mut Told) -> Result<()> {
        for (id, watched) in std::mem::take(&mut self.watches) {
            let (path, recursive) = (watched.path.clone(), watched.recursive);
            // Ending it would wait for its thread, which may hold the inbox, too.
            std::mem::forget(watched);
            if let Err(error) = self.add(id, &path, recursive, Change::OVERFLOW) {
                told.push((id, WatchEvent::failed(PathBuf::new(), false, error)));
            }
        }
        Ok(())
    }
}

/// Only inotify needs one.
pub(super) fn set_timer(_lp: &Loop) {}

impl Loop {
    fn watches_woken(&self) {
        let core = &mut *self.core.borrow_mut();
        if let Some(native) = &mut core.watching.native {
            native.woken = true;
            schedule(core);
        }
    }
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What a watcher's thread told, until the loop takes it.
struct Inbox {
    root: PathBuf,
    recursive: bool,
    events: Vec<WatchEvent>,
    overflowed: bool,
    /// The last event is the first half of a rename.
    half: bool,
    /// The new name that was told last.
    renamed_to: Option<PathBuf>,
}

impl Inbox {
    fn new(root: PathBuf, recursive: bool) -> Inbox {
        Inbox {
            root,
            recursive,
            events: Vec::new(),
            overflowed: false,
            half: false,
            renamed_to: None,
        }
    }

    fn push(&mut self, event: WatchEvent) {
        self.half = false;
        if self.events.len() >= QUEUE_MAX {
            self.overflowed = true;
        } else {
            self.events.push(event);
        }
    }

    fn drain(&mut self) -> impl Iterator<Item = WatchEvent> {
        self.half = false;
        let overflow = std::mem::take(&mut self.overflowed);
        let overflow = overflow.then(|| WatchEvent::general(Change::OVERFLOW));
        std::mem::take(&mut self.events).into_iter().chain(overflow)
    }

    fn take(&mut self, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let path = error.paths.first().cloned();
                let path = path.and_then(|path| self.relative(&path));
                let path = path.unwrap_or_default();
                return self.push(WatchEvent::failed(path, false, error_of(error)));
            }
        };
        if event.need_rescan() {
            self.overflowed = true;
        }
        let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|s| s.is_dir());
        let folder = match event.kind {
            EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder) => true,
            _ => event.paths.last().is_some_and(|path| is_directory(path)),
        };
        match event.kind {
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                if let [from, to] = &event.paths[..] {
                    self.renamed(from, to, folder);
                }
            }
            kind => {
                for path in &event.paths {
                    self.happened(kind, path, folder);
                }
            }
        }
    }

    fn happened(&mut self, kind: EventKind, path: &Path, folder: bool) {
        let Some(relative) = self.relative(path) else {
            return;
        };
        let exists = || path.symlink_metadata().is_ok();
        let change = match kind {
            EventKind::Create(_) => Change::CREATED,
            EventKind::Remove(_) => Change::REMOVED,
            EventKind::Modify(ModifyKind::Metadata(_)) => Change::METADATA,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                self.push(WatchEvent::new(Change::REMOVED, relative, folder));
                self.half = true;
                return;
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.renamed_to = Some(path.to_owned());
                let half = self.half.then(|| self.events.pop()).flatten();
                let event = match half {
                    Some(from) => WatchEvent::renamed(from.path, relative, folder),
                    None => WatchEvent::new(Change::CREATED, relative, folder),
                };
                return self.push(event);
            }
            EventKind::Modify(ModifyKind::Name(_)) if exists() => Change::CREATED,
            EventKind::Modify(ModifyKind::Name(_)) => Change::REMOVED,
            // A folder is as its entries are, and those are told.
            EventKind::Modify(_) if !folder => Change::MODIFIED,
            _ => return,
        };
        self.push(WatchEvent::new(change, relative, folder));
    }

    /// Both names at once; some systems have told each before.
    fn renamed(&mut self, from: &Path, to: &Path, folder: bool) {
        if self.renamed_to.take().is_some_and(|told| told == to) {
            return;
        }
        if let (Some(from), Some(to)) = (self.relative(from), self.relative(to)) {
            self.push(WatchEvent::renamed(from, to, folder));
        }
    }

    fn relative(&self, path: &Path) -> Option<PathBuf> {
        let relative = path.strip_prefix(&self.root).ok()?;
        let counts = self.recursive || relative.components().count() <= 1;
        counts.then(|| relative.to_owned())
    }
}

fn error_of(error: notify::Error) -> Error {
    match error.kind {
        notify::ErrorKind::Io(error) => Error::from(error),
        notify::ErrorKind::PathNotFound => Code::ENOENT.into(),
        notify::ErrorKind::MaxFilesWatch => Code::ENOSPC.into(),
        _ => Code::EIO.into(),
    }
}
