//! TCP connections: making them, adopting and releasing them, their options and addresses.

#![cfg(all(unix, feature = "net"))]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use common::*;
use kolo::{Code, ConnectOptions, Keepalive, Loop, RunMode, Stream, TcpStream, Timer};
use socket2::{Domain, SockRef, Socket, Type};

#[test]
fn on_open_comes_when_the_connection_is_made_over_ipv4_and_ipv6() {
    each_driver(|lp| {
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let (listener, address) = listen_at(ip);
            let log = Log::default();
            let checked = log.clone();
            let script = Script::new(&log).on_open(move |lp, stream| {
                let tcp = TcpStream::from_id(stream.id());
                assert_eq!(tcp.peer_address(lp).unwrap(), address);
                assert_eq!(tcp.local_address(lp).unwrap().ip(), ip);
                assert_eq!(checked.events(), [Event::Open]);
            });
            let tcp = TcpStream::connect(&lp, address, script).unwrap();
            assert_eq!(log.events(), [], "not inside the call");
            assert!(lp.is_active(tcp).unwrap());
            run_until(&lp, || log.has(&Event::Open));
            let (mut peer, from) = listener.accept().unwrap();
            assert_eq!(from, tcp.local_address(&lp).unwrap());
            tcp.write(&lp, b"to the peer").unwrap();
            assert_eq!(read_from_peer(&lp, &peer, 11), b"to the peer");
            peer.write_all(b"from the peer").unwrap();
            run_until(&lp, || log.data() == b"from the peer");
            lp.close(tcp).unwrap();
            run_to_end(&lp);
            assert_eq!(log.without_data(), [Event::Open, Event::Close]);
        }
    });
}

