//! Runs one program on a loop, from the loop's making to its dropping.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kolo::{Code, HookKind, Interest, Loop, LoopOptions, Pool, PoolOptions, RunMode};

use super::connections::{Connection, End};
use super::program::{Operation, Program, What, NETWORK};
use super::random::Random;
use super::record::{Counts, Record};
use super::world::{outside, Body, Life, OnPurpose, Token, World};

/// What became of a program.
pub struct Outcome {
    pub failure: Option<String>,
    pub trace: Vec<String>,
    pub steps: u64,
    pub callbacks: u64,
    pub counts: Counts,
}

impl Outcome {
    fn take(&mut self, record: Record) {
        self.failure = record.failure;
        self.trace = record.trace.into();
        (self.steps, self.callbacks) = (record.steps, record.callbacks);
        self.counts = record.counts;
    }
}

/// What a loop makes when it is first needed, and keeps: for signals, for programs, for watches.
const KEPT: usize = 3;

/// Descriptors that the process has open, where that can be told.
fn descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

thread_local! {
    /// While a sequence is played: the panic that ended it, if one did.
    pub static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

pub fn run(program: &Arc<Program>, tracing: bool) -> Outcome {
    let (tokens, before) = (Token::alive(), descriptors());
    PANIC.with(|panic| *panic.borrow_mut() = Some(String::new()));
    let caught = catch_unwind(AssertUnwindSafe(|| play(program, tracing)));
    let panic = PANIC.with(|panic| panic.borrow_mut().take());
    let mut outcome = Outcome {
        failure: None,
        trace: Vec::new(),
        steps: 0,
        callbacks: 0,
        counts: Counts::new(),
    };
    if let Some(world) = World::take() {
        outcome.take(world.record);
    }
    #[cfg(feature = "sim")]
    if let Some(record) = super::network::take() {
        outcome.take(record);
    }
    if caught.is_err() {
        outcome.failure = Some(panic.unwrap_or_default());
    }
    if outcome.failure.is_none() {
        // A program that was let go of is waited for whenever a loop is dropped.
        let began = Instant::now();
        while program.spawns() && descriptors() != before && began.elapsed() < program.rest_max {
            drop(Loop::new());
            std::thread::sleep(Duration::from_millis(1));
        }
        let (tokens_now, now) = (Token::alive(), descriptors());
        if tokens_now != tokens {
            outcome.failure = Some(format!(
                "{} callbacks were not dropped",
                tokens_now - tokens
            ));
        } else if now != before {
            outcome.failure = Some(format!(
                "{now:?} descriptors are open, {before:?} were before"
            ));
        }
    }
    outcome
}

/// The loop, whose callbacks do nothing any more if it goes in a panic.
struct Playground {
    lp: Rc<Loop>,
    guard: usize,
    rest_max: Duration,
    /// Open when the loop was new.
    descriptors: usize,
}

impl Drop for Playground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            outside(|world| world.check(false, || "panic".into()));
        }
    }
}

#[cfg(feature = "sim")]
fn simulated_loop(program: &Program, options: LoopOptions) -> Rc<Loop> {
    use kolo::sim::{Simulation, SimulationOptions};
    let usual = SimulationOptions::with_seed(program.seed);
    let partial = [0, usual.partial_read_ppm, 500_000][program.seed as usize % 3];
    let simulation = Simulation::new(SimulationOptions {
        partial_read_ppm: partial,
        partial_write_ppm: partial,
        ..usual
    });
    // The loop keeps what it needs of it.
    let simulation = simulation.expect("a simulation");
    let lp = simulation.new_loop_with(super::connections::HOST, options);
    lp.expect("a loop")
}

#[cfg(not(feature = "sim"))]
fn simulated_loop(_: &Program, _: LoopOptions) -> Rc<Loop> {
    unreachable!("without the feature there is no such driver")
}

fn make_loop(program: &Program, options: LoopOptions) -> Rc<Loop> {
    if program.driver == "sim" {
        let driver = None;
        return simulated_loop(program, LoopOptions { driver, ..options });
    }
    Rc::new(Loop::with_options(options).expect("a loop"))
}

