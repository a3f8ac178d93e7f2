//! Networks that break: no route, nobody there, silence, loss, links and addresses that go and come, packets that do
//! not fit, peers that were switched off. Each test has namespaces of its own, which are gone when it is.
//!
//! This machine is 10.99.0.1, on a link to `router`, 10.99.0.2. Behind it, on a link for packets of 600 bytes, is `far`:
//! 10.99.1.2.

use std::io::{Read, Write};
use std::net::{
    SocketAddr, TcpListener as StdListener, TcpStream as StdStream, UdpSocket as StdUdp,
};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use kolo::{
    Code, ConnectOptions, Datagram, DatagramError, Fragmentation, Keepalive, Loop, LoopOptions,
    TcpStream, UdpHandler, UdpOptions, UdpSocket,
};

use crate::common::*;
use crate::own_namespaces;
use crate::support::{faults, skipped};

const OPTIONS: [&str; 2] = ["--mount", "--net"];

const SET_UP: &str = "
    ip link set lo up &&
    mount -t tmpfs none /run && ip netns add router && ip netns add far &&
    ip link add v0 type veth peer name v1 netns router &&
    ip -n router link add w0 type veth peer name w1 netns far &&
    ip link set v0 up && ip -n router link set lo up && ip -n router link set v1 up &&
    ip -n router link set w0 up mtu 600 && ip -n far link set w1 up mtu 600 &&
    ip addr add 10.99.0.1/24 dev v0 && ip -n router addr add 10.99.0.2/24 dev v1 &&
    ip -n router addr add 10.99.1.1/24 dev w0 && ip -n far addr add 10.99.1.2/24 dev w1 &&
    ip -n far route add default via 10.99.1.1 &&
    ip netns exec router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward' &&
    ip route add 10.99.1.0/24 via 10.99.0.2 &&
    ip route add unreachable 10.98.1.0/24 && ip route add blackhole 10.98.2.0/24 &&
    ip route add prohibit 10.98.3.0/24 &&
    ip neigh add 10.99.0.77 lladdr 02:00:00:00:00:99 dev v0 nud permanent &&
    ip netns exec router sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_ratelimit' &&
    echo 1 >/proc/sys/net/ipv4/neigh/v0/mcast_solicit &&
    echo 1 >/proc/sys/net/ipv4/tcp_syn_retries ||
    exit 77";

/// Runs a command that changes the network.
#[track_caller]
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "ip {arguments}");
}

/// Sets rules of a packet filter for what this machine sends (nft(8)). `false`: there is none here.
fn filter(rules: &str) -> bool {
    let table = format!(
        "table inet kolo {{\nchain out {{\ntype filter hook output priority 0;\n{rules}\n}}\n}}\n"
    );
    let nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn();
    let Ok(mut nft) = nft else {
        return false;
    };
    nft.stdin
        .take()
        .unwrap()
        .write_all(table.as_bytes())
        .unwrap();
    nft.wait().unwrap().success()
}

fn no_filter() {
    let status = Command::new("nft")
        .args(["delete", "table", "inet", "kolo"])
        .status();
    assert!(status.unwrap().success());
}

/// Runs it on a thread that is in another network. Its sockets stay there.
fn within<T: Send + 'static>(network: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(format!("/run/netns/{network}")).unwrap();
    thread::spawn(move || {
        assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), 0) }, 0);
        run()
    })
    .join()
    .unwrap()
}

