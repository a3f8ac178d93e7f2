//! Simulations
//!
//! Servers and clients on virtual time and a network in memory, with faults, all drawn from one seed: a
//! program on kolo can be tested with hours of traffic in seconds, on networks that lose packets, reset
//! connections and fall apart, and a failure is a number. The same seed, the same program and the same
//! version of kolo give the same run, to the byte.
//!
//! kolo_sim_new makes a world, kolo_sim_loop_new a loop on one of its hosts, which is used like any
//! other: timers, hooks, TCP, UDP, names (kolo_sim_set_name), work, posts. kolo_sim_run then runs all
//! its loops, on the calling thread: time passes when no loop has anything to do, at once, and a little
//! with every turn. Work runs on the loop's own thread, after a time that is drawn; so do files, which
//! are the real disk's. What other threads post comes when it comes, and a run with them cannot be
//! repeated. Everything else needs a kernel and gets KOLO_ENOTSUP: foreign descriptors, adopted and
//! released sockets, moving a stream, Unix-domain sockets, pipes, terminals, signals, processes,
//! watched files, multicast, broadcast and control messages of UDP.
//!
//! The program must do its part: draw its random numbers from kolo_sim_random, and ask no other clock
//! than kolo_loop_now. kolo_sim_digest tells whether two runs were the same, kolo_sim_on_trace shows
//! where they part.
//!
//! A simulation is a number. It belongs to the thread that made it, with its loops: other threads get
//! KOLO_EWRONGTHREAD. A number that was freed, or never was one, gets KOLO_EBADF. Addresses of hosts
//! are looked at without their ports. Probabilities are in parts per million (_ppm).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void, CString};
use std::mem::offset_of;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use slotmap::{DefaultKey, Key, KeyData, SlotMap};

use super::address::{kolo_address, socket_address, text};
use super::boundary::{checked, guard, needed, slice, Answer, Out};
use super::event_loop::{kolo_loop_options, loop_options};
use super::registry::this_thread;
use super::sized::{self, first_size, Versioned};
use super::types::{kolo_loop, kolo_sim};
use crate::error::{Code, Result};
use crate::sim::{LinkOptions, Outcome, Simulation, SimulationOptions};
use crate::sys::fork::ForkLock;
use crate::timer::nanoseconds;

/// Why a run has ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_sim_outcome {
    /// Nothing keeps any loop alive.
    KOLO_SIM_DONE = 0,
    /// The condition of kolo_sim_run_until has come true.
    KOLO_SIM_MET = 1,
    /// A loop was stopped (kolo_loop_stop).
    KOLO_SIM_STOPPED = 2,
    /// The time is over.
    KOLO_SIM_TIME_LIMIT = 3,
    /// Loops are alive, but nothing can happen any more: they wait for each other, or for nothing. A
    /// server that waits for clients counts as alive, unless its listener has no reference (kolo_unref).
    KOLO_SIM_QUIET = 4,
}

/// What a member of kolo_sim_options means that is zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_sim_preset {
    /// A network that works, and whatever is legal in small: partial reads and writes, varying delays.
    KOLO_SIM_USUAL = 0,
    /// Nothing is partial, and no delay varies: for tests that count.
    KOLO_SIM_PLAIN = 1,
    /// A bad network: long and varying delays, lost and doubled packets, connections that are refused
    /// and reset, small buffers, half of all reads and writes partial.
    KOLO_SIM_HARSH = 2,
}

/// The network between two hosts, in each direction. Begin with KOLO_SIM_LINK_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_sim_link {
    /// sizeof(kolo_sim_link), set by KOLO_SIM_LINK_INIT.
    pub size: usize,
    /// How long a packet is under way, at least. With latency_max_ns 0 too: 50 to 500 microseconds.
    pub latency_min_ns: u64,
    /// How long a packet is under way, at most; 0: as latency_min_ns. Datagrams overtake each other, the
    /// segments of one connection do not.
    pub latency_max_ns: u64,
    /// Bytes per second; packets wait for those before them. 0: no limit.
    pub bandwidth: u64,
    /// The largest packet in bytes, from 64 to 65536; 0: 1460. Connections send segments of this size;
    /// larger datagrams travel in pieces, each of which may be lost.
    pub packet_max: u32,
    /// How likely a packet is lost. TCP sends it again.
    pub loss_ppm: u32,
    /// How likely a datagram comes twice.
    pub duplicate_ppm: u32,
    /// How likely a segment with data resets its connection, on both sides (KOLO_ECONNRESET).
    pub reset_ppm: u32,
    /// How likely a connection is refused (KOLO_ECONNREFUSED), though somebody listens.
    pub refuse_ppm: u32,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_sim_link {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, refuse_ppm) + 4);
}

