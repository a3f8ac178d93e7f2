//! The model test: random sequences of calls, in and out of callbacks, on every driver, against
//! a small model of what a user may rely on.
//!
//! One seed is one sequence. A failure prints its seed, with the command that plays it again,
//! and the shortest sequence found that still fails.
//!
//! A step is one call of the library whose answer was compared with what the model says; the
//! callbacks that were compared are counted beside them.
//!
//! - `KOLO_MODEL_STEPS`: how many steps to make on each driver; as made, few. `scripts/check-model`
//!   makes a million, on all drivers together.
//! - `KOLO_MODEL_SEED`: plays this seed alone, with a trace of everything that happens if it fails.
//! - `KOLO_MODEL_TRACE`: prints what a simulation of several hosts traces, too, beside one seed.
//! - `KOLO_MODEL_BASE`: the first seed; as made, always the same.

#![cfg(all(
    unix,
    feature = "net",
    feature = "local",
    feature = "fs",
    feature = "process",
    feature = "dns",
    feature = "watch"
))]

mod model {
    pub mod connections;
    pub mod datagrams;
    pub mod descriptors;
    mod found;
    pub mod listeners;
    pub mod local;
    pub mod moving;
    pub mod names;
    #[cfg(feature = "sim")]
    pub mod network;
    pub mod operations;
    pub mod passing;
    pub mod processes;
    pub mod program;
    pub mod random;
    pub mod record;
    pub mod requests;
    pub mod sequence;
    pub mod simple;
    pub mod stream_calls;
    pub mod streams;
    pub mod watches;
    pub mod world;
}

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use model::program::{shrink, Program, NETWORK};
use model::record::Counts;
use model::sequence::{run, Outcome, PANIC};

/// Steps on each driver, as made.
const STEPS: u64 = 25_000;

/// With so many steps, everything must have happened that can.
const STEPS_ENOUGH: u64 = 100_000;

/// No longer than this on each driver, if `KOLO_MODEL_STEPS` does not ask for more.
const TIME_MAX: Duration = Duration::from_secs(25);

/// A sequence that has not ended by then hangs.
const HANG: Duration = Duration::from_secs(120);

/// How often a sequence is played before it counts as one that does not fail: time is not in
/// its seed.
const ATTEMPTS: usize = 3;

const SHRINK_TRIES: usize = 600;

/// What must have happened, or the sequences have not tried enough.
const MUST_HAPPEN: &[&str] = &[
    "timer callback",
    "deferred function",
    "posted function",
    "canceled function",
    "idle hook",
    "prepare hook",
    "check hook",
    "waker callback",
    "signal callback",
    "poll callback",
    "watch callback",
    "on_accept",
    "on_open",
    "on_data",
    "on_datagram",
    "on_descriptors",
    "on_exit",
    "name asked for",
    "request canceled",
    "request too late to cancel",
    "run unwound",
    "stream moved",
    "file sent",
    "memory",
    "handle passed",
    "handle taken",
    "on_received",
    "on_end",
    "on_drain",
    "on_timeout",
    "on_error",
    "done",
    "on_close of a handler",
    "on_close callback",
    "stream lingers",
    "write queue full",
    "write refused",
    "write canceled",
    "write too late to cancel",
    "write to cancel had ended",
    "stream released",
    "closed handle used",
    "post refused",
    "came to rest",
];

/// As [`MUST_HAPPEN`], between hosts.
const MUST_HAPPEN_ON_A_NETWORK: &[&str] = &[
    "timer callback",
    "on_accept",
    "on_error of a listener",
    "on_open",
    "on_data",
    "on_end",
    "on_timeout",
    "on_error",
    "on_datagram",
    "done",
    "on_close",
    "write canceled",
    "send canceled",
    "finish, lingering",
    "loop ended",
    "came to rest",
];

/// What only a kernel has, and no simulation.
const KERNEL_ONLY: &[&str] = &[
    "signal callback",
    "poll callback",
    "watch callback",
    "on_descriptors",
    "handle passed",
    "handle taken",
    "on_exit",
    "stream moved",
    "stream released",
];

/// A panic in a sequence is its failure: said once, in the report.
fn quiet_panics() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let before = PANIC.with(|panic| panic.borrow_mut().replace(info.to_string()));
            match before {
                // One that may not unwind ends the process: what led to it is told now or never.
                Some(before) if info.to_string().contains("during cleanup") => {
                    eprintln!("{before}");
                    usual(info);
                }
                Some(_) => {}
                None => {
                    PANIC.with(|panic| panic.take());
                    usual(info);
                }
            }
        }));
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn replay(program: &Program) -> String {
    let (seed, driver) = (program.seed, program.driver);
    let features = match driver {
        "sim" | NETWORK => " --features sim",
        _ => "",
    };
    format!("KOLO_MODEL_SEED={seed} cargo test{features} --test model {driver} -- --nocapture")
}

/// Aborts the process when a sequence hangs.
struct Watchdog {
    present: Arc<AtomicU64>,
    _stop: mpsc::Sender<()>,
}

