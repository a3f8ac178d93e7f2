//! Hooks: once in every turn, at their place.

mod common;

use std::time::Duration;

use common::*;
use kolo::{Code, Hook, HookKind, Loop, RunMode, Timer};

const KINDS: [HookKind; 3] = [HookKind::Idle, HookKind::Prepare, HookKind::Check];

fn counting(lp: &Loop, kind: HookKind) -> (Hook, Shared<usize>) {
    let count = Shared::<usize>::default();
    let counted = count.clone();
    (
        Hook::open(lp, kind, move |_, _| counted.add()).unwrap(),
        count,
    )
}

#[test]
fn a_started_hook_runs_once_in_each_turn() {
    each_driver(|lp| {
        for kind in KINDS {
            let (hook, count) = counting(&lp, kind);
            // Something else to keep the loop alive.
            let timer = Timer::open(&lp, |_, _| ()).unwrap();
            timer.start(&lp, Duration::from_secs(3600)).unwrap();
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(count.get(), 0, "not before it is started");
            hook.start(&lp).unwrap();
            hook.start(&lp).unwrap();
            for turn in 1..=5 {
                lp.run(RunMode::NoWait).unwrap();
                assert_eq!(count.get(), turn);
            }
            hook.stop(&lp).unwrap();
            hook.stop(&lp).unwrap();
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(count.get(), 5);
            lp.close(hook).unwrap();
            lp.close(timer).unwrap();
        }
    });
}

#[test]
fn a_started_hook_holds_the_loop() {
    each_driver(|lp| {
        for kind in KINDS {
            let (hook, _) = counting(&lp, kind);
            assert!(!lp.is_alive() && !lp.is_active(hook).unwrap());
            hook.start(&lp).unwrap();
            assert!(lp.is_alive() && lp.is_active(hook).unwrap());
            lp.unref(hook).unwrap();
            assert!(!lp.is_alive());
            lp.reference(hook).unwrap();
            hook.stop(&lp).unwrap();
            assert!(!lp.is_alive() && !lp.is_active(hook).unwrap());
        }
    });
}

#[test]
fn an_idle_hook_keeps_the_loop_from_waiting() {
    each_driver(|lp| {
        let (idle, count) = counting(&lp, HookKind::Idle);
        idle.start(&lp).unwrap();
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        timer.start(&lp, Duration::from_secs(3600)).unwrap();
        assert_eq!(lp.backend_timeout(), Some(Duration::ZERO));
        // Without it this would take an hour.
        run_until(&lp, || count.get() == 100);
    });
}

#[test]
fn hooks_of_a_kind_run_in_the_order_of_their_start() {
    each_driver(|lp| {
        for kind in KINDS {
            let order = Shared::<Vec<usize>>::default();
            let hooks: Vec<Hook> = (0..4)
                .map(|which| {
                    let order = order.clone();
                    Hook::open(&lp, kind, move |_, _| order.push(which)).unwrap()
                })
                .collect();
            for which in [2, 0, 3, 1] {
                hooks[which].start(&lp).unwrap();
            }
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(order.take(), [2, 0, 3, 1]);
            // Stopped and started it is the last; a started one keeps its place.
            hooks[2].stop(&lp).unwrap();
            hooks[2].start(&lp).unwrap();
            hooks[0].start(&lp).unwrap();
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(order.take(), [0, 3, 1, 2]);
            for hook in hooks {
                lp.close(hook).unwrap();
            }
        }
    });
}

#[test]
fn one_started_by_another_of_its_kind_runs_from_the_next_turn_on() {
    each_driver(|lp| {
        for kind in KINDS {
            let (second, count) = counting(&lp, kind);
            let first = Hook::open(&lp, kind, move |lp, _| second.start(lp).unwrap()).unwrap();
            first.start(&lp).unwrap();
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(count.get(), 0);
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(count.get(), 1);
            lp.close(first).unwrap();
            lp.close(second).unwrap();
        }
    });
}

