//! Several hosts on one simulated network, which loses, delays, doubles, cuts off, refuses and resets.
//!
//! Each host has a loop of its own. What holds on such a network is less than on one machine, and is all that a user may
//! rely on there: what arrives is the beginning of what was sent; each write ends once and in its order; no error comes
//! without a reason; a closed handle hears its last once; and when the network is left alone, a connection brings what
//! was sent, or its ends are told that it did not.

mod datagrams;
mod operations;
mod rest;
mod streams;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kolo::sim::{LinkOptions, Simulation, SimulationOptions};
use kolo::{Code, Id, Loop, LoopOptions, Result};

use super::connections::{Direction, PATTERN, PIECE_MAX};
use super::program::{Operation, Program, What};
use super::random::Random;
use super::record::Record;
use super::world::Token;
use datagrams::{Mailboxes, Socket};
use streams::Stream;

thread_local! {
    static NETWORK: RefCell<Option<Box<Network>>> = const { RefCell::new(None) };
    static NESTED: Cell<bool> = const { Cell::new(false) };
}

/// How late a callback may come that waits for nothing but its time.
const LATE: u64 = 50_000_000;
pub const SECOND: u64 = 1_000_000_000;
/// Within this a connection is made, or it has failed (Linux: six retries).
const CONNECT_MAX: u64 = 127 * SECOND;

pub struct Host {
    address: IpAddr,
    lp: Option<Rc<Loop>>,
    /// Its loop is being dropped.
    ends: bool,
    /// How many sockets it may have was bounded at some time.
    limited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    /// Closed, at that time.
    Closing(u64),
    Gone,
}

pub enum Body {
    Timer { due: u64 },
    Listener(Listener),
    Stream(Box<Stream>),
    Socket(Box<Socket>),
}

pub struct Listener {
    address: SocketAddr,
    paused: bool,
    backlog: usize,
}

pub struct Handle {
    host: usize,
    id: Id,
    life: Life,
    /// The loop may close it by itself.
    may_close: bool,
    /// Its `on_close` is still to come.
    owed: bool,
    body: Body,
}

/// Where an end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not accepted yet.
    Pending,
    /// The handle.
    Held(usize),
    Gone,
}

pub struct Connection {
    ends: [End; 2],
    /// What each end sends.
    directions: [Direction; 2],
    /// What this end receives is thrown away.
    discards: [bool; 2],
    /// Where it was accepted, or will be.
    listener: Option<usize>,
    /// Accepted from a peer that nobody knows: of a loop that is gone, or reset already.
    unknown: bool,
}

/// What may have happened to packets so far.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// Packets were lost, or hosts cut off.
    losses: bool,
    doubles: bool,
    resets: bool,
    refusals: bool,
}

pub struct Network {
    pub record: Record,
    program: Arc<Program>,
    next_script: usize,
    random: Random,
    simulation: Rc<Simulation>,
    give_up: u64,
    latency_max: u64,
    hosts: Vec<Host>,
    handles: Vec<Handle>,
    connections: Vec<Connection>,
    /// By the listener's address and the connecting end's.
    by_addresses: HashMap<(SocketAddr, SocketAddr), usize>,
    mailboxes: Mailboxes,
    /// Whether this program's network does harm at all.
    hostile: bool,
    faults: Faults,
    /// Pairs of hosts that are cut off from each other.
    cuts: Vec<(usize, usize)>,
    current: Option<usize>,
    /// The host whose callback runs.
    inside: Option<usize>,
    calm: bool,
    serial: u64,
    pieces: usize,
}

fn network<R>(run: impl FnOnce(&mut Network) -> R) -> R {
    NETWORK.with(|slot| run(slot.borrow_mut().as_mut().expect("a program is played")))
}

