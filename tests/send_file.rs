//! Files sent over streams.
#![cfg(all(unix, feature = "net", feature = "fs"))]
// Some of it is only for what only Linux has.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

mod common;

use std::fs as system;
use std::io::{Read, Write};
use std::net::TcpStream as StdStream;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::*;
use kolo::fs::{self, OpenFlags, SentFile};
use kolo::{Code, File, Loop, LoopOptions, Pool, PoolOptions, Result, Stream, Timeout, WorkClass};

const MIB: usize = 1024 * 1024;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let prefix = std::env::temp_dir().join("kolo-test-");
        Folder(fs::mkdtemp(prefix).wait().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        system::write(&path, bytes).unwrap();
        path
    }

    /// A file with a part of the pattern, open for reading.
    fn open(&self, lp: &Loop, start: usize, length: usize) -> File {
        let path = self.file(&format!("{start}-{length}"), &pattern(start, length));
        File::open_sync(lp, path, OpenFlags::READ).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = system::remove_dir_all(&self.0);
    }
}

type Told = Shared<Vec<(u64, Result<()>)>>;

fn done(told: &Told) -> impl FnOnce(&Loop, Stream, SentFile) + 'static {
    let told = told.clone();
    move |_, _, sent| told.push((sent.length, sent.outcome))
}

/// Reads the other end to its end, on another thread.
fn reader(mut peer: StdStream) -> JoinHandle<std::io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all)?;
        Ok(all)
    })
}

#[test]
fn files_and_writes_come_in_their_order() {
    each_carrier(|lp| {
        let folder = Folder::new();
        let (stream, peer) = carried(&lp, Script::new(&Log::default()));
        let reader = reader(peer);
        let told = Told::default();
        let mut at = 0;
        let mut length = |bytes: usize| {
            at += bytes;
            (at - bytes, bytes)
        };
        // Small and large, at once and in a callback, where small writes are gathered.
        for round in 0..6 {
            let (start, bytes) = length(100);
            let before = pattern(start, bytes);
            let (start, bytes) = length([10, 20_000, 3 * MIB][round % 3]);
            let file = folder.open(&lp, start, bytes);
            let (start, after) = length(5000);
            let after = pattern(start, after);
            let told = told.clone();
            let send = move |lp: &Loop| {
                stream.write(lp, &before).unwrap();
                stream
                    .send_file(lp, file, 0, bytes as u64, done(&told))
                    .unwrap();
                lp.close(file).unwrap(); // what is under way is still sent
                stream.write(lp, &after).unwrap();
            };
            match round < 3 {
                true => send(&lp),
                false => in_callback(&lp, send),
            }
        }
        assert!(stream
            .send_file(&lp, File::from_id(stream.id()), 0, 1, |_, _, _| ())
            .is_err());
        stream.finish(&lp).unwrap();
        run_to_end(&lp);
        let all = reader.join().unwrap().unwrap();
        assert_eq!(all.len(), at);
        assert_pattern(&all, 0);
        let lengths = [10, 20_000, 3 * MIB as u64];
        let expected: Vec<_> = (0..6).map(|it| (lengths[it % 3], Ok(()))).collect();
        assert_eq!(told.take(), expected);
    });
}

#[test]
fn a_file_after_an_owned_write_of_the_same_callback_is_sent() {
    each_carrier(|lp| {
        let folder = Folder::new();
        let file = folder.open(&lp, 10, 20_000);
        let (stream, peer) = carried(&lp, Script::new(&Log::default()));
        let reader = reader(peer);
        let told = Told::default();
        let sent = told.clone();
        in_callback(&lp, move |lp| {
            stream
                .write_owned(lp, pattern(0, 10), |_, _, outcome| outcome.unwrap())
                .unwrap();
            stream.send_file(lp, file, 0, 20_000, done(&sent)).unwrap();
        });
        // Nothing else happens to the stream.
        run_until(&lp, || told.len() == 1);
        stream.finish(&lp).unwrap();
        run_to_end(&lp);
        let all = reader.join().unwrap().unwrap();
        assert_eq!(all.len(), 20_010);
        assert_pattern(&all, 0);
    });
}

