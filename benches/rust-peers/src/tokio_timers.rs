//! A million timers on tokio: `DelayQueue`, which is there for many timers in one task. The phases and checks of
//! `../timers/timers.h`; there is nothing to make ready before a timer is started.

use crate::common::{check, die, thread_cpu_ns, Random};
use std::future::poll_fn;
use std::time::{Duration, Instant as WallInstant};
use tokio::time::Instant;
use tokio_util::time::delay_queue::Key;
use tokio_util::time::DelayQueue;

const FAR_MS: u64 = 60 * 1000;

fn report(name: &str, total_ns: u64, count: usize) {
    println!("{name} {:.3}", total_ns as f64 / count as f64);
}

async fn insert_and_run(order: &str, delays_ms: &[u64]) {
    let mut queue = DelayQueue::new();
    let count = delays_ms.len();
    let wall = WallInstant::now();
    let begin = thread_cpu_ns();
    let now = Instant::now(); // as the other libraries, which read the clock once for a callback
    for (index, delay) in delays_ms.iter().enumerate() {
        queue.insert_at(index, now + Duration::from_millis(*delay));
    }
    let inserted = thread_cpu_ns();
    let (mut fired, mut sum, mut squares) = (0, 0_u64, 0_u64);
    while let Some(expired) = poll_fn(|context| queue.poll_expired(context)).await {
        let index = expired.into_inner() as u64;
        fired += 1;
        sum = sum.wrapping_add(index);
        squares = squares.wrapping_add(index.wrapping_mul(index));
    }
    let ran = thread_cpu_ns();
    let wall = wall.elapsed();
    let all = 0..count as u64;
    let right_sum = all.clone().fold(0, u64::wrapping_add);
    let right_squares = all.fold(0_u64, |total, index| {
        total.wrapping_add(index.wrapping_mul(index))
    });
    if fired != count || sum != right_sum || squares != right_squares {
        die(format_args!(
            "{fired} of {count} timers fired, or not each of them once"
        ));
    }
    if wall < Duration::from_millis(*delays_ms.iter().max().unwrap_or(&0)) {
        die("the last timer fired too early");
    }
    report(&format!("insert_{order}"), inserted - begin, count);
    report(&format!("run_{order}"), ran - inserted, count);
    println!("wall_{order} {:.3}", wall.as_secs_f64() * 1e3);
}

fn start_far(queue: &mut DelayQueue<usize>, delays_ms: &[u64]) -> (Instant, Vec<Key>) {
    let now = Instant::now();
    let start =
        |(index, delay)| queue.insert_at(index, now + Duration::from_millis(FAR_MS + delay));
    (now, delays_ms.iter().enumerate().map(start).collect())
}

fn shuffled(count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    let mut order: Vec<u32> = (0..count as u32).collect();
    for i in (1..count).rev() {
        order.swap(i, (random.draw() % (i as u64 + 1)) as usize);
    }
    order
}

fn cancel_in_random_order(delays_ms: &[u64]) {
    let mut queue = DelayQueue::new();
    let (_, keys) = start_far(&mut queue, delays_ms);
    let order = shuffled(delays_ms.len(), 1);
    let begin = thread_cpu_ns();
    for index in order {
        queue.remove(&keys[index as usize]);
    }
    report("cancel", thread_cpu_ns() - begin, delays_ms.len());
}

/// As idle timeouts are: a random one at a time is put off, to a deadline that moves on with the clock.
fn rearm_in_random_order(delays_ms: &[u64], within_ms: u64) {
    let count = delays_ms.len();
    let mut queue = DelayQueue::new();
    let (now, keys) = start_far(&mut queue, delays_ms);
    let order = shuffled(count, 2);
    let begin = thread_cpu_ns();
    for (i, index) in order.iter().enumerate() {
        let delay = FAR_MS + within_ms + (i as u64 * within_ms / count as u64);
        queue.reset_at(&keys[*index as usize], now + Duration::from_millis(delay));
    }
    report("rearm", thread_cpu_ns() - begin, count);
}

async fn measure(count: usize, within_ms: u64, random_only: bool) {
    if !random_only {
        let place = |i| i * within_ms / count as u64;
        let ascending: Vec<u64> = (0..count as u64).map(place).collect();
        insert_and_run("ascending", &ascending).await;
    }
    let mut random = Random(20240501);
    let delays_ms: Vec<u64> = (0..count).map(|_| random.draw() % within_ms).collect();
    insert_and_run("random", &delays_ms).await;
    if !random_only {
        cancel_in_random_order(&delays_ms);
    }
    rearm_in_random_order(&delays_ms, within_ms);
}

pub fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual| {
        arguments
            .get(at)
            .map_or(Some(usual), |text| text.parse().ok())
    };
    let random_only = arguments.get(2).is_some_and(|word| word == "random");
    let (Some(count @ 1..), Some(within_ms @ 1..)) = (number(0, 0), number(1, 1000)) else {
        die("usage: tokio_timers COUNT [WITHIN_MS [random]]");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    check(runtime, "runtime").block_on(measure(count as usize, within_ms, random_only));
}
