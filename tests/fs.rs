//! Files, directories, and operations on names.
#![cfg(all(unix, feature = "fs"))]
// Some of it is only for what only Linux has.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

mod common;

use std::cell::{Cell, RefCell};
use std::fs as system;
use std::io::Write;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;

use common::*;
use kolo::fs::{self, CopyFlags, FileType, OpenFlags, OpenOptions, SetTime, Transferred};
use kolo::{
    Code, Directory, File, Kind, Loop, LoopOptions, Pool, PoolOptions, Request, Result, RunMode,
    WorkClass,
};

/// A folder for one test, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let prefix = std::env::temp_dir().join("kolo-test-");
        Folder(fs::mkdtemp(prefix).wait().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        system::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = system::remove_dir_all(&self.0);
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// What comes of one request: waits for it.
fn outcome<T: 'static>(lp: &Loop, start: impl FnOnce(&Loop, Slot<T>) -> Result<Request>) -> T {
    let slot = Slot::default();
    start(lp, slot.clone()).unwrap();
    assert!(slot.0.borrow().is_none(), "not inside the call");
    run_until(lp, || slot.0.borrow().is_some());
    let value = slot.0.borrow_mut().take();
    value.unwrap()
}

struct Slot<T>(Rc<RefCell<Option<T>>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot(Rc::default())
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot(self.0.clone())
    }
}

impl<T> Slot<T> {
    fn set(&self, value: T) {
        assert!(self.0.borrow_mut().replace(value).is_none(), "told once");
    }
}

fn open(lp: &Loop, path: &Path, options: impl Into<OpenOptions>) -> Result<File> {
    outcome(lp, |lp, slot| {
        File::open(lp, path, options, move |_, file| slot.set(file))
    })
}

fn read(lp: &Loop, file: File, offset: u64, room: usize) -> Transferred<Vec<u8>> {
    outcome(lp, |lp, slot| {
        file.read(lp, offset, Vec::with_capacity(room), move |_, read| {
            slot.set(read)
        })
    })
}

fn write(lp: &Loop, file: File, offset: u64, bytes: &[u8]) -> Transferred<Vec<u8>> {
    outcome(lp, |lp, slot| {
        file.write(lp, offset, bytes.to_vec(), move |_, written| {
            slot.set(written)
        })
    })
}

fn run<T: 'static>(lp: &Loop, call: fs::Call<T>) -> Result<T>
where
    fs::Call<T>: Startable<T>,
{
    outcome(lp, |lp, slot| {
        call.begin(lp, move |outcome| slot.set(outcome))
    })
}

/// Calls of every type, for `run`.
trait Startable<T> {
    fn begin(self, lp: &Loop, done: impl FnOnce(Result<T>) + 'static) -> Result<Request>;
}

macro_rules! startable {
    ($($type:ty),*) => {
        $(impl Startable<$type> for fs::Call<$type> {
            fn begin(self, lp: &Loop, done: impl FnOnce(Result<$type>) + 'static) -> Result<Request> {
                self.start(lp, move |_, outcome| done(outcome))
            }
        })*
    };
}
startable!((), u64, PathBuf, system::Metadata, fs::Space);

const ALL: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREATE);

/// One thread for files.
fn with_one_thread() -> LoopOptions {
    let one = NonZeroU32::new(1).unwrap();
    LoopOptions {
        pool: Some(Pool::new(PoolOptions {
            file_threads: one,
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Keeps the only thread for files busy until the sender is dropped.
fn occupy(lp: &Loop) -> mpsc::Sender<()> {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let work = move || {
        begun.send(()).unwrap();
        let _ = wait.recv();
    };
    lp.work_in(WorkClass::Files, work, |_, _| ()).unwrap();
    has_begun.recv().unwrap();
    go_on
}

// ---- open files ----------------------------------------------------------------------------------

#[test]
fn what_is_written_is_read_again() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.path("new"), ALL).unwrap();
        assert_eq!(lp.kind(file), Ok(Kind::File));
        assert!(!lp.is_active(file).unwrap());
        let bytes = pattern(100_000);
        let written = write(&lp, file, 0, &bytes);
        assert_eq!((written.outcome, written.length), (Ok(()), bytes.len()));
        assert_eq!(written.buffer, bytes);
        let back = read(&lp, file, 0, bytes.len());
        assert_eq!(back.buffer, bytes);
        let middle = read(&lp, file, 70_001, 100);
        assert_eq!(middle.buffer, bytes[70_001..70_101]);
        lp.close(file).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn a_read_ends_where_the_file_ends() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.file("short", b"12345"), OpenFlags::READ).unwrap();
        let end = read(&lp, file, 2, 1000);
        assert_eq!(
            (end.length, end.outcome, &end.buffer[..]),
            (3, Ok(()), &b"345"[..])
        );
        assert_eq!(read(&lp, file, 5, 10).length, 0);
        assert_eq!(read(&lp, file, 5000, 10).length, 0);
        assert_eq!(read(&lp, file, 0, 0).length, 0);
    });
}

#[test]
fn several_pieces_are_read_and_written_as_one() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.path("pieces"), ALL).unwrap();
        // More than one call takes.
        let pieces: Vec<_> = (0..200u8).map(|n| vec![n; usize::from(n % 7)]).collect();
        let all: Vec<u8> = pieces.concat();
        let written = outcome(&lp, |lp, slot| {
            let pieces = pieces.clone();
            file.write_vectored(lp, 3, pieces, move |_, written| slot.set(written))
        });
        assert_eq!((written.length, written.outcome), (all.len(), Ok(())));
        assert_eq!(written.buffer, pieces);
        let rooms = (0..1000).map(|_| Vec::with_capacity(8)).collect();
        let back = outcome(&lp, |lp, slot| {
            file.read_vectored(lp, 3, rooms, move |_, read| slot.set(read))
        });
        assert_eq!(back.length, all.len());
        assert_eq!(back.buffer.concat(), all);
    });
}

