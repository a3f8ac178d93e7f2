//! Watching: what happens to files and folders is told, once each, in its order, and nothing is lost in silence.

#![cfg(all(unix, feature = "watch"))]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::*;
use kolo::{Change, Code, Loop, RunMode, Timer, Watch, WatchEvent, WatchOptions};

/// A folder of the test's own, which goes with it.
struct Folder(PathBuf);

static FOLDERS: AtomicUsize = AtomicUsize::new(0);

impl Folder {
    fn new() -> Folder {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("watch-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// An empty file: one event.
    fn make(&self, path: &str) {
        File::create_new(self.at(path)).unwrap();
    }

    fn folder(&self, path: &str) {
        fs::create_dir_all(self.at(path)).unwrap();
    }

    /// To a file that is there: one event, or one for what it cuts and one for what it writes.
    fn append(&self, path: &str) {
        let mut file = File::options().append(true).open(self.at(path)).unwrap();
        file.write_all(b"more").unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An event in words: "created a", "created b/", "renamed a -> b", "error c/ EACCES".
fn words(event: &WatchEvent) -> String {
    let change = match event.change() {
        Change::CREATED => "created",
        Change::MODIFIED => "modified",
        Change::METADATA => "metadata",
        Change::REMOVED => "removed",
        Change::RENAMED => "renamed",
        Change::OVERFLOW => return "overflow".to_owned(),
        Change::READY => return "ready".to_owned(),
        Change::ERROR => "error",
        other => panic!("{other:?}"),
    };
    let path = event.path().display();
    let slash = if event.is_directory() { "/" } else { "" };
    let from = event.from().map(|from| format!("{} -> ", from.display()));
    let error = event
        .error()
        .map(|error| format!(" {}", error.code().name()));
    let (from, error) = (from.unwrap_or_default(), error.unwrap_or_default());
    format!("{change} {from}{path}{slash}{error}")
}

type Told = Shared<Vec<String>>;

/// A watch that notes what it tells; it is ready.
fn watch_with(lp: &Loop, path: &Path, options: WatchOptions) -> (Watch, Told) {
    let told = Told::default();
    let list = told.clone();
    let watch = Watch::open(lp, path, &options, move |_, _, event| {
        list.push(words(event));
    });
    let watch = watch.unwrap();
    run_until(lp, || {
        told.with(|told| told.iter().any(|line| line == "ready"))
    });
    told.with(|told| told.retain(|line| line != "ready"));
    (watch, told)
}

fn watch(lp: &Loop, path: &Path) -> (Watch, Told) {
    watch_with(lp, path, WatchOptions::default())
}

fn recursive() -> WatchOptions {
    let mut options = WatchOptions::default();
    options.recursive = true;
    options
}

fn only(changes: Change) -> WatchOptions {
    let mut options = WatchOptions::default();
    options.changes = changes;
    options
}

fn polling(recursive: bool) -> WatchOptions {
    let mut options = WatchOptions::default();
    options.recursive = recursive;
    options.poll = Some(Duration::from_millis(2));
    options
}

/// Everything that was told until now: events come in order, so that of a file made now is the last.
fn settle(lp: &Loop, folder: &Folder, told: &Told) -> Vec<String> {
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let fence = format!("fence-{number}");
    folder.make(&fence);
    let last = format!("created {fence}");
    run_until(lp, || told.with(|told| told.contains(&last)));
    let mut lines = told.take();
    assert_eq!(lines.pop(), Some(last));
    lines.retain(|line| !line.contains("fence-"));
    lines
}

/// Runs until this is told; all that was told with it.
fn until(lp: &Loop, told: &Told, line: &str) -> Vec<String> {
    run_until(lp, || {
        told.with(|told| told.iter().any(|told| told == line))
    });
    told.take()
}

#[test]
fn what_happens_in_a_folder_is_told_in_its_order() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.make("old");
        let (_, told) = watch(&lp, &folder.0);
        folder.make("a");
        folder.append("old");
        fs::set_permissions(folder.at("a"), fs::Permissions::from_mode(0o600)).unwrap();
        folder.folder("sub");
        folder.rename("a", "b");
        folder.remove("old");
        fs::remove_dir(folder.at("sub")).unwrap();
        assert_eq!(
            settle(&lp, &folder, &told),
            [
                "created a",
                "modified old",
                "metadata a",
                "created sub/",
                "renamed a -> b",
                "removed old",
                "removed sub/"
            ]
        );
    });
}

#[test]
fn when_the_last_watch_has_gone_its_places_are_free_for_timers() {
    each_driver(|lp| {
        let folder = Folder::new();
        let nothing = |_: &Loop, _: Watch, _: &WatchEvent| ();
        let got = Watch::open(&lp, folder.at("none"), &WatchOptions::default(), nothing);
        assert_eq!(code(got), Code::ENOENT);
        let fired = Shared::new(0);
        for _ in 0..8 {
            let fires = fired.clone();
            Timer::after(&lp, Duration::ZERO, move |_| {
                fires.with(|count| *count += 1)
            })
            .unwrap();
        }
        run_to_end(&lp);
        assert_eq!(fired.get(), 8);
    });
}

#[test]
fn a_watch_does_not_tell_of_what_happened_before_it_was_opened() {
    for recursive in [false, true] {
        each_driver(|lp| {
            let folder = Folder::new();
            folder.make("old");
            let (_, told) = watch(&lp, &folder.0);
            // The loop hears of it when it runs.
            folder.make("early");
            folder.rename("old", "renamed");
            folder.remove("early");
            let mut options = WatchOptions::default();
            options.recursive = recursive;
            let (_, later) = watch_with(&lp, &folder.0, options);
            folder.rename("renamed", "late");
            let early = ["created early", "renamed old -> renamed", "removed early"];
            let late = "renamed renamed -> late";
            assert_eq!(settle(&lp, &folder, &told), [&early[..], &[late]].concat());
            assert_eq!(settle(&lp, &folder, &later), [late]);
        });
    }
}

#[test]
fn a_folder_that_is_not_watched_recursively_tells_only_of_its_own_names() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("sub");
        let (_, told) = watch(&lp, &folder.0);
        folder.make("sub/file");
        folder.append("sub/file");
        folder.rename("sub/file", "moved-up");
        folder.rename("moved-up", "sub/down");
        assert_eq!(
            settle(&lp, &folder, &told),
            ["created moved-up", "removed moved-up"]
        );
    });
}

