//! Descriptors and handles that travel between processes beside a Unix-domain stream's bytes.

#![cfg(all(unix, feature = "local", feature = "net"))]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::TcpStream as StdTcp;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use kolo::{
    Code, Kind, LocalListener, LocalStream, Loop, Pipe, Poll, Stream, StreamHandler, TcpListener,
    TcpStream, Timer,
};

/// A stream that takes descriptors, and its sender.
fn taking(lp: &Loop, log: &Log) -> (LocalStream, LocalStream) {
    let quiet = |_: &Loop, _: Stream, _: &[u8]| ();
    let (receiver, sender) = LocalStream::pair(lp, Script::new(log), quiet).unwrap();
    receiver.receive_descriptors(lp, true).unwrap();
    (receiver, sender)
}

fn ignore(_: &Loop, _: Stream, _: kolo::Result<()>) {}

/// An unnamed file with this text.
fn file(text: &str) -> File {
    let path = std::env::temp_dir().join(format!(
        "kolo-passing-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    fs::remove_file(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn text_of(descriptor: OwnedFd) -> String {
    let mut file = File::from(descriptor);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

fn is_same(one: &impl AsRawFd, other: &impl AsRawFd) -> bool {
    let about = |at: i32| fs::metadata(format!("/proc/self/fd/{at}")).unwrap();
    let (one, other) = (about(one.as_raw_fd()), about(other.as_raw_fd()));
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

// ---- descriptors ----

#[test]
fn a_descriptor_arrives_before_the_bytes_it_came_with() {
    struct Taking {
        order: Shared<Vec<String>>,
    }
    impl StreamHandler for Taking {
        fn on_data(&mut self, _: &Loop, _: Stream, data: &[u8]) {
            self.order.push(String::from_utf8(data.to_vec()).unwrap());
        }
        fn on_descriptors(&mut self, lp: &Loop, stream: Stream, waiting: usize, lost: bool) {
            assert!(!lost);
            let local = LocalStream::from_id(stream.id());
            assert_eq!(local.descriptors_waiting(lp).unwrap(), waiting);
            for _ in 0..waiting {
                let taken = local.take_descriptor(lp).unwrap();
                self.order.push(text_of(taken));
            }
        }
    }
    each_driver(|lp| {
        let order = Shared::<Vec<String>>::default();
        let taking = Taking {
            order: order.clone(),
        };
        let quiet = |_: &Loop, _: Stream, _: &[u8]| ();
        let (receiver, sender) = LocalStream::pair(&lp, taking, quiet).unwrap();
        receiver.receive_descriptors(&lp, true).unwrap();
        let (one, two, three) = (file("first"), file("second"), file("third"));
        let pass = |text: &'static str, these: &[BorrowedFd<'_>]| {
            sender
                .write_with_descriptors(&lp, text, these, ignore)
                .unwrap();
        };
        pass("[a]", &[one.as_fd()]);
        pass("[b]", &[two.as_fd(), three.as_fd()]);
        sender.write(&lp, b"[c]").unwrap();
        // The sender's own are not needed any more.
        drop((one, two, three));
        run_until(&lp, || order.with(|all| all.concat().contains("[c]")));
        assert_eq!(order.take().concat(), "first[a]secondthird[b][c]");
    });
}

#[test]
fn writes_of_all_kinds_keep_their_order_with_descriptors_among_them() {
    each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        receiver.read_stop(&lp).unwrap();
        let done = Log::default();
        let null = File::open("/dev/null").unwrap();
        let mut written = 0;
        let mut passed = 0;
        // Far more than the socket takes, so that most are queued.
        for round in 0..40 {
            let length = 1 + round * 997 % 30_000;
            sender.write(&lp, &pattern(written, length)).unwrap();
            written += length;
            let these = vec![null.as_fd(); 1 + round % 3];
            passed += these.len();
            let payload = pattern(written, length);
            sender
                .write_with_descriptors(&lp, payload, &these, done.done(round))
                .unwrap();
            written += length;
            let payload = pattern(written, 100);
            sender.write_owned(&lp, payload, ignore).unwrap();
            written += 100;
        }
        assert!(sender.queued(&lp).unwrap() > 0);
        receiver.read_start(&lp).unwrap();
        run_until(&lp, || log.data().len() == written);
        assert_pattern(&log.data(), 0);
        assert_eq!(receiver.descriptors_waiting(&lp).unwrap(), passed);
        run_until(&lp, || done.events().len() == 40);
        let expected: Vec<Event> = (0..40).map(|which| Event::Done(which, Ok(()))).collect();
        assert_eq!(done.events(), expected);
    });
}

#[test]
fn as_many_descriptors_go_with_one_write_as_the_system_takes() {
    in_own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        let null = File::open("/dev/null").unwrap();
        let these = vec![null.as_fd(); 253];
        sender
            .write_with_descriptors(&lp, "x", &these, ignore)
            .unwrap();
        run_until(&lp, || log.data() == b"x");
        assert_eq!(receiver.descriptors_waiting(&lp).unwrap(), 253);
        let taken = receiver.take_descriptor(&lp).unwrap();
        assert!(is_same(&taken, &null));
        let flags = unsafe { libc::fcntl(taken.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);

        let before = open_descriptors();
        let these = vec![null.as_fd(); 254];
        let outcome = sender.write_with_descriptors(&lp, "x", &these, ignore);
        assert_eq!(code(outcome), Code::EINVAL);
        let outcome = sender.write_with_descriptors(&lp, "x", &[], ignore);
        assert_eq!(code(outcome), Code::EINVAL);
        let outcome = sender.write_with_descriptors(&lp, "", &[null.as_fd()], ignore);
        assert_eq!(code(outcome), Code::EINVAL);
        assert_eq!(open_descriptors(), before);
    }));
}