/// In a callback: what the model says of it, and then what the program has for it.
fn called<R: Default>(
    lp: &Loop,
    what: &'static str,
    at: usize,
    run: impl FnOnce(&mut Network),
    then: impl FnOnce(&mut Network) -> R,
) -> R {
    NETWORK.with(|slot| {
        let Ok(mut slot) = slot.try_borrow_mut() else {
            NESTED.set(true);
            return R::default();
        };
        let Some(network) = slot.as_mut().filter(|network| !network.record.is_over()) else {
            return R::default();
        };
        let host = network.handles[at].host;
        network.record.callbacks += 1;
        network.record.count(what);
        network.record.quiet = network.calm;
        network
            .record
            .note(|| format!("host {host}: {what} of #{at}"));
        network.record.inside = true;
        (network.current, network.inside) = (Some(at), Some(host));
        network
            .record
            .check(!NESTED.get(), || "a callback came inside a call".into());
        let (life, ends) = (network.handles[at].life, network.hosts[host].ends);
        let last_words = matches!(what, "done" | "on_close");
        let fits = match life {
            Life::Open => !ends,
            Life::Closing(_) => last_words,
            Life::Gone => false,
        };
        network
            .record
            .check(fits, || format!("{what} of #{at}, which is {life:?}"));
        if !network.record.is_over() {
            run(network);
        }
        if !ends {
            network.run_script(lp, host);
        }
        let result = then(network);
        (network.current, network.inside) = (None, None);
        network.record.inside = false;
        result
    })
}

/// What the network of a program is like, and whether it does harm.
fn options(seed: u64, random: &mut Random) -> (SimulationOptions, bool) {
    let hostile = random.percent(75);
    let usual = match random.percent(50) {
        true if hostile => SimulationOptions::harsh(seed),
        _ => SimulationOptions::with_seed(seed),
    };
    let partial = [0, 50_000, 500_000][random.below(3) as usize];
    let buffers = [4096, 16_384, 65_536];
    let options = SimulationOptions {
        partial_read_ppm: partial,
        partial_write_ppm: partial,
        send_buffer: buffers[random.below(3) as usize],
        receive_buffer: buffers[random.below(3) as usize],
        give_up: Duration::from_secs([20, 300, 924][random.below(3) as usize]),
        ..usual
    };
    let link = if hostile {
        link(random)
    } else {
        options.link.clone()
    };
    (SimulationOptions { link, ..options }, hostile)
}

fn link(random: &mut Random) -> LinkOptions {
    let mut some = |most: u32| [0, 0, most / 10, most][random.below(4) as usize];
    let usual = LinkOptions::default();
    LinkOptions {
        loss_ppm: some(100_000),
        duplicate_ppm: some(200_000),
        reset_ppm: some(20_000),
        refuse_ppm: some(200_000),
        latency_max: usual.latency_max * (1 + some(400)),
        bandwidth: [None, None, Some(1_000_000), Some(100_000)][random.below(4) as usize],
        packet_max: [1460, 1460, 500, 9000][random.below(4) as usize],
        ..usual
    }
}

pub fn play(program: &Arc<Program>, tracing: bool) {
    let mut random = Random::new(program.seed ^ 0x6e65_7477);
    let (options, hostile) = options(program.seed, &mut random);
    let simulation = Rc::new(Simulation::new(options.clone()).expect("a simulation"));
    let mut network = Network {
        record: Record::new(tracing),
        program: program.clone(),
        next_script: 0,
        simulation: simulation.clone(),
        give_up: options.give_up.as_nanos() as u64,
        latency_max: 0,
        hosts: Vec::new(),
        handles: Vec::new(),
        connections: Vec::new(),
        by_addresses: HashMap::new(),
        mailboxes: Mailboxes::default(),
        hostile,
        faults: Faults::default(),
        cuts: Vec::new(),
        current: None,
        inside: None,
        calm: false,
        serial: 0,
        pieces: 0,
        random,
    };
    network.link_is(&options.link);
    for number in 0..2 + network.random.below(3) {
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1 + number as u8));
        network.hosts.push(Host {
            address,
            lp: None,
            ends: false,
            limited: false,
        });
        network.begin_loop(number as usize);
    }
    network.name_hosts();
    NESTED.set(false);
    NETWORK.with(|slot| *slot.borrow_mut() = Some(Box::new(network)));
    if tracing && std::env::var_os("KOLO_MODEL_TRACE").is_some() {
        simulation.on_trace(|lines| eprint!("{lines}"));
    }
    for operation in &program.outside {
        if is_over() {
            break;
        }
        match operation.what {
            What::Run => run(&simulation, time_of(operation.a)),
            What::EndLoop => end_or_begin_loop(operation.a),
            _ => network_operates(operation),
        }
    }
    rest::end(&simulation);
}

/// What the program that was played has left.
pub fn take() -> Option<Record> {
    NETWORK
        .with(|slot| slot.borrow_mut().take())
        .map(|network| network.record)
}

fn is_over() -> bool {
    network(|network| network.record.is_over())
}

