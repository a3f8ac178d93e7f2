//! Signals. They belong to the whole process, so each test has one of its own.

#![cfg(unix)]

mod common;

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use common::*;
use kolo::{Code, Loop, RunMode, Signal, Timer};

fn raise(number: i32) {
    assert_eq!(unsafe { libc::raise(number) }, 0);
}

/// A signal handle that notes the numbers it is told.
fn watch(lp: &Loop, number: i32) -> (Signal, Shared<Vec<i32>>) {
    let told = Shared::<Vec<i32>>::default();
    let list = told.clone();
    let signal = Signal::open(lp, move |_, _, number| list.push(number)).unwrap();
    signal.start(lp, number).unwrap();
    (signal, told)
}

/// What the process does about a signal: handler, flags and the signals blocked meanwhile.
fn disposition(number: i32) -> (libc::sighandler_t, i32, Vec<i32>) {
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(number, std::ptr::null(), &mut action), 0);
        let blocked = (1..32).filter(|number| libc::sigismember(&action.sa_mask, *number) == 1);
        // Without those that the C library sets for itself.
        let flags = libc::SA_RESTART | libc::SA_NODEFER | libc::SA_SIGINFO | libc::SA_RESETHAND;
        let flags = action.sa_flags & flags;
        (action.sa_sigaction, flags, blocked.collect())
    }
}

#[test]
fn a_signal_is_told_by_its_number() {
    in_own_process!(|| each_driver(|lp| {
        let signals = [
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGHUP,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGCHLD,
        ];
        let watched: Vec<_> = signals.iter().map(|number| watch(&lp, *number)).collect();
        for (number, (signal, told)) in signals.iter().zip(&watched) {
            assert!(lp.is_active(*signal).unwrap() && lp.is_alive());
            raise(*number);
            assert!(told.is_empty(), "not inside the signal's handler");
            run_until(&lp, || told.len() == 1);
            assert_eq!(told.get(), [*number]);
        }
        for (number, (_, told)) in signals.iter().zip(&watched) {
            assert_eq!(told.get(), [*number], "only its own");
        }
        // From elsewhere, too, also while the loop waits.
        let process = std::process::id() as i32;
        let killing = thread::spawn(move || {
            assert_eq!(unsafe { libc::kill(process, libc::SIGUSR1) }, 0);
        });
        run_until(&lp, || watched[0].1.len() == 2);
        killing.join().unwrap();
    }));
}

#[test]
fn every_handle_of_every_loop_hears_of_it() {
    in_own_process!(|| each_driver(|lp| {
        let other = Loop::new().unwrap();
        let watched: Vec<_> = [&lp, &lp, &other, &other]
            .map(|lp| watch(lp, libc::SIGUSR1))
            .into();
        let (ready, is_ready) = mpsc::channel();
        let (told, is_told) = mpsc::channel();
        let third = thread::spawn(move || {
            let lp = Loop::new().unwrap();
            let signal = Signal::open(&lp, move |lp, signal, number| {
                told.send(number).unwrap();
                lp.close(signal).unwrap();
            })
            .unwrap();
            signal.start(&lp, libc::SIGUSR1).unwrap();
            ready.send(()).unwrap();
            run_to_end(&lp);
        });
        is_ready.recv().unwrap();
        raise(libc::SIGUSR1);
        run_until(&lp, || watched[0].1.len() == 1 && watched[1].1.len() == 1);
        run_until(&other, || {
            watched[2].1.len() == 1 && watched[3].1.len() == 1
        });
        assert_eq!(is_told.recv(), Ok(libc::SIGUSR1));
        third.join().unwrap();
        // The others go on when one stops.
        watched[0].0.stop(&lp).unwrap();
        lp.close(watched[2].0).unwrap_err();
        other.close(watched[2].0).unwrap();
        raise(libc::SIGUSR1);
        run_until(&lp, || watched[1].1.len() == 2);
        run_until(&other, || watched[3].1.len() == 2);
        some_turns(&lp);
        assert_eq!((watched[0].1.len(), watched[2].1.len()), (1, 1));
    }));
}

#[test]
fn signals_that_come_together_may_be_one_but_never_none() {
    in_own_process!(|| each_driver(|lp| {
        let (_, told) = watch(&lp, libc::SIGUSR1);
        for _ in 0..1000 {
            raise(libc::SIGUSR1);
        }
        run_until(&lp, || !told.is_empty());
        some_turns(&lp);
        assert!(told.len() <= 1000);
        // One after another, each is told: a lost one would hang.
        for _ in 0..500 {
            let before = told.len();
            raise(libc::SIGUSR1);
            run_until(&lp, || told.len() > before);
        }
    }));
}

