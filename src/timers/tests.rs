//! What the wheel guarantees, one behaviour at a time.

use super::{TimerKey, Wheel};

const START: u64 = 1_000_000_000_000_000_123;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// Moments around the borders of ticks and slots on all levels, and the ends of time.
fn borders() -> Vec<u64> {
    let powers = (0..64).map(|bit| 1_u64 << bit);
    let around = powers.flat_map(|power| {
        [
            power - 1,
            power,
            power + 1,
            START.saturating_add(power),
            START ^ power,
        ]
    });
    let mut borders: Vec<u64> = around.chain([0, u64::MAX - 1, u64::MAX]).collect();
    borders.sort_unstable();
    borders.dedup();
    borders
}

fn armed(wheel: &mut Wheel<u32>, payload: u32, deadline: u64) -> TimerKey {
    let key = wheel.add(payload);
    wheel.arm(key, deadline);
    key
}

/// The rest of the phase.
fn drain(wheel: &mut Wheel<u32>) -> Vec<u32> {
    std::iter::from_fn(|| wheel.pop_expired())
        .map(|expired| expired.payload)
        .collect()
}

/// A whole phase.
fn expire(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
    wheel.begin_expiry(now);
    drain(wheel)
}

fn pop(wheel: &mut Wheel<u32>) -> Option<u32> {
    wheel.pop_expired().map(|expired| expired.payload)
}

#[test]
fn a_timer_expires_at_its_deadline_and_not_a_nanosecond_before() {
    for start in [0, START, u64::MAX - 1] {
        for deadline in borders().into_iter().filter(|&deadline| deadline > start) {
            let mut wheel = Wheel::new(start);
            let key = armed(&mut wheel, 7, deadline);
            assert_eq!(expire(&mut wheel, start), []);
            assert_eq!(expire(&mut wheel, deadline - 1), []);
            assert_eq!(wheel.deadline(key), Some(deadline));
            assert_eq!(
                expire(&mut wheel, deadline),
                [7],
                "from {start} to {deadline}"
            );
            assert_eq!(wheel.deadline(key), None);
        }
    }
}

#[test]
fn an_expired_timer_tells_its_payload_and_deadline() {
    let mut wheel = Wheel::new(START);
    let key = wheel.add("payload");
    wheel.arm(key, START + 5);
    wheel.begin_expiry(START + SECOND);
    let expired = wheel.pop_expired().expect("the timer is due");
    assert_eq!((expired.payload, expired.deadline), ("payload", START + 5));
}

#[test]
fn timers_expire_in_the_order_of_their_deadlines_after_any_jump_of_time() {
    let borders = borders();
    let mut wheel = Wheel::new(0);
    for (payload, &deadline) in borders.iter().enumerate().rev() {
        armed(&mut wheel, payload as u32, deadline);
    }
    assert!(expire(&mut wheel, u64::MAX)
        .into_iter()
        .eq(0..borders.len() as u32));
}

#[test]
fn timers_expire_in_the_same_order_when_time_goes_step_by_step() {
    let mut wheel = Wheel::new(START);
    for payload in 0..5_000 {
        let delay = u64::from(payload) * 7_919 % 5_000 * 10_007;
        armed(&mut wheel, payload, START + delay);
    }
    let mut deadlines = Vec::new();
    for now in (START..=START + 50_035_000).step_by(30_011) {
        wheel.begin_expiry(now);
        while let Some(expired) = wheel.pop_expired() {
            assert!(expired.deadline <= now && expired.deadline + 30_011 > now);
            deadlines.push(expired.deadline);
        }
    }
    assert_eq!(deadlines.len(), 5_000);
    assert!(deadlines.is_sorted());
}

#[test]
fn equal_deadlines_expire_in_the_order_of_arming() {
    for deadline in [START - 1, START, START + 1, START + SECOND, u64::MAX] {
        let mut wheel = Wheel::new(START);
        let keys: Vec<TimerKey> = (0..300).map(|payload| wheel.add(payload)).collect();
        let order = || (0..300).map(|index| index * 7 % 300);
        for index in order() {
            wheel.arm(keys[index], deadline);
        }
        assert!(expire(&mut wheel, u64::MAX)
            .into_iter()
            .eq(order().map(|index| index as u32)));
    }
}

#[test]
fn arming_again_takes_a_new_place_in_the_order() {
    let mut wheel = Wheel::new(START);
    let keys = [0, 1, 2, 3].map(|payload| armed(&mut wheel, payload, START + SECOND));
    wheel.arm(keys[1], START + SECOND);
    wheel.disarm(keys[0]);
    wheel.arm(keys[0], START + SECOND);
    // By way of a later and an earlier deadline.
    wheel.arm(keys[2], START + 2 * SECOND);
    wheel.arm(keys[2], START + MILLISECOND);
    wheel.arm(keys[2], START + SECOND);
    assert_eq!(expire(&mut wheel, START + SECOND), [3, 1, 0, 2]);
}

