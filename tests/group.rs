//! Many loops behind one address, and connections that move between loops.

#![cfg(feature = "net")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::num::NonZeroU32;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use common::*;
use kolo::{
    Code, GroupOptions, ListenOptions, Loop, LoopGroup, LoopOptions, Result, Stream, StreamHandler,
    TcpListener, TcpStream, Timer,
};

const LONG: Duration = Duration::from_secs(100);

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Each way in which a group listens, on each driver.
#[track_caller]
fn each_way(test: impl Fn(&dyn Fn() -> GroupOptions)) {
    for driver in drivers() {
        for share_socket in [false, true] {
            let _limit = TimeLimit::start(format!("{driver}, share_socket {share_socket}"));
            test(&|| GroupOptions {
                loops: NonZeroU32::new(3),
                loop_options: Some(Box::new(move |_| LoopOptions {
                    driver: Some(driver.to_owned()),
                    ..Default::default()
                })),
                share_socket,
                ..Default::default()
            });
        }
    }
}

/// Says the number of its loop, then echoes.
struct Numbered;

impl StreamHandler for Numbered {
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        stream.write(lp, data).unwrap();
    }
}

fn numbered(group: &LoopGroup) -> SocketAddr {
    let handler = |_: &Loop, index: usize| {
        move |lp: &Loop, _: TcpListener, tcp: TcpStream| {
            tcp.attach(lp, Numbered).unwrap();
            tcp.write(lp, &[index as u8]).unwrap();
        }
    };
    let options = ListenOptions::default();
    group.listen(loopback(), &options, handler).unwrap()
}

/// A connection, and the number of the loop that serves it.
fn connect(address: SocketAddr) -> (StdStream, u8) {
    let mut stream = StdStream::connect(address).unwrap();
    let mut number = [0];
    stream.read_exact(&mut number).unwrap();
    (stream, number[0])
}

fn echo(stream: &mut StdStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, bytes);
}

#[test]
fn connections_are_spread_evenly() {
    each_way(|options| {
        let group = LoopGroup::start(options(), |_, _| Ok(())).unwrap();
        assert_eq!(group.count(), 3);
        let address = numbered(&group);
        let mut counts = BTreeMap::new();
        let mut streams: Vec<_> = (0..60)
            .map(|_| {
                let (stream, number) = connect(address);
                *counts.entry(number).or_insert(0) += 1;
                stream
            })
            .collect();
        for stream in &mut streams {
            echo(stream, b"to whichever loop");
        }
        assert_eq!(counts.len(), 3, "{counts:?}");
        // A fifth of 20 is more than what is left uneven on purpose, and far less than what chance would do now and then.
        assert!(
            counts.values().all(|count| (16..=24).contains(count)),
            "{counts:?}"
        );
        drop(streams);
        group.stop(LONG);
        group.join().unwrap();
    });
}

#[test]
fn each_loop_runs_on_a_thread_of_its_own() {
    each_way(|options| {
        let (tell, told) = mpsc::channel();
        let group = LoopGroup::start(options(), move |_, index| {
            tell.send((index, thread::current().id())).unwrap();
            Ok(())
        })
        .unwrap();
        let threads: BTreeMap<_, _> = (0..3).map(|_| told.recv().unwrap()).collect();
        let mut ids: Vec<_> = threads.values().collect();
        ids.dedup();
        assert_eq!((threads.len(), ids.len()), (3, 3));
        for (index, thread) in &threads {
            let (tell, told) = mpsc::channel();
            let post = move |_: &Loop| tell.send(thread::current().id()).unwrap();
            group.remote(*index).unwrap().post(post).unwrap();
            assert_eq!(told.recv().unwrap(), *thread);
        }
        assert!(group.remote(3).is_none());
    });
}

#[test]
fn an_idle_group_goes_on_and_shows_no_handles_of_its_own() {
    each_way(|options| {
        let group = LoopGroup::start(options(), |_, _| Ok(())).unwrap();
        for index in 0..3 {
            let (tell, told) = mpsc::channel();
            let remote = group.remote(index).unwrap();
            remote
                .post(move |lp: &Loop| tell.send(lp.handles().len()).unwrap())
                .unwrap();
            assert_eq!(told.recv().unwrap(), 0);
        }
    });
}

#[test]
fn a_group_that_stops_finishes_what_is_open_and_takes_nothing_new() {
    each_way(|options| {
        let (tell, told) = mpsc::channel();
        let group = LoopGroup::start(
            GroupOptions {
                on_stop: Some(Box::new(move |lp, index| {
                    tell.send(index).unwrap();
                    for handle in lp.handles() {
                        let _ = Stream::from_id(handle).finish(lp);
                    }
                })),
                ..options()
            },
            |_, _| Ok(()),
        )
        .unwrap();
        let address = numbered(&group);
        let mut streams: Vec<_> = (0..6).map(|_| connect(address).0).collect();
        group.stop(LONG);
        group.stop(LONG); // twice is once
        let mut indexes: Vec<usize> = (0..3).map(|_| told.recv().unwrap()).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 2]);
        for stream in &mut streams {
            assert_eq!(
                stream.read(&mut [0; 16]).unwrap(),
                0,
                "finished, not cut off"
            );
        }
        group.join().unwrap();
        assert!(told.recv().is_err(), "once a loop");
        assert!(StdStream::connect(address).is_err());
    });
}

