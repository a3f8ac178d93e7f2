//! Work on the pool's threads, and the requests it is under.

mod common;

use std::num::NonZeroU32;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use common::*;
use kolo::{
    Code, Kind, Loop, LoopOptions, Pool, PoolOptions, Request, Result, RunMode, Timer, WorkClass,
};

fn threads(count: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(count)
}

/// One thread a class, and so many pieces of work that may wait.
fn small_pool(queue: u32) -> Pool {
    Pool::new(PoolOptions {
        compute_threads: threads(1),
        file_threads: threads(1).unwrap(),
        slow_threads: threads(1).unwrap(),
        queue_capacity: NonZeroU32::new(queue).unwrap(),
        ..Default::default()
    })
}

fn with_small_pool(queue: u32) -> impl Fn() -> LoopOptions {
    move || LoopOptions {
        pool: Some(small_pool(queue)),
        ..Default::default()
    }
}

/// Work that has begun when this returns, and goes on until the sender is used or dropped.
fn occupy(lp: &Loop, class: WorkClass) -> (Request, mpsc::Sender<()>, Shared<Vec<Result<()>>>) {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let (work, outcomes) = (
        move || {
            begun.send(()).unwrap();
            let _ = wait.recv();
        },
        Shared::default(),
    );
    let told = outcomes.clone();
    let request = lp
        .work_in(class, work, move |_, outcome| told.push(outcome))
        .unwrap();
    has_begun.recv().unwrap();
    (request, go_on, outcomes)
}

#[test]
fn work_runs_on_another_thread_and_its_result_comes_to_the_loop() {
    each_driver(|lp| {
        let results = Shared::default();
        let (told, home) = (results.clone(), thread::current().id());
        let request = lp
            .work(
                || thread::current().id(),
                move |_, worker| told.push((worker.unwrap(), thread::current().id())),
            )
            .unwrap();
        assert_eq!(lp.kind(request), Ok(Kind::Request));
        assert!(lp.is_active(request).unwrap());
        assert!(results.is_empty(), "not inside the call");
        run_to_end(&lp);
        let (worker, told_on) = results.take()[0];
        assert_ne!(worker, home);
        assert_eq!(told_on, home);
        assert_eq!(lp.kind(request).unwrap_err().code(), Code::EBADF);
    });
}

#[test]
fn each_of_many_pieces_of_work_is_told_once() {
    each_driver(|lp| {
        let told = Shared::<Vec<usize>>::default();
        for number in 0..5000 {
            let told = told.clone();
            let class = WorkClass::ALL[number % 3];
            let done = move |_: &Loop, number: Result<usize>| told.push(number.unwrap());
            lp.work_in(class, move || number, done).unwrap();
        }
        run_to_end(&lp);
        let mut told = told.take();
        told.sort_unstable();
        assert_eq!(told, (0..5000).collect::<Vec<_>>());
    });
}

