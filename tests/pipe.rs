//! Pipes: anonymous, named, and descriptors from elsewhere.

#![cfg(all(unix, feature = "local"))]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use common::*;
use kolo::{Code, Direction, Flow, Kind, Loop, Pipe, RunMode, Stream, TcpStream, Timeout};

fn pair(lp: &Loop, reader: &Log, writer: &Log) -> (Pipe, Pipe) {
    Pipe::pair(lp, Script::new(reader), Script::new(writer)).unwrap()
}

fn quiet(_: &Loop, _: Stream, _: &[u8]) {}

fn blocks(at: RawFd) -> bool {
    let flags = unsafe { libc::fcntl(at, libc::F_GETFL) };
    assert!(flags >= 0);
    flags & libc::O_NONBLOCK == 0
}

#[cfg(target_os = "linux")]
fn is_closed(at: RawFd) -> bool {
    unsafe { libc::fcntl(at, libc::F_GETFD) < 0 }
}

/// A named pipe, removed at the end.
struct Fifo(PathBuf);

impl Fifo {
    fn new() -> Fifo {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kolo-pipe-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
        Fifo(path)
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

// ---- bytes ----

#[test]
fn bytes_go_through_a_pipe_and_its_end_after_them() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        assert_eq!(lp.kind(reader).unwrap(), Kind::Pipe);
        let bytes = pattern(0, 1_000_000);
        writer.write(&lp, &bytes).unwrap();
        assert!(writer.queued(&lp).unwrap() > 0);
        writer.shutdown(&lp, written.done(1)).unwrap();
        run_until(&lp, || read.has(&Event::End));
        assert_eq!(read.data().len(), bytes.len());
        assert_pattern(&read.data(), 0);
        assert!(written.has(&Event::Done(1, Ok(()))));
        assert_eq!(code(writer.write(&lp, b"more")), Code::EPIPE);
        lp.close(reader).unwrap();
        lp.close(writer).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn writes_of_all_kinds_keep_their_order() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (_reader, writer) = pair(&lp, &read, &written);
        writer.set_watermarks(&lp, 0, 1, usize::MAX).unwrap();
        let mut random = Random::new(3);
        let mut total = 0;
        for round in 0..100 {
            let length = [0, 1, 100, 4095, 4096, 70_000][random.below(6)];
            let bytes = pattern(total, length);
            if round % 3 == 0 {
                let owned = move |lp: &Loop| {
                    writer
                        .write_owned(lp, bytes, |_, _, outcome| outcome.unwrap())
                        .unwrap();
                };
                in_callback(&lp, owned);
            } else if round % 3 == 1 {
                in_callback(&lp, move |lp| assert!(writer.write(lp, &bytes).is_ok()));
            } else {
                writer.write(&lp, &bytes).unwrap();
            }
            total += length;
        }
        writer.finish(&lp).unwrap();
        run_until(&lp, || read.has(&Event::End));
        assert_eq!(read.data().len(), total);
        assert_pattern(&read.data(), 0);
        assert!(written.closed());
    });
}

#[test]
fn what_a_pipe_cannot_do_has_ended_from_the_start() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        assert_eq!(code(reader.write(&lp, b"x")), Code::EPIPE);
        assert_eq!(code(reader.shutdown(&lp, |_, _, _| ())), Code::EALREADY);
        assert_eq!(code(writer.read_start(&lp)), Code::ENOTCONN);
        assert!(!lp.is_active(writer).unwrap());
        assert!(lp.is_active(reader).unwrap());
        some_turns(&lp);
        assert_eq!((read.events(), written.events()), (vec![], vec![]));
        // Nothing is queued on it, so it closes at once.
        reader.finish(&lp).unwrap();
        run_until(&lp, || read.closed());
        assert_eq!(read.events(), [Event::Close]);
    });
}