#[test]
fn many_reads_are_under_way_at_once_and_each_is_told_once() {
    each_driver(|lp| {
        let folder = Folder::new();
        let bytes = pattern(1 << 20);
        let file = open(&lp, &folder.file("large", &bytes), OpenFlags::READ).unwrap();
        let bytes = Rc::new(bytes);
        let left = Rc::new(Cell::new(3000));
        for number in 0..left.get() {
            let offset = number * 4099 % (1 << 20);
            // Some through the kernel's memory, some by the pool.
            let room = if number % 10 == 0 { 100_000 } else { 4096 };
            let (left, bytes) = (left.clone(), bytes.clone());
            let done = move |_: &Loop, read: Transferred<Vec<u8>>| {
                left.set(left.get() - 1);
                let end = (offset + room).min(bytes.len());
                assert!(read.buffer == bytes[offset..end], "{offset}");
            };
            file.read(&lp, offset as u64, Vec::with_capacity(room), done)
                .unwrap();
        }
        run_to_end(&lp);
        assert_eq!(left.get(), 0);
    });
}

#[test]
fn a_chain_of_reads_leaves_the_loop_to_others() {
    each_driver(|lp| {
        fn again(lp: &Loop, file: File, count: Rc<Cell<u32>>) {
            file.read(lp, 0, Vec::with_capacity(4), move |lp, read| {
                if read.outcome.is_err() {
                    return; // the loop is dropped
                }
                assert_eq!(read.buffer, b"data");
                count.set(count.get() + 1);
                again(lp, file, count);
            })
            .unwrap();
        }
        let folder = Folder::new();
        let file = open(&lp, &folder.file("chain", b"data"), OpenFlags::READ).unwrap();
        let count = Rc::new(Cell::new(0));
        again(&lp, file, count.clone());
        let before = lp.metrics().turns;
        run_for(&lp, std::time::Duration::from_millis(20));
        let turns = lp.metrics().turns - before;
        assert!(count.get() > 0);
        assert!(u64::from(count.get()) <= 2 * turns + 2, "a turn for each");
    });
}

#[test]
fn a_closed_file_is_refused_and_what_was_under_way_is_done() {
    each_driver_with(with_one_thread, |lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.path("closed"), ALL).unwrap();
        let busy = occupy(&lp);
        // A write waits for a thread where the file system cannot say whether it would wait.
        let slot = Slot::default();
        let told = slot.clone();
        file.write(&lp, 0, pattern(100_000), move |_, written| {
            told.set(written.outcome.map(|()| written.length));
        })
        .unwrap();
        lp.close(file).unwrap();
        assert_eq!(code(lp.close(file)), Code::EBADF);
        assert_eq!(
            code(file.read(&lp, 0, Vec::with_capacity(1), |_, _| panic!("not called"))),
            Code::EBADF
        );
        assert_eq!(code(file.stat(&lp).wait()), Code::EBADF);
        assert_eq!(
            code(file.fsync(&lp).start(&lp, |_, _| panic!("not called"))),
            Code::EBADF
        );
        drop(busy);
        run_to_end(&lp);
        assert_eq!(slot.0.take(), Some(Ok(100_000)));
        let there = system::read(folder.path("closed")).unwrap();
        assert_eq!(there, pattern(100_000));
    });
}

#[test]
fn a_file_is_closed_after_its_last_operation() {
    each_driver(|lp| {
        let folder = Folder::new();
        for flags in [OpenFlags::READ, ALL] {
            let file = open(&lp, &folder.file("fd", b"x"), flags).unwrap();
            let descriptor = file.descriptor(&lp).unwrap();
            assert_eq!(read(&lp, file, 0, 1).buffer, b"x");
            let closed = Rc::new(Cell::new(false));
            let set = closed.clone();
            lp.on_close(file, move |_, _| set.set(true)).unwrap();
            lp.close(file).unwrap();
            run_until(&lp, || closed.get());
            // On another thread, where that might have to wait.
            while is_this_file(descriptor, &folder.path("fd")) {
                std::thread::yield_now();
            }
        }
    });
}

fn is_this_file(descriptor: i32, path: &Path) -> bool {
    let open = system::metadata(format!("/dev/fd/{descriptor}"));
    let there = system::metadata(path).unwrap();
    open.is_ok_and(|open| open.ino() == there.ino() && open.dev() == there.dev())
}

#[test]
fn closing_by_request_tells_what_close_says() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.path("asked"), ALL).unwrap();
        let closed = Rc::new(Cell::new(false));
        let set = closed.clone();
        lp.on_close(file, move |_, _| set.set(true)).unwrap();
        let told = outcome(&lp, |lp, slot| {
            let request = file.close(lp, move |_, outcome| slot.set(outcome));
            assert_eq!(code(file.fsync(lp).wait()), Code::EBADF);
            request
        });
        assert_eq!(told, Ok(()));
        run_to_end(&lp);
        assert!(closed.get());
        let file = open(&lp, &folder.path("asked"), ALL).unwrap();
        assert_eq!(file.close_sync(&lp), Ok(()));
        assert_eq!(code(file.close_sync(&lp)), Code::EBADF);
    });
}

#[test]
fn a_write_that_the_disk_has_no_room_for_says_how_much_it_wrote() {
    // Where files may not be as large as that, the system says so in the middle of the write.
    in_own_process!(|| {
        let lp = Loop::new().unwrap();
        let folder = Folder::new();
        let file = open(&lp, &folder.path("limited"), ALL).unwrap();
        // SAFETY: a limit and a signal of this process's own.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit {
                rlim_cur: 100_000,
                rlim_max: libc::RLIM_INFINITY,
            };
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
        let written = write(&lp, file, 50_000, &pattern(80_000));
        assert_eq!(written.length, 50_000);
        assert_eq!(code(written.outcome), Code::EFBIG);
        assert_eq!(written.buffer.len(), 80_000);
    });
}

#[test]
fn a_full_disk_is_told_with_what_was_written() {
    let Some(disk) = TinyDisk::mount() else {
        return;
    };
    each_driver(|lp| {
        let path = disk.0.path("full");
        let file = open(&lp, &path, ALL).unwrap();
        let written = write(&lp, file, 0, &pattern(4 << 20));
        assert_eq!(code(written.outcome), Code::ENOSPC);
        assert!(written.length > 0 && written.length < 4 << 20);
        assert_eq!(
            system::metadata(&path).unwrap().len(),
            written.length as u64
        );
        lp.close(file).unwrap();
        run_to_end(&lp);
        system::remove_file(&path).unwrap();
        // A copy that does not fit leaves nothing.
        let folder = Folder::new();
        let source = folder.file("source", &pattern(4 << 20));
        let copied = run(&lp, fs::copy(&source, &path, CopyFlags::empty()));
        assert_eq!(code(copied), Code::ENOSPC);
        assert!(!path.exists());
    });
}

