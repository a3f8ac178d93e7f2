//! UDP in a simulation.

use super::*;
use kolo::{Code, Datagram, DatagramError, Transmit, UdpHandler, UdpOptions, UdpSocket};

/// Notes what comes.
#[derive(Clone)]
struct Notes {
    came: Shared<Vec<(Vec<u8>, SocketAddr)>>,
    errors: Shared<Vec<(Code, Option<SocketAddr>)>>,
}

impl Notes {
    fn new() -> Notes {
        Notes {
            came: Shared::new(Vec::new()),
            errors: Shared::new(Vec::new()),
        }
    }
}

impl UdpHandler for Notes {
    fn on_datagram(&mut self, _: &Loop, _: UdpSocket, datagram: &Datagram<'_>) {
        self.came.push((datagram.data.to_vec(), datagram.from));
    }

    fn on_error(&mut self, _: &Loop, _: UdpSocket, error: &DatagramError) {
        self.errors.push((error.error.code(), error.to));
    }
}

fn echo(lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>) {
    socket.send_to(lp, datagram.data, datagram.from).unwrap();
}

const AT: &str = "10.0.0.1:53";

#[test]
fn datagrams_are_echoed_whole() {
    let pair = Pair::plain();
    let server = UdpSocket::bind(&pair.server, at("0.0.0.0:53"), echo).unwrap();
    let notes = Notes::new();
    let client = UdpSocket::bind(&pair.client, at("0.0.0.0:0"), notes.clone()).unwrap();
    let sizes = [0, 1, 1500, 65_507];
    for size in sizes {
        client
            .send_to(&pair.client, &pattern(size, size), at(AT))
            .unwrap();
        pair.until(|| notes.came.len() == 1);
        assert_eq!(notes.came.take(), [(pattern(size, size), at(AT))]);
    }
    assert_eq!(
        server.local_address(&pair.server).unwrap(),
        at("0.0.0.0:53")
    );
    assert_ne!(client.local_address(&pair.client).unwrap().port(), 0);
}

#[test]
fn a_connected_socket_hears_only_its_peer_and_that_nobody_is_there() {
    let pair = Pair::plain();
    let notes = Notes::new();
    let client = UdpSocket::connect(&pair.client, at(AT), notes.clone()).unwrap();
    client.send(&pair.client, b"anybody there").unwrap();
    pair.until(|| !notes.errors.is_empty());
    assert_eq!(notes.errors.take(), [(Code::ECONNREFUSED, Some(at(AT)))]);
    UdpSocket::bind(&pair.server, at(AT), echo).unwrap();
    let stranger = UdpSocket::bind(&pair.server, at("10.0.0.1:54"), echo).unwrap();
    let ours = client.local_address(&pair.client).unwrap();
    assert_eq!(ours.ip(), ip("10.0.0.2"));
    stranger.send_to(&pair.server, b"not for it", ours).unwrap();
    client.send(&pair.client, b"hello").unwrap();
    pair.run(secs(1));
    assert_eq!(notes.came.take(), [(b"hello".to_vec(), at(AT))]);
    client.disconnect(&pair.client).unwrap();
    stranger.send_to(&pair.server, b"now it is", ours).unwrap();
    pair.until(|| notes.came.len() == 1);
}

#[test]
fn errors_are_told_to_who_asks_for_them_without_being_connected() {
    let pair = Pair::plain();
    let notes = Notes::new();
    let options = UdpOptions {
        report_errors: true,
        ..Default::default()
    };
    let any = at("0.0.0.0:0");
    let client = UdpSocket::bind_with(&pair.client, any, &options, notes.clone()).unwrap();
    client.send_to(&pair.client, b"x", at(AT)).unwrap();
    pair.until(|| !notes.errors.is_empty());
    assert_eq!(notes.errors.take(), [(Code::ECONNREFUSED, Some(at(AT)))]);
}

#[test]
fn what_waits_for_a_slow_link_fills_the_socket_and_can_be_taken_back() {
    let mut options = plain();
    options.link.bandwidth = Some(1000);
    options.send_buffer = 2000;
    let pair = Pair::new(options);
    let notes = Notes::new();
    UdpSocket::bind(&pair.server, at(AT), notes.clone()).unwrap();
    let client = UdpSocket::bind(&pair.client, at("0.0.0.0:0"), Notes::new()).unwrap();
    let done = Shared::new(Vec::new());
    let to = Transmit {
        to: Some(at(AT)),
        ..Default::default()
    };
    let sends: Vec<_> = (0..6_u8)
        .map(|number| {
            let done = done.clone();
            let told = move |_: &Loop, _: UdpSocket, outcome: kolo::Result<()>| {
                done.push((number, outcome.map_err(|error| error.code())));
            };
            let sent = client.send_owned(&pair.client, vec![number; 500], &to, told);
            sent.unwrap().1
        })
        .collect();
    // Two thousand bytes are the kernel's: four of them.
    assert!(client.queued(&pair.client).unwrap() >= 1000);
    let tried = client.try_send(&pair.client, b"x", &to);
    assert_eq!(code(tried), Code::EAGAIN);
    client.cancel_send(&pair.client, sends[4]).unwrap();
    assert_eq!(
        code(client.cancel_send(&pair.client, sends[0])),
        Code::ENOENT
    );
    pair.until(|| notes.came.len() == 5);
    let came: Vec<u8> = notes.came.take().iter().map(|(data, _)| data[0]).collect();
    assert_eq!(came, [0, 1, 2, 3, 5]);
    // Bytes leave one after the other, whatever is waited for.
    assert!(pair.simulation.elapsed() >= ms(2500));
    let mut told = done.take();
    told.sort_by_key(|(number, _)| *number);
    let outcome = |number| {
        if number == 4 {
            Err(Code::ECANCELED)
        } else {
            Ok(())
        }
    };
    assert_eq!(
        told,
        [0, 1, 2, 3, 4, 5].map(|number| (number, outcome(number)))
    );
}

