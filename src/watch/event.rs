//! What a watch tells, and the queue in which it waits to be told.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bitflags::bitflags;

use crate::error::Error;

bitflags! {
    /// What can happen to what is watched. An event is exactly one of them; several together say
    /// which are asked for ([`WatchOptions::changes`](crate::WatchOptions)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Change: u32 {
        /// A name has got a file or folder: made, moved here from outside of what is watched, or
        /// put in the place of another. With an empty path: what is watched is there (again), or
        /// another file has taken its place, as editors save.
        const CREATED = 1;
        /// The contents of a file changed: written or cut.
        const MODIFIED = 2;
        /// Its attributes changed: permissions, owner, times.
        const METADATA = 4;
        /// A name is gone: removed, or moved to outside of what is watched. With an empty path:
        /// what is watched is gone. The watch goes on, and tells when the path is there again.
        const REMOVED = 8;
        /// A file or folder has got another name inside of what is watched. A file that had the
        /// new name before is gone. Where this is not asked for, it is told as
        /// [`REMOVED`](Change::REMOVED) and [`CREATED`](Change::CREATED).
        const RENAMED = 16;
        /// Changes were lost: look at everything anew. Told always.
        const OVERFLOW = 32;
        /// A file or folder cannot be watched; the others go on. Told always.
        const ERROR = 64;
        /// Everything is watched from now on. Told once, when a watch has been opened: a change
        /// to something below a folder may be missed before that.
        const READY = 128;
    }
}

impl Change {
    /// Told whether they are asked for or not.
    pub(crate) const ALWAYS: Change = Change::OVERFLOW.union(Change::ERROR);
}

/// What a polling watch knows of a file: see [`WatchEvent::before`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileState {
    /// Bytes.
    pub size: u64,
    /// When the contents were last modified: nanoseconds since 1970, negative before.
    pub modified_ns: i64,
    /// The number of the file in its file system; 0 where there is none to be had (Windows).
    pub inode: u64,
    /// The file's type and permissions as stat(2) has them; on Windows only whether it can be written.
    pub mode: u32,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    pub(crate) change: Change,
    pub(crate) path: PathBuf,
    pub(crate) from: Option<PathBuf>,
    pub(crate) is_directory: bool,
    pub(crate) error: Option<Error>,
    pub(crate) before: Option<FileState>,
    pub(crate) after: Option<FileState>,
}

impl WatchEvent {
    pub(crate) fn new(change: Change, path: PathBuf, is_directory: bool) -> WatchEvent {
        WatchEvent {
            change,
            path,
            from: None,
            is_directory,
            error: None,
            before: None,
            after: None,
        }
    }

    pub(crate) fn renamed(from: PathBuf, path: PathBuf, is_directory: bool) -> WatchEvent {
        WatchEvent {
            from: Some(from),
            ..WatchEvent::new(Change::RENAMED, path, is_directory)
        }
    }

    pub(crate) fn failed(path: PathBuf, is_directory: bool, error: Error) -> WatchEvent {
        WatchEvent {
            error: Some(error),
            ..WatchEvent::new(Change::ERROR, path, is_directory)
        }
    }

    /// One that is about everything.
    pub(crate) fn general(change: Change) -> WatchEvent {
        WatchEvent::new(change, PathBuf::new(), false)
    }

    /// What happened: exactly one of [`Change`].
    pub fn change(&self) -> Change {
        self.change
    }

    /// What it happened to, relative to what is watched, with the new name if it was renamed;
    /// empty for what is watched itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// [`Change::RENAMED`]: the former name, relative to what is watched.
    pub fn from(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    /// Whether it happened to a folder. A symbolic link is none, wherever it leads.
    pub fn is_directory(&self) -> bool {
        self.is_directory
    }

    /// [`Change::ERROR`]: why it cannot be watched.
    pub fn error(&self) -> Option<Error> {
        self.error
    }

    /// What it was before, if the watch polls and there was something.
    pub fn before(&self) -> Option<FileState> {
        self.before
    }

    /// What it is now, if the watch polls and there is something.
    pub fn after(&self) -> Option<FileState> {
        self.after
    }

    /// Whether telling both would say no more than telling one.
    fn repeats(&self, other: &WatchEvent) -> bool {
        let repeatable = Change::MODIFIED | Change::METADATA;
        repeatable.contains(self.change)
            && self.before.is_none()
            && self.change == other.change
            && self.path == other.path
    }
}

/// Events that wait to be told, at most so many; those that come when it is full are one
/// [`Change::OVERFLOW`].
pub(crate) struct Queue {
    events: VecDeque<WatchEvent>,
    asked: Change,
    overflowed: bool,
}

/// Enough for a few turns of whatever reads the kernel's queue; a few megabytes at the worst.
pub(crate) const QUEUE_MAX: usize = 8192;

impl Queue {
    pub fn new(asked: Change) -> Queue {
        Queue {
            events: VecDeque::new(),
            asked: asked | Change::ALWAYS,
            overflowed: false,
        }
    }