impl Watchdog {
    fn new(driver: &'static str) -> Watchdog {
        let (stop, stopped) = mpsc::channel::<()>();
        let present = Arc::new(AtomicU64::new(0));
        let watched = present.clone();
        std::thread::spawn(move || loop {
            let before = watched.load(Ordering::SeqCst);
            match stopped.recv_timeout(HANG) {
                Err(mpsc::RecvTimeoutError::Timeout)
                    if watched.load(Ordering::SeqCst) == before =>
                {
                    eprintln!("hangs: KOLO_MODEL_SEED={before} cargo test --test model {driver}");
                    std::process::abort();
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        });
        Watchdog {
            present,
            _stop: stop,
        }
    }
}

fn fails(program: &Program, attempts: usize, tracing: bool) -> Option<Outcome> {
    let program = Arc::new(program.clone());
    (0..attempts)
        .map(|_| run(&program, tracing))
        .find(|outcome| outcome.failure.is_some())
}

/// What a failure is about, whatever the numbers in it: shortening must not find another.
fn kind(failure: &str) -> String {
    let letters = |word: &&str| word.chars().all(|c| c.is_alphabetic() || c == '_');
    failure
        .split_whitespace()
        .filter(letters)
        .take(5)
        .collect::<Vec<_>>()
        .join(" ")
}

fn report(program: &Program, outcome: Outcome, steps: u64) -> ! {
    let failure = outcome.failure.unwrap_or_default();
    eprintln!(
        "\nThe model test fails after {} steps: {failure}\n  again: {}",
        steps + outcome.steps,
        replay(program)
    );
    let mut impatient = program.clone();
    impatient.rest_max = Duration::from_secs(1);
    let attempts = if failure.contains("rest") {
        1
    } else {
        ATTEMPTS
    };
    let shortest = shrink(impatient, SHRINK_TRIES, |candidate| {
        let outcome = fails(candidate, attempts, false);
        outcome.is_some_and(|outcome| {
            outcome
                .failure
                .is_some_and(|found| kind(&found) == kind(&failure))
        })
    });
    eprintln!(
        "Shortened from {} to {} operations: {shortest}",
        program.length(),
        shortest.length()
    );
    match fails(&shortest, 10 * ATTEMPTS, true) {
        Some(outcome) => {
            eprintln!("which happened so:\n{}", outcome.trace.join("\n"));
            eprintln!("and failed: {}", outcome.failure.unwrap_or_default());
        }
        None => eprintln!("which did not fail again when it was traced"),
    }
    panic!("the model test fails: {failure}; {}", replay(program));
}

/// One test after the other: signals and descriptors are the process's.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn test(driver: &'static str) {
    let _one = one_at_a_time();
    // Asked in here: the others count descriptors.
    let options = kolo::LoopOptions {
        driver: Some(driver.to_owned()),
        ..Default::default()
    };
    if driver == "uring" && kolo::Loop::with_options(options).is_err() {
        return; // not everywhere
    }
    let virtual_time = driver == "sim";
    model::world::VIRTUAL_TIME.set(virtual_time);
    quiet_panics();
    // Before descriptors are counted.
    model::requests::pattern_file();
    let watchdog = Watchdog::new(driver);
    if let Some(seed) = number("KOLO_MODEL_SEED") {
        let program = Program::generate(seed, driver);
        if let Some(outcome) = fails(&program, 10 * ATTEMPTS, true) {
            eprintln!("{}", outcome.trace.join("\n"));
            report(&program, outcome, 0);
        }
        return;
    }
    let asked = number("KOLO_MODEL_STEPS");
    let steps_max = asked.unwrap_or(STEPS);
    let base = number("KOLO_MODEL_BASE").unwrap_or(1);
    let (began, mut counts) = (Instant::now(), Counts::new());
    let (mut steps, mut callbacks) = (0, 0);
    for seed in base.. {
        if steps >= steps_max || asked.is_none() && began.elapsed() > TIME_MAX {
            // scripts/check-model reads this line.
            let last = seed - 1;
            println!(
                "model: {steps} steps, {callbacks} callbacks on {driver}, seeds {base} to {last}"
            );
            break;
        }
        watchdog.present.store(seed, Ordering::SeqCst);
        let program = Arc::new(Program::generate(seed, driver));
        let outcome = run(&program, false);
        if outcome.failure.is_some() {
            report(&program, outcome, steps);
        }
        steps += outcome.steps;
        callbacks += outcome.callbacks;
        for (what, times) in outcome.counts {
            *counts.entry(what).or_default() += times;
        }
    }
    println!("{counts:#?}");
    let must_happen = match driver {
        NETWORK => MUST_HAPPEN_ON_A_NETWORK,
        _ => MUST_HAPPEN,
    };
    for what in must_happen {
        let may_lack = steps < STEPS_ENOUGH || virtual_time && KERNEL_ONLY.contains(what);
        assert!(
            counts.contains_key(what) || may_lack,
            "never happened: {what}"
        );
    }
}

#[test]
fn poller() {
    test("poller");
}

#[test]
fn polling() {
    test("polling");
}

#[test]
fn uring() {
    test("uring");
}

#[cfg(feature = "sim")]
#[test]
fn sim() {
    test("sim");
}

#[cfg(feature = "sim")]
#[test]
fn network() {
    test(NETWORK);
}