#[test]
fn writes_before_the_connection_is_made_are_sent_then() {
    each_driver(|lp| {
        let (listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let tcp = TcpStream::connect(&lp, address, Script::new(&log)).unwrap();
        tcp.write(&lp, &pattern(0, 100_000)).unwrap();
        tcp.write_owned(&lp, pattern(100_000, 10), log.done(0))
            .unwrap();
        assert_eq!(tcp.queued(&lp).unwrap(), 100_010);
        tcp.shutdown(&lp, log.done(1)).unwrap();
        // Adopted by the same loop, the accepted socket reads while the other sends.
        let (peer, _) = listener.accept().unwrap();
        let received = Log::default();
        let script = Script::new(&received).on_end(|lp, stream| lp.close(stream).unwrap());
        TcpStream::adopt(&lp, peer, script).unwrap();
        run_until(&lp, || received.closed() && log.has(&Event::End));
        assert_eq!(received.data().len(), 100_010);
        assert_pattern(&received.data(), 0);
        let mut events = log.without(&Event::Drain);
        events.retain(|event| *event != Event::End);
        assert_eq!(
            events,
            [Event::Open, Event::Done(0, Ok(())), Event::Done(1, Ok(()))]
        );
    });
}

#[test]
fn a_refused_connection_is_an_error_of_the_handlers() {
    each_driver(|lp| {
        let log = Log::default();
        let (_holder, address) = nobody(LOCALHOST);
        let tcp = TcpStream::connect(&lp, address, Script::new(&log)).unwrap();
        tcp.write_owned(&lp, "never", log.done(0)).unwrap();
        assert_eq!(log.events(), [], "not inside the call");
        run_to_end(&lp);
        let refused = Code::ECONNREFUSED;
        assert_eq!(
            log.events(),
            [
                Event::Error(refused),
                Event::Done(0, Err(refused)),
                Event::Close
            ]
        );
    });
}

#[test]
fn what_the_network_refuses_at_once_comes_to_on_error_too() {
    each_driver(|lp| {
        // TCP cannot connect to a broadcast address: Linux says so without sending anything.
        let log = Log::default();
        let address = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
        TcpStream::connect(&lp, address, Script::new(&log)).unwrap();
        assert_eq!(log.events(), []);
        run_to_end(&lp);
        assert_eq!(
            log.events(),
            [Event::Error(Code::ENETUNREACH), Event::Close]
        );
    });
}

#[test]
fn a_connect_that_takes_too_long_times_out() {
    each_driver(|lp| {
        let unresponsive = Unresponsive::new(LOCALHOST);
        let log = Log::default();
        let timeout = Duration::from_millis(30);
        let options = ConnectOptions {
            timeout: Some(timeout),
            ..ConnectOptions::default()
        };
        let started = Instant::now();
        let tcp = TcpStream::connect_with(&lp, unresponsive.address, &options, Script::new(&log))
            .unwrap();
        tcp.write_owned(&lp, "never", log.done(0)).unwrap();
        assert_eq!(code(tcp.peer_address(&lp)), Code::ENOTCONN);
        assert_eq!(code(tcp.release(&lp)), Code::EBUSY);
        // The timeouts of an open stream do not count yet.
        tcp.set_timeouts(
            &lp,
            Some(Duration::from_nanos(1)),
            Some(Duration::from_nanos(1)),
        )
        .unwrap();
        run_to_end(&lp);
        assert!(started.elapsed() >= timeout, "early");
        let late = Code::ETIMEDOUT;
        assert_eq!(
            log.events(),
            [Event::Error(late), Event::Done(0, Err(late)), Event::Close]
        );
    });
}

#[test]
fn the_connect_timeout_is_over_when_the_connection_is_made() {
    each_driver(|lp| {
        let (listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let timeout = Duration::from_secs(40);
        let options = ConnectOptions {
            timeout: Some(timeout),
            ..ConnectOptions::default()
        };
        let tcp = TcpStream::connect_with(&lp, address, &options, Script::new(&log)).unwrap();
        assert!(lp.backend_timeout().unwrap() <= timeout);
        run_until(&lp, || log.has(&Event::Open));
        // Nothing is left that would end a wait.
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(lp.backend_timeout(), None);
        // Nor does its clock run on under the stream's own timeouts.
        tcp.set_timeouts(&lp, Some(Duration::from_millis(5)), None)
            .unwrap();
        run_until(&lp, || log.has(&Event::Timeout(kolo::Timeout::Read)));
        drop(listener);
    });
}

#[test]
fn a_connect_can_be_closed_before_it_is_made() {
    each_driver(|lp| {
        let unresponsive = Unresponsive::new(LOCALHOST);
        let log = Log::default();
        let tcp = TcpStream::connect(&lp, unresponsive.address, Script::new(&log)).unwrap();
        tcp.write_owned(&lp, "never", log.done(0)).unwrap();
        lp.run(RunMode::NoWait).unwrap();
        lp.close(tcp).unwrap();
        run_to_end(&lp);
        assert_eq!(
            log.events(),
            [Event::Done(0, Err(Code::ECANCELED)), Event::Close]
        );
    });
}

#[test]
fn reading_can_be_stopped_before_the_connection_is_made() {
    each_driver(|lp| {
        let (listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let tcp = TcpStream::connect(&lp, address, Script::new(&log)).unwrap();
        tcp.read_stop(&lp).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"early").unwrap();
        run_until(&lp, || log.has(&Event::Open));
        some_turns(&lp);
        assert_eq!(log.events(), [Event::Open]);
        tcp.read_start(&lp).unwrap();
        run_until(&lp, || log.data() == b"early");
    });
}

#[test]
fn the_local_address_can_be_chosen() {
    each_driver(|lp| {
        let (listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let connect = |local: &str, reuse_address| {
            let options = ConnectOptions {
                local: Some(local.parse().unwrap()),
                reuse_address,
                ..ConnectOptions::default()
            };
            TcpStream::connect_with(&lp, address, &options, Script::new(&log))
        };
        // Another address of the loopback than would be chosen.
        let tcp = connect("127.0.0.2:0", true).unwrap();
        run_until(&lp, || log.has(&Event::Open));
        let (_peer, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(from, tcp.local_address(&lp).unwrap());

        // Local errors come from the call.
        let held = listen_at(LOCALHOST).0;
        let taken = held.local_addr().unwrap().to_string();
        assert_eq!(code(connect(&taken, false)), Code::EADDRINUSE);
        // An address for documentation (RFC 5737), which no machine has.
        assert_eq!(code(connect("192.0.2.1:0", false)), Code::EADDRNOTAVAIL);
        assert_eq!(code(connect("[::1]:0", false)), Code::EINVAL);
        let before = lp.metrics().handles;
        assert_eq!(before, 1, "a connect that fails leaves no handle");
        // The port of a connection that was closed here, and waits out its time.
        lp.close(tcp).unwrap();
        drop(_peer);
        let log = Log::default();
        let options = ConnectOptions {
            local: Some(from),
            reuse_address: true,
            ..ConnectOptions::default()
        };
        let (_other, other) = listen_at(LOCALHOST);
        TcpStream::connect_with(&lp, other, &options, Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open));
    });
}

/// To look at the socket's options.
fn options_of<'a>(lp: &Loop, tcp: TcpStream) -> SockRef<'a> {
    let descriptor = unsafe { BorrowedFd::borrow_raw(tcp.raw_socket(lp).unwrap()) };
    // Lives no longer than the test holds the stream.
    unsafe { std::mem::transmute(SockRef::from(&descriptor)) }
}

#[test]
fn options_reach_the_socket() {
    each_driver(|lp| {
        let (_listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let tcp = TcpStream::connect(&lp, address, Script::new(&log)).unwrap();
        let socket = options_of(&lp, tcp);
        assert!(socket.tcp_nodelay().unwrap(), "as kolo makes connections");
        assert!(socket.nonblocking().unwrap());
        tcp.set_nodelay(&lp, false).unwrap();
        assert!(!socket.tcp_nodelay().unwrap());
        tcp.set_nodelay(&lp, true).unwrap();
        assert!(socket.tcp_nodelay().unwrap());

        let keepalive = Keepalive {
            idle: Duration::from_secs(30),
            interval: Some(Duration::from_secs(5)),
            count: Some(3),
        };
        tcp.set_keepalive(&lp, Some(keepalive)).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(30)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(5)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        tcp.set_keepalive(&lp, None).unwrap();
        assert!(!socket.keepalive().unwrap());
        let zero = Keepalive {
            idle: Duration::ZERO,
            interval: None,
            count: None,
        };
        assert_eq!(code(tcp.set_keepalive(&lp, Some(zero))), Code::EINVAL);

        tcp.set_reset_on_close(&lp, true).unwrap();
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        tcp.set_reset_on_close(&lp, false).unwrap();
        assert_eq!(socket.linger().unwrap(), None);

        let before = tcp.buffers(&lp).unwrap();
        tcp.set_buffers(&lp, Some(20_000), None).unwrap();
        assert_eq!(tcp.buffers(&lp).unwrap().1, before.1);
        tcp.set_buffers(&lp, None, Some(30_000)).unwrap();
        // Linux doubles what is asked for, to have room for its bookkeeping.
        assert_eq!(tcp.buffers(&lp).unwrap(), (40_000, 60_000));

        let options = ConnectOptions {
            delay: true,
            send_buffer: Some(10_000),
            receive_buffer: Some(12_000),
            ..ConnectOptions::default()
        };
        let other = TcpStream::connect_with(&lp, address, &options, Script::new(&log)).unwrap();
        assert!(!options_of(&lp, other).tcp_nodelay().unwrap());
        assert_eq!(other.buffers(&lp).unwrap(), (20_000, 24_000));
    });
}

#[test]
fn descriptors_are_not_inherited_by_programs() {
    each_driver(|lp| {
        let (_listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let tcp = TcpStream::connect(&lp, address, Script::new(&log)).unwrap();
        let flags = unsafe { libc::fcntl(tcp.raw_socket(&lp).unwrap(), libc::F_GETFD) };
        assert_ne!(flags & libc::FD_CLOEXEC, 0);
    });
}

#[test]
fn an_adopted_socket_is_a_stream_without_on_open() {
    each_driver(|lp| {
        let (ours, mut peer) = socket_pair();
        peer.write_all(b"was there before").unwrap();
        let log = Log::default();
        let tcp = TcpStream::adopt(&lp, ours, Script::new(&log)).unwrap();
        assert_eq!(log.events(), [], "not inside the call");
        run_until(&lp, || log.data() == b"was there before");
        assert_eq!(tcp.peer_address(&lp).unwrap(), peer.local_addr().unwrap());
        drop(peer);
        run_until(&lp, || log.has(&Event::End));
        assert_eq!(log.without_data(), [Event::End]);
    });
}

#[test]
fn what_is_not_a_connected_socket_is_not_adopted_and_stays_as_it_was() {
    each_driver(|lp| {
        let log = Log::default();
        let unconnected = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let kept = unconnected.try_clone().unwrap();
        assert_eq!(
            code(TcpStream::adopt(&lp, unconnected, Script::new(&log))),
            Code::ENOTCONN
        );
        // What shares it finds it blocking, and can use it.
        assert!(!kept.nonblocking().unwrap());
        let (listener, address) = listen_at(LOCALHOST);
        kept.connect(&address.into()).unwrap();
        listener.accept().unwrap();

        let file = std::fs::File::open("/dev/zero").unwrap();
        let mut kept = file.try_clone().unwrap();
        let socket = Socket::from(OwnedFd::from(file));
        assert_eq!(
            code(TcpStream::adopt(&lp, socket, Script::new(&log))),
            Code::ENOTSOCK
        );
        let mut byte = [1];
        kept.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0]);

        assert_eq!(lp.metrics().handles, 0);
        assert_eq!(log.events(), []);
        assert_eq!(log.holders(), 0, "the handler is dropped");
    });
}

#[test]
fn release_hands_the_socket_out_and_closes_the_handle() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, mut peer) = connected(&lp, Script::new(&log).not_reading());
        peer.write_all(b"not read yet").unwrap();
        let socket = tcp.release(&lp).unwrap();
        assert_eq!(code(tcp.release(&lp)), Code::EBADF);
        assert_eq!(log.events(), [], "not inside the call");
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Close]);
        // It is open, does not block, and has what was not read.
        assert!(socket.nonblocking().unwrap());
        let mut ours = StdStream::from(socket);
        ours.set_nonblocking(false).unwrap();
        let mut bytes = [0; 12];
        ours.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"not read yet");
        ours.write_all(b"answer").unwrap();
        let mut bytes = [0; 6];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"answer");
    });
}

