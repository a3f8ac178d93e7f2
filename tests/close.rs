//! Closing: a handle is dead at once, and its last callback is told once. Dropping a loop closes everything.

#![cfg(all(unix, feature = "net"))]

mod common;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::*;
use kolo::{
    Code, Hook, HookKind, Id, Interest, Kind, Loop, Poll, RunMode, Signal, Stream, Task,
    TcpListener, TcpStream, Timer, Waker,
};

fn any_port() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// One handle of each kind, active, whose callbacks share `held`; and what keeps their other ends open.
fn one_of_each(lp: &Loop, held: &Shared<Vec<Id>>) -> (Vec<Id>, Vec<Box<dyn std::any::Any>>) {
    let hold = || held.clone();
    let held_by = hold();
    let timer = Timer::open(lp, move |_, timer| held_by.push(timer.id())).unwrap();
    timer.start(lp, Duration::from_secs(3600)).unwrap();
    let held_by = hold();
    let hook = Hook::open(lp, HookKind::Check, move |_, hook| held_by.push(hook.id())).unwrap();
    hook.start(lp).unwrap();
    let held_by = hold();
    let waker = Waker::open(lp, move |_, waker| held_by.push(waker.id())).unwrap();
    let held_by = hold();
    let signal = Signal::open(lp, move |_, signal, _| held_by.push(signal.id())).unwrap();
    signal.start(lp, libc::SIGURG).unwrap();
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let held_by = hold();
    let poll = Poll::open(lp, reader.as_raw_fd(), move |_, poll, _| {
        held_by.push(poll.id())
    })
    .unwrap();
    poll.start(lp, Interest::READABLE).unwrap();
    let held_by = hold();
    let listener =
        TcpListener::listen(lp, any_port(), move |_: &Loop, listener: TcpListener, _| {
            held_by.push(listener.id())
        })
        .unwrap();
    let held_by = hold();
    let (tcp, peer) = connected(lp, move |_: &Loop, stream: Stream, _: &[u8]| {
        held_by.push(stream.id())
    });
    let ids = vec![
        timer.id(),
        hook.id(),
        waker.id(),
        signal.id(),
        poll.id(),
        listener.id(),
        tcp.id(),
    ];
    (
        ids,
        vec![Box::new(reader), Box::new(writer), Box::new(peer)],
    )
}

