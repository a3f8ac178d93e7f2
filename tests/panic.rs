//! A panic in a callback unwinds out of `run`; the loop stays whole, and what was still to be told is told by the next
//! run.

#![cfg(all(unix, feature = "net"))]

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;
use std::time::Duration;

use common::*;
use kolo::{
    Code, ConnectOptions, Error, Hook, HookKind, Interest, Loop, LoopOptions, Poll, RunMode,
    Signal, Stream, StreamHandler, TcpListener, TcpStream, Timeout, Timer, Waker,
};

struct OnPurpose;

/// Panics without a word in the output.
fn panic_on_purpose() -> ! {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<OnPurpose>() {
                usual(info);
            }
        }));
    });
    std::panic::panic_any(OnPurpose)
}

/// One run: whether it unwound, with a panic that is on purpose.
fn unwinds(lp: &Loop, mode: RunMode) -> bool {
    let outcome = catch_unwind(AssertUnwindSafe(|| lp.run(mode).unwrap()));
    assert!(!lp.is_running());
    match outcome {
        Ok(_) => false,
        Err(payload) if payload.is::<OnPurpose>() => true,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Runs until a callback panics.
fn run_until_panic(lp: &Loop) {
    while !unwinds(lp, RunMode::Once) {
        assert!(lp.is_alive());
    }
}

/// Runs until the condition holds, through all panics; how many there were.
fn run_through_panics(lp: &Loop, condition: impl Fn() -> bool) -> usize {
    let mut panics = 0;
    while !condition() {
        panics += usize::from(unwinds(lp, RunMode::Once));
    }
    panics
}

#[test]
fn in_a_timer_the_others_that_are_due_still_fire_and_it_fires_again() {
    each_driver(|lp| {
        let fired = Shared::<Vec<usize>>::default();
        let repeating = fired.clone();
        let timer = Timer::open(&lp, move |_, _| {
            repeating.push(0);
            panic_on_purpose();
        })
        .unwrap();
        timer
            .start_repeating(&lp, Duration::ZERO, Duration::from_millis(1))
            .unwrap();
        for which in 1..=10 {
            let fired = fired.clone();
            Timer::after(&lp, Duration::ZERO, move |_| fired.push(which)).unwrap();
        }
        run_through_panics(&lp, || fired.len() >= 15);
        let mut others = fired.take();
        assert!(others.iter().filter(|which| **which == 0).count() >= 4);
        others.retain(|which| *which > 0);
        assert_eq!(others, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        // `after` closes its timer also when its function panics.
        Timer::after(&lp, Duration::ZERO, |_| panic_on_purpose()).unwrap();
        lp.close(timer).unwrap();
        run_until_panic(&lp);
        run_to_end(&lp);
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn in_a_deferred_function_those_after_it_still_run() {
    each_driver(|lp| {
        let ran = Shared::<Vec<usize>>::default();
        for which in 0..10 {
            let ran = ran.clone();
            lp.defer(move |_: &Loop| {
                ran.push(which);
                if which % 2 == 0 {
                    panic_on_purpose();
                }
            })
            .unwrap();
        }
        assert_eq!(run_through_panics(&lp, || ran.len() == 10), 5);
        assert_eq!(ran.take(), (0..10).collect::<Vec<_>>());
        run_to_end(&lp);
    });
}

#[test]
fn in_a_post_those_after_it_still_run() {
    each_driver(|lp| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let remote = lp.remote();
        for which in 0..10 {
            let sender = sender.clone();
            let post = move |_: &Loop| {
                sender.send(which).unwrap();
                panic_on_purpose();
            };
            remote.post(post).unwrap();
        }
        for which in 0..10 {
            assert_eq!(lp.metrics().posts_waiting, 10 - which);
            run_until_panic(&lp);
            assert_eq!(receiver.try_recv(), Ok(which));
        }
        run_to_end(&lp);
    });
}

#[test]
fn in_a_hook_the_next_turn_runs_them_all() {
    each_driver(|lp| {
        for kind in [HookKind::Idle, HookKind::Prepare, HookKind::Check] {
            let ran = Shared::<Vec<usize>>::default();
            let hooks: Vec<Hook> = (0..3)
                .map(|which| {
                    let ran = ran.clone();
                    let mut panics = which == 1;
                    let hook = Hook::open(&lp, kind, move |_, _| {
                        ran.push(which);
                        if std::mem::take(&mut panics) {
                            panic_on_purpose();
                        }
                    });
                    let hook = hook.unwrap();
                    hook.start(&lp).unwrap();
                    hook
                })
                .collect();
            assert!(unwinds(&lp, RunMode::NoWait));
            assert_eq!(ran.take(), [0, 1]);
            assert!(!unwinds(&lp, RunMode::NoWait));
            assert_eq!(ran.take(), [0, 1, 2]);
            for hook in hooks {
                lp.close(hook).unwrap();
            }
        }
    });
}

#[test]
fn in_a_waker_the_other_wakers_still_run() {
    each_driver(|lp| {
        let ran = Shared::<usize>::default();
        let wakers: Vec<Waker> = (0..5)
            .map(|_| {
                let ran = ran.clone();
                Waker::open(&lp, move |_, _| {
                    ran.add();
                    panic_on_purpose();
                })
                .unwrap()
            })
            .collect();
        for round in 1..=2 {
            for waker in &wakers {
                waker.remote(&lp).unwrap().wake().unwrap();
            }
            assert_eq!(run_through_panics(&lp, || ran.get() == 5 * round), 5);
        }
    });
}

/// A descriptor that is readable, until it is read.
fn readable() -> (
    std::os::unix::net::UnixStream,
    std::os::unix::net::UnixStream,
) {
    let (reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
    writer.write_all(b"x").unwrap();
    (reader, writer)
}

#[test]
fn a_wake_that_came_in_the_turn_of_a_panic_is_not_lost() {
    each_driver(|lp| {
        let (reader, _writer) = readable();
        let poll = Poll::open(&lp, reader.as_raw_fd(), |lp, poll, _| {
            poll.stop(lp).unwrap();
            panic_on_purpose();
        })
        .unwrap();
        poll.start(&lp, Interest::READABLE).unwrap();
        let woken = Shared::<usize>::default();
        let counted = woken.clone();
        let waker = Waker::open(&lp, move |_, _| counted.add()).unwrap();
        let remote = waker.remote(&lp).unwrap();
        // One wait reports both; the panic comes before the phase of the wakers.
        remote.wake().unwrap();
        run_until_panic(&lp);
        assert_eq!(woken.get(), 0);
        run_until(&lp, || woken.get() == 1);
        // Nor is a loop deaf from then on.
        remote.wake().unwrap();
        run_until(&lp, || woken.get() == 2);
    });
}

#[test]
fn nor_is_a_wake_that_came_with_a_streams_last_bytes() {
    each_driver(|lp| {
        let (_tcp, mut peer) = connected(&lp, |_: &Loop, _: Stream, _: &[u8]| panic_on_purpose());
        let woken = Shared::<usize>::default();
        let counted = woken.clone();
        let waker = Waker::open(&lp, move |_, _| counted.add()).unwrap();
        let remote = waker.remote(&lp).unwrap();
        // Both are there before the loop waits.
        lp.run(RunMode::NoWait).unwrap();
        peer.write_all(b"x").unwrap();
        remote.wake().unwrap();
        run_until_panic(&lp);
        run_until(&lp, || woken.get() == 1);
    });
}

#[test]
fn in_a_poll_the_other_events_of_the_turn_still_come() {
    each_driver(|lp| {
        let told = Shared::<Vec<usize>>::default();
        let descriptors: Vec<_> = (0..10).map(|_| readable()).collect();
        for (which, (reader, _)) in descriptors.iter().enumerate() {
            let told = told.clone();
            let poll = Poll::open(&lp, reader.as_raw_fd(), move |lp, poll, _| {
                told.push(which);
                lp.close(poll).unwrap();
                panic_on_purpose();
            });
            poll.unwrap().start(&lp, Interest::READABLE).unwrap();
        }
        assert_eq!(run_through_panics(&lp, || told.len() == 10), 10);
        let mut all = told.take();
        all.sort();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        run_to_end(&lp);
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn in_a_signals_callback_the_others_still_hear_of_it() {
    in_own_process!(|| each_driver(|lp| {
        let heard = Shared::<Vec<usize>>::default();
        let signals: Vec<Signal> = (0..3)
            .map(|which| {
                let heard = heard.clone();
                let signal = Signal::open(&lp, move |_, _, _| {
                    heard.push(which);
                    panic_on_purpose();
                });
                let signal = signal.unwrap();
                signal.start(&lp, libc::SIGUSR1).unwrap();
                signal
            })
            .collect();
        for _ in 0..2 {
            unsafe { libc::raise(libc::SIGUSR1) };
            assert_eq!(run_through_panics(&lp, || heard.len() == 3), 3);
            assert_eq!(heard.take(), [0, 1, 2]);
        }
        for signal in signals {
            lp.close(signal).unwrap();
        }
        run_to_end(&lp);
    }));
}

#[test]
fn in_on_accept_that_connection_is_closed_and_the_next_are_accepted() {
    each_driver(|lp| {
        let accepted = Shared::<Vec<TcpStream>>::default();
        let list = accepted.clone();
        let log = Log::default();
        let attached = log.clone();
        let listener = TcpListener::listen(
            &lp,
            "127.0.0.1:0".parse().unwrap(),
            move |lp: &Loop, _, tcp: TcpStream| {
                list.push(tcp);
                match list.len() {
                    // Before it has a handler, and after.
                    1 => panic_on_purpose(),
                    2 => {
                        tcp.attach(lp, Script::new(&attached)).unwrap();
                        panic_on_purpose();
                    }
                    _ => tcp.attach(lp, Script::new(&attached)).unwrap(),
                }
            },
        )
        .unwrap();
        let address = listener.address(&lp).unwrap();
        let clients: Vec<_> = (0..4)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        assert_eq!(run_through_panics(&lp, || accepted.len() == 4), 2);
        let first = accepted.with(|list| list[0]);
        assert_eq!(code(first.local_address(&lp)), Code::EBADF);
        run_until(&lp, || is_ended(&clients[0]));
        for mut client in &clients[1..] {
            client.write_all(b"x").unwrap();
        }
        run_until(&lp, || log.data() == b"xxx");
    });
}

/// Panics once in each of its callbacks, after having noted it.
struct Panics {
    log: Log,
    has_memory: bool,
    memory: [u8; 4],
    in_memory: bool,
}

impl Panics {
    fn new(log: &Log) -> Panics {
        Panics {
            log: log.clone(),
            has_memory: false,
            memory: [0; 4],
            in_memory: false,
        }
    }

    fn note(&self, event: Event) {
        self.log.push(event);
        panic_on_purpose();
    }
}

impl StreamHandler for Panics {
    fn on_open(&mut self, _: &Loop, _: Stream) {
        self.note(Event::Open);
    }
    fn on_data(&mut self, _: &Loop, _: Stream, data: &[u8]) {
        self.note(Event::Data(data.to_vec()));
    }
    fn on_end(&mut self, _: &Loop, _: Stream) {
        self.note(Event::End);
    }
    fn on_drain(&mut self, _: &Loop, _: Stream) {
        self.note(Event::Drain);
    }
    fn on_timeout(&mut self, _: &Loop, _: Stream, which: Timeout) {
        self.note(Event::Timeout(which));
    }
    fn on_error(&mut self, _: &Loop, _: Stream, error: Error) {
        self.note(Event::Error(error.code()));
    }
    fn on_close(&mut self, _: &Loop, _: Stream) {
        self.note(Event::Close);
    }
    fn has_memory(&self) -> bool {
        self.has_memory
    }
    fn memory(&mut self, _: &Loop, _: Stream, _: usize) -> Option<&mut [u8]> {
        self.in_memory = !self.in_memory;
        if self.in_memory {
            panic_on_purpose();
        }
        Some(&mut self.memory)
    }
    fn on_received(&mut self, _: &Loop, _: Stream, length: usize) {
        self.note(Event::Data(self.memory[..length].to_vec()));
    }
}

#[test]
fn in_any_callback_of_a_stream_the_stream_goes_on() {
    each_driver(|lp| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let log = Log::default();
        let tcp =
            TcpStream::connect(&lp, listener.local_addr().unwrap(), Panics::new(&log)).unwrap();
        tcp.write(&lp, b"queued before it is open").unwrap();
        run_until_panic(&lp);
        assert_eq!(log.events(), [Event::Open]);
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(read_from_peer(&lp, &peer, 24), b"queued before it is open");

        peer.write_all(b"data").unwrap();
        run_until_panic(&lp);
        peer.write_all(b" and more").unwrap();
        run_until_panic(&lp);
        assert_eq!(log.data(), b"data and more");

        tcp.set_watermarks(&lp, 0, 1, usize::MAX).unwrap();
        let written = fill(&lp, *tcp);
        let mut got = 0;
        let mut drained = false;
        while got < written {
            match read_now(&peer) {
                Some(bytes) => {
                    assert_pattern(&bytes, got);
                    got += bytes.len();
                }
                None => drained |= unwinds(&lp, RunMode::NoWait),
            }
        }
        if !drained {
            run_until_panic(&lp);
        }
        assert_eq!(log.without_data(), [Event::Open, Event::Drain]);

        tcp.set_timeouts(&lp, Some(Duration::from_millis(1)), None)
            .unwrap();
        run_until_panic(&lp);
        run_until_panic(&lp);
        tcp.set_timeouts(&lp, None, None).unwrap();
        let timeout = Event::Timeout(Timeout::Read);
        assert_eq!(log.count(&timeout), 2);

        let seen = log.clone();
        let noted = move |which| {
            let done = seen.done(which);
            move |lp: &Loop, stream, outcome| {
                done(lp, stream, outcome);
                panic_on_purpose()
            }
        };
        tcp.write_owned(&lp, "one ", noted(1)).unwrap();
        tcp.write_owned(&lp, "two ", noted(2)).unwrap();
        tcp.write_owned(&lp, "three", noted(3)).unwrap();
        tcp.shutdown(&lp, noted(4)).unwrap();
        for _ in 0..4 {
            run_until_panic(&lp);
        }
        assert_eq!(read_now(&peer).unwrap(), b"one two three");
        assert_eq!(read_now(&peer).unwrap(), b"");

        peer.shutdown(Shutdown::Write).unwrap();
        run_until_panic(&lp);
        lp.close(tcp).unwrap();
        run_until_panic(&lp);
        run_to_end(&lp);
        let done = |which| Event::Done(which, Ok(()));
        assert_eq!(
            log.without_data()[4..],
            [done(1), done(2), done(3), done(4), Event::End, Event::Close]
        );
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn in_on_error_the_stream_still_closes() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, _peer) = connected(&lp, Panics::new(&log));
        fill(&lp, *tcp);
        for which in 0..3 {
            let done = log.done(which);
            let panics = move |lp: &Loop, stream, outcome| {
                done(lp, stream, outcome);
                panic_on_purpose()
            };
            tcp.write_owned(&lp, "never", panics).unwrap();
        }
        let closed = log.clone();
        lp.on_close(tcp, move |_, _| closed.push(Event::Drain))
            .unwrap();
        tcp.fail(&lp, Error::new(Code::EPROTO)).unwrap();
        assert_eq!(run_through_panics(&lp, || !lp.is_alive()), 5);
        let broken = Err(Code::EPROTO);
        let expected = [
            Event::Error(Code::EPROTO),
            Event::Done(0, broken),
            Event::Done(1, broken),
            Event::Done(2, broken),
            Event::Close,
            // The callback set by `on_close`.
            Event::Drain,
        ];
        assert_eq!(log.events(), expected);
    });
}

#[test]
fn while_reading_into_the_handlers_memory_no_byte_is_lost() {
    each_driver(|lp| {
        let log = Log::default();
        let mut handler = Panics::new(&log);
        handler.has_memory = true;
        let (tcp, mut peer) = connected(&lp, handler);
        peer.write_all(&pattern(0, 100)).unwrap();
        drop(peer);
        run_through_panics(&lp, || log.has(&Event::End));
        assert_eq!(log.data().len(), 100);
        assert_pattern(&log.data(), 0);
        lp.close(tcp).unwrap();
        run_through_panics(&lp, || log.closed());
    });
}

#[test]
fn on_data_panicking_in_many_streams_loses_nothing_of_any() {
    each_driver(|lp| {
        let streams: Vec<_> = (0..20)
            .map(|which| {
                let log = Log::default();
                let (tcp, mut peer) = connected(&lp, Panics::new(&log));
                peer.write_all(&pattern(which, 1000 * which + 1)).unwrap();
                (tcp, peer, log)
            })
            .collect();
        let complete = || {
            let mut streams = streams.iter().enumerate();
            streams.all(|(which, (_, _, log))| log.data().len() == 1000 * which + 1)
        };
        assert!(run_through_panics(&lp, complete) >= 20);
        for (which, (_, _, log)) in streams.iter().enumerate() {
            assert_pattern(&log.data(), which);
        }
        for (tcp, _, _) in &streams {
            lp.close(*tcp).unwrap();
        }
        run_through_panics(&lp, || !lp.is_alive());
    });
}

#[test]
fn what_was_written_before_the_panic_is_sent() {
    each_driver(|lp| {
        let log = Log::default();
        let script = Script::new(&log).on_data(|lp, stream, _| {
            stream.write(lp, b"small, ").unwrap();
            stream.write(lp, b"gathered").unwrap();
            panic_on_purpose();
        });
        let (_, mut peer) = connected(&lp, script);
        peer.write_all(b"x").unwrap();
        run_until_panic(&lp);
        assert_eq!(read_now(&peer).unwrap(), b"small, gathered");
    });
}

#[test]
fn a_connect_that_fails_is_told_after_a_panic_in_between() {
    each_driver(|lp| {
        let log = Log::default();
        // Bound, so that nobody else listens there.
        let holder =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        holder.bind(&any.into()).unwrap();
        let address = holder.local_addr().unwrap().as_socket().unwrap();
        TcpStream::connect_with(&lp, address, &ConnectOptions::default(), Panics::new(&log))
            .unwrap();
        lp.defer(|_: &Loop| panic_on_purpose()).unwrap();
        assert_eq!(run_through_panics(&lp, || !lp.is_alive()), 3);
        assert_eq!(
            log.events(),
            [Event::Error(Code::ECONNREFUSED), Event::Close]
        );
    });
}

#[test]
fn in_on_close_the_others_still_close() {
    each_driver(|lp| {
        let closed = Shared::<Vec<usize>>::default();
        let log = Log::default();
        for which in 0..6 {
            let id = match which % 3 {
                0 => Timer::open(&lp, |_, _| ()).unwrap().id(),
                1 => connected(&lp, Panics::new(&log)).0.id(),
                _ => {
                    let listener = TcpListener::listen(
                        &lp,
                        "127.0.0.1:0".parse().unwrap(),
                        |_: &Loop, _, _| (),
                    );
                    listener.unwrap().id()
                }
            };
            let closed = closed.clone();
            lp.on_close(id, move |_, _| {
                closed.push(which);
                panic_on_purpose();
            })
            .unwrap();
            lp.close(id).unwrap();
        }
        // Two streams' own on_close panic, too.
        assert_eq!(run_through_panics(&lp, || !lp.is_alive()), 8);
        assert_eq!(closed.take(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(log.count(&Event::Close), 2);
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn in_the_watchdogs_callback_the_watchdog_stays() {
    let slow = || {
        let mut first = true;
        let on_slow = move |lp: &Loop, _, _| {
            lp.stop();
            if std::mem::take(&mut first) {
                panic_on_purpose();
            }
        };
        LoopOptions {
            slow_callback: Some((Duration::ZERO, Box::new(on_slow))),
            ..LoopOptions::default()
        }
    };
    each_driver_with(slow, |lp| {
        let hook = Hook::open(&lp, HookKind::Idle, |_, _| {
            std::thread::sleep(Duration::from_nanos(1));
        })
        .unwrap();
        hook.start(&lp).unwrap();
        run_until_panic(&lp);
        // It stops the run only if it still watches.
        assert!(lp.run(RunMode::Default).unwrap());
        assert!(lp.run(RunMode::Default).unwrap());
    });
}
