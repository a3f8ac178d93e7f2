//! Peers that reset, trickle, never read, and end in every order; and many thousands of them at once.

use std::cell::RefCell;
use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use kolo::{Code, ListenOptions, Loop, LoopOptions, Stream, StreamHandler, TcpListener, TcpStream};

use crate::common::*;
use crate::own_process;
use crate::support::{arguments, faults, open_descriptors, skipped};

// ---- one peer ----

#[test]
fn a_peer_that_trickles_is_heard_byte_by_byte_and_the_loop_rests_between() {
    each_carrier(|lp| {
        let log = Log::default();
        let (_stream, mut peer) = carried(&lp, Script::new(&log));
        let turns = lp.metrics().turns;
        for number in 1..=100 {
            peer.write_all(&[number as u8]).unwrap();
            run_until(&lp, || log.data().len() == number);
        }
        let turns = lp.metrics().turns - turns;
        assert!(turns <= 400, "{turns} turns for 100 bytes");
        assert_eq!(log.data(), (1..=100).collect::<Vec<u8>>());
        faults(1);
    });
}

#[test]
fn a_peer_that_takes_byte_by_byte_gets_every_byte() {
    each_carrier(|lp| {
        let log = Log::default();
        let (stream, mut peer) = carried(&lp, Script::new(&log));
        let length = fill(&lp, stream);
        stream.shutdown(&lp, log.done(1)).unwrap();
        let mut all = Vec::new();
        for _ in 0..300 {
            let mut byte = [0];
            peer.read_exact(&mut byte).unwrap();
            all.push(byte[0]);
            some_turns(&lp);
        }
        all.extend(read_peer_to_end(&lp, &peer));
        assert_eq!(all.len(), length);
        assert_pattern(&all, 0);
        faults(1);
    });
}

#[test]
fn a_peer_that_never_reads_fills_the_queue_to_its_bound_and_costs_nothing_more() {
    each_carrier(|lp| {
        let log = Log::default();
        let (stream, _peer) = carried(&lp, Script::new(&log));
        stream.set_watermarks(&lp, 0, 1 << 20, 4 << 20).unwrap();
        let refused = loop {
            if let Err(error) = stream.write(&lp, &pattern(0, 100_000)) {
                break error.code();
            }
            some_turns(&lp);
        };
        assert_eq!(refused, Code::ENOBUFS);
        assert!(stream.queued(&lp).unwrap() <= 4 << 20);
        let turns = lp.metrics().turns;
        run_for(&lp, Duration::from_millis(100));
        let turns = lp.metrics().turns - turns;
        assert!(turns < 20, "{turns} turns: it spins");
        lp.close(stream).unwrap();
        run_until(&lp, || log.closed());
        faults(1);
    });
}

/// What a peer may do to its end of a connection.
#[derive(Clone, Copy, Debug)]
enum Step {
    Sends,
    Reads,
    Ends,
    Closes,
    Resets,
}