#[test]
fn a_closed_handle_of_any_kind_is_dead_at_once_and_closes_once() {
    each_driver(|lp| {
        let held = Shared::default();
        let (ids, _others) = one_of_each(&lp, &held);
        let kinds: Vec<Kind> = ids.iter().map(|id| lp.kind(*id).unwrap()).collect();
        let expected = [
            Kind::Timer,
            Kind::Hook,
            Kind::Waker,
            Kind::Signal,
            Kind::Poll,
            Kind::Listener,
            Kind::Tcp,
        ];
        assert_eq!(kinds, expected);
        let mut listed = lp.handles();
        listed.sort();
        let mut all = ids.clone();
        all.sort();
        assert_eq!(listed, all);

        let closed = Shared::<Vec<Id>>::default();
        for id in &ids {
            assert!(lp.is_active(*id).unwrap());
            let closed = closed.clone();
            lp.on_close(*id, move |lp, id| {
                assert_eq!(code(lp.kind(id)), Code::EBADF);
                closed.push(id);
            })
            .unwrap();
            lp.close(*id).unwrap();
            assert_eq!(code(lp.close(*id)), Code::EBADF);
            assert_eq!(code(lp.kind(*id)), Code::EBADF);
            assert_eq!(code(lp.unref(*id)), Code::EBADF);
            assert_eq!(code(lp.reference(*id)), Code::EBADF);
            assert_eq!(code(lp.is_active(*id)), Code::EBADF);
            assert_eq!(code(lp.is_referenced(*id)), Code::EBADF);
            assert_eq!(code(lp.describe(*id)), Code::EBADF);
            assert_eq!(code(lp.on_close(*id, |_, _| ())), Code::EBADF);
        }
        assert_eq!(lp.handles(), []);
        assert!(closed.is_empty(), "not inside the call");
        // What is closing keeps the loop alive.
        assert!(lp.is_alive());
        run_to_end(&lp);
        assert_eq!(closed.take(), ids);
        assert!(held.is_empty());
        assert_eq!(held.holders(), 0, "every callback is dropped");
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn the_operations_of_a_closed_handle_say_so() {
    each_driver(|lp| {
        let held = Shared::default();
        let (ids, _others) = one_of_each(&lp, &held);
        for id in &ids {
            lp.close(*id).unwrap();
        }
        let ms = Duration::from_millis(1);
        let timer = Timer::from_id(ids[0]);
        let hook = Hook::from_id(ids[1]);
        let signal = Signal::from_id(ids[3]);
        let poll = Poll::from_id(ids[4]);
        let listener = TcpListener::from_id(ids[5]);
        let tcp = TcpStream::from_id(ids[6]);
        for outcome in [
            timer.start(&lp, ms),
            timer.start_repeating(&lp, ms, ms),
            timer.stop(&lp),
            timer.again(&lp),
            timer.remaining(&lp).map(drop),
            timer.overrun(&lp).map(drop),
            hook.start(&lp),
            hook.stop(&lp),
            Waker::from_id(ids[2]).remote(&lp).map(drop),
            signal.start(&lp, libc::SIGURG),
            signal.stop(&lp),
            poll.start(&lp, Interest::READABLE),
            poll.stop(&lp),
            listener.address(&lp).map(drop),
            listener.pause(&lp),
            listener.resume(&lp),
            tcp.attach(&lp, |_: &Loop, _: Stream, _: &[u8]| ()),
            tcp.read_start(&lp),
            tcp.read_stop(&lp),
            tcp.write(&lp, b"!").map(drop),
            tcp.write_owned(&lp, "!", |_, _, _| ()).map(drop),
            tcp.shutdown(&lp, |_, _, _| ()),
            tcp.finish(&lp),
            tcp.reset(&lp),
            tcp.set_timeouts(&lp, None, None),
            tcp.set_watermarks(&lp, 1, 2, 3),
            tcp.queued(&lp).map(drop),
            tcp.release(&lp).map(drop),
            tcp.set_nodelay(&lp, true),
            tcp.set_keepalive(&lp, None),
            tcp.set_reset_on_close(&lp, false),
            tcp.set_buffers(&lp, None, None),
            tcp.buffers(&lp).map(drop),
            tcp.local_address(&lp).map(drop),
            tcp.peer_address(&lp).map(drop),
            tcp.raw_socket(&lp).map(drop),
        ] {
            assert_eq!(code(outcome), Code::EBADF);
        }
    });
}

#[test]
fn a_number_is_not_taken_for_a_newer_handle_or_another_loops() {
    each_driver(|lp| {
        let first = Timer::open(&lp, |_, _| ()).unwrap();
        lp.close(first).unwrap();
        run_to_end(&lp);
        // Its place is taken again and again.
        for _ in 0..100 {
            let next = Timer::open(&lp, |_, _| ()).unwrap();
            assert_ne!(first, next);
            assert_eq!(code(first.stop(&lp)), Code::EBADF);
            lp.close(next).unwrap();
            run_to_end(&lp);
        }
        let other = Loop::new().unwrap();
        let theirs = Timer::open(&other, |_, _| ()).unwrap();
        let ours = Timer::open(&lp, |_, _| ()).unwrap();
        assert_ne!(ours, theirs);
        assert_eq!(code(lp.close(theirs)), Code::EBADF);
        assert_eq!(code(ours.stop(&other)), Code::EBADF);
        assert_eq!(Id::from_raw(0), None);
        assert_eq!(Id::from_raw(ours.id().to_raw()), Some(ours.id()));
    });
}

#[test]
fn closing_in_its_own_callback_ends_it_there() {
    each_driver(|lp| {
        let log = Shared::<Vec<&str>>::default();
        let note = log.clone();
        let timer = Timer::open(&lp, move |lp, timer| {
            note.push("timer");
            lp.close(timer).unwrap();
            assert_eq!(code(timer.start(lp, Duration::ZERO)), Code::EBADF);
        })
        .unwrap();
        timer
            .start_repeating(&lp, Duration::ZERO, Duration::from_nanos(1))
            .unwrap();
        let note = log.clone();
        let hook = Hook::open(&lp, HookKind::Prepare, move |lp, hook| {
            note.push("hook");
            lp.close(hook).unwrap();
        })
        .unwrap();
        hook.start(&lp).unwrap();
        let note = log.clone();
        let waker = Waker::open(&lp, move |lp, waker| {
            note.push("waker");
            lp.close(waker).unwrap();
        })
        .unwrap();
        waker.remote(&lp).unwrap().wake().unwrap();
        run_to_end(&lp);
        let mut all = log.take();
        all.sort();
        assert_eq!(all, ["hook", "timer", "waker"]);
    });
}

#[test]
fn a_stream_closed_in_its_own_callback_hears_only_its_close() {
    each_driver(|lp| {
        let log = Log::default();
        let closed = log.clone();
        let script = Script::new(&log).on_data(|lp, stream, _| {
            stream.write(lp, b"goodbye").unwrap();
            lp.close(stream).unwrap();
            assert_eq!(code(stream.write(lp, b"!")), Code::EBADF);
        });
        let (tcp, mut peer) = connected(&lp, script);
        lp.on_close(tcp, move |_, _| closed.push(Event::Drain))
            .unwrap();
        // More than one turn's reading, and the end.
        peer.write_all(&[0; 100_000]).unwrap();
        drop(peer.try_clone().unwrap());
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        run_to_end(&lp);
        assert_eq!(log.without_data(), [Event::Close, Event::Drain]);
        assert_eq!(log.events().len(), 3);
    });
}

#[test]
fn what_was_written_just_before_the_close_is_sent_as_far_as_it_goes() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        let done = log.done(0);
        in_callback(&lp, move |lp| {
            tcp.write_owned(lp, "good", done).unwrap();
            tcp.write(lp, b"bye").unwrap();
            lp.close(tcp).unwrap();
        });
        assert_eq!(read_peer_to_end(&lp, &peer), b"goodbye");
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Done(0, Ok(())), Event::Close]);
    });
}

