//! Foreign descriptors: what another library owns is watched, and never touched.

#![cfg(unix)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;

use common::*;
use kolo::{Code, Interest, Loop, Poll, RunMode, Timer};

/// A poll that notes what it is told.
fn watch(lp: &Loop, descriptor: RawFd) -> (Poll, Shared<Vec<Interest>>) {
    let told = Shared::<Vec<Interest>>::default();
    let list = told.clone();
    let poll = Poll::open(lp, descriptor, move |_, _, found| list.push(found.unwrap())).unwrap();
    (poll, told)
}

fn is_open(descriptor: RawFd) -> bool {
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) >= 0 }
}

#[test]
fn readable_is_told_each_turn_until_it_is_read() {
    each_driver(|lp| {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let (poll, told) = watch(&lp, ours.as_raw_fd());
        poll.start(&lp, Interest::READABLE).unwrap();
        some_turns(&lp);
        assert!(told.is_empty());
        theirs.write_all(b"xy").unwrap();
        for turn in 1..=3 {
            lp.run(RunMode::Once).unwrap();
            assert_eq!(told.len(), turn);
        }
        // Reading a part leaves it readable.
        ours.read_exact(&mut [0]).unwrap();
        lp.run(RunMode::Once).unwrap();
        assert_eq!(told.take(), [Interest::READABLE; 4]);
        ours.read_exact(&mut [0]).unwrap();
        some_turns(&lp);
        assert!(told.is_empty());
        theirs.write_all(b"z").unwrap();
        run_until(&lp, || told.len() == 1);
    });
}

#[test]
fn writable_is_told_when_there_is_room() {
    each_driver(|lp| {
        let (ours, mut peer) = socket_pair();
        ours.set_nonblocking(true).unwrap();
        let (poll, told) = watch(&lp, ours.as_raw_fd());
        poll.start(&lp, Interest::WRITABLE).unwrap();
        run_until(&lp, || told.len() == 3);
        assert!(told.take().iter().all(|found| *found == Interest::WRITABLE));
        let mut written = 0;
        while let Ok(length) = (&ours).write(&[0; 65_536]) {
            written += length;
        }
        some_turns(&lp);
        // Room may have come while the last write was under way, but not for long.
        while let Ok(length) = (&ours).write(&[0; 65_536]) {
            written += length;
        }
        told.take();
        some_turns(&lp);
        assert!(told.is_empty());
        peer.read_exact(&mut vec![0; written]).unwrap();
        run_until(&lp, || !told.is_empty());
    });
}

#[test]
fn both_are_told_at_once_and_the_set_can_be_changed() {
    each_driver(|lp| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        let (poll, told) = watch(&lp, ours.as_raw_fd());
        let both = Interest::READABLE | Interest::WRITABLE;
        for set in [both, Interest::READABLE, Interest::WRITABLE, both] {
            poll.start(&lp, set).unwrap();
            told.take();
            lp.run(RunMode::Once).unwrap();
            assert_eq!(told.take(), [set]);
        }
        assert_eq!(code(poll.start(&lp, Interest::empty())), Code::EINVAL);
    });
}

#[test]
fn the_set_can_be_changed_in_the_callback() {
    each_driver(|lp| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        let told = Shared::<Vec<Interest>>::default();
        let list = told.clone();
        let poll = Poll::open(&lp, ours.as_raw_fd(), move |lp, poll, found| {
            let found = found.unwrap();
            list.push(found);
            let other = Interest::READABLE | Interest::WRITABLE;
            poll.start(lp, other - found).unwrap();
        })
        .unwrap();
        poll.start(&lp, Interest::READABLE).unwrap();
        run_until(&lp, || told.len() == 4);
        let (readable, writable) = (Interest::READABLE, Interest::WRITABLE);
        assert_eq!(told.take()[..4], [readable, writable, readable, writable]);
    });
}

#[test]
fn stopping_holds_from_the_call_on() {
    each_driver(|lp| {
        // Two that are ready in the same turn: each stops the other.
        let pairs: Vec<_> = (0..2).map(|_| UnixStream::pair().unwrap()).collect();
        let told = Shared::<usize>::default();
        let polls = Shared::<Vec<Poll>>::default();
        for (ours, theirs) in &pairs {
            let mut theirs = theirs;
            theirs.write_all(b"x").unwrap();
            let (counted, all) = (told.clone(), polls.clone());
            let poll = Poll::open(&lp, ours.as_raw_fd(), move |lp, _, _| {
                counted.add();
                for poll in all.get() {
                    poll.stop(lp).unwrap();
                    assert!(!lp.is_active(poll).unwrap());
                }
            })
            .unwrap();
            poll.start(&lp, Interest::READABLE).unwrap();
            polls.push(poll);
        }
        run_to_end(&lp);
        assert_eq!(told.get(), 1);
        // It can be started again.
        for poll in polls.get() {
            poll.start(&lp, Interest::READABLE).unwrap();
        }
        run_to_end(&lp);
        assert_eq!(told.get(), 2);
    });
}