#[test]
fn work_that_has_not_begun_is_taken_back() {
    each_driver_with(with_small_pool(100), |lp| {
        let (busy, go_on, outcomes) = occupy(&lp, WorkClass::Compute);
        let ran = Arc::new(AtomicUsize::new(0));
        let (counted, canceled) = (ran.clone(), Shared::default());
        let told: Shared<Vec<_>> = canceled.clone();
        let waiting = lp
            .work(
                move || counted.fetch_add(1, Ordering::SeqCst),
                move |_, outcome| told.push(outcome.unwrap_err().code()),
            )
            .unwrap();
        assert!(!waiting.has_begun(&lp).unwrap());
        assert!(busy.has_begun(&lp).unwrap());
        waiting.cancel(&lp).unwrap();
        assert_eq!(canceled.len(), 0, "not inside the call");
        assert_eq!(waiting.cancel(&lp).unwrap_err().code(), Code::EBUSY);
        assert_eq!(busy.cancel(&lp).unwrap_err().code(), Code::EBUSY);
        run_until(&lp, || !canceled.is_empty());
        assert_eq!(canceled.take(), [Code::ECANCELED]);
        assert_eq!(waiting.cancel(&lp).unwrap_err().code(), Code::EBADF);
        drop(go_on);
        run_to_end(&lp);
        assert_eq!(outcomes.take(), [Ok(())]);
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_full_queue_refuses_and_takes_again_what_is_taken_back() {
    each_driver_with(with_small_pool(3), |lp| {
        let (_, go_on, _) = occupy(&lp, WorkClass::Compute);
        let (ran, refused_dropped) = (Shared::default(), Arc::new(()));
        let submit = |lp: &Loop| {
            let (ran, held): (Shared<usize>, _) = (ran.clone(), refused_dropped.clone());
            lp.work(move || drop(held), move |_, _| ran.add())
        };
        for round in 0..50 {
            let waiting: Vec<_> = (0..3).map(|_| submit(&lp).unwrap()).collect();
            assert_eq!(submit(&lp).unwrap_err().code(), Code::ENOBUFS);
            assert_eq!(
                Arc::strong_count(&refused_dropped),
                4,
                "the refused one is dropped"
            );
            for request in waiting {
                request.cancel(&lp).unwrap();
            }
            lp.run(RunMode::NoWait).unwrap();
            assert_eq!(ran.get(), 3 * (round + 1));
            assert_eq!(Arc::strong_count(&refused_dropped), 1);
        }
        // Another class has its own queue.
        lp.work_in(WorkClass::Files, || (), |_, _| ()).unwrap();
        drop(go_on);
        run_to_end(&lp);
    });
}

#[test]
fn slow_work_does_not_keep_the_other_classes_waiting() {
    each_driver_with(with_small_pool(100), |lp| {
        let (_, go_on, slow) = occupy(&lp, WorkClass::Slow);
        for class in [WorkClass::Files, WorkClass::Compute] {
            let done = Shared::default();
            let told: Shared<usize> = done.clone();
            lp.work_in(class, || (), move |_, _| told.add()).unwrap();
            run_until(&lp, || done.get() == 1);
        }
        assert_eq!(slow.len(), 0);
        drop(go_on);
        run_to_end(&lp);
    });
}

#[test]
fn as_many_threads_as_the_class_has_work_at_once() {
    each_driver_with(
        || LoopOptions {
            pool: Some(Pool::new(PoolOptions {
                file_threads: threads(3).unwrap(),
                ..Default::default()
            })),
            ..Default::default()
        },
        |lp| {
            let barrier = Arc::new(std::sync::Barrier::new(3));
            let done = Shared::<usize>::default();
            for _ in 0..3 {
                let (barrier, done) = (barrier.clone(), done.clone());
                // With fewer threads they would wait for each other for ever.
                let meet = move || {
                    barrier.wait();
                };
                lp.work_in(WorkClass::Files, meet, move |_, _| done.add())
                    .unwrap();
            }
            run_to_end(&lp);
            assert_eq!(done.get(), 3);
        },
    );
}

#[test]
fn threads_that_were_idle_end_and_are_started_again() {
    each_driver_with(
        || LoopOptions {
            pool: Some(Pool::new(PoolOptions {
                idle: Duration::from_millis(1),
                compute_threads: threads(1),
                ..Default::default()
            })),
            ..Default::default()
        },
        |lp| {
            for _ in 0..20 {
                let done = Shared::<usize>::default();
                let told = done.clone();
                lp.work(|| (), move |_, _| told.add()).unwrap();
                run_until(&lp, || done.get() == 1);
                run_for(&lp, Duration::from_millis(3));
            }
        },
    );
}

#[test]
fn a_panic_in_the_work_is_told_and_the_thread_goes_on() {
    each_driver_with(with_small_pool(10), |lp| {
        let outcomes = Shared::<Vec<Result<u32>>>::default();
        let (first, second) = (outcomes.clone(), outcomes.clone());
        let panics = || -> u32 { panic!("on purpose") };
        lp.work(panics, move |_, outcome| first.push(outcome))
            .unwrap();
        lp.work(|| 7, move |_, outcome| second.push(outcome))
            .unwrap();
        run_to_end(&lp);
        assert_eq!(outcomes.take(), [Err(Code::EPANIC.into()), Ok(7)]);
    });
}

#[test]
fn a_panic_in_done_loses_no_other_outcome() {
    each_driver(|lp| {
        let told = Shared::<usize>::default();
        for number in 0..10 {
            let told = told.clone();
            lp.work(
                || (),
                move |_, _| {
                    told.add();
                    assert!(number % 3 != 0, "on purpose");
                },
            )
            .unwrap();
        }
        let mut panics = 0;
        while lp.is_alive() {
            panics += usize::from(
                catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::Default).unwrap())).is_err(),
            );
        }
        assert_eq!((panics, told.get()), (4, 10));
    });
}

