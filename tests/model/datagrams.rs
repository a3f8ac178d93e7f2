//! UDP sockets: what was sent, what of it must come, and what may be lost.
//!
//! On loopback a datagram that was sent is in the receiver's buffer. So it must come, once and whole and in the order in
//! which its sender sent it, unless the buffer may have been full, the receiver is gone or only listens to another, or the
//! sender was told of an error or was closed before it was sent.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket as StdSocket};

use kolo::{
    Code, Datagram, DatagramError, Flow, Kind, Loop, SendId, Transmit, UdpHandler, UdpOptions,
    UdpSocket,
};

use super::connections::{pattern, PATTERN};
use super::stream_calls::length;
use super::world::{called, Body, Callback, Life, Token, World, VIRTUAL_TIME};

/// The most that UDP over IPv4 carries.
const LENGTH_MAX: usize = 65_507;
/// What kolo counts for a datagram beside its bytes.
const OVERHEAD: usize = 64;
/// Of what waits in a receiver's buffer, by a high estimate: below this it has room for more.
const BUFFER: usize = 150_000;

pub struct UdpModel {
    pub address: SocketAddr,
    pub peer: Option<SocketAddr>,
    pub receiving: bool,
    /// Owned sends that did not end yet.
    owned: VecDeque<Owned>,
    high: usize,
    limit: usize,
    /// The queue may have stood at the high watermark, or `try_send` was refused.
    maybe_full: bool,
    /// It may hear that somebody to whom it was connected is not there.
    may_fail: bool,
    /// The callback in which it last sent something.
    sent_in: u64,
}

/// An owned send whose completion is still to come.
#[derive(Clone, Copy)]
struct Owned {
    serial: u64,
    id: SendId,
    segments: usize,
    canceled: bool,
}

/// A datagram on its way.
struct Flight {
    serial: u64,
    from: SocketAddr,
    start: usize,
    length: usize,
    may_be_lost: bool,
}

/// What is on its way to one address.
struct Mailbox {
    at: SocketAddr,
    flights: VecDeque<Flight>,
    /// Whoever had the address has closed.
    gone: bool,
}

#[derive(Default)]
pub struct Datagrams {
    mailboxes: Vec<Mailbox>,
    /// Sockets that the test drives.
    raw: Vec<(StdSocket, SocketAddr)>,
}

impl Datagrams {
    fn open(&mut self, at: SocketAddr) {
        self.mailboxes.retain(|mailbox| mailbox.at != at);
        self.mailboxes.push(Mailbox {
            at,
            flights: VecDeque::new(),
            gone: false,
        });
    }

    fn mailbox(&mut self, at: SocketAddr) -> Option<&mut Mailbox> {
        self.mailboxes.iter_mut().find(|mailbox| mailbox.at == at)
    }

    /// Descriptors of the test's.
    pub fn held(&self) -> usize {
        self.raw.len()
    }

    fn is_there(&mut self, at: SocketAddr) -> bool {
        self.mailbox(at).is_some_and(|mailbox| !mailbox.gone)
    }

    /// What the sender has under way may not arrive.
    fn lose_of(&mut self, from: SocketAddr) {
        for mailbox in &mut self.mailboxes {
            for flight in &mut mailbox.flights {
                flight.may_be_lost |= flight.from == from;
            }
        }
    }
}

impl Mailbox {
    fn push(&mut self, flight: Flight) {
        let cost = |flight: &Flight| 2 * flight.length + 2048;
        let waiting: usize = self.flights.iter().map(cost).sum();
        // Bytes do not tell whether it is this one that comes.
        let twin = self.flights.iter().any(|other| {
            other.may_be_lost && other.from == flight.from && other.length == flight.length
        });
        let buffer = if VIRTUAL_TIME.get() {
            BUFFER / 8
        } else {
            BUFFER
        };
        let full = waiting + cost(&flight) > buffer;
        if full && VIRTUAL_TIME.get() {
            // It may overtake those before it, and take their room.
            let flights = self.flights.iter_mut();
            flights.for_each(|flight| flight.may_be_lost = true);
        }
        self.flights.push_back(Flight {
            may_be_lost: flight.may_be_lost || full || twin && flight.length < 8,
            ..flight
        });
    }