#[test]
fn the_peers_end_shows() {
    each_driver(|lp| {
        let (ours, peer) = socket_pair();
        let (poll, told) = watch(&lp, ours.as_raw_fd());
        let interest = Interest::READABLE | Interest::DISCONNECT;
        poll.start(&lp, interest).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        run_until(&lp, || !told.is_empty());
        let found = told.take()[0];
        // DISCONNECT is a hint for a half-close; what has epoll knows it.
        assert!(found.contains(Interest::READABLE));
        if lp.driver_name() == "poller" {
            assert_eq!(found, interest);
        }
        // Closed in both directions every driver knows it.
        ours.shutdown(Shutdown::Write).unwrap();
        told.take();
        run_until(&lp, || {
            told.with(|told| {
                told.iter()
                    .any(|found| found.contains(Interest::DISCONNECT))
            })
        });
    });
}

#[test]
fn a_broken_connection_is_ready_for_what_is_asked() {
    each_driver(|lp| {
        for interest in [Interest::READABLE, Interest::WRITABLE, Interest::DISCONNECT] {
            let (ours, peer) = socket_pair();
            let (poll, told) = watch(&lp, ours.as_raw_fd());
            reset(peer);
            poll.start(&lp, interest).unwrap();
            run_until(&lp, || !told.is_empty());
            assert_eq!(told.take()[0], interest);
            lp.close(poll).unwrap();
        }
    });
}

#[test]
fn urgent_data_is_priority() {
    each_driver(|lp| {
        let (ours, peer) = socket_pair();
        let (poll, told) = watch(&lp, ours.as_raw_fd());
        poll.start(&lp, Interest::PRIORITY).unwrap();
        some_turns(&lp);
        assert!(told.is_empty());
        socket2::SockRef::from(&peer)
            .send_out_of_band(b"!")
            .unwrap();
        run_until(&lp, || !told.is_empty());
        assert!(told.take().iter().all(|found| *found == Interest::PRIORITY));
    });
}

#[test]
fn a_started_poll_holds_the_loop() {
    each_driver(|lp| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (poll, _) = watch(&lp, ours.as_raw_fd());
        assert!(!lp.is_alive());
        poll.start(&lp, Interest::READABLE).unwrap();
        assert!(lp.is_alive() && lp.is_active(poll).unwrap());
        lp.unref(poll).unwrap();
        assert!(!lp.is_alive());
        lp.reference(poll).unwrap();
        poll.stop(&lp).unwrap();
        poll.stop(&lp).unwrap();
        assert!(!lp.is_alive() && !lp.is_active(poll).unwrap());
    });
}