#[test]
fn release_is_refused_while_writes_are_queued_and_sends_what_is_gathered() {
    each_driver(|lp| {
        let log = Log::default();
        let (tcp, peer) = connected(&lp, Script::new(&log));
        let written = fill(&lp, *tcp);
        assert_eq!(code(tcp.release(&lp)), Code::EBUSY);
        assert_pattern(&read_from_peer(&lp, &peer, written), 0);
        in_callback(&lp, move |lp| {
            tcp.write(lp, b"gathered").unwrap();
            let mut socket = tcp.release(lp).unwrap();
            socket.write_all(b", and after").unwrap();
        });
        assert_eq!(read_peer_to_end(&lp, &peer), b"gathered, and after");
    });
}

#[test]
fn a_stream_moves_from_one_loop_to_another_in_its_own_callback() {
    each_driver(|lp| {
        let other = Loop::new().unwrap();
        let (first, second) = (Log::default(), Log::default());
        let moved = Shared::<Vec<Socket>>::default();
        let to = moved.clone();
        let script = Script::new(&first).on_data(move |lp, stream, _| {
            to.push(TcpStream::from_id(stream.id()).release(lp).unwrap());
        });
        let (_, mut peer) = connected(&lp, script);
        peer.write_all(&pattern(0, 100_000)).unwrap();
        drop(peer);
        run_to_end(&lp);
        assert_eq!(first.without_data(), [Event::Close]);
        let socket = moved.take().pop().unwrap();
        let script = Script::new(&second).on_end(|lp, stream| lp.close(stream).unwrap());
        TcpStream::adopt(&other, socket, script).unwrap();
        run_to_end(&other);
        let mut all = first.data();
        all.extend(second.data());
        assert_eq!(all.len(), 100_000);
        assert_pattern(&all, 0);
        assert_eq!(second.without_data(), [Event::End, Event::Close]);
    });
}

