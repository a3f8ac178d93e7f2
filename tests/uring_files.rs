//! Files on a loop over io_uring: what waits for a disk is the kernel's to do, without a thread, and whoever closes, cancels,
//! forks or drops the loop meanwhile finds what he would find with threads.
#![cfg(all(target_os = "linux", feature = "fs"))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::{self as system, OpenOptions as SystemOptions};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::rc::Rc;

use common::*;
use kolo::fs::{self, Transferred};
use kolo::{Code, Error, File, Loop, LoopOptions, Pool, PoolOptions, Request, Result, RunMode};

const BLOCK: usize = 4096;

/// What may be with the kernel at the same time (`UNDER_WAY_MAX`).
const UNDER_WAY_MAX: usize = 128;

fn loop_with(pool: PoolOptions) -> Loop {
    Loop::with_options(LoopOptions {
        driver: Some("uring".to_owned()),
        pool: Some(Pool::new(pool)),
        ..LoopOptions::default()
    })
    .unwrap()
}

/// Runs the test on the driver, where there is one, with a file of so many blocks that is used around the kernel's
/// memory, where the file system can do that.
#[track_caller]
fn on_uring(blocks: usize, test: impl FnOnce(Loop, &Disk)) {
    if !has_uring() {
        return;
    }
    let _limit = TimeLimit::start(std::panic::Location::caller().to_string());
    let disk = Disk::new(blocks);
    if let Some(disk) = disk {
        test(loop_with(PoolOptions::default()), &disk);
    }
}

/// A file whose blocks can be told apart, in a folder that goes with it.
struct Disk {
    folder: PathBuf,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Disk {
    fn new(blocks: usize) -> Option<Disk> {
        let prefix = std::env::temp_dir().join("kolo-test-");
        let folder = fs::mkdtemp(prefix).wait().unwrap();
        let path = folder.join("blocks");
        let bytes: Vec<u8> = (0..blocks)
            .flat_map(|number| {
                let number = number as u32;
                number.to_le_bytes().into_iter().cycle().take(BLOCK)
            })
            .collect();
        system::write(&path, &bytes).unwrap();
        let disk = Disk {
            folder,
            path,
            bytes,
        };
        let mut memory = aligned();
        memory.resize(BLOCK, 0);
        let read = disk.direct().and_then(|file| file.read_at(&mut memory, 0));
        if read.is_err() {
            eprintln!("skipped: this file system has no O_DIRECT, or not by so small sectors");
            return None;
        }
        Some(disk)
    }

    fn direct(&self) -> std::io::Result<system::File> {
        let mut options = SystemOptions::new();
        options.read(true).write(true);
        options.custom_flags(libc::O_DIRECT).open(&self.path)
    }

    fn open(&self, lp: &Loop) -> File {
        File::adopt(lp, self.direct().unwrap()).unwrap()
    }
}

impl Disk {
    fn block(&self, number: usize) -> &[u8] {
        &self.bytes[number * BLOCK..(number + 1) * BLOCK]
    }

    fn now(&self) -> Vec<u8> {
        system::read(&self.path).unwrap()
    }

    /// Opens the file, of which the kernel has forgotten what it had in memory, if it does that.
    fn cold(&self) -> system::File {
        let file = system::File::open(&self.path).unwrap();
        file.sync_all().unwrap();
        for advice in [libc::POSIX_FADV_DONTNEED, libc::POSIX_FADV_RANDOM] {
            // SAFETY: advice on an open descriptor.
            let outcome = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
            assert_eq!(outcome, 0);
        }
        file
    }

    /// Whether the last block can be read without waiting, where that can be asked (not of tmpfs).
    fn is_cached(&self, file: &system::File) -> Option<bool> {
        let mut byte = 0u8;
        let vector = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        let at = self.bytes.len() as libc::off_t - 1;
        // SAFETY: a byte of this function's own.
        let read = unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, at, libc::RWF_NOWAIT) };
        let waits = || std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock;
        (read == 1 || waits()).then_some(read == 1)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = system::remove_dir_all(&self.folder);
    }
}

/// What memory for O_DIRECT begins at a multiple of: a sector of most disks.
const SECTOR: usize = 512;

/// Has what is as large as a block begin where O_DIRECT wants it to.
struct Aligning;