#[test]
fn a_stream_that_does_not_take_descriptors_gets_only_bytes() {
    in_own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        receiver.receive_descriptors(&lp, false).unwrap();
        let null = File::open("/dev/null").unwrap();
        let before = open_descriptors();
        for _ in 0..3 {
            sender
                .write_with_descriptors(&lp, "ab", &[null.as_fd()], ignore)
                .unwrap();
        }
        sender.write(&lp, b"c").unwrap();
        run_until(&lp, || log.data() == b"abababc");
        assert_eq!(receiver.descriptors_waiting(&lp).unwrap(), 0);
        assert_eq!(code(receiver.take_descriptor(&lp)), Code::ENOENT);
        assert_eq!(code(receiver.next_kind(&lp)), Code::ENOENT);
        assert_eq!(open_descriptors(), before);
    }));
}

#[test]
fn what_nobody_takes_is_closed_with_the_stream() {
    in_own_process!(|| each_driver(|lp| {
        let null = File::open("/dev/null").unwrap();
        let before = open_descriptors();
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        sender
            .write_with_descriptors(&lp, "x", &[null.as_fd(); 20], ignore)
            .unwrap();
        run_until(&lp, || log.has(&Event::Data(b"x".to_vec())));
        assert_eq!(receiver.descriptors_waiting(&lp).unwrap(), 20);
        lp.close(receiver).unwrap();
        lp.close(sender).unwrap();
        run_to_end(&lp);
        assert_eq!(open_descriptors(), before);
    }));
}

#[test]
fn so_many_wait_and_no_more() {
    in_own_process!(|| each_driver(|lp| {
        struct Counting(Shared<Vec<(usize, bool)>>);
        impl StreamHandler for Counting {
            fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {}
            fn on_descriptors(&mut self, _: &Loop, _: Stream, waiting: usize, lost: bool) {
                self.0.push((waiting, lost));
            }
        }
        let null = File::open("/dev/null").unwrap();
        let came = Shared::default();
        let quiet = |_: &Loop, _: Stream, _: &[u8]| ();
        let counting = Counting(came.clone());
        let (receiver, sender) = LocalStream::pair(&lp, counting, quiet).unwrap();
        receiver.receive_descriptors(&lp, true).unwrap();
        let before = open_descriptors();
        for _ in 0..5 {
            sender
                .write_with_descriptors(&lp, "x", &[null.as_fd(); 250], ignore)
                .unwrap();
            let count = came.len();
            run_until(&lp, || came.len() > count);
        }
        let expected = [250, 500, 750, 1000].map(|count| (count, false));
        assert_eq!(came.with(|all| all[..4].to_vec()), expected);
        assert_eq!(came.with(|all| all[4]), (1012, true));
        assert_eq!(open_descriptors(), before + 1012);
    }));
}

