//! Each fault does what it says.

use std::cell::Cell;

use super::*;
use kolo::{AcceptPolicy, Code, Error, ListenOptions, ListenerHandler, Stream};

fn nothing() -> impl StreamHandler {
    |_: &Loop, _: Stream, _: &[u8]| ()
}

fn echo() -> impl StreamHandler {
    |lp: &Loop, stream: Stream, data: &[u8]| {
        let _ = stream.write(lp, data);
    }
}

#[test]
fn without_a_listener_connections_are_refused() {
    let pair = Pair::plain();
    let log = Log::default();
    pair.connect(Script::new(&log));
    assert_eq!(pair.run(secs(10)), Outcome::Done);
    assert_eq!(
        log.events(),
        [Event::Error(Code::ECONNREFUSED), Event::Close]
    );
    // Once there and back.
    assert!(pair.simulation.elapsed() >= ms(2));
    assert!(pair.simulation.elapsed() < ms(3));
}

#[test]
fn a_host_that_there_is_not_times_out_after_the_systems_tries() {
    let pair = Pair::plain();
    let log = Log::default();
    TcpStream::connect(&pair.client, at("10.99.0.1:80"), Script::new(&log)).unwrap();
    assert_eq!(pair.run(secs(1000)), Outcome::Done);
    assert_eq!(log.events(), [Event::Error(Code::ETIMEDOUT), Event::Close]);
    // 1 + 2 + 4 + 8 + 16 + 32 + 64 seconds, as Linux has it.
    assert_eq!(pair.simulation.elapsed().as_secs(), 127);
}

#[test]
fn without_an_address_of_the_family_the_network_is_unreachable() {
    let pair = Pair::plain();
    let connect = TcpStream::connect(&pair.client, at("[2001:db8::1]:80"), nothing());
    assert_eq!(code(connect), Code::EAFNOSUPPORT);
    let six = ip("2001:db8::2");
    pair.simulation.add_address(ip("10.0.0.2"), six).unwrap();
    let log = Log::default();
    TcpStream::connect(&pair.client, at("[2001:db8::1]:80"), Script::new(&log)).unwrap();
    assert_eq!(
        code(pair.simulation.add_address(ip("10.0.0.1"), six)),
        Code::EADDRINUSE
    );
}

#[test]
fn latency_is_within_its_bounds() {
    let mut options = SimulationOptions::with_seed(4);
    options.link.latency_min = ms(10);
    options.link.latency_max = ms(30);
    let pair = Pair::new(options);
    pair.listen(echo);
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    pair.until(|| log.has(&Event::Open));
    let mut times = Vec::new();
    for round in 1..=100 {
        let begun = pair.simulation.elapsed();
        tcp.write(&pair.client, b"x").unwrap();
        pair.until(|| log.data().len() == round);
        times.push(pair.simulation.elapsed() - begun);
    }
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*least >= ms(20) && *most <= ms(61), "{least:?} {most:?}");
    assert!(*most - *least > ms(10));
}

#[test]
fn bandwidth_bounds_how_fast_bytes_come() {
    let mut options = plain();
    options.link.bandwidth = Some(1_000_000);
    let pair = Pair::new(options);
    let server = Log::default();
    let of_server = server.clone();
    pair.listen(move || Script::new(&of_server).on_end(|lp, stream| lp.close(stream).unwrap()));
    let tcp = pair.connect(nothing());
    tcp.write(&pair.client, &pattern(0, 5_000_000)).unwrap();
    tcp.finish(&pair.client).unwrap();
    assert_eq!(pair.run(secs(1000)), Outcome::Done);
    assert_eq!(server.data().len(), 5_000_000);
    let took = pair.simulation.elapsed();
    assert!((secs(5)..secs(8)).contains(&took), "{took:?}");
}

#[test]
fn partial_reads_cut_what_comes_and_lose_nothing() {
    let mut options = plain();
    options.partial_read_ppm = 1_000_000;
    let pair = Pair::new(options);
    let server = Log::default();
    let of_server = server.clone();
    pair.listen(move || Script::new(&of_server));
    let tcp = pair.connect(nothing());
    tcp.write(&pair.client, &pattern(0, 1000)).unwrap();
    pair.until(|| server.data().len() == 1000);
    assert_pattern(&server.data(), 0);
    assert!(
        server.events().len() > 2,
        "one message came in several parts"
    );
}

#[test]
fn partial_writes_are_gone_on_with() {
    let mut options = plain();
    options.partial_write_ppm = 1_000_000;
    let pair = Pair::new(options);
    let server = Log::default();
    let of_server = server.clone();
    pair.listen(move || Script::new(&of_server));
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    pair.until(|| log.has(&Event::Open));
    tcp.write(&pair.client, &pattern(0, 10_000)).unwrap();
    assert!(tcp.queued(&pair.client).unwrap() > 0);
    pair.until(|| server.data().len() == 10_000);
    assert_pattern(&server.data(), 0);
}