#[test]
fn a_neighbour_with_data_pending_in_the_same_turn_can_be_closed() {
    each_driver(|lp| {
        // Each closes the other: whichever comes first, the second hears nothing.
        for _ in 0..20 {
            let (log, heard) = (Log::default(), Shared::<usize>::default());
            let both = Shared::<Vec<TcpStream>>::default();
            let mut peers = Vec::new();
            for _ in 0..2 {
                let (all, heard) = (both.clone(), heard.clone());
                let script = Script::new(&log).on_data(move |lp, stream, _| {
                    heard.add();
                    let other = all.get().into_iter().find(|tcp| tcp.id() != stream.id());
                    lp.close(other.unwrap()).unwrap();
                    lp.close(stream).unwrap();
                });
                let (tcp, peer) = connected(&lp, script);
                both.push(tcp);
                peers.push(peer);
            }
            for peer in &mut peers {
                peer.write_all(b"data").unwrap();
            }
            run_to_end(&lp);
            assert_eq!(heard.get(), 1);
            assert_eq!(log.without_data(), [Event::Close, Event::Close]);
        }
    });
}

#[test]
fn neighbours_due_in_the_same_phase_can_be_closed() {
    each_driver(|lp| {
        let fired = Shared::<usize>::default();
        let others = Shared::<Vec<Id>>::default();
        let counted = fired.clone();
        let count = move |lp: &Loop, others: &Shared<Vec<Id>>| {
            counted.add();
            for id in others.take() {
                // Its own is among them.
                lp.close(id).unwrap();
            }
        };
        for _ in 0..3 {
            let (run, others_of) = (count.clone(), others.clone());
            let timer = Timer::open(&lp, move |lp, _| run(lp, &others_of)).unwrap();
            timer.start(&lp, Duration::ZERO).unwrap();
            others.push(timer.id());
        }
        run_to_end(&lp);
        assert_eq!(fired.get(), 1);
        for kind in [HookKind::Idle, HookKind::Prepare, HookKind::Check] {
            for _ in 0..3 {
                let (run, others_of) = (count.clone(), others.clone());
                let hook = Hook::open(&lp, kind, move |lp, _| run(lp, &others_of)).unwrap();
                hook.start(&lp).unwrap();
                others.push(hook.id());
            }
            fired.set(0);
            lp.run(RunMode::NoWait).unwrap();
            run_to_end(&lp);
            assert_eq!(fired.get(), 1);
        }
        let mut wakers = Vec::new();
        for _ in 0..3 {
            let (run, others_of) = (count.clone(), others.clone());
            let waker = Waker::open(&lp, move |lp, _| run(lp, &others_of)).unwrap();
            others.push(waker.id());
            wakers.push(waker.remote(&lp).unwrap());
        }
        wakers.iter().for_each(|remote| remote.wake().unwrap());
        fired.set(0);
        run_to_end(&lp);
        assert_eq!(fired.get(), 1);
        assert!(wakers
            .iter()
            .all(|remote| code(remote.wake()) == Code::ECANCELED));
        // Foreign descriptors that are ready together.
        let mut pairs = Vec::new();
        for _ in 0..3 {
            let (reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
            writer.write_all(b"x").unwrap();
            let (run, others_of) = (count.clone(), others.clone());
            let poll =
                Poll::open(&lp, reader.as_raw_fd(), move |lp, _, _| run(lp, &others_of)).unwrap();
            poll.start(&lp, Interest::READABLE).unwrap();
            others.push(poll.id());
            pairs.push((reader, writer));
        }
        fired.set(0);
        run_to_end(&lp);
        assert_eq!(fired.get(), 1);
    });
}

#[test]
fn on_close_comes_last_after_the_writes_and_the_handlers_own() {
    each_driver(|lp| {
        let log = Log::default();
        let closed = log.clone();
        let (tcp, _peer) = connected(&lp, Script::new(&log));
        fill(&lp, *tcp);
        for which in 0..3 {
            tcp.write_owned(&lp, "never", log.done(which)).unwrap();
        }
        tcp.shutdown(&lp, log.done(3)).unwrap();
        // The last one set counts.
        lp.on_close(tcp, |_, _| panic!("it was replaced")).unwrap();
        lp.on_close(tcp, move |_, _| closed.push(Event::Drain))
            .unwrap();
        lp.close(tcp).unwrap();
        run_to_end(&lp);
        let canceled = Err(Code::ECANCELED);
        let mut expected: Vec<Event> = (0..4).map(|which| Event::Done(which, canceled)).collect();
        expected.extend([Event::Close, Event::Drain]);
        assert_eq!(log.events(), expected);
    });
}

#[test]
fn handles_close_in_the_order_of_the_calls_and_may_close_more() {
    each_driver(|lp| {
        let closed = Shared::<Vec<usize>>::default();
        let timers: Vec<Timer> = (0..6)
            .map(|_| Timer::open(&lp, |_, _| ()).unwrap())
            .collect();
        for (which, timer) in timers.iter().enumerate() {
            let closed = closed.clone();
            let next = timers.get(which + 3).copied();
            lp.on_close(*timer, move |lp, _| {
                closed.push(which);
                if let Some(next) = next {
                    lp.close(next).unwrap();
                }
            })
            .unwrap();
        }
        for timer in &timers[..3] {
            lp.close(*timer).unwrap();
        }
        run_to_end(&lp);
        assert_eq!(closed.take(), [0, 1, 2, 3, 4, 5]);
    });
}

#[test]
fn closing_reaches_the_peer_at_once() {
    each_driver(|lp| {
        let (tcp, peer) = connected(&lp, |_: &Loop, _: Stream, _: &[u8]| ());
        lp.close(tcp).unwrap();
        // Without a turn: the descriptor is closed at once.
        let mut peer = peer;
        assert_eq!(std::io::Read::read(&mut peer, &mut [0; 1]).unwrap(), 0);
        let listener = TcpListener::listen(&lp, any_port(), |_: &Loop, _, _| ()).unwrap();
        let address = listener.address(&lp).unwrap();
        lp.close(listener).unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
    });
}

#[test]
fn dropping_the_loop_closes_everything_and_runs_every_last_callback_once() {
    each_driver(|lp| {
        let held = Shared::default();
        let (ids, _others) = one_of_each(&lp, &held);
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        fill(&lp, *tcp);
        tcp.write_owned(&lp, "never", log.done(0)).unwrap();
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connecting =
            TcpStream::connect(&lp, unused.local_addr().unwrap(), Script::new(&log)).unwrap();
        connecting.write_owned(&lp, "never", log.done(1)).unwrap();
        let closing = Timer::open(&lp, |_, _| ()).unwrap();

        let closed = Shared::<Vec<Id>>::default();
        let all: Vec<Id> = ids
            .into_iter()
            .chain([tcp.id(), connecting.id(), closing.id()])
            .collect();
        for id in &all {
            let closed = closed.clone();
            lp.on_close(*id, move |_, id| closed.push(id)).unwrap();
        }
        lp.close(closing).unwrap();

        /// Hears that it will not run.
        struct Waiting(Shared<Vec<&'static str>>, &'static str);
        impl Task for Waiting {
            fn run(self, _: &Loop) {
                panic!("it must not run");
            }
            fn cancel(self, lp: &Loop) {
                assert_eq!(code(lp.defer(|_: &Loop| ())), Code::ECANCELED);
                self.0.push(self.1);
            }
        }
        let cancelled = Shared::default();
        lp.defer(Waiting(cancelled.clone(), "deferred")).unwrap();
        let holds = held.clone();
        lp.defer(move |_: &Loop| drop(holds)).unwrap();
        assert!(held.holders() > 5);
        drop(lp);
        let mut got = closed.take();
        got.sort();
        let mut expected = all;
        expected.sort();
        assert_eq!(got, expected);
        assert_eq!(cancelled.take(), ["deferred"]);
        assert_eq!(held.holders(), 0);
        assert_eq!(log.holders(), 0);
        let events = log.events();
        assert_eq!(log.count(&Event::Close), 2);
        assert_eq!(log.count(&Event::Done(0, Err(Code::ECANCELED))), 1);
        assert_eq!(log.count(&Event::Done(1, Err(Code::ECANCELED))), 1);
        assert_eq!(events.len(), 4);
        drop(peer);
    });
}

#[test]
fn nothing_can_be_opened_while_the_loop_is_dropped() {
    each_driver(|lp| {
        let tried = Shared::<usize>::default();
        let counted = tried.clone();
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        let other = Timer::open(&lp, |_, _| ()).unwrap();
        let remote = lp.remote();
        lp.on_close(timer, move |lp, _| {
            for outcome in [
                Timer::open(lp, |_, _| ()).map(drop),
                Timer::after(lp, Duration::ZERO, |_| ()).map(drop),
                Hook::open(lp, HookKind::Idle, |_, _| ()).map(drop),
                Waker::open(lp, |_, _| ()).map(drop),
                Signal::open(lp, |_, _, _| ()).map(drop),
                Poll::open(lp, 0, |_, _, _| ()).map(drop),
                TcpListener::listen(lp, any_port(), |_: &Loop, _, _| ()).map(drop),
                TcpStream::connect(lp, any_port(), |_: &Loop, _: Stream, _: &[u8]| ()).map(drop),
                TcpStream::adopt(lp, socket_pair().0, |_: &Loop, _: Stream, _: &[u8]| ()).map(drop),
                lp.defer(|_: &Loop| ()),
                remote.post(|_: &Loop| ()),
                remote.wake(),
            ] {
                assert_eq!(code(outcome), Code::ECANCELED);
            }
            // All the others are closed already.
            assert_eq!(code(lp.close(other)), Code::EBADF);
            counted.add();
        })
        .unwrap();
        drop(lp);
        assert_eq!(tried.get(), 1);
    });
}

#[test]
fn the_destructors_of_what_a_handle_held_may_use_the_loop() {
    struct Uses(&'static Loop, Shared<usize>);
    impl Drop for Uses {
        fn drop(&mut self) {
            // Opening, closing, deferring: nothing is borrowed meanwhile.
            let timer = Timer::open(self.0, |_, _| ()).unwrap();
            self.0.close(timer).unwrap();
            self.0.defer(|_: &Loop| ()).unwrap();
            self.1.add();
        }
    }
    each_driver(|lp| {
        let lp: &'static Loop = Box::leak(Box::new(lp));
        let dropped = Shared::<usize>::default();
        let uses = || Uses(lp, dropped.clone());
        let held = uses();
        let timer = Timer::open(lp, move |_, _| {
            let _ = &held;
        })
        .unwrap();
        let held = uses();
        lp.on_close(timer, move |_, _| drop(held)).unwrap();
        let held = uses();
        // A replaced closing callback is dropped as well.
        lp.on_close(timer, move |_, _| drop(held)).unwrap();
        assert_eq!(dropped.get(), 1);
        let held = uses();
        let hook = Hook::open(lp, HookKind::Idle, move |_, _| {
            let _ = &held;
        })
        .unwrap();
        let held = uses();
        let waker = Waker::open(lp, move |_, _| {
            let _ = &held;
        })
        .unwrap();
        let held = uses();
        let listener = TcpListener::listen(lp, any_port(), move |_: &Loop, _, _| {
            let _ = &held;
        })
        .unwrap();
        let held = uses();
        let (tcp, _peer) = connected(lp, move |_: &Loop, _: Stream, _: &[u8]| {
            let _ = &held;
        });
        for id in [timer.id(), hook.id(), waker.id(), listener.id(), tcp.id()] {
            lp.close(id).unwrap();
        }
        run_to_end(lp);
        assert_eq!(dropped.get(), 7);
    });
}
