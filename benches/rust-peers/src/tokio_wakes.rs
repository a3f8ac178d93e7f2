//! Wakes and posts on tokio's current-thread runtime: a `Notify`, and a bounded channel.

use crate::common::check;
use crate::wakes::{self, Remote, Side, POSTS_MAX};
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, Notify};

struct TokioSide {
    runtime: Runtime,
    notify: Arc<Notify>,
    posts: mpsc::Receiver<u64>,
}

struct TokioRemote {
    notify: Arc<Notify>,
    posts: mpsc::Sender<u64>,
}

impl Remote for TokioRemote {
    fn wake(&self) {
        self.notify.notify_one();
    }

    fn post(&self, number: u64) -> bool {
        self.posts.try_send(number).is_ok()
    }
}

/// Until one of the two ends.
async fn first(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Pending => other.as_mut().poll(context),
        ready => ready,
    })
    .await;
}

impl Side for TokioSide {
    type Remote = TokioRemote;

    fn open() -> (Self, TokioRemote) {
        let runtime = check(Builder::new_current_thread().enable_io().build(), "runtime");
        let notify = Arc::new(Notify::new());
        let (sender, posts) = mpsc::channel(POSTS_MAX);
        let remote = TokioRemote {
            notify: notify.clone(),
            posts: sender,
        };
        (
            Self {
                runtime,
                notify,
                posts,
            },
            remote,
        )
    }

    fn run(self, mut on_wake: impl FnMut() -> bool, mut on_post: impl FnMut(u64) -> bool) {
        let Self {
            runtime,
            notify,
            mut posts,
        } = self;
        let wakes = async {
            loop {
                notify.notified().await;
                if !on_wake() {
                    return;
                }
            }
        };
        let posts = async {
            while let Some(number) = posts.recv().await {
                if !on_post(number) {
                    return;
                }
            }
            std::future::pending().await
        };
        runtime.block_on(first(wakes, posts));
    }
}

pub fn main() {
    wakes::main::<TokioSide>();
}
