//! The loop: the order of a turn, the run modes, what keeps it alive.

#![cfg(feature = "net")]

mod common;

use std::cell::Cell;
use std::io::Write;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use kolo::{
    Code, Hook, HookKind, Id, Kind, Loop, LoopOptions, RunMode, Stream, TcpListener, Timer, Waker,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Keeps the loop alive, without anything that happens.
fn far_timer(lp: &Loop) -> Timer {
    let timer = Timer::open(lp, |_, _| panic!("an hour is not over")).unwrap();
    timer.start(lp, HOUR).unwrap();
    timer
}

#[test]
fn a_turn_goes_through_its_phases_in_order() {
    each_driver(|lp| {
        let order = Shared::<Vec<&'static str>>::default();
        let note = |what: &'static str| {
            let order = order.clone();
            move || order.push(what)
        };
        for (kind, what) in [
            (HookKind::Check, "check"),
            (HookKind::Prepare, "prepare"),
            (HookKind::Idle, "idle"),
        ] {
            let noted = note(what);
            let hook = Hook::open(&lp, kind, move |_, _| noted()).unwrap();
            hook.start(&lp).unwrap();
        }
        let closed = Timer::open(&lp, |_, _| ()).unwrap();
        let noted = note("closing");
        lp.on_close(closed, move |_, _| noted()).unwrap();
        lp.close(closed).unwrap();
        let (noted, deferred_there) = (note("post"), note("deferred by the post"));
        // Only the loop's own thread touches them.
        struct Own<T>(T);
        unsafe impl<T> Send for Own<T> {}
        let own = Own((noted, deferred_there));
        lp.remote()
            .post(move |lp: &Loop| {
                let own = own;
                let Own((noted, deferred_there)) = own;
                noted();
                lp.defer(move |_: &Loop| deferred_there()).unwrap();
            })
            .unwrap();
        let noted = note("data");
        let (_, mut peer) = connected(&lp, move |_: &Loop, _: Stream, _: &[u8]| noted());
        peer.write_all(b"x").unwrap();
        let noted = note("deferred");
        lp.defer(move |_: &Loop| noted()).unwrap();
        let noted = note("timer");
        Timer::after(&lp, Duration::ZERO, move |_| noted()).unwrap();

        lp.run(RunMode::NoWait).unwrap();
        let expected = [
            "timer",
            "deferred",
            "idle",
            "prepare",
            "data",
            "post",
            "deferred by the post",
            "check",
            "closing",
        ];
        assert_eq!(order.take(), expected);
    });
}

#[test]
fn the_default_mode_runs_until_nothing_keeps_the_loop_alive() {
    each_driver(|lp| {
        assert!(!lp.is_alive());
        assert!(!lp.run(RunMode::Default).unwrap());
        let left = Shared::<usize>::new(5);
        let count = left.clone();
        let timer = Timer::open(&lp, move |lp, timer| {
            count.set(count.get() - 1);
            if count.get() > 0 {
                timer.start(lp, Duration::from_millis(1)).unwrap();
            }
        })
        .unwrap();
        timer.start(&lp, Duration::from_millis(1)).unwrap();
        assert!(lp.is_alive());
        assert!(!lp.run(RunMode::Default).unwrap());
        assert_eq!(left.get(), 0);
        // An open handle that is not active does not count.
        assert!(!lp.is_alive());
        assert_eq!(lp.handles(), [timer.id()]);
    });
}

#[test]
fn nowait_is_one_turn_that_does_not_wait() {
    each_driver(|lp| {
        far_timer(&lp);
        let turns = lp.metrics().turns;
        assert!(lp.run(RunMode::NoWait).unwrap());
        assert!(lp.run(RunMode::NoWait).unwrap());
        assert_eq!(lp.metrics().turns, turns + 2);
    });
}

#[test]
fn once_is_one_turn_that_waits() {
    each_driver(|lp| {
        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        let timer = Timer::open(&lp, move |_, _| counted.add()).unwrap();
        timer.start(&lp, Duration::from_millis(20)).unwrap();
        let started = Instant::now();
        // The timer that ended the wait fires in the same turn.
        assert!(!lp.run(RunMode::Once).unwrap());
        assert_eq!(fired.get(), 1);
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert_eq!(lp.metrics().turns, 1);
    });
}

#[test]
fn once_does_not_wait_after_something_happened() {
    each_driver(|lp| {
        far_timer(&lp);
        let happened = Shared::<usize>::default();
        let (by_defer, by_timer) = (happened.clone(), happened.clone());
        lp.defer(move |_: &Loop| by_defer.add()).unwrap();
        assert!(lp.run(RunMode::Once).unwrap());
        assert_eq!(happened.get(), 1);
        Timer::after(&lp, Duration::ZERO, move |_| by_timer.add()).unwrap();
        thread::sleep(Duration::from_millis(1));
        assert!(lp.run(RunMode::Once).unwrap());
        assert_eq!(happened.get(), 2);
    });
}

