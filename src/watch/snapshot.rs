//! What is at a path at one time, and what is different at another: for systems that tell nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::event::{Change, FileState, WatchEvent};
use crate::error::{Code, Error};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    state: FileState,
    device: u64,
    owner: (u32, u32),
    is_directory: bool,
}

impl Entry {
    #[cfg(unix)]
    fn new(status: &Metadata) -> Entry {
        use std::os::unix::fs::MetadataExt;
        let seconds = status.mtime().saturating_mul(1_000_000_000);
        Entry {
            state: FileState {
                size: status.len(),
                modified_ns: seconds.saturating_add(status.mtime_nsec()),
                inode: status.ino(),
                mode: status.mode(),
            },
            device: status.dev(),
            owner: (status.uid(), status.gid()),
            is_directory: status.is_dir(),
        }
    }

    #[cfg(not(unix))]
    fn new(status: &Metadata) -> Entry {
        use std::time::UNIX_EPOCH;
        let modified = status.modified().unwrap_or(UNIX_EPOCH);
        let nanoseconds = |since: std::time::Duration| i64::try_from(since.as_nanos());
        let modified_ns = match modified.duration_since(UNIX_EPOCH) {
            Ok(since) => nanoseconds(since).unwrap_or(i64::MAX),
            Err(before) => nanoseconds(before.duration()).map_or(i64::MIN, |ns| -ns),
        };
        Entry {
            state: FileState {
                size: status.len(),
                modified_ns,
                inode: 0,
                mode: u32::from(!status.permissions().readonly()),
            },
            device: 0,
            owner: (0, 0),
            is_directory: status.is_dir(),
        }
    }

    /// Whether both are the same file or folder, as far as the system can tell.
    fn is_same(&self, other: &Entry) -> bool {
        self.is_directory == other.is_directory && self.identity() == other.identity()
    }

    fn identity(&self) -> (u64, u64) {
        (self.device, self.state.inode)
    }

    /// Whether it may be `other` with another name. Numbers of files that are gone are used again
    /// at once, so what is in it must be the same, too.
    fn may_be(&self, other: &Entry) -> bool {
        let same_contents = self.state.size == other.state.size
            && self.state.modified_ns == other.state.modified_ns;
        self.state.inode != 0 && self.is_same(other) && (self.is_directory || same_contents)
    }

    fn was_modified(&self, before: &Entry) -> bool {
        // A folder is as its entries are, and those are told.
        !self.is_directory
            && (self.state.size != before.state.size
                || self.state.modified_ns != before.state.modified_ns)
    }

    fn has_other_attributes(&self, before: &Entry) -> bool {
        (self.state.mode, self.owner) != (before.state.mode, before.owner)
    }
}

/// Everything at and below a path, by relative paths.
#[derive(Default)]
pub(super) struct Snapshot {
    entries: BTreeMap<PathBuf, Entry>,
    /// Folders that cannot be read, and why.
    failed: BTreeMap<PathBuf, Error>,
}

impl Snapshot {
    /// Only what is at the path itself.
    pub fn of_itself(path: &Path) -> Result<(Snapshot, bool), Error> {
        let entry = Entry::new(&fs::metadata(path)?);
        let mut snapshot = Snapshot::default();
        snapshot.entries.insert(PathBuf::new(), entry);
        Ok((snapshot, entry.is_directory))
    }

    /// Looks at everything. What cannot be read is taken to be as it was before.
    pub fn take(path: &Path, recursive: bool, before: Option<&Snapshot>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut folders = Vec::new();
        match fs::metadata(path) {
            Ok(status) => {
                let entry = Entry::new(&status);
                snapshot.entries.insert(PathBuf::new(), entry);
                if entry.is_directory {
                    folders.push(PathBuf::new());
                }
            }
            Err(error) => snapshot.cannot(PathBuf::new(), error.into(), before),
        }
        while let Some(folder) = folders.pop() {
            match fs::read_dir(path.join(&folder)) {
                Ok(entries) => {
                    for entry in entries {
                        let Ok(entry) = entry else {
                            break;
                        };
                        let Ok(status) = entry.metadata() else {
                            continue; // gone already, or of a folder that may only be listed
                        };
                        let below = folder.join(entry.file_name());
                        if status.is_dir() && recursive {
                            folders.push(below.clone());
                        }
                        snapshot.entries.insert(below, Entry::new(&status));
                    }
                }
                Err(error) => snapshot.cannot(folder, error.into(), before),
            }
        }
        snapshot
    }