/// A file system of a megabyte.
struct TinyDisk(Folder);

impl TinyDisk {
    fn mount() -> Option<TinyDisk> {
        let folder = Folder::new();
        #[cfg(target_os = "linux")]
        {
            let at = std::ffi::CString::new(folder.0.to_str().unwrap()).unwrap();
            // SAFETY: C strings.
            let mounted = unsafe {
                let options = c"size=1m".as_ptr().cast();
                libc::mount(c"none".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), 0, options)
            };
            if mounted == 0 {
                return Some(TinyDisk(folder));
            }
        }
        eprintln!("skipped: no file system can be mounted here");
        drop(folder);
        None
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        {
            let at = std::ffi::CString::new(self.0 .0.to_str().unwrap()).unwrap();
            // SAFETY: a C string.
            unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

#[test]
fn opening_tells_the_systems_errors() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = folder.file("file", b"");
        system::create_dir(folder.path("folder")).unwrap();
        std::os::unix::fs::symlink("loop", folder.path("loop")).unwrap();
        std::os::unix::fs::symlink("file", folder.path("link")).unwrap();
        let long = "x".repeat(300);
        for (name, flags, expected) in [
            ("none", OpenFlags::READ, Code::ENOENT),
            ("file/below", OpenFlags::READ, Code::ENOTDIR),
            ("folder", OpenFlags::WRITE, Code::EISDIR),
            ("file", OpenFlags::DIRECTORY, Code::ENOTDIR),
            ("loop", OpenFlags::READ, Code::ELOOP),
            ("link", OpenFlags::NO_FOLLOW, Code::ELOOP),
            (&long, OpenFlags::READ, Code::ENAMETOOLONG),
            ("file", ALL | OpenFlags::EXCLUSIVE, Code::EEXIST),
        ] {
            assert_eq!(
                code(open(&lp, &folder.path(name), flags)),
                expected,
                "{name}"
            );
            let now = File::open_sync(&lp, folder.path(name), flags);
            assert_eq!(code(now), expected, "{name}");
        }
        // And those that are refused at once.
        let refused = |flags| code(File::open(&lp, &file, flags, |_, _| panic!("not called")));
        assert_eq!(refused(OpenFlags::TRUNCATE), Code::EINVAL);
        assert_eq!(refused(ALL | OpenFlags::DIRECTORY), Code::EINVAL);
        let nul = File::open(&lp, "a\0b", OpenFlags::READ, |_, _| panic!("not called"));
        assert_eq!(code(nul), Code::EINVAL);
        some_turns(&lp);
    });
}

#[test]
fn a_file_is_made_with_its_permissions_and_truncated_and_appended_to() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.path("made");
        let options = OpenOptions {
            flags: OpenFlags::WRITE | OpenFlags::EXCLUSIVE,
            mode: 0o600,
            ..Default::default()
        };
        let file = open(&lp, &path, options).unwrap();
        let mode = system::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write(&lp, file, 0, b"first");
        assert_eq!(code(read(&lp, file, 0, 1).outcome), Code::EBADF);
        lp.close(file).unwrap();
        let file = open(&lp, &path, OpenFlags::APPEND).unwrap();
        write(&lp, file, 0, b" second");
        assert_eq!(system::read(&path).unwrap(), b"first second");
        lp.close(file).unwrap();
        open(&lp, &path, OpenFlags::WRITE | OpenFlags::TRUNCATE).unwrap();
        assert_eq!(system::read(&path).unwrap(), b"");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_path_beneath_a_folder_cannot_leave_it() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.file("secret", b"secret");
        system::create_dir(folder.path("root")).unwrap();
        folder.file("root/open", b"open");
        std::os::unix::fs::symlink("../secret", folder.path("root/out")).unwrap();
        std::os::unix::fs::symlink("open", folder.path("root/in")).unwrap();
        let root = open(&lp, &folder.path("root"), OpenFlags::DIRECTORY).unwrap();
        let beneath = OpenOptions {
            flags: OpenFlags::BENEATH,
            directory: Some(root),
            ..Default::default()
        };
        if open(&lp, Path::new("open"), beneath).is_err_and(|error| error.code() == Code::ENOTSUP) {
            eprintln!("skipped: the system cannot do that");
            return;
        }
        for name in ["open", "in", "./open"] {
            let file = open(&lp, Path::new(name), beneath).unwrap();
            assert_eq!(read(&lp, file, 0, 10).buffer, b"open");
        }
        let absolute = folder.path("root/open");
        for name in ["../secret", "out", "..", absolute.to_str().unwrap()] {
            assert_eq!(
                code(open(&lp, Path::new(name), beneath)),
                Code::EXDEV,
                "{name}"
            );
        }
        let from = OpenOptions {
            directory: Some(root),
            ..Default::default()
        };
        let file = open(&lp, Path::new("../secret"), from).unwrap();
        assert_eq!(read(&lp, file, 0, 10).buffer, b"secret");
        lp.close(root).unwrap();
        let late = File::open(&lp, "open", beneath, |_, _| panic!("not called"));
        assert_eq!(code(late), Code::EBADF);
    });
}

/// Keeps all threads for files busy until the senders are dropped.
fn occupy_all(lp: &Loop) -> Vec<mpsc::Sender<()>> {
    (0..4).map(|_| occupy(lp)).collect()
}

/// Whether what is in this folder is opened without a thread once its name is in the kernel's memory: it is in the file
/// system of the root, and that is one that does not wait.
fn opens_at_once(folder: &Folder) -> bool {
    const EXT4_XFS_BTRFS_OVERLAY: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x794c_7630];
    let is_known = EXT4_XFS_BTRFS_OVERLAY.contains(&fs::statfs("/").wait().unwrap().kind);
    let at_root =
        system::metadata("/").unwrap().dev() == system::metadata(&folder.0).unwrap().dev();
    let known = cfg!(target_os = "linux") && is_known && at_root;
    if !known {
        eprintln!("skipped: it is not known whether opening waits here");
    }
    known
}

