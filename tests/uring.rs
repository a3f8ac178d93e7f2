//! What is the io_uring driver's own: sends that go with the turn, bytes that were received ahead, buffers that run out,
//! and systems that forbid it. Everything else is tested with the other drivers.

#![cfg(all(target_os = "linux", feature = "net"))]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream as StdStream;
use std::thread;
use std::time::Duration;

use common::*;
use kolo::{Code, Loop, LoopOptions, RunMode, Stream, TcpStream, Timer};

fn loop_with(driver: &str) -> kolo::Result<Loop> {
    Loop::with_options(LoopOptions {
        driver: Some(driver.to_owned()),
        ..LoopOptions::default()
    })
}

/// Runs the test on the driver, where there is one.
#[track_caller]
fn on_uring(test: impl FnOnce(Loop)) {
    if has_uring() {
        let _limit = TimeLimit::start(std::panic::Location::caller().to_string());
        test(loop_with("uring").unwrap());
    }
}

type Due = Box<dyn FnOnce(&Loop)>;

/// Other connections, that have something to do in each turn: only then do sends go with the turn.
struct Busy {
    peers: Vec<StdStream>,
    /// What the first of them does in its next callback.
    next: Shared<Vec<Due>>,
}

impl Busy {
    fn new(lp: &Loop) -> Busy {
        let next = Shared::<Vec<Due>>::default();
        let peers = (0..4).map(|number| {
            let next = next.clone();
            let (_, peer) = connected(lp, move |lp: &Loop, _: Stream, _: &[u8]| {
                let due = if number == 0 { next.take() } else { vec![] };
                due.into_iter().for_each(|run| run(lp));
            });
            peer
        });
        let peers = peers.collect();
        Busy { peers, next }
    }

    /// Runs them in one callback of a busy turn, and only that turn.
    fn turn(&mut self, lp: &Loop, run: impl FnOnce(&Loop) + 'static) {
        self.next.push(Box::new(run));
        while !self.next.is_empty() {
            for peer in &mut self.peers {
                peer.write_all(b"!").unwrap();
            }
            lp.run(RunMode::NoWait).unwrap();
        }
    }
}

/// Writes in callbacks, less than what is sent at once each time, until the kernel takes no more; how much.
fn fill_in_callbacks(lp: &Loop, stream: Stream) -> usize {
    let mut busy = Busy::new(lp);
    let mut written = 0;
    while stream.queued(lp).unwrap() < 64 * 1024 {
        let bytes = pattern(written, 3000);
        written += bytes.len();
        busy.turn(lp, move |lp| {
            stream.write(lp, &bytes).unwrap();
        });
    }
    written
}

#[test]
fn what_the_kernel_does_not_take_of_small_writes_is_queued_in_order() {
    on_uring(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        let written = fill_in_callbacks(&lp, *tcp);
        assert_pattern(&read_from_peer(&lp, &peer, written), 0);
        assert_eq!(tcp.queued(&lp).unwrap(), 0);
        let again = fill_in_callbacks(&lp, *tcp);
        tcp.finish(&lp).unwrap();
        let all = read_peer_to_end(&lp, &peer);
        assert_eq!(all.len(), again, "finishing waits for all of it");
        assert_pattern(&all, 0);
        run_to_end(&lp);
        assert!(log.closed());
    });
}

#[test]
fn a_stream_that_finishes_in_the_callback_of_its_small_write_sends_it_first() {
    on_uring(|lp| {
        for fills in [false, true] {
            let log = Log::default();
            let (tcp, peer) = connected(&lp, Script::new(&log));
            let mut written = if fills {
                fill_in_callbacks(&lp, *tcp)
            } else {
                0
            };
            let last = pattern(written, 1000);
            written += last.len();
            Busy::new(&lp).turn(&lp, move |lp| {
                tcp.write(lp, &last).unwrap();
                tcp.finish(lp).unwrap();
            });
            let all = read_peer_to_end(&lp, &peer);
            assert_eq!(all.len(), written);
            assert_pattern(&all, 0);
            run_to_end(&lp);
        }
    });
}