#[test]
fn descriptors_that_this_process_cannot_hold_are_told_of() {
    in_own_process!(|| each_driver(|lp| {
        struct Counting(Shared<Vec<(usize, bool)>>, Shared<Vec<u8>>);
        impl StreamHandler for Counting {
            fn on_data(&mut self, _: &Loop, _: Stream, data: &[u8]) {
                self.1.with(|all| all.extend_from_slice(data));
            }
            fn on_descriptors(&mut self, _: &Loop, _: Stream, waiting: usize, lost: bool) {
                self.0.push((waiting, lost));
            }
        }
        let (came, bytes) = (Shared::default(), Shared::<Vec<u8>>::default());
        let quiet = |_: &Loop, _: Stream, _: &[u8]| ();
        let counting = Counting(came.clone(), bytes.clone());
        let (receiver, sender) = LocalStream::pair(&lp, counting, quiet).unwrap();
        receiver.receive_descriptors(&lp, true).unwrap();
        receiver.read_stop(&lp).unwrap();
        let null = File::open("/dev/null").unwrap();
        sender
            .write_with_descriptors(&lp, "four", &[null.as_fd(); 4], ignore)
            .unwrap();
        sender.write(&lp, b" more").unwrap();
        let limit = libc::rlimit {
            rlim_cur: 256,
            rlim_max: 1024,
        };
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        let mut held = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            held.push(file);
        }
        held.truncate(held.len() - 2);
        receiver.read_start(&lp).unwrap();
        run_until(&lp, || bytes.get() == b"four more");
        assert_eq!(came.take(), [(2, true)]);
        assert_eq!(receiver.descriptors_waiting(&lp).unwrap(), 2);
    }));
}

#[test]
fn a_cancelled_write_closes_its_duplicates() {
    in_own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        receiver.read_stop(&lp).unwrap();
        sender.set_watermarks(&lp, 0, 1, usize::MAX).unwrap();
        let filled = fill(&lp, *sender);
        let null = File::open("/dev/null").unwrap();
        let before = open_descriptors();
        let done = Log::default();
        let pass = |which| {
            let these = [null.as_fd(); 3];
            let outcome = sender.write_with_descriptors(&lp, "zz", &these, done.done(which));
            outcome.unwrap().1
        };
        let (first, _second) = (pass(1), pass(2));
        assert_eq!(open_descriptors(), before + 6);
        sender.cancel_write(&lp, first).unwrap();
        assert_eq!(open_descriptors(), before + 3);
        run_until(&lp, || done.has(&Event::Done(1, Err(Code::ECANCELED))));
        receiver.read_start(&lp).unwrap();
        run_until(&lp, || log.data().len() == filled + 2);
        assert_eq!(receiver.descriptors_waiting(&lp).unwrap(), 3);

        // And those of a stream that is closed.
        receiver.read_stop(&lp).unwrap();
        fill(&lp, *sender);
        pass(3);
        lp.close(sender).unwrap();
        lp.close(receiver).unwrap();
        run_to_end(&lp);
        assert!(done.has(&Event::Done(3, Err(Code::ECANCELED))));
        assert!(open_descriptors() < before);
    }));
}