#[test]
fn the_former_disposition_comes_back_with_the_last_handle() {
    static CAME: AtomicI32 = AtomicI32::new(0);
    extern "C" fn former(number: libc::c_int) {
        CAME.store(number, Ordering::SeqCst);
    }
    in_own_process!(|| each_driver(|lp| {
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = former as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_NODEFER;
            libc::sigaddset(&mut action.sa_mask, libc::SIGURG);
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
            libc::signal(libc::SIGUSR2, libc::SIG_IGN);
        }
        let before = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGHUP].map(disposition);
        let now = || [libc::SIGUSR1, libc::SIGUSR2, libc::SIGHUP].map(disposition);
        let other = Loop::new().unwrap();
        let (first, _) = watch(&lp, libc::SIGUSR1);
        let (second, told) = watch(&other, libc::SIGUSR1);
        let (third, _) = watch(&lp, libc::SIGUSR2);
        let (_fourth, _) = watch(&lp, libc::SIGHUP);
        assert!(now().iter().zip(&before).all(|(now, before)| now != before));
        first.stop(&lp).unwrap();
        raise(libc::SIGUSR1);
        run_until(&other, || told.len() == 1);
        assert_eq!(CAME.load(Ordering::SeqCst), 0);
        other.close(second).unwrap();
        assert_eq!(now()[0], before[0]);
        raise(libc::SIGUSR1);
        assert_eq!(CAME.swap(0, Ordering::SeqCst), libc::SIGUSR1);
        // Watching another signal instead.
        third.start(&lp, libc::SIGALRM).unwrap();
        assert_eq!(now()[1], before[1]);
        drop(lp);
        assert_eq!(now(), before);
        raise(libc::SIGUSR2);
        drop(other);
        assert_eq!(now(), before);
    }));
}

#[test]
fn stop_drops_what_was_not_told_yet() {
    in_own_process!(|| each_driver(|lp| {
        let (signal, told) = watch(&lp, libc::SIGUSR1);
        let (other, others) = watch(&lp, libc::SIGUSR1);
        raise(libc::SIGUSR1);
        signal.stop(&lp).unwrap();
        assert!(!lp.is_active(signal).unwrap());
        run_until(&lp, || others.len() == 1);
        signal.start(&lp, libc::SIGUSR1).unwrap();
        some_turns(&lp);
        assert!(told.is_empty());
        // The last one to stop leaves nothing behind for a new start.
        other.stop(&lp).unwrap();
        raise(libc::SIGUSR1);
        signal.stop(&lp).unwrap();
        signal.start(&lp, libc::SIGUSR1).unwrap();
        some_turns(&lp);
        assert!(told.is_empty());
        raise(libc::SIGUSR1);
        run_until(&lp, || told.len() == 1);
    }));
}

#[test]
fn one_of_two_handles_can_stop_the_other_in_its_callback() {
    in_own_process!(|| each_driver(|lp| {
        for starts_again in [false, true] {
            let signals = Shared::<Vec<Signal>>::default();
            let told = Shared::<usize>::default();
            for _ in 0..2 {
                let (all, counted) = (signals.clone(), told.clone());
                let signal = Signal::open(&lp, move |lp, signal, number| {
                    counted.add();
                    let other = all
                        .get()
                        .into_iter()
                        .find(|other| *other != signal)
                        .unwrap();
                    other.stop(lp).unwrap();
                    if starts_again {
                        other.start(lp, number).unwrap();
                    }
                })
                .unwrap();
                signal.start(&lp, libc::SIGUSR1).unwrap();
                signals.push(signal);
            }
            raise(libc::SIGUSR1);
            run_until(&lp, || told.get() > 0);
            some_turns(&lp);
            assert_eq!(told.get(), 1);
            for signal in signals.take() {
                lp.close(signal).unwrap();
            }
        }
    }));
}

#[test]
fn start_with_another_number_watches_that_one_instead() {
    in_own_process!(|| each_driver(|lp| {
        let (signal, told) = watch(&lp, libc::SIGUSR1);
        let (_kept, others) = watch(&lp, libc::SIGUSR1);
        signal.start(&lp, libc::SIGUSR2).unwrap();
        signal.start(&lp, libc::SIGUSR2).unwrap();
        raise(libc::SIGUSR1);
        run_until(&lp, || others.len() == 1);
        assert!(told.is_empty());
        raise(libc::SIGUSR2);
        run_until(&lp, || told.len() == 1);
        assert_eq!(told.get(), [libc::SIGUSR2]);
        signal.stop(&lp).unwrap();
        signal.stop(&lp).unwrap();
    }));
}

#[test]
fn what_cannot_be_watched_is_an_error_and_changes_nothing() {
    in_own_process!(|| each_driver(|lp| {
        let (signal, told) = watch(&lp, libc::SIGUSR1);
        for number in [
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            0,
            -1,
            65,
            i32::MAX,
            i32::MIN,
        ] {
            assert_eq!(code(signal.start(&lp, number)), Code::EINVAL);
        }
        raise(libc::SIGUSR1);
        run_until(&lp, || told.len() == 1);
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        assert_eq!(
            code(Signal::from_id(timer.id()).start(&lp, libc::SIGUSR1)),
            Code::EBADF
        );
    }));
}

