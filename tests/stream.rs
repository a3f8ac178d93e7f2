//! Streams: reading, writing, ending, timeouts, fairness. What is TCP's own is in tests/ours.rs.

#![cfg(all(unix, feature = "net"))]

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use kolo::{
    Code, Error, Flow, Hook, HookKind, Loop, Payload, Poll, RunMode, Stream, StreamHandler,
    Timeout, Timer, WriteId,
};

const MIB: usize = 1024 * 1024;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Sends everything back, and stops reading while the peer does not take it.
struct Echo {
    closed: Shared<bool>,
}

impl StreamHandler for Echo {
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        if stream.write(lp, data).unwrap() == Flow::Full {
            stream.read_stop(lp).unwrap();
        }
    }

    fn on_drain(&mut self, lp: &Loop, stream: Stream) {
        // The end may have come before the queue fell.
        match stream.read_start(lp) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.code(), Code::ENOTCONN),
        }
    }

    fn on_close(&mut self, _: &Loop, _: Stream) {
        self.closed.set(true);
    }
}

// ---- bytes ----

#[test]
fn megabytes_are_echoed_unharmed_while_both_directions_are_busy() {
    each_carrier(|lp| {
        let closed = Shared::new(false);
        let echo = Echo {
            closed: closed.clone(),
        };
        let (_, peer) = carried(&lp, echo);
        let total = 8 * MIB;
        let mut writer = peer.try_clone().unwrap();
        let writing = thread::spawn(move || {
            let mut random = Random::new(1);
            let mut sent = 0;
            while sent < total {
                let length = (1 + random.below(200_000)).min(total - sent);
                writer.write_all(&pattern(sent, length)).unwrap();
                sent += length;
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut reader = peer;
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        run_to_end(&lp);
        assert!(closed.get());
        writing.join().unwrap();
        let all = reading.join().unwrap();
        assert_eq!(all.len(), total);
        assert_pattern(&all, 0);
    });
}

#[test]
fn the_two_directions_do_not_depend_on_each_other() {
    each_carrier(|lp| {
        let total = 4 * MIB;
        let received = Shared::<Vec<u8>>::default();
        struct Both {
            received: Shared<Vec<u8>>,
            sent: usize,
            total: usize,
        }
        impl Both {
            fn send(&mut self, lp: &Loop, stream: Stream) {
                while self.sent < self.total {
                    let piece = pattern(self.sent, 10_000.min(self.total - self.sent));
                    self.sent += piece.len();
                    if stream.write(lp, &piece).unwrap() == Flow::Full {
                        return;
                    }
                }
                let done = |_: &Loop, _, outcome: kolo::Result<()>| outcome.unwrap();
                match stream.shutdown(lp, done) {
                    Ok(()) => {}
                    // The queue fell after the last write, too.
                    Err(error) => assert_eq!(error.code(), Code::EALREADY),
                }
            }
        }
        impl StreamHandler for Both {
            fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
                if self.received.is_empty() {
                    self.send(lp, stream);
                }
                self.received.with(|all| all.extend_from_slice(data));
            }
            fn on_drain(&mut self, lp: &Loop, stream: Stream) {
                self.send(lp, stream);
            }
            fn on_end(&mut self, _: &Loop, _: Stream) {
                // Sending goes on.
            }
        }
        let (_, peer) = carried(
            &lp,
            Both {
                received: received.clone(),
                sent: 0,
                total,
            },
        );
        let mut writer = peer.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&pattern(7, total)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut reader = peer;
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        run_to_end(&lp);
        writing.join().unwrap();
        let sent = reading.join().unwrap();
        assert_eq!((sent.len(), received.len()), (total, total));
        assert_pattern(&sent, 0);
        received.with(|all| assert_pattern(all, 7));
    });
}

// ---- writing ----

/// Segments with data that the socket has sent (`tcpi_data_segs_out`, Linux 4.6).
#[cfg(target_os = "linux")]
fn segments_sent(lp: &Loop, ours: kolo::TcpStream) -> u32 {
    const DATA_SEGMENTS_OUT: usize = 156;
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    let outcome = unsafe {
        libc::getsockopt(
            ours.raw_socket(lp).unwrap(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    assert_eq!(outcome, 0);
    assert!(length as usize >= DATA_SEGMENTS_OUT + 4);
    u32::from_ne_bytes(info[DATA_SEGMENTS_OUT..][..4].try_into().unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn small_writes_of_a_callback_leave_as_one_when_it_returns() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        let watched = peer.try_clone().unwrap();
        in_callback(&lp, move |lp| {
            for at in 0..100 {
                let outcome = match at % 10 {
                    9 => tcp
                        .write_owned(lp, pattern(at * 10, 10), |_, _, outcome| outcome.unwrap())
                        .map(|(flow, _)| flow),
                    _ => tcp.write(lp, &pattern(at * 10, 10)),
                };
                assert_eq!(outcome.unwrap(), Flow::Ready);
                if at == 8 {
                    // Nothing has left, and it counts as queued.
                    assert_eq!(tcp.queued(lp).unwrap(), 90);
                    assert_eq!(read_now(&watched), None);
                }
            }
        });
        assert_eq!(tcp.queued(&lp).unwrap(), 0);
        assert_pattern(&read_from_peer(&lp, &peer, 1000), 0);
        // An owned write ends the gathering of copies before it: ten groups at most, not a hundred sends.
        assert!(segments_sent(&lp, tcp) <= 10);

        let before = segments_sent(&lp, tcp);
        in_callback(&lp, move |lp| {
            for at in 0..100 {
                tcp.write(lp, &pattern(at * 10, 10)).unwrap();
            }
        });
        assert_pattern(&read_from_peer(&lp, &peer, 1000), 0);
        assert_eq!(segments_sent(&lp, tcp) - before, 1);
    });
}

#[test]
fn writes_of_a_callback_are_with_the_kernel_when_it_has_returned() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let (other, other_peer) = carried(&lp, Script::new(&log));
        let seen = Shared::<Vec<Option<Vec<u8>>>>::default();
        let (first_seen, second_seen) = (seen.clone(), seen.clone());
        // Two callbacks of one phase: the second finds what the first wrote.
        lp.defer(move |lp: &Loop| {
            ours.write(lp, b"one ").unwrap();
            other.write(lp, b"two ").unwrap();
            ours.write(lp, b"three").unwrap();
            first_seen.push(None);
        })
        .unwrap();
        lp.defer(move |_: &Loop| {
            second_seen.push(read_now(&peer));
            second_seen.push(read_now(&other_peer));
        })
        .unwrap();
        lp.run(RunMode::NoWait).unwrap();
        let expected = [None, Some(b"one three".to_vec()), Some(b"two ".to_vec())];
        assert_eq!(seen.take(), expected);
    });
}

#[test]
fn owned_writes_of_a_callback_leave_when_it_returns() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        for count in 1..=4 {
            let done: Vec<_> = (0..count).map(|which| log.done(which)).collect();
            in_callback(&lp, move |lp| {
                for done in done {
                    ours.write_owned(lp, "owned ", done).unwrap();
                }
            });
            assert_eq!(ours.queued(&lp).unwrap(), 0);
            assert_eq!(read_now(&peer).unwrap(), b"owned ".repeat(count));
        }
        run_until(&lp, || log.events().len() == 1 + 2 + 3 + 4);
    });
}

#[test]
fn a_write_outside_of_callbacks_needs_no_turn() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        assert_eq!(ours.write(&lp, b"copied ").unwrap(), Flow::Ready);
        ours.write_owned(&lp, "owned", |_, _, _| {}).unwrap();
        let mut bytes = [0; 12];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"copied owned");
    });
}