#[test]
fn writes_of_several_callbacks_in_a_turn_keep_their_order() {
    on_uring(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        let mut busy = Busy::new(&lp);
        let mut written = 0;
        for _ in 0..20 {
            // Small ones, which go with the turn, and large ones, which go at once.
            let mut writes = Vec::new();
            for length in [10, 3000, 20, 50_000, 4096, 1, 100_000, 30] {
                writes.push(pattern(written, length));
                written += length;
            }
            busy.turn(&lp, move |lp| {
                for bytes in writes {
                    lp.defer(move |lp: &Loop| {
                        tcp.write(lp, &bytes).unwrap();
                    })
                    .unwrap();
                }
            });
        }
        assert_pattern(&read_from_peer(&lp, &peer, written), 0);
    });
}

#[test]
fn a_small_write_before_close_is_sent() {
    on_uring(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        Busy::new(&lp).turn(&lp, move |lp| {
            tcp.write(lp, b"last words").unwrap();
            lp.close(tcp).unwrap();
        });
        assert_eq!(read_peer_to_end(&lp, &peer), b"last words");
    });
}

#[test]
fn small_writes_are_with_the_kernel_when_run_returns() {
    on_uring(|lp| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&lp, Script::new(&log));
        Busy::new(&lp).turn(&lp, move |lp| {
            tcp.write(lp, b"now").unwrap();
        });
        let mut bytes = [0; 3];
        peer.set_nonblocking(false).unwrap();
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"now");
        // So is the end of a stream that was closed in a callback.
        lp.defer(move |lp: &Loop| lp.close(tcp).unwrap()).unwrap();
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(peer.read(&mut bytes).unwrap(), 0);
    });
}

#[test]
fn what_came_ahead_of_a_pause_is_told_after_it_and_then_the_end() {
    on_uring(|lp| {
        let log = Log::default();
        let script = Script::new(&log)
            .on_data(|lp, stream, _| stream.read_stop(lp).unwrap())
            .on_end(|lp, stream| lp.close(stream).unwrap());
        let (tcp, mut peer) = connected(&lp, script);
        let writing = thread::spawn(move || peer.write_all(&pattern(0, 1_000_000)).unwrap());
        let mut pauses = 0;
        while !log.closed() {
            let before = log.data().len();
            tcp.read_start(&lp).unwrap();
            run_until(&lp, || log.data().len() > before || log.closed());
            let after = log.data().len();
            some_turns(&lp);
            assert_eq!(log.data().len(), after, "bytes in a pause");
            pauses += 1;
        }
        writing.join().unwrap();
        assert!(pauses > 2);
        assert_eq!(log.data().len(), 1_000_000);
        assert_pattern(&log.data(), 0);
        assert_eq!(log.without_data(), [Event::End, Event::Close]);
    });
}

#[test]
fn a_stream_that_pauses_makes_its_peer_wait() {
    on_uring(|lp| {
        let log = Log::default();
        let script = Script::new(&log).on_data(|lp, stream, _| stream.read_stop(lp).unwrap());
        let (_tcp, peer) = connected(&lp, script);
        peer.set_nonblocking(true).unwrap();
        let (mut peer, bytes) = (peer, vec![0; 64 * 1024]);
        let (mut sent, mut quiet) = (0, 0);
        while quiet < 50 {
            match peer.write(&bytes) {
                Ok(length) => (sent, quiet) = (sent + length, 0),
                Err(_) => quiet += 1,
            }
            lp.run(RunMode::NoWait).unwrap();
        }
        assert!(sent < 4 * 1024 * 1024, "{sent} bytes were taken");
    });
}