    /// Whether this is what comes next of what this sender has sent.
    fn receive(&mut self, from: SocketAddr, data: &[u8]) -> bool {
        let found = self.flights.iter().position(|flight| {
            let bytes = &pattern()[flight.start..flight.start + flight.length];
            flight.from == from && bytes == data
        });
        let Some(found) = found else {
            return false;
        };
        if VIRTUAL_TIME.get() {
            // On a simulated network they overtake each other.
            self.flights.remove(found);
            return true;
        }
        let mut at = 0;
        let mut in_order = true;
        self.flights.retain(|flight| {
            let earlier = flight.from == from && at < found;
            in_order &= !earlier || flight.may_be_lost;
            at += 1;
            !earlier && at - 1 != found
        });
        in_order
    }
}

struct Handler {
    at: usize,
    receives: bool,
    _token: Token,
}

impl UdpHandler for Handler {
    fn on_datagram(&mut self, lp: &Loop, _socket: UdpSocket, datagram: &Datagram<'_>) {
        let at = self.at;
        called(lp, Callback::Datagram, Some(at), |world| {
            world.datagram_comes(at, datagram);
        });
    }

    fn on_drain(&mut self, lp: &Loop, _socket: UdpSocket) {
        let at = self.at;
        called(lp, Callback::Drain, Some(at), |world| {
            let was_full = std::mem::take(&mut world.udp(at).maybe_full);
            world.check(was_full, || format!("#{at} drains and was not full"));
        });
    }

    fn on_error(&mut self, lp: &Loop, _socket: UdpSocket, error: &DatagramError) {
        let (at, error) = (self.at, *error);
        called(lp, Callback::Error, Some(at), |world| {
            world.datagram_failed(at, error);
        });
    }

    fn on_close(&mut self, lp: &Loop, _socket: UdpSocket) {
        let at = self.at;
        called(lp, Callback::HandlerClose, Some(at), |world| {
            world.handler_closed(lp, at)
        });
    }

    fn receives(&self) -> bool {
        self.receives
    }
}

impl World {
    pub fn udp(&mut self, at: usize) -> &mut UdpModel {
        match &mut self.handles[at].body {
            Body::Udp(udp) => udp,
            _ => unreachable!("#{at} is a UDP socket"),
        }
    }

    pub fn udp_handle(&self, at: usize) -> UdpSocket {
        UdpSocket::from_id(self.handles[at].id)
    }

    pub fn udp_open(&mut self, lp: &Loop, number: u32) {
        let (at, simulated) = (self.handles.len(), VIRTUAL_TIME.get());
        let options = UdpOptions {
            receive_info: number.is_multiple_of(5) && !simulated,
            receive_tos: number.is_multiple_of(7) && !simulated,
            receive_offload: !number.is_multiple_of(3),
            send_offload: !number.is_multiple_of(4),
            ..Default::default()
        };
        let handler = Handler {
            at,
            receives: self.random.percent(85),
            _token: Token::new(),
        };
        let receiving = handler.receives;
        let opened = UdpSocket::bind_with(lp, self.loopback(), &options, handler);
        let Some(socket) = self.opened("UdpSocket::bind_with", opened) else {
            return;
        };
        let address = self.outcome("UdpSocket::local_address", socket.local_address(lp), None);
        let model = UdpModel {
            address: address.unwrap_or(self.loopback()),
            peer: None,
            receiving,
            owned: VecDeque::new(),
            high: 256 * 1024,
            limit: 1024 * 1024,
            maybe_full: false,
            may_fail: false,
            sent_in: 0,
        };
        self.datagrams.open(model.address);
        self.add(socket.id(), Body::Udp(Box::new(model)));
        self.handles[at].handler_owed = true;
    }

