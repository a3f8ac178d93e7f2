//! Linux: inotify(7), one instance for all watches of a loop, waited for by the loop's driver.
//!
//! What the kernel leaves to its users, and how it is met here:
//!
//! - **A number of inotify's stands for an inode, not for a path.** The watched folders are a
//!   [`Tree`] for each watch; a path is put together when something is told, so a folder that is
//!   moved keeps its number and gets new paths. One inode may be in several trees: [`Place`]s.
//! - **A folder's contents may be older than its watch.** A new folder is watched first and then
//!   read ([`scan`]), and what was found is told.
//! - **Events are of the past, and a path leads through the present.** When an event says that a
//!   folder was made, it may have another name by now, and another folder may have its name. So
//!   after each look at the present all events that wait are read ahead ([`stream`]): what they
//!   say of a name that was looked at is yet to come, and the look is not believed ([`adopt`]).
//! - **The path may lead elsewhere**: an editor replaces the file, a link is turned, a folder
//!   above is moved. Everything on the way is watched ([`trail`]), and when something happens
//!   there the path is followed anew ([`Hub::settle`]). Whether it still leads to the same file
//!   shows in the number: as long as the kernel knows the inode it gives the same.
//! - **A rename is two events**, joined by a cookie, that may be read apart ([`decode`]).
//! - **The queue overflows**: then the tree is compared with what is there, folder by folder, and
//!   only when all of it is watched again the user is told to look.
//!
//! Nothing here grows without a bound but with the folders that are watched: events are read from
//! the kernel's queue (`fs.inotify.max_queued_events`) only when those before have been told.

mod adopt;
mod decode;
mod scan;
mod stream;
mod trail;
mod tree;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::event::{Change, WatchEvent};
use super::Told;
use crate::error::{Code, Error, Result};
use crate::handles::Id;
use crate::sys::inotify::Inotify;
use scan::{Later, Mode, Scan};
use stream::Stream;
use tree::{NodeKey, Tree};

/// What a number of inotify's stands for in one watch.
#[derive(Clone)]
enum Place {
    /// A watched folder, or the watched file.
    Node(NodeKey),
    /// A folder on the way to what is watched, and the name in it that counts.
    Way(Option<OsString>),
}

struct Rooted {
    /// As it was asked for, made absolute.
    path: PathBuf,
    /// Where it was found last: without symbolic links.
    real: PathBuf,
    is_directory: bool,
    recursive: bool,
    asked: Change,
    way: Vec<(i32, Option<OsString>)>,
    tree: Tree,
    /// What the kernel had to say before, it does not say to this watch: where its part of the stream begins.
    since: u64,
    /// Scans of it that are not done.
    scans: usize,
    /// To be told when they are.
    finish: Option<Change>,
}

/// All watches of a loop.
pub(super) struct Hub {
    inotify: Rc<Inotify>,
    places: BTreeMap<i32, Vec<(Id, Place)>>,
    watches: BTreeMap<Id, Rooted>,
    scans: VecDeque<Scan>,
    stream: Stream,
    /// What can be done when the stream has come so far.
    later: VecDeque<(u64, Id, Later)>,
    /// Watches whose `finish` is set.
    unfinished: Vec<Id>,
    /// The next event is half of the rename with this cookie, and the other half may be on its
    /// way. 0: it is not.
    held: u32,
    /// It has been waited for long enough.
    expired: bool,
}

/// A path that is changed again and again while it is followed is followed at most so often; the
/// events that its changes cause have it followed again.
const FOLLOWED_MAX: usize = 8;

impl Hub {
    /// With an instance that watches nothing yet, or no more.
    pub fn new(inotify: Rc<Inotify>) -> Hub {
        Hub {
            inotify,
            places: BTreeMap::new(),
            watches: BTreeMap::new(),
            scans: VecDeque::new(),
            stream: Stream::new(),
            later: VecDeque::new(),
            unfinished: Vec::new(),
            held: 0,
            expired: false,
        }
    }

    pub fn descriptor(&self) -> crate::sys::Descriptor {
        self.inotify.descriptor()
    }

    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    pub fn watch(
        &mut self,
        id: Id,
        path: &Path,
        (recursive, asked): (bool, Change),
        told: &mut Told,
    ) -> Result<()> {
        self.read_ahead(told);
        let rooted = Rooted {
            path: path.to_owned(),
            real: PathBuf::new(),
            is_directory: false,
            recursive,
            asked,
            way: Vec::new(),
            tree: Tree::default(),
            since: self.stream.position(),
            scans: 0,
            finish: None,
        };
        self.watches.insert(id, rooted);
        if let Err(error) = self.settle(id, None) {
            self.unwatch(id);
            return Err(error);
        }
        self.finish_with(id, Change::READY);
        Ok(())
    }