#[test]
fn descriptors_pass_while_the_handler_names_the_memory() {
    struct Own {
        memory: Vec<u8>,
        order: Shared<Vec<String>>,
        close: bool,
    }
    impl StreamHandler for Own {
        fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {
            unreachable!();
        }
        fn has_memory(&self) -> bool {
            true
        }
        fn memory(&mut self, _: &Loop, _: Stream, _: usize) -> Option<&mut [u8]> {
            Some(&mut self.memory)
        }
        fn on_received(&mut self, _: &Loop, _: Stream, length: usize) {
            let text = self.memory[..length].to_vec();
            self.order.push(String::from_utf8(text).unwrap());
        }
        fn on_descriptors(&mut self, lp: &Loop, stream: Stream, waiting: usize, _: bool) {
            self.order.push(format!("({waiting})"));
            if self.close {
                lp.close(stream).unwrap();
            }
        }
        fn on_close(&mut self, _: &Loop, _: Stream) {
            self.order.push("closed".into());
        }
    }
    for close in [false, true] {
        each_driver(|lp| {
            let order = Shared::<Vec<String>>::default();
            let own = Own {
                memory: vec![0; 4],
                order: order.clone(),
                close,
            };
            let quiet = |_: &Loop, _: Stream, _: &[u8]| ();
            let (receiver, sender) = LocalStream::pair(&lp, own, quiet).unwrap();
            receiver.receive_descriptors(&lp, true).unwrap();
            let null = File::open("/dev/null").unwrap();
            sender
                .write_with_descriptors(&lp, "abcdef", &[null.as_fd()], ignore)
                .unwrap();
            if close {
                run_until(&lp, || order.with(|all| all.contains(&"closed".to_owned())));
                assert_eq!(order.take(), ["(1)", "closed"]);
            } else {
                run_until(&lp, || order.len() == 3);
                assert_eq!(order.take(), ["(1)", "abcd", "ef"]);
            }
        });
    }
}

#[test]
fn one_that_begins_to_linger_when_descriptors_came_hears_of_no_bytes() {
    struct Lingers {
        memory: Option<[u8; 8]>,
        order: Shared<Vec<&'static str>>,
    }
    impl StreamHandler for Lingers {
        fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {
            self.order.push("data");
        }
        fn has_memory(&self) -> bool {
            self.memory.is_some()
        }
        fn memory(&mut self, _: &Loop, _: Stream, _: usize) -> Option<&mut [u8]> {
            self.memory.as_mut().map(|memory| memory.as_mut_slice())
        }
        fn on_received(&mut self, _: &Loop, _: Stream, _: usize) {
            self.order.push("received");
        }
        fn on_descriptors(&mut self, lp: &Loop, stream: Stream, _: usize, _: bool) {
            self.order.push("descriptors");
            let moment = Duration::from_millis(1);
            stream.finish_lingering(lp, moment).unwrap();
        }
        fn on_close(&mut self, _: &Loop, _: Stream) {
            self.order.push("closed");
        }
    }
    for memory in [None, Some([0; 8])] {
        each_driver(|lp| {
            let order = Shared::default();
            let handler = Lingers {
                memory,
                order: order.clone(),
            };
            send_one_descriptor(&lp, handler);
            run_until(&lp, || order.with(|all| all.contains(&"closed")));
            assert_eq!(order.take(), ["descriptors", "closed"]);
        });
    }
}

#[test]
fn one_that_is_replaced_when_descriptors_came_hears_of_no_bytes() {
    struct GoesAway {
        memory: Option<[u8; 8]>,
        next: Option<Script>,
    }
    impl StreamHandler for GoesAway {
        fn on_data(&mut self, _: &Loop, _: Stream, data: &[u8]) {
            panic!("{data:?}");
        }
        fn has_memory(&self) -> bool {
            self.memory.is_some()
        }
        fn memory(&mut self, _: &Loop, _: Stream, _: usize) -> Option<&mut [u8]> {
            self.memory.as_mut().map(|memory| memory.as_mut_slice())
        }
        fn on_received(&mut self, _: &Loop, _: Stream, length: usize) {
            panic!("{length} bytes");
        }
        fn on_descriptors(&mut self, lp: &Loop, stream: Stream, _: usize, _: bool) {
            stream.attach(lp, self.next.take().unwrap()).unwrap();
        }
    }
    for memory in [None, Some([0; 8])] {
        each_driver(|lp| {
            let log = Log::default();
            let next = Some(Script::new(&log));
            send_one_descriptor(&lp, GoesAway { memory, next });
            run_until(&lp, || log.data() == b"x");
        });
    }
}

/// To a stream with this handler, with a byte.
fn send_one_descriptor(lp: &Loop, handler: impl StreamHandler) {
    let quiet = |_: &Loop, _: Stream, _: &[u8]| ();
    let (receiver, sender) = LocalStream::pair(lp, handler, quiet).unwrap();
    receiver.receive_descriptors(lp, true).unwrap();
    let null = File::open("/dev/null").unwrap();
    sender
        .write_with_descriptors(lp, "x", &[null.as_fd()], ignore)
        .unwrap();
}