#[test]
fn folders_below_are_watched_those_that_come_later_too() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("a/b");
        let (_, told) = watch_with(&lp, &folder.0, recursive());
        folder.make("a/b/file");
        folder.folder("a/new/deep");
        let mut lines = until(&lp, &told, "created a/new/deep/");
        lines.extend(settle(&lp, &folder, &told));
        assert_eq!(
            lines,
            ["created a/b/file", "created a/new/", "created a/new/deep/"]
        );
        folder.make("a/new/deep/file");
        folder.append("a/new/deep/file");
        assert_eq!(
            settle(&lp, &folder, &told),
            ["created a/new/deep/file", "modified a/new/deep/file"]
        );
        // What stands in a folder is told when it is removed, and then the folder.
        fs::remove_dir_all(folder.at("a/new")).unwrap();
        assert_eq!(
            settle(&lp, &folder, &told),
            [
                "removed a/new/deep/file",
                "removed a/new/deep/",
                "removed a/new/"
            ]
        );
    });
}

#[test]
fn a_folder_that_is_moved_is_watched_under_its_new_name() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("a/b/c");
        folder.folder("x");
        let (_, told) = watch_with(&lp, &folder.0, recursive());
        folder.rename("a/b", "x/y");
        folder.make("x/y/c/file");
        folder.rename("x", "z");
        folder.make("z/y/file");
        assert_eq!(
            settle(&lp, &folder, &told),
            [
                "renamed a/b -> x/y/",
                "created x/y/c/file",
                "renamed x -> z/",
                "created z/y/file"
            ]
        );
    });
}

#[test]
fn what_is_moved_in_is_created_with_all_that_is_in_it_and_what_is_moved_out_is_removed() {
    each_driver(|lp| {
        let (folder, outside) = (Folder::new(), Folder::new());
        outside.folder("tree/sub");
        outside.make("tree/sub/file");
        outside.make("tree/other");
        let (_, told) = watch_with(&lp, &folder.0, recursive());
        fs::rename(outside.at("tree"), folder.at("in")).unwrap();
        until(&lp, &told, "created in/sub/file").sort();
        folder.make("in/sub/new");
        assert_eq!(settle(&lp, &folder, &told), ["created in/sub/new"]);
        fs::rename(folder.at("in"), outside.at("out")).unwrap();
        outside.make("out/sub/unseen");
        assert_eq!(settle(&lp, &folder, &told), ["removed in/"]);
    });
}

#[test]
fn everything_in_a_tree_that_is_moved_in_is_told_once() {
    each_driver(|lp| {
        let (folder, outside) = (Folder::new(), Folder::new());
        for at in 0..40 {
            outside.folder(&format!("tree/{at}/sub"));
            for file in 0..50 {
                outside.make(&format!("tree/{at}/sub/{file}"));
            }
        }
        let (_, told) = watch_with(&lp, &folder.0, recursive());
        fs::rename(outside.at("tree"), folder.at("tree")).unwrap();
        let lines = settle(&lp, &folder, &told);
        let each: BTreeSet<_> = lines.iter().collect();
        assert_eq!((lines.len(), each.len()), (1 + 40 * 52, 1 + 40 * 52));
        assert!(lines.iter().all(|line| line.starts_with("created tree")));
    });
}

#[test]
fn a_file_is_watched_with_the_empty_path() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.make("file");
        let (_, told) = watch(&lp, &folder.at("file"));
        folder.make("other");
        folder.append("file");
        assert_eq!(until(&lp, &told, "modified "), ["modified "]);
        fs::set_permissions(folder.at("file"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(until(&lp, &told, "metadata "), ["metadata "]);
    });
}

#[test]
fn a_file_that_an_editor_replaces_is_watched_on() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.make("file");
        let (_, told) = watch(&lp, &folder.at("file"));
        for _ in 0..3 {
            folder.make("file.new");
            folder.rename("file.new", "file");
            assert_eq!(until(&lp, &told, "created "), ["created "]);
            folder.append("file");
            assert_eq!(until(&lp, &told, "modified "), ["modified "]);
        }
        // The other way: the old one is moved away first.
        folder.rename("file", "file~");
        assert_eq!(until(&lp, &told, "removed "), ["removed "]);
        folder.append("file~");
        folder.make("file");
        assert_eq!(until(&lp, &told, "created "), ["created "]);
        folder.append("file");
        assert_eq!(until(&lp, &told, "modified "), ["modified "]);
        some_turns(&lp);
        assert!(told.is_empty());
    });
}

