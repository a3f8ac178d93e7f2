//! Timers: never early, in order, in phase. The wheel's own tests are in src/timers.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use kolo::{Code, Hook, HookKind, Loop, RunMode, Timer};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn time_that_passes_between_two_runs_counts() {
    each_driver(|lp| {
        let fired = Shared::<usize>::default();
        let count = fired.clone();
        let timer = Timer::open(&lp, move |_, _| count.add()).unwrap();
        timer.start(&lp, Duration::from_millis(20)).unwrap();
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(fired.get(), 0);
        std::thread::sleep(Duration::from_millis(25));
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(fired.get(), 1, "the run begins with the time that it is");
    });
}

#[test]
fn a_timer_fires_once_and_not_early() {
    each_driver(|lp| {
        for delay in [0, 1, 999, 1_000_000, 3_333_333, 20_000_001].map(Duration::from_nanos) {
            let fired = Shared::<Vec<Instant>>::default();
            let list = fired.clone();
            let timer = Timer::open(&lp, move |lp, timer| {
                list.push(Instant::now());
                assert!(!lp.is_active(timer).unwrap());
            })
            .unwrap();
            assert!(!lp.is_active(timer).unwrap());
            let started = Instant::now();
            timer.start(&lp, delay).unwrap();
            assert!(lp.is_active(timer).unwrap() && lp.is_alive());
            assert!(fired.is_empty(), "not inside the call");
            run_to_end(&lp);
            assert_eq!(fired.len(), 1);
            assert!(fired.get()[0] - started >= delay, "early");
            lp.close(timer).unwrap();
        }
    });
}

#[test]
fn timers_fire_by_deadline_and_equal_ones_by_start() {
    each_driver(|lp| {
        let fired = Shared::<Vec<usize>>::default();
        // In one callback the clock stands still, so that equal delays are equal deadlines.
        let list = fired.clone();
        in_callback(&lp, move |lp| {
            for (which, delay) in [5, 3, 5, 1, 3, 0, 1, 5, 0].into_iter().enumerate() {
                let list = list.clone();
                Timer::after(lp, ms(delay), move |_| list.push(which)).unwrap();
            }
        });
        run_to_end(&lp);
        assert_eq!(fired.get(), [5, 8, 3, 6, 1, 4, 0, 2, 7]);
    });
}

#[test]
fn of_equal_deadlines_the_one_started_anew_is_the_last() {
    each_driver(|lp| {
        let fired = Shared::<Vec<usize>>::default();
        let list = fired.clone();
        in_callback(&lp, move |lp| {
            let timers: Vec<Timer> = (0..4)
                .map(|which| {
                    let list = list.clone();
                    let timer = Timer::open(lp, move |_, _| list.push(which)).unwrap();
                    timer.start(lp, ms(2)).unwrap();
                    timer
                })
                .collect();
            timers[1].start(lp, ms(2)).unwrap();
            timers[0].stop(lp).unwrap();
            timers[0].start(lp, ms(2)).unwrap();
        });
        run_to_end(&lp);
        assert_eq!(fired.get(), [2, 3, 1, 0]);
    });
}

#[test]
fn without_delay_it_fires_in_the_next_turn_not_in_the_same() {
    each_driver(|lp| {
        let turns = Shared::<Vec<u64>>::default();
        let list = turns.clone();
        let timer = Timer::open(&lp, move |lp, timer| {
            list.push(lp.metrics().turns);
            if list.len() < 10 {
                timer.start(lp, Duration::ZERO).unwrap();
            }
        })
        .unwrap();
        timer.start(&lp, Duration::ZERO).unwrap();
        run_to_end(&lp);
        let turns = turns.take();
        assert_eq!(turns.len(), 10);
        assert!(turns.windows(2).all(|pair| pair[0] < pair[1]), "{turns:?}");
    });
}

