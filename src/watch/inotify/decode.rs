//! The kernel's stream of events, and what each means.
//!
//! The two events of a rename are made while both folders are locked, so nothing that concerns
//! their names comes in between; but events of other folders may, and a read may end between
//! them. So the second is looked for in all that was read, and when it is not there the first is
//! held for a moment, since it may be on its way: [`Hub::held`]. All that comes after waits with
//! it, so that the order is kept.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::scan::Mode;
use super::stream::Event;
use super::tree::NodeKey;
use super::{Hub, Place, FATE};
use crate::error::Result;
use crate::handles::Id;
use crate::watch::event::{Change, WatchEvent, QUEUE_MAX};
use crate::watch::Told;

impl Hub {
    /// The kernel said that events wait.
    pub fn is_readable(&mut self) {
        self.stream.readable = true;
    }

    /// The cookie of a rename of which half is held, so that [`Hub::expire`] must be called soon;
    /// 0: none is.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// The other half has been waited for long enough.
    pub fn expire(&mut self) {
        self.expired = self.held != 0;
        self.held = 0;
    }

    /// Whether [`Hub::work`] has something to do.
    pub fn has_work(&self) -> bool {
        let undecoded = !self.stream.is_empty() && self.held == 0;
        let scans = !self.scans.is_empty() || !self.unfinished.is_empty() && self.later.is_empty();
        scans || self.stream.readable || undecoded || self.is_later()
    }

    /// Finds out what is to be told: a bounded part of it.
    pub fn work(&mut self, told: &mut Told) {
        if self.scans.is_empty() {
            if let Err(error) = self.decode(told) {
                self.failed(error, told);
            }
        }
        self.do_later(told);
        self.scan(told);
        self.finish(told);
    }

    fn failed(&mut self, error: crate::Error, told: &mut Told) {
        for id in self.watches.keys() {
            told.push((*id, WatchEvent::failed(PathBuf::new(), false, error)));
        }
    }

    /// Reads all events that wait, so that it is known what the present says that they will say.
    pub(super) fn read_ahead(&mut self, told: &mut Told) {
        match self.stream.read_ahead(&self.inotify) {
            Ok(true) => {}
            Ok(false) => {
                // More happens than can be followed.
                self.stream.clear();
                (self.held, self.expired) = (0, false);
                self.overflowed(told);
            }
            Err(error) => self.failed(error.into(), told),
        }
    }

    fn decode(&mut self, told: &mut Told) -> Result<()> {
        if self.stream.readable && (self.stream.is_empty() || self.held != 0) {
            self.stream.fill(&self.inotify)?;
        }
        // What a scan finds comes before what happened after it.
        while self.scans.is_empty() && told.len() < QUEUE_MAX / 2 {
            let Some(event) = self.stream.next() else {
                break;
            };
            let (position, before) = (self.stream.decoded(), told.len());
            if event.has(libc::IN_MOVED_FROM) && !self.expired {
                let mut partner = self.stream.take_partner(&event);
                if partner.is_none() && self.stream.fill(&self.inotify)? {
                    partner = self.stream.take_partner(&event);
                }
                if partner.is_none() && self.stream.has_room() {
                    self.held = event.cookie;
                    break;
                }
                self.skip(&event);
                match partner {
                    Some(partner) => self.renamed(&event, &partner, told),
                    None => self.happened(&event, told),
                }
            } else {
                self.skip(&event);
                self.happened(&event, told);
            }
            self.hold_back(position, before, told);
            self.do_later(told);
        }
        Ok(())
    }

    /// What happened before a watch was opened is not told by it, though another has the kernel tell of the same folder.
    fn hold_back(&self, position: u64, before: usize, told: &mut Told) {
        let is_told = |id: &Id| {
            let rooted = self.watches.get(id);
            rooted.is_none_or(|rooted| rooted.since <= position)
        };
        if told[before..].iter().all(|(id, _)| is_told(id)) {
            return;
        }
        let late = told.split_off(before);
        told.extend(
            late.into_iter()
                .filter(|(id, event)| is_told(id) || Change::ALWAYS.contains(event.change)),
        );
    }

    fn skip(&mut self, event: &Event) {
        self.stream.skip(event);
        (self.held, self.expired) = (0, false);
    }