    pub fn unwatch(&mut self, id: Id) {
        let Some(mut rooted) = self.watches.remove(&id) else {
            return;
        };
        self.scans.retain(|scan| scan.id != id);
        self.later.retain(|(_, watch, _)| *watch != id);
        self.unfinished.retain(|unfinished| *unfinished != id);
        for (number, name) in rooted.way {
            self.release(number, id, &Place::Way(name));
        }
        if let Some(root) = rooted.tree.root() {
            for (number, node) in rooted.tree.remove(root) {
                self.release(number, id, &Place::Node(node));
            }
        }
    }

    /// In a forked child: an instance that the parent does not share. What changed since the fork
    /// is not known.
    pub fn forked(&mut self, inotify: Rc<Inotify>, told: &mut Told) {
        self.places.clear();
        self.scans.clear();
        self.later.clear();
        self.unfinished.clear();
        self.stream = Stream::new();
        (self.held, self.expired) = (0, false);
        self.inotify = inotify;
        let ids: Vec<Id> = self.watches.keys().copied().collect();
        for id in ids {
            if let Some(rooted) = self.watches.get_mut(&id) {
                rooted.way.clear();
                rooted.tree = Tree::default();
                rooted.scans = 0;
                rooted.finish = None;
            }
            if let Err(error) = self.settle(id, None) {
                if !is_gone(error) {
                    told.push((id, WatchEvent::failed(PathBuf::new(), false, error)));
                }
            }
            self.finish_with(id, Change::OVERFLOW);
        }
    }

    /// Nothing is watched any more: what the kernel still keeps to tell, nobody waits for.
    pub fn drain(mut self) {
        self.stream.drain(&self.inotify);
    }

    /// Follows the path of a watch, and watches what it leads to now. Changes are told, unless
    /// there is nobody to hear of them yet; then it is an error that nothing is there.
    fn settle(&mut self, id: Id, told: Option<&mut Told>) -> Result<()> {
        let Some((path, asked)) = self.watches.get(&id).map(|r| (r.path.clone(), r.asked)) else {
            return Ok(());
        };
        let mut found = Err(Code::ENOENT.into());
        for times in 1..=FOLLOWED_MAX {
            let trail = trail::follow(&path);
            self.watch_way(id, &trail.steps)?;
            found = trail.found.clone().and_then(|(real, is_directory)| {
                let number = self.inotify.add(&real, root_mask(asked, is_directory))?;
                Ok((number, real, is_directory))
            });
            let vanished = trail.found.is_ok() && found.as_ref().is_err_and(|e| is_gone(*e));
            if !vanished && trail::follow(&path) == trail || times == FOLLOWED_MAX {
                break;
            }
            if let Ok((number, ..)) = found {
                self.forget(number);
            }
        }
        self.set_root(id, found, told)
    }

    /// Watches the folders on the way to what is watched, and no longer those that were before.
    fn watch_way(&mut self, id: Id, steps: &[trail::Step]) -> Result<()> {
        let mut way = Vec::new();
        let mut outcome = Ok(());
        for step in steps {
            match self
                .inotify
                .add(&step.folder, way_mask(step.name.is_some()))
            {
                Ok(number) => {
                    self.places
                        .entry(number)
                        .or_default()
                        .push((id, Place::Way(step.name.clone())));
                    way.push((number, step.name.clone()));
                }
                Err(error) => match Error::from(error) {
                    error if matches!(error.code(), Code::ENOSPC | Code::ENOMEM) => {
                        outcome = Err(error);
                        break;
                    }
                    // A folder that may be passed but not read tells nothing; or it is gone.
                    _ => {}
                },
            }
        }
        if let Some(rooted) = self.watches.get_mut(&id) {
            let former = std::mem::replace(&mut rooted.way, way);
            for (number, name) in former {
                self.release(number, id, &Place::Way(name));
            }
        }
        outcome
    }

    /// The path leads to this now: what inotify calls it, where it is, whether it is a folder.
    fn set_root(
        &mut self,
        id: Id,
        found: Result<(i32, PathBuf, bool)>,
        told: Option<&mut Told>,
    ) -> Result<()> {
        let Some(rooted) = self.watches.get_mut(&id) else {
            return Ok(());
        };
        let former = rooted.tree.root();
        if let (Ok((number, real, _)), Some(root)) = (&found, former) {
            if rooted.tree.watched(root) == Some(*number) {
                rooted.real = real.clone();
                return Ok(());
            }
        }
        let was_directory = rooted.is_directory;
        if let Some(root) = former {
            self.remove_node(id, root);
        }
        let tells = told.is_some();
        let mut no_one = Told::new();
        let told = told.unwrap_or(&mut no_one);
        match found {
            Ok((number, real, is_directory)) => {
                let Some(rooted) = self.watches.get_mut(&id) else {
                    return Ok(());
                };
                (rooted.real, rooted.is_directory) = (real, is_directory);
                let root = rooted.tree.plant(number);
                if tells {
                    rooted.tree.keep_known(root);
                }
                let scans = is_directory && (rooted.recursive || tells);
                let place = (id, Place::Node(root));
                self.places.entry(number).or_default().push(place);
                let event = WatchEvent::new(Change::CREATED, PathBuf::new(), is_directory);
                told.push((id, event));
                if scans {
                    let mode = if tells { Mode::Tell } else { Mode::Silent };
                    self.scan_soon(id, root, mode);
                }
                Ok(())
            }
            Err(error) => {
                if former.is_some() {
                    let event = WatchEvent::new(Change::REMOVED, PathBuf::new(), was_directory);
                    told.push((id, event));
                }
                if tells && is_gone(error) {
                    Ok(())
                } else {
                    Err(error)
                }
            }
        }
    }

