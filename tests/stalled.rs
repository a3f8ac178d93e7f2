//! Those who connect and stall: each costs a timeout, and until then what is documented, and the others are served.

#![cfg(all(target_os = "linux", feature = "net"))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::net::TcpStream as StdStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use kolo::{
    Code, ListenerHandler, Loop, LoopOptions, Stream, StreamHandler, TcpListener, TcpStream,
    Timeout,
};
use socket2::SockRef;

const KIB: usize = 1024;

/// Memory that is this process's alone, in bytes (proc(5)).
fn private_memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = found.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<usize>().unwrap() * KIB
    };
    line("Private_Dirty:") + line("Private_Clean:")
}

/// Memory that is asked for and not given back yet, in bytes. What the system's allocator keeps of what it gets back is
/// its own matter: of a thread's memory glibc may keep all (malloc_trim(3) does not give back its upper end).
static HELD: AtomicUsize = AtomicUsize::new(0);

fn held_memory() -> usize {
    HELD.load(Ordering::Relaxed)
}

struct Counting;

// SAFETY: the system's allocator, and a number beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: promised by the caller.
        let memory = unsafe { System.alloc(layout) };
        if !memory.is_null() {
            HELD.fetch_add(layout.size(), Ordering::Relaxed);
        }
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: promised by the caller.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if !memory.is_null() {
            HELD.fetch_add(layout.size(), Ordering::Relaxed);
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: promised by the caller; allocated above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: promised by the caller; allocated above.
        let moved = unsafe { System.realloc(memory, layout, size) };
        if !moved.is_null() {
            HELD.fetch_add(size, Ordering::Relaxed);
            HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        moved
    }
}

#[global_allocator]
static MEMORY: Counting = Counting;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Both ends of each connection are in this process. Whether it may have so many descriptors.
fn allow_descriptors(count: u64) -> bool {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a struct of this function's own is filled in.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    if !known || limit.rlim_max < count {
        return false;
    }
    limit.rlim_cur = limit.rlim_cur.max(count);
    // SAFETY: a struct of this function's own is read.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 }
}

/// What a server does about those who stall: it closes them.
#[derive(Clone, Default)]
struct Server {
    accepted: Shared<usize>,
    closed: Shared<usize>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    /// Sends each client that much at once, and more as soon as there is room.
    flood: Option<usize>,
}

impl ListenerHandler for Server {
    fn on_accept(&mut self, lp: &Loop, _: TcpListener, tcp: TcpStream) {
        self.accepted.add();
        tcp.attach(lp, self.clone()).unwrap();
        tcp.set_timeouts(lp, self.read_timeout, self.write_timeout)
            .unwrap();
        if let Some(limit) = self.flood {
            tcp.set_buffers(lp, Some(8 * KIB as u32), None).unwrap();
            tcp.set_watermarks(lp, 0, limit / 2, limit).unwrap();
            self.write_all_that_fits(lp, tcp.into());
        }
    }
}