fn network_operates(operation: &Operation) {
    network(|network| {
        let host = operation.c as usize / 16 % network.hosts.len();
        if let Some(lp) = network.hosts[host].lp.clone() {
            network.operate(&lp, host, operation);
        }
    });
}

/// From microseconds to minutes: most of a program's time passes in few of its runs.
fn time_of(number: u32) -> Duration {
    let unit = [1, 1, 30, 30, 1000, 1000, 30_000, 2_000_000][number as usize % 8];
    Duration::from_micros(unit * u64::from(number / 8 % 64))
}

/// Lets so much time pass.
fn run(simulation: &Rc<Simulation>, time: Duration) {
    let began = network(|network| {
        network.record.quiet = network.calm;
        network.record.note(|| format!("run for {time:?}"));
        network.now()
    });
    let got = simulation.run(time);
    network(|network| {
        network.record.outcome("Simulation::run", got, None);
        network.after_run(began);
    });
}

/// A program on a host ends, as if it was killed; or one is started where there is none.
fn end_or_begin_loop(number: u32) {
    let host = network(|network| number as usize % network.hosts.len());
    if !network(|network| network.end_loop(host)) {
        return network(|network| network.begin_loop(host));
    }
    // Its callbacks come now.
    let lp = network(|network| network.hosts[host].lp.take());
    drop(lp);
    network(|network| network.loop_ended(host));
}