#[test]
fn a_timer_restarted_without_delay_waits_for_the_next_phase() {
    let mut wheel = Wheel::new(START);
    let key = armed(&mut wheel, 1, START);
    for _ in 0..3 {
        wheel.begin_expiry(START);
        assert_eq!(pop(&mut wheel), Some(1));
        wheel.arm(key, START);
        assert_eq!(pop(&mut wheel), None);
        assert_eq!(wheel.next_deadline(), Some(START));
    }
}

#[test]
fn what_is_armed_in_a_phase_comes_in_the_next_one_in_its_place() {
    let mut wheel = Wheel::new(START);
    let now = START + SECOND;
    let first = armed(&mut wheel, 1, now - 30);
    let waiting = armed(&mut wheel, 2, now - 10);
    armed(&mut wheel, 3, now + 1);
    wheel.begin_expiry(now);
    assert_eq!(pop(&mut wheel), Some(1));
    wheel.arm(first, now - 20);
    // Armed before the phase began, too, but for another deadline, and then anew for the same one.
    wheel.arm(waiting, now - 10);
    armed(&mut wheel, 4, 0);
    armed(&mut wheel, 5, now);
    armed(&mut wheel, 6, now - SECOND / 2);
    assert_eq!(drain(&mut wheel), []);
    assert_eq!(expire(&mut wheel, now), [4, 6, 1, 2, 5]);
    assert_eq!(expire(&mut wheel, now + 1), [3]);
}

#[test]
fn a_due_timer_disarmed_removed_or_armed_anew_before_its_turn_is_passed_over() {
    let mut wheel = Wheel::new(START);
    let keys: Vec<TimerKey> = (0..6)
        .map(|index| armed(&mut wheel, index, START + 1))
        .collect();
    wheel.begin_expiry(START + SECOND);
    assert_eq!(pop(&mut wheel), Some(0));
    wheel.disarm(keys[1]);
    wheel.remove(keys[2]);
    wheel.arm(keys[3], START + 2 * SECOND);
    wheel.arm(keys[4], START);
    assert_eq!(drain(&mut wheel), [5]);
    assert_eq!(wheel.len(), 2);
    assert_eq!(expire(&mut wheel, START + SECOND), [4]);
    assert_eq!(expire(&mut wheel, START + 2 * SECOND), [3]);
    assert_eq!(wheel.len(), 0);
}

#[test]
fn a_timer_does_not_inherit_the_turn_of_one_removed_before_it() {
    let mut wheel = Wheel::new(START);
    armed(&mut wheel, 0, START + 1);
    let removed = armed(&mut wheel, 1, START + 1);
    wheel.begin_expiry(START + SECOND);
    assert_eq!(pop(&mut wheel), Some(0));
    wheel.remove(removed);
    let idle = wheel.add(2);
    assert_eq!(idle, removed, "the place is reused, or this tests nothing");
    assert_eq!(drain(&mut wheel), []);
    assert_eq!(wheel.deadline(idle), None);
}

#[test]
fn a_timer_does_not_inherit_the_deadline_of_one_removed_before_it() {
    let mut wheel = Wheel::new(START);
    for delay in [SECOND, 2 * SECOND, 3 * SECOND] {
        let removed = armed(&mut wheel, 1, START + 2 * SECOND);
        wheel.remove(removed);
        let key = wheel.add(2);
        assert_eq!(key, removed, "the place is reused, or this tests nothing");
        assert_eq!(wheel.deadline(key), None);
        wheel.arm(key, START + delay);
        assert_eq!(expire(&mut wheel, START + delay - 1), []);
        assert_eq!(expire(&mut wheel, START + delay), [2]);
        wheel.remove(key);
    }
    assert_eq!(expire(&mut wheel, u64::MAX), []);
}

#[test]
fn a_phase_left_half_drained_loses_nothing() {
    let mut wheel = Wheel::new(START);
    for payload in 0..10 {
        armed(
            &mut wheel,
            payload,
            START + u64::from(payload) * 3 * MILLISECOND,
        );
    }
    let now = START + 20 * MILLISECOND;
    wheel.begin_expiry(now);
    assert_eq!([pop(&mut wheel), pop(&mut wheel)], [Some(0), Some(1)]);
    armed(&mut wheel, 10, START);
    armed(&mut wheel, 11, START + 10 * MILLISECOND);
    wheel.begin_expiry(now);
    assert_eq!([pop(&mut wheel), pop(&mut wheel)], [Some(10), Some(2)]);
    armed(&mut wheel, 12, START + 7 * MILLISECOND);
    assert_eq!(
        expire(&mut wheel, START + 21 * MILLISECOND),
        [12, 3, 11, 4, 5, 6, 7]
    );
    assert_eq!(wheel.len(), 2);
}

