//! Listening and accepting, and what happens when descriptors run out.

#![cfg(all(unix, feature = "net"))]

mod common;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use common::*;
use kolo::{
    AcceptPolicy, Code, Error, ListenOptions, ListenerHandler, Loop, RunMode, Stream, TcpListener,
    TcpStream,
};
use socket2::{Domain, SockRef, Socket, Type};

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Keeps what it accepts, and notes what it hears.
#[derive(Clone, Default)]
struct Keeps {
    accepted: Shared<Vec<TcpStream>>,
    errors: Shared<Vec<Code>>,
    closed: Shared<usize>,
    log: Log,
}

impl ListenerHandler for Keeps {
    fn on_accept(&mut self, lp: &Loop, _: TcpListener, tcp: TcpStream) {
        tcp.attach(lp, Script::new(&self.log)).unwrap();
        self.accepted.push(tcp);
    }

    fn on_error(&mut self, _: &Loop, _: TcpListener, error: Error) {
        self.errors.push(error.code());
    }

    fn on_close(&mut self, _: &Loop, _: TcpListener) {
        self.closed.add();
    }
}

fn connect(lp: &Loop, listener: TcpListener) -> StdStream {
    StdStream::connect(listener.address(lp).unwrap()).unwrap()
}

#[test]
fn it_accepts_at_the_port_that_the_system_chose() {
    each_driver(|lp| {
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let keeps = Keeps::default();
            let listener = TcpListener::listen(&lp, (ip, 0).into(), keeps.clone()).unwrap();
            let address = listener.address(&lp).unwrap();
            assert_eq!(address.ip(), ip);
            assert_ne!(address.port(), 0);
            let clients: Vec<StdStream> = (0..20).map(|_| connect(&lp, listener)).collect();
            assert!(keeps.accepted.is_empty());
            run_until(&lp, || keeps.accepted.len() == 20);
            let mut peers: Vec<SocketAddr> = keeps
                .accepted
                .get()
                .iter()
                .map(|tcp| tcp.peer_address(&lp).unwrap())
                .collect();
            let mut expected: Vec<SocketAddr> = clients
                .iter()
                .map(|client| client.local_addr().unwrap())
                .collect();
            peers.sort();
            expected.sort();
            assert_eq!(peers, expected);
            for mut client in &clients {
                client.write_all(b"x").unwrap();
            }
            run_until(&lp, || keeps.log.data().len() == 20);
            lp.close(listener).unwrap();
            // Accepted streams live on.
            some_turns(&lp);
            assert_eq!(keeps.closed.get(), 1);
            assert_eq!(keeps.log.without_data(), []);
        }
    });
}

#[test]
fn a_connection_that_gets_no_handler_is_closed() {
    each_driver(|lp| {
        let accepted = Shared::<Vec<TcpStream>>::default();
        let list = accepted.clone();
        let listener = TcpListener::listen(
            &lp,
            any_port(),
            move |lp: &Loop, _: TcpListener, tcp: TcpStream| {
                // Looking at it is no claim.
                tcp.peer_address(lp).unwrap();
                list.push(tcp);
            },
        )
        .unwrap();
        let client = connect(&lp, listener);
        run_until(&lp, || is_ended(&client));
        let tcp = accepted.get()[0];
        assert_eq!(
            code(tcp.attach(&lp, |_: &Loop, _: Stream, _: &[u8]| ())),
            Code::EBADF
        );
    });
}

#[test]
fn a_listener_holds_the_loop_until_it_is_paused_or_unreferenced() {
    each_driver(|lp| {
        let listener = TcpListener::listen(&lp, any_port(), Keeps::default()).unwrap();
        assert!(lp.is_active(listener).unwrap() && lp.is_alive());
        lp.unref(listener).unwrap();
        assert!(!lp.is_alive());
        lp.reference(listener).unwrap();
        assert!(lp.is_alive());
        listener.pause(&lp).unwrap();
        assert!(!lp.is_active(listener).unwrap() && !lp.is_alive());
        listener.resume(&lp).unwrap();
        assert!(lp.is_active(listener).unwrap() && lp.is_alive());
    });
}

#[test]
fn while_it_is_paused_connections_wait() {
    each_driver(|lp| {
        let keeps = Keeps::default();
        let listener = TcpListener::listen(&lp, any_port(), keeps.clone()).unwrap();
        listener.pause(&lp).unwrap();
        listener.pause(&lp).unwrap();
        let clients: Vec<StdStream> = (0..3).map(|_| connect(&lp, listener)).collect();
        some_turns(&lp);
        assert!(keeps.accepted.is_empty());
        listener.resume(&lp).unwrap();
        listener.resume(&lp).unwrap();
        run_until(&lp, || keeps.accepted.len() == 3);
        assert!(clients.iter().all(|client| !is_ended(client)));
        // And again, with connections that come before and after.
        listener.pause(&lp).unwrap();
        let _more = [connect(&lp, listener), connect(&lp, listener)];
        listener.resume(&lp).unwrap();
        let _last = connect(&lp, listener);
        run_until(&lp, || keeps.accepted.len() == 6);
    });
}

