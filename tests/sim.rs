//! Simulations: virtual time, a network in memory, faults from a seed.

#![cfg(all(unix, feature = "sim"))]

mod common;
#[path = "sim/datagrams.rs"]
mod datagrams;
#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/loops.rs"]
mod loops;
#[path = "sim/repeating.rs"]
mod repeating;
#[path = "sim/streams.rs"]
mod streams;
#[path = "sim/sweep.rs"]
mod sweep;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use common::*;
use kolo::sim::{LinkOptions, Outcome, Simulation, SimulationOptions};
use kolo::{Loop, StreamHandler, TcpListener, TcpStream, Timer};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const SERVER: &str = "10.0.0.1:80";

/// A world with a server's and a client's loop.
struct Pair {
    simulation: Simulation,
    server: Rc<Loop>,
    client: Rc<Loop>,
}

impl Pair {
    fn new(options: SimulationOptions) -> Pair {
        let simulation = Simulation::new(options).unwrap();
        let server = simulation.new_loop(ip("10.0.0.1")).unwrap();
        let client = simulation.new_loop(ip("10.0.0.2")).unwrap();
        Pair {
            simulation,
            server,
            client,
        }
    }

    /// Nothing partial, and no delay that varies: for tests that count.
    fn plain() -> Pair {
        Pair::new(plain())
    }

    /// Listens at [`SERVER`], unreferenced, with a handler for each connection.
    fn listen<H: StreamHandler>(&self, mut handler: impl FnMut() -> H + 'static) -> TcpListener {
        let accept = move |lp: &Loop, _, tcp: TcpStream| tcp.attach(lp, handler()).unwrap();
        let listener = TcpListener::listen(&self.server, at(SERVER), accept).unwrap();
        self.server.unref(listener).unwrap();
        listener
    }

    fn connect(&self, handler: impl StreamHandler) -> TcpStream {
        TcpStream::connect(&self.client, at(SERVER), handler).unwrap()
    }

    #[track_caller]
    fn run(&self, limit: Duration) -> Outcome {
        self.simulation.run(limit).unwrap()
    }

    #[track_caller]
    fn until(&self, condition: impl FnMut() -> bool) {
        let outcome = self.simulation.run_until(secs(100_000), condition);
        assert_eq!(outcome, Ok(Outcome::Met));
    }

    /// Lets time pass, whatever is alive.
    fn pass(&self, time: Duration) {
        let timer = Timer::open(&self.client, |lp: &Loop, timer: Timer| {
            lp.close(timer).unwrap()
        });
        timer.unwrap().start(&self.client, 2 * time).unwrap();
        assert_eq!(self.run(time), Outcome::TimeLimit);
    }

    fn partition(&self) {
        let (server, client) = (ip("10.0.0.1"), ip("10.0.0.2"));
        self.simulation.partition(server, client).unwrap();
    }

    fn heal(&self) {
        let (server, client) = (ip("10.0.0.1"), ip("10.0.0.2"));
        self.simulation.heal(server, client).unwrap();
    }
}

fn plain() -> SimulationOptions {
    SimulationOptions::plain(1)
}