#[test]
fn what_does_not_end_within_the_grace_is_closed() {
    each_way(|options| {
        let group = LoopGroup::start(options(), |_, _| Ok(())).unwrap();
        let address = numbered(&group);
        let mut streams: Vec<_> = (0..3).map(|_| connect(address).0).collect();
        echo(&mut streams[0], b"alive");
        group.stop(Duration::from_millis(1));
        group.join().unwrap();
        for stream in &mut streams {
            assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)));
        }
    });
}

#[test]
fn a_dropped_group_ends_at_once() {
    each_way(|options| {
        let closed = Arc::new(AtomicUsize::new(0));
        let counted = closed.clone();
        let group = LoopGroup::start(options(), move |lp, _| {
            let timer = Timer::after(lp, LONG, |_| panic!("not so long"))?;
            let counted = counted.clone();
            lp.on_close(timer, move |_, _| {
                counted.fetch_add(1, Ordering::SeqCst);
            })
        })
        .unwrap();
        drop(group);
        assert_eq!(closed.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn an_error_of_on_start_stops_all_and_is_returned() {
    each_way(|options| {
        let closed = Arc::new(AtomicUsize::new(0));
        let counted = closed.clone();
        let outcome = LoopGroup::start(options(), move |lp, index| {
            let timer = Timer::open(lp, |_, _| ())?;
            let counted = counted.clone();
            lp.on_close(timer, move |_, _| {
                counted.fetch_add(1, Ordering::SeqCst);
            })?;
            match index {
                2 => Err(Code::EDQUOT.into()),
                _ => Ok(()),
            }
        });
        assert_eq!(outcome.unwrap_err().code(), Code::EDQUOT);
        assert_eq!(closed.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn a_panic_ends_the_group_and_is_handed_on() {
    each_way(|options| {
        let group = LoopGroup::start(options(), |_, _| Ok(())).unwrap();
        let remote = group.remote(1).unwrap();
        remote.post(|_: &Loop| panic!("on purpose")).unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| group.join())).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
    });
}

#[test]
fn an_address_that_one_cannot_have_is_had_by_none() {
    each_way(|options| {
        let group = LoopGroup::start(options(), |_, _| Ok(())).unwrap();
        let other = std::net::TcpListener::bind(loopback()).unwrap();
        let taken = other.local_addr().unwrap();
        let listen = |address| {
            let handler = |_: &Loop, _| |_: &Loop, _: TcpListener, _: TcpStream| ();
            group.listen(address, &ListenOptions::default(), handler)
        };
        assert_eq!(listen(taken).unwrap_err().code(), Code::EADDRINUSE);
        // Another one is had by all.
        let address = listen(loopback()).unwrap();
        StdStream::connect(address).unwrap();
    });
}

#[test]
fn a_groups_thread_does_not_wait_for_its_group() {
    each_way(|options| {
        let group = Arc::new(LoopGroup::start(options(), |_, _| Ok(())).unwrap());
        let inner = group.clone();
        let (tell, told) = mpsc::channel();
        let post = move |_: &Loop| {
            let handler = |_: &Loop, _| |_: &Loop, _: TcpListener, _: TcpStream| ();
            let outcome = inner.listen(loopback(), &ListenOptions::default(), handler);
            drop(inner);
            tell.send(outcome.unwrap_err().code()).unwrap();
        };
        group.remote(0).unwrap().post(post).unwrap();
        assert_eq!(told.recv().unwrap(), Code::EDEADLK);
    });
}

/// Two loops of this thread.
#[track_caller]
fn each_pair(test: impl Fn(Loop, Loop)) {
    each_driver(|here| {
        let there = Loop::with_options(LoopOptions {
            driver: Some(here.driver_name().to_owned()),
            ..Default::default()
        })
        .unwrap();
        test(here, there);
    });
}

#[test]
fn a_stream_moves_with_what_was_not_read() {
    each_pair(|here, there| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&here, Script::new(&log).not_reading());
        peer.write_all(b"before it moves").unwrap();
        let there_log = Log::default();
        let (handler, arrived) = (Script::new(&there_log), Shared::<usize>::default());
        let cell = Unsent(handler, arrived.clone());
        tcp.move_to(&here, &there.remote(), move |there, tcp| {
            let cell = cell;
            tcp.unwrap().attach(there, cell.0).unwrap();
            cell.1.add();
        })
        .unwrap();
        assert_eq!(tcp.write(&here, b"x").unwrap_err().code(), Code::EBADF);
        run_to_end(&here);
        assert_eq!(log.events(), [Event::Close]);
        run_until(&there, || there_log.data() == b"before it moves");
        peer.write_all(b" and after").unwrap();
        run_until(&there, || there_log.data() == b"before it moves and after");
        assert_eq!(arrived.get(), 1);
        drop(peer);
        run_to_end(&there);
    });
}

/// Closing it does not end its registration then.
#[cfg(target_os = "linux")]
#[test]
fn a_stream_that_others_hold_too_leaves_the_selector_of_the_loop_that_it_moved_to() {
    // What the loop's epoll set waits for.
    let watched = |lp: &Loop| {
        let path = format!("/proc/self/fdinfo/{}", lp.backend_descriptor().unwrap());
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().filter(|line| line.starts_with("tfd:")).count()
    };
    each_pair(|here, there| {
        let (socket, _peer) = socket_pair();
        let _twin = socket.try_clone().unwrap();
        let nothing = |_: &Loop, _: kolo::Stream, _: &[u8]| ();
        let tcp = TcpStream::adopt(&here, socket, nothing).unwrap();
        some_turns(&there);
        let before = watched(&there);
        tcp.move_to(&here, &there.remote(), move |there, tcp| {
            let tcp = tcp.unwrap();
            tcp.attach(there, nothing).unwrap();
            there
                .defer(move |lp: &Loop| lp.close(tcp).unwrap())
                .unwrap();
        })
        .unwrap();
        run_to_end(&there);
        assert_eq!(watched(&there), before);
    });
}

/// Both loops are this thread's, so what is posted need not really be fit to be sent.
struct Unsent(Script, Shared<usize>);

// SAFETY: made and used on one thread: see `each_pair`.
unsafe impl Send for Unsent {}

#[test]
fn a_stream_with_writes_in_its_queue_stays() {
    each_pair(|here, there| {
        let log = Log::default();
        let (tcp, peer) = connected(&here, Script::new(&log));
        fill(&here, *tcp);
        let outcome = tcp.move_to(&here, &there.remote(), |_, _| panic!("it stays"));
        assert_eq!(outcome.unwrap_err().code(), Code::EBUSY);
        assert!(tcp.queued(&here).unwrap() > 0);
        assert!(!there.is_alive());
        drop(peer);
    });
}

#[test]
fn a_stream_does_not_move_to_a_loop_that_is_gone_or_full() {
    each_pair(|here, there| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&here, Script::new(&log));
        let gone = there.remote();
        drop(there);
        let outcome = tcp.move_to(&here, &gone, |_, _| panic!("it stays"));
        assert_eq!(outcome.unwrap_err().code(), Code::ECANCELED);
        let small = Loop::with_options(LoopOptions {
            post_capacity: NonZeroU32::MIN,
            ..Default::default()
        })
        .unwrap();
        small.remote().post(|_: &Loop| ()).unwrap();
        let outcome = tcp.move_to(&here, &small.remote(), |_, _| panic!("it stays"));
        assert_eq!(outcome.unwrap_err().code(), Code::ENOBUFS);
        peer.write_all(b"still here").unwrap();
        run_until(&here, || log.data() == b"still here");
    });
}

#[test]
fn a_stream_that_nobody_attaches_to_is_closed() {
    each_pair(|here, there| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&here, Script::new(&log));
        tcp.move_to(&here, &there.remote(), |_, tcp| assert!(tcp.is_ok()))
            .unwrap();
        run_to_end(&here);
        run_to_end(&there);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    });
}