#[test]
fn writes_of_all_kinds_keep_their_order() {
    each_carrier(|lp| {
        let mut random = Random::new(2);
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        ours.set_watermarks(&lp, 0, MIB, usize::MAX).unwrap();
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all
        });
        let written = Shared::<usize>::default();
        let mut owned = 0;
        // Some in callbacks, some outside, of sizes around everything that is treated differently.
        for round in 0..60 {
            let kinds: Vec<(usize, usize)> = (0..random.below(20))
                .map(|_| {
                    let sizes = [0, 1, 100, 4095, 4096, 10_000, 65_536, 150_000];
                    (random.below(4), sizes[random.below(sizes.len())])
                })
                .collect();
            let (log, written) = (log.clone(), written.clone());
            let first_owned = owned;
            owned += kinds.iter().filter(|(kind, _)| *kind >= 2).count();
            let write_all = move |lp: &Loop| {
                let mut which = first_owned;
                for (kind, length) in kinds {
                    let at = written.get();
                    written.set(at + length);
                    if kind < 2 {
                        ours.write(lp, &pattern(at, length)).unwrap();
                    } else if kind == 2 {
                        let payload: Arc<[u8]> = pattern(at, length).into();
                        ours.write_owned(lp, payload, log.done(which)).unwrap();
                        which += 1;
                    } else {
                        let cut = length / 3;
                        let payloads = vec![
                            Payload::from(pattern(at, cut)),
                            Payload::from(""),
                            Payload::from(pattern(at + cut, length - cut)),
                        ];
                        ours.write_owned_vectored(lp, payloads, log.done(which))
                            .unwrap();
                        which += 1;
                    }
                }
            };
            if round % 2 == 0 {
                write_all(&lp);
            } else {
                in_callback(&lp, write_all);
            }
        }
        ours.finish(&lp).unwrap();
        run_to_end(&lp);
        let all = reading.join().unwrap();
        assert_eq!(all.len(), written.get());
        assert_pattern(&all, 0);
        let mut expected: Vec<Event> = (0..owned).map(|which| Event::Done(which, Ok(()))).collect();
        expected.push(Event::Close);
        assert_eq!(log.without(&Event::Drain), expected);
    });
}

#[test]
fn memory_of_somebody_elses_is_sent_as_it_is() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let memory = pattern(0, 50_000);
        let payload = unsafe { Payload::from_raw(memory.as_ptr(), memory.len()) };
        let empty = unsafe { Payload::from_raw(std::ptr::null(), 0) };
        ours.write_owned_vectored(&lp, vec![empty, payload], log.done(0))
            .unwrap();
        assert_pattern(&read_from_peer(&lp, &peer, memory.len()), 0);
        run_until(&lp, || log.has(&Event::Done(0, Ok(()))));
    });
}

#[test]
fn a_completion_never_runs_inside_the_write() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        ours.write_owned(&lp, "x", log.done(0)).unwrap();
        ours.write_owned(&lp, vec![0; 100_000], log.done(1))
            .unwrap();
        ours.write_owned(&lp, "", log.done(2)).unwrap();
        assert_eq!(log.events(), []);
        read_from_peer(&lp, &peer, 100_001);
        run_until(&lp, || log.has(&Event::Done(2, Ok(()))));
        assert_eq!(
            log.without(&Event::Drain),
            [0, 1, 2].map(|which| Event::Done(which, Ok(())))
        );
    });
}

#[test]
fn a_payload_is_let_go_when_its_write_has_ended() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let payload: Arc<[u8]> = vec![1; 100].into();
        ours.write_owned(&lp, payload.clone(), log.done(0)).unwrap();
        run_until(&lp, || log.has(&Event::Done(0, Ok(()))));
        assert_eq!(Arc::strong_count(&payload), 1);
        // And when it never is sent.
        fill(&lp, ours);
        ours.write_owned(&lp, payload.clone(), log.done(1)).unwrap();
        lp.close(ours).unwrap();
        run_to_end(&lp);
        assert!(log.has(&Event::Done(1, Err(Code::ECANCELED))));
        assert_eq!(Arc::strong_count(&payload), 1);
        drop(peer);
    });
}

#[test]
fn a_write_can_be_cancelled_until_it_begins() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let done = |which| log.done(which);

        // Ended: it is not known any more.
        let (_, ended) = ours.write_owned(&lp, "ended", done(0)).unwrap();
        run_until(&lp, || log.has(&Event::Done(0, Ok(()))));
        assert_eq!(code(ours.cancel_write(&lp, ended)), Code::ENOENT);
        assert_eq!(read_from_peer(&lp, &peer, 5), b"ended");

        // Begun: the peer would see half of it.
        let mut begun: Option<WriteId> = None;
        let mut whole = 0;
        while ours.queued(&lp).unwrap() == 0 {
            whole += 1;
            let (_, write) = ours.write_owned(&lp, vec![b'b'; MIB], done(whole)).unwrap();
            begun = Some(write);
        }
        let after = ours
            .write_owned(&lp, vec![b'c'; 1000], done(1000))
            .unwrap()
            .1;
        let last = ours.write_owned(&lp, "last", done(1001)).unwrap().1;
        let queued = ours.queued(&lp).unwrap();
        let is_begun = queued < MIB + 1004;
        if is_begun {
            assert_eq!(code(ours.cancel_write(&lp, begun.unwrap())), Code::EBUSY);
        }

        // Not begun: it never happened.
        ours.cancel_write(&lp, after).unwrap();
        assert_eq!(ours.queued(&lp).unwrap(), queued - 1000);
        assert_eq!(code(ours.cancel_write(&lp, after)), Code::ENOENT);
        assert!(
            !log.has(&Event::Done(1000, Err(Code::ECANCELED))),
            "not inside the call"
        );
        ours.finish(&lp).unwrap();
        let all = read_peer_to_end(&lp, &peer);
        assert_eq!(all.len(), whole * MIB + 4);
        assert!(all.ends_with(b"last"));
        run_to_end(&lp);
        assert_eq!(log.count(&Event::Done(1000, Err(Code::ECANCELED))), 1);
        assert_eq!(log.count(&Event::Done(1001, Ok(()))), 1);
        assert_eq!(code(ours.cancel_write(&lp, last)), Code::EBADF);
    });
}

#[test]
fn a_write_that_is_still_gathered_can_be_cancelled() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let done = log.done(0);
        in_callback(&lp, move |lp| {
            let (_, write) = ours.write_owned(lp, "never", done).unwrap();
            ours.cancel_write(lp, write).unwrap();
            ours.write(lp, b"sent").unwrap();
        });
        run_until(&lp, || log.has(&Event::Done(0, Err(Code::ECANCELED))));
        assert_eq!(read_from_peer(&lp, &peer, 4), b"sent");
    });
}

#[test]
fn on_drain_comes_once_each_time_the_queue_was_full() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        ours.set_watermarks(&lp, 1000, 5 * MIB, usize::MAX).unwrap();
        let mut written = 0;
        for episode in 1..=3 {
            // Below the high mark: the queue drains without a word.
            written += fill(&lp, ours);
            assert!(ours.queued(&lp).unwrap() < 5 * MIB);
            read_from_peer(&lp, &peer, written);
            written = 0;
            some_turns(&lp);
            assert_eq!(log.count(&Event::Drain), episode - 1);

            let mut flow = Flow::Ready;
            while ours.queued(&lp).unwrap() < 5 * MIB {
                assert_eq!(flow, Flow::Ready);
                flow = ours.write(&lp, &pattern(written, MIB)).unwrap();
                written += MIB;
            }
            assert_eq!(flow, Flow::Full);
            assert_eq!(ours.write(&lp, b"").unwrap(), Flow::Full);
            some_turns(&lp);
            assert_eq!(log.count(&Event::Drain), episode - 1);
            let mut got = 0;
            while ours.queued(&lp).unwrap() > 1000 {
                assert_eq!(log.count(&Event::Drain), episode - 1);
                match read_now(&peer) {
                    Some(bytes) => {
                        assert_pattern(&bytes, got);
                        got += bytes.len();
                    }
                    None => drop(lp.run(RunMode::NoWait).unwrap()),
                }
            }
            run_until(&lp, || log.count(&Event::Drain) == episode);
            assert_pattern(&read_from_peer(&lp, &peer, written - got), got);
            written = 0;
            some_turns(&lp);
            assert_eq!(log.count(&Event::Drain), episode);
        }
    });
}