    pub fn raw_udp_open(&mut self) {
        if self.datagrams.raw.len() >= 2 {
            let (_, address) = self.datagrams.raw.remove(0);
            return self.address_gone(address);
        }
        let Ok(socket) = StdSocket::bind(self.loopback()) else {
            return;
        };
        if let (Ok(()), Ok(address)) = (socket.set_nonblocking(true), socket.local_addr()) {
            self.datagrams.open(address);
            self.datagrams.raw.push((socket, address));
        }
    }

    /// Nobody receives there any more.
    fn address_gone(&mut self, address: SocketAddr) {
        if let Some(mailbox) = self.datagrams.mailbox(address) {
            mailbox.gone = true;
            mailbox.flights.clear();
        }
        for handle in &mut self.handles {
            if let Body::Udp(udp) = &mut handle.body {
                udp.may_fail |= udp.peer == Some(address);
            }
        }
    }

    /// A socket of the loop is closed.
    pub fn udp_gone(&mut self, at: usize) {
        let (address, sent_in) = (self.udp(at).address, self.udp(at).sent_in);
        if sent_in == self.record.callbacks {
            // What it sent in this callback was not given to the system yet.
            self.datagrams.lose_of(address);
        }
        self.address_gone(address);
    }

    pub fn udp_is_owed(&self, at: usize) -> bool {
        matches!(&self.handles[at].body, Body::Udp(udp) if !udp.owned.is_empty())
    }

    /// Somebody's address: mostly one that is there.
    fn destination(&mut self, number: u32) -> Option<SocketAddr> {
        let count = self.datagrams.mailboxes.len().max(1);
        let chosen = self.datagrams.mailboxes.get(number as usize % count)?;
        let late = self.datagrams.mailboxes.last();
        match chosen.gone && !number.is_multiple_of(8) {
            true => late.map(|mailbox| mailbox.at),
            false => Some(chosen.at),
        }
    }

    /// What is sent next: where in the pattern, and how many bytes.
    fn datagram(&mut self, number: u32) -> (usize, usize) {
        let length = match number % 16 {
            0 => 0,
            1 => LENGTH_MAX - number as usize / 16 % 3,
            2..=4 => length(number / 16),
            _ => 1 + number as usize / 16 % 1500,
        };
        let length = length.min(LENGTH_MAX);
        (self.net.place().min(PATTERN - length), length)
    }

    /// For whom it is not connected to it is as if nobody was there.
    fn hears_only_another(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.handles.iter().any(|handle| match &handle.body {
            Body::Udp(udp) => udp.address == to && udp.peer.is_some_and(|peer| peer != from),
            _ => false,
        })
    }

    /// So many bytes from a place in the pattern on are on their way.
    fn flies(
        &mut self,
        serial: u64,
        (from, to): (SocketAddr, SocketAddr),
        (start, length): (usize, usize),
    ) {
        let may_fail = self.handles.iter().any(|handle| match &handle.body {
            Body::Udp(udp) => udp.address == from && udp.may_fail,
            _ => false,
        });
        let elsewhere = self.hears_only_another(from, to);
        if let Some(mailbox) = self.datagrams.mailbox(to).filter(|mailbox| !mailbox.gone) {
            mailbox.push(Flight {
                serial,
                from,
                start,
                length,
                may_be_lost: may_fail || elsewhere,
            });
        }
    }