#[test]
fn pausing_and_closing_in_on_accept_hold_from_the_call_on() {
    each_driver(|lp| {
        for closes in [false, true] {
            let accepted = Shared::<usize>::default();
            let counted = accepted.clone();
            let log = Log::default();
            let attached = log.clone();
            let listener = TcpListener::listen(
                &lp,
                any_port(),
                move |lp: &Loop, listener: TcpListener, tcp: TcpStream| {
                    counted.add();
                    tcp.attach(lp, Script::new(&attached)).unwrap();
                    if closes {
                        lp.close(listener).unwrap();
                    } else {
                        listener.pause(lp).unwrap();
                    }
                },
            )
            .unwrap();
            let clients: Vec<StdStream> = (0..4).map(|_| connect(&lp, listener)).collect();
            run_until(&lp, || accepted.get() == 1);
            some_turns(&lp);
            assert_eq!(accepted.get(), 1);
            if !closes {
                for count in 2..=4 {
                    listener.resume(&lp).unwrap();
                    run_until(&lp, || accepted.get() == count);
                    some_turns(&lp);
                    assert_eq!(accepted.get(), count);
                }
                lp.close(listener).unwrap();
            }
            drop(clients);
        }
    });
}

#[test]
fn a_turn_accepts_no_more_than_it_may() {
    each_driver(|lp| {
        let options = ListenOptions {
            accepts_per_turn: 3,
            ..ListenOptions::default()
        };
        let (busy, neighbour) = (Keeps::default(), Keeps::default());
        let busy_listener =
            TcpListener::listen_with(&lp, any_port(), &options, busy.clone()).unwrap();
        let other_listener = TcpListener::listen(&lp, any_port(), neighbour.clone()).unwrap();
        let _clients: Vec<StdStream> = (0..20).map(|_| connect(&lp, busy_listener)).collect();
        let _other = connect(&lp, other_listener);
        let mut before = 0;
        let mut turns = 0;
        while busy.accepted.len() < 20 {
            lp.run(RunMode::Once).unwrap();
            turns += 1;
            let now = busy.accepted.len();
            // What was left over, and what the kernel reports anew.
            assert!(now - before <= 2 * 3, "{} in a turn", now - before);
            before = now;
            assert_eq!(neighbour.accepted.len(), 1, "the neighbour had its turn");
        }
        assert!(turns >= 20 / 6);
    });
}

