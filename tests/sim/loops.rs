//! Loops and time in a simulation.

use std::panic::{catch_unwind, AssertUnwindSafe};

use super::*;
use kolo::{Code, Hook, HookKind, LoopOptions, Poll, RunMode, Stream, Timer, Waker};

fn echo(lp: &Loop, stream: Stream, data: &[u8]) {
    stream.write(lp, data).unwrap();
}

#[test]
fn timers_fire_at_their_time_exactly_and_in_order() {
    let simulation = Simulation::new(SimulationOptions::with_seed(9)).unwrap();
    let lp = simulation.new_loop(ip("10.0.0.1")).unwrap();
    let begun = lp.now();
    let fired = Shared::new(Vec::new());
    // Farther from each other than a turn takes.
    let delays = [7_777_777, 1, 3_600_000_000_000, 123_456, 999_999_999];
    for delay in delays {
        let fired = fired.clone();
        let note = move |lp: &Loop, timer: Timer| {
            fired.push(lp.now());
            lp.close(timer).unwrap();
        };
        let timer = Timer::open(&lp, note).unwrap();
        timer.start(&lp, Duration::from_nanos(delay)).unwrap();
    }
    assert_eq!(simulation.run(secs(10_000)), Ok(Outcome::Done));
    let mut wanted = delays
        .map(|delay| begun + Duration::from_nanos(delay))
        .to_vec();
    wanted.sort();
    assert_eq!(fired.get(), wanted);
}

#[test]
fn hours_pass_in_no_time() {
    let pair = Pair::new(SimulationOptions::with_seed(1));
    pair.listen(|| echo);
    let answers = Shared::new(0);
    let counted = answers.clone();
    let tcp = pair.connect(move |_: &Loop, _: Stream, _: &[u8]| counted.add());
    let ask = move |lp: &Loop, _: Timer| {
        tcp.write(lp, b"ping").unwrap();
    };
    let timer = Timer::open(&pair.client, ask).unwrap();
    timer
        .start_repeating(&pair.client, secs(1), secs(1))
        .unwrap();
    assert_eq!(pair.run(secs(4 * 3600)), Outcome::TimeLimit);
    assert_eq!(pair.simulation.elapsed(), secs(4 * 3600));
    assert!(answers.get() >= 4 * 3600 - 2, "{}", answers.get());
}

#[test]
fn a_run_in_which_nothing_can_happen_any_more_is_quiet() {
    let pair = Pair::plain();
    TcpListener::listen(&pair.server, at(SERVER), |_: &Loop, _, _| ()).unwrap();
    assert_eq!(pair.run(Duration::MAX), Outcome::Quiet);
    assert_eq!(code(pair.server.run(RunMode::Default)), Code::EDEADLK);
    assert_eq!(pair.server.run(RunMode::NoWait), Ok(true));
    assert_eq!(pair.client.run(RunMode::Default), Ok(false));
}

#[test]
fn what_is_to_happen_at_the_end_of_time_does_not() {
    let pair = Pair::plain();
    let timer = Timer::open(&pair.client, |_: &Loop, _| panic!("never")).unwrap();
    timer.start(&pair.client, Duration::MAX).unwrap();
    assert_eq!(pair.run(Duration::MAX), Outcome::Quiet);
    assert_eq!(pair.simulation.elapsed(), Duration::ZERO);
}

#[test]
fn a_loop_that_is_run_runs_the_others_until_it_is_done() {
    let pair = Pair::plain();
    pair.listen(|| echo);
    let log = Log::default();
    let tcp = pair.connect(Script::new(&log).on_data(|lp, stream, _| lp.close(stream).unwrap()));
    tcp.write(&pair.client, b"x").unwrap();
    assert_eq!(pair.client.run(RunMode::Default), Ok(false));
    assert!(log.closed());
}

#[test]
fn one_turn_at_a_time() {
    let pair = Pair::plain();
    let fired = Shared::new(0);
    let counted = fired.clone();
    let timer = Timer::open(&pair.client, move |_: &Loop, _| counted.add()).unwrap();
    timer
        .start_repeating(&pair.client, secs(1), secs(1))
        .unwrap();
    // No time passes.
    assert_eq!(pair.client.run(RunMode::NoWait), Ok(true));
    assert_eq!(fired.get(), 0);
    for turns in 1..4 {
        assert_eq!(pair.client.run(RunMode::Once), Ok(true));
        assert_eq!(fired.get(), turns);
        assert_eq!(pair.simulation.elapsed(), secs(turns as u64));
    }
}

