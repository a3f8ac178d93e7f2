//! How a program on a network ends: nothing new is begun, the network does no more harm, and all that is owed must come
//! within the times that the documentation names.

use std::rc::Rc;
use std::time::Duration;

use kolo::sim::{Outcome, Simulation};
use kolo::{Datagram, Loop, UdpOptions, UdpSocket};

use super::streams::Stream;
use super::{is_over, network, run, Body, End, Life, Network, SECOND};

/// Between two looks.
const SLICE: u64 = 20;
/// From giving up to saying so: the longest pause between two tries (Linux: two minutes), and some more.
const PAUSE: u64 = 200;

pub fn end(simulation: &Rc<Simulation>) {
    if is_over() {
        return;
    }
    let (rests, heals) =
        network(|network| (network.random.percent(70), network.random.percent(60)));
    if rests {
        network(|network| network.calm_down(heals));
        come_to_rest(simulation);
        // One whose peer has gone unheard notices when it writes.
        network(Network::probe);
        come_to_rest(simulation);
        network(|network| network.record.count("came to rest"));
        close_all(simulation);
    }
    let hosts = network(|network| network.hosts.len());
    for host in 0..hosts {
        if !is_over() && network(|network| network.end_loop(host)) {
            let lp = network(|network| network.hosts[host].lp.take());
            drop(lp);
            network(|network| network.loop_ended(host));
        }
    }
}

fn come_to_rest(simulation: &Rc<Simulation>) {
    let slices = network(|network| (network.give_up / SECOND + 127 + PAUSE) / SLICE + 1);
    for slice in 0..=slices {
        let unsettled = network(|network| {
            network.receive_everything();
            network.unsettled()
        });
        match unsettled {
            _ if is_over() => return,
            None => return,
            Some(what) if slice == slices => {
                network(|network| {
                    network.check(false, || format!("does not come to rest: {what}"))
                });
            }
            Some(_) => run(simulation, Duration::from_secs(SLICE)),
        }
    }
}

/// When everything is closed no loop has anything to live for, nor a socket left.
fn close_all(simulation: &Rc<Simulation>) {
    if is_over() {
        return;
    }
    network(|network| {
        for at in 0..network.handles.len() {
            let lp = network.hosts[network.handles[at].host].lp.clone();
            if let (true, Some(lp)) = (network.is_open(at), lp) {
                network.close(&lp, at);
            }
        }
    });
    let got = simulation.run(Duration::from_secs(1));
    network(|network| {
        network.check(got == Ok(Outcome::Done), || {
            format!("all is closed, and the run ends with {got:?}")
        });
        let left = network
            .handles
            .iter()
            .position(|handle| handle.life != Life::Gone);
        network.check(left.is_none(), || {
            format!("#{left:?} did not hear its last")
        });
        for host in 0..network.hosts.len() {
            if let Some(lp) = network.hosts[host].lp.clone() {
                let address = (network.hosts[host].address, 0).into();
                let nobody = |_: &Loop, _: UdpSocket, _: &Datagram<'_>| ();
                let limited = simulation.set_descriptors(&lp, Some(1));
                network.outcome("set_descriptors", limited, None);
                let opened = UdpSocket::bind_with(&lp, address, &UdpOptions::default(), nobody);
                network.outcome("the only socket of a loop", opened, None);
            }
        }
    });
}

impl Network {
    /// Whoever can receives.
    fn receive_everything(&mut self) {
        for at in 0..self.handles.len() {
            let host = self.handles[at].host;
            let Some(lp) = self.hosts[host].lp.clone() else {
                continue;
            };
            if !self.is_open(at) {
                continue;
            }
            match &self.handles[at].body {
                Body::Socket(_) => self.datagrams_received(&lp, at, true),
                Body::Listener(_) => self.pause(&lp, at, false),
                Body::Stream(_) => self.stream_reads(&lp, at),
                Body::Timer { .. } => {}
            }
        }
    }

    fn stream_reads(&mut self, lp: &Loop, at: usize) {
        if self.sync(at).is_none() || self.stream(at).lingers_until.is_some() {
            return;
        }
        let stream = self.stream(at);
        if (stream.read_idle, stream.write_stall) != (0, 0) {
            self.set_timeouts(lp, at, Duration::ZERO, Duration::ZERO);
        }
        let stream = self.stream(at);
        if !stream.reading && !stream.ended && stream.failed.is_none() {
            self.read_start(lp, at);
        }
    }

    /// Whether packets of a connection come through.
    fn is_cut(&self, at: usize, peer: End) -> bool {
        let host = self.handles[at].host;
        let End::Held(peer) = peer else {
            return false;
        };
        let other = self.handles[peer].host;
        self.cuts.contains(&(host.min(other), host.max(other)))
    }

    /// What is still to come.
    fn unsettled(&mut self) -> Option<String> {
        for at in 0..self.handles.len() {
            if self.is_open(at) && matches!(self.handles[at].body, Body::Stream(_)) {
                self.sync(at);
            }
            let waits = match (&self.handles[at].life, &self.handles[at].body) {
                (Life::Gone, _) => false,
                (Life::Closing(_), _) => true,
                (_, Body::Socket(socket)) => socket.is_owed(),
                (_, Body::Stream(stream)) => self.waits(at, stream),
                _ => false,
            };
            if waits {
                let lp = self.hosts[self.handles[at].host].lp.clone();
                let line = lp.map(|lp| lp.describe(self.handles[at].id));
                return Some(format!("#{at} is waited for: {line:?}"));
            }
        }
        self.datagrams_to_come()
    }

    /// Whether a stream must still hear something.
    fn waits(&self, at: usize, stream: &Stream) -> bool {
        if stream.connecting || stream.failed.is_some() || stream.finishing || stream.is_owed() {
            return true;
        }
        let connection = &self.connections[stream.connection];
        let side = stream.side;
        let (own, peer) = (&connection.directions[side], connection.ends[1 - side]);
        // One that has seen the end and has nothing more to write listens for nothing.
        let hears_nothing =
            stream.ended && (peer == End::Gone || self.faults.losses || self.faults.resets);
        if connection.unknown || connection.discards[1 - side] || hears_nothing {
            return false;
        }
        match peer {
            // Of what it has sent, some is not there.
            End::Held(_) => own.under_way() > 0 || own.shut && !own.ended && !self.is_cut(at, peer),
            // Reset before it was accepted, perhaps, of which no word came.
            End::Pending => stream.probed && own.under_way() > 0,
            End::Gone => stream.probed && !stream.shutting,
        }
    }

    /// Has everybody write whose peer is gone, or was never seen.
    fn probe(&mut self) {
        for at in 0..self.handles.len() {
            let lp = self.hosts[self.handles[at].host].lp.clone();
            let is_stream = matches!(self.handles[at].body, Body::Stream(_));
            let (Some(lp), true) = (lp, is_stream && self.is_open(at)) else {
                continue;
            };
            let stream = self.stream(at);
            let (connection, side) = (stream.connection, stream.side);
            let quiet = stream.failed.is_none() && !stream.shutting;
            let held = matches!(self.connections[connection].ends[1 - side], End::Held(_));
            if quiet && !held && self.sync(at).is_some() {
                self.stream(at).probed = true;
                self.write(&lp, at, 1);
            }
        }
    }
}
