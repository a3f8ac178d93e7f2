//! Watching a folder below: what an event or a scan says is there, found by its path.
//!
//! The path leads through the present and the event is of the past, so what is found is only
//! believed where no event that waits speaks of a name on the way.

use std::ffi::OsStr;

use super::scan::Mode;
use super::tree::NodeKey;
use super::{folder_mask, is_gone, Hub, Place};
use crate::error::Error;
use crate::handles::Id;
use crate::watch::event::WatchEvent;
use crate::watch::Told;

impl Hub {
    /// Watches a folder in a watched folder: its node, and whether it is new. `None`: it is not
    /// there any more, which events are going to tell; or cannot be watched, which is told; or
    /// that cannot be known yet, and is tried again.
    pub(super) fn adopt(
        &mut self,
        id: Id,
        parent: NodeKey,
        name: &OsStr,
        mode: &Mode,
        told: &mut Told,
    ) -> Option<(NodeKey, bool)> {
        let rooted = self.watches.get(&id)?;
        let path = rooted.tree.path(parent, name);
        let mask = folder_mask(rooted.asked);
        let added = self.inotify.add(&rooted.real.join(&path), mask);
        let added = added.map_err(Error::from);
        let gone = added.is_err_and(is_gone);
        let mentioned = |hub: &Hub| {
            let number = hub.watches.get(&id)?.tree.watched(parent)?;
            Some(hub.stream.mentions(number, name))
        };
        self.read_ahead(told);
        if gone && self.trust(id, parent) && mentioned(self) == Some(false) {
            self.await_moves(id, parent, told);
        }
        let in_way = !self.trust(id, parent);
        if in_way || mentioned(self) != Some(false) {
            if let Ok(number) = added {
                self.forget(number);
            }
            if in_way {
                self.adopt_later(id, parent, name.to_owned(), mode.anew());
            }
            return None;
        }
        match added {
            Ok(number) => self.place(id, parent, name, number, mode),
            Err(error) => {
                if !is_gone(error) {
                    told.push((id, WatchEvent::failed(path, true, error)));
                }
                None
            }
        }
    }

    /// Gives a folder that is watched its place in the tree. It may have another one at the same
    /// time: where it was before, as long as it is not told that it has gone from there.
    fn place(
        &mut self,
        id: Id,
        parent: NodeKey,
        name: &OsStr,
        number: i32,
        mode: &Mode,
    ) -> Option<(NodeKey, bool)> {
        let tree = &self.watches.get(&id)?.tree;
        if let Some(child) = tree.child(parent, name) {
            if tree.watched(child) == Some(number) {
                return Some((child, false));
            }
            self.remove_node(id, child);
        }
        let rooted = self.watches.get_mut(&id)?;
        if rooted.tree.is_below(parent, number) {
            return None; // a mount that leads back
        }
        let node = rooted.tree.add(parent, name, number);
        if matches!(mode, Mode::Tell) {
            rooted.tree.keep_known(node);
        }
        let place = (id, Place::Node(node));
        self.places.entry(number).or_default().push(place);
        Some((node, true))
    }

    /// Whether the path of a folder leads to it: no event that waits says that something on the
    /// way is not what it was.
    pub(super) fn trust(&self, id: Id, node: NodeKey) -> bool {
        let Some(rooted) = self.watches.get(&id) else {
            return false;
        };
        let mut at = Some(node);
        while let Some(node) = at {
            let link = rooted.tree.link(node);
            if link.is_some_and(|(folder, name)| self.stream.mentions(folder, name)) {
                return false;
            }
            at = rooted.tree.parent(node);
        }
        rooted.way.iter().all(|(folder, name)| {
            let name = name.as_deref();
            let named = name.is_some_and(|name| self.stream.mentions(*folder, name));
            !named && !self.stream.mentions(*folder, OsStr::new(""))
        })
    }

    /// Nothing was found, and no event says why: something is being moved or removed right now, and
    /// the kernel is about to tell. It does so before it unlocks the folders concerned, which it
    /// locks to read them.
    pub(super) fn await_moves(&mut self, id: Id, node: NodeKey, told: &mut Told) {
        if let Some(rooted) = self.watches.get(&id) {
            let below = rooted.real.join(rooted.tree.path(node, OsStr::new("")));
            for folder in below.ancestors() {
                // What it says does not matter.
                let _ = std::fs::read_dir(folder).map(|mut names| names.next().is_some());
                if *folder == rooted.real {
                    break;
                }
            }
        }
        self.read_ahead(told);
    }

    /// Has inotify forget a number that nobody needs.
    pub(super) fn forget(&mut self, number: i32) {
        if !self.places.contains_key(&number) {
            self.inotify.remove(number);
        }
    }
}