#[test]
fn a_stopped_loop_ends_the_run() {
    let pair = Pair::plain();
    let timer = Timer::open(&pair.client, |lp: &Loop, _| lp.stop()).unwrap();
    timer
        .start_repeating(&pair.client, secs(1), secs(1))
        .unwrap();
    for round in 1..3 {
        assert_eq!(pair.run(secs(100)), Outcome::Stopped);
        assert_eq!(pair.simulation.elapsed(), secs(round));
    }
    assert_eq!(pair.client.run(RunMode::Default), Ok(true));
    assert_eq!(pair.simulation.elapsed(), secs(3));
}

#[test]
fn a_stop_is_over_with_the_run_that_it_ended() {
    let pair = Pair::plain();
    pair.client.stop();
    assert_eq!(pair.client.run(RunMode::Default), Ok(false));
    let timer = Timer::open(&pair.client, |lp: &Loop, timer: Timer| {
        lp.close(timer).unwrap()
    });
    timer.unwrap().start(&pair.client, secs(1)).unwrap();
    assert_eq!(pair.client.run(RunMode::Default), Ok(false));
    assert_eq!(pair.simulation.elapsed(), secs(1));
}

#[test]
fn a_simulation_is_not_run_inside_of_itself() {
    let pair = Rc::new(Pair::plain());
    let (inner, seen) = (pair.clone(), Shared::new(Vec::new()));
    let noted = seen.clone();
    let timer = Timer::open(&pair.client, move |lp: &Loop, timer: Timer| {
        noted.push(code(inner.simulation.run(secs(1))));
        noted.push(code(lp.run(RunMode::NoWait)));
        noted.push(code(inner.server.run(RunMode::Default)));
        assert!(inner.simulation.is_running());
        lp.close(timer).unwrap();
    });
    timer.unwrap().start(&pair.client, secs(1)).unwrap();
    assert_eq!(pair.run(secs(100)), Outcome::Done);
    assert_eq!(seen.get(), [Code::EBUSY; 3]);
    assert!(!pair.simulation.is_running());
}

#[test]
fn posts_and_wakers_cross_between_loops() {
    let pair = Pair::plain();
    let log = Shared::new(Vec::new());
    let (woken, posted) = (log.clone(), log.clone());
    let waker = Waker::open(&pair.server, move |lp: &Loop, waker: Waker| {
        woken.push("woken");
        lp.close(waker).unwrap();
    });
    let remote = waker.unwrap().remote(&pair.server).unwrap();
    let server = pair.server.remote();
    pair.client
        .defer(move |_: &Loop| {
            remote.wake().unwrap();
            server.post(|_: &Loop| ()).unwrap();
        })
        .unwrap();
    pair.server
        .defer(move |_: &Loop| posted.push("deferred"))
        .unwrap();
    assert_eq!(pair.run(secs(1)), Outcome::Done);
    let mut all = log.take();
    all.sort();
    assert_eq!(all, ["deferred", "woken"]);
}

#[test]
fn an_idle_hook_does_not_stop_the_clock() {
    let pair = Pair::plain();
    let hook = Hook::open(&pair.client, HookKind::Idle, |_: &Loop, _| ()).unwrap();
    hook.start(&pair.client).unwrap();
    assert_eq!(pair.run(ms(10)), Outcome::TimeLimit);
    assert_eq!(pair.simulation.elapsed(), ms(10));
}

#[test]
fn a_panic_in_a_callback_leaves_the_simulation_usable() {
    let pair = Pair::plain();
    pair.listen(|| echo);
    let log = Log::default();
    let mut first = true;
    let tcp = pair.connect(Script::new(&log).on_open(move |_, _| {
        assert!(!std::mem::take(&mut first), "on purpose");
    }));
    tcp.write(&pair.client, b"still here").unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| pair.run(secs(1))));
    assert!(outcome.is_err());
    assert!(!pair.simulation.is_running());
    pair.until(|| log.data() == b"still here");
}

#[test]
fn work_runs_in_virtual_time_on_the_loops_own_thread() {
    let simulation = Simulation::new(SimulationOptions {
        work_min: secs(2),
        work_max: secs(3),
        ..plain()
    });
    let lp = simulation.unwrap().new_loop(ip("10.0.0.1")).unwrap();
    let (begun, here) = (lp.now(), std::thread::current().id());
    let seen = Shared::new(Vec::new());
    let noted = seen.clone();
    lp.work(
        move || std::thread::current().id() == here,
        move |lp: &Loop, same| noted.push((same, lp.now())),
    )
    .unwrap();
    let panicked = seen.clone();
    lp.work(
        || panic!("on purpose"),
        move |lp: &Loop, outcome: kolo::Result<()>| {
            panicked.push((outcome.map(|()| true), lp.now()));
        },
    )
    .unwrap();
    let cancelled = seen.clone();
    let request = lp.work(
        || (),
        move |lp: &Loop, outcome| {
            cancelled.push((outcome.map(|()| true), lp.now()));
        },
    );
    request.unwrap().cancel(&lp).unwrap();
    assert_eq!(lp.run(RunMode::Default), Ok(false));
    let mut outcomes: Vec<_> = seen.get().into_iter().map(|(outcome, _)| outcome).collect();
    assert_eq!(outcomes.remove(0), Err(Code::ECANCELED.into()));
    assert!(outcomes.contains(&Ok(true)) && outcomes.contains(&Err(Code::EPANIC.into())));
    let took = seen.get()[1].1 - begun;
    assert!((secs(2)..secs(4)).contains(&took), "{took:?}");
}