#[test]
fn release_tells_of_bytes_that_came_ahead_and_loses_none() {
    on_uring(|lp| {
        for first in [true, false] {
            let (log, moved) = (Log::default(), Shared::<Vec<socket2::Socket>>::default());
            let (to, mut callbacks) = (moved.clone(), 0);
            let script = Script::new(&log).on_data(move |lp, stream, _| {
                callbacks += 1;
                if !first && callbacks == 1 {
                    return;
                }
                match TcpStream::from_id(stream.id()).release(lp) {
                    Ok(socket) => to.push(socket),
                    // Then another callback has the rest.
                    Err(error) => assert!(!first && error.code() == Code::EBUSY, "{error}"),
                }
            });
            let (_, mut peer) = connected(&lp, script);
            let writing = thread::spawn(move || peer.write_all(&pattern(0, 3_000_000)).unwrap());
            run_until(&lp, || !moved.is_empty());
            let mut all = log.data();
            let mut rest = StdStream::from(moved.take().pop().unwrap());
            rest.set_nonblocking(false).unwrap();
            rest.read_to_end(&mut all).unwrap();
            writing.join().unwrap();
            assert_eq!(all.len(), 3_000_000);
            assert_pattern(&all, 0);
            run_to_end(&lp);
        }
    });
}

#[test]
fn many_streams_that_use_up_all_buffers_lose_nothing() {
    on_uring(|lp| {
        const EACH: usize = 300_000;
        let logs: Vec<Log> = (0..20).map(|_| Log::default()).collect();
        let mut peers = Vec::new();
        for log in &logs {
            let script = Script::new(log).on_end(|lp, stream| lp.close(stream).unwrap());
            let (_, mut peer) = connected(&lp, script);
            peers.push(thread::spawn(move || {
                peer.write_all(&pattern(0, EACH)).unwrap();
            }));
        }
        run_until(&lp, || logs.iter().all(|log| log.closed()));
        for (log, peer) in logs.iter().zip(peers) {
            peer.join().unwrap();
            assert_eq!(log.data().len(), EACH);
            assert_pattern(&log.data(), 0);
        }
    });
}

#[test]
fn more_streams_than_there_are_buffers_all_get_what_came() {
    on_uring(|lp| {
        let logs: Vec<Log> = (0..200).map(|_| Log::default()).collect();
        let mut streams = Vec::new();
        let mut peers = Vec::new();
        for log in &logs {
            let (stream, mut peer) = connected(&lp, Script::new(log).not_reading());
            peer.write_all(&pattern(0, 1000)).unwrap();
            streams.push(stream);
            peers.push(peer);
        }
        // In one callback, so that all of them are received from with one call.
        in_callback(&lp, move |lp| {
            for stream in streams {
                stream.read_start(lp).unwrap();
            }
        });
        run_until(&lp, || logs.iter().all(|log| log.data().len() == 1000));
        logs.iter().for_each(|log| assert_pattern(&log.data(), 0));
    });
}

#[test]
fn a_stream_that_brings_now_much_and_now_little_keeps_its_order() {
    on_uring(|lp| {
        let log = Log::default();
        let script = Script::new(&log).on_end(|lp, stream| lp.close(stream).unwrap());
        let (tcp, peer) = connected(&lp, script);
        let sizes = [
            1, 300_000, 1, 1, 1, 70_000, 70_000, 9, 40_000, 1, 300_000, 5, 5, 5,
        ];
        for (number, size) in sizes.into_iter().enumerate() {
            let before = log.data().len();
            let mut writing = peer.try_clone().unwrap();
            let writing = thread::spawn(move || writing.write_all(&pattern(before, size)).unwrap());
            // A pause in the middle changes nothing.
            if number % 3 == 1 {
                run_until(&lp, || log.data().len() > before);
                tcp.read_stop(&lp).unwrap();
                some_turns(&lp);
                tcp.read_start(&lp).unwrap();
            }
            run_until(&lp, || log.data().len() == before + size);
            writing.join().unwrap();
        }
        assert_pattern(&log.data(), 0);
        drop(peer);
        run_until(&lp, || log.closed());
    });
}

#[test]
fn a_panic_in_a_callback_loses_neither_bytes_nor_buffers() {
    on_uring(|lp| {
        let log = Log::default();
        let mut count = 0;
        let script = Script::new(&log)
            .on_data(move |_, _, _| {
                count += 1;
                if count % 3 == 0 {
                    std::panic::resume_unwind(Box::new("now and then"));
                }
            })
            .on_end(|lp, stream| lp.close(stream).unwrap());
        let (_, mut peer) = connected(&lp, script);
        let writing = thread::spawn(move || peer.write_all(&pattern(0, 3_000_000)).unwrap());
        while !log.closed() {
            let run = std::panic::AssertUnwindSafe(|| lp.run(RunMode::Once));
            let _ = std::panic::catch_unwind(run);
        }
        writing.join().unwrap();
        assert_eq!(log.data().len(), 3_000_000);
        assert_pattern(&log.data(), 0);
    });
}