    fn happened(&mut self, event: &Event, told: &mut Told) {
        if event.has(libc::IN_Q_OVERFLOW) {
            return self.overflowed(told);
        }
        let Some(places) = self.places.get(&event.watched).cloned() else {
            return; // of something that is not watched any more
        };
        if event.has(libc::IN_IGNORED) {
            self.places.remove(&event.watched);
            for (id, place) in places {
                self.ignored(id, &place, event.watched, told);
            }
            return;
        }
        for (id, place) in places {
            match place {
                Place::Node(node) => self.changed(id, node, event, told),
                Place::Way(name) => self.way_changed(id, name.as_deref(), event, told),
            }
        }
    }

    fn way_changed(&mut self, id: Id, name: Option<&OsStr>, event: &Event, told: &mut Told) {
        let counts = if event.name.is_empty() {
            event.has(FATE)
        } else {
            event.has(super::NAMES) && name == Some(&event.name)
        };
        if counts {
            self.resettle(id, told);
        }
    }

    /// The kernel has forgotten the number: what it stood for is gone.
    fn ignored(&mut self, id: Id, place: &Place, number: i32, told: &mut Told) {
        let Some(rooted) = self.watches.get_mut(&id) else {
            return;
        };
        match place {
            Place::Node(node) if rooted.tree.root() != Some(*node) => self.remove_node(id, *node),
            Place::Node(_) => self.resettle(id, told),
            Place::Way(_) => {
                rooted.way.retain(|(other, _)| *other != number);
                self.resettle(id, told);
            }
        }
    }

    fn overflowed(&mut self, told: &mut Told) {
        let ids: Vec<Id> = self.watches.keys().copied().collect();
        for id in ids {
            self.resettle(id, told);
            let Some(rooted) = self.watches.get(&id) else {
                continue;
            };
            let scans = rooted.is_directory && rooted.recursive;
            if let Some(root) = rooted.tree.root().filter(|_| scans) {
                self.scan_soon(id, root, Mode::Compare(Default::default()));
            }
            self.finish_with(id, Change::OVERFLOW);
        }
    }

    /// Something happened to a watched folder or in it, or to the watched file.
    fn changed(&mut self, id: Id, node: NodeKey, event: &Event, told: &mut Told) {
        if event.name.is_empty() {
            return self.changed_itself(id, node, event, told);
        }
        if event.has(libc::IN_CREATE | libc::IN_MOVED_TO) {
            self.created(id, node, event, told);
        } else if event.has(libc::IN_DELETE | libc::IN_MOVED_FROM) {
            self.removed(id, node, event, told);
        } else if event.has(libc::IN_MODIFY) {
            self.tell(Change::MODIFIED, id, node, event, told);
        } else if event.has(libc::IN_ATTRIB) {
            self.tell(Change::METADATA, id, node, event, told);
        }
    }

    /// Of a folder below the root its own folder tells.
    fn changed_itself(&mut self, id: Id, node: NodeKey, event: &Event, told: &mut Told) {
        let is_root = |hub: &Hub| {
            let rooted = hub.watches.get(&id);
            rooted.is_some_and(|rooted| rooted.tree.root() == Some(node))
        };
        if !is_root(self) {
            return;
        }
        if event.has(FATE | libc::IN_ATTRIB) {
            // A file's attributes change also when it loses its name.
            self.resettle(id, told);
        }
        if is_root(self) {
            if event.has(libc::IN_MODIFY) {
                self.tell(Change::MODIFIED, id, node, event, told);
            } else if event.has(libc::IN_ATTRIB) {
                self.tell(Change::METADATA, id, node, event, told);
            }
        }
    }

    fn tell(&mut self, change: Change, id: Id, node: NodeKey, event: &Event, told: &mut Told) {
        let rooted = self.watches.get(&id);
        if rooted.is_some_and(|rooted| !rooted.tree.knows(node, &event.name))
            && change != Change::REMOVED
            && !event.name.is_empty()
        {
            return;
        }
        if let Some(path) = self.path(id, node, event) {
            told.push((id, WatchEvent::new(change, path, event.is_directory())));
        }
    }

