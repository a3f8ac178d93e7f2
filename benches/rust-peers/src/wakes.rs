//! Waking a loop from another thread, and posting work to it: the scenarios and checks of `../wakes/wakes.h`.

use crate::common::{die, end_after_seconds, process_cpu_ns, thread_cpu_ns};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

const HANG_SECONDS: u32 = 120;
/// As kolo's default.
pub const POSTS_MAX: usize = 65536;

/// What a thread has of another thread's loop.
pub trait Remote: Send + Sync + 'static {
    fn wake(&self);
    /// False: full, try again.
    fn post(&self, number: u64) -> bool;
}

/// A loop of this thread. Its callbacks answer whether it goes on.
pub trait Side: Sized {
    type Remote: Remote;

    fn open() -> (Self, Self::Remote);
    fn run(self, on_wake: impl FnMut() -> bool, on_post: impl FnMut(u64) -> bool);
}

fn must_post(remote: &impl Remote, number: u64) {
    if !remote.post(number) {
        die("the post queue is full");
    }
}

fn no_wake() -> bool {
    die("a wake that nobody sent")
}

fn no_post(_: u64) -> bool {
    die("a post that nobody sent")
}

fn start_far<S: Side>(run: impl FnOnce(S) + Send + 'static) -> (Arc<S::Remote>, JoinHandle<()>) {
    let (sender, remote) = channel();
    let thread = thread::spawn(move || {
        let (side, remote) = S::open();
        sender
            .send(Arc::new(remote))
            .unwrap_or_else(|_| die("nobody waits for the far side"));
        run(side);
    });
    (
        remote
            .recv()
            .unwrap_or_else(|_| die("the far side did not start")),
        thread,
    )
}

fn end(thread: JoinHandle<()>) {
    thread
        .join()
        .unwrap_or_else(|_| die("the far side panicked"));
}

fn report(name: &str, total_ns: u64, count: u64) {
    println!("{name} {:.3}", total_ns as f64 / count as f64);
}

/// The loop sits in a callback while another thread wakes it again and again.
fn coalesced<S: Side>(count: u64) {
    let (inside, is_inside) = channel();
    let (let_go, until_let_go) = channel::<()>();
    let (remote, thread) = start_far(move |side: S| {
        let mut seen = 0;
        let on_wake = || {
            seen += 1;
            if seen == 1 {
                let _ = inside.send(());
                let _ = until_let_go.recv();
            }
            seen < 2 // the many wakes have come as one
        };
        side.run(on_wake, no_post);
    });
    remote.wake();
    let _ = is_inside.recv();
    remote.wake(); // this one is the wake-up that the following ones find pending
    let begin = thread_cpu_ns();
    for _ in 0..count {
        remote.wake();
    }
    let total = thread_cpu_ns() - begin;
    let _ = let_go.send(());
    end(thread);
    report("coalesced", total, count);
}

/// The near side counts, the far side answers. `count` is the number that says it is the last.
fn round_trips<S: Side>(name: &str, count: u64, posts: bool) {
    let (near, near_remote) = S::open();
    let near_remote = Arc::new(near_remote);
    let (sender, ending): (Sender<()>, _) = channel();
    let (remote, thread) = start_far(move |side: S| {
        let on_wake = || {
            let ends = ending.try_recv().is_ok();
            if !ends {
                near_remote.wake();
            }
            !ends
        };
        let on_post = |number| {
            if number < count {
                must_post(&*near_remote, 0);
            }
            number < count
        };
        side.run(on_wake, on_post);
    });
    let mut seen = 0;
    let begin = process_cpu_ns();
    if posts {
        must_post(&*remote, 0);
        let on_post = |_| {
            seen += 1;
            must_post(&*remote, seen);
            seen < count
        };
        near.run(no_wake, on_post);
    } else {
        remote.wake();
        let on_wake = || {
            seen += 1;
            if seen == count {
                let _ = sender.send(());
            }
            remote.wake();
            seen < count
        };
        near.run(on_wake, no_post);
    }
    report(name, process_cpu_ns() - begin, count);
    end(thread);
}

/// One thread posts as fast as it can.
fn flood<S: Side>(count: u64) {
    let (all_seen, are_all_seen) = channel();
    let (remote, thread) = start_far(move |side: S| {
        let mut seen = 0;
        let on_post = |number| {
            if number != seen {
                die(format_args!("post {number} came when {seen} was due"));
            }
            seen += 1;
            seen < count
        };
        side.run(no_wake, on_post);
        let _ = all_seen.send(());
    });
    let begin = process_cpu_ns();
    for number in 0..count {
        while !remote.post(number) {
            thread::yield_now();
        }
    }
    let _ = are_all_seen.recv();
    report("flood", process_cpu_ns() - begin, count);
    end(thread);
}

pub fn main<S: Side>() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count = arguments
        .get(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    if arguments.len() != 2 || count == 0 {
        die("usage: coalesced|wake_round_trip|post_round_trip|flood COUNT");
    }
    end_after_seconds(HANG_SECONDS); // a wake that is lost ends here
    match arguments[0].as_str() {
        "coalesced" => coalesced::<S>(count),
        "wake_round_trip" => round_trips::<S>("wake_round_trip", count, false),
        "post_round_trip" => round_trips::<S>("post_round_trip", count, true),
        "flood" => flood::<S>(count),
        other => die(format_args!("no scenario {other}")),
    }
}
