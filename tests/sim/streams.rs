//! Streams in a simulation do what streams do.

use super::*;
use kolo::{Code, ConnectOptions, Flow, Keepalive, Stream, Timeout};

/// Sends everything back, and stops reading while the peer does not take it; ends when the peer does.
struct Echo;

impl StreamHandler for Echo {
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        if stream.write(lp, data).unwrap() == Flow::Full {
            stream.read_stop(lp).unwrap();
        }
    }

    fn on_drain(&mut self, lp: &Loop, stream: Stream) {
        // The end may have come before the queue fell.
        let _ = stream.read_start(lp);
    }

    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        stream.finish(lp).unwrap();
    }
}

/// Sends a megabyte in pieces, and ends: what the log has heard when all is over.
fn echo_a_megabyte(options: SimulationOptions) -> Log {
    const TOTAL: usize = 1 << 20;
    let pair = Pair::new(options);
    pair.listen(|| Echo);
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log).on_end(|lp, stream| {
        lp.close(stream).unwrap();
    }));
    let mut random = Random::new(1);
    let mut sent = 0;
    while sent < TOTAL {
        let length = (1 + random.below(100_000)).min(TOTAL - sent);
        tcp.write(&pair.client, &pattern(sent, length)).unwrap();
        sent += length;
    }
    tcp.shutdown(&pair.client, log.done(1)).unwrap();
    assert_eq!(pair.run(secs(100_000)), Outcome::Done);
    log
}

#[test]
fn a_megabyte_is_echoed_unharmed_on_any_network() {
    for seed in 0..10 {
        let log = echo_a_megabyte(SimulationOptions::with_seed(seed));
        assert_eq!(log.data().len(), 1 << 20, "seed {seed}");
        assert_pattern(&log.data(), 0);
        let mut heard = log.without_data();
        heard.retain(|event| *event != Event::Drain);
        let ends = [
            Event::Open,
            Event::Done(1, Ok(())),
            Event::End,
            Event::Close,
        ];
        assert_eq!(heard, ends, "seed {seed}");
    }
}

#[test]
fn lost_packets_are_sent_again() {
    for seed in 0..10 {
        let mut options = SimulationOptions::harsh(seed);
        options.link.reset_ppm = 0;
        options.link.refuse_ppm = 0;
        let log = echo_a_megabyte(options);
        assert_pattern(&log.data(), 0);
        assert_eq!(log.data().len(), 1 << 20, "seed {seed}");
        assert_eq!(log.events().last(), Some(&Event::Close));
    }
}

#[test]
fn addresses_are_those_of_the_hosts() {
    let pair = Pair::plain();
    let seen = Shared::new(Vec::new());
    let noted = seen.clone();
    let accept = move |lp: &Loop, _, tcp: TcpStream| {
        noted.push((
            tcp.local_address(lp).unwrap(),
            tcp.peer_address(lp).unwrap(),
        ));
        tcp.attach(lp, Echo).unwrap();
    };
    let listener = TcpListener::listen(&pair.server, at("0.0.0.0:0"), accept).unwrap();
    let address = listener.address(&pair.server).unwrap();
    assert_eq!(address.ip(), ip("0.0.0.0"));
    assert_ne!(address.port(), 0);
    let log = Log::default();
    let to = SocketAddr::new(ip("10.0.0.1"), address.port());
    let tcp = TcpStream::connect(&pair.client, to, Script::new(&log)).unwrap();
    assert_eq!(code(tcp.peer_address(&pair.client)), Code::ENOTCONN);
    pair.until(|| !seen.is_empty() && log.has(&Event::Open));
    let ours = tcp.local_address(&pair.client).unwrap();
    assert_eq!(ours.ip(), ip("10.0.0.2"));
    assert_eq!(tcp.peer_address(&pair.client).unwrap(), to);
    assert_eq!(seen.take(), [(to, ours)]);
}