#[test]
fn a_name_in_memory_is_opened_for_reading_without_a_thread() {
    each_driver(|lp| {
        let folder = Folder::new();
        if !opens_at_once(&folder) {
            return;
        }
        let path = folder.file("known", b"known");
        let file = open(&lp, &path, OpenFlags::READ).unwrap();
        lp.close(file).unwrap();
        let at = open(&lp, &folder.0, OpenFlags::DIRECTORY).unwrap();
        let beneath = OpenOptions {
            flags: OpenFlags::BENEATH,
            directory: Some(at),
            ..Default::default()
        };
        let within = OpenOptions {
            directory: Some(at),
            ..Default::default()
        };
        let busy = occupy_all(&lp);
        for (path, options) in [
            (&path, OpenFlags::READ.into()),
            (&PathBuf::from("known"), within),
            (&PathBuf::from("known"), beneath),
        ] {
            let file = open(&lp, path, options).unwrap();
            assert_eq!(read(&lp, file, 0, 10).buffer, b"known");
            lp.close(file).unwrap();
        }
        drop(busy);
        let none = open(&lp, &folder.path("none"), OpenFlags::READ).map(drop);
        assert_eq!(code(none), Code::ENOENT);
        lp.close(at).unwrap();
        run_to_end(&lp);
    });
}

fn status_flags(lp: &Loop, file: File) -> i32 {
    // SAFETY: reads flags of an open descriptor.
    unsafe { libc::fcntl(file.descriptor(lp).unwrap(), libc::F_GETFL) }
}

#[test]
fn a_file_waits_as_it_was_asked_to_however_it_was_opened() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.file("flags", b"x");
        for _ in 0..2 {
            for (flags, waits) in [(OpenFlags::READ, true), (OpenFlags::NO_WAIT, false)] {
                let file = open(&lp, &path, flags).unwrap();
                assert_eq!(status_flags(&lp, file) & libc::O_NONBLOCK == 0, waits);
                lp.close(file).unwrap();
            }
        }
    });
}

/// A FIFO, whose name is in the kernel's memory, on a loop that has opened something before.
fn fifo(lp: &Loop, folder: &Folder) -> PathBuf {
    let known = open(lp, &folder.file("known", b""), OpenFlags::READ).unwrap();
    lp.close(known).unwrap();
    let path = folder.path("fifo");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    system::metadata(&path).unwrap();
    path
}

fn start_opening(lp: &Loop, path: &Path) -> Slot<Result<File>> {
    let slot = Slot::default();
    let told = slot.clone();
    File::open(lp, path, OpenFlags::READ, move |_, file| told.set(file)).unwrap();
    some_turns(lp);
    assert!(slot.0.borrow().is_none(), "nobody writes");
    slot
}

#[test]
fn opening_a_fifo_waits_for_one_who_writes_though_he_writes_nothing() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = fifo(&lp, &folder);
        let slot = start_opening(&lp, &path);
        let writer = system::OpenOptions::new().write(true).open(&path).unwrap();
        run_until(&lp, || slot.0.borrow().is_some());
        let file = slot.0.take().unwrap().unwrap();
        assert_eq!(status_flags(&lp, file) & libc::O_NONBLOCK, 0);
        drop(writer);
    });
}

#[test]
fn opening_a_fifo_hears_of_one_who_wrote_and_left() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = fifo(&lp, &folder);
        for bytes in [&b"gone"[..], b""] {
            let slot = start_opening(&lp, &path);
            let mut writer = system::OpenOptions::new().write(true).open(&path).unwrap();
            writer.write_all(bytes).unwrap();
            drop(writer);
            run_until(&lp, || slot.0.borrow().is_some());
            let file = slot.0.take().unwrap().unwrap();
            let brought = outcome(&lp, |lp, slot| {
                file.read_on(lp, Vec::with_capacity(10), move |_, read| {
                    slot.set(read.buffer)
                })
            });
            assert_eq!(brought, bytes);
            lp.close(file).unwrap();
            run_to_end(&lp);
        }
    });
}

#[test]
fn opening_a_fifo_meets_one_who_waits_to_write() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = fifo(&lp, &folder);
        let writing = path.clone();
        let writer = std::thread::spawn(move || {
            let mut writer = system::OpenOptions::new()
                .write(true)
                .open(writing)
                .unwrap();
            writer.write_all(b"met").unwrap();
        });
        let file = open(&lp, &path, OpenFlags::READ).unwrap();
        let brought = outcome(&lp, |lp, slot| {
            file.read_on(lp, Vec::with_capacity(10), move |_, read| {
                slot.set(read.buffer)
            })
        });
        assert_eq!(brought, b"met");
        writer.join().unwrap();
    });
}

#[test]
fn a_device_is_opened_as_ever() {
    each_driver(|lp| {
        let folder = Folder::new();
        let _ = fifo(&lp, &folder);
        let path = folder.path("null");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a C string.
        let made =
            unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)) };
        let path = if made == 0 { path } else { "/dev/null".into() };
        for _ in 0..2 {
            match open(&lp, &path, OpenFlags::READ) {
                Ok(file) => {
                    assert_eq!(status_flags(&lp, file) & libc::O_NONBLOCK, 0);
                    assert_eq!(read(&lp, file, 0, 10).length, 0);
                    lp.close(file).unwrap();
                }
                // A file system that has no devices.
                Err(error) => assert_eq!(error.code(), Code::EACCES),
            }
        }
    });
}

#[test]
fn descriptors_that_run_out_are_an_error() {
    in_own_process!(|| {
        let lp = Loop::new().unwrap();
        let folder = Folder::new();
        let path = folder.file("many", b"x");
        let first = open(&lp, &path, OpenFlags::READ).unwrap();
        limit_descriptors(first.descriptor(&lp).unwrap() as u64 + 4);
        let mut files = Vec::new();
        let error = loop {
            match open(&lp, &path, OpenFlags::READ) {
                Ok(file) => files.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), Code::EMFILE);
        let listing = outcome(&lp, |lp, slot| {
            Directory::open(lp, &folder.0, move |_, directory| slot.set(directory))
        });
        assert_eq!(code(listing), Code::EMFILE);
        // With one less it works again.
        assert_eq!(files.pop().unwrap().close_sync(&lp), Ok(()));
        assert!(open(&lp, &path, OpenFlags::READ).is_ok());
    });
}