/// A thousand numbered datagrams over a link: those that came, in their order.
fn thousand(change: impl FnOnce(&mut LinkOptions)) -> Vec<u32> {
    let mut options = plain();
    change(&mut options.link);
    let pair = Pair::new(options);
    let notes = Notes::new();
    UdpSocket::bind(&pair.server, at(AT), notes.clone()).unwrap();
    let client = UdpSocket::bind(&pair.client, at("0.0.0.0:0"), Notes::new()).unwrap();
    for number in 0..1000_u32 {
        client
            .send_to(&pair.client, &number.to_be_bytes(), at(AT))
            .unwrap();
        if number % 100 == 99 {
            pair.run(secs(1));
        }
    }
    pair.run(secs(10));
    let came = notes.came.take();
    let number = |data: &[u8]| u32::from_be_bytes(data.try_into().unwrap());
    came.iter().map(|(data, _)| number(data)).collect()
}

#[test]
fn datagrams_are_lost_doubled_and_overtaken_as_asked() {
    let all = thousand(|_| ());
    assert_eq!(all, (0..1000).collect::<Vec<_>>());
    let lossy = thousand(|link| link.loss_ppm = 100_000);
    assert!((850..950).contains(&lossy.len()), "{}", lossy.len());
    let doubled = thousand(|link| link.duplicate_ppm = 100_000);
    assert!((1050..1150).contains(&doubled.len()), "{}", doubled.len());
    let mut overtaken = thousand(|link| link.latency_max = ms(50));
    assert!(!overtaken.is_sorted());
    overtaken.sort_unstable();
    assert_eq!(overtaken, all);
}

#[test]
fn large_datagrams_are_lost_with_any_of_their_pieces() {
    let mut options = plain();
    options.link.loss_ppm = 50_000;
    let pair = Pair::new(options);
    let notes = Notes::new();
    UdpSocket::bind(&pair.server, at(AT), notes.clone()).unwrap();
    let client = UdpSocket::bind(&pair.client, at("0.0.0.0:0"), Notes::new()).unwrap();
    for _ in 0..200 {
        client.send_to(&pair.client, &[0; 30_000], at(AT)).unwrap();
        pair.run(ms(10));
    }
    // Twenty-one pieces, of which one in twenty is lost: a third comes.
    let came = notes.came.len();
    assert!((40..100).contains(&came), "{came}");
}

#[test]
fn a_receiver_that_does_not_read_loses_what_it_has_no_room_for() {
    let pair = Pair::plain();
    let notes = Notes::new();
    let server = UdpSocket::bind(&pair.server, at(AT), notes.clone()).unwrap();
    server.receive_stop(&pair.server).unwrap();
    let client = UdpSocket::bind(&pair.client, at("0.0.0.0:0"), Notes::new()).unwrap();
    for _ in 0..1000 {
        client.send_to(&pair.client, &[0; 1000], at(AT)).unwrap();
    }
    pair.run(secs(1));
    server.receive_start(&pair.server).unwrap();
    pair.run(secs(1));
    // 64 KiB of a thousand bytes each, and what a kernel counts beside.
    assert_eq!(notes.came.len(), 65_536_usize.div_ceil(1256));
}

#[test]
fn segments_of_one_send_are_datagrams() {
    let pair = Pair::plain();
    let notes = Notes::new();
    UdpSocket::bind(&pair.server, at(AT), notes.clone()).unwrap();
    let client = UdpSocket::bind(&pair.client, at("0.0.0.0:0"), Notes::new()).unwrap();
    let transmit = Transmit {
        segment_size: Some(100),
        ..Transmit::to(at(AT))
    };
    client
        .send_with(&pair.client, &pattern(0, 250), &transmit)
        .unwrap();
    pair.run(secs(1));
    let lengths: Vec<_> = notes
        .came
        .take()
        .iter()
        .map(|(data, _)| data.len())
        .collect();
    assert_eq!(lengths, [100, 100, 50]);
}

#[test]
fn ports_are_shared_only_by_those_who_agree() {
    let pair = Pair::plain();
    let bind = |reuse_port| {
        let options = UdpOptions {
            reuse_port,
            ..Default::default()
        };
        UdpSocket::bind_with(&pair.server, at(AT), &options, Notes::new())
    };
    let first = bind(false).unwrap();
    assert_eq!(code(bind(true)), Code::EADDRINUSE);
    pair.server.close(first).unwrap();
    bind(true).unwrap();
    bind(true).unwrap();
    let multicast = bind(true)
        .unwrap()
        .join(&pair.server, ip("224.0.0.251"), None, 0);
    assert_eq!(code(multicast), Code::ENOTSUP);
}
