//! Reading folders: what was there before they were watched.
//!
//! A folder is read after it is watched, so nothing is missed. A name that events mention which
//! wait is left to them; every other name that is found is as it is now, and will be until an
//! event says otherwise. While a scan is under way no event is decoded.
//!
//! Until all events from before the end of the scan are told, the user knows some of the names in
//! the folder and not others: [`Known`](super::tree::Known). What happens to a name that is not
//! known is not told, or told as its creation.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::ReadDir;

use super::tree::NodeKey;
use super::{is_gone, Hub};
use crate::error::Error;
use crate::handles::Id;
use crate::watch::event::{Change, WatchEvent};
use crate::watch::Told;

/// What is to be done with what is found.
pub(super) enum Mode {
    /// Folders are watched.
    Silent,
    /// They are watched, and everything is told as created.
    Tell,
    /// They are watched, those that are not found are no more: after an overflow. With the names
    /// found so far.
    Compare(BTreeSet<OsString>),
}

impl Mode {
    /// The same, with nothing found.
    pub fn anew(&self) -> Mode {
        match self {
            Mode::Silent => Mode::Silent,
            Mode::Tell => Mode::Tell,
            Mode::Compare(_) => Mode::Compare(BTreeSet::new()),
        }
    }
}

pub(super) struct Scan {
    pub id: Id,
    node: NodeKey,
    mode: Mode,
    entries: Option<ReadDir>,
}

/// What has to wait for the stream to come to a certain place.
pub(super) enum Later {
    Scan(NodeKey, Mode),
    /// A folder by its name in a folder.
    Adopt(NodeKey, OsString, Mode),
    /// Everything in the folder is known to the user.
    AllKnown(NodeKey),
}

/// Names that are read in one go: a millisecond at most where folders are cached.
const NAMES_AT_ONCE: usize = 256;

impl Hub {
    pub(super) fn scan_soon(&mut self, id: Id, node: NodeKey, mode: Mode) {
        if let Some(rooted) = self.watches.get_mut(&id) {
            rooted.scans += 1;
            self.scans.push_back(Scan {
                id,
                node,
                mode,
                entries: None,
            });
        }
    }

    pub(super) fn adopt_later(&mut self, id: Id, parent: NodeKey, name: OsString, mode: Mode) {
        if let Some(rooted) = self.watches.get_mut(&id) {
            rooted.scans += 1;
            let until = self.stream.position();
            self.later
                .push_back((until, id, Later::Adopt(parent, name, mode)));
        }
    }

    /// Does what the stream has come far enough for.
    pub(super) fn do_later(&mut self, told: &mut Told) {
        // What is put off once more is not looked at again.
        for _ in 0..self.later.len() {
            let Some((until, id, _)) = self.later.front() else {
                return;
            };
            let id = *id;
            if *until > self.stream.decoded() {
                return;
            }
            let Some((until, _, later)) = self.later.pop_front() else {
                return;
            };
            match later {
                Later::Scan(node, mode) => {
                    self.scan_soon(id, node, mode);
                    self.scan_done(id);
                }
                Later::Adopt(parent, name, mode) => {
                    self.scan_done(id);
                    let rooted = self.watches.get(&id);
                    if rooted.is_some_and(|rooted| rooted.tree.child(parent, &name).is_none()) {
                        self.adopt_and_scan(id, parent, name, mode, told);
                    }
                }
                Later::AllKnown(node) => {
                    let rooted = self.watches.get_mut(&id);
                    let node = rooted.and_then(|rooted| rooted.tree.get_mut(node));
                    if let Some(node) = node {
                        // It may have been scanned once more.
                        node.known.take_if(|known| known.until == until);
                    }
                }
            }
        }
    }

    /// Whether [`Hub::do_later`] has something to do.
    pub(super) fn is_later(&self) -> bool {
        let first = self.later.front();
        first.is_some_and(|(until, ..)| *until <= self.stream.decoded())
    }

    pub(super) fn adopt_and_scan(
        &mut self,
        id: Id,
        parent: NodeKey,
        name: OsString,
        mode: Mode,
        told: &mut Told,
    ) {
        let compares = matches!(mode, Mode::Compare(_));
        if let Some((node, is_new)) = self.adopt(id, parent, &name, &mode, told) {
            if is_new || compares {
                self.scan_soon(id, node, mode);
            }
        }
    }

