//! What the tests share: every test body runs on each driver, under a time limit; a stream handler that keeps a log;
//! sockets for the other end.

#![allow(dead_code)] // each test program uses its part

#[cfg(feature = "net")]
mod peers;

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe, Location};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

#[cfg(feature = "net")]
use kolo::TcpStream;
use kolo::{Code, Error, Loop, LoopOptions, Result, RunMode, Stream, StreamHandler, Timeout};

#[cfg(feature = "net")]
#[allow(unused_imports)]
pub use peers::*;

/// The drivers of this system, as far as it lets them be used.
pub fn drivers() -> impl Iterator<Item = &'static str> {
    let all = ["poller", "polling", "uring"];
    // Where io_uring is forbidden, or the kernel too old, nothing can be tested of it.
    all.into_iter()
        .filter(|name| *name != "uring" || has_uring())
}

/// Whether loops can have the driver over io_uring.
pub fn has_uring() -> bool {
    let options = LoopOptions {
        driver: Some("uring".to_owned()),
        ..LoopOptions::default()
    };
    Loop::with_options(options).is_ok()
}

/// What a test may take on one driver. A hang is a failure; a slow machine is not.
const TEST_LIMIT: Duration = Duration::from_secs(180);

/// Runs the test once on each driver, each time with a new loop.
#[track_caller]
pub fn each_driver(test: impl Fn(Loop)) {
    each_driver_with(LoopOptions::default, test);
}

/// As [`each_driver`], with other options.
#[track_caller]
pub fn each_driver_with(options: impl Fn() -> LoopOptions, test: impl Fn(Loop)) {
    let place = Location::caller();
    for driver in drivers() {
        let _limit = TimeLimit::start(format!("{place} with the driver {driver:?}"));
        let options = LoopOptions {
            driver: Some(driver.to_owned()),
            ..options()
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let lp = Loop::with_options(options).unwrap();
            assert_eq!(lp.driver_name(), driver);
            test(lp);
        }));
        if let Err(panic) = outcome {
            eprintln!("{place}: with the driver {driver:?}");
            resume_unwind(panic);
        }
    }
}

/// Ends the process when it is not dropped in time.
pub struct TimeLimit {
    _ended: mpsc::Sender<()>,
}

impl TimeLimit {
    pub fn start(what: String) -> TimeLimit {
        let (sender, receiver) = mpsc::channel::<()>();
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            if receiver.recv_timeout(TEST_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} ({what}) has not ended after {TEST_LIMIT:?}");
                std::process::abort();
            }
        });
        TimeLimit { _ended: sender }
    }
}

/// Runs the test in a process of its own, which signals, descriptor limits and forks need. Threads of other tests are
/// not in it.
#[macro_export]
macro_rules! in_own_process {
    ($test:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        // "crate::test::here"
        let name = name.split("::").nth(1).unwrap();
        $crate::common::run_in_own_process(name, $test);
    }};
}

const OWN_PROCESS: &str = "KOLO_TEST_IN_OWN_PROCESS";

