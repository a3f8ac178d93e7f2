//! UDP sockets: what is sent arrives as it was sent, what comes is told as it came, and errors end nothing.

#![cfg(all(unix, feature = "net"))]

mod common;

use std::io;
#[cfg(target_os = "linux")]
use std::net::IpAddr;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;

use common::*;
use kolo::{
    Code, Datagram, DatagramError, Flow, Kind, Loop, RunMode, Stream, Timer, Transmit, UdpHandler,
    UdpOptions, UdpSocket,
};
use socket2::{Domain, SockRef, Socket, Type};

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A socket of the system's, for the other end; it gives up after a while.
fn peer() -> StdSocket {
    peer_at("127.0.0.1:0")
}

fn peer_at(address: &str) -> StdSocket {
    let socket = StdSocket::bind(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    SockRef::from(&socket)
        .set_recv_buffer_size(4 * 1024 * 1024)
        .unwrap();
    socket
}

fn address_of(peer: &StdSocket) -> SocketAddr {
    peer.local_addr().unwrap()
}

/// The next datagram at the peer.
#[track_caller]
fn received(peer: &StdSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let length = peer.recv(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

fn nothing(_: &Loop, _: UdpSocket, _: &Datagram<'_>) {}

#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Datagram(Vec<u8>),
    Drain,
    Error(Code, Option<SocketAddr>),
    Close,
}

type On<T> = Box<dyn FnMut(&Loop, UdpSocket, T)>;

/// A handler that notes everything, and then does what the test says.
struct Note {
    heard: Shared<Vec<Heard>>,
    datagram: Option<On<Vec<u8>>>,
    error: Option<On<DatagramError>>,
    receives: bool,
}

impl Note {
    fn new(heard: &Shared<Vec<Heard>>) -> Note {
        Note {
            heard: heard.clone(),
            datagram: None,
            error: None,
            receives: true,
        }
    }

    fn on_datagram(mut self, run: impl FnMut(&Loop, UdpSocket, Vec<u8>) + 'static) -> Note {
        self.datagram = Some(Box::new(run));
        self
    }

    fn on_error(mut self, run: impl FnMut(&Loop, UdpSocket, DatagramError) + 'static) -> Note {
        self.error = Some(Box::new(run));
        self
    }

    fn not_receiving(mut self) -> Note {
        self.receives = false;
        self
    }
}

impl UdpHandler for Note {
    fn on_datagram(&mut self, lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>) {
        assert!(!datagram.truncated);
        self.heard.push(Heard::Datagram(datagram.data.to_vec()));
        if let Some(run) = &mut self.datagram {
            run(lp, socket, datagram.data.to_vec());
        }
    }

    fn on_drain(&mut self, _: &Loop, _: UdpSocket) {
        self.heard.push(Heard::Drain);
    }

    fn on_error(&mut self, lp: &Loop, socket: UdpSocket, error: &DatagramError) {
        self.heard.push(Heard::Error(error.error.code(), error.to));
        if let Some(run) = &mut self.error {
            run(lp, socket, *error);
        }
    }

    fn on_close(&mut self, _: &Loop, _: UdpSocket) {
        self.heard.push(Heard::Close);
    }

    fn receives(&self) -> bool {
        self.receives
    }
}

fn datagrams(heard: &Shared<Vec<Heard>>) -> Vec<Vec<u8>> {
    let all = heard.get().into_iter();
    all.filter_map(|heard| match heard {
        Heard::Datagram(data) => Some(data),
        _ => None,
    })
    .collect()
}

/// Numbers 0 to `count`, each a datagram to `to`; they are there when this returns.
fn send_numbers(from: &StdSocket, to: SocketAddr, count: usize) {
    for number in 0..count {
        from.send_to(number.to_string().as_bytes(), to).unwrap();
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    range
        .map(|number| number.to_string().into_bytes())
        .collect()
}

#[test]
fn an_echo_over_ipv4_and_ipv6() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        each_driver(|lp| {
            let echo = |lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>| {
                assert_eq!(
                    socket.send_to(lp, datagram.data, datagram.from),
                    Ok(Flow::Ready)
                );
            };
            let server = UdpSocket::bind(&lp, address.parse().unwrap(), echo).unwrap();
            let server_address = server.local_address(&lp).unwrap();
            assert_ne!(server_address.port(), 0);
            assert_eq!(lp.kind(server).unwrap(), Kind::Udp);

            let heard = Shared::default();
            let client = UdpSocket::connect(&lp, server_address, Note::new(&heard)).unwrap();
            assert_eq!(client.peer_address(&lp), Ok(server_address));
            assert_eq!(code(server.peer_address(&lp)), Code::ENOTCONN);
            client.send(&lp, b"hello").unwrap();
            run_until(&lp, || !heard.is_empty());
            assert_eq!(heard.take(), [Heard::Datagram(b"hello".to_vec())]);
        });
    }
}

#[test]
fn datagrams_keep_their_boundaries_their_order_and_their_sender() {
    each_driver(|lp| {
        let seen = Shared::default();
        let note = seen.clone();
        let server = UdpSocket::bind(&lp, any(), move |_: &Loop, _, datagram: &Datagram<'_>| {
            assert_eq!(
                (datagram.to, datagram.tos, datagram.interface),
                (None, None, 0)
            );
            note.push((datagram.data.len(), datagram.from));
        })
        .unwrap();
        let (one, two) = (peer(), peer());
        let lengths = [5, 0, 1400, 1, 0, 60_000, 7];
        for length in lengths {
            for from in [&one, &two] {
                let to = server.local_address(&lp).unwrap();
                from.send_to(&vec![1; length], to).unwrap();
            }
        }
        run_until(&lp, || seen.len() == 14);
        let expected: Vec<_> = lengths
            .iter()
            .flat_map(|length| [(*length, address_of(&one)), (*length, address_of(&two))])
            .collect();
        assert_eq!(seen.get(), expected);
    });
}

#[test]
fn what_a_callback_sends_arrives_in_its_order_whatever_the_sizes() {
    each_driver(|lp| {
        let (peer, other) = (peer(), peer());
        let (to, to_other) = (address_of(&peer), address_of(&other));
        let socket = UdpSocket::bind(&lp, any(), nothing).unwrap();
        let mut random = Random::new(7);
        // Runs of one size, single ones, empty ones, ones that are not gathered.
        let mut sent = Vec::new();
        while sent.len() < 100 {
            let length = [0, 1, 64, 64, 64, 1200, 1200, 1200, 3000, 9000][random.below(10)];
            for _ in 0..1 + random.below(6) {
                sent.push(pattern(sent.len() * 7, length));
            }
        }
        let all = sent.clone();
        in_callback(&lp, move |lp| {
            for data in &all {
                socket.send_to(lp, data, to).unwrap();
                socket
                    .send_to(lp, &data[..data.len() / 2], to_other)
                    .unwrap();
            }
        });
        for data in &sent {
            assert!(received(&peer) == *data);
            assert!(received(&other) == data[..data.len() / 2]);
        }
        assert_eq!(socket.queued(&lp), Ok(0));
    });
}

#[test]
fn what_is_sent_in_a_callback_is_with_the_system_when_it_returns() {
    each_driver(|lp| {
        let peer = peer();
        let to = address_of(&peer);
        let socket = UdpSocket::bind(&lp, any(), nothing).unwrap();
        peer.set_nonblocking(true).unwrap();
        let first = peer.try_clone().unwrap();
        lp.defer(move |lp: &Loop| {
            socket.send_to(lp, b"one", to).unwrap();
            assert!(socket.queued(lp).unwrap() > 0, "gathered");
        })
        .unwrap();
        let there = Shared::new(false);
        let note = there.clone();
        lp.defer(move |_: &Loop| note.set(first.recv(&mut [0; 8]).is_ok()))
            .unwrap();
        lp.run(RunMode::NoWait).unwrap();
        assert!(there.get());
        // Outside of callbacks: at once.
        socket.send_to(&lp, b"two", to).unwrap();
        assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 3);
    });
}

