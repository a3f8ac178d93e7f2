//! Datagrams between hosts: each comes whole, from who sent it, once or, where the network doubles them, twice.

use std::collections::VecDeque;
use std::net::SocketAddr;

use kolo::{
    Code, Datagram, DatagramError, Loop, SendId, Transmit, UdpHandler, UdpOptions, UdpSocket,
};

use super::{called, Body, Life, Network, Token};
use crate::model::connections::pattern;
use crate::model::program::What;

/// Below this a receiver's buffer has room.
const BUFFER: usize = 2000;

pub struct Socket {
    address: SocketAddr,
    receiving: bool,
    /// Owned sends that did not end yet, and whether they were taken back.
    owned: VecDeque<(u64, SendId, bool)>,
}

impl Socket {
    pub fn is_owed(&self) -> bool {
        !self.owned.is_empty()
    }
}

/// A datagram that was sent.
struct Flight {
    serial: u64,
    from: SocketAddr,
    to: SocketAddr,
    start: usize,
    length: usize,
    /// How often it may still come.
    copies: u32,
    may_be_lost: bool,
}

#[derive(Default)]
pub struct Mailboxes {
    flights: Vec<Flight>,
}

struct Handler {
    at: usize,
    receives: bool,
    _token: Token,
}

impl UdpHandler for Handler {
    fn on_datagram(&mut self, lp: &Loop, _socket: UdpSocket, datagram: &Datagram<'_>) {
        let at = self.at;
        called(
            lp,
            "on_datagram",
            at,
            |network| network.datagram_comes(at, datagram),
            |_| (),
        );
    }

    fn on_error(&mut self, lp: &Loop, _socket: UdpSocket, error: &DatagramError) {
        let (at, error) = (self.at, *error);
        let check = |network: &mut Network| {
            network.check(false, || {
                format!("#{at}, which is not connected, fails with {error:?}")
            });
        };
        called(lp, "on_error", at, check, |_| ());
    }

    fn on_close(&mut self, lp: &Loop, _socket: UdpSocket) {
        let at = self.at;
        called(lp, "on_close", at, |network| network.last_heard(at), |_| ());
    }

    fn receives(&self) -> bool {
        self.receives
    }
}

impl Network {
    fn socket(&mut self, at: usize) -> &mut Socket {
        match &mut self.handles[at].body {
            Body::Socket(socket) => socket,
            _ => unreachable!("#{at} is a UDP socket"),
        }
    }

    pub fn socket_open(&mut self, lp: &Loop, host: usize) {
        let sockets = self
            .handles
            .iter()
            .filter(|handle| handle.life == Life::Open && matches!(handle.body, Body::Socket(_)));
        if sockets.count() >= 8 {
            return;
        }
        let (at, receives) = (self.handles.len(), self.random.percent(85));
        let address = SocketAddr::new(self.hosts[host].address, 0);
        let options = UdpOptions {
            send_buffer: self.random.percent(60).then_some(1500),
            ..Default::default()
        };
        let handler = Handler {
            at,
            receives,
            _token: Token::new(),
        };
        let opened = UdpSocket::bind_with(lp, address, &options, handler);
        let Some(socket) = self.opened(host, "UdpSocket::bind_with", opened) else {
            return;
        };
        let address = self.outcome("local_address", socket.local_address(lp), None);
        let Some(address) = address else { return };
        // Who had the address before is gone, and what was under way to it.
        self.mailboxes.flights.retain(|flight| flight.to != address);
        let model = Socket {
            address,
            receiving: receives,
            owned: VecDeque::new(),
        };
        self.add(host, socket.id(), true, Body::Socket(Box::new(model)));
    }

    pub fn operate_socket(&mut self, lp: &Loop, at: usize, what: What, b: u32, c: u32) {
        match what {
            What::UdpSend => {
                // Several fill what a slow link leaves of the send buffer.
                for turn in 0..1 + b % 4 * (b % 3) {
                    if !self.record.is_over() {
                        self.datagram_send(lp, at, b / 12 + 7 * turn, c + turn);
                    }
                }
            }
            What::CancelSend => self.cancel_send(lp, at, b),
            _ => self.datagrams_received(lp, at, what == What::UdpReceiveStart),
        }
    }

    pub fn datagrams_received(&mut self, lp: &Loop, at: usize, on: bool) {
        let got = match on {
            true => self.udp(at).receive_start(lp),
            false => self.udp(at).receive_stop(lp),
        };
        self.outcome(&format!("#{at} receives: {on}"), got, None);
        self.socket(at).receiving = on;
    }