#[test]
fn phases_cut_short_again_and_again_keep_the_order() {
    let mut wheel = Wheel::new(START);
    let timers = 5_000;
    for payload in 0..timers {
        armed(&mut wheel, payload, START);
    }
    let mut expired = Vec::new();
    let mut added = Vec::new();
    for payload in timers..timers + 1_000 {
        wheel.begin_expiry(START);
        expired.extend((0..7).map_while(|_| pop(&mut wheel)));
        // A few come before all that wait, most after them.
        let early = payload % 100 == 0;
        armed(&mut wheel, payload, if early { START - 1 } else { START });
        added.push(payload);
        if early {
            wheel.begin_expiry(START);
            assert_eq!(pop(&mut wheel), added.pop());
        }
    }
    expired.extend(expire(&mut wheel, START));
    assert!(expired.into_iter().eq((0..timers).chain(added)));
}

#[test]
fn without_a_phase_nothing_is_popped() {
    let mut wheel = Wheel::new(START);
    armed(&mut wheel, 1, 0);
    assert_eq!(pop(&mut wheel), None);
    assert_eq!(expire(&mut wheel, START), [1]);
    armed(&mut wheel, 2, 0);
    assert_eq!(pop(&mut wheel), None);
}

#[test]
fn deadlines_in_the_past_expire_at_once_and_in_order() {
    let mut wheel = Wheel::new(START);
    armed(&mut wheel, 1, START - 1);
    armed(&mut wheel, 2, START - SECOND);
    armed(&mut wheel, 3, 0);
    armed(&mut wheel, 4, START);
    assert_eq!(wheel.next_deadline(), Some(0));
    assert_eq!(expire(&mut wheel, START), [3, 2, 1, 4]);
}

#[test]
fn time_that_goes_back_stands_still() {
    let mut wheel = Wheel::new(START);
    assert_eq!(expire(&mut wheel, START + SECOND), []);
    armed(&mut wheel, 1, START + SECOND);
    armed(&mut wheel, 2, START + SECOND + 1);
    assert_eq!(expire(&mut wheel, START), [1]);
    assert_eq!(expire(&mut wheel, 0), []);
    assert_eq!(expire(&mut wheel, START + SECOND + 1), [2]);
}

#[test]
fn the_next_deadline_is_exact_where_nothing_was_cancelled() {
    let borders = borders();
    let mut wheel = Wheel::new(0);
    assert_eq!(wheel.next_deadline(), None);
    for (payload, &deadline) in borders.iter().enumerate().rev() {
        armed(&mut wheel, payload as u32, deadline);
        assert_eq!(wheel.next_deadline(), Some(deadline));
    }
    for (index, &deadline) in borders.iter().enumerate() {
        assert_eq!(wheel.next_deadline(), Some(deadline));
        assert_eq!(wheel.len(), borders.len() - index);
        assert_eq!(expire(&mut wheel, deadline), [index as u32]);
    }
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn a_loop_wakes_up_for_a_cancelled_timer_once_at_most() {
    let mut wheel = Wheel::new(START);
    let delays = (1..=100).map(|n| n * n * 777_777);
    let keys: Vec<TimerKey> = delays
        .map(|delay| armed(&mut wheel, 0, START + delay))
        .collect();
    for (index, &key) in keys.iter().enumerate() {
        match index % 3 {
            0 => wheel.disarm(key),
            1 => wheel.remove(key),
            _ => wheel.arm(key, START + 100 * SECOND),
        }
    }
    let mut wakes = 0;
    let mut expired = 0;
    while let Some(deadline) = wheel.next_deadline() {
        wheel.begin_expiry(deadline);
        expired += drain(&mut wheel).len();
        wakes += 1;
    }
    assert_eq!(expired, 33);
    assert!(
        wakes <= 101,
        "{wakes} wake-ups for 100 cancelled and postponed timers"
    );
}

#[test]
fn nothing_armed_means_no_next_deadline_whatever_was_cancelled() {
    let mut wheel = Wheel::new(START);
    let key = armed(&mut wheel, 1, START + SECOND);
    wheel.disarm(key);
    wheel.disarm(key);
    assert_eq!((wheel.len(), wheel.next_deadline()), (0, None));
    let key = armed(&mut wheel, 2, START + SECOND);
    wheel.remove(key);
    assert_eq!((wheel.len(), wheel.next_deadline()), (0, None));
}
