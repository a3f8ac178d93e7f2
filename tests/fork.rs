//! Forks: a child has a copy of the loop and shares the kernel's objects. Each test runs in a process of its own.

#![cfg(all(unix, feature = "net"))]

mod common;

use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::*;
use kolo::{
    Code, Interest, Loop, LoopOptions, Poll, RunMode, Signal, Stream, TcpListener, TcpStream,
    Timer, Waker,
};

/// Runs the function in a forked child; the child's end is the function's.
struct Child(libc::pid_t);

impl Child {
    fn fork(run: impl FnOnce()) -> Child {
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                // A hang ends it.
                unsafe { libc::alarm(50) };
                let outcome = catch_unwind(AssertUnwindSafe(run));
                unsafe { libc::_exit(i32::from(outcome.is_err())) }
            }
            child => Child(child),
        }
    }

    /// Waits for the child's end, which must be a good one.
    fn join(self) {
        let mut status = 0;
        assert_eq!(unsafe { libc::waitpid(self.0, &mut status, 0) }, self.0);
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "the child failed: status {status}"
        );
    }
}

#[test]
fn a_child_is_told_so_until_the_loop_has_objects_of_its_own() {
    in_own_process!(|| each_driver(|lp| {
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        let waker = Waker::open(&lp, |_, _| ()).unwrap();
        Child::fork(|| {
            for outcome in [
                lp.run(RunMode::NoWait).map(drop),
                lp.defer(|_: &Loop| ()),
                lp.close(timer),
                lp.unref(timer),
                timer.start(&lp, Duration::ZERO),
                timer.stop(&lp),
                Timer::open(&lp, |_, _| ()).map(drop),
                TcpListener::listen(&lp, "127.0.0.1:0".parse().unwrap(), |_: &Loop, _, _| ())
                    .map(drop),
                waker.remote(&lp).map(drop),
            ] {
                assert_eq!(code(outcome), Code::EFORKED);
            }
            lp.forked().unwrap();
            timer.start(&lp, Duration::ZERO).unwrap();
            lp.close(waker).unwrap();
            run_to_end(&lp);
        })
        .join();
        // The parent was never disturbed.
        timer.start(&lp, Duration::from_millis(1)).unwrap();
        lp.close(waker).unwrap();
        run_to_end(&lp);
    }));
}

#[test]
fn everything_works_on_in_the_child() {
    in_own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let script = Script::new(&log).on_data(|lp, stream, data| {
            stream.write(lp, data).unwrap();
        });
        let (_tcp, mut peer) = connected(&lp, script);
        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        let timer = Timer::open(&lp, move |_, _| counted.add()).unwrap();
        timer.start(&lp, Duration::from_millis(5)).unwrap();
        let woken = Shared::<usize>::default();
        let counted = woken.clone();
        let waker = Waker::open(&lp, move |_, _| counted.add()).unwrap();
        let remote = waker.remote(&lp).unwrap();
        let signalled = Shared::<usize>::default();
        let counted = signalled.clone();
        let signal = Signal::open(&lp, move |_, _, _| counted.add()).unwrap();
        signal.start(&lp, libc::SIGUSR1).unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let readable = Shared::<usize>::default();
        let counted = readable.clone();
        let poll = Poll::open(&lp, ours.as_raw_fd(), move |_, _, _| counted.add()).unwrap();
        poll.start(&lp, Interest::READABLE).unwrap();
        let listener = TcpListener::listen(
            &lp,
            "127.0.0.1:0".parse().unwrap(),
            |lp: &Loop, _, tcp: TcpStream| {
                tcp.attach(lp, |lp: &Loop, stream: Stream, data: &[u8]| {
                    stream.write(lp, data).unwrap();
                })
                .unwrap();
            },
        )
        .unwrap();
        let address = listener.address(&lp).unwrap();
        some_turns(&lp);

        let mut check = || {
            run_until(&lp, || fired.get() == 1);
            remote.wake().unwrap();
            run_until(&lp, || woken.get() == 1);
            let posted = std::sync::Arc::new(());
            let held = posted.clone();
            remote.post(move |_: &Loop| drop(held)).unwrap();
            run_until(&lp, || std::sync::Arc::strong_count(&posted) == 1);
            unsafe { libc::raise(libc::SIGUSR1) };
            run_until(&lp, || signalled.get() == 1);
            theirs.write_all(b"x").unwrap();
            run_until(&lp, || readable.get() > 0);
            ours.read_exact(&mut [0]).unwrap();
            peer.write_all(b"echo").unwrap();
            assert_eq!(read_from_peer(&lp, &peer, 4), b"echo");
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(b"new").unwrap();
            assert_eq!(read_from_peer(&lp, &client, 3), b"new");
        };
        // First the child to its end, then the parent, which finds everything as it was.
        Child::fork(|| {
            lp.forked().unwrap();
            check();
        })
        .join();
        check();
    }));
}