#[test]
fn a_loop_that_goes_says_so_to_what_was_on_its_way() {
    each_pair(|here, there| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&here, Script::new(&log));
        let (tell, told) = mpsc::channel();
        tcp.move_to(
            &here,
            &there.remote(),
            move |_, outcome: Result<TcpStream>| {
                tell.send(outcome.unwrap_err().code()).unwrap();
            },
        )
        .unwrap();
        drop(there);
        assert_eq!(told.recv().unwrap(), Code::ECANCELED);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        run_to_end(&here);
    });
}

#[test]
fn a_stream_that_was_shut_down_stays() {
    each_pair(|here, there| {
        let log = Log::default();
        let (tcp, _peer) = connected(&here, Script::new(&log));
        tcp.shutdown(&here, |_, _, _| ()).unwrap();
        let outcome = tcp.move_to(&here, &there.remote(), |_, _| panic!("it stays"));
        assert_eq!(outcome.unwrap_err().code(), Code::EPIPE);
    });
}

#[test]
fn timeouts_move_with_a_stream() {
    each_pair(|here, there| {
        let log = Log::default();
        let (tcp, _peer) = connected(&here, Script::new(&log));
        tcp.set_timeouts(&here, Some(Duration::from_millis(1)), None)
            .unwrap();
        let there_log = Log::default();
        let cell = Unsent(Script::new(&there_log), Shared::default());
        tcp.move_to(&here, &there.remote(), move |there, tcp| {
            let cell = cell;
            tcp.unwrap().attach(there, cell.0).unwrap();
        })
        .unwrap();
        let timeout = Event::Timeout(kolo::Timeout::Read);
        run_until(&there, || there_log.has(&timeout));
    });
}