fn limit_descriptors(count: u64) {
    // SAFETY: a limit of this process's own.
    unsafe {
        let limit = libc::rlimit {
            rlim_cur: count as libc::rlim_t,
            rlim_max: count as libc::rlim_t,
        };
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

#[test]
fn operations_on_a_file_do_what_they_say() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.path("all");
        let file = open(&lp, &path, ALL).unwrap();
        write(&lp, file, 0, b"0123456789");
        assert_eq!(run(&lp, file.fsync(&lp)), Ok(()));
        assert_eq!(run(&lp, file.fdatasync(&lp)), Ok(()));
        assert_eq!(run(&lp, file.truncate(&lp, 4)), Ok(()));
        assert_eq!(code(run(&lp, file.truncate(&lp, u64::MAX))), Code::EINVAL);
        assert_eq!(run(&lp, file.chmod(&lp, 0o640)), Ok(()));
        let times = file.utimes(&lp, SetTime::At(-5_000_000_001), SetTime::At(7_000_000_002));
        assert_eq!(run(&lp, times), Ok(()));
        assert_eq!(run(&lp, file.chown(&lp, None, None)), Ok(()));
        let found = run(&lp, file.stat(&lp)).unwrap();
        assert_eq!((found.len(), found.mode() & 0o7777), (4, 0o640));
        assert_eq!((found.atime(), found.atime_nsec()), (-6, 999_999_999));
        assert_eq!((found.mtime(), found.mtime_nsec()), (7, 2));
        let keep = file.utimes(&lp, SetTime::Keep, SetTime::Now);
        assert_eq!(keep.wait(), Ok(()));
        let found = file.stat(&lp).wait().unwrap();
        assert_eq!(found.atime(), -6);
        assert!(found.mtime() > 7);
        let wrote = file.write_sync(&lp, 4, b"now".to_vec()).unwrap();
        assert_eq!((wrote.length, wrote.outcome), (3, Ok(())));
        let back = file.read_sync(&lp, 0, Vec::with_capacity(100)).unwrap();
        assert_eq!(back.buffer, b"0123now");
    });
}

#[test]
fn a_directory_cannot_be_read_as_a_file() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.0, OpenFlags::READ).unwrap();
        assert_eq!(code(read(&lp, file, 0, 10).outcome), Code::EISDIR);
    });
}

#[test]
fn adopted_and_released_files_are_the_same() {
    each_driver(|lp| {
        let folder = Folder::new();
        let opened = system::File::open(folder.file("adopted", b"hello")).unwrap();
        let descriptor = opened.as_raw_fd();
        let file = File::adopt(&lp, opened).unwrap();
        assert_eq!(file.descriptor(&lp), Ok(descriptor));
        assert_eq!(read(&lp, file, 1, 3).buffer, b"ell");
        let back = file.release(&lp).unwrap();
        assert_eq!(back.as_raw_fd(), descriptor);
        assert_eq!(code(file.release(&lp)), Code::EBADF);
        run_to_end(&lp);
        assert!(back.metadata().is_ok(), "still open");
    });
}

#[test]
fn a_file_is_not_released_while_operations_are_under_way() {
    each_driver_with(with_one_thread, |lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.file("held", b"held"), ALL).unwrap();
        let busy = occupy(&lp);
        file.fsync(&lp).start(&lp, |_, _| ()).unwrap();
        assert_eq!(code(file.release(&lp)), Code::EBUSY);
        drop(busy);
        run_to_end(&lp);
        assert!(file.release(&lp).is_ok());
    });
}

#[test]
fn the_current_position_is_for_one_operation_at_a_time() {
    each_driver_with(with_one_thread, |lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.file("position", b"abcdef"), ALL).unwrap();
        let next = |room| {
            outcome(&lp, |lp, slot| {
                file.read_on(lp, Vec::with_capacity(room), move |_, read| {
                    slot.set(read.buffer)
                })
            })
        };
        assert_eq!(next(2), b"ab");
        assert_eq!(next(2), b"cd");
        let busy = occupy(&lp);
        let slot = Slot::default();
        let told = slot.clone();
        let first = file
            .write_on(&lp, b"EF".to_vec(), move |_, written| {
                told.set(written.outcome)
            })
            .unwrap();
        let second = file.read_on(&lp, Vec::with_capacity(1), |_, _| panic!("not called"));
        assert_eq!(code(second), Code::EBUSY);
        // At a position there is no such limit.
        file.read(&lp, 0, Vec::with_capacity(1), |_, _| ()).unwrap();
        first.cancel(&lp).unwrap();
        drop(busy);
        run_to_end(&lp);
        assert_eq!(slot.0.take(), Some(Err(Code::ECANCELED.into())));
        assert_eq!(next(10), b"ef");
    });
}

#[test]
fn a_pipe_can_be_read_as_a_file() {
    each_driver(|lp| {
        let (from, mut to) = std::io::pipe().unwrap();
        let file = File::adopt(&lp, std::os::fd::OwnedFd::from(from)).unwrap();
        assert_eq!(code(read(&lp, file, 0, 10).outcome), Code::ESPIPE);
        to.write_all(b"through").unwrap();
        let brought = outcome(&lp, |lp, slot| {
            file.read_on(lp, Vec::with_capacity(100), move |_, read| {
                slot.set(read.buffer)
            })
        });
        assert_eq!(brought, b"through", "without waiting for more");
    });
}

// ---- requests ------------------------------------------------------------------------------------

#[test]
fn what_was_not_begun_is_taken_back() {
    each_driver_with(with_one_thread, |lp| {
        let folder = Folder::new();
        let busy = occupy(&lp);
        let slot = Slot::default();
        let told = slot.clone();
        let path = folder.path("never");
        let request = fs::mkdir(&path, 0o777)
            .start(&lp, move |_, outcome| told.set(outcome))
            .unwrap();
        assert_eq!(lp.kind(request), Ok(Kind::Request));
        request.cancel(&lp).unwrap();
        assert!(slot.0.borrow().is_none());
        drop(busy);
        run_to_end(&lp);
        assert_eq!(slot.0.take(), Some(Err(Code::ECANCELED.into())));
        assert!(!path.exists());
    });
}