#[test]
fn answers_to_a_batch_of_datagrams_reach_each_sender_in_order() {
    each_driver(|lp| {
        let echo = |lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>| {
            socket.send_to(lp, datagram.data, datagram.from).unwrap();
        };
        let server = UdpSocket::bind(&lp, any(), echo).unwrap();
        let to = server.local_address(&lp).unwrap();
        let clients: Vec<_> = (0..3).map(|_| peer()).collect();
        for number in 0..50 {
            for client in &clients {
                client.send_to(number.to_string().as_bytes(), to).unwrap();
            }
        }
        run_until(&lp, || lp.metrics().callbacks == 150);
        for client in &clients {
            for expected in numbers(0..50) {
                assert_eq!(received(client), expected);
            }
        }
    });
}

#[test]
fn a_stream_of_datagrams_between_two_sockets_of_the_loop_is_whole() {
    // Both offloads meet here: what is put together for sending is not taken apart before it arrives.
    for options in [
        UdpOptions::default(),
        UdpOptions {
            receive_offload: false,
            ..Default::default()
        },
        UdpOptions {
            send_offload: false,
            ..Default::default()
        },
    ] {
        each_driver(|lp| {
            let options = UdpOptions {
                receive_buffer: Some(4 * 1024 * 1024),
                ..options
            };
            let heard = Shared::default();
            let receiver = UdpSocket::bind_with(&lp, any(), &options, Note::new(&heard)).unwrap();
            let sender = UdpSocket::bind_with(&lp, any(), &options, nothing).unwrap();
            sender
                .connect_to(&lp, receiver.local_address(&lp).unwrap())
                .unwrap();
            let lengths = [1200, 1200, 1199, 64, 64, 64, 0, 1, 1400];
            for round in 0..20 {
                in_callback(&lp, move |lp| {
                    for (at, length) in lengths.into_iter().cycle().take(90).enumerate() {
                        sender.send(lp, &pattern(round * 90 + at, length)).unwrap();
                    }
                });
                run_until(&lp, || heard.len() >= (round + 1) * 90);
            }
            for (at, data) in datagrams(&heard).into_iter().enumerate() {
                assert_eq!(data.len(), lengths[at % 90 % lengths.len()]);
                assert_pattern(&data, at);
            }
        });
    }
}

#[test]
fn segments_of_one_buffer_are_datagrams_of_their_own() {
    for send_offload in [true, false] {
        each_driver(|lp| {
            let peer = peer();
            let options = UdpOptions {
                send_offload,
                ..Default::default()
            };
            let socket = UdpSocket::bind_with(&lp, any(), &options, nothing).unwrap();
            let data = pattern(0, 5000);
            let transmit = Transmit {
                segment_size: Some(1200),
                ..Transmit::to(address_of(&peer))
            };
            socket.send_with(&lp, &data, &transmit).unwrap();
            for chunk in data.chunks(1200) {
                assert_eq!(received(&peer), chunk);
            }
            socket.try_send(&lp, &data[..2000], &transmit).unwrap();
            assert_eq!((received(&peer).len(), received(&peer).len()), (1200, 800));
            for wrong in [0, 77] {
                let transmit = Transmit {
                    segment_size: Some(wrong),
                    ..transmit
                };
                assert_eq!(code(socket.send_with(&lp, &data, &transmit)), Code::EINVAL);
            }
        });
    }
}

#[test]
fn bytes_in_several_pieces_are_one_datagram() {
    each_driver(|lp| {
        let peer = peer();
        let socket = UdpSocket::bind(&lp, any(), nothing).unwrap();
        let to = Transmit::to(address_of(&peer));
        let pieces = [
            io::IoSlice::new(b"one "),
            io::IoSlice::new(b""),
            io::IoSlice::new(b"datagram"),
        ];
        socket.send_vectored(&lp, &pieces, &to).unwrap();
        assert_eq!(received(&peer), b"one datagram");
        socket.try_send_vectored(&lp, &pieces, &to).unwrap();
        assert_eq!(received(&peer), b"one datagram");
        in_callback(&lp, move |lp| {
            socket.send_to(lp, b"before", to.to.unwrap()).unwrap();
            let pieces = [io::IoSlice::new(b"one "), io::IoSlice::new(b"datagram")];
            socket.send_vectored(lp, &pieces, &to).unwrap();
        });
        assert_eq!(received(&peer), b"before");
        assert_eq!(received(&peer), b"one datagram");
        // More than the system takes.
        let bytes = pattern(0, 3000);
        let pieces: Vec<_> = bytes.chunks(1).map(io::IoSlice::new).collect();
        socket.send_vectored(&lp, &pieces, &to).unwrap();
        assert_eq!(received(&peer), bytes);
        let long = vec![0; 10_000];
        let pieces = [io::IoSlice::new(&long); 20];
        assert_eq!(
            code(socket.send_vectored(&lp, &pieces, &to)),
            Code::EMSGSIZE
        );
    });
}