#[test]
fn a_handle_of_another_kind_is_no_connection() {
    each_driver(|lp| {
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        let tcp = TcpStream::from_id(timer.id());
        assert_eq!(code(tcp.set_nodelay(&lp, true)), Code::EBADF);
        assert_eq!(code(tcp.release(&lp)), Code::EBADF);
        assert_eq!(code(tcp.raw_socket(&lp)), Code::EBADF);
        assert_eq!(Stream::from(tcp).id(), timer.id());
    });
}

#[test]
fn a_thousand_connections_come_and_go() {
    each_driver(|lp| {
        let echo = |lp: &Loop, _, tcp: TcpStream| {
            tcp.attach(lp, |lp: &Loop, stream: Stream, data: &[u8]| {
                stream.write(lp, data).unwrap();
            })
            .unwrap();
        };
        let listener =
            kolo::TcpListener::listen(&lp, "127.0.0.1:0".parse().unwrap(), echo).unwrap();
        let address = listener.address(&lp).unwrap();
        let logs: Vec<Log> = (0..1000).map(|_| Log::default()).collect();
        // A hundred at a time: each closes when it has its answer, and the next one comes.
        let next = Shared::<usize>::new(0);
        fn client(lp: &Loop, address: SocketAddr, logs: &Shared<Vec<Log>>, next: &Shared<usize>) {
            let which = next.get();
            let Some(log) = logs.with(|logs| logs.get(which).cloned()) else {
                return;
            };
            next.add();
            let (received, others, following) = (log.clone(), logs.clone(), next.clone());
            let script = Script::new(&log)
                .on_open(move |lp, stream| {
                    stream.write(lp, &pattern(which, 3000)).unwrap();
                })
                .on_data(move |lp, stream, _| {
                    if received.data().len() == 3000 {
                        lp.close(stream).unwrap();
                    }
                })
                .on_close(move |lp, _| client(lp, address, &others, &following));
            TcpStream::connect(lp, address, script).unwrap();
        }
        let all = Shared::new(logs);
        for _ in 0..100 {
            client(&lp, address, &all, &next);
        }
        lp.unref(listener).unwrap();
        run_until(&lp, || all.with(|logs| logs.iter().all(Log::closed)));
        all.with(|logs| {
            for (which, log) in logs.iter().enumerate() {
                assert_pattern(&log.data(), which);
                assert_eq!(log.without_data(), [Event::Open, Event::Close]);
            }
        });
        // The accepted ends close as well.
        run_until(&lp, || lp.metrics().handles == 1);
    });
}