    /// What cannot be read, to be told when nothing is known of before.
    pub fn failures(&self) -> Vec<WatchEvent> {
        let failed = self.failed.iter();
        let events = failed.map(|(path, error)| WatchEvent::failed(path.clone(), true, *error));
        events.collect()
    }

    fn cannot(&mut self, folder: PathBuf, error: Error, before: Option<&Snapshot>) {
        if matches!(error.code(), Code::ENOENT | Code::ENOTDIR) {
            return;
        }
        if let Some(before) = before {
            let below = before.entries.range(folder.clone()..);
            let below = below.take_while(|(path, _)| path.starts_with(&folder));
            for (path, entry) in below {
                self.entries.entry(path.clone()).or_insert(*entry);
            }
        }
        self.failed.insert(folder, error);
    }

    /// What has changed since `before`: first what is gone, what is in a folder before the folder,
    /// then the rest, folders first.
    pub fn changes_since(&self, before: &Snapshot) -> Vec<WatchEvent> {
        let mut gone: BTreeMap<&Path, &Entry> = BTreeMap::new();
        for (path, entry) in &before.entries {
            if !self.entries.contains_key(path) {
                gone.insert(path, entry);
            }
        }
        let renames = self.renames(before, &mut gone);
        let mut events = Vec::new();
        for (path, entry) in gone.iter().rev() {
            let path = path.to_path_buf();
            let mut event = WatchEvent::new(Change::REMOVED, path, entry.is_directory);
            event.before = Some(entry.state);
            events.push(event);
        }
        for (path, entry) in &self.entries {
            let former = before.entries.get(path);
            let rename = renames.get(path.as_path());
            entry_changes(path, entry, former, rename, &mut events);
        }
        for (path, error) in &self.failed {
            if before.failed.get(path) != Some(error) {
                events.push(WatchEvent::failed(path.clone(), true, *error));
            }
        }
        events
    }

    /// Finds among what is gone the former names of what is new, and takes it out.
    fn renames<'a>(
        &'a self,
        before: &'a Snapshot,
        gone: &mut BTreeMap<&'a Path, &'a Entry>,
    ) -> HashMap<&'a Path, Rename<'a>> {
        let mut by_identity: HashMap<(u64, u64), Vec<&Path>> = HashMap::new();
        for (path, entry) in gone.iter() {
            by_identity.entry(entry.identity()).or_default().push(path);
        }
        let mut renames: HashMap<&Path, Rename<'_>> = HashMap::new();
        for (path, entry) in &self.entries {
            let former = before.entries.get(path);
            if former.is_some_and(|former| former.is_same(entry)) {
                continue;
            }
            let Some(candidates) = by_identity.get_mut(&entry.identity()) else {
                continue;
            };
            let fits = |from: &&Path| gone.get(*from).is_some_and(|gone| gone.may_be(entry));
            let Some(at) = candidates.iter().position(fits) else {
                continue;
            };
            let from = candidates[at];
            let with_folder = path.parent().zip(from.parent()).is_some_and(|(to, was)| {
                let folder = renames.get(to);
                folder.is_some_and(|folder| folder.from == was)
                    && path.file_name() == from.file_name()
            });
            // Told one after the other, these would not be what happened: out of a folder that is
            // gone itself, or a folder in the place of another that had something in it.
            let folder_stays = from
                .parent()
                .is_some_and(|folder| self.entries.contains_key(folder));
            let is_plain = folder_stays && !(entry.is_directory && former.is_some());
            if !with_folder && !is_plain {
                continue;
            }
            candidates.swap_remove(at);
            let Some(was) = gone.remove(from) else {
                continue;
            };
            renames.insert(
                path,
                Rename {
                    from,
                    was,
                    with_folder,
                },
            );
        }
        renames
    }
}

struct Rename<'a> {
    from: &'a Path,
    was: &'a Entry,
    /// It is the folder around it that got another name.
    with_folder: bool,
}