#[test]
fn lowering_the_marks_makes_a_queue_full_and_raising_them_drains_it() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, _peer) = carried(&lp, Script::new(&log));
        ours.set_watermarks(&lp, 0, usize::MAX, usize::MAX).unwrap();
        fill(&lp, ours);
        assert_eq!(ours.write(&lp, b"x").unwrap(), Flow::Ready);
        ours.set_watermarks(&lp, 0, 1, usize::MAX).unwrap();
        assert_eq!(ours.write(&lp, b"x").unwrap(), Flow::Full);
        some_turns(&lp);
        assert!(!log.has(&Event::Drain));
        ours.set_watermarks(&lp, 2 * MIB, 8 * MIB, usize::MAX)
            .unwrap();
        run_until(&lp, || log.has(&Event::Drain));
        some_turns(&lp);
        assert_eq!(log.count(&Event::Drain), 1);

        for (low, high, limit) in [(2, 1, 3), (1, 4, 3), (0, 0, 3), (0, 0, 0)] {
            assert_eq!(
                code(ours.set_watermarks(&lp, low, high, limit)),
                Code::EINVAL
            );
        }
    });
}

#[test]
fn a_write_past_the_bound_takes_nothing() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let filled = fill(&lp, ours);
        let limit = ours.queued(&lp).unwrap() + 1000;
        ours.set_watermarks(&lp, 0, 1, limit).unwrap();
        let payload: Arc<[u8]> = vec![b'!'; 1001].into();
        assert_eq!(code(ours.write(&lp, &payload)), Code::ENOBUFS);
        assert_eq!(
            code(ours.write_owned(&lp, payload.clone(), log.done(0))),
            Code::ENOBUFS
        );
        assert_eq!(Arc::strong_count(&payload), 1);
        ours.write(&lp, &pattern(filled, 600)).unwrap();
        ours.write_owned(&lp, pattern(filled + 600, 400), log.done(1))
            .unwrap();
        assert_eq!(ours.queued(&lp).unwrap(), limit);
        assert_eq!(code(ours.write(&lp, b"!")), Code::ENOBUFS);
        ours.write(&lp, b"").unwrap();
        // Gathered bytes count, too.
        let all = read_from_peer(&lp, &peer, filled + 1000);
        assert_pattern(&all, 0);
        in_callback(&lp, move |lp| {
            ours.set_watermarks(lp, 0, 1, 10).unwrap();
            ours.write(lp, b"123456").unwrap();
            assert_eq!(code(ours.write(lp, b"!!!!!")), Code::ENOBUFS);
            ours.write(lp, b"7890").unwrap();
        });
        assert_eq!(read_from_peer(&lp, &peer, 10), b"1234567890");
        run_until(&lp, || log.has(&Event::Done(1, Ok(()))));
        assert_eq!(log.count(&Event::Error(Code::ENOBUFS)), 0);
    });
}

#[test]
fn a_stream_with_a_queue_keeps_the_loop_alive_until_it_is_sent() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log).not_reading());
        assert!(!lp.is_active(ours).unwrap() && !lp.is_alive());
        let written = fill(&lp, ours);
        assert!(lp.is_active(ours).unwrap() && lp.is_alive());
        let reading = thread::spawn(move || {
            let mut all = vec![0; written];
            peer.read_exact(&mut all).unwrap();
            peer
        });
        run_to_end(&lp);
        assert_eq!(ours.queued(&lp).unwrap(), 0);
        reading.join().unwrap();
    });
}

// ---- ending ----

#[test]
fn a_write_before_finish_is_told_before_the_close_when_the_peer_ends_too() {
    each_carrier(|lp| {
        let log = Log::default();
        let told = log.clone();
        let answer = Script::new(&log).on_data(move |lp, stream, _| {
            stream.write_owned(lp, "answer", told.done(1)).unwrap();
            stream.finish(lp).unwrap();
        });
        let (_ours, mut peer) = carried(&lp, answer);
        some_turns(&lp);
        log.clear();
        // Where question and end come in one turn, the stream closes before its deferred events are told.
        peer.write_all(b"?").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        run_until(&lp, || log.closed());
        let expected = [Event::Done(1, Ok(())), Event::Close];
        assert_eq!(log.without_data(), expected);
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    });
}

#[test]
fn shutdown_ends_our_side_after_what_was_written() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        let written = fill(&lp, ours);
        ours.shutdown(&lp, log.done(0)).unwrap();
        assert_eq!(code(ours.write(&lp, b"!")), Code::EPIPE);
        assert_eq!(code(ours.write_owned(&lp, "!", log.done(1))), Code::EPIPE);
        assert_eq!(code(ours.shutdown(&lp, log.done(2))), Code::EALREADY);
        assert!(!log.has(&Event::Done(0, Ok(()))));
        let all = read_peer_to_end(&lp, &peer);
        assert_eq!(all.len(), written);
        assert_pattern(&all, 0);
        run_until(&lp, || log.has(&Event::Done(0, Ok(()))));
        assert_eq!(code(ours.shutdown(&lp, log.done(3))), Code::EALREADY);
        // Reading goes on.
        peer.write_all(b"still heard").unwrap();
        run_until(&lp, || log.data() == b"still heard");
        let expected = [Event::Done(0, Ok(()))];
        let mut events = log.without_data();
        events.retain(|event| *event != Event::Drain);
        assert_eq!(events, expected);
    });
}

#[test]
fn shutdown_in_a_callback_comes_after_the_writes_gathered_there() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let done = log.done(0);
        in_callback(&lp, move |lp| {
            ours.write(lp, b"first").unwrap();
            ours.shutdown(lp, done).unwrap();
            assert_eq!(code(ours.write(lp, b"!")), Code::EPIPE);
        });
        assert_eq!(read_peer_to_end(&lp, &peer), b"first");
        run_until(&lp, || log.has(&Event::Done(0, Ok(()))));
    });
}

#[test]
fn the_peers_half_close_is_told_once_and_writing_goes_on() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        peer.write_all(b"bye").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        run_until(&lp, || log.has(&Event::End));
        assert_eq!(log.data(), b"bye");
        assert_eq!(code(ours.read_start(&lp)), Code::ENOTCONN);
        // It reads no more, so it does not keep the loop.
        run_to_end(&lp);
        ours.write(&lp, &pattern(0, 100_000)).unwrap();
        assert_pattern(&read_from_peer(&lp, &peer, 100_000), 0);
        some_turns(&lp);
        assert_eq!(log.without_data(), [Event::End]);
    });
}

#[test]
fn by_default_the_peers_end_closes_the_stream_when_everything_is_sent() {
    each_carrier(|lp| {
        let log = Log::default();
        let closed = log.clone();
        let (ours, mut peer) = carried(&lp, |lp: &Loop, stream: Stream, _: &[u8]| {
            fill(lp, stream);
        });
        lp.on_close(ours, move |_, _| closed.push(Event::Close))
            .unwrap();
        peer.write_all(b"go").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        run_until(&lp, || ours.queued(&lp).unwrap() > 0);
        some_turns(&lp);
        assert!(!log.closed(), "not before the queue is sent");
        let all = read_peer_to_end(&lp, &peer);
        assert!(!all.is_empty());
        assert_pattern(&all, 0);
        run_to_end(&lp);
        assert!(log.closed());
    });
}

