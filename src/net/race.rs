//! Happy eyeballs (RFC 8305): which of several addresses is tried when.
//!
//! A pure state machine: it knows no sockets, and what time it is it is told. The addresses come in the order of
//! preference (RFC 6724, which the resolver sees to). They are tried in that order, but with the families in turns; the
//! next one when the last has failed, or has not connected within the delay. All that were begun go on until one connects.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;

use crate::error::{Code, Error};

/// `K` names an attempt that is under way.
pub(super) struct Race<K> {
    waiting: VecDeque<SocketAddr>,
    running: Vec<K>,
    delay: u64,
    /// When the next attempt begins.
    next_at: u64,
    /// The most telling error so far.
    error: Option<Error>,
}

impl<K: Copy + PartialEq> Race<K> {
    /// `delay`: the Connection Attempt Delay in nanoseconds (RFC 8305, 5).
    pub fn new(delay: u64) -> Race<K> {
        Race {
            waiting: VecDeque::new(),
            running: Vec::new(),
            delay,
            next_at: 0,
            error: None,
        }
    }

    /// Those to be tried.
    pub fn enter(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.waiting = in_turns(addresses);
    }

    /// The address to try now, if it is time for one. What came of that is to be told: [`Self::begun`],
    /// [`Self::failed_to_begin`] or [`Self::put_back`].
    pub fn next(&mut self, now: u64) -> Option<SocketAddr> {
        if now < self.next_at {
            return None;
        }
        self.waiting.pop_front()
    }

    pub fn begun(&mut self, attempt: K, now: u64) {
        self.running.push(attempt);
        self.next_at = now.saturating_add(self.delay);
    }

    /// The next one is tried at once.
    pub fn failed_to_begin(&mut self, error: Error) {
        self.note(error);
    }

    /// There was no room for it beside those that run: it is tried again after the delay, or when one of them has failed.
    pub fn put_back(&mut self, address: SocketAddr, now: u64) {
        self.waiting.push_front(address);
        self.next_at = now.saturating_add(self.delay);
    }

    /// An attempt has failed; the next one is due.
    pub fn failed(&mut self, attempt: K, error: Error) {
        self.running.retain(|running| *running != attempt);
        self.next_at = 0;
        self.note(error);
    }

    /// An attempt has won: the others.
    pub fn won(&mut self, attempt: K) -> Vec<K> {
        self.running.retain(|running| *running != attempt);
        self.waiting.clear();
        std::mem::take(&mut self.running)
    }

    pub fn running(&self) -> &[K] {
        &self.running
    }

    /// When [`Self::next`] is to be asked again, if nothing happens before.
    pub fn due(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(self.next_at)
    }

    /// Why nobody can win any more.
    pub fn lost(&self) -> Option<Error> {
        let over = self.waiting.is_empty() && self.running.is_empty();
        over.then(|| self.error.unwrap_or(Code::EADDRNOTAVAIL.into()))
    }

    fn note(&mut self, error: Error) {
        if self.error.is_none_or(|noted| reach(noted) < reach(error)) {
            self.error = Some(error);
        }
    }
}

/// How far an attempt came that ended so: with several addresses, a peer that refuses says more than a network that is
/// not there, which is what many machines have of IPv6.
fn reach(error: Error) -> u8 {
    use Code::*;
    match error.code() {
        // Somebody at the address has answered.
        ECONNREFUSED | ECONNRESET | ECONNABORTED => 3,
        // There is a way there, and nobody answers.
        ETIMEDOUT | EHOSTDOWN => 2,
        // The network says no.
        EHOSTUNREACH | EACCES | EPERM => 1,
        // Nothing was sent.
        _ => 0,
    }
}