#[test]
fn in_whatever_order_a_peer_ends_the_stream_hears_its_end_once_and_closes() {
    use Step::*;
    const ORDERS: &[&[Step]] = &[
        &[Closes],
        &[Resets],
        &[Ends, Closes],
        &[Ends, Reads, Closes],
        &[Ends, Resets],
        &[Sends, Closes],
        &[Sends, Resets],
        &[Sends, Ends, Closes],
        &[Sends, Ends, Reads, Closes],
        &[Sends, Reads, Ends, Resets],
        &[Reads, Sends, Closes],
        &[Reads, Ends, Closes],
    ];
    each_carrier(|lp| {
        // With bytes of ours under way and without, ours ended or not.
        for (order, way) in ORDERS
            .iter()
            .flat_map(|order| (0..4).map(move |way| (order, way)))
        {
            let log = Log::default();
            let script = Script::new(&log).on_end(|lp, stream| stream.finish(lp).unwrap());
            let (stream, peer) = carried(&lp, script);
            if way & 1 != 0 {
                stream.write_owned(&lp, vec![1; 1000], log.done(1)).unwrap();
            }
            if way & 2 != 0 {
                stream.shutdown(&lp, log.done(2)).unwrap();
            }
            let mut peer = Some(peer);
            for step in *order {
                let Some(end) = &mut peer else { break };
                match step {
                    Sends => end.write_all(b"sent").unwrap(),
                    Reads => drop(read_now(end)),
                    Ends => end.shutdown(Shutdown::Write).unwrap(),
                    Closes => drop(peer.take()),
                    Resets => reset(peer.take().unwrap()),
                }
                some_turns(&lp);
            }
            run_until(&lp, || log.closed());
            let events = log.events();
            let count = |wanted: fn(&Event) -> bool| events.iter().filter(|it| wanted(it)).count();
            let place = format!("{order:?}, way {way}: {events:?}");
            assert_eq!(events.last(), Some(&Event::Close), "{place}");
            assert_eq!(count(|it| matches!(it, Event::Close)), 1, "{place}");
            let ends = count(|it| matches!(it, Event::End));
            let errors = count(|it| matches!(it, Event::Error(_)));
            assert!(ends <= 1 && errors <= 1 && ends + errors >= 1, "{place}");
            let done = count(|it| matches!(it, Event::Done(..)));
            assert_eq!(done as u32, (way as u32).count_ones(), "{place}");
            if errors == 0 && matches!(order[0], Sends) {
                assert_eq!(log.data(), b"sent", "{place}");
            }
            faults(1);
        }
    });
}

// ---- thousands ----

/// Reads, and counts those that are open and how they ended.
#[derive(Clone, Default)]
struct Crowd(Rc<RefCell<Counts>>);

#[derive(Default)]
struct Counts {
    accepted: usize,
    opened: usize,
    ended: usize,
    broken: usize,
    closed: usize,
    failed: usize,
    streams: Vec<TcpStream>,
}

impl StreamHandler for Crowd {
    fn on_open(&mut self, _: &Loop, _: Stream) {
        self.0.borrow_mut().opened += 1;
    }

    fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {}

    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        self.0.borrow_mut().ended += 1;
        lp.close(stream).unwrap();
    }

    fn on_error(&mut self, _: &Loop, _: Stream, _: kolo::Error) {
        self.0.borrow_mut().broken += 1;
    }

    fn on_close(&mut self, _: &Loop, _: Stream) {
        self.0.borrow_mut().closed += 1;
    }
}

impl kolo::ListenerHandler for Crowd {
    fn on_accept(&mut self, lp: &Loop, _: TcpListener, stream: TcpStream) {
        stream.attach(lp, self.clone()).unwrap();
        let mut counts = self.0.borrow_mut();
        counts.accepted += 1;
        counts.streams.push(stream);
    }

    fn on_error(&mut self, _: &Loop, _: TcpListener, _: kolo::Error) {
        self.0.borrow_mut().failed += 1;
    }
}

/// Raises the limit of descriptors. `false`: this machine gives no more.
fn allow_descriptors(count: u64) -> bool {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if limit.rlim_cur >= count {
        return true;
    }
    limit.rlim_cur = count;
    limit.rlim_max = limit.rlim_max.max(count);
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 }
}

/// A process has descriptors for one end of so many connections, seldom for both: the other ends are in another one.
const CLIENTS: &str = "peers::the_clients";
const PORT: &str = "KOLO_FAULTS_PORT";
const COUNT: &str = "KOLO_FAULTS_COUNT";

/// Run by [`crowd`]: connects, says so, and when it is told to drops half of the connections at once; it waits for the
/// end of the others.
#[test]
#[ignore = "a part of others"]
fn the_clients() {
    let Ok(port) = std::env::var(PORT) else {
        return;
    };
    let to = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    let count: usize = std::env::var(COUNT).unwrap().parse().unwrap();
    assert!(allow_descriptors(count as u64 + 100));
    let lp = Loop::new().unwrap();
    let client = Crowd::default();
    let mut streams = Vec::new();
    while streams.len() < count {
        // As many at a time as the backlog holds.
        for _ in 0..1000.min(count - streams.len()) {
            streams.push(TcpStream::connect(&lp, to, client.clone()).unwrap());
        }
        run_until(&lp, || client.0.borrow().opened == streams.len());
    }
    println!("connected");
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let turns = lp.metrics().turns;
    for (at, stream) in streams.into_iter().enumerate() {
        match at % 4 {
            0 => lp.close(stream).unwrap(),
            1 => stream.reset(&lp).unwrap(),
            _ => {}
        }
    }
    run_until(&lp, || client.0.borrow().closed == count);
    let turns = lp.metrics().turns - turns;
    assert!(turns < count as u64, "{turns} turns");
    let counts = client.0.borrow();
    assert_eq!(counts.ended + counts.broken, count / 2);
}