fn entry_changes(
    path: &Path,
    entry: &Entry,
    former: Option<&Entry>,
    rename: Option<&Rename<'_>>,
    events: &mut Vec<WatchEvent>,
) {
    let mut tell = |change: Change, before: Option<&Entry>| {
        let mut event = WatchEvent::new(change, path.to_owned(), entry.is_directory);
        event.before = before.map(|before| before.state);
        event.after = Some(entry.state);
        if change == Change::RENAMED {
            event.from = rename.map(|rename| rename.from.to_owned());
        }
        events.push(event);
    };
    let before = match (rename, former) {
        (Some(rename), _) => {
            if !rename.with_folder {
                tell(Change::RENAMED, Some(rename.was));
            }
            rename.was
        }
        (None, Some(former)) if former.is_same(entry) => former,
        (None, former) => return tell(Change::CREATED, former),
    };
    if entry.was_modified(before) {
        tell(Change::MODIFIED, Some(before));
    }
    if entry.has_other_attributes(before) {
        tell(Change::METADATA, Some(before));
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("kolo-snapshot-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn write(&self, path: &str, contents: &str) {
            fs::write(self.0.join(path), contents).unwrap();
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.0.join(from), self.0.join(to)).unwrap();
        }

        /// Looks, and tells what is different from `before`.
        fn look(&self, before: &mut Snapshot) -> Vec<(Change, String, String)> {
            let now = Snapshot::take(&self.0, true, Some(before));
            let events = now.changes_since(before).into_iter().map(|event| {
                let text = |path: &Path| path.to_str().unwrap().to_owned();
                let from = event.from().map(text).unwrap_or_default();
                (event.change(), text(event.path()), from)
            });
            let events = events.collect();
            *before = now;
            events
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn told(change: Change, path: &str) -> (Change, String, String) {
        (change, path.to_owned(), String::new())
    }

    fn renamed(from: &str, to: &str) -> (Change, String, String) {
        (Change::RENAMED, to.to_owned(), from.to_owned())
    }

    #[test]
    fn a_renamed_folder_is_told_once_with_what_changed_in_it() {
        let folder = Folder::new("renamed");
        fs::create_dir_all(folder.0.join("a/deep")).unwrap();
        folder.write("a/deep/file", "1");
        folder.write("a/other", "1");
        let mut before = Snapshot::take(&folder.0, true, None);
        assert!(folder.look(&mut before).is_empty());
        folder.rename("a", "b");
        folder.write("b/new", "1");
        fs::remove_file(folder.0.join("b/other")).unwrap();
        assert_eq!(
            folder.look(&mut before),
            [
                told(Change::REMOVED, "a/other"),
                renamed("a", "b"),
                told(Change::CREATED, "b/new")
            ]
        );
    }

    #[test]
    fn a_file_put_in_the_place_of_another_is_renamed_or_created() {
        let folder = Folder::new("replaced");
        for (name, contents) in [("old", "1"), ("new", "22"), ("lone", "1")] {
            folder.write(name, contents);
        }
        let mut before = Snapshot::take(&folder.0, true, None);
        folder.rename("new", "old");
        fs::hard_link(folder.0.join("lone"), folder.0.join("keep")).unwrap();
        fs::remove_file(folder.0.join("lone")).unwrap();
        folder.write("lone", "3");
        assert_eq!(
            folder.look(&mut before),
            [
                told(Change::CREATED, "keep"),
                told(Change::CREATED, "lone"),
                renamed("new", "old")
            ]
        );
        fs::remove_dir_all(&folder.0).unwrap();
        let gone = ["old", "lone", "keep", ""].map(|path| told(Change::REMOVED, path));
        assert_eq!(folder.look(&mut before), gone);
        fs::create_dir(&folder.0).unwrap();
        assert_eq!(folder.look(&mut before), [told(Change::CREATED, "")]);
    }

    #[test]
    fn contents_and_attributes_are_told_apart() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("contents");
        folder.write("file", "1");
        fs::create_dir(folder.0.join("sub")).unwrap();
        let mut before = Snapshot::take(&folder.0, true, None);
        folder.write("file", "22");
        folder.write("sub/new", "1");
        assert_eq!(
            folder.look(&mut before),
            [
                told(Change::MODIFIED, "file"),
                told(Change::CREATED, "sub/new")
            ]
        );
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(folder.0.join("file"), mode).unwrap();
        assert_eq!(folder.look(&mut before), [told(Change::METADATA, "file")]);
    }

    #[test]
    fn what_cannot_be_read_is_told_once_and_stays_as_it_was() {
        let folder = Folder::new("failed");
        fs::create_dir(folder.0.join("sub")).unwrap();
        folder.write("sub/file", "1");
        let before = Snapshot::take(&folder.0, true, None);
        // As a folder without permission would have it, also for root.
        let without = |before: &Snapshot| {
            let mut now = Snapshot::take(&folder.0, false, None);
            now.cannot("sub".into(), Code::EACCES.into(), Some(before));
            now
        };
        let now = without(&before);
        let events = now.changes_since(&before);
        assert_eq!(
            events,
            [WatchEvent::failed("sub".into(), true, Code::EACCES.into())]
        );
        assert_eq!(without(&now).changes_since(&now), []);
        let after = Snapshot::take(&folder.0, true, Some(&now));
        assert_eq!(after.changes_since(&now), []);
    }
}
