//! Random sequences of calls, compared with the simplest thing that does the same: a sorted map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::wheel::{STALE_MIN, STALE_PER_ARMED};
use super::{TimerKey, Wheel};

/// The wheel, beside the model that says what it must do.
struct Pair {
    wheel: Wheel<usize>,
    /// By payload; `None` once removed.
    timers: Vec<Option<Timer>>,
    live: Vec<usize>,
    /// Payloads of the armed timers, by deadline and then by the order of arming.
    armed: BTreeMap<(u64, u64), usize>,
    /// As `armed`, for those armed while a phase is open and with a deadline in it.
    armed_for_next_phase: BTreeMap<(u64, u64), usize>,
    now: u64,
    in_phase: bool,
    last_start: u64,
    popped: usize,
}

struct Timer {
    key: TimerKey,
    /// Its place in `armed` or `armed_for_next_phase`.
    place: Option<(u64, u64)>,
}

impl Pair {
    fn new(now: u64) -> Pair {
        Pair {
            wheel: Wheel::new(now),
            timers: Vec::new(),
            live: Vec::new(),
            armed: BTreeMap::new(),
            armed_for_next_phase: BTreeMap::new(),
            now,
            in_phase: false,
            last_start: 0,
            popped: 0,
        }
    }

    /// One of the timers there are, by any number.
    fn pick(&self, number: usize) -> Option<usize> {
        (!self.live.is_empty()).then(|| self.live[number % self.live.len()])
    }

    fn timer(&mut self, payload: usize) -> &mut Timer {
        self.timers[payload].as_mut().expect("a live timer")
    }

    fn add(&mut self) -> usize {
        let payload = self.timers.len();
        let key = self.wheel.add(payload);
        assert_ne!(key, TimerKey::NONE);
        assert_eq!(self.wheel.deadline(key), None, "a new timer is armed");
        self.timers.push(Some(Timer { key, place: None }));
        self.live.push(payload);
        payload
    }

    fn remove(&mut self, number: usize) {
        let Some(payload) = self.pick(number) else {
            return;
        };
        self.model_disarm(payload);
        let timer = self.timers[payload].take().expect("a live timer");
        let index = number % self.live.len();
        self.live.swap_remove(index);
        self.wheel.remove(timer.key);
    }

    fn model_disarm(&mut self, payload: usize) {
        if let Some(place) = self.timer(payload).place.take() {
            let was = self
                .armed
                .remove(&place)
                .or(self.armed_for_next_phase.remove(&place));
            assert_eq!(was, Some(payload));
        }
    }

    fn arm(&mut self, payload: usize, deadline: u64) {
        self.model_disarm(payload);
        self.last_start += 1;
        let place = (deadline, self.last_start);
        let waits = self.in_phase && deadline <= self.now;
        let map = if waits {
            &mut self.armed_for_next_phase
        } else {
            &mut self.armed
        };
        map.insert(place, payload);
        let timer = self.timer(payload);
        timer.place = Some(place);
        let key = timer.key;
        self.wheel.arm(key, deadline);
        assert_eq!(self.wheel.deadline(key), Some(deadline));
    }

    fn disarm(&mut self, payload: usize) {
        self.model_disarm(payload);
        let key = self.timer(payload).key;
        self.wheel.disarm(key);
        assert_eq!(self.wheel.deadline(key), None);
    }

    fn begin_expiry(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.in_phase = true;
        self.armed.append(&mut self.armed_for_next_phase);
        self.wheel.begin_expiry(now);
    }

    /// What was popped.
    fn pop(&mut self) -> Option<usize> {
        let due = |entry: &((u64, u64), usize)| self.in_phase && entry.0 .0 <= self.now;
        let expected = self
            .armed
            .first_key_value()
            .map(|(&place, &payload)| (place, payload))
            .filter(due);
        let expired = self.wheel.pop_expired();
        assert_eq!(
            expired.map(|expired| (expired.deadline, expired.payload)),
            expected.map(|((deadline, _), payload)| (deadline, payload)),
            "popped, expected",
        );
        let Some((_, payload)) = expected else {
            self.in_phase = false;
            self.armed.append(&mut self.armed_for_next_phase);
            return None;
        };
        self.model_disarm(payload);
        let key = self.timer(payload).key;
        assert_eq!(
            self.wheel.deadline(key),
            None,
            "a popped timer is still armed"
        );
        self.popped += 1;
        Some(payload)
    }

