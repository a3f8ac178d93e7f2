//! Watches of a folder that only the sequence touches: what happens in it must be told, in the order in which it happened.
//!
//! Several writes may be told as one, and what is done to a file between two looks of a polling watch is not told. So
//! only names are compared that come and go, and only for watches that ask the system.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use kolo::{Change, Code, Loop, Watch, WatchEvent, WatchOptions};

use super::world::{called, Body, Callback, Life, Token, World};

/// Names of files in the folder.
const NAMES: u32 = 4;
/// Below this the system loses nothing.
const WAITING_MAX: usize = 1000;

pub struct WatchModel {
    /// What is still to be told: names that came and went, with the former one of those that were renamed.
    owed: VecDeque<Happened>,
    changes: Change,
    polls: bool,
    ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Happened {
    change: Change,
    name: String,
    from: Option<String>,
}

/// Removed when the sequence is over.
pub struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl WatchModel {
    /// Whether it must still tell something.
    pub fn is_owed(&self) -> bool {
        let asks_ready = self.changes.contains(Change::READY);
        !self.polls && (!self.owed.is_empty() || asks_ready && !self.ready)
    }

    fn push(&mut self, happened: &Happened) {
        let told = |change: Change| self.changes.contains(change);
        let Happened { change, name, from } = happened.clone();
        // One that is not asked for as a rename is told as two.
        let parts = match from {
            Some(from) if !told(Change::RENAMED) => {
                vec![(Change::REMOVED, from, None), (Change::CREATED, name, None)]
            }
            from => vec![(change, name, from)],
        };
        for (change, name, from) in parts {
            if told(change) {
                self.owed.push_back(Happened { change, name, from });
            }
        }
    }
}

impl World {
    fn watch(&mut self, at: usize) -> &mut WatchModel {
        match &mut self.handles[at].body {
            Body::Watch(watch) => watch,
            _ => unreachable!("#{at} is a watch"),
        }
    }

    /// The folder of this sequence, which is there from the first time that it is asked for.
    fn folder(&mut self) -> Option<PathBuf> {
        if self.folder.is_none() {
            let (process, seed) = (std::process::id(), self.program.seed);
            let path = std::env::temp_dir().join(format!("kolo-model-{process}-{seed}-watched"));
            std::fs::create_dir(&path).ok()?;
            self.folder = Some(Folder(path));
        }
        self.folder.as_ref().map(|folder| folder.0.clone())
    }

    pub fn watch_open(&mut self, lp: &Loop, number: u32) {
        let Some(folder) = self.folder() else {
            return;
        };
        let (at, token) = (self.handles.len(), Token::new());
        let changes = match number % 4 {
            0 => Change::CREATED | Change::REMOVED,
            1 => Change::CREATED | Change::REMOVED | Change::RENAMED | Change::READY,
            2 => Change::REMOVED,
            _ => Change::all(),
        };
        let mut options = WatchOptions::default();
        (options.changes, options.recursive) = (changes, number.is_multiple_of(3));
        options.poll = number.is_multiple_of(7).then(|| Duration::from_millis(1));
        let polls = options.poll.is_some();
        let opened = Watch::open(lp, &folder, &options, move |lp, _, event| {
            let _token = &token;
            called(lp, Callback::Watch, Some(at), |world| {
                world.watch_tells(at, event);
            });
        });
        // A polling watch looks on a thread.
        let full = polls
            && self.small_pool
            && opened
                .as_ref()
                .is_err_and(|error| error.code() == Code::ENOBUFS);
        let expected = match full {
            true => Some(Code::ENOBUFS),
            false => self.expected_of_opening(),
        };
        let Some(watch) = self.outcome("Watch::open", opened, expected) else {
            return;
        };
        let path = self.outcome("Watch::path", watch.path(lp), None);
        self.check(path.as_ref() == Some(&folder), || {
            format!("#{at} watches {path:?}, not {folder:?}")
        });
        let model = WatchModel {
            owed: VecDeque::new(),
            changes,
            polls,
            ready: false,
        };
        self.add(watch.id(), Body::Watch(model));
    }

    /// Makes, writes, renames or removes a file in the folder.
    pub fn touch_folder(&mut self, number: u32, other: u32) {
        let Some(folder) = self.folder() else {
            return;
        };
        let waiting = self.handles.iter().any(
            |handle| matches!(&handle.body, Body::Watch(watch) if watch.owed.len() > WAITING_MAX),
        );
        if waiting {
            return;
        }
        let (name, to) = (
            format!("{}", number / 8 % NAMES),
            format!("{}", other % NAMES),
        );
        let (path, to_path) = (folder.join(&name), folder.join(&to));
        let there = path.exists();
        let change = match number % 8 {
            0..4 if there => Change::MODIFIED,
            0..4 => Change::CREATED,
            4 | 5 => Change::RENAMED,
            _ => Change::REMOVED,
        };
        let done = match change {
            Change::RENAMED if name == to => return,
            Change::RENAMED => std::fs::rename(&path, &to_path),
            Change::REMOVED => std::fs::remove_file(&path),
            _ => std::fs::write(&path, b"x"),
        };
        self.note(|| format!("{change:?} of {name} -> {done:?}"));
        if done.is_err() || change == Change::MODIFIED {
            return;
        }
        let happened = match change {
            Change::RENAMED => Happened {
                change,
                name: to,
                from: Some(name),
            },
            _ => Happened {
                change,
                name,
                from: None,
            },
        };
        for handle in &mut self.handles {
            if let (Life::Open, Body::Watch(watch)) = (handle.life, &mut handle.body) {
                watch.push(&happened);
            }
        }
    }

    fn watch_tells(&mut self, at: usize, event: &WatchEvent) {
        let change = event.change();
        self.note(|| format!("{change:?} {:?} from {:?}", event.path(), event.from()));
        let watch = self.watch(at);
        let asked = watch.changes.contains(change);
        let (polls, again) = (watch.polls, watch.ready);
        watch.ready |= change == Change::READY;
        self.check(asked && !(again && change == Change::READY), || {
            format!("#{at} tells {change:?}, which was not asked for, or told before")
        });
        let names = Change::CREATED | Change::REMOVED | Change::RENAMED;
        if polls || !names.contains(change) {
            return;
        }
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let told = Happened {
            change,
            name: text(event.path()),
            from: event.from().map(text),
        };
        let next = self.watch(at).owed.pop_front();
        self.check(next.as_ref() == Some(&told), || {
            format!("#{at} tells {told:?}, and {next:?} happened")
        });
    }

    /// The folder itself can be watched, what is not there cannot.
    pub fn watch_nothing(&mut self, lp: &Loop) {
        let Some(folder) = self.folder() else {
            return;
        };
        let options = WatchOptions::default();
        let got = Watch::open(lp, folder.join("nothing/there"), &options, |_, _, _| ());
        let expected = self.expected_of_opening().or(Some(Code::ENOENT));
        self.outcome("Watch::open of nothing", got.map(drop), expected);
    }
}