#[test]
fn finish_sends_what_is_queued_and_then_closes() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let written = fill(&lp, ours);
        ours.write_owned(&lp, "the end", log.done(0)).unwrap();
        ours.finish(&lp).unwrap();
        ours.finish(&lp).unwrap();
        assert_eq!(code(ours.write(&lp, b"!")), Code::EPIPE);
        some_turns(&lp);
        assert!(!log.closed());
        let all = read_peer_to_end(&lp, &peer);
        assert_pattern(&all[..written], 0);
        assert_eq!(&all[written..], b"the end");
        run_to_end(&lp);
        assert_eq!(
            log.without(&Event::Drain),
            [Event::Done(0, Ok(())), Event::Close]
        );
        assert_eq!(code(ours.finish(&lp)), Code::EBADF);

        // With nothing to send it closes as well, but never inside the call.
        let log = Log::default();
        let (ours, _peer) = carried(&lp, Script::new(&log));
        ours.finish(&lp).unwrap();
        assert_eq!(log.events(), []);
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Close]);
        // And what a callback wrote before is sent first.
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        in_callback(&lp, move |lp| {
            ours.write(lp, b"gathered").unwrap();
            ours.finish(lp).unwrap();
        });
        assert_eq!(read_peer_to_end(&lp, &peer), b"gathered");
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Close]);
    });
}

#[test]
fn reset_cuts_the_peer_off() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        fill(&lp, *tcp);
        tcp.write_owned(&lp, "never", log.done(0)).unwrap();
        tcp.reset(&lp).unwrap();
        assert_eq!(code(tcp.reset(&lp)), Code::EBADF);
        assert_peer_is_reset(&lp, &peer);
        run_to_end(&lp);
        assert_eq!(
            log.events(),
            [Event::Done(0, Err(Code::ECANCELED)), Event::Close]
        );
        // What the callback wrote just before is not sent.
        let (tcp, peer) = connected(&lp, Script::new(&log));
        in_callback(&lp, move |lp| {
            tcp.write(lp, b"gathered").unwrap();
            tcp.reset(lp).unwrap();
        });
        assert_peer_is_reset(&lp, &peer);
    });
}

#[test]
fn a_broken_connection_is_told_once_then_its_writes_then_its_close() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        fill(&lp, *tcp);
        tcp.write_owned(&lp, "never", log.done(0)).unwrap();
        tcp.write_owned(&lp, "never", log.done(1)).unwrap();
        tcp.shutdown(&lp, log.done(2)).unwrap();
        reset(peer);
        run_to_end(&lp);
        let broken = Err(Code::ECONNRESET);
        assert_eq!(
            log.events(),
            [
                Event::Error(Code::ECONNRESET),
                Event::Done(0, broken),
                Event::Done(1, broken),
                Event::Done(2, broken),
                Event::Close
            ]
        );
        assert_eq!(code(tcp.write(&lp, b"!")), Code::EBADF);
    });
}

#[test]
fn a_reset_is_noticed_by_writing_while_reading_is_stopped() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log).not_reading());
        fill(&lp, *tcp);
        reset(peer);
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Error(Code::ECONNRESET), Event::Close]);

        // With nothing queued: the next write finds it; its own result does not say so.
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log).not_reading());
        reset(peer);
        some_turns(&lp);
        assert_eq!(log.events(), []);
        while tcp.write(&lp, b"anybody there?").is_ok() {}
        assert_eq!(code(tcp.write(&lp, b"!")), Code::ENOTCONN);
        assert_eq!(log.events(), []);
        run_to_end(&lp);
        let events = log.events();
        assert!(matches!(
            events[0],
            Event::Error(Code::ECONNRESET | Code::EPIPE)
        ));
        assert_eq!(events[1..], [Event::Close]);
    });
}

#[test]
fn fail_breaks_a_stream_off_with_the_error_given() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        fill(&lp, ours);
        ours.write_owned(&lp, "never", log.done(0)).unwrap();
        ours.fail(&lp, Error::new(Code::EPROTO)).unwrap();
        ours.fail(&lp, Error::new(Code::EIO)).unwrap();
        assert_eq!(log.events(), [], "not inside the call");
        for outcome in [
            ours.write(&lp, b"!").map(drop),
            ours.write_owned(&lp, "!", log.done(1)).map(drop),
            ours.read_start(&lp),
            ours.shutdown(&lp, log.done(2)),
        ] {
            assert_eq!(code(outcome), Code::ENOTCONN);
        }
        run_to_end(&lp);
        let expected = [
            Event::Error(Code::EPROTO),
            Event::Done(0, Err(Code::EPROTO)),
            Event::Close,
        ];
        assert_eq!(log.events(), expected);
        drop(peer);
    });
}

#[test]
fn a_failed_stream_is_not_read_any_more() {
    each_carrier(|lp| {
        let log = Log::default();
        let script = Script::new(&log).on_data(|lp, stream, _| {
            stream.fail(lp, Code::EPROTO.into()).unwrap();
        });
        let (_, mut peer) = carried(&lp, script);
        // More than one buffer, so that there is more to read in that turn.
        peer.write_all(&vec![0; 200_000]).unwrap();
        run_to_end(&lp);
        assert_eq!(log.events().len(), 3);
        assert_eq!(
            log.without_data(),
            [Event::Error(Code::EPROTO), Event::Close]
        );
    });
}

#[test]
fn in_on_error_the_stream_is_open_but_takes_nothing() {
    each_carrier(|lp| {
        let log = Log::default();
        let checked = log.clone();
        let script = Script::new(&log).on_error(move |lp, stream, _| {
            assert_eq!(code(stream.write(lp, b"!")), Code::ENOTCONN);
            stream.queued(lp).unwrap();
            // Closing it oneself does no harm.
            lp.close(stream).unwrap();
            checked.push(Event::Drain);
        });
        let (ours, _peer) = carried(&lp, script);
        ours.fail(&lp, Code::EIO.into()).unwrap();
        run_to_end(&lp);
        let expected = [Event::Error(Code::EIO), Event::Drain, Event::Close];
        assert_eq!(log.events(), expected);
    });
}

// ---- reading ----

#[test]
fn a_handler_that_does_not_read_starts_when_told() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log).not_reading());
        peer.write_all(b"early").unwrap();
        some_turns(&lp);
        assert_eq!(log.events(), []);
        ours.read_start(&lp).unwrap();
        ours.read_start(&lp).unwrap();
        assert_eq!(log.events(), [], "not inside the call");
        run_until(&lp, || log.data() == b"early");
    });
}

#[test]
fn stopping_and_starting_to_read_loses_nothing() {
    each_carrier(|lp| {
        let log = Log::default();
        let stops = Shared::<usize>::default();
        let counted = stops.clone();
        let script = Script::new(&log)
            .on_data(move |lp, stream, _| {
                counted.add();
                stream.read_stop(lp).unwrap();
                if counted.get() % 3 == 0 {
                    // On again at once.
                    stream.read_start(lp).unwrap();
                }
            })
            .on_end(|lp, stream| lp.close(stream).unwrap());
        let (ours, mut peer) = carried(&lp, script);
        let total = 3 * MIB;
        let writing = thread::spawn(move || peer.write_all(&pattern(0, total)).unwrap());
        loop {
            let before = stops.get();
            let alive = lp.run(RunMode::NoWait).unwrap();
            if log.closed() {
                break;
            }
            if !alive {
                // Stopped: whatever comes, nothing is told.
                let events = log.events().len();
                some_turns(&lp);
                assert_eq!(log.events().len(), events);
                assert!(stops.get() >= before);
                ours.read_start(&lp).unwrap();
            }
        }
        writing.join().unwrap();
        let data = log.data();
        assert_eq!(data.len(), total);
        assert_pattern(&data, 0);
        assert_eq!(log.without_data(), [Event::End, Event::Close]);
    });
}

#[test]
fn what_came_before_the_peer_closed_is_read_after_a_pause() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        some_turns(&lp);
        ours.read_stop(&lp).unwrap();
        peer.write_all(&pattern(0, 50_000)).unwrap();
        drop(peer);
        some_turns(&lp);
        assert_eq!(log.events(), []);
        assert!(!lp.is_alive());
        ours.read_start(&lp).unwrap();
        run_until(&lp, || log.has(&Event::End));
        assert_pattern(&log.data(), 0);
        assert_eq!(log.data().len(), 50_000);
        assert_eq!(log.without_data(), [Event::End]);
    });
}