#[test]
fn a_watched_signal_holds_the_loop_until_it_is_stopped() {
    in_own_process!(|| each_driver(|lp| {
        let signal = Signal::open(&lp, |_, _, _| ()).unwrap();
        assert!(!lp.is_alive());
        signal.start(&lp, libc::SIGUSR1).unwrap();
        assert!(lp.is_alive());
        lp.unref(signal).unwrap();
        assert!(!lp.is_alive());
        lp.reference(signal).unwrap();
        signal.stop(&lp).unwrap();
        run_to_end(&lp);
    }));
}

#[test]
fn signals_do_not_cut_a_wait_short_nor_make_timers_early() {
    in_own_process!(|| each_driver(|lp| {
        // Handled by somebody else, without restarting system calls: every wait is interrupted.
        extern "C" fn nothing(_: libc::c_int) {}
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut());
        }
        let target = unsafe { libc::pthread_self() } as usize;
        let ended = Arc::new(AtomicI32::new(0));
        let stop = ended.clone();
        let interrupting = thread::spawn(move || {
            while stop.load(Ordering::Relaxed) == 0 {
                unsafe { libc::pthread_kill(target as libc::pthread_t, libc::SIGUSR2) };
                thread::sleep(Duration::from_micros(200));
            }
        });
        let delay = Duration::from_millis(60);
        let started = std::time::Instant::now();
        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        Timer::after(&lp, delay, move |_| counted.add()).unwrap();
        lp.run(RunMode::Default).unwrap();
        assert_eq!(fired.get(), 1);
        assert!(started.elapsed() >= delay);
        ended.store(1, Ordering::Relaxed);
        interrupting.join().unwrap();
        // Nobody is told of a signal that nobody watches.
        assert_eq!(lp.metrics().callbacks, 1);
    }));
}

#[cfg(feature = "net")]
#[test]
fn a_storm_of_signals_during_input_and_output_loses_no_byte() {
    use std::io::{Read, Write};
    use std::net::Shutdown;

    extern "C" fn nothing(_: libc::c_int) {}
    in_own_process!(|| each_driver(|lp| {
        // One is watched; the other interrupts system calls that its handler does not have restarted.
        let (_signal, told) = watch(&lp, libc::SIGUSR1);
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut());
        }
        let total = 4 * 1024 * 1024;
        let log = Log::default();
        let echo = Script::new(&log).on_data(|lp, stream, data| {
            stream.write(lp, data).unwrap();
        });
        let echo = echo.on_end(|lp, stream| stream.finish(lp).unwrap());
        let (_, peer) = connected(&lp, echo);
        let target = unsafe { libc::pthread_self() } as usize;
        let ended = Arc::new(AtomicI32::new(0));
        let stop = ended.clone();
        let raising = thread::spawn(move || {
            while stop.load(Ordering::Relaxed) == 0 {
                for number in [libc::SIGUSR1, libc::SIGUSR2] {
                    unsafe { libc::pthread_kill(target as libc::pthread_t, number) };
                }
                thread::sleep(Duration::from_micros(50));
            }
        });
        let mut writer = peer.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&pattern(0, total)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut reader = peer;
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        run_until(&lp, || log.closed());
        writing.join().unwrap();
        let all = reading.join().unwrap();
        assert_eq!(all.len(), total);
        assert_pattern(&all, 0);
        assert!(!told.is_empty());
        ended.store(1, Ordering::Relaxed);
        raising.join().unwrap();
    }));
}

#[test]
fn a_signal_of_another_thread_is_told_on_the_loops() {
    in_own_process!(|| each_driver(|lp| {
        let here = thread::current().id();
        let told = Shared::<usize>::default();
        let counted = told.clone();
        let signal = Signal::open(&lp, move |_, _, _| {
            assert_eq!(thread::current().id(), here);
            counted.add();
        })
        .unwrap();
        signal.start(&lp, libc::SIGUSR1).unwrap();
        // A thread's own signal, which no other can take: so the loop waits undisturbed.
        for round in 1..=100 {
            let raising = thread::spawn(|| raise(libc::SIGUSR1));
            run_until(&lp, || told.get() == round);
            raising.join().unwrap();
        }
    }));
}

#[test]
fn loops_may_come_and_go_while_signals_come() {
    in_own_process!(|| {
        let lasting = Loop::new().unwrap();
        let (_kept, told) = watch(&lasting, libc::SIGUSR1);
        let ended = Arc::new(AtomicI32::new(0));
        let stop = ended.clone();
        let raising = thread::spawn(move || {
            while stop.load(Ordering::Relaxed) == 0 {
                unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
                thread::yield_now();
            }
        });
        each_driver(|_| {
            for _ in 0..100 {
                let lp = Loop::new().unwrap();
                let (_signal, told) = watch(&lp, libc::SIGUSR1);
                run_until(&lp, || !told.is_empty());
            }
        });
        run_until(&lasting, || !told.is_empty());
        ended.store(1, Ordering::Relaxed);
        raising.join().unwrap();
    });
}
