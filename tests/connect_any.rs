//! Connecting to whichever of several addresses answers first.

#![cfg(all(target_os = "linux", feature = "net"))]

mod common;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use common::*;
use kolo::{
    Code, ConnectOptions, Error, Family, Kind, Loop, RunMode, Stream, StreamHandler, TcpStream,
};

const LOCALHOST6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The shortest delay that is allowed.
const SOON: Duration = Duration::from_millis(10);

fn after(delay: Duration) -> ConnectOptions {
    ConnectOptions {
        attempt_delay: Some(delay),
        ..ConnectOptions::default()
    }
}

fn connect(lp: &Loop, addresses: &[SocketAddr], log: &Log) -> TcpStream {
    TcpStream::connect_any_with(lp, addresses, &after(SOON), Script::new(log)).unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn the_first_address_is_the_streams_if_it_answers() {
    each_driver(|lp| {
        let (first, second) = (listen_at(LOCALHOST6), listen_at(LOCALHOST));
        let log = Log::default();
        let script = Script::new(&log);
        let tcp = TcpStream::connect_any(&lp, &[first.1, second.1], script).unwrap();
        assert_eq!(lp.kind(tcp), Ok(Kind::Tcp));
        assert!(lp.is_active(tcp).unwrap());
        assert_eq!(log.events(), [], "not inside the call");
        run_until(&lp, || log.has(&Event::Open));
        assert_eq!(tcp.peer_address(&lp), Ok(first.1));
        second.0.set_nonblocking(true).unwrap();
        assert!(second.0.accept().is_err(), "nobody asked the second");
        let (mut peer, from) = first.0.accept().unwrap();
        assert_eq!(tcp.local_address(&lp), Ok(from));
        tcp.write(&lp, b"there").unwrap();
        assert_eq!(read_from_peer(&lp, &peer, 5), b"there");
        peer.write_all(b"back").unwrap();
        run_until(&lp, || log.data() == b"back");
        drop(peer);
        run_until(&lp, || log.has(&Event::End));
        assert_eq!(log.without_data(), [Event::Open, Event::End]);
    });
}

#[test]
fn a_refused_address_is_followed_by_the_next() {
    each_driver(|lp| {
        let (nobody6, nobody4) = (nobody(LOCALHOST6), nobody(LOCALHOST));
        let (_listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let tcp = connect(&lp, &[nobody6.1, nobody4.1, address], &log);
        run_until(&lp, || log.has(&Event::Open));
        assert_eq!(tcp.peer_address(&lp), Ok(address));
        assert_eq!(log.events(), [Event::Open]);
    });
}

#[test]
fn a_silent_address_is_joined_by_the_next_after_the_delay() {
    each_driver(|lp| {
        let silent = Unresponsive::new(LOCALHOST6);
        let (_listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let begun = Instant::now();
        let script = Script::new(&log);
        let tcp = TcpStream::connect_any(&lp, &[silent.address, address], script).unwrap();
        run_until(&lp, || log.has(&Event::Open));
        assert!(begun.elapsed() >= Duration::from_millis(250), "early");
        assert_eq!(tcp.peer_address(&lp), Ok(address));
    });
}

#[test]
fn attempts_are_not_among_the_users_handles() {
    each_driver(|lp| {
        let silent = [Unresponsive::new(LOCALHOST6), Unresponsive::new(LOCALHOST)];
        let addresses = [silent[0].address, silent[1].address];
        let tcp = connect(&lp, &addresses, &Log::default());
        let line = || lp.describe(tcp).unwrap();
        assert!(
            line().ends_with(" connecting reading attempts=1"),
            "{}",
            line()
        );
        run_until(&lp, || line().ends_with("attempts=2"));
        assert_eq!(lp.handles(), [tcp.id()]);
        assert_eq!(lp.metrics().handles, 1);
        lp.close(tcp).unwrap();
        run_to_end(&lp);
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn the_losers_are_closed_when_one_has_won() {
    in_own_process!(|| each_driver(|lp| {
        let silent = [Unresponsive::new(LOCALHOST6), Unresponsive::new(LOCALHOST)];
        let (_listener, address) = listen_at(LOCALHOST);
        let addresses = [silent[0].address, silent[1].address, address];
        let log = Log::default();
        let before = descriptors();
        let tcp = connect(&lp, &addresses, &log);
        run_until(&lp, || log.has(&Event::Open));
        assert_eq!(descriptors(), before + 1, "the winner's");
        lp.close(tcp).unwrap();
        run_to_end(&lp);
        assert_eq!(descriptors(), before);
    }));
}

#[test]
fn bytes_that_came_before_the_stream_opened_are_not_lost() {
    each_driver(|lp| {
        for reads in [true, false] {
            let (listener, address) = listen_at(LOCALHOST);
            let log = Log::default();
            let script = match reads {
                true => Script::new(&log),
                false => Script::new(&log).not_reading(),
            };
            let tcp = TcpStream::connect_any(&lp, &[address], script).unwrap();
            // The peer has said all before the loop hears of the connection.
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(&pattern(0, 10_000)).unwrap();
            drop(peer);
            assert_eq!(log.events(), []);
            run_until(&lp, || log.has(&Event::Open));
            if !reads {
                some_turns(&lp);
                assert_eq!(log.events(), [Event::Open]);
                tcp.read_start(&lp).unwrap();
            }
            run_until(&lp, || log.has(&Event::End));
            assert_eq!(log.data(), pattern(0, 10_000));
            assert_eq!(log.without_data(), [Event::Open, Event::End]);
        }
    });
}

#[test]
fn a_handler_with_memory_of_its_own_keeps_it() {
    struct Own {
        log: Log,
        memory: Vec<u8>,
    }
    impl StreamHandler for Own {
        fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {
            panic!("it has memory of its own");
        }
        fn has_memory(&self) -> bool {
            true
        }
        fn memory(&mut self, _: &Loop, _: Stream, _: usize) -> Option<&mut [u8]> {
            Some(&mut self.memory)
        }
        fn on_received(&mut self, _: &Loop, _: Stream, length: usize) {
            self.log.push(Event::Data(self.memory[..length].to_vec()));
        }
    }
    each_driver(|lp| {
        let (listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let own = Own {
            log: log.clone(),
            memory: vec![0; 16],
        };
        TcpStream::connect_any(&lp, &[address], own).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(&pattern(0, 1000)).unwrap();
        drop(peer);
        run_to_end(&lp);
        assert_eq!(log.data(), pattern(0, 1000));
    });
}

#[test]
fn writes_before_the_stream_opens_are_sent_then_in_their_order() {
    each_driver(|lp| {
        let (_holder, refuses) = nobody(LOCALHOST6);
        let (listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let tcp = connect(&lp, &[refuses, address], &log);
        tcp.write(&lp, &pattern(0, 100_000)).unwrap();
        tcp.write_owned(&lp, pattern(100_000, 10), log.done(0))
            .unwrap();
        assert_eq!(code(tcp.raw_socket(&lp)), Code::ENOTCONN);
        assert_eq!(code(tcp.release(&lp)), Code::EBUSY);
        tcp.shutdown(&lp, log.done(1)).unwrap();
        run_until(&lp, || log.has(&Event::Open));
        let (peer, _) = listener.accept().unwrap();
        let received = read_peer_to_end(&lp, &peer);
        assert_eq!(received, pattern(0, 100_010));
        drop(peer);
        run_to_end(&lp);
        let mut events = log.without(&Event::Drain);
        events.retain(|event| *event != Event::End);
        let (done, shut) = (Event::Done(0, Ok(())), Event::Done(1, Ok(())));
        assert_eq!(events, [Event::Open, done, shut]);
    });
}

#[test]
fn when_all_have_failed_the_error_that_came_furthest_is_told_once() {
    each_driver(|lp| {
        // TCP cannot connect to a broadcast address: Linux says so at once.
        let no_way = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
        let (_holder, refuses) = nobody(LOCALHOST);
        for (addresses, error) in [
            (&[no_way, refuses][..], Code::ECONNREFUSED),
            (&[refuses, no_way], Code::ECONNREFUSED),
            (&[no_way, no_way], Code::ENETUNREACH),
        ] {
            let log = Log::default();
            connect(&lp, addresses, &log);
            assert_eq!(log.events(), [], "not inside the call");
            run_to_end(&lp);
            assert_eq!(log.events(), [Event::Error(error), Event::Close]);
        }
    });
}

#[test]
fn the_timeout_is_for_the_whole_and_ends_all_attempts() {
    in_own_process!(|| each_driver(|lp| {
        let silent = [Unresponsive::new(LOCALHOST6), Unresponsive::new(LOCALHOST)];
        let before = descriptors();
        let timeout = Duration::from_millis(100);
        let options = ConnectOptions {
            timeout: Some(timeout),
            ..after(SOON)
        };
        let log = Log::default();
        let begun = Instant::now();
        let addresses = [silent[0].address, silent[1].address];
        TcpStream::connect_any_with(&lp, &addresses, &options, Script::new(&log)).unwrap();
        run_to_end(&lp);
        assert!(begun.elapsed() >= timeout, "early");
        assert_eq!(log.events(), [Event::Error(Code::ETIMEDOUT), Event::Close]);
        assert_eq!(descriptors(), before);
    }));
}

#[test]
fn the_timeout_is_over_when_the_stream_opens() {
    each_driver(|lp| {
        let (_listener, address) = listen_at(LOCALHOST);
        let options = ConnectOptions {
            timeout: Some(Duration::from_secs(40)),
            ..ConnectOptions::default()
        };
        let log = Log::default();
        let (_holder, refuses) = nobody(LOCALHOST6);
        let addresses = [refuses, address, refuses];
        TcpStream::connect_any_with(&lp, &addresses, &options, Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open));
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(lp.backend_timeout(), None);
    });
}

#[test]
fn a_stream_that_is_closed_meanwhile_closes_its_attempts_at_once() {
    in_own_process!(|| each_driver(|lp| {
        let silent = [Unresponsive::new(LOCALHOST6), Unresponsive::new(LOCALHOST)];
        let addresses = [silent[0].address, silent[1].address];
        let before = descriptors();
        for reset in [false, true] {
            let log = Log::default();
            let tcp = connect(&lp, &addresses, &log);
            tcp.write_owned(&lp, "never", log.done(0)).unwrap();
            run_until(&lp, || descriptors() == before + 2);
            match reset {
                true => tcp.reset(&lp).unwrap(),
                false => lp.close(tcp).unwrap(),
            }
            assert_eq!(descriptors(), before);
            run_to_end(&lp);
            let done = Event::Done(0, Err(Code::ECANCELED));
            assert_eq!(log.events(), [done, Event::Close]);
        }
    }));
}

#[test]
fn a_stream_that_its_user_fails_meanwhile_tells_that() {
    each_driver(|lp| {
        let silent = Unresponsive::new(LOCALHOST);
        let log = Log::default();
        let tcp = connect(&lp, &[silent.address], &log);
        tcp.fail(&lp, Code::EPROTO.into()).unwrap();
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Error(Code::EPROTO), Event::Close]);
    });
}

#[test]
fn a_loop_that_is_dropped_closes_what_is_under_way() {
    in_own_process!(|| {
        let before = descriptors();
        each_driver(|lp| {
            let silent = [Unresponsive::new(LOCALHOST6), Unresponsive::new(LOCALHOST)];
            let log = Log::default();
            let addresses = [silent[0].address, silent[1].address];
            let tcp = connect(&lp, &addresses, &log);
            run_until(&lp, || lp.describe(tcp).unwrap().contains("attempts=2"));
            drop(lp);
            assert_eq!(log.events(), [Event::Close]);
        });
        assert_eq!(descriptors(), before);
    });
}

#[test]
fn a_stream_closes_in_its_on_open_and_in_its_on_error() {
    each_driver(|lp| {
        let (_listener, address) = listen_at(LOCALHOST);
        let (_holder, refuses) = nobody(LOCALHOST);
        for (address, event) in [
            (address, Event::Open),
            (refuses, Event::Error(Code::ECONNREFUSED)),
        ] {
            let log = Log::default();
            let script = Script::new(&log)
                .on_open(|lp, stream| lp.close(stream).unwrap())
                .on_error(|lp, stream, _| lp.close(stream).unwrap());
            TcpStream::connect_any(&lp, &[address], script).unwrap();
            run_to_end(&lp);
            assert_eq!(log.events(), [event, Event::Close]);
        }
    });
}

#[test]
fn a_panic_in_on_open_leaves_the_stream_open_and_the_loop_whole() {
    each_driver(|lp| {
        let silent = Unresponsive::new(LOCALHOST6);
        let (listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let script = Script::new(&log).on_open(|_, _| panic!("on purpose"));
        let addresses = [silent.address, address];
        let tcp = TcpStream::connect_any_with(&lp, &addresses, &after(SOON), script).unwrap();
        catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::Default))).unwrap_err();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"goes on").unwrap();
        run_until(&lp, || log.data() == b"goes on");
        assert_eq!(tcp.peer_address(&lp), Ok(address));
        assert_eq!(lp.metrics().handles, 1);
    });
}

#[test]
fn only_addresses_of_the_wanted_family_are_tried() {
    each_driver(|lp| {
        let (six, four) = (listen_at(LOCALHOST6), listen_at(LOCALHOST));
        let addresses = [six.1, four.1];
        let family = |family| ConnectOptions {
            family: Some(family),
            ..ConnectOptions::default()
        };
        let local = |local: &str| ConnectOptions {
            local: Some(local.parse().unwrap()),
            ..ConnectOptions::default()
        };
        for (options, expected) in [
            (family(Family::V4), four.1),
            (family(Family::V6), six.1),
            (local("127.0.0.2:0"), four.1),
            (local("[::1]:0"), six.1),
        ] {
            let log = Log::default();
            let script = Script::new(&log);
            let tcp = TcpStream::connect_any_with(&lp, &addresses, &options, script).unwrap();
            run_until(&lp, || log.has(&Event::Open));
            assert_eq!(tcp.peer_address(&lp), Ok(expected));
            if let Some(local) = options.local {
                assert_eq!(tcp.local_address(&lp).unwrap().ip(), local.ip());
            }
        }
    });
}

#[test]
fn what_cannot_be_is_refused_and_nobody_hears_of_it() {
    each_driver(|lp| {
        let (_listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let refused = |addresses: &[SocketAddr], options: ConnectOptions| {
            let script = Script::new(&log);
            code(TcpStream::connect_any_with(
                &lp, addresses, &options, script,
            ))
        };
        let six = ConnectOptions {
            family: Some(Family::V6),
            ..ConnectOptions::default()
        };
        let differ = ConnectOptions {
            local: Some("127.0.0.1:0".parse().unwrap()),
            ..six.clone()
        };
        let both = [address, "[::1]:1".parse().unwrap()];
        assert_eq!(refused(&[], ConnectOptions::default()), Code::EINVAL);
        assert_eq!(refused(&[address], six.clone()), Code::EINVAL);
        assert_eq!(refused(&both, differ), Code::EINVAL);
        for delay in [Duration::ZERO, SOON / 2, Duration::from_millis(2001)] {
            assert_eq!(refused(&[address], after(delay)), Code::EINVAL);
        }
        let one = TcpStream::connect_with(&lp, address, &six, Script::new(&log));
        assert_eq!(code(one), Code::EINVAL);
        assert!(!lp.run(RunMode::Default).unwrap());
        assert_eq!((log.events(), log.holders()), (vec![], 0));
    });
}

type Attempts = Shared<Vec<(SocketAddr, Option<Code>)>>;

/// Notes the attempts, in the order in which it hears of them and of the stream's opening or failing.
struct Watches {
    attempts: Attempts,
    panics: bool,
    closes: bool,
}

impl StreamHandler for Watches {
    fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {}

    fn watches_attempts(&self) -> bool {
        true
    }

    fn on_attempt(
        &mut self,
        lp: &Loop,
        stream: Stream,
        address: SocketAddr,
        failed: Option<Error>,
    ) {
        self.attempts.push((address, failed.map(Error::code)));
        if self.closes {
            lp.close(stream).unwrap();
        }
        assert!(!std::mem::take(&mut self.panics), "on purpose");
    }

    fn on_open(&mut self, lp: &Loop, stream: Stream) {
        let peer = TcpStream::from_id(stream.id()).peer_address(lp).unwrap();
        self.attempts.push((peer, None));
        lp.close(stream).unwrap();
    }

    fn on_error(&mut self, _: &Loop, _: Stream, error: Error) {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.attempts.push((nowhere, Some(error.code())));
    }
}

#[test]
fn attempts_are_told_to_who_wants_to_know() {
    each_driver(|lp| {
        let no_way = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
        let (_holder, refuses) = nobody(LOCALHOST);
        let (_listener, answers) = listen_at(LOCALHOST);
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (refused, unreachable) = (Some(Code::ECONNREFUSED), Some(Code::ENETUNREACH));
        let both = [
            (no_way, None),
            (no_way, unreachable),
            (refuses, None),
            (refuses, refused),
        ];
        for (addresses, last) in [
            (&[no_way, refuses, answers][..], vec![(answers, None); 2]),
            (&[no_way, refuses], vec![(nowhere, refused)]),
        ] {
            let attempts = Attempts::default();
            let watches = Watches {
                attempts: attempts.clone(),
                panics: false,
                closes: false,
            };
            TcpStream::connect_any(&lp, addresses, watches).unwrap();
            assert!(attempts.is_empty(), "not inside the call");
            run_to_end(&lp);
            assert_eq!(attempts.take(), [&both[..], &last].concat());
        }
    });
}

#[test]
fn a_panic_in_on_attempt_and_a_close_in_it_leave_the_rest_whole() {
    each_driver(|lp| {
        let (_listener, answers) = listen_at(LOCALHOST);
        let attempts = Attempts::default();
        let watches = |panics, closes| Watches {
            attempts: attempts.clone(),
            panics,
            closes,
        };
        TcpStream::connect_any(&lp, &[answers], watches(true, false)).unwrap();
        catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::Default))).unwrap_err();
        run_to_end(&lp);
        assert_eq!(attempts.take(), vec![(answers, None); 2]);
        TcpStream::connect_any(&lp, &[answers], watches(false, true)).unwrap();
        run_to_end(&lp);
        assert_eq!(attempts.take(), [(answers, None)]);
    });
}