#[test]
fn owned_sends_tell_their_outcome_once() {
    each_driver(|lp| {
        let peer = peer();
        let heard = Shared::default();
        let socket = UdpSocket::bind(&lp, any(), Note::new(&heard).not_receiving()).unwrap();
        let outcomes = Shared::default();
        let done = |which: usize| {
            let outcomes = outcomes.clone();
            move |_: &Loop, _, outcome: kolo::Result<()>| {
                outcomes.push((which, outcome.map_err(|e| e.code())))
            }
        };
        let to = Transmit::to(address_of(&peer));
        socket.send_owned(&lp, "one", &to, done(1)).unwrap();
        let many = (0..40).map(|_| vec![b'x'; 10].into()).collect();
        socket.send_owned_vectored(&lp, many, &to, done(2)).unwrap();
        // Nobody may send to a broadcast address without asking for it.
        let broadcast = Transmit::to("255.255.255.255:9".parse().unwrap());
        socket
            .send_owned(&lp, "three", &broadcast, done(3))
            .unwrap();
        assert!(outcomes.is_empty(), "never inside the call");
        run_to_end(&lp);
        assert_eq!(
            outcomes.take(),
            [(1, Ok(())), (2, Ok(())), (3, Err(Code::EACCES))]
        );
        assert!(heard.is_empty(), "only the one that asked is told");
        assert_eq!(received(&peer), b"one");
        assert_eq!(received(&peer).len(), 400);
    });
}

#[test]
fn owned_sends_hear_their_last_when_the_socket_closes() {
    each_driver(|lp| {
        let (peer, heard, outcomes) = (peer(), Shared::default(), Shared::default());
        let socket = UdpSocket::bind(&lp, any(), Note::new(&heard)).unwrap();
        let note = outcomes.clone();
        let to = Transmit::to(address_of(&peer));
        socket
            .send_owned(&lp, "one", &to, move |_, _, outcome| note.push(outcome))
            .unwrap();
        lp.close(socket).unwrap();
        run_to_end(&lp);
        // It had gone already.
        assert_eq!(outcomes.take(), [Ok(())]);
        assert_eq!(heard.take(), [Heard::Close]);
    });
}

#[test]
fn what_was_sent_before_close_goes_out() {
    each_driver(|lp| {
        let peer = peer();
        let to = address_of(&peer);
        in_callback(&lp, move |lp| {
            let socket = UdpSocket::bind(lp, any(), nothing).unwrap();
            socket.send_to(lp, b"last words", to).unwrap();
            lp.close(socket).unwrap();
            assert_eq!(code(socket.send_to(lp, b"too late", to)), Code::EBADF);
        });
        assert_eq!(received(&peer), b"last words");
    });
}

#[test]
fn a_socket_closed_in_the_middle_of_a_batch_hears_nothing_more() {
    each_driver(|lp| {
        let heard = Shared::default();
        let handler = Note::new(&heard).on_datagram(|lp, socket, data| {
            if data == b"4" {
                socket.send_to(lp, b"gone", any()).unwrap();
                lp.close(socket).unwrap();
                assert_eq!(code(lp.close(socket)), Code::EBADF);
            }
        });
        let socket = UdpSocket::bind(&lp, any(), handler).unwrap();
        send_numbers(&peer(), socket.local_address(&lp).unwrap(), 20);
        run_to_end(&lp);
        let mut expected: Vec<_> = numbers(0..5).into_iter().map(Heard::Datagram).collect();
        expected.push(Heard::Close);
        assert_eq!(heard.take(), expected);
        assert_eq!(heard.holders(), 0, "the handler is dropped");
    });
}

#[test]
fn a_datagrams_callback_may_close_another_socket() {
    each_driver(|lp| {
        let heard = Shared::default();
        let other = UdpSocket::bind(&lp, any(), Note::new(&heard)).unwrap();
        let closer = Note::new(&heard).on_datagram(move |lp, _, _| lp.close(other).unwrap_or(()));
        let socket = UdpSocket::bind(&lp, any(), closer).unwrap();
        let peer = peer();
        for to in [socket, other] {
            peer.send_to(b"x", to.local_address(&lp).unwrap()).unwrap();
        }
        run_until(&lp, || heard.with(|heard| heard.contains(&Heard::Close)));
        some_turns(&lp);
        let datagrams = datagrams(&heard).len();
        assert!((1..=2).contains(&datagrams));
        assert_eq!(
            heard
                .get()
                .iter()
                .filter(|heard| **heard == Heard::Close)
                .count(),
            1
        );
    });
}

#[test]
fn receiving_stopped_in_the_middle_of_a_batch_goes_on_where_it_was() {
    each_driver(|lp| {
        let heard = Shared::default();
        let handler = Note::new(&heard).on_datagram(|lp, socket, data| {
            if data.len() == 1 {
                socket.receive_stop(lp).unwrap();
            }
        });
        let socket = UdpSocket::bind(&lp, any(), handler).unwrap();
        send_numbers(&peer(), socket.local_address(&lp).unwrap(), 40);
        for stops in 1..=10 {
            // Nothing keeps the loop alive, and nothing comes, while it is stopped.
            run_to_end(&lp);
            assert!(!lp.is_active(socket).unwrap());
            some_turns(&lp);
            assert_eq!(datagrams(&heard), numbers(0..stops));
            socket.receive_start(&lp).unwrap();
            socket.receive_start(&lp).unwrap();
            assert!(lp.is_active(socket).unwrap());
            assert_eq!(heard.len(), stops, "never inside the call");
        }
        run_until(&lp, || heard.len() == 40);
        assert_eq!(datagrams(&heard), numbers(0..40));
    });
}

#[test]
fn receiving_stopped_and_started_in_one_callback_loses_and_doubles_nothing() {
    each_driver(|lp| {
        let heard = Shared::default();
        let handler = Note::new(&heard).on_datagram(|lp, socket, _| {
            socket.receive_stop(lp).unwrap();
            socket.receive_start(lp).unwrap();
        });
        let socket = UdpSocket::bind(&lp, any(), handler).unwrap();
        send_numbers(&peer(), socket.local_address(&lp).unwrap(), 150);
        run_until(&lp, || heard.len() == 150);
        assert_eq!(datagrams(&heard), numbers(0..150));
        some_turns(&lp);
        assert_eq!(heard.len(), 150);
    });
}

#[test]
fn a_handler_that_does_not_receive_does_when_it_is_started() {
    each_driver(|lp| {
        let heard = Shared::default();
        let socket = UdpSocket::bind(&lp, any(), Note::new(&heard).not_receiving()).unwrap();
        send_numbers(&peer(), socket.local_address(&lp).unwrap(), 3);
        run_to_end(&lp);
        assert!(heard.is_empty());
        socket.receive_start(&lp).unwrap();
        run_until(&lp, || heard.len() == 3);
    });
}

#[test]
fn a_panic_in_the_middle_of_a_batch_loses_nothing() {
    each_driver(|lp| {
        let heard = Shared::default();
        let (peer, mut panics) = (peer(), 0);
        let answers = address_of(&peer);
        let handler = Note::new(&heard).on_datagram(move |lp, socket, data| {
            socket.send_to(lp, &data, answers).unwrap();
            if data.len() == 1 {
                panics += 1;
                panic!("on purpose, {panics}");
            }
        });
        let socket = UdpSocket::bind(&lp, any(), handler).unwrap();
        send_numbers(&peer, socket.local_address(&lp).unwrap(), 50);
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let mut caught = 0;
        while heard.len() < 50 {
            caught +=
                usize::from(catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::Once))).is_err());
        }
        std::panic::set_hook(quiet);
        assert_eq!(caught, 10);
        assert_eq!(datagrams(&heard), numbers(0..50));
        // What was sent before the panic went out, too.
        for expected in numbers(0..50) {
            assert_eq!(received(&peer), expected);
        }
    });
}

