//! Names to addresses and back, and connecting by name.

#![cfg(all(target_os = "linux", feature = "dns"))]

mod common;
#[path = "common/network.rs"]
mod network;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use kolo::{
    Code, ConnectOptions, Family, Kind, Loop, LoopOptions, Named, Pool, PoolOptions, Request,
    ResolveOptions, Resolved, Result, ReverseOptions, RunMode, SocketType, TcpStream, WorkClass,
};
use network::{slow_threads, Answer, NameServer, Names};

/// One thread for names, and so many lookups that may wait.
fn with_pool(queue: u32) -> impl Fn() -> LoopOptions {
    move || LoopOptions {
        pool: Some(Pool::new(PoolOptions {
            slow_threads: NonZeroU32::MIN,
            queue_capacity: NonZeroU32::new(queue).unwrap(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Keeps the only thread for names busy until what this gives is dropped.
fn occupy(lp: &Loop) -> mpsc::Sender<()> {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let work = move || {
        begun.send(()).unwrap();
        let _ = wait.recv();
    };
    lp.work_in(WorkClass::Slow, work, |_, _| ()).unwrap();
    has_begun.recv().unwrap();
    go_on
}

type Outcomes<T> = Shared<Vec<std::result::Result<T, Code>>>;

fn told<T>(outcomes: &Outcomes<T>) -> impl FnOnce(&Loop, Result<T>) + 'static
where
    T: 'static,
{
    let outcomes = outcomes.clone();
    move |_, outcome| outcomes.push(outcome.map_err(|error| error.code()))
}

fn resolve_with(
    lp: &Loop,
    host: Option<&str>,
    service: Option<&str>,
    options: &ResolveOptions,
) -> std::result::Result<Resolved, Code> {
    let outcomes = Outcomes::default();
    let request = lp
        .resolve_with(host, service, options, told(&outcomes))
        .unwrap();
    assert!(outcomes.is_empty(), "not inside the call");
    run_to_end(lp);
    assert_eq!(code(lp.kind(request)), Code::EBADF);
    let mut outcomes = outcomes.take();
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

fn resolve(lp: &Loop, host: &str, service: &str) -> std::result::Result<Vec<String>, Code> {
    let options = ResolveOptions::default();
    resolve_with(lp, Some(host), Some(service), &options).map(|it| texts(&it))
}

fn texts(resolved: &Resolved) -> Vec<String> {
    let addresses = resolved.addresses.iter();
    addresses.map(SocketAddr::to_string).collect()
}

// ---- without asking anybody ----

#[test]
fn a_numeric_host_is_known_at_once_and_needs_no_thread() {
    each_driver_with(with_pool(1), |lp| {
        let go_on = occupy(&lp);
        let outcomes = Outcomes::default();
        for host in ["192.0.2.7", "2001:db8::7", "fe80::1%7", "[::1]", "::%gone"] {
            let request = lp.resolve(host, "80", told(&outcomes)).unwrap();
            assert_eq!(lp.kind(request), Ok(Kind::Request));
            assert!(lp.is_active(request).unwrap());
            assert!(request.has_begun(&lp).unwrap());
            assert_eq!(code(request.cancel(&lp)), Code::EBUSY);
        }
        assert!(outcomes.is_empty(), "not inside the call");
        run_until(&lp, || outcomes.len() == 5);
        let outcomes = outcomes.take().into_iter();
        let outcomes: Vec<_> = outcomes.map(|it| it.map(|it| texts(&it))).collect();
        let one = |text: &str| Ok(vec![text.to_owned()]);
        let none = Err(Code::EAI_NONAME);
        assert_eq!(
            outcomes,
            [
                one("192.0.2.7:80"),
                one("[2001:db8::7]:80"),
                one("[fe80::1%7]:80"),
                none.clone(),
                none
            ]
        );
        drop(go_on);
    });
}

#[test]
fn a_numeric_host_of_another_family_is_an_error_or_mapped() {
    each_driver(|lp| {
        let options = |family, v4_mapped| ResolveOptions {
            family: Some(family),
            v4_mapped,
            canonical_name: true,
            ..Default::default()
        };
        let resolve = |host, options| resolve_with(&lp, Some(host), None, &options);
        let wrong = Err(Code::EAI_ADDRFAMILY);
        assert_eq!(resolve("::1", options(Family::V4, true)), wrong);
        assert_eq!(resolve("127.0.0.1", options(Family::V6, false)), wrong);
        let mapped = resolve("127.0.0.1", options(Family::V6, true)).unwrap();
        assert_eq!(texts(&mapped), ["[::ffff:127.0.0.1]:0"]);
        assert_eq!(mapped.canonical_name.as_deref(), Some("127.0.0.1"));
    });
}

#[test]
fn what_cannot_be_asked_is_refused_and_nobody_hears_of_it() {
    each_driver(|lp| {
        let outcomes = Outcomes::default();
        let long = "a".repeat(254);
        let options = ResolveOptions::default();
        for (host, service, expected) in [
            (None, None, Code::EINVAL),
            (Some(""), None, Code::EINVAL),
            (Some("a"), Some(""), Code::EINVAL),
            (Some("a\0b"), None, Code::EINVAL),
            (Some("a"), Some("8\0"), Code::EINVAL),
            (Some("a"), Some("65536"), Code::EINVAL),
            (Some("127.0.0.1"), Some("65536"), Code::EINVAL),
            (Some(&long[..]), None, Code::ENAMETOOLONG),
            (Some("a"), Some(&long[..]), Code::ENAMETOOLONG),
        ] {
            let refused = lp.resolve_with(host, service, &options, told(&outcomes));
            assert_eq!(code(refused), expected, "{host:?} {service:?}");
        }
        for (host, expected) in [("", Code::EINVAL), (&long, Code::ENAMETOOLONG)] {
            let log = Log::default();
            let refused = TcpStream::connect_name(&lp, host, 1, Script::new(&log));
            assert_eq!(code(refused), expected);
            assert_eq!(log.holders(), 0);
        }
        assert_eq!(outcomes.holders(), 0);
        assert!(!lp.run(RunMode::Default).unwrap());
    });
}

#[test]
fn without_a_host_the_addresses_are_this_machines() {
    each_driver(|lp| {
        for (passive, expected) in [
            (false, ["127.0.0.1:7", "[::1]:7"]),
            (true, ["0.0.0.0:7", "[::]:7"]),
        ] {
            let options = ResolveOptions {
                passive,
                ..Default::default()
            };
            let mut found = texts(&resolve_with(&lp, None, Some("7"), &options).unwrap());
            found.sort();
            assert_eq!(found, expected);
        }
    });
}

#[test]
fn reversing_to_numbers_needs_no_thread() {
    each_driver_with(with_pool(1), |lp| {
        let go_on = occupy(&lp);
        let options = ReverseOptions {
            numeric_host: true,
            numeric_service: true,
            ..Default::default()
        };
        let outcomes = Outcomes::default();
        for address in ["192.0.2.7:80", "[2001:db8::7]:65535"] {
            let address = address.parse().unwrap();
            lp.reverse(address, &options, told(&outcomes)).unwrap();
        }
        assert!(outcomes.is_empty(), "not inside the call");
        run_until(&lp, || outcomes.len() == 2);
        let named = |host: &str, service: &str| {
            Ok(Named {
                host: host.to_owned(),
                service: service.to_owned(),
            })
        };
        assert_eq!(
            outcomes.take(),
            [named("192.0.2.7", "80"), named("2001:db8::7", "65535")]
        );
        drop(go_on);
    });
}

// ---- while the lookup waits for a thread ----

#[test]
fn a_lookup_that_waits_is_canceled_closed_and_timed_out() {
    each_driver_with(with_pool(10), |lp| {
        let go_on = occupy(&lp);
        let outcomes = Outcomes::default();
        let begun = Instant::now();
        let timeout = Duration::from_millis(30);
        let limited = ResolveOptions {
            timeout: Some(timeout),
            ..Default::default()
        };
        let name = Some("localhost");
        let ask = |options| lp.resolve_with(name, None, options, told(&outcomes));
        let unlimited = ResolveOptions::default();
        let canceled = ask(&unlimited).unwrap();
        let closed = ask(&unlimited).unwrap();
        ask(&limited).unwrap();
        canceled.cancel(&lp).unwrap();
        lp.close(closed).unwrap();
        run_until(&lp, || outcomes.len() == 2);
        assert_eq!(outcomes.take(), vec![Err(Code::ECANCELED); 2]);
        run_until(&lp, || outcomes.len() == 1);
        assert!(begun.elapsed() >= timeout, "early");
        assert_eq!(outcomes.take(), [Err(Code::ETIMEDOUT)]);
        drop(go_on);
        run_to_end(&lp);
        assert!(outcomes.is_empty());
    });
}

#[test]
fn a_loop_that_is_dropped_tells_those_whose_lookups_wait() {
    each_driver_with(with_pool(10), |lp| {
        let go_on = occupy(&lp);
        let outcomes = Outcomes::default();
        lp.resolve("localhost", "1", told(&outcomes)).unwrap();
        lp.resolve("127.0.0.1", "1", told(&outcomes)).unwrap();
        let log = Log::default();
        TcpStream::connect_name(&lp, "localhost", 1, Script::new(&log)).unwrap();
        drop(go_on);
        drop(lp);
        assert_eq!(outcomes.take(), vec![Err(Code::ECANCELED); 2]);
        assert_eq!(log.events(), [Event::Close]);
    });
}

#[test]
fn a_full_queue_refuses_names_and_connects_by_name() {
    each_driver_with(with_pool(1), |lp| {
        let go_on = occupy(&lp);
        let outcomes = Outcomes::default();
        lp.resolve("localhost", "1", told(&outcomes)).unwrap();
        let refused = lp.resolve("localhost", "1", told(&outcomes));
        assert_eq!(code(refused), Code::ENOBUFS);
        let log = Log::default();
        let options = ConnectOptions {
            timeout: Some(Duration::from_secs(50)),
            ..Default::default()
        };
        let script = Script::new(&log);
        let refused = TcpStream::connect_name_with(&lp, "localhost", 1, &options, script);
        assert_eq!(code(refused), Code::ENOBUFS);
        assert_eq!((log.events(), log.holders()), (vec![], 0));
        assert_eq!(lp.metrics().handles, 2);
        drop(go_on);
        run_to_end(&lp);
        assert_eq!(outcomes.len(), 1);
    });
}

#[test]
fn a_panic_in_done_loses_no_other_outcome() {
    each_driver(|lp| {
        let outcomes = Outcomes::default();
        let panics = |_: &Loop, _: Result<Resolved>| panic!("on purpose");
        lp.resolve("127.0.0.1", "1", panics).unwrap();
        lp.resolve("127.0.0.1", "1", told(&outcomes)).unwrap();
        lp.resolve("localhost", "1", panics).unwrap();
        lp.resolve("localhost", "1", told(&outcomes)).unwrap();
        let mut panics = 0;
        while lp.is_alive() {
            let run = AssertUnwindSafe(|| lp.run(RunMode::Default).unwrap());
            panics += usize::from(catch_unwind(run).is_err());
        }
        assert_eq!((panics, outcomes.len()), (2, 2));
    });
}

#[test]
fn a_stream_closes_fails_and_times_out_while_its_name_is_resolved() {
    each_driver_with(with_pool(10), |lp| {
        let go_on = occupy(&lp);
        let connect = |log: &Log, timeout| {
            let options = ConnectOptions {
                timeout,
                ..Default::default()
            };
            let script = Script::new(log);
            TcpStream::connect_name_with(&lp, "localhost", 1, &options, script).unwrap()
        };
        let logs: [Log; 3] = Default::default();
        let closed = connect(&logs[0], None);
        let line = lp.describe(closed).unwrap();
        assert!(
            line.ends_with("connecting reading resolving attempts=0"),
            "{line}"
        );
        let both = (lp.handles().len(), lp.metrics().handles);
        assert_eq!(both, (2, 2), "the lookup is not the user's");
        closed.write_owned(&lp, "never", logs[0].done(0)).unwrap();
        lp.close(closed).unwrap();
        let failed = connect(&logs[1], None);
        failed.fail(&lp, Code::EPROTO.into()).unwrap();
        let timeout = Duration::from_millis(20);
        let begun = Instant::now();
        connect(&logs[2], Some(timeout));
        run_until(&lp, || logs.iter().all(Log::closed));
        assert!(begun.elapsed() >= timeout, "early");
        let canceled = Event::Done(0, Err(Code::ECANCELED));
        assert_eq!(logs[0].events(), [canceled, Event::Close]);
        let error = |code| [Event::Error(code), Event::Close];
        assert_eq!(logs[1].events(), error(Code::EPROTO));
        assert_eq!(logs[2].events(), error(Code::ETIMEDOUT));
        drop(go_on);
        run_to_end(&lp);
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn a_forked_child_hears_that_its_lookups_are_not_there() {
    in_own_process!(|| each_driver_with(with_pool(10), |lp| {
        let go_on = occupy(&lp);
        let outcomes = Outcomes::default();
        let log = Log::default();
        let (_listener, address) = listen_at(LOCALHOST);
        lp.resolve("localhost", "1", told(&outcomes)).unwrap();
        TcpStream::connect_name(&lp, "localhost", address.port(), Script::new(&log)).unwrap();
        // SAFETY: the child only uses the loop and the memory of this thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let ok = catch_unwind(AssertUnwindSafe(|| {
                lp.forked().unwrap();
                run_to_end(&lp);
                assert_eq!(outcomes.take(), [Err(Code::ECANCELED)]);
                assert_eq!(log.events(), [Event::Error(Code::ECANCELED), Event::Close]);
                assert!(resolve(&lp, "localhost", "1").is_ok());
            }));
            // SAFETY: ends the child at once, without what the parent's harness would do at its end.
            unsafe { libc::_exit(i32::from(ok.is_err())) };
        }
        let mut status = 0;
        // SAFETY: the status is a valid place for the answer.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        drop(go_on);
        run_until(&lp, || log.has(&Event::Open));
        assert!(outcomes.take()[0].is_ok());
    }));
}

// ---- with the machine's own names ----

#[test]
fn the_machine_knows_itself() {
    each_driver(|lp| {
        let found = resolve(&lp, "localhost", "7").unwrap();
        let loopback = ["127.0.0.1:7".to_owned(), "[::1]:7".to_owned()];
        assert!(found.iter().all(|it| loopback.contains(it)), "{found:?}");
        assert!(found.len() <= 2, "{found:?}");
    });
}

#[test]
fn connects_by_name_and_by_numeric_host() {
    each_driver(|lp| {
        let (listener, address) = listen_at(LOCALHOST);
        for host in ["localhost", "127.0.0.1"] {
            let log = Log::default();
            let tcp =
                TcpStream::connect_name(&lp, host, address.port(), Script::new(&log)).unwrap();
            assert_eq!(code(tcp.peer_address(&lp)), Code::ENOTCONN);
            tcp.write(&lp, b"early").unwrap();
            assert_eq!(log.events(), [], "not inside the call");
            run_until(&lp, || log.has(&Event::Open));
            assert_eq!(tcp.peer_address(&lp), Ok(address));
            let (mut peer, _) = listener.accept().unwrap();
            assert_eq!(read_from_peer(&lp, &peer, 5), b"early");
            peer.write_all(b"back").unwrap();
            run_until(&lp, || log.data() == b"back");
            lp.close(tcp).unwrap();
            run_to_end(&lp);
        }
    });
}

#[test]
fn a_numeric_host_of_the_wrong_family_is_an_error_of_the_handlers() {
    each_driver(|lp| {
        let log = Log::default();
        let options = ConnectOptions {
            family: Some(Family::V6),
            ..Default::default()
        };
        let script = Script::new(&log);
        TcpStream::connect_name_with(&lp, "127.0.0.1", 1, &options, script).unwrap();
        assert_eq!(log.events(), [], "not inside the call");
        run_to_end(&lp);
        let error = Event::Error(Code::EAI_ADDRFAMILY);
        assert_eq!(log.events(), [error, Event::Close]);
    });
}

// ---- in a network of its own: the hosts file ----

const HOSTS: Names = Names {
    hosts: "127.0.0.1 localhost\n::1 localhost\n\
            2001:db8::dead dead6.test\n127.0.0.1 dead6.test\n\
            2001:db8:ffff::1 gone6.test\n127.0.0.1 gone6.test\n\
            127.0.0.3 canonical.test alias.test\n127.0.0.3 again.test\n127.0.0.3 again.test\n",
    resolver: "nameserver 127.0.0.1\n",
    asks: false,
};

#[test]
fn a_dead_ipv6_address_does_not_keep_a_name_from_being_connected_to() {
    in_own_network!(HOSTS, || each_driver(|lp| {
        let (listener, address) = listen_at(LOCALHOST);
        let order = resolve(&lp, "dead6.test", "1").unwrap();
        assert_eq!(order, ["[2001:db8::dead]:1", "127.0.0.1:1"]);
        let log = Log::default();
        let begun = Instant::now();
        let tcp =
            TcpStream::connect_name(&lp, "dead6.test", address.port(), Script::new(&log)).unwrap();
        tcp.write(&lp, b"in spite of it").unwrap();
        run_until(&lp, || log.has(&Event::Open));
        assert!(
            begun.elapsed() >= Duration::from_millis(250),
            "the first had its time"
        );
        assert_eq!(tcp.peer_address(&lp), Ok(address));
        let (peer, _) = listener.accept().unwrap();
        assert_eq!(read_from_peer(&lp, &peer, 14), b"in spite of it");
        assert_eq!(lp.metrics().handles, 1);
    }));
}

#[test]
fn an_ipv6_address_without_a_route_is_passed_over() {
    in_own_network!(HOSTS, || each_driver(|lp| {
        let (_listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let tcp =
            TcpStream::connect_name(&lp, "gone6.test", address.port(), Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open));
        assert_eq!(tcp.peer_address(&lp), Ok(address));
    }));
}

#[test]
fn a_name_with_both_families_connects_to_whichever_answers() {
    in_own_network!(HOSTS, || each_driver(|lp| {
        let six = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
        for answers in [LOCALHOST, six] {
            let (_listener, address) = listen_at(answers);
            let log = Log::default();
            let tcp = TcpStream::connect_name(&lp, "localhost", address.port(), Script::new(&log))
                .unwrap();
            run_until(&lp, || log.has(&Event::Open));
            assert_eq!(tcp.peer_address(&lp), Ok(address));
            // The other one is silent, instead of refusing.
            let other =
                SocketAddr::new(if answers == six { LOCALHOST } else { six }, address.port());
            let _silent = Unresponsive::at(other);
            let log = Log::default();
            let tcp = TcpStream::connect_name(&lp, "localhost", address.port(), Script::new(&log))
                .unwrap();
            run_until(&lp, || log.has(&Event::Open));
            assert_eq!(tcp.peer_address(&lp), Ok(address));
        }
        let (holder, address) = nobody(LOCALHOST);
        let log = Log::default();
        TcpStream::connect_name(&lp, "localhost", address.port(), Script::new(&log)).unwrap();
        run_to_end(&lp);
        assert_eq!(
            log.events(),
            [Event::Error(Code::ECONNREFUSED), Event::Close]
        );
        drop(holder);
    }));
}

#[test]
fn the_family_that_is_asked_for_is_what_is_found() {
    in_own_network!(HOSTS, || each_driver(|lp| {
        let of = |family, host| {
            let options = ResolveOptions {
                family: Some(family),
                ..Default::default()
            };
            resolve_with(&lp, Some(host), Some("1"), &options).map(|it| texts(&it))
        };
        assert_eq!(of(Family::V4, "dead6.test").unwrap(), ["127.0.0.1:1"]);
        assert_eq!(
            of(Family::V6, "dead6.test").unwrap(),
            ["[2001:db8::dead]:1"]
        );
        let (_listener, address) = listen_at(LOCALHOST);
        let log = Log::default();
        let options = ConnectOptions {
            local: Some("127.0.0.2:0".parse().unwrap()),
            ..Default::default()
        };
        let script = Script::new(&log);
        let tcp = TcpStream::connect_name_with(&lp, "dead6.test", address.port(), &options, script)
            .unwrap();
        run_until(&lp, || log.has(&Event::Open));
        assert_eq!(
            tcp.local_address(&lp).unwrap().ip().to_string(),
            "127.0.0.2"
        );
    }));
}

#[test]
fn names_are_found_each_address_once_with_the_canonical_name() {
    in_own_network!(HOSTS, || each_driver(|lp| {
        assert_eq!(resolve(&lp, "again.test", "1").unwrap(), ["127.0.0.3:1"]);
        let options = ResolveOptions {
            canonical_name: true,
            ..Default::default()
        };
        let found = resolve_with(&lp, Some("alias.test"), None, &options).unwrap();
        assert_eq!(texts(&found), ["127.0.0.3:0"]);
        assert_eq!(found.canonical_name.as_deref(), Some("canonical.test"));
        let without = ResolveOptions::default();
        let found = resolve_with(&lp, Some("alias.test"), None, &without).unwrap();
        assert_eq!(found.canonical_name, None);
    }));
}

#[test]
fn a_name_that_there_is_not_is_an_error() {
    in_own_network!(HOSTS, || each_driver(|lp| {
        assert_eq!(resolve(&lp, "nobody.test", "1"), Err(Code::EAI_NONAME));
        assert_eq!(resolve(&lp, "bücher.test", "1"), Err(Code::EAI_NONAME));
        let log = Log::default();
        TcpStream::connect_name(&lp, "nobody.test", 1, Script::new(&log)).unwrap();
        run_to_end(&lp);
        let error = Event::Error(Code::EAI_NONAME);
        assert_eq!(log.events(), [error, Event::Close]);
    }));
}

#[test]
fn services_have_names_that_depend_on_the_type_of_socket() {
    if !std::fs::read_to_string("/etc/services").is_ok_and(|it| it.contains("tftp")) {
        return eprintln!("skipped: no /etc/services");
    }
    in_own_network!(HOSTS, || each_driver(|lp| {
        assert_eq!(resolve(&lp, "127.0.0.1", "http").unwrap(), ["127.0.0.1:80"]);
        let wrong = resolve(&lp, "127.0.0.1", "no-such-service");
        assert_eq!(wrong, Err(Code::EAI_SERVICE));
        // TFTP is a service of datagrams only.
        assert_eq!(resolve(&lp, "127.0.0.1", "tftp"), Err(Code::EAI_SERVICE));
        let datagrams = ResolveOptions {
            socket_type: SocketType::Datagram,
            ..Default::default()
        };
        let found = resolve_with(&lp, Some("again.test"), Some("tftp"), &datagrams);
        assert_eq!(texts(&found.unwrap()), ["127.0.0.3:69"]);
    }));
}

#[test]
fn addresses_have_names() {
    in_own_network!(HOSTS, || each_driver(|lp| {
        let reverse = |address: &str, options: &ReverseOptions| {
            let outcomes = Outcomes::default();
            let address = address.parse().unwrap();
            lp.reverse(address, options, told(&outcomes)).unwrap();
            assert!(outcomes.is_empty(), "not inside the call");
            run_to_end(&lp);
            outcomes.take().remove(0)
        };
        let numeric = ReverseOptions {
            numeric_service: true,
            ..Default::default()
        };
        let found = reverse("127.0.0.3:1", &numeric).unwrap();
        assert_eq!((&*found.host, &*found.service), ("canonical.test", "1"));
        // Nobody knows it: it stands for itself, unless a name is required.
        let found = reverse("192.0.2.7:1", &numeric).unwrap();
        assert_eq!((&*found.host, &*found.service), ("192.0.2.7", "1"));
        let required = ReverseOptions {
            name_required: true,
            ..numeric
        };
        assert_eq!(reverse("192.0.2.7:1", &required), Err(Code::EAI_NONAME));
    }));
}

#[test]
fn without_descriptors_a_lookup_fails_and_the_next_one_works() {
    in_own_network!(HOSTS, || each_driver(|lp| {
        // The thread is there already, and so is what the resolver reads once.
        assert!(resolve(&lp, "alias.test", "1").is_ok());
        let limit = libc::rlimit {
            rlim_cur: 128,
            rlim_max: 128,
        };
        // SAFETY: the limit is a valid one.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        assert!(resolve(&lp, "alias.test", "1").is_err());
        let log = Log::default();
        TcpStream::connect_name(&lp, "alias.test", 1, Script::new(&log)).unwrap();
        run_to_end(&lp);
        assert!(matches!(log.events()[..], [Event::Error(_), Event::Close]));
        drop(taken);
        assert!(resolve(&lp, "alias.test", "1").is_ok());
    }));
}

// ---- in a network of its own: a name server ----

/// The test's name server has half a minute to answer.
const ASKS: Names = Names {
    hosts: "127.0.0.1 localhost\n",
    resolver: "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n",
    asks: true,
};

#[test]
fn what_the_name_server_says_is_told() {
    in_own_network!(ASKS, || {
        NameServer::open().serve(|name| match name {
            "both.test" => Answer::Addresses(&["192.0.2.1", "2001:db8::7", "192.0.2.2"]),
            "empty.test" => Answer::Addresses(&[]),
            "broken.test" => Answer::Error(2),
            "refused.test" => Answer::Error(5),
            _ => Answer::Error(3),
        });
        each_driver(|lp| {
            let mut found = resolve(&lp, "both.test", "80").unwrap();
            found.sort();
            let expected = ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::7]:80"];
            assert_eq!(found, expected);
            assert_eq!(resolve(&lp, "none.test", "80"), Err(Code::EAI_NONAME));
            assert_eq!(resolve(&lp, "empty.test", "80"), Err(Code::EAI_NODATA));
            assert_eq!(resolve(&lp, "broken.test", "80"), Err(Code::EAI_AGAIN));
            assert_eq!(resolve(&lp, "refused.test", "80"), Err(Code::EAI_AGAIN));
        });
    });
}

/// Asks for a name that the name server does not answer; a thread is at it when this returns.
fn stuck<'a>(
    lp: &Loop,
    server: &'a NameServer,
    options: &ResolveOptions,
    outcomes: &Outcomes<Resolved>,
) -> (Request, impl FnOnce() + 'a) {
    let request = lp
        .resolve_with(Some("slow.test"), None, options, told(outcomes))
        .unwrap();
    // One for each family.
    let queries = [server.next(), server.next()];
    assert!(request.has_begun(lp).unwrap());
    let release = move || {
        for query in queries {
            server.answer(query, &Answer::Addresses(&["192.0.2.1"]));
        }
    };
    (request, release)
}

fn wait_for_slow_threads_to_end() {
    while slow_threads() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_lookup_under_way_is_canceled_closed_and_timed_out() {
    in_own_network!(ASKS, || {
        let server = NameServer::open();
        each_driver(|lp| {
            let outcomes = Outcomes::default();
            let options = ResolveOptions::default();
            let (request, release) = stuck(&lp, &server, &options, &outcomes);
            request.cancel(&lp).unwrap();
            assert!(outcomes.is_empty(), "not inside the call");
            assert_eq!(code(request.cancel(&lp)), Code::EBUSY);
            run_to_end(&lp);
            assert_eq!(outcomes.take(), [Err(Code::ECANCELED)]);
            release();

            let (request, release) = stuck(&lp, &server, &options, &outcomes);
            lp.close(request).unwrap();
            run_to_end(&lp);
            assert_eq!(outcomes.take(), [Err(Code::ECANCELED)]);
            release();

            let timeout = Duration::from_millis(50);
            let limited = ResolveOptions {
                timeout: Some(timeout),
                ..Default::default()
            };
            let begun = Instant::now();
            let (_, release) = stuck(&lp, &server, &limited, &outcomes);
            run_to_end(&lp);
            assert!(begun.elapsed() >= timeout, "early");
            assert_eq!(outcomes.take(), [Err(Code::ETIMEDOUT)]);
            release();

            // The threads were not lost, and what they brought home is nobody's.
            let (_, release) = stuck(&lp, &server, &options, &outcomes);
            release();
            run_to_end(&lp);
            assert!(outcomes.take()[0].is_ok());
            drop(lp);
            wait_for_slow_threads_to_end();
        });
    });
}

#[test]
fn a_loop_that_is_dropped_does_not_wait_for_the_resolver() {
    in_own_network!(ASKS, || {
        let server = NameServer::open();
        each_driver(|lp| {
            let outcomes = Outcomes::default();
            let options = ResolveOptions::default();
            let (_, release) = stuck(&lp, &server, &options, &outcomes);
            drop(lp);
            assert_eq!(outcomes.take(), [Err(Code::ECANCELED)]);
            assert_eq!(slow_threads(), 1, "it is still at it");
            release();
            wait_for_slow_threads_to_end();
            assert_eq!((outcomes.len(), outcomes.holders()), (0, 0));
        });
    });
}

#[test]
fn work_of_the_users_is_waited_for_though_the_resolver_is_not() {
    in_own_network!(ASKS, || {
        let server = NameServer::open();
        each_driver(|lp| {
            let outcomes = Outcomes::default();
            let options = ResolveOptions::default();
            let (_, release) = stuck(&lp, &server, &options, &outcomes);
            let (begun, has_begun) = mpsc::channel();
            let (go_on, wait) = mpsc::channel::<()>();
            let work = move || {
                begun.send(()).unwrap();
                let _ = wait.recv();
            };
            let done = Shared::<usize>::default();
            let noted = done.clone();
            lp.work_in(WorkClass::Slow, work, move |_, _| noted.add())
                .unwrap();
            has_begun.recv().unwrap();
            let helper = std::thread::spawn(move || drop(go_on));
            drop(lp);
            assert_eq!(done.get(), 1);
            assert_eq!(slow_threads(), 1, "the resolver's");
            helper.join().unwrap();
            release();
            wait_for_slow_threads_to_end();
        });
    });
}

#[test]
fn a_stream_whose_name_is_being_resolved_is_closed_and_timed_out() {
    in_own_network!(ASKS, || {
        let server = NameServer::open();
        each_driver(|lp| {
            let timeout = Some(Duration::from_millis(50));
            for timeout in [None, timeout] {
                let log = Log::default();
                let options = ConnectOptions {
                    timeout,
                    ..Default::default()
                };
                let script = Script::new(&log);
                let tcp =
                    TcpStream::connect_name_with(&lp, "slow.test", 80, &options, script).unwrap();
                let queries = [server.next(), server.next()];
                if timeout.is_none() {
                    lp.close(tcp).unwrap();
                }
                run_to_end(&lp);
                match timeout {
                    None => assert_eq!(log.events(), [Event::Close]),
                    Some(_) => {
                        assert_eq!(log.events(), [Event::Error(Code::ETIMEDOUT), Event::Close])
                    }
                }
                for query in queries {
                    server.answer(query, &Answer::Error(3));
                }
            }
            drop(lp);
            wait_for_slow_threads_to_end();
        });
    });
}

#[test]
fn a_name_of_many_addresses_is_connected_to_by_the_first_that_answers() {
    in_own_network!(ASKS, || {
        NameServer::open().serve(|_| {
            Answer::Addresses(&[
                "2001:db8::dead",
                "2001:db8:ffff::1",
                "127.0.0.9",
                "127.0.0.10",
            ])
        });
        each_driver(|lp| {
            let (_listener, address) = listen_at(IpAddr::from([127, 0, 0, 10]));
            let log = Log::default();
            let tcp = TcpStream::connect_name(&lp, "many.test", address.port(), Script::new(&log))
                .unwrap();
            run_until(&lp, || log.has(&Event::Open));
            assert_eq!(tcp.peer_address(&lp), Ok(address));
            assert_eq!(lp.metrics().handles, 1);
        });
    });
}
