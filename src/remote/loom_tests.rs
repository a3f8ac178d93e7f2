//! Wakes and posts in every order in which threads may meet, with every value that their loads may see
//! (loom, `make check-loom`): the code of [`Mailbox`], [`Flag`] and [`Remote`] as it stands, with loom's atomics and locks.
//!
//! What stands for the rest: the kernel's wake-up is a [`Bell`] that remembers one ring; the loop is [`Looker`], which waits
//! for the bell and does what `Loop::run_posted` does. That one membarrier(2) is as good as a full barrier in each thread
//! is not shown here but assumed, from its manual page: see `threads.rs`.
//!
//! A wake that is lost leaves the looker waiting for ever, which loom reports as a deadlock.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::sync::atomic::AtomicBool as ModelBool;
use loom::thread;

use super::threads::{Condvar, Mutex};
use super::*;
use crate::driver::Wake;

/// An event descriptor.
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn new() -> Arc<Bell> {
        Arc::new(Bell {
            rung: Mutex::new(false),
            changed: Condvar::new(),
        })
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

/// The loop's side.
struct Looker {
    bell: Arc<Bell>,
    mailbox: Arc<Mailbox>,
    posted: VecDeque<Posted>,
}

impl Looker {
    fn new(capacity: usize) -> Looker {
        let bell = Bell::new();
        Looker {
            mailbox: Mailbox::new(bell.clone(), capacity),
            bell,
            posted: VecDeque::new(),
        }
    }

    fn remote(&self) -> Remote {
        Remote {
            mailbox: self.mailbox.clone(),
            waker: None,
        }
    }

    /// One turn: waits, takes over, runs the posts (they are dropped, which their numbers note). The wakers that are due.
    fn turn(&mut self, wakers: &[Arc<WakerShared>]) -> Vec<Id> {
        if !self.mailbox.has_posts() {
            self.bell.wait();
        }
        let left = self.mailbox.look(&mut self.posted, |id| {
            let waker = wakers.iter().find(|waker| waker.id.get() == Some(&id));
            waker.map(|waker| &**waker)
        });
        while self.mailbox.next(&mut self.posted).is_some() {}
        let Some(left) = left else {
            return Vec::new();
        };
        self.mailbox.settle();
        left.woken
    }
}

/// A task that notes its number when it is gone.
struct Numbered(u64, Arc<std::sync::Mutex<Vec<u64>>>);

impl Task for Numbered {
    fn run(self, _: &Loop) {}
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(self.0);
    }
}

thread_local!(static ORDERS: Cell<u64> = const { Cell::new(0) });
static ALL_ORDERS: AtomicU64 = AtomicU64::new(0);

/// Runs a model in all orders with so many preemptions at most, on a machine with and on one without a heavy barrier.
/// LOOM_MAX_PREEMPTIONS says otherwise.
fn on_both_machines(preemptions: usize, model: fn()) {
    for heavy in [true, false] {
        threads::HEAVY.set(heavy);
        ORDERS.set(0);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
        builder.check(move || {
            ORDERS.set(ORDERS.get() + 1);
            model();
        });
        assert!(ORDERS.get() > 1, "the model has one order only");
        let all = ALL_ORDERS.fetch_add(ORDERS.get(), Ordering::Relaxed) + ORDERS.get();
        println!("figure: loom-orders {all} orders");
    }
}

/// A waker with one of two numbers that handles could have.
fn waker(which: usize) -> Arc<WakerShared> {
    Arc::new(WakerShared {
        flag: Flag::new(),
        id: OnceLock::from(Id::in_slot(1, which as u32)),
    })
}

#[test]
fn what_was_stored_before_a_wake_is_seen_after_it() {
    on_both_machines(3, || {
        let mut looker = Looker::new(8);
        let stored = Arc::new(ModelBool::new(false));
        let (remote, told) = (looker.remote(), stored.clone());
        let other = thread::spawn(move || {
            // Raises the flag, so that the next one may find it raised.
            remote.wake().unwrap();
            told.store(true, Ordering::Relaxed);
            remote.wake().unwrap();
        });
        while !stored.load(Ordering::Relaxed) {
            looker.turn(&[]);
        }
        other.join().unwrap();
    });
}

