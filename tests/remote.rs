//! Remotes: posts and wakes from other threads.

mod common;

use std::num::NonZeroU32;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Barrier};
use std::thread::{self, ThreadId};
use std::time::Duration;

use common::*;
use kolo::{Code, Hook, HookKind, Id, Loop, LoopOptions, Remote, RunMode, Task, Timer, Waker};

const HOUR: Duration = Duration::from_secs(3600);

/// A timer that keeps the loop alive and waiting, and is not to fire.
fn far_timer(lp: &Loop) -> Timer {
    Timer::after(lp, HOUR, |_| panic!("an hour has passed")).unwrap()
}

fn with_post_capacity(capacity: u32) -> impl Fn() -> LoopOptions {
    move || LoopOptions {
        post_capacity: NonZeroU32::new(capacity).unwrap(),
        ..Default::default()
    }
}

/// A waker that counts its callbacks.
fn counting_waker(lp: &Loop) -> (Waker, Shared<usize>) {
    let count = Shared::default();
    let counted: Shared<usize> = count.clone();
    (Waker::open(lp, move |_, _| counted.add()).unwrap(), count)
}

/// What became of a [`Noted`] task.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Ran(usize),
    Cancelled(usize),
    Dropped(usize),
}

type Fates = mpsc::Sender<(Fate, ThreadId)>;

/// A task that tells what becomes of it, and in which thread.
struct Noted {
    number: usize,
    fates: Option<Fates>,
}

impl Noted {
    fn new(number: usize, fates: &Fates) -> Noted {
        Noted {
            number,
            fates: Some(fates.clone()),
        }
    }

    fn tell(&mut self, fate: Fate) {
        if let Some(fates) = self.fates.take() {
            fates.send((fate, thread::current().id())).unwrap();
        }
    }
}

impl Task for Noted {
    fn run(mut self, _: &Loop) {
        self.tell(Fate::Ran(self.number));
    }

    fn cancel(mut self, _: &Loop) {
        self.tell(Fate::Cancelled(self.number));
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.tell(Fate::Dropped(self.number));
    }
}

fn fates(told: &mpsc::Receiver<(Fate, ThreadId)>) -> Vec<Fate> {
    told.try_iter().map(|(fate, _)| fate).collect()
}

// ---- posts ----

#[test]
fn posts_of_eight_threads_all_run_each_threads_in_its_order() {
    const THREADS: usize = 8;
    const POSTS: usize = 20_000;
    each_driver_with(with_post_capacity((THREADS * POSTS) as u32), |lp| {
        let timer = far_timer(&lp);
        let next = Arc::new([const { AtomicUsize::new(0) }; THREADS]);
        let total = Arc::new(AtomicUsize::new(0));
        let start = Arc::new(Barrier::new(THREADS));
        let loop_thread = thread::current().id();
        let threads: Vec<_> = (0..THREADS)
            .map(|which| {
                let (remote, start) = (lp.remote(), start.clone());
                let (next, total) = (next.clone(), total.clone());
                thread::spawn(move || {
                    start.wait();
                    for number in 0..POSTS {
                        let (next, total) = (next.clone(), total.clone());
                        let task = move |_: &Loop| {
                            assert_eq!(thread::current().id(), loop_thread);
                            assert_eq!(next[which].fetch_add(1, Ordering::Relaxed), number);
                            total.fetch_add(1, Ordering::Relaxed);
                        };
                        remote.post(task).unwrap();
                    }
                })
            })
            .collect();
        run_until(&lp, || total.load(Ordering::Relaxed) == THREADS * POSTS);
        for thread in threads {
            thread.join().unwrap();
        }
        lp.close(timer).unwrap();
        run_to_end(&lp);
        for count in next.iter() {
            assert_eq!(count.load(Ordering::Relaxed), POSTS);
        }
        assert_eq!(lp.metrics().posts_waiting, 0);
    });
}

#[test]
fn a_post_ends_the_loops_wait_again_and_again() {
    each_driver(|lp| {
        let timer = far_timer(&lp);
        let remote = lp.remote();
        let posting = thread::spawn(move || {
            for _ in 0..1000 {
                let (ran, has_run) = mpsc::channel();
                remote.post(move |_: &Loop| ran.send(()).unwrap()).unwrap();
                has_run.recv().unwrap();
            }
            remote
                .post(move |lp: &Loop| lp.close(timer).unwrap())
                .unwrap();
        });
        run_to_end(&lp);
        posting.join().unwrap();
    });
}

