//! Simulations: loops on virtual time and a network in memory, with faults, all drawn from one seed.
//!
//! A program on kolo can be tested here with hours of traffic in seconds, on networks that lose packets, reset
//! connections and fall apart, and a failure is a number: the same seed gives the same run, to the byte. Servers and
//! clients are written as ever, on loops that a [`Simulation`] makes in place of [`Loop::new`].
//!
//! ```
//! use std::cell::Cell;
//! use std::rc::Rc;
//! use std::time::Duration;
//! use kolo::sim::{Outcome, Simulation, SimulationOptions};
//! use kolo::{Loop, Stream, TcpListener, TcpStream};
//!
//! for seed in 0..100 {
//!     let simulation = Simulation::new(SimulationOptions::with_seed(seed))?;
//!     let server = simulation.new_loop("10.0.0.1".parse().unwrap())?;
//!     let echo = |lp: &Loop, stream: Stream, data: &[u8]| drop(stream.write(lp, data));
//!     TcpListener::listen(&server, "10.0.0.1:7".parse().unwrap(), move |lp: &Loop, _, tcp: TcpStream| {
//!         tcp.attach(lp, echo).unwrap();
//!     })?;
//!
//!     let client = simulation.new_loop("10.0.0.2".parse().unwrap())?;
//!     let answered = Rc::new(Cell::new(0));
//!     let counted = answered.clone();
//!     let count = move |_: &Loop, _: Stream, data: &[u8]| counted.set(counted.get() + data.len());
//!     let tcp = TcpStream::connect(&client, "10.0.0.1:7".parse().unwrap(), count)?;
//!     tcp.write(&client, b"hello")?;
//!
//!     let outcome = simulation.run_until(Duration::from_secs(60), || answered.get() == 5)?;
//!     assert_eq!(outcome, Outcome::Met, "seed {seed}");
//! }
//! # Ok::<(), kolo::Error>(())
//! ```
//!
//! # What is simulated
//!
//! - **Time**: the loops' clocks ([`Loop::now`]), and so timers and timeouts of every kind. It passes when no loop has
//!   anything to do, at once, and a little with every turn. The system's own clocks do not follow.
//! - **TCP and UDP** between [hosts](Simulation::new_loop), with the calls and errors that programs see on a real
//!   network; what can go wrong is in [`SimulationOptions`], [`LinkOptions`] and the methods of [`Simulation`].
//! - **Names**: [`Simulation::set_name`], for all that resolves; `localhost` is known. Services are numbers.
//! - **Work**: [`Loop::work`] runs on the loop's own thread, after a time that is drawn. So do files, which are the
//!   real disk's.
//! - Timers, hooks, posts, wakers and deferred functions are as ever. What other threads post comes when it comes: a
//!   run with other threads in it cannot be repeated, and a simulation does not wait for them.
//!
//! Everything else needs a kernel and gives [`Code::ENOTSUP`]: foreign descriptors, adopted and released sockets, moving
//! a stream to another loop, Unix-domain sockets, pipes, terminals, signals, child processes, watched files, and of
//! UDP's options multicast, broadcast and control messages. [`Loop::metrics`] measures no times.
//!
//! # What makes a run repeatable
//!
//! All chance is drawn from the seed, and nothing else of the machine comes in. The program must do its part: draw its
//! own random numbers from [`Simulation::random`], ask no other clock, and not go through a `HashMap` where the order
//! matters. [`Simulation::digest`] tells whether two runs were the same; [`Simulation::on_trace`] shows where they part.

#[cfg(feature = "dns")]
mod names;
mod run;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::driver::sim::{HostNumber, Simulated, World, BEGINNING};
pub use crate::driver::sim::{LinkOptions, SimulationOptions};
use crate::driver::{AnyDriver, EVENTS_MAX};
#[allow(unused_imports)] // the documentation names it
use crate::error::Code;
use crate::error::Result;
use crate::event_loop::Loop;
use crate::options::LoopOptions;
#[cfg(feature = "dns")]
pub(crate) use names::{named, resolve};
pub(crate) use run::Member;
use run::Seat;

/// Why a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Outcome {
    /// Nothing keeps any loop alive.
    Done = 0,
    /// What was waited for has come true.
    Met = 1,
    /// A loop was [stopped](Loop::stop).
    Stopped = 2,
    /// The time is over.
    TimeLimit = 3,
    /// Loops are alive, but nothing can happen any more: they wait for each other, or for nothing. A server that waits
    /// for clients counts as alive, unless its listener is [unreferenced](Loop::unref).
    Quiet = 4,
}

/// Called with lines about what happens.
type Tracer = Box<dyn FnMut(&str)>;