#[test]
fn a_small_send_buffer_fills_soon() {
    let mut options = plain();
    options.send_buffer = 4096;
    options.receive_buffer = 4096;
    let pair = Pair::new(options);
    pair.listen(|| Script::new(&Log::default()).not_reading());
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    pair.until(|| log.has(&Event::Open));
    tcp.write(&pair.client, &[0; 20_000]).unwrap();
    pair.pass(secs(10));
    assert_eq!(tcp.queued(&pair.client).unwrap(), 20_000 - 2 * 4096);
    assert_eq!(tcp.buffers(&pair.client).unwrap(), (4096, 4096));
}

#[test]
fn injected_resets_are_heard_on_both_sides() {
    let mut options = plain();
    options.link.reset_ppm = 1_000_000;
    let pair = Pair::new(options);
    let (server, log) = (Log::default(), Log::default());
    let of_server = server.clone();
    pair.listen(move || Script::new(&of_server));
    let tcp = pair.connect(Script::new(&log));
    tcp.write(&pair.client, b"x").unwrap();
    assert_eq!(pair.run(secs(10)), Outcome::Done);
    let reset = Event::Error(Code::ECONNRESET);
    assert_eq!(log.events(), [Event::Open, reset.clone(), Event::Close]);
    assert_eq!(server.events(), [reset, Event::Close]);
}

#[test]
fn injected_refusals_are_refusals() {
    let mut options = plain();
    options.link.refuse_ppm = 1_000_000;
    let pair = Pair::new(options);
    pair.listen(nothing);
    let log = Log::default();
    pair.connect(Script::new(&log));
    assert_eq!(pair.run(secs(10)), Outcome::Done);
    assert_eq!(
        log.events(),
        [Event::Error(Code::ECONNREFUSED), Event::Close]
    );
}

#[test]
fn all_connections_between_two_hosts_can_be_reset() {
    let pair = Pair::plain();
    pair.listen(echo);
    let logs: Vec<_> = (0..3).map(|_| Log::default()).collect();
    for log in &logs {
        pair.connect(Script::new(log));
    }
    pair.until(|| logs.iter().all(|log| log.has(&Event::Open)));
    pair.run(ms(10));
    let (a, b) = (ip("10.0.0.1"), ip("10.0.0.2"));
    assert_eq!(pair.simulation.reset_connections(a, b), Ok(3));
    assert_eq!(pair.run(secs(10)), Outcome::Done);
    for log in &logs {
        assert!(log.has(&Event::Error(Code::ECONNRESET)));
    }
    let nobody = pair.simulation.reset_connections(a, ip("10.7.7.7"));
    assert_eq!(code(nobody), Code::ENOENT);
}

#[test]
fn a_short_partition_delays_and_a_long_one_times_out() {
    let pair = Pair::plain();
    pair.listen(echo);
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    pair.until(|| log.has(&Event::Open));
    // The server has yet to hear that the connection is made.
    pair.run(ms(10));
    pair.partition();
    tcp.write(&pair.client, b"one").unwrap();
    pair.pass(secs(60));
    assert_eq!(log.data(), b"");
    pair.heal();
    pair.until(|| log.data() == b"one");
    // The server has yet to hear that its answer came.
    pair.run(ms(10));
    pair.partition();
    tcp.write(&pair.client, b"two").unwrap();
    let begun = pair.simulation.elapsed();
    pair.until(|| log.closed());
    let took = (pair.simulation.elapsed() - begun).as_secs();
    assert!((924..1100).contains(&took), "{took}");
    assert!(log.has(&Event::Error(Code::ETIMEDOUT)));
    // The server knows nothing of it, until it says something: then it is told off.
    pair.simulation.heal_all();
    let half_open = pair.server.handles();
    let streams = half_open
        .iter()
        .filter(|id| pair.server.kind(**id) == Ok(kolo::Kind::Tcp));
    let streams: Vec<_> = streams.copied().collect();
    assert_eq!(streams.len(), 1);
    let stream = Stream::from_id(streams[0]);
    stream.write(&pair.server, b"are you there").unwrap();
    assert_eq!(pair.run(secs(1000)), Outcome::Done);
    assert_eq!(code(stream.queued(&pair.server)), Code::EBADF);
}