#[test]
fn a_read_that_is_over_cannot_be_taken_back_and_closing_it_cancels() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.file("over", b"over"), OpenFlags::READ).unwrap();
        let start = |slot: &Slot<Result<()>>| {
            let told = slot.clone();
            file.read(&lp, 0, Vec::with_capacity(4), move |_, read| {
                told.set(read.outcome)
            })
            .unwrap()
        };
        let (kept, closed) = (Slot::default(), Slot::default());
        let over = start(&kept);
        let gone = start(&closed);
        if cfg!(target_os = "linux") {
            assert_eq!(code(over.cancel(&lp)), Code::EBUSY);
        }
        lp.close(gone).unwrap();
        assert_eq!(code(gone.cancel(&lp)), Code::EBADF);
        run_to_end(&lp);
        assert_eq!(kept.0.take(), Some(Ok(())));
        assert_eq!(closed.0.take(), Some(Err(Code::ECANCELED.into())));
    });
}

#[test]
fn a_loop_that_is_dropped_cancels_what_waits() {
    each_driver_with(with_one_thread, |lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.path("dropped"), ALL).unwrap();
        let busy = occupy(&lp);
        let told: Shared<Vec<Result<()>>> = Shared::default();
        for _ in 0..3 {
            let told = told.clone();
            file.write(&lp, 0, vec![1; 100_000], move |_, written| {
                told.push(written.outcome)
            })
            .unwrap();
        }
        let listing = told.clone();
        Directory::open(&lp, &folder.0, move |_, directory| {
            listing.push(directory.map(drop));
        })
        .unwrap();
        drop(busy);
        drop(lp);
        let told = told.take();
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|it| *it == Err(Code::ECANCELED.into())));
    });
}

#[test]
fn a_panic_in_a_callback_loses_nothing() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.file("panic", b"panic"), OpenFlags::READ).unwrap();
        let count = Rc::new(Cell::new(0));
        for number in 0..5 {
            let count = count.clone();
            file.read(&lp, 0, Vec::with_capacity(5), move |_, read| {
                count.set(count.get() + 1);
                assert_eq!(read.length, 5);
                assert_ne!(number, 2, "on purpose");
            })
            .unwrap();
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::Default)));
        assert!(outcome.is_err());
        run_to_end(&lp);
        assert_eq!(count.get(), 5);
    });
}

#[test]
fn a_callback_may_close_its_file_and_ask_for_more() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.file("own", b"own"), OpenFlags::READ).unwrap();
        let slot = Slot::default();
        let told = slot.clone();
        file.read(&lp, 0, Vec::with_capacity(3), move |lp, read| {
            assert_eq!(read.buffer, b"own");
            let last = move |_: &Loop, read: Transferred<Vec<u8>>| told.set(read.buffer);
            file.read(lp, 1, Vec::with_capacity(3), last).unwrap();
            lp.close(file).unwrap();
        })
        .unwrap();
        run_to_end(&lp);
        assert_eq!(slot.0.take().unwrap(), b"wn");
    });
}

#[test]
fn files_are_used_on_in_a_forked_child() {
    in_own_process!(|| each_driver(|lp| {
        let folder = Folder::new();
        let file = open(&lp, &folder.file("forked", b"forked"), ALL).unwrap();
        let directory = Directory::open_sync(&lp, &folder.0).unwrap();
        let told: Shared<Vec<Result<()>>> = Shared::default();
        let canceled = told.clone();
        let busy = occupy(&lp);
        // SAFETY: the child ends by itself, without anybody's destructors.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                assert_eq!(code(file.fsync(&lp).start(&lp, |_, _| ())), Code::EFORKED);
                lp.forked().unwrap();
                assert_eq!(read(&lp, file, 0, 10).buffer, b"forked");
                assert_eq!(run(&lp, file.fsync(&lp)), Ok(()));
                assert_eq!(run(&lp, fs::stat(&folder.0)).map(drop), Ok(()));
                assert_eq!(read_all(&lp, directory).len(), 1);
                lp.close(file).unwrap();
                lp.close(directory).unwrap();
                run_to_end(&lp);
            }));
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(outcome.is_err())) };
        }
        let mut status = 0;
        // SAFETY: a child of this process, and a number to fill in.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "{status}"
        );
        drop(busy);
        file.fsync(&lp)
            .start(&lp, move |_, outcome| canceled.push(outcome))
            .unwrap();
        run_to_end(&lp);
        assert_eq!(told.take(), [Ok(())]);
        assert_eq!(read(&lp, file, 0, 10).buffer, b"forked");
    }));
}

// ---- names ---------------------------------------------------------------------------------------

