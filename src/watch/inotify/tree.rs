//! The folders that one watch watches: names and numbers, no system call.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use slotmap::{DefaultKey, SlotMap};

pub(super) type NodeKey = DefaultKey;

/// The names in a folder of which the user knows, while that is not simply all of them: from when
/// it is watched until it has been read and all events from before that are told.
pub(super) struct Known {
    pub names: BTreeSet<OsString>,
    /// Where in the stream that is; `u64::MAX` until it has been read.
    pub until: u64,
}

/// A watched folder; the root may be a file.
pub(super) struct Node {
    parent: Option<NodeKey>,
    name: OsString,
    /// The kernel's number for it.
    pub watched: i32,
    children: BTreeMap<OsString, NodeKey>,
    pub known: Option<Box<Known>>,
}

#[derive(Default)]
pub(super) struct Tree {
    nodes: SlotMap<NodeKey, Node>,
    root: Option<NodeKey>,
}

impl Tree {
    pub fn root(&self) -> Option<NodeKey> {
        self.root
    }

    pub fn get_mut(&mut self, key: NodeKey) -> Option<&mut Node> {
        self.nodes.get_mut(key)
    }

    pub fn contains(&self, key: NodeKey) -> bool {
        self.nodes.contains_key(key)
    }

    pub fn watched(&self, key: NodeKey) -> Option<i32> {
        self.nodes.get(key).map(|node| node.watched)
    }

    /// Only for a tree without a root.
    pub fn plant(&mut self, watched: i32) -> NodeKey {
        let key = self.nodes.insert(Node::new(None, OsString::new(), watched));
        self.root = Some(key);
        key
    }

    /// A new folder in a folder that has none of this name.
    pub fn add(&mut self, parent: NodeKey, name: &OsStr, watched: i32) -> NodeKey {
        let node = Node::new(Some(parent), name.to_owned(), watched);
        let key = self.nodes.insert(node);
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children.insert(name.to_owned(), key);
        }
        key
    }

    pub fn child(&self, parent: NodeKey, name: &OsStr) -> Option<NodeKey> {
        self.nodes.get(parent)?.children.get(name).copied()
    }

    pub fn children(&self, parent: NodeKey) -> Vec<(OsString, NodeKey)> {
        let node = self.nodes.get(parent);
        let children = node.iter().flat_map(|node| &node.children);
        children.map(|(name, key)| (name.clone(), *key)).collect()
    }

    /// The number of the folder that a folder is in, and its name there.
    pub fn link(&self, key: NodeKey) -> Option<(i32, &OsStr)> {
        let node = self.nodes.get(key)?;
        Some((self.watched(node.parent?)?, &node.name))
    }

    pub fn parent(&self, key: NodeKey) -> Option<NodeKey> {
        self.nodes.get(key)?.parent
    }

    /// Whether a folder has this number, or stands below one that has it.
    pub fn is_below(&self, key: NodeKey, watched: i32) -> bool {
        let mut at = Some(key);
        while let Some(key) = at {
            if self.watched(key) == Some(watched) {
                return true;
            }
            at = self.parent(key);
        }
        false
    }

    /// Whether `key` is `below` or stands above it.
    pub fn holds(&self, key: NodeKey, below: NodeKey) -> bool {
        let mut at = Some(below);
        while let Some(below) = at {
            if below == key {
                return true;
            }
            at = self.parent(below);
        }
        false
    }

    /// Gives a folder another place, which is not in itself; with all that is in it.
    pub fn move_to(&mut self, key: NodeKey, parent: NodeKey, name: &OsStr) {
        self.unlink(key);
        if let Some(node) = self.nodes.get_mut(key) {
            node.parent = Some(parent);
            node.name = name.to_owned();
        }
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children.insert(name.to_owned(), key);
        }
    }

    /// Takes a folder out with all that is in it: their numbers.
    pub fn remove(&mut self, key: NodeKey) -> Vec<(i32, NodeKey)> {
        self.unlink(key);
        if self.root == Some(key) {
            self.root = None;
        }
        let mut removed = Vec::new();
        let mut left = vec![key];
        while let Some(key) = left.pop() {
            if let Some(node) = self.nodes.remove(key) {
                removed.push((node.watched, key));
                left.extend(node.children.into_values());
            }
        }
        removed
    }

    /// From now on the names that the user knows are kept; for now there are none.
    pub fn keep_known(&mut self, key: NodeKey) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.known = Some(Box::new(Known {
                names: BTreeSet::new(),
                until: u64::MAX,
            }));
        }
    }

    fn known_mut(&mut self, key: NodeKey) -> Option<&mut Known> {
        self.nodes.get_mut(key)?.known.as_deref_mut()
    }

    /// The user hears of a name; whether that is news.
    pub fn learn(&mut self, key: NodeKey, name: &OsStr) -> bool {
        let known = self.known_mut(key);
        known.is_none_or(|known| known.names.insert(name.to_owned()))
    }

    /// A name is no more; whether the user knew it.
    pub fn unlearn(&mut self, key: NodeKey, name: &OsStr) -> bool {
        let known = self.known_mut(key);
        known.is_none_or(|known| known.names.remove(name))
    }

    pub fn knows(&self, key: NodeKey, name: &OsStr) -> bool {
        let known = self.nodes.get(key).and_then(|node| node.known.as_ref());
        known.is_none_or(|known| known.names.contains(name))
    }

    fn unlink(&mut self, key: NodeKey) {
        let Some(node) = self.nodes.get(key) else {
            return;
        };
        let (parent, name) = (node.parent, node.name.clone());
        if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(parent)) {
            if parent.children.get(&name) == Some(&key) {
                parent.children.remove(&name);
            }
        }
    }

    /// The path of a name in a folder, relative to the root; of the folder itself for no name.
    pub fn path(&self, key: NodeKey, name: &OsStr) -> PathBuf {
        let mut names = Vec::new();
        let mut at = self.nodes.get(key);
        while let Some(node) = at {
            names.push(node.name.as_os_str());
            at = node.parent.and_then(|parent| self.nodes.get(parent));
        }
        names.pop(); // the root has none
        let mut path: PathBuf = names.iter().rev().collect();
        if !name.is_empty() {
            path.push(name);
        }
        path
    }
}