    pub fn push(&mut self, mut event: WatchEvent) {
        if event.change == Change::RENAMED && !self.asked.contains(Change::RENAMED) {
            if let Some(from) = event.from.take() {
                let before = event.before.take();
                self.add(WatchEvent {
                    before,
                    ..WatchEvent::new(Change::REMOVED, from, event.is_directory)
                });
            }
            event.change = Change::CREATED;
        }
        self.add(event);
    }

    fn add(&mut self, event: WatchEvent) {
        let last = self.events.back();
        let repeats = last.is_some_and(|last| event.repeats(last));
        if !self.asked.contains(event.change) || self.overflowed || repeats {
            return;
        }
        if event.change == Change::OVERFLOW || self.events.len() >= QUEUE_MAX {
            // Told when what came before it has been told.
            self.overflowed = true;
            return;
        }
        self.events.push_back(event);
    }

    pub fn pop(&mut self) -> Option<WatchEvent> {
        let event = self.events.pop_front();
        if event.is_none() && std::mem::take(&mut self.overflowed) {
            return Some(WatchEvent::general(Change::OVERFLOW));
        }
        event
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(change: Change, path: &str) -> WatchEvent {
        WatchEvent::new(change, path.into(), false)
    }

    fn drain(queue: &mut Queue) -> Vec<(Change, String)> {
        let events = std::iter::from_fn(|| queue.pop());
        events
            .map(|event| (event.change, event.path.to_str().unwrap().to_owned()))
            .collect()
    }

    #[test]
    fn modifications_of_one_path_in_a_row_are_one() {
        let mut queue = Queue::new(Change::all());
        for path in ["a", "a", "b", "a", "a"] {
            queue.push(event(Change::MODIFIED, path));
        }
        queue.push(event(Change::METADATA, "a"));
        queue.push(event(Change::CREATED, "a"));
        queue.push(event(Change::CREATED, "a"));
        let told = drain(&mut queue).into_iter();
        let told: Vec<_> = told.map(|(change, path)| (change.bits(), path)).collect();
        let told: Vec<_> = told
            .iter()
            .map(|(bits, path)| (*bits, path.as_str()))
            .collect();
        assert_eq!(
            told,
            [(2, "a"), (2, "b"), (2, "a"), (4, "a"), (1, "a"), (1, "a")]
        );
    }

    #[test]
    fn what_was_not_asked_for_is_not_told() {
        let mut queue = Queue::new(Change::CREATED | Change::REMOVED);
        queue.push(event(Change::MODIFIED, "a"));
        queue.push(event(Change::READY, ""));
        queue.push(WatchEvent::renamed("a".into(), "b".into(), false));
        queue.push(event(Change::OVERFLOW, ""));
        let expected = [
            (Change::REMOVED, "a"),
            (Change::CREATED, "b"),
            (Change::OVERFLOW, ""),
        ];
        assert_eq!(
            drain(&mut queue),
            expected.map(|(change, path)| (change, path.to_owned()))
        );
    }

    #[test]
    fn what_does_not_fit_is_one_overflow_after_what_does() {
        let mut queue = Queue::new(Change::all());
        for at in 0..QUEUE_MAX + 100 {
            queue.push(event(Change::CREATED, &at.to_string()));
        }
        assert!(!queue.is_empty());
        let told = drain(&mut queue);
        assert_eq!(told.len(), QUEUE_MAX + 1);
        assert_eq!(told[QUEUE_MAX], (Change::OVERFLOW, String::new()));
        assert!(queue.is_empty());
        queue.push(event(Change::CREATED, "later"));
        assert_eq!(drain(&mut queue).len(), 1);
    }
}