#[test]
fn names_are_made_and_removed() {
    each_driver(|lp| {
        let folder = Folder::new();
        let at = |name| folder.path(name);
        assert_eq!(run(&lp, fs::mkdir(at("a"), 0o750)), Ok(()));
        assert_eq!(code(run(&lp, fs::mkdir(at("a"), 0o750))), Code::EEXIST);
        let mode = system::metadata(at("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0o000, "{mode:o}");
        folder.file("a/file", b"1");
        assert_eq!(code(run(&lp, fs::rmdir(at("a")))), Code::ENOTEMPTY);
        assert_eq!(run(&lp, fs::rename(at("a/file"), at("moved"))), Ok(()));
        assert_eq!(run(&lp, fs::rmdir(at("a"))), Ok(()));
        assert_eq!(code(run(&lp, fs::rmdir(at("a")))), Code::ENOENT);
        assert_eq!(code(run(&lp, fs::rmdir(at("moved")))), Code::ENOTDIR);
        assert_eq!(run(&lp, fs::link(at("moved"), at("twin"))), Ok(()));
        assert_eq!(system::metadata(at("twin")).unwrap().nlink(), 2);
        assert_eq!(run(&lp, fs::symlink("twin", at("soft"))), Ok(()));
        assert_eq!(run(&lp, fs::readlink(at("soft"))), Ok("twin".into()));
        assert_eq!(code(run(&lp, fs::readlink(at("twin")))), Code::EINVAL);
        assert!(run(&lp, fs::lstat(at("soft"))).unwrap().is_symlink());
        assert!(run(&lp, fs::stat(at("soft"))).unwrap().is_file());
        let real = run(&lp, fs::realpath(at("soft"))).unwrap();
        assert_eq!(real, system::canonicalize(at("twin")).unwrap());
        assert_eq!(run(&lp, fs::unlink(at("twin"))), Ok(()));
        assert_eq!(code(run(&lp, fs::stat(at("soft")))), Code::ENOENT);
        let made = run(&lp, fs::mkdtemp(at("tmp-"))).unwrap();
        assert!(
            made.is_dir() && made.to_str().unwrap().len() == at("tmp-").to_str().unwrap().len() + 6
        );
        if Path::new("/dev/shm").is_dir() && is_another_disk(Path::new("/dev/shm"), &folder.0) {
            let away = fs::rename(at("moved"), "/dev/shm/kolo-test-away");
            assert_eq!(code(run(&lp, away)), Code::EXDEV);
        }
    });
}

fn is_another_disk(one: &Path, other: &Path) -> bool {
    system::metadata(one).unwrap().dev() != system::metadata(other).unwrap().dev()
}

#[test]
fn attributes_are_set() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.file("attributes", b"0123456789");
        std::os::unix::fs::symlink("attributes", folder.path("link")).unwrap();
        assert_eq!(run(&lp, fs::truncate(&path, 5)), Ok(()));
        assert_eq!(run(&lp, fs::chmod(&path, 0o604)), Ok(()));
        assert_eq!(run(&lp, fs::chown(&path, None, None)), Ok(()));
        assert_eq!(
            run(&lp, fs::lchown(folder.path("link"), None, None)),
            Ok(())
        );
        let times = fs::utimes(
            &path,
            SetTime::At(1_500_000_000),
            SetTime::At(2_000_000_000),
        );
        assert_eq!(run(&lp, times), Ok(()));
        let times = fs::lutimes(
            folder.path("link"),
            SetTime::At(3_000_000_000),
            SetTime::Keep,
        );
        assert_eq!(run(&lp, times), Ok(()));
        let found = run(&lp, fs::stat(&path)).unwrap();
        assert_eq!((found.len(), found.mode() & 0o777), (5, 0o604));
        assert_eq!((found.atime(), found.atime_nsec()), (1, 500_000_000));
        assert_eq!(found.mtime(), 2);
        assert_eq!(run(&lp, fs::lstat(folder.path("link"))).unwrap().atime(), 3);
        assert_eq!(run(&lp, fs::access(&path, 4 | 2)), Ok(()));
        assert_eq!(run(&lp, fs::access(&path, 0)), Ok(()));
        assert_eq!(code(run(&lp, fs::access(&path, 1))), Code::EACCES);
        assert_eq!(
            code(run(&lp, fs::access(folder.path("none"), 0))),
            Code::ENOENT
        );
        let space = run(&lp, fs::statfs(&folder.0)).unwrap();
        assert!(space.blocks > 0 && space.block_size > 0);
        assert!(space.blocks_available <= space.blocks_free);
    });
}

#[test]
fn a_path_with_a_nul_is_refused_before_anything_happens() {
    each_driver(|lp| {
        for call in [
            fs::unlink("a\0b"),
            fs::rename("a", "b\0"),
            fs::rename("\0", "b"),
        ] {
            assert_eq!(
                code(call.start(&lp, |_, _| panic!("not called"))),
                Code::EINVAL
            );
        }
        assert_eq!(code(fs::readlink("a\0").wait()), Code::EINVAL);
        some_turns(&lp);
    });
}