#[test]
fn the_end_is_seen_with_the_last_bytes_or_without() {
    each_carrier(|lp| {
        // Around the size of the receive buffer a read stops short or not.
        let sizes = [0, 1, 10, 65_535, 65_536, 65_537, 131_072];
        for round in 0..40 {
            for size in sizes {
                let log = Log::default();
                let script = Script::new(&log).on_end(|lp, stream| lp.close(stream).unwrap());
                let (_, mut peer) = carried(&lp, script);
                if round % 2 == 0 {
                    some_turns(&lp);
                }
                peer.write_all(&pattern(0, size)).unwrap();
                drop(peer);
                run_to_end(&lp);
                assert_eq!(log.data().len(), size);
                assert_pattern(&log.data(), 0);
                assert_eq!(log.without_data(), [Event::End, Event::Close]);
            }
        }
    });
}

#[test]
fn read_stop_holds_from_the_call_on() {
    each_carrier(|lp| {
        let log = Log::default();
        let script = Script::new(&log).on_data(|lp, stream, _| stream.read_stop(lp).unwrap());
        let (_, mut peer) = carried(&lp, script);
        // Several buffers are there; only the first is told.
        peer.write_all(&pattern(0, 250_000)).unwrap();
        run_to_end(&lp);
        assert_eq!(log.events().len(), 1);

        // Also when another callback of the same turn stops it: either the data came before, or not at all.
        for _ in 0..20 {
            let (mine, others) = (Log::default(), Log::default());
            let stopped = Shared::<Option<Stream>>::new(None);
            let heard_after = mine.clone();
            let to_stop = stopped.clone();
            let script = Script::new(&others).on_data(move |lp, _, _| {
                to_stop.get().unwrap().read_stop(lp).unwrap();
                heard_after.push(Event::Drain);
            });
            let (_one, mut one_peer) = carried(&lp, script);
            let (two, mut two_peer) = carried(&lp, Script::new(&mine));
            stopped.set(Some(two));
            one_peer.write_all(b"stop").unwrap();
            two_peer.write_all(b"data").unwrap();
            run_until(&lp, || mine.has(&Event::Drain));
            some_turns(&lp);
            assert_eq!(mine.events().last(), Some(&Event::Drain));
        }
    });
}

/// Receives into its own memory, so many bytes at a time.
struct Memory {
    log: Log,
    memory: Vec<u8>,
    size: usize,
    /// Pauses after each piece, by giving no memory or by giving none of its bytes.
    pauses: Option<bool>,
    has_room: bool,
}

impl Memory {
    fn new(log: &Log, size: usize) -> Memory {
        Memory {
            log: log.clone(),
            memory: vec![0xEE; size + 1],
            size,
            pauses: None,
            has_room: true,
        }
    }
}

impl StreamHandler for Memory {
    fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {
        panic!("it has memory of its own");
    }

    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        self.log.push(Event::End);
        lp.close(stream).unwrap();
    }

    fn on_error(&mut self, _: &Loop, _: Stream, error: Error) {
        self.log.push(Event::Error(error.code()));
    }

    fn on_close(&mut self, _: &Loop, _: Stream) {
        self.log.push(Event::Close);
    }

    fn has_memory(&self) -> bool {
        true
    }

    fn memory(&mut self, _: &Loop, _: Stream, suggested: usize) -> Option<&mut [u8]> {
        assert!(suggested > 0);
        let has_room = std::mem::replace(&mut self.has_room, true);
        match (has_room, self.pauses) {
            (true, _) => Some(&mut self.memory[..self.size]),
            (false, Some(true)) => Some(&mut []),
            (false, _) => None,
        }
    }

    fn on_received(&mut self, _: &Loop, _: Stream, length: usize) {
        assert!(length > 0 && length <= self.size);
        assert_eq!(self.memory[self.size], 0xEE, "written past its end");
        self.log.push(Event::Data(self.memory[..length].to_vec()));
        self.has_room = self.pauses.is_none();
    }
}

#[test]
fn bytes_are_received_into_the_handlers_memory() {
    each_carrier(|lp| {
        for (size, total) in [
            (1, 3000),
            (7, 20_000),
            (4096, MIB),
            (65_536, 2 * MIB),
            (MIB, 2 * MIB),
        ] {
            let log = Log::default();
            let (_, mut peer) = carried(&lp, Memory::new(&log, size));
            let writing = thread::spawn(move || peer.write_all(&pattern(0, total)).unwrap());
            run_to_end(&lp);
            writing.join().unwrap();
            assert_eq!(log.data().len(), total);
            assert_pattern(&log.data(), 0);
            assert_eq!(log.without_data(), [Event::End, Event::Close]);
        }
    });
}

#[test]
fn a_handler_without_room_pauses_reading() {
    each_carrier(|lp| {
        for empty in [false, true] {
            let log = Log::default();
            let mut memory = Memory::new(&log, 1000);
            memory.pauses = Some(empty);
            let (ours, mut peer) = carried(&lp, memory);
            peer.write_all(&pattern(0, 10_000)).unwrap();
            drop(peer);
            let mut pauses = 0;
            while !log.closed() {
                // As by read_stop: it does not keep the loop alive.
                run_to_end(&lp);
                if !log.closed() {
                    assert!(!lp.is_active(ours).unwrap());
                    pauses += 1;
                    ours.read_start(&lp).unwrap();
                }
            }
            assert!(pauses >= 10);
            assert_eq!(log.data().len(), 10_000);
            assert_pattern(&log.data(), 0);
            assert_eq!(log.without_data(), [Event::End, Event::Close]);
        }
    });
}

#[test]
fn a_reset_is_an_error_also_when_reading_into_the_handlers_memory() {
    each_driver(|lp| {
        let log = Log::default();
        let (_, peer) = connected(&lp, Memory::new(&log, 100));
        some_turns(&lp);
        reset(peer);
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Error(Code::ECONNRESET), Event::Close]);
    });
}

#[test]
fn an_urgent_byte_does_not_stall_reading() {
    each_carrier(|lp| {
        let log = Log::default();
        let (_, mut peer) = carried(&lp, Script::new(&log));
        let mut random = Random::new(3);
        let mut sent = 0;
        for _ in 0..300 {
            let (before, after) = (random.below(3000), 1 + random.below(3000));
            peer.write_all(&pattern(sent, before)).unwrap();
            socket2::SockRef::from(&peer)
                .send_out_of_band(b"!")
                .unwrap();
            if random.below(2) == 0 {
                lp.run(RunMode::NoWait).unwrap();
            }
            peer.write_all(&pattern(sent + before, after)).unwrap();
            sent += before + after;
            run_until(&lp, || log.data().len() >= sent);
        }
        // The urgent byte itself stands outside of the stream.
        assert_eq!(log.data().len(), sent);
        assert_pattern(&log.data(), 0);
        drop(peer);
        run_until(&lp, || log.has(&Event::End));
    });
}

#[test]
fn another_handler_takes_over_and_the_first_is_dropped() {
    each_carrier(|lp| {
        let (first, second) = (Log::default(), Log::default());
        let next = second.clone();
        let script = Script::new(&first).on_data(move |lp, stream, _| {
            // In its own callback.
            stream.attach(lp, Script::new(&next)).unwrap();
        });
        let (ours, mut peer) = carried(&lp, script);
        peer.write_all(b"first").unwrap();
        run_until(&lp, || !first.data().is_empty());
        assert_eq!((first.holders(), second.holders()), (0, 1));
        peer.write_all(b"second").unwrap();
        run_until(&lp, || second.data() == b"second");
        // From outside; also one with memory of its own.
        let third = Log::default();
        ours.attach(&lp, Memory::new(&third, 3)).unwrap();
        assert_eq!(second.holders(), 0);
        peer.write_all(b"third").unwrap();
        run_until(&lp, || third.data() == b"third");
        lp.close(ours).unwrap();
        run_to_end(&lp);
        assert_eq!(first.data(), b"first");
        assert!(first.without_data().is_empty() && second.without_data().is_empty());
        assert!(third.closed());
        assert_eq!(code(ours.attach(&lp, Script::new(&first))), Code::EBADF);
    });
}