#[test]
fn one_stopped_by_another_of_its_kind_does_not_run_in_that_turn() {
    each_driver(|lp| {
        for kind in KINDS {
            let (second, count) = counting(&lp, kind);
            let first = Hook::open(&lp, kind, move |lp, _| second.stop(lp).unwrap()).unwrap();
            first.start(&lp).unwrap();
            second.start(&lp).unwrap();
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(count.get(), 0);
            lp.close(first).unwrap();
            lp.close(second).unwrap();
        }
    });
}

#[test]
fn a_hook_may_stop_and_start_itself() {
    each_driver(|lp| {
        for kind in KINDS {
            let count = Shared::<usize>::default();
            let counted = count.clone();
            let hook = Hook::open(&lp, kind, move |lp, hook| {
                counted.add();
                hook.stop(lp).unwrap();
                if counted.get() < 3 {
                    hook.start(lp).unwrap();
                }
            })
            .unwrap();
            hook.start(&lp).unwrap();
            for turn in 1..=5 {
                lp.run(RunMode::NoWait).unwrap();
                assert_eq!(count.get(), turn.min(3));
            }
            lp.close(hook).unwrap();
        }
    });
}

#[test]
fn a_handle_of_another_kind_is_no_hook() {
    each_driver(|lp| {
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        let hook = Hook::from_id(timer.id());
        assert_eq!(code(hook.start(&lp)), Code::EBADF);
        assert_eq!(code(hook.stop(&lp)), Code::EBADF);
    });
}

#[test]
fn only_idle_hooks_keep_the_loop_from_waiting() {
    each_driver(|lp| {
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        timer.start(&lp, Duration::from_secs(3600)).unwrap();
        for kind in [HookKind::Prepare, HookKind::Check] {
            let (hook, count) = counting(&lp, kind);
            hook.start(&lp).unwrap();
            assert!(lp.backend_timeout().unwrap() > Duration::from_secs(1800));
            // A turn that waits is one turn, with the hook in it once.
            timer.start(&lp, Duration::from_millis(5)).unwrap();
            let before = lp.metrics().turns;
            run_until(&lp, || !lp.is_active(timer).unwrap());
            assert_eq!(count.get() as u64, lp.metrics().turns - before);
            timer.start(&lp, Duration::from_secs(3600)).unwrap();
            lp.close(hook).unwrap();
            lp.run(RunMode::NoWait).unwrap();
        }
    });
}

#[test]
fn an_idle_hook_that_is_stopped_in_its_turn_lets_that_turn_wait() {
    each_driver(|lp| {
        let waits = Shared::<Option<bool>>::default();
        let seen = waits.clone();
        let idle = Hook::open(&lp, HookKind::Idle, |lp, hook| hook.stop(lp).unwrap()).unwrap();
        idle.start(&lp).unwrap();
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        timer.start(&lp, Duration::from_secs(3600)).unwrap();
        // The prepare hooks run right before the wait.
        let prepare = Hook::open(&lp, HookKind::Prepare, move |lp, _| {
            seen.set(Some(lp.backend_timeout() != Some(Duration::ZERO)));
        })
        .unwrap();
        prepare.start(&lp).unwrap();
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(waits.get(), Some(true));
    });
}

#[test]
fn one_stopped_and_started_by_another_of_its_kind_runs_from_the_next_turn_on() {
    each_driver(|lp| {
        for kind in KINDS {
            let order = Shared::<Vec<usize>>::default();
            let own = order.clone();
            let second = Hook::open(&lp, kind, move |_, _| own.push(2)).unwrap();
            let own = order.clone();
            let first = Hook::open(&lp, kind, move |lp, _| {
                own.push(1);
                if own.len() == 1 {
                    second.stop(lp).unwrap();
                    second.start(lp).unwrap();
                }
            })
            .unwrap();
            first.start(&lp).unwrap();
            second.start(&lp).unwrap();
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(order.take(), [1]);
            lp.close(first).unwrap();
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(order.take(), [2]);
            lp.close(second).unwrap();
        }
    });
}