    fn path(&self, id: Id, node: NodeKey, event: &Event) -> Option<PathBuf> {
        let rooted = self.watches.get(&id)?;
        let known = rooted.tree.contains(node);
        known.then(|| rooted.tree.path(node, &event.name))
    }

    fn created(&mut self, id: Id, node: NodeKey, event: &Event, told: &mut Told) {
        if let Some(rooted) = self.watches.get_mut(&id) {
            rooted.tree.learn(node, &event.name);
        }
        self.tell(Change::CREATED, id, node, event, told);
        self.adopt_new(id, node, event, told);
    }

    /// Watches a folder that is new here, and has told what is in it.
    fn adopt_new(&mut self, id: Id, parent: NodeKey, event: &Event, told: &mut Told) {
        let Some(rooted) = self.watches.get(&id) else {
            return;
        };
        if rooted.recursive && event.is_directory() && rooted.tree.contains(parent) {
            // Until all of it is watched, most of what is below is not new.
            let mode = match rooted.finish {
                Some(Change::READY) => Mode::Silent,
                _ => Mode::Tell,
            };
            self.adopt_and_scan(id, parent, event.name.clone(), mode, told);
        }
    }

    fn removed(&mut self, id: Id, node: NodeKey, event: &Event, told: &mut Told) {
        let rooted = self.watches.get_mut(&id);
        if rooted.is_some_and(|rooted| rooted.tree.unlearn(node, &event.name)) {
            self.tell(Change::REMOVED, id, node, event, told);
        }
        if event.is_directory() {
            let rooted = self.watches.get(&id);
            let child = rooted.and_then(|rooted| rooted.tree.child(node, &event.name));
            if let Some(child) = child {
                self.remove_node(id, child);
            }
        }
    }

    /// Both halves of a rename; each watch may know both folders or one.
    fn renamed(&mut self, from: &Event, to: &Event, told: &mut Told) {
        let mut ids = Vec::new();
        for event in [from, to] {
            let places = self.places.get(&event.watched).cloned();
            for (id, place) in places.unwrap_or_default() {
                match place {
                    Place::Way(name) => self.way_changed(id, name.as_deref(), event, told),
                    Place::Node(_) if ids.contains(&id) => {}
                    Place::Node(_) => ids.push(id),
                }
            }
        }
        for id in ids {
            let mut sources = self.nodes(id, from.watched).into_iter();
            let mut targets = self.nodes(id, to.watched).into_iter();
            loop {
                match (sources.next(), targets.next()) {
                    (Some(source), Some(target)) => {
                        self.renamed_inside(id, (source, from), (target, to), told);
                    }
                    (Some(source), None) => self.removed(id, source, from, told),
                    (None, Some(target)) => self.created(id, target, to, told),
                    (None, None) => break,
                }
            }
        }
    }

    fn renamed_inside(
        &mut self,
        id: Id,
        (source, from): (NodeKey, &Event),
        (target, to): (NodeKey, &Event),
        told: &mut Told,
    ) {
        let Some(rooted) = self.watches.get_mut(&id) else {
            return;
        };
        let known = rooted.tree.unlearn(source, &from.name);
        rooted.tree.learn(target, &to.name);
        if !known {
            // The user hears of it for the first time.
            self.tell(Change::CREATED, id, target, to, told);
        } else if let (Some(former), Some(path)) =
            (self.path(id, source, from), self.path(id, target, to))
        {
            let event = WatchEvent::renamed(former, path, to.is_directory());
            told.push((id, event));
        }
        if !to.is_directory() {
            return;
        }
        let Some(rooted) = self.watches.get(&id) else {
            return;
        };
        let moved = rooted.tree.child(source, &from.name);
        let replaced = rooted.tree.child(target, &to.name);
        if let Some(replaced) = replaced.filter(|replaced| Some(*replaced) != moved) {
            self.remove_node(id, replaced);
        }
        let Some(rooted) = self.watches.get_mut(&id) else {
            return;
        };
        match moved {
            // A folder that stands at two places (a bind mount) may seem to be moved into itself.
            Some(moved) if !rooted.tree.holds(moved, target) => {
                rooted.tree.move_to(moved, target, &to.name);
            }
            _ => self.adopt_new(id, target, to, told),
        }
    }
}