#[test]
fn wakes_of_two_threads_lose_nothing_of_either() {
    on_both_machines(3, || {
        let mut looker = Looker::new(8);
        let stored = Arc::new([ModelBool::new(false), ModelBool::new(false)]);
        let others = [0, 1].map(|which: usize| {
            let (remote, told) = (looker.remote(), stored.clone());
            thread::spawn(move || {
                told[which].store(true, Ordering::Relaxed);
                remote.wake().unwrap();
            })
        });
        while !stored.iter().all(|stored| stored.load(Ordering::Relaxed)) {
            looker.turn(&[]);
        }
        for other in others {
            other.join().unwrap();
        }
    });
}

#[test]
fn what_was_stored_before_a_waker_is_woken_is_seen_by_its_callback() {
    on_both_machines(3, || {
        let mut looker = Looker::new(8);
        let wakers = [waker(0)];
        let stored = Arc::new(ModelBool::new(false));
        let told = stored.clone();
        let remote = Remote {
            waker: Some(wakers[0].clone()),
            ..looker.remote()
        };
        let other = thread::spawn(move || {
            remote.wake().unwrap();
            told.store(true, Ordering::Relaxed);
            remote.wake().unwrap();
        });
        loop {
            let woken = looker.turn(&wakers);
            // The callback, which alone looks.
            if !woken.is_empty() && stored.load(Ordering::Relaxed) {
                break;
            }
        }
        other.join().unwrap();
    });
}

#[test]
fn of_two_wakers_each_is_called() {
    on_both_machines(3, || {
        let mut looker = Looker::new(8);
        let wakers = [waker(0), waker(1)];
        let others = [0, 1].map(|which: usize| {
            let remote = Remote {
                waker: Some(wakers[which].clone()),
                ..looker.remote()
            };
            thread::spawn(move || remote.wake().unwrap())
        });
        let mut woken = Vec::new();
        while woken.len() < 2 {
            woken.extend(looker.turn(&wakers));
        }
        assert_ne!(woken[0], woken[1]);
        for other in others {
            other.join().unwrap();
        }
    });
}

#[test]
fn every_post_runs_once_and_those_of_one_thread_in_their_order() {
    on_both_machines(2, || {
        let mut looker = Looker::new(8);
        let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
        let others = [&[11, 12][..], &[21]].map(|numbers: &[u64]| {
            let (remote, ran) = (looker.remote(), ran.clone());
            thread::spawn(move || {
                for number in numbers {
                    remote.post(Numbered(*number, ran.clone())).unwrap();
                }
            })
        });
        while ran.lock().unwrap().len() < 3 {
            looker.turn(&[]);
        }
        for other in others {
            other.join().unwrap();
        }
        let mut ran = ran.lock().unwrap().clone();
        let place = |number| ran.iter().position(|ran| *ran == number).unwrap();
        assert!(place(11) < place(12));
        ran.sort_unstable();
        assert_eq!(ran, [11, 12, 21]);
    });
}

#[test]
fn a_full_mailbox_takes_again_once_the_loop_has_run_what_it_took_over() {
    on_both_machines(3, || {
        let mut looker = Looker::new(1);
        let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (remote, told) = (looker.remote(), ran.clone());
        let other = thread::spawn(move || {
            remote.post(Numbered(1, told.clone())).unwrap();
            match remote.post(Numbered(2, told.clone())) {
                Ok(()) => 2,
                Err(error) => {
                    assert_eq!(error.code(), Code::ENOBUFS);
                    1
                }
            }
        });
        looker.turn(&[]);
        let taken = other.join().unwrap();
        // A refused one is dropped by its thread, so that its number is among these, too.
        while ran.lock().unwrap().len() < 2 {
            looker.turn(&[]);
        }
        assert_eq!(looker.mailbox.posts_waiting(), 0);
        if taken == 2 {
            assert_eq!(*ran.lock().unwrap(), [1, 2]);
        }
    });
}

#[test]
fn a_post_to_a_loop_that_ends_is_refused_or_handed_over_never_lost() {
    on_both_machines(3, || {
        let looker = Looker::new(8);
        let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (remote, told) = (looker.remote(), ran.clone());
        let other = thread::spawn(move || match remote.post(Numbered(1, told)) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.code(), Code::ECANCELED);
                false
            }
        });
        let cancelled = looker.mailbox.end();
        let accepted = other.join().unwrap();
        assert_eq!(cancelled.len(), usize::from(accepted));
        drop(cancelled);
        assert_eq!(*ran.lock().unwrap(), [1]);
    });
}