// SAFETY: the system's allocator, each time with the same layout for the same memory.
unsafe impl GlobalAlloc for Aligning {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: promised by the caller.
        unsafe { System.alloc(aligned_as(layout)) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller; allocated above with this layout.
        unsafe { System.dealloc(memory, aligned_as(layout)) }
    }
}

fn aligned_as(layout: Layout) -> Layout {
    match layout.size() {
        ..BLOCK => layout,
        _ => layout.align_to(SECTOR).unwrap_or(layout),
    }
}

#[global_allocator]
static MEMORY: Aligning = Aligning;

/// Room for a block.
fn aligned() -> Vec<u8> {
    Vec::with_capacity(BLOCK)
}

fn read(
    lp: &Loop,
    file: File,
    block: usize,
    done: impl FnOnce(&Loop, Transferred<Vec<u8>>) + 'static,
) -> Request {
    let offset = (block * BLOCK) as u64;
    file.read(lp, offset, aligned(), done).unwrap()
}

/// How many threads for files this process has.
fn file_threads() -> usize {
    let tasks = system::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| system::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "kolo-files").count()
}

type Outcomes = Shared<Vec<Result<()>>>;

fn tell(told: &Outcomes) -> impl FnOnce(&Loop, Transferred<Vec<u8>>) + 'static {
    let told = told.clone();
    move |_, read| told.push(read.outcome)
}

/// The codes of what was told: with errors of the system's, its own number goes along.
fn codes(told: &Outcomes) -> Vec<Option<Code>> {
    let told = told.take().into_iter();
    told.map(|it| it.err().map(|error| error.code())).collect()
}

#[test]
fn what_waits_for_a_disk_is_read_and_written_without_a_thread() {
    in_own_process!(|| on_uring(64, |lp, disk| {
        let file = disk.open(&lp);
        let left = Rc::new(Cell::new(64));
        for block in 0..64 {
            let (left, expected) = (left.clone(), disk.block(block).to_vec());
            read(&lp, file, block, move |_, read| {
                assert_eq!((read.outcome, read.length), (Ok(()), BLOCK));
                assert!(read.buffer == expected, "block {block}");
                left.set(left.get() - 1);
            });
        }
        assert_eq!(left.get(), 64, "not inside the call");
        run_to_end(&lp);
        assert_eq!(left.get(), 0);
        let mut memory = aligned();
        memory.resize(BLOCK, 7);
        let written = Shared::new(0);
        let set = written.clone();
        file.write(&lp, BLOCK as u64, memory, move |_, it| {
            assert_eq!((it.outcome, &it.buffer[..]), (Ok(()), &[7; BLOCK][..]));
            set.set(it.length);
        })
        .unwrap();
        run_to_end(&lp);
        assert_eq!(written.get(), BLOCK);
        assert_eq!(file_threads(), 0);
        assert_eq!(&disk.now()[BLOCK..2 * BLOCK], [7; BLOCK]);
        assert_eq!(&disk.now()[2 * BLOCK..], &disk.bytes[2 * BLOCK..]);
    }));
}

#[test]
fn what_was_written_is_put_on_the_disk_without_a_thread() {
    in_own_process!(|| on_uring(4, |lp, disk| {
        let file = disk.open(&lp);
        let told = Outcomes::default();
        let (all, data) = (told.clone(), told.clone());
        file.fsync(&lp)
            .start(&lp, move |_, outcome| all.push(outcome))
            .unwrap();
        file.fdatasync(&lp)
            .start(&lp, move |_, outcome| data.push(outcome))
            .unwrap();
        run_to_end(&lp);
        assert_eq!(told.take(), [Ok(()), Ok(())]);
        assert_eq!(file_threads(), 0);
        let (reader, _writer) = std::io::pipe().unwrap();
        let pipe = File::adopt(&lp, OwnedFd::from(reader)).unwrap();
        let refused = told.clone();
        pipe.fsync(&lp)
            .start(&lp, move |_, outcome| refused.push(outcome))
            .unwrap();
        run_to_end(&lp);
        assert_eq!(codes(&told), [Some(Code::EINVAL)]);
    }));
}