/// What the loops of a simulation share.
pub(crate) struct Shared {
    world: Rc<RefCell<World>>,
    /// The loops, by their numbers.
    seats: RefCell<BTreeMap<u32, Seat>>,
    running: Cell<bool>,
    tracer: RefCell<Option<Tracer>>,
}

/// A simulated world and the loops in it: see [the module](self).
///
/// It belongs to one thread, with its loops. Loops keep what they need of it alive.
pub struct Simulation(Rc<Shared>);

impl Simulation {
    /// Makes a world with nobody in it.
    ///
    /// Errors: [`Code::EINVAL`] for a minimum that is greater than its maximum, a time of more than a year, a probability
    /// above a million, a packet of less than 64 bytes or more than 65,536, a bandwidth of 0 and for a buffer of none.
    pub fn new(options: SimulationOptions) -> Result<Simulation> {
        options.check()?;
        Ok(Simulation(Rc::new(Shared {
            world: Rc::new(RefCell::new(World::new(options))),
            seats: RefCell::new(BTreeMap::new()),
            running: Cell::new(false),
            tracer: RefCell::new(None),
        })))
    }

    /// Makes a loop on the host at `address`, which is made if there is none: see [`Simulation::new_loop_with`].
    ///
    /// Errors: as there.
    pub fn new_loop(&self, address: IpAddr) -> Result<Rc<Loop>> {
        self.new_loop_with(address, LoopOptions::default())
    }

    /// Makes a loop on the host at `address`, which is made if there is none. Several loops on one host are like
    /// programs on one machine: they share its ports, and reach each other by the loopback addresses, too.
    ///
    /// The loop is used like any other. It is run by the simulation, with the others; [`Loop::run`] runs the simulation
    /// until this loop is done, and gives [`Code::EDEADLK`] if nothing can happen any more and it is still alive. With
    /// [`RunMode::NoWait`](crate::RunMode::NoWait) the loop has one turn, and no time passes. When the last hold on it
    /// goes, its sockets are closed, as those of a program that ends.
    ///
    /// Of the options, the driver, the pool, `measure_time` and the watchdogs mean nothing here: a callback takes no
    /// virtual time.
    ///
    /// Errors: [`Code::EINVAL`] for an unspecified, loopback or multicast address.
    pub fn new_loop_with(&self, address: IpAddr, options: LoopOptions) -> Result<Rc<Loop>> {
        let lp = Rc::new(self.make_loop(address, options)?);
        if let Some(member) = &lp.simulation {
            member.sit(run::Hold::Shared(Rc::downgrade(&lp)));
        }
        Ok(lp)
    }

    /// A loop that has no seat yet.
    pub(crate) fn make_loop(&self, address: IpAddr, options: LoopOptions) -> Result<Loop> {
        let host = self.0.world.borrow_mut().host_at(address)?;
        let events = (options.events_per_turn.get() as usize).clamp(1, EVENTS_MAX);
        let driver = Simulated::new(&self.0.world, host, events);
        let number = driver.number;
        let options = LoopOptions {
            measure_time: false,
            slow_callback: None,
            stuck_callback: None,
            pool: None,
            ..options
        };
        let mut lp = Loop::over(AnyDriver::Simulated(Box::new(driver)), options)?;
        lp.simulation = Some(Member::new(self.0.clone(), number));
        Ok(lp)
    }

    /// Has a loop of [`Simulation::make_loop`] have its turns.
    ///
    /// # Safety
    ///
    /// The loop stays where it is until it is dropped.
    #[cfg(feature = "capi")]
    pub(crate) unsafe fn seat_boxed(&self, lp: *const Loop) {
        // SAFETY: promised by the caller.
        if let Some(member) = unsafe { &(*lp).simulation } {
            member.sit(run::Hold::Boxed(lp));
        }
    }

    /// Gives the host at `host` another address, of the same family or the other. A host has sockets of IPv6 if it has
    /// an address of IPv6.
    ///
    /// Errors: [`Code::ENOENT`] if there is no such host, [`Code::EADDRINUSE`] if a host has the address,
    /// [`Code::EINVAL`] for an unspecified, loopback or multicast address.
    pub fn add_address(&self, host: IpAddr, address: IpAddr) -> Result<()> {
        let mut world = self.0.world.borrow_mut();
        let host = world.known_host(host)?;
        world.add_address(host, address)
    }

    /// What a name stands for, in the order in which addresses should be tried; with none, the name is forgotten.
    /// Case does not matter. Addresses need not be a host's.
    pub fn set_name(&self, name: &str, addresses: &[IpAddr]) {
        self.0.world.borrow_mut().set_name(name, addresses);
    }