#[test]
fn what_the_child_closes_and_stops_stays_with_the_parent() {
    in_own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&lp, Script::new(&log));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let readable = Shared::<usize>::default();
        let counted = readable.clone();
        let poll = Poll::open(&lp, ours.as_raw_fd(), move |lp, poll, _| {
            counted.add();
            poll.stop(lp).unwrap();
        })
        .unwrap();
        poll.start(&lp, Interest::READABLE).unwrap();
        let signalled = Shared::<usize>::default();
        let counted = signalled.clone();
        let signal = Signal::open(&lp, move |_, _, _| counted.add()).unwrap();
        signal.start(&lp, libc::SIGUSR1).unwrap();
        some_turns(&lp);
        Child::fork(|| {
            lp.forked().unwrap();
            for id in lp.handles() {
                lp.close(id).unwrap();
            }
            run_to_end(&lp);
            assert_eq!(log.events(), [Event::Close]);
        })
        .join();
        peer.write_all(b"to the parent").unwrap();
        run_until(&lp, || log.data() == b"to the parent");
        theirs.write_all(b"x").unwrap();
        run_until(&lp, || readable.get() == 1);
        unsafe { libc::raise(libc::SIGUSR1) };
        run_until(&lp, || signalled.get() == 1);
        lp.remote().wake().unwrap();
        lp.run(RunMode::Once).unwrap();
        tcp.write(&lp, b"answer").unwrap();
        assert_eq!(read_from_peer(&lp, &peer, 6), b"answer");
        assert!(!log.closed());
    }));
}

#[test]
fn a_child_that_only_drops_the_loop_leaves_the_parents_alone() {
    in_own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&lp, Script::new(&log));
        some_turns(&lp);
        let mut loop_of_child = Some(lp);
        let child = Child::fork(|| drop(loop_of_child.take()));
        child.join();
        let lp = loop_of_child.take().unwrap();
        peer.write_all(b"to the parent").unwrap();
        run_until(&lp, || log.data() == b"to the parent");
        let remote = lp.remote();
        let waking = std::thread::spawn(move || remote.wake().unwrap());
        lp.run(RunMode::Once).unwrap();
        waking.join().unwrap();
        tcp.write(&lp, b"answer").unwrap();
        assert_eq!(read_from_peer(&lp, &peer, 6), b"answer");
    }));
}