    pub fn udp_send(&mut self, lp: &Loop, at: usize, number: u32, how: u32) {
        let Some(before) = self.udp_queued(lp, at) else {
            return;
        };
        let (start, length) = self.datagram(number);
        let (peer, from) = (self.udp(at).peer, self.udp(at).address);
        let chosen = self.destination(how / 8);
        let to = match peer {
            Some(peer) => Some(peer),
            None if how.is_multiple_of(61) => None,
            None => chosen,
        };
        let segment = (how % 8 == 5 && length > 0).then(|| 1 + (how / 8) as usize % length.max(1));
        let segments = segment.map_or(1, |segment| length.div_ceil(segment));
        let transmit = Transmit {
            to: to.filter(|_| peer.is_none()),
            segment_size: segment.and_then(|segment| segment.try_into().ok()),
            ..Default::default()
        };
        let bytes = &pattern()[start..start + length];
        let (socket, serial, token) = (self.udp_handle(at), self.next_serial(), Token::new());
        let tries = how % 8 == 4;
        let got = match how % 8 {
            2 | 3 => {
                let done = move |lp: &Loop, _: UdpSocket, outcome: kolo::Result<()>| {
                    let _token = &token;
                    called(lp, Callback::Done, Some(at), |world| {
                        world.udp_sent(at, serial, outcome);
                    });
                };
                let sent = match how % 8 {
                    2 => socket.send_owned(lp, bytes, &transmit, done),
                    _ => {
                        let (one, two) = bytes.split_at(length / 3);
                        let pieces = vec![one.into(), two.into()];
                        socket.send_owned_vectored(lp, pieces, &transmit, done)
                    }
                };
                sent.map(|(flow, id)| (flow, Some(id)))
            }
            4 => {
                let tried = socket.try_send(lp, bytes, &transmit);
                tried.map(|()| (Flow::Ready, None))
            }
            _ => socket
                .send_with(lp, bytes, &transmit)
                .map(|flow| (flow, None)),
        };
        let code = got.as_ref().err().map(|error| error.code());
        let udp = self.udp(at);
        let cost = before + length + OVERHEAD * segments;
        let expected = match code {
            _ if to.is_none() => Some(Code::EDESTADDRREQ),
            _ if segments > 64 => Some(Code::EINVAL),
            // Callbacks that are still to come count, too.
            Some(Code::ENOBUFS) if cost + OVERHEAD * udp.owned.len() > udp.limit => code,
            Some(Code::EAGAIN) if tries => code,
            Some(Code::ECONNREFUSED) if tries && udp.may_fail => code,
            _ => None,
        };
        if code == Some(Code::EAGAIN) {
            udp.maybe_full = true;
        }
        let said = format!("#{at} send of {length} to {to:?}, {segments} segments");
        let Some((flow, id)) = self.outcome(&said, got, expected) else {
            return;
        };
        let Some(to) = to else { return };
        self.udp(at).sent_in = self.record.callbacks;
        self.udp(at).owned.extend(id.map(|id| Owned {
            serial,
            id,
            segments,
            canceled: false,
        }));
        if peer.is_some() && (!self.datagrams.is_there(to) || self.hears_only_another(from, to)) {
            self.udp(at).may_fail = true;
        }
        let size = segment.unwrap_or(length.max(1));
        for piece in 0..segments {
            let from_byte = piece * size;
            let part = (start + from_byte, size.min(length - from_byte));
            self.flies(serial, (from, to), part);
        }
        let queued = self.udp_queued(lp, at).unwrap_or(0);
        let udp = self.udp(at);
        udp.maybe_full |= queued >= udp.high;
        let fits = flow == Flow::Ready || udp.maybe_full;
        self.check(fits, || format!("#{at} is full with {queued} bytes queued"));
        if id.is_some() && self.random.percent(10) {
            self.cancel_send(lp, at, u32::MAX);
        }
    }

    /// Takes back one that did not end yet, rather a late one.
    pub fn cancel_send(&mut self, lp: &Loop, at: usize, number: u32) {
        let owned = &self.udp(at).owned;
        let early = owned
            .len()
            .saturating_sub(1 + number as usize % 3 % owned.len().max(1));
        let Some(chosen) = owned.get(early).copied() else {
            return;
        };
        let got = self.udp_handle(at).cancel_send(lp, chosen.id);
        self.record.steps += 1;
        let code = got.err().map(|error| error.code());
        let serial = chosen.serial;
        self.note(|| format!("#{at} cancel_send {serial} -> {code:?}"));
        let fits = match code {
            None => !chosen.canceled,
            Some(Code::EBUSY) => !chosen.canceled && chosen.segments > 1,
            // It may have ended, which was not told yet.
            code => code == Some(Code::ENOENT),
        };
        self.check(fits, || {
            format!("cancel_send {serial} of #{at} gave {code:?}")
        });
        if code.is_some() {
            return;
        }
        self.count("send canceled");
        let mut owned = self.udp(at).owned.iter_mut();
        if let Some(owned) = owned.find(|owned| owned.serial == serial) {
            owned.canceled = true;
        }
        for mailbox in &mut self.datagrams.mailboxes {
            mailbox.flights.retain(|flight| flight.serial != serial);
        }
    }