    /// Goes on with the scans for a while.
    pub(super) fn scan(&mut self, told: &mut Told) {
        let mut left = NAMES_AT_ONCE;
        while left > 0 {
            let Some(mut scan) = self.scans.pop_front() else {
                return;
            };
            if !self.open_entries(&mut scan, told) {
                self.scan_done(scan.id);
                continue;
            }
            let mut names = Vec::new();
            let is_over = self.read_names(&mut scan, left, &mut names, told);
            left = left.saturating_sub(names.len().max(1));
            // Whatever happened to these names until now is to be known.
            self.read_ahead(told);
            for (name, is_directory) in names {
                self.found(&mut scan, name, is_directory, told);
            }
            if is_over {
                self.scan_ended(scan);
            } else {
                self.scans.push_front(scan);
            }
        }
    }

    fn scan_done(&mut self, id: Id) {
        if let Some(rooted) = self.watches.get_mut(&id) {
            rooted.scans -= 1;
        }
    }

    /// Whether the folder can be read now.
    fn open_entries(&mut self, scan: &mut Scan, told: &mut Told) -> bool {
        let path = match self.watches.get(&scan.id) {
            Some(rooted) if rooted.tree.contains(scan.node) => {
                rooted.tree.path(scan.node, "".as_ref())
            }
            _ => return false,
        };
        if scan.entries.is_some() {
            return true;
        }
        let Some(rooted) = self.watches.get(&scan.id) else {
            return false;
        };
        let opened = std::fs::read_dir(rooted.real.join(&path)).map_err(Error::from);
        self.read_ahead(told);
        let gone = opened.as_ref().is_err_and(|error| is_gone(*error));
        if gone && self.trust(scan.id, scan.node) {
            self.await_moves(scan.id, scan.node, told);
        }
        if !self.is_watched(scan.id, scan.node) {
            return false;
        }
        if !self.trust(scan.id, scan.node) {
            // It may be somewhere else by now: once more when that is known.
            let later = Later::Scan(scan.node, scan.mode.anew());
            self.later
                .push_back((self.stream.position(), scan.id, later));
            if let Some(rooted) = self.watches.get_mut(&scan.id) {
                rooted.scans += 1;
            }
            return false;
        }
        match opened {
            Ok(entries) => scan.entries = Some(entries),
            Err(error) if is_gone(error) => {}
            Err(error) => told.push((scan.id, WatchEvent::failed(path, true, error))),
        }
        scan.entries.is_some()
    }

    /// Takes some names; whether there are no more.
    fn read_names(
        &mut self,
        scan: &mut Scan,
        at_most: usize,
        names: &mut Vec<(OsString, bool)>,
        told: &mut Told,
    ) -> bool {
        while names.len() < at_most {
            match scan.entries.as_mut().and_then(Iterator::next) {
                None => return true,
                Some(Ok(entry)) => {
                    let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                    names.push((entry.file_name(), is_directory));
                }
                Some(Err(error)) => {
                    if let Some(rooted) = self.watches.get(&scan.id) {
                        let path = rooted.tree.path(scan.node, "".as_ref());
                        told.push((scan.id, WatchEvent::failed(path, true, error.into())));
                    }
                    return true;
                }
            }
        }
        false
    }

    fn found(&mut self, scan: &mut Scan, name: OsString, is_directory: bool, told: &mut Told) {
        let Some(rooted) = self.watches.get_mut(&scan.id) else {
            return;
        };
        if let (Mode::Compare(names), true) = (&mut scan.mode, is_directory) {
            names.insert(name.clone());
        }
        let Some(number) = rooted.tree.watched(scan.node) else {
            return;
        };
        if self.stream.mentions(number, &name) {
            return;
        }
        if matches!(scan.mode, Mode::Tell) && rooted.tree.learn(scan.node, &name) {
            let path = rooted.tree.path(scan.node, &name);
            let event = WatchEvent::new(Change::CREATED, path, is_directory);
            told.push((scan.id, event));
        }
        if is_directory && rooted.recursive {
            self.adopt_and_scan(scan.id, scan.node, name, scan.mode.anew(), told);
        }
    }

    fn scan_ended(&mut self, scan: Scan) {
        self.scan_done(scan.id);
        let Some(rooted) = self.watches.get_mut(&scan.id) else {
            return;
        };
        match scan.mode {
            Mode::Silent => {}
            Mode::Tell => {
                let until = self.stream.position();
                let node = rooted.tree.get_mut(scan.node);
                if let Some(known) = node.and_then(|node| node.known.as_mut()) {
                    known.until = until;
                    self.later
                        .push_back((until, scan.id, Later::AllKnown(scan.node)));
                }
            }
            Mode::Compare(names) => {
                let Some(number) = rooted.tree.watched(scan.node) else {
                    return;
                };
                for (name, node) in rooted.tree.children(scan.node) {
                    if !names.contains(&name) && !self.stream.mentions(number, &name) {
                        self.remove_node(scan.id, node);
                    }
                }
            }
        }
    }
}