#[test]
fn a_signal_to_the_child_is_not_the_parents() {
    in_own_process!(|| each_driver(|lp| {
        let told = Shared::<usize>::default();
        let counted = told.clone();
        let signal = Signal::open(&lp, move |_, _, _| counted.add()).unwrap();
        signal.start(&lp, libc::SIGUSR1).unwrap();
        let other = Shared::<usize>::default();
        let counted = other.clone();
        let second = Signal::open(&lp, move |_, _, _| counted.add()).unwrap();
        second.start(&lp, libc::SIGUSR2).unwrap();
        // Pending in the parent at the fork: the parent's own.
        unsafe { libc::raise(libc::SIGUSR1) };
        Child::fork(|| {
            // Before and after the loop is told of the fork.
            unsafe { libc::raise(libc::SIGUSR1) };
            lp.forked().unwrap();
            some_turns(&lp);
            assert_eq!(told.get(), 0);
            unsafe { libc::raise(libc::SIGUSR2) };
            run_until(&lp, || other.get() == 1);
            assert_eq!(told.get(), 0);
            unsafe { libc::raise(libc::SIGUSR1) };
            run_until(&lp, || told.get() == 1);
        })
        .join();
        run_until(&lp, || told.get() == 1);
        some_turns(&lp);
        assert_eq!(told.get(), 1);
    }));
}

#[test]
fn queued_writes_are_whoevers_sends_them() {
    in_own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        let written = fill(&lp, *tcp);
        // The child closes what it does not serve; the parent sends on.
        Child::fork(|| {
            lp.forked().unwrap();
            lp.close(tcp).unwrap();
            run_to_end(&lp);
        })
        .join();
        let all = read_from_peer(&lp, &peer, written);
        assert_pattern(&all, 0);
        // And the other way: the parent waits while the child sends all.
        let written = fill(&lp, *tcp);
        let child = Child::fork(|| {
            lp.forked().unwrap();
            tcp.finish(&lp).unwrap();
            run_to_end(&lp);
            assert!(log.closed());
        });
        let mut all = Vec::new();
        while all.len() < written {
            if let Some(bytes) = read_now(&peer) {
                assert!(!bytes.is_empty(), "the parent's end is open");
                all.extend(bytes);
            }
        }
        assert_pattern(&all, 0);
        child.join();
    }));
}