#[test]
fn another_handler_gets_the_rest_of_the_batch() {
    each_driver(|lp| {
        let (first, second) = (Shared::default(), Shared::default());
        let next = Shared::new(Some(Note::new(&second)));
        let handler = Note::new(&first).on_datagram(move |lp, socket, data| {
            if data == b"2" {
                let next = next.with(Option::take).unwrap();
                socket.attach(lp, next).unwrap();
            }
        });
        let socket = UdpSocket::bind(&lp, any(), handler).unwrap();
        send_numbers(&peer(), socket.local_address(&lp).unwrap(), 10);
        run_until(&lp, || second.len() == 7);
        assert_eq!(datagrams(&first), numbers(0..3));
        assert_eq!(datagrams(&second), numbers(3..10));
        assert_eq!(first.holders(), 0, "the first one is dropped");
    });
}

#[test]
fn a_flood_to_one_socket_does_not_starve_the_others() {
    each_driver(|lp| {
        let (flooded, quiet) = (Shared::<usize>::default(), Shared::<usize>::default());
        let count = flooded.clone();
        let options = UdpOptions {
            receive_buffer: Some(4 * 1024 * 1024),
            ..Default::default()
        };
        let busy = UdpSocket::bind_with(
            &lp,
            any(),
            &options,
            move |_: &Loop, _, _: &Datagram<'_>| count.add(),
        )
        .unwrap();
        let count = quiet.clone();
        let calm =
            UdpSocket::bind(&lp, any(), move |_: &Loop, _, _: &Datagram<'_>| count.add()).unwrap();
        let peer = peer();
        for _ in 0..200 {
            peer.send_to(b"flood", busy.local_address(&lp).unwrap())
                .unwrap();
        }
        peer.send_to(b"one", calm.local_address(&lp).unwrap())
            .unwrap();
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(quiet.get(), 1);
        assert!((1..200).contains(&flooded.get()), "{}", flooded.get());
        let timer = Shared::default();
        let note = timer.clone();
        Timer::after(&lp, Duration::ZERO, move |_| note.set(true)).unwrap();
        lp.run(RunMode::NoWait).unwrap();
        assert!(timer.get());
        run_until(&lp, || flooded.get() == 200);
    });
}

#[test]
fn a_connected_socket_only_hears_its_peer() {
    each_driver(|lp| {
        let (one, two, heard) = (peer(), peer(), Shared::default());
        let socket = UdpSocket::bind(&lp, any(), Note::new(&heard)).unwrap();
        let address = socket.local_address(&lp).unwrap();
        socket.connect_to(&lp, address_of(&one)).unwrap();
        two.send_to(b"from two", address).unwrap();
        one.send_to(b"from one", address).unwrap();
        run_until(&lp, || !heard.is_empty());
        some_turns(&lp);
        assert_eq!(datagrams(&heard), [b"from one"]);
        // To another peer, without disconnecting first.
        heard.take();
        socket.connect_to(&lp, address_of(&two)).unwrap();
        socket.send(&lp, b"to two").unwrap();
        assert_eq!(received(&two), b"to two");
        two.send_to(b"from two", address).unwrap();
        run_until(&lp, || !heard.is_empty());
        // And back: the address, which the system had chosen, is the same.
        heard.take();
        socket.disconnect(&lp).unwrap();
        socket.disconnect(&lp).unwrap();
        assert_eq!(socket.local_address(&lp), Ok(address));
        assert_eq!(code(socket.peer_address(&lp)), Code::ENOTCONN);
        assert_eq!(code(socket.send(&lp, b"whereto?")), Code::EDESTADDRREQ);
        one.send_to(b"from one", address).unwrap();
        run_until(&lp, || !heard.is_empty());
    });
}

/// An address at which nobody is, on a port that nobody gets soon.
fn nobody() -> SocketAddr {
    let socket = peer();
    address_of(&socket)
}

#[test]
fn a_refused_datagram_is_told_and_the_socket_lives_on() {
    each_driver(|lp| {
        let heard = Shared::default();
        let nobody = nobody();
        let socket = UdpSocket::connect(&lp, nobody, Note::new(&heard)).unwrap();
        for _ in 0..3 {
            heard.take();
            socket.send(&lp, b"hello?").unwrap();
            run_until(&lp, || !heard.is_empty());
            assert_eq!(
                heard.get(),
                [Heard::Error(Code::ECONNREFUSED, Some(nobody))]
            );
        }
        let peer = peer();
        socket.connect_to(&lp, address_of(&peer)).unwrap();
        socket.send(&lp, b"still here").unwrap();
        assert_eq!(received(&peer), b"still here");
    });
}

#[test]
fn an_old_error_does_not_cost_the_next_datagram() {
    each_driver(|lp| {
        let heard = Shared::default();
        let peer = peer();
        let there = address_of(&peer);
        // Without receiving, the error of the first is only met by the second.
        let socket = UdpSocket::connect(&lp, there, Note::new(&heard).not_receiving()).unwrap();
        drop(peer);
        socket.send(&lp, b"refused").unwrap();
        let peer = peer_at(&there.to_string());
        socket.send(&lp, b"arrives").unwrap();
        assert_eq!(received(&peer), b"arrives");
        run_to_end(&lp);
        assert_eq!(
            heard.take(),
            [Heard::Error(Code::ECONNREFUSED, Some(there))]
        );
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_that_is_not_connected_hears_which_destination_refused() {
    each_driver(|lp| {
        let (heard, by) = (Shared::default(), Shared::default());
        let note = by.clone();
        let handler = Note::new(&heard).on_error(move |_, _, error| note.push(error.by));
        let options = UdpOptions {
            report_errors: true,
            ..Default::default()
        };
        let socket = UdpSocket::bind_with(&lp, any(), &options, handler).unwrap();
        let (one, two, peer) = (nobody(), nobody(), peer());
        let (hello, here) = (socket.local_address(&lp).unwrap(), address_of(&peer));
        for to in [one, two, here] {
            socket.send_to(&lp, b"hello?", to).unwrap();
        }
        peer.send_to(b"yes", hello).unwrap();
        run_until(&lp, || heard.len() == 3);
        some_turns(&lp);
        let heard = heard.take();
        for refused in [one, two] {
            assert!(
                heard.contains(&Heard::Error(Code::ECONNREFUSED, Some(refused))),
                "{heard:?}"
            );
        }
        assert!(heard.contains(&Heard::Datagram(b"yes".to_vec())));
        let localhost: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(by.take(), [Some(localhost); 2]);
        assert_eq!(received(&peer), b"hello?");
    });
}

#[test]
fn what_the_system_refuses_is_told_with_its_address() {
    each_driver(|lp| {
        let heard = Shared::default();
        let (count, peer) = (Shared::default(), peer());
        let note = count.clone();
        let handler = Note::new(&heard).on_error(move |_, _, error| note.set(error.count));
        let socket = UdpSocket::bind(&lp, any(), handler.not_receiving()).unwrap();
        let broadcast: SocketAddr = "255.255.255.255:9".parse().unwrap();
        let there = address_of(&peer);
        in_callback(&lp, move |lp| {
            for _ in 0..5 {
                socket.send_to(lp, b"refused", broadcast).unwrap();
            }
            socket.send_to(lp, b"arrives", there).unwrap();
        });
        run_to_end(&lp);
        assert_eq!(heard.take(), [Heard::Error(Code::EACCES, Some(broadcast))]);
        assert_eq!(count.get(), 5, "told once for all five");
        assert_eq!(received(&peer), b"arrives");
        let to = Transmit::to(broadcast);
        assert_eq!(code(socket.try_send(&lp, b"refused", &to)), Code::EACCES);
        run_to_end(&lp);
        assert!(heard.is_empty(), "the caller knows");
    });
}

#[test]
fn what_no_datagram_can_hold_is_refused_at_the_call() {
    each_driver(|lp| {
        let peer = peer();
        let socket = UdpSocket::bind(&lp, any(), nothing).unwrap();
        let to = address_of(&peer);
        let most = vec![7; 65_507];
        assert_eq!(
            code(socket.send_to(&lp, &vec![7; 65_508], to)),
            Code::EMSGSIZE
        );
        socket.send_to(&lp, &most, to).unwrap();
        assert!(received(&peer) == most);
        let ipv6: SocketAddr = "[::1]:9".parse().unwrap();
        assert_eq!(code(socket.send_to(&lp, b"x", ipv6)), Code::EAFNOSUPPORT);
        assert_eq!(code(socket.connect_to(&lp, ipv6)), Code::EAFNOSUPPORT);
        assert_eq!(code(socket.send(&lp, b"x")), Code::EDESTADDRREQ);
    });
}

#[test]
fn the_bound_of_the_queue_counts_what_is_gathered() {
    each_driver(|lp| {
        let peer = peer();
        let to = address_of(&peer);
        let socket = UdpSocket::bind(&lp, any(), nothing).unwrap();
        for (low, high, limit) in [(2, 1, 3), (1, 4, 3), (0, 0, 3)] {
            assert_eq!(
                code(socket.set_watermarks(&lp, low, high, limit)),
                Code::EINVAL
            );
        }
        // A datagram counts for its bytes and 64 more.
        socket.set_watermarks(&lp, 0, 100, 200).unwrap();
        in_callback(&lp, move |lp| {
            socket.send_to(lp, &[1; 36], to).unwrap();
            assert_eq!(socket.queued(lp), Ok(100));
            socket.send_to(lp, &[2; 36], to).unwrap();
            assert_eq!(code(socket.send_to(lp, &[], to)), Code::ENOBUFS);
        });
        assert_eq!(socket.queued(&lp), Ok(0));
        assert_eq!(code(socket.send_to(&lp, &[3; 137], to)), Code::ENOBUFS);
        assert_eq!(
            (received(&peer), received(&peer)),
            (vec![1; 36], vec![2; 36])
        );
    });
}

#[cfg(target_os = "linux")]
#[test]
fn where_and_how_a_datagram_came_is_told_on_request() {
    for (bind, peer, to) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.2"),
        ("[::]:0", "[::1]:0", "::1"),
        // IPv4 on an IPv6 socket.
        ("[::]:0", "127.0.0.1:0", "127.0.0.3"),
    ] {
        each_driver(|lp| {
            let seen = Shared::default();
            let note = seen.clone();
            let options = UdpOptions {
                receive_info: true,
                receive_tos: true,
                ..Default::default()
            };
            let handler = move |lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>| {
                note.push((
                    datagram.to,
                    datagram.interface,
                    datagram.tos,
                    datagram.ecn(),
                ));
                // The answer comes from where the question went.
                let transmit = Transmit {
                    source: datagram.to,
                    interface: datagram.interface,
                    tos: Some(0x2a << 2 | 1),
                    ..Transmit::to(datagram.from)
                };
                socket.send_with(lp, b"answer", &transmit).unwrap();
            };
            let socket =
                UdpSocket::bind_with(&lp, bind.parse().unwrap(), &options, handler).unwrap();
            let port = socket.local_address(&lp).unwrap().port();
            let to: IpAddr = to.parse().unwrap();

            let sent_tos = Shared::default();
            let note = sent_tos.clone();
            let client = move |_: &Loop, _: UdpSocket, datagram: &Datagram<'_>| {
                note.push((datagram.from, datagram.tos, datagram.data.to_vec()));
            };
            let client =
                UdpSocket::bind_with(&lp, peer.parse().unwrap(), &options, client).unwrap();
            client.set_tos(&lp, 0x0b << 2 | 2).unwrap();
            client
                .send_to(&lp, b"question", SocketAddr::new(to, port))
                .unwrap();
            run_until(&lp, || !sent_tos.is_empty());
            let [(at, interface, tos, ecn)] = seen.take()[..] else {
                panic!("one question")
            };
            assert_eq!(at.unwrap().to_canonical(), to);
            assert_eq!(interface, loopback_interface());
            assert_eq!((tos, ecn), (Some(0x0b << 2 | 2), Some(2)));
            let [(from, tos, data)] = &sent_tos.take()[..] else {
                panic!("one answer")
            };
            assert_eq!(from.ip().to_canonical(), to);
            assert_eq!((*tos, &data[..]), (Some(0x2a << 2 | 1), &b"answer"[..]));
        });
    }
}

#[cfg(target_os = "linux")]
fn loopback_interface() -> u32 {
    unsafe { libc::if_nametoindex(c"lo".as_ptr()) }
}

#[test]
fn an_ipv6_socket_carries_ipv4_unless_it_must_not() {
    each_driver(|lp| {
        let (heard, peer) = (Shared::default(), peer());
        let socket = UdpSocket::bind(&lp, "[::]:0".parse().unwrap(), Note::new(&heard)).unwrap();
        let port = socket.local_address(&lp).unwrap().port();
        peer.send_to(b"hello", ("127.0.0.1", port)).unwrap();
        run_until(&lp, || !heard.is_empty());
        // To an IPv4 address in either form, and connected to one.
        let there = address_of(&peer);
        let mapped = format!("[::ffff:127.0.0.1]:{}", there.port())
            .parse()
            .unwrap();
        socket.send_to(&lp, b"plain", there).unwrap();
        socket.send_to(&lp, b"mapped", mapped).unwrap();
        socket.connect_to(&lp, there).unwrap();
        socket.send(&lp, b"connected").unwrap();
        for expected in [&b"plain"[..], b"mapped", b"connected"] {
            assert_eq!(received(&peer), expected);
        }
        let options = UdpOptions {
            ipv6_only: true,
            ..Default::default()
        };
        let only = UdpSocket::bind_with(&lp, "[::]:0".parse().unwrap(), &options, nothing).unwrap();
        assert!(SockRef::from(&Borrowed(only.raw_socket(&lp).unwrap()))
            .only_v6()
            .unwrap());
    });
}

/// A descriptor that is looked at.
struct Borrowed(std::os::fd::RawFd);

impl std::os::fd::AsFd for Borrowed {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn groups_are_joined_and_left_by_interface_and_by_source() {
    let interface = loopback_interface();
    for (bind, group, us, other) in [
        ("0.0.0.0:0", "239.12.7.3", "127.0.0.1", "127.0.0.2"),
        ("[::]:0", "ff31::4807", "::1", "::2"),
    ] {
        // Few systems route IPv6 groups to the loopback interface: only that the options are right is seen there.
        let delivers = bind.starts_with('0');
        each_driver(|lp| {
            let group: IpAddr = group.parse().unwrap();
            let [us, other]: [IpAddr; 2] = [us.parse().unwrap(), other.parse().unwrap()];
            let heard = Shared::default();
            let options = UdpOptions {
                reuse_address: true,
                ..Default::default()
            };
            let socket =
                UdpSocket::bind_with(&lp, bind.parse().unwrap(), &options, Note::new(&heard))
                    .unwrap();
            let raw = Borrowed(socket.raw_socket(&lp).unwrap());
            let raw = SockRef::from(&raw);
            // Only what this socket joined.
            match group {
                IpAddr::V4(_) => raw.set_multicast_all_v4(false).unwrap(),
                IpAddr::V6(_) => raw.set_multicast_all_v6(false).unwrap(),
            }
            let port = socket.local_address(&lp).unwrap().port();
            let sender = UdpSocket::bind(&lp, SocketAddr::new(us, 0), nothing).unwrap();
            sender.set_multicast_interface(&lp, interface).unwrap();
            sender.set_multicast_ttl(&lp, 0).unwrap();
            sender.set_multicast_loop(&lp, true).unwrap();
            let hears = |expected: bool| {
                if !delivers {
                    return;
                }
                heard.take();
                sender
                    .send_to(&lp, b"all", SocketAddr::new(group, port))
                    .unwrap();
                // What was sent after it has come: then it would be there.
                sender
                    .send_to(&lp, b"end", SocketAddr::new(us, port))
                    .unwrap();
                run_until(&lp, || datagrams(&heard).iter().any(|data| data == b"end"));
                assert_eq!(
                    datagrams(&heard).iter().any(|data| data == b"all"),
                    expected
                );
            };
            hears(false);
            socket.join(&lp, group, None, interface).unwrap();
            hears(true);
            assert_eq!(
                code(socket.join(&lp, group, None, interface)),
                Code::EADDRINUSE
            );
            sender.set_multicast_loop(&lp, true).unwrap();
            socket.leave(&lp, group, None, interface).unwrap();
            hears(false);
            assert_eq!(
                code(socket.leave(&lp, group, None, interface)),
                Code::EADDRNOTAVAIL
            );
            socket.join(&lp, group, Some(other), interface).unwrap();
            hears(false);
            socket.join(&lp, group, Some(us), interface).unwrap();
            hears(true);
            socket.leave(&lp, group, Some(us), interface).unwrap();
            hears(false);
            let no_group = us;
            assert_eq!(
                code(socket.join(&lp, no_group, None, interface)),
                Code::EINVAL
            );
            let mixed = if us.is_ipv4() { "::1" } else { "127.0.0.1" };
            assert_eq!(
                code(socket.join(&lp, group, mixed.parse().ok(), interface)),
                Code::EINVAL
            );
        });
    }
}

#[test]
fn options_reach_the_socket() {
    each_driver(|lp| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let options = UdpOptions {
                reuse_address: true,
                broadcast: true,
                send_buffer: Some(50_000),
                receive_buffer: Some(60_000),
                ..Default::default()
            };
            let socket =
                UdpSocket::bind_with(&lp, address.parse().unwrap(), &options, nothing).unwrap();
            let raw = Borrowed(socket.raw_socket(&lp).unwrap());
            let raw = SockRef::from(&raw);
            assert!(
                raw.reuse_address().unwrap()
                    && raw.broadcast().unwrap()
                    && raw.nonblocking().unwrap()
            );
            let (send, receive) = socket.buffers(&lp).unwrap();
            assert!(send >= 50_000 && receive >= 60_000, "{send} {receive}");
            socket.set_buffers(&lp, None, Some(80_000)).unwrap();
            assert!(socket.buffers(&lp).unwrap().1 >= 80_000);
            socket.set_broadcast(&lp, false).unwrap();
            assert!(!raw.broadcast().unwrap());
            socket.set_ttl(&lp, 7).unwrap();
            socket.set_multicast_ttl(&lp, 9).unwrap();
            socket.set_multicast_loop(&lp, false).unwrap();
            let found = match socket.local_address(&lp).unwrap() {
                SocketAddr::V4(_) => (
                    raw.ttl_v4().unwrap(),
                    raw.multicast_ttl_v4().unwrap(),
                    raw.multicast_loop_v4().unwrap(),
                ),
                SocketAddr::V6(_) => (
                    raw.unicast_hops_v6().unwrap(),
                    raw.multicast_hops_v6().unwrap(),
                    raw.multicast_loop_v6().unwrap(),
                ),
            };
            assert_eq!(found, (7, 9, false));
            for wrong in [0, 256] {
                assert_eq!(code(socket.set_ttl(&lp, wrong)), Code::EINVAL);
            }
            assert_eq!(code(socket.set_multicast_ttl(&lp, 256)), Code::EINVAL);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_datagram_that_must_not_be_fragmented_and_does_not_fit_is_told_and_nothing_else_is_lost() {
    use kolo::Fragmentation::*;
    each_driver(|lp| {
        let heard = Shared::default();
        let socket = UdpSocket::bind(&lp, any(), Note::new(&heard).not_receiving()).unwrap();
        let option = |name| -> i32 {
            let (mut value, mut length) = (0i32, 4);
            let at = socket.raw_socket(&lp).unwrap();
            let value_at = std::ptr::from_mut(&mut value).cast();
            assert_eq!(
                unsafe { libc::getsockopt(at, libc::IPPROTO_IP, name, value_at, &mut length) },
                0
            );
            value
        };
        for (how, expected) in [
            (Allow, libc::IP_PMTUDISC_DONT),
            (Forbid, libc::IP_PMTUDISC_DO),
            (Probe, libc::IP_PMTUDISC_PROBE),
            (System, libc::IP_PMTUDISC_WANT),
        ] {
            socket.set_fragmentation(&lp, how).unwrap();
            assert_eq!(option(libc::IP_MTU_DISCOVER), expected);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn several_sockets_may_share_an_address() {
    each_driver(|lp| {
        let options = UdpOptions {
            reuse_port: true,
            ..Default::default()
        };
        let heard = Shared::default();
        let first = UdpSocket::bind_with(&lp, any(), &options, Note::new(&heard)).unwrap();
        let address = first.local_address(&lp).unwrap();
        assert_eq!(
            code(UdpSocket::bind(&lp, address, nothing)),
            Code::EADDRINUSE
        );
        let second = UdpSocket::bind_with(&lp, address, &options, Note::new(&heard)).unwrap();
        for _ in 0..50 {
            peer().send_to(b"x", address).unwrap();
        }
        run_until(&lp, || heard.len() == 50);
        lp.close(first).unwrap();
        peer().send_to(b"x", address).unwrap();
        run_until(&lp, || datagrams(&heard).len() == 51);
        lp.close(second).unwrap();
    });
}

#[test]
fn an_adopted_socket_works_and_is_released_again() {
    each_driver(|lp| {
        let (ours, peer, heard) = (
            StdSocket::bind("127.0.0.1:0").unwrap(),
            peer(),
            Shared::default(),
        );
        let address = ours.local_addr().unwrap();
        ours.connect(address_of(&peer)).unwrap();
        let raw = ours.as_raw_fd();
        let socket =
            UdpSocket::adopt(&lp, ours, &UdpOptions::default(), Note::new(&heard)).unwrap();
        assert_eq!(socket.raw_socket(&lp), Ok(raw));
        assert_eq!(socket.peer_address(&lp), Ok(address_of(&peer)));
        socket.send(&lp, b"there").unwrap();
        assert_eq!(received(&peer), b"there");
        peer.send_to(b"back", address).unwrap();
        run_until(&lp, || heard.len() == 1);
        let released = socket.release(&lp).unwrap();
        assert_eq!(code(socket.send(&lp, b"gone")), Code::EBADF);
        run_to_end(&lp);
        assert_eq!(heard.take()[1..], [Heard::Close]);
        // It still works, for whoever has it now.
        let released = StdSocket::from(released);
        assert_eq!(released.local_addr().unwrap(), address);
        peer.send_to(b"again", address).unwrap();
        released.set_nonblocking(false).unwrap();
        assert_eq!(received(&released), b"again");
    });
}

#[test]
fn what_is_no_udp_socket_is_not_adopted() {
    each_driver(|lp| {
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let options = UdpOptions::default();
        assert_eq!(
            code(UdpSocket::adopt(&lp, stream, &options, nothing)),
            Code::EPROTOTYPE
        );
        let (local, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert_eq!(
            code(UdpSocket::adopt(
                &lp,
                Socket::from(local),
                &options,
                nothing
            )),
            Code::EAFNOSUPPORT
        );
        assert!(lp.handles().is_empty());
    });
}

#[test]
fn calls_on_another_kind_of_handle_and_on_a_closed_one_are_refused() {
    each_driver(|lp| {
        let timer = Timer::after(&lp, Duration::from_secs(60), |_| ()).unwrap();
        let closed = UdpSocket::bind(&lp, any(), nothing).unwrap();
        lp.close(closed).unwrap();
        let group = "239.1.1.1".parse().unwrap();
        let transmit = Transmit::to(any());
        for socket in [UdpSocket::from_id(timer.id()), closed] {
            let outcomes = [
                socket.send(&lp, b"").map(drop),
                socket.send_to(&lp, b"", any()).map(drop),
                socket
                    .send_owned(&lp, "", &transmit, |_, _, _| unreachable!())
                    .map(drop),
                socket.try_send(&lp, b"", &transmit),
                socket.connect_to(&lp, any()),
                socket.disconnect(&lp),
                socket.receive_start(&lp),
                socket.receive_stop(&lp),
                socket.attach(&lp, nothing),
                socket.release(&lp).map(drop),
                socket.join(&lp, group, None, 0),
                socket.leave(&lp, group, None, 0),
                socket.set_ttl(&lp, 1),
                socket.set_tos(&lp, 0),
                socket.set_multicast_interface(&lp, 0),
                socket.set_buffers(&lp, None, None),
                socket.set_watermarks(&lp, 1, 2, 3),
                socket.queued(&lp).map(drop),
                socket.local_address(&lp).map(drop),
                socket.peer_address(&lp).map(drop),
                socket.raw_socket(&lp).map(drop),
            ];
            for outcome in outcomes {
                assert_eq!(code(outcome), Code::EBADF);
            }
        }
        let udp = UdpSocket::bind(&lp, any(), nothing).unwrap();
        assert_eq!(
            code(Stream::from_id(udp.id()).write(&lp, b"x")),
            Code::EBADF
        );
    });
}

#[test]
fn a_socket_that_receives_keeps_the_loop_alive_and_one_that_only_sends_does_not() {
    each_driver(|lp| {
        let peer = peer();
        let sender =
            UdpSocket::bind(&lp, any(), Note::new(&Shared::default()).not_receiving()).unwrap();
        sender.send_to(&lp, b"x", address_of(&peer)).unwrap();
        assert!(!lp.is_alive());
        let receiver = UdpSocket::bind(&lp, any(), nothing).unwrap();
        assert!(lp.is_alive());
        lp.unref(receiver).unwrap();
        assert!(!lp.is_alive());
        assert!(lp.describe(receiver).unwrap().contains("receiving"));
    });
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_and_leaves_nothing() {
    each_driver(|lp| {
        let heard = Shared::default();
        // TEST-NET-1 (RFC 5737): nobody's.
        let foreign = "192.0.2.1:0".parse().unwrap();
        assert_eq!(
            code(UdpSocket::bind(&lp, foreign, Note::new(&heard))),
            Code::EADDRNOTAVAIL
        );
        assert_eq!(
            code(UdpSocket::connect(
                &lp,
                "255.255.255.255:1".parse().unwrap(),
                Note::new(&heard)
            )),
            Code::EACCES
        );
        assert!(lp.handles().is_empty());
        assert_eq!(heard.holders(), 0);
        some_turns(&lp);
        assert!(heard.is_empty());
    });
}

#[test]
fn a_loop_dropped_with_everything_in_flight_tells_each_its_last() {
    let heard = Shared::default();
    let outcomes = Shared::default();
    each_driver(|lp| {
        let peer = peer();
        for _ in 0..3 {
            let socket = UdpSocket::bind(&lp, any(), Note::new(&heard)).unwrap();
            send_numbers(&peer, socket.local_address(&lp).unwrap(), 5);
            let note = outcomes.clone();
            let to = Transmit::to(address_of(&peer));
            socket
                .send_owned(&lp, "x", &to, move |_, _, outcome| note.push(outcome))
                .unwrap();
        }
        drop(lp);
        assert_eq!(heard.take(), [Heard::Close, Heard::Close, Heard::Close]);
        assert_eq!(outcomes.take().len(), 3);
        assert_eq!(heard.holders(), 0);
    });
}

#[test]
fn an_ipv6_socket_is_disconnected_too_and_keeps_its_port() {
    each_driver(|lp| {
        let (peer, heard) = (peer_at("[::1]:0"), Shared::default());
        let socket = UdpSocket::bind(&lp, "[::]:0".parse().unwrap(), Note::new(&heard)).unwrap();
        let address = socket.local_address(&lp).unwrap();
        socket.connect_to(&lp, address_of(&peer)).unwrap();
        socket.disconnect(&lp).unwrap();
        assert_eq!(socket.local_address(&lp), Ok(address));
        peer.send_to(b"x", ("::1", address.port())).unwrap();
        run_until(&lp, || !heard.is_empty());
    });
}

/// A handler that does all it may in its callbacks, by chance, and panics now and then.
struct Whimsical {
    got: Shared<Vec<u32>>,
    random: Random,
    answers: SocketAddr,
    panics: bool,
}

impl UdpHandler for Whimsical {
    fn on_datagram(&mut self, lp: &Loop, socket: UdpSocket, datagram: &Datagram<'_>) {
        let number = u32::from_le_bytes(datagram.data[..4].try_into().unwrap());
        self.got.push(number);
        let transmit = Transmit::to(self.answers);
        match self.random.below(5) {
            0 => assert!(socket.send_to(lp, datagram.data, self.answers).is_ok()),
            1 => drop(
                socket
                    .send_owned(lp, datagram.data.to_vec(), &transmit, |_, _, sent| {
                        sent.unwrap()
                    })
                    .unwrap(),
            ),
            2 => socket.try_send(lp, datagram.data, &transmit).unwrap(),
            3 => {
                let (a, b) = datagram.data.split_at(datagram.data.len() / 2);
                let pieces = [io::IoSlice::new(a), io::IoSlice::new(b)];
                socket.send_vectored(lp, &pieces, &transmit).unwrap();
            }
            _ => assert!(socket.send_to(lp, datagram.data, self.answers).is_ok()),
        }
        match self.random.below(12) {
            0 => socket.receive_stop(lp).unwrap(),
            1 => {
                socket.receive_stop(lp).unwrap();
                socket.receive_start(lp).unwrap();
            }
            2 => {
                let next = Whimsical {
                    got: self.got.clone(),
                    random: Random::new(self.random.next()),
                    ..*self
                };
                socket.attach(lp, next).unwrap();
            }
            3 => {
                let start = move |lp: &Loop| socket.receive_start(lp).unwrap_or(());
                lp.defer(start).unwrap();
                socket.receive_stop(lp).unwrap();
            }
            4 if self.panics => std::panic::panic_any(OnPurpose),
            _ => {}
        }
    }
}

struct OnPurpose;

#[test]
fn whatever_callbacks_do_each_datagram_comes_once_and_each_answer_goes_in_its_order() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<OnPurpose>() {
            quiet(info);
        }
    }));
    for seed in 1..60 {
        each_driver(|lp| {
            let mut random = Random::new(seed);
            let (peer, got) = (peer(), Shared::default());
            let handler = Whimsical {
                got: got.clone(),
                random: Random::new(random.next()),
                answers: address_of(&peer),
                panics: seed % 2 == 0,
            };
            let socket = UdpSocket::bind(&lp, any(), handler).unwrap();
            let to = socket.local_address(&lp).unwrap();
            // From a socket of kolo's too, so that they come put together.
            let sender = UdpSocket::connect(&lp, to, nothing).unwrap();
            lp.unref(sender).unwrap();
            let mut sent = 0u32;
            for _ in 0..6 {
                let lengths: Vec<_> = (0..random.below(80))
                    .map(|_| [4, 4, 4, 64, 700][random.below(5)])
                    .collect();
                let datagrams: Vec<_> = lengths
                    .into_iter()
                    .map(|length| {
                        let mut bytes = vec![7; length];
                        bytes[..4].copy_from_slice(&sent.to_le_bytes());
                        sent += 1;
                        bytes
                    })
                    .collect();
                lp.defer(move |lp: &Loop| {
                    for datagram in &datagrams {
                        sender.send(lp, datagram).unwrap();
                    }
                })
                .unwrap();
                // All of it, through stops and panics.
                while got.len() < sent as usize {
                    match catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::NoWait))) {
                        Ok(_) => socket.receive_start(&lp).unwrap(),
                        Err(payload) => assert!(payload.is::<OnPurpose>()),
                    }
                }
            }
            assert_eq!(got.get(), (0..sent).collect::<Vec<_>>(), "seed {seed}");
            for number in 0..sent {
                assert_eq!(received(&peer)[..4], number.to_le_bytes(), "seed {seed}");
            }
        });
    }
}

#[test]
fn a_forked_child_goes_on_with_the_sockets() {
    in_own_process!(|| each_driver(|lp| {
        let (peer, heard) = (peer(), Shared::default());
        let echo = Note::new(&heard).on_datagram({
            let to = address_of(&peer);
            move |lp, socket, data| assert!(socket.send_to(lp, &data, to).is_ok())
        });
        let socket = UdpSocket::bind(&lp, any(), echo).unwrap();
        let address = socket.local_address(&lp).unwrap();
        peer.send_to(b"parent", address).unwrap();
        run_until(&lp, || heard.len() == 1);
        assert_eq!(received(&peer), b"parent");
        match unsafe { libc::fork() } {
            0 => {
                unsafe { libc::alarm(50) };
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    assert_eq!(code(socket.send_to(&lp, b"x", address)), Code::EFORKED);
                    assert_eq!(code(UdpSocket::bind(&lp, any(), nothing)), Code::EFORKED);
                    lp.forked().unwrap();
                    peer.send_to(b"child", address).unwrap();
                    run_until(&lp, || heard.len() == 2);
                    lp.close(socket).unwrap();
                    run_to_end(&lp);
                }));
                unsafe { libc::_exit(i32::from(outcome.is_err())) }
            }
            child => {
                let mut status = 0;
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "the child failed");
            }
        }
        assert_eq!(received(&peer), b"child");
        // The child's closing was its own affair.
        peer.send_to(b"parent again", address).unwrap();
        run_until(&lp, || heard.len() == 2);
        assert_eq!(received(&peer), b"parent again");
    }));
}