fn play(program: &Arc<Program>, tracing: bool) {
    #[cfg(feature = "sim")]
    if program.driver == NETWORK {
        return super::network::play(program, tracing);
    }
    let mut random = Random::new(program.seed ^ 0x6c70);
    let number = |of: &[u32], random: &mut Random| {
        NonZeroU32::new(of[random.below(of.len() as u32) as usize]).unwrap_or(NonZeroU32::MIN)
    };
    let options = LoopOptions {
        driver: Some(program.driver.into()),
        events_per_turn: number(&[1, 3, 1024, 1024], &mut random),
        post_capacity: number(&[1, 3, 65_536], &mut random),
        measure_time: random.percent(20),
        ..Default::default()
    };
    let small_pool = random.percent(30);
    let pool = small_pool.then(|| {
        Pool::new(PoolOptions {
            compute_threads: NonZeroU32::new(1),
            file_threads: NonZeroU32::MIN,
            slow_threads: NonZeroU32::MIN,
            queue_capacity: NonZeroU32::MIN,
            ..Default::default()
        })
    });
    let options = LoopOptions { pool, ..options };
    let (post_capacity, rests) = (options.post_capacity.get() as usize, random.percent(70));
    let lp = make_loop(program, options);
    assert_eq!(lp.driver_name(), program.driver);
    let mut world = World::new(program.clone(), &lp, post_capacity, tracing);
    world.small_pool = small_pool;
    world.install();
    let guard = outside(|world| world.furnish(&lp))
        .flatten()
        .expect("the test's own handles");
    let playground = Playground {
        lp,
        guard,
        rest_max: program.rest_max,
        descriptors: descriptors().unwrap_or(0),
    };
    for operation in &program.outside {
        if is_over() {
            break;
        }
        match operation.what {
            What::Run => playground.run_as_told(operation),
            _ => {
                outside(|world| world.operate(&playground.lp, operation));
            }
        }
    }
    if rests {
        playground.come_to_rest();
        playground.close_all();
        playground.check_descriptors(program);
    }
    playground.end();
}

fn is_over() -> bool {
    outside(|world| world.is_over()).unwrap_or(true)
}

impl Playground {
    fn run_as_told(&self, operation: &Operation) {
        let wait = Duration::from_micros(u64::from(operation.b) % 500);
        match operation.a % 16 {
            0 => self.run(RunMode::Default, wait * 2),
            1..=3 => self.run(RunMode::Once, wait),
            4..=6 => (0..operation.b % 6).for_each(|_| self.run(RunMode::NoWait, wait)),
            _ => self.run(RunMode::NoWait, wait),
        }
    }

    /// Runs the loop, for so long if it waits.
    fn run(&self, mode: RunMode, longest: Duration) {
        let lp = &self.lp;
        if is_over() {
            return;
        }
        outside(|world| {
            world.note(|| format!("run {mode:?}"));
            if mode != RunMode::NoWait {
                world.timer_start_in(lp, self.guard, longest);
            }
            world.run_begins(lp, mode == RunMode::Once);
        });
        let got = catch_unwind(AssertUnwindSafe(|| lp.run(mode)));
        let got = match got {
            Ok(got) => got,
            Err(payload) if payload.is::<OnPurpose>() => {
                outside(World::run_unwound);
                outside(|world| {
                    if mode != RunMode::NoWait && !world.is_over() {
                        world.timer_stop(lp, self.guard);
                    }
                });
                return;
            }
            Err(payload) => resume_unwind(payload),
        };
        outside(|world| {
            world.run_ended();
            let alive = lp.is_alive();
            let got = world.outcome("run", got, None);
            world.check(got == Some(alive), || {
                format!("run said {got:?}, is_alive {alive}")
            });
            if mode != RunMode::NoWait && !world.is_over() {
                world.timer_stop(lp, self.guard);
            }
            if !world.is_over() && world.random.percent(5) {
                world.observe(lp);
            }
        });
    }

    /// Nothing new is begun: all that is owed must come.
    fn come_to_rest(&self) {
        let (lp, began) = (&self.lp, Instant::now());
        outside(|world| world.calm_down(lp));
        for turn in 0.. {
            let unsettled = outside(|world| {
                world.raw_accept();
                world.raw_read_all(lp);
                world.raw_udp_receive();
                world.udp_receive_all(lp);
                world.read_everything(lp);
                world.unsettled(lp)
            });
            let Some(unsettled) = unsettled.flatten() else {
                break;
            };
            if is_over() {
                return;
            }
            if began.elapsed() > self.rest_max {
                outside(|world| {
                    world.check(false, || format!("does not come to rest: {unsettled}"))
                });
                return;
            }
            let mode = if turn % 4 == 3 {
                RunMode::Once
            } else {
                RunMode::NoWait
            };
            self.run(mode, Duration::from_millis(1));
        }
        outside(|world| {
            if !world.is_over() {
                world.observe(lp);
                world.count("came to rest");
            }
        });
    }