    fn datagram_send(&mut self, lp: &Loop, at: usize, number: u32, how: u32) {
        let others: Vec<SocketAddr> = self
            .handles
            .iter()
            .filter_map(|handle| match &handle.body {
                Body::Socket(socket) => Some(socket.address),
                _ => None,
            })
            .collect();
        // Rather one of the last.
        let back = how as usize / 2 % others.len().min(8);
        let to = others[others.len() - 1 - back];
        // Short ones are not told apart.
        let length = 8 + number as usize
            % if number.is_multiple_of(8) {
                20_000
            } else {
                1000
            };
        let (start, serial, token) = (self.place(), self.next_serial(), Token::new());
        let transmit = Transmit {
            to: Some(to),
            ..Default::default()
        };
        let bytes = &pattern()[start..start + length];
        let done = move |lp: &Loop, _: UdpSocket, outcome: kolo::Result<()>| {
            let _token = &token;
            called(
                lp,
                "done",
                at,
                |network| network.datagram_sent(at, serial, outcome),
                |_| (),
            );
        };
        let got = match how.is_multiple_of(2) {
            true => self
                .udp(at)
                .send_owned(lp, bytes, &transmit, done)
                .map(|(_, id)| Some(id)),
            false => self.udp(at).send_with(lp, bytes, &transmit).map(|_| None),
        };
        let code = got.as_ref().err().map(|error| error.code());
        let full = code == Some(Code::ENOBUFS);
        let call = format!("#{at} sends {serial}, {length} bytes to {to}");
        let Some(id) = self.outcome(&call, got, full.then_some(Code::ENOBUFS)) else {
            return;
        };
        let from = self.socket(at).address;
        self.socket(at)
            .owned
            .extend(id.map(|id| (serial, id, false)));
        let there = self.handles.iter().any(|handle| {
            let receives =
                |body: &Body| matches!(body, Body::Socket(socket) if socket.address == to);
            handle.life == Life::Open && receives(&handle.body)
        });
        if there {
            let flights = self.mailboxes.flights.iter();
            let waiting: usize = flights
                .filter(|flight| flight.to == to)
                .map(|flight| flight.length)
                .sum();
            // It is on the way for longer than others, and may take their room.
            let full = waiting + length > BUFFER;
            if full {
                let flights = self.mailboxes.flights.iter_mut();
                flights
                    .filter(|flight| flight.to == to)
                    .for_each(|flight| flight.may_be_lost = true);
            }
            self.mailboxes.flights.push(Flight {
                serial,
                from,
                to,
                start,
                length,
                copies: if self.hostile { 2 } else { 1 },
                may_be_lost: self.hostile || full,
            });
        }
        if id.is_some() && self.random.percent(10) {
            self.cancel_send(lp, at, number);
        }
    }

    fn cancel_send(&mut self, lp: &Loop, at: usize, number: u32) {
        let socket = self.socket(at);
        let count = socket.owned.len().max(1);
        let Some((serial, id, canceled)) = socket.owned.get(number as usize % count).copied()
        else {
            return;
        };
        let got = self.udp(at).cancel_send(lp, id);
        let code = got.as_ref().err().map(|error| error.code());
        let ended = code == Some(Code::ENOENT);
        let call = format!("#{at} cancel_send {serial}");
        self.outcome(&call, got, ended.then_some(Code::ENOENT));
        self.check(ended || !canceled, || {
            format!("send {serial} of #{at} is taken back twice")
        });
        if !ended {
            let mut owned = self.socket(at).owned.iter_mut();
            if let Some(owned) = owned.find(|owned| owned.0 == serial) {
                owned.2 = true;
            }
            self.mailboxes
                .flights
                .retain(|flight| flight.serial != serial);
            self.record.count("send canceled");
        }
    }

    fn datagram_sent(&mut self, at: usize, serial: u64, outcome: kolo::Result<()>) {
        let open = self.is_open(at);
        let socket = self.socket(at);
        let owed = socket.owned.iter().position(|owned| owned.0 == serial);
        let earlier = socket
            .owned
            .iter()
            .find(|owned| !owned.2)
            .map(|owned| owned.0);
        let canceled = owed
            .and_then(|owed| socket.owned.remove(owed))
            .is_some_and(|owned| owned.2);
        let code = outcome.err().map(|error| error.code());
        let fits = match code {
            None => !canceled,
            Some(Code::ECANCELED) => canceled || !open,
            _ => false,
        };
        let in_order = canceled || earlier == Some(serial);
        self.check(owed.is_some() && fits && in_order, || {
            format!("send {serial} of #{at} ends with {code:?}: owed {owed:?}, taken back {canceled}, in order {in_order}")
        });
        if code.is_some() {
            self.mailboxes
                .flights
                .retain(|flight| flight.serial != serial);
        }
        self.settle(at);
    }

    fn datagram_comes(&mut self, at: usize, datagram: &Datagram<'_>) {
        let (address, receiving) = (self.socket(at).address, self.socket(at).receiving);
        self.check(receiving, || format!("#{at} receives and was stopped"));
        let found = self.mailboxes.flights.iter().position(|flight| {
            let bytes = &pattern()[flight.start..flight.start + flight.length];
            flight.to == address && flight.from == datagram.from && bytes == datagram.data
        });
        let (from, length) = (datagram.from, datagram.data.len());
        self.record.note(|| format!("{length} bytes from {from}"));
        self.check(found.is_some(), || {
            format!("#{at} receives {length} bytes that {from} has not sent, or not so often")
        });
        if let Some(found) = found {
            let flight = &mut self.mailboxes.flights[found];
            flight.copies -= 1;
            flight.may_be_lost = true;
            if flight.copies == 0 {
                self.mailboxes.flights.swap_remove(found);
            }
        }
    }

    /// A socket is closed: nothing comes to it, and what it has sent may be lost.
    pub fn socket_gone(&mut self, at: usize) {
        let address = self.socket(at).address;
        self.mailboxes.flights.retain(|flight| flight.to != address);
        for flight in &mut self.mailboxes.flights {
            flight.may_be_lost |= flight.from == address;
        }
    }

    /// What must still come, when everybody receives.
    pub fn datagrams_to_come(&self) -> Option<String> {
        let late = self
            .mailboxes
            .flights
            .iter()
            .find(|flight| !flight.may_be_lost)?;
        Some(format!(
            "datagram {} to {} is waited for",
            late.serial, late.to
        ))
    }
}