#[test]
fn closing_in_on_descriptors_is_final() {
    struct Closing(Log);
    impl StreamHandler for Closing {
        fn on_data(&mut self, _: &Loop, _: Stream, data: &[u8]) {
            self.0.push(Event::Data(data.to_vec()));
        }
        fn on_descriptors(&mut self, lp: &Loop, stream: Stream, _: usize, _: bool) {
            lp.close(stream).unwrap();
            let local = LocalStream::from_id(stream.id());
            assert_eq!(code(local.take_descriptor(lp)), Code::EBADF);
        }
        fn on_close(&mut self, _: &Loop, _: Stream) {
            self.0.push(Event::Close);
        }
    }
    each_driver(|lp| {
        let log = Log::default();
        send_one_descriptor(&lp, Closing(log.clone()));
        run_until(&lp, || log.closed());
        assert_eq!(log.events(), [Event::Close]);
    });
}

#[test]
fn failing_in_on_descriptors_leaves_the_bytes_untold() {
    struct Failing(Log);
    impl StreamHandler for Failing {
        fn on_data(&mut self, _: &Loop, _: Stream, data: &[u8]) {
            self.0.push(Event::Data(data.to_vec()));
        }
        fn on_descriptors(&mut self, lp: &Loop, stream: Stream, _: usize, _: bool) {
            stream.fail(lp, Code::EPROTO.into()).unwrap();
        }
        fn on_error(&mut self, _: &Loop, _: Stream, error: kolo::Error) {
            self.0.push(Event::Error(error.code()));
        }
        fn on_close(&mut self, _: &Loop, _: Stream) {
            self.0.push(Event::Close);
        }
    }
    each_driver(|lp| {
        let log = Log::default();
        send_one_descriptor(&lp, Failing(log.clone()));
        run_until(&lp, || log.closed());
        assert_eq!(log.events(), [Event::Error(Code::EPROTO), Event::Close]);
    });
}

#[test]
fn a_stream_is_not_released_before_the_bytes_that_came_with_descriptors_are_told() {
    /// Has memory of its own, or not.
    struct Releasing(Log, Option<[u8; 2]>);
    impl Releasing {
        fn came(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
            self.0.push(Event::Data(data.to_vec()));
            if data.ends_with(b"pt") {
                LocalStream::from_id(stream.id()).release(lp).unwrap();
            }
        }
    }
    impl StreamHandler for Releasing {
        fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
            self.came(lp, stream, data);
        }
        fn on_descriptors(&mut self, lp: &Loop, stream: Stream, _: usize, _: bool) {
            let local = LocalStream::from_id(stream.id());
            assert_eq!(code(local.release(lp)), Code::EBUSY);
        }
        fn on_close(&mut self, _: &Loop, _: Stream) {
            self.0.push(Event::Close);
        }
        fn has_memory(&self) -> bool {
            self.1.is_some()
        }
        fn memory(&mut self, _: &Loop, _: Stream, _: usize) -> Option<&mut [u8]> {
            self.1.as_mut().map(|memory| &mut memory[..])
        }
        fn on_received(&mut self, lp: &Loop, stream: Stream, length: usize) {
            let memory = self.1.unwrap_or_default();
            self.came(lp, stream, &memory[..length]);
        }
    }
    for memory in [None, Some([0; 2])] {
        each_driver(|lp| {
            let log = Log::default();
            let quiet = |_: &Loop, _: Stream, _: &[u8]| ();
            let handler = Releasing(log.clone(), memory);
            let (receiver, sender) = LocalStream::pair(&lp, handler, quiet).unwrap();
            receiver.receive_descriptors(&lp, true).unwrap();
            let null = File::open("/dev/null").unwrap();
            sender
                .write_with_descriptors(&lp, "kept", &[null.as_fd()], ignore)
                .unwrap();
            run_until(&lp, || log.closed());
            assert_eq!(log.data(), b"kept");
        });
    }
}