/// How a simulation is made. Begin with KOLO_SIM_OPTIONS_INIT; a member that is zero means what the
/// preset says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_sim_options {
    /// sizeof(kolo_sim_options), set by KOLO_SIM_OPTIONS_INIT.
    pub size: usize,
    /// What all chance is drawn from.
    pub seed: u64,
    /// The network between hosts, where kolo_sim_set_link says nothing else. Read during the call. NULL:
    /// the preset's.
    pub link: *const kolo_sim_link,
    /// How long one turn of a loop takes, at least: the time until it may have its next. 1 microsecond.
    pub turn_min_ns: u64,
    /// How long one turn of a loop takes, at most. 20 microseconds.
    pub turn_max_ns: u64,
    /// How long work, files and names take, at least. 50 microseconds.
    pub work_min_ns: u64,
    /// How long work, files and names take, at most. 5 milliseconds.
    pub work_max_ns: u64,
    /// How long sent bytes may go unacknowledged until KOLO_ETIMEDOUT. 924 seconds.
    pub give_up_ns: u64,
    /// A kolo_sim_preset.
    pub preset: u32,
    /// How likely a reading call brings only a part of what has come.
    pub partial_read_ppm: u32,
    /// How likely a writing call takes only a part of what there is room for.
    pub partial_write_ppm: u32,
    /// The kernel's send buffer of a socket in bytes, where its owner does not set one.
    pub send_buffer: u32,
    /// The kernel's receive buffer of a socket in bytes, where its owner does not set one.
    pub receive_buffer: u32,
    /// Sockets that one loop may have; one more gets KOLO_EMFILE. 0: no limit.
    pub descriptors: u32,
}

// SAFETY: whole numbers and a pointer, the first of them the size.
unsafe impl Versioned for kolo_sim_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, descriptors) + 4);
}

/// Whether a run is to end: any value but 0 ends it. Called before every turn, with no callback
/// running. It may use the loops, also free one, but not run them (KOLO_EBUSY).
pub type kolo_sim_condition_cb =
    Option<unsafe extern "C" fn(sim: kolo_sim, user: *mut c_void) -> c_int>;

/// Gets a line about what has happened, `length` bytes and a NUL, without a line end: the time in
/// seconds, by whom, what, from where, to where, and for bytes how many and a hash of them.
pub type kolo_sim_trace_cb =
    Option<unsafe extern "C" fn(line: *const c_char, length: usize, user: *mut c_void)>;

/// Whose each simulation is.
static OWNERS: ForkLock<Option<SlotMap<DefaultKey, std::num::NonZeroU64>>> = ForkLock::new(None);

thread_local! {
    /// This thread's simulations.
    static OURS: RefCell<BTreeMap<kolo_sim, Rc<Simulation>>> = const { RefCell::new(BTreeMap::new()) };
}

fn key(sim: kolo_sim) -> DefaultKey {
    KeyData::from_ffi(sim).into()
}

/// The simulation with this number, if it is the calling thread's.
fn simulation(sim: kolo_sim) -> Result<Rc<Simulation>> {
    let ours = OURS.try_with(|ours| ours.borrow().get(&sim).cloned());
    if let Ok(Some(simulation)) = ours {
        return Ok(simulation);
    }
    let owners = OWNERS.lock();
    let lives = owners
        .as_ref()
        .is_some_and(|owners| owners.contains_key(key(sim)));
    let code = if lives {
        Code::EWRONGTHREAD
    } else {
        Code::EBADF
    };
    Err(code.into())
}

fn with_simulation<A: Answer>(sim: kolo_sim, call: impl FnOnce(&Simulation) -> Result<A>) -> c_int {
    guard(|| call(&*simulation(sim)?))
}

impl Answer for Outcome {
    fn answer(self) -> c_int {
        self as c_int
    }
}

/// # Safety
///
/// As [`socket_address`].
unsafe fn host(at: *const kolo_address) -> Result<IpAddr> {
    // SAFETY: promised by the caller.
    Ok(unsafe { socket_address(at)? }.ip())
}