/// A listener in another network.
fn listen(network: &str, address: &str) -> (StdListener, SocketAddr) {
    let address: SocketAddr = format!("{address}:0").parse().unwrap();
    let listener = within(network, move || StdListener::bind(address).unwrap());
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Runs the test with every driver at the same time, each on a thread of its own: for tests that wait for the kernel's
/// patience to end. They meet at the barrier.
fn all_drivers_at_once(test: fn(&Loop, &Barrier)) {
    let barrier = Arc::new(Barrier::new(drivers().count()));
    let threads: Vec<_> = drivers()
        .map(|driver| {
            let barrier = barrier.clone();
            thread::spawn(move || {
                let _limit = TimeLimit::start(driver.to_owned());
                let options = LoopOptions {
                    driver: Some(driver.to_owned()),
                    ..Default::default()
                };
                test(&Loop::with_options(options).unwrap(), &barrier);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Connects to all of the addresses; what each is told, in their order. Nothing spins meanwhile.
#[track_caller]
fn connects_fail(lp: &Loop, expected: &[(&str, Code)]) {
    let turns = lp.metrics().turns;
    let logs: Vec<_> = expected
        .iter()
        .map(|(address, _)| {
            let log = Log::default();
            let address: SocketAddr = address.parse().unwrap();
            let stream = TcpStream::connect(lp, address, Script::new(&log)).unwrap();
            assert!(log.events().is_empty(), "never inside the call");
            let _ = stream;
            log
        })
        .collect();
    run_until(lp, || logs.iter().all(Log::closed));
    for (log, (address, code)) in logs.iter().zip(expected) {
        assert_eq!(
            log.events(),
            [Event::Error(*code), Event::Close],
            "{address}"
        );
    }
    let turns = lp.metrics().turns - turns;
    assert!(turns < 100, "{turns} turns: it spins");
}

#[test]
fn what_a_route_says_is_told_of_each_connect() {
    own_namespaces!(OPTIONS, SET_UP, 5, || {
        each_driver(|lp| {
            let expected = [
                ("192.0.2.1:9", Code::ENETUNREACH),
                ("10.98.1.1:9", Code::EHOSTUNREACH),
                ("10.98.2.1:9", Code::EINVAL),
                ("10.98.3.1:9", Code::EACCES),
                ("10.99.0.2:9", Code::ECONNREFUSED),
            ];
            connects_fail(&lp, &expected);
            faults(expected.len() as u32);
        });
    });
}

#[test]
fn a_host_that_is_not_there_and_one_that_is_silent_are_told_of_when_the_system_gives_up() {
    own_namespaces!(OPTIONS, SET_UP, 2, || {
        all_drivers_at_once(|lp, _| {
            let expected = [
                // Nobody answers for this address.
                ("10.99.0.66:9", Code::EHOSTUNREACH),
                // Somebody does, and then says nothing.
                ("10.99.0.77:9", Code::ETIMEDOUT),
            ];
            connects_fail(lp, &expected);
            faults(expected.len() as u32);
        });
    });
}

#[test]
fn a_connect_timeout_ends_before_the_systems_own() {
    own_namespaces!(OPTIONS, SET_UP, 1, || {
        each_driver(|lp| {
            let log = Log::default();
            let options = ConnectOptions {
                timeout: Some(Duration::from_millis(50)),
                ..Default::default()
            };
            let address = "10.99.0.77:9".parse().unwrap();
            TcpStream::connect_with(&lp, address, &options, Script::new(&log)).unwrap();
            run_until(&lp, || log.closed());
            assert_eq!(log.events(), [Event::Error(Code::ETIMEDOUT), Event::Close]);
            faults(1);
        });
    });
}

/// What a UDP socket hears.
#[derive(Clone, Default)]
struct Heard {
    errors: Shared<Vec<(Code, Option<u32>)>>,
    came: Shared<usize>,
    refused: Shared<usize>,
}

impl UdpHandler for Heard {
    fn on_datagram(&mut self, _: &Loop, _: UdpSocket, _: &Datagram<'_>) {
        self.came.add();
    }

    fn on_error(&mut self, _: &Loop, _: UdpSocket, error: &DatagramError) {
        self.errors.push((error.error.code(), error.mtu));
        self.refused
            .with(|refused| *refused += error.count as usize);
    }
}

#[test]
fn a_datagram_that_has_no_way_is_told_of_and_the_next_one_goes() {
    own_namespaces!(OPTIONS, SET_UP, 5, || {
        each_driver(|lp| {
            let heard = Heard::default();
            let any = "0.0.0.0:0".parse().unwrap();
            let socket = UdpSocket::bind(&lp, any, heard.clone()).unwrap();
            for (to, code) in [
                ("192.0.2.1:9", Code::ENETUNREACH),
                ("10.98.1.1:9", Code::EHOSTUNREACH),
                ("10.98.2.1:9", Code::EINVAL),
                ("10.98.3.1:9", Code::EACCES),
            ] {
                socket.send_to(&lp, b"lost", to.parse().unwrap()).unwrap();
                run_until(&lp, || !heard.errors.is_empty());
                assert_eq!(heard.errors.take(), [(code, None)], "{to}");
                faults(1);
            }
            let peer = within("router", || StdUdp::bind("10.99.0.2:0").unwrap());
            socket
                .send_to(&lp, b"arrives", peer.local_addr().unwrap())
                .unwrap();
            let mut bytes = [0; 16];
            assert_eq!(peer.recv(&mut bytes).unwrap(), 7);
            // A router that has lost its way tells, and whoever asks for it hears it.
            let options = UdpOptions {
                report_errors: true,
                ..Default::default()
            };
            let socket = UdpSocket::bind_with(&lp, any, &options, heard.clone()).unwrap();
            ip("-n router route add unreachable 10.99.1.2/32");
            socket
                .send_to(&lp, b"lost", "10.99.1.2:9".parse().unwrap())
                .unwrap();
            run_until(&lp, || !heard.errors.is_empty());
            assert_eq!(heard.errors.take(), [(Code::EHOSTUNREACH, None)]);
            ip("-n router route del unreachable 10.99.1.2/32");
            faults(1);
        });
    });
}

/// A connection to another network: our stream, and the other end.
fn connected_to(lp: &Loop, network: &str, address: &str, log: &Log) -> (TcpStream, StdStream) {
    let (listener, address) = listen(network, address);
    let stream = TcpStream::connect(lp, address, Script::new(log)).unwrap();
    run_until(lp, || log.has(&Event::Open));
    (stream, listener.accept().unwrap().0)
}

fn set_option(stream: TcpStream, lp: &Loop, option: i32, value: i32) {
    let socket = stream.raw_socket(lp).unwrap();
    let value = std::ptr::from_ref(&value).cast();
    let outcome = unsafe { libc::setsockopt(socket, libc::IPPROTO_TCP, option, value, 4) };
    assert_eq!(outcome, 0);
}

#[test]
fn a_peer_that_vanishes_is_noticed_by_what_is_not_acknowledged_and_by_probes() {
    own_namespaces!(OPTIONS, SET_UP, 3, || {
        all_drivers_at_once(|lp, barrier| {
            let (sending, idle, stalled) = (Log::default(), Log::default(), Log::default());
            let (sender, _one) = connected_to(lp, "router", "10.99.0.2", &sending);
            set_option(sender, lp, libc::TCP_USER_TIMEOUT, 1000);
            let (idler, _other) = connected_to(lp, "router", "10.99.0.2", &idle);
            let keepalive = Keepalive {
                idle: Duration::from_secs(1),
                interval: Some(Duration::from_secs(1)),
                count: Some(1),
            };
            idler.set_keepalive(lp, Some(keepalive)).unwrap();
            let (stalling, _third) = connected_to(lp, "router", "10.99.0.2", &stalled);
            stalling
                .set_timeouts(lp, None, Some(Duration::from_millis(300)))
                .unwrap();
            if barrier.wait().is_leader() {
                partition();
            }
            barrier.wait();
            sender.write(lp, b"is anybody there?").unwrap();
            fill(lp, stalling.into());
            run_until(lp, || {
                sending.closed()
                    && idle.closed()
                    && stalled.has(&Event::Timeout(kolo::Timeout::Write))
            });
            let over = [Event::Open, Event::Error(Code::ETIMEDOUT), Event::Close];
            assert_eq!(sending.events(), over);
            assert_eq!(idle.events(), over);
            faults(3);
        });
    });
}

/// What either side sends goes to somebody who is not there.
fn partition() {
    ip("neigh replace 10.99.0.2 lladdr 02:00:00:00:00:99 dev v0 nud permanent");
    ip("-n router neigh replace 10.99.0.1 lladdr 02:00:00:00:00:98 dev v1 nud permanent");
}

fn heal() {
    ip("neigh del 10.99.0.2 dev v0");
    ip("-n router neigh del 10.99.0.1 dev v1");
}

/// Sends and receives so much at the same time while `disturb` is done to the network, and checks every byte.
fn transfer(lp: &Loop, network: &str, address: &str, length: usize, disturb: impl FnOnce(&Loop)) {
    let log = Log::default();
    let (stream, mut peer) = connected_to(lp, network, address, &log);
    let mut reads = peer.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        reads.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let writer = thread::spawn(move || {
        peer.write_all(&pattern(7, length)).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    stream.write(lp, &pattern(0, length)).unwrap();
    let done = log.done(1);
    stream.shutdown(lp, done).unwrap();
    let turns = lp.metrics().turns;
    disturb(lp);
    run_until(lp, || {
        log.has(&Event::End) && log.has(&Event::Done(1, Ok(())))
    });
    let turns = lp.metrics().turns - turns;
    writer.join().unwrap();
    let sent = reader.join().unwrap();
    assert_eq!((sent.len(), log.data().len()), (length, length));
    assert_pattern(&sent, 0);
    assert_pattern(&log.data(), 7);
    // Each turn brings or takes something.
    assert!(turns < 2 * length as u64 / 500, "{turns} turns: it spins");
    lp.close(stream).unwrap();
    run_until(lp, || log.closed());
}

const MEGABYTE: usize = 1 << 20;

#[test]
fn what_is_under_way_arrives_when_a_partition_is_over() {
    own_namespaces!(OPTIONS, SET_UP, 1, || {
        each_driver(|lp| {
            transfer(&lp, "router", "10.99.0.2", 8 * MEGABYTE, |lp| {
                partition();
                run_for(lp, Duration::from_millis(300));
                heal();
            });
            faults(1);
        });
    });
}

#[test]
fn links_and_addresses_may_go_and_come_under_a_connection() {
    own_namespaces!(OPTIONS, SET_UP, 4, || {
        each_driver(|lp| {
            let while_away = |lp: &Loop, go: &str, come: &[&str]| {
                transfer(lp, "router", "10.99.0.2", 4 * MEGABYTE, |lp| {
                    ip(go);
                    run_for(lp, Duration::from_millis(100));
                    for step in come {
                        ip(step);
                    }
                });
                faults(1);
            };
            while_away(
                &lp,
                "-n router link set v1 down",
                &["-n router link set v1 up"],
            );
            // The routes of a link that is down are gone, and what stands on them.
            let routes = ["link set v0 up", "route replace 10.99.1.0/24 via 10.99.0.2"];
            while_away(&lp, "link set v0 down", &routes);
            let address = [
                "addr add 10.99.0.1/24 dev v0",
                "route replace 10.99.1.0/24 via 10.99.0.2",
            ];
            while_away(&lp, "addr del 10.99.0.1/24 dev v0", &address);
            // A router that says that it knows no way: that is passing.
            transfer(&lp, "far", "10.99.1.2", MEGABYTE / 4, |lp| {
                ip("-n router route add unreachable 10.99.1.2/32");
                run_for(lp, Duration::from_millis(100));
                ip("-n router route del unreachable 10.99.1.2/32");
            });
            faults(1);
        });
    });
}

#[test]
fn an_address_that_is_gone_can_not_be_connected_from() {
    own_namespaces!(OPTIONS, SET_UP, 1, || {
        each_driver(|lp| {
            let log = Log::default();
            let options = ConnectOptions {
                local: Some("10.99.0.250:0".parse().unwrap()),
                ..Default::default()
            };
            let to = "10.99.0.2:9".parse().unwrap();
            match TcpStream::connect_with(&lp, to, &options, Script::new(&log)) {
                Err(error) => assert_eq!(error.code(), Code::EADDRNOTAVAIL),
                Ok(_) => {
                    run_until(&lp, || log.closed());
                    let over = [Event::Error(Code::EADDRNOTAVAIL), Event::Close];
                    assert_eq!(log.events(), over);
                }
            }
            faults(1);
        });
    });
}

#[test]
fn packets_are_lost_and_bytes_are_not() {
    own_namespaces!(OPTIONS, SET_UP, 3, || {
        if !filter("numgen inc mod 20 == 0 drop") {
            return skipped(3, "no packet filter (nft)");
        }
        no_filter();
        each_driver(|lp| {
            filter("numgen inc mod 20 == 0 drop");
            transfer(&lp, "router", "10.99.0.2", MEGABYTE / 4, |_| ());
            faults(1);
            // Of datagrams each arrives or is told of: the filter lets the sender know.
            let peer = within("router", || StdUdp::bind("10.99.0.2:0").unwrap());
            let heard = Heard::default();
            let any = "0.0.0.0:0".parse().unwrap();
            let socket = UdpSocket::bind(&lp, any, heard.clone()).unwrap();
            let to = peer.local_addr().unwrap();
            for length in 0..200 {
                socket.send_to(&lp, &vec![0; 1 + length % 7], to).unwrap();
            }
            some_turns(&lp);
            let refused = heard.refused.get();
            assert!(refused > 0 && heard.errors.take().iter().all(|it| it.0 == Code::EPERM));
            for _ in refused..200 {
                peer.recv(&mut [0; 16]).unwrap();
            }
            peer.set_nonblocking(true).unwrap();
            assert!(peer.recv(&mut [0; 16]).is_err());
            faults(1);
            no_filter();
            // And a filter that resets.
            let log = Log::default();
            let (stream, _peer) = connected_to(&lp, "router", "10.99.0.2", &log);
            filter("tcp flags & rst == 0 reject with tcp reset");
            stream.write(&lp, b"rejected").unwrap();
            run_until(&lp, || log.closed());
            no_filter();
            assert_eq!(
                log.events(),
                [Event::Open, Event::Error(Code::ECONNRESET), Event::Close]
            );
            faults(1);
        });
    });
}

#[test]
fn what_does_not_fit_the_path_is_made_to_fit_or_told_of() {
    own_namespaces!(OPTIONS, SET_UP, 2, || {
        each_driver(|lp| {
            transfer(&lp, "far", "10.99.1.2", MEGABYTE / 4, |_| ());
            faults(1);
            let heard = Heard::default();
            let options = UdpOptions {
                report_errors: true,
                ..Default::default()
            };
            let any = "0.0.0.0:0".parse().unwrap();
            let socket = UdpSocket::bind_with(&lp, any, &options, heard.clone()).unwrap();
            socket.set_fragmentation(&lp, Fragmentation::Probe).unwrap();
            let peer = within("far", || StdUdp::bind("10.99.1.2:0").unwrap());
            let to = peer.local_addr().unwrap();
            socket.send_to(&lp, &[0; 1000], to).unwrap();
            run_until(&lp, || !heard.errors.is_empty());
            assert_eq!(heard.errors.take(), [(Code::EMSGSIZE, Some(600))]);
            socket.send_to(&lp, &[0; 500], to).unwrap();
            assert_eq!(peer.recv(&mut [0; 1000]).unwrap(), 500);
            faults(1);
        });
    });
}

/// The peer's machine is switched off and on again: it knows nothing of the connection.
fn reboot(peer: StdStream) {
    let repair = 1i32;
    let outcome = unsafe {
        libc::setsockopt(
            peer.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            std::ptr::from_ref(&repair).cast(),
            4,
        )
    };
    // Closed like this, it tells nobody (tcp(7)).
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_peer_that_was_switched_off_and_on_is_noticed_by_the_next_bytes_or_a_probe() {
    own_namespaces!(OPTIONS, SET_UP, 2, || {
        all_drivers_at_once(|lp, _| {
            let (writing, idle) = (Log::default(), Log::default());
            let (writer, one) = connected_to(lp, "router", "10.99.0.2", &writing);
            let (idler, other) = connected_to(lp, "router", "10.99.0.2", &idle);
            let keepalive = Keepalive {
                idle: Duration::from_secs(1),
                interval: None,
                count: None,
            };
            idler.set_keepalive(lp, Some(keepalive)).unwrap();
            reboot(one);
            reboot(other);
            let turns = lp.metrics().turns;
            run_for(lp, Duration::from_millis(50));
            assert_eq!(writing.events(), [Event::Open], "half open");
            writer.write(lp, b"hello?").unwrap();
            run_until(lp, || writing.closed() && idle.closed());
            let over = [Event::Open, Event::Error(Code::ECONNRESET), Event::Close];
            assert_eq!(writing.events(), over);
            assert_eq!(idle.events(), over);
            assert!(lp.metrics().turns - turns < 50);
            faults(2);
        });
    });
}

#[test]
fn a_loop_needs_no_network_for_itself() {
    own_namespaces!(OPTIONS, "true", 1, || {
        // Not even the loopback is up.
        each_driver(|lp| {
            connects_fail(&lp, &[("127.0.0.1:9", Code::ENETUNREACH)]);
            let remote = lp.remote();
            let (sender, receiver) = std::sync::mpsc::channel();
            thread::spawn(move || remote.post(move |_: &Loop| sender.send(()).unwrap()));
            let tick = kolo::Timer::open(&lp, |_, _| ()).unwrap();
            let often = Duration::from_millis(10);
            tick.start_repeating(&lp, often, often).unwrap();
            run_until(&lp, || receiver.try_recv().is_ok());
            faults(1);
        });
    });
}