#[test]
fn a_part_of_a_file_is_sent_or_all_to_its_end() {
    each_carrier(|lp| {
        let folder = Folder::new();
        let file = folder.open(&lp, 0, 100_000);
        let empty = folder.open(&lp, 0, 0);
        let (stream, peer) = carried(&lp, Script::new(&Log::default()));
        let reader = reader(peer);
        let told = Told::default();
        let send = |file: File, offset, length| {
            stream
                .send_file(&lp, file, offset, length, done(&told))
                .unwrap();
        };
        send(file, 10, 50_000);
        send(file, 50_010, 0);
        send(file, 50_010, u64::MAX);
        send(file, 100_000, u64::MAX);
        send(file, 200_000, u64::MAX);
        send(empty, 0, u64::MAX);
        stream.finish(&lp).unwrap();
        run_to_end(&lp);
        let all = reader.join().unwrap().unwrap();
        assert_eq!(all.len(), 99_990);
        assert_pattern(&all, 10);
        let lengths: Vec<_> = told.take().iter().map(|(length, _)| *length).collect();
        assert_eq!(lengths, [50_000, 0, 49_990, 0, 0, 0]);
    });
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    each_carrier(|lp| {
        let folder = Folder::new();
        let file = folder.open(&lp, 0, 10);
        let writes = File::open_sync(&lp, folder.file("w", b""), OpenFlags::WRITE).unwrap();
        let closed = folder.open(&lp, 0, 10);
        lp.close(closed).unwrap();
        let (stream, peer) = carried(&lp, Script::new(&Log::default()));
        let refused = |file, offset, length| {
            code(stream.send_file(&lp, file, offset, length, |_, _, _| panic!("not called")))
        };
        assert_eq!(refused(closed, 0, 1), Code::EBADF);
        assert_eq!(refused(writes, 0, 1), Code::EBADF);
        assert_eq!(refused(file, u64::MAX, 1), Code::EINVAL);
        assert_eq!(refused(file, 1 << 62, 1 << 62), Code::EINVAL);
        assert_eq!(refused(file, 1 << 63, u64::MAX), Code::EINVAL);
        stream.shutdown(&lp, |_, _, _| ()).unwrap();
        assert_eq!(refused(file, 0, 1), Code::EPIPE);
        lp.close(stream).unwrap();
        assert_eq!(refused(file, 0, 1), Code::EBADF);
        drop(peer);
        run_to_end(&lp);
    });
}