#[test]
fn a_closed_request_is_told_when_no_thread_is_at_it() {
    each_driver(|lp| {
        let (request, go_on, outcomes) = occupy(&lp, WorkClass::Compute);
        let closed = Shared::<usize>::default();
        let (told, seen) = (closed.clone(), outcomes.clone());
        lp.on_close(request, move |_, _| {
            assert_eq!(seen.len(), 1, "on_close is last");
            told.add();
        })
        .unwrap();
        lp.unref(request).unwrap();
        lp.close(request).unwrap();
        assert_eq!(lp.close(request).unwrap_err().code(), Code::EBADF);
        some_turns(&lp);
        assert!(lp.is_alive(), "the thread is still at the user's memory");
        assert_eq!((outcomes.len(), closed.get()), (0, 0));
        drop(go_on);
        run_to_end(&lp);
        assert_eq!(outcomes.take(), [Err(Code::ECANCELED.into())]);
        assert_eq!(closed.get(), 1);
    });
}

#[test]
fn a_closed_request_that_waits_never_runs() {
    each_driver_with(with_small_pool(10), |lp| {
        let (_, go_on, _) = occupy(&lp, WorkClass::Compute);
        let outcomes = Shared::<Vec<Result<()>>>::default();
        let told = outcomes.clone();
        let never = || panic!("it was closed");
        let request = lp
            .work(never, move |_, outcome| told.push(outcome))
            .unwrap();
        lp.close(request).unwrap();
        run_until(&lp, || !outcomes.is_empty());
        drop(go_on);
        run_to_end(&lp);
        assert_eq!(outcomes.take(), [Err(Code::ECANCELED.into())]);
    });
}

#[test]
fn on_close_of_a_request_comes_after_its_outcome() {
    each_driver(|lp| {
        let order = Shared::<Vec<&str>>::default();
        let (first, second) = (order.clone(), order.clone());
        let request = lp.work(|| (), move |_, _| first.push("done")).unwrap();
        lp.on_close(request, move |_, _| second.push("closed"))
            .unwrap();
        run_to_end(&lp);
        assert_eq!(order.take(), ["done", "closed"]);
    });
}

#[test]
fn an_unreferenced_request_does_not_keep_the_loop_alive() {
    each_driver(|lp| {
        let (request, go_on, outcomes) = occupy(&lp, WorkClass::Compute);
        lp.unref(request).unwrap();
        assert!(!lp.run(RunMode::Default).unwrap());
        drop(go_on);
        drop(lp);
        assert_eq!(outcomes.take(), [Err(Code::ECANCELED.into())]);
    });
}

#[test]
fn dropping_the_loop_takes_back_what_waits_and_waits_for_what_runs() {
    each_driver_with(with_small_pool(10), |lp| {
        let (_, go_on, outcomes) = occupy(&lp, WorkClass::Compute);
        let told = outcomes.clone();
        let never = || panic!("the loop is dropped");
        lp.work(never, move |_, outcome| told.push(outcome))
            .unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        let noted = ended.clone();
        let helper = thread::spawn(move || {
            thread::yield_now();
            noted.store(1, Ordering::SeqCst);
            drop(go_on);
        });
        drop(lp);
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        let canceled = Err(Code::ECANCELED.into());
        assert_eq!(outcomes.take(), [canceled, canceled]);
        helper.join().unwrap();
    });
}

#[test]
fn work_is_submitted_in_done_and_refused_while_the_loop_goes() {
    each_driver(|lp| {
        let told = Shared::<Vec<u32>>::default();
        let inner = told.clone();
        lp.work(
            || 1,
            move |lp, one| {
                let told = inner.clone();
                inner.push(one.unwrap());
                lp.work(|| 2, move |_, two| told.push(two.unwrap()))
                    .unwrap();
            },
        )
        .unwrap();
        run_to_end(&lp);
        assert_eq!(told.take(), [1, 2]);

        let refused = Shared::<Vec<Code>>::default();
        let noted = refused.clone();
        let timer = Timer::open(&lp, |_, _| ()).unwrap();
        lp.on_close(timer, move |lp, _| {
            noted.push(lp.work(|| (), |_, _| ()).unwrap_err().code());
        })
        .unwrap();
        drop(lp);
        assert_eq!(refused.take(), [Code::ECANCELED]);
    });
}

