//! One end of a simulated TCP connection (RFC 9293): a state machine that knows of no network and no loop.
//!
//! Sequence numbers count bytes from 0 and do not wrap; a SYN has none, a FIN has the one after the last byte. What
//! arrives out of order is dropped and comes again, since the sender goes back to the first byte that was not
//! acknowledged (go-back-N): less than a real one does, but what the two programs see is the same.

use std::collections::VecDeque;

use crate::error::Code;

pub(super) const SECOND: u64 = 1_000_000_000;

/// How often a SYN is sent again (Linux: net.ipv4.tcp_syn_retries), and a SYN's answer (tcp_synack_retries).
const SYN_RETRIES: u32 = 6;
const SYN_ANSWER_RETRIES: u32 = 5;

/// How long an end that closed first is remembered, and one whose peer does not close (tcp_fin_timeout).
const LINGERS: u64 = 60 * SECOND;

/// The shortest and the longest time until something is sent again (TCP_RTO_MIN, TCP_RTO_MAX).
const RETRY_MIN: u64 = SECOND / 5;
const RETRY_MAX: u64 = 120 * SECOND;

/// Segments that may be under way before the first was acknowledged (RFC 6928).
const FIRST_SEGMENTS: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A SYN was sent.
    SynSent,
    /// A SYN came and was answered.
    SynReceived,
    Connected,
    /// Both sides have ended and we were first: what the peer sends again is acknowledged.
    TimeWait,
    /// Broken.
    Closed,
}

/// What travels.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// The next byte that is expected.
    pub ack: Option<u64>,
    /// Bytes beyond that which there is room for.
    pub window: u64,
    pub seq: u64,
    pub data: Vec<u8>,
    /// Wants an answer, whatever is in it.
    pub asks: bool,
}

/// Probes of a silent peer: nanoseconds of silence, nanoseconds between probes, how many may go unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probing {
    pub idle: u64,
    pub interval: u64,
    pub count: u32,
}

/// What does not change while a connection lasts.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub send: usize,
    pub receive: usize,
    /// Bytes of one segment.
    pub segment: u64,
    /// How long an answer may take on a network that works.
    pub round_trip: u64,
    /// How long what was sent may go unacknowledged.
    pub give_up: u64,
}

pub(super) struct Connection {
    pub phase: Phase,
    pub limits: Limits,
    /// Bytes that were not acknowledged, from `acked` on.
    send: VecDeque<u8>,
    acked: u64,
    /// What is sent next.
    next: u64,
    /// Our side ends after what is in `send`.
    fin_wanted: bool,
    fin_acked: bool,
    /// The first byte that the peer has no room for.
    edge: u64,
    /// Bytes that may be under way (RFC 5681).
    congestion: u64,
    receive: VecDeque<u8>,
    expected: u64,
    /// The first byte that the peer was told there is no room for.
    advertised: u64,
    pub peer_ended: bool,
    ended_first: bool,
    error: Option<Code>,
    /// Closed by its program, and still sending what is left.
    pub orphan: bool,
    /// When what was sent is sent again, how often it was, and since when nothing was heard.
    retry_at: Option<u64>,
    attempts: u32,
    unanswered_since: Option<u64>,
    /// When what was sent last arrives, if it does.
    pub arrives_at: u64,
    /// When it is forgotten, and when it is reset instead.
    expires_at: Option<u64>,
    probing: Option<Probing>,
    heard_at: u64,
    probes: u32,
    /// What is to be sent.
    pub out: Vec<Piece>,
    /// Nothing is left of it.
    pub gone: bool,
}

impl Connection {
    fn new(phase: Phase, limits: Limits, now: u64) -> Connection {
        Connection {
            phase,
            limits,
            send: VecDeque::new(),
            acked: 0,
            next: 0,
            fin_wanted: false,
            fin_acked: false,
            edge: 0,
            congestion: FIRST_SEGMENTS * limits.segment,
            receive: VecDeque::new(),
            expected: 0,
            advertised: limits.receive as u64,
            peer_ended: false,
            ended_first: false,
            error: None,
            orphan: false,
            retry_at: Some(now + SECOND),
            attempts: 0,
            unanswered_since: None,
            arrives_at: 0,
            expires_at: None,
            probing: None,
            heard_at: now,
            probes: 0,
            out: Vec::new(),
            gone: false,
        }
    }

    /// The end that connects.
    pub fn connect(limits: Limits, now: u64) -> Connection {
        let mut connection = Connection::new(Phase::SynSent, limits, now);
        connection.push_syn();
        connection
    }