#[test]
fn a_peer_that_answers_and_has_no_room_is_not_given_up() {
    let pair = Pair::new(SimulationOptions {
        give_up: secs(20),
        ..plain()
    });
    let log = Log::default();
    let of_server = log.clone();
    let listener = pair.listen(move || Script::new(&of_server).not_reading());
    let client = Log::default();
    let tcp = pair.connect(Script::new(&client));
    tcp.write(&pair.client, &[7; 300_000]).unwrap();
    // The pauses between two looks for room grow longer than what it takes to give up.
    pair.pass(secs(600));
    assert_eq!(client.events(), [Event::Open]);
    let streams = pair.server.handles();
    let mut streams = streams.iter().filter(|id| **id != listener.id());
    let stream = Stream::from_id(*streams.next().unwrap());
    stream.read_start(&pair.server).unwrap();
    pair.until(|| log.data().len() == 300_000);
    assert_eq!(client.without(&Event::Drain), [Event::Open]);
}

#[test]
fn a_partition_during_connecting_is_a_timeout() {
    let pair = Pair::plain();
    pair.listen(nothing);
    pair.partition();
    let log = Log::default();
    pair.connect(Script::new(&log));
    assert_eq!(pair.run(secs(1000)), Outcome::Done);
    assert_eq!(log.events(), [Event::Error(Code::ETIMEDOUT), Event::Close]);
}

#[test]
fn a_full_backlog_lets_later_ones_wait() {
    let pair = Pair::plain();
    let options = ListenOptions {
        backlog: 2,
        ..Default::default()
    };
    let accept = |lp: &Loop, _, tcp: TcpStream| tcp.attach(lp, echo()).unwrap();
    let listener = TcpListener::listen_with(&pair.server, at(SERVER), &options, accept).unwrap();
    pair.server.unref(listener).unwrap();
    listener.pause(&pair.server).unwrap();
    let logs: Vec<_> = (0..4).map(|_| Log::default()).collect();
    for log in &logs {
        pair.connect(Script::new(log));
    }
    pair.run(ms(500));
    let open = || logs.iter().filter(|log| log.has(&Event::Open)).count();
    assert_eq!(open(), 2);
    listener.resume(&pair.server).unwrap();
    // The others' SYNs are sent again after a second.
    pair.until(|| open() == 4);
    assert!(pair.simulation.elapsed() >= secs(1));
}

/// Counts what a listener hears.
struct Counting {
    streams: Shared<Vec<TcpStream>>,
    errors: Shared<Vec<Code>>,
}

impl ListenerHandler for Counting {
    fn on_accept(&mut self, lp: &Loop, _: TcpListener, stream: TcpStream) {
        stream.attach(lp, nothing()).unwrap();
        self.streams.push(stream);
    }

    fn on_error(&mut self, _: &Loop, _: TcpListener, error: Error) {
        self.errors.push(error.code());
    }
}

#[test]
fn a_connection_that_is_reset_in_the_backlog_is_no_error_of_the_listener() {
    let pair = Pair::plain();
    let heard = Counting {
        streams: Shared::new(Vec::new()),
        errors: Shared::new(Vec::new()),
    };
    let (streams, errors) = (heard.streams.clone(), heard.errors.clone());
    let listener = TcpListener::listen(&pair.server, at(SERVER), heard).unwrap();
    pair.server.unref(listener).unwrap();
    listener.pause(&pair.server).unwrap();
    let (first, second) = (Log::default(), Log::default());
    let reset = pair.connect(Script::new(&first));
    pair.until(|| first.has(&Event::Open));
    pair.connect(Script::new(&second));
    pair.until(|| second.has(&Event::Open));
    reset.reset(&pair.client).unwrap();
    pair.pass(ms(500));
    listener.resume(&pair.server).unwrap();
    pair.pass(ms(500));
    // As on Linux it is accepted, and breaks then.
    assert_eq!((streams.get().len(), errors.get()), (2, Vec::new()));
}

/// A server that may have a listener and one connection, and three clients: who was accepted, errors, what clients heard.
fn too_few_descriptors(policy: AcceptPolicy) -> (Pair, Counting, Vec<Log>) {
    let pair = Pair::plain();
    pair.simulation
        .set_descriptors(&pair.server, Some(2))
        .unwrap();
    let counting = Counting {
        streams: Shared::new(Vec::new()),
        errors: Shared::new(Vec::new()),
    };
    let handler = Counting {
        streams: counting.streams.clone(),
        errors: counting.errors.clone(),
    };
    let options = ListenOptions {
        accept_policy: policy,
        ..Default::default()
    };
    TcpListener::listen_with(&pair.server, at(SERVER), &options, handler).unwrap();
    let logs: Vec<_> = (0..3).map(|_| Log::default()).collect();
    for log in &logs {
        pair.connect(Script::new(log));
    }
    pair.run(secs(1));
    (pair, counting, logs)
}