/// Takes every descriptor that the process may still open.
fn take_all_descriptors() -> Vec<File> {
    let limit = libc::rlimit {
        rlim_cur: 128,
        rlim_max: 128,
    };
    // SAFETY: the limit is a valid one.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken
}

#[test]
fn without_descriptors_it_fails_and_with_one_it_waits_for_the_next() {
    in_own_process!(|| each_driver(|lp| {
        let silent = Unresponsive::new(LOCALHOST6);
        let (_listener, address) = listen_at(LOCALHOST);
        let addresses = [silent.address, address];
        let mut taken = take_all_descriptors();

        let log = Log::default();
        connect(&lp, &addresses, &log);
        assert_eq!(log.events(), [], "not inside the call");
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Error(Code::EMFILE), Event::Close]);

        let log = Log::default();
        taken.pop();
        let tcp = connect(&lp, &addresses, &log);
        run_for(&lp, SOON * 5);
        assert!(lp.describe(tcp).unwrap().ends_with("attempts=1"));
        assert_eq!(log.events(), []);
        taken.pop();
        run_until(&lp, || log.has(&Event::Open));
        assert_eq!(tcp.peer_address(&lp), Ok(address));
    }));
}

#[test]
fn attempts_from_one_local_port_wait_for_each_other() {
    each_driver(|lp| {
        let silent = Unresponsive::new(LOCALHOST);
        let (holder, local) = nobody(LOCALHOST);
        drop(holder);
        let (_listener, address) = listen_at(LOCALHOST);
        let options = ConnectOptions {
            local: Some(local),
            timeout: Some(Duration::from_millis(100)),
            ..after(SOON)
        };
        let attempts = Attempts::default();
        let watches = Watches {
            attempts: attempts.clone(),
            panics: false,
            closes: false,
        };
        let addresses = [silent.address, address];
        TcpStream::connect_any_with(&lp, &addresses, &options, watches).unwrap();
        run_to_end(&lp);
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let late = (nowhere, Some(Code::ETIMEDOUT));
        assert_eq!(attempts.take(), [(silent.address, None), late]);
    });
}