#[test]
fn a_delay_counts_from_no_earlier_than_the_callback_that_starts_it() {
    each_driver(|lp| {
        let delay = ms(20);
        let waited = Shared::<Vec<Duration>>::default();
        // The loop's clock is old by then.
        lp.defer(move |_: &Loop| thread::sleep(delay * 2)).unwrap();
        let list = waited.clone();
        lp.defer(move |lp: &Loop| {
            let started = Instant::now();
            Timer::after(lp, delay, move |_| list.push(started.elapsed())).unwrap();
        })
        .unwrap();
        run_to_end(&lp);
        // Outside of callbacks, every start reads it.
        lp.update_now();
        thread::sleep(delay * 2);
        let started = Instant::now();
        let list = waited.clone();
        Timer::after(&lp, delay, move |_| list.push(started.elapsed())).unwrap();
        run_to_end(&lp);
        assert_eq!(waited.len(), 2);
        assert!(
            waited.get().iter().all(|waited| *waited >= delay),
            "{:?}",
            waited.get()
        );
    });
}

#[test]
fn a_repeating_timer_keeps_its_phase_and_tells_what_it_skipped() {
    each_driver(|lp| {
        let period = ms(10);
        let fired = Shared::<Vec<(Duration, u64)>>::default();
        let list = fired.clone();
        let timer = Timer::open(&lp, move |lp, timer| {
            list.push((lp.now(), timer.overrun(lp).unwrap()));
            match list.len() {
                // Longer than three periods: they are not made up.
                2 => thread::sleep(period * 7 / 2),
                6 => timer.stop(lp).unwrap(),
                _ => {}
            }
        })
        .unwrap();
        timer.start_repeating(&lp, ms(3), period).unwrap();
        let first = lp.now() + ms(3);
        assert_eq!(timer.overrun(&lp).unwrap(), 0);
        run_to_end(&lp);
        let fired = fired.take();
        assert_eq!(fired.len(), 6);
        // Its deadlines are the first one plus multiples of the period: each firing belongs to the last that is over.
        let mut next = first;
        for (now, overrun) in &fired {
            let deadline = next + period * *overrun as u32;
            assert!(*now >= deadline, "early");
            assert!(*now < deadline + period, "a skipped period was not counted");
            next = deadline + period;
        }
        assert!(fired[2].1 >= 2, "{fired:?}");
        // A new start counts anew.
        timer.start(&lp, ms(1)).unwrap();
        assert_eq!(timer.overrun(&lp).unwrap(), 0);
    });
}