#[test]
fn a_file_that_is_open_elsewhere_is_told_when_it_loses_its_name() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.make("file");
        let _held = File::open(folder.at("file")).unwrap();
        let (_, told) = watch(&lp, &folder.at("file"));
        folder.remove("file");
        assert_eq!(until(&lp, &told, "removed "), ["removed "]);
        folder.make("file");
        assert_eq!(until(&lp, &told, "created "), ["created "]);
    });
}

#[test]
fn a_folder_that_is_removed_and_made_again_is_watched_on() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("up/root/sub");
        let (_, told) = watch_with(&lp, &folder.at("up/root"), recursive());
        for _ in 0..2 {
            fs::remove_dir_all(folder.at("up")).unwrap();
            assert_eq!(
                until(&lp, &told, "removed /"),
                ["removed sub/", "removed /"]
            );
            // With the folder above it; and what is in it already.
            folder.folder("up/root/sub");
            folder.make("up/root/sub/file");
            until(&lp, &told, "created sub/file");
            folder.make("up/root/later");
            until(&lp, &told, "created later");
            fs::remove_file(folder.at("up/root/sub/file")).unwrap();
            until(&lp, &told, "removed sub/file");
            fs::remove_file(folder.at("up/root/later")).unwrap();
            until(&lp, &told, "removed later");
        }
    });
}

#[test]
fn a_folder_above_that_is_moved_away_takes_the_path_along() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("a/b/root");
        let (_, told) = watch(&lp, &folder.at("a/b/root"));
        folder.rename("a", "elsewhere");
        assert_eq!(until(&lp, &told, "removed /"), ["removed /"]);
        folder.make("elsewhere/b/root/unseen");
        folder.rename("elsewhere", "a");
        assert_eq!(
            until(&lp, &told, "created unseen"),
            ["created /", "created unseen"]
        );
    });
}

#[test]
fn a_link_is_followed_and_turning_it_is_a_replacement() {
    each_driver(|lp| {
        let folder = Folder::new();
        for version in ["one", "two"] {
            folder.folder(version);
            folder.make(&format!("{version}/config"));
        }
        symlink("one", folder.at("current")).unwrap();
        symlink("current/config", folder.at("config")).unwrap();
        let (_, told) = watch(&lp, &folder.at("config"));
        folder.append("one/config");
        assert_eq!(until(&lp, &told, "modified "), ["modified "]);
        // As a cluster's tools put a new configuration in place.
        symlink("two", folder.at("next")).unwrap();
        folder.rename("next", "current");
        assert_eq!(until(&lp, &told, "created "), ["created "]);
        folder.append("one/config");
        folder.append("two/config");
        assert_eq!(until(&lp, &told, "modified "), ["modified "]);
    });
}

#[test]
fn links_below_are_not_followed() {
    each_driver(|lp| {
        let (folder, outside) = (Folder::new(), Folder::new());
        outside.folder("sub");
        let (_, told) = watch_with(&lp, &folder.0, recursive());
        symlink(&outside.0, folder.at("link")).unwrap();
        folder.folder("new");
        symlink("..", folder.at("new/circle")).unwrap();
        until(&lp, &told, "created new/circle");
        outside.make("sub/unseen");
        assert_eq!(settle(&lp, &folder, &told), [""; 0]);
    });
}

#[test]
fn only_what_is_asked_for_is_told() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.make("old");
        let names = Change::CREATED | Change::REMOVED | Change::READY;
        let (_, told) = watch_with(&lp, &folder.0, only(names));
        let (_, all) = watch(&lp, &folder.0);
        folder.append("old");
        folder.rename("old", "new");
        assert_eq!(settle(&lp, &folder, &told), ["removed old", "created new"]);
        let lines = until(&lp, &all, "renamed old -> new");
        assert_eq!(lines[..2], ["modified old", "renamed old -> new"]);
    });
}

#[test]
fn writes_that_were_not_told_yet_are_one_event() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.make("a");
        folder.make("b");
        let (_, told) = watch(&lp, &folder.0);
        for _ in 0..100 {
            folder.append("a");
        }
        folder.append("b");
        folder.append("a");
        assert_eq!(
            settle(&lp, &folder, &told),
            ["modified a", "modified b", "modified a"]
        );
    });
}

#[test]
fn the_same_folder_may_be_watched_many_times() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("sub");
        let (_, whole) = watch_with(&lp, &folder.0, recursive());
        let (flat, own) = watch(&lp, &folder.0);
        let (_, sub) = watch(&lp, &folder.at("sub"));
        folder.make("sub/file");
        folder.rename("sub/file", "file");
        assert_eq!(
            settle(&lp, &folder, &whole),
            ["created sub/file", "renamed sub/file -> file"]
        );
        run_until(&lp, || own.len() == 2 && sub.len() == 2);
        assert_eq!(own.take()[0], "created file");
        assert_eq!(sub.take(), ["created file", "removed file"]);
        // Closing one leaves the others.
        lp.close(flat).unwrap();
        folder.make("sub/other");
        assert_eq!(settle(&lp, &folder, &whole), ["created sub/other"]);
        assert_eq!(until(&lp, &sub, "created other"), ["created other"]);
        assert!(own.is_empty());
    });
}

