//! What the loopback never does: sockets that are full, segments that are refused.

use std::cell::RefCell;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::error::Error;
use crate::event_loop::RunMode;
use crate::sys::datagrams::fault::{CALLS, REFUSES, REFUSES_SEGMENTS, ROOM};

type Log = Rc<RefCell<Vec<String>>>;

struct Note(Log);

impl UdpHandler for Note {
    fn on_datagram(&mut self, _: &Loop, _: UdpSocket, _: &Datagram<'_>) {}

    fn on_drain(&mut self, _: &Loop, _: UdpSocket) {
        self.0.borrow_mut().push("drain".to_owned());
    }

    fn on_error(&mut self, _: &Loop, _: UdpSocket, error: &DatagramError) {
        let line = format!("{} {}", error.error.code().name(), error.count);
        self.0.borrow_mut().push(line);
    }

    fn on_close(&mut self, _: &Loop, _: UdpSocket) {
        self.0.borrow_mut().push("close".to_owned());
    }

    fn receives(&self) -> bool {
        false
    }
}

/// A loop, a socket that notes what it hears, and the other end of it.
struct Bench {
    lp: Loop,
    socket: UdpSocket,
    peer: StdSocket,
    to: SocketAddr,
    log: Log,
    /// Dropped at the end: then the watch is over.
    _limit: mpsc::Sender<()>,
}

/// Ends the process when a test hangs.
fn time_limit() -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let limit = Duration::from_secs(120);
        if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a test of UDP has not ended after {limit:?}");
            std::process::abort();
        }
    });
    sender
}

impl Bench {
    fn new() -> Bench {
        ROOM.set(usize::MAX);
        REFUSES_SEGMENTS.set(None);
        REFUSES.set(None);
        let lp = Loop::new().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let log = Log::default();
        let socket = UdpSocket::bind(&lp, any, Note(log.clone())).unwrap();
        let peer = StdSocket::bind(any).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let to = peer.local_addr().unwrap();
        Bench {
            lp,
            socket,
            peer,
            to,
            log,
            _limit: time_limit(),
        }
    }

    fn send(&self, text: &str) -> Flow {
        self.socket
            .send_to(&self.lp, text.as_bytes(), self.to)
            .unwrap()
    }