    /// Virtual time since the simulation was made.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.world.borrow().now - BEGINNING)
    }

    /// A random number from the seed. Drawing one changes what is drawn after it.
    pub fn random(&self) -> u64 {
        self.0.world.borrow_mut().random.next()
    }

    /// A number for all that has happened: packets, calls on sockets, turns, with their times and bytes. Two runs with
    /// the same digest were the same, as far as one number of 64 bits can tell.
    pub fn digest(&self) -> u64 {
        self.0.world.borrow().trace.digest()
    }

    /// Has `tracer` called with lines that say what happens, from now on: the time in seconds, by whom, what, from where,
    /// to where, and for bytes how many and a hash of them. Several lines may come in one call, each with its line end.
    /// They come after the turn in which it happened. Tracing does not change the run.
    pub fn on_trace(&self, tracer: impl FnMut(&str) + 'static) {
        self.0.world.borrow_mut().trace.written = true;
        *self.0.tracer.borrow_mut() = Some(Box::new(tracer));
    }

    /// Undoes [`Simulation::on_trace`].
    pub fn end_trace(&self) {
        self.0.world.borrow_mut().trace.end();
        let former = self.0.tracer.borrow_mut().take();
        // What is in it is the user's.
        drop(former);
    }

    /// The network between two hosts, in both directions, from now on; `None`: as between all.
    ///
    /// Errors: [`Code::ENOENT`] if there is no such host; those of [`Simulation::new`] for the options.
    pub fn set_link(&self, a: IpAddr, b: IpAddr, options: Option<LinkOptions>) -> Result<()> {
        options.as_ref().map_or(Ok(()), LinkOptions::check)?;
        self.between(a, b, |world, a, b| world.set_link(a, b, options))
    }

    /// Cuts two hosts off from each other: nothing passes, also not what is under way. Connections notice after
    /// [`SimulationOptions::give_up`], or by their own timeouts.
    ///
    /// Errors: [`Code::ENOENT`] if there is no such host.
    pub fn partition(&self, a: IpAddr, b: IpAddr) -> Result<()> {
        self.between(a, b, |world, a, b| world.set_cut(a, b, true))
    }

    /// Undoes [`Simulation::partition`].
    ///
    /// Errors: [`Code::ENOENT`] if there is no such host.
    pub fn heal(&self, a: IpAddr, b: IpAddr) -> Result<()> {
        self.between(a, b, |world, a, b| world.set_cut(a, b, false))
    }

    /// Undoes every [`Simulation::partition`].
    pub fn heal_all(&self) {
        self.0.world.borrow_mut().heal_all();
    }

    /// Resets all connections between two hosts, as a firewall that was started anew; how many.
    ///
    /// Errors: [`Code::ENOENT`] if there is no such host.
    pub fn reset_connections(&self, a: IpAddr, b: IpAddr) -> Result<usize> {
        self.between(a, b, |world, a, b| world.reset_connections(a, b))
    }

    /// How many sockets a loop may have; what exceeds it gets [`Code::EMFILE`]. `None`: no limit. Those it has stay.
    ///
    /// Errors: [`Code::EINVAL`] for a loop of another simulation, or of none.
    pub fn set_descriptors(&self, lp: &Loop, descriptors: Option<u32>) -> Result<()> {
        let member = lp.simulation.as_ref();
        let member = member
            .filter(|member| member.is_of(&self.0))
            .ok_or(Code::EINVAL)?;
        let mut world = self.0.world.borrow_mut();
        world.set_descriptors(member.number(), descriptors);
        Ok(())
    }

    fn between<R>(
        &self,
        a: IpAddr,
        b: IpAddr,
        run: impl FnOnce(&mut World, HostNumber, HostNumber) -> R,
    ) -> Result<R> {
        let mut world = self.0.world.borrow_mut();
        let (a, b) = (world.known_host(a)?, world.known_host(b)?);
        Ok(run(&mut world, a, b))
    }

    /// Runs all loops for at most `limit` of virtual time: until nothing keeps any of them alive, nothing can happen any
    /// more, or one is stopped. While any loop is alive, those that are not have their turns, too: unreference
    /// ([`Loop::unref`]) what serves others, and the run ends when they are done.
    ///
    /// A panic in a callback unwinds out of this; the simulation stays whole and can be run again.
    ///
    /// Errors: [`Code::EBUSY`] inside a callback of one of its loops.
    pub fn run(&self, limit: Duration) -> Result<Outcome> {
        self.run_until(limit, || false)
    }

    /// As [`Simulation::run`], and until `condition` is true, which is asked before every turn.
    ///
    /// Errors: as there.
    pub fn run_until(
        &self,
        limit: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<Outcome> {
        self.0.run_all(limit, &mut condition)
    }

    /// Whether a callback of one of its loops is running.
    pub fn is_running(&self) -> bool {
        self.0.running.get()
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("elapsed", &self.elapsed())
            .field("loops", &self.0.seats.borrow().len())
            .finish_non_exhaustive()
    }
}