/// So many connections, all there at once, and all dropped at once, half by either side, half of those by a reset.
fn come_and_go(lp: &Loop, count: usize) {
    let open = open_descriptors();
    let server = Crowd::default();
    let options = ListenOptions {
        backlog: 4096,
        ..Default::default()
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = TcpListener::listen_with(lp, any, &options, server.clone()).unwrap();
    let port = listener.address(lp).unwrap().port();
    let mut clients = std::process::Command::new(std::env::current_exe().unwrap())
        .args(arguments(CLIENTS))
        .env("KOLO_DRIVER", lp.driver_name())
        .env(PORT, port.to_string())
        .env(COUNT, count.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    run_until(lp, || server.0.borrow().accepted == count);
    let mut lines = std::io::BufReader::new(clients.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("connected") {}
    clients.stdin.take().unwrap().write_all(b"x").unwrap();
    run_until(lp, || server.0.borrow().closed >= count / 2);
    let streams = std::mem::take(&mut server.0.borrow_mut().streams);
    let mut at = 0;
    for stream in streams {
        at += 1;
        // Those that are closed already say so.
        let _ = match at % 2 {
            0 => lp.close(stream),
            _ => stream.reset(lp),
        };
    }
    let turns = lp.metrics().turns;
    run_until(lp, || server.0.borrow().closed == count);
    let turns = lp.metrics().turns - turns;
    assert!(turns < count as u64, "{turns} turns");
    let counts = server.0.borrow();
    assert_eq!((counts.ended, counts.broken), (count / 4, count / 4));
    assert_eq!(counts.failed, 0);
    lp.close(listener).unwrap();
    run_to_end(lp);
    assert!(lp.handles().is_empty());
    // It still has a result to say.
    lines.for_each(drop);
    assert!(clients.wait().unwrap().success());
    assert_eq!(open_descriptors(), open);
}

fn crowd(count: usize) {
    let needed = count as u64 + 100;
    if !allow_descriptors(needed) {
        let why = format!("{count} connections need {needed} descriptors");
        return skipped(3 * count as u32, &why);
    }
    each_driver(|lp| {
        // And a second time, with what the first left behind.
        come_and_go(&lp, count);
        come_and_go(&lp, count / 10);
        faults(count as u32);
    });
}

#[test]
fn two_thousand_connections_come_and_go_at_once() {
    own_process!(|| crowd(2_000));
}

#[test]
#[ignore = "long: make check-faults"]
fn fifteen_thousand_connections_come_and_go_at_once() {
    own_process!(|| crowd(15_000));
}

#[test]
fn a_loop_is_freed_with_a_thousand_connections_in_every_state() {
    own_process!(|| {
        for driver in drivers() {
            let open = open_descriptors();
            let options = LoopOptions {
                driver: Some(driver.to_owned()),
                ..Default::default()
            };
            let (server, client) = (Crowd::default(), Crowd::default());
            let lp = Loop::with_options(options).unwrap();
            let any = "127.0.0.1:0".parse().unwrap();
            let listener = TcpListener::listen(&lp, any, server.clone()).unwrap();
            let to = listener.address(&lp).unwrap();
            for at in 0..1000 {
                let stream = TcpStream::connect(&lp, to, client.clone()).unwrap();
                stream.write(&lp, &pattern(0, at)).unwrap();
                if at % 10 == 0 {
                    let _ = lp.run(kolo::RunMode::NoWait).unwrap();
                }
            }
            drop(lp);
            let (client, server) = (client.0.borrow(), server.0.borrow());
            assert_eq!((client.closed, server.closed), (1000, server.accepted));
            assert_eq!(open_descriptors(), open, "{driver}");
            faults(1);
        }
    });
}
