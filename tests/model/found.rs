//! What the model test has found, each in its shortest form.

use std::cell::RefCell;
use std::io::Read;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Duration;

use kolo::{
    Code, Error, Hook, HookKind, Loop, LoopOptions, RunMode, Signal, Stream, StreamHandler,
    TcpStream, Timer,
};

type Log = Rc<RefCell<Vec<String>>>;

fn each_driver(test: impl Fn(Loop)) {
    let _one = crate::one_at_a_time();
    for driver in ["poller", "polling"] {
        let options = LoopOptions {
            driver: Some(driver.into()),
            ..Default::default()
        };
        test(Loop::with_options(options).expect("a loop"));
    }
}

/// Runs until the condition holds; a hang is a failure.
fn run_until(lp: &Loop, condition: impl Fn() -> bool) {
    let late = Timer::open(lp, |_, _| panic!("does not come")).expect("a timer");
    late.start(lp, Duration::from_secs(60)).expect("started");
    while !condition() {
        lp.run(RunMode::Once).expect("a turn");
    }
    lp.close(late).expect("closed");
}

/// Notes what it is told; does something when it opens.
struct Notes<F>(Log, F);

impl<F: FnMut(&Loop, Stream) + 'static> StreamHandler for Notes<F> {
    fn on_open(&mut self, lp: &Loop, stream: Stream) {
        self.0.borrow_mut().push("open".into());
        (self.1)(lp, stream);
    }

    fn on_data(&mut self, _lp: &Loop, _stream: Stream, _data: &[u8]) {
        self.0.borrow_mut().push("data".into());
    }

    fn on_error(&mut self, _lp: &Loop, _stream: Stream, error: Error) {
        self.0
            .borrow_mut()
            .push(format!("error {}", error.code().name()));
    }

    fn on_close(&mut self, _lp: &Loop, _stream: Stream) {
        self.0.borrow_mut().push("close".into());
    }
}

fn listener() -> (StdListener, SocketAddr) {
    let listener = StdListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[test]
fn a_stream_that_failed_while_it_was_connecting_does_not_open() {
    each_driver(|lp| {
        let (_listener, address) = listener();
        let log = Log::default();
        let notes = Notes(log.clone(), |_: &Loop, _| ());
        let tcp = TcpStream::connect(&lp, address, notes).expect("connecting");
        // Between the deferred functions and what the wait brings: that it is connected.
        let fails = move |lp: &Loop, hook: Hook| {
            tcp.fail(lp, Code::EPROTO.into()).expect("open");
            lp.close(hook).expect("open");
        };
        let hook = Hook::open(&lp, HookKind::Prepare, fails).expect("a hook");
        hook.start(&lp).expect("started");
        run_until(&lp, || log.borrow().iter().any(|line| line == "close"));
        assert_eq!(*log.borrow(), ["error EPROTO", "close"]);
    });
}

#[test]
fn a_handle_is_not_told_of_a_signal_that_came_before_it_was_started() {
    each_driver(|lp| {
        let log = Log::default();
        let watch = |name: &'static str| {
            let log = log.clone();
            Signal::open(&lp, move |_, _, _| log.borrow_mut().push(name.into())).expect("open")
        };
        let (early, late, again) = (watch("early"), watch("late"), watch("again"));
        early.start(&lp, libc::SIGUSR1).expect("started");
        again.start(&lp, libc::SIGUSR1).expect("started");
        // SAFETY: the signal has a handler, as two handles watch it.
        unsafe { libc::raise(libc::SIGUSR1) };
        again.stop(&lp).expect("stopped");
        again.start(&lp, libc::SIGUSR1).expect("started");
        late.start(&lp, libc::SIGUSR1).expect("started");
        run_until(&lp, || !log.borrow().is_empty());
        lp.run(RunMode::NoWait).expect("a turn");
        assert_eq!(*log.borrow(), ["early"]);
    });
}

#[test]
fn the_loop_counts_its_handles_while_it_is_dropped() {
    each_driver(|lp| {
        let counted = Rc::new(RefCell::new(Vec::new()));
        let signal = Signal::open(&lp, |_, _, _| ()).expect("open");
        signal.start(&lp, libc::SIGUSR1).expect("started");
        for _ in 0..2 {
            let timer = Timer::open(&lp, |_, _| ()).expect("open");
            let counts = counted.clone();
            lp.on_close(timer, move |lp, _| {
                counts.borrow_mut().push(lp.metrics().handles)
            })
            .expect("open");
        }
        drop(lp);
        assert_eq!(*counted.borrow(), [0, 0]);
    });
}

#[test]
fn a_released_socket_has_the_half_close_that_was_told_as_done() {
    each_driver(|lp| {
        let (listener, address) = listener();
        let (log, released) = (Log::default(), Rc::new(RefCell::new(None)));
        let place = released.clone();
        let releases = move |lp: &Loop, stream: Stream| {
            let socket = TcpStream::from_id(stream.id())
                .release(lp)
                .expect("released");
            place.replace(Some(socket));
        };
        let tcp = TcpStream::connect(&lp, address, Notes(log.clone(), releases)).expect("made");
        let told = log.clone();
        let done = move |_: &Loop, _: Stream, outcome: kolo::Result<()>| {
            outcome.expect("shut down");
            told.borrow_mut().push("shut down".into());
        };
        tcp.shutdown(&lp, done).expect("open");
        tcp.finish(&lp).expect("open");
        run_until(&lp, || log.borrow().iter().any(|line| line == "close"));
        assert_eq!(*log.borrow(), ["open", "shut down", "close"]);
        let (mut peer, _) = listener.accept().expect("accepted");
        peer.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("set");
        assert_eq!(peer.read(&mut [0; 1]).expect("the end"), 0);
        assert!(released.borrow().is_some());
    });
}