fn link_options(given: &kolo_sim_link) -> LinkOptions {
    let usual = LinkOptions::default();
    let (latency_min, latency_max) = match (given.latency_min_ns, given.latency_max_ns) {
        (0, 0) => (usual.latency_min, usual.latency_max),
        (least, 0) => (Duration::from_nanos(least), Duration::from_nanos(least)),
        (least, most) => (Duration::from_nanos(least), Duration::from_nanos(most)),
    };
    LinkOptions {
        latency_min,
        latency_max,
        bandwidth: Some(given.bandwidth).filter(|bandwidth| *bandwidth > 0),
        packet_max: or(given.packet_max, usual.packet_max),
        loss_ppm: given.loss_ppm,
        duplicate_ppm: given.duplicate_ppm,
        reset_ppm: given.reset_ppm,
        refuse_ppm: given.refuse_ppm,
    }
}

fn or(given: u32, usual: u32) -> u32 {
    if given == 0 {
        usual
    } else {
        given
    }
}

/// # Safety
///
/// `link` is NULL, or as many bytes as its `size` says can be read there.
unsafe fn simulation_options(given: &kolo_sim_options) -> Result<SimulationOptions> {
    let usual = match given.preset {
        0 => SimulationOptions::with_seed(given.seed),
        1 => SimulationOptions::plain(given.seed),
        2 => SimulationOptions::harsh(given.seed),
        _ => return Err(Code::EINVAL.into()),
    };
    let link = if given.link.is_null() {
        usual.link
    } else {
        // SAFETY: promised by the caller.
        link_options(&unsafe { sized::read(given.link)? })
    };
    let time = |given: u64, usual| {
        if given == 0 {
            usual
        } else {
            Duration::from_nanos(given)
        }
    };
    Ok(SimulationOptions {
        seed: given.seed,
        link,
        turn_min: time(given.turn_min_ns, usual.turn_min),
        turn_max: time(given.turn_max_ns, usual.turn_max),
        work_min: time(given.work_min_ns, usual.work_min),
        work_max: time(given.work_max_ns, usual.work_max),
        partial_read_ppm: or(given.partial_read_ppm, usual.partial_read_ppm),
        partial_write_ppm: or(given.partial_write_ppm, usual.partial_write_ppm),
        send_buffer: or(given.send_buffer, usual.send_buffer),
        receive_buffer: or(given.receive_buffer, usual.receive_buffer),
        descriptors: Some(given.descriptors).filter(|most| *most > 0),
        give_up: time(given.give_up_ns, usual.give_up),
    })
}

/// Makes a world with nobody in it. `options` may be NULL for the defaults, with seed 0.
///
/// Errors: KOLO_EINVAL if `out` is NULL, for options of a wrong size, a preset that there is not, a
/// minimum that is greater than its maximum, a time of more than a year, a probability above a million,
/// and a packet size out of its range.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_new(
    options: *const kolo_sim_options,
    out: *mut kolo_sim,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, given) = unsafe { (Out::new(out)?, sized::read_or_default(options)?) };
        // SAFETY: `link` is NULL, or the caller's.
        let options = unsafe { simulation_options(&given)? };
        let simulation = Rc::new(Simulation::new(options)?);
        let owner = this_thread().ok_or(Code::EWRONGTHREAD)?;
        // At the very end of a thread it could not be found again.
        OURS.try_with(|_| ()).map_err(|_| Code::EWRONGTHREAD)?;
        let number = OWNERS.lock().get_or_insert_default().insert(owner);
        let number = number.data().as_ffi();
        OURS.with(|ours| ours.borrow_mut().insert(number, simulation));
        out.set(number);
        Ok(())
    })
}

/// Frees a simulation: its number is dead. Its loops stay, and can still be used, run by kolo_loop_run,
/// and freed.
///
/// Errors: KOLO_EBUSY inside a callback of one of its loops.
#[no_mangle]
pub extern "C" fn kolo_sim_free(sim: kolo_sim) -> c_int {
    with_simulation(sim, |simulation| {
        if simulation.is_running() {
            return Err(Code::EBUSY.into());
        }
        let freed = OURS.try_with(|ours| ours.borrow_mut().remove(&sim));
        if let Some(owners) = OWNERS.lock().as_mut() {
            owners.remove(key(sim));
        }
        drop(freed);
        Ok(())
    })
}