#[test]
fn a_file_that_becomes_shorter_breaks_the_stream() {
    each_carrier(|lp| {
        let folder = Folder::new();
        let path = folder.file("shrinks", &pattern(0, 8 * MIB));
        let file = File::open_sync(&lp, &path, OpenFlags::READ).unwrap();
        let log = Log::default();
        let (stream, mut peer) = carried(&lp, Script::new(&log));
        let told = Told::default();
        stream
            .send_file(&lp, file, 0, 8 * MIB as u64, done(&told))
            .unwrap();
        some_turns(&lp);
        assert!(told.is_empty(), "the peer takes nothing");
        system::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(7 * MIB as u64)
            .unwrap();
        let tcp = peer.peer_addr().is_ok();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            let outcome = peer.read_to_end(&mut all);
            (outcome, all.len())
        });
        run_until(&lp, || log.closed());
        let told = told.take();
        assert_eq!(told.len(), 1);
        let (sent, outcome) = told[0];
        assert_eq!(code(outcome), Code::ENODATA);
        assert_eq!(sent, 7 * MIB as u64);
        assert!(log.has(&Event::Error(Code::ENODATA)));
        let (outcome, _) = reader.join().unwrap();
        if tcp {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn a_file_is_taken_back_while_nothing_of_it_is_sent() {
    each_carrier(|lp| {
        let folder = Folder::new();
        let (one, two) = (folder.open(&lp, 0, 8 * MIB), folder.open(&lp, 0, 1000));
        let (stream, peer) = carried(&lp, Script::new(&Log::default()));
        let (first, second) = (Told::default(), Told::default());
        let send = |file, length, told: &Told| {
            let sent = stream.send_file(&lp, file, 0, length, done(told));
            sent.unwrap().1
        };
        let begun = send(one, 8 * MIB as u64, &first);
        let waiting = send(two, 1000, &second);
        stream.write(&lp, &pattern(8 * MIB, 10)).unwrap();
        assert_eq!(code(stream.cancel_write(&lp, begun)), Code::EBUSY);
        stream.cancel_write(&lp, waiting).unwrap();
        assert_eq!(code(stream.cancel_write(&lp, waiting)), Code::ENOENT);
        assert!(second.is_empty(), "not inside the call");
        assert_eq!(stream.queued(&lp), Ok(10), "bytes of files do not count");
        let reader = reader(peer);
        stream.finish(&lp).unwrap();
        run_to_end(&lp);
        let all = reader.join().unwrap().unwrap();
        assert_eq!(all.len(), 8 * MIB + 10);
        assert_pattern(&all, 0);
        assert_eq!(first.take(), [(8 * MIB as u64, Ok(()))]);
        assert_eq!(second.take(), [(0, Err(Code::ECANCELED.into()))]);
    });
}

#[test]
fn closing_the_stream_cancels_its_files() {
    each_carrier(|lp| {
        let folder = Folder::new();
        let file = folder.open(&lp, 0, 8 * MIB);
        let (stream, _peer) = carried(&lp, Script::new(&Log::default()));
        let told = Told::default();
        for _ in 0..2 {
            stream
                .send_file(&lp, file, 0, 8 * MIB as u64, done(&told))
                .unwrap();
        }
        if let Ok(Some(_)) = stream.queued(&lp).map(|queued| (queued == 0).then_some(())) {
            // A stream that has a file to send cannot be released.
            assert!(lp.is_active(stream).unwrap());
        }
        lp.close(stream).unwrap();
        assert!(told.is_empty(), "not inside the call");
        run_to_end(&lp);
        let told = told.take();
        assert!(told[0].0 > 0 && told[0].0 < 8 * MIB as u64);
        assert_eq!(told[1].0, 0);
        for (_, outcome) in told {
            assert_eq!(code(outcome), Code::ECANCELED);
        }
        // Nothing holds it any more.
        assert!(file.release(&lp).is_ok());
    });
}

#[test]
fn a_peer_that_takes_nothing_runs_into_the_timeout() {
    each_carrier(|lp| {
        let folder = Folder::new();
        let file = folder.open(&lp, 0, 8 * MIB);
        let log = Log::default();
        let (stream, _peer) = carried(&lp, Script::new(&log));
        let stall = Duration::from_millis(20);
        stream.set_timeouts(&lp, None, Some(stall)).unwrap();
        let told = Told::default();
        stream
            .send_file(&lp, file, 0, 8 * MIB as u64, done(&told))
            .unwrap();
        run_until(&lp, || log.has(&Event::Timeout(Timeout::Write)));
        assert!(told.is_empty());
        lp.close(stream).unwrap();
        run_to_end(&lp);
        assert_eq!(told.len(), 1);
    });
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    in_own_process!(|| {
        // Rust ignores SIGPIPE for its programs; others do not.
        // SAFETY: nobody else is in this process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        each_carrier(|lp| {
            let folder = Folder::new();
            let file = folder.open(&lp, 0, 8 * MIB);
            let log = Log::default();
            let (stream, peer) = carried(&lp, Script::new(&log).not_reading());
            let told = Told::default();
            drop(peer);
            for _ in 0..4 {
                // It may break before all are queued.
                let sent = stream.send_file(&lp, file, 0, 8 * MIB as u64, done(&told));
                if sent.is_err() {
                    break;
                }
            }
            run_until(&lp, || log.closed());
            let outcomes = told.take();
            assert!(!outcomes.is_empty());
            for (_, outcome) in outcomes {
                let code = code(outcome);
                assert!(matches!(code, Code::EPIPE | Code::ECONNRESET), "{code:?}");
            }
        });
    });
}

#[test]
fn no_more_files_are_queued_than_may_be() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = folder.open(&lp, 0, 8 * MIB);
        let (tcp, peer) = connected(&lp, Script::new(&Log::default()));
        let stream = Stream::from(tcp);
        let told = Told::default();
        let send = || stream.send_file(&lp, file, 0, 8 * MIB as u64, done(&told));
        for _ in 0..256 {
            send().unwrap();
        }
        assert_eq!(code(send()), Code::ENOBUFS);
        assert_eq!(code(tcp.release(&lp)), Code::EBUSY);
        lp.close(stream).unwrap();
        run_to_end(&lp);
        assert_eq!(told.len(), 256);
        drop(peer);
    });
}