impl Network {
    fn now(&self) -> u64 {
        self.simulation.elapsed().as_nanos() as u64
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Where in the pattern the next piece is cut.
    fn place(&mut self) -> usize {
        self.pieces += 1;
        self.pieces * 7919 % (PATTERN - PIECE_MAX)
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) -> bool {
        self.record.check(holds, what)
    }

    fn outcome<T>(&mut self, call: &str, got: Result<T>, expected: Option<Code>) -> Option<T> {
        self.record.quiet = self.calm;
        self.record.outcome(call, got, expected)
    }

    /// A call that opens something: descriptors may have run out.
    fn opened<T>(&mut self, host: usize, call: &str, got: Result<T>) -> Option<T> {
        let code = got.as_ref().err().map(|error| error.code());
        let short = code == Some(Code::EMFILE) && self.hosts[host].limited;
        self.outcome(call, got, short.then_some(Code::EMFILE))
    }

    fn link_is(&mut self, link: &LinkOptions) {
        self.latency_max = self.latency_max.max(link.latency_max.as_nanos() as u64);
        self.faults.losses |= link.loss_ppm > 0;
        self.faults.doubles |= link.duplicate_ppm > 0;
        self.faults.resets |= link.reset_ppm > 0;
        self.faults.refusals |= link.refuse_ppm > 0;
    }

    fn begin_loop(&mut self, host: usize) {
        let events = [1, 3, 1024, 1024][self.random.below(4) as usize];
        let options = LoopOptions {
            events_per_turn: NonZeroU32::new(events).unwrap_or(NonZeroU32::MIN),
            ..Default::default()
        };
        let lp = self
            .simulation
            .new_loop_with(self.hosts[host].address, options);
        let host = &mut self.hosts[host];
        (host.lp, host.ends, host.limited) = (lp.ok(), false, false);
    }

    /// Everything that the loop has is closed. False if there is no loop.
    fn end_loop(&mut self, host: usize) -> bool {
        if self.hosts[host].lp.is_none() {
            return false;
        }
        self.record
            .note(|| format!("host {host}: the loop is dropped"));
        for at in 0..self.handles.len() {
            if self.handles[at].host != host || self.handles[at].life != Life::Open {
                continue;
            }
            if let Body::Stream(stream) = &self.handles[at].body {
                let (connection, side) = (stream.connection, stream.side);
                self.end_gone(connection, side, usize::MAX);
            }
            self.closed(at);
        }
        self.hosts[host].ends = true;
        true
    }

    fn loop_ended(&mut self, host: usize) {
        let left = self
            .handles
            .iter()
            .position(|handle| handle.host == host && handle.life != Life::Gone);
        self.check(left.is_none(), || {
            format!("#{left:?} did not hear its last")
        });
        self.record.count("loop ended");
    }

    fn add(&mut self, host: usize, id: Id, owed: bool, body: Body) -> usize {
        self.handles.push(Handle {
            host,
            id,
            life: Life::Open,
            may_close: false,
            owed,
            body,
        });
        self.handles.len() - 1
    }

    fn is_open(&self, at: usize) -> bool {
        self.handles[at].life == Life::Open
    }

    /// One of a host's open handles that `fits`: in a callback often that callback's.
    fn choose(&self, host: usize, number: u32, fits: impl Fn(&Body) -> bool) -> Option<usize> {
        let fits = |at: &usize| {
            let handle = &self.handles[*at];
            handle.host == host && handle.life == Life::Open && fits(&handle.body)
        };
        let current = self
            .current
            .filter(|at| number.is_multiple_of(2) && fits(at));
        if current.is_some() {
            return current;
        }
        let all: Vec<usize> = (0..self.handles.len()).filter(fits).collect();
        all.get(number as usize / 2 % all.len().max(1)).copied()
    }

    /// The handle is closed: what it is owed comes in its loop's closing phase.
    fn closed(&mut self, at: usize) {
        if self.handles[at].life != Life::Open {
            return;
        }
        self.handles[at].life = Life::Closing(self.now());
        match &self.handles[at].body {
            Body::Listener(_) => {
                for connection in 0..self.connections.len() {
                    let there = &self.connections[connection];
                    if there.listener == Some(at) && there.ends[1] == End::Pending {
                        self.end_gone(connection, 1, usize::MAX);
                    }
                }
            }
            Body::Socket(_) => self.socket_gone(at),
            _ => {}
        }
        self.settle(at);
    }

    fn owes(&self, at: usize) -> bool {
        match &self.handles[at].body {
            Body::Stream(stream) => stream.is_owed(),
            Body::Socket(socket) => socket.is_owed(),
            _ => false,
        }
    }

    /// A closed handle that is owed nothing is gone.
    fn settle(&mut self, at: usize) {
        let owed = self.handles[at].owed || self.owes(at);
        if matches!(self.handles[at].life, Life::Closing(_)) && !owed {
            self.handles[at].life = Life::Gone;
        }
    }

    /// `on_close`.
    fn last_heard(&mut self, at: usize) {
        let (owed, open, completions) = (self.handles[at].owed, self.is_open(at), self.owes(at));
        self.handles[at].owed = false;
        self.check(owed && !open && !completions, || {
            format!(
                "on_close of #{at}: owed {owed}, open {open}, completions to come {completions}"
            )
        });
        self.settle(at);
    }

    /// Time has passed: who was closed before has heard its last, and who connects has not done so for too long.
    fn after_run(&mut self, began: u64) {
        let now = self.now();
        let late = self.handles.iter().position(|handle| {
            matches!(handle.life, Life::Closing(since) if since < began && now > began + LATE)
        });
        self.check(late.is_none(), || {
            format!("#{late:?} was closed before the run, and has not heard its last")
        });
        let late = self.handles.iter().position(|handle| match &handle.body {
            _ if handle.life != Life::Open => false,
            Body::Timer { due } => *due + LATE < now,
            Body::Stream(stream) => stream.connects_by().is_some_and(|by| by + LATE < now),
            _ => false,
        });
        self.check(late.is_none(), || {
            format!("#{late:?} should have been told by now that its time is over")
        });
    }

    /// What the program has for this callback.
    fn run_script(&mut self, lp: &Loop, host: usize) {
        let (program, number) = (self.program.clone(), self.next_script);
        self.next_script += 1;
        if self.calm {
            return;
        }
        for operation in program.inside.get(number).into_iter().flatten() {
            if !self.record.is_over() {
                self.operate(lp, host, operation);
            }
        }
    }

    /// An end is no more; of what it wrote so many bytes may be lost.
    fn end_gone(&mut self, connection: usize, side: usize, lost: usize) {
        let connection = &mut self.connections[connection];
        connection.ends[side] = End::Gone;
        let direction = &mut connection.directions[side];
        (direction.ending, direction.shut) = (true, true);
        direction.lost = direction.lost.max(lost);
    }

    /// Whether an end may find the connection broken.
    fn is_breakable(&mut self, connection: usize, side: usize) -> bool {
        if let End::Held(peer) = self.connections[connection].ends[1 - side] {
            // The loop may have closed it by itself, which nobody has noticed yet.
            if self.is_open(peer) && self.handles[peer].may_close {
                self.sync(peer);
            }
        }
        let there = &self.connections[connection];
        let faults = self.faults.losses || self.faults.resets;
        there.ends[1 - side] == End::Gone || there.unknown || faults
    }
}
