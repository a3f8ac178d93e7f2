//! The wheel's memory stays in proportion to the timers there are, and is given back.

use super::entries::SPARE_CHUNKS_MIN;
use super::wheel::{NODES_KEPT, STALE_MIN, STALE_PER_ARMED};
use super::{TimerKey, Wheel};

const START: u64 = 1_000_000_000_000_000_123;
const SECOND: u64 = 1_000_000_000;

/// The most entries there may be for so many armed timers, and some entries of a tick that is being
/// emptied.
fn entries_max(armed: usize) -> usize {
    (1 + STALE_PER_ARMED) * armed + STALE_MIN + 1
}

#[track_caller]
fn assert_bounded(wheel: &Wheel<u32>) {
    let (entries, armed) = (wheel.entry_count(), wheel.len());
    assert!(
        entries <= entries_max(armed),
        "{entries} entries for {armed} armed timers"
    );
}

fn drain(wheel: &mut Wheel<u32>) -> usize {
    std::iter::from_fn(|| wheel.pop_expired()).count()
}

#[test]
fn re_arming_one_timer_ten_million_times_takes_no_memory() {
    let mut wheel = Wheel::new(START);
    let key = wheel.add(0);
    for n in 0..10_000_000_u64 {
        // Earlier and earlier, with later ones between.
        let deadline = if n % 2 == 0 {
            20_000_000 - n
        } else {
            20_000_000 + n
        };
        wheel.arm(key, START + SECOND * deadline);
        if n % 1_000_000 == 0 {
            assert_bounded(&wheel);
        }
    }
    assert_bounded(&wheel);
    wheel.check_invariants();
}

#[test]
fn short_lived_timers_with_long_deadlines_take_no_memory() {
    let mut wheel = Wheel::new(START);
    for n in 0..1_000_000 {
        let key = wheel.add(0);
        wheel.arm(key, START + n + 30 * SECOND);
        wheel.remove(key);
    }
    // The next timer uses what the one before has left in the wheel.
    assert_eq!(wheel.entry_count(), 1);
}

#[test]
fn a_far_deadline_set_again_and_again_takes_no_memory() {
    let mut wheel = Wheel::new(START);
    let key = wheel.add(0);
    for n in 1..100_000 {
        wheel.arm(key, u64::MAX);
        wheel.arm(key, START + n);
        wheel.begin_expiry(START + n);
        assert_eq!(drain(&mut wheel), 1);
    }
    assert_bounded(&wheel);
    wheel.check_invariants();
}

#[test]
fn cancelling_all_but_one_timer_leaves_no_entries_behind() {
    for disarm in [Wheel::disarm, Wheel::remove] {
        let mut wheel = Wheel::new(START);
        let deadline = |index: u32| START + SECOND * u64::from(index % 1_000 + 1);
        let keys: Vec<TimerKey> = (0..100_000)
            .map(|index| {
                let key = wheel.add(index);
                wheel.arm(key, deadline(index));
                key
            })
            .collect();
        for &key in &keys[1..] {
            disarm(&mut wheel, key);
        }
        assert_bounded(&wheel);
        let (used, spare) = wheel.pool.counts();
        assert!(used + spare <= 1_200, "{used} chunks in use, {spare} spare");
        wheel.check_invariants();
        wheel.begin_expiry(u64::MAX);
        assert_eq!(drain(&mut wheel), 1);
    }
}

#[test]
fn expiry_of_the_last_timers_sweeps_what_cancelled_ones_left() {
    let mut wheel = Wheel::new(START);
    let keys: Vec<TimerKey> = (0..10_000).map(|index| wheel.add(index)).collect();
    for (index, &key) in keys.iter().enumerate() {
        wheel.arm(
            key,
            START + if index < 5_000 { SECOND } else { 900 * SECOND },
        );
    }
    for &key in &keys[5_000..] {
        wheel.disarm(key);
    }
    wheel.begin_expiry(START + SECOND);
    assert_eq!(drain(&mut wheel), 5_000);
    assert_bounded(&wheel);
}

#[test]
fn a_burst_gives_its_memory_back_when_it_has_expired() {
    // All in one tick, so that the batch is as large as it can be.
    for spread in [1, 100 * SECOND] {
        let mut wheel = Wheel::new(START);
        for index in 0..100_000 {
            let key = wheel.add(index);
            wheel.arm(key, START + u64::from(index) * 48_271 % spread);
        }
        wheel.begin_expiry(START + 100 * SECOND);
        assert_eq!(drain(&mut wheel), 100_000);
        assert_eq!(wheel.pool.counts(), (0, SPARE_CHUNKS_MIN));
        assert!(wheel.due.capacity() <= 1_024);
    }
}

#[test]
fn removing_the_last_timer_gives_the_slab_back() {
    let mut wheel = Wheel::new(START);
    for _ in 0..2 {
        let keys: Vec<TimerKey> = (0..NODES_KEPT as u32 + 1)
            .map(|index| wheel.add(index))
            .collect();
        for &key in &keys {
            wheel.arm(key, START + SECOND);
        }
        assert!(wheel.nodes.capacity() > NODES_KEPT);
        // Also in the middle of a phase, with a batch.
        wheel.begin_expiry(START + SECOND);
        assert!(wheel.pop_expired().is_some());
        for &key in &keys {
            wheel.remove(key);
        }
        assert_eq!(
            wheel.nodes.capacity() + wheel.states.capacity() + wheel.free.capacity(),
            0
        );
        assert_eq!(drain(&mut wheel), 0);
        wheel.check_invariants();
    }
    let key = wheel.add(5);
    wheel.arm(key, START + SECOND);
    wheel.begin_expiry(START + SECOND);
    assert_eq!(drain(&mut wheel), 1);
}

#[test]
fn timers_armed_anew_within_a_tick_that_lasts_take_no_memory() {
    let mut wheel = Wheel::new(START);
    let tick = (START | 0xFFFF) + 1;
    let later = wheel.add(0);
    let now_due = wheel.add(1);
    for _ in 0..100_000 {
        // The first is gathered with the second's tick each time, but not due.
        wheel.arm(later, tick + 10);
        wheel.arm(now_due, tick);
        wheel.begin_expiry(tick);
        assert_eq!(drain(&mut wheel), 1);
    }
    assert!(
        wheel.due.len() <= 4_096,
        "{} timers in the batch",
        wheel.due.len()
    );
    wheel.begin_expiry(tick + 10);
    assert_eq!(drain(&mut wheel), 1);
}

#[test]
fn a_long_list_is_dropped_on_a_small_stack() {
    let thread = std::thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(|| {
            let mut wheel = Wheel::new(START);
            for index in 0..500_000 {
                let key = wheel.add(index);
                wheel.arm(key, START + SECOND);
            }
            assert!(wheel.pool.counts().0 > 5_000);
            drop(wheel);
        });
    thread
        .expect("a thread")
        .join()
        .expect("the wheel was dropped");
}