#[test]
fn stop_start_and_again() {
    each_driver(|lp| {
        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        let timer = Timer::open(&lp, move |_, _| counted.add()).unwrap();
        assert_eq!(code(timer.again(&lp)), Code::EINVAL);
        assert_eq!(
            code(timer.start_repeating(&lp, ms(1), Duration::ZERO)),
            Code::EINVAL
        );
        timer.stop(&lp).unwrap();
        assert!(!lp.is_alive());

        timer.start(&lp, ms(1)).unwrap();
        timer.stop(&lp).unwrap();
        run_to_end(&lp);
        run_for(&lp, ms(5));
        assert_eq!(fired.get(), 0);

        // Started anew it fires once, by the new delay.
        let started = Instant::now();
        timer.start(&lp, ms(1)).unwrap();
        timer.start(&lp, ms(15)).unwrap();
        run_to_end(&lp);
        assert_eq!(fired.get(), 1);
        assert!(started.elapsed() >= ms(15), "early");
        assert_eq!(code(timer.again(&lp)), Code::EINVAL, "it has no period");

        // `again`: the period is the delay, too.
        timer
            .start_repeating(&lp, Duration::from_secs(3600), ms(10))
            .unwrap();
        let started = Instant::now();
        timer.again(&lp).unwrap();
        run_until(&lp, || fired.get() >= 3);
        assert!(started.elapsed() >= ms(20), "early");
        timer.stop(&lp).unwrap();
        timer.again(&lp).unwrap();
        let before = fired.get();
        run_until(&lp, || fired.get() > before);
        // In its own callback, stopping holds.
        let stops = Timer::open(&lp, |lp, timer| timer.stop(lp).unwrap()).unwrap();
        stops.start_repeating(&lp, ms(1), ms(1)).unwrap();
        timer.stop(&lp).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn remaining_is_the_time_to_the_deadline() {
    each_driver(|lp| {
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        assert_eq!(code(timer.remaining(&lp)), Code::ENOENT);
        timer.start(&lp, ms(50)).unwrap();
        assert_eq!(timer.remaining(&lp).unwrap(), ms(50));
        let before = lp.now();
        thread::sleep(ms(1));
        lp.update_now();
        assert_eq!(
            timer.remaining(&lp).unwrap(),
            ms(50).saturating_sub(lp.now() - before)
        );
        timer.start(&lp, ms(1)).unwrap();
        thread::sleep(ms(2));
        lp.update_now();
        assert_eq!(timer.remaining(&lp).unwrap(), Duration::ZERO);
        timer.stop(&lp).unwrap();
        assert_eq!(code(timer.remaining(&lp)), Code::ENOENT);
        // The longest delay there is.
        timer.start(&lp, Duration::MAX).unwrap();
        assert!(timer.remaining(&lp).unwrap() > Duration::from_secs(1 << 32));
        lp.run(RunMode::NoWait).unwrap();
        assert!(lp.is_active(timer).unwrap());
    });
}

#[test]
fn an_unreferenced_timer_does_not_hold_the_loop_but_fires() {
    each_driver(|lp| {
        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        let timer = Timer::open(&lp, move |_, _| counted.add()).unwrap();
        timer.start_repeating(&lp, ms(1), ms(1)).unwrap();
        lp.unref(timer).unwrap();
        assert!(!lp.is_alive());
        run_to_end(&lp);
        run_for(&lp, ms(20));
        assert!(fired.get() > 0);
    });
}

#[test]
fn a_timer_started_by_a_timer_of_the_same_phase_waits_for_the_next() {
    each_driver(|lp| {
        // However late they are.
        let order = Shared::<Vec<usize>>::default();
        for which in 0..3 {
            let order = order.clone();
            Timer::after(&lp, ms(1), move |lp| {
                order.push(which);
                let order = order.clone();
                Timer::after(lp, Duration::ZERO, move |_| order.push(which + 10)).unwrap();
            })
            .unwrap();
        }
        thread::sleep(ms(5));
        run_to_end(&lp);
        assert_eq!(order.get(), [0, 1, 2, 10, 11, 12]);
    });
}

#[test]
fn a_hundred_thousand_random_timers_are_all_in_order_and_none_early() {
    each_driver(|lp| {
        const COUNT: usize = 100_000;
        let mut random = Random::new(4);
        // Deadline by the loop's clock, and the order of the starts.
        let fired = Shared::<Vec<(Duration, usize)>>::default();
        let callback = fired.clone();
        for which in 0..COUNT {
            let delay = Duration::from_nanos(random.next() % 400_000_000);
            let callback = callback.clone();
            let timer = Timer::open(&lp, move |lp, timer| {
                let deadline = callback.with(|fired| fired[which].0);
                assert!(lp.now() >= deadline, "early");
                callback.with(|fired| fired.push((deadline, which)));
                lp.close(timer).unwrap();
            })
            .unwrap();
            timer.start(&lp, delay).unwrap();
            fired.push((lp.now() + delay, which));
        }
        run_to_end(&lp);
        let mut fired = fired.take();
        let order = fired.split_off(COUNT);
        fired.sort();
        assert!(order == fired, "out of order");
    });
}

/// What the loop's timers must do, by a sorted set: all of it is exact, since a started timer's deadline is the loop's
/// clock right after the start, plus the delay.
#[derive(Default)]
struct Model {
    /// Deadline, order of the starts, timer.
    armed: BTreeSet<(u64, u64, usize)>,
    timers: HashMap<usize, Modelled>,
    starts: u64,
    fired: usize,
    operations: usize,
}

#[derive(Clone, Copy)]
struct Modelled {
    timer: Timer,
    armed: Option<(u64, u64)>,
    period: u64,
}

impl Model {
    fn disarm(&mut self, which: usize) {
        let timer = self.timers.get_mut(&which).unwrap();
        if let Some((deadline, order)) = timer.armed.take() {
            assert!(self.armed.remove(&(deadline, order, which)));
        }
    }

    fn arm(&mut self, which: usize, deadline: u64) {
        self.disarm(which);
        self.starts += 1;
        self.armed.insert((deadline, self.starts, which));
        self.timers.get_mut(&which).unwrap().armed = Some((deadline, self.starts));
    }
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// One random operation, on the loop and on the model.
fn operate(lp: &Loop, model: &Shared<Model>, random: &Shared<Random>, timers: usize) {
    let draw = |bound| random.with(|random| random.below(bound));
    let which = draw(timers);
    let delays = [0, 1, 1000, 65_536, 1_000_000, 5_000_000];
    let delay = draw(delays[draw(delays.len())] + 1) as u64;
    let known = model.with(|model| {
        model.operations += 1;
        model.timers.get(&which).copied()
    });
    let Some(Modelled {
        timer,
        armed,
        period,
    }) = known
    else {
        let (own, of_random) = (model.clone(), random.clone());
        let timer = Timer::open(lp, move |lp, timer| {
            fired(lp, timer, which, &own, &of_random, timers)
        })
        .unwrap();
        let modelled = Modelled {
            timer,
            armed: None,
            period: 0,
        };
        model.with(|model| model.timers.insert(which, modelled));
        return;
    };
    match draw(10) {
        0..=4 => {
            timer.start(lp, Duration::from_nanos(delay)).unwrap();
            let deadline = nanoseconds(lp.now()) + delay;
            model.with(|model| {
                model.timers.get_mut(&which).unwrap().period = 0;
                model.arm(which, deadline);
            });
        }
        5 => {
            let period = 1 + draw(3_000_000) as u64;
            timer
                .start_repeating(
                    lp,
                    Duration::from_nanos(delay),
                    Duration::from_nanos(period),
                )
                .unwrap();
            let deadline = nanoseconds(lp.now()) + delay;
            model.with(|model| {
                model.timers.get_mut(&which).unwrap().period = period;
                model.arm(which, deadline);
            });
        }
        6 => {
            timer.stop(lp).unwrap();
            model.with(|model| model.disarm(which));
        }
        7 => match timer.again(lp) {
            Ok(()) => {
                assert!(period > 0);
                let deadline = nanoseconds(lp.now()) + period;
                model.with(|model| model.arm(which, deadline));
            }
            Err(error) => assert_eq!((period, error.code()), (0, Code::EINVAL)),
        },
        8 => {
            let remaining = timer.remaining(lp).map_err(|error| error.code());
            let expected =
                armed.map(|(deadline, _)| deadline.saturating_sub(nanoseconds(lp.now())));
            assert_eq!(
                remaining,
                expected.map(Duration::from_nanos).ok_or(Code::ENOENT)
            );
            assert_eq!(lp.is_active(timer).unwrap(), armed.is_some());
        }
        _ => {
            lp.close(timer).unwrap();
            model.with(|model| {
                model.disarm(which);
                model.timers.remove(&which);
            });
        }
    }
}

fn fired(
    lp: &Loop,
    timer: Timer,
    which: usize,
    model: &Shared<Model>,
    random: &Shared<Random>,
    timers: usize,
) {
    let now = nanoseconds(lp.now());
    let overrun = model.with(|model| {
        model.fired += 1;
        let first = *model.armed.first().expect("nothing is armed");
        assert_eq!(first.2, which, "out of order");
        assert!(first.0 <= now, "early");
        assert_eq!(model.timers[&which].timer, timer);
        let period = model.timers[&which].period;
        model.disarm(which);
        let overrun = (now - first.0).checked_div(period);
        if let Some(overrun) = overrun {
            model.arm(which, first.0 + (overrun + 1) * period);
        }
        overrun.unwrap_or(0)
    });
    assert_eq!(timer.overrun(lp).unwrap(), overrun);
    for _ in 0..random.with(|random| random.below(4)) {
        operate(lp, model, random, timers);
    }
}

#[test]
fn random_operations_follow_the_model() {
    each_driver(|lp| {
        for seed in 1..=4 {
            let (model, random) = (Shared::<Model>::default(), Shared::new(Random::new(seed)));
            let timers = [3, 20, 200, 2000][seed as usize - 1];
            // Keeps the loop from waiting, so that the machine's time goes into operations.
            let idle = Hook::open(&lp, HookKind::Idle, |_, _| ()).unwrap();
            idle.start(&lp).unwrap();
            // Many of them in callbacks: repeating timers whose periods are short fire in every turn.
            while model.with(|model| model.operations < 50_000) {
                for _ in 0..5 {
                    operate(&lp, &model, &random, timers);
                }
                lp.run(RunMode::NoWait).unwrap();
            }
            lp.close(idle).unwrap();
            // What is left fires, and nothing else.
            let repeating: Vec<Timer> = model.with(|model| {
                let all = model.timers.iter().filter(|(_, timer)| timer.period > 0);
                let which: Vec<usize> = all.map(|(which, _)| *which).collect();
                which
                    .into_iter()
                    .map(|which| {
                        model.disarm(which);
                        model.timers.remove(&which).unwrap().timer
                    })
                    .collect()
            });
            for timer in repeating {
                lp.close(timer).unwrap();
            }
            model.with(|model| assert!(model.fired > 1000, "{}", model.fired));
            let all = model.with(|model| {
                model
                    .timers
                    .values()
                    .map(|timer| timer.timer)
                    .collect::<Vec<_>>()
            });
            let left = model.with(|model| model.armed.len());
            let active = all.iter().filter(|timer| lp.is_active(**timer).unwrap());
            assert_eq!(active.count(), left);
            for timer in all {
                lp.close(timer).unwrap();
            }
            run_to_end(&lp);
            assert_eq!(lp.metrics().handles, 0);
        }
    });
}

#[test]
fn a_neighbour_that_is_due_can_be_stopped_or_put_off_in_the_same_turn() {
    each_driver(|lp| {
        let fired = Shared::<Vec<usize>>::default();
        let timers: Vec<Timer> = (0..5)
            .map(|which| {
                let fired = fired.clone();
                Timer::open(&lp, move |_, _| fired.push(which)).unwrap()
            })
            .collect();
        let others = timers.clone();
        let first = fired.clone();
        Timer::after(&lp, Duration::ZERO, move |lp| {
            first.push(99);
            others[0].stop(lp).unwrap();
            others[1].start(lp, ms(20)).unwrap();
            others[2].start(lp, Duration::ZERO).unwrap();
            others[3].stop(lp).unwrap();
            others[3].start(lp, ms(1)).unwrap();
        })
        .unwrap();
        for timer in &timers {
            timer.start(&lp, Duration::ZERO).unwrap();
        }
        thread::sleep(ms(1));
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(fired.get(), [99, 4]);
        run_to_end(&lp);
        assert_eq!(fired.get(), [99, 4, 2, 3, 1]);
    });
}

#[test]
fn a_start_late_in_a_long_callback_counts_from_there() {
    each_driver(|lp| {
        let delay = ms(10);
        let waited = Shared::<Vec<Duration>>::default();
        let list = waited.clone();
        in_callback(&lp, move |lp| {
            // The callback's own clock is old, too, when its first timer is started.
            let begun = Instant::now();
            while begun.elapsed() < delay * 3 {
                std::hint::spin_loop();
            }
            let started = Instant::now();
            Timer::after(lp, delay, move |_| list.push(started.elapsed())).unwrap();
        });
        run_to_end(&lp);
        assert!(waited.get()[0] >= delay, "{:?}", waited.get());
    });
}

#[test]
fn after_closes_its_timer_before_its_function_runs() {
    each_driver(|lp| {
        let timer = Shared::<Option<Timer>>::default();
        let own = timer.clone();
        let after = Timer::after(&lp, ms(1), move |lp| {
            let timer = own.get().unwrap();
            assert_eq!(code(timer.start(lp, ms(1))), Code::EBADF);
            own.set(None);
        })
        .unwrap();
        timer.set(Some(after));
        assert!(lp.is_active(after).unwrap());
        run_to_end(&lp);
        assert_eq!(timer.get(), None, "it has fired");
        assert_eq!(lp.metrics().handles, 0);
        // It can be taken back, and what it holds is dropped.
        let held = timer.clone();
        let after = Timer::after(&lp, ms(1), move |_| held.set(None)).unwrap();
        timer.set(Some(after));
        lp.close(after).unwrap();
        run_to_end(&lp);
        run_for(&lp, ms(5));
        assert_eq!((timer.get(), timer.holders()), (Some(after), 0));
    });
}

#[test]
fn a_stopped_timer_stays_open() {
    each_driver(|lp| {
        let fired = Shared::<usize>::default();
        let counted = fired.clone();
        let timer = Timer::open(&lp, move |_, _| counted.add()).unwrap();
        for round in 1..=3 {
            timer.start(&lp, ms(1)).unwrap();
            run_to_end(&lp);
            timer.stop(&lp).unwrap();
            assert_eq!((fired.get(), lp.handles()), (round, vec![timer.id()]));
        }
    });
}

#[test]
fn a_repeating_timer_may_start_itself_anew_or_become_one_shot() {
    each_driver(|lp| {
        let waited = Shared::<Vec<Instant>>::default();
        let list = waited.clone();
        let timer = Timer::open(&lp, move |lp, timer| {
            list.push(Instant::now());
            match list.len() {
                // The new start counts, not the period.
                1 => timer
                    .start_repeating(lp, ms(15), Duration::from_secs(3600))
                    .unwrap(),
                2 => timer.start(lp, ms(15)).unwrap(),
                _ => assert!(!lp.is_active(timer).unwrap()),
            }
        })
        .unwrap();
        timer.start_repeating(&lp, ms(1), ms(1)).unwrap();
        run_to_end(&lp);
        let waited = waited.take();
        assert_eq!(waited.len(), 3);
        let early = |pair: &[Instant]| pair[1] - pair[0] < ms(15);
        assert!(!waited.windows(2).any(early), "{waited:?}");
        assert_eq!(code(timer.again(&lp)), Code::EINVAL, "it has no period");
    });
}

#[test]
fn the_shortest_and_the_longest_period_are_periods() {
    each_driver(|lp| {
        let fired = Shared::<Vec<(Duration, u64)>>::default();
        let list = fired.clone();
        let timer = Timer::open(&lp, move |lp, timer| {
            list.push((lp.now(), timer.overrun(lp).unwrap()));
        })
        .unwrap();
        timer
            .start_repeating(&lp, Duration::ZERO, Duration::from_nanos(1))
            .unwrap();
        let first = lp.now();
        for turn in 1..=5 {
            // Every nanosecond is a period: once a turn, all of them accounted for.
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(fired.len(), turn);
        }
        let fired_at = fired.take();
        let periods: u64 = fired_at.iter().map(|(_, overrun)| overrun + 1).sum();
        let last = fired_at.last().unwrap().0;
        assert_eq!(u128::from(periods), (last - first).as_nanos() + 1);

        timer
            .start_repeating(&lp, Duration::ZERO, Duration::MAX)
            .unwrap();
        run_until(&lp, || !fired.is_empty());
        for _ in 0..3 {
            lp.run(RunMode::NoWait).unwrap();
        }
        assert_eq!(fired.len(), 1);
        assert!(timer.remaining(&lp).unwrap() > Duration::from_secs(1 << 32));
    });
}

#[test]
fn a_handle_of_another_kind_is_no_timer() {
    each_driver(|lp| {
        let hook = Hook::open(&lp, HookKind::Check, |_, _| ()).unwrap();
        let timer = Timer::from_id(hook.id());
        assert_eq!(code(timer.start(&lp, ms(1))), Code::EBADF);
        assert_eq!(code(timer.start_repeating(&lp, ms(1), ms(1))), Code::EBADF);
        assert_eq!(code(timer.stop(&lp)), Code::EBADF);
        assert_eq!(code(timer.again(&lp)), Code::EBADF);
        assert_eq!(code(timer.remaining(&lp)), Code::EBADF);
        assert_eq!(code(timer.overrun(&lp)), Code::EBADF);
    });
}