#[test]
fn names_need_not_be_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    each_driver(|lp| {
        let folder = Folder::new();
        let name = OsStr::from_bytes(b"a\xff\nb");
        let paths = Shared::<Vec<PathBuf>>::default();
        let list = paths.clone();
        let options = only(Change::CREATED);
        Watch::open(&lp, &folder.0, &options, move |_, _, event| {
            list.push(event.path().to_owned());
        })
        .unwrap();
        File::create_new(folder.0.join(name)).unwrap();
        run_until(&lp, || !paths.is_empty());
        assert_eq!(paths.take(), [PathBuf::from(name)]);
    });
}

#[test]
fn what_is_not_there_cannot_be_watched() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.make("file");
        symlink("circle", folder.at("circle")).unwrap();
        for poll in [None, Some(Duration::from_secs(1))] {
            let mut options = recursive();
            options.poll = poll;
            let open = |path: &Path| code(Watch::open(&lp, path, &options, |_, _, _| ()));
            assert_eq!(open(&folder.at("absent")), Code::ENOENT);
            assert_eq!(open(&folder.at("absent/below")), Code::ENOENT);
            assert_eq!(open(&folder.at("file/below")), Code::ENOTDIR);
            assert_eq!(open(&folder.at("circle")), Code::ELOOP);
            assert_eq!(open(Path::new("")), Code::EINVAL);
            options.changes = Change::empty();
            let nothing = Watch::open(&lp, &folder.0, &options, |_, _, _| ());
            assert_eq!(code(nothing), Code::EINVAL);
        }
        // Nothing is left of them.
        assert!(lp.handles().is_empty() && !lp.is_alive());
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn a_watch_holds_the_loop_and_is_listed() {
    each_driver(|lp| {
        let folder = Folder::new();
        let before = lp.metrics().handles;
        let (watch, _) = watch_with(&lp, &folder.0, recursive());
        assert!(lp.is_alive() && lp.is_active(watch).unwrap());
        assert_eq!(lp.kind(watch).unwrap(), kolo::Kind::Watch);
        assert_eq!(lp.handles(), [watch.id()]);
        assert_eq!(lp.metrics().handles, before + 1);
        assert_eq!(watch.path(&lp).unwrap(), folder.0);
        assert!(lp.describe(watch).unwrap().contains("recursive"));
        lp.unref(watch).unwrap();
        assert!(!lp.is_alive());
        lp.close(watch).unwrap();
        assert_eq!(code(watch.path(&lp)), Code::EBADF);
        run_to_end(&lp);
        assert_eq!(lp.metrics().handles, before);
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        assert_eq!(code(Watch::from_id(timer.id()).path(&lp)), Code::EBADF);
    });
}

/// The descriptors of this process that are inotify's.
#[cfg(target_os = "linux")]
fn instances() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_inotify = |path: &PathBuf| {
        let target = fs::read_link(path);
        target.is_ok_and(|target| target.to_string_lossy().contains("inotify"))
    };
    paths.filter(is_inotify).collect()
}

/// Opens a watch and closes it at once.
#[cfg(target_os = "linux")]
fn watch_for_a_moment(lp: &Loop, folder: &Folder) {
    let (watch, _) = watch(lp, &folder.0);
    lp.close(watch).unwrap();
    run_to_end(lp);
}

#[cfg(target_os = "linux")]
#[test]
fn the_descriptor_of_watches_is_closed_with_the_loop_and_not_before() {
    in_own_process!(|| each_driver(|lp| {
        let (folder, other) = (Folder::new(), Folder::new());
        assert!(instances().is_empty());
        // Closing it waits for the kernel: also where the first watch fails, it stays.
        let absent = Watch::open(&lp, other.at("absent"), &recursive(), |_, _, _| ());
        assert_eq!(code(absent), Code::ENOENT);
        let kept = instances();
        assert_eq!(kept.len(), 1);
        assert!(lp.handles().is_empty() && !lp.is_alive());
        for _ in 0..3 {
            let (one, _) = watch(&lp, &folder.0);
            let (two, told) = watch(&lp, &other.0);
            lp.close(one).unwrap();
            other.make("a");
            other.remove("a");
            assert_eq!(settle(&lp, &other, &told), ["created a", "removed a"]);
            lp.close(two).unwrap();
            run_to_end(&lp);
            assert!(lp.handles().is_empty() && !lp.is_alive());
            assert_eq!(instances(), kept);
        }
        drop(lp);
        assert!(instances().is_empty());
    }));
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_last_watch_did_not_tell_is_not_told_by_the_next() {
    each_driver(|lp| {
        let folder = Folder::new();
        let (last, _) = watch(&lp, &folder.0);
        // Lost events, too, were the last one's.
        for at in 0..queue_length() / 2 + 100 {
            folder.make(&at.to_string());
            folder.remove(&at.to_string());
        }
        lp.close(last).unwrap();
        folder.make("between");
        let (_, next) = watch(&lp, &folder.0);
        folder.make("a");
        assert_eq!(settle(&lp, &folder, &next), ["created a"]);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_does_not_use_the_descriptor_that_its_parent_keeps() {
    in_own_process!(|| each_driver(|lp| {
        let folder = Folder::new();
        watch_for_a_moment(&lp, &folder);
        let kept = instances();
        assert_eq!(kept.len(), 1);
        match unsafe { libc::fork() } {
            0 => {
                unsafe { libc::alarm(100) };
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    lp.forked().unwrap();
                    assert!(instances().is_empty());
                    let (_, told) = watch(&lp, &folder.0);
                    folder.make("of-child");
                    until(&lp, &told, "created of-child");
                }));
                unsafe { libc::_exit(i32::from(outcome.is_err())) }
            }
            child => {
                let mut status = 0;
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0);
                let (_, told) = watch(&lp, &folder.0);
                assert_eq!(instances(), kept);
                folder.make("of-parent");
                until(&lp, &told, "created of-parent");
            }
        }
    }));
}