pub fn run_in_own_process(name: &str, test: impl FnOnce()) {
    if std::env::var(OWN_PROCESS).is_ok_and(|own| own == name) {
        return test();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(OWN_PROCESS, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Turns the loop, waiting for events, until the condition holds. That it has no more to do before is a failure.
#[track_caller]
pub fn run_until(lp: &Loop, mut condition: impl FnMut() -> bool) {
    while !condition() {
        let alive = lp.run(RunMode::Once).unwrap();
        assert!(
            alive || condition(),
            "nothing keeps the loop alive any more"
        );
    }
}

/// Some turns that do not wait: for what must not happen.
pub fn some_turns(lp: &Loop) {
    for _ in 0..5 {
        lp.run(RunMode::NoWait).unwrap();
    }
}

/// Runs the loop until nothing keeps it alive.
#[track_caller]
pub fn run_to_end(lp: &Loop) {
    assert!(!lp.run(RunMode::Default).unwrap());
}

/// Turns until the time has passed by the loop's clock, whatever happens meanwhile.
pub fn run_for(lp: &Loop, time: Duration) {
    let over = Rc::new(RefCell::new(false));
    let set = over.clone();
    kolo::Timer::after(lp, time, move |_| *set.borrow_mut() = true).unwrap();
    run_until(lp, || *over.borrow());
}

/// Runs the function in a callback of the loop.
pub fn in_callback(lp: &Loop, run: impl FnOnce(&Loop) + 'static) {
    let done = Rc::new(RefCell::new(false));
    let set = done.clone();
    lp.defer(move |lp: &Loop| {
        *set.borrow_mut() = true;
        run(lp);
    })
    .unwrap();
    run_until(lp, || *done.borrow());
}

/// The code of an error.
#[track_caller]
pub fn code<T: std::fmt::Debug>(outcome: Result<T>) -> Code {
    outcome.unwrap_err().code()
}

/// Something shared with callbacks: a list of what happened.
pub struct Shared<T>(Rc<RefCell<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        Shared::new(T::default())
    }
}

impl<T> Shared<T> {
    pub fn new(value: T) -> Shared<T> {
        Shared(Rc::new(RefCell::new(value)))
    }

    pub fn set(&self, value: T) {
        *self.0.borrow_mut() = value;
    }

    pub fn with<R>(&self, run: impl FnOnce(&mut T) -> R) -> R {
        run(&mut self.0.borrow_mut())
    }

    /// How many hold it: callbacks that were dropped no longer do.
    pub fn holders(&self) -> usize {
        Rc::strong_count(&self.0) - 1
    }
}

impl<T: Clone> Shared<T> {
    pub fn get(&self) -> T {
        self.0.borrow().clone()
    }
}

impl Shared<usize> {
    pub fn add(&self) {
        self.with(|count| *count += 1);
    }
}

impl<T> Shared<Vec<T>> {
    pub fn push(&self, value: T) {
        self.with(|list| list.push(value));
    }

    pub fn len(&self) -> usize {
        self.with(|list| list.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn take(&self) -> Vec<T> {
        self.with(std::mem::take)
    }
}

/// What a stream's handler heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Open,
    Data(Vec<u8>),
    End,
    Drain,
    Timeout(Timeout),
    Error(Code),
    Close,
    /// A write's, or a shutdown's, completion callback: which, and its outcome.
    Done(usize, std::result::Result<(), Code>),
}

/// What a stream's handler heard, in its order.
#[derive(Clone, Default)]
pub struct Log(Shared<Vec<Event>>);

impl Log {
    pub fn push(&self, event: Event) {
        self.0.push(event);
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.get()
    }

    pub fn clear(&self) {
        self.0.with(Vec::clear);
    }

    pub fn count(&self, event: &Event) -> usize {
        self.0
            .with(|events| events.iter().filter(|e| *e == event).count())
    }

    pub fn has(&self, event: &Event) -> bool {
        self.count(event) > 0
    }

    pub fn closed(&self) -> bool {
        self.has(&Event::Close)
    }

    /// All the bytes that came.
    pub fn data(&self) -> Vec<u8> {
        self.0.with(|events| {
            let mut all = Vec::new();
            for event in events.iter() {
                if let Event::Data(bytes) = event {
                    all.extend_from_slice(bytes);
                }
            }
            all
        })
    }

    /// Everything but this event.
    pub fn without(&self, unwanted: &Event) -> Vec<Event> {
        let mut events = self.events();
        events.retain(|event| event != unwanted);
        events
    }

    /// Everything but the bytes.
    pub fn without_data(&self) -> Vec<Event> {
        let mut events = self.events();
        events.retain(|event| !matches!(event, Event::Data(_)));
        events
    }

    /// A completion callback that notes its number and outcome.
    pub fn done(&self, which: usize) -> impl FnOnce(&Loop, Stream, Result<()>) + 'static {
        let log = self.clone();
        move |_, _, outcome| log.push(Event::Done(which, outcome.map_err(Error::code)))
    }

    pub fn holders(&self) -> usize {
        self.0.holders()
    }
}

type On = Box<dyn FnMut(&Loop, Stream)>;
type OnData = Box<dyn FnMut(&Loop, Stream, &[u8])>;
type OnTimeout = Box<dyn FnMut(&Loop, Stream, Timeout)>;
type OnError = Box<dyn FnMut(&Loop, Stream, Error)>;

/// A handler that notes everything in a log, and then does what the test says: nothing, unless told.
pub struct Script {
    log: Log,
    reads: bool,
    open: Option<On>,
    data: Option<OnData>,
    end: Option<On>,
    drain: Option<On>,
    timeout: Option<OnTimeout>,
    error: Option<OnError>,
    close: Option<On>,
}

impl Script {
    pub fn new(log: &Log) -> Script {
        Script {
            log: log.clone(),
            reads: true,
            open: None,
            data: None,
            end: None,
            drain: None,
            timeout: None,
            error: None,
            close: None,
        }
    }

    /// Does not read from the start.
    pub fn not_reading(mut self) -> Script {
        self.reads = false;
        self
    }

    pub fn on_open(mut self, run: impl FnMut(&Loop, Stream) + 'static) -> Script {
        self.open = Some(Box::new(run));
        self
    }

    pub fn on_data(mut self, run: impl FnMut(&Loop, Stream, &[u8]) + 'static) -> Script {
        self.data = Some(Box::new(run));
        self
    }

    pub fn on_end(mut self, run: impl FnMut(&Loop, Stream) + 'static) -> Script {
        self.end = Some(Box::new(run));
        self
    }

    pub fn on_drain(mut self, run: impl FnMut(&Loop, Stream) + 'static) -> Script {
        self.drain = Some(Box::new(run));
        self
    }

    pub fn on_timeout(mut self, run: impl FnMut(&Loop, Stream, Timeout) + 'static) -> Script {
        self.timeout = Some(Box::new(run));
        self
    }

    pub fn on_error(mut self, run: impl FnMut(&Loop, Stream, Error) + 'static) -> Script {
        self.error = Some(Box::new(run));
        self
    }

    pub fn on_close(mut self, run: impl FnMut(&Loop, Stream) + 'static) -> Script {
        self.close = Some(Box::new(run));
        self
    }
}

fn call(run: &mut Option<On>, lp: &Loop, stream: Stream) {
    if let Some(run) = run {
        run(lp, stream);
    }
}

impl StreamHandler for Script {
    fn on_open(&mut self, lp: &Loop, stream: Stream) {
        self.log.push(Event::Open);
        call(&mut self.open, lp, stream);
    }

    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        assert!(!data.is_empty());
        self.log.push(Event::Data(data.to_vec()));
        if let Some(run) = &mut self.data {
            run(lp, stream, data);
        }
    }

    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        self.log.push(Event::End);
        call(&mut self.end, lp, stream);
    }

    fn on_drain(&mut self, lp: &Loop, stream: Stream) {
        self.log.push(Event::Drain);
        call(&mut self.drain, lp, stream);
    }

    fn on_timeout(&mut self, lp: &Loop, stream: Stream, which: Timeout) {
        self.log.push(Event::Timeout(which));
        if let Some(run) = &mut self.timeout {
            run(lp, stream, which);
        }
    }

    fn on_error(&mut self, lp: &Loop, stream: Stream, error: Error) {
        self.log.push(Event::Error(error.code()));
        if let Some(run) = &mut self.error {
            run(lp, stream, error);
        }
    }

    fn on_close(&mut self, lp: &Loop, stream: Stream) {
        self.log.push(Event::Close);
        call(&mut self.close, lp, stream);
    }

    fn reads(&self) -> bool {
        self.reads
    }
}