#[test]
fn an_unreferenced_stream_does_not_keep_the_loop_alive() {
    each_driver(|lp| {
        let silent = Unresponsive::new(LOCALHOST);
        let tcp = connect(&lp, &[silent.address], &Log::default());
        lp.unref(tcp).unwrap();
        assert!(!lp.run(RunMode::Default).unwrap());
    });
}

#[test]
fn many_streams_race_at_once() {
    each_driver(|lp| {
        let silent = Unresponsive::new(LOCALHOST6);
        let (_holder, refuses) = nobody(LOCALHOST);
        let (listener, address) = listen_at(LOCALHOST);
        let answer = |lp: &Loop, stream: Stream, data: &[u8]| {
            stream.write(lp, data).unwrap();
        };
        kolo::TcpListener::adopt(
            &lp,
            listener,
            &Default::default(),
            move |lp: &Loop, _: kolo::TcpListener, tcp: TcpStream| tcp.attach(lp, answer).unwrap(),
        )
        .unwrap();
        let logs: Vec<_> = (0..100)
            .map(|number: usize| {
                let log = Log::default();
                let mut addresses = [silent.address, refuses, address];
                addresses.rotate_left(number % 3);
                let tcp = connect(&lp, &addresses, &log);
                tcp.write(&lp, &pattern(number, 100)).unwrap();
                log
            })
            .collect();
        run_until(&lp, || logs.iter().all(|log| log.data().len() == 100));
        for (number, log) in logs.iter().enumerate() {
            assert_pattern(&log.data(), number);
        }
    });
}

#[test]
fn a_forked_child_goes_on_connecting_and_so_does_the_parent() {
    in_own_process!(|| each_driver(|lp| {
        let silent = Unresponsive::new(LOCALHOST6);
        let (_listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let tcp = connect(&lp, &[silent.address, address], &log);
        // SAFETY: the child only uses the loop and the memory of this thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let ok = catch_unwind(AssertUnwindSafe(|| {
                assert_eq!(code(tcp.peer_address(&lp)), Code::EFORKED);
                lp.forked().unwrap();
                run_until(&lp, || log.has(&Event::Open));
                assert_eq!(tcp.peer_address(&lp), Ok(address));
            }));
            // SAFETY: ends the child at once, without what the parent's harness would do at its end.
            unsafe { libc::_exit(i32::from(ok.is_err())) };
        }
        run_until(&lp, || log.has(&Event::Open));
        assert_eq!(tcp.peer_address(&lp), Ok(address));
        let mut status = 0;
        // SAFETY: the status is a valid place for the answer.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
    }));
}