/// The families in turns, beginning with that of the first address (RFC 8305, 4, with a First Address Family Count of 1);
/// each address once.
fn in_turns(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut seen = HashSet::new();
    let mut of_first = VecDeque::new();
    let mut of_other = VecDeque::new();
    for address in addresses {
        if !seen.insert(address) {
            continue;
        }
        let first: &SocketAddr = of_first.front().unwrap_or(&address);
        if first.is_ipv4() == address.is_ipv4() {
            of_first.push_back(address);
        } else {
            of_other.push_back(address);
        }
    }
    let mut turns = VecDeque::with_capacity(seen.len());
    while !of_first.is_empty() || !of_other.is_empty() {
        turns.extend(of_first.pop_front());
        turns.extend(of_other.pop_front());
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: u64 = 250;

    fn v4(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 80).into()
    }

    fn v6(number: u16) -> SocketAddr {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, number], 80).into()
    }

    fn race(addresses: &[SocketAddr]) -> Race<u32> {
        let mut race = Race::new(DELAY);
        race.enter(addresses.iter().copied());
        race
    }

    #[test]
    fn families_take_turns_from_that_of_the_first() {
        let in_order = [v6(1), v6(2), v6(3), v4(1), v6(1)];
        assert_eq!(in_turns(in_order), [v6(1), v4(1), v6(2), v6(3)]);
        let in_order = [v4(1), v4(2), v6(1), v6(2), v4(3), v4(4)];
        let expected = [v4(1), v6(1), v4(2), v6(2), v4(3), v4(4)];
        assert_eq!(in_turns(in_order), expected);
        assert!(in_turns([]).is_empty());
    }

    #[test]
    fn the_next_attempt_begins_after_the_delay() {
        let mut race = race(&[v6(1), v4(1), v4(2)]);
        assert_eq!(race.due(), Some(0));
        assert_eq!(race.next(1000), Some(v6(1)));
        race.begun(1, 1000);
        assert_eq!(race.next(1000), None);
        assert_eq!(race.due(), Some(1000 + DELAY));
        assert_eq!(race.next(999 + DELAY), None);
        assert_eq!(race.next(1000 + DELAY), Some(v4(1)));
        race.begun(2, 1000 + DELAY);
        assert_eq!(race.running(), [1, 2]);
    }

    #[test]
    fn a_failed_attempt_is_followed_at_once() {
        let mut race = race(&[v6(1), v4(1), v6(2)]);
        assert_eq!(race.next(1000), Some(v6(1)));
        race.begun(1, 1000);
        race.failed(1, Code::ECONNREFUSED.into());
        assert_eq!(race.next(1001), Some(v4(1)));
        race.failed_to_begin(Code::ENETUNREACH.into());
        assert_eq!(race.next(1001), Some(v6(2)));
        race.begun(2, 1001);
        assert_eq!((race.due(), race.lost()), (None, None));
        race.failed(2, Code::EHOSTUNREACH.into());
        assert_eq!(race.lost(), Some(Code::ECONNREFUSED.into()));
    }

    #[test]
    fn the_winner_ends_the_race() {
        let mut race = race(&[v6(1), v4(1), v6(2)]);
        for attempt in [1, 2] {
            let now = u64::from(attempt) * DELAY;
            race.next(now).unwrap();
            race.begun(attempt, now);
        }
        assert_eq!(race.won(2), [1]);
        assert_eq!(race.next(u64::MAX), None);
    }

    #[test]
    fn the_error_that_came_furthest_is_told_the_first_of_equals() {
        use Code::*;
        for (errors, told) in [
            (&[ENETUNREACH, ECONNREFUSED, ETIMEDOUT][..], ECONNREFUSED),
            (&[ETIMEDOUT, ENETUNREACH], ETIMEDOUT),
            (&[ECONNRESET, ECONNREFUSED], ECONNRESET),
            (&[EAFNOSUPPORT, ENETUNREACH], EAFNOSUPPORT),
            (&[ENETUNREACH, EHOSTUNREACH], EHOSTUNREACH),
        ] {
            let addresses: Vec<_> = (0..errors.len()).map(|n| v4(n as u8)).collect();
            let mut race = race(&addresses);
            for error in errors {
                assert_eq!(race.lost(), None);
                race.next(0).unwrap();
                race.failed_to_begin((*error).into());
            }
            assert_eq!(race.lost(), Some(told.into()));
        }
    }

    #[test]
    fn what_had_no_room_is_tried_again() {
        let mut race = race(&[v6(1), v4(1)]);
        race.next(0).unwrap();
        race.begun(1, 0);
        let address = race.next(DELAY).unwrap();
        race.put_back(address, DELAY);
        assert_eq!(race.next(DELAY), None);
        assert_eq!(race.due(), Some(2 * DELAY));
        race.failed(1, Code::ECONNREFUSED.into());
        assert_eq!(race.next(DELAY), Some(v4(1)));
    }
}