#[test]
fn dual_stack_and_ipv6_only() {
    each_driver(|lp| {
        let keeps = Keeps::default();
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let dual = TcpListener::listen(&lp, any, keeps.clone()).unwrap();
        let port = dual.address(&lp).unwrap().port();
        let _v4 = StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let _v6 = StdStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        run_until(&lp, || keeps.accepted.len() == 2);

        let options = ListenOptions {
            ipv6_only: true,
            ..ListenOptions::default()
        };
        // The same port is then left to IPv4, unless some other program has it there.
        let (v4, v6) = (Keeps::default(), Keeps::default());
        let port = loop {
            let only = TcpListener::listen_with(&lp, any, &options, v6.clone()).unwrap();
            let port = only.address(&lp).unwrap().port();
            match TcpListener::listen(&lp, (Ipv4Addr::LOCALHOST, port).into(), v4.clone()) {
                Ok(_) => break port,
                Err(error) => assert_eq!(error.code(), Code::EADDRINUSE),
            }
            lp.close(only).unwrap();
        };
        let _v4 = StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        run_until(&lp, || v4.accepted.len() == 1);
        let _v6 = StdStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        run_until(&lp, || v6.accepted.len() == 1);
        some_turns(&lp);
        assert_eq!((v4.accepted.len(), v6.accepted.len()), (1, 1));
    });
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_of_the_call() {
    each_driver(|lp| {
        let keeps = Keeps::default();
        let first = TcpListener::listen(&lp, any_port(), keeps.clone()).unwrap();
        let taken = first.address(&lp).unwrap();
        assert_eq!(
            code(TcpListener::listen(&lp, taken, keeps.clone())),
            Code::EADDRINUSE
        );
        // An address for documentation (RFC 5737), which no machine has.
        let foreign = "192.0.2.1:0".parse().unwrap();
        assert_eq!(
            code(TcpListener::listen(&lp, foreign, keeps.clone())),
            Code::EADDRNOTAVAIL
        );
        assert_eq!(lp.metrics().handles, 1);
        // With reuse_port both may listen, and each gets a share or all.
        let options = ListenOptions {
            reuse_port: true,
            ..ListenOptions::default()
        };
        let one = TcpListener::listen_with(&lp, any_port(), &options, keeps.clone()).unwrap();
        let shared = one.address(&lp).unwrap();
        TcpListener::listen_with(&lp, shared, &options, keeps.clone()).unwrap();
        let _clients: Vec<StdStream> = (0..8)
            .map(|_| StdStream::connect(shared).unwrap())
            .collect();
        run_until(&lp, || keeps.accepted.len() == 8);
    });
}

#[test]
fn a_former_servers_address_can_be_listened_at_again() {
    each_driver(|lp| {
        let keeps = Keeps::default();
        let first = TcpListener::listen(&lp, any_port(), keeps.clone()).unwrap();
        let address = first.address(&lp).unwrap();
        let client = connect(&lp, first);
        run_until(&lp, || keeps.accepted.len() == 1);
        // The server ends first, so its end of the connection keeps the port for a while.
        lp.close(keeps.accepted.get()[0]).unwrap();
        lp.close(first).unwrap();
        run_until(&lp, || is_ended(&client));
        drop(client);
        TcpListener::listen(&lp, address, keeps).unwrap();
    });
}

#[test]
fn accepted_connections_have_the_listeners_options() {
    each_driver(|lp| {
        for delay in [false, true] {
            let keeps = Keeps::default();
            let options = ListenOptions {
                delay,
                send_buffer: Some(10_000),
                receive_buffer: Some(12_000),
                ..ListenOptions::default()
            };
            let listener =
                TcpListener::listen_with(&lp, any_port(), &options, keeps.clone()).unwrap();
            let _client = connect(&lp, listener);
            run_until(&lp, || keeps.accepted.len() == 1);
            let tcp = keeps.accepted.get()[0];
            // Linux doubles what is asked for, to have room for its bookkeeping.
            assert_eq!(tcp.buffers(&lp).unwrap(), (20_000, 24_000));
            let raw = tcp.raw_socket(&lp).unwrap();
            let descriptor = unsafe { BorrowedFd::borrow_raw(raw) };
            let socket = SockRef::from(&descriptor);
            assert_eq!(socket.tcp_nodelay().unwrap(), !delay);
            assert!(socket.nonblocking().unwrap());
            assert_ne!(
                unsafe { libc::fcntl(raw, libc::F_GETFD) } & libc::FD_CLOEXEC,
                0
            );
        }
    });
}

#[test]
fn a_listening_socket_is_adopted() {
    each_driver(|lp| {
        let keeps = Keeps::default();
        let theirs = std::net::TcpListener::bind(any_port()).unwrap();
        let address = theirs.local_addr().unwrap();
        let _early = StdStream::connect(address).unwrap();
        let options = ListenOptions::default();
        let listener = TcpListener::adopt(&lp, theirs, &options, keeps.clone()).unwrap();
        assert_eq!(listener.address(&lp).unwrap(), address);
        let _later = StdStream::connect(address).unwrap();
        run_until(&lp, || keeps.accepted.len() == 2);

        // What does not listen stays as it was.
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let kept = other.try_clone().unwrap();
        assert_eq!(
            code(TcpListener::adopt(&lp, other, &options, keeps.clone())),
            Code::EINVAL
        );
        assert!(!kept.nonblocking().unwrap());
        kept.connect(&address.into()).unwrap();
        let file = Socket::from(OwnedFd::from(File::open("/dev/null").unwrap()));
        assert_eq!(
            code(TcpListener::adopt(&lp, file, &options, keeps.clone())),
            Code::ENOTSOCK
        );
        assert_eq!(keeps.closed.get(), 0);
    });
}

#[test]
fn a_handle_of_another_kind_is_no_listener() {
    each_driver(|lp| {
        let (tcp, _peer) = connected(&lp, |_: &Loop, _: Stream, _: &[u8]| ());
        let listener = TcpListener::from_id(tcp.id());
        assert_eq!(code(listener.address(&lp)), Code::EBADF);
        assert_eq!(code(listener.pause(&lp)), Code::EBADF);
        assert_eq!(code(listener.resume(&lp)), Code::EBADF);
    });
}

// ---- descriptors run out ----

/// Takes every descriptor that the process may still open.
fn take_all_descriptors() -> Vec<File> {
    let limit = libc::rlimit {
        rlim_cur: 128,
        rlim_max: 128,
    };
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let mut taken = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => taken.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                return taken;
            }
        }
    }
}