#[test]
fn timers_are_not_early_and_a_quiet_loop_waits() {
    on_uring(|lp| {
        let log = Log::default();
        let (tcp, _peer) = connected(&lp, Script::new(&log));
        // Leaves operations that end without anybody's interest.
        tcp.read_stop(&lp).unwrap();
        tcp.read_start(&lp).unwrap();
        let begun = std::time::Instant::now();
        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        Timer::after(&lp, Duration::from_micros(20_500), move |_| counted.add()).unwrap();
        let before = lp.metrics().turns;
        run_until(&lp, || fired.get() == 1);
        assert!(begun.elapsed() >= Duration::from_micros(20_500));
        assert!(lp.metrics().turns - before <= 3, "it did not wait");
    });
}

/// Has the kernel refuse a system call of this thread's from now on (seccomp(2)).
fn forbid(call: libc::c_long) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(IF_EQUAL, 0, 1, call as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &filter), 0);
    }
}

/// An echo between a stream of the loop and a peer.
fn exchange(lp: &Loop) {
    let log = Log::default();
    let (tcp, mut peer) = connected(lp, Script::new(&log));
    peer.write_all(b"x").unwrap();
    run_until(lp, || log.data() == b"x");
    lp.close(tcp).unwrap();
    run_to_end(lp);
}

#[test]
fn where_memory_may_not_be_locked_a_loop_works_or_says_why_not() {
    in_own_process!(|| {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // The limit does not count for root.
        let nobody = 65534;
        unsafe {
            assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &none), 0);
            if libc::geteuid() == 0 {
                assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
                assert_eq!(libc::setgid(nobody), 0);
                assert_eq!(libc::setuid(nobody), 0);
            }
        }
        match loop_with("uring") {
            Ok(lp) => exchange(&lp),
            Err(error) => {
                let code = error.code();
                assert!(
                    [Code::ENOMEM, Code::ENOTSUP, Code::EPERM].contains(&code),
                    "{error}"
                );
            }
        }
        exchange(&Loop::new().unwrap());
    });
}

#[test]
fn without_descriptors_a_loop_says_so() {
    in_own_process!(|| {
        if !has_uring() {
            return;
        }
        let (lowest, mut held) = (std::fs::File::open("/dev/null").unwrap(), Vec::new());
        let few = libc::rlimit {
            rlim_cur: std::os::fd::AsRawFd::as_raw_fd(&lowest) as libc::rlim_t + 4,
            rlim_max: 4096,
        };
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &few) }, 0);
        while let Ok(another) = lowest.try_clone() {
            held.push(another);
        }
        // However many there are until it is made, each step that fails is told, and leaves nothing behind.
        for _ in 0..held.len() {
            assert_eq!(loop_with("uring").unwrap_err().code(), Code::EMFILE);
            drop(held.pop());
        }
        let free = (0..).take_while(|_| lowest.try_clone().map(|one| held.push(one)).is_ok());
        assert!(free.count() >= 3, "descriptors were left behind");
    });
}

#[test]
fn where_it_is_forbidden_a_loop_has_another_driver_unless_it_was_asked_for() {
    in_own_process!(|| {
        let calls = [
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_io_uring_setup,
        ];
        for call in calls {
            let forbidden = thread::spawn(move || {
                forbid(call);
                assert_eq!(loop_with("uring").unwrap_err().code(), Code::ENOTSUP);
                let lp = Loop::new().unwrap();
                assert_eq!(lp.driver_name(), "poller");
                let (log, other) = (Log::default(), Log::default());
                let (tcp, mut peer) = connected(&lp, Script::new(&log));
                drop(other);
                peer.write_all(b"x").unwrap();
                run_until(&lp, || log.data() == b"x");
                lp.close(tcp).unwrap();
                run_to_end(&lp);
            });
            forbidden.join().unwrap();
        }
    });
}