#[test]
fn an_end_comes_after_all_bytes_and_the_other_direction_goes_on() {
    let pair = Pair::plain();
    let server = Log::default();
    let of_server = server.clone();
    pair.listen(move || {
        Script::new(&of_server).on_end(|lp, stream| {
            // The peer has ended, and still listens.
            stream.write(lp, b"answer").unwrap();
            stream.finish(lp).unwrap();
        })
    });
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log).on_end(|lp, stream| lp.close(stream).unwrap()));
    tcp.write(&pair.client, b"question").unwrap();
    tcp.shutdown(&pair.client, log.done(1)).unwrap();
    assert_eq!(pair.run(secs(10)), Outcome::Done);
    assert_eq!(server.data(), b"question");
    assert_eq!(
        server.without_data(),
        [Event::Open, Event::End, Event::Close][1..]
    );
    assert_eq!(log.data(), b"answer");
    let heard = [
        Event::Open,
        Event::Done(1, Ok(())),
        Event::End,
        Event::Close,
    ];
    assert_eq!(log.without_data(), heard);
}

#[test]
fn a_closed_connection_with_unread_bytes_resets_the_peer() {
    let pair = Pair::plain();
    pair.listen(|| {
        let log = Log::default();
        Script::new(&log).not_reading()
    });
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    tcp.write(&pair.client, b"nobody reads this").unwrap();
    let accepted = pair.server.clone();
    pair.run(secs(1));
    let streams: Vec<_> = accepted.handles();
    for id in streams {
        if accepted.kind(id) == Ok(kolo::Kind::Tcp) {
            accepted.close(id).unwrap();
        }
    }
    assert_eq!(pair.run(secs(10)), Outcome::Done);
    assert_eq!(
        log.events(),
        [Event::Open, Event::Error(Code::ECONNRESET), Event::Close]
    );
}

#[test]
fn a_reset_is_heard_as_one_and_a_write_after_it_fails() {
    let pair = Pair::plain();
    pair.listen(|| {
        let log = Log::default();
        Script::new(&log).on_data(|lp, stream, _| stream.reset(lp).unwrap())
    });
    let log = Log::default();
    let after = log.clone();
    let tcp = pair.connect(Script::new(&log).on_error(move |lp, stream, _| {
        let late = stream.write(lp, b"too late");
        after.push(Event::Done(0, late.map(drop).map_err(|error| error.code())));
    }));
    tcp.write(&pair.client, b"x").unwrap();
    assert_eq!(pair.run(secs(10)), Outcome::Done);
    let late = Event::Done(0, Err(Code::ENOTCONN));
    let reset = Event::Error(Code::ECONNRESET);
    assert_eq!(log.events(), [Event::Open, reset, late, Event::Close]);
}

#[test]
fn what_a_closed_peer_is_sent_resets_the_connection() {
    let pair = Pair::plain();
    // It closes at once, orderly.
    let accept = |lp: &Loop, _, tcp: TcpStream| {
        tcp.attach(lp, Echo).unwrap();
        lp.close(tcp).unwrap();
    };
    let listener = TcpListener::listen(&pair.server, at(SERVER), accept).unwrap();
    pair.server.unref(listener).unwrap();
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    pair.until(|| log.has(&Event::End));
    tcp.write(&pair.client, b"one").unwrap();
    pair.pass(ms(100));
    // The reset came for a connection whose peer had ended: EPIPE (tcp_reset).
    tcp.write(&pair.client, b"two").unwrap();
    assert_eq!(pair.run(secs(10)), Outcome::Done);
    let errors = [Event::Error(Code::EPIPE), Event::Error(Code::ECONNRESET)];
    assert!(
        errors.iter().any(|error| log.has(error)),
        "{:?}",
        log.events()
    );
}

#[test]
fn a_peer_that_does_not_read_fills_the_queue_and_draining_is_told() {
    let pair = Pair::plain();
    pair.listen(|| {
        let log = Log::default();
        Script::new(&log).not_reading()
    });
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    pair.until(|| log.has(&Event::Open));
    tcp.set_watermarks(&pair.client, 1024, 64 * 1024, 1 << 20)
        .unwrap();
    while tcp.write(&pair.client, &[7; 16 * 1024]).unwrap() == Flow::Ready {}
    pair.run(secs(5));
    let queued = tcp.queued(&pair.client).unwrap();
    assert!(queued > 0);
    assert!(!log.has(&Event::Drain));
    let reader = pair.server.handles();
    for id in reader {
        if pair.server.kind(id) == Ok(kolo::Kind::Tcp) {
            Stream::from_id(id).read_start(&pair.server).unwrap();
        }
    }
    pair.until(|| log.has(&Event::Drain));
    assert_eq!(tcp.queued(&pair.client).unwrap(), 0);
}