#[test]
fn a_watch_may_be_closed_in_its_callback_with_events_waiting() {
    each_driver(|lp| {
        let folder = Folder::new();
        let told = Told::default();
        let (list, closed) = (told.clone(), Shared::<usize>::default());
        let counted = closed.clone();
        let options = only(Change::CREATED);
        let watch = Watch::open(&lp, &folder.0, &options, move |lp, watch, event| {
            list.push(words(event));
            if list.len() == 3 {
                lp.close(watch).unwrap();
            }
        })
        .unwrap();
        lp.on_close(watch, move |_, _| counted.add()).unwrap();
        for name in ["a", "b", "c", "d", "e"] {
            folder.make(name);
        }
        run_to_end(&lp);
        assert_eq!(told.take(), ["created a", "created b", "created c"]);
        assert_eq!(closed.get(), 1);
    });
}

#[test]
fn a_neighbour_that_is_closed_in_a_callback_hears_nothing_more() {
    each_driver(|lp| {
        let folder = Folder::new();
        let watches = Shared::<Vec<Watch>>::default();
        let told = Shared::<usize>::default();
        for _ in 0..3 {
            let (all, counted) = (watches.clone(), told.clone());
            let options = only(Change::CREATED);
            let watch = Watch::open(&lp, &folder.0, &options, move |lp, me, _| {
                counted.add();
                for watch in all.get() {
                    if watch != me {
                        lp.close(watch).unwrap();
                    }
                }
                lp.close(me).unwrap();
            });
            watches.push(watch.unwrap());
        }
        folder.make("a");
        folder.make("b");
        run_to_end(&lp);
        assert_eq!(told.get(), 1);
    });
}

#[test]
fn a_panic_in_a_callback_loses_only_its_own_event() {
    each_driver(|lp| {
        let folder = Folder::new();
        let told = Told::default();
        let list = told.clone();
        let options = only(Change::CREATED);
        let watch = Watch::open(&lp, &folder.0, &options, move |_, _, event| {
            list.push(words(event));
            assert_ne!(event.path(), Path::new("b"), "on purpose");
        });
        let watch = watch.unwrap();
        for name in ["a", "b", "c"] {
            folder.make(name);
        }
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let outcome = catch_unwind(AssertUnwindSafe(|| run_until(&lp, || told.len() == 3)));
        std::panic::set_hook(former);
        assert!(outcome.is_err());
        run_until(&lp, || told.len() == 3);
        assert_eq!(told.take(), ["created a", "created b", "created c"]);
        lp.close(watch).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn a_loop_may_be_dropped_with_events_waiting() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("sub");
        let mut told = Vec::new();
        let closed = Shared::<usize>::default();
        for options in [WatchOptions::default(), recursive(), polling(true)] {
            let (watch, list) = watch_with(&lp, &folder.0, options);
            let counted = closed.clone();
            lp.on_close(watch, move |_, _| counted.add()).unwrap();
            told.push(list);
        }
        folder.make("sub/a");
        folder.make("b");
        let native = told[0].clone();
        run_until(&lp, || !native.is_empty());
        folder.make("c");
        drop(lp);
        assert_eq!(closed.get(), 3);
        assert!(told[1..].iter().all(|told| told.holders() == 0));
    });
}

#[test]
fn a_callback_may_open_and_close_watches() {
    each_driver(|lp| {
        let folder = Folder::new();
        let rounds = Shared::<usize>::default();
        fn open(lp: &Loop, path: PathBuf, rounds: Shared<usize>) {
            let options = only(Change::CREATED);
            let again = path.clone();
            Watch::open(lp, &path, &options, move |lp, watch, _| {
                rounds.add();
                if rounds.get() < 20 {
                    open(lp, again.clone(), rounds.clone());
                    File::create_new(again.join(rounds.get().to_string())).unwrap();
                }
                lp.close(watch).unwrap();
            })
            .unwrap();
        }
        open(&lp, folder.0.clone(), rounds.clone());
        folder.make("first");
        run_to_end(&lp);
        assert_eq!(rounds.get(), 20);
    });
}