#[test]
fn a_post_keeps_the_loop_alive_until_it_ran() {
    each_driver(|lp| {
        assert!(!lp.is_alive());
        let (told, fate) = mpsc::channel();
        lp.remote().post(Noted::new(1, &told)).unwrap();
        assert!(lp.is_alive());
        assert_eq!(lp.metrics().posts_waiting, 1);
        run_to_end(&lp);
        assert_eq!(fates(&fate), [Fate::Ran(1)]);
        assert!(!lp.is_alive());
    });
}

#[test]
fn a_post_is_run_in_the_next_turn() {
    each_driver(|lp| {
        let (told, fate) = mpsc::channel();
        for number in 0..3 {
            lp.remote().post(Noted::new(number, &told)).unwrap();
        }
        assert!(!lp.run(RunMode::NoWait).unwrap());
        assert_eq!(fates(&fate), [Fate::Ran(0), Fate::Ran(1), Fate::Ran(2)]);
        // Also one that comes from a callback before the phase of the posted functions.
        let remote = lp.remote();
        lp.defer(move |_: &Loop| remote.post(Noted::new(3, &told)).unwrap())
            .unwrap();
        assert!(!lp.run(RunMode::NoWait).unwrap());
        assert_eq!(fates(&fate), [Fate::Ran(3)]);
    });
}

#[test]
fn posts_of_a_posted_function_run_in_the_turn_after() {
    fn post_again(lp: &Loop, remote: Remote, turns: mpsc::Sender<u64>, left: u32) {
        turns.send(lp.metrics().turns).unwrap();
        if left > 0 {
            let next = remote.clone();
            remote
                .post(move |lp: &Loop| post_again(lp, next, turns, left - 1))
                .unwrap();
        }
    }
    each_driver(|lp| {
        // A chain of posts must not keep the turn from ending: a check hook has its turn between any two.
        let checks = Shared::default();
        let counted: Shared<usize> = checks.clone();
        let hook = Hook::open(&lp, HookKind::Check, move |_, _| counted.add()).unwrap();
        hook.start(&lp).unwrap();
        lp.unref(hook).unwrap();
        let (turns, ran_in) = mpsc::channel();
        let (remote, first) = (lp.remote(), lp.remote());
        first
            .post(move |lp: &Loop| post_again(lp, remote, turns, 4))
            .unwrap();
        run_to_end(&lp);
        assert_eq!(ran_in.iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(checks.get(), 5);
    });
}

/// Posts to the loop from another thread, and waits until that has happened.
fn post_from_elsewhere(lp: &Loop, task: impl FnOnce(&Loop) + Send + 'static) {
    let remote = lp.remote();
    thread::spawn(move || remote.post(task).unwrap())
        .join()
        .unwrap();
}

#[test]
fn what_is_posted_while_a_posted_function_runs_ends_the_wait_that_follows() {
    each_driver(|lp| {
        let lp = &lp;
        far_timer(lp);
        post_from_elsewhere(lp, |lp| post_from_elsewhere(lp, Loop::stop));
        assert!(lp.run(RunMode::Default).unwrap());
        // And after one that unwound.
        post_from_elsewhere(lp, |lp| {
            post_from_elsewhere(lp, Loop::stop);
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::Default))).is_err());
        assert!(lp.run(RunMode::Default).unwrap());
    });
}