    /// Bytes that it has queued, if it is open.
    fn udp_queued(&mut self, lp: &Loop, at: usize) -> Option<usize> {
        let got = self.udp_handle(at).queued(lp);
        self.outcome("UdpSocket::queued", got, None)
    }

    fn udp_sent(&mut self, at: usize, serial: u64, outcome: kolo::Result<()>) {
        let open = self.is_open(at);
        let udp = self.udp(at);
        let next = udp.owned.iter().find(|owned| !owned.canceled);
        let next = next.map(|owned| owned.serial);
        let owed = udp.owned.iter().position(|owned| owned.serial == serial);
        let ended = owed.and_then(|owed| udp.owned.remove(owed));
        let canceled = ended.is_some_and(|owned| owned.canceled);
        let in_order = canceled || next == Some(serial);
        let code = outcome.err().map(|error| error.code());
        let (address, may_fail) = (udp.address, udp.may_fail);
        let fits = match code {
            None => !canceled,
            Some(Code::ECANCELED) => canceled || !open,
            Some(Code::ECONNREFUSED) => may_fail,
            Some(_) => false,
        };
        self.note(|| format!("send {serial} -> {code:?}"));
        self.check(owed.is_some() && in_order && fits, || {
            format!("send {serial} of #{at} ends with {code:?}: owed {owed:?}, in order {in_order}")
        });
        if code.is_some() && !canceled {
            self.datagrams.lose_of(address);
        }
        self.settle_closing(at);
    }

    fn datagram_comes(&mut self, at: usize, datagram: &Datagram<'_>) {
        let (from, length) = (datagram.from, datagram.data.len());
        let (address, receiving) = (self.udp(at).address, self.udp(at).receiving);
        self.note(|| format!("{length} bytes from {from}"));
        self.check(receiving, || format!("#{at} receives and was stopped"));
        self.check(!datagram.truncated, || {
            format!("#{at} receives a part of a datagram")
        });
        let to = datagram.to.is_none_or(|to| to == address.ip());
        self.check(to, || format!("#{at} receives for {:?}", datagram.to));
        let mailbox = self.datagrams.mailbox(address);
        let fits = mailbox.is_some_and(|mailbox| mailbox.receive(from, datagram.data));
        self.check(fits, || {
            format!("#{at} receives {length} bytes that {from} has not sent, or not now")
        });
    }

    fn datagram_failed(&mut self, at: usize, error: DatagramError) {
        let (may_fail, address) = (self.udp(at).may_fail, self.udp(at).address);
        let code = error.error.code();
        self.check(code == Code::ECONNREFUSED && may_fail, || {
            format!("#{at} fails with {error:?}")
        });
        self.datagrams.lose_of(address);
    }

    pub fn udp_receive(&mut self, lp: &Loop, at: usize, on: bool) {
        let socket = self.udp_handle(at);
        let got = match on {
            true => socket.receive_start(lp),
            false => socket.receive_stop(lp),
        };
        let call = if on { "receive_start" } else { "receive_stop" };
        self.outcome(&format!("#{at} {call}"), got, None);
        self.udp(at).receiving = on;
    }