#[test]
fn what_the_kernel_has_not_in_memory_is_read_without_a_thread() {
    in_own_process!(|| on_uring(256, |lp, disk| {
        let file = disk.cold();
        let Some(is_cached) = disk.is_cached(&file) else {
            eprintln!("skipped: this file system does not say what would wait");
            return;
        };
        let file = File::adopt(&lp, file).unwrap();
        let left = Rc::new(Cell::new(256));
        for block in (0..256).rev() {
            let (left, expected) = (left.clone(), disk.block(block).to_vec());
            let offset = (block * BLOCK) as u64;
            file.read(&lp, offset, Vec::with_capacity(BLOCK), move |_, read| {
                assert_eq!(read.outcome, Ok(()));
                assert!(read.buffer == expected, "block {block}");
                left.set(left.get() - 1);
            })
            .unwrap();
        }
        run_to_end(&lp);
        assert_eq!(left.get(), 0);
        assert_eq!(file_threads(), 0, "from a disk: {}", !is_cached);
    }));
}

#[test]
fn several_pieces_are_one_transfer() {
    on_uring(8, |lp, disk| {
        let file = disk.open(&lp);
        let rooms = (0..5).map(|_| aligned()).collect();
        let expected = disk.bytes[2 * BLOCK..7 * BLOCK].to_vec();
        let read = Shared::new(0);
        let set = read.clone();
        file.read_vectored(&lp, 2 * BLOCK as u64, rooms, move |_, it| {
            assert_eq!(it.outcome, Ok(()));
            assert!(it.buffer.concat() == expected);
            set.set(it.length);
        })
        .unwrap();
        run_to_end(&lp);
        assert_eq!(read.get(), 5 * BLOCK);
        let pieces: Vec<Vec<u8>> = [1, 2, 3]
            .map(|byte| {
                let mut piece = aligned();
                piece.resize(BLOCK, byte);
                piece
            })
            .into();
        file.write_vectored(&lp, 4 * BLOCK as u64, pieces, |_, it| {
            assert_eq!((it.outcome, it.length), (Ok(()), 3 * BLOCK));
        })
        .unwrap();
        run_to_end(&lp);
        let written: Vec<u8> = [1, 2, 3].iter().flat_map(|byte| [*byte; BLOCK]).collect();
        assert!(disk.now()[4 * BLOCK..7 * BLOCK] == written);
    });
}

