//! Clocks that jump. kolo counts by the monotonic clock alone: the wall clock may be set as it likes. And where the
//! monotonic clock itself is far from where it was (a container that was moved, a machine that slept), timers still fire.
//!
//! The clocks of this machine are left alone: a library that is loaded first answers for them.

use std::ffi::CString;
use std::process::Command;
use std::time::Duration;

use kolo::{Loop, RunMode, Timer};

use crate::common::*;
use crate::support::{faults, in_own_process_with, skipped, Folder};
use crate::{everything, own_namespaces, test_name};

/// Stands before the C library: the wall clock is a day further at each look, or a day back, and the monotonic one is
/// where a test puts it.
const CLOCKS: &str = r#"
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_llong looks, ahead_ns;

long long kolo_test_looks(void) { return looks; }
void kolo_test_jump(long long ns) { ahead_ns += ns; }

static void jump(struct timespec *time, long long ns) {
    ns += time->tv_nsec;
    time->tv_sec += ns / 1000000000;
    time->tv_nsec = ns % 1000000000;
    if (time->tv_nsec < 0) { time->tv_nsec += 1000000000; time->tv_sec--; }
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (syscall(SYS_clock_gettime, clock, time) < 0) return -1;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        long long look = ++looks;
        time->tv_sec += look % 2 ? look * 86400 : -look * 86400;
    } else if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE) {
        jump(time, ahead_ns);
    }
    return 0;
}

int gettimeofday(struct timeval *time, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"#;

/// Runs the test in a process of its own with clocks that jump; says so and does not where there is no C compiler.
fn with_jumping_clocks(name: &str, test: impl FnOnce()) {
    let folder = Folder::new();
    let (source, library) = (folder.at("clocks.c"), folder.at("clocks.so"));
    std::fs::write(&source, CLOCKS).unwrap();
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source);
    if !compiler.status().is_ok_and(|status| status.success()) {
        return skipped(1, &format!("{name}: no C compiler"));
    }
    in_own_process_with(name, &[("LD_PRELOAD", library.to_str().unwrap())], test);
}

fn symbol(name: &str) -> *mut libc::c_void {
    let name = CString::new(name).unwrap();
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!found.is_null(), "the library is not there");
    found
}

/// Puts the monotonic clock ahead, or back.
fn jump(seconds: i64) {
    let jump: extern "C" fn(i64) = unsafe { std::mem::transmute(symbol("kolo_test_jump")) };
    jump(seconds * 1_000_000_000);
}

#[test]
fn the_wall_clock_may_jump_at_every_look_and_nothing_changes() {
    with_jumping_clocks(test_name!(), || {
        let looks: extern "C" fn() -> i64 =
            unsafe { std::mem::transmute(symbol("kolo_test_looks")) };
        let now = || {
            std::time::SystemTime::UNIX_EPOCH
                .elapsed()
                .unwrap()
                .as_secs()
        };
        assert!(now().abs_diff(now()) > 1000, "the wall clock jumps");
        for driver in drivers() {
            std::env::set_var("KOLO_DRIVER", driver);
            let before = looks();
            let folder = Folder::new();
            assert!(everything::run("", &folder.0, || ()));
            let told = everything::told();
            assert!(told.is_empty(), "{driver}: {told:?}");
            let lp = Loop::new().unwrap();
            let fired = Shared::<usize>::default();
            let count = fired.clone();
            let timer = Timer::open(&lp, move |_, _| count.add()).unwrap();
            let often = Duration::from_millis(3);
            let began = std::time::Instant::now();
            timer.start_repeating(&lp, often, often).unwrap();
            run_until(&lp, || fired.get() == 10);
            assert!(began.elapsed() >= 10 * often, "early");
            // Waiting with a timeout, which a C library may count by the wall clock.
            assert!(looks() - before < 100, "kolo looks at the wall clock");
            faults(1);
        }
    });
}

#[test]
fn a_monotonic_clock_that_leaps_ahead_fires_what_is_due_once_and_one_that_falls_back_delays() {
    with_jumping_clocks(test_name!(), || {
        each_driver(|lp| {
            let (once, often) = (Shared::<usize>::default(), Shared::<usize>::default());
            let (count_once, count_often) = (once.clone(), often.clone());
            let single = Timer::open(&lp, move |_, _| count_once.add()).unwrap();
            let periodic = Timer::open(&lp, move |_, _| count_often.add()).unwrap();
            single.start(&lp, Duration::from_secs(3000)).unwrap();
            let minute = Duration::from_secs(60);
            periodic.start_repeating(&lp, minute, minute).unwrap();
            some_turns(&lp);
            assert_eq!((once.get(), often.get()), (0, 0));
            // As after an hour's sleep.
            jump(3600);
            lp.run(RunMode::NoWait).unwrap();
            some_turns(&lp);
            assert_eq!((once.get(), often.get()), (1, 1));
            assert!(periodic.overrun(&lp).unwrap() >= 58);
            faults(1);
            // A clock that falls back: what was due in a moment is due that much later, and nothing breaks.
            single.start(&lp, Duration::from_millis(1)).unwrap();
            jump(-7200);
            some_turns(&lp);
            let turns = lp.metrics().turns;
            let (sender, receiver) = std::sync::mpsc::channel();
            let remote = lp.remote();
            let thread = std::thread::spawn(move || {
                for _ in 0..5 {
                    std::thread::sleep(Duration::from_millis(10));
                    remote.wake().unwrap();
                }
                remote.post(move |_: &Loop| sender.send(()).unwrap())
            });
            run_until(&lp, || receiver.try_recv().is_ok());
            thread.join().unwrap().unwrap();
            assert!(lp.metrics().turns - turns < 30, "it spins");
            assert_eq!(once.get(), 1, "never early");
            jump(7200);
            run_until(&lp, || once.get() == 2);
            faults(1);
        });
    });
}

/// In a time namespace (time_namespaces(7)) the clocks begin elsewhere: in a hundred years.
#[test]
fn everything_is_done_where_the_monotonic_clock_is_a_hundred_years_ahead() {
    let options = [
        "--mount",
        "--time",
        "--monotonic",
        "3155760000",
        "--boottime",
        "3155760000",
    ];
    own_namespaces!(options, "true", 1, || {
        for driver in drivers() {
            std::env::set_var("KOLO_DRIVER", driver);
            assert!(kolo::system::uptime().unwrap().as_secs() > 3_155_760_000);
            let folder = Folder::new();
            assert!(everything::run("", &folder.0, || ()));
            let told = everything::told();
            assert!(told.is_empty(), "{driver}: {told:?}");
            faults(1);
        }
    });
}