/// Makes a loop on the host at an address, which is made if there is none. Several loops on one host
/// are like programs on one machine: they share its ports, and reach each other by the loopback
/// addresses, too. `options` may be NULL; of them the driver, the pool, measure_time and the watchdogs
/// mean nothing here: a callback takes no virtual time.
///
/// It is freed by kolo_loop_free, which closes its sockets as those of a program that ends. kolo_sim_run
/// runs it, with the others. kolo_loop_run runs the simulation until this loop is done, and gets
/// KOLO_EDEADLK if nothing can happen any more and it is still alive; with KOLO_RUN_NOWAIT the loop has
/// one turn, and no time passes. kolo_loop_detach_thread gets KOLO_ENOTSUP.
///
/// Errors: KOLO_EINVAL if `host` or `out` is NULL, for an unspecified, loopback or multicast address, and
/// for options of a wrong size.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_loop_new(
    sim: kolo_sim,
    host: *const kolo_address,
    options: *const kolo_loop_options,
    out: *mut *mut kolo_loop,
) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, host, options) = unsafe {
            (
                Out::new(out)?,
                self::host(host)?,
                sized::read_or_default(options)?,
            )
        };
        // SAFETY: `driver` is NULL or a C string.
        let options = unsafe { loop_options(&options)? };
        let at = kolo_loop::create(simulation.make_loop(host, options)?)?;
        // SAFETY: just made; its box keeps its place until kolo_loop_free.
        unsafe { simulation.seat_boxed(&(*at).inner) };
        out.set(at);
        Ok(())
    })
}

/// Gives a host another address, of the same family or the other. A host has sockets of IPv6 if it has
/// an address of IPv6.
///
/// Errors: KOLO_ENOENT if there is no such host; KOLO_EADDRINUSE if a host has the address; KOLO_EINVAL
/// for an unspecified, loopback or multicast address.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_add_address(
    sim: kolo_sim,
    host: *const kolo_address,
    address: *const kolo_address,
) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (host, address) = unsafe { (self::host(host)?, self::host(address)?) };
        simulation.add_address(host, address)
    })
}

/// Says what a name stands for: `count` addresses, in the order in which they should be tried; with none
/// the name is forgotten. Case does not matter. Addresses need not be a host's.
///
/// Errors: KOLO_EINVAL if `name` is NULL or no UTF-8, or `addresses` is NULL with a count.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_set_name(
    sim: kolo_sim,
    name: *const c_char,
    addresses: *const kolo_address,
    count: usize,
) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (name, given) = unsafe { (text(name)?, slice(addresses, count)?) };
        let mut found = Vec::new();
        for address in given {
            // SAFETY: one of the caller's.
            found.push(unsafe { host(address)? });
        }
        simulation.set_name(name, &found);
        Ok(())
    })
}

/// Runs all loops for at most `limit_ns` nanoseconds of virtual time (UINT64_MAX: without limit): until
/// nothing keeps any of them alive, nothing can happen any more, or one is stopped. While any loop is
/// alive, those that are not have their turns, too: take the reference (kolo_unref) from what serves
/// others, and the run ends when they are done.
///
/// Returns a kolo_sim_outcome.
///
/// Errors: KOLO_EBUSY inside a callback of one of its loops.
#[no_mangle]
pub extern "C" fn kolo_sim_run(sim: kolo_sim, limit_ns: u64) -> c_int {
    with_simulation(sim, |simulation| {
        simulation.run(Duration::from_nanos(limit_ns))
    })
}

/// As kolo_sim_run, and until `condition` returns another value than 0.
///
/// Errors: KOLO_EINVAL if `condition` is NULL; as there.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_run_until(
    sim: kolo_sim,
    limit_ns: u64,
    condition: kolo_sim_condition_cb,
    user: *mut c_void,
) -> c_int {
    with_simulation(sim, |simulation| {
        let condition = needed(condition)?;
        simulation.run_until(Duration::from_nanos(limit_ns), || {
            // SAFETY: the user's function, with what it asked for.
            unsafe { condition(sim, user) != 0 }
        })
    })
}

/// Nanoseconds of virtual time since the simulation was made.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_elapsed(sim: kolo_sim, out_ns: *mut u64) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_ns)? };
        out.set(nanoseconds(simulation.elapsed()));
        Ok(())
    })
}