#[test]
fn stop_ends_the_run_after_its_turn() {
    each_driver(|lp| {
        far_timer(&lp);
        let ran = Shared::<Vec<&str>>::default();
        let (one, two, three) = (ran.clone(), ran.clone(), ran.clone());
        lp.defer(move |lp: &Loop| {
            lp.stop();
            one.push("stop");
            lp.defer(move |_: &Loop| two.push("second deferred phase of the turn"))
                .unwrap();
        })
        .unwrap();
        let check = Hook::open(&lp, HookKind::Check, move |_, _| three.push("check")).unwrap();
        check.start(&lp).unwrap();
        assert!(lp.run(RunMode::Default).unwrap());
        assert_eq!(
            ran.take(),
            ["stop", "second deferred phase of the turn", "check"]
        );
        assert_eq!(lp.metrics().turns, 1);
    });
}

#[test]
fn stop_before_a_run_makes_that_run_return_at_once_and_only_that() {
    each_driver(|lp| {
        for mode in [RunMode::Default, RunMode::Once, RunMode::NoWait] {
            let ran = Shared::<usize>::default();
            let counted = ran.clone();
            lp.defer(move |_: &Loop| counted.add()).unwrap();
            lp.stop();
            lp.stop();
            assert!(lp.run(mode).unwrap());
            assert_eq!(ran.get(), 0);
            assert!(!lp.run(mode).unwrap());
            assert_eq!(ran.get(), 1);
        }
        // Also when nothing kept the loop.
        lp.stop();
        assert!(!lp.run(RunMode::Default).unwrap());
        lp.defer(|_: &Loop| ()).unwrap();
        assert!(!lp.run(RunMode::Default).unwrap());
        assert_eq!(lp.metrics().turns, 4);
    });
}

#[test]
fn a_run_inside_a_callback_is_refused() {
    each_driver(|lp| {
        assert!(!lp.is_running());
        in_callback(&lp, |lp| {
            assert!(lp.is_running());
            for mode in [RunMode::Default, RunMode::Once, RunMode::NoWait] {
                assert_eq!(code(lp.run(mode)), Code::EBUSY);
            }
            assert!(lp.is_running());
            // Another loop may run there.
            let other = Loop::new().unwrap();
            in_callback(&other, |_| ());
        });
        assert!(!lp.is_running());
        lp.run(RunMode::NoWait).unwrap();
    });
}