/// The queue's length in the kernel.
#[cfg(target_os = "linux")]
fn queue_length() -> usize {
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    text.trim().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn an_overflow_is_told_when_everything_is_watched_again() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("old/deep");
        folder.folder("gone/deep");
        let (_, told) = watch_with(&lp, &folder.0, recursive());
        for at in 0..queue_length() / 2 + 100 {
            folder.make(&format!("old/{at}"));
            folder.remove(&format!("old/{at}"));
        }
        // None of this is told by the kernel any more.
        folder.folder("new/deep");
        fs::remove_dir_all(folder.at("gone")).unwrap();
        folder.rename("old", "moved");
        until(&lp, &told, "overflow");
        folder.make("new/deep/file");
        folder.make("moved/deep/file");
        folder.folder("gone");
        folder.make("new/other");
        let lines = settle(&lp, &folder, &told);
        assert_eq!(
            lines,
            [
                "created new/deep/file",
                "created moved/deep/file",
                "created gone/",
                "created new/other"
            ]
        );
    });
}

#[test]
fn thousands_of_events_are_all_told() {
    each_driver(|lp| {
        let folder = Folder::new();
        let (_, told) = watch(&lp, &folder.0);
        for at in 0..5000 {
            folder.make(&at.to_string());
        }
        let lines = settle(&lp, &folder, &told);
        let expected = (0..5000).map(|at| format!("created {at}"));
        assert_eq!(lines, expected.collect::<Vec<_>>());
        // Not all of them in one turn.
        for at in 0..5000 {
            folder.remove(&at.to_string());
        }
        let turns = lp.metrics().turns;
        assert_eq!(settle(&lp, &folder, &told).len(), 5000);
        assert!(lp.metrics().turns - turns > 2);
    });
}

/// As a user that is nobody: permissions hold. In a process of its own.
#[cfg(target_os = "linux")]
fn as_nobody(run: impl FnOnce()) {
    let root = unsafe { libc::geteuid() } == 0;
    if root {
        assert_eq!(unsafe { libc::seteuid(65_534) }, 0);
    }
    run();
    if root {
        assert_eq!(unsafe { libc::seteuid(0) }, 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_must_not_be_read_is_told_and_the_rest_goes_on() {
    in_own_process!(|| each_driver(|lp| {
        let name = format!("kolo-watch-{}-{}", std::process::id(), lp.driver_name());
        let folder = Folder(std::env::temp_dir().join(name));
        as_nobody(|| {
            fs::create_dir_all(&folder.0).unwrap();
            folder.folder("open");
            folder.folder("closed");
            let closed = |path: &str, mode: u32| {
                fs::set_permissions(folder.at(path), fs::Permissions::from_mode(mode)).unwrap();
            };
            closed("closed", 0);
            let (_, told) = watch_with(&lp, &folder.0, recursive());
            assert_eq!(told.take(), ["error closed/ EACCES"]);
            folder.make("open/file");
            assert_eq!(settle(&lp, &folder, &told), ["created open/file"]);
            let root = Watch::open(&lp, folder.at("closed"), &recursive(), |_, _, _| ());
            assert_eq!(code(root), Code::EACCES);
            let (_, looked) = watch_with(&lp, &folder.0, polling(true));
            assert_eq!(looked.take(), ["error closed/ EACCES"]);
            closed("closed", 0o700);
        });
    }));
}

#[cfg(target_os = "linux")]
#[test]
fn descriptors_that_run_out_are_told_by_open() {
    in_own_process!(|| each_driver(|lp| {
        let folder = Folder::new();
        let limit = |soft: libc::rlim_t| {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            unsafe {
                libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
                let former = std::mem::replace(&mut limit.rlim_cur, soft);
                assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
                former
            }
        };
        let former = limit(0);
        let outcome = Watch::open(&lp, &folder.0, &recursive(), |_, _, _| ());
        limit(former);
        assert_eq!(code(outcome), Code::EMFILE);
        assert!(lp.handles().is_empty());
        // A loop that has watched needs no further one.
        watch_for_a_moment(&lp, &folder);
        let former = limit(0);
        let outcome = Watch::open(&lp, &folder.0, &recursive(), |_, _, _| ());
        limit(former);
        lp.close(outcome.unwrap()).unwrap();
        let (_, told) = watch(&lp, &folder.0);
        folder.make("a");
        assert_eq!(settle(&lp, &folder, &told), ["created a"]);
    }));
}

/// In a user namespace of its own a process may set its own limit. Where there is none to be had, nothing can be tried.
#[cfg(target_os = "linux")]
fn limit_watches(count: usize) -> bool {
    let limit = "/proc/sys/user/max_inotify_watches";
    let alone = unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0;
    alone && fs::write(limit, count.to_string()).is_ok()
}

#[cfg(target_os = "linux")]
#[test]
fn numbers_that_run_out_are_told() {
    in_own_process!(|| {
        let folder = Folder::new();
        for at in 0..30 {
            folder.folder(&format!("{at:02}"));
        }
        let depth = folder.0.components().count();
        if !limit_watches(depth + 10) {
            eprintln!("no user namespace: not tried");
            return;
        }
        each_driver(|lp| {
            let (watch, told) = watch_with(&lp, &folder.0, recursive());
            let lines = told.take();
            assert!(lines.len() > 15, "{lines:?}");
            let failed = |line: &String| line.starts_with("error ") && line.ends_with("/ ENOSPC");
            assert!(lines.iter().all(failed), "{lines:?}");
            let other = Watch::open(&lp, folder.at("00"), &recursive(), |_, _, _| ());
            // It may be one of those that are watched already.
            let other = other.or_else(|error| {
                assert_eq!(error.code(), Code::ENOSPC);
                Watch::open(&lp, &folder.0, &WatchOptions::default(), |_, _, _| ())
            });
            lp.close(other.unwrap()).unwrap();
            assert_eq!(settle(&lp, &folder, &told), [""; 0]);
            lp.close(watch).unwrap();
            run_to_end(&lp);
            // All of them are free again.
            let (_, told) = watch_with(&lp, &folder.at("29"), recursive());
            File::create_new(folder.at("29").join(lp.driver_name())).unwrap();
            until(&lp, &told, &format!("created {}", lp.driver_name()));
        });
    });
}

#[test]
fn a_forked_child_and_its_parent_each_hear_everything() {
    in_own_process!(|| each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("sub");
        let (_, told) = watch_with(&lp, &folder.0, recursive());
        let (_, looked) = watch_with(&lp, &folder.0, polling(true));
        // A look may fall between the two: then it tells of both.
        let until_there = |lp: &Loop, looked: &Told| {
            run_until(lp, || {
                looked.with(|told| told.iter().any(|line| line.ends_with("sub/renamed")))
            });
        };
        match unsafe { libc::fork() } {
            0 => {
                unsafe { libc::alarm(100) };
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    lp.forked().unwrap();
                    // What happened since the fork is not known.
                    assert_eq!(until(&lp, &told, "overflow"), ["overflow"]);
                    looked.take();
                    folder.make("sub/of-child");
                    folder.rename("sub/of-child", "sub/renamed");
                    until(&lp, &told, "renamed sub/of-child -> sub/renamed");
                    until_there(&lp, &looked);
                }));
                unsafe { libc::_exit(i32::from(outcome.is_err())) }
            }
            child => {
                assert!(child > 0);
                let mut status = 0;
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0);
                // The child has taken nothing away.
                assert_eq!(
                    settle(&lp, &folder, &told),
                    [
                        "created sub/of-child",
                        "renamed sub/of-child -> sub/renamed"
                    ]
                );
                until_there(&lp, &looked);
            }
        }
    }));
}