#[test]
fn the_descriptor_stays_its_owners() {
    each_driver(|lp| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let descriptor = ours.as_raw_fd();
        let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
        let (poll, _) = watch(&lp, descriptor);
        poll.start(&lp, Interest::READABLE).unwrap();
        some_turns(&lp);
        lp.close(poll).unwrap();
        run_to_end(&lp);
        assert!(is_open(descriptor));
        assert_eq!(unsafe { libc::fcntl(descriptor, libc::F_GETFL) }, flags);
        let (poll, _) = watch(&lp, descriptor);
        poll.start(&lp, Interest::READABLE).unwrap();
        drop(lp);
        assert!(is_open(descriptor));
        theirs.write_all(b"x").unwrap();
        (&ours).read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn after_its_poll_is_closed_the_descriptors_number_can_be_anothers() {
    each_driver(|lp| {
        for _ in 0..50 {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let (poll, told) = watch(&lp, ours.as_raw_fd());
            poll.start(&lp, Interest::READABLE).unwrap();
            theirs.write_all(b"x").unwrap();
            run_until(&lp, || !told.is_empty());
            lp.close(poll).unwrap();
            drop(ours);
            // Most likely the same number.
            let (other, _kept) = UnixStream::pair().unwrap();
            let (poll, told) = watch(&lp, other.as_raw_fd());
            poll.start(&lp, Interest::READABLE).unwrap();
            some_turns(&lp);
            assert!(told.is_empty());
            lp.close(poll).unwrap();
        }
    });
}

#[test]
fn what_cannot_be_watched_is_an_error() {
    each_driver(|lp| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (first, told) = watch(&lp, ours.as_raw_fd());
        let (second, _) = watch(&lp, ours.as_raw_fd());
        first.start(&lp, Interest::READABLE).unwrap();
        assert_eq!(code(second.start(&lp, Interest::WRITABLE)), Code::EEXIST);
        assert!(!lp.is_active(second).unwrap());
        // The first is not disturbed; once it stops, the second may.
        some_turns(&lp);
        assert!(told.is_empty());
        first.stop(&lp).unwrap();
        second.start(&lp, Interest::WRITABLE).unwrap();

        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let (poll, _) = watch(&lp, file.as_raw_fd());
        assert_eq!(code(poll.start(&lp, Interest::READABLE)), Code::EPERM);

        let closed = File::open("/dev/null").unwrap().into_raw_fd();
        let (poll, _) = watch(&lp, closed);
        unsafe { libc::close(closed) };
        assert_eq!(code(poll.start(&lp, Interest::READABLE)), Code::EBADF);
        for bad in [-1, i32::MAX] {
            assert_eq!(code(Poll::open(&lp, bad, |_, _, _| ())), Code::EBADF);
        }
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        assert_eq!(
            code(Poll::from_id(timer.id()).start(&lp, Interest::READABLE)),
            Code::EBADF
        );
    });
}

#[test]
fn a_loop_can_be_watched_by_another() {
    each_driver(|lp| {
        // `lp` stands inside of an outer loop that waits for it.
        let outer = Loop::new().unwrap();
        let inner: &'static Loop = Box::leak(Box::new(lp));
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let (poll, told) = watch(inner, ours.as_raw_fd());
        poll.start(inner, Interest::READABLE).unwrap();
        assert_eq!(inner.backend_timeout(), None);
        let turns = Shared::<usize>::default();
        let counted = turns.clone();
        let watched = Poll::open(
            &outer,
            inner.backend_descriptor().unwrap(),
            move |_, _, _| {
                counted.add();
                inner.run(RunMode::NoWait).unwrap();
            },
        )
        .unwrap();
        watched.start(&outer, Interest::READABLE).unwrap();
        some_turns(&outer);
        let before = turns.get();
        theirs.write_all(b"x").unwrap();
        run_until(&outer, || !told.is_empty());
        assert!(turns.get() > before);
        ours.read_exact(&mut [0]).unwrap();
        // Posts show there, too.
        let (sender, receiver) = std::sync::mpsc::channel();
        let remote = inner.remote();
        std::thread::spawn(move || {
            remote
                .post(move |_: &Loop| sender.send(()).unwrap())
                .unwrap()
        });
        run_until(&outer, || receiver.try_recv().is_ok());
        inner.close(poll).unwrap();
        assert_eq!(inner.backend_timeout(), Some(std::time::Duration::ZERO));
        run_to_end(inner);
    });
}

/// Waits at a loop's backend descriptor alone, as a foreign loop does, and turns the loop when that is readable.
#[cfg(target_os = "linux")]
#[track_caller]
fn run_from_outside(lp: &Loop, mut condition: impl FnMut() -> bool) {
    let mut backend = libc::pollfd {
        fd: lp.backend_descriptor().unwrap(),
        events: libc::POLLIN,
        revents: 0,
    };
    while !condition() {
        let milliseconds = match lp.backend_timeout() {
            Some(timeout) if timeout.is_zero() => 0,
            _ => 10_000,
        };
        let ready = unsafe { libc::poll(&mut backend, 1, milliseconds) };
        assert!(ready == 1 || milliseconds == 0, "it is not readable");
        lp.run(RunMode::NoWait).unwrap();
    }
}

/// Linux writes to the event descriptor of a ring only once when what came is a write to an event descriptor.
#[test]
#[cfg(target_os = "linux")]
fn another_loop_hears_of_every_post_and_of_every_write_to_an_event_descriptor() {
    use std::os::fd::{FromRawFd, OwnedFd};
    each_driver(|lp| {
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        let event = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        let (poll, told) = watch(&lp, event.as_raw_fd());
        poll.start(&lp, Interest::READABLE).unwrap();
        let remote = lp.remote();
        for round in 0..10 {
            some_turns(&lp);
            let (sender, receiver) = std::sync::mpsc::channel();
            let (remote, mut writer) = (remote.clone(), event.try_clone().unwrap());
            let other = std::thread::spawn(move || {
                // Mostly when the loop's thread waits already.
                std::thread::sleep(std::time::Duration::from_millis(1));
                match round % 2 {
                    0 => remote
                        .post(move |_: &Loop| sender.send(()).unwrap())
                        .unwrap(),
                    _ => writer.write_all(&1u64.to_ne_bytes()).unwrap(),
                }
            });
            run_from_outside(&lp, || receiver.try_recv().is_ok() || !told.is_empty());
            other.join().unwrap();
            if !told.take().is_empty() {
                (&event).read_exact(&mut [0; 8]).unwrap();
            }
        }
    });
}

/// A wait that ended at once, again and again, would make thousands of turns.
#[test]
fn unread_bytes_do_not_keep_the_loop_from_waiting() {
    for interest in [Interest::DISCONNECT, Interest::PRIORITY] {
        each_driver(|lp| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(b"unread").unwrap();
            let poll = Poll::open(&lp, ours.as_raw_fd(), |_, _, found| {
                panic!("{found:?}");
            })
            .unwrap();
            poll.start(&lp, interest).unwrap();
            let before = lp.metrics().turns;
            run_for(&lp, std::time::Duration::from_millis(30));
            let turns = lp.metrics().turns - before;
            assert!(turns < 20, "{interest:?}: {turns} turns");
        });
    }
}