#[test]
fn a_child_that_returns_into_the_loop_gets_no_further_than_its_callback() {
    in_own_process!(|| each_driver(|lp| {
        // Which process this is: 0 is the child.
        let child = Shared::<Option<libc::pid_t>>::default();
        let (forks, heard) = (child.clone(), Shared::<usize>::default());
        let count = heard.clone();
        let answer = move |lp: &Loop, stream: Stream, data: &[u8]| {
            count.add();
            stream.write(lp, data).unwrap();
            if forks.get().is_none() {
                forks.set(Some(unsafe { libc::fork() }));
            }
        };
        // Whichever of the two is heard first forks; the other's bytes are the parent's.
        let log = Log::default();
        let (one, mut first) = connected(&lp, Script::new(&log).on_data(answer.clone()));
        let (two, mut second) = connected(&lp, Script::new(&log).on_data(answer));
        some_turns(&lp);
        first.write_all(b"one").unwrap();
        second.write_all(b"two").unwrap();
        let outcome = loop {
            match lp.run(RunMode::Once) {
                Ok(_) if heard.get() < 2 => {}
                outcome => break outcome,
            }
        };
        if child.get() == Some(0) {
            unsafe { libc::alarm(50) };
            let ended = catch_unwind(AssertUnwindSafe(|| {
                assert_eq!(code(outcome), Code::EFORKED);
                assert_eq!(heard.get(), 1);
                lp.forked().unwrap();
                lp.close(one).unwrap();
                lp.close(two).unwrap();
                run_to_end(&lp);
            }));
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
        outcome.unwrap();
        Child(child.get().unwrap()).join();
        // Each answer came once, of one process.
        for (name, peer) in [("one", &first), ("two", &second)] {
            assert_eq!(read_from_peer(&lp, peer, 3), name.as_bytes());
            some_turns(&lp);
            assert_eq!(read_now(peer), None);
        }
    }));
}

#[test]
fn a_loop_made_in_the_child_is_an_ordinary_one() {
    in_own_process!(|| each_driver(|lp| {
        some_turns(&lp);
        Child::fork(|| {
            let own = Loop::new().unwrap();
            let log = Log::default();
            let (_, mut peer) = connected(&own, Script::new(&log));
            peer.write_all(b"x").unwrap();
            run_until(&own, || log.data() == b"x");
        })
        .join();
    }));
}

#[test]
fn a_loop_made_in_the_child_hears_a_signal_that_the_parents_loop_watches() {
    in_own_process!(|| each_driver(|lp| {
        let told = Shared::<usize>::default();
        let counted = told.clone();
        let signal = Signal::open(&lp, move |_, _, _| counted.add()).unwrap();
        signal.start(&lp, libc::SIGUSR1).unwrap();
        Child::fork(|| {
            // The parent's loop is neither given objects of its own nor dropped.
            let own = Loop::new().unwrap();
            let told = Shared::<usize>::default();
            let counted = told.clone();
            let signal = Signal::open(&own, move |_, _, _| counted.add()).unwrap();
            signal.start(&own, libc::SIGUSR1).unwrap();
            unsafe { libc::raise(libc::SIGUSR1) };
            run_until(&own, || told.get() == 1);
        })
        .join();
        let turns = lp.metrics().events;
        some_turns(&lp);
        assert_eq!(told.get(), 0);
        assert_eq!(lp.metrics().events, turns, "the parent was woken");
        unsafe { libc::raise(libc::SIGUSR1) };
        run_until(&lp, || told.get() == 1);
    }));
}

#[test]
fn a_fork_while_other_threads_post_and_wake_leaves_the_child_a_whole_loop() {
    let few_posts = || LoopOptions {
        post_capacity: NonZeroU32::new(1000).unwrap(),
        ..Default::default()
    };
    in_own_process!(|| each_driver_with(few_posts, |lp| {
        let woken = Shared::<usize>::default();
        let counted = woken.clone();
        let waker = Waker::open(&lp, move |_, _| counted.add()).unwrap();
        let remote = waker.remote(&lp).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let threads = [true, false].map(|posts| {
            let (remote, ended) = (remote.clone(), ended.clone());
            thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    if posts {
                        // Too many now and then, which is no matter here.
                        let _ = remote.post(|_: &Loop| ());
                    } else {
                        remote.wake().unwrap();
                    }
                }
            })
        });
        let mut kept = Some(lp);
        for round in 0..100 {
            Child::fork(|| {
                let lp = kept.take().unwrap();
                if round % 2 == 0 {
                    lp.forked().unwrap();
                    // What the parent's threads had posted and woken by then.
                    some_turns(&lp);
                    let before = woken.get();
                    remote.wake().unwrap();
                    let ran = Arc::new(AtomicBool::new(false));
                    let set = ran.clone();
                    let post = move |_: &Loop| set.store(true, Ordering::Relaxed);
                    remote.post(post).unwrap();
                    run_until(&lp, || ran.load(Ordering::Relaxed) && woken.get() > before);
                }
                drop(lp);
            })
            .join();
            some_turns(kept.as_ref().unwrap());
        }
        ended.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
    }));
}

#[test]
fn a_fork_while_other_threads_make_loops_and_watch_signals_leaves_the_child_whole_locks() {
    in_own_process!(|| {
        let _limit = TimeLimit::start("forks while loops come and go".to_owned());
        fn make_and_watch() {
            let lp = Loop::new().unwrap();
            let signal = Signal::open(&lp, |_, _, _| ()).unwrap();
            signal.start(&lp, libc::SIGUSR1).unwrap();
            signal.stop(&lp).unwrap();
        }
        let over = Arc::new(AtomicBool::new(false));
        let others: Vec<_> = (0..3)
            .map(|_| {
                let over = over.clone();
                thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        make_and_watch();
                    }
                })
            })
            .collect();
        for _ in 0..300 {
            Child::fork(make_and_watch).join();
        }
        over.store(true, Ordering::Relaxed);
        for other in others {
            other.join().unwrap();
        }
    });
}