#[test]
fn deferred_functions_run_in_order_and_those_deferred_meanwhile_later() {
    each_driver(|lp| {
        let order = Shared::<Vec<usize>>::default();
        for which in 0..3 {
            let order = order.clone();
            lp.defer(move |lp: &Loop| {
                order.push(which);
                lp.defer(move |lp: &Loop| {
                    order.push(which + 10);
                    lp.defer(move |_: &Loop| order.push(which + 20)).unwrap();
                })
                .unwrap();
            })
            .unwrap();
        }
        // A hook of the turn tells its first phase from its second.
        let marks = order.clone();
        let prepare = Hook::open(&lp, HookKind::Prepare, move |_, _| marks.push(100)).unwrap();
        prepare.start(&lp).unwrap();
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(order.take(), [0, 1, 2, 100, 10, 11, 12]);
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(order.take(), [20, 21, 22, 100]);
        lp.close(prepare).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn more_deferred_functions_than_may_wait_are_refused() {
    let lp = Loop::new().unwrap();
    let ran = Rc::new(Cell::new(0));
    let defer = || {
        let ran = ran.clone();
        lp.defer(move |_: &Loop| ran.set(ran.get() + 1))
    };
    for _ in 0..1 << 20 {
        defer().unwrap();
    }
    assert_eq!(code(defer()), Code::ENOBUFS);
    run_to_end(&lp);
    assert_eq!(ran.get(), 1 << 20);
    defer().unwrap();
    run_to_end(&lp);
    assert_eq!(ran.get(), (1 << 20) + 1);
}

#[test]
fn what_is_deferred_or_posted_or_closing_keeps_the_loop_alive() {
    each_driver(|lp| {
        lp.defer(|_: &Loop| ()).unwrap();
        assert!(lp.is_alive());
        run_to_end(&lp);
        lp.remote().post(|_: &Loop| ()).unwrap();
        assert!(lp.is_alive());
        assert_eq!(lp.metrics().posts_waiting, 1);
        run_to_end(&lp);
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        lp.unref(timer).unwrap();
        lp.close(timer).unwrap();
        assert!(lp.is_alive());
        run_to_end(&lp);
        assert!(!lp.is_alive());
    });
}

#[test]
fn the_clock_is_read_once_a_turn_and_on_demand() {
    each_driver(|lp| {
        let times = Shared::<Vec<Duration>>::default();
        for _ in 0..2 {
            let times = times.clone();
            lp.defer(move |lp: &Loop| {
                times.push(lp.now());
                thread::sleep(Duration::from_millis(2));
            })
            .unwrap();
        }
        let after = times.clone();
        lp.defer(move |lp: &Loop| {
            after.push(lp.now());
            lp.update_now();
            after.push(lp.now());
        })
        .unwrap();
        lp.run(RunMode::NoWait).unwrap();
        let times = times.take();
        assert_eq!(times[0], times[1]);
        assert_eq!(times[0], times[2]);
        assert!(times[3] >= times[0] + Duration::from_millis(4));
        // A run brings it up to date, also one with nothing to do.
        let before = lp.now();
        thread::sleep(Duration::from_millis(2));
        lp.run(RunMode::Default).unwrap();
        assert!(lp.now() >= before + Duration::from_millis(2));
    });
}

#[test]
fn backend_timeout_tells_how_long_another_loop_may_wait() {
    each_driver(|lp| {
        assert_eq!(
            lp.backend_timeout(),
            Some(Duration::ZERO),
            "nothing keeps it alive"
        );
        let listener =
            TcpListener::listen(&lp, "127.0.0.1:0".parse().unwrap(), |_: &Loop, _, _| ()).unwrap();
        assert_eq!(lp.backend_timeout(), None);
        let timer = far_timer(&lp);
        let timeout = lp.backend_timeout().unwrap();
        assert!(timeout <= HOUR && timeout > HOUR / 2);
        lp.defer(|_: &Loop| ()).unwrap();
        assert_eq!(lp.backend_timeout(), Some(Duration::ZERO));
        lp.run(RunMode::NoWait).unwrap();
        assert_ne!(lp.backend_timeout(), Some(Duration::ZERO));
        lp.close(timer).unwrap();
        assert_eq!(lp.backend_timeout(), Some(Duration::ZERO));
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(lp.backend_timeout(), None);
        lp.close(listener).unwrap();
    });
}

#[test]
fn handles_are_listed_and_described() {
    each_driver(|lp| {
        let timer = far_timer(&lp);
        let waker = Waker::open(&lp, |_, _| ()).unwrap();
        lp.unref(waker).unwrap();
        let (tcp, _peer) = connected(&lp, |_: &Loop, _: Stream, _: &[u8]| ());
        let mut listed = lp.handles();
        listed.sort();
        let mut expected = [timer.id(), waker.id(), tcp.id()];
        expected.sort();
        assert_eq!(listed, expected);
        let line = |id: Id| lp.describe(id).unwrap();
        assert!(
            line(timer.id()).starts_with("Timer "),
            "{}",
            line(timer.id())
        );
        assert!(line(timer.id()).contains(" active"));
        assert!(line(waker.id()).contains("unreferenced"));
        assert!(line(tcp.id()).contains("reading"));
        assert_eq!(lp.kind(tcp).unwrap(), Kind::Tcp);
        assert_eq!(lp.metrics().handles, 3);
    });
}

#[cfg(unix)]
#[test]
fn signals_add_no_handle_to_the_listing() {
    each_driver(|lp| {
        let signal = kolo::Signal::open(&lp, |_, _, _| ()).unwrap();
        signal.start(&lp, libc::SIGWINCH).unwrap();
        assert_eq!(lp.handles(), [signal.id()]);
        assert_eq!(lp.metrics().handles, 1);
        lp.close(signal).unwrap();
        run_to_end(&lp);
        assert_eq!(lp.metrics().handles, 0);
    });
}

#[test]
fn metrics_count_turns_events_callbacks_and_time() {
    let measured = || LoopOptions {
        measure_time: true,
        ..LoopOptions::default()
    };
    each_driver_with(measured, |lp| {
        let pause = Duration::from_millis(3);
        let (_, mut peer) = connected(&lp, move |_: &Loop, _: Stream, _: &[u8]| {
            thread::sleep(pause)
        });
        let before = lp.metrics();
        assert_eq!((before.turns, before.events, before.callbacks), (0, 0, 0));
        peer.write_all(b"x").unwrap();
        lp.run(RunMode::Once).unwrap();
        let after = lp.metrics();
        assert_eq!((after.turns, after.events, after.callbacks), (1, 1, 1));
        assert!(after.longest_callback >= pause);
        assert!(after.in_callbacks >= after.longest_callback);
        Timer::after(&lp, pause * 2, |_| ()).unwrap();
        lp.run(RunMode::Once).unwrap();
        assert!(lp.metrics().idle > Duration::ZERO);
        assert!(lp.metrics().longest_callback >= pause);
    });
}

#[test]
fn the_watchdog_tells_which_callback_was_slow() {
    let limit = Duration::from_millis(5);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let list = seen.clone();
    let watched = move || {
        let list = list.clone();
        LoopOptions {
            slow_callback: Some((
                limit,
                Box::new(move |_, id, took| list.lock().unwrap().push((id, took))),
            )),
            ..LoopOptions::default()
        }
    };
    each_driver_with(watched, |lp| {
        let timer = Timer::open(&lp, move |_, _| thread::sleep(limit * 2)).unwrap();
        timer.start(&lp, Duration::ZERO).unwrap();
        run_to_end(&lp);
        lp.defer(move |_: &Loop| thread::sleep(limit * 2)).unwrap();
        run_to_end(&lp);
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        // A machine that stalls may add others.
        let told: Vec<Option<Id>> = seen.iter().map(|(id, _)| *id).collect();
        assert!(
            told.contains(&Some(timer.id())) && told.contains(&None),
            "{told:?}"
        );
        assert!(seen.iter().all(|(_, took)| *took >= limit));
    });
}

#[test]
fn a_turn_hands_out_no_more_events_than_it_may() {
    let few = || LoopOptions {
        events_per_turn: NonZeroU32::new(4).unwrap(),
        ..LoopOptions::default()
    };
    each_driver_with(few, |lp| {
        let log = Log::default();
        let streams: Vec<_> = (0..30).map(|_| connected(&lp, Script::new(&log))).collect();
        for (_, peer) in &streams {
            let mut peer = peer;
            peer.write_all(b"x").unwrap();
        }
        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        let check = Hook::open(&lp, HookKind::Check, move |_, _| counted.add()).unwrap();
        check.start(&lp).unwrap();
        let mut before = 0;
        while log.data().len() < 30 {
            lp.run(RunMode::Once).unwrap();
            assert!(log.data().len() - before <= 4);
            before = log.data().len();
        }
        assert!(fired.get() >= 30 / 4);
    });
}

#[test]
fn an_unknown_driver_is_not_supported() {
    let options = LoopOptions {
        driver: Some("steam".to_owned()),
        ..LoopOptions::default()
    };
    assert_eq!(code(Loop::with_options(options)), Code::ENOTSUP);
}

#[test]
fn loops_in_several_threads_do_not_disturb_each_other() {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(|| {
                each_driver(|lp| {
                    let log = Log::default();
                    let (_, mut peer) = connected(&lp, |lp: &Loop, stream: Stream, data: &[u8]| {
                        stream.write(lp, data).unwrap();
                    });
                    for round in 0..200 {
                        peer.write_all(&pattern(round, 100)).unwrap();
                        assert_pattern(&read_from_peer(&lp, &peer, 100), round);
                    }
                    assert_eq!(log.events(), []);
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The callback only returns when it was reported.
#[test]
fn a_stuck_callback_is_reported_while_it_is_stuck() {
    for driver in drivers() {
        let (tell, told) = std::sync::mpsc::channel();
        let options = LoopOptions {
            driver: Some(driver.to_owned()),
            stuck_callback: Some((
                Duration::from_millis(20),
                Box::new(move |id, ran| tell.send((id, ran)).unwrap()),
            )),
            ..Default::default()
        };
        let lp = Loop::with_options(options).unwrap();
        let reports = Rc::new(told);
        let (by_timer, by_task) = (reports.clone(), reports.clone());
        let limit = Duration::from_secs(100);
        let ours = Rc::new(Cell::new(None));
        let expected = ours.clone();
        let timer = Timer::after(&lp, Duration::from_millis(1), move |_| {
            let (id, ran) = by_timer.recv_timeout(limit).unwrap();
            assert_eq!(id, expected.get());
            assert!(ran > Duration::from_millis(20));
        })
        .unwrap();
        ours.set(Some(timer.id()));
        lp.run(RunMode::Default).unwrap();
        lp.defer(move |_: &Loop| {
            let (id, _) = by_task.recv_timeout(limit).unwrap();
            assert_eq!(id, None);
        })
        .unwrap();
        lp.run(RunMode::Default).unwrap();
        drop(lp);
        // Each is told once, and a loop that waits is not stuck.
        assert!(reports.try_recv().is_err());
    }
}