#[test]
fn loops_share_a_pool_and_each_hears_its_own() {
    let _limit = TimeLimit::start("a shared pool".to_owned());
    let pool = small_pool(100);
    let workers: Vec<_> = (0..4)
        .map(|number| {
            let pool = pool.clone();
            thread::spawn(move || {
                let lp = Loop::with_options(LoopOptions {
                    pool: Some(pool),
                    ..Default::default()
                })
                .unwrap();
                let told = Shared::<Vec<usize>>::default();
                for _ in 0..100 {
                    let told = told.clone();
                    let done = move |_: &Loop, it: Result<usize>| told.push(it.unwrap());
                    while let Err(error) = lp.work(move || number, done.clone()) {
                        assert_eq!(error.code(), Code::ENOBUFS);
                        lp.run(RunMode::Once).unwrap();
                    }
                }
                run_to_end(&lp);
                assert_eq!(told.take(), [number; 100]);
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn a_loop_that_goes_does_not_wait_for_the_work_of_another() {
    let _limit = TimeLimit::start("two loops with a pool".to_owned());
    let pool = small_pool(10);
    let options = || LoopOptions {
        pool: Some(pool.clone()),
        ..Default::default()
    };
    let one = Loop::with_options(options()).unwrap();
    let two = Loop::with_options(options()).unwrap();
    let (_, go_on, outcomes) = occupy(&one, WorkClass::Compute);
    let told = Shared::<Vec<Result<()>>>::default();
    let canceled = told.clone();
    two.work(|| (), move |_, outcome| canceled.push(outcome))
        .unwrap();
    drop(two);
    assert_eq!(told.take(), [Err(Code::ECANCELED.into())]);
    drop(go_on);
    run_to_end(&one);
    assert_eq!(outcomes.take(), [Ok(())]);
}

/// What is under way when a process forks, and what the child hears of it.
#[cfg(unix)]
#[test]
fn a_forked_child_hears_that_its_work_is_not_there() {
    in_own_process!(|| {
        each_driver_with(with_small_pool(10), |lp| {
            let (_, go_on, outcomes) = occupy(&lp, WorkClass::Compute);
            let waiting = outcomes.clone();
            lp.work(|| (), move |_, outcome| waiting.push(outcome))
                .unwrap();
            // SAFETY: the child only uses the loop and the memory of this thread.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let ok = catch_unwind(AssertUnwindSafe(|| {
                    lp.forked().unwrap();
                    run_to_end(&lp);
                    let canceled = Err(Code::ECANCELED.into());
                    assert_eq!(outcomes.take(), [canceled, canceled]);
                    // The child has a pool of its own.
                    let told = outcomes.clone();
                    lp.work(|| (), move |_, outcome| told.push(outcome))
                        .unwrap();
                    run_to_end(&lp);
                    assert_eq!(outcomes.take(), [Ok(())]);
                    drop(lp);
                }));
                // SAFETY: ends the child at once, without what the parent's harness would do at its end.
                unsafe { libc::_exit(i32::from(ok.is_err())) };
            }
            let mut status = 0;
            // SAFETY: the status is a valid place for the answer.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
            drop(go_on);
            run_to_end(&lp);
            assert_eq!(outcomes.take(), [Ok(()), Ok(())]);
        });
    });
}

/// A child that never says [`Loop::forked`] may drop its parent's loop all the same.
#[cfg(unix)]
#[test]
fn a_forked_child_drops_a_loop_that_has_work() {
    in_own_process!(|| {
        each_driver(|lp| {
            let (_, go_on, outcomes) = occupy(&lp, WorkClass::Compute);
            // SAFETY: as above.
            let child = unsafe { libc::fork() };
            if child == 0 {
                drop(lp);
                let told = outcomes.take() == [Err(Code::ECANCELED.into())];
                // SAFETY: as above.
                unsafe { libc::_exit(i32::from(!told)) };
            }
            let mut status = 0;
            // SAFETY: as above.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
            drop(go_on);
            run_to_end(&lp);
        });
    });
}

/// A thread is at the work, and at whatever memory it was lent: saying so does not end it.
#[test]
fn where_nobody_has_forked_forked_does_nothing() {
    each_driver(|lp| {
        let (_, go_on, outcomes) = occupy(&lp, WorkClass::Compute);
        lp.forked().unwrap();
        some_turns(&lp);
        assert_eq!(outcomes.take(), []);
        drop(go_on);
        run_to_end(&lp);
        assert_eq!(outcomes.take(), [Ok(())]);
    });
}