#[test]
fn without_descriptors_it_tells_once_waits_without_spinning_and_goes_on() {
    in_own_process!(|| each_driver(|lp| {
        let keeps = Keeps::default();
        let options = ListenOptions {
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_millis(40),
            ..ListenOptions::default()
        };
        let listener = TcpListener::listen_with(&lp, any_port(), &options, keeps.clone()).unwrap();
        let clients: Vec<StdStream> = (0..5).map(|_| connect(&lp, listener)).collect();
        let mut taken = take_all_descriptors();
        run_until(&lp, || !keeps.errors.is_empty());
        assert!(lp.is_active(listener).unwrap());

        // One word, and a turn for each retry at most: 10, 20, 40, 40, 40... milliseconds.
        let before = lp.metrics().turns;
        run_for(&lp, Duration::from_millis(300));
        let turns = lp.metrics().turns - before;
        assert!(turns <= 40, "{turns} turns: it spins");
        assert_eq!(keeps.errors.get(), [Code::EMFILE]);
        assert!(keeps.accepted.is_empty());
        assert!(clients.iter().all(|client| !is_ended(client)), "they wait");

        // Descriptors for some: they are served, and the next shortage is told anew.
        taken.truncate(taken.len() - 2);
        run_until(&lp, || keeps.errors.len() == 2);
        assert_eq!(keeps.accepted.len(), 2);
        run_for(&lp, Duration::from_millis(100));
        assert_eq!(keeps.errors.len(), 2);

        // A paused listener does not retry.
        listener.pause(&lp).unwrap();
        taken.clear();
        run_for(&lp, Duration::from_millis(100));
        assert_eq!(keeps.accepted.len(), 2);
        listener.resume(&lp).unwrap();
        run_until(&lp, || keeps.accepted.len() == 5);
        assert_eq!(keeps.errors.get(), [Code::EMFILE, Code::EMFILE]);
        assert_eq!(keeps.log.events(), []);
    }));
}

#[test]
fn the_policy_to_reject_resets_those_who_wait() {
    in_own_process!(|| each_driver(|lp| {
        let keeps = Keeps::default();
        let options = ListenOptions {
            accept_policy: AcceptPolicy::Reject,
            retry_min: Duration::from_millis(5),
            retry_max: Duration::from_millis(20),
            ..ListenOptions::default()
        };
        let listener = TcpListener::listen_with(&lp, any_port(), &options, keeps.clone()).unwrap();
        let mut clients: Vec<StdStream> = (0..6).map(|_| connect(&lp, listener)).collect();
        // One comes later, when all the descriptors are taken.
        let late = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let taken = take_all_descriptors();
        for client in clients.drain(..3) {
            assert_peer_is_reset(&lp, &client);
            // Its descriptor must not be free for the others.
            std::mem::forget(client);
        }
        run_until(&lp, || clients.iter().all(is_ended));
        late.connect(&listener.address(&lp).unwrap().into())
            .unwrap();
        assert_peer_is_reset(&lp, &StdStream::from(late));
        assert!(keeps.accepted.is_empty());
        assert_eq!(keeps.errors.get(), [Code::EMFILE]);
        drop(taken);
        let _served = connect(&lp, listener);
        run_until(&lp, || keeps.accepted.len() == 1);
        assert_eq!(keeps.errors.len(), 1);
    }));
}

#[test]
fn a_listener_without_descriptors_can_be_closed_in_on_error() {
    struct Closes(Shared<usize>);
    impl ListenerHandler for Closes {
        fn on_accept(&mut self, _: &Loop, _: TcpListener, _: TcpStream) {
            panic!("there is no descriptor");
        }
        fn on_error(&mut self, lp: &Loop, listener: TcpListener, error: Error) {
            assert_eq!(error.code(), Code::EMFILE);
            lp.close(listener).unwrap();
            self.0.add();
        }
        fn on_close(&mut self, _: &Loop, _: TcpListener) {
            self.0.add();
        }
    }
    in_own_process!(|| each_driver(|lp| {
        let told = Shared::<usize>::default();
        let listener = TcpListener::listen(&lp, any_port(), Closes(told.clone())).unwrap();
        let client = connect(&lp, listener);
        let _taken = take_all_descriptors();
        run_to_end(&lp);
        assert_eq!(told.get(), 2);
        assert!(is_ended(&client));
    }));
}

#[test]
fn without_descriptors_opening_is_an_error_of_the_call() {
    in_own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let taken = take_all_descriptors();
        assert_eq!(
            code(TcpListener::listen(&lp, any_port(), Keeps::default())),
            Code::EMFILE
        );
        let address = "127.0.0.1:1".parse().unwrap();
        assert_eq!(
            code(TcpStream::connect(&lp, address, Script::new(&log))),
            Code::EMFILE
        );
        assert_eq!(code(Loop::new()), Code::EMFILE);
        drop(taken);
        TcpListener::listen(&lp, any_port(), Keeps::default()).unwrap();
        assert_eq!(log.holders(), 0);
    }));
}