#[test]
fn a_stream_holds_the_loop_while_it_reads() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, _peer) = carried(&lp, Script::new(&log));
        assert!(lp.is_alive() && lp.is_active(ours).unwrap() && lp.is_referenced(ours).unwrap());
        lp.unref(ours).unwrap();
        assert!(!lp.is_alive() && lp.is_active(ours).unwrap() && !lp.is_referenced(ours).unwrap());
        lp.reference(ours).unwrap();
        assert!(lp.is_alive());
        ours.read_stop(&lp).unwrap();
        assert!(!lp.is_alive() && !lp.is_active(ours).unwrap());
    });
}

// ---- finishing ----

/// So much that a peer who sends it has not sent it all when it is answered.
const MORE_THAN_ASKED: usize = 300_000;

#[test]
fn a_lingering_end_throws_away_what_comes_and_waits_for_the_peers() {
    each_carrier(|lp| {
        let log = Log::default();
        let answer = |lp: &Loop, stream: Stream, _: &[u8]| {
            stream.write(lp, b"no, thank you").unwrap();
            let limit = Duration::from_secs(600);
            stream.finish_lingering(lp, limit).unwrap();
            assert_eq!(code(stream.write(lp, b"x")), Code::EPIPE);
        };
        let (ours, peer) = carried(&lp, Script::new(&log).on_data(answer));
        let peer = std::thread::spawn(move || {
            let (mut peer, mut answer) = (peer, Vec::new());
            peer.set_nonblocking(false).unwrap();
            peer.write_all(&vec![b'x'; MORE_THAN_ASKED]).unwrap();
            peer.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"no, thank you");
            // It is still heard, and not reset.
            peer.write_all(b"y").unwrap();
        });
        run_until(&lp, || log.closed());
        peer.join().unwrap();
        assert_eq!(code(ours.queued(&lp)), Code::EBADF);
        let events = log.without_data();
        assert_eq!(events, [Event::Close], "no end and no error");
        assert!(log.data().len() < MORE_THAN_ASKED, "only the first is told");
    });
}

#[test]
fn a_lingering_end_is_over_when_its_time_is() {
    each_carrier(|lp| {
        let log = Log::default();
        let limit = ms(40);
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        let written = fill(&lp, ours);
        ours.finish_lingering(&lp, limit).unwrap();
        // Nothing counts before everything is sent.
        run_for(&lp, limit * 2);
        assert!(!log.closed());
        let started = Instant::now();
        assert_pattern(&read_from_peer(&lp, &peer, written), 0);
        // What comes does not prolong it.
        let mut sent = 0;
        run_until(&lp, || {
            sent += usize::from(peer.write_all(b"x").is_ok());
            log.closed()
        });
        assert!(started.elapsed() >= limit, "early");
        assert!(sent > 0);
        assert_eq!(log.without_data().last(), Some(&Event::Close));
        assert_eq!(log.count(&Event::End), 0);
    });
}

#[test]
fn a_lingering_end_of_a_stream_that_has_ended_is_none() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log).on_end(|_, _| ()));
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        run_until(&lp, || log.count(&Event::End) == 1);
        ours.write(&lp, b"last words").unwrap();
        ours.finish_lingering(&lp, Duration::from_secs(600))
            .unwrap();
        run_until(&lp, || log.closed());
        peer.set_nonblocking(false).unwrap();
        let mut words = Vec::new();
        peer.read_to_end(&mut words).unwrap();
        assert_eq!(words, b"last words");
    });
}

#[test]
fn what_comes_after_something_was_thrown_away_is_not_handed_out() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        fill(&lp, ours);
        ours.finish_lingering(&lp, Duration::from_secs(600))
            .unwrap();
        peer.write_all(b"thrown away").unwrap();
        run_for(&lp, ms(20));
        // Everything is still to be sent: it does not close yet.
        ours.finish(&lp).unwrap();
        peer.write_all(b"after that").unwrap();
        run_for(&lp, ms(20));
        assert_eq!(log.events(), []);
        run_until(&lp, || {
            read_now(&peer);
            log.closed()
        });
        assert_eq!(log.without(&Event::Drain), [Event::Close]);
    });
}

#[test]
fn one_that_begins_to_linger_when_asked_for_memory_hears_of_nothing() {
    struct Lingers([u8; 8], Log);
    impl StreamHandler for Lingers {
        fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {
            panic!("it has memory of its own");
        }
        fn has_memory(&self) -> bool {
            true
        }
        fn memory(&mut self, lp: &Loop, stream: Stream, _: usize) -> Option<&mut [u8]> {
            let hour = Duration::from_secs(3600);
            stream.finish_lingering(lp, hour).unwrap();
            Some(&mut self.0)
        }
        fn on_received(&mut self, _: &Loop, _: Stream, length: usize) {
            panic!("{length} bytes");
        }
        fn on_close(&mut self, _: &Loop, _: Stream) {
            self.1.push(Event::Close);
        }
    }
    each_carrier(|lp| {
        let log = Log::default();
        let (_, mut peer) = carried(&lp, Lingers([0; 8], log.clone()));
        peer.write_all(&[7; 100]).unwrap();
        drop(peer);
        run_until(&lp, || log.closed());
    });
}

#[test]
fn one_that_is_replaced_when_asked_for_memory_hears_of_nothing() {
    struct GoesAway([u8; 8], Option<Script>);
    impl StreamHandler for GoesAway {
        fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {
            panic!("it has memory of its own");
        }
        fn has_memory(&self) -> bool {
            true
        }
        fn memory(&mut self, lp: &Loop, stream: Stream, _: usize) -> Option<&mut [u8]> {
            stream.attach(lp, self.1.take().unwrap()).unwrap();
            Some(&mut self.0)
        }
        fn on_received(&mut self, _: &Loop, _: Stream, length: usize) {
            panic!("{length} bytes");
        }
    }
    each_carrier(|lp| {
        let log = Log::default();
        let (_, mut peer) = carried(&lp, GoesAway([0; 8], Some(Script::new(&log))));
        peer.write_all(b"the next one has it all").unwrap();
        drop(peer);
        run_until(&lp, || log.has(&Event::End));
        assert_eq!(log.data(), b"the next one has it all");
    });
}

#[test]
fn an_ordinary_end_cuts_a_lingering_one_short() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, peer) = carried(&lp, Script::new(&log));
        let hour = Duration::from_secs(3600);
        ours.finish_lingering(&lp, hour).unwrap();
        some_turns(&lp);
        assert!(is_ended(&peer) && !log.closed());
        ours.finish(&lp).unwrap();
        run_until(&lp, || log.closed());
        assert_eq!(log.events(), [Event::Close]);
    });
}

// ---- timeouts ----

#[test]
fn the_read_idle_timeout_fires_again_and_again_while_nothing_comes() {
    each_carrier(|lp| {
        let log = Log::default();
        let limit = ms(20);
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        ours.set_timeouts(&lp, Some(limit), None).unwrap();
        let started = Instant::now();
        for count in 1..=3 {
            let fired = || log.count(&Event::Timeout(Timeout::Read));
            run_until(&lp, || fired() >= count);
            assert!(started.elapsed() >= limit * fired() as u32, "early");
        }
        // Bytes put it off.
        let sent = Instant::now();
        let before = log.count(&Event::Timeout(Timeout::Read));
        peer.write_all(b"x").unwrap();
        run_until(&lp, || !log.data().is_empty());
        if log.count(&Event::Timeout(Timeout::Read)) == before {
            run_until(&lp, || log.count(&Event::Timeout(Timeout::Read)) > before);
            assert!(sent.elapsed() >= limit, "early");
        }
        // Disarmed it is silent.
        ours.set_timeouts(&lp, None, None).unwrap();
        let before = log.events().len();
        run_for(&lp, limit * 3);
        assert_eq!(log.events().len(), before);
    });
}