    fn drain(&mut self) {
        while self.pop().is_some() {}
        assert!(self.wheel.stale <= STALE_MIN + STALE_PER_ARMED * self.wheel.len());
    }

    /// A loop that wakes up at the next deadline has something due, or has dropped what woke it.
    fn check_no_spin(&mut self) {
        self.drain();
        self.begin_expiry(self.now);
        self.drain();
        let bound = self.wheel.next_deadline();
        assert!(
            bound.is_none_or(|bound| bound > self.now),
            "a loop would spin"
        );
    }

    fn earliest(&self) -> Option<u64> {
        let maps = [&self.armed, &self.armed_for_next_phase];
        let firsts = maps.into_iter().filter_map(|map| map.first_key_value());
        firsts.map(|(place, _)| place.0).min()
    }

    fn check_next_deadline(&mut self) {
        assert_eq!(
            self.wheel.len(),
            self.armed.len() + self.armed_for_next_phase.len()
        );
        let (bound, earliest) = (self.wheel.next_deadline(), self.earliest());
        assert_eq!(bound.is_some(), earliest.is_some());
        assert!(bound <= earliest, "{bound:?} is later than {earliest:?}");
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Add => {
                self.add();
            }
            Op::Remove(number) => self.remove(number),
            Op::Arm(number, when, random) => {
                let deadline = when.after(self.now, random);
                if let Some(payload) = self.pick(number) {
                    self.arm(payload, deadline);
                }
            }
            Op::Disarm(number) => {
                if let Some(payload) = self.pick(number) {
                    self.disarm(payload);
                }
            }
            Op::BeginExpiry(when, random) => self.begin_expiry(when.after(self.now, random)),
            Op::BeginExpiryAtNext => {
                let bound = self.wheel.next_deadline();
                self.begin_expiry(bound.unwrap_or(self.now));
            }
            Op::Pop => {
                self.pop();
            }
            Op::PopAndArm(when, random) => {
                let deadline = when.after(self.now, random);
                if let Some(payload) = self.pop() {
                    self.arm(payload, deadline);
                }
            }
            Op::Drain => self.drain(),
            Op::CheckNoSpin => self.check_no_spin(),
        }
    }
}

/// A call. Timers are named by any number, times by a random number and what is made of it.
#[derive(Clone, Copy, Debug)]
enum Op {
    Add,
    Remove(usize),
    Arm(usize, When, u64),
    Disarm(usize),
    BeginExpiry(When, u64),
    BeginExpiryAtNext,
    Pop,
    PopAndArm(When, u64),
    Drain,
    CheckNoSpin,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Now,
    /// One of a few moments, so that many are equal.
    Equal,
    /// In the same tick or the next ones.
    Ticks,
    Milliseconds,
    Seconds,
    /// On any level.
    Far,
    Past,
    End,
}

const WHENS: [When; 8] = [
    When::Now,
    When::Equal,
    When::Ticks,
    When::Milliseconds,
    When::Seconds,
    When::Far,
    When::Past,
    When::End,
];