#[test]
fn the_queue_is_bounded_and_drains() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        reader.read_stop(&lp).unwrap();
        writer.set_watermarks(&lp, 10, 1000, 100_000).unwrap();
        let mut total = 0;
        while writer.write(&lp, &pattern(total, 10_000)).unwrap() == Flow::Ready {
            total += 10_000;
        }
        total += 10_000;
        assert_eq!(code(writer.write(&lp, &[0; 100_000])), Code::ENOBUFS);
        reader.read_start(&lp).unwrap();
        run_until(&lp, || written.has(&Event::Drain));
        run_until(&lp, || read.data().len() == total);
        assert_eq!(written.count(&Event::Drain), 1);
        assert_pattern(&read.data(), 0);
    });
}

#[test]
fn a_write_can_be_cancelled_until_it_begins() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        reader.read_stop(&lp).unwrap();
        let filled = fill(&lp, *writer);
        let (_, write) = writer
            .write_owned(&lp, "cancelled", written.done(1))
            .unwrap();
        writer.cancel_write(&lp, write).unwrap();
        run_until(&lp, || written.has(&Event::Done(1, Err(Code::ECANCELED))));
        reader.read_start(&lp).unwrap();
        writer.finish(&lp).unwrap();
        run_until(&lp, || read.has(&Event::End));
        assert_eq!(read.data().len(), filled);
    });
}

#[test]
fn both_timeouts_hold() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        let soon = Some(Duration::from_millis(20));
        reader.set_timeouts(&lp, soon, None).unwrap();
        run_until(&lp, || read.has(&Event::Timeout(Timeout::Read)));
        reader.read_stop(&lp).unwrap();
        fill(&lp, *writer);
        writer.set_timeouts(&lp, None, soon).unwrap();
        run_until(&lp, || written.has(&Event::Timeout(Timeout::Write)));
    });
}

// ---- the peer goes ----

#[test]
fn a_reader_that_goes_is_an_error_at_the_next_write() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        lp.close(reader).unwrap();
        writer.write(&lp, b"to nobody").unwrap();
        run_until(&lp, || written.closed());
        assert_eq!(written.events(), [Event::Error(Code::EPIPE), Event::Close]);

        // Also when it goes while bytes wait.
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        reader.read_stop(&lp).unwrap();
        fill(&lp, *writer);
        lp.close(reader).unwrap();
        run_until(&lp, || written.closed());
        assert!(written.has(&Event::Error(Code::EPIPE)));
    });
}

#[test]
fn no_write_raises_sigpipe() {
    in_own_process!(|| {
        // As in a C program that does nothing about it: it would kill.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        each_driver(|lp| {
            let (read, written) = (Log::default(), Log::default());
            let (reader, writer) = pair(&lp, &read, &written);
            lp.close(reader).unwrap();
            writer.write(&lp, b"to nobody").unwrap();
            run_until(&lp, || written.closed());
            let (one, other) = (Log::default(), Log::default());
            let (first, second) =
                kolo::LocalStream::pair(&lp, Script::new(&one), Script::new(&other)).unwrap();
            lp.close(first).unwrap();
            second.read_stop(&lp).unwrap();
            second.write(&lp, b"to nobody").unwrap();
            run_until(&lp, || other.closed());
            assert!(other.has(&Event::Error(Code::EPIPE)));
        });
    });
}

// ---- one end elsewhere ----

#[test]
fn the_other_end_of_a_half_blocks_and_is_not_inherited() {
    each_driver(|lp| {
        let log = Log::default();
        let script = Script::new(&log);
        let (_reader, theirs) = Pipe::half(&lp, Direction::Read, script).unwrap();
        assert!(blocks(theirs.as_raw_fd()));
        let flags = unsafe { libc::fcntl(theirs.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        let writing = std::thread::spawn(move || {
            File::from(theirs).write_all(&pattern(0, 500_000)).unwrap();
        });
        run_until(&lp, || log.has(&Event::End));
        writing.join().unwrap();
        assert_pattern(&log.data(), 0);
        assert_eq!(log.data().len(), 500_000);

        let (writer, theirs) = Pipe::half(&lp, Direction::Write, quiet).unwrap();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            File::from(theirs).read_to_end(&mut all).unwrap();
            all
        });
        writer.write(&lp, &pattern(0, 500_000)).unwrap();
        writer.finish(&lp).unwrap();
        run_until(&lp, || lp.kind(writer).is_err());
        assert_eq!(reading.join().unwrap(), pattern(0, 500_000));
    });
}