#[cfg(feature = "fs")]
#[test]
fn cancelled_work_leaves_the_pools_queue_as_it_is() {
    use kolo::fs::{self, File, OpenFlags};
    let simulation = Simulation::new(plain()).unwrap();
    let lp = simulation.new_loop(ip("10.0.0.1")).unwrap();
    // Files are closed by the pool's threads in a simulation, too.
    for _ in 0..100 {
        let files: Vec<_> = (0..40)
            .map(|_| File::open_sync(&lp, "/dev/null", OpenFlags::WRITE).unwrap())
            .collect();
        for file in files {
            lp.close(file).unwrap();
        }
        lp.run(RunMode::NoWait).unwrap();
        for _ in 0..4 {
            let request = fs::stat("/").start(&lp, |_: &Loop, _| ()).unwrap();
            request.cancel(&lp).unwrap();
        }
        assert_eq!(lp.run(RunMode::Default), Ok(false));
    }
}

#[cfg(feature = "dns")]
#[test]
fn names_are_the_simulations() {
    let pair = Pair::plain();
    pair.listen(|| echo);
    let (dead, alive) = (ip("10.77.0.1"), ip("10.0.0.1"));
    pair.simulation.set_name("Server.example", &[dead, alive]);
    let log = Log::default();
    let tcp = TcpStream::connect_name(&pair.client, "server.EXAMPLE.", 80, Script::new(&log));
    pair.until(|| log.has(&Event::Open));
    // The first was silent, so the second was tried.
    assert_eq!(tcp.unwrap().peer_address(&pair.client).unwrap(), at(SERVER));
    let found = Shared::new(Vec::new());
    let noted = found.clone();
    let note = move |_: &Loop, resolved: kolo::Result<kolo::Resolved>| {
        noted.push(
            resolved
                .map(|resolved| resolved.addresses)
                .map_err(|it| it.code()),
        );
    };
    pair.client
        .resolve("server.example", "90", note.clone())
        .unwrap();
    pair.until(|| found.len() == 1);
    pair.client
        .resolve("nobody.example", "90", note.clone())
        .unwrap();
    pair.until(|| found.len() == 2);
    pair.simulation.set_name("server.example", &[]);
    pair.client.resolve("server.example", "90", note).unwrap();
    pair.until(|| found.len() == 3);
    let addresses = vec![SocketAddr::new(dead, 90), SocketAddr::new(alive, 90)];
    let none = Err(Code::EAI_NONAME);
    assert_eq!(found.get(), [Ok(addresses), none.clone(), none]);
}

#[test]
fn loops_of_one_host_share_its_ports_and_its_loopback() {
    let simulation = Simulation::new(plain()).unwrap();
    let one = simulation.new_loop(ip("10.0.0.1")).unwrap();
    let other = simulation.new_loop(ip("10.0.0.1")).unwrap();
    let elsewhere = simulation.new_loop(ip("10.0.0.2")).unwrap();
    let nothing = || |_: &Loop, _: Stream, _: &[u8]| ();
    let accept = move |lp: &Loop, _, tcp: TcpStream| tcp.attach(lp, nothing()).unwrap();
    let here = at("127.0.0.1:5000");
    let listener = TcpListener::listen(&one, here, accept).unwrap();
    assert_eq!(
        code(TcpListener::listen(&other, here, accept)),
        Code::EADDRINUSE
    );
    assert_eq!(
        code(TcpListener::listen(&other, at("0.0.0.0:5000"), accept)),
        Code::EADDRINUSE
    );
    assert_eq!(
        code(TcpListener::listen(&other, at("10.0.0.2:5000"), accept)),
        Code::EADDRNOTAVAIL
    );
    TcpListener::listen(&elsewhere, here, accept).unwrap();
    let (near, far) = (Log::default(), Log::default());
    TcpStream::connect(&other, here, Script::new(&near)).unwrap();
    TcpStream::connect(&elsewhere, at("10.0.0.1:5000"), Script::new(&far)).unwrap();
    simulation.run(secs(10)).unwrap();
    assert_eq!(near.events(), [Event::Open]);
    // It listens at the loopback alone.
    assert_eq!(
        far.events(),
        [Event::Error(Code::ECONNREFUSED), Event::Close]
    );
    one.close(listener).unwrap();
    TcpListener::listen(&other, here, accept).unwrap();
}