#[test]
fn bytes_in_time_keep_the_read_idle_timeout_from_firing() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        ours.set_timeouts(&lp, Some(Duration::from_secs(40)), None)
            .unwrap();
        // A byte a turn; the deadline is put off by each, far ahead of any delay of this machine.
        for count in 1..=100 {
            peer.write_all(b"x").unwrap();
            run_until(&lp, || log.data().len() == count);
        }
        assert!(log.without_data().is_empty());
        let idle = lp.backend_timeout().unwrap();
        assert!(
            idle > Duration::from_secs(1),
            "the deadline is near: {idle:?}"
        );
    });
}

#[test]
fn what_comes_while_the_loop_is_busy_is_in_time() {
    each_carrier(|lp| {
        let log = Log::default();
        let limit = ms(30);
        let (ours, mut peer) = carried(&lp, Script::new(&log));
        some_turns(&lp);
        ours.set_timeouts(&lp, Some(limit), None).unwrap();
        // Longer than the limit, and the next phase is that of the timers; the byte comes at once.
        let keeps_loop_busy = move |_: &Loop| {
            peer.write_all(b"x").unwrap();
            std::thread::sleep(limit * 3);
            std::mem::forget(peer);
        };
        lp.remote().post(keeps_loop_busy).unwrap();
        run_until(&lp, || !log.events().is_empty());
        assert_eq!(log.events()[0], Event::Data(b"x".to_vec()));
    });
}

#[test]
fn what_callbacks_before_it_take_is_not_idle_time() {
    each_carrier(|lp| {
        let (slow, log) = (Log::default(), Log::default());
        let limit = ms(100);
        let busy = Script::new(&slow).on_data(move |_, _, _| std::thread::sleep(limit * 2));
        let heard = Shared::<Option<Instant>>::default();
        let (noted, told) = (heard.clone(), heard.clone());
        let quick = Script::new(&log)
            .on_data(move |_, _, _| noted.set(Some(Instant::now())))
            .on_timeout(move |_, _, _| {
                if let Some(heard) = told.get() {
                    // The loop read its clock a moment before this callback did, or long before where the machine
                    // was busy. Without the callbacks' time it would be due at once.
                    assert!(heard.elapsed() >= limit / 4, "early");
                }
            });
        let (_first, mut first) = carried(&lp, busy);
        let (second, mut peer) = carried(&lp, quick);
        some_turns(&lp);
        second.set_timeouts(&lp, Some(limit), None).unwrap();
        // Both are told in one turn.
        first.write_all(b"x").unwrap();
        peer.write_all(b"y").unwrap();
        run_until(&lp, || heard.get().is_some());
        run_until(&lp, || log.count(&Event::Timeout(Timeout::Read)) > 0);
    });
}

#[test]
fn what_the_peer_takes_while_the_loop_is_busy_is_in_time() {
    each_carrier(|lp| {
        let log = Log::default();
        let limit = ms(50);
        let (ours, peer) = carried(&lp, Script::new(&log));
        let written = fill(&lp, ours);
        ours.set_timeouts(&lp, None, Some(limit)).unwrap();
        let mut reader = peer.try_clone().unwrap();
        let left = ours.queued(&lp).unwrap();
        let keeps_loop_busy = move |_: &Loop| {
            let mut bytes = vec![0; written - left];
            reader.read_exact(&mut bytes).unwrap();
            std::thread::sleep(limit * 3);
        };
        lp.remote().post(keeps_loop_busy).unwrap();
        run_until(&lp, || ours.queued(&lp).unwrap() < left);
        assert_eq!(log.count(&Event::Timeout(Timeout::Write)), 0);
        drop(peer);
    });
}

#[test]
fn the_read_idle_timeout_rests_while_reading_is_stopped() {
    each_carrier(|lp| {
        let log = Log::default();
        let limit = ms(10);
        let (ours, _peer) = carried(&lp, Script::new(&log));
        ours.set_timeouts(&lp, Some(limit), None).unwrap();
        ours.read_stop(&lp).unwrap();
        run_for(&lp, limit * 5);
        assert_eq!(log.events(), []);
        // It counts anew from the start.
        let started = Instant::now();
        ours.read_start(&lp).unwrap();
        run_until(&lp, || log.has(&Event::Timeout(Timeout::Read)));
        assert!(started.elapsed() >= limit, "early");
        // Nor does it come after the peer's end.
        drop(_peer);
        run_until(&lp, || log.has(&Event::End));
        let before = log.events().len();
        run_for(&lp, limit * 3);
        assert_eq!(log.events().len(), before);
    });
}

#[test]
fn timeouts_do_not_count_from_before_the_call_that_starts_them() {
    each_carrier(|lp| {
        let limit = ms(60);
        // Reading starts in a callback, after another callback took long.
        let log = Log::default();
        let started = Shared::<Option<Instant>>::new(None);
        let (ours, _peer) = carried(&lp, Script::new(&log).not_reading());
        ours.set_timeouts(&lp, Some(limit), None).unwrap();
        lp.defer(move |_: &Loop| thread::sleep(limit * 2)).unwrap();
        let set = started.clone();
        lp.defer(move |lp: &Loop| {
            set.set(Some(Instant::now()));
            ours.read_start(lp).unwrap();
        })
        .unwrap();
        run_until(&lp, || log.has(&Event::Timeout(Timeout::Read)));
        let waited = started.get().unwrap().elapsed();
        assert!(waited >= limit, "early: {waited:?}");
        lp.close(ours).unwrap();

        // The same for a write that has to queue, outside of callbacks.
        let log = Log::default();
        let (ours, _peer) = carried(&lp, Script::new(&log).not_reading());
        ours.set_timeouts(&lp, None, Some(limit)).unwrap();
        some_turns(&lp);
        thread::sleep(limit * 2);
        let started = Instant::now();
        fill(&lp, ours);
        run_until(&lp, || log.has(&Event::Timeout(Timeout::Write)));
        let waited = started.elapsed();
        assert!(waited >= limit, "early: {waited:?}");
    });
}

#[test]
fn the_write_stall_timeout_fires_while_the_peer_takes_nothing() {
    each_carrier(|lp| {
        let log = Log::default();
        let limit = ms(20);
        let (ours, peer) = carried(&lp, Script::new(&log));
        ours.set_timeouts(&lp, None, Some(limit)).unwrap();
        // Nothing is queued: nothing stalls.
        run_for(&lp, limit * 3);
        assert_eq!(log.events(), []);
        let started = Instant::now();
        let written = fill(&lp, ours);
        for count in 1..=3 {
            let fired = || log.count(&Event::Timeout(Timeout::Write));
            run_until(&lp, || fired() >= count);
            assert!(started.elapsed() >= limit * fired() as u32, "early");
        }
        assert_pattern(&read_from_peer(&lp, &peer, written), 0);
        let before = log.count(&Event::Timeout(Timeout::Write));
        run_for(&lp, limit * 3);
        assert_eq!(log.count(&Event::Timeout(Timeout::Write)), before);
        // Set while writes are queued it counts from then.
        ours.set_timeouts(&lp, None, None).unwrap();
        fill(&lp, ours);
        run_for(&lp, limit * 2);
        let started = Instant::now();
        ours.set_timeouts(&lp, None, Some(limit)).unwrap();
        run_until(&lp, || log.count(&Event::Timeout(Timeout::Write)) > before);
        assert!(started.elapsed() >= limit, "early");
    });
}

#[test]
fn both_timeouts_count_on_their_own() {
    each_carrier(|lp| {
        let log = Log::default();
        let (ours, _peer) = carried(&lp, Script::new(&log));
        fill(&lp, ours);
        let started = Instant::now();
        ours.set_timeouts(&lp, Some(ms(10)), Some(ms(25))).unwrap();
        let count = |which| log.count(&Event::Timeout(which)) as u32;
        run_until(&lp, || {
            count(Timeout::Read) >= 4 && count(Timeout::Write) >= 2
        });
        let elapsed = started.elapsed();
        assert!(elapsed >= ms(10) * count(Timeout::Read));
        assert!(elapsed >= ms(25) * count(Timeout::Write));
    });
}