/// A loop that is run as a part of another one.
#[cfg(unix)]
#[test]
fn what_is_posted_while_a_posted_function_runs_shows_at_the_backend_descriptor() {
    each_driver(|lp| {
        let lp = &lp;
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = ran.clone();
        post_from_elsewhere(lp, move |lp| {
            counted.fetch_add(1, Ordering::Relaxed);
            post_from_elsewhere(lp, move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
            });
        });
        while ran.load(Ordering::Relaxed) < 2 {
            let mut wakes = libc::pollfd {
                fd: lp.backend_descriptor().unwrap(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one structure, which outlives the call.
            assert_eq!(unsafe { libc::poll(&mut wakes, 1, 10_000) }, 1);
            lp.run(RunMode::NoWait).unwrap();
        }
    });
}

#[test]
fn a_function_deferred_by_a_posted_one_runs_in_the_same_turn() {
    each_driver(|lp| {
        let (told, fate) = mpsc::channel();
        let deferred = told.clone();
        lp.remote()
            .post(move |lp: &Loop| lp.defer(Noted::new(1, &deferred)).unwrap())
            .unwrap();
        lp.remote().post(Noted::new(0, &told)).unwrap();
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(fates(&fate), [Fate::Ran(0), Fate::Ran(1)]);
    });
}

#[test]
fn more_posts_than_the_capacity_are_refused_and_nothing_is_taken_of_them() {
    each_driver_with(with_post_capacity(3), |lp| {
        let (told, fate) = mpsc::channel();
        let remote = lp.remote();
        for number in 0..3 {
            remote.post(Noted::new(number, &told)).unwrap();
        }
        for number in 3..5 {
            let refused = remote.post(Noted::new(number, &told));
            assert_eq!(code(refused), Code::ENOBUFS);
            // It is gone already, neither run nor cancelled.
            assert_eq!(fates(&fate), [Fate::Dropped(number)]);
        }
        assert_eq!(lp.metrics().posts_waiting, 3);
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(fates(&fate), [0, 1, 2].map(Fate::Ran));
        // There is room again.
        for number in 5..8 {
            remote.post(Noted::new(number, &told)).unwrap();
        }
        assert_eq!(code(remote.post(Noted::new(8, &told))), Code::ENOBUFS);
        run_to_end(&lp);
        assert_eq!(
            fates(&fate),
            [Fate::Dropped(8), Fate::Ran(5), Fate::Ran(6), Fate::Ran(7)]
        );
    });
}

#[test]
fn posts_that_the_loop_took_over_and_has_not_run_count_for_the_capacity() {
    each_driver_with(with_post_capacity(4), |lp| {
        let (told, fate) = mpsc::channel();
        let (remote, inner, told_inner) = (lp.remote(), lp.remote(), told.clone());
        remote
            .post(move |lp: &Loop| {
                // Three others wait behind this one: one more has room, from whichever thread.
                assert_eq!(lp.metrics().posts_waiting, 3);
                let posting = thread::spawn(move || {
                    inner.post(Noted::new(4, &told_inner)).unwrap();
                    code(inner.post(Noted::new(5, &told_inner)))
                });
                assert_eq!(posting.join().unwrap(), Code::ENOBUFS);
            })
            .unwrap();
        for number in 1..4 {
            remote.post(Noted::new(number, &told)).unwrap();
        }
        run_to_end(&lp);
        assert_eq!(
            fates(&fate),
            [
                Fate::Dropped(5),
                Fate::Ran(1),
                Fate::Ran(2),
                Fate::Ran(3),
                Fate::Ran(4)
            ]
        );
    });
}

#[test]
fn tasks_are_cancelled_on_the_loops_thread_when_it_is_dropped_first() {
    each_driver(|lp| {
        let (told, fate) = mpsc::channel();
        let remote = lp.remote();
        let posting = thread::spawn(move || {
            for number in 0..3 {
                remote.post(Noted::new(number, &told)).unwrap();
            }
        });
        posting.join().unwrap();
        assert_eq!(fates(&fate), []);
        drop(lp);
        let here = thread::current().id();
        let expected = [0, 1, 2].map(|number| (Fate::Cancelled(number), here));
        assert_eq!(fate.iter().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn tasks_that_the_loop_took_over_and_never_ran_are_cancelled_when_it_is_dropped() {
    each_driver(|lp| {
        let (told, fate) = mpsc::channel();
        let remote = lp.remote();
        remote.post(|_: &Loop| panic!("the first")).unwrap();
        remote.post(Noted::new(1, &told)).unwrap();
        remote.post(Noted::new(2, &told)).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::NoWait))).is_err());
        // Those taken over come before those posted since.
        remote.post(Noted::new(3, &told)).unwrap();
        assert_eq!(fates(&fate), []);
        drop(lp);
        assert_eq!(fates(&fate), [1, 2, 3].map(Fate::Cancelled));
    });
}

#[test]
fn a_remote_outlives_its_loop_and_answers_that_it_is_gone() {
    each_driver(|lp| {
        let remote = lp.remote();
        let (waker, woken) = counting_waker(&lp);
        let waker_remote = waker.remote(&lp).unwrap();
        assert!(format!("{remote:?}").contains("loop_is_gone: false"));
        drop(lp);
        assert!(format!("{remote:?}").contains("loop_is_gone: true"));
        let elsewhere = thread::spawn(move || {
            let (told, fate) = mpsc::channel();
            assert_eq!(code(remote.post(Noted::new(0, &told))), Code::ECANCELED);
            assert_eq!(fates(&fate), [Fate::Dropped(0)]);
            assert_eq!(code(remote.clone().wake()), Code::ECANCELED);
            let posted = waker_remote.post(Noted::new(1, &told));
            assert_eq!(code(posted), Code::ECANCELED);
            assert_eq!(code(waker_remote.wake()), Code::ECANCELED);
        });
        elsewhere.join().unwrap();
        assert_eq!(woken.get(), 0);
    });
}

#[test]
fn a_loop_that_is_being_dropped_takes_no_posts() {
    each_driver(|lp| {
        struct PostsWhenCancelled(Remote, mpsc::Sender<Code>);
        impl Task for PostsWhenCancelled {
            fn run(self, _: &Loop) {}
            fn cancel(self, _: &Loop) {
                let posted = self.0.post(|_: &Loop| panic!("too late"));
                self.1.send(code(posted)).unwrap();
                self.1.send(code(self.0.wake())).unwrap();
            }
        }
        let (told, codes) = mpsc::channel();
        let task = PostsWhenCancelled(lp.remote(), told.clone());
        lp.remote().post(task).unwrap();
        let remote = lp.remote();
        lp.on_close(far_timer(&lp), move |_: &Loop, _: Id| {
            let posted = remote.post(|_: &Loop| panic!("too late"));
            told.send(code(posted)).unwrap();
        })
        .unwrap();
        drop(lp);
        assert_eq!(codes.iter().collect::<Vec<_>>(), [Code::ECANCELED; 3]);
    });
}

#[test]
fn posts_that_race_with_the_loops_end_are_cancelled_or_refused_never_lost() {
    for _ in 0..50 {
        each_driver(|lp| {
            let (told, fate) = mpsc::channel();
            let remote = lp.remote();
            let (first, has_posted) = mpsc::channel();
            let posting = thread::spawn(move || {
                let mut posted = 0;
                while remote.post(Noted::new(posted, &told)).is_ok() {
                    posted += 1;
                    if posted == 1 {
                        first.send(()).unwrap();
                    }
                    // The bound is not what is tried here.
                    if posted == 60_000 {
                        break;
                    }
                }
                posted
            });
            has_posted.recv().unwrap();
            drop(lp);
            let posted = posting.join().unwrap();
            // The refused one tells in its own thread, at any time meanwhile.
            let mut fates = fates(&fate);
            fates.retain(|fate| *fate != Fate::Dropped(posted));
            assert_eq!(fates.len(), posted);
            for (number, fate) in fates.into_iter().enumerate() {
                assert_eq!(fate, Fate::Cancelled(number));
            }
        });
    }
}

#[test]
fn a_task_of_any_size_comes_whole() {
    each_driver(|lp| {
        let (told, sums) = mpsc::channel();
        let remote = lp.remote();
        let (small, large) = (told.clone(), told.clone());
        remote.post(move |_: &Loop| small.send(7).unwrap()).unwrap();
        let numbers: [u64; 512] = std::array::from_fn(|at| at as u64);
        remote
            .post(move |_: &Loop| large.send(numbers.iter().sum()).unwrap())
            .unwrap();
        drop(told);
        run_to_end(&lp);
        assert_eq!(sums.iter().collect::<Vec<u64>>(), [7, 511 * 256]);
    });
}

// ---- wakes ----

#[test]
fn a_wake_without_a_waker_ends_the_wait() {
    each_driver(|lp| {
        far_timer(&lp);
        // The wake may come before the wait, or into it.
        let remote = lp.remote();
        let (go, gone) = mpsc::channel::<()>();
        let waking = thread::spawn(move || {
            for () in gone {
                remote.wake().unwrap();
            }
        });
        for _ in 0..1000 {
            go.send(()).unwrap();
            assert!(lp.run(RunMode::Once).unwrap());
        }
        drop(go);
        waking.join().unwrap();
        assert_eq!(lp.metrics().callbacks, 0);
        assert_eq!(lp.metrics().turns, 1000);
    });
}

#[test]
fn a_wake_does_not_keep_the_loop_alive() {
    each_driver(|lp| {
        lp.remote().wake().unwrap();
        assert!(!lp.is_alive());
        run_to_end(&lp);
    });
}

#[test]
fn wakes_before_the_callback_are_one() {
    each_driver(|lp| {
        let (waker, woken) = counting_waker(&lp);
        let remotes = [(); 4].map(|()| waker.remote(&lp).unwrap());
        let threads = remotes.clone().map(|remote| {
            thread::spawn(move || {
                for _ in 0..1000 {
                    remote.wake().unwrap();
                }
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        some_turns(&lp);
        assert_eq!(woken.get(), 1);
        // And the next is another.
        remotes[0].wake().unwrap();
        some_turns(&lp);
        assert_eq!(woken.get(), 2);
    });
}

#[test]
fn a_wake_in_the_wakers_callback_is_heard_in_the_next_turn() {
    each_driver(|lp| {
        let turns = Shared::<Vec<u64>>::default();
        let noted = turns.clone();
        let remote = Shared::<Option<Remote>>::default();
        let own = remote.clone();
        let waker = Waker::open(&lp, move |lp, waker| {
            noted.push(lp.metrics().turns);
            if noted.len() == 3 {
                lp.close(waker).unwrap();
            } else {
                own.get().unwrap().wake().unwrap();
            }
        })
        .unwrap();
        remote.set(Some(waker.remote(&lp).unwrap()));
        remote.get().unwrap().wake().unwrap();
        run_to_end(&lp);
        assert_eq!(turns.take(), [1, 2, 3]);
    });
}

#[test]
fn each_of_several_wakers_hears_its_own_wakes_only() {
    each_driver(|lp| {
        let wakers: Vec<_> = (0..20).map(|_| counting_waker(&lp)).collect();
        for round in 1..=3 {
            for (waker, _) in wakers.iter().step_by(2) {
                let remote = waker.remote(&lp).unwrap();
                thread::spawn(move || remote.wake().unwrap())
                    .join()
                    .unwrap();
            }
            some_turns(&lp);
            for (at, (_, woken)) in wakers.iter().enumerate() {
                assert_eq!(woken.get(), if at % 2 == 0 { round } else { 0 });
            }
        }
    });
}

#[test]
fn a_wakers_remote_posts_and_the_loops_remote_wakes_no_waker() {
    each_driver(|lp| {
        let (waker, woken) = counting_waker(&lp);
        let (told, fate) = mpsc::channel();
        let remote = waker.remote(&lp).unwrap();
        remote.post(Noted::new(1, &told)).unwrap();
        lp.remote().wake().unwrap();
        some_turns(&lp);
        assert_eq!(fates(&fate), [Fate::Ran(1)]);
        assert_eq!(woken.get(), 0);
    });
}

#[test]
fn a_waker_keeps_the_loop_alive_until_it_is_closed_or_unreferenced() {
    each_driver(|lp| {
        let (waker, woken) = counting_waker(&lp);
        assert!(lp.is_active(waker).unwrap());
        assert!(lp.is_alive());
        lp.unref(waker).unwrap();
        assert!(!lp.is_alive());
        lp.reference(waker).unwrap();
        assert!(lp.is_alive());
        // Still after it was woken.
        waker.remote(&lp).unwrap().wake().unwrap();
        assert!(lp.run(RunMode::Once).unwrap());
        assert_eq!(woken.get(), 1);
        lp.close(waker).unwrap();
        run_to_end(&lp);
        assert_eq!(code(waker.remote(&lp)), Code::EBADF);
    });
}

#[test]
fn a_closed_wakers_remote_answers_that_it_is_cancelled_and_still_posts() {
    each_driver(|lp| {
        let (waker, woken) = counting_waker(&lp);
        let remote = waker.remote(&lp).unwrap();
        lp.close(waker).unwrap();
        assert_eq!(code(remote.wake()), Code::ECANCELED);
        run_to_end(&lp);
        assert_eq!(code(remote.wake()), Code::ECANCELED);
        assert_eq!(woken.get(), 0);
        assert_eq!(woken.holders(), 0);
        let (told, fate) = mpsc::channel();
        remote.post(Noted::new(1, &told)).unwrap();
        run_to_end(&lp);
        assert_eq!(fates(&fate), [Fate::Ran(1)]);
    });
}

#[test]
fn a_waker_closed_with_a_wake_pending_is_not_called() {
    each_driver(|lp| {
        let (waker, woken) = counting_waker(&lp);
        waker.remote(&lp).unwrap().wake().unwrap();
        lp.close(waker).unwrap();
        // Its slot's next tenant does not hear it either.
        run_to_end(&lp);
        let (_next, next_woken) = counting_waker(&lp);
        some_turns(&lp);
        assert_eq!((woken.get(), next_woken.get()), (0, 0));
    });
}

#[test]
fn a_waker_closed_by_another_wakers_callback_of_the_same_turn_is_not_called() {
    each_driver(|lp| {
        let second = Shared::<Option<Waker>>::default();
        let closed = second.clone();
        let first = Waker::open(&lp, move |lp, _| {
            lp.close(closed.get().unwrap()).unwrap();
        })
        .unwrap();
        let (waker, woken) = counting_waker(&lp);
        second.set(Some(waker));
        first.remote(&lp).unwrap().wake().unwrap();
        waker.remote(&lp).unwrap().wake().unwrap();
        some_turns(&lp);
        assert_eq!(woken.get(), 0);
        assert!(lp.is_active(first).unwrap());
        assert_eq!(code(waker.remote(&lp)), Code::EBADF);
    });
}

/// What a thread stored before its last wake is seen by the callback, though the store is ordered by nothing else and
/// nearly all wakes are coalesced. A lost wake shows as a hang: the thread goes on when the callback has seen the last
/// value of its batch.
#[test]
fn what_was_stored_before_a_coalesced_wake_is_visible_to_the_callback() {
    const BATCHES: u64 = 20_000;
    each_driver(|lp| {
        let value = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(AtomicU64::new(0));
        let (read, tell) = (value.clone(), seen.clone());
        let waker = Waker::open(&lp, move |_, _| {
            tell.store(read.load(Ordering::Relaxed), Ordering::Relaxed);
        })
        .unwrap();
        let remote = waker.remote(&lp).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let storing = thread::spawn(move || {
            // Stores to memory that is far away hold up those behind them in the processor's queue.
            let far: Vec<AtomicU64> = (0..1 << 20).map(AtomicU64::new).collect();
            let mut random = Random::new(7);
            let mut last = 0;
            for batch in 0..BATCHES {
                // From single wakes to such as go on while the callback runs.
                let length = 1 + random.below(if batch % 2 == 0 { 4 } else { 400 }) as u64;
                for _ in 0..length {
                    if batch % 4 > 1 {
                        for _ in 0..4 {
                            far[random.below(far.len())].store(last, Ordering::Relaxed);
                        }
                    }
                    last += 1;
                    value.store(last, Ordering::Relaxed);
                    remote.wake().unwrap();
                }
                while seen.load(Ordering::Relaxed) != last {
                    thread::yield_now();
                }
            }
            end.store(true, Ordering::Relaxed);
            remote.wake().unwrap();
            last
        });
        run_until(&lp, || ended.load(Ordering::Relaxed));
        assert!(storing.join().unwrap() > 10 * BATCHES);
        assert!(lp.metrics().callbacks > BATCHES);
    });
}

/// Two loops hand a value to and fro, each time by a wake that may meet the other's wait or its callback.
#[test]
fn two_loops_wake_each_other_tens_of_thousands_of_times() {
    const ROUNDS: u64 = 30_000;

    struct Table {
        value: AtomicU64,
        ended: AtomicBool,
    }

    /// Answers each value that is this side's with the next one.
    fn play(
        lp: &Loop,
        table: &Arc<Table>,
        parity: u64,
        own: mpsc::Sender<Remote>,
        peers: mpsc::Receiver<Remote>,
    ) {
        let mut peer = None;
        let (shared, table) = (table.clone(), table);
        let waker = Waker::open(lp, move |_, _| {
            let peer = peer.get_or_insert_with(|| peers.recv().unwrap());
            let value = shared.value.load(Ordering::Relaxed);
            if value >= ROUNDS {
                shared.ended.store(true, Ordering::Relaxed);
                // The other side may have ended already.
                let _ = peer.wake();
            } else if value % 2 == parity {
                shared.value.store(value + 1, Ordering::Relaxed);
                peer.wake().unwrap();
            }
        })
        .unwrap();
        own.send(waker.remote(lp).unwrap()).unwrap();
        waker.remote(lp).unwrap().wake().unwrap();
        run_until(lp, || table.ended.load(Ordering::Relaxed));
    }

    each_driver(|lp| {
        let table = Arc::new(Table {
            value: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let (to_here, here) = mpsc::channel();
        let (to_there, there) = mpsc::channel();
        let driver = lp.driver_name().to_owned();
        let shared = table.clone();
        let other = thread::spawn(move || {
            let options = LoopOptions {
                driver: Some(driver),
                ..Default::default()
            };
            let lp = Loop::with_options(options).unwrap();
            play(&lp, &shared, 1, to_here, there);
        });
        play(&lp, &table, 0, to_there, here);
        drop(lp);
        other.join().unwrap();
        assert_eq!(table.value.load(Ordering::Relaxed), ROUNDS);
    });
}