/// What a user who believes the events takes to be there.
#[derive(Default)]
struct Believed(BTreeSet<PathBuf>);

impl Believed {
    fn hear(&mut self, event: &WatchEvent) {
        let path = event.path();
        match event.change() {
            Change::CREATED => {
                self.0.insert(path.to_owned());
            }
            Change::REMOVED => {
                self.take_out(path);
            }
            Change::RENAMED => {
                self.take_out(path);
                let moved = self.take_out(event.from().unwrap());
                self.0.extend(moved.into_iter().map(|below| {
                    if below.as_os_str().is_empty() {
                        path.to_owned()
                    } else {
                        path.join(below)
                    }
                }));
            }
            _ => {}
        }
    }

    /// A path with all below it; what is below, relative to it.
    fn take_out(&mut self, path: &Path) -> Vec<PathBuf> {
        let below: Vec<_> = self
            .0
            .iter()
            .filter(|other| other.starts_with(path))
            .cloned()
            .collect();
        let relative = below.iter().map(|below| {
            self.0.remove(below);
            below.strip_prefix(path).unwrap().to_owned()
        });
        relative.collect()
    }
}

/// What is really there.
fn listing(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            }
            found.insert(entry.path().strip_prefix(folder).unwrap().to_owned());
        }
    }
    found
}

/// Numbers that look random, from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }

    /// A path of up to three names, of which few are tried so that they meet.
    fn path(&mut self) -> String {
        let names = ["a", "b", "c", "d"];
        let depth = 1 + self.below(3);
        let path: Vec<_> = (0..depth).map(|_| names[self.below(4)]).collect();
        path.join("/")
    }
}

/// Does things to a tree, whether they succeed or not; sometimes something comes from outside or goes there.
fn play(folder: &Path, outside: &Path, seed: u64, steps: usize) {
    let mut random = Random(seed);
    for step in 0..steps {
        let at = folder.join(random.path());
        match random.below(9) {
            0..=2 => drop(fs::create_dir_all(&at)),
            3 | 4 => drop(File::create_new(&at)),
            5 => drop(fs::remove_file(&at)),
            6 => drop(fs::remove_dir_all(&at)),
            7 => drop(fs::rename(&at, folder.join(random.path()))),
            _ => {
                let away = outside.join(format!("{seed}-{}", random.below(6)));
                if step % 2 == 0 {
                    let _ = fs::rename(&at, &away);
                } else {
                    let _ = fs::rename(&away, &at);
                }
            }
        }
    }
}