/// What each end of a [`socket_pair`] buffers in the kernel, about. Fixed, so that a peer that does not read stalls us
/// soon and for good.
const SOCKET_BUFFER: usize = 64 * 1024;

/// Both ends of a new connection over the loopback.
pub fn socket_pair() -> (StdStream, StdStream) {
    let narrow = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_send_buffer_size(SOCKET_BUFFER).unwrap();
        socket.set_recv_buffer_size(SOCKET_BUFFER).unwrap();
        socket
    };
    let listener = narrow();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(1).unwrap();
    let one = narrow();
    one.connect(&listener.local_addr().unwrap()).unwrap();
    let (other, from) = listener.accept().unwrap();
    let (one, other) = (StdStream::from(one), StdStream::from(other));
    assert_eq!(from.as_socket(), Some(one.local_addr().unwrap()));
    one.set_nodelay(true).unwrap();
    other.set_nodelay(true).unwrap();
    (one, other)
}

/// A stream of the loop, and the other end of its connection.
#[cfg(feature = "net")]
pub fn connected(lp: &Loop, handler: impl StreamHandler) -> (TcpStream, StdStream) {
    let (ours, peer) = socket_pair();
    (TcpStream::adopt(lp, ours, handler).unwrap(), peer)
}

/// What carries a stream in a test that holds for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Tcp,
    #[cfg(all(unix, feature = "local"))]
    Local,
}

/// All there are in this build.
pub const CARRIERS: &[Carrier] = &[
    Carrier::Tcp,
    #[cfg(all(unix, feature = "local"))]
    Carrier::Local,
];

thread_local! {
    static CARRIER: Cell<Carrier> = const { Cell::new(Carrier::Tcp) };
}