    /// The end that was connected to, by a SYN with this window.
    pub fn answer(limits: Limits, window: u64, now: u64) -> Connection {
        let mut connection = Connection::new(Phase::SynReceived, limits, now);
        connection.edge = window;
        connection.push_syn();
        connection
    }

    fn push_syn(&mut self) {
        let ack = (self.phase == Phase::SynReceived).then_some(0);
        self.out.push(Piece {
            syn: true,
            ack,
            window: self.limits.receive as u64,
            ..Piece::default()
        });
    }

    // What the program does.

    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::SynSent
    }

    /// What broke the connection, once.
    pub fn take_error(&mut self) -> Option<Code> {
        self.error.take()
    }

    pub fn is_readable(&self) -> bool {
        !self.receive.is_empty() || self.has_ended()
    }

    /// Nothing more will come.
    fn has_ended(&self) -> bool {
        self.peer_ended || self.error.is_some() || self.phase == Phase::Closed
    }

    /// Whether there is as much room as makes it worth waking somebody (Linux: a third of the buffer).
    pub fn is_writable(&self) -> bool {
        let room = self.limits.send.saturating_sub(self.send.len());
        self.phase == Phase::Closed || !self.is_connecting() && room * 3 >= self.limits.send
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        self.receive.len()
    }

    /// Room for what is written; an error if the connection takes no more.
    pub fn room(&mut self) -> Result<usize, Code> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        match self.phase {
            Phase::SynSent | Phase::SynReceived => Ok(0),
            Phase::Connected if !self.fin_wanted => {
                Ok(self.limits.send.saturating_sub(self.send.len()))
            }
            _ => Err(Code::EPIPE),
        }
    }

    /// Takes bytes to send; there is room for them.
    pub fn write(&mut self, data: &[u8], now: u64) {
        self.send.extend(data);
        self.pump(now);
    }

    /// Bytes that came: how many; `None` when there are none yet, 0 at their end.
    pub fn read(&mut self, memory: &mut [u8], now: u64) -> Result<Option<usize>, Code> {
        if self.receive.is_empty() {
            return match (self.error.take(), self.has_ended()) {
                (Some(error), _) => Err(error),
                (None, true) => Ok(Some(0)),
                (None, false) => Ok(None),
            };
        }
        let length = memory.len().min(self.receive.len());
        copy_from(&self.receive, 0, &mut memory[..length]);
        self.receive.drain(..length);
        // The peer is told of room when there is enough to be worth it (RFC 9293, 3.8.6.2.2).
        let more = self.window_edge().saturating_sub(self.advertised);
        let enough = self.limits.segment.min(self.limits.receive as u64 / 2);
        if self.phase == Phase::Connected && !self.peer_ended && more >= enough.max(1) {
            self.push_ack(false);
        }
        let _ = now;
        Ok(Some(length))
    }

    pub fn shut(&mut self, now: u64) -> Result<(), Code> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        match self.phase {
            Phase::Connected => {
                self.end_side(now);
                Ok(())
            }
            _ => Err(Code::ENOTCONN),
        }
    }

    fn end_side(&mut self, now: u64) {
        if !self.fin_wanted {
            self.fin_wanted = true;
            self.ended_first = !self.peer_ended;
        }
        self.pump(now);
    }

    /// The program closes it: what is left is still sent, unless bytes were not read (RFC 2525, 2.17) or closing
    /// `resets` it.
    pub fn close(&mut self, resets: bool, now: u64) {
        self.orphan = true;
        let unread = !self.receive.is_empty();
        match self.phase {
            Phase::Connected if unread || resets => self.reset(),
            Phase::Connected => {
                self.end_side(now);
                self.finish(now);
            }
            Phase::SynReceived => self.reset(),
            Phase::TimeWait => {}
            Phase::SynSent | Phase::Closed => self.gone = true,
        }
    }

    /// Breaks it off, and tells the peer.
    pub fn reset(&mut self) {
        self.out.push(Piece {
            rst: true,
            seq: self.next,
            ..Piece::default()
        });
        self.gone = true;
    }

    pub fn probe_silence(&mut self, probing: Option<Probing>) {
        self.probing = probing;
        self.probes = 0;
    }

    // What the network does.

    /// Something came from the peer.
    pub fn arrived(&mut self, piece: &Piece, now: u64) {
        if piece.rst {
            return self.was_reset();
        }
        self.heard_at = now;
        self.probes = 0;
        match self.phase {
            Phase::SynSent if piece.syn && piece.ack.is_some() => {
                self.begin(now);
                self.edge = piece.window;
                self.push_ack(false);
                return self.pump(now);
            }
            // A SYN that crosses ours is not understood here; it is sent again.
            Phase::SynSent | Phase::Closed => return,
            Phase::SynReceived if piece.syn => return self.push_syn(),
            Phase::SynReceived if piece.ack.is_none() => return,
            Phase::SynReceived => self.begin(now),
            // Our acknowledgement of it was lost.
            Phase::Connected | Phase::TimeWait if piece.syn => return self.push_ack(false),
            Phase::Connected | Phase::TimeWait => {}
        }
        if let Some(ack) = piece.ack {
            self.acknowledged(ack, piece.window);
        }
        if !piece.data.is_empty() || piece.fin {
            self.take_data(piece);
        } else if piece.asks {
            self.push_ack(false);
        }
        if !self.gone {
            self.unanswered_since = None;
            self.pump(now);
            self.finish(now);
        }
    }

    fn begin(&mut self, now: u64) {
        self.phase = Phase::Connected;
        (self.retry_at, self.attempts) = (None, 0);
        self.heard_at = now;
    }

    fn was_reset(&mut self) {
        match self.phase {
            Phase::SynSent => self.fail(Code::ECONNREFUSED),
            Phase::SynReceived | Phase::TimeWait => self.gone = true,
            // As Linux has it (tcp_reset).
            Phase::Connected if self.peer_ended => self.fail(Code::EPIPE),
            Phase::Connected => self.fail(Code::ECONNRESET),
            Phase::Closed => {}
        }
    }

    /// It is broken. What had come can still be read.
    pub fn fail(&mut self, code: Code) {
        self.phase = Phase::Closed;
        self.error = Some(code);
        self.send.clear();
        self.retry_at = None;
        self.gone |= self.orphan;
    }

    fn acknowledged(&mut self, ack: u64, window: u64) {
        let end = self.data_end();
        if ack > end + u64::from(self.fin_wanted) || ack < self.acked {
            return;
        }
        let bytes = ack.min(end) - self.acked;
        let fin = self.fin_wanted && ack > end && !self.fin_acked;
        if bytes > 0 || fin {
            self.send.drain(..bytes as usize);
            self.acked += bytes;
            self.fin_acked |= fin;
            self.next = self.next.max(ack);
            self.congestion = (self.congestion + bytes).min(1 << 30);
            (self.retry_at, self.attempts) = (None, 0);
        }
        self.edge = self.edge.max(ack + window);
    }

    /// Takes what is new of the bytes that came.
    fn take_data(&mut self, piece: &Piece) {
        let length = piece.data.len() as u64;
        let new_from = self.expected.saturating_sub(piece.seq);
        if piece.seq > self.expected || self.peer_ended {
            return self.push_ack(false);
        }
        if new_from < length && self.orphan {
            // Nobody will read it, and the peer is to know (RFC 9293, 3.6; RFC 1122, 4.2.2.13).
            return self.reset();
        }
        let room = (self.limits.receive - self.receive.len().min(self.limits.receive)) as u64;
        let new = length.saturating_sub(new_from).min(room);
        let at = new_from.min(length) as usize;
        self.receive.extend(&piece.data[at..at + new as usize]);
        self.expected += new;
        if piece.fin && self.expected == piece.seq + length {
            self.expected += 1;
            self.peer_ended = true;
        }
        self.push_ack(false);
    }

    fn window_edge(&self) -> u64 {
        self.expected + (self.limits.receive.saturating_sub(self.receive.len())) as u64
    }

    fn push_ack(&mut self, asks: bool) {
        let edge = self.window_edge();
        self.advertised = edge;
        self.out.push(Piece {
            ack: Some(self.expected),
            window: edge - self.expected,
            seq: self.next,
            asks,
            ..Piece::default()
        });
    }

    fn data_end(&self) -> u64 {
        self.acked + self.send.len() as u64
    }

    /// Sends what the peer has room for.
    fn pump(&mut self, now: u64) {
        if self.phase != Phase::Connected {
            return;
        }
        while self.push_next() {}
        let all = self.data_end() + u64::from(self.fin_wanted);
        let waits = self.acked < all && !self.fin_acked;
        if !waits {
            (self.retry_at, self.unanswered_since) = (None, None);
            return;
        }
        // What there is no room for is not sent, and needs no answer.
        if self.next > self.acked {
            self.unanswered_since.get_or_insert(now);
        }
        if self.retry_at.is_none() {
            self.retry_at = Some(now + self.retry_delay());
        }
    }

    /// Sends a segment, if one may be sent.
    fn push_next(&mut self) -> bool {
        let end = self.data_end();
        let mut piece = Piece {
            ack: Some(self.expected),
            window: self.window_edge() - self.expected,
            seq: self.next,
            ..Piece::default()
        };
        if self.next < end {
            let allowed = self.edge.min(self.acked + self.congestion);
            let length = allowed.saturating_sub(self.next);
            let length = length.min(end - self.next).min(self.limits.segment);
            if length == 0 {
                return false;
            }
            let from = (self.next - self.acked) as usize;
            piece.data.resize(length as usize, 0);
            copy_from(&self.send, from, &mut piece.data);
            self.next += length;
        } else if self.fin_wanted && self.next == end && !self.fin_acked {
            piece.fin = true;
            self.next += 1;
        } else {
            return false;
        }
        self.advertised = self.window_edge();
        self.out.push(piece);
        true
    }

    fn retry_delay(&self) -> u64 {
        let first = RETRY_MIN + self.limits.round_trip;
        first
            .saturating_mul(1 << self.attempts.min(20))
            .min(RETRY_MAX.max(first))
    }

    /// An end whose program has closed it, and all is said: what is left of it goes.
    fn finish(&mut self, now: u64) {
        if !self.orphan || !self.fin_acked || self.gone {
            return;
        }
        if self.peer_ended && !self.ended_first {
            self.gone = true;
        } else if self.peer_ended && self.phase == Phase::Connected {
            self.phase = Phase::TimeWait;
            self.expires_at = Some(now + LINGERS);
        } else if self.expires_at.is_none() {
            self.expires_at = Some(now + LINGERS);
        }
    }

    // Time.

    /// When [`Connection::timer`] is to be called.
    pub fn deadline(&self) -> Option<u64> {
        let times = [self.retry_at, self.expires_at, self.probe_at()];
        times.into_iter().flatten().min()
    }

    fn probe_at(&self) -> Option<u64> {
        let probing = self.probing.filter(|_| self.phase == Phase::Connected)?;
        // What was sent and is not acknowledged is a probe by itself.
        if self.retry_at.is_some() {
            return None;
        }
        let after = probing.interval.saturating_mul(u64::from(self.probes));
        Some(
            self.heard_at
                .saturating_add(probing.idle)
                .saturating_add(after),
        )
    }

    pub fn timer(&mut self, now: u64) {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(self.expires_at) {
            self.gone = true;
        } else if due(self.retry_at) {
            self.retry(now);
        } else if due(self.probe_at()) {
            self.probe(now);
        }
    }

    fn probe(&mut self, _now: u64) {
        let most = self.probing.map_or(0, |probing| probing.count);
        if self.probes >= most {
            return self.fail(Code::ETIMEDOUT);
        }
        self.probes += 1;
        self.push_ack(true);
    }

    fn retry(&mut self, now: u64) {
        self.attempts += 1;
        match self.phase {
            Phase::SynSent if self.attempts > SYN_RETRIES => return self.fail(Code::ETIMEDOUT),
            Phase::SynReceived if self.attempts > SYN_ANSWER_RETRIES => {
                self.gone = true;
                return;
            }
            Phase::SynSent | Phase::SynReceived => {
                self.push_syn();
                self.retry_at = Some(now + (SECOND << self.attempts));
                return;
            }
            Phase::Connected => {}
            Phase::TimeWait | Phase::Closed => {
                self.retry_at = None;
                return;
            }
        }
        // A slow network may still bring the answer.
        let answer_by = self.arrives_at + self.limits.round_trip + RETRY_MIN;
        if now < answer_by {
            self.attempts -= 1;
            self.retry_at = Some(answer_by);
            return;
        }
        let since = *self.unanswered_since.get_or_insert(now);
        if now - since >= self.limits.give_up {
            return self.fail(Code::ETIMEDOUT);
        }
        // Back to the first that was not acknowledged, and one segment until it is.
        self.next = self.acked;
        self.congestion = self.limits.segment;
        if !self.push_next() {
            // The peer had no room: whether it has now (RFC 9293, 3.8.6.1).
            self.push_ack(true);
        }
        self.retry_at = Some(now + self.retry_delay());
    }
}

/// Copies what stands in the queue from a place on.
fn copy_from(queue: &VecDeque<u8>, from: usize, memory: &mut [u8]) {
    let (first, second) = queue.as_slices();
    let of_first = first.get(from..).unwrap_or_default();
    let count = of_first.len().min(memory.len());
    let (begin, rest) = memory.split_at_mut(count);
    begin.copy_from_slice(&of_first[..count]);
    let from = (from + count).saturating_sub(first.len());
    rest.copy_from_slice(&second[from..from + rest.len()]);
}
