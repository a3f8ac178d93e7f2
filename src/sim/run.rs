//! Running a simulation: whose turn it is, and when time passes.

use std::rc::{Rc, Weak};
use std::time::Duration;

use super::{Outcome, Shared};
use crate::driver::sim::{TraceEvent, World};
use crate::error::{Code, Result};
use crate::event_loop::{Loop, RunMode};

/// What is to happen from here on never does: three centuries after the beginning, whoever asked for it meant never.
const END_OF_TIME: u64 = u64::MAX / 2;

/// How a simulation finds a loop.
pub(crate) enum Hold {
    Shared(Weak<Loop>),
    /// One that stands in a box of C's, which frees it only outside of its turns. Its [`Member`] goes with it.
    #[cfg(feature = "capi")]
    Boxed(*const Loop),
}

/// A loop's place in its simulation.
pub(crate) struct Seat {
    hold: Hold,
    /// Its last turn takes until then.
    busy_until: u64,
}

/// What a loop has of its simulation.
pub(crate) struct Member {
    shared: Rc<Shared>,
    number: u32,
}

/// A loop that is used for as long as it takes.
enum Found<'a> {
    Shared(Rc<Loop>),
    #[cfg(feature = "capi")]
    Boxed(&'a Loop),
    #[cfg(not(feature = "capi"))]
    #[allow(dead_code)]
    Nobody(std::convert::Infallible, std::marker::PhantomData<&'a ()>),
}

impl std::ops::Deref for Found<'_> {
    type Target = Loop;

    fn deref(&self) -> &Loop {
        match self {
            Found::Shared(lp) => lp,
            #[cfg(feature = "capi")]
            Found::Boxed(lp) => lp,
            #[cfg(not(feature = "capi"))]
            Found::Nobody(never, _) => match *never {},
        }
    }
}

impl Seat {
    fn find(&self) -> Option<Found<'_>> {
        match &self.hold {
            Hold::Shared(weak) => weak.upgrade().map(Found::Shared),
            #[cfg(feature = "capi")]
            // SAFETY: the seat is taken away when the loop is dropped (see `Member`), so it is there.
            Hold::Boxed(at) => Some(Found::Boxed(unsafe { &**at })),
        }
    }
}

impl Member {
    pub fn new(shared: Rc<Shared>, number: u32) -> Member {
        Member { shared, number }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn is_of(&self, shared: &Rc<Shared>) -> bool {
        Rc::ptr_eq(&self.shared, shared)
    }

    /// From now on the loop has its turns.
    pub fn sit(&self, hold: Hold) {
        let seat = Seat {
            hold,
            busy_until: 0,
        };
        self.shared.seats.borrow_mut().insert(self.number, seat);
    }

    /// Runs the simulation for one of its loops: [`Loop::run`].
    pub fn run(&self, lp: &Loop, mode: RunMode) -> Result<bool> {
        let shared = &self.shared;
        let _running = Running::begin(shared)?;
        // Asked to stop before: it is not any more when this returns, also if nothing keeps it alive.
        let mut stopped = lp.take_stop();
        if mode == RunMode::NoWait {
            if lp.is_alive() && !stopped {
                shared.turn(self.number)?;
            }
            return Ok(lp.is_alive());
        }
        while lp.is_alive() && !stopped {
            match shared.step(END_OF_TIME)? {
                Step::Turn { number, stopped } if number == self.number => {
                    if stopped || mode == RunMode::Once {
                        break;
                    }
                }
                Step::Turn { .. } | Step::Time => {}
                Step::Quiet | Step::Limit => return Err(Code::EDEADLK.into()),
            }
            stopped = lp.take_stop();
        }
        Ok(lp.is_alive())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Not while the seats are looked at: no code of the user's runs then.
        if let Ok(mut seats) = self.shared.seats.try_borrow_mut() {
            seats.remove(&self.number);
        }
    }
}

/// What a step was.
enum Step {
    Turn {
        number: u32,
        stopped: bool,
    },
    Time,
    /// Nothing will happen any more.
    Quiet,
    /// Nothing will happen before the limit, which it is now.
    Limit,
}

/// While a simulation runs, also when a callback unwinds.
struct Running<'a>(&'a Shared);