#[test]
fn bytes_are_not_lost_when_on_descriptors_panics() {
    struct Panicking(Log);
    impl StreamHandler for Panicking {
        fn on_data(&mut self, _: &Loop, _: Stream, data: &[u8]) {
            self.0.push(Event::Data(data.to_vec()));
        }
        fn on_descriptors(&mut self, _: &Loop, _: Stream, _: usize, _: bool) {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    each_driver(|lp| {
        let log = Log::default();
        let quiet = |_: &Loop, _: Stream, _: &[u8]| ();
        let (receiver, sender) = LocalStream::pair(&lp, Panicking(log.clone()), quiet).unwrap();
        receiver.receive_descriptors(&lp, true).unwrap();
        let null = File::open("/dev/null").unwrap();
        sender
            .write_with_descriptors(&lp, "kept", &[null.as_fd()], ignore)
            .unwrap();
        let run = std::panic::AssertUnwindSafe(|| lp.run(kolo::RunMode::Once));
        assert!(std::panic::catch_unwind(run).is_err());
        sender.write(&lp, b" on").unwrap();
        run_until(&lp, || log.data() == b"kept on");
        assert_eq!(receiver.descriptors_waiting(&lp).unwrap(), 1);
    });
}

#[test]
fn descriptors_for_another_program_are_where_it_expects_them() {
    each_driver(|lp| {
        let log = Log::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sender = LocalStream::adopt(&lp, OwnedFd::from(ours), Script::new(&log)).unwrap();
        let text = file("for another");
        sender
            .write_with_descriptors(&lp, "!", &[text.as_fd()], ignore)
            .unwrap();
        let mut control = [0u64; 8];
        let mut bytes = [0u8; 8];
        let number = unsafe {
            let mut piece = libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            };
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &mut piece;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = std::mem::size_of_val(&control) as _;
            assert_eq!(libc::recvmsg(theirs.as_raw_fd(), &mut message, 0), 1);
            let header = libc::CMSG_FIRSTHDR(&message);
            assert_eq!((*header).cmsg_type, libc::SCM_RIGHTS);
            libc::CMSG_DATA(header).cast::<i32>().read_unaligned()
        };
        use std::os::fd::FromRawFd;
        assert_eq!(
            text_of(unsafe { OwnedFd::from_raw_fd(number) }),
            "for another"
        );
    });
}

// ---- handles ----

#[test]
fn handles_of_every_kind_arrive_as_what_they_are() {
    each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        let quiet = || |_: &Loop, _: Stream, _: &[u8]| ();
        let (tcp, _peer) = connected(&lp, quiet());
        let listener =
            TcpListener::listen(&lp, "127.0.0.1:0".parse().unwrap(), |_: &Loop, _, _| ()).unwrap();
        let (local, _other) = LocalStream::pair(&lp, quiet(), quiet()).unwrap();
        let name = std::env::temp_dir().join(format!(
            "kolo-passing-{}-{}",
            std::process::id(),
            lp.driver_name()
        ));
        let local_listener = LocalListener::listen(&lp, &name, |_: &Loop, _, _| ()).unwrap();
        let (reader, writer) = Pipe::pair(&lp, quiet(), quiet()).unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let text = file("no handle");
        for handle in [
            tcp.id(),
            listener.id(),
            local.id(),
            local_listener.id(),
            reader.id(),
            writer.id(),
        ] {
            sender.send_handle(&lp, handle, "h", ignore).unwrap();
        }
        let others = [datagrams.as_fd(), text.as_fd()];
        sender
            .write_with_descriptors(&lp, "d", &others, ignore)
            .unwrap();
        run_until(&lp, || log.data() == b"hhhhhhd");
        let mut kinds = Vec::new();
        while receiver.descriptors_waiting(&lp).unwrap() > 0 {
            kinds.push(receiver.next_kind(&lp).unwrap());
            receiver.take_descriptor(&lp).unwrap();
        }
        let expected = [
            Some(Kind::Tcp),
            Some(Kind::Listener),
            Some(Kind::Local),
            Some(Kind::LocalListener),
            Some(Kind::Pipe),
            Some(Kind::Pipe),
            Some(Kind::Udp),
            None,
        ];
        assert_eq!(kinds, expected);
    });
}