#[test]
fn descriptors_run_out_and_those_who_wait_are_served_later() {
    let (pair, counting, _) = too_few_descriptors(AcceptPolicy::Wait);
    assert_eq!(counting.streams.len(), 1);
    assert_eq!(counting.errors.get(), [Code::EMFILE]);
    for served in 2..=3 {
        let last = counting.streams.get().pop().unwrap();
        pair.server.close(last).unwrap();
        pair.until(|| counting.streams.len() == served);
    }
}

#[test]
fn descriptors_run_out_and_those_who_wait_are_told() {
    let (_pair, counting, logs) = too_few_descriptors(AcceptPolicy::Reject);
    assert_eq!(counting.streams.len(), 1);
    let reset = Event::Error(Code::ECONNRESET);
    assert_eq!(logs.iter().filter(|log| log.has(&reset)).count(), 2);
}

#[test]
fn without_descriptors_opening_is_an_error_of_the_call() {
    let pair = Pair::plain();
    pair.simulation
        .set_descriptors(&pair.client, Some(1))
        .unwrap();
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    assert_eq!(
        code(TcpStream::connect(&pair.client, at(SERVER), nothing())),
        Code::EMFILE
    );
    let listen = TcpListener::listen(&pair.client, at("0.0.0.0:1"), |_: &Loop, _, _| ());
    assert_eq!(code(listen), Code::EMFILE);
    pair.client.close(tcp).unwrap();
    TcpStream::connect(&pair.client, at(SERVER), nothing()).unwrap();
    let other = Loop::new().unwrap();
    assert_eq!(
        code(pair.simulation.set_descriptors(&other, None)),
        Code::EINVAL
    );
}

#[test]
fn a_link_of_its_own_is_not_like_the_others() {
    let pair = Pair::plain();
    let far = LinkOptions {
        latency_min: secs(1),
        latency_max: secs(1),
        ..LinkOptions::default()
    };
    let (a, b) = (ip("10.0.0.1"), ip("10.0.0.2"));
    pair.simulation.set_link(a, b, Some(far)).unwrap();
    let near = pair.simulation.new_loop(ip("10.0.0.3")).unwrap();
    pair.listen(nothing);
    let (of_far, of_near) = (Log::default(), Log::default());
    pair.connect(Script::new(&of_far));
    TcpStream::connect(&near, at(SERVER), Script::new(&of_near)).unwrap();
    pair.until(|| of_near.has(&Event::Open));
    assert!(pair.simulation.elapsed() < ms(3));
    assert!(!of_far.has(&Event::Open));
    pair.until(|| of_far.has(&Event::Open));
    assert!(pair.simulation.elapsed() >= secs(2));
    assert_eq!(
        code(pair.simulation.set_link(a, ip("10.5.5.5"), None)),
        Code::ENOENT
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let wrong = [
        SimulationOptions {
            turn_min: secs(1),
            ..plain()
        },
        SimulationOptions {
            work_min: secs(10),
            ..plain()
        },
        SimulationOptions {
            partial_read_ppm: 1_000_001,
            ..plain()
        },
        SimulationOptions {
            turn_max: Duration::MAX,
            ..plain()
        },
        SimulationOptions {
            send_buffer: 0,
            ..plain()
        },
        SimulationOptions {
            link: LinkOptions {
                packet_max: 63,
                ..LinkOptions::default()
            },
            ..plain()
        },
        SimulationOptions {
            link: LinkOptions {
                latency_min: secs(9),
                ..LinkOptions::default()
            },
            ..plain()
        },
    ];
    for options in wrong {
        assert_eq!(
            code(Simulation::new(options.clone())),
            Code::EINVAL,
            "{options:?}"
        );
    }
    let simulation = Simulation::new(plain()).unwrap();
    for address in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "::1"] {
        assert_eq!(
            code(simulation.new_loop(ip(address))),
            Code::EINVAL,
            "{address}"
        );
    }
}

#[test]
fn the_order_of_readiness_depends_on_the_seed() {
    let order = |seed| {
        let pair = Pair::new(SimulationOptions {
            link: plain().link,
            ..SimulationOptions::with_seed(seed)
        });
        let order = Rc::new(Cell::new(0_u64));
        let noted = order.clone();
        let accept = move |lp: &Loop, _, tcp: TcpStream| {
            let noted = noted.clone();
            let note = move |_: &Loop, _: Stream, data: &[u8]| {
                noted.set(noted.get() * 10 + u64::from(data[0]));
            };
            tcp.attach(lp, note).unwrap();
        };
        TcpListener::listen(&pair.server, at(SERVER), accept).unwrap();
        for index in 1..=9 {
            let tcp = pair.connect(nothing());
            tcp.write(&pair.client, &[index]).unwrap();
        }
        pair.run(secs(1));
        order.get()
    };
    let mut orders: Vec<_> = (0..10).map(order).collect();
    assert_eq!(orders[0], order(0));
    orders.sort_unstable();
    orders.dedup();
    assert!(orders.len() > 5);
}
