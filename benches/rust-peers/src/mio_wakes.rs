//! Wakes and posts on mio: its `Waker`, and for posts a bounded queue under a mutex, which wakes when it was empty.

use crate::common::{check, die};
use crate::wakes::{self, Remote, Side, POSTS_MAX};
use mio::{Events, Poll, Token, Waker};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A poll has one waker: what it was woken for stands beside it.
struct Shared {
    waker: Waker,
    woken: AtomicBool,
    queue: Mutex<Vec<u64>>,
}

struct MioSide {
    poll: Poll,
    shared: Arc<Shared>,
}

struct MioRemote(Arc<Shared>);

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Vec<u64>> {
        self.queue
            .lock()
            .unwrap_or_else(|_| die("a thread panicked"))
    }
}

impl Remote for MioRemote {
    fn wake(&self) {
        self.0.woken.store(true, Ordering::Release);
        check(self.0.waker.wake(), "wake");
    }

    fn post(&self, number: u64) -> bool {
        let mut queue = self.0.queue();
        if queue.len() == POSTS_MAX {
            return false;
        }
        queue.push(number);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            check(self.0.waker.wake(), "wake");
        }
        true
    }
}

impl Side for MioSide {
    type Remote = MioRemote;

    fn open() -> (Self, MioRemote) {
        let poll = check(Poll::new(), "mio::Poll");
        let waker = check(Waker::new(poll.registry(), Token(0)), "waker");
        let queue = Mutex::new(Vec::with_capacity(POSTS_MAX));
        let shared = Arc::new(Shared {
            waker,
            woken: AtomicBool::new(false),
            queue,
        });
        (
            Self {
                poll,
                shared: shared.clone(),
            },
            MioRemote(shared),
        )
    }

    fn run(mut self, mut on_wake: impl FnMut() -> bool, mut on_post: impl FnMut(u64) -> bool) {
        let mut events = Events::with_capacity(16);
        let mut batch = Vec::with_capacity(POSTS_MAX);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => check(result, "poll"),
            }
            if self.shared.woken.swap(false, Ordering::Acquire) && !on_wake() {
                return;
            }
            std::mem::swap(&mut *self.shared.queue(), &mut batch);
            for number in batch.drain(..) {
                if !on_post(number) {
                    return;
                }
            }
        }
    }
}

pub fn main() {
    wakes::main::<MioSide>();
}