#[test]
fn a_connection_goes_on_with_who_it_was_handed_to() {
    each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        let taken = Log::default();
        let (tcp, mut peer) = connected(&lp, Script::new(&Log::default()).not_reading());
        peer.write_all(b"unread ").unwrap();
        tcp.write(&lp, b"from the first, ").unwrap();
        sender.send_handle(&lp, tcp, "take it", ignore).unwrap();
        lp.close(tcp).unwrap();
        run_until(&lp, || log.data() == b"take it");
        let again = receiver.take_stream(&lp, Script::new(&taken)).unwrap();
        assert_eq!(lp.kind(again).unwrap(), Kind::Tcp);
        assert_eq!(
            TcpStream::from_id(again.id()).peer_address(&lp).unwrap(),
            peer.local_addr().unwrap()
        );
        again.write(&lp, b"from the second").unwrap();
        peer.write_all(b"and more").unwrap();
        run_until(&lp, || taken.data() == b"unread and more");
        assert_eq!(
            read_from_peer(&lp, &peer, 31),
            b"from the first, from the second"
        );
        assert!(!is_ended(&peer));
        lp.close(again).unwrap();
        assert_eq!(read_peer_to_end(&lp, &peer), b"");
    });
}

#[test]
fn a_pipe_and_a_local_stream_go_on_with_who_they_were_handed_to() {
    each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        let quiet = || |_: &Loop, _: Stream, _: &[u8]| ();
        let read = Log::default();
        let (_reader, writer) = Pipe::pair(&lp, Script::new(&read), quiet()).unwrap();
        let (local, _other) = LocalStream::pair(&lp, quiet(), Script::new(&read)).unwrap();
        sender.send_handle(&lp, writer, "p", ignore).unwrap();
        sender.send_handle(&lp, local, "l", ignore).unwrap();
        lp.close(writer).unwrap();
        lp.close(local).unwrap();
        run_until(&lp, || log.data() == b"pl");
        for expected in [Kind::Pipe, Kind::Local] {
            let again = receiver.take_stream(&lp, quiet()).unwrap();
            assert_eq!(lp.kind(again).unwrap(), expected);
            again.write(&lp, b"here").unwrap();
            run_until(&lp, || read.data() == b"here");
            lp.close(again).unwrap();
            run_until(&lp, || read.has(&Event::End));
            read.clear();
        }
        assert_eq!(code(receiver.take_stream(&lp, quiet())), Code::ENOENT);
    });
}

#[test]
fn what_is_no_stream_waits_on() {
    each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        let text = file("still here");
        sender
            .write_with_descriptors(&lp, "x", &[text.as_fd()], ignore)
            .unwrap();
        run_until(&lp, || log.data() == b"x");
        let handler = |_: &Loop, _: Stream, _: &[u8]| ();
        assert_eq!(code(receiver.take_stream(&lp, handler)), Code::EINVAL);
        assert_eq!(
            text_of(receiver.take_descriptor(&lp).unwrap()),
            "still here"
        );
    });
}

#[test]
fn a_listener_is_served_by_who_it_was_handed_to() {
    each_driver(|lp| {
        let log = Log::default();
        let (receiver, sender) = taking(&lp, &log);
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = TcpListener::listen(&lp, any, |_: &Loop, _, _| ()).unwrap();
        let address = listener.address(&lp).unwrap();
        sender.send_handle(&lp, listener, "x", ignore).unwrap();
        lp.close(listener).unwrap();
        run_until(&lp, || log.data() == b"x");
        let taken = receiver.take_descriptor(&lp).unwrap();
        let accepted = Shared::<usize>::default();
        let count = accepted.clone();
        let on_accept = move |_: &Loop, _: TcpListener, _: TcpStream| count.add();
        let options = kolo::ListenOptions::default();
        let again = TcpListener::adopt(&lp, taken, &options, on_accept).unwrap();
        assert_eq!(again.address(&lp).unwrap(), address);
        let _client = StdTcp::connect(address).unwrap();
        run_until(&lp, || accepted.get() == 1);
    });
}