// ---- named pipes ----

#[test]
fn a_named_pipe_is_read_before_there_is_a_writer() {
    each_driver(|lp| {
        let fifo = Fifo::new();
        let log = Log::default();
        let outcome = Pipe::open(&lp, &fifo.0, Direction::Write, quiet);
        assert_eq!(code(outcome), Code::ENXIO);
        let reader = Pipe::open(&lp, &fifo.0, Direction::Read, Script::new(&log)).unwrap();
        some_turns(&lp);
        // No end as long as nobody has begun.
        assert_eq!(log.events(), []);
        let writer = Pipe::open(&lp, &fifo.0, Direction::Write, quiet).unwrap();
        some_turns(&lp);
        writer.write(&lp, b"through").unwrap();
        run_until(&lp, || log.data() == b"through");
        lp.close(writer).unwrap();
        run_until(&lp, || log.has(&Event::End));
        lp.close(reader).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn only_a_named_pipe_is_opened() {
    each_driver(|lp| {
        for (path, expected) in [
            ("/dev/null", Code::EINVAL),
            ("/", Code::EINVAL),
            ("/no/such/pipe", Code::ENOENT),
        ] {
            let outcome = Pipe::open(&lp, path, Direction::Read, quiet);
            assert_eq!(code(outcome), expected, "{path}");
        }
        assert_eq!(lp.handles(), []);
    });
}

// ---- descriptors from elsewhere ----

#[test]
fn an_adopted_descriptor_carries_what_it_was_opened_for() {
    each_driver(|lp| {
        let (from, to) = io::pipe().unwrap();
        let log = Log::default();
        let reader = Pipe::adopt(&lp, from, Script::new(&log)).unwrap();
        let writer = Pipe::adopt(&lp, to, quiet).unwrap();
        assert_eq!(code(reader.write(&lp, b"x")), Code::EPIPE);
        assert_eq!(code(writer.read_start(&lp)), Code::ENOTCONN);
        writer.write(&lp, b"adopted").unwrap();
        run_until(&lp, || log.data() == b"adopted");
        // A stream socket goes both ways.
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let both = Log::default();
        let pipe = Pipe::adopt(&lp, OwnedFd::from(ours), Script::new(&both)).unwrap();
        assert_eq!(lp.kind(pipe).unwrap(), Kind::Pipe);
        peer.write_all(b"in").unwrap();
        pipe.write(&lp, b"out").unwrap();
        run_until(&lp, || both.data() == b"in");
        let mut bytes = [0; 3];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"out");
        pipe.shutdown(&lp, |_, _, outcome| outcome.unwrap())
            .unwrap();
        assert_eq!(peer.read(&mut bytes).unwrap(), 0);
    });
}

#[test]
fn what_cannot_be_waited_for_is_refused() {
    each_driver(|lp| {
        let adopt = |descriptor: OwnedFd| code(Pipe::adopt(&lp, descriptor, quiet));
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(adopt(file.into()), Code::EPERM);
        assert_eq!(adopt(File::open("/").unwrap().into()), Code::EPERM);
        assert_eq!(adopt(File::open("/dev/null").unwrap().into()), Code::EPERM);
        let (datagrams, _other) = UnixDatagram::pair().unwrap();
        assert_eq!(adopt(datagrams.into()), Code::EPROTOTYPE);
        assert_eq!(lp.handles(), []);
        // What is only written never has to wait.
        let null = File::options().write(true).open("/dev/null").unwrap();
        let writer = Pipe::adopt(&lp, null, quiet).unwrap();
        writer.write(&lp, &[0; 1_000_000]).unwrap();
        assert_eq!(writer.queued(&lp).unwrap(), 0);
    });
}

#[test]
fn a_shared_description_blocks_again_when_the_handle_is_gone() {
    each_driver(|lp| {
        let (from, to) = io::pipe().unwrap();
        let twin = to.try_clone().unwrap();
        let writer = Pipe::adopt(&lp, to, quiet).unwrap();
        assert!(!blocks(twin.as_raw_fd()));
        lp.close(writer).unwrap();
        assert!(blocks(twin.as_raw_fd()));

        let reader = Pipe::adopt(&lp, from, quiet).unwrap();
        let back = reader.release(&lp).unwrap();
        assert!(blocks(back.as_raw_fd()));
        run_to_end(&lp);

        // One that did not block stays so.
        unsafe { libc::fcntl(back.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        let reader = Pipe::adopt(&lp, back, quiet).unwrap();
        assert!(!blocks(reader.release(&lp).unwrap().as_raw_fd()));
    });
}

#[test]
fn a_forked_child_leaves_a_shared_description_as_the_parent_has_it() {
    in_own_process!(|| {
        let lp = Loop::new().unwrap();
        let (_from, to) = io::pipe().unwrap();
        let twin = to.try_clone().unwrap();
        Pipe::adopt(&lp, to, quiet).unwrap();
        for forked in [false, true] {
            let child = unsafe { libc::fork() };
            if child == 0 {
                if forked {
                    lp.forked().unwrap();
                }
                drop(lp);
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
            assert!(!blocks(twin.as_raw_fd()));
        }
        drop(lp);
        assert!(blocks(twin.as_raw_fd()));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_reopened_pipe_leaves_its_owners_descriptor_alone() {
    each_driver(|lp| {
        let (from, to) = io::pipe().unwrap();
        let log = Log::default();
        let reader = Pipe::reopen(&lp, &from, Script::new(&log)).unwrap();
        let writer = Pipe::reopen(&lp, &to, quiet).unwrap();
        assert!(blocks(from.as_raw_fd()) && blocks(to.as_raw_fd()));
        let fill = pattern(0, 300_000);
        writer.write(&lp, &fill).unwrap();
        run_until(&lp, || log.data().len() == fill.len());
        assert_pattern(&log.data(), 0);
        assert!(blocks(from.as_raw_fd()) && blocks(to.as_raw_fd()));
        // The owner's end holds the pipe open.
        lp.close(writer).unwrap();
        some_turns(&lp);
        assert!(!log.has(&Event::End));
        drop(to);
        run_until(&lp, || log.has(&Event::End));
        lp.close(reader).unwrap();
        assert!(!is_closed(from.as_raw_fd()));
    });
}

#[test]
fn a_reopened_named_pipe_ends_with_its_writers() {
    each_driver(|lp| {
        let fifo = Fifo::new();
        let holder = Pipe::open(&lp, &fifo.0, Direction::Read, quiet).unwrap();
        let to = File::options().write(true).open(&fifo.0).unwrap();
        let from = holder.release(&lp).unwrap();
        let log = Log::default();
        let _reader = Pipe::reopen(&lp, &from, Script::new(&log)).unwrap();
        (&to).write_all(b"last").unwrap();
        drop(to);
        run_until(&lp, || log.has(&Event::End));
        assert_eq!(log.data(), b"last");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn lines_of_a_terminal_all_come() {
    // A terminal gives one line a read, and no edge for those behind it.
    each_driver(|lp| {
        let (mut master, mut slave) = (-1, -1);
        let null = std::ptr::null_mut();
        let opened = unsafe {
            libc::openpty(
                &mut master,
                &mut slave,
                null,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        assert_eq!(opened, 0);
        use std::os::fd::FromRawFd;
        let (master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
        (&master).write_all(b"one\ntwo\nthree\n").unwrap();
        let log = Log::default();
        let pipe = Pipe::reopen(&lp, &slave, Script::new(&log)).unwrap();
        assert!(blocks(slave.as_raw_fd()));
        run_until(&lp, || log.data() == b"one\ntwo\nthree\n");
        pipe.write(&lp, b"answer").unwrap();
        // Writing has no end there.
        pipe.shutdown(&lp, |_, _, outcome| outcome.unwrap())
            .unwrap();
        (&master).write_all(b"four\n").unwrap();
        run_until(&lp, || log.data().ends_with(b"four\n"));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn packets_of_a_packet_pipe_all_come() {
    each_driver(|lp| {
        let mut ends = [-1; 2];
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_DIRECT) }, 0);
        use std::os::fd::FromRawFd;
        let (from, to) = unsafe { (OwnedFd::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
        for packet in [&b"one"[..], b"two", b"three"] {
            (&to).write_all(packet).unwrap();
        }
        let log = Log::default();
        Pipe::adopt(&lp, from, Script::new(&log)).unwrap();
        run_until(&lp, || log.data() == b"onetwothree");
        assert_eq!(log.events().len(), 3);
    });
}

#[test]
fn a_released_pipe_has_what_was_not_read() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        reader.read_stop(&lp).unwrap();
        writer.write(&lp, b"unread").unwrap();
        let mut from = File::from(reader.release(&lp).unwrap());
        let mut bytes = [0; 6];
        from.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"unread");
        fill(&lp, *writer);
        assert_eq!(code(writer.release(&lp)), Code::EBUSY);
        // An end that was closed by its shutdown has nothing to hand out.
        let (other, _theirs) = Pipe::half(&lp, Direction::Write, quiet).unwrap();
        assert!(other.raw_descriptor(&lp).is_ok());
        other
            .shutdown(&lp, |_, _, outcome| outcome.unwrap())
            .unwrap();
        assert_eq!(code(other.raw_descriptor(&lp)), Code::ENOTCONN);
        assert_eq!(code(other.release(&lp)), Code::ENOTCONN);
    });
}

#[test]
fn operations_of_another_kind_are_refused() {
    each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (reader, writer) = pair(&lp, &read, &written);
        let not_tcp = TcpStream::from_id(reader.id());
        assert_eq!(code(not_tcp.set_nodelay(&lp, true)), Code::EBADF);
        assert_eq!(code(not_tcp.release(&lp)), Code::EBADF);
        let not_local = kolo::LocalStream::from_id(writer.id());
        assert_eq!(code(not_local.peer_credentials(&lp)), Code::EBADF);
        let (one, _other) = kolo::LocalStream::pair(&lp, quiet, quiet).unwrap();
        assert_eq!(code(Pipe::from_id(one.id()).release(&lp)), Code::EBADF);
        // What has no reset only closes.
        writer.reset(&lp).unwrap();
        run_until(&lp, || read.has(&Event::End));
        assert!(lp.describe(reader).unwrap().starts_with("Pipe "));
    });
}

#[test]
fn pipes_go_on_in_a_forked_child() {
    in_own_process!(|| each_driver(|lp| {
        let (read, written) = (Log::default(), Log::default());
        let (_reader, writer) = pair(&lp, &read, &written);
        lp.run(RunMode::NoWait).unwrap();
        let child = unsafe { libc::fork() };
        if child == 0 {
            lp.forked().unwrap();
            writer.write(&lp, b"from the child").unwrap();
            run_until(&lp, || read.data() == b"from the child");
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        writer.write(&lp, b"from the parent").unwrap();
        run_until(&lp, || read.data() == b"from the parent");
    }));
}