/// Runs the test once on each driver with each carrier: [`carried`] gives streams of that.
#[track_caller]
pub fn each_carrier(test: impl Fn(Loop)) {
    for carrier in CARRIERS {
        CARRIER.set(*carrier);
        let outcome = catch_unwind(AssertUnwindSafe(|| each_driver(&test)));
        CARRIER.set(Carrier::Tcp);
        if let Err(panic) = outcome {
            eprintln!("carried by {carrier:?}");
            resume_unwind(panic);
        }
    }
}

/// A stream of the loop, of the carrier that is being tested, and the other end of its connection.
pub fn carried(lp: &Loop, handler: impl StreamHandler) -> (Stream, StdStream) {
    match CARRIER.get() {
        Carrier::Tcp => {
            let (tcp, peer) = connected(lp, handler);
            (tcp.into(), peer)
        }
        #[cfg(all(unix, feature = "local"))]
        Carrier::Local => {
            let (ours, peer) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
            // What is on its way to the other end counts as the sender's. Tests write at once what TCP's receiver would
            // hold besides.
            ours.set_send_buffer_size(SOCKET_BUFFER).unwrap();
            peer.set_send_buffer_size(4 * SOCKET_BUFFER).unwrap();
            let local = kolo::LocalStream::adopt(lp, ours, handler).unwrap();
            // Its reading and writing are those of any socket.
            (local.into(), StdStream::from(peer))
        }
    }
}

/// Writes so much that the system takes no more and something stays queued; how many bytes were written.
pub fn fill(lp: &Loop, stream: Stream) -> usize {
    let mut written = 0;
    while stream.queued(lp).unwrap() < 16 * SOCKET_BUFFER {
        let bytes = pattern(written, SOCKET_BUFFER);
        stream.write(lp, &bytes).unwrap();
        written += bytes.len();
    }
    written
}

/// Bytes of a sequence in which each place can be told from its neighbours: those from `start` on.
pub fn pattern(start: usize, length: usize) -> Vec<u8> {
    (start..start + length).map(pattern_at).collect()
}

fn pattern_at(at: usize) -> u8 {
    // Not a period of 256, so that lost or doubled blocks show.
    (at % 251) as u8 ^ (at / 251 % 256) as u8
}

#[track_caller]
pub fn assert_pattern(bytes: &[u8], start: usize) {
    if let Some(wrong) = (0..bytes.len()).find(|at| bytes[*at] != pattern_at(start + at)) {
        panic!("byte {} of the sequence is wrong", start + wrong);
    }
}

/// What the peer has received, without waiting; `None`: nothing there.
pub fn read_now(mut peer: &StdStream) -> Option<Vec<u8>> {
    peer.set_nonblocking(true).unwrap();
    let mut bytes = vec![0; 256 * 1024];
    let outcome = peer.read(&mut bytes);
    peer.set_nonblocking(false).unwrap();
    match outcome {
        Ok(length) => {
            bytes.truncate(length);
            Some(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// Exactly so many bytes from the peer, turning the loop that sends them.
#[track_caller]
pub fn read_from_peer(lp: &Loop, peer: &StdStream, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        match read_now(peer) {
            Some(bytes) if bytes.is_empty() => panic!("ended after {} bytes", all.len()),
            Some(bytes) => all.extend_from_slice(&bytes),
            None => drop(lp.run(RunMode::NoWait).unwrap()),
        }
    }
    assert_eq!(all.len(), length);
    all
}

/// All that the peer receives until the end, turning the loop that sends it.
pub fn read_peer_to_end(lp: &Loop, peer: &StdStream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match read_now(peer) {
            Some(bytes) if bytes.is_empty() => return all,
            Some(bytes) => all.extend_from_slice(&bytes),
            None => drop(lp.run(RunMode::NoWait).unwrap()),
        }
    }
}

/// The reset that the peer sees; panics if the connection ends otherwise.
#[track_caller]
pub fn assert_peer_is_reset(lp: &Loop, mut peer: &StdStream) {
    peer.set_nonblocking(true).unwrap();
    loop {
        match peer.read(&mut [0; 4096]) {
            Ok(0) => panic!("ended without a reset"),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                lp.run(RunMode::NoWait).unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                return;
            }
        }
    }
}

/// Closes a socket so that its peer is reset.
pub fn reset(socket: StdStream) {
    socket2::SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// Whether a socket's peer has ended or reset the connection, without waiting.
pub fn is_ended(mut peer: &StdStream) -> bool {
    peer.set_nonblocking(true).unwrap();
    match peer.read(&mut [0; 1]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// A small generator of random numbers (xorshift64*): the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }
}