#[test]
fn a_loop_that_goes_closes_its_sockets() {
    let pair = Pair::plain();
    let server = Log::default();
    let of_server = server.clone();
    pair.listen(move || Script::new(&of_server).on_end(|lp, stream| lp.close(stream).unwrap()));
    let (log, other) = (Log::default(), Log::default());
    pair.connect(Script::new(&log));
    let third = pair.simulation.new_loop(ip("10.0.0.3")).unwrap();
    TcpStream::connect(&third, at(SERVER), Script::new(&other)).unwrap();
    pair.until(|| log.has(&Event::Open) && other.has(&Event::Open));
    drop(third);
    assert!(other.closed());
    pair.until(|| server.has(&Event::Close));
    assert!(!log.closed());
    // A loop outlives what made it.
    let Pair {
        simulation,
        server: lp,
        client,
    } = pair;
    drop(simulation);
    drop(lp);
    assert_eq!(client.run(RunMode::Default), Ok(false));
    assert_eq!(log.events(), [Event::Open, Event::End]);
}

#[test]
fn what_needs_a_kernel_is_not_supported() {
    let pair = Pair::plain();
    let lp = &*pair.client;
    let nothing = || |_: &Loop, _: Stream, _: &[u8]| ();
    let (socket, peer) = socket_pair();
    assert_eq!(
        code(Poll::open(
            lp,
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            |_: &Loop, _, _| ()
        )),
        Code::ENOTSUP
    );
    assert_eq!(code(TcpStream::adopt(lp, socket, nothing())), Code::ENOTSUP);
    drop(peer);
    assert_eq!(
        code(kolo::Signal::open(lp, |_: &Loop, _, _| ())),
        Code::ENOTSUP
    );
    #[cfg(feature = "local")]
    assert_eq!(
        code(kolo::LocalStream::connect(lp, "/nowhere", nothing())),
        Code::ENOTSUP
    );
    #[cfg(feature = "watch")]
    {
        let watch = kolo::Watch::open(lp, ".", &Default::default(), |_: &Loop, _, _| ());
        assert_eq!(code(watch), Code::ENOTSUP);
    }
    #[cfg(feature = "process")]
    {
        let spawned = kolo::Command::new("true").spawn(lp, |_: &Loop, _, _| ());
        assert_eq!(
            spawned
                .map_err(|error| error.error)
                .map(drop)
                .map_err(|it| it.code()),
            Err(Code::ENOTSUP)
        );
    }
    let log = Log::default();
    pair.listen(nothing);
    let tcp = pair.connect(Script::new(&log));
    pair.until(|| log.has(&Event::Open));
    assert_eq!(code(tcp.raw_socket(lp)), Code::ENOTSUP);
    assert_eq!(code(tcp.release(lp)), Code::ENOTSUP);
    let moved = tcp.move_to(lp, &pair.server.remote(), |_: &Loop, _| ());
    assert_eq!(code(moved), Code::ENOTSUP);
    assert_eq!(code(lp.backend_descriptor()), Code::ENOTSUP);
    assert_eq!(log.events(), [Event::Open]);
    // The driver is not one to be had by name.
    let options = LoopOptions {
        driver: Some("sim".into()),
        ..Default::default()
    };
    assert_eq!(code(Loop::with_options(options).map(drop)), Code::ENOTSUP);
    assert_eq!(lp.driver_name(), "sim");
}

#[test]
fn dual_stack_listeners_show_mapped_addresses() {
    let pair = Pair::plain();
    pair.simulation
        .add_address(ip("10.0.0.1"), ip("2001:db8::1"))
        .unwrap();
    pair.simulation
        .add_address(ip("10.0.0.2"), ip("2001:db8::2"))
        .unwrap();
    let peers = Shared::new(Vec::new());
    let noted = peers.clone();
    let accept = move |lp: &Loop, _, tcp: TcpStream| {
        noted.push(tcp.peer_address(lp).unwrap().ip());
        tcp.attach(lp, |_: &Loop, _: Stream, _: &[u8]| ()).unwrap();
    };
    TcpListener::listen(&pair.server, at("[::]:80"), accept).unwrap();
    let log = Log::default();
    pair.connect(Script::new(&log));
    TcpStream::connect(&pair.client, at("[2001:db8::1]:80"), Script::new(&log)).unwrap();
    pair.until(|| peers.len() == 2);
    let mut peers = peers.take();
    peers.sort();
    assert_eq!(peers, [ip("::ffff:10.0.0.2"), ip("2001:db8::2")]);
}