/// One thread for files, and so many pieces of work that may wait.
fn small_pool(queue: u32) -> impl Fn() -> LoopOptions {
    move || LoopOptions {
        pool: Some(Pool::new(PoolOptions {
            file_threads: NonZeroU32::new(1).unwrap(),
            queue_capacity: NonZeroU32::new(queue).unwrap(),
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

/// A file of which it cannot be asked whether reading it would wait, and what is in it.
fn slow_file(lp: &Loop) -> (File, Vec<u8>) {
    let path = "/proc/self/maps";
    let file = File::open_sync(lp, path, OpenFlags::READ).unwrap();
    let bytes = file.read_sync(lp, 0, Vec::with_capacity(64)).unwrap();
    (file, bytes.buffer)
}

#[cfg(target_os = "linux")]
#[test]
fn while_a_disk_is_waited_for_the_loop_serves_others() {
    each_driver_with(small_pool(100), |lp| {
        let folder = Folder::new();
        let (slow, start) = slow_file(&lp);
        let file = folder.open(&lp, 0, 8 * MIB);
        let log = Log::default();
        let (waits, peer) = connected(&lp, Script::new(&log));
        let (other, other_peer) = connected(&lp, Script::new(&Log::default()));
        let (waits, other) = (Stream::from(waits), Stream::from(other));
        let before = lp.handles().len();
        let (told, others) = (Told::default(), Told::default());
        let busy = occupy(&lp);
        // It does not run out while a disk is waited for.
        let stall = Some(Duration::from_nanos(1));
        waits.set_timeouts(&lp, None, stall).unwrap();
        waits.write(&lp, b"before ").unwrap();
        waits.send_file(&lp, slow, 0, 64, done(&told)).unwrap();
        waits.write(&lp, b" after").unwrap();
        let (from_slow, from_other) = (reader(peer), reader(other_peer));
        other
            .send_file(&lp, file, 0, 8 * MIB as u64, done(&others))
            .unwrap();
        other.finish(&lp).unwrap();
        run_until(&lp, || !others.is_empty());
        assert_eq!(from_other.join().unwrap().unwrap().len(), 8 * MIB);
        assert!(told.is_empty());
        assert!(!log.has(&Event::Timeout(Timeout::Write)));
        assert!(
            lp.handles().len() <= before + 1,
            "kolo's own request is not listed"
        );
        waits.set_timeouts(&lp, None, None).unwrap();
        drop(busy);
        waits.finish(&lp).unwrap();
        run_to_end(&lp);
        let expected = [b"before ", &start[..], b" after"].concat();
        assert_eq!(from_slow.join().unwrap().unwrap(), expected);
        assert_eq!(told.take(), [(64, Ok(()))]);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_whose_length_nobody_knows_is_sent_to_its_end() {
    each_carrier(|lp| {
        let path = "/proc/self/status";
        let file = File::open_sync(&lp, path, OpenFlags::READ).unwrap();
        let (stream, peer) = carried(&lp, Script::new(&Log::default()));
        let reader = reader(peer);
        let told = Told::default();
        stream
            .send_file(&lp, file, 0, u64::MAX, done(&told))
            .unwrap();
        stream.finish(&lp).unwrap();
        run_to_end(&lp);
        let all = reader.join().unwrap().unwrap();
        assert!(all.starts_with(b"Name:") && all.ends_with(b"\n"));
        assert_eq!(told.take(), [(all.len() as u64, Ok(()))]);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_pool_that_takes_no_more_does_not_keep_a_file_from_being_sent() {
    each_driver_with(small_pool(1), |lp| {
        let (slow, start) = slow_file(&lp);
        let (tcp, peer) = connected(&lp, Script::new(&Log::default()));
        let stream = Stream::from(tcp);
        let reader = reader(peer);
        let busy = occupy(&lp);
        lp.work_in(WorkClass::Files, || (), |_, _| ()).unwrap();
        let refused = lp.work_in(WorkClass::Files, || (), |_, _| ());
        assert_eq!(code(refused), Code::ENOBUFS);
        let told = Told::default();
        stream.send_file(&lp, slow, 0, 64, done(&told)).unwrap();
        run_until(&lp, || !told.is_empty());
        stream.finish(&lp).unwrap();
        drop(busy);
        run_to_end(&lp);
        assert_eq!(reader.join().unwrap().unwrap(), start);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_stream_is_closed_while_a_disk_is_waited_for() {
    each_driver_with(small_pool(10), |lp| {
        let (slow, _) = slow_file(&lp);
        let (tcp, _peer) = connected(&lp, Script::new(&Log::default()));
        let stream = Stream::from(tcp);
        let busy = occupy(&lp);
        let told = Told::default();
        stream.send_file(&lp, slow, 0, 64, done(&told)).unwrap();
        some_turns(&lp);
        lp.close(stream).unwrap();
        run_until(&lp, || !told.is_empty());
        assert_eq!(told.take(), [(0, Err(Code::ECANCELED.into()))]);
        drop(busy);
        run_to_end(&lp);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_is_taken_back_while_a_disk_is_waited_for() {
    each_driver_with(small_pool(10), |lp| {
        let folder = Folder::new();
        let (slow, _) = slow_file(&lp);
        let file = folder.open(&lp, 0, 1000);
        let (tcp, peer) = connected(&lp, Script::new(&Log::default()));
        let stream = Stream::from(tcp);
        let reader = reader(peer);
        let busy = occupy(&lp);
        let told = Told::default();
        let sent = stream.send_file(&lp, slow, 0, 64, done(&told));
        stream.send_file(&lp, file, 0, 1000, done(&told)).unwrap();
        some_turns(&lp);
        stream.cancel_write(&lp, sent.unwrap().1).unwrap();
        run_until(&lp, || !told.is_empty());
        drop(busy);
        stream.finish(&lp).unwrap();
        run_to_end(&lp);
        let canceled = (0, Err(Code::ECANCELED.into()));
        assert_eq!(told.take(), [canceled, (1000, Ok(()))]);
        let all = reader.join().unwrap().unwrap();
        assert_eq!(all.len(), 1000);
        assert_pattern(&all, 0);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_not_in_memory_is_sent_whole() {
    use std::os::fd::AsRawFd;
    each_carrier(|lp| {
        let folder = Folder::new();
        let path = folder.file("cold", &pattern(0, 4 * MIB));
        let opened = system::File::open(&path).unwrap();
        opened.sync_all().unwrap();
        // SAFETY: takes numbers. It is advice: where it is not taken, the file is sent all the same.
        unsafe {
            let advice = libc::POSIX_FADV_DONTNEED;
            libc::posix_fadvise(opened.as_raw_fd(), 0, 0, advice);
        }
        let file = File::adopt(&lp, opened).unwrap();
        let (stream, peer) = carried(&lp, Script::new(&Log::default()));
        let reader = reader(peer);
        let told = Told::default();
        stream
            .send_file(&lp, file, 0, 4 * MIB as u64, done(&told))
            .unwrap();
        stream.finish(&lp).unwrap();
        run_to_end(&lp);
        let all = reader.join().unwrap().unwrap();
        assert_eq!(all.len(), 4 * MIB);
        assert_pattern(&all, 0);
        assert_eq!(told.take(), [(4 * MIB as u64, Ok(()))]);
    });
}

#[cfg(feature = "local")]
#[test]
fn a_file_is_sent_through_a_pipe() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = folder.open(&lp, 7, MIB);
        let log = Log::default();
        let writes = Script::new(&Log::default());
        let (_, to) = kolo::Pipe::pair(&lp, Script::new(&log), writes).unwrap();
        let stream = Stream::from(to);
        let told = Told::default();
        stream.write(&lp, &pattern(0, 7)).unwrap();
        stream
            .send_file(&lp, file, 0, MIB as u64, done(&told))
            .unwrap();
        stream.write(&lp, &pattern(7 + MIB, 5)).unwrap();
        stream.finish(&lp).unwrap();
        run_until(&lp, || log.has(&Event::End));
        let all = log.data();
        assert_eq!(all.len(), MIB + 12);
        assert_pattern(&all, 0);
        assert_eq!(told.take(), [(MIB as u64, Ok(()))]);
    });
}

#[test]
fn a_file_waits_until_the_stream_is_connected() {
    each_driver(|lp| {
        let folder = Folder::new();
        let file = folder.open(&lp, 0, 100_000);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = Script::new(&Log::default());
        let tcp = kolo::TcpStream::connect(&lp, address, script).unwrap();
        let told = Told::default();
        let stream = Stream::from(tcp);
        stream
            .send_file(&lp, file, 0, 100_000, done(&told))
            .unwrap();
        stream.finish(&lp).unwrap();
        let reader = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            let _ = peer.write(b"");
            all
        });
        run_to_end(&lp);
        let all = reader.join().unwrap();
        assert_eq!(all.len(), 100_000);
        assert_pattern(&all, 0);
        assert_eq!(told.take(), [(100_000, Ok(()))]);
    });
}