#[test]
fn a_read_ends_where_the_file_ends() {
    on_uring(3, |lp, disk| {
        // Not at the end of a block.
        let end = 2 * BLOCK + 100;
        let options = SystemOptions::new().write(true).open(&disk.path);
        options.unwrap().set_len(end as u64).unwrap();
        let file = disk.open(&lp);
        for (block, length) in [(2, 100), (3, 0), (1000, 0)] {
            let expected = disk.bytes[2 * BLOCK..2 * BLOCK + length].to_vec();
            read(&lp, file, block, move |_, read| {
                assert_eq!((read.outcome, read.length), (Ok(()), length));
                assert!(read.buffer == expected, "block {block}");
            });
            run_to_end(&lp);
        }
        // A part of what is asked for.
        let rooms = (0..3).map(|_| aligned()).collect();
        file.read_vectored(&lp, BLOCK as u64, rooms, |_, read| {
            assert_eq!((read.outcome, read.length), (Ok(()), BLOCK + 100));
            let lengths: Vec<_> = read.buffer.iter().map(Vec::len).collect();
            assert_eq!(lengths, [BLOCK, 100, 0]);
        })
        .unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn errors_are_those_of_the_calls() {
    on_uring(2, |lp, disk| {
        let file = disk.open(&lp);
        let told = Outcomes::default();
        // O_DIRECT wants whole sectors; an offset must be one, unless the file is in memory (tmpfs).
        let mut memory = aligned();
        memory.resize(BLOCK, 0);
        let expected = disk.direct().unwrap().read_at(&mut memory, 1).map(drop);
        file.read(&lp, 1, aligned(), tell(&told)).unwrap();
        run_to_end(&lp);
        let expected = expected.map_err(|error| Error::from(error).code());
        assert_eq!(codes(&told), [expected.err()]);
        file.read(&lp, u64::MAX - 5, aligned(), tell(&told))
            .unwrap();
        run_to_end(&lp);
        let write_only = SystemOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&disk.path);
        let write_only = File::adopt(&lp, write_only.unwrap()).unwrap();
        write_only.read(&lp, 0, aligned(), tell(&told)).unwrap();
        run_to_end(&lp);
        let expected = [Code::EINVAL, Code::EBADF];
        assert_eq!(codes(&told), expected.map(Some));
    });
}

#[test]
fn what_is_appended_goes_to_the_end_in_whatever_place_it_is_written() {
    on_uring(2, |lp, disk| {
        let file = SystemOptions::new()
            .append(true)
            .custom_flags(libc::O_DIRECT)
            .open(&disk.path);
        let file = File::adopt(&lp, file.unwrap()).unwrap();
        for byte in 1..=3 {
            let mut memory = aligned();
            memory.resize(BLOCK, byte);
            file.write(&lp, 0, memory, |_, written| {
                assert_eq!((written.outcome, written.length), (Ok(()), BLOCK));
            })
            .unwrap();
            run_to_end(&lp);
        }
        let appended: Vec<u8> = [1, 2, 3].iter().flat_map(|byte| [*byte; BLOCK]).collect();
        assert!(disk.now() == [&disk.bytes[..], &appended].concat());
    });
}

#[test]
fn a_file_that_may_not_grow_says_so_and_no_signal_comes() {
    in_own_process!(|| on_uring(2, |lp, disk| {
        let file = disk.open(&lp);
        let limit = libc::rlimit {
            rlim_cur: 2 * BLOCK as libc::rlim_t,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: a limit of this process's own.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        let told = Outcomes::default();
        let mut memory = aligned();
        memory.resize(BLOCK, 1);
        file.write(&lp, 2 * BLOCK as u64, memory, tell(&told))
            .unwrap();
        run_to_end(&lp);
        assert_eq!(codes(&told), [Some(Code::EFBIG)]);
    }));
}

#[test]
fn more_requests_than_the_ring_holds_are_all_told_once() {
    on_uring(512, |lp, disk| {
        let file = disk.open(&lp);
        let bytes: Rc<[u8]> = disk.bytes.clone().into();
        let count = Rc::new(Cell::new(0));
        let all = count.clone();
        // All in one callback, so that none is handed over before the last one is asked for.
        in_callback(&lp, move |lp| {
            for number in 0..1500 {
                let (count, bytes) = (all.clone(), bytes.clone());
                let block = number * 7 % 512;
                read(lp, file, block, move |_, read| {
                    assert_eq!(read.outcome, Ok(()));
                    let at = block * BLOCK;
                    assert!(read.buffer == bytes[at..at + BLOCK], "block {block}");
                    count.set(count.get() + 1);
                });
            }
        });
        run_to_end(&lp);
        assert_eq!(count.get(), 1500);
    });
}

#[test]
fn as_many_wait_as_the_pool_lets_wait() {
    on_uring(1, |_, disk| {
        let lp = loop_with(PoolOptions {
            queue_capacity: NonZeroU32::new(10).unwrap(),
            ..PoolOptions::default()
        });
        let file = disk.open(&lp);
        let told = Outcomes::default();
        let mut started = 0;
        let error = loop {
            match file.read(&lp, 0, aligned(), tell(&told)) {
                Ok(_) => started += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((error.code(), started), (Code::ENOBUFS, UNDER_WAY_MAX + 10));
        run_to_end(&lp);
        assert_eq!(told.take(), vec![Ok(()); started]);
        // Those that were taken back wait no more.
        let requests: Vec<Request> = (0..UNDER_WAY_MAX + 10)
            .map(|_| read(&lp, file, 0, tell(&told)))
            .collect();
        requests[UNDER_WAY_MAX + 3].cancel(&lp).unwrap();
        read(&lp, file, 0, tell(&told));
        run_to_end(&lp);
        assert_eq!(told.take().len(), started + 1);
    });
}

#[test]
fn what_waits_is_taken_back_and_what_the_kernel_has_is_not() {
    on_uring(1, |lp, disk| {
        let file = disk.open(&lp);
        let told = Outcomes::default();
        let requests: Vec<Request> = (0..UNDER_WAY_MAX + 20)
            .map(|_| read(&lp, file, 0, tell(&told)))
            .collect();
        assert_eq!(requests[0].has_begun(&lp), Ok(true));
        assert_eq!(code(requests[0].cancel(&lp)), Code::EBUSY);
        let last = requests.last().unwrap();
        assert_eq!(last.has_begun(&lp), Ok(false));
        for request in &requests[UNDER_WAY_MAX..] {
            assert_eq!(request.cancel(&lp), Ok(()));
            assert_eq!(code(request.cancel(&lp)), Code::EBUSY);
        }
        assert!(told.is_empty(), "not inside the call");
        run_to_end(&lp);
        let told = told.take();
        let canceled = told.iter().filter(|it| **it == Err(Code::ECANCELED.into()));
        assert_eq!((told.len(), canceled.count()), (UNDER_WAY_MAX + 20, 20));
        assert_eq!(code(last.cancel(&lp)), Code::EBADF);
    });
}

#[test]
fn a_request_that_is_closed_with_the_kernel_is_canceled_when_that_is_through() {
    on_uring(1, |lp, disk| {
        let file = disk.open(&lp);
        let told = Outcomes::default();
        let closed = Shared::new(0);
        let requests: Vec<Request> = (0..UNDER_WAY_MAX + 5)
            .map(|_| read(&lp, file, 0, tell(&told)))
            .collect();
        lp.close(file).unwrap();
        for request in requests {
            let (count, told) = (closed.clone(), told.clone());
            lp.on_close(request, move |_, _| {
                count.add();
                assert_eq!(told.len(), count.get(), "after its outcome");
            })
            .unwrap();
            lp.close(request).unwrap();
            assert_eq!(code(request.cancel(&lp)), Code::EBADF);
        }
        assert!(told.is_empty());
        run_to_end(&lp);
        let all = vec![Err(Code::ECANCELED.into()); UNDER_WAY_MAX + 5];
        assert_eq!((told.take(), closed.get()), (all, UNDER_WAY_MAX + 5));
    });
}

#[test]
fn a_loop_that_is_dropped_waits_for_the_kernel_and_cancels_all() {
    on_uring(300, |lp, disk| {
        let file = disk.open(&lp);
        let at = file.descriptor(&lp).unwrap();
        let told = Outcomes::default();
        for block in 0..300 {
            read(&lp, file, block, tell(&told));
        }
        let mut memory = aligned();
        memory.resize(BLOCK, 1);
        file.write(&lp, 0, memory, tell(&told)).unwrap();
        drop(lp);
        assert_eq!(told.take(), vec![Err(Code::ECANCELED.into()); 301]);
        // Nobody holds the descriptor any more; a thread may be at closing it.
        let path = format!("/proc/self/fd/{at}");
        while system::read_link(&path).is_ok_and(|file| file == disk.path) {
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_loop_that_is_dropped_in_a_turn_loses_nothing() {
    on_uring(300, |lp, disk| {
        let file = disk.open(&lp);
        let told = Outcomes::default();
        let count = told.clone();
        // Some are over, some with the kernel, some wait.
        for block in 0..300 {
            read(&lp, file, block, tell(&told));
        }
        run_until(&lp, || !count.is_empty());
        drop(lp);
        let told = told.take();
        assert_eq!(told.len(), 300);
        let known = [Ok(()), Err(Code::ECANCELED.into())];
        assert!(told.iter().all(|it| known.contains(it)), "{told:?}");
    });
}

#[test]
fn a_panic_in_a_callback_loses_none_of_the_others() {
    on_uring(20, |lp, disk| {
        let file = disk.open(&lp);
        let count = Rc::new(Cell::new(0));
        for block in 0..20 {
            let count = count.clone();
            read(&lp, file, block, move |_, read| {
                count.set(count.get() + 1);
                assert_eq!(read.length, BLOCK);
                assert_ne!(count.get(), 7, "on purpose");
            });
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::Default)));
        assert!(outcome.is_err());
        run_to_end(&lp);
        assert_eq!(count.get(), 20);
    });
}

#[test]
fn callbacks_start_others_for_ever_and_timers_have_their_turn() {
    on_uring(16, |lp, disk| {
        fn again(lp: &Loop, file: File, memory: Vec<u8>, stop: Rc<Cell<bool>>) {
            let offset = 3 * BLOCK as u64;
            file.read(lp, offset, memory, move |lp, read| {
                assert_eq!((read.outcome, read.length), (Ok(()), BLOCK));
                if !stop.get() {
                    again(lp, file, read.buffer, stop);
                }
            })
            .unwrap();
        }
        let file = disk.open(&lp);
        let stop = Rc::new(Cell::new(false));
        for _ in 0..8 {
            again(&lp, file, aligned(), stop.clone());
        }
        run_for(&lp, std::time::Duration::from_millis(30));
        stop.set(true);
        run_to_end(&lp);
    });
}

#[test]
fn with_one_thread_for_files_the_order_is_kept_by_that_thread() {
    in_own_process!(|| on_uring(1, |_, disk| {
        let lp = loop_with(PoolOptions {
            file_threads: NonZeroU32::new(1).unwrap(),
            ..PoolOptions::default()
        });
        let file = disk.open(&lp);
        let order = Shared::<Vec<u8>>::default();
        for number in 0..50 {
            let order = order.clone();
            let mut memory = aligned();
            memory.resize(BLOCK, number);
            file.write(&lp, 0, memory, move |_, written| {
                assert_eq!(written.outcome, Ok(()));
                order.push(number);
            })
            .unwrap();
        }
        run_to_end(&lp);
        assert_eq!(order.take(), (0..50).collect::<Vec<u8>>());
        assert_eq!(file_threads(), 1);
        assert_eq!(disk.now()[0], 49);
    }));
}

#[test]
fn in_a_forked_child_they_are_canceled_and_the_parents_go_on() {
    in_own_process!(|| on_uring(UNDER_WAY_MAX + 20, |lp, disk| {
        let file = disk.open(&lp);
        let told = Outcomes::default();
        let bytes: Rc<[u8]> = disk.bytes.clone().into();
        for block in 0..UNDER_WAY_MAX + 20 {
            let (told, bytes) = (told.clone(), bytes.clone());
            read(&lp, file, block, move |_, read| {
                let at = block * BLOCK;
                assert!(read.outcome.is_err() || read.buffer == bytes[at..at + BLOCK]);
                told.push(read.outcome);
            });
        }
        // SAFETY: the child ends by itself, without anybody's destructors.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                lp.forked().unwrap();
                run_to_end(&lp);
                let canceled = vec![Err(Code::ECANCELED.into()); UNDER_WAY_MAX + 20];
                assert_eq!(told.take(), canceled);
                read(&lp, file, 2, |_, read| assert_eq!(read.length, BLOCK));
                run_to_end(&lp);
                drop(lp);
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
        run_to_end(&lp);
        assert_eq!(told.take(), vec![Ok(()); UNDER_WAY_MAX + 20]);
    }));
}

#[test]
fn a_forked_child_may_drop_the_loop_with_all_that_is_under_way() {
    in_own_process!(|| on_uring(200, |lp, disk| {
        let file = disk.open(&lp);
        let told = Outcomes::default();
        for block in 0..200 {
            read(&lp, file, block, tell(&told));
        }
        // SAFETY: as above.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(lp);
            let all = told.take() == vec![Err(Code::ECANCELED.into()); 200];
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!all)) };
        }
        let mut status = 0;
        // SAFETY: as above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        run_to_end(&lp);
        assert_eq!(told.take(), vec![Ok(()); 200]);
    }));
}

#[test]
fn descriptors_that_run_out_while_opening_are_told() {
    in_own_process!(|| on_uring(1, |lp, disk| {
        // SAFETY: numbers, of which zeros are valid.
        let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
        limit.rlim_cur = disk.direct().unwrap().as_raw_fd() as libc::rlim_t + 20;
        limit.rlim_max = limit.rlim_cur;
        // SAFETY: a limit of this process's own.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let (told, files) = (Outcomes::default(), Shared::<Vec<File>>::default());
        for _ in 0..100 {
            let (told, files) = (told.clone(), files.clone());
            File::open(&lp, &disk.path, fs::OpenFlags::READ, move |_, file| {
                told.push(file.map(|file| files.push(file)));
            })
            .unwrap();
        }
        run_to_end(&lp);
        let opened = files.len();
        assert!(opened > 10 && opened <= 21, "{opened}");
        let codes = codes(&told);
        assert_eq!(codes.len(), 100);
        let refused = codes.iter().flatten().filter(|code| **code == Code::EMFILE);
        assert_eq!(refused.count(), 100 - opened);
        // With one less it works again.
        assert_eq!(files.take().pop().unwrap().close_sync(&lp), Ok(()));
        File::open(&lp, &disk.path, fs::OpenFlags::READ, |_, file| {
            assert!(file.is_ok());
        })
        .unwrap();
        run_to_end(&lp);
    }));
}