#[test]
fn only_handles_with_a_descriptor_can_be_sent() {
    each_driver(|lp| {
        let log = Log::default();
        let (_receiver, sender) = taking(&lp, &log);
        let timer = Timer::after(&lp, std::time::Duration::from_secs(1), |_| ()).unwrap();
        let null = Rc::new(File::open("/dev/null").unwrap());
        let poll = Poll::open(&lp, null.as_raw_fd(), |_, _, _| ()).unwrap();
        for handle in [timer.id(), poll.id()] {
            let outcome = sender.send_handle(&lp, handle, "x", ignore);
            assert_eq!(code(outcome), Code::EINVAL);
        }
        let (tcp, peer) = connected(&lp, |_: &Loop, _: Stream, _: &[u8]| ());
        fill(&lp, *tcp);
        assert_eq!(code(sender.send_handle(&lp, tcp, "x", ignore)), Code::EBUSY);
        drop(peer);
        lp.close(tcp).unwrap();
        assert_eq!(code(sender.send_handle(&lp, tcp, "x", ignore)), Code::EBADF);
        let not_local = LocalStream::from_id(timer.id());
        assert_eq!(
            code(not_local.send_handle(&lp, sender, "x", ignore)),
            Code::EBADF
        );
        assert_eq!(sender.queued(&lp).unwrap(), 0);
    });
}

/// A master that accepts and hands each connection to one of its workers in turn; all in processes of their own.
#[test]
fn a_cluster_shares_connections_among_processes() {
    in_own_process!(|| {
        const WORKERS: usize = 3;
        let mut controls = Vec::new();
        let mut children = Vec::new();
        for worker in 0..WORKERS {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let child = unsafe { libc::fork() };
            if child == 0 {
                controls.clear();
                drop(ours);
                serve(theirs, worker);
                unsafe { libc::_exit(0) };
            }
            controls.push(ours);
            children.push(child);
        }
        let lp = Loop::new().unwrap();
        let quiet = || |_: &Loop, _: Stream, _: &[u8]| ();
        let controls: Vec<LocalStream> = controls
            .into_iter()
            .map(|control| LocalStream::adopt(&lp, OwnedFd::from(control), quiet()).unwrap())
            .collect();
        let mut next = 0;
        let workers = controls.clone();
        let any = "127.0.0.1:0".parse().unwrap();
        let hand_on = move |lp: &Loop, _: TcpListener, tcp: TcpStream| {
            let worker = workers[next % WORKERS];
            next += 1;
            worker.send_handle(lp, tcp, "c", ignore).unwrap();
        };
        let listener = TcpListener::listen(&lp, any, hand_on).unwrap();
        let address = listener.address(&lp).unwrap();
        let client = std::thread::spawn(move || {
            let mut answers: Vec<String> = (0..30)
                .map(|_| {
                    let mut client = StdTcp::connect(address).unwrap();
                    client.write_all(b"who?").unwrap();
                    let mut answer = String::new();
                    client.read_to_string(&mut answer).unwrap();
                    answer
                })
                .collect();
            answers.sort();
            answers
        });
        let answered = Arc::new(AtomicBool::new(false));
        let set = answered.clone();
        let remote = lp.remote();
        let joined = std::thread::spawn(move || {
            let answers = client.join().unwrap();
            // In the loop, so that it does not wait once more before it looks.
            let note = move |_: &Loop| set.store(true, Ordering::SeqCst);
            remote.post(note).unwrap();
            answers
        });
        run_until(&lp, || answered.load(Ordering::SeqCst));
        let mut expected: Vec<String> = (0..30).map(|n| format!("worker {}", n % 3)).collect();
        expected.sort();
        assert_eq!(joined.join().unwrap(), expected);
        for control in controls {
            lp.close(control).unwrap();
        }
        drop(lp);
        for child in children {
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        }
    });
}

/// A worker: answers on each connection it is handed, until its control stream ends.
fn serve(control: UnixStream, worker: usize) {
    struct Worker(usize);
    impl StreamHandler for Worker {
        fn on_data(&mut self, lp: &Loop, control: Stream, _: &[u8]) {
            let control = LocalStream::from_id(control.id());
            let worker = self.0;
            while control.descriptors_waiting(lp).unwrap() > 0 {
                let answer = move |lp: &Loop, stream: Stream, _: &[u8]| {
                    let text = format!("worker {worker}");
                    stream.write(lp, text.as_bytes()).unwrap();
                    stream.finish(lp).unwrap();
                };
                control.take_stream(lp, answer).unwrap();
            }
        }
    }
    let lp = Loop::new().unwrap();
    let control = LocalStream::adopt(&lp, OwnedFd::from(control), Worker(worker)).unwrap();
    control.receive_descriptors(&lp, true).unwrap();
    lp.run(kolo::RunMode::Default).unwrap();
}