impl When {
    fn after(self, now: u64, random: u64) -> u64 {
        match self {
            When::Now => now,
            When::Equal => (now | 0xFFFF).saturating_add(random % 4 * 40_000),
            When::Ticks => now.saturating_add(random % 200_000),
            When::Milliseconds => now.saturating_add(random % 50_000_000),
            When::Seconds => now.saturating_add(random % 90_000_000_000),
            When::Far => now.saturating_add(random >> (random % 48)),
            When::Past => now.saturating_sub(random % 1_000_000),
            When::End => u64::MAX - random % 3,
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    // Time that jumps to the end is rare, or little would happen after it.
    let when = || (prop::sample::select(&WHENS[..]), any::<u64>());
    let time = || (prop::sample::select(&WHENS[..5]), any::<u64>());
    let op = prop_oneof![
        4 => Just(Op::Add),
        2 => any::<usize>().prop_map(Op::Remove),
        12 => (any::<usize>(), when()).prop_map(|(n, (when, random))| Op::Arm(n, when, random)),
        3 => any::<usize>().prop_map(Op::Disarm),
        4 => time().prop_map(|(when, random)| Op::BeginExpiry(when, random)),
        3 => Just(Op::BeginExpiryAtNext),
        8 => Just(Op::Pop),
        4 => when().prop_map(|(when, random)| Op::PopAndArm(when, random)),
        2 => Just(Op::Drain),
        1 => Just(Op::CheckNoSpin),
        1 => any::<u64>().prop_map(|random| Op::BeginExpiry(When::Far, random >> 8)),
    ];
    prop::collection::vec(op, 1..250)
}

fn starts() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        any::<u64>(),
        any::<u64>().prop_map(|start| start >> 16)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_does_what_a_sorted_map_does(start in starts(), ops in ops()) {
        let mut pair = Pair::new(start);
        for op in ops {
            pair.apply(op);
            pair.check_next_deadline();
            pair.wheel.check_invariants();
        }
        pair.drain();
        pair.begin_expiry(u64::MAX);
        pair.drain();
        prop_assert_eq!(pair.wheel.len(), 0);
        pair.wheel.check_invariants();
    }
}

/// Few operations are needed to reach most states, but not all: chunks fill up, sweeps run, slabs
/// are given back only with thousands of timers.
#[test]
fn millions_of_calls_do_what_a_sorted_map_does() {
    const CALLS_PER_ROUND: usize = 125_000;
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut popped, mut sweeps_possible) = (0, 0);
    for round in 0..24 {
        let start = random.next() >> (random.next() % 64);
        let mut pair = Pair::new(start);
        let timers = [3, 40, 700, 6_000][round % 4];
        // Some rounds mostly cancel, some mostly expire.
        let patient = round / 4 % 2 == 0;
        for call in 0..CALLS_PER_ROUND {
            let op = random.op(pair.live.len(), timers, patient);
            pair.apply(op);
            if call % 16 == 0 {
                pair.check_next_deadline();
            }
            if call % 25_000 == 0 {
                pair.wheel.check_invariants();
            }
            sweeps_possible += usize::from(pair.wheel.stale > STALE_MIN);
        }
        pair.begin_expiry(u64::MAX);
        pair.drain();
        while !pair.live.is_empty() {
            pair.remove(0);
        }
        pair.wheel.check_invariants();
        popped += pair.popped;
    }
    assert!(
        popped > 300_000,
        "{popped} timers expired: the calls are badly mixed"
    );
    assert!(
        sweeps_possible > 0,
        "never enough stale entries for a sweep"
    );
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn when(&mut self) -> When {
        WHENS[(self.next() >> 32) as usize % WHENS.len()]
    }

    fn op(&mut self, timers: usize, timers_wanted: usize, patient: bool) -> Op {
        let number = (self.next() >> 16) as usize;
        let choice = (self.next() >> 32) % 1000;
        let random = self.next();
        match choice {
            0..80 if timers < timers_wanted => Op::Add,
            80..130 if timers > timers_wanted / 2 => Op::Remove(number),
            0..420 => Op::Arm(number, self.when(), random),
            420..620 if patient => Op::Arm(number, When::Seconds, random),
            420..700 if patient => Op::Disarm(number),
            420..500 => Op::Disarm(number),
            500..501 => Op::BeginExpiry(When::Far, random >> 16),
            501..520 => Op::BeginExpiry(When::Milliseconds, random),
            520..620 => Op::BeginExpiry(When::Ticks, random),
            620..640 => Op::BeginExpiry(When::Equal, random),
            640..700 => Op::BeginExpiryAtNext,
            700..710 => Op::Drain,
            710..720 => Op::CheckNoSpin,
            720..880 => Op::Pop,
            _ => Op::PopAndArm(self.when(), random),
        }
    }
}
