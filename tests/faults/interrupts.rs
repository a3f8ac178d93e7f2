//! Signals that interrupt system calls: every thread of a program that does everything gets thousands a second, with a
//! handler that lets calls end early (no `SA_RESTART`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::drivers;
use crate::everything;
use crate::own_process;
use crate::support::{faults, Folder};

static CAME: AtomicU64 = AtomicU64::new(0);

extern "C" fn handler(_: libc::c_int) {
    CAME.fetch_add(1, Ordering::Relaxed);
}

/// A handler that does nothing, and does not have interrupted calls go on.
fn interrupt_by(signal: libc::c_int) {
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

/// Sends signals to every other thread of the process.
struct Storm {
    /// One descriptor all the time: others count them.
    tasks: *mut libc::DIR,
    over: AtomicBool,
}

// SAFETY: only the thread that blows looks at the folder.
unsafe impl Sync for Storm {}

impl Storm {
    fn new() -> Storm {
        let tasks = unsafe { libc::opendir(c"/proc/self/task".as_ptr()) };
        assert!(!tasks.is_null());
        Storm {
            tasks,
            over: AtomicBool::new(false),
        }
    }

    fn blow(&self) {
        let own = unsafe { libc::syscall(libc::SYS_gettid) };
        while !self.over.load(Ordering::Relaxed) {
            unsafe { libc::rewinddir(self.tasks) };
            while let Some(entry) = unsafe { libc::readdir(self.tasks).as_ref() } {
                let name = unsafe { std::ffi::CStr::from_ptr(entry.d_name.as_ptr()) };
                // "." and ".." are no threads.
                let task: i64 = name.to_str().unwrap().parse().unwrap_or(own);
                if task != own {
                    let process = std::process::id();
                    // It may have ended meanwhile.
                    unsafe { libc::syscall(libc::SYS_tgkill, process, task, libc::SIGUSR1) };
                }
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        unsafe { libc::closedir(self.tasks) };
    }
}

/// Ends it, also when the test fails.
struct Calm<'a>(&'a Storm);

impl Drop for Calm<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// SIGPROF too: the one signal that the threads of a pool take, for profilers.
fn every_100_us(timer: libc::c_int) {
    let often = libc::timeval {
        tv_sec: 0,
        tv_usec: 100,
    };
    let times = libc::itimerval {
        it_interval: often,
        it_value: often,
    };
    let outcome = unsafe { libc::setitimer(timer as _, &times, std::ptr::null_mut()) };
    assert_eq!(outcome, 0);
}

fn under_a_storm(run: impl FnOnce()) {
    for signal in [libc::SIGUSR1, libc::SIGALRM, libc::SIGPROF] {
        interrupt_by(signal);
    }
    let storm = Storm::new();
    std::thread::scope(|scope| {
        scope.spawn(|| storm.blow());
        let _calm = Calm(&storm);
        every_100_us(libc::ITIMER_REAL as _);
        every_100_us(libc::ITIMER_PROF as _);
        // It does interrupt calls.
        let mut pipe = [0; 2];
        unsafe {
            assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0);
            assert_eq!(libc::read(pipe[0], [0u8; 1].as_mut_ptr().cast(), 1), -1);
            let error = std::io::Error::last_os_error();
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
            libc::close(pipe[0]);
            libc::close(pipe[1]);
        }
        run();
    });
}

fn storms(rounds: u32) {
    for driver in drivers() {
        std::env::set_var("KOLO_DRIVER", driver);
        under_a_storm(|| {
            let before = CAME.load(Ordering::Relaxed);
            let folder = Folder::new();
            for _ in 0..rounds {
                assert!(everything::run("", &folder.0, || ()), "{driver}");
            }
            let told = everything::told();
            assert!(told.is_empty(), "{driver}: {told:?}");
            let came = CAME.load(Ordering::Relaxed) - before;
            assert!(came > 100, "{came} signals are no storm");
            faults(rounds * everything::names_of_parts().count() as u32);
        });
    }
}

#[test]
fn in_a_storm_of_signals_everything_is_done_and_no_interruption_is_told() {
    own_process!(|| storms(1));
}

#[test]
#[ignore = "long: make check-faults"]
fn in_a_long_storm_of_signals_everything_is_done_again_and_again() {
    own_process!(|| storms(10));
}