#[test]
fn timeouts_of_streams_go_by_virtual_time() {
    let pair = Pair::plain();
    pair.listen(|| Echo);
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log).on_timeout(|lp, stream, _| lp.close(stream).unwrap()));
    pair.until(|| log.has(&Event::Open));
    tcp.set_timeouts(&pair.client, Some(secs(3600)), None)
        .unwrap();
    let begun = pair.client.now();
    assert_eq!(pair.run(secs(100_000)), Outcome::Done);
    assert!(log.has(&Event::Timeout(Timeout::Read)));
    let took = pair.client.now() - begun;
    assert!((secs(3600)..secs(3601)).contains(&took), "{took:?}");
}

#[test]
fn a_handler_may_name_the_memory_for_received_bytes() {
    struct Own(Vec<u8>, Shared<Vec<u8>>);
    impl StreamHandler for Own {
        fn has_memory(&self) -> bool {
            true
        }
        fn memory(&mut self, _: &Loop, _: Stream, _: usize) -> Option<&mut [u8]> {
            self.0.resize(1000, 0);
            Some(&mut self.0)
        }
        fn on_data(&mut self, _: &Loop, _: Stream, _: &[u8]) {}
        fn on_received(&mut self, _: &Loop, _: Stream, length: usize) {
            let bytes = self.0[..length].to_vec();
            self.1.with(|all| all.extend(bytes));
        }
        fn on_end(&mut self, lp: &Loop, stream: Stream) {
            lp.close(stream).unwrap();
        }
    }
    let pair = Pair::new(SimulationOptions::with_seed(3));
    let all = Shared::new(Vec::new());
    let theirs = all.clone();
    pair.listen(move || Own(Vec::new(), theirs.clone()));
    let tcp = pair.connect(|_: &Loop, _: Stream, _: &[u8]| ());
    tcp.write(&pair.client, &pattern(0, 200_000)).unwrap();
    tcp.finish(&pair.client).unwrap();
    assert_eq!(pair.run(secs(100)), Outcome::Done);
    assert_eq!(all.len(), 200_000);
    all.with(|all| assert_pattern(all, 0));
}

#[test]
fn keepalive_probes_find_a_peer_that_is_gone() {
    let pair = Pair::plain();
    pair.listen(|| Echo);
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log));
    pair.until(|| log.has(&Event::Open));
    let keepalive = Keepalive {
        idle: secs(60),
        interval: Some(secs(10)),
        count: Some(3),
    };
    tcp.set_keepalive(&pair.client, Some(keepalive)).unwrap();
    // As long as it answers, nothing happens.
    assert_eq!(pair.run(secs(10_000)), Outcome::TimeLimit);
    assert_eq!(log.events(), [Event::Open]);
    pair.partition();
    let begun = pair.simulation.elapsed();
    pair.until(|| log.closed());
    assert!(log.has(&Event::Error(Code::ETIMEDOUT)));
    let took = pair.simulation.elapsed() - begun;
    assert!((secs(30)..secs(100)).contains(&took), "{took:?}");
}

#[test]
fn a_connect_timeout_goes_by_virtual_time() {
    let pair = Pair::plain();
    let log = Log::default();
    let options = ConnectOptions {
        timeout: Some(secs(5)),
        ..Default::default()
    };
    // A host that there is not says nothing.
    let nobody = at("10.9.9.9:80");
    TcpStream::connect_with(&pair.client, nobody, &options, Script::new(&log)).unwrap();
    assert_eq!(pair.run(secs(60)), Outcome::Done);
    assert_eq!(log.events(), [Event::Error(Code::ETIMEDOUT), Event::Close]);
    let took = pair.simulation.elapsed();
    assert!((secs(5)..secs(6)).contains(&took), "{took:?}");
}