impl Node {
    fn new(parent: Option<NodeKey>, name: OsString, watched: i32) -> Node {
        Node {
            parent,
            name,
            watched,
            children: BTreeMap::new(),
            known: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn a_moved_folder_takes_along_what_is_in_it() {
        let mut tree = Tree::default();
        let root = tree.plant(1);
        let a = tree.add(root, name("a"), 2);
        let b = tree.add(a, name("b"), 3);
        let c = tree.add(root, name("c"), 4);
        assert_eq!(tree.path(b, name("x")), PathBuf::from("a/b/x"));
        assert_eq!(tree.path(root, name("")), PathBuf::new());
        tree.move_to(a, c, name("d"));
        assert_eq!(tree.path(b, name("")), PathBuf::from("c/d/b"));
        assert_eq!(
            (tree.child(root, name("a")), tree.child(c, name("d"))),
            (None, Some(a))
        );
        assert!(tree.is_below(b, 4) && !tree.is_below(c, 3));
        assert!(tree.holds(c, b) && !tree.holds(b, c));
        let mut removed = tree.remove(c);
        removed.sort();
        assert_eq!(
            removed
                .iter()
                .map(|(number, _)| *number)
                .collect::<Vec<_>>(),
            [2, 3, 4]
        );
        assert!(tree.contains(root) && !tree.contains(b));
        assert!(tree.children(root).is_empty());
    }

    #[test]
    fn removing_a_folder_leaves_its_successor() {
        let mut tree = Tree::default();
        let root = tree.plant(1);
        let old = tree.add(root, name("a"), 2);
        let new = tree.add(root, name("b"), 3);
        tree.move_to(new, root, name("a"));
        tree.remove(old);
        assert_eq!(tree.child(root, name("a")), Some(new));
        tree.remove(root);
        assert_eq!(tree.root(), None);
    }
}