    fn send_in_callback(&self, texts: &[&'static str]) {
        let (socket, to, texts) = (self.socket, self.to, texts.to_vec());
        let send = move |lp: &Loop| {
            for text in texts {
                socket.send_to(lp, text.as_bytes(), to).unwrap();
            }
        };
        self.lp.defer(send).unwrap();
        self.lp.run(RunMode::NoWait).unwrap();
    }

    fn received(&self) -> String {
        let mut bytes = [0; 100];
        let length = self.peer.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[track_caller]
    fn arrive(&self, expected: &[&str]) {
        for text in expected {
            assert_eq!(self.received(), *text);
        }
        self.peer.set_nonblocking(true).unwrap();
        assert!(self.peer.recv(&mut [0; 100]).is_err(), "too many");
        self.peer.set_nonblocking(false).unwrap();
    }

    fn heard(&self) -> Vec<String> {
        self.log.take()
    }

    /// Gives room for so many messages at a time until the loop has nothing more to do.
    fn run_with_room(&self, at_a_time: usize) {
        loop {
            ROOM.set(at_a_time);
            if !self.lp.run(RunMode::Once).unwrap() {
                return;
            }
        }
    }
}

#[test]
fn a_full_socket_queues_in_order_and_drains_once() {
    for at_a_time in [1, 2, 100] {
        let bench = Bench::new();
        bench
            .socket
            .set_watermarks(&bench.lp, 70, 300, 1000)
            .unwrap();
        ROOM.set(1);
        // 64 more are counted for each.
        assert_eq!(bench.send("gone"), Flow::Ready);
        assert_eq!(bench.send("1"), Flow::Ready);
        assert_eq!(bench.socket.queued(&bench.lp), Ok(65));
        assert!(bench.lp.is_active(bench.socket).unwrap());
        assert_eq!(bench.send("22"), Flow::Ready);
        assert_eq!(bench.send("333"), Flow::Ready);
        assert_eq!(bench.send(""), Flow::Ready);
        assert_eq!(bench.send("333"), Flow::Full);
        assert_eq!(bench.send("333"), Flow::Full);
        assert!(bench.heard().is_empty());
        bench.run_with_room(at_a_time);
        bench.arrive(&["gone", "1", "22", "333", "", "333", "333"]);
        assert_eq!(bench.heard(), ["drain"]);
        assert_eq!(bench.socket.queued(&bench.lp), Ok(0));
        assert!(!bench.lp.is_active(bench.socket).unwrap());
    }
}

#[test]
fn what_was_gathered_is_queued_where_the_socket_is_full() {
    for room in 0..4 {
        let bench = Bench::new();
        ROOM.set(room);
        bench.send_in_callback(&["aa", "bb", "c", "dd", "", "eee", "eee"]);
        bench.send("last");
        bench.run_with_room(1);
        bench.arrive(&["aa", "bb", "c", "dd", "", "eee", "eee", "last"]);
        assert!(bench.heard().is_empty());
    }
}

#[test]
fn the_queue_is_bounded_and_nothing_of_a_refused_datagram_is_sent() {
    let bench = Bench::new();
    bench.socket.set_watermarks(&bench.lp, 0, 100, 200).unwrap();
    ROOM.set(0);
    bench.send("one");
    bench.send("two");
    let refused = bench.socket.send_to(&bench.lp, b"three", bench.to);
    assert_eq!(refused, Err(Code::ENOBUFS.into()));
    let transmit = Transmit::to(bench.to);
    let refused = bench
        .socket
        .send_owned(&bench.lp, "three", &transmit, |_, _, _| unreachable!());
    assert_eq!(refused, Err(Code::ENOBUFS.into()));
    bench.run_with_room(10);
    bench.arrive(&["one", "two"]);
}

#[test]
fn same_sized_datagrams_in_the_queue_go_as_one_message() {
    let bench = Bench::new();
    ROOM.set(0);
    for text in ["aa", "bb", "cc", "d", "ee", "", "ff"] {
        bench.send(text);
    }
    CALLS.set(0);
    bench.run_with_room(100);
    assert_eq!(CALLS.get(), 1);
    bench.arrive(&["aa", "bb", "cc", "d", "ee", "", "ff"]);
}

#[test]
fn segments_that_are_refused_go_one_by_one_and_are_not_tried_again() {
    for (errno, tries_smaller) in [(libc::EIO, false), (libc::EMSGSIZE, true)] {
        let bench = Bench::new();
        REFUSES_SEGMENTS.set(Some(errno));
        bench.send_in_callback(&["before", "aaa", "bbb", "ccc", "d", "after"]);
        bench.arrive(&["before", "aaa", "bbb", "ccc", "d", "after"]);
        assert!(bench.heard().is_empty());
        // Next time only smaller ones, if any.
        CALLS.set(0);
        bench.send_in_callback(&["aaa", "bbb"]);
        assert_eq!(CALLS.get(), 1, "no segments were asked for");
        CALLS.set(0);
        REFUSES_SEGMENTS.set(None);
        bench.send_in_callback(&["aa", "bb", "c"]);
        bench.arrive(&["aaa", "bbb", "aa", "bb", "c"]);
        assert_eq!(CALLS.get(), 1);
        let limit = match tries_smaller {
            true => 2,
            false => 0,
        };
        let mut core = bench.lp.core().unwrap();
        let udp = state(&mut core.handles, bench.socket.id()).unwrap();
        assert_eq!(udp.segment_limit, limit);
    }
}

#[test]
fn without_send_offload_the_callers_segments_are_taken_apart_here() {
    let bench = Bench::new();
    let options = UdpOptions {
        send_offload: false,
        ..Default::default()
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let socket = UdpSocket::bind_with(&bench.lp, any, &options, Note(bench.log.clone())).unwrap();
    // Whoever asks for segments all the same is told so, and no datagram is lost.
    REFUSES_SEGMENTS.set(Some(libc::EPERM));
    let transmit = Transmit {
        segment_size: Some(2),
        ..Transmit::to(bench.to)
    };
    CALLS.set(0);
    socket.send_with(&bench.lp, b"aabbc", &transmit).unwrap();
    assert_eq!(CALLS.get(), 3);
    bench.arrive(&["aa", "bb", "c"]);
    assert!(bench.heard().is_empty());
}

#[test]
fn a_socket_that_fills_in_the_middle_of_a_run_goes_on_there() {
    for room in 0..5 {
        let bench = Bench::new();
        REFUSES_SEGMENTS.set(Some(libc::EIO));
        ROOM.set(room);
        bench.send_in_callback(&["aaa", "bbb", "ccc", "d", "after"]);
        bench.run_with_room(2);
        bench.arrive(&["aaa", "bbb", "ccc", "d", "after"]);
        assert!(bench.heard().is_empty());
    }
    // The same with the caller's own segments, and somebody who waits for the outcome.
    for room in 0..4 {
        let bench = Bench::new();
        REFUSES_SEGMENTS.set(Some(libc::EIO));
        ROOM.set(room);
        let transmit = Transmit {
            segment_size: Some(3),
            ..Transmit::to(bench.to)
        };
        let log = bench.log.clone();
        let done = move |_: &Loop, _: UdpSocket, outcome: Result<()>| {
            log.borrow_mut().push(format!("{outcome:?}"));
        };
        let sent = bench
            .socket
            .send_owned(&bench.lp, "aaabbbccd", &transmit, done);
        assert_eq!(sent.map(|(flow, _)| flow), Ok(Flow::Ready));
        bench.run_with_room(1);
        bench.arrive(&["aaa", "bbb", "ccd"]);
        assert_eq!(bench.heard(), ["Ok(())"]);
    }
}

#[test]
fn try_send_says_that_the_socket_is_full_and_on_drain_when_it_is_not() {
    let bench = Bench::new();
    let transmit = Transmit::to(bench.to);
    ROOM.set(1);
    bench.socket.try_send(&bench.lp, b"one", &transmit).unwrap();
    for _ in 0..2 {
        let outcome = bench.socket.try_send(&bench.lp, b"two", &transmit);
        assert_eq!(outcome, Err(Code::EAGAIN.into()));
    }
    bench.run_with_room(1);
    assert_eq!(bench.heard(), ["drain"]);
    bench.arrive(&["one"]);
    // Nobody overtakes what is queued.
    ROOM.set(0);
    bench.send("queued");
    ROOM.set(1);
    let outcome = bench.socket.try_send(&bench.lp, b"two", &transmit);
    assert_eq!(outcome, Err(Code::EAGAIN.into()));
    for _ in 0..5 {
        // Still full: nothing is told.
        ROOM.set(0);
        bench.lp.run(RunMode::NoWait).unwrap();
        assert!(bench.heard().is_empty());
    }
    bench.run_with_room(1);
    assert_eq!(bench.heard(), ["drain"]);
    bench.arrive(&["queued"]);
}

#[test]
fn a_part_of_a_run_that_was_refused_is_told_and_the_run_counts_as_sent() {
    for room in 1..4 {
        let bench = Bench::new();
        let transmit = Transmit {
            segment_size: Some(2),
            ..Transmit::to(bench.to)
        };
        REFUSES_SEGMENTS.set(Some(libc::EIO));
        REFUSES.set(Some((b'b', libc::EPERM)));
        ROOM.set(room);
        let socket = bench.socket;
        socket.try_send(&bench.lp, b"aabbccd", &transmit).unwrap();
        bench.run_with_room(1);
        bench.arrive(&["aa", "cc", "d"]);
        assert_eq!(bench.heard().len(), 1, "of the one that was refused");
        // When nothing of it went, that is the result.
        ROOM.set(usize::MAX);
        let outcome = socket.try_send(&bench.lp, b"bbbb", &transmit);
        assert_eq!(outcome.map_err(Error::code), Err(Code::EPERM));
        bench.run_with_room(1);
        bench.arrive(&[]);
        assert!(bench.heard().is_empty());
    }
}

#[test]
fn an_owned_send_that_waits_is_taken_back() {
    let bench = Bench::new();
    let transmit = Transmit::to(bench.to);
    let send = |text: &'static str, transmit: &Transmit| {
        let log = bench.log.clone();
        let done = move |_: &Loop, _: UdpSocket, outcome: Result<()>| {
            let outcome = outcome.map_err(Error::code);
            log.borrow_mut().push(format!("{text} {outcome:?}"));
        };
        let sent = bench.socket.send_owned(&bench.lp, text, transmit, done);
        sent.unwrap().1
    };
    let cancel = |send| {
        let outcome = bench.socket.cancel_send(&bench.lp, send);
        outcome.map_err(Error::code)
    };
    ROOM.set(1);
    let sends = ["one", "two", "three", "four"].map(|text| send(text, &transmit));
    let queued = bench.socket.queued(&bench.lp).unwrap();
    assert_eq!(cancel(sends[0]), Err(Code::ENOENT), "it has gone");
    for which in [1, 3] {
        assert_eq!(cancel(sends[which]), Ok(()));
        assert_eq!(cancel(sends[which]), Err(Code::ENOENT));
    }
    assert_eq!(cancel(SendId(0)), Err(Code::ENOENT));
    assert!(bench.socket.queued(&bench.lp).unwrap() < queued);
    assert!(bench.heard().is_empty(), "never inside the call");
    bench.run_with_room(1);
    bench.arrive(&["one", "three"]);
    let expected = [
        "one Ok(())",
        "two Err(ECANCELED)",
        "four Err(ECANCELED)",
        "three Ok(())",
    ];
    assert_eq!(bench.heard(), expected);
    // Of several datagrams some have gone.
    let segments = Transmit {
        segment_size: Some(2),
        ..transmit
    };
    REFUSES_SEGMENTS.set(Some(libc::EIO));
    ROOM.set(1);
    let begun = send("aabb", &segments);
    assert_eq!(cancel(begun), Err(Code::EBUSY));
    bench.run_with_room(1);
    bench.arrive(&["aa", "bb"]);
    assert_eq!(bench.heard(), ["aabb Ok(())"]);
    bench.lp.close(bench.socket).unwrap();
    assert_eq!(cancel(begun), Err(Code::EBADF));
}

#[test]
fn callbacks_that_are_still_to_come_are_bounded() {
    let bench = Bench::new();
    bench.socket.set_watermarks(&bench.lp, 0, 100, 300).unwrap();
    let told = Rc::new(RefCell::new(0));
    let transmit = Transmit::to(bench.to);
    let send = || {
        let told = told.clone();
        bench
            .socket
            .send_owned(&bench.lp, "x", &transmit, move |_, _, _| {
                *told.borrow_mut() += 1
            })
    };
    let taken = (0..10).take_while(|_| send().is_ok()).count();
    assert_eq!(taken, 4);
    assert_eq!(send(), Err(Code::ENOBUFS.into()));
    bench.lp.run(RunMode::Default).unwrap();
    assert_eq!(*told.borrow(), 4);
    send().unwrap();
}

#[test]
fn errors_that_are_still_to_be_told_are_bounded() {
    let mut queue = queue::Queue::default();
    let error = |port: u16| DatagramError {
        error: Code::ECONNREFUSED.into(),
        to: Some(([127, 0, 0, 1], port).into()),
        by: None,
        mtu: None,
        count: 1,
    };
    for port in 0..1000 {
        queue.note_error(error(port));
        queue.note_error(error(port));
    }
    assert_eq!(queue.errors_count(), queue::ERRORS_MAX);
    let first = queue.next_error().unwrap();
    assert_eq!(
        first,
        DatagramError {
            count: 2,
            ..error(0)
        }
    );
    queue.note_error(error(1000));
    assert_eq!(queue.errors_count(), queue::ERRORS_MAX);
}

#[test]
fn a_socket_that_was_full_once_does_not_wake_the_loop_for_what_leaves_it_later() {
    let bench = Bench::new();
    ROOM.set(0);
    bench.send("queued");
    bench.run_with_room(1);
    ROOM.set(usize::MAX);
    // So that there are turns.
    crate::Timer::after(&bench.lp, Duration::from_secs(3600), |_| ()).unwrap();
    let before = bench.lp.metrics();
    for _ in 0..5 {
        bench.send("x");
        bench.lp.run(RunMode::NoWait).unwrap();
    }
    let after = bench.lp.metrics();
    assert_eq!(
        (after.turns, after.events),
        (before.turns + 5, before.events)
    );
}

#[test]
fn closing_cancels_what_is_queued_each_once_and_in_order() {
    let bench = Bench::new();
    let transmit = Transmit::to(bench.to);
    ROOM.set(1);
    for which in 0..4 {
        let log = bench.log.clone();
        let done = move |lp: &Loop, socket: UdpSocket, outcome: Result<()>| {
            let outcome = outcome.map_err(Error::code);
            log.borrow_mut().push(format!("{which} {outcome:?}"));
            assert!(lp.close(socket).is_err());
            if which == 1 {
                panic!("on purpose");
            }
        };
        bench
            .socket
            .send_owned(&bench.lp, "x", &transmit, done)
            .unwrap();
    }
    bench.send("a copy");
    bench.lp.close(bench.socket).unwrap();
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked = catch_unwind(AssertUnwindSafe(|| bench.lp.run(RunMode::Default)));
    std::panic::set_hook(quiet);
    assert!(panicked.is_err());
    bench.lp.run(RunMode::Default).unwrap();
    let canceled = |which: usize| format!("{which} Err(ECANCELED)");
    let expected = [
        "0 Ok(())".to_owned(),
        canceled(1),
        canceled(2),
        canceled(3),
        "close".to_owned(),
    ];
    assert_eq!(bench.heard(), expected);
    bench.arrive(&["x"]);
}

#[test]
fn a_socket_is_not_released_or_connected_while_datagrams_are_queued() {
    let bench = Bench::new();
    ROOM.set(0);
    bench.send("queued");
    let busy = Error::new(Code::EBUSY);
    assert_eq!(bench.socket.release(&bench.lp).map(drop), Err(busy));
    assert_eq!(bench.socket.connect_to(&bench.lp, bench.to), Err(busy));
    assert_eq!(bench.socket.disconnect(&bench.lp), Err(busy));
    bench.run_with_room(1);
    bench.socket.connect_to(&bench.lp, bench.to).unwrap();
    bench.socket.release(&bench.lp).unwrap();
    bench.arrive(&["queued"]);
}

#[test]
fn memory_of_the_queue_goes_when_it_is_not_needed() {
    let bench = Bench::new();
    ROOM.set(0);
    bench.send("queued");
    let has_queue = || {
        let mut core = bench.lp.core().unwrap();
        let udp = state(&mut core.handles, bench.socket.id()).unwrap();
        udp.queue.is_some()
    };
    assert!(has_queue());
    bench.run_with_room(1);
    assert!(!has_queue());
}