    /// As [`Hub::settle`], for a watch whose user can be told of what fails.
    fn resettle(&mut self, id: Id, told: &mut Told) {
        if let Err(error) = self.settle(id, Some(told)) {
            told.push((id, WatchEvent::failed(PathBuf::new(), false, error)));
        }
    }

    /// The nodes of a watch that inotify calls so.
    fn nodes(&self, id: Id, number: i32) -> Vec<NodeKey> {
        let places = self.places.get(&number).into_iter().flatten();
        let nodes = places.filter_map(|(watch, place)| match place {
            Place::Node(node) if *watch == id => Some(*node),
            _ => None,
        });
        nodes.collect()
    }

    fn is_watched(&self, id: Id, node: NodeKey) -> bool {
        let rooted = self.watches.get(&id);
        rooted.is_some_and(|rooted| rooted.tree.contains(node))
    }

    /// Takes a folder out of its tree, with all that is in it.
    fn remove_node(&mut self, id: Id, node: NodeKey) {
        let Some(rooted) = self.watches.get_mut(&id) else {
            return;
        };
        for (number, node) in rooted.tree.remove(node) {
            self.release(number, id, &Place::Node(node));
        }
    }

    /// One place less that a number stands for; without any, inotify forgets it.
    fn release(&mut self, number: i32, id: Id, place: &Place) {
        let Some(places) = self.places.get_mut(&number) else {
            return;
        };
        let same = |other: &Place| match (place, other) {
            (Place::Node(one), Place::Node(other)) => one == other,
            (Place::Way(one), Place::Way(other)) => one == other,
            _ => false,
        };
        if let Some(at) = places.iter().position(|(w, other)| *w == id && same(other)) {
            places.swap_remove(at);
        }
        if places.is_empty() {
            self.places.remove(&number);
            self.inotify.remove(number);
        }
    }

    /// Has `change` told when all scans of the watch are done.
    fn finish_with(&mut self, id: Id, change: Change) {
        if let Some(rooted) = self.watches.get_mut(&id) {
            // Who is to be told that something was lost will look at everything in any case.
            if rooted.finish != Some(Change::OVERFLOW) {
                rooted.finish = Some(change);
            }
            if !self.unfinished.contains(&id) {
                self.unfinished.push(id);
            }
        }
    }

    fn finish(&mut self, told: &mut Told) {
        let watches = &mut self.watches;
        self.unfinished.retain(|id| {
            let Some(rooted) = watches.get_mut(id) else {
                return false;
            };
            if rooted.scans > 0 {
                return true;
            }
            let change = rooted.finish.take();
            told.extend(change.map(|change| (*id, WatchEvent::general(change))));
            false
        });
    }
}

/// Whether there is just nothing at the path.
fn is_gone(error: Error) -> bool {
    matches!(error.code(), Code::ENOENT | Code::ENOTDIR)
}

fn content_mask(asked: Change) -> u32 {
    let mut mask = 0;
    if asked.contains(Change::MODIFIED) {
        mask |= libc::IN_MODIFY;
    }
    if asked.contains(Change::METADATA) {
        mask |= libc::IN_ATTRIB;
    }
    mask
}

const NAMES: u32 = libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_MOVED_TO;
const FATE: u32 = libc::IN_DELETE_SELF | libc::IN_MOVE_SELF;

/// A folder that is watched. What is written to files that have no name any more is not asked for.
fn folder_mask(asked: Change) -> u32 {
    let how = libc::IN_ONLYDIR | libc::IN_DONT_FOLLOW | libc::IN_EXCL_UNLINK;
    NAMES | content_mask(asked) | how
}

/// What the path leads to.
fn root_mask(asked: Change, is_directory: bool) -> u32 {
    if is_directory {
        return folder_mask(asked) | FATE;
    }
    // The attributes tell also that it has one name less.
    content_mask(asked) | FATE | libc::IN_ATTRIB | libc::IN_DONT_FOLLOW
}

/// A folder on the way.
fn way_mask(has_name: bool) -> u32 {
    let names = if has_name { NAMES } else { 0 };
    FATE | names | libc::IN_ONLYDIR | libc::IN_DONT_FOLLOW
}
