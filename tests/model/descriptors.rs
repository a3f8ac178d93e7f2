//! Signals and foreign descriptors.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use kolo::{Code, Interest, Kind, Loop, Poll, Signal};

use super::world::{called, Body, Callback, Life, Token, World};

const SIGNALS: [i32; 2] = [libc::SIGUSR1, libc::SIGUSR2];

pub struct SignalModel {
    pub number: Option<i32>,
    /// How often it was raised and may still be heard.
    pub unheard: u64,
    /// Raised, and not heard since.
    pub pending: bool,
}

pub struct PollModel {
    pub pair: usize,
    pub interest: Option<Interest>,
}

/// The watched end and the other one.
pub struct Pair {
    watched: UnixStream,
    other: UnixStream,
    /// Bytes to be read at the watched end.
    pub waiting: usize,
}

impl World {
    fn signal(&mut self, at: usize) -> &mut SignalModel {
        match &mut self.handles[at].body {
            Body::Signal(signal) => signal,
            _ => unreachable!("#{at} is a signal"),
        }
    }

    pub fn signal_open(&mut self, lp: &Loop) {
        let (at, token) = (self.handles.len(), Token::new());
        let opened = Signal::open(lp, move |lp, _, number| {
            let _token = &token;
            called(lp, Callback::Signal, Some(at), |world| {
                world.signal_came(at, number)
            });
        });
        if let Some(signal) = self.opened("Signal::open", opened) {
            let model = SignalModel {
                number: None,
                unheard: 0,
                pending: false,
            };
            self.add(signal.id(), Body::Signal(model));
        }
    }

    pub fn signal_start(&mut self, lp: &Loop, at: usize, which: u32) {
        let number = SIGNALS[which as usize % 2];
        let got = Signal::from_id(self.handles[at].id).start(lp, number);
        self.outcome("Signal::start", got, None);
        let signal = self.signal(at);
        if signal.number != Some(number) {
            signal.number = Some(number);
            signal.unheard = 0;
            signal.pending = false;
        }
    }

    pub fn signal_stop(&mut self, lp: &Loop, at: usize) {
        let got = Signal::from_id(self.handles[at].id).stop(lp);
        self.outcome("Signal::stop", got, None);
        let signal = self.signal(at);
        signal.number = None;
        signal.unheard = 0;
        signal.pending = false;
    }

    /// Only one that is watched: another would end the process.
    pub fn signal_raise(&mut self, which: u32) {
        let number = SIGNALS[which as usize % 2];
        let mut watched = false;
        for handle in &mut self.handles {
            if let (Life::Open, Body::Signal(signal)) = (handle.life, &mut handle.body) {
                if signal.number == Some(number) {
                    signal.unheard += 1;
                    signal.pending = true;
                    watched = true;
                }
            }
        }
        if watched {
            self.count("signal raised");
            self.note(|| format!("raise {number}"));
            // SAFETY: the signal has a handler, as a started handle watches it.
            unsafe { libc::raise(number) };
        }
    }

    fn signal_came(&mut self, at: usize, number: i32) {
        let signal = self.signal(at);
        let (watched, unheard) = (signal.number, signal.unheard);
        signal.unheard = signal.unheard.saturating_sub(1);
        signal.pending = false;
        self.check(watched == Some(number) && unheard > 0, || {
            format!(
                "signal handle #{at} hears {number}: watches {watched:?}, raised {unheard} times"
            )
        });
    }

    fn poll(&mut self, at: usize) -> &mut PollModel {
        match &mut self.handles[at].body {
            Body::Poll(poll) => poll,
            _ => unreachable!("#{at} is a poll handle"),
        }
    }

    pub fn poll_open(&mut self, lp: &Loop, number: u32) {
        if !number.is_multiple_of(3) || self.pairs.is_empty() {
            let Ok((watched, other)) = UnixStream::pair() else {
                return;
            };
            for end in [&watched, &other] {
                // A new socket takes it.
                let _ = end.set_nonblocking(true);
            }
            self.pairs.push(Pair {
                watched,
                other,
                waiting: 0,
            });
        }
        let pair = number as usize % self.pairs.len();
        let descriptor = self.pairs[pair].watched.as_raw_fd();
        let (at, token) = (self.handles.len(), Token::new());
        let opened = Poll::open(lp, descriptor, move |lp, _, outcome| {
            let _token = &token;
            called(lp, Callback::Poll, Some(at), |world| {
                world.polled(at, outcome)
            });
        });
        if let Some(poll) = self.opened("Poll::open", opened) {
            let model = PollModel {
                pair,
                interest: None,
            };
            self.add(poll.id(), Body::Poll(model));
        }
    }

    pub fn poll_start(&mut self, lp: &Loop, at: usize, number: u32) {
        let interest = match number % 8 {
            0 => Interest::empty(),
            1 => Interest::WRITABLE,
            2 => Interest::READABLE | Interest::WRITABLE,
            3 => Interest::READABLE | Interest::DISCONNECT,
            _ => Interest::READABLE,
        };
        let pair = self.poll(at).pair;
        let other = (0..self.handles.len()).any(|other| {
            other != at
                && matches!(&self.handles[other].body, Body::Poll(poll)
                    if poll.pair == pair && poll.interest.is_some())
        });
        let expected = if interest.is_empty() {
            Some(Code::EINVAL)
        } else {
            other.then_some(Code::EEXIST)
        };
        let got = Poll::from_id(self.handles[at].id).start(lp, interest);
        if self.outcome("Poll::start", got, expected).is_some() {
            self.poll(at).interest = Some(interest);
        }
    }

    pub fn poll_stop(&mut self, lp: &Loop, at: usize) {
        let got = Poll::from_id(self.handles[at].id).stop(lp);
        self.outcome("Poll::stop", got, None);
        self.poll(at).interest = None;
    }

    /// Makes a watched descriptor readable.
    pub fn poll_feed(&mut self, number: u32) {
        let count = self.pairs.len().max(1);
        if let Some(pair) = self.pairs.get_mut(number as usize % count) {
            pair.waiting += pair.other.write(b"x").unwrap_or(0);
        }
    }

    pub fn poll_take(&mut self, number: u32) {
        if let Some(at) = self.choose_kind(number, Kind::Poll) {
            let pair = self.poll(at).pair;
            let pair = &mut self.pairs[pair];
            pair.waiting -= pair.watched.read(&mut [0; 64]).unwrap_or(0);
        }
    }

    fn polled(&mut self, at: usize, outcome: kolo::Result<Interest>) {
        let asked = self.poll(at).interest;
        let told = outcome.as_ref().ok().copied().unwrap_or(Interest::empty());
        let fits = asked.is_some_and(|asked| asked.contains(told)) && !told.is_empty();
        self.check(fits, || {
            format!("poll #{at} is told {outcome:?}, having asked for {asked:?}")
        });
        let pair = self.poll(at).pair;
        if self.calm && told.contains(Interest::READABLE) {
            // Level-triggered: until it is read empty it comes again.
            let pair = &mut self.pairs[pair];
            while let Ok(length @ 1..) = pair.watched.read(&mut [0; 64]) {
                pair.waiting -= length;
            }
        }
    }
}