impl Server {
    fn write_all_that_fits(&self, lp: &Loop, stream: Stream) {
        let block = [0; 4 * KIB];
        loop {
            match stream.write(lp, &block) {
                Ok(_) => {}
                Err(error) if error.code() == Code::ENOBUFS => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl StreamHandler for Server {
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        stream.write(lp, data).unwrap();
    }

    fn on_drain(&mut self, lp: &Loop, stream: Stream) {
        if self.flood.is_some() {
            self.write_all_that_fits(lp, stream);
        }
    }

    fn on_timeout(&mut self, lp: &Loop, stream: Stream, _: Timeout) {
        lp.close(stream).unwrap();
    }

    fn on_close(&mut self, _: &Loop, _: Stream) {
        self.closed.add();
    }
}

/// The memory is that of the whole process: so one test at a time, in a process of its own, on each driver.
fn on_each_driver_alone(name: &str, test: impl Fn(Loop)) {
    // The environment says it to the process in which the test runs; each test has its own word for it, since the
    // other one runs meanwhile.
    let variable = format!("KOLO_TEST_DRIVER_{name}");
    for driver in drivers() {
        std::env::set_var(&variable, driver);
        run_in_own_process(name, || {
            let options = LoopOptions {
                driver: std::env::var(&variable).ok(),
                ..LoopOptions::default()
            };
            test(Loop::with_options(options).unwrap());
        });
        if std::env::var("KOLO_TEST_IN_OWN_PROCESS").is_ok() {
            return;
        }
    }
}

/// So many more clients, a few at a time, so that the backlog suffices.
fn connect(lp: &Loop, listener: TcpListener, server: &Server, count: usize) -> Vec<StdStream> {
    let address = listener.address(lp).unwrap();
    let before = server.accepted.get();
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        for _ in 0..50.min(count - clients.len()) {
            clients.push(StdStream::connect(address).unwrap());
        }
        run_until(lp, || server.accepted.get() - before >= clients.len());
    }
    clients
}

#[test]
fn two_thousand_who_say_nothing_cost_a_timeout_and_a_kilobyte_each() {
    const COUNT: usize = 2000;
    if !allow_descriptors(2 * COUNT as u64 + 100) {
        eprintln!(
            "left out: this process may not have {} descriptors",
            2 * COUNT
        );
        return;
    }
    let name = "two_thousand_who_say_nothing_cost_a_timeout_and_a_kilobyte_each";
    on_each_driver_alone(name, |lp| {
        let _limit = TimeLimit::start(name.to_owned());
        let server = Server {
            read_timeout: Some(Duration::from_secs(5)),
            ..Server::default()
        };
        let listener = TcpListener::listen(&lp, "127.0.0.1:0".parse().unwrap(), server.clone());
        let listener = listener.unwrap();
        // What the first ones cost is for all: buffers, tables.
        let first = connect(&lp, listener, &server, 100);
        let (memory, descriptors_then) = (private_memory(), descriptors());
        let mut stalled = connect(&lp, listener, &server, COUNT - 100);
        let each = private_memory().saturating_sub(memory) / (COUNT - 100);
        assert!(each <= KIB, "{each} bytes for each");

        // Half of them begin to say something and stop again: that is held by nobody.
        for client in stalled.iter_mut().step_by(2) {
            client.write_all(b"x").unwrap();
        }
        some_turns(&lp);
        let each = private_memory().saturating_sub(memory) / (COUNT - 100);
        assert!(
            each <= 2 * KIB,
            "{each} bytes for each that has said something"
        );

        // Another is served meanwhile.
        let mut served = connect(&lp, listener, &server, 1);
        let mut served = served.pop().unwrap();
        served.write_all(b"hello").unwrap();
        assert_eq!(read_from_peer(&lp, &served, 5), b"hello");

        run_until(&lp, || server.closed.get() == server.accepted.get());
        drop(served);
        drop(stalled);
        drop(first);
        some_turns(&lp);
        assert!(descriptors() < descriptors_then, "descriptors are left");
    });
}

#[test]
fn those_who_never_read_cost_the_bound_of_their_queue_and_a_timeout() {
    const COUNT: usize = 200;
    const LIMIT: usize = 256 * KIB;
    let name = "those_who_never_read_cost_the_bound_of_their_queue_and_a_timeout";
    if !allow_descriptors(2 * COUNT as u64 + 100) {
        eprintln!(
            "left out: this process may not have {} descriptors",
            2 * COUNT
        );
        return;
    }
    on_each_driver_alone(name, |lp| {
        let _limit = TimeLimit::start(name.to_owned());
        let server = Server {
            write_timeout: Some(Duration::from_secs(5)),
            flood: Some(LIMIT),
            ..Server::default()
        };
        let listener = TcpListener::listen(&lp, "127.0.0.1:0".parse().unwrap(), server.clone());
        let listener = listener.unwrap();
        let (memory, held) = (private_memory(), held_memory());
        let clients = connect(&lp, listener, &server, COUNT);
        for client in &clients {
            SockRef::from(client).set_recv_buffer_size(4 * KIB).unwrap();
        }
        some_turns(&lp);
        let each = private_memory().saturating_sub(memory) / COUNT;
        // What stands in a queue is at most twice in memory: its last piece may have room left.
        assert!(each <= 2 * LIMIT, "{each} bytes for each");
        assert!(each >= LIMIT / 2, "{each} bytes: was there a queue?");
        run_until(&lp, || server.closed.get() == COUNT);
        drop(clients);
        let each = held_memory().saturating_sub(held) / COUNT;
        assert!(each <= KIB, "{each} bytes for each are not given back");
    });
}