    pub fn udp_connect(&mut self, lp: &Loop, at: usize, number: u32) {
        let (socket, before) = (self.udp_handle(at), self.udp_queued(lp, at));
        let to = match number.is_multiple_of(3) {
            true => None,
            false => self.destination(number / 4),
        };
        let got = match to {
            Some(to) => socket.connect_to(lp, to),
            None => socket.disconnect(lp),
        };
        let code = got.as_ref().err().map(|error| error.code());
        let busy = code == Some(Code::EBUSY) && before.is_some_and(|queued| queued > 0);
        let expected = busy.then_some(Code::EBUSY);
        let done = self.outcome(&format!("#{at} connect to {to:?}"), got, expected);
        if done.is_none() {
            return;
        }
        let there = to.is_none_or(|to| self.datagrams.is_there(to));
        let udp = self.udp(at);
        udp.may_fail |= !there;
        udp.peer = to;
        let address = udp.address;
        // What others have under way to it may still come, or not.
        if let Some(mailbox) = self.datagrams.mailbox(address) {
            for flight in &mut mailbox.flights {
                flight.may_be_lost |= to != Some(flight.from);
            }
        }
        for handle in &mut self.handles {
            if let Body::Udp(udp) = &mut handle.body {
                udp.may_fail |= udp.peer == Some(address) && to.is_some_and(|to| to != udp.address);
            }
        }
        let kept = socket.local_address(lp);
        let kept = self.outcome("local_address", kept, None);
        self.check(kept == Some(address), || {
            format!("#{at} was at {address} and is at {kept:?}")
        });
        let got = socket.peer_address(lp);
        let expected = to.is_none().then_some(Code::ENOTCONN);
        let got = self.outcome("peer_address", got, expected);
        self.check(got == to, || {
            format!("#{at} is connected to {got:?}, not {to:?}")
        });
    }

    pub fn udp_watermarks(&mut self, lp: &Loop, at: usize, number: u32) {
        let (low, high, limit) = match number % 5 {
            0 => (2, 1, 1000),
            1 => (0, 100, 5000),
            2 => (1000, 1000, 100_000),
            3 => (10, 200, 70_000),
            _ => (64 * 1024, 256 * 1024, 1024 * 1024),
        };
        let got = self.udp_handle(at).set_watermarks(lp, low, high, limit);
        let expected = (low > high).then_some(Code::EINVAL);
        let done = self.outcome(&format!("#{at} set_watermarks"), got, expected);
        let queued = self.udp_queued(lp, at).unwrap_or(0);
        let udp = self.udp(at);
        if done.is_some() {
            (udp.high, udp.limit) = (high, limit);
        }
        udp.maybe_full |= queued >= udp.high;
    }

    pub fn raw_udp_send(&mut self, number: u32, how: u32) {
        let (start, length) = self.datagram(number);
        let Some(to) = self.destination(how) else {
            return;
        };
        let count = self.datagrams.raw.len().max(1);
        let Some((socket, from)) = self.datagrams.raw.get(how as usize % count) else {
            return;
        };
        let from = *from;
        let sent = socket.send_to(&pattern()[start..start + length], to);
        if sent.is_ok() {
            let serial = self.next_serial();
            self.flies(serial, (from, to), (start, length));
        }
    }

    /// The test's own sockets receive all there is.
    pub fn raw_udp_receive(&mut self) {
        let mut bytes = vec![0; LENGTH_MAX + 1];
        for at in 0..self.datagrams.raw.len() {
            let address = self.datagrams.raw[at].1;
            while let Ok((length, from)) = self.datagrams.raw[at].0.recv_from(&mut bytes) {
                let mailbox = self.datagrams.mailbox(address);
                let fits = mailbox.is_some_and(|mailbox| mailbox.receive(from, &bytes[..length]));
                self.check(fits, || {
                    format!(
                        "{address} receives {length} bytes that {from} has not sent, or not now"
                    )
                });
            }
        }
    }

    /// What must still come.
    pub fn datagrams_to_come(&self) -> Option<String> {
        let to_come = |mailbox: &&Mailbox| {
            !mailbox.gone && mailbox.flights.iter().any(|flight| !flight.may_be_lost)
        };
        let late = self.datagrams.mailboxes.iter().find(to_come)?;
        Some(format!("datagrams to {} are waited for", late.at))
    }

    /// Every socket of the loop receives.
    pub fn udp_receive_all(&mut self, lp: &Loop) {
        for at in 0..self.handles.len() {
            let is_open = self.handles[at].life == Life::Open;
            if is_open && self.handles[at].kind() == Kind::Udp && !self.udp(at).receiving {
                self.udp_receive(lp, at, true);
            }
        }
    }
}