#[test]
fn by_default_a_timeout_fails_the_stream() {
    struct Silent(Log);
    impl StreamHandler for Silent {
        fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {}
        fn on_error(&mut self, _: &Loop, _: Stream, error: Error) {
            self.0.push(Event::Error(error.code()));
        }
        fn on_close(&mut self, _: &Loop, _: Stream) {
            self.0.push(Event::Close);
        }
    }
    each_carrier(|lp| {
        for (read, write) in [(Some(ms(5)), None), (None, Some(ms(5)))] {
            let log = Log::default();
            let (ours, _peer) = carried(&lp, Silent(log.clone()));
            fill(&lp, ours);
            ours.write_owned(&lp, "never", log.done(0)).unwrap();
            ours.set_timeouts(&lp, read, write).unwrap();
            run_to_end(&lp);
            let expected = [
                Event::Error(Code::ETIMEDOUT),
                Event::Done(0, Err(Code::ETIMEDOUT)),
                Event::Close,
            ];
            assert_eq!(log.events(), expected);
        }
    });
}

// ---- fairness ----

#[test]
fn a_turn_takes_a_bounded_part_of_what_one_stream_brings() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&lp, Script::new(&log).not_reading());
        // Much more than a turn's share can be read without the peer's doing.
        tcp.set_buffers(&lp, None, Some(4 * MIB as u32)).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let writing = thread::spawn(move || {
            let bytes = vec![0; 256 * 1024];
            while !end.load(Ordering::Relaxed) && peer.write_all(&bytes).is_ok() {}
        });
        let turns = Shared::<usize>::default();
        let counted = turns.clone();
        let hook = Hook::open(&lp, HookKind::Check, move |_, _| counted.add()).unwrap();
        hook.start(&lp).unwrap();
        tcp.read_start(&lp).unwrap();
        let mut before = 0;
        while before < 8 * MIB {
            lp.run(RunMode::NoWait).unwrap();
            let received = log.data().len();
            // Four buffers of 64 KiB for what was left over, and as much for what came since.
            assert!(
                received - before <= 512 * 1024,
                "{} bytes in a turn",
                received - before
            );
            before = received;
        }
        assert!(turns.get() >= 8 * MIB / (512 * 1024));
        ended.store(true, Ordering::Relaxed);
        tcp.reset(&lp).unwrap();
        writing.join().unwrap();
    });
}

#[test]
fn a_stream_that_never_ends_starves_neither_timers_nor_neighbours() {
    each_carrier(|lp| {
        // One peer sends without end, another takes without end what a handler writes without end.
        let stop = Arc::new(AtomicBool::new(false));
        let (source, mut source_peer) = carried(&lp, |_: &Loop, _: Stream, _: &[u8]| {});
        let stopped = stop.clone();
        let sending = thread::spawn(move || {
            let bytes = vec![0; 256 * 1024];
            while !stopped.load(Ordering::Relaxed) && source_peer.write_all(&bytes).is_ok() {}
        });
        struct Endless;
        impl Endless {
            fn more(lp: &Loop, stream: Stream) {
                while stream.write(lp, &[0; 32 * 1024]).unwrap() == Flow::Ready {}
            }
        }
        impl StreamHandler for Endless {
            fn on_data(&mut self, lp: &Loop, stream: Stream, _: &[u8]) {
                Endless::more(lp, stream);
            }
            fn on_drain(&mut self, lp: &Loop, stream: Stream) {
                Endless::more(lp, stream);
            }
        }
        let (sink, mut sink_peer) = carried(&lp, Endless);
        sink_peer.write_all(b"go").unwrap();
        let taking = thread::spawn(move || {
            let mut bytes = vec![0; 256 * 1024];
            while sink_peer.read(&mut bytes).is_ok_and(|length| length > 0) {}
        });

        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        let timer = Timer::open(&lp, move |_, _| counted.add()).unwrap();
        timer.start_repeating(&lp, ms(1), ms(1)).unwrap();
        let log = Log::default();
        let script = Script::new(&log).on_data(|lp, stream, data| {
            stream.write(lp, data).unwrap();
        });
        let (neighbour, mut neighbour_peer) = carried(&lp, script);
        for round in 1..=30 {
            neighbour_peer.write_all(b"ping").unwrap();
            assert_eq!(read_from_peer(&lp, &neighbour_peer, 4), b"ping");
            run_until(&lp, || fired.get() >= round);
        }
        stop.store(true, Ordering::Relaxed);
        for stream in [source, sink, neighbour] {
            stream.reset(&lp).unwrap();
        }
        lp.close(timer).unwrap();
        run_to_end(&lp);
        sending.join().unwrap();
        taking.join().unwrap();
    });
}

// ---- handles ----

#[test]
fn a_handle_of_another_kind_is_no_stream() {
    each_carrier(|lp| {
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        let stream = Stream::from_id(timer.id());
        let log = Log::default();
        for outcome in [
            stream.attach(&lp, Script::new(&log)),
            stream.read_start(&lp),
            stream.read_stop(&lp),
            stream.write(&lp, b"!").map(drop),
            stream.write_owned(&lp, "!", log.done(0)).map(drop),
            stream.shutdown(&lp, log.done(1)),
            stream.finish(&lp),
            stream.fail(&lp, Code::EIO.into()),
            stream.reset(&lp),
            stream.set_timeouts(&lp, None, None),
            stream.set_watermarks(&lp, 0, 1, 2),
            stream.queued(&lp).map(drop),
        ] {
            assert_eq!(code(outcome), Code::EBADF);
        }
        assert!(lp.kind(timer).is_ok(), "the timer is unharmed");
        assert_eq!(log.events(), []);
        // Nor is a stream anything else.
        let (ours, _peer) = carried(&lp, Script::new(&log));
        assert_eq!(code(Timer::from_id(ours.id()).stop(&lp)), Code::EBADF);
        assert_eq!(code(Poll::from_id(ours.id()).stop(&lp)), Code::EBADF);
    });
}

#[test]
fn a_handler_may_call_the_loop_whenever_it_is_asked_something() {
    // `reads` and `has_memory` have no loop in hand, but a program may have one elsewhere.
    struct Curious(&'static Loop);
    impl StreamHandler for Curious {
        fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {}
        fn reads(&self) -> bool {
            self.0.handles().len() < 1000
        }
        fn has_memory(&self) -> bool {
            self.0.handles().len() > 1000
        }
    }
    each_carrier(|lp| {
        let lp: &'static Loop = Box::leak(Box::new(lp));
        let (ours, _peer) = carried(lp, Curious(lp));
        ours.attach(lp, Curious(lp)).unwrap();
        lp.close(ours).unwrap();
        run_to_end(lp);
    });
}

#[test]
fn destructors_may_call_the_loop() {
    struct Calls(&'static Loop, Rc<RefCell<usize>>);
    impl Drop for Calls {
        fn drop(&mut self) {
            self.0.defer(|_: &Loop| ()).unwrap();
            *self.1.borrow_mut() += 1;
        }
    }
    each_carrier(|lp| {
        let lp: &'static Loop = Box::leak(Box::new(lp));
        let dropped = Rc::new(RefCell::new(0));
        let holds = |held: Calls| {
            move |_: &Loop, _: Stream, _: &[u8]| {
                let _ = &held;
            }
        };
        let (ours, peer) = carried(lp, holds(Calls(lp, dropped.clone())));
        ours.attach(lp, holds(Calls(lp, dropped.clone()))).unwrap();
        assert_eq!(*dropped.borrow(), 1);
        let held = Calls(lp, dropped.clone());
        fill(lp, ours);
        ours.write_owned(lp, "x", move |_, _, _| drop(held))
            .unwrap();
        lp.close(ours).unwrap();
        run_to_end(lp);
        assert_eq!(*dropped.borrow(), 3);
        drop(peer);
    });
}