#[test]
fn files_are_copied_with_their_permissions() {
    each_driver(|lp| {
        let folder = Folder::new();
        let bytes = pattern(9 << 20);
        let from = folder.file("from", &bytes);
        system::set_permissions(&from, PermissionsExt::from_mode(0o640)).unwrap();
        let to = folder.file("to", &pattern(20 << 20));
        let copied = run(&lp, fs::copy(&from, &to, CopyFlags::empty()));
        assert_eq!(copied, Ok(bytes.len() as u64));
        assert!(system::read(&to).unwrap() == bytes);
        assert_eq!(system::metadata(&to).unwrap().mode() & 0o777, 0o640);
        let exclusive = fs::copy(&from, &to, CopyFlags::EXCLUSIVE);
        assert_eq!(code(run(&lp, exclusive)), Code::EEXIST);
        let same = fs::copy(&from, folder.path("./from"), CopyFlags::empty());
        assert_eq!(code(run(&lp, same)), Code::EINVAL);
        assert_eq!(system::metadata(&from).unwrap().len(), bytes.len() as u64);
        let folders = fs::copy(&folder.0, folder.path("x"), CopyFlags::empty());
        assert_eq!(code(run(&lp, folders)), Code::EISDIR);
        let none = fs::copy(folder.path("none"), folder.path("x"), CopyFlags::empty());
        assert_eq!(code(run(&lp, none)), Code::ENOENT);
        assert!(!folder.path("x").exists());
        let empty = folder.file("empty", b"");
        assert_eq!(run(&lp, fs::copy(&empty, &to, CopyFlags::empty())), Ok(0));
        assert_eq!(system::metadata(&to).unwrap().len(), 0);
        // Shared, or refused; and then nothing is left.
        let shared = folder.path("shared");
        match run(&lp, fs::copy(&from, &shared, CopyFlags::REFLINK)) {
            Ok(_) => assert!(system::read(&shared).unwrap() == bytes),
            Err(_) => assert!(!shared.exists()),
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn files_that_the_kernel_makes_up_are_copied_whole() {
    let folder = Folder::new();
    let to = folder.path("made-up");
    let copied = fs::copy("/proc/self/status", &to, CopyFlags::empty()).wait();
    let bytes = system::read(&to).unwrap();
    assert_eq!(copied, Ok(bytes.len() as u64));
    assert!(bytes.starts_with(b"Name:"));
}

#[test]
fn a_copy_is_stopped_while_it_runs() {
    each_driver(|lp| {
        let folder = Folder::new();
        // Sparse, and long enough.
        let from = folder.file("endless", b"");
        system::File::options()
            .write(true)
            .open(&from)
            .unwrap()
            .set_len(1 << 34)
            .unwrap();
        let to = folder.path("part");
        let slot = Slot::default();
        let told = slot.clone();
        let request = fs::copy(&from, &to, CopyFlags::empty())
            .start(&lp, move |_, outcome| told.set(outcome))
            .unwrap();
        while !request.has_begun(&lp).unwrap() {
            std::thread::yield_now();
        }
        while system::metadata(&to).map_or(true, |found| found.len() == 0) {
            std::thread::yield_now();
        }
        request.cancel(&lp).unwrap();
        run_to_end(&lp);
        assert_eq!(slot.0.take(), Some(Err(Code::ECANCELED.into())));
        assert!(!to.exists());
    });
}

// ---- directories ---------------------------------------------------------------------------------

fn read_all(lp: &Loop, directory: Directory) -> Vec<(String, FileType)> {
    let mut all = Vec::new();
    loop {
        let entries = outcome(lp, |lp, slot| {
            directory.read(lp, move |_, entries| slot.set(entries))
        })
        .unwrap();
        if entries.is_empty() {
            return all;
        }
        for entry in entries.iter() {
            all.push((entry.name.to_str().unwrap().to_owned(), entry.file_type));
        }
    }
}

#[test]
fn names_of_a_directory_come_in_batches() {
    each_driver(|lp| {
        let folder = Folder::new();
        let expected: Vec<_> = (0..1000).map(|n| format!("file-{n:04}")).collect();
        for name in &expected {
            folder.file(name, b"");
        }
        let directory = outcome(&lp, |lp, slot| {
            Directory::open(lp, &folder.0, move |_, directory| slot.set(directory))
        })
        .unwrap();
        assert_eq!(lp.kind(directory), Ok(Kind::Directory));
        let first = outcome(&lp, |lp, slot| {
            directory.read(lp, move |_, entries| slot.set(entries))
        })
        .unwrap();
        assert!(first.len() > 1 && first.len() < 1000, "{}", first.len());
        let mut names: Vec<_> = first
            .iter()
            .map(|entry| entry.name.to_str().unwrap().to_owned())
            .collect();
        names.extend(read_all(&lp, directory).into_iter().map(|(name, _)| name));
        names.sort();
        assert!(names == expected);
        assert!(read_all(&lp, directory).is_empty(), "the end stays the end");
        lp.close(directory).unwrap();
        let late = directory.read(&lp, |_, _| panic!("not called"));
        assert_eq!(code(late), Code::EBADF);
        run_to_end(&lp);
    });
}

#[test]
fn a_directory_tells_what_its_names_are() {
    each_driver(|lp| {
        let folder = Folder::new();
        folder.file("file", b"");
        system::create_dir(folder.path("folder")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
        let fifo = std::ffi::CString::new(folder.path("fifo").to_str().unwrap()).unwrap();
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        assert!(system::metadata(folder.path("fifo"))
            .unwrap()
            .file_type()
            .is_fifo());
        let directory = Directory::open_sync(&lp, &folder.0).unwrap();
        let mut all = read_all(&lp, directory);
        all.sort_by(|one, other| one.0.cmp(&other.0));
        let all: Vec<_> = all
            .iter()
            .map(|(name, kind)| (name.as_str(), *kind))
            .collect();
        let expected = [
            ("fifo", FileType::Fifo),
            ("file", FileType::File),
            ("folder", FileType::Directory),
            ("link", FileType::Link),
            ("socket", FileType::Socket),
        ];
        assert_eq!(all, expected);
        // The same through an open file, again and again.
        let file = open(&lp, &folder.0, OpenFlags::DIRECTORY).unwrap();
        for _ in 0..2 {
            let directory = outcome(&lp, |lp, slot| {
                Directory::open_file(lp, file, move |_, directory| slot.set(directory))
            })
            .unwrap();
            assert_eq!(read_all(&lp, directory).len(), 5);
        }
        let entries = Directory::open_sync(&lp, &folder.0).unwrap();
        assert_eq!(entries.read_sync(&lp).unwrap().len(), 5);
    });
}

#[test]
fn one_reading_of_a_directory_is_under_way_at_a_time() {
    each_driver_with(with_one_thread, |lp| {
        let folder = Folder::new();
        folder.file("only", b"");
        let directory = Directory::open_sync(&lp, &folder.0).unwrap();
        let busy = occupy(&lp);
        let slot = Slot::default();
        let told = slot.clone();
        let request = directory
            .read(&lp, move |_, entries| {
                told.set(entries.map(|entries| entries.len()))
            })
            .unwrap();
        let second = directory.read(&lp, |_, _| panic!("not called"));
        assert_eq!(code(second), Code::EBUSY);
        assert_eq!(code(directory.read_sync(&lp).map(drop)), Code::EBUSY);
        // Taken back, nothing is lost.
        request.cancel(&lp).unwrap();
        drop(busy);
        run_to_end(&lp);
        assert_eq!(slot.0.take(), Some(Err(Code::ECANCELED.into())));
        assert_eq!(read_all(&lp, directory).len(), 1);
        // Closed while it is read.
        let slot = Slot::default();
        let told = slot.clone();
        directory
            .read(&lp, move |_, entries| {
                told.set(entries.map(|entries| entries.len()))
            })
            .unwrap();
        lp.close(directory).unwrap();
        run_to_end(&lp);
        assert_eq!(slot.0.take(), Some(Ok(0)));
    });
}

#[test]
fn a_directory_that_cannot_be_opened_says_why() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = folder.file("file", b"");
        for (path, expected) in [(folder.path("none"), Code::ENOENT), (file, Code::ENOTDIR)] {
            let opened = outcome(&lp, |lp, slot| {
                Directory::open(lp, &path, move |_, directory| slot.set(directory))
            });
            assert_eq!(code(opened), expected);
            assert_eq!(code(Directory::open_sync(&lp, &path)), expected);
        }
    });
}