impl<'a> Running<'a> {
    fn begin(shared: &'a Shared) -> Result<Running<'a>> {
        if shared.running.replace(true) {
            return Err(Code::EBUSY.into());
        }
        Ok(Running(shared))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        if !std::thread::panicking() {
            self.0.hand_out_lines();
        }
    }
}

impl Shared {
    /// See [`Simulation::run_until`](super::Simulation::run_until).
    pub(super) fn run_all(
        &self,
        limit: Duration,
        condition: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        let _running = Running::begin(self)?;
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let limit = self
            .world
            .borrow()
            .now
            .saturating_add(limit)
            .min(END_OF_TIME);
        loop {
            if condition() {
                return Ok(Outcome::Met);
            }
            if !self.any_alive() {
                return Ok(Outcome::Done);
            }
            match self.step(limit)? {
                Step::Turn { stopped: true, .. } => return Ok(Outcome::Stopped),
                Step::Turn { .. } | Step::Time => {}
                Step::Quiet => return Ok(Outcome::Quiet),
                Step::Limit => return Ok(Outcome::TimeLimit),
            }
        }
    }

    fn any_alive(&self) -> bool {
        let seats = self.seats.borrow();
        let mut loops = seats.values().filter_map(Seat::find);
        loops.any(|lp| lp.is_alive())
    }

    /// A turn of one loop that has something to do; if there is none, time passes until something happens.
    fn step(&self, limit: u64) -> Result<Step> {
        let now = self.world.borrow().now;
        let mut ready = Vec::new();
        let mut next = self.world.borrow().next_happening();
        for (number, seat) in &*self.seats.borrow() {
            let Some(due) = seat.find().and_then(|lp| lp.due()) else {
                continue;
            };
            let at = due.max(seat.busy_until);
            if at <= now {
                ready.push(*number);
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        if !ready.is_empty() {
            let chosen = self.world.borrow_mut().random.below(ready.len() as u64);
            let number = ready[chosen as usize];
            let stopped = self.turn(number)?;
            return Ok(Step::Turn { number, stopped });
        }
        match next.filter(|next| *next < END_OF_TIME) {
            None => Ok(Step::Quiet),
            Some(next) if next > limit => {
                self.world.borrow_mut().advance(limit);
                Ok(Step::Limit)
            }
            Some(next) => {
                self.world.borrow_mut().advance(next);
                Ok(Step::Time)
            }
        }
    }

    /// Gives a loop its turn; whether it was stopped in it.
    fn turn(&self, number: u32) -> Result<bool> {
        {
            let mut world = self.world.borrow_mut();
            // Also where it takes none: a loop that is never idle must not stop the clock.
            let takes = world.turn_time().max(1);
            let busy_until = world.now.saturating_add(takes);
            record_turn(&mut world, number);
            if let Some(seat) = self.seats.borrow_mut().get_mut(&number) {
                seat.busy_until = busy_until;
            }
        }
        /// The lines of a turn are handed out also when a callback unwinds.
        struct Lines<'a>(&'a Shared);
        impl Drop for Lines<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.hand_out_lines();
                }
            }
        }
        let _lines = Lines(self);
        let stopped = self.with_loop(number, Loop::simulated_turn)?;
        self.hand_out_lines();
        Ok(stopped)
    }

    fn with_loop(&self, number: u32, run: impl FnOnce(&Loop) -> Result<bool>) -> Result<bool> {
        let lp: Found<'_>;
        {
            let seats = self.seats.borrow();
            let Some(seat) = seats.get(&number) else {
                return Ok(false);
            };
            lp = match &seat.hold {
                Hold::Shared(weak) => match weak.upgrade() {
                    Some(lp) => Found::Shared(lp),
                    None => return Ok(false),
                },
                #[cfg(feature = "capi")]
                // SAFETY: as in `find`; and it is not freed during its own turn.
                Hold::Boxed(at) => Found::Boxed(unsafe { &**at }),
            };
        }
        run(&lp)
    }

    /// Gives the tracer what was written since.
    fn hand_out_lines(&self) {
        let lines = match self.world.try_borrow_mut() {
            Ok(mut world) => world.trace.take_lines(),
            Err(_) => return,
        };
        if lines.is_empty() {
            return;
        }
        let Some(mut tracer) = self.tracer.borrow_mut().take() else {
            return;
        };
        tracer(&lines);
        // Unless it has set another one.
        self.tracer.borrow_mut().get_or_insert(tracer);
    }
}

fn record_turn(world: &mut World, number: u32) {
    world.record(TraceEvent {
        by: Some(number),
        ..TraceEvent::new("has its turn")
    });
}