/// Two threads change a tree at random while it is watched: who believes the events knows what is there.
fn what_is_told_is_what_is_there(options: &WatchOptions, steps: usize) {
    each_driver(|lp| {
        for seed in 0..6 {
            let (folder, outside) = (Folder::new(), Folder::new());
            folder.folder("a/b/c");
            let believed = Shared::new(Believed(listing(&folder.0)));
            let (hears, ready) = (believed.clone(), Told::default());
            let list = ready.clone();
            let watch = Watch::open(&lp, &folder.0, options, move |_, _, event| {
                hears.with(|believed| believed.hear(event));
                if event.change() == Change::READY || event.path().starts_with("fence") {
                    list.push(words(event));
                }
                // Errors and overflows would be mistakes here.
                assert!(!(Change::OVERFLOW | Change::ERROR).contains(event.change()));
            });
            let watch = watch.unwrap();
            until(&lp, &ready, "ready");
            let busy = Arc::new(AtomicBool::new(true));
            let remote = lp.remote();
            let players: Vec<_> = (0..2)
                .map(|player| {
                    let (folder, outside) = (folder.0.clone(), outside.0.clone());
                    thread::spawn(move || play(&folder, &outside, seed * 2 + player, steps))
                })
                .collect();
            let over = busy.clone();
            let end = thread::spawn(move || {
                players
                    .into_iter()
                    .for_each(|player| player.join().unwrap());
                over.store(false, Ordering::SeqCst);
                remote.wake().unwrap();
            });
            run_until(&lp, || !busy.load(Ordering::SeqCst));
            end.join().unwrap();
            folder.make("fence");
            until(&lp, &ready, "created fence");
            // A scan may be under way that the fence does not wait for.
            let real = listing(&folder.0);
            if believed.with(|believed| believed.0 != real) {
                run_for(&lp, Duration::from_millis(300));
            }
            believed.with(|believed| assert_eq!(believed.0, real, "seed {seed}"));
            lp.close(watch).unwrap();
            run_to_end(&lp);
        }
    });
}

#[test]
fn what_the_system_tells_is_what_is_there() {
    what_is_told_is_what_is_there(&recursive(), 1500);
}

#[test]
fn what_polling_tells_is_what_is_there() {
    what_is_told_is_what_is_there(&polling(true), 1500);
}

#[test]
fn polling_tells_what_was_and_what_is() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.make("file");
        let events = Shared::<Vec<WatchEvent>>::default();
        let list = events.clone();
        let options = polling(false);
        let watch = Watch::open(&lp, folder.at("file"), &options, move |_, _, event| {
            list.push(event.clone());
        });
        let watch = watch.unwrap();
        assert!(lp.describe(watch).unwrap().contains("polling"));
        folder.append("file");
        run_until(&lp, || events.len() == 2);
        let told = events.take();
        assert_eq!(told[0].change(), Change::READY);
        assert_eq!(told[1].change(), Change::MODIFIED);
        let (before, after) = (told[1].before().unwrap(), told[1].after().unwrap());
        assert_eq!((before.size, after.size), (0, 4));
        assert_eq!(before.inode, after.inode);
        folder.remove("file");
        run_until(&lp, || events.len() == 1);
        let told = events.take();
        assert_eq!(told[0].change(), Change::REMOVED);
        assert_eq!((told[0].before(), told[0].after()), (Some(after), None));
        folder.make("file");
        run_until(&lp, || events.len() == 1);
        assert_eq!(events.take()[0].change(), Change::CREATED);
    });
}

#[test]
fn polling_a_folder_tells_the_same_as_the_system() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("sub");
        folder.make("sub/old");
        let (watch, told) = watch_with(&lp, &folder.0, polling(true));
        folder.make("sub/new");
        assert_eq!(until(&lp, &told, "created sub/new"), ["created sub/new"]);
        folder.rename("sub", "other");
        assert_eq!(
            until(&lp, &told, "renamed sub -> other/"),
            ["renamed sub -> other/"]
        );
        folder.append("other/old");
        assert_eq!(
            until(&lp, &told, "modified other/old"),
            ["modified other/old"]
        );
        fs::remove_dir_all(folder.at("other")).unwrap();
        let mut lines = until(&lp, &told, "removed other/");
        lines.sort();
        assert_eq!(lines[0], "removed other/");
        lp.close(watch).unwrap();
        run_to_end(&lp);
        let (_, told) = watch_with(&lp, &folder.0, polling(false));
        folder.folder("sub");
        folder.make("sub/unseen");
        folder.make("seen");
        let mut lines = until(&lp, &told, "created seen");
        lines.sort();
        assert!(lines.iter().all(|line| line != "created sub/unseen"));
    });
}

#[test]
fn a_polling_watch_waits_without_turning_the_loop() {
    each_driver(|lp| {
        let folder = Folder::new();
        let mut options = polling(true);
        options.poll = Some(Duration::from_secs(3600));
        let (watch, told) = watch_with(&lp, &folder.0, options);
        folder.make("unseen");
        some_turns(&lp);
        let next = lp.backend_timeout().unwrap();
        assert!(next > Duration::from_secs(3000), "{next:?}");
        assert!(told.is_empty());
        lp.close(watch).unwrap();
        assert!(!lp.run(RunMode::Default).unwrap());
    });
}

#[test]
fn a_watch_that_nothing_happens_to_lets_the_loop_wait() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.folder("a/b");
        let (_, told) = watch_with(&lp, &folder.0, recursive());
        some_turns(&lp);
        assert_eq!(lp.backend_timeout(), None);
        // Also when half of a rename was told.
        let outside = Folder::new();
        fs::rename(folder.at("a"), outside.at("a")).unwrap();
        assert_eq!(until(&lp, &told, "removed a/"), ["removed a/"]);
        some_turns(&lp);
        assert_eq!(lp.backend_timeout(), None);
    });
}