/// A random number from the seed. Drawing one changes what is drawn after it.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_random(sim: kolo_sim, out: *mut u64) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(simulation.random());
        Ok(())
    })
}

/// A number for all that has happened: packets, calls on sockets, turns, with their times and bytes. Two
/// runs with the same digest were the same, as far as one number of 64 bits can tell.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_digest(sim: kolo_sim, out: *mut u64) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(simulation.digest());
        Ok(())
    })
}

/// Has `cb` called with a line about each thing that happens from now on, after the turn in which it
/// happened. Tracing does not change the run. NULL: no more.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_on_trace(
    sim: kolo_sim,
    cb: kolo_sim_trace_cb,
    user: *mut c_void,
) -> c_int {
    with_simulation(sim, |simulation| {
        let Some(cb) = cb else {
            simulation.end_trace();
            return Ok(());
        };
        simulation.on_trace(move |lines| {
            for line in lines.lines() {
                // There is no NUL in what kolo writes.
                let Ok(line) = CString::new(line) else {
                    continue;
                };
                // SAFETY: the user's function, with what it asked for.
                unsafe { cb(line.as_ptr(), line.as_bytes().len(), user) }
            }
        });
        Ok(())
    })
}

/// Says how the network between two hosts is, in both directions, from now on; NULL: as between all.
///
/// Errors: KOLO_ENOENT if there is no such host; KOLO_EINVAL for a link of a wrong size, and as
/// kolo_sim_new.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_set_link(
    sim: kolo_sim,
    a: *const kolo_address,
    b: *const kolo_address,
    link: *const kolo_sim_link,
) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (a, b) = unsafe { (host(a)?, host(b)?) };
        let link = match link.is_null() {
            true => None,
            // SAFETY: as above.
            false => Some(link_options(&unsafe { sized::read(link)? })),
        };
        simulation.set_link(a, b, link)
    })
}

/// Cuts two hosts off from each other: nothing passes, also not what is under way. Connections notice
/// after give_up_ns, or by their own timeouts.
///
/// Errors: KOLO_ENOENT if there is no such host.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_partition(
    sim: kolo_sim,
    a: *const kolo_address,
    b: *const kolo_address,
) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (a, b) = unsafe { (host(a)?, host(b)?) };
        simulation.partition(a, b)
    })
}

/// Undoes kolo_sim_partition.
///
/// Errors: KOLO_ENOENT if there is no such host.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_heal(
    sim: kolo_sim,
    a: *const kolo_address,
    b: *const kolo_address,
) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (a, b) = unsafe { (host(a)?, host(b)?) };
        simulation.heal(a, b)
    })
}

/// Undoes every kolo_sim_partition.
#[no_mangle]
pub extern "C" fn kolo_sim_heal_all(sim: kolo_sim) -> c_int {
    with_simulation(sim, |simulation| {
        simulation.heal_all();
        Ok(())
    })
}

/// Resets all connections between two hosts, as a firewall that was started anew. Returns how many.
///
/// Errors: KOLO_ENOENT if there is no such host.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_reset_connections(
    sim: kolo_sim,
    a: *const kolo_address,
    b: *const kolo_address,
) -> c_int {
    with_simulation(sim, |simulation| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (a, b) = unsafe { (host(a)?, host(b)?) };
        let count = simulation.reset_connections(a, b)?;
        Ok(c_int::try_from(count).unwrap_or(c_int::MAX))
    })
}

/// How many sockets a loop of the simulation may have; what exceeds it gets KOLO_EMFILE. 0: no limit.
/// Those it has stay.
///
/// Errors: KOLO_EINVAL for a loop that is not the simulation's, and if it is NULL; KOLO_EBADF for one
/// that was freed; KOLO_EWRONGTHREAD for one of another thread.
#[no_mangle]
pub unsafe extern "C" fn kolo_sim_set_descriptors(
    sim: kolo_sim,
    r#loop: *mut kolo_loop,
    descriptors: u32,
) -> c_int {
    with_simulation(sim, |simulation| {
        let lp = checked(r#loop)?;
        lp.inner.check_fork()?;
        let most = Some(descriptors).filter(|most| *most > 0);
        simulation.set_descriptors(&lp.inner, most)
    })
}