    /// When everything is closed the loop has nothing to live for.
    fn close_all(&self) {
        let lp = &self.lp;
        // A stop that is still in force ends this run instead of the one that counts.
        self.run(RunMode::NoWait, Duration::ZERO);
        outside(|world| {
            for at in 0..world.handles.len() {
                if world.is_open(at) && !world.handles[at].reserved && !world.is_over() {
                    world.close(lp, at);
                }
            }
        });
        self.run(RunMode::Default, self.rest_max);
        outside(|world| {
            let all_gone = world
                .handles
                .iter()
                .all(|handle| handle.reserved || handle.life == Life::Gone);
            let alive = lp.is_alive();
            world.check(!alive && all_gone, || {
                format!("all is closed; alive {alive}, everybody heard {all_gone}")
            });
        });
    }

    /// A loop that goes on has no more descriptors than when it was made. (Programs that were let go of are still waited
    /// for, and some things are made once and kept: at most one of each.)
    fn check_descriptors(&self, program: &Program) {
        if program.spawns() || is_over() {
            return;
        }
        let held = outside(|world| world.held_descriptors()).unwrap_or(0);
        let most = self.descriptors + held + KEPT;
        // The last of a file is closed by a thread.
        let began = Instant::now();
        while descriptors().is_some_and(|now| now > most) {
            if began.elapsed() > self.rest_max {
                let now = descriptors();
                let what = format!("{now:?} descriptors are open when all is closed, not {most}");
                outside(|world| world.check(false, || what));
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Drops the loop, with whatever is under way.
    fn end(self) {
        if is_over() {
            return;
        }
        outside(|world| {
            world.note(|| "the loop is dropped".into());
            world.loop_ends();
        });
        drop(self);
        outside(|world| {
            let owed = world
                .handles
                .iter()
                .position(|handle| handle.life != Life::Gone);
            world.check(owed.is_none(), || {
                format!("#{owed:?} did not hear its last")
            });
            for at in 0..world.handles.len() {
                if matches!(world.handles[at].body, Body::Listener(_)) {
                    world.check_socket_file(at);
                }
            }
            let left = (world.tasks.deferred.len(), world.tasks.posted.len());
            world.check(left == (0, 0), || {
                format!("functions not told of the end: {left:?}")
            });
            let got = world.remote.post(|_: &Loop| ());
            world.outcome("post to a loop that is gone", got, Some(Code::ECANCELED));
            let got = world.remote.wake();
            world.outcome("wake of a loop that is gone", got, Some(Code::ECANCELED));
        });
    }
}

impl World {
    /// The test's own handles: hooks that tell the phases, and a timer that ends waits.
    fn furnish(&mut self, lp: &Loop) -> Option<usize> {
        for kind in [HookKind::Prepare, HookKind::Check] {
            let hook = self.hook_open_kind(lp, kind, true)?;
            self.hook_start(lp, hook);
        }
        let guard = self.timer_open(lp)?;
        for at in 0..self.handles.len() {
            let got = lp.unref(self.handles[at].id);
            self.outcome("unref", got, None)?;
            self.handles[at].referenced = false;
            self.handles[at].reserved = true;
        }
        Some(guard)
    }

    fn calm_down(&mut self, lp: &Loop) {
        self.calm = true;
        for at in 0..self.handles.len() {
            if !self.is_open(at) || self.handles[at].reserved {
                continue;
            }
            // Only what is referenced keeps the loop turning.
            let got = lp.reference(self.handles[at].id);
            if !self.handles[at].may_close {
                self.outcome("reference", got, None);
            }
            self.handles[at].referenced = true;
            match &self.handles[at].body {
                Body::Timer(timer) if !timer.once => self.timer_stop(lp, at),
                Body::Hook(_) => self.hook_stop(lp, at),
                Body::Poll(poll)
                    if poll
                        .interest
                        .is_some_and(|i| i.contains(Interest::WRITABLE)) =>
                {
                    self.poll_stop(lp, at);
                }
                Body::Listener(_) => self.pause(lp, at, false),
                Body::Stream(_) => {
                    self.set_timeouts(lp, at, 0, 0);
                    if self.is_open(at) && self.stream(at).lingers_until.is_some() {
                        self.finish(lp, at, None);
                    }
                }
                _ => {}
            }
        }
    }

    fn read_everything(&mut self, lp: &Loop) {
        for at in 0..self.handles.len() {
            if self.is_open(at) && self.is_stream(at) {
                let stream = self.stream(at);
                let tells = !stream.ended && stream.lingers_until.is_none();
                if !stream.reading && tells && stream.failed.is_none() {
                    self.read_start(lp, at);
                }
            }
        }
    }

    /// Descriptors that the test has open.
    fn held_descriptors(&self) -> usize {
        let raw = |connection: &Connection| {
            let ends = connection.ends.iter();
            ends.filter(|end| matches!(end, End::Raw(_))).count()
        };
        let raw: usize = self.net.all.iter().map(raw).sum();
        let outer = usize::from(self.net.outer.is_some());
        raw + outer + self.net.refusing.len() + 2 * self.pairs.len() + self.datagrams.held()
    }

    /// What is still to come.
    fn unsettled(&mut self, lp: &Loop) -> Option<String> {
        if !self.tasks.deferred.is_empty() || !self.tasks.posted.is_empty() {
            return Some("functions to be called".into());
        }
        for at in 0..self.handles.len() {
            if self.is_open(at) && self.is_stream(at) {
                self.sync(lp, at);
            }
            let handle = &self.handles[at];
            let waits = match (&handle.life, &handle.body) {
                (Life::Gone, _) => false,
                (Life::Closing { .. }, _) => true,
                (_, Body::Waker(waker)) => waker.unheard,
                (_, Body::Request(_)) => true,
                (_, Body::Process(process)) => process.ends(),
                (_, Body::Udp(_)) => self.udp_is_owed(at),
                (_, Body::Watch(watch)) => watch.is_owed(),
                (_, Body::Signal(signal)) => signal.pending,
                (_, Body::Poll(poll)) => {
                    let reads = poll
                        .interest
                        .is_some_and(|i| i.contains(Interest::READABLE));
                    reads && self.pairs[poll.pair].waiting > 0
                }
                (_, Body::Stream(stream)) => {
                    stream.connecting
                        || stream.failed.is_some()
                        || stream.finishing
                        || stream.is_owed()
                        || stream.full
                }
                _ => false,
            };
            if waits {
                let mut line = format!(
                    "#{at} is waited for: {:?}",
                    lp.describe(self.handles[at].id)
                );
                if let Body::Stream(stream) = &self.handles[at].body {
                    let (ending, full) = (stream.finishing, stream.full);
                    let (failed, owed) = (stream.failed, stream.is_owed());
                    line += &format!(
                        ", finishing {ending}, full {full}, failed {failed:?}, owed {owed}"
                    );
                }
                return Some(line);
            }
        }
        if let Some(late) = self.datagrams_to_come() {
            return Some(late);
        }
        let late = self
            .net
            .all
            .iter()
            .position(|connection| !is_settled(connection));
        late.map(|at| {
            let connection = &self.net.all[at];
            let left = connection
                .directions
                .each_ref()
                .map(|d| (d.under_way(), d.shut, d.ended));
            format!("connection {at} has (bytes under way, shut, ended) {left:?}")
        })
    }
}

/// Everything sent has come, and every end was seen.
fn is_settled(connection: &Connection) -> bool {
    let is_alive = |side: usize| matches!(connection.ends[side], End::Kolo(_) | End::Raw(_));
    (0..2).all(|from| {
        let (to, direction) = (1 - from, &connection.directions[from]);
        match (&connection.ends[from], &connection.ends[to]) {
            (_, End::Gone | End::Passed) | (End::Passed, _) => true,
            (End::Gone, End::Pending) => true,
            (_, End::Pending | End::Moving) | (End::Pending | End::Moving, _) => false,
            _ if direction.discarded => true,
            _ if !is_alive(from) => direction.ended,
            _ => direction.under_way() == 0 && (!direction.shut || direction.ended),
        }
    })
}
